//! What a dead partition left: its crash record, or one that is composed for it, as a dump.
//!
//! [`collect`] is called by whoever watches over a partition, after its death and, where the device
//! was fenced, with its DMA memory. It copies the crash part out of the partition's region once and
//! believes a copy only: the region is as hostile as the bytes of a device. If no record can be
//! believed (a SIGKILL leaves no time for one), it composes one in the same format from what shared
//! memory says: state words, metrics, and the images of the queues. Either way the result is a
//! [`Dump`], whose bytes `probe-util dump` reads ([`hybrid_abi::crash::file`]).
//!
//! It writes no file and kills nobody.

mod compose;
mod names;
mod queues;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::Duration;

use core_runtime::partition::{CRASH_PART, METRICS_PART, QUEUES_PART, STATE_PART};
use core_runtime::region::RegionReader;
use hybrid_abi::crash::file::{FileHeader, HOST_COMPOSED, HostWords, section};
use hybrid_abi::crash::program::{CurrentTask, Location};
use hybrid_abi::crash::{CRASH_PART_BYTES, CrashHeader, SectionKind, Sections, newest, slot, text};
use hybrid_abi::region::{PartKind, RegionHeader};
use hybrid_abi::{LINE_BYTES, state};
use hybrid_shm::ReadSpan;
use zerocopy::IntoBytes;

/// What is known of a partition that has died.
#[derive(Clone, Copy, Debug)]
pub struct Collect<'a> {
    /// Its own region.
    pub region: ReadSpan<'static>,
    /// Its DMA memory; `None` where the device was not fenced or the memory cannot be seen.
    pub dma: Option<ReadSpan<'static>>,
    /// How it ended, and when that was noticed. The flags are completed here.
    pub words: HostWords,
    /// The host's line: why it acted as it did, or what it saw.
    pub line: &'a str,
    /// Reason of a record that must be composed: what the way of its end says.
    pub reason: u32,
    /// Name of the task that it was polling, for a record that must be composed.
    pub task_name: Option<&'a str>,
    /// The program that the partition ran.
    pub program: Option<&'a Path>,
    /// Wall clock, nanoseconds since 1970-01-01.
    pub now_unix_ns: u64,
}

/// A dump, checked and owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dump {
    header: FileHeader,
    sections: Vec<(SectionKind, Vec<u8>)>,
    headline: Headline,
}

/// What a dump says first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headline {
    /// One of the `REASON_` constants.
    pub reason: u32,
    /// In words; empty where there were none.
    pub message: String,
    /// File, line and column.
    pub location: Option<(String, u32, u32)>,
    /// The task that was being polled: its number from 1, its name (empty where shared memory did
    /// not tell), and for how long.
    pub task: Option<(u32, String, Duration)>,
    /// TSC at which the record was begun.
    pub tsc: u64,
    /// Whether the record was composed here.
    pub composed: bool,
    /// Whether the record is complete; else it is what was committed.
    pub complete: bool,
}

/// Reads or composes the record of a partition that has died.
#[must_use]
pub fn collect(from: &Collect<'_>) -> Dump {
    let region = RegionReader::new(from.region);
    let header = region.as_ref().map_or_else(|_| FileHeader::blank(), |r| facts(r.header()));
    let header = FileHeader { saved_unix_ns: from.now_unix_ns, ..header };
    let region = region.as_ref();
    let queues = match (region, from.dma) {
        (Ok(region), Some(dma)) => queues::images(region, dma),
        _ => Vec::new(),
    };
    let mut words = from.words;
    let record = region.ok().and_then(written).unwrap_or_else(|| {
        words.flags |= HOST_COMPOSED;
        compose::killed(from, region, &queues)
    });
    let composed = words.flags & HOST_COMPOSED != 0;
    let headline = headline(&record, &header, composed);
    let names = names::of(&record, &header);
    let mut sections = vec![(SectionKind::RECORD, record)];
    let mut host = words.as_bytes().to_vec();
    host.extend(from.line.as_bytes());
    sections.push((SectionKind::HOST, host));
    if let Some(path) = from.program {
        sections.push((SectionKind::PROGRAM_PATH, path.to_string_lossy().into_owned().into()));
    }
    if let Some(names) = names {
        sections.push((SectionKind::PROBE_NAMES, names));
    }
    if let Some(state) = region.ok().and_then(state_bytes) {
        sections.push((SectionKind::STATE, state));
    }
    for image in queues {
        sections.push((SectionKind::QUEUE_IMAGE, image.into_payload()));
    }
    Dump { header, sections, headline }
}

