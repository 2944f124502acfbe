//! The partition without a host: heap-backed regions, a manual clock, a host played by the test.

use core::cell::{Cell, RefCell};
use std::rc::Rc;
use std::vec::Vec;

use hybrid_abi::alert::{Alert, KIND_ALERT, Severity};
use hybrid_abi::command::{Ping, STOP_FINISHED, Stop};
use hybrid_abi::event::{KIND_PONG, Pong};
use hybrid_abi::region::PartKind;
use hybrid_shm::leak_zeroed;

use super::state::{StateReader, StopSwitch};
use super::*;
use crate::clock::ManualClock;
use crate::mem::{DmaRegion, Iova};
use crate::metrics::MetricsReader;
use crate::region::{RegionFacts, RegionReader};
use crate::task::{Class, SchedulerConfig, TaskOptions};

const RINGS: RingSizes = RingSizes { events: 4096, commands: 4096 };

/// The host's side, and the partition.
struct Rig {
    partition: &'static Partition,
    clock: &'static ManualClock,
    state: StateReader,
    names: TaskNames,
    stop: StopSwitch,
    metrics: MetricsReader,
    events: RecordConsumer,
    commands: RecordProducer,
    probes: hybrid_shm::ReadSpan<'static>,
    control: hybrid_shm::Span<'static>,
}

fn small() -> PartitionConfig {
    PartitionConfig {
        scheduler: SchedulerConfig {
            max_tasks: 8,
            max_timers: 8,
            task_memory_bytes: 16 << 10,
            ..SchedulerConfig::default()
        },
        ..PartitionConfig::default()
    }
}

fn parts(
    config: PartitionConfig,
    bump_bytes: usize,
) -> (PartitionParts, HostParts, &'static ManualClock) {
    let clock = Bump::leak(64).alloc(ManualClock::new(1_000)).unwrap();
    let facts = RegionFacts { incarnation: 3, tsc_hz: 1_000_000_000, ..RegionFacts::default() };
    let host_region = leak_zeroed(RINGS.host_region_bytes());
    let host = lay_out_host_region(host_region, facts, RINGS).unwrap();
    let parts = PartitionParts {
        cpu: 5,
        facts,
        clock: Clock::manual(clock),
        bump: Bump::leak(bump_bytes),
        dma: DmaRegion::leak(64 << 10, Iova(0x10_0000)),
        region: leak_zeroed(RINGS.region_bytes(&config)),
        host_region: host_region.read_only(),
        rings: RINGS,
        config,
    };
    (parts, host, clock)
}

fn rig(config: PartitionConfig) -> Rig {
    let (parts, host, clock) = parts(config, 256 << 10);
    let (region, facts) = (parts.region.read_only(), parts.facts);
    let partition = parts.assemble(b"arguments").unwrap();
    let region = RegionReader::new(region).unwrap();
    let part = |kind, name| region.part(kind, name).unwrap();
    let events = part(PartKind::RING_PRODUCER, EVENTS_RING);
    let commands = part(PartKind::RING_CONSUMER, COMMANDS_RING);
    Rig {
        partition,
        clock,
        state: StateReader::new(part(PartKind::STATE, STATE_PART)).unwrap(),
        names: TaskNames::new(part(PartKind::TASK_NAMES, TASK_NAMES_PART)),
        stop: StopSwitch::new(host.state).unwrap(),
        metrics: MetricsReader::new(part(PartKind::METRICS, METRICS_PART)).unwrap(),
        probes: part(PartKind::PROBE, PROBES_PART),
        control: host.probes,
        events: RecordConsumer::new(host.events, events, RINGS.events_spec(&facts).unwrap())
            .unwrap(),
        commands: RecordProducer::new(
            host.commands,
            commands,
            RINGS.commands_spec(&facts).unwrap(),
        )
        .unwrap(),
    }
}

/// Spawns a task that lives until it is done.
fn spawn(rig: &Rig, name: &'static str, task: impl Future<Output = ()> + 'static) {
    let options = TaskOptions::new(name, Class::Normal);
    rig.partition.spawner().spawn(options, task).unwrap().detach();
}

