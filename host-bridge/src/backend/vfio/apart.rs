//! A function that the partition's own process opens, and what its host keeps.
//!
//! Nobody but that process ever holds the device: when it dies, the kernel resets the function and
//! unmaps its memory before the end of the process can be seen. The host keeps two eventfds, which
//! the partition has the kernel write to when the function is to be given up or its bus has an
//! error, and the word that tells the partition so.

use std::os::fd::OwnedFd;

use hybrid_conventions::Bdf;
use hybrid_shm::Span;

use super::{VfioError, open};
use crate::backend::{BackendError, DeviceIngredients};
use crate::memory::{MemorySource, SharedMemory};

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
    notices: &[OwnedFd],
) -> Result<DeviceIngredients, BackendError> {
    let device = open(bdf, dma, memory)?;
    let _ = notices;
    let (registers, region) = (device.registers(), device.dma());
    let Some(region) = region else {
        // `open` maps it, or fails.
        device.close(false);
        return Err(VfioError::NoModule { module: "vfio_iommu_type1" }.into());
    };
    let ingredients = DeviceIngredients::by_bar(registers, gone, region)?;
    // For the rest of the process's life.
    std::mem::forget(device);
    Ok(ingredients)
}
