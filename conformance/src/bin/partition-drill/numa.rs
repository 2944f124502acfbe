//! Where memory lies, as the kernel tells it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use core_runtime::partition::{Partition, PartitionExit, StopReason, run_until_stopped};
use core_runtime::task::TaskOptions;
use host_bridge::affinity::pin_to;
use host_bridge::numa::strays;
use host_bridge::sys::mapping::Mapped;
use host_bridge::sys::numa::nodes_of;
use host_bridge::{Entry, PartitionHandle, PartitionMesh, Spread};
use nvme_driver::DeviceParts;

use crate::orders::{join_all, spec};
use crate::{Drill, Outcome};

const ONE_NODE: &str = "this machine has one numa node";

fn idle(partition: &'static Partition, _: Option<DeviceParts>) -> PartitionExit {
    let waiting = async move {
        let _ = partition.stopping().await;
        let seen = partition.table("prices").is_some_and(|table| table.load64(8) == Ok(42));
        partition.finish(match seen {
            true => PartitionExit::done(),
            false => PartitionExit::failed(1, format_args!("no table, or another one")),
        });
    };
    match partition.spawner().spawn(TaskOptions::normal("wait"), waiting) {
        Ok(task) => task.detach(),
        Err(error) => return PartitionExit::failed(1, format_args!("{error}")),
    }
    run_until_stopped(partition, ())
}

pub(crate) const IDLE: Entry = Entry::new("idle", idle);

const TABLE_BYTES: usize = 8 << 20;

/// Starts a waiting partition on each CPU, lets `look` look, and ends them.
fn with_all(
    drill: &Drill,
    look: impl FnOnce(&PartitionMesh, &[PartitionHandle]) -> Result<(), String>,
) -> Result<(), String> {
    let fill = |span: hybrid_shm::Span<'static>| {
        if let Ok(word) = span.word64(8) {
            word.store(42);
        }
    };
    let table = drill.runtime.table("prices", TABLE_BYTES, Spread::Interleaved, fill);
    let table = table.map_err(|error| error.to_string())?;
    let count = u32::try_from(drill.cpus.len()).unwrap_or(u32::MAX);
    let started = drill.runtime.spawn_all(count, 64 << 10, |index| {
        let mut spec = spec(format!("idle-{index}"), IDLE, Vec::new());
        spec.dma_bytes = 4 << 20;
        spec.tables = vec![table.clone()];
        spec
    });
    let (mesh, handles) = started.map_err(|error| error.to_string())?;
    let looked = mesh.ok_or_else(|| "no mesh".to_owned()).and_then(|mesh| look(&mesh, &handles));
    handles.iter().for_each(|handle| handle.request_stop(StopReason::Finished));
    let joined = join_all(handles);
    looked.and(joined)
}

fn nodes_of_cpus(drill: &Drill) -> Vec<u32> {
    drill.cpus.iter().filter_map(|cpu| drill.runtime.node_of(*cpu)).collect()
}

/// Pages by node of each mapping whose file has this name, from `/proc/self/numa_maps`.
fn numa_maps(name: &str) -> Vec<BTreeMap<u32, u64>> {
    let maps = std::fs::read_to_string("/proc/self/numa_maps").unwrap_or_default();
    let named = maps.lines().filter(|line| line.contains(name));
    let pages = |line: &str| {
        line.split(' ')
            .filter_map(|word| {
                let (node, pages) = word.strip_prefix('N')?.split_once('=')?;
                Some((node.parse().ok()?, pages.parse().ok()?))
            })
            .collect()
    };
    named.map(pages).collect()
}

/// Each partition's files lie on its core's node alone: the kernel's own words.
pub(crate) fn memory_of_the_core(drill: &Drill) -> Outcome {
    let nodes = nodes_of_cpus(drill);
    if nodes.is_empty() {
        return Outcome::Ignored(ONE_NODE.to_owned());
    }
    with_all(drill, |_, handles| {
        for name in ["hybrid-dma", "hybrid-partition"] {
            let mut seen: Vec<u32> = Vec::new();
            for pages in numa_maps(name) {
                match pages.keys().collect::<Vec<_>>()[..] {
                    // Of a partition that has ended: its pages were given back.
                    [] => {}
                    [node] => seen.push(*node),
                    _ => return Err(format!("{name} lies on {pages:?}")),
                }
            }
            seen.sort_unstable();
            seen.dedup();
            let mut wanted = nodes.clone();
            wanted.sort_unstable();
            wanted.dedup();
            if seen != wanted {
                return Err(format!("{name} lies on nodes {seen:?}, the cores on {wanted:?}"));
            }
        }
        let page = handles.first().map(|handle| handle.memory().dma_page);
        println!("note memory of {} partitions on nodes {nodes:?}, {page:?}", handles.len());
        Ok(())
    })
    .into()
}

