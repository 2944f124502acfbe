//! Random reads and writes against a copy in memory.
//!
//! Keeps many requests in flight, of 1 to 512 blocks (mostly small), over ranges that do not
//! conflict; what is read is compared byte for byte. Futures are polled only when they were woken,
//! so a lost wake is a hang. Some are dropped half-way; what a dropped write did is not known, but
//! each of its blocks holds what it held before or what was to be written, whole.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use core_runtime::mem::DmaBuf;
use hybrid_conventions::testing;
use nvme_driver::{CommandFuture, IoError, IoFuture, Lba, Namespace, WriteFlags};

use crate::backend::Backend;
use crate::rig::{Flag, Rig};
use crate::rng::Rng;

/// Operations to run: `default`, unless the environment asks for a soak.
///
/// # Panics
/// If `HYBRID_SOAK_OPS` is not a number.
#[must_use]
pub fn operations(default: u64) -> u64 {
    testing::ops(default, 10_000_000)
}

/// The seed: `HYBRID_SEED`, or one that is as good as any. Printed, so that a run can be repeated.
///
/// # Panics
/// If `HYBRID_SEED` is not a number.
#[must_use]
pub fn seed() -> u64 {
    testing::seed(0x5EED_2026)
}

/// Dropped writes that are waited for together: few enough that most blocks stay usable.
const MAX_ORPHANS: usize = 16;

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OracleReport {
    /// Reads whose content was compared.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Flushes, zeroings.
    pub others: u64,
    /// Futures dropped before their end.
    pub dropped: u64,
    /// Operations that ended with an error (only where errors are expected).
    pub failed: u64,
    /// Blocks moved.
    pub blocks: u64,
}

enum Doing {
    Read(IoFuture),
    Write(IoFuture),
    Zero(CommandFuture),
    Flush(CommandFuture),
}

struct Running {
    doing: Doing,
    first: usize,
    count: usize,
    /// What the blocks hold after a write.
    version: u64,
}

/// The copy, and what is under way.
pub struct Oracle {
    ns: &'static Namespace,
    /// The first block that it uses.
    first: u64,
    /// Whether the controller has Write Zeroes.
    zeroes: bool,
    rng: Rng,
    /// Version of each block; 0 is zeros, `None` is unknown (a failed or dropped write).
    versions: Vec<Option<u64>>,
    /// What a block may hold instead: a dropped write was to put it there.
    instead: Vec<Option<u64>>,
    /// Dropped writes that may still be under way: first block, count, version. Nobody uses their
    /// blocks until the device has let go.
    orphans: Vec<(usize, usize, u64)>,
    /// Readers of a block, or -1 while it is written.
    users: Vec<i32>,
    next_version: u64,
    running: Vec<Option<Running>>,
    flags: Vec<(Arc<Flag>, Waker)>,
    /// One future in so many is dropped half-way; 0 is none.
    pub drop_one_in: u64,
    /// Whether writes are dropped too, and not only reads.
    pub drop_writes: bool,
    /// Whether operations may fail.
    pub errors_expected: bool,
    /// What was done so far.
    pub report: OracleReport,
}

/// The bytes of a block: a pattern that no other block or version has.
pub(crate) fn fill(block: &mut [u8], lba: u64, version: u64) {
    let mut x =
        lba.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ version.wrapping_mul(0xD6E8_FEB8_6659_FD93);
    let step = x | 1;
    for word in block.chunks_exact_mut(8) {
        word.copy_from_slice(&x.to_le_bytes());
        x = x.wrapping_add(step);
    }
}

/// Whether [`fill`] made this block; version 0 is zeros.
pub(crate) fn is_filled(block: &[u8], lba: u64, version: u64) -> bool {
    if version == 0 {
        return block.iter().all(|byte| *byte == 0);
    }
    let mut x =
        lba.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ version.wrapping_mul(0xD6E8_FEB8_6659_FD93);
    let step = x | 1;
    let mut differs = 0;
    for word in block.chunks_exact(8) {
        differs |= x ^ u64::from_le_bytes([
            word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7],
        ]);
        x = x.wrapping_add(step);
    }
    differs == 0
}

impl std::fmt::Debug for Oracle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Oracle").field("report", &self.report).finish_non_exhaustive()
    }
}

