//! Makes a failing run smaller: delta debugging over its faults, then its operations.
//!
//! Both are lists of things that can be left out. A part is left out if the run without it is still
//! wrong in the same words, whatever the numbers in them; parts of half the size are tried until
//! they are single ones. The classic algorithm (Zeller and Hildebrandt, "Simplifying and isolating
//! failure-inducing input", 2002), without its tests of subsets, which rarely pay here. Of the many
//! operations a share at random is left out before: those that matter are few and far apart, so
//! that a part next to each other mostly has one of them.

use std::ops::Range;

use nvme_model::Rng;

use crate::plan::Plan;
use crate::world::{Outcome, Watch, run};

/// What shrinking did.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The smallest plan that is still wrong.
    pub plan: Plan,
    /// What is wrong with it.
    pub violation: String,
    /// Runs that it took.
    pub runs: u32,
}

/// Shrinks `plan`, with at most `most` runs. `None` if it is not wrong.
#[must_use]
pub fn shrink(plan: &Plan, most: u32) -> Option<Shrunk> {
    let violation = run(plan, Watch::default()).violation?;
    let mut search = Search { best: plan.clone(), violation, runs: 1, most };
    // What comes after the violation was never sent.
    search.cut_tail();
    loop {
        let before = (search.best.faults.len(), search.best.kept());
        search.faults();
        search.thin();
        search.ops();
        if (search.best.faults.len(), search.best.kept()) == before || search.is_over() {
            break;
        }
    }
    let Search { best, violation, runs, .. } = search;
    Some(Shrunk { plan: best, violation, runs })
}

/// Operations that are few enough to be tried one by one.
const ENOUGH: u64 = 24;

/// One operation in so many is the least that is left out at random, and so many tries in a row
/// may go wrong before it is fewer.
const LEAST_SHARE: u64 = 8;
const MISSES: u32 = 6;

struct Search {
    best: Plan,
    violation: String,
    runs: u32,
    most: u32,
}

impl Search {
    const fn is_over(&self) -> bool {
        self.runs >= self.most
    }

    /// Takes the plan if it is still wrong.
    fn attempt(&mut self, plan: Plan) -> bool {
        if self.is_over() {
            return false;
        }
        self.runs += 1;
        let Outcome { violation, .. } = run(&plan, Watch::default());
        let Some(violation) = violation.filter(|what| kind_of(what) == kind_of(&self.violation))
        else {
            return false;
        };
        (self.best, self.violation) = (plan, violation);
        true
    }

    fn cut_tail(&mut self) {
        let ops = run(&self.best, Watch::default()).ops;
        let mut plan = self.best.clone();
        plan.keep = first(&plan.keep, ops);
        self.attempt(plan);
    }

