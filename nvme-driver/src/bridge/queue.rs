//! Bursts over the bridge without futures: submit and reap by hand, as [`crate::RawQueue`] does.
//!
//! Invariants are those of [`crate::RawQueue`]: buffers are the queue's, named by their place,
//! counted while requests use them, and seen by the CPU only while nothing is in flight on them.

use core::cell::Cell;

use core_runtime::mem::{Bump, DeviceBuf, DmaBuf, OutOfMemory};
use hybrid_abi::bridge::{BRIDGE_READ, BRIDGE_WRITE, BridgeRequest};
use nvme_spec::Lba;

use super::client::Bridge;
use super::slot::State;
use crate::error::IoError;
use crate::stats::QueueStats;

struct Place {
    buf: Cell<Option<DeviceBuf>>,
    /// Bytes; 0 where there is no buffer, or the CPU has it.
    len: Cell<usize>,
    addr: Cell<u64>,
    busy: Cell<u32>,
    /// The host may write it for ever.
    lost: Cell<bool>,
}

/// A queue for one user, and its buffers. Tokens are the caller's numbers.
pub struct BridgeQueue {
    bridge: &'static Bridge,
    places: &'static [Place],
    unfinished: Cell<u32>,
}

impl BridgeQueue {
    /// A queue with room for `capacity` buffers. One at a time: completions of two would mix.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn new(bridge: &'static Bridge, capacity: u16, bump: &Bump) -> Result<Self, OutOfMemory> {
        let places = bump.slice_with(usize::from(capacity), |_| Place {
            buf: Cell::new(None),
            len: Cell::new(0),
            addr: Cell::new(0),
            busy: Cell::new(0),
            lost: Cell::new(false),
        })?;
        Ok(Self { bridge, places, unfinished: Cell::new(0) })
    }

    /// Takes a buffer and returns the number that submissions name it by.
    ///
    /// # Errors
    /// The buffer, if there are as many as there is room for.
    pub fn adopt(&self, buf: DmaBuf) -> Result<u16, DmaBuf> {
        let free = |place: &Place| place.busy.get() == 0 && place.len.get() == 0;
        let found = (0_u16..).zip(self.places).find(|(_, place)| free(place));
        match found {
            Some((index, place)) if !buf.is_empty() => {
                place.addr.set(buf.iova().0);
                place.len.set(buf.len());
                place.buf.set(Some(buf.into_device()));
                Ok(index)
            }
            _ => Err(buf),
        }
    }

    /// Calls `f` with the bytes of buffer `index`; `None` if there is none, or something is in
    /// flight on it.
    pub fn with_buf<R>(&self, index: u16, f: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        let place = self.places.get(usize::from(index))?;
        if place.busy.get() != 0 || place.lost.get() {
            return None;
        }
        let mut buf = place.buf.take()?.into_cpu();
        let len = place.len.replace(0);
        let result = f(buf.as_mut_slice());
        place.buf.set(Some(buf.into_device()));
        place.len.set(len);
        Some(result)
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
        let place = self.places.get(usize::from(index)).ok_or(bad(0))?;
        self.bridge.check_range(slba, nlb.into())?;
        let len = u64::from(nlb) * u64::from(lba_bytes);
        if len > place.len.get() as u64 {
            return Err(bad(place.len.get()));
        }
        let request = BridgeRequest {
            op,
            flags: 0,
            cid: 0,
            slba: slba.0,
            addr: place.addr.get(),
            nlb: nlb.into(),
        };
        let begun = self.bridge.begin(request, None, (State::Raw(index, token), true));
        begun.map_err(|(error, _)| error)?;
        place.busy.set(place.busy.get() + 1);
        self.unfinished.set(self.unfinished.get() + 1);
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
            if let Some(place) = self.places.get(usize::from(index)) {
                place.busy.set(place.busy.get().saturating_sub(1));
                if result == Err(IoError::Gone) {
                    place.lost.set(true);
                }
            }
            self.unfinished.set(self.unfinished.get().saturating_sub(1));
            told += 1;
            f(token, result);
        }
        told
    }

    /// Whether nothing is in flight.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.unfinished.get() == 0
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
        for place in self.places {
            match place.buf.take() {
                Some(buf) if place.busy.get() == 0 && !place.lost.get() => drop(buf.into_cpu()),
                // Dropped as the device's: quarantined.
                Some(_) | None => {}
            }
        }
    }
}
