//! The unit under the systemd of an emulated machine: root may raise limits there, and has VFIO.
//!
//! The tree becomes a disk, Debian's kernel mounts it, and [`super::boot`]'s script runs there as
//! in a container. Beyond that the sandbox's devices are tried: what `DeviceAllow` names can be
//! opened by root in it, and nothing else.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{boot, path, succeed};
use crate::command::Run;
use crate::project::Project;
use crate::vm;

/// Modules of the first file system: the disk, and what the sandbox lets an instance open.
/// (ext4 asks for a checksum by name, which no list of modules says.)
const MODULES: [&str; 7] =
    ["virtio_pci", "virtio_blk", "crc32c_generic", "ext4", "vfio", "vfio_iommu_type1", "vfio_pci"];

/// Process 1 of the first file system: the disk is all that is wanted.
const INIT: &str = "\
#!/bin/sh
export PATH=/bin
mount -t devtmpfs dev /dev
while read -r module; do insmod \"/modules/$module.ko\"; done < /modules/order
mkdir -p /root
mount -t ext4 /dev/vda /root && exec switch_root /root /lib/systemd/systemd
echo 'the disk is not there' > /dev/console
poweroff -f
";

/// An instance that is a look at devices: as root, so that the sandbox alone is in the way.
const DEVICES: &str = "\
[Service]
Type=oneshot
Restart=no
User=root
ExecStart=
ExecStart=/bin/bash /dist-devices
";

/// The same outside of the sandbox's rule (which ProtectClock adds to), to show that nothing else
/// is in the way.
const OPEN: &str = "[Service]\nDevicePolicy=auto\nDeviceAllow=\nProtectClock=no\n";

const LOOK: &str = "\
for device in null vfio/vfio ttyS1 rtc0; do
    if (exec 3<>/dev/$device) 2>/dev/null; then echo $device open; else echo $device shut; fi
done >/var/lib/hybrid-runtime/$(basename $PWD)/devices
";

/// Goes before the script's end, in which the package is purged.
const MORE: &str = "\
for one in devices free; do
    systemctl start hybrid-runtime@$one
    say $one $(cat /var/lib/hybrid-runtime/$one/devices)
done
";

const FILES: &[(&str, &str)] = &[
    ("dist-devices", LOOK),
    ("etc/systemd/system/hybrid-runtime@devices.service.d/devices.conf", DEVICES),
    ("etc/systemd/system/hybrid-runtime@free.service.d/devices.conf", DEVICES),
    ("etc/systemd/system/hybrid-runtime@free.service.d/open.conf", OPEN),
    ("etc/fstab", ""),
];

/// What is found besides.
const FINDINGS: [&str; 3] = [
    boot::LOCKED,
    "devices null open vfio/vfio open ttyS1 shut rtc0 shut",
    "free null open vfio/vfio open ttyS1 open rtc0 open",
];

/// Minutes, in an emulator.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// Boots the tree, in which the package is installed.
pub(super) fn test(project: &Project, tree: &Path, out: &Path) -> Result<()> {
    boot::prepare(tree, MORE)?;
    boot::put(tree, FILES)?;
    let log = out.join("emulated.log");
    let (kernel, initramfs) = vm::first_stage(project, &log, &MODULES, INIT)?;
    let (disk, first) = (out.join("disk.img"), out.join("first.cpio"));
    fs::write(&first, initramfs).with_context(|| format!("{}", first.display()))?;
    let _ = fs::remove_file(&disk);
    let make = Run::new("mke2fs -q -t ext4 -O ^has_journal -d").arg(path(tree));
    succeed(make.arg(path(&disk)).arg("2G"), out)?;
    println!("booting it in an emulated machine: minutes");
    let machine = Run::new(vm::QEMU)
        .args(words("-nodefaults -no-user-config -display none -no-reboot -machine q35"))
        .args(words("-accel tcg,thread=multi -cpu max -smp 2 -m 2048 -serial"))
        .arg(format!("file:{}", path(&out.join("emulated.console.log"))))
        .args(words("-serial null -kernel"))
        .arg(path(&kernel))
        .arg("-initrd")
        .arg(path(&first))
        .arg("-append")
        .arg("console=ttyS0 panic=-1 mitigations=off random.trust_cpu=on systemd.show_status=0")
        .arg("-drive")
        .arg(format!("file={},if=none,id=root,format=raw,cache=unsafe", path(&disk)))
        .args(words("-device virtio-blk-pci,drive=root"))
        .limit(LIMIT);
    let ended = machine.run(out, &log).trouble();
    let read = Run::new("debugfs -R").arg(format!("cat {}", boot::RESULT)).arg(path(&disk));
    let result = read.output(out).unwrap_or_default();
    boot::judge(&result, ended.as_deref(), &FINDINGS)?;
    boot::is_locked(&result)?;
    ensure!(fs::remove_file(&disk).is_ok(), "{} is gone", disk.display());
    Ok(())
}

fn words(line: &str) -> impl Iterator<Item = String> {
    line.split_whitespace().map(str::to_owned)
}
