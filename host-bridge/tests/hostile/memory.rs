//! Memory between two pages without access, and what a hostile writer does to it.

use std::ptr::NonNull;

use hybrid_conventions::testing;
use hybrid_shm::Span;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};

const PAGE: usize = 4096;

/// `len` zeroed bytes (a multiple of 128) that end at a page without access, never unmapped.
pub(crate) fn guarded(len: usize) -> Span<'static> {
    assert!(len.is_multiple_of(128), "{len} bytes would leave a gap before the guard");
    let room = len.next_multiple_of(PAGE);
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a new range at an address of the kernel's choice replaces nothing.
    let base = unsafe {
        let base = rustix::mm::mmap_anonymous(
            std::ptr::null_mut(),
            room + 2 * PAGE,
            ProtFlags::empty(),
            flags,
        );
        base.expect("address space").cast::<u8>()
    };
    // SAFETY: inside the range just made, which nobody else knows.
    unsafe {
        let middle = base.add(PAGE).cast();
        rustix::mm::mprotect(middle, room, MprotectFlags::READ | MprotectFlags::WRITE)
            .expect("access");
    }
    // SAFETY: the span is mapped, writable and never unmapped; only the span names it.
    unsafe {
        let start = NonNull::new(base.add(PAGE + room - len)).expect("mapped");
        Span::from_raw(start, len)
    }
}

/// A seeded generator that also draws what a hostile writer would.
pub(crate) struct Random(testing::Random);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(testing::Random::new(seed))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0.next()
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.0.below(bound.max(1) as u64)).expect("below a usize")
    }

    /// A number that somebody would try: small, at a border, or any.
    pub(crate) fn wild(&mut self) -> u64 {
        const BORDERS: [u64; 12] = [
            0,
            1,
            7,
            127,
            128,
            4096,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            0x1_0000_0000,
            u64::MAX - 127,
            u64::MAX,
        ];
        match self.below(4) {
            0 => BORDERS[self.below(BORDERS.len())],
            1 => self.next() & 0xff,
            2 => self.next() & 0xffff_ffff,
            _ => self.next(),
        }
    }
}

/// Memory that a hostile writer damages, case by case.
pub(crate) struct Target {
    pub(crate) span: Span<'static>,
    good: Vec<u8>,
    /// What lay there earlier: for stale words.
    stale: Vec<u8>,
    /// Where damage is worth most: headers, directories, indices.
    hot: Vec<(usize, usize)>,
    damaged: Vec<(usize, usize)>,
}

pub(crate) fn copy_of(span: Span<'static>) -> Vec<u8> {
    let mut bytes = vec![0; span.len()];
    span.read(0, &mut bytes).expect("all of it");
    bytes
}

impl Target {
    /// `span` as it is now, after it was `stale`.
    pub(crate) fn new(span: Span<'static>, stale: Vec<u8>, hot: Vec<(usize, usize)>) -> Self {
        Self { good: copy_of(span), span, stale, hot, damaged: Vec::new() }
    }

    /// Does one to six things to it.
    pub(crate) fn damage(&mut self, random: &mut Random) {
        for _ in 0..=random.below(6) {
            let (at, len) = self.place(random);
            match random.below(5) {
                0 => {
                    let mut byte = [0];
                    self.span.read(at, &mut byte).expect("inside");
                    self.put(at, &[byte[0] ^ 1 << random.below(8)]);
                }
                1 => self.put(at, &random.wild().to_le_bytes()[..len.min(8)]),
                2 => {
                    let at = at & !3;
                    self.put(at, &random.wild().to_le_bytes()[..4.min(self.span.len() - at)]);
                }
                3 => {
                    let len = (1 + random.below(96)).min(self.span.len() - at);
                    let old = self.stale[at..at + len].to_vec();
                    self.put(at, &old);
                }
                // What is elsewhere in it: an entry for another, a header for a ring.
                _ => {
                    let len = (8 << random.below(5)).min(self.span.len() - at);
                    let from = random.below(self.span.len() - len + 1) & !7;
                    let other = self.good[from..from + len].to_vec();
                    self.put(at, &other);
                }
            }
        }
    }

    fn place(&self, random: &mut Random) -> (usize, usize) {
        let (from, len) = match random.below(10) {
            0 | 1 => (0, self.span.len()),
            _ => self.hot[random.below(self.hot.len())],
        };
        let at = from + random.below(len);
        (at, self.span.len() - at)
    }

    pub(crate) fn put(&mut self, at: usize, bytes: &[u8]) {
        self.span.write(at, bytes).expect("inside");
        self.damaged.push((at, bytes.len()));
    }

    /// As before the damage.
    pub(crate) fn repair(&mut self) {
        for (at, len) in self.damaged.drain(..) {
            self.span.write(at, &self.good[at..at + len]).expect("inside");
        }
    }

    /// It is now as it should be.
    pub(crate) fn settle(&mut self) {
        self.damaged.clear();
        self.good = copy_of(self.span);
    }
}
