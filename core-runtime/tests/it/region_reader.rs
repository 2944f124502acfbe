//! Regions as they are laid out, and what becomes of ones that lie.

use core_runtime::region::{RegionError, RegionFacts, RegionReader, RegionWriter, Writer};
use hybrid_abi::AbiError;
use hybrid_abi::region::PartKind;
use hybrid_conventions::testing::Random;
use hybrid_shm::{Span, leak_aligned};

const BYTES: usize = 8192;

fn facts() -> RegionFacts {
    RegionFacts {
        boot_id: [7; 16],
        build_id: [8; 20],
        partition: 2,
        incarnation: 3,
        tsc_hz: 2_445_000_000,
        anchor_tsc: 11,
        anchor_unix_ns: 12,
    }
}

/// A region with three parts.
fn region() -> Span<'static> {
    let region = leak_aligned(BYTES, 4096);
    let mut writer = RegionWriter::new(region, Writer::Partition, facts(), 8).unwrap();
    writer.add_part(PartKind::METRICS, "runtime", 1000).unwrap();
    let events = writer.add_part(PartKind::RING_PRODUCER, "events", 512).unwrap();
    events.write(0, b"tail").unwrap();
    writer.add_part(PartKind::RING_PRODUCER, "probe", 1).unwrap();
    writer.publish().unwrap();
    region
}

#[test]
fn parts_are_found_by_kind_and_name() {
    let region = region();
    let reader = RegionReader::new(region.read_only()).unwrap();
    assert_eq!(reader.header().incarnation, 3);
    assert_eq!(reader.header().tsc_hz, 2_445_000_000);
    assert_eq!(reader.header().boot_id, [7; 16]);
    let part = reader.part(PartKind::RING_PRODUCER, "events").unwrap();
    let mut start = [0; 4];
    part.read(0, &mut start).unwrap();
    assert_eq!((&start, part.len()), (b"tail", 512));
    let parts: Vec<_> =
        reader.parts().map(|(kind, name, part)| (kind.0, name, part.len())).collect();
    assert_eq!(parts, [(1, "runtime", 1000), (2, "events", 512), (2, "probe", 1)]);
    assert_eq!(
        reader.part(PartKind::CRASH, "events").unwrap_err().to_string(),
        "the region has no part of kind 4 with that name"
    );
}

#[test]
fn parts_begin_at_lines_and_don_t_overlap() {
    let region = region();
    let reader = RegionReader::new(region.read_only()).unwrap();
    let mut end = region.as_ptr() as usize + 128;
    for (_, _, part) in reader.parts() {
        let start = part.as_ptr() as usize;
        assert!(start.is_multiple_of(128) && start >= end);
        end = start + part.len();
    }
}

#[test]
fn a_region_that_is_not_published_is_none() {
    let region = leak_aligned(BYTES, 4096);
    let mut writer = RegionWriter::new(region, Writer::Host, facts(), 8).unwrap();
    writer.add_part(PartKind::STATE, "state", 128).unwrap();
    assert!(matches!(
        RegionReader::new(region.read_only()),
        Err(RegionError::Abi(AbiError::Magic { found: 0, .. }))
    ));
}

#[test]
fn a_region_is_unpublished_as_soon_as_it_is_laid_out_anew() {
    let region = region();
    let _writer = RegionWriter::new(region, Writer::Host, facts(), 8).unwrap();
    assert!(RegionReader::new(region.read_only()).is_err());
}

#[test]
fn what_does_not_fit_is_refused_with_its_numbers() {
    let region = leak_aligned(BYTES, 4096);
    let mut writer = RegionWriter::new(region, Writer::Host, facts(), 2).unwrap();
    assert_eq!(
        writer.add_part(PartKind::CRASH, "crash", 8000).unwrap_err().to_string(),
        "a part of 8000 bytes does not fit a region with 7936 bytes left"
    );
    writer.add_part(PartKind::CRASH, "crash", 7800).unwrap();
    assert_eq!(
        writer.add_part(PartKind::CRASH, "crash", 8).unwrap_err(),
        RegionError::Duplicate { first: 0, second: 1 }
    );
    assert!(matches!(
        writer.add_part(PartKind::CRASH, "", 8),
        Err(RegionError::Abi(AbiError::Name { .. }))
    ));
    assert_eq!(writer.left(), 128);
    writer.add_part(PartKind::STATE, "nothing", 0).unwrap();
    assert_eq!(
        writer.add_part(PartKind::STATE, "more", 0).unwrap_err(),
        RegionError::DirectoryFull
    );
    writer.publish().unwrap();
    assert!(RegionReader::new(region.read_only()).is_ok());
    let small = leak_aligned(256, 4096);
    assert!(RegionWriter::new(small, Writer::Host, facts(), 8).is_err());
    assert!(matches!(
        RegionWriter::new(region, Writer::Host, facts(), 65),
        Err(RegionError::DirectoryFull)
    ));
}

