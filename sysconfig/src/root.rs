//! The tree of files that everything is read from and written to: `/`, or a prepared folder.
//!
//! Every path in this crate is absolute and goes through a [`Root`], so that the same code runs on
//! the machine, on an image that is being built (`--root`), and on the tests' fake trees.
//!
//! Invariants:
//! 1. Whatever changes the tree is one of the operations below. Each is one step for the fault
//!    injector, which lets a test kill the program before any of them or in its middle.
//! 2. A file is replaced whole, by a rename, after its bytes and before its folder are on the disk:
//!    no reader and no crash sees half of one.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt,
};
use std::path::{Path, PathBuf};

use hybrid_conventions::CpuSet;

#[cfg(test)]
use crate::fake::Faults;

/// Ends the name of a file that is being written and does not count yet.
pub(crate) const UNFINISHED: &str = ".sysconfig-new";

/// The tree that is looked at and changed.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    base: PathBuf,
    #[cfg(test)]
    pub(crate) faults: Faults,
}

/// Who owns a file, and what others may do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Root {
    /// The tree below `base`.
    pub(crate) fn at(base: impl Into<PathBuf>) -> Self {
        Self {
            base: base.into(),
            #[cfg(test)]
            faults: Faults::default(),
        }
    }

    /// Whether this is the running machine, and no prepared folder.
    pub(crate) fn is_live(&self) -> bool {
        self.base == Path::new("/")
    }

    /// Where an absolute path lies.
    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.base.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A file's text.
    pub(crate) fn read(&self, path: impl AsRef<Path>) -> io::Result<String> {
        fs::read_to_string(self.path(path))
    }

    /// A file's bytes.
    pub(crate) fn read_bytes(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        fs::read(self.path(path))
    }

    /// A file's text without the white space around it; [`None`] if it can't be read.
    pub(crate) fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        Some(self.read(path).ok()?.trim().to_owned())
    }

    /// A list of CPUs; odd and missing files are the empty set.
    pub(crate) fn cpus(&self, path: impl AsRef<Path>) -> CpuSet {
        self.text(path).and_then(|text| text.parse().ok()).unwrap_or(CpuSet::EMPTY)
    }

    /// Names in a folder, sorted.
    pub(crate) fn list(&self, path: impl AsRef<Path>) -> io::Result<Vec<String>> {
        let mut names: Vec<String> = fs::read_dir(self.path(path))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// Names in a folder that begin so and go on with a number, in the order of the numbers.
    pub(crate) fn numbered(&self, path: impl AsRef<Path>, prefix: &str) -> Vec<u32> {
        let names = self.list(path).unwrap_or_default();
        let number = |name: &String| name.strip_prefix(prefix)?.parse().ok();
        let mut numbers: Vec<u32> = names.iter().filter_map(number).collect();
        numbers.sort_unstable();
        numbers
    }

    /// What a link names.
    pub(crate) fn link(&self, path: impl AsRef<Path>) -> io::Result<PathBuf> {
        fs::read_link(self.path(path))
    }

    /// Whether something is there; a link counts as what it names.
    pub(crate) fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.path(path).exists()
    }

    /// What is there, links not followed.
    pub(crate) fn metadata(&self, path: impl AsRef<Path>) -> io::Result<fs::Metadata> {
        fs::symlink_metadata(self.path(path))
    }

    /// Writes a value to a file of the kernel, in one `write`.
    pub(crate) fn write(&self, path: impl AsRef<Path>, text: &str) -> io::Result<()> {
        let place = self.path(&path);
        #[cfg(test)]
        if let Some(done) = self.faults.write(&place, text)? {
            return Ok(done);
        }
        let mut file = fs::OpenOptions::new().write(true).open(place)?;
        file.write_all(text.as_bytes())
    }

    /// Puts a file there, whole and durably, in place of whatever was there.
    pub(crate) fn replace(
        &self,
        path: impl AsRef<Path>,
        bytes: &[u8],
        owner: Owner,
    ) -> io::Result<()> {
        let place = self.path(path);
        let unfinished = unfinished(&place);
        self.remove_unfinished(&place)?;
        let bytes = self.whole_or_half(bytes)?;
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(bytes)?;
        self.alive()?;
        std::os::unix::fs::fchown(&file, Some(owner.uid), Some(owner.gid))?;
        file.set_permissions(fs::Permissions::from_mode(owner.mode))?;
        sync(&file)?;
        self.step()?;
        fs::rename(&unfinished, &place)?;
        sync_parent(&place)
    }

    /// Takes away what a replacement that was cut short left behind.
    pub(crate) fn remove_unfinished(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let unfinished = unfinished(&self.path(path));
        if fs::symlink_metadata(&unfinished).is_err() {
            return Ok(());
        }
        self.step()?;
        fs::remove_file(unfinished)
    }

    /// Adds bytes at the end of a file that is made if need be; they are on the disk then.
    pub(crate) fn append(&self, path: impl AsRef<Path>, bytes: &[u8]) -> io::Result<()> {
        let place = self.path(path);
        let made = !place.exists();
        let bytes = self.whole_or_half(bytes)?;
        let mut options = fs::OpenOptions::new();
        let mut file = options.append(true).create(true).mode(0o600).open(&place)?;
        file.write_all(bytes)?;
        self.alive()?;
        sync(&file)?;
        if made { sync_parent(&place) } else { Ok(()) }
    }

    /// Cuts a file to this length, durably.
    pub(crate) fn truncate(&self, path: impl AsRef<Path>, len: u64) -> io::Result<()> {
        self.step()?;
        let file = fs::OpenOptions::new().write(true).open(self.path(path))?;
        file.set_len(len)?;
        sync(&file)
    }

    /// Makes a symbolic link in place of whatever file was there.
    pub(crate) fn symlink(&self, path: impl AsRef<Path>, target: &str) -> io::Result<()> {
        let place = self.path(path);
        self.remove_unfinished(&place)?;
        let unfinished = unfinished(&place);
        self.step()?;
        std::os::unix::fs::symlink(target, &unfinished)?;
        self.step()?;
        fs::rename(&unfinished, &place)?;
        sync_parent(&place)
    }

    /// Takes a file or a link away; one that is not there is no error.
    pub(crate) fn remove_file(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let place = self.path(path);
        self.remove_unfinished(&place)?;
        self.step()?;
        match fs::remove_file(&place) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => sync_parent(&place),
        }
    }

    /// Makes one folder.
    pub(crate) fn make_dir(&self, path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
        let place = self.path(path);
        self.step()?;
        fs::DirBuilder::new().mode(mode).create(&place)?;
        #[cfg(test)]
        Faults::dir_made(&place);
        sync_parent(&place)
    }

    /// Takes an empty folder away; one that is not there is no error.
    pub(crate) fn remove_dir(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let place = self.path(path);
        self.step()?;
        #[cfg(test)]
        Faults::dir_goes(&place);
        match fs::remove_dir(&place) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => sync_parent(&place),
        }
    }

    /// Owner and mode of what is there.
    pub(crate) fn owner(&self, path: impl AsRef<Path>) -> io::Result<Owner> {
        let metadata = self.metadata(path)?;
        let mode = metadata.mode() & 0o7777;
        Ok(Owner { mode, uid: metadata.uid(), gid: metadata.gid() })
    }

    /// Moves a thread to these CPUs.
    pub(crate) fn move_thread(&self, tid: u32, cpus: CpuSet) -> io::Result<()> {
        self.step()?;
        #[cfg(test)]
        if !self.is_live() {
            return crate::fake::move_thread(self, tid, cpus);
        }
        crate::sys::affinity::set(tid, cpus)
    }

    /// Runs a program of the machine; a prepared tree has nothing that one could change.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> io::Result<()> {
        self.step()?;
        #[cfg(test)]
        if self.faults.ran(program, args) {
            return Ok(());
        }
        if !self.is_live() {
            return Err(io::Error::other("not run: the tree is not the running machine's"));
        }
        let output = std::process::Command::new(program).args(args).output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        Err(io::Error::other(format!("{}: {last}", output.status)))
    }

    /// The bytes to write: all of them, or half of them when the program is killed in the middle.
    #[cfg_attr(not(test), expect(clippy::unused_self, reason = "the injector is the tests'"))]
    fn whole_or_half<'b>(&self, bytes: &'b [u8]) -> io::Result<&'b [u8]> {
        #[cfg(test)]
        return self.faults.whole_or_half(bytes);
        #[cfg(not(test))]
        Ok(bytes)
    }

    /// One step begins; the injector may say that the program is dead.
    #[cfg_attr(not(test), expect(clippy::unused_self, reason = "the injector is the tests'"))]
    fn step(&self) -> io::Result<()> {
        #[cfg(test)]
        self.faults.step()?;
        Ok(())
    }

    /// Whether the program is still alive after what it just did.
    #[cfg_attr(not(test), expect(clippy::unused_self, reason = "the injector is the tests'"))]
    fn alive(&self) -> io::Result<()> {
        #[cfg(test)]
        self.faults.alive()?;
        Ok(())
    }
}

/// The name under which a file is written before it takes its place.
fn unfinished(place: &Path) -> PathBuf {
    let mut name = place.file_name().unwrap_or_default().to_owned();
    name.push(UNFINISHED);
    place.with_file_name(name)
}

/// Brings a folder's entries to the disk. Folders of the kernel cannot, and need not.
fn sync_parent(place: &Path) -> io::Result<()> {
    let Some(parent) = place.parent() else {
        return Ok(());
    };
    match sync(&fs::File::open(parent)?) {
        Err(error) if error.raw_os_error() != Some(libc::EINVAL) => Err(error),
        _ => Ok(()),
    }
}

/// Waits for the disk. The tests kill the program and not the machine: they need not wait.
fn sync(file: &fs::File) -> io::Result<()> {
    if cfg!(test) { Ok(()) } else { file.sync_all() }
}
