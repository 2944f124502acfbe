//! What a queue tells the probes, its register and the histograms.

use core_runtime::metrics::{MetricsReader, MetricsWriter, RuntimeMetrics};
use core_runtime::probe::Event;
use hybrid_abi::probe::view::{Cursor, RingView};
use hybrid_abi::probe::{
    CONTROL_BYTES, MASK_ALL, ProbeControl, ProbeHeader, ProbeRecord, registers::BANK_BYTES,
};
use hybrid_shm::leak_aligned;
use zerocopy::IntoBytes;

use super::*;
use crate::latency::LatencyHistograms;

/// Probes that are all on, and their ring.
fn traced(clock: Clock) -> (&'static Probes, Span<'static>) {
    let probes: &'static Probes = Box::leak(Box::new(Probes::off(clock)));
    let ring = leak_aligned(ProbeHeader::part_bytes(64), 128);
    let control = leak_aligned(CONTROL_BYTES, 128);
    let wishes = ProbeControl { generation: 1, mask: MASK_ALL, ..ProbeControl::default() };
    control.write(0, wishes.as_bytes()).expect("as long");
    let bank = leak_aligned(BANK_BYTES, 128);
    probes.attach(ring, bank, control.read_only(), 64).expect("parts");
    (probes, ring)
}

/// A traced queue of one slot; each command is sampled.
struct Traced {
    rig: Rig,
    clock: &'static ManualClock,
    ring: Span<'static>,
    cursor: Cursor,
}

impl Traced {
    fn new() -> Self {
        let clock: &'static ManualClock = Box::leak(Box::new(ManualClock::new(1000)));
        let (probes, ring) = traced(Clock::manual(clock));
        let spec = QueueSpec { qid: 3, sample_every: 1, ..Rig::spec(2, 0) };
        let rig = Rig::made(spec, Some((Clock::manual(clock), probes)));
        let cursor = view(ring).newest(&ring.read_only());
        Self { rig, clock, ring, cursor }
    }

    /// What was told since the last time.
    fn told(&mut self) -> Vec<(u32, u32, u64, u64)> {
        let mut records = [ProbeRecord::default(); 16];
        let seen = view(self.ring).read(&self.ring.read_only(), &mut self.cursor, &mut records);
        records[..seen.count].iter().map(|r| (r.id, r.a, r.b, r.c)).collect()
    }

    /// Posts a command of 8 blocks at block 1234h.
    fn post(&self, opcode: u64) {
        let head = 0x0000_0007_0000_4000 | opcode;
        let buffer = (Iova(0x5000_0000), 4096);
        self.rig.qp.post_data(1, head, buffer, 0x1234, 0x4000_0007).expect("room");
    }
}

fn view(ring: Span<'static>) -> RingView {
    RingView::new(&ring.read_only(), ring.len() as u64).expect("a ring")
}

fn id(event: Event) -> u32 {
    event.entry().id
}

#[test]
fn each_event_of_a_command_names_it_and_says_what_happened() {
    let mut traced = Traced::new();
    let registers = traced.rig.qp.probes.registers();
    traced.post(0x02);
    let cid = traced.rig.fetch();
    let command = 3 << 16 | u32::from(cid);
    assert_eq!(traced.told(), [(id(probes::SUBMIT), command, 0x1234, 0x0007_0002)]);
    assert_eq!(traced.rig.post(2), Err(PostError::Full));
    assert_eq!(traced.told(), [(id(probes::FULL), 3, 1, 0)]);
    assert_eq!(registers.add(probes::IN_FLIGHT).get(), 0);
    traced.rig.qp.ring();
    assert_eq!(traced.told(), [(id(probes::DOORBELL), 3, 1, 1)]);
    assert_eq!(registers.add(probes::IN_FLIGHT).get(), 1);
    traced.clock.advance(5000);
    let error = StatusCode::INTERNAL_ERROR;
    traced.rig.complete_as(cid, 3, 1, error.status());
    assert_eq!(traced.rig.reap().bad, [(1, error)]);
    assert_eq!(
        traced.told(),
        [
            (id(probes::COMPLETE), command, error.0.into(), 0),
            (id(probes::LATENCY), command, 5000, 0)
        ]
    );
    // Nobody's: another queue's, with a generation that there is not.
    traced.rig.complete_as(0x0A00, 5, 1, error.status());
    assert!(traced.rig.reap().bad.is_empty());
    assert_eq!(traced.told(), [(id(probes::IGNORED), 0x0005_0A00, error.0.into(), 0)]);
}

#[test]
fn sampled_reads_and_writes_go_into_their_histograms() {
    let mut traced = Traced::new();
    let part = leak_aligned(RuntimeMetrics::part_bytes(0, 0), 128);
    let mut writer = MetricsWriter::new(part, RuntimeMetrics::COUNT).expect("memory");
    let metrics = RuntimeMetrics::register(&mut writer).expect("room");
    traced.rig.qp.record_into(LatencyHistograms::of(&metrics));
    for opcode in [0x02, 0x01, 0x01, 0x00] {
        traced.post(opcode);
        let cid = traced.rig.fetch();
        let sqhd = u16::try_from(traced.rig.fetched % 2).expect("small");
        traced.rig.complete_as(cid, 3, sqhd, OK);
        assert_eq!(traced.rig.reap().good, [1]);
    }
    let reader = MetricsReader::new(part.read_only()).expect("a part");
    let count = |name| reader.histogram(name).expect("there").count();
    assert_eq!((count("read_latency_ns"), count("write_latency_ns")), (1, 2));
    assert_eq!(traced.rig.qp.stats().latency.count, 4);
}
