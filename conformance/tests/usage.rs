//! Use, where it takes a model that is told what to do: bursts, losses, latencies. What any device
//! must stand is in the suite.

use core_runtime::mem::Bump;
use core_runtime::metrics::{MetricsReader, MetricsWriter, part_bytes};
use hybrid_abi::metrics::MetricUnit;
use hybrid_conformance::{Backend, Oracle, Rig, Stepped, quick};
use nvme_driver::{
    BlockDevice, ControllerConfig, ControllerError, ControllerState, Failed, IoError,
    LatencyHistograms, Lba, ReadAgain, ResetReason, WriteFlags,
};
use nvme_model::{
    AbortPolicy, ControllerFault, CqeFault, FaultAction, FaultPlan, FaultRule, LatencyModel,
    ModelConfig, NamespaceConfig, OnQueue, When,
};
use nvme_spec::StatusCode;

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

fn read(rig: &Rig<Stepped>, lba: u64) -> Result<(), Failed> {
    rig.run(rig.ns().read(Lba(lba), rig.filled(512, 0xEE))).map(drop)
}

/// It still works, and nothing is left over.
fn recovers(rig: &Rig<Stepped>) {
    Oracle::over(rig.ns(), 8, 3).run(rig, 60);
    rig.finish();
}

#[test]
fn the_whole_queue_completing_at_once_is_taken_in_quarters() {
    let deep = ControllerConfig { queue_depth: 63, ..ControllerConfig::default() };
    let rig = quick(model(), deep);
    let reads: Vec<_> = (0..63).map(|i| rig.ns().read(Lba(i), rig.filled(512, 1))).collect();
    rig.controller.ring();
    for _ in 0..10 {
        let now = rig.backend.now().ticks();
        rig.backend.with_model(move |m| m.step(now));
    }
    for want in [16, 16, 16, 15] {
        assert_eq!(rig.controller.poll(rig.backend.now()).reaped, want);
    }
    reads.into_iter().for_each(|f| drop(rig.run(f).expect("read")));
    recovers(&rig);
}

/// The second lap of a ring looks for the other phase; what comes after a reset is the first again.
#[test]
fn a_reset_in_any_lap_of_the_ring_begins_with_the_first() {
    let rig = quick(model(), config());
    for (resets, reads) in (1..).zip([9, 10, 11, 19, 20, 25]) {
        (0..reads).for_each(|lba| read(&rig, lba).expect("read"));
        rig.controller.request_reset();
        rig.until(|c| c.stats().resets == resets && c.state() == ControllerState::Ready);
        read(&rig, 3).expect("ready again");
        assert_eq!(rig.controller.stats().io.ignored.total(), 0, "nothing stale is believed");
    }
    recovers(&rig);
}

/// Nothing of a queue is touched from the decision on: an answer that comes behind it is not taken.
#[test]
fn what_is_answered_behind_the_decision_to_reset_is_lost_by_name() {
    let rig = quick(model(), config());
    let reads: Vec<_> = (0..4).map(|i| rig.ns().read(Lba(i), rig.filled(512, 1))).collect();
    rig.controller.ring();
    rig.controller.request_reset();
    rig.controller.poll(rig.backend.now());
    assert_eq!(rig.controller.stats().resets, 1, "decided");
    for _ in 0..10 {
        let now = rig.backend.now().ticks();
        rig.backend.with_model(move |m| m.step(now));
    }
    assert_eq!(rig.controller.poll(rig.backend.now()).reaped, 0);
    for read in reads {
        let lost = rig.run(read).expect_err("lost").error;
        assert_eq!(lost, IoError::Reset(ResetReason::Requested));
    }
    rig.until(|c| c.state() == ControllerState::Ready);
    recovers(&rig);
}

