//! Faults in operation: every command ends exactly once, nothing is lost, nothing hangs.

use hybrid_conformance::{Backend, Oracle, Rig, Stepped, quick};
use nvme_driver::{
    ControllerConfig, ControllerError, ControllerState, Failed, IoError, Lba, Refusal, RegsError,
    ResetReason, WriteFlags,
};
use nvme_model::{
    AbortPolicy, ControllerFault, CqeFault, FaultAction, FaultPlan, FaultRule, LatencyModel,
    ModelConfig, NamespaceConfig, OnQueue, When,
};
use nvme_spec::{
    AdminOpcode, AsyncEvent, AsyncEventType, LogPageId, Nsid, NvmOpcode, QueueId, StatusCode,
};

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

/// Nine slots: CIDs have four slot bits, so some name a slot that is not there.
fn config() -> ControllerConfig {
    ControllerConfig { queue_depth: 9, ..ControllerConfig::default() }
}

fn plan(rules: impl IntoIterator<Item = FaultRule>) -> FaultPlan {
    rules.into_iter().fold(FaultPlan::none(), FaultPlan::with)
}

fn with_rules(rules: impl IntoIterator<Item = FaultRule>) -> ModelConfig {
    ModelConfig { faults: plan(rules), ..model() }
}

fn on_reads(action: FaultAction, when: When) -> FaultRule {
    FaultRule::io(NvmOpcode::READ, action).when(when)
}

fn cqe(fault: CqeFault) -> FaultAction {
    FaultAction::Cqe(fault)
}

fn status(code: StatusCode) -> FaultAction {
    FaultAction::Status(code.status())
}

/// Reads block `lba`, which nobody wrote.
fn read(rig: &Rig<Stepped>, lba: u64) -> Result<(), Failed> {
    let buf = rig.filled(512, 0xEE);
    let buf = rig.run(rig.ns().read(Lba(lba), buf))?;
    assert!(buf.iter().all(|byte| *byte == 0), "a zero block");
    Ok(())
}

fn heal(rig: &Rig<Stepped>) {
    rig.backend.with_model(|m| {
        m.heal();
        m.reconfigure(|c| {
            c.faults = FaultPlan::none();
            c.latency = LatencyModel::None;
        });
    });
}

/// All is well again, and nothing is left over.
fn recovers(rig: &Rig<Stepped>) {
    heal(rig);
    rig.until(|c| c.state() == ControllerState::Ready);
    let mut oracle = Oracle::over(rig.ns(), 8, 3);
    oracle.run(rig, 60);
    rig.finish();
}

// ---- completions ---------------------------------------------------------------------------

#[test]
fn stray_completions_are_dropped_and_counted_by_their_kind() {
    // Slot 0 is in use at depth 1: 15 is beyond, 1 is free, bit 4 is the generation.
    for (fault, kind) in [
        (CqeFault::Extra(0x000F), "cid_beyond: 1,"),
        (CqeFault::Extra(0x0001), "free_slot: 1,"),
        (CqeFault::Extra(0x0010), "old_generation: 1,"),
        (CqeFault::Twice, "duplicate: 1,"),
    ] {
        let rig = quick(with_rules([on_reads(cqe(fault), When::Nth(2))]), config());
        for lba in 0..4 {
            read(&rig, lba).expect("its owner is untouched");
        }
        let ignored = rig.controller.stats().io.ignored;
        assert!(format!("{ignored:?}").contains(kind), "{fault:?}: {ignored:?}");
        assert_eq!(ignored.total(), 1);
        assert_eq!(rig.controller.stats().resets, 0);
        recovers(&rig);
    }
}

#[test]
fn a_lying_sqhd_changes_nothing() {
    let fault = cqe(CqeFault::WrongSqhd(999));
    let rig = quick(with_rules([on_reads(fault, When::Every(3))]), config());
    Oracle::new(rig.ns(), 20, 5).run(&rig, 500);
    assert!(rig.controller.stats().io.bad_sqhd > 10);
    assert_eq!(rig.controller.stats().resets, 0);
    recovers(&rig);
}

