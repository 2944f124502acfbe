//! Every rule of the checker, broken on purpose by a bad host.

mod host;

use host::{BASE, Host, MEMORY, PAGE, Pair, config};
use nvme_model::{DoorbellKind, HostMistake, LatencyModel, ModelConfig};
use nvme_spec::{
    AdminOpcode, AsyncEvent, Cdw12Io, Cid, DsmAttributes, DsmRange, Lba, Nsid, NvmOpcode, QueueId,
    Sqe, SqeFlags, StatusCode,
};
use zerocopy::IntoBytes;

const QID: QueueId = QueueId(1);

fn ready() -> (Host, Pair) {
    let mut host = Host::on(config());
    let pair = host.pair(1, 8);
    (host, pair)
}

/// Runs a command that is a mistake: its status and the mistakes.
fn wrong(sqe: impl Fn(&mut Host) -> Sqe) -> (StatusCode, Vec<HostMistake>) {
    let (mut host, mut pair) = ready();
    let sqe = sqe(&mut host).with_cid(Cid(0x77));
    let status = host.run(&mut pair, sqe).status();
    if !status.is_success() {
        assert!(status.dnr(), "a mistake will not go away by itself");
    }
    (status.code(), host.model.take_mistakes())
}

#[test]
fn doorbells_beyond_the_queue_stop_it_and_raise_an_event() {
    for cq in [false, true] {
        let (mut host, mut pair) = ready();
        let mut admin = host.admin.clone();
        let cid = host.cid();
        host.post(&mut admin, Sqe::async_event_request(cid));
        host.ring_sq(0, admin.tail);
        let kind = if cq { DoorbellKind::CqHead } else { DoorbellKind::SqTail };
        if cq {
            host.ring_cq(1, 8);
        } else {
            host.ring_sq(1, 8);
        }
        let events = host.drain(&mut admin);
        assert_eq!(events[0].result(), AsyncEvent::INVALID_DOORBELL_VALUE.0);
        let range = HostMistake::DoorbellRange { kind, qid: QID, value: 8, entries: 8 };
        assert_eq!(host.model.take_mistakes(), [range]);
        // The other doorbell still works, the bad one is not looked at again.
        host.ring_sq(1, 0);
        host.ring_cq(1, 0);
        assert!(host.drain(&mut pair).is_empty());
        host.model.assert_no_mistakes();
    }
}

#[test]
fn a_tail_that_passes_the_head_is_an_overrun() {
    let mut host = Host::on(ModelConfig { burst: 1, ..config() });
    let mut pair = host.pair(1, 8);
    let at = host.alloc(PAGE);
    for _ in 0..5 {
        let sqe = host.io(NvmOpcode::READ, 1, 0, 1, Host::iova(at), 0);
        host.post(&mut pair, sqe);
    }
    host.ring_sq(1, 5);
    host.step();
    // One was fetched: seven slots may be used, four are; a step of four leaves no gap.
    host.ring_sq(1, 1);
    host.step();
    let overrun = HostMistake::SqOverrun { qid: QID, old: 5, value: 1, head: 1 };
    assert_eq!(host.model.take_mistakes(), [overrun]);
}

#[test]
fn a_head_that_passes_what_was_posted_is_a_mistake() {
    let (mut host, mut pair) = ready();
    let at = host.alloc(PAGE);
    let sqe = host.io(NvmOpcode::READ, 1, 0, 1, Host::iova(at), 0);
    host.run(&mut pair, sqe);
    host.ring_cq(1, 2);
    host.step();
    let beyond = HostMistake::CqHeadBeyondTail { qid: QID, old: 1, value: 2, tail: 1 };
    assert_eq!(host.model.take_mistakes(), [beyond]);
}

#[test]
fn a_full_completion_queue_holds_commands_back_without_loss() {
    for latency in [LatencyModel::None, LatencyModel::FixedNs(0)] {
        let mut host = Host::on(ModelConfig { latency, ..config() });
        let mut pair = host.pair(1, 4);
        let at = host.alloc(PAGE);
        let mut seen = 0;
        for _ in 0..2 {
            for _ in 0..3 {
                let sqe = host.io(NvmOpcode::READ, 1, 0, 1, Host::iova(at), 0);
                host.post(&mut pair, sqe);
            }
            host.ring_sq(1, pair.tail);
            for _ in 0..3 {
                host.step();
            }
            while host.reap(&mut pair).is_some() {
                seen += 1;
            }
        }
        assert_eq!(seen, 3, "the head was not moved, so three fit");
        assert!(host.model.stats().cq_full > 0);
        host.ring_cq(1, pair.head);
        assert_eq!(host.drain(&mut pair).len(), 3);
        host.model.assert_no_mistakes();
    }
}

