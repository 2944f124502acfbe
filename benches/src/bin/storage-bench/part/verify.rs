//! Verification: blocks are written with their label, read back, and compared with an oracle that
//! knows each one's last acknowledged version.
//!
//! Every place is written once, then read and written at random with the phase's depth and mix, and
//! all of them are read once more in the end. A place with an operation in flight is left alone, so
//! that what a read should find is certain.

use core::cell::Cell;

use nvme_driver::IoError;

use super::block::{Label, Verdict};
use super::desk::Desk;
use super::lane::{Engine, Lane, Stamp, slot_of};
use super::open::free_slots;
use crate::wire::{Phase, Sample};

/// Most places that are verified: their versions lie in private memory.
pub(crate) const PLACES: usize = 1 << 16;

/// Of a version's word: an operation is in flight.
const BUSY: u32 = 1 << 31;

/// Draws in a row that may meet a busy place.
const DRAWS: u32 = 64;

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    WriteAll,
    Mixed,
    ReadAll,
}

/// The oracle, and where things are.
struct Check<'a> {
    engine: &'a Engine<'a>,
    versions: &'a [Cell<u32>],
    lba_bytes: usize,
    blocks_each: u64,
    seed: u32,
    sample: Sample,
}

impl Desk {
    pub(crate) async fn verify(
        &self,
        engine: &Engine<'_>,
        phase: &Phase,
        (versions, lba_bytes): (&[Cell<u32>], u32),
    ) -> Result<Sample, IoError> {
        versions.iter().for_each(|version| version.set(0));
        let seed = u32::try_from(phase.seed & 0xffff_ffff).unwrap_or(0);
        let mut check = Check {
            engine,
            versions,
            lba_bytes: usize::try_from(lba_bytes).unwrap_or(4096),
            blocks_each: u64::from(phase.bytes / lba_bytes.max(1)),
            seed,
            sample: Sample { kept: 1, ..Sample::default() },
        };
        let clock = engine.clock;
        let begin = clock.now();
        for stage in [Stage::WriteAll, Stage::Mixed, Stage::ReadAll] {
            let end = clock.now() + clock.ns_to_ticks(phase.duration_ns);
            let mut free = free_slots(engine, phase.depth);
            let all = free.len();
            let mut at = 0;
            loop {
                let over = self.stopping()
                    || match stage {
                        Stage::Mixed => clock.now() >= end,
                        Stage::WriteAll | Stage::ReadAll => at >= versions.len(),
                    };
                while let (false, Some((index, slot))) = (over, free.last().copied()) {
                    let Some((write, place)) = check.next(stage, &mut at) else { break };
                    free.pop();
                    check.submit(&engine.lanes[usize::from(index)], slot, write, place);
                }
                for (index, lane) in (0_u16..).zip(engine.lanes) {
                    lane.queue.ring();
                    let first = free.len();
                    lane.queue.reap(u16::MAX, |token, result| {
                        // As many as were taken out of it.
                        let _ = free.push((index, slot_of(token)));
                        engine.note(result);
                    });
                    engine.check()?;
                    free[first..].iter().for_each(|(_, slot)| check.ended(lane, *slot));
                }
                if over && free.len() == all {
                    break;
                }
                self.partition.spawner().yield_now().await;
            }
        }
        check.sample.wall_ticks = clock.now().since(begin).get();
        check.sample.ticks = check.sample.wall_ticks;
        check.sample.done = check.sample.wall_done;
        check.sample.writes = engine.writes();
        Ok(check.sample)
    }
}

impl Check<'_> {
    /// Whether to write, and which place; `None` if every draw met a busy one.
    fn next(&self, stage: Stage, at: &mut usize) -> Option<(bool, usize)> {
        if stage != Stage::Mixed {
            let place = *at;
            self.versions.get(place)?;
            *at += 1;
            return Some((stage == Stage::WriteAll, place));
        }
        (0..DRAWS).find_map(|_| {
            let (write, lba) = self.engine.pick.next();
            let place = usize::try_from(lba / self.blocks_each).unwrap_or(0) % self.versions.len();
            (self.versions[place].get() & BUSY == 0).then_some((write, place))
        })
    }

    fn submit(&self, lane: &Lane, slot: u16, write: bool, place: usize) {
        let first = place as u64 * self.blocks_each;
        let version = self.versions[place].get() + u32::from(write);
        // Nothing is in flight on a free slot.
        let _ = lane.queue.with_buf(slot, |bytes| {
            if !write {
                // A read that moves no data must not find the data of an earlier one.
                return bytes.fill(0xa5);
            }
            for (lba, block) in (first..).zip(bytes.chunks_exact_mut(self.lba_bytes)) {
                Label { lba, version, seed: self.seed }.write(block);
            }
        });
        self.versions[place].set(version | BUSY);
        let at = self.engine.clock.now();
        // The place travels as the time when it was due: nobody else uses that here.
        let due = core_runtime::clock::Instant::from_ticks(place as u64);
        lane.set_stamp(slot, Stamp { at, due, write });
        self.engine.submit_at(lane, slot, write, first);
    }

    fn ended(&mut self, lane: &Lane, slot: u16) {
        let stamp = lane.stamp(slot);
        let place = usize::try_from(stamp.due.ticks()).unwrap_or(0);
        let version = self.versions[place].get() & !BUSY;
        self.versions[place].set(version);
        self.sample.wall_done += 1;
        if stamp.write {
            return;
        }
        let first = place as u64 * self.blocks_each;
        let (lba_bytes, blocks, seed) = (self.lba_bytes, self.blocks_each, self.seed);
        let sample = &mut self.sample;
        // Nothing is in flight on it: it has just ended.
        let _ = lane.queue.with_buf(slot, |bytes| {
            for (lba, block) in (first..first + blocks).zip(bytes.chunks_exact(lba_bytes)) {
                let verdict = Label { lba, version, seed }.judge(block);
                count(sample, lba, version, verdict);
            }
        });
    }
}

fn count(sample: &mut Sample, lba: u64, version: u32, verdict: Verdict) {
    sample.compared += 1;
    let (counter, found) = match verdict {
        Verdict::Right => return,
        Verdict::Misdirected(other) => (&mut sample.misdirected, other),
        Verdict::Stale(version) => (&mut sample.stale, version.into()),
        Verdict::Torn => (&mut sample.torn, 0),
        Verdict::Corrupt => (&mut sample.corrupt, 0),
    };
    *counter += 1;
    if sample.first == [0; 3] {
        sample.first = [lba, version.into(), found];
    }
}
