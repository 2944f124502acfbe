//! Where crash dumps are kept: a directory that only its owner reads, with a bound on its size.
//!
//! Called by [`super::Supervisor`] behind the fence. A dump is there in full or not at all: it
//! is written under a name that nobody looks for, synced, renamed, and the directory synced.
//! The oldest go when there are too many. Nothing here ends a host: what cannot be saved is one
//! warning line with what fixes it.
//!
//! ```text
//!  DIR/                                                    mode 0700
//!    20261125T233012.123Z-feed-7-panic.hycrash             mode 0600: time, partition,
//!    20261125T233013.001Z-feed-8-fault.hycrash             incarnation, reason
//!    .20261125T233014.480Z-feed-9-killed.hycrash.tmp       being written, or left by a dead host
//! ```

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::stamp;

/// What a dump's name ends with.
pub const EXTENSION: &str = "hycrash";

/// A file that was being written for so long is a dead host's.
const LEFT_BEHIND: Duration = Duration::from_secs(3600);

/// How many names are tried where one is taken: two dumps of a millisecond.
const SAME_NAMES: u32 = 100;

/// Where and how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// The directory; made when the first dump is saved.
    pub dir: PathBuf,
    /// Dumps kept at most; the newest one always is.
    pub keep: usize,
    /// Bytes of dumps kept at most; the newest one always is.
    pub keep_bytes: u64,
}

impl StoreOptions {
    /// In `dir`, with the default bounds: 64 dumps, 256 MiB.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), keep: 64, keep_bytes: 256 << 20 }
    }
}

/// The directory of choice: `/var/lib/hybrid-runtime` for root, else below the user's state.
/// `None` for a user without a home, who has to name one.
#[must_use]
pub fn default_dir(root: bool, state_home: Option<&Path>, home: Option<&Path>) -> Option<PathBuf> {
    const NAME: &str = "hybrid-runtime";
    if root {
        return Some(Path::new("/var/lib").join(NAME));
    }
    // The XDG specification: a relative path is to be ignored.
    let state = state_home.filter(|path| path.is_absolute()).map(Path::to_owned);
    let below_home = || home.filter(|path| path.is_absolute()).map(|h| h.join(".local/state"));
    state.or_else(below_home).map(|state| state.join(NAME))
}

/// Whether this process is root's.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whose dump it is.
#[derive(Clone, Copy, Debug)]
pub struct DumpName<'a> {
    /// When it died.
    pub at: SystemTime,
    /// The partition's name.
    pub partition: &'a str,
    /// Its incarnation.
    pub incarnation: u64,
    /// Why, in a word.
    pub reason: &'a str,
}

impl DumpName<'_> {
    fn file(&self, twin: u32) -> String {
        let clean = |text: &str| -> String {
            let keep = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' };
            text.chars().take(48).map(keep).collect()
        };
        let stamp = stamp::compact(self.at);
        let twin = if twin == 0 { String::new() } else { format!(".{twin}") };
        format!(
            "{stamp}-{}-{}-{}{twin}.{EXTENSION}",
            clean(self.partition),
            self.incarnation,
            clean(&self.reason.replace('-', "_")).replace('_', "-"),
        )
    }
}

/// What could not be done, where, and what would help.
#[derive(Debug, thiserror::Error)]
#[error("the crash dump is not saved: {what} {}: {source}; {}", path.display(), fix(source, path))]
pub struct StoreError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn fix(error: &io::Error, path: &Path) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some space there, or name another directory: --dump-dir DIR".to_owned()
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "name a directory elsewhere: --dump-dir DIR".to_owned()
        }
        io::ErrorKind::PermissionDenied => format!(
            "make it yours (chown and chmod 700 {}), or name another one: --dump-dir DIR",
            path.parent().unwrap_or(path).display()
        ),
        _ => "name another directory: --dump-dir DIR".to_owned(),
    }
}

/// The store.
#[derive(Clone, Debug)]
pub struct DumpStore {
    options: StoreOptions,
}

/// A file of ours in the directory.
struct Kept {
    name: String,
    bytes: u64,
}

impl DumpStore {
    /// In that directory, which may not exist yet.
    #[must_use]
    pub const fn new(options: StoreOptions) -> Self {
        Self { options }
    }

