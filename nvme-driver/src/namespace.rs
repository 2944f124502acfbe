//! A namespace: what users read and write.
//!
//! Handed out by [`crate::Controller`]; lives as long as the partition. Requests are checked
//! against the namespace's shape here, once, and cut at the largest transfer below. Addresses are
//! [`Lba`] in blocks of [`Namespace::lba_bytes`]; buffers are whole blocks.

use core::cell::{Cell, RefCell};
use core::mem::offset_of;
use core::ops::Range;

use bitflags::bitflags;
use core_runtime::mem::{DmaBuf, Iova};
use nvme_spec::{
    Cdw12Io, Cid, DsmAttributes, DsmRange, IdentifyNamespace, Lba, MAX_DSM_RANGES, Nsid, NvmOpcode,
    OptionalNvmCommands, Sqe, Status,
};
use zerocopy::IntoBytes;

use crate::error::{Failed, IoError};
use crate::future::{CommandFuture, Io, IoFuture};
use crate::hub::Hub;
use crate::raw::Target;
use crate::request::{Request, Retry};
use crate::shape::{Refusal, Shape};
use crate::split::Split;

bitflags! {
    /// Options of a write.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct WriteFlags: u8 {
        /// Force unit access: the blocks are on the medium when the write completes, where the
        /// device honours it.
        const FUA = 1 << 0;
    }
}

/// Blocks that one Write Zeroes covers at most: NLB is a 16-bit field counted from 0.
const MAX_ZERO_BLOCKS: u32 = 1 << 16;

/// Where Identify Namespace has NGUID and EUI64, one after the other.
const IDENTITY: Range<usize> =
    offset_of!(IdentifyNamespace, nguid)..offset_of!(IdentifyNamespace, eui64) + 8;

/// State of a namespace's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The place is not used.
    Vacant,
    /// Usable.
    Usable(Shape),
    /// Was usable with this shape, and Identify failed with this status since: usable again once
    /// it says the same as before.
    Unknown(Shape, Status),
    /// Known and refused.
    Refused(Refusal),
}

/// A namespace. Belongs to one core.
#[derive(Debug)]
pub struct Namespace {
    hub: &'static Hub,
    nsid: Cell<u32>,
    standing: Cell<Standing>,
    /// It was there in this bring-up.
    pub(crate) seen: Cell<bool>,
    raw: RefCell<[u8; 4096]>,
}

impl Namespace {
    pub(crate) const fn vacant(hub: &'static Hub) -> Self {
        Self {
            hub,
            nsid: Cell::new(0),
            standing: Cell::new(Standing::Vacant),
            seen: Cell::new(false),
            raw: RefCell::new([0; 4096]),
        }
    }

    /// Fills the place, or compares what is said now with what was said before a reset.
    pub(crate) fn fill(&self, nsid: u32, checked: Result<Shape, Refusal>, raw: &[u8; 4096]) {
        let now = match checked {
            Ok(shape) => Standing::Usable(shape),
            Err(refusal) => Standing::Refused(refusal),
        };
        let next = match (self.standing.get(), now) {
            (
                before @ (Standing::Usable(shape) | Standing::Unknown(shape, _)),
                Standing::Refused(Refusal::Unidentified(status)),
            ) => {
                // Nothing was said of it: what it was stays, for the next bring-up to compare.
                if before == Standing::Usable(shape) {
                    self.hub.namespace_changed();
                }
                self.standing.set(Standing::Unknown(shape, status));
                return;
            }
            (Standing::Usable(before) | Standing::Unknown(before, _), _)
                if now != Standing::Usable(before) || !self.is_the_same(raw) =>
            {
                self.hub.namespace_changed();
                Standing::Refused(Refusal::Changed)
            }
            // For ever: handles to the old shape are still about.
            (Standing::Refused(Refusal::Changed), _) => Standing::Refused(Refusal::Changed),
            _ => now,
        };
        self.nsid.set(nsid);
        self.standing.set(next);
        if let Ok(mut kept) = self.raw.try_borrow_mut() {
            kept.copy_from_slice(raw);
        }
    }

    /// Whether NGUID and EUI64 are those that were there before.
    fn is_the_same(&self, raw: &[u8; 4096]) -> bool {
        let was = self.raw.try_borrow();
        was.is_ok_and(|was| was[IDENTITY] == raw[IDENTITY])
    }

