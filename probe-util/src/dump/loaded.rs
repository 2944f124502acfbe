//! A dump, taken apart.
//!
//! Each section has a checksum of its own, and so has each section of the record inside of one:
//! what is damaged costs only itself. Where lengths are damaged, so that the walk ends early, the
//! record is looked for by its magic.

use anyhow::{Result, bail};
use hybrid_abi::crash::device::{CommandRecord, CommandsHead, ControllerRecord, QueueRecord};
use hybrid_abi::crash::file::{FILE_MAGIC, FileHeader, HostWords, QueueImageHead};
use hybrid_abi::crash::metric::MetricRecord;
use hybrid_abi::crash::program::{
    BacktraceHead, CurrentTask, Location, Program, Registers, TaskRecord, TasksHead,
};
use hybrid_abi::crash::{CRASH_MAGIC, CrashHeader, Section, SectionKind, Sections, elements, text};
use hybrid_abi::probe::{ProbeRecord, entries};
use hybrid_abi::state::PartitionState;
use hybrid_abi::{AbiError, LINE_BYTES};

use crate::trace::dictionary::Dictionary;

/// Something that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Where, from the start of the file.
    pub(crate) offset: u64,
    pub(crate) what: String,
}

/// What a file holds.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) file: Option<FileHeader>,
    pub(crate) record: Option<Record>,
    pub(crate) host: Option<(HostWords, String)>,
    pub(crate) state: Option<PartitionState>,
    pub(crate) program_path: Option<String>,
    pub(crate) images: Vec<(QueueImageHead, Vec<u8>)>,
    /// What its probe events are called, as far as the dump itself says.
    pub(crate) names: Dictionary,
    pub(crate) problems: Vec<Problem>,
}

/// What a record holds.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) header: CrashHeader,
    pub(crate) message: Option<String>,
    pub(crate) location: Option<(String, Location)>,
    pub(crate) registers: Option<Registers>,
    pub(crate) program: Option<Program>,
    pub(crate) backtrace: Option<(BacktraceHead, Vec<u64>)>,
    pub(crate) current: Option<CurrentTask>,
    pub(crate) tasks: Option<(TasksHead, Vec<TaskRecord>)>,
    pub(crate) controllers: Vec<ControllerRecord>,
    pub(crate) queues: Vec<QueueRecord>,
    /// By controller.
    pub(crate) commands: Vec<(CommandsHead, Vec<CommandRecord>)>,
    pub(crate) metrics: Vec<MetricRecord>,
    pub(crate) missing: Vec<String>,
    /// The newest, the oldest of them first.
    pub(crate) probes: Vec<ProbeRecord>,
}

impl Loaded {
    /// Takes `file` apart.
    ///
    /// # Errors
    /// If nothing in it says that it is a dump.
    pub(crate) fn parse(file: &[u8]) -> Result<Self> {
        let mut loaded = Self::default();
        let header = match FileHeader::parse(file) {
            Ok(header) => {
                loaded.file = Some(header);
                header
            }
            Err(error @ AbiError::NewerVersion { .. }) => bail!(error),
            Err(error) => {
                let first = file.get(..8).unwrap_or_default();
                if first != FILE_MAGIC.to_le_bytes() && find_record(file).is_none() {
                    bail!(error);
                }
                loaded.problem(0, error);
                FileHeader { file_bytes: file.len() as u64, ..FileHeader::blank() }
            }
        };
        if header.file_bytes != file.len() as u64 {
            let (is, was) = (file.len(), header.file_bytes);
            loaded.problem(is as u64, format_args!("the file has {is} bytes of {was}"));
        }
        let mut walk = header.sections(file);
        for section in walk.by_ref() {
            loaded.take(&section);
        }
        if let Some(offset) = walk.damaged_at() {
            loaded.problem(offset, "a section does not fit, and hides what follows");
        }
        if loaded.record.is_none() {
            match find_record(file) {
                Some(at) => loaded.take_record(file.get(at..).unwrap_or_default(), at as u64),
                None => loaded.problem(LINE_BYTES as u64, "no record is left in it"),
            }
        }
        Ok(loaded)
    }

