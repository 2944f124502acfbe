//! The journal on our driver over the model: the shell around its engine, which the simulation of
//! `journal/tests/sim` does not see.

use std::cell::Cell;
use std::rc::Rc;

use core_runtime::mem::Bump;
use core_runtime::task::{Either, Scheduler, SchedulerConfig, TaskOptions, select};
use hybrid_conformance::{Backend, Rig, Stepped, quick};
use journal::{
    AppendError, Cursor, DeviceMedium, Ended, FormatOptions, From, Journal, JournalError,
    JournalParts, Limits, Medium, Priority, Promise, Recovered, Seek, format, recover, take_over,
};
use nvme_driver::spec::{NvmOpcode, StatusCode};
use nvme_driver::{BlockDevice, ControllerConfig, IoError};
use nvme_model::{
    ControllerFault, FaultAction, FaultPlan, FaultRule, ModelConfig, NamespaceConfig, When,
};

const CHUNK: usize = 256 << 10;

fn rig(model: ModelConfig) -> Rig<Stepped> {
    let namespaces = vec![NamespaceConfig::memory(1, 8192)];
    quick(ModelConfig { namespaces, ..model }, ControllerConfig::default())
}

fn medium(rig: &Rig<Stepped>) -> DeviceMedium {
    let device = BlockDevice::Nvme(rig.ns());
    let promise = Promise::of(device, Some(rig.controller));
    DeviceMedium::new(device, promise, rig.arena, CHUNK).expect("memory")
}

fn options() -> FormatOptions {
    FormatOptions { segment_bytes: 1 << 20, ..FormatOptions::new(77, "conformance") }
}

fn found(rig: &Rig<Stepped>, from: From) -> Recovered {
    rig.run(recover(&mut medium(rig), from)).expect("a journal")
}

fn open(rig: &Rig<Stepped>, limits: Limits) -> &'static Journal {
    let mut medium = medium(rig);
    let found = rig.run(recover(&mut medium, From::Checkpoint)).expect("a journal");
    let superblock = rig.run(take_over(&mut medium, &found)).expect("an epoch");
    let (device, promise) = (BlockDevice::Nvme(rig.ns()), medium.promise());
    let parts = JournalParts { device, promise, arena: rig.arena, superblock, limits };
    Journal::new(parts, &Bump::leak(64 << 10)).expect("a log")
}

fn payload(sequence: u64) -> Vec<u8> {
    let len = usize::try_from(sequence.wrapping_mul(7919) % 700).expect("small");
    vec![u8::try_from(sequence % 251).expect("a byte"); len]
}

/// Runs `work` beside the log's task.
fn run<T>(rig: &Rig<Stepped>, log: &'static Journal, work: impl Future<Output = T>) -> T {
    match rig.run(select(log.run(), work)) {
        Either::First(ended) => panic!("the log ended: {ended}"),
        Either::Second(value) => value,
    }
}

async fn append_all(log: &Journal, from: u64, to: u64) -> Result<(), Ended> {
    for sequence in from..to {
        loop {
            match log.append(Priority::High, 1, sequence * 10, &payload(sequence)) {
                Ok(given) => {
                    assert_eq!(given, sequence);
                    break;
                }
                Err(AppendError::Ended(ended)) => return Err(ended),
                Err(_) => log.room().await?,
            }
        }
    }
    Ok(())
}

fn read(rig: &Rig<Stepped>, found: &Recovered, seek: Seek) -> (u64, u64) {
    let mut medium = medium(rig);
    let mut cursor = rig.run(Cursor::open(&mut medium, found, seek)).expect("a cursor");
    let (mut first, mut count) = (None, 0);
    let mut check = |record: &journal::layout::RecordView<'_>| {
        let sequence = record.header.sequence;
        assert_eq!(*first.get_or_insert(sequence) + count, sequence);
        assert_eq!(record.payload, payload(sequence));
        count += 1;
    };
    while rig.run(cursor.advance(&mut medium, &mut check)).expect("whole") {}
    (first.unwrap_or(0), count)
}