#[test]
fn a_cid_in_flight_may_not_be_used_again() {
    let mut host = Host::on(ModelConfig { latency: LatencyModel::FixedNs(100), ..config() });
    let mut pair = host.pair(1, 8);
    let at = host.alloc(2 * PAGE);
    for n in 0..2 {
        let sqe = host.io(NvmOpcode::READ, 1, 0, 1, Host::iova(at + n * PAGE), 0);
        host.post(&mut pair, sqe.with_cid(Cid(9)));
    }
    host.ring_sq(1, pair.tail);
    host.step();
    let reused = HostMistake::CidInFlight { sqid: QID, cid: Cid(9) };
    assert_eq!(host.model.take_mistakes(), [reused]);
    host.now_ns = 200;
    assert_eq!(host.drain(&mut pair).len(), 2);
    // Once completed, it is free.
    let sqe = host.io(NvmOpcode::READ, 1, 0, 1, Host::iova(at), 0).with_cid(Cid(9));
    host.post(&mut pair, sqe);
    host.ring_sq(1, pair.tail);
    host.step();
    host.model.assert_no_mistakes();
}

#[test]
fn prps_that_break_the_rules_are_refused() {
    let read = |prp1: u64, prp2: u64, blocks| {
        wrong(move |host| host.io(NvmOpcode::READ, 1, 0, blocks, prp1, prp2))
    };
    let (sqid, cid) = (QID, Cid(0x77));
    let offset = |prp| vec![HostMistake::PrpOffset { sqid, cid, prp }];
    let invalid = StatusCode::PRP_OFFSET_INVALID;
    assert_eq!(read(BASE + 0x8002, 0, 1), (invalid, offset(BASE + 0x8002)));
    assert_eq!(read(BASE + 0x8000, BASE + 0x9200, 2), (invalid, offset(BASE + 0x9200)));
    assert_eq!(read(BASE + 0x8000, BASE + 0x9004, 3), (invalid, offset(BASE + 0x9004)));
    let unmapped = |iova, len| vec![HostMistake::PrpUnmapped { sqid, cid, iova, len }];
    let failed = StatusCode::DATA_TRANSFER_ERROR;
    let end = BASE + MEMORY as u64;
    assert_eq!(read(end, 0, 1), (failed, unmapped(end, PAGE)));
    assert_eq!(read(BASE - 4096, 0, 1), (failed, unmapped(BASE - 4096, PAGE)));
    assert_eq!(read(0, 0, 1), (failed, unmapped(0, PAGE)));
    assert_eq!(read(u64::MAX - 3, 0, 1).0, failed);
    assert_eq!(read(BASE + 0x8000, end, 2), (failed, unmapped(end, PAGE)));
    assert_eq!(read(BASE + 0x8000, end - 8, 4).0, failed, "the list runs out of the memory");
}

#[test]
fn wrong_namespaces_blocks_and_lengths_are_refused() {
    let (sqid, cid) = (QID, Cid(0x77));
    let io = |nsid, slba, blocks| {
        wrong(move |host| host.io(NvmOpcode::WRITE, nsid, slba, blocks, BASE + 0x8000, 0))
    };
    // Namespaces 1 and 3 are there: 2 is a valid identifier, only inactive.
    let (invalid, inactive) = (StatusCode::INVALID_NAMESPACE, StatusCode::INVALID_FIELD);
    // All of them are no namespace for these commands, and not invalid either.
    for (nsid, code) in [(0, invalid), (2, inactive), (4, invalid), (u32::MAX, inactive)] {
        let namespace = HostMistake::Namespace { sqid, cid, nsid: Nsid(nsid) };
        assert_eq!(io(nsid, 0, 1), (code, vec![namespace]));
    }
    for (slba, blocks) in [(64, 1), (63, 2), (u64::MAX, 1), (u64::MAX - 1, 65_536), (0, 65)] {
        let range = HostMistake::LbaRange { sqid, cid, slba, blocks: u64::from(blocks), limit: 64 };
        assert_eq!(io(1, slba, blocks), (StatusCode::LBA_OUT_OF_RANGE, vec![range]));
    }
    let (bytes, limit) = (33 * 4096, 32 * 4096);
    let mdts = HostMistake::Mdts { sqid, cid, bytes, limit };
    assert_eq!(io(1, 0, 33), (StatusCode::INVALID_FIELD, vec![mdts]));
    let flush = wrong(|host| Sqe::flush(host.cid(), Nsid(9)));
    assert_eq!(flush.0, StatusCode::INVALID_NAMESPACE);
    let dsm = wrong(|host| {
        let at = host.alloc(PAGE);
        host.put(at, DsmRange { attributes: 0, blocks: 2, slba: 63 }.as_bytes());
        let cid = host.cid();
        Sqe::dsm(cid, Nsid(1), 0, DsmAttributes::DEALLOCATE).with_prps(Host::iova(at), 0)
    });
    let range = HostMistake::LbaRange { sqid, cid, slba: 63, blocks: 2, limit: 64 };
    assert_eq!(dsm, (StatusCode::LBA_OUT_OF_RANGE, vec![range]));
}

