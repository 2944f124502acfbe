//! Opening a log in one step, for an engine whose state is what its records say.
//!
//! The steps are all public: who has snapshots, reads from elsewhere than the front, or runs the
//! log in a loop of its own takes them one by one.

use core_runtime::partition::Partition;
use core_runtime::task::TaskOptions;
use hybrid_abi::journal::RecordView;
use nvme_driver::Device;
use nvme_driver::spec::Nsid;

use crate::cursor::{Cursor, Seek};
use crate::error::JournalError;
use crate::format::{FormatOptions, format};
use crate::limits::Limits;
use crate::log::{Journal, JournalParts};
use crate::medium::DeviceMedium;
use crate::recover::{From, recover, take_over};

/// How a log is opened.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// The namespace that it fills; a device that the host drives has one, whatever the number.
    pub nsid: Nsid,
    /// The log that is made where there is nothing; without it that is an error.
    pub make: Option<FormatOptions>,
    /// Bounds of what may wait.
    pub limits: Limits,
    /// The task that runs the log; its class is what its I/O is worth.
    pub task: TaskOptions,
    /// Bytes read at once meanwhile: at least a batch.
    pub read_bytes: usize,
}

impl Default for OpenOptions {
    /// Namespace 1, nothing made, the usual limits, a task of the normal class, a mebibyte.
    fn default() -> Self {
        Self {
            nsid: Nsid(1),
            make: None,
            limits: Limits::default(),
            task: TaskOptions::normal("log"),
            read_bytes: 1 << 20,
        }
    }
}

/// Opens the log on a device that is ready: finds its end, gives `apply` every record in order,
/// takes the log over, and starts the task that runs it. When this returns, what was applied is
/// durable, and the log takes records.
///
/// # Errors
/// [`JournalError`]: a log that is damaged, by its place; a device without one, unless it is to be
/// made. What was applied before an error is the state of nothing.
pub async fn open(
    here: &'static Partition,
    device: Device,
    options: &OpenOptions,
    mut apply: impl FnMut(&RecordView<'_>),
) -> Result<&'static Journal, JournalError> {
    let OpenOptions { nsid, make, limits, task, read_bytes } = *options;
    let block = device.block_device(nsid).ok_or(JournalError::NoNamespace(nsid.0))?;
    let (arena, promise) = (here.arena(), DeviceMedium::promise_of(block, device.controller()));
    let mut medium = DeviceMedium::new(block, promise, arena, read_bytes)?;
    let mut found = recover(&mut medium, From::Checkpoint).await;
    if let (Err(JournalError::Empty), Some(make)) = (&found, &make) {
        format(&mut medium, make).await?;
        found = recover(&mut medium, From::Checkpoint).await;
    }
    let found = found?;
    let mut cursor = Cursor::open(&mut medium, &found, Seek::Front).await?;
    while cursor.advance(&mut medium, &mut apply).await? {}
    let superblock = take_over(&mut medium, &found).await?;
    let parts = JournalParts { device: block, promise, arena, superblock, limits };
    let log = Journal::new(parts, here.bump())?;
    let run = async move {
        // Whoever appends or waits hears of its end.
        let _ = log.run().await;
    };
    let spawned = here.spawner().spawn(task, run);
    spawned.map_err(|_| JournalError::Memory("the task that runs it"))?.detach();
    Ok(log)
}
