//! What a bad host does to doorbells and memory at the wrong time, and who is to blame after a
//! fault.

mod host;

use host::{Host, PAGE, Pair, config};
use nvme_model::{
    ControllerFault, CqeFault, DoorbellKind, FaultAction, FaultPlan, FaultRule, HostMistake,
    LatencyModel, ModelConfig, When,
};
use nvme_spec::registers::{Cc, Register, Shn};
use nvme_spec::{Cid, NvmOpcode, QueueId, Sqe, StatusCode};

const QID: QueueId = QueueId(1);

/// Commands take long, and so does the way to RDY = 0.
fn slow() -> ModelConfig {
    ModelConfig {
        paranoid: true,
        latency: LatencyModel::FixedNs(1_000),
        not_ready_delay_ns: 100,
        shutdown_delay_ns: 100,
        ..config()
    }
}

fn ready(config: ModelConfig) -> (Host, Pair) {
    let mut host = Host::on(config);
    let pair = host.pair(1, 8);
    (host, pair)
}

fn read(host: &mut Host, at: usize) -> Sqe {
    host.io(NvmOpcode::READ, 1, 0, 1, Host::iova(at), 0)
}

/// Sends a read to a page of its own.
fn send(host: &mut Host, pair: &mut Pair) -> Sqe {
    let at = host.alloc(PAGE);
    let sqe = read(host, at);
    host.post(pair, sqe);
    host.ring_sq(pair.qid, pair.tail);
    host.step();
    sqe
}

/// Goes once around the queue and some entries further.
fn wrap(host: &mut Host, pair: &mut Pair) {
    for _ in 0..10 {
        send(host, pair);
        host.now_ns += 10_000;
        assert_eq!(host.drain(pair).len(), 1);
    }
    assert_eq!(host.model.mistakes(), []);
}

fn not_ready(kind: DoorbellKind, value: u32) -> HostMistake {
    HostMistake::DoorbellWhileNotReady { kind, qid: QID, value }
}

#[test]
fn doorbells_between_en_0_and_rdy_0_are_mistakes() {
    for (cq, kind) in [(false, DoorbellKind::SqTail), (true, DoorbellKind::CqHead)] {
        for look_before in [false, true] {
            let (mut host, mut pair) = ready(slow());
            send(&mut host, &mut pair);
            host.disable();
            if cq {
                host.ring_cq(1, 1)
            } else {
                host.ring_sq(1, 2)
            };
            if look_before {
                host.step();
            }
            host.now_ns += 200;
            host.step();
            assert!(!host.csts().rdy());
            let value = if cq { 1 } else { 2 };
            assert_eq!(host.model.take_mistakes(), [not_ready(kind, value)]);
            host.enable();
            host.model.assert_no_mistakes();
        }
    }
}

#[test]
fn doorbells_before_en_0_are_none_even_if_nobody_looked_at_them() {
    let (host, mut pair) = ready(slow());
    let mut host = host;
    let sqe = read(&mut host, 8 * PAGE);
    host.post(&mut pair, sqe);
    host.ring_sq(1, pair.tail);
    host.disable();
    host.now_ns += 200;
    host.step();
    assert!(!host.csts().rdy());
    host.model.assert_no_mistakes();
}

#[test]
fn sending_commands_after_shn_is_a_mistake_and_releasing_completions_is_none() {
    for complete in [false, true] {
        let (mut host, mut pair) = ready(slow());
        send(&mut host, &mut pair);
        host.now_ns += 2_000;
        host.step();
        host.shut_down(Shn::Normal);
        if complete {
            host.now_ns += 200;
            host.step();
        }
        host.ring_cq(1, 1);
        host.step();
        host.model.assert_no_mistakes();
        host.ring_sq(1, 3);
        host.disable();
        assert_eq!(host.model.take_mistakes(), [not_ready(DoorbellKind::SqTail, 3)]);
    }
}

