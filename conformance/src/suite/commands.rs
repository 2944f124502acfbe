//! Each command, on each namespace; and what is refused, by the driver or by the device.

use nvme_driver::{IoError, Lba, WriteFlags};
use nvme_spec::{DsmAttributes, DsmRange, LogPageId, Nsid, StatusCode};

use super::cx::{Cx, offered, refused};
use super::{Case, Outcome, reads, writes};

pub(super) const CASES: &[Case] = &[
    writes("commands::a_block_that_was_written_is_read_back", write_read),
    writes("commands::a_forced_write_and_a_flush_succeed", fua_and_flush),
    writes("commands::write_zeroes_leaves_zeros_and_nothing_else", write_zeroes),
    writes("commands::compare_tells_equal_from_different", compare),
    writes("commands::deallocated_blocks_can_be_read_and_written", deallocate),
    writes("commands::dataset_management_takes_256_ranges", many_ranges),
    reads("commands::log_pages_are_read", logs),
    reads("commands::a_log_page_that_does_not_exist_is_refused_by_the_device", no_such_log),
    reads("commands::many_admin_commands_at_once_are_all_answered", many_logs),
    reads("commands::event_requests_are_kept_outstanding", events),
    reads("commands::requests_that_make_no_sense_are_refused_with_their_buffer", nonsense),
];

fn write_read(cx: &Cx<'_>) -> Outcome {
    let rig = cx.rig();
    for space in cx.spaces(&rig)? {
        let bytes = space.lba_bytes();
        for (at, version) in [(0, 1), (1, 2), (0, 3), (space.blocks - 1, 4)] {
            space.write(&rig, at, bytes, version);
            space.holds(&rig, at, bytes, version);
        }
        space.holds(&rig, 1, bytes, 2);
    }
    rig.finish();
    Ok(())
}

fn fua_and_flush(cx: &Cx<'_>) -> Outcome {
    let rig = cx.rig();
    for space in cx.spaces(&rig)? {
        let bytes = 2 * space.lba_bytes();
        let buf = space.stamped(&rig, 2, bytes, 9);
        drop(rig.run(space.ns.write(space.lba(2), buf, WriteFlags::FUA)).expect("written"));
        rig.run(space.ns.flush()).expect("flushed");
        space.holds(&rig, 2, bytes, 9);
    }
    rig.finish();
    Ok(())
}

fn write_zeroes(cx: &Cx<'_>) -> Outcome {
    let rig = cx.rig();
    for space in cx.spaces(&rig)? {
        let lba = space.lba_bytes();
        space.write(&rig, 0, 12 * lba, 7);
        let zeroed = rig.run(space.ns.write_zeroes(space.lba(2), 9, WriteFlags::empty()));
        offered(zeroed)?;
        space.holds(&rig, 0, 2 * lba, 7);
        space.holds(&rig, 2, 9 * lba, 0);
        space.holds(&rig, 11, lba, 7);
    }
    rig.finish();
    Ok(())
}

fn compare(cx: &Cx<'_>) -> Outcome {
    let rig = cx.rig();
    for space in cx.spaces(&rig)? {
        let bytes = 3 * space.lba_bytes();
        space.write(&rig, 0, bytes, 5);
        let same = space.stamped(&rig, 0, bytes, 5);
        let equal = rig.run(space.ns.compare(space.lba(0), same));
        let mut buf = offered(equal.map_err(|failed| failed.error))?;
        buf.as_mut_slice()[bytes - 1] ^= 1;
        let error = refused(rig.run(space.ns.compare(space.lba(0), buf)));
        assert_eq!(error.status_code(), Some(StatusCode::COMPARE_FAILURE), "{error}");
        space.holds(&rig, 0, bytes, 5);
    }
    assert_eq!(rig.controller.stats().io.retries, 0);
    rig.finish();
    Ok(())
}

fn deallocate(cx: &Cx<'_>) -> Outcome {
    let rig = cx.rig();
    for space in cx.spaces(&rig)? {
        let lba = space.lba_bytes();
        space.write(&rig, 0, 12 * lba, 3);
        offered(rig.run(space.ns.deallocate(space.lba(4), 4)))?;
        space.holds(&rig, 0, 4 * lba, 3);
        space.holds(&rig, 8, 4 * lba, 3);
        // What they hold now is the device's affair, that they can be read is not.
        drop(rig.run(space.ns.read(space.lba(4), rig.filled(4 * lba, 1))).expect("read"));
        space.write(&rig, 4, 4 * lba, 8);
        space.holds(&rig, 4, 4 * lba, 8);
    }
    rig.finish();
    Ok(())
}