#[test]
fn completions_that_never_reach_their_command_end_in_a_queue_reset() {
    for fault in [
        cqe(CqeFault::WrongSqid(2)),
        cqe(CqeFault::WrongCid(0x0010)),
        cqe(CqeFault::PhaseStuck),
        FaultAction::Drop,
    ] {
        let mut m = with_rules([on_reads(fault, When::Nth(3))]);
        m.abort = AbortPolicy::Refuse;
        let rig = quick(m, config());
        let start = rig.backend.now();
        let reads: Vec<_> = (0..6).map(|i| rig.ns().read(Lba(i), rig.filled(512, 1))).collect();
        let ended: Vec<_> = reads.into_iter().map(|f| rig.run(f)).collect();
        let took = rig.backend.now().since(start).get();
        assert!(took < 8 * S, "{fault:?}: {took} ns");
        let lost: Vec<_> = ended.iter().filter_map(|r| r.as_ref().err()).collect();
        assert!(!lost.is_empty(), "{fault:?}");
        for failed in lost {
            let stuck = ResetReason::Stuck { queue: QueueId(1) };
            assert_eq!(failed.error, IoError::Reset(stuck), "{fault:?}");
            assert!(failed.buf.is_some(), "the deletion was acknowledged");
        }
        drop(ended);
        let stats = rig.controller.stats();
        assert_eq!((stats.queue_resets, stats.resets), (1, 0), "{fault:?}");
        assert!(stats.aborts >= 1 && stats.aborts_refused >= 1, "{stats:?}");
        recovers(&rig);
    }
}

#[test]
fn a_phase_that_flips_early_does_not_spin_and_is_survived() {
    let fault = cqe(CqeFault::PhaseEarly);
    let rig = quick(with_rules([on_reads(fault, When::Every(7))]), config());
    let mut oracle = Oracle::new(rig.ns(), 12, 6);
    oracle.errors_expected = true;
    oracle.run(&rig, 300);
    recovers(&rig);
}

#[test]
fn the_words_of_a_completion_may_become_visible_in_any_order() {
    let mut orders = Vec::new();
    for code in 0..256_u32 {
        let order: [u8; 4] =
            std::array::from_fn(|i| u8::try_from(code >> (2 * i) & 3).expect("2 bits"));
        if (0..4).all(|dword| order.contains(&dword)) {
            orders.push(order);
        }
    }
    assert_eq!(orders.len(), 24);
    for order in orders {
        let rig =
            quick(with_rules([on_reads(cqe(CqeFault::Order(order)), When::Nth(2))]), config());
        read(&rig, 0).expect("whole");
        let second = read(&rig, 1);
        let place = |dword| order.iter().position(|d| *d == dword).expect("there");
        if place(3) > place(2) {
            // The phase comes after the words that it vouches for.
            second.unwrap_or_else(|failed| panic!("{order:?}: {failed}"));
            assert_eq!(rig.controller.stats().io.ignored.total(), 0);
        } else {
            // It vouched for an SQID that was not there yet: dropped, and ended by the deadline.
            assert!(second.is_err(), "{order:?}");
            drop(second);
        }
        recovers(&rig);
    }
}

#[test]
fn too_many_stray_completions_make_the_controller_rogue() {
    let extra = cqe(CqeFault::Extra(0x0010));
    let rig = quick(with_rules([on_reads(extra, When::First(40))]), config());
    for lba in 0..200 {
        read(&rig, lba % 9).expect("its owner is untouched");
    }
    // Counted by the millisecond.
    rig.wait_ns(2 * MS);
    assert_eq!(rig.controller.stats().resets, 1);
    recovers(&rig);
}

// ---- statuses ------------------------------------------------------------------------------