    fn problem(&mut self, offset: u64, what: impl ToString) {
        self.problems.push(Problem { offset, what: what.to_string() });
    }

    /// Whether the section is what it was when it was written.
    fn is_good(&mut self, section: &Section<'_>, base: u64) -> bool {
        if !section.intact {
            let name = section.header.kind.name();
            let stored = section.header.crc32c;
            self.problem(
                base + section.offset,
                format_args!("section {name:?} is damaged (its crc32c was {stored:#010x})"),
            );
        }
        section.intact
    }

    /// A section of the file.
    fn take(&mut self, section: &Section<'_>) {
        let good = self.is_good(section, 0);
        let payload = section.payload;
        match section.header.kind {
            // Its own sections have checksums of their own.
            SectionKind::RECORD => {
                self.take_record(payload, section.offset + 16);
            }
            _ if !good => {}
            SectionKind::HOST => {
                self.host = self.head(section, 0).map(|(words, line)| (words, owned(line)));
            }
            SectionKind::STATE => self.state = self.head(section, 0).map(|(state, _)| state),
            SectionKind::PROGRAM_PATH => self.program_path = Some(owned(payload)),
            SectionKind::PROBE_NAMES => {
                self.names.extend(entries(payload).map(|entry| (entry.id, entry)));
            }
            SectionKind::QUEUE_IMAGE => {
                if let Some((head, rings)) = self.head(section, 0) {
                    self.images.push((head, rings.to_vec()));
                }
            }
            _ => {}
        }
    }

    /// A structure and what follows it.
    fn head<'a, T: zerocopy::FromBytes>(
        &mut self,
        section: &Section<'a>,
        base: u64,
    ) -> Option<(T, &'a [u8])> {
        match section.head() {
            Ok(found) => Some(found),
            Err(error) => {
                self.problem(base + section.offset, error);
                None
            }
        }
    }

    /// A slot that lies at `base`.
    fn take_record(&mut self, slot: &[u8], base: u64) {
        let header = match CrashHeader::parse_record(slot) {
            Ok(header) => header,
            Err(error) => return self.problem(base, error),
        };
        let mut record = Record::empty(header);
        let mut walk: Sections<'_> = header.sections(slot);
        for section in walk.by_ref() {
            if self.is_good(&section, base) {
                self.take_inner(&mut record, &section, base);
            }
        }
        if let Some(offset) = walk.damaged_at() {
            self.problem(base + offset, "a section of the record does not fit");
        }
        self.record = Some(record);
    }

    /// A section of the record.
    fn take_inner(&mut self, record: &mut Record, section: &Section<'_>, base: u64) {
        let payload = section.payload;
        match section.header.kind {
            SectionKind::MESSAGE => record.message = Some(owned(payload)),
            SectionKind::MISSING => record.missing.push(owned(payload)),
            SectionKind::PROBE => record.probes.extend(elements::<ProbeRecord>(payload)),
            SectionKind::METRICS => record.metrics.extend(elements::<MetricRecord>(payload)),
            SectionKind::QUEUES => record.queues.extend(elements::<QueueRecord>(payload)),
            SectionKind::LOCATION => {
                record.location = self.head(section, base).map(|(at, file)| (owned(file), at));
            }
            SectionKind::REGISTERS => record.registers = self.only(section, base),
            SectionKind::PROGRAM => record.program = self.only(section, base),
            SectionKind::CURRENT_TASK => record.current = self.only(section, base),
            SectionKind::CONTROLLER => {
                record.controllers.extend(self.only::<ControllerRecord>(section, base))
            }
            SectionKind::BACKTRACE => {
                let found = self.head(section, base);
                record.backtrace = found.map(|(head, rest)| (head, elements(rest).collect()));
            }
            SectionKind::TASKS => {
                let found = self.head(section, base);
                record.tasks = found.map(|(head, rest)| (head, elements(rest).collect()));
            }
            SectionKind::COMMANDS => {
                let found = self.head(section, base);
                record.commands.extend(found.map(|(head, rest)| (head, elements(rest).collect())));
            }
            // Of a newer writer.
            _ => {}
        }
    }

    fn only<T: zerocopy::FromBytes>(&mut self, section: &Section<'_>, base: u64) -> Option<T> {
        self.head(section, base).map(|(head, _)| head)
    }

    /// The rings of a queue pair.
    pub(crate) fn image(&self, controller: u32, qid: u16) -> Option<&(QueueImageHead, Vec<u8>)> {
        self.images
            .iter()
            .find(|(head, _)| u32::from(head.controller) == controller && head.qid == qid)
    }

    /// Ticks as nanoseconds, where the frequency is known.
    pub(crate) fn ns(&self, ticks: u64) -> Option<u64> {
        self.file.as_ref()?.ticks_to_ns(ticks)
    }
}