#[test]
fn the_host_knows_what_the_task_is_called_that_is_polled() {
    let rig = rig(small());
    let (state, names) = (rig.state, rig.names);
    let seen: &'static Cell<Option<u32>> = Box::leak(Box::default());
    spawn(&rig, "first", core::future::pending());
    spawn(
        &rig,
        "second, longer than any name that is kept: it is cut somewhere here",
        async move {
            seen.set(Some(state.snapshot().task));
        },
    );
    rig.partition.scheduler().tick(rig.partition.clock().now());
    let number = seen.get().expect("it was polled");
    let name = names.get(number).expect("a name");
    assert_eq!(name.as_str(), "second, longer than any name that is kept: it is");
    assert_eq!(names.get(1).expect("a name").as_str(), "first");
    for nobody in [0, 3, 4, 512, u32::MAX] {
        assert_eq!(names.get(nobody), None, "{nobody}");
    }
}

#[test]
fn the_host_finds_every_part_and_the_partition_its_arguments() {
    let rig = rig(small());
    assert_eq!(rig.state.state(), PartitionState::Starting);
    assert_eq!((rig.partition.cpu(), rig.partition.incarnation()), (5, 3));
    assert_eq!(rig.partition.args(), b"arguments");
    assert_eq!(rig.metrics.number("io_completed"), Some(0));
    let own = |writer: &mut MetricsWriter| {
        writer.counter("orders", hybrid_abi::metrics::MetricUnit::COUNT)
    };
    rig.partition.add_metrics(own).unwrap().add(7);
    assert_eq!(rig.metrics.number("orders"), Some(7));
}

#[test]
fn a_pass_polls_then_runs_tasks_then_rings_and_the_states_frame_the_loop() {
    let rig = rig(small());
    let order: Rc<RefCell<Vec<(&str, PartitionState)>>> = Rc::default();
    let (partition, state) = (rig.partition, rig.state);
    let log =
        move |order: &Rc<RefCell<Vec<_>>>, what| order.borrow_mut().push((what, state.state()));
    let in_task = Rc::clone(&order);
    spawn(&rig, "once", async move {
        log(&in_task, "task");
        partition.finish(PartitionExit::done());
        partition.finish(PartitionExit::failed(1, format_args!("too late")));
    });
    let poll = |_| {
        log(&order, "poll");
        false
    };
    let exit = run_until_stopped(partition, (poll, || log(&order, "ring")));
    assert!(exit.is_done(), "the first exit counts");
    let running = PartitionState::Running;
    assert_eq!(*order.borrow(), [("poll", running), ("task", running), ("ring", running)]);
    assert_eq!(state.state(), PartitionState::Stopping);
    partition.publish_exit(&exit);
    assert_eq!(state.state(), PartitionState::Stopped);
    assert_eq!(state.snapshot().heartbeat, 1);
}

#[test]
fn everyone_who_waits_for_the_stop_is_woken() {
    let rig = rig(small());
    let woken: Rc<Cell<u32>> = Rc::default();
    for _ in 0..3 {
        let (partition, woken) = (rig.partition, Rc::clone(&woken));
        spawn(&rig, "waits", async move {
            assert_eq!(partition.stopping().await, StopReason::Signal);
            woken.set(woken.get() + 1);
            if woken.get() == 3 {
                partition.finish(PartitionExit::done());
            }
        });
    }
    let mut passes = 0;
    let poll = |_| {
        passes += 1;
        if passes == 5 {
            rig.stop.ask(StopReason::Signal);
        }
        assert!(passes < 20, "nobody was woken");
        false
    };
    assert!(run_until_stopped(rig.partition, (poll, || ())).is_done());
    assert_eq!(woken.get(), 3);
}

#[test]
fn tasks_that_go_on_are_left_behind_after_the_grace_time_and_not_before() {
    let config = PartitionConfig { stop_grace_ns: 1_000, ..small() };
    let rig = rig(config);
    spawn(&rig, "stubborn", core::future::pending());
    rig.stop.ask(StopReason::HostFailed);
    let clock = rig.clock;
    let passes = Cell::new(0_u32);
    let poll = |_| {
        passes.set(passes.get() + 1);
        clock.advance(100);
        false
    };
    let exit = run_until_stopped(rig.partition, (poll, || ()));
    assert_eq!(exit.state, PartitionState::Failed);
    assert!(exit.text.contains("the host's failure asked to stop"), "{}", exit.text);
    assert!(exit.text.ends_with("stubborn"), "{}", exit.text);
    // Noted at the end of pass 1 with its stamp; pass n is stamped (n - 1) x 100 later.
    assert_eq!(passes.get(), 12);
}

