//! `probe-util` against a partition whose tasks take known shares of a core.
//!
//! A task of a share works until its time is that share of all time, and waits otherwise, so that a
//! busy machine shifts its work and does not change the share. The partition is a thread of this
//! test; `probe-util` is a process, as for its users.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use core_runtime::clock::Ticks;
use core_runtime::partition::{
    Partition, PartitionExit, PartitionState, StopReason, run_until_stopped,
};
use core_runtime::task::{TaskOptions, yield_now};
use host_bridge::telemetry::control::ControlSocket;
use host_bridge::topology::Topology;
use host_bridge::warnings::Warnings;
use host_bridge::{Entry, EntryFn, Isolation, PartitionHandle, PartitionSpec, Runtime};
use hybrid_conventions::CpuSet;
use hybrid_conventions::testing::skipped;
use nvme_driver::DeviceParts;
use serde_json::Value;

/// How far from its share a figure may be, in points.
const POINTS: f64 = 2.0;

/// Takes `percent` of the core until the partition is to stop.
async fn take(partition: &'static Partition, percent: u64) {
    let clock = partition.clock();
    let (begun, piece) = (clock.now(), clock.ns_to_ticks(50_000));
    let mut worked = Ticks::ZERO;
    while partition.stop_requested().is_none() {
        let now = clock.now();
        if worked.get() * 100 < now.since(begun).get() * percent {
            while clock.now().since(now) < piece {
                std::hint::spin_loop();
            }
            worked = worked.saturating_add(clock.now().since(now));
            yield_now().await;
        } else {
            partition.spawner().sleep_ns(20_000).await;
        }
    }
}

fn loaded(partition: &'static Partition, tasks: &[(&'static str, u64)]) -> PartitionExit {
    for (name, percent) in tasks {
        let work = take(partition, *percent);
        match partition.spawner().spawn(TaskOptions::normal(name), work) {
            Ok(task) => task.detach(),
            Err(error) => return PartitionExit::failed(1, format_args!("{error}")),
        }
    }
    let end = async move {
        let _ = partition.stopping().await;
        partition.finish(PartitionExit::done());
    };
    match partition.spawner().spawn(TaskOptions::latency("end"), end) {
        Ok(task) => task.detach(),
        Err(error) => return PartitionExit::failed(1, format_args!("{error}")),
    }
    run_until_stopped(partition, ())
}

fn ten_and_fifty(partition: &'static Partition, _: Option<DeviceParts>) -> PartitionExit {
    loaded(partition, &[("ten", 10), ("fifty", 50)])
}

fn ninety(partition: &'static Partition, _: Option<DeviceParts>) -> PartitionExit {
    loaded(partition, &[("ninety", 90)])
}

struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn probe_util(run_dir: &Path, args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_probe-util"));
    let output = command.args(args).arg("--run-dir").arg(run_dir).output().expect("it starts");
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn start(runtime: &Runtime, name: &'static str, run: EntryFn) -> PartitionHandle {
    // Their memory stays mapped after their end, which a test can afford.
    let mut spec = PartitionSpec::new(name, Entry::new(name, run)).isolated_by(Isolation::Thread);
    spec.dma_bytes = 4 << 20;
    spec.private_bytes = 8 << 20;
    runtime.spawn(spec).expect("a partition")
}

/// `top`'s view of the only partition, over a second; the first look is no difference yet.
fn look(run_dir: &Path) -> Value {
    let text = probe_util(run_dir, &["top", "--json", "-d", "1s", "-n", "1"]);
    let value: Value = serde_json::from_str(text.trim()).expect("JSON");
    assert_eq!(value["schema"], "top/1");
    value["partitions"][0].clone()
}

fn percent(partition: &Value, task: &str) -> f64 {
    let tasks = partition["tasks"].as_array().expect("tasks");
    let found = tasks.iter().find(|row| row["name"] == task);
    found.and_then(|row| row["percent"].as_f64()).unwrap_or_else(|| panic!("{task}: {partition}"))
}

/// Its polls are followed and recorded, and its probes are off again afterwards.
fn traces(run_dir: &Path, task: &str) {
    let follow = |more: &[&str]| {
        let args = ["trace", "follow", "--json", "--for", "40ms"];
        probe_util(run_dir, &[&args[..], more].concat())
    };
    let followed = follow(&["--groups", "sched:debug", "--name", "sched.poll"]);
    let polls: Vec<Value> =
        followed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(polls.iter().any(|poll| poll["task"] == task), "{followed}");
    // They are off again at the partition's next pass, which a crowded machine may put off.
    let begun = Instant::now();
    while !follow(&[]).is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(30), "they stay on");
    }
    let file = run_dir.join("polls.hytrace");
    let file = file.to_str().expect("a path");
    probe_util(run_dir, &["trace", "record", "--groups", "sched", "--for", "40ms", "-o", file]);
    let show = ["trace", "show", file, "--task", task, "--name", "sched.poll"];
    let shown = Command::new(env!("CARGO_BIN_EXE_probe-util")).args(show).output();
    let shown = String::from_utf8(shown.expect("it starts").stdout).expect("text");
    assert!(shown.contains(&format!("sched.poll         task={task} ")), "{shown}");
}

