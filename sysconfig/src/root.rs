//! Stand-in until the skeleton's own lands.
use std::io;
use std::path::{Path, PathBuf};

/// The tree that is looked at.
#[derive(Clone, Debug)]
pub(crate) struct Root(PathBuf);

impl Root {
    pub(crate) fn at(base: impl Into<PathBuf>) -> Self {
        Self(base.into())
    }
    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }
    pub(crate) fn read(&self, path: impl AsRef<Path>) -> io::Result<String> {
        std::fs::read_to_string(self.path(path))
    }
    pub(crate) fn write(&self, path: impl AsRef<Path>, text: &str) -> io::Result<()> {
        std::fs::OpenOptions::new().write(true).open(self.path(path)).and_then(|mut f| {
            use std::io::Write as _;
            f.write_all(text.as_bytes())
        })
    }
    pub(crate) fn list(&self, path: impl AsRef<Path>) -> io::Result<Vec<String>> {
        let mut names: Vec<String> = std::fs::read_dir(self.path(path))?
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        Ok(names)
    }
    pub(crate) fn link(&self, path: impl AsRef<Path>) -> io::Result<PathBuf> {
        std::fs::read_link(self.path(path))
    }
    pub(crate) fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.path(path).exists()
    }
}
