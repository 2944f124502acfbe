//! The block device, whatever is behind it: the same cases on our driver over the model, and on the
//! bridge over a file that the kernel drives.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use core_runtime::clock::Clock;
use core_runtime::mem::{Bump, DmaArena, DmaBuf, DmaRegion, Iova};
use host_bridge::uring::bridge::{BridgeMemory, BridgeServer, info_of, lay_out};
use host_bridge::uring::reactor::Reactor;
use host_bridge::uring::rings::{Rings, RingsWish};
use host_bridge::uring::target::{Target, TargetWish};
use hybrid_conformance::{Rig, Stepped, quick};
use nvme_driver::spec::Nsid;
use nvme_driver::{
    BlockDevice, BlockIo, BridgeParts, ControllerConfig, Device, DeviceParts, IoError, Lba,
    WriteFlags,
};
use nvme_model::{ModelConfig, NamespaceConfig};

const BLOCKS: u64 = 2048;
const DEPTH: u16 = 31;

/// A block device and the loop that runs it.
trait Bench {
    fn block(&self) -> BlockDevice;
    fn arena(&self) -> &'static DmaArena;
    fn pass(&self);

    fn run<F: Future>(&self, future: F) -> F::Output
    where
        Self: Sized,
    {
        let mut future = pin!(future);
        let mut cx = Context::from_waker(Waker::noop());
        let begun = Instant::now();
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                return output;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "nothing for 30 s");
            self.pass();
        }
    }

    fn filled(&self, blocks: usize, version: u64) -> DmaBuf {
        let bytes = blocks * self.block().lba_bytes() as usize;
        let mut buf = self.arena().alloc(bytes).expect("memory");
        for (word, at) in buf.as_mut_slice().chunks_exact_mut(8).zip(0_u64..) {
            word.copy_from_slice(&(version.wrapping_mul(0x9E37_79B9) + at / 512).to_le_bytes());
        }
        buf
    }
}

/// Our driver over the model.
struct Nvme(Rig<Stepped>);

impl Nvme {
    fn new() -> Self {
        let namespaces = vec![NamespaceConfig::memory(1, BLOCKS)];
        let model = ModelConfig { namespaces, paranoid: true, ..ModelConfig::default() };
        let config = ControllerConfig { queue_depth: DEPTH, ..ControllerConfig::default() };
        Self(quick(model, config))
    }
}

impl Bench for Nvme {
    fn block(&self) -> BlockDevice {
        BlockDevice::Nvme(self.0.ns())
    }

    fn arena(&self) -> &'static DmaArena {
        self.0.arena
    }

    fn pass(&self) {
        self.0.pass();
    }
}

/// The bridge over a file.
struct Kernel {
    reactor: RefCell<Reactor<BridgeServer>>,
    device: Device,
    arena: &'static DmaArena,
    clock: Clock,
    path: PathBuf,
}

