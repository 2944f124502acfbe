//! Where a fuzzer begins: for each target inputs that are right, so that it need not find out what
//! a header looks like.

use core_runtime::region::{RegionFacts, RegionWriter, Writer};
use core_runtime::ring::RingSpec;
use feed_handler::synth::{StockSlot, Synth, SynthConfig};
use hybrid_abi::crash::SectionKind;
use hybrid_abi::crash::file::{FileHeader, section};
use hybrid_abi::probe::file::{ChunkHeader, ChunkKind, TraceHeader};
use hybrid_abi::region::PartKind;
use hybrid_shm::{Span, leak_aligned};
use zerocopy::{FromZeros, IntoBytes};

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
        "dump" => vec![dump()],
        "itch" => itch(),
        "mold" => vec![mold()],
        "control" => control(),
        _ => Vec::new(),
    }
}

/// Which structure, where, and the bytes: MDTS, SQES, NN; NSZE, FLBAS, the first format, DPS.
fn identify() -> Vec<Vec<u8>> {
    let patch = |which: u8, offset: u16, bytes: &[u8]| {
        let [low, high] = offset.to_le_bytes();
        [&[which, low, high], bytes].concat()
    };
    vec![
        patch(0, 77, &[5]),
        patch(0, 512, &[0x66, 0x44]),
        patch(0, 516, &[1, 0, 0, 0]),
        patch(0, 258, &[3, 3]),
        patch(1, 0, &64_u64.to_le_bytes()),
        patch(1, 25, &[0, 0]),
        patch(1, 128, &[0, 0, 9, 0]),
        patch(1, 29, &[0]),
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

fn trace() -> Vec<u8> {
    let mut file = TraceHeader::blank().sealed().as_bytes().to_vec();
    for (kind, length) in [(1, 24), (2, 80), (3, 7)] {
        let payload = vec![kind; length];
        let header = ChunkHeader::of(ChunkKind(kind.into()), &payload);
        file.extend(header.as_bytes());
        file.extend(&payload);
        file.resize(file.len().next_multiple_of(8), 0);
    }
    file
}

fn dump() -> Vec<u8> {
    let mut file = FileHeader::new_zeroed().sealed().as_bytes().to_vec();
    for kind in 1..4 {
        let payload = vec![0x41; 40];
        let header = section(SectionKind(kind), 1, &payload).expect("short");
        file.extend(header.as_bytes());
        file.extend(&payload);
    }
    file
}

/// A short day, read strictly in long slices and leniently in short ones.
fn itch() -> Vec<Vec<u8>> {
    let day = day();
    [0xFE, 0x0D].map(|first| [&[first], &day[..]].concat()).to_vec()
}

fn day() -> Vec<u8> {
    let config = SynthConfig { seed: 3, stocks: 2, messages: 430 };
    let mut slots = vec![StockSlot::default(); 2];
    let mut feed = vec![0; usize::try_from(config.most_bytes()).expect("short")];
    let bytes = Synth::new(config, &mut slots).expect("a day").fill(&mut feed);
    feed.truncate(bytes);
    feed
}

/// The messages of a day in packets of four, each behind its length.
fn mold() -> Vec<u8> {
    let day = day();
    let mut messages = Vec::new();
    let mut rest = &day[..];
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length));
        let (message, next) = after.split_at(length.min(after.len()));
        messages.push(message);
        rest = next;
    }
    let mut stream = Vec::new();
    for (index, packet) in messages.chunks(4).enumerate() {
        let mut bytes = b"SESSION001".to_vec();
        bytes.extend((index as u64 * 4 + 1).to_be_bytes());
        bytes.extend(u16::try_from(packet.len()).expect("four").to_be_bytes());
        for message in packet {
            bytes.extend(u16::try_from(message.len()).expect("short").to_be_bytes());
            bytes.extend(*message);
        }
        stream.extend(u16::try_from(bytes.len()).expect("short").to_be_bytes());
        stream.extend(bytes);
    }
    stream
}

fn control() -> Vec<Vec<u8>> {
    let lines = [
        r#"{"jsonrpc":"2.0","id":1,"method":"statistics"}"#,
        r#"{"jsonrpc":"2.0","id":"a","method":"partition_restart","params":{"name":"p"}}"#,
        r#"{"jsonrpc":"2.0","method":"rpc_methods","params":[]}"#,
        r#"{"jsonrpc":"2.0","id":null,"method":"no such"}"#,
        "[]",
    ];
    lines.map(|line| line.as_bytes().to_vec()).to_vec()
}
