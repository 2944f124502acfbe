//! What a host did wrong, as the controller saw it.
//!
//! Every mistake is kept (up to a limit) and counted; the controller goes on as a real one would,
//! with an error status, an event or CSTS.CFS. Tests end with [`crate::Model::assert_no_mistakes`].

use nvme_spec::{Cid, Nsid, QueueId};
use thiserror::Error;

/// Mistakes that are kept with their numbers; a broken host makes one a command.
const KEPT: usize = 1024;

/// Which doorbell of a queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DoorbellKind {
    /// Submission queue tail.
    SqTail,
    /// Completion queue head.
    CqHead,
}

/// Something that a host must not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum HostMistake {
    /// A register access of a wrong size or alignment, or where there is no register.
    #[error("register access of {size} bytes at {offset:#x}")]
    RegisterAccess {
        /// Offset.
        offset: u32,
        /// Size in bytes.
        size: u32,
    },
    /// A write to a register that may only be read.
    #[error("write to the read-only register at {offset:#x}")]
    ReadOnlyRegister {
        /// Offset.
        offset: u32,
    },
    /// A reserved bit of a register was set.
    #[error("register {offset:#x} written as {value:#x}, which sets reserved bits")]
    RegisterReserved {
        /// Offset.
        offset: u32,
        /// Value written.
        value: u32,
    },
    /// A field of CC that is fixed while EN = 1 was changed.
    #[error("CC changed from {old:#010x} to {new:#010x} while enabled")]
    CcChangedWhileEnabled {
        /// Before.
        old: u32,
        /// After.
        new: u32,
    },
    /// CC.EN was set while CSTS.RDY was still 1.
    #[error("CC.EN set before CSTS.RDY was 0")]
    EnabledWhileReady,
    /// CC.EN was cleared while CSTS.RDY was still 0 and the timeout had not passed.
    #[error("CC.EN cleared before CSTS.RDY was 1")]
    DisabledBeforeReady,
    /// The controller was enabled with a configuration that it cannot run.
    #[error("enabled with CC {cc:#010x}: {reason}")]
    EnableRefused {
        /// CC as written.
        cc: u32,
        /// What is wrong.
        reason: &'static str,
    },
    /// AQA, ASQ or ACQ was written while enabled.
    #[error("register {offset:#x} written while enabled")]
    AdminQueueWhileEnabled {
        /// Offset.
        offset: u32,
    },
    /// A doorbell of a queue that does not exist was written.
    #[error("{kind:?} doorbell of queue {qid}, which does not exist, written as {value:#x}")]
    DoorbellMissingQueue {
        /// Which.
        kind: DoorbellKind,
        /// Queue.
        qid: QueueId,
        /// Value.
        value: u32,
    },
    /// A doorbell was written while the controller was not ready, or one that sends commands after
    /// CC.SHN.
    #[error("{kind:?} doorbell of queue {qid} written as {value:#x} while not ready")]
    DoorbellWhileNotReady {
        /// Which.
        kind: DoorbellKind,
        /// Queue.
        qid: QueueId,
        /// Value.
        value: u32,
    },
    /// A doorbell got an index beyond its queue.
    #[error("{kind:?} doorbell of queue {qid} written as {value:#x}, the queue has {entries}")]
    DoorbellRange {
        /// Which.
        kind: DoorbellKind,
        /// Queue.
        qid: QueueId,
        /// Value.
        value: u32,
        /// Entries of the queue.
        entries: u32,
    },
    /// The tail passed the head: entries were overwritten before they were fetched.
    #[error("submission queue {qid} overrun: tail {old} to {value} with head {head}")]
    SqOverrun {
        /// Queue.
        qid: QueueId,
        /// Tail before.
        old: u32,
        /// Tail after.
        value: u32,
        /// Head.
        head: u32,
    },
    /// The head passed the tail: entries were released that had not been posted.
    #[error("completion queue {qid} head {old} to {value}, but posted only to {tail}")]
    CqHeadBeyondTail {
        /// Queue.
        qid: QueueId,
        /// Head before.
        old: u32,
        /// Head after.
        value: u32,
        /// Tail.
        tail: u32,
    },
    /// A completion queue was created over memory with phase bits set.
    #[error("completion queue {qid} created with a stale phase bit in entry {index}")]
    CqNotZeroed {
        /// Queue.
        qid: QueueId,
        /// Entry.
        index: u32,
    },
    /// An entry of a completion queue is not what the controller wrote there.
    #[error("entry {index} of completion queue {qid} was overwritten while the queue lives")]
    CqOverwritten {
        /// Queue.
        qid: QueueId,
        /// Entry.
        index: u32,
    },
    /// An entry of a submission queue changed after its doorbell, or out of turn.
    #[error("entry {index} of submission queue {qid} was overwritten while the queue lives")]
    SqOverwritten {
        /// Queue.
        qid: QueueId,
        /// Entry.
        index: u32,
    },
    /// Memory of a live queue was given to another queue, or to a command.
    #[error("memory of live queue {qid} is used by queue {with}, command {cid:?}")]
    QueueMemoryShared {
        /// Queue whose memory it is.
        qid: QueueId,
        /// Queue that is created, or that the command came on.
        with: QueueId,
        /// The command, if it is one.
        cid: Option<Cid>,
    },
    /// The PRPs of a command changed between its fetch and its end.
    #[error("command {cid} on queue {sqid}: its PRP list changed while in flight")]
    PrpsChanged {
        /// Queue.
        sqid: QueueId,
        /// Command.
        cid: Cid,
    },
    /// Memory of a live queue was unmapped.
    #[error("memory of live queue {qid} unmapped")]
    QueueUnmapped {
        /// Queue.
        qid: QueueId,
    },
    /// Memory was unmapped while a command that names it is in flight.
    #[error("memory of command {cid} on queue {sqid} unmapped while in flight")]
    UnmappedInFlight {
        /// Queue.
        sqid: QueueId,
        /// Command.
        cid: Cid,
    },
    /// A command identifier is in use already.
    #[error("cid {cid} on queue {sqid} reused while in flight")]
    CidInFlight {
        /// Queue.
        sqid: QueueId,
        /// Command.
        cid: Cid,
    },
    /// A PRP is not aligned as its place demands.
    #[error("command {cid} on queue {sqid}: PRP {prp:#x} has an offset that is not allowed")]
    PrpOffset {
        /// Queue.
        sqid: QueueId,
        /// Command.
        cid: Cid,
        /// The entry.
        prp: u64,
    },
    /// A PRP, a list or the metadata pointer names memory that is not mapped.
    #[error("command {cid} on queue {sqid}: {len} bytes at {iova:#x} are not mapped")]
    PrpUnmapped {
        /// Queue.
        sqid: QueueId,
        /// Command.
        cid: Cid,
        /// Address.
        iova: u64,
        /// Length.
        len: usize,
    },
    /// A command that reads host memory and one that writes it share it, or two write it.
    #[error("commands {first} and {second} on queue {sqid} transfer to the same memory {iova:#x}")]
    BufferShared {
        /// Queue of the second.
        sqid: QueueId,
        /// Command in flight.
        first: Cid,
        /// Command that came later.
        second: Cid,
        /// Where what both name starts.
        iova: u64,
    },
    /// A reserved field of a command was set.
    #[error("command {cid} on queue {sqid}: dword {dword} is {value:#x}, reserved bits set")]
    CommandReserved {
        /// Queue.
        sqid: QueueId,
        /// Command.
        cid: Cid,
        /// Dword.
        dword: u8,
        /// Its value.
        value: u32,
    },
    /// An opcode that is not supported.
    #[error("command {cid} on queue {sqid}: opcode {opcode:#04x} is not supported")]
    Opcode {
        /// Queue.
        sqid: QueueId,
        /// Command.
        cid: Cid,
        /// Opcode.
        opcode: u8,
    },
    /// A namespace that does not exist.
    #[error("command {cid} on queue {sqid} names namespace {nsid}, which does not exist")]
    Namespace {
        /// Queue.
        sqid: QueueId,
        /// Command.
        cid: Cid,
        /// Namespace.
        nsid: Nsid,
    },
    /// Blocks beyond the namespace's end.
    #[error("command {cid} on queue {sqid}: {blocks} blocks from {slba}, namespace has {limit}")]
    LbaRange {
        /// Queue.
        sqid: QueueId,
        /// Command.
        cid: Cid,
        /// First block.
        slba: u64,
        /// Number of blocks.
        blocks: u64,
        /// Size of the namespace.
        limit: u64,
    },
    /// A transfer beyond MDTS.
    #[error("command {cid} on queue {sqid} transfers {bytes} bytes, MDTS allows {limit}")]
    Mdts {
        /// Queue.
        sqid: QueueId,
        /// Command.
        cid: Cid,
        /// Bytes asked for.
        bytes: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// A Create Queue command that cannot be followed.
    #[error("create queue {qid}: {reason}")]
    QueueCreate {
        /// Queue.
        qid: QueueId,
        /// What is wrong.
        reason: &'static str,
    },
    /// A Delete Queue command that cannot be followed.
    #[error("delete queue {qid}: {reason}")]
    QueueDelete {
        /// Queue.
        qid: QueueId,
        /// What is wrong.
        reason: &'static str,
    },
    /// More asynchronous event requests than AERL.
    #[error("asynchronous event request {cid} is beyond the limit of {limit}")]
    AsyncEventLimit {
        /// Command.
        cid: Cid,
        /// AERL, as a count.
        limit: usize,
    },
}

/// The mistakes of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct MistakeLog {
    kept: Vec<HostMistake>,
    total: u64,
}

impl MistakeLog {
    #[cold]
    pub(crate) fn add(&mut self, mistake: HostMistake) {
        self.total += 1;
        if self.kept.len() < KEPT {
            self.kept.push(mistake);
        }
    }

    pub(crate) fn kept(&self) -> &[HostMistake] {
        &self.kept
    }

    pub(crate) const fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn take(&mut self) -> Vec<HostMistake> {
        self.total = 0;
        core::mem::take(&mut self.kept)
    }
}
