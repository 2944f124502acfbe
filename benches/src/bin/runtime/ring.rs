//! Rings on one core: push and pop of a number, and of a record.

use anyhow::Result;
use core_runtime::clock::rdtsc;
use core_runtime::ring::{
    Consumer, Producer, RecordConsumer, RecordProducer, RingSpec, pair, record_pair,
};
use hybrid_benches::hist::Hist;
use hybrid_shm::leak_zeroed;

use hybrid_benches::race::{Bench, Group, SLICE};

/// Slots; 8 KiB of numbers, which stay in the first cache.
const CAPACITY: u32 = 1024;

/// Bytes of a record: a change of the best bid and offer.
const RECORD: usize = 56;

/// Single operations that are timed one by one.
const SINGLES: usize = 100_000;

/// Push and pop of a number, each timed alone: p99 in ticks, two readings of the clock included.
pub(crate) fn singles(quick: bool) -> Result<[u64; 2]> {
    let spec = RingSpec::fixed::<u64>(CAPACITY)?;
    let part = |bytes| leak_zeroed(bytes);
    let (producer, consumer): (Producer<u64>, Consumer<u64>) =
        pair(part(spec.producer_bytes()), part(spec.consumer_bytes()), spec)?;
    let mut ticks = [Hist::new(), Hist::new()];
    for n in 0..if quick { 100 } else { SINGLES } {
        let begin = rdtsc();
        let _ = producer.try_push(std::hint::black_box(&(n as u64)));
        let pushed = rdtsc();
        let _ = std::hint::black_box(consumer.pop());
        let popped = rdtsc();
        ticks[0].record(pushed - begin);
        ticks[1].record(popped - pushed);
    }
    Ok(ticks.map(|hist| hist.quantile(990_000)))
}

pub(crate) struct Rings {
    numbers: (Producer<u64>, Consumer<u64>),
    records: (RecordProducer, RecordConsumer),
}

impl Rings {
    pub(crate) fn new() -> Result<Self> {
        let spec = RingSpec::fixed::<u64>(CAPACITY)?;
        let part = |bytes| leak_zeroed(bytes);
        let numbers = pair(part(spec.producer_bytes()), part(spec.consumer_bytes()), spec)?;
        let spec = RingSpec::variable(64 << 10)?;
        let records = record_pair(part(spec.producer_bytes()), part(spec.consumer_bytes()), spec)?;
        Ok(Self { numbers, records })
    }
}

impl Group for Rings {
    fn measure(&mut self, slices: u64, bench: &mut Bench<'_>) -> Result<()> {
        let (producer, consumer) = &self.numbers;
        let mut ours = || {
            let mut sum = 0_u64;
            for n in 0..SLICE {
                let _ = producer.try_push(std::hint::black_box(&n));
                sum = sum.wrapping_add(consumer.pop().unwrap_or(0));
            }
            (SLICE, sum)
        };
        bench.alone("ring: push + pop of a u64", slices, &mut ours);

        let (producer, consumer) = &self.records;
        let mut record = || {
            let (mut sum, mut buffer, payload) = (0_u64, [0; 64], [7; RECORD]);
            for n in 0..SLICE {
                let tag = u32::try_from(n).unwrap_or(0);
                let _ = producer.write(0x0201, tag, std::hint::black_box(&payload));
                if let Ok(header) = consumer.read(&mut buffer) {
                    sum = sum.wrapping_add(u64::from(header.tag));
                }
            }
            (SLICE, sum)
        };
        bench.alone("ring: write + read of a record of 56 bytes", slices, &mut record);
        Ok(())
    }
}
