//! One connection: lines in, lines out, with limits on size, number and time.
//!
//! Called by [`super::server`] with the credentials that the kernel gives. Connections are served
//! one after the other; a peer that dawdles is cut off after [`LINE_TIME`].

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::config::Config;
use super::rpc::{INVALID_REQUEST, RpcError, answer, respond};
use crate::device::tree::Tree;

/// Longest request, its newline included. The longest sensible one has about 150 bytes.
pub(crate) const LINE_BYTES: usize = 4096;

/// Longest time from the first look for a request to its newline, and for an answer to be taken.
pub(crate) const LINE_TIME: Duration = Duration::from_secs(2);

/// Requests of one connection.
const REQUESTS: u32 = 64;

/// Who is at the other end, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) pid: i32,
}

/// A stream whose waits can be bounded.
pub(crate) trait Stream: Read + Write {
    /// Bounds the next reads and writes.
    fn limit(&self, time: Duration) -> io::Result<()>;
}

impl Stream for UnixStream {
    fn limit(&self, time: Duration) -> io::Result<()> {
        // Zero would mean for ever.
        let time = Some(time.max(Duration::from_millis(1)));
        self.set_read_timeout(time)?;
        self.set_write_timeout(time)
    }
}

/// What came instead of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoLine {
    /// The peer has gone, between two requests.
    End,
    /// It went in the middle of one.
    Cut,
    TooLong,
    TooSlow,
    Broken,
}

/// Serves one peer to its end. Each request is logged through `log`.
pub(crate) fn serve(
    tree: &dyn Tree,
    config: &Config,
    stream: &mut dyn Stream,
    peer: Peer,
    log: &mut dyn FnMut(&str),
) {
    let Peer { uid, gid, pid } = peer;
    let mut log = |what: &str| log(&format!("uid={uid} gid={gid} pid={pid} {what}"));
    if !config.lets(uid, gid) {
        let message = format!("the config does not list uid {uid}");
        let refusal = RpcError::new(super::rpc::NOT_LISTED, message);
        let said = respond(&Value::Null, "connection", Err(refusal));
        log(&said.log);
        send(stream, &said.line);
        return;
    }
    let mut rest = Vec::new();
    for _ in 0..REQUESTS {
        let said = match line(stream, &mut rest) {
            Ok(line) => answer(tree, config, &line),
            Err(NoLine::End) => return,
            Err(no_line) => {
                let message = match no_line {
                    NoLine::TooLong => format!("a request has at most {LINE_BYTES} bytes"),
                    NoLine::TooSlow => {
                        format!("a request takes at most {} s", LINE_TIME.as_secs())
                    }
                    NoLine::End | NoLine::Cut | NoLine::Broken => {
                        "a request ends with a newline".to_owned()
                    }
                };
                let refusal = RpcError::new(INVALID_REQUEST, message);
                let said = respond(&Value::Null, "a request that is none", Err(refusal));
                log(&said.log);
                send(stream, &said.line);
                return;
            }
        };
        log(&said.log);
        if !send(stream, &said.line) {
            return;
        }
    }
    log(&format!("connection: ended after {REQUESTS} requests"));
}

/// Whether the peer took it.
fn send(stream: &mut dyn Stream, line: &str) -> bool {
    stream.limit(LINE_TIME).is_ok() && stream.write_all(line.as_bytes()).is_ok()
}