#[test]
fn a_status_without_dnr_is_retried_after_the_delay_asked_for() {
    for (crd, least) in [(0, 0), (1, 100 * MS), (2, 500 * MS), (3, 2000 * MS)] {
        let busy = StatusCode::NAMESPACE_NOT_READY.status().with_crd(crd);
        let rig =
            quick(with_rules([on_reads(FaultAction::Status(busy), When::First(2))]), config());
        let start = rig.backend.now();
        read(&rig, 5).expect("at the third try");
        let took = rig.backend.now().since(start).get();
        assert!(took >= 2 * least && took < 2 * least + 20 * MS, "CRD {crd}: {took} ns");
        assert_eq!(rig.controller.stats().io.retries, 2);
        recovers(&rig);
    }
}

#[test]
fn retries_are_bounded() {
    let rig =
        quick(with_rules([on_reads(status(StatusCode::INTERNAL_ERROR), When::Always)]), config());
    let failed = read(&rig, 9).expect_err("it always fails");
    assert_eq!(failed.error.status_code(), Some(StatusCode::INTERNAL_ERROR));
    drop(failed);
    let stats = rig.controller.stats();
    assert_eq!((stats.io.retries, stats.io.completed), (3, 4));
    recovers(&rig);
}

#[test]
fn a_media_error_is_told_with_its_block_and_not_retried() {
    for code in [
        StatusCode::UNRECOVERED_READ_ERROR,
        // Of a namespace with protection information, which we refuse: any status is told alike.
        StatusCode::GUARD_CHECK,
        StatusCode::REFTAG_CHECK,
    ] {
        a_bad_block_is_told(code);
    }
}

fn a_bad_block_is_told(code: StatusCode) {
    let bad = FaultAction::Status(code.do_not_retry());
    let rule = FaultRule::io(NvmOpcode::READ, bad).lbas(700..=700);
    let mut m = with_rules([rule]);
    m.mdts = 1;
    let rig = quick(m, config());
    // 8 KiB a command: block 700 lies in the one that starts at 688.
    let failed =
        rig.run(rig.ns().read(Lba(640), rig.filled(64 << 10, 0))).expect_err("a bad block");
    let IoError::Status { status, slba } = failed.error else {
        panic!("{failed}");
    };
    assert_eq!(status.code(), code);
    assert_eq!(slba, Lba(688));
    assert!(failed.buf.is_some());
    drop(failed);
    assert_eq!(rig.controller.stats().io.retries, 0);
    recovers(&rig);
}

#[test]
fn a_data_transfer_error_is_tried_once_more() {
    for (first, good) in [(1, true), (2, false)] {
        let fault = status(StatusCode::DATA_TRANSFER_ERROR);
        let rig = quick(with_rules([on_reads(fault, When::First(first))]), config());
        assert_eq!(read(&rig, 1).is_ok(), good);
        assert_eq!(rig.controller.stats().io.retries, 1);
        recovers(&rig);
    }
}

#[test]
fn a_flush_that_fails_is_never_repeated() {
    let rule =
        FaultRule::io(NvmOpcode::FLUSH, status(StatusCode::INTERNAL_ERROR)).when(When::Nth(1));
    let rig = quick(with_rules([rule]), config());
    let failed = rig.run(rig.ns().flush()).expect_err("unknown from here on");
    assert_eq!(failed.status_code(), Some(StatusCode::INTERNAL_ERROR));
    assert_eq!(rig.controller.stats().io.submitted, 1);
    rig.run(rig.ns().flush()).expect("the next one is another command");
    recovers(&rig);
}

#[test]
fn write_faults_are_told() {
    for code in [StatusCode::WRITE_FAULT, StatusCode::CAPACITY_EXCEEDED] {
        let fault = FaultAction::Status(code.do_not_retry());
        let rig = quick(with_rules([FaultRule::io(NvmOpcode::WRITE, fault)]), config());
        let write = rig.ns().write(Lba(0), rig.filled(512, 1), WriteFlags::FUA);
        let failed = rig.run(write).expect_err("it fails");
        assert_eq!(failed.error.status_code(), Some(code));
        drop(failed);
        recovers(&rig);
    }
}

// ---- time ----------------------------------------------------------------------------------

