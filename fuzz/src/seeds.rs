//! Where a fuzzer begins: for each target inputs that are right, so that it need not find out what
//! a header looks like. The writers are the ones whose files and parts the targets read.

mod dump;

use std::path::Path;
use std::{fs, io};

use core_runtime::region::{RegionFacts, RegionWriter, Writer};
use core_runtime::ring::RingSpec;
use feed_handler::synth::{StockSlot, Synth, SynthConfig};
use hybrid_abi::Name;
use hybrid_abi::crash::program::TASK_NAME_BYTES;
use hybrid_abi::metrics::MetricUnit;
use hybrid_abi::probe::dictionary::{KIND_EVENT, KIND_REGISTER, fields};
use hybrid_abi::probe::file::{ChunkHeader, ChunkKind, RecordsHead, TraceEnd, TraceHeader};
use hybrid_abi::probe::{
    FieldKind, Group, Level, ProbeEntry, ProbeField, ProbeRecord, RegisterEntry,
};
use hybrid_abi::region::PartKind;
use hybrid_shm::{Span, leak_aligned};
use zerocopy::IntoBytes;

use crate::TARGETS;

/// Right inputs of a target; none if there is no such target.
#[must_use]
pub fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        // Each kind of fault on the second command, with a few arguments.
        "cqe" => (0..9).map(|kind| vec![kind, 0x11, 0x80, 1, kind, 1, 0, 5]).collect(),
        "identify" => identify(),
        "ring" => vec![ring()],
        "region" => vec![region()],
        "trace" => vec![trace()],
        "dump" => dump::dumps(),
        "itch" => itch(),
        "mold" => mold(),
        "control" => control(),
        _ => Vec::new(),
    }
}

