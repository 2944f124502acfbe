//! Data that are wrong although the status says success: what a driver cannot see, a user does who
//! writes blocks that say what they are. And every shape of a transfer, byte by byte.

use core_runtime::mem::DmaBuf;
use hybrid_conformance::{Backend, Rig, Stepped};
use nvme_driver::{ControllerConfig, ControllerState, IoError, Lba, WriteFlags};
use nvme_model::{
    CqeFault, DataFault, FaultAction, FaultPlan, FaultRule, ModelConfig, NamespaceConfig, When,
};
use nvme_spec::NvmOpcode;

const BLOCK: usize = 512;
const S: u64 = 1_000_000_000;

fn model() -> ModelConfig {
    ModelConfig {
        namespaces: vec![NamespaceConfig::memory(1, 4096).lba_bytes(512)],
        paranoid: true,
        ..ModelConfig::default()
    }
}

fn config() -> ControllerConfig {
    ControllerConfig { queue_depth: 9, ..ControllerConfig::default() }
}

/// A controller with little memory, since there are many of them.
fn small(model: ModelConfig, config: ControllerConfig) -> Rig<Stepped> {
    let rig = Rig::new(Stepped::new(model, 8 << 20), config).expect("a controller");
    rig.bring_up().expect("ready");
    rig
}

/// What a user finds wrong with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Crc,
    Lba(u64),
    Epoch(u64),
}

/// A checksum that any change of one word changes; as good as a CRC here, and faster to write.
fn crc(bytes: &[u8]) -> u32 {
    let word = |chunk: &[u8]| u32::from_le_bytes(chunk.try_into().expect("4 bytes"));
    let step = |sum: u32, chunk| (sum ^ word(chunk)).wrapping_mul(0x9E37_79B1).rotate_left(13);
    bytes.chunks_exact(4).fold(1, step)
}

/// A block with its address, its epoch and its checksum.
fn stamp(block: &mut [u8], lba: u64, epoch: u64) {
    for (i, byte) in block.iter_mut().enumerate() {
        *byte = (lba.wrapping_mul(31) ^ epoch.wrapping_mul(7) ^ i as u64).to_le_bytes()[0];
    }
    block[..8].copy_from_slice(&lba.to_le_bytes());
    block[8..16].copy_from_slice(&epoch.to_le_bytes());
    let sum = crc(&block[..BLOCK - 4]);
    block[BLOCK - 4..].copy_from_slice(&sum.to_le_bytes());
}

fn check(block: &[u8], lba: u64, epoch: u64) -> Result<(), Wrong> {
    let word = |at: usize| u64::from_le_bytes(block[at..at + 8].try_into().expect("8 bytes"));
    if block[BLOCK - 4..] != crc(&block[..BLOCK - 4]).to_le_bytes() {
        return Err(Wrong::Crc);
    }
    match (word(0), word(8)) {
        (have, _) if have != lba => Err(Wrong::Lba(have)),
        (_, have) if have != epoch => Err(Wrong::Epoch(have)),
        _ => Ok(()),
    }
}

fn stamped(rig: &Rig<Stepped>, lba: u64, blocks: usize, epoch: u64) -> DmaBuf {
    let mut buf = rig.filled(blocks * BLOCK, 0);
    for (i, block) in (0..).zip(buf.as_mut_slice().chunks_exact_mut(BLOCK)) {
        stamp(block, lba + i, epoch);
    }
    buf
}

fn write(rig: &Rig<Stepped>, lba: u64, blocks: usize, epoch: u64) {
    let buf = stamped(rig, lba, blocks, epoch);
    rig.run(rig.ns().write(Lba(lba), buf, WriteFlags::empty())).expect("the device says so");
}

/// Reads into a buffer that is poisoned first, and checks each block.
fn read(rig: &Rig<Stepped>, lba: u64, blocks: usize, epoch: u64) -> Vec<Result<(), Wrong>> {
    let buf = rig.filled(blocks * BLOCK, 0xEE);
    let buf = rig.run(rig.ns().read(Lba(lba), buf)).expect("the device says so");
    let blocks = buf.chunks_exact(BLOCK);
    (lba..).zip(blocks).map(|(lba, block)| check(block, lba, epoch)).collect()
}

fn spoil(rig: &Rig<Stepped>, op: NvmOpcode, fault: DataFault) {
    let rule = FaultRule::io(op, FaultAction::Data(fault)).when(When::Nth(1));
    rig.backend.with_model(move |m| m.reconfigure(|c| c.faults = FaultPlan::none().with(rule)));
}

#[test]
fn a_transfer_that_stops_half_way_or_never_starts_is_seen_by_the_checksum() {
    for (fault, good) in [(DataFault::Half, 4), (DataFault::Nothing, 0)] {
        let rig = small(model(), config());
        write(&rig, 64, 8, 1);
        assert_eq!(read(&rig, 64, 8, 1), [Ok(()); 8]);
        let mut expected = [Ok(()); 8];
        expected[good..].fill(Err(Wrong::Crc));
        spoil(&rig, NvmOpcode::READ, fault);
        assert_eq!(read(&rig, 64, 8, 1), expected, "poison stays");
        assert_eq!(read(&rig, 64, 8, 1), [Ok(()); 8]);
        // A write that stops half-way leaves the old epoch in the rest.
        spoil(&rig, NvmOpcode::WRITE, fault);
        write(&rig, 64, 8, 2);
        expected[good..].fill(Err(Wrong::Epoch(1)));
        assert_eq!(read(&rig, 64, 8, 2), expected);
        // Half a block.
        spoil(&rig, NvmOpcode::READ, fault);
        assert_eq!(read(&rig, 64, 1, 2), [Err(Wrong::Crc)]);
        spoil(&rig, NvmOpcode::WRITE, DataFault::Half);
        write(&rig, 64, 1, 3);
        assert_eq!(read(&rig, 64, 1, 3), [Err(Wrong::Crc)], "torn");
        rig.finish();
    }
}

