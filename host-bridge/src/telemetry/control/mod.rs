//! The control socket: JSON-RPC 2.0, a request a line, an answer a line.
//!
//! `<run dir>/<pid>/control.sock`, in a directory of mode 0700: the user who runs the host, and
//! root, may connect; each peer's credentials are the kernel's. What a client may do is listed by
//! `rpc_get_methods` and described in `docs/observability.md`. A client has a thread of its own, of
//! at most 16; requests are short, answers are made from one look.

mod methods;
mod rpc;
mod session;
pub(crate) mod socket;

#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use serde_json::Value;

pub use self::rpc::RpcError;

use super::Telemetry;
use super::stopper::{Service, Stopper, Woken};
use crate::sys::signals::with_signals_blocked;

/// The socket's name in the directory of its process.
pub const SOCKET_NAME: &str = "control.sock";

/// Clients at a time.
const CLIENTS: usize = 16;

/// A pause after a failed accept.
const PAUSE: Duration = Duration::from_millis(100);

/// More methods, of a program or of a part of the host.
pub trait Methods: std::fmt::Debug + Send + Sync {
    /// What can be called: `noun_verb`.
    fn names(&self) -> &[&'static str];

    /// Does it. Called on a client's thread.
    ///
    /// # Errors
    /// [`RpcError`], which the client gets.
    fn call(&self, method: &str, params: &Value) -> Result<Value, RpcError>;
}

/// The directory in which each host makes one of its own: `/run/hybrid-runtime` for root, else
/// below `$XDG_RUNTIME_DIR`, which the caller gives; `None` where there is none.
#[must_use]
pub fn run_dir(is_root: bool, runtime_dir: Option<&Path>) -> Option<PathBuf> {
    const NAME: &str = "hybrid-runtime";
    if is_root {
        return Some(Path::new("/run").join(NAME));
    }
    runtime_dir.filter(|path| path.is_absolute()).map(|path| path.join(NAME))
}

/// The running socket. Dropping it ends its clients and removes it.
#[derive(Debug)]
pub struct ControlSocket {
    service: Option<Service>,
    dir: PathBuf,
}

/// What every client's thread knows.
#[derive(Clone, Debug)]
struct Host {
    telemetry: Telemetry,
    program: Arc<str>,
}

/// The line that a client gets for a line, without its newline, that it sent: for who has no
/// socket, such as a test of what any bytes lead to.
#[must_use]
pub fn answer(telemetry: &Telemetry, program: &str, request: &[u8]) -> String {
    let host = Host { telemetry: telemetry.clone(), program: program.into() };
    session::answer(&host, request).0
}

impl ControlSocket {
    /// Makes `<run_dir>/<pid>/control.sock` and serves it; directories of processes that are gone
    /// are removed.
    ///
    /// # Errors
    /// The system's.
    pub fn start(telemetry: &Telemetry, run_dir: &Path, program: &str) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o755).create(run_dir)?;
        remove_stale(run_dir);
        let dir = run_dir.join(std::process::id().to_string());
        match DirBuilder::new().mode(0o700).create(&dir) {
            // This process had one before.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => made?,
        }
        let listener = socket::bind_private(&dir.join(SOCKET_NAME))?;
        listener.set_nonblocking(true)?;
        let host = Host { telemetry: telemetry.clone(), program: program.into() };
        let service = Service::start("hybrid-control", move |stop| serve(&listener, &host, &stop))?;
        Ok(Self { service: Some(service), dir })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.join(SOCKET_NAME)
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        drop(self.service.take());
        // Somebody else may have removed them.
        let _ = fs::remove_file(self.path());
        let _ = fs::remove_dir(&self.dir);
    }
}

/// Removes what hosts left that were killed. Errors are another user's directories.
fn remove_stale(run_dir: &Path) {
    let Ok(entries) = fs::read_dir(run_dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.parse::<u32>().ok());
        let gone = pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
        if gone {
            let _ = fs::remove_file(entry.path().join(SOCKET_NAME));
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn serve(listener: &UnixListener, host: &Host, stop: &Stopper) {
    let clients = Arc::new(AtomicUsize::new(0));
    let mut threads = Vec::new();
    while stop.wait(Some(listener), None) != Woken::Stop {
        threads.retain(|thread: &std::thread::JoinHandle<()>| !thread.is_finished());
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(_) if stop.wait(None, Some(PAUSE)) == Woken::Stop => break,
            Err(_) => continue,
        };
        if !may_ask(&stream) {
            session::refuse(&stream, "this socket is its owner's and root's");
            continue;
        }
        if clients.fetch_add(1, Ordering::AcqRel) >= CLIENTS {
            session::refuse(&stream, "there are 16 clients already, which is the limit");
            clients.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let (host, stop, counted) = (host.clone(), stop.clone(), Arc::clone(&clients));
        let run = move || {
            session::serve(&stream, &host, &stop);
            counted.fetch_sub(1, Ordering::AcqRel);
        };
        let builder = std::thread::Builder::new().name("hybrid-client".to_owned());
        match with_signals_blocked(|| builder.spawn(run)) {
            Ok(thread) => threads.push(thread),
            // The stream is gone with the closure: the client sees its end.
            Err(_) => drop(clients.fetch_sub(1, Ordering::AcqRel)),
        }
    }
    for thread in threads {
        let _ = thread.join();
    }
}

/// Whether the kernel says that the peer is this user's, or root's.
fn may_ask(stream: &UnixStream) -> bool {
    let ours = rustix::process::geteuid();
    socket_peercred(stream).is_ok_and(|peer| peer.uid == ours || peer.uid.is_root())
}
