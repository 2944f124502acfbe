//! `/proc/interrupts`, `/proc/softirqs` and the stolen time of `/proc/stat`: counters for each CPU.
//!
//! Pure readers of the kernel's text; [`super::witness`] takes two pictures and compares them.
//! Rows that count for the whole machine (`ERR`, `MIS`) are left out.

/// Rows of counters, a column for each CPU that the text names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Matrix {
    cpus: Vec<u32>,
    rows: Vec<Row>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    label: String,
    name: String,
    counts: Vec<u64>,
}

/// A counter that moved on one CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    /// What the first column says: `24`, `LOC`, `TIMER`.
    pub(crate) label: String,
    /// Who that is: `nvme0q1`, `Local timer interrupts`; empty where the text does not say.
    pub(crate) name: String,
    pub(crate) count: u64,
}

impl Matrix {
    /// Reads the kernel's table; lines that are no rows of it are skipped.
    pub(crate) fn parse(text: &str) -> Self {
        let mut lines = text.lines();
        let header = lines.next().unwrap_or_default();
        let titles = header.split_whitespace();
        let cpus: Vec<u32> =
            titles.filter_map(|title| title.strip_prefix("CPU")?.parse().ok()).collect();
        let rows = lines.filter_map(|line| Row::parse(line, cpus.len())).collect();
        Self { cpus, rows }
    }

    /// What moved on `cpu` since `before`, the busiest first.
    pub(crate) fn since(&self, before: &Self, cpu: u32) -> Vec<Moved> {
        let now = |row: &Row| self.count(row, cpu);
        let mut moved: Vec<Moved> = self
            .rows
            .iter()
            .filter_map(|row| {
                // A row that was not there (a driver came meanwhile) began at zero.
                let old = before.rows.iter().find(|old| old.label == row.label);
                let old = old.map_or(0, |old| before.count(old, cpu));
                let count = now(row).saturating_sub(old);
                let (label, name) = (row.label.clone(), row.name.clone());
                (count > 0).then_some(Moved { label, name, count })
            })
            .collect();
        moved.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.label.cmp(&b.label)));
        moved
    }

    fn count(&self, row: &Row, cpu: u32) -> u64 {
        let column = self.cpus.iter().position(|known| *known == cpu);
        column.and_then(|column| row.counts.get(column)).copied().unwrap_or(0)
    }
}

impl Row {
    fn parse(line: &str, columns: usize) -> Option<Self> {
        let (label, rest) = line.split_once(':')?;
        let mut words = rest.split_whitespace();
        let mut counts = Vec::with_capacity(columns);
        for _ in 0..columns {
            counts.push(words.next()?.parse().ok()?);
        }
        let words: Vec<&str> = words.collect();
        let label = label.trim().to_owned();
        let numbered = label.bytes().all(|byte| byte.is_ascii_digit());
        let name = if numbered { handlers(&words) } else { words.join(" ") };
        Some(Self { label, name, counts })
    }
}

/// The handlers behind chip, line and trigger: `PCI-MSIX-0000:00:03.0 1-edge nvme0q1`.
fn handlers(words: &[&str]) -> String {
    let is_trigger = |word: &&str| {
        ["-edge", "-level", "-fasteoi", "Edge", "Level"].iter().any(|end| word.ends_with(end))
    };
    let after = words.iter().position(is_trigger).map_or(words.len().min(1), |at| at + 1);
    words[after..].join(" ")
}

/// Ticks of the hypervisor's time that `cpu` was not given, from `/proc/stat`.
pub(crate) fn stolen_ticks(stat: &str, cpu: u32) -> Option<u64> {
    let name = format!("cpu{cpu}");
    let line = stat.lines().find(|line| line.split_whitespace().next() == Some(name.as_str()))?;
    // user nice system idle iowait irq softirq steal guest guest_nice
    line.split_whitespace().nth(8)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "           CPU0       CPU2       \n\
        \x20 0:         36          0   IO-APIC   2-edge      timer\n\
        \x2024:          1          0  PCI-MSIX-0000:00:03.0   0-edge      nvme0q0, other\n\
        \x20LOC:       1000        500   Local timer interrupts\n\
        \x20RES:          4          2   Rescheduling interrupts\n\
        \x20ERR:          0\n";
    const AFTER: &str = "           CPU0       CPU2       \n\
        \x20 0:         36          0   IO-APIC   2-edge      timer\n\
        \x2024:          1          7  PCI-MSIX-0000:00:03.0   0-edge      nvme0q0, other\n\
        \x2030:          0          1  dummy\n\
        \x20LOC:       2000        503   Local timer interrupts\n\
        \x20RES:          4          2   Rescheduling interrupts\n\
        \x20ERR:          9\n";

    fn moved(label: &str, name: &str, count: u64) -> Moved {
        Moved { label: label.to_owned(), name: name.to_owned(), count }
    }

    #[test]
    fn what_moved_on_a_cpu_is_named_and_ordered() {
        let (before, after) = (Matrix::parse(BEFORE), Matrix::parse(AFTER));
        assert_eq!(
            after.since(&before, 2),
            [
                moved("24", "nvme0q0, other", 7),
                moved("LOC", "Local timer interrupts", 3),
                moved("30", "", 1)
            ]
        );
        assert_eq!(after.since(&before, 0), [moved("LOC", "Local timer interrupts", 1000)]);
        assert_eq!(after.since(&before, 1), [], "CPU 1 is offline: it has no column");
    }

    #[test]
    fn softirqs_have_the_same_form() {
        let before = Matrix::parse("                    CPU0       CPU1       \n   TIMER:  5  6\n");
        let after = Matrix::parse("                    CPU0       CPU1       \n   TIMER:  5  9\n");
        assert_eq!(after.since(&before, 1), [moved("TIMER", "", 3)]);
    }

    #[test]
    fn torn_and_foreign_text_is_skipped() {
        for text in ["", "\n\n", "CPU0", "garbage", "CPU0\nLOC: x\nLOC: 99999999999999999999\n"] {
            let matrix = Matrix::parse(text);
            assert_eq!(matrix.since(&Matrix::default(), 0), [], "{text:?}");
        }
    }

    #[test]
    fn stolen_time_is_the_eighth_figure_of_the_right_cpu() {
        let stat =
            "cpu  1 2 3 4 5 6 7 80 9 10\ncpu1 1 2 3 4 5 6 7 8 9 10\ncpu10 0 0 0 0 0 0 0 3 0 0\n";
        assert_eq!(stolen_ticks(stat, 1), Some(8));
        assert_eq!(stolen_ticks(stat, 10), Some(3));
        assert_eq!(stolen_ticks(stat, 0), None);
        assert_eq!(stolen_ticks("cpu0 1 2\n", 0), None);
    }
}
