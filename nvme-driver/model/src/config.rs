//! What a model is made of.

use crate::fault::{AbortPolicy, FaultPlan};
use crate::latency::LatencyModel;
use hybrid_shm::Span;
use std::path::PathBuf;

/// Where the blocks of a namespace are.
#[derive(Clone, Debug)]
pub enum Backing {
    /// In the model's own memory, zero at first; pages that are never written cost nothing.
    Memory,
    /// In memory that the caller gives (huge pages, say), as it stands.
    Mapped(Span<'static>),
    /// In an image file, by `pread` and `pwrite`. It must be long enough.
    Image {
        /// The file.
        path: PathBuf,
        /// Make it, sparse, if it is not there.
        create: bool,
    },
    /// Nowhere: a read writes only the first 16 bytes of each block ([`crate::null_header`]) and
    /// a write is forgotten. For benchmarks of the software in front.
    Null {
        /// Mixed into the second word of each block's header.
        pattern: u64,
    },
}

/// A namespace.
#[derive(Clone, Debug)]
pub struct NamespaceConfig {
    /// Identifier, 1 to `0xffff_fffe`; holes are allowed.
    pub nsid: u32,
    /// Size in blocks; 0 takes what an existing image holds.
    pub blocks: u64,
    /// Block size: a power of two from 512 to 65,536.
    pub lba_bytes: u32,
    /// Metadata bytes a block.
    pub metadata_bytes: u16,
    /// Metadata lies at the end of each block in the data buffer, not at MPTR.
    pub extended_metadata: bool,
    /// Command set that its descriptors name: 0 is NVM, which is what it does whatever they say.
    pub command_set: u8,
    /// Writes fail.
    pub write_protected: bool,
    /// Where the blocks are.
    pub backing: Backing,
    /// Changes to identify namespace before it is sent, to lie.
    pub identify_patches: Vec<Patch>,
}

impl NamespaceConfig {
    /// `blocks` blocks of 4 KiB in memory.
    #[must_use]
    pub const fn memory(nsid: u32, blocks: u64) -> Self {
        Self {
            nsid,
            blocks,
            lba_bytes: 4096,
            metadata_bytes: 0,
            extended_metadata: false,
            command_set: 0,
            write_protected: false,
            backing: Backing::Memory,
            identify_patches: Vec::new(),
        }
    }

    /// `blocks` blocks of 4 KiB that are nowhere.
    #[must_use]
    pub fn null(nsid: u32, blocks: u64, pattern: u64) -> Self {
        let mut config = Self::memory(nsid, blocks);
        config.backing = Backing::Null { pattern };
        config
    }

    /// Blocks of 4 KiB in an image file, as many as it holds.
    #[must_use]
    pub const fn image(nsid: u32, path: PathBuf) -> Self {
        Self {
            nsid,
            blocks: 0,
            lba_bytes: 4096,
            metadata_bytes: 0,
            extended_metadata: false,
            command_set: 0,
            write_protected: false,
            backing: Backing::Image { path, create: false },
            identify_patches: Vec::new(),
        }
    }

    /// With another block size.
    #[must_use]
    pub const fn lba_bytes(mut self, lba_bytes: u32) -> Self {
        self.lba_bytes = lba_bytes;
        self
    }
}

/// Bytes that replace those at an offset of an identify structure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    /// Offset; what would leave the structure is dropped.
    pub offset: usize,
    /// New bytes.
    pub bytes: Vec<u8>,
}