impl Dump {
    /// What it says first.
    #[must_use]
    pub const fn headline(&self) -> &Headline {
        &self.headline
    }

    /// The file: header, then sections.
    #[must_use]
    pub fn to_file_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; LINE_BYTES];
        for (kind, payload) in &self.sections {
            // A payload is at most a slot or a pair of rings.
            let Ok(header) = section(*kind, 1, payload) else { continue };
            bytes.extend(header.as_bytes());
            bytes.extend(payload);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        let header = FileHeader { file_bytes: bytes.len() as u64, ..self.header }.sealed();
        let (head, _) = bytes.split_at_mut(LINE_BYTES);
        head.copy_from_slice(header.as_bytes());
        bytes
    }
}

/// The newest record that can be believed: its slot up to the committed length. One that was cut
/// right behind its header says nothing: what the host can put together says more.
fn written(region: &RegionReader) -> Option<Vec<u8>> {
    let part = region.part(PartKind::CRASH, CRASH_PART).ok()?;
    let mut bytes = vec![0; CRASH_PART_BYTES.min(part.len())];
    part.read(0, &mut bytes).ok()?;
    let (index, header) = newest(&bytes).filter(|(_, header)| header.committed > 0)?;
    let end = LINE_BYTES.saturating_add(header.committed as usize);
    Some(slot(&bytes, index).get(..end)?.to_vec())
}

fn state_bytes(region: &RegionReader) -> Option<Vec<u8>> {
    let part = region.part(PartKind::STATE, STATE_PART).ok()?;
    let mut bytes = vec![0; size_of::<state::PartitionState>()];
    part.read(0, &mut bytes).ok()?;
    Some(bytes)
}

/// What a region's header says of clock and program.
fn facts(header: &RegionHeader) -> FileHeader {
    FileHeader {
        partition: header.partition,
        incarnation: header.incarnation,
        boot_id: header.boot_id,
        tsc_hz: header.tsc_hz,
        anchor_tsc: header.anchor_tsc,
        anchor_unix_ns: header.anchor_unix_ns,
        build_id: header.build_id,
        ..FileHeader::blank()
    }
}

/// The first things that are wanted of a record.
fn headline(record: &[u8], file: &FileHeader, composed: bool) -> Headline {
    let Ok(header) = CrashHeader::parse_record(record) else {
        return Headline { composed, ..Headline::default() };
    };
    let mut headline = Headline {
        reason: header.reason,
        tsc: header.tsc,
        composed,
        complete: header.state == hybrid_abi::crash::CRASH_COMPLETE,
        ..Headline::default()
    };
    let sections: Sections<'_> = header.sections(record);
    for section in sections.filter(|section| section.intact) {
        match section.header.kind {
            SectionKind::MESSAGE => headline.message = text(section.payload).to_owned(),
            SectionKind::LOCATION => {
                if let Ok((Location { line, column }, file)) = section.head() {
                    headline.location = Some((text(file).to_owned(), line, column));
                }
            }
            SectionKind::CURRENT_TASK => {
                if let Ok((task, _)) = section.head::<CurrentTask>()
                    && task.task != 0
                {
                    let ns = file.ticks_to_ns(task.age_ticks).unwrap_or(0);
                    let name = task.name.as_str().to_owned();
                    headline.task = Some((task.task, name, Duration::from_nanos(ns)));
                }
            }
            _ => {}
        }
    }
    headline
}

/// The part of that kind and name, copied.
fn copy_of(region: &RegionReader, kind: PartKind, name: &str, len: usize) -> Option<Vec<u8>> {
    let part = region.part(kind, name).ok()?;
    let mut bytes = vec![0; len];
    part.read(0, &mut bytes).ok()?;
    Some(bytes)
}

/// Where the queues lie, as the partition published it.
fn places_of(region: &RegionReader) -> Option<Vec<u8>> {
    let len = hybrid_abi::crash::device::QUEUE_PART_BYTES;
    copy_of(region, PartKind::QUEUES, QUEUES_PART, len)
}

/// The metrics part.
fn metrics_of(region: &RegionReader) -> Option<ReadSpan<'static>> {
    region.part(PartKind::METRICS, METRICS_PART).ok()
}
