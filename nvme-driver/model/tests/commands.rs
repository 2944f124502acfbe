//! Every command, its result and its failures, through a raw host.

mod host;

use host::{Host, PAGE, Pair, byte, config};
use nvme_model::{HostMistake, ModelConfig, NamespaceConfig, Patch};
use nvme_spec::{
    AdminOpcode, AsyncEvent, AsyncEventConfig, Cdw12Io, Cns, DsmAttributes, DsmRange,
    ErrorLogEntry, FeatureId, FeatureSelect, FirmwareSlotLog, GetLogPage, IdentifyController,
    IdentifyNamespace, Lba, LogPageId, NamespaceDescriptor, Nsid, NsidList, NumberOfQueues,
    NvmOpcode, QueueGrant, QueueId, SmartLog, Sqe, StatusCode, descriptors, fixed_text, prp,
};
use zerocopy::{FromBytes, IntoBytes};

fn identify(host: &mut Host, cns: Cns, nsid: u32) -> Result<Vec<u8>, StatusCode> {
    let at = host.alloc(PAGE);
    host.put(at, &[0xee; PAGE]);
    let cid = host.cid();
    let sqe = Sqe::identify(cid, cns, Nsid(nsid), Host::iova(at), 0);
    match host.admin_code(sqe) {
        StatusCode::SUCCESS => Ok(host.bytes(at, PAGE)),
        code => Err(code),
    }
}

#[test]
fn identify_controller_says_what_was_configured() {
    let mut host = Host::on(ModelConfig { mdts: 3, async_event_limit: 7, ..config() });
    let bytes = identify(&mut host, Cns::CONTROLLER, 0).expect("success");
    let id = IdentifyController::read_from_bytes(&bytes).expect("4096 bytes");
    assert_eq!(fixed_text(&id.sn), "MODEL0001");
    assert_eq!(id.max_transfer_bytes(4096), Some(32 * 1024));
    assert_eq!(id.async_event_limit(), 7);
    assert_eq!(id.error_log_entries(), 64);
    assert_eq!(id.nn.get(), 3);
    assert_eq!((id.sqes, id.cqes), (0x66, 0x44));
    assert_eq!(id.retry_delay_ms(2), 500);
    host.model.assert_no_mistakes();
}

#[test]
fn identify_lies_when_told_to() {
    let lie = |offset, bytes: &[u8]| Patch { offset, bytes: bytes.to_vec() };
    let mut config = config();
    config.identify_patches = vec![lie(77, &[31]), lie(4095, &[1, 2])];
    config.namespaces[0].identify_patches = vec![lie(130, &[64])];
    let mut host = Host::on(config);
    let bytes = identify(&mut host, Cns::CONTROLLER, 0).expect("success");
    assert_eq!(bytes[77], 31);
    assert_eq!(bytes[4095], 0, "a patch that leaves the structure is dropped");
    let bytes = identify(&mut host, Cns::NAMESPACE, 1).expect("success");
    let id = IdentifyNamespace::read_from_bytes(&bytes).expect("4096 bytes");
    assert_eq!(id.current_format().expect("listed").lba_bytes(), None);
}

