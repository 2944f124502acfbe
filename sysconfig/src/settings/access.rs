//! What lets the runtime work without root: locked memory for a group, and the group on /dev/vfio.

use super::files;
use crate::config::Config;
use crate::failure::Failure;
use crate::journal::Hook;
use crate::machine::Machine;
use crate::wish::Wishes;

const LIMITS: &str = "/etc/security/limits.d/50-hybrid-runtime.conf";
const RULES: &str = "/etc/udev/rules.d/50-hybrid-runtime.rules";
const HEAD: &str =
    "# Written by sysconfig apply for hybrid-runtime; sysconfig reset takes it away.\n";

/// The limits' and udev's files, where the machine has pam and udev.
pub(super) fn wishes(machine: &Machine, config: &Config) -> Result<Wishes, Failure> {
    let mut wishes = Wishes::default();
    let (root, group) = (&machine.root, &config.group);
    if config.isolated.is_empty() && config.devices.is_empty() {
        return Ok(wishes);
    }
    let groups = root.read("/etc/group").unwrap_or_default();
    if !groups.lines().any(|line| line.split(':').next() == Some(group)) {
        wishes.note(format!(
            "group {group} is not there: groupadd --system {group}, then usermod -aG {group} USER"
        ));
    }
    let kib = config.memlock_bytes.div_ceil(1024);
    if root.exists("/etc/security") {
        let lines = format!("@{group} soft memlock {kib}\n@{group} hard memlock {kib}\n");
        files::file(&mut wishes, LIMITS, format!("{HEAD}{lines}"), None);
    } else {
        wishes.note(format!(
            "no /etc/security here (pam): start the runtime with {kib} KiB of locked memory, for \
             instance ulimit -l {kib}"
        ));
    }
    if root.exists("/etc/udev") || root.exists("/usr/lib/udev") || root.exists("/lib/udev") {
        let rule = |matches: &str| format!("{matches}, GROUP=\"{group}\", MODE=\"0660\"\n");
        let rules = [
            rule("SUBSYSTEM==\"vfio\""),
            rule("SUBSYSTEM==\"vfio-dev\""),
            rule("SUBSYSTEM==\"misc\", KERNEL==\"iommu\""),
        ];
        let text = format!("{HEAD}{}", rules.concat());
        files::file(&mut wishes, RULES, text, Some(Hook::UdevReload));
    } else {
        wishes.note(format!(
            "no udev here: give the group its nodes after a bind: chgrp {group} /dev/vfio/*, \
             chmod 660 /dev/vfio/*"
        ));
    }
    Ok(wishes)
}
