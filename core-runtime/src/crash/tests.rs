//! Records of a partition on the heap: what they say, and what is left of them when their writer is
//! stopped anywhere.

use core::cell::{Cell, RefCell};
use core::future::pending;
use std::boxed::Box;
use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use hybrid_abi::crash::device::{CommandRecord, CommandsHead, PLACE_VALID, QueuePlace};
use hybrid_abi::crash::metric::MetricRecord;
use hybrid_abi::crash::program::{
    BACKTRACE_BROKEN, BACKTRACE_FULL, BACKTRACE_LEFT_STACK, BACKTRACE_MAX, BACKTRACE_ROOT,
    BacktraceHead, CurrentTask, Location, TASK_RUNNING, TaskRecord, TasksHead,
};
use hybrid_abi::crash::{
    CRASH_COMPLETE, CRASH_PART_BYTES, CRASH_WRITING, REASON_ASKED, REASON_FAULT, REASON_PANIC,
    SectionKind, elements, newest, slot, text,
};
use hybrid_abi::region::PartKind;
use hybrid_shm::leak_zeroed;

use super::*;
use crate::clock::{Clock, ManualClock};
use crate::mem::{Bump, DmaRegion, Iova};
use crate::metrics::MetricsReader;
use crate::partition::{
    CRASH_PART, METRICS_PART, PartitionConfig, PartitionParts, QUEUES_PART, RingSizes,
    lay_out_host_region,
};
use crate::region::RegionReader;
use crate::task::{SchedulerConfig, TaskOptions};

const RINGS: RingSizes = RingSizes { events: 4096, commands: 4096 };

struct Rig {
    partition: &'static Partition,
    clock: &'static ManualClock,
    region: RegionReader,
}

fn rig() -> Rig {
    let clock = Bump::leak(64).alloc(ManualClock::new(1_000)).unwrap();
    let facts = RegionFacts {
        incarnation: 7,
        build_id: [0xB1; 20],
        tsc_hz: 1_000_000_000,
        ..RegionFacts::default()
    };
    let config = PartitionConfig {
        scheduler: SchedulerConfig {
            max_tasks: 8,
            max_timers: 8,
            task_memory_bytes: 16 << 10,
            ..SchedulerConfig::default()
        },
        more_metrics: 4,
        more_histograms: 0,
        ..PartitionConfig::default()
    };
    let host_region = leak_zeroed(RINGS.host_region_bytes());
    lay_out_host_region(host_region, facts, RINGS).unwrap();
    let region = leak_zeroed(RINGS.region_bytes(&config));
    let parts = PartitionParts {
        cpu: 5,
        facts,
        clock: Clock::manual(clock),
        bump: Bump::leak(256 << 10),
        dma: DmaRegion::leak(64 << 10, Iova(0x10_0000)),
        region,
        host_region: host_region.read_only(),
        rings: RINGS,
        config,
    };
    let partition = parts.assemble(&[]).unwrap();
    let region = RegionReader::new(region.read_only()).unwrap();
    Rig { partition, clock, region }
}

impl Rig {
    /// The crash part, copied.
    fn part(&self) -> Vec<u8> {
        let part = self.region.part(PartKind::CRASH, CRASH_PART).unwrap();
        let mut bytes = vec![0; CRASH_PART_BYTES];
        part.read(0, &mut bytes).unwrap();
        bytes
    }
}

/// Kind and payload of each section of the newest record, all of which must be intact.
fn sections_of(part: &[u8]) -> (CrashHeader, Vec<(SectionKind, Vec<u8>)>) {
    let (index, header) = newest(part).expect("a record");
    let mut walk = header.sections(slot(part, index));
    let sections = walk
        .by_ref()
        .map(|section| {
            assert!(section.intact, "section {:?}", section.header);
            (section.header.kind, section.payload.to_vec())
        })
        .collect();
    assert_eq!(walk.damaged_at(), None);
    (header, sections)
}

fn find(sections: &[(SectionKind, Vec<u8>)], kind: SectionKind) -> &[u8] {
    &sections.iter().find(|(found, _)| *found == kind).expect("a section").1
}

/// The first bytes as a structure.
fn as_head<T: zerocopy::FromBytes>(payload: &[u8]) -> T {
    let Ok((head, _)) = T::read_from_prefix(payload) else { panic!("bytes are missing") };
    head
}

