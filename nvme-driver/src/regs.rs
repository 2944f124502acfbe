//! Control registers: the one trait through which a controller is brought up, reset and shut down.
//!
//! Backends implement [`ControlRegs`]; the driver calls it at bring-up, reset and shutdown, and
//! once every 10 ms for CSTS, never on the way of an I/O. A read of all ones means that the device
//! is gone (NVMe over PCIe: a read that nobody answers), and so does a CAP or VS that changed; both
//! are told here, before any bit of the value is believed.
//!
//! How long the loop may stand still for it: a look at CSTS while ready, [`LOOK_NS`] at most; each
//! access of a bring-up, reset or shutdown as long as the backend allows; three of these in a row
//! that are not answered mean that the device is gone.

use core::cell::Cell;

use core_runtime::mailbox::{MailboxClient, MailboxError};
use nvme_spec::registers::{Cap, Cc, Csts, Readable, Register, Version, Writable};
use thiserror::Error;

/// How long a look at CSTS may keep the loop while the controller is ready, where its backend can
/// make one wait: a thousand times what a register server takes that has a CPU, and below what
/// counts as a silent loop. One that misses it costs nothing; the next look is 10 ms later.
pub const LOOK_NS: u64 = 1_000_000;

/// Why a register could not be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RegsError {
    /// The device does not answer: all ones, all zeros, or the backend has lost it.
    #[error("the device is gone")]
    Gone,
    /// The backend did not answer in time.
    #[error("no answer from the register backend in time")]
    TimedOut,
    /// The backend refuses this offset or width.
    #[error("the register backend refuses offset {0:#x}")]
    Refused(u32),
}

/// Register access below offset 1000h; only 4- and 8-byte accesses, naturally aligned.
pub trait ControlRegs {
    /// Reads 32 bits.
    ///
    /// # Errors
    /// [`RegsError`] if the backend cannot.
    fn read32(&self, offset: u32) -> Result<u32, RegsError>;
    /// Reads 32 bits while I/O goes on: a backend that can make one wait gives up after
    /// [`LOOK_NS`].
    ///
    /// # Errors
    /// [`RegsError`] if the backend cannot; [`RegsError::TimedOut`] does no harm.
    fn look32(&self, offset: u32) -> Result<u32, RegsError> {
        self.read32(offset)
    }
    /// Reads 64 bits.
    ///
    /// # Errors
    /// [`RegsError`] if the backend cannot.
    fn read64(&self, offset: u32) -> Result<u64, RegsError>;
    /// Writes 32 bits.
    ///
    /// # Errors
    /// [`RegsError`] if the backend cannot.
    fn write32(&self, offset: u32, value: u32) -> Result<(), RegsError>;
    /// Writes 64 bits.
    ///
    /// # Errors
    /// [`RegsError`] if the backend cannot.
    fn write64(&self, offset: u32, value: u64) -> Result<(), RegsError>;
}

impl ControlRegs for MailboxClient {
    fn read32(&self, offset: u32) -> Result<u32, RegsError> {
        Self::read32(self, offset).map_err(|e| from_mailbox(e, offset))
    }

    fn look32(&self, offset: u32) -> Result<u32, RegsError> {
        self.read32_within(offset, LOOK_NS).map_err(|e| from_mailbox(e, offset))
    }

    fn read64(&self, offset: u32) -> Result<u64, RegsError> {
        Self::read64(self, offset).map_err(|e| from_mailbox(e, offset))
    }

    fn write32(&self, offset: u32, value: u32) -> Result<(), RegsError> {
        Self::write32(self, offset, value).map_err(|e| from_mailbox(e, offset))
    }

    fn write64(&self, offset: u32, value: u64) -> Result<(), RegsError> {
        Self::write64(self, offset, value).map_err(|e| from_mailbox(e, offset))
    }
}

fn from_mailbox(error: MailboxError, offset: u32) -> RegsError {
    match error {
        MailboxError::TimedOut { .. } => RegsError::TimedOut,
        MailboxError::Gone => RegsError::Gone,
        _ => RegsError::Refused(offset),
    }
}

/// Accesses in a row that the backend may leave unanswered, each as long as it allows; with as many
/// the device counts as gone.
const MAX_MISSED: u8 = 3;

