//! A place of the machine that has a state: what it is, and how to put another there.
//!
//! The engine reads a place, keeps its state in the journal, and puts the wanted one; `reset` puts
//! the kept one back. All kinds of places are here, as plain data, so that a journal written by one
//! run is understood by the next.
//!
//! Invariants:
//! 1. `put` of a state that was read makes `read` give that state again.
//! 2. `put` of the state that is there already is harmless: both may be repeated after a crash.

use std::fmt;
use std::io::{self, ErrorKind};

use hybrid_conventions::{Bdf, CpuSet};
use serde::{Deserialize, Serialize};

use crate::device::bind::{self, Binding};
use crate::device::pci::Function;
use crate::root::{Owner, Root};

/// How a value of the kernel is written, and when two of them say the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Format {
    /// Text, compared as it is.
    Text,
    /// A mask in hexadecimal groups: `f`, `0000000f` and `00000000,0000000f` are the same.
    Mask,
    /// A list of CPUs: `0-1` and `0,1` are the same.
    List,
    /// One word of several, the chosen one in brackets: `always [madvise] never`.
    Choice,
    /// Whether a control group's list of controllers has `cpuset`: `+cpuset` or `-cpuset`.
    Cpuset,
}

/// Where something is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(crate) enum Place {
    /// A value of the kernel, below /proc or /sys; gone at the next boot.
    Value { path: String, format: Format },
    /// A file or a symbolic link; stays.
    File { path: String },
    /// A folder, made empty; below /sys it is a control group, and gone at the next boot.
    Dir { path: String },
    /// The CPUs of a thread. `started` tells it from a later one of the same number.
    Thread { tid: u32, started: u64, name: String },
    /// The driver of a PCI function; gone at the next boot.
    Driver { bdf: String },
}

/// What is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub(crate) enum State {
    /// Nothing.
    Absent,
    /// The text of a value, without its line end; of a choice the chosen word.
    Text { text: String },
    /// A file.
    File { content: Content, mode: u32, uid: u32, gid: u32 },
    /// A symbolic link.
    Link { target: String },
    /// A folder.
    Folder { mode: u32, uid: u32, gid: u32 },
    /// CPUs.
    Cpus { cpus: String },
    /// A driver and what `driver_override` says.
    Driver { driver: Option<String>, forced: Option<String> },
}

/// A file's bytes; as text where they are text, so that a person can read the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Content {
    Text(String),
    Bytes(Vec<u8>),
}

impl Content {
    fn new(bytes: Vec<u8>) -> Self {
        match String::from_utf8(bytes) {
            Ok(text) => Self::Text(text),
            Err(error) => Self::Bytes(error.into_bytes()),
        }
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }

    /// The text, as far as it is one.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(self.as_bytes()).into_owned()
    }
}

impl State {
    /// A value.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text { text: text.into() }
    }

    /// A file of root's that everybody may read.
    pub(crate) fn file(text: impl Into<String>) -> Self {
        Self::File { content: Content::Text(text.into()), mode: 0o644, uid: 0, gid: 0 }
    }

    /// CPUs.
    pub(crate) fn cpus(cpus: CpuSet) -> Self {
        Self::Cpus { cpus: cpus.to_string() }
    }
}

impl Place {
    /// A value that is compared as text.
    pub(crate) fn value(path: impl Into<String>) -> Self {
        Self::Value { path: path.into(), format: Format::Text }
    }

    /// A value of another format.
    pub(crate) fn formatted(path: impl Into<String>, format: Format) -> Self {
        Self::Value { path: path.into(), format }
    }

    /// A file.
    pub(crate) fn file(path: impl Into<String>) -> Self {
        Self::File { path: path.into() }
    }

    /// Whether the next boot forgets it.
    pub(crate) fn is_volatile(&self) -> bool {
        match self {
            Self::Value { .. } | Self::Thread { .. } | Self::Driver { .. } => true,
            Self::File { .. } => false,
            Self::Dir { path } => path.starts_with("/sys/"),
        }
    }

    /// What is there.
    pub(crate) fn read(&self, root: &Root) -> io::Result<State> {
        let state = match self {
            Self::Value { path, format } => {
                root.read(path).map(|text| State::text(normal(*format, &text)))
            }
            Self::File { path } => read_file(root, path),
            Self::Dir { path } => {
                root.owner(path).map(|Owner { mode, uid, gid }| State::Folder { mode, uid, gid })
            }
            Self::Thread { tid, started, .. } => {
                let thread = crate::threads::Thread::read(root, *tid);
                let same = thread.filter(|thread| thread.started == *started);
                Ok(same.map_or(State::Absent, |thread| State::cpus(thread.cpus)))
            }
            Self::Driver { bdf } => Ok(read_driver(root, bdf)),
        };
        match state {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(State::Absent),
            state => state,
        }
    }

