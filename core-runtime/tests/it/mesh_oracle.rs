//! Several partitions in one thread, stepped in a random order: what is sent arrives once, in the
//! order of its key, through rings so small that they are full most of the time; and restarts.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use core_runtime::clock::{Clock, ManualClock};
use core_runtime::mem::{Bump, DmaRegion, Iova};
use core_runtime::mesh::{Link, MESH_MAX, Mesh, MeshError, MeshSeat, MeshShape, ReceiveError};
use core_runtime::mesh::{Router, SendError};
use core_runtime::partition::{
    Partition, PartitionConfig, PartitionParts, RingSizes, lay_out_host_region,
};
use core_runtime::region::RegionFacts;
use core_runtime::task::{SchedulerConfig, TaskOptions, yield_now};
use hybrid_conventions::testing::{self, Random};
use hybrid_shm::{Span, leak_aligned, leak_zeroed};

const RINGS: RingSizes = RingSizes { events: 4096, commands: 4096 };

/// The regions of a mesh, which outlive the partitions.
struct Board {
    shape: MeshShape,
    regions: Vec<Span<'static>>,
    clock: &'static ManualClock,
}

impl Board {
    fn new(partitions: u32, ring_bytes: usize) -> Self {
        let shape = MeshShape::new(partitions, ring_bytes).expect("a shape");
        let region = |_| leak_aligned(shape.region_bytes(), 128);
        let clock = Box::leak(Box::new(ManualClock::new(1_000)));
        Self { shape, regions: (0..partitions).map(region).collect(), clock }
    }

    fn seat(&self, index: u32) -> MeshSeat {
        let mut peers = [None; MESH_MAX];
        for (peer, region) in self.regions.iter().enumerate() {
            peers[peer] = (peer != index as usize).then(|| region.read_only());
        }
        MeshSeat { shape: self.shape, index, own: self.regions[index as usize], peers }
    }

    fn start(&self, index: u32, incarnation: u64) -> (&'static Partition, &'static Mesh) {
        let config = PartitionConfig {
            scheduler: SchedulerConfig {
                max_tasks: 64,
                max_timers: 8,
                task_memory_bytes: 64 << 10,
                ..SchedulerConfig::default()
            },
            ..PartitionConfig::default()
        };
        let facts = RegionFacts {
            partition: index,
            incarnation,
            tsc_hz: 1_000_000_000,
            ..RegionFacts::default()
        };
        let partition = self.assemble(facts, config, Bump::leak(512 << 10));
        let mesh = partition.join_mesh(&self.seat(index)).expect("a seat");
        (partition, mesh)
    }

    fn assemble(
        &self,
        facts: RegionFacts,
        config: PartitionConfig,
        bump: Bump,
    ) -> &'static Partition {
        let host = leak_zeroed(RINGS.host_region_bytes());
        lay_out_host_region(host, facts, RINGS).expect("it fits");
        let parts = PartitionParts {
            cpu: facts.partition,
            facts,
            clock: Clock::manual(self.clock),
            bump,
            dma: DmaRegion::leak(64 << 10, Iova(0x10_0000)),
            region: leak_zeroed(RINGS.region_bytes(&config)),
            host_region: host.read_only(),
            rings: RINGS,
            config,
        };
        parts.assemble(&[]).expect("it assembles")
    }

    /// One pass of a partition's loop, some time later.
    fn pass(&self, partition: &'static Partition, ns: u64) {
        self.clock.advance(ns);
        let now = partition.begin_pass();
        let tick = partition.scheduler().tick(now);
        partition.end_pass(now, !tick.is_idle());
    }

    /// A random partition.
    fn any(&self, random: &mut Random) -> usize {
        usize::try_from(random.below(self.regions.len() as u64)).expect("small")
    }

    /// Passes of all, until every link is up.
    fn link_up(&self, all: &[(&'static Partition, &'static Mesh)]) {
        for _ in 0..8 {
            for (partition, _) in all {
                self.pass(partition, 1_100_000);
            }
        }
        for (_, mesh) in all {
            assert!(mesh.links().all(Link::is_up), "{mesh:?}");
        }
    }
}

fn spawn(partition: &'static Partition, task: impl Future<Output = ()> + 'static) {
    partition.spawner().spawn(TaskOptions::normal("t"), task).expect("room").detach();
}

/// What a record says: who sent it, its key, and its number among that sender's of that key.
fn payload(from: u64, key: u64, number: u64, padding: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(from.to_le_bytes());
    bytes.extend(key.to_le_bytes());
    bytes.extend(number.to_le_bytes());
    bytes.extend((0..padding).map(|at| key.wrapping_add(at).to_le_bytes()[0]));
    bytes
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at * 8..][..8].try_into().expect("eight bytes"))
}

/// What arrived: the next number by sender and key.
#[derive(Default)]
struct Seen {
    next: HashMap<(u64, u64), u64>,
    records: u64,
}

