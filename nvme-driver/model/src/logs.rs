//! Log pages: errors, SMART, firmware slot, changed namespaces.

use crate::stats::ModelStats;
use nvme_spec::{
    Cid, ErrorLogEntry, FirmwareSlotLog, Lba, Nsid, QueueId, SmartLog, Status, StatusCode,
};
use std::collections::VecDeque;
use zerocopy::{FromZeros, IntoBytes};

/// Firmware revision.
pub(crate) const FIRMWARE: [u8; 8] = *b"1.0     ";
/// 512-byte units in one data unit of the SMART log.
const UNITS: u64 = 1000;
/// 27 °C.
const ROOM_TEMPERATURE_KELVIN: u16 = 300;

/// What the logs tell.
#[derive(Debug)]
pub(crate) struct Logs {
    errors: VecDeque<ErrorLogEntry>,
    capacity: usize,
    error_count: u64,
    media_errors: u64,
    pub(crate) unsafe_shutdowns: u64,
    pub(crate) critical_warning: u8,
    /// Namespaces that changed since their list was read.
    pub(crate) changed: Vec<Nsid>,
}

impl Logs {
    pub(crate) fn new(capacity: u16) -> Self {
        Self {
            errors: VecDeque::with_capacity(usize::from(capacity)),
            capacity: usize::from(capacity),
            error_count: 0,
            media_errors: 0,
            unsafe_shutdowns: 0,
            critical_warning: 0,
            changed: Vec::new(),
        }
    }

    /// Notes a failed command.
    #[cold]
    pub(crate) fn error(&mut self, sqid: QueueId, cid: Cid, status: Status, lba: Lba, nsid: Nsid) {
        self.error_count += 1;
        if matches!(status.code(), StatusCode::WRITE_FAULT | StatusCode::UNRECOVERED_READ_ERROR) {
            self.media_errors += 1;
        }
        let mut entry = ErrorLogEntry::new_zeroed();
        entry.error_count = self.error_count.into();
        entry.sqid = sqid.0.into();
        entry.cid = cid.0.into();
        entry.status_phase = (status.bits() << 1).into();
        entry.parameter_location = u16::MAX.into();
        entry.lba = lba.0.into();
        entry.nsid = nsid.0.into();
        self.errors.truncate(self.capacity.saturating_sub(1));
        self.errors.push_front(entry);
    }

    /// The changed namespace list: at most 1,024 identifiers, lowest first.
    pub(crate) fn changed_page(&self) -> Vec<u8> {
        let mut nsids: Vec<u32> = self.changed.iter().map(|nsid| nsid.0).collect();
        nsids.sort_unstable();
        nsids.dedup();
        // More than fit are said as one entry of all ones (NVMe Base 2.0, section 5.16.1.5).
        let list = if nsids.len() > 1024 { vec![u32::MAX] } else { nsids };
        let mut page: Vec<u8> = list.into_iter().flat_map(u32::to_le_bytes).collect();
        page.resize(4096, 0);
        page
    }

    /// The error log, newest first, empty entries up to its size.
    pub(crate) fn error_page(&self) -> Vec<u8> {
        let mut page: Vec<u8> =
            self.errors.iter().flat_map(|entry| entry.as_bytes()).copied().collect();
        page.resize(self.capacity * size_of::<ErrorLogEntry>(), 0);
        page
    }

    /// The SMART log.
    pub(crate) fn smart_page(&self, stats: &ModelStats) -> Vec<u8> {
        let units = |bytes: u64| u128::from((bytes / 512).div_ceil(UNITS)).into();
        let mut log = SmartLog::new_zeroed();
        log.critical_warning = self.critical_warning;
        log.temperature_kelvin = ROOM_TEMPERATURE_KELVIN.into();
        log.spare_percent = 100;
        log.spare_threshold_percent = 10;
        log.data_units_read = units(stats.bytes_read);
        log.data_units_written = units(stats.bytes_written);
        log.host_reads = u128::from(stats.reads + stats.compares).into();
        log.host_writes = u128::from(stats.writes).into();
        log.power_cycles = 1.into();
        log.unsafe_shutdowns = u128::from(self.unsafe_shutdowns).into();
        log.media_errors = u128::from(self.media_errors).into();
        log.error_log_entries = u128::from(self.error_count).into();
        log.as_bytes().to_vec()
    }
}

/// The firmware slot log: one slot, active.
pub(crate) fn firmware_page() -> Vec<u8> {
    let mut log = FirmwareSlotLog::new_zeroed();
    log.active = 1;
    log.revisions[0] = FIRMWARE;
    log.as_bytes().to_vec()
}
