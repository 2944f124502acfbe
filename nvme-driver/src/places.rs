//! The buffers of a queue that is used by hand, named by their place: for [`crate::RawQueue`] and
//! [`crate::BridgeQueue`]. It knows nothing of commands but how many are in flight on each buffer.
//!
//! Invariants:
//! 1. A place is free if it has no buffer and nothing is in flight on it. A buffer that is lent is
//!    away, but its place is not free.
//! 2. The CPU sees a buffer, or has it back, only while nothing is in flight on it. Meanwhile its
//!    length is 0 here, so that no command fits into it.
//! 3. A command that was lost without the device's confirmation is never uncounted: its buffer is
//!    not seen again, and quarantined at the end.

use core::cell::Cell;

use core_runtime::mem::{Bump, DeviceBuf, DmaBuf, Iova, OutOfMemory};

/// [`Place::busy`] of a buffer that the CPU looks at; no queue is nearly as deep.
const LENT: u32 = u32::MAX;

/// What a submission needs of a buffer: four places share a cache line.
#[derive(Debug, Default)]
pub(crate) struct Place {
    iova: Cell<u64>,
    /// Bytes; 0 where there is no buffer, or the CPU has it.
    len: Cell<u32>,
    /// Commands in flight on it, or [`LENT`].
    busy: Cell<u32>,
}

const _: () = assert!(size_of::<Place>() == 16);

impl Place {
    /// Where the device finds it.
    #[inline(always)]
    pub(crate) fn iova(&self) -> Iova {
        Iova(self.iova.get())
    }

    /// Bytes that a command may use; 0 where there is no buffer, or the CPU has it.
    #[inline(always)]
    pub(crate) fn len(&self) -> u32 {
        self.len.get()
    }

    /// A command on it, which fits into [`len`](Self::len), is about to be posted. Returns what
    /// [`not_posted`](Self::not_posted) wants. At most as many as the queue has slots.
    #[inline(always)]
    pub(crate) fn post(&self) -> u32 {
        let busy = self.busy.get();
        self.busy.set(busy.wrapping_add(1));
        busy
    }

    /// It was not posted after all.
    #[inline(always)]
    pub(crate) fn not_posted(&self, busy: u32) {
        self.busy.set(busy);
    }

    /// A command that was counted when it was posted has ended, and the device knows.
    #[inline(always)]
    pub(crate) fn ended(&self) {
        self.busy.set(self.busy.get().wrapping_sub(1));
    }

    fn is_free(&self) -> bool {
        self.busy.get() == 0 && self.len.get() == 0
    }
}

/// The places and the buffers that are in them.
pub(crate) struct Places {
    places: &'static [Place],
    bufs: &'static [Cell<Option<DeviceBuf>>],
}

impl Places {
    /// Room for `capacity` buffers.
    pub(crate) fn new(capacity: u16, bump: &Bump) -> Result<Self, OutOfMemory> {
        let capacity = usize::from(capacity);
        let places = bump.slice_with(capacity, |_| Place::default())?;
        let bufs = bump.slice_with(capacity, |_| Cell::new(None))?;
        Ok(Self { places, bufs })
    }

