//! A crash record as an ELF core file, so that gdb and its friends show where it was.
//!
//! A record has registers and a backtrace of the dead program, but none of its memory. gdb finds
//! callers by frame pointers, which our builds keep; so the core holds a frame for each address of
//! the backtrace, and nothing else: the two words that a function leaves at its frame pointer, far
//! from the next ones. A local variable can't be read then, rather than be something that it was
//! not. RBP and RSP belong to these frames; the other registers are the record's, or a pattern
//! where it has none, as after a panic.
//!
//! Layout: System V ABI, x86-64; notes as Linux writes them (`elf_prstatus`, `elf_prpsinfo`).

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use hybrid_abi::crash::program::Registers;

use super::loaded::{Loaded, Record};
use super::symbols::{Found, Symbols};

/// Where the frames lie: far below any program and library of Linux's that can lie anywhere, and
/// far above one that can not.
const FRAMES: u64 = 0x2000_0000_0000;
const STRIDE: u64 = 1 << 20;

/// What a record without registers has in their place: nothing that anyone takes for a value.
const UNKNOWN: u64 = 0xBAD0_BAD0_BAD0_BAD0;
const UNKNOWN_REGISTERS: Registers = Registers {
    rax: UNKNOWN,
    rbx: UNKNOWN,
    rcx: UNKNOWN,
    rdx: UNKNOWN,
    rsi: UNKNOWN,
    rdi: UNKNOWN,
    rbp: UNKNOWN,
    rsp: UNKNOWN,
    r8_r15: [UNKNOWN; 8],
    rip: UNKNOWN,
    rflags: 0x202,
    fault_address: 0,
    error_code: 0,
    signal: 0,
    code: 0,
    trap: 0,
    known: 0,
    syscall: 0,
    syscall_args: [0; 6],
    reserved: [0; 3],
};

const FILE_HEADER_BYTES: u64 = 64;
const PROGRAM_HEADER_BYTES: u64 = 56;

/// Types of notes and of program headers.
const NT_PRSTATUS: u32 = 1;
const NT_PRPSINFO: u32 = 3;
const NT_AUXV: u32 = 6;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const PF_R: u32 = 4;

/// Entries of the auxiliary vector.
const AT_PAGESZ: u64 = 6;
const AT_ENTRY: u64 = 9;

/// Little-endian bytes, one after the other.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn u16(&mut self, values: &[u16]) -> &mut Self {
        self.0.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self
    }

    fn u32(&mut self, values: &[u32]) -> &mut Self {
        self.0.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self
    }

    fn u64(&mut self, values: &[u64]) -> &mut Self {
        self.0.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self
    }

    /// Text, cut or filled up with zeros to `len`; the last byte is zero.
    fn text(&mut self, text: &str, len: usize) -> &mut Self {
        let end = self.0.len() + len;
        self.0.extend(text.bytes().take(len - 1));
        self.0.resize(end, 0);
        self
    }

    fn note(&mut self, kind: u32, payload: &Self) -> &mut Self {
        let len = u32::try_from(payload.0.len()).unwrap_or(0);
        self.u32(&[5, len, kind]).text("CORE", 8);
        self.0.extend(&payload.0);
        self
    }
}

/// Writes the core of the program that died.
///
/// # Errors
/// If the record has no backtrace, the program is not at hand, or the file can't be written.
pub(super) fn write(loaded: &Loaded, symbols: &Symbols, path: &Path) -> Result<()> {
    let record = loaded.record.as_ref().context("the dump has no record")?;
    let found = match symbols {
        Symbols::Found(found) => found,
        Symbols::None(why) => bail!("a core needs the program that died: {why}"),
    };
    let Some((_, addresses)) = record.backtrace.as_ref().filter(|(_, all)| !all.is_empty()) else {
        bail!("the record has no backtrace, of which a core could be made");
    };
    let file = core(loaded, record, found, addresses);
    std::fs::write(path, file).with_context(|| format!("writing {}", path.display()))?;
    let (program, path) = (found.path.display(), path.display());
    eprintln!("{path} has registers and the backtrace's frames; `gdb {program} {path}`, then `bt`");
    Ok(())
}

