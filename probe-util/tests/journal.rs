//! `probe-util journal`, on journals that the crate `journal` wrote into a file.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Command, Output};
use std::task::{Context, Poll, Waker};

use journal::{
    Action, Engine, FormatOptions, From, IoError, Limits, Medium, Priority, Promise, format,
    recover, take_over,
};
use serde_json::Value;

const BLOCK: usize = 4096;

/// A file as a device.
struct Disk {
    file: File,
    bytes: u64,
    buf: Vec<u8>,
}

fn usize_of(value: u64) -> usize {
    usize::try_from(value).expect("small")
}

impl Medium for Disk {
    fn lba_bytes(&self) -> u32 {
        4096
    }

    fn blocks(&self) -> u64 {
        self.bytes / BLOCK as u64
    }

    fn promise(&self) -> Promise {
        Promise::default()
    }

    fn chunk_bytes(&self) -> usize {
        256 << 10
    }

    async fn read(&mut self, lba: u64, bytes: usize) -> Result<&[u8], IoError> {
        self.buf.resize(bytes, 0);
        self.file.read_exact_at(&mut self.buf, lba * BLOCK as u64).map_err(|_| IoError::Gone)?;
        Ok(&self.buf)
    }

    async fn write(
        &mut self,
        lba: u64,
        bytes: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), IoError> {
        self.buf.resize(bytes, 0);
        fill(&mut self.buf);
        self.write_back(lba, bytes).await
    }

    async fn write_back(&mut self, lba: u64, _: usize) -> Result<(), IoError> {
        self.file.write_all_at(&self.buf, lba * BLOCK as u64).map_err(|_| IoError::Gone)
    }

    async fn flush(&mut self) -> Result<(), IoError> {
        Ok(())
    }
}

fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("nothing in here waits"),
    }
}

/// A folder that goes with the value.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A journal of `records` records, each of which says its number.
fn journal(name: &str, records: u64) -> (Folder, PathBuf) {
    journal_with(name, records, false)
}

