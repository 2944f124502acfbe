//! Every fault that the model can make, seen by a raw host.

mod host;

use host::{Host, PAGE, Pair, config};
use nvme_model::{
    AbortPolicy, ControllerFault, CqeFault, DataFault, FaultAction, FaultPlan, FaultRule,
    LatencyModel, ModelConfig, OnQueue, When,
};
use nvme_spec::{
    AdminOpcode, AsyncEvent, Cid, Cqe, FeatureId, Nsid, NvmOpcode, QueueId, Sqe, StatusCode,
};

fn with(rule: FaultRule) -> ModelConfig {
    ModelConfig { faults: FaultPlan::none().with(rule), ..config() }
}

fn on_reads(action: FaultAction) -> ModelConfig {
    with(FaultRule::io(NvmOpcode::READ, action).when(When::Nth(1)))
}

fn read(host: &mut Host, cid: u16, slba: u64, at: usize) -> Sqe {
    host.io(NvmOpcode::READ, 1, slba, 1, Host::iova(at), 0).with_cid(Cid(cid))
}

/// Sends one read, then one more; returns what was completed after each.
fn two_reads(config: ModelConfig) -> (Host, Pair, Vec<Cqe>, Vec<Cqe>) {
    let mut host = Host::on(config);
    let mut pair = host.pair(1, 8);
    let at = host.alloc(2 * PAGE);
    let mut send = |host: &mut Host, cid, at| {
        let sqe = read(host, cid, 0, at);
        host.post(&mut pair, sqe);
        host.ring_sq(1, pair.tail);
        host.drain(&mut pair)
    };
    let first = send(&mut host, 0x105, at);
    let second = send(&mut host, 0x206, at + PAGE);
    (host, pair, first, second)
}

fn cids(cqes: &[Cqe]) -> Vec<u16> {
    cqes.iter().map(|cqe| cqe.cid().0).collect()
}

#[test]
fn completions_are_spoilt_as_asked() {
    let cqe = |fault| two_reads(on_reads(FaultAction::Cqe(fault)));
    let (_, _, first, second) = cqe(CqeFault::Twice);
    assert_eq!((cids(&first), cids(&second)), (vec![0x105, 0x105], vec![0x206]));
    let (_, _, first, _) = cqe(CqeFault::WrongCid(0x100));
    assert_eq!(cids(&first), [0x005]);
    let (_, _, first, _) = cqe(CqeFault::Extra(0xff00));
    assert_eq!(cids(&first), [0xfe05, 0x105]);
    let (_, _, first, _) = cqe(CqeFault::WrongSqid(9));
    assert_eq!((cids(&first), first[0].sqid()), (vec![0x105], QueueId(9)));
    let (_, _, first, _) = cqe(CqeFault::WrongSqhd(0xfff0));
    assert_eq!((cids(&first), first[0].sqhd()), (vec![0x105], 0xfff0));
}

#[test]
fn a_phase_that_flips_early_shows_stale_content_and_then_the_right_one() {
    let action = FaultAction::Cqe(CqeFault::PhaseEarly);
    let mut host = Host::on(on_reads(action));
    let mut pair = host.pair(1, 8);
    let at = host.alloc(PAGE);
    let sqe = read(&mut host, 0x105, 0, at);
    host.post(&mut pair, sqe);
    host.ring_sq(1, pair.tail);
    host.step();
    let seen = [host.reap(&mut pair), host.reap(&mut pair), host.reap(&mut pair)];
    assert_eq!(seen.map(|cqe| cqe.map(|cqe| cqe.cid().0)), [Some(0x105), Some(0), None]);
    // The slot that was shown early is written when its turn comes.
    let sqe = read(&mut host, 0x206, 0, at);
    host.post(&mut pair, sqe);
    host.ring_sq(1, pair.tail);
    host.step();
    pair.head = 1;
    assert_eq!(host.reap(&mut pair).map(|cqe| cqe.cid()), Some(Cid(0x206)));
}

#[test]
fn a_phase_that_sticks_hides_the_entry() {
    let (_, _, first, second) = two_reads(on_reads(FaultAction::Cqe(CqeFault::PhaseStuck)));
    assert!(first.is_empty());
    // The host waits at the hidden entry for ever.
    assert!(second.is_empty());
}

