//! The short form's mutations: what libFuzzer does first, without its feedback.

use hybrid_conventions::testing::Random;

use crate::LONGEST;

/// Numbers that are often the edge of something.
const EDGES: [u64; 8] = [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, u32::MAX as u64, u64::MAX];

fn at(random: &mut Random, len: usize) -> usize {
    usize::try_from(random.below(len.max(1) as u64)).unwrap_or(0)
}

/// Changes `bytes` in one to four places; `other` is what pieces are taken from.
pub fn mutate(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..=random.below(4) {
        let place = at(random, bytes.len());
        match random.below(7) {
            0 if !bytes.is_empty() => bytes[place] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[place] = random.next().to_le_bytes()[3],
            2 => bytes.truncate(place),
            3 => {
                let edge = EDGES[at(random, EDGES.len())].to_le_bytes();
                let width = 1 << random.below(4);
                for (byte, new) in bytes.iter_mut().skip(place).zip(&edge[..width]) {
                    *byte = *new;
                }
            }
            4 => {
                let from = at(random, other.len());
                let piece = other.iter().skip(from).take(1 + at(random, 64)).copied();
                bytes.splice(place..place, piece);
            }
            5 => {
                let end = (place + 1 + at(random, 32)).min(bytes.len());
                bytes.drain(place.min(end)..end);
            }
            _ => {
                let end = (place + 1 + at(random, 64)).min(bytes.len());
                let piece = bytes[place.min(end)..end].to_vec();
                bytes.splice(place.min(end)..place.min(end), piece);
            }
        }
        bytes.truncate(LONGEST);
    }
}
