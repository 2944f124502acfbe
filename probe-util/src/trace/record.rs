//! `probe-util trace record`: follows a partition's ring from outside.
//!
//! The region comes read-only over the host's control socket and is read by `pread`: nothing here
//! can disturb the partition. Probes are switched by the host, asked over the same socket, and
//! switched back at the end.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hybrid_abi::Name;
use hybrid_abi::probe::file::{
    CHUNK_RECORDS, ChunkHeader, ChunkKind, RecordsHead, TraceEnd, TraceHeader,
};
use hybrid_abi::probe::view::{Cursor, Memory, RingView, Seen};
use hybrid_abi::probe::{ProbeRecord, parse_groups};
use hybrid_abi::region::PartKind;
use hybrid_conventions::Exit;
use serde_json::json;
use zerocopy::IntoBytes as _;

use super::dictionary::{build_id, hex, is_build, section};
use super::parse_time;
use crate::hosts::{RegionFile, Target, Which};
use crate::stop::Stop;

/// How long it sleeps when there was nothing.
const LOOK: Duration = Duration::from_millis(1);

/// How often it looks whether the host still runs.
const ALIVE: Duration = Duration::from_millis(200);

/// Arguments of `probe-util trace record`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  probe-util trace record --groups driver,sched --for 2s -o feed.hytrace
  probe-util trace record --partition feed-handler      # until Ctrl-C

Exit codes: 0 ok, 1 error; Ctrl-C ends the recording in order.")]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// The trace
    #[arg(short, long, value_name = "FILE", default_value = "trace.hytrace")]
    output: PathBuf,
    /// Probes to switch on while it records: all, none, driver, sched, ... each with an optional
    /// :error, :info, :debug or :trace [default: those that are on]
    #[arg(long, value_name = "GROUPS", value_parser = check_groups)]
    groups: Option<String>,
    /// For so long [default: until Ctrl-C, or the partition's end]
    #[arg(long = "for", value_name = "TIME", value_parser = parse_time)]
    time: Option<Duration>,
    /// The program that runs, if it was moved [default: /proc/PID/exe of the host]
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

fn check_groups(text: &str) -> Result<String, String> {
    parse_groups(text).map(|_| text.to_owned()).map_err(|no| no.to_string())
}

/// A part of a region that is read from a file.
struct Part<'a> {
    region: &'a RegionFile,
    offset: u64,
}

impl Memory for Part<'_> {
    fn load64(&self, offset: usize) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(offset, &mut bytes).then(|| u64::from_le_bytes(bytes))
    }

    fn read(&self, offset: usize, into: &mut [u8]) -> bool {
        self.region.read_at(into, self.offset + offset as u64).is_ok()
    }
}

/// Runs it.
///
/// # Errors
/// If no such partition runs, its program is another one, or the file can't be written.
pub(super) fn command(args: &Args) -> Result<Exit> {
    let targets = args.which.some_partitions()?;
    let [target] = targets.as_slice() else {
        let names: Vec<_> = targets.iter().map(|target| target.name.as_str()).collect();
        bail!("{} partitions run ({}): name one by --partition", targets.len(), names.join(", "));
    };
    let stop = Stop::install().context("signal handlers")?;
    let program = args.program(target)?;
    let before = args.groups.as_ref().map(|groups| args.switch(target, groups)).transpose()?;
    let recorded = args.record(target, &program, &stop);
    if let Some(before) = before {
        // If the partition has ended there is nobody to be told.
        let params = json!({ "partition": target.name, "mask": before });
        let _ = args.which.call(target.host, "probe_set_groups", &params);
    }
    let end = recorded?;
    eprintln!(
        "{} events to {}, {} lost; `probe-util trace show {}`",
        end.records,
        args.output.display(),
        end.lost,
        args.output.display()
    );
    Ok(Exit::Ok)
}

impl Args {
    /// The program's file, which must be the build that runs.
    fn program(&self, target: &Target) -> Result<PathBuf> {
        let running = PathBuf::from(format!("/proc/{}/exe", target.host));
        let program = self.binary.clone().unwrap_or(running);
        let (found, wanted) = (build_id(&program)?, &target.region.header().build_id);
        if !is_build(&found, wanted) {
            bail!(
                "{} is build {}, the partition runs build {}: name its program by --binary \
                 (`ls -l /proc/{}/exe` says where it was; `readelf -n FILE` shows a build id)",
                program.display(),
                hex(&found),
                hex(wanted),
                target.host
            );
        }
        Ok(program)
    }