#[test]
fn dwords_become_visible_in_every_order() {
    let mut orders = vec![];
    for a in 0..4_u8 {
        for b in 0..4 {
            for c in 0..4 {
                let d = 6_u8.wrapping_sub(a + b + c);
                let order = [a, b, c, d];
                let mut sorted = order;
                sorted.sort_unstable();
                if sorted == [0, 1, 2, 3] {
                    orders.push(order);
                }
            }
        }
    }
    assert_eq!(orders.len(), 24);
    for order in orders {
        let mut host = Host::on(on_reads(FaultAction::Cqe(CqeFault::Order(order))));
        let mut pair = host.pair(1, 8);
        let at = host.alloc(PAGE);
        host.memory.fill(pair.cq_at, 16, 0x6e).expect("inside");
        let sqe = read(&mut host, 0x105, 0, at);
        host.post(&mut pair, sqe);
        host.ring_sq(1, pair.tail);
        host.step();
        for (stored, dword) in order.iter().enumerate() {
            let reaped = host.reap(&mut pair.clone()).is_some();
            assert_eq!(reaped, order[..stored].contains(&3), "{order:?} after {stored}");
            host.step();
            let at = pair.cq_at + usize::from(*dword) * 4;
            assert_ne!(host.bytes(at, 4), [0x6e; 4], "{order:?}: dword {dword}");
        }
        assert_eq!(host.reap(&mut pair).map(|cqe| cqe.cid()), Some(Cid(0x105)));
    }
}

/// The entry's place is due again, in a queue of two, before its last dwords are stored.
#[test]
fn words_that_come_late_are_not_stored_over_the_next_entry() {
    let fault = on_reads(FaultAction::Cqe(CqeFault::Order([3, 2, 1, 0])));
    let mut host = Host::on(ModelConfig { paranoid: true, ..fault });
    let mut pair = host.pair(1, 2);
    let at = host.alloc(PAGE);
    let mut reaped = Vec::new();
    for cid in 1..=5 {
        let sqe = read(&mut host, cid, 0, at);
        host.post(&mut pair, sqe);
        host.ring_sq(1, pair.tail);
        host.step();
        if cid == 1 {
            // The dword with the phase.
            host.step();
        }
        reaped.extend(host.reap(&mut pair));
        host.ring_cq(1, pair.head);
    }
    assert_eq!(cids(&reaped)[1..], [2, 3, 4, 5]);
    assert_eq!(host.model.take_mistakes(), []);
}

#[test]
fn an_overrun_overwrites_entries_that_were_not_released() {
    let rule = FaultRule::io(NvmOpcode::READ, FaultAction::Cqe(CqeFault::Overrun));
    let mut host = Host::on(with(rule));
    let mut pair = host.pair(1, 4);
    let at = host.alloc(PAGE);
    for cid in 1..=6 {
        let sqe = read(&mut host, cid, 0, at);
        host.post(&mut pair, sqe);
        host.ring_sq(1, pair.tail);
        host.step();
    }
    assert_eq!(host.model.stats().completions - host.model.stats().admin, 6);
    // Entry 0 holds the fifth command with the phase of the second lap.
    assert!(host.reap(&mut pair).is_none());
}

#[test]
fn statuses_come_before_or_after_the_work() {
    let status = StatusCode::UNRECOVERED_READ_ERROR.do_not_retry();
    let rule = FaultRule::io(NvmOpcode::READ, FaultAction::Status(status)).lbas(5..=6);
    let mut host = Host::on(with(rule));
    let mut pair = host.pair(1, 8);
    let at = host.alloc(PAGE);
    for (slba, fails) in [(4, false), (5, true), (6, true), (7, false)] {
        host.put(at, &[0xee; 16]);
        let sqe = read(&mut host, 9, slba, at);
        let got = host.run(&mut pair, sqe).status();
        assert_eq!(got.code() == status.code() && got.dnr(), fails);
        let untouched = host.bytes(at, 16) == [0xee; 16];
        assert_eq!(untouched, fails);
    }
    let after = FaultAction::StatusAfter(StatusCode::WRITE_FAULT.status().with_crd(2));
    let mut host = Host::on(with(FaultRule::io(NvmOpcode::WRITE, after).when(When::First(1))));
    let mut pair = host.pair(1, 8);
    host.put(at, &[0x33; PAGE]);
    let sqe = host.io(NvmOpcode::WRITE, 1, 0, 1, Host::iova(at), 0);
    let got = host.run(&mut pair, sqe).status();
    assert_eq!((got.code(), got.crd(), got.dnr()), (StatusCode::WRITE_FAULT, 2, false));
    let mut block = [0; PAGE];
    assert!(host.model.peek_block(1, 0, &mut block));
    assert_eq!(block, [0x33; PAGE]);
    host.model.assert_no_mistakes();
}

