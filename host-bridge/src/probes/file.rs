//! Writing a trace file ([`hybrid_abi::probe::file`]).

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use hybrid_abi::probe::ProbeRecord;
use hybrid_abi::probe::dictionary::section_of;
use hybrid_abi::probe::file::{ChunkHeader, ChunkKind, RecordsHead, TraceEnd, TraceHeader};
use hybrid_abi::probe::view::Seen;
use hybrid_abi::region::RegionHeader;
use zerocopy::IntoBytes;

/// Longest dictionary that is believed: thousands of probes.
const DICTIONARY_MAX: u64 = 1 << 20;

/// Where records come from: what the header and the first chunks say.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The partition's name.
    pub name: String,
    /// Header of its region.
    pub region: RegionHeader,
    /// The program's file, for its dictionary.
    pub program: PathBuf,
}

/// A trace file that is being written.
#[derive(Debug)]
pub struct TraceFile {
    out: BufWriter<File>,
    end: TraceEnd,
}

impl TraceFile {
    /// Begins a file: header, dictionary, the program's path. `header` has what is particular to
    /// this file; the rest comes from `origin`.
    ///
    /// # Errors
    /// If the file can't be made, or the program's can't be read.
    pub fn begin(path: &Path, origin: &Origin, header: TraceHeader) -> io::Result<Self> {
        let header = header.of(&origin.region, &origin.name);
        let dictionary = dictionary(&origin.program)?;
        let out = BufWriter::with_capacity(1 << 18, File::create(path)?);
        let end = TraceEnd { records: 0, lost: 0, dropped: 0, tsc: 0 };
        let mut file = Self { out, end };
        file.out.write_all(header.sealed().as_bytes())?;
        file.chunk(ChunkKind::DICTIONARY, &dictionary)?;
        let program = std::fs::read_link(&origin.program).unwrap_or(origin.program.clone());
        file.chunk(ChunkKind::PROGRAM_PATH, program.to_string_lossy().as_bytes())?;
        Ok(file)
    }

    /// The names of tasks as they are now.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn task_names(&mut self, names: &[u8]) -> io::Result<()> {
        self.chunk(ChunkKind::TASK_NAMES, names)
    }

    /// What one look gave.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn records(&mut self, seen: Seen, records: &[ProbeRecord]) -> io::Result<()> {
        if seen.count == 0 && seen.lost == 0 {
            return Ok(());
        }
        let head = RecordsHead { first: seen.first, lost: seen.lost };
        let records = records.get(..seen.count).unwrap_or_default();
        let payload = [head.as_bytes(), records.as_bytes()].concat();
        self.end.records += seen.count as u64;
        self.end.lost += seen.lost;
        self.chunk(ChunkKind::RECORDS, &payload)
    }

    /// Ends the file; what is not ended is read all the same, and said to be cut short.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn end(mut self, dropped: u64, tsc: u64) -> io::Result<TraceEnd> {
        let end = TraceEnd { dropped, tsc, ..self.end };
        self.chunk(ChunkKind::END, end.as_bytes())?;
        self.out.flush()?;
        Ok(end)
    }

    fn chunk(&mut self, kind: ChunkKind, payload: &[u8]) -> io::Result<()> {
        let header = ChunkHeader::of(kind, payload);
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(payload)?;
        let padding = header.padded() - payload.len();
        self.out.write_all([0; 8].get(..padding).unwrap_or_default())
    }
}

/// The dictionary of a program's file; empty where it has none.
pub(crate) fn dictionary(program: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(program)?;
    let mut read = |at: u64, into: &mut [u8]| file.read_exact_at(into, at).is_ok();
    let Some((offset, len)) = section_of(&mut read) else { return Ok(Vec::new()) };
    let mut bytes = vec![0; usize::try_from(len.min(DICTIONARY_MAX)).unwrap_or(0)];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}
