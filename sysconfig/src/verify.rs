//! `verify`: compares the machine with what was asked, and then measures whether it is quiet.
//!
//! A setting that reads back proves that it was written. Whether the core is left alone is
//! measured: the engine of `jitter` spins on it for seconds and names who came.

use std::fmt::Write as _;

use clap::Args;
use hybrid_conventions::{Exit, Nanos, TimeUnit};
use serde_json::{Value, json};

use crate::command::{self, Prepared, What};
use crate::engine::Verdict;
use crate::failure::Failure;
use crate::jitter::report::Report;
use crate::jitter::run::{self, RunError, run};
use crate::journal::Journal;
use crate::machine::Machine;
use crate::root::Root;
use crate::sys::signals::StopSignals;
use crate::{output, report, settings};

/// The kernel log is long; only its last part is looked at.
const DMESG: &str = "dmesg";

/// `verify`.
#[derive(Args, Clone, Debug)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    what: What,
    /// How long to measure the isolated CPUs: 500ms, 5s, 1m (a bare number is seconds)
    #[arg(short, long, value_name = "TIME", default_value = "2s", value_parser = duration,
          help_heading = "Measurement")]
    duration: Nanos,
    /// Exit with 2 if a gap is longer: 5us (a bare number is microseconds)
    #[arg(short = 'T', long, value_name = "TIME", value_parser = threshold,
          help_heading = "Measurement")]
    threshold: Option<Nanos>,
    /// Compare only
    #[arg(long, help_heading = "Measurement")]
    no_measure: bool,
    /// Do not warn that the time-stamp counter is not invariant
    #[arg(long, help_heading = "Measurement")]
    trust_tsc: bool,
}

fn duration(text: &str) -> Result<Nanos, String> {
    let time = Nanos::parse(text, TimeUnit::Second).map_err(|error| error.to_string())?;
    let fits = (Nanos(10_000_000)..=Nanos(TimeUnit::Hour.nanos())).contains(&time);
    if fits { Ok(time) } else { Err(format!("{text} is not between 10ms and 1h")) }
}

fn threshold(text: &str) -> Result<Nanos, String> {
    Nanos::parse(text, TimeUnit::Micro).map_err(|error| error.to_string())
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) what: String,
    pub(crate) is: Judgement,
    pub(crate) line: String,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    Ok,
    /// Worth knowing; no failure.
    Note,
    /// Not as asked: exit code 1.
    Differs,
    /// Not there: exit code 3.
    Missing,
    /// Measured, and over the threshold: exit code 2.
    Exceeded,
}

impl Judgement {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Differs => "DIFFERS",
            Self::Missing => "MISSING",
            Self::Exceeded => "EXCEEDED",
        }
    }
}

/// What a failure with this exit code is among the findings.
fn judgement(exit: Exit) -> Judgement {
    if exit == Exit::Missing { Judgement::Missing } else { Judgement::Differs }
}

fn finding(what: impl Into<String>, is: Judgement, line: impl Into<String>) -> Finding {
    Finding { what: what.into(), is, line: line.into() }
}

/// Compares, measures, prints, and exits with what it found.
pub(crate) fn command(args: &VerifyArgs) -> Result<Exit, Failure> {
    let root = Root::at(&args.what.place.root);
    let prepared = command::look_at(&root, &args.what, Journal::read(&root)?)?;
    command::needs_wishes(&prepared)?;
    let mut findings = compare(&prepared);
    findings.extend(checks(&prepared));
    let signals =
        StopSignals::install().map_err(|error| Failure::error(format_args!("signals: {error}")))?;
    let measured = measure(args, &prepared, signals, &mut findings);
    let text = if args.what.place.json {
        json_text(&findings, measured.as_ref())?
    } else {
        text(&findings, measured.as_ref())
    };
    output::result(text)?;
    Ok(signals.exit().unwrap_or_else(|| exit(&findings)))
}

/// The gravest: what differs, then what is missing, then what was measured.
fn exit(findings: &[Finding]) -> Exit {
    let any = |is: Judgement| findings.iter().any(|finding| finding.is == is);
    match () {
        () if any(Judgement::Differs) => Exit::Error,
        () if any(Judgement::Missing) => Exit::Missing,
        () if any(Judgement::Exceeded) => Exit::Threshold,
        () => Exit::Ok,
    }
}

