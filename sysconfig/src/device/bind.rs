//! Binding a function to vfio-pci, and giving it back.
//!
//! Called by the verbs `bind` and `unbind`, by `apply` and `reset`, and by `serve`. It uses
//! `driver_override` and `drivers_probe`, never `new_id`, which would take every device of the same
//! model; where driverctl is installed, it does these writes. What was there is put back when the
//! new driver does not come.
//!
//! ```text
//!        bind: checks, override = vfio-pci, unbind, probe, nodes appear
//! nvme ────────────────────────────────────────────────────────────────► vfio-pci
//!      ◄────────────────────────────────────────────────────────────────
//!        unbind: nobody has it open, override = none, unbind, probe
//! ```

use std::io;
use std::time::Duration;

use hybrid_conventions::{Bdf, Exit};

use super::in_use::{self, Reason};
use super::pci::{self, Function};
use super::tree::Tree;

/// The driver that gives a function to user space.
pub(crate) const VFIO: &str = "vfio-pci";

/// Longest that a driver and its nodes take to appear, and the time between two looks.
const APPEARS: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(10);

/// Longest that a node for commands is waited for where its disk is there; not every one has one.
const GENERIC: Duration = Duration::from_secs(1);

/// Longest that the kernel's driver takes to show a drive's namespaces.
const SCANNED: Duration = Duration::from_secs(5);

/// Where driverctl may be.
const DRIVERCTL: &[&str] = &["/usr/sbin/driverctl", "/sbin/driverctl", "/usr/bin/driverctl"];
const MODPROBE: &[&str] = &["/usr/sbin/modprobe", "/sbin/modprobe", "/usr/bin/modprobe"];

const UDEVADM: &[&str] = &["/usr/bin/udevadm", "/bin/udevadm", "/sbin/udevadm"];

/// Why a function was not bound or not given back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    /// No such function.
    #[error("{0} is not there: no PCI function has this address; sysconfig status lists the disks")]
    NotThere(Bdf),
    /// Something else than a disk.
    #[error("{function} is not an NVMe controller but of class {class:06x}: only NVMe is bound",
            class = function.class)]
    NotNvme { function: Box<Function> },
    /// The disk is at work, or carries data.
    #[error("{bdf} is in use: {}; {}", list(reasons), fix(reasons))]
    InUse { bdf: Bdf, reasons: Vec<Reason> },
    /// The kernel owns a neighbour.
    #[error(
        "{bdf} shares IOMMU group {group} with {neighbour}, which the driver {driver} has: a group \
         is given away as a whole; unbind it too (echo {} > /sys/bus/pci/devices/{}/driver/unbind) \
         or move the disk to another slot", neighbour.bdf, neighbour.bdf
    )]
    Neighbour { bdf: Bdf, group: u32, neighbour: Box<Function>, driver: String },
    /// No IOMMU.
    #[error(
        "{0} is in no IOMMU group: no IOMMU is on; switch it on in the firmware (VT-d, AMD-Vi), \
         and on Intel boot with intel_iommu=on (sysconfig apply writes that)"
    )]
    NoIommu(Bdf),
    /// No driver.
    #[error("the driver vfio-pci is not there; load it: modprobe vfio-pci")]
    NoVfio,
    /// Somebody still uses it.
    #[error("{bdf} is open in {by}: end it first")]
    Open { bdf: Bdf, by: String },
    /// Nothing to give back.
    #[error("{bdf} is not on vfio-pci but {}; nothing to give back", on(driver))]
    NotOnVfio { bdf: Bdf, driver: Option<String> },
    /// A write that was refused.
    #[error("{path}: {error}{}; {}", root_hint(error), restored(*.back))]
    Write { path: String, error: io::Error, back: bool },
    /// The driver did not come.
    #[error(
        "{bdf}: {wanted} did not take it within {} s: it is {}; dmesg may tell why; {}",
        APPEARS.as_secs(), on(driver), restored(*.back)
    )]
    DriverMissing { bdf: Bdf, wanted: String, driver: Option<String>, back: bool },
    /// The nodes did not come.
    #[error("{bdf} is on vfio-pci, but {node} did not appear within {} s; {}", APPEARS.as_secs(),
            restored(*.back))]
    NodeMissing { bdf: Bdf, node: String, back: bool },
}