/// Registers that stay gone once they were: no access is tried after that.
pub(crate) struct Regs {
    inner: &'static dyn ControlRegs,
    gone: Cell<bool>,
    /// Accesses in a row that were not answered.
    missed: Cell<u8>,
    /// CAP and VS as first seen; they never change while the device is the same.
    seen: Cell<Option<(u64, u32)>>,
    /// CSTS as last read and CC as last read or written, for crash records.
    csts: Cell<Option<u32>>,
    cc: Cell<Option<u32>>,
}

impl Regs {
    pub(crate) const fn new(inner: &'static dyn ControlRegs) -> Self {
        Self {
            inner,
            gone: Cell::new(false),
            missed: Cell::new(0),
            seen: Cell::new(None),
            csts: Cell::new(None),
            cc: Cell::new(None),
        }
    }

    fn alive(&self) -> Result<(), RegsError> {
        if self.gone.get() { Err(RegsError::Gone) } else { Ok(()) }
    }

    fn lose(&self) -> RegsError {
        self.gone.set(true);
        RegsError::Gone
    }

    fn note<T>(&self, result: Result<T, RegsError>) -> Result<T, RegsError> {
        match result {
            Ok(_) => self.missed.set(0),
            Err(RegsError::Gone) => return Err(self.lose()),
            Err(RegsError::TimedOut) => {
                self.missed.set(self.missed.get() + 1);
                if self.missed.get() >= MAX_MISSED {
                    return Err(self.lose());
                }
            }
            Err(RegsError::Refused(_)) => {}
        }
        result
    }

    /// Reads a 32-bit register.
    pub(crate) fn read<R: Readable + Register<Raw = u32>>(&self) -> Result<R, RegsError> {
        self.alive()?;
        self.believe(self.inner.read32(R::OFFSET))
    }

    /// Reads a 32-bit register without keeping the loop waiting: it may time out and try later.
    pub(crate) fn look<R: Readable + Register<Raw = u32>>(&self) -> Result<R, RegsError> {
        self.alive()?;
        match self.inner.look32(R::OFFSET) {
            // It did not wait long enough to count.
            Err(RegsError::TimedOut) => Err(RegsError::TimedOut),
            raw => self.believe(raw),
        }
    }

    fn believe<R: Register<Raw = u32>>(&self, raw: Result<u32, RegsError>) -> Result<R, RegsError> {
        let raw = self.note(raw)?;
        self.keep(R::OFFSET, raw);
        if raw == u32::MAX {
            return Err(self.lose());
        }
        Ok(R::from_raw(raw))
    }

    /// Writes a 32-bit register.
    pub(crate) fn write<R: Writable + Register<Raw = u32>>(
        &self,
        value: R,
    ) -> Result<(), RegsError> {
        self.alive()?;
        let raw = value.into_raw();
        self.keep(R::OFFSET, raw);
        self.note(self.inner.write32(R::OFFSET, raw))
    }

    /// Remembers what a crash record tells.
    fn keep(&self, offset: u32, raw: u32) {
        match offset {
            Csts::OFFSET => self.csts.set(Some(raw)),
            Cc::OFFSET => self.cc.set(Some(raw)),
            _ => {}
        }
    }

    /// CSTS as last read, CC as last read or written.
    pub(crate) fn last_seen(&self) -> (Option<u32>, Option<u32>) {
        (self.csts.get(), self.cc.get())
    }

    /// As [`Self::write`], again until it is answered, or not three times in a row.
    pub(crate) fn insist<R: Writable + Register<Raw = u32> + Copy>(
        &self,
        value: R,
    ) -> Result<(), RegsError> {
        loop {
            match self.write(value) {
                Err(RegsError::TimedOut) => {}
                result => return result,
            }
        }
    }

    /// Writes a 64-bit register.
    pub(crate) fn write64<R: Writable + Register<Raw = u64>>(
        &self,
        value: R,
    ) -> Result<(), RegsError> {
        self.alive()?;
        self.note(self.inner.write64(R::OFFSET, value.into_raw()))
    }