impl Kernel {
    fn new(direct: bool) -> Self {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("conformance-block-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut wish = TargetWish::new(&path);
        (wish.create_bytes, wish.direct) = (Some(BLOCKS * 4096), direct);
        let target = Target::open(&wish).expect("a file");
        let dma = DmaRegion::leak(32 << 20, Iova(1 << 38));
        let info = info_of(&target, DEPTH.into(), 1);
        let own = hybrid_shm::leak_aligned(info.host_bytes(), 4096);
        let peer = hybrid_shm::leak_aligned(info.partition_bytes(), 4096);
        lay_out(own, &info).expect("room");
        let buffers = BridgeServer::registrable(dma.span).expect("inside");
        let files = vec![target.fd()];
        let rings = Rings::new(&RingsWish { buffers, files, ..RingsWish::default() });
        let rings = rings.expect("io_uring is there");
        let (file, fixed) = (rings.file(target.fd()), rings.fixed_buffers.then_some(0));
        let memory = BridgeMemory { own, peer: peer.read_only(), dma };
        let server = BridgeServer::new(
            (info, memory),
            (target, file),
            (fixed, None),
            false,
            Box::new(|line| panic!("{line}")),
        );
        let bump: &'static Bump = Box::leak(Box::new(Bump::leak(4 << 20)));
        let clock = Clock::tsc(2_000_000_000);
        let parts = BridgeParts { own: peer, peer: own.read_only(), clock, probes: None };
        let config = ControllerConfig { deadline_ns: 60_000_000_000, ..Default::default() };
        let device = Device::open(DeviceParts::Bridge(parts), bump, config).expect("a bridge");
        let arena = DmaArena::new(dma, bump).expect("an arena");
        let reactor = RefCell::new(Reactor::new(rings, vec![server]));
        Self { reactor, device, arena, clock, path }
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Bench for Kernel {
    fn block(&self) -> BlockDevice {
        self.device.block_device(Nsid(1)).expect("one device")
    }

    fn arena(&self) -> &'static DmaArena {
        self.arena
    }

    fn pass(&self) {
        let mut reactor = self.reactor.borrow_mut();
        if !reactor.turn() {
            reactor.wait(Duration::from_millis(1));
        }
        self.device.poll_io(self.clock.now());
    }
}

/// Runs a case on each.
macro_rules! on_each {
    ($($(#[$doc:meta])* $name:ident => $case:ident;)*) => {
        $(
            mod $name {
                use super::*;

                #[test]
                fn by_our_driver() {
                    $case(&Nvme::new());
                }

                #[test]
                fn over_the_bridge() {
                    $case(&Kernel::new(true));
                }

                #[test]
                fn over_the_bridge_through_the_page_cache() {
                    $case(&Kernel::new(false));
                }
            }
        )*
    };
}

on_each! {
    random_operations_hold_what_was_written => random;
    the_last_block_can_be_written_and_read_and_none_behind_it => last_block;
    requests_that_cannot_be_are_refused_with_their_buffer => refusals;
    a_long_transfer_is_cut_and_comes_whole => long_transfer;
    more_than_fit_wait_and_all_end => back_pressure;
    dropped_futures_forget_answers_and_never_memory => dropped;
    zeros_are_zeros_and_their_neighbours_stay => zeroes;
}

/// What lies where, as the case believes.
type Oracle = HashMap<u64, u64>;

fn random(bench: &impl Bench) {
    let block = bench.block();
    let mut rng = 0x1234_5678_9ABC_DEF1_u64;
    let mut draw = |below: u64| {
        rng ^= rng << 13;
        rng ^= rng >> 7;
        rng ^= rng << 17;
        rng % below
    };
    let mut oracle = Oracle::new();
    for round in 1..400_u64 {
        // A window of operations on blocks that are apart.
        let mut window: Vec<(u64, Option<u64>, BlockIo)> = Vec::new();
        for place in 0..8 {
            let lba = place * (BLOCKS / 8) + draw(BLOCKS / 8);
            if draw(2) == 0 {
                let version = round * 8 + place;
                let buf = bench.filled(1, version);
                let flags = if draw(16) == 0 { WriteFlags::FUA } else { WriteFlags::empty() };
                window.push((lba, Some(version), block.write(Lba(lba), buf, flags)));
            } else {
                window.push((lba, None, block.read(Lba(lba), bench.filled(1, 0))));
            }
        }
        for (lba, written, io) in window {
            let buf = bench.run(io).expect("good");
            match written {
                Some(version) => {
                    oracle.insert(lba, version);
                }
                None => {
                    let expected = oracle.get(&lba).map(|version| bench.filled(1, *version));
                    let right = match &expected {
                        Some(expected) => buf.as_slice() == expected.as_slice(),
                        None => buf.iter().all(|byte| *byte == 0),
                    };
                    assert!(right, "block {lba} in round {round}");
                }
            }
        }
        if round % 64 == 0 {
            bench.run(block.flush()).expect("flushed");
        }
    }
}

fn last_block(bench: &impl Bench) {
    let block = bench.block();
    assert_eq!(block.blocks(), BLOCKS);
    let last = Lba(BLOCKS - 1);
    let write = block.write(last, bench.filled(1, 7), WriteFlags::empty());
    bench.run(write).expect("written");
    let buf = bench.run(block.read(last, bench.filled(1, 0))).expect("read");
    assert!(buf.as_slice() == bench.filled(1, 7).as_slice());
    for (slba, count) in [(BLOCKS, 1), (BLOCKS - 1, 2), (u64::MAX, 1)] {
        let failed = bench.run(block.read(Lba(slba), bench.filled(count, 0))).expect_err("beyond");
        assert!(matches!(failed.error, IoError::OutOfRange { .. }), "{}", failed.error);
    }
}

fn refusals(bench: &impl Bench) {
    let block = bench.block();
    for len in [1, 4095, 4097] {
        let buf = bench.arena().alloc(len).expect("memory");
        let failed = bench.run(block.read(Lba(0), buf)).expect_err("no whole block");
        assert!(matches!(failed.error, IoError::BadLength { .. }), "{}", failed.error);
        assert_eq!(failed.buf.map(|buf| buf.len()), Some(len));
    }
    let zeroes = bench.run(block.write_zeroes(Lba(0), 0, WriteFlags::empty()));
    assert!(matches!(zeroes, Err(IoError::OutOfRange { .. })));
    assert!(matches!(bench.run(block.discard(Lba(BLOCKS), 1)), Err(IoError::OutOfRange { .. })));
}

fn long_transfer(bench: &impl Bench) {
    let block = bench.block();
    let blocks = 1024;
    assert!(blocks * 4096 > block.max_transfer_bytes() as usize, "it is cut");
    let write = block.write(Lba(3), bench.filled(blocks, 3), WriteFlags::FUA);
    let mut buf = bench.run(write).expect("written");
    buf.as_mut_slice().fill(0);
    let buf = bench.run(block.read(Lba(3), buf)).expect("read");
    assert!(buf.as_slice() == bench.filled(blocks, 3).as_slice());
}

fn back_pressure(bench: &impl Bench) {
    let block = bench.block();
    let many = 3 * u64::from(DEPTH);
    let waiting: Vec<_> = (0..many)
        .map(|lba| block.write(Lba(lba), bench.filled(1, lba), WriteFlags::empty()))
        .collect();
    let full = block.try_read(Lba(0), bench.filled(1, 0)).expect_err("no room");
    assert_eq!(full.error, IoError::QueueFull);
    assert!(full.buf.is_some());
    for write in waiting {
        bench.run(write).expect("written");
    }
    for lba in 0..many {
        let buf = bench.run(block.read(Lba(lba), bench.filled(1, 0))).expect("read");
        assert!(buf.as_slice() == bench.filled(1, lba).as_slice(), "block {lba}");
    }
}

fn dropped(bench: &impl Bench) {
    let block = bench.block();
    let before = bench.arena().stats();
    for lba in 0..200 {
        drop(block.read(Lba(lba), bench.filled(1, 0)));
        bench.pass();
    }
    bench.run(block.flush()).expect("flushed");
    let begun = Instant::now();
    while bench.arena().stats().live != before.live {
        assert!(begun.elapsed() < Duration::from_secs(30), "buffers that never come back");
        bench.pass();
    }
    assert_eq!(bench.arena().stats().quarantined, before.quarantined);
}

fn zeroes(bench: &impl Bench) {
    let block = bench.block();
    let write = block.write(Lba(10), bench.filled(8, 5), WriteFlags::empty());
    bench.run(write).expect("written");
    match bench.run(block.write_zeroes(Lba(12), 4, WriteFlags::empty())) {
        Ok(()) => {}
        // A filesystem without holes.
        Err(error) => return assert_eq!(error, IoError::Unsupported("write zeroes")),
    }
    let buf = bench.run(block.read(Lba(10), bench.filled(8, 0))).expect("read");
    let expected = bench.filled(8, 5);
    let (from, to) = (2 * 4096, 6 * 4096);
    assert!(buf[from..to].iter().all(|byte| *byte == 0));
    assert!(buf[..from] == expected[..from] && buf[to..] == expected[to..]);
    bench.run(block.discard(Lba(0), 4)).expect("given back");
}
