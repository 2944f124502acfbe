//! Why a disk must be left alone: mounted, swapped on, held, open, or carrying somebody's data.
//!
//! Called for the table and before each bind. It follows an NVMe controller to its namespaces,
//! their partitions, and what stands on those (dm, md, bcache), and asks the kernel and the disk.
//! What cannot be found out is a reason too: unknown is not free.

use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::io::ErrorKind;

use hybrid_conventions::Bdf;

use super::pci::{self, Function};
use super::signature::{Signature, probe};
use super::tree::Tree;

/// Bytes of the sectors in which sysfs counts sizes.
const SECTOR: u64 = 512;

/// One reason, with the block device that it was seen on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// A filesystem on it is mounted here.
    Mounted { device: String, at: String },
    /// The kernel swaps to it.
    Swap { device: String },
    /// Another block device stands on it.
    Held { device: String, by: String },
    /// A process has it open.
    Open { device: String, by: String },
    /// The kernel has claimed it, for a purpose that we do not see.
    Claimed { device: String },
    /// It carries data of a known form.
    Carries { device: String, what: Signature },
    /// It could not be looked at.
    Unknown { device: String, why: String },
    /// The kernel shows no namespace of the drive, or may not show all of them yet.
    Unseen { bdf: String, why: String, fix: String },
}

impl Reason {
    /// Whether the override flag may pass over it: data at rest, but nothing that is at work.
    pub(crate) const fn can_be_overridden(&self) -> bool {
        matches!(self, Self::Carries { .. } | Self::Unknown { .. } | Self::Unseen { .. })
    }

    /// What a person does about it.
    pub(crate) fn fix(&self) -> String {
        match self {
            Self::Mounted { at, .. } => format!("umount {at}"),
            Self::Swap { device } => format!("swapoff /dev/{device}"),
            Self::Held { by, .. } => {
                let name = by.split(' ').next().unwrap_or_default();
                match name {
                    name if name.starts_with("md") => format!("mdadm --stop /dev/{name}"),
                    name if name.starts_with("dm-") => {
                        format!("dmsetup remove /dev/{name} (vgchange -an for LVM)")
                    }
                    name => format!("stop {name}"),
                }
            }
            Self::Open { by, .. } => format!("end {by}"),
            Self::Claimed { device } => format!("lsblk /dev/{device} may tell by whom"),
            Self::Carries { .. } => {
                "--force-in-use binds it all the same; what is on it stays".to_owned()
            }
            Self::Unknown { .. } => "look again as root".to_owned(),
            Self::Unseen { fix, .. } => {
                format!("{fix}; --force-in-use binds it unseen, with whatever is on it")
            }
        }
    }
}

impl Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mounted { device, at } => write!(f, "mounted at {at} ({device})"),
            Self::Swap { device } => write!(f, "swap ({device})"),
            Self::Held { device, by } => write!(f, "held by {by} ({device})"),
            Self::Open { device, by } => write!(f, "open in {by} ({device})"),
            Self::Claimed { device } => write!(f, "claimed by the kernel ({device})"),
            Self::Carries { device, what } => {
                write!(f, "{} {} ({device})", what.name, what.kind.word())
            }
            Self::Unknown { device, why } => write!(f, "unknown: {why} ({device})"),
            Self::Unseen { bdf, why, .. } => {
                write!(f, "unknown: no namespace could be looked at, {why} ({bdf})")
            }
        }
    }
}

/// All reasons why the controller at `bdf` must be left alone, the gravest first.
pub(crate) fn reasons(tree: &dyn Tree, bdf: Bdf) -> Vec<Reason> {
    let disks = namespaces(tree, bdf);
    let Some(machine) = Machine::read(tree) else {
        let why = "/proc/self/mountinfo cannot be read".to_owned();
        let unread = disks.into_iter().map(|device| unknown(device, &why));
        return unread.chain(unseen(tree, bdf)).collect();
    };
    let mut reasons: BTreeSet<Reason> = unseen(tree, bdf).into_iter().collect();
    for disk in &disks {
        let mut devices = vec![disk.clone()];
        devices.extend(partitions(tree, disk));
        for device in &devices {
            used(tree, &machine, device, &mut reasons);
            carried(tree, device, &mut reasons);
        }
    }
    reasons.extend(open_files(tree, bdf, &disks));
    let busy = reasons.iter().any(|reason| !reason.can_be_overridden());
    // The claim without a name is worth a line only where nothing better explains it.
    let named = reasons
        .iter()
        .any(|reason| !reason.can_be_overridden() && !matches!(reason, Reason::Claimed { .. }));
    reasons.retain(|reason| !(busy && named && matches!(reason, Reason::Claimed { .. })));
    reasons.into_iter().collect()
}

/// Whether the kernel's driver has started the controller and shows a namespace of it.
///
/// The driver has the drive before its controller is live, and looks for namespaces after that.
pub(crate) fn is_scanned(tree: &dyn Tree, bdf: Bdf) -> bool {
    let folder = format!("{}/nvme", pci::folder(bdf));
    let controllers = tree.list(&folder).unwrap_or_default();
    let live = |controller: &String| {
        let state = tree.read(&format!("{folder}/{controller}/state"));
        state.is_ok_and(|state| state.trim() == "live")
    };
    !controllers.is_empty() && controllers.iter().all(live) && !namespaces(tree, bdf).is_empty()
}

