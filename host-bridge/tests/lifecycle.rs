//! Partitions as threads: start, stop, failure, and what is left behind.

mod common;

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use core_runtime::partition::{
    Partition, PartitionExit, PartitionState, StopReason, run_until_stopped,
};
use core_runtime::task::TaskOptions;
use host_bridge::backend::{Attached, Backend, BackendError, DeviceSeat, ModelBackend};
use host_bridge::sys::memfd::PageSize;
use host_bridge::topology::Topology;
use host_bridge::warnings::{WarningKind, Warnings};
use host_bridge::{CoreChoice, Entry, PartitionHandle, PartitionSpec, Runtime, RuntimeError};
use hybrid_abi::Record;
use hybrid_abi::command::{Ping, Stop};
use hybrid_abi::event::{KIND_PONG, Pong};
use hybrid_conventions::{CpuSet, Exit};
use nvme_driver::{DeviceParts, Lba};
use nvme_model::{LatencyModel, ModelConfig, NamespaceConfig};

/// A bound for every wait of these tests: nothing takes as long, even on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// Waits for what must come; a test that fails here hangs nobody.
fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !reached() {
        assert!(begun.elapsed() < LIMIT, "waited {LIMIT:?} for {what}");
        std::thread::yield_now();
    }
}

fn count_lines(path: &str) -> usize {
    std::fs::read_to_string(path).expect("procfs").lines().count()
}

fn count_threads() -> usize {
    std::fs::read_dir("/proc/self/task").expect("procfs").count()
}

fn few_blocks(partition: &'static Partition, device: Option<DeviceParts>) -> PartitionExit {
    common::work(partition, device, 4, common::no_plant)
}

fn endless_blocks(partition: &'static Partition, device: Option<DeviceParts>) -> PartitionExit {
    common::work(partition, device, u64::MAX, common::no_plant)
}

fn panics(partition: &'static Partition, device: Option<DeviceParts>) -> PartitionExit {
    common::work(partition, device, 8, || panic!("planted, round {}", 4))
}

#[test]
fn a_hundred_starts_and_stops_leave_no_mapping_and_no_thread_behind() {
    let Some(only) = common::runtime("start and stop 100 times") else { return };
    let run = || {
        let spec = common::spec("blocks", few_blocks).with_device(common::model());
        let report = only.runtime.spawn(spec).expect("a partition").join();
        assert!(report.exit.is_done(), "{:?}", report.exit);
        let device = report.device.expect("a device");
        assert_eq!(device.mistakes, [""; 0]);
        assert_eq!(device.problem, None);
    };
    // The first ones fill the caches of the C library: arenas, thread stacks.
    for _ in 0..5 {
        run();
    }
    let (maps, threads) = (count_lines("/proc/self/maps"), count_threads());
    for _ in 0..100 {
        run();
    }
    assert_eq!(count_threads(), threads);
    let after = count_lines("/proc/self/maps");
    assert!(after <= maps + 4, "{maps} mappings before, {after} after 100 partitions");
}

#[test]
fn a_stop_while_commands_are_in_flight_ends_in_order() {
    let Some(only) = common::runtime("stop under load") else { return };
    let spec = common::spec("endless", endless_blocks).with_device(common::model());
    let mut handle = only.runtime.spawn(spec).expect("a partition");
    until("a hundred commands", || {
        handle.metrics().number("io_completed").is_some_and(|done| done >= 100)
    });
    assert_eq!(handle.state(), PartitionState::Running);
    assert!(handle.silent_for() < LIMIT);
    let mut stopped = false;
    handle.wait(Duration::from_millis(1), |handle| {
        if !std::mem::replace(&mut stopped, true) {
            handle.request_stop(StopReason::Signal);
        }
        ControlFlow::Continue(())
    });
    let report = handle.join();
    assert!(report.exit.is_done(), "{:?}", report.exit);
    assert!(report.passes > 100 && report.ran > Duration::ZERO);
    assert_eq!(report.device.expect("a device").mistakes, [""; 0]);
}

