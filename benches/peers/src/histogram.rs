//! Recording a value: ours into shared memory, with exact extremes, beside `hdrhistogram`.

use anyhow::Result;
use core_runtime::metrics::{Histogram, MetricsWriter, part_bytes};
use hybrid_abi::metrics::MetricUnit;
use hybrid_benches::race::{Bench, Group, SLICE};
use hybrid_benches::rng::Rng;
use hybrid_shm::leak_aligned;

pub(crate) struct Histograms {
    ours: Histogram,
    theirs: hdrhistogram::Histogram<u64>,
    values: Vec<u64>,
}

impl Histograms {
    pub(crate) fn new() -> Result<Self> {
        let mut rng = Rng::new(5);
        let values = (0..SLICE).map(|_| rng.next() >> (20 + rng.below(40))).collect();
        let mut writer = MetricsWriter::new(leak_aligned(part_bytes(4, 1), 128), 4)?;
        // Two digits: as fine as ours is, about.
        let theirs = hdrhistogram::Histogram::new_with_bounds(1, 1 << 44, 2)?;
        Ok(Self { ours: writer.histogram("values", MetricUnit::COUNT)?, theirs, values })
    }
}

impl Group for Histograms {
    fn measure(&mut self, slices: u64, bench: &mut Bench<'_>) -> Result<()> {
        let (ours, theirs, values) = (self.ours, &mut self.theirs, &self.values);
        let mut mine = || {
            values.iter().for_each(|value| ours.record(*value));
            (SLICE, ours.max())
        };
        let mut other = || {
            values.iter().for_each(|value| theirs.saturating_record(*value));
            (SLICE, theirs.max())
        };
        bench.race("histogram: record", "hdrhistogram", slices, &mut mine, &mut other);
        Ok(())
    }
}
