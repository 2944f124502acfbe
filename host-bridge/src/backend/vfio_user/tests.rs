//! Servers that lie: each lie is an error that names it, within the deadline.
//!
//! Between the client and an honest server of this process stands a liar, who forwards every
//! message and spoils the reply to one.

use std::os::unix::net::UnixListener;
use std::time::Instant;

use core_runtime::mem::{DmaRegion, Iova};
use nvme_model::{Idle, ModelConfig, NamespaceConfig};
use zerocopy::little_endian::{U16, U32};

use super::session::close;
use super::*;
use crate::sys::memfd::{Memfd, PageSize};
use crate::vfio_user::socket::{Connection, Message};
use crate::vfio_user::wire::Command;
use crate::vfio_user_server::{ServerOptions, VfioUserServer};

/// Longer than anything honest takes.
const LIMIT: Duration = Duration::from_secs(20);
/// The client's patience with a server that says nothing.
const PATIENCE: Duration = Duration::from_millis(300);
/// Bytes of the memory that is shared.
const BYTES: usize = 1 << 20;

/// What happens to the reply.
#[derive(Clone, Copy)]
enum Lie {
    /// It is changed.
    Change(fn(&mut Message)),
    /// It never comes.
    Silence,
    /// The connection ends instead.
    Cut,
    /// The connection ends after this many bytes of it.
    Torn(usize),
    /// So many files come with it.
    Files(usize),
}

/// Name of a lie, the message and which of its kind, the change, words of the error.
type Case = (&'static str, Command, usize, fn(&mut Message), &'static str);

/// An honest server, and a liar in front of it.
struct Liar {
    _server: VfioUserServer,
    dir: PathBuf,
}