    /// Switches probes on; those that were on before.
    fn switch(&self, target: &Target, groups: &str) -> Result<u64> {
        let params = json!({ "partition": target.name, "groups": groups });
        let told = self.which.call(target.host, "probe_set_groups", &params)?;
        told["before"].as_u64().context("the host did not say which probes were on")
    }

    fn record(&self, target: &Target, program: &Path, stop: &Stop) -> Result<TraceEnd> {
        let region = &target.region;
        let (offset, len) = region
            .place(PartKind::PROBE, "probes")
            .context("the partition has no probes: its program is too old")?;
        let part = Part { region, offset };
        let view = RingView::new(&part, len)?;
        let mut file = Recording::begin(&self.output, target, program)
            .with_context(|| format!("writing {}", self.output.display()))?;
        let mut cursor = view.newest(&part);
        let mut records = vec![ProbeRecord::default(); CHUNK_RECORDS];
        let (begun, mut looked, mut names) = (Instant::now(), Instant::now(), Vec::new());
        loop {
            let over = self.time.is_some_and(|time| begun.elapsed() >= time);
            let ending = over || stop.exit().is_some() || gone(target, &mut looked);
            let now = region.read_part(PartKind::TASK_NAMES, "task-names").unwrap_or_default();
            if now != names {
                file.chunk(ChunkKind::TASK_NAMES, &now)?;
                names = now;
            }
            let seen = read(&view, &part, &mut cursor, &mut records);
            file.records(seen, &records)?;
            if ending {
                break;
            }
            if seen.count == 0 {
                std::thread::sleep(LOOK);
            }
        }
        let dropped = view.words(&part).map_or(0, |words| words.dropped);
        file.end(dropped)
    }
}

/// A region that was blanked at its partition's end reads as an empty ring: nothing is new then.
fn read(view: &RingView, part: &Part<'_>, cursor: &mut Cursor, into: &mut [ProbeRecord]) -> Seen {
    if view.head(part) < cursor.next {
        return Seen::default();
    }
    view.read(part, cursor, into)
}

/// Whether the host has gone.
fn gone(target: &Target, looked: &mut Instant) -> bool {
    if looked.elapsed() < ALIVE {
        return false;
    }
    *looked = Instant::now();
    let pid = target.pid.unwrap_or(target.host);
    !Path::new(&format!("/proc/{pid}")).exists()
}

/// A file that is being written.
struct Recording {
    out: BufWriter<File>,
    end: TraceEnd,
}

impl Recording {
    fn begin(path: &Path, target: &Target, program: &Path) -> Result<Self> {
        let region = target.region.header();
        let header = TraceHeader {
            boot_id: region.boot_id,
            build_id: region.build_id,
            partition: region.partition,
            incarnation: region.incarnation,
            tsc_hz: region.tsc_hz,
            anchor_tsc: region.anchor_tsc,
            anchor_unix_ns: region.anchor_unix_ns,
            name: Name::lossy(&target.name),
            ..TraceHeader::blank()
        };
        let out = BufWriter::with_capacity(1 << 18, File::create(path)?);
        let end = TraceEnd { records: 0, lost: 0, dropped: 0, tsc: 0 };
        let mut file = Self { out, end };
        file.out.write_all(header.sealed().as_bytes())?;
        file.chunk(ChunkKind::DICTIONARY, &section(program)?)?;
        let program = std::fs::read_link(program).unwrap_or_else(|_| program.to_owned());
        file.chunk(ChunkKind::PROGRAM_PATH, program.to_string_lossy().as_bytes())?;
        Ok(file)
    }

    fn records(&mut self, seen: Seen, records: &[ProbeRecord]) -> Result<()> {
        if seen.count == 0 && seen.lost == 0 {
            return Ok(());
        }
        let head = RecordsHead { first: seen.first, lost: seen.lost };
        let records = records.get(..seen.count).unwrap_or_default();
        self.end.records += seen.count as u64;
        self.end.lost += seen.lost;
        self.chunk(ChunkKind::RECORDS, &[head.as_bytes(), records.as_bytes()].concat())
    }

    fn chunk(&mut self, kind: ChunkKind, payload: &[u8]) -> Result<()> {
        let header = ChunkHeader::of(kind, payload);
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(payload)?;
        let padding = header.padded() - payload.len();
        self.out.write_all([0; 8].get(..padding).unwrap_or_default())?;
        Ok(())
    }

    fn end(mut self, dropped: u64) -> Result<TraceEnd> {
        let end = TraceEnd { dropped, ..self.end };
        self.chunk(ChunkKind::END, end.as_bytes())?;
        self.out.flush()?;
        Ok(end)
    }
}