#[test]
fn namespaces_are_listed_with_their_holes() {
    let mut host = Host::on(config());
    let list = |host: &mut Host, above| {
        let bytes = identify(host, Cns::ACTIVE_NSIDS, above)?;
        let list = NsidList::read_from_bytes(&bytes).expect("4096 bytes");
        Ok::<_, StatusCode>(list.iter().map(Nsid::get).collect::<Vec<_>>())
    };
    assert_eq!(list(&mut host, 0), Ok(vec![1, 3]));
    assert_eq!(list(&mut host, 1), Ok(vec![3]));
    assert_eq!(list(&mut host, 3), Ok(vec![]));
    for above in [u32::MAX - 1, u32::MAX] {
        assert_eq!(list(&mut host, above), Err(StatusCode::INVALID_NAMESPACE));
    }
    let ns = identify(&mut host, Cns::NAMESPACE, 3).expect("success");
    let ns = IdentifyNamespace::read_from_bytes(&ns).expect("4096 bytes");
    assert_eq!(ns.nsze.get(), 1000);
    assert_eq!(ns.current_format().expect("listed").lba_bytes(), Some(512));
    let hole = identify(&mut host, Cns::NAMESPACE, 2).expect("success");
    assert!(hole.iter().all(|byte| *byte == 0));
    for nsid in [0, 4, u32::MAX] {
        let answer = identify(&mut host, Cns::NAMESPACE, nsid);
        assert_eq!(answer, Err(StatusCode::INVALID_NAMESPACE));
    }
    let of_all = identify(&mut host, Cns::NS_DESCRIPTORS, u32::MAX);
    assert_eq!(of_all, Err(StatusCode::INVALID_NAMESPACE));
    let bytes = identify(&mut host, Cns::NS_DESCRIPTORS, 3).expect("success");
    let found: Vec<_> = descriptors(&bytes).collect();
    assert_eq!(found[1..], [NamespaceDescriptor::CommandSet(0)]);
    assert!(matches!(found[0], NamespaceDescriptor::Nguid(id) if id[15] == 3));
    let unknown = identify(&mut host, Cns(0x77), 0);
    assert_eq!(unknown, Err(StatusCode::INVALID_FIELD));
    host.model.assert_no_mistakes();
}

fn page(host: &mut Host, page: GetLogPage) -> Result<Vec<u8>, StatusCode> {
    let len = usize::try_from(page.len_bytes()).expect("small");
    let at = host.alloc(len);
    let cid = host.cid();
    let prp2 = Host::iova(at + PAGE);
    let sqe = Sqe::get_log_page(cid, Nsid::ALL, page, Host::iova(at), prp2);
    match host.admin_code(sqe) {
        StatusCode::SUCCESS => Ok(host.bytes(at, len)),
        code => Err(code),
    }
}

#[test]
fn the_error_log_has_the_newest_first_and_smart_counts() {
    let mut host = Host::on(config());
    let mut pair = host.pair(1, 8);
    let at = host.alloc(PAGE);
    for slba in [70, 80] {
        let sqe = host.io(NvmOpcode::READ, 1, slba, 1, Host::iova(at), 0);
        let status = host.run(&mut pair, sqe).status();
        assert_eq!(status.code(), StatusCode::LBA_OUT_OF_RANGE);
        assert!(status.dnr() && status.more());
    }
    for slba in 0..3 {
        let sqe = host.io(NvmOpcode::WRITE, 1, slba, 1, Host::iova(at), 0);
        assert!(host.run(&mut pair, sqe).status().is_success());
    }
    let log = page(&mut host, GetLogPage::first(LogPageId::ERROR, 192)).expect("success");
    let entry = |n: usize| ErrorLogEntry::read_from_bytes(&log[n * 64..][..64]).expect("64 bytes");
    assert_eq!(entry(0).first_lba(), Lba(80));
    assert_eq!(entry(1).first_lba(), Lba(70));
    assert_eq!(entry(0).status().code(), StatusCode::LBA_OUT_OF_RANGE);
    assert_eq!((entry(0).queue(), entry(0).namespace()), (QueueId(1), Nsid(1)));
    assert!(!entry(2).is_used());
    let smart = page(&mut host, GetLogPage::first(LogPageId::SMART, 512)).expect("success");
    let smart = SmartLog::read_from_bytes(&smart).expect("512 bytes");
    assert_eq!(smart.host_writes.get(), 3);
    assert_eq!(smart.data_units_written.get(), 1);
    assert_eq!(smart.error_log_entries.get(), 2);
    let firmware = page(&mut host, GetLogPage::first(LogPageId::FIRMWARE, 512)).expect("success");
    let firmware = FirmwareSlotLog::read_from_bytes(&firmware).expect("512 bytes");
    assert_eq!(fixed_text(&firmware.revisions[0]), "1.0");
    assert_eq!(firmware.active_slot(), 1);
    assert_eq!(host.model.take_mistakes().len(), 2);
    let unknown = page(&mut host, GetLogPage::first(LogPageId(0xc0), 512));
    assert_eq!(unknown, Err(StatusCode::INVALID_LOG_PAGE));
    // An offset into the page, and bytes beyond its end, which are zero.
    let mut part = GetLogPage::first(LogPageId::ERROR, 64);
    part.offset = 64;
    let bytes = page(&mut host, part).expect("success");
    assert_eq!(bytes[16], 80, "the refused log page is the newest entry now");
    part.offset = 64 * 64;
    assert_eq!(page(&mut host, part), Ok(vec![0; 64]), "its end is no error");
    for offset in [64 * 64 + 4, 2] {
        part.offset = offset;
        assert_eq!(page(&mut host, part), Err(StatusCode::INVALID_FIELD), "{offset}");
    }
    host.model.assert_no_mistakes();
}

