//! The faults by name: which row of `docs/faults.md` each one is, when it strikes, what is done.
//!
//! A [`Fault`] is a name, a number and a choice: `phase-stuck` on the 1,234th command that the
//! controller fetches from its I/O queues. The choice decides what the name leaves open (which bit,
//! how long). Faults say nothing of blocks or tasks, so that a run without one of them is still a
//! run: that is what lets a failing one be made smaller.

use nvme_model::{ControllerFault, CqeFault, DataFault, FaultAction};
use nvme_spec::{AsyncEvent, AsyncEventType, LogPageId, Status, StatusCode};

/// What counts until a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trigger {
    /// Commands fetched from I/O queues.
    Io,
    /// Commands fetched from the admin queue.
    Admin,
    /// Operations of the host, sent or left out.
    Op,
    /// Requests that the host's kernel was sent over the bridge, while it is the fallback.
    Kernel,
}

/// What a fault of the host's or of the world does; the controller's are [`FaultAction`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum World {
    /// The clock jumps ahead.
    Jump,
    /// The clock stands still for a while.
    Still,
    /// Somebody asks for a controller reset.
    Reset,
    /// An orderly shutdown, and a new partition after it.
    Shutdown,
    /// The partition dies, somewhere in its work.
    Crash,
    /// It dies, and its device cannot be had for a while.
    Held,
    /// It dies, and cannot be started a few times.
    Refused,
    /// It makes no pass any more.
    Hang,
    /// Its process is stopped for a while (SIGSTOP).
    Stop,
    /// The host is stopped for a while.
    HostStop,
    /// The host dies, and its partition with it.
    HostCrash,
    /// The partition is asked to end, and started again.
    Restart,
    /// The function is taken away: its registers are gone, and nobody has it for a while.
    Unbind,
    /// A register is not there any more (SIGBUS).
    RegistersGone,
    /// The queues cannot be reached through the IOMMU for a moment.
    IommuFault,
    /// The namespace says that it is smaller, for a while.
    Resize,
    /// The power goes.
    PowerCut,
    /// A register is not answered, a few times in a row.
    Silence,
    /// Aborts are refused or lied about for a while.
    Abort,
    /// CSTS.RDY does not fall any more, and a reset or a shutdown needs it to.
    NeverNotReady,
}

/// What the host's kernel does to a request of the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KernelFault {
    /// An error, before it was carried out or after.
    Error,
    /// No answer until it is cancelled.
    Silent,
    /// No answer to anything any more.
    Gone,
    /// It was cancelled, before it was carried out or after: no fault of the catalogue.
    Cancelled,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    Device(FaultAction),
    World(World),
    Kernel(KernelFault),
}

impl World {
    /// Whether it is the controller's, so that it waits while the kernel has the device.
    pub(crate) const fn needs_controller(self) -> bool {
        matches!(
            self,
            Self::Reset
                | Self::Silence
                | Self::Abort
                | Self::Unbind
                | Self::RegistersGone
                | Self::IommuFault
                | Self::Resize
                | Self::NeverNotReady
        )
    }
}

/// How often a fault is drawn, relative to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    /// Costs the run hardly anything.
    Often,
    /// Costs a command its deadline, or a queue its reset.
    Seldom,
    /// Costs a controller reset or a partition.
    Rarely,
}

/// One kind of fault.
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    /// Its row in the catalogue.
    pub row: u8,
    /// What counts until it strikes.
    pub trigger: Trigger,
    pub(crate) weight: Weight,
    make: fn(u64) -> Deed,
}

impl core::fmt::Debug for Kind {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name)
    }
}

const fn kind(
    name: &'static str,
    row: u8,
    trigger: Trigger,
    weight: Weight,
    make: fn(u64) -> Deed,
) -> Kind {
    Kind { name, row, trigger, weight, make }
}

const fn cqe(fault: CqeFault) -> Deed {
    Deed::Device(FaultAction::Cqe(fault))
}

const fn data(fault: DataFault) -> Deed {
    Deed::Device(FaultAction::Data(fault))
}

const fn controller(fault: ControllerFault) -> Deed {
    Deed::Device(FaultAction::Controller(fault))
}

const fn status(status: Status) -> Deed {
    Deed::Device(FaultAction::Status(status))
}

fn below(choice: u64, bound: u64) -> u64 {
    choice % bound
}

fn bits(choice: u64, mask: u16) -> u16 {
    // Low bits: all of them are as good as random.
    let bits = u16::try_from(choice & 0xffff).unwrap_or(0) & mask;
    if bits == 0 { mask & mask.wrapping_neg() } else { bits }
}

/// CID bits that name a slot in the deepest queue of a run; the others are its generation.
pub(crate) const SLOT_BITS: u16 = 0x3f;

/// All 24 orders of the four words of a completion, by number.
fn order(choice: u64) -> [u8; 4] {
    let mut left = vec![0_u8, 1, 2, 3];
    let mut rest = usize::try_from(choice % 24).unwrap_or(0);
    let mut order = [0; 4];
    for (place, radix) in order.iter_mut().zip([6, 2, 1, 1]) {
        *place = left.remove(rest / radix);
        rest %= radix;
    }
    order
}