impl Liar {
    /// Spoils the reply to the `nth` message (from 0) of `command`.
    fn new(name: &str, command: Command, nth: usize, lie: Lie) -> Self {
        let dir = std::env::temp_dir().join(format!("vful-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let honest = dir.join("honest");
        let namespaces = vec![NamespaceConfig::memory(1, 64)];
        let model = ModelConfig { namespaces, max_io_queues: 4, ..ModelConfig::default() };
        let idle = Idle::Yield { after_steps: 16 };
        let options = ServerOptions { model, idle, ..ServerOptions::default() };
        let server = VfioUserServer::start(&honest, options).expect("a server");
        let listener = UnixListener::bind(dir.join("liar")).expect("a listener");
        std::thread::spawn(move || {
            let (client, _) = listener.accept().expect("a client");
            let server = Connection::open(&honest, Instant::now() + LIMIT).expect("a server");
            // It ends with either side.
            let _ = forward(&Connection::over(client.into()), &server, command, nth, lie);
        });
        Self { _server: server, dir }
    }

    fn settings(&self) -> Settings {
        Settings { path: self.dir.join("liar"), timeout: PATIENCE, reconnect: Duration::ZERO }
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn forward(
    client: &Connection,
    server: &Connection,
    command: Command,
    nth: usize,
    lie: Lie,
) -> Result<(), crate::vfio_user::socket::SocketError> {
    let mut seen = 0;
    loop {
        let soon = Instant::now() + LIMIT;
        let ask = client.receive(1 << 16, soon)?;
        let fds: Vec<_> = ask.fds.iter().map(AsFd::as_fd).collect();
        server.send(&ask.header, &[&ask.payload], &fds, soon)?;
        let mut reply = server.receive(1 << 16, soon)?;
        let hit = ask.header.command.get() == command.0 && seen == nth;
        seen += usize::from(ask.header.command.get() == command.0);
        let null = std::fs::File::open("/dev/null").expect("a file");
        let mut files: Vec<_> = reply.fds.iter().map(AsFd::as_fd).collect();
        match lie {
            Lie::Silence if hit => {
                // Until the client has had enough.
                return client.receive(1 << 16, soon).map(drop);
            }
            Lie::Cut if hit => return Ok(()),
            Lie::Torn(bytes) if hit => {
                let whole = [zerocopy::IntoBytes::as_bytes(&reply.header), &reply.payload].concat();
                let _ = rustix::io::write(client, &whole[..bytes]);
                return Ok(());
            }
            Lie::Files(count) if hit => {
                files = vec![null.as_fd(); count];
                client.send(&reply.header, &[&reply.payload], &files, soon)?;
            }
            Lie::Change(change) if hit => {
                drop(files);
                change(&mut reply);
                let files: Vec<_> = reply.fds.iter().map(AsFd::as_fd).collect();
                client.send(&reply.header, &[&reply.payload], &files, soon)?;
            }
            _ => client.send(&reply.header, &[&reply.payload], &files, soon)?,
        }
    }
}

fn share() -> Share {
    let memfd = Memfd::create("dma", BYTES, PageSize::Small4K).expect("memory");
    let file = memfd.as_fd().try_clone_to_owned().expect("a descriptor");
    Share { file, region: DmaRegion::leak(BYTES, Iova(0x40_0000_0000)) }
}

/// Reaches the server through a liar; the error's words.
fn told(name: &str, command: Command, nth: usize, lie: Lie) -> String {
    let liar = Liar::new(name, command, nth, lie);
    let begun = Instant::now();
    let error = open(&liar.settings(), &share(), None).expect_err(name);
    assert!(begun.elapsed() < PATIENCE + Duration::from_secs(5), "{name}: {error}");
    error.to_string()
}

/// Puts a little-endian number into the reply's payload.
fn put(message: &mut Message, at: usize, bytes: &[u8]) {
    message.payload[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Makes the payload as long as this, and the header say so.
fn resize(message: &mut Message, len: usize) {
    message.payload.resize(len, 0);
    message.header.size = U32::new(u32::try_from(16 + len).expect("short"));
}

const REGION: Command = Command::DEVICE_GET_REGION_INFO;

#[test]
fn an_honest_server_is_reached_and_left_through_the_same_liar() {
    let liar = Liar::new("honest", Command(0), 0, Lie::Silence);
    let share = share();
    let mut opened = open(&liar.settings(), &share, None).expect("a server");
    assert_eq!((opened.doorbells.offset, opened.doorbells.len), (0x1000, 0x1000));
    close(&mut opened.server, &share.region).expect("unmapped");
}

#[test]
fn lies_in_headers_are_named() {
    type HeaderLie = (&'static str, fn(&mut Message), &'static str);
    let cases: [HeaderLie; 8] = [
        ("id", |m| m.header.message_id = U16::new(77), "the reply has message id 77"),
        ("command", |m| m.header.command = U16::new(13), "the reply is to DEVICE_RESET"),
        ("type", |m| m.header.flags = U32::ZERO, "a reply was due"),
        ("short", |m| m.header.size = U32::new(8), "a message of 8 bytes"),
        ("long", |m| m.header.size = U32::new(u32::MAX), "a message of 4294967295 bytes"),
        ("less", |m| resize(m, 8), "the reply has 8 bytes behind its header"),
        ("more", |m| resize(m, 24), "the reply has 24 bytes behind its header"),
        (
            "error",
            |m| {
                m.header.flags = U32::new(0x21);
                m.header.error = U32::new(5);
                resize(m, 0);
            },
            "the server refused: Input/output error",
        ),
    ];
    for (name, change, words) in cases {
        let line = told(name, Command::DEVICE_GET_INFO, 0, Lie::Change(change));
        assert!(line.starts_with("DEVICE_GET_INFO: ") && line.contains(words), "{name}: {line}");
    }
}

#[test]
fn silence_ends_and_files_that_nobody_asked_for_are_named() {
    for command in [Command::VERSION, REGION, Command::DMA_MAP, Command::REGION_READ] {
        let line = told("silent", command, 0, Lie::Silence);
        assert_eq!(line, format!("{command}: no answer in time"));
        let line = told("cut", command, 0, Lie::Cut);
        assert_eq!(line, format!("{command}: the peer closed the connection"));
        let line = told("torn", command, 0, Lie::Torn(9));
        assert!(line.contains("in the middle of a message"), "{line}");
    }
    // The first region asked for is the configuration space, which has no file.
    for (command, nth) in [(Command::VERSION, 0), (Command::DMA_MAP, 0), (REGION, 0)] {
        let line = told("files", command, nth, Lie::Files(1));
        assert!(line.contains("1 file descriptors came; at most 0 are due"), "{line}");
    }
    let line = told("many files", REGION, 1, Lie::Files(2));
    assert!(line.contains("1 mappable areas and came with 2 files"), "{line}");
    let line = told("no file", REGION, 1, Lie::Files(0));
    assert!(line.contains("does not let us map the doorbells"), "{line}");
}

#[test]
fn lies_about_the_device_and_its_regions_are_named() {
    let cases: [Case; 12] = [
        ("major", Command::VERSION, 0, |m| put(m, 0, &[9]), "speaks vfio-user 9."),
        ("json", Command::VERSION, 0, |m| put(m, 4, b"]"), "capabilities are no json"),
        ("not pci", Command::DEVICE_GET_INFO, 0, |m| put(m, 4, &[1]), "flags 0x1"),
        ("few regions", Command::DEVICE_GET_INFO, 0, |m| put(m, 8, &[3]), "3 regions"),
        ("index", REGION, 1, |m| put(m, 8, &[5]), "says index 0x5; 0x0 was asked"),
        ("small bar", REGION, 1, |m| put(m, 16, &[0, 0x10]), "region 0 has 4096 bytes"),
        ("absurd bar", REGION, 1, |m| put(m, 16, &[0xff; 8]), "18446744073709551615 bytes"),
        ("no mmap", REGION, 1, |m| put(m, 4, &[0xb]), "does not let us map the doorbells"),
        ("area outside", REGION, 1, |m| put(m, 56, &[0, 0x80]), "must lie inside"),
        ("area wraps", REGION, 1, |m| put(m, 56, &[0xff; 8]), "must lie inside"),
        ("area elsewhere", REGION, 1, |m| put(m, 48, &[0, 0x20]), "does not let us map"),
        ("chain", REGION, 1, |m| put(m, 12, &[200]), "capability at offset 200"),
    ];
    for (name, command, nth, change, words) in cases {
        let line = told(name, command, nth, Lie::Change(change));
        assert!(line.contains(words), "{name}: {line}");
    }
    let cases: [Case; 3] = [
        ("bus", Command::REGION_READ, 1, |m| put(m, 16, &[0, 0]), "command register reads 0x"),
        ("offset", Command::REGION_READ, 0, |m| put(m, 0, &[8]), "says offset 0x8"),
        ("count", Command::REGION_WRITE, 0, |m| put(m, 12, &[1]), "says count 0x1"),
    ];
    for (name, command, nth, change, words) in cases {
        let line = told(name, command, nth, Lie::Change(change));
        assert!(line.contains(words), "{name}: {line}");
    }
}

#[test]
fn an_unmap_is_believed_only_with_its_size_and_never_before_it_is_answered() {
    let cases: [(&str, Lie, &str); 3] = [
        ("unmap size", Lie::Change(|m| put(m, 16, &[0, 0, 8])), "says size 0x80000"),
        ("unmap address", Lie::Change(|m| put(m, 8, &[1])), "says address 0x4000000001"),
        ("unmap silence", Lie::Silence, "DMA_UNMAP: no answer in time"),
    ];
    for (name, lie, words) in cases {
        let liar = Liar::new(name, Command::DMA_UNMAP, 0, lie);
        let share = share();
        let mut opened = open(&liar.settings(), &share, None).expect("a server");
        let error = close(&mut opened.server, &share.region).expect_err(name);
        assert!(error.to_string().contains(words), "{name}: {error}");
    }
}