/// Posts a read that takes long, and leaves at once.
fn leaves(partition: &'static Partition, device: Option<DeviceParts>) -> PartitionExit {
    let controller = match common::controller(partition, device) {
        Ok(controller) => controller,
        Err(exit) => return exit,
    };
    let read = async move {
        if controller.ready().await.is_err() {
            return partition.finish(PartitionExit::failed(1, format_args!("not ready")));
        }
        let Some(namespace) = controller.namespaces().next() else { return };
        let Ok(buffer) = partition.arena().alloc(4096) else { return };
        partition.finish(PartitionExit::failed(9, format_args!("left")));
        let _ = namespace.read(Lba(0), buffer).await;
    };
    match partition.spawner().spawn(TaskOptions::normal("read"), read) {
        Ok(task) => task.detach(),
        Err(error) => return PartitionExit::failed(1, format_args!("{error}")),
    }
    run_until_stopped(partition, controller)
}

#[test]
fn an_entry_that_leaves_with_a_command_in_flight_harms_nobody() {
    let Some(only) = common::runtime("leave with a command in flight") else { return };
    let config = ModelConfig {
        namespaces: vec![NamespaceConfig::memory(1, 64)],
        latency: LatencyModel::FixedNs(50_000_000),
        ..ModelConfig::default()
    };
    let spec = common::spec("leaves", leaves).with_device(ModelBackend::new(config));
    let report = only.runtime.spawn(spec).expect("a partition").join();
    assert_eq!((report.exit.code, report.exit.text.as_str()), (9, "left"));
    assert_eq!(report.device.expect("a device").problem, None);
}

#[test]
fn a_panic_is_a_failed_partition_and_the_host_goes_on() {
    let Some(only) = common::runtime("panic") else { return };
    let spec = common::spec("panics", panics).with_device(common::model());
    let mut handle = only.runtime.spawn(spec).expect("a partition");
    let mut last = PartitionState::Unborn;
    handle.wait(Duration::from_millis(1), |handle| {
        last = handle.state();
        ControlFlow::Continue(())
    });
    assert_eq!(last, PartitionState::Failed, "seen through shared memory");
    let report = handle.join();
    assert_eq!((report.exit.state, report.exit.code), (PartitionState::Failed, 101));
    assert_eq!(report.exit.text.as_str(), "panicked in task blocks: planted, round 4");
    assert!(report.ran > Duration::ZERO, "the end of running is known after a panic too");
    let model = report.device.expect("a device").model.expect("the model survives");
    let spec = common::spec("next", few_blocks).with_device(ModelBackend::again(model));
    let report = only.runtime.spawn(spec).expect("the core is free").join();
    assert!(report.exit.is_done(), "{:?}", report.exit);
    assert_eq!(report.device.expect("a device").mistakes, [""; 0]);
}

fn deaf(partition: &'static Partition, _device: Option<DeviceParts>) -> PartitionExit {
    let waits = core::future::pending::<()>();
    match partition.spawner().spawn(TaskOptions::normal("deaf"), waits) {
        Ok(task) => task.detach(),
        Err(error) => return PartitionExit::failed(1, format_args!("{error}")),
    }
    run_until_stopped(partition, ())
}

#[test]
fn tasks_that_do_not_listen_end_after_the_grace_time_with_a_name() {
    let Some(only) = common::runtime("grace time") else { return };
    let mut spec = common::spec("deaf", deaf);
    spec.config.stop_grace_ns = 50_000_000;
    let handle = only.runtime.spawn(spec).expect("a partition");
    handle.request_stop(StopReason::Signal);
    let report = handle.join();
    assert_eq!(
        report.exit.text.as_str(),
        "a signal asked to stop 50 ms ago and the tasks go on; first of them: deaf"
    );
}

/// What the hanging partition looks at: the test lets it go in the end.
static LET_GO: AtomicBool = AtomicBool::new(false);

/// A loop that listens to nobody, as a bug would.
fn hangs(partition: &'static Partition, _device: Option<DeviceParts>) -> PartitionExit {
    partition.enter_running();
    partition.begin_pass();
    while !LET_GO.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
    PartitionExit::done()
}

#[test]
fn a_hanging_partition_is_seen_and_does_not_hang_the_host() {
    let Some(only) = common::runtime("hang") else { return };
    let handle = only.runtime.spawn(common::spec("hangs", hangs)).expect("a partition");
    until("silence", || handle.silent_for() > Duration::from_millis(20));
    handle.request_stop(StopReason::Finished);
    let back = handle.join_within(Duration::from_millis(20)).expect_err("it hangs");
    assert_eq!(back.state(), PartitionState::Running);
    LET_GO.store(true, Ordering::Relaxed);
    assert!(back.join().exit.is_done());
}

