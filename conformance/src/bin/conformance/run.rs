//! The host's side: a partition for the survey and for each case, and the lines about them.

use std::io::Write as _;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use core_runtime::partition::StopReason;
use host_bridge::sys::signals::{StopSignal, StopSignals};
use host_bridge::topology::Topology;
use host_bridge::{PartitionReport, PartitionSpec, Runtime, RuntimeError};
use hybrid_conformance::suite::{Case, Needs, Verdict, cases, watch_panics};
use hybrid_conventions::{CpuSet, DeviceSpec, Exit};

use crate::Failure;
use crate::cli::Cli;
use crate::core::{KIND_SAID, Work, entry, verdict_from};
use crate::device::Device;
use crate::survey::Survey;

/// DMA memory of a case: queues of 4,095 commands with a block each, or two transfers of 4 MiB.
const DMA_BYTES: usize = 48 << 20;

/// Private memory of a case: up to forty controllers, of which one has 4,095 slots.
const PRIVATE_BYTES: usize = 16 << 20;

/// A partition that is not done by then is asked to stop.
const CASE_LIMIT: Duration = Duration::from_secs(600);

/// What one that was asked to stop gets before the program gives up.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Counts of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Tally {
    const fn add(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Passed(_) => self.passed += 1,
            Verdict::Failed(_) => self.failed += 1,
            Verdict::Skipped(_) => self.skipped += 1,
        }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { passed, failed, skipped } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// Everything that `conformance` does.
pub(crate) fn all(cli: &Cli) -> Result<Exit, Failure> {
    let wanted = chosen(&cli.only)?;
    if cli.list {
        list(&wanted);
        return Ok(Exit::Ok);
    }
    watch_panics();
    let spec = DeviceSpec::parse(&cli.device).map_err(Failure::error)?;
    let mut host = Host {
        runtime: runtime(cli.core)?,
        device: if cli.own_server { Device::served(spec)? } else { Device::new(spec) },
        signals: StopSignals::install().map_err(Failure::error)?,
        hangs: false,
    };
    let mut work = Work {
        case: String::new(),
        seed: cli.seed,
        scale: cli.scale.unwrap_or(1),
        nsid: cli.namespace,
        may_write: cli.allow_writes || !host.device.needs_allow_writes(),
    };
    let survey = host.survey(&work, &cli.device)?;
    work.scale = cli.scale.unwrap_or(survey.scale);
    say(format_args!("device {}: {}", cli.device, survey.name));
    survey.namespaces.iter().for_each(|line| say(format_args!("  {line}")));
    say(format_args!("seed {}, operations divided by {}", work.seed, work.scale));
    say(format_args!("\nrunning {} tests", wanted.len()));
    let (tally, signal) = host.run(&wanted, &work);
    say(format_args!("\n{tally}"));
    Ok(match signal {
        Some(signal) => signal.exit(),
        None if tally.failed == 0 => Exit::Ok,
        None => Exit::Error,
    })
}

/// A line for whoever reads or parses; a reader that went away is no reason to stop half-way.
fn say(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn chosen(only: &[String]) -> Result<Vec<Case>, Failure> {
    let wants =
        |case: &Case| only.is_empty() || only.iter().any(|pattern| case.name.contains(pattern));
    let wanted: Vec<_> = cases().into_iter().filter(wants).collect();
    match wanted.is_empty() {
        true => Err(Failure::error(format!(
            "no case has {} in its name; `conformance --list` prints all",
            only.join(" or ")
        ))),
        false => Ok(wanted),
    }
}

fn list(cases: &[Case]) {
    for case in cases {
        let needs = match case.needs {
            needs if needs.contains(Needs::STALL) => ": writes, a device that can be stalled",
            needs if needs.contains(Needs::WRITES) => ": writes",
            _ => "",
        };
        say(format_args!("{}{needs}", case.name));
    }
}

fn runtime(core: Option<u32>) -> Result<Runtime, Failure> {
    let suggested = || Topology::read().suggested_core();
    let cores = match core.or_else(suggested) {
        Some(core) => CpuSet::single(core).map_err(Failure::error)?,
        // On a machine with one CPU the runtime says why not.
        None => CpuSet::first_n(1),
    };
    Runtime::new(cores).map_err(broken)
}

fn broken(error: RuntimeError) -> Failure {
    Failure::new(error.exit(), error)
}

struct Host<'a> {
    runtime: Runtime,
    device: Device<'a>,
    signals: StopSignals,
    /// A partition does not end.
    hangs: bool,
}

