//! What comes beside a socket's bytes: descriptors, and which process sent them.
//!
//! Called by [`crate::vfio_user::socket`]. The kernel names the sender of each message on a socket
//! that asks for it (`SO_PASSCRED`): the process that wrote, not the one that began to listen,
//! which is another one where a socket was inherited. A process that this one cannot see is no
//! process.
//!
//! Invariants, named in the SAFETY lines:
//! 1. The kernel writes at most `msg_controllen` bytes to the control buffer, whole messages, and
//!    says how many; the buffer is aligned for their header.
//! 2. A descriptor in a message that came is a new one, which nobody else owns.

use std::mem::{MaybeUninit, size_of};
use std::num::NonZeroI32;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd};

use rustix::io::Errno;

/// Words of the control buffer: eight descriptors and the credentials, and more descriptors than
/// are allowed, so that they are seen.
const WORDS: usize = 32;

/// What came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Bytes; 0 is the end of the stream.
    pub bytes: usize,
    /// More came beside the bytes than there was room for.
    pub truncated: bool,
    /// The process that sent them, if the socket asks for it and it can be seen.
    pub sender: Option<NonZeroI32>,
}

/// Receives what is there, without waiting; descriptors are close-on-exec and go to `fds`.
///
/// # Errors
/// The kernel's answer; `AGAIN` if nothing is there.
pub fn receive(
    socket: BorrowedFd<'_>,
    into: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> Result<Received, Errno> {
    let mut control = [const { MaybeUninit::<u64>::uninit() }; WORDS];
    let mut part = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: all zeroes is a valid `msghdr`: no name, no buffers.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: both buffers live here and are as long as the header says; invariant 1.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let Ok(bytes) = usize::try_from(got) else {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    };
    let truncated = message.msg_flags & libc::MSG_CTRUNC != 0;
    let mut received = Received { bytes, truncated, sender: None };
    // SAFETY: invariant 1: the header describes what the kernel wrote.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !at.is_null() {
        // SAFETY: invariant 1: a whole header lies there.
        let header = unsafe { at.read() };
        // SAFETY: invariant 1, as above: its data follow.
        let data = unsafe { libc::CMSG_DATA(at) };
        // SAFETY: no access to memory, a constant of the platform.
        let head = unsafe { libc::CMSG_LEN(0) } as usize;
        let len = header.cmsg_len.saturating_sub(head);
        match (header.cmsg_level, header.cmsg_type) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                for index in 0..len / size_of::<libc::c_int>() {
                    // SAFETY: within the message's data, by `len`.
                    let fd = unsafe { data.cast::<libc::c_int>().add(index).read_unaligned() };
                    // SAFETY: invariant 2.
                    fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
                }
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if len >= size_of::<libc::ucred>() => {
                // SAFETY: within the message's data, by `len`; any bits are a `ucred`.
                let ucred = unsafe { data.cast::<libc::ucred>().read_unaligned() };
                received.sender = NonZeroI32::new(ucred.pid);
            }
            _ => {}
        }
        // SAFETY: invariant 1: `at` is a header of this message.
        at = unsafe { libc::CMSG_NXTHDR(&raw const message, at) };
    }
    Ok(received)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn bytes_descriptors_and_their_sender_come_together() {
        let (a, b) = UnixStream::pair().expect("a pair");
        let mut buffer = [0; 16];
        let mut fds = Vec::new();
        assert_eq!(receive(b.as_fd(), &mut buffer, &mut fds), Err(Errno::AGAIN));
        rustix::io::write(&a, b"unsigned").expect("sent");
        let got = receive(b.as_fd(), &mut buffer, &mut fds).expect("received");
        assert_eq!(got, Received { bytes: 8, truncated: false, sender: None });
        rustix::net::sockopt::set_socket_passcred(&b, true).expect("asked for");
        rustix::io::write(&a, b"signed").expect("sent");
        let got = receive(b.as_fd(), &mut buffer, &mut fds).expect("received");
        let own = i32::try_from(std::process::id()).ok().and_then(NonZeroI32::new);
        assert_eq!(got, Received { bytes: 6, truncated: false, sender: own });
        assert!(fds.is_empty());
        drop(a);
        assert_eq!(receive(b.as_fd(), &mut buffer, &mut fds).map(|got| got.bytes), Ok(0));
    }

    #[test]
    fn another_process_that_inherits_the_socket_is_the_sender() {
        let (a, b) = UnixStream::pair().expect("a pair");
        rustix::net::sockopt::set_socket_passcred(&b, true).expect("asked for");
        let output = std::process::Stdio::from(OwnedFd::from(a));
        let mut child = std::process::Command::new("echo").stdout(output).spawn().expect("echo");
        let pid = i32::try_from(child.id()).ok().and_then(NonZeroI32::new);
        child.wait().expect("it ends");
        let (mut buffer, mut fds) = ([0; 16], Vec::new());
        let got = receive(b.as_fd(), &mut buffer, &mut fds).expect("received");
        assert_eq!((got.bytes, got.sender), (1, pid));
    }
}