/// That a drive's namespaces are not there to be looked at. On vfio-pci they need not be.
fn unseen(tree: &dyn Tree, bdf: Bdf) -> Option<Reason> {
    let function = Function::read(tree, bdf)?;
    if !function.is_nvme() || function.is_on_vfio() {
        return None;
    }
    let (why, fix) = match function.driver.as_deref() {
        Some("nvme") if is_scanned(tree, bdf) => return None,
        Some("nvme") => (
            "its controller is not live or shows none".to_owned(),
            format!("cat {}/nvme/*/state tells, and nvme list", pci::folder(bdf)),
        ),
        None => (
            "no driver has it".to_owned(),
            format!("sysconfig unbind {bdf} gives it to the kernel's driver, which looks"),
        ),
        Some(driver) => (
            format!("the driver {driver} has it"),
            format!(
                "echo {bdf} > /sys/bus/pci/drivers/{driver}/unbind, then sysconfig unbind {bdf}"
            ),
        ),
    };
    Some(Reason::Unseen { bdf: bdf.to_string(), why, fix })
}

/// The block devices of an NVMe controller's namespaces: `nvme0n1`.
///
/// With native multipath a controller's own path (`nvme0c1n1`) is hidden, and the disk that is used
/// is the subsystem's (`nvme0n1`).
pub(crate) fn namespaces(tree: &dyn Tree, bdf: Bdf) -> Vec<String> {
    let controllers = format!("{}/nvme", pci::folder(bdf));
    let mut disks = BTreeSet::new();
    for controller in tree.list(&controllers).unwrap_or_default() {
        for name in tree.list(&format!("{controllers}/{controller}")).unwrap_or_default() {
            disks.extend(disk_of(&name));
        }
    }
    disks.into_iter().collect()
}

/// `nvme0n1` of itself, `nvme0n1` of `nvme0c3n1`; [`None`] for other names.
fn disk_of(name: &str) -> Option<String> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let rest = name.strip_prefix("nvme")?;
    let (left, namespace) = rest.split_once('n')?;
    let instance = left.split_once('c').map_or(left, |(subsystem, _)| subsystem);
    (digits(instance) && digits(namespace)).then(|| format!("nvme{instance}n{namespace}"))
}

fn partitions(tree: &dyn Tree, disk: &str) -> Vec<String> {
    let folder = format!("/sys/class/block/{disk}");
    let names = tree.list(&folder).unwrap_or_default();
    let is_partition = |name: &String| {
        name.starts_with(disk) && tree.exists(&format!("{folder}/{name}/partition"))
    };
    names.into_iter().filter(is_partition).collect()
}

/// What the kernel says of mounts and swap.
struct Machine {
    /// `major:minor`, mount point, source.
    mounts: Vec<[String; 3]>,
    swaps: Vec<String>,
}

