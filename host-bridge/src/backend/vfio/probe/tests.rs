//! Each answer of [`super::look`], on machines made of files.

use super::*;
use crate::testing::TempDir;
use hybrid_conventions::Exit;
use std::os::unix::fs::symlink;

/// A machine with one NVMe function on vfio-pci in group 7, all well.
struct Machine(TempDir);

impl Machine {
    fn well() -> Self {
        let machine = Self(TempDir::new("vfio"));
        machine.function("0000:03:00.0", "0x010802", Some(7), Some("vfio-pci"));
        machine.0.write("sys/module/vfio_iommu_type1/refcnt", "1");
        machine.0.write("dev/vfio/vfio", "");
        machine.0.write("dev/vfio/7", "");
        machine
    }

    fn function(&self, bdf: &str, class: &str, group: Option<u32>, driver: Option<&str>) {
        let device = format!("sys/bus/pci/devices/{bdf}");
        self.0.write(&format!("{device}/class"), class);
        self.0.write(&format!("{device}/vendor"), "0x1b36");
        self.0.write(&format!("{device}/device"), "0x0010");
        if let Some(group) = group {
            let dir = format!("sys/kernel/iommu_groups/{group}");
            self.0.write(&format!("{dir}/devices/{bdf}"), "");
            self.link(&format!("{device}/iommu_group"), &format!("../../../{group}"));
        }
        if let Some(driver) = driver {
            self.0.write(&format!("sys/bus/pci/drivers/{driver}/bind"), "");
            self.link(&format!("{device}/driver"), &format!("../drivers/{driver}"));
        }
    }

    fn link(&self, at: &str, to: &str) {
        let at = self.0.path().join(at);
        let _ = fs::remove_file(&at);
        symlink(to, at).expect("a link");
    }

    fn remove(&self, path: &str) {
        let path = self.0.path().join(path);
        let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
    }

    fn look(&self, bdf: &str) -> Result<Found, VfioError> {
        look(self.0.path(), bdf.parse().expect("an address"))
    }

    /// The one line and its exit code.
    fn refusal(&self, bdf: &str) -> (String, Exit) {
        let error = self.look(bdf).expect_err("refused");
        let line = error.to_string();
        assert!(!line.contains('\n'), "{line}");
        (line, error.exit())
    }
}

#[test]
fn a_function_on_vfio_pci_is_found_by_its_short_address_too() {
    let machine = Machine::well();
    for bdf in ["0000:03:00.0", "03:00.0"] {
        let found = machine.look(bdf).expect("all well");
        assert_eq!(found.group, 7);
        assert_eq!(found.id, (0x1b36, 0x0010));
        assert_eq!(found.why, "container and group 7: this kernel has no iommufd");
        assert_eq!((found.node().as_str(), found.way), ("/dev/vfio/7", Way::Group));
    }
}

#[test]
fn an_absent_function_is_refused_with_those_that_are_there() {
    let (line, exit) = Machine::well().refusal("04:00.0");
    assert_eq!(
        line,
        "no pci function 0000:04:00.0; nvme functions here are 0000:03:00.0; list them with: \
         lspci -D -d ::0108"
    );
    assert_eq!(exit, Exit::Missing);
    let empty = Machine(TempDir::new("vfio"));
    assert!(empty.refusal("04:00.0").0.contains("this machine has no nvme function"));
}

#[test]
fn a_function_that_is_not_nvme_is_refused_by_its_class() {
    let machine = Machine::well();
    machine.function("0000:00:1f.2", "0x010601", Some(2), Some("ahci"));
    let (line, exit) = machine.refusal("00:1f.2");
    assert_eq!(
        line,
        "0000:00:1f.2 is not an nvme controller: its class is 010601, nvme is 010802; nvme \
         functions here are 0000:03:00.0"
    );
    assert_eq!(exit, Exit::Error);
}

#[test]
fn a_function_of_another_driver_is_refused_with_its_disks_and_the_command() {
    let machine = Machine::well();
    machine.function("0000:04:00.0", "0x010802", Some(8), Some("nvme"));
    for name in ["nvme0n1", "nvme0c0n1", "hwmon1", "nvme0n2"] {
        machine.0.write(&format!("sys/bus/pci/devices/0000:04:00.0/nvme/nvme0/{name}/size"), "1");
    }
    let (line, exit) = machine.refusal("04:00.0");
    assert_eq!(
        line,
        "0000:04:00.0 is in use by driver nvme as nvme0n1, nvme0n2; as root: sysconfig \
         bind 0000:04:00.0"
    );
    assert_eq!(exit, Exit::Missing);
}

