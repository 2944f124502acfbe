//! vfio-user: a controller in another process, reached through a socket.
//!
//! What the hot path needs is memory: the server maps the partition's DMA memory, whose file is
//! sent to it, and lets us map its doorbells. A server that does not is refused, since every
//! doorbell would be a message then. All messages are the host's: at attach, and from the session's
//! thread while the partition runs, which serves the registers through the mailbox.
//!
//! | module | what |
//! |---|---|
//! | `client` | messages: asked, answered, checked |
//! | `session` | the thread: registers, status, loss and return of the server |
//! | `registers` | the partition's side |
//! | `relay` | doorbells of a partition that is a process, for a server that came later |
//! | `probe` | whether the doorbells can be mapped, within a deadline |
//! | `peer` | whether a server that is gone can still write |
//! | `error` | what can go wrong |
//!
//! **Time.** Each message, and reaching a server with all messages that this takes, may take
//! [`VfioUserOptions::timeout`]. A register access of the driver waits for the session, and so for
//! both in the worst case. Looks at CSTS while I/O goes on wait for nothing.
//!
//! **A server that dies** may come back at the same socket within [`VfioUserOptions::reconnect`]:
//! the driver resets the controller then, as after a fatal status, and goes on. See `session`.

mod client;
mod error;
mod peer;
mod probe;
pub(in crate::backend) mod registers;
mod relay;
mod session;

#[cfg(test)]
mod tests;

use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use core_runtime::mailbox::MailboxServer;
use core_runtime::mem::DoorbellRegion;
use hybrid_abi::handoff::FileRole;
use nvme_driver::MAX_IO_QUEUES;
use nvme_spec::registers::{Cap, Register};
use rustix::io::Errno;

use self::probe::probe;
use self::registers::{Published, SHARED_BYTES};
use self::relay::PartitionDoorbells;
use self::session::{Beginning, Ended, Opened, Session, Settings, Share, open, shown};
use super::{
    Attached, AttachedFile, Backend, BackendError, Detached, DeviceIngredients, DeviceKeeper,
    DeviceReport, DeviceSeat,
};
use crate::affinity::confine_to;
use crate::memory::SharedMemory;
use crate::runtime::{Isolation, iova_region};
use crate::sys::memfd::PageSize;
use crate::sys::signals::with_signals_blocked;
use crate::sys::window::Window;

pub use error::VfioUserError;

/// Pages that doorbells are mapped in.
const PAGE: usize = 4096;

/// What a partition's register access waits beyond two messages: a thread that has to wait for a
/// CPU.
const MARGIN: Duration = Duration::from_millis(500);

/// How patient the client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VfioUserOptions {
    /// How long a message may take.
    pub timeout: Duration,
    /// How long another server is waited for when one is lost; zero does not wait.
    pub reconnect: Duration,
}

impl Default for VfioUserOptions {
    /// 2 s for a message, which servers that poll answer within milliseconds; 10 s for a restart.
    fn default() -> Self {
        Self { timeout: Duration::from_secs(2), reconnect: Duration::from_secs(10) }
    }
}

/// A vfio-user server as a partition's device.
#[derive(Clone, Debug)]
pub struct VfioUserBackend {
    settings: Settings,
}

impl VfioUserBackend {
    /// The server that listens at `socket`.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>, options: VfioUserOptions) -> Self {
        let VfioUserOptions { timeout, reconnect } = options;
        Self { settings: Settings { path: socket.into(), timeout, reconnect } }
    }

    fn refused(&self, source: VfioUserError) -> BackendError {
        BackendError::VfioUser { device: shown(&self.settings.path), source: Box::new(source) }
    }
}

impl Backend for VfioUserBackend {
    fn describe(&self) -> String {
        shown(&self.settings.path)
    }

    fn look(&self) -> Result<(), BackendError> {
        let path = self.settings.path.clone();
        let error = match std::fs::metadata(&path) {
            Ok(meta) if meta.file_type().is_socket() => return Ok(()),
            Ok(_) => VfioUserError::Unreachable { path, errno: Errno::NOTSOCK },
            Err(_) => VfioUserError::Absent { path, errno: Errno::NOENT },
        };
        Err(self.refused(error))
    }

