//! The client's messages: each asked, answered and checked.
//!
//! Used by the host when a device is attached and by the session's thread afterwards. A [`Client`]
//! is one connection; after an error it is of no use, and its caller drops it. Every message has a
//! deadline; a reply is believed only with the right id, command, size and number of files.

use std::num::NonZeroI32;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use super::error::VfioUserError;
use crate::vfio_user::socket::{Connection, MAX_FDS, Message};
use crate::vfio_user::wire::{
    Capabilities, Command, DeviceInfo, DmaMap, DmaUnmap, HEADER_BYTES, Header, MAJOR, MINOR,
    REGION_BAR0, REGION_CONFIG, REGIONS, RegionAccess, RegionInfo, SparseArea, Version,
    sparse_areas,
};

/// Offset of the doorbells in BAR0.
const DOORBELLS_AT: u64 = 0x1000;
/// Pages that areas are counted in.
const PAGE: u64 = 4096;
/// BAR0 holds the admin queue's doorbells at least, and no controller's is larger.
const BAR0_BYTES: (u64, u64) = (DOORBELLS_AT + 8, 1 << 30);
/// A configuration space: PCI's or PCI Express's.
const CONFIG_BYTES: (u64, u64) = (256, 4096);
/// Room for a region's capabilities.
const REGION_ROOM: usize = 4096;
/// Largest message that we take: the version's, with its capabilities.
const MOST: usize = HEADER_BYTES + size_of::<Version>() + Capabilities::MAX_BYTES;

/// Offset of the command register in the configuration space.
const COMMAND_REGISTER: u64 = 4;
/// Memory space, bus master, and no INTx: the device may be reached, may reach memory, is polled.
const COMMAND_BITS: u16 = 1 << 1 | 1 << 2 | 1 << 10;

/// What a reply may look like.
#[derive(Clone, Copy)]
struct Due {
    least: usize,
    most: usize,
    fds: usize,
}

impl Due {
    const fn bytes(exactly: usize) -> Self {
        Self { least: exactly, most: exactly, fds: 0 }
    }
}

/// The server's file that holds the doorbells.
#[derive(Debug)]
pub(super) struct DoorbellFile {
    pub(super) file: OwnedFd,
    /// Where the admin queue's doorbell is in it.
    pub(super) offset: u64,
    /// Bytes from there on.
    pub(super) len: usize,
}

/// A connection to a server.
#[derive(Debug)]
pub(super) struct Client {
    connection: Connection,
    next_id: u16,
    timeout: Duration,
    /// While the server is being reached: when that must be over.
    until: Option<Instant>,
    can_reset: bool,
    server: Sender,
}

/// Which process answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    /// Nothing came yet.
    Unknown,
    /// One, in all replies.
    One(NonZeroI32),
    /// One that cannot be seen, or several.
    Unclear,
}

impl Sender {
    fn note(&mut self, sender: Option<NonZeroI32>) {
        *self = match (*self, sender) {
            (Self::Unknown, Some(pid)) => Self::One(pid),
            (Self::One(before), Some(pid)) if before == pid => Self::One(pid),
            _ => Self::Unclear,
        };
    }
}

impl Client {
    /// Connects, and agrees on the version and on what the device is. No message takes longer than
    /// `timeout`, and all of them together no longer, until [`Self::opened`].
    pub(super) fn open(path: &Path, timeout: Duration) -> Result<Self, VfioUserError> {
        let until = Instant::now() + timeout;
        let connection = Connection::open(path, until).map_err(|errno| {
            let path = path.to_path_buf();
            match errno {
                Errno::NOENT | Errno::CONNREFUSED => VfioUserError::Absent { path, errno },
                errno => VfioUserError::Unreachable { path, errno },
            }
        })?;
        let unreachable = |errno| VfioUserError::Unreachable { path: path.to_path_buf(), errno };
        if let Some(uid) = connection.stranger().map_err(unreachable)? {
            return Err(VfioUserError::Stranger { path: path.to_path_buf(), uid });
        }
        let until = Some(until);
        let server = Sender::Unknown;
        let mut client = Self { connection, next_id: 1, timeout, until, can_reset: false, server };
        client.negotiate()?;
        client.device_info()?;
        Ok(client)
    }

    /// The process that answered every message so far: the one that has what it was sent.
    pub(super) const fn server(&self) -> Option<NonZeroI32> {
        match self.server {
            Sender::One(pid) => Some(pid),
            Sender::Unknown | Sender::Unclear => None,
        }
    }

