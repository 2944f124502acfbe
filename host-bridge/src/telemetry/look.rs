//! One look at a partition: what its region says at this moment, copied.
//!
//! The bytes are read from a descriptor that cannot write, part by part, the rings left out. Each
//! word is whole; different words are of slightly different moments. Everything in them is the
//! partition's word and is checked where it is used.

use std::os::fd::BorrowedFd;

use hybrid_abi::AbiError;
use hybrid_abi::region::{DirectoryEntry, PartKind, RegionHeader};
use hybrid_abi::state::PartitionState as StateBytes;
use hybrid_abi::tasks::{TaskFigures, name, rows};
use hybrid_abi::view::{MetricsView, REGION_HEAD_BYTES, RegionView};
use rustix::fs::fstat;
use rustix::io::{Errno, pread};
use zerocopy::FromBytes;

use core_runtime::partition::{METRICS_PART, STATE_PART, TASK_NAMES_PART, TASKS_PART};

/// More than the parts that are looked at can have; one that says more is not read.
const PART_BYTES_MAX: u64 = 16 << 20;

/// Why a look failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookError {
    /// The system.
    #[error("the region cannot be read: {0}")]
    Read(#[from] Errno),
    /// What it holds.
    #[error(transparent)]
    Abi(#[from] AbiError),
    /// A part that every partition has.
    #[error("the region has no part {0}")]
    Missing(&'static str),
}

/// What was there.
#[derive(Clone, Debug)]
pub struct Look {
    /// The region's header.
    pub header: RegionHeader,
    /// What the partition says of itself.
    pub state: StateBytes,
    metrics: Vec<u8>,
    tasks: Vec<u8>,
    names: Vec<u8>,
}

impl Look {
    /// Takes one.
    ///
    /// # Errors
    /// [`LookError`].
    pub fn take(region: BorrowedFd<'_>) -> Result<Self, LookError> {
        let len = u64::try_from(fstat(region)?.st_size).unwrap_or(0);
        let head = read(region, 0, len.min(REGION_HEAD_BYTES as u64))?;
        let view = RegionView::parse(&head, len)?;
        let part = |kind, name| -> Result<Option<Vec<u8>>, Errno> {
            let found: Option<DirectoryEntry> = view.part(kind, name);
            let found = found.filter(|entry| entry.len <= PART_BYTES_MAX);
            found.map(|entry| read(region, entry.offset, entry.len)).transpose()
        };
        let state = part(PartKind::STATE, STATE_PART)?.ok_or(LookError::Missing(STATE_PART))?;
        let state = StateBytes::read_from_prefix(&state);
        let metrics = part(PartKind::METRICS, METRICS_PART)?;
        let look = Self {
            header: *view.header(),
            state: state.map_err(|_| LookError::Missing(STATE_PART))?.0,
            metrics: metrics.ok_or(LookError::Missing(METRICS_PART))?,
            tasks: part(PartKind::TASKS, TASKS_PART)?.unwrap_or_default(),
            names: part(PartKind::TASK_NAMES, TASK_NAMES_PART)?.unwrap_or_default(),
        };
        MetricsView::parse(&look.metrics)?;
        Ok(look)
    }

    /// Its metrics.
    ///
    /// # Errors
    /// Never for a look that was taken: it was checked then.
    pub fn metrics(&self) -> Result<MetricsView<'_>, AbiError> {
        MetricsView::parse(&self.metrics)
    }

    /// Its tasks, with their names; a task without a name is called by its number.
    pub fn tasks(&self) -> impl Iterator<Item = (String, TaskFigures)> + '_ {
        rows(&self.tasks).map(|row| {
            let name = name(&self.names, row.task);
            let text = name.as_str();
            let text = if text.is_empty() { format!("#{}", row.task) } else { text.to_owned() };
            (text, row)
        })
    }

    /// Ticks of its clock as nanoseconds.
    #[must_use]
    pub fn ns(&self, ticks: u64) -> u64 {
        let ns = u128::from(ticks) * 1_000_000_000 / u128::from(self.header.tsc_hz.max(1));
        u64::try_from(ns).unwrap_or(u64::MAX)
    }
}

fn read(region: BorrowedFd<'_>, offset: u64, len: u64) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| Errno::FBIG)?];
    let mut done = 0;
    while done < bytes.len() {
        let rest = bytes.get_mut(done..).unwrap_or_default();
        match pread(region, rest, offset.saturating_add(done as u64)) {
            // Shorter than it was: not as it should be, since sizes are sealed.
            Ok(0) => return Err(Errno::NODATA),
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(bytes)
}