#[test]
fn features_are_set_read_back_and_reset() {
    let mut host = Host::on(config());
    let set = |host: &mut Host, feature, value| {
        let cid = host.cid();
        host.admin(Sqe::set_feature(cid, Nsid::NONE, feature, value))
    };
    let get = |host: &mut Host, feature, select| {
        let cid = host.cid();
        host.admin(Sqe::get_feature(cid, Nsid::NONE, feature, select)).result()
    };
    let cache = FeatureId::VOLATILE_WRITE_CACHE;
    assert_eq!(get(&mut host, cache, FeatureSelect::Current), 1);
    assert!(set(&mut host, cache, 0).status().is_success());
    assert_eq!(get(&mut host, cache, FeatureSelect::Current), 0);
    assert_eq!(get(&mut host, cache, FeatureSelect::Default), 1);
    assert_eq!(get(&mut host, cache, FeatureSelect::Capabilities), 4);
    let queues = FeatureId::NUMBER_OF_QUEUES;
    let granted = set(&mut host, queues, NumberOfQueues::pairs(4).into()).result();
    assert_eq!(QueueGrant(granted).pairs(), 64);
    let bad = set(&mut host, queues, 0xffff).status().code();
    assert_eq!(bad, StatusCode::INVALID_FIELD);
    host.pair(1, 8);
    let late = set(&mut host, queues, 3).status().code();
    assert_eq!(late, StatusCode::SEQUENCE_ERROR);
    let unknown = set(&mut host, FeatureId(0x7d), 3).status().code();
    assert_eq!(unknown, StatusCode::INVALID_FIELD);
    let saved = set(&mut host, FeatureId(1), 0).status().code();
    assert_eq!(saved, StatusCode::SUCCESS);
    let cid = host.cid();
    let save = Sqe::set_feature(cid, Nsid::NONE, cache, 0).with_cdw(10, 6 | 1 << 31);
    assert_eq!(host.admin_code(save), StatusCode::FEATURE_NOT_SAVEABLE);
    let (invalid, inactive) = (StatusCode::INVALID_NAMESPACE, StatusCode::INVALID_FIELD);
    let scope = StatusCode::FEATURE_NOT_NAMESPACE_SPECIFIC;
    let all = (u32::MAX, StatusCode::SUCCESS);
    for (nsid, code) in [(1, scope), (2, scope), (9, invalid), all] {
        let set = Sqe::set_feature(cid, Nsid(nsid), cache, 0);
        assert_eq!(host.admin_code(set), code, "of namespace {nsid}");
    }
    for (nsid, code) in [(0, invalid), (1, StatusCode::SUCCESS), (2, inactive), (9, invalid)] {
        let feature = FeatureId::ERROR_RECOVERY;
        let get = Sqe::get_feature(cid, Nsid(nsid), feature, FeatureSelect::Current);
        assert_eq!(host.admin_code(get), code, "of namespace {nsid}");
        assert_eq!(host.admin_code(Sqe::set_feature(cid, Nsid(nsid), feature, 0)), code);
    }
    // All may be set at once, and not be asked for at once.
    let of_all = Sqe::set_feature(cid, Nsid::ALL, FeatureId::ERROR_RECOVERY, 0);
    assert_eq!(host.admin_code(of_all), StatusCode::SUCCESS);
    let feature = FeatureId::ERROR_RECOVERY;
    let of_all = Sqe::get_feature(cid, Nsid::ALL, feature, FeatureSelect::Current);
    assert_eq!(host.admin_code(of_all), invalid);
    host.disable();
    host.enable();
    assert_eq!(get(&mut host, cache, FeatureSelect::Current), 1);
    host.model.assert_no_mistakes();
}

