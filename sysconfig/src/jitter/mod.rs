//! `sysconfig jitter`: how quiet a core really is, and who disturbs it.
//!
//! A spinner on each CPU looks at the time-stamp counter and counts the gaps ([`spinner`]); the
//! kernel's counters and, when asked, its trace say who caused them ([`witness`], [`trace`]).
//! `verify` runs the same engine ([`run::run`]) for a few seconds.

mod clock;
mod counters;
mod histogram;
mod progress;
pub(crate) mod report;
pub(crate) mod run;
mod spinner;
mod tasks;
mod trace;
pub(crate) mod witness;

use clap::Args;
use hybrid_conventions::{CpuSet, Exit, Nanos, TimeUnit};

use crate::failure::Failure;
use crate::output;
use crate::root::Root;
use crate::sys::signals::StopSignals;
use progress::ProgressLine;
use run::{Plan, RunError, run};

/// The command line of `jitter`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Exit codes: 0 passed, 1 error, 2 threshold exceeded, 3 something is \
    missing, 130 interrupted, 143 terminated (with the results so far).\n\n\
    Examples:\n  \
      sysconfig jitter -c 1 -d 10s\n  \
      sysconfig jitter -c 2-5,8 -d 10m -T 5us --json > jitter.json\n  \
      sysconfig jitter -c 3 -T 20us --stop --trace    # what was the first gap over 20 us?")]
pub(crate) struct JitterArgs {
    /// CPUs to measure: 2-5,8 or 0x3c [default: the isolated ones]
    #[arg(short, long, value_name = "CPUS")]
    cpus: Option<CpuSet>,
    /// How long: 500ms, 10s, 10m (a bare number is seconds)
    #[arg(short, long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    duration: Nanos,
    /// Exit with 2 if a gap is longer: 5us (a bare number is microseconds)
    #[arg(short = 'T', long, value_name = "TIME", value_parser = threshold)]
    threshold: Option<Nanos>,
    /// Stop at the first gap over the threshold
    #[arg(short, long, requires = "threshold")]
    stop: bool,
    /// Run the spinners under SCHED_FIFO with this priority, 1 to 98 (as root). Refused while the
    /// kernel throttles real-time threads, and where no CPU is left for others
    #[arg(short = 'P', long, value_name = "PRIO",
          value_parser = clap::value_parser!(u8).range(1..=98))]
    rt_priority: Option<u8>,
    /// Name what lies within the largest gaps, from the kernel's trace (as root; costs the measured
    /// cores a little at each event)
    #[arg(short, long)]
    trace: bool,
    /// Do not warn that the time-stamp counter is not invariant
    #[arg(long)]
    trust_tsc: bool,
    /// Print JSON (schema sysconfig-jitter/1)
    #[arg(long)]
    json: bool,
    /// No progress line
    #[arg(short, long)]
    quiet: bool,
}

fn duration(text: &str) -> Result<Nanos, String> {
    let time = Nanos::parse(text, TimeUnit::Second).map_err(|error| error.to_string())?;
    let (least, most) = (Nanos(1_000_000), Nanos(7 * TimeUnit::Day.nanos()));
    let fits = (least..=most).contains(&time);
    if fits { Ok(time) } else { Err(format!("{text} is not between {least} and {most}")) }
}

fn threshold(text: &str) -> Result<Nanos, String> {
    let time = Nanos::parse(text, TimeUnit::Micro).map_err(|error| error.to_string())?;
    let fits = time.get() >= 100;
    if fits {
        Ok(time)
    } else {
        Err(format!("{text} is below 100ns, what a look at the clock costs"))
    }
}

