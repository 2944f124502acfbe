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
        let last = if bits >= 64 {
            u64::MAX
        } else {
            (1 << bits) - 1
        };
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
pub const MSI_WINDOW: IovaRange = IovaRange {
    first: 0xfee0_0000,
    last: 0xfeef_ffff,
};

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
                return Err(IovaError::Overlap {
                    at: other.first.max(first),
                });
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
    /// If a part of it was handed out already, or the table is full.
    pub fn reserve(&mut self, hole: IovaRange) -> Result<(), IovaError> {
        if let Some(used) = self.used.iter().find(|u| u.overlaps(&hole)) {
            return Err(IovaError::Overlap {
                at: used.first.max(hole.first),
            });
        }
        while let Some(at) = self.free.iter().position(|f| f.overlaps(&hole)) {
            let piece = self.free.remove(at);
            if piece.first < hole.first {
                insert(
                    &mut self.free,
                    IovaRange {
                        last: hole.first - 1,
                        ..piece
                    },
                )?;
            }
            if piece.last > hole.last {
                insert(
                    &mut self.free,
                    IovaRange {
                        first: hole.last + 1,
                        ..piece
                    },
                )?;
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
        let found = self
            .free
            .iter()
            .enumerate()
            .find_map(|(i, p)| Some((i, fit(p)?)));
        let (index, want) = found.ok_or(IovaError::Exhausted { len, align })?;
        // Room for the worst case first, so that a failure changes nothing.
        if self.free.len() + 1 > MAX_PIECES || self.used.is_full() {
            return Err(IovaError::TooManyPieces { max: MAX_PIECES });
        }
        let piece = self.free.remove(index);
        if piece.first < want.first {
            insert(
                &mut self.free,
                IovaRange {
                    last: want.first - 1,
                    ..piece
                },
            )?;
        }
        if want.last < piece.last {
            insert(
                &mut self.free,
                IovaRange {
                    first: want.last + 1,
                    ..piece
                },
            )?;
        }
        insert(&mut self.used, want)?;
        Ok(Iova(want.first))
    }

    /// Gives back what [`alloc`](Self::alloc) returned for `len`. No partial returns, as an IOMMU
    /// has no partial unmap.
    ///
    /// # Errors
    /// [`IovaError::NotAllocated`] if exactly this was not handed out.
    pub fn free(&mut self, iova: Iova, len: u64) -> Result<(), IovaError> {
        let unknown = IovaError::NotAllocated {
            first: iova.0,
            last: iova.0.wrapping_add(len).wrapping_sub(1),
        };
        let range = IovaRange::of_len(iova.0, len).ok_or(unknown)?;
        let at = self.used.iter().position(|u| *u == range).ok_or(unknown)?;
        let home = self
            .ranges
            .iter()
            .find(|r| r.contains(&range))
            .copied()
            .ok_or(unknown)?;
        self.used.remove(at);
        let mut whole = range;
        // Join with the neighbours of the same usable range; `whole` never crosses its borders.
        if let Some(i) = self
            .free
            .iter()
            .position(|f| whole.first > home.first && f.last == whole.first - 1)
        {
            whole.first = self.free.remove(i).first;
        }
        if let Some(i) = self
            .free
            .iter()
            .position(|f| whole.last < home.last && f.first == whole.last + 1)
        {
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
