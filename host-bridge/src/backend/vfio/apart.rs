//! A function that the partition's own process opens, and what its host keeps.
//!
//! Nobody but that process ever holds the device: when it dies, the kernel resets the function and
//! unmaps its memory before the end of the process can be seen. The host keeps two eventfds, which
//! the partition has the kernel write to when the function is to be given up or its bus has an
//! error, and the word that tells the partition so.
//!
//! What the thread's keeper does beside that is missing here, since only system calls reach the
//! command register: bus mastering that somebody switches off stays off, the driver's resets do not
//! help, and the partition ends; the next one opens the function anew.

use std::os::fd::OwnedFd;
use std::path::Path;

use core_runtime::mem::{DmaRegion, Iova};
use hybrid_abi::handoff::FileRole;
use hybrid_conventions::Bdf;
use hybrid_shm::Span;

use super::device::Notices;
use super::keeper::{Keeping, VfioKeeper};
use super::{NODE_LIMIT, VfioError, VfioOptions, described, look_until, open};
use crate::backend::{Attached, AttachedFile, BackendError, DeviceIngredients, DeviceSeat};
use crate::memory::{MemorySource, SharedMemory};
use crate::sys::memfd::PageSize;
use crate::sys::vfio::{borrow, eventfd};

/// The host's side: looks, and opens nothing.
pub(super) fn attach(
    bdf: Bdf,
    options: VfioOptions,
    seat: &DeviceSeat<'_>,
) -> Result<Attached, BackendError> {
    let found = look_until(Path::new("/"), bdf, NODE_LIMIT)?;
    let gone = seat.memory.shared("hybrid-vfio", 4096)?;
    let notices = Notices::new(bdf)?;
    let mut files = vec![AttachedFile::of(&gone, FileRole::SHARED)?];
    for notice in [&notices.request, &notices.error] {
        files.push(AttachedFile {
            file: borrow(notice).try_clone_to_owned().map_err(BackendError::Descriptors)?,
            role: FileRole::NOTICE,
            offset: 0,
            page: PageSize::Small4K,
            seen: None,
        });
    }
    let mapped = &seat.dma.mapped;
    let page_bytes = mapped.page().bytes();
    // Where the device sees it the partition finds out.
    let dma = DmaRegion { span: mapped.span(), iova: Iova(0), page_bytes };
    let ingredients = DeviceIngredients::of_function(bdf, gone.mapped.span(), dma);
    let keeping = Keeping {
        description: described(&found),
        gone,
        housekeeping: seat.housekeeping,
        give_back: options.give_back,
    };
    let keeper = VfioKeeper::of_process(bdf, notices, keeping)?;
    Ok(Attached { ingredients, files, keeper: Box::new(keeper) })
}

/// Opens the function in the calling process, which keeps it to its end, and has the kernel's
/// notices written to the host's eventfds.
///
/// # Errors
/// [`BackendError`].
pub(crate) fn open_here(
    bdf: Bdf,
    gone: Span<'static>,
    dma: &SharedMemory,
    memory: &MemorySource,
    notices: Vec<OwnedFd>,
) -> Result<DeviceIngredients, BackendError> {
    let device = open(bdf, dma, memory)?;
    let mut fds = notices.into_iter().map(eventfd);
    if let (Some(request), Some(error)) = (fds.next(), fds.next()) {
        // The kernel keeps what it writes to; the descriptors go.
        device.notify(&Notices { request, error })?;
    }
    let Some(region) = device.dma() else {
        // `open` maps it, or fails.
        return Err(VfioError::NoModule { module: "vfio_iommu_type1" }.into());
    };
    let ingredients = DeviceIngredients::by_bar(device.registers(), gone, region)?;
    // For the rest of the process's life.
    std::mem::forget(device);
    Ok(ingredients)
}
