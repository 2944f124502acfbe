//! `docs/faults.md` against the catalogue and the code, `docs/bug-classes.md` and
//! `docs/recovery.md` against the code: every row, every simulated fault, every test by its name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use hybrid_sim::CATALOGUE;

/// Rows of the catalogue.
const ROWS: u8 = 66;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

struct Row {
    simulated: Vec<String>,
    tests: Vec<String>,
}

fn names(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn rows() -> BTreeMap<u8, Row> {
    let text = fs::read_to_string(root().join("docs/faults.md")).expect("the table");
    let mut rows = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let ["", number, _, _, _, simulated, tests, ""] = cells[..]
            && let Ok(number) = number.parse()
        {
            let row = Row { simulated: names(simulated), tests: names(tests) };
            assert!(rows.insert(number, row).is_none(), "row {number} stands there twice");
        }
    }
    rows
}

#[test]
fn every_row_is_there_and_every_simulated_fault_stands_in_its_own() {
    let rows = rows();
    assert_eq!(rows.keys().copied().collect::<Vec<_>>(), (1..=ROWS).collect::<Vec<_>>());
    for kind in CATALOGUE {
        let row = &rows[&kind.row];
        assert!(row.simulated.iter().any(|name| name == kind.name), "{} in its row", kind.name);
    }
    for name in rows.values().flat_map(|row| &row.simulated) {
        assert!(hybrid_sim::find(name).is_some(), "{name} is no fault of the simulation");
    }
}

/// The feed handler is taken through a storm of every fault by its name, or says why not.
#[test]
fn every_simulated_fault_has_its_place_in_the_storm_of_the_feed_handler() {
    let storm = root().join("app/tests/e2e/storm.rs");
    let text = fs::read_to_string(storm).expect("the storm");
    for kind in CATALOGUE {
        let (used, explained) = (format!("\"{}\"", kind.name), format!("`{}`", kind.name));
        assert!(text.contains(&used) != text.contains(&explained), "{}", kind.name);
    }
}

fn sources(dir: &Path, found: &mut String) {
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                sources(&path, found);
            }
        } else if name.ends_with(".rs") || path.parent().is_some_and(|dir| dir.ends_with("suite")) {
            found.push_str(&fs::read_to_string(&path).unwrap_or_default());
        }
    }
}

/// Asserts that each test exists; `vm:` stands before those of the guest's suite, and `tidy` is
/// one by itself.
fn assert_tests_exist<'a>(named: impl Iterator<Item = (String, &'a String)>) {
    let mut text = String::new();
    sources(&root(), &mut text);
    let words: BTreeSet<&str> =
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
    for (row, name) in named {
        let name = name.strip_prefix("vm:").unwrap_or(name);
        assert!(words.contains(name), "{row}: there is no test {name}");
    }
}

#[test]
fn every_test_that_is_named_exists() {
    let rows = rows();
    let named = rows.iter().flat_map(|(number, row)| {
        row.tests.iter().map(move |name| (format!("row {number}"), name))
    });
    assert_tests_exist(named);
}

#[test]
fn every_step_of_the_recovery_ladder_names_a_test_that_exists() {
    let text = fs::read_to_string(root().join("docs/recovery.md")).expect("the table");
    let mut steps = Vec::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let ["", step, .., test, ""] = cells[..]
            && step != "step"
            && !step.starts_with("--")
        {
            assert!(!names(test).is_empty(), "{step}: which test?");
            steps.push((step.to_owned(), names(test)));
        }
    }
    assert!(steps.len() >= 9, "{} steps", steps.len());
    let named =
        steps.iter().flat_map(|(step, tests)| tests.iter().map(move |name| (step.clone(), name)));
    assert_tests_exist(named);
}

#[test]
fn every_bug_class_names_a_test_that_exists() {
    let text = fs::read_to_string(root().join("docs/bug-classes.md")).expect("the tables");
    let mut classes = Vec::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", fault, seen, prevented, test, ""] = cells[..] else { continue };
        if fault == "Fault" || fault.starts_with("--") {
            continue;
        }
        let tests = names(test);
        assert!(!seen.is_empty() && !prevented.is_empty(), "{fault}: seen where, prevented how?");
        assert!(!tests.is_empty() || test == "not here", "{fault}: which test?");
        classes.push((fault.to_owned(), tests));
    }
    assert!(classes.len() > 80, "{} classes", classes.len());
    let named = classes
        .iter()
        .flat_map(|(fault, tests)| tests.iter().map(move |name| (fault.clone(), name)));
    assert_tests_exist(named);
}