#[test]
fn a_reset_wipes_no_evidence_of_doorbells_of_missing_queues() {
    for shutdown in [false, true] {
        let (mut host, _) = ready(slow());
        for qid in [2, 40, 64] {
            host.ring_cq(qid, 7);
        }
        if shutdown {
            host.shut_down(Shn::Abrupt);
        }
        host.disable();
        let missing = |qid| HostMistake::DoorbellMissingQueue {
            kind: DoorbellKind::CqHead,
            qid: QueueId(qid),
            value: 7,
        };
        assert_eq!(host.model.take_mistakes(), [missing(2), missing(40), missing(64)]);
    }
}

#[test]
fn a_doorbell_before_its_queue_is_made_is_a_mistake() {
    let mut host = Host::on(slow());
    host.ring_sq(1, 3);
    host.pair(1, 8);
    let kind = DoorbellKind::SqTail;
    let missing = HostMistake::DoorbellMissingQueue { kind, qid: QID, value: 3 };
    assert_eq!(host.model.take_mistakes(), [missing]);
    let mut host = Host::off(ModelConfig { ready_delay_ns: 100, ..config() });
    host.enable();
    host.ring_sq(0, 1);
    host.now_ns = 200;
    host.step();
    assert!(host.csts().rdy());
    let early = HostMistake::DoorbellWhileNotReady { kind, qid: QueueId(0), value: 1 };
    assert_eq!(host.model.take_mistakes(), [early]);
}

#[test]
fn a_host_that_does_not_know_of_a_reset_yet_may_ring() {
    let (mut host, pair) = ready(slow());
    host.model.inject(ControllerFault::SubsystemReset);
    host.ring_sq(1, pair.tail + 1);
    host.step();
    host.write32(Cc::OFFSET, 0);
    host.step();
    host.model.assert_no_mistakes();
    host.ring_sq(1, pair.tail + 2);
    host.step();
    assert_eq!(host.model.take_mistakes(), [not_ready(DoorbellKind::SqTail, 2)]);
}

#[test]
fn submission_memory_that_is_zeroed_or_reused_is_noticed_when_the_queue_ends() {
    type Spoil = fn(&Host, &Pair);
    let zeroed: Spoil = |host, pair| host.memory.fill(pair.sq_at, 8 * 64, 0).expect("inside");
    let behind: Spoil = |host, pair| {
        let last = (pair.tail + 7) % 8;
        host.put(pair.sq_at + last as usize * 64 + 20, b"somebody's");
    };
    let gap: Spoil = |host, pair| {
        let after = (pair.tail + 1) % 8;
        host.put(pair.sq_at + after as usize * 64, b"x");
    };
    for spoil in [zeroed, behind, gap] {
        for by_reset in [false, true] {
            let (mut host, mut pair) = ready(slow());
            wrap(&mut host, &mut pair);
            if by_reset {
                host.disable();
                spoil(&host, &pair);
                host.now_ns += 200;
                host.step();
                assert!(!host.csts().rdy());
            } else {
                spoil(&host, &pair);
                let cid = host.cid();
                assert_eq!(host.admin_code(Sqe::delete_sq(cid, QID)), StatusCode::SUCCESS);
            }
            let mistakes = host.model.take_mistakes();
            assert!(
                matches!(mistakes[..], [HostMistake::SqOverwritten { qid: QID, .. }]),
                "{mistakes:?}"
            );
        }
    }
}

#[test]
fn submission_memory_that_is_spoilt_is_noticed_once_a_lap() {
    let (mut host, mut pair) = ready(slow());
    wrap(&mut host, &mut pair);
    let mut go_on_to = |host: &mut Host, tail| {
        while pair.tail != tail {
            send(host, &mut pair);
            host.now_ns += 10_000;
            host.drain(&mut pair);
        }
        pair.sq_at
    };
    let sq_at = go_on_to(&mut host, 5);
    host.put(sq_at + 3 * 64, b"spoilt");
    go_on_to(&mut host, 7);
    assert_eq!(host.model.mistake_count(), 0);
    go_on_to(&mut host, 1);
    let spoilt = HostMistake::SqOverwritten { qid: QID, index: 3 };
    assert_eq!(host.model.take_mistakes(), [spoilt]);
}