    /// The namespace is not there any more.
    pub(crate) fn lose(&self) {
        if matches!(self.standing.get(), Standing::Usable(_)) {
            self.hub.namespace_changed();
        }
        if self.standing.get() != Standing::Vacant {
            self.standing.set(Standing::Refused(Refusal::Changed));
        }
    }

    /// It was usable before this bring-up, or might be again.
    pub(crate) fn was_usable(&self) -> bool {
        matches!(self.standing.get(), Standing::Usable(_) | Standing::Unknown(..))
    }

    pub(crate) fn standing(&self) -> Standing {
        self.standing.get()
    }

    #[inline(always)]
    fn shape(&self) -> Result<Shape, IoError> {
        match self.standing.get() {
            Standing::Usable(shape) => Ok(shape),
            _ => Err(IoError::NamespaceChanged(self.nsid())),
        }
    }

    /// Namespace identifier.
    #[must_use]
    pub fn nsid(&self) -> Nsid {
        Nsid(self.nsid.get())
    }

    /// Why the namespace cannot be used; `None` if it can.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        match self.standing.get() {
            Standing::Refused(refusal) => Some(refusal),
            Standing::Unknown(_, status) => Some(Refusal::Unidentified(status)),
            Standing::Usable(_) | Standing::Vacant => None,
        }
    }

    /// Block size in bytes; 0 if the namespace is refused.
    #[must_use]
    pub fn lba_bytes(&self) -> u32 {
        self.shape().map_or(0, |shape| shape.lba_bytes)
    }

    /// Size in blocks; 0 if the namespace is refused.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.shape().map_or(0, |shape| shape.blocks)
    }

    /// Largest transfer of one command in bytes; larger requests are cut.
    #[must_use]
    pub fn max_transfer_bytes(&self) -> u32 {
        self.shape().map_or(0, |shape| shape.max_blocks << shape.lba_shift)
    }

    /// The 4,096 bytes that Identify Namespace returned.
    #[must_use]
    pub fn identify_bytes(&self) -> [u8; 4096] {
        *self.raw.borrow()
    }

    // ---- I/O -------------------------------------------------------------------------------

    /// Reads `buf.len()` bytes from block `slba`.
    ///
    /// The future's output is the buffer. Waits for room if the queue is full.
    #[inline]
    pub fn read(&'static self, slba: Lba, buf: DmaBuf) -> IoFuture {
        self.transfer(NvmOpcode::READ, slba, buf, 0)
    }

    /// Writes `buf.len()` bytes to block `slba`.
    #[inline]
    pub fn write(&'static self, slba: Lba, buf: DmaBuf, flags: WriteFlags) -> IoFuture {
        self.transfer(NvmOpcode::WRITE, slba, buf, write_bits(flags))
    }

    /// Compares `buf` with the blocks from `slba`; a difference is the status `COMPARE_FAILURE`.
    /// A buffer above [`Namespace::max_transfer_bytes`] is compared in several commands.
    pub fn compare(&'static self, slba: Lba, buf: DmaBuf) -> IoFuture {
        if !self.offers(OptionalNvmCommands::COMPARE) {
            let error = IoError::Unsupported("compare");
            return IoFuture(Io::refused(self.hub, error, Some(buf)));
        }
        self.transfer(NvmOpcode::COMPARE, slba, buf, 0)
    }

    /// Like [`Namespace::read`], but does not wait for room.
    ///
    /// # Errors
    /// [`IoError::QueueFull`], or why the request is refused; the buffer comes back.
    #[inline]
    pub fn try_read(&'static self, slba: Lba, buf: DmaBuf) -> Result<IoFuture, Failed> {
        self.try_transfer(NvmOpcode::READ, slba, buf, 0)
    }

    /// Like [`Namespace::write`], but does not wait for room.
    ///
    /// # Errors
    /// As for [`Namespace::try_read`].
    #[inline]
    pub fn try_write(
        &'static self,
        slba: Lba,
        buf: DmaBuf,
        flags: WriteFlags,
    ) -> Result<IoFuture, Failed> {
        self.try_transfer(NvmOpcode::WRITE, slba, buf, write_bits(flags))
    }

    /// Like [`Namespace::compare`], but does not wait for room.
    ///
    /// # Errors
    /// As for [`Namespace::try_read`].
    pub fn try_compare(&'static self, slba: Lba, buf: DmaBuf) -> Result<IoFuture, Failed> {
        if !self.offers(OptionalNvmCommands::COMPARE) {
            return Err(Failed { error: IoError::Unsupported("compare"), buf: Some(buf) });
        }
        self.try_transfer(NvmOpcode::COMPARE, slba, buf, 0)
    }

    /// Makes durable what was written and completed before. Done at once where the controller has
    /// no volatile write cache. A flush that fails is never repeated: everything written since the
    /// last good one is unknown.
    pub fn flush(&'static self) -> CommandFuture {
        self.flush_request().map_or(CommandFuture(None), |request| self.command(request))
    }

    /// Like [`Namespace::flush`], but does not wait for room.
    ///
    /// # Errors
    /// [`IoError::QueueFull`], or why the request is refused.
    pub fn try_flush(&'static self) -> Result<CommandFuture, IoError> {
        self.flush_request()
            .map_or(Ok(CommandFuture(None)), |request| self.try_command(request, None))
    }

    fn flush_request(&self) -> Option<Request> {
        let sqe = Sqe::flush(Cid(0), self.nsid());
        let cached = self.hub.offers.get().write_cache;
        cached.then(|| Request::single(sqe, Iova(0), 0, Retry::Never))
    }

    /// Sets `nlb` blocks from `slba` to zero, without a transfer.
    pub fn write_zeroes(&'static self, slba: Lba, nlb: u64, flags: WriteFlags) -> CommandFuture {
        match self.zeroes_request(slba, nlb, flags) {
            Ok(request) => self.command(request),
            Err(error) => self.refuse(error),
        }
    }

    /// Like [`Namespace::write_zeroes`], but does not wait for room.
    ///
    /// # Errors
    /// As for [`Namespace::try_flush`].
    pub fn try_write_zeroes(
        &'static self,
        slba: Lba,
        nlb: u64,
        flags: WriteFlags,
    ) -> Result<CommandFuture, IoError> {
        self.try_command(self.zeroes_request(slba, nlb, flags)?, None)
    }

    fn zeroes_request(&self, slba: Lba, nlb: u64, flags: WriteFlags) -> Result<Request, IoError> {
        let shape = self.shape()?;
        if !self.offers(OptionalNvmCommands::WRITE_ZEROES) {
            return Err(IoError::Unsupported("write zeroes"));
        }
        let blocks = check_range(shape, slba, nlb)?;
        Ok(Request {
            head: self.head(NvmOpcode::WRITE_ZEROES),
            cdw12: write_bits(flags),
            iova: Iova(0),
            unit_bytes: 0,
            slba: slba.0,
            split: Split { nlb: blocks, max: MAX_ZERO_BLOCKS },
            retry: Retry::Allowed,
        })
    }

    /// Dataset management: tells the device about up to 256 ranges, such as that they are not
    /// needed any more.
    pub fn dsm(&'static self, ranges: &[DsmRange], attributes: DsmAttributes) -> CommandFuture {
        match self.dsm_request(ranges, attributes) {
            Ok((request, buf)) => CommandFuture(Some(Io::start(self.hub, request, Some(buf)))),
            Err(error) => self.refuse(error),
        }
    }

    /// Like [`Namespace::dsm`], but does not wait for room.
    ///
    /// # Errors
    /// As for [`Namespace::try_flush`].
    pub fn try_dsm(
        &'static self,
        ranges: &[DsmRange],
        attributes: DsmAttributes,
    ) -> Result<CommandFuture, IoError> {
        let (request, buf) = self.dsm_request(ranges, attributes)?;
        self.try_command(request, Some(buf))
    }

    /// Deallocates `nlb` blocks from `slba`.
    pub fn deallocate(&'static self, slba: Lba, nlb: u32) -> CommandFuture {
        let range = DsmRange { attributes: 0, blocks: nlb, slba: slba.0 };
        self.dsm(&[range], DsmAttributes::DEALLOCATE)
    }

    fn dsm_request(
        &self,
        ranges: &[DsmRange],
        attributes: DsmAttributes,
    ) -> Result<(Request, DmaBuf), IoError> {
        let shape = self.shape()?;
        if !self.offers(OptionalNvmCommands::DATASET_MANAGEMENT) {
            return Err(IoError::Unsupported("dataset management"));
        }
        let bytes = ranges.as_bytes();
        if ranges.is_empty() || ranges.len() > MAX_DSM_RANGES {
            return Err(IoError::BadLength { len_bytes: bytes.len(), lba_bytes: shape.lba_bytes });
        }
        for range in ranges {
            check_range(shape, Lba(range.slba), u64::from(range.blocks))?;
        }
        let mut buf = self.hub.arena.alloc(bytes.len()).map_err(|_| IoError::NoMemory)?;
        buf.as_mut_slice().copy_from_slice(bytes);
        let count_z = u8::try_from(ranges.len() - 1).map_err(|_| IoError::NoMemory)?;
        let sqe = Sqe::dsm(Cid(0), self.nsid(), count_z, attributes);
        let len = u32::try_from(bytes.len()).map_err(|_| IoError::NoMemory)?;
        let request = Request::single(sqe, buf.iova(), len, Retry::Allowed);
        Ok((request, buf))
    }

    /// What raw submissions on this namespace need ([`crate::RawQueue`]).
    ///
    /// # Errors
    /// [`IoError::NamespaceChanged`] if it cannot be used.
    pub fn target(&self) -> Result<Target, IoError> {
        let shape = self.shape()?;
        Ok(Target::new(self.nsid(), shape, self.hub.generation.get()))
    }

    // ---- helpers ---------------------------------------------------------------------------

    /// Counts a read that is repeated, and may be so often more.
    pub(crate) fn count_repeat(&self, slba: Lba, left: u8) {
        self.hub.count_repeat(slba.0, left);
    }

    fn offers(&self, command: OptionalNvmCommands) -> bool {
        self.hub.offers.get().commands.contains(command)
    }

    #[inline(always)]
    fn head(&self, opcode: NvmOpcode) -> u64 {
        Sqe::new(opcode.0, Cid(0), self.nsid()).0[0]
    }

    #[inline]
    fn transfer(&'static self, opcode: NvmOpcode, slba: Lba, buf: DmaBuf, bits: u32) -> IoFuture {
        match self.request(opcode, slba, &buf, bits) {
            Ok(request) => IoFuture(Io::start(self.hub, request, Some(buf))),
            Err(error) => IoFuture(Io::refused(self.hub, error, Some(buf))),
        }
    }

    #[inline]
    fn try_transfer(
        &'static self,
        opcode: NvmOpcode,
        slba: Lba,
        buf: DmaBuf,
        bits: u32,
    ) -> Result<IoFuture, Failed> {
        match self.request(opcode, slba, &buf, bits) {
            Ok(request) => Io::try_now(self.hub, request, Some(buf)).map(IoFuture),
            Err(error) => Err(Failed { error, buf: Some(buf) }),
        }
    }

    #[inline]
    fn request(
        &self,
        opcode: NvmOpcode,
        slba: Lba,
        buf: &DmaBuf,
        bits: u32,
    ) -> Result<Request, IoError> {
        let shape = self.shape()?;
        let len = buf.len();
        if len == 0 || len & (shape.lba_bytes as usize - 1) != 0 {
            return Err(IoError::BadLength { len_bytes: len, lba_bytes: shape.lba_bytes });
        }
        let nlb = check_range(shape, slba, (len >> shape.lba_shift) as u64)?;
        Ok(Request {
            head: self.head(opcode),
            cdw12: bits,
            iova: buf.iova(),
            unit_bytes: shape.lba_bytes,
            slba: slba.0,
            split: Split { nlb, max: shape.max_blocks },
            retry: Retry::Allowed,
        })
    }

    fn command(&'static self, request: Request) -> CommandFuture {
        CommandFuture(Some(Io::start(self.hub, request, None)))
    }

    fn try_command(
        &'static self,
        request: Request,
        buf: Option<DmaBuf>,
    ) -> Result<CommandFuture, IoError> {
        let started = Io::try_now(self.hub, request, buf);
        started.map(|io| CommandFuture(Some(io))).map_err(|failed| failed.error)
    }

    #[cold]
    fn refuse(&self, error: IoError) -> CommandFuture {
        CommandFuture(Some(Io::refused(self.hub, error, None)))
    }
}

