//! The journal: what each place was before it was changed, on the disk before the change is made.
//!
//! A file of lines, each `CRC32 JSON`. Written by `apply`, read by `apply` and `reset`; `reset`
//! takes it away when everything is back. A line that was cut short by a crash stands for a change
//! that was never begun: it is dropped, and cut off before the next line is written.
//!
//! Invariants:
//! 1. A change is in the journal, on the disk, before it is made.
//! 2. Of each place the oldest record holds what was before us; a record of an earlier boot says
//!    nothing about a place that a boot forgets.
//! 3. One program at a time: the folder is locked while it is open for writing.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::place::{Place, State};
use crate::root::Root;

/// The folder of the program's state, and the journal in it.
pub(crate) const FOLDER: &str = "/var/lib/hybrid-runtime/sysconfig";
pub(crate) const FILE: &str = "/var/lib/hybrid-runtime/sysconfig/journal";

/// The folder above, which other parts of the runtime use too.
const ABOVE: &str = "/var/lib/hybrid-runtime";

/// Goes up when a journal can no longer be read by an older program.
const VERSION: u32 = 1;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
pub(crate) enum Record {
    /// The first line.
    Begin { version: u32 },
    /// A change that is about to be made.
    Change(Change),
    /// A change that the kernel refused: it was not made.
    Refused { boot: String, place: Place, reason: String },
    /// The programs that changes asked for have run.
    HooksDone,
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    /// The boot in which it is made.
    pub(crate) boot: String,
    /// The setting that wants it.
    pub(crate) setting: String,
    pub(crate) place: Place,
    pub(crate) old: State,
    pub(crate) new: State,
    /// The program that makes it count.
    pub(crate) hook: Option<Hook>,
    /// What the setting wants to know of it later.
    pub(crate) detail: Option<String>,
}

/// A program that must run after a file has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Hook {
    UpdateGrub,
    SystemdReload,
    UdevReload,
    IrqbalanceRestart,
}

impl Hook {
    /// The commands, each a program and its arguments.
    pub(crate) fn commands(self) -> &'static [(&'static str, &'static [&'static str])] {
        match self {
            Self::UpdateGrub => &[("update-grub", &[])],
            Self::SystemdReload => &[("systemctl", &["daemon-reload"])],
            Self::UdevReload => &[
                ("udevadm", &["control", "--reload"]),
                ("udevadm", &["trigger", "--subsystem-match=vfio"]),
            ],
            Self::IrqbalanceRestart => &[("systemctl", &["try-restart", "irqbalance.service"])],
        }
    }
}

/// What the journal holds, and, opened for writing, the lock.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    pub(crate) records: Vec<Record>,
    /// Bytes of the lines that are whole.
    good: u64,
    /// Whether something lies behind them.
    torn: bool,
    lock: Option<OwnedFd>,
}

impl Journal {
    /// Reads it; a machine that was never changed has an empty one.
    pub(crate) fn read(root: &Root) -> Result<Self, Failure> {
        let bytes = match root.read_bytes(FILE) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(at_file(&error)),
        };
        let mut journal = Self::default();
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let Some(record) = parse(line) else {
                journal.torn = true;
                break;
            };
            journal.good += line.len() as u64;
            journal.records.push(record);
        }
        let whole = usize::try_from(journal.good).unwrap_or(usize::MAX);
        let lines = bytes.iter().skip(whole).filter(|byte| **byte == b'\n').count();
        if lines > 1 {
            return Err(Failure::error(format_args!(
                "{FILE} is damaged at byte {whole}, with {lines} lines behind that; mend it by \
                 hand: it holds what the machine was before"
            )));
        }
        journal.check_version()?;
        Ok(journal)
    }

    fn check_version(&self) -> Result<(), Failure> {
        match self.records.first() {
            None | Some(Record::Begin { version: VERSION }) => Ok(()),
            Some(Record::Begin { version }) => Err(Failure::error(format_args!(
                "{FILE} has version {version}, this program writes version {VERSION}: use the \
                 program that wrote it to reset, then apply with this one"
            ))),
            Some(_) => Err(Failure::error(format_args!("{FILE} does not begin with its version"))),
        }
    }

    /// Opens it for writing, alone.
    pub(crate) fn open(root: &Root) -> Result<Self, Failure> {
        for folder in ["/var", "/var/lib", ABOVE, FOLDER] {
            let mode = if folder == FOLDER { 0o700 } else { 0o755 };
            match root.make_dir(folder, mode) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    return Err(needs_root(folder, &error));
                }
                _ => {}
            }
        }
        let lock = lock(root)?;
        let mut journal = Self::read(root)?;
        journal.lock = Some(lock);
        if journal.torn {
            root.truncate(FILE, journal.good).map_err(|error| at_file(&error))?;
            journal.torn = false;
        }
        if journal.records.is_empty() {
            journal.append(root, &[Record::Begin { version: VERSION }])?;
        }
        Ok(journal)
    }

    /// Adds records; they are on the disk when this returns.
    pub(crate) fn append(&mut self, root: &Root, records: &[Record]) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        for record in records {
            bytes.extend(line(record)?);
        }
        root.append(FILE, &bytes).map_err(|error| at_file(&error))?;
        self.good += bytes.len() as u64;
        self.records.extend_from_slice(records);
        Ok(())
    }

    /// Takes it away, and the folders that hold nothing else.
    pub(crate) fn remove(self, root: &Root) -> Result<(), Failure> {
        root.remove_file(FILE).map_err(|error| at_file(&error))?;
        remove_folders(root)
    }

    /// Changes that still mean something: those of this boot, and those that a boot does not undo.
    pub(crate) fn changes<'a>(&'a self, boot: &'a str) -> impl Iterator<Item = &'a Change> {
        self.records.iter().filter_map(move |record| match record {
            Record::Change(change) if !change.place.is_volatile() || change.boot == boot => {
                Some(change)
            }
            _ => None,
        })
    }

    /// Each place that was changed, once, in the order of the first change, with what was before.
    pub(crate) fn originals<'a>(&'a self, boot: &'a str) -> Vec<&'a Change> {
        let mut firsts: Vec<&Change> = Vec::new();
        for change in self.changes(boot) {
            if !firsts.iter().any(|first| first.place == change.place) {
                firsts.push(change);
            }
        }
        firsts
    }

    /// The last change of a place.
    pub(crate) fn last<'a>(&'a self, boot: &'a str, place: &Place) -> Option<&'a Change> {
        self.changes(boot).filter(|change| change.place == *place).last()
    }

    /// Why the kernel refused to change this place, in this boot.
    pub(crate) fn refusal(&self, boot: &str, wanted: &Place) -> Option<&str> {
        self.records.iter().rev().find_map(|record| match record {
            Record::Refused { boot: then, place, reason } if then == boot && place == wanted => {
                Some(reason.as_str())
            }
            _ => None,
        })
    }

    /// Programs that a crash may have kept from running.
    pub(crate) fn pending_hooks(&self) -> Vec<Hook> {
        let done = self.records.iter().rposition(|record| *record == Record::HooksDone);
        let since = &self.records[done.map_or(0, |done| done + 1)..];
        hooks(since.iter().filter_map(|record| match record {
            Record::Change(change) => Some(change),
            _ => None,
        }))
    }
}

