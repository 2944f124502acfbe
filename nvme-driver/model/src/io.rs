//! I/O commands of the NVM command set (NVM CS 1.0, section 3.2).

use crate::fault::DataFault;
use crate::mistake::HostMistake;
use crate::model::Model;
use crate::namespace::Namespace;
use crate::store::StoreError;
use crate::transfer::{PrpError, Prps, Stop};
use core_runtime::mem::Iova;
use nvme_spec::{
    Cdw12Io, DsmAttributes, DsmRange, Lba, Nsid, NvmOpcode, QueueId, Sqe, SqeFlags, Status,
    StatusCode,
};
use zerocopy::{FromBytes, Immutable};

/// Bits of word 6 (CDW12, CDW13) that are reserved in a read or write without protection
/// information and directives: DTYPE, STC, DEAC, PRINFO, and all of CDW13 but DSM.
const IO_RESERVED: u64 = 0xffff_ff00_3fff_0000;
/// Largest piece that a compare looks at: one of the largest pages.
const COMPARE_BYTES: usize = 1 << 16;

/// A range of a namespace that was checked.
#[derive(Clone, Copy)]
struct Range {
    /// Index in the model's list.
    place: usize,
    slba: u64,
    blocks: u64,
}

/// Why a piece of a compare stopped.
enum CompareStop {
    Differs,
    Store(StoreError),
}

impl From<StoreError> for CompareStop {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Model {
    /// Carries an I/O command out.
    #[inline]
    pub(crate) fn execute_io(
        &mut self,
        sqid: QueueId,
        sqe: &Sqe,
        fault: Option<DataFault>,
    ) -> Status {
        if !sqe.flags().is_empty() {
            return self.refuse_flags(sqid, sqe);
        }
        match NvmOpcode(sqe.opcode()) {
            NvmOpcode::READ => self.read(sqid, sqe, fault),
            NvmOpcode::WRITE => self.write(sqid, sqe, fault),
            NvmOpcode::FLUSH => self.flush(sqid, sqe),
            NvmOpcode::COMPARE => self.compare(sqid, sqe),
            NvmOpcode::WRITE_ZEROES => self.write_zeroes(sqid, sqe),
            NvmOpcode::DATASET_MANAGEMENT => self.dsm(sqid, sqe),
            NvmOpcode(opcode) => {
                let cid = sqe.cid();
                self.mistakes.add(HostMistake::Opcode { sqid, cid, opcode });
                self.fail(sqid, sqe, StatusCode::INVALID_OPCODE)
            }
        }
    }

    /// A failure that would come again: DNR and an entry in the error log.
    #[cold]
    pub(crate) fn fail(&mut self, sqid: QueueId, sqe: &Sqe, code: StatusCode) -> Status {
        self.fail_with(sqid, sqe, code.do_not_retry())
    }

    /// A failure with this status, and an entry in the error log.
    #[cold]
    pub(crate) fn fail_with(&mut self, sqid: QueueId, sqe: &Sqe, status: Status) -> Status {
        if status.is_success() {
            return status;
        }
        self.stats.errors += 1;
        let lba = if sqid == QueueId::ADMIN { Lba(0) } else { sqe.slba() };
        self.logs.error(sqid, sqe.cid(), status, lba, sqe.nsid());
        status.with_more(true)
    }

    #[cold]
    pub(crate) fn refuse_flags(&mut self, sqid: QueueId, sqe: &Sqe) -> Status {
        self.reserved(sqid, sqe, 0);
        let fused = SqeFlags::FUSED_FIRST | SqeFlags::FUSED_SECOND;
        if sqe.flags().intersects(fused) {
            return self.fail(sqid, sqe, StatusCode::ABORTED_MISSING_FUSED);
        }
        self.fail(sqid, sqe, StatusCode::INVALID_FIELD)
    }

    #[cold]
    pub(crate) fn reserved(&mut self, sqid: QueueId, sqe: &Sqe, dword: u8) {
        let (cid, value) = (sqe.cid(), sqe.dword(usize::from(dword)));
        self.mistakes.add(HostMistake::CommandReserved { sqid, cid, dword, value });
    }

