//! Who listens to the kernel while a partition drives the device.
//!
//! A thread waits for the kernel's two notices: the function is to be given up (it is being
//! unplugged, or its driver unbound), or the bus had an uncorrectable error. It sets the word that
//! [`super::regs::BarRegs`] looks at; the driver then ends every command with "gone" at its next
//! look at CSTS, 10 ms later at most, and the partition ends. The kernel waits for us meanwhile, so
//! a partition that does not end is not waited for: after [`RELEASE_LIMIT`] the registers are
//! mapped over with ones and the device is let go under its feet.

use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use hybrid_conventions::CpuSet;
use hybrid_shm::Word32;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::device::{Device, Notices};
use super::error::VfioError;
use super::give_back;
use crate::affinity::confine_to;
use crate::backend::{Detached, DeviceKeeper, DeviceReport};
use crate::memory::SharedMemory;
use crate::sys::signals::with_signals_blocked;
use crate::sys::vfio::borrow;

/// How long a partition may take to end after the kernel asked for its device.
pub const RELEASE_LIMIT: Duration = Duration::from_secs(5);

/// What the kernel asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notice {
    Removal,
    BusError,
}

impl Notice {
    const fn text(self) -> &'static str {
        match self {
            Self::Removal => "the kernel asked for it back: it was unplugged or its driver unbound",
            Self::BusError => "an uncorrectable error on the bus",
        }
    }
}

/// What the thread leaves.
struct Left {
    device: Option<Device>,
    notice: Option<Notice>,
    problems: Vec<String>,
}

/// The host's side of a VFIO device.
pub struct VfioKeeper {
    thread: JoinHandle<Left>,
    stop: EventFd,
    description: String,
    gone: SharedMemory,
    give_back: bool,
    bdf: hybrid_conventions::Bdf,
}

impl VfioKeeper {
    /// Starts listening. The word at the start of `gone` is set when the device is to be given up.
    ///
    /// # Errors
    /// [`VfioError`]; the device is closed then.
    pub fn start(
        device: Device,
        description: String,
        gone: SharedMemory,
        housekeeping: CpuSet,
        give_back: bool,
    ) -> Result<Self, VfioError> {
        let bdf = device.found().bdf;
        let notices = match device.notices() {
            Ok(notices) => notices,
            Err(error) => {
                device.close(false);
                return Err(error);
            }
        };
        let stop = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(VfioError::Thread)?;
        let word = gone.mapped.span().word32(0).expect("a page holds a word");
        let stopped = stop.try_clone().map_err(VfioError::Thread)?;
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
                let _ = hand_over.send(device);
                Ok(Self { thread, stop, description, gone, give_back, bdf })
            }
            Err(error) => {
                device.close(false);
                Err(VfioError::Thread(error))
            }
        }
    }
}

fn listen(
    taken: &Receiver<Device>,
    notices: &Notices,
    stop: &EventFd,
    gone: Word32<'static>,
) -> Left {
    let mut left = Left { device: taken.recv().ok(), notice: None, problems: Vec::new() };
    left.notice = first_notice(notices, stop);
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
    if let Some(device) = left.device.take() {
        left.problems.extend(device.close(true));
    }
    left
}

/// Waits for the kernel or for the host's word to stop; `None` is the latter.
fn first_notice(notices: &Notices, stop: &EventFd) -> Option<Notice> {
    match wait_for(&[stop, &notices.request, &notices.error], None)? {
        1 => Some(Notice::Removal),
        2 => Some(Notice::BusError),
        _ => None,
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

impl DeviceKeeper for VfioKeeper {
    fn stop(self: Box<Self>) -> Detached {
        // An eventfd takes a 1 whenever it does not hold the largest number.
        let _ = self.stop.write(1);
        let mut report = DeviceReport { description: self.description, ..DeviceReport::default() };
        let mut problems = Vec::new();
        match self.thread.join() {
            Ok(left) => {
                let gone = left.notice.is_some();
                problems
                    .extend(left.notice.map(|notice| format!("{}: {}", self.bdf, notice.text())));
                problems.extend(left.problems);
                if let Some(device) = left.device {
                    problems.extend(device.close(gone));
                }
            }
            Err(_) => problems.push("the device's keeper panicked".to_owned()),
        }
        if self.give_back {
            let back = give_back::give_back(std::path::Path::new("/"), self.bdf);
            problems.extend(back.err().map(|error| error.to_string()));
        }
        report.problem = (!problems.is_empty()).then(|| problems.join("; "));
        Detached { report, memory: vec![self.gone] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eventfd() -> EventFd {
        EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).expect("an eventfd")
    }

    #[test]
    fn the_first_word_counts_and_the_hosts_before_the_kernels() {
        let (stop, request, error) = (eventfd(), eventfd(), eventfd());
        let notices = Notices { request, error };
        notices.error.write(1).expect("room");
        assert_eq!(first_notice(&notices, &stop), Some(Notice::BusError));
        notices.request.write(1).expect("room");
        assert_eq!(first_notice(&notices, &stop), Some(Notice::Removal));
        stop.write(1).expect("room");
        assert_eq!(first_notice(&notices, &stop), None);
        assert_eq!(wait_for(&[&eventfd()], Some(Duration::ZERO)), None);
    }
}
