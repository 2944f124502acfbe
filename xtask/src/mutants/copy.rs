//! A copy of the tree, for what breaks it on purpose.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::command::Run;
use crate::project::Project;

/// Copies what git knows of to `tree`, and what differs from the last copy only.
///
/// Gives a number for all of it but the prose: the same for the same code.
pub(super) fn mirror(project: &Project, tree: &Path) -> Result<u64> {
    let files = Run::new("git ls-files --cached --others --exclude-standard");
    let files = files.output(&project.root).context("git ls-files failed; see above")?;
    let mut known = BTreeSet::new();
    let mut hasher = DefaultHasher::new();
    for file in files.lines() {
        let (from, to) = (project.root.join(file), tree.join(file));
        // A file that was deleted and not committed is still listed.
        let Ok(bytes) = fs::read(&from) else { continue };
        if !file.ends_with(".md") {
            (file, &bytes).hash(&mut hasher);
        }
        known.insert(to.clone());
        write_if_new(&to, &bytes)?;
    }
    remove_others(tree, &known)?;
    Ok(hasher.finish())
}

/// Writes a file unless it holds these bytes: cargo goes by the time of the last change.
fn write_if_new(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(path, bytes).with_context(|| path.display().to_string())
}

/// Removes files that are in the copy and not in the tree any more.
fn remove_others(dir: &Path, known: &BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(&path, known)?;
        } else if !known.contains(&path) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}
