//! The helper's loop: a socket that root owns, one connection after the other.
//!
//! Run by `sysconfig serve`, from the service manager's socket or one that it makes itself. It ends
//! at SIGTERM or SIGINT. The peer's credentials are the kernel's (SO_PEERCRED), taken at connect.

use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::socket_peercred;

use super::config::Config;
use super::session::{Peer, serve};
use crate::device::tree::Tree;
use crate::failure::Failure;
use crate::sys::inherited;

/// Between two looks for a signal.
const LOOK_NS: i64 = 250_000_000;

/// A pause after a failed accept, so that a machine out of descriptors is not made worse.
const PAUSE: Duration = Duration::from_millis(100);

/// The listening socket, removed at the end if it is ours.
pub(crate) struct Server {
    listener: UnixListener,
    made: Option<PathBuf>,
}

impl Server {
    /// Takes the service manager's socket.
    pub(crate) fn inherited() -> Result<Self, Failure> {
        let listener = inherited::listener().ok_or_else(|| {
            Failure::error("the service manager promised a socket and passed none")
        })?;
        Self::with(listener, None)
    }

    /// Makes the config's socket, with its mode and group.
    pub(crate) fn made(config: &Config) -> Result<Self, Failure> {
        let path = config.socket.as_path();
        let failed = |error: io::Error| {
            let hint =
                if error.kind() == ErrorKind::PermissionDenied { " (run it as root)" } else { "" };
            Failure::error(format_args!("{}: {error}{hint}", path.display()))
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        remove_stale(path)?;
        let listener = UnixListener::bind(path).map_err(failed)?;
        // Nobody may connect before owner and mode are right: the umask is no help, the order is.
        std::os::unix::fs::chown(path, None, config.gid).map_err(failed)?;
        let mode = std::fs::Permissions::from_mode(config.mode);
        std::fs::set_permissions(path, mode).map_err(failed)?;
        Self::with(listener, Some(path.to_owned()))
    }

    fn with(listener: UnixListener, made: Option<PathBuf>) -> Result<Self, Failure> {
        let failed = |error| Failure::error(format_args!("the socket: {error}"));
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self { listener, made })
    }

    /// Serves until `stopped`.
    pub(crate) fn run(
        &self,
        tree: &dyn Tree,
        config: &Config,
        stopped: &dyn Fn() -> bool,
        log: &mut dyn FnMut(&str),
    ) -> Result<(), Failure> {
        let look = Timespec { tv_sec: 0, tv_nsec: LOOK_NS };
        while !stopped() {
            let mut ready = [PollFd::new(&self.listener, PollFlags::IN)];
            match poll(&mut ready, Some(&look)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(Failure::error(format_args!("the socket: {error}"))),
            }
            match self.listener.accept() {
                Ok((stream, _)) => one(tree, config, stream, log),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => {
                    log(&format!("accept: {error}"));
                    tree.pause(PAUSE);
                }
            }
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(path) = &self.made {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn one(tree: &dyn Tree, config: &Config, stream: UnixStream, log: &mut dyn FnMut(&str)) {
    let mut stream = stream;
    let peer = match socket_peercred(&stream) {
        Ok(cred) => Peer {
            uid: cred.uid.as_raw(),
            gid: cred.gid.as_raw(),
            pid: cred.pid.as_raw_nonzero().get(),
        },
        Err(error) => return log(&format!("a peer without credentials: {error}")),
    };
    if stream.set_nonblocking(false).is_ok() {
        serve(tree, config, &mut stream, peer, log);
    }
}

/// A socket that a killed helper left behind goes; one that somebody serves is an error, and what
/// is no socket is never removed.
fn remove_stale(path: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::FileTypeExt as _;
    let shown = path.display();
    match std::fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(Failure::error(format_args!("{shown} is there and is no socket")));
        }
        Ok(_) => {}
    }
    if UnixStream::connect(path).is_ok() {
        return Err(Failure::error(format_args!(
            "{shown} is served already; systemctl stop hybrid-sysconfig-helper.socket \
             hybrid-sysconfig-helper.service ends that"
        )));
    }
    std::fs::remove_file(path).map_err(|error| Failure::error(format_args!("{shown}: {error}")))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::device::fake::FakeKernel;
    use crate::root::Root;

    fn config(socket: PathBuf) -> Config {
        let (_, root) = ((), Root::at("/nowhere"));
        let mut config = Config::parse(&root, "").expect("an empty config");
        config.socket = socket;
        config.uids = vec![rustix::process::getuid().as_raw()];
        config
    }

    #[test]
    fn a_real_client_is_answered_over_the_socket() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = config(folder.path().join("run/helper.sock"));
        let server = Server::made(&config).expect("a socket");
        let mode = std::fs::metadata(&config.socket).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let stop = AtomicBool::new(false);
        let mut logged = Vec::new();
        std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                let mut stream = UnixStream::connect(&config.socket).expect("it listens");
                stream
                    .write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"rpc_get_methods\"}\n")
                    .expect("sent");
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).expect("answered");
                stop.store(true, Ordering::Relaxed);
                line
            });
            let mut log = |line: &str| logged.push(line.to_owned());
            let tree = FakeKernel::with_drive();
            server.run(&tree, &config, &|| stop.load(Ordering::Relaxed), &mut log).expect("served");
            assert!(client.join().expect("no panic").contains("\"device_bind\""));
        });
        assert_eq!(logged.len(), 1);
        assert!(logged[0].ends_with("rpc_get_methods: done"), "{logged:?}");
        drop(server);
        assert!(!config.socket.exists(), "it takes its socket away");
    }

    #[test]
    fn stale_sockets_go_and_other_things_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("helper.sock");
        drop(UnixListener::bind(&path).expect("made"));
        assert!(path.exists(), "a socket file without a listener");
        let server = Server::made(&config(path.clone())).expect("it was stale");
        let error = Server::made(&config(path.clone())).err().expect("served already");
        assert!(error.line.contains("is served already"), "{}", error.line);
        drop(server);
        std::fs::write(&path, "precious").expect("written");
        let error = Server::made(&config(path.clone())).err().expect("no socket");
        assert!(error.line.ends_with("is there and is no socket"), "{}", error.line);
        assert_eq!(std::fs::read_to_string(&path).expect("untouched"), "precious");
    }
}
