//! The processors of this machine, read from sysfs and procfs.
//!
//! Called at start by [`crate::runtime`] and for reports by [`crate::facts`]. The files are outside
//! bytes: one that is missing or odd becomes "unknown", never a panic. The root is a parameter, so
//! that tests bring a machine of their own.

use std::fs;
use std::path::{Path, PathBuf};

use hybrid_conventions::CpuSet;

use crate::affinity;

/// What is known of one CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Linux's number.
    pub id: u32,
    /// Its NUMA node, where the machine says.
    pub node: Option<u32>,
    /// The CPUs of the same core, itself included.
    pub siblings: CpuSet,
    /// The frequency governor, where there is one.
    pub governor: Option<String>,
}

/// The processors, and what Linux may do with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// CPUs that run.
    pub online: CpuSet,
    /// CPUs that this process may use: its affinity when it started, and those isolated ones that
    /// it can be moved to.
    pub allowed: CpuSet,
    /// CPUs outside Linux's load balancing (`isolcpus`).
    pub isolated: CpuSet,
    /// CPUs without a tick when one task runs (`nohz_full`).
    pub nohz_full: CpuSet,
    /// One entry an online CPU, by number.
    pub cpus: Vec<Cpu>,
}

impl Topology {
    /// Reads this machine and this process's allowance.
    #[must_use]
    pub fn read() -> Self {
        let mut topology = Self::read_from(Path::new("/"), affinity::allowed());
        topology.allowed = topology.allowed.union(affinity::reachable(topology.isolated));
        if topology.online.is_empty() {
            topology.online = topology.allowed;
        }
        topology
    }

    /// Reads the machine below `root`, for a process that may use `allowed`.
    #[must_use]
    pub fn read_from(root: &Path, allowed: CpuSet) -> Self {
        let cpu_dir = root.join("sys/devices/system/cpu");
        let online = read_set(&cpu_dir.join("online"));
        Self {
            online,
            allowed,
            isolated: read_set(&cpu_dir.join("isolated")),
            nohz_full: read_set(&cpu_dir.join("nohz_full")),
            cpus: online.iter().map(|id| read_cpu(&cpu_dir, id)).collect(),
        }
    }

    /// What is known of `cpu`.
    #[must_use]
    pub fn cpu(&self, id: u32) -> Option<&Cpu> {
        self.cpus.iter().find(|cpu| cpu.id == id)
    }

    /// The CPU to take when nobody named one: the last isolated one that is allowed, else the last
    /// allowed one. `None` on a machine with one CPU, which Linux needs for itself.
    #[must_use]
    pub fn suggested_core(&self) -> Option<u32> {
        if self.allowed.len() < 2 {
            return None;
        }
        let quiet = self.allowed.intersection(self.isolated).intersection(self.online);
        quiet.iter().last().or_else(|| self.allowed.intersection(self.online).iter().last())
    }
}

fn read_cpu(cpu_dir: &Path, id: u32) -> Cpu {
    let dir = cpu_dir.join(format!("cpu{id}"));
    let mut siblings = read_set(&dir.join("topology/thread_siblings_list"));
    let _ = siblings.insert(id);
    Cpu {
        id,
        node: node_of(&dir),
        siblings,
        governor: read_line(&dir.join("cpufreq/scaling_governor")),
    }
}

/// A CPU's directory holds a link `nodeN`.
fn node_of(dir: &Path) -> Option<u32> {
    fs::read_dir(dir).ok()?.flatten().find_map(|entry| {
        let name = entry.file_name();
        name.to_str()?.strip_prefix("node")?.parse().ok()
    })
}

/// A file's first line without its end; `None` if it is missing or empty.
pub(crate) fn read_line(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().next()?.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

/// A CPU list as the kernel prints it; empty, missing, `(null)` and odd files are the empty set.
pub(crate) fn read_set(path: &Path) -> CpuSet {
    read_line(path).and_then(|line| line.parse().ok()).unwrap_or(CpuSet::EMPTY)
}

/// Free pages of one huge size, on the machine or on one node.
#[must_use]
pub fn free_huge_pages(root: &Path, page_bytes: usize, node: Option<u32>) -> Option<u64> {
    let pool = format!("hugepages-{}kB/free_hugepages", page_bytes >> 10);
    let path: PathBuf = match node {
        None => root.join("sys/kernel/mm/hugepages").join(pool),
        Some(node) => root.join(format!("sys/devices/system/node/node{node}/hugepages")).join(pool),
    };
    read_line(&path)?.parse().ok()
}

/// A field of `/proc/meminfo` in bytes.
#[must_use]
pub fn meminfo_bytes(root: &Path, field: &str) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// A field of this process's `/proc/self/status`.
pub(crate) fn read_status(root: &Path, field: &str) -> Option<String> {
    let text = fs::read_to_string(root.join("proc/self/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn set(text: &str) -> CpuSet {
        text.parse().expect("a CPU set")
    }

    fn machine() -> TempDir {
        let dir = TempDir::new("topology");
        let cpu = "sys/devices/system/cpu";
        dir.write(&format!("{cpu}/online"), "0-3\n");
        dir.write(&format!("{cpu}/isolated"), "2-3\n");
        dir.write(&format!("{cpu}/nohz_full"), "(null)\n");
        for id in 0..4 {
            let pair = if id % 2 == 0 { "0,2" } else { "1,3" };
            dir.write(&format!("{cpu}/cpu{id}/topology/thread_siblings_list"), pair);
            dir.write(&format!("{cpu}/cpu{id}/node{}/x", id % 2), "");
        }
        dir.write(&format!("{cpu}/cpu3/cpufreq/scaling_governor"), "performance\n");
        dir.write("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "7\n");
        dir.write("proc/meminfo", "MemTotal:  100 kB\nMemAvailable:     64 kB\n");
        dir
    }

    #[test]
    fn a_machine_is_read_as_sysfs_describes_it() {
        let root = machine();
        let topology = Topology::read_from(root.path(), set("0-3"));
        assert_eq!(topology.online, set("0-3"));
        assert_eq!(topology.isolated, set("2-3"));
        assert_eq!(topology.nohz_full, CpuSet::EMPTY);
        let cpu = topology.cpu(3).expect("CPU 3");
        assert_eq!(cpu.node, Some(1));
        assert_eq!(cpu.siblings, set("1,3"));
        assert_eq!(cpu.governor.as_deref(), Some("performance"));
        assert_eq!(topology.cpu(2).expect("CPU 2").governor, None);
        assert_eq!(topology.cpu(9), None);
        assert_eq!(free_huge_pages(root.path(), 2 << 20, None), Some(7));
        assert_eq!(free_huge_pages(root.path(), 1 << 30, None), None);
        assert_eq!(meminfo_bytes(root.path(), "MemAvailable"), Some(64 << 10));
        assert_eq!(meminfo_bytes(root.path(), "MemAvail"), None);
    }

    #[test]
    fn the_suggested_core_is_isolated_if_one_is_and_never_the_only_one() {
        let root = machine();
        let suggested = |allowed| Topology::read_from(root.path(), set(allowed)).suggested_core();
        assert_eq!(suggested("0-3"), Some(3));
        assert_eq!(suggested("0-2"), Some(2));
        assert_eq!(suggested("0-1"), Some(1));
        assert_eq!(suggested("0"), None);
    }

    #[test]
    fn a_machine_without_sysfs_is_unknown_and_not_a_panic() {
        let root = TempDir::new("nothing");
        let topology = Topology::read_from(root.path(), set("0-1"));
        assert!(topology.online.is_empty() && topology.cpus.is_empty());
    }
}