#[test]
fn data_are_spoilt_behind_a_good_status() {
    let spoilt = |fault, op: NvmOpcode| {
        let mut host =
            Host::on(with(FaultRule::io(op, FaultAction::Data(fault)).when(When::Nth(1))));
        let mut pair = host.pair(1, 8);
        let at = host.alloc(PAGE);
        for slba in 10..13 {
            // Before the rule looks: other commands put the blocks there.
            let sqe = host.io(NvmOpcode::WRITE_ZEROES, 1, slba, 1, 0, 0);
            host.run(&mut pair, sqe);
        }
        host.put(at, &[0xee; PAGE]);
        let sqe = host.io(op, 1, 11, 1, Host::iova(at), 0);
        assert!(host.run(&mut pair, sqe).status().is_success());
        let blocks: Vec<Vec<u8>> = (10..13)
            .map(|lba| {
                let mut block = vec![0; PAGE];
                assert!(host.model.peek_block(1, lba, &mut block));
                block
            })
            .collect();
        (host.bytes(at, PAGE), blocks)
    };
    let ones = |bytes: &[u8]| bytes.iter().map(|byte| byte.count_ones()).sum::<u32>();
    let (buffer, _) = spoilt(DataFault::Nothing, NvmOpcode::READ);
    assert_eq!(buffer, [0xee; PAGE]);
    let (buffer, _) = spoilt(DataFault::Half, NvmOpcode::READ);
    assert_eq!((&buffer[..2048], &buffer[2048..]), (&[0; 2048][..], &[0xee; 2048][..]));
    let (buffer, _) = spoilt(DataFault::BitFlip, NvmOpcode::READ);
    assert_eq!(ones(&buffer), 1);
    let (_, blocks) = spoilt(DataFault::Nothing, NvmOpcode::WRITE);
    assert_eq!(ones(&blocks[1]), 0);
    let (_, blocks) = spoilt(DataFault::Half, NvmOpcode::WRITE);
    assert_eq!((ones(&blocks[1][..2048]), ones(&blocks[1][2048..])), (2048 * 6, 0));
    let (_, blocks) = spoilt(DataFault::BitFlip, NvmOpcode::WRITE);
    assert_eq!(ones(&blocks[1]).abs_diff(4096 * 6), 1);
    let (_, blocks) = spoilt(DataFault::WrongLba(-1), NvmOpcode::WRITE);
    assert_eq!((ones(&blocks[0]), ones(&blocks[1])), (4096 * 6, 0));
    let (_, blocks) = spoilt(DataFault::WrongLba(1_000_000), NvmOpcode::WRITE);
    assert_eq!((ones(&blocks[0]), ones(&blocks[1]), ones(&blocks[2])), (0, 0, 0));
}

#[test]
fn dropped_commands_stay_until_an_abort_or_a_reset() {
    for (policy, not_aborted, victim) in [
        (AbortPolicy::Honest, 0, true),
        (AbortPolicy::Refuse, 1, false),
        (AbortPolicy::Lie, 0, false),
    ] {
        let mut config = on_reads(FaultAction::Drop);
        config.abort = policy;
        let (mut host, mut pair, first, second) = two_reads(config);
        assert_eq!((cids(&first), cids(&second)), (vec![], vec![0x206]));
        assert_eq!(host.model.in_flight(), 1);
        let cid = host.cid();
        let answer = host.admin(Sqe::abort(cid, QueueId(1), Cid(0x105)));
        assert!(answer.status().is_success());
        assert_eq!(answer.result(), not_aborted, "{policy:?}");
        let cqes = host.drain(&mut pair);
        assert_eq!(cids(&cqes), if victim { vec![0x105] } else { vec![] });
        if victim {
            assert_eq!(cqes[0].status().code(), StatusCode::ABORT_REQUESTED);
        }
        let cid = host.cid();
        let answer = host.admin(Sqe::abort(cid, QueueId(1), Cid(0x206)));
        assert_eq!(answer.result(), 1, "a command that is not there is not aborted");
        host.model.assert_no_mistakes();
    }
}

