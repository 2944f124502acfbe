//! Storage that the reactor drives: an NVMe node, a block device, a file.
//!
//! Opened by [`crate::backend::uring`] before the reactor's thread starts. What the storage can do
//! is asked of it and tried, never assumed: alignments by `statx`, limits in sysfs, holes by making
//! one where there is nothing. What is missing and can be gone without is a line in
//! [`Target::steps`].

mod nvme;
mod queue;
#[cfg(test)]
mod tests;

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::error::UringError;
use crate::sys::uring::ZeroMode;
use crate::sys::uring::file::{block_size, dio_align, try_hole};
use queue::Queue;

/// How the storage is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// NVMe commands through `/dev/ngXnY`.
    Passthrough {
        /// The namespace.
        nsid: u32,
    },
    /// A block device, past the page cache.
    Block,
    /// A file, past the page cache.
    Direct,
    /// A file, through the page cache.
    Buffered,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passthrough { nsid } => write!(f, "nvme passthrough to namespace {nsid}"),
            Self::Block => f.write_str("block device, O_DIRECT"),
            Self::Direct => f.write_str("file, O_DIRECT"),
            Self::Buffered => f.write_str("file, through the page cache"),
        }
    }
}

/// What is wanted of the storage.
#[derive(Clone, Debug)]
pub struct TargetWish {
    /// Where it is.
    pub path: PathBuf,
    /// It is an NVMe node.
    pub passthrough: bool,
    /// Past the page cache.
    pub direct: bool,
    /// Completions by polling.
    pub iopoll: bool,
    /// It will be written.
    pub write: bool,
    /// Make a file of so many bytes if there is none.
    pub create_bytes: Option<u64>,
    /// Blocks of a file; a device says what its are. 0: 4 KiB where the file's size allows.
    pub lba_bytes: u32,
}

impl TargetWish {
    /// `path`, past the page cache, to be written.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            passthrough: false,
            direct: true,
            iopoll: false,
            write: true,
            create_bytes: None,
            lba_bytes: 0,
        }
    }
}

/// What it is like: probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a block.
    pub lba_bytes: u32,
    /// Blocks.
    pub blocks: u64,
    /// Largest transfer of one operation, in bytes.
    pub max_transfer_bytes: u32,
    /// Alignment of memory, in bytes.
    pub buffer_align: u32,
    /// How blocks become zeros without a transfer.
    pub zeroes: Option<ZeroMode>,
    /// How blocks are given back.
    pub discard: Option<ZeroMode>,
    /// What is written is durable only after a flush.
    pub write_cache: bool,
    /// Completions can be polled for.
    pub iopoll: bool,
}

/// Storage, open.
#[derive(Debug)]
pub struct Target {
    file: OwnedFd,
    /// Keeps others from a device that is reached by another node.
    _guard: Option<OwnedFd>,
    path: PathBuf,
    way: Way,
    limits: Limits,
    write: bool,
    /// What was wanted and is gone without, a line each.
    pub steps: Vec<String>,
}

/// A transfer of a file: the kernel cuts it further as its device wants.
const FILE_TRANSFER: u32 = 1 << 20;

impl Target {
    /// Opens it and asks what it can do.
    ///
    /// # Errors
    /// [`UringError`].
    pub fn open(wish: &TargetWish) -> Result<Self, UringError> {
        if wish.passthrough {
            return nvme::open(wish);
        }
        let path = &wish.path;
        match std::fs::metadata(path) {
            Ok(meta) if meta.is_file() => Self::open_file(wish, false),
            Ok(meta) if meta.file_type().is_block_device() => Self::open_block(wish, meta.rdev()),
            Ok(meta) => Err(UringError::WrongKind { path: path.clone(), kind: kind_of(&meta) }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if wish.create_bytes.is_some() {
                    return Self::open_file(wish, true);
                }
                let fix = format!("make it: truncate -s 1G {}", path.display());
                Err(UringError::NotThere { path: path.clone(), fix })
            }
            Err(error) => Err(storage(path, "looking at it", &error)),
        }
    }