#[test]
fn a_raw_queue_moves_bursts_and_hears_of_losses_once() {
    let two = ControllerConfig { io_queues: 2, ..config() };
    let rig = quick(model(), two);
    let bump = Bump::leak(16 << 10);
    let raw = rig.controller.take_raw_queue(1, 9, &bump).expect("a queue");
    assert!(rig.controller.take_raw_queue(1, 9, &bump).is_none(), "only once");
    let target = rig.ns().target().expect("usable");
    for place in 0..9 {
        assert_eq!(raw.adopt(rig.filled(4096, 1)).expect("room"), place);
    }
    let submit = |n: u16| {
        for buf in 0..n {
            let slba = Lba(u64::from(buf) * 8);
            raw.submit_read(&target, slba, 8, buf, u32::from(buf)).expect("room");
        }
        raw.ring();
    };
    let mut done = Vec::new();
    submit(9);
    assert_eq!(raw.submit_read(&target, Lba(0), 1, 0, 9), Err(IoError::QueueFull));
    while done.len() < 9 {
        rig.pass();
        raw.reap(64, |token, result| done.push((token, result)));
    }
    done.sort_by_key(|(token, _)| *token);
    assert!(done.iter().zip(0_u32..).all(|(d, i)| *d == (i, Ok(()))));
    // Tasks use the other queue meanwhile.
    read(&rig, 1).expect("the common queue");
    assert!(matches!(
        raw.submit_read(&target, Lba(4096), 1, 0, 0),
        Err(IoError::OutOfRange { .. })
    ));
    assert!(matches!(raw.submit_read(&target, Lba(0), 9, 0, 0), Err(IoError::BadLength { .. })));
    submit(5);
    rig.backend.with_model(|m| m.inject(ControllerFault::Fatal));
    let mut lost = 0;
    rig.until(|c| {
        raw.reap(64, |_, result| {
            assert!(matches!(result, Err(IoError::Reset(ResetReason::FatalStatus))), "{result:?}");
            lost += 1;
        });
        lost == 5 && c.state() == ControllerState::Ready
    });
    submit(9);
    let mut good = 0;
    while good < 9 {
        rig.pass();
        raw.reap(64, |_, result| good += u32::from(result.is_ok()));
    }
    assert!(raw.is_idle());
    drop(raw);
    recovers(&rig);
}

#[test]
fn latencies_reach_the_histogram_in_nanoseconds() {
    let rig = quick(
        ModelConfig { latency: LatencyModel::FixedNs(5_000), ..model() },
        ControllerConfig { latency_sampling: 1, ..config() },
    );
    let part = hybrid_shm::leak_aligned(part_bytes(2, 2), 128);
    let mut writer = MetricsWriter::new(part, 2).expect("a part");
    let mut histogram =
        |name| writer.histogram(name, MetricUnit::NANOSECONDS).expect("room for both");
    let (reads, writes) = (histogram("read_latency_ns"), histogram("write_latency_ns"));
    rig.controller.record_latencies_into(LatencyHistograms { reads, writes });
    for lba in 0..100 {
        read(&rig, lba).expect("read");
    }
    let stats = rig.controller.stats().io.latency;
    assert_eq!(stats.count, 100);
    assert!((5_000..20_000).contains(&stats.min_ticks), "{stats:?}");
    let reader = MetricsReader::new(part.read_only()).expect("a part");
    let seen = reader.histogram("read_latency_ns").expect("by its name");
    assert_eq!(seen.count(), 100);
    assert_eq!(seen.max(), stats.max_ticks, "a tick of the virtual clock is a nanosecond");
    assert_eq!(reader.histogram("write_latency_ns").expect("by its name").count(), 0);
    recovers(&rig);
}

#[test]
fn queues_that_the_iommu_stops_cost_a_reset_and_io_goes_on() {
    let rig = quick(ModelConfig { latency: LatencyModel::FixedNs(50_000), ..model() }, config());
    let running: Vec<_> = (0..9).map(|lba| rig.ns().read(Lba(lba), rig.filled(512, 0))).collect();
    rig.pass();
    // The device reaches neither queues nor buffers for a moment.
    let region = rig.arena.region();
    rig.backend.with_model(move |model| {
        model.unmap(region.iova).expect("it was mapped");
        model.map_dma(region).expect("again");
        drop(model.take_mistakes());
    });
    for read in running {
        let failed = rig.run(read).expect_err("lost");
        assert_eq!(failed.error, IoError::Reset(ResetReason::FatalStatus));
        assert!(failed.buf.is_some(), "the fence was seen");
    }
    rig.until(|c| c.state() == ControllerState::Ready);
    assert_eq!(rig.controller.stats().resets, 1);
    read(&rig, 3).expect("it goes on");
    rig.finish();
}

// ---- reads that are read again -------------------------------------------------------------

/// A controller with blocks of which each says which one it is, and from then on with `faults`.
fn faulty(faults: impl IntoIterator<Item = FaultRule>) -> Rig<Stepped> {
    let rig = quick(model(), config());
    for lba in 0..9 {
        let buf = rig.filled(512, u8::try_from(lba).expect("small"));
        rig.run(rig.ns().write(Lba(lba), buf, WriteFlags::empty())).expect("written");
    }
    let plan = faults.into_iter().fold(FaultPlan::none(), FaultPlan::with);
    rig.backend.with_model(|m| m.reconfigure(|c| c.faults = plan));
    rig
}

/// Reads block `lba`, again if it must be.
fn read_again(rig: &Rig<Stepped>, lba: u64) -> Result<(), Failed> {
    let device = BlockDevice::Nvme(rig.ns());
    let buf = rig.run(ReadAgain::default().read(device, Lba(lba), rig.filled(512, 0xEE)))?;
    assert!(buf.iter().all(|byte| u64::from(*byte) == lba), "another block");
    Ok(())
}