    #[cold]
    fn no_namespace(&mut self, sqid: QueueId, sqe: &Sqe) -> Status {
        let (cid, nsid) = (sqe.cid(), sqe.nsid());
        self.mistakes.add(HostMistake::Namespace { sqid, cid, nsid });
        // That of all namespaces is a valid value, only not for this command
        // (NVMe Base 2.0, section 3.3.3.1).
        let code = match nsid {
            Nsid::ALL => StatusCode::INVALID_FIELD,
            nsid => self.code_of_missing(nsid),
        };
        self.fail(sqid, sqe, code)
    }

    /// What a command is told whose namespace is not there: an identifier up to NN is valid, only
    /// inactive (NVMe Base 2.0, section 3.2.1).
    pub(crate) fn code_of_missing(&self, nsid: Nsid) -> StatusCode {
        match self.is_valid(nsid) {
            true => StatusCode::INVALID_FIELD,
            false => StatusCode::INVALID_NAMESPACE,
        }
    }

    /// Whether a namespace may have this identifier.
    pub(crate) fn is_valid(&self, nsid: Nsid) -> bool {
        (1..=self.largest_nsid()).contains(&nsid.0)
    }

    #[inline]
    pub(crate) fn place_of(&self, nsid: Nsid) -> Option<usize> {
        self.namespaces.iter().position(|ns| ns.nsid == nsid)
    }

    /// The checks that reading, writing, comparing and zeroing share.
    #[inline]
    fn range(&mut self, sqid: QueueId, sqe: &Sqe, transfers: bool) -> Result<Range, Status> {
        let Some(place) = self.place_of(sqe.nsid()) else {
            return Err(self.no_namespace(sqid, sqe));
        };
        let ns = &self.namespaces[place];
        let (slba, blocks, limit) = (sqe.slba().0, u64::from(sqe.nlb()), ns.blocks);
        if slba >= limit || blocks > limit - slba {
            let cid = sqe.cid();
            self.mistakes.add(HostMistake::LbaRange { sqid, cid, slba, blocks, limit });
            return Err(self.fail(sqid, sqe, StatusCode::LBA_OUT_OF_RANGE));
        }
        if transfers {
            let bytes = blocks * ns.transfer_bytes();
            if bytes > self.max_transfer() {
                return Err(self.beyond_mdts(sqid, sqe, bytes));
            }
            if (sqe.0[1] | sqe.0[7] | sqe.0[6] & IO_RESERVED) != 0 {
                self.reserved_io(sqid, sqe);
            }
        }
        Ok(Range { place, slba, blocks })
    }

    #[cold]
    fn reserved_io(&mut self, sqid: QueueId, sqe: &Sqe) {
        let masks = [(2, !0), (3, !0), (12, 0x3fff_0000), (13, 0xffff_ff00), (14, !0), (15, !0)];
        for (dword, mask) in masks {
            if sqe.dword(usize::from(dword)) & mask != 0 {
                self.reserved(sqid, sqe, dword);
            }
        }
    }

    #[cold]
    pub(crate) fn beyond_mdts(&mut self, sqid: QueueId, sqe: &Sqe, bytes: u64) -> Status {
        let (cid, limit) = (sqe.cid(), self.max_transfer());
        self.mistakes.add(HostMistake::Mdts { sqid, cid, bytes, limit });
        self.fail(sqid, sqe, StatusCode::INVALID_FIELD)
    }

    /// MDTS in bytes.
    #[inline]
    pub(crate) fn max_transfer(&self) -> u64 {
        match self.config.mdts {
            0 => u64::MAX,
            mdts => u64::from(self.regs.min_page_bytes()) << mdts.min(31),
        }
    }

    /// The data pointers of a command that moves `len` bytes.
    #[inline]
    pub(crate) fn prps(&self, sqe: &Sqe, len: u64) -> Prps {
        Prps {
            prp1: sqe.prp1(),
            prp2: sqe.prp2(),
            len: usize::try_from(len).unwrap_or(usize::MAX),
            page: self.regs.page_bytes(),
        }
    }

