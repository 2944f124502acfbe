//! The verbs `bind` and `unbind`, and the device table of `status`.

use std::fmt::{Display, Write as _};

use clap::Args;
use hybrid_conventions::{Bdf, BdfPattern, Column, Exit, Table};
use serde::Serialize;

use super::bind::{self, BindError};
use super::in_use;
use super::pci::{Function, matching};
use super::tree::Tree;
use crate::failure::Failure;
use crate::output;

/// The command line of `bind`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "A disk that is mounted, swapped on, held (LVM, RAID, encryption, bcache, \
    multipath) or open is never bound. One that carries a filesystem, a partition table or another \
    known format is bound with --force-in-use only.\n\n\
    Examples:\n  \
      sysconfig bind 03:00.0\n  \
      sysconfig bind 03:00.0 --check\n  \
      sysconfig bind '03:*'")]
pub(crate) struct BindArgs {
    /// The NVMe controllers: 0000:03:00.0, 03:00.0 or a pattern such as '03:*'
    #[arg(value_name = "BDF", required = true)]
    devices: Vec<BdfPattern>,
    /// Bind a disk that carries data (its data stays, and is open to whoever drives the disk then)
    #[arg(long)]
    force_in_use: bool,
    /// Only say whether they could be bound
    #[arg(long)]
    check: bool,
}

/// The command line of `unbind`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  sysconfig unbind 03:00.0\n  sysconfig unbind '03:*'")]
pub(crate) struct UnbindArgs {
    /// The NVMe controllers: 0000:03:00.0, 03:00.0 or a pattern such as '03:*'
    #[arg(value_name = "BDF", required = true)]
    devices: Vec<BdfPattern>,
}

/// One row of the table, for JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct DeviceRow {
    pub(crate) r#type: &'static str,
    pub(crate) bdf: String,
    pub(crate) vendor: String,
    pub(crate) device: String,
    pub(crate) numa: Option<u32>,
    pub(crate) driver: Option<String>,
    pub(crate) iommu_group: Option<u32>,
    pub(crate) in_use_because: Vec<String>,
}

/// NVMe controllers, and whatever else is on vfio-pci.
pub(crate) fn rows(tree: &dyn Tree) -> Vec<DeviceRow> {
    let all = Function::all(tree).into_iter();
    let ours = all.filter(|function| function.is_nvme() || function.is_on_vfio());
    ours.map(|function| row(tree, &function)).collect()
}

fn row(tree: &dyn Tree, function: &Function) -> DeviceRow {
    let reasons = in_use::reasons(tree, function.bdf);
    DeviceRow {
        r#type: function.kind(),
        bdf: function.bdf.to_string(),
        vendor: format!("{:04x}", function.vendor),
        device: format!("{:04x}", function.device),
        numa: function.numa,
        driver: function.driver.clone(),
        iommu_group: function.group,
        in_use_because: reasons.iter().map(ToString::to_string).collect(),
    }
}

/// The device table; a line that says so where there is no device.
pub(crate) fn table(rows: &[DeviceRow]) -> String {
    if rows.is_empty() {
        return "no NVMe controller, and nothing on vfio-pci\n".to_owned();
    }
    let table = Table::new([
        Column::left("Type"),
        Column::left("BDF"),
        Column::left("Vendor"),
        Column::left("Device"),
        Column::right("NUMA"),
        Column::left("Driver"),
        Column::right("IOMMU-group"),
        Column::left("In-use-because"),
    ]);
    let dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let number = |number: Option<u32>| dash(number.map(|number| number.to_string()));
    let cells: Vec<[String; 8]> = rows
        .iter()
        .map(|row| {
            let because = row.in_use_because.join(", ");
            [
                row.r#type.to_owned(),
                row.bdf.clone(),
                row.vendor.clone(),
                row.device.clone(),
                number(row.numa),
                dash(row.driver.clone()),
                number(row.iommu_group),
                dash(Some(because).filter(|because| !because.is_empty())),
            ]
        })
        .collect();
    let refs: Vec<[&dyn Display; 8]> =
        cells.iter().map(|row| row.each_ref().map(|cell| cell as &dyn Display)).collect();
    let mut out = String::new();
    // A string takes everything.
    let _ = table.write(&mut out, &refs);
    out
}

impl From<BindError> for Failure {
    fn from(error: BindError) -> Self {
        Self { exit: error.exit(), line: error.to_string() }
    }
}