    /// CAP and VS, compared with what they were the first time: all ones, all zeros or a change
    /// mean that this is not the device that we knew.
    pub(crate) fn identity(&self) -> Result<(Cap, Version), RegsError> {
        self.alive()?;
        let cap = self.note(self.inner.read64(Cap::OFFSET))?;
        let version = self.note(self.inner.read32(Version::OFFSET))?;
        if cap == u64::MAX || version == u32::MAX || (cap == 0 && version == 0) {
            return Err(self.lose());
        }
        match self.seen.get() {
            Some(seen) if seen != (cap, version) => return Err(self.lose()),
            _ => self.seen.set(Some((cap, version))),
        }
        Ok((Cap::from_raw(cap), Version::from_raw(version)))
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.get()
    }
}

impl core::fmt::Debug for Regs {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Regs")
            .field("gone", &self.gone)
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::boxed::Box;

    #[derive(Default)]
    struct Fixed {
        cap: Cell<u64>,
        version: Cell<u32>,
        csts: Cell<u32>,
        reads: Cell<u32>,
    }

    impl ControlRegs for Fixed {
        fn read32(&self, offset: u32) -> Result<u32, RegsError> {
            self.reads.set(self.reads.get() + 1);
            match offset {
                0x08 => Ok(self.version.get()),
                0x1c => Ok(self.csts.get()),
                _ => Err(RegsError::Refused(offset)),
            }
        }
        fn read64(&self, _: u32) -> Result<u64, RegsError> {
            Ok(self.cap.get())
        }
        fn write32(&self, offset: u32, _: u32) -> Result<(), RegsError> {
            Err(RegsError::Refused(offset))
        }
        fn write64(&self, offset: u32, _: u64) -> Result<(), RegsError> {
            Err(RegsError::Refused(offset))
        }
    }

    fn fixed() -> (&'static Fixed, Regs) {
        let fixed: &'static Fixed = Box::leak(Box::default());
        fixed.cap.set(0x0000_0020_0f01_07ff);
        fixed.version.set(0x0001_0400);
        fixed.csts.set(1);
        (fixed, Regs::new(fixed))
    }

    #[test]
    fn all_ones_are_gone_and_stay_gone_without_another_access() {
        let (device, regs) = fixed();
        assert!(regs.read::<Csts>().is_ok_and(|csts| csts.rdy()));
        device.csts.set(u32::MAX);
        assert_eq!(regs.read::<Csts>(), Err(RegsError::Gone));
        device.csts.set(1);
        let reads = device.reads.get();
        assert_eq!(regs.read::<Csts>(), Err(RegsError::Gone));
        assert_eq!(device.reads.get(), reads, "no MMIO to a lost device");
    }

    #[test]
    fn all_zeros_all_ones_or_another_cap_are_another_device() {
        for (cap, version) in [(0, 0), (u64::MAX, 0x1_0400), (1, 0x1_0400), (0x20, u32::MAX)] {
            let (device, regs) = fixed();
            assert!(regs.identity().is_ok());
            device.cap.set(cap);
            device.version.set(version);
            assert_eq!(regs.identity().map(|_| ()), Err(RegsError::Gone), "{cap:#x}");
            assert!(regs.is_gone());
        }
    }

    #[test]
    fn a_server_that_sleeps_costs_a_look_its_own_limit_and_no_device() {
        use core_runtime::clock::Clock;
        use core_runtime::mailbox::{MailboxLayout, MailboxServer};
        let span = hybrid_shm::leak_zeroed(MailboxLayout::BYTES);
        let _sleeps = MailboxServer::new(span).expect("a mailbox");
        // A minute of a slow counter, and not below 10 s of any that there is; the interpreter's
        // counts calls, of which it does some thousands a second.
        let ticks = if cfg!(miri) { 1_000_000 } else { 1_000_000_000 };
        let client = MailboxClient::new(span, Clock::tsc(ticks), 60_000_000_000);
        let regs = Regs::new(Box::leak(Box::new(client.expect("a client"))));
        let begun = std::time::Instant::now();
        assert_eq!(regs.look::<Csts>(), Err(RegsError::TimedOut));
        assert!(begun.elapsed() < core::time::Duration::from_secs(5));
        assert!(!regs.is_gone());
    }
}
