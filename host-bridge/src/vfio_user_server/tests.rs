//! Clients that do not keep to the protocol, against a server of this process.
//!
//! Where chance plays its seed is printed.

use std::os::fd::AsFd;

use core_runtime::mem::Iova;
use nvme_model::NamespaceConfig;
use rustix::io::Errno;
use rustix::process::Uid;
use rustix::thread::set_thread_res_uid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use super::*;
use crate::sys::memfd::{Memfd, PageSize};
use crate::vfio_user::socket::Message;
use crate::vfio_user::wire::{
    DmaMap, DmaUnmap, REGION_BAR0, REGION_CONFIG, RegionAccess, RegionInfo, Version, sparse_areas,
};

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(20);

/// A server in a directory of its own.
struct Served {
    server: VfioUserServer,
    dir: PathBuf,
}

impl Served {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("vfus-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let namespaces = vec![NamespaceConfig::memory(1, 64)];
        let model = ModelConfig { namespaces, max_io_queues: 4, ..ModelConfig::default() };
        let idle = Idle::Yield { after_steps: 16 };
        let options = ServerOptions { model, idle, ..ServerOptions::default() };
        let server = VfioUserServer::start(&dir.join("cntrl"), options).expect("a server");
        Self { server, dir }
    }

    /// A connection that has agreed on the version.
    fn client(&self) -> Raw {
        let raw = self.stranger();
        let version = Version { major: U16::ZERO, minor: U16::new(1) };
        raw.ask(Command::VERSION, version.as_bytes()).expect("a version");
        raw
    }

