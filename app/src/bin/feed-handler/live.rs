//! `live`: a MoldUDP64 feed off the network, through the latency ring of a reactor.
//!
//! Datagrams come by one multishot receive of io_uring (`host_bridge::uring::datagrams`), are
//! framed, decoded and booked at once by decoder and books of a replay, on the CPU that is named.
//! Missing sequence numbers are told and counted; asking for a retransmission is somebody else's.
//! It ends with the session, with a signal, or when nothing came for as long as `--idle` says.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::rc::Rc;
use std::time::{Duration, Instant};

use feed_handler::book::{BboChange, BookStorage, Sink, Trade};
use feed_handler::error::FeedError;
use feed_handler::framing::{MoldEvent, MoldFramer};
use feed_handler::handler::job::capacity;
use feed_handler::pipeline::{Pipeline, PipelineConfig, Policy};
use host_bridge::affinity::pin_to;
use host_bridge::memory::MemorySource;
use host_bridge::sys::memfd::PageSize;
use host_bridge::sys::signals::StopSignals;
use host_bridge::uring::UringError;
use host_bridge::uring::datagrams::{DatagramOptions, DatagramStats, Datagrams};
use host_bridge::uring::reactor::Reactor;
use host_bridge::uring::rings::{Rings, RingsWish};
use host_bridge::warnings::Warnings;
use hybrid_conventions::{Count, Exit, Nanos};
use serde_json::json;

use crate::cli::LiveArgs;
use crate::failure::Failure;
use crate::output;

/// Books are made for a day of this many bytes; `--max-orders` bounds them.
const DAY_BYTES: u64 = 16 << 30;

/// How long a wait for datagrams takes at most: signals and `--idle` are looked at then.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Gaps that are told one by one.
const TOLD_GAPS: u64 = 8;

/// What the books told.
#[derive(Default)]
struct Heard {
    bbo_changes: u64,
    trades: u64,
}

impl Sink for Heard {
    fn bbo(&mut self, _: &BboChange) {
        self.bbo_changes += 1;
    }

    fn trade(&mut self, _: &Trade) {
        self.trades += 1;
    }
}

/// Framer, decoder, books, and what became of them.
struct Live {
    framer: MoldFramer,
    pipeline: Pipeline<'static>,
    heard: Heard,
    quiet: bool,
    ended: bool,
    failed: Option<FeedError>,
    last: Instant,
}