    fn open_file(wish: &TargetWish, create: bool) -> Result<Self, UringError> {
        let path = &wish.path;
        let mut steps = Vec::new();
        let plain = open(wish, 0, create)?;
        if create {
            let bytes = wish.create_bytes.unwrap_or(0);
            rustix::fs::ftruncate(&plain, bytes).map_err(|errno| {
                let hint = "; its filesystem takes no file of that size";
                UringError::Storage { path: path.clone(), what: "making it", errno, hint }
            })?;
        }
        let bytes = size_of(&plain, path)?;
        let lba_bytes = match wish.lba_bytes {
            0 if bytes.is_multiple_of(4096) => 4096,
            0 => 512,
            lba_bytes => lba_bytes,
        };
        if bytes == 0 || !bytes.is_multiple_of(lba_bytes.into()) {
            return Err(UringError::Size { path: path.clone(), bytes, lba_bytes });
        }
        let (file, way, buffer_align) = match direct(wish, &plain, lba_bytes) {
            Ok((file, align)) => (file, Way::Direct, align),
            Err(why) => {
                if wish.direct {
                    steps.push(format!(
                        "{}: without O_DIRECT: {why}; every transfer is copied through the page \
                         cache; put the file on a filesystem that has it (ext4, xfs)",
                        path.display()
                    ));
                }
                (plain, Way::Buffered, 4)
            }
        };
        let hole = try_hole(file.as_fd(), bytes, lba_bytes.into());
        let hole = hole.ok().map(|()| ZeroMode::PUNCH_HOLE | ZeroMode::KEEP_SIZE);
        let iopoll = wish.iopoll && way == Way::Direct;
        if wish.iopoll && !iopoll {
            steps.push(format!(
                "{}: without IOPOLL: it takes O_DIRECT; completions come by interrupt",
                path.display()
            ));
        }
        let limits = Limits {
            lba_bytes,
            blocks: bytes / u64::from(lba_bytes),
            max_transfer_bytes: FILE_TRANSFER,
            buffer_align,
            zeroes: hole.filter(|_| wish.write),
            discard: hole.filter(|_| wish.write),
            write_cache: true,
            iopoll,
        };
        let (path, write) = (path.clone(), wish.write);
        Ok(Self { file, _guard: None, path, way, limits, write, steps })
    }

    fn open_block(wish: &TargetWish, rdev: u64) -> Result<Self, UringError> {
        let path = &wish.path;
        // A block device opened so is nobody else's: not mounted, not swap, not part of another.
        let exclusive = if wish.write { libc::O_EXCL } else { 0 };
        let file = open(wish, exclusive | libc::O_DIRECT, false)?;
        let (lba_bytes, bytes) = block_size(file.as_fd()).map_err(|errno| UringError::Storage {
            path: path.clone(),
            what: "asking its size",
            errno,
            hint: "",
        })?;
        if bytes == 0 || lba_bytes < 512 || !bytes.is_multiple_of(lba_bytes.into()) {
            return Err(UringError::Size { path: path.clone(), bytes, lba_bytes });
        }
        let queue = Queue::of(Path::new("/"), rdev);
        let align = dio_align(file.as_fd()).ok().flatten();
        let mut steps = Vec::new();
        let iopoll = wish.iopoll && queue.polled(path, &mut steps);
        let keep = ZeroMode::KEEP_SIZE;
        let limits = Limits {
            lba_bytes,
            blocks: bytes / u64::from(lba_bytes),
            max_transfer_bytes: queue.max_transfer(lba_bytes),
            buffer_align: align.map_or(lba_bytes, |align| align.memory.max(4)),
            // The kernel writes pages of zeros where the device has no command for it.
            zeroes: wish.write.then_some(ZeroMode::ZERO_RANGE | keep),
            discard: (wish.write && queue.discards()).then_some(ZeroMode::PUNCH_HOLE | keep),
            write_cache: queue.write_cache(),
            iopoll,
        };
        let (path, write, way) = (path.clone(), wish.write, Way::Block);
        Ok(Self { file, _guard: None, path, way, limits, write, steps })
    }