#[test]
fn a_function_without_a_driver_is_refused_with_the_command() {
    let machine = Machine::well();
    machine.function("0000:05:00.0", "0x010802", Some(9), None);
    let (line, exit) = machine.refusal("05:00.0");
    assert!(line.starts_with("0000:05:00.0 is bound to no driver; as root: sysconfig"), "{line}");
    assert_eq!(exit, Exit::Missing);
}

#[test]
fn a_kernel_owned_neighbour_is_named_with_its_driver_and_bridges_are_not() {
    let machine = Machine::well();
    machine.function("0000:02:00.0", "0x060400", Some(7), Some("pcieport"));
    machine.function("0000:03:00.1", "0x020000", Some(7), None);
    assert!(machine.look("03:00.0").is_ok(), "a bridge and an unbound function");
    machine.function("0000:03:00.1", "0x020000", Some(7), Some("e1000e"));
    let (line, exit) = machine.refusal("03:00.0");
    assert_eq!(
        line,
        "0000:03:00.0 shares iommu group 7 with 0000:03:00.1, which driver e1000e has: the whole \
         group must be on vfio-pci or unbound; as root: driverctl set-override 0000:03:00.1 \
         vfio-pci"
    );
    assert_eq!(exit, Exit::Missing);
}

#[test]
fn a_machine_without_an_iommu_is_told_how_to_switch_it_on() {
    let machine = Machine::well();
    machine.remove("sys/bus/pci/devices/0000:03:00.0/iommu_group");
    let (line, exit) = machine.refusal("03:00.0");
    assert!(line.contains("boot with intel_iommu=on"), "{line}");
    assert!(line.contains("dmesg | grep -e DMAR -e AMD-Vi"), "{line}");
    assert_eq!(exit, Exit::Missing);
}

#[test]
fn missing_modules_are_named_with_modprobe() {
    let machine = Machine::well();
    machine.remove("sys/module/vfio_iommu_type1");
    let (line, exit) = machine.refusal("03:00.0");
    assert!(line.ends_with("as root: modprobe vfio_iommu_type1"), "{line}");
    machine.remove("sys/bus/pci/drivers/vfio-pci");
    machine.remove("dev/vfio");
    assert_eq!(exit, Exit::Missing);
    let (line, _) = machine.refusal("03:00.0");
    assert_eq!(line, "kernel module vfio-pci is not loaded; as root: modprobe vfio-pci");
}

#[test]
fn a_group_file_that_is_not_there_yet_is_named() {
    let machine = Machine::well();
    machine.remove("dev/vfio/7");
    let (line, exit) = machine.refusal("03:00.0");
    assert!(line.starts_with("/dev/vfio/7 is not there although 0000:03:00.0 is on"), "{line}");
    assert_eq!(exit, Exit::Missing);
}

#[test]
fn a_file_that_may_not_be_opened_comes_with_chown_and_a_udev_rule() {
    let machine = Machine::well();
    let uid = rustix::process::getuid().as_raw();
    machine.0.write("etc/passwd", &format!("trader:x:{uid}:100::/:/bin/sh\n"));
    let line = no_permission(machine.0.path(), group_node(7)).to_string();
    assert_eq!(
        line,
        "/dev/vfio/7 may not be opened by user trader; as root: chown trader /dev/vfio/7, or for \
         good: echo 'SUBSYSTEM==\"vfio\", OWNER=\"trader\"' > \
         /etc/udev/rules.d/70-hybrid-vfio.rules"
    );
}

#[test]
fn a_group_that_no_iommu_holds_back_is_refused() {
    let machine = Machine::well();
    machine.0.write("sys/kernel/iommu_groups/7/name", "vfio-noiommu\n");
    machine.0.write("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n");
    machine.0.write("dev/vfio/noiommu-7", "");
    let (line, exit) = machine.refusal("03:00.0");
    assert!(line.contains("it could write anywhere in memory"), "{line}");
    assert!(line.contains("boot with intel_iommu=on"), "{line}");
    assert_eq!(exit, Exit::Missing);
}

