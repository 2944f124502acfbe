//! Who else was on a core, as Linux counts it: interrupts, and threads.
//!
//! From `/proc/interrupts`, `/proc/softirqs` is left out (they run on top of an interrupt), and the
//! run times of threads that were last on that CPU. Reading them disturbs no other CPU.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

/// Most of a kind that are told.
const TOLD: usize = 3;

/// What was counted at one moment.
#[derive(Clone, Debug, Default)]
struct CoreLook {
    at: Option<Instant>,
    interrupts: BTreeMap<String, u64>,
    /// Name and run time, ns, by process.
    threads: BTreeMap<u32, (String, u64)>,
}

/// The last two looks.
#[derive(Clone, Debug, Default)]
pub(super) struct CoreLooks {
    before: CoreLook,
    now: CoreLook,
}

/// What came between: the most frequent first.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct CoreLoad {
    /// Name, and how many a second.
    pub(super) interrupts: Vec<(String, f64)>,
    /// Name, and percent of the core.
    pub(super) threads: Vec<(String, f64)>,
}

impl CoreLooks {
    /// Looks at a CPU; the partition's own process is left out.
    pub(super) fn look(&mut self, cpu: u32, partition: Option<u32>) {
        let text = fs::read_to_string("/proc/interrupts").unwrap_or_default();
        let now = CoreLook {
            at: Some(Instant::now()),
            interrupts: interrupts(&text, cpu),
            threads: threads(cpu, partition),
        };
        self.before = std::mem::replace(&mut self.now, now);
    }

    /// What came between the last two looks; nothing before there are two.
    pub(super) fn between(&self) -> CoreLoad {
        let (Some(then), Some(now)) = (self.before.at, self.now.at) else {
            return CoreLoad::default();
        };
        let seconds = now.duration_since(then).as_secs_f64().max(1e-3);
        let counts = self.now.interrupts.iter().map(|(name, count)| {
            let then = self.before.interrupts.get(name).unwrap_or(count);
            (name.clone(), count.saturating_sub(*then) as f64 / seconds)
        });
        let times = self.now.threads.iter().map(|(pid, (name, time))| {
            let then = self.before.threads.get(pid).map_or(*time, |(_, time)| *time);
            (name.clone(), time.saturating_sub(then) as f64 / seconds / 1e7)
        });
        CoreLoad { interrupts: most(counts), threads: most(times) }
    }
}

fn most(all: impl Iterator<Item = (String, f64)>) -> Vec<(String, f64)> {
    let mut all: Vec<_> = all.filter(|(_, count)| *count >= 0.01).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    all.truncate(TOLD);
    all
}

/// The column of a CPU. A device's interrupt is called by its device.
fn interrupts(text: &str, cpu: u32) -> BTreeMap<String, u64> {
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    let wanted = format!("CPU{cpu}");
    let columns: Vec<_> = header.split_whitespace().collect();
    let Some(column) = columns.iter().position(|column| *column == wanted) else {
        return BTreeMap::new();
    };
    let mut found = BTreeMap::new();
    for line in lines {
        let Some((name, rest)) = line.split_once(':') else { continue };
        let words: Vec<_> = rest.split_whitespace().collect();
        let Some(count) = words.get(column).and_then(|word| word.parse().ok()) else { continue };
        let name = name.trim();
        let device = name.parse::<u32>().is_ok().then(|| words.last()).flatten();
        let name = device.map_or_else(|| name.to_owned(), |device| format!("{device} ({name})"));
        found.insert(name, count);
    }
    found
}

/// Processes (kernel threads are some) that were last on the CPU.
fn threads(cpu: u32, partition: Option<u32>) -> BTreeMap<u32, (String, u64)> {
    let own = std::process::id();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let others = pids.filter(|pid| Some(*pid) != partition && *pid != own);
    others.filter_map(|pid| Some((pid, thread(pid, cpu)?))).collect()
}

/// Name and run time of one, if it was last on the CPU.
fn thread(pid: u32, cpu: u32) -> Option<(String, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (name, last) = name_and_cpu(&stat)?;
    if last != cpu {
        return None;
    }
    let times = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    Some((name.to_owned(), times.split_whitespace().next()?.parse().ok()?))
}

/// The second and the 39th field of `/proc/PID/stat`; the name may hold anything.
fn name_and_cpu(stat: &str) -> Option<(&str, u32)> {
    let (before, after) = stat.rsplit_once(')')?;
    let name = before.split_once('(')?.1;
    Some((name, after.split_whitespace().nth(36)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "           CPU0       CPU2
  24:        100          7  PCI-MSI 49152-edge      nvme0q1
 LOC:       1000       2000   Local timer interrupts
 ERR:          0
";

    #[test]
    fn a_cpus_interrupts_are_found_by_its_column() {
        let of = |cpu| interrupts(TEXT, cpu);
        assert_eq!(of(2).get("nvme0q1 (24)"), Some(&7));
        assert_eq!(of(0).get("LOC"), Some(&1000));
        assert_eq!(of(2).get("ERR"), None);
        assert!(of(1).is_empty() && interrupts("", 0).is_empty());
    }

    #[test]
    fn the_name_of_a_thread_may_hold_anything() {
        let mut stat = "12 (a) (b) S".to_owned();
        for field in 4..=52 {
            stat.push_str(&format!(" {field}"));
        }
        assert_eq!(name_and_cpu(&stat), Some(("a) (b", 39)));
        assert_eq!(name_and_cpu("nonsense"), None);
    }

    #[test]
    fn what_came_between_is_told_a_second_the_most_first() {
        let mut looks = CoreLooks::default();
        assert_eq!(looks.between(), CoreLoad::default());
        let begun = Instant::now();
        let look = |seconds, loc, ns| CoreLook {
            at: Some(begun + std::time::Duration::from_secs(seconds)),
            interrupts: [("LOC".to_owned(), loc), ("RES".to_owned(), 5)].into(),
            threads: [(7, ("kworker/1:0".to_owned(), ns))].into(),
        };
        (looks.before, looks.now) = (look(0, 100, 0), look(2, 600, 100_000_000));
        let load = looks.between();
        assert_eq!(load.interrupts, [("LOC".to_owned(), 250.0)]);
        assert_eq!(load.threads, [("kworker/1:0".to_owned(), 5.0)]);
    }
}