#[test]
fn a_record_says_what_was_going_on() {
    let rig = rig();
    let spawner = rig.partition.spawner();
    spawner.spawn(TaskOptions::normal("idler"), pending::<()>()).unwrap().detach();
    let (partition, clock) = (rig.partition, rig.clock);
    let dies = async move {
        clock.advance(500);
        let cause = Cause {
            message: Some(format_args!("block {} is torn", 7)),
            location: Some(("src/reader.rs", 12, 34)),
            ..Cause::of(REASON_PANIC)
        };
        assert_eq!(record(partition, &cause), Recorded::Complete);
    };
    spawner.spawn(TaskOptions::normal("reader"), dies).unwrap().detach();
    partition.enter_running();
    let now = partition.begin_pass();
    partition.publish(now);
    partition.scheduler().tick(now);

    let (header, sections) = sections_of(&rig.part());
    assert_eq!((header.reason, header.sequence, header.incarnation), (REASON_PANIC, 1, 7));
    assert_eq!((header.state, header.tsc), (CRASH_COMPLETE, 1_500));
    assert_eq!(text(find(&sections, SectionKind::MESSAGE)), "block 7 is torn");
    let location = find(&sections, SectionKind::LOCATION);
    assert_eq!(as_head::<Location>(location), Location { line: 12, column: 34 });
    assert_eq!(text(&location[8..]), "src/reader.rs");
    let current: CurrentTask = as_head(find(&sections, SectionKind::CURRENT_TASK));
    assert_eq!((current.task, current.name.as_str()), (2, "reader"));
    assert_eq!((current.age_ticks, current.heartbeat), (500, 1));
    let tasks = find(&sections, SectionKind::TASKS);
    assert_eq!(as_head::<TasksHead>(tasks).total, 2);
    let tasks: Vec<TaskRecord> = elements(&tasks[8..]).collect();
    let names: Vec<_> = tasks.iter().map(|task| task.name.as_str().to_string()).collect();
    assert_eq!(names, ["idler", "reader"]);
    assert_eq!((tasks[0].figures.polls, tasks[1].figures.state), (1, TASK_RUNNING));
    let metrics: Vec<MetricRecord> = elements(find(&sections, SectionKind::METRICS)).collect();
    let beats = metrics.iter().find(|metric| metric.name.as_str() == "heartbeat").unwrap();
    assert_eq!(beats.value, 1);
    let program: Program = as_head(find(&sections, SectionKind::PROGRAM));
    assert_eq!(program.build_id, [0xB1; 20]);
}

#[test]
fn a_dump_that_was_asked_for_leaves_the_next_record_the_other_slot() {
    let rig = rig();
    for (sequence, slot) in [(1, 0), (2, 1), (3, 0)] {
        assert_eq!(record(rig.partition, &Cause::of(REASON_ASKED)), Recorded::Complete);
        let (index, header) = newest(&rig.part()).unwrap();
        assert_eq!((index, header.sequence), (slot, sequence));
    }
    assert_eq!(record(rig.partition, &Cause::of(REASON_PANIC)), Recorded::Complete);
    let before = rig.part();
    assert_eq!(record(rig.partition, &Cause::of(REASON_FAULT)), Recorded::Already);
    assert_eq!(rig.part(), before, "the first cause counts");
}

/// A source that falls over: the handler comes in again while it is at work.
struct Faulty {
    partition: &'static Partition,
    nested: Cell<Option<Recorded>>,
}

impl CrashSource for Faulty {
    fn record(&self, number: u32, recorder: &mut Recorder<'_>) {
        recorder.section(SectionKind::CONTROLLER, usize::MAX, |section| {
            section.head(&number);
            // As if a signal had come: what goes on after it is not committed any more by anybody
            // who is believed.
            self.nested.set(Some(super::record(self.partition, &Cause::of(REASON_FAULT))));
        });
    }

