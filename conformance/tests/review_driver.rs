//! Soundness of raw queues, fences that must not be believed, lines that must not be lost.

use core_runtime::mem::Bump;
use hybrid_conformance::{Backend, Flag, Rig, Stepped, quick};
use nvme_driver::{
    ControllerConfig, ControllerError, ControllerState, IoError, Lba, Refusal, RegsError,
    ResetReason, WriteFlags,
};
use nvme_model::{
    AbortPolicy, ControllerFault, CqeFault, FaultAction, FaultPlan, FaultRule, LatencyModel,
    ModelConfig, NamespaceConfig, OnQueue, When,
};
use nvme_spec::{AdminOpcode, Nsid, NvmOpcode, QueueId, StatusCode};
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll};

const MS: u64 = 1_000_000;

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

fn queues(io_queues: u16) -> ControllerConfig {
    ControllerConfig { io_queues, ..config() }
}

fn with_rules(rules: impl IntoIterator<Item = FaultRule>) -> ModelConfig {
    let faults = rules.into_iter().fold(FaultPlan::none(), FaultPlan::with);
    ModelConfig { faults, ..model() }
}

fn bump() -> Bump {
    Bump::leak(64 << 10)
}

fn passes(rig: &Rig<Stepped>, n: u32) {
    for _ in 0..n {
        rig.pass();
    }
}

// ---- raw queues ----------------------------------------------------------------------------

#[test]
fn the_bytes_of_a_raw_buffer_are_seen_only_while_nothing_is_in_flight_on_it() {
    let mut m = model();
    m.latency = LatencyModel::FixedNs(MS);
    // Two commands into one buffer are meant here.
    m.paranoid = false;
    let rig = quick(m, queues(2));
    let written = rig.run(rig.ns().write(Lba(0), rig.filled(512, 0x5A), WriteFlags::empty()));
    drop(written.expect("written"));
    let raw = rig.controller.take_raw_queue(1, 2, &bump()).expect("a queue");
    let target = rig.ns().target().expect("usable");
    assert_eq!(raw.adopt(rig.filled(512, 0)).expect("room"), 0);
    assert_eq!(raw.adopt(rig.filled(512, 1)).expect("room"), 1);
    assert!(raw.adopt(rig.filled(512, 2)).is_err(), "no more places");
    raw.submit_read(&target, Lba(0), 1, 0, 7).expect("room");
    raw.submit_read(&target, Lba(0), 1, 0, 8).expect("twice into the same");
    raw.ring();
    assert_eq!(raw.with_buf(0, |bytes| bytes[0]), None, "the device has it");
    assert!(raw.release(0).is_none(), "the device has it");
    assert_eq!(raw.with_buf(1, |bytes| bytes[0]), Some(1));
    assert_eq!(raw.with_buf(2, |bytes| bytes[0]), None, "no such place");
    let mut tokens = Vec::new();
    while tokens.is_empty() {
        rig.pass();
        raw.reap(1, |token, result| tokens.push((token, result)));
    }
    assert_eq!(raw.with_buf(0, |bytes| bytes[0]), None, "one of two is still in flight");
    while tokens.len() < 2 {
        rig.pass();
        raw.reap(1, |token, result| tokens.push((token, result)));
    }
    tokens.sort_by_key(|(token, _)| *token);
    assert_eq!(tokens, [(7, Ok(())), (8, Ok(()))]);
    let submitted = raw.with_buf(0, |bytes| {
        assert!(bytes.iter().all(|byte| *byte == 0x5A));
        // It is the CPU's for now: neither the device nor a second borrower gets it.
        assert_eq!(raw.with_buf(0, |_| ()), None);
        assert!(raw.release(0).is_none());
        raw.submit_read(&target, Lba(1), 1, 0, 9)
    });
    assert!(matches!(submitted, Some(Err(IoError::BadLength { .. }))), "{submitted:?}");
    let buf = raw.release(0).expect("idle");
    assert_eq!(buf[511], 0x5A);
    assert!(raw.submit_read(&target, Lba(1), 1, 0, 9).is_err(), "the place is empty");
    drop((buf, raw));
    rig.finish();
}

