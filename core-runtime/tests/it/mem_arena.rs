//! The DMA arena against a model: random operations, no overlap, right alignment, no fragmentation.
//!
//! 10^6 operations in the normal run; `HYBRID_SOAK=1` makes it 10^8.

use core_runtime::mem::{Bump, DmaArena, DmaBuf, DmaError, DmaRegion, Iova, release_region};
use hybrid_conventions::testing;

const IOVA: Iova = Iova(0x6_4000_0000);
const MIB: usize = 1 << 20;

/// A seeded generator of sizes.
struct Random(testing::Random);

impl Random {
    fn next(&mut self) -> u64 {
        self.0.next()
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.0.below(limit as u64)).expect("below limit")
    }
}

/// A new seed each run, printed; the interpreter has no clock to take one from.
fn seed() -> u64 {
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let nanoseconds = if cfg!(miri) { 1 } else { now().map_or(1, |d| d.subsec_nanos()) };
    let seed = u64::from(nanoseconds) << 1 | 1;
    println!("seed {seed}");
    seed
}

/// Which units of 512 bytes are live, a bit each. Knows nothing of buddies.
struct Oracle {
    live: Vec<u64>,
}

impl Oracle {
    fn new(total: usize) -> Self {
        let units = total / 512;
        let mut oracle = Self { live: vec![0; units.div_ceil(64)] };
        // What lies beyond the arena's end is never free.
        if let Some(last) = oracle.live.last_mut().filter(|_| !units.is_multiple_of(64)) {
            *last = !0 << (units % 64);
        }
        oracle
    }

    /// The words of a block and the mask of its bits in each: a block is aligned to its size, so it
    /// is a part of one word, or whole words.
    fn words(&mut self, at: usize, size: usize) -> (&mut [u64], u64) {
        let (first, units) = (at / 512, size / 512);
        match units < 64 {
            true => (&mut self.live[first / 64..][..1], ((1 << units) - 1) << (first % 64)),
            false => (&mut self.live[first / 64..][..units / 64], !0),
        }
    }

    fn add(&mut self, at: usize, size: usize) {
        let (words, mask) = self.words(at, size);
        for word in words {
            assert_eq!(*word & mask, 0, "{size} bytes at {at:#x} overlap a live block");
            *word |= mask;
        }
    }

    fn remove(&mut self, at: usize, size: usize) {
        let (words, mask) = self.words(at, size);
        for word in words {
            assert_eq!(*word & mask, mask, "{size} bytes at {at:#x} are not all live");
            *word &= !mask;
        }
    }

    /// Whether an aligned block of `size` would fit between the live ones.
    fn fits(&self, size: usize) -> bool {
        let units = size / 512;
        if units >= 64 {
            let whole = self.live.chunks_exact(units / 64);
            return whole.into_iter().any(|words| words.iter().all(|&word| word == 0));
        }
        let mask = (1_u64 << units) - 1;
        let free = |word: u64| (0..64).step_by(units).any(|at| word >> at & mask == 0);
        self.live.iter().any(|&word| free(word))
    }
}

struct Live {
    buf: DmaBuf,
    tag: u8,
}

struct Run {
    arena: &'static DmaArena,
    total: usize,
    random: Random,
    oracle: Oracle,
    live: Vec<Live>,
    refused: u64,
}

impl Run {
    fn new(len: usize, seed: u64) -> Self {
        Self {
            arena: DmaArena::leak(len, IOVA).unwrap(),
            total: len / 4096 * 4096,
            random: Random(testing::Random::new(seed)),
            oracle: Oracle::new(len / 4096 * 4096),
            live: Vec::new(),
            refused: 0,
        }
    }

    fn offset(&self, buf: &DmaBuf) -> usize {
        let offset = usize::try_from(buf.iova().0 - IOVA.0).unwrap();
        let base = self.arena.region().span.as_ptr().addr();
        assert_eq!(buf.as_ptr().addr() - base, offset, "pointer and IOVA agree");
        offset
    }

    fn alloc(&mut self) {
        // Mostly small, as real requests are; any size up to 2 MiB.
        let magnitude = 9 + self.random.below(13);
        let len = 1 + self.random.below(1 << magnitude);
        let align = 1 << self.random.below(13);
        let aligned = self.random.below(4) == 0;
        let size = if aligned { len.max(align) } else { len };
        let size = size.next_power_of_two().max(512);
        let got = match aligned {
            true => self.arena.alloc_aligned(len, align),
            false => self.arena.alloc(len),
        };
        match got {
            Ok(mut buf) => {
                assert_eq!((buf.len(), buf.capacity()), (len, size));
                let at = self.offset(&buf);
                assert_eq!(at % size, 0, "aligned to its size class");
                self.oracle.add(at, size);
                let tag = self.random.next().to_le_bytes()[7];
                buf[0] = tag;
                buf[len - 1] = tag;
                self.live.push(Live { buf, tag });
            }
            Err(error) => {
                assert!(matches!(error, DmaError::Exhausted { wanted, .. } if wanted == len));
                self.refused += 1;
                assert!(!self.oracle.fits(size), "room for {size} was there");
            }
        }
    }

