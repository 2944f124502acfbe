//! The bytes of vfio-user messages: little-endian, packed, as `vfio-user.h` and `linux/vfio.h` lay
//! them out.
//!
//! Pure: from bytes to structures and back. What a field means is checked by whoever uses it; what
//! can be checked by shape alone (capability chains, the version's capabilities) is checked here.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A message's command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Command(pub u16);

impl Command {
    /// Protocol version and capabilities; the first message.
    pub const VERSION: Self = Self(1);
    /// Memory for the device to reach.
    pub const DMA_MAP: Self = Self(2);
    /// Memory that the device must forget.
    pub const DMA_UNMAP: Self = Self(3);
    /// What the device has.
    pub const DEVICE_GET_INFO: Self = Self(4);
    /// One region of it.
    pub const DEVICE_GET_REGION_INFO: Self = Self(5);
    /// Descriptors that stand for writes to a region.
    pub const DEVICE_GET_REGION_IO_FDS: Self = Self(6);
    /// One kind of interrupt.
    pub const DEVICE_GET_IRQ_INFO: Self = Self(7);
    /// Descriptors for interrupts.
    pub const DEVICE_SET_IRQS: Self = Self(8);
    /// Reads from a region.
    pub const REGION_READ: Self = Self(9);
    /// Writes to a region.
    pub const REGION_WRITE: Self = Self(10);
    /// Server to client: reads memory that was not mapped.
    pub const DMA_READ: Self = Self(11);
    /// Server to client: writes memory that was not mapped.
    pub const DMA_WRITE: Self = Self(12);
    /// Resets the device.
    pub const DEVICE_RESET: Self = Self(13);

    const NAMES: [&'static str; 14] = [
        "",
        "VERSION",
        "DMA_MAP",
        "DMA_UNMAP",
        "DEVICE_GET_INFO",
        "DEVICE_GET_REGION_INFO",
        "DEVICE_GET_REGION_IO_FDS",
        "DEVICE_GET_IRQ_INFO",
        "DEVICE_SET_IRQS",
        "REGION_READ",
        "REGION_WRITE",
        "DMA_READ",
        "DMA_WRITE",
        "DEVICE_RESET",
    ];
}

impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match Self::NAMES.get(usize::from(self.0)) {
            Some(name) if !name.is_empty() => f.write_str(name),
            _ => write!(f, "command {}", self.0),
        }
    }
}

/// The protocol's version: the major number must agree, the lower minor number counts.
pub const MAJOR: u16 = 0;
/// See [`MAJOR`].
pub const MINOR: u16 = 1;

/// Bytes of a header.
pub const HEADER_BYTES: usize = size_of::<Header>();

/// What every message starts with.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Header {
    /// The sender's choice; a reply repeats it.
    pub message_id: U16,
    /// A [`Command`].
    pub command: U16,
    /// Bytes of the message, this header included.
    pub size: U32,
    /// `FLAG_` bits.
    pub flags: U32,
    /// An errno, in a reply with [`Header::FLAG_ERROR`].
    pub error: U32,
}

const _: () = assert!(size_of::<Header>() == 16);

impl Header {
    /// Type bits: 0 is a command.
    pub const TYPE_MASK: u32 = 0xf;
    /// Type of a reply.
    pub const TYPE_REPLY: u32 = 1;
    /// No reply is wanted.
    pub const FLAG_NO_REPLY: u32 = 1 << 4;
    /// The reply is an error.
    pub const FLAG_ERROR: u32 = 1 << 5;

    /// The header of a command with a payload of `payload` bytes.
    #[must_use]
    pub fn command(message_id: u16, command: Command, payload: usize) -> Self {
        Self {
            message_id: U16::new(message_id),
            command: U16::new(command.0),
            size: size_field(payload),
            flags: U32::ZERO,
            error: U32::ZERO,
        }
    }

    /// The header of the answer to `self`.
    #[must_use]
    pub fn reply(&self, payload: usize) -> Self {
        Self { size: size_field(payload), flags: U32::new(Self::TYPE_REPLY), ..*self }
    }

    /// The header of the answer to `self` that it failed.
    #[must_use]
    pub fn failure(&self, errno: u32) -> Self {
        let flags = U32::new(Self::TYPE_REPLY | Self::FLAG_ERROR);
        Self { flags, error: U32::new(errno), ..self.reply(0) }
    }

    /// Whether it is an answer.
    #[must_use]
    pub const fn is_reply(&self) -> bool {
        self.flags.get() & Self::TYPE_MASK == Self::TYPE_REPLY
    }

    /// Whether it is a command.
    #[must_use]
    pub const fn is_command(&self) -> bool {
        self.flags.get() & Self::TYPE_MASK == 0
    }
}

/// Payloads are a few KiB; what does not fit is a mistake of ours that the peer would refuse.
fn size_field(payload: usize) -> U32 {
    U32::new(u32::try_from(HEADER_BYTES + payload).unwrap_or(u32::MAX))
}

