//! What the operator asked for, checked against the machine.
//!
//! Flags go over drop-ins, drop-ins over `/etc/hybrid-runtime/machine.toml` ([`mod@file`]).
//! What comes out is a [`Config`]: sets of CPUs that exist, sizes and names that can be used as
//! they are.

pub(crate) mod file;

use std::collections::BTreeMap;

use clap::ValueEnum;
use hybrid_conventions::{Bdf, Bytes, CpuSet, Nanos};

use crate::failure::Failure;
use crate::machine::Machine;
use file::{Asked, HugePages};

/// Idle states that wake up slower than this are off on isolated CPUs.
const MAX_IDLE_LATENCY_US: u64 = 10;

/// Memory that DMA may lock where no huge pages say how much: a queue's worth and some.
const LEAST_MEMLOCK: u64 = 64 << 20;

/// What becomes of the hardware threads that share a core with an isolated one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Smt {
    /// Taken offline: nothing shares the core
    #[default]
    Off,
    /// Isolated too
    Isolate,
    /// Left to Linux: they share the core's units and caches with the partition
    Keep,
}

/// How isolated CPUs leave Linux's load balancing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Cpuset {
    /// `partition` where the boot parameters are not asked for, else `off`: isolcpus does it
    #[default]
    Auto,
    /// A control group of their own (v2: an isolated partition; v1: without load balancing)
    Partition,
    /// No control group
    Off,
}

/// Transparent huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Thp {
    /// Off: nothing moves pages behind a program's back
    #[default]
    Never,
    /// For programs that ask
    Madvise,
    /// As it is
    Keep,
}

/// The checked wishes of the operator.
#[derive(Clone, Debug, Default)]
pub(crate) struct Config {
    pub(crate) isolated: CpuSet,
    pub(crate) housekeeping: CpuSet,
    /// Hardware threads that go offline.
    pub(crate) off: CpuSet,
    pub(crate) cpuset: Cpuset,
    pub(crate) thp: Thp,
    pub(crate) max_idle_latency_us: u64,
    pub(crate) devices: Vec<Bdf>,
    /// Bind a disk although something is on it.
    pub(crate) force_in_use: bool,
    pub(crate) group: String,
    pub(crate) memlock_bytes: u64,
    /// Pages by size and node.
    pub(crate) huge: BTreeMap<(u64, u32), u64>,
    pub(crate) boot: bool,
    pub(crate) service: bool,
    /// What is written to machine.toml.d, if flags were given.
    pub(crate) kept: Option<String>,
}

impl Config {
    /// Checks what was asked against the machine.
    ///
    /// # Errors
    /// One line: what was seen, what is allowed, and the fix.
    pub(crate) fn new(machine: &Machine, asked: &Asked) -> Result<Self, Failure> {
        let mut isolated = asked.isolated_cores.map_or(CpuSet::EMPTY, |list| list.0);
        let smt = asked.smt.unwrap_or_default();
        check_isolated(machine, isolated)?;
        let siblings = machine.siblings(isolated);
        let off = match smt {
            Smt::Keep => CpuSet::EMPTY,
            Smt::Off | Smt::Isolate if siblings.contains(0) => {
                let rival = machine.core(0).intersection(isolated);
                return Err(Failure::error(format_args!(
                    "cpu {rival} shares a core with cpu 0, which stays Linux's: isolate another, \
                     or let them share with --smt keep"
                )));
            }
            Smt::Off => siblings,
            Smt::Isolate => {
                isolated = isolated.union(siblings);
                CpuSet::EMPTY
            }
        };
        let housekeeping = housekeeping(machine, asked, isolated, off)?;
        let huge = huge_pages(machine, asked)?;
        let memory: u64 = huge.iter().map(|((size, _), pages)| size.saturating_mul(*pages)).sum();
        Ok(Self {
            isolated,
            housekeeping,
            off,
            cpuset: asked.cpuset.unwrap_or_default(),
            thp: asked.thp.unwrap_or_default(),
            max_idle_latency_us: asked
                .max_idle_latency
                .map_or(MAX_IDLE_LATENCY_US, |Nanos(ns)| ns / 1000),
            devices: asked.devices.clone().unwrap_or_default(),
            force_in_use: false,
            group: group(asked)?,
            memlock_bytes: asked.memlock.map_or(memory.max(LEAST_MEMLOCK), |Bytes(bytes)| bytes),
            huge,
            boot: asked.boot.unwrap_or(true),
            service: asked.service.unwrap_or(true),
            kept: None,
        })
    }
}