#[test]
fn entries_that_wait_for_their_doorbell_are_no_mistake() {
    let (mut host, mut pair) = ready(slow());
    wrap(&mut host, &mut pair);
    for _ in 0..7 {
        let at = host.alloc(PAGE);
        let sqe = read(&mut host, at);
        host.post(&mut pair, sqe);
    }
    host.model.assert_no_mistakes();
    let cid = host.cid();
    assert_eq!(host.admin_code(Sqe::delete_sq(cid, QID)), StatusCode::SUCCESS);
    host.model.assert_no_mistakes();
}

#[test]
fn an_entry_that_changes_after_its_doorbell_is_noticed() {
    let (mut host, mut pair) = ready(ModelConfig { burst: 1, ..slow() });
    for _ in 0..3 {
        let at = host.alloc(PAGE);
        let sqe = read(&mut host, at);
        host.post(&mut pair, sqe);
    }
    host.ring_sq(1, pair.tail);
    host.step();
    host.put(pair.sq_at + 2 * 64 + 40, &[9]);
    host.step();
    host.step();
    let changed = HostMistake::SqOverwritten { qid: QID, index: 2 };
    assert_eq!(host.model.take_mistakes(), [changed]);
}

#[test]
fn completion_memory_that_is_reused_before_rdy_0_is_noticed() {
    let (mut host, mut pair) = ready(slow());
    wrap(&mut host, &mut pair);
    host.disable();
    host.memory.fill(pair.cq_at, 8 * 16, 0).expect("inside");
    host.now_ns += 200;
    host.step();
    let overwritten = HostMistake::CqOverwritten { qid: QID, index: 0 };
    assert_eq!(host.model.take_mistakes(), [overwritten]);
}

#[test]
fn queue_memory_for_another_queue_or_a_command_is_a_mistake() {
    let (mut host, mut pair) = ready(slow());
    let (sq_at, cq_at) = (pair.sq_at, pair.cq_at);
    for at in [sq_at, cq_at] {
        let sqe = host.create_cq_sqe(2, 8, at);
        host.admin_code(sqe);
        let shared = HostMistake::QueueMemoryShared { qid: QID, with: QueueId(2), cid: None };
        assert_eq!(host.model.take_mistakes(), [shared]);
        let cid = host.cid();
        host.admin_code(Sqe::delete_cq(cid, QueueId(2)));
    }
    let sqe = host.io(NvmOpcode::WRITE, 1, 0, 1, Host::iova(sq_at), 0);
    host.post(&mut pair, sqe);
    host.ring_sq(1, pair.tail);
    host.step();
    let cid = Some(sqe.cid());
    let shared = HostMistake::QueueMemoryShared { qid: QID, with: QID, cid };
    assert_eq!(host.model.take_mistakes(), [shared]);
}

/// A read of four pages with a list; gives the list's place and the data's.
fn listed(host: &mut Host, pair: &mut Pair) -> (Sqe, usize, usize) {
    let (list, data) = (host.alloc(PAGE), host.alloc(4 * PAGE));
    for page in 1..4 {
        host.put(list + (page - 1) * 8, &Host::iova(data + page * PAGE).to_le_bytes());
    }
    let sqe = host.io(NvmOpcode::READ, 1, 0, 4, Host::iova(data), Host::iova(list));
    host.post(pair, sqe);
    host.ring_sq(1, pair.tail);
    host.step();
    assert_eq!(host.model.mistakes(), []);
    (sqe, list, data)
}

#[test]
fn a_list_that_is_reused_in_flight_is_noticed_at_the_commands_end_or_the_resets() {
    for by_reset in [false, true] {
        let (mut host, mut pair) = ready(slow());
        let (sqe, list, data) = listed(&mut host, &mut pair);
        host.put(list + 8, &Host::iova(data).to_le_bytes());
        if by_reset {
            host.disable();
        }
        host.now_ns += 2_000;
        host.step();
        let changed = HostMistake::PrpsChanged { sqid: QID, cid: sqe.cid() };
        assert_eq!(host.model.take_mistakes(), [changed]);
    }
}

