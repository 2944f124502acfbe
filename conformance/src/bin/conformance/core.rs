//! What runs on the partition's core: a case or the survey, by the loop that a partition has.
//!
//! The partition gets its work as bytes in its arguments ([`Work`]), and sends what came of it as
//! records of kind [`KIND_SAID`] over the event ring.

use core_runtime::clock::Instant;
use core_runtime::partition::{Partition, PartitionExit};
use host_bridge::Entry;
use host_bridge::sys::partition_memory::KeepsNothing;
use hybrid_conformance::Backend;
use hybrid_conformance::suite::{Cx, Verdict, cases};
use nvme_driver::{Controller, ControllerConfig, ControllerError, DeviceParts};

use crate::survey;

/// Kind of the records that carry text: a part of what the partition has to say, in order.
pub(crate) const KIND_SAID: u16 = 0x7F01;

/// Bytes of one such record.
const SAID_BYTES: usize = 4096;

/// Bytes of all of them; a panic's message could have any length.
const MOST_SAID: usize = 32 << 10;

/// How long something may keep us waiting: far above the driver's own deadlines.
const PATIENCE_NS: u64 = 60_000_000_000;

/// What a partition is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    /// The case's name; empty for the survey.
    pub(crate) case: String,
    pub(crate) seed: u64,
    pub(crate) scale: u64,
    pub(crate) nsid: Option<u32>,
    pub(crate) may_write: bool,
}

impl Work {
    /// As arguments of a partition.
    pub(crate) fn to_args(&self) -> Vec<u8> {
        let Self { case, seed, scale, nsid, may_write } = self;
        let nsid = nsid.unwrap_or(0);
        format!("{seed} {scale} {nsid} {} {case}", u8::from(*may_write)).into_bytes()
    }

    fn from_args(args: &[u8]) -> Option<Self> {
        let text = str::from_utf8(args).ok()?;
        let mut words = text.splitn(5, ' ');
        let mut number = || words.next()?.parse::<u64>().ok();
        let (seed, scale, nsid, may_write) = (number()?, number()?, number()?, number()?);
        let nsid = u32::try_from(nsid).ok()?;
        Some(Self {
            case: words.next()?.to_owned(),
            seed,
            scale,
            nsid: (nsid != 0).then_some(nsid),
            may_write: may_write != 0,
        })
    }
}

/// What a verdict looks like on its way to the host.
pub(crate) fn verdict_from(text: &str) -> Option<Verdict> {
    let (word, rest) = text.split_once(' ')?;
    match word {
        "passed" => Some(Verdict::Passed(rest.lines().map(str::to_owned).collect())),
        "failed" => Some(Verdict::Failed(rest.to_owned())),
        "skipped" => Some(Verdict::Skipped(rest.to_owned())),
        _ => None,
    }
}

fn verdict_to_text(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Passed(left_out) => format!("passed {}", left_out.join("\n")),
        Verdict::Failed(why) => format!("failed {why}"),
        Verdict::Skipped(why) => format!("skipped {why}"),
    }
}

/// The entry of every partition here.
pub(crate) fn entry() -> Entry {
    // SAFETY: `run` drops its rig and all futures before it returns; what it leaks lies in the
    // partition's own memory or is never looked at again, and no static of ours holds a reference.
    Entry::new("conformance", run).self_contained(unsafe { KeepsNothing::promise() })
}

fn run(partition: &'static Partition, device: Option<DeviceParts>) -> PartitionExit {
    let (Some(parts), Some(work)) = (device, Work::from_args(partition.args())) else {
        return PartitionExit::failed(1, format_args!("no device, or work that makes no sense"));
    };
    partition.enter_running();
    let core = Core { partition, parts };
    let said = if work.case.is_empty() {
        survey::run(&core, &work)
    } else {
        let case = cases().into_iter().find(|case| case.name == work.case);
        let Work { seed, scale, nsid, may_write, .. } = work;
        let cx = Cx { backend: &core, seed, scale, nsid, may_write };
        case.map_or(String::new(), |case| verdict_to_text(&case.run(&cx)))
    };
    partition.enter_stopping();
    let most = said.len().min(MOST_SAID);
    for part in said.as_bytes()[..most].chunks(SAID_BYTES) {
        if partition.events().write(KIND_SAID, 0, part).is_err() {
            return PartitionExit::failed(1, format_args!("the event ring is full"));
        }
    }
    PartitionExit::done()
}

/// The device of a partition.
pub(crate) struct Core {
    partition: &'static Partition,
    parts: DeviceParts,
}

impl Backend for Core {
    fn parts(&self) -> DeviceParts {
        self.parts
    }

    /// The rest of a partition's pass: tasks, heartbeat, telemetry, and what the host wants.
    fn pass(&self, idle: bool) {
        let now = self.partition.begin_pass();
        let tick = self.partition.scheduler().tick(now);
        if self.partition.end_pass(now, !idle || !tick.is_idle()) {
            self.partition.publish(now);
        }
        if let Some(reason) = self.partition.stop_requested() {
            panic!("the host asked to stop: {reason:?}");
        }
    }

    fn now(&self) -> Instant {
        self.partition.clock().now()
    }

    fn controller(&self, config: ControllerConfig) -> Result<&'static Controller, ControllerError> {
        Controller::new(self.parts, self.partition.bump(), config)
    }

    fn gives_up(&self, begun: Instant, _passes: u64) -> bool {
        let clock = self.partition.clock();
        clock.ticks_to_ns(clock.now().since(begun)) > PATIENCE_NS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_and_verdicts_cross_to_the_partition_and_back() {
        for nsid in [None, Some(7)] {
            let case = "random::blocks_of_512_bytes_hold_what_was_written".to_owned();
            let work = Work { case, seed: u64::MAX, scale: 3, nsid, may_write: true };
            assert_eq!(Work::from_args(&work.to_args()), Some(work));
        }
        assert_eq!(Work::from_args(b"1 2 x"), None);
        let two_lines = "block 7 is wrong\n and more".to_owned();
        for verdict in [
            Verdict::Passed(Vec::new()),
            Verdict::Passed(vec!["a row: why".to_owned(), "another: why".to_owned()]),
            Verdict::Failed(two_lines),
            Verdict::Skipped("no namespace of that kind".to_owned()),
        ] {
            assert_eq!(verdict_from(&verdict_to_text(&verdict)), Some(verdict));
        }
        assert_eq!(verdict_from(""), None);
    }
}