#[test]
fn a_log_goes_round_its_ring_is_truncated_and_is_read_from_anywhere() {
    for volatile_write_cache in [true, false] {
        let rig = rig(ModelConfig { volatile_write_cache, ..ModelConfig::default() });
        rig.run(format(&mut medium(&rig), &options())).expect("a journal");
        let log = open(&rig, Limits { checkpoint_records: 5_000, ..Limits::default() });
        let mut done = 0;
        // 32 MiB go through a ring of 31 segments of 1 MiB, more than twice.
        while log.acknowledged().position < 70 << 20 {
            run(&rig, log, append_all(log, done, done + 4000)).expect("it goes on");
            done += 4000;
            run(&rig, log, log.sync()).expect("durable");
            let at = log.acknowledged();
            if at.position > 8 << 20 {
                let wanted = at.sequence - 3000;
                let now = Recovered { tail: at, ..found(&rig, From::Checkpoint) };
                let mut medium = medium(&rig);
                let cursor = Cursor::open(&mut medium, &now, Seek::Sequence(wanted));
                let position = rig.run(cursor).expect("a place").position();
                run(&rig, log, log.truncate(position, wanted)).expect("room");
            }
        }
        run(&rig, log, log.close()).expect("an orderly end");
        assert_eq!(rig.run(log.run()), Ended::Closed);
        let stats = log.stats();
        assert_eq!((stats.appends, stats.indexes_lost), (done, 0));
        assert!(stats.indexes > 60 && stats.checkpoints > 5, "{stats:?}");
        assert_eq!(stats.flushes > 0, volatile_write_cache);
        let found = found(&rig, From::Front);
        assert_eq!((found.tail.sequence, found.superblock.front_sequence), (done, done - 3000));
        assert_eq!(read(&rig, &found, Seek::Front), (done - 3000, 3000));
        for sequence in [done - 2999, done - 1234, done - 1] {
            let whole = (sequence, done - sequence);
            assert_eq!(read(&rig, &found, Seek::Sequence(sequence)), whole);
            assert_eq!(read(&rig, &found, Seek::Time(sequence * 10)), whole);
        }
        rig.finish();
    }
}

#[test]
fn a_log_that_was_dropped_in_flight_keeps_what_it_acknowledged() {
    let rig = rig(ModelConfig::default());
    rig.run(format(&mut medium(&rig), &options())).expect("a journal");
    let mut next = 0;
    for _ in 0..20 {
        let log = open(&rig, Limits::default());
        assert!(log.next_sequence() >= next);
        next = log.next_sequence();
        run(&rig, log, async {
            append_all(log, next, next + 300).await.expect("room");
            log.durable(next + 100).await.expect("durable");
        });
        next = log.acknowledged().sequence;
    }
    let found = found(&rig, From::Front);
    assert!(found.tail.sequence >= next);
    read(&rig, &found, Seek::Front);
}

#[test]
fn a_flush_that_fails_ends_the_log_and_all_who_wait() {
    let rig = rig(ModelConfig { volatile_write_cache: true, ..ModelConfig::default() });
    rig.run(format(&mut medium(&rig), &options())).expect("a journal");
    let log = open(&rig, Limits::default());
    run(&rig, log, append_all(log, 0, 100)).expect("room");
    run(&rig, log, log.sync()).expect("durable");
    let action = FaultAction::Status(StatusCode::INTERNAL_ERROR.status());
    let rule = FaultRule::io(NvmOpcode::FLUSH, action).when(When::Nth(1));
    rig.backend.with_model(|m| m.reconfigure(|c| c.faults = FaultPlan::none().with(rule)));
    let sequence = log.append(Priority::High, 1, 0, &payload(100)).expect("room");
    // The log's task ends first, or in the same turn; who waits hears it either way.
    let (mut ended, mut outcome) = (None, None);
    while ended.is_none() || outcome.is_none() {
        match rig.run(select(log.run(), log.durable(sequence))) {
            Either::First(why) => ended = Some(why),
            Either::Second(heard) => outcome = Some(heard),
        }
        if ended.is_some() && outcome.is_none() {
            outcome = Some(rig.run(log.durable(sequence)));
        }
    }
    let (ended, outcome) = (ended.expect("set above"), outcome.expect("set above"));
    assert!(matches!(ended, Ended::Flush(_)), "{ended}");
    assert_eq!(outcome, Err(ended));
    assert_eq!(log.acknowledged().sequence, 100, "what was acknowledged stays so");
    let refused = log.append(Priority::High, 1, 0, b"more");
    assert_eq!(refused, Err(AppendError::Ended(ended)));
    rig.backend.with_model(|m| m.reconfigure(|c| c.faults = FaultPlan::none()));
    assert!(found(&rig, From::Front).tail.sequence >= 100);
}