/// CPUs that exist, are not CPU 0, and leave one to Linux.
fn check_isolated(machine: &Machine, isolated: CpuSet) -> Result<(), Failure> {
    let example = || {
        let last = machine.online.iter().last().unwrap_or(1);
        format!("for instance --isolated-cores {last}")
    };
    if isolated.contains(0) {
        return Err(Failure::error(format_args!(
            "isolated cores {isolated} include cpu 0, which Linux needs for itself; allowed are \
             {}, {}",
            machine.present.difference(CpuSet::first_n(1)),
            example()
        )));
    }
    let absent = isolated.difference(machine.present);
    if !absent.is_empty() {
        return Err(Failure::error(format_args!(
            "isolated cores {isolated} include cpu {absent}, which this machine does not have; it \
             has {}, {}",
            machine.present,
            example()
        )));
    }
    let off = isolated.difference(machine.online);
    if !off.is_empty() {
        let first = off.first().unwrap_or_default();
        return Err(Failure::error(format_args!(
            "isolated cores {isolated} include cpu {off}, which is offline; bring it up: \
             echo 1 > /sys/devices/system/cpu/cpu{first}/online"
        )));
    }
    Ok(())
}

/// The CPUs that Linux keeps: those that were asked for, or all that are left.
fn housekeeping(
    machine: &Machine,
    asked: &Asked,
    isolated: CpuSet,
    off: CpuSet,
) -> Result<CpuSet, Failure> {
    let left = isolated.union(off).complement(machine.online);
    let Some(wanted) = asked.housekeeping.map(|list| list.0) else {
        return Ok(left);
    };
    let both = wanted.intersection(isolated.union(off));
    if !both.is_empty() {
        return Err(Failure::error(format_args!(
            "cpu {both} is in housekeeping {wanted} and isolated or off as well; housekeeping may \
             be {left}"
        )));
    }
    let absent = wanted.difference(machine.online);
    if !absent.is_empty() || !wanted.contains(0) {
        return Err(Failure::error(format_args!(
            "housekeeping {wanted} must be online cpus, with cpu 0 among them; it may be {left}"
        )));
    }
    Ok(wanted)
}

fn huge_pages(machine: &Machine, asked: &Asked) -> Result<BTreeMap<(u64, u32), u64>, Failure> {
    let nodes: Vec<u32> = match machine.nodes.keys().copied().collect::<Vec<_>>() {
        none if none.is_empty() => vec![0],
        nodes => nodes,
    };
    let mut pages = BTreeMap::new();
    for HugePages { size, count, node } in asked.hugepages.iter().flatten() {
        let kib = size.get() >> 10;
        let pool = format!("/sys/kernel/mm/hugepages/hugepages-{kib}kB");
        if !machine.root.exists(&pool) {
            let sizes = machine.root.list("/sys/kernel/mm/hugepages").unwrap_or_default();
            return Err(Failure::missing(format_args!(
                "huge pages of {size} are not offered by this kernel and processor; it has: {}",
                sizes.join(", ")
            )));
        }
        match node {
            Some(node) if !nodes.contains(node) => {
                return Err(Failure::error(format_args!(
                    "huge pages on node {node} were asked for; this machine has node {}",
                    nodes.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
                )));
            }
            Some(node) => {
                pages.insert((size.get(), *node), *count);
            }
            // Evenly, the first nodes get what does not divide.
            None => {
                let (all, mut rest) = (nodes.len() as u64, count % nodes.len() as u64);
                for node in &nodes {
                    pages.insert((size.get(), *node), count / all + u64::from(rest > 0));
                    rest = rest.saturating_sub(1);
                }
            }
        }
    }
    Ok(pages)
}

fn group(asked: &Asked) -> Result<String, Failure> {
    let group = asked.group.clone().unwrap_or_else(|| "hybrid".to_owned());
    let ok = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if group.is_empty() || group.len() > 32 || !group.chars().all(ok) {
        return Err(Failure::error(format_args!(
            "group {group:?} is no group's name; allowed are letters, digits, - and _, at most 32"
        )));
    }
    Ok(group)
}