#[test]
fn reserved_fields_are_noticed() {
    let (sqid, cid) = (QID, Cid(0x77));
    let read = |change: fn(Sqe) -> Sqe| {
        wrong(move |host| change(host.io(NvmOpcode::READ, 1, 0, 1, BASE + 0x8000, 0)))
    };
    let reserved = |dword, value| vec![HostMistake::CommandReserved { sqid, cid, dword, value }];
    let sgl = read(|sqe| sqe.with_flags(SqeFlags::SGL));
    assert_eq!(sgl, (StatusCode::INVALID_FIELD, reserved(0, 0x0077_4002)));
    let fused = read(|sqe| sqe.with_flags(SqeFlags::FUSED_FIRST));
    assert_eq!(fused, (StatusCode::ABORTED_MISSING_FUSED, reserved(0, 0x0077_0102)));
    // The others do no harm, so the command is carried out.
    let ok = StatusCode::SUCCESS;
    let dw2 = read(|mut sqe| {
        sqe.0[1] = 5;
        sqe
    });
    assert_eq!(dw2, (ok, reserved(2, 5)));
    let prinfo = Cdw12Io::PRACT.bits();
    let dw12 = read(|sqe| sqe.with_cdw(12, Cdw12Io::PRACT.bits()));
    assert_eq!(dw12, (ok, reserved(12, prinfo)));
    assert_eq!(read(|sqe| sqe.with_cdw(13, 0x100)), (ok, reserved(13, 0x100)));
    assert_eq!(read(|sqe| sqe.with_cdw(14, 1)), (ok, reserved(14, 1)));
    assert_eq!(read(|sqe| sqe.with_cdw(15, 1)), (ok, reserved(15, 1)));
    let fine = Cdw12Io::FUA | Cdw12Io::LR;
    let sqe = Sqe::io(NvmOpcode::READ, Cid(1), Nsid(1), Lba(0), 0, fine);
    assert_eq!(wrong(move |_| sqe.with_prps(BASE + 0x8000, 0)), (ok, vec![]));
}

#[test]
fn opcodes_that_do_not_exist_are_mistakes() {
    let (sqid, cid) = (QID, Cid(0x77));
    let opcode = NvmOpcode::VERIFY.0;
    let verify = wrong(|host| Sqe::new(NvmOpcode::VERIFY.0, host.cid(), Nsid(1)));
    let mistake = HostMistake::Opcode { sqid, cid, opcode };
    assert_eq!(verify, (StatusCode::INVALID_OPCODE, vec![mistake]));
    let (mut host, _) = ready();
    let cid = host.cid();
    let sqe = Sqe::admin(AdminOpcode::SANITIZE, cid, Nsid::NONE);
    assert_eq!(host.admin_code(sqe), StatusCode::INVALID_OPCODE);
    let mistake = HostMistake::Opcode { sqid: QueueId(0), cid, opcode: 0x84 };
    assert_eq!(host.model.take_mistakes(), [mistake]);
}

