//! Binding against a kernel of the tests' own: what is written, and what is put back.

use super::super::fake::FakeKernel;
use super::*;

const BDF: &str = "0000:03:00.0";

fn bdf() -> Bdf {
    BDF.parse().expect("an address")
}

fn refused(kernel: &FakeKernel, force: bool) -> (Exit, String) {
    let error = bind(kernel, bdf(), force).expect_err("refused");
    assert_eq!(kernel.writes.borrow().len(), 0, "a refusal writes nothing: {error}");
    (error.exit(), error.to_string())
}

#[test]
fn a_free_drive_is_bound_by_override_and_probe_and_given_back() {
    let kernel = FakeKernel::with_drive();
    let bound = bind(&kernel, bdf(), false).expect("nothing speaks against it");
    assert_eq!((bound.group, bound.nodes), (7, vec!["/dev/vfio/7".to_owned()]));
    assert_eq!(bound.before.driver.as_deref(), Some("nvme"));
    assert_eq!(kernel.driver(BDF).as_deref(), Some("vfio-pci"));
    assert_eq!(
        kernel.writes.borrow()[..],
        [
            "/sys/bus/pci/devices/0000:03:00.0/driver_override = vfio-pci",
            "/sys/bus/pci/devices/0000:03:00.0/driver/unbind = 0000:03:00.0",
            "/sys/bus/pci/drivers_probe = 0000:03:00.0",
        ]
    );
    // Once more: it is there already, and nothing is written.
    let again = bind(&kernel, bdf(), false).expect("idempotent");
    assert_eq!(again.before.driver.as_deref(), Some("vfio-pci"));
    assert_eq!(kernel.writes.borrow().len(), 3);

    assert_eq!(unbind(&kernel, bdf()).expect("nobody has it open"), "nvme");
    assert_eq!(kernel.driver(BDF).as_deref(), Some("nvme"));
    let function = Function::read(&kernel, bdf()).expect("there");
    assert_eq!(function.driver_override, None);
    let error = unbind(&kernel, bdf()).expect_err("it is the kernel's").to_string();
    assert_eq!(error, "0000:03:00.0 is not on vfio-pci but on nvme; nothing to give back");
}

#[test]
fn what_is_missing_is_exit_3_with_what_fixes_it() {
    let kernel = FakeKernel::default();
    let (exit, line) = refused(&kernel, false);
    assert_eq!(exit, Exit::Missing);
    assert!(line.starts_with("0000:03:00.0 is not there"), "{line}");

    let kernel = FakeKernel::with_drive();
    kernel.links.borrow_mut().remove(&format!("/sys/bus/pci/devices/{BDF}/iommu_group"));
    let (exit, line) = refused(&kernel, true);
    assert_eq!(exit, Exit::Missing);
    assert!(line.contains("intel_iommu=on"), "{line}");

    let kernel = FakeKernel::with_drive();
    kernel.files.borrow_mut().remove("/sys/bus/pci/drivers/vfio-pci/bind");
    let (exit, line) = refused(&kernel, false);
    assert_eq!((exit, line.contains("modprobe vfio-pci")), (Exit::Missing, true), "{line}");
}

#[test]
fn the_module_is_loaded_where_it_can_be() {
    let kernel = FakeKernel::with_drive();
    kernel.files.borrow_mut().remove("/sys/bus/pci/drivers/vfio-pci/bind");
    kernel.file("/sbin/modprobe", "");
    kernel.modules.borrow_mut().push("vfio-pci".to_owned());
    bind(&kernel, bdf(), false).expect("loaded");
    assert_eq!(kernel.runs.borrow()[..], ["/sbin/modprobe vfio-pci"]);
}

#[test]
fn only_nvme_is_bound() {
    let kernel = FakeKernel::with_drive();
    kernel.function(BDF, "0x020000", Some("e1000e"), Some(7));
    let (exit, line) = refused(&kernel, true);
    assert_eq!(exit, Exit::Error);
    assert_eq!(
        line,
        "0000:03:00.0 (1b36:0010) is not an NVMe controller but of class 020000: only NVMe is bound"
    );
}

#[test]
fn a_neighbour_of_the_kernel_is_named_and_a_bridge_is_none() {
    let kernel = FakeKernel::with_drive();
    kernel.function("0000:00:1c.0", "0x060400", Some("pcieport"), Some(7));
    kernel.function("0000:03:00.1", "0x020000", None, Some(7));
    assert!(check(&kernel, bdf(), false).is_ok());
    kernel.function("0000:03:00.1", "0x020000", Some("e1000e"), Some(7));
    let (exit, line) = refused(&kernel, true);
    assert_eq!(exit, Exit::Error);
    assert!(
        line.starts_with(
            "0000:03:00.0 shares IOMMU group 7 with 0000:03:00.1 (1b36:0010), which the driver \
             e1000e has"
        ),
        "{line}"
    );
}