    #[cold]
    pub(crate) fn bad_prp(&mut self, sqid: QueueId, sqe: &Sqe, error: PrpError) -> Status {
        let cid = sqe.cid();
        match error {
            PrpError::Offset(prp) => {
                self.mistakes.add(HostMistake::PrpOffset { sqid, cid, prp });
                self.fail(sqid, sqe, StatusCode::PRP_OFFSET_INVALID)
            }
            PrpError::Unmapped { iova, len } => {
                self.mistakes.add(HostMistake::PrpUnmapped { sqid, cid, iova, len });
                self.fail(sqid, sqe, StatusCode::DATA_TRANSFER_ERROR)
            }
        }
    }

    /// An image that could not be read or written. It may work another time, so DNR stays clear.
    #[cold]
    fn store_failed(&mut self, sqid: QueueId, sqe: &Sqe, error: &StoreError, read: bool) -> Status {
        let full = std::io::ErrorKind::StorageFull;
        let code = match error {
            StoreError::Io(error) if error.kind() == full => StatusCode::CAPACITY_EXCEEDED,
            StoreError::Io(_) if read => StatusCode::UNRECOVERED_READ_ERROR,
            StoreError::Io(_) => StatusCode::WRITE_FAULT,
            StoreError::Bounds => StatusCode::INTERNAL_ERROR,
        };
        self.fail_with(sqid, sqe, code.status())
    }

    #[cold]
    fn stopped(&mut self, sqid: QueueId, sqe: &Sqe, stop: Stop<StoreError>, read: bool) -> Status {
        match stop {
            Stop::Prp(error) => self.bad_prp(sqid, sqe, error),
            Stop::Piece(error) => self.store_failed(sqid, sqe, &error, read),
        }
    }

    /// Where data go instead, by a fault: the block that is used and the bytes that are moved.
    #[cold]
    fn spoil(&self, range: Range, len: u64, fault: DataFault) -> (u64, u64) {
        match fault {
            DataFault::Nothing => (range.slba, 0),
            DataFault::Half => (range.slba, len / 2),
            DataFault::BitFlip => (range.slba, len),
            DataFault::WrongLba(far) => {
                let last = self.namespaces[range.place].blocks - range.blocks;
                (range.slba.saturating_add_signed(far).min(last), len)
            }
        }
    }

    #[inline]
    fn read(&mut self, sqid: QueueId, sqe: &Sqe, fault: Option<DataFault>) -> Status {
        let range = match self.range(sqid, sqe, true) {
            Ok(range) => range,
            Err(status) => return status,
        };
        let mut len = range.blocks * self.namespaces[range.place].transfer_bytes();
        let mut slba = range.slba;
        if let Some(fault) = fault {
            let whole = len;
            (slba, len) = self.spoil(range, len, fault);
            if len != whole {
                return self.move_part(sqid, sqe, range, (whole, len), true);
            }
        }
        let prps = self.prps(sqe, len);
        let ns = &mut self.namespaces[range.place];
        if ns.separate() {
            return self.separate(sqid, sqe, Range { slba, ..range }, true);
        }
        let base = slba * ns.stride();
        ns.store.begin(base, prps.len);
        let store = &mut ns.store;
        let moved = prps.each(&self.dma, |host, at, len| store.read(base + at as u64, host, len));
        if let Err(stop) = moved {
            return self.stopped(sqid, sqe, stop, true);
        }
        self.stats.reads += 1;
        self.stats.bytes_read += len;
        if fault == Some(DataFault::BitFlip) {
            self.flip_in_host(prps);
        }
        Status::SUCCESS
    }

