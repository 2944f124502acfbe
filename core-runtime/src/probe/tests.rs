//! The ring, its policies, freezes and registers.

use std::boxed::Box;
use std::string::String;
use std::vec;
use std::vec::Vec;

use hybrid_abi::probe::view::{Cursor, RingView};
use hybrid_abi::probe::{
    MASK_ALL, POLICY_DROP, POLICY_OVERWRITE, ProbeEntry, ProbeRecord, dictionary, entries,
    parse_groups, probe_id,
};
use hybrid_shm::leak_aligned;

use super::*;
use crate::clock::ManualClock;

crate::probe! {
    /// One of the driver's.
    IO = "test.io", DRIVER, DEBUG, "an I/O"
        (task: TASK COUNT, bytes: NUMBER BYTES, took: TICKS TICKS);
    /// A rare one.
    RARE = "test.rare", DRIVER, ERROR, "a rare event" (code: NUMBER COUNT);
    /// Another group's.
    FEED = "test.feed", FEED, DEBUG, "a stage" ();
}

crate::register! {
    /// A depth.
    DEPTH = "test.depth", "a depth", COUNT;
}

struct Rig {
    probes: &'static Probes,
    ring: Span<'static>,
    bank: Span<'static>,
    control: Span<'static>,
    clock: &'static ManualClock,
    wishes: ProbeControl,
}

impl Rig {
    fn new(capacity: u32, groups: &str) -> Self {
        let clock: &'static ManualClock = Box::leak(Box::new(ManualClock::new(1000)));
        let probes: &'static Probes = Box::leak(Box::new(Probes::off(Clock::manual(clock))));
        let ring = leak_aligned(ProbeHeader::part_bytes(capacity), 128);
        let bank = leak_aligned(hybrid_abi::probe::registers::BANK_BYTES, 128);
        let control = leak_aligned(CONTROL_BYTES, 128);
        let mut rig = Self { probes, ring, bank, control, clock, wishes: ProbeControl::default() };
        rig.wishes.mask = parse_groups(groups).unwrap();
        rig.publish();
        probes.attach(ring, bank, control.read_only(), capacity).unwrap();
        rig
    }

    /// The host's side: everything, then the generation.
    fn publish(&mut self) {
        self.wishes.generation += 1;
        self.control.write(0, self.wishes.as_bytes()).unwrap();
    }

    fn pass(&self) -> bool {
        self.clock.advance(100);
        self.probes.begin_pass(Clock::manual(self.clock).now())
    }

    fn read(&self, cursor: &mut Cursor) -> Vec<ProbeRecord> {
        let part = self.ring.read_only();
        let view = RingView::new(&part, part.len() as u64).unwrap();
        let mut records = vec![ProbeRecord::default(); 64];
        let seen = view.read(&part, cursor, &mut records);
        records.truncate(seen.count);
        records
    }

    fn words(&self) -> ProbeWords {
        let part = self.ring.read_only();
        RingView::new(&part, part.len() as u64).unwrap().words(&part).unwrap()
    }
}

#[test]
fn what_is_on_is_written_and_what_is_off_is_not() {
    let rig = Rig::new(64, "driver:error");
    IO.emit(rig.probes, 1, 2, 3);
    FEED.emit(rig.probes, 1, 2, 3);
    RARE.emit(rig.probes, 7, 0, 0);
    let mut cursor = Cursor::default();
    let records = rig.read(&mut cursor);
    let expected = ProbeRecord { tsc: 1000, id: probe_id("test.rare"), a: 7, b: 0, c: 0 };
    assert_eq!(records, [expected]);
    assert_eq!((rig.probes.written(), cursor.next), (1, 1));
}

#[test]
fn stamps_are_the_callers_the_passs_or_their_own() {
    let rig = Rig::new(64, "all");
    rig.pass();
    let pass = rig.probes.stamp.get();
    IO.emit_stamped(rig.probes, 1, 0, 0);
    IO.emit_at(rig.probes, Instant::from_ticks(77), 2, 0, 0);
    rig.clock.advance(50);
    IO.emit(rig.probes, 3, 0, 0);
    IO.emit_stamped(rig.probes, 4, 0, 0);
    let seen: Vec<_> = rig.read(&mut Cursor::default()).iter().map(|r| (r.a, r.tsc)).collect();
    let own = seen[2].1;
    assert!(own >= pass + 50);
    assert_eq!(seen, [(1, pass), (2, 77), (3, own), (4, own)]);
}

