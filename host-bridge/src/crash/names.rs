//! What the probe events of a record are called, for the dump: it is read where the program is not.

use std::collections::BTreeSet;
use std::path::Path;

use hybrid_abi::crash::file::FileHeader;
use hybrid_abi::crash::{CrashHeader, SectionKind, Sections, elements};
use hybrid_abi::probe::{ProbeRecord, entries};
use zerocopy::IntoBytes;

use crate::facts::build_id;
use crate::probes::dictionary;

/// The dictionary's entries of the events in `record`; `None` without any, or if the partition ran
/// another build than this very program.
pub(super) fn of(record: &[u8], file: &FileHeader) -> Option<Vec<u8>> {
    let header = CrashHeader::parse_record(record).ok()?;
    let sections: Sections<'_> = header.sections(record);
    let events = sections.filter(|s| s.intact && s.header.kind == SectionKind::PROBE);
    let used: BTreeSet<u32> = events
        .flat_map(|section| elements::<ProbeRecord>(section.payload).map(|event| event.id))
        .collect();
    if used.is_empty() || file.build_id != build_id() {
        return None;
    }
    let all = dictionary(Path::new("/proc/self/exe")).ok()?;
    let wanted = entries(&all).filter(|entry| used.contains(&entry.id));
    let names: Vec<u8> = wanted.flat_map(|entry| entry.as_bytes().to_vec()).collect();
    (!names.is_empty()).then_some(names)
}