/// Each setting against its wishes.
pub(crate) fn compare(prepared: &Prepared) -> Vec<Finding> {
    let mut findings = Vec::new();
    for steps in prepared.plan.steps.chunk_by(|a, b| a.setting == b.setting) {
        let name = steps[0].setting;
        let met = steps.iter().filter(|step| step.verdict == Verdict::Met).count();
        let mut differs = 0;
        for step in steps {
            let (place, now, wanted) = (&step.wish.place, &step.now, &step.wish.wanted);
            match &step.verdict {
                Verdict::Met => {}
                // It is told below.
                Verdict::Fixed(reason) if prepared.plan.failure(reason).is_some() => differs += 1,
                Verdict::Fixed(reason) => {
                    findings.push(finding(name, Judgement::Note, format!("{place}: {reason}")));
                }
                Verdict::Change => {
                    differs += 1;
                    let line = format!("{place} is {now}, {wanted} was asked for");
                    findings.push(finding(name, Judgement::Differs, line));
                }
            }
        }
        if differs == 0 {
            findings.push(finding(name, Judgement::Ok, format!("{met} as asked")));
        }
    }
    for (name, failure) in &prepared.plan.failed {
        findings.push(finding(*name, judgement(failure.exit), failure.line.as_str()));
    }
    findings
}

/// What no single place says: the boot, the IOMMU, shared cores, throttling, pages that can be had.
pub(crate) fn checks(prepared: &Prepared) -> Vec<Finding> {
    let Prepared { machine, config, .. } = prepared;
    let mut findings = Vec::new();
    let missing = settings::wanted_words(machine, config);
    if config.boot {
        findings.push(if missing.is_empty() {
            finding("boot", Judgement::Ok, "the kernel was started with all parameters")
        } else {
            let line = format!("reboot: the kernel was started without {}", missing.join(" "));
            finding("boot", Judgement::Missing, line)
        });
    }
    let unquiet = config.isolated.difference(machine.nohz_full);
    if !unquiet.is_empty() {
        let line = format!("cpus {unquiet} keep their tick: nohz_full={} at boot", config.isolated);
        findings.push(finding("tick", Judgement::Note, line));
    }
    let siblings = machine.siblings(config.isolated).intersection(machine.online);
    findings.push(if siblings.is_empty() {
        finding("cores", Judgement::Ok, "no isolated cpu shares its core with an online one")
    } else {
        let line = format!("cpus {siblings} share cores with isolated ones (--smt off)");
        finding("cores", Judgement::Note, line)
    });
    findings.extend(iommu(machine, !config.devices.is_empty()));
    let throttle = machine.root.text("/proc/sys/kernel/sched_rt_runtime_us").unwrap_or_default();
    findings.push(match throttle.as_str() {
        "-1" => finding("throttling", Judgement::Ok, "real-time threads are not throttled"),
        us => finding(
            "throttling",
            Judgement::Note,
            format!("sched_rt_runtime_us is {us}: counts only for partitions under SCHED_FIFO"),
        ),
    });
    if machine.root.is_live() && !config.huge.is_empty() {
        findings.push(match settings::try_pages(machine, config) {
            Ok(tried) => finding("huge pages", Judgement::Ok, tried.join(", ")),
            Err(failure) => finding("huge pages", Judgement::Missing, failure.line),
        });
    }
    findings
}

/// The IOMMU three ways: what the kernel logged, the groups it made, and the reserved IOVA ranges
/// that a group has only behind a working one.
fn iommu(machine: &Machine, needed: bool) -> Vec<Finding> {
    let root = &machine.root;
    let failed = if needed { Judgement::Missing } else { Judgement::Note };
    let mut findings = Vec::new();
    let groups = root.numbered("/sys/kernel/iommu_groups", "");
    findings.push(if groups.is_empty() {
        let line = "no IOMMU group: switch VT-d or AMD-Vi on in the firmware, and boot with \
                    intel_iommu=on (sysconfig apply writes that)";
        finding("iommu groups", failed, line)
    } else {
        finding("iommu groups", Judgement::Ok, format!("{} groups", groups.len()))
    });
    let ranges = groups.iter().filter(|group| {
        let path = format!("/sys/kernel/iommu_groups/{group}/reserved_regions");
        root.text(path).is_some_and(|text| text.contains("msi"))
    });
    let with_ranges = ranges.count();
    if !groups.is_empty() {
        let line = format!("{with_ranges} of {} groups reserve the MSI window", groups.len());
        let is = if with_ranges > 0 { Judgement::Ok } else { failed };
        findings.push(finding("iommu ranges", is, line));
    }
    if root.is_live() {
        findings.push(log_line(failed));
    }
    findings
}

/// What the kernel said of the IOMMU when it started, if its log still has it.
fn log_line(failed: Judgement) -> Finding {
    let output = std::process::Command::new(DMESG).output();
    let Some(log) = output.ok().filter(|output| output.status.success()) else {
        return finding("iommu log", Judgement::Note, "the kernel's log can't be read (as root?)");
    };
    let log = String::from_utf8_lossy(&log.stdout).into_owned();
    let says = |line: &&str| {
        let ours = line.contains("DMAR") || line.contains("AMD-Vi");
        ours && (line.contains("enabled")
            || line.contains("Found IOMMU")
            || line.contains("IOMMU "))
    };
    match log.lines().find(says) {
        Some(line) => finding("iommu log", Judgement::Ok, line.trim()),
        // A ring buffer forgets: only with a beginning does silence mean something.
        None if !log.contains("Linux version") => {
            finding("iommu log", Judgement::Note, "the kernel's log no longer has its beginning")
        }
        None => finding("iommu log", failed, "no DMAR or AMD-Vi line in the kernel's log"),
    }
}

