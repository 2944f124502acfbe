//! What sysfs says of a PCI function, before anything is opened: is it there, is it NVMe, who has
//! it, and which way into VFIO is taken.
//!
//! Called by [`super::open`]. It changes nothing. The root is a parameter, so that tests bring a
//! machine of their own. What sysfs says may change right after; opening finds that out.
//!
//! Order of the questions: there? NVMe? an IOMMU? VFIO loaded? whose driver? whose neighbours?
//! which file? may we? Each answer "no" is one error that says how to get a "yes".

use std::fs;
use std::path::{Path, PathBuf};

use hybrid_conventions::Bdf;
use rustix::fs::Access;

use super::error::VfioError;
use crate::topology::read_line;

/// Class code of an NVMe controller.
const NVME: u32 = 0x01_0802;
/// Class code of PCI bridges, without the programming interface: they may keep their driver.
const BRIDGE: u32 = 0x0604;

/// A function that can be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its address.
    pub bdf: Bdf,
    /// Its directory in sysfs.
    pub sysfs: PathBuf,
    /// Vendor and device.
    pub id: (u16, u16),
    /// Its IOMMU group.
    pub group: u32,
    /// Which way.
    pub way: Way,
    /// The way in words, and why this one.
    pub why: String,
}

impl Found {
    /// The file that is opened for this function alone.
    #[must_use]
    pub fn node(&self) -> String {
        match &self.way {
            Way::Group => group_node(self.group),
            Way::Iommufd { node } => node.clone(),
        }
    }

    /// Whether sysfs still has it, in its group.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.sysfs.join("iommu_group").exists()
    }
}

/// A way into VFIO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// The legacy container, and the group's file.
    Group,
    /// The kernel's iommufd, and the device's own file.
    Iommufd {
        /// The device's file.
        node: String,
    },
}

const IOMMUFD: &str = "/dev/iommu";

fn group_node(group: u32) -> String {
    format!("/dev/vfio/{group}")
}

/// Looks at `bdf` below `root`.
///
/// # Errors
/// [`VfioError`]: the first thing that is not as it must be.
pub fn look(root: &Path, bdf: Bdf) -> Result<Found, VfioError> {
    let sysfs = function(root, bdf)?;
    // Without an IOMMU there is a group only while vfio-pci has the function in its own mode.
    let group = link_name(&sysfs.join("iommu_group")).and_then(|name| name.parse::<u32>().ok());
    if group.is_none() && !no_iommu_mode(root) {
        return Err(VfioError::NoIommu { bdf });
    }
    check_modules(root)?;
    check_driver(&sysfs, bdf)?;
    let group = group.ok_or(VfioError::NoIommu { bdf })?;
    check_neighbours(root, bdf, group)?;
    let (way, why) = choose(root, &sysfs, bdf, group, may_open)?;
    let id = |name| hex(&sysfs.join(name)).and_then(|id| u16::try_from(id).ok()).unwrap_or(0);
    Ok(Found { bdf, id: (id("vendor"), id("device")), sysfs, group, way, why })
}

/// The folder of `bdf` below `root`, which is there and an NVMe controller's.
///
/// # Errors
/// [`VfioError::NotThere`] and [`VfioError::NotNvme`].
pub(super) fn function(root: &Path, bdf: Bdf) -> Result<PathBuf, VfioError> {
    let sysfs = root.join(format!("sys/bus/pci/devices/{bdf}"));
    if !sysfs.exists() {
        return Err(VfioError::NotThere { bdf, nvme: nvme_functions(root) });
    }
    let class = hex(&sysfs.join("class")).unwrap_or(0);
    if class != NVME {
        return Err(VfioError::NotNvme { bdf, class, nvme: nvme_functions(root) });
    }
    Ok(sysfs)
}

fn no_iommu_mode(root: &Path) -> bool {
    let switch = root.join("sys/module/vfio/parameters/enable_unsafe_noiommu_mode");
    read_line(&switch).is_some_and(|line| line == "Y")
}

/// The modules that the ways need; a kernel with `/dev/iommu` has iommufd's.
fn check_modules(root: &Path) -> Result<(), VfioError> {
    if !root.join("sys/bus/pci/drivers/vfio-pci").exists() {
        return Err(VfioError::NoModule { module: "vfio-pci" });
    }
    if root.join(&IOMMUFD[1..]).exists() { Ok(()) } else { check_type1(root) }
}

fn check_type1(root: &Path) -> Result<(), VfioError> {
    let container = root.join("dev/vfio/vfio").exists();
    let type1 = ["sys/module/vfio_iommu_type1", "sys/module/iommufd"]
        .iter()
        .any(|module| root.join(module).exists());
    if container && !type1 && !no_iommu_mode(root) {
        return Err(VfioError::NoModule { module: "vfio_iommu_type1" });
    }
    Ok(())
}

fn check_driver(sysfs: &Path, bdf: Bdf) -> Result<(), VfioError> {
    match link_name(&sysfs.join("driver")) {
        None => Err(VfioError::Unbound { bdf }),
        Some(driver) if driver == "vfio-pci" => Ok(()),
        Some(driver) => Err(VfioError::InUse { bdf, driver, disks: disks(sysfs) }),
    }
}