impl BindError {
    /// What the program exits with.
    pub(crate) const fn exit(&self) -> Exit {
        match self {
            Self::NotThere(_) | Self::NoIommu(_) | Self::NoVfio => Exit::Missing,
            _ => Exit::Error,
        }
    }

    fn put_back(mut self, done: bool) -> Self {
        match &mut self {
            Self::Write { back, .. }
            | Self::DriverMissing { back, .. }
            | Self::NodeMissing { back, .. } => *back = done,
            _ => {}
        }
        self
    }
}

fn list(reasons: &[Reason]) -> String {
    reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The fix of the gravest reason.
fn fix(reasons: &[Reason]) -> String {
    reasons.first().map(Reason::fix).unwrap_or_default()
}

fn on(driver: &Option<String>) -> String {
    driver.as_ref().map_or("without a driver".to_owned(), |driver| format!("on {driver}"))
}

fn root_hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied { " (run it as root)" } else { "" }
}

fn restored(back: bool) -> &'static str {
    if back { "what was before is back" } else { "nothing could be put back: look at it by hand" }
}

/// Who had a function, so that it can be put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Binding {
    pub(crate) driver: Option<String>,
    pub(crate) driver_override: Option<String>,
}

/// What a bind did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) bdf: Bdf,
    pub(crate) group: u32,
    /// What was before; equal to what is if nothing was to be done.
    pub(crate) before: Binding,
    /// Nodes that user space opens: `/dev/vfio/7`, `/dev/vfio/devices/vfio0`.
    pub(crate) nodes: Vec<String>,
}

/// Checks whether `bdf` may be given to user space.
///
/// # Errors
/// The first thing that speaks against it.
pub(crate) fn check(tree: &dyn Tree, bdf: Bdf, force: bool) -> Result<Function, BindError> {
    let function = Function::read(tree, bdf).ok_or(BindError::NotThere(bdf))?;
    if !function.is_nvme() {
        return Err(BindError::NotNvme { function: Box::new(function) });
    }
    let group = function.group.ok_or(BindError::NoIommu(bdf))?;
    if !function.is_on_vfio() {
        if function.driver.as_deref() == Some("nvme") {
            // What has not come by then is a reason.
            let _ = wait(tree, SCANNED, || in_use::is_scanned(tree, bdf));
        }
        let mut reasons = in_use::reasons(tree, bdf);
        reasons.retain(|reason| !(force && reason.can_be_overridden()));
        if !reasons.is_empty() {
            return Err(BindError::InUse { bdf, reasons });
        }
    }
    let members = tree.list(&format!("/sys/kernel/iommu_groups/{group}/devices"));
    for name in members.unwrap_or_default() {
        let neighbour = name.parse().ok().filter(|member| *member != bdf);
        let neighbour = neighbour.and_then(|member| Function::read(tree, member));
        let Some(neighbour) = neighbour.filter(|neighbour| !neighbour.is_bridge()) else {
            continue;
        };
        // Stubs hold a function for nobody.
        let harmless = [VFIO, "pci-stub", "pciback"];
        if let Some(driver) = neighbour.driver.clone()
            && !harmless.contains(&driver.as_str())
        {
            let neighbour = Box::new(neighbour);
            return Err(BindError::Neighbour { bdf, group, neighbour, driver });
        }
    }
    Ok(function)
}

/// Gives a function to vfio-pci and waits until user space can open it.
///
/// # Errors
/// [`BindError`]; what was before is then put back as far as the kernel lets us.
pub(crate) fn bind(tree: &dyn Tree, bdf: Bdf, force: bool) -> Result<Bound, BindError> {
    let function = check(tree, bdf, force)?;
    let group = function.group.ok_or(BindError::NoIommu(bdf))?;
    let (driver, driver_override) = (function.driver.clone(), function.driver_override.clone());
    let before = Binding { driver, driver_override };
    if !function.is_on_vfio() {
        let there = || tree.exists("/sys/bus/pci/drivers/vfio-pci");
        if !there() {
            run_first(tree, MODPROBE, &["vfio-pci"]);
        }
        if !there() {
            return Err(BindError::NoVfio);
        }
        let taken = rebind(tree, bdf, Some(VFIO)).and_then(|()| wait_for_driver(tree, bdf, VFIO));
        taken.map_err(|error| error.put_back(back_to(tree, bdf, &before)))?;
    }
    match wait_for_nodes(tree, bdf, group) {
        Ok(nodes) => Ok(Bound { bdf, group, before, nodes }),
        Err(error) if function.is_on_vfio() => Err(error.put_back(true)),
        Err(error) => Err(error.put_back(back_to(tree, bdf, &before))),
    }
}

