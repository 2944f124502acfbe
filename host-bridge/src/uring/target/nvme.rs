//! NVMe nodes: `/dev/ngXnY`, which take commands.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nvme_spec::{Cns, IdentifyController, IdentifyNamespace, OptionalNvmCommands};
use zerocopy::FromBytes;

use super::queue::Queue;
use super::{Limits, Target, TargetWish, Way, open as open_path};
use crate::sys::uring::ZeroMode;
use crate::sys::uring::file::{nvme_identify, nvme_nsid};
use crate::uring::error::UringError;

/// Opens the node, asks controller and namespace, and keeps others from the disk meanwhile.
pub(super) fn open(wish: &TargetWish) -> Result<Target, UringError> {
    let path = &wish.path;
    match std::fs::metadata(path) {
        Ok(meta) if meta.file_type().is_char_device() => {}
        Ok(meta) => {
            return Err(UringError::WrongKind { path: path.clone(), kind: super::kind_of(&meta) });
        }
        Err(_) => {
            let fix = "it needs Linux 5.13 and an nvme drive on the kernel's driver".to_owned();
            return Err(UringError::NotThere { path: path.clone(), fix });
        }
    }
    let guard = if wish.write { hold_disk(path)? } else { None };
    let file = open_path(wish, 0, false)?;
    let said =
        |what| move |errno| UringError::Storage { path: path.clone(), what, errno, hint: "" };
    let nsid = nvme_nsid(file.as_fd()).map_err(said("asking for its namespace"))?;
    let controller = nvme_identify(file.as_fd(), Cns::CONTROLLER, 0)
        .map_err(said("identify controller (it needs CAP_SYS_ADMIN, or Linux 6.2)"))?;
    let namespace = nvme_identify(file.as_fd(), Cns::NAMESPACE, nsid)
        .map_err(said("identify namespace (it needs CAP_SYS_ADMIN, or Linux 6.2)"))?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let disk = Path::new("/sys/class/block").join(name.replacen("ng", "nvme", 1));
    let queue = Queue::under(&disk);
    let mut limits = limits(&controller, &namespace, &queue)
        .map_err(|why| UringError::Namespace { path: path.clone(), why })?;
    let mut steps = Vec::new();
    limits.iopoll = wish.iopoll && queue.polled(path, &mut steps);
    if !wish.write {
        (limits.zeroes, limits.discard) = (None, None);
    }
    let way = Way::Passthrough { nsid };
    let (path, write) = (path.clone(), wish.write);
    Ok(Target { file, _guard: guard, path, way, limits, write, steps })
}

/// Opens the block device of the same namespace exclusively, so that nobody mounts it meanwhile
/// and nobody has it mounted now.
fn hold_disk(node: &Path) -> Result<Option<OwnedFd>, UringError> {
    let name = node.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let disk = Path::new("/dev").join(name.replacen("ng", "nvme", 1));
    let mut options = std::fs::OpenOptions::new();
    options.read(true).custom_flags(libc::O_EXCL | libc::O_CLOEXEC);
    match options.open(&disk) {
        Ok(file) => Ok(Some(file.into())),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            Err(UringError::InUse { path: disk })
        }
        // A namespace that the block layer does not know has no disk.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(super::storage(&disk, "opening it exclusively", &error)),
    }
}

/// What identify data and the queue's limits allow.
fn limits(
    controller: &[u8; 4096],
    namespace: &[u8; 4096],
    queue: &Queue,
) -> Result<Limits, String> {
    let bad = |_| "its identify data are cut short".to_owned();
    let (controller, _) =
        IdentifyController::read_from_prefix(controller).map_err(|error| bad(error.to_string()))?;
    let (namespace, _) =
        IdentifyNamespace::read_from_prefix(namespace).map_err(|error| bad(error.to_string()))?;
    let format = namespace.current_format();
    let format = format.ok_or_else(|| "its format is not listed".to_owned())?;
    let lbads = format.lbads();
    if !(9..=16).contains(&lbads) {
        return Err(format!("block size of 2^{lbads} bytes, allowed is 2^9 to 2^16"));
    }
    if format.ms() != 0 || namespace.dps & 7 != 0 {
        return Err("its format carries metadata or protection information".to_owned());
    }
    let blocks = namespace.nsze.get();
    if blocks == 0 {
        return Err("size of 0 blocks".to_owned());
    }
    let lba_bytes = 1_u32 << lbads;
    // As many bytes as an offset of the kernel's can have: no product of ours is longer.
    let most_blocks = i64::MAX.unsigned_abs() >> lbads;
    if blocks > most_blocks {
        return Err(format!(
            "size of {blocks} blocks of {lba_bytes} bytes, allowed are at most {most_blocks}"
        ));
    }
    // Passthrough is not cut by the kernel: pages that lie apart are a segment each.
    let segments = queue.number("max_segments").unwrap_or(33).clamp(2, 1 << 12);
    let kib = queue.number("max_hw_sectors_kb").unwrap_or(128).clamp(4, 1 << 14);
    let mut most = ((segments - 1) * 4096).min(kib << 10);
    if (1..16).contains(&controller.mdts) {
        most = most.min(4096 << controller.mdts);
    }
    let most = u32::try_from(most).unwrap_or(128 << 10);
    let offers = OptionalNvmCommands::from_bits_retain(controller.oncs.get());
    let can = |command, mode: ZeroMode| offers.contains(command).then_some(mode);
    Ok(Limits {
        lba_bytes,
        blocks,
        max_transfer_bytes: (most - most % lba_bytes).max(lba_bytes),
        buffer_align: 4,
        zeroes: can(OptionalNvmCommands::WRITE_ZEROES, ZeroMode::ZERO_RANGE),
        discard: can(OptionalNvmCommands::DATASET_MANAGEMENT, ZeroMode::PUNCH_HOLE),
        write_cache: controller.vwc & 1 != 0,
        iopoll: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Identify data of a namespace of so many blocks of 4 KiB, and its controller's.
    fn identify(blocks: u64) -> ([u8; 4096], [u8; 4096]) {
        let mut namespace = [0; 4096];
        namespace[..8].copy_from_slice(&blocks.to_le_bytes());
        // LBA format 0: 2^12 bytes.
        namespace[130] = 12;
        ([0; 4096], namespace)
    }

    #[test]
    fn a_size_beyond_the_kernels_offsets_is_refused_with_both_numbers() {
        let queue = Queue::under(Path::new("/nowhere"));
        let most = u64::MAX >> 13;
        let (controller, namespace) = identify(most);
        let good = limits(&controller, &namespace, &queue).expect("the greatest");
        assert_eq!((good.blocks, good.lba_bytes), (most, 4096));
        assert!(good.blocks.checked_mul(4096).is_some());
        for blocks in [most + 1, 1 << 52, u64::MAX] {
            let (controller, namespace) = identify(blocks);
            let why = limits(&controller, &namespace, &queue).expect_err("too large");
            assert!(why.contains(&blocks.to_string()), "{why}");
            assert!(why.contains(&most.to_string()), "{why}");
        }
        let (controller, namespace) = identify(0);
        let why = limits(&controller, &namespace, &queue).expect_err("nothing");
        assert_eq!(why, "size of 0 blocks");
    }
}
