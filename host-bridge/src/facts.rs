//! What machine this is: the lines that stand beside every figure.
//!
//! Read once at start, for reports and region headers. Whatever the machine does not say is `None`
//! or empty, and printed as `unknown`; nothing here can fail.

use std::fmt;
use std::path::Path;

use hybrid_abi::region::BUILD_ID_BYTES;
use hybrid_conventions::CpuSet;

use crate::topology::{Topology, free_huge_pages, read_line};

/// Facts that decide what a measured figure means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineFacts {
    /// The processor's name.
    pub cpu_model: String,
    /// CPUs that run.
    pub online: CpuSet,
    /// CPUs that this process may use.
    pub allowed: CpuSet,
    /// CPUs outside Linux's load balancing.
    pub isolated: CpuSet,
    /// CPUs without a tick.
    pub nohz_full: CpuSet,
    /// Whether cores share execution units.
    pub smt: bool,
    /// NUMA nodes seen.
    pub numa_nodes: usize,
    /// The governor of the first CPU that has one.
    pub governor: Option<String>,
    /// Kernel release.
    pub kernel: String,
    /// Whether a hypervisor is below us.
    pub hypervisor: bool,
    /// The clock source that Linux trusts; not `tsc` means that it found the counter unstable.
    pub clock_source: Option<String>,
    /// The chosen mode of transparent huge pages.
    pub thp: Option<String>,
    /// 2 MiB pages: in the pool, and free.
    pub huge_2m: Option<(u64, u64)>,
    /// 1 GiB pages: in the pool, and free.
    pub huge_1g: Option<(u64, u64)>,
}

impl MachineFacts {
    /// Reads this machine.
    #[must_use]
    pub fn read(topology: &Topology) -> Self {
        Self::read_from(Path::new("/"), topology)
    }

    /// Reads the machine below `root`.
    #[must_use]
    pub fn read_from(root: &Path, topology: &Topology) -> Self {
        let line = |path: &str| read_line(&root.join(path));
        let cpuinfo = std::fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default();
        let field = |name| cpuinfo_field(&cpuinfo, name);
        let mut nodes: Vec<u32> = topology.cpus.iter().filter_map(|cpu| cpu.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        Self {
            cpu_model: field("model name").unwrap_or("unknown").to_owned(),
            online: topology.online,
            allowed: topology.allowed,
            isolated: topology.isolated,
            nohz_full: topology.nohz_full,
            smt: topology.cpus.iter().any(|cpu| cpu.siblings.len() > 1),
            numa_nodes: nodes.len().max(1),
            governor: topology.cpus.iter().find_map(|cpu| cpu.governor.clone()),
            kernel: line("proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".into()),
            hypervisor: field("flags")
                .is_some_and(|flags| flags.split_ascii_whitespace().any(|f| f == "hypervisor")),
            clock_source: line("sys/devices/system/clocksource/clocksource0/current_clocksource"),
            thp: line("sys/kernel/mm/transparent_hugepage/enabled").and_then(|l| chosen(&l)),
            huge_2m: pool(root, 2 << 20),
            huge_1g: pool(root, 1 << 30),
        }
    }
}

impl fmt::Display for MachineFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = |set: &CpuSet| {
            if set.is_empty() { "none".to_owned() } else { set.to_string() }
        };
        write!(f, "{}, cpus {}", self.cpu_model, self.online)?;
        if self.allowed != self.online {
            write!(f, " (allowed {})", self.allowed)?;
        }
        write!(f, ", isolated {}", set(&self.isolated))?;
        write!(f, ", nohz_full {}", set(&self.nohz_full))?;
        write!(f, ", governor {}", self.governor.as_deref().unwrap_or("unknown"))?;
        write!(f, ", kernel {}", self.kernel)?;
        if self.hypervisor {
            f.write_str(", virtual machine")?;
        }
        if let Some((all, free)) = self.huge_2m {
            write!(f, ", 2 MiB pages {all} ({free} free)")?;
        }
        write!(f, ", thp {}", self.thp.as_deref().unwrap_or("unknown"))
    }
}

fn cpuinfo_field<'a>(cpuinfo: &'a str, name: &str) -> Option<&'a str> {
    cpuinfo.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

/// `always [madvise] never` is `madvise`.
fn chosen(line: &str) -> Option<String> {
    let (_, rest) = line.split_once('[')?;
    let (word, _) = rest.split_once(']')?;
    Some(word.to_owned())
}

fn pool(root: &Path, page_bytes: usize) -> Option<(u64, u64)> {
    let dir = root.join(format!("sys/kernel/mm/hugepages/hugepages-{}kB", page_bytes >> 10));
    let all = read_line(&dir.join("nr_hugepages"))?.parse().ok()?;
    Some((all, free_huge_pages(root, page_bytes, None)?))
}