    /// The server is reached: from here on each message has its own time.
    pub(super) const fn opened(&mut self) {
        self.until = None;
    }

    /// Something came that was not asked for, mostly the end.
    pub(super) fn unasked(&mut self) -> VfioUserError {
        match self.connection.receive(MOST, Instant::now()) {
            Ok(Message { header, .. }) => VfioUserError::Unasked {
                seen: Command(header.command.get()),
                flags: header.flags.get(),
            },
            Err(source) => VfioUserError::Lost { source },
        }
    }

    /// The socket, to wait for its end.
    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }

    fn exchange(
        &mut self,
        command: Command,
        payload: &[&[u8]],
        fds: &[BorrowedFd<'_>],
        due: Due,
    ) -> Result<Message, VfioUserError> {
        let sent = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        let bytes = payload.iter().map(|part| part.len()).sum();
        let deadline = Instant::now() + self.timeout;
        let deadline = self.until.map_or(deadline, |until| deadline.min(until));
        let header = Header::command(sent, command, bytes);
        let failed = |source| VfioUserError::Socket { command, source };
        self.connection.send(&header, payload, fds, deadline).map_err(failed)?;
        let reply = self.connection.receive(MOST, deadline).map_err(failed)?;
        self.server.note(reply.sender);
        check(command, sent, &reply, due)?;
        Ok(reply)
    }

    fn negotiate(&mut self) -> Result<(), VfioUserError> {
        let version = Version { major: U16::new(MAJOR), minor: U16::new(MINOR) };
        let capabilities = Capabilities { max_msg_fds: MAX_FDS as u64, max_data_xfer_size: 4096 };
        let text = capabilities.to_bytes();
        let least = size_of::<Version>();
        let due = Due { least, most: least + Capabilities::MAX_BYTES, fds: 0 };
        let reply = self.exchange(Command::VERSION, &[version.as_bytes(), &text], &[], due)?;
        let (version, text) = prefix::<Version>(&reply);
        if version.major.get() != MAJOR {
            let (major, minor) = (version.major.get(), version.minor.get());
            return Err(VfioUserError::Version { major, minor });
        }
        let theirs = Capabilities::parse(text).ok_or(VfioUserError::Capabilities)?;
        match theirs.max_msg_fds {
            0 => Err(VfioUserError::NoFds { max_msg_fds: 0 }),
            _ => Ok(()),
        }
    }

    fn device_info(&mut self) -> Result<(), VfioUserError> {
        const BYTES: usize = size_of::<DeviceInfo>();
        let ask = DeviceInfo {
            argsz: length(BYTES),
            flags: U32::ZERO,
            num_regions: U32::ZERO,
            num_irqs: U32::ZERO,
        };
        let due = Due::bytes(BYTES);
        let reply = self.exchange(Command::DEVICE_GET_INFO, &[ask.as_bytes()], &[], due)?;
        let info = prefix::<DeviceInfo>(&reply).0;
        let (flags, regions) = (info.flags.get(), info.num_regions.get());
        if flags & DeviceInfo::FLAG_PCI == 0 || regions < REGIONS {
            return Err(VfioUserError::NotPci { flags, regions });
        }
        self.can_reset = flags & DeviceInfo::FLAG_RESET != 0;
        Ok(())
    }

    fn region_info(
        &mut self,
        index: u32,
        fds: usize,
        (least, most): (u64, u64),
    ) -> Result<(RegionInfo, Message), VfioUserError> {
        let ask = RegionInfo {
            argsz: length(REGION_ROOM),
            flags: U32::ZERO,
            index: U32::new(index),
            cap_offset: U32::ZERO,
            size: U64::ZERO,
            offset: U64::ZERO,
        };
        let command = Command::DEVICE_GET_REGION_INFO;
        let due = Due { least: size_of::<RegionInfo>(), most: REGION_ROOM, fds };
        let reply = self.exchange(command, &[ask.as_bytes()], &[], due)?;
        let info = prefix::<RegionInfo>(&reply).0;
        same(command, "index", info.index.get().into(), index.into())?;
        let size = info.size.get();
        if !(least..=most).contains(&size) {
            return Err(VfioUserError::RegionSize { index, size, least, most });
        }
        Ok((info, reply))
    }

    /// Where the doorbells are; checks that the registers and the configuration space are there.
    pub(super) fn doorbells(&mut self) -> Result<DoorbellFile, VfioUserError> {
        self.region_info(REGION_CONFIG, 0, CONFIG_BYTES)?;
        let (info, reply) = self.region_info(REGION_BAR0, MAX_FDS, BAR0_BYTES)?;
        let Message { payload, fds, .. } = reply;
        let mappable = info.flags.get() & RegionInfo::FLAG_MMAP != 0;
        let areas = sparse_areas(&info, &payload)
            .map_err(|source| VfioUserError::Caps { index: REGION_BAR0, source })?;
        pick_doorbells(&info, mappable, areas, fds)
    }

    /// Makes `len` bytes of `file` the device's memory from `address` on.
    pub(super) fn map(
        &mut self,
        file: BorrowedFd<'_>,
        address: u64,
        len: u64,
    ) -> Result<(), VfioUserError> {
        let map = DmaMap {
            argsz: length(size_of::<DmaMap>()),
            flags: U32::new(DmaMap::FLAG_READ | DmaMap::FLAG_WRITE),
            offset: U64::ZERO,
            address: U64::new(address),
            size: U64::new(len),
        };
        // Some servers repeat the request.
        let due = Due { least: 0, most: size_of::<DmaMap>(), fds: 0 };
        self.exchange(Command::DMA_MAP, &[map.as_bytes()], &[file], due)?;
        Ok(())
    }

    /// Takes memory away from the device. When it returns without an error, the server has let go
    /// of all of it.
    pub(super) fn unmap(&mut self, address: u64, len: u64) -> Result<(), VfioUserError> {
        const BYTES: usize = size_of::<DmaUnmap>();
        let unmap = DmaUnmap {
            argsz: length(BYTES),
            flags: U32::ZERO,
            address: U64::new(address),
            size: U64::new(len),
        };
        let command = Command::DMA_UNMAP;
        let reply = self.exchange(command, &[unmap.as_bytes()], &[], Due::bytes(BYTES))?;
        let done = prefix::<DmaUnmap>(&reply).0;
        same(command, "address", done.address.get(), address)?;
        same(command, "size", done.size.get(), len)
    }

    /// Resets the device, if it says that it can be.
    pub(super) fn reset(&mut self) -> Result<(), VfioUserError> {
        if self.can_reset {
            self.exchange(Command::DEVICE_RESET, &[], &[], Due::bytes(0))?;
        }
        Ok(())
    }

    /// Lets the device be reached and reach memory, and reads back that it may.
    pub(super) fn enable_bus(&mut self) -> Result<(), VfioUserError> {
        let wanted = COMMAND_BITS;
        let before: [u8; 2] = self.read(REGION_CONFIG, COMMAND_REGISTER)?;
        let value = u16::from_le_bytes(before) | wanted;
        self.write(REGION_CONFIG, COMMAND_REGISTER, &value.to_le_bytes())?;
        let seen = u16::from_le_bytes(self.read(REGION_CONFIG, COMMAND_REGISTER)?);
        // A device without INTx may not know how to switch it off.
        let needed = wanted & !(1 << 10);
        if seen & needed != needed {
            return Err(VfioUserError::CommandRegister { seen, wanted: needed });
        }
        Ok(())
    }

    /// Reads a 32-bit register.
    pub(super) fn read32(&mut self, offset: u32) -> Result<u32, VfioUserError> {
        self.read(REGION_BAR0, offset.into()).map(u32::from_le_bytes)
    }

    /// Reads a 64-bit register.
    pub(super) fn read64(&mut self, offset: u32) -> Result<u64, VfioUserError> {
        self.read(REGION_BAR0, offset.into()).map(u64::from_le_bytes)
    }

    /// Writes a 32-bit register.
    pub(super) fn write32(&mut self, offset: u32, value: u32) -> Result<(), VfioUserError> {
        self.write(REGION_BAR0, offset.into(), &value.to_le_bytes())
    }

    /// Writes a 64-bit register.
    pub(super) fn write64(&mut self, offset: u32, value: u64) -> Result<(), VfioUserError> {
        self.write(REGION_BAR0, offset.into(), &value.to_le_bytes())
    }

    fn read<const N: usize>(&mut self, region: u32, offset: u64) -> Result<[u8; N], VfioUserError> {
        let command = Command::REGION_READ;
        let access = access(region, offset, N);
        let due = Due::bytes(size_of::<RegionAccess>() + N);
        let reply = self.exchange(command, &[access.as_bytes()], &[], due)?;
        let (seen, data) = prefix::<RegionAccess>(&reply);
        repeats(command, seen, access)?;
        Ok(*data.first_chunk().expect("the reply's size was checked"))
    }

    fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), VfioUserError> {
        let command = Command::REGION_WRITE;
        let access = access(region, offset, data.len());
        let due = Due::bytes(size_of::<RegionAccess>());
        let reply = self.exchange(command, &[access.as_bytes(), data], &[], due)?;
        repeats(command, prefix::<RegionAccess>(&reply).0, access)
    }
}