    fn free(&mut self) {
        if self.live.is_empty() {
            return;
        }
        let at = self.random.below(self.live.len());
        let Live { buf, tag } = self.live.swap_remove(at);
        let at = self.offset(&buf);
        self.oracle.remove(at, buf.capacity());
        // Half of them through the device.
        let buf = match self.random.below(2) {
            0 => buf.into_device().into_cpu(),
            _ => buf,
        };
        assert_eq!((buf[0], buf[buf.len() - 1]), (tag, tag), "nobody else wrote it");
    }

    /// Phases of filling and of draining, so that the arena is full at times and empty at others.
    fn go(&mut self, operations: u64) {
        for i in 0..operations {
            let filling = i / 4096 % 2 == 0;
            let allocate = self.random.below(8) < if filling { 5 } else { 3 };
            match allocate {
                true => self.alloc(),
                false => self.free(),
            }
            if self.random.below(1 << 16) == 0 {
                self.arena.trim();
            }
        }
    }

    fn check_counts(&self) {
        let stats = self.arena.stats();
        let live: usize = self.live.iter().map(|l| l.buf.capacity()).sum();
        assert_eq!((stats.live, stats.live_bytes), (self.live.len(), live));
        assert_eq!(stats.free_bytes, self.total - live);
        assert!(stats.high_water_bytes >= live && stats.high_water_bytes <= self.total);
    }
}

#[test]
fn random_allocation_never_overlaps_and_leaves_no_fragments() {
    let soak = std::env::var_os("HYBRID_SOAK").is_some();
    let operations = match (cfg!(miri), soak) {
        (true, _) => 500,
        (false, false) => 500_000,
        (false, true) => 50_000_000,
    };
    // A power of two, and a length that leaves blocks of every size over.
    let sizes = if cfg!(miri) { [MIB, 300 << 10] } else { [64 * MIB, 40 * MIB - 4096] };
    for len in sizes {
        let mut run = Run::new(len, seed());
        let largest = run.arena.stats().largest_free;
        assert_eq!(largest, 1 << run.total.ilog2());
        run.go(operations);
        run.check_counts();
        println!("{len} bytes: {} refused, {:?}", run.refused, run.arena.stats());
        run.live.clear();
        // Without asking for it: the caches don't stand in the way.
        drop(run.arena.alloc(largest).unwrap());
        run.arena.trim();
        let stats = run.arena.stats();
        assert_eq!((stats.live, stats.cached_bytes), (0, 0));
        assert_eq!((stats.free_bytes, stats.largest_free), (run.total, largest));
    }
}

#[test]
fn a_full_arena_is_refused_and_one_free_block_is_found_again() {
    let arena = DmaArena::leak(64 << 10, IOVA).unwrap();
    let mut all: Vec<_> = (0..128).map(|_| arena.alloc(512).unwrap()).collect();
    let full = DmaError::Exhausted { wanted: 1, free: 0, largest: 0 };
    assert_eq!(arena.alloc(1).unwrap_err(), full);
    assert_eq!(arena.stats().high_water_bytes, 64 << 10);
    let at = all.swap_remove(77).iova();
    assert_eq!(arena.alloc(512).unwrap().iova(), at);
    all.clear();
    assert_eq!(arena.stats().cached_bytes, 64 << 10, "all of them lie on the stack of 512");
    assert_eq!(arena.alloc(64 << 10).unwrap().iova(), IOVA);
}

#[test]
fn lengths_and_alignments_out_of_range_are_refused() {
    let arena = DmaArena::leak(MIB, IOVA).unwrap();
    assert!(matches!(arena.alloc(0), Err(DmaError::Length { len: 0, .. })));
    assert!(matches!(arena.alloc(usize::MAX), Err(DmaError::Length { .. })));
    assert!(matches!(arena.alloc((1 << 30) + 1), Err(DmaError::Length { .. })));
    assert!(matches!(arena.alloc(1 << 30), Err(DmaError::Exhausted { .. })));
    for align in [0, 3, 1 << 40, 1 << 63] {
        let refused = arena.alloc_aligned(1, align);
        assert!(matches!(refused, Err(DmaError::Alignment { .. })), "{align}");
    }
    assert!(matches!(arena.alloc_aligned(0, 4096), Err(DmaError::Length { .. })));
    assert_eq!(arena.stats().live, 0);
}

#[test]
fn a_page_sized_buffer_never_crosses_a_page() {
    let arena = DmaArena::leak(MIB, IOVA).unwrap();
    let mut kept = Vec::new();
    for len in [1, 512, 513, 700, 1024, 2048, 3000, 4096, 4096, 512, 1, 4000] {
        let buf = arena.alloc(len).unwrap();
        let first = buf.iova().0;
        assert_eq!(first / 4096, (first + len as u64 - 1) / 4096, "{len} bytes at {first:#x}");
        kept.push(buf);
    }
}

