//! A partition looks at the host's region.

use std::ptr::NonNull;

use core_runtime::clock::{Clock, ManualClock};
use core_runtime::mem::{Bump, DmaRegion, Iova};
use core_runtime::partition::{
    EVENTS_RING, HostParts, PartitionParts, PartitionState, lay_out_host_region,
};
use core_runtime::region::RegionReader;
use core_runtime::ring::RecordProducer;
use hybrid_abi::command::{KIND_PING, KIND_STOP, Ping, STOP_SIGNAL, Stop};
use hybrid_abi::region::PartKind;
use hybrid_conventions::testing;
use hybrid_shm::{Span, leak_aligned};
use zerocopy::IntoBytes;

use crate::host_side::{FACTS, RINGS, config, lines};
use crate::memory::{Random, Target, copy_of, guarded};

/// Memory of a partition that is made again and again; nobody keeps anything of the one before.
struct Place {
    private: Span<'static>,
    region: Span<'static>,
    dma: DmaRegion,
    clock: &'static ManualClock,
}

impl Place {
    fn new() -> Self {
        Self {
            private: leak_aligned(256 << 10, 4096),
            region: guarded(lines(RINGS.region_bytes(&config()))),
            dma: DmaRegion::leak(64 << 10, Iova(0x10_0000)),
            clock: Box::leak(Box::new(ManualClock::new(1_000))),
        }
    }

    fn parts(&self, host_region: Span<'static>) -> PartitionParts {
        let base = NonNull::new(self.private.as_ptr()).expect("mapped");
        PartitionParts {
            cpu: 1,
            facts: FACTS,
            clock: Clock::manual(self.clock),
            // SAFETY: leaked memory; the partition before is not used any more, nor what it made.
            bump: unsafe { Bump::from_raw(base, self.private.len()) },
            dma: self.dma,
            region: self.region,
            host_region: host_region.read_only(),
            rings: RINGS,
            config: config(),
        }
    }
}

/// A host's region with some commands in its ring, and how it was before them.
fn host_region(region: Span<'static>) -> (HostParts, Vec<u8>) {
    let host = lay_out_host_region(region, FACTS, RINGS).expect("it fits");
    let stale = copy_of(region);
    let spec = RINGS.commands_spec(&FACTS).expect("a power of two");
    let peer = guarded(spec.consumer_bytes());
    spec.make_consumer_part(peer).expect("it fits");
    let producer = RecordProducer::new(host.commands, peer.read_only(), spec).expect("a ring");
    for tag in 0..6 {
        producer.write(KIND_PING, tag, Ping { sent_tsc: 7 }.as_bytes()).expect("room");
        producer.write(0x7777, tag, &[5; 100]).expect("room");
    }
    let stop = Stop { grace_ns: 1_000, reason: STOP_SIGNAL, reserved: 0 };
    producer.write(KIND_STOP, 0, stop.as_bytes()).expect("room");
    (host, stale)
}

#[test]
fn a_partition_stands_whatever_its_host_writes() {
    let seed = testing::seed(53);
    let cases = testing::ops(100_000, 5_000_000);
    let mut random = Random::new(seed);
    let region = guarded(lines(RINGS.host_region_bytes()));
    let (host, stale) = host_region(region);
    let offset = |part: Span<'static>| part.as_ptr().addr() - region.as_ptr().addr();
    let hot = vec![
        (0, 128 + 3 * 64),
        (offset(host.state), 128),
        (offset(host.commands), 384 + 512),
        (offset(host.events), 384),
    ];
    let mut target = Target::new(region, stale, hot);
    let place = Place::new();
    let (mut assembled, mut refused, mut stopped, mut commands) = (0_u64, 0_u64, 0_u64, 0_u64);
    for case in 0..cases {
        if case != 0 {
            target.damage(&mut random);
        }
        // As after its creation: zeroed where it says whether something is there.
        place.region.fill(0, 4096, 0).expect("inside");
        match place.parts(region).assemble(b"arguments") {
            Ok(partition) => {
                assembled += 1;
                for _ in 0..6 {
                    place.clock.advance(1_000);
                    let now = partition.begin_pass();
                    let _ = partition.scheduler().tick(now);
                    // Later damage finds the ends open.
                    target.damage(&mut random);
                    partition.end_pass(now, true);
                    commands += u64::from(partition.take_command(&mut [0; 64]).is_some());
                }
                let full = partition.events().send(&Ping { sent_tsc: 1 }).is_err();
                assert!(full || partition.state() == PartitionState::Starting);
                stopped += u64::from(partition.stop_requested().is_some());
            }
            Err(_) => refused += 1,
        }
        // SAFETY: as for the private memory: nobody uses what was made from it any more.
        unsafe { core_runtime::mem::release_region(&place.dma) };
        target.repair();
    }
    let counts = [assembled, refused, stopped, commands];
    assert!(counts.iter().all(|count| *count > cases / 100), "{counts:?}");
}

#[test]
fn no_directory_leads_outside_of_its_region() {
    let seed = testing::seed(54);
    let mut random = Random::new(seed);
    let region = guarded(lines(RINGS.host_region_bytes()));
    let (_, stale) = host_region(region);
    let mut target = Target::new(region, stale, vec![(0, 512)]);
    for _ in 0..testing::ops(20_000, 1_000_000) {
        target.damage(&mut random);
        if let Ok(reader) = RegionReader::new(region.read_only())
            && let Ok(part) = reader.part(PartKind::RING_CONSUMER, EVENTS_RING)
        {
            let at = part.as_ptr().addr();
            let all = region.as_ptr().addr()..region.as_ptr().addr() + region.len();
            assert!(all.contains(&at) && at + part.len() <= all.end, "a part outside");
        }
        target.repair();
    }
}
