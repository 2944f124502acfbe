//! What a model has done since it was made.

/// Counts; bytes are of data, without metadata.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelStats {
    /// Admin commands fetched.
    pub admin: u64,
    /// I/O commands fetched.
    pub io: u64,
    /// Reads carried out.
    pub reads: u64,
    /// Writes carried out.
    pub writes: u64,
    /// Compares carried out.
    pub compares: u64,
    /// Flushes carried out.
    pub flushes: u64,
    /// Write Zeroes carried out.
    pub write_zeroes: u64,
    /// Dataset Management commands carried out.
    pub dsm: u64,
    /// Bytes read by the host.
    pub bytes_read: u64,
    /// Bytes written by the host.
    pub bytes_written: u64,
    /// Completions posted, spoilt ones included.
    pub completions: u64,
    /// Commands that failed.
    pub errors: u64,
    /// Commands that the fault plan decided on.
    pub faults: u64,
    /// Times that a full completion queue held commands back.
    pub cq_full: u64,
    /// Controller resets seen.
    pub resets: u64,
    /// Events reported.
    pub events: u64,
}

/// What one step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepReport {
    /// Commands fetched.
    pub commands: u32,
    /// Completions posted.
    pub completions: u32,
    /// Nothing was done and nothing is due: only a doorbell or time will bring work.
    pub idle: bool,
}
