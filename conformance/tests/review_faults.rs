//! Faults of the controller, of time and of bring-up, and what must never happen in them.

use core_runtime::mem::DmaBuf;
use hybrid_conformance::{Backend, Oracle, Rig, Stepped, quick, seed};
use nvme_driver::{
    ControllerConfig, ControllerError, ControllerState, Failed, IoError, Lba, ResetReason, Step,
    WriteFlags,
};
use nvme_model::{
    AbortPolicy, ControllerFault, CqeFault, FaultAction, FaultPlan, FaultRule, LatencyModel,
    ModelConfig, NamespaceConfig, When,
};
use nvme_spec::registers::{Cc, Csts, Register};
use nvme_spec::{NvmOpcode, StatusCode};

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;

fn model() -> ModelConfig {
    ModelConfig {
        namespaces: vec![NamespaceConfig::memory(1, 4096).lba_bytes(512)],
        not_ready_delay_ns: 2 * MS,
        ready_delay_ns: 2 * MS,
        paranoid: true,
        ..ModelConfig::default()
    }
}

fn config() -> ControllerConfig {
    ControllerConfig { queue_depth: 9, ..ControllerConfig::default() }
}

fn with_rule(rule: FaultRule) -> ModelConfig {
    ModelConfig { faults: FaultPlan::none().with(rule), ..model() }
}

fn read(rig: &Rig<Stepped>, lba: u64) -> Result<DmaBuf, Failed> {
    rig.run(rig.ns().read(Lba(lba), rig.filled(512, 0xEE)))
}

fn write(rig: &Rig<Stepped>, lba: u64, byte: u8) -> Result<DmaBuf, Failed> {
    rig.run(rig.ns().write(Lba(lba), rig.filled(512, byte), WriteFlags::empty()))
}

fn holds(rig: &Rig<Stepped>, lba: u64, byte: u8) {
    let buf = read(rig, lba).expect("read");
    assert!(buf.iter().all(|have| *have == byte), "block {lba} is {}, not {byte}", buf[0]);
}

fn recovers(rig: &Rig<Stepped>) {
    rig.backend.with_model(|m| {
        m.heal();
        m.reconfigure(|c| {
            c.faults = FaultPlan::none();
            c.latency = LatencyModel::None;
            c.abort = AbortPolicy::Honest;
        });
    });
    rig.until(|c| c.state() == ControllerState::Ready);
    Oracle::over(rig.ns(), 8, 3).run(rig, 60);
    rig.finish();
}

/// Passes until CC.EN and CSTS.RDY are these.
fn until_en_rdy(rig: &Rig<Stepped>, en: bool, rdy: bool) {
    for _ in 0..100_000 {
        let (cc, csts) = rig.backend.with_model(|m| {
            let mut get = |at| u32::try_from(m.read_reg(at, 4)).expect("four bytes");
            (Cc::from_raw(get(Cc::OFFSET)), Csts::from_raw(get(Csts::OFFSET)))
        });
        if (cc.en(), csts.rdy()) == (en, rdy) {
            return;
        }
        rig.pass();
    }
    panic!("EN {en}, RDY {rdy} never came");
}

/// All memory that can be had, filled with 77h.
fn exhaust(rig: &Rig<Stepped>) -> Vec<DmaBuf> {
    let mut all = Vec::new();
    for shift in (9..=22).rev() {
        while let Ok(mut buf) = rig.arena.alloc(1 << shift) {
            buf.as_mut_slice().fill(0x77);
            all.push(buf);
        }
    }
    all
}

fn passes(rig: &Rig<Stepped>, count: u32) {
    for _ in 0..count {
        rig.pass();
    }
}

fn overlaps(buf: &DmaBuf, start: u64, len: u64) -> bool {
    buf.iova().0 < start + len && start < buf.iova().0 + buf.len() as u64
}

fn intact(bufs: &[DmaBuf]) {
    for buf in bufs {
        assert!(buf.iter().all(|byte| *byte == 0x77), "somebody wrote to {:?}", buf.iova());
    }
}

// ---- completions ---------------------------------------------------------------------------

