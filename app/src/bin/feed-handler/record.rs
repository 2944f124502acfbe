//! `record`: a MoldUDP64 feed off the network into a journal; and what `replay --journal` asks for.
//!
//! The host's side of it: packets come as for `live`, through the latency ring of a reactor. They
//! are put in order within `--reorder` packets, doubles are dropped, gaps are named, and each is
//! handed to the partition with the time of its arrival (`outbox`), and kept until it is durable: a
//! partition that is started again, on the same device or on other storage, gets what its journal
//! has not. Nothing is acknowledged to the sender of a feed: what has to be there after a power
//! failure is asked with `probe-util journal`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use feed_handler::error::FrameFault;
use feed_handler::framing::{MoldEvent, MoldFramer};
use host_bridge::PartitionHandle;
use host_bridge::memory::MemorySource;
use host_bridge::sys::memfd::PageSize;
use host_bridge::uring::datagrams::{DatagramOptions, Datagrams};
use host_bridge::uring::reactor::Reactor;
use host_bridge::uring::rings::{Rings, RingsWish};
use host_bridge::warnings::Warnings;
use hybrid_abi::feed_job::{FeedJob, JOB_LENIENT, KIND_FEED_END};
use hybrid_abi::feed_journal::{
    JOB_JOURNAL, JOB_RECORD, JOURNAL_FROM_MESSAGE, JOURNAL_FROM_SNAPSHOT, JOURNAL_FROM_TIME,
    JOURNAL_ORIGINAL_SPEED, JOURNAL_SAVE_SNAPSHOT, JOURNAL_WRAP, JournalFigures, JournalJob,
    JournalMark, KIND_PACKET,
};
use hybrid_conventions::{Count, Exit};
use serde_json::json;

use crate::cli::{RecordArgs, ReplayArgs};
use crate::device::Need;
use crate::events::Events;
use crate::failure::Failure;
use crate::feed::{Feed, Packets};
use crate::live;
use crate::outbox::{Arrival, Astray, Outbox};
use crate::output;
use crate::run::{Plan, Starts, carry_out, new_job};
use crate::summary;

/// How long a packet may still come that the end of its session has overtaken.
const LINGER: Duration = Duration::from_secs(1);

/// Gaps that are told one by one.
const TOLD_GAPS: u64 = 8;

/// Session (10 bytes), sequence number (8), message count (2).
const HEADER_BYTES: usize = 20;

/// Message count of a packet that ends its session.
const END_OF_SESSION: u16 = 0xFFFF;

/// Where a replay begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    Message(u64),
    /// Nanoseconds since 1970-01-01.
    Time(u64),
    Snapshot,
}

/// `--from`.
pub(crate) fn parse_begin(text: &str) -> Result<Begin, String> {
    let wrong =
        || format!("{text:?}: allowed are a message's number, @SECONDS since 1970, and snapshot");
    if text == "snapshot" {
        return Ok(Begin::Snapshot);
    }
    let Some(time) = text.strip_prefix('@') else {
        return text.parse().map(Begin::Message).map_err(|_| wrong());
    };
    let (seconds, fraction) = time.split_once('.').unwrap_or((time, ""));
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let seconds: u64 = seconds.parse().map_err(|_| wrong())?;
    let nanos: u64 = format!("{fraction:0<9}").parse().map_err(|_| wrong())?;
    let nanos = seconds.checked_mul(1_000_000_000).and_then(|ns| ns.checked_add(nanos));
    nanos.map(Begin::Time).ok_or_else(wrong)
}

/// What of the journal `replay` asks for, if for any.
pub(crate) fn replay_job(
    args: &ReplayArgs,
    job: &mut FeedJob,
) -> Result<Option<JournalJob>, Failure> {
    let asked = &args.journal;
    if !asked.journal {
        return Ok(None);
    }
    if asked.save_snapshot && job.symbol_count != 0 {
        return Err(Failure::error("--save-snapshot wants the books of all symbols: no --symbols"));
    }
    job.flags |= JOB_JOURNAL;
    let mut how = JournalJob::new(0);
    match asked.from {
        None => {}
        Some(Begin::Message(number)) => {
            (how.flags, how.from) = (JOURNAL_FROM_MESSAGE, number);
        }
        Some(Begin::Time(ns)) => (how.flags, how.from) = (JOURNAL_FROM_TIME, ns),
        Some(Begin::Snapshot) => how.flags = JOURNAL_FROM_SNAPSHOT,
    }
    if asked.original_speed {
        how.flags |= JOURNAL_ORIGINAL_SPEED;
    }
    if asked.save_snapshot {
        if args.lenient {
            debug_assert!(job.has(JOB_LENIENT), "set before");
        }
        how.flags |= JOURNAL_SAVE_SNAPSHOT;
    }
    Ok(Some(how))
}