impl Oracle {
    /// For a namespace that is all zeros, with up to `window` operations under way.
    ///
    /// # Panics
    /// If the namespace is larger than memory.
    #[must_use]
    pub fn new(ns: &'static Namespace, window: usize, seed: u64) -> Self {
        let mut oracle = Self::within(ns, 0..ns.blocks(), window, seed);
        oracle.versions.fill(Some(0));
        oracle
    }

    /// For `range` of a namespace, whose content is not known yet. A controller without Write
    /// Zeroes is not asked for it.
    ///
    /// # Panics
    /// If the range is larger than memory.
    #[must_use]
    pub fn within(ns: &'static Namespace, range: Range<u64>, window: usize, seed: u64) -> Self {
        let blocks = usize::try_from(range.end - range.start).expect("a small range");
        let zero = ns.try_write_zeroes(Lba(range.start), 0, WriteFlags::empty());
        Self {
            ns,
            first: range.start,
            zeroes: !matches!(zero, Err(IoError::Unsupported(_))),
            rng: Rng::new(seed),
            versions: vec![None; blocks],
            instead: vec![None; blocks],
            orphans: Vec::new(),
            users: vec![0; blocks],
            next_version: 1,
            running: (0..window).map(|_| None).collect(),
            flags: (0..window).map(|_| Flag::raised()).collect(),
            drop_one_in: 0,
            drop_writes: false,
            errors_expected: false,
            report: OracleReport::default(),
        }
    }

    /// Like [`Oracle::new`], for a namespace whose content is not known yet.
    ///
    /// # Panics
    /// If the namespace is larger than memory.
    #[must_use]
    pub fn over(ns: &'static Namespace, window: usize, seed: u64) -> Self {
        Self::within(ns, 0..ns.blocks(), window, seed)
    }

    /// Runs `operations` of them to their end, dropped ones included.
    ///
    /// # Panics
    /// If a byte is wrong, something fails that must not, or hangs.
    pub fn run<B: Backend>(&mut self, rig: &Rig<B>, operations: u64) -> OracleReport {
        let mut started = 0;
        let (mut idle, mut progress) = (0_u64, rig.backend.now());
        loop {
            let mut alive = false;
            for slot in 0..self.running.len() {
                // A random depth: not every free place is filled at once.
                let more = started < operations && self.orphans.len() < MAX_ORPHANS;
                if self.running[slot].is_none() && more && !self.rng.one_in(4) {
                    started += u64::from(self.start(rig, slot));
                }
                let before = self.running[slot].is_some();
                self.poll(slot);
                alive |= before;
            }
            if !alive && rig.controller.stats().io.in_flight == 0 {
                self.settle_orphans();
                if started == operations {
                    break;
                }
            }
            let report = rig.pass();
            if report.is_idle() {
                idle += 1;
                let hangs = rig.backend.gives_up(progress, idle);
                assert!(!hangs, "it hangs: {:?}", rig.controller.stats());
            } else {
                (idle, progress) = (0, rig.backend.now());
            }
        }
        self.report
    }

    /// 1 to 512 blocks, mostly few.
    fn length(&mut self) -> usize {
        let most = match self.rng.below(100) {
            0..70 => 8,
            70..95 => 32,
            95..99 => 128,
            _ => 512,
        };
        let most = most.min(self.versions.len() as u64);
        usize::try_from(1 + self.rng.below(most)).expect("small")
    }

    fn start<B: Backend>(&mut self, rig: &Rig<B>, slot: usize) -> bool {
        if self.rng.one_in(512) {
            self.begin(slot, Doing::Flush(self.ns.flush()), 0, 0, 0);
            return true;
        }
        let count = self.length();
        let first = self.rng.below((self.versions.len() - count + 1) as u64);
        let first = usize::try_from(first).expect("small");
        let range = first..first + count;
        let users = &self.users[range.clone()];
        let lba_bytes = self.ns.lba_bytes() as usize;
        let slba = Lba(self.first + first as u64);
        if self.rng.one_in(2) {
            if users.iter().any(|u| *u < 0) {
                return false;
            }
            let Ok(buf) = rig.arena.alloc(count * lba_bytes) else {
                return false;
            };
            self.users[range].iter_mut().for_each(|u| *u += 1);
            self.begin(slot, Doing::Read(self.ns.read(slba, buf)), first, count, 0);
            return true;
        }
        if users.iter().any(|u| *u != 0) {
            return false;
        }
        if self.zeroes && self.rng.one_in(32) {
            self.users[range].fill(-1);
            let zero = self.ns.write_zeroes(slba, count as u64, WriteFlags::empty());
            self.begin(slot, Doing::Zero(zero), first, count, 0);
            return true;
        }
        let Ok(mut buf) = rig.arena.alloc(count * lba_bytes) else {
            return false;
        };
        let version = self.next_version;
        self.next_version += 1;
        for (i, block) in buf.as_mut_slice().chunks_exact_mut(lba_bytes).enumerate() {
            fill(block, slba.0 + i as u64, version);
        }
        self.users[range].fill(-1);
        let fua = self.rng.one_in(16);
        let flags = if fua { WriteFlags::FUA } else { WriteFlags::empty() };
        let write = self.ns.write(slba, buf, flags);
        self.begin(slot, Doing::Write(write), first, count, version);
        true
    }