    fn attach(self: Box<Self>, seat: &DeviceSeat<'_>) -> Result<Attached, BackendError> {
        let region = iova_region(seat.dma.mapped.span(), seat.dma.mapped.page().bytes())?;
        let memory = |errno: Errno| BackendError::Descriptors(errno.into());
        let file =
            seat.dma.memfd.as_fd().try_clone_to_owned().map_err(BackendError::Descriptors)?;
        let share = Share { file, region };
        let opened = open(&self.settings, &share, None).map_err(|error| self.refused(error))?;
        let Opened { server, doorbells, identity } = opened;
        let doorbell_bytes = doorbell_bytes(identity.cap, doorbells.len);
        let mut window = Window::reserve(doorbell_bytes).map_err(memory)?;
        // The file is the server's, which may cut it at any time: our process must outlive that.
        window.guard().map_err(memory)?;
        let (offset, len) = (doorbells.offset, doorbell_bytes);
        probe(&doorbells, len, self.settings.timeout).map_err(|error| self.refused(error))?;
        window
            .show(doorbells.file.as_fd(), offset, len)
            .map_err(|errno| self.refused(VfioUserError::DoorbellFile { len, offset, errno }))?;
        let span = window.span(doorbell_bytes);
        let registers = seat.memory.shared("hybrid-registers", SHARED_BYTES)?;
        let shared = registers.mapped.span();
        let own = || {
            let file = doorbells.file.as_fd().try_clone_to_owned();
            file.map_err(BackendError::Descriptors)
        };
        let page = PageSize::Small4K;
        let seen = Some(span.read_only());
        let files = vec![
            AttachedFile::of(&registers, FileRole::SHARED)?,
            AttachedFile { file: own()?, role: FileRole::FOREIGN, offset, page, seen },
        ];
        let doorbells_apart = match seat.isolation {
            Isolation::Process => Some(PartitionDoorbells { file: own()?, offset }),
            Isolation::Thread => None,
        };
        let stop = Arc::new(AtomicBool::new(false));
        let description = self.describe();
        let timeout = self.settings.timeout;
        let session = Session::new(Beginning {
            settings: self.settings,
            share,
            server,
            identity,
            window,
            doorbell_bytes,
            mailbox: MailboxServer::new(shared)?,
            published: Published::new(shared)?,
            warnings: seat.memory.warnings().clone(),
            stop: Arc::clone(&stop),
            doorbells_apart,
        });
        let housekeeping = seat.housekeeping;
        let thread = with_signals_blocked(|| {
            std::thread::Builder::new().name("vfio-user".to_owned()).spawn(move || {
                // It was checked with the runtime's set; elsewhere it would only be slower.
                let _ = confine_to(housekeeping);
                session.run()
            })
        })
        .map_err(BackendError::Thread)?;
        let wait_ns = u64::try_from((2 * timeout + MARGIN).as_nanos()).unwrap_or(u64::MAX);
        let ingredients = DeviceIngredients::by_session(shared, wait_ns, span, region);
        let thread = Some(thread);
        let keeper = SessionKeeper { thread, ended: None, stop, description, registers };
        Ok(Attached { ingredients, files, keeper: Box::new(keeper) })
    }
}

/// What the driver can ring at most, in whole pages, as far as the server's file goes.
fn doorbell_bytes(cap: u64, offered: usize) -> usize {
    let dstrd = Cap::from_raw(cap).dstrd();
    let most = DoorbellRegion::bytes_for(MAX_IO_QUEUES + 1, dstrd);
    most.next_multiple_of(PAGE).min(offered)
}

/// The session's thread, and what to undo.
struct SessionKeeper {
    thread: Option<JoinHandle<Ended>>,
    ended: Option<Ended>,
    stop: Arc<AtomicBool>,
    description: String,
    registers: SharedMemory,
}

impl SessionKeeper {
    /// Waits for the session's end, and takes what it left.
    fn join(&mut self) -> &mut Ended {
        if let Some(thread) = self.thread.take() {
            self.ended = Some(thread.join().unwrap_or_else(|_| Ended::panicked()));
        }
        self.ended.get_or_insert_default()
    }
}

impl DeviceKeeper for SessionKeeper {
    /// The session ends with the controller disabled and the server's word that it has let go of
    /// our memory; a server without that word is waited for until its process is gone.
    fn fence(&mut self) -> Result<(), String> {
        self.stop.store(true, Ordering::Release);
        if self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return Err("the vfio-user server has not let go of the memory yet".to_owned());
        }
        let ended = self.join();
        match ended.has_let_go() {
            true => Ok(()),
            false => Err(ended.problem.clone().unwrap_or_default()),
        }
    }

    fn stop(mut self: Box<Self>) -> Detached {
        self.stop.store(true, Ordering::Release);
        let problem = self.join().problem.take();
        let report =
            DeviceReport { description: self.description, problem, ..DeviceReport::default() };
        Detached { report, memory: vec![self.registers] }
    }
}