/// Spins on the isolated CPUs, unless told not to.
fn measure(
    args: &VerifyArgs,
    prepared: &Prepared,
    signals: StopSignals,
    findings: &mut Vec<Finding>,
) -> Option<Report> {
    let Prepared { machine, config, .. } = prepared;
    let cpus = config.isolated.intersection(machine.online);
    if args.no_measure || cpus.is_empty() || !machine.root.is_live() {
        return None;
    }
    let plan = run::Plan {
        cpus,
        duration_ns: args.duration.get(),
        threshold_ns: args.threshold.map(Nanos::get),
        stop_on_threshold: false,
        rt_priority: None,
        trace: false,
        trust_tsc: args.trust_tsc,
    };
    let report = match run(&machine.root, &plan, &|| signals.pending(), &mut |_| ()) {
        Ok(report) => report,
        Err(error) => {
            findings.push(not_measured(error));
            return None;
        }
    };
    for cpu in &report.cpus {
        let line =
            format!("cpu {}: longest gap {}", cpu.cpu, hybrid_conventions::HumanNanos(cpu.max_ns));
        let over = args.threshold.is_some_and(|threshold| cpu.max_ns > threshold.get());
        let is = if over { Judgement::Exceeded } else { Judgement::Ok };
        findings.push(finding("quiet", is, line));
    }
    Some(report)
}

/// The comparison is told all the same. The kernel refuses CPUs outside our own control group.
fn not_measured(error: RunError) -> Finding {
    if let RunError::Thread { cpu, error, .. } = &error
        && error.raw_os_error() == Some(libc::EINVAL)
    {
        let line = format!(
            "not measured: cpu {cpu} is not this control group's; run it inside the partition's \
             (sysconfig/scripts/hybrid-shell sysconfig verify), or leave it out: --no-measure"
        );
        return finding("quiet", Judgement::Missing, line);
    }
    let failure = Failure::from(error);
    finding("quiet", judgement(failure.exit), format!("not measured: {}", failure.line))
}

fn text(findings: &[Finding], measured: Option<&Report>) -> String {
    let wide = |of: fn(&Finding) -> usize| findings.iter().map(of).max().unwrap_or(0);
    let (word, what) = (wide(|f| f.is.word().len()), wide(|f| f.what.len()));
    let mut out = String::new();
    for Finding { what: name, is, line } in findings {
        let _ = writeln!(out, "{:word$}  {name:what$}  {line}", is.word());
    }
    if let Some(report) = measured {
        let _ = write!(out, "\n{report}");
    }
    let bad = |is: Judgement| findings.iter().filter(|finding| finding.is == is).count();
    let (differs, missing) = (bad(Judgement::Differs), bad(Judgement::Missing));
    let exceeded = bad(Judgement::Exceeded);
    let _ = match differs + missing + exceeded {
        0 => writeln!(out, "\nverify: as asked"),
        _ => writeln!(
            out,
            "\nverify: {differs} differ, {missing} missing, {exceeded} over the threshold; \
             sysconfig plan shows what apply would change"
        ),
    };
    out
}

fn json_text(findings: &[Finding], measured: Option<&Report>) -> Result<String, Failure> {
    let findings: Vec<Value> = findings
        .iter()
        .map(|f| json!({"what": f.what, "is": f.is.word().to_lowercase(), "line": f.line}))
        .collect();
    let measured: Option<Value> = match measured {
        None => None,
        Some(report) => {
            let text = report.json().map_err(Failure::error)?;
            Some(serde_json::from_str(&text).map_err(Failure::error)?)
        }
    };
    report::pretty(&json!({
        "schema": "sysconfig-verify/1",
        "findings": findings,
        "measured": measured,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_of_another_control_group_is_missing_and_keeps_the_findings() {
        let pinned = |code| {
            let error = std::io::Error::from_raw_os_error(code);
            RunError::Thread { cpu: 3, what: "be pinned", error }
        };
        let found = not_measured(pinned(libc::EINVAL));
        assert_eq!(found.is, Judgement::Missing);
        assert!(found.line.contains("cpu 3") && found.line.contains("hybrid-shell"), "{found:?}");
        let ok = finding("irq", Judgement::Ok, "4 as asked");
        assert!(text(&[ok.clone(), found.clone()], None).starts_with("ok       irq    4 as asked"));
        assert_eq!(exit(&[ok.clone(), found.clone()]), Exit::Missing);
        let differs = finding("irq", Judgement::Differs, "is 3");
        assert_eq!(exit(&[differs, found]), Exit::Error);
        assert_eq!(not_measured(pinned(libc::EPERM)).is, Judgement::Differs);
        assert_eq!(not_measured(RunError::Clock).is, Judgement::Differs);
    }
}
