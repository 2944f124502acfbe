//! Doorbells of a partition that is a process, once its server is another one.
//!
//! Such a partition has the first server's doorbells mapped and can map no others: it makes no
//! system call. When another server is let in, the session carries over what the partition rings in
//! the old file, for as long as the partition lives. That costs a look of the session's thread, so
//! that it does not sleep any more; the next start of the partition maps the new server's file and
//! needs no carrier.
//!
//! A value is carried when it differs from the last one. Both sides begin with zeros, and so again
//! whenever the driver has disabled the controller: it rings nothing then, and begins its queues at
//! zero.

use std::os::fd::{AsFd, OwnedFd};

use hybrid_shm::{Span, Word32};
use rustix::io::Errno;

use crate::sys::window::Window;

/// The file that the partition has mapped.
#[derive(Debug)]
pub(super) struct PartitionDoorbells {
    pub(super) file: OwnedFd,
    pub(super) offset: u64,
}

/// A carrier of doorbells.
#[derive(Debug)]
pub(super) struct Relay {
    /// Shows the partition's file; keeps the words below valid.
    _shown: Window,
    pairs: Vec<Pair>,
}

/// A doorbell on both sides.
#[derive(Debug)]
struct Pair {
    from: Word32<'static>,
    to: Word32<'static>,
    last: u32,
}

impl Relay {
    /// From the partition's doorbells to those in `to`; clears the former.
    ///
    /// # Errors
    /// What the kernel said to mapping them.
    pub(super) fn new(from: &PartitionDoorbells, to: Span<'static>) -> Result<Self, Errno> {
        let mut shown = Window::reserve(to.len())?;
        shown.guard()?;
        shown.show(from.file.as_fd(), from.offset, to.len())?;
        let rung = shown.span(to.len());
        let pair =
            |at| Some(Pair { from: rung.word32(at).ok()?, to: to.word32(at).ok()?, last: 0 });
        let pairs = (0..to.len()).step_by(size_of::<u32>()).filter_map(pair).collect();
        let mut relay = Self { _shown: shown, pairs };
        relay.clear();
        Ok(relay)
    }

    /// The driver begins anew.
    pub(super) fn clear(&mut self) {
        for pair in &mut self.pairs {
            pair.from.store(0);
            pair.last = 0;
        }
    }

    /// Carries over what was rung; whether there was anything.
    pub(super) fn carry(&mut self) -> bool {
        let mut any = false;
        for pair in &mut self.pairs {
            // SYNC doorbell: entries were written before the doorbell that names them.
            let value = pair.from.load_acquire();
            if value != pair.last {
                pair.last = value;
                pair.to.store_release(value);
                any = true;
            }
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::memfd::{Memfd, PageSize};

    #[test]
    fn what_is_rung_on_one_side_is_heard_on_the_other_once_and_anew_after_a_reset() {
        let memfd = Memfd::create("doorbells", 8192, PageSize::Small4K).expect("8 KiB");
        let mut partition = Window::reserve(4096).expect("address space");
        partition.guard().expect("guarded");
        partition.show(memfd.as_fd(), 4096, 4096).expect("shown");
        let ring = partition.span(4096).word32(8).expect("inside");
        ring.store(5);
        let server = hybrid_shm::leak_zeroed(4096);
        let file = memfd.as_fd().try_clone_to_owned().expect("a descriptor");
        let mut relay =
            Relay::new(&PartitionDoorbells { file, offset: 4096 }, server).expect("mapped");
        assert_eq!(ring.load(), 0, "what was rung to the server before is none of this one's");
        assert!(!relay.carry());
        let heard = server.word32(8).expect("inside");
        ring.store(7);
        assert!(relay.carry() && !relay.carry());
        assert_eq!(heard.load(), 7);
        relay.clear();
        ring.store(7);
        assert!(relay.carry(), "the same value means something again");
    }
}
