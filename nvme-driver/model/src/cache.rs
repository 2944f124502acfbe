//! What the volatile write cache of a namespace holds, so that a power cut can lose it.
//!
//! Made where [`crate::ModelConfig::power_cuts`] says so. The namespace's memory is what reads see;
//! beside it lies what is durable, and the writes since, in order. A flush applies all of them, a
//! write through the cache itself alone, and a cut any part of them: whole writes up to the atomic
//! unit, pieces of it beyond. A cache that is full writes back by itself, as real ones do.
//!
//! Invariant: a block's durable content is that of the newest write that was applied to it; an
//! older one never replaces it, in whatever order they become durable.

use crate::rng::Rng;

/// Bytes that it holds before it writes back by itself.
const CAPACITY: usize = 1 << 20;

/// A write that is not durable yet.
#[derive(Clone, Copy, Debug)]
struct Piece {
    serial: u64,
    slba: u64,
    blocks: u64,
    /// Where its data begin.
    at: usize,
}

/// The cache.
#[derive(Debug)]
pub(crate) struct Cache {
    durable: Box<[u8]>,
    /// Serial of the write that each durable block holds.
    serials: Vec<u64>,
    pieces: Vec<Piece>,
    data: Vec<u8>,
    serial: u64,
    stride: usize,
    atomic: u64,
}

impl Cache {
    /// Over a namespace that holds `memory`, all of it durable.
    pub(crate) fn new(memory: &[u8], stride: u64, atomic: u64) -> Self {
        let stride = usize::try_from(stride).unwrap_or(usize::MAX).max(1);
        Self {
            durable: memory.into(),
            serials: vec![0; memory.len() / stride],
            pieces: Vec::new(),
            data: Vec::with_capacity(CAPACITY),
            serial: 0,
            stride,
            atomic: atomic.max(1),
        }
    }

    /// These blocks of `memory` were written.
    pub(crate) fn wrote(&mut self, slba: u64, blocks: u64, through: bool, memory: &[u8]) {
        self.serial += 1;
        let (first, len) = (index(slba) * self.stride, index(blocks) * self.stride);
        let Some(written) = memory.get(first..first + len) else { return };
        if !through && self.data.len() + len > CAPACITY {
            self.flush();
        }
        let piece = Piece { serial: self.serial, slba, blocks, at: self.data.len() };
        self.data.extend_from_slice(written);
        if through {
            self.apply(piece, 0, blocks);
            self.data.truncate(piece.at);
        } else {
            self.pieces.push(piece);
        }
    }

    /// Makes some blocks of a piece durable where they are not newer already.
    fn apply(&mut self, piece: Piece, skip: u64, blocks: u64) {
        for block in skip..skip + blocks {
            let (place, from) = (index(piece.slba + block), piece.at + index(block) * self.stride);
            if self.serials[place] > piece.serial {
                continue;
            }
            self.serials[place] = piece.serial;
            let to = place * self.stride;
            self.durable[to..to + self.stride].copy_from_slice(&self.data[from..][..self.stride]);
        }
    }

    fn forget(&mut self) {
        self.pieces.clear();
        self.data.clear();
    }

    /// Everything becomes durable.
    pub(crate) fn flush(&mut self) {
        for i in 0..self.pieces.len() {
            let piece = self.pieces[i];
            self.apply(piece, 0, piece.blocks);
        }
        self.forget();
    }

    /// Any part of it is forgotten, though it still reads as written.
    pub(crate) fn lose(&mut self, rng: &mut Rng) {
        self.pieces.retain(|_| rng.below(2) == 0);
    }

    /// The power goes: `memory` becomes what is durable and any part of the rest. Returns pieces
    /// kept and lost.
    pub(crate) fn cut(&mut self, rng: &mut Rng, memory: &mut [u8]) -> (u64, u64) {
        let (mut kept, mut lost) = (0, 0);
        // A cut after much or after little was written back.
        let share = rng.below(5);
        for i in 0..self.pieces.len() {
            let piece = self.pieces[i];
            let mut at = 0;
            while at < piece.blocks {
                let blocks = self.atomic.min(piece.blocks - at);
                if rng.below(4) < share {
                    self.apply(piece, at, blocks);
                    kept += 1;
                } else {
                    lost += 1;
                }
                at += blocks;
            }
        }
        self.forget();
        memory.copy_from_slice(&self.durable);
        (kept, lost)
    }
}

fn index(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Drive {
        memory: Vec<u8>,
        cache: Cache,
    }

    impl Drive {
        fn new(atomic: u64) -> Self {
            let memory = vec![0; 64];
            Self { cache: Cache::new(&memory, 4, atomic), memory }
        }

        fn write(&mut self, slba: u64, blocks: u64, byte: u8, through: bool) {
            let (at, len) = (index(slba) * 4, index(blocks) * 4);
            self.memory[at..at + len].fill(byte);
            self.cache.wrote(slba, blocks, through, &self.memory);
        }

        fn cut(mut self, seed: u64) -> Vec<u8> {
            self.cache.cut(&mut Rng::new(seed), &mut self.memory);
            self.memory.chunks(4).map(|block| block[0]).collect()
        }
    }

    #[test]
    fn what_was_flushed_or_written_through_survives_every_cut_and_the_rest_any_part_of_it() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let mut drive = Drive::new(2);
            drive.write(0, 2, 1, false);
            drive.cache.flush();
            drive.write(0, 2, 2, false);
            drive.write(4, 1, 3, false);
            drive.write(4, 1, 4, true);
            let after = drive.cut(seed);
            assert_eq!(after[4], 4, "an older write does not replace what was written through");
            assert_eq!(after[0], after[1], "an atomic unit is not torn");
            seen.insert(after[0]);
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn writes_beyond_the_atomic_unit_are_torn_at_it() {
        let mut torn = 0;
        for seed in 0..100 {
            let mut drive = Drive::new(2);
            drive.write(0, 4, 9, false);
            let after = drive.cut(seed);
            assert_eq!((after[0], after[2]), (after[1], after[3]));
            torn += u32::from(after[0] != after[2]);
        }
        assert!(torn > 10, "{torn}");
    }

    #[test]
    fn what_is_lost_after_a_failed_flush_reads_as_written_until_the_power_goes() {
        let mut gone = 0;
        for seed in 0..50 {
            let mut drive = Drive::new(1);
            drive.write(3, 1, 7, false);
            drive.cache.lose(&mut Rng::new(seed));
            assert_eq!(drive.memory[12], 7);
            drive.cache.flush();
            gone += u32::from(drive.cut(seed)[3] == 0);
        }
        assert!((10..40).contains(&gone), "{gone}");
    }
}
