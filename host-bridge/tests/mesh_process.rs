//! Partitions that are processes: their rings to each other, and one that is killed under load and
//! started again in its place while its peer goes on. A program of its own: `main` is shared with
//! the partitions, so that it prints libtest's lines itself.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use core_runtime::partition::{Partition, PartitionExit, StopReason, run_until_stopped};
use core_runtime::task::{Either, TaskOptions, select, yield_now};
use host_bridge::topology::Topology;
use host_bridge::warnings::Warnings;
use host_bridge::{
    CoreChoice, Entry, PartitionHandle, PartitionMesh, PartitionSpec, Runtime, Spread, Table,
};
use hybrid_conventions::{CpuSet, testing};
use nvme_driver::DeviceParts;

/// A bound for every wait: nothing takes as long, even on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

const RING_BYTES: usize = 8 << 10;

fn run(
    partition: &'static Partition,
    work: impl Future<Output = Result<(), &'static str>> + 'static,
) -> PartitionExit {
    let work = async move {
        partition.finish(match work.await {
            Ok(()) => PartitionExit::done(),
            Err(what) => PartitionExit::failed(1, format_args!("{what}")),
        });
    };
    match partition.spawner().spawn(TaskOptions::normal("t"), work) {
        Ok(task) => task.detach(),
        Err(error) => return PartitionExit::failed(1, format_args!("{error}")),
    }
    run_until_stopped(partition, ())
}

/// Answers every question with its incarnation and a word of the table, until it is stopped.
fn answer(partition: &'static Partition, _: Option<DeviceParts>) -> PartitionExit {
    run(partition, async move {
        let link = partition.mesh().and_then(|mesh| mesh.link(1)).ok_or("no mesh")?;
        let word = partition.table("prices").and_then(|table| table.load64(4088).ok());
        let word = word.ok_or("no table")?;
        let mut bytes = [0; 100];
        link.up().await;
        loop {
            let asked = select(link.receive(&mut bytes), partition.stopping()).await;
            let Either::First(asked) = asked else { return Ok(()) };
            let tag = asked.map_err(|_| "the peer went")?.tag;
            let mut told = [0; 16];
            told[..8].copy_from_slice(&partition.incarnation().to_le_bytes());
            told[8..].copy_from_slice(&word.to_le_bytes());
            link.send(2, tag, &told).await.map_err(|_| "the peer went")?;
        }
    })
}

/// Asks without an end, and counts in its alerts' codes which incarnation answers.
fn ask(partition: &'static Partition, _: Option<DeviceParts>) -> PartitionExit {
    run(partition, async move {
        let link = partition.mesh().and_then(|mesh| mesh.link(0)).ok_or("no mesh")?;
        let (mut told, mut tag) = (0, 0_u32);
        loop {
            let up = select(link.up(), partition.stopping()).await;
            let Either::First(incarnation) = up else { return Ok(()) };
            let mut bytes = [0; 16];
            tag = tag.wrapping_add(1);
            // The peer may be killed between any two of these.
            let exchange = async {
                link.send(1, tag, &[7; 100]).await.ok()?;
                link.receive(&mut bytes).await.ok()
            };
            match select(exchange, partition.stopping()).await {
                Either::First(Some(header)) if header.tag != tag => return Err("a stale answer"),
                Either::First(Some(_)) => {}
                Either::First(None) => continue,
                Either::Second(_) => return Ok(()),
            }
            if bytes[..8] != u64::from(incarnation).to_le_bytes() {
                return Err("an answer of an earlier incarnation");
            }
            if bytes[8..] != 0x5157_u64.to_le_bytes() {
                return Err("another table");
            }
            if told != incarnation {
                told = incarnation;
                let severity = hybrid_abi::alert::Severity::WARNING;
                partition.alert(severity, incarnation, format_args!("answered"));
            }
            yield_now().await;
        }
    })
}

const ANSWER: Entry = Entry::new("answer", answer);
const ASK: Entry = Entry::new("ask", ask);

host_bridge::partition_main! { entries: [ANSWER, ASK], main: host }

struct Test {
    runtime: Runtime,
    cpu: u32,
    table: Table,
}

impl Test {
    fn spec(&self, index: u32) -> PartitionSpec {
        let (name, entry) = if index == 0 { ("answer", ANSWER) } else { ("ask", ASK) };
        let mut spec = PartitionSpec::new(name, entry);
        spec.core = CoreChoice::Shared(self.cpu);
        (spec.dma_bytes, spec.private_bytes, spec.event_ring_bytes) = (4096, 4 << 20, 64 << 10);
        spec.tables = vec![self.table.clone()];
        spec
    }

