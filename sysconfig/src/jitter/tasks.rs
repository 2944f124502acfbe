//! Which tasks ran on a CPU: `/proc/PID/task/TID/{stat,schedstat,status}`.
//!
//! Pure readers, and a walk over a tree. A task is put down to the CPU where it was last seen,
//! which is exact for the threads that are bound to one CPU (`ksoftirqd/1`, `kworker/1:0`).

use crate::root::Root;

/// `PF_KTHREAD` of the kernel's `include/linux/sched.h`, in `stat`'s flags.
const PF_KTHREAD: u64 = 0x0020_0000;

/// A task at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) tid: u32,
    pub(crate) name: String,
    pub(crate) kernel: bool,
    /// The CPU it last ran on.
    pub(crate) cpu: u32,
    /// Ticks after boot; tells a thread id that was used again.
    pub(crate) started: u64,
    /// Times that it was given a CPU, and nanoseconds it ran.
    pub(crate) slices: u64,
    pub(crate) ran_ns: u64,
}

/// A task that ran on a CPU between two pictures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) tid: u32,
    pub(crate) name: String,
    pub(crate) kernel: bool,
    pub(crate) slices: u64,
    pub(crate) ran_ns: u64,
}

impl Task {
    /// From the two files' text.
    fn parse(stat: &str, schedstat: &str) -> Option<Self> {
        // The name may contain anything, `)` included; the last one ends it.
        let (head, tail) = stat.rsplit_once(')')?;
        let (tid, name) = head.split_once('(')?;
        let fields: Vec<&str> = tail.split_whitespace().collect();
        // proc(5) counts from 1 with the state as field 3: fields[0].
        let field =
            |number: usize| fields.get(number - 3).and_then(|text| text.parse::<u64>().ok());
        let mut times = schedstat.split_whitespace().map(|text| text.parse::<u64>().ok());
        let (ran_ns, _waited, slices) = (times.next()??, times.next()??, times.next()??);
        Some(Self {
            tid: tid.trim().parse().ok()?,
            name: name.to_owned(),
            kernel: field(9)? & PF_KTHREAD != 0,
            cpu: u32::try_from(field(39)?).ok()?,
            started: field(22)?,
            slices,
            ran_ns,
        })
    }
}

/// Every task of the machine; those that end while we look are left out.
pub(crate) fn all(root: &Root) -> Vec<Task> {
    let mut tasks = Vec::new();
    for process in numbers(root, "/proc") {
        let folder = format!("/proc/{process}/task");
        for thread in numbers(root, &folder) {
            let read = |file: &str| root.read(format!("{folder}/{thread}/{file}")).ok();
            if let (Some(stat), Some(schedstat)) = (read("stat"), read("schedstat")) {
                tasks.extend(Task::parse(&stat, &schedstat));
            }
        }
    }
    tasks
}

/// Entries of a folder that are numbers.
fn numbers(root: &Root, folder: &str) -> Vec<u32> {
    let names = root.list(folder).unwrap_or_default();
    names.iter().filter_map(|name| name.parse().ok()).collect()
}

/// Tasks that were given `cpu` between the two pictures, the longest first, without `ours`.
pub(crate) fn ran(before: &[Task], after: &[Task], cpu: u32, ours: &[u32]) -> Vec<Ran> {
    let mut ran: Vec<Ran> = after
        .iter()
        .filter(|task| task.cpu == cpu && !ours.contains(&task.tid))
        .filter_map(|task| {
            let same = |old: &&Task| old.tid == task.tid && old.started == task.started;
            let old = before.iter().find(same);
            let (slices, ran_ns) = old.map_or((0, 0), |old| (old.slices, old.ran_ns));
            let slices = task.slices.saturating_sub(slices);
            (slices > 0).then(|| Ran {
                tid: task.tid,
                name: task.name.clone(),
                kernel: task.kernel,
                slices,
                ran_ns: task.ran_ns.saturating_sub(ran_ns),
            })
        })
        .collect();
    ran.sort_by(|a, b| b.ran_ns.cmp(&a.ran_ns).then_with(|| a.tid.cmp(&b.tid)));
    ran
}

/// How often a thread gave its CPU up by itself, and how often it was taken from it: from `status`.
pub(crate) fn switches(status: &str) -> Option<(u64, u64)> {
    let value = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.strip_prefix(':')?.trim().parse().ok()
    };
    Some((value("voluntary_ctxt_switches")?, value("nonvoluntary_ctxt_switches")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(tid: u32, name: &str, flags: u64, started: u64, cpu: u32) -> String {
        let middle = "0 0 0 0 0 0 0 0 0 20 0 1 0";
        let zeros = "0 ".repeat(16);
        // Fields 3 to 8, flags 9, 10 to 21, starttime 22, 23 to 38, processor 39.
        format!("{tid} ({name}) S 1 1 1 0 -1 {flags} {} {started} {zeros}{cpu} 0 0", &middle[2..])
    }

    fn task(tid: u32, cpu: u32, started: u64, slices: u64, ran_ns: u64) -> Task {
        Task { tid, name: format!("t{tid}"), kernel: true, cpu, started, slices, ran_ns }
    }

    #[test]
    fn a_task_is_read_whatever_its_name() {
        let text = stat(17, "a) (b c", PF_KTHREAD | 0x40, 99, 3);
        let task = Task::parse(&text, "500 20 7\n").expect("well formed");
        assert_eq!((task.tid, task.name.as_str(), task.kernel), (17, "a) (b c", true));
        assert_eq!((task.cpu, task.started, task.slices, task.ran_ns), (3, 99, 7, 500));
        let user = Task::parse(&stat(1, "init", 0x40, 1, 0), "1 1 1").expect("well formed");
        assert!(!user.kernel);
    }

    #[test]
    fn torn_text_is_no_task() {
        for (stat, schedstat) in [("", ""), ("1 (a) S", "1 1 1"), ("1 a S 1 1", "1"), (")(", "")] {
            assert_eq!(Task::parse(stat, schedstat), None, "{stat:?}");
        }
    }

    #[test]
    fn only_what_ran_on_the_cpu_counts_and_a_used_again_id_is_a_new_task() {
        let before = [task(1, 1, 10, 5, 100), task(2, 1, 10, 5, 100), task(3, 1, 10, 50, 900)];
        let after = [
            task(1, 1, 10, 5, 100),
            task(2, 1, 10, 7, 160),
            task(3, 1, 77, 1, 30),
            task(4, 0, 10, 9, 900),
            task(5, 1, 10, 9, 900),
        ];
        let found = ran(&before, &after, 1, &[5]);
        let figures: Vec<_> = found.iter().map(|ran| (ran.tid, ran.slices, ran.ran_ns)).collect();
        assert_eq!(figures, [(2, 2, 60), (3, 1, 30)]);
    }

    #[test]
    fn switches_are_read_apart() {
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t12\nnonvoluntary_ctxt_switches:\t3\n";
        assert_eq!(switches(status), Some((12, 3)));
        assert_eq!(switches("Name:\tx\n"), None);
    }
}
