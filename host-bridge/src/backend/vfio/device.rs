//! An open function: container, registers, interrupts of its own kind, and the way back.
//!
//! ```text
//!  open    by the group or by iommufd   (busy: tried again until a deadline)
//!  map     addresses from the IOMMU's ranges, one mapping of the whole DMA memory
//!  reset   VFIO_DEVICE_RESET where there is one; CC.EN cleared where it was left set
//!  start   memory space and bus master on, INTx off, each read back
//!  close   CC.EN cleared, bus master off, what was there before, unmap, let go
//! ```
//! Reset comes before bus master, so that nothing which a driver before us had in flight reaches
//! our memory.
//!
//! `vfio-ioctls` opens and describes. Its `Drop` looks for the function in sysfs and panics when it
//! was unplugged meanwhile, so [`Space::let_go`] drops it only while it is there, and otherwise
//! closes the descriptors and leaks the rest.

use std::mem::ManuallyDrop;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use core_runtime::mem::{DmaRegion, Iova, IovaAllocator, IovaRange, MSI_WINDOW, Mmio, PAGE_4K};
use hybrid_conventions::Bdf;
use nvme_spec::registers::{Cap, Cc, Csts, Register, Version};
use rustix::io::Errno;
use vfio_bindings::bindings::vfio as abi;
use vfio_ioctls::{VfioDevice, VfioRegionInfoCap};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::bar::{Area, mappable};
use super::config_space::{self, Command, ConfigAccess};
use super::error::VfioError;
use super::probe::Found;
use super::way::{Mappings, Space, open_until};
use crate::memory::SharedMemory;
use crate::sys::bar::MappedBar;
use crate::sys::mapping::ALIGNMENT;
use crate::sys::vfio as sys;

/// How long a busy group is tried again: its last owner's end takes a function reset, 100 ms and
/// more.
pub const BUSY_LIMIT: Duration = Duration::from_secs(5);
/// Least time for a controller to stop, whatever CAP.TO says.
const LEAST_STOP_MS: u64 = 2_000;

/// A function that is ours.
pub struct Device {
    bdf: Bdf,
    found: Found,
    space: Space,
    device: ManuallyDrop<VfioDevice>,
    bar: MappedBar,
    mmio: Mmio,
    command_before: Command,
    dma: Option<DmaRegion>,
    cap: Cap,
}

/// What a look at the command register showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// As it should be.
    Well,
    /// Bus mastering was off, or INTx on; put right.
    Repaired,
    /// Memory space is off: its registers do not answer, as after a reset behind our back.
    Off,
    /// Nobody answers.
    Gone,
}

/// What the kernel says through eventfds.
pub struct Notices {
    /// The function is to be given up: it is being removed, or its driver unbound.
    pub request: EventFd,
    /// An uncorrectable error on the bus.
    pub error: EventFd,
}

impl Notices {
    /// Two of them, about which the kernel is told later ([`Device::notify`]).
    ///
    /// # Errors
    /// What the kernel said.
    pub fn new(bdf: Bdf) -> Result<Self, VfioError> {
        let make = || {
            EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(|error| {
                let source = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                VfioError::Step { bdf, step: "making an eventfd", source }
            })
        };
        Ok(Self { request: make()?, error: make()? })
    }
}

impl Device {
    /// Opens the function, makes `dma` reachable for it and starts it, in the order above.
    ///
    /// # Errors
    /// [`VfioError`]; what was opened is closed again.
    pub fn open(found: Found, memory: &SharedMemory) -> Result<Self, VfioError> {
        let bdf = found.bdf;
        let (space, device) = open_until(&found, BUSY_LIMIT)?;
        let (command_before, bar) = match Self::look_and_map(bdf, &device) {
            Ok(seen) => seen,
            Err(error) => {
                space.let_go(device, found.is_there());
                return Err(error);
            }
        };
        let mut this = Self {
            bdf,
            mmio: Mmio::new(bar.span()),
            found,
            space,
            device,
            bar,
            command_before,
            dma: None,
            cap: Cap::from_raw(0),
        };
        match this.start(memory) {
            Ok(()) => Ok(this),
            Err(error) => {
                let gone = matches!(error, VfioError::Gone { .. });
                this.close(gone);
                Err(error)
            }
        }
    }

    /// The command register as it was, and BAR 0.
    fn look_and_map(bdf: Bdf, device: &VfioDevice) -> Result<(Command, MappedBar), VfioError> {
        let config = Config(device);
        let step = VfioError::step(bdf, "reading the command register");
        let command_before = config_space::command(&config).map_err(step)?;
        Ok((command_before, Self::map_registers(bdf, device, &config)?))
    }