#[test]
fn a_host_that_has_died_is_a_reason_to_stop_with_little_grace() {
    let rig = rig(small());
    let partition = rig.partition;
    spawn(&rig, "never ends", core::future::pending());
    let pass = || {
        let now = partition.begin_pass();
        partition.scheduler().tick(now);
        partition.end_pass(now, false);
        now
    };
    pass();
    assert_eq!(partition.stop_requested(), None);
    partition.host_died();
    let asked = pass();
    assert_eq!(partition.stop_requested(), Some(StopReason::HostFailed));
    assert!(!partition.grace_is_over(asked));
    rig.clock.advance(500_000_001);
    assert!(partition.grace_is_over(pass()), "half a second, not the configuration's 5 s");
}

#[test]
fn the_host_may_shorten_the_grace_time_and_not_lengthen_it() {
    for (asked_ns, passes_left) in [(300, 5), (5_000, 12), (0, 12)] {
        let rig = rig(PartitionConfig { stop_grace_ns: 1_000, ..small() });
        spawn(&rig, "stubborn", core::future::pending());
        let stop = Stop { grace_ns: asked_ns, reason: STOP_FINISHED, reserved: 0 };
        rig.commands.send(&stop).unwrap();
        let (clock, passes) = (rig.clock, Cell::new(0_u32));
        let poll = |_| {
            passes.set(passes.get() + 1);
            clock.advance(100);
            false
        };
        let exit = run_until_stopped(rig.partition, (poll, || ()));
        assert_eq!(exit.state, PartitionState::Failed);
        assert_eq!(passes.get(), passes_left, "asked for {asked_ns}");
    }
}

#[test]
fn depths_and_the_most_of_them_are_published() {
    let rig = rig(small());
    let spawner = rig.partition.spawner();
    for _ in 0..2 {
        spawn(&rig, "sleeps", spawner.sleep(Ticks::new(500)));
    }
    for sent_tsc in 0..6 {
        rig.commands.send(&Ping { sent_tsc }).unwrap();
    }
    let pass = || {
        let now = rig.partition.begin_pass();
        rig.partition.scheduler().tick(now);
        rig.partition.end_pass(now, true);
        rig.partition.publish(now);
    };
    let seen = |name| rig.metrics.number(name).unwrap();
    pass();
    // 4 of 6 commands of 2 words each were taken.
    assert_eq!((seen("command_ring_depth"), seen("command_ring_high_water")), (32, 96));
    assert_eq!((seen("live_timers"), seen("live_tasks")), (2, 2));
    rig.clock.advance(1_000);
    pass();
    assert_eq!((seen("command_ring_depth"), seen("command_ring_high_water")), (0, 96));
    assert_eq!((seen("live_timers"), seen("live_tasks")), (0, 0));
    assert_eq!((seen("live_timers_high_water"), seen("live_tasks_high_water")), (2, 2));
    assert_eq!(seen("timers_full"), 0);
    let ring = || (seen("event_ring_depth"), seen("event_ring_high_water"));
    assert_eq!(ring(), (6 * 24, 6 * 24), "six answers that nobody read");
    rig.events.drain(16, &mut [0; 64], |_, _| ()).unwrap();
    pass();
    assert_eq!(ring(), (0, 6 * 24), "what was read waits no more");
}

#[test]
fn commands_are_taken_last_and_so_many_a_pass() {
    let config = PartitionConfig { commands_per_pass: 2, ..small() };
    let rig = rig(config);
    for sent_tsc in 0..5 {
        rig.commands.send(&Ping { sent_tsc }).unwrap();
    }
    let answers = || {
        let mut answers = Vec::new();
        let mut buffer = [0; 64];
        let each = |header: RecordHeader, payload: &[u8]| {
            assert_eq!(header.kind, KIND_PONG);
            answers.push(Pong::parse(payload).unwrap().sent_tsc);
        };
        rig.events.drain(16, &mut buffer, each).unwrap();
        answers
    };
    for expected in [&[0, 1][..], &[2, 3], &[4], &[]] {
        let now = rig.partition.begin_pass();
        rig.partition.end_pass(now, true);
        assert_eq!(answers(), expected);
    }
}