/// Gives a function back to the kernel's own driver.
///
/// # Errors
/// [`BindError`]: it is open, it was not ours, or no driver takes it.
pub(crate) fn unbind(tree: &dyn Tree, bdf: Bdf) -> Result<String, BindError> {
    let function = Function::read(tree, bdf).ok_or(BindError::NotThere(bdf))?;
    if !function.is_nvme() {
        return Err(BindError::NotNvme { function: Box::new(function) });
    }
    if !function.is_on_vfio() && function.driver.is_some() {
        return Err(BindError::NotOnVfio { bdf, driver: function.driver });
    }
    if let Some(by) = opener(tree, &function) {
        return Err(BindError::Open { bdf, by });
    }
    if !tree.exists("/sys/bus/pci/drivers/nvme") {
        run_first(tree, MODPROBE, &["nvme"]);
    }
    rebind(tree, bdf, None)?;
    wait_for_driver(tree, bdf, "nvme").map(|()| "nvme".to_owned())
}

/// The nodes that the kernel's driver makes of a drive, once it has looked at it: `/dev/nvme0n1`,
/// `/dev/ng0n1`. Empty if it shows none in time.
pub(crate) fn kernel_nodes(tree: &dyn Tree, bdf: Bdf) -> Vec<String> {
    let there = || in_use::is_scanned(tree, bdf);
    if !wait(tree, SCANNED, there) {
        return Vec::new();
    }
    // What udev does with new nodes it has done then; where there is no udev nothing is waited for.
    let settle = || run_first(tree, UDEVADM, &["settle", "--timeout=5"]);
    settle();
    let disks = in_use::namespaces(tree, bdf);
    let generic = |disk: &String| disk.strip_prefix("nvme").map(|rest| format!("/dev/ng{rest}"));
    if tree.exists("/sys/class/nvme-generic") {
        // The kernel makes a disk first, and its node for commands right after it.
        let all = || disks.iter().filter_map(generic).all(|node| tree.exists(&node));
        if !all() {
            let _ = wait(tree, GENERIC, all);
            settle();
        }
    }
    let both = |disk: &String| [Some(format!("/dev/{disk}")), generic(disk)].into_iter().flatten();
    disks.iter().flat_map(both).filter(|node| tree.exists(node)).collect()
}

/// Puts back what [`Bound::before`] says.
///
/// # Errors
/// [`BindError`] if the kernel refuses, or somebody has the function open.
pub(crate) fn restore(tree: &dyn Tree, bdf: Bdf, before: &Binding) -> Result<(), BindError> {
    let function = Function::read(tree, bdf).ok_or(BindError::NotThere(bdf))?;
    if function.driver == before.driver {
        return write_override(tree, bdf, before.driver_override.as_deref());
    }
    // Taking a function from vfio-pci waits, without end, for whoever has it open.
    if let Some(by) = opener(tree, &function) {
        return Err(BindError::Open { bdf, by });
    }
    match &before.driver {
        None => {
            release(tree, bdf)?;
            write_override(tree, bdf, before.driver_override.as_deref())
        }
        Some(driver) => {
            // For the time of the probe the override names the one that had it.
            rebind(tree, bdf, Some(driver))?;
            wait_for_driver(tree, bdf, driver)?;
            write_override(tree, bdf, before.driver_override.as_deref())
        }
    }
}

/// Puts it back after a failure; whether it is as it was.
fn back_to(tree: &dyn Tree, bdf: Bdf, before: &Binding) -> bool {
    // A refused first write changed nothing, and refuses the last one too: look instead of asking.
    let _ = restore(tree, bdf, before);
    Function::read(tree, bdf).is_some_and(|now| {
        now.driver == before.driver && now.driver_override == before.driver_override
    })
}

/// Who has a function of vfio-pci open.
fn opener(tree: &dyn Tree, function: &Function) -> Option<String> {
    if !function.is_on_vfio() {
        return None;
    }
    let mut nodes: Vec<String> = function.group.iter().map(ToString::to_string).collect();
    nodes.extend(cdev(tree, function.bdf).map(|name| format!("devices/{name}")));
    in_use::openers(tree, "/dev/vfio", &nodes).into_iter().next().map(|(_, by)| by)
}