#[test]
fn a_mounted_disk_is_refused_even_with_force_and_data_only_without() {
    let kernel = FakeKernel::with_drive();
    kernel.partition("nvme0n1", "nvme0n1p1", "259:1");
    let mark = vec![(1080, b"\x53\xef".to_vec())];
    kernel.disks.borrow_mut().insert("/dev/nvme0n1p1".to_owned(), mark);
    let (exit, line) = refused(&kernel, false);
    assert_eq!(exit, Exit::Error);
    assert_eq!(
        line,
        "0000:03:00.0 is in use: ext2/3/4 filesystem (nvme0n1p1); --force-in-use binds it all the \
         same; what is on it stays"
    );
    assert!(check(&kernel, bdf(), true).is_ok());
    kernel.file("/proc/self/mountinfo", "36 35 259:1 / /srv/my\\040data rw - ext4 /dev/x rw\n");
    let (_, line) = refused(&kernel, true);
    assert_eq!(
        line,
        "0000:03:00.0 is in use: mounted at /srv/my data (nvme0n1p1); umount /srv/my data"
    );
}

#[test]
fn a_driver_that_does_not_come_is_undone() {
    let kernel = FakeKernel::with_drive();
    kernel.deaf_driver.replace(Some("vfio-pci".to_owned()));
    let error = bind(&kernel, bdf(), false).expect_err("deaf").to_string();
    assert!(error.contains("vfio-pci did not take it"), "{error}");
    assert!(error.ends_with("what was before is back"), "{error}");
    assert_eq!(kernel.driver(BDF).as_deref(), Some("nvme"));
    assert_eq!(Function::read(&kernel, bdf()).expect("there").driver_override, None);
}

#[test]
fn nodes_that_do_not_come_undo_the_bind() {
    let kernel = FakeKernel::with_drive();
    kernel.nodes_after.set(None);
    let error = bind(&kernel, bdf(), false).expect_err("no node").to_string();
    assert!(error.contains("/dev/vfio/7 did not appear within 10 s"), "{error}");
    assert_eq!(kernel.driver(BDF).as_deref(), Some("nvme"));
}

#[test]
fn a_refused_write_says_so_and_that_nothing_changed() {
    let kernel = FakeKernel::with_drive();
    kernel.refuse.replace(Some(("driver_override".to_owned(), libc::EACCES)));
    let error = bind(&kernel, bdf(), false).expect_err("refused").to_string();
    assert!(error.contains("(run it as root)"), "{error}");
    assert!(error.ends_with("what was before is back"), "{error}");

    let kernel = FakeKernel::with_drive();
    kernel.refuse.replace(Some(("driver/unbind".to_owned(), libc::EBUSY)));
    bind(&kernel, bdf(), false).expect_err("refused");
    assert_eq!(Function::read(&kernel, bdf()).expect("there").driver_override, None);
}

#[test]
fn what_is_open_is_not_given_back() {
    let kernel = FakeKernel::with_drive();
    let before = bind(&kernel, bdf(), false).expect("free").before;
    kernel.link_to("/proc/42/fd/5", "/dev/vfio/7");
    kernel.file("/proc/42/comm", "feed-handler\n");
    for error in [
        unbind(&kernel, bdf()).expect_err("open").to_string(),
        restore(&kernel, bdf(), &before).expect_err("open").to_string(),
    ] {
        assert_eq!(error, "0000:03:00.0 is open in feed-handler (pid 42): end it first");
    }
    kernel.links.borrow_mut().remove("/proc/42/fd/5");
    restore(&kernel, bdf(), &before).expect("closed");
    assert_eq!(kernel.driver(BDF).as_deref(), Some("nvme"));
}

#[test]
fn restore_brings_back_a_function_without_a_driver_and_its_override() {
    let kernel = FakeKernel::with_drive();
    kernel.function(BDF, "0x010802", None, Some(7));
    kernel.links.borrow_mut().remove(&format!("/sys/bus/pci/devices/{BDF}/driver"));
    kernel.file(&format!("/sys/bus/pci/devices/{BDF}/driver_override"), "mine\n");
    let (_, line) = refused(&kernel, false);
    assert!(line.contains("no namespace could be looked at, no driver has it"), "{line}");
    let before = bind(&kernel, bdf(), true).expect("forced").before;
    assert_eq!(before, Binding { driver: None, driver_override: Some("mine".to_owned()) });
    restore(&kernel, bdf(), &before).expect("nobody has it open");
    let function = Function::read(&kernel, bdf()).expect("there");
    assert_eq!((function.driver, function.driver_override), (None, Some("mine".to_owned())));
}

