//! Who listens to the kernel while a partition drives the device.
//!
//! A thread waits for the kernel's two notices: the function is to be given up (it is being
//! unplugged, or its driver unbound), or the bus had an uncorrectable error. It sets the word that
//! [`super::regs::BarRegs`] looks at; the driver then ends every command with "gone" at its next
//! look at CSTS, 10 ms later at most, and the partition ends. The kernel waits for us meanwhile, so
//! a partition that does not end is not waited for: after [`RELEASE_LIMIT`] the registers are
//! mapped over with ones and the device is let go under its feet.
//!
//! For a partition that is a thread, every [`WATCH`] it also looks at the command register, which
//! only system calls reach: bus mastering that somebody switched off, or INTx on, is put right, and
//! told at the end. Memory space that is off is what a reset of the bus leaves: the device is gone
//! then, whoever looks first, the driver at its registers or the thread here.
//!
//! Where the partition is a process, that process has the device, and nobody here can look at it:
//! the kernel's notices alone are heard, and a partition that does not end in time is killed, which
//! lets the device go.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use hybrid_conventions::{Bdf, CpuSet};
use hybrid_shm::Word32;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, pidfd_send_signal};
use rustix::time::Timespec;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::device::{Device, Notices, Seen};
use super::error::VfioError;
use super::faults::{FaultLog, in_words};
use super::give_back;
use crate::affinity::confine_to;
use crate::backend::{Detached, DeviceKeeper, DeviceReport};
use crate::memory::SharedMemory;
use crate::process::PartitionProcess;
use crate::sys::signals::with_signals_blocked;
use crate::sys::vfio::borrow;

/// How long a partition may take to end after the kernel asked for its device.
pub const RELEASE_LIMIT: Duration = Duration::from_secs(5);

/// How often the command register is looked at: below what the driver's bring-up after a reset
/// takes patience for.
const WATCH: Duration = Duration::from_millis(20);

/// What the kernel asked, or the command register showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notice {
    Removal,
    BusError,
    Vanished,
    Off,
}

impl Notice {
    const fn text(self) -> &'static str {
        match self {
            Self::Removal => "the kernel asked for it back: it was unplugged or its driver unbound",
            Self::BusError => "an uncorrectable error on the bus",
            Self::Vanished => "it does not answer any more: it was pulled out",
            Self::Off => "its memory space is off: its bus was reset, or somebody switched it off",
        }
    }
}

/// What the thread leaves.
struct Left {
    holder: Option<Holder>,
    notice: Option<Notice>,
    problems: Vec<String>,
    /// Times that bus mastering was off, or INTx on.
    repairs: u64,
}

/// The host's side of a VFIO device.
pub struct VfioKeeper {
    thread: Option<JoinHandle<Left>>,
    problems: Vec<String>,
    repairs: u64,
    stop: EventFd,
    description: String,
    gone: SharedMemory,
    give_back: bool,
    bdf: Bdf,
    faults: FaultLog,
    process: Arc<OnceLock<OwnedFd>>,
}

/// What a keeper tells and is told by.
pub struct Keeping {
    /// What it was, for reports.
    pub description: String,
    /// The word at its start is set when the device is to be given up.
    pub gone: SharedMemory,
    /// Where its thread may run.
    pub housekeeping: CpuSet,
    /// Whether the function goes to the kernel's driver at the end.
    pub give_back: bool,
}

/// Who has the device.
enum Holder {
    /// We do.
    Here(Box<Device>),
    /// The partition's process; its descriptor comes when it has started.
    There(Arc<OnceLock<OwnedFd>>),
}

impl Holder {
    fn close(self, gone: bool) -> Vec<String> {
        match self {
            Self::Here(device) => device.close(gone),
            Self::There(_) => Vec::new(),
        }
    }
}