impl Seen {
    fn take(&mut self, router: Router, own: u32, bytes: &[u8]) {
        let (from, key, number) = (word(bytes, 0), word(bytes, 1), word(bytes, 2));
        assert_eq!(router.of_u64(key), own, "key {key} came to the wrong partition");
        let next = self.next.entry((from, key)).or_insert(0);
        assert_eq!(number, *next, "order of key {key} from {from}");
        *next += 1;
        self.records += 1;
        let padding = bytes.len() as u64 - 24;
        assert_eq!(bytes, payload(from, key, number, padding), "bytes of key {key}");
    }
}

/// Sends `records` random ones to their keys' owners; own ones are taken at once.
async fn produce(mesh: &'static Mesh, seed: u64, records: u64, seen: Rc<RefCell<Seen>>) {
    let mut random = Random::new(seed);
    let mut numbers: HashMap<u64, u64> = HashMap::new();
    for _ in 0..records {
        let key = random.below(50);
        let number = numbers.entry(key).or_insert(0);
        let bytes = payload(mesh.index().into(), key, *number, random.below(60));
        *number += 1;
        let owner = mesh.router().of_u64(key);
        let Some(link) = mesh.link(owner) else {
            seen.borrow_mut().take(mesh.router(), owner, &bytes);
            continue;
        };
        // Both ways of sending, and a wait after a refusal.
        match random.below(3) {
            0 => link.send(7, 0, &bytes).await.expect("the link is up"),
            _ => {
                while let Err(error) = link.try_send(7, 0, &bytes) {
                    assert_eq!(error, SendError::Full { peer: owner });
                    yield_now().await;
                }
            }
        }
        if random.below(5) == 0 {
            yield_now().await;
        }
    }
}

async fn consume(mesh: &'static Mesh, link: &'static Link, seen: Rc<RefCell<Seen>>) {
    let mut buffer = [0; 256];
    loop {
        let header = link.receive(&mut buffer).await.expect("the link is up");
        seen.borrow_mut().take(mesh.router(), mesh.index(), &buffer[..header.len.into()]);
    }
}

#[test]
fn the_order_of_each_key_is_kept_whatever_the_load_and_nothing_is_lost() {
    let seed = testing::seed(41);
    let total = testing::ops(300_000, 10_000_000);
    for (partitions, ring_bytes) in [(2, 128), (3, 128), (5, 256)] {
        let mut random = Random::new(seed + u64::from(partitions));
        let board = Board::new(partitions, ring_bytes);
        let all: Vec<_> = (0..partitions).map(|index| board.start(index, 1)).collect();
        board.link_up(&all);
        let records = total / 3 / u64::from(partitions);
        let producers = Rc::new(Cell::new(0));
        let seen: Vec<_> = all.iter().map(|_| Rc::new(RefCell::new(Seen::default()))).collect();
        for ((partition, mesh), seen) in all.iter().zip(&seen) {
            for link in mesh.links() {
                spawn(partition, consume(mesh, link, Rc::clone(seen)));
            }
            let (producers, seen) = (Rc::clone(&producers), Rc::clone(seen));
            let seed = seed ^ u64::from(mesh.index());
            let work = produce(mesh, seed, records, seen);
            spawn(partition, async move {
                work.await;
                producers.set(producers.get() + 1);
            });
        }
        let expected = records * u64::from(partitions);
        let arrived = || seen.iter().map(|seen| seen.borrow().records).sum::<u64>();
        let mut passes = 0_u64;
        while producers.get() < partitions || arrived() < expected {
            board.pass(all[board.any(&mut random)].0, 100);
            passes += 1;
            assert!(passes < 100 * expected, "stuck with {} of {expected}", arrived());
        }
        assert_eq!(arrived(), expected);
        let full: u64 = all.iter().flat_map(|(_, mesh)| mesh.links()).map(|l| l.stats().full).sum();
        assert!(full > records / 20, "the rings were full {full} times");
    }
}

#[test]
fn a_restarted_peer_is_linked_again_and_reads_nothing_of_the_one_before() {
    let board = Board::new(2, 1024);
    let (old, survivor) = (board.start(0, 1), board.start(1, 7));
    board.link_up(&[old, survivor]);
    let (to_old, to_survivor) = (survivor.1.link(0).expect("a peer"), old.1.link(1).expect("one"));
    assert_eq!((to_old.peer_incarnation(), to_survivor.peer_incarnation()), (Some(1), Some(7)));
    for number in 0..5 {
        to_old.try_send(7, number, &[1; 8]).expect("room");
        to_survivor.try_send(7, number, &[1; 8]).expect("room");
    }
    board.pass(old.0, 100);
    board.pass(survivor.0, 100);

    // It dies here; its successor takes the seat and finds the ring full of old records.
    let new = board.start(0, 2);
    let mut buffer = [0; 64];
    assert_eq!(
        new.1.link(1).expect("a peer").try_receive(&mut buffer),
        Err(ReceiveError::Down { peer: 1 })
    );
    board.link_up(&[new, survivor]);
    assert_eq!(to_old.peer_incarnation(), Some(2));
    assert_eq!(to_old.stats().ups, 2);
    let to_survivor = new.1.link(1).expect("a peer");
    for (link, side) in [(to_old, "survivor"), (to_survivor, "successor")] {
        let empty = Err(ReceiveError::Empty { peer: link.peer() });
        assert_eq!(link.try_receive(&mut buffer), empty, "{side}");
    }
    to_survivor.try_send(8, 1, b"hello").expect("room");
    to_old.try_send(9, 2, b"again").expect("room");
    board.link_up(&[new, survivor]);
    assert_eq!(to_old.try_receive(&mut buffer).expect("a record").kind, 8);
    assert_eq!(to_survivor.try_receive(&mut buffer).expect("a record").kind, 9);
}

