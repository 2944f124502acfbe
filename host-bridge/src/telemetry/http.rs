//! `GET /metrics` on a port or a socket: what Prometheus scrapes.
//!
//! One thread, one request at a time, each closed after its answer. It reads a request's head up to
//! 8 KiB within two seconds and looks at its first line; whatever else a client says is not heard.
//! There is nothing that a client could change.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use super::stopper::{Service, Stopper, Woken};
use super::{Telemetry, families, text};
use crate::telemetry::control::socket::bind_private;

/// Longest head of a request.
const HEAD_BYTES: usize = 8192;

/// A request's and an answer's time.
const CLIENT_TIME: Duration = Duration::from_secs(2);

/// A pause after a failed accept, so that a machine out of descriptors is not made worse.
const PAUSE: Duration = Duration::from_millis(100);

/// Where to listen: `ADDRESS:PORT`, or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A port; 0 takes a free one.
    Port(SocketAddr),
    /// A socket of this user's own.
    Socket(PathBuf),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(said: &str) -> Result<Self, Self::Err> {
        if let Some(path) = said.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Socket(path.into()));
        }
        let allowed = "an address and a port (127.0.0.1:9464), or unix:PATH";
        said.parse().map(Self::Port).map_err(|_| format!("{said:?}: allowed is {allowed}"))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(address) => write!(f, "{address}"),
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A client whose waits are bounded.
trait Client: Read + Write {
    fn limit(&self, time: Duration) -> io::Result<()>;
}

impl Client for TcpStream {
    fn limit(&self, time: Duration) -> io::Result<()> {
        self.set_nonblocking(false)?;
        self.set_read_timeout(Some(time))?;
        self.set_write_timeout(Some(time))
    }
}

impl Client for UnixStream {
    fn limit(&self, time: Duration) -> io::Result<()> {
        self.set_nonblocking(false)?;
        self.set_read_timeout(Some(time))?;
        self.set_write_timeout(Some(time))
    }
}

/// A listener; its socket's file goes with it.
enum Listener {
    Port(TcpListener),
    Socket(UnixListener, PathBuf),
}

