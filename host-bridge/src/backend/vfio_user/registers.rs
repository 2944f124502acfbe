//! The partition's side: registers through the mailbox, the status without waiting.
//!
//! A message to a server takes up to milliseconds, and a loop that stood still for one every 10 ms
//! to read CSTS would show it in its latencies. So the session reads CSTS on the host's time and
//! publishes it in a word; [`WatchedRegs::look32`] reads that word and never waits. All else, at
//! bring-up, reset and shutdown, goes through the mailbox.

use core::cell::Cell;

use core_runtime::mailbox::{MailboxClient, MailboxLayout};
use hybrid_shm::{OutOfBounds, Span, Word64};
use nvme_driver::{ControlRegs, RegsError};
use nvme_spec::registers::{Csts, Register};

/// Where the word lies: the mailbox comes first, this on a line of its own.
pub(in crate::backend) const STATUS_AT: usize = 512;
/// Bytes of both.
pub(in crate::backend) const SHARED_BYTES: usize = STATUS_AT + 64;
const _: () = assert!(MailboxLayout::BYTES <= STATUS_AT);

/// Registers with a published status.
#[derive(Debug)]
pub(in crate::backend) struct WatchedRegs {
    mailbox: MailboxClient,
    status: Word64<'static>,
    /// Number of the last value that was looked at.
    seen: Cell<u64>,
}

impl WatchedRegs {
    /// Over `mailbox` and the status word of the same memory.
    ///
    /// # Errors
    /// [`OutOfBounds`] if the memory is too short.
    pub(in crate::backend) fn new(
        mailbox: MailboxClient,
        shared: Span<'static>,
    ) -> Result<Self, OutOfBounds> {
        Ok(Self { mailbox, status: shared.word64(STATUS_AT)?, seen: Cell::new(0) })
    }
}

impl ControlRegs for WatchedRegs {
    fn read32(&self, offset: u32) -> Result<u32, RegsError> {
        ControlRegs::read32(&self.mailbox, offset)
    }

    fn look32(&self, offset: u32) -> Result<u32, RegsError> {
        if offset != Csts::OFFSET {
            return ControlRegs::look32(&self.mailbox, offset);
        }
        // SYNC watched-status
        let word = self.status.load_acquire();
        let (number, value) = (word >> 32, word & u64::from(u32::MAX));
        if number == self.seen.replace(number) {
            // Nothing was heard since the last look: no harm for a while.
            return Err(RegsError::TimedOut);
        }
        Ok(u32::try_from(value).unwrap_or(u32::MAX))
    }

    fn read64(&self, offset: u32) -> Result<u64, RegsError> {
        ControlRegs::read64(&self.mailbox, offset)
    }

    fn write32(&self, offset: u32, value: u32) -> Result<(), RegsError> {
        ControlRegs::write32(&self.mailbox, offset, value)
    }

    fn write64(&self, offset: u32, value: u64) -> Result<(), RegsError> {
        ControlRegs::write64(&self.mailbox, offset, value)
    }
}

/// The session's side of the word.
#[derive(Debug)]
pub(super) struct Published {
    word: Word64<'static>,
    number: u32,
}

impl Published {
    pub(super) fn new(shared: Span<'static>) -> Result<Self, OutOfBounds> {
        Ok(Self { word: shared.word64(STATUS_AT)?, number: 0 })
    }

    /// Says what CSTS holds.
    pub(super) fn say(&mut self, csts: u32) {
        self.number = self.number.wrapping_add(1);
        // SYNC watched-status
        self.word.store_release(u64::from(self.number) << 32 | u64::from(csts));
    }
}

#[cfg(test)]
mod tests {
    use core_runtime::clock::Clock;
    use hybrid_shm::leak_zeroed;

    use super::*;

    #[test]
    fn a_look_at_the_status_never_waits_and_sees_each_value_once() {
        let shared = leak_zeroed(SHARED_BYTES);
        // Nobody serves the mailbox: an access of it would take a minute.
        let mailbox = MailboxClient::new(shared, Clock::tsc(1_000_000_000), 60_000_000_000);
        let regs = WatchedRegs::new(mailbox.expect("a mailbox"), shared).expect("long enough");
        let mut published = Published::new(shared).expect("long enough");
        let begun = std::time::Instant::now();
        assert_eq!(regs.look32(Csts::OFFSET), Err(RegsError::TimedOut));
        for value in [1, 1, 3, u32::MAX] {
            published.say(value);
            assert_eq!(regs.look32(Csts::OFFSET), Ok(value));
            assert_eq!(regs.look32(Csts::OFFSET), Err(RegsError::TimedOut));
        }
        assert!(begun.elapsed().as_secs() < 5);
    }
}
