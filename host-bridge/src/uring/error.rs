//! What can go wrong with io_uring and what it drives.

use std::path::PathBuf;

use hybrid_conventions::Exit;
use rustix::io::Errno;

/// Why a reactor, or its storage, cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UringError {
    /// Switched off.
    #[error(
        "io_uring is switched off on this machine (kernel.io_uring_disabled is {value}); as root: \
         sysctl kernel.io_uring_disabled=0"
    )]
    SwitchedOff {
        /// The setting.
        value: u32,
    },
    /// For members of a group only.
    #[error(
        "io_uring is for a group of users on this machine (kernel.io_uring_disabled is 1, \
         kernel.io_uring_group is {group}); as root: sysctl kernel.io_uring_disabled=0, or make \
         this user a member of that group"
    )]
    NotInGroup {
        /// The group's number.
        group: i64,
    },
    /// A filter forbids it.
    #[error(
        "io_uring is forbidden to this process ({errno}), though the machine permits it: a seccomp \
         filter, as containers have; start it with one that lets io_uring_setup, io_uring_enter \
         and io_uring_register through (docker: --security-opt seccomp=unconfined)"
    )]
    Forbidden {
        /// What the kernel said.
        errno: Errno,
    },
    /// Not in this kernel.
    #[error("this kernel ({release}) has no io_uring, or a filter hides it; it needs Linux 5.11")]
    Absent {
        /// The kernel's release.
        release: String,
    },
    /// Locked memory.
    #[error(
        "no memory for a ring ({errno}): RLIMIT_MEMLOCK is {limit}; raise it (ulimit -l unlimited, \
         or \"{user} - memlock unlimited\" in /etc/security/limits.conf and log in again)"
    )]
    Memlock {
        /// What the kernel said.
        errno: Errno,
        /// The limit.
        limit: String,
        /// The user.
        user: String,
    },
    /// A ring that should have been possible.
    #[error("{what}: {errno}")]
    Ring {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
    /// What the storage cannot do without.
    #[error("{path}: {needs} needs Linux {since} ({errno}; this is {release})")]
    TooOld {
        /// The storage.
        path: PathBuf,
        /// What needs it.
        needs: &'static str,
        /// The first kernel that has it.
        since: &'static str,
        /// This kernel.
        release: String,
        /// What the kernel said.
        errno: Errno,
    },
    /// Nothing there.
    #[error("{path} is not there; {fix}")]
    NotThere {
        /// The storage.
        path: PathBuf,
        /// What would make it.
        fix: String,
    },
    /// There, and not to be had.
    #[error("{path}: {what}: {errno}{hint}")]
    Storage {
        /// The storage.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        errno: Errno,
        /// What helps, after a semicolon; may be empty.
        hint: &'static str,
    },
    /// In use.
    #[error(
        "{path} is in use (mounted, swap, held by a driver, opened exclusively); free it first"
    )]
    InUse {
        /// The device.
        path: PathBuf,
    },
    /// No storage at all.
    #[error(
        "{path} is {kind}; uring: takes regular files and block devices, uring-cmd: /dev/ngXnY"
    )]
    WrongKind {
        /// The path.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A size that cannot be used.
    #[error("{path} has {bytes} bytes, which is no positive multiple of its blocks of {lba_bytes}")]
    Size {
        /// The storage.
        path: PathBuf,
        /// Its bytes.
        bytes: u64,
        /// Its blocks.
        lba_bytes: u32,
    },
    /// A namespace that cannot be used.
    #[error("{path}: {why}")]
    Namespace {
        /// The node.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The reactor's thread.
    #[error("the reactor's thread cannot be started: {0}")]
    Thread(std::io::Error),
    /// The reactor's thread ended before it said anything.
    #[error("the reactor's thread ended without a word")]
    NoWord,
}

impl UringError {
    /// 3 where something is missing, 1 otherwise.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::SwitchedOff { .. }
            | Self::NotInGroup { .. }
            | Self::Forbidden { .. }
            | Self::Absent { .. }
            | Self::Memlock { .. }
            | Self::TooOld { .. }
            | Self::NotThere { .. } => Exit::Missing,
            _ => Exit::Error,
        }
    }
}