impl Host<'_> {
    fn survey(&mut self, work: &Work, device: &str) -> Result<Survey, Failure> {
        let (said, report) = self.partition(work)?;
        if let Some(signal) = self.signals.pending() {
            return Err(Failure::new(signal.exit(), "interrupted before the first case"));
        }
        if !report.exit.is_done() {
            return Err(Failure::error(format!("device {device}: {}", report.exit.text)));
        }
        let survey = Survey::parse(&said);
        match survey.refused {
            Some(why) => Err(Failure::error(format!("device {device}: {why}"))),
            None => Ok(survey),
        }
    }

    fn run(&mut self, wanted: &[Case], work: &Work) -> (Tally, Option<StopSignal>) {
        let mut tally = Tally::default();
        for case in wanted {
            let pardons = case.needs.contains(Needs::PARDON);
            let work = Work { case: case.name.to_owned(), ..work.clone() };
            let verdict = self.case(&work, pardons);
            if let Some(signal) = self.signals.pending() {
                return (tally, Some(signal));
            }
            say(format_args!("test {} ... {verdict}", case.name));
            if let Verdict::Failed(why) = &verdict {
                say(format_args!("    {}", why.trim_end().replace('\n', "\n    ")));
            }
            if let Verdict::Passed(left_out) = &verdict {
                left_out.iter().for_each(|line| say(format_args!("    left out: {line}")));
            }
            tally.add(&verdict);
            if self.hangs {
                break;
            }
        }
        (tally, None)
    }

    /// Runs a case; where it `pardons`, what the device says of its host is not held against it.
    fn case(&mut self, work: &Work, pardons: bool) -> Verdict {
        let (said, report) = match self.partition(work) {
            Ok(ended) => ended,
            Err(Failure { line, .. }) => return Verdict::Failed(line),
        };
        let device = report.device.as_ref();
        let complaints = device.map(|device| device.mistakes.as_slice()).unwrap_or_default();
        let problem = device.and_then(|device| device.problem.as_deref());
        match (verdict_from(&said), problem) {
            (None, _) => Verdict::Failed(format!("its partition ended: {}", report.exit.text)),
            (Some(failed @ Verdict::Failed(_)), _) => failed,
            (_, Some(problem)) => Verdict::Failed(format!("afterwards the device: {problem}")),
            (_, None) if !complaints.is_empty() && !pardons => {
                let complaints = complaints.join("\n");
                Verdict::Failed(format!("the device complains of its host:\n{complaints}"))
            }
            (Some(verdict), None) => verdict,
        }
    }

    /// Runs a partition to its end; what it said, and how it ended.
    fn partition(&mut self, work: &Work) -> Result<(String, PartitionReport), Failure> {
        let mut spec = PartitionSpec::new("conformance", entry());
        spec.isolation = host_bridge::Isolation::Thread;
        spec.args = work.to_args();
        spec.dma_bytes = DMA_BYTES;
        spec.private_bytes = PRIVATE_BYTES;
        spec.event_ring_bytes = 64 << 10;
        spec.device = Some(self.device.backend().map_err(RuntimeError::from).map_err(broken)?);
        let mut partition = self.runtime.spawn(spec).map_err(broken)?;
        let mut said = Vec::new();
        let begun = Instant::now();
        partition.wait(Duration::from_millis(2), |partition| {
            // A ring that its writer broke has nothing more to say; the exit does.
            let _ = partition.poll_events(64, |header, bytes| {
                if header.kind == KIND_SAID {
                    said.extend_from_slice(bytes);
                }
            });
            if self.signals.pending().is_some() {
                partition.request_stop(StopReason::Signal);
            } else if begun.elapsed() > CASE_LIMIT {
                partition.request_stop(StopReason::Finished);
            }
            match begun.elapsed() > CASE_LIMIT + STOP_LIMIT {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        // One that does not even stop keeps its core and its device: nothing can be run after it.
        let Ok(mut report) = partition.join_within(Duration::ZERO) else {
            self.hangs = true;
            let line = format!("it still ran after {} s", begun.elapsed().as_secs());
            return Err(Failure::error(line));
        };
        if let Some(device) = &mut report.device {
            self.device.returned(device);
        }
        Ok((String::from_utf8_lossy(&said).into_owned(), report))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_choose_cases_and_one_that_fits_none_is_an_error() {
        let only = ["random::".to_owned(), "again_and_again".to_owned()];
        let some = chosen(&only).expect("cases");
        assert!(some.len() > 2 && some.len() < cases().len());
        assert_eq!(chosen(&[]).expect("cases").len(), cases().len());
        let error = chosen(&["no-such".to_owned()]).expect_err("none");
        assert_eq!(error.exit, Exit::Error);
        assert!(error.line.starts_with("no case has no-such in its name"), "{}", error.line);
    }
}
