//! Headers in shared memory and files of ours that anybody may have written.

use core_runtime::region::RegionReader;
use core_runtime::ring::{Consumer, Producer, RingSpec, RingStats};
use hybrid_abi::crash::device::{CommandRecord, CommandsHead, ControllerRecord, QueueRecord};
use hybrid_abi::crash::file::{FileHeader, HostWords, QueueImageHead};
use hybrid_abi::crash::metric::MetricRecord;
use hybrid_abi::crash::program::{
    BacktraceHead, CurrentTask, Location, Registers, TaskRecord, TasksHead,
};
use hybrid_abi::crash::rings::Rings;
use hybrid_abi::crash::{self, CRASH_SLOT_BYTES, CRASH_SLOTS, CrashHeader, Section, SectionKind};
use hybrid_abi::probe::file::{Piece, Pieces, TraceHeader, records_of};
use hybrid_abi::probe::{ProbeRecord, entries};
use hybrid_shm::{Span, leak_aligned};
use std::cell::OnceCell;
use zerocopy::{FromBytes, IntoBytes as _};

/// Memory that is made once: it is never freed.
macro_rules! leaked {
    ($bytes:expr, $align:expr) => {{
        thread_local! {
            static SPAN: OnceCell<Span<'static>> = const { OnceCell::new() };
        }
        SPAN.with(|span| *span.get_or_init(|| leak_aligned($bytes, $align)))
    }};
}

/// Fills `span` with the bytes, and zeros behind them.
fn fill(span: Span<'static>, bytes: &[u8]) {
    let len = bytes.len().min(span.len());
    let zeros = vec![0; span.len() - len];
    span.write(0, bytes.get(..len).unwrap_or_default()).expect("inside");
    span.write(len, &zeros).expect("inside");
}

/// A peer's part of a ring, both ways round.
pub(crate) fn ring(bytes: &[u8]) {
    let spec = RingSpec::fixed::<u64>(8).expect("a ring");
    let own_tail = leaked!(spec.producer_bytes(), 128);
    let own_head = leaked!(spec.consumer_bytes(), 128);
    let theirs = leaked!(spec.producer_bytes().max(spec.consumer_bytes()), 128);
    let half = bytes.len() / 2;
    let (head, tail) = bytes.split_at(half);
    spec.make_producer_part(own_tail).expect("a part");
    fill(theirs, head);
    let _ = RingStats::read(own_tail.read_only(), theirs.read_only());
    if let Ok(producer) = Producer::<u64>::new(own_tail, theirs.read_only(), spec) {
        let mut pushed = 0;
        while pushed <= 64 && producer.try_push(&7).is_ok() {
            pushed += 1;
        }
        assert!(pushed <= 8, "{pushed} items in a ring of 8 that nobody empties");
    }
    spec.make_consumer_part(own_head).expect("a part");
    fill(theirs, tail);
    if let Ok(consumer) = Consumer::<u64>::new(own_head, theirs.read_only(), spec) {
        let mut popped = 0;
        while popped <= 64 && consumer.pop().is_ok() {
            popped += 1;
        }
        assert!(popped <= 8, "{popped} items out of a ring of 8 that nobody fills");
    }
}

/// A region: each part that is handed out lies inside.
pub(crate) fn region(bytes: &[u8]) {
    let span = leaked!(8192, 4096);
    fill(span, bytes);
    let Ok(reader) = RegionReader::new(span.read_only()) else { return };
    let base = span.as_ptr() as usize;
    for (_, _, part) in reader.parts() {
        let start = part.as_ptr() as usize - base;
        assert!(start + part.len() <= span.len(), "{start} + {}", part.len());
    }
}

/// A trace file as it is, and with its header's checksum mended, which no fuzzer guesses.
pub(crate) fn trace(bytes: &[u8]) {
    pieces_of(bytes);
    if let Ok((header, rest)) = TraceHeader::read_from_prefix(bytes) {
        pieces_of(&[header.sealed().as_bytes(), rest].concat());
    }
}

/// Every byte behind the header is in exactly one piece, in order.
fn pieces_of(bytes: &[u8]) {
    if TraceHeader::parse(bytes).is_err() {
        return;
    }
    let mut end = 0;
    for piece in Pieces::of(bytes) {
        let (offset, payload) = match piece {
            Piece::Chunk { offset, payload, .. } | Piece::Damaged { offset, payload, .. } => {
                (offset, payload)
            }
            Piece::Gap { offset, len } => {
                assert!(offset >= end && offset + len <= bytes.len() as u64);
                end = offset + len;
                continue;
            }
        };
        assert!(offset >= end, "pieces go forward");
        end = offset + 1;
        let records = records_of(payload).map_or(0, |(_, records)| records.len());
        assert!(records.max(entries(payload).count()) <= payload.len());
    }
}

