//! What the completions of an operation mean for its request.
//!
//! ```text
//!   issued ──all of its completions──▶ settled ──▶ next operation
//!     │                                   │
//!     │ EAGAIN, too little moved:         └──▶ answered: whole, an error, cancelled
//!     │ the same again, a bounded number of times
//!     │ EINVAL of registered memory, EOPNOTSUPP of polling: the same again without, one line
//! ```
//! An error is the kernel's or the device's word, never a guess from how much was moved: where a
//! transfer stops in the middle, the rest is asked for again until the kernel says why.

use hybrid_abi::bridge::{BRIDGE_CANCELLED, BRIDGE_ERRNO, BRIDGE_NVME, BRIDGE_SHORT};

use super::check::Kind;
use super::flight::{Durability, Flight, Outcome};
use super::{BridgeServer, SYNC};
use crate::sys::uring::Cqe;
use crate::uring::reactor::Desk;
use crate::uring::rings::Which;

/// Times in a row that an operation is tried again which the kernel put off (`EAGAIN`, `EINTR`), or
/// which moved less than a block without an error.
pub(super) const RETRIES: u8 = 64;

impl BridgeServer {
    /// One completion of a flight.
    pub(super) fn landed(&mut self, slot: u16, step: u64, cqe: Cqe, desk: &mut Desk<'_>) {
        let lba_bytes = u64::from(self.road.limits.lba_bytes);
        let by_command = self.road.fua_by_command();
        let Some(flight) = self.flight(slot) else { return };
        flight.outstanding = flight.outstanding.saturating_sub(1);
        let sync_over = step == SYNC || flight.syncing;
        match (step, cqe.result) {
            (SYNC, result) => sync_landed(flight, result),
            (_, result) if result < 0 => self.failed(slot, result),
            (_, status) if by_command && status > 0 => {
                flight.end((BRIDGE_NVME, u64::from(status.unsigned_abs())));
            }
            _ if flight.syncing => flight.durability = Durability::Done,
            (_, result) => moved(flight, by_command, result, lba_bytes),
        }
        self.syncs -= u32::from(sync_over);
        self.settle(slot, desk);
        if sync_over {
            self.sync_over(desk);
        }
    }

    /// An operation ended with an error of the kernel.
    fn failed(&mut self, slot: u16, result: i32) {
        let by_command = self.road.fua_by_command();
        let Some(flight) = self.flight(slot) else { return };
        let unpollable = result == -libc::EOPNOTSUPP || result == -libc::EINVAL;
        if put_off(flight, result) {
            again(flight, errno(result));
        } else if by_command && flight.fixed && result == -libc::EINVAL {
            // Before Linux 6.12 passthrough counts all segments of a registered buffer, not those
            // of the transfer, and refuses a large one. The same command goes without.
            if self.road.fixed.take().is_some() {
                self.say(format_args!(
                    "without registered buffers: this kernel refuses them for passthrough \
                     (EINVAL); pages are looked up and pinned for each transfer"
                ));
            }
        } else if flight.which == Which::Poll && unpollable {
            // Not this one only: the ring cannot do it. The same operation goes to the main ring.
            if std::mem::replace(&mut self.polled, false) {
                let error = std::io::Error::from_raw_os_error(-result);
                self.say(format_args!(
                    "without IOPOLL: the first transfer was refused ({error}); completions come \
                     by interrupt"
                ));
            }
        } else if flight.cancelled && result == -libc::ECANCELED {
            flight.end((BRIDGE_CANCELLED, 0));
        } else {
            flight.end(errno(result));
        }
    }

    /// Goes on with a request of which nothing is in flight, or ends it.
    fn settle(&mut self, slot: u16, desk: &mut Desk<'_>) {
        let by_command = self.road.fua_by_command();
        let Some(flight) = self.flight(slot) else { return };
        if flight.outstanding != 0 {
            return;
        }
        if flight.is_whole(by_command) {
            return self.finish(slot);
        }
        if flight.cancelled {
            flight.end((BRIDGE_CANCELLED, 0));
        }
        if flight.outcome.is_some() { self.finish(slot) } else { self.issue(slot, desk) }
    }
}

/// Whether the kernel did not begin it. A sync that was interrupted had begun: some of what it was
/// to make durable may have failed, and that is told once only.
const fn put_off(flight: &Flight, result: i32) -> bool {
    result == -libc::EAGAIN || result == -libc::EINTR && !flight.syncing
}

/// The same once more, unless it was tried too often: then `outcome`.
const fn again(flight: &mut Flight, outcome: Outcome) {
    flight.retries += 1;
    if flight.retries > RETRIES {
        flight.end(outcome);
    }
}

/// The sync that was linked behind an operation.
const fn sync_landed(flight: &mut Flight, result: i32) {
    if result >= 0 {
        flight.durability = Durability::Done;
    } else if result == -libc::ECANCELED {
        // It was never begun: what it was linked behind did not succeed in full, and goes on or
        // told why.
        flight.durability = Durability::Open;
    } else {
        flight.end(errno(result));
    }
}

/// An error of the kernel as an outcome.
pub(super) const fn errno(result: i32) -> Outcome {
    (BRIDGE_ERRNO, result.unsigned_abs() as u64)
}

/// Data moved: all of the chunk, some blocks of it, or none.
fn moved(flight: &mut Flight, by_command: bool, result: i32, lba_bytes: u64) {
    let whole = by_command || matches!(flight.job.kind, Kind::Zeroes | Kind::Discard);
    let bytes = if whole { flight.chunk } else { u64::from(result.unsigned_abs()) };
    // The rest of a block that was cut is asked for again, with the whole block: direct I/O takes
    // no other offset.
    let blocks = bytes.min(flight.chunk) / lba_bytes;
    flight.done += blocks * lba_bytes;
    if blocks != 0 {
        flight.retries = 0;
    } else if flight.job.kind == Kind::Read && bytes == 0 {
        // What `read` means by nothing: the file ends before.
        flight.end((BRIDGE_SHORT, 0));
    } else {
        let why = match flight.job.kind {
            // Again and again it ends within a block.
            Kind::Read => (BRIDGE_SHORT, 0),
            _ => errno(-libc::EIO),
        };
        again(flight, why);
    }
}