#[test]
fn an_aborted_command_ends_as_timed_out_and_the_others_go_on() {
    let rig = quick(with_rules([on_reads(FaultAction::DelayNs(600 * S), When::Nth(1))]), config());
    let slow = rig.ns().read(Lba(0), rig.filled(512, 1));
    for lba in 1..100 {
        read(&rig, lba).expect("not slow");
    }
    let failed = rig.run(slow).expect_err("too late");
    assert_eq!(failed.error, IoError::TimedOut);
    assert!(failed.buf.is_some());
    drop(failed);
    let stats = rig.controller.stats();
    assert_eq!((stats.deadlines, stats.aborts), (1, 1));
    assert_eq!((stats.queue_resets, stats.resets, stats.aborts_refused), (0, 0, 0));
    recovers(&rig);
}

#[test]
fn a_command_that_completes_after_its_abort_was_refused_is_simply_done() {
    for abort in [AbortPolicy::Refuse, AbortPolicy::Lie] {
        let slow = FaultAction::DelayNs(5_800 * MS);
        let mut m = with_rules([on_reads(slow, When::Nth(1))]);
        m.abort = abort;
        let rig = quick(m, config());
        read(&rig, 0).expect("late, but whole");
        let stats = rig.controller.stats();
        assert_eq!((stats.aborts, stats.queue_resets), (1, 0), "{abort:?}");
        recovers(&rig);
    }
}

#[test]
fn a_pause_below_the_deadline_resets_nothing() {
    for pause in [MS, 100 * MS, 4_000 * MS] {
        let rig = quick(model(), config());
        rig.backend.with_model(move |m| m.inject(ControllerFault::PauseNs(pause)));
        let start = rig.backend.now();
        read(&rig, 0).expect("after the pause");
        assert!(rig.backend.now().since(start).get() >= pause);
        let stats = rig.controller.stats();
        assert_eq!((stats.deadlines, stats.resets, stats.queue_resets), (0, 0, 0));
        recovers(&rig);
    }
}

#[test]
fn a_clock_that_jumps_fails_nothing() {
    let mut m = model();
    m.latency = LatencyModel::FixedNs(40 * S);
    let rig = quick(m, config());
    let reads: Vec<_> = (0..5).map(|i| rig.ns().read(Lba(i), rig.filled(512, 1))).collect();
    (0..20).for_each(|_| {
        rig.pass();
    });
    for _ in 0..10 {
        rig.backend.jump(3600 * S);
        rig.pass();
    }
    for f in reads {
        rig.run(f).expect("the device was not late");
    }
    assert_eq!(rig.controller.stats().deadlines, 0);
    recovers(&rig);
}

#[test]
fn a_queue_whose_deletion_is_not_answered_takes_the_controller_reset() {
    let lose = FaultRule::admin(AdminOpcode::DELETE_SQ, FaultAction::Drop);
    let mut m = with_rules([on_reads(FaultAction::Drop, When::Nth(1)), lose]);
    m.abort = AbortPolicy::Refuse;
    let rig = quick(m, config());
    let failed = read(&rig, 0).expect_err("lost");
    assert!(matches!(failed.error, IoError::Reset(_)));
    assert!(failed.buf.is_some(), "RDY = 0 was seen");
    drop(failed);
    let stats = rig.controller.stats();
    assert_eq!((stats.queue_resets, stats.resets), (1, 1));
    recovers(&rig);
}

#[test]
fn an_admin_command_that_hangs_is_over_in_five_seconds() {
    let rule = FaultRule::admin(AdminOpcode::GET_LOG_PAGE, FaultAction::Drop);
    let rig = quick(with_rules([rule]), config());
    let start = rig.backend.now();
    let log = rig.controller.get_log_page(LogPageId::SMART, Nsid::ALL, rig.filled(512, 0));
    let failed = rig.run(log).expect_err("never answered");
    assert_eq!(failed.error, IoError::Reset(ResetReason::AdminStuck));
    assert!(failed.buf.is_some());
    drop(failed);
    rig.until(|c| c.state() == ControllerState::Ready);
    let took = rig.backend.now().since(start).get();
    assert!(took < 5 * S, "{took} ns");
    recovers(&rig);
}

