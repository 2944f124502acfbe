//! Which block comes next, and whether it is read or written.
//!
//! Used by partitions: nothing here allocates. A zipf draw takes logarithms and powers, some 50 ns,
//! so that draws are made ahead into a table that the caller gives ([`fill_zipf`]) and taken from
//! it in turn. The ranks are scattered over the blocks by a hash, as fio does, so that hot blocks
//! are not neighbours; two ranks may share a block.

use core::cell::Cell;

use crate::rng::{Rng, mix};

/// The order of blocks.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// Each equally often, at random.
    Uniform,
    /// One after the other, from the first, around.
    Sequential,
    /// From a table of draws, in turn.
    Table(&'static [Cell<u32>]),
    /// `accesses` of 65,536 go to the first `hot` places, the others to the rest.
    Hot {
        /// Places that are hot: at least 1, fewer than all.
        hot: u64,
        /// Accesses of 65,536 that they get.
        accesses: u32,
    },
}

/// Draws operations. A *place* is as many blocks as one operation takes.
#[derive(Debug)]
pub struct Pick {
    order: Order,
    places: u64,
    blocks_each: u64,
    /// Reads of 65,536 operations.
    reads: u32,
    rng: Cell<Rng>,
    at: Cell<u64>,
}

impl Pick {
    /// Operations on `places` places (at least 1) of `blocks_each` blocks.
    #[must_use]
    pub const fn new(order: Order, places: u64, blocks_each: u64, reads: u32, seed: u64) -> Self {
        let rng = Cell::new(Rng::new(seed));
        Self { order, places, blocks_each, reads, rng, at: Cell::new(0) }
    }

    /// The next one: whether it writes, and its first block.
    #[inline(always)]
    pub fn next(&self) -> (bool, u64) {
        let mut rng = self.rng.get();
        let chance = rng.next();
        self.rng.set(rng);
        let place = match self.order {
            Order::Uniform => scale(chance, self.places),
            other => self.rarer(other, chance),
        };
        // The low bits: the place was made of the high ones.
        (chance & 0xffff >= u64::from(self.reads), place * self.blocks_each)
    }

    #[inline]
    fn rarer(&self, order: Order, chance: u64) -> u64 {
        let at = self.at.get();
        match order {
            Order::Uniform => scale(chance, self.places),
            Order::Sequential => {
                self.at.set(if at + 1 >= self.places { 0 } else { at + 1 });
                at
            }
            Order::Table(draws) => {
                let index = usize::try_from(at).unwrap_or(0);
                self.at.set(if index + 1 >= draws.len() { 0 } else { at + 1 });
                draws.get(index).map_or(0, |place| u64::from(place.get()))
            }
            Order::Hot { hot, accesses } => {
                let spread = mix(chance);
                if (chance >> 16) & 0xffff >= u64::from(accesses) {
                    hot + scale(spread, self.places - hot)
                } else {
                    scale(spread, hot)
                }
            }
        }
    }
}

/// 64 random bits to a number below `limit`.
#[inline(always)]
const fn scale(chance: u64, limit: u64) -> u64 {
    ((chance as u128 * limit as u128) >> 64) as u64
}

/// Fills a table with zipf draws over `places` places: rank `k` as often as `k^-theta`, scattered.
pub fn fill_zipf(table: &[Cell<u32>], places: u64, theta: f64, seed: u64) {
    let zipf = Zipf::new(places, theta);
    let mut rng = Rng::new(seed);
    for draw in table {
        let rank = zipf.draw(&mut rng);
        draw.set(u32::try_from(scale(mix(rank), places)).unwrap_or(0));
    }
}

/// Zipf by rejection-inversion (W. Hoermann and G. Derflinger, 1996): no table of sums.
struct Zipf {
    places: f64,
    theta: f64,
    h_first: f64,
    h_last: f64,
    s: f64,
}

