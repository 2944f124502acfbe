//! The served device: what each message does to the model.
//!
//! Used by the control thread. The model runs on its own thread, which polls doorbells and steps;
//! what a message wants of it is done between two steps. Each request is checked here: what comes
//! from a client is an allegation.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hybrid_shm::Span;
use nvme_model::{ControllerFault, Model, ModelThread};
use nvme_spec::registers::{Cc, Csts, Register};
use rustix::io::Errno;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use super::ServerError;
use super::config_space::{CONFIG_BYTES, ConfigSpace, MSIX_BAR_BYTES, MSIX_VECTORS};
use super::memory::{Gone, Memory};
use crate::sys::memfd::{Memfd, PageSize};
use crate::sys::window::Window;
use crate::vfio_user::socket::{MAX_FDS, Message};
use crate::vfio_user::wire::{
    CAP_SPARSE_MMAP, CapHeader, Capabilities, Command, DeviceInfo, DmaMap, DmaUnmap, IRQ_MSIX,
    IRQS, IrqInfo, MAJOR, MINOR, REGION_BAR0, REGION_CONFIG, REGIONS, RegionAccess, RegionInfo,
    SetIrqs, SparseArea, SparseMmap, Version,
};

/// Offset of the doorbells in BAR0.
const DOORBELLS_AT: usize = 0x1000;
/// Pages that doorbells are counted in.
const PAGE: usize = 4096;
/// NVMe over PCIe: BAR0 has 16 KiB at least.
const LEAST_BAR0: usize = 0x4000;
/// How long the controller may take to become disabled.
const DISABLE_LIMIT: Duration = Duration::from_secs(2);
/// Interrupts are told by event descriptors, and their number is fixed.
const IRQ_FLAGS: u32 = 1 | 1 << 3;

/// What a request comes to: the reply's payload, or an errno.
type Answer = Result<Vec<u8>, Errno>;

/// The device.
pub(super) struct Device {
    thread: Arc<ModelThread>,
    config: ConfigSpace,
    memory: Memory,
    /// Where the model sees the doorbells: always here, whatever file is shown.
    window: Arc<Window>,
    /// The file of the client that is there.
    doorbells: Memfd,
    doorbell_bytes: usize,
    bar0_bytes: usize,
    /// The model's own doorbells, which it gets back at the end.
    own_doorbells: Span<'static>,
}

impl Device {
    /// Puts the model's doorbells into memory that can be shared.
    pub(super) fn new(
        thread: Arc<ModelThread>,
        own_doorbells: Span<'static>,
    ) -> Result<Self, ServerError> {
        let doorbell_bytes = own_doorbells.len().next_multiple_of(PAGE);
        let bar0_bytes = (DOORBELLS_AT + doorbell_bytes).next_power_of_two().max(LEAST_BAR0);
        let window = Arc::new(Window::reserve(doorbell_bytes).map_err(ServerError::Memory)?);
        let mut device = Self {
            thread,
            config: ConfigSpace::new(bar0_bytes as u64),
            memory: Memory::default(),
            window,
            doorbells: new_doorbells(doorbell_bytes)?,
            doorbell_bytes,
            bar0_bytes,
            own_doorbells,
        };
        device.show_doorbells()?;
        Ok(device)
    }

    /// Between two steps of the model: it never sees doorbells that it has not marked as unrung.
    fn show_doorbells(&mut self) -> Result<(), ServerError> {
        let file = self.doorbells.as_fd().try_clone_to_owned().map_err(ServerError::Thread)?;
        let (window, len) = (Arc::clone(&self.window), self.doorbell_bytes);
        let shown = self.thread.call(move |model| {
            window.show(file.as_fd(), DOORBELLS_AT as u64, len)?;
            model.set_doorbells(window.span(len)).map_err(|_| Errno::INVAL)
        });
        shown.ok_or(ServerError::Ended)?.map_err(ServerError::Memory)
    }

    /// A client has come: doorbells that no other one has.
    pub(super) fn welcome(&mut self) -> Result<(), ServerError> {
        self.doorbells = new_doorbells(self.doorbell_bytes)?;
        self.show_doorbells()
    }