#[test]
fn what_is_written_is_read_in_every_block_size() {
    for lba_bytes in [512, 1024, 4096, 16_384, 65_536] {
        let blocks = (1 << 20) / u64::from(lba_bytes);
        let namespace = NamespaceConfig::memory(1, blocks).lba_bytes(lba_bytes);
        let mut host = Host::on(ModelConfig { namespaces: vec![namespace], ..config() });
        let mut pair = host.pair(1, 8);
        let len = lba_bytes as usize;
        let (from, to, list) = (host.alloc(len), host.alloc(len), host.alloc(PAGE));
        let data: Vec<u8> = (0..len).map(|at| byte(at * 7)).collect();
        host.put(from, &data);
        for (op, at) in [(NvmOpcode::WRITE, from), (NvmOpcode::READ, to)] {
            let prp2 = prps(&host, at, len, list);
            let sqe = host.io(op, 1, blocks - 1, 1, Host::iova(at), prp2);
            assert!(host.run(&mut pair, sqe).status().is_success());
        }
        assert_eq!(host.bytes(to, len), data);
        host.model.assert_no_mistakes();
    }
}

/// PRP2 for `len` bytes at `at`; a list, if one is needed, goes to `list`.
fn prps(host: &Host, at: usize, len: usize, list: usize) -> u64 {
    let page = |index: usize| Host::iova(at / PAGE * PAGE + index * PAGE);
    match prp::shape(at % PAGE, len, PAGE) {
        prp::PrpShape::None | prp::PrpShape::One => 0xdead_0000_dead_0000,
        prp::PrpShape::Two => page(1),
        prp::PrpShape::List { entries } => {
            for index in 0..entries {
                let (list_page, slot) = prp::list_position(index, entries, PAGE);
                let place = list + list_page * PAGE + slot * 8;
                host.put(place, &page(index + 1).to_le_bytes());
            }
            for next in 1..prp::list_pages(entries, PAGE) {
                let link = Host::iova(list + next * PAGE);
                host.put(list + next * PAGE - 8, &link.to_le_bytes());
            }
            Host::iova(list)
        }
    }
}

#[test]
fn transfers_of_every_shape_move_every_byte() {
    let namespace = NamespaceConfig::memory(1, 8192).lba_bytes(512);
    let config = ModelConfig { namespaces: vec![namespace], mdts: 0, ..config() };
    let mut host = Host::with_memory(config, 6 << 20);
    host.enable();
    let mut pair = host.pair(1, 8);
    let (from, to) = (host.alloc(515 * PAGE), host.alloc(515 * PAGE));
    let list = host.alloc(2 * PAGE);
    let data: Vec<u8> = (0..515 * PAGE).map(|at| byte(at / 512 * 31 + at % 509)).collect();
    for pages in [1, 2, 3, 511, 512, 513, 514] {
        for offset in [0, 4, 512, 2048] {
            let len = (pages * PAGE - offset) / 512 * 512;
            host.put(from + offset, &data[..len]);
            host.memory.fill(to, 515 * PAGE, 0).expect("inside");
            let blocks = u32::try_from(len / 512).expect("small");
            for (op, at) in [(NvmOpcode::WRITE, from), (NvmOpcode::READ, to)] {
                let prp2 = prps(&host, at + offset, len, list);
                let sqe = host.io(op, 1, 3, blocks, Host::iova(at + offset), prp2);
                assert!(host.run(&mut pair, sqe).status().is_success());
            }
            let got = host.bytes(to, 515 * PAGE);
            assert!(got[offset..offset + len] == data[..len], "{pages} pages, offset {offset}");
            assert!(got[..offset].iter().all(|byte| *byte == 0), "before the buffer");
            assert!(got[offset + len..].iter().all(|byte| *byte == 0), "after the buffer");
        }
    }
    host.model.assert_no_mistakes();
}

