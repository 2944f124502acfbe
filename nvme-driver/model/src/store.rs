//! Where the blocks of a namespace are: memory, given memory, an image file, or nowhere.
//!
//! Offsets and lengths are bytes and were checked against the namespace by the caller. Transfers
//! go straight between the store and the host's memory; only an image needs a bounce buffer.

use crate::config::Backing;
use crate::error::ModelError;
use core_runtime::mem::prefetch_read;
use hybrid_shm::{OutOfBounds, Span};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Bytes that an image transfers with one system call: two of the largest pages, enough to make
/// the call cheap beside the copy.
const WINDOW: usize = 128 * 1024;

/// The first 16 bytes of block `lba` of a null namespace: the address, then a mix of it and the
/// pattern.
#[inline]
#[must_use]
pub const fn null_header(lba: u64, pattern: u64) -> [u64; 2] {
    [lba, (lba ^ pattern).wrapping_mul(0x9e37_79b9_7f4a_7c15)]
}

/// A transfer that the store could not make.
#[derive(Debug)]
pub(crate) enum StoreError {
    /// The image file failed.
    Io(io::Error),
    /// Beyond the memory.
    Bounds,
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<OutOfBounds> for StoreError {
    fn from(_: OutOfBounds) -> Self {
        Self::Bounds
    }
}

/// The blocks.
#[derive(Debug)]
pub(crate) enum Store {
    Memory(Box<[u8]>),
    Mapped(Span<'static>),
    Image(Image),
    Null { pattern: u64, block_bytes: usize },
}

/// An image file and its bounce buffer.
#[derive(Debug)]
pub(crate) struct Image {
    file: File,
    window: Box<[u8]>,
    /// Bytes of `window` that hold the file's from `at`.
    at: u64,
    len: usize,
    /// End of the command that is being served: no reading ahead beyond it.
    end: u64,
}

impl Store {
    /// Opens a backing of `bytes` bytes; 0 takes what an image holds. Returns its size.
    pub(crate) fn open(
        nsid: u32,
        backing: &Backing,
        bytes: u64,
        block_bytes: u64,
    ) -> Result<(Self, u64), ModelError> {
        let too_large =
            ModelError::NamespaceSize { nsid, blocks: bytes / block_bytes, block_bytes };
        match backing {
            Backing::Memory => match usize::try_from(bytes) {
                Ok(len) if len != 0 && isize::try_from(len).is_ok() => {
                    let memory = vec![0; len].into_boxed_slice();
                    Ok((Self::Memory(memory), bytes))
                }
                _ => Err(too_large),
            },
            Backing::Mapped(span) if span.len() as u64 >= bytes => {
                let bytes = if bytes == 0 { span.len() as u64 } else { bytes };
                Ok((Self::Mapped(*span), bytes))
            }
            Backing::Mapped(span) => {
                Err(ModelError::MappedTooSmall { nsid, need: bytes, have: span.len() as u64 })
            }
            Backing::Image { path, create } => {
                let (image, bytes) = Image::open(path, *create, bytes)?;
                Ok((Self::Image(image), bytes))
            }
            Backing::Null { pattern } => {
                let block_bytes = usize::try_from(block_bytes).map_err(|_| too_large)?;
                let pattern = *pattern;
                Ok((Self::Null { pattern, block_bytes }, bytes))
            }
        }
    }

    /// Asks for the first line of what will be read soon; the processor sees the stream behind it
    /// by itself (asking for 8, 24 or all 64 lines of a block was not faster).
    #[inline]
    pub(crate) fn prefetch(&self, offset: u64) {
        let Ok(offset) = index(offset) else { return };
        match self {
            Self::Memory(memory) => {
                if let Some(byte) = memory.get(offset) {
                    prefetch_read(byte);
                }
            }
            Self::Mapped(span) => {
                if let Ok(first) = span.sub(offset, 1) {
                    prefetch_read(first.as_ptr());
                }
            }
            Self::Image(_) | Self::Null { .. } => {}
        }
    }

    /// Says what range the reads and writes of the next command lie in.
    #[inline]
    pub(crate) fn begin(&mut self, offset: u64, len: usize) {
        if let Self::Image(image) = self {
            image.len = 0;
            image.end = offset + len as u64;
        }
    }

    /// To host memory: `len` bytes from `offset` to the start of `host`.
    #[inline]
    pub(crate) fn read(
        &mut self,
        offset: u64,
        host: Span<'static>,
        len: usize,
    ) -> Result<(), StoreError> {
        match self {
            Self::Memory(memory) => {
                host.write(0, slice(memory, offset, len)?)?;
            }
            Self::Mapped(span) => host.copy_from(0, *span, index(offset)?, len)?,
            Self::Image(image) => image.read(offset, host, len)?,
            Self::Null { pattern, block_bytes } => {
                null_read(*pattern, *block_bytes, offset, host, len)?;
            }
        }
        Ok(())
    }

    /// From host memory.
    #[inline]
    pub(crate) fn write(
        &mut self,
        offset: u64,
        host: Span<'static>,
        len: usize,
    ) -> Result<(), StoreError> {
        match self {
            Self::Memory(memory) => host.read(0, slice_mut(memory, offset, len)?)?,
            Self::Mapped(span) => span.copy_from(index(offset)?, host, 0, len)?,
            Self::Image(image) => image.write(offset, host, len)?,
            Self::Null { .. } => {}
        }
        Ok(())
    }

    /// To the model: a few bytes, for compares and spoilt data.
    pub(crate) fn peek(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), StoreError> {
        match self {
            Self::Memory(memory) => bytes.copy_from_slice(slice(memory, offset, bytes.len())?),
            Self::Mapped(span) => span.read(index(offset)?, bytes)?,
            Self::Image(image) => image.file.read_exact_at(bytes, offset)?,
            Self::Null { .. } => bytes.fill(0),
        }
        Ok(())
    }

