//! `probe-util journal DEVICE`: what a journal on a file or a block device holds.
//!
//! Reads only, and only through `hybrid_abi::journal`: what the crate `journal` wrote is checked
//! here by code that is not the crate's. [`log`] finds segments, tail and holes; this file prints.

mod log;

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use hybrid_abi::journal::{Chain, RecordView};
use hybrid_conventions::{Column, Exit, Table};
use serde_json::{Value, json};

use log::{End, Log, Segment};

/// Arguments of `probe-util journal`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  probe-util journal wal.img                          # superblock, segments, where it ends
  probe-util journal wal.img --verify                 # every record of it
  probe-util journal wal.img --verify --chain HEX     # and whether it is what it was
  probe-util journal wal.img --dump --from 1000 -n 5  # five records
  probe-util journal wal.img --json

A log that is open elsewhere may end a little later than what is printed.

Exit codes: 0 ok, 1 error: no journal, or one that is damaged; what is whole is printed before.")]
pub(crate) struct Args {
    /// The image or block device
    device: PathBuf,
    /// Verify every record from the front, not only from the last checkpoint
    #[arg(long)]
    verify: bool,
    /// The chain as it was printed before: fails unless the log still goes through it, from its
    /// last checkpoint on, or with --verify anywhere
    #[arg(long, value_name = "HEX", value_parser = parse_chain)]
    chain: Option<Chain>,
    /// Print records: sequence number, time, kind, length, payload in hex
    #[arg(long)]
    dump: bool,
    /// The first record to print; default the log's first
    #[arg(long, value_name = "SEQ", requires = "dump")]
    from: Option<u64>,
    /// Records to print at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20, requires = "dump")]
    count: u64,
    /// Payload bytes of each record to print at most
    #[arg(long, value_name = "BYTES", default_value_t = 32, requires = "dump")]
    payload: usize,
    /// Print JSON, schema journal/1
    #[arg(long)]
    json: bool,
}

/// Runs it.
///
/// # Errors
/// If there is no journal, or it cannot be read.
pub(crate) fn command(args: &Args) -> Result<Exit> {
    let shown = args.device.display();
    let log = Log::open(&args.device).with_context(|| format!("reading {shown}"))?;
    let segments = log.segments()?;
    let end = log.end(args.chain)?;
    let verified = if args.verify { Some(log.verify(&end, args.chain)?) } else { None };
    let mut out = std::io::stdout().lock();
    let mut damaged = matches!(end, End::Lost { .. }) || log.damaged_slot.is_some();
    damaged |= verified.as_ref().is_some_and(|verified| verified.lost.is_some());
    let proved = match (&verified, &end) {
        (Some(verified), _) => verified.proved,
        (None, End::Tail { proved, .. }) => *proved,
        (None, End::Lost { .. }) => None,
    };
    let unproved = args.chain.filter(|_| proved.is_none());
    damaged |= unproved.is_some();
    let mut records = Vec::new();
    let mut hole = None;
    if args.dump {
        let from = args.from.unwrap_or(log.superblock.front_sequence);
        let show = |record: &RecordView<'_>| {
            records.push(shown_record(record, args.payload));
            (records.len() as u64) < args.count
        };
        hole = log.each(&end, from, show, |_, _| {})?;
        damaged |= hole.is_some();
    }
    if args.json {
        let value = json!({
            "schema": "journal/1",
            "superblock": superblock(&log),
            "segments": segments.iter().map(segment).collect::<Vec<_>>(),
            "end": end_json(&end),
            "verified": verified.as_ref().map(|v| json!({
                "records": v.records, "payload_bytes": v.bytes, "lost": v.lost,
                "from_genesis": v.from_genesis, "proved_sequence": v.proved,
            })),
            "proved_sequence": proved,
            "records": records,
            "hole": hole,
        });
        writeln!(out, "{value:#}").context("writing")?;
    } else {
        let text = text(&log, &segments, &end, (verified.as_ref(), proved))?;
        out.write_all(text.as_bytes()).context("writing")?;
        for record in &records {
            writeln!(out, "{}", record_line(record)).context("writing")?;
        }
    }
    let lost = verified.as_ref().and_then(|verified| verified.lost.as_ref()).or(hole.as_ref());
    complain(args, &log, &end, (lost, unproved))?;
    Ok(if damaged { Exit::Error } else { Exit::Ok })
}

