//! What a ring is asked to do, and what it answers.

use std::os::fd::RawFd;

use bitflags::bitflags;
use hybrid_shm::Span;
use io_uring::{cqueue, opcode, squeue, types};
use nvme_spec::{NvmOpcode, Sqe};

/// A file of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    /// A descriptor of this process.
    Fd(RawFd),
    /// Place in the ring's table of registered files.
    Fixed(u32),
}

/// Memory of an operation: all of the span, and the registered buffer that it lies in.
#[derive(Clone, Copy, Debug)]
pub struct Buf {
    /// The bytes.
    pub span: Span<'static>,
    /// Number of the registered buffer; `None` where buffers are not registered.
    pub fixed: Option<u16>,
}

impl Buf {
    /// Length in bytes; the kernel's field has 32 bits.
    #[must_use]
    pub fn len(&self) -> u32 {
        u32::try_from(self.span.len()).unwrap_or(u32::MAX)
    }

    /// Whether it has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.span.is_empty()
    }
}

bitflags! {
    /// How a range of a file becomes zeros (`fallocate`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ZeroMode: i32 {
        /// The file keeps its length.
        const KEEP_SIZE = libc::FALLOC_FL_KEEP_SIZE;
        /// The blocks are given back.
        const PUNCH_HOLE = libc::FALLOC_FL_PUNCH_HOLE;
        /// The blocks are kept.
        const ZERO_RANGE = libc::FALLOC_FL_ZERO_RANGE;
    }
}

/// An NVMe command for `/dev/ngXnY`, as `struct nvme_uring_cmd` has it; address and length of its
/// data are filled in from the operation's buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NvmeIo {
    /// Opcode of the NVM command set.
    pub opcode: u8,
    /// Namespace.
    pub nsid: u32,
    /// Dwords 10 to 15.
    pub cdw: [u32; 6],
    /// How long the kernel's driver waits.
    pub timeout_ms: u32,
}

/// One operation.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// Nothing.
    Nop,
    /// Reads at a byte offset.
    Read {
        /// From where.
        file: File,
        /// Byte offset.
        at: u64,
        /// Where to.
        buf: Buf,
    },
    /// Writes at a byte offset.
    Write {
        /// Where to.
        file: File,
        /// Byte offset.
        at: u64,
        /// From where.
        buf: Buf,
    },
    /// `fdatasync`, or `fsync`.
    Sync {
        /// The file.
        file: File,
        /// Without the metadata that are not needed to read the data again.
        data_only: bool,
    },
    /// Turns a range into zeros.
    Zero {
        /// The file.
        file: File,
        /// Byte offset.
        at: u64,
        /// Bytes.
        len: u64,
        /// How.
        mode: ZeroMode,
    },
    /// One completion each time that the file becomes readable.
    PollReadable {
        /// The file.
        file: File,
    },
    /// Datagrams into buffers of a group, until it fails or is cancelled.
    RecvMulti {
        /// The socket.
        file: File,
        /// The group of buffers.
        group: u16,
    },
    /// Cancels what was pushed with this number.
    Cancel {
        /// Number of the other operation.
        user_data: u64,
    },
    /// An NVMe command; on rings of 128-byte entries only.
    Nvme {
        /// The node.
        file: File,
        /// The command.
        command: NvmeIo,
        /// Its data.
        buf: Option<Buf>,
    },
}

/// Operations by name: what a restricted ring permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of `Op`")]
pub enum Opcode {
    Nop,
    Read,
    ReadFixed,
    Write,
    WriteFixed,
    Sync,
    Zero,
    Poll,
    Recv,
    Cancel,
    UringCmd,
}

impl Opcode {
    /// The kernel's number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Nop => opcode::Nop::CODE,
            Self::Read => opcode::Read::CODE,
            Self::ReadFixed => opcode::ReadFixed::CODE,
            Self::Write => opcode::Write::CODE,
            Self::WriteFixed => opcode::WriteFixed::CODE,
            Self::Sync => opcode::Fsync::CODE,
            Self::Zero => opcode::Fallocate::CODE,
            Self::Poll => opcode::PollAdd::CODE,
            Self::Recv => opcode::RecvMulti::CODE,
            Self::Cancel => opcode::AsyncCancel::CODE,
            Self::UringCmd => opcode::UringCmd80::CODE,
        }
    }
}

/// `_IOWR('N', 0x80, struct nvme_uring_cmd)`.
const NVME_URING_CMD_IO: u32 = 0xC048_4E80;

macro_rules! on {
    ($file:expr, |$fd:ident| $make:expr) => {
        match $file {
            File::Fd(fd) => {
                let $fd = types::Fd(fd);
                $make
            }
            File::Fixed(place) => {
                let $fd = types::Fixed(place);
                $make
            }
        }
    };
}

impl Op {
    /// Whether it reads or writes blocks, which is what a polled ring can wait for.
    #[must_use]
    pub const fn is_transfer(&self) -> bool {
        match self {
            Self::Read { .. } | Self::Write { .. } => true,
            Self::Nvme { command, .. } => {
                command.opcode == NvmOpcode::READ.0 || command.opcode == NvmOpcode::WRITE.0
            }
            _ => false,
        }
    }

