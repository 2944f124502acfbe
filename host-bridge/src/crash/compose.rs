//! A record for a partition that wrote none: what shared memory says of it, in the same format.
//!
//! What only the partition's private memory knew (registers, backtrace, the tasks) is named as
//! missing. Commands come from the queues' images alone: which entries have no answer. Their age is
//! not known.

use std::cell::Cell;
use std::fmt::Write;

use core_runtime::crash::{RecordHead, Recorder, metrics_section, probes_section};
use core_runtime::partition::state::StateReader;
use core_runtime::partition::{PROBES_PART, STATE_PART};
use core_runtime::region::{RegionError, RegionReader};
use hybrid_abi::Name;
use hybrid_abi::crash::device::{
    COMMAND_AGE_UNKNOWN, COMMAND_BLOCKS, COMMAND_IN_FLIGHT, CommandRecord, CommandsHead,
    INDEX_UNKNOWN, QUEUE_OPEN, QueueRecord,
};
use hybrid_abi::crash::file::{END_EXITED, END_SIGNALLED};
use hybrid_abi::crash::program::{CurrentTask, Program};
use hybrid_abi::crash::rings::Unanswered;
use hybrid_abi::crash::{CRASH_SLOT_BYTES, CrashHeader, SectionKind};
use hybrid_abi::region::PartKind;
use nvme_spec::NvmOpcode;
use zerocopy::FromZeros;

use super::Collect;
use super::queues::Image;

/// The bytes of a slot up to its committed length.
pub(super) fn killed(
    from: &Collect<'_>,
    region: Result<&RegionReader, &RegionError>,
    queues: &[Image],
) -> Vec<u8> {
    let slot = vec![Cell::new(0); CRASH_SLOT_BYTES];
    let store = &slot[..];
    let head = RecordHead {
        reason: from.reason,
        sequence: 1,
        tsc: from.words.noticed_tsc,
        incarnation: region.map_or(0, |region| region.header().incarnation),
    };
    let mut recorder = Recorder::begin(&store, head);
    match region {
        Ok(region) => sections(&mut recorder, from, region, queues),
        Err(error) => {
            message(&mut recorder, from, "before its memory was laid out");
            missing(&mut recorder, format_args!("everything: the partition's region: {error}"));
        }
    }
    recorder.finish();
    let bytes: Vec<u8> = slot.iter().map(Cell::get).collect();
    let header = CrashHeader::parse_record(&bytes);
    let committed = header.map_or(0, |header| header.committed as usize);
    bytes[..hybrid_abi::LINE_BYTES + committed].to_vec()
}

fn sections(
    recorder: &mut Recorder<'_>,
    from: &Collect<'_>,
    region: &RegionReader,
    queues: &[Image],
) {
    recorder.section(SectionKind::PROGRAM, usize::MAX, |section| {
        let build_id = region.header().build_id;
        section.head(&Program { build_id, reserved: 0, load_base: 0 });
    });
    let state = region.part(PartKind::STATE, STATE_PART).map_err(|error| error.to_string());
    match state.and_then(|part| StateReader::new(part).map_err(|error| error.to_string())) {
        Ok(state) => {
            let seen = state.snapshot();
            message(recorder, from, &format!("while {}", seen.state));
            let since = seen.task_since.ticks();
            let current = CurrentTask {
                task: seen.task,
                reserved: 0,
                since_tsc: since,
                age_ticks: from.words.noticed_tsc.saturating_sub(since),
                heartbeat: seen.heartbeat,
                heartbeat_tsc: seen.heartbeat_at.ticks(),
                name: from.task_name.map_or(Name::EMPTY, Name::lossy),
            };
            recorder.section(SectionKind::CURRENT_TASK, usize::MAX, |section| {
                section.head(&current);
            });
        }
        Err(error) => {
            message(recorder, from, "");
            missing(recorder, format_args!("state words: {error}"));
        }
    }
    missing(recorder, format_args!("registers, backtrace, tasks: known to the partition alone"));
    if let Ok(ring) = region.part(PartKind::PROBE, PROBES_PART) {
        probes_section(recorder, ring);
    }
    device(recorder, from, queues);
    if let Some(part) = super::metrics_of(region) {
        metrics_section(recorder, part);
    }
}

