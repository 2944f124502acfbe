//! The open loop: arrivals come when they come, whatever the device does.
//!
//! An arrival's latency counts from when it was due: time that it waited for a slot, because the
//! loop was late or because everything was in flight, is its latency too. That is what a closed
//! loop leaves out (coordinated omission). At most [`Phase::backlog`] arrivals wait; more are
//! turned away and counted, so that latency stays bounded when more arrives than can be served. The
//! time from the submission on is kept beside.

use core::cell::Cell;

use core_runtime::clock::{Instant, Ticks};
use hybrid_benches::rng::Rng;
use nvme_driver::IoError;

use super::closed::note_away;
use super::desk::{Course, Desk};
use super::lane::{Engine, Lane, Stamp, slot_of};
use super::window::AWAY_NS;
use crate::wire::{Phase, Sample};

/// Most operations in flight.
pub(crate) const IN_FLIGHT: usize = 4096;

/// Passes between two turns of the partition's loop: some hundred microseconds.
const PASSES_A_TURN: u32 = 4096;

/// Arrivals on a schedule, in ticks since the begin.
struct Schedule {
    /// Ticks between groups, on average.
    gap: f64,
    poisson: bool,
    group: u32,
    /// Of the running group.
    left: u32,
    next: f64,
    rng: Rng,
}

impl Schedule {
    fn new(phase: &Phase, rate_milli: u64, hz: u64) -> Self {
        let group = phase.group.max(1);
        let gap = hz as f64 * 1000.0 / rate_milli.max(1) as f64 * f64::from(group);
        let rng = Rng::new(phase.seed ^ 0x0a22);
        Self { gap, poisson: phase.poisson != 0, group, left: group, next: gap, rng }
    }

    /// When the next arrival is due.
    #[inline]
    const fn due(&self) -> f64 {
        self.next
    }

    #[inline]
    fn advance(&mut self) {
        self.left -= 1;
        if self.left != 0 {
            return;
        }
        self.left = self.group;
        let gap = if self.poisson {
            // 53 bits, never 0.
            let unit = ((self.rng.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64;
            -unit.ln() * self.gap
        } else {
            self.gap
        };
        self.next += gap;
    }
}

/// Arrivals that wait, first come first served.
struct Backlog {
    due: &'static [Cell<Instant>],
    first: usize,
    len: usize,
    most: usize,
}

impl Backlog {
    #[inline]
    fn push(&mut self, due: Instant) -> bool {
        if self.len == self.due.len() {
            return false;
        }
        self.due[(self.first + self.len) % self.due.len()].set(due);
        self.len += 1;
        self.most = self.most.max(self.len);
        true
    }

    #[inline]
    fn pop(&mut self) -> Option<Instant> {
        if self.len == 0 {
            return None;
        }
        let due = self.due[self.first].get();
        self.first = (self.first + 1) % self.due.len();
        self.len -= 1;
        Some(due)
    }
}

/// Slots that are free: lane and slot.
type Free = heapless::Vec<(u16, u16), IN_FLIGHT>;

impl Desk {
    pub(crate) async fn open(
        &self,
        engine: &Engine<'_>,
        phase: &Phase,
        capacity_milli: u64,
        course: &mut Course,
    ) -> Result<Sample, IoError> {
        let rate_milli = match phase.rate_milli {
            0 => {
                let rate = u128::from(capacity_milli) * u128::from(phase.rate_of_capacity_ppm);
                u64::try_from(rate / 1_000_000).unwrap_or(u64::MAX)
            }
            rate => rate,
        };
        let clock = engine.clock;
        let mut sample = Sample { rate_milli, ..Sample::default() };
        let mut schedule = Schedule::new(phase, rate_milli, clock.hz());
        let room = usize::try_from(phase.backlog.max(1)).unwrap_or(1);
        let mut backlog = Backlog { due: &self.backlog[..room], first: 0, len: 0, most: 0 };
        let mut free = free_slots(engine, phase.depth);
        let slots = free.len();
        let away = clock.ns_to_ticks(AWAY_NS);
        let begin = clock.now();
        let duration = clock.ns_to_ticks(phase.duration_ns);
        let (mut last, mut passes) = (begin, 0_u32);
        loop {
            reap(engine, &mut free, course, &mut sample);
            let now = clock.now();
            note_away(&mut sample, now.since(last), away);
            last = now;
            let since = now.since(begin);
            // What was due before the end is served, however late the loop is then: to leave it out
            // would flatter the run.
            let due = since.min(duration).get() as f64;
            let over = since >= duration && schedule.due() > due && backlog.len == 0;
            if over && free.len() == slots || self.stopping() {
                break;
            }
            while schedule.due() <= due {
                sample.arrivals += 1;
                if !backlog.push(begin + ticks(schedule.due())) {
                    sample.rejected += 1;
                }
                schedule.advance();
            }
            submit(engine, now, &mut free, &mut backlog);
            passes += 1;
            if passes >= PASSES_A_TURN || course.is_ready() {
                passes = 0;
                course.look(now, sample.wall_done, sample.stolen);
                self.send_interval(course).await;
                self.partition.spawner().yield_now().await;
                // What the partition's own loop takes is ours: not a gap.
                last = clock.now();
                engine.check()?;
            }
        }
        sample.wall_ticks = clock.now().since(begin).get();
        sample.backlog_most = backlog.most as u64;
        sample.late = engine.drain(&self.partition.spawner()).await?;
        sample.ticks = sample.wall_ticks;
        sample.done = sample.wall_done;
        sample.kept = 1;
        sample.writes = engine.writes();
        Ok(sample)
    }
}

/// All slots of a depth, spread over the lanes.
pub(crate) fn free_slots(engine: &Engine<'_>, depth: u32) -> Free {
    let mut free = Free::new();
    for (index, _) in engine.lanes.iter().enumerate() {
        for slot in 0..Lane::share(index, engine.lanes.len(), depth) {
            // At most as many as the plan allows, which the host keeps to.
            let _ = free.push((u16::try_from(index).unwrap_or(0), slot));
        }
    }
    free
}

/// Takes what completed; one reading of the clock after each lane that had something.
fn reap(engine: &Engine<'_>, free: &mut Free, course: &mut Course, sample: &mut Sample) {
    for (index, lane) in engine.lanes.iter().enumerate() {
        let before = free.len();
        let taken = lane.queue.reap(u16::MAX, |token, result| {
            // As many as were taken out of it.
            let _ = free.push((u16::try_from(index).unwrap_or(0), slot_of(token)));
            engine.note(result);
        });
        if taken == 0 {
            continue;
        }
        sample.wall_done += u64::from(taken);
        let now = engine.clock.now();
        for (_, slot) in &free[before..] {
            let stamp = lane.stamp(*slot);
            course.record(stamp.write, now.since(stamp.due).get(), false);
            course.record_extra(now.since(stamp.at).get());
        }
    }
}

fn submit(engine: &Engine<'_>, now: Instant, free: &mut Free, backlog: &mut Backlog) {
    while !free.is_empty() {
        let Some(due) = backlog.pop() else { break };
        let Some((index, slot)) = free.pop() else { break };
        let lane = &engine.lanes[usize::from(index)];
        let write = engine.submit(lane, slot);
        lane.set_stamp(slot, Stamp { at: now, due, write });
    }
    for lane in engine.lanes {
        lane.queue.ring();
    }
}

#[expect(clippy::cast_possible_truncation, reason = "ticks of a run: far below 2^53")]
#[expect(clippy::cast_sign_loss, reason = "gaps are positive")]
const fn ticks(value: f64) -> Ticks {
    Ticks::new(value as u64)
}
