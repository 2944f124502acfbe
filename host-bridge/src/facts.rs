//! What machine this is: the lines that stand beside every figure.
//!
//! Read once at start, for reports and region headers. Whatever the machine does not say is `None`
//! or empty, and printed as `unknown`; nothing here can fail.

use std::fmt;
use std::path::Path;

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

/// Names this build in region headers and dumps: a hash over the program file, so that a dump is
/// never explained with another program's symbols. Zero if the file cannot be read.
#[must_use]
pub fn build_id() -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    use std::io::Read;
    let hash = || -> std::io::Result<u64> {
        let mut file = std::fs::File::open("/proc/self/exe")?;
        // The ELF header and the notes (with the linker's own build id, where it writes one) are in
        // the first pages; length and time of change tell rebuilds apart that these do not.
        let mut head = [0; 4096];
        let read = file.read(&mut head)?;
        let metadata = file.metadata()?;
        let mut hasher = DefaultHasher::new();
        hasher.write(&head[..read]);
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
    fn odd_boot_ids_are_refused() {
        let good = "308264ce-f4a5-484e-8ac7-c29ccb0bfe7a";
        assert_eq!(parse_uuid(good).map(|id| id[0]), Some(0x30));
        assert_eq!(parse_uuid(&good[1..]), None);
        assert_eq!(parse_uuid(&format!("{good}0")), None);
        assert_eq!(parse_uuid("not a boot id"), None);
        assert_ne!(boot_id(), [0; 16]);
    }
}