#[test]
fn one_run_says_at_most_one_line_about_its_pages() {
    let Some(only) = common::runtime("page warnings") else { return };
    drop(only.runtime);
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&lines);
    let warnings = Warnings::to(move |warning| sink.lock().expect("lock").push(warning.kind));
    let cores = CpuSet::single(Topology::read().suggested_core().expect("two CPUs"));
    let runtime = Runtime::with_warnings(cores.expect("small"), warnings).expect("a runtime");
    for _ in 0..2 {
        let spec = common::spec("blocks", few_blocks).with_device(common::model());
        let handle = runtime.spawn(spec).expect("a partition");
        let small = handle.memory().dma_page == PageSize::Small4K;
        assert!(handle.join().exit.is_done());
        let said = lines.lock().expect("lock");
        let about_pages = said.iter().filter(|kind| **kind == WarningKind::SmallPages).count();
        assert!(about_pages == usize::from(small) || about_pages == 1, "{said:?}");
    }
}

#[test]
fn dropping_a_handle_stops_its_partition_and_frees_its_core() {
    let Some(only) = common::runtime("drop a handle") else { return };
    let spec = || common::spec("idle", common::idle);
    drop(only.runtime.spawn(spec()).expect("a partition"));
    let second = only.runtime.spawn(spec()).expect("the core is free again");
    let error = only.runtime.spawn(spec()).expect_err("one partition a core");
    assert!(matches!(error, RuntimeError::CoresTaken { .. }), "{error}");
    second.request_stop(StopReason::Finished);
    assert!(second.join().exit.is_done());
}

#[test]
fn commands_are_answered_and_unknown_ones_counted() {
    let Some(only) = common::runtime("commands") else { return };
    let mut handle = only.runtime.spawn(common::spec("idle", common::idle)).expect("a partition");
    handle.command(0x7777, 1, b"nobody knows this").expect("room");
    handle.send(&Ping { sent_tsc: 42 }).expect("room");
    let mut pong = None;
    until("an answer", || {
        let each = |header: hybrid_abi::RecordHeader, payload: &[u8]| {
            assert_eq!(header.kind, KIND_PONG);
            pong = Pong::parse(payload).ok();
        };
        handle.poll_events(8, each).expect("an open ring");
        pong.is_some()
    });
    assert_eq!(pong.expect("an answer").sent_tsc, 42);
    until("the counter", || handle.metrics().number("commands_skipped") == Some(1));
    let stop = Stop { grace_ns: 0, reason: hybrid_abi::command::STOP_FINISHED, reserved: 0 };
    handle.send(&stop).expect("room");
    assert!(handle.join().exit.is_done());
}

static PARTITION_CPU: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Says where it runs and what it was given, in an event, a thousand times.
fn speaks(partition: &'static Partition, _device: Option<DeviceParts>) -> PartitionExit {
    PARTITION_CPU.store(rustix::thread::sched_getcpu(), Ordering::Relaxed);
    for number in 0..1000 {
        if partition.events().write(0x300, number, partition.args()).is_err() {
            return PartitionExit::failed(1, format_args!("the ring is full at {number}"));
        }
    }
    PartitionExit::done()
}

#[test]
fn events_reach_the_heap_in_order_and_arguments_reach_the_entry() {
    let Some(only) = common::runtime("event pump") else { return };
    let spec = common::spec("speaks", speaks).with_args("arguments");
    let cpu = only.runtime.cores().first().expect("one core");
    let mut handle = only.runtime.spawn(spec).expect("a partition");
    let queue = handle.pump_events(64).expect("a thread").expect("the first pump");
    assert!(handle.pump_events(64).expect("no thread").is_none());
    for number in 0..1000 {
        let mut event = None;
        until("an event", || {
            event = queue.pop();
            event.is_some()
        });
        let event = event.expect("one");
        assert_eq!((event.kind, event.tag, event.payload()), (0x300, number, &b"arguments"[..]));
    }
    assert_eq!(handle.cpu(), cpu);
    assert!(handle.join().exit.is_done());
    assert_eq!(PARTITION_CPU.load(Ordering::Relaxed), cpu as usize);
    assert_eq!((queue.pumped(), queue.skipped()), (1000, 0));
}

#[test]
fn without_a_promise_the_memory_stays_mapped_and_a_second_partition_starts() {
    let Some(only) = common::runtime("no promise") else { return };
    for _ in 0..2 {
        let mut spec = common::spec("blocks", few_blocks).with_device(common::model());
        spec.entry = Entry::new("blocks", few_blocks);
        assert!(only.runtime.spawn(spec).expect("a partition").join().exit.is_done());
    }
}

