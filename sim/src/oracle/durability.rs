//! What is on the medium: flushes, fences, power cuts.

use super::{ACKED, CURRENT, Cand, DOUBT, MEDIA, OPEN, Oracle, Token};

impl Oracle {
    pub(crate) fn flush_begin(&mut self) -> Token {
        let start = self.tick(1);
        Token { first: 0, count: 0, version: 0, start, epoch: self.epoch }
    }

    pub(crate) fn flush_end(&mut self, token: Token, good: bool) {
        if token.epoch != self.epoch {
            return;
        }
        self.tick(if good { 2 } else { 3 });
        let (blocks, digest) = (&mut self.blocks, &mut self.digest);
        self.listed.retain(|at| {
            let block = &mut blocks[*at as usize];
            if block.cands.len() == 1 && block.damaged_medium == 0 {
                // What it holds is what is on the medium, whatever became of the flush.
                block.listed = false;
                return false;
            }
            if good {
                let safe = |c: &&Cand| c.is(ACKED) && !c.is(DOUBT) && c.end < token.start;
                if let Some(start) = block.cands.iter().filter(safe).map(|cand| cand.start).max() {
                    for cand in &mut block.cands {
                        if cand.end < start {
                            cand.flags &= !MEDIA;
                        }
                    }
                    block.cands.retain(|cand| cand.is(CURRENT | MEDIA));
                    if block.damaged_medium < start {
                        block.damaged_medium = 0;
                    }
                }
            } else {
                for cand in block.cands.iter_mut().filter(|cand| cand.is(ACKED)) {
                    cand.flags |= DOUBT;
                }
            }
            *digest = block.fold(*digest);
            block.listed = block.cands.len() > 1 || block.damaged_medium != 0;
            block.listed
        });
    }

    /// What is not durable may be lost, though it still reads as written: later flushes say nothing
    /// of it, whatever became of the one that failed.
    pub(crate) fn doubt(&mut self) {
        self.tick(9);
        for at in &self.listed {
            for cand in &mut self.blocks[*at as usize].cands {
                cand.flags |= DOUBT;
            }
            self.digest = self.blocks[*at as usize].fold(self.digest);
        }
    }

    /// The device was taken from its owner: what was in flight has ended, and nobody will say how.
    pub(crate) fn fence(&mut self) {
        let now = self.tick(4);
        self.epoch += 1;
        self.suspect = false;
        self.abandoned.clear();
        self.reads.clear();
        for at in self.spoiling.drain(..) {
            let block = &mut self.blocks[at as usize];
            (block.damaged, block.damaged_medium) = (now, now);
        }
        for block in &mut self.blocks {
            block.readers = 0;
            block.gone.clear();
            for cand in block.cands.iter_mut().filter(|cand| cand.end == OPEN) {
                cand.end = now;
            }
            self.digest = block.fold(self.digest);
        }
    }

    /// The power was cut, after a fence.
    pub(crate) fn power_cut(&mut self) {
        self.last_cut = self.tick(5);
        for block in &mut self.blocks {
            block.cands.retain(|cand| cand.is(MEDIA));
            block.damaged = block.damaged.max(block.damaged_medium);
            for cand in &mut block.cands {
                // Acknowledged or not, it is one of several that may be there.
                cand.flags = (cand.flags | CURRENT) & !ACKED;
            }
            self.digest = block.fold(self.digest);
        }
    }
}