impl Live {
    fn packet(&mut self, packet: &[u8]) {
        let Self { framer, pipeline, heard, quiet, ended, failed, last } = self;
        *last = Instant::now();
        if failed.is_some() {
            return;
        }
        let gaps = framer.stats().gaps;
        let taken = framer.push(
            packet,
            |frame| pipeline.frame(&frame, heard),
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
        *failed = taken.err();
    }
}

/// Listens until there is an end.
pub(crate) fn live(args: &LiveArgs) -> Result<Exit, Failure> {
    let signals = StopSignals::install().map_err(|error| {
        Failure::error(format_args!("signal handlers cannot be installed: {error}"))
    })?;
    if let Some(cpu) = args.core {
        pin_to(cpu).map_err(Failure::error)?;
    }
    let socket = socket(args.listen, args.group)?;
    let address = socket.local_addr().unwrap_or(args.listen);
    let options = DatagramOptions::default();
    let warnings = Warnings::to(|_| {});
    let source = MemorySource::new(PageSize::Small4K, options.memory_bytes(), warnings);
    let memory = source.shared("hybrid-datagrams", options.memory_bytes());
    let memory = memory.map_err(Failure::missing)?.mapped.span();
    let receive = Some((memory, options.count));
    let rings = Rings::new(&RingsWish { receive, ..RingsWish::default() }).map_err(uring)?;
    // What the kernel does not take is told, quiet or not: it costs latency.
    rings.steps.iter().for_each(|step| output::note(format_args!("warning: {step}")));
    let state = Rc::new(RefCell::new(fresh(args)?));
    let handler = {
        let state = Rc::clone(&state);
        move |packet: &[u8]| state.borrow_mut().packet(packet)
    };
    let source = Datagrams::new(socket, memory, options, handler).map_err(uring)?;
    let mut reactor = Reactor::new(rings, vec![source]);
    if !args.quiet {
        output::note(format_args!("listening at {address}"));
    }
    let signal = loop {
        let worked = reactor.turn();
        let state = state.borrow();
        if state.ended || state.failed.is_some() || state.last.elapsed() >= args.idle {
            break None;
        }
        if let Some(signal) = signals.pending() {
            break Some(signal);
        }
        drop(state);
        if let Some(errno) = reactor.sources()[0].stats().failed {
            return Err(Failure::error(format_args!("receiving at {address}: {errno}")));
        }
        if !worked && !args.spin {
            reactor.wait(LOOK_EVERY);
        }
    };
    let enters = reactor.rings().enters();
    let stats = reactor.sources()[0].stats();
    let state = state.borrow();
    report(args, address, &state, stats, enters)?;
    match (&state.failed, signal) {
        (Some(error), _) => Err(Failure::error(error)),
        (None, Some(signal)) => Ok(signal.exit()),
        (None, None) => Ok(Exit::Ok),
    }
}

pub(crate) fn uring(error: UringError) -> Failure {
    Failure { exit: error.exit(), ..Failure::error(error) }
}

/// A bound socket, in its multicast group if there is one.
pub(crate) fn socket(listen: SocketAddr, group: Option<Ipv4Addr>) -> Result<UdpSocket, Failure> {
    let socket = UdpSocket::bind(listen)
        .map_err(|error| Failure::error(format_args!("cannot listen at {listen}: {error}")))?;
    if let Some(group) = group {
        let interface = match listen {
            SocketAddr::V4(v4) => *v4.ip(),
            SocketAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        };
        socket.join_multicast_v4(&group, &interface).map_err(|error| {
            Failure::error(format_args!("cannot join {group} on {interface}: {error}"))
        })?;
    }
    Ok(socket)
}

/// How the books want their memory aligned, in bytes.
const ALIGN: usize = 128;

/// Empty books.
fn fresh(args: &LiveArgs) -> Result<Live, Failure> {
    let capacity = capacity(DAY_BYTES, args.max_orders);
    // Zeroes of the kernel's, a page when books grow into it: a quiet day touches little.
    let memory = vec![0_u8; capacity.bytes() + ALIGN].leak();
    let start = memory.as_ptr().align_offset(ALIGN);
    let storage = BookStorage::carve(&mut memory[start..], capacity).map_err(Failure::error)?;
    let policy = if args.lenient { Policy::Lenient } else { Policy::Strict };
    let pipeline = Pipeline::new(storage, PipelineConfig { policy, symbols: &[] });
    let framer = if args.from_start { MoldFramer::from_start() } else { MoldFramer::new() };
    Ok(Live {
        framer,
        pipeline,
        heard: Heard::default(),
        quiet: args.quiet,
        ended: false,
        failed: None,
        last: Instant::now(),
    })
}

fn report(
    args: &LiveArgs,
    address: SocketAddr,
    state: &Live,
    stats: &DatagramStats,
    enters: u64,
) -> Result<(), Failure> {
    let mold = state.framer.stats();
    let wake = |ppm| stats.wake_to_handle.quantile(ppm);
    if args.json {
        let value = json!({
            "schema": "feed-handler-live/1",
            "address": address.to_string(),
            "ended": state.ended,
            "datagrams": stats.datagrams,
            "bytes": stats.bytes,
            "starved": stats.starved,
            "packets": mold.packets,
            "messages": mold.messages,
            "duplicates": mold.duplicates,
            "gaps": mold.gaps,
            "missing": mold.missing,
            "bbo_changes": state.heard.bbo_changes,
            "trades": state.heard.trades,
            "orders_open": state.pipeline.books().usage().orders.live,
            "kernel_entries": enters,
            "wake_to_handle_ns": { "p50": wake(500_000), "p99": wake(990_000) },
        });
        return output::result(format_args!("{value:#}\n"));
    }
    output::result(format_args!(
        "feed       {} messages in {} packets, {} twice\n\
         gaps       {}, {} messages missing\n\
         books      {} BBO changes, {} trades\n\
         receive    {} datagrams, out of buffers {} times, {} entries into the kernel\n\
         latency    from a datagram's sight to its end: p50 {}, p99 {}\n",
        Count(mold.messages),
        Count(mold.packets),
        Count(mold.duplicates),
        Count(mold.gaps),
        Count(mold.missing),
        Count(state.heard.bbo_changes),
        Count(state.heard.trades),
        Count(stats.datagrams),
        Count(stats.starved),
        Count(enters),
        Nanos(wake(500_000)),
        Nanos(wake(990_000)),
    ))
}