    /// Where dumps go.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.options.dir
    }

    /// Saves a dump whose bytes are `parts`, one after the other, then lets the oldest ones go.
    ///
    /// # Errors
    /// [`StoreError`]: one line with the fix. Nothing of it is left then.
    pub fn save(&self, name: &DumpName<'_>, parts: &[&[u8]]) -> Result<PathBuf, StoreError> {
        let dir = self.options.dir.as_path();
        let at = |what, path: &Path| {
            let path = path.to_owned();
            move |source| StoreError { what, path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at("making", dir))?;
        let mut twin = 0;
        let path = loop {
            let file = name.file(twin);
            let (temporary, path) = (dir.join(format!(".{file}.tmp")), dir.join(file));
            match write_new(&temporary, parts).and_then(|()| rename_new(&temporary, &path)) {
                Ok(()) => break path,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && twin < SAME_NAMES => {
                    twin += 1;
                }
                Err(source) => {
                    let _ = std::fs::remove_file(&temporary);
                    return Err(at("writing", &temporary)(source));
                }
            }
        };
        // Some file systems have nothing to sync there and say so; the file itself is synced.
        let _ = File::open(dir).and_then(|dir| dir.sync_all());
        self.rotate(&path);
        Ok(path)
    }

    /// Lets go of the oldest until the rest is within bounds. What cannot be removed stays: another
    /// host may be doing the same.
    fn rotate(&self, newest: &Path) {
        let Ok(mut kept) = self.list() else { return };
        let newest = newest.file_name().unwrap_or_default();
        let mut bytes: u64 = kept.iter().map(|file| file.bytes).sum();
        let mut count = kept.len();
        kept.retain(|file| *file.name != *newest);
        for old in kept {
            if count <= self.options.keep && bytes <= self.options.keep_bytes {
                break;
            }
            let _ = std::fs::remove_file(self.options.dir.join(&old.name));
            count -= 1;
            bytes -= old.bytes;
        }
    }

    /// Our dumps, oldest first; what a dead host left half-written goes on the way.
    fn list(&self) -> io::Result<Vec<Kept>> {
        let mut kept = Vec::new();
        for entry in std::fs::read_dir(&self.options.dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            // Not through links: what they point to is not ours to count or to remove.
            let Ok(facts) = std::fs::symlink_metadata(entry.path()) else { continue };
            if !facts.is_file() {
                continue;
            }
            if is_dump(&name) {
                kept.push(Kept { name, bytes: facts.len() });
            } else if is_temporary(&name) {
                let age = facts.modified().ok().and_then(|at| at.elapsed().ok());
                if age.is_some_and(|age| age > LEFT_BEHIND) {
                    let _ = std::fs::remove_file(entry.path());
                }
            }
        }
        kept.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(kept)
    }
}

/// A name that we would give: nobody else's file is counted, or removed.
fn is_dump(name: &str) -> bool {
    let stamp_ends = stamp::compact(SystemTime::UNIX_EPOCH).len();
    let (Some(stamp), Some(rest)) = (name.get(..stamp_ends), name.get(stamp_ends..)) else {
        return false;
    };
    let shape = |(at, c): (usize, char)| match at {
        8 => c == 'T',
        15 => c == '.',
        19 => c == 'Z',
        _ => c.is_ascii_digit(),
    };
    stamp.chars().enumerate().all(shape)
        && rest.starts_with('-')
        && rest.ends_with(&format!(".{EXTENSION}"))
}

fn is_temporary(name: &str) -> bool {
    name.strip_prefix('.').and_then(|name| name.strip_suffix(".tmp")).is_some_and(is_dump)
}

fn write_new(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()
}

