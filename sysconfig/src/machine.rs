//! The machine as the settings need it: CPUs, who shares a core, nodes, kernel, boot.
//!
//! Read once for each command. A CPU that is off has no topology in sysfs; what the journal knows
//! of one that we took off ourselves is filled in, so that a second `apply` sees what the first
//! saw.

use std::collections::BTreeMap;

use hybrid_conventions::CpuSet;

use crate::journal::Journal;
use crate::root::Root;

/// Where CPUs are listed.
pub(crate) const CPU: &str = "/sys/devices/system/cpu";

/// The name of the setting that takes siblings off, in the journal.
pub(crate) const SMT: &str = "smt";

/// What the machine is.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) root: Root,
    pub(crate) boot: String,
    pub(crate) release: String,
    /// Version of the kernel, `(6, 1)`.
    pub(crate) kernel: (u32, u32),
    /// Parameters that the kernel was started with.
    pub(crate) cmdline: Vec<String>,
    pub(crate) present: CpuSet,
    pub(crate) online: CpuSet,
    /// What `isolcpus` took out of load balancing.
    pub(crate) isolated: CpuSet,
    pub(crate) nohz_full: CpuSet,
    /// The hardware threads of each CPU's core, itself too.
    pub(crate) cores: BTreeMap<u32, CpuSet>,
    /// Memory nodes, with their CPUs; one machine without nodes is one without entries.
    pub(crate) nodes: BTreeMap<u32, CpuSet>,
}

impl Machine {
    /// Reads it.
    pub(crate) fn read(root: &Root, journal: &Journal) -> Self {
        let release = root.text("/proc/sys/kernel/osrelease").unwrap_or_default();
        let boot = root.text("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let online = root.cpus(format!("{CPU}/online"));
        let mut cores: BTreeMap<u32, CpuSet> = BTreeMap::new();
        for cpu in &online {
            let mut core = root.cpus(format!("{CPU}/cpu{cpu}/topology/thread_siblings_list"));
            let _ = core.insert(cpu);
            cores.insert(cpu, core);
        }
        for change in journal.changes(&boot).filter(|change| change.setting == SMT) {
            let core = change.detail.as_ref().and_then(|detail| detail.parse::<CpuSet>().ok());
            for cpu in core.iter().flatten() {
                let known = cores.entry(cpu).or_default();
                *known = known.union(core.unwrap_or_default());
            }
        }
        let node = "/sys/devices/system/node";
        let nodes = root.numbered(node, "node").into_iter();
        Self {
            kernel: version(&release),
            cmdline: words(&root.read("/proc/cmdline").unwrap_or_default()),
            present: root.cpus(format!("{CPU}/present")),
            isolated: root.cpus(format!("{CPU}/isolated")),
            nohz_full: root.cpus(format!("{CPU}/nohz_full")),
            nodes: nodes.map(|n| (n, root.cpus(format!("{node}/node{n}/cpulist")))).collect(),
            root: root.clone(),
            boot,
            release,
            online,
            cores,
        }
    }

    /// The hardware threads of this CPU's core, itself too.
    pub(crate) fn core(&self, cpu: u32) -> CpuSet {
        let alone = || CpuSet::single(cpu).unwrap_or_default();
        self.cores.get(&cpu).copied().unwrap_or_else(alone)
    }

    /// The other hardware threads of these CPUs' cores.
    pub(crate) fn siblings(&self, cpus: CpuSet) -> CpuSet {
        let all = cpus.iter().fold(CpuSet::EMPTY, |all, cpu| all.union(self.core(cpu)));
        all.difference(cpus)
    }

    /// Whether the processor says so in its flags.
    pub(crate) fn has_flag(&self, flag: &str) -> bool {
        let cpuinfo = self.root.read("/proc/cpuinfo").unwrap_or_default();
        let mut lines = cpuinfo.lines();
        let flags = lines.find_map(|line| line.strip_prefix("flags")?.split_once(':'));
        flags.is_some_and(|(_, flags)| flags.split_ascii_whitespace().any(|word| word == flag))
    }
}

/// `6.1.0-18-amd64` is `(6, 1)`.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Parameters of the kernel: white space separates, double quotes hold together.
pub(crate) fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quoted) = (String::new(), false);
    for c in line.trim().chars().chain([' ']) {
        quoted ^= c == '"';
        if c.is_whitespace() && !quoted {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
        } else {
            word.push(c);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_the_first_two_numbers() {
        for (release, expected) in
            [("6.1.0-18-amd64", (6, 1)), ("6.12-rc1", (6, 12)), ("7", (7, 0)), ("", (0, 0))]
        {
            assert_eq!(version(release), expected, "{release}");
        }
    }

    #[test]
    fn quoted_parameters_stay_together() {
        let line = "quiet dyndbg=\"file a +p ; file b +p\" isolcpus=2,3\n";
        let expected = ["quiet", "dyndbg=\"file a +p ; file b +p\"", "isolcpus=2,3"];
        assert_eq!(words(line), expected);
    }
}