#[test]
fn every_flipped_bit_is_seen_by_the_checksum() {
    let rig = small(model(), config());
    for op in [NvmOpcode::READ, NvmOpcode::WRITE] {
        for epoch in 0..50 {
            if op == NvmOpcode::READ {
                write(&rig, 0, 16, epoch);
            }
            spoil(&rig, op, DataFault::BitFlip);
            if op == NvmOpcode::WRITE {
                write(&rig, 0, 16, epoch);
            }
            let seen = read(&rig, 0, 16, epoch);
            let wrong: Vec<_> = seen.into_iter().filter_map(Result::err).collect();
            assert_eq!(wrong, [Wrong::Crc], "{op:?}, round {epoch}");
            let again = read(&rig, 0, 16, epoch).into_iter().filter(Result::is_err).count();
            assert_eq!(again, usize::from(op == NvmOpcode::WRITE), "on the way, or on the medium");
        }
    }
    rig.finish();
}

#[test]
fn blocks_from_elsewhere_are_seen_by_their_address_and_lost_ones_by_their_epoch() {
    let rig = small(model(), config());
    write(&rig, 0, 128, 1);
    spoil(&rig, NvmOpcode::READ, DataFault::WrongLba(16));
    assert_eq!(read(&rig, 32, 2, 1), [Err(Wrong::Lba(48)), Err(Wrong::Lba(49))]);
    spoil(&rig, NvmOpcode::WRITE, DataFault::WrongLba(-16));
    write(&rig, 32, 2, 2);
    assert_eq!(read(&rig, 32, 2, 2), [Err(Wrong::Epoch(1)), Err(Wrong::Epoch(1))]);
    assert_eq!(read(&rig, 16, 2, 1), [Err(Wrong::Lba(32)), Err(Wrong::Lba(33))]);
    rig.finish();
}

#[test]
fn a_completion_of_a_live_slot_and_generation_is_early_and_seen_by_the_poison() {
    // The second read's completion carries the first one's CID, whose data come much later.
    let slow = FaultRule::io(NvmOpcode::READ, FaultAction::DelayNs(S)).lbas(10..=10);
    let forged = FaultAction::Cqe(CqeFault::WrongCid(1));
    let forged = FaultRule::io(NvmOpcode::READ, forged).lbas(11..=11);
    let rig = small(model(), config());
    // Two at once, so that both slots have the same generation afterwards.
    let writes =
        [10, 11].map(|lba| rig.ns().write(Lba(lba), stamped(&rig, lba, 1, 5), WriteFlags::empty()));
    for f in writes {
        rig.run(f).expect("written");
    }
    let rules = FaultPlan::none().with(slow).with(forged.when(When::Nth(1)));
    rig.backend.with_model(move |m| m.reconfigure(|c| c.faults = rules));
    let first = rig.ns().read(Lba(10), rig.filled(BLOCK, 0xEE));
    let second = rig.ns().read(Lba(11), rig.filled(BLOCK, 0xEE));
    let start = rig.backend.now();
    let early = rig.run(first).expect("nobody can tell");
    assert!(rig.backend.now().since(start).get() < S / 2, "early");
    assert_eq!(check(&early, 10, 5), Err(Wrong::Crc), "an integrity error, not wrong data");
    let lost = rig.run(second).expect_err("its completion went elsewhere");
    assert!(matches!(lost.error, IoError::Reset(_)), "{lost}");
    drop((early, lost));
    // The first one's own completion belonged to nobody.
    assert_eq!(rig.controller.stats().io.ignored.total(), 1);
    rig.backend.with_model(|m| m.reconfigure(|c| c.faults = FaultPlan::none()));
    rig.until(|c| c.state() == ControllerState::Ready);
    assert_eq!(read(&rig, 10, 2, 5), [Ok(()); 2]);
    rig.finish();
}

// ---- shapes --------------------------------------------------------------------------------

/// Writes and reads `len` bytes; the bytes around are as they were, on the device and in memory.
fn round_trip(rig: &Rig<Stepped>, lba: u64, len: usize, epoch: u64) {
    let blocks = len / BLOCK;
    let edge = |lba| read(rig, lba, 1, 0)[0];
    let before = (edge(lba - 1), edge(lba + blocks as u64));
    write(rig, lba, blocks, epoch);
    let wrong = read(rig, lba, blocks, epoch).into_iter().find(Result::is_err);
    assert_eq!(wrong, None, "{len} bytes");
    assert_eq!((edge(lba - 1), edge(lba + blocks as u64)), before, "{len} bytes");
}

#[test]
fn pieces_that_start_anywhere_in_a_page_are_whole() {
    // A limit that is no multiple of the page: the pieces after the first have an offset.
    for most in [4096 + 512, 8192 - 512, 3 * 4096 + 1536, 9 * 4096 - 1024, 5 * 4096 + 2560_u32] {
        let odd = ControllerConfig { max_transfer_bytes: most, ..config() };
        let rig = small(model(), odd);
        println!("{most}: {}", rig.ns().max_transfer_bytes());
        for (epoch, len) in (1..).zip([most as usize, 5 << 12, 40 << 10, 200 << 10, 777 * BLOCK]) {
            round_trip(&rig, 5, len, epoch);
        }
        rig.finish();
    }
}
