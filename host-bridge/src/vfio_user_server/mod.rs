//! A vfio-user server: the software NVMe controller for any client on this machine.
//!
//! The model runs on a thread of its own, as it does in a partition's process: it polls doorbells
//! in shared memory and reads and writes the client's memory, which is mapped here. A second,
//! sleeping thread holds the socket and answers messages. So a client measures the same device in
//! both places, but for the cache lines that cross.
//!
//! Only this user and root are served: the socket is private, and each client is asked for its
//! user. One client at a time, as with other servers of the protocol; a second one waits in the
//! backlog. When a client goes, the controller is disabled, the client's memory is forgotten, and
//! the next one finds a controller after a reset, with what its namespaces hold.
//!
//! Not here: interrupts (clients must poll), memory that is not given as a file, migration.
//! A client may take pages of its memory away while they are mapped; the server gets a SIGBUS then,
//! as every server of this protocol that maps memory does. Serve nobody whom that would please.

mod config_space;
mod device;
mod memory;

#[cfg(test)]
mod tests;

use std::fs::Permissions;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nvme_model::{Idle, Model, ModelConfig, ModelGauges, ModelThread, ThreadError, ThreadOptions};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

use self::device::Device;
use crate::affinity::pin_to;
use crate::sys::memfd::MemoryRefused;
use crate::sys::signals::with_signals_blocked;
use crate::vfio_user::socket::{Connection, SocketError, timespec};
use crate::vfio_user::wire::{Command, HEADER_BYTES, Header};

/// Largest message taken: a region query with a page of room behind it, and some.
const MOST: usize = HEADER_BYTES + 8192;

/// How long the rest of a message may take once it has begun, and a reply to be taken.
const PATIENCE: Duration = Duration::from_secs(5);

/// How soon a client is tried again for whom there was no descriptor or no memory.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// How a server is run.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    /// The controller.
    pub model: ModelConfig,
    /// What its thread does without work.
    pub idle: Idle,
    /// The CPU of its thread.
    pub cpu: Option<u32>,
    /// Where it tells how busy it is.
    pub gauges: ModelGauges,
}