impl Record {
    pub(super) const fn empty(header: CrashHeader) -> Self {
        Self {
            header,
            message: None,
            location: None,
            registers: None,
            program: None,
            backtrace: None,
            current: None,
            tasks: None,
            controllers: Vec::new(),
            queues: Vec::new(),
            commands: Vec::new(),
            metrics: Vec::new(),
            missing: Vec::new(),
            probes: Vec::new(),
        }
    }
}

fn owned(bytes: &[u8]) -> String {
    text(bytes).to_owned()
}

/// Where a record can be believed, searched by its magic.
fn find_record(file: &[u8]) -> Option<usize> {
    let magic = CRASH_MAGIC.to_le_bytes();
    let starts = (0..file.len()).filter(|at| file.get(*at..at + 8) == Some(&magic[..]));
    let mut good =
        starts.filter(|at| CrashHeader::parse_record(file.get(*at..).unwrap_or_default()).is_ok());
    good.next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dump::symbols::Symbols;
    use crate::dump::{json, text as printer};
    use proptest::prelude::*;

    const PANIC: &[u8] = include_bytes!("../../tests/dumps/panic.hycrash");
    const KILLED: &[u8] = include_bytes!("../../tests/dumps/killed.hycrash");
    const EVENTS: &[u8] = include_bytes!("../../tests/dumps/events.hycrash");

    /// Prints it both ways; what cannot be read must not end the program.
    fn printed(file: &[u8]) -> Option<Loaded> {
        let loaded = Loaded::parse(file).ok()?;
        let symbols = Symbols::None(String::new());
        let names = crate::trace::dictionary::Dictionary::new();
        assert!(printer::print(&loaded, &symbols, &names).contains(" died"));
        json::print(&loaded, &symbols, &names).expect("json");
        Some(loaded)
    }

    #[test]
    fn what_is_cut_off_is_told_and_the_rest_is_there() {
        for cut in 0..PANIC.len() {
            if cut > 4096 && cut % 97 != 0 {
                continue;
            }
            let Some(loaded) = printed(&PANIC[..cut]) else {
                assert!(cut < LINE_BYTES, "{cut} bytes are a dump");
                continue;
            };
            assert!(!loaded.problems.is_empty(), "{cut} bytes are not all");
        }
        assert!(printed(PANIC).expect("a dump").problems.is_empty());
        assert!(printed(KILLED).expect("a dump").problems.is_empty());
    }

    #[test]
    fn a_flipped_bit_costs_its_own_section_and_no_other() {
        let whole = printed(PANIC).expect("a dump");
        let record = whole.record.expect("a record");
        let message = record.message.expect("a message");
        let at = PANIC.windows(message.len()).position(|w| w == message.as_bytes()).expect("it");
        let mut file = PANIC.to_vec();
        file[at] ^= 1;
        let loaded = printed(&file).expect("a dump");
        let left = loaded.record.expect("a record");
        assert_eq!(left.message, None);
        assert_eq!(left.backtrace.map(|b| b.1), record.backtrace.map(|b| b.1));
        assert_eq!(left.metrics.len(), record.metrics.len());
        // The record's section in the file, and the message's in the record.
        let said: Vec<_> = loaded.problems.iter().map(|p| p.what.as_str()).collect();
        assert_eq!(said.len(), 2);
        assert!(said[0].starts_with("section \"record\" is damaged"), "{said:?}");
        assert!(said[1].starts_with("section \"message\" is damaged"), "{said:?}");
        assert_eq!(loaded.problems[1].offset, at as u64 - 16);
    }

    /// Where a section of that kind begins, from the start of the file or of what is in it.
    fn place_of(file: &[u8], kind: SectionKind) -> usize {
        let header = FileHeader::parse(file).expect("a header");
        let mut outer = header.sections(file);
        let found = outer.find_map(|section| {
            if section.header.kind == kind {
                return Some(section.offset);
            }
            let record = section.header.kind == SectionKind::RECORD;
            let inner = CrashHeader::parse_record(section.payload).ok().filter(|_| record)?;
            let mut inner = inner.sections(section.payload);
            let inside = inner.find(|inside| inside.header.kind == kind)?;
            Some(section.offset + 16 + inside.offset)
        });
        usize::try_from(found.expect("such a section")).expect("a small file")
    }

    #[test]
    fn damaged_events_cost_themselves_and_damaged_names_leave_them_without() {
        let whole = printed(EVENTS).expect("a dump");
        assert!(whole.problems.is_empty() && whole.names.len() > 5, "{:?}", whole.names.len());
        let record = whole.record.expect("a record");
        assert_eq!(record.probes.len(), 128);
        for (kind, problems) in [(SectionKind::PROBE, 2), (SectionKind::PROBE_NAMES, 1)] {
            let at = place_of(EVENTS, kind);
            let mut file = EVENTS.to_vec();
            // A byte of its payload.
            file[at + 16 + 40] ^= 0x10;
            let loaded = printed(&file).expect("a dump");
            assert_eq!(loaded.problems.len(), problems, "{:?}", loaded.problems);
            let last = loaded.problems.last().expect("one");
            assert_eq!(last.offset, at as u64);
            assert!(last.what.starts_with(&format!("section {:?} is damaged", kind.name())));
            let left = loaded.record.expect("a record");
            let events = if kind == SectionKind::PROBE { 0 } else { 128 };
            assert_eq!(left.probes.len(), events);
            assert_eq!(loaded.names.is_empty(), kind == SectionKind::PROBE_NAMES);
            assert_eq!(left.commands.len(), record.commands.len());
            assert_eq!(left.metrics.len(), record.metrics.len());
        }
    }

    #[test]
    fn a_record_behind_a_damaged_length_is_found() {
        let mut file = PANIC.to_vec();
        // The length of the first section.
        file[LINE_BYTES + 4..LINE_BYTES + 8].fill(0xFF);
        let loaded = printed(&file).expect("a dump");
        assert!(loaded.record.expect("a record").message.is_some());
        assert_eq!(loaded.problems[0].offset, LINE_BYTES as u64);
        let mut headless = PANIC.to_vec();
        headless[..LINE_BYTES].fill(0);
        assert!(printed(&headless).expect("a dump").record.is_some());
        assert!(Loaded::parse(b"not a dump").is_err());
    }

    #[test]
    fn a_newer_format_is_an_error_that_says_so() {
        let mut file = PANIC.to_vec();
        file[8] = 9;
        let error = Loaded::parse(&file).unwrap_err().to_string();
        assert_eq!(
            error,
            "crash dump has version 9, this program knows up to 1: use a newer program"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

        #[test]
        fn random_damage_never_ends_the_program(
            which in 0..3_usize,
            writes in proptest::collection::vec((any::<u32>(), any::<u8>()), 1..60),
        ) {
            let mut file = [PANIC, KILLED, EVENTS][which].to_vec();
            for (at, value) in writes {
                // Most of what matters stands in the first pages.
                let bound = if at % 4 == 0 { file.len() } else { 4096.min(file.len()) };
                let at = (at / 4) as usize % bound;
                file[at] = value;
            }
            let _ = printed(&file);
        }
    }
}