/// Says on standard error what is wrong.
fn complain(
    args: &Args,
    log: &Log,
    end: &End,
    (lost, unproved): (Option<&String>, Option<Chain>),
) -> Result<()> {
    let shown = args.device.display();
    let mut lines: Vec<String> = lost.into_iter().cloned().collect();
    if let Some(chain) = unproved {
        let part = match args.verify {
            true => "",
            false => " from its checkpoint on; --verify looks at all of it",
        };
        lines.push(format!("the log does not go through chain {}{part}", hex(&chain)));
    }
    if let End::Lost { why, .. } = end {
        lines.push(why.clone());
    }
    if let Some((slot, why)) = &log.damaged_slot {
        lines.push(format!("superblock in slot {slot}: {why}; the other one is there"));
    }
    let mut err = std::io::stderr().lock();
    for line in lines {
        writeln!(err, "probe-util: {shown}: {line}").context("writing errors")?;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_chain(text: &str) -> Result<Chain, String> {
    let wrong = || format!("{text:?} is no chain: 48 hexadecimal digits, as `chain` is printed");
    let mut chain = Chain::default();
    if text.len() != 2 * chain.len() || !text.is_ascii() {
        return Err(wrong());
    }
    for (byte, at) in chain.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| wrong())?;
    }
    Ok(chain)
}

fn superblock(log: &Log) -> Value {
    let block = &log.superblock;
    json!({
        "name": block.name.as_str(),
        "id": format!("{:#018x}", block.id),
        "version": block.version,
        "epoch": block.epoch,
        "generation": block.generation,
        "lba_bytes": block.lba_bytes,
        "batch_bytes": block.batch_bytes,
        "segment_bytes": block.segment_bytes,
        "segments": block.segments,
        "snapshot_bytes": block.snapshot_bytes,
        "reach_bytes": block.reach_bytes,
        "unit_blocks": block.unit_blocks,
        "boundary_blocks": block.boundary_blocks,
        "created_unix_ns": block.created_unix_ns,
        "front_sequence": block.front_sequence,
        "front_position": block.front_position,
        "checkpoint_sequence": block.checkpoint.sequence,
        "checkpoint_position": block.checkpoint.position,
        "chained": block.is_chained(),
        "damaged_slot": log.damaged_slot.as_ref().map(|(slot, _)| *slot),
    })
}

fn segment(segment: &Segment) -> Value {
    json!({
        "segment": segment.number,
        "byte": segment.byte,
        "first_sequence": segment.first.map(|header| header.first_sequence),
        "epoch": segment.first.map(|header| header.epoch),
        "time_ns": segment.first.map(|header| header.time_ns),
        "index_entries": segment.index_entries,
    })
}

fn end_json(end: &End) -> Value {
    match end {
        End::Tail { mark, chain, dropped, by, .. } => json!({
            "kind": "tail", "sequence": mark.sequence, "position": mark.position,
            "chain": chain.as_ref().map(|chain| hex(chain)),
            "time_ns": mark.time_ns, "batches_behind": dropped, "because": by,
        }),
        End::Lost { mark, why } => json!({
            "kind": "lost", "sequence": mark.sequence, "position": mark.position, "because": why,
        }),
    }
}

fn shown_record(record: &RecordView<'_>, most: usize) -> Value {
    let shown = record.payload.get(..most).unwrap_or(record.payload);
    json!({
        "sequence": record.header.sequence,
        "epoch": record.header.epoch,
        "time_ns": record.header.time_ns,
        "kind": record.header.kind,
        "length": record.header.length,
        "crc32c": format!("{:#010x}", record.header.crc32c),
        "payload": hex(shown),
    })
}