/// The next line, without its newline; what came behind it stays in `rest`.
fn line(stream: &mut dyn Stream, rest: &mut Vec<u8>) -> Result<Vec<u8>, NoLine> {
    let deadline = Instant::now() + LINE_TIME;
    loop {
        if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let mut line: Vec<u8> = rest.drain(..=end).collect();
            line.pop();
            return Ok(line);
        }
        if rest.len() >= LINE_BYTES {
            return Err(NoLine::TooLong);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(NoLine::TooSlow);
        }
        stream.limit(left).map_err(|_| NoLine::Broken)?;
        let mut piece = [0_u8; 512];
        let room = piece.len().min(LINE_BYTES - rest.len());
        match stream.read(&mut piece[..room]) {
            Ok(0) if rest.is_empty() => return Err(NoLine::End),
            Ok(0) => return Err(NoLine::Cut),
            Ok(count) => rest.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(NoLine::TooSlow);
            }
            Err(_) => return Err(NoLine::Broken),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::fake::FakeKernel;

    /// A peer that sends pieces and takes everything; after the last piece it is slow or gone.
    struct Fake {
        pieces: Vec<Vec<u8>>,
        slow: bool,
        said: Vec<u8>,
    }

    impl Read for Fake {
        fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
            let Some(piece) = self.pieces.first_mut() else {
                return if self.slow { Err(ErrorKind::WouldBlock.into()) } else { Ok(0) };
            };
            let count = piece.len().min(bytes.len());
            bytes[..count].copy_from_slice(&piece[..count]);
            piece.drain(..count);
            if piece.is_empty() {
                self.pieces.remove(0);
            }
            Ok(count)
        }
    }

    impl Write for Fake {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.said.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Stream for Fake {
        fn limit(&self, _: Duration) -> io::Result<()> {
            Ok(())
        }
    }

    fn config() -> Config {
        Config {
            socket: "/run/x".into(),
            mode: 0o660,
            gid: None,
            uids: vec![990],
            gids: vec![980],
            devices: Vec::new(),
            irq_cpus: hybrid_conventions::CpuSet::EMPTY,
        }
    }

    /// What a peer with these credentials is told, and what the log says.
    fn talk(uid: u32, gid: u32, pieces: &[&[u8]], slow: bool) -> (Vec<Value>, Vec<String>) {
        let pieces = pieces.iter().map(|piece| piece.to_vec()).collect();
        let mut stream = Fake { pieces, slow, said: Vec::new() };
        let mut logged = Vec::new();
        let peer = Peer { uid, gid, pid: 5 };
        let mut log = |line: &str| logged.push(line.to_owned());
        serve(&FakeKernel::with_drive(), &config(), &mut stream, peer, &mut log);
        let said = String::from_utf8(stream.said).expect("text");
        (said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect(), logged)
    }

    const METHODS: &[u8] = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"rpc_get_methods\"}\n";

    #[test]
    fn credentials_decide_before_a_byte_is_read() {
        let (said, logged) = talk(1000, 1000, &[METHODS], false);
        assert_eq!(said.len(), 1);
        assert_eq!(said[0]["error"]["code"], super::super::rpc::NOT_LISTED);
        assert_eq!(
            logged,
            ["uid=1000 gid=1000 pid=5 connection: refused (-32001): the config does not list \
                 uid 1000"]
        );
        for (uid, gid) in [(990, 1), (1, 980), (0, 0)] {
            let (said, _) = talk(uid, gid, &[METHODS], false);
            assert_eq!(said[0]["id"], 1, "uid {uid} gid {gid}");
            assert!(said[0]["result"].is_array());
        }
    }

    #[test]
    fn requests_may_come_in_pieces_and_several_at_once() {
        let (first, second) = METHODS.split_at(20);
        let both = [second, METHODS].concat();
        let (said, logged) = talk(990, 1, &[first, &both], false);
        assert_eq!((said.len(), logged.len()), (2, 2));
        assert_eq!(logged[0], "uid=990 gid=1 pid=5 rpc_get_methods: done");
    }

    #[test]
    fn a_huge_request_is_cut_off() {
        let huge = vec![b'x'; 1 << 20];
        let (said, logged) = talk(990, 1, &[&huge], false);
        assert_eq!(said.len(), 1);
        assert_eq!(said[0]["error"]["message"], "a request has at most 4096 bytes");
        assert_eq!(logged.len(), 1);
    }

    #[test]
    fn half_a_request_is_refused_whether_the_peer_waits_or_goes() {
        let (said, _) = talk(990, 1, &[&METHODS[..30]], true);
        assert_eq!(said[0]["error"]["message"], "a request takes at most 2 s");
        let (said, _) = talk(990, 1, &[&METHODS[..30]], false);
        assert_eq!(said[0]["error"]["message"], "a request ends with a newline");
        let (said, logged) = talk(990, 1, &[], false);
        assert!(said.is_empty() && logged.is_empty(), "a peer that only connects");
    }

    #[test]
    fn one_connection_cannot_ask_for_ever() {
        let many = METHODS.repeat(500);
        let (said, logged) = talk(990, 1, &[&many], false);
        assert_eq!(said.len(), 64);
        assert_eq!(
            logged.last().map(String::as_str),
            Some("uid=990 gid=1 pid=5 connection: ended after 64 requests")
        );
    }

    #[test]
    fn garbage_bytes_are_answered_line_by_line() {
        let (said, _) = talk(990, 1, &[b"\xff\xfe\n\0\n", METHODS], false);
        assert_eq!(said.len(), 3);
        assert_eq!(said[0]["error"]["code"], -32700);
        assert!(said[2]["result"].is_array(), "the connection lives on");
    }
}