/// A kernel with iommufd and a file for the device.
fn newer() -> Machine {
    let machine = Machine::well();
    machine.0.write("dev/iommu", "");
    machine.0.write("sys/bus/pci/devices/0000:03:00.0/vfio-dev/vfio3/dev", "240:3");
    machine.0.write("dev/vfio/devices/vfio3", "");
    machine
}

#[test]
fn iommufd_is_taken_where_the_kernel_has_it_and_needs_nothing_of_the_older_way() {
    let machine = newer();
    for gone in ["", "sys/module/vfio_iommu_type1", "dev/vfio/7", "dev/vfio/vfio"] {
        if !gone.is_empty() {
            machine.remove(gone);
        }
        let found = machine.look("03:00.0").expect("by iommufd");
        assert_eq!(found.why, "iommufd and /dev/vfio/devices/vfio3: this kernel has both");
        assert_eq!(found.way, Way::Iommufd { node: "/dev/vfio/devices/vfio3".to_owned() });
        assert_eq!(found.node(), "/dev/vfio/devices/vfio3");
    }
}

#[test]
fn without_iommufd_or_the_devices_file_the_group_is_taken() {
    let no_file = "container and group 7: this kernel has iommufd but no file for the device";
    let no_iommufd = "container and group 7: this kernel has no iommufd";
    for (gone, why) in [
        ("dev/iommu", no_iommufd),
        ("dev/vfio/devices", no_file),
        ("sys/bus/pci/devices/0000:03:00.0/vfio-dev", no_file),
        // Kernels since 6.1 have the directory, those before 6.6 or built without files no number.
        ("sys/bus/pci/devices/0000:03:00.0/vfio-dev/vfio3/dev", no_file),
    ] {
        let machine = newer();
        machine.remove(gone);
        let found = machine.look("03:00.0").expect("by group");
        assert_eq!((found.why.as_str(), found.way), (why, Way::Group), "{gone}");
        machine.remove("dev/vfio/vfio");
        let line = machine.refusal("03:00.0").0;
        assert_eq!(line, "kernel module vfio is not loaded; as root: modprobe vfio");
    }
}

#[test]
fn an_iommufd_without_the_devices_file_still_needs_the_older_ways_module() {
    let machine = newer();
    machine.remove("dev/vfio/devices");
    machine.remove("sys/module/vfio_iommu_type1");
    let line = machine.refusal("03:00.0").0;
    assert!(line.ends_with("as root: modprobe vfio_iommu_type1"), "{line}");
}

#[test]
fn a_group_that_no_iommu_holds_back_is_refused_with_iommufd_too() {
    let machine = newer();
    machine.0.write("sys/kernel/iommu_groups/7/name", "vfio-noiommu\n");
    assert!(machine.refusal("03:00.0").0.contains("it could write anywhere in memory"));
}

#[test]
fn the_devices_file_has_a_udev_rule_of_its_own() {
    let machine = newer();
    let line = no_permission(machine.0.path(), "/dev/vfio/devices/vfio3".to_owned()).to_string();
    assert!(line.contains("echo 'KERNEL==\"iommu|vfio[0-9]*\", OWNER="), "{line}");
}

#[test]
fn a_user_who_may_open_only_the_group_goes_through_it() {
    let machine = newer();
    machine.0.write("etc/passwd", "");
    let root = machine.0.path();
    let bdf: Bdf = "03:00.0".parse().expect("an address");
    let sysfs = root.join("sys/bus/pci/devices/0000:03:00.0");
    let user = crate::memory::user_name(root);
    for shut in ["/dev/iommu", "/dev/vfio/devices/vfio3"] {
        let (way, why) = choose(root, &sysfs, bdf, 7, |_, path| path != shut).expect("by group");
        assert_eq!(way, Way::Group);
        let wanted = format!("container and group 7: {shut} may not be opened by user {user}");
        assert_eq!(why, wanted);
    }
    let shut = |_: &Path, _: &str| false;
    let line = choose(root, &sysfs, bdf, 7, shut).expect_err("no way").to_string();
    assert!(line.starts_with("/dev/vfio/7 may not be opened by user"), "{line}");
    machine.remove("dev/vfio/vfio");
    let line = choose(root, &sysfs, bdf, 7, shut).expect_err("no way").to_string();
    assert!(line.starts_with("/dev/iommu may not be opened by user"), "{line}");
}