#[test]
fn a_dropped_device_buffer_is_never_handed_out_again() {
    let arena = DmaArena::leak(8192, IOVA).unwrap();
    let lost = arena.alloc(4096).unwrap().into_device();
    let at = lost.iova();
    drop(lost);
    let stats = arena.stats();
    assert_eq!((stats.live, stats.quarantined, stats.quarantined_bytes), (0, 1, 4096));
    assert_eq!(stats.free_bytes, 4096);
    let other = arena.alloc(4096).unwrap();
    assert_ne!(other.iova(), at);
    assert!(matches!(arena.alloc(1), Err(DmaError::Exhausted { free: 0, .. })));
    assert_eq!(arena.stats().high_water_bytes, 8192);
}

#[test]
fn zeroed_means_zeroed_even_where_something_was() {
    let arena = DmaArena::leak(4096, IOVA).unwrap();
    arena.alloc(4096).unwrap().fill(0xa5);
    assert!(arena.alloc_zeroed(100).unwrap().iter().all(|&byte| byte == 0));
    arena.alloc(4096).unwrap().fill(0xa5);
    let shared = arena.alloc_shared(4096, 4096).unwrap();
    let mut bytes = [1; 4096];
    shared.span().read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 4096]);
    assert!(shared.span().read(1, &mut bytes).is_err(), "the span is the block, no more");
}

#[test]
fn a_buffer_can_be_shortened_and_grown_within_its_block() {
    let arena = DmaArena::leak(4096, IOVA).unwrap();
    let mut buf = arena.alloc(600).unwrap();
    assert_eq!((buf.len(), buf.capacity()), (600, 1024));
    buf.truncate(100);
    buf.truncate(500);
    assert_eq!(buf.len(), 100);
    assert!(buf.set_len(1024));
    assert!(!buf.set_len(1025));
    buf[1023] = 1;
    assert!(buf.set_len(0) && buf.is_empty());
    drop(buf);
    assert_eq!(arena.stats().live_bytes, 0);
}

#[test]
fn one_arena_owns_a_region() {
    let region = DmaRegion::leak(MIB, IOVA);
    let bump = Bump::leak(1 << 20);
    let _first = DmaArena::new(region, &bump).unwrap();
    assert!(matches!(DmaArena::new(region, &bump), Err(DmaError::Claimed { .. })));
    let part = DmaRegion { span: region.span.sub(MIB - 4096, 4096).unwrap(), ..region };
    assert!(matches!(DmaArena::new(part, &bump), Err(DmaError::Claimed { .. })));
}

#[test]
fn a_region_that_makes_no_sense_is_refused_and_can_be_tried_again() {
    let region = DmaRegion::leak(MIB, IOVA);
    let bump = Bump::leak(DmaArena::metadata_bytes(MIB));
    let bad = [
        DmaRegion { span: region.span.sub(0, 4095).unwrap(), ..region },
        DmaRegion { span: region.span.sub(512, 8192).unwrap(), ..region },
        DmaRegion { iova: Iova(IOVA.0 + 512), ..region },
        DmaRegion { iova: Iova(u64::MAX - 4095), ..region },
        DmaRegion { page_bytes: 0, ..region },
        DmaRegion { page_bytes: 3 << 12, ..region },
    ];
    for region in bad {
        let refused = DmaArena::new(region, &bump);
        assert!(matches!(refused, Err(DmaError::Region { .. })), "{region:?}");
    }
    let tiny = Bump::leak(100);
    assert!(matches!(DmaArena::new(region, &tiny), Err(DmaError::Metadata(_))));
    assert!(DmaArena::new(region, &bump).is_ok(), "a failure leaves no claim behind");
}

#[test]
fn the_metadata_fits_what_was_promised() {
    for len in [4096, 8192, 100 << 10, MIB, 37 * MIB + 4096, 512 * MIB] {
        if cfg!(miri) && len > MIB {
            continue;
        }
        let bump = Bump::leak(DmaArena::metadata_bytes(len));
        DmaArena::new(DmaRegion::leak(len, IOVA), &bump).unwrap();
        assert!(bump.capacity() - bump.used() < 8192 + 21 * 1024, "{len}");
    }
    let share = DmaArena::metadata_bytes(512 * MIB) - DmaArena::metadata_bytes(4096);
    assert!(share < 300 << 10, "two bits a unit, not {share} bytes");
}

#[test]
fn a_released_region_can_have_a_new_arena() {
    let region = DmaRegion::leak(MIB, IOVA);
    let bump = Bump::leak(1 << 20);
    let buf = DmaArena::new(region, &bump).unwrap().alloc(4096).unwrap();
    assert!(matches!(DmaArena::new(region, &bump), Err(DmaError::Claimed { .. })));
    drop(buf);
    // SAFETY: the first arena and its only buffer are not used from here on.
    unsafe { release_region(&region) };
    assert_eq!(DmaArena::new(region, &bump).unwrap().stats().live, 0);
}