/// Takes the folders away that hold nothing: a crash may have come before the first record.
pub(crate) fn remove_folders(root: &Root) -> Result<(), Failure> {
    for folder in [FOLDER, ABOVE].into_iter().filter(|folder| root.exists(folder)) {
        match root.remove_dir(folder) {
            Err(error) if error.kind() != ErrorKind::DirectoryNotEmpty => {
                return Err(needs_root(folder, &error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The programs that these changes ask for, each once.
pub(crate) fn hooks<'a>(changes: impl Iterator<Item = &'a Change>) -> Vec<Hook> {
    let mut hooks: Vec<Hook> = changes.filter_map(|change| change.hook).collect();
    hooks.sort_unstable();
    hooks.dedup();
    hooks
}

fn lock(root: &Root) -> Result<OwnedFd, Failure> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(root.path(FOLDER), flags, Mode::empty())
        .map_err(|errno| needs_root(FOLDER, &errno.into()))?;
    let begun = Instant::now();
    while rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive).is_err() {
        if begun.elapsed() >= LOCK_PATIENCE {
            return Err(Failure::error(format_args!(
                "{FOLDER} is locked: another sysconfig is at work; wait for it to end"
            )));
        }
        std::thread::sleep(LOCK_LOOK);
    }
    Ok(folder)
}

/// How long the lock is waited for: one that is ending goes on, and a program that was started by
/// a holder shares the lock until its own `execve`.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
const LOCK_LOOK: Duration = Duration::from_millis(10);

fn at_file(error: &io::Error) -> Failure {
    needs_root(FILE, error)
}

/// A path that can't be used; whoever is not root is told so.
pub(crate) fn needs_root(path: &str, error: &io::Error) -> Failure {
    let hint = match error.kind() {
        ErrorKind::PermissionDenied => "; run it as root",
        ErrorKind::ReadOnlyFilesystem => "; the file system must be writable: mount -o remount,rw",
        _ => "",
    };
    Failure::error(format_args!("{path}: {error}{hint}"))
}

fn line(record: &Record) -> Result<Vec<u8>, Failure> {
    let json = serde_json::to_string(record).map_err(Failure::error)?;
    Ok(format!("{:08x} {json}\n", crc32(json.as_bytes())).into_bytes())
}

fn parse(line: &[u8]) -> Option<Record> {
    let text = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    let (crc, json) = text.split_once(' ')?;
    let matches = u32::from_str_radix(crc, 16).ok()? == crc32(json.as_bytes());
    if matches { serde_json::from_str(json).ok() } else { None }
}

/// CRC-32 of IEEE 802.3, bit by bit: the journal is short.
fn crc32(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let carry = if crc & 1 == 1 { POLYNOMIAL } else { 0 };
            crc = (crc >> 1) ^ carry;
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_standard_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_line_reads_back_and_a_damaged_one_does_not() {
        let record = Record::Begin { version: 1 };
        let good = line(&record).expect("a line");
        assert_eq!(parse(&good), Some(record));
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert_eq!(parse(&bad), None, "byte {at}");
            assert_eq!(parse(&good[..at]), None, "cut at {at}");
        }
    }
}
