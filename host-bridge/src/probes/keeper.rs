//! The thread that keeps what a partition's probes wrote: into a trace, or when it was frozen.
//!
//! It only reads the partition's region, which stays mapped; the ring is believed as little as
//! anything else there. An error ends the keeping, with one warning, and not the partition.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hybrid_abi::probe::file::{TRACE_EXTENSION, TraceHeader};
use hybrid_abi::probe::view::{Cursor, RingView};
use hybrid_abi::probe::{FREEZE_ASKED, ProbeRecord, ProbeWords, freeze_name};
use hybrid_shm::ReadSpan;

use super::file::{Origin, TraceFile};
use super::{FreezeOver, ProbeSwitch, ProbeWishes};
use crate::sys::signals::with_signals_blocked;
use crate::warnings::{WarningKind, Warnings};

/// How often it looks. The smallest ring lasts for some milliseconds of everything.
const LOOK: Duration = Duration::from_millis(1);

/// Records copied at once.
const BATCH: usize = hybrid_abi::probe::file::CHUNK_RECORDS;

/// What it keeps, and from where.
pub(crate) struct Keeping {
    pub(crate) ring: ReadSpan<'static>,
    pub(crate) task_names: Option<ReadSpan<'static>>,
    pub(crate) origin: Origin,
    pub(crate) switch: ProbeSwitch,
    pub(crate) wishes: ProbeWishes,
    pub(crate) warnings: Warnings,
}

/// The thread.
#[derive(Debug)]
pub(crate) struct Keeper {
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Keeper {
    /// Starts it.
    pub(crate) fn start(keeping: Keeping) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&stop);
        let builder = std::thread::Builder::new().name("probe-keeper".into());
        let thread = with_signals_blocked(|| {
            builder.spawn(move || {
                keeping.switch.keep(true);
                let ended = keeping.run(&theirs);
                keeping.switch.keep(false);
                if let Err(error) = ended {
                    keeping.let_go();
                    let line = || format!("probes are kept no longer: {error}");
                    keeping.warnings.say_each(WarningKind::Probes, line);
                }
            })
        })?;
        Ok(Self { thread: Some(thread), stop })
    }

    /// Keeps what is there, and ends. While the region still is what the partition left.
    pub(crate) fn finish(mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Keeping {
    fn run(&self, stop: &AtomicBool) -> io::Result<()> {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, format!("{error}"));
        let view = RingView::new(&self.ring, self.ring.len() as u64).map_err(invalid)?;
        let mut trace = self.wishes.trace.as_deref().map(|path| self.begin(path)).transpose()?;
        let mut cursor = Cursor::default();
        let mut records = vec![ProbeRecord::default(); BATCH];
        let (mut names, mut saved) = (Vec::new(), 0);
        loop {
            // Looked at before the ring: what was written before the stop is read after it.
            let stopping = stop.load(Ordering::Acquire);
            let mut idle = true;
            if let Some(trace) = &mut trace {
                self.tell_names(trace, &mut names)?;
                let seen = view.read(&self.ring, &mut cursor, &mut records);
                idle = seen.count == 0;
                trace.records(seen, &records)?;
                if self.wishes.drops {
                    self.switch.take(cursor.next);
                }
            }
            let words = view.words(&self.ring).filter(|words| words.frozen > saved);
            if let Some(words) = words {
                self.save(&view, &words)?;
                saved = words.frozen;
            }
            if stopping && idle {
                break;
            }
            if idle {
                std::thread::sleep(LOOK);
            }
        }
        if let Some(trace) = trace {
            let words = view.words(&self.ring);
            trace.end(words.map_or(0, |words| words.dropped), 0)?;
        }
        Ok(())
    }

    /// Nobody saves and thaws the ring any more: it is not to be frozen, nor to be full.
    fn let_go(&self) {
        let nothing = ProbeWishes { mask: self.switch.mask(), ..ProbeWishes::default() };
        self.switch.apply(&nothing);
        let view = RingView::new(&self.ring, self.ring.len() as u64).ok();
        if let Some(words) = view.and_then(|view| view.words(&self.ring)) {
            self.switch.thaw(words.frozen);
        }
    }

    fn header(&self) -> TraceHeader {
        TraceHeader { mask: self.switch.mask(), ..TraceHeader::blank() }
    }

    fn begin(&self, path: &Path) -> io::Result<TraceFile> {
        let path = self.numbered(path);
        TraceFile::begin(&path, &self.origin, self.header())
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    }

    /// A later incarnation does not write over an earlier one's file.
    fn numbered(&self, path: &Path) -> PathBuf {
        match self.origin.region.incarnation {
            0 | 1 => path.to_owned(),
            more => path.with_extension(format!("{more}.{TRACE_EXTENSION}")),
        }
    }

    fn tell_names(&self, trace: &mut TraceFile, last: &mut Vec<u8>) -> io::Result<()> {
        let Some(part) = &self.task_names else { return Ok(()) };
        let mut names = vec![0; part.len()];
        if part.read(0, &mut names).is_ok() && names != *last {
            trace.task_names(&names)?;
            *last = names;
        }
        Ok(())
    }

    /// Saves a frozen ring, and thaws it.
    fn save(&self, view: &RingView, words: &ProbeWords) -> io::Result<()> {
        let most = u64::from(self.wishes.flights.max(1));
        if let Some(dir) = self.wishes.flight_dir.as_deref().filter(|_| words.frozen <= most) {
            std::fs::create_dir_all(dir)?;
            let region = &self.origin.region;
            let name = format!(
                "{}-{}-{}-{}.{TRACE_EXTENSION}",
                self.origin.name, region.partition, region.incarnation, words.frozen
            );
            let path = dir.join(name);
            let header = TraceHeader {
                freeze_reason: words.freeze_reason,
                freeze_task: words.freeze_task,
                freeze_value: words.freeze_value,
                freeze_tsc: words.freeze_tsc,
                ..self.header()
            };
            let mut trace = TraceFile::begin(&path, &self.origin, header)?;
            self.tell_names(&mut trace, &mut Vec::new())?;
            let mut cursor = view.oldest(&self.ring);
            let mut records = vec![ProbeRecord::default(); BATCH];
            while cursor.next < words.head {
                let seen = view.read(&self.ring, &mut cursor, &mut records);
                trace.records(seen, &records)?;
                if seen.count == 0 && seen.lost == 0 {
                    break;
                }
            }
            trace.end(words.dropped, words.freeze_tsc)?;
            self.warnings.say_each(WarningKind::Probes, || self.line(words, &path));
        }
        if words.frozen >= most && words.freeze_reason != FREEZE_ASKED {
            self.switch.freeze_over(FreezeOver::default());
        }
        self.switch.thaw(words.frozen);
        Ok(())
    }

    fn line(&self, words: &ProbeWords, path: &Path) -> String {
        let hz = self.origin.region.tsc_hz.max(1);
        let ns = u128::from(words.freeze_value) * 1_000_000_000 / u128::from(hz);
        format!(
            "partition {}: probes frozen ({} {} us) and saved; `probe-util trace show {}`",
            self.origin.name,
            freeze_name(words.freeze_reason),
            ns / 1000,
            path.display()
        )
    }
}
