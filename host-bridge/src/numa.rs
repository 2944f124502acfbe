//! NUMA nodes: which CPU, which device and which memory belong together.
//!
//! Read once by [`crate::Runtime`]. On a machine with one node nothing is placed and nothing said.
//! With more, a partition's memory comes from its core's node, a ring's slots from their producer's
//! (each lies in its writer's memory), read-only tables page by page from all nodes if asked for;
//! and a core far from its device is a warning that names the cores that are near.

use std::path::Path;

use hybrid_conventions::{Bdf, CpuSet};

use crate::sys::mapping::Mapped;
use crate::sys::numa::nodes_of;
use crate::topology::{Topology, read_line, read_set};

/// The nodes of a machine that have memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    with_memory: Vec<u32>,
}

impl Nodes {
    /// Reads the machine below `root`.
    #[must_use]
    pub fn read_from(root: &Path) -> Self {
        // A list of node numbers looks like a list of CPUs.
        let set = read_set(&root.join("sys/devices/system/node/has_memory"));
        Self { with_memory: set.iter().collect() }
    }

    /// Reads this machine.
    #[must_use]
    pub fn read() -> Self {
        Self::read_from(Path::new("/"))
    }

    /// Nodes with memory, by number.
    #[must_use]
    pub fn all(&self) -> &[u32] {
        &self.with_memory
    }

    /// Whether it matters where memory comes from.
    #[must_use]
    pub fn are_several(&self) -> bool {
        self.with_memory.len() > 1
    }

    /// The node whose memory `cpu` is nearest to; `None` where there is no choice, or the CPU's
    /// node has no memory of its own.
    #[must_use]
    pub fn of_cpu(&self, topology: &Topology, cpu: u32) -> Option<u32> {
        let node = topology.cpu(cpu)?.node?;
        (self.are_several() && self.with_memory.contains(&node)).then_some(node)
    }
}

/// The node of a PCI function; `None` where the machine does not say.
#[must_use]
pub fn node_of_device(root: &Path, bdf: Bdf) -> Option<u32> {
    let path = root.join(format!("sys/bus/pci/devices/{bdf}/numa_node"));
    // -1 says that nobody knows.
    read_line(&path)?.parse().ok()
}

/// The CPUs of a node.
#[must_use]
pub fn cpus_of(topology: &Topology, node: u32) -> CpuSet {
    let mut set = CpuSet::EMPTY;
    for cpu in topology.cpus.iter().filter(|cpu| cpu.node == Some(node)) {
        // It came out of a set, so that a set can hold it.
        let _ = set.insert(cpu.id);
    }
    set
}

/// What a core far from its device is told.
#[must_use]
pub(crate) fn mismatch_line(
    topology: &Topology,
    device: &str,
    device_node: u32,
    cpu: u32,
) -> Option<String> {
    let node = topology.cpu(cpu)?.node?;
    if node == device_node {
        return None;
    }
    let near = cpus_of(topology, device_node).intersection(topology.allowed);
    let fix = if near.is_empty() {
        format!("no cpu of node {device_node} is allowed here: widen the cpuset")
    } else {
        format!("take one of cpus {near} for the partition (--core)")
    };
    Some(format!(
        "cpu {cpu} is on numa node {node} and device {device} on node {device_node}: every \
         transfer crosses between them; {fix}"
    ))
}

/// Pages of `mapped` on another node than `node`, and all; `None` where the kernel does not tell.
#[must_use]
pub fn strays(mapped: &Mapped, node: u32) -> Option<(usize, usize)> {
    let nodes = nodes_of(mapped.base(), mapped.len(), mapped.page().bytes()).ok()?;
    let strays = nodes.iter().filter(|found| found.is_some_and(|found| found != node)).count();
    Some((strays, nodes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn machine() -> TempDir {
        let root = TempDir::new("numa");
        root.write("sys/devices/system/node/has_memory", "0-1\n");
        root.write("sys/devices/system/cpu/online", "0-3\n");
        for cpu in 0..4 {
            root.write(&format!("sys/devices/system/cpu/cpu{cpu}/node{}/x", cpu / 2), "");
        }
        root.write("sys/bus/pci/devices/0000:03:00.0/numa_node", "1\n");
        root.write("sys/bus/pci/devices/0000:04:00.0/numa_node", "-1\n");
        root
    }

    fn bdf(text: &str) -> Bdf {
        text.parse().expect("an address")
    }

    #[test]
    fn cpus_and_devices_know_their_nodes() {
        let root = machine();
        let all = "0-3".parse().expect("a set");
        let topology = Topology::read_from(root.path(), all);
        let nodes = Nodes::read_from(root.path());
        assert_eq!((nodes.all(), nodes.are_several()), (&[0, 1][..], true));
        assert_eq!((nodes.of_cpu(&topology, 1), nodes.of_cpu(&topology, 2)), (Some(0), Some(1)));
        assert_eq!(nodes.of_cpu(&topology, 9), None);
        assert_eq!(node_of_device(root.path(), bdf("03:00.0")), Some(1));
        assert_eq!(node_of_device(root.path(), bdf("04:00.0")), None);
        assert_eq!(node_of_device(root.path(), bdf("05:00.0")), None);
        assert_eq!(cpus_of(&topology, 1), "2-3".parse().expect("a set"));
    }

    #[test]
    fn with_one_node_nothing_is_placed() {
        let root = machine();
        root.write("sys/devices/system/node/has_memory", "0\n");
        let topology = Topology::read_from(root.path(), "0-3".parse().expect("a set"));
        let nodes = Nodes::read_from(root.path());
        assert_eq!((nodes.are_several(), nodes.of_cpu(&topology, 0)), (false, None));
        assert!(!Nodes::read_from(TempDir::new("bare").path()).are_several());
    }

    #[test]
    fn a_core_far_from_its_device_is_told_which_are_near() {
        let root = machine();
        let line = |allowed: &str, cpu| {
            let topology = Topology::read_from(root.path(), allowed.parse().expect("a set"));
            mismatch_line(&topology, "vfio 0000:03:00.0", 1, cpu)
        };
        assert_eq!(line("0-3", 3), None);
        assert_eq!(
            line("0-2", 0).as_deref(),
            Some(
                "cpu 0 is on numa node 0 and device vfio 0000:03:00.0 on node 1: every transfer \
                 crosses between them; take one of cpus 2 for the partition (--core)"
            )
        );
        assert!(line("0-1", 0).expect("a line").ends_with("is allowed here: widen the cpuset"));
    }

    #[test]
    fn strays_are_counted_by_where_pages_are() {
        let mapped =
            Mapped::private(64 << 10, crate::sys::memfd::PageSize::Small4K).expect("64 KiB");
        assert_eq!(strays(&mapped, 0), Some((0, 16)));
        assert_eq!(strays(&mapped, 5), Some((16, 16)));
    }
}
