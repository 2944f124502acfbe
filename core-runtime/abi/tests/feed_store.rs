//! The feed store's layouts: golden bytes by hand, and every byte flipped.
#![forbid(unsafe_code)]

use hybrid_abi::AbiError;
use hybrid_abi::crc::crc32c;
use hybrid_abi::feed::{
    CHUNK_BYTES_MAX, CHUNK_HEADER_BYTES, ChunkHeader, FLAG_COMPLETE, SUPERBLOCK_BYTES, Shape,
    Superblock,
};
use zerocopy::IntoBytes;

fn superblock() -> Superblock {
    let shape = Shape::new(0x1_0000, 512).unwrap();
    let mut block = Superblock::new(0x0102_0304_0506_0708, "aapl", 200_000, shape);
    block.flags = FLAG_COMPLETE;
    block.message_count = 20_044;
    block.created_unix_ns = 0x1112_1314_1516_1718;
    block.sealed()
}

fn chunk(sequence: u64) -> ChunkHeader {
    let block = superblock();
    let mut chunk = ChunkHeader::new(block.epoch, sequence, block.shape().lba_of(sequence));
    chunk.payload_bytes = block.shape().payload_of(sequence, block.feed_bytes);
    chunk.payload_crc32c = 0xC0DE_C0DE;
    chunk.first_message = 5;
    chunk.first_message_offset = 17;
    chunk.sealed()
}

#[test]
fn the_superblock_has_its_golden_bytes() {
    let mut golden = b"HYFEEDSB".to_vec();
    golden.extend([1, 0, 0, 0, 1, 0, 0, 0]);
    golden.extend([8, 7, 6, 5, 4, 3, 2, 1]);
    golden.extend([0x40, 0x0D, 3, 0, 0, 0, 0, 0]);
    golden.extend([0x4C, 0x4E, 0, 0, 0, 0, 0, 0]);
    golden.extend([4, 0, 0, 0, 0, 0, 0, 0]);
    golden.extend([0, 0x10, 0, 0, 0, 0, 0, 0]);
    golden.extend([0, 0, 1, 0, 0, 2, 0, 0]);
    golden.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    golden.extend([0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11]);
    golden.extend(b"aapl");
    golden.resize(4092, 0);
    golden.extend(crc32c(&golden).to_le_bytes());
    assert_eq!(superblock().as_bytes(), golden);
    assert_eq!(Superblock::parse(&golden), Ok(superblock()));
    assert!(superblock().is_complete());
}

