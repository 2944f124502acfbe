//! The host's half of a shadow doorbell: which word is touched in which order.
//!
//! Called by [`super::shadow`], whose words lie in DMA memory. Apart from it so that the loom test
//! (`tests/loom_shadow.rs`) runs this very file over loom's atomics, against a device that goes to
//! sleep at any moment.

use super::sync::{AtomicU32, Ordering, fence};

/// Stores index `new` after `old`; whether the register must be written too.
// SYNC shadow: pairs with the device's fence between its event word and its second look.
#[inline(always)]
pub(super) fn tell(shadow: &AtomicU32, event: &AtomicU32, old: u16, new: u16) -> bool {
    // Publishes the entries, as the register would.
    shadow.store(new.into(), Ordering::Release);
    fence(Ordering::SeqCst);
    #[expect(clippy::cast_possible_truncation, reason = "indices have 16 bits")]
    let event = event.load(Ordering::Relaxed) as u16;
    passed(event, old, new)
}

/// Whether an index that went from `old` to `new` passed `event`. All wrap at 16 bits, which is
/// right for smaller rings too: an index that wraps earlier makes both differences larger by the
/// same.
pub(super) const fn passed(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