#[test]
fn groups_change_at_the_next_pass_and_not_before() {
    let mut rig = Rig::new(64, "none");
    IO.emit(rig.probes, 1, 0, 0);
    rig.wishes.mask = MASK_ALL;
    rig.publish();
    IO.emit(rig.probes, 2, 0, 0);
    assert!(rig.pass(), "the mask has changed");
    assert!(!rig.pass());
    IO.emit(rig.probes, 3, 0, 0);
    rig.wishes.mask = 0;
    rig.publish();
    assert!(rig.pass());
    IO.emit(rig.probes, 4, 0, 0);
    let seen: Vec<_> = rig.read(&mut Cursor::default()).iter().map(|r| r.a).collect();
    assert_eq!(seen, [3]);
    assert_eq!(rig.words().mask, 0);
}

#[test]
fn an_overwriting_ring_keeps_the_newest_and_the_reader_counts_the_rest() {
    let rig = Rig::new(16, "all");
    for number in 0..100 {
        IO.emit(rig.probes, number, 0, 0);
    }
    let mut cursor = Cursor::default();
    let seen: Vec<_> = rig.read(&mut cursor).iter().map(|r| r.a).collect();
    // One place may be being overwritten at any time.
    assert_eq!(seen, (85..100).collect::<Vec<_>>());
    assert_eq!((cursor.lost, rig.probes.dropped()), (85, 0));
}

#[test]
fn a_dropping_ring_keeps_the_oldest_and_counts_what_it_drops() {
    let mut rig = Rig::new(16, "all");
    rig.wishes.policy = POLICY_DROP;
    rig.publish();
    rig.pass();
    for number in 0..20 {
        IO.emit(rig.probes, number, 0, 0);
    }
    assert_eq!((rig.probes.written(), rig.words().dropped), (15, 5));
    let mut cursor = Cursor::default();
    let seen: Vec<_> = rig.read(&mut cursor).iter().map(|r| r.a).collect();
    assert_eq!((seen, cursor.lost), ((0..15).collect(), 0), "nothing that is there is lost");
    // The host reads, and says so without a new generation.
    let taken = rig.control.word64(offset_of!(ProbeControl, taken)).unwrap();
    taken.store_release(10);
    for number in 20..40 {
        IO.emit(rig.probes, number, 0, 0);
    }
    assert_eq!((rig.probes.written(), rig.words().dropped), (25, 15));
    // A host that lies gets no more than the ring: what was written counts as read.
    taken.store_release(u64::MAX);
    for number in 40..100 {
        IO.emit(rig.probes, number, 0, 0);
    }
    let written = rig.probes.written();
    assert_eq!(written + rig.probes.dropped(), 100);
    rig.wishes.policy = POLICY_OVERWRITE;
    rig.publish();
    rig.pass();
    for number in 100..200 {
        IO.emit(rig.probes, number, 0, 0);
    }
    assert_eq!(rig.probes.written(), written + 100);
}

#[test]
fn a_threshold_freezes_the_ring_until_the_host_thaws_it() {
    let mut rig = Rig::new(64, "all");
    rig.wishes.latency_over = 500;
    rig.publish();
    rig.pass();
    IO.emit(rig.probes, 1, 0, 0);
    rig.probes.check_latency(Ticks::new(500));
    IO.emit(rig.probes, 2, 0, 0);
    rig.probes.check_latency(Ticks::new(501));
    IO.emit(rig.probes, 3, 0, 0);
    rig.probes.check_latency(Ticks::new(900));
    let words = rig.words();
    assert_eq!((words.frozen, words.freeze_reason, words.freeze_value), (1, FREEZE_LATENCY, 501));
    assert_eq!(words.mask, 0);
    let seen: Vec<_> = rig.read(&mut Cursor::default()).iter().map(|r| (r.id, r.a)).collect();
    let (io, freeze) = (probe_id("test.io"), probe_id("trace.freeze"));
    assert_eq!(seen, [(io, 1), (io, 2), (freeze, FREEZE_LATENCY)]);
    // Other wishes do not thaw it.
    rig.publish();
    rig.pass();
    IO.emit(rig.probes, 4, 0, 0);
    assert_eq!(rig.probes.written(), 3);
    rig.wishes.thawed = 1;
    rig.publish();
    assert!(rig.pass());
    IO.emit(rig.probes, 5, 0, 0);
    let seen: Vec<_> = rig.read(&mut Cursor { next: 3, lost: 0 }).iter().map(|r| r.id).collect();
    assert_eq!(seen, [probe_id("trace.thaw"), io]);
}