    #[inline]
    fn write(&mut self, sqid: QueueId, sqe: &Sqe, fault: Option<DataFault>) -> Status {
        let range = match self.range(sqid, sqe, true) {
            Ok(range) => range,
            Err(status) => return status,
        };
        if self.namespaces[range.place].write_protected {
            return self.fail(sqid, sqe, StatusCode::NAMESPACE_WRITE_PROTECTED);
        }
        let mut len = range.blocks * self.namespaces[range.place].transfer_bytes();
        let mut slba = range.slba;
        if let Some(fault) = fault {
            let whole = len;
            (slba, len) = self.spoil(range, len, fault);
            if len != whole {
                return self.move_part(sqid, sqe, range, (whole, len), false);
            }
        }
        let prps = self.prps(sqe, len);
        let ns = &mut self.namespaces[range.place];
        if ns.separate() {
            return self.separate(sqid, sqe, Range { slba, ..range }, false);
        }
        let base = slba * ns.stride();
        ns.store.begin(base, prps.len);
        let store = &mut ns.store;
        let moved = prps.each(&self.dma, |host, at, len| store.write(base + at as u64, host, len));
        if let Err(stop) = moved {
            return self.stopped(sqid, sqe, stop, false);
        }
        self.stats.writes += 1;
        self.stats.bytes_written += len;
        if fault == Some(DataFault::BitFlip) {
            self.flip_in_store(range.place, base, len);
        }
        self.settle(sqid, sqe, Range { slba, ..range })
    }

    /// A fault: of a transfer of `whole` bytes only the first `part` are moved. The PRPs say what
    /// they say for the whole of it.
    #[cold]
    fn move_part(
        &mut self,
        sqid: QueueId,
        sqe: &Sqe,
        range: Range,
        (whole, part): (u64, u64),
        read: bool,
    ) -> Status {
        let prps = self.prps(sqe, whole);
        let ns = &mut self.namespaces[range.place];
        let base = range.slba * ns.stride();
        ns.store.begin(base, prps.len);
        let store = &mut ns.store;
        let moved = prps.each(&self.dma, |host, at, len| {
            let left = usize::try_from(part).unwrap_or(usize::MAX).saturating_sub(at);
            let len = len.min(left);
            if read {
                store.read(base + at as u64, host, len)
            } else {
                store.write(base + at as u64, host, len)
            }
        });
        if let Err(stop) = moved {
            return self.stopped(sqid, sqe, stop, read);
        }
        if read {
            self.stats.reads += 1;
            self.stats.bytes_read += part;
            return Status::SUCCESS;
        }
        self.stats.writes += 1;
        self.stats.bytes_written += part;
        self.settle(sqid, sqe, range)
    }

    /// Makes a change durable if the command asks for it or no write cache is on.
    #[inline]
    fn settle(&mut self, sqid: QueueId, sqe: &Sqe, range: Range) -> Status {
        let through = self.features.write_cache & 1 == 0 || sqe.io_flags().contains(Cdw12Io::FUA);
        let ns = &mut self.namespaces[range.place];
        if !through && ns.cache.is_none() {
            return Status::SUCCESS;
        }
        match ns.wrote(range.slba, range.blocks, through) {
            Ok(()) => Status::SUCCESS,
            Err(error) => self.store_failed(sqid, sqe, &error, false),
        }
    }

    /// A transfer whose metadata lie in a buffer of their own, at MPTR.
    #[cold]
    fn separate(&mut self, sqid: QueueId, sqe: &Sqe, range: Range, read: bool) -> Status {
        let ns = &mut self.namespaces[range.place];
        let (stride, lba_bytes) = (ns.stride(), u64::from(ns.lba_bytes));
        let (meta, data_len) = (u64::from(ns.metadata_bytes), range.blocks * lba_bytes);
        let meta_len = usize::try_from(range.blocks * meta).unwrap_or(usize::MAX);
        if sqe.mptr() & 3 != 0 {
            return self.bad_prp(sqid, sqe, PrpError::Offset(sqe.mptr()));
        }
        let Ok(meta_host) = self.dma.translate(Iova(sqe.mptr()), meta_len) else {
            let error = PrpError::Unmapped { iova: sqe.mptr(), len: meta_len };
            return self.bad_prp(sqid, sqe, error);
        };
        let prps = self.prps(sqe, data_len);
        let store = &mut self.namespaces[range.place].store;
        store.begin(0, 0);
        let mut blocks = || {
            prps.each(&self.dma, |host, at, len| {
                let mut done = 0;
                while done < len {
                    let at = (at + done) as u64;
                    let within = at % lba_bytes;
                    let piece = usize::try_from(lba_bytes - within).unwrap_or(len);
                    let piece = piece.min(len - done);
                    let offset = (range.slba + at / lba_bytes) * stride + within;
                    let host = host.sub(done, piece)?;
                    if read {
                        store.read(offset, host, piece)?;
                    } else {
                        store.write(offset, host, piece)?;
                    }
                    done += piece;
                }
                Ok::<_, StoreError>(())
            })?;
            for block in 0..range.blocks {
                let moved = || {
                    let piece = usize::try_from(meta).map_err(|_| StoreError::Bounds)?;
                    let at = usize::try_from(block * meta).map_err(|_| StoreError::Bounds)?;
                    Ok((meta_host.sub(at, piece)?, piece))
                };
                let (host, piece) = moved().map_err(Stop::Piece)?;
                let offset = (range.slba + block) * stride + lba_bytes;
                let result = if read {
                    store.read(offset, host, piece)
                } else {
                    store.write(offset, host, piece)
                };
                result.map_err(Stop::Piece)?;
            }
            Ok(())
        };
        if let Err(stop) = blocks() {
            return self.stopped(sqid, sqe, stop, read);
        }
        if read {
            self.stats.reads += 1;
            self.stats.bytes_read += data_len;
            return Status::SUCCESS;
        }
        self.stats.writes += 1;
        self.stats.bytes_written += data_len;
        self.settle(sqid, sqe, range)
    }

