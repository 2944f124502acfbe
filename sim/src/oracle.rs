//! What a read may return, block by block.
//!
//! The workload tells of the begin and the end of each read, write and flush, the world of fences,
//! power cuts and faults that spoil data. For each block it keeps *candidates*: versions that the
//! block may hold now (`CURRENT`) or that may be on the medium (`MEDIA`). The rules are those of a
//! register that several may use at once:
//!
//! - a write in flight may take effect at any time, or not;
//! - once it is acknowledged, what had ended before it began is gone;
//! - a write that failed, or was lost in a reset, may have taken effect, and does so no more later;
//! - a read that began after a candidate had ended and saw another one rules it out for good;
//! - a flush that succeeded makes durable what was acknowledged before it began, unless a flush
//!   failed in between; a write with FUA, or without a write cache, makes itself durable;
//! - a power cut leaves of each block any version that may be on the medium;
//! - a write of one command of at most AWUN blocks (AWUPF for a power cut) is seen whole or not at
//!   all: a block of it that is older, read together with one that is not, is a tear.
//!
//! Times are a count of what was told; nothing here knows of the driver or of the model.

mod damage;
mod durability;

use crate::content::{self, Content};

const CURRENT: u8 = 1 << 0;
const MEDIA: u8 = 1 << 1;
const ACKED: u8 = 1 << 2;
const ZERO: u8 = 1 << 3;
/// A flush failed after it was acknowledged: later flushes say nothing of it.
const DOUBT: u8 = 1 << 4;
/// One command carried all of it.
const SINGLE: u8 = 1 << 5;

/// End of what has not ended.
const OPEN: u64 = u64::MAX;

/// A version that a block may hold.
#[derive(Clone, Copy, Debug)]
struct Cand {
    version: u64,
    start: u64,
    end: u64,
    first: u32,
    count: u32,
    flags: u8,
}