#[test]
fn who_waits_learns_that_the_peer_went_and_came_back() {
    let board = Board::new(2, 128);
    let (old, survivor) = (board.start(0, 1), board.start(1, 1));
    let log = Rc::new(RefCell::new(Vec::new()));
    let told = Rc::clone(&log);
    spawn(survivor.0, async move {
        let link = survivor.1.link(0).expect("a peer");
        loop {
            let incarnation = link.up().await;
            told.borrow_mut().push(format!("up {incarnation}"));
            while link.send(7, 0, &[0; 40]).await.is_ok() {}
            told.borrow_mut().push("down".to_owned());
        }
    });
    board.link_up(&[old, survivor]);
    let new = board.start(0, 2);
    board.link_up(&[new, survivor]);
    assert_eq!(*log.borrow(), ["up 1", "down", "up 2"]);
}

#[test]
fn signals_arrive_with_their_number_and_wake_only_who_waits_for_them() {
    let board = Board::new(3, 128);
    let all: Vec<_> = (0..3).map(|index| board.start(index, 1)).collect();
    board.link_up(&all);
    let seen = Rc::new(Cell::new(0));
    let (count, link) = (Rc::clone(&seen), all[1].1.link(0).expect("a peer"));
    spawn(all[1].0, async move { count.set(link.signalled(29).await) });
    let sender = all[0].1.link(1).expect("a peer");
    assert!(sender.signal(29) && sender.signal(29) && sender.signal(0));
    assert!(!sender.signal(30), "there is no such signal");
    board.pass(all[1].0, 10);
    assert_eq!(seen.get(), 0, "not before the sender's pass has ended");
    board.pass(all[0].0, 10);
    board.pass(all[1].0, 10);
    assert_eq!(seen.get(), 2);
}

#[test]
fn a_peer_that_breaks_the_rules_is_not_talked_to_until_it_was_restarted() {
    let board = Board::new(2, 256);
    let (rogue, survivor) = (board.start(0, 1), board.start(1, 1));
    board.link_up(&[rogue, survivor]);
    let link = survivor.1.link(0).expect("a peer");
    let mut buffer = [0; 64];
    // Its tail, beyond what a ring of 32 words can hold.
    let region = core_runtime::region::RegionReader::new(board.regions[0].read_only());
    let region = region.expect("it is laid out");
    let part = region.part(hybrid_abi::region::PartKind::RING_PRODUCER, "to-1").expect("a part");
    let offset = part.as_ptr().addr() - board.regions[0].as_ptr().addr();
    let tail = board.regions[0].word32(offset + 128).expect("inside");
    tail.store(33);
    assert_eq!(link.try_receive(&mut buffer), Err(ReceiveError::Down { peer: 0 }));
    assert!(link.broken().is_some());
    assert_eq!(link.stats().violations, 1);
    tail.store(0);
    for _ in 0..5 {
        board.pass(survivor.0, 1_100_000);
    }
    assert!(!link.is_up(), "it may say what it likes now");
    let new = board.start(0, 2);
    board.link_up(&[new, survivor]);
    assert_eq!((link.broken(), link.is_up()), (None, true));
}

#[test]
fn seats_that_do_not_fit_are_refused() {
    let board = Board::new(2, 128);
    let (partition, _) = board.start(0, 1);
    assert_eq!(partition.join_mesh(&board.seat(0)).map(Mesh::index), Err(MeshError::Joined));
    let seat = MeshSeat { index: 2, ..board.seat(1) };
    let alone = MeshSeat { peers: [None; MESH_MAX], ..board.seat(1) };
    let short =
        MeshSeat { own: leak_aligned(board.shape.region_bytes() - 8, 128), ..board.seat(1) };
    for (seat, words) in [
        (seat, "seat 2 is not one of a mesh of 2"),
        (alone, "a peer's region is missing"),
        (short, "does not fit a region"),
    ] {
        let error = refused(&seat);
        assert!(error.to_string().contains(words), "{error}");
    }
}

/// What a fresh partition hears that asks for this seat.
fn refused(seat: &MeshSeat) -> MeshError {
    let facts = RegionFacts { incarnation: 1, tsc_hz: 1_000_000_000, ..RegionFacts::default() };
    let lonely = Board::new(2, 128);
    let partition = lonely.assemble(facts, PartitionConfig::default(), Bump::leak(4 << 20));
    partition.join_mesh(seat).expect_err("no seat")
}
