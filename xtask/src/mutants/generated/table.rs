//! What became of the generated mutants, for people: a line for each file, those that nothing
//! noticed by name, those that were not run with the reason.

use std::fmt;

use hybrid_conventions::{Column, Table};

use super::ledger::Fate;
use super::{LEFT_OUT, Why};

/// One that was made up.
#[derive(Clone, Debug)]
pub(super) struct Mutant {
    /// `FILE:LINE:COLUMN: WHAT`.
    pub(super) name: String,
    /// Which of [`LEFT_OUT`] it is.
    pub(super) left_out: Option<usize>,
    /// [`None`] if it was not tried.
    pub(super) fate: Option<Fate>,
}

impl Mutant {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), left_out: None, fate: None }
    }

    fn file(&self) -> &str {
        self.name.split(':').next().unwrap_or_default()
    }

    fn why(&self) -> Option<Why> {
        self.left_out.and_then(|index| LEFT_OUT.get(index)).map(|left| left.why)
    }
}

/// How many of each kind.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    made_up: usize,
    caught: usize,
    hung: usize,
    unviable: usize,
    same: usize,
    proof: usize,
    missed: usize,
    not_tried: usize,
}

impl Counts {
    fn of<'a>(mutants: impl Iterator<Item = &'a Mutant>) -> Self {
        let mut counts = Self::default();
        for mutant in mutants {
            counts.made_up += 1;
            *match (mutant.why(), mutant.fate) {
                (Some(Why::Same), _) => &mut counts.same,
                (Some(Why::Proof), _) => &mut counts.proof,
                (None, Some(Fate::Caught)) => &mut counts.caught,
                (None, Some(Fate::Hung)) => &mut counts.hung,
                (None, Some(Fate::Unviable)) => &mut counts.unviable,
                (None, Some(Fate::Missed)) => &mut counts.missed,
                (None, None) => &mut counts.not_tried,
            } += 1;
        }
        counts
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { made_up, caught, hung, unviable, same, proof, missed, not_tried } = self;
        write!(f, "{made_up} made up: {caught} caught, {hung} hung, {unviable} do not compile, ")?;
        write!(f, "{same} the same, {proof} of a proof, {missed} missed, {not_tried} not tried")
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Sum(Vec<Mutant>);

impl Sum {
    pub(super) fn add(&mut self, mutants: Vec<Mutant>) {
        self.0.extend(mutants);
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether each was noticed; those that were not tried may be left if the time was limited.
    pub(super) fn is_good(&self, may_be_left: bool) -> bool {
        let counts = Counts::of(self.0.iter());
        counts.missed == 0 && (may_be_left || counts.not_tried == 0)
    }

    /// A line for each reason, with how many it holds for.
    pub(super) fn left_out(&self) -> String {
        let lines = LEFT_OUT.iter().enumerate().filter_map(|(index, left)| {
            let count = self.0.iter().filter(|mutant| mutant.left_out == Some(index)).count();
            let line = format!("not run: {count} of {}: {}", left.pattern, left.reason);
            (count > 0).then_some(line)
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    fn rows(&self) -> Vec<(String, Counts)> {
        let mut files: Vec<&str> = self.0.iter().map(Mutant::file).collect();
        files.dedup();
        let of = |file: &str| Counts::of(self.0.iter().filter(|mutant| mutant.file() == file));
        files.into_iter().map(|file| (file.to_owned(), of(file))).collect()
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let titles = ["made up", "caught", "hung", "do not compile", "the same", "of a proof"];
        let [a, b, c, d, e, g] = titles.map(Column::right);
        let (missed, left) = (Column::right("missed"), Column::right("not tried"));
        let table = Table::new([Column::left("file"), a, b, c, d, e, g, missed, left]);
        let rows = self.rows();
        let cells = rows.iter().map(|(file, n)| -> [&dyn fmt::Display; 9] {
            let kinds = (&n.unviable, &n.same, &n.proof);
            let (made_up, caught, hung) = (&n.made_up, &n.caught, &n.hung);
            [file, made_up, caught, hung, kinds.0, kinds.1, kinds.2, &n.missed, &n.not_tried]
        });
        table.write(f, &cells.collect::<Vec<_>>())?;
        let missed = self.0.iter().filter(|mutant| mutant.fate == Some(Fate::Missed));
        missed.clone().try_for_each(|mutant| writeln!(f, "MISSED {}", mutant.name))?;
        let left_out = self.left_out();
        if !left_out.is_empty() {
            writeln!(f, "{left_out}")?;
        }
        write!(f, "{}", Counts::of(self.0.iter()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum() -> Sum {
        let mutant = |name: &str, left_out, fate| Mutant { name: name.into(), left_out, fate };
        let mut sum = Sum::default();
        sum.add(vec![
            mutant("a.rs:1:2: replace + with -", None, Some(Fate::Caught)),
            mutant("a.rs:1:3: replace + with *", None, Some(Fate::Hung)),
            mutant("a.rs:9:3: replace proofs::x", Some(0), None),
        ]);
        sum.add(vec![
            mutant("b.rs:1:2: replace f -> u8 with 0", None, Some(Fate::Unviable)),
            mutant("b.rs:2:2: replace > with >=", Some(3), None),
        ]);
        sum
    }

    #[test]
    fn the_table_has_a_line_for_each_file_and_ends_with_all_of_them() {
        let text = sum().to_string();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("file  made up  caught  hung  do not compile"), "{text}");
        let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(cells(lines[1]), ["a.rs", "3", "1", "1", "0", "0", "1", "0", "0"]);
        assert_eq!(cells(lines[2]), ["b.rs", "2", "0", "0", "1", "1", "0", "0", "0"]);
        assert!(lines[3].starts_with("not run: 1 of proofs::: of a proof for Kani"), "{text}");
        assert!(lines[4].contains("over itself"), "{text}");
        let all = "5 made up: 1 caught, 1 hung, 1 do not compile, 1 the same, 1 of a proof, \
            0 missed, 0 not tried";
        assert_eq!(lines[5], all);
        assert!(sum().is_good(false));
    }

    #[test]
    fn one_that_is_missed_is_named_and_one_that_is_left_may_be() {
        let mut sum = sum();
        let mut mutant = Mutant::new("c.rs:1:1: replace f with ()");
        sum.add(vec![mutant.clone()]);
        assert!(sum.is_good(true) && !sum.is_good(false));
        mutant.fate = Some(Fate::Missed);
        sum.add(vec![mutant]);
        assert!(!sum.is_good(true));
        let text = sum.to_string();
        assert!(text.contains("\nMISSED c.rs:1:1: replace f with ()\n"), "{text}");
        assert!(text.ends_with("1 missed, 1 not tried"), "{text}");
    }
}