#[test]
fn a_delayed_command_transfers_when_it_completes() {
    let (mut host, mut pair, first, second) = two_reads(on_reads(FaultAction::DelayNs(500)));
    assert_eq!((cids(&first), cids(&second)), (vec![], vec![0x206]));
    assert_eq!(host.model.next_due_ns(), Some(500));
    host.now_ns = 499;
    assert!(host.drain(&mut pair).is_empty());
    host.now_ns = 500;
    assert_eq!(cids(&host.drain(&mut pair)), [0x105]);
    host.model.assert_no_mistakes();
}

#[test]
fn deleting_a_queue_ends_its_commands() {
    let (mut host, mut pair, _, _) = two_reads(on_reads(FaultAction::Drop));
    let cid = host.cid();
    assert_eq!(host.admin_code(Sqe::delete_sq(cid, QueueId(1))), StatusCode::SUCCESS);
    let cqe = host.reap(&mut pair).expect("posted before the deletion");
    assert_eq!((cqe.cid(), cqe.status().code()), (Cid(0x105), StatusCode::ABORTED_SQ_DELETION));
    host.model.assert_no_mistakes();
}

#[test]
fn controller_faults_come_with_a_command() {
    let fault = |fault| two_reads(on_reads(FaultAction::Controller(fault)));
    let (mut host, _, first, second) = fault(ControllerFault::Fatal);
    assert!(host.csts().cfs() && first.is_empty() && second.is_empty());
    let (mut host, _, first, _) = fault(ControllerFault::AllOnes);
    assert!(host.read32(0) == u32::MAX && first.is_empty());
    let (mut host, _, first, _) = fault(ControllerFault::SubsystemReset);
    assert!(host.csts().nssro() && !host.csts().rdy() && first.is_empty());
    let (mut host, mut pair, first, _) = fault(ControllerFault::PauseNs(1_000));
    assert!(first.is_empty());
    host.now_ns = 1_000;
    assert_eq!(cids(&host.drain(&mut pair)), [0x105, 0x206]);
    host.model.assert_no_mistakes();
}

#[test]
fn admin_commands_fail_or_hang_as_asked() {
    let failing = FaultAction::Status(StatusCode::INTERNAL_ERROR.status());
    let rule = FaultRule::admin(AdminOpcode::CREATE_CQ, failing).when(When::Nth(2));
    let mut host = Host::on(with(rule));
    host.pair(1, 8);
    let at = host.alloc(PAGE);
    let sqe = host.create_cq_sqe(2, 8, at);
    assert_eq!(host.admin_code(sqe), StatusCode::INTERNAL_ERROR);
    host.pair(2, 8);
    host.model.reconfigure(|config| {
        let stuck = FaultRule::on(OnQueue::Admin, FaultAction::Drop);
        config.faults = FaultPlan::none().with(stuck);
    });
    let cid = host.cid();
    let mut admin = host.admin.clone();
    host.post(&mut admin, Sqe::flush(cid, Nsid(1)));
    host.ring_sq(0, admin.tail);
    assert!(host.drain(&mut admin).is_empty());
    assert_eq!(host.model.in_flight(), 1);
    host.disable();
    host.model.reconfigure(|config| config.faults = FaultPlan::none());
    host.enable();
    host.pair(1, 8);
    host.model.assert_no_mistakes();
}

