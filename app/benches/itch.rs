//! How fast the feed library is: makes a day in memory, decodes it, and builds its books.
//!
//! `cargo bench -p feed-handler --bench itch`, or `cargo xtask bench itch`. It stands here and not
//! with the other benchmarks because nothing depends on this package.

use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use core_runtime::clock::rdtsc;
use feed_handler::book::{BboChange, BookStorage, Sink, Trade};
use feed_handler::error::{Fault, FeedError};
use feed_handler::flow::{Flow, FlowDecoder};
use feed_handler::framing::{FileFramer, Frame, OnFrame};
use feed_handler::message::{self, Visitor, dispatch};
use feed_handler::orders::{self, OrderMessage};
use feed_handler::pipeline::{Pipeline, PipelineConfig};
use feed_handler::synth::{StockSlot, Synth, SynthConfig};
use host_bridge::affinity::{allowed, pin_to};
use host_bridge::facts::MachineFacts;
use host_bridge::sys::usage::ThreadUsage;
use host_bridge::topology::Topology;
use hybrid_conventions::{Column, Exit, Table, not_started};
use serde_json::{Value, json};
use zerocopy::IntoBytes;

/// Decodes all that an order book would need, and adds it up.
#[derive(Default)]
struct Decode {
    sum: u64,
}

impl Visitor for Decode {
    type Error = Fault;

    #[inline(always)]
    fn add_order(&mut self, m: message::AddOrder<'_>) -> Result<(), Fault> {
        let shares = u64::from(m.shares() ^ m.price().0) ^ u64::from(m.side().0);
        self.sum = self.sum.wrapping_add(m.order_ref() ^ m.timestamp() ^ shares);
        Ok(())
    }

    #[inline(always)]
    fn order_delete(&mut self, m: message::OrderDelete<'_>) -> Result<(), Fault> {
        self.sum = self.sum.wrapping_add(m.order_ref() ^ m.timestamp());
        Ok(())
    }

    #[inline(always)]
    fn order_replace(&mut self, m: message::OrderReplace<'_>) -> Result<(), Fault> {
        let shares = u64::from(m.shares() ^ m.price().0);
        let refs = m.original_ref() ^ m.new_ref();
        self.sum = self.sum.wrapping_add(refs ^ m.timestamp() ^ shares);
        Ok(())
    }

    #[inline(always)]
    fn order_executed(&mut self, m: message::OrderExecuted<'_>) -> Result<(), Fault> {
        let shares = u64::from(m.executed_shares());
        self.sum = self.sum.wrapping_add(m.order_ref() ^ m.match_number() ^ shares);
        Ok(())
    }

    #[inline(always)]
    fn order_cancel(&mut self, m: message::OrderCancel<'_>) -> Result<(), Fault> {
        self.sum = self.sum.wrapping_add(m.order_ref() ^ u64::from(m.cancelled_shares()));
        Ok(())
    }
}

/// Adds up what all messages of the day say.
#[derive(Default)]
struct Everything {
    sum: u64,
}

impl Everything {
    #[inline(always)]
    fn add(&mut self, value: u64) -> Result<(), Fault> {
        self.sum = self.sum.wrapping_add(value);
        Ok(())
    }
}

impl Visitor for Everything {
    type Error = Fault;

    fn net_order_imbalance(&mut self, m: message::NetOrderImbalance<'_>) -> Result<(), Fault> {
        let prices = u64::from(m.far_price().0 ^ m.near_price().0 ^ m.reference_price().0);
        self.add(m.paired_shares() ^ m.imbalance_shares() ^ m.timestamp() ^ prices)
    }

    fn non_cross_trade(&mut self, m: message::NonCrossTrade<'_>) -> Result<(), Fault> {
        let shares = u64::from(m.shares() ^ m.price().0);
        self.add(m.match_number() ^ m.timestamp() ^ shares)
    }

    fn stock_trading_action(&mut self, m: message::StockTradingAction<'_>) -> Result<(), Fault> {
        self.add(m.timestamp() ^ u64::from(m.locate()) ^ u64::from(m.state().0))
    }

    fn reg_sho_restriction(&mut self, m: message::RegShoRestriction<'_>) -> Result<(), Fault> {
        self.add(m.timestamp() ^ u64::from(m.locate()) ^ u64::from(m.action()))
    }

    fn retail_interest(&mut self, m: message::RetailInterest<'_>) -> Result<(), Fault> {
        self.add(m.timestamp() ^ u64::from(m.locate()) ^ u64::from(m.interest()))
    }
}

