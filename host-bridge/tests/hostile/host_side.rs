//! The host looks at a partition's region.

use std::time::{Duration, Instant};

use core_runtime::clock::{Clock, ManualClock};
use core_runtime::crash::{Cause, record};
use core_runtime::mem::{Bump, DmaRegion, Iova};
use core_runtime::metrics::{MetricValue, MetricsReader};
use core_runtime::partition::state::StateReader;
use core_runtime::partition::{
    COMMANDS_RING, EVENTS_RING, METRICS_PART, Partition, PartitionConfig, PartitionParts,
    RingSizes, STATE_PART, lay_out_host_region,
};
use core_runtime::region::{RegionFacts, RegionReader};
use core_runtime::ring::{RecordConsumer, RecordProducer, RingSpec, RingStats};
use core_runtime::task::SchedulerConfig;
use hybrid_abi::alert::{Alert, Severity};
use hybrid_abi::crash::{self, REASON_PANIC};
use hybrid_abi::event::{Pong, Status, Text};
use hybrid_abi::region::PartKind;
use hybrid_abi::{Record, crash::SectionKind};
use hybrid_conventions::testing;
use hybrid_shm::{ReadSpan, Span};

use crate::memory::{Random, Target, copy_of, guarded};

pub(crate) const RINGS: RingSizes = RingSizes { events: 4096, commands: 4096 };

pub(crate) fn config() -> PartitionConfig {
    PartitionConfig {
        scheduler: SchedulerConfig {
            max_tasks: 4,
            max_timers: 4,
            task_memory_bytes: 16 << 10,
            ..SchedulerConfig::default()
        },
        more_metrics: 8,
        more_histograms: 2,
        ..PartitionConfig::default()
    }
}

pub(crate) const FACTS: RegionFacts = RegionFacts {
    boot_id: [1; 16],
    build_id: [2; 20],
    partition: 1,
    incarnation: 3,
    tsc_hz: 1_000_000_000,
    anchor_tsc: 5,
    anchor_unix_ns: 6,
};

pub(crate) const fn lines(bytes: usize) -> usize {
    bytes.next_multiple_of(128)
}

/// A partition that has lived for a while, and its region.
struct Lived {
    region: Span<'static>,
    stale: Vec<u8>,
}

fn lived() -> Lived {
    let config = config();
    let clock = Box::leak(Box::new(ManualClock::new(1_000)));
    let host = guarded(lines(RINGS.host_region_bytes()));
    lay_out_host_region(host, FACTS, RINGS).expect("it fits");
    let region = guarded(lines(RINGS.region_bytes(&config)));
    let parts = PartitionParts {
        cpu: 1,
        facts: FACTS,
        clock: Clock::manual(clock),
        bump: Bump::leak(1 << 20),
        dma: DmaRegion::leak(64 << 10, Iova(0x10_0000)),
        region,
        host_region: host.read_only(),
        rings: RINGS,
        config,
    };
    let partition = parts.assemble(b"arguments").expect("it assembles");
    live(partition, clock);
    let stale = copy_of(region);
    let _ = record(partition, &Cause::of(REASON_PANIC));
    live(partition, clock);
    Lived { region, stale }
}

fn live(partition: &'static Partition, clock: &'static ManualClock) {
    partition.enter_running();
    for number in 0..5 {
        clock.advance(2_000_000);
        let now = partition.begin_pass();
        let _ = partition.scheduler().tick(now);
        let _ = partition.events().send(&Pong { sent_tsc: number, answered_tsc: 1 });
        let _ = partition.events().send(&Text::new(1, 2, "a line of text"));
        let _ = partition.events().write(0x7777, 9, &[3; 77]);
        partition.alert(Severity::ERROR, 7, format_args!("alert {number}"));
        partition.end_pass(now, true);
        partition.publish(now);
    }
}