/// Writes the seeds of all targets: `DIR/TARGET/seed-N`.
///
/// # Errors
/// Those of the file system.
pub fn write_all(dir: &Path) -> io::Result<()> {
    for target in &TARGETS {
        let dir = dir.join(target.name);
        fs::create_dir_all(&dir)?;
        for (number, seed) in of(target.name).iter().enumerate() {
            fs::write(dir.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}

/// Patches of identify data, some in an input: which structure, where, how many bytes, these.
fn identify() -> Vec<Vec<u8>> {
    let patch = |which: u8, offset: u16, bytes: &[u8]| {
        let [low, high] = offset.to_le_bytes();
        let len = u8::try_from(bytes.len()).expect("short");
        [&[which, low, high, len - 1], bytes].concat()
    };
    let controller = |offset, bytes: &[u8]| patch(0, offset, bytes);
    let namespace = |offset, bytes: &[u8]| patch(1, offset, bytes);
    // A format with metadata and 4 KiB blocks, as the second of three.
    let format = [namespace(25, &[2]), namespace(132, &[8, 0, 12, 0])].concat();
    vec![
        controller(77, &[5]),
        controller(512, &[0x66, 0x44]),
        controller(516, &[1, 0, 0, 0]),
        // ACL and AERL; ELPE and LPA; ONCS, VWC; AWUN and AWUPF; SGLS.
        controller(258, &[3, 3]),
        controller(261, &[7, 63]),
        controller(520, &[0xFF, 0, 0, 0, 0, 1]),
        controller(526, &[7, 0, 1, 0]),
        controller(536, &[1, 0, 0, 0]),
        // CNTLID, VER, OAES, CTRATT.
        controller(78, &[9, 0, 0, 0, 1, 0]),
        controller(92, &[0, 3, 0, 0, 0, 0, 0, 0]),
        namespace(0, &64_u64.to_le_bytes()),
        namespace(0, &[0; 8]),
        namespace(29, &[1]),
        namespace(128, &[0, 0, 8, 0]),
        namespace(128, &[0, 0, 12, 0]),
        [format.clone(), namespace(26, &[1])].concat(),
        [format, namespace(26, &[0x11])].concat(),
        // The smallest transfer, and the largest namespace of large blocks.
        [controller(77, &[1]), namespace(128, &[0, 0, 16, 0])].concat(),
        [namespace(0, &[0xFF; 8]), namespace(128, &[0, 0, 12, 0])].concat(),
    ]
}

fn bytes_of(span: Span<'static>) -> Vec<u8> {
    let mut bytes = vec![0; span.len()];
    span.read(0, &mut bytes).expect("inside");
    bytes
}

/// A consumer's part, and a producer's behind it, each padded to the longer one.
fn ring() -> Vec<u8> {
    let spec = RingSpec::fixed::<u64>(8).expect("a ring");
    let bytes = spec.producer_bytes().max(spec.consumer_bytes());
    let (head, tail) = (leak_aligned(bytes, 128), leak_aligned(bytes, 128));
    spec.make_consumer_part(head).expect("a part");
    spec.make_producer_part(tail).expect("a part");
    [bytes_of(head), bytes_of(tail)].concat()
}

fn region() -> Vec<u8> {
    let facts = RegionFacts {
        boot_id: [7; 16],
        build_id: [8; 20],
        partition: 2,
        incarnation: 3,
        tsc_hz: 2_445_000_000,
        anchor_tsc: 11,
        anchor_unix_ns: 12,
    };
    let span = leak_aligned(8192, 4096);
    let mut writer = RegionWriter::new(span, Writer::Partition, facts, 8).expect("a region");
    writer.add_part(PartKind::METRICS, "runtime", 1000).expect("room");
    writer.add_part(PartKind::RING_PRODUCER, "events", 512).expect("room");
    writer.publish().expect("whole");
    bytes_of(span)
}

/// A chunk of each kind, as they follow each other.
fn trace() -> Vec<u8> {
    let entry = |kind, name, about| {
        let (group, place) = ((Group::DRIVER, Level::INFO), (file!(), line!()));
        let field = ProbeField::new("cid", MetricUnit::COUNT, FieldKind::COMMAND);
        ProbeEntry::new(kind, (name, about), group, fields(&[field]), place)
    };
    let entries = [
        entry(KIND_EVENT, "driver.submit", "a command is posted"),
        entry(KIND_REGISTER, "driver.in_flight", "commands without an answer"),
    ];
    let event = |tsc| ProbeRecord { tsc, id: entries[0].id, a: 1, b: 2, c: 3 };
    let mut records = RecordsHead { first: 7, lost: 1 }.as_bytes().to_vec();
    records.extend([event(11), event(12)].as_bytes());
    let register = RegisterEntry {
        name: entries[1].name,
        id: entries[1].id,
        unit: MetricUnit::COUNT,
        reserved: [0; 10],
        value: 5,
    };
    let chunks = [
        (ChunkKind::DICTIONARY, entries.as_bytes().to_vec()),
        (ChunkKind::PROGRAM_PATH, b"/usr/bin/feed-handler".to_vec()),
        (ChunkKind::TASK_NAMES, Name::<TASK_NAME_BYTES>::lossy("reader").as_bytes().to_vec()),
        (ChunkKind::RECORDS, records),
        (ChunkKind::REGISTERS, register.as_bytes().to_vec()),
        (ChunkKind::END, TraceEnd { records: 2, lost: 1, dropped: 0, tsc: 13 }.as_bytes().to_vec()),
    ];
    let header = TraceHeader { tsc_hz: 2_445_000_000, ..TraceHeader::blank() };
    let mut file = header.sealed().as_bytes().to_vec();
    for (kind, payload) in chunks {
        file.extend(ChunkHeader::of(kind, &payload).as_bytes());
        file.extend(&payload);
        file.resize(file.len().next_multiple_of(8), 0);
    }
    file
}

/// A short day and its first messages, which a fuzzer runs ten times as often; each read strictly
/// in long slices, and leniently in short ones.
fn itch() -> Vec<Vec<u8>> {
    let (day, start) = (day(), messages(START).concat());
    let of = |first: u8, feed: &[u8]| [&[first], feed].concat();
    vec![of(0xFE, &day), of(0x0D, &day), of(0x7E, &start), of(0x0D, &start)]
}

/// Messages of the start of a day: what comes before the first orders, and some of these.
const START: usize = 60;

fn day() -> Vec<u8> {
    let config = SynthConfig { seed: 3, stocks: 2, messages: 430 };
    let mut slots = vec![StockSlot::default(); 2];
    let mut feed = vec![0; usize::try_from(config.most_bytes()).expect("short")];
    let bytes = Synth::new(config, &mut slots).expect("a day").fill(&mut feed);
    feed.truncate(bytes);
    feed
}

/// The first messages of a day, each behind its length.
fn messages(count: usize) -> Vec<Vec<u8>> {
    let day = day();
    let (mut messages, mut rest) = (Vec::new(), &day[..]);
    while let Some(length) = rest.first_chunk::<2>().filter(|_| messages.len() < count) {
        let length = 2 + usize::from(u16::from_be_bytes(*length));
        let (message, next) = rest.split_at(length.min(rest.len()));
        messages.push(message.to_vec());
        rest = next;
    }
    messages
}

/// The messages of a day in packets of four, each behind its length: in order; with one left out,
/// one told twice and one of the past; with a heartbeat and the end of the session.
fn mold() -> Vec<Vec<u8>> {
    let messages = messages(START);
    let packets = messages.chunks(4).zip(0..).map(|(messages, index)| {
        let count = u16::try_from(messages.len()).expect("four");
        packet(index * 4 + 1, count, messages)
    });
    let packets: Vec<_> = packets.collect();
    let next = messages.len() as u64 + 1;
    let (heartbeat, end) = (packet(next, 0, &[]), packet(next, u16::MAX, &[]));
    let [a, b, c, d] = &packets[..4] else { panic!("a day of sixteen messages") };
    vec![
        packets.concat(),
        [a, c, b, d, c].map(Vec::as_slice).concat(),
        [a, &heartbeat, b, &end, c].map(Vec::as_slice).concat(),
    ]
}

fn packet(sequence: u64, count: u16, messages: &[Vec<u8>]) -> Vec<u8> {
    let (sequence, count) = (sequence.to_be_bytes(), count.to_be_bytes());
    let bytes = [b"SESSION001", &sequence[..], &count, &messages.concat()].concat();
    let length = u16::try_from(bytes.len()).expect("short").to_be_bytes();
    [&length[..], &bytes].concat()
}

/// Every method that the socket has, and requests that are none.
fn control() -> Vec<Vec<u8>> {
    let lines = [
        r#"{"jsonrpc":"2.0","id":1,"method":"rpc_get_methods"}"#,
        r#"{"jsonrpc":"2.0","id":2,"method":"host_get_info","params":{}}"#,
        r#"{"jsonrpc":"2.0","id":"a","method":"partition_list","params":null}"#,
        r#"{"jsonrpc":"2.0","id":3,"method":"partition_get_region","params":{"partition":"p"}}"#,
        r#"{"jsonrpc":"2.0","id":4,"method":"statistics_get","params":{"partition":"5"}}"#,
        r#"{"jsonrpc":"2.0","id":5,"method":"statistics_reset","params":{"partition":5}}"#,
        r#"{"jsonrpc":"2.0","id":6,"method":"partition_restart","params":{"partition":"p"}}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"partition_drain","params":["p"]}"#,
        r#"{"jsonrpc":"2.0","method":"partition_list"}"#,
        r#"{"jsonrpc":"2.0","id":null,"method":"no such"}"#,
        r#"{"jsonrpc":"1.0","id":8.5,"method":7}"#,
        "[]",
    ];
    lines.map(|line| line.as_bytes().to_vec()).to_vec()
}
