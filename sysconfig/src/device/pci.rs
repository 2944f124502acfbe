//! PCI functions as sysfs shows them: the rows of the device table.
//!
//! Read by `status`, by [`super::bind`] and by `serve`. Nothing is kept: each call looks again.

use std::fmt::{self, Display};

use hybrid_conventions::{Bdf, BdfPattern};

use super::tree::Tree;

/// Where sysfs lists them.
const DEVICES: &str = "/sys/bus/pci/devices";

/// PCI class code of an NVMe I/O controller: mass storage, non-volatile memory, NVM Express.
const CLASS_NVME: u32 = 0x01_08_02;

/// PCI base class and subclass of a PCI-to-PCI bridge, which a group may hold beside its devices.
const CLASS_BRIDGE: u32 = 0x06_04;

/// One function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) bdf: Bdf,
    pub(crate) class: u32,
    pub(crate) vendor: u16,
    pub(crate) device: u16,
    /// [`None`] on a machine without nodes.
    pub(crate) numa: Option<u32>,
    pub(crate) driver: Option<String>,
    /// What `driver_override` says, [`None`] for nothing.
    pub(crate) driver_override: Option<String>,
    /// [`None`] without an IOMMU.
    pub(crate) group: Option<u32>,
}

impl Function {
    /// Reads one; [`None`] if it is not there.
    pub(crate) fn read(tree: &dyn Tree, bdf: Bdf) -> Option<Self> {
        let base = folder(bdf);
        let text = |file: &str| tree.read(&format!("{base}/{file}")).ok();
        let hex = |file: &str| u32::from_str_radix(text(file)?.trim().strip_prefix("0x")?, 16).ok();
        let short = |file: &str| hex(file).and_then(|id| u16::try_from(id).ok());
        let link = |file: &str| tree.link_name(&format!("{base}/{file}"));
        let wanted = text("driver_override").map(|text| text.trim().to_owned());
        Some(Self {
            bdf,
            class: hex("class")?,
            vendor: short("vendor")?,
            device: short("device")?,
            // Linux says -1 for none.
            numa: text("numa_node").and_then(|node| node.trim().parse().ok()),
            driver: link("driver"),
            driver_override: wanted.filter(|wanted| !wanted.is_empty() && wanted != "(null)"),
            group: link("iommu_group").and_then(|group| group.parse().ok()),
        })
    }

    /// Every function of the machine, in `lspci`'s order.
    pub(crate) fn all(tree: &dyn Tree) -> Vec<Self> {
        let names = tree.list(DEVICES).unwrap_or_default();
        let mut bdfs: Vec<Bdf> = names.iter().filter_map(|name| name.parse().ok()).collect();
        bdfs.sort_unstable();
        bdfs.into_iter().filter_map(|bdf| Self::read(tree, bdf)).collect()
    }

    /// An NVMe I/O controller.
    pub(crate) fn is_nvme(&self) -> bool {
        self.class == CLASS_NVME
    }

    /// A bridge.
    pub(crate) fn is_bridge(&self) -> bool {
        self.class >> 8 == CLASS_BRIDGE
    }

    /// What the kernel's vfio-pci has.
    pub(crate) fn is_on_vfio(&self) -> bool {
        self.driver.as_deref() == Some("vfio-pci")
    }

    /// `NVMe`, or what the class says.
    pub(crate) fn kind(&self) -> &'static str {
        match self.class >> 16 {
            _ if self.is_nvme() => "NVMe",
            0x01 => "storage",
            0x02 => "network",
            0x03 => "display",
            0x06 => "bridge",
            _ => "PCI",
        }
    }
}

/// `1b36:0010`, as `lspci -n` prints it.
impl Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:04x}:{:04x})", self.bdf, self.vendor, self.device)
    }
}

/// The folder of a function.
pub(crate) fn folder(bdf: Bdf) -> String {
    format!("{DEVICES}/{bdf}")
}

/// NVMe functions that a pattern names, and, named in full, any other.
pub(crate) fn matching(tree: &dyn Tree, pattern: &BdfPattern) -> Vec<Function> {
    if let Some(bdf) = pattern.as_bdf() {
        return Function::read(tree, bdf).into_iter().collect();
    }
    let all = Function::all(tree).into_iter();
    all.filter(|function| function.is_nvme() && pattern.matches(function.bdf)).collect()
}