impl Listener {
    fn accept(&self) -> io::Result<Box<dyn Client>> {
        Ok(match self {
            Self::Port(listener) => Box::new(listener.accept()?.0),
            Self::Socket(listener, _) => Box::new(listener.accept()?.0),
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Socket(_, path) = self {
            // Somebody else may have removed it.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The running port. It ends when this is dropped.
#[derive(Debug)]
pub struct HttpExport {
    _service: Service,
    at: Listen,
}

impl HttpExport {
    /// Listens and serves.
    ///
    /// # Errors
    /// The system's: the address is taken, or is not this machine's.
    pub fn start(telemetry: &Telemetry, listen: &Listen) -> io::Result<Self> {
        let (listener, at) = match listen {
            Listen::Port(address) => {
                let listener = TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                let at = Listen::Port(listener.local_addr()?);
                (Listener::Port(listener), at)
            }
            Listen::Socket(path) => {
                let listener = bind_private(path)?;
                listener.set_nonblocking(true)?;
                (Listener::Socket(listener, path.clone()), listen.clone())
            }
        };
        let telemetry = telemetry.clone();
        let service = Service::start("hybrid-metrics", move |stop| {
            serve(&listener, &telemetry, &stop);
        })?;
        Ok(Self { _service: service, at })
    }

    /// Where it listens, with the port that was taken.
    #[must_use]
    pub const fn at(&self) -> &Listen {
        &self.at
    }
}

fn serve(listener: &Listener, telemetry: &Telemetry, stop: &Stopper) {
    let fd: &dyn AsFd = match listener {
        Listener::Port(listener) => listener,
        Listener::Socket(listener, _) => listener,
    };
    while stop.wait(Some(fd), None) != Woken::Stop {
        match listener.accept() {
            Ok(mut client) => drop(talk(client.as_mut(), telemetry)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) if stop.wait(None, Some(PAUSE)) == Woken::Stop => return,
            Err(_) => {}
        }
    }
}

/// A client that goes away or dawdles is its own business.
fn talk(client: &mut dyn Client, telemetry: &Telemetry) -> io::Result<()> {
    client.limit(CLIENT_TIME)?;
    let answer = match head(client)? {
        Some(head) => answer(&head, || text::write(&families::collect(telemetry))),
        None => plain(431, "the request's head is longer than 8 KiB"),
    };
    client.write_all(&answer)?;
    client.flush()
}

/// Up to the empty line; `None` if it does not come within 8 KiB.
fn head(client: &mut dyn Client) -> io::Result<Option<Vec<u8>>> {
    let begun = Instant::now();
    let (mut head, mut piece) = (Vec::new(), [0; 1024]);
    while !ends(&head) {
        if head.len() >= HEAD_BYTES {
            return Ok(None);
        }
        if begun.elapsed() >= CLIENT_TIME {
            return Err(ErrorKind::TimedOut.into());
        }
        match client.read(&mut piece)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => head.extend(piece.get(..count).unwrap_or_default()),
        }
    }
    Ok(Some(head))
}

fn ends(head: &[u8]) -> bool {
    head.windows(4).any(|four| four == b"\r\n\r\n") || head.windows(2).any(|two| two == b"\n\n")
}

/// The bytes of an answer to a request's head.
fn answer(head: &[u8], metrics: impl FnOnce() -> String) -> Vec<u8> {
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.trim_end().split(' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    let (Some(method), Some(target), Some(version)) = (method, target, version) else {
        return plain(400, "a request begins with a method, a path and a version");
    };
    if !version.starts_with("HTTP/1.") {
        return plain(400, "HTTP/1.0 and HTTP/1.1 are spoken here");
    }
    let path = target.split('?').next().unwrap_or_default();
    let mut answer = match (method, path) {
        ("GET" | "HEAD", "/metrics") => response(200, text::CONTENT_TYPE, &metrics()),
        ("GET" | "HEAD", "/") => plain(200, "the figures are at /metrics"),
        ("GET" | "HEAD", _) => plain(404, "there is /metrics and nothing else"),
        _ => plain(405, "GET and HEAD are allowed"),
    };
    if method == "HEAD"
        && let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n")
    {
        answer.truncate(end + 4);
    }
    answer
}

fn plain(status: u16, line: &str) -> Vec<u8> {
    response(status, "text/plain; charset=utf-8", &format!("{line}\n"))
}

fn response(status: u16, kind: &str, body: &str) -> Vec<u8> {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        _ => "Request Header Fields Too Large",
    };
    let allow = if status == 405 { "Allow: GET, HEAD\r\n" } else { "" };
    format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
         {allow}Cache-Control: no-store\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(head: &str) -> String {
        String::from_utf8(answer(head.as_bytes(), || "figures\n".to_owned())).expect("text")
    }

    #[test]
    fn a_scrape_gets_figures_and_anything_else_a_line() {
        let scraped = said("GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(scraped.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"));
        assert!(
            scraped.contains("Content-Length: 8\r\n") && scraped.ends_with("\r\n\r\nfigures\n")
        );
        assert!(said("HEAD /metrics HTTP/1.1\r\n\r\n").ends_with("close\r\n\r\n"));
        for (head, status) in [
            ("GET /../etc/passwd HTTP/1.1\r\n\r\n", "404"),
            ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
            ("GET /metrics\r\n\r\n", "400"),
            ("GET /metrics SPDY/3\r\n\r\n", "400"),
            ("\0\u{fffd}\r\n\r\n", "400"),
            ("\r\n\r\n", "400"),
        ] {
            assert!(said(head).starts_with(&format!("HTTP/1.1 {status} ")), "{head:?}");
        }
    }

    #[test]
    fn places_to_listen_are_read_as_they_are_written() {
        for text in ["127.0.0.1:9464", "[::1]:0", "unix:/run/x.sock"] {
            assert_eq!(text.parse::<Listen>().expect("one").to_string(), text);
        }
        for text in ["", "9464", "unix:", "localhost:9464"] {
            assert!(text.parse::<Listen>().is_err(), "{text:?}");
        }
    }
}