#[test]
fn an_event_storm_answers_every_request_until_it_ends() {
    let mut host = Host::on(config());
    let unknown = AsyncEvent(0x00c0_7707);
    host.model.inject(ControllerFault::EventStorm(unknown, 3));
    let mut admin = host.admin.clone();
    for n in 0..5 {
        let cid = host.cid();
        host.post(&mut admin, Sqe::async_event_request(cid));
        host.ring_sq(0, admin.tail);
        let cqes = host.drain(&mut admin);
        assert_eq!(cqes.len(), usize::from(n < 3));
        assert!(cqes.iter().all(|cqe| cqe.result() == unknown.0));
    }
    // Errors are reported whatever the configuration says.
    host.model.inject(ControllerFault::Event(AsyncEvent::PERSISTENT_ERROR));
    assert_eq!(host.drain(&mut admin)[0].result(), AsyncEvent::PERSISTENT_ERROR.0);
    host.admin = admin;
    let cid = host.cid();
    let sqe = Sqe::set_feature(cid, Nsid::NONE, FeatureId::ASYNC_EVENT_CONFIG, 0);
    assert_eq!(host.admin_code(sqe), StatusCode::SUCCESS);
    host.model.assert_no_mistakes();
}

/// What a host sees of a run: names and statuses in order.
fn trace(seed: u64, out_of_order: bool) -> Vec<(u16, u16)> {
    let failing = FaultAction::Status(StatusCode::UNRECOVERED_READ_ERROR.status());
    let rule = FaultRule::io(NvmOpcode::READ, failing).when(When::PerMillion(100_000));
    let mut host = Host::on(ModelConfig {
        seed,
        out_of_order,
        latency: LatencyModel::UniformNs { min: 0, max: 20 },
        ..with(rule)
    });
    let mut pair = host.pair(1, 64);
    let at = host.alloc(64 * PAGE);
    let mut seen = vec![];
    let mut free: Vec<u16> = (0..63).collect();
    for round in 0..300_u64 {
        for _ in 0..free.len().min(7) {
            let cid = free.remove(0);
            let sqe = read(&mut host, cid, 0, at + usize::from(cid) * PAGE);
            host.post(&mut pair, sqe);
        }
        host.ring_sq(1, pair.tail);
        host.model.step(round * 5);
        while let Some(cqe) = host.reap(&mut pair) {
            free.push(cqe.cid().0);
            seen.push((cqe.cid().0, cqe.status().code().0));
        }
        host.ring_cq(1, pair.head);
    }
    host.model.assert_no_mistakes();
    seen
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    for out_of_order in [false, true] {
        let first = trace(7, out_of_order);
        assert!(first.len() > 500);
        assert_eq!(first, trace(7, out_of_order));
        assert_ne!(first, trace(8, out_of_order));
    }
    assert_ne!(trace(7, true), trace(7, false));
}

#[test]
fn out_of_order_completes_each_command_once_and_really_out_of_order() {
    let mut host = Host::on(ModelConfig { out_of_order: true, ..config() });
    let mut pair = host.pair(1, 64);
    let at = host.alloc(63 * PAGE);
    for cid in 0..63 {
        let sqe = read(&mut host, cid, 0, at + usize::from(cid) * PAGE);
        host.post(&mut pair, sqe);
    }
    host.ring_sq(1, pair.tail);
    let mut seen = cids(&host.drain(&mut pair));
    assert!(!seen.is_sorted());
    seen.sort_unstable();
    assert_eq!(seen, (0..63).collect::<Vec<u16>>());
    host.model.assert_no_mistakes();
}

#[test]
fn commands_in_flight_may_still_transfer_until_the_reset_is_done() {
    let mut host = Host::on(ModelConfig {
        latency: LatencyModel::FixedNs(1_000_000),
        not_ready_delay_ns: 100,
        ..config()
    });
    let mut pair = host.pair(1, 64);
    let at = host.alloc(32 * PAGE);
    host.memory.fill(at, 32 * PAGE, 0xee).expect("inside");
    for cid in 0..32 {
        let sqe = read(&mut host, cid, 0, at + usize::from(cid) * PAGE);
        host.post(&mut pair, sqe);
    }
    host.ring_sq(1, pair.tail);
    host.step();
    host.disable();
    assert!(host.csts().rdy());
    assert!(host.bytes(at, 32 * PAGE).iter().all(|byte| *byte == 0xee));
    host.model.step(100);
    assert!(!host.csts().rdy());
    let late = (0..32).filter(|n| host.bytes(at + n * PAGE, 1) == [0]).count();
    assert!((1..32).contains(&late), "{late} of 32 transferred late");
}