#[test]
fn an_overrun_completion_queue_ends_in_a_queue_reset_and_nothing_is_lost_twice() {
    for fault in [CqeFault::Twice, CqeFault::Extra(0x0010)] {
        let action = FaultAction::Cqe(fault);
        let rig = quick(with_rule(FaultRule::io(NvmOpcode::READ, action)), config());
        let reads: Vec<_> = (0..9).map(|i| rig.ns().read(Lba(i), rig.filled(512, 1))).collect();
        rig.controller.ring();
        // 18 completions into ten entries, before anybody looks.
        for _ in 0..5 {
            let now = rig.backend.now().ticks();
            rig.backend.with_model(move |m| m.step(now));
        }
        let ended: Vec<_> = reads.into_iter().map(|f| rig.run(f)).collect();
        for failed in ended.iter().filter_map(|end| end.as_ref().err()) {
            assert!(matches!(failed.error, IoError::Reset(_) | IoError::TimedOut), "{failed}");
            assert!(failed.buf.is_some(), "the device let go");
        }
        let lost = ended.iter().filter(|end| end.is_err()).count();
        drop(ended);
        let stats = rig.controller.stats();
        println!("{fault:?}: {lost} lost, {stats:?}");
        assert!(lost > 0 && stats.queue_resets + stats.resets > 0, "{stats:?}");
        recovers(&rig);
    }
}

// ---- statuses ------------------------------------------------------------------------------

#[test]
fn writes_that_fail_without_dnr_are_tried_again_and_then_told() {
    for code in [StatusCode::WRITE_FAULT, StatusCode::CAPACITY_EXCEEDED] {
        for (when, good) in [(When::First(2), true), (When::Always, false)] {
            for action in [FaultAction::Status, FaultAction::StatusAfter] {
                let rule = FaultRule::io(NvmOpcode::WRITE, action(code.status())).when(when);
                let rig = quick(with_rule(rule.lbas(7..=7)), config());
                write(&rig, 6, 0x11).expect("another block");
                let end = write(&rig, 7, 0x22);
                let stats = rig.controller.stats();
                assert!(stats.io.retries <= 3, "{stats:?}");
                match end {
                    Ok(buf) => {
                        drop(buf);
                        assert!(good, "{code:?}: silently went on");
                        holds(&rig, 7, 0x22);
                    }
                    Err(failed) => {
                        assert_eq!(failed.error.status_code(), Some(code));
                        assert!(failed.buf.is_some());
                        // Told or tried: First(2) may be given up at once, Always must be told.
                        assert!(!good || stats.io.retries < 2, "{stats:?}");
                    }
                }
                holds(&rig, 6, 0x11);
                recovers(&rig);
            }
        }
    }
}

// ---- bring-up ------------------------------------------------------------------------------

#[test]
fn fatal_status_between_en_and_rdy_costs_an_attempt() {
    let rig = Rig::new(Stepped::new(model(), 16 << 20), config()).expect("a controller");
    until_en_rdy(&rig, true, false);
    rig.backend.with_model(|m| m.inject(ControllerFault::Fatal));
    rig.bring_up().expect("at the second attempt");
    assert_eq!(rig.controller.stats().bringup_failures, 1);
    recovers(&rig);
}

#[test]
fn fatal_status_on_the_way_to_not_ready_costs_at_most_an_attempt() {
    let rig = quick(model(), config());
    write(&rig, 5, 0x55).expect("written");
    let lost = rig.ns().read(Lba(1), rig.filled(512, 1));
    rig.controller.request_reset();
    until_en_rdy(&rig, false, true);
    rig.backend.with_model(|m| m.inject(ControllerFault::Fatal));
    drop(rig.run(lost));
    rig.until(|c| c.state() == ControllerState::Ready);
    assert!(rig.controller.stats().bringup_failures <= 1);
    holds(&rig, 5, 0x55);
    recovers(&rig);
}

#[test]
fn ready_that_never_falls_is_a_typed_error_of_bring_up() {
    // A predecessor left it enabled.
    let first = quick(ModelConfig { timeout_500ms: 4, ..model() }, config());
    first.backend.with_model(|m| m.inject(ControllerFault::NeverNotReady));
    let next = nvme_driver::Controller::new(
        first.backend.parts(),
        &core_runtime::mem::Bump::leak(8 << 20),
        config(),
    )
    .expect("a controller");
    first.with_controller(next, |rig| {
        let start = rig.backend.now();
        let error = rig.bring_up().expect_err("RDY stays 1");
        let step = Step::Disable;
        assert_eq!(error, ControllerError::TimedOut { step, limit_ms: 2000 });
        let took = rig.backend.now().since(start).get();
        assert!((6 * S..7 * S).contains(&took), "three attempts took {took} ns");
    });
}