#[test]
fn driverctl_does_the_writes_where_it_is_installed() {
    let kernel = FakeKernel::with_drive();
    kernel.file("/usr/sbin/driverctl", "");
    bind(&kernel, bdf(), false).expect("free");
    unbind(&kernel, bdf()).expect("free");
    assert_eq!(
        kernel.runs.borrow()[..],
        [
            "/usr/sbin/driverctl --nosave set-override 0000:03:00.0 vfio-pci",
            "/usr/sbin/driverctl --nosave unset-override 0000:03:00.0",
        ]
    );
    assert!(kernel.writes.borrow().is_empty());
    assert_eq!(kernel.driver(BDF).as_deref(), Some("nvme"));
}

#[test]
fn the_devices_own_node_is_waited_for_where_the_kernel_has_one() {
    let folder = format!("/sys/bus/pci/devices/{BDF}/vfio-dev/vfio0");
    // Linux 6.1: a folder without a device number.
    let kernel = FakeKernel::with_drive();
    kernel.file(&format!("{folder}/uevent"), "");
    assert_eq!(bind(&kernel, bdf(), false).expect("bound").nodes, ["/dev/vfio/7"]);
    let kernel = FakeKernel::with_drive();
    kernel.file(&format!("{folder}/dev"), "511:0\n");
    let error = bind(&kernel, bdf(), false).expect_err("its node never comes").to_string();
    assert!(error.contains("/dev/vfio/devices/vfio0 did not appear"), "{error}");
    kernel.file("/dev/vfio/devices/vfio0", "");
    let nodes = bind(&kernel, bdf(), false).expect("bound").nodes;
    assert_eq!(nodes, ["/dev/vfio/7", "/dev/vfio/devices/vfio0"]);
}

const NVME: &str = "/sys/bus/pci/devices/0000:03:00.0/nvme";

/// A drive that the kernel's driver has taken and not yet looked through.
fn unscanned() -> FakeKernel {
    let kernel = FakeKernel::with_drive();
    kernel.files.borrow_mut().retain(|path, _| !path.starts_with(NVME));
    kernel
}

#[test]
fn a_namespace_that_comes_late_is_waited_for_and_looked_at() {
    let kernel = unscanned();
    let mark = vec![(1080, b"\x53\xef".to_vec())];
    kernel.disks.borrow_mut().insert("/dev/nvme0n1".to_owned(), mark);
    kernel.file(&format!("{NVME}/nvme0/state"), "connecting\n");
    kernel.later.borrow_mut().extend([
        (20, format!("{NVME}/nvme0/state"), "live\n".to_owned()),
        (40, format!("{NVME}/nvme0/nvme0n1/x"), String::new()),
    ]);
    let (exit, line) = refused(&kernel, false);
    assert_eq!(exit, Exit::Error);
    assert!(line.contains("ext2/3/4 filesystem (nvme0n1)"), "{line}");
    assert!(!line.contains("no namespace"), "{line}");
    assert_eq!(kernel.pauses.get(), 40, "not longer than needed");
}

#[test]
fn a_drive_whose_namespaces_never_come_needs_force() {
    for state in [None, Some("connecting"), Some("live")] {
        let kernel = unscanned();
        if let Some(state) = state {
            kernel.file(&format!("{NVME}/nvme0/state"), &format!("{state}\n"));
        }
        let (exit, line) = refused(&kernel, false);
        assert_eq!((exit, kernel.pauses.get()), (Exit::Error, 500), "{state:?}: 5 s");
        assert!(line.contains("no namespace could be looked at"), "{line}");
        assert!(line.contains("--force-in-use"), "{line}");
        bind(&kernel, bdf(), true).expect("forced");
        // There it stays fine, though nobody sees its namespaces.
        bind(&kernel, bdf(), false).expect("idempotent");
    }
}

#[test]
fn a_controller_that_is_not_live_may_have_more_namespaces() {
    let kernel = FakeKernel::with_drive();
    kernel.file(&format!("{NVME}/nvme0/state"), "resetting\n");
    let (_, line) = refused(&kernel, false);
    assert!(line.contains("its controller is not live"), "{line}");
}