/// The controllers that the patterns name, each once.
fn named(tree: &dyn Tree, patterns: &[BdfPattern]) -> Result<Vec<Bdf>, Failure> {
    let mut found = Vec::new();
    for pattern in patterns {
        let functions = matching(tree, pattern);
        match (functions.is_empty(), pattern.as_bdf()) {
            (true, Some(bdf)) => return Err(BindError::NotThere(bdf).into()),
            (true, None) => {
                return Err(Failure::missing(format_args!(
                    "{pattern} names no NVMe controller; sysconfig status lists them"
                )));
            }
            (false, _) => found.extend(functions.iter().map(|function| function.bdf)),
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Binds to vfio-pci. All are checked before the first is touched.
pub(crate) fn bind_command(tree: &dyn Tree, args: &BindArgs) -> Result<Exit, Failure> {
    let bdfs = named(tree, &args.devices)?;
    for bdf in &bdfs {
        bind::check(tree, *bdf, args.force_in_use)?;
    }
    let mut text = String::new();
    for bdf in bdfs {
        if args.check {
            let _ = writeln!(text, "{bdf}  can be bound");
            continue;
        }
        let bound = bind::bind(tree, bdf, args.force_in_use)?;
        let was = match bound.before.driver.as_deref() {
            Some(bind::VFIO) => "was there already".to_owned(),
            Some(driver) => format!("was on {driver}"),
            None => "had no driver".to_owned(),
        };
        output::result(format_args!("{bdf}  on vfio-pci ({was}): {}\n", bound.nodes.join(" ")))?;
    }
    output::result(text)?;
    Ok(Exit::Ok)
}

/// Gives back to the kernel's driver.
pub(crate) fn unbind_command(tree: &dyn Tree, args: &UnbindArgs) -> Result<Exit, Failure> {
    for bdf in named(tree, &args.devices)? {
        let driver = bind::unbind(tree, bdf)?;
        output::result(format_args!("{bdf}  on {driver}\n"))?;
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeKernel;
    use super::*;

    #[test]
    fn the_table_has_the_agreed_columns() {
        let kernel = FakeKernel::with_drive();
        kernel.partition("nvme0n1", "nvme0n1p1", "259:1");
        kernel.file("/proc/self/mountinfo", "36 35 259:1 / /data rw - ext4 /dev/nvme0n1p1 rw\n");
        kernel.function("0000:04:00.0", "0x010802", Some("vfio-pci"), Some(12));
        kernel.file("/sys/bus/pci/devices/0000:04:00.0/numa_node", "1\n");
        kernel.function("0000:05:00.0", "0x020000", Some("e1000e"), Some(13));
        kernel.function("0000:06:00.0", "0x020000", Some("vfio-pci"), Some(14));
        assert_eq!(
            table(&rows(&kernel)),
            "Type     BDF           Vendor  Device  NUMA  Driver    IOMMU-group  In-use-because\n\
             NVMe     0000:03:00.0  1b36    0010       -  nvme                7  \
             mounted at /data (nvme0n1p1)\n\
             NVMe     0000:04:00.0  1b36    0010       1  vfio-pci           12  -\n\
             network  0000:06:00.0  1b36    0010       -  vfio-pci           14  -\n"
        );
    }

    #[test]
    fn a_machine_without_drives_says_so() {
        assert_eq!(
            table(&rows(&FakeKernel::default())),
            "no NVMe controller, and nothing on vfio-pci\n"
        );
    }

    #[test]
    fn short_addresses_and_patterns_name_controllers() {
        let kernel = FakeKernel::with_drive();
        kernel.function("0000:03:00.1", "0x010802", None, Some(8));
        kernel.function("0000:03:00.2", "0x020000", None, Some(9));
        let names = |texts: &[&str]| {
            let patterns: Vec<BdfPattern> =
                texts.iter().map(|text| text.parse().expect("a pattern")).collect();
            named(&kernel, &patterns)
                .map(|bdfs| bdfs.iter().map(ToString::to_string).collect::<Vec<_>>())
                .map_err(|failure| (failure.exit, failure.line))
        };
        assert_eq!(names(&["03:00.0"]), Ok(vec!["0000:03:00.0".to_owned()]));
        assert_eq!(
            names(&["03:*", "03:00.0"]),
            Ok(vec!["0000:03:00.0".to_owned(), "0000:03:00.1".to_owned()])
        );
        assert!(names(&["04:00.0"]).is_err_and(|(exit, _)| exit == Exit::Missing));
        assert!(names(&["04:*"]).is_err_and(|(exit, _)| exit == Exit::Missing));
    }

    #[test]
    fn one_bad_controller_leaves_all_untouched() {
        let kernel = FakeKernel::with_drive();
        kernel.function("0000:03:00.1", "0x010802", Some("nvme"), None);
        let devices = vec!["03:*".parse().expect("a pattern")];
        let args = BindArgs { devices, force_in_use: false, check: false };
        let failure = bind_command(&kernel, &args).expect_err("no IOMMU for the second");
        assert_eq!(failure.exit, Exit::Missing);
        assert!(kernel.writes.borrow().is_empty());
    }
}