/// Measures and prints.
pub(crate) fn command(root: &Root, args: &JitterArgs) -> Result<Exit, Failure> {
    let plan = Plan {
        cpus: cpus(root, args.cpus)?,
        duration_ns: args.duration.get(),
        threshold_ns: args.threshold.map(Nanos::get),
        stop_on_threshold: args.stop,
        rt_priority: args.rt_priority,
        trace: args.trace,
        trust_tsc: args.trust_tsc,
    };
    if plan.rt_priority.is_some() {
        may_be_fifo(root, plan.cpus)?;
    }
    let signals =
        StopSignals::install().map_err(|error| Failure::error(format_args!("signals: {error}")))?;
    let mut progress = ProgressLine::new(args.quiet, plan.duration_ns);
    let result = run(root, &plan, &|| signals.pending(), &mut |done| progress.show(done));
    progress.clear();
    let report = result.map_err(Failure::from)?;
    for warning in &report.warnings {
        output::note(format_args!("warning: {warning}"));
    }
    if args.json {
        output::result(report.json().map_err(Failure::error)?)?;
    } else {
        output::result(&report)?;
    }
    Ok(match signals.exit() {
        Some(exit) => exit,
        None if report.passed => Exit::Ok,
        None => Exit::Threshold,
    })
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        match &error {
            RunError::Trace(trace) if trace.is_missing() => Self::missing(error),
            _ => Self::error(error),
        }
    }
}

/// The CPUs that were asked for, or the isolated ones.
fn cpus(root: &Root, asked: Option<CpuSet>) -> Result<CpuSet, Failure> {
    let set = |file: &str| -> CpuSet {
        let text = root.read(format!("/sys/devices/system/cpu/{file}")).unwrap_or_default();
        text.trim().parse().unwrap_or(CpuSet::EMPTY)
    };
    let (online, isolated) = (set("online"), set("isolated"));
    let Some(asked) = asked else {
        if isolated.is_empty() {
            return Err(Failure::missing(format_args!(
                "no CPU is isolated, so none is measured by default: name one of {online}, for \
                 instance -c {}; sysconfig apply isolates CPUs",
                online.iter().last().unwrap_or(0)
            )));
        }
        return Ok(isolated);
    };
    if asked.is_empty() {
        return Err(Failure::error("--cpus names no CPU"));
    }
    let absent = asked.difference(online);
    if !absent.is_empty() {
        return Err(Failure::error(format_args!("--cpus names {absent}, and online are {online}")));
    }
    Ok(asked)
}