impl Cand {
    const fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn shows(&self, content: Content) -> bool {
        match content {
            Content::Zeros => self.is(ZERO),
            Content::Version(version) => self.version == version && !self.is(ZERO),
            Content::Elsewhere(..) | Content::Torn => false,
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Block {
    cands: Vec<Cand>,
    /// What stopped being current while somebody reads, and when.
    gone: Vec<(Cand, u64)>,
    readers: u32,
    /// When data were spoilt by a fault; 0 is never, [`OPEN`] not over yet.
    damaged: u64,
    /// The same for what is on the medium.
    damaged_medium: u64,
    /// When a good write mended it.
    mended: u64,
    /// It is in the list of blocks that are not all durable.
    listed: bool,
}

/// An operation that was begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token {
    pub(crate) first: u32,
    pub(crate) count: u32,
    pub(crate) version: u64,
    start: u64,
    epoch: u32,
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Acknowledged.
    Acked,
    /// Acknowledged, and on the medium.
    Durable,
    /// Failed; it may have taken effect.
    Unknown,
}

/// What a check found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Blocks compared.
    pub blocks: u64,
    /// Blocks that showed the later of several possible versions.
    pub newer: u64,
    /// Blocks that showed an earlier one.
    pub older: u64,
    /// Blocks spoilt by a fault that the stamp gave away.
    pub caught: u64,
    /// Writes of several blocks within the atomic unit that were looked at for a tear.
    pub atomic: u64,
    /// Those of them that a power cut had come after.
    pub atomic_cut: u64,
}

/// The oracle.
#[derive(Debug)]
pub(crate) struct Oracle {
    blocks: Vec<Block>,
    listed: Vec<u32>,
    time: u64,
    epoch: u32,
    last_cut: u64,
    awun: u32,
    awupf: u32,
    /// Writes whose future was dropped, and which may still be under way.
    abandoned: Vec<Token>,
    /// Blocks whose damage may not be over yet.
    spoiling: Vec<u32>,
    /// A command may have been answered before it was carried out: its memory may belong to
    /// another by now, so that whatever is under way may be spoilt.
    suspect: bool,
    /// Reads in flight, for faults that hit them.
    reads: Vec<(Token, bool)>,
    /// What the blocks of the read that is checked showed.
    found: Vec<Option<Cand>>,
    /// Changes with everything that was told, and with all that is known from it: what blocks
    /// showed, which candidates are left, what is damaged.
    pub(crate) digest: u64,
    pub(crate) seen: Seen,
}

impl Block {
    /// Adds what is known of it to a digest.
    #[inline]
    fn fold(&self, digest: u64) -> u64 {
        let cand = |sum, cand: &Cand| mix(sum, cand.version << 8 | u64::from(cand.flags));
        let known = self.damaged ^ self.damaged_medium.rotate_left(21) ^ self.mended << 42;
        self.cands.iter().fold(digest ^ known, cand)
    }
}

/// A step of a digest.
#[inline]
const fn mix(digest: u64, word: u64) -> u64 {
    let x = (digest ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^ x >> 32
}

impl Oracle {
    /// For `blocks` blocks of zeros.
    pub(crate) fn new(blocks: u32, awun: u32, awupf: u32) -> Self {
        let zero = Cand {
            version: 0,
            start: 0,
            end: 0,
            first: 0,
            count: blocks,
            flags: CURRENT | MEDIA | ACKED | ZERO,
        };
        let block = Block { cands: vec![zero], ..Block::default() };
        Self {
            blocks: vec![block; blocks as usize],
            listed: Vec::new(),
            time: 1,
            epoch: 0,
            last_cut: 0,
            awun,
            awupf,
            abandoned: Vec::new(),
            spoiling: Vec::new(),
            suspect: false,
            reads: Vec::new(),
            found: Vec::new(),
            digest: 0,
            seen: Seen::default(),
        }
    }

    /// Blocks that it knows.
    pub(crate) fn blocks(&self) -> u32 {
        u32::try_from(self.blocks.len()).unwrap_or(u32::MAX)
    }

    fn tick(&mut self, what: u64) -> u64 {
        self.time += 1;
        self.digest = mix(self.digest ^ what, self.time);
        self.time
    }

    fn range(first: u32, count: u32) -> core::ops::Range<usize> {
        first as usize..(first + count) as usize
    }

    // ---- writes ------------------------------------------------------------------------------

    pub(crate) fn write_begin(
        &mut self,
        (first, count): (u32, u32),
        version: u64,
        zero: bool,
        single: bool,
    ) -> Token {
        let start = self.tick(version);
        let mut flags = CURRENT | MEDIA;
        flags |= if zero { ZERO } else { 0 } | if single { SINGLE } else { 0 };
        let cand = Cand { version, start, end: OPEN, first, count, flags };
        for at in Self::range(first, count) {
            let block = &mut self.blocks[at];
            block.cands.push(cand);
            if !block.listed {
                block.listed = true;
                self.listed.push(u32::try_from(at).unwrap_or(u32::MAX));
            }
            if self.suspect {
                self.damage_block(at, OPEN);
            }
        }
        Token { first, count, version, start, epoch: self.epoch }
    }

    pub(crate) fn write_end(&mut self, token: Token, end: End) {
        if token.epoch != self.epoch {
            return;
        }
        let now = self.tick(token.version << 2 | end as u64);
        for at in Self::range(token.first, token.count) {
            let block = &mut self.blocks[at];
            if end != End::Unknown && block.damaged != 0 && block.damaged < token.start {
                (block.damaged, block.mended) = (0, now);
            }
            if end == End::Durable && block.damaged_medium < token.start {
                block.damaged_medium = 0;
            }
            for cand in &mut block.cands {
                if cand.version == token.version {
                    cand.end = now;
                    cand.flags |= if end == End::Unknown { 0 } else { ACKED };
                } else if end != End::Unknown && cand.end < token.start {
                    if cand.is(CURRENT) && block.readers != 0 {
                        block.gone.push((*cand, now));
                    }
                    cand.flags &= !CURRENT;
                    if end == End::Durable {
                        cand.flags &= !MEDIA;
                    }
                }
            }
            block.cands.retain(|cand| cand.is(CURRENT | MEDIA));
            self.digest = block.fold(self.digest);
        }
    }

    /// The future of a write was dropped: what it does is known when nothing is in flight.
    pub(crate) fn write_abandon(&mut self, token: Token) {
        if token.epoch == self.epoch {
            self.tick(token.version << 2 | 3);
            self.abandoned.push(token);
        }
    }

    /// Abandoned writes that may still be under way, and blocks that may still be spoilt.
    pub(crate) fn unsettled(&self) -> usize {
        let suspect = if self.suspect { usize::MAX / 2 } else { 0 };
        self.abandoned.len() + self.spoiling.len() + suspect
    }

    /// Nothing is in flight: abandoned writes do nothing more, nor do faults.
    pub(crate) fn settle(&mut self) {
        let now = self.tick(8);
        self.suspect = false;
        for at in self.spoiling.drain(..) {
            let block = &mut self.blocks[at as usize];
            (block.damaged, block.damaged_medium) = (now, now);
            self.digest = block.fold(self.digest);
        }
        for token in core::mem::take(&mut self.abandoned) {
            self.write_end(token, End::Unknown);
        }
    }

    // ---- reads -------------------------------------------------------------------------------

    pub(crate) fn read_begin(&mut self, first: u32, count: u32) -> Token {
        let start = self.tick(u64::from(first));
        for at in Self::range(first, count) {
            self.blocks[at].readers += 1;
        }
        let token = Token { first, count, version: 0, start, epoch: self.epoch };
        self.reads.push((token, self.suspect));
        token
    }

    /// Ends a read without a look at its data; whether a fault had spoilt it.
    pub(crate) fn read_end(&mut self, token: Token) -> bool {
        if token.epoch != self.epoch {
            return false;
        }
        self.tick(u64::from(token.first));
        for at in Self::range(token.first, token.count) {
            let block = &mut self.blocks[at];
            block.readers -= 1;
            if block.readers == 0 {
                block.gone.clear();
            }
        }
        match self.reads.iter().position(|(read, _)| read.start == token.start) {
            Some(place) => self.reads.swap_remove(place).1,
            None => false,
        }
    }

    /// Compares what a read returned; the read must be ended with [`Oracle::read_end`] after this.
    pub(crate) fn check(&mut self, token: Token, bytes: &[u8], single: bool) -> Result<(), String> {
        if token.epoch != self.epoch {
            return Ok(());
        }
        self.tick(token.start);
        let excused = self.reads.iter().any(|(read, bad)| read.start == token.start && *bad);
        let len = bytes.len() / token.count.max(1) as usize;
        self.found.clear();
        for (i, bytes) in bytes.chunks_exact(len.max(1)).enumerate() {
            let at = token.first as usize + i;
            let content = content::look(bytes, at as u64);
            self.digest = mix(self.digest, content.number());
            let shown = self.check_block(at, content, token, excused)?;
            self.found.push(shown);
        }
        if single && !excused && token.count > 1 {
            self.check_tears(token)?;
        }
        Ok(())
    }

    fn check_block(
        &mut self,
        at: usize,
        content: Content,
        token: Token,
        excused: bool,
    ) -> Result<Option<Cand>, String> {
        self.seen.blocks += 1;
        let block = &mut self.blocks[at];
        // Zeros do not say whose they are: of several the one that ended last is believed, which
        // the rules below allow the most.
        let now = block.cands.iter().filter(|cand| cand.is(CURRENT) && cand.shows(content));
        let spoilt = excused || block.damaged != 0 || block.mended > token.start;
        let Some(&shown) = now.max_by_key(|cand| cand.end) else {
            let was = |(cand, until): &&(Cand, u64)| cand.shows(content) && *until > token.start;
            if let Some((cand, _)) = block.gone.iter().filter(was).max_by_key(|(c, _)| c.end) {
                // Where a fault kept a later write away, it tells nothing of its other blocks.
                return Ok((!spoilt).then_some(*cand));
            }
            if spoilt {
                self.seen.caught += 1;
                return Ok(None);
            }
            return Err(format!(
                "block {at}: read {content:?}, allowed {}",
                Self::describe(&block.cands)
            ));
        };
        if spoilt {
            return Ok(None);
        }
        let others = block.cands.iter().filter(|c| c.is(CURRENT) && c.version != shown.version);
        if let Some(newest) = others.map(|c| c.start).max() {
            let newer = newest < shown.start;
            self.seen.newer += u64::from(newer);
            self.seen.older += u64::from(!newer);
            // Both survived the cut, or neither did: only one was on the medium after it.
            let cut = if shown.start < self.last_cut { self.last_cut } else { 0 };
            Self::rule_out(block, content, token.start, (self.time, cut));
            self.digest = block.fold(self.digest);
        }
        Ok(Some(shown))
    }

    /// What had ended before a read began that saw something else, is not there any more.
    fn rule_out(block: &mut Block, content: Content, start: u64, (now, cut): (u64, u64)) {
        for cand in &mut block.cands {
            if cand.end < start && cand.is(CURRENT) && !cand.shows(content) {
                if block.readers != 0 {
                    block.gone.push((*cand, now));
                }
                cand.flags &= !CURRENT;
                if cut != 0 && cand.end <= cut {
                    cand.flags &= !MEDIA;
                }
            }
        }
        block.cands.retain(|cand| cand.is(CURRENT | MEDIA));
    }

    fn check_tears(&mut self, token: Token) -> Result<(), String> {
        let mut last = 0;
        for (i, write) in self.found.iter().enumerate() {
            let Some(write) = write.filter(|write| write.version != last) else { continue };
            last = write.version;
            let unit =
                if write.start < self.last_cut { self.awun.min(self.awupf) } else { self.awun };
            if !write.is(SINGLE) || write.count > unit || write.is(ZERO) {
                continue;
            }
            if write.count > 1 {
                self.seen.atomic += 1;
                self.seen.atomic_cut += u64::from(write.start < self.last_cut);
            }
            for (j, other) in self.found.iter().enumerate() {
                let at = token.first + u32::try_from(j).unwrap_or(0);
                let inside = at >= write.first && at < write.first + write.count;
                if let Some(other) = other.filter(|other| inside && other.end < write.start) {
                    return Err(format!(
                        "torn write: version {} of blocks {}+{} is in block {} and not in block \
                         {at}, which holds version {} from before",
                        write.version,
                        write.first,
                        write.count,
                        token.first as usize + i,
                        other.version,
                    ));
                }
            }
        }
        Ok(())
    }

    fn describe(cands: &[Cand]) -> String {
        let current = cands.iter().filter(|cand| cand.is(CURRENT));
        let names = current.map(|cand| match (cand.is(ZERO), cand.is(ACKED)) {
            (true, _) => "zeros".to_owned(),
            (_, true) => format!("version {}", cand.version),
            (_, false) if cand.end == OPEN => format!("version {} (in flight)", cand.version),
            (_, false) => format!("version {} (unknown)", cand.version),
        });
        names.collect::<Vec<_>>().join(", ")
    }
}

/// Most blocks of one request.
pub(crate) const MAX_BLOCKS: u32 = 64;

#[cfg(test)]
mod tests;