#[test]
fn the_chunk_header_has_its_golden_bytes() {
    let mut golden = b"HYFEEDCK".to_vec();
    golden.extend([8, 7, 6, 5, 4, 3, 2, 1]);
    golden.extend([3, 0, 0, 0, 0, 0, 0, 0]);
    // LBA (4096 + 3 * 65536) / 512 = 392.
    golden.extend([0x88, 1, 0, 0, 0, 0, 0, 0]);
    golden.extend([5, 0, 0, 0, 0, 0, 0, 0]);
    // The last chunk: 200000 - 3 * 65472 = 3584 bytes.
    golden.extend([0, 0x0E, 0, 0, 0xDE, 0xC0, 0xDE, 0xC0]);
    golden.extend([17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    golden.extend(crc32c(&golden).to_le_bytes());
    assert_eq!(chunk(3).as_bytes(), golden);
    assert_eq!(ChunkHeader::parse(&golden, &superblock(), 3), Ok(chunk(3)));
}

#[test]
fn every_flipped_bit_of_a_superblock_is_seen() {
    let good = superblock();
    for byte in 0..SUPERBLOCK_BYTES {
        let mut bytes = good.as_bytes().to_vec();
        bytes[byte] ^= 1 << (byte % 8);
        assert!(Superblock::parse(&bytes).is_err(), "byte {byte}");
    }
}

#[test]
fn every_flipped_bit_of_a_chunk_header_is_seen() {
    let good = chunk(1);
    for bit in 0..CHUNK_HEADER_BYTES * 8 {
        let mut bytes = good.as_bytes().to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(ChunkHeader::parse(&bytes, &superblock(), 1).is_err(), "bit {bit}");
    }
}

#[test]
fn a_short_read_is_said_with_its_lengths() {
    let bytes = superblock();
    assert_eq!(
        Superblock::parse(&bytes.as_bytes()[..4095]).unwrap_err().to_string(),
        "feed superblock needs 4096 bytes, 4095 are there"
    );
    assert!(ChunkHeader::parse(&[0; 63], &bytes, 0).is_err());
}

#[test]
fn a_newer_version_is_said_even_where_its_checksum_lies_elsewhere() {
    let mut bytes = superblock().as_bytes().to_vec();
    bytes[8] = 7;
    assert_eq!(
        Superblock::parse(&bytes),
        Err(AbiError::NewerVersion { what: "feed superblock", found: 7, known: 1 })
    );
}

#[test]
fn blocks_of_another_epoch_place_or_number_are_told_apart() {
    let block = superblock();
    let said = |header: ChunkHeader, sequence| {
        ChunkHeader::parse(header.sealed().as_bytes(), &block, sequence).unwrap_err().to_string()
    };
    let good = chunk(2);
    assert_eq!(said(good, 1), "feed chunk has sequence 2, allowed is 1");
    let stale = ChunkHeader { epoch: 9, ..good };
    assert!(said(stale, 2).starts_with("feed chunk has epoch 9, allowed is"));
    let moved = ChunkHeader { lba: 0, ..good };
    assert_eq!(said(moved, 2), "feed chunk has lba 0, allowed is 264");
    let short = ChunkHeader { payload_bytes: 1, ..good };
    assert!(said(short, 2).contains("payload length 1, allowed is 65472"));
    let outside = ChunkHeader { first_message_offset: 65472, ..good };
    assert!(said(outside, 2).contains("first message offset 65472"));
}

#[test]
fn superblocks_that_lie_with_a_good_checksum_are_refused() {
    let said = |change: fn(&mut Superblock)| {
        let mut block = superblock();
        change(&mut block);
        Superblock::parse(block.sealed().as_bytes()).unwrap_err().to_string()
    };
    assert!(said(|b| b.chunk_bytes = 0).contains("chunk size 0"));
    assert!(said(|b| b.chunk_bytes = CHUNK_BYTES_MAX + 512).contains("chunk size"));
    assert!(said(|b| b.chunk_bytes = 4097).contains("chunk size 4097, allowed is 512"));
    assert!(said(|b| b.lba_bytes = 0).contains("block size 0"));
    assert!(said(|b| b.lba_bytes = 768).contains("block size 768"));
    assert!(said(|b| b.data_offset = 0).contains("data offset 0"));
    assert!(said(|b| b.data_offset = 4100).contains("data offset 4100"));
    assert!(said(|b| b.feed_bytes = u64::MAX).contains("chunk count 4"));
    assert!(said(|b| b.chunk_count = 5).contains("chunk count 5, allowed is 4"));
    assert!(said(|b| b.feed_name = hybrid_abi::Name::EMPTY).contains("name"));
}

#[test]
fn a_store_larger_than_its_namespace_is_refused_with_both_sizes() {
    let block = superblock();
    assert_eq!(block.store_bytes(), 4096 + 4 * 65536);
    assert_eq!(block.check_fits(266_240, 512), Ok(()));
    assert_eq!(
        block.check_fits(266_239, 512).unwrap_err().to_string(),
        "feed superblock has store length 266240, allowed is 266239"
    );
    assert!(block.check_fits(266_240, 4096).is_err());
}

#[test]
fn chunks_cover_a_feed_exactly_for_every_length_near_a_boundary() {
    let shape = Shape::new(4096, 4096).unwrap();
    assert_eq!(shape.payload_bytes(), 4032);
    for feed_bytes in (0..3u64).flat_map(|n| (n * 4032).saturating_sub(2)..n * 4032 + 3) {
        let chunks = shape.chunks_for(feed_bytes);
        let total: u64 = (0..chunks).map(|n| u64::from(shape.payload_of(n, feed_bytes))).sum();
        assert_eq!(total, feed_bytes);
        assert_eq!(shape.payload_of(chunks, feed_bytes), 0);
        assert!(chunks == 0 || shape.payload_of(chunks - 1, feed_bytes) > 0);
    }
}

#[test]
fn the_first_chunk_lies_on_a_block_for_every_block_size() {
    for lba_bytes in [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] {
        let shape = Shape::new(65536, lba_bytes).unwrap();
        assert!(shape.lba_of(0) * u64::from(lba_bytes) >= 4096);
        assert_eq!(shape.lba_of(1) - shape.lba_of(0), u64::from(65536 / lba_bytes));
    }
}