    /// BAR 0, as far as it may be mapped.
    fn map_registers(
        bdf: Bdf,
        device: &VfioDevice,
        config: &Config<'_>,
    ) -> Result<MappedBar, VfioError> {
        let index = abi::VFIO_PCI_BAR0_REGION_INDEX;
        let flags = device.get_region_flags(index);
        if flags & abi::VFIO_REGION_INFO_FLAG_MMAP == 0 {
            return Err(VfioError::Bar { bdf, source: super::bar::BarError::NotMappable(flags) });
        }
        let mut sparse = Vec::new();
        for cap in device.get_region_caps(index) {
            if let VfioRegionInfoCap::SparseMmap(areas) = cap {
                sparse.extend(areas.areas.iter().map(|a| Area { offset: a.offset, len: a.size }));
            }
        }
        let msix = config_space::msix_table_in_bar0(config)
            .map_err(VfioError::step(bdf, "reading the msi-x capability"))?;
        let len = mappable(device.get_region_size(index), &sparse, msix)
            .map_err(|source| VfioError::Bar { bdf, source })?;
        let offset = device.get_region_offset(index);
        MappedBar::new(sys::borrow(device), offset, usize::try_from(len).unwrap_or(usize::MAX))
            .map_err(VfioError::step(bdf, "mapping bar 0"))
    }

    fn start(&mut self, memory: &SharedMemory) -> Result<(), VfioError> {
        self.dma = Some(map(self.bdf, &self.space, memory)?);
        self.reset();
        let quiet = (self.command_before | Command::MEMORY | Command::NO_INTX)
            .difference(Command::BUS_MASTER);
        config_space::set_command(self.bdf, &Config(&self.device), quiet)?;
        self.cap = self.identity()?;
        self.stop_controller()?;
        config_space::set_command(self.bdf, &Config(&self.device), quiet | Command::BUS_MASTER)
    }

    /// CAP and VS of a device that is there.
    fn identity(&self) -> Result<Cap, VfioError> {
        let (cap, version) = (self.read64(Cap::OFFSET), self.read32(Version::OFFSET));
        let gone = |seen| VfioError::Gone { bdf: self.bdf, seen };
        match (cap, version) {
            (u64::MAX, _) | (_, u32::MAX) => Err(gone("all ones")),
            (0, 0) => Err(gone("all zeros")),
            _ => Ok(Cap::from_raw(cap)),
        }
    }

    /// Resets the function where it can be; where not, clearing CC.EN must do.
    fn reset(&self) {
        let _ = sys::reset_device(sys::borrow(&*self.device));
    }

