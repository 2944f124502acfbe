//! What a file, a block device and an NVMe node say of themselves.
//!
//! The invariants are those of [`super`].

use std::os::fd::{AsRawFd, BorrowedFd};

use nvme_spec::{AdminOpcode, Cns};
use rustix::io::Errno;

/// Alignments that direct I/O on a file wants, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DioAlign {
    /// Of the memory.
    pub memory: u32,
    /// Of offset and length; 0 where direct I/O is not to be had.
    pub offset: u32,
}

/// Asks a file for its alignments; `None` where the kernel does not tell (before Linux 6.1, and
/// some filesystems).
///
/// # Errors
/// What the kernel said.
pub fn dio_align(file: BorrowedFd<'_>) -> Result<Option<DioAlign>, Errno> {
    let mut answer = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: invariant 3; the path is a literal, and the answer is a structure of its type.
    let done = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            answer.as_mut_ptr(),
        )
    };
    if done != 0 {
        return Err(last());
    }
    // SAFETY: zeroed, and all of its fields are numbers.
    let answer = unsafe { answer.assume_init() };
    if answer.stx_mask & libc::STATX_DIOALIGN == 0 {
        return Ok(None);
    }
    Ok(Some(DioAlign { memory: answer.stx_dio_mem_align, offset: answer.stx_dio_offset_align }))
}

/// `_IO(0x12, 104)`: bytes of a logical block.
const BLKSSZGET: u64 = 0x1268;
/// `_IOR(0x12, 114, size_t)`: bytes of the device.
const BLKGETSIZE64: u64 = 0x8008_1272;
/// `_IO('N', 0x40)`: the namespace's number.
const NVME_IOCTL_ID: u64 = 0x4E40;
/// `_IOWR('N', 0x41, struct nvme_admin_cmd)`.
const NVME_IOCTL_ADMIN_CMD: u64 = 0xC048_4E41;

/// Bytes of a block device's logical block, and of the device.
///
/// # Errors
/// What the kernel said.
pub fn block_size(device: BorrowedFd<'_>) -> Result<(u32, u64), Errno> {
    let mut block: libc::c_int = 0;
    // SAFETY: invariant 3: the request writes an int.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKSSZGET, &raw mut block) })?;
    let mut bytes = 0_u64;
    // SAFETY: invariant 3: the request writes 64 bits.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKGETSIZE64, &raw mut bytes) })?;
    Ok((u32::try_from(block).map_err(|_| Errno::INVAL)?, bytes))
}

/// The namespace behind an NVMe node.
///
/// # Errors
/// What the kernel said: `ENOTTY` where it is no such node.
pub fn nvme_nsid(node: BorrowedFd<'_>) -> Result<u32, Errno> {
    // SAFETY: the request takes no argument.
    let nsid = unsafe { libc::ioctl(node.as_raw_fd(), NVME_IOCTL_ID) };
    check(nsid)?;
    u32::try_from(nsid).map_err(|_| Errno::INVAL)
}

/// `struct nvme_passthru_cmd`, 72 bytes.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct NvmeAdmin {
    /// Opcode of the admin command set.
    pub opcode: u8,
    flags: u8,
    reserved: u16,
    /// Namespace, or 0.
    pub nsid: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    addr: u64,
    metadata_len: u32,
    data_len: u32,
    /// Dword 10.
    pub cdw10: u32,
    cdw11: u32,
    cdw12: u32,
    cdw13: u32,
    cdw14: u32,
    cdw15: u32,
    timeout_ms: u32,
    result: u32,
}

const _: () = assert!(size_of::<NvmeAdmin>() == 72);

/// Identify: an admin command that only reads.
///
/// # Errors
/// What the kernel said; `EIO` for a status of the controller.
pub fn nvme_identify(node: BorrowedFd<'_>, cns: Cns, nsid: u32) -> Result<[u8; 4096], Errno> {
    let mut data = [0; 4096];
    let mut command = NvmeAdmin {
        opcode: AdminOpcode::IDENTIFY.0,
        nsid,
        addr: data.as_mut_ptr() as u64,
        data_len: 4096,
        cdw10: cns.0.into(),
        timeout_ms: 5_000,
        ..NvmeAdmin::default()
    };
    // SAFETY: invariant 3; identify writes the 4,096 bytes that the command names.
    let status = unsafe { libc::ioctl(node.as_raw_fd(), NVME_IOCTL_ADMIN_CMD, &raw mut command) };
    check(status)?;
    if status == 0 { Ok(data) } else { Err(Errno::IO) }
}

/// Zeroes nothing: punches a hole behind the end of a file, which only works where holes do.
///
/// # Errors
/// What the kernel said.
pub fn try_hole(file: BorrowedFd<'_>, at: u64, len: u64) -> Result<(), Errno> {
    let (at, len) = (at.min(i64::MAX as u64), len.min(i64::MAX as u64));
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    #[expect(clippy::cast_possible_wrap, reason = "bounded above")]
    // SAFETY: the call takes numbers only.
    check(unsafe { libc::fallocate(file.as_raw_fd(), mode, at as i64, len as i64) })
}

fn check(returned: libc::c_int) -> Result<(), Errno> {
    if returned < 0 { Err(last()) } else { Ok(()) }
}

fn last() -> Errno {
    let error = std::io::Error::last_os_error();
    Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO))
}
