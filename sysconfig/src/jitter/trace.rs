//! The kernel's own trace, to name what lies within the largest gaps: interrupts, soft interrupts,
//! NMIs and the threads that were switched to.
//!
//! Used by [`super::run()`] with `--trace`: an instance of its own in tracefs (nobody else's
//! tracing is touched), limited to the measured CPUs, with the time-stamp counter as its clock, so
//! that its times and the spinners' are the same numbers. The events cost the measured core a
//! little each. The buffer keeps the newest events; the gaps of a long run's beginning may find
//! theirs gone.

use std::io::ErrorKind;

use hybrid_conventions::CpuSet;

use crate::root::Root;

const TRACEFS: &str = "/sys/kernel/tracing";
const INSTANCE: &str = "/sys/kernel/tracing/instances/sysconfig-jitter";

/// Events that must be there.
const NEEDED: &[&str] = &["irq/irq_handler_entry", "irq/softirq_entry", "sched/sched_switch"];

/// Events that some kernels lack.
const WELCOME: &[&str] = &["irq_vectors", "nmi/nmi_handler", "exceptions/page_fault_user"];

/// Kibibytes of buffer for each CPU: about 60,000 events.
const BUFFER_KB: u32 = 4096;

/// Events that are named for one gap.
const NAMED: usize = 8;

/// Why there is no trace.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TraceError {
    /// No tracefs.
    #[error(
        "{TRACEFS} is not there, and --trace needs it: mount -t tracefs tracefs {TRACEFS} \
         (as root; the kernel needs CONFIG_FTRACE)"
    )]
    Missing,
    /// Not for this user.
    #[error("--trace needs root: {path}: {error}")]
    Denied { path: String, error: std::io::Error },
    /// Something else.
    #[error("the kernel's trace: {path}: {error}")]
    Io { path: String, error: std::io::Error },
}

impl TraceError {
    /// Whether something that can be had is missing.
    pub(crate) const fn is_missing(&self) -> bool {
        matches!(self, Self::Missing)
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TraceLine {
    cpu: u32,
    tsc: u64,
    what: String,
}

/// A running trace; removed when dropped.
#[derive(Debug)]
pub(crate) struct Trace {
    root: Root,
}

impl Trace {
    /// Makes the instance and starts it.
    pub(crate) fn start(root: &Root, cpus: CpuSet) -> Result<Self, TraceError> {
        if !root.exists(format!("{TRACEFS}/trace")) {
            return Err(TraceError::Missing);
        }
        // One that a killed run left behind is in the way.
        let _ = std::fs::remove_dir(root.path(INSTANCE));
        std::fs::create_dir(root.path(INSTANCE)).map_err(|error| failed(INSTANCE, error))?;
        let trace = Self { root: root.clone() };
        trace.set("tracing_on", "0")?;
        trace.set("trace_clock", "x86-tsc")?;
        trace.set("buffer_size_kb", &BUFFER_KB.to_string())?;
        trace.set("tracing_cpumask", &cpus.kernel_mask().to_string())?;
        for event in NEEDED {
            trace.set(&format!("events/{event}/enable"), "1")?;
        }
        for event in WELCOME {
            // Not there on every kernel; the needed ones are.
            let _ = trace.set(&format!("events/{event}/enable"), "1");
        }
        trace.set("tracing_on", "1")?;
        Ok(trace)
    }

    /// Stops it and reads what it kept.
    pub(crate) fn finish(self) -> Result<Vec<TraceLine>, TraceError> {
        self.set("tracing_on", "0")?;
        let path = format!("{INSTANCE}/trace");
        let text = self.root.read(&path).map_err(|error| failed(&path, error))?;
        Ok(text.lines().filter_map(TraceLine::parse).collect())
    }

    fn set(&self, file: &str, value: &str) -> Result<(), TraceError> {
        let path = format!("{INSTANCE}/{file}");
        self.root.write(&path, value).map_err(|error| failed(&path, error))
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = self.set("tracing_on", "0");
        let _ = std::fs::remove_dir(self.root.path(INSTANCE));
    }
}

fn failed(path: &str, error: std::io::Error) -> TraceError {
    let path = path.to_owned();
    match error.kind() {
        ErrorKind::PermissionDenied => TraceError::Denied { path, error },
        _ => TraceError::Io { path, error },
    }
}

impl TraceLine {
    /// `  comm-pid  [001] d.h2. 12345678: irq_handler_entry: irq=24 name=nvme0q1`.
    fn parse(line: &str) -> Option<Self> {
        if line.starts_with('#') {
            return None;
        }
        // A task's name may hold brackets too; the CPU is the first of them that is a number.
        let (cpu, rest) = line.match_indices('[').find_map(|(at, _)| {
            let (inside, rest) = line[at + 1..].split_once(']')?;
            Some((inside.parse::<u32>().ok()?, rest))
        })?;
        let (_flags, rest) = rest.trim_start().split_once(' ')?;
        let (tsc, rest) = rest.trim_start().split_once(": ")?;
        let (event, details) = rest.split_once(": ").unwrap_or((rest.trim_end_matches(':'), ""));
        Some(Self { cpu, tsc: tsc.parse().ok()?, what: describe(event, details)? })
    }
}

/// The value behind `key=`, up to a space.
fn value<'a>(details: &'a str, key: &str) -> Option<&'a str> {
    let start = details.find(key)? + key.len();
    details[start..].split([' ', ']']).next()
}