#[test]
fn unknown_commands_go_to_the_entry_or_are_counted_and_stop_stops() {
    fn handler(partition: &'static Partition, header: RecordHeader, payload: &[u8]) {
        let _ = partition.events().write(header.kind, header.tag, payload);
    }
    let rig = rig(small());
    let pass = || {
        let now = rig.partition.begin_pass();
        rig.partition.end_pass(now, true);
        rig.partition.publish(now);
    };
    rig.commands.write(0x7000, 1, b"one").unwrap();
    pass();
    assert_eq!(rig.metrics.number("commands_skipped"), Some(1));
    rig.partition.on_command(handler);
    rig.commands.write(0x7000, 2, b"two").unwrap();
    pass();
    let mut buffer = [0; 64];
    let header = rig.events.read(&mut buffer).unwrap();
    assert_eq!((header.kind, header.tag, &buffer[..3]), (0x7000, 2, &b"two"[..]));
    let stop = Stop { grace_ns: 0, reason: STOP_FINISHED, reserved: 0 };
    assert_eq!(rig.partition.stop_requested(), None);
    rig.commands.send(&stop).unwrap();
    pass();
    assert_eq!(rig.partition.stop_requested(), Some(StopReason::Finished));
    assert_eq!(rig.metrics.number("commands_skipped"), Some(1));
    assert_eq!(rig.metrics.number("commands_taken"), Some(3));
}

#[test]
fn figures_are_published_when_the_time_has_come() {
    let rig = rig(small());
    let pass = |advance| {
        rig.clock.advance(advance);
        let now = rig.partition.begin_pass();
        rig.partition.scheduler().tick(now);
        let due = rig.partition.end_pass(now, false);
        if due {
            rig.partition.publish(now);
        }
        due
    };
    assert!(pass(0), "the first one at once");
    assert!(!pass(999_999));
    assert_eq!(rig.metrics.number("polls_empty"), Some(1));
    assert!(pass(1));
    assert!(!pass(999_999));
    assert_eq!(rig.metrics.number("polls"), Some(3));
    assert_eq!(rig.metrics.number("polls_empty"), Some(3));
    let gaps = rig.metrics.histogram("poll_to_poll_ns").unwrap();
    assert_eq!(gaps.count(), 2, "three ticks were published, with two gaps");
    assert!(gaps.max() >= 999_999);
}

#[test]
fn a_quantile_of_the_gaps_is_at_most_an_eighth_too_high() {
    let rig = rig(small());
    for _ in 0..100 {
        // Just above a power of two, where buckets of powers of two are off by 2.
        rig.clock.advance(1_030);
        rig.partition.scheduler().tick(rig.partition.begin_pass());
    }
    rig.clock.advance(1_000_000);
    let now = rig.partition.begin_pass();
    rig.partition.scheduler().tick(now);
    rig.partition.publish(now);
    let gaps = rig.metrics.histogram("poll_to_poll_ns").unwrap();
    let median = gaps.quantile(500_000);
    // An eighth of the local buckets, and 1/32 of the shared ones.
    assert!((1_030..=1_030 + 1_030 / 8 + 1_030 / 32).contains(&median), "{median}");
    assert_eq!(gaps.max(), 1_000_000);
}

/// Devices that take their time: polling and ringing in busy passes, and publishing.
struct Slow {
    clock: &'static ManualClock,
    passes: u32,
    partition: &'static Partition,
}

impl Devices for Slow {
    fn poll(&mut self, _now: Instant) -> bool {
        self.passes += 1;
        self.clock.advance(if self.passes == 9 { 35_000 } else { 40_000 });
        // In the 9th pass nothing has come: somebody else had the core.
        self.passes != 9
    }

    fn ring(&mut self) {
        if self.passes != 9 {
            self.clock.advance(30_000);
        }
        if self.passes == 10 {
            self.partition.finish(PartitionExit::done());
        }
    }

    fn publish(&mut self, _metrics: &RuntimeMetrics) {
        self.clock.advance(20_000);
    }
}