#[test]
fn ready_that_never_comes_back_after_a_reset_ends_everything_once() {
    let rig = quick(
        ModelConfig { latency: LatencyModel::FixedNs(500 * MS), timeout_500ms: 4, ..model() },
        config(),
    );
    let reads: Vec<_> = (0..20).map(|i| rig.ns().read(Lba(i), rig.filled(512, 1))).collect();
    passes(&rig, 10);
    rig.backend.with_model(|m| {
        m.inject(ControllerFault::NeverReady);
        m.inject(ControllerFault::Fatal);
    });
    let mut kinds = [0, 0];
    for f in reads {
        let failed = rig.run(f).expect_err("it never comes back");
        match failed.error {
            IoError::Reset(ResetReason::FatalStatus) => kinds[0] += 1,
            IoError::Gone => kinds[1] += 1,
            other => panic!("{other}"),
        }
        assert!(failed.buf.is_some(), "RDY = 0 was seen");
    }
    assert_eq!(kinds, [9, 11], "those in flight, and those that waited");
    assert!(matches!(rig.controller.state(), ControllerState::Failed(_)));
    rig.assert_no_leak();
    // Whoever comes later is told at once, and the loop goes on.
    rig.ns().try_read(Lba(0), rig.filled(512, 1)).expect_err("failed for good");
    rig.wait_ns(10 * MS);
    rig.assert_no_mistakes();
}

#[test]
fn queues_of_4095_commands_on_a_controller_of_65536_entries_move_data() {
    let mut m = model();
    m.paranoid = false;
    m.max_queue_entries = 65_536;
    m.namespaces = vec![NamespaceConfig::memory(1, 1 << 16).lba_bytes(512)];
    m.latency = LatencyModel::UniformNs { min: 100_000, max: 4 * MS };
    m.out_of_order = true;
    let deep = ControllerConfig {
        queue_depth: 4095,
        max_transfer_bytes: 16 << 10,
        ..ControllerConfig::default()
    };
    let rig = Rig::new(Stepped::new(m, 128 << 20), deep).expect("a controller");
    rig.bring_up().expect("ready");
    assert_eq!(rig.controller.queue_depth(), 4095);
    // All of them at once, twice.
    for _ in 0..2 {
        let reads: Vec<_> = (0..4095).map(|i| rig.ns().read(Lba(i), rig.filled(512, 1))).collect();
        rig.until(|c| c.stats().io.in_flight == 4095);
        rig.ns().try_read(Lba(0), rig.filled(512, 1)).expect_err("full");
        for f in reads {
            assert!(rig.run(f).expect("read").iter().all(|byte| *byte == 0));
        }
    }
    Oracle::new(rig.ns(), 4_000, 8).run(&rig, 20_000);
    rig.finish();
}

#[test]
fn controllers_with_queues_of_one_entry_are_refused_and_of_two_are_used() {
    let one = Stepped::new(ModelConfig { max_queue_entries: 1, ..model() }, 16 << 20);
    assert_eq!(Rig::new(one, config()).map(drop), Err(ControllerError::BadMqes));
    let rig = quick(ModelConfig { max_queue_entries: 2, ..model() }, config());
    assert_eq!(rig.controller.queue_depth(), 1);
    recovers(&rig);
}

// ---- time ----------------------------------------------------------------------------------

#[test]
fn pauses_of_up_to_30_seconds_below_the_deadline_reset_nothing() {
    let patient = ControllerConfig { deadline_ns: 60 * S, admin_deadline_ns: 60 * S, ..config() };
    let rig = quick(model(), patient);
    for pause in [MS, 30 * MS, 300 * MS, 3 * S, 30 * S] {
        let reads: Vec<_> = (0..20).map(|i| rig.ns().read(Lba(i), rig.filled(512, 1))).collect();
        let smart = rig.controller.smart_log();
        rig.backend.with_model(move |m| m.inject(ControllerFault::PauseNs(pause)));
        let start = rig.backend.now();
        for f in reads {
            rig.run(f).expect("after the pause");
        }
        rig.run(smart).expect("after the pause");
        let took = rig.backend.now().since(start).get();
        assert!((pause..pause + 100 * MS).contains(&took), "{took} ns for {pause} ns");
    }
    let stats = rig.controller.stats();
    assert_eq!((stats.deadlines, stats.aborts), (0, 0), "{stats:?}");
    assert_eq!((stats.resets, stats.queue_resets, stats.bringup_failures), (0, 0, 0));
    recovers(&rig);
}

