//! What proofs use of Kani, with random values for its symbolic ones: so that they compile where
//! nobody has Kani, and are tried with some values, if not with all.
//!
//! A proof lives in a module for `any(kani, test)` that takes this one for `kani` unless it is
//! Kani's turn, is marked with `cfg_attr(kani, kani::proof)`, and a test gives it to [`sample`].

use std::cell::RefCell;

use super::{Random, ops, seed};

/// Draws of each proof.
const DRAWS: u64 = if cfg!(miri) { 20 } else { 20_000 };

/// The same in a soak.
const SOAK_DRAWS: u64 = 10_000_000;

/// A condition that no value fulfils ends the test.
const TRIES: u32 = 1_000_000;

std::thread_local! {
    static RANDOM: RefCell<Random> = const { RefCell::new(Random::new(1)) };
}

/// A number of which there are symbolic ones.
pub trait Arbitrary: Copy {
    /// Bits of one.
    const BITS: u32;

    /// Its lowest [`Self::BITS`] bits.
    fn low(bits: u64) -> Self;
}

macro_rules! arbitrary {
    ($($type:ident),*) => {
        $(impl Arbitrary for $type {
            const BITS: u32 = Self::BITS;

            fn low(bits: u64) -> Self {
                let mut low = [0; size_of::<Self>()];
                low.copy_from_slice(&bits.to_le_bytes()[..size_of::<Self>()]);
                Self::from_le_bytes(low)
            }
        })*
    };
}
arbitrary!(u8, u16, u32, u64);

/// Any number. All lengths are as likely, and so are numbers near the greatest, since programs are
/// wrong at the ends.
#[must_use]
pub fn any<T: Arbitrary>() -> T {
    RANDOM.with_borrow_mut(|random| {
        let len = random.below(u64::from(T::BITS) + 1);
        let small = random.next() & mask(len);
        T::low(if random.below(4) == 0 { !small } else { small })
    })
}

/// The lowest `len` bits, of 64 at most.
const fn mask(len: u64) -> u64 {
    if len == 64 { u64::MAX } else { (1 << len) - 1 }
}

/// Any number for which `allowed` holds.
///
/// # Panics
/// If there seems to be none.
pub fn any_where<T: Arbitrary>(allowed: impl Fn(&T) -> bool) -> T {
    let number = (0..TRIES).map(|_| any()).find(allowed);
    number.unwrap_or_else(|| panic!("none of {TRIES} numbers is allowed"))
}

/// Calls `proof` with many values.
///
/// # Panics
/// As the proof does.
pub fn sample(proof: fn()) {
    RANDOM.set(Random::new(seed(1)));
    for _ in 0..ops(DRAWS, SOAK_DRAWS) {
        proof();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn both_ends_are_drawn_and_what_lies_between() {
        let draws: Vec<u8> = (0..if cfg!(miri) { 400 } else { 4_000 }).map(|_| any()).collect();
        for end in [0, 1, u8::MAX - 1, u8::MAX] {
            assert!(draws.contains(&end), "{end}");
        }
        assert!(draws.iter().any(|draw| (40..200).contains(draw)));
        assert!((0..100).map(|_| any::<u64>()).any(|draw| draw > u64::MAX >> 1));
    }

    #[test]
    fn a_condition_holds_for_all_that_are_drawn() {
        for _ in 0..20 {
            assert!((12..=16).contains(&any_where(|shift: &u32| (12..=16).contains(shift))));
        }
    }

    #[test]
    #[should_panic(expected = "a proof that is wrong for some number")]
    fn a_proof_that_is_wrong_is_found() {
        sample(|| assert!(any::<u16>() != 0, "a proof that is wrong for some number"));
    }
}
