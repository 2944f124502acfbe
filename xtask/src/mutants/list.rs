//! The list of mutants: `xtask/mutants.txt`, read and held against the code.
//!
//! ```text
//! mutant NAME
//! file   nvme-driver/src/slot.rs
//! test   nvme-driver --lib slot::tests
//! <<<
//! the lines as they stand
//! ===
//! the lines as they are broken
//! >>>
//! ```
//! Lines that begin with `#` outside of a mutant are remarks. The text must stand in the file once,
//! so that whoever changes it finds the mutant too.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

/// Where the list is.
pub(super) const LIST: &str = "xtask/mutants.txt";

/// One way to break the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mutant {
    pub(super) name: String,
    /// From the workspace's root.
    pub(super) file: String,
    /// `PACKAGE ARGUMENTS` of the test that must fail; `miri` or `loom` before it where an ordinary
    /// run sees nothing.
    pub(super) test: String,
    from: String,
    to: String,
}

impl Mutant {
    /// The file's text, broken.
    pub(super) fn applied(&self, text: &str) -> Result<String> {
        let found = text.matches(&self.from).count();
        ensure!(
            found == 1,
            "{}: its text stands {found} times in {}, it must once: mend {LIST}",
            self.name,
            self.file
        );
        Ok(text.replacen(&self.from, &self.to, 1))
    }
}

/// Reads the list.
pub(super) fn load(root: &Path) -> Result<Vec<Mutant>> {
    let text = fs::read_to_string(root.join(LIST)).with_context(|| LIST.to_owned())?;
    parse(&text)
}

/// Every mutant still applies; their number.
pub(super) fn check(root: &Path) -> Result<usize> {
    let mutants = load(root)?;
    for mutant in &mutants {
        let path = root.join(&mutant.file);
        let text = fs::read_to_string(&path).with_context(|| mutant.file.clone())?;
        mutant.applied(&text)?;
    }
    Ok(mutants.len())
}

fn parse(text: &str) -> Result<Vec<Mutant>> {
    let mut mutants: Vec<Mutant> = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let Some(name) = line.strip_prefix("mutant ") else {
            ensure!(line.is_empty() || line.starts_with('#'), "{LIST}:{}: `mutant NAME`", at + 1);
            continue;
        };
        let mut field = |key: &str| match lines.next() {
            Some((_, line)) if line.starts_with(key) => Ok(line[key.len()..].trim().to_owned()),
            _ => bail!("{LIST}:{}: {name} has no {key}", at + 1),
        };
        let (file, test) = (field("file ")?, field("test ")?);
        field("<<<")?;
        let mut text_to = |end: &str| {
            let mut text = String::new();
            for (_, line) in lines.by_ref() {
                if line == end {
                    return Ok(text);
                }
                text.push_str(line);
                text.push('\n');
            }
            bail!("{LIST}:{}: {name} has no {end}", at + 1)
        };
        let (from, to) = (text_to("===")?, text_to(">>>")?);
        ensure!(from != to && !from.is_empty(), "{LIST}:{}: {name} changes nothing", at + 1);
        let twice = mutants.iter().any(|mutant| mutant.name == name);
        ensure!(!twice, "{LIST}:{}: {name} stands there twice", at + 1);
        mutants.push(Mutant { name: name.to_owned(), file, test, from, to });
    }
    Ok(mutants)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "# why\n\nmutant a\nfile f.rs\ntest p --lib\n<<<\nx\n===\ny\n>>>\n";

    #[test]
    fn every_mutant_of_the_list_still_applies() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
        let count = check(root).expect("every text stands in its file once");
        assert!(count >= 40, "{count} mutants");
    }

    #[test]
    fn a_mutant_is_read_and_applied_once() {
        let mutants = parse(ONE).expect("a list");
        assert_eq!(mutants.len(), 1);
        assert_eq!((mutants[0].file.as_str(), mutants[0].test.as_str()), ("f.rs", "p --lib"));
        assert_eq!(mutants[0].applied("w\nx\nz\n").expect("once"), "w\ny\nz\n");
        assert!(mutants[0].applied("w\n").is_err(), "its text is gone");
        assert!(mutants[0].applied("x\nx\n").is_err(), "its text is not clear");
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        for bad in ["mutant a\nfile f\n", "words\n", &ONE[..ONE.len() - 4], &ONE.replace('y', "x")]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse(&ONE.repeat(2)).is_err(), "a name twice");
    }
}