    /// Clears CC.EN and waits for CSTS.RDY = 0: no transfer comes after that.
    fn stop_controller(&self) -> Result<(), VfioError> {
        let cc = Cc::from_raw(self.read32(Cc::OFFSET));
        let begun = Instant::now();
        if cc.en() {
            // Bounds were checked when the BAR was mapped.
            let _ = self.mmio.write32(Cc::OFFSET as usize, cc.with_en(false).into_raw());
        }
        let limit_ms = (u64::from(self.cap.to()) * 500).max(LEAST_STOP_MS);
        loop {
            let raw = self.read32(Csts::OFFSET);
            if raw == u32::MAX {
                return Err(VfioError::Gone { bdf: self.bdf, seen: "all ones" });
            }
            if !Csts::from_raw(raw).rdy() {
                return Ok(());
            }
            if begun.elapsed() >= Duration::from_millis(limit_ms) {
                return Err(VfioError::StillEnabled { bdf: self.bdf, limit_ms });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn read32(&self, offset: u32) -> u32 {
        self.mmio.read32(offset as usize).unwrap_or(u32::MAX)
    }

    fn read64(&self, offset: u32) -> u64 {
        self.mmio.read64(offset as usize).unwrap_or(u64::MAX)
    }

    /// The function, as it was found.
    pub const fn found(&self) -> &Found {
        &self.found
    }

    /// Registers and doorbells.
    pub fn registers(&self) -> hybrid_shm::Span<'static> {
        self.bar.span()
    }

    /// The DMA memory and where the device sees it.
    pub const fn dma(&self) -> Option<DmaRegion> {
        self.dma
    }

    /// Asks the kernel to tell of removals and errors.
    ///
    /// # Errors
    /// What the kernel said. A kernel without one of the two tells the other.
    pub fn notify(&self, notices: &Notices) -> Result<(), VfioError> {
        for (index, fd) in [
            (abi::VFIO_PCI_REQ_IRQ_INDEX, &notices.request),
            (abi::VFIO_PCI_ERR_IRQ_INDEX, &notices.error),
        ] {
            if self.device.get_irq_info(index).is_some_and(|irq| irq.count > 0) {
                self.device
                    .enable_irq(index, vec![fd])
                    .map_err(|source| VfioError::Vfio { bdf: self.bdf, source })?;
            }
        }
        Ok(())
    }

    /// Looks whether the function still answers and may reach memory; puts right what is not.
    pub fn watch(&self) -> Seen {
        watch(self.bdf, &Config(&self.device))
    }

    /// Stops the controller, puts back what was there, and lets go of everything. `gone`: the
    /// function was removed, or is being removed, so its registers are left alone. Returns what did
    /// not go as it should.
    pub fn close(mut self, gone: bool) -> Vec<String> {
        let mut problems = Vec::new();
        let gone = gone || self.bar.faulted() || self.identity().is_err();
        if !gone && let Err(error) = self.put_back() {
            problems.push(error.to_string());
        }
        if let Some(dma) = self.dma.take() {
            problems.extend(unmap(self.bdf, &self.space, &dma));
        }
        if let Err(errno) = self.bar.cover() {
            problems.push(format!("{}: its registers stay mapped: {errno}", self.bdf));
        }
        self.release(gone);
        problems
    }

    fn put_back(&self) -> Result<(), VfioError> {
        let stopped = self.stop_controller();
        let config = Config(&self.device);
        let off = config_space::command(&config)
            .map_err(VfioError::step(self.bdf, "reading the command register"))?
            .difference(Command::BUS_MASTER);
        config_space::set_command(self.bdf, &config, off)?;
        self.reset();
        let before = self.command_before.difference(Command::BUS_MASTER);
        config_space::set_command(self.bdf, &config, before)?;
        stopped
    }

    fn release(self, gone: bool) {
        let Self { space, device, bar, found, .. } = self;
        drop(bar);
        space.let_go(device, !gone && found.is_there());
    }
}

/// Makes all of `memory` reachable for the device, as one mapping. Every error of the kernel's is
/// one of ours: a range that is taken (`EEXIST`) is somebody else's mapping, not this one.
fn map(bdf: Bdf, space: &impl Mappings, memory: &SharedMemory) -> Result<DmaRegion, VfioError> {
    let info = space.info().map_err(VfioError::step(bdf, "asking for the iommu's addresses"))?;
    if info.page_sizes & PAGE_4K == 0 {
        return Err(VfioError::PageSizes { bdf, sizes: info.page_sizes });
    }
    if info.maps_left == Some(0) {
        return Err(VfioError::MapsUsedUp { bdf });
    }
    let mapped = &memory.mapped;
    let iova = address_for(&info.ranges, mapped.len() as u64, mapped.page().bytes())
        .map_err(|source| VfioError::Iova { bdf, source })?;
    match space.map(iova.0, mapped) {
        Ok(()) => Ok(DmaRegion { span: mapped.span(), iova, page_bytes: mapped.page().bytes() }),
        Err(Errno::NOSPC) => Err(VfioError::MapsUsedUp { bdf }),
        Err(errno) => Err(VfioError::step(bdf, "mapping the dma memory")(errno)),
    }
}

/// Takes the mapping away; what is wrong with the kernel's answer, if anything.
fn unmap(bdf: Bdf, space: &impl Mappings, dma: &DmaRegion) -> Option<String> {
    let wanted = dma.len() as u64;
    match space.unmap(dma.iova.0, wanted) {
        Ok(len) if len == wanted => None,
        Ok(len) => Some(format!("{bdf}: {len} of {wanted} bytes of dma memory were unmapped")),
        Err(errno) => Some(format!("{bdf}: unmapping the dma memory failed: {errno}")),
    }
}

/// Memory space is never switched on again: who looks at the registers meanwhile finds them gone,
/// and behind a reset there would be another controller than the one that was brought up.
fn watch(bdf: Bdf, config: &impl ConfigAccess) -> Seen {
    let ours = Command::MEMORY | Command::BUS_MASTER | Command::NO_INTX;
    match config_space::command(config) {
        Ok(command) if command.bits() == u16::MAX => Seen::Gone,
        Err(_) => Seen::Gone,
        Ok(command) if command.contains(ours) => Seen::Well,
        Ok(command) if !command.contains(Command::MEMORY) => Seen::Off,
        Ok(command) => match config_space::set_command(bdf, config, command | ours) {
            Ok(()) => Seen::Repaired,
            Err(_) => Seen::Gone,
        },
    }
}

/// The lowest addresses of the IOMMU's that hold `len` bytes, aligned as the memory is.
///
/// # Errors
/// [`core_runtime::mem::IovaError`].
pub fn address_for(
    ranges: &[IovaRange],
    len: u64,
    page_bytes: usize,
) -> Result<Iova, core_runtime::mem::IovaError> {
    // A kernel that does not tell: what every IOMMU has, without the window of interrupts.
    const UNKNOWN: [IovaRange; 1] = [IovaRange::of_width(39)];
    let mut addresses = IovaAllocator::new(if ranges.is_empty() { &UNKNOWN } else { ranges })?;
    addresses.reserve(MSI_WINDOW)?;
    addresses.alloc(len, page_bytes.max(ALIGNMENT) as u64)
}

/// Configuration space, through the device's file; short reads and writes are errors.
struct Config<'a>(&'a VfioDevice);

impl Config<'_> {
    fn at(&self, offset: u64, len: usize) -> Result<(BorrowedFd<'_>, u64), Errno> {
        let index = abi::VFIO_PCI_CONFIG_REGION_INDEX;
        let end = offset.checked_add(len as u64).ok_or(Errno::INVAL)?;
        if end > self.0.get_region_size(index) {
            return Err(Errno::INVAL);
        }
        Ok((sys::borrow(self.0), self.0.get_region_offset(index) + offset))
    }
}