#[inline(always)]
const fn write_bits(flags: WriteFlags) -> u32 {
    if flags.contains(WriteFlags::FUA) { Cdw12Io::FUA.bits() } else { 0 }
}

/// The number of blocks, if `nlb` of them from `slba` are in the namespace (and not none).
#[inline(always)]
fn check_range(shape: Shape, slba: Lba, nlb: u64) -> Result<u32, IoError> {
    let fits = slba.0 < shape.blocks && nlb <= shape.blocks - slba.0;
    match u32::try_from(nlb) {
        Ok(count) if fits && count != 0 => Ok(count),
        _ => Err(IoError::OutOfRange { slba, nlb, blocks: shape.blocks }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core_runtime::mem::{Bump, DmaArena};

    use crate::hub::Queues;
    use crate::waiters::Waiters;

    fn hub() -> &'static Hub {
        let arena = DmaArena::leak(1 << 20, Iova(0x4000_0000)).expect("arena");
        let line = Waiters::new(8, &Bump::leak(16 << 10)).expect("room");
        let line = std::boxed::Box::leak(std::boxed::Box::new(line));
        std::boxed::Box::leak(std::boxed::Box::new(Hub::new(Queues::new(), line, arena)))
    }

    #[test]
    fn a_namespace_that_changed_in_a_reset_is_never_used_again() {
        let hub = hub();
        let namespace = Namespace::vacant(hub);
        let shape = Shape { lba_bytes: 512, lba_shift: 9, blocks: 10, max_blocks: 8 };
        let raw = [0; 4096];
        namespace.fill(3, Ok(shape), &raw);
        namespace.fill(3, Ok(shape), &raw);
        assert_eq!(namespace.standing(), Standing::Usable(shape), "the same as before");
        namespace.fill(3, Ok(Shape { blocks: 9, ..shape }), &raw);
        assert_eq!(namespace.refusal(), Some(Refusal::Changed));
        namespace.fill(3, Ok(shape), &raw);
        namespace.fill(3, Ok(Shape { blocks: 9, ..shape }), &raw);
        assert_eq!(namespace.refusal(), Some(Refusal::Changed));
        assert_eq!((namespace.blocks(), namespace.lba_bytes()), (0, 0));
    }

    #[test]
    fn a_namespace_that_could_not_be_looked_at_is_used_again_if_it_says_the_same() {
        let shape = Shape { lba_bytes: 512, lba_shift: 9, blocks: 10, max_blocks: 8 };
        let mut raw = [0; 4096];
        raw[IDENTITY.start] = 7;
        let silent = Err(Refusal::Unidentified(Status::from_bits(0x6 << 1)));
        for (says, usable) in [(Ok(shape), true), (Ok(Shape { blocks: 9, ..shape }), false)] {
            let hub = hub();
            let namespace = Namespace::vacant(hub);
            namespace.fill(3, Ok(shape), &raw);
            let before = hub.generation.get();
            namespace.fill(3, silent, &[0; 4096]);
            namespace.fill(3, silent, &[0; 4096]);
            assert_eq!(namespace.refusal(), silent.err());
            assert_eq!(hub.generation.get(), before + 1, "what waits is not posted to it");
            assert_eq!((namespace.blocks(), namespace.identify_bytes()), (0, raw));
            namespace.fill(3, says, &raw);
            assert_eq!(namespace.standing() == Standing::Usable(shape), usable);
            assert_eq!(namespace.was_usable(), usable);
        }
    }

    #[test]
    fn another_namespace_of_the_same_shape_is_told_by_its_identifiers() {
        for at in [IDENTITY.start, IDENTITY.start + 15, IDENTITY.end - 1] {
            let hub = hub();
            let namespace = Namespace::vacant(hub);
            let shape = Shape { lba_bytes: 512, lba_shift: 9, blocks: 10, max_blocks: 8 };
            let mut raw = [0; 4096];
            namespace.fill(3, Ok(shape), &raw);
            let before = hub.generation.get();
            raw[at] = 1;
            namespace.fill(3, Ok(shape), &raw);
            assert_eq!(namespace.refusal(), Some(Refusal::Changed), "byte {at}");
            assert_ne!(hub.generation.get(), before);
        }
    }
}