/// A crash dump as it is, and with its header's checksum mended; and a partition's crash slots.
pub(crate) fn dump(bytes: &[u8]) {
    sections_of(bytes);
    if let Ok((header, rest)) = FileHeader::read_from_prefix(bytes) {
        sections_of(&[header.sealed().as_bytes(), rest].concat());
    }
    let _ = crash::newest(bytes);
    // Half of the input in each slot, which is longer than any input.
    let mut part = vec![0; CRASH_SLOTS * CRASH_SLOT_BYTES];
    let half = bytes.len().div_ceil(CRASH_SLOTS).clamp(1, CRASH_SLOT_BYTES);
    for (slot, bytes) in part.chunks_exact_mut(CRASH_SLOT_BYTES).zip(bytes.chunks(half)) {
        slot[..bytes.len()].copy_from_slice(bytes);
    }
    if let Some((index, header)) = crash::newest(&part) {
        let slot = crash::slot(&part, index);
        for section in header.sections(slot) {
            assert!(section.payload.len() <= slot.len());
            look_into(&section);
        }
    }
}

fn sections_of(bytes: &[u8]) {
    let Ok(header) = FileHeader::parse(bytes) else { return };
    let _ = (header.ticks_to_ns(u64::MAX), header.unix_ns(u64::MAX));
    for section in header.sections(bytes) {
        match section.header.kind {
            SectionKind::RECORD => {
                if let Ok(record) = CrashHeader::parse_record(section.payload) {
                    record.sections(section.payload).for_each(|section| look_into(&section));
                }
            }
            SectionKind::QUEUE_IMAGE => queue_of(&section),
            _ => look_into(&section),
        }
    }
}

/// Reads a section as `probe-util dump` does, by its kind.
fn look_into(section: &Section<'_>) {
    fn counted<T: FromBytes>(rest: &[u8]) -> usize {
        crash::elements::<T>(rest).count()
    }
    let bytes = section.payload;
    let most = match section.header.kind {
        SectionKind::LOCATION => section.head::<Location>().map_or(0, |(_, file)| text_of(file)),
        SectionKind::REGISTERS => usize::from(section.head::<Registers>().is_ok()),
        SectionKind::BACKTRACE => {
            section.head::<BacktraceHead>().map_or(0, |(_, rest)| counted::<u64>(rest))
        }
        SectionKind::CURRENT_TASK => section
            .head::<CurrentTask>()
            .map_or(0, |(task, _)| task.name.as_str().len().min(bytes.len())),
        SectionKind::TASKS => {
            section.head::<TasksHead>().map_or(0, |(_, rest)| counted::<TaskRecord>(rest))
        }
        SectionKind::PROBE => counted::<ProbeRecord>(bytes),
        SectionKind::CONTROLLER => counted::<ControllerRecord>(bytes),
        SectionKind::QUEUES => counted::<QueueRecord>(bytes),
        SectionKind::COMMANDS => {
            section.head::<CommandsHead>().map_or(0, |(_, rest)| counted::<CommandRecord>(rest))
        }
        SectionKind::METRICS => counted::<MetricRecord>(bytes),
        SectionKind::HOST => section.head::<HostWords>().map_or(0, |(_, line)| text_of(line)),
        SectionKind::PROBE_NAMES => entries(bytes).count(),
        _ => text_of(bytes),
    };
    assert!(most <= bytes.len(), "{most} of {section:?}");
}

fn text_of(bytes: &[u8]) -> usize {
    crash::text(bytes).len()
}

/// A pair of rings: no entry is told twice, and none that is not there.
fn queue_of(section: &Section<'_>) {
    let Ok((head, bytes)) = section.head::<QueueImageHead>() else { return };
    let Some(rings) = Rings::new(&head, bytes) else { return };
    let _ = rings.knows_tail();
    let mut unanswered = 0;
    rings.each_unanswered(|command| {
        unanswered += 1;
        let _ = rings.answer_to(command.cid);
    });
    assert!(unanswered <= head.entries, "{unanswered} of {}", head.entries);
}
