//! What can go wrong with a vfio-user server, each with what was seen and what is allowed.

use std::path::PathBuf;

use hybrid_conventions::Exit;
use rustix::io::Errno;

use crate::vfio_user::socket::SocketError;
use crate::vfio_user::wire::{CapError, Command};

/// Why a server cannot be used, or any longer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VfioUserError {
    /// There is no listener.
    #[error(
        "no vfio-user server listens at {path}: {errno}; start one there: nvme-vfio-user-server \
         --socket {path}, or a third party's target"
    )]
    Absent {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        errno: Errno,
    },
    /// There is one that we cannot reach.
    #[error("the vfio-user server at {path} cannot be reached: {errno}")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        errno: Errno,
    },
    /// The server is another user's.
    #[error(
        "the vfio-user server at {path} is user {uid}'s, who would get this program's dma memory: \
         run it as root or as this user"
    )]
    Stranger {
        /// The socket.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
    },
    /// The exchange of a message failed.
    #[error("{command}: {source}")]
    Socket {
        /// Which message.
        command: Command,
        /// How.
        source: SocketError,
    },
    /// The connection ended while nothing was asked.
    #[error("{source}")]
    Lost {
        /// How.
        source: SocketError,
    },
    /// A message that nobody asked for.
    #[error("{seen} with flags {flags:#x} came, and nothing was asked")]
    Unasked {
        /// What came.
        seen: Command,
        /// Its flags.
        flags: u32,
    },
    /// The server answered with an error.
    #[error("{command}: the server refused: {errno}")]
    Refused {
        /// Which message.
        command: Command,
        /// What it said.
        errno: Errno,
    },
    /// What came is no reply.
    #[error("{command}: a reply was due, {seen} with flags {flags:#x} came")]
    NotAReply {
        /// What was asked.
        command: Command,
        /// What came.
        seen: Command,
        /// Its flags.
        flags: u32,
    },
    /// A reply to something else.
    #[error("{command}: the reply is to {seen}")]
    WrongCommand {
        /// What was asked.
        command: Command,
        /// What was answered.
        seen: Command,
    },
    /// A reply to another message.
    #[error("{command}: the reply has message id {seen}, {sent} was sent")]
    WrongId {
        /// What was asked.
        command: Command,
        /// The id in the reply.
        seen: u16,
        /// The id that was sent.
        sent: u16,
    },
    /// A reply of a wrong size.
    #[error(
        "{command}: the reply has {got} bytes behind its header; allowed are {least} to {most}"
    )]
    ReplySize {
        /// What was asked.
        command: Command,
        /// Bytes that came.
        got: usize,
        /// Least allowed.
        least: usize,
        /// Most allowed.
        most: usize,
    },
    /// Files that nobody asked for.
    #[error("{command}: {got} file descriptors came; at most {most} are due")]
    UnexpectedFds {
        /// What was asked.
        command: Command,
        /// How many came.
        got: usize,
        /// How many may.
        most: usize,
    },
    /// A reply about something else than what was asked.
    #[error("{command}: the reply says {field} {seen:#x}; {asked:#x} was asked")]
    Mismatch {
        /// What was asked.
        command: Command,
        /// Which field.
        field: &'static str,
        /// What it holds.
        seen: u64,
        /// What it should.
        asked: u64,
    },
    /// Another protocol.
    #[error("the server speaks vfio-user {major}.{minor}; 0.x is understood")]
    Version {
        /// Its major number.
        major: u16,
        /// Its minor number.
        minor: u16,
    },
    /// Capabilities that cannot be read.
    #[error("the server's capabilities are no json text that ends with a 0")]
    Capabilities,
    /// A server that takes no memory.
    #[error("the server takes {max_msg_fds} file descriptors a message; 1 is needed for memory")]
    NoFds {
        /// What it takes.
        max_msg_fds: u64,
    },
    /// Not a PCI device, or one without configuration space.
    #[error(
        "the device has flags {flags:#x} and {regions} regions; a pci device (2) with 9 is due"
    )]
    NotPci {
        /// Its flags.
        flags: u32,
        /// Its regions.
        regions: u32,
    },
    /// A region of an absurd size.
    #[error("region {index} has {size} bytes; allowed are {least} to {most}")]
    RegionSize {
        /// Which region.
        index: u32,
        /// What the server says.
        size: u64,
        /// Least allowed.
        least: u64,
        /// Most allowed.
        most: u64,
    },
    /// A capability that does not fit.
    #[error("region {index}: {source}")]
    Caps {
        /// Which region.
        index: u32,
        /// What is wrong.
        source: CapError,
    },
    /// A mappable area that cannot be.
    #[error(
        "bar0 has {size} bytes, and an area at {offset:#x} of {len} bytes that may be mapped: \
             it must lie inside and be whole pages"
    )]
    Area {
        /// Bytes of the region.
        size: u64,
        /// Start of the area.
        offset: u64,
        /// Bytes of the area.
        len: u64,
    },
    /// No doorbells in shared memory.
    #[error(
        "the server does not let us map the doorbells (bar0 at 1000h): each i/o would wait for a \
         message, which takes up to milliseconds; use a server that does (SPDK: without \
         --disable-mappable-bar0)"
    )]
    NoDoorbells,
    /// As many files as no reading of the protocol gives.
    #[error("bar0 has {areas} mappable areas and came with {fds} files; 1 or one an area are due")]
    AreaFds {
        /// Areas.
        areas: usize,
        /// Files.
        fds: usize,
    },
    /// The doorbells' file cannot be mapped.
    #[error(
        "{len} bytes of doorbells at offset {offset:#x} of the server's file cannot be mapped: \
             {errno}"
    )]
    DoorbellFile {
        /// Bytes wanted.
        len: usize,
        /// Where.
        offset: u64,
        /// What the kernel said; `FBIG` if the file is shorter, `TIMEDOUT` if its file system says
        /// nothing.
        errno: Errno,
    },
    /// The server cut its doorbells' file.
    #[error("the server has taken away the pages of its doorbells")]
    DoorbellsGone,
    /// The command register does not keep what is written.
    #[error("the pci command register reads {seen:#06x}; bits {wanted:#06x} were set")]
    CommandRegister {
        /// What it reads.
        seen: u16,
        /// What was set.
        wanted: u16,
    },
    /// The device does not become disabled.
    #[error("the controller is still ready {0} ms after it was disabled")]
    NotDisabled(u64),
    /// A server that came back differs from the one before.
    #[error("the server that came back is another one: {0}")]
    Changed(&'static str),
    /// The old server cannot be shown to have let go of the memory.
    #[error(
        "the server before (process {pid}) still lives and may write to our memory; another one \
         (process {new_pid}) is not used"
    )]
    NotFenced {
        /// The old one.
        pid: i32,
        /// The new one.
        new_pid: i32,
    },
    /// We cannot see which process the server is.
    #[error(
        "the server's process cannot be watched, so nobody knows when it lets go of our memory"
    )]
    NoPeer,
}

impl VfioUserError {
    /// Whether the server itself ended the connection, with which it forgets the memory that it had
    /// by it.
    pub(super) const fn is_closed(&self) -> bool {
        matches!(
            self,
            Self::Socket { source: SocketError::Closed | SocketError::Torn { .. }, .. }
                | Self::Lost { source: SocketError::Closed | SocketError::Torn { .. } }
        )
    }

    /// 3 where a server is missing, 1 otherwise.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Absent { .. } => Exit::Missing,
            _ => Exit::Error,
        }
    }
}