#[test]
fn write_zeroes_deallocate_and_compare_do_what_they_say() {
    let mut host = Host::on(config());
    let mut pair = host.pair(1, 8);
    let at = host.alloc(PAGE);
    host.put(at, &[0x5a; PAGE]);
    let mut code = |host: &mut Host, sqe| host.run(&mut pair, sqe).status().code();
    for slba in 0..6 {
        let sqe = host.io(NvmOpcode::WRITE, 1, slba, 1, Host::iova(at), 0);
        assert_eq!(code(&mut host, sqe), StatusCode::SUCCESS);
    }
    let sqe = host.io(NvmOpcode::COMPARE, 1, 0, 1, Host::iova(at), 0);
    assert_eq!(code(&mut host, sqe), StatusCode::SUCCESS);
    host.put(at + 4095, &[0x5b]);
    let sqe = host.io(NvmOpcode::COMPARE, 1, 0, 1, Host::iova(at), 0);
    assert_eq!(code(&mut host, sqe), StatusCode::COMPARE_FAILURE);
    let sqe = host.io(NvmOpcode::WRITE_ZEROES, 1, 1, 2, 0, 0);
    assert_eq!(code(&mut host, sqe), StatusCode::SUCCESS);
    let ranges = [
        DsmRange { attributes: 0, blocks: 1, slba: 3 },
        DsmRange { attributes: 0, blocks: 1, slba: 5 },
    ];
    host.put(at, ranges.as_bytes());
    let dsm = |host: &mut Host, attributes| {
        let cid = host.cid();
        Sqe::dsm(cid, Nsid(1), 1, attributes).with_prps(Host::iova(at), 0)
    };
    let sqe = dsm(&mut host, DsmAttributes::INTEGRAL_READ);
    assert_eq!(code(&mut host, sqe), StatusCode::SUCCESS);
    let sqe = dsm(&mut host, DsmAttributes::DEALLOCATE);
    assert_eq!(code(&mut host, sqe), StatusCode::SUCCESS);
    let filled: Vec<bool> = (0..6)
        .map(|lba| {
            let mut block = [1; PAGE];
            assert!(host.model.peek_block(1, lba, &mut block));
            block == [0x5a; PAGE]
        })
        .collect();
    assert_eq!(filled, [true, false, false, false, true, false]);
    let cid = host.cid();
    assert_eq!(code(&mut host, Sqe::flush(cid, Nsid(1))), StatusCode::SUCCESS);
    let cid = host.cid();
    assert_eq!(code(&mut host, Sqe::flush(cid, Nsid::ALL)), StatusCode::SUCCESS);
    let stats = *host.model.stats();
    assert_eq!((stats.flushes, stats.dsm, stats.write_zeroes, stats.compares), (2, 2, 1, 2));
    host.model.assert_no_mistakes();
}

#[test]
fn metadata_travel_apart_or_behind_each_block() {
    for extended in [false, true] {
        let mut namespace = NamespaceConfig::memory(1, 32).lba_bytes(512);
        namespace.metadata_bytes = 8;
        namespace.extended_metadata = extended;
        let mut host = Host::on(ModelConfig { namespaces: vec![namespace], ..config() });
        let mut pair = host.pair(1, 8);
        let (data, meta) = (host.alloc(PAGE), host.alloc(PAGE));
        let bytes: Vec<u8> = (0..3 * 520).map(|at| byte(at % 249)).collect();
        host.put(data, &bytes);
        host.put(meta, b"metadata of the three ok");
        let sqe = host.io(NvmOpcode::WRITE, 1, 5, 3, Host::iova(data), 0);
        let sqe = if extended { sqe } else { sqe.with_mptr(Host::iova(meta)) };
        assert!(host.run(&mut pair, sqe).status().is_success());
        let (data2, meta2) = (host.alloc(PAGE), host.alloc(PAGE));
        let sqe = host.io(NvmOpcode::READ, 1, 5, 3, Host::iova(data2), 0);
        let sqe = if extended { sqe } else { sqe.with_mptr(Host::iova(meta2)) };
        assert!(host.run(&mut pair, sqe).status().is_success());
        let len = if extended { 3 * 520 } else { 3 * 512 };
        assert_eq!(host.bytes(data2, len), bytes[..len]);
        assert_eq!(host.bytes(data2 + len, 8), [0; 8]);
        if !extended {
            assert_eq!(host.bytes(meta2, 24), b"metadata of the three ok");
        }
        let id = identify(&mut host, Cns::NAMESPACE, 1).expect("success");
        let id = IdentifyNamespace::read_from_bytes(&id).expect("4096 bytes");
        assert_eq!(id.current_format().expect("listed").ms(), 8);
        assert_eq!(id.formatted().extended(), extended);
        host.model.assert_no_mistakes();
    }
}