#[test]
fn budgets_stolen_time_and_the_host_freeze_too() {
    for (reason, name) in
        [(FREEZE_BUDGET, "budget"), (FREEZE_STOLEN, "stolen"), (FREEZE_ASKED, "asked")]
    {
        let mut rig = Rig::new(64, "sched");
        (rig.wishes.budget_over, rig.wishes.stolen_over) = (10, 10);
        rig.publish();
        rig.pass();
        match reason {
            FREEZE_BUDGET => rig.probes.check_budget(7, Ticks::new(11)),
            FREEZE_STOLEN => rig.probes.check_stolen(Ticks::new(11)),
            _ => {
                rig.wishes.freezes = 1;
                rig.publish();
                rig.pass();
            }
        }
        let words = rig.words();
        assert_eq!((words.frozen, words.freeze_reason), (1, reason));
        assert_eq!(hybrid_abi::probe::freeze_name(reason), name);
        assert_eq!(words.freeze_task, if reason == FREEZE_BUDGET { 7 } else { 0 });
    }
}

#[test]
fn probes_without_a_region_do_nothing() {
    let clock: &'static ManualClock = Box::leak(Box::new(ManualClock::new(1)));
    let probes = Probes::off(Clock::manual(clock));
    probes.mask.set(MASK_ALL);
    IO.emit(&probes, 1, 2, 3);
    assert!(!probes.begin_pass(Instant::from_ticks(5)));
    probes.check_latency(Ticks::MAX);
    probes.registers().add(DEPTH).set(5);
    assert_eq!((probes.written(), probes.registers().add(DEPTH).get()), (0, 0));
}

#[test]
fn a_register_is_found_by_name_and_holds_the_last_value() {
    let rig = Rig::new(16, "none");
    let depth = rig.probes.registers().add(DEPTH);
    depth.set(3);
    depth.set(4);
    assert_eq!(rig.probes.registers().add(DEPTH).get(), 4);
    let mut bytes = vec![0; rig.bank.len()];
    rig.bank.read(0, &mut bytes).unwrap();
    use hybrid_abi::probe::registers::{RegistersHeader, register_offset};
    let header = RegistersHeader::parse(&bytes, bytes.len() as u64).unwrap();
    let found: Vec<_> = (0..header.count)
        .map(|index| {
            let at = register_offset(index);
            let entry = hybrid_abi::probe::RegisterEntry::read_from_prefix(&bytes[at..]).unwrap().0;
            (String::from(entry.name.as_str()), entry.value)
        })
        .collect();
    assert_eq!(found, [("trace.mask".into(), 0), ("test.depth".into(), 4)]);
}

#[test]
fn a_full_bank_gives_registers_that_keep_nothing() {
    let rig = Rig::new(16, "none");
    let names: Vec<&'static str> =
        (0..70).map(|n| &*Box::leak(std::format!("test.r{n}").into_boxed_str())).collect();
    let last = names.iter().map(|name| {
        let entry = ProbeEntry::new(
            dictionary::KIND_REGISTER,
            (name, ""),
            (Group::APP, Level::INFO),
            [ProbeField::NONE; 3],
            ("", 0),
        );
        let spec = RegisterSpec::new(name, MetricUnit::COUNT, Box::leak(Box::new(entry)));
        let register = rig.probes.registers().add(spec);
        register.set(9);
        register.get()
    });
    assert_eq!(last.filter(|value| *value == 9).count(), 62);
}

/// The dictionary in this very program's file.
#[test]
#[cfg_attr(miri, expect(unused, reason = "no files there"))]
fn the_programs_file_has_a_dictionary_without_collisions() {
    if cfg!(miri) {
        return;
    }
    let program = std::fs::read("/proc/self/exe").expect("this program");
    let mut read = |at: u64, into: &mut [u8]| {
        let from = usize::try_from(at).unwrap_or(usize::MAX);
        let bytes = from.checked_add(into.len()).and_then(|end| program.get(from..end));
        bytes.map(|bytes| into.copy_from_slice(bytes)).is_some()
    };
    let (offset, len) = dictionary::section_of(&mut read).expect("a section");
    let (offset, len) = (usize::try_from(offset).unwrap(), usize::try_from(len).unwrap());
    let section = &program[offset..][..len];
    let all: Vec<ProbeEntry> = entries(section).collect();
    assert_eq!(all.len() * dictionary::ENTRY_BYTES, section.len(), "nothing else is in it");
    let io = all.iter().find(|entry| entry.name.as_str() == "test.io").expect("it");
    assert_eq!(io, IO.entry());
    assert_eq!(io.file.as_str(), "core-runtime/src/probe/tests.rs");
    assert_eq!(io.about.as_str(), "an I/O");
    for (entry, other) in all.iter().flat_map(|entry| all.iter().map(move |other| (entry, other))) {
        // A test program has the library in it twice.
        let same = entry.id == other.id;
        assert_eq!(same, entry.name == other.name, "{entry:?} and {other:?}: rename one");
    }
}