fn journal_with(name: &str, records: u64, chain: bool) -> (Folder, PathBuf) {
    let folder = std::env::temp_dir().join(format!("probe-util-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join("wal.img");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
    let (file, bytes) = (file.expect("a file"), 8 << 20);
    file.set_len(bytes).expect("room");
    let mut disk = Disk { file, bytes, buf: Vec::new() };
    let options = FormatOptions {
        batch_bytes: 16 << 10,
        segment_bytes: 256 << 10,
        reach_bytes: 128 << 10,
        chain,
        ..FormatOptions::new(0xABCD, "wal")
    };
    now(format(&mut disk, &options)).expect("a journal");
    let found = now(recover(&mut disk, From::Checkpoint)).expect("a journal");
    let superblock = now(take_over(&mut disk, &found)).expect("an epoch");
    let limits = Limits { slots: 4, in_flight: 1, checkpoint_records: 500, ..Limits::default() };
    let mut engine = Engine::new(superblock, limits, Promise::default()).expect("an engine");
    let mut bufs: Vec<_> = (0..4).map(|_| Some(vec![0_u8; 16 << 10])).collect();
    for number in 0..records {
        let payload = number.to_le_bytes();
        engine.append(&mut bufs, Priority::High, (9, number), &payload).expect("room");
        if number % 5 == 4 || number + 1 == records {
            settle(&mut engine, &mut bufs, &mut disk);
        }
    }
    (Folder(folder), path)
}

fn settle(engine: &mut Engine, bufs: &mut [Option<Vec<u8>>], disk: &mut Disk) {
    while let Some(action) = engine.next(bufs) {
        match action {
            Action::Write { slot, lba, bytes, .. } => {
                let buf = bufs[slot].as_ref().expect("a buffer");
                disk.file.write_all_at(&buf[..bytes], lba * BLOCK as u64).expect("written");
                engine.written(slot, Ok(()));
            }
            Action::WriteMeta { lba, bytes } => {
                now(disk.write(lba, bytes, |room| engine.encode_meta(room))).expect("written");
                engine.meta_written(Ok(()));
            }
            Action::Flush => engine.flushed(Ok(())),
        }
    }
}

fn probe(path: &Path, options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_probe-util"))
        .arg("journal")
        .arg(path)
        .args(options)
        .output()
        .expect("probe-util runs")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn a_whole_journal_is_listed_verified_and_dumped() {
    let (_folder, path) = journal("whole", 1203);
    let text = probe(&path, &["--verify", "--dump", "--from", "1200", "-n", "2"]);
    let out = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.status.success(), "{text:?}");
    for words in [
        "journal    \"wal\", id 0x000000000000abcd",
        "log        records 0 to 1203 (exclusive)",
        "a tail at position",
        "verified   1203 records with 9624 bytes of payload, all whole",
        "record         1200  time                 1200  kind     9        8 bytes  b004000",
    ] {
        assert!(out.contains(words), "{words:?} in {out}");
    }
    assert!(!out.contains("record         1202 "), "two records were asked for: {out}");
    let value = json(&probe(&path, &["--json"]));
    assert_eq!(value["schema"], "journal/1");
    assert_eq!(value["end"]["kind"], "tail");
    assert_eq!(value["end"]["sequence"], 1203);
    let segments = value["segments"].as_array().expect("segments");
    assert_eq!(segments[0]["first_sequence"], 0);
    assert!(segments.len() > 2 && segments[0]["index_entries"].as_u64() > Some(0), "{value:#}");
}

#[test]
fn what_is_damaged_is_named_with_its_place_and_ends_with_1() {
    let (_folder, path) = journal("damaged", 1203);
    let value = json(&probe(&path, &["--json"]));
    let byte = value["segments"][1]["byte"].as_u64().expect("a place");
    let first = value["segments"][1]["first_sequence"].as_u64().expect("a record");
    let file = OpenOptions::new().read(true).write(true).open(&path).expect("the file");
    // In the first batch of the second segment, far before the checkpoint.
    flip(&file, byte + 200);
    let run = probe(&path, &["--verify"]);
    assert_eq!(run.status.code(), Some(1));
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    let words = format!("record {first} at position 262144 (byte {byte} of the device) is lost");
    assert!(said.contains(&words), "{words:?} in {said}");
    assert!(probe(&path, &[]).status.success(), "the end is whole, and nothing else was asked");
    // A superblock: the other one stands in, and that is said.
    flip(&file, 300);
    let run = probe(&path, &[]);
    assert_eq!(run.status.code(), Some(1), "{run:?}");
    assert!(String::from_utf8_lossy(&run.stderr).contains("superblock in slot 0"), "{run:?}");
    flip(&file, 65_536 + 300);
    let run = probe(&path, &[]);
    assert!(String::from_utf8_lossy(&run.stderr).contains("there is no journal"), "{run:?}");
}

#[test]
fn a_hole_before_an_acknowledged_record_is_no_tail() {
    let (_folder, path) = journal("hole", 1228);
    let value = json(&probe(&path, &["--json"]));
    let checkpoint = value["superblock"]["checkpoint_position"].as_u64().expect("a place");
    let end = value["end"]["position"].as_u64().expect("a place");
    let segment = value["superblock"]["segment_bytes"].as_u64().expect("a size");
    assert!(end > checkpoint + 3 * BLOCK as u64, "batches behind the checkpoint: {value:#}");
    let file = OpenOptions::new().write(true).open(&path).expect("the file");
    let byte = value["segments"][usize_of(checkpoint / segment)]["byte"].as_u64().expect("one");
    file.write_all_at(&[0; BLOCK], byte + checkpoint % segment).expect("written");
    let run = probe(&path, &[]);
    assert_eq!(run.status.code(), Some(1), "{run:?}");
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(said.contains("is lost (no batch begins here)"), "{said}");
    assert!(said.contains("were acknowledged"), "{said}");
    // The journal's own reading says the same.
    let (bytes, file) = (8 << 20, OpenOptions::new().read(true).write(true).open(&path));
    let mut disk = Disk { file: file.expect("the file"), bytes, buf: Vec::new() };
    let error = now(recover(&mut disk, From::Checkpoint)).expect_err("a hole");
    assert!(matches!(error, journal::JournalError::Lost { .. }), "{error}");
}

#[test]
fn what_is_no_journal_is_refused() {
    let path = std::env::temp_dir().join(format!("probe-util-none-{}", std::process::id()));
    for bytes in [&b""[..], &[0; 70_000], &[7; 70_000]] {
        std::fs::write(&path, bytes).expect("a file");
        let run = probe(&path, &[]);
        assert_eq!(run.status.code(), Some(1), "{run:?}");
        assert!(run.stdout.is_empty());
    }
    std::fs::remove_file(&path).expect("it is there");
    assert_eq!(probe(&path, &[]).status.code(), Some(1));
}

fn flip(file: &File, at: u64) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[byte[0] ^ 1], at).expect("written");
}

#[test]
fn a_chain_is_printed_and_a_log_that_does_not_go_through_it_is_refused() {
    let (_folder, path) = journal_with("chain", 1_300, true);
    let text = |output: &Output| {
        let both = [output.stdout.clone(), output.stderr.clone()].concat();
        String::from_utf8(both).expect("text")
    };
    let whole = probe(&path, &["--verify"]);
    let said = text(&whole);
    assert_eq!(whole.status.code(), Some(0), "{said}");
    assert!(said.contains("chained from genesis to its end"), "{said}");
    let line = said.lines().find(|line| line.starts_with("chain ")).expect("a chain");
    assert!(line.ends_with(" in front of record 1300"), "{line}");
    let chain = line.split_whitespace().nth(1).expect("its digits").to_owned();
    let same = probe(&path, &["--verify", "--chain", &chain]);
    assert_eq!(same.status.code(), Some(0), "{}", text(&same));
    assert!(text(&same).contains("goes through the given chain in front of record 1300"));
    let other = format!("{:0>48}", 7);
    let refused = probe(&path, &["--verify", "--chain", &other]);
    assert_eq!(refused.status.code(), Some(1));
    let words = format!("the log does not go through chain {other}");
    assert!(text(&refused).contains(&words), "{}", text(&refused));
    for nonsense in ["12", &"g".repeat(48)] {
        let refused = probe(&path, &["--verify", "--chain", nonsense]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(text(&refused).contains("48 hexadecimal digits"), "{}", text(&refused));
    }
}
