//! What faults may have spoilt, and until when that excuses what a read shows.

use super::{OPEN, Oracle, mix};

impl Oracle {
    /// A fault has spoilt what a command did to these blocks of the medium; the next good write
    /// mends them.
    pub(crate) fn damage(&mut self, first: u64, count: u64) {
        let now = self.tick(6);
        let end = (first + count).min(self.blocks.len() as u64);
        for at in first.min(end)..end {
            self.damage_block(usize::try_from(at).unwrap_or(0), now);
        }
    }

    pub(super) fn damage_block(&mut self, at: usize, until: u64) {
        let block = &mut self.blocks[at];
        if block.damaged == OPEN {
            return;
        }
        (block.damaged, block.damaged_medium) = (until, until);
        self.digest = block.fold(self.digest);
        let at = u32::try_from(at).unwrap_or(0);
        if until == OPEN {
            self.spoiling.push(at);
        }
        if !block.listed {
            block.listed = true;
            self.listed.push(at);
        }
    }

    /// A fault spoilt what a command reads from these blocks.
    pub(crate) fn excuse_reads(&mut self, first: u64, count: u64) {
        for (token, bad) in &mut self.reads {
            let (from, to) = (u64::from(token.first), u64::from(token.first + token.count));
            let hit = from < first + count && first < to;
            *bad |= hit;
            self.digest = mix(self.digest, token.start << 1 | u64::from(hit));
        }
    }

    /// Whatever is in flight may be acknowledged before it is carried out, and may then use memory
    /// of what begins later, until [`Self::settle`] or [`Self::fence`] say that all was.
    pub(crate) fn suspect_everything(&mut self) {
        self.tick(7);
        self.suspect = true;
        for (_, bad) in &mut self.reads {
            *bad = true;
        }
        for at in 0..self.blocks.len() {
            if self.blocks[at].cands.iter().any(|cand| cand.end == OPEN) {
                self.damage_block(at, OPEN);
            }
        }
    }
}
