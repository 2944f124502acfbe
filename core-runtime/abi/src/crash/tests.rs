//! Golden bytes of every layout, and what readers do with bytes that lie.

use super::device::*;
use super::file::*;
use super::metric::MetricRecord;
use super::program::*;
use super::*;
use crate::metrics::{MetricKind, MetricUnit};
use crate::{ABI_VERSION, Name};

fn header() -> CrashHeader {
    let mut header = CrashHeader {
        magic: CRASH_MAGIC,
        version: ABI_VERSION,
        state: CRASH_COMPLETE,
        committed: 24 + 16,
        reason: REASON_PANIC,
        sequence: 2,
        tsc: 3,
        incarnation: 4,
        crc32c: 0,
        reserved: [0; 76],
    };
    header.crc32c = header.checksum();
    header
}

fn slot_of(header: CrashHeader) -> Vec<u8> {
    let mut slot = header.as_bytes().to_vec();
    for (kind, payload) in [(SectionKind::MESSAGE, &b"oh no"[..]), (SectionKind(999), b"")] {
        slot.extend(section(kind, 0, payload).unwrap().as_bytes());
        slot.extend(payload);
        slot.resize(slot.len().next_multiple_of(8), 0);
    }
    // Not resized: an interpreter takes seconds for that, byte by byte.
    let mut whole = vec![0; CRASH_SLOT_BYTES];
    whole[..slot.len()].copy_from_slice(&slot);
    whole
}

/// Little-endian words, whatever their width.
fn le(words: &[(u64, usize)]) -> Vec<u8> {
    words.iter().flat_map(|(word, bytes)| word.to_le_bytes()[..*bytes].to_vec()).collect()
}

fn padded(name: &[u8], len: usize) -> Vec<u8> {
    let mut bytes = name.to_vec();
    bytes.resize(len, 0);
    bytes
}