#[test]
fn a_raw_reap_counts_answers_and_not_strays() {
    let twice = FaultRule::io(NvmOpcode::READ, FaultAction::Cqe(CqeFault::Twice));
    let rig = quick(with_rules([twice]), queues(2));
    let raw = rig.controller.take_raw_queue(1, 1, &bump()).expect("a queue");
    let target = rig.ns().target().expect("usable");
    raw.adopt(rig.filled(512, 0)).expect("room");
    for round in 0..5 {
        raw.submit_read(&target, Lba(0), 1, 0, round).expect("room");
        raw.ring();
        let mut told = 0;
        let mut counted = 0;
        while told == 0 {
            rig.pass();
            counted += raw.reap(8, |token, _| {
                assert_eq!(token, round);
                told += 1;
            });
        }
        passes(&rig, 4);
        counted += raw.reap(8, |_, _| panic!("a stray one was told"));
        assert_eq!((counted, told), (1, 1));
    }
    assert_eq!(raw.stats().ignored.duplicate, 5);
    drop(raw);
    rig.finish();
}

#[test]
fn raw_buffers_of_a_device_that_is_gone_are_never_seen_again() {
    let mut m = model();
    m.latency = LatencyModel::FixedNs(1_000 * MS);
    let rig = quick(m, queues(2));
    let raw = rig.controller.take_raw_queue(1, 3, &bump()).expect("a queue");
    let target = rig.ns().target().expect("usable");
    assert!((0..3).all(|_| raw.adopt(rig.filled(512, 0)).is_ok()));
    raw.submit_read(&target, Lba(0), 1, 0, 0).expect("room");
    raw.submit_read(&target, Lba(0), 1, 1, 1).expect("room");
    raw.ring();
    rig.backend.with_model(|m| m.inject(ControllerFault::AllOnes));
    let mut told = Vec::new();
    rig.until(|c| {
        raw.reap(8, |token, result| told.push((token, result)));
        matches!(c.state(), ControllerState::Failed(_)) && told.len() == 2
    });
    assert!(told.iter().all(|(_, result)| *result == Err(IoError::Gone)));
    assert!(raw.is_idle());
    assert_eq!(raw.with_buf(0, |_| ()), None, "nobody knows whether the device still writes");
    assert!(raw.release(1).is_none());
    assert_eq!(raw.with_buf(2, |_| ()), Some(()), "it was never the device's");
    assert_eq!(raw.submit_read(&target, Lba(0), 1, 2, 2), Err(IoError::Gone));
    drop(raw);
    assert_eq!(rig.arena.stats().quarantined, 2);
}

#[test]
fn a_raw_queue_that_is_dropped_busy_keeps_its_buffers_from_everybody() {
    let mut m = model();
    m.latency = LatencyModel::FixedNs(20 * MS);
    let rig = quick(m, queues(2));
    let raw = rig.controller.take_raw_queue(1, 2, &bump()).expect("a queue");
    let target = rig.ns().target().expect("usable");
    assert!((0..2).all(|_| raw.adopt(rig.filled(512, 0)).is_ok()));
    let live = rig.arena.stats().live;
    raw.submit_read(&target, Lba(0), 1, 0, 0).expect("room");
    raw.ring();
    drop(raw);
    let stats = rig.arena.stats();
    assert_eq!((live - stats.live, stats.quarantined), (2, 1));
    assert!(rig.controller.take_raw_queue(1, 1, &bump()).is_none(), "still busy");
    rig.controller.request_reset();
    rig.until(|c| c.stats().resets == 1 && c.state() == ControllerState::Ready);
    let raw = rig.controller.take_raw_queue(1, 1, &bump()).expect("common again");
    raw.adopt(rig.filled(512, 0)).expect("room");
    drop(raw);
    assert!(rig.controller.take_raw_queue(1, 1, &bump()).is_some(), "an idle one is given back");
    rig.run(rig.controller.shutdown()).expect("off");
}

#[test]
fn a_reap_inside_the_telling_of_losses_ends_nothing_twice() {
    let mut m = model();
    m.latency = LatencyModel::FixedNs(10 * MS);
    let rig = quick(m, queues(2));
    let raw = rig.controller.take_raw_queue(1, 4, &bump()).expect("a queue");
    let target = rig.ns().target().expect("usable");
    for token in 0..4 {
        let place = raw.adopt(rig.filled(512, 0)).expect("room");
        raw.submit_read(&target, Lba(0), 1, place, token).expect("room");
    }
    raw.ring();
    rig.controller.request_reset();
    rig.until(|c| c.stats().resets == 1 && c.state() == ControllerState::Ready);
    let mut tokens = Vec::new();
    let told = raw.reap(8, |token, result| {
        assert_eq!(result, Err(IoError::Reset(ResetReason::Requested)));
        tokens.push(token);
        assert_eq!(raw.reap(8, |_, _| panic!("told inside")), 0);
    });
    tokens.sort_unstable();
    assert_eq!((told, tokens), (4, vec![0, 1, 2, 3]));
    drop(raw);
    rig.finish();
}

// ---- the line ------------------------------------------------------------------------------