/// A partition by name, what it runs, and what share of its core each of its tasks takes.
type Load = (&'static str, EntryFn, &'static [(&'static str, f64)]);

#[test]
fn known_loads_are_shown_within_two_points() {
    let name = "known_loads_are_shown_within_two_points";
    let Some(core) = Topology::read().suggested_core() else {
        return skipped(name, "it needs two CPUs");
    };
    let cores = CpuSet::single(core).expect("a small number");
    let runtime = Runtime::with_warnings(cores, Warnings::to(|_| {})).expect("a runtime");
    let run_dir =
        Place(std::env::temp_dir().join(format!("probe-util-load-{}", std::process::id())));
    let _socket = ControlSocket::start(runtime.telemetry(), &run_dir.0, "load").expect("a socket");
    let loads: [Load; 2] = [
        ("ten-and-fifty", ten_and_fifty, &[("ten", 10.0), ("fifty", 50.0)]),
        ("ninety", ninety, &[("ninety", 90.0)]),
    ];
    for (partition_name, run, tasks) in loads {
        let partition = start(&runtime, partition_name, run);
        let list = probe_util(&run_dir.0, &["list"]);
        assert!(list.contains(partition_name) && list.contains("thread"), "{list}");
        // What the machine takes away before the look is made up for in it.
        let seen: Vec<_> = (0..3).map(|_| look(&run_dir.0)).collect();
        let close = |seen: &Value| {
            let near = |(task, share): &(&str, f64)| (percent(seen, task) - share).abs() <= POINTS;
            tasks.iter().all(near)
        };
        let stolen = |seen: &Value| seen["stolen_percent"].as_f64().unwrap_or(0.0);
        let quiet: Vec<_> = seen.iter().filter(|seen| stolen(seen) < POINTS).collect();
        if quiet.is_empty() {
            skipped(name, "others had the core for more than 2 % of each look");
        } else {
            assert!(quiet.iter().any(|seen| close(seen)), "{partition_name}: {seen:#?}");
        }
        for seen in &seen {
            let parts = ["useful_percent", "empty_percent", "stolen_percent"];
            let sum: f64 = parts.iter().map(|part| seen[part].as_f64().expect("a share")).sum();
            assert!((sum - 100.0).abs() < 0.5, "{seen:#?}");
            assert_eq!(seen["state"], "running");
            assert_eq!(seen["partition"], partition_name);
        }
        let screen = probe_util(&run_dir.0, &["top", "--once", "-d", "100ms"]);
        assert!(screen.lines().all(|line| line.chars().count() <= 80), "{screen}");
        assert!(tasks.iter().all(|(task, _)| screen.contains(task)), "{screen}");
        let metrics = probe_util(&run_dir.0, &["metrics"]);
        assert!(metrics.contains("useful_ns") && metrics.contains(tasks[0].0), "{metrics}");
        let jitter = probe_util(&run_dir.0, &["jitter"]);
        assert!(jitter.contains("pass to pass") && jitter.contains("stolen"), "{jitter}");
        traces(&run_dir.0, tasks[0].0);
        partition.request_stop(StopReason::Finished);
        assert_eq!(partition.join().exit.state, PartitionState::Stopped);
    }
}