/// Who the event names; [`None`] if it is the spinner itself.
fn describe(event: &str, details: &str) -> Option<String> {
    match event {
        "irq_handler_entry" => {
            Some(format!("irq {} {}", value(details, "irq=")?, value(details, "name=")?))
        }
        "softirq_entry" => Some(format!("softirq {}", value(details, "action=")?)),
        "nmi_handler" => Some(format!("nmi {}", details.split(' ').next()?)),
        "page_fault_user" => Some("page fault".to_owned()),
        "sched_switch" => {
            // Names may have spaces: what is between the keys is the name.
            let next = details.split_once("next_comm=")?.1;
            let (name, rest) = next.split_once(" next_pid=")?;
            let pid = rest.split(' ').next()?;
            (!name.starts_with("jitter/")).then(|| format!("thread {name} ({pid})"))
        }
        event => event.strip_suffix("_entry").map(|vector| format!("vector {vector}")),
    }
}

/// What happened on `cpu` within a gap, in order, each once.
pub(crate) fn within(lines: &[TraceLine], cpu: u32, from: u64, ticks: u64) -> Vec<String> {
    let span = from..=from.saturating_add(ticks);
    let mut found: Vec<String> = Vec::new();
    for line in lines.iter().filter(|line| line.cpu == cpu && span.contains(&line.tsc)) {
        if found.len() < NAMED && !found.contains(&line.what) {
            found.push(line.what.clone());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# tracer: nop\n#\n\
        \x20 jitter/1-901   [001] d.h2.   1000100: local_timer_entry: vector=236\n\
        \x20 jitter/1-901   [001] d.h2.   1000120: irq_handler_entry: irq=24 name=nvme0q1\n\
        \x20 jitter/1-901   [001] ..s..   1000150: softirq_entry: vec=1 [action=TIMER]\n\
        \x20 jitter/1-901   [001] d..2.   1000160: sched_switch: prev_comm=jitter/1 prev_pid=901 \
            prev_prio=120 prev_state=R ==> next_comm=kworker/1:0 x next_pid=17 next_prio=120\n\
        \x20 a [b]-17       [001] d..2.   1000190: sched_switch: prev_comm=kworker/1:0 prev_pid=17 \
            prev_prio=120 prev_state=I ==> next_comm=jitter/1 next_pid=901 next_prio=120\n\
        \x20 jitter/1-901   [001] d.Z..   1000500: nmi_handler: perf_event() delta_ns: 5\n\
        \x20 <idle>-0       [000] d.h2.   1000150: local_timer_entry: vector=236\n\
        CPU:1 [LOST 12 EVENTS]\n";

    fn lines() -> Vec<TraceLine> {
        TEXT.lines().filter_map(TraceLine::parse).collect()
    }

    #[test]
    fn a_gap_names_what_happened_in_it_on_its_cpu() {
        let lines = lines();
        assert_eq!(
            within(&lines, 1, 1_000_090, 110),
            ["vector local_timer", "irq 24 nvme0q1", "softirq TIMER", "thread kworker/1:0 x (17)"]
        );
        assert_eq!(within(&lines, 1, 1_000_500, 0), ["nmi perf_event()"]);
        assert_eq!(within(&lines, 0, 1_000_000, 1_000), ["vector local_timer"]);
        assert!(within(&lines, 1, 1_000_501, 1_000).is_empty());
    }

    #[test]
    fn other_text_is_no_event() {
        for line in ["", "# x", "[", "a [1]", "a [1] x", "a [1] x y: z", "a [x] d 1: b_entry: c"] {
            assert_eq!(TraceLine::parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn without_tracefs_it_says_what_mounts_it() {
        let tree = tempfile::tempdir().expect("a folder");
        let error = Trace::start(&Root::at(tree.path()), CpuSet::EMPTY).expect_err("nothing there");
        assert!(error.is_missing());
        assert!(error.to_string().contains("mount -t tracefs"));
    }
}