    /// A file in the clothes of something else, for tests that forge the kernel's answers.
    #[cfg(test)]
    pub(crate) fn dressed(path: &Path, way: Way, limits: Limits) -> Self {
        let target = Self::open(&TargetWish::new(path)).expect("a file");
        Self { way, limits, ..target }
    }

    /// What it can do.
    #[must_use]
    pub const fn limits(&self) -> Limits {
        self.limits
    }

    /// How it is reached.
    #[must_use]
    pub const fn way(&self) -> Way {
        self.way
    }

    /// Whether it may be written.
    #[must_use]
    pub const fn writable(&self) -> bool {
        self.write
    }

    /// Its descriptor.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Another handle to it, for calls without a ring.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn file(&self) -> std::io::Result<std::fs::File> {
        self.file.try_clone().map(std::fs::File::from)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a file is shorter than it was when it was opened; a device keeps its size.
    #[must_use]
    pub fn shrank(&self) -> bool {
        match self.way {
            Way::Direct | Way::Buffered => size_of(&self.file, &self.path)
                .is_ok_and(|bytes| bytes < self.limits.blocks * u64::from(self.limits.lba_bytes)),
            Way::Block | Way::Passthrough { .. } => false,
        }
    }
}

/// Opens the file once more, past the page cache; the reason where that cannot be.
fn direct(wish: &TargetWish, plain: &OwnedFd, lba_bytes: u32) -> Result<(OwnedFd, u32), String> {
    if !wish.direct {
        return Err("not asked for".to_owned());
    }
    let file = open(wish, libc::O_DIRECT, false).map_err(|error| match error {
        UringError::Storage { errno, .. } => format!("its filesystem refuses it ({errno})"),
        error => error.to_string(),
    })?;
    match dio_align(plain.as_fd()) {
        Ok(Some(align)) if align.offset == 0 => Err("its filesystem has it not".to_owned()),
        Ok(Some(align)) if align.offset > lba_bytes => Err(format!(
            "it wants offsets in multiples of {}, blocks have {lba_bytes}",
            align.offset
        )),
        Ok(Some(align)) => Ok((file, align.memory.max(4))),
        // A kernel that does not tell: a block's alignment is always enough.
        Ok(None) | Err(_) => Ok((file, lba_bytes)),
    }
}

/// Opens the path as the wish says.
fn open(wish: &TargetWish, flags: i32, create: bool) -> Result<OwnedFd, UringError> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(wish.write || create).create_new(create);
    options.custom_flags(flags | libc::O_CLOEXEC).mode(0o600);
    match options.open(&wish.path) {
        Ok(file) => Ok(file.into()),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            Err(UringError::InUse { path: wish.path.clone() })
        }
        Err(error) => Err(storage(&wish.path, "opening it", &error)),
    }
}

fn storage(path: &Path, what: &'static str, error: &std::io::Error) -> UringError {
    let errno = Errno::from_io_error(error).unwrap_or(Errno::IO);
    let hint = match errno {
        Errno::ACCESS | Errno::PERM => "; run as a user who may, or change its owner or mode",
        Errno::ROFS => "; its filesystem is mounted read-only",
        _ => "",
    };
    UringError::Storage { path: path.to_owned(), what, errno, hint }
}

fn size_of(file: &OwnedFd, path: &Path) -> Result<u64, UringError> {
    let stat = rustix::fs::fstat(file).map_err(|errno| UringError::Storage {
        path: path.to_owned(),
        what: "asking its size",
        errno,
        hint: "",
    })?;
    Ok(u64::try_from(stat.st_size).unwrap_or(0))
}

fn kind_of(meta: &std::fs::Metadata) -> &'static str {
    let kind = meta.file_type();
    if kind.is_dir() {
        "a directory"
    } else if kind.is_char_device() {
        "a character device"
    } else if kind.is_fifo() {
        "a pipe"
    } else {
        "a socket"
    }
}