#[test]
fn creating_queues_wrongly_is_refused_with_the_status_of_the_specification() {
    let mut host = Host::on(ModelConfig { max_queue_entries: 64, max_io_queues: 4, ..config() });
    let at = host.alloc(4 * PAGE);
    let good_cq = host.create_cq_sqe(1, 8, at);
    let code = |host: &mut Host, sqe: Sqe| {
        let cid = host.cid();
        host.admin_code(sqe.with_cid(cid))
    };
    let bad = |host: &mut Host, sqe: Sqe, expected: StatusCode| {
        assert_eq!(code(host, sqe), expected);
        let mistakes = host.model.take_mistakes();
        assert!(matches!(mistakes[..], [HostMistake::QueueCreate { .. }]), "{mistakes:?}");
    };
    for qid in [0, 5, u16::MAX] {
        let sqe = host.create_cq_sqe(qid, 8, at);
        bad(&mut host, sqe, StatusCode::INVALID_QUEUE_ID);
    }
    for entries in [1, 65, 65_536] {
        let sqe = host.create_cq_sqe(1, entries, at);
        bad(&mut host, sqe, StatusCode::INVALID_QUEUE_SIZE);
    }
    bad(&mut host, good_cq.with_cdw(11, 0), StatusCode::INVALID_FIELD);
    let vector = good_cq.with_cdw(11, 0b11 | 9 << 16);
    bad(&mut host, vector, StatusCode::INVALID_INTERRUPT_VECTOR);
    let offset = good_cq.with_prps(Host::iova(at) + 64, 0);
    bad(&mut host, offset, StatusCode::PRP_OFFSET_INVALID);
    let unmapped = good_cq.with_prps(BASE + MEMORY as u64, 0);
    bad(&mut host, unmapped, StatusCode::INVALID_FIELD);
    let sqe = host.create_sq_sqe(1, 8, 1, at + PAGE);
    bad(&mut host, sqe, StatusCode::CQ_INVALID);
    let sqe = host.create_sq_sqe(1, 8, 0, at + PAGE);
    bad(&mut host, sqe, StatusCode::CQ_INVALID);
    assert_eq!(code(&mut host, good_cq), StatusCode::SUCCESS);
    bad(&mut host, good_cq, StatusCode::INVALID_QUEUE_ID);
    let good_sq = host.create_sq_sqe(1, 8, 1, at + PAGE);
    assert_eq!(code(&mut host, good_sq), StatusCode::SUCCESS);
    bad(&mut host, good_sq, StatusCode::INVALID_QUEUE_ID);
    for (cq, qid) in [(false, 0), (false, 2), (true, 0), (true, 2), (true, u16::MAX), (true, 1)] {
        let cid = host.cid();
        let qid = QueueId(qid);
        let sqe = if cq { Sqe::delete_cq(cid, qid) } else { Sqe::delete_sq(cid, qid) };
        assert_ne!(host.admin_code(sqe), StatusCode::SUCCESS);
        let mistakes = host.model.take_mistakes();
        assert!(matches!(mistakes[..], [HostMistake::QueueDelete { .. }]), "{mistakes:?}");
    }
}

#[test]
fn a_completion_queue_with_stale_phases_is_noticed() {
    let mut host = Host::on(config());
    let at = host.alloc(PAGE);
    host.put(at + 3 * 16 + 14, &[1]);
    let sqe = host.create_cq_sqe(1, 8, at);
    assert_eq!(host.admin_code(sqe), StatusCode::SUCCESS);
    let stale = HostMistake::CqNotZeroed { qid: QID, index: 3 };
    assert_eq!(host.model.take_mistakes(), [stale]);
}

#[test]
fn overwriting_a_live_completion_queue_is_noticed_by_the_paranoid() {
    let mut host = Host::on(ModelConfig { paranoid: true, ..config() });
    let mut pair = host.pair(1, 4);
    let at = host.alloc(PAGE);
    for _ in 0..9 {
        let sqe = host.io(NvmOpcode::READ, 1, 0, 1, Host::iova(at), 0);
        host.run(&mut pair, sqe);
    }
    assert_eq!(host.model.mistake_count(), 0);
    // The memory was given to someone else.
    host.put(pair.cq_at + pair.head as usize * 16, b"data");
    let sqe = host.io(NvmOpcode::READ, 1, 0, 1, Host::iova(at), 0);
    host.run(&mut pair, sqe);
    let overwritten = HostMistake::CqOverwritten { qid: QID, index: 1 };
    assert_eq!(host.model.take_mistakes(), [overwritten]);
}