/// Where each part begins, and how much of it is worth damaging. What a host judges is hit more
/// often, in its entry of the directory and in its header, however many parts there are beside it.
fn hot_of(region: Span<'static>) -> Vec<(usize, usize)> {
    let reader = RegionReader::new(region.read_only()).expect("it is laid out");
    let mut hot = vec![(0, 128), (128, reader.parts().count() * 64)];
    for (entry, (kind, _, part)) in reader.parts().enumerate() {
        let at = part.as_ptr().addr() - region.as_ptr().addr();
        let (len, judged) = match kind {
            PartKind::RING_PRODUCER => (384 + 512, true),
            PartKind::METRICS => (2048, true),
            PartKind::CRASH => (size_of::<crash::CrashHeader>(), true),
            PartKind::STATE | PartKind::RING_CONSUMER => (384, true),
            _ => (384, false),
        };
        let head = (at, len.min(part.len()));
        hot.push(head);
        if judged {
            hot.extend([head, (128 + entry * 64, 64)]);
        }
    }
    hot
}

/// The host's own parts of the rings, made anew for each case.
struct Own {
    events: Span<'static>,
    commands: Span<'static>,
    events_spec: RingSpec,
    commands_spec: RingSpec,
    crash: Vec<u8>,
    buffer: [u8; 256],
}

impl Own {
    fn new() -> Self {
        let (events_spec, commands_spec) = (
            RINGS.events_spec(&FACTS).expect("a power of two"),
            RINGS.commands_spec(&FACTS).expect("a power of two"),
        );
        Self {
            events: guarded(events_spec.consumer_bytes()),
            commands: guarded(lines(commands_spec.producer_bytes())),
            events_spec,
            commands_spec,
            crash: Vec::new(),
            buffer: [0; 256],
        }
    }
}

/// How far the cases came: each is to have happened, and to have failed.
#[derive(Debug, Default)]
struct Seen {
    regions: [u64; 2],
    states: [u64; 2],
    metrics: [u64; 2],
    consumers: [u64; 2],
    producers: [u64; 2],
    drains: [u64; 2],
    crashes: [u64; 2],
    values: u64,
    records: u64,
    sections: u64,
}

fn note<T, E>(seen: &mut [u64; 2], result: Result<T, E>) -> Option<T> {
    seen[usize::from(result.is_err())] += 1;
    result.ok()
}

/// Everything that a host reads of a partition's region.
fn look(region: ReadSpan<'static>, own: &mut Own, seen: &mut Seen, deep: bool) {
    let Some(reader) = note(&mut seen.regions, RegionReader::new(region)) else { return };
    assert!(reader.parts().count() <= 64);
    if let Ok(part) = reader.part(PartKind::STATE, STATE_PART)
        && let Some(state) = note(&mut seen.states, StateReader::new(part))
    {
        let _ = (state.state(), state.snapshot(), state.text());
    }
    if let Ok(part) = reader.part(PartKind::METRICS, METRICS_PART)
        && let Some(metrics) = note(&mut seen.metrics, MetricsReader::new(part))
    {
        look_at_metrics(&metrics, seen, deep);
    }
    look_at_rings(&reader, own, seen);
    if deep && let Ok(part) = reader.part(PartKind::CRASH, core_runtime::partition::CRASH_PART) {
        own.crash.resize(part.len(), 0);
        part.read(0, &mut own.crash).expect("all of it");
        let newest = crash::newest(&own.crash).ok_or(());
        if let Some((index, header)) = note(&mut seen.crashes, newest) {
            look_at_record(crash::slot(&own.crash, index), &header, seen);
        }
    }
}

fn look_at_metrics(metrics: &MetricsReader, seen: &mut Seen, deep: bool) {
    for metric in metrics.iter().flatten() {
        seen.values += 1;
        let _ = metric.name().len();
        // Thousands of buckets each: not in every case.
        if let (true, MetricValue::Histogram(histogram)) = (deep, metric.value) {
            let _ = (histogram.count(), histogram.quantile(990_000));
        }
    }
    let _ = (metrics.number("heartbeat"), metrics.histogram("poll_to_poll_ns").is_some());
}