impl Machine {
    fn read(tree: &dyn Tree) -> Option<Self> {
        let mut mounts = tree.read("/proc/self/mountinfo").ok()?;
        // A sandboxed service sees less than the machine's first process.
        mounts.push_str(&tree.read("/proc/1/mountinfo").unwrap_or_default());
        let swaps = tree.read("/proc/swaps").unwrap_or_default();
        Some(Self {
            mounts: mounts.lines().filter_map(mount).collect(),
            swaps: swaps
                .lines()
                .skip(1)
                .filter_map(|line| Some(line.split_whitespace().next()?.to_owned()))
                .collect(),
        })
    }
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`: proc(5).
fn mount(line: &str) -> Option<[String; 3]> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(2);
    let (number, _root, at) = (left.next()?, left.next()?, left.next()?);
    let source = right.split(' ').nth(1)?;
    Some([number.to_owned(), unescape(at), unescape(source)])
}

/// Blanks in paths are octal: `\040`.
fn unescape(text: &str) -> String {
    let mut out = text.to_owned();
    for (code, real) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        out = out.replace(code, real);
    }
    out
}

/// Adds why `device` is at work, going up to what stands on it.
fn used(tree: &dyn Tree, machine: &Machine, device: &str, out: &mut BTreeSet<Reason>) {
    let mut todo = vec![device.to_owned()];
    let mut seen = BTreeSet::new();
    while let Some(name) = todo.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let folder = format!("/sys/class/block/{name}");
        let number = tree.read(&format!("{folder}/dev")).unwrap_or_default();
        let aliases = aliases(tree, &folder, &name);
        for [mounted, at, source] in &machine.mounts {
            // btrfs has a number of its own: there the source tells.
            if (!number.is_empty() && mounted == number.trim()) || aliases.contains(source) {
                out.insert(Reason::Mounted { device: device.to_owned(), at: at.clone() });
            }
        }
        if machine.swaps.iter().any(|swap| aliases.contains(swap)) {
            out.insert(Reason::Swap { device: device.to_owned() });
        }
        if in_btrfs(tree, &name) {
            out.insert(Reason::Held { device: device.to_owned(), by: "btrfs".to_owned() });
        }
        for holder in tree.list(&format!("{folder}/holders")).unwrap_or_default() {
            let by = describe_holder(tree, &holder);
            out.insert(Reason::Held { device: device.to_owned(), by });
            todo.push(holder);
        }
    }
}

/// The paths by which a block device goes.
fn aliases(tree: &dyn Tree, folder: &str, name: &str) -> Vec<String> {
    let mut aliases = vec![format!("/dev/{name}")];
    if let Ok(mapped) = tree.read(&format!("{folder}/dm/name")) {
        aliases.push(format!("/dev/mapper/{}", mapped.trim()));
    }
    aliases
}

/// `dm-0 (LVM vg-root)`, `md127 (raid1)`, `bcache0`.
fn describe_holder(tree: &dyn Tree, holder: &str) -> String {
    let text = |file: &str| {
        let text = tree.read(&format!("/sys/class/block/{holder}/{file}")).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    if let Some(level) = text("md/level") {
        return format!("{holder} ({level})");
    }
    let Some(name) = text("dm/name") else { return holder.to_owned() };
    let uuid = text("dm/uuid").unwrap_or_default();
    let what = match uuid.split('-').next().unwrap_or_default() {
        "LVM" => "LVM ",
        "CRYPT" => "encrypted ",
        "mpath" => "multipath ",
        part if part.starts_with("part") => "partition ",
        _ => "",
    };
    format!("{holder} ({what}{name})")
}

/// Whether a mounted btrfs of several devices has this one.
fn in_btrfs(tree: &dyn Tree, name: &str) -> bool {
    let filesystems = tree.list("/sys/fs/btrfs").unwrap_or_default();
    filesystems.iter().any(|uuid| tree.exists(&format!("/sys/fs/btrfs/{uuid}/devices/{name}")))
}

/// Adds what is written on `device`, and whether the kernel keeps it for itself.
fn carried(tree: &dyn Tree, device: &str, out: &mut BTreeSet<Reason>) {
    let path = format!("/dev/{device}");
    let sectors = tree.read(&format!("/sys/class/block/{device}/size"));
    let sectors = sectors.ok().and_then(|text| text.trim().parse::<u64>().ok());
    let Some(size) = sectors.and_then(|sectors| sectors.checked_mul(SECTOR)) else {
        out.insert(unknown(device.to_owned(), "its size is not in sysfs"));
        return;
    };
    let disk = match tree.open(&path, true) {
        Err(error) if error.kind() == ErrorKind::ResourceBusy => {
            out.insert(Reason::Claimed { device: device.to_owned() });
            tree.open(&path, false)
        }
        other => other,
    };
    match disk.and_then(|disk| probe(disk.as_ref(), size)) {
        Ok(found) => out.extend(
            found.into_iter().map(|what| Reason::Carries { device: device.to_owned(), what }),
        ),
        Err(error) => {
            out.insert(unknown(device.to_owned(), &format!("{path}: {error}")));
        }
    }
}

fn unknown(device: String, why: &str) -> Reason {
    Reason::Unknown { device, why: why.to_owned() }
}

/// Processes that have a node of the controller open: `/dev/nvme0`, `/dev/nvme0n1p2`, `/dev/ng0n1`.
fn open_files(tree: &dyn Tree, bdf: Bdf, disks: &[String]) -> Vec<Reason> {
    let controllers = tree.list(&format!("{}/nvme", pci::folder(bdf))).unwrap_or_default();
    let mut nodes: Vec<String> = controllers;
    for disk in disks {
        nodes.extend(partitions(tree, disk));
        nodes.push(disk.replacen("nvme", "ng", 1));
        nodes.push(disk.clone());
    }
    let found = openers(tree, "/dev", &nodes);
    found.into_iter().map(|(device, by)| Reason::Open { device, by }).collect()
}

/// Who has one of these nodes open, as `fio (pid 12)`. Only root sees other users' processes.
pub(crate) fn openers(tree: &dyn Tree, folder: &str, nodes: &[String]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    if nodes.is_empty() {
        return found;
    }
    // What we inherited is its parent's to close, and the parent is named.
    let own = std::process::id().to_string();
    for pid in tree.list("/proc").unwrap_or_default() {
        if !pid.bytes().all(|byte| byte.is_ascii_digit()) || pid == own {
            continue;
        }
        let fds = format!("/proc/{pid}/fd");
        for fd in tree.list(&fds).unwrap_or_default() {
            let Some(target) = tree.link(&format!("{fds}/{fd}")) else { continue };
            let Some(node) = target.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'))
            else {
                continue;
            };
            if nodes.iter().any(|known| known == node) {
                let name = tree.read(&format!("/proc/{pid}/comm")).unwrap_or_default();
                let by = format!("{} (pid {pid})", name.trim());
                let one = (node.to_owned(), by);
                if !found.contains(&one) {
                    found.push(one);
                }
            }
        }
    }
    found
}

#[cfg(test)]
#[path = "in_use_tests.rs"]
mod tests;