    /// The client has gone, or shall: disables the controller behind its back and forgets its
    /// memory. What it still rings reaches nobody.
    pub(super) fn farewell(&mut self) {
        let own = self.own_doorbells;
        self.thread.call(move |model| {
            let enabled = is_ready(model) || model.read_reg(Cc::OFFSET, 4) & 1 != 0;
            if enabled {
                model.inject(ControllerFault::SubsystemReset);
            }
            // They were its own before, so they fit.
            let _ = model.set_doorbells(own);
            if enabled {
                let seen = Csts::new().with_nssro(true).into_raw();
                model.write_reg(Csts::OFFSET, 4, seen.into());
            }
        });
        self.config.reset();
        for gone in self.memory.all() {
            self.take_away(&gone);
        }
        if self.is_disabled() {
            self.memory.cool_down();
        }
    }

    /// Does what a message wants. Files in the reply are the doorbells'.
    pub(super) fn handle(&mut self, message: Message) -> Result<(Vec<u8>, bool), Errno> {
        let Message { header, payload, mut fds, .. } = message;
        let plain = |answer: Answer| answer.map(|bytes| (bytes, false));
        match Command(header.command.get()) {
            Command::VERSION => plain(version(&payload)),
            Command::DEVICE_GET_INFO => plain(device_info(&payload)),
            Command::DEVICE_GET_REGION_INFO => self.region_info(&payload),
            Command::DEVICE_GET_REGION_IO_FDS => plain(region_io_fds(&payload)),
            Command::DEVICE_GET_IRQ_INFO => plain(irq_info(&payload)),
            Command::DEVICE_SET_IRQS => plain(set_irqs(&payload)),
            Command::REGION_READ => plain(self.region_read(&payload)),
            Command::REGION_WRITE => plain(self.region_write(&payload)),
            Command::DMA_MAP => {
                let file = (!fds.is_empty()).then(|| fds.swap_remove(0));
                let map: DmaMap = structure(&payload)?;
                plain(self.map(&map, file))
            }
            Command::DMA_UNMAP => plain(self.unmap(&payload)),
            Command::DEVICE_RESET => plain(self.reset().map(|()| Vec::new())),
            _ => Err(Errno::NOTSUP),
        }
    }