#[test]
fn memory_that_is_too_small_for_the_partition_is_one_line_and_frees_the_core() {
    let Some(only) = common::runtime("too little memory") else { return };
    let mut spec = common::spec("small", common::idle);
    spec.private_bytes = 4096;
    spec.config.scheduler.task_memory_bytes = 64 << 20;
    let error = only.runtime.spawn(spec).expect_err("64 MiB do not fit");
    let line = error.to_string();
    assert!(line.starts_with("partition small did not start: "), "{line}");
    assert!(line.contains(" bytes of partition memory wanted, "), "{line}");
    assert!(line.ends_with("; raise private_bytes, or ask for fewer tasks"), "{line}");
    let handle = only.runtime.spawn(common::spec("idle", common::idle)).expect("the core is free");
    handle.request_stop(StopReason::Finished);
    assert!(handle.join().exit.is_done());
}

/// A device that refuses; the DMA memory was looked at before.
struct Refusing;

impl Backend for Refusing {
    fn describe(&self) -> String {
        "a device that refuses".to_owned()
    }

    fn attach(self: Box<Self>, seat: &DeviceSeat<'_>) -> Result<Attached, BackendError> {
        let dma = seat.dma.mapped.span();
        Err(BackendError::Model(format!("{} bytes are not to its taste", dma.len())))
    }
}

#[test]
fn refused_starts_leave_no_mapping_and_no_thread_behind() {
    let Some(only) = common::runtime("refused starts") else { return };
    let run = || {
        let spec = common::spec("refused", common::idle).with_device(Refusing);
        let error = only.runtime.spawn(spec).expect_err("the device refuses");
        assert!(error.to_string().ends_with("are not to its taste"), "{error}");
        let mut spec = common::spec("small", common::idle).with_device(common::model());
        spec.private_bytes = 4096;
        spec.config.scheduler.task_memory_bytes = 64 << 20;
        let error = only.runtime.spawn(spec).expect_err("64 MiB do not fit");
        assert!(matches!(error, RuntimeError::Assembly { .. }), "{error}");
    };
    for _ in 0..3 {
        run();
    }
    let (maps, threads) = (count_lines("/proc/self/maps"), count_threads());
    for _ in 0..20 {
        run();
        assert_eq!(count_threads(), threads, "the thread is joined before the error is returned");
    }
    let after = count_lines("/proc/self/maps");
    assert!(after <= maps + 4, "{maps} mappings before, {after} after 40 refused starts");
}

#[test]
fn cores_are_checked_where_they_are_named() {
    let Some(only) = common::runtime("cores") else { return };
    let mut spec = common::spec("idle", common::idle);
    spec.core = CoreChoice::Cpu(900);
    let line = only.runtime.spawn(spec).expect_err("not ours").to_string();
    assert!(line.starts_with("cpu 900 is not one of the runtime's cpus"), "{line}");
    let none = Runtime::new(CpuSet::single(900).expect("small")).expect_err("no such CPU");
    assert!(none.to_string().starts_with("cpu 900 does not exist: online are cpus "), "{none}");
    assert_eq!(none.exit(), Exit::Error);
}

#[test]
fn a_process_with_one_cpu_is_refused_with_the_way_out() {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let first = host_bridge::affinity::allowed().first().expect("a CPU");
            host_bridge::affinity::pin_to(first).expect("allowed");
            let error = Runtime::new(CpuSet::single(first).expect("small")).expect_err("one CPU");
            let line = error.to_string();
            assert!(line.starts_with(&format!("one cpu only (cpu {first})")), "{line}");
            assert!(line.contains("taskset -c"), "{line}");
            assert_eq!(error.exit(), Exit::Missing);
        });
    });
}

#[test]
fn a_runtime_gives_its_thread_the_cpus_back() {
    let before = host_bridge::affinity::allowed();
    let Some(only) = common::runtime("affinity") else { return };
    assert_eq!(host_bridge::affinity::allowed(), only.runtime.housekeeping());
    drop(only);
    assert_eq!(host_bridge::affinity::allowed(), before);
}

/// Compile-time: what the documentation says of the types' threads.
#[test]
fn a_handle_may_move_between_host_threads() {
    fn may_move<T: Send>() {}
    may_move::<PartitionHandle>();
    may_move::<PartitionSpec>();
    may_move::<Runtime>();
}
