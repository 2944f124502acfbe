//! A directory of a test's own, gone when the test is.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Removed with everything in it when dropped.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    /// A new one that everybody may look into: some tests run the program as another user.
    pub(crate) fn new() -> Self {
        Self::below(std::env::temp_dir())
    }

    /// One in memory, where the machine has such a place: a flush takes no time there, however busy
    /// the disk is.
    pub(crate) fn in_memory() -> Self {
        let memory = PathBuf::from("/dev/shm");
        if memory.is_dir() { Self::below(memory) } else { Self::new() }
    }

    fn below(base: PathBuf) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("feed-handler-e2e-{}-{number}", std::process::id());
        let path = base.join(name);
        std::fs::create_dir_all(&path).expect("a temporary directory");
        Self(path)
    }

    /// A path in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A file in it with these bytes.
    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).expect("room for a small file");
        path
    }

    /// An image's `--device` and its path.
    pub(crate) fn image(&self, name: &str) -> (String, PathBuf) {
        let path = self.path(name);
        (format!("model:{}", path.display()), path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("a path of ours is text")
}