fn look_at_rings(reader: &RegionReader, own: &mut Own, seen: &mut Seen) {
    let events = reader.part(PartKind::RING_PRODUCER, EVENTS_RING);
    let commands = reader.part(PartKind::RING_CONSUMER, COMMANDS_RING);
    if let Ok(events) = events {
        own.events_spec.make_consumer_part(own.events).expect("it fits");
        let consumer = RecordConsumer::new(own.events, events, own.events_spec);
        if let Some(consumer) = note(&mut seen.consumers, consumer) {
            let mut records = 0;
            let drained = consumer.drain(64, &mut own.buffer, |header, payload| {
                assert_eq!(payload.len(), usize::from(header.len));
                let _ = Alert::parse(payload).map(|alert| (alert.line().len(), alert.severity));
                let _ = Text::parse(payload).map(|text| text.line().len());
                let _ = (Pong::parse(payload), Status::parse(payload));
                records += 1;
            });
            assert!(records <= 64);
            seen.records += records;
            note(&mut seen.drains, drained);
        }
        let _ = RingStats::read(events, own.events.read_only());
    }
    if let Ok(commands) = commands {
        own.commands_spec.make_producer_part(own.commands).expect("it fits");
        let producer = RecordProducer::new(own.commands, commands, own.commands_spec);
        if let Some(producer) = note(&mut seen.producers, producer) {
            for tag in 0..4 {
                let _ = producer.write(0x0102, tag, &[1; 40]);
            }
            let _ = producer.has_room(4000);
        }
    }
}

fn look_at_record(slot: &[u8], header: &crash::CrashHeader, seen: &mut Seen) {
    let mut sections = header.sections(slot);
    for section in &mut sections {
        seen.sections += 1;
        let (kind, _) = (section.header.kind, section.intact);
        let _ = kind.name();
        match kind {
            SectionKind::MESSAGE => drop(crash::text(section.payload).len()),
            _ => drop(crash::elements::<u64>(section.payload).count()),
        }
    }
}

#[test]
fn a_host_stands_whatever_a_partition_writes() {
    let seed = testing::seed(51);
    let cases = testing::ops(400_000, 20_000_000);
    let (Lived { region, stale }, mut random) = (lived(), Random::new(seed));
    let (mut own, mut seen) = (Own::new(), Seen::default());
    let hot = hot_of(region);
    let mut target = Target::new(region, stale, hot);
    look(region.read_only(), &mut own, &mut seen, true);
    assert!(seen.sections > 2 && seen.records > 9 && seen.values > 30, "whole: {seen:?}");
    for case in 0..cases {
        target.damage(&mut random);
        // A mapping that is shorter than the writer says.
        let len = if case % 16 == 0 { random.below(region.len()) & !7 } else { region.len() };
        let region = region.sub(0, len).expect("inside");
        look(region.read_only(), &mut own, &mut seen, case % 64 == 1);
        target.repair();
    }
    let both = [
        seen.regions,
        seen.states,
        seen.metrics,
        seen.consumers,
        seen.producers,
        seen.drains,
        seen.crashes,
    ];
    assert!(both.iter().flatten().all(|count| *count > 100), "{seen:?}");
}

#[test]
fn a_host_stands_a_partition_that_writes_while_it_looks() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let seed = testing::seed(52);
    let cases = testing::ops(30_000, 1_000_000);
    let Lived { region, stale } = lived();
    let hot = hot_of(region);
    let (mut own, mut seen) = (Own::new(), Seen::default());
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random::new(seed);
            let mut target = Target::new(region, stale, hot);
            while !ended.load(Ordering::Relaxed) {
                target.damage(&mut random);
                target.repair();
            }
        });
        // The writer may be off its CPU in the middle of some damage: then nothing is found for
        // as long.
        let patience = Instant::now() + Duration::from_secs(30);
        for case in 0.. {
            if case >= cases && (seen.records > 0 || Instant::now() > patience) {
                break;
            }
            look(region.read_only(), &mut own, &mut seen, false);
        }
        ended.store(true, Ordering::Relaxed);
    });
    assert!(seen.regions[0] > 0 && seen.records > 0, "{seen:?}");
}
