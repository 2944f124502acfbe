//! What the writer counts.

/// Counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Records taken.
    pub appends: u64,
    /// Their payloads' bytes.
    pub payload_bytes: u64,
    /// Batches written.
    pub batches: u64,
    /// Bytes written in batches, whole blocks.
    pub batch_bytes: u64,
    /// Flushes that ended well.
    pub flushes: u64,
    /// Checkpoints that are durable.
    pub checkpoints: u64,
    /// Index blocks written.
    pub indexes: u64,
    /// Index blocks that were left out or failed: that segment is read from its start.
    pub indexes_lost: u64,
    /// Appends turned away for their priority: low, normal, high.
    pub shed: [u64; 3],
    /// Appends turned away because all buffers were in use.
    pub busy: u64,
    /// Appends turned away because the checkpoint was behind.
    pub ahead: u64,
    /// Appends turned away because the log was full.
    pub full: u64,
    /// Most records that waited at once.
    pub pending_max: u64,
}
