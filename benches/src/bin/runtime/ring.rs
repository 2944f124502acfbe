//! Rings on one core: push and pop of a number, and of a record.

use anyhow::Result;
use core_runtime::ring::{
    Consumer, Producer, RecordConsumer, RecordProducer, RingSpec, pair, record_pair,
};
use crossbeam_queue::ArrayQueue;
use hybrid_shm::leak_zeroed;

use crate::{Bench, Group, SLICE};

/// Slots; 8 KiB of numbers, which stay in the first cache.
const CAPACITY: u32 = 1024;

/// Bytes of a record: a change of the best bid and offer.
const RECORD: usize = 56;

pub(crate) struct Rings {
    numbers: (Producer<u64>, Consumer<u64>),
    records: (RecordProducer, RecordConsumer),
    spsc: Box<heapless::spsc::Queue<u64, { CAPACITY as usize }>>,
    array: ArrayQueue<u64>,
}

impl Rings {
    pub(crate) fn new() -> Result<Self> {
        let spec = RingSpec::fixed::<u64>(CAPACITY)?;
        let part = |bytes| leak_zeroed(bytes);
        let numbers = pair(part(spec.producer_bytes()), part(spec.consumer_bytes()), spec)?;
        let spec = RingSpec::variable(64 << 10)?;
        let records = record_pair(part(spec.producer_bytes()), part(spec.consumer_bytes()), spec)?;
        let array = ArrayQueue::new(CAPACITY as usize);
        Ok(Self { numbers, records, spsc: Box::default(), array })
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
        let (mut put, mut take) = self.spsc.split();
        let mut heapless = || {
            let mut sum = 0_u64;
            for n in 0..SLICE {
                let _ = put.enqueue(std::hint::black_box(n));
                sum = sum.wrapping_add(take.dequeue().unwrap_or(0));
            }
            (SLICE, std::hint::black_box(sum))
        };
        let array = &self.array;
        let mut crossbeam = || {
            let mut sum = 0_u64;
            for n in 0..SLICE {
                let _ = array.push(std::hint::black_box(n));
                sum = sum.wrapping_add(array.pop().unwrap_or(0));
            }
            (SLICE, std::hint::black_box(sum))
        };
        let what = "ring: push + pop of a u64";
        bench.race(what, "heapless spsc", slices, &mut ours, &mut heapless);
        bench.race(what, "crossbeam ArrayQueue", slices, &mut ours, &mut crossbeam);

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