impl ConfigAccess for Config<'_> {
    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Errno> {
        let (fd, at) = self.at(offset, bytes.len())?;
        let wanted = bytes.len();
        if rustix::io::pread(fd, bytes, at)? == wanted { Ok(()) } else { Err(Errno::IO) }
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        let (fd, at) = self.at(offset, bytes.len())?;
        if rustix::io::pwrite(fd, bytes, at)? == bytes.len() { Ok(()) } else { Err(Errno::IO) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemorySource;
    use crate::sys::mapping::Mapped;
    use crate::sys::memfd::PageSize;
    use crate::warnings::Warnings;
    use std::cell::{Cell, RefCell};

    /// What `vfio_iommu_type1` keeps: ranges that do not overlap, up to a limit; an unmap takes
    /// away what lies wholly inside, says how much that was, and is no error for nothing.
    struct Kernel {
        limit: usize,
        tells_limit: bool,
        mapped: RefCell<Vec<(u64, u64)>>,
    }

    impl Kernel {
        const fn of(limit: usize) -> Self {
            Self { limit, tells_limit: true, mapped: RefCell::new(Vec::new()) }
        }
    }

    impl Mappings for Kernel {
        fn info(&self) -> Result<sys::IommuInfo, Errno> {
            let left = self.limit - self.mapped.borrow().len();
            let maps_left = u32::try_from(left).ok().filter(|_| self.tells_limit);
            Ok(sys::IommuInfo { page_sizes: PAGE_4K, ranges: Vec::new(), maps_left })
        }

        fn map(&self, iova: u64, memory: &Mapped) -> Result<(), Errno> {
            let (mut mapped, end) = (self.mapped.borrow_mut(), iova + memory.len() as u64);
            if mapped.iter().any(|(first, last)| iova < *last && *first < end) {
                return Err(Errno::EXIST);
            }
            if mapped.len() == self.limit {
                return Err(Errno::NOSPC);
            }
            mapped.push((iova, end));
            Ok(())
        }

        fn unmap(&self, iova: u64, len: u64) -> Result<u64, Errno> {
            let mut mapped = self.mapped.borrow_mut();
            let inside = |(first, last): &(u64, u64)| iova <= *first && *last <= iova + len;
            let bytes = mapped.iter().filter(|range| inside(range)).map(|(a, b)| b - a).sum();
            mapped.retain(|range| !inside(range));
            Ok(bytes)
        }
    }

    fn memory(len: usize) -> SharedMemory {
        let source = MemorySource::new(PageSize::Small4K, len, Warnings::to(|_| {}));
        source.shared("test-dma", len).expect("memory")
    }

    fn bdf() -> Bdf {
        "03:00.0".parse().expect("an address")
    }

    #[test]
    fn a_range_that_is_mapped_already_is_an_error_and_what_was_there_stays() {
        let (kernel, memory) = (Kernel::of(8), memory(1 << 20));
        let dma = map(bdf(), &kernel, &memory).expect("room");
        let before = kernel.mapped.borrow().clone();
        // The addresses begin where they did: the second one meets the first.
        let error = map(bdf(), &kernel, &memory).expect_err("taken");
        let taken = VfioError::step(bdf(), "mapping the dma memory")(Errno::EXIST);
        assert_eq!(error.to_string(), taken.to_string());
        assert_eq!(*kernel.mapped.borrow(), before);
        assert_eq!(unmap(bdf(), &kernel, &dma), None);
        map(bdf(), &kernel, &memory).expect("room again");
    }

    #[test]
    fn an_unmap_that_took_other_than_all_of_it_is_a_problem() {
        let (kernel, memory) = (Kernel::of(8), memory(1 << 20));
        let dma = map(bdf(), &kernel, &memory).expect("room");
        let (first, end) = kernel.mapped.borrow()[0];
        assert_eq!((first, end - first), (dma.iova.0, dma.len() as u64), "one mapping, whole");
        // Half of it, as if somebody had mapped it in two; then nothing, which is no error either.
        *kernel.mapped.borrow_mut() =
            vec![(first, first + (1 << 19)), (first + (1 << 19), end + 1)];
        for taken in [1 << 19, 0] {
            let line = unmap(bdf(), &kernel, &dma).expect("a problem");
            let all = dma.len();
            assert!(line.ends_with(&format!("{taken} of {all} bytes of dma memory were unmapped")));
        }
    }

    #[test]
    fn one_mapping_is_enough_for_any_memory_and_none_is_told_with_the_remedy() {
        let (one, large) = (Kernel::of(1), memory(8 << 20));
        let dma = map(bdf(), &one, &large).expect("one is enough");
        assert_eq!((one.mapped.borrow().len(), dma.len()), (1, 8 << 20));
        // A kernel that tells how many are left is believed, one that does not says so itself.
        for tells_limit in [true, false] {
            let none = Kernel { tells_limit, ..Kernel::of(0) };
            let error = map(bdf(), &none, &large).expect_err("none is left");
            assert!(matches!(error, VfioError::MapsUsedUp { .. }), "{error}");
            assert!(error.to_string().contains("echo 65535 > /sys/module/vfio_iommu_type1"));
        }
    }

    /// A command register; `None` is a function that cannot be asked.
    struct Fake(Cell<Option<u16>>);

    impl ConfigAccess for Fake {
        fn read(&self, _offset: u64, bytes: &mut [u8]) -> Result<(), Errno> {
            bytes.copy_from_slice(&self.0.get().ok_or(Errno::IO)?.to_le_bytes());
            Ok(())
        }

        fn write(&self, _offset: u64, bytes: &[u8]) -> Result<(), Errno> {
            self.0.set(Some(u16::from_le_bytes(bytes.try_into().map_err(|_| Errno::IO)?)));
            Ok(())
        }
    }

    #[test]
    fn bus_mastering_is_put_right_and_memory_space_that_is_off_stays_off() {
        let bdf = "03:00.0".parse().expect("an address");
        for (before, seen, after) in [
            (Some(0x0406), Seen::Well, Some(0x0406)),
            (Some(0x0402), Seen::Repaired, Some(0x0406)),
            (Some(0x0006), Seen::Repaired, Some(0x0406)),
            // What a bus reset leaves, and what `setpci` may.
            (Some(0x0000), Seen::Off, Some(0x0000)),
            (Some(0x0404), Seen::Off, Some(0x0404)),
            (Some(0xffff), Seen::Gone, Some(0xffff)),
            (None, Seen::Gone, None),
        ] {
            let fake = Fake(Cell::new(before));
            assert_eq!((watch(bdf, &fake), fake.0.get()), (seen, after), "{before:04x?}");
        }
    }

    #[test]
    fn addresses_avoid_the_window_of_interrupts_whatever_the_kernel_says() {
        let two_mib = 2 << 20;
        assert_eq!(address_for(&[], two_mib, 4096), Ok(Iova(two_mib)));
        let all = [IovaRange { first: 0, last: u64::MAX }];
        let iova = address_for(&all, 4 << 30, 2 << 20).expect("room");
        assert!(iova.0 > MSI_WINDOW.last && iova.0.is_multiple_of(two_mib), "{iova}");
        let narrow = [IovaRange { first: 0, last: 0xfedf_ffff }];
        assert!(address_for(&narrow, 4 << 30, 2 << 20).is_err());
    }
}
