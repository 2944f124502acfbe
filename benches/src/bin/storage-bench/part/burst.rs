//! Bursts and batches: N operations at once.
//!
//! A burst is the cleanest figure of a driver's own cost over memory that it shares with a device:
//! N submits and one doorbell (or a doorbell each), 100 us left alone, one reap of all N. A batch
//! is what an application sees: N operations asked for, as many in flight as the depth allows, and
//! the time until the last has ended.

use core::hint::{black_box, spin_loop};

use nvme_driver::IoError;

use super::closed::note_away;
use super::desk::{Course, Desk};
use super::lane::{Engine, slot_of};
use super::open::free_slots;
use super::window::AWAY_NS;
use crate::wire::{LEAST_CLEAN, Phase, Sample};

/// Bursts of a repetition of which the median is taken.
const BURSTS_MAX: usize = 2048;

/// Time between submit and reap of a burst: many times what a device of memory takes for it.
const PAUSE_NS: u64 = 100_000;

/// Bursts between two turns of the partition's loop.
const BURSTS_A_TURN: u64 = 4;

/// Bursts without a clean one after which no more are tried beyond the phase's time.
const HOPELESS: u64 = 100;

/// Time without a completion after which the partition's loop gets its turn.
const STALL_NS: u64 = 1_000_000;

/// Empty polls that are timed together.
const POLLS: u64 = 1000;

/// One burst, in ticks.
struct Burst {
    submit: u64,
    reap: u64,
    polls_1000: u64,
    clean: bool,
}

type Ticks = heapless::Vec<u64, BURSTS_MAX>;

impl Desk {
    pub(crate) async fn bursts(
        &self,
        engine: &Engine<'_>,
        phase: &Phase,
    ) -> Result<Sample, IoError> {
        let mut sample = Sample::default();
        let (mut submit, mut reap, mut polls) = (Ticks::new(), Ticks::new(), Ticks::new());
        let clock = engine.clock;
        let begin = clock.now();
        let end = begin + clock.ns_to_ticks(phase.duration_ns);
        let patient = end + clock.ns_to_ticks(phase.patience_ns);
        let mut bursts = 0;
        let more = |bursts, kept| {
            let now = clock.now();
            let due = bursts < phase.count && (bursts == 0 || now < end);
            // None of so many: then it is the device that takes longer than the pause.
            let hope = kept != 0 || bursts < HOPELESS;
            due || kept < LEAST_CLEAN && hope && now < patient
        };
        while more(bursts, sample.kept) && !submit.is_full() && !self.stopping() {
            let burst = burst(engine, phase)?;
            engine.drain(&self.partition.spawner()).await?;
            bursts += 1;
            if burst.clean {
                sample.kept += 1;
                // It is not full, or the loop would have ended.
                let _ = (submit.push(burst.submit), reap.push(burst.reap));
                let _ = polls.push(burst.polls_1000);
            } else {
                sample.dropped += 1;
            }
            sample.wall_done += u64::from(phase.batch);
            if bursts % BURSTS_A_TURN == 0 {
                self.partition.spawner().yield_now().await;
            }
        }
        sample.wall_ticks = clock.now().since(begin).get();
        (sample.submit, sample.reap) = (median(&mut submit), median(&mut reap));
        sample.polls_1000 = median(&mut polls);
        sample.writes = engine.writes();
        Ok(sample)
    }

    pub(crate) async fn batches(
        &self,
        engine: &Engine<'_>,
        phase: &Phase,
        course: &mut Course,
    ) -> Result<Sample, IoError> {
        let mut sample = Sample::default();
        let clock = engine.clock;
        let away = clock.ns_to_ticks(AWAY_NS);
        let begin = clock.now();
        let end = begin + clock.ns_to_ticks(phase.duration_ns);
        let more = |batches| (batches == 0 || clock.now() < end) && !self.stopping();
        while more(sample.kept + sample.dropped) {
            let gaps = sample.gaps;
            let ticks = self.batch(engine, phase, &mut sample, away).await?;
            sample.wall_done += u64::from(phase.batch);
            course.record(false, ticks, gaps == sample.gaps);
            if gaps == sample.gaps {
                sample.kept += 1;
                sample.done += u64::from(phase.batch);
                sample.ticks += ticks;
            } else {
                sample.dropped += 1;
            }
            course.look(clock.now(), sample.wall_done, sample.stolen);
            self.send_interval(course).await;
            self.partition.spawner().yield_now().await;
        }
        sample.wall_ticks = clock.now().since(begin).get();
        sample.writes = engine.writes();
        Ok(sample)
    }

    /// One batch, from before its first submit to after its last completion.
    async fn batch(
        &self,
        engine: &Engine<'_>,
        phase: &Phase,
        sample: &mut Sample,
        away: core_runtime::clock::Ticks,
    ) -> Result<u64, IoError> {
        let mut free = free_slots(engine, phase.depth);
        let begin = engine.clock.now();
        let stall = engine.clock.ns_to_ticks(STALL_NS);
        let (mut asked, mut done, mut last, mut moved) = (0, 0, begin, begin);
        while done < phase.batch {
            while asked < phase.batch {
                let Some((index, slot)) = free.pop() else { break };
                let lane = &engine.lanes[usize::from(index)];
                engine.submit(lane, slot);
                asked += 1;
            }
            let before = done;
            for (index, lane) in (0_u16..).zip(engine.lanes) {
                lane.queue.ring();
                done += u32::from(lane.queue.reap(u16::MAX, |token, result| {
                    // As many as were taken out of it.
                    let _ = free.push((index, slot_of(token)));
                    engine.note(result);
                }));
            }
            let now = engine.clock.now();
            note_away(sample, now.since(last), away);
            last = now;
            if done != before {
                moved = now;
            } else if now.since(moved) > stall {
                // The partition's loop keeps the watch over commands that are never answered.
                self.partition.spawner().yield_now().await;
                engine.check()?;
            }
        }
        engine.check()?;
        Ok(last.since(begin).get())
    }
}

/// One burst on the first lane.
fn burst(engine: &Engine<'_>, phase: &Phase) -> Result<Burst, IoError> {
    let clock = engine.clock;
    let lane = &engine.lanes[0];
    let size = u16::try_from(phase.batch).unwrap_or(u16::MAX);
    let begin = clock.now();
    if phase.doorbell_each == 0 {
        for slot in 0..size {
            engine.submit(lane, slot);
        }
        lane.queue.ring();
    } else {
        for slot in 0..size {
            engine.submit(lane, slot);
            lane.queue.ring();
        }
    }
    let rung = clock.now();
    let end = rung + clock.ns_to_ticks(PAUSE_NS);
    while clock.now() < end {
        spin_loop();
    }
    let before = clock.now();
    let taken = lane.queue.reap(size, |_, result| engine.note(result));
    let after = clock.now();
    if taken != size {
        return Ok(Burst { submit: 0, reap: 0, polls_1000: 0, clean: false });
    }
    engine.check()?;
    let empty = clock.now();
    for _ in 0..POLLS {
        black_box(lane.queue.reap(64, |_, _| {}));
    }
    let polls_1000 = clock.now().since(empty).get();
    let (submit, reap) = (rung.since(begin).get(), after.since(before).get());
    let stolen = clock.ns_to_ticks(PAUSE_NS / 2).get().max(u64::from(size) * 400);
    let late = before.since(end).get() > stolen;
    let clean = submit < stolen && reap < stolen && !late;
    Ok(Burst { submit, reap, polls_1000, clean })
}

fn median(values: &mut Ticks) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}
