//! I/O commands: those that leave the blocks as they are, and those that write the first one.

use nvme_spec::{
    Cdw12Io, Cid, DsmAttributes, Nsid, NvmOpcode, OptionalNvmCommands, Sqe, SqeFlags, Status,
    StatusCode, VolatileWriteCache,
};

use super::bare::plus;
use super::{
    Answer, DNR_SECTION, FIELD, FUSED, Known, NAMESPACE, NO_NSID, NOT_OF_ALL, OK, OPCODE,
    PRP_OFFSET, QEMU, Row, Stage, any, of, row,
};

const RANGE: Status = StatusCode::LBA_OUT_OF_RANGE.do_not_retry();

/// Bits 1:0 of PRP1 may be taken for zeros.
const DWORD: Answer = Answer::AnyOf(&[PRP_OFFSET, OK], "NVMe Base 2.0, section 4.1.1");

/// PSDT = 11b is reserved.
const RESERVED_PSDT: Answer =
    Answer::AnyOf(&[FIELD, StatusCode::INVALID_FIELD.status()], DNR_SECTION);

/// The command is advice: a device may do nothing about it, and so look at nothing.
const ADVICE: Answer = Answer::AnyOf(&[RANGE, OK], "NVM CS 1.0, section 3.2.3");

const DIFFERS: Answer = Answer::AnyOf(
    &[StatusCode::COMPARE_FAILURE.do_not_retry(), StatusCode::COMPARE_FAILURE.status()],
    DNR_SECTION,
);

const QEMUS_VERIFY: Known = Known {
    model: QEMU,
    status: OK,
    why: "it is carried out, but ONCS does not offer it (NVMe Base 2.0, section 5.17.2.1)",
};

impl Stage {
    fn offers(&self, command: OptionalNvmCommands) -> bool {
        self.id.nvm_commands().contains(command)
    }

    /// Only where the command is offered.
    fn optional(&self, command: OptionalNvmCommands, sqe: Sqe) -> Result<Sqe, &'static str> {
        Self::if_offered(self.offers(command), sqe)
    }

    /// Only where the command is not offered.
    fn missing(
        &self,
        command: OptionalNvmCommands,
        opcode: NvmOpcode,
    ) -> Result<Sqe, &'static str> {
        Self::unless_offered(self.offers(command), self.one(opcode))
    }

    /// A list of one range, `offset` bytes into the ranges.
    fn dsm(&self, offset: u64) -> Result<Sqe, &'static str> {
        let sqe = Sqe::dsm(Cid(0), self.nsid, 0, DsmAttributes::DEALLOCATE)
            .with_prps(plus(self.ranges.iova(), offset), 0);
        self.optional(OptionalNvmCommands::DATASET_MANAGEMENT, sqe)
    }
}

pub(super) const READS: &[Row] = &[
    row("read", OK, |s| Ok(s.one(NvmOpcode::READ))),
    row("read the last block", OK, |s| Ok(s.io(NvmOpcode::READ, s.space.ns.blocks() - 1, 1))),
    row("read behind the last block", RANGE, |s| Ok(s.io(NvmOpcode::READ, s.space.ns.blocks(), 1))),
    row("read block FFFFFFFFFFFFFFFFh", RANGE, |s| Ok(s.io(NvmOpcode::READ, u64::MAX, 1))),
    row("read over the end", RANGE, |s| s.over_the_end(NvmOpcode::READ)),
    row("read beyond MDTS", FIELD, |s| s.beyond_mdts(NvmOpcode::READ)),
    row("read of namespace 0", NAMESPACE, |s| Ok(of(s.one(NvmOpcode::READ), Nsid::NONE))),
    row("read of an invalid namespace", NAMESPACE, |s| Ok(of(s.one(NvmOpcode::READ), NO_NSID))),
    row("read of an inactive namespace", FIELD, |s| Ok(of(s.one(NvmOpcode::READ), s.hole()?))),
    any("read of all namespaces", NOT_OF_ALL, |s| Ok(of(s.one(NvmOpcode::READ), Nsid::ALL))),
    any("compare of all namespaces", NOT_OF_ALL, |s| {
        s.optional(OptionalNvmCommands::COMPARE, of(s.one(NvmOpcode::COMPARE), Nsid::ALL))
    }),
    // No write of all namespaces: a device that took it might do it.
    any("advice on all namespaces", NOT_OF_ALL, |s| {
        let sqe = Sqe::dsm(Cid(0), Nsid::ALL, 0, DsmAttributes::empty());
        let sqe = sqe.with_prps(plus(s.ranges.iova(), 16), 0);
        s.optional(OptionalNvmCommands::DATASET_MANAGEMENT, sqe)
    }),
    any("read with PRP1 off its dword", DWORD, |s| {
        let sqe = s.one(NvmOpcode::READ);
        Ok(sqe.with_prps(s.at(1), s.at(s.page)))
    }),
    row("read with PRP2 off its page", PRP_OFFSET, |s| Ok(s.second_entry_off(NvmOpcode::READ))),
    any("read with the reserved PSDT", RESERVED_PSDT, |s| {
        Ok(s.one(NvmOpcode::READ).with_flags(SqeFlags::SGL.union(SqeFlags::SGL_METADATA)))
    }),
    any("read as the first of a fused pair", FUSED, |s| match s.id.fuses.get() {
        0 => Ok(s.one(NvmOpcode::READ).with_flags(SqeFlags::FUSED_FIRST)),
        _ => Err("a fused operation is offered"),
    }),
    row("compare over the end", RANGE, |s| {
        s.optional(OptionalNvmCommands::COMPARE, s.over_the_end(NvmOpcode::COMPARE)?)
    }),
    row("flush", OK, |s| Ok(Sqe::flush(Cid(0), s.nsid))),
    row("flush of all namespaces", OK, |s| {
        let all = s.id.write_cache().contains(VolatileWriteCache::FLUSH_ALL);
        Stage::if_offered(all, Sqe::flush(Cid(0), Nsid::ALL))
    }),
    row("flush of namespace 0", NAMESPACE, |_| Ok(Sqe::flush(Cid(0), Nsid::NONE))),
    row("flush of an invalid namespace", NAMESPACE, |_| Ok(Sqe::flush(Cid(0), NO_NSID))),
    row("flush of an inactive namespace", FIELD, |s| Ok(Sqe::flush(Cid(0), s.hole()?))),
    row("an unknown I/O opcode", OPCODE, |s| Ok(s.one(NvmOpcode(0x3e)))),
    row("verify where it is not offered", OPCODE, |s| {
        s.missing(OptionalNvmCommands::VERIFY, NvmOpcode::VERIFY)
    })
    .known(QEMUS_VERIFY),
    row("report reservations where there are none", OPCODE, |s| {
        s.missing(OptionalNvmCommands::RESERVATIONS, NvmOpcode::RESERVATION_REPORT)
    }),
];