#[test]
fn one_buffer_for_two_commands_is_noticed_by_the_paranoid() {
    let latency = LatencyModel::FixedNs(10);
    let mut host = Host::on(ModelConfig { paranoid: true, latency, ..config() });
    let mut pair = host.pair(1, 8);
    let at = host.alloc(PAGE);
    let half = Host::iova(at + 512);
    let reads = [
        host.io(NvmOpcode::READ, 3, 0, 1, Host::iova(at), 0),
        host.io(NvmOpcode::READ, 3, 0, 1, half, 0),
        host.io(NvmOpcode::WRITE, 3, 0, 2, Host::iova(at + 1024), 0),
        host.io(NvmOpcode::COMPARE, 3, 0, 2, Host::iova(at + 1024), 0),
    ];
    for sqe in reads {
        host.post(&mut pair, sqe);
    }
    host.ring_sq(1, pair.tail);
    host.step();
    assert_eq!(host.model.mistake_count(), 0);
    let late = host.io(NvmOpcode::READ, 3, 0, 3, half, 0);
    host.post(&mut pair, late);
    host.ring_sq(1, pair.tail);
    host.step();
    let mistakes = host.model.take_mistakes();
    let [HostMistake::BufferShared { second, .. }] = mistakes[..] else {
        panic!("{mistakes:?}");
    };
    assert_eq!(second, late.cid());
}

#[test]
fn unmapping_what_is_in_use_is_a_mistake_and_fatal() {
    let latency = LatencyModel::FixedNs(1_000);
    let mut host = Host::on(ModelConfig { latency, ..config() });
    let mut pair = host.pair(1, 8);
    let at = host.alloc(PAGE);
    let sqe = host.io(NvmOpcode::READ, 1, 0, 1, Host::iova(at), 0);
    host.post(&mut pair, sqe);
    host.ring_sq(1, pair.tail);
    host.step();
    assert!(host.model.unmap(core_runtime::mem::Iova(BASE + 1)).is_none());
    assert!(host.model.unmap(core_runtime::mem::Iova(BASE)).is_some());
    let mistakes = host.model.take_mistakes();
    for qid in [QueueId(0), QID] {
        assert!(mistakes.contains(&HostMistake::QueueUnmapped { qid }), "{mistakes:?}");
    }
    let flying = HostMistake::UnmappedInFlight { sqid: QID, cid: sqe.cid() };
    assert!(mistakes.contains(&flying));
    assert!(host.csts().cfs());
}

#[test]
#[should_panic(expected = "opcode 0x7f is not supported")]
fn the_assertion_names_the_mistake() {
    let (mut host, mut pair) = ready();
    let cid = host.cid();
    host.run(&mut pair, Sqe::new(0x7f, cid, Nsid(1)));
    host.model.assert_no_mistakes();
}

#[test]
fn garbage_in_every_field_of_every_command_never_stops_the_model() {
    let mut host = Host::on(ModelConfig { mdts: 0, ..config() });
    let mut seed = 42_u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut pair = host.pair(1, 64);
    for round in 0..20_000 {
        let mut sqe = Sqe::default();
        for word in &mut sqe.0 {
            *word = match next() % 4 {
                0 => next(),
                1 => next() % 64,
                2 => BASE + next() % (2 * MEMORY as u64),
                _ => 0,
            };
        }
        // Opcodes that exist, mostly; without SGL or fuse, mostly.
        sqe.0[0] = sqe.0[0] & !0xff | (next() % 16);
        if next() % 8 != 0 {
            sqe.0[0] &= !0xff00;
        }
        // Transfers do not reach queue memory: this test is about the model, not about the host.
        sqe.0[3] |= BASE + MEMORY as u64 / 2;
        if round % 2 == 0 {
            host.post(&mut pair, sqe);
            host.ring_sq(1, pair.tail);
            host.step();
            while host.reap(&mut pair).is_some() {}
            host.ring_cq(1, pair.head);
        } else if !matches!(sqe.opcode(), 0 | 1 | 4 | 5) {
            let mut admin = host.admin.clone();
            host.post(&mut admin, sqe);
            host.ring_sq(0, admin.tail);
            host.step();
            while host.reap(&mut admin).is_some() {}
            host.ring_cq(0, admin.head);
            host.admin = admin;
        }
    }
    assert!(host.model.mistake_count() > 1_000);
    assert!(host.csts().rdy() && !host.csts().cfs());
    assert!(host.model.mistakes().len() <= 1024);
}