/// [`Command::VERSION`], either way; capabilities in JSON with a final 0 may follow.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Version {
    /// See [`MAJOR`].
    pub major: U16,
    /// See [`MINOR`].
    pub minor: U16,
}

/// [`Command::DEVICE_GET_INFO`], either way.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct DeviceInfo {
    /// Bytes that the asker has room for; in the answer, bytes that there are.
    pub argsz: U32,
    /// `FLAG_` bits.
    pub flags: U32,
    /// Regions: [`REGIONS`] of a PCI device.
    pub num_regions: U32,
    /// Kinds of interrupts.
    pub num_irqs: U32,
}

impl DeviceInfo {
    /// It can be reset.
    pub const FLAG_RESET: u32 = 1;
    /// It is a PCI device.
    pub const FLAG_PCI: u32 = 2;
}

/// Region of BAR0.
pub const REGION_BAR0: u32 = 0;
/// Region of the configuration space.
pub const REGION_CONFIG: u32 = 7;
/// Regions of a PCI device: six BARs, ROM, configuration space, VGA.
pub const REGIONS: u32 = 9;

/// [`Command::DEVICE_GET_REGION_INFO`], either way; capabilities may follow.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct RegionInfo {
    /// Bytes that the asker has room for; in the answer, bytes that there are.
    pub argsz: U32,
    /// `FLAG_` bits.
    pub flags: U32,
    /// Which region.
    pub index: U32,
    /// Where the first capability is, from the start of this structure; 0 for none.
    pub cap_offset: U32,
    /// Bytes of the region; 0 if it is not there.
    pub size: U64,
    /// Where it begins in the file that may be mapped.
    pub offset: U64,
}

const _: () = assert!(size_of::<RegionInfo>() == 32);

impl RegionInfo {
    /// It can be read.
    pub const FLAG_READ: u32 = 1;
    /// It can be written.
    pub const FLAG_WRITE: u32 = 2;
    /// It, or areas of it, can be mapped.
    pub const FLAG_MMAP: u32 = 4;
    /// Capabilities follow.
    pub const FLAG_CAPS: u32 = 8;
}

/// What each capability starts with.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct CapHeader {
    /// Which one.
    pub id: U16,
    /// Its version.
    pub version: U16,
    /// Where the next one is, from the start of [`RegionInfo`]; 0 for none.
    pub next: U32,
}

/// [`CapHeader::id`] of [`SparseMmap`].
pub const CAP_SPARSE_MMAP: u16 = 1;

/// The areas of a region that can be mapped; [`SparseArea`]s follow.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct SparseMmap {
    /// Its header.
    pub header: CapHeader,
    /// How many follow.
    pub areas: U32,
    /// Zero.
    pub reserved: U32,
}

/// An area of a region that can be mapped.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct SparseArea {
    /// From the start of the region.
    pub offset: U64,
    /// Bytes.
    pub size: U64,
}

/// [`Command::DEVICE_GET_IRQ_INFO`], either way.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct IrqInfo {
    /// As in [`DeviceInfo`].
    pub argsz: U32,
    /// What can be done with them.
    pub flags: U32,
    /// Which kind.
    pub index: U32,
    /// How many.
    pub count: U32,
}

/// Kinds of interrupts of a PCI device: INTx, MSI, MSI-X, error, request.
pub const IRQS: u32 = 5;
/// The kind of MSI-X.
pub const IRQ_MSIX: u32 = 2;

/// [`Command::DEVICE_SET_IRQS`].
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct SetIrqs {
    /// As in [`DeviceInfo`].
    pub argsz: U32,
    /// What to do with which data.
    pub flags: U32,
    /// Which kind.
    pub index: U32,
    /// The first one.
    pub start: U32,
    /// How many; 0 switches all off.
    pub count: U32,
}

/// [`Command::DMA_MAP`]; the file comes beside it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct DmaMap {
    /// Bytes of this structure.
    pub argsz: U32,
    /// `FLAG_` bits.
    pub flags: U32,
    /// Where it begins in the file.
    pub offset: U64,
    /// The device's address of its first byte.
    pub address: U64,
    /// Bytes.
    pub size: U64,
}

const _: () = assert!(size_of::<DmaMap>() == 32);

impl DmaMap {
    /// The device may read it.
    pub const FLAG_READ: u32 = 1;
    /// The device may write it.
    pub const FLAG_WRITE: u32 = 2;
    /// The server shall map the file. Later than the other two; without it a file is mapped too.
    pub const FLAG_MMAP: u32 = 4;
}

/// [`Command::DMA_UNMAP`], either way: the answer says how many bytes were unmapped.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct DmaUnmap {
    /// Bytes of this structure.
    pub argsz: U32,
    /// Zero, or [`DmaUnmap::FLAG_ALL`].
    pub flags: U32,
    /// The device's address of its first byte.
    pub address: U64,
    /// Bytes.
    pub size: U64,
}

const _: () = assert!(size_of::<DmaUnmap>() == 24);