impl Zipf {
    fn new(places: u64, theta: f64) -> Self {
        let mut zipf = Self { places: places as f64, theta, h_first: 0.0, h_last: 0.0, s: 0.0 };
        zipf.h_first = zipf.integral(1.5) - 1.0;
        zipf.h_last = zipf.integral(zipf.places + 0.5);
        zipf.s = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.weight(2.0));
        zipf
    }

    fn draw(&self, rng: &mut Rng) -> u64 {
        loop {
            let unit = (rng.next() >> 11) as f64 / (1_u64 << 53) as f64;
            let u = self.h_last + unit * (self.h_first - self.h_last);
            let x = self.inverse(u);
            let k = (x + 0.5).floor().clamp(1.0, self.places);
            if k - x <= self.s || u >= self.integral(k + 0.5) - self.weight(k) {
                #[expect(clippy::cast_possible_truncation, reason = "1 to places, whole")]
                #[expect(clippy::cast_sign_loss, reason = "1 to places, whole")]
                return k as u64;
            }
        }
    }

    fn weight(&self, x: f64) -> f64 {
        x.powf(-self.theta)
    }

    fn integral(&self, x: f64) -> f64 {
        let power = 1.0 - self.theta;
        if power.abs() < 1e-9 { x.ln() } else { (x.powf(power) - 1.0) / power }
    }

    fn inverse(&self, y: f64) -> f64 {
        let power = 1.0 - self.theta;
        if power.abs() < 1e-9 { y.exp() } else { (y * power + 1.0).max(0.0).powf(1.0 / power) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(order: Order, places: u64, reads: u32, count: usize) -> Vec<(bool, u64)> {
        let pick = Pick::new(order, places, 8, reads, 3);
        (0..count).map(|_| pick.next()).collect()
    }

    #[test]
    fn places_are_whole_and_within_and_the_mix_is_kept() {
        let all = draws(Order::Uniform, 100, 45_875, 20_000);
        assert!(all.iter().all(|(_, lba)| lba % 8 == 0 && *lba < 800));
        let writes = all.iter().filter(|(write, _)| *write).count();
        assert!((5_700..6_300).contains(&writes), "{writes} of 20,000 are writes, wanted 30 %");
        assert!(draws(Order::Uniform, 100, 65_536, 1000).iter().all(|(write, _)| !write));
        assert!(draws(Order::Uniform, 100, 0, 1000).iter().all(|(write, _)| *write));
    }

    #[test]
    fn sequential_goes_around() {
        let all = draws(Order::Sequential, 3, 65_536, 5);
        assert!(all.iter().map(|(_, lba)| lba / 8).eq([0, 1, 2, 0, 1]), "{all:?}");
    }

    #[test]
    fn hot_places_get_their_share() {
        let hot = Order::Hot { hot: 20, accesses: 52_429 };
        let all = draws(hot, 100, 65_536, 20_000);
        let hits = all.iter().filter(|(_, lba)| lba / 8 < 20).count();
        assert!((15_700..16_300).contains(&hits), "{hits} of 20,000, wanted 80 %");
    }

    #[test]
    fn zipf_ranks_are_as_frequent_as_their_weights() {
        for theta in [0.5, 0.99, 1.0, 1.2] {
            let zipf = Zipf::new(1000, theta);
            let mut rng = Rng::new(4);
            let mut counts = vec![0_u32; 1001];
            for _ in 0..200_000 {
                counts[usize::try_from(zipf.draw(&mut rng)).expect("a rank")] += 1;
            }
            let sum: f64 = (1..=1000).map(|k| f64::from(k).powf(-theta)).sum();
            for rank in [1_u32, 2, 3, 10, 100] {
                let wanted = 200_000.0 * f64::from(rank).powf(-theta) / sum;
                let seen = f64::from(counts[rank as usize]);
                let off = (seen - wanted).abs() / wanted.sqrt();
                assert!(off < 5.0, "theta {theta}, rank {rank}: {seen}, wanted {wanted:.0}");
            }
        }
        let table = [const { Cell::new(0) }; 1000];
        fill_zipf(&table, 50, 0.99, 1);
        assert!(table.iter().all(|place| place.get() < 50));
    }
}