    /// The file that goes with a reply.
    pub(super) fn doorbell_file(&self) -> BorrowedFd<'_> {
        self.doorbells.as_fd()
    }

    fn region_info(&self, payload: &[u8]) -> Result<(Vec<u8>, bool), Errno> {
        let ask: RegionInfo = structure(payload)?;
        let room = ask.argsz.get() as usize;
        if room < size_of::<RegionInfo>() {
            return Err(Errno::INVAL);
        }
        let (flags, size) = match ask.index.get() {
            REGION_BAR0 => (7, self.bar0_bytes as u64),
            4 | 5 => (3, MSIX_BAR_BYTES),
            REGION_CONFIG => (3, CONFIG_BYTES as u64),
            index if index < REGIONS => (0, 0),
            _ => return Err(Errno::INVAL),
        };
        let mut info = RegionInfo {
            argsz: U32::new(32),
            flags: U32::new(flags),
            index: ask.index,
            cap_offset: U32::ZERO,
            size: U64::new(size),
            offset: U64::ZERO,
        };
        if ask.index.get() != REGION_BAR0 {
            return Ok((info.as_bytes().to_vec(), false));
        }
        let sparse = SparseMmap {
            header: CapHeader {
                id: U16::new(CAP_SPARSE_MMAP),
                version: U16::new(1),
                next: U32::ZERO,
            },
            areas: U32::new(1),
            reserved: U32::ZERO,
        };
        let area = SparseArea {
            offset: U64::new(DOORBELLS_AT as u64),
            size: U64::new(self.doorbell_bytes as u64),
        };
        let whole = size_of::<RegionInfo>() + size_of::<SparseMmap>() + size_of::<SparseArea>();
        info.argsz = U32::new(u32::try_from(whole).unwrap_or(0));
        if room < whole {
            // The asker comes again with room for the capability.
            return Ok((info.as_bytes().to_vec(), false));
        }
        info.flags = U32::new(flags | RegionInfo::FLAG_CAPS);
        info.cap_offset = U32::new(32);
        Ok(([info.as_bytes(), sparse.as_bytes(), area.as_bytes()].concat(), true))
    }

    fn region_read(&self, payload: &[u8]) -> Answer {
        let access: RegionAccess = structure(payload)?;
        let (at, count) = (access.offset.get(), access.count.get() as usize);
        let data = match access.region.get() {
            REGION_BAR0 => self.read_bar0(at, count)?.to_le_bytes()[..count].to_vec(),
            REGION_CONFIG => self.config.read(at, count).ok_or(Errno::INVAL)?.to_vec(),
            4 | 5 if inside(at, count, MSIX_BAR_BYTES) => vec![0; count],
            _ => return Err(Errno::INVAL),
        };
        Ok([access.as_bytes(), &data].concat())
    }

    fn region_write(&mut self, payload: &[u8]) -> Answer {
        let access: RegionAccess = structure(payload)?;
        let data = &payload[size_of::<RegionAccess>()..];
        let (at, count) = (access.offset.get(), access.count.get() as usize);
        if data.len() != count {
            return Err(Errno::INVAL);
        }
        match access.region.get() {
            REGION_BAR0 => self.write_bar0(at, data)?,
            REGION_CONFIG => self.config.write(at, data).ok_or(Errno::INVAL)?,
            // The MSI-X table of a device that raises none.
            4 | 5 if inside(at, count, MSIX_BAR_BYTES) => {}
            _ => return Err(Errno::INVAL),
        }
        Ok(access.as_bytes().to_vec())
    }

    /// A register or a doorbell: 4 or 8 bytes, aligned.
    fn read_bar0(&self, at: u64, count: usize) -> Result<u64, Errno> {
        let (offset, size) = self.bar0_access(at, count)?;
        if offset as usize >= DOORBELLS_AT {
            let word = self.window.span(self.doorbell_bytes).word32(offset as usize - DOORBELLS_AT);
            return word.map(|word| word.load().into()).map_err(|_| Errno::INVAL);
        }
        self.thread.call(move |model| model.read_reg(offset, size)).ok_or(Errno::IO)
    }

    fn write_bar0(&self, at: u64, data: &[u8]) -> Result<(), Errno> {
        let (offset, size) = self.bar0_access(at, data.len())?;
        let mut bytes = [0; 8];
        bytes[..data.len()].copy_from_slice(data);
        let value = u64::from_le_bytes(bytes);
        if offset as usize >= DOORBELLS_AT {
            let value = u32::try_from(value).map_err(|_| Errno::INVAL)?;
            let word = self.window.span(self.doorbell_bytes).word32(offset as usize - DOORBELLS_AT);
            return word.map(|word| word.store_release(value)).map_err(|_| Errno::INVAL);
        }
        self.thread.call(move |model| model.write_reg(offset, size, value)).ok_or(Errno::IO)
    }

    fn bar0_access(&self, at: u64, count: usize) -> Result<(u32, u32), Errno> {
        let sound = matches!(count, 4 | 8)
            && at.is_multiple_of(count as u64)
            && inside(at, count, (DOORBELLS_AT + self.doorbell_bytes) as u64)
            && (count == 4 || at < DOORBELLS_AT as u64);
        match (u32::try_from(at), u32::try_from(count)) {
            (Ok(at), Ok(count)) if sound => Ok((at, count)),
            _ => Err(Errno::INVAL),
        }
    }

    fn map(&mut self, map: &DmaMap, file: Option<std::os::fd::OwnedFd>) -> Answer {
        let known = DmaMap::FLAG_READ | DmaMap::FLAG_WRITE | DmaMap::FLAG_MMAP;
        if (map.argsz.get() as usize) < size_of::<DmaMap>() || map.flags.get() & !known != 0 {
            return Err(Errno::INVAL);
        }
        let Some(region) = self.memory.map(map, file)? else { return Ok(Vec::new()) };
        let iova = region.iova;
        match self.thread.call(move |model| model.map_dma(region).is_ok()) {
            Some(true) => Ok(Vec::new()),
            refused => {
                self.memory.forget(&Gone(iova));
                Err(if refused.is_some() { Errno::NOSPC } else { Errno::IO })
            }
        }
    }

    fn unmap(&mut self, payload: &[u8]) -> Answer {
        let unmap: DmaUnmap = structure(payload)?;
        let (address, size) = (unmap.address.get(), unmap.size.get());
        let all = match unmap.flags.get() {
            0 => vec![self.memory.find(address, size)?],
            DmaUnmap::FLAG_ALL if address == 0 && size == 0 => self.memory.all(),
            _ => return Err(Errno::INVAL),
        };
        for gone in &all {
            self.take_away(gone);
        }
        if self.is_disabled() {
            self.memory.cool_down();
        }
        Ok(unmap.as_bytes().to_vec())
    }

    /// First the model forgets a piece, then we do.
    fn take_away(&mut self, gone: &Gone) {
        let iova = gone.0;
        self.thread.call(move |model| model.unmap(iova).is_some());
        self.memory.forget(gone);
    }

    /// Disables the controller and waits for it; the configuration space is as at the beginning.
    fn reset(&mut self) -> Result<(), Errno> {
        self.config.reset();
        let off = Cc::new().into_raw().into();
        let done = self.thread.call(move |model| model.write_reg(Cc::OFFSET, 4, off));
        done.ok_or(Errno::IO)?;
        let begun = Instant::now();
        while !self.is_disabled() {
            if begun.elapsed() >= DISABLE_LIMIT {
                return Err(Errno::TIMEDOUT);
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    }

    fn is_disabled(&self) -> bool {
        self.thread.call(is_ready) == Some(false)
    }
}

fn is_ready(model: &mut Model) -> bool {
    // What a 4-byte read returns fits.
    u32::try_from(model.read_reg(Csts::OFFSET, 4)).is_ok_and(|raw| Csts::from_raw(raw).rdy())
}

fn new_doorbells(bytes: usize) -> Result<Memfd, ServerError> {
    let file = Memfd::create("nvme-bar0", DOORBELLS_AT + bytes, PageSize::Small4K)?;
    // A client that shortened it would take our doorbells away.
    file.seal_size()?;
    Ok(file)
}

fn inside(at: u64, count: usize, size: u64) -> bool {
    at.checked_add(count as u64).is_some_and(|end| end <= size)
}

/// The structure at the start of a request.
fn structure<T: FromBytes + zerocopy::KnownLayout + zerocopy::Immutable>(
    payload: &[u8],
) -> Result<T, Errno> {
    T::read_from_prefix(payload).map(|(value, _)| value).map_err(|_| Errno::INVAL)
}

fn version(payload: &[u8]) -> Answer {
    let theirs: Version = structure(payload)?;
    if theirs.major.get() != MAJOR {
        return Err(Errno::INVAL);
    }
    Capabilities::parse(&payload[size_of::<Version>()..]).ok_or(Errno::INVAL)?;
    let minor = theirs.minor.get().min(MINOR);
    let ours = Version { major: U16::new(MAJOR), minor: U16::new(minor) };
    let said = Capabilities { max_msg_fds: MAX_FDS as u64, max_data_xfer_size: 4096 };
    Ok([ours.as_bytes(), &said.to_bytes()].concat())
}

fn device_info(payload: &[u8]) -> Answer {
    let ask: DeviceInfo = structure(payload)?;
    if (ask.argsz.get() as usize) < size_of::<DeviceInfo>() {
        return Err(Errno::INVAL);
    }
    let info = DeviceInfo {
        argsz: U32::new(16),
        flags: U32::new(DeviceInfo::FLAG_PCI | DeviceInfo::FLAG_RESET),
        num_regions: U32::new(REGIONS),
        num_irqs: U32::new(IRQS),
    };
    Ok(info.as_bytes().to_vec())
}

/// No descriptor stands for a doorbell: they are polled.
fn region_io_fds(payload: &[u8]) -> Answer {
    // Four words: argsz, flags, index, count.
    let ask: [U32; 4] = structure(payload)?;
    let [argsz, flags, index, count] = ask.map(U32::get);
    if argsz < 16 || flags != 0 || count != 0 || index >= REGIONS {
        return Err(Errno::INVAL);
    }
    Ok([16, 0, index, 0].map(U32::new).as_bytes().to_vec())
}

fn irq_info(payload: &[u8]) -> Answer {
    let ask: IrqInfo = structure(payload)?;
    let index = ask.index.get();
    if (ask.argsz.get() as usize) < size_of::<IrqInfo>() || index >= IRQS {
        return Err(Errno::INVAL);
    }
    let count = if index == IRQ_MSIX { MSIX_VECTORS.into() } else { 0 };
    let flags = if count == 0 { 0 } else { IRQ_FLAGS };
    let info = IrqInfo {
        argsz: U32::new(16),
        flags: U32::new(flags),
        index: ask.index,
        count: U32::new(count),
    };
    Ok(info.as_bytes().to_vec())
}

/// Interrupts may be switched off. A client that wants some is told that none will come.
fn set_irqs(payload: &[u8]) -> Answer {
    let ask: SetIrqs = structure(payload)?;
    if ask.index.get() >= IRQS {
        return Err(Errno::INVAL);
    }
    if ask.count.get() == 0 { Ok(Vec::new()) } else { Err(Errno::NOTSUP) }
}