/// A rename that never replaces: a dump is evidence.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system without it: a link never replaces either.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            std::fs::hard_link(from, to)?;
            std::fs::remove_file(from)
        }
        Err(errno) => {
            let _ = std::fs::remove_file(from);
            Err(errno.into())
        }
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::os::unix::fs::MetadataExt;

    fn name(ms: u64) -> DumpName<'static> {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_649_412_123 + ms);
        DumpName { at, partition: "feed", incarnation: 7, reason: "panic" }
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).expect("a directory");
        let name = |entry: io::Result<std::fs::DirEntry>| {
            entry.expect("an entry").file_name().into_string().expect("text")
        };
        let mut names: Vec<_> = entries.map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn a_dump_is_there_in_full_private_and_under_a_name_that_says_whose() {
        let temp = TempDir::new("store");
        let dir = temp.path().join("a/b");
        let store = DumpStore::new(StoreOptions::new(&dir));
        let path = store.save(&name(0), &[b"head", b"body"]).expect("saved");
        assert_eq!(names(&dir), ["20261125T233012.123Z-feed-7-panic.hycrash"]);
        assert_eq!(std::fs::read(&path).expect("a file"), b"headbody");
        let mode = |path: &Path| std::fs::metadata(path).expect("facts").mode() & 0o777;
        assert_eq!((mode(&dir), mode(&path)), (0o700, 0o600));
    }

    #[test]
    fn two_dumps_of_a_millisecond_are_two_files() {
        let temp = TempDir::new("store");
        let store = DumpStore::new(StoreOptions::new(temp.path()));
        let first = store.save(&name(0), &[b"1"]).expect("saved");
        let second = store.save(&name(0), &[b"2"]).expect("saved");
        assert_ne!(first, second);
        assert_eq!(std::fs::read(first).expect("a file"), b"1");
        assert_eq!(names(temp.path()).len(), 2, "{:?}", names(temp.path()));
    }

    #[test]
    fn names_hold_nothing_that_leaves_the_directory() {
        let evil = DumpName { partition: "../../etc/x\n", reason: "a/b c-d", ..name(0) };
        let file = evil.file(0);
        assert!(!file.contains('/') && !file.contains('\n') && !file.contains(".."), "{file}");
        assert!(file.ends_with("-7-a-b-c-d.hycrash"), "{file}");
        assert!(is_dump(&file) && is_dump(&evil.file(3)));
    }

    #[test]
    fn the_oldest_go_by_count_and_by_bytes_and_the_newest_always_stays() {
        let temp = TempDir::new("store");
        for (keep, keep_bytes, left) in [(3, 1 << 20, 3), (100, 25, 2), (0, 0, 1)] {
            let dir = temp.path().join(format!("{keep}"));
            let store = DumpStore::new(StoreOptions { dir: dir.clone(), keep, keep_bytes });
            for n in 0..6 {
                let path = store.save(&name(n), &[&[7; 10]]).expect("saved");
                assert!(path.exists());
            }
            let names = names(&dir);
            assert_eq!(names.len(), left, "{names:?}");
            assert!(names.last().is_some_and(|name| name.contains("233012.128Z")), "{names:?}");
        }
    }

    #[test]
    fn other_peoples_files_are_neither_counted_nor_removed() {
        let temp = TempDir::new("store");
        let foreign = ["notes.txt", "x.hycrash", ".x.tmp", "20261125T233012.123Z-feed-1.txt"];
        foreign.iter().for_each(|name| temp.write(name, "mine"));
        let left = ".20001125T233012.123Z-feed-1-panic.hycrash.tmp";
        temp.write(left, "half");
        let file = File::options().write(true).open(temp.path().join(left)).expect("a file");
        let old = SystemTime::now() - 2 * LEFT_BEHIND;
        file.set_modified(old).expect("a time");
        let fresh = ".20301125T233012.123Z-feed-1-panic.hycrash.tmp";
        temp.write(fresh, "being written by another host");
        let options = StoreOptions { keep: 1, ..StoreOptions::new(temp.path()) };
        let store = DumpStore::new(options);
        store.save(&name(0), &[b"1"]).expect("saved");
        store.save(&name(1), &[b"2"]).expect("saved");
        let names = names(temp.path());
        assert!(foreign.iter().all(|name| names.contains(&(*name).to_owned())), "{names:?}");
        assert!(!names.contains(&left.to_owned()) && names.contains(&fresh.to_owned()));
        assert_eq!(names.len(), foreign.len() + 2);
    }

    #[test]
    fn what_cannot_be_saved_is_a_line_with_the_fix_and_leaves_nothing() {
        let temp = TempDir::new("store");
        temp.write("file", "not a directory");
        let store = DumpStore::new(StoreOptions::new(temp.path().join("file")));
        let line = store.save(&name(0), &[b"1"]).expect_err("no directory").to_string();
        assert!(line.starts_with("the crash dump is not saved: making "), "{line}");
        assert!(line.ends_with("--dump-dir DIR") && !line.contains('\n'), "{line}");
        let store = DumpStore::new(StoreOptions::new("/proc/self/fd"));
        let line = store.save(&name(0), &[b"1"]).expect_err("nobody writes there").to_string();
        assert!(line.contains("writing /proc/self/fd/.2026"), "{line}");
        for (errno, words) in [
            (libc::ENOSPC, "free some space there"),
            (libc::EDQUOT, "free some space there"),
            (libc::EROFS, "elsewhere"),
            (libc::EACCES, "chmod 700 /x"),
        ] {
            let source = io::Error::from_raw_os_error(errno);
            let error = StoreError { what: "writing", path: "/x/y".into(), source };
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn a_full_file_system_leaves_no_half_dump() {
        // `/dev/full` answers every write with "no space left on device".
        let error = write_full().expect_err("full");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    fn write_full() -> io::Result<()> {
        let mut full = OpenOptions::new().write(true).open("/dev/full")?;
        full.write_all(&[0; 4096])
    }

    #[test]
    fn the_directory_of_choice_depends_on_who_asks() {
        let path = |text: &'static str| Some(Path::new(text));
        let dir = |root, state, home| default_dir(root, state, home);
        assert_eq!(dir(true, path("/s"), path("/h")), Some("/var/lib/hybrid-runtime".into()));
        assert_eq!(dir(false, path("/s"), path("/h")), Some("/s/hybrid-runtime".into()));
        let home = Some("/h/.local/state/hybrid-runtime".into());
        assert_eq!(dir(false, None, path("/h")), home);
        assert_eq!(dir(false, path("relative"), path("/h")), home);
        assert_eq!(dir(false, None, None), None);
    }
}
