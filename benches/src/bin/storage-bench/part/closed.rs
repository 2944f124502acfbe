//! The closed loop: what completed is submitted again. With and without each operation's latency.

use core_runtime::clock::{Instant, Ticks};
use nvme_driver::IoError;

use super::desk::{Course, Desk};
use super::lane::{Engine, REAP, Stamp, slot_of};
use super::window::Windows;
use crate::wire::{CLEAN_READS, EXTRA, Phase, Sample};

/// Empty passes between two looks at the clock: some 2 us.
const UNSTAMPED: u64 = 128;

/// Windows between two turns of the partition's loop, which keeps the controller's watch.
const WINDOWS_A_TURN: u32 = 8;

/// Latencies of one window: one of 250 us at 32 M operations a second.
pub(crate) const SCRATCH: usize = 8192;

/// Latencies of the running window, in ticks; the top bit says that it was a write.
pub(crate) type Scratch = heapless::Vec<u64, SCRATCH>;

/// Of [`Scratch`].
pub(super) const WRITE: u64 = 1 << 63;

/// Latencies of the window before that are put away in a pass that found nothing to reap. All of
/// them between two windows would leave the device without work: at depth 128 it was 7 % of the
/// rate. The passes before a window counts suffice for depth 1.
const PUT_AWAY: usize = 4;

/// Latencies of a window that has ended, on their way into the histograms.
#[derive(Default)]
pub(crate) struct Ended {
    latencies: Scratch,
    clean: bool,
}

impl Ended {
    /// Puts up to `most` of them away.
    #[inline(always)]
    fn put_away(&mut self, most: usize, course: &mut Course) {
        for _ in 0..most {
            let Some(entry) = self.latencies.pop() else { return };
            course.record(entry & WRITE != 0, entry & !WRITE, self.clean);
        }
    }

    /// Takes what a window left behind; what is still here of an earlier one goes first.
    fn take(&mut self, window: &mut Scratch, clean: bool, course: &mut Course) {
        self.put_away(SCRATCH, course);
        // It is empty, and as long.
        let _ = self.latencies.extend_from_slice(window);
        window.clear();
        self.clean = clean;
    }
}

impl Desk {
    pub(crate) async fn closed(
        &self,
        engine: &Engine<'_>,
        phase: &Phase,
        course: &mut Course,
    ) -> Result<Sample, IoError> {
        let mut sample = Sample::default();
        let windows = Windows::new(engine.clock, phase, self.gauges);
        let begin = engine.clock.now();
        let end = begin + engine.clock.ns_to_ticks(phase.duration_ns);
        let patient = end + engine.clock.ns_to_ticks(phase.patience_ns);
        engine.fill(phase.depth);
        let more = |now| windows.ended() == 0 || now < end || windows.lacks() && now < patient;
        while more(engine.clock.now()) && !self.stopping() {
            sample.wall_done += if phase.stamped == 0 {
                window(engine, &windows)?
            } else {
                self.latencies(engine, &windows, course, &mut sample)?
            };
            course.turn(&windows, sample.wall_done);
            if windows.ended().is_multiple_of(WINDOWS_A_TURN) {
                self.send_interval(course).await;
                self.partition.spawner().yield_now().await;
            }
        }
        sample.wall_ticks = engine.clock.now().since(begin).get();
        self.ended.borrow_mut().put_away(SCRATCH, course);
        sample.late = engine.drain(&self.partition.spawner()).await?;
        windows.fill(&mut sample);
        sample.writes = engine.writes();
        Ok(sample)
    }

    /// A window with the latency of each operation: from just before its submit to when its
    /// completion is taken, before the next one is submitted; one reading of the clock an
    /// operation is the end of one and the begin of the next. Returns what completed.
    fn latencies(
        &self,
        engine: &Engine<'_>,
        windows: &Windows,
        course: &mut Course,
        sample: &mut Sample,
    ) -> Result<u64, IoError> {
        let mut scratch = self.scratch.borrow_mut();
        let mut ended = self.ended.borrow_mut();
        let mut now = engine.clock.now();
        windows.settle(now);
        let mut done = 0;
        let clean = loop {
            let (reaped, passed) = stamped_pass(engine, now, windows.begun(), &mut scratch);
            now = passed;
            done += reaped;
            if reaped == 0 {
                ended.put_away(PUT_AWAY, course);
            }
            if let Some(clean) = windows.pass(now, reaped) {
                break clean;
            }
        };
        if scratch.is_full() {
            sample.unsampled += 1;
        }
        ended.take(&mut scratch, clean, course);
        engine.check().map(|()| done)
    }
}

/// One turn over the lanes; `now` is when the turn before ended, returned if there is no lane.
/// Latencies of operations that were submitted in the window go to `scratch`: an earlier one may
/// have waited for anything.
#[inline(always)]
fn stamped_pass(
    engine: &Engine<'_>,
    now: Instant,
    window: Instant,
    scratch: &mut Scratch,
) -> (u64, Instant) {
    let mut reaped = 0;
    let mut after = now;
    for lane in engine.lanes {
        reaped += u64::from(lane.queue.reap(REAP, |token, result| {
            let (slot, at) = (slot_of(token), engine.clock.now());
            let stamp = lane.stamp(slot);
            if stamp.at >= window {
                let mark = if stamp.write { WRITE } else { 0 };
                // What is beyond the scratch is not sampled, which is counted.
                let _ = scratch.push(at.since(stamp.at).get() | mark);
            }
            match result {
                Ok(()) => {
                    let write = engine.submit(lane, slot);
                    lane.set_stamp(slot, Stamp { at, due: at, write });
                }
                Err(error) => engine.fail(error),
            }
        }));
        lane.queue.ring();
        after = engine.clock.now();
    }
    (reaped, after)
}

/// A window without latencies; one reading of the clock a pass that reaped something.
fn window(engine: &Engine<'_>, windows: &Windows) -> Result<u64, IoError> {
    windows.settle(engine.clock.now());
    let (mut empty, mut done) = (0, 0);
    loop {
        let reaped = engine.pass();
        done += reaped;
        if reaped == 0 {
            empty += 1;
            core::hint::spin_loop();
            if empty < UNSTAMPED {
                continue;
            }
        }
        windows.add_empty(empty);
        empty = 0;
        if windows.pass(engine.clock.now(), reaped).is_some() {
            return engine.check().map(|()| done);
        }
    }
}

/// A time without a look at the clock that the core was away for.
pub(crate) fn note_away(sample: &mut Sample, gap: Ticks, longest: Ticks) -> bool {
    let away = gap > longest;
    if away {
        sample.gaps += 1;
        sample.stolen += gap.get();
        sample.longest_gap = sample.longest_gap.max(gap.get());
    }
    away
}

// Clean histograms come before those of all windows, and the extra one last.
const _: () = assert!(CLEAN_READS == 0 && EXTRA as usize + 1 == crate::wire::HISTS);