#[test]
fn a_protected_namespace_is_not_changed() {
    let mut config = config();
    config.namespaces[0].write_protected = true;
    let mut host = Host::on(config);
    let mut pair = host.pair(1, 8);
    let at = host.alloc(PAGE);
    for op in [NvmOpcode::WRITE, NvmOpcode::WRITE_ZEROES] {
        let sqe = host.io(op, 1, 0, 1, Host::iova(at), 0);
        let code = host.run(&mut pair, sqe).status().code();
        assert_eq!(code, StatusCode::NAMESPACE_WRITE_PROTECTED);
    }
}

#[test]
fn queues_are_shared_deleted_and_made_again() {
    let mut host = Host::on(config());
    let mut first = host.pair(1, 8);
    // A second submission queue posts to the same completion queue.
    let sq_at = host.alloc(PAGE);
    let sqe = host.create_sq_sqe(2, 4, 1, sq_at);
    assert_eq!(host.admin_code(sqe), StatusCode::SUCCESS);
    let mut second = Pair { qid: 2, entries: 4, sq_at, ..first.clone() };
    let at = host.alloc(PAGE);
    let read = host.io(NvmOpcode::READ, 1, 0, 1, Host::iova(at), 0);
    host.post(&mut second, read);
    host.ring_sq(2, second.tail);
    let cqes = host.drain(&mut first);
    assert_eq!(cqes.len(), 1);
    assert_eq!(cqes[0].sqid(), QueueId(2));
    let delete = |host: &mut Host, cq: bool, qid| {
        let cid = host.cid();
        let qid = QueueId(qid);
        let sqe = if cq { Sqe::delete_cq(cid, qid) } else { Sqe::delete_sq(cid, qid) };
        host.admin_code(sqe)
    };
    assert_eq!(delete(&mut host, false, 2), StatusCode::SUCCESS);
    assert_eq!(delete(&mut host, true, 1), StatusCode::INVALID_QUEUE_DELETION);
    assert_eq!(delete(&mut host, false, 1), StatusCode::SUCCESS);
    assert_eq!(delete(&mut host, true, 1), StatusCode::SUCCESS);
    assert_eq!(delete(&mut host, true, 1), StatusCode::INVALID_QUEUE_ID);
    assert_eq!(host.model.take_mistakes().len(), 2);
    let mut again = host.pair(1, 2);
    for _ in 0..5 {
        let read = host.io(NvmOpcode::READ, 1, 0, 1, Host::iova(at), 0);
        assert!(host.run(&mut again, read).status().is_success());
    }
    host.model.assert_no_mistakes();
}

#[test]
fn queues_of_any_size_wrap_many_times() {
    for entries in [2, 3, 7, 256, 1024] {
        let mut host = Host::on(config());
        let mut pair = host.pair(3, entries);
        let at = host.alloc(PAGE);
        for _ in 0..entries * 2 + 3 {
            let read = host.io(NvmOpcode::READ, 1, 0, 1, Host::iova(at), 0);
            assert!(host.run(&mut pair, read).status().is_success());
        }
        host.model.assert_no_mistakes();
    }
}