impl VfioKeeper {
    /// Starts listening, and keeps the device.
    ///
    /// # Errors
    /// [`VfioError`]; the device is closed then.
    pub fn start(device: Device, keeping: Keeping) -> Result<Self, VfioError> {
        let bdf = device.found().bdf;
        let notices = Notices::new(bdf).and_then(|notices| {
            device.notify(&notices)?;
            Ok(notices)
        });
        match notices {
            Ok(notices) => Self::listening(bdf, Holder::Here(Box::new(device)), notices, keeping),
            Err(error) => {
                device.close(false);
                Err(error)
            }
        }
    }

    /// Starts listening to what the kernel will tell of a device that a partition's process opens.
    ///
    /// # Errors
    /// [`VfioError`].
    pub fn of_process(bdf: Bdf, notices: Notices, keeping: Keeping) -> Result<Self, VfioError> {
        Self::listening(bdf, Holder::There(Arc::default()), notices, keeping)
    }

    fn listening(
        bdf: Bdf,
        holder: Holder,
        notices: Notices,
        keeping: Keeping,
    ) -> Result<Self, VfioError> {
        let Keeping { description, gone, housekeeping, give_back } = keeping;
        let faults = FaultLog::new(std::path::Path::new("/"), bdf);
        let stop = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(VfioError::Thread)?;
        let word = gone.mapped.span().word32(0).expect("a page holds a word");
        let stopped = stop.try_clone().map_err(VfioError::Thread)?;
        let process = match &holder {
            Holder::Here(_) => Arc::default(),
            Holder::There(process) => Arc::clone(process),
        };
        let (hand_over, taken) = channel();
        let body = move || {
            // Checked against the runtime's set before; elsewhere it would only be slower.
            let _ = confine_to(housekeeping);
            listen(&taken, &notices, &stopped, word)
        };
        let builder = std::thread::Builder::new().name("vfio-keeper".to_owned());
        match with_signals_blocked(|| builder.spawn(body)) {
            Ok(thread) => {
                // The thread waits for it.
                let _ = hand_over.send(holder);
                let (problems, repairs) = (Vec::new(), 0);
                Ok(Self {
                    thread: Some(thread),
                    problems,
                    repairs,
                    stop,
                    description,
                    gone,
                    give_back,
                    bdf,
                    faults,
                    process,
                })
            }
            Err(error) => {
                holder.close(false);
                Err(VfioError::Thread(error))
            }
        }
    }
}

fn listen(
    taken: &Receiver<Holder>,
    notices: &Notices,
    stop: &EventFd,
    gone: Word32<'static>,
) -> Left {
    let mut left =
        Left { holder: taken.recv().ok(), notice: None, problems: Vec::new(), repairs: 0 };
    left.notice = loop {
        match first_word(notices, stop, WATCH) {
            Some(Word::Stop) => break None,
            Some(Word::Notice(notice)) => break Some(notice),
            None => {}
        }
        let Some(Holder::Here(device)) = &left.holder else { continue };
        match device.watch() {
            Seen::Repaired => left.repairs += 1,
            Seen::Off => break Some(Notice::Off),
            Seen::Gone => break Some(Notice::Vanished),
            Seen::Well => {}
        }
    };
    if left.notice.is_none() {
        return left;
    }
    // SYNC vfio-gone: pairs with the driver's look; it orders nothing else.
    gone.store(1);
    if wait_for(&[stop], Some(RELEASE_LIMIT)).is_some() {
        return left;
    }
    left.problems.push(format!(
        "the partition did not end within {} s; the device was taken from it",
        RELEASE_LIMIT.as_secs()
    ));
    match left.holder.take() {
        Some(Holder::There(process)) => {
            // An error says that it has ended.
            let _ = process.get().map(|process| pidfd_send_signal(process, Signal::KILL));
        }
        Some(holder) => left.problems.extend(holder.close(true)),
        None => {}
    }
    left
}

/// Who spoke first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Stop,
    Notice(Notice),
}

