//! What became of the mutants of a group, kept from run to run while the code is the same.
//!
//! cargo-mutants appends each result to a list in `mutants.out`; what a run left there is taken
//! over by the next, however the run ended. `decided.txt` has them all, behind the number of the
//! code they are of.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// How it ended for a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Caught,
    Hung,
    Unviable,
    Missed,
}

impl Fate {
    const ALL: [Self; 4] = [Self::Caught, Self::Hung, Self::Unviable, Self::Missed];

    /// cargo-mutants' list of them, less `.txt`.
    const fn word(self) -> &'static str {
        match self {
            Self::Caught => "caught",
            Self::Hung => "timeout",
            Self::Unviable => "unviable",
            Self::Missed => "missed",
        }
    }
}

/// The fates of one group's mutants, by name.
#[derive(Debug)]
pub(super) struct Ledger {
    dir: PathBuf,
    fingerprint: u64,
    fates: BTreeMap<String, Fate>,
}

impl Ledger {
    /// What is known of the code with this number, if it is to be gone on with; else nothing.
    pub(super) fn open(dir: &Path, fingerprint: u64, resume: bool) -> Result<Self> {
        let (dir, fates) = (dir.to_owned(), BTreeMap::new());
        let mut ledger = Self { dir, fingerprint, fates };
        let text = fs::read_to_string(ledger.dir.join("decided.txt")).unwrap_or_default();
        let mut lines = text.lines();
        let is_of_this = lines.next() == Some(&*ledger.title());
        if resume && is_of_this {
            ledger.fates.extend(lines.filter_map(read));
        } else {
            if resume && !text.is_empty() {
                let shown = ledger.dir.display();
                println!("{shown}: the code has changed since; all are tried once more");
            }
            let _ = fs::remove_dir_all(&ledger.dir);
        }
        ledger.collect()?;
        Ok(ledger)
    }

    fn title(&self) -> String {
        format!("code {:016x}", self.fingerprint)
    }

    /// Takes over what `mutants.out` says, and lets the next run leave out what is decided.
    pub(super) fn collect(&mut self) -> Result<()> {
        let out = self.dir.join("mutants.out");
        for fate in Fate::ALL {
            let list = out.join(format!("{}.txt", fate.word()));
            let list = fs::read_to_string(list).unwrap_or_default();
            self.fates.extend(list.lines().map(|name| (name.to_owned(), fate)));
        }
        let mut text = self.title() + "\n";
        for (name, fate) in &self.fates {
            let _ = writeln!(text, "{} {name}", fate.word());
        }
        fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
        fs::write(self.dir.join("decided.txt"), text)?;
        let decided = self.fates.keys().filter(|name| !self.needs(name));
        let decided = decided.fold(String::new(), |text, name| text + name + "\n");
        fs::write(out.join("previously_caught.txt"), decided)?;
        Ok(())
    }

    /// Whether it is still to be tried: what was missed may be noticed the next time.
    pub(super) fn needs(&self, name: &str) -> bool {
        self.fate(name).is_none_or(|fate| fate == Fate::Missed)
    }

    pub(super) fn fate(&self, name: &str) -> Option<Fate> {
        self.fates.get(name).copied()
    }
}

/// A line of `decided.txt`.
fn read(line: &str) -> Option<(String, Fate)> {
    let (word, name) = line.split_once(' ')?;
    let fate = Fate::ALL.into_iter().find(|fate| fate.word() == word)?;
    Some((name.to_owned(), fate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_was_stopped_is_gone_on_with_while_the_code_is_the_same() {
        let dir = std::env::temp_dir().join(format!("xtask-{}-ledger", std::process::id()));
        let mut ledger = Ledger::open(&dir, 7, false).expect("a ledger");
        let out = dir.join("mutants.out");
        for (list, name) in [("caught", "a"), ("missed", "b"), ("timeout", "c")] {
            fs::write(out.join(format!("{list}.txt")), format!("{name}\n")).expect("a list");
        }
        ledger.collect().expect("lists");
        // The next run's lists replace those, and it may end without another word.
        fs::write(out.join("caught.txt"), "b\nd\n").expect("a list");
        fs::remove_file(out.join("missed.txt")).expect("a list");
        let ledger = Ledger::open(&dir, 7, true).expect("a ledger");
        assert_eq!(ledger.fate("a"), Some(Fate::Caught));
        assert_eq!(ledger.fate("b"), Some(Fate::Caught), "it was missed at first");
        assert_eq!(ledger.fate("c"), Some(Fate::Hung));
        assert_eq!(ledger.fate("e"), None);
        let known = fs::read_to_string(out.join("previously_caught.txt")).expect("a list");
        assert_eq!(known, "a\nb\nc\nd\n");
        let ledger = Ledger::open(&dir, 8, true).expect("a ledger");
        assert_eq!(ledger.fate("a"), None, "of other code");
        let _ = fs::remove_dir_all(&dir);
    }

    #[test]
    fn what_was_missed_is_tried_again() {
        let (dir, fates) = (PathBuf::new(), BTreeMap::from([("b".to_owned(), Fate::Missed)]));
        let ledger = Ledger { dir, fingerprint: 0, fates };
        assert!(ledger.needs("b") && ledger.needs("never tried"));
    }
}