/// A controller. [`ModelConfig::default`] is a well-behaved one without namespaces.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// Namespaces, in any order.
    pub namespaces: Vec<NamespaceConfig>,
    /// Offers shadow doorbells (OACS bit 8).
    pub shadow_doorbells: bool,
    /// Serial number, at most 20 bytes of ASCII.
    pub serial: String,
    /// Maximum transfer, as a power of two of the smallest pages; 0 for no limit.
    pub mdts: u8,
    /// Largest I/O queue (CAP.MQES), 2 to 65,536 entries.
    pub max_queue_entries: u32,
    /// Doorbell stride, 0 to 12: `4 << dstrd` bytes.
    pub dstrd: u8,
    /// I/O queue pairs, 1 to 65,534.
    pub max_io_queues: u16,
    /// CAP.TO, in units of 500 ms.
    pub timeout_500ms: u8,
    /// Smallest page: `4096 << mpsmin` bytes.
    pub mpsmin: u8,
    /// Largest page: `4096 << mpsmax` bytes.
    pub mpsmax: u8,
    /// CAP as it is read, instead of what the fields above give.
    pub cap_override: Option<u64>,
    /// A volatile write cache is there, and enabled after a reset.
    pub volatile_write_cache: bool,
    /// Asynchronous event requests that may be outstanding, 1 to 256.
    pub async_event_limit: u16,
    /// Entries of the error log, 1 to 256.
    pub error_log_entries: u16,
    /// Atomic write unit, in blocks, 1 to 65,536.
    pub atomic_write_blocks: u32,
    /// Atomic write unit on power failure, in blocks, 1 to 65,536.
    pub atomic_write_blocks_power_fail: u32,
    /// Retry delays CRDT1 to CRDT3, in units of 100 ms.
    pub retry_delays_100ms: [u16; 3],
    /// RTD3E: the limit of a normal shutdown that is reported.
    pub shutdown_limit_us: u32,
    /// From CC.EN = 1 to CSTS.RDY = 1; 0 makes it immediate.
    pub ready_delay_ns: u64,
    /// From CC.EN = 0 to CSTS.RDY = 0; 0 makes it immediate. Meanwhile commands in flight may
    /// still transfer.
    pub not_ready_delay_ns: u64,
    /// From CC.SHN to CSTS.SHST = 2; 0 makes it immediate.
    pub shutdown_delay_ns: u64,
    /// How long an I/O command takes.
    pub latency: LatencyModel,
    /// I/O commands that are due complete in random order, some of them a few steps later.
    pub out_of_order: bool,
    /// Commands taken from one queue in one step, 1 to 64.
    pub burst: u16,
    /// Watch the memory that the host gave away: queues whose entries change, buffers and PRP lists
    /// that commands in flight share or that change under them. Not seen: entries written directly
    /// after a submission queue's tail (they look like commands about to be sent), reads of
    /// memory given away, and the content of data buffers. Costs a few times the instructions.
    pub paranoid: bool,
    /// Remember what the volatile write cache holds, so that [`crate::Model::power_cut`] can lose
    /// it. For namespaces in the model's own memory; costs a copy of each write.
    pub power_cuts: bool,
    /// What chance is drawn from.
    pub seed: u64,
    /// Faults.
    pub faults: FaultPlan,
    /// Answer to an Abort.
    pub abort: AbortPolicy,
    /// Changes to identify controller before it is sent, to lie.
    pub identify_patches: Vec<Patch>,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            namespaces: Vec::new(),
            shadow_doorbells: false,
            serial: "MODEL0001".to_owned(),
            // 128 KiB with 4 KiB pages: what common drives report.
            mdts: 5,
            // As many as common drives offer.
            max_queue_entries: 1024,
            dstrd: 0,
            // A queue pair a core of a small machine, and its doorbells in half a page.
            max_io_queues: 64,
            timeout_500ms: 10,
            mpsmin: 0,
            mpsmax: 4,
            cap_override: None,
            volatile_write_cache: true,
            async_event_limit: 4,
            error_log_entries: 64,
            atomic_write_blocks: 1,
            atomic_write_blocks_power_fail: 1,
            retry_delays_100ms: [1, 5, 20],
            shutdown_limit_us: 1_000_000,
            ready_delay_ns: 0,
            not_ready_delay_ns: 0,
            shutdown_delay_ns: 0,
            latency: LatencyModel::None,
            out_of_order: false,
            // Half a typical queue: deep enough to hide the transfer of entries between cores.
            burst: 32,
            paranoid: false,
            power_cuts: false,
            seed: 1,
            faults: FaultPlan::none(),
            abort: AbortPolicy::Honest,
            identify_patches: Vec::new(),
        }
    }
}