    fn faults(&mut self) {
        let mut size = self.best.faults.len().div_ceil(2);
        while size != 0 && !self.is_over() {
            let mut at = 0;
            while at < self.best.faults.len() && !self.is_over() {
                let mut plan = self.best.clone();
                let end = (at + size).min(plan.faults.len());
                plan.faults.drain(at..end);
                if !self.attempt(plan) {
                    at += size;
                }
            }
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
    }

    /// Leaves operations out at random, one in two at first, and fewer where that goes wrong.
    fn thin(&mut self) {
        let mut rng = Rng::new(self.best.seed);
        let (mut one_in, mut misses) = (2, 0);
        while self.best.kept() > ENOUGH && one_in <= LEAST_SHARE && !self.is_over() {
            let mut plan = self.best.clone();
            plan.keep = thinned(&plan.keep, |_| rng.below(one_in) != 0);
            if self.attempt(plan) {
                misses = 0;
            } else if misses == MISSES {
                (one_in, misses) = (one_in + 1, 0);
            } else {
                misses += 1;
            }
        }
    }

    fn ops(&mut self) {
        let mut size = self.best.kept().div_ceil(2);
        while size != 0 && !self.is_over() {
            let mut at = 0;
            while at < self.best.kept() && !self.is_over() {
                let mut plan = self.best.clone();
                plan.keep = without(&plan.keep, at..at + size);
                if !self.attempt(plan) {
                    at += size;
                }
            }
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
    }
}

/// Characters that tell one kind of violation from another.
const KIND: usize = 24;

/// The begin of what a violation says, without its numbers.
fn kind_of(violation: &str) -> String {
    violation.chars().filter(|c| !c.is_ascii_digit()).take(KIND).collect()
}

/// The first `count` of the numbers in `ranges`.
fn first(ranges: &[Range<u64>], count: u64) -> Vec<Range<u64>> {
    without(ranges, count..u64::MAX)
}

/// The numbers in `ranges` that `keep` wants.
fn thinned(ranges: &[Range<u64>], mut keep: impl FnMut(u64) -> bool) -> Vec<Range<u64>> {
    let mut left: Vec<Range<u64>> = Vec::new();
    for number in ranges.iter().cloned().flatten().filter(|number| keep(*number)) {
        match left.last_mut() {
            Some(last) if last.end == number => last.end += 1,
            _ => left.push(number..number + 1),
        }
    }
    left
}

/// The numbers in `ranges` without those at `places`, counted over all of them.
fn without(ranges: &[Range<u64>], places: Range<u64>) -> Vec<Range<u64>> {
    let mut left = Vec::new();
    let mut before = 0;
    for range in ranges {
        let len = range.end - range.start;
        let cut_from = places.start.saturating_sub(before).min(len);
        let cut_to = places.end.saturating_sub(before).min(len);
        let parts = [range.start..range.start + cut_from, range.start + cut_to..range.end];
        let parts = if cut_from < cut_to { parts.to_vec() } else { vec![range.clone()] };
        left.extend(parts.into_iter().filter(|part| !part.is_empty()));
        before += len;
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Workload;
    use crate::planted::Plant;

    #[test]
    fn places_are_counted_over_all_ranges() {
        assert_eq!(without(&[0..4, 10..14], 1..2), [0..1, 2..4, 10..14]);
        assert_eq!(without(&[0..4, 10..14], 3..6), [0..3, 12..14]);
        assert_eq!(without(&[0..4, 10..14], 0..8), Vec::<Range<u64>>::new());
        assert_eq!(first(&[0..4, 10..14], 5), [0..4, 10..11]);
        assert_eq!(thinned(&[0..4, 10..14], |number| number != 2), [0..2, 3..4, 10..14]);
        assert_eq!(thinned(&[0..4, 6..7], |_| false), Vec::<Range<u64>>::new());
    }

    #[test]
    fn violations_are_of_a_kind_whatever_their_numbers() {
        let wrong = kind_of("operation 7: block 5: read Zeros, allowed version 3");
        assert_eq!(wrong, kind_of("operation 12: block 900: read Torn, allowed zeros"));
        assert_ne!(wrong, kind_of("operation 7: torn write: version 3 of blocks 1+2"));
        assert_ne!(wrong, kind_of("an error that no fault so far can cost: gone"));
    }

    /// A blow stays where it is whatever is left out before it.
    #[test]
    fn a_bug_that_needs_a_power_cut_is_shrunk_to_it_and_a_few_operations() {
        let cut = crate::find("power-cut").expect("a fault");
        let shrunk = (1..=100).find_map(|seed| {
            let mut plan = Plan::ordinary(seed, 600, Workload::HotSpot);
            plan.plant = Plant::number(Plant::TornCut);
            plan.faults = vec![crate::Fault { at: 500, kind: cut, choice: seed }];
            shrink(&plan, 600)
        });
        let shrunk = shrunk.expect("it is wrong");
        assert_eq!(shrunk.plan.faults.len(), 1, "{:?}", shrunk.plan.faults);
        assert!(shrunk.plan.kept() <= 75, "{} operations of 600 are left", shrunk.plan.kept());
    }

    #[test]
    fn a_planted_bug_is_shrunk_to_a_few_operations_and_no_fault() {
        let shrunk = (1..=6).find_map(|seed| {
            let mut plan = Plan::ordinary(seed, 20_000, Workload::HotSpot);
            plan.plant = Plant::number(Plant::AckEarly);
            shrink(&plan, 400)
        });
        let shrunk = shrunk.expect("it is wrong");
        assert!(shrunk.plan.kept() <= 20, "{} operations are left", shrunk.plan.kept());
        assert_eq!(shrunk.plan.faults, [], "the bug needs none");
        let again = run(&Plan::parse(&shrunk.plan.to_text()).unwrap(), Watch::default());
        assert_eq!(again.violation, Some(shrunk.violation));
    }
}