/// `killed by signal 9 (SIGKILL) while running`.
fn message(recorder: &mut Recorder<'_>, from: &Collect<'_>, when: &str) {
    recorder.section(SectionKind::MESSAGE, 4096, |section| {
        // Cut where it is too long.
        let _ = match (from.words.end, from.words.code) {
            (END_SIGNALLED, 9) => section.write_str("killed by signal 9 (SIGKILL)"),
            (END_SIGNALLED, signal) => write!(section, "killed by signal {signal}"),
            (END_EXITED, code) => write!(section, "exited with code {code} and left no record"),
            _ => section.write_str("it left no record"),
        };
        if !when.is_empty() {
            let _ = write!(section, " {when}");
        }
    });
}

fn missing(recorder: &mut Recorder<'_>, what: std::fmt::Arguments<'_>) {
    recorder.section(SectionKind::MISSING, 1024, |section| {
        let _ = section.write_fmt(what);
    });
}

fn device(recorder: &mut Recorder<'_>, from: &Collect<'_>, queues: &[Image]) {
    if from.dma.is_none() {
        missing(recorder, format_args!("queues and commands: the device was not fenced"));
        return;
    }
    let mut unanswered: Vec<(&Image, Vec<Unanswered>)> = Vec::new();
    for image in queues {
        let mut found = Vec::new();
        if let Some(rings) = image.rings() {
            rings.each_unanswered(|entry| found.push(entry));
        }
        unanswered.push((image, found));
    }
    recorder.section(SectionKind::QUEUES, usize::MAX, |section| {
        for (image, found) in &unanswered {
            section.element(&queue_record(image, found.len()));
        }
    });
    let mut controllers: Vec<u16> = queues.iter().map(|image| image.head.controller).collect();
    controllers.dedup();
    for controller in controllers {
        let of_it = || unanswered.iter().filter(|(image, _)| image.head.controller == controller);
        let total = of_it().map(|(_, found)| found.len()).sum::<usize>();
        let total = u32::try_from(total).unwrap_or(u32::MAX);
        let most = recorder.room_for_commands();
        recorder.section(SectionKind::COMMANDS, most, |section| {
            section.head(&CommandsHead { controller: controller.into(), total });
            for (image, found) in of_it() {
                for entry in found {
                    section.element(&command_record(image, entry));
                }
            }
        });
    }
    for image in queues.iter().filter(|image| image.rings().is_none_or(|r| !r.knows_tail())) {
        missing(
            recorder,
            format_args!(
                "controller {}, queue {}: commands posted after its last completion, since its \
                 tail is not known",
                image.head.controller, image.head.qid
            ),
        );
    }
}

fn queue_record(image: &Image, outstanding: usize) -> QueueRecord {
    QueueRecord {
        controller: image.head.controller,
        qid: image.head.qid,
        entries: u16::try_from(image.head.entries).unwrap_or(INDEX_UNKNOWN),
        mode: QUEUE_OPEN,
        sq_tail: INDEX_UNKNOWN,
        sq_rung: u16::try_from(image.head.tail).unwrap_or(INDEX_UNKNOWN),
        sqhd: INDEX_UNKNOWN,
        cq_head: INDEX_UNKNOWN,
        cq_rung: INDEX_UNKNOWN,
        phase: INDEX_UNKNOWN,
        in_flight: u16::try_from(outstanding).unwrap_or(INDEX_UNKNOWN),
        held: INDEX_UNKNOWN,
        ..QueueRecord::new_zeroed()
    }
}

fn command_record(image: &Image, entry: &Unanswered) -> CommandRecord {
    let [head, .., cdw10, cdw12, _] = entry.sqe;
    #[expect(clippy::cast_possible_truncation, reason = "fields of the entry")]
    let (opcode, nsid, nlb_z) = (head as u8, (head >> 32) as u32, cdw12 as u16);
    let has_blocks = matches!(
        NvmOpcode(opcode),
        NvmOpcode::READ | NvmOpcode::WRITE | NvmOpcode::COMPARE | NvmOpcode::WRITE_ZEROES
    );
    let blocks = image.head.qid != 0 && has_blocks;
    CommandRecord {
        slba: cdw10,
        nsid,
        age_us: 0,
        age_within_us: 0,
        nlb_z: if blocks { nlb_z } else { 0 },
        cid: entry.cid,
        qid: image.head.qid,
        status: 0,
        opcode,
        state: COMMAND_IN_FLIGHT,
        flags: COMMAND_AGE_UNKNOWN | entry.flags | if blocks { COMMAND_BLOCKS } else { 0 },
        tries: 0,
    }
}
