//! The feed store: what `feed-handler` puts on an NVMe namespace.
//!
//! ```text
//!   byte 0               Superblock (4096 bytes)
//!   data_offset          chunk 0: ChunkHeader (64 bytes), then payload
//!   + chunk_bytes        chunk 1, and so on
//! ```
//! Chunks have one size, so that chunk `n` lies at `data_offset + n * chunk_bytes`, and each but
//! the last is full: its payload is `chunk_bytes - 64` bytes of the feed, contiguous, readable
//! where the device put it. A message may straddle two chunks. Every chunk names the epoch of the
//! superblock, its own number and its own LBA, so that stale and misdirected blocks are recognised.
//!
//! The superblock is written first without [`FLAG_COMPLETE`], and again with it once every chunk is
//! durable: a feed that was cut short is never replayed as a whole one.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::crc::crc32c;
use crate::{ABI_VERSION, AbiError, Name, check_version, prefix};

/// Magic of a superblock: `HYFEEDSB`.
pub const SUPERBLOCK_MAGIC: u64 = u64::from_le_bytes(*b"HYFEEDSB");
/// Magic of a chunk: `HYFEEDCK`.
pub const CHUNK_MAGIC: u64 = u64::from_le_bytes(*b"HYFEEDCK");

/// Bytes of the superblock.
pub const SUPERBLOCK_BYTES: usize = 4096;
/// Bytes of a chunk's header.
pub const CHUNK_HEADER_BYTES: usize = 64;
/// Least chunk: one page.
pub const CHUNK_BYTES_MIN: u32 = 4096;
/// Greatest chunk: beyond this a read's latency is the copy's, and buffers no longer fit a cache.
pub const CHUNK_BYTES_MAX: u32 = 16 << 20;
/// Least and greatest logical block, NVM Command Set: 512 bytes to 64 KiB.
pub const LBA_BYTES: core::ops::RangeInclusive<u32> = 512..=65536;

/// All chunks are durable.
pub const FLAG_COMPLETE: u32 = 1;
/// The feed was generated, not captured.
pub const FLAG_SYNTHETIC: u32 = 2;

/// ITCH 5.0, each message behind its length in two big-endian bytes.
pub const FORMAT_ITCH50_FILE: u32 = 1;

/// The first block of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Superblock {
    /// [`SUPERBLOCK_MAGIC`].
    pub magic: u64,
    /// [`ABI_VERSION`] of the writer.
    pub version: u32,
    /// `FLAG_` bits.
    pub flags: u32,
    /// Differs for each ingest on this device; every chunk repeats it.
    pub epoch: u64,
    /// Bytes of the feed.
    pub feed_bytes: u64,
    /// Messages in the feed.
    pub message_count: u64,
    /// Chunks of the feed.
    pub chunk_count: u64,
    /// Byte offset of chunk 0 on the namespace, a multiple of `lba_bytes`.
    pub data_offset: u64,
    /// Bytes a chunk, header included, a multiple of `lba_bytes`.
    pub chunk_bytes: u32,
    /// Bytes a logical block of the namespace when it was written.
    pub lba_bytes: u32,
    /// One of the `FORMAT_` constants.
    pub format: u32,
    /// Zero.
    pub reserved0: u32,
    /// Wall clock of the ingest, nanoseconds since 1970-01-01.
    pub created_unix_ns: u64,
    /// Name of the feed.
    pub feed_name: Name<64>,
    /// Zero.
    pub reserved1: [u8; 3944],
    /// Zero.
    pub reserved2: u32,
    /// CRC32C of the 4092 bytes before it.
    pub crc32c: u32,
}

const _: () = assert!(size_of::<Superblock>() == SUPERBLOCK_BYTES && align_of::<Superblock>() == 8);
const _: () = assert!(offset_of!(Superblock, epoch) == 16);
const _: () = assert!(offset_of!(Superblock, data_offset) == 48);
const _: () = assert!(offset_of!(Superblock, created_unix_ns) == 72);
const _: () = assert!(offset_of!(Superblock, feed_name) == 80);
const _: () = assert!(offset_of!(Superblock, reserved1) == 144);
const _: () = assert!(offset_of!(Superblock, crc32c) == 4092);

/// The first 64 bytes of each chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ChunkHeader {
    /// [`CHUNK_MAGIC`].
    pub magic: u64,
    /// Epoch of the superblock.
    pub epoch: u64,
    /// Number of the chunk, from 0.
    pub sequence: u64,
    /// Logical block at which it was written.
    pub lba: u64,
    /// Messages that began in the chunks before this one.
    pub first_message: u64,
    /// Bytes of the feed that follow the header.
    pub payload_bytes: u32,
    /// CRC32C of those bytes.
    pub payload_crc32c: u32,
    /// Offset in the payload of the first message that begins in it; `u32::MAX` for none.
    pub first_message_offset: u32,
    /// Zero.
    pub reserved: [u8; 8],
    /// CRC32C of the 60 bytes before it.
    pub header_crc32c: u32,
}