/// The reader's verdict on a region with `bytes` at `offset`.
fn with(offset: usize, bytes: &[u8]) -> Result<RegionReader, RegionError> {
    let region = region();
    region.write(offset, bytes).unwrap();
    RegionReader::new(region.read_only())
}

/// Offset of entry 1.
const ENTRY: usize = 128 + 64;

#[test]
fn directories_that_lie_are_refused() {
    let says = |offset, value: u64| with(offset, &value.to_le_bytes()).unwrap_err().to_string();
    assert_eq!(says(ENTRY, 4096 + 64), "directory entry has offset 4160, allowed is 128");
    assert_eq!(says(ENTRY, 128), "directory entry has offset 128, allowed is 320");
    assert_eq!(says(ENTRY, 384), "parts 0 and 1 of the region overlap");
    assert_eq!(says(ENTRY + 8, 8192), "directory entry has end 9856, allowed is 8192");
    assert!(says(ENTRY + 8, u64::MAX).contains("end 18446744073709551615"));
    assert!(says(ENTRY + 24, 0).contains("name that is not printable"));
    let mut probe = [0; 40];
    probe[..5].copy_from_slice(b"probe");
    assert_eq!(
        with(ENTRY + 24, &probe).unwrap_err(),
        RegionError::Duplicate { first: 1, second: 2 }
    );
    assert!(with(8, &[2]).unwrap_err().to_string().contains("version 2"));
    assert!(with(100, &[200]).unwrap_err().to_string().contains("directory entries 200"));
}

#[test]
fn a_mapping_shorter_than_the_region_says_is_refused() {
    let region = region();
    let short = region.sub(0, BYTES - 1).unwrap();
    assert_eq!(
        RegionReader::new(short.read_only()).unwrap_err().to_string(),
        "region has length 8192, allowed is 8191"
    );
    assert!(RegionReader::new(region.sub(0, 100).unwrap().read_only()).is_err());
    assert!(RegionReader::new(region.sub(4, 4096).unwrap().read_only()).is_err());
}

#[test]
fn whatever_byte_is_flipped_every_part_handed_out_lies_inside_and_alone() {
    let region = region();
    let mut good = vec![0; 320];
    region.read(0, &mut good).unwrap();
    for bit in (0..good.len() * 8).step_by(if cfg!(miri) { 67 } else { 1 }) {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        region.write(0, &bytes).unwrap();
        check(region);
    }
}

#[test]
fn random_directories_never_give_a_part_outside() {
    let region = region();
    let mut random = Random::new(0xDEAD_BEEF);
    let rounds = if cfg!(miri) { 50 } else { 50_000 };
    let mut believed = 0;
    for _ in 0..rounds {
        // Offset and length of each entry, so that some directories are possible.
        for word in [16, 17, 24, 25, 32, 33] {
            let state = random.next();
            let value =
                if state.is_multiple_of(16) { state } else { ((state >> 8) % BYTES as u64) & !127 };
            region.word64(word * 8).unwrap().store(value);
        }
        believed += u32::from(check(region));
    }
    assert!(cfg!(miri) || (believed > 0 && believed < rounds));
}

/// Whether a reader believes the region; if so, its parts must lie inside and alone.
fn check(region: Span<'static>) -> bool {
    let Ok(reader) = RegionReader::new(region.read_only()) else {
        return false;
    };
    let base = region.as_ptr() as usize;
    let mut taken: Vec<(usize, usize)> = Vec::new();
    for (_, _, part) in reader.parts() {
        let start = part.as_ptr() as usize - base;
        let end = start + part.len();
        assert!(start >= 128 && end <= BYTES);
        for &(from, to) in &taken {
            assert!(end <= from || start >= to || start == end || from == to);
        }
        taken.push((start, end));
    }
    true
}