    fn flush(&mut self, sqid: QueueId, sqe: &Sqe) -> Status {
        let all = sqe.nsid() == Nsid::ALL;
        if !all && self.place_of(sqe.nsid()).is_none() {
            return self.no_namespace(sqid, sqe);
        }
        self.stats.flushes += 1;
        let nsid = sqe.nsid();
        let wanted = self.namespaces.iter_mut().filter(|ns| all || ns.nsid == nsid);
        let failed = wanted.map(Namespace::flush).find_map(Result::err);
        match failed {
            None => Status::SUCCESS,
            Some(error) => self.store_failed(sqid, sqe, &error, false),
        }
    }

    fn write_zeroes(&mut self, sqid: QueueId, sqe: &Sqe) -> Status {
        let range = match self.range(sqid, sqe, false) {
            Ok(range) => range,
            Err(status) => return status,
        };
        let ns = &mut self.namespaces[range.place];
        if ns.write_protected {
            return self.fail(sqid, sqe, StatusCode::NAMESPACE_WRITE_PROTECTED);
        }
        let stride = ns.stride();
        match ns.store.zero(range.slba * stride, range.blocks * stride) {
            Ok(()) => {
                self.stats.write_zeroes += 1;
                self.settle(sqid, sqe, range)
            }
            Err(error) => self.store_failed(sqid, sqe, &error, false),
        }
    }

    fn compare(&mut self, sqid: QueueId, sqe: &Sqe) -> Status {
        let range = match self.range(sqid, sqe, true) {
            Ok(range) => range,
            Err(status) => return status,
        };
        let ns = &self.namespaces[range.place];
        if ns.separate() {
            return self.fail(sqid, sqe, StatusCode::INVALID_FIELD);
        }
        let (base, len) = (range.slba * ns.stride(), range.blocks * ns.transfer_bytes());
        let prps = self.prps(sqe, len);
        let store = &mut self.namespaces[range.place].store;
        let (ours, theirs) = self.scratch.split_at_mut(COMPARE_BYTES);
        let compared = prps.each(&self.dma, |host, at, len| {
            // A piece is at most a page, and the largest page is that long.
            let len = len.min(COMPARE_BYTES);
            store.peek(base + at as u64, &mut ours[..len])?;
            host.read(0, &mut theirs[..len]).map_err(StoreError::from)?;
            if ours[..len] == theirs[..len] { Ok(()) } else { Err(CompareStop::Differs) }
        });
        self.stats.compares += 1;
        match compared {
            Ok(()) => Status::SUCCESS,
            Err(Stop::Prp(error)) => self.bad_prp(sqid, sqe, error),
            Err(Stop::Piece(CompareStop::Differs)) => {
                self.fail(sqid, sqe, StatusCode::COMPARE_FAILURE)
            }
            Err(Stop::Piece(CompareStop::Store(error))) => {
                self.store_failed(sqid, sqe, &error, true)
            }
        }
    }