impl Flow for Everything {
    #[inline(always)]
    fn orders(&mut self, orders: &[OrderMessage]) -> Result<(), Fault> {
        for m in orders {
            let shares = u64::from(m.shares ^ m.price) ^ u64::from(m.side);
            let value = m.order_ref ^ m.second ^ m.timestamp ^ shares;
            self.sum = self.sum.wrapping_add(value);
        }
        Ok(())
    }
}

/// Dispatches each message of a framer.
struct Dispatch<'a>(&'a mut Decode);

impl OnFrame<FeedError> for Dispatch<'_> {
    #[inline(always)]
    fn frame(&mut self, frame: Frame<'_>) -> Result<(), FeedError> {
        dispatch(frame.bytes, self.0).map_err(|fault| FeedError { at: frame.at, fault })
    }
}

/// Adds up what the books tell.
#[derive(Default)]
struct Sum {
    sum: u64,
    bbos: u64,
    trades: u64,
}

impl Sink for Sum {
    #[inline(always)]
    fn bbo(&mut self, change: &BboChange) {
        let quote = &change.quote;
        let prices = u64::from(quote.bid_price) ^ u64::from(quote.ask_price) << 32;
        self.sum = self.sum.wrapping_add(prices ^ quote.bid_shares ^ quote.ask_shares << 20);
        self.bbos += 1;
    }

    #[inline(always)]
    fn trade(&mut self, trade: &Trade) {
        self.sum = self.sum.wrapping_add(u64::from(trade.price) * trade.shares);
        self.trades += 1;
    }
}

const TITLE: &str = "itch: a synthetic day from memory, on one core";
const NOTE: &str =
    "medians of repetitions; a slice of 128 KiB in which the core was taken away is dropped";

/// Slices as a device would give them.
const CHUNK: usize = 128 * 1024;

/// Million messages a second, on one core from memory.
const DECODE_GOAL: f64 = 100.0;
const BOOK_GOAL: f64 = 10.0;

/// How fast the feed library decodes and keeps books, from memory, on one core.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Tiny sizes: shows that it works, not how fast.
    #[arg(long)]
    quick: bool,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
    /// Write the report as JSON to this file too.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// CPU that is measured; by default the last one that this process may use.
    #[arg(long, value_name = "CPU")]
    core: Option<u32>,
    /// Repetitions, the parts in turn; the table has their medians.
    #[arg(long, value_name = "N", default_value_t = 5)]
    repetitions: u32,
    /// Messages of the day.
    #[arg(long, value_name = "N", default_value_t = SynthConfig::default().messages)]
    messages: u64,
    /// Stocks of the day.
    #[arg(long, value_name = "N", default_value_t = SynthConfig::default().stocks)]
    stocks: u16,
    /// Passed by `cargo bench`; means nothing.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Time in slices of a chunk: one in which the kernel took the core away does not count, whatever
/// it says.
#[derive(Debug, Default)]
struct Slices {
    messages: u64,
    bytes: u64,
    ticks: u64,
    kept: u64,
    dropped: u64,
}

impl Slices {
    /// Times `slice`, which says how many messages and bytes it did.
    fn run(&mut self, slice: impl FnOnce() -> (u64, usize)) {
        let before = ThreadUsage::now();
        let begin = rdtsc();
        let (messages, bytes) = slice();
        let ticks = rdtsc() - begin;
        let usage = ThreadUsage::now().since(before);
        if usage.involuntary_switches + usage.voluntary_switches != 0 {
            self.dropped += 1;
            return;
        }
        self.kept += 1;
        self.messages += messages;
        self.bytes += bytes as u64;
        self.ticks += ticks;
    }

    fn ticks_each(&self) -> f64 {
        self.ticks as f64 / self.messages.max(1) as f64
    }
}

/// The repetitions of one part.
#[derive(Debug, Default)]
struct Part {
    slices: Vec<Slices>,
    checksum: Option<u64>,
}

impl Part {
    fn add(&mut self, slices: Slices, checksum: u64) {
        let first = *self.checksum.get_or_insert(checksum);
        assert_eq!(first, checksum, "every repetition does the same work");
        self.slices.push(slices);
    }

    /// The median repetition; one without a clean slice does not count.
    fn median(&self) -> Option<&Slices> {
        let mut good: Vec<_> = self.slices.iter().filter(|slices| slices.kept != 0).collect();
        good.sort_by(|a, b| a.ticks_each().total_cmp(&b.ticks_each()));
        good.get(good.len().saturating_sub(1) / 2).copied()
    }
}

fn main() -> ExitCode {
    match Args::try_parse() {
        Ok(args) => run(&args).unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            ExitCode::from(Exit::Error.code())
        }),
        Err(error) => not_started(&error),
    }
}

fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let facts = MachineFacts::read(&Topology::read());
    if let Some(cpu) = args.core.or_else(|| allowed().iter().last()) {
        pin_to(cpu)?;
    }
    let hz = host_bridge::calibration::measure()?.hz;
    let messages = if args.quick { 20_000 } else { args.messages };
    let config = SynthConfig { messages, stocks: args.stocks, ..SynthConfig::default() };
    let mut slots = vec![StockSlot::default(); usize::from(config.stocks)];
    let mut feed = vec![0; usize::try_from(config.most_bytes())?];
    let mut synth = Synth::new(config, &mut slots).expect("a day");
    let bytes = synth.fill(&mut feed);
    feed.truncate(bytes);

    let capacity = config.capacity();
    let mut memory = vec![0_u64; capacity.bytes() / 8 + 17];
    let memory = memory.as_mut_slice().as_mut_bytes();
    let skew = memory.as_ptr().align_offset(128);
    let [mut decoded, mut flowed, mut shaped, mut booked] = [(); 4].map(|()| Part::default());
    let repetitions = if args.quick { 1 } else { args.repetitions.max(1) };
    for _ in 0..repetitions {
        let (slices, checksum) = decode(&feed);
        decoded.add(slices, checksum);
        let (slices, checksum) = flow(&feed);
        flowed.add(slices, checksum);
        let (slices, checksum) = in_one_shape(&feed);
        shaped.add(slices, checksum);
        let storage = BookStorage::carve(&mut memory[skew..], capacity).expect("memory");
        let (slices, checksum) = book(Pipeline::new(storage, PipelineConfig::default()), &feed);
        booked.add(slices, checksum);
    }
    let parts = [
        ("decode, a view each", decoded, DECODE_GOAL),
        ("decode, orders in one shape", flowed, DECODE_GOAL),
        ("orders alone", shaped, DECODE_GOAL),
        ("decode + book", booked, BOOK_GOAL),
    ];
    let exit = report(args, &facts, hz, &parts)?;
    Ok(ExitCode::from(if args.quick { Exit::Ok } else { exit }.code()))
}

/// Framing, lengths, types and fields.
#[inline(never)]
fn decode(feed: &[u8]) -> (Slices, u64) {
    let mut decode = Decode::default();
    let mut framer = FileFramer::new();
    let mut slices = Slices::default();
    for chunk in feed.chunks(CHUNK) {
        slices.run(|| {
            let before = framer.messages();
            framer.push_to(chunk, &mut Dispatch(&mut decode)).expect("a valid day");
            (framer.messages() - before, chunk.len())
        });
    }
    (slices, decode.sum ^ framer.messages())
}

/// Framing, lengths, types and fields of all messages; those of orders in one shape.
#[inline(never)]
fn flow(feed: &[u8]) -> (Slices, u64) {
    let (mut everything, mut decoder) = (Everything::default(), FlowDecoder::new());
    let mut slices = Slices::default();
    for chunk in feed.chunks(CHUNK) {
        slices.run(|| {
            let before = decoder.framer().messages();
            decoder.feed(chunk, &mut everything).expect("a valid day");
            (decoder.framer().messages() - before, chunk.len())
        });
    }
    (slices, everything.sum ^ decoder.framer().messages())
}

/// Lengths, types and fields of order messages, all read by the same code; no others.
#[inline(never)]
fn in_one_shape(feed: &[u8]) -> (Slices, u64) {
    let (mut sum, mut messages) = (0_u64, 0);
    let mut out = [OrderMessage::default(); 64];
    let mut slices = Slices::default();
    let mut rest = feed;
    loop {
        let whole = rest;
        slices.run(|| {
            let mut count = 0;
            while whole.len() - rest.len() < CHUNK {
                let taken = orders::take(rest, &mut out);
                for m in &out[..taken.orders] {
                    let shares = u64::from(m.shares ^ m.price) ^ u64::from(m.side);
                    sum = sum.wrapping_add(m.order_ref ^ m.second ^ m.timestamp ^ shares);
                }
                count += taken.messages;
                rest = &rest[taken.bytes..];
                if taken.orders < out.len() {
                    break;
                }
            }
            messages += count;
            (count, whole.len() - rest.len())
        });
        if rest.len() == whole.len() {
            break;
        }
    }
    (slices, sum ^ messages)
}

/// Everything, books included.
#[inline(never)]
fn book(mut pipeline: Pipeline<'_>, feed: &[u8]) -> (Slices, u64) {
    let mut sum = Sum::default();
    let mut slices = Slices::default();
    for chunk in feed.chunks(CHUNK) {
        slices.run(|| {
            let before = pipeline.messages();
            pipeline.feed(chunk, &mut sum).expect("a valid day");
            (pipeline.messages() - before, chunk.len())
        });
    }
    pipeline.finish().expect("a whole day");
    (slices, sum.sum ^ sum.bbos << 32 ^ sum.trades)
}