#[test]
fn a_jump_of_the_clock_ends_only_what_the_device_lost() {
    let rule = FaultRule::io(NvmOpcode::READ, FaultAction::Drop).when(When::Nth(3));
    let mut m = with_rule(rule);
    m.latency = LatencyModel::FixedNs(20 * MS);
    let rig = quick(m, config());
    let reads: Vec<_> = (0..9).map(|i| rig.ns().read(Lba(i), rig.filled(512, 1))).collect();
    rig.pass();
    for hours in 1..=3 {
        rig.backend.jump(hours * 3600 * S);
        rig.pass();
    }
    let ended: Vec<_> = reads.into_iter().map(|f| rig.run(f).is_ok()).collect();
    let expected: Vec<_> = (0..9).map(|i| i != 2).collect();
    assert_eq!(ended, expected);
    assert_eq!(rig.controller.stats().resets, 0);
    recovers(&rig);
}

#[test]
fn a_clock_that_stands_still_stops_no_io_and_runs_on_afterwards() {
    let rule = FaultRule::io(NvmOpcode::READ, FaultAction::Drop).when(When::Nth(501));
    let rig = quick(with_rule(rule), config());
    let stopped = rig.backend.now();
    let still = || {
        rig.controller.poll(stopped);
        rig.controller.ring();
        rig.backend.with_model(move |m| m.step(stopped.ticks()));
    };
    for lba in 0..500 {
        let buf = rig.filled(512, 0xEE);
        let before = rig.controller.stats().io.completed;
        let f = rig.ns().read(Lba(lba), buf);
        for _ in 0..100 {
            still();
        }
        assert_eq!(rig.controller.stats().io.completed, before + 1, "block {lba}");
        rig.run(f).expect("read");
    }
    let lost = rig.ns().read(Lba(0), rig.filled(512, 1));
    (0..100_000).for_each(|_| still());
    let stats = rig.controller.stats();
    assert_eq!((stats.deadlines, stats.resets, stats.queue_resets), (0, 0, 0));
    rig.run(lost).expect_err("the deadline comes when the clock runs again");
    recovers(&rig);
}

// ---- data after the end --------------------------------------------------------------------

#[test]
fn memory_of_an_orphan_is_nobodys_until_its_command_ended() {
    for abort in [AbortPolicy::Honest, AbortPolicy::Refuse] {
        // The second delay is beyond the deadline: the command ends by its abort or a queue reset.
        for delay in [2 * S, 100 * S] {
            let action = FaultAction::DelayNs(delay);
            let mut m = with_rule(FaultRule::io(NvmOpcode::READ, action).when(When::Nth(1)));
            m.abort = abort;
            let rig = Rig::new(Stepped::new(m, 8 << 20), config()).expect("a controller");
            rig.bring_up().expect("ready");
            let buf = rig.filled(64 << 10, 0xEE);
            let at = buf.iova().0;
            let f = rig.ns().read(Lba(8), buf);
            passes(&rig, 10);
            drop(f);
            let all = exhaust(&rig);
            assert!(all.iter().all(|buf| !overlaps(buf, at, 64 << 10)), "given away too early");
            rig.until(|c| c.stats().io.in_flight == 0);
            intact(&all);
            let again = rig.arena.alloc(64 << 10).expect("it is back");
            assert_eq!(again.iova().0, at);
            drop((again, all));
            recovers(&rig);
        }
    }
}