#[test]
fn every_page_of_a_command_counts_for_sharing_its_list_included() {
    for (offset, shares) in [(0, true), (3 * PAGE + 4092, true), (4 * PAGE, false)] {
        let (mut host, mut pair) = ready(slow());
        let (sqe, _, data) = listed(&mut host, &mut pair);
        let write = host.io(NvmOpcode::WRITE, 3, 0, 1, Host::iova(data + offset), 0);
        host.post(&mut pair, write);
        host.ring_sq(1, pair.tail);
        host.step();
        let shared = HostMistake::BufferShared {
            sqid: QID,
            first: sqe.cid(),
            second: write.cid(),
            iova: Host::iova(data + offset),
        };
        let expected = if shares { vec![shared] } else { vec![] };
        assert_eq!(host.model.take_mistakes(), expected, "offset {offset}");
    }
    for (op, shares) in [(NvmOpcode::READ, true), (NvmOpcode::WRITE, false)] {
        let (mut host, mut pair) = ready(slow());
        let (_, list, _) = listed(&mut host, &mut pair);
        let over_list = host.io(op, 1, 0, 1, Host::iova(list), 0);
        host.post(&mut pair, over_list);
        host.ring_sq(1, pair.tail);
        host.step();
        assert_eq!(host.model.take_mistakes().len(), usize::from(shares), "{op:?}");
    }
}

#[test]
fn a_host_is_not_blamed_for_an_overrun_that_a_fault_made() {
    for fault in [CqeFault::Overrun, CqeFault::Twice] {
        let rule = FaultRule::io(NvmOpcode::READ, FaultAction::Cqe(fault)).when(When::Always);
        let (mut host, _) =
            ready(ModelConfig { faults: FaultPlan::none().with(rule), paranoid: true, ..config() });
        // More commands than completions fit: two queues that share a completion queue.
        let (sq2, at) = (host.alloc(PAGE), host.alloc(20 * PAGE));
        let sqe = host.create_sq_sqe(2, 16, 1, sq2);
        assert_eq!(host.admin_code(sqe), StatusCode::SUCCESS);
        let mut pair =
            Pair { qid: 2, entries: 16, sq_at: sq2, cq_at: 0, tail: 0, head: 0, phase: true };
        for n in 0..10 {
            let sqe = read(&mut host, at + n * PAGE);
            host.post(&mut pair, sqe);
            host.ring_sq(2, pair.tail);
            host.step();
        }
        assert!(host.model.stats().completions > 8);
        // It believes what it sees.
        for head in [3, 7, 2] {
            host.ring_cq(1, head);
            host.step();
        }
        host.model.assert_no_mistakes();
    }
}

#[test]
fn a_host_that_was_told_of_a_completion_may_use_the_command_again() {
    let extra = FaultAction::Cqe(CqeFault::Extra(3));
    let rule = FaultRule::io(NvmOpcode::WRITE, extra);
    let (mut host, mut pair) =
        ready(ModelConfig { faults: FaultPlan::none().with(rule), ..slow() });
    let at = host.alloc(2 * PAGE);
    let mut slow_read = read(&mut host, at).with_cid(Cid(4));
    host.post(&mut pair, slow_read);
    let write = host.io(NvmOpcode::WRITE, 1, 9, 1, Host::iova(at + PAGE), 0).with_cid(Cid(7));
    host.model.reconfigure(|c| c.latency = LatencyModel::FixedNs(50_000));
    host.ring_sq(1, pair.tail);
    host.step();
    host.model.reconfigure(|c| c.latency = LatencyModel::FixedNs(10));
    host.post(&mut pair, write);
    host.ring_sq(1, pair.tail);
    host.step();
    host.now_ns += 20;
    let told: Vec<_> = host.drain(&mut pair).iter().map(|cqe| cqe.cid()).collect();
    assert_eq!(told, [Cid(4), Cid(7)]);
    slow_read = slow_read.with_prps(Host::iova(at), 0);
    host.post(&mut pair, slow_read);
    host.ring_sq(1, pair.tail);
    host.step();
    host.model.assert_no_mistakes();
}
