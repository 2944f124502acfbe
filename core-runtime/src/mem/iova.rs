//! Device addresses, and an allocator over the ranges that an IOMMU can translate.
//!
//! The ranges come from the kernel (VFIO or iommufd) and have holes: the window of the message
//! interrupts, reserved memory, 39-bit units. A range's end is inclusive and may be `u64::MAX`, so
//! nothing here computes an end-exclusive address. Used by the host before a partition runs: a few
//! mappings in a process's life, so searching is linear.

use core::fmt;

use thiserror::Error;

/// An address as a device uses it. Never a pointer's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Iova(pub u64);

impl Iova {
    /// The address `bytes` further; `None` past the last one.
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(iova) => Some(Self(iova)),
            None => None,
        }
    }
}

impl fmt::Display for Iova {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Addresses `first ..= last`. Both ends belong to it, so that `u64::MAX` can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IovaRange {
    /// First address.
    pub first: u64,
    /// Last address, inclusive.
    pub last: u64,
}

impl IovaRange {
    /// All addresses of `bits` bits.
    #[must_use]
    pub const fn of_width(bits: u32) -> Self {
        let last = if bits >= 64 { u64::MAX } else { (1 << bits) - 1 };
        Self { first: 0, last }
    }

    /// The range of `len` bytes from `first`; `None` if it is empty or runs past `u64::MAX`.
    #[must_use]
    pub const fn of_len(first: u64, len: u64) -> Option<Self> {
        if len == 0 {
            return None;
        }
        match first.checked_add(len - 1) {
            Some(last) => Some(Self { first, last }),
            None => None,
        }
    }

    const fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    const fn contains(&self, other: &Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }
}

/// Where x86 devices write their message interrupts; never translated, so never usable.
pub const MSI_WINDOW: IovaRange = IovaRange { first: 0xfee0_0000, last: 0xfeef_ffff };

/// Pieces that a fixed table can hold: a handful of usable ranges, cut by a few mappings each.
const MAX_PIECES: usize = 64;
/// Usable ranges that are remembered; kernels report two to five.
const MAX_RANGES: usize = 32;

/// Why an IOVA could not be had or given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IovaError {
    /// A range whose end lies before its start.
    #[error("IOVA range {first:#x}..={last:#x} ends before it starts")]
    Backwards {
        /// First address.
        first: u64,
        /// Last address.
        last: u64,
    },
    /// Two of the given ranges overlap.
    #[error("IOVA ranges overlap at {at:#x}")]
    Overlap {
        /// First address that both have.
        at: u64,
    },
    /// A length of zero, or an alignment that is no power of two.
    #[error("{len} bytes aligned to {align} is not a request for IOVAs")]
    Request {
        /// Length asked for.
        len: u64,
        /// Alignment asked for.
        align: u64,
    },
    /// No free piece is long enough.
    #[error("no {len} contiguous bytes of IOVA aligned to {align} are free")]
    Exhausted {
        /// Length asked for.
        len: u64,
        /// Alignment asked for.
        align: u64,
    },
    /// More pieces than the table holds.
    #[error("the IOVA space is in more than {max} pieces")]
    TooManyPieces {
        /// Pieces that the table holds.
        max: usize,
    },
    /// A range given back that was not handed out.
    #[error("IOVA range {first:#x}..={last:#x} was not allocated")]
    NotAllocated {
        /// First address.
        first: u64,
        /// Last address.
        last: u64,
    },
}

/// Hands out addresses, lowest first. Address 0 stays unused: an entry that was never filled in
/// must fault, not hit a buffer.
#[derive(Clone, Debug)]
pub struct IovaAllocator {
    ranges: heapless::Vec<IovaRange, MAX_RANGES>,
    /// Sorted, apart, and with a gap or a range border between any two.
    free: heapless::Vec<IovaRange, MAX_PIECES>,
    /// Sorted; what `free` may take back.
    used: heapless::Vec<IovaRange, MAX_PIECES>,
}