#[test]
fn data_that_move_during_a_reset_reach_nobody_elses_memory() {
    for fenced in [true, false] {
        for seed in 0..4 {
            let mut m = model();
            m.seed = seed;
            m.latency = LatencyModel::FixedNs(S);
            m.timeout_500ms = 2;
            m.not_ready_delay_ns = 50 * MS;
            let rig = Rig::new(Stepped::new(m, 8 << 20), config()).expect("a controller");
            rig.bring_up().expect("ready");
            let bufs: Vec<_> = (0..9).map(|_| rig.filled(8 << 10, 0xEE)).collect();
            let places: Vec<_> = bufs.iter().map(|buf| buf.iova().0).collect();
            let reads: Vec<_> =
                (0..).zip(bufs).map(|(i, buf)| rig.ns().read(Lba(i * 16), buf)).collect();
            passes(&rig, 10);
            rig.backend.with_model(move |m| {
                if !fenced {
                    m.inject(ControllerFault::NeverNotReady);
                }
                m.inject(ControllerFault::Fatal);
            });
            until_en_rdy(&rig, false, true);
            let all = exhaust(&rig);
            let taken = |buf: &DmaBuf| places.iter().any(|at| overlaps(buf, *at, 8 << 10));
            assert!(!all.iter().any(taken), "memory in flight was given away");
            let ended: Vec<_> = reads.into_iter().map(|f| rig.run(f)).collect();
            for end in &ended {
                let failed = end.as_ref().expect_err("lost");
                assert_eq!(failed.buf.is_some(), fenced, "{failed}");
            }
            // However late it comes.
            rig.backend.with_model(nvme_model::Model::heal);
            rig.wait_ns(200 * MS);
            intact(&all);
            drop((all, ended));
            let quarantined = if fenced { 0 } else { 9 };
            assert_eq!(rig.arena.stats().quarantined, quarantined);
            if fenced {
                recovers(&rig);
            } else {
                assert!(!exhaust(&rig).iter().any(taken), "quarantine is for good");
            }
        }
    }
}

#[test]
fn an_uncorrectable_error_of_the_bus_resets_or_ends_the_controller() {
    // What a host without error reports sees of one: CSTS.CFS, or a link that is gone.
    let rig = quick(ModelConfig { latency: LatencyModel::FixedNs(MS), ..model() }, config());
    for byte in 1..=20 {
        write(&rig, u64::from(byte), byte).expect("acknowledged");
    }
    let in_flight: Vec<_> = (0..9)
        .map(|i| rig.ns().write(Lba(100 + i), rig.filled(512, 0xAA), WriteFlags::empty()))
        .collect();
    rig.pass();
    rig.backend.with_model(|m| m.inject(ControllerFault::Fatal));
    for f in in_flight {
        let failed = rig.run(f).expect_err("unknown");
        assert_eq!(failed.error, IoError::Reset(ResetReason::FatalStatus));
    }
    for byte in 1..=20 {
        holds(&rig, u64::from(byte), byte);
    }
    let last = rig.ns().write(Lba(100), rig.filled(512, 0xBB), WriteFlags::empty());
    rig.pass();
    rig.backend.with_model(|m| m.inject(ControllerFault::AllOnes));
    assert_eq!(rig.run(last).expect_err("gone").error, IoError::Gone);
    assert!(matches!(rig.controller.state(), ControllerState::Failed(_)));
}

// ---- everything at once --------------------------------------------------------------------

#[test]
fn writes_dropped_at_random_points_leave_each_block_old_or_new() {
    let mut m = model();
    m.mdts = 2;
    m.out_of_order = true;
    m.latency = LatencyModel::UniformNs { min: 0, max: 50_000 };
    let rig = quick(m, ControllerConfig { queue_depth: 31, ..ControllerConfig::default() });
    let mut oracle = Oracle::new(rig.ns(), 64, seed());
    oracle.drop_one_in = 40;
    oracle.drop_writes = true;
    let report = oracle.run(&rig, 20_000);
    println!("{report:?}");
    assert!(report.dropped > 2_000, "{report:?}");
    assert!(rig.controller.stats().orphans > 500);
    rig.finish();
}

#[test]
fn writes_dropped_under_slow_commands_and_queue_resets_keep_their_memory() {
    let stuck = FaultRule::io(NvmOpcode::WRITE, FaultAction::Drop).when(When::Every(400));
    for abort in [AbortPolicy::Honest, AbortPolicy::Refuse] {
        let mut m = with_rule(stuck.clone());
        m.abort = abort;
        m.latency = LatencyModel::UniformNs { min: 0, max: 50_000 };
        let rig = quick(m, config());
        let mut oracle = Oracle::new(rig.ns(), 24, 11);
        (oracle.drop_one_in, oracle.drop_writes, oracle.errors_expected) = (60, true, true);
        oracle.run(&rig, 4_000);
        let stats = rig.controller.stats();
        assert!(stats.deadlines > 0, "{stats:?}");
        assert_eq!(stats.queue_resets > 0, abort == AbortPolicy::Refuse, "{stats:?}");
        recovers(&rig);
    }
}
