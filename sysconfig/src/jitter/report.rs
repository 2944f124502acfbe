//! What a measurement found: the numbers, their JSON and their screen.
//!
//! Filled by [`super::run()`], printed by the verbs. Times are nanoseconds; `sysconfig-jitter/1` is
//! the JSON's schema, and the golden files hold both forms.

use std::fmt::{self, Display};

use hybrid_conventions::{Column, Count, HumanNanos, Si, Table};
use serde::Serialize;

use super::witness::{Counted, Disturbers};

/// Lines of disturbers that the screen shows for each CPU; the JSON has them all.
const SHOWN: usize = 12;

/// A whole measurement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    pub(crate) schema: &'static str,
    /// How long was asked for, and how long was measured.
    pub(crate) asked_ns: u64,
    pub(crate) measured_ns: u64,
    /// Time between the two looks at the kernel's counters, a little longer: what rates refer to.
    pub(crate) counted_ns: u64,
    /// The threshold of exit code 2.
    pub(crate) threshold_ns: Option<u64>,
    /// Gaps above this are counted as `over`: the threshold, else a default.
    pub(crate) counted_over_ns: u64,
    pub(crate) rt_priority: Option<u8>,
    pub(crate) tsc_hz: u64,
    pub(crate) passed: bool,
    pub(crate) interrupted: bool,
    pub(crate) warnings: Vec<String>,
    pub(crate) cpus: Vec<CpuReport>,
}

/// One CPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct CpuReport {
    pub(crate) cpu: u32,
    /// Taken from the scheduler (`isolcpus`, or a cpuset partition), and without a tick.
    pub(crate) isolated: bool,
    pub(crate) nohz_full: bool,
    /// Looks at the clock; a gap is the time between two.
    pub(crate) samples: u64,
    pub(crate) spun_ns: u64,
    pub(crate) min_ns: u64,
    pub(crate) avg_ns: u64,
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) p999_ns: u64,
    pub(crate) max_ns: u64,
    pub(crate) max_at_ns: u64,
    pub(crate) over: u64,
    pub(crate) over_ns: u64,
    pub(crate) voluntary_switches: Option<u64>,
    pub(crate) involuntary_switches: Option<u64>,
    #[serde(flatten)]
    pub(crate) disturbers: Disturbers,
    pub(crate) worst: Vec<Worst>,
    pub(crate) histogram: Vec<Bucket>,
}

/// One of the largest gaps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Worst {
    pub(crate) ns: u64,
    pub(crate) at_ns: u64,
    /// What the kernel's trace saw within it; empty without `--trace`.
    pub(crate) events: Vec<String>,
}

/// A bucket of the histogram: gaps of at most so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Bucket {
    pub(crate) up_to_ns: u64,
    pub(crate) count: u64,
}

impl Report {
    /// The name and version of the JSON.
    pub(crate) const SCHEMA: &str = "sysconfig-jitter/1";

    /// The JSON, with a newline at its end.
    pub(crate) fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.head(f)?;
        f.write_str("\n")?;
        self.figures(f)?;
        f.write_str("\n")?;
        self.disturbers(f)?;
        self.worst(f)?;
        self.verdict(f)
    }
}

impl Report {
    fn head(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (measured, asked) = (HumanNanos(self.measured_ns), HumanNanos(self.asked_ns));
        write!(f, "jitter    {measured}")?;
        if self.interrupted {
            write!(f, " of {asked} (interrupted)")?;
        }
        let mhz = self.tsc_hz / 1_000_000;
        write!(f, ", TSC {}.{:03} GHz", mhz / 1_000, mhz % 1_000)?;
        if let Some(priority) = self.rt_priority {
            write!(f, ", SCHED_FIFO {priority}")?;
        }
        let over = HumanNanos(self.counted_over_ns);
        match self.threshold_ns {
            Some(_) => writeln!(f, ", threshold {over}"),
            None => writeln!(f, ", no threshold (counting gaps over {over})"),
        }
    }

    fn figures(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = Table::new([
            Column::right("CPU"),
            Column::left("isolated"),
            Column::left("tick"),
            Column::right("samples"),
            Column::right("min"),
            Column::right("avg"),
            Column::right("p50"),
            Column::right("p99"),
            Column::right("p99.9"),
            Column::right("max"),
            Column::right("max at"),
            Column::right("over"),
            Column::right("lost"),
        ]);
        let cells: Vec<[String; 13]> =
            self.cpus.iter().map(|cpu| cpu.cells(self.counted_ns)).collect();
        let rows: Vec<[&dyn Display; 13]> =
            cells.iter().map(|row| row.each_ref().map(|cell| cell as &dyn Display)).collect();
        table.write(f, &rows)
    }

