//! Reads a dump file back, by the layouts alone: is it whole, and does it say what happened?

use std::path::Path;

use hybrid_abi::crash::file::{FileHeader, HOST_FENCED, HostWords};
use hybrid_abi::crash::program::CurrentTask;
use hybrid_abi::crash::{
    CRASH_COMPLETE, CrashHeader, REASON_ASKED, Section, SectionKind, reason_name, text,
};

use crate::kind::Kind;

/// What is wanted of it further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    /// When its partition began to die, by its own clock; 0 where the host composed it.
    pub(crate) tsc: u64,
    pub(crate) bytes: usize,
}

/// Checks the dump at `path` of an incarnation that died of `kind`.
pub(crate) fn check(path: &Path, kind: Kind, incarnation: u64) -> Result<Read, String> {
    let file = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    check_bytes(&file, kind, incarnation).map_err(|why| format!("{}: {why}", path.display()))
}

fn check_bytes(file: &[u8], kind: Kind, incarnation: u64) -> Result<Read, String> {
    let header = FileHeader::parse(file).map_err(|error| error.to_string())?;
    if header.file_bytes != file.len() as u64 {
        return Err(format!("{} bytes of {}", file.len(), header.file_bytes));
    }
    if header.incarnation != incarnation {
        return Err(format!("it is of incarnation {}", header.incarnation));
    }
    let sections = intact(header.sections(file))?;
    let record = find(&sections, SectionKind::RECORD).ok_or("no record in it")?;
    let words = find(&sections, SectionKind::HOST).ok_or("no words of the host in it")?;
    let (host, _) = words.head::<HostWords>().map_err(|error| error.to_string())?;
    if host.flags & HOST_FENCED == 0 {
        return Err("it was read before the fence".to_owned());
    }
    let slot = CrashHeader::parse_record(record.payload).map_err(|error| error.to_string())?;
    if slot.state != CRASH_COMPLETE {
        return Err(format!("its record is in state {}, not complete", slot.state));
    }
    if slot.reason != kind.reason() {
        let (is, should) = (reason_name(slot.reason), reason_name(kind.reason()));
        return Err(format!("its reason is {is}, not {should}"));
    }
    let inner = intact(slot.sections(record.payload))?;
    let message = find(&inner, SectionKind::MESSAGE).map_or("", |section| text(section.payload));
    if !message.contains(kind.word()) {
        return Err(format!("its message is {message:?}, without {:?}", kind.word()));
    }
    if find(&inner, SectionKind::METRICS).is_none() {
        return Err("no metrics in it".to_owned());
    }
    if !kind.is_from_outside() {
        has_its_task(&inner)?;
        wants(&inner, SectionKind::BACKTRACE)?;
        wants(&inner, SectionKind::COMMANDS)?;
        wants(&inner, SectionKind::TASKS)?;
    }
    if matches!(kind, Kind::Pointer | Kind::Illegal | Kind::StackOverflow) {
        wants(&inner, SectionKind::REGISTERS)?;
    }
    let tsc = if kind.is_from_outside() || slot.reason == REASON_ASKED { 0 } else { slot.tsc };
    Ok(Read { tsc, bytes: file.len() })
}

fn wants(sections: &[Section<'_>], kind: SectionKind) -> Result<(), String> {
    match find(sections, kind) {
        Some(_) => Ok(()),
        None => Err(format!("no section {} in it", kind.name())),
    }
}

fn has_its_task(sections: &[Section<'_>]) -> Result<(), String> {
    let section = find(sections, SectionKind::CURRENT_TASK).ok_or("no current task in it")?;
    let (current, _) = section.head::<CurrentTask>().map_err(|error| error.to_string())?;
    match (current.task, current.name.as_str()) {
        (1.., "write") => Ok(()),
        (task, name) => Err(format!("it was polling task {task} {name:?}, not a writer")),
    }
}

fn intact<'a>(sections: hybrid_abi::crash::Sections<'a>) -> Result<Vec<Section<'a>>, String> {
    let all: Vec<_> = sections.collect();
    match all.iter().find(|section| !section.intact) {
        Some(torn) => Err(format!("section {} is torn", torn.header.kind.name())),
        None => Ok(all),
    }
}

fn find<'a>(sections: &[Section<'a>], kind: SectionKind) -> Option<Section<'a>> {
    sections.iter().find(|section| section.header.kind == kind).copied()
}