const _: () = assert!(size_of::<ChunkHeader>() == CHUNK_HEADER_BYTES);
const _: () = assert!(align_of::<ChunkHeader>() == 8);
const _: () = assert!(offset_of!(ChunkHeader, lba) == 24);
const _: () = assert!(offset_of!(ChunkHeader, payload_bytes) == 40);
const _: () = assert!(offset_of!(ChunkHeader, first_message_offset) == 48);
const _: () = assert!(offset_of!(ChunkHeader, header_crc32c) == 60);

impl Superblock {
    /// A superblock of this version for a feed of `feed_bytes`, not yet complete and not yet
    /// sealed.
    #[must_use]
    pub fn new(epoch: u64, feed_name: &str, feed_bytes: u64, shape: Shape) -> Self {
        Self {
            magic: SUPERBLOCK_MAGIC,
            version: ABI_VERSION,
            flags: 0,
            epoch,
            feed_bytes,
            message_count: 0,
            chunk_count: shape.chunks_for(feed_bytes),
            data_offset: shape.data_offset,
            chunk_bytes: shape.chunk_bytes,
            lba_bytes: shape.lba_bytes,
            format: FORMAT_ITCH50_FILE,
            reserved0: 0,
            created_unix_ns: 0,
            feed_name: Name::lossy(feed_name),
            reserved1: [0; 3944],
            reserved2: 0,
            crc32c: 0,
        }
    }

    /// With its checksum, ready to be written.
    #[must_use]
    pub fn sealed(mut self) -> Self {
        self.crc32c = crc32c(self.as_bytes().split_at(SUPERBLOCK_BYTES - 4).0);
        self
    }

    /// Whether every chunk was durable when this was written.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.flags & FLAG_COMPLETE != 0
    }

    /// Where the chunks lie.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        Shape {
            data_offset: self.data_offset,
            chunk_bytes: self.chunk_bytes,
            lba_bytes: self.lba_bytes,
        }
    }

    /// Bytes of the namespace that the store takes.
    #[must_use]
    pub const fn store_bytes(&self) -> u64 {
        let chunks = self.chunk_count.saturating_mul(self.chunk_bytes as u64);
        self.data_offset.saturating_add(chunks)
    }

    /// The superblock at the start of `bytes`.
    ///
    /// # Errors
    /// [`AbiError`] with what was seen and what is allowed.
    pub fn parse(bytes: &[u8]) -> Result<Self, AbiError> {
        const WHAT: &str = "feed superblock";
        let block: Self = prefix(WHAT, bytes)?;
        if block.magic != SUPERBLOCK_MAGIC {
            return Err(AbiError::Magic {
                what: WHAT,
                found: block.magic,
                expected: SUPERBLOCK_MAGIC,
            });
        }
        check_version(WHAT, block.version)?;
        let computed = block.sealed().crc32c;
        if computed != block.crc32c {
            return Err(AbiError::Checksum { what: WHAT, stored: block.crc32c, computed });
        }
        block.shape().check()?;
        let chunks = block.shape().chunks_for(block.feed_bytes);
        if block.chunk_count != chunks {
            return Err(AbiError::Field {
                what: WHAT,
                field: "chunk count",
                found: block.chunk_count,
                allowed: chunks,
            });
        }
        block.feed_name.check(WHAT)?;
        Ok(block)
    }

    /// Whether the store fits a namespace of `namespace_bytes` in blocks of `lba_bytes`.
    ///
    /// # Errors
    /// [`AbiError::Field`] with both sizes.
    pub fn check_fits(&self, namespace_bytes: u64, lba_bytes: u32) -> Result<(), AbiError> {
        let bad = |field, found: u64, allowed: u64| {
            Err(AbiError::Field { what: "feed superblock", field, found, allowed })
        };
        if self.lba_bytes != lba_bytes {
            return bad("block size", self.lba_bytes.into(), lba_bytes.into());
        }
        if self.store_bytes() > namespace_bytes {
            return bad("store length", self.store_bytes(), namespace_bytes);
        }
        Ok(())
    }
}

/// Where the chunks of a store lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Byte offset of chunk 0 on the namespace.
    pub data_offset: u64,
    /// Bytes a chunk, header included.
    pub chunk_bytes: u32,
    /// Bytes a logical block.
    pub lba_bytes: u32,
}

impl Shape {
    /// The usual shape: chunks begin at the first multiple of the block that is behind the
    /// superblock.
    ///
    /// # Errors
    /// [`AbiError::Field`] if a size is not allowed.
    pub fn new(chunk_bytes: u32, lba_bytes: u32) -> Result<Self, AbiError> {
        let shape = Self {
            data_offset: u64::from(lba_bytes).max(SUPERBLOCK_BYTES as u64),
            chunk_bytes,
            lba_bytes,
        };
        shape.check()?;
        Ok(shape)
    }

    /// Bytes of the feed in a full chunk.
    #[must_use]
    pub const fn payload_bytes(&self) -> u32 {
        self.chunk_bytes.saturating_sub(64)
    }