    fn disturbers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = Table::new([
            Column::right("CPU"),
            Column::left("who"),
            Column::left("name"),
            Column::right("count"),
            Column::right("rate"),
        ]);
        let cells: Vec<[String; 5]> =
            self.cpus.iter().flat_map(|cpu| cpu.who(self.counted_ns)).collect();
        let rows: Vec<[&dyn Display; 5]> =
            cells.iter().map(|row| row.each_ref().map(|cell| cell as &dyn Display)).collect();
        table.write(f, &rows)
    }

    /// The largest gaps that a trace explains.
    fn worst(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for cpu in &self.cpus {
            for worst in cpu.worst.iter().filter(|worst| !worst.events.is_empty()) {
                let (gap, at) = (HumanNanos(worst.ns), HumanNanos(worst.at_ns));
                let events = worst.events.join(", ");
                writeln!(f, "gap       CPU {}, {gap} at {at}: {events}", cpu.cpu)?;
            }
        }
        Ok(())
    }

    fn verdict(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(threshold) = self.threshold_ns else { return Ok(()) };
        let threshold = HumanNanos(threshold);
        if self.passed {
            return writeln!(f, "\npassed    no gap over {threshold}");
        }
        f.write_str("\n")?;
        for cpu in self.cpus.iter().filter(|cpu| cpu.over > 0) {
            let (count, max, at) =
                (Count(cpu.over), HumanNanos(cpu.max_ns), HumanNanos(cpu.max_at_ns));
            let gaps = if cpu.over == 1 { "gap" } else { "gaps" };
            let cpu = cpu.cpu;
            writeln!(
                f,
                "exceeded  CPU {cpu}: {count} {gaps} over {threshold}, the largest {max} at {at}"
            )?;
        }
        Ok(())
    }
}

impl CpuReport {
    fn cells(&self, counted_ns: u64) -> [String; 13] {
        let time = |ns: u64| HumanNanos(ns).to_string();
        let per_10_000 = u128::from(self.over_ns) * 10_000 / u128::from(self.spun_ns.max(1));
        [
            self.cpu.to_string(),
            (if self.isolated { "yes" } else { "no" }).to_owned(),
            rate(self.disturbers.timer_interrupts, counted_ns).unwrap_or("none".to_owned()),
            Si(self.samples).to_string(),
            time(self.min_ns),
            time(self.avg_ns),
            time(self.p50_ns),
            time(self.p99_ns),
            time(self.p999_ns),
            time(self.max_ns),
            time(self.max_at_ns),
            Count(self.over).to_string(),
            format!("{}.{:02} %", per_10_000 / 100, per_10_000 % 100),
        ]
    }

    /// One line for each disturber: CPU, kind, name, count, rate.
    fn who(&self, counted_ns: u64) -> Vec<[String; 5]> {
        let cpu = self.cpu.to_string();
        let line = |who: String, name: &str, count: u64, last: String| {
            [cpu.clone(), who, name.to_owned(), Count(count).to_string(), last]
        };
        let counted = |kind: &'static str| {
            let line = &line;
            move |row: &Counted| {
                let rate = rate(row.count, counted_ns).unwrap_or_default();
                line(format!("{kind} {}", row.id), &row.name, row.count, rate)
            }
        };
        let found = &self.disturbers;
        let mut lines: Vec<[String; 5]> = Vec::new();
        lines.extend(found.interrupts.iter().take(SHOWN).map(counted("interrupt")));
        lines.extend(found.softirqs.iter().take(SHOWN).map(counted("softirq")));
        lines.extend(found.tasks.iter().take(SHOWN).map(|task| {
            let kind = if task.kernel { "kernel thread" } else { "thread" };
            let ran = format!("ran {}", HumanNanos(task.ran_ns));
            line(format!("{kind} {}", task.tid), &task.name, task.slices, ran)
        }));
        if let Some(stolen) = found.stolen_ns.filter(|stolen| *stolen > 0) {
            let stolen = HumanNanos(stolen).to_string();
            let name = "time kept by the hypervisor".to_owned();
            lines.push([cpu.clone(), "stolen".to_owned(), name, String::new(), stolen]);
        }
        if let Some(count) = self.involuntary_switches.filter(|count| *count > 0) {
            let rate = rate(count, counted_ns).unwrap_or_default();
            lines.push(line("switches".to_owned(), "the spinner was preempted", count, rate));
        }
        if lines.is_empty() {
            let nobody = "no interrupt, no softirq, no other task";
            let [who, none] = ["nobody", ""].map(str::to_owned);
            lines.push([cpu.clone(), who, nobody.to_owned(), none.clone(), none]);
        }
        lines
    }
}