/// Block devices that the kernel's driver made: `nvme0n1`.
fn disks(sysfs: &Path) -> Vec<String> {
    let controllers = names(&sysfs.join("nvme"));
    let mut disks: Vec<_> = controllers
        .iter()
        .flat_map(|controller| names(&sysfs.join("nvme").join(controller)))
        .filter(|name| {
            let rest = name.strip_prefix("nvme").unwrap_or_default();
            rest.split_once('n').is_some_and(|(a, b)| is_number(a) && is_number(b))
        })
        .collect();
    disks.sort();
    disks
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The kernel's rule: all of a group on VFIO's drivers, on pci-stub, or on none; bridges pass.
fn check_neighbours(root: &Path, bdf: Bdf, group: u32) -> Result<(), VfioError> {
    let devices = root.join(format!("sys/kernel/iommu_groups/{group}/devices"));
    let mut neighbours = names(&devices);
    neighbours.sort();
    for name in neighbours {
        let Ok(neighbour) = name.parse::<Bdf>() else { continue };
        let place = root.join(format!("sys/bus/pci/devices/{neighbour}"));
        let class = hex(&place.join("class")).unwrap_or(0);
        if neighbour == bdf || class >> 8 == BRIDGE {
            continue;
        }
        match link_name(&place.join("driver")) {
            Some(driver) if !matches!(driver.as_str(), "vfio-pci" | "pci-stub") => {
                return Err(VfioError::Neighbour { bdf, group, neighbour, driver });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Refuses a group that no IOMMU holds back; else the way in, and why it is this one: iommufd where
/// the kernel has it and this user may open it, the group otherwise.
fn choose(
    root: &Path,
    sysfs: &Path,
    bdf: Bdf,
    group: u32,
    may_open: impl Fn(&Path, &str) -> bool,
) -> Result<(Way, String), VfioError> {
    let name = read_line(&root.join(format!("sys/kernel/iommu_groups/{group}/name")));
    if name.is_some_and(|name| name == "vfio-noiommu") {
        return Err(VfioError::NoIommuRefused { bdf });
    }
    let lacking = match iommufd(root, sysfs, &may_open) {
        Ok(node) => {
            let why = format!("iommufd and {node}: this kernel has both");
            return Ok((Way::Iommufd { node }, why));
        }
        Err(lacking) => lacking,
    };
    if !root.join("dev/vfio/vfio").exists() {
        return Err(match lacking {
            Lacking::Permission { path } => no_permission(root, path),
            Lacking::Iommufd | Lacking::DeviceFile => VfioError::NoModule { module: "vfio" },
        });
    }
    check_type1(root)?;
    check_node(root, bdf, group, may_open)?;
    let why = match lacking {
        Lacking::Iommufd => "this kernel has no iommufd".to_owned(),
        Lacking::DeviceFile => "this kernel has iommufd but no file for the device".to_owned(),
        Lacking::Permission { path } => {
            format!("{path} may not be opened by user {}", crate::memory::user_name(root))
        }
    };
    Ok((Way::Group, format!("container and group {group}: {why}")))
}

/// What iommufd lacks.
#[derive(Debug)]
enum Lacking {
    Iommufd,
    DeviceFile,
    Permission { path: String },
}

/// The device's own file, if the kernel has iommufd and both may be opened. Kernels without such
/// files have the directory too, but no `dev` in it.
fn iommufd(
    root: &Path,
    sysfs: &Path,
    may_open: impl Fn(&Path, &str) -> bool,
) -> Result<String, Lacking> {
    if !root.join(&IOMMUFD[1..]).exists() {
        return Err(Lacking::Iommufd);
    }
    let dir = sysfs.join("vfio-dev");
    let names = names(&dir);
    let [name] = &names[..] else { return Err(Lacking::DeviceFile) };
    let node = format!("/dev/vfio/devices/{name}");
    if !dir.join(name).join("dev").exists() || !root.join(&node[1..]).exists() {
        return Err(Lacking::DeviceFile);
    }
    for path in [IOMMUFD, &node] {
        if !may_open(root, path) {
            return Err(Lacking::Permission { path: path.to_owned() });
        }
    }
    Ok(node)
}

fn may_open(root: &Path, path: &str) -> bool {
    rustix::fs::access(root.join(&path[1..]), Access::READ_OK | Access::WRITE_OK).is_ok()
}

fn check_node(
    root: &Path,
    bdf: Bdf,
    group: u32,
    may_open: impl Fn(&Path, &str) -> bool,
) -> Result<(), VfioError> {
    let path = group_node(group);
    if !root.join(&path[1..]).exists() {
        return Err(VfioError::NoNode { bdf, path });
    }
    if may_open(root, &path) { Ok(()) } else { Err(no_permission(root, path)) }
}

/// The error of a file that this user may not open, with udev's match for files of its kind.
pub(super) fn no_permission(root: &Path, path: String) -> VfioError {
    let is_group = path.rsplit('/').next().is_some_and(is_number);
    let files = if is_group { "SUBSYSTEM==\"vfio\"" } else { "KERNEL==\"iommu|vfio[0-9]*\"" };
    VfioError::NoPermission { path, user: crate::memory::user_name(root), files }
}

/// All NVMe functions, in order.
fn nvme_functions(root: &Path) -> Vec<Bdf> {
    let devices = root.join("sys/bus/pci/devices");
    let mut found: Vec<Bdf> = names(&devices)
        .into_iter()
        .filter(|name| hex(&devices.join(name).join("class")) == Some(NVME))
        .filter_map(|name| name.parse().ok())
        .collect();
    found.sort();
    found
}

/// The last part of a link's target.
pub(super) fn link_name(link: &Path) -> Option<String> {
    let target = fs::read_link(link).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

fn hex(file: &Path) -> Option<u32> {
    u32::from_str_radix(read_line(file)?.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests;