/// Waits for the host's word to stop or the kernel's notice; `None` when the time is over.
fn first_word(notices: &Notices, stop: &EventFd, limit: Duration) -> Option<Word> {
    match wait_for(&[stop, &notices.request, &notices.error], Some(limit))? {
        0 => Some(Word::Stop),
        1 => Some(Word::Notice(Notice::Removal)),
        _ => Some(Word::Notice(Notice::BusError)),
    }
}

/// Which of `fds` is readable first; `None` when the time is over, or nothing can be waited for.
fn wait_for(fds: &[&EventFd], limit: Option<Duration>) -> Option<usize> {
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    loop {
        let mut polled: Vec<_> =
            fds.iter().map(|fd| PollFd::from_borrowed_fd(borrow(*fd), PollFlags::IN)).collect();
        match poll(&mut polled, limit.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            Err(_) | Ok(0) => return None,
            Ok(_) => return polled.iter().position(|fd| fd.revents().contains(PollFlags::IN)),
        }
    }
}

impl VfioKeeper {
    fn say_stop(&self) {
        // An eventfd takes a 1 whenever it does not hold the largest number.
        let _ = self.stop.write(1);
    }

    /// Waits for the thread's end, stops the device and lets it go.
    fn close(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        match thread.join() {
            Ok(left) => {
                let gone = left.notice.is_some();
                let notice = left.notice.map(|notice| format!("{}: {}", self.bdf, notice.text()));
                self.problems.extend(notice);
                self.problems.extend(left.problems);
                self.repairs = left.repairs;
                if let Some(holder) = left.holder {
                    self.problems.extend(holder.close(gone));
                }
            }
            Err(_) => self.problems.push("the device's keeper panicked".to_owned()),
        }
    }
}

impl DeviceKeeper for VfioKeeper {
    fn started(&mut self, process: &PartitionProcess) {
        if let Ok(pidfd) = process.pidfd().try_clone_to_owned() {
            let _ = self.process.set(pidfd);
        }
    }

    /// Where the device is this process's own it is stopped, unmapped and closed; where it was the
    /// partition's, the kernel has done so. Then it must be one that can be opened again.
    fn fence(&mut self) -> Result<(), String> {
        self.say_stop();
        if self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return Err("the device's keeper has not let go yet".to_owned());
        }
        self.close();
        super::can_be_had(self.bdf).map_err(|error| error.to_string())
    }

    fn stop(mut self: Box<Self>) -> Detached {
        self.say_stop();
        self.close();
        let mut report = DeviceReport { description: self.description, ..DeviceReport::default() };
        let mut problems = self.problems;
        report.notes.extend(repaired(self.bdf, self.repairs));
        report.notes.extend(in_words(self.bdf, &self.faults.take()));
        if self.give_back {
            let back = give_back::give_back(std::path::Path::new("/"), self.bdf);
            problems.extend(back.err().map(|error| error.to_string()));
        }
        report.problem = (!problems.is_empty()).then(|| problems.join("; "));
        Detached { report, memory: vec![self.gone] }
    }
}

fn repaired(bdf: Bdf, times: u64) -> Option<String> {
    let times = match times {
        0 => return None,
        1 => "once".to_owned(),
        times => format!("{times} times"),
    };
    Some(format!(
        "{bdf}: somebody switched bus mastering off or INTx on, {times}; it was put right"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eventfd() -> EventFd {
        EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).expect("an eventfd")
    }

    #[test]
    fn the_hosts_word_counts_before_the_kernels() {
        let notices = Notices { request: eventfd(), error: eventfd() };
        let stop = eventfd();
        let word = || first_word(&notices, &stop, Duration::ZERO);
        assert_eq!(word(), None);
        notices.error.write(1).expect("room");
        assert_eq!(word(), Some(Word::Notice(Notice::BusError)));
        notices.request.write(1).expect("room");
        assert_eq!(word(), Some(Word::Notice(Notice::Removal)));
        stop.write(1).expect("room");
        assert_eq!(word(), Some(Word::Stop));
    }
}