fn on_io(action: FaultAction, when: When) -> FaultRule {
    FaultRule::on(OnQueue::Io, action).when(when)
}

const FATAL: FaultAction = FaultAction::Controller(ControllerFault::Fatal);

#[test]
fn a_read_that_was_lost_is_read_again_on_the_same_device() {
    for (action, resets, queue_resets) in [
        (FaultAction::Drop, 0, 0),
        (FaultAction::Cqe(CqeFault::WrongCid(0x20)), 0, 1),
        (FATAL, 1, 0),
        (FaultAction::Controller(ControllerFault::SubsystemReset), 1, 0),
    ] {
        // As often as it may be, and no more.
        let rig = faulty([on_io(action, When::First(ReadAgain::TIMES.into()))]);
        if queue_resets != 0 {
            rig.backend.with_model(|m| m.reconfigure(|c| c.abort = AbortPolicy::Refuse));
        }
        read_again(&rig, 5).unwrap_or_else(|failed| panic!("{action:?}: {failed}"));
        let (stats, times) = (rig.controller.stats(), u64::from(ReadAgain::TIMES));
        assert_eq!(stats.reads_repeated, times, "{action:?}");
        assert_eq!(stats.resets, resets * times, "{action:?}");
        assert_eq!(stats.queue_resets, queue_resets * times, "{action:?}");
        read_again(&rig, 6).expect("all is well");
        assert_eq!(rig.controller.stats().reads_repeated, times, "{action:?}");
        recovers(&rig);
    }
}

#[test]
fn all_that_is_lost_in_one_reset_is_read_again_in_order() {
    let rig = faulty([on_io(FATAL, When::Nth(4))]);
    let device = BlockDevice::Nvme(rig.ns());
    let reads: Vec<_> = (0..9).map(|i| device.read(Lba(i), rig.filled(512, 0xEE))).collect();
    for (lba, read) in (0..).zip(reads) {
        let buf = rig.run(read).or_else(|failed| {
            rig.run(ReadAgain::default().post(device, Lba(lba), failed).expect("it was lost"))
        });
        assert!(buf.expect("read").iter().all(|byte| u64::from(*byte) == lba));
    }
    let stats = rig.controller.stats();
    assert_eq!(stats.resets, 1);
    // Those that were answered before are not asked for again.
    assert!((6..=9).contains(&stats.reads_repeated), "{stats:?}");
    recovers(&rig);
}

#[test]
fn a_read_that_is_lost_again_and_again_is_given_up() {
    let rig = faulty([on_io(FATAL, When::Always)]);
    let failed = read_again(&rig, 5).expect_err("always lost");
    assert_eq!(failed.error, IoError::Reset(ResetReason::FatalStatus));
    assert!(failed.buf.is_some(), "its buffer came back");
    let stats = rig.controller.stats();
    assert_eq!(stats.reads_repeated, u64::from(ReadAgain::TIMES));
    assert_eq!(stats.resets, u64::from(ReadAgain::TIMES) + 1);
}

#[test]
fn what_the_device_refuses_is_not_read_again() {
    let error = StatusCode::UNRECOVERED_READ_ERROR.do_not_retry();
    let rig = faulty([on_io(FaultAction::Status(error), When::First(1))]);
    let failed = read_again(&rig, 5).expect_err("refused");
    assert!(matches!(failed.error, IoError::Status { .. }), "{failed}");
    drop(failed.buf);
    assert_eq!(rig.controller.stats().reads_repeated, 0);
    read_again(&rig, 5).expect("it was one");
    recovers(&rig);
}

#[test]
fn a_device_that_is_gone_ends_a_read_at_once() {
    // Gone with the read in flight: its buffer stays with the device.
    let rig = faulty([on_io(FaultAction::Controller(ControllerFault::AllOnes), When::Always)]);
    let failed = read_again(&rig, 5).expect_err("gone");
    assert_eq!((failed.error, failed.buf.is_some()), (IoError::Gone, false));
    assert_eq!(rig.controller.stats().reads_repeated, 0);
    // In a reset that never ends: the repeat waits for it, and ends with it.
    let rig = faulty([on_io(FATAL, When::Always)]);
    rig.backend.with_model(|m| m.inject(ControllerFault::NeverReady));
    let failed = read_again(&rig, 5).expect_err("gone");
    assert_eq!((failed.error, failed.buf.is_some()), (IoError::Gone, true));
    assert_eq!(rig.controller.stats().reads_repeated, 1);
    let state = rig.controller.state();
    assert!(
        matches!(state, ControllerState::Failed(ControllerError::TimedOut { .. })),
        "{state:?}"
    );
}