#[test]
fn who_waits_is_served_although_the_first_queue_is_taken_meanwhile() {
    let rig = quick(model(), queues(2));
    rig.controller.request_reset();
    rig.until(|c| c.state() == ControllerState::Resetting);
    // Whoever comes in a reset waits for its end, with all queues idle.
    let mut waiting = pin!(rig.ns().read(Lba(30), rig.filled(512, 1)));
    let (flag, waker) = Flag::raised();
    let mut cx = Context::from_waker(&waker);
    assert!(waiting.as_mut().poll(&mut cx).is_pending());
    let raw = rig.controller.take_raw_queue(0, 1, &bump()).expect("idle");
    flag.take();
    assert!(waiting.as_mut().poll(&mut cx).is_pending());
    for _ in 0..20_000 {
        if flag.take()
            && let Poll::Ready(done) = waiting.as_mut().poll(&mut cx)
        {
            drop((raw, done.expect("whole")));
            return rig.finish();
        }
        rig.pass();
    }
    panic!("it waits for ever");
}

#[test]
fn room_in_any_queue_serves_the_line_at_once() {
    let stuck = FaultRule::on(OnQueue::Sq(1), FaultAction::Drop).when(When::First(9));
    // Room for requests that are done and not looked at yet.
    let config = ControllerConfig { requests: 64, ..queues(2) };
    let rig = quick(with_rules([stuck]), config);
    // Nine in each queue; those of the first never end by themselves.
    let reads: Vec<_> = (0..18).map(|i| rig.ns().read(Lba(i), rig.filled(512, 1))).collect();
    let start = rig.backend.now();
    for i in 0..20 {
        // One that waits for the second queue's room, the housekeeping of a millisecond or not.
        let fillers: Vec<_> = (0..9).map(|j| rig.ns().read(Lba(j), rig.filled(512, 1))).collect();
        drop(rig.run(rig.ns().read(Lba(i), rig.filled(512, 1))).expect("whole"));
        for filler in fillers {
            drop(rig.run(filler).expect("whole"));
        }
    }
    let took = rig.backend.now().since(start).get();
    assert!(took < 2 * MS, "{took} ns for 20 rounds");
    drop(reads);
    rig.until(|c| c.stats().io.in_flight == 0);
    rig.finish();
}

#[test]
fn who_waits_is_told_that_the_last_queue_was_taken() {
    let mut m = model();
    m.latency = LatencyModel::FixedNs(MS);
    let rig = quick(m, config());
    let reads: Vec<_> = (0..9).map(|i| rig.ns().read(Lba(i), rig.filled(512, 1))).collect();
    let mut waiting = pin!(rig.ns().read(Lba(30), rig.filled(512, 1)));
    let (flag, waker) = Flag::raised();
    let mut cx = Context::from_waker(&waker);
    assert!(waiting.as_mut().poll(&mut cx).is_pending());
    for read in reads {
        rig.run(read).expect("whole");
    }
    let raw = rig.controller.take_raw_queue(0, 1, &bump()).expect("idle");
    assert!(flag.take(), "woken");
    let Poll::Ready(Err(failed)) = waiting.as_mut().poll(&mut cx) else { panic!("it waits") };
    assert_eq!(failed.error, IoError::NotReady);
    drop((failed, raw));
    rig.finish();
}

// ---- fences --------------------------------------------------------------------------------

/// All registers read zeros from a moment at which RDY = 0 is waited for.
#[test]
fn all_zeros_while_disabling_are_no_fence() {
    let mut m = model();
    m.latency = LatencyModel::FixedNs(1_000 * MS);
    m.not_ready_delay_ns = 50 * MS;
    let rig = quick(m, config());
    let read = rig.ns().read(Lba(0), rig.filled(512, 1));
    passes(&rig, 4);
    rig.controller.request_reset();
    rig.until(|c| c.state() == ControllerState::Resetting);
    rig.wait_ns(10 * MS);
    rig.backend.with_model(|m| m.inject(ControllerFault::AllZeros));
    let failed = rig.run(read).expect_err("lost");
    assert_eq!(failed.error, IoError::Gone);
    assert!(failed.buf.is_none(), "nothing was confirmed");
    let gone = ControllerError::Regs(RegsError::Gone);
    assert_eq!(rig.controller.state(), ControllerState::Failed(gone));
    assert_eq!(rig.arena.stats().quarantined, 1);
}

