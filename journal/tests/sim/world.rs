//! A log on the disk, a workload, and what is known of it from outside.

use journal::layout::BatchHeader;
use journal::{
    Action, AppendError, Cursor, Engine, FormatOptions, From, JournalError, Limits, Priority,
    Promise, Recovered, Seek, format, recover, take_over,
};
use nvme_driver::{IoError, spec::Status};
use zerocopy::{FromBytes, IntoBytes};

use crate::disk::{Disk, LBA, now};
use crate::rng::Rng;

/// What was appended: the record and its payload follow from `salt`, sequence number and nothing
/// else.
#[derive(Clone, Debug)]
pub(crate) struct History {
    /// Salt of each record from 0 on.
    salts: Vec<u64>,
}

impl History {
    pub(crate) fn payload(salt: u64, sequence: u64) -> Vec<u8> {
        let mut rng = Rng::new(salt ^ sequence.wrapping_mul(0x1234_5678_9ABC_DEF1));
        let len = if rng.one_in(12) { rng.index(1900) } else { rng.index(200) };
        (0..len).map(|_| rng.next().to_le_bytes()[0]).collect()
    }

    pub(crate) fn len(&self) -> u64 {
        self.salts.len() as u64
    }
}

/// The batches that were submitted, newest last: what is known of them from outside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) header: BatchHeader,
    pub(crate) at: usize,
}

/// Disk, engine, workload.
pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) disk: Disk,
    pub(crate) engine: Engine,
    pub(crate) history: History,
    pub(crate) sent: Vec<Sent>,
    /// Records below were given up.
    pub(crate) front: u64,
    bufs: Vec<Option<Vec<u8>>>,
    /// Slot or superblock (`None`), and the disk's number of the write.
    writes: Vec<(Option<usize>, u64)>,
    flush: Option<Vec<u64>>,
    limits: Limits,
    pub(crate) flush_fails_one_in: u64,
}

pub(crate) const SNAPSHOT_BYTES: u64 = 8192;

pub(crate) fn options() -> FormatOptions {
    FormatOptions {
        batch_bytes: 2048,
        segment_bytes: 12_288,
        segments: 12,
        reach_bytes: 24_576,
        snapshot_bytes: SNAPSHOT_BYTES,
        ..FormatOptions::new(0x1BAD_5EED_CAFE_F00D, "simulation")
    }
}

impl World {
    pub(crate) fn new(seed: u64, promise: Promise, chain: bool) -> Self {
        let options = FormatOptions { chain, ..options() };
        let g = options.geometry(512, 1 << 20).expect("sizes");
        let mut disk = Disk::new(g.total_bytes(), promise);
        now(format(&mut disk, &options)).expect("a journal");
        let limits = Limits { pending_records: 64, slots: 6, in_flight: 3, checkpoint_records: 40 };
        let found = now(recover(&mut disk, From::Checkpoint)).expect("an empty journal");
        assert_eq!(found.tail.sequence, 0);
        let superblock = now(take_over(&mut disk, &found)).expect("a new epoch");
        Self {
            rng: Rng::new(seed),
            disk,
            engine: Engine::new(superblock, limits, promise).expect("an engine"),
            history: History { salts: Vec::new() },
            sent: Vec::new(),
            front: 0,
            bufs: (0..6).map(|_| Some(vec![0x5A; 2048])).collect(),
            writes: Vec::new(),
            flush: None,
            limits,
            flush_fails_one_in: u64::MAX,
        }
    }

    /// One event: an append, an action, or an ending, whatever comes.
    pub(crate) fn event(&mut self) {
        match self.rng.below(8) {
            0..=3 => self.append(),
            4 => self.act(),
            _ => self.end_something(),
        }
        if self.rng.one_in(64) {
            self.truncate();
        }
    }

    fn append(&mut self) {
        for _ in 0..=self.rng.below(4) {
            let salt = self.rng.next();
            if !self.append_one(salt) {
                return;
            }
        }
    }

    /// Appends a record; says whether it was taken.
    fn append_one(&mut self, salt: u64) -> bool {
        let sequence = self.engine.next_sequence();
        let payload = History::payload(salt, sequence);
        let time = 1000 * sequence;
        let taken = self.engine.append(&mut self.bufs, Priority::High, (7, time), &payload);
        match taken {
            Ok(given) => {
                assert_eq!(given, sequence);
                self.history.salts.truncate(usize::try_from(sequence).expect("small"));
                self.history.salts.push(salt);
                assert_eq!(self.history.len(), sequence + 1);
                true
            }
            Err(AppendError::TooLarge { .. }) => panic!("a payload fits"),
            Err(_) => false,
        }
    }

    fn act(&mut self) {
        while let Some(action) = self.engine.next(&mut self.bufs) {
            match action {
                Action::Write { slot, lba, bytes, .. } => {
                    let buf = self.bufs[slot].take().expect("the slot's buffer");
                    let id = self.disk.submit(lba, &buf[..bytes]);
                    let (header, _) = BatchHeader::read_from_prefix(&buf).expect("a header");
                    let at = usize::try_from(lba).expect("an address") * LBA;
                    self.sent.push(Sent { header, at });
                    self.bufs[slot] = Some(buf);
                    self.writes.push((Some(slot), id));
                }
                Action::WriteMeta { lba, bytes } => {
                    let mut buf = vec![0xEE; bytes];
                    self.engine.encode_meta(&mut buf);
                    let id = self.disk.submit(lba, &buf);
                    self.writes.push((None, id));
                }
                Action::Flush => {
                    assert!(self.flush.is_none(), "one flush at a time");
                    self.flush = Some(self.disk.flushable());
                }
            }
        }
    }

