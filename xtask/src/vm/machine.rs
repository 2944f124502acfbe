//! The machine that QEMU emulates: processors, memory, drives, and the kernel's command line.
//!
//! A value that says everything, and the pure function to QEMU's arguments. The emulated IOMMU
//! remaps DMA and interrupts as Intel's does; each drive sits behind a PCIe root port of its own,
//! which can be unplugged.

use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::{Map, Value};

use super::drive::Drive;

/// The machine of one guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u32,
    /// CPUs that Linux gives up, as a list; empty for none.
    pub(crate) isolated: String,
    /// Pages of 2 MiB.
    pub(crate) huge_pages: u32,
    /// NUMA nodes, to which CPUs and memory are dealt in equal parts.
    pub(crate) nodes: u32,
    pub(crate) iommu: bool,
    pub(crate) drives: Vec<Drive>,
    /// Words at the end of the kernel's command line.
    pub(crate) append: String,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            cpus: 3,
            memory_mib: 1024,
            isolated: "2".to_owned(),
            huge_pages: 64,
            nodes: 1,
            iommu: true,
            drives: Vec::new(),
            append: String::new(),
        }
    }
}

/// Where the guest's files lie on the host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Files<'a> {
    pub(crate) kernel: &'a Path,
    pub(crate) initramfs: &'a Path,
    /// Room for the files behind the drives.
    pub(crate) dir: &'a Path,
}

impl Machine {
    /// The kernel's command line.
    pub(crate) fn command_line(&self) -> String {
        // Mitigations cost an emulator much and protect a guest that runs our own tests not at all.
        // An emulator that gets too little of a crowded machine fails the kernel's check of its
        // timer, which is a panic where interrupts are remapped.
        let mut words = vec![
            "console=ttyS0 panic=-1 quiet loglevel=4 mitigations=off random.trust_cpu=on"
                .to_owned(),
            "no_timer_check".to_owned(),
            format!("hugepagesz=2M hugepages={}", self.huge_pages),
        ];
        if self.iommu {
            words.push("intel_iommu=on iommu.passthrough=0".to_owned());
        }
        if !self.isolated.is_empty() {
            let cpus = &self.isolated;
            words.push(format!(
                "isolcpus=managed_irq,domain,{cpus} nohz_full={cpus} rcu_nocbs={cpus} irqaffinity=0"
            ));
        }
        if !self.append.is_empty() {
            words.push(self.append.clone());
        }
        words.join(" ")
    }

    /// QEMU's arguments for the machine itself; the caller adds where its lines go.
    pub(crate) fn arguments(&self, files: &Files<'_>) -> Result<Vec<String>> {
        ensure!((1..=8).contains(&self.cpus), "a guest has 1 to 8 CPUs, not {}", self.cpus);
        let mut arguments: Vec<String> = "-nodefaults -no-user-config -display none -no-reboot \
             -machine q35,kernel-irqchip=split -accel tcg,thread=multi -cpu max"
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        let mut add = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
        // Nodes are made of sockets: then each CPU is one.
        let sockets =
            if self.nodes > 1 { format!(",sockets={}", self.cpus) } else { String::new() };
        add("-smp", format!("{}{sockets}", self.cpus));
        add("-m", format!("{}M", self.memory_mib));
        add("-kernel", files.kernel.display().to_string());
        add("-initrd", files.initramfs.display().to_string());
        add("-append", self.command_line());
        for (flag, value) in self.numa() {
            add(flag, value);
        }
        if self.iommu {
            add("-device", "intel-iommu,intremap=on,caching-mode=on".to_owned());
        }
        let ports = self.ports();
        for port in 0..=ports.iter().max().copied().unwrap_or(0) {
            let slot = port + 1;
            add("-device", format!("pcie-root-port,id=rp{port},chassis={slot},slot={slot}"));
        }
        for (index, (drive, port)) in self.drives.iter().zip(ports).enumerate() {
            arguments.extend(drive.arguments(index, port, files.dir)?);
        }
        Ok(arguments)
    }

    /// The root port of each drive.
    fn ports(&self) -> Vec<usize> {
        let mut next = 0;
        let mut ports = Vec::new();
        for drive in &self.drives {
            match ports.last() {
                Some(last) if drive.beside => ports.push(*last),
                _ => {
                    ports.push(next);
                    next += 1;
                }
            }
        }
        ports
    }