impl IovaAllocator {
    /// An allocator over `usable`, in any order.
    ///
    /// # Errors
    /// If a range ends before it starts, two overlap, or there are too many.
    pub fn new(usable: &[IovaRange]) -> Result<Self, IovaError> {
        let mut ranges = heapless::Vec::<IovaRange, MAX_RANGES>::new();
        for &range in usable {
            let IovaRange { first, last } = range;
            if first > last {
                return Err(IovaError::Backwards { first, last });
            }
            if let Some(other) = ranges.iter().find(|r| r.overlaps(&range)) {
                return Err(IovaError::Overlap { at: other.first.max(first) });
            }
            let at = ranges.partition_point(|r| r.first < first);
            let full = IovaError::TooManyPieces { max: MAX_RANGES };
            ranges.insert(at, range).map_err(|_| full)?;
        }
        let mut free = heapless::Vec::new();
        for &range in &ranges {
            let first = range.first.max(1);
            if first <= range.last {
                insert(&mut free, IovaRange { first, ..range })?;
            }
        }
        let used = heapless::Vec::new();
        Ok(Self { ranges, free, used })
    }

    /// Takes `hole` out of what may be handed out, for instance [`MSI_WINDOW`] where the kernel
    /// doesn't report it. Parts of it that were not usable anyway are no error.
    ///
    /// # Errors
    /// If it ends before it starts, or a part of it was handed out already. If the table is full:
    /// the hole is out all the same, and what lay beyond it may be lost.
    pub fn reserve(&mut self, hole: IovaRange) -> Result<(), IovaError> {
        let IovaRange { first, last } = hole;
        if last < first {
            return Err(IovaError::Backwards { first, last });
        }
        if let Some(used) = self.used.iter().find(|u| u.overlaps(&hole)) {
            return Err(IovaError::Overlap { at: used.first.max(hole.first) });
        }
        while let Some(at) = self.free.iter().position(|f| f.overlaps(&hole)) {
            let piece = self.free.remove(at);
            if piece.first < hole.first {
                insert(&mut self.free, IovaRange { last: hole.first - 1, ..piece })?;
            }
            if piece.last > hole.last {
                insert(&mut self.free, IovaRange { first: hole.last + 1, ..piece })?;
            }
        }
        Ok(())
    }

    /// The lowest free range of `len` bytes whose start is a multiple of `align`.
    ///
    /// # Errors
    /// [`IovaError::Request`], [`IovaError::Exhausted`], or [`IovaError::TooManyPieces`].
    pub fn alloc(&mut self, len: u64, align: u64) -> Result<Iova, IovaError> {
        if len == 0 || !align.is_power_of_two() {
            return Err(IovaError::Request { len, align });
        }
        let fit = |piece: &IovaRange| {
            let first = piece.first.checked_next_multiple_of(align)?;
            let want = IovaRange::of_len(first, len)?;
            piece.contains(&want).then_some(want)
        };
        let found = self.free.iter().enumerate().find_map(|(i, p)| Some((i, fit(p)?)));
        let (index, want) = found.ok_or(IovaError::Exhausted { len, align })?;
        // Room for the worst case first, so that a failure changes nothing.
        if self.free.len() + 1 > MAX_PIECES || self.used.is_full() {
            return Err(IovaError::TooManyPieces { max: MAX_PIECES });
        }
        let piece = self.free.remove(index);
        if piece.first < want.first {
            insert(&mut self.free, IovaRange { last: want.first - 1, ..piece })?;
        }
        if want.last < piece.last {
            insert(&mut self.free, IovaRange { first: want.last + 1, ..piece })?;
        }
        insert(&mut self.used, want)?;
        Ok(Iova(want.first))
    }

    /// Gives back what [`alloc`](Self::alloc) returned for `len`. No partial returns, as an IOMMU
    /// has no partial unmap.
    ///
    /// # Errors
    /// [`IovaError::NotAllocated`] if exactly this was not handed out;
    /// [`IovaError::TooManyPieces`] if the table is full, and the range stays handed out then.
    pub fn free(&mut self, iova: Iova, len: u64) -> Result<(), IovaError> {
        let unknown = IovaError::NotAllocated {
            first: iova.0,
            last: iova.0.wrapping_add(len).wrapping_sub(1),
        };
        let range = IovaRange::of_len(iova.0, len).ok_or(unknown)?;
        let at = self.used.iter().position(|u| *u == range).ok_or(unknown)?;
        let home = self.ranges.iter().find(|r| r.contains(&range)).copied().ok_or(unknown)?;
        // Neighbours of the same usable range; a piece never crosses its borders.
        let before = range.first.checked_sub(1).filter(|_| range.first > home.first);
        let after = range.last.checked_add(1).filter(|_| range.last < home.last);
        let ends_before = |piece: &IovaRange| Some(piece.last) == before;
        let starts_after = |piece: &IovaRange| Some(piece.first) == after;
        let joins = self.free.iter().any(|f| ends_before(f) || starts_after(f));
        if self.free.is_full() && !joins {
            return Err(IovaError::TooManyPieces { max: MAX_PIECES });
        }
        self.used.remove(at);
        let mut whole = range;
        if let Some(i) = self.free.iter().position(ends_before) {
            whole.first = self.free.remove(i).first;
        }
        if let Some(i) = self.free.iter().position(starts_after) {
            whole.last = self.free.remove(i).last;
        }
        insert(&mut self.free, whole)
    }