    fn stranger(&self) -> Raw {
        let path = self.server.socket();
        Raw(Connection::open(path, Instant::now() + LIMIT).expect("a connection"))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A client without manners.
struct Raw(Connection);

impl Raw {
    fn send(&self, command: Command, payload: &[u8], files: &[&Memfd]) {
        let fds: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
        let header = Header::command(3, command, payload.len());
        // A server that has had enough is no failure of this side.
        let _ = self.0.send(&header, &[payload], &fds, Instant::now() + LIMIT);
    }

    fn reply(&self) -> Result<Message, SocketError> {
        self.0.receive(1 << 16, Instant::now() + LIMIT)
    }

    /// The reply's payload, or its errno.
    fn ask_with(
        &self,
        command: Command,
        payload: &[u8],
        files: &[&Memfd],
    ) -> Result<Vec<u8>, Errno> {
        self.send(command, payload, files);
        let reply = self.reply().expect("a reply");
        assert!(reply.header.is_reply());
        assert_eq!((reply.header.message_id.get(), reply.header.command.get()), (3, command.0));
        match reply.header.error.get() {
            0 => Ok(reply.payload),
            errno => {
                assert_eq!(reply.header.flags.get(), Header::TYPE_REPLY | Header::FLAG_ERROR);
                Err(Errno::from_raw_os_error(i32::try_from(errno).expect("an errno")))
            }
        }
    }

    fn ask(&self, command: Command, payload: &[u8]) -> Result<Vec<u8>, Errno> {
        self.ask_with(command, payload, &[])
    }

    fn read(&self, region: u32, offset: u64, count: u32) -> Result<Vec<u8>, Errno> {
        let access = access(region, offset, count);
        self.ask(Command::REGION_READ, access.as_bytes()).map(|reply| reply[16..].to_vec())
    }

    fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let count = u32::try_from(data.len()).expect("short");
        let payload = [access(region, offset, count).as_bytes(), data].concat();
        self.ask(Command::REGION_WRITE, &payload).map(drop)
    }

    /// Whether the server has hung up.
    fn is_cut(&self) -> bool {
        matches!(self.reply(), Err(SocketError::Closed | SocketError::Torn { .. }))
    }
}

fn access(region: u32, offset: u64, count: u32) -> RegionAccess {
    RegionAccess { offset: U64::new(offset), region: U32::new(region), count: U32::new(count) }
}

fn map(address: u64, size: u64) -> DmaMap {
    DmaMap {
        argsz: U32::new(32),
        flags: U32::new(DmaMap::FLAG_READ | DmaMap::FLAG_WRITE),
        offset: U64::ZERO,
        address: U64::new(address),
        size: U64::new(size),
    }
}

fn unmap(address: u64, size: u64) -> DmaUnmap {
    let (address, size) = (U64::new(address), U64::new(size));
    DmaUnmap { argsz: U32::new(24), flags: U32::ZERO, address, size }
}

#[test]
fn an_orderly_client_finds_a_controller() {
    let served = Served::new("orderly");
    let client = served.client();
    assert_eq!(
        client
            .ask(Command::DEVICE_GET_INFO, &[16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
            .expect("info")[8..12],
        [9, 0, 0, 0]
    );
    // As another project's client asks: room for the capability, and a payload as long.
    let mut ask = vec![0; 4064];
    ask[..4].copy_from_slice(&4064_u32.to_le_bytes());
    client.send(Command::DEVICE_GET_REGION_INFO, &ask, &[]);
    let reply = client.reply().expect("a reply");
    let info = RegionInfo::read_from_prefix(&reply.payload).expect("a region").0;
    let areas = sparse_areas(&info, &reply.payload).expect("a chain");
    assert_eq!((info.size.get(), info.flags.get(), reply.fds.len()), (0x4000, 0xf, 1));
    assert_eq!((areas[0].offset.get(), areas[0].size.get()), (0x1000, 0x1000));
    assert_eq!(client.read(REGION_BAR0, 8, 4), Ok(vec![0, 0, 2, 0]), "VS");
    assert_eq!(client.read(REGION_CONFIG, 9, 3), Ok(vec![2, 8, 1]), "class code");
    assert_eq!(client.write(REGION_CONFIG, 4, &[6, 4]), Ok(()));
    assert_eq!(client.read(REGION_CONFIG, 4, 2), Ok(vec![6, 4]));
    assert_eq!(client.ask(Command::DEVICE_RESET, &[]), Ok(vec![]));
    assert_eq!(client.read(REGION_CONFIG, 4, 2), Ok(vec![0, 0]), "reset");
    let memory = Memfd::create("client", 8192, PageSize::Small4K).expect("memory");
    let mapped = client.ask_with(Command::DMA_MAP, map(0x10_0000, 8192).as_bytes(), &[&memory]);
    assert_eq!(mapped, Ok(vec![]));
    // Some clients send the file again.
    let gone = unmap(0x10_0000, 8192);
    let unmapped = client.ask_with(Command::DMA_UNMAP, gone.as_bytes(), &[&memory]);
    assert_eq!(unmapped, Ok(gone.as_bytes().to_vec()));
    assert_eq!(client.ask(Command::DMA_UNMAP, gone.as_bytes()), Err(Errno::NOENT));
}

#[test]
fn what_makes_no_sense_is_refused_by_errno_and_the_next_message_is_served() {
    let served = Served::new("nonsense");
    let client = served.client();
    let refused = |command, payload: &[u8], errno| {
        assert_eq!(client.ask(command, payload), Err(errno), "{command} {payload:?}");
        assert_eq!(client.read(REGION_BAR0, 8, 4), Ok(vec![0, 0, 2, 0]), "it goes on");
    };
    for command in 2..=13 {
        if command != Command::DEVICE_RESET.0 {
            let errno = match command {
                11 | 12 => Errno::NOTSUP,
                _ => Errno::INVAL,
            };
            refused(Command(command), &[1, 2, 3], errno);
        }
    }
    refused(Command(0), &[], Errno::NOTSUP);
    refused(Command(999), &[0; 64], Errno::NOTSUP);
    refused(Command::VERSION, &[0, 0, 1, 0], Errno::INVAL);
    for (region, offset, count) in [
        (REGION_BAR0, 0x14, 2),
        (REGION_BAR0, 2, 4),
        (REGION_BAR0, 4, 8),
        (REGION_BAR0, 0x2000, 4),
        (REGION_BAR0, 0x1000, 8),
        (REGION_BAR0, u64::MAX - 3, 4),
        (REGION_BAR0, 0, u32::MAX),
        (REGION_CONFIG, 4095, 2),
        (REGION_CONFIG, 0, u32::MAX),
        (4, 4096, 4),
        (1, 0, 4),
        (u32::MAX, 0, 4),
    ] {
        let access = access(region, offset, count);
        refused(Command::REGION_READ, access.as_bytes(), Errno::INVAL);
        refused(Command::REGION_WRITE, access.as_bytes(), Errno::INVAL);
    }
    // Arming an interrupt that never comes.
    let arm = [20_u32, 0x24, 2, 0, 1].map(U32::new);
    refused(Command::DEVICE_SET_IRQS, arm.as_bytes(), Errno::NOTSUP);
    let mut flags = map(0, 4096);
    flags.flags = U32::new(0x80);
    refused(Command::DMA_MAP, flags.as_bytes(), Errno::INVAL);
}

#[test]
fn who_breaks_the_framing_is_cut_off_and_the_next_client_is_served() {
    let served = Served::new("framing");
    let soon = || Instant::now() + LIMIT;
    let header = Header::command(1, Command::VERSION, 4);
    let mut short = header;
    short.size = U32::new(15);
    let mut long = header;
    long.size = U32::new(u32::MAX);
    for wrong in [short, long, header.reply(4)] {
        let raw = served.stranger();
        raw.0.send(&wrong, &[&[0; 4]], &[], soon()).expect("sent");
        assert!(raw.is_cut(), "{wrong:?}");
    }
    // Gone in the middle of a message, of the version, of everything.
    let raw = served.stranger();
    raw.0.send(&Header::command(1, Command::VERSION, 400), &[&[0; 4]], &[], soon()).expect("sent");
    drop(raw);
    drop(served.stranger());
    drop(served.client());
    // Nothing before the version.
    let raw = served.stranger();
    assert_eq!(raw.ask(Command::DEVICE_RESET, &[]), Err(Errno::INVAL));
    for version in [&[1, 0, 0, 0][..], &[0, 0], b"\0\0\x01\0{}", b"\0\0\x01\0nonsense\0"] {
        assert_eq!(raw.ask(Command::VERSION, version), Err(Errno::INVAL), "{version:?}");
    }
    drop(raw);
    assert!(served.client().read(REGION_BAR0, 0, 8).is_ok());
}

#[test]
fn memory_of_a_client_that_goes_is_forgotten() {
    let served = Served::new("forgets");
    let memory = Memfd::create("client", 4096, PageSize::Small4K).expect("memory");
    let known = || served.server.with_model(|model| model.unmap(Iova(0x20_0000)).is_some());
    for _ in 0..3 {
        // It has agreed on the version, so the one before is through.
        let client = served.client();
        assert_eq!(known(), Some(false));
        let request = map(0x20_0000, 4096);
        let mapped = client.ask_with(Command::DMA_MAP, request.as_bytes(), &[&memory]);
        assert_eq!(mapped, Ok(vec![]));
        let again = client.ask_with(Command::DMA_MAP, request.as_bytes(), &[&memory]);
        assert_eq!(again, Err(Errno::EXIST));
    }
}

/// A small generator (splitmix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    /// A number that is likely to hurt.
    fn number(&mut self) -> u64 {
        match self.below(6) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << self.below(64),
            3 => 0x1000 * self.below(8),
            4 => self.below(64),
            _ => self.next(),
        }
    }
}

/// A payload whose words are likely to be near something sensible.
fn payload(chance: &mut Chance) -> Vec<u8> {
    let words = chance.below(6);
    let mut bytes = Vec::new();
    for _ in 0..words {
        bytes.extend_from_slice(&chance.number().to_le_bytes());
    }
    bytes.truncate(bytes.len() - usize::try_from(chance.below(8)).unwrap_or(0).min(bytes.len()));
    bytes
}

#[test]
fn no_messages_and_no_bytes_bring_the_server_down() {
    let seed = std::process::id().into();
    println!("seed {seed}");
    let mut chance = Chance(seed);
    let served = Served::new("chance");
    let memory = Memfd::create("client", 1 << 16, PageSize::Small4K).expect("memory");
    for round in 0..60 {
        let client = if round % 3 == 0 { served.stranger() } else { served.client() };
        for _ in 0..40 {
            let command = Command(u16::try_from(chance.below(18)).unwrap_or(0));
            let files = [&memory; 2];
            let files = &files[..usize::try_from(chance.below(3)).unwrap_or(0)];
            client.send(command, &payload(&mut chance), files);
            // It answers each, or has hung up; it does not keep a client waiting.
            match client.reply() {
                Ok(_) => {}
                Err(SocketError::Closed | SocketError::Torn { .. }) => break,
                Err(other) => panic!("{other:?}"),
            }
        }
        if round % 2 == 0 {
            let noise: Vec<u8> = (0..chance.below(200)).map(|_| chance.byte()).collect();
            let _ = rustix::io::write(&client.0, &noise);
        }
    }
    assert_eq!(served.client().read(REGION_BAR0, 8, 4), Ok(vec![0, 0, 2, 0]));
}

/// Runs as nobody, on a thread of its own; the rest of the process stays who it is.
fn as_nobody<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(|| {
        let nobody = Uid::from_raw(65534);
        set_thread_res_uid(nobody, nobody, nobody).expect("root may");
        run()
    });
    thread.join().expect("no panic")
}

fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        hybrid_conventions::testing::skipped(test, "only root can be somebody else");
    }
    root
}

#[test]
fn another_users_client_is_not_served_even_where_the_socket_lets_it_in() {
    if !is_root("another_users_client_is_not_served_even_where_the_socket_lets_it_in") {
        return;
    }
    let served = Served::new("another");
    let path = served.server.socket().to_path_buf();
    let mode = std::fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let there = path.clone();
    let kept_out = as_nobody(move || Connection::open(&there, Instant::now() + LIMIT).err());
    assert_eq!(kept_out, Some(Errno::ACCESS));
    std::fs::set_permissions(&path, Permissions::from_mode(0o666)).expect("ours");
    let heard = as_nobody(move || {
        use std::io::Read as _;
        let mut stream = UnixStream::connect(&path).expect("let in");
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        stream.read(&mut [0]).map_err(|error| error.kind())
    });
    assert_eq!(heard, Ok(0), "the connection ends, whatever it would ask");
    drop(served.client());
}

#[test]
fn a_server_of_another_user_is_known_as_such() {
    if !is_root("a_server_of_another_user_is_known_as_such") {
        return;
    }
    let dir = std::env::temp_dir().join(format!("vfus-{}-theirs", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    std::fs::set_permissions(&dir, Permissions::from_mode(0o777)).expect("ours");
    let path = dir.join("cntrl");
    let theirs = path.clone();
    let listener = as_nobody(move || UnixListener::bind(theirs).expect("theirs"));
    let connection = Connection::open(&path, Instant::now() + LIMIT).expect("root may");
    assert_eq!(connection.stranger(), Ok(Some(65534)));
    drop(listener);
    let _ = std::fs::remove_dir_all(&dir);
}
