//! vfio-user messages over a stream socket.
//!
//! Called by the client's session thread and by the server's control thread. Every call has a
//! deadline. A message is written by one system call with its descriptors, and read in two steps:
//! the header, whose size is checked, and the rest. Descriptors that come are close-on-exec; more
//! than [`MAX_FDS`] are an error. Nothing is believed here but shapes: what a message means is the
//! caller's to check.
//!
//! After an error the connection is of no use: it may stand in the middle of a message.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::num::NonZeroI32;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use zerocopy::{FromBytes, IntoBytes};

use super::wire::{HEADER_BYTES, Header};
use crate::sys::ancillary;

/// Descriptors that one message may carry: areas of a region, or one file of memory.
pub const MAX_FDS: usize = 8;

/// How often a busy listener is tried again.
const CONNECT_AGAIN: Duration = Duration::from_millis(2);

/// Why a message could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// End of the stream between two messages.
    #[error("the peer closed the connection")]
    Closed,
    /// End of the stream in the middle of one.
    #[error(
        "the peer closed the connection in the middle of a message, {missing} bytes before its \
             end"
    )]
    Torn {
        /// Bytes that did not come.
        missing: usize,
    },
    /// The deadline passed.
    #[error("no answer in time")]
    TimedOut,
    /// A size that no message has.
    #[error("a message of {size} bytes; allowed are {HEADER_BYTES} to {most}")]
    Size {
        /// What the header says.
        size: u32,
        /// Largest allowed.
        most: usize,
    },
    /// More descriptors than a message may carry.
    #[error("more than {MAX_FDS} file descriptors with one message")]
    TooManyFds,
    /// The system call failed.
    #[error("socket: {0}")]
    Io(Errno),
}

impl From<Errno> for SocketError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::PIPE | Errno::CONNRESET => Self::Closed,
            errno => Self::Io(errno),
        }
    }
}

/// A message that came.
#[derive(Debug)]
pub struct Message {
    /// Its header.
    pub header: Header,
    /// What follows it.
    pub payload: Vec<u8>,
    /// Files that came with it.
    pub fds: Vec<OwnedFd>,
    /// The process that sent it, where the connection was opened here and it can be seen; `None`
    /// too if parts of it are of several.
    pub sender: Option<NonZeroI32>,
}

/// What comes beside the bytes of one message.
#[derive(Default)]
struct Beside {
    fds: Vec<OwnedFd>,
    /// Of each part, the last one's and whether all were the same.
    sender: Option<NonZeroI32>,
    mixed: bool,
}

/// A connected stream socket.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
}