/// A ring's slots lie in its producer's region.
pub(crate) fn rings_of_the_producer(drill: &Drill) -> Outcome {
    let nodes = nodes_of_cpus(drill);
    if nodes.is_empty() {
        return Outcome::Ignored(ONE_NODE.to_owned());
    }
    with_all(drill, |mesh, _| {
        for (node, region) in nodes.iter().zip(mesh.memory().regions()) {
            let sides = [(&region.writer.mapped, "writer"), (&region.reader, "reader")];
            for (mapped, side) in sides {
                match strays(mapped, *node) {
                    Some((0, _)) => {}
                    other => return Err(format!("{side} of node {node}: {other:?}")),
                }
            }
        }
        Ok(())
    })
    .into()
}

/// A table has as many pages on each node.
pub(crate) fn table_is_spread(drill: &Drill) -> Outcome {
    let nodes = drill.runtime.nodes().all().to_vec();
    if nodes.len() < 2 {
        return Outcome::Ignored(ONE_NODE.to_owned());
    }
    with_all(drill, |_, _| {
        let made = drill.runtime.table("spread", TABLE_BYTES, Spread::Interleaved, |_| {});
        let made = made.map_err(|error| error.to_string())?;
        let counts = count(&made.memory().writer.mapped)?;
        let pages: u64 = counts.values().sum();
        let even = pages / nodes.len() as u64;
        let fair = nodes
            .iter()
            .all(|node| counts.get(node).is_some_and(|count| count.abs_diff(even) <= 1));
        if fair { Ok(()) } else { Err(format!("{counts:?} of {pages} pages")) }
    })
    .into()
}

fn count(mapped: &Mapped) -> Result<BTreeMap<u32, u64>, String> {
    let nodes = nodes_of(mapped.base(), mapped.len(), mapped.page().bytes());
    let mut counts = BTreeMap::new();
    for node in nodes.map_err(|error| error.to_string())?.into_iter().flatten() {
        *counts.entry(node).or_insert(0) += 1;
    }
    Ok(counts)
}

/// Nanoseconds a dependent load over memory near `near`, from `cpu`.
fn chase(drill: &Drill, cpu: u32, near: u32) -> Result<f64, String> {
    const BYTES: usize = 32 << 20;
    const LOADS: u32 = 200_000;
    let lines = (BYTES / 128) as u64;
    let table = drill.runtime.table("chase", BYTES, Spread::Near(near), |span| {
        // Each line names the next one; the step is odd, so that all are visited.
        let mut at = 0_u64;
        for _ in 0..lines {
            let next = (at + 104_729) % lines;
            let place = usize::try_from(at * 128).unwrap_or(0);
            if let Ok(word) = span.word64(place) {
                word.store(next * 128);
            }
            at = next;
        }
    });
    let view = table.map_err(|error| error.to_string())?.view();
    let chase = move || -> Result<Duration, String> {
        pin_to(cpu).map_err(|error| error.to_string())?;
        let mut at = 0;
        let begun = Instant::now();
        for _ in 0..LOADS {
            let next = view.load64(at).map_err(|error| error.to_string())?;
            at = usize::try_from(next).unwrap_or(0);
        }
        Ok(begun.elapsed())
    };
    let took = std::thread::spawn(chase).join().map_err(|_| "the thread was lost")??;
    Ok(took.as_secs_f64() * 1e9 / f64::from(LOADS))
}

/// The same loads from one core over memory of its own node and of another one.
pub(crate) fn local_and_remote(drill: &Drill) -> Outcome {
    let here = drill.cpus[0];
    let own = drill.runtime.node_of(here);
    let away = |cpu: &&u32| drill.runtime.node_of(**cpu).is_some_and(|node| Some(node) != own);
    let Some(away) = drill.cpus.iter().find(away).copied() else {
        return Outcome::Ignored("the cpus are all on one numa node".to_owned());
    };
    let timed = chase(drill, here, here).and_then(|local| Ok((local, chase(drill, here, away)?)));
    match timed {
        Ok((local, remote)) => {
            println!(
                "note dependent loads from cpu {here}: local {local:.0} ns, remote {remote:.0} ns, \
                 ratio {:.2} ({})",
                remote / local,
                drill.machine
            );
            Outcome::Passed
        }
        Err(error) => Outcome::Failed(error),
    }
}
