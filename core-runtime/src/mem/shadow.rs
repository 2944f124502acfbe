//! Shadow doorbells: doorbells in memory, and what the device wants to hear by register.
//!
//! NVMe Base 2.0, section 5.8. The host stores each new index in its shadow word and writes the
//! register only if the index passed the one in the event word, which the device sets before it
//! stops looking at the shadow. The device's side stores its event word, then looks at the shadow
//! once more. With a full fence between the two accesses on both sides, one of them sees the other:
//! else a command could wait for a doorbell that never comes (`// SYNC shadow`).

use core::sync::atomic::{AtomicU32, Ordering};

use super::buf::SharedDma;
use super::eventidx;
use super::iova::Iova;

/// The two pages of a controller, laid out as its doorbell registers are.
#[derive(Debug)]
pub struct ShadowDoorbells {
    shadow: SharedDma,
    event: SharedDma,
    dstrd: u8,
}

/// The shadow of one doorbell.
#[derive(Clone, Copy, Debug)]
pub struct ShadowDoorbell {
    shadow: &'static AtomicU32,
    event: &'static AtomicU32,
}

impl ShadowDoorbells {
    /// Shadow words and event words; `dstrd` is CAP.DSTRD.
    #[must_use]
    pub const fn new(shadow: SharedDma, event: SharedDma, dstrd: u8) -> Self {
        Self { shadow, event, dstrd }
    }

    /// The device's addresses of both pages.
    #[must_use]
    pub fn iovas(&self) -> (Iova, Iova) {
        (self.shadow.iova(), self.event.iova())
    }

    /// Zeroes both pages: before the device is told of them.
    pub fn clear(&self) {
        self.shadow.clear();
        self.event.clear();
    }

    /// The shadows of queue pair `qid`: tail and head; `None` if they lie beyond the pages.
    #[must_use]
    pub fn pair(&'static self, qid: u16) -> Option<(ShadowDoorbell, ShadowDoorbell)> {
        let index = 2 * usize::from(qid);
        Some((self.at(index)?, self.at(index + 1)?))
    }

    /// The device's address of the tail's shadow of queue pair `qid`.
    #[must_use]
    pub fn tail_iova(&self, qid: u16) -> Option<Iova> {
        let offset = 2 * usize::from(qid) * (4 << (self.dstrd & 15));
        let offset = u64::try_from(offset).ok().filter(|_| offset + 4 <= self.shadow.len())?;
        Some(Iova(self.shadow.iova().0.wrapping_add(offset)))
    }

    fn at(&'static self, index: usize) -> Option<ShadowDoorbell> {
        // CAP.DSTRD has four bits.
        let offset = index * (4 << (self.dstrd & 15));
        let word = |memory: &'static SharedDma| {
            if offset + 4 > memory.len() {
                return None;
            }
            // SAFETY: invariants 1, 2 and 4: inside the block that `self` keeps for ever, and
            // aligned, since blocks are; all access to shared memory is atomic.
            Some(unsafe { memory.base().cast::<AtomicU32>().byte_add(offset).as_ref() })
        };
        Some(ShadowDoorbell { shadow: word(&self.shadow)?, event: word(&self.event)? })
    }
}

impl ShadowDoorbell {
    /// Stores `new` after `old`; whether the register must be written too.
    #[inline(always)]
    #[must_use]
    pub fn store(&self, old: u16, new: u16) -> bool {
        eventidx::tell(self.shadow, self.event, old, new)
    }

    /// Both words as for a new queue, whose index is `index`.
    pub fn reset(&self, index: u16) {
        self.event.store(0, Ordering::Relaxed);
        self.shadow.store(index.into(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::super::arena::DmaArena;
    use super::super::eventidx::passed;
    use super::*;

    #[test]
    fn an_index_passes_the_event_exactly_if_it_goes_by() {
        // A ring of 5, from every index, by every distance, with every event; one by one is the
        // truth.
        for old in 0..5_u16 {
            for moved in 1..5 {
                for event in 0..5 {
                    let new = (old + moved) % 5;
                    // Passed if the index left `event` on its way.
                    let truth = (0..moved).any(|n| (old + n) % 5 == event);
                    assert_eq!(passed(event, old, new), truth, "{event} {old} {new}");
                }
            }
        }
        assert!(passed(0xFFFF, 0xFFFF, 0), "65,536 entries wrap by themselves");
        assert!(!passed(0xFFFF, 0, 1));
    }

    #[test]
    fn words_lie_as_the_registers_do() {
        let arena = DmaArena::leak(64 << 10, Iova(0x7_0000_0000)).unwrap();
        let page = || arena.alloc_shared(4096, 4096).unwrap();
        let doorbells: &'static ShadowDoorbells =
            std::boxed::Box::leak(std::boxed::Box::new(ShadowDoorbells::new(page(), page(), 1)));
        let (tail, head) = doorbells.pair(3).unwrap();
        assert!(tail.store(0, 1), "event 0 is passed");
        assert!(!tail.store(1, 2));
        assert!(head.store(0, 7));
        let word = |at| doorbells.shadow.span().word32(at).unwrap().load();
        assert_eq!((word(48), word(56)), (2, 7));
        doorbells.event.span().word32(48).unwrap().store(2);
        assert!(tail.store(2, 3), "the device wants to hear of the next one");
        tail.reset(0);
        assert_eq!((word(48), doorbells.event.span().word32(48).unwrap().load()), (0, 0));
        assert!(doorbells.pair(255).is_some());
        assert!(doorbells.pair(256).is_none(), "beyond the page");
    }
}