    /// From the model.
    pub(crate) fn poke(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        match self {
            Self::Memory(memory) => {
                slice_mut(memory, offset, bytes.len())?.copy_from_slice(bytes);
            }
            Self::Mapped(span) => span.write(index(offset)?, bytes)?,
            Self::Image(image) => {
                image.len = 0;
                image.file.write_all_at(bytes, offset)?;
            }
            Self::Null { .. } => {}
        }
        Ok(())
    }

    /// Sets bytes to zero.
    pub(crate) fn zero(&mut self, offset: u64, len: u64) -> Result<(), StoreError> {
        match self {
            Self::Memory(memory) => slice_mut(memory, offset, index(len)?)?.fill(0),
            Self::Mapped(span) => span.fill(index(offset)?, index(len)?, 0)?,
            Self::Image(image) => image.zero(offset, len)?,
            Self::Null { .. } => {}
        }
        Ok(())
    }

    /// Makes everything written durable.
    pub(crate) fn flush(&mut self) -> Result<(), StoreError> {
        if let Self::Image(image) = self {
            image.file.sync_data()?;
        }
        Ok(())
    }
}

impl Image {
    fn open(path: &Path, create: bool, bytes: u64) -> Result<(Self, u64), ModelError> {
        let failed = |source| ModelError::Image { path: path.to_owned(), source };
        let there = path.try_exists().map_err(failed)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(create)
            .truncate(false)
            // A new one is its user's alone, as what is on a drive is not everybody's to read.
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        if !there {
            file.set_len(bytes).map_err(failed)?;
        }
        let have = file.metadata().map_err(failed)?.len();
        if have < bytes || have == 0 {
            return Err(ModelError::ImageTooSmall {
                path: path.to_owned(),
                need: bytes.max(1),
                have,
            });
        }
        let window = vec![0; WINDOW].into_boxed_slice();
        let image = Self { file, window, at: 0, len: 0, end: 0 };
        Ok((image, if bytes == 0 { have } else { bytes }))
    }

    /// Fills the window from `offset` with at least `len` bytes, and ahead to the command's end.
    fn fill(&mut self, offset: u64, len: usize) -> Result<(), StoreError> {
        self.len = 0;
        let ahead = index(self.end.saturating_sub(offset).min(self.window.len() as u64))?;
        let want = ahead.max(len);
        self.file.read_exact_at(&mut self.window[..want], offset)?;
        (self.at, self.len) = (offset, want);
        Ok(())
    }

    fn read(&mut self, offset: u64, host: Span<'static>, len: usize) -> Result<(), StoreError> {
        let mut done = 0;
        while done < len {
            let piece = (len - done).min(self.window.len());
            let from = offset + done as u64;
            let skip = match from.checked_sub(self.at).and_then(|skip| usize::try_from(skip).ok()) {
                Some(skip) if skip < self.len && piece <= self.len - skip => skip,
                _ => {
                    self.fill(from, piece)?;
                    0
                }
            };
            host.write(done, &self.window[skip..skip + piece])?;
            done += piece;
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, host: Span<'static>, len: usize) -> Result<(), StoreError> {
        self.len = 0;
        let mut done = 0;
        while done < len {
            let piece = (len - done).min(self.window.len());
            host.read(done, &mut self.window[..piece])?;
            self.file.write_all_at(&self.window[..piece], offset + done as u64)?;
            done += piece;
        }
        Ok(())
    }

    fn zero(&mut self, offset: u64, len: u64) -> Result<(), StoreError> {
        self.len = 0;
        self.window.fill(0);
        let mut done = 0;
        while done < len {
            let piece = (len - done).min(self.window.len() as u64);
            self.file.write_all_at(&self.window[..index(piece)?], offset + done)?;
            done += piece;
        }
        Ok(())
    }
}

/// Writes the headers of the blocks that start within this piece.
#[inline]
fn null_read(
    pattern: u64,
    block_bytes: usize,
    offset: u64,
    host: Span<'static>,
    len: usize,
) -> Result<(), StoreError> {
    let block = block_bytes as u64;
    // Without metadata a shift does it; a division costs as much as the rest of the command.
    let mut lba = if block.is_power_of_two() {
        (offset + block - 1) >> block.trailing_zeros()
    } else {
        offset.div_ceil(block)
    };
    let mut at = index(lba * block - offset)?;
    while at < len {
        let [first, second] = null_header(lba, pattern);
        if len - at >= 16 {
            host.write(at, &first.to_le_bytes())?;
            host.write(at + 8, &second.to_le_bytes())?;
        } else {
            let bytes = (u128::from(first) | u128::from(second) << 64).to_le_bytes();
            host.write(at, &bytes[..len - at])?;
        }
        lba += 1;
        at += block_bytes;
    }
    Ok(())
}

fn index(offset: u64) -> Result<usize, StoreError> {
    usize::try_from(offset).map_err(|_| StoreError::Bounds)
}

#[inline(always)]
fn slice(memory: &[u8], offset: u64, len: usize) -> Result<&[u8], StoreError> {
    let tail = memory.get(index(offset)?..).ok_or(StoreError::Bounds)?;
    tail.get(..len).ok_or(StoreError::Bounds)
}

#[inline(always)]
fn slice_mut(memory: &mut [u8], offset: u64, len: usize) -> Result<&mut [u8], StoreError> {
    let tail = memory.get_mut(index(offset)?..).ok_or(StoreError::Bounds)?;
    tail.get_mut(..len).ok_or(StoreError::Bounds)
}