/// What a replay of a journal adds to the screen.
pub(crate) fn replay_lines(figures: &JournalFigures) -> String {
    let mut lines = format!(
        "journal   records {} to {} (exclusive), {} packets with {} messages replayed\n",
        Count(figures.front),
        Count(figures.end),
        Count(figures.packets),
        Count(figures.messages),
    );
    if figures.gaps > 0 {
        lines += &format!(
            "gaps      {}, {} messages missing, the first is {}\n",
            Count(figures.gaps),
            Count(figures.missing),
            Count(figures.first_missing),
        );
    }
    if figures.snapshot_bytes > 0 {
        lines += &format!(
            "snapshot  of the books in front of record {}, {} bytes\n",
            Count(figures.snapshot),
            Count(figures.snapshot_bytes),
        );
    }
    lines
}

/// Packets in order, and what became of the others.
struct Line {
    framer: MoldFramer,
    /// The message that comes next; 0 before the first packet.
    next: u64,
    /// Packets that came before one that is missing, by their first message.
    held: BTreeMap<u64, Arrival>,
    most_held: usize,
    outbox: Outbox,
    /// What the partition said of its journal cannot be.
    astray: Option<Astray>,
    quiet: bool,
    ended: bool,
    failed: Option<FrameFault>,
    last: Instant,
    doubles: u64,
    reordered: u64,
}

impl Line {
    fn new(args: &RecordArgs) -> Self {
        Self {
            framer: if args.from_start { MoldFramer::from_start() } else { MoldFramer::new() },
            next: u64::from(args.from_start),
            held: BTreeMap::new(),
            most_held: args.reorder.into(),
            outbox: Outbox::default(),
            astray: None,
            quiet: args.machine.quiet,
            ended: false,
            failed: None,
            last: Instant::now(),
            doubles: 0,
            reordered: 0,
        }
    }

    /// A packet came.
    fn packet(&mut self, packet: &[u8]) {
        self.last = Instant::now();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let mut arrival = now.to_le_bytes().to_vec();
        arrival.extend_from_slice(packet);
        let Some((first, end)) = messages_of(packet) else {
            // What is no packet is the framer's to name.
            self.release(arrival);
            return;
        };
        if self.next == 0 {
            self.next = first;
        }
        if end < self.next || end == self.next && first != end {
            self.doubles += 1;
            return;
        }
        if first > self.next && self.most_held > 0 {
            if self.held.insert(first, arrival).is_some() {
                self.doubles += 1;
            }
            self.reordered += 1;
            if self.held.len() > self.most_held {
                self.skip();
            }
            return;
        }
        self.next = end.max(self.next);
        self.release(arrival);
        self.catch_up();
    }

    /// What was held back and follows now.
    fn catch_up(&mut self) {
        while let Some(entry) = self.held.first_entry() {
            if *entry.key() > self.next {
                return;
            }
            let arrival = entry.remove();
            match messages_of(arrival.get(8..).unwrap_or_default()) {
                Some((first, end)) if end > self.next || first == end => {
                    self.next = end.max(self.next);
                    self.release(arrival);
                }
                _ => self.doubles += 1,
            }
        }
    }

    /// What is missing is given up: the first that was held back comes next.
    fn skip(&mut self) {
        if let Some((first, _)) = self.held.first_key_value() {
            self.next = *first;
            self.catch_up();
        }
    }

    /// Whether the end of the session was held back.
    fn knows_the_end(&self) -> bool {
        let last = self.held.last_key_value().map(|(_, arrival)| arrival);
        last.is_some_and(|arrival| arrival.get(26..28) == Some(&END_OF_SESSION.to_be_bytes()))
    }