use Trigger::{Admin, Io, Kernel, Op};
use Weight::{Often, Rarely, Seldom};

const US: u64 = 1_000;
const MS: u64 = 1_000 * US;

/// All of them, in the order of their rows.
pub static CATALOGUE: &[Kind] = &[
    // Slot bits all set: beyond the slots of every queue whose depth is no power of two.
    kind("cid-beyond", 1, Io, Often, |_| cqe(CqeFault::Extra(SLOT_BITS))),
    kind("cid-free-or-old", 2, Io, Often, |c| cqe(CqeFault::Extra(bits(c, !0)))),
    kind("cid-old-generation", 3, Io, Often, |c| cqe(CqeFault::Extra(bits(c, !SLOT_BITS)))),
    kind("cid-lost", 3, Io, Seldom, |c| cqe(CqeFault::WrongCid(bits(c, !SLOT_BITS)))),
    kind("cqe-twice", 4, Io, Often, |_| cqe(CqeFault::Twice)),
    kind("cid-of-another", 5, Io, Seldom, |c| cqe(CqeFault::WrongCid(bits(c, SLOT_BITS)))),
    kind("sqid-foreign", 6, Io, Seldom, |c| cqe(CqeFault::WrongSqid(2 + bits(c, 0xff)))),
    kind("sqhd-lies", 7, Io, Often, |c| cqe(CqeFault::WrongSqhd(bits(c, !0)))),
    kind("phase-early", 8, Io, Seldom, |_| cqe(CqeFault::PhaseEarly)),
    kind("phase-stuck", 9, Io, Seldom, |_| cqe(CqeFault::PhaseStuck)),
    kind("words-in-any-order", 10, Io, Often, |c| cqe(CqeFault::Order(order(c)))),
    kind("cq-overrun", 11, Io, Seldom, |_| cqe(CqeFault::Overrun)),
    kind("status-retry", 12, Io, Often, |_| status(StatusCode::NAMESPACE_NOT_READY.status())),
    kind("status-retry-later", 12, Io, Often, |c| {
        let crd = u8::try_from(1 + below(c, 3)).unwrap_or(1);
        status(StatusCode::NAMESPACE_NOT_READY.status().with_crd(crd))
    }),
    kind("status-after", 12, Io, Often, |_| {
        Deed::Device(FaultAction::StatusAfter(StatusCode::INTERNAL_ERROR.status()))
    }),
    kind("media-error", 13, Io, Often, |_| {
        status(StatusCode::UNRECOVERED_READ_ERROR.do_not_retry())
    }),
    kind("write-fault", 14, Io, Often, |_| status(StatusCode::WRITE_FAULT.status())),
    kind("capacity-exceeded", 14, Io, Often, |_| status(StatusCode::CAPACITY_EXCEEDED.status())),
    kind("command-dropped", 21, Io, Seldom, |_| Deed::Device(FaultAction::Drop)),
    kind("command-delayed", 37, Io, Often, |c| {
        Deed::Device(FaultAction::DelayNs(10 * US + below(c, 2_000) * US))
    }),
    kind("event-unknown", 18, Io, Often, |c| {
        let info = u8::try_from(below(c, 256)).unwrap_or(0);
        let event = AsyncEvent::new(AsyncEventType(bits8(c >> 8, 7)), info, LogPageId::ERROR);
        controller(ControllerFault::EventStorm(event, 1))
    }),
    kind("event-storm", 18, Io, Seldom, |c| {
        let count = u32::try_from(20 + below(c, 100)).unwrap_or(20);
        controller(ControllerFault::EventStorm(AsyncEvent::SMART_TEMPERATURE, count))
    }),
    kind("smart-warning", 19, Io, Often, |_| {
        controller(ControllerFault::Event(AsyncEvent::SMART_RELIABILITY))
    }),
    kind("event-invalid-doorbell", 20, Io, Rarely, |_| {
        controller(ControllerFault::Event(AsyncEvent::INVALID_DOORBELL_VALUE))
    }),
    kind("abort-refused", 21, Op, Seldom, |_| Deed::World(World::Abort)),
    kind("never-ready", 23, Io, Rarely, |_| controller(ControllerFault::NeverReady)),
    kind("never-not-ready", 23, Op, Rarely, |_| Deed::World(World::NeverNotReady)),
    kind("fatal", 25, Io, Rarely, |_| controller(ControllerFault::Fatal)),
    kind("all-ones", 26, Io, Rarely, |_| controller(ControllerFault::AllOnes)),
    kind("all-zeros", 27, Io, Rarely, |_| controller(ControllerFault::AllZeros)),
    kind("registers-gone", 28, Op, Rarely, |_| Deed::World(World::RegistersGone)),
    kind("subsystem-reset", 29, Io, Rarely, |_| controller(ControllerFault::SubsystemReset)),
    kind("admin-fatal", 30, Admin, Rarely, |_| controller(ControllerFault::Fatal)),
    kind("admin-status", 35, Admin, Seldom, |_| status(StatusCode::INTERNAL_ERROR.status())),
    kind("admin-dropped", 36, Admin, Seldom, |_| Deed::Device(FaultAction::Drop)),
    kind("pause", 37, Io, Seldom, |c| controller(ControllerFault::PauseNs(MS + below(c, 10) * MS))),
    kind("never-shut-down", 38, Io, Rarely, |_| controller(ControllerFault::NeverShutDown)),
    kind("transfer-error", 40, Io, Often, |_| status(StatusCode::DATA_TRANSFER_ERROR.status())),
    kind("iommu-fault", 41, Op, Rarely, |_| Deed::World(World::IommuFault)),
    kind("data-nothing", 43, Io, Often, |_| data(DataFault::Nothing)),
    kind("data-half", 43, Io, Often, |_| data(DataFault::Half)),
    kind("data-wrong-lba", 44, Io, Often, |c| {
        let far = i64::try_from(1 + below(c, 64)).unwrap_or(1);
        data(DataFault::WrongLba(if c & 1 << 40 == 0 { far } else { -far }))
    }),
    kind("data-bit-flip", 45, Io, Often, |_| data(DataFault::BitFlip)),
    kind("namespace-resized", 50, Op, Rarely, |_| Deed::World(World::Resize)),
    kind("protection-error", 51, Io, Often, |c| {
        let codes = [StatusCode::GUARD_CHECK, StatusCode::APPTAG_CHECK, StatusCode::REFTAG_CHECK];
        status(codes[usize::try_from(below(c, 3)).unwrap_or(0)].do_not_retry())
    }),
    kind("reset-asked-for", 56, Op, Rarely, |_| Deed::World(World::Reset)),
    kind("shutdown", 52, Op, Rarely, |_| Deed::World(World::Shutdown)),
    kind("restart-asked-for", 52, Op, Rarely, |_| Deed::World(World::Restart)),
    kind("unbound", 53, Op, Rarely, |_| Deed::World(World::Unbind)),
    kind("group-busy", 57, Op, Rarely, |_| Deed::World(World::Held)),
    kind("start-refused", 58, Op, Rarely, |_| Deed::World(World::Refused)),
    kind("kernel-error", 59, Kernel, Seldom, |_| Deed::Kernel(KernelFault::Error)),
    kind("kernel-silent", 59, Kernel, Seldom, |_| Deed::Kernel(KernelFault::Silent)),
    kind("kernel-gone", 59, Kernel, Rarely, |_| Deed::Kernel(KernelFault::Gone)),
    kind("clock-jumps", 61, Op, Seldom, |_| Deed::World(World::Jump)),
    kind("clock-stops", 61, Op, Seldom, |_| Deed::World(World::Still)),
    kind("power-cut", 62, Op, Rarely, |_| Deed::World(World::PowerCut)),
    kind("partition-killed", 63, Op, Rarely, |_| Deed::World(World::Crash)),
    kind("partition-hangs", 63, Op, Rarely, |_| Deed::World(World::Hang)),
    kind("host-killed", 64, Op, Rarely, |_| Deed::World(World::HostCrash)),
    kind("host-stopped", 65, Op, Seldom, |_| Deed::World(World::HostStop)),
    kind("partition-stopped", 65, Op, Seldom, |_| Deed::World(World::Stop)),
    kind("registers-silent", 66, Op, Seldom, |_| Deed::World(World::Silence)),
];

