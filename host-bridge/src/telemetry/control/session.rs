//! One client: lines in, lines out, with limits on size and time.

use std::io::{self, ErrorKind, IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::Value;

use super::super::Seen;
use super::super::stopper::{Stopper, Woken};
use super::Host;
use super::methods::{Reply, call};
use super::rpc::{Request, RpcError, line};

/// Longest request, its newline included. The longest sensible one has about 200 bytes.
pub(super) const LINE_BYTES: usize = 4096;

/// From a request's first byte to its newline, and for an answer to be taken.
const LINE_TIME: Duration = Duration::from_secs(2);

/// Says why not, and nothing more.
pub(super) fn refuse(mut stream: &UnixStream, why: &str) {
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_write_timeout(Some(LINE_TIME));
    // Who is refused may as well have gone.
    let _ = stream.write_all(line(&Value::Null, Err(RpcError::request(why))).as_bytes());
}

/// Serves a client until it goes, breaks the rules, or the host ends.
pub(super) fn serve(stream: &UnixStream, host: &Host, stop: &Stopper) {
    let limits = stream
        .set_nonblocking(false)
        .and_then(|()| stream.set_read_timeout(Some(LINE_TIME)))
        .and_then(|()| stream.set_write_timeout(Some(LINE_TIME)));
    if limits.is_err() {
        return;
    }
    let mut rest = Vec::new();
    loop {
        let request = match next(stream, stop, &mut rest) {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(why) => return refuse(stream, &why),
        };
        let (answer, seen) = answer(host, &request);
        if send(stream, &answer, seen.as_ref().map(Seen::region)).is_err() {
            return;
        }
    }
}

/// The answer to a line without its newline, and whose region goes with it.
pub(super) fn answer(host: &Host, request: &[u8]) -> (String, Option<Seen>) {
    let (id, result) = match Request::parse(request) {
        Ok(request) => {
            let result = call(host, &request);
            (request.id, result)
        }
        Err((id, error)) => (id, Err(error)),
    };
    match result {
        Ok(Reply { value, region }) => (line(&id, Ok(value)), region),
        Err(error) => (line(&id, Err(error)), None),
    }
}

/// The next line, without its newline; `None` at the end.
fn next(
    mut stream: &UnixStream,
    stop: &Stopper,
    rest: &mut Vec<u8>,
) -> Result<Option<Vec<u8>>, String> {
    let mut begun = (!rest.is_empty()).then(Instant::now);
    loop {
        if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let mut line: Vec<u8> = rest.drain(..=end).collect();
            line.pop();
            return Ok(Some(line));
        }
        if rest.len() >= LINE_BYTES {
            return Err(format!("a request has at most {LINE_BYTES} bytes, its newline included"));
        }
        let left = begun.map(|begun: Instant| LINE_TIME.saturating_sub(begun.elapsed()));
        match stop.wait(Some(stream), left) {
            Woken::Stop => return Ok(None),
            Woken::Late if left.is_some_and(|left| left.is_zero()) => {
                return Err(format!("a request takes at most {} s", LINE_TIME.as_secs()));
            }
            Woken::Late => continue,
            Woken::Ready => {}
        }
        let mut piece = [0_u8; 1024];
        let room = piece.len().min(LINE_BYTES - rest.len());
        match stream.read(piece.get_mut(..room).unwrap_or_default()) {
            Ok(0) if rest.is_empty() => return Ok(None),
            Ok(0) => return Err("a request ends with a newline".to_owned()),
            Ok(count) => rest.extend(piece.get(..count).unwrap_or_default()),
            Err(error) if is_passing(&error) => {}
            Err(_) => return Ok(None),
        }
        begun = begun.or_else(|| Some(Instant::now()));
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock)
}

/// Sends a line, and a descriptor with its first byte.
fn send(mut stream: &UnixStream, line: &str, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut bytes = line.as_bytes();
    if let Some(fd) = fd {
        let fds = [fd];
        let mut space = [const { MaybeUninit::uninit() }; rustix::cmsg_space!(ScmRights(1))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        beside.push(SendAncillaryMessage::ScmRights(&fds));
        let slices = [IoSlice::new(bytes)];
        let sent = sendmsg(stream, &slices, &mut beside, SendFlags::NOSIGNAL)?;
        bytes = bytes.get(sent..).unwrap_or_default();
    }
    stream.write_all(bytes)
}
