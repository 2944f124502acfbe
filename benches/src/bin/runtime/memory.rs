//! DMA arena, histogram, CRC32C.

use anyhow::Result;
use core_runtime::crc::crc32c;
use core_runtime::mem::{DmaArena, Iova};
use core_runtime::metrics::{Histogram, MetricsWriter, part_bytes};
use hybrid_abi::metrics::MetricUnit;
use hybrid_benches::rng::Rng;
use hybrid_shm::leak_aligned;

use hybrid_benches::race::{Bench, Group, SLICE};

/// Bytes of one checksum: a chunk of a feed.
const CRC_BYTES: usize = 64 << 10;

pub(crate) struct Memory {
    arena: &'static DmaArena,
    histogram: Histogram,
    values: Vec<u64>,
    bytes: Vec<u8>,
}

impl Memory {
    pub(crate) fn new() -> Result<Self> {
        let mut rng = Rng::new(5);
        let values = (0..SLICE).map(|_| rng.next() >> (20 + rng.below(40))).collect();
        let mut writer = MetricsWriter::new(leak_aligned(part_bytes(4, 1), 128), 4)?;
        Ok(Self {
            arena: DmaArena::leak(16 << 20, Iova(1 << 38))?,
            histogram: writer.histogram("values", MetricUnit::COUNT)?,
            values,
            bytes: (0..CRC_BYTES).map(|_| rng.next().to_le_bytes()[0]).collect(),
        })
    }
}

impl Group for Memory {
    fn measure(&mut self, slices: u64, bench: &mut Bench<'_>) -> Result<()> {
        let arena = self.arena;
        let mut blocks = || {
            let mut sum = 0_u64;
            for _ in 0..SLICE {
                if let Ok(buf) = arena.alloc(std::hint::black_box(4096)) {
                    sum = sum.wrapping_add(buf.iova().0);
                }
            }
            (SLICE, sum)
        };
        let mut boxes = || {
            let mut sum = 0;
            for _ in 0..SLICE {
                let buf = Vec::<u8>::with_capacity(std::hint::black_box(4096));
                sum += std::hint::black_box(&buf).capacity() as u64;
            }
            (SLICE, std::hint::black_box(sum))
        };
        let what = "arena: alloc + free of 4 KiB";
        bench.race(what, "the system's allocator", slices, &mut blocks, &mut boxes);

        let (histogram, values) = (self.histogram, &self.values);
        let mut record = || {
            for value in values {
                histogram.record(*value);
            }
            (SLICE, histogram.max())
        };
        bench.alone("histogram: record", slices, &mut record);

        let bytes = &self.bytes;
        let mut checksum = || (CRC_BYTES as u64 / 1024, crc32c(std::hint::black_box(bytes)).into());
        bench.alone("crc32c: 1 KiB of 64 KiB", slices, &mut checksum);
        Ok(())
    }
}