/// The kernel's boot id as 16 bytes: regions of an earlier boot are recognised by it. Zero where
/// the kernel does not say.
#[must_use]
pub fn boot_id() -> [u8; 16] {
    read_line(Path::new("/proc/sys/kernel/random/boot_id"))
        .and_then(|text| parse_uuid(&text))
        .unwrap_or_default()
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let mut digits = text.chars().filter(|c| *c != '-');
    let mut bytes = [0; 16];
    for byte in &mut bytes {
        let high = digits.next()?.to_digit(16)?;
        let low = digits.next()?.to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    digits.next().is_none().then_some(bytes)
}

/// Names this build in region headers and dumps, so that a dump is never explained with another
/// program's symbols: the build id that the linker wrote, or a hash if it wrote none. Zero if the
/// file cannot be read.
#[must_use]
pub fn build_id() -> [u8; BUILD_ID_BYTES] {
    use std::io::Read;
    let mut head = Vec::new();
    let program = std::fs::File::open("/proc/self/exe");
    // The ELF header, the program headers and the notes are in the first pages.
    if program.and_then(|file| file.take(HEAD_BYTES).read_to_end(&mut head)).is_err() {
        return [0; BUILD_ID_BYTES];
    }
    linkers_build_id(&head).unwrap_or_else(|| {
        let mut id = [0; BUILD_ID_BYTES];
        id[..8].copy_from_slice(&hash_of_program(&head).to_le_bytes());
        id
    })
}

/// What is read of the program file.
const HEAD_BYTES: u64 = 64 << 10;

/// The note `NT_GNU_BUILD_ID` of a 64-bit ELF file of which `head` is the start.
fn linkers_build_id(head: &[u8]) -> Option<[u8; BUILD_ID_BYTES]> {
    const PT_NOTE: u32 = 4;
    const NT_GNU_BUILD_ID: u32 = 3;
    let word = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
    let long = |at: usize| {
        usize::try_from(u64::from_le_bytes(head.get(at..at.checked_add(8)?)?.try_into().ok()?)).ok()
    };
    let half = |at: usize| Some(u16::from_le_bytes(head.get(at..at + 2)?.try_into().ok()?));
    // Magic, 64 bits, little-endian.
    if head.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (headers, size, count) = (long(0x20)?, half(0x36)?, half(0x38)?);
    for header in (0..usize::from(count)).map(|n| headers.saturating_add(n * usize::from(size))) {
        if header >= head.len() || word(header)? != PT_NOTE {
            continue;
        }
        let (mut at, len) = (long(header + 0x08)?, long(header + 0x20)?);
        let end = at.checked_add(len)?.min(head.len());
        while at.checked_add(12).is_some_and(|next| next <= end) {
            let (name, desc, kind) = (word(at)? as usize, word(at + 4)? as usize, word(at + 8)?);
            let body = at + 12 + name.next_multiple_of(4);
            let owner = head.get(at + 12..at + 12 + name)?;
            if (owner, kind) == (&b"GNU\0"[..], NT_GNU_BUILD_ID) && desc <= BUILD_ID_BYTES {
                let mut id = [0; BUILD_ID_BYTES];
                id[..desc].copy_from_slice(head.get(body..body + desc)?);
                return Some(id);
            }
            at = body + desc.next_multiple_of(4);
        }
    }
    None
}

/// For programs without a note: length and time of change tell rebuilds apart.
fn hash_of_program(head: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let hash = || -> std::io::Result<u64> {
        let metadata = std::fs::metadata("/proc/self/exe")?;
        let mut hasher = DefaultHasher::new();
        hasher.write(head);
        hasher.write_u64(metadata.len());
        let modified = metadata.modified()?.duration_since(std::time::UNIX_EPOCH);
        hasher.write_u128(modified.map_or(0, |since| since.as_nanos()));
        Ok(hasher.finish())
    };
    hash().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn facts_are_read_from_the_kernels_files() {
        let root = TempDir::new("facts");
        let flags = "flags\t\t: fpu tsc hypervisor\n";
        root.write("proc/cpuinfo", &format!("model name\t: A Processor\n{flags}"));
        root.write("proc/sys/kernel/osrelease", "6.1.0-test\n");
        root.write("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
        root.write("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "512\n");
        root.write("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "500\n");
        root.write("sys/devices/system/cpu/online", "0-1\n");
        let topology = Topology::read_from(root.path(), "1".parse().expect("a set"));
        let facts = MachineFacts::read_from(root.path(), &topology);
        assert!(facts.hypervisor);
        assert_eq!(
            facts.to_string(),
            "A Processor, cpus 0-1 (allowed 1), isolated none, nohz_full none, governor unknown, \
             kernel 6.1.0-test, virtual machine, 2 MiB pages 512 (500 free), thp madvise"
        );
    }

    #[test]
    fn the_linkers_build_id_is_found_where_it_is_and_nowhere_else() {
        let program = std::fs::read("/proc/self/exe").expect("this program");
        let id = linkers_build_id(&program).expect("our builds have one");
        assert_eq!(build_id(), id);
        for cut in [0, 5, 64, 200, 1000] {
            let _ = linkers_build_id(&program[..cut]);
        }
        let mut wild = program[..4096].to_vec();
        for at in 0..4096 {
            let before = std::mem::replace(&mut wild[at], 0xFF);
            let _ = linkers_build_id(&wild);
            wild[at] = before;
        }
        assert_eq!(linkers_build_id(b"#!/bin/sh\n"), None);
    }

    #[test]
    fn odd_boot_ids_are_refused() {
        let good = "308264ce-f4a5-484e-8ac7-c29ccb0bfe7a";
        assert_eq!(parse_uuid(good).map(|id| id[0]), Some(0x30));
        assert_eq!(parse_uuid(&good[1..]), None);
        assert_eq!(parse_uuid(&format!("{good}0")), None);
        assert_eq!(parse_uuid("not a boot id"), None);
        assert_ne!(boot_id(), [0; 16]);
    }
}