/// A spinner under SCHED_FIFO that is throttled measures the throttle; one on each CPU stops the
/// machine.
fn may_be_fifo(root: &Root, cpus: CpuSet) -> Result<(), Failure> {
    let read = |file: &str| root.read(file).unwrap_or_default().trim().to_owned();
    let runtime = read("/proc/sys/kernel/sched_rt_runtime_us");
    if runtime != "-1" {
        let period = read("/proc/sys/kernel/sched_rt_period_us");
        return Err(Failure::error(format_args!(
            "--rt-priority: the kernel throttles real-time threads (sched_rt_runtime_us is \
             {runtime} of {period}): the spinner would measure its own pauses; sysctl \
             kernel.sched_rt_runtime_us=-1 ends that"
        )));
    }
    let online: CpuSet = read("/sys/devices/system/cpu/online").parse().unwrap_or(CpuSet::EMPTY);
    if online.difference(cpus).is_empty() {
        return Err(Failure::error(format_args!(
            "--rt-priority on all CPUs ({online}) would stop the machine: leave one out of --cpus"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().expect("a folder");
        let root = Root::at(folder.path());
        for (path, text) in files {
            let path = root.path(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        (folder, root)
    }

    const ONLINE: (&str, &str) = ("/sys/devices/system/cpu/online", "0-3\n");

    #[test]
    fn the_isolated_cpus_are_the_default_and_absent_ones_are_refused() {
        let (_folder, root) = tree(&[ONLINE, ("/sys/devices/system/cpu/isolated", "2-3\n")]);
        let set = |text: &str| text.parse::<CpuSet>().expect("a set");
        assert_eq!(cpus(&root, None).expect("isolated"), set("2-3"));
        assert_eq!(cpus(&root, Some(set("0,1"))).expect("online"), set("0-1"));
        let error = cpus(&root, Some(set("3-5"))).expect_err("4 and 5 are absent");
        assert_eq!(
            (error.exit, error.line.as_str()),
            (Exit::Error, "--cpus names 4-5, and online are 0-3")
        );
        let (_folder, root) = tree(&[ONLINE, ("/sys/devices/system/cpu/isolated", "\n")]);
        let error = cpus(&root, None).expect_err("none is isolated");
        assert_eq!(error.exit, Exit::Missing);
        assert!(error.line.contains("-c 3"), "{}", error.line);
    }

    #[test]
    fn real_time_spinners_need_an_unthrottled_kernel_and_a_spare_cpu() {
        let runtime = "/proc/sys/kernel/sched_rt_runtime_us";
        let period = ("/proc/sys/kernel/sched_rt_period_us", "1000000\n");
        let set = |text: &str| text.parse::<CpuSet>().expect("a set");
        let (_folder, root) = tree(&[ONLINE, period, (runtime, "950000\n")]);
        let error = may_be_fifo(&root, set("1")).expect_err("throttled");
        assert!(error.line.contains("950000 of 1000000"), "{}", error.line);
        let (_folder, root) = tree(&[ONLINE, period, (runtime, "-1\n")]);
        assert!(may_be_fifo(&root, set("1-3")).is_ok());
        assert!(may_be_fifo(&root, set("0-3")).is_err());
    }

    #[test]
    fn times_have_units_and_limits() {
        assert_eq!(duration("10"), Ok(Nanos(10_000_000_000)));
        assert_eq!(duration("10m"), Ok(Nanos(600_000_000_000)));
        assert_eq!(threshold("5"), Ok(Nanos(5_000)));
        for bad in ["0", "8d", "x", "-1s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(threshold("99ns").is_err());
    }

    #[test]
    fn a_real_core_is_measured() {
        let root = Root::at("/");
        let online = root.read("/sys/devices/system/cpu/online").expect("Linux");
        let online: CpuSet = online.trim().parse().expect("a set");
        let cpu = online.iter().last().expect("we run on one");
        let plan = Plan {
            cpus: CpuSet::single(cpu).expect("small"),
            duration_ns: 200_000_000,
            threshold_ns: Some(10_000_000_000),
            stop_on_threshold: false,
            rt_priority: None,
            trace: false,
            trust_tsc: false,
        };
        let mut looks = 0;
        let report = run(&root, &plan, &|| false, &mut |_| looks += 1).expect("it measures");
        assert!(report.passed && looks > 0 && report.cpus.len() == 1);
        let core = &report.cpus[0];
        assert_eq!(core.cpu, cpu);
        assert!(core.samples > 1_000, "{}", core.samples);
        assert!(core.spun_ns >= 199_000_000, "{}", core.spun_ns);
        assert!(core.min_ns <= core.p50_ns && core.p50_ns <= core.p99_ns);
        assert!(core.p99_ns <= core.p999_ns && core.p999_ns <= core.max_ns);
        assert_eq!(core.histogram.iter().map(|bucket| bucket.count).sum::<u64>(), core.samples);
        assert_eq!(core.worst.first().map(|worst| worst.ns), Some(core.max_ns));
        assert!(core.involuntary_switches.is_some());
    }

    #[test]
    fn a_stopped_measurement_reports_what_it_has() {
        let root = Root::at("/");
        let plan = Plan {
            cpus: CpuSet::single(0).expect("small"),
            duration_ns: 3_600_000_000_000,
            threshold_ns: None,
            stop_on_threshold: false,
            rt_priority: None,
            trace: false,
            trust_tsc: true,
        };
        let looks = std::cell::Cell::new(0);
        let stopped = || {
            looks.set(looks.get() + 1);
            looks.get() > 2
        };
        let report = run(&root, &plan, &stopped, &mut |_| ()).expect("it measures");
        assert!(report.interrupted);
        assert!(report.measured_ns < plan.duration_ns);
    }
}