#[test]
fn a_journal_is_opened_and_read_though_its_reads_are_lost_and_no_write_is_repeated() {
    let rig = rig(ModelConfig::default());
    rig.run(format(&mut medium(&rig), &options())).expect("a journal");
    let log = open(&rig, Limits::default());
    run(&rig, log, append_all(log, 0, 2_000)).expect("room");
    run(&rig, log, log.close()).expect("durable");
    let fatal = FaultAction::Controller(ControllerFault::Fatal);
    let faults = |opcode, when| {
        let plan = FaultPlan::none().with(FaultRule::io(opcode, fatal).when(when));
        rig.backend.with_model(|m| m.reconfigure(|c| c.faults = plan));
    };
    // A read is several commands; of two tries in a row at most one is hit.
    faults(NvmOpcode::READ, When::Every(7));
    let found = found(&rig, From::Front);
    assert_eq!((found.tail.sequence, read(&rig, &found, Seek::Front)), (2_000, (0, 2_000)));
    let repeated = rig.controller.stats().reads_repeated;
    assert!(repeated >= 2, "{repeated} repeats");
    // A write that is lost is lost.
    faults(NvmOpcode::WRITE, When::Nth(1));
    let lost = rig.run(take_over(&mut medium(&rig), &found)).expect_err("a lost write");
    assert!(matches!(lost, JournalError::Io(IoError::Reset(_))), "{lost}");
    assert_eq!(rig.controller.stats().reads_repeated, repeated);
    faults(NvmOpcode::WRITE, When::Nth(u64::MAX));
    assert_eq!(self::found(&rig, From::Front).tail.sequence, 2_000);
}

/// A feed's task of the latency class: an event every `EVERY_NS`, each appended where it comes.
const EVERY_NS: u64 = 10_000;
/// Low, normal, high, and again.
const PRIORITIES: [Priority; 3] = [Priority::Low, Priority::Normal, Priority::High];

/// What became of the events.
#[derive(Debug, Default)]
struct Events {
    /// Appends that were tried, by priority; and those that were taken.
    tried: [Cell<u64>; 3],
    taken: [Cell<u64>; 3],
    /// Turned away because no buffer was free.
    busy: Cell<u64>,
    /// Longest time from when an event was due to the end of its append.
    late_ns: Cell<u64>,
}