    fn start(&self) -> (PartitionMesh, PartitionHandle, PartitionHandle) {
        let started = self.runtime.spawn_all(2, RING_BYTES, |index| self.spec(index));
        let (mesh, handles) = started.expect("both start");
        let [answering, asking] = handles.try_into().expect("two");
        (mesh.expect("a mesh"), answering, asking)
    }
}

/// Waits until `asking` was answered by this incarnation.
fn until_answered(asking: &mut PartitionHandle, incarnation: u32) {
    let begun = Instant::now();
    let mut answered = false;
    while !answered {
        let read = asking.poll_events(16, |header, payload| {
            use hybrid_abi::Record as _;
            let alert = hybrid_abi::alert::Alert::parse(payload);
            answered |= header.kind == hybrid_abi::alert::KIND_ALERT
                && alert.is_ok_and(|alert| alert.code == incarnation);
        });
        assert!(read.is_ok(), "the ring is whole");
        assert!(!asking.is_finished(), "{:?}", asking.snapshot());
        assert!(begun.elapsed() < LIMIT, "no answer of incarnation {incarnation}");
        std::thread::yield_now();
    }
}

fn stop(handle: PartitionHandle) {
    handle.request_stop(StopReason::Finished);
    let report = handle.join_within(LIMIT).expect("it ends");
    assert!(report.exit.is_done(), "{:?}", report.exit);
}

fn a_killed_partition_is_started_again_in_its_place_and_its_peer_goes_on(test: &Test) {
    let (mesh, mut answering, mut asking) = test.start();
    for incarnation in 1..=3 {
        until_answered(&mut asking, incarnation);
        if incarnation == 3 {
            break;
        }
        answering.process().expect("a process").kill().expect("it is there");
        let report = answering.join_within(LIMIT).expect("it is dead");
        assert!(!report.exit.is_done());
        let mut again = test.spec(0);
        again.place = mesh.place(0);
        answering = test.runtime.spawn(again).expect("it starts again");
    }
    stop(answering);
    stop(asking);
}

fn peers_can_map_each_others_regions_for_reading_only(test: &Test) {
    let (mesh, answering, asking) = test.start();
    let regions = mesh.memory().regions().len();
    for handle in [&answering, &asking] {
        let pid = handle.process().expect("a process").pid();
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("procfs");
        let mut modes: Vec<_> = maps
            .lines()
            .filter(|line| line.contains("hybrid-mesh"))
            .filter_map(|line| line.split(' ').nth(1))
            .collect();
        modes.sort_unstable();
        assert_eq!((modes.as_slice(), regions), (&["r--s", "rw-s"][..], 2), "{maps}");
        let table = maps.lines().find(|line| line.contains("hybrid-table")).expect("a table");
        assert!(table.contains(" r--s "), "{table}");
    }
    stop(answering);
    stop(asking);
}

/// A test and its name.
type Named = (&'static str, fn(&Test));

const TESTS: &[Named] = &[
    (
        "a_killed_partition_is_started_again_in_its_place_and_its_peer_goes_on",
        a_killed_partition_is_started_again_in_its_place_and_its_peer_goes_on,
    ),
    (
        "peers_can_map_each_others_regions_for_reading_only",
        peers_can_map_each_others_regions_for_reading_only,
    ),
];

fn host() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", TESTS.len());
    let Some(core) = Topology::read().suggested_core() else {
        for (name, _) in TESTS {
            testing::skipped(name, "it needs two CPUs");
            println!("test {name} ... ok");
        }
        return ExitCode::SUCCESS;
    };
    let cores = CpuSet::single(core).expect("a small number");
    let runtime = Runtime::with_warnings(cores, Warnings::to(|_| {})).expect("a runtime");
    let table = runtime.table("prices", 4096, Spread::Interleaved, |span| {
        span.word64(4088).expect("inside").store(0x5157);
    });
    let test = Test { runtime, cpu: core, table: table.expect("memory") };
    let (mut passed, mut failed) = (0, 0);
    for (name, run) in TESTS {
        let whole = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&test))).is_ok();
        println!("test {name} ... {}", if whole { "ok" } else { "FAILED" });
        (passed, failed) = if whole { (passed + 1, failed) } else { (passed, failed + 1) };
    }
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {result}. {passed} passed; {failed} failed; 0 ignored; 0 measured; \
         0 filtered out; finished in 0.00s\n"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