    /// Nothing more comes: what is held back is all there will be.
    fn finish(&mut self) {
        while !self.held.is_empty() {
            self.skip();
        }
    }

    /// A packet in its place: looked at, and sent.
    fn release(&mut self, arrival: Arrival) {
        if self.failed.is_some() {
            return;
        }
        let Self { framer, quiet, ended, .. } = self;
        let gaps = framer.stats().gaps;
        let packet = arrival.get(8..).unwrap_or_default();
        let taken = framer.push(
            packet,
            |_| Ok::<(), FrameFault>(()),
            |event| match event {
                MoldEvent::Gap { expected, received } if !*quiet && gaps < TOLD_GAPS => {
                    output::note(format_args!(
                        "warning: messages {expected} to {} are missing",
                        received.saturating_sub(1)
                    ));
                }
                MoldEvent::EndOfSession { .. } => *ended = true,
                MoldEvent::Gap { .. } | MoldEvent::Heartbeat { .. } => {}
            },
        );
        match taken {
            // A heartbeat says nothing that the next packet does not say.
            Ok(()) if packet.get(18..20) == Some(&[0, 0]) => {}
            Ok(()) => self.outbox.push(arrival),
            Err(fault) => self.failed = Some(fault),
        }
    }
}

/// The first message of a packet, and the one behind its last.
fn messages_of(packet: &[u8]) -> Option<(u64, u64)> {
    let header = packet.first_chunk::<HEADER_BYTES>()?;
    let first = u64::from_be_bytes(*header.get(10..18)?.first_chunk()?);
    let count = u16::from_be_bytes(*header.get(18..20)?.first_chunk()?);
    let count = if count == END_OF_SESSION { 0 } else { count };
    Some((first, first.checked_add(count.into())?))
}

/// The network's end of a recording.
struct Recorder<H> {
    reactor: Reactor<Datagrams<H>>,
    line: Rc<RefCell<Line>>,
    idle: Duration,
}

impl<H: FnMut(&[u8])> Packets for Recorder<H> {
    fn push(&mut self, partition: &mut PartitionHandle) -> io::Result<bool> {
        // Until nothing has come: what waits in the socket is not to wait for the next look.
        while self.reactor.turn() {}
        let mut line = self.line.borrow_mut();
        if let Some(errno) = self.reactor.sources()[0].stats().failed {
            return Err(io::Error::other(format!("receiving: {errno}")));
        }
        let quiet_for = line.last.elapsed();
        // The end of the session is there, and something before it is not: it has had its time.
        let given_up = line.knows_the_end() && quiet_for >= LINGER;
        let over = line.ended || line.failed.is_some() || quiet_for >= self.idle || given_up;
        if over {
            line.finish();
        }
        if let Some(astray) = line.astray {
            return Err(io::Error::other(astray));
        }
        while let Some(arrival) = line.outbox.next() {
            if partition.command(KIND_PACKET, 0, arrival).is_err() {
                return Ok(false);
            }
            line.outbox.sent();
        }
        let sent = over && line.outbox.is_sent();
        Ok(sent && partition.command(KIND_FEED_END, 0, &[]).is_ok())
    }

    fn mark(&mut self, mark: JournalMark) {
        let mut line = self.line.borrow_mut();
        if let Err(astray) = line.outbox.mark(mark) {
            line.astray = Some(astray);
        }
    }

    fn again(&mut self) -> bool {
        let mut line = self.line.borrow_mut();
        line.outbox.again();
        line.outbox.has_begun()
    }
}

