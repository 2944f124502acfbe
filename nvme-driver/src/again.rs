//! Reads that were lost are read again.
//!
//! The driver repeats what the device asks it to repeat (a status without DNR), and nothing that
//! was lost in a reset or aborted: it cannot know whether that took effect, nor whether anybody
//! still wants it. A read is safe to repeat either way, and who must have its blocks says so with a
//! [`ReadAgain`]: a replay, a journal that is opened, a superblock. It is called only where a read
//! has failed, so that one that succeeds pays nothing.
//!
//! Invariants:
//! 1. Only reads: there is no form for a write or a flush. What became of a lost one is unknown,
//!    and stays so.
//! 2. A buffer that did not come back is never read into again: its device may still write to it.
//! 3. Bounded: so many repeats a read. While the device is reset a repeat waits like any newcomer,
//!    under the limits of the reset (`docs/recovery.md`); one of a device that is gone, or has
//!    failed for good, ends at once.

use nvme_spec::Lba;

use core_runtime::mem::DmaBuf;

use crate::block::{BlockDevice, BlockIo};
use crate::error::{Failed, IoError};

/// How often one read may still be repeated. Made anew for each read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadAgain {
    left: u8,
}

impl Default for ReadAgain {
    fn default() -> Self {
        Self::times(Self::TIMES)
    }
}

impl ReadAgain {
    /// Repeats of a read unless somebody wants another number: as many as of a command whose
    /// status allows it.
    pub const TIMES: u8 = 3;

    /// At most so many repeats.
    #[must_use]
    pub const fn times(left: u8) -> Self {
        Self { left }
    }

    /// Whether a read that ended so was lost, and may be repeated: the device refused nothing, and
    /// may well answer the next time.
    #[must_use]
    pub const fn is_lost(error: &IoError) -> bool {
        matches!(error, IoError::Reset(_) | IoError::TimedOut | IoError::NotReady)
    }

    /// Posts a read of `slba` that `failed` once more, into its buffer. Counted in
    /// [`crate::ControllerStats::reads_repeated`].
    ///
    /// # Errors
    /// The failure, if the read was not lost, its buffer did not come back, or it was repeated
    /// often enough.
    #[cold]
    pub fn post(
        &mut self,
        device: BlockDevice,
        slba: Lba,
        failed: Failed,
    ) -> Result<BlockIo, Failed> {
        let Failed { error, buf } = failed;
        match (self.left.checked_sub(1), buf) {
            (Some(left), Some(buf)) if Self::is_lost(&error) => {
                self.left = left;
                device.count_repeat(slba, left);
                Ok(device.read(slba, buf))
            }
            (_, buf) => Err(Failed { error, buf }),
        }
    }

    /// Reads `buf.len()` bytes from block `slba`, again if it must be.
    ///
    /// # Errors
    /// How the last try failed; the buffer comes back if the device no longer has it.
    pub async fn read(
        mut self,
        device: BlockDevice,
        slba: Lba,
        buf: DmaBuf,
    ) -> Result<DmaBuf, Failed> {
        let mut read = device.read(slba, buf);
        loop {
            match read.await {
                Ok(buf) => return Ok(buf),
                Err(failed) => read = self.post(device, slba, failed)?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ResetReason;
    use nvme_spec::{Nsid, QueueId, StatusCode};

    #[test]
    fn only_what_was_lost_may_be_repeated() {
        let stuck = ResetReason::Stuck { queue: QueueId(1) };
        let reasons = [ResetReason::FatalStatus, ResetReason::NotReady, stuck];
        let lost = reasons.map(IoError::Reset).into_iter();
        for error in lost.chain([IoError::TimedOut, IoError::NotReady]) {
            assert!(ReadAgain::is_lost(&error), "{error}");
        }
        let status = StatusCode::UNRECOVERED_READ_ERROR.status();
        for error in [
            IoError::Status { status, slba: Lba(1) },
            IoError::QueueFull,
            IoError::TooManyWaiters { places: 1 },
            IoError::Gone,
            IoError::BadLength { len_bytes: 1, lba_bytes: 512 },
            IoError::Unaligned(1),
            IoError::OutOfRange { slba: Lba(1), nlb: 1, blocks: 1 },
            IoError::NamespaceChanged(Nsid(1)),
            IoError::NoMemory,
        ] {
            assert!(!ReadAgain::is_lost(&error), "{error}");
        }
    }
}