#[test]
fn events_wait_for_requests_and_for_their_log_page() {
    let mut host = Host::on(config());
    let cid = host.cid();
    let wanted: u32 = AsyncEventConfig::new().with_critical_warnings(7).into();
    let sqe = Sqe::set_feature(cid, Nsid::NONE, FeatureId::ASYNC_EVENT_CONFIG, wanted);
    assert_eq!(host.admin_code(sqe), StatusCode::SUCCESS);
    let mut admin = host.admin.clone();
    let ask = |host: &mut Host, admin: &mut Pair| {
        let cid = host.cid();
        host.post(admin, Sqe::async_event_request(cid));
        host.ring_sq(0, admin.tail);
        (cid, host.drain(admin))
    };
    let (first, none) = ask(&mut host, &mut admin);
    let (second, _) = ask(&mut host, &mut admin);
    assert!(none.is_empty());
    host.model.set_critical_warning(1);
    let cqes = host.drain(&mut admin);
    assert_eq!(cqes.len(), 1);
    assert_eq!((cqes[0].cid(), cqes[0].result()), (first, AsyncEvent::SMART_SPARE.0));
    // The same kind waits until the SMART log was read.
    host.model.set_critical_warning(3);
    assert!(host.drain(&mut admin).is_empty());
    host.admin = admin;
    let retained = GetLogPage { retain_event: true, ..GetLogPage::first(LogPageId::SMART, 512) };
    let log = page(&mut host, retained).expect("success");
    assert_eq!(log[0], 3);
    let at = host.alloc(PAGE);
    let cid = host.cid();
    let log = GetLogPage::first(LogPageId::SMART, 512);
    let mut admin = host.admin.clone();
    host.post(&mut admin, Sqe::get_log_page(cid, Nsid::ALL, log, Host::iova(at), 0));
    host.ring_sq(0, admin.tail);
    let cqes = host.drain(&mut admin);
    assert_eq!(cqes.iter().map(|cqe| cqe.cid()).collect::<Vec<_>>(), [cid, second]);
    assert_eq!(cqes[1].result(), AsyncEvent::SMART_TEMPERATURE.0);
    host.model.assert_no_mistakes();
    for _ in 0..4 {
        assert!(ask(&mut host, &mut admin).1.is_empty());
    }
    let (cid, cqes) = ask(&mut host, &mut admin);
    assert_eq!(cqes[0].status().code(), StatusCode::AER_LIMIT_EXCEEDED);
    let limit = HostMistake::AsyncEventLimit { cid, limit: 4 };
    assert_eq!(host.model.take_mistakes(), [limit]);
}

#[test]
fn fua_is_accepted_and_unknown_opcodes_are_not() {
    let mut host = Host::on(config());
    let mut pair = host.pair(1, 8);
    let at = host.alloc(PAGE);
    let cid = host.cid();
    let sqe = Sqe::io(NvmOpcode::WRITE, cid, Nsid(1), Lba(1), 0, Cdw12Io::FUA);
    let sqe = sqe.with_prps(Host::iova(at), 0);
    assert!(host.run(&mut pair, sqe).status().is_success());
    host.model.assert_no_mistakes();
    let cid = host.cid();
    let sqe = Sqe::new(0x7f, cid, Nsid(1));
    assert_eq!(host.run(&mut pair, sqe).status().code(), StatusCode::INVALID_OPCODE);
    let cid = host.cid();
    let sqe = Sqe::admin(AdminOpcode::FORMAT_NVM, cid, Nsid(1));
    assert_eq!(host.admin_code(sqe), StatusCode::INVALID_OPCODE);
    assert_eq!(host.model.mistake_count(), 2);
}

#[test]
fn bursts_that_share_cache_lines_complete_each_command_once_and_in_order() {
    let mut host = Host::on(config());
    // Not a multiple of the four completions of a line: the end of the ring cuts one in two.
    let mut pair = host.pair(1, 14);
    let at = Host::iova(host.alloc(4096));
    for _ in 0..20 {
        let mut cids = Vec::new();
        for lba in 0..13 {
            let sqe = host.io(NvmOpcode::READ, 1, lba, 1, at, 0);
            cids.push(sqe.cid());
            host.post(&mut pair, sqe);
        }
        host.ring_sq(1, pair.tail);
        host.step();
        for cid in cids {
            let cqe = host.reap(&mut pair).expect("all of a burst are there after one step");
            assert!(cqe.status().is_success());
            assert_eq!(cqe.cid(), cid);
        }
        assert!(host.reap(&mut pair).is_none());
        host.ring_cq(1, pair.head);
    }
    host.model.assert_no_mistakes();
}
