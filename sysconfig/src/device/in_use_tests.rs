//! Why disks are in use, on prepared trees.

use super::super::fake::FakeKernel;
use super::*;

fn said(kernel: &FakeKernel) -> Vec<String> {
    let bdf = "0000:03:00.0".parse().expect("an address");
    reasons(kernel, bdf).iter().map(ToString::to_string).collect()
}

#[test]
fn an_empty_disk_is_free() {
    assert!(said(&FakeKernel::with_drive()).is_empty());
}

#[test]
fn a_mount_is_found_through_lvm_on_a_partition() {
    let kernel = FakeKernel::with_drive();
    kernel.partition("nvme0n1", "nvme0n1p2", "259:2");
    let mark = vec![(512, b"LABELONE".to_vec())];
    kernel.disks.borrow_mut().insert("/dev/nvme0n1p2".to_owned(), mark);
    kernel.claimed.borrow_mut().push("/dev/nvme0n1p2".to_owned());
    kernel.block("dm-0", "254:0");
    kernel.file("/sys/class/block/nvme0n1p2/holders/dm-0", "");
    kernel.file("/sys/class/block/dm-0/dm/name", "vg-root\n");
    kernel.file("/sys/class/block/dm-0/dm/uuid", "LVM-abc\n");
    kernel.file("/proc/self/mountinfo", "36 35 254:0 / / rw - ext4 /dev/mapper/vg-root rw\n");
    assert_eq!(
        said(&kernel),
        [
            "mounted at / (nvme0n1p2)",
            "held by dm-0 (LVM vg-root) (nvme0n1p2)",
            "LVM2 volume manager (nvme0n1p2)"
        ]
    );
}

#[test]
fn raid_bcache_and_multipath_hold_a_disk() {
    for (holder, files, said_so) in [
        ("md127", &[("md/level", "raid1\n")][..], "held by md127 (raid1) (nvme0n1)"),
        ("bcache0", &[], "held by bcache0 (nvme0n1)"),
        (
            "dm-3",
            &[("dm/name", "mpatha\n"), ("dm/uuid", "mpath-3600\n")],
            "held by dm-3 (multipath mpatha) (nvme0n1)",
        ),
        (
            "dm-4",
            &[("dm/name", "secret\n"), ("dm/uuid", "CRYPT-LUKS2-1\n")],
            "held by dm-4 (encrypted secret) (nvme0n1)",
        ),
    ] {
        let kernel = FakeKernel::with_drive();
        kernel.file(&format!("/sys/class/block/nvme0n1/holders/{holder}"), "");
        for (file, text) in files {
            kernel.file(&format!("/sys/class/block/{holder}/{file}"), text);
        }
        assert_eq!(said(&kernel), [said_so]);
    }
}

#[test]
fn holders_in_a_circle_end() {
    let kernel = FakeKernel::with_drive();
    kernel.file("/sys/class/block/nvme0n1/holders/dm-0", "");
    kernel.file("/sys/class/block/dm-0/holders/nvme0n1", "");
    assert_eq!(said(&kernel).len(), 2);
}

#[test]
fn btrfs_is_found_by_its_source_and_by_its_list_of_devices() {
    let kernel = FakeKernel::with_drive();
    kernel.file("/proc/self/mountinfo", "36 35 0:45 /sub /data rw - btrfs /dev/nvme0n1 rw\n");
    assert_eq!(said(&kernel), ["mounted at /data (nvme0n1)"]);
    let kernel = FakeKernel::with_drive();
    kernel.file("/sys/fs/btrfs/1234/devices/nvme0n1", "");
    assert_eq!(said(&kernel), ["held by btrfs (nvme0n1)"]);
}

#[test]
fn swap_and_open_files_are_found() {
    let kernel = FakeKernel::with_drive();
    kernel.file("/proc/swaps", "Filename Type\n/dev/nvme0n1 partition 1 0 -2\n");
    kernel.link_to("/proc/77/fd/3", "/dev/ng0n1");
    kernel.link_to("/proc/77/fd/4", "/dev/ng0n10");
    kernel.file("/proc/77/comm", "fio\n");
    assert_eq!(said(&kernel), ["swap (nvme0n1)", "open in fio (pid 77) (ng0n1)"]);
}

#[test]
fn a_claim_is_named_where_nothing_else_is() {
    let kernel = FakeKernel::with_drive();
    kernel.claimed.borrow_mut().push("/dev/nvme0n1".to_owned());
    assert_eq!(said(&kernel), ["claimed by the kernel (nvme0n1)"]);
}

#[test]
fn what_cannot_be_looked_at_is_not_free() {
    let kernel = FakeKernel::with_drive();
    kernel.disks.borrow_mut().remove("/dev/nvme0n1");
    let found = said(&kernel);
    assert!(found[0].starts_with("unknown: /dev/nvme0n1: "), "{found:?}");
    let kernel = FakeKernel::with_drive();
    kernel.files.borrow_mut().remove("/proc/self/mountinfo");
    assert_eq!(said(&kernel), ["unknown: /proc/self/mountinfo cannot be read (nvme0n1)"]);
}

#[test]
fn a_path_of_a_multipath_disk_stands_for_the_disk() {
    assert_eq!(disk_of("nvme0n1").as_deref(), Some("nvme0n1"));
    assert_eq!(disk_of("nvme2c11n3").as_deref(), Some("nvme2n3"));
    for other in ["nvme0", "nvme", "nvmen1", "nvme0n", "power", "nvme0cn1x", "hwmon3"] {
        assert_eq!(disk_of(other), None, "{other}");
    }
}