fn core(loaded: &Loaded, record: &Record, found: &Found, addresses: &[u64]) -> Vec<u8> {
    let mut notes = Bytes::default();
    notes.note(NT_PRSTATUS, &status(loaded, record, addresses[0]));
    notes.note(NT_PRPSINFO, &process(loaded, record, found));
    let mut auxiliary = Bytes::default();
    auxiliary.u64(&[AT_PAGESZ, 4096, AT_ENTRY, found.in_memory(found.entry), 0, 0]);
    notes.note(NT_AUXV, &auxiliary);

    let headers = 1 + addresses.len() as u64;
    let notes_at = FILE_HEADER_BYTES + headers * PROGRAM_HEADER_BYTES;
    let frames_at = notes_at + notes.0.len() as u64;
    let mut file = Bytes::default();
    // 64 bits, little-endian, version 1, System V; a core file of x86-64.
    file.0.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.u16(&[4, 62]).u32(&[1]).u64(&[0, FILE_HEADER_BYTES, 0]).u32(&[0]);
    let count = u16::try_from(headers).unwrap_or(u16::MAX);
    file.u16(&[64, 56, count, 0, 0, 0]);
    let notes_len = notes.0.len() as u64;
    file.u32(&[PT_NOTE, 0]).u64(&[notes_at, 0, 0, notes_len, 0, 4]);
    for (index, frame) in (0..).zip(frames(addresses.len())) {
        file.u32(&[PT_LOAD, PF_R]).u64(&[frames_at + 16 * index, frame, 0, 16, 16, 1]);
    }
    file.0.extend(&notes.0);
    let callers = addresses.iter().skip(1).copied().chain([0]);
    let above = frames(addresses.len()).skip(1).chain([0]);
    for (frame, caller) in above.zip(callers) {
        file.u64(&[frame, caller]);
    }
    file.0
}

/// Where the frame of each address is.
fn frames(count: usize) -> impl Iterator<Item = u64> {
    (0..count as u64).map(|index| FRAMES + index * STRIDE)
}

/// `struct elf_prstatus`: the signal, whose it was, and the registers as `struct user_regs_struct`
/// has them.
fn status(loaded: &Loaded, record: &Record, first: u64) -> Bytes {
    let registers = record.registers.unwrap_or(UNKNOWN_REGISTERS);
    let Registers { rax, rbx, rcx, rdx, rsi, rdi, rflags, signal, .. } = registers;
    let [r8, r9, r10, r11, r12, r13, r14, r15] = registers.r8_r15;
    let mut status = Bytes::default();
    let short = u16::try_from(signal).unwrap_or(0);
    status.u32(&[signal, 0, 0]).u16(&[short, 0]).u64(&[0, 0]);
    status.u32(&[pid(loaded), 0, 0, 0]).u64(&[0; 8]);
    status.u64(&[r15, r14, r13, r12, FRAMES, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi]);
    // No system call; the selectors of a 64-bit program of Linux's.
    status.u64(&[u64::MAX, first, 0x33, rflags, FRAMES, 0x2B, 0, 0, 0, 0, 0, 0]);
    status.u32(&[0, 0]);
    status
}

/// `struct elf_prpsinfo`: which program, and what gdb says that made the core.
fn process(loaded: &Loaded, record: &Record, found: &Found) -> Bytes {
    let name = found.path.file_name().unwrap_or_default().to_string_lossy();
    let partition = loaded.file.map_or(0, |file| file.partition);
    let message = record.message.as_deref().unwrap_or("a partition died");
    let mut process = Bytes::default();
    process.u64(&[0, 0]).u32(&[0, 0, pid(loaded), 0, 0, 0]);
    process.text(&name, 16).text(&format!("partition {partition}: {message}"), 80);
    process
}