    /// Free pieces, lowest first.
    #[must_use]
    pub fn free_ranges(&self) -> &[IovaRange] {
        &self.free
    }
}

/// Inserts a piece in order.
fn insert(
    pieces: &mut heapless::Vec<IovaRange, MAX_PIECES>,
    piece: IovaRange,
) -> Result<(), IovaError> {
    let at = pieces.partition_point(|p| p.first < piece.first);
    let full = IovaError::TooManyPieces { max: MAX_PIECES };
    pieces.insert(at, piece).map_err(|_| full)
}

#[cfg(test)]
mod tests {
    use super::super::region::{PAGE_1G, PAGE_2M};
    use super::*;

    const fn range(first: u64, last: u64) -> IovaRange {
        IovaRange { first, last }
    }

    /// What VFIO reports on a 39-bit IOMMU.
    fn narrow() -> IovaAllocator {
        let usable = [range(MSI_WINDOW.last + 1, (1 << 39) - 1), range(0, MSI_WINDOW.first - 1)];
        IovaAllocator::new(&usable).unwrap()
    }

    #[test]
    fn addresses_come_lowest_first_and_aligned_around_the_msi_window() {
        let mut iovas = narrow();
        assert_eq!(iovas.alloc(PAGE_2M, PAGE_2M), Ok(Iova(PAGE_2M)), "not 0");
        assert_eq!(iovas.alloc(PAGE_1G, PAGE_1G), Ok(Iova(PAGE_1G)));
        assert_eq!(iovas.alloc(PAGE_1G, PAGE_1G), Ok(Iova(2 * PAGE_1G)));
        // The fourth GiB holds the window.
        assert_eq!(iovas.alloc(PAGE_1G, PAGE_1G), Ok(Iova(4 * PAGE_1G)));
        assert_eq!(iovas.alloc(PAGE_2M, PAGE_2M), Ok(Iova(2 * PAGE_2M)));
    }

    #[test]
    fn a_39_bit_space_ends_at_39_bits() {
        let mut iovas = narrow();
        let all = (1 << 39) - 4 * PAGE_1G;
        let top = iovas.alloc(all, PAGE_1G).unwrap();
        assert_eq!(top.0 + all, 1 << 39);
        let exhausted = IovaError::Exhausted { len: PAGE_1G, align: PAGE_1G };
        for _ in 0..2 {
            iovas.alloc(PAGE_1G, PAGE_1G).unwrap();
        }
        assert_eq!(iovas.alloc(PAGE_1G, PAGE_1G), Err(exhausted));
    }

    #[test]
    fn the_last_address_of_all_can_be_used() {
        let mut iovas = IovaAllocator::new(&[IovaRange::of_width(64)]).unwrap();
        let below = iovas.alloc(u64::MAX - 4095, 4096).unwrap();
        assert_eq!(below, Iova(4096));
        assert_eq!(iovas.free_ranges(), [range(1, 4095)]);
        iovas.free(below, u64::MAX - 4095).unwrap();
        assert_eq!(iovas.free_ranges(), [range(1, u64::MAX)]);
        let mut top = IovaAllocator::new(&[range(u64::MAX - 4095, u64::MAX)]).unwrap();
        assert_eq!(top.alloc(4096, 4096), Ok(Iova(u64::MAX - 4095)));
        assert_eq!(top.alloc(1, 1), Err(IovaError::Exhausted { len: 1, align: 1 }));
        top.free(Iova(u64::MAX - 4095), 4096).unwrap();
        assert_eq!(top.alloc(4097, 1), Err(IovaError::Exhausted { len: 4097, align: 1 }));
        assert_eq!(top.alloc(1, 1 << 63), Err(IovaError::Exhausted { len: 1, align: 1 << 63 }));
    }

