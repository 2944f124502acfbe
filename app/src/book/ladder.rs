//! The price levels of all books, sorted.
//!
//! A side is a list of pages, each with up to 14 sorted keys; the first page has the best ones.
//! Nearly all orders come and go near the touch, so a search nearly always ends in the first page:
//! one cache line, compared without branches. Far levels cost a step for every page between.
//!
//! ```text
//!   top.page ──► [ 97  98  99 100 ] ──worse──► [ 90  91  95 ] ──worse──► NONE
//!                  worst … best
//! ```
//!
//! Invariants: keys rise within a page; every key of a page is above every key of the worse one;
//! no page is empty; two neighbours have eight levels or more together (so that pages never run
//! out, see [`super::Capacity::pages`]); a level knows its page.

use super::pool::Pool;
use super::slot::{LevelSlot, NONE, PAGE_LEVELS, PageSlot};

/// Neighbours with this many levels or fewer become one page. Not more: a page that was just split
/// has seven, and its other neighbour may have one.
const MERGE: u32 = 7;

/// Levels and the pages that sort them.
#[derive(Debug)]
pub(super) struct Ladder<'m> {
    pub(super) levels: Pool<'m, LevelSlot>,
    pub(super) pages: Pool<'m, PageSlot>,
}

/// The key of a price: more is better. `side` is 0 for bids, 1 for offers. Without a branch, which
/// would be mispredicted every other time.
#[inline(always)]
pub(super) const fn key(side: usize, price: u32) -> u32 {
    price ^ [0, u32::MAX][side & 1]
}

/// Where a key is or would be.
struct Place {
    page: u32,
    position: u32,
    level: u32,
}

