//! The tree that the program looks at and changes: the machine's `/`, or a prepared folder.
//!
//! Every path in the program is absolute and goes through a [`Root`], so that the tests' trees are
//! read by the same code as `/proc` and `/sys`.

use std::io;
use std::path::{Path, PathBuf};

/// A tree; paths are absolute within it.
#[derive(Clone, Debug)]
pub(crate) struct Root(PathBuf);

impl Root {
    /// The tree below a folder; `/` is the machine.
    pub(crate) fn at(base: impl Into<PathBuf>) -> Self {
        Self(base.into())
    }

    /// Where a path of the tree really is.
    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A file's text.
    pub(crate) fn read(&self, path: impl AsRef<Path>) -> io::Result<String> {
        std::fs::read_to_string(self.path(path))
    }

    /// Writes to a file that is there, without truncating or making one: sysfs wants that.
    pub(crate) fn write(&self, path: impl AsRef<Path>, text: &str) -> io::Result<()> {
        let mut file = std::fs::OpenOptions::new().write(true).open(self.path(path))?;
        io::Write::write_all(&mut file, text.as_bytes())
    }

    /// Names in a folder, sorted.
    pub(crate) fn list(&self, path: impl AsRef<Path>) -> io::Result<Vec<String>> {
        let mut names: Vec<String> = std::fs::read_dir(self.path(path))?
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// What a link names.
    pub(crate) fn link(&self, path: impl AsRef<Path>) -> io::Result<PathBuf> {
        std::fs::read_link(self.path(path))
    }

    /// Whether something is there.
    pub(crate) fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.path(path).exists()
    }
}
