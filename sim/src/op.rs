//! Operations: what the host sends over its ring, and what comes back over the other.
//!
//! Operation `i` of a plan depends on the seed and on `i` alone, so that leaving one out changes no
//! other.

use nvme_model::Rng;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::oracle::MAX_BLOCKS;
use crate::plan::{Plan, Workload};

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    /// A write with FUA.
    Through,
    Zeroes,
    Flush,
    /// Reads, and writes the same blocks.
    Rewrite,
}

impl Kind {
    const ALL: [Self; 6] =
        [Self::Read, Self::Write, Self::Through, Self::Zeroes, Self::Flush, Self::Rewrite];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Through => "write-fua",
            Self::Zeroes => "zeroes",
            Self::Flush => "flush",
            Self::Rewrite => "rewrite",
        }
    }
}

/// An operation on its way to the partition.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub(crate) struct Op {
    pub(crate) index: u64,
    pub(crate) lba: u32,
    pub(crate) count: u32,
    kind: u32,
    /// Its future is dropped after so many nanoseconds; 0 is never.
    pub(crate) drop_after_ns: u32,
}

const _: () = assert!(size_of::<Op>() == 24);

impl Op {
    pub(crate) fn kind(&self) -> Kind {
        Kind::ALL[self.kind as usize % Kind::ALL.len()]
    }

    /// What it writes; 0 is nothing.
    pub(crate) const fn version(&self) -> u64 {
        self.index + 1
    }

    pub(crate) const fn numbers(&self) -> [u64; 3] {
        [self.index, (self.lba as u64) << 32 | self.count as u64, self.kind as u64]
    }

    pub(crate) fn from_numbers([index, place, kind]: [u64; 3]) -> Self {
        let part = |n: u64| u32::try_from(n & 0xffff_ffff).unwrap_or(0);
        let (lba, count) = (part(place >> 32), part(place));
        Self { index, lba, count, kind: part(kind), drop_after_ns: 0 }
    }

    /// Operation `index` of a plan.
    pub(crate) fn draw(plan: &Plan, index: u64) -> Self {
        if index >= plan.ops {
            return Self::verifying(plan, index);
        }
        let mut rng = Rng::new(plan.seed ^ index.wrapping_mul(0xa076_1d64_78bd_642f));
        let kind = Self::draw_kind(plan, &mut rng);
        let most = MAX_BLOCKS.min(plan.blocks);
        let count = match rng.below(32) {
            0 => 1 + below(&mut rng, most),
            1..8 => 1 + below(&mut rng, most.min(8)),
            _ => 1,
        };
        let room = plan.blocks - count;
        let lba = match plan.workload {
            Workload::HotSpot if rng.below(10) != 0 => below(&mut rng, room.min(24) + 1),
            Workload::Sequential => u32::try_from(index * 2 % u64::from(room + 1)).unwrap_or(0),
            _ => below(&mut rng, room + 1),
        };
        let dropped = plan.drop_one_in != 0 && rng.below(plan.drop_one_in.into()) == 0;
        let drop_after_ns = if dropped { 1 + below(&mut rng, 40_000) } else { 0 };
        Self { index, lba, count, kind: kind as u32, drop_after_ns }
    }

    fn draw_kind(plan: &Plan, rng: &mut Rng) -> Kind {
        let at = rng.below(256);
        match plan.workload {
            Workload::ReadModifyWrite if at >= 8 => Kind::Rewrite,
            _ => match at {
                0..2 => Kind::Flush,
                2..6 => Kind::Zeroes,
                6..14 => Kind::Rewrite,
                14..30 => Kind::Through,
                30..140 => Kind::Write,
                _ => Kind::Read,
            },
        }
    }

    /// Reads at the end that cover all blocks.
    fn verifying(plan: &Plan, index: u64) -> Self {
        let step = Self::verify_step(plan);
        let lba = u32::try_from((index - plan.ops) * u64::from(step)).unwrap_or(0);
        let count = step.min(plan.blocks.saturating_sub(lba));
        Self { index, lba, count, kind: Kind::Read as u32, drop_after_ns: 0 }
    }

    const fn verify_step(plan: &Plan) -> u32 {
        if plan.blocks < 8 { plan.blocks } else { 8 }
    }

    /// How many reads cover all blocks.
    pub(crate) fn verifying_count(plan: &Plan) -> u64 {
        plan.blocks.div_ceil(Self::verify_step(plan)).into()
    }
}

fn below(rng: &mut Rng, bound: u32) -> u32 {
    u32::try_from(rng.below(bound.into())).unwrap_or(0)
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Good,
    Failed,
    Dropped,
    NoMemory,
    NotSpawned,
}

impl Code {
    pub(crate) fn name_of(code: u64) -> &'static str {
        match code {
            0 => "good",
            1 => "failed",
            2 => "dropped",
            3 => "no memory",
            _ => "not spawned",
        }
    }
}

/// An answer on its way to the host.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub(crate) struct Answer {
    pub(crate) index: u64,
    pub(crate) code: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_lie_within_the_namespace_and_depend_on_nothing_but_their_number() {
        for (_, workload) in Workload::ALL {
            let mut plan = Plan::ordinary(3, 1_000, workload);
            plan.blocks = 70;
            let ops: Vec<Op> = (0..1_000).map(|i| Op::draw(&plan, i)).collect();
            assert!(ops.iter().all(|op| op.count >= 1 && op.lba + op.count <= 70));
            assert_eq!(Op::draw(&plan, 500), ops[500]);
            assert_eq!(Op::from_numbers(ops[7].numbers()).lba, ops[7].lba);
        }
    }

    #[test]
    fn the_last_reads_cover_every_block_once() {
        let mut plan = Plan::ordinary(3, 10, Workload::Mixed);
        plan.blocks = 67;
        let ops = (10..10 + Op::verifying_count(&plan)).map(|i| Op::draw(&plan, i));
        let blocks: Vec<u32> = ops.flat_map(|op| op.lba..op.lba + op.count).collect();
        assert_eq!(blocks, (0..67).collect::<Vec<_>>());
    }
}