// ---- the controller as a whole -------------------------------------------------------------

#[test]
fn a_fatal_controller_fails_what_is_in_flight_once_and_goes_on() {
    for (fault, reason) in [
        (ControllerFault::Fatal, ResetReason::FatalStatus),
        (ControllerFault::SubsystemReset, ResetReason::NotReady),
    ] {
        let mut m = model();
        m.latency = LatencyModel::FixedNs(500 * MS);
        let rig = quick(m, config());
        let ns = rig.ns();
        // More than fit: the last ones wait for room, and for the end of the reset.
        let reads: Vec<_> = (0..12).map(|i| ns.read(Lba(i), rig.filled(512, 1))).collect();
        (0..10).for_each(|_| {
            rig.pass();
        });
        rig.backend.with_model(move |m| m.inject(fault));
        let ended: Vec<_> = reads.into_iter().map(|f| rig.run(f)).collect();
        for (i, end) in ended.iter().enumerate() {
            match end {
                Ok(_) => assert!(i >= 9, "read {i} was in flight"),
                Err(failed) => {
                    assert!(i < 9, "read {i} had not started: {failed}");
                    assert_eq!(failed.error, IoError::Reset(reason));
                    assert!(failed.buf.is_some(), "RDY = 0 was seen");
                }
            }
        }
        drop(ended);
        assert_eq!(rig.controller.stats().resets, 1);
        recovers(&rig);
    }
}

#[test]
fn a_device_that_is_gone_fails_everything_and_its_buffers_stay_quarantined() {
    for fault in [ControllerFault::AllOnes, ControllerFault::AllZeros] {
        let mut m = model();
        m.latency = LatencyModel::FixedNs(S);
        let rig = quick(m, config());
        let reads: Vec<_> = (0..9).map(|i| rig.ns().read(Lba(i), rig.filled(512, 1))).collect();
        let waiting = rig.ns().read(Lba(0), rig.filled(512, 1));
        (0..10).for_each(|_| {
            rig.pass();
        });
        let start = rig.backend.now();
        rig.backend.with_model(move |m| m.inject(fault));
        for f in reads {
            let failed = rig.run(f).expect_err("gone");
            assert_eq!(failed.error, IoError::Gone);
            assert!(failed.buf.is_none(), "nobody knows whether it still writes");
        }
        let failed = rig.run(waiting).expect_err("gone");
        assert_eq!(failed.error, IoError::Gone);
        assert!(failed.buf.is_some(), "the device never had it");
        drop(failed);
        assert!(rig.backend.now().since(start).get() < 20 * MS, "seen within two looks");
        let gone = ControllerError::Regs(RegsError::Gone);
        assert_eq!(rig.controller.state(), ControllerState::Failed(gone));
        assert_eq!(rig.controller.stats().resets, 0, "{fault:?}: nobody is there to be reset");
        assert_eq!(rig.arena.stats().quarantined, 9);
        let late = rig.ns().try_read(Lba(0), rig.filled(512, 1)).expect_err("gone");
        assert_eq!(late.error, IoError::Gone);
        assert_eq!(rig.run(rig.controller.shutdown()), Err(gone));
        rig.assert_no_mistakes();
    }
}

#[test]
fn a_reset_that_is_never_confirmed_keeps_the_buffers() {
    let mut m = model();
    m.latency = LatencyModel::FixedNs(S);
    m.timeout_500ms = 1;
    let rig = quick(m, config());
    let orphan = rig.ns().read(Lba(1), rig.filled(512, 1));
    let f = rig.ns().read(Lba(0), rig.filled(512, 1));
    (0..10).for_each(|_| {
        rig.pass();
    });
    drop(orphan);
    rig.backend.with_model(|m| {
        m.inject(ControllerFault::NeverNotReady);
        m.inject(ControllerFault::Fatal);
    });
    let failed = rig.run(f).expect_err("lost");
    assert_eq!(failed.error, IoError::Gone);
    assert!(failed.buf.is_none());
    assert!(matches!(rig.controller.state(), ControllerState::Failed(_)));
    assert_eq!(rig.arena.stats().quarantined, 2);
}