#[test]
fn all_zeros_in_the_last_disable_are_no_fence() {
    let mut m = model();
    m.latency = LatencyModel::FixedNs(60_000 * MS);
    m.not_ready_delay_ns = 50 * MS;
    let rig = quick(m, ControllerConfig { drain_ns: MS, ..config() });
    let read = rig.ns().read(Lba(0), rig.filled(512, 1));
    passes(&rig, 4);
    rig.controller.request_shutdown();
    rig.until(|c| c.state() == ControllerState::ShuttingDown);
    // Past the drain and the notification, which takes no time here: EN is 0, RDY still 1.
    rig.wait_ns(10 * MS);
    rig.backend.with_model(|m| {
        assert!(m.read_reg(0x1C, 4) & 1 == 1 && m.read_reg(0x14, 4) & 1 == 0, "in the disable");
        m.inject(ControllerFault::AllZeros);
    });
    let failed = rig.run(read).expect_err("lost");
    assert_eq!(failed.error, IoError::Gone);
    assert!(failed.buf.is_none(), "nothing was confirmed");
    let gone = ControllerError::Regs(RegsError::Gone);
    assert_eq!(rig.run(rig.controller.shutdown()), Err(gone));
}

// ---- queue resets and shutdown -------------------------------------------------------------

#[test]
fn a_controller_that_does_not_answer_an_abort_gets_no_deletion() {
    let rig = quick(
        with_rules([
            FaultRule::io(NvmOpcode::READ, FaultAction::Drop).when(When::Nth(1)),
            FaultRule::admin(AdminOpcode::ABORT, FaultAction::Drop),
            // Would tell: it is the first step of a queue reset.
            FaultRule::admin(AdminOpcode::DELETE_SQ, FaultAction::Drop),
        ]),
        ControllerConfig { admin_deadline_ns: 8_000 * MS, ..config() },
    );
    let failed = rig.run(rig.ns().read(Lba(0), rig.filled(512, 1))).expect_err("lost");
    assert_eq!(failed.error, IoError::Reset(ResetReason::Stuck { queue: QueueId(1) }));
    assert!(failed.buf.is_some(), "RDY = 0 was seen");
    drop(failed);
    let stats = rig.controller.stats();
    assert_eq!((stats.aborts, stats.queue_resets, stats.resets), (1, 0, 1));
    rig.until(|c| c.state() == ControllerState::Ready);
    rig.finish();
}

#[test]
fn nothing_is_posted_once_a_shutdown_was_asked_for() {
    let mut m = model();
    m.abort = AbortPolicy::Refuse;
    m.shutdown_delay_ns = 20 * MS;
    let rig = quick(m, queues(2));
    let raw = rig.controller.take_raw_queue(1, 1, &bump()).expect("a queue");
    let target = rig.ns().target().expect("usable");
    raw.adopt(rig.filled(512, 0)).expect("room");
    raw.submit_read(&target, Lba(0), 1, 0, 0).expect("ready");
    raw.ring();
    rig.controller.request_shutdown();
    rig.until(|c| c.state() == ControllerState::ShuttingDown);
    let rings = raw.stats().sq_doorbells;
    let mut tried = 0_u32;
    rig.until(|c| {
        // The holder goes on as long as it may.
        raw.reap(8, |_, _| {});
        assert_eq!(raw.submit_read(&target, Lba(0), 1, 0, 1), Err(IoError::NotReady));
        raw.ring();
        tried += 1;
        c.state() == ControllerState::Off
    });
    assert!(tried > 5);
    assert_eq!(raw.stats().sq_doorbells, rings);
    drop(raw);
    rig.assert_no_leak();
    rig.assert_no_mistakes();
}

// ---- namespaces that change ----------------------------------------------------------------

#[test]
fn what_was_checked_before_a_reset_is_not_posted_to_another_shape_after_it() {
    // Descriptors, Identify Namespace, the rest of the list; then, after the reset, descriptors
    // again, and Identify Namespace fails.
    let internal = FaultAction::Status(StatusCode::INTERNAL_ERROR.do_not_retry());
    let rule = FaultRule::admin(AdminOpcode::IDENTIFY, internal).nsid(1).when(When::Nth(5));
    let mut m = with_rules([rule]);
    m.namespaces.push(NamespaceConfig::memory(7, 4096).lba_bytes(512));
    m.latency = LatencyModel::FixedNs(50 * MS);
    let rig = quick(m, queues(2));
    let raw = rig.controller.take_raw_queue(1, 1, &bump()).expect("a queue");
    raw.adopt(rig.filled(512, 0)).expect("room");
    let ns = rig.ns();
    let old = ns.target().expect("usable");
    let running: Vec<_> = (0..9).map(|i| ns.read(Lba(i), rig.filled(512, 1))).collect();
    let waiting = ns.read(Lba(4000), rig.filled(512, 1));
    passes(&rig, 4);
    rig.controller.request_reset();
    for read in running {
        assert!(rig.run(read).is_err(), "lost");
    }
    let failed = rig.run(waiting).expect_err("another shape, for all we know");
    assert_eq!(failed.error, IoError::NamespaceChanged(Nsid(1)));
    assert!(failed.buf.is_some());
    let changed = Err(IoError::NamespaceChanged(Nsid(1)));
    assert_eq!(raw.submit_read(&old, Lba(4000), 1, 0, 0), changed);
    assert_eq!(rig.controller.queue_stats(0).map(|s| s.submitted), Some(9));
    // The other one is not touched.
    let other = rig.controller.namespace(Nsid(7)).expect("usable");
    drop(rig.run(other.read(Lba(4000), rig.filled(512, 1))).expect("whole"));
    assert_eq!(rig.controller.stats().namespaces_refused, 1);
    drop((failed, raw));
    rig.finish();
}