fn many_ranges(cx: &Cx<'_>) -> Outcome {
    let rig = cx.rig();
    let space = cx.space(&rig)?;
    let lba = space.lba_bytes();
    let blocks = space.blocks.min(512);
    let ranges: Vec<_> = (0..blocks / 2)
        .map(|n| DsmRange { attributes: 0, blocks: 1, slba: space.lba(2 * n).0 })
        .collect();
    for at in 0..blocks {
        space.write(&rig, at, lba, 6);
    }
    offered(rig.run(space.ns.dsm(&ranges, DsmAttributes::DEALLOCATE)))?;
    for n in 0..blocks / 2 {
        space.holds(&rig, 2 * n + 1, lba, 6);
    }
    let none = rig.run(space.ns.dsm(&[], DsmAttributes::DEALLOCATE));
    assert!(matches!(none, Err(IoError::BadLength { .. })), "{none:?}");
    rig.finish();
    Ok(())
}

fn logs(cx: &Cx<'_>) -> Outcome {
    let rig = cx.rig();
    let smart = rig.run(rig.controller.smart_log()).expect("the SMART log");
    assert!(smart.spare_percent <= 100, "available spare {}", smart.spare_percent);
    rig.run(rig.controller.firmware_log()).expect("the firmware slot log");
    let log = rig.run(rig.controller.error_log(rig.filled(4096, 0xEE))).expect("the error log");
    assert!(!log.is_empty() && log.len().is_multiple_of(64), "{} bytes of error log", log.len());
    drop(log);
    rig.finish();
    Ok(())
}

fn no_such_log(cx: &Cx<'_>) -> Outcome {
    let rig = cx.rig();
    // Vendor specific, and reserved: no controller that the suite was run on has either.
    for lid in [LogPageId(0xC5), LogPageId(0x7F)] {
        let asked = rig.controller.get_log_page(lid, Nsid::ALL, rig.filled(512, 1));
        let error = refused(rig.run(asked));
        let code = error.status_code();
        // The specification says the first, and devices the second.
        let known = [Some(StatusCode::INVALID_LOG_PAGE), Some(StatusCode::INVALID_FIELD)];
        assert!(known.contains(&code), "{error}");
    }
    rig.finish();
    Ok(())
}

fn many_logs(cx: &Cx<'_>) -> Outcome {
    let rig = cx.rig();
    let count = cx.ops(400);
    for round in 0..count.div_ceil(40) {
        let page = |_| {
            let buf = rig.filled(512, 1);
            Box::pin(rig.controller.get_log_page(LogPageId::SMART, Nsid::ALL, buf))
        };
        let asked: Vec<_> = (0..40).map(page).collect();
        for log in asked {
            let log = rig.run(log).unwrap_or_else(|failed| panic!("round {round}: {failed}"));
            assert_eq!(log.len(), 512);
        }
    }
    rig.finish();
    Ok(())
}

fn events(cx: &Cx<'_>) -> Outcome {
    let rig = cx.rig();
    let offered = rig.controller.identify().async_event_limit();
    let wanted = u32::from(nvme_driver::ControllerConfig::default().async_events).min(offered);
    assert!(wanted >= 1);
    rig.until(|c| c.stats().admin.in_flight == wanted);
    // They stay where they are while others are answered, and come back after a reset.
    rig.run(rig.controller.smart_log()).expect("the SMART log");
    rig.until(|c| c.stats().admin.in_flight == wanted);
    rig.controller.request_reset();
    rig.until(|c| c.stats().resets == 1 && c.state() == nvme_driver::ControllerState::Ready);
    rig.until(|c| c.stats().admin.in_flight == wanted);
    rig.finish();
    Ok(())
}

fn nonsense(cx: &Cx<'_>) -> Outcome {
    let rig = cx.rig();
    for space in cx.spaces(&rig)? {
        let (ns, lba, blocks) = (space.ns, space.lba_bytes(), space.ns.blocks());
        let read = |slba, len| refused(rig.run(ns.read(Lba(slba), rig.filled(len, 1))));
        let write = |slba, len| {
            refused(rig.run(ns.write(Lba(slba), rig.filled(len, 1), WriteFlags::empty())))
        };
        for error in [read(0, lba / 2), read(0, lba + 4), write(0, lba - 4), write(0, 100)] {
            assert!(matches!(error, IoError::BadLength { .. }), "{error}");
        }
        for (slba, len) in [(blocks, lba), (blocks - 1, 2 * lba), (u64::MAX, lba)] {
            for error in [read(slba, len), write(slba, len)] {
                assert!(matches!(error, IoError::OutOfRange { .. }), "{error}");
            }
        }
        let zeroed = rig.run(ns.write_zeroes(Lba(blocks - 1), 2, WriteFlags::empty()));
        let right = matches!(zeroed, Err(IoError::OutOfRange { .. } | IoError::Unsupported(_)));
        assert!(right, "{zeroed:?}");
    }
    assert_eq!(rig.controller.stats().io.submitted, 0, "the device was asked");
    rig.finish();
    Ok(())
}
