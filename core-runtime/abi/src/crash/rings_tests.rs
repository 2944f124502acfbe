//! Rings of a driver and a device in random order, held against the truth; rings that lie.

use super::*;
use crate::crash::file::TAIL_UNKNOWN;
use std::collections::{HashMap, HashSet};
use zerocopy::IntoBytes;

fn head(entries: u32) -> QueueImageHead {
    QueueImageHead { controller: 0, qid: 1, entries, slot_mask: 7, tail: TAIL_UNKNOWN, indices: 0 }
}

/// A queue pair with a driver and a device that do what they should, in a random order.
struct Pair {
    entries: u32,
    sq: Vec<[u64; 8]>,
    cq: Vec<[u64; 2]>,
    tail: u32,
    fetched: u32,
    in_device: Vec<u16>,
    not_reaped: Vec<u16>,
    cq_tail: u32,
    phase: bool,
    free: Vec<u16>,
    generation: HashMap<u16, u16>,
    answered: HashSet<u16>,
    random: u64,
}

impl Pair {
    fn new(entries: u32, seed: u64) -> Self {
        let slots = u16::try_from(entries - 1).unwrap();
        Self {
            entries,
            sq: vec![[0; 8]; entries as usize],
            cq: vec![[0; 2]; entries as usize],
            tail: 0,
            fetched: 0,
            in_device: Vec::new(),
            not_reaped: Vec::new(),
            cq_tail: 0,
            phase: true,
            free: (0..slots).rev().collect(),
            generation: HashMap::new(),
            answered: HashSet::new(),
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        usize::try_from(self.random >> 8).unwrap() % bound
    }

    fn mask(&self) -> u16 {
        u16::try_from((self.entries - 1).next_power_of_two() - 1).unwrap()
    }

    /// Posts a command in the slot that was freed last, as the driver does.
    fn post(&mut self) {
        let Some(slot) = self.free.pop() else { return };
        let step = self.mask() + 1;
        let generation = self.generation.entry(slot).or_insert(0);
        // Few generations, so that CIDs come again soon.
        *generation = (*generation + 1) % 4;
        let cid = slot + *generation * step;
        self.answered.remove(&cid);
        self.sq[self.tail as usize] =
            [2 | u64::from(cid) << 16 | 1 << 32, 0, 0, 0, 0, self.random, 0, 0];
        self.tail = (self.tail + 1) % self.entries;
    }

    fn fetch(&mut self) {
        if self.fetched != self.tail {
            let cid = cid_of(&self.sq[self.fetched as usize]);
            self.in_device.push(cid);
            self.fetched = (self.fetched + 1) % self.entries;
        }
    }

    fn complete(&mut self) {
        if self.in_device.is_empty() {
            return;
        }
        let which = self.below(self.in_device.len());
        let cid = self.in_device.swap_remove(which);
        let high = u64::from(self.fetched)
            | 1 << 16
            | u64::from(cid) << 32
            | u64::from(self.phase) << 48
            | u64::from(cid & 3) << 49;
        self.cq[self.cq_tail as usize] = [0, high];
        self.cq_tail = (self.cq_tail + 1) % self.entries;
        self.phase ^= self.cq_tail == 0;
        self.not_reaped.push(cid);
        self.answered.insert(cid);
    }

    fn reap(&mut self) {
        if !self.not_reaped.is_empty() {
            let cid = self.not_reaped.remove(0);
            self.free.push(cid & self.mask());
        }
    }

    fn image(&self, tail: Option<u32>) -> (QueueImageHead, Vec<u8>) {
        let head = QueueImageHead {
            slot_mask: self.mask().into(),
            tail: tail.unwrap_or(TAIL_UNKNOWN),
            ..head(self.entries)
        };
        (head, [self.sq.as_bytes(), self.cq.as_bytes()].concat())
    }

    /// Commands that were posted and not answered.
    fn truth(&self) -> HashSet<u16> {
        let mut open: HashSet<u16> = self.in_device.iter().copied().collect();
        let mut at = self.fetched;
        while at != self.tail {
            open.insert(cid_of(&self.sq[at as usize]));
            at = (at + 1) % self.entries;
        }
        open
    }
}

#[test]
fn what_was_not_answered_is_found_whatever_the_order() {
    let mut doubts = 0;
    let (seeds, steps) = if cfg!(miri) { (4, 40) } else { (60, 2_000) };
    for (seed, entries) in (1..=seeds).zip([2, 3, 4, 8, 17, 64].into_iter().cycle()) {
        let mut pair = Pair::new(entries, seed);
        for step in 0..steps {
            match pair.below(8) {
                0..=2 => pair.post(),
                3..=4 => pair.fetch(),
                5..=6 => pair.complete(),
                _ => {}
            }
            if pair.below(3) != 0 {
                pair.reap();
            }
            if step % 7 != 0 {
                continue;
            }
            let (head, bytes) = pair.image(Some(pair.tail));
            let rings = Rings::new(&head, &bytes).unwrap();
            let (mut certain, mut all) = (HashSet::new(), HashSet::new());
            rings.each_unanswered(|found| {
                assert!(all.insert(found.cid), "twice: {found:?}");
                if found.flags == 0 {
                    certain.insert(found.cid);
                } else {
                    doubts += 1;
                }
            });
            let truth = pair.truth();
            assert!(certain.is_subset(&truth), "seed {seed} step {step}");
            // One that has outlived a whole lap may be written over: its entry is gone.
            let entries_left: HashSet<u16> = pair.sq.iter().map(cid_of).collect();
            for cid in truth.iter().filter(|cid| entries_left.contains(cid)) {
                assert!(all.contains(cid), "seed {seed} step {step}: {cid:#x} is missing");
            }
            for cid in &pair.not_reaped {
                if let Some(status) = rings.answer_to(*cid) {
                    assert_eq!(status, cid & 3);
                }
            }
        }
    }
    assert!(doubts < 20_000, "doubts are the exception: {doubts}");
}

#[test]
fn rings_that_lie_are_read_to_their_end_and_no_further() {
    let mut pair = Pair::new(8, 5);
    let mut image = pair.image(None).1;
    for round in 0..if cfg!(miri) { 30 } else { 4_000 } {
        let (at, value) = (pair.below(image.len()), pair.below(256));
        image[at] = u8::try_from(value).unwrap();
        let mask = u16::try_from(pair.below(1 << 16)).unwrap();
        let head = QueueImageHead {
            slot_mask: mask.into(),
            tail: u32::try_from(pair.below(12)).unwrap(),
            indices: pair.random & 0x1_0007_0007_0007,
            ..head(8)
        };
        let rings = Rings::new(&head, &image).unwrap();
        let mut found = 0;
        rings.each_unanswered(|_| found += 1);
        assert!(found <= 8, "round {round}");
        let _ = rings.answer_to(mask);
    }
    for entries in [0, 1, 9, 4097, u32::MAX] {
        assert!(Rings::new(&head(entries), &image).is_none(), "{entries}");
    }
    let head = QueueImageHead { slot_mask: 1 << 16, ..head(8) };
    assert!(Rings::new(&head, &image).is_none());
}

#[test]
fn a_queue_that_never_had_an_answer_shows_all_its_entries() {
    let mut pair = Pair::new(8, 1);
    pair.post();
    pair.post();
    let count = |tail| {
        let (head, bytes) = pair.image(tail);
        let mut count = 0;
        Rings::new(&head, &bytes).unwrap().each_unanswered(|_| count += 1);
        count
    };
    assert_eq!((count(Some(2)), count(None)), (2, 2));
}

#[test]
fn indices_of_a_while_ago_show_what_a_silent_device_did_not_fetch() {
    for laps in [0, 1, 5] {
        let mut pair = Pair::new(8, 3);
        for _ in 0..laps * 8 {
            pair.post();
            pair.fetch();
            pair.complete();
            pair.reap();
        }
        let posted = |pair: &mut Pair, count| {
            let before = pair.truth().len();
            (0..count).for_each(|_| pair.post());
            assert_eq!(pair.truth().len(), before + count);
        };
        posted(&mut pair, 3);
        let index = |index| u16::try_from(index).unwrap();
        let indices = Indices {
            sq_tail: index(pair.tail),
            sqhd: index(pair.fetched),
            cq_head: index(pair.cq_tail),
        };
        // One more that the indices do not know, and one that was answered since.
        posted(&mut pair, 1);
        pair.fetch();
        pair.complete();
        let (head, bytes) = pair.image(None);
        let seen = |indices: u64| {
            let head = QueueImageHead { indices, ..head };
            let rings = Rings::new(&head, &bytes).unwrap();
            let mut found = Vec::new();
            rings.each_unanswered(|entry| found.push(entry.cid));
            (rings.knows_tail(), found.len())
        };
        // The one that the indices do not know is found too: nothing answers its CID.
        assert_eq!(seen(indices.to_word()), (true, 3), "after {laps} laps");
        let at = index(pair.tail);
        let beyond = Indices { sqhd: at, sq_tail: at, ..indices };
        assert!(!seen(beyond.to_word()).0, "the device is elsewhere by now");
    }
}