    /// Chunks that a feed takes.
    #[must_use]
    pub const fn chunks_for(&self, feed_bytes: u64) -> u64 {
        match self.payload_bytes() {
            0 => 0,
            payload => feed_bytes.div_ceil(payload as u64),
        }
    }

    /// Bytes of the feed in chunk `sequence`; 0 behind the last.
    #[must_use]
    pub const fn payload_of(&self, sequence: u64, feed_bytes: u64) -> u32 {
        let before = sequence.saturating_mul(self.payload_bytes() as u64);
        let left = feed_bytes.saturating_sub(before);
        let full = self.payload_bytes();
        #[expect(clippy::cast_possible_truncation, reason = "less than a chunk is left")]
        if left < full as u64 { left as u32 } else { full }
    }

    /// First logical block of chunk `sequence`; saturates where there can be none.
    #[must_use]
    pub const fn lba_of(&self, sequence: u64) -> u64 {
        let chunk = sequence.saturating_mul(self.chunk_bytes as u64);
        match self.data_offset.saturating_add(chunk).checked_div(self.lba_bytes as u64) {
            Some(lba) => lba,
            None => u64::MAX,
        }
    }

    /// Whether the sizes are allowed.
    ///
    /// # Errors
    /// [`AbiError::Field`] with the size and its bound.
    pub fn check(&self) -> Result<(), AbiError> {
        let bad = |field, found: u64, allowed: u32| {
            Err(AbiError::Field { what: "feed superblock", field, found, allowed: allowed.into() })
        };
        let (lba, chunk) = (self.lba_bytes, self.chunk_bytes);
        if !lba.is_power_of_two() || !LBA_BYTES.contains(&lba) {
            return bad("block size", lba.into(), *LBA_BYTES.end());
        }
        if !(CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&chunk) {
            return bad("chunk size", chunk.into(), CHUNK_BYTES_MAX);
        }
        if !chunk.is_multiple_of(lba) {
            return bad("chunk size", chunk.into(), lba);
        }
        if self.data_offset < SUPERBLOCK_BYTES as u64 {
            return bad("data offset", self.data_offset, 4096);
        }
        if !self.data_offset.is_multiple_of(u64::from(lba)) {
            return bad("data offset", self.data_offset, lba);
        }
        Ok(())
    }
}

impl ChunkHeader {
    /// A header of this version, not yet sealed.
    #[must_use]
    pub const fn new(epoch: u64, sequence: u64, lba: u64) -> Self {
        Self {
            magic: CHUNK_MAGIC,
            epoch,
            sequence,
            lba,
            first_message: 0,
            payload_bytes: 0,
            payload_crc32c: 0,
            first_message_offset: u32::MAX,
            reserved: [0; 8],
            header_crc32c: 0,
        }
    }

    /// With its checksum, ready to be written.
    #[must_use]
    pub fn sealed(mut self) -> Self {
        self.header_crc32c = crc32c(self.as_bytes().split_at(CHUNK_HEADER_BYTES - 4).0);
        self
    }

    /// The header at the start of a chunk that was read as number `sequence` of `superblock`.
    /// The payload's checksum is the caller's to compare.
    ///
    /// # Errors
    /// [`AbiError`] with what was seen and what was expected.
    pub fn parse(chunk: &[u8], superblock: &Superblock, sequence: u64) -> Result<Self, AbiError> {
        Self::parse_with(chunk, superblock, sequence, crc32c)
    }

    /// As [`ChunkHeader::parse`], with the caller's (faster) CRC32C.
    ///
    /// # Errors
    /// [`AbiError`] with what was seen and what was expected.
    pub fn parse_with(
        chunk: &[u8],
        superblock: &Superblock,
        sequence: u64,
        crc32c: impl FnOnce(&[u8]) -> u32,
    ) -> Result<Self, AbiError> {
        const WHAT: &str = "feed chunk";
        let header: Self = prefix(WHAT, chunk)?;
        if header.magic != CHUNK_MAGIC {
            return Err(AbiError::Magic { what: WHAT, found: header.magic, expected: CHUNK_MAGIC });
        }
        let computed = crc32c(header.as_bytes().split_at(CHUNK_HEADER_BYTES - 4).0);
        if computed != header.header_crc32c {
            return Err(AbiError::Checksum { what: WHAT, stored: header.header_crc32c, computed });
        }
        let shape = superblock.shape();
        let payload = shape.payload_of(sequence, superblock.feed_bytes);
        for (field, found, allowed) in [
            ("epoch", header.epoch, superblock.epoch),
            ("sequence", header.sequence, sequence),
            ("lba", header.lba, shape.lba_of(sequence)),
            ("payload length", header.payload_bytes.into(), payload.into()),
        ] {
            if found != allowed {
                return Err(AbiError::Field { what: WHAT, field, found, allowed });
            }
        }
        let first = header.first_message_offset;
        if first != u32::MAX && first >= payload {
            return Err(AbiError::Field {
                what: WHAT,
                field: "first message offset",
                found: first.into(),
                allowed: payload.into(),
            });
        }
        Ok(header)
    }
}