/// Why a server cannot be started, or ended badly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The controller cannot be made.
    #[error("the model controller cannot be made: {0}")]
    Model(String),
    /// Another server listens there.
    #[error("{path}: a server listens there already; stop it, or use another --socket")]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// There is something that is no socket of a dead server.
    #[error("{path}: there is something that is no socket; use another --socket")]
    Occupied {
        /// The socket.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("{path}: {source}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// No memory or address space for the doorbells.
    #[error("no memory for the doorbells: {0}")]
    Memory(Errno),
    /// No memory file.
    #[error(transparent)]
    File(#[from] MemoryRefused),
    /// A thread cannot be started.
    #[error("a thread cannot be started: {0}")]
    Thread(std::io::Error),
    /// The model's thread has ended, or an image could not be synced.
    #[error("{0}")]
    Image(#[from] ThreadError),
    /// A thread of ours is gone: a bug.
    #[error("the server's thread has ended")]
    Ended,
}

/// A running server.
#[derive(Debug)]
pub struct VfioUserServer {
    path: PathBuf,
    stop: Arc<OwnedFd>,
    clients: Arc<AtomicU64>,
    control: Option<JoinHandle<()>>,
    model: Option<Arc<ModelThread>>,
}

impl VfioUserServer {
    /// Serves a controller at `socket`, from now on.
    ///
    /// # Errors
    /// [`ServerError`]; nothing is left behind then.
    pub fn start(socket: &Path, options: ServerOptions) -> Result<Self, ServerError> {
        let ServerOptions { model, idle, cpu, gauges } = options;
        let model = Model::new(model).map_err(|error| ServerError::Model(error.to_string()))?;
        Self::serve(socket, model, idle, cpu, gauges)
    }

    /// As [`Self::start`], with a controller that served before.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn serve(
        socket: &Path,
        model: Model,
        idle: Idle,
        cpu: Option<u32>,
        gauges: ModelGauges,
    ) -> Result<Self, ServerError> {
        let own_doorbells = model.doorbells().span;
        let on_start = cpu.map(|cpu| -> Box<dyn FnOnce() + Send> {
            Box::new(move || {
                // The caller has checked it; elsewhere it would only be slower.
                let _ = pin_to(cpu);
            })
        });
        let threads = ThreadOptions { name: String::new(), idle, on_start, gauges };
        let thread = with_signals_blocked(|| ModelThread::spawn(model, None, threads))?;
        let thread = Arc::new(thread);
        let device = Device::new(Arc::clone(&thread), own_doorbells)?;
        let listener = listen(socket)?;
        let made = || ServerError::Thread(std::io::ErrorKind::OutOfMemory.into());
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).map_err(|_| made())?);
        let clients = Arc::new(AtomicU64::new(0));
        let control =
            Control { listener, stop: Arc::clone(&stop), clients: Arc::clone(&clients), device };
        let builder = std::thread::Builder::new().name("vfio-user-ctrl".to_owned());
        let control = with_signals_blocked(|| builder.spawn(move || control.run()));
        let control = match control {
            Ok(control) => Some(control),
            Err(error) => {
                let _ = std::fs::remove_file(socket);
                return Err(ServerError::Thread(error));
            }
        };
        Ok(Self { path: socket.to_path_buf(), stop, clients, control, model: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.path
    }

    /// Clients so far.
    #[must_use]
    pub fn clients(&self) -> u64 {
        self.clients.load(Ordering::Relaxed)
    }

    /// Does something with the model between two of its steps; `None` if its thread has ended.
    pub fn with_model<R: Send + 'static>(
        &self,
        what: impl FnOnce(&mut Model) -> R + Send + 'static,
    ) -> Option<R> {
        self.model.as_ref()?.call(what)
    }

    /// Ends the connection and the server, syncs the images, and gives the model back.
    ///
    /// # Errors
    /// [`ServerError::Image`] if an image could not be synced.
    pub fn stop(mut self) -> Result<Box<Model>, ServerError> {
        self.end_control();
        let model = self.model.take().and_then(Arc::into_inner).ok_or(ServerError::Ended)?;
        Ok(Box::new(model.stop()?))
    }

    fn end_control(&mut self) {
        // The counter has room for one.
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        if let Some(control) = self.control.take() {
            // A panic there was printed already.
            let _ = control.join();
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Drop for VfioUserServer {
    fn drop(&mut self) {
        self.end_control();
    }
}

/// A listener at `path`, in place of a dead server's.
fn listen(path: &Path) -> Result<UnixListener, ServerError> {
    let failed = |source| ServerError::Socket { path: path.to_path_buf(), source };
    if let Ok(meta) = std::fs::symlink_metadata(path) {
        use std::os::unix::fs::FileTypeExt;
        if !meta.file_type().is_socket() {
            return Err(ServerError::Occupied { path: path.to_path_buf() });
        }
        match UnixStream::connect(path) {
            Ok(_) => return Err(ServerError::Taken { path: path.to_path_buf() }),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    // Who connects in between is asked for its user, as everyone is.
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// The control thread.
struct Control {
    listener: UnixListener,
    stop: Arc<OwnedFd>,
    clients: Arc<AtomicU64>,
    device: Device,
}

impl Control {
    fn run(mut self) {
        while self.wakes(self.listener.as_fd()) {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                // One that went away again is none.
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                // No descriptor or no memory for it now: it stays in the backlog, and poll would
                // call again at once.
                Err(_) => match self.stopped_within(ACCEPT_AGAIN) {
                    true => return,
                    false => continue,
                },
            };
            let connection = Connection::over(stream.into());
            // Another user's: its memory would be ours to write, and our blocks its to read.
            if !matches!(connection.stranger(), Ok(None)) {
                continue;
            }
            self.clients.fetch_add(1, Ordering::Relaxed);
            if self.device.welcome().is_ok() {
                // However it ended: the next client has nothing to do with it.
                let _ = self.serve(&connection);
                // First the memory is forgotten, then the client hears it.
                self.device.farewell();
            }
        }
    }

    /// Sleeps; true when the server shall end.
    fn stopped_within(&self, time: Duration) -> bool {
        let mut fds = [PollFd::new(&*self.stop, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&timespec(time))), Ok(1))
    }

    /// Waits for something from `other`; false when the server shall end.
    fn wakes(&self, other: BorrowedFd<'_>) -> bool {
        loop {
            let mut fds =
                [PollFd::new(&*self.stop, PollFlags::IN), PollFd::new(&other, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) if !fds[0].revents().is_empty() => return false,
                Ok(_) | Err(Errno::INTR) if fds[1].revents().is_empty() => {}
                Ok(_) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Answers messages until the client goes or the server ends.
    fn serve(&mut self, connection: &Connection) -> Result<(), SocketError> {
        let mut agreed = false;
        while self.wakes(connection.as_fd()) {
            let message = connection.receive(MOST, Instant::now() + PATIENCE)?;
            let header = message.header;
            if !header.is_command() {
                return Err(SocketError::Closed);
            }
            let is_version = header.command.get() == Command::VERSION.0;
            let answer = match agreed == is_version {
                // The version comes first, and once.
                true => Err(Errno::INVAL),
                false => self.device.handle(message),
            };
            agreed |= is_version && answer.is_ok();
            if header.flags.get() & Header::FLAG_NO_REPLY == 0 {
                self.reply(connection, &header, answer)?;
            }
        }
        Ok(())
    }

    fn reply(
        &self,
        connection: &Connection,
        to: &Header,
        answer: Result<(Vec<u8>, bool), Errno>,
    ) -> Result<(), SocketError> {
        let deadline = Instant::now() + PATIENCE;
        match answer {
            Ok((payload, with_file)) => {
                let file = [self.device.doorbell_file()];
                let fds = if with_file { &file[..] } else { &[] };
                connection.send(&to.reply(payload.len()), &[&payload], fds, deadline)
            }
            Err(errno) => {
                let errno = u32::try_from(errno.raw_os_error()).unwrap_or(22);
                connection.send(&to.failure(errno), &[], &[], deadline)
            }
        }
    }
}