#[test]
fn fatal_status_every_200_ms_under_load_loses_nothing() {
    let mut m = model();
    m.latency = LatencyModel::UniformNs { min: 10_000, max: MS };
    let rig = quick(m, config());
    let mut oracle = Oracle::new(rig.ns(), 12, 77);
    oracle.errors_expected = true;
    for _ in 0..12 {
        rig.backend.with_model(|m| m.inject(ControllerFault::Fatal));
        oracle.run(&rig, 400);
    }
    assert!(oracle.report.failed > 12, "{:?}", oracle.report);
    assert_eq!(rig.controller.stats().resets, 12);
    recovers(&rig);
}

#[test]
fn a_reset_that_was_asked_for_is_done_and_everybody_goes_on() {
    let rig = quick(model(), config());
    for _ in 0..5 {
        let f = rig.ns().read(Lba(0), rig.filled(512, 1));
        rig.controller.request_reset();
        // In flight or already done: one or the other, once.
        drop(rig.run(f));
        rig.until(|c| c.state() == ControllerState::Ready);
        read(&rig, 3).expect("ready again");
    }
    assert_eq!(rig.controller.stats().resets, 5);
    recovers(&rig);
}

// ---- events --------------------------------------------------------------------------------

#[test]
fn an_event_storm_is_limited_and_does_not_stop_io() {
    let unknown = AsyncEvent::new(AsyncEventType::VENDOR, 0x77, LogPageId(0xC0));
    for event in [unknown, AsyncEvent::SMART_TEMPERATURE] {
        let rig = quick(model(), config());
        rig.backend.with_model(move |m| m.inject(ControllerFault::EventStorm(event, 100_000)));
        rig.wait_ns(3 * S);
        for lba in 0..50 {
            read(&rig, lba).expect("I/O goes on");
        }
        let stats = rig.controller.stats();
        assert!((16..=100).contains(&stats.events), "{stats:?}");
        assert!(stats.events_held_back >= 2, "{stats:?}");
        assert_eq!(rig.controller.take_event(), Some(event));
        assert_eq!(stats.resets, 0);
        recovers(&rig);
    }
}

#[test]
fn a_critical_warning_is_read_and_the_next_event_asked_for() {
    let rig = quick(model(), config());
    rig.wait_ns(10 * MS);
    for (bits, event) in [(1, AsyncEvent::SMART_SPARE), (3, AsyncEvent::SMART_TEMPERATURE)] {
        rig.backend.with_model(move |m| m.set_critical_warning(bits));
        rig.until(|c| c.critical_warning() == bits);
        assert_eq!(rig.controller.take_event(), Some(event));
    }
    recovers(&rig);
}

#[test]
fn a_namespace_that_is_resized_under_load_is_refused_at_its_event_and_the_other_goes_on() {
    let mut m = model();
    m.namespaces.push(NamespaceConfig::memory(7, 512).lba_bytes(512));
    let rig = quick(m, config());
    rig.wait_ns(10 * MS);
    let other = rig.controller.namespace(Nsid(7)).expect("usable");
    let ns = rig.ns();
    let blocks = ns.blocks();
    // What was posted before is the device's to answer, once each.
    let running: Vec<_> = (0..9).map(|i| ns.read(Lba(i), rig.filled(512, 1))).collect();
    rig.backend.with_model(move |m| m.shrink_namespace(Nsid(1), blocks / 2));
    for read in running {
        drop(rig.run(read).expect("in the half that is left"));
    }
    rig.until(|c| c.stats().namespaces_refused == 1);
    let failed = rig.run(ns.read(Lba(0), rig.filled(512, 1))).expect_err("another shape");
    assert_eq!(failed.error, IoError::NamespaceChanged(Nsid(1)));
    assert!(failed.buf.is_some());
    assert_eq!(ns.refusal(), Some(Refusal::Changed));
    drop(rig.run(other.read(Lba(500), rig.filled(512, 1))).expect("whole"));
    assert_eq!(rig.controller.take_event(), Some(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED));
    // The list was read: the next change is told of too. One that changes nothing costs nothing.
    for _ in 0..2 {
        rig.backend.with_model(|m| m.shrink_namespace(Nsid(7), 512));
        rig.until(|c| c.take_event() == Some(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED));
        rig.wait_ns(10 * MS);
        drop(rig.run(other.read(Lba(500), rig.filled(512, 1))).expect("as it was"));
    }
    assert_eq!(rig.controller.stats().resets, 0);
    drop(failed);
    rig.finish();
}