    /// The PCI address that the firmware gives each drive: buses are counted from 1 in the order
    /// of the root ports.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let address = |(drive, port): (&Drive, usize)| {
            format!("0000:{:02x}:00.{}", port + 1, u8::from(drive.beside))
        };
        self.drives.iter().zip(self.ports()).map(address).collect()
    }

    /// The arguments of `device_add` that bring a drive back, with its first namespace as the one
    /// that QEMU makes together with the controller.
    pub(crate) fn device_again(&self, index: usize) -> Option<Value> {
        let port = *self.ports().get(index)?;
        let drive = self.drives.get(index)?;
        let namespace = drive.namespaces.first()?;
        let text = drive.device(index, port);
        let (driver, words) = text.split_once(',')?;
        let mut arguments = Map::new();
        arguments.insert("driver".to_owned(), driver.into());
        for (key, value) in words.split(',').filter_map(|word| word.split_once('=')) {
            let value = match (key, value.parse::<u64>()) {
                ("multifunction", _) => Value::Bool(value == "on"),
                ("addr" | "serial", _) | (_, Err(_)) => value.into(),
                (_, Ok(number)) => number.into(),
            };
            arguments.insert(key.to_owned(), value);
        }
        arguments.insert("drive".to_owned(), format!("nvme{index}n{}", namespace.nsid).into());
        arguments.insert("logical_block_size".to_owned(), namespace.lba_bytes.into());
        arguments.insert("physical_block_size".to_owned(), namespace.lba_bytes.into());
        Some(Value::Object(arguments))
    }

    fn numa(&self) -> Vec<(&'static str, String)> {
        if self.nodes < 2 {
            return Vec::new();
        }
        let mut words = Vec::new();
        for node in 0..self.nodes {
            let size = self.memory_mib / self.nodes;
            words.push(("-object", format!("memory-backend-ram,id=ram{node},size={size}M")));
            words.push(("-numa", format!("node,nodeid={node},memdev=ram{node}")));
        }
        for cpu in 0..self.cpus {
            let node = cpu * self.nodes / self.cpus;
            words.push(("-numa", format!("cpu,node-id={node},socket-id={cpu}")));
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(machine: &Machine) -> String {
        let files = Files {
            kernel: Path::new("/k/vmlinuz"),
            initramfs: Path::new("/k/initramfs"),
            dir: &std::env::temp_dir(),
        };
        machine.arguments(&files).expect("arguments").join(" ")
    }

    #[test]
    fn the_machine_has_an_iommu_that_remaps_interrupts() {
        let line = line(&Machine::default());
        assert!(line.contains("-machine q35,kernel-irqchip=split -accel tcg,thread=multi"));
        assert!(line.contains("-device intel-iommu,intremap=on,caching-mode=on"));
        assert!(line.contains("-smp 3 -m 1024M -kernel /k/vmlinuz -initrd /k/initramfs"));
    }

    #[test]
    fn the_partitions_cpu_is_taken_from_linux() {
        let words = Machine::default().command_line();
        assert!(words.contains("isolcpus=managed_irq,domain,2 nohz_full=2 rcu_nocbs=2"), "{words}");
        assert!(words.contains("intel_iommu=on") && words.contains("hugepages=64"), "{words}");
        let plain = Machine { isolated: String::new(), iommu: false, ..Machine::default() };
        assert!(!plain.command_line().contains("isolcpus"));
        assert!(!plain.command_line().contains("iommu"));
        assert!(!line(&plain).contains("intel-iommu"));
    }

    #[test]
    fn drives_have_ports_and_addresses_of_their_own_unless_beside() {
        let drives = ["1M", "1M,beside", "1M"].map(|line| line.parse().expect("a drive"));
        let machine = Machine { drives: drives.to_vec(), ..Machine::default() };
        assert_eq!(machine.addresses(), ["0000:01:00.0", "0000:01:00.1", "0000:02:00.0"]);
        let line = line(&machine);
        assert_eq!(line.matches("pcie-root-port").count(), 2);
        assert!(line.contains("id=nvme1,serial=HYBRID1,bus=rp0,addr=00.1,"), "{line}");
        assert_eq!(machine.device_again(3), None);
        let again = machine.device_again(2).expect("a drive");
        assert_eq!(again["driver"], "nvme");
        assert_eq!(again["bus"], "rp1");
        assert_eq!(again["addr"], "00.0");
        assert_eq!(again["multifunction"], true);
        assert_eq!(again["mdts"], 7);
        assert_eq!(again["drive"], "nvme2n1");
    }

    #[test]
    fn nodes_share_cpus_and_memory() {
        let machine = Machine { nodes: 2, cpus: 4, ..Machine::default() };
        let line = line(&machine);
        assert!(line.contains("-object memory-backend-ram,id=ram1,size=512M"), "{line}");
        assert!(line.contains("-smp 4,sockets=4 "), "{line}");
        assert!(line.contains("-numa cpu,node-id=0,socket-id=1"), "{line}");
        assert!(line.contains("-numa cpu,node-id=1,socket-id=2"), "{line}");
    }

    #[test]
    fn a_number_of_cpus_that_no_guest_has_is_refused() {
        let files =
            Files { kernel: Path::new("k"), initramfs: Path::new("i"), dir: Path::new("/") };
        let machine = Machine { cpus: 0, ..Machine::default() };
        let error = machine.arguments(&files).expect_err("no guest").to_string();
        assert_eq!(error, "a guest has 1 to 8 CPUs, not 0");
    }
}