    /// Puts this state there.
    pub(crate) fn put(&self, root: &Root, state: &State) -> io::Result<()> {
        match (self, state) {
            // What a value or a thread was, where it was not, cannot be put.
            (Self::Value { .. } | Self::Thread { .. } | Self::Driver { .. }, State::Absent) => {
                Ok(())
            }
            (Self::Value { path, .. }, State::Text { text }) => root.write(path, text),
            (Self::File { path }, State::Absent) => root.remove_file(path),
            (Self::File { path }, State::File { content, mode, uid, gid }) => {
                let owner = Owner { mode: *mode, uid: *uid, gid: *gid };
                root.replace(path, content.as_bytes(), owner)
            }
            (Self::File { path }, State::Link { target }) => root.symlink(path, target),
            (Self::Dir { path }, State::Absent) => root.remove_dir(path),
            (Self::Dir { path }, State::Folder { mode, .. }) => match root.make_dir(path, *mode) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
                made => made,
            },
            (Self::Thread { tid, .. }, State::Cpus { cpus }) => {
                let cpus = cpus.parse().map_err(io::Error::other)?;
                match root.move_thread(*tid, cpus) {
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
                    moved => moved,
                }
            }
            (Self::Driver { bdf }, State::Driver { driver, forced }) => {
                let binding = Binding { driver: driver.clone(), driver_override: forced.clone() };
                put_driver(root, bdf, &binding)
            }
            _ => Err(io::Error::other(format!("{self} cannot be {state}"))),
        }
    }

    /// The CPUs of a state, where it is of CPUs.
    pub(crate) fn cpus(&self, state: &State) -> Option<CpuSet> {
        match (self, state) {
            (Self::Value { format: Format::Mask, .. }, State::Text { text }) => {
                CpuSet::parse_mask(text).ok()
            }
            (Self::Value { format: Format::List, .. }, State::Text { text })
            | (Self::Thread { .. }, State::Cpus { cpus: text }) => text.parse().ok(),
            _ => None,
        }
    }

    /// Whether two states of this place say the same.
    pub(crate) fn same(&self, a: &State, b: &State) -> bool {
        match (self, a, b) {
            (Self::Value { .. }, State::Text { .. }, State::Text { .. }) => {
                a == b || self.cpus(a).is_some_and(|set| self.cpus(b) == Some(set))
            }
            // A folder that is there is there; whose it is, is its maker's choice.
            (Self::Dir { .. }, State::Folder { .. }, State::Folder { .. }) => true,
            // A bound function is bound; the override only says how it came there.
            (
                Self::Driver { .. },
                State::Driver { driver: a, .. },
                State::Driver { driver: b, .. },
            ) if a.as_deref() == Some(bind::VFIO) => a == b,
            _ => a == b,
        }
    }
}

/// A value without its line end; of a choice the word in brackets.
fn normal(format: Format, text: &str) -> String {
    let text = text.trim_end_matches(['\n', '\0']);
    let chosen = || text.split_once('[')?.1.split_once(']').map(|(word, _)| word);
    match format {
        Format::Choice => chosen().unwrap_or(text).to_owned(),
        Format::Cpuset if text.split_ascii_whitespace().any(|word| word == "cpuset") => {
            "+cpuset".to_owned()
        }
        Format::Cpuset => "-cpuset".to_owned(),
        Format::Text | Format::Mask | Format::List => text.trim().to_owned(),
    }
}

fn read_file(root: &Root, path: &str) -> io::Result<State> {
    let kind = root.metadata(path)?.file_type();
    if kind.is_symlink() {
        let target = root.link(path)?.to_string_lossy().into_owned();
        return Ok(State::Link { target });
    }
    if !kind.is_file() {
        return Err(io::Error::other("is neither a file nor a link"));
    }
    let Owner { mode, uid, gid } = root.owner(path)?;
    Ok(State::File { content: Content::new(root.read_bytes(path)?), mode, uid, gid })
}

fn read_driver(root: &Root, bdf: &str) -> State {
    let function = bdf.parse::<Bdf>().ok().and_then(|bdf| Function::read(root, bdf));
    function.map_or(State::Absent, |function| State::Driver {
        driver: function.driver,
        forced: function.driver_override,
    })
}

fn put_driver(root: &Root, bdf: &str, binding: &Binding) -> io::Result<()> {
    let bdf: Bdf = bdf.parse().map_err(io::Error::other)?;
    let vfio = binding.driver.as_deref() == Some(bind::VFIO);
    let there = Function::read(root, bdf).is_some_and(|function| function.is_on_vfio());
    if vfio && there {
        return Ok(());
    }
    if vfio && binding.driver_override.is_some() {
        // The plan has checked it, with the operator's override if there was one.
        return bind::bind(root, bdf, true).map(drop).map_err(io::Error::other);
    }
    bind::restore(root, bdf, binding).map_err(io::Error::other)
}

/// As a person would name it: the path, `thread 12 (rcu_sched)`, `driver of 0000:03:00.0`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value { path, .. } | Self::File { path } => f.pad(path),
            Self::Dir { path } => write!(f, "{path}/"),
            Self::Thread { tid, name, .. } => write!(f, "thread {tid} ({name})"),
            Self::Driver { bdf } => write!(f, "driver of {bdf}"),
        }
    }
}

/// In one line; of a file its length.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("(not there)"),
            Self::Text { text } | Self::Cpus { cpus: text } if text.is_empty() => {
                f.write_str("(empty)")
            }
            Self::Text { text } => f.write_str(&text.replace('\n', " ")),
            Self::Cpus { cpus } => write!(f, "cpus {cpus}"),
            Self::File { content, mode, .. } => {
                write!(f, "{} bytes, mode {mode:04o}", content.as_bytes().len())
            }
            Self::Link { target } => write!(f, "-> {target}"),
            Self::Folder { .. } => f.write_str("a folder"),
            Self::Driver { driver, .. } => f.write_str(driver.as_deref().unwrap_or("(none)")),
        }
    }
}