    fn end_something(&mut self) {
        if self.flush.is_some() && self.rng.one_in(3) {
            let ids = self.flush.take().expect("a flush");
            if self.flush_fails_one_in != u64::MAX && self.rng.one_in(self.flush_fails_one_in) {
                self.disk.lost(&ids);
                let status = Status::from_bits(0x0004);
                let slba = nvme_driver::Lba(0);
                self.engine.flushed(Err(IoError::Status { status, slba }));
            } else {
                self.disk.flushed(&ids);
                self.engine.flushed(Ok(()));
            }
        } else if !self.writes.is_empty() {
            let (slot, id) = self.writes.swap_remove(self.rng.index(self.writes.len()));
            self.disk.complete(id);
            match slot {
                Some(slot) => self.engine.written(slot, Ok(())),
                None => self.engine.meta_written(Ok(())),
            }
        }
    }

    /// Gives up a part of what is acknowledged.
    fn truncate(&mut self) {
        let front = self.engine.superblock().front_sequence;
        let acked = self.engine.acknowledged().sequence;
        if acked == front {
            return;
        }
        let sequence = front + self.rng.below(acked - front + 1);
        let holds = |sent: &&Sent| {
            (sent.header.first_sequence..sent.header.end_sequence()).contains(&sequence)
        };
        if let Some(sent) = self.sent.iter().rev().find(holds) {
            self.engine.truncate(sent.header.position, sequence);
            self.front = self.front.max(sequence);
        }
    }

    /// The log is opened again on `disk`, and whoever appended what was cut off may do it again:
    /// the same records in the same batches, some of them. What of the rest is still on the disk
    /// fits behind them in all but its epoch. Returns how many batches were written again.
    pub(crate) fn reopen(&mut self, disk: Disk, found: &Recovered) -> u64 {
        let tail = usize::try_from(found.tail.sequence).expect("small");
        let salts = self.history.salts.split_off(tail);
        let cut_off = |sent: &&Sent| sent.header.position >= found.tail.position;
        let cut_off: Vec<Sent> = self.sent.iter().filter(cut_off).copied().collect();
        self.open(disk, found);
        let again = self.rng.index(cut_off.len().min(3) + 1);
        for sent in cut_off.iter().take(again) {
            let header = &sent.header;
            assert_eq!(header.first_sequence, self.engine.next_sequence(), "nothing is between");
            for sequence in header.first_sequence..header.end_sequence() {
                let at = usize::try_from(sequence).expect("small") - tail;
                if !self.append_one(salts[at]) {
                    return 0;
                }
            }
            self.act();
        }
        again as u64
    }

    fn open(&mut self, mut disk: Disk, found: &Recovered) {
        let superblock = now(take_over(&mut disk, found)).expect("a new epoch");
        self.engine = Engine::new(superblock, self.limits, disk.promise).expect("an engine");
        self.disk = disk;
        self.writes.clear();
        self.flush = None;
        self.front = found.superblock.front_sequence;
        let tail = found.tail.position;
        self.sent.retain(|sent| sent.header.position < tail);
    }

    /// Batches of this epoch from `position` on whose headers are on `image`.
    pub(crate) fn headers_behind(&self, image: &[u8], position: u64) -> u64 {
        let newest = self.sent.iter().rev();
        let behind = newest.take_while(|sent| sent.header.position >= position);
        let is_there = |sent: &&Sent| image[sent.at..].starts_with(sent.header.as_bytes());
        behind.filter(is_there).count() as u64
    }
}

/// What a log on `image` has to be: its records those of the history, `acked` of them at least,
/// and behind them what was on its way and nothing else.
pub(crate) fn examine(
    image: &mut Vec<u8>,
    world: &World,
    acked: u64,
    from: From,
) -> Result<Recovered, JournalError> {
    let found = Disk::look(image, world.disk.promise, |disk| now(recover(disk, from)))?;
    let (tail, front) = (found.tail.sequence, found.superblock.front_sequence);
    let why = found.stopped_by;
    assert!(tail >= acked, "{tail} of {acked} acknowledged records are there, stopped by {why}");
    assert!(tail <= world.history.len(), "records that were never appended");
    assert!(
        front <= world.front,
        "it begins with {front}, given up were those below {}",
        world.front
    );
    Ok(found)
}

/// Reads everything and compares it with the history; returns the number of records.
pub(crate) fn read_all(
    image: &mut Vec<u8>,
    promise: Promise,
    history: &History,
    found: &Recovered,
    seek: Seek,
) -> Result<u64, journal::ReadError> {
    Disk::look(image, promise, |disk| read(disk, history, found, seek))
}

fn read(
    disk: &mut Disk,
    history: &History,
    found: &Recovered,
    seek: Seek,
) -> Result<u64, journal::ReadError> {
    let mut cursor = now(Cursor::open(disk, found, seek))?;
    let mut next = match seek {
        Seek::Front => found.superblock.front_sequence,
        Seek::Sequence(sequence) => sequence,
        // Times are 1000 times the sequence number.
        Seek::Time(time) => time.div_ceil(1000).max(found.superblock.front_sequence),
    };
    let first = next;
    while now(cursor.advance(disk, |record| {
        assert_eq!(record.header.sequence, next, "records in order");
        let salt = history.salts[usize::try_from(next).expect("small")];
        assert!(record.payload == History::payload(salt, next), "record {next} is another one");
        assert_eq!(record.header.kind, 7);
        next += 1;
    }))? {}
    assert_eq!(next, found.tail.sequence.max(first), "all records up to the tail");
    Ok(next - first)
}