fn bits8(choice: u64, mask: u8) -> u8 {
    u8::try_from(choice & 0xff).unwrap_or(0) & mask
}

/// The place of a fault in the [`CATALOGUE`] by its name.
#[must_use]
pub fn find(name: &str) -> Option<usize> {
    CATALOGUE.iter().position(|kind| kind.name == name)
}

/// A fault of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The count at which it strikes, from 1.
    pub at: u64,
    /// Its kind, an index in the [`CATALOGUE`].
    pub kind: usize,
    /// What decides what the name leaves open.
    pub choice: u64,
}

impl Fault {
    /// Its kind.
    ///
    /// # Panics
    /// If the index is not one of the catalogue's.
    #[must_use]
    pub fn kind(&self) -> &'static Kind {
        &CATALOGUE[self.kind]
    }

    pub(crate) fn deed(&self) -> Deed {
        (self.kind().make)(self.choice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_found() {
        let names: BTreeSet<_> = CATALOGUE.iter().map(|kind| kind.name).collect();
        assert_eq!(names.len(), CATALOGUE.len());
        assert_eq!(find("fatal").map(|at| CATALOGUE[at].row), Some(25));
        assert_eq!(find("no such"), None);
    }

    #[test]
    fn all_orders_of_four_words_are_reached() {
        let orders: BTreeSet<_> = (0..24).map(order).collect();
        assert_eq!(orders.len(), 24);
        for order in orders {
            assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), 4);
        }
    }
}