    fn dsm(&mut self, sqid: QueueId, sqe: &Sqe) -> Status {
        let Some(place) = self.place_of(sqe.nsid()) else {
            return self.no_namespace(sqid, sqe);
        };
        if sqe.dword(10) & !0xff != 0 {
            self.reserved(sqid, sqe, 10);
        }
        let count = (sqe.dword(10) & 0xff) as usize + 1;
        let ranges = match self.collect::<DsmRange>(sqid, sqe, count) {
            Ok(ranges) => ranges,
            Err(status) => return status,
        };
        let limit = self.namespaces[place].blocks;
        for range in &ranges {
            let (slba, blocks) = (range.slba, u64::from(range.blocks));
            if slba > limit || blocks > limit - slba {
                let cid = sqe.cid();
                self.mistakes.add(HostMistake::LbaRange { sqid, cid, slba, blocks, limit });
                return self.fail(sqid, sqe, StatusCode::LBA_OUT_OF_RANGE);
            }
        }
        self.stats.dsm += 1;
        if sqe.dword(11) & DsmAttributes::DEALLOCATE.bits() == 0 {
            return Status::SUCCESS;
        }
        if self.namespaces[place].write_protected {
            return self.fail(sqid, sqe, StatusCode::NAMESPACE_WRITE_PROTECTED);
        }
        for range in &ranges {
            let ns = &mut self.namespaces[place];
            let stride = ns.stride();
            let zeroed = ns.store.zero(range.slba * stride, u64::from(range.blocks) * stride);
            if let Err(error) = zeroed {
                return self.store_failed(sqid, sqe, &error, false);
            }
            // It may stay in the cache, whose pieces are small against a range.
            let through = self.features.write_cache & 1 == 0;
            let ns = &mut self.namespaces[place];
            if ns.cache.is_some()
                && let Err(error) = ns.wrote(range.slba, u64::from(range.blocks), through)
            {
                return self.store_failed(sqid, sqe, &error, false);
            }
        }
        Status::SUCCESS
    }

    /// Structures that a command carries, at most 4 KiB of them.
    fn collect<T: FromBytes + Immutable + Copy>(
        &mut self,
        sqid: QueueId,
        sqe: &Sqe,
        count: usize,
    ) -> Result<Vec<T>, Status> {
        let size = size_of::<T>();
        let mut bytes = vec![0; count * size];
        let prps = self.prps(sqe, bytes.len() as u64);
        let copied = prps.each(&self.dma, |host, at, len| host.read(0, &mut bytes[at..at + len]));
        match copied {
            Err(Stop::Prp(error)) => Err(self.bad_prp(sqid, sqe, error)),
            Err(Stop::Piece(_)) => Err(self.fail(sqid, sqe, StatusCode::INTERNAL_ERROR)),
            Ok(()) => {
                let items = bytes.chunks_exact(size);
                Ok(items.filter_map(|item| T::read_from_bytes(item).ok()).collect())
            }
        }
    }

    /// A fault: flips a bit of what was read.
    #[cold]
    fn flip_in_host(&mut self, prps: Prps) {
        let bit = self.rng.below(prps.len as u64 * 8);
        let target = usize::try_from(bit / 8).unwrap_or(0);
        // The pieces were walked before, so this succeeds or changes nothing.
        let _ = prps.each(&self.dma, |host, at, len| {
            if (at..at + len).contains(&target) {
                let mut byte = [0];
                host.read(target - at, &mut byte)?;
                byte[0] ^= 1 << (bit % 8);
                host.write(target - at, &byte)?;
            }
            Ok::<_, StoreError>(())
        });
    }

    /// A fault: flips a bit of what was written.
    #[cold]
    fn flip_in_store(&mut self, place: usize, base: u64, len: u64) {
        let bit = self.rng.below(len * 8);
        let store = &mut self.namespaces[place].store;
        let mut byte = [0];
        if store.peek(base + bit / 8, &mut byte).is_ok() {
            byte[0] ^= 1 << (bit % 8);
            let _ = store.poke(base + bit / 8, &byte);
        }
    }
}