    fn record_commands(&self, _: u32, _: &mut Recorder<'_>) {}
}

#[test]
fn a_fault_inside_the_handler_leaves_what_was_committed() {
    let rig = rig();
    let faulty: &'static Faulty =
        Box::leak(Box::new(Faulty { partition: rig.partition, nested: Cell::new(None) }));
    assert_eq!(rig.partition.crash_sources().register(faulty), Some(0));
    let seen: &'static RefCell<Vec<u8>> = Box::leak(Box::default());
    struct Look {
        rig: Rig,
        seen: &'static RefCell<Vec<u8>>,
    }
    impl CrashSource for Look {
        fn record(&self, _: u32, _: &mut Recorder<'_>) {
            *self.seen.borrow_mut() = self.rig.part();
        }
        fn record_commands(&self, _: u32, _: &mut Recorder<'_>) {}
    }
    let partition = rig.partition;
    partition.crash_sources().register(Box::leak(Box::new(Look { rig, seen }))).unwrap();
    let cause = Cause { message: Some(format_args!("first")), ..Cause::of(REASON_PANIC) };
    assert_eq!(record(partition, &cause), Recorded::HandlerFailed);
    assert_eq!(faulty.nested.get(), Some(Recorded::HandlerFailed));
    // What a reader sees once the process has ended there: the nested call is its last act.
    let (index, header) = newest(&seen.borrow()).unwrap();
    assert_eq!((index, header.state), (0, CRASH_HANDLER_FAILED));
    assert_eq!(header.reason, REASON_PANIC);
    let part = seen.borrow();
    let kinds: Vec<_> =
        header.sections(slot(&part, 0)).map(|section| section.header.kind).collect();
    assert!(kinds.contains(&SectionKind::MESSAGE));
    assert_eq!(record(partition, &Cause::of(REASON_PANIC)), Recorded::Already);
}

/// Commands without end, to see where a record stops taking them.
#[cfg(not(miri))]
struct Commands;

#[cfg(not(miri))]
impl CrashSource for Commands {
    fn record(&self, _: u32, _: &mut Recorder<'_>) {}

    fn record_commands(&self, number: u32, recorder: &mut Recorder<'_>) {
        let command: CommandRecord = zerocopy::FromZeros::new_zeroed();
        let most = recorder.room_for_commands();
        recorder.section(SectionKind::COMMANDS, most, |section| {
            section.head(&CommandsHead { controller: number, total: 4095 });
            while section.element(&command) {}
        });
    }
}

#[cfg(not(miri))] // tens of thousands of checksummed bytes
#[test]
fn commands_leave_room_for_the_metrics() {
    let rig = rig();
    rig.partition.crash_sources().register(&Commands).unwrap();
    rig.partition.publish(rig.partition.begin_pass());
    record(rig.partition, &Cause::of(REASON_ASKED));
    let (_, sections) = sections_of(&rig.part());
    let commands = elements::<CommandRecord>(&find(&sections, SectionKind::COMMANDS)[8..]).count();
    assert!(commands >= 1_100, "{commands}");
    let metrics = elements::<MetricRecord>(find(&sections, SectionKind::METRICS)).count();
    let part = rig.region.part(PartKind::METRICS, METRICS_PART).unwrap();
    assert_eq!(metrics, MetricsReader::new(part).unwrap().len() as usize);
}

#[test]
fn queues_places_are_published_in_order_until_the_part_is_full() {
    let rig = rig();
    let sources = rig.partition.crash_sources();
    let place = QueuePlace {
        state: 0,
        entries: 256,
        controller: 0,
        qid: 1,
        slot_mask: 0xFF,
        sq_offset: 0x1000,
        cq_offset: 0x5000,
        shadow_offset: 0x9000,
        indices: 0,
        reserved: [0; 2],
    };
    sources.publish_shadow(0, 5);
    let published = (0..).take_while(|_| sources.publish_queue(place).is_some()).count();
    assert_eq!(published, 63);
    let part = rig.region.part(PartKind::QUEUES, QUEUES_PART).unwrap();
    let mut bytes = [0; 64];
    sources.publish_shadow(1, 0x77);
    part.read(64, &mut bytes).unwrap();
    assert_eq!(as_head::<QueuePlace>(&bytes).shadow_offset, 0x77);
    part.read(62 * 64, &mut bytes).unwrap();
    assert_eq!(as_head::<QueuePlace>(&bytes), QueuePlace { state: PLACE_VALID, ..place });
}

/// A slot whose writer is stopped after so many stores: a byte is one, a word is one.
struct Cutting {
    part: RefCell<Vec<u8>>,
    at: usize,
    left: Cell<usize>,
}

impl Cutting {
    fn store(&self, offset: usize, bytes: &[u8]) {
        if let Some(left) = self.left.get().checked_sub(1) {
            self.left.set(left);
            let at = self.at + offset;
            self.part.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
        }
    }
}

impl Store for Cutting {
    fn bytes(&self, offset: usize, bytes: &[u8]) {
        for (at, byte) in bytes.iter().enumerate() {
            self.store(offset + at, &[*byte]);
        }
    }

    fn word(&self, offset: usize, value: u32) {
        self.store(offset, &value.to_le_bytes());
    }
}

#[test]
fn a_writer_that_is_stopped_at_any_store_leaves_the_old_record_or_a_start_of_the_new_one() {
    let rig = rig();
    let partition = rig.partition;
    let say = |message: &str| {
        let cause = Cause {
            message: Some(format_args!("{message}")),
            location: Some(("src/a.rs", 1, 2)),
            ..Cause::of(REASON_ASKED)
        };
        record(partition, &cause);
    };
    // Both slots were used before, so that the new record is written over an older one.
    say("the oldest, whose bytes lie where the new one goes, and are longer");
    say("the old one");
    let before = rig.part();
    let (old_slot, old) = newest(&before).unwrap();
    assert_eq!((old_slot, old.sequence), (1, 2));
    let head = RecordHead { reason: REASON_PANIC, sequence: 3, tsc: 9, incarnation: 7 };
    let cause = Cause { message: Some(format_args!("the new one")), ..Cause::of(REASON_PANIC) };
    let write = |left: usize| {
        let cut = Cutting { part: RefCell::new(before.clone()), at: 0, left: Cell::new(left) };
        partition.crash_part().write_to(&cut, head, partition, &cause);
        let stores = left - cut.left.get();
        (cut.part.into_inner(), stores)
    };
    let (whole, stores) = write(usize::MAX);
    let (_, all) = sections_of(&whole);
    assert!(all.len() >= 5 && stores > 1_000, "{} sections, {stores} stores", all.len());
    let mut seen = vec![0; all.len() + 1];
    let step = if cfg!(miri) { stores / 2 } else { 1 };
    for k in (0..=stores).step_by(step) {
        let (part, _) = write(k);
        assert_eq!(slot(&part, old_slot), slot(&before, old_slot), "the old slot is left alone");
        let (header, sections) = sections_of(&part);
        if header.sequence == old.sequence {
            assert_eq!(header, old);
            assert_eq!(seen[1..].iter().sum::<usize>(), 0, "once the new one counts, it does");
            continue;
        }
        assert_eq!((header.sequence, header.reason), (3, REASON_PANIC));
        assert_eq!(sections, all[..sections.len()], "after {k} stores");
        assert_eq!(header.state == CRASH_COMPLETE, k == stores, "after {k} stores");
        assert!(matches!(header.state, CRASH_COMPLETE | CRASH_WRITING));
        seen[sections.len()] += 1;
    }
    if !cfg!(miri) {
        assert!(seen.iter().all(|times| *times > 0), "each length was seen: {seen:?}");
    }
}

/// Text that is longer than its section.
#[cfg(not(miri))]
struct Long(Cell<usize>);

#[cfg(not(miri))]
impl core::fmt::Display for Long {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        loop {
            self.0.set(self.0.get() + 1);
            f.write_str("x\u{e9}")?;
        }
    }
}

#[cfg(not(miri))]
#[test]
fn a_message_that_does_not_end_is_cut_at_a_letter() {
    let rig = rig();
    let long = Long(Cell::new(0));
    record(rig.partition, &Cause { message: Some(format_args!("{long}")), ..Cause::of(1) });
    let (_, sections) = sections_of(&rig.part());
    let message = find(&sections, SectionKind::MESSAGE);
    let expected: String = "x\u{e9}".repeat(1365);
    assert_eq!(text(message), expected.clone() + "x");
    assert_eq!(message.len(), 4096);
}

/// A stack made by hand: `frames` are (place of the frame, next frame, return address).
fn stack(frames: &[(usize, usize, u64)]) -> (StackRange, impl Fn(usize) -> u64 + use<>) {
    let words: *mut u64 = Box::leak(vec![0; 256].into_boxed_slice()).as_mut_ptr();
    let base = words.expose_provenance();
    let at = move |index: usize| if index == 0 { 0 } else { (base + 8 * index) as u64 };
    for (place, next, address) in frames {
        assert!(*place < 255);
        // SAFETY: inside of the leaked words, which nothing else names.
        unsafe { words.add(*place).cast::<[u64; 2]>().write([at(*next), *address]) };
    }
    // SAFETY: leaked, and nobody writes any more.
    (unsafe { StackRange::new(base, base + 256 * 8) }, at)
}

fn walked(from: Frame, stacks: &[StackRange]) -> (Vec<u64>, u32) {
    let mut out = [0; BACKTRACE_MAX];
    let (count, end) = walk(from, stacks, &mut out);
    (out[..count].to_vec(), end)
}

#[test]
fn frames_are_walked_to_the_root() {
    let (stack, at) = stack(&[(10, 20, 111), (20, 30, 222), (30, 0, 333)]);
    let from = Frame { ip: 7, fp: at(10), sp: None };
    assert_eq!(walked(from, &[stack]), (vec![7, 111, 222, 333], BACKTRACE_ROOT));
    let without_frame = Frame { sp: Some(at(21)), ..from };
    assert_eq!(walked(without_frame, &[stack]).0, [7, 222, 111, 222, 333]);
}

#[test]
fn frames_that_lie_end_the_walk() {
    let (high, at) = stack(&[(10, 20, 1), (20, 15, 2), (15, 0, 3)]);
    assert_eq!(walked(Frame { ip: 7, fp: at(10), sp: None }, &[high]).1, BACKTRACE_BROKEN);
    let itself = stack(&[(10, 10, 1)]);
    let from = Frame { ip: 7, fp: itself.1(10), sp: None };
    assert_eq!(walked(from, &[itself.0]), (vec![7, 1], BACKTRACE_BROKEN));
    for fp in [1, at(10) + 4, at(255), at(256), u64::MAX, u64::MAX - 7] {
        let left = walked(Frame { ip: 7, fp, sp: Some(fp) }, &[high]);
        assert!(left.0.len() <= 2 && left.1 == BACKTRACE_LEFT_STACK, "{fp:#x}: {left:?}");
    }
    let frames: Vec<_> = (1..=100).map(|n| (2 * n, 2 * n + 2, 5)).collect();
    let (deep, at) = stack(&frames);
    let (addresses, end) = walked(Frame { ip: 5, fp: at(2), sp: None }, &[deep]);
    assert_eq!((addresses.len(), end), (BACKTRACE_MAX, BACKTRACE_FULL));
}

#[test]
fn a_walk_goes_from_the_alternate_stack_to_the_other_once() {
    let (other, at_other) = stack(&[(40, 0, 9)]);
    let (alternate, at) = stack(&[(10, 0, 1)]);
    // By hand: the alternate stack's only frame leads to the other one.
    let to = at_other(40);
    let place = core::ptr::with_exposed_provenance_mut::<u64>(usize::try_from(at(10)).unwrap());
    // SAFETY: inside of the leaked stack.
    unsafe { place.write(to) };
    let from = Frame { ip: 7, fp: at(10), sp: None };
    assert_eq!(walked(from, &[alternate, other]), (vec![7, 1, 9], BACKTRACE_ROOT));
    assert_eq!(walked(from, &[other, alternate]), (vec![7, 1], BACKTRACE_BROKEN));
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[test]
fn a_real_backtrace_leads_through_its_callers() {
    #[inline(never)]
    fn inner(stacks: &[StackRange]) -> (Vec<u64>, u32) {
        let found = walked(here(), stacks);
        core::hint::black_box(found)
    }
    #[inline(never)]
    fn outer(stacks: &[StackRange]) -> (Vec<u64>, u32) {
        let found = inner(stacks);
        core::hint::black_box(found)
    }
    let here = here();
    let low = usize::try_from(here.fp).unwrap() & !4095;
    // SAFETY: the pages around this frame, which is live; two pages below it are the callees'.
    let stack = unsafe { StackRange::new(low - 8192, low + 4096) };
    let (addresses, end) = outer(&[stack]);
    assert!(addresses.len() >= 3 && end != BACKTRACE_BROKEN, "{addresses:x?} {end}");
    let within = |address: u64, function: usize| address.wrapping_sub(function as u64) < 512;
    assert!(within(addresses[0], inner as *const () as usize));
    assert!(within(addresses[1], outer as *const () as usize));
}

#[test]
fn the_backtrace_is_in_the_record() {
    let rig = rig();
    let (stack, at) = stack(&[(10, 20, 0x111), (20, 0, 0x222)]);
    let cause = Cause {
        frame: Some(Frame { ip: 0x99, fp: at(10), sp: None }),
        stacks: &[stack],
        ..Cause::of(REASON_FAULT)
    };
    record(rig.partition, &cause);
    let (_, sections) = sections_of(&rig.part());
    let backtrace = find(&sections, SectionKind::BACKTRACE);
    assert_eq!(as_head::<BacktraceHead>(backtrace).end, BACKTRACE_ROOT);
    assert_eq!(elements::<u64>(&backtrace[8..]).collect::<Vec<_>>(), [0x99, 0x111, 0x222]);
}
