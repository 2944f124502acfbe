//! Configuration of a controller, and the limits that bound it.

use crate::cid::MAX_SLOTS;
use crate::quirks::PciId;
use crate::waiters::MAX_PLACES;

/// Most I/O queue pairs: a partition is one core, and more than a few pairs only serve experiments.
pub const MAX_IO_QUEUES: u16 = 16;

/// Most namespaces kept: identify data take 4 KiB each, and drives with more are not seen.
pub const MAX_NAMESPACES: u16 = 128;

/// Largest page that we hand to a controller (CAP.MPSMIN of 4): beyond, it is refused by name.
pub const MAX_PAGE_BYTES: u64 = 64 << 10;

/// Choices for one controller. Times are nanoseconds of the partition's clock.
#[derive(Clone, Copy, Debug)]
pub struct ControllerConfig {
    /// I/O queue pairs asked for; fewer may be granted.
    pub io_queues: u16,
    /// Commands in flight on each I/O queue; the ring has one entry more. Clamped to CAP.MQES.
    pub queue_depth: u16,
    /// Requests (futures) alive on each I/O queue, waiting to be read included; 0 means twice the
    /// depth, so that a task which is slow to look at results does not idle the device.
    pub requests: u16,
    /// Futures that may wait for room at once, one for all I/O queues: one a task, as a rule. Who
    /// comes when so many wait is refused ([`crate::IoError::TooManyWaiters`]). Rounded up to a
    /// power of two.
    pub waiters: u16,
    /// Largest transfer of one command in bytes; PRP lists are sized by it. MDTS may make it less.
    pub max_transfer_bytes: u32,
    /// Namespaces kept.
    pub max_namespaces: u16,
    /// A command older than this is aborted.
    pub deadline_ns: u64,
    /// An aborted command that is still not answered after this long makes us reset its queue.
    pub abort_grace_ns: u64,
    /// How long the host has for a request that it was asked to cancel, before it is given up with
    /// all that was in flight. Only a bridge has it. There is no other storage behind that one, and
    /// a host that has died is noticed otherwise: so it is long.
    pub bridge_grace_ns: u64,
    /// An admin command older than this makes us reset the controller.
    pub admin_deadline_ns: u64,
    /// At least this long for RDY to change, whatever CAP.TO says.
    pub ready_floor_ns: u64,
    /// At most this long for RDY to change, whatever CAP.TO or CRTO say.
    pub ready_ceiling_ns: u64,
    /// At least and at most this long for an orderly shutdown, whatever RTD3E says.
    pub shutdown_floor_ns: u64,
    /// See `shutdown_floor_ns`.
    pub shutdown_ceiling_ns: u64,
    /// How long an orderly shutdown waits for commands in flight.
    pub drain_ns: u64,
    /// From the wish for a shutdown to its end, whatever it meets on the way (a bring-up that is
    /// under way, queues that are not deleted, RDY that does not fall): every wait ends then. Below
    /// what a supervisor gives a partition to end, so that one that is orderly is never killed.
    pub shutdown_total_ns: u64,
    /// One command in so many has its latency recorded; 0 turns it off, 1 records all.
    pub latency_sampling: u32,
    /// After a batch of so many commands the next ones are written past the caches, which is faster
    /// against a controller that polls on another core; on a drive it was not measured. 0 is never.
    pub stream_from: u16,
    /// Shadow doorbells where the controller offers them (OACS bit 8).
    pub shadow_doorbells: bool,
    /// Tries after the first for a command that failed without DNR.
    pub retries: u8,
    /// Asynchronous event requests kept outstanding, at most 8 (AERL may make it fewer).
    pub async_events: u8,
    /// Asynchronous events taken per second before we stop asking for more until the next second.
    pub events_per_second: u32,
    /// Bring-ups that may fail in a row before the controller is given up.
    pub bringup_attempts: u8,
    /// Stray completions within a second that make us reset the controller.
    pub rogue_threshold: u32,
    /// How often CSTS is looked at.
    pub health_ns: u64,
    /// PCI ids, where known, for the quirk table.
    pub pci_id: Option<PciId>,
}

impl Default for ControllerConfig {
    fn default() -> Self {
        const MS: u64 = 1_000_000;
        Self {
            io_queues: 1,
            queue_depth: 255,
            requests: 0,
            // As many as a scheduler has tasks by default.
            waiters: 512,
            // 128 list entries, 1 KiB of list a slot.
            max_transfer_bytes: 512 << 10,
            max_namespaces: 16,
            deadline_ns: 5_000 * MS,
            abort_grace_ns: 1_000 * MS,
            bridge_grace_ns: 5_000 * MS,
            // With a reset after it an admin command that hangs costs less than 5 s.
            admin_deadline_ns: 2_000 * MS,
            // CAP.TO of 0 occurs in controllers that are not that fast.
            ready_floor_ns: 2_000 * MS,
            // CRTO can say nine hours; CAP.TO at most 127.5 s.
            ready_ceiling_ns: 30_000 * MS,
            shutdown_floor_ns: 1_000 * MS,
            shutdown_ceiling_ns: 10_000 * MS,
            drain_ns: 2_000 * MS,
            // The drain, the longest RTD3E that is waited for, and 2 s for the rest.
            shutdown_total_ns: 14_000 * MS,
            latency_sampling: 64,
            // One entry alone takes longer that way, 32 together less than half as long. Where
            // between the two it turns was not measured in the driver.
            stream_from: 4,
            shadow_doorbells: true,
            retries: 3,
            async_events: 4,
            events_per_second: 16,
            bringup_attempts: 3,
            rogue_threshold: 16,
            health_ns: 10 * MS,
            pci_id: None,
        }
    }
}

impl ControllerConfig {
    /// What is wrong with it, if anything.
    pub(crate) const fn check(&self) -> Result<(), &'static str> {
        if self.io_queues == 0 || self.io_queues > MAX_IO_QUEUES {
            return Err("io_queues must be 1 to 16");
        }
        if self.queue_depth == 0 || self.queue_depth > MAX_SLOTS {
            return Err("queue_depth must be 1 to 4095");
        }
        if self.max_namespaces == 0 || self.max_namespaces > MAX_NAMESPACES {
            return Err("max_namespaces must be 1 to 128");
        }
        if self.max_transfer_bytes < 4096 || self.max_transfer_bytes > 32 << 20 {
            return Err("max_transfer_bytes must be 4 KiB to 32 MiB");
        }
        if self.deadline_ns == 0 || self.admin_deadline_ns == 0 || self.health_ns == 0 {
            return Err("deadlines and the health period must not be 0");
        }
        if self.waiters == 0 || self.waiters > MAX_PLACES {
            return Err("waiters must be 1 to 32768");
        }
        if self.bringup_attempts == 0 {
            return Err("bringup_attempts must be at least 1");
        }
        Ok(())
    }
}