/// The override, off the old driver, and a probe: with driverctl, else by hand.
fn rebind(tree: &dyn Tree, bdf: Bdf, driver: Option<&str>) -> Result<(), BindError> {
    let address = bdf.to_string();
    let done = match driver {
        Some(driver) => run_first(tree, DRIVERCTL, &["--nosave", "set-override", &address, driver]),
        None => run_first(tree, DRIVERCTL, &["--nosave", "unset-override", &address]),
    };
    if done {
        return Ok(());
    }
    write_override(tree, bdf, driver)?;
    release(tree, bdf)?;
    write(tree, "/sys/bus/pci/drivers_probe", &address)
}

/// Takes a function from the driver that has it, if one does.
fn release(tree: &dyn Tree, bdf: Bdf) -> Result<(), BindError> {
    let driver = format!("{}/driver", pci::folder(bdf));
    if tree.link_name(&driver).is_none() {
        return Ok(());
    }
    write(tree, &format!("{driver}/unbind"), &bdf.to_string())
}

/// A newline alone clears it.
fn write_override(tree: &dyn Tree, bdf: Bdf, driver: Option<&str>) -> Result<(), BindError> {
    let path = format!("{}/driver_override", pci::folder(bdf));
    write(tree, &path, &format!("{}\n", driver.unwrap_or_default()))
}

fn write(tree: &dyn Tree, path: &str, text: &str) -> Result<(), BindError> {
    let failed = |error| BindError::Write { path: path.to_owned(), error, back: false };
    tree.write(path, text).map_err(failed)
}

/// Runs the first of these programs that is there.
fn run_first(tree: &dyn Tree, programs: &[&str], args: &[&str]) -> bool {
    let there = programs.iter().find(|program| tree.exists(program));
    there.is_some_and(|program| tree.run(program, args))
}

fn wait_for_driver(tree: &dyn Tree, bdf: Bdf, wanted: &str) -> Result<(), BindError> {
    let path = format!("{}/driver", pci::folder(bdf));
    let there = || tree.link_name(&path).as_deref() == Some(wanted);
    if wait(tree, APPEARS, there) {
        return Ok(());
    }
    let (driver, wanted) = (tree.link_name(&path), wanted.to_owned());
    Err(BindError::DriverMissing { bdf, wanted, driver, back: false })
}

/// The group's node where the kernel has containers, and the device's own where it has those.
fn wait_for_nodes(tree: &dyn Tree, bdf: Bdf, group: u32) -> Result<Vec<String>, BindError> {
    let group = format!("/dev/vfio/{group}");
    let expected = || {
        let own = cdev(tree, bdf).map(|name| format!("/dev/vfio/devices/{name}"));
        let legacy = tree.exists("/dev/vfio/vfio") || own.is_none();
        let mut nodes: Vec<String> = legacy.then(|| group.clone()).into_iter().collect();
        nodes.extend(own);
        nodes
    };
    let missing = || expected().into_iter().find(|node| !tree.exists(node));
    if wait(tree, APPEARS, || missing().is_none()) {
        return Ok(expected());
    }
    let node = missing().unwrap_or(group);
    Err(BindError::NodeMissing { bdf, node, back: false })
}

/// `vfio0`: the function's own character device, where the kernel has them.
///
/// Linux 6.1 has the folder and no device; only one with a number has a node.
fn cdev(tree: &dyn Tree, bdf: Bdf) -> Option<String> {
    let folder = format!("{}/vfio-dev", pci::folder(bdf));
    let names = tree.list(&folder).ok()?;
    names
        .into_iter()
        .find(|name| name.starts_with("vfio") && tree.exists(&format!("{folder}/{name}/dev")))
}

/// Looks again and again, for at most this time.
fn wait(tree: &dyn Tree, longest: Duration, there: impl Fn() -> bool) -> bool {
    let looks = longest.as_millis() / LOOK.as_millis();
    for _ in 0..looks {
        if there() {
            return true;
        }
        tree.pause(LOOK);
    }
    there()
}

#[cfg(test)]
#[path = "bind_tests.rs"]
mod tests;