#[test]
fn a_namespace_that_cannot_be_identified_after_its_event_is_asked_again_and_stays() {
    // Descriptors, Identify Namespace; then twice after the event.
    let busy = FaultAction::Status(StatusCode::INTERNAL_ERROR.status());
    let at = |n| FaultRule::admin(AdminOpcode::IDENTIFY, busy).nsid(1).when(When::Nth(n));
    let rig = quick(with_rules([at(3), at(4)]), config());
    rig.wait_ns(10 * MS);
    let ns = rig.ns();
    let blocks = ns.blocks();
    rig.backend.with_model(move |m| m.shrink_namespace(Nsid(1), blocks));
    rig.wait_ns(S);
    drop(rig.run(ns.read(Lba(0), rig.filled(512, 1))).expect("as it was"));
    rig.backend.with_model(move |m| m.shrink_namespace(Nsid(1), blocks - 1));
    rig.until(|c| c.stats().namespaces_refused == 1);
    assert_eq!(rig.controller.stats().resets, 0);
    rig.finish();
}

#[test]
fn an_invalid_doorbell_event_resets_once() {
    let rig = quick(model(), config());
    rig.wait_ns(10 * MS);
    for _ in 0..3 {
        rig.backend
            .with_model(|m| m.inject(ControllerFault::Event(AsyncEvent::INVALID_DOORBELL_VALUE)));
        rig.wait_ns(100 * MS);
    }
    assert_eq!(rig.controller.stats().resets, 1);
    recovers(&rig);
}

#[test]
fn random_faults_of_every_kind_end_each_operation_once() {
    // CIDs have five slot bits here; 20h is the lowest of the generation. (A wrong CID that hits
    // another live slot and its generation cannot be told from the truth.)
    let rules = [
        on_reads(FaultAction::Drop, When::PerMillion(300)),
        on_reads(cqe(CqeFault::Twice), When::PerMillion(3_000)),
        on_reads(cqe(CqeFault::WrongCid(0x20)), When::PerMillion(300)),
        on_reads(cqe(CqeFault::Extra(0x20)), When::PerMillion(2_000)),
        on_reads(FaultAction::Controller(ControllerFault::Fatal), When::PerMillion(200)),
        on_reads(status(StatusCode::INTERNAL_ERROR), When::PerMillion(20_000)),
        on_reads(FaultAction::DelayNs(3 * S), When::PerMillion(300)),
        FaultRule::on(OnQueue::Admin, FaultAction::Drop).when(When::PerMillion(2_000)),
    ];
    for seed in 0..4 {
        let mut m = with_rules(rules.clone());
        m.seed = seed;
        m.out_of_order = true;
        m.latency = LatencyModel::UniformNs { min: 0, max: 200_000 };
        let rig = quick(
            m,
            ControllerConfig {
                queue_depth: 30,
                bringup_attempts: 20,
                ..ControllerConfig::default()
            },
        );
        let mut oracle = Oracle::new(rig.ns(), 48, seed);
        oracle.errors_expected = true;
        oracle.drop_one_in = 5_000;
        let report = oracle.run(&rig, 10_000);
        let stats = rig.controller.stats();
        println!("{report:?} {stats:?}");
        assert!(report.failed > 0 && stats.resets > 0);
        recovers(&rig);
    }
}