#[test]
fn an_identify_that_fails_refuses_its_namespace_alone() {
    let status = StatusCode::INTERNAL_ERROR.do_not_retry();
    let fault = FaultAction::Status(status);
    // Its descriptors, then itself.
    for nth in [1, 2] {
        let rule = FaultRule::admin(AdminOpcode::IDENTIFY, fault).nsid(2).when(When::Nth(nth));
        an_identify_fails(with_rules([rule]), status.code());
    }
}

fn an_identify_fails(mut m: ModelConfig, code: StatusCode) {
    m.namespaces.push(NamespaceConfig::memory(2, 64));
    m.namespaces.push(NamespaceConfig::memory(9, 64));
    let rig = quick(m, config());
    let found: Vec<_> =
        rig.controller.all_namespaces().map(|n| (n.nsid().0, n.refusal().is_none())).collect();
    assert_eq!(found, [(1, true), (2, false), (9, true)]);
    let refusal = rig.controller.all_namespaces().find_map(nvme_driver::Namespace::refusal);
    let Some(Refusal::Unidentified(said)) = refusal else { panic!("{refusal:?}") };
    assert_eq!(said.code(), code);
    // Seen again after a reset, each in its place.
    rig.controller.request_reset();
    rig.until(|c| c.stats().resets == 1 && c.state() == ControllerState::Ready);
    assert!(rig.controller.all_namespaces().all(|n| n.refusal().is_none()));
    rig.finish();
}

#[test]
fn a_controller_without_descriptors_has_the_nvm_command_set() {
    for code in [StatusCode::INVALID_FIELD, StatusCode::INVALID_OPCODE] {
        let fault = FaultAction::Status(code.do_not_retry());
        let rule = FaultRule::admin(AdminOpcode::IDENTIFY, fault).nsid(1).when(When::Nth(1));
        let rig = quick(with_rules([rule]), config());
        assert_eq!(rig.controller.namespaces().count(), 1, "{code:?}");
        rig.finish();
    }
}

#[test]
fn a_list_that_fails_is_not_replaced_by_counting_unless_it_is_unknown() {
    for (code, attempts) in [(StatusCode::INVALID_FIELD, 0), (StatusCode::INTERNAL_ERROR, 1)] {
        let fault = FaultAction::Status(code.do_not_retry());
        // The list from 0 is the only one that asks with NSID 0 after Identify Controller.
        let rule = FaultRule::admin(AdminOpcode::IDENTIFY, fault).nsid(0).when(When::Nth(2));
        let rig = quick(with_rules([rule]), config());
        assert_eq!(rig.controller.stats().bringup_failures, attempts, "{code:?}");
        assert_eq!(rig.controller.namespaces().count(), 1);
        rig.finish();
    }
}

#[test]
fn the_last_identifier_ends_the_list_and_those_without_a_place_are_counted() {
    let mut m = model();
    let more = [5, 6, 7, 0xFFFF_FFFE].map(|nsid| NamespaceConfig::memory(nsid, 64));
    m.namespaces.extend(more);
    let rig = quick(m.clone(), config());
    let found: Vec<_> = rig.controller.namespaces().map(|n| n.nsid().0).collect();
    assert_eq!(found, [1, 5, 6, 7, 0xFFFF_FFFE]);
    assert_eq!(rig.controller.stats().bringup_failures, 0);
    rig.finish();
    let rig = quick(m, ControllerConfig { max_namespaces: 2, ..config() });
    let found: Vec<_> = rig.controller.namespaces().map(|n| n.nsid().0).collect();
    assert_eq!((found, rig.controller.stats().namespaces_beyond), (vec![1, 5], 3));
    rig.finish();
}
