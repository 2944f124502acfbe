//! A running partition's ring, followed from outside: for `trace record` and `trace follow`.
//!
//! The region comes read-only over the host's control socket and is read by `pread`: nothing here
//! can disturb the partition. Probes are switched by the host, asked over the same socket, and
//! switched back at the end.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hybrid_abi::probe::file::{CHUNK_RECORDS, TraceHeader};
use hybrid_abi::probe::view::{Memory, RingView};
use hybrid_abi::probe::{ProbeRecord, parse_groups};
use hybrid_abi::region::PartKind;
use serde_json::json;

use super::dictionary::{build_id, hex, is_build};
use super::follow_ring::{Following, Look};
use super::parse_time;
use crate::hosts::{RegionFile, Target, Which};
use crate::stop::Stop;

/// How long it sleeps when there was nothing.
const LOOK: Duration = Duration::from_millis(1);

/// How often it looks whether the host still runs.
const ALIVE: Duration = Duration::from_millis(200);

/// Which partition is followed, and for how long.
#[derive(Debug, clap::Args)]
pub(super) struct Source {
    #[command(flatten)]
    which: Which,
    /// Probes to switch on meanwhile: all, none, driver, sched, ... each with an optional :error,
    /// :info, :debug or :trace [default: those that are on]
    #[arg(long, value_name = "GROUPS", value_parser = check_groups)]
    groups: Option<String>,
    /// For so long [default: until Ctrl-C, or the partition's end]
    #[arg(long = "for", value_name = "TIME", value_parser = parse_time)]
    time: Option<Duration>,
    /// The program that runs, if it was moved [default: /proc/PID/exe of the host]
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

fn check_groups(text: &str) -> Result<String, String> {
    parse_groups(text).map(|_| text.to_owned()).map_err(|no| no.to_string())
}

/// Who takes what was read.
pub(super) trait Taker {
    /// The tasks' names, as they are from now on.
    fn names(&mut self, names: Vec<u8>) -> Result<()>;
    /// The records of one look, and what is not among them.
    fn records(&mut self, look: Look, records: &[ProbeRecord]) -> Result<()>;
}

/// A part of a region that is read from a file.
struct Part<'a> {
    region: &'a RegionFile,
    offset: u64,
}

impl Memory for Part<'_> {
    fn load64(&self, offset: usize) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(offset, &mut bytes).then(|| u64::from_le_bytes(bytes))
    }

    fn read(&self, offset: usize, into: &mut [u8]) -> bool {
        self.region.read_at(into, self.offset + offset as u64).is_ok()
    }
}

impl Source {
    /// Finds the partition, switches its probes while `work` goes on, and switches them back.
    ///
    /// # Errors
    /// If no such partition runs, or its program is another one.
    pub(super) fn with<T>(
        &self,
        work: impl FnOnce(&Target, &Path, &Stop) -> Result<T>,
    ) -> Result<T> {
        let targets = self.which.some_partitions()?;
        let [target] = targets.as_slice() else {
            let names: Vec<_> = targets.iter().map(|target| target.name.as_str()).collect();
            let (count, names) = (targets.len(), names.join(", "));
            bail!("{count} partitions run ({names}): name one by --partition");
        };
        let stop = Stop::install().context("signal handlers")?;
        let program = self.program(target)?;
        let before = self.groups.as_ref().map(|groups| self.switch(target, groups)).transpose()?;
        let done = work(target, &program, &stop);
        if let Some(before) = before {
            // If the partition has ended there is nobody to be told.
            let params = json!({ "partition": target.name, "mask": before });
            let _ = self.which.call(target.host, "probe_set_groups", &params);
        }
        done
    }

    /// Follows the ring until the time is over, a signal came, or the partition has ended.
    pub(super) fn take(&self, target: &Target, stop: &Stop, taker: &mut impl Taker) -> Result<()> {
        let region = &target.region;
        let (offset, len) = region
            .place(PartKind::PROBE, "probes")
            .context("the partition has no probes: its program is too old")?;
        let part = Part { region, offset };
        let view = RingView::new(&part, len)?;
        let mut following = Following::begin(view, &part);
        let mut records = vec![ProbeRecord::default(); CHUNK_RECORDS];
        let (begun, mut looked, mut names) = (Instant::now(), Instant::now(), Vec::new());
        loop {
            let over = self.time.is_some_and(|time| begun.elapsed() >= time);
            let ending = over || stop.exit().is_some() || gone(target, &mut looked);
            let look = following.look(&part, &mut records);
            // After the ring: whatever is in it has its name by now.
            let now = region.read_part(PartKind::TASK_NAMES, "task-names").unwrap_or_default();
            if now != names {
                names.clone_from(&now);
                taker.names(now)?;
            }
            taker.records(look, &records)?;
            if ending {
                return Ok(());
            }
            if look.seen.count == 0 {
                std::thread::sleep(LOOK);
            }
        }
    }

    /// The program's file, which must be the build that runs.
    fn program(&self, target: &Target) -> Result<PathBuf> {
        let running = PathBuf::from(format!("/proc/{}/exe", target.host));
        let program = self.binary.clone().unwrap_or(running);
        let (found, wanted) = (build_id(&program)?, &target.region.header().build_id);
        if !is_build(&found, wanted) {
            bail!(
                "{} is build {}, the partition runs build {}: name its program by --binary \
                 (`ls -l /proc/{}/exe` says where it was; `readelf -n FILE` shows a build id)",
                program.display(),
                hex(&found),
                hex(wanted),
                target.host
            );
        }
        Ok(program)
    }

    /// Switches probes on; those that were on before.
    fn switch(&self, target: &Target, groups: &str) -> Result<u64> {
        let params = json!({ "partition": target.name, "groups": groups });
        let told = self.which.call(target.host, "probe_set_groups", &params)?;
        told["before"].as_u64().context("the host did not say which probes were on")
    }
}

/// What a trace of it begins with.
pub(super) fn header(target: &Target) -> TraceHeader {
    TraceHeader::blank().of(target.region.header(), &target.name)
}

/// Whether the host has gone.
fn gone(target: &Target, looked: &mut Instant) -> bool {
    if looked.elapsed() < ALIVE {
        return false;
    }
    *looked = Instant::now();
    let pid = target.pid.unwrap_or(target.host);
    !Path::new(&format!("/proc/{pid}")).exists()
}