/// Chooses the area that holds offset 1000h, and the file behind it.
fn pick_doorbells(
    info: &RegionInfo,
    mappable: bool,
    mut areas: Vec<SparseArea>,
    mut fds: Vec<OwnedFd>,
) -> Result<DoorbellFile, VfioUserError> {
    if !mappable || fds.is_empty() {
        return Err(VfioUserError::NoDoorbells);
    }
    let size = info.size.get();
    if areas.is_empty() {
        // All of it.
        areas.push(SparseArea { offset: U64::ZERO, size: U64::new(size) });
    }
    for area in &areas {
        let (offset, len) = (area.offset.get(), area.size.get());
        let inside = offset.checked_add(len).is_some_and(|end| end <= size);
        if !inside || !offset.is_multiple_of(PAGE) || !len.is_multiple_of(PAGE) {
            return Err(VfioUserError::Area { size, offset, len });
        }
    }
    let holds = |area: &SparseArea| {
        (area.offset.get()..area.offset.get() + area.size.get()).contains(&DOORBELLS_AT)
    };
    let Some(at) = areas.iter().position(holds) else { return Err(VfioUserError::NoDoorbells) };
    let which = match fds.len() {
        1 => 0,
        n if n == areas.len() => at,
        n => return Err(VfioUserError::AreaFds { areas: areas.len(), fds: n }),
    };
    let len = areas[at].offset.get() + areas[at].size.get() - DOORBELLS_AT;
    let offset = info.offset.get().checked_add(DOORBELLS_AT);
    match (offset, usize::try_from(len)) {
        (Some(offset), Ok(len)) => Ok(DoorbellFile { file: fds.swap_remove(which), offset, len }),
        _ => Err(VfioUserError::Area { size, offset: info.offset.get(), len }),
    }
}