    /// As an entry of 64 bytes; an NVMe command has none.
    pub(super) fn entry(&self) -> Option<squeue::Entry> {
        Some(match *self {
            Self::Nop => opcode::Nop::new().build(),
            Self::Read { file, at, buf } => read(file, at, buf),
            Self::Write { file, at, buf } => write(file, at, buf),
            Self::Sync { file, data_only } => on!(file, |fd| {
                let flags = if data_only {
                    types::FsyncFlags::DATASYNC
                } else {
                    types::FsyncFlags::empty()
                };
                opcode::Fsync::new(fd).flags(flags).build()
            }),
            Self::Zero { file, at, len, mode } => on!(file, |fd| {
                opcode::Fallocate::new(fd, len).offset(at).mode(mode.bits()).build()
            }),
            Self::PollReadable { file } => on!(file, |fd| {
                opcode::PollAdd::new(fd, u32::from(libc::POLLIN.unsigned_abs())).multi(true).build()
            }),
            Self::RecvMulti { file, group } => {
                on!(file, |fd| opcode::RecvMulti::new(fd, group).build())
            }
            Self::Cancel { user_data } => opcode::AsyncCancel::new(user_data).build(),
            Self::Nvme { .. } => return None,
        })
    }

    /// As an entry of 128 bytes.
    pub(super) fn big_entry(&self) -> squeue::Entry128 {
        match *self {
            Self::Nvme { file, ref command, buf } => on!(file, |fd| {
                let entry = opcode::UringCmd80::new(fd, NVME_URING_CMD_IO).cmd(command.bytes(buf));
                match buf.and_then(|buf| buf.fixed) {
                    Some(index) => entry.buf_index(Some(index)).build(),
                    None => entry.build(),
                }
            }),
            _ => self.entry().unwrap_or_else(|| opcode::Nop::new().build()).into(),
        }
    }
}

impl From<&Sqe> for NvmeIo {
    /// What an entry says, but for its name and pointers: those are the kernel's driver's.
    fn from(sqe: &Sqe) -> Self {
        let cdw = std::array::from_fn(|at| sqe.dword(10 + at));
        Self { opcode: sqe.opcode(), nsid: sqe.nsid().0, cdw, timeout_ms: 0 }
    }
}

impl NvmeIo {
    /// `struct nvme_uring_cmd`, 72 bytes, in the 80 that an entry has.
    fn bytes(&self, buf: Option<Buf>) -> [u8; 80] {
        let mut bytes = [0; 80];
        bytes[0] = self.opcode;
        bytes[4..8].copy_from_slice(&self.nsid.to_le_bytes());
        if let Some(buf) = buf {
            let address = buf.span.as_ptr() as u64;
            bytes[24..32].copy_from_slice(&address.to_le_bytes());
            bytes[36..40].copy_from_slice(&buf.len().to_le_bytes());
        }
        for (place, dword) in bytes[40..64].chunks_exact_mut(4).zip(self.cdw) {
            place.copy_from_slice(&dword.to_le_bytes());
        }
        bytes[64..68].copy_from_slice(&self.timeout_ms.to_le_bytes());
        bytes
    }
}

fn read(file: File, at: u64, buf: Buf) -> squeue::Entry {
    let memory = buf.span.as_ptr();
    on!(file, |fd| match buf.fixed {
        Some(index) => opcode::ReadFixed::new(fd, memory, buf.len(), index).offset(at).build(),
        None => opcode::Read::new(fd, memory, buf.len()).offset(at).build(),
    })
}

fn write(file: File, at: u64, buf: Buf) -> squeue::Entry {
    let memory = buf.span.as_ptr();
    on!(file, |fd| match buf.fixed {
        Some(index) => opcode::WriteFixed::new(fd, memory, buf.len(), index).offset(at).build(),
        None => opcode::Write::new(fd, memory, buf.len()).offset(at).build(),
    })
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cqe {
    /// The number that the operation was pushed with.
    pub user_data: u64,
    /// What it returned: not negative, or minus the error.
    pub result: i32,
    /// The second result of an NVMe command.
    pub second: u64,
    flags: u32,
}

impl Cqe {
    pub(super) const fn new(user_data: u64, result: i32, flags: u32, second: u64) -> Self {
        Self { user_data, result, second, flags }
    }

    /// What a kernel could answer.
    #[cfg(test)]
    pub(crate) const fn forged(user_data: u64, result: i32) -> Self {
        Self::new(user_data, result, 0, 0)
    }

    /// Whether the same operation will answer again.
    #[must_use]
    pub fn more(&self) -> bool {
        cqueue::more(self.flags)
    }

    /// The buffer of a group that was used.
    #[must_use]
    pub fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_nvme_command_has_the_kernels_bytes() {
        let span = hybrid_shm::leak_aligned(8192, 4096);
        let command =
            NvmeIo { opcode: 2, nsid: 1, cdw: [7, 8, 1, 0, 0, 0x0102_0304], timeout_ms: 9 };
        let bytes = command.bytes(Some(Buf { span, fixed: None }));
        assert_eq!(bytes[..8], [2, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(bytes[24..32], (span.as_ptr() as u64).to_le_bytes());
        assert_eq!(bytes[32..40], [0, 0, 0, 0, 0, 32, 0, 0]);
        assert_eq!(bytes[40..52], [7, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(bytes[60..72], [4, 3, 2, 1, 9, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[72..], [0; 8]);
    }
}
