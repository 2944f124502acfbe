//! `record`: a MoldUDP64 feed off the network into a journal.
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
use hybrid_abi::feed_job::KIND_FEED_END;
use hybrid_abi::feed_journal::{
    JOB_RECORD, JOURNAL_CHAIN, JOURNAL_WRAP, JournalFigures, JournalJob, JournalMark, KIND_PACKET,
};
use hybrid_abi::journal::Chain;
use hybrid_conventions::{Count, Exit};
use serde_json::json;

use crate::cli::RecordArgs;
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

/// How long packets are taken before the rest of the program has its turn.
const A_LOOK: Duration = Duration::from_millis(20);

/// Packets that are kept at most, about: behind a device that takes none the socket fills, and what
/// it loses is named as a gap.
const KEPT_MOST: usize = 1 << 20;

/// Gaps that are told one by one.
const TOLD_GAPS: u64 = 8;

/// Session (10 bytes), sequence number (8), message count (2).
const HEADER_BYTES: usize = 20;

/// Message count of a packet that ends its session.
const END_OF_SESSION: u16 = 0xFFFF;

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
        // Until nothing has come: what waits in the socket is not to wait for the next look. A feed
        // that never pauses does not keep signals and requests waiting.
        let (sent, waiting) = self.line.borrow().outbox.left();
        let full = sent + waiting >= KEPT_MOST;
        let begun = Instant::now();
        while !full && self.reactor.turn() && begun.elapsed() < A_LOOK {}
        let mut line = self.line.borrow_mut();
        if full {
            // Nobody looked whether something has come.
            line.last = begun;
        }
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
    let asked = [(args.wrap, JOURNAL_WRAP), (args.chain, JOURNAL_CHAIN)];
    let flags = asked.into_iter().filter(|(is, _)| *is).fold(0, |all, (_, flag)| all | flag);
    let mut how = JournalJob::new(flags);
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
        // Where the journal is another one than was acknowledged, the error says what is not there.
        let (durable, sure) = match line.astray {
            None => ("are in the journal for good", "they are"),
            Some(_) => ("were acknowledged", "they are in a journal"),
        };
        output::note(format_args!(
            "warning: {} packets {durable}; of {sent} it is unknown whether {sure}; {} that came \
             are not in it",
            line.outbox.durable(),
            waiting + line.held.len(),
        ));
    }
}

/// The chain as `probe-util journal` prints and takes it; nothing where there is none.
fn chain(figures: &JournalFigures) -> Option<String> {
    let bytes = figures.chain;
    let hex = || bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    (bytes != Chain::default()).then(hex)
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
            "chain": chain(figures),
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
    ))?;
    match chain(figures) {
        Some(chain) => {
            output::result(format_args!("chain      {chain} in front of record {}\n", figures.end))
        }
        None => Ok(()),
    }
}