impl Ladder<'_> {
    /// Searches `key` from the best page on.
    #[inline(always)]
    fn find(&self, first: u32, key: u32) -> Place {
        let mut page = first;
        loop {
            let slot = &self.pages[page];
            let position = rank(&slot.keys, key);
            // Not the worst of this page, or no worse page: it is here or nowhere.
            if position > 0 || slot.worse == NONE || slot.keys[0] == key {
                let found = position < slot.len && slot.keys[position as usize] == key;
                let level = if found { slot.levels[position as usize] } else { NONE };
                return Place { page, position, level };
            }
            page = slot.worse;
        }
    }

    /// The level at `price`, made if there is none; `None` when no slot is left.
    #[inline]
    pub(super) fn find_or_insert(&mut self, first: &mut u32, key: u32, price: u32) -> Option<u32> {
        if *first == NONE {
            let level = self.levels.take()?;
            let page = self.take_page();
            self.pages[page].worse = NONE;
            self.pages[page].better = NONE;
            *first = page;
            self.put(page, 0, key, price, level);
            return Some(level);
        }
        let place = self.find(*first, key);
        if place.level != NONE {
            return Some(place.level);
        }
        let level = self.levels.take()?;
        let (mut page, mut position) = (place.page, place.position);
        if self.pages[page].len as usize == PAGE_LEVELS {
            let kept = self.split(page);
            // `split` has moved the worse ones to a page behind.
            if position < kept {
                page = self.pages[page].worse;
            } else {
                position -= kept;
            }
        }
        self.put(page, position, key, price, level);
        Some(level)
    }

    /// Takes an empty level out.
    #[inline]
    pub(super) fn remove(&mut self, first: &mut u32, key: u32, level: u32) {
        let page = self.levels[level].page;
        let slot = &mut self.pages[page];
        let position = rank(&slot.keys, key) as usize;
        let len = slot.len as usize;
        assert!(position < len && slot.levels[position] == level, "a level is in its page");
        slot.keys.copy_within(position + 1..len, position);
        slot.levels.copy_within(position + 1..len, position);
        slot.keys[len - 1] = u32::MAX;
        slot.len -= 1;
        let len = slot.len;
        self.levels.give(level);
        if len <= MERGE {
            self.mend(first, page);
        }
    }

    /// The best level of a side.
    #[inline(always)]
    pub(super) fn best(&self, first: u32) -> Option<u32> {
        if first == NONE {
            return None;
        }
        let slot = &self.pages[first];
        Some(slot.levels[slot.len as usize - 1])
    }

    /// Pages are enough by construction: see [`super::Capacity::pages`].
    fn take_page(&mut self) -> u32 {
        let page = self.pages.take().expect("pages suffice for the levels there are");
        let slot = &mut self.pages[page];
        slot.len = 0;
        slot.keys = [u32::MAX; PAGE_LEVELS];
        page
    }

    fn put(&mut self, page: u32, position: u32, key: u32, price: u32, level: u32) {
        let slot = &mut self.pages[page];
        let (position, len) = (position as usize, slot.len as usize);
        slot.keys.copy_within(position..len, position + 1);
        slot.levels.copy_within(position..len, position + 1);
        slot.keys[position] = key;
        slot.levels[position] = level;
        slot.len += 1;
        self.levels[level] =
            LevelSlot { shares: 0, price, page, head: NONE, tail: NONE, orders: 0, reserved: 0 };
    }

    /// Moves the worse half of a full page to a new page behind it; returns how many.
    #[cold]
    fn split(&mut self, page: u32) -> u32 {
        const HALF: usize = PAGE_LEVELS / 2;
        let behind = self.take_page();
        let old = self.pages[page];
        let new = &mut self.pages[behind];
        new.keys[..HALF].copy_from_slice(&old.keys[..HALF]);
        new.levels[..HALF].copy_from_slice(&old.levels[..HALF]);
        new.len = 7;
        new.better = page;
        new.worse = old.worse;
        if old.worse != NONE {
            self.pages[old.worse].better = behind;
        }
        let slot = &mut self.pages[page];
        slot.keys.copy_within(HALF.., 0);
        slot.levels.copy_within(HALF.., 0);
        slot.keys[HALF..].fill(u32::MAX);
        slot.len = 7;
        slot.worse = behind;
        for &level in &old.levels[..HALF] {
            self.levels[level].page = behind;
        }
        7
    }

    /// Restores the invariants around a page that has lost a level.
    fn mend(&mut self, first: &mut u32, page: u32) {
        let PageSlot { worse, better, len, .. } = self.pages[page];
        if len == 0 {
            self.unlink(first, page);
        } else if worse != NONE && len + self.pages[worse].len <= MERGE {
            self.merge(first, page, worse);
        } else if better != NONE && len + self.pages[better].len <= MERGE {
            self.merge(first, better, page);
        }
    }

    /// Moves all of the worse page in front of what the better one has.
    #[cold]
    fn merge(&mut self, first: &mut u32, better: u32, worse: u32) {
        let from = self.pages[worse];
        let slot = &mut self.pages[better];
        let (count, len) = (from.len as usize, slot.len as usize);
        slot.keys.copy_within(..len, count);
        slot.levels.copy_within(..len, count);
        slot.keys[..count].copy_from_slice(&from.keys[..count]);
        slot.levels[..count].copy_from_slice(&from.levels[..count]);
        slot.len += from.len;
        for &level in &from.levels[..count] {
            self.levels[level].page = better;
        }
        self.unlink(first, worse);
    }

    fn unlink(&mut self, first: &mut u32, page: u32) {
        let PageSlot { worse, better, .. } = self.pages[page];
        if better == NONE {
            *first = worse;
        } else {
            self.pages[better].worse = worse;
        }
        if worse != NONE {
            self.pages[worse].better = better;
        }
        self.pages.give(page);
    }
}

/// How many keys are below `key`: all compared, no branch.
#[inline(always)]
fn rank(keys: &[u32; PAGE_LEVELS], key: u32) -> u32 {
    keys.iter().map(|&other| u32::from(other < key)).sum()
}