impl DmaUnmap {
    /// Everything that is mapped; address and size are 0.
    pub const FLAG_ALL: u32 = 2;
}

/// [`Command::REGION_READ`] and [`Command::REGION_WRITE`], either way; the bytes follow where there
/// are some: in a write, and in the answer to a read.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct RegionAccess {
    /// From the start of the region.
    pub offset: U64,
    /// Which region.
    pub region: U32,
    /// Bytes.
    pub count: U32,
}

const _: () = assert!(size_of::<RegionAccess>() == 16);

/// What a sparse-mmap capability says, or what is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CapError {
    /// A capability outside the bytes that came, or overlapping the structure before it.
    #[error("capability at offset {at} lies outside the {len} bytes that came")]
    Outside {
        /// Where it should be.
        at: usize,
        /// What there is.
        len: usize,
    },
    /// A chain that does not go forward.
    #[error("capability at offset {at} is followed by one at {next}: they do not go forward")]
    Backwards {
        /// Where it is.
        at: usize,
        /// Where it points.
        next: usize,
    },
    /// More areas than bytes.
    #[error("{areas} sparse areas do not fit into the {len} bytes that came")]
    Areas {
        /// How many are said to follow.
        areas: u32,
        /// What there is.
        len: usize,
    },
}

/// The sparse areas in the answer `payload` to a region query, whose [`RegionInfo`] is `info`.
///
/// # Errors
/// [`CapError`] for a chain or an area list that does not fit; no capability is an empty list.
pub fn sparse_areas(info: &RegionInfo, payload: &[u8]) -> Result<Vec<SparseArea>, CapError> {
    if info.flags.get() & RegionInfo::FLAG_CAPS == 0 {
        return Ok(Vec::new());
    }
    let len = payload.len();
    let mut at = info.cap_offset.get() as usize;
    let mut least = size_of::<RegionInfo>();
    while at != 0 {
        if at < least {
            return Err(CapError::Outside { at, len });
        }
        let bytes = payload.get(at..).ok_or(CapError::Outside { at, len })?;
        let (header, _) =
            CapHeader::read_from_prefix(bytes).map_err(|_| CapError::Outside { at, len })?;
        if header.id.get() == CAP_SPARSE_MMAP {
            return areas_of(bytes, at, len);
        }
        let next = header.next.get() as usize;
        least = at + size_of::<CapHeader>();
        if next != 0 && next < least {
            return Err(CapError::Backwards { at, next });
        }
        at = next;
    }
    Ok(Vec::new())
}

fn areas_of(bytes: &[u8], at: usize, len: usize) -> Result<Vec<SparseArea>, CapError> {
    let (sparse, rest) =
        SparseMmap::read_from_prefix(bytes).map_err(|_| CapError::Outside { at, len })?;
    let areas = sparse.areas.get();
    let room = rest.len() / size_of::<SparseArea>();
    if areas as usize > room {
        return Err(CapError::Areas { areas, len });
    }
    let pieces = rest.chunks_exact(size_of::<SparseArea>()).take(areas as usize);
    Ok(pieces.filter_map(|piece| SparseArea::read_from_bytes(piece).ok()).collect())
}

/// What a side says of itself in the version message, as far as the other side must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Descriptors that it takes with one message.
    pub max_msg_fds: u64,
    /// Bytes of one region access.
    pub max_data_xfer_size: u64,
}

impl Default for Capabilities {
    /// What holds for a side that says nothing.
    fn default() -> Self {
        Self { max_msg_fds: 1, max_data_xfer_size: 1 << 20 }
    }
}

impl Capabilities {
    /// Longest text that is looked at.
    pub const MAX_BYTES: usize = 4096;

    /// The text, with its final 0.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let Self { max_msg_fds, max_data_xfer_size } = self;
        format!(
            "{{\"capabilities\":{{\"max_msg_fds\":{max_msg_fds},\
             \"max_data_xfer_size\":{max_data_xfer_size}}}}}\0"
        )
        .into_bytes()
    }

    /// The capabilities in the bytes behind a [`Version`]; `None` if they are no such text. What is
    /// not said has its default, what is not known is left alone.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut capabilities = Self::default();
        if bytes.is_empty() {
            return Some(capabilities);
        }
        if bytes.len() > Self::MAX_BYTES {
            return None;
        }
        let text = bytes.strip_suffix(&[0])?;
        let value: serde_json::Value = serde_json::from_slice(text).ok()?;
        let Some(said) = value.get("capabilities") else {
            return value.is_object().then_some(capabilities);
        };
        if !said.is_object() {
            return None;
        }
        for (name, place) in [
            ("max_msg_fds", &mut capabilities.max_msg_fds),
            ("max_data_xfer_size", &mut capabilities.max_data_xfer_size),
        ] {
            if let Some(value) = said.get(name) {
                *place = value.as_u64()?;
            }
        }
        Some(capabilities)
    }
}

#[cfg(test)]
mod tests;