#[test]
fn work_of_the_loop_is_not_taken_for_stolen_time_and_an_idle_gap_is() {
    let config = PartitionConfig { publish_every_ns: 100_000, ..small() };
    let rig = rig(config);
    let devices = Slow { clock: rig.clock, passes: 0, partition: rig.partition };
    assert!(run_until_stopped(rig.partition, devices).is_done());
    let stats = rig.partition.scheduler().stats();
    assert_eq!((stats.stolen_gaps, stats.stolen.get()), (1, 35_000));
}

#[test]
fn a_command_that_takes_long_is_not_stolen_time() {
    thread_local!(static CLOCK: Cell<Option<&'static ManualClock>> = const { Cell::new(None) });
    let rig = rig(small());
    CLOCK.set(Some(rig.clock));
    rig.partition.on_command(|_, _, _| CLOCK.get().unwrap().advance(50_000));
    let pass = || {
        let now = rig.partition.begin_pass();
        rig.partition.scheduler().tick(now);
        rig.partition.end_pass(now, false);
    };
    pass();
    rig.commands.write(0x7000, 0, b"").unwrap();
    pass();
    pass();
    assert_eq!(rig.partition.scheduler().stats().longest_gap.get(), 50_000);
    assert_eq!(rig.partition.scheduler().stats().stolen_gaps, 0);
}

#[test]
fn the_host_sees_which_task_runs_and_since_when() {
    let rig = rig(small());
    let (state, clock) = (rig.state, rig.clock);
    let seen: Rc<Cell<Option<(u32, u64)>>> = Rc::default();
    let noted = Rc::clone(&seen);
    spawn(&rig, "first", async move { clock.advance(7) });
    spawn(&rig, "second", async move {
        let now = state.snapshot();
        noted.set(Some((now.task, now.task_since.ticks())));
        clock.advance(10_000);
    });
    rig.partition.scheduler().tick(rig.partition.begin_pass());
    assert_eq!(seen.get(), Some((2, 1_007)));
    assert_eq!(state.snapshot().task, 0, "none between the ticks");
    rig.partition.publish(rig.clock.now());
    let exceeded = rig.metrics.histogram("budget_exceeded_ns").unwrap();
    assert_eq!((exceeded.count(), exceeded.max()), (1, 5_000));
}

#[test]
fn too_little_private_memory_is_an_error_with_its_numbers() {
    let (parts, _host, _clock) = parts(small(), 4096);
    let error = parts.assemble(&[]).unwrap_err();
    let line = std::string::ToString::to_string(&error);
    assert!(line.contains("of 4096 left"), "{line}");
}

#[test]
fn a_host_region_of_another_incarnation_is_refused() {
    let (mut parts, _host, _clock) = parts(small(), 256 << 10);
    parts.facts.incarnation += 1;
    let error = parts.assemble(&[]).unwrap_err();
    assert!(matches!(error, PartitionError::Ring(_)), "{error}");
}

#[test]
fn sizes_that_nothing_holds_are_too_large_and_no_overflow() {
    let rings = RingSizes { events: usize::MAX, commands: usize::MAX };
    let config = PartitionConfig { more_metrics: u32::MAX, more_histograms: u32::MAX, ..small() };
    assert_eq!(rings.region_bytes(&config), usize::MAX);
    assert_eq!(rings.host_region_bytes(), usize::MAX);
}

/// Takes the alerts among the waiting events.
fn take_alerts(rig: &Rig) -> Vec<Alert> {
    let mut buffer = [0; 4096];
    let mut alerts = Vec::new();
    while let Ok(header) = rig.events.read(&mut buffer) {
        if header.kind == KIND_ALERT {
            alerts.push(Alert::parse(&buffer[..header.len.into()]).unwrap());
        }
    }
    alerts
}

#[test]
fn an_alert_names_its_task_its_code_and_its_line() {
    let rig = rig(small());
    let partition = rig.partition;
    spawn(&rig, "journal", async move {
        assert!(partition.alert(Severity::ERROR, 7, format_args!("block {} is torn", 12)));
        partition.finish(PartitionExit::done());
    });
    run_until_stopped(partition, ());
    assert!(partition.alert(Severity::WARNING, 1, format_args!("{}", "é".repeat(200))));
    let alerts = take_alerts(&rig);
    assert_eq!((alerts[0].code, alerts[0].severity, alerts[0].number), (7, Severity::ERROR, 1));
    assert_eq!((alerts[0].task.as_str(), alerts[0].line()), ("journal", "block 12 is torn"));
    assert_eq!((alerts[1].task.as_str(), alerts[1].line()), ("", "é".repeat(96).as_str()));
}

#[test]
fn an_alert_that_finds_the_ring_full_is_written_later_and_a_gap_tells_of_those_lost() {
    let rig = rig(small());
    let partition = rig.partition;
    while partition.events().write(7, 0, &[0; 400]).is_ok() {}
    for code in 1..=3 {
        let sent = partition.alert(Severity::CRITICAL, code, format_args!("alert {code}"));
        assert!(!sent);
    }
    assert_eq!(partition.alert_counts(), (3, 2));
    assert_eq!(take_alerts(&rig), []);
    spawn(&rig, "end", async move { partition.finish(PartitionExit::done()) });
    run_until_stopped(partition, ());
    assert!(partition.alert(Severity::CRITICAL, 4, format_args!("again")));
    let numbers: Vec<_> = take_alerts(&rig).iter().map(|alert| alert.number).collect();
    assert_eq!(numbers, [1, 4]);
    assert_eq!(
        (rig.metrics.number("alerts"), rig.metrics.number("alerts_lost")),
        (Some(3), Some(2))
    );
}

#[test]
fn of_alerts_that_find_the_ring_full_the_worst_is_kept() {
    let rig = rig(small());
    let partition = rig.partition;
    while partition.events().write(7, 0, &[0; 400]).is_ok() {}
    for severity in [Severity::WARNING, Severity::CRITICAL, Severity::ERROR, Severity::CRITICAL] {
        assert!(!partition.alert(severity, severity.0, format_args!("full")));
    }
    assert_eq!(partition.alert_counts(), (4, 3));
    assert_eq!(take_alerts(&rig), []);
    spawn(&rig, "end", async move { partition.finish(PartitionExit::done()) });
    run_until_stopped(partition, ());
    let kept: Vec<_> = take_alerts(&rig).iter().map(|it| (it.number, it.severity)).collect();
    assert_eq!(kept, [(2, Severity::CRITICAL)]);
}

/// The host's wish: these groups.
fn trace(rig: &Rig, groups: &str) {
    use zerocopy::IntoBytes;
    let control = hybrid_abi::probe::ProbeControl {
        generation: 1,
        mask: hybrid_abi::probe::parse_groups(groups).unwrap(),
        ..hybrid_abi::probe::ProbeControl::default()
    };
    rig.control.write(0, control.as_bytes()).unwrap();
}

/// What was written, as the name's end and the first field.
fn traced(rig: &Rig) -> Vec<(u32, u32)> {
    use hybrid_abi::probe::view::{Cursor, RingView};
    let view = RingView::new(&rig.probes, rig.probes.len() as u64).unwrap();
    let mut records = [hybrid_abi::probe::ProbeRecord::default(); 64];
    let seen = view.read(&rig.probes, &mut Cursor::default(), &mut records);
    records[..seen.count].iter().map(|record| (record.id, record.a)).collect()
}

#[test]
fn a_tasks_life_is_traced_from_its_wake_to_its_end() {
    use hybrid_abi::probe::probe_id;
    let rig = rig(small());
    trace(&rig, "sched,timer");
    rig.partition.begin_pass();
    let spawner = rig.partition.spawner();
    spawn(&rig, "sleeps", async move {
        spawner.sleep_ns(500).await;
    });
    for _ in 0..3 {
        let now = rig.partition.begin_pass();
        rig.partition.scheduler().tick(now);
        rig.clock.advance(1_000);
    }
    let id = |name| probe_id(name);
    let expected = [
        (id("sched.spawn"), 1),
        (id("sched.wake"), 1),
        (id("sched.poll"), 1),
        (id("sched.polled"), 1),
        (id("sched.wake"), 1),
        (id("timer.fired"), 1),
        (id("sched.poll"), 1),
        (id("sched.polled"), 1),
        (id("sched.end"), 1),
    ];
    assert_eq!(traced(&rig), expected);
}
