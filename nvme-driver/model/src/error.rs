//! Why a model could not be made.

use std::path::PathBuf;
use thiserror::Error;

/// Why a model could not be made or changed. All are about the configuration or the image file.
#[derive(Debug, Error)]
pub enum ModelError {
    /// A field of the configuration is out of range.
    #[error("{field} is {value}, allowed are {allowed}")]
    Config {
        /// Field.
        field: &'static str,
        /// Value given.
        value: u64,
        /// Values allowed.
        allowed: &'static str,
    },
    /// A namespace identifier is 0, the broadcast value, or given twice.
    #[error("namespace id {0} is reserved or given twice")]
    Nsid(u32),
    /// A namespace has no blocks, or more bytes than can be addressed.
    #[error("namespace {nsid} has {blocks} blocks of {block_bytes} bytes, which cannot be held")]
    NamespaceSize {
        /// Namespace.
        nsid: u32,
        /// Blocks.
        blocks: u64,
        /// Bytes of a block with its metadata.
        block_bytes: u64,
    },
    /// The given memory is smaller than the namespace.
    #[error("namespace {nsid} needs {need} bytes, the memory given has {have}")]
    MappedTooSmall {
        /// Namespace.
        nsid: u32,
        /// Bytes needed.
        need: u64,
        /// Bytes there.
        have: u64,
    },
    /// The image could not be opened, sized or made.
    #[error("image {}: {source}", path.display())]
    Image {
        /// File.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The image is shorter than the namespace.
    #[error("image {} has {have} bytes, the namespace needs {need}", path.display())]
    ImageTooSmall {
        /// File.
        path: PathBuf,
        /// Bytes needed.
        need: u64,
        /// Bytes there.
        have: u64,
    },
    /// The doorbell memory is too small or misaligned.
    #[error("doorbell memory of {have} bytes, needed are {need}, 8-byte aligned")]
    Doorbells {
        /// Bytes needed.
        need: usize,
        /// Bytes there.
        have: usize,
    },
}
