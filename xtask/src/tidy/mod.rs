//! `tidy`: the rules of the house that no compiler checks.
//!
//! Reads the workspace once and hands text to pure rules, which know nothing of the disk:
//! [`shape`] (lengths, module docs), [`calls`] (banned calls, leftovers), [`rooms`] (`unsafe` and
//! its SAFETY lines), [`arrows`] (who may depend on whom), [`links`] (Markdown, machine paths).
//! The lists that change with the project are in [`tables`], each entry with its reason.

mod arrows;
mod calls;
mod links;
mod mask;
mod rooms;
mod shape;
mod source;
mod tables;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::project::Project;
use source::Source;

/// One broken rule at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Violation {
    path: String,
    /// Line from 1; 0 for the whole file.
    line: usize,
    message: String,
}

impl Violation {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

/// Everything that was found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    violations: Vec<Violation>,
    warnings: Vec<Violation>,
    files: usize,
}

impl Findings {
    pub(crate) fn violations(&self) -> usize {
        self.violations.len()
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, list) in [("warning", &self.warnings), ("error", &self.violations)] {
            for Violation { path, line, message } in list {
                writeln!(f, "{kind}: {path}:{line}: {message}")?;
            }
        }
        let (files, errors, warnings) = (self.files, self.violations.len(), self.warnings.len());
        writeln!(f, "{files} files, {errors} violations, {warnings} warnings")
    }
}

/// Checks every file of the workspace.
pub(crate) fn check(project: &Project) -> Result<Findings> {
    let mut files = Vec::new();
    walk(&project.root, &project.target, &mut files)?;
    files.sort();
    let mut found = Findings {
        violations: arrows::check(&project.packages),
        files: files.len(),
        ..Findings::default()
    };
    for file in &files {
        let relative = file.strip_prefix(&project.root).unwrap_or(file);
        let relative = relative.to_string_lossy().into_owned();
        let bytes = fs::read(file).with_context(|| format!("cannot read {relative}"))?;
        if let Ok(text) = String::from_utf8(bytes) {
            check_text(&relative, &text, &mut found);
        }
        if relative.ends_with(".md") {
            let text = fs::read_to_string(file).unwrap_or_default();
            let exists = |path: &str| project.root.join(path).exists();
            found.violations.extend(links::check(&relative, &text, exists));
        }
    }
    Ok(found)
}

/// The rules that need one file's text only.
fn check_text(path: &str, text: &str, found: &mut Findings) {
    found.violations.extend(links::machine_paths(path, text));
    if path.ends_with(".rs") {
        let source = Source::new(path, text);
        found.warnings.extend(shape::warnings(&source));
        found.violations.extend(shape::check(&source));
        found.violations.extend(calls::check(&source));
        found.violations.extend(rooms::check(&source));
    }
}

/// Collects the files that people write: no build output, no hidden folder but those of CI and
/// cargo.
fn walk(dir: &Path, target: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let list = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    for entry in list {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let hidden = name.starts_with('.') && !matches!(&*name, ".ci" | ".cargo" | ".github");
        if path.is_symlink() || hidden || path == target || name == "target" {
            continue;
        }
        if path.is_dir() {
            walk(&path, target, files)?;
        } else if is_text(&name) {
            files.push(path);
        }
    }
    Ok(())
}

/// By name: sources, documents, settings, and scripts without an extension.
fn is_text(name: &str) -> bool {
    match name.rsplit_once('.') {
        None => true,
        Some((_, extension)) => {
            matches!(extension, "rs" | "md" | "toml" | "sh" | "yml" | "yaml" | "py" | "service")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planted_workspace_is_caught_from_the_disk() {
        let root = std::env::temp_dir().join(format!("xtask-{}-tidy", std::process::id()));
        let target = root.join("out");
        for dir in ["app/src", "out", ".git", ".ci", "target"] {
            fs::create_dir_all(root.join(dir)).expect("a directory");
        }
        let write = |path: &str, text: &str| fs::write(root.join(path), text).expect("a file");
        write("app/src/lib.rs", "fn main() {}\n");
        write("README.md", "[x](nowhere.md) [y](app/src/lib.rs)\n");
        write("out/built.rs", "no docs\n");
        write("target/built.rs", "no docs\n");
        write(".git/x.rs", "no docs\n");
        write(".ci/run", &format!("cd {}x\n", concat!("/ho", "me/")));
        let project = Project { root: root.clone(), target, packages: Vec::new() };
        let found = check(&project).expect("findings");
        let places: Vec<_> = found.violations.iter().map(|v| v.path.as_str()).collect();
        assert_eq!(found.files, 3, "{found}");
        assert_eq!(places, [".ci/run", "README.md", "app/src/lib.rs", "app/src/lib.rs"]);
        assert!(found.to_string().ends_with("3 files, 4 violations, 0 warnings\n"), "{found}");
        fs::remove_dir_all(&root).expect("our own directory");
    }
}