impl Connection {
    /// Over a socket that is connected already.
    #[must_use]
    pub const fn over(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Connects to the listener at `path`; waits while its backlog is full.
    ///
    /// # Errors
    /// The kernel's answer: `NOENT` and `CONNREFUSED` mean that nobody listens; `TIMEDOUT` at the
    /// deadline.
    pub fn open(path: &Path, deadline: Instant) -> Result<Self, Errno> {
        let address = SocketAddrUnix::new(path)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        loop {
            match rustix::net::connect(&socket, &address) {
                Ok(()) => {
                    // From here on each message says who sent it.
                    rustix::net::sockopt::set_socket_passcred(&socket, true)?;
                    return Ok(Self { socket });
                }
                Err(Errno::AGAIN | Errno::INTR) if Instant::now() < deadline => {
                    std::thread::sleep(CONNECT_AGAIN);
                }
                Err(Errno::AGAIN | Errno::INTR) => return Err(Errno::TIMEDOUT),
                Err(errno) => return Err(errno),
            }
        }
    }

    /// The user at the other end, if it is neither us nor root: as the kernel noted it when the
    /// connection was made (of a listener, when it began to listen).
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn stranger(&self) -> Result<Option<u32>, Errno> {
        let peer = rustix::net::sockopt::socket_peercred(&self.socket)?.uid;
        let known = peer.is_root() || peer == rustix::process::geteuid();
        Ok((!known).then(|| peer.as_raw()))
    }

    /// Sends a header, its payload and descriptors.
    ///
    /// # Errors
    /// [`SocketError`].
    pub fn send(
        &self,
        header: &Header,
        payload: &[&[u8]],
        fds: &[BorrowedFd<'_>],
        deadline: Instant,
    ) -> Result<(), SocketError> {
        let mut bytes = header.as_bytes().to_vec();
        payload.iter().for_each(|part| bytes.extend_from_slice(part));
        let mut rest = &bytes[..];
        let mut fds = fds;
        while !rest.is_empty() {
            match self.send_some(rest, fds) {
                Ok(sent) => {
                    rest = rest.get(sent..).unwrap_or_default();
                    fds = &[];
                }
                Err(Errno::AGAIN) => self.wait_for(PollFlags::OUT, deadline)?,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn send_some(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Errno::TOOBIG);
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::net::sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut control, flags)
    }

    /// Receives the next message, of `most` bytes at most, header included.
    ///
    /// # Errors
    /// [`SocketError`].
    pub fn receive(&self, most: usize, deadline: Instant) -> Result<Message, SocketError> {
        let mut beside = Beside::default();
        let mut head = [0; HEADER_BYTES];
        self.fill(&mut head, true, &mut beside, deadline)?;
        // It is as long as the structure.
        let header = Header::read_from_bytes(&head).expect("sixteen bytes are a header");
        let size = header.size.get();
        let refused = SocketError::Size { size, most };
        let Ok(total) = usize::try_from(size) else { return Err(refused) };
        if !(HEADER_BYTES..=most).contains(&total) {
            return Err(refused);
        }
        let mut payload = vec![0; total - HEADER_BYTES];
        self.fill(&mut payload, false, &mut beside, deadline)?;
        let Beside { fds, sender, mixed } = beside;
        Ok(Message { header, payload, fds, sender: sender.filter(|_| !mixed) })
    }

    /// Reads until `buffer` is full.
    fn fill(
        &self,
        buffer: &mut [u8],
        first: bool,
        beside: &mut Beside,
        deadline: Instant,
    ) -> Result<(), SocketError> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.receive_some(rest, beside) {
                Ok(0) if first && done == 0 => return Err(SocketError::Closed),
                Ok(0) => return Err(SocketError::Torn { missing: rest.len() }),
                Ok(got) => done += got,
                Err(SocketError::Io(Errno::AGAIN)) => self.wait_for(PollFlags::IN, deadline)?,
                Err(SocketError::Io(Errno::INTR)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn receive_some(&self, into: &mut [u8], beside: &mut Beside) -> Result<usize, SocketError> {
        let got = ancillary::receive(self.socket.as_fd(), into, &mut beside.fds)?;
        if got.truncated || beside.fds.len() > MAX_FDS {
            return Err(SocketError::TooManyFds);
        }
        beside.mixed |= beside.sender.is_some() && beside.sender != got.sender;
        beside.sender = got.sender;
        Ok(got.bytes)
    }

    fn wait_for(&self, what: PollFlags, deadline: Instant) -> Result<(), SocketError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(SocketError::TimedOut);
        }
        let mut fds = [PollFd::new(&self.socket, what)];
        match poll(&mut fds, Some(&timespec(left))) {
            Ok(0) => Err(SocketError::TimedOut),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A duration as the kernel wants it.
#[must_use]
pub fn timespec(time: Duration) -> Timespec {
    // A wait of half an eternity is cut to what fits.
    let tv_sec = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    Timespec { tv_sec, tv_nsec: i64::from(time.subsec_nanos()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::super::wire::Command;
    use super::*;

    fn pair() -> (Connection, Connection) {
        let (a, b) = UnixStream::pair().expect("a pair");
        (Connection::over(a.into()), Connection::over(b.into()))
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    fn header(payload: usize) -> Header {
        Header::command(7, Command::VERSION, payload)
    }

    #[test]
    fn a_message_arrives_whole_with_its_descriptors_closed_on_exec() {
        let (a, b) = pair();
        let file = std::fs::File::open("/dev/null").expect("a file");
        a.send(&header(5), &[b"ab", b"cde"], &[file.as_fd(); 3], soon()).expect("sent");
        let got = b.receive(4096, soon()).expect("received");
        assert_eq!((got.header, &got.payload[..], got.fds.len()), (header(5), &b"abcde"[..], 3));
        for fd in &got.fds {
            let flags = rustix::io::fcntl_getfd(fd).expect("flags");
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        }
    }

    #[test]
    fn sizes_that_no_message_has_are_refused() {
        for size in [0, 15, 4097, u32::MAX] {
            let (a, b) = pair();
            let mut wrong = header(0);
            wrong.size = size.into();
            a.send(&wrong, &[], &[], soon()).expect("sent");
            let refused = b.receive(4096, soon());
            assert!(matches!(refused, Err(SocketError::Size { most: 4096, .. })), "{refused:?}");
        }
    }

    #[test]
    fn an_end_between_messages_and_one_inside_are_told_apart() {
        let (a, b) = pair();
        drop(a);
        assert!(matches!(b.receive(64, soon()), Err(SocketError::Closed)));
        let (a, b) = pair();
        a.send(&header(10), &[b"abc"], &[], soon()).expect("sent");
        drop(a);
        assert!(matches!(b.receive(64, soon()), Err(SocketError::Torn { missing: 7 })));
        let (a, b) = pair();
        drop(b);
        assert!(matches!(a.send(&header(0), &[], &[], soon()), Err(SocketError::Closed)));
    }

    #[test]
    fn silence_ends_at_the_deadline() {
        let (a, b) = pair();
        let limit = Duration::from_millis(20);
        let begun = Instant::now();
        assert!(matches!(b.receive(64, begun + limit), Err(SocketError::TimedOut)));
        assert!(begun.elapsed() >= limit);
        // Half a message, and a peer that does not read.
        a.send(&header(10), &[b"abc"], &[], soon()).expect("sent");
        let deadline = Instant::now() + limit;
        assert!(matches!(b.receive(64, deadline), Err(SocketError::TimedOut)));
        let deadline = Instant::now() + limit;
        let flood = vec![0; 16 << 20];
        let stuck = a.send(&header(flood.len()), &[&flood], &[], deadline);
        assert!(matches!(stuck, Err(SocketError::TimedOut)));
    }

    #[test]
    fn more_descriptors_than_allowed_are_refused() {
        let (a, b) = pair();
        let file = std::fs::File::open("/dev/null").expect("a file");
        // One with each byte of the header: more in all than one message may carry.
        for byte in header(0).as_bytes() {
            a.send_some(&[*byte], &[file.as_fd()]).expect("sent");
        }
        assert!(matches!(b.receive(64, soon()), Err(SocketError::TooManyFds)));
    }
}
