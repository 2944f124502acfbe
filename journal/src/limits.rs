//! How much may wait: bounds by Little's law, and who is turned away first.

/// Who is turned away first when the log is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Turned away from half of the bound on.
    Low,
    /// Turned away from nine tenths of it on.
    Normal,
    /// Turned away only at the bound itself.
    High,
}

/// Bounds of the queue in front of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most records without an acknowledgement.
    pub pending_records: u64,
    /// Batches that wait, are written, or wait for their flush: 2 to [`crate::SLOTS_MAX`].
    pub slots: u8,
    /// Writes in flight at once, at most `slots`.
    pub in_flight: u8,
    /// Records between two checkpoints.
    pub checkpoint_records: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { pending_records: 16_384, slots: 16, in_flight: 8, checkpoint_records: 65_536 }
    }
}

impl Limits {
    /// Little's law: `appends_per_second` that are each acknowledged after `latency_ns` are so many
    /// at once. Twice that is let in, since arrivals come in bursts; more would only wait longer
    /// than the latency that was planned for.
    #[must_use]
    pub const fn for_rate(appends_per_second: u64, latency_ns: u64) -> Self {
        let at_once = (appends_per_second as u128 * latency_ns as u128).div_ceil(1_000_000_000);
        let twice = at_once.saturating_mul(2);
        #[expect(clippy::cast_possible_truncation, reason = "bounded in the same line")]
        let pending = if twice > 1 << 32 { 1 << 32 } else { twice as u64 };
        let pending = if pending < 16 { 16 } else { pending };
        Self { pending_records: pending, slots: 16, in_flight: 8, checkpoint_records: 65_536 }
    }

    /// Records that may be pending for an append of this priority to be taken.
    #[must_use]
    pub const fn bound(&self, priority: Priority) -> u64 {
        match priority {
            Priority::High => self.pending_records,
            Priority::Normal => self.pending_records - self.pending_records / 10,
            Priority::Low => self.pending_records.div_ceil(2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn littles_law_bounds_the_queue() {
        // 100,000 a second for 2 ms each are 200 at once.
        assert_eq!(Limits::for_rate(100_000, 2_000_000).pending_records, 400);
        assert_eq!(Limits::for_rate(100_000, 5_000).pending_records, 16, "a floor");
        assert_eq!(Limits::for_rate(u64::MAX, u64::MAX).pending_records, 1 << 32);
    }

    #[test]
    fn the_less_important_is_turned_away_earlier() {
        let limits = Limits { pending_records: 100, ..Limits::default() };
        let bounds = [Priority::Low, Priority::Normal, Priority::High].map(|p| limits.bound(p));
        assert_eq!(bounds, [50, 90, 100]);
    }
}