    /// Place `index`.
    #[inline(always)]
    pub(crate) fn get(&self, index: u16) -> Option<&'static Place> {
        self.places.get(usize::from(index))
    }

    /// All places.
    #[inline(always)]
    pub(crate) const fn all(&self) -> &'static [Place] {
        self.places
    }

    /// Takes a buffer into the first free place. It comes back if there is none, or if it is empty.
    pub(crate) fn adopt(&self, buf: DmaBuf) -> Result<u16, DmaBuf> {
        let both = self.places.iter().zip(self.bufs);
        let found = (0_u16..).zip(both).find(|(_, (place, _))| place.is_free());
        let (Some((index, (place, kept))), Ok(len)) = (found, u32::try_from(buf.len())) else {
            return Err(buf);
        };
        if len == 0 {
            return Err(buf);
        }
        place.iova.set(buf.iova().0);
        place.len.set(len);
        kept.set(Some(buf.into_device()));
        Ok(index)
    }

    /// Gives buffer `index` back; `None` if there is none, or something is in flight on it.
    pub(crate) fn release(&self, index: u16) -> Option<DmaBuf> {
        let (place, kept) = self.idle(index)?;
        let buf = kept.take()?;
        place.len.set(0);
        Some(buf.into_cpu())
    }

    /// Calls `f` with the bytes of buffer `index`; `None` if there is none, or something is in
    /// flight on it.
    pub(crate) fn with_buf<R>(&self, index: u16, f: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        let (place, kept) = self.idle(index)?;
        let mut buf = kept.take()?.into_cpu();
        let len = place.len.replace(0);
        place.busy.set(LENT);
        let result = f(buf.as_mut_slice());
        kept.set(Some(buf.into_device()));
        place.busy.set(0);
        place.len.set(len);
        Some(result)
    }

    fn idle(&self, index: u16) -> Option<(&Place, &Cell<Option<DeviceBuf>>)> {
        let place = self.get(index)?;
        let kept = self.bufs.get(usize::from(index))?;
        (place.busy.get() == 0).then_some((place, kept))
    }

    /// The queue is dropped: its buffers return to the arena, but for those that the device may
    /// still write, which are quarantined.
    pub(crate) fn give_back(&self) {
        for (place, kept) in self.places.iter().zip(self.bufs) {
            match kept.take() {
                Some(buf) if place.busy.get() == 0 => drop(buf.into_cpu()),
                // Dropped as the device's: quarantined.
                Some(_) | None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use core_runtime::mem::DmaArena;

    use super::*;

    fn places(capacity: u16) -> (Places, &'static DmaArena) {
        let arena = DmaArena::leak(1 << 20, Iova(0x4000_0000)).expect("arena");
        (Places::new(capacity, &Bump::leak(4096)).expect("room"), arena)
    }

    fn buf(arena: &'static DmaArena, len: usize) -> DmaBuf {
        arena.alloc(len).expect("memory")
    }

    #[test]
    fn a_place_whose_buffer_is_lent_is_not_free() {
        let (places, arena) = places(1);
        let first = buf(arena, 8192);
        let iova = first.iova();
        assert_eq!(places.adopt(first).expect("room"), 0);
        let place = places.get(0).expect("there");
        let seen = places.with_buf(0, |bytes| {
            assert!(places.adopt(buf(arena, 512)).is_err(), "taken");
            assert!(places.release(0).is_none() && places.with_buf(0, |_| ()).is_none());
            assert_eq!(place.len(), 0, "no command fits");
            bytes.len()
        });
        assert_eq!(seen, Some(8192));
        assert_eq!((place.iova(), place.len()), (iova, 8192));
        places.give_back();
        assert_eq!((arena.stats().live, arena.stats().quarantined), (0, 0));
    }

    #[test]
    fn the_lowest_free_place_is_taken_and_empty_buffers_come_back() {
        let (places, arena) = places(2);
        let mut empty = buf(arena, 512);
        empty.truncate(0);
        assert!(places.adopt(empty).is_err());
        assert_eq!(places.adopt(buf(arena, 512)).ok(), Some(0));
        assert_eq!(places.adopt(buf(arena, 512)).ok(), Some(1));
        assert!(places.adopt(buf(arena, 512)).is_err());
        assert_eq!(places.release(0).expect("idle").len(), 512);
        assert!(places.release(0).is_none(), "once");
        assert_eq!(places.adopt(buf(arena, 1024)).ok(), Some(0));
        places.give_back();
    }

    #[test]
    fn what_is_still_counted_at_the_end_is_quarantined() {
        let (places, arena) = places(3);
        for expected in 0..3 {
            assert_eq!(places.adopt(buf(arena, 512)).ok(), Some(expected));
        }
        let [lost, ended, refused] = places.all() else { panic!("three") };
        lost.post();
        lost.post();
        lost.ended();
        ended.post();
        ended.ended();
        refused.not_posted(refused.post());
        assert!(places.with_buf(0, |_| ()).is_none());
        assert!(places.with_buf(1, |_| ()).is_some() && places.with_buf(2, |_| ()).is_some());
        places.give_back();
        assert_eq!((arena.stats().live, arena.stats().quarantined), (0, 1));
    }
}
