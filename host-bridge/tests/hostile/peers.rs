//! A partition and a hostile peer of its mesh.

use core_runtime::clock::{Clock, ManualClock};
use core_runtime::mem::{Bump, DmaRegion, Iova};
use core_runtime::mesh::{MESH_MAX, Mesh, MeshSeat, MeshShape};
use core_runtime::partition::{Partition, PartitionParts, lay_out_host_region};
use core_runtime::region::{RegionFacts, RegionReader};
use hybrid_conventions::testing;
use hybrid_shm::Span;

use crate::host_side::{FACTS, RINGS, config, lines};
use crate::memory::{Random, Target, copy_of, guarded};

/// Where the header of a region tells its writer's incarnation.
const INCARNATION: usize = 40;

struct Side {
    partition: &'static Partition,
    mesh: &'static Mesh,
}

fn join(clock: &'static ManualClock, seat: &MeshSeat, incarnation: u64) -> Side {
    let facts = RegionFacts { incarnation, ..FACTS };
    let host = guarded(lines(RINGS.host_region_bytes()));
    lay_out_host_region(host, facts, RINGS).expect("it fits");
    let parts = PartitionParts {
        cpu: 1,
        facts,
        clock: Clock::manual(clock),
        bump: Bump::leak(1 << 20),
        dma: DmaRegion::leak(64 << 10, Iova(0x10_0000)),
        region: guarded(lines(RINGS.region_bytes(&config()))),
        host_region: host.read_only(),
        rings: RINGS,
        config: config(),
    };
    let partition = parts.assemble(&[]).expect("it assembles");
    Side { mesh: partition.join_mesh(seat).expect("a seat"), partition }
}

fn pass(clock: &'static ManualClock, side: &Side) {
    clock.advance(1_100_000);
    let now = side.partition.begin_pass();
    let _ = side.partition.scheduler().tick(now);
    side.partition.end_pass(now, false);
}

fn seats(regions: [Span<'static>; 2], shape: MeshShape) -> [MeshSeat; 2] {
    let seat = |index: u32, own: Span<'static>, other: Span<'static>| {
        let mut peers = [None; MESH_MAX];
        peers[1 - index as usize] = Some(other.read_only());
        MeshSeat { shape, index, own, peers }
    };
    [seat(0, regions[0], regions[1]), seat(1, regions[1], regions[0])]
}

#[test]
fn a_partition_stands_whatever_its_peer_writes() {
    let seed = testing::seed(55);
    let cases = testing::ops(250_000, 10_000_000);
    let mut random = Random::new(seed);
    let clock: &'static ManualClock = Box::leak(Box::new(ManualClock::new(1_000)));
    let shape = MeshShape::new(2, 2048).expect("a shape");
    let regions = [(), ()].map(|()| guarded(lines(shape.region_bytes())));
    let seats = seats(regions, shape);
    let (rogue, honest) = (join(clock, &seats[0], 1), join(clock, &seats[1], 1));
    for _ in 0..4 {
        pass(clock, &rogue);
        pass(clock, &honest);
    }
    let link = honest.mesh.link(0).expect("a peer");
    assert!(link.is_up(), "before any damage");
    let stale = copy_of(regions[0]);
    let to_honest = rogue.mesh.link(1).expect("a peer");
    for tag in 0..12 {
        to_honest.try_send(7, tag, &[9; 50]).expect("room");
    }
    pass(clock, &rogue);
    let reader = RegionReader::new(regions[0].read_only()).expect("laid out");
    let mut hot = vec![(0, 128), (128, 3 * 64), (INCARNATION, 4), (INCARNATION, 4)];
    for (_, _, part) in reader.parts() {
        hot.push((part.as_ptr().addr() - regions[0].as_ptr().addr(), part.len().min(640)));
    }
    // Everything of the honest side is checked by its guard pages and by this.
    let mut target = Target::new(regions[0], stale, hot);
    let (mut received, mut sent, mut broken, mut ups) = (0_u64, 0_u64, 0_u64, 0);
    let mut buffer = [0; 64];
    for case in 0..cases {
        target.damage(&mut random);
        if case % 4 == 0 {
            // It may always say that it is new, and so be linked again.
            let incarnation = 2 + (random.next() & 0xff);
            target.put(INCARNATION, &incarnation.to_le_bytes());
        }
        for _ in 0..2 {
            pass(clock, &honest);
            for _ in 0..40 {
                let Ok(header) = link.try_receive(&mut buffer) else { break };
                assert!(usize::from(header.len) <= buffer.len());
                received += 1;
            }
            sent += u64::from(link.try_send(8, 0, &[1; 30]).is_ok());
            broken += u64::from(link.broken().is_some());
        }
        target.repair();
        if case % 8 == 0 {
            mend(clock, &honest, &mut target);
            ups += u64::from(link.is_up());
        }
    }
    let counts = [received, sent, broken, ups, link.stats().violations];
    assert!(counts.iter().all(|count| *count > cases / 1000), "{counts:?}");
}

/// Lets the honest side see a peer of a new incarnation whose rings are made as they should be for
/// the two of them, with nothing in them but what lies there.
fn mend(clock: &'static ManualClock, honest: &Side, target: &mut Target) {
    let own = target.span.read_only().load64(INCARNATION).expect("inside");
    let next = if own >= 1 << 20 { 2 } else { own + 1 };
    target.span.word64(INCARNATION).expect("inside").store(next);
    // The epoch in both of its ring headers: its incarnation, then ours.
    let reader = RegionReader::new(target.span.read_only()).expect("undamaged");
    let epoch = next << 32 | 1;
    for (kind, name, part) in reader.parts() {
        if matches!(name, "to-1" | "from-1") {
            let _ = kind;
            let at = part.as_ptr().addr() - target.span.as_ptr().addr();
            target.span.word64(at + EPOCH).expect("inside").store(epoch);
        }
    }
    target.settle();
    for _ in 0..2 {
        pass(clock, honest);
    }
}

/// Where the header of a ring's part tells its epoch.
const EPOCH: usize = std::mem::offset_of!(hybrid_abi::ring::RingHeader, epoch);