/// Listens and records until there is an end.
pub(crate) fn record(args: &RecordArgs) -> Result<Exit, Failure> {
    let machine = &args.machine;
    let socket = live::socket(args.listen, args.group)?;
    let address = socket.local_addr().unwrap_or(args.listen);
    let options = DatagramOptions::default();
    let source = MemorySource::new(PageSize::Small4K, options.memory_bytes(), Warnings::to(|_| {}));
    let memory = source.shared("hybrid-datagrams", options.memory_bytes());
    let memory = memory.map_err(Failure::missing)?.mapped.span();
    let receive = Some((memory, options.count));
    let rings = Rings::new(&RingsWish { receive, ..RingsWish::default() }).map_err(live::uring)?;
    let line = Rc::new(RefCell::new(Line::new(args)));
    let handler = {
        let line = Rc::clone(&line);
        move |packet: &[u8]| line.borrow_mut().packet(packet)
    };
    let source = Datagrams::new(socket, memory, options, handler).map_err(live::uring)?;
    let reactor = Reactor::new(rings, vec![source]);
    let recorder = Recorder { reactor, line: Rc::clone(&line), idle: args.idle };
    let feed = Feed::packets(Box::new(recorder), address.to_string(), args.journal_size);
    let job = new_job(machine, JOB_RECORD, None);
    let mut how = JournalJob::new(if args.wrap { JOURNAL_WRAP } else { 0 });
    how.id = id(job.created_unix_ns);
    how.snapshot_bytes = args.snapshot_size;
    if !machine.quiet {
        output::note(format_args!("listening at {address}"));
    }
    let plan = Plan {
        machine,
        job,
        feed: Some(feed),
        need: Need::Write(args.journal_size),
        events: Events::default(),
        journal: Some(how),
    };
    let outcome = carry_out(plan).inspect_err(|_| unknown(&line.borrow()))?;
    let line = line.borrow();
    if let Some(figures) = outcome.events.journal {
        report(args, &line, &figures, &outcome.starts)?;
    }
    // After an end in order something is left only where that was asked for: a signal, a drain.
    unknown(&line);
    summary::check(&outcome)?;
    match (&line.failed, outcome.signal) {
        (Some(fault), _) => Err(Failure::error(fault)),
        (None, Some(signal)) => Ok(signal.exit()),
        (None, None) => Ok(Exit::Ok),
    }
}

/// What came and was not acknowledged, where nobody will send it again.
fn unknown(line: &Line) {
    let (sent, waiting) = line.outbox.left();
    if sent + waiting + line.held.len() > 0 {
        output::note(format_args!(
            "warning: {} packets are in the journal for good; of {sent} it is unknown whether \
             they are; {} that came are not in it",
            line.outbox.durable(),
            waiting + line.held.len(),
        ));
    }
}

/// A journal's id: nothing that a sender knows.
fn id(now: u64) -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(now)
}

fn report(
    args: &RecordArgs,
    line: &Line,
    figures: &JournalFigures,
    starts: &Starts,
) -> Result<(), Failure> {
    let packets = line.outbox.durable();
    let mold = line.framer.stats();
    if args.machine.json {
        let value = json!({
            "schema": "feed-handler-record/1",
            "packets": packets,
            "messages": mold.messages,
            "duplicates": line.doubles,
            "reordered": line.reordered,
            "gaps": mold.gaps,
            "missing": mold.missing,
            "ended": line.ended,
            "journal_made": line.outbox.made(),
            "front": figures.front,
            "end": figures.end,
            "waits": figures.waits,
            "flushes": figures.flushes,
            "device": starts.device,
            "restarts": starts.restarts,
            "fallbacks": starts.fallbacks,
            "sent_again": line.outbox.sent_again(),
        });
        return output::result(format_args!("{value:#}\n"));
    }
    output::result(format_args!(
        "feed       {} messages in {} packets, {} packets twice, {} out of order\n\
         gaps       {}, {} messages missing\n\
         journal    records {} to {} (exclusive) on {}, {} flushes\n",
        Count(mold.messages),
        Count(packets),
        Count(line.doubles),
        Count(line.reordered),
        Count(mold.gaps),
        Count(mold.missing),
        Count(figures.front),
        Count(figures.end),
        starts.device,
        Count(figures.flushes),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_are_messages_times_and_the_snapshot() {
        assert_eq!(parse_begin("17"), Ok(Begin::Message(17)));
        assert_eq!(parse_begin("@2"), Ok(Begin::Time(2_000_000_000)));
        assert_eq!(parse_begin("@2.25"), Ok(Begin::Time(2_250_000_000)));
        assert_eq!(parse_begin("snapshot"), Ok(Begin::Snapshot));
        for wrong in ["", "x", "@", "@x", "@1.x", "@1.0000000001", "-1", "@99999999999999"] {
            assert!(parse_begin(wrong).is_err_and(|e| e.contains("snapshot")), "{wrong}");
        }
    }
}
