//! How long a record takes from one partition to another and back.

use core_runtime::partition::{Partition, PartitionExit, run_until_stopped};
use core_runtime::task::TaskOptions;
use host_bridge::Entry;
use hybrid_conventions::HumanNanos;
use nvme_driver::DeviceParts;

use crate::orders::{join_all, spec};
use crate::{Drill, Outcome};

const PING: u16 = 1;
const KIND_TIMES: u16 = 0x0f10;

/// Times that one event carries.
const TIMES: usize = 64;

fn records_of(partition: &Partition) -> u64 {
    <[u8; 8]>::try_from(partition.args()).map_or(0, u64::from_le_bytes)
}

/// Asks and takes the time of each answer.
async fn ask(partition: &'static Partition) -> Option<()> {
    let link = partition.mesh()?.link(1)?;
    link.up().await;
    let clock = partition.clock();
    let (mut bytes, mut times, mut filled) = ([0; 8], [0; 8 * TIMES], 0);
    for number in 0..records_of(partition) {
        let begun = clock.now();
        link.send(PING, 0, &number.to_le_bytes()).await.ok()?;
        link.receive(&mut bytes).await.ok()?;
        if u64::from_le_bytes(bytes) != number {
            return None;
        }
        let ns = clock.ticks_to_ns(clock.now().since(begun));
        times.get_mut(filled..filled + 8)?.copy_from_slice(&ns.to_le_bytes());
        filled += 8;
        if filled == times.len() {
            // What finds no room is not counted.
            let _ = partition.events().write(KIND_TIMES, 0, &times);
            filled = 0;
        }
    }
    Some(())
}

async fn answer(partition: &'static Partition) -> Option<()> {
    let link = partition.mesh()?.link(0)?;
    link.up().await;
    let mut bytes = [0; 8];
    for _ in 0..records_of(partition) {
        link.receive(&mut bytes).await.ok()?;
        link.send(PING, 0, &bytes).await.ok()?;
    }
    Some(())
}

fn play(partition: &'static Partition, _: Option<DeviceParts>) -> PartitionExit {
    let first = partition.mesh().is_some_and(|mesh| mesh.index() == 0);
    let work = async move {
        let whole = if first { ask(partition).await } else { answer(partition).await };
        partition.finish(match whole {
            Some(()) => PartitionExit::done(),
            None => PartitionExit::failed(2, format_args!("a wrong answer, or the peer went")),
        });
    };
    match partition.spawner().spawn(TaskOptions::latency("play"), work) {
        Ok(task) => task.detach(),
        Err(error) => return PartitionExit::failed(1, format_args!("{error}")),
    }
    run_until_stopped(partition, ())
}

pub(crate) const PLAY: Entry = Entry::new("play", play);

/// Between the first two of the CPUs.
pub(crate) fn there_and_back(drill: &Drill) -> Outcome {
    let trips = drill.records.min(20_000);
    let started = drill.runtime.spawn_all(2, 4096, |index| {
        let args = trips.to_le_bytes().to_vec();
        let mut spec = spec(format!("player-{index}"), PLAY, args);
        spec.event_ring_bytes = 1 << 20;
        spec
    });
    let mut handles = match started {
        Ok((_, handles)) => handles,
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    let mut times = Vec::new();
    let first = &mut handles[0];
    first.wait(std::time::Duration::from_millis(1), |handle| {
        let _ = handle.poll_events(u32::MAX, |header, payload| {
            if header.kind == KIND_TIMES {
                let words = payload.as_chunks::<8>().0.iter();
                times.extend(words.map(|word| u64::from_le_bytes(*word)));
            }
        });
        std::ops::ControlFlow::Continue(())
    });
    times.sort_unstable();
    let at = |part: usize| times.get(times.len() * part / 1000).copied().unwrap_or(0);
    println!(
        "note a record there and back between cpus {} and {}: p50 {}, p99 {}, p99.9 {} of {} ({})",
        drill.cpus[0],
        drill.cpus[1],
        HumanNanos(at(500)),
        HumanNanos(at(990)),
        HumanNanos(at(999)),
        times.len(),
        drill.machine
    );
    join_all(handles).into()
}
