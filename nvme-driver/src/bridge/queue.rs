//! Bursts over the bridge without futures: submit and reap by hand, as [`crate::RawQueue`] does.
//!
//! Invariants are those of [`crate::RawQueue`]: buffers are the queue's, named by their place,
//! counted while requests use them, and seen by the CPU only while nothing is in flight on them
//! ([`crate::places`]). What was lost with the host stays counted.

use core_runtime::mem::{Bump, DmaBuf};
use hybrid_abi::bridge::{BRIDGE_READ, BRIDGE_WRITE, BridgeRequest};
use nvme_spec::Lba;

use super::QueueRefused;
use super::client::Bridge;
use super::slot::State;
use crate::error::IoError;
use crate::places::Places;
use crate::stats::QueueStats;

/// A queue for one user, and its buffers. Tokens are the caller's numbers.
///
/// Dropped, it gives its buffers back to the arena, but for those that the host may still write,
/// which are quarantined. It can be taken again once nothing is in flight.
pub struct BridgeQueue {
    bridge: &'static Bridge,
    places: Places,
}

impl BridgeQueue {
    /// A queue with room for `capacity` buffers. One at a time: completions of two would mix.
    ///
    /// # Errors
    /// [`QueueRefused`].
    pub fn new(bridge: &'static Bridge, capacity: u16, bump: &Bump) -> Result<Self, QueueRefused> {
        bridge.by_hand.check_free()?;
        let places = Places::new(capacity, bump).map_err(QueueRefused::NoMemory)?;
        bridge.by_hand.take();
        Ok(Self { bridge, places })
    }

    /// Takes a buffer and returns the number that submissions name it by: the lowest that is free,
    /// from 0.
    ///
    /// # Errors
    /// The buffer, if there are as many as there is room for.
    pub fn adopt(&self, buf: DmaBuf) -> Result<u16, DmaBuf> {
        self.places.adopt(buf)
    }

    /// Calls `f` with the bytes of buffer `index`; `None` if there is none, or something is in
    /// flight on it. Inside of `f` the buffer cannot be submitted.
    pub fn with_buf<R>(&self, index: u16, f: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        self.places.with_buf(index, f)
    }

    /// Submits a read of `nlb` blocks from `slba` into the start of buffer `buf`.
    ///
    /// # Errors
    /// [`IoError::QueueFull`], or why it is refused.
    pub fn submit_read(&self, slba: Lba, nlb: u32, buf: u16, token: u32) -> Result<(), IoError> {
        self.submit(BRIDGE_READ, (slba, nlb), buf, token)
    }

    /// Submits a write of `nlb` blocks from the start of buffer `buf` to `slba`.
    ///
    /// # Errors
    /// As for [`BridgeQueue::submit_read`].
    pub fn submit_write(&self, slba: Lba, nlb: u32, buf: u16, token: u32) -> Result<(), IoError> {
        self.submit(BRIDGE_WRITE, (slba, nlb), buf, token)
    }

    fn submit(
        &self,
        op: u16,
        (slba, nlb): (Lba, u32),
        index: u16,
        token: u32,
    ) -> Result<(), IoError> {
        let lba_bytes = self.bridge.lba_bytes();
        let bad = |len_bytes| IoError::BadLength { len_bytes, lba_bytes };
        let place = self.places.get(index).ok_or(bad(0))?;
        self.bridge.check_range(slba, nlb.into())?;
        if u64::from(nlb) * u64::from(lba_bytes) > u64::from(place.len()) {
            return Err(bad(usize::try_from(place.len()).unwrap_or(usize::MAX)));
        }
        let request = BridgeRequest {
            op,
            flags: 0,
            cid: 0,
            slba: slba.0,
            addr: place.iova().0,
            nlb: nlb.into(),
        };
        let begun = self.bridge.begin(request, None, (State::Raw(index, token), true));
        begun.map_err(|(error, _)| error)?;
        place.post();
        self.bridge.by_hand.begun();
        Ok(())
    }

    /// Takes up to `limit` completions and calls `f(token, result)` for each; `f` may submit.
    /// Returns how often it was called.
    pub fn reap(&self, limit: u16, mut f: impl FnMut(u32, Result<(), IoError>)) -> u16 {
        let mut told = 0;
        while told < limit {
            let found = match self.bridge.pop_reaped() {
                Some(found) => found,
                None if self.bridge.take((limit - told).into()) == 0 => break,
                None => continue,
            };
            let (index, token, result) = found;
            self.end(index, result);
            told += 1;
            f(token, result);
        }
        told
    }

    fn end(&self, index: u16, result: Result<(), IoError>) {
        // Gone: the host may write to the buffer for ever, so that it stays counted.
        if result != Err(IoError::Gone)
            && let Some(place) = self.places.get(index)
        {
            place.ended();
        }
    }

    /// Whether nothing is in flight.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.bridge.by_hand.unfinished() == 0
    }

    /// Most submissions in flight.
    #[must_use]
    pub fn depth(&self) -> u16 {
        self.bridge.depth()
    }

    /// Snapshot of the bridge's counters.
    #[must_use]
    pub fn stats(&self) -> QueueStats {
        self.bridge.stats().io
    }
}

impl Drop for BridgeQueue {
    fn drop(&mut self) {
        // What has ended and nobody heard of yet, but whose buffers may be free.
        while let Some((index, _, result)) = self.bridge.pop_reaped() {
            self.end(index, result);
        }
        self.places.give_back();
        self.bridge.by_hand.give_back();
    }
}