fn more(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

/// The loop of a partition, a microsecond a pass, with the log's task and the feed's; `each` is
/// called after each pass, and ends it.
fn with_a_feed(
    rig: &Rig<Stepped>,
    log: &'static Journal,
    bytes: usize,
    mut each: impl FnMut(&Events) -> bool,
) -> Rc<Events> {
    let clock = rig.backend.parts().clock();
    let scheduler = Scheduler::new(SchedulerConfig::default(), clock, &Bump::leak(4 << 20));
    let scheduler = scheduler.expect("memory");
    let spawner = scheduler.spawner();
    let run = async move { _ = log.run().await };
    spawner.spawn(TaskOptions::normal("log"), run).expect("room").detach();
    let events = Rc::new(Events::default());
    let feed = {
        let events = events.clone();
        async move {
            let mut beats = spawner.interval(clock.ns_to_ticks(EVERY_NS));
            let payload = vec![7; bytes];
            for priority in (0..3).cycle() {
                let due = beats.beat().await;
                assert_eq!(beats.missed(), 0, "an event was late by more than the next one");
                more(&events.tried[priority]);
                match log.append(PRIORITIES[priority], 1, due.ticks(), &payload) {
                    Ok(_) => more(&events.taken[priority]),
                    Err(AppendError::Shed { priority: shed, .. }) => {
                        assert_eq!(shed, PRIORITIES[priority]);
                    }
                    Err(AppendError::Busy { .. }) => more(&events.busy),
                    Err(error) => panic!("{error}"),
                }
                // The clock moves between passes alone: an append that waited would show in it.
                let late = clock.ticks_to_ns(clock.now().since(due));
                events.late_ns.set(events.late_ns.get().max(late));
            }
        }
    };
    spawner.spawn(TaskOptions::latency("feed"), feed).expect("room").detach();
    while !each(&events) {
        let now = rig.backend.now();
        rig.controller.poll(now);
        scheduler.tick(now);
        rig.controller.ring();
        rig.backend.pass(false);
    }
    events
}

/// Writes take `ns` longer from now on.
fn writes_take(rig: &Rig<Stepped>, ns: u64) {
    let rule = FaultRule::io(NvmOpcode::WRITE, FaultAction::DelayNs(ns));
    let plan = if ns == 0 { FaultPlan::none() } else { FaultPlan::none().with(rule) };
    rig.backend.with_model(|model| model.reconfigure(|config| config.faults = plan));
}

#[test]
fn a_stuck_device_never_makes_the_latency_class_wait_and_sheds_by_priority() {
    // Small records that the bound on records turns away, and large ones that find no buffer.
    for (bytes, pending_records, slots) in [(128, 100, 8), (40_000, 1000, 4)] {
        let rig = rig(ModelConfig { volatile_write_cache: true, ..ModelConfig::default() });
        rig.run(format(&mut medium(&rig), &options())).expect("a journal");
        let limits = Limits { pending_records, slots, in_flight: 2, ..Limits::default() };
        let log = open(&rig, limits);
        let ended = rig.backend.now().ticks() + 1_000_000;
        let quiet = with_a_feed(&rig, log, bytes, |_| rig.backend.now().ticks() > ended);
        let before = log.stats();
        assert_eq!((before.shed, before.busy), ([0; 3], 0), "a device at work keeps up");
        assert!(quiet.late_ns.get() <= 1_000, "{quiet:?}");

        // The device stands still for 40 ms: four thousand events.
        writes_take(&rig, 40_000_000);
        let begun = rig.backend.now().ticks();
        let (mut released, mut held) = (false, 0);
        let stuck = with_a_feed(&rig, log, bytes, |_| {
            let now = rig.backend.now().ticks() - begun;
            if now > 38_000_000 && !released {
                held = log.next_sequence() - log.acknowledged().sequence;
                writes_take(&rig, 0);
                released = true;
            }
            now > 41_000_000 && log.acknowledged().sequence > held + before.appends
        });
        let stats = log.stats();
        assert_eq!(stuck.late_ns.get(), quiet.late_ns.get(), "no event waited for the device");
        let refused: Vec<u64> = stuck
            .tried
            .iter()
            .zip(&stuck.taken)
            .map(|(all, taken)| all.get() - taken.get())
            .collect();
        let counted = stats.shed.iter().sum::<u64>() + stats.busy;
        assert_eq!(counted, refused.iter().sum::<u64>(), "every rejection is counted");
        assert_eq!(stats.busy, stuck.busy.get());
        if bytes == 128 {
            assert_eq!(
                (held, stats.pending_max, stats.busy),
                (100, 100, 0),
                "the bound, and no more"
            );
            assert_eq!(Vec::from(stats.shed), refused);
            let [low, normal, high] = stats.shed;
            assert!(low > normal && normal > high && high > 1_000, "{:?}", stats.shed);
        } else {
            assert_eq!(held, u64::from(slots), "a record fills a batch here");
            assert!(stats.busy > 3_500, "{stats:?}");
        }
        // It works again: all that was taken is durable, in order, and nothing else.
        run(&rig, log, log.close()).expect("an orderly end");
        let taken = log.stats().appends;
        assert_eq!(
            taken,
            [&quiet, &stuck].iter().flat_map(|e| &e.taken).map(Cell::get).sum::<u64>()
        );
        assert_eq!(found(&rig, From::Front).tail.sequence, taken);
    }
}
