//! The IOVA allocator against a list of addresses: random requests in small spaces with holes, at
//! both ends of the 64-bit range.

use core_runtime::mem::{Iova, IovaAllocator, IovaError, IovaRange};
use hybrid_conventions::testing::Random;

/// Addresses in the small space.
const SPACE: u64 = 256;

/// The usable ranges, from the space's start.
const RANGES: [(u64, u64); 4] = [(0, 30), (33, 100), (101, 130), (160, 255)];

fn usable(at: u64) -> bool {
    RANGES.iter().any(|&(first, last)| (first..=last).contains(&at))
}

/// Whether `first .. first + len` lies in one usable range: two that touch are still two.
fn in_one_range(first: u64, len: u64) -> bool {
    RANGES.iter().any(|&(f, l)| f <= first && first + len - 1 <= l)
}

fn run(base: u64, seed: u64) {
    let ranges = RANGES.map(|(first, last)| IovaRange { first: base + first, last: base + last });
    let mut iovas = IovaAllocator::new(&ranges).unwrap();
    let start = iovas.free_ranges().to_vec();
    let mut free: Vec<bool> = (0..SPACE).map(|at| usable(at) && base + at != 0).collect();
    let mut live: Vec<(u64, u64)> = Vec::new();
    let mut random = Random::new(seed);
    let spot = |at: u64| usize::try_from(at).unwrap();
    for _ in 0..if cfg!(miri) { 12 } else { 20_000 } {
        if random.below(5) < 3 {
            let (len, align) = (1 + random.below(24), 1 << random.below(6));
            let fits = |&at: &u64| {
                (base + at).is_multiple_of(align)
                    && at + len <= SPACE
                    && in_one_range(at, len)
                    && free[spot(at)..spot(at + len)].iter().all(|&free| free)
            };
            let lowest = (0..SPACE).find(fits);
            match iovas.alloc(len, align) {
                Ok(iova) => {
                    let at = iova.0 - base;
                    assert_eq!(Some(at), lowest, "{len} aligned to {align}");
                    free[spot(at)..spot(at + len)].fill(false);
                    live.push((at, len));
                }
                Err(IovaError::Exhausted { .. }) => assert_eq!(lowest, None),
                Err(error) => assert!(matches!(error, IovaError::TooManyPieces { .. })),
            }
        } else if !live.is_empty() {
            let (at, len) = live.swap_remove(spot(random.below(live.len() as u64)));
            assert!(iovas.free(Iova(base + at), len + 1).is_err(), "no other length");
            iovas.free(Iova(base + at), len).unwrap();
            assert!(iovas.free(Iova(base + at), len).is_err(), "only once");
            free[spot(at)..spot(at + len)].fill(true);
        }
        let left: u64 = iovas.free_ranges().iter().map(|r| r.last - r.first + 1).sum();
        assert_eq!(left, free.iter().filter(|&&free| free).count() as u64);
    }
    for (at, len) in live {
        iovas.free(Iova(base + at), len).unwrap();
    }
    assert_eq!(iovas.free_ranges(), start, "joined again, the borders kept");
}

#[test]
fn random_requests_get_the_lowest_fit_at_both_ends_of_the_range() {
    for seed in [1, 0x9E37_79B9, 0xDEAD_BEEF_CAFE] {
        println!("seed {seed}");
        for base in [0, 4096, u64::MAX - (SPACE - 1)] {
            run(base, seed);
        }
    }
}

#[test]
fn a_hole_that_ends_before_it_starts_is_refused_and_takes_nothing() {
    let mut iovas = IovaAllocator::new(&[IovaRange { first: 0x1000, last: 0xFFFF }]).unwrap();
    let hole = IovaRange { first: 0x8000, last: 0x3000 };
    let refused = iovas.reserve(hole).unwrap_err();
    assert_eq!(refused, IovaError::Backwards { first: 0x8000, last: 0x3000 });
    assert_eq!(iovas.alloc(0xF000, 0x1000), Ok(Iova(0x1000)), "all of it is free");
}