pub(super) const WRITES: &[Row] = &[
    row("write", OK, |s| Ok(s.one(NvmOpcode::WRITE))),
    row("compare with what was written", OK, |s| {
        s.optional(OptionalNvmCommands::COMPARE, s.one(NvmOpcode::COMPARE))
    }),
    any("compare with something else", DIFFERS, |s| {
        let sqe = s.one(NvmOpcode::COMPARE).with_prps(s.at(s.page), 0);
        s.optional(OptionalNvmCommands::COMPARE, sqe)
    }),
    row("write with FUA", OK, |s| Ok(s.one(NvmOpcode::WRITE).with_cdw(12, Cdw12Io::FUA.bits()))),
    row("write behind the last block", RANGE, |s| {
        Ok(s.io(NvmOpcode::WRITE, s.space.ns.blocks(), 1))
    }),
    row("write over the end", RANGE, |s| s.over_the_end(NvmOpcode::WRITE)),
    row("write beyond MDTS", FIELD, |s| s.beyond_mdts(NvmOpcode::WRITE)),
    row("write of namespace 0", NAMESPACE, |s| Ok(of(s.one(NvmOpcode::WRITE), Nsid::NONE))),
    row("write of an invalid namespace", NAMESPACE, |s| Ok(of(s.one(NvmOpcode::WRITE), NO_NSID))),
    row("write of an inactive namespace", FIELD, |s| Ok(of(s.one(NvmOpcode::WRITE), s.hole()?))),
    row("write with PRP2 off its page", PRP_OFFSET, |s| Ok(s.second_entry_off(NvmOpcode::WRITE))),
    row("write zeroes", OK, |s| {
        let sqe = s.one(NvmOpcode::WRITE_ZEROES).with_prps(0, 0);
        s.optional(OptionalNvmCommands::WRITE_ZEROES, sqe)
    }),
    row("write zeroes over the end", RANGE, |s| {
        let sqe = s.over_the_end(NvmOpcode::WRITE_ZEROES)?.with_prps(0, 0);
        s.optional(OptionalNvmCommands::WRITE_ZEROES, sqe)
    }),
    row("deallocate", OK, |s| s.dsm(16)),
    any("deallocate behind the last block", ADVICE, |s| s.dsm(0)),
    row("deallocate in an invalid namespace", NAMESPACE, |s| Ok(of(s.dsm(16)?, NO_NSID))),
    row("write uncorrectable where it is not offered", OPCODE, |s| {
        s.missing(OptionalNvmCommands::WRITE_UNCORRECTABLE, NvmOpcode::WRITE_UNCORRECTABLE)
    }),
    row("copy where it is not offered", OPCODE, |s| {
        s.missing(OptionalNvmCommands::COPY, NvmOpcode::COPY)
    }),
];
