//! The closed loop: what completed is submitted again. With and without each operation's latency.

use core_runtime::clock::{Instant, Ticks};
use nvme_driver::IoError;

use super::desk::{Course, Desk};
use super::lane::{Engine, REAP, Stamp, slot_of};
use super::window::{Since, Windows};
use crate::wire::{CLEAN_READS, EXTRA, Phase, Sample};

/// Empty passes between two looks at the clock: some 2 us.
const UNSTAMPED: u64 = 128;

/// Windows between two turns of the partition's loop, which keeps the controller's watch.
const WINDOWS_A_TURN: u32 = 8;

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
        windows.settle(engine.clock.now());
        let more = |now| windows.ended() == 0 || now < end || windows.lacks() && now < patient;
        while more(engine.clock.now()) && !self.stopping() {
            sample.wall_done += if phase.stamped == 0 {
                window(engine, &windows)?
            } else {
                self.latencies(engine, &windows)?
            };
            course.turn(&windows, sample.wall_done);
            if course.is_ready() || windows.ended().is_multiple_of(WINDOWS_A_TURN) {
                self.send_interval(course).await;
                self.partition.spawner().yield_now().await;
                windows.settle(engine.clock.now());
            }
        }
        sample.wall_ticks = engine.clock.now().since(begin).get();
        sample.late = engine.drain(&self.partition.spawner()).await?;
        windows.fill(&mut sample);
        sample.writes = engine.writes();
        Ok(sample)
    }

    /// A window with the latency of each operation: from just before its submit to when its
    /// completion is taken, before the next one is submitted; one reading of the clock an
    /// operation is the end of one and the begin of the next. Each goes into its histogram at once:
    /// a pile of them put away later would leave the device without work meanwhile. Returns what
    /// completed.
    fn latencies(&self, engine: &Engine<'_>, windows: &Windows) -> Result<u64, IoError> {
        let mut now = engine.clock.now();
        let mut done = 0;
        let clean = loop {
            let (reaped, passed) = self.stamped_pass(engine, now, windows.since());
            now = passed;
            done += reaped;
            if let Some(clean) = windows.pass(now, reaped) {
                break clean;
            }
        };
        self.close_window(clean);
        engine.check().map(|()| done)
    }

    /// One turn over the lanes; `now` is when the turn before ended, returned if there is no lane.
    /// Operations that were submitted before the loop was elsewhere do not count: they may have
    /// waited for anything.
    #[inline(always)]
    fn stamped_pass(&self, engine: &Engine<'_>, now: Instant, since: Since) -> (u64, Instant) {
        let mut reaped = 0;
        let mut after = now;
        for lane in engine.lanes {
            reaped += u64::from(lane.queue.reap(REAP, |token, result| {
                let (slot, at) = (slot_of(token), engine.clock.now());
                let stamp = lane.stamp(slot);
                match result {
                    Ok(()) => {
                        let write = engine.submit(lane, slot);
                        lane.set_stamp(slot, Stamp { at, due: at, write });
                    }
                    Err(error) => engine.fail(error),
                }
                if stamp.at >= since.all {
                    let ticks = at.since(stamp.at).get();
                    self.record_in_window((stamp.write, ticks), stamp.at >= since.clean);
                }
            }));
            lane.queue.ring();
            after = engine.clock.now();
        }
        (reaped, after)
    }
}

/// A window without latencies; one reading of the clock a pass that reaped something.
fn window(engine: &Engine<'_>, windows: &Windows) -> Result<u64, IoError> {
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