#[test]
fn headers_have_their_golden_bytes() {
    let slot = slot_of(header());
    let mut golden = b"HYCRASH0".to_vec();
    golden.extend([1, 0, 0, 0, 2, 0, 0, 0, 40, 0, 0, 0, 1, 0, 0, 0]);
    golden.extend([2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(slot[..48], golden);
    let covered = [&golden[..12], &golden[20..48]].concat();
    assert_eq!(slot[48..52], crc32c(&covered).to_le_bytes());
    assert_eq!(slot[52..128], [0; 76]);
    assert_eq!(slot[128..136], [1, 0, 1, 0, 5, 0, 0, 0]);
}

#[test]
fn sections_are_walked_and_unknown_kinds_are_data() {
    let slot = slot_of(header());
    let header = CrashHeader::parse_record(&slot).unwrap();
    let mut walk = header.sections(&slot);
    let sections: Vec<_> = walk.by_ref().collect();
    assert_eq!(walk.damaged_at(), None);
    assert_eq!(sections.len(), 2);
    assert_eq!(sections[0].payload, b"oh no");
    assert!(sections[0].intact);
    assert_eq!(sections[1].header.kind, SectionKind(999));
    assert_eq!((sections[0].offset, sections[1].offset), (128, 152));
}

#[test]
fn a_torn_section_is_not_believed_and_a_cut_one_ends_the_walk() {
    let mut slot = slot_of(header());
    slot[128 + 16] ^= 1;
    let header = CrashHeader::parse(&slot).unwrap();
    assert!(!header.sections(&slot).next().unwrap().intact);
    let cut = CrashHeader { committed: 20, ..header };
    let mut walk = cut.sections(&slot);
    assert_eq!(walk.by_ref().count(), 0);
    assert_eq!(walk.damaged_at(), Some(128));
}

#[test]
fn headers_that_lie_are_refused() {
    let said = |change: fn(&mut [u8])| {
        let mut slot = slot_of(header());
        change(&mut slot);
        CrashHeader::parse_record(&slot).unwrap_err().to_string()
    };
    assert_eq!(
        said(|slot| slot[16..20].copy_from_slice(&u32::MAX.to_le_bytes())),
        "crash record has committed length 4294967295, allowed is 65408"
    );
    assert!(said(|slot| slot[20] ^= 1).starts_with("crash record is damaged"));
    assert!(said(|slot| slot[8] = 9).contains("version 9, this program knows up to 1"));
    assert_eq!(said(|slot| slot[12] = 0), "crash record has state 0, allowed is 3");
    assert!(said(|slot| slot[0] = 0).starts_with("no crash record here"));
}

#[test]
fn the_newest_record_is_the_one_that_can_be_believed() {
    let with = |sequence, state| {
        let mut header = CrashHeader { sequence, state, ..header() };
        header.crc32c = header.checksum();
        slot_of(header)
    };
    let newest_of = |first: &[u8], second: &[u8]| {
        let part = [first, second].concat();
        newest(&part).map(|(index, header)| (index, header.sequence))
    };
    let (old, new) = (with(1, CRASH_COMPLETE), with(2, CRASH_WRITING));
    assert_eq!(newest_of(&old, &new), Some((1, 2)));
    assert_eq!(newest_of(&new, &old), Some((0, 2)));
    assert_eq!(newest_of(&old, &with(2, CRASH_EMPTY)), Some((0, 1)));
    let mut torn = new.clone();
    torn[24] ^= 4;
    assert_eq!(newest_of(&torn, &old), Some((1, 1)));
    assert_eq!(newest(&[0; 10]), None);
    assert_eq!(newest(&new), Some((0, CrashHeader::parse(&new).unwrap())), "half a part");
}

#[test]
fn the_programs_layouts_have_their_golden_bytes() {
    let program = Program { build_id: [0xB1; 20], reserved: 0, load_base: 0x0102 };
    let golden = [vec![0xB1; 20], le(&[(0, 4), (0x0102, 8)])].concat();
    assert_eq!(program.as_bytes(), golden);
    assert_eq!(Location { line: 7, column: 9 }.as_bytes(), le(&[(7, 4), (9, 4)]));
    let head = BacktraceHead { end: BACKTRACE_FULL, reserved: 0 };
    assert_eq!(head.as_bytes(), le(&[(4, 4), (0, 4)]));
    assert_eq!(TasksHead { total: 3, reserved: 0 }.as_bytes(), le(&[(3, 4), (0, 4)]));
}

#[test]
fn registers_have_their_golden_bytes() {
    let registers = Registers {
        rax: 1,
        rbx: 2,
        rcx: 3,
        rdx: 4,
        rsi: 5,
        rdi: 6,
        rbp: 7,
        rsp: 8,
        r8_r15: [9, 10, 11, 12, 13, 14, 15, 16],
        rip: 17,
        rflags: 18,
        fault_address: 19,
        error_code: 20,
        signal: 21,
        code: -1,
        trap: 22,
        known: KNOWN_FAULT_ADDRESS | KNOWN_SYSCALL,
        syscall: 23,
        syscall_args: [24, 25, 26, 27, 28, 29],
        reserved: [0; 3],
    };
    let mut golden = le(&(1..=20).map(|n| (n, 8)).collect::<Vec<_>>());
    golden.extend(le(&[(21, 4), (0xFFFF_FFFF, 4), (22, 4), (3, 4)]));
    golden.extend(le(&(23..=29).map(|n| (n, 8)).collect::<Vec<_>>()));
    golden.extend([0; 24]);
    assert_eq!(registers.as_bytes(), golden);
    let named = registers.named();
    assert_eq!((named[0], named[8], named[17]), (("rax", 1), ("r8", 9), ("rflags", 18)));
}

#[test]
fn tasks_have_their_golden_bytes() {
    let current = CurrentTask {
        task: 1,
        reserved: 0,
        since_tsc: 2,
        age_ticks: 3,
        heartbeat: 4,
        heartbeat_tsc: 5,
        name: Name::lossy("reader"),
    };
    let mut golden = le(&[(1, 4), (0, 4), (2, 8), (3, 8), (4, 8), (5, 8)]);
    golden.extend(padded(b"reader", 48));
    assert_eq!(current.as_bytes(), golden);
    let task = TaskRecord {
        figures: crate::tasks::TaskFigures {
            task: 1,
            class: 2,
            state: TASK_DONE,
            polls: 5,
            overruns: 6,
            budget_ticks: 7,
            longest_ticks: 8,
            total_ticks: 9,
        },
        name: Name::lossy("writer"),
    };
    let mut golden = le(&[(1, 4), (2, 2), (4, 2), (5, 8), (6, 8), (7, 8), (8, 8), (9, 8)]);
    golden.extend(padded(b"writer", 48));
    assert_eq!(task.as_bytes(), golden);
    assert_eq!((task.figures.class_name(), task.figures.state_name()), ("background", "done"));
}

#[test]
fn a_controller_has_its_golden_bytes() {
    let controller = ControllerRecord {
        controller: 1,
        state: CONTROLLER_RESETTING,
        known: KNOWN_CSTS | KNOWN_GONE,
        csts: 4,
        cc: 5,
        vs: 6,
        cap: 7,
        csts_tsc: 8,
        deadline_ns: 9,
        admin_deadline_ns: 10,
        resets: 11,
        queue_resets: 12,
        aborts: 13,
        deadlines: 14,
        serial: Name::lossy("S1"),
        model: Name::lossy("M2"),
        firmware: Name::lossy("F3"),
        io_queues: 15,
        namespaces: 16,
        phase: Name::lossy("Disabling"),
    };
    let mut golden = le(&[(1, 4), (3, 4), (9, 4), (4, 4), (5, 4), (6, 4)]);
    golden.extend(le(&(7..=14).map(|n| (n, 8)).collect::<Vec<_>>()));
    golden.extend([padded(b"S1", 20), padded(b"M2", 40), padded(b"F3", 8)].concat());
    golden.extend(le(&[(15, 2), (16, 2)]));
    golden.extend(padded(b"Disabling", 32));
    assert_eq!(controller.as_bytes(), golden);
    assert_eq!(controller.state_name(), "resetting");
}

#[test]
fn queues_and_commands_have_their_golden_bytes() {
    let queue = QueueRecord {
        controller: 1,
        qid: 2,
        entries: 3,
        mode: QUEUE_FENCED,
        sq_tail: 5,
        sq_rung: 6,
        sqhd: 7,
        cq_head: 8,
        cq_rung: 9,
        phase: 1,
        in_flight: 11,
        held: 12,
        sq_iova: 13,
        cq_iova: 14,
        submitted: 15,
        completed: 16,
        failed: 17,
        lost: 18,
        unreaped: 19,
        reserved: 0,
    };
    let indices = [1, 2, 3, 2, 5, 6, 7, 8, 9, 1, 11, 12];
    let mut golden = le(&indices.map(|n| (n, 2)));
    golden.extend(le(&(13..=18).map(|n| (n, 8)).collect::<Vec<_>>()));
    golden.extend(le(&[(19, 4), (0, 4)]));
    assert_eq!(queue.as_bytes(), golden);
    assert_eq!(queue.mode_name(), "fenced");
    let head = CommandsHead { controller: 1, total: 2 };
    assert_eq!(head.as_bytes(), le(&[(1, 4), (2, 4)]));
    let command = CommandRecord {
        slba: 1,
        nsid: 2,
        age_us: 3,
        age_within_us: 4,
        nlb_z: 5,
        cid: 6,
        qid: 7,
        status: 8,
        opcode: 9,
        state: COMMAND_HELD,
        flags: COMMAND_BLOCKS | COMMAND_NOT_RUNG,
        tries: 12,
    };
    let golden =
        le(&[(1, 8), (2, 4), (3, 4), (4, 4), (5, 2), (6, 2), (7, 2), (8, 2), (9, 1), (3, 1)]);
    assert_eq!(command.as_bytes(), [golden, vec![6, 12]].concat());
    assert_eq!(command.nlb(), 6);
    assert_eq!(CommandRecord { flags: 0, ..command }.nlb(), 0);
}

#[test]
fn a_queues_place_has_its_golden_bytes() {
    let place = QueuePlace {
        state: PLACE_VALID,
        entries: 256,
        controller: 2,
        qid: 3,
        slot_mask: 0xFF,
        sq_offset: 0x1000,
        cq_offset: 0x5000,
        shadow_offset: NO_OFFSET,
        indices: Indices { sq_tail: 1, sqhd: 2, cq_head: 3 }.to_word(),
        reserved: [0; 2],
    };
    let mut golden = le(&[(1, 4), (256, 4), (2, 2), (3, 2), (255, 4), (0x1000, 8), (0x5000, 8)]);
    golden.extend([0xFF; 8]);
    golden.extend(le(&[(1, 2), (2, 2), (3, 2), (1, 2)]));
    golden.extend([0; 16]);
    assert_eq!(place.as_bytes(), golden);
    let indices = Indices { sq_tail: 1, sqhd: 2, cq_head: 3 };
    assert_eq!(Indices::from_word(place.indices), Some(indices));
    assert_eq!(Indices::from_word(0xFFFE_FFFF_FFFF_FFFF), None);
}

#[test]
fn a_metric_has_its_golden_bytes() {
    let metric = MetricRecord {
        name: Name::lossy("polls"),
        kind: MetricKind::HISTOGRAM,
        unit: MetricUnit::NANOSECONDS,
        reserved: 0,
        value: 1,
        sum: 2,
        min: 3,
        p50: 4,
        p99: 5,
        max: 6,
    };
    let mut golden = padded(b"polls", 48);
    golden.extend(le(&[(3, 2), (1, 2), (0, 4), (1, 8), (2, 8), (3, 8), (4, 8), (5, 8), (6, 8)]));
    assert_eq!(metric.as_bytes(), golden);
}

fn file_header() -> FileHeader {
    FileHeader {
        file_bytes: 0x1234,
        saved_unix_ns: 2,
        partition: 3,
        incarnation: 4,
        boot_id: [0xB0; 16],
        tsc_hz: 2_000_000_000,
        anchor_tsc: 1_000,
        anchor_unix_ns: 7_000,
        build_id: [0xB1; 20],
        ..FileHeader::blank()
    }
    .sealed()
}

#[test]
fn a_files_layouts_have_their_golden_bytes() {
    let header = file_header();
    let mut golden = b"HYCRASHF".to_vec();
    golden.extend(le(&[(1, 4), (0, 4), (0x1234, 8), (2, 8), (3, 4), (0, 4), (4, 8)]));
    golden.extend([0xB0; 16]);
    golden.extend(le(&[(2_000_000_000, 8), (1_000, 8), (7_000, 8)]));
    golden.extend([0xB1; 20]);
    golden.extend([0; 20]);
    let checksum = crc32c(&golden);
    golden[12..16].copy_from_slice(&checksum.to_le_bytes());
    assert_eq!(header.as_bytes(), golden);
    let words = HostWords {
        end: END_SIGNALLED,
        code: 9,
        flags: HOST_FENCED | HOST_COMPOSED,
        pid: 4,
        noticed_unix_ns: 5,
        noticed_tsc: 6,
    };
    assert_eq!(words.as_bytes(), le(&[(2, 4), (9, 4), (3, 4), (4, 4), (5, 8), (6, 8)]));
    let image = QueueImageHead {
        controller: 1,
        qid: 2,
        entries: 3,
        slot_mask: 4,
        tail: TAIL_UNKNOWN,
        indices: 5,
    };
    let golden = le(&[(1, 2), (2, 2), (3, 4), (4, 4), (0xFFFF_FFFF, 4), (5, 8)]);
    assert_eq!(image.as_bytes(), golden);
}

#[test]
fn a_files_header_is_believed_only_whole() {
    let header = file_header();
    let step = if cfg!(miri) { 61 } else { 1 };
    for bit in (0..LINE_BYTES * 8).step_by(step) {
        let mut bytes = header.as_bytes().to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(FileHeader::parse(&bytes).is_err(), "bit {bit}");
    }
    assert_eq!(FileHeader::parse(header.as_bytes()), Ok(header));
    assert!(FileHeader::parse(&header.as_bytes()[..127]).is_err());
}

#[test]
fn ticks_become_times_on_both_sides_of_the_anchor() {
    let header = file_header();
    assert_eq!(header.ticks_to_ns(4_000), Some(2_000));
    assert_eq!(header.unix_ns(3_000), Some(8_000));
    assert_eq!(header.unix_ns(0), Some(6_500));
    assert_eq!(header.ticks_to_ns(u64::MAX), Some(u64::MAX / 2));
    assert_eq!(FileHeader { tsc_hz: 0, ..header }.unix_ns(0), None);
    let early = FileHeader { anchor_tsc: u64::MAX, anchor_unix_ns: 0, ..header };
    assert_eq!(early.unix_ns(0), None);
}

#[test]
fn elements_and_texts_stop_where_bytes_are_missing() {
    assert_eq!(elements::<u64>(&[1; 17]).count(), 2);
    assert_eq!(text(b"ab\xFFcd"), "ab");
    assert_eq!(text("\u{e9}".as_bytes()), "\u{e9}");
}

#[test]
fn every_reason_and_kind_has_a_name() {
    for reason in REASON_PANIC..=REASON_DEVICE_GONE {
        assert_ne!(reason_name(reason), "unknown reason");
    }
    assert_eq!(reason_name(77), "unknown reason");
    for kind in (1..=13).chain(0x101..=0x105) {
        assert_ne!(SectionKind(kind).name(), "unknown section", "{kind}");
    }
}
