//! `probe-util trace record`: what a partition's probes write, into a file.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use hybrid_abi::probe::ProbeRecord;
use hybrid_abi::probe::file::{ChunkHeader, ChunkKind, RecordsHead, TraceEnd};
use hybrid_conventions::Exit;
use zerocopy::IntoBytes as _;

use super::dictionary::section;
use super::follow_ring::Look;
use super::source::{Source, Taker, header};
use crate::hosts::Target;
use crate::stop::Stop;

/// Arguments of `probe-util trace record`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  probe-util trace record --groups driver,sched --for 2s -o feed.hytrace
  probe-util trace record --partition feed-handler      # until Ctrl-C

Exit codes: 0 ok, 1 error; Ctrl-C ends the recording in order.")]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    /// The trace
    #[arg(short, long, value_name = "FILE", default_value = "trace.hytrace")]
    output: PathBuf,
}

/// Runs it.
///
/// # Errors
/// If no such partition runs, its program is another one, or the file can't be written.
pub(super) fn command(args: &Args) -> Result<Exit> {
    let end = args.source.with(|target, program, stop| args.record(target, program, stop))?;
    eprintln!(
        "{} events to {}, {} lost, {} dropped by the partition; `probe-util trace show {}`",
        end.records,
        args.output.display(),
        end.lost,
        end.dropped,
        args.output.display()
    );
    Ok(Exit::Ok)
}

impl Args {
    fn record(&self, target: &Target, program: &Path, stop: &Stop) -> Result<TraceEnd> {
        let mut file = Recording::begin(&self.output, target, program)
            .with_context(|| format!("writing {}", self.output.display()))?;
        self.source.take(target, stop, &mut file)?;
        file.end()
    }
}

/// A file that is being written.
struct Recording {
    out: BufWriter<File>,
    end: TraceEnd,
}

impl Recording {
    fn begin(path: &Path, target: &Target, program: &Path) -> Result<Self> {
        let header = header(target);
        let out = BufWriter::with_capacity(1 << 18, File::create(path)?);
        let end = TraceEnd { records: 0, lost: 0, dropped: 0, tsc: 0 };
        let mut file = Self { out, end };
        file.out.write_all(header.sealed().as_bytes())?;
        file.chunk(ChunkKind::DICTIONARY, &section(program)?)?;
        let program = std::fs::read_link(program).unwrap_or_else(|_| program.to_owned());
        file.chunk(ChunkKind::PROGRAM_PATH, program.to_string_lossy().as_bytes())?;
        Ok(file)
    }

    fn chunk(&mut self, kind: ChunkKind, payload: &[u8]) -> Result<()> {
        let header = ChunkHeader::of(kind, payload);
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(payload)?;
        let padding = header.padded() - payload.len();
        self.out.write_all([0; 8].get(..padding).unwrap_or_default())?;
        Ok(())
    }

    fn end(mut self) -> Result<TraceEnd> {
        let end = self.end;
        self.chunk(ChunkKind::END, end.as_bytes())?;
        self.out.flush()?;
        Ok(end)
    }
}

impl Taker for Recording {
    fn names(&mut self, names: Vec<u8>) -> Result<()> {
        self.chunk(ChunkKind::TASK_NAMES, &names)
    }

    fn records(&mut self, look: Look, records: &[ProbeRecord]) -> Result<()> {
        let seen = look.seen;
        self.end.dropped += look.dropped;
        if seen.count == 0 && seen.lost == 0 {
            return Ok(());
        }
        let head = RecordsHead { first: seen.first, lost: seen.lost };
        let records = records.get(..seen.count).unwrap_or_default();
        self.end.records += seen.count as u64;
        self.end.lost += seen.lost;
        self.chunk(ChunkKind::RECORDS, &[head.as_bytes(), records.as_bytes()].concat())
    }
}
