//! A dictionary from a program's file, bound to its build id.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use hybrid_abi::probe::dictionary::section_of;
use hybrid_abi::probe::{ProbeEntry, entries};
use object::{Object as _, ReadCache};

use super::loaded::Loaded;

/// By identifier.
pub(crate) type Dictionary = HashMap<u32, ProbeEntry>;

/// Longest section that is believed.
const SECTION_MAX: u64 = 1 << 20;

/// The section's bytes, as a trace file holds them.
///
/// # Errors
/// If the file can't be read, or has no dictionary.
pub(crate) fn section(program: &Path) -> Result<Vec<u8>> {
    let shown = program.display();
    let file = File::open(program).with_context(|| format!("reading {shown}"))?;
    let mut read = |at: u64, into: &mut [u8]| file.read_exact_at(into, at).is_ok();
    let Some((offset, len)) = section_of(&mut read) else {
        bail!("{shown} has no dictionary of probes: it is not one of our programs, or too old");
    };
    let mut bytes = vec![0; usize::try_from(len.min(SECTION_MAX))?];
    file.read_exact_at(&mut bytes, offset).with_context(|| format!("reading {shown}"))?;
    Ok(bytes)
}

/// The build id of a program's file, as far as it has one.
///
/// # Errors
/// If it can't be read.
pub(super) fn build_id(program: &Path) -> Result<Vec<u8>> {
    let shown = program.display();
    let file = File::open(program).with_context(|| format!("reading {shown}"))?;
    let cache = ReadCache::new(file);
    let parsed = object::File::parse(&cache).with_context(|| format!("{shown} is no program"))?;
    let id = parsed.build_id().with_context(|| format!("reading {shown}"))?;
    Ok(id.unwrap_or_default().to_vec())
}

/// Whether an identifier of a region or file names that build.
pub(super) fn is_build(id: &[u8], padded: &[u8]) -> bool {
    let (start, rest) = padded.split_at_checked(id.len()).unwrap_or((padded, &[]));
    !id.is_empty() && start == id && rest.iter().all(|byte| *byte == 0)
}

/// In hexadecimal.
pub(super) fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The dictionary of a program, if it is that build.
///
/// # Errors
/// If it can't be read, or is another build.
pub(crate) fn of_build(program: &Path, wanted: &[u8]) -> Result<Dictionary> {
    if !is_build(&build_id(program)?, wanted) {
        bail!("{} is another build", program.display());
    }
    Ok(entries(&section(program)?).map(|entry| (entry.id, entry)).collect())
}

/// The dictionary of the program that wrote a trace.
///
/// # Errors
/// If it is another build.
pub(super) fn of_program(program: &Path, loaded: &Loaded) -> Result<Dictionary> {
    let (found, wanted) = (build_id(program)?, &loaded.header.build_id);
    if !is_build(&found, wanted) {
        let at = loaded.program.as_deref().unwrap_or("an unknown path");
        bail!(
            "{} is build {}, the trace was written by build {}, from {at}; leave --binary out: the \
             trace carries its own dictionary (`readelf -n FILE` shows a program's build id)",
            program.display(),
            hex(&found),
            hex(wanted),
        );
    }
    Ok(entries(&section(program)?).map(|entry| (entry.id, entry)).collect())
}
