//! `docs/faults.md` against the catalogue and the code: every row, every simulated fault, every
//! test by its name.

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

#[test]
fn every_test_that_is_named_exists() {
    let mut text = String::new();
    sources(&root(), &mut text);
    let words: BTreeSet<&str> =
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
    for (number, row) in rows() {
        for name in row.tests {
            let name = name.strip_prefix("vm:").unwrap_or(&name);
            assert!(words.contains(name), "row {number}: there is no test {name}");
        }
    }
}