fn pid(loaded: &Loaded) -> u32 {
    loaded.host.as_ref().map_or(1, |(host, _)| host.pid)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use hybrid_abi::crash::program::{BACKTRACE_ROOT, BacktraceHead, Program};
    use hybrid_abi::crash::{CrashHeader, REASON_PANIC};
    use hybrid_conventions::testing::skipped;
    use object::{Object as _, ObjectSegment as _};
    use zerocopy::FromZeros as _;

    use super::*;

    #[inline(never)]
    fn innermost(n: u64) -> u64 {
        std::hint::black_box(n) + 1
    }

    #[inline(never)]
    fn between(n: u64) -> u64 {
        innermost(std::hint::black_box(n)) * 2
    }

    #[inline(never)]
    fn outermost(n: u64) -> u64 {
        between(std::hint::black_box(n)) * 3
    }

    /// Behind a function's prologue: its frame is there.
    const BEHIND: u64 = 8;

    /// A record of this very program.
    fn dump() -> (Loaded, Symbols) {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
        let own = std::env::current_exe().expect("this program");
        let own = own.to_str().expect("a path");
        let line = maps.lines().find(|line| line.ends_with(own)).expect("its first mapping");
        let load_base = u64::from_str_radix(line.split('-').next().expect("a start"), 16);
        let bytes = std::fs::read(own).expect("this program");
        let id = object::File::parse(&*bytes).expect("an ELF").build_id().expect("notes");
        let mut build_id = [0; 20];
        build_id.copy_from_slice(id.expect("a build id"));
        let program = Program { build_id, reserved: 0, load_base: load_base.expect("hexadecimal") };
        let functions: [fn(u64) -> u64; 3] = [innermost, between, outermost];
        let addresses = functions.map(|function| function as usize as u64 + BEHIND).to_vec();
        let head = BacktraceHead { end: BACKTRACE_ROOT, reserved: 0 };
        let header = CrashHeader { reason: REASON_PANIC, ..CrashHeader::new_zeroed() };
        let record = Record {
            program: Some(program),
            backtrace: Some((head, addresses)),
            message: Some("block 7 is torn".to_owned()),
            ..Record::empty(header)
        };
        let program_path = Some(own.to_owned());
        let loaded = Loaded { record: Some(record), program_path, ..Loaded::default() };
        let symbols = Symbols::find(&loaded, None).expect("it may be missing");
        (loaded, symbols)
    }

    #[test]
    fn gdb_shows_the_backtrace_of_a_record() {
        assert_eq!(outermost(1), 12);
        let (loaded, symbols) = dump();
        let path = std::env::temp_dir().join(format!("probe-util-{}.core", std::process::id()));
        write(&loaded, &symbols, &path).expect("a core");
        let bytes = std::fs::read(&path).expect("it was written");
        let core = object::File::parse(&*bytes).expect("an ELF");
        assert_eq!(core.kind(), object::ObjectKind::Core);
        assert_eq!(core.segments().map(|segment| segment.size()).collect::<Vec<_>>(), [16; 3]);
        let own = std::env::current_exe().expect("this program");
        let gdb = Command::new("gdb")
            .args(["-nx", "-batch", "-ex", "bt", "-ex", "info proc"])
            .args([&own, &path])
            .output();
        std::fs::remove_file(&path).expect("it was there");
        let Ok(gdb) = gdb else {
            return skipped("gdb_shows_the_backtrace_of_a_record", "no gdb");
        };
        let said = String::from_utf8_lossy(&gdb.stdout);
        let mut frames = said.lines().filter(|line| line.starts_with('#'));
        for name in ["innermost", "between", "outermost"] {
            // What was inlined there has a line of its own.
            let wanted = format!("dump::core::tests::{name}");
            assert!(frames.any(|line| line.contains(&wanted)), "{name}: {said}");
        }
        assert!(said.contains("block 7 is torn"), "{said}");
    }

    #[test]
    fn without_a_backtrace_or_the_program_there_is_no_core() {
        let (mut loaded, symbols) = dump();
        let nowhere = Path::new("/nonexistent/core");
        let said = |loaded: &Loaded, symbols: &Symbols| {
            write(loaded, symbols, nowhere).expect_err("no core").to_string()
        };
        assert_eq!(said(&loaded, &symbols), "writing /nonexistent/core");
        let none = Symbols::None("nobody knows".to_owned());
        assert_eq!(said(&loaded, &none), "a core needs the program that died: nobody knows");
        loaded.record.as_mut().expect("it").backtrace = None;
        assert!(said(&loaded, &symbols).contains("no backtrace"));
    }
}