/// A rate in hertz; [`None`] for a count of zero.
fn rate(count: u64, over_ns: u64) -> Option<String> {
    let tenths = u128::from(count) * 10_000_000_000 / u128::from(over_ns.max(1));
    (count > 0).then(|| format!("{}.{} Hz", tenths / 10, tenths % 10))
}

#[cfg(test)]
mod tests {
    use super::super::witness::TaskRan;
    use super::*;

    fn counted(id: &str, name: &str, count: u64) -> Counted {
        Counted { id: id.to_owned(), name: name.to_owned(), count }
    }

    fn noisy() -> CpuReport {
        CpuReport {
            cpu: 1,
            isolated: false,
            nohz_full: false,
            samples: 487_234_112,
            spun_ns: 10_000_000_000,
            min_ns: 18,
            avg_ns: 20,
            p50_ns: 19,
            p99_ns: 24,
            p999_ns: 61,
            max_ns: 1_412_345,
            max_at_ns: 3_200_000_000,
            over: 2_513,
            over_ns: 42_000_000,
            voluntary_switches: Some(0),
            involuntary_switches: Some(31),
            disturbers: Disturbers {
                timer_interrupts: 2_500,
                interrupts: vec![
                    counted("LOC", "Local timer interrupts", 2_500),
                    counted("24", "nvme0q1", 7),
                ],
                softirqs: vec![counted("TIMER", "", 410)],
                tasks: vec![TaskRan {
                    tid: 17,
                    name: "kworker/1:0".to_owned(),
                    kernel: true,
                    slices: 12,
                    ran_ns: 1_200_000,
                }],
                stolen_ns: Some(30_000_000),
            },
            worst: vec![Worst {
                ns: 1_412_345,
                at_ns: 3_200_000_000,
                events: vec!["irq 24 nvme0q1".to_owned(), "kworker/1:0".to_owned()],
            }],
            histogram: vec![
                Bucket { up_to_ns: 20, count: 487_231_599 },
                Bucket { up_to_ns: 1_412_345, count: 2_513 },
            ],
        }
    }

    fn quiet() -> CpuReport {
        let mut cpu = noisy();
        (cpu.cpu, cpu.isolated, cpu.nohz_full) = (12, true, true);
        (cpu.over, cpu.over_ns, cpu.max_ns, cpu.max_at_ns) = (0, 0, 1_830, 9_100_000_000);
        cpu.involuntary_switches = Some(0);
        cpu.disturbers = Disturbers { stolen_ns: Some(0), ..Disturbers::default() };
        cpu.worst = Vec::new();
        cpu.histogram = vec![Bucket { up_to_ns: 20, count: 487_234_112 }];
        cpu
    }

    fn report(cpus: Vec<CpuReport>, threshold_ns: Option<u64>) -> Report {
        Report {
            schema: Report::SCHEMA,
            asked_ns: 10_000_000_000,
            measured_ns: 10_000_000_000,
            counted_ns: 10_000_000_000,
            threshold_ns,
            counted_over_ns: threshold_ns.unwrap_or(1_000),
            rt_priority: None,
            tsc_hz: 2_445_400_000,
            passed: threshold_ns.is_none() || cpus.iter().all(|cpu| cpu.over == 0),
            interrupted: false,
            warnings: Vec::new(),
            cpus,
        }
    }

    #[test]
    fn the_screen_is_the_golden_one() {
        let report = report(vec![noisy(), quiet()], Some(5_000));
        assert_eq!(report.to_string(), include_str!("golden/exceeded.txt"));
    }

    #[test]
    fn a_quiet_core_says_so() {
        let report = report(vec![quiet()], Some(5_000));
        assert_eq!(report.to_string(), include_str!("golden/passed.txt"));
    }

    #[test]
    fn the_json_is_the_golden_one() {
        let mut report = report(vec![noisy()], None);
        report.interrupted = true;
        report.measured_ns = 4_000_000_000;
        report.warnings.push("the tsc is strange".to_owned());
        assert_eq!(report.json().expect("serializable"), include_str!("golden/interrupted.json"));
    }
}