fn access(region: u32, offset: u64, count: usize) -> RegionAccess {
    RegionAccess { offset: U64::new(offset), region: U32::new(region), count: length(count) }
}

/// The size of a structure or an access of ours.
fn length(bytes: usize) -> U32 {
    U32::new(u32::try_from(bytes).expect("a few KiB"))
}

/// The structure at the start of a reply whose size was checked.
fn prefix<T: FromBytes + zerocopy::KnownLayout + zerocopy::Immutable>(
    reply: &Message,
) -> (T, &[u8]) {
    let Ok(split) = T::read_from_prefix(&reply.payload) else {
        unreachable!("the reply's size was checked");
    };
    split
}

fn check(command: Command, sent: u16, reply: &Message, due: Due) -> Result<(), VfioUserError> {
    let header = &reply.header;
    let seen = Command(header.command.get());
    if !header.is_reply() {
        let flags = header.flags.get();
        return Err(VfioUserError::NotAReply { command, seen, flags });
    }
    if header.message_id.get() != sent {
        return Err(VfioUserError::WrongId { command, seen: header.message_id.get(), sent });
    }
    if seen != command {
        return Err(VfioUserError::WrongCommand { command, seen });
    }
    let failed = header.flags.get() & Header::FLAG_ERROR != 0;
    let most = if failed { 0 } else { due.fds };
    if reply.fds.len() > most {
        return Err(VfioUserError::UnexpectedFds { command, got: reply.fds.len(), most });
    }
    if failed {
        let raw = i32::try_from(header.error.get()).unwrap_or(0);
        // A server that fails without a reason, or with one that is no errno.
        let known = (1..4096).contains(&raw);
        let errno = if known { Errno::from_raw_os_error(raw) } else { Errno::INVAL };
        return Err(VfioUserError::Refused { command, errno });
    }
    let (got, Due { least, most, .. }) = (reply.payload.len(), due);
    if !(least..=most).contains(&got) {
        return Err(VfioUserError::ReplySize { command, got, least, most });
    }
    Ok(())
}

fn same(command: Command, field: &'static str, seen: u64, asked: u64) -> Result<(), VfioUserError> {
    if seen == asked {
        return Ok(());
    }
    Err(VfioUserError::Mismatch { command, field, seen, asked })
}

fn repeats(command: Command, seen: RegionAccess, asked: RegionAccess) -> Result<(), VfioUserError> {
    same(command, "region", seen.region.get().into(), asked.region.get().into())?;
    same(command, "offset", seen.offset.get(), asked.offset.get())?;
    same(command, "count", seen.count.get().into(), asked.count.get().into())
}