fn record_line(record: &Value) -> String {
    let number = |field: &str| record[field].as_u64().unwrap_or(0);
    let (length, hex) = (number("length"), record["payload"].as_str().unwrap_or(""));
    let more = if length * 2 > hex.len() as u64 { "…" } else { "" };
    format!(
        "record {:>12}  time {:>20}  kind {:>5}  {:>7} bytes  {hex}{more}",
        number("sequence"),
        number("time_ns"),
        number("kind"),
        length,
    )
}

fn text(
    log: &Log,
    segments: &[Segment],
    end: &End,
    (verified, proved): (Option<&log::Verified>, Option<u64>),
) -> Result<String> {
    use std::fmt::Write as _;
    let mut out = head(log)?;
    let mark = end.mark();
    match end {
        End::Tail { dropped, by, .. } => writeln!(
            out,
            "end        a tail at position {}: {by}; {dropped} batches in flight behind it",
            mark.position
        )?,
        End::Lost { .. } => writeln!(
            out,
            "end        DAMAGED at position {}, record {} is lost",
            mark.position, mark.sequence
        )?,
    }
    writeln!(
        out,
        "log        records {} to {} (exclusive)",
        log.superblock.front_sequence, mark.sequence
    )?;
    if let End::Tail { chain: Some(chain), .. } = end {
        writeln!(out, "chain      {} in front of record {}", hex(chain), mark.sequence)?;
    }
    if let Some(verified) = verified {
        let word = if verified.lost.is_some() { "whole so far" } else { "all whole" };
        writeln!(
            out,
            "verified   {} records with {} bytes of payload, {word}",
            verified.records, verified.bytes
        )?;
        if log.superblock.is_chained() {
            let from = if verified.from_genesis { "genesis" } else { "its first batch" };
            writeln!(out, "           chained from {from} to its end")?;
        }
    }
    if let Some(sequence) = proved {
        writeln!(out, "           goes through the given chain in front of record {sequence}")?;
    }
    writeln!(out)?;
    let columns = [
        Column::right("segment"),
        Column::right("byte"),
        Column::right("first record"),
        Column::right("epoch"),
        Column::right("index"),
    ];
    let cells: Vec<[String; 5]> = segments.iter().map(cells).collect();
    let rows: Vec<[&dyn std::fmt::Display; 5]> =
        cells.iter().map(|row| row.each_ref().map(|cell| cell as &dyn std::fmt::Display)).collect();
    Table::new(columns).write(&mut out, &rows)?;
    Ok(out)
}

/// What the superblock says.
fn head(log: &Log) -> Result<String> {
    use std::fmt::Write as _;
    let block = &log.superblock;
    let mut out = String::new();
    writeln!(
        out,
        "journal    {:?}, id {:#018x}, version {}, epoch {}, superblock generation {}",
        block.name.as_str(),
        block.id,
        block.version,
        block.epoch,
        block.generation
    )?;
    writeln!(
        out,
        "sizes      blocks of {}, batches up to {}, {} segments of {}, reach {}, snapshots 2 x {}",
        block.lba_bytes,
        block.batch_bytes,
        block.segments,
        block.segment_bytes,
        block.reach_bytes,
        block.snapshot_bytes
    )?;
    match block.unit_blocks {
        0 => writeln!(out, "device     promised no atomic writes")?,
        unit => writeln!(
            out,
            "device     promised {unit} blocks whole or not at all, boundary {}",
            block.boundary_blocks
        )?,
    }
    writeln!(out, "checkpoint in front of record {}", block.checkpoint.sequence)?;
    Ok(out)
}

fn cells(segment: &Segment) -> [String; 5] {
    let or_dash = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |v| v.to_string());
    [
        segment.number.to_string(),
        segment.byte.to_string(),
        or_dash(segment.first.map(|header| header.first_sequence)),
        or_dash(segment.first.map(|header| header.epoch)),
        or_dash(segment.index_entries.map(u64::from)),
    ]
}