    fn begin(&mut self, slot: usize, doing: Doing, first: usize, count: usize, version: u64) {
        self.flags[slot].0.raise();
        self.running[slot] = Some(Running { doing, first, count, version });
    }

    fn poll(&mut self, slot: usize) {
        let Some(running) = &mut self.running[slot] else {
            return;
        };
        if !self.flags[slot].0.take() {
            let droppable = match running.doing {
                Doing::Read(_) => true,
                Doing::Write(_) => self.drop_writes,
                Doing::Zero(_) | Doing::Flush(_) => false,
            };
            if droppable && self.drop_one_in != 0 && self.rng.one_in(self.drop_one_in) {
                let running = self.running[slot].take().expect("it runs");
                self.report.dropped += 1;
                match running.doing {
                    Doing::Write(_) => {
                        self.orphans.push((running.first, running.count, running.version));
                    }
                    _ => self.release(&running),
                }
            }
            return;
        }
        let mut cx = Context::from_waker(&self.flags[slot].1);
        let polled = match &mut running.doing {
            Doing::Read(f) | Doing::Write(f) => Pin::new(f).poll(&mut cx).map(|done| match done {
                Ok(buf) => (true, Some(buf)),
                Err(failed) => {
                    assert!(self.errors_expected, "{failed}");
                    assert!(failed.buf.is_some(), "{failed}");
                    (false, failed.buf)
                }
            }),
            Doing::Zero(f) | Doing::Flush(f) => Pin::new(f).poll(&mut cx).map(|done| {
                assert!(done.is_ok() || self.errors_expected, "{done:?}");
                (done.is_ok(), None)
            }),
        };
        if let Poll::Ready((good, buf)) = polled {
            let running = self.running[slot].take().expect("it runs");
            self.end(&running, good, buf);
        }
    }

    fn end(&mut self, running: &Running, good: bool, buf: Option<DmaBuf>) {
        let range = running.first..running.first + running.count;
        match &running.doing {
            Doing::Read(_) if good => {
                self.report.reads += 1;
                self.check(running, &buf.expect("a good read has its buffer"));
            }
            Doing::Write(_) | Doing::Zero(_) => {
                let version = good.then_some(running.version);
                self.versions[range.clone()].fill(version);
                self.instead[range].fill(None);
                self.report.writes += 1;
            }
            Doing::Read(_) | Doing::Flush(_) => self.report.others += 1,
        }
        self.report.failed += u64::from(!good);
        self.report.blocks += running.count as u64;
        self.release(running);
    }

    fn check(&self, running: &Running, buf: &DmaBuf) {
        let lba_bytes = self.ns.lba_bytes() as usize;
        for (i, block) in buf.as_slice().chunks_exact(lba_bytes).enumerate() {
            let place = running.first + i;
            if let Some(version) = self.versions[place] {
                let (lba, other) = (self.first + place as u64, self.instead[place]);
                assert!(
                    is_filled(block, lba, version)
                        || other.is_some_and(|other| is_filled(block, lba, other)),
                    "block {lba} is not what version {version} wrote (read of {} from {})",
                    running.count,
                    self.first + running.first as u64
                );
            }
        }
    }

    /// The device has let go of all dropped writes.
    fn settle_orphans(&mut self) {
        for (first, count, version) in self.orphans.drain(..) {
            for lba in first..first + count {
                // With two dropped writes over it a block is any of three: let it be unknown.
                if self.instead[lba].is_some() {
                    self.versions[lba] = None;
                }
                self.instead[lba] = Some(version);
                self.users[lba] = 0;
            }
        }
    }

    fn release(&mut self, running: &Running) {
        for users in &mut self.users[running.first..running.first + running.count] {
            *users = if *users < 0 { 0 } else { *users - 1 };
        }
    }
}