/// What a part came to, and its goal.
type Figure<'a> = (&'a str, Option<&'a Slices>, f64);

/// Million messages a second.
fn rate(slices: &Slices, hz: u64) -> f64 {
    hz as f64 / slices.ticks_each() / 1e6
}

/// Prints and writes; what the goals say: one that was missed is a threshold exceeded, one that
/// was not measured no success.
fn report(
    args: &Args,
    facts: &MachineFacts,
    hz: u64,
    parts: &[(&str, Part, f64)],
) -> anyhow::Result<Exit> {
    let figures: Vec<Figure<'_>> =
        parts.iter().map(|(name, part, goal)| (*name, part.median(), *goal)).collect();
    let checksum = parts
        .iter()
        .fold(0_u64, |sum, (_, part, _)| (sum ^ part.checksum.unwrap_or(0)).rotate_left(17));
    let value = to_value(&figures, facts, hz, checksum);
    if args.json {
        println!("{value:#}");
    } else {
        println!("{TITLE} (on: memory)");
        println!("{facts}, TSC {:.3} GHz\n", hz as f64 / 1e9);
        print!("{}", table(&figures, hz)?);
        println!("{NOTE}");
        println!("checksum {checksum:016x}");
    }
    if let Some(path) = &args.out {
        std::fs::write(path, format!("{value:#}\n"))
            .with_context(|| format!("{}", path.display()))?;
    }
    let missed = |(_, slices, goal): &Figure<'_>| slices.is_some_and(|s| rate(s, hz) < *goal);
    Ok(if figures.iter().any(missed) {
        Exit::Threshold
    } else if figures.iter().any(|(_, slices, _)| slices.is_none()) {
        Exit::Error
    } else {
        Exit::Ok
    })
}

/// In the form of the other benchmarks: sheets of rows, goals, checksum.
fn to_value(figures: &[Figure<'_>], facts: &MachineFacts, hz: u64, checksum: u64) -> Value {
    let row = |(name, slices, _): &Figure<'_>| {
        json!({
            "what": name,
            "M messages/s": slices.map(|s| rate(s, hz)),
            "ticks": slices.map(Slices::ticks_each),
            "MB/s": slices.map(|s| s.bytes as f64 * hz as f64 / s.ticks as f64 / 1e6),
            "slices": slices.map(|s| s.kept),
            "dropped": slices.map(|s| s.dropped),
        })
    };
    let goal = |(name, slices, goal): &Figure<'_>| {
        let reached = slices.map(|s| rate(s, hz));
        json!({
            "what": format!("M messages/s, {name}"),
            "reached": reached,
            "least": goal,
            "missed": reached.is_some_and(|reached| reached < *goal),
        })
    };
    let rows: Vec<_> = figures.iter().map(row).collect();
    json!({
        "schema": "bench-itch/2",
        "title": TITLE,
        "device": "memory",
        "machine": facts.to_string(),
        "tsc_hz": hz,
        "sheets": { "one core": { "rows": rows, "notes": [NOTE] } },
        "goals": figures.iter().map(goal).collect::<Vec<_>>(),
        "checksum": format!("{checksum:016x}"),
    })
}

fn table(figures: &[Figure<'_>], hz: u64) -> Result<String, std::fmt::Error> {
    let columns = [
        Column::left("what"),
        Column::right("M messages/s"),
        Column::right("ticks/message"),
        Column::right("MB/s"),
        Column::right("goal"),
        Column::right("slices"),
        Column::right("dropped"),
    ];
    let row = |(name, slices, goal): &Figure<'_>| {
        let figure = |f: &dyn Fn(&Slices) -> String| slices.map_or_else(|| "-".to_owned(), f);
        [
            (*name).to_owned(),
            figure(&|s| format!("{:.1}", rate(s, hz))),
            figure(&|s| format!("{:.1}", s.ticks_each())),
            figure(&|s| format!("{:.0}", s.bytes as f64 * hz as f64 / s.ticks as f64 / 1e6)),
            format!("{goal:.0}"),
            figure(&|s| s.kept.to_string()),
            figure(&|s| s.dropped.to_string()),
        ]
    };
    let cells: Vec<[String; 7]> = figures.iter().map(row).collect();
    let rows: Vec<_> =
        cells.iter().map(|row| row.each_ref().map(|cell| cell as &dyn Display)).collect();
    let mut text = String::new();
    Table::new(columns).write(&mut text, &rows)?;
    Ok(text)
}
