//! The host's side of a partition's probes: which are on, and what is kept of them.
//!
//! [`ProbeSwitch`] writes the control part, at any time and from any thread. [`ProbeWishes`] is
//! what a [`PartitionSpec`](crate::PartitionSpec) asks for from the start. A [`Keeper`] is a thread
//! of the host that follows the ring into a file, saves it when it was frozen ([`file`](self)), and
//! thaws it again. `control` puts the switch on the control socket. See `docs/probes.md`.

#[cfg(feature = "cli")]
mod cli;
mod control;
mod file;
mod keeper;
#[cfg(test)]
mod tests;

use std::mem::offset_of;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use core_runtime::clock::{Clock, Ticks};
use hybrid_abi::probe::{POLICY_DROP, POLICY_OVERWRITE, ProbeControl};
use hybrid_shm::Span;
use zerocopy::IntoBytes;

#[cfg(feature = "cli")]
pub use cli::ProbeArgs;
pub(crate) use control::ProbeMethods;
pub(crate) use file::dictionary;
pub use file::{Origin, TraceFile};
pub(crate) use keeper::{Keeper, Keeping};

/// Times over which the ring is frozen; zero is off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FreezeOver {
    /// A sampled I/O.
    pub latency: Duration,
    /// A poll, beyond its budget.
    pub budget: Duration,
    /// A gap that nothing of the partition's explains.
    pub stolen: Duration,
}

impl FreezeOver {
    /// Whether there is any.
    #[must_use]
    pub fn is_on(&self) -> bool {
        *self != Self::default()
    }
}

/// What is asked for from the start.
#[derive(Clone, Debug, Default)]
pub struct ProbeWishes {
    /// Probes that are on: [`hybrid_abi::probe::parse_groups`].
    pub mask: u64,
    /// When the ring is frozen and saved.
    pub freeze_over: FreezeOver,
    /// Where frozen rings are saved, as `NAME-CPU-INCARNATION-NUMBER.hytrace`.
    pub flight_dir: Option<PathBuf>,
    /// Most rings that are saved of one incarnation; then the thresholds are off.
    pub flights: u32,
    /// Follows the ring into this file; a later incarnation's has its number before the extension.
    pub trace: Option<PathBuf>,
    /// What the trace has no room for yet is dropped and counted, instead of overwriting what it
    /// has not read. Only with `trace`: nobody else says what was read.
    pub drops: bool,
}

impl ProbeWishes {
    /// Whether somebody has to look at the ring.
    #[must_use]
    pub fn keeps(&self) -> bool {
        self.flight_dir.is_some() || self.trace.is_some()
    }
}

/// Switches a partition's probes. Clones are the same.
#[derive(Clone, Debug)]
pub struct ProbeSwitch {
    clock: Clock,
    part: Span<'static>,
    wishes: Arc<Mutex<ProbeControl>>,
    /// Somebody saves a frozen ring and thaws it.
    kept: Arc<AtomicBool>,
}

/// A ring that nobody would save and thaw is not frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody would save the ring and thaw it: it is neither traced nor are freezes saved")]
pub struct NotKept;

impl ProbeSwitch {
    /// Over a zeroed control part of the host's region.
    #[must_use]
    pub fn new(part: Span<'static>, clock: Clock) -> Self {
        Self { clock, part, wishes: Arc::default(), kept: Arc::default() }
    }

    /// Changes something, and shows it to the partition, which sees it at its next pass.
    fn change<T>(&self, change: impl FnOnce(&mut ProbeControl) -> T) -> T {
        let mut wishes = self.wishes.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut wishes);
        wishes.generation = wishes.generation.wrapping_add(1);
        let bytes = wishes.as_bytes();
        // The part's length was checked by who laid it out.
        let _ = self.part.write(8, bytes.get(8..).unwrap_or_default());
        if let Ok(word) = self.part.word64(0) {
            // SYNC probe-control
            word.store_release(wishes.generation);
        }
        result
    }

    /// Everything that is asked for from the start.
    pub fn apply(&self, wishes: &ProbeWishes) {
        self.change(|control| {
            control.mask = wishes.mask;
            let drops = wishes.drops && wishes.trace.is_some();
            control.policy = if drops { POLICY_DROP } else { POLICY_OVERWRITE };
        });
        self.freeze_over(wishes.freeze_over);
    }

    /// These probes are on, and no others.
    pub fn set_mask(&self, mask: u64) {
        self.change(|control| control.mask = mask);
    }

    /// Which are meant to be on.
    #[must_use]
    pub fn mask(&self) -> u64 {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner).mask
    }

    /// Freezes over these times.
    pub fn freeze_over(&self, over: FreezeOver) {
        let ticks = |time: Duration| {
            let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            // A threshold of less than a tick is one tick, and not off.
            let ticks = self.clock.ns_to_ticks(ns).max(Ticks::new(1));
            if time.is_zero() { 0 } else { ticks.get() }
        };
        self.change(|control| {
            control.latency_over = ticks(over.latency);
            control.budget_over = ticks(over.budget);
            control.stolen_over = ticks(over.stolen);
        });
    }

    /// Freezes the ring now; nothing if no probe is on.
    ///
    /// # Errors
    /// [`NotKept`] if it would stay frozen.
    pub fn freeze(&self) -> Result<(), NotKept> {
        if !self.kept.load(Ordering::Acquire) {
            return Err(NotKept);
        }
        self.change(|control| control.freezes = control.freezes.wrapping_add(1));
        Ok(())
    }

    /// From now on somebody keeps what is in the ring, or nobody does.
    fn keep(&self, kept: bool) {
        self.kept.store(kept, Ordering::Release);
    }

    /// So many records were read: their places may be used again where the ring drops.
    fn take(&self, records: u64) {
        let mut wishes = self.wishes.lock().unwrap_or_else(PoisonError::into_inner);
        wishes.taken = records;
        if let Ok(word) = self.part.word64(offset_of!(ProbeControl, taken)) {
            word.store_release(records);
        }
    }

    /// Lets the ring be written again, after so many freezes.
    pub fn thaw(&self, freezes: u64) {
        self.change(|control| control.thawed = control.thawed.max(freezes));
    }
}