    #[test]
    fn neighbours_join_but_not_across_a_border() {
        let mut iovas =
            IovaAllocator::new(&[range(0x1000, 0x3fff), range(0x4000, 0x7fff)]).unwrap();
        let got: [Iova; 7] = core::array::from_fn(|_| iovas.alloc(0x1000, 0x1000).unwrap());
        assert!(iovas.free_ranges().is_empty());
        for at in [1, 3, 5, 0, 6, 2, 4] {
            iovas.free(got[at], 0x1000).unwrap();
        }
        assert_eq!(iovas.free_ranges(), [range(0x1000, 0x3fff), range(0x4000, 0x7fff)]);
    }

    #[test]
    fn only_what_was_handed_out_comes_back() {
        let mut iovas = narrow();
        let got = iovas.alloc(PAGE_2M, PAGE_2M).unwrap();
        let before = iovas.free_ranges().to_vec();
        for (iova, len) in [(0, PAGE_2M), (got.0, PAGE_2M / 2), (got.0, 0), (u64::MAX, 2)] {
            let error = iovas.free(Iova(iova), len).unwrap_err();
            assert!(matches!(error, IovaError::NotAllocated { .. }), "{iova:#x} {len:#x}");
        }
        assert_eq!(iovas.free_ranges(), before);
        iovas.free(got, PAGE_2M).unwrap();
        assert!(iovas.free(got, PAGE_2M).is_err(), "only once");
    }

    #[test]
    fn a_reserved_hole_is_never_handed_out() {
        let mut iovas = IovaAllocator::new(&[IovaRange::of_width(32)]).unwrap();
        iovas.reserve(MSI_WINDOW).unwrap();
        assert_eq!(
            iovas.free_ranges(),
            [range(1, MSI_WINDOW.first - 1), range(MSI_WINDOW.last + 1, u64::from(u32::MAX))]
        );
        let got = iovas.alloc(0x10_0000, 0x10_0000).unwrap();
        assert!(matches!(iovas.reserve(range(got.0, got.0)), Err(IovaError::Overlap { .. })));
        iovas.reserve(range(0, u64::MAX)).unwrap_err();
        iovas.free(got, 0x10_0000).unwrap();
        iovas.reserve(range(0, u64::MAX)).unwrap();
        assert!(iovas.free_ranges().is_empty());
    }

    #[test]
    fn senseless_ranges_and_requests_are_refused() {
        let backwards = IovaError::Backwards { first: 2, last: 1 };
        assert_eq!(IovaAllocator::new(&[range(2, 1)]).unwrap_err(), backwards);
        let overlap = IovaAllocator::new(&[range(0, 9), range(9, 12)]).unwrap_err();
        assert_eq!(overlap, IovaError::Overlap { at: 9 });
        let many: Vec<_> = (0..100).map(|i| range(i * 10, i * 10)).collect();
        assert!(matches!(IovaAllocator::new(&many), Err(IovaError::TooManyPieces { .. })));
        let mut iovas = narrow();
        for (len, align) in [(0, 1), (1, 0), (1, 3)] {
            assert_eq!(iovas.alloc(len, align), Err(IovaError::Request { len, align }));
        }
        assert!(IovaAllocator::new(&[]).unwrap().alloc(1, 1).is_err());
        assert!(IovaAllocator::new(&[range(0, 0)]).unwrap().alloc(1, 1).is_err());
    }

    #[test]
    fn a_full_table_refuses_and_changes_nothing() {
        let mut iovas = IovaAllocator::new(&[IovaRange::of_width(48)]).unwrap();
        let mut got = Vec::new();
        let full = loop {
            match iovas.alloc(1, 1 << 20) {
                Ok(iova) => got.push(iova),
                Err(error) => break error,
            }
        };
        assert_eq!(full, IovaError::TooManyPieces { max: MAX_PIECES });
        let before = iovas.free_ranges().to_vec();
        assert!(iovas.alloc(1, 1 << 20).is_err());
        assert_eq!(iovas.free_ranges(), before);
        for iova in got {
            iovas.free(iova, 1).unwrap();
        }
        assert_eq!(iovas.free_ranges(), [range(1, (1 << 48) - 1)]);
    }
}
