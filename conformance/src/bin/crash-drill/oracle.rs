//! What the host knows of the blocks: the version acknowledged last, and the one in flight.

use crate::words::BLOCKS;

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    acked: u64,
    /// Posted after `acked`, and not answered yet.
    issued: Option<u64>,
    /// Seen in pieces of a write that was never answered, and not written since.
    torn: bool,
}

/// See the module's text.
#[derive(Clone, Debug)]
pub(crate) struct Oracle {
    blocks: Vec<Known>,
    /// Since the last start: blocks that it told of.
    found: Vec<bool>,
    highest: u64,
    /// A block is written whole or not at all.
    atomic: bool,
    pub(crate) acknowledged: u64,
    pub(crate) verified: u64,
    /// Blocks that held a write which had not been acknowledged.
    pub(crate) unacknowledged_kept: u64,
}

impl Oracle {
    pub(crate) fn new(atomic: bool) -> Self {
        Self {
            blocks: vec![Known::default(); usize::try_from(BLOCKS).expect("few blocks")],
            found: Vec::new(),
            highest: 0,
            atomic,
            acknowledged: 0,
            verified: 0,
            unacknowledged_kept: 0,
        }
    }

    /// A version greater than all before.
    pub(crate) const fn next_version(&self) -> u64 {
        self.highest + 1
    }

    /// Another incarnation begins to tell of its blocks.
    pub(crate) fn begin(&mut self) {
        self.found = vec![false; self.blocks.len()];
    }

    fn at(&mut self, block: u64) -> Result<&mut Known, String> {
        let count = self.blocks.len();
        let at = usize::try_from(block).ok().filter(|at| *at < count);
        at.and_then(|at| self.blocks.get_mut(at))
            .ok_or_else(|| format!("block {block} of {count} was told of"))
    }

    pub(crate) fn issued(&mut self, block: u64, version: u64) -> Result<(), String> {
        self.highest = self.highest.max(version);
        let known = self.at(block)?;
        if version <= known.acked || known.issued.is_some() {
            return Err(format!("block {block}: version {version} was issued out of order"));
        }
        known.issued = Some(version);
        Ok(())
    }

    pub(crate) fn acked(&mut self, block: u64, version: u64) -> Result<(), String> {
        let known = self.at(block)?;
        if known.issued != Some(version) {
            return Err(format!("block {block}: version {version} was acknowledged, not issued"));
        }
        *known = Known { acked: version, ..Known::default() };
        self.acknowledged += 1;
        Ok(())
    }

    /// What a block holds at the start: what was acknowledged last, or what was in flight when its
    /// writer died.
    pub(crate) fn found(&mut self, block: u64, version: u64, intact: bool) -> Result<(), String> {
        let atomic = self.atomic;
        let known = self.at(block)?;
        let Known { acked, issued, torn } = *known;
        if !intact && (atomic || (issued.is_none() && !torn)) {
            return Err(format!("block {block} is torn: acknowledged was version {acked}"));
        }
        if !intact {
            *known = Known { acked, issued: None, torn: true };
            self.tick(block);
            return Ok(());
        }
        if (version != acked || torn) && Some(version) != issued {
            return Err(format!(
                "block {block} holds version {version}: acknowledged was {acked}, in flight \
                 {issued:?}"
            ));
        }
        *known = Known { acked: version, ..Known::default() };
        self.unacknowledged_kept += u64::from(version != acked);
        self.tick(block);
        Ok(())
    }

    fn tick(&mut self, block: u64) {
        self.verified += 1;
        if let Some(found) = usize::try_from(block).ok().and_then(|at| self.found.get_mut(at)) {
            *found = true;
        }
    }

    /// All of them were told of.
    pub(crate) fn all_found(&self) -> Result<(), String> {
        match self.found.iter().position(|found| !found) {
            None => Ok(()),
            Some(block) => Err(format!("block {block} was not verified")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledged_write_that_is_lost_torn_or_stale_is_found() {
        let mut oracle = Oracle::new(true);
        oracle.issued(1, 5).expect("fine");
        oracle.acked(1, 5).expect("fine");
        oracle.issued(1, 6).expect("fine");
        for (version, intact) in [(0, true), (4, true), (7, true), (5, false), (6, false)] {
            oracle.clone().found(1, version, intact).expect_err("a loss");
        }
        oracle.clone().found(1, 5, true).expect("the acknowledged one");
        oracle.found(1, 6, true).expect("the one in flight");
        oracle.found(1, 5, true).expect_err("it was seen to have arrived");
        assert_eq!(oracle.next_version(), 7);
    }

    #[test]
    fn a_drive_may_tear_what_it_never_answered_and_nothing_else() {
        let mut oracle = Oracle::new(false);
        oracle.issued(1, 5).expect("fine");
        oracle.acked(1, 5).expect("fine");
        oracle.clone().found(1, 5, false).expect_err("it was acknowledged");
        oracle.issued(1, 6).expect("fine");
        oracle.found(1, 6, false).expect("in flight");
        oracle.found(1, 6, false).expect("not written since");
        oracle.clone().found(1, 5, true).expect_err("it does not come back");
        oracle.issued(1, 7).expect("fine");
        oracle.clone().found(1, 7, true).expect("in flight");
        oracle.acked(1, 7).expect("fine");
        oracle.found(1, 7, false).expect_err("it was acknowledged");
    }

    #[test]
    fn nonsense_of_a_dying_partition_is_an_error() {
        let mut oracle = Oracle::new(true);
        oracle.acked(0, 1).expect_err("not issued");
        oracle.issued(BLOCKS, 1).expect_err("no such block");
        oracle.issued(0, 1).expect("fine");
        oracle.issued(0, 2).expect_err("two at once");
        oracle.begin();
        oracle.all_found().expect_err("none");
        (0..BLOCKS).for_each(|block| oracle.found(block, 0, true).expect("nothing yet"));
        oracle.all_found().expect("all");
    }
}
