//! Interrupts: where each may fire, where new ones start, and irqbalance, which would move them.
//!
//! Managed interrupts (an NVMe drive's queues) are placed by the kernel, which answers EIO: they
//! are reported. They fire on an isolated CPU only if that CPU submits to the drive's driver.

use hybrid_conventions::CpuSet;

use crate::config::Config;
use crate::failure::Failure;
use crate::journal::Hook;
use crate::machine::Machine;
use crate::place::{Content, Format, Place, State};
use crate::root::Root;
use crate::wish::{Wish, Wishes};

/// Files of irqbalance, Debian's and Red Hat's.
const BALANCE: [&str; 2] = ["/etc/default/irqbalance", "/etc/sysconfig/irqbalance"];

/// The variable that irqbalance reads, since 1.8 (2021).
const BANNED: &str = "IRQBALANCE_BANNED_CPULIST";

/// All interrupts off the isolated CPUs.
pub(super) fn wishes(machine: &Machine, config: &Config) -> Result<Wishes, Failure> {
    let mut wishes = Wishes::default();
    let (root, rest) = (&machine.root, config.housekeeping);
    if config.isolated.is_empty() {
        return Ok(wishes);
    }
    if root.exists("/proc/irq/default_smp_affinity") {
        let place = Place::formatted("/proc/irq/default_smp_affinity", Format::Mask);
        let wanted = State::text(rest.kernel_mask().to_string());
        wishes.push(Wish::new(place, wanted).off(config.isolated));
    }
    for irq in root.numbered("/proc/irq", "") {
        let path = format!("/proc/irq/{irq}/smp_affinity_list");
        let Some(now) = root.text(&path).and_then(|text| text.parse::<CpuSet>().ok()) else {
            continue;
        };
        let left = now.difference(config.isolated).difference(config.off);
        let wanted = if left.is_empty() { rest } else { left };
        let place = Place::formatted(path, Format::List);
        let mut wish = Wish::new(place, State::text(wanted.to_string())).may_refuse();
        wish = wish.off(config.isolated);
        wish.detail = users(root, irq);
        if is_managed(root, irq) {
            wish = wish.fixed("a managed interrupt: the kernel places it");
        }
        wishes.push(wish);
    }
    Ok(wishes)
}

/// Who has the interrupt: `nvme0q3`.
fn users(root: &Root, irq: u32) -> Option<String> {
    let folder = format!("/proc/irq/{irq}");
    let mut names = root.list(&folder).unwrap_or_default();
    names.retain(|name| root.path(format!("{folder}/{name}")).is_dir());
    (!names.is_empty()).then(|| names.join(", "))
}

/// Only debugfs says so beforehand; elsewhere the write's EIO does.
fn is_managed(root: &Root, irq: u32) -> bool {
    let about = root.read(format!("/sys/kernel/debug/irq/irqs/{irq}"));
    about.is_ok_and(|text| text.contains("IRQD_AFFINITY_MANAGED"))
}

/// The line that bans the CPUs, in irqbalance's own file.
pub(super) fn balance(machine: &Machine, config: &Config) -> Result<Wishes, Failure> {
    let mut wishes = Wishes::default();
    if config.isolated.is_empty() {
        return Ok(wishes);
    }
    for path in BALANCE {
        let place = Place::file(path);
        let Ok(State::File { content, mode, uid, gid }) = place.read(&machine.root) else {
            continue;
        };
        let banned = config.isolated.union(config.off);
        let content = Content::Text(with_line(&content.text(), &format!("{BANNED}={banned}")));
        let wanted = State::File { content, mode, uid, gid };
        wishes.push(Wish::new(place, wanted).then(Hook::IrqbalanceRestart));
    }
    Ok(wishes)
}

/// The text with this assignment in place of any other of the same name, or at the end.
fn with_line(text: &str, assignment: &str) -> String {
    let (name, _) = assignment.split_once('=').unwrap_or((assignment, ""));
    let assigns =
        |line: &str| line.trim_start().strip_prefix(name).is_some_and(|rest| rest.starts_with('='));
    let mut lines: Vec<&str> = text.lines().collect();
    match lines.iter().rposition(|line| assigns(line)) {
        Some(at) => lines[at] = assignment,
        None => lines.push(assignment),
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_takes_the_place_of_the_one_that_counts() {
        let line = "IRQBALANCE_BANNED_CPULIST=2-3";
        for (text, expected) in [
            ("", "IRQBALANCE_BANNED_CPULIST=2-3\n"),
            ("A=1", "A=1\nIRQBALANCE_BANNED_CPULIST=2-3\n"),
            (
                "#IRQBALANCE_BANNED_CPULIST=\nIRQBALANCE_BANNED_CPULIST=1\nB=2\n",
                "#IRQBALANCE_BANNED_CPULIST=\nIRQBALANCE_BANNED_CPULIST=2-3\nB=2\n",
            ),
        ] {
            assert_eq!(with_line(text, line), expected);
            assert_eq!(with_line(expected, line), expected);
        }
    }
}
