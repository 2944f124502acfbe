//! What the kernel must know when it starts: the parameters, and the boot loader's file for them.
//!
//! Debian's and Ubuntu's GRUB reads drop-ins: one is written, and `update-grub` makes it count. For
//! every other loader the line is printed with the place where it belongs: a tool that edits a
//! loader that it half understands leaves a machine that does not start.
//!
//! Deliberately absent: `mitigations=off` (a decision about security, not about latency), and
//! `iommu=pt`, which would let the kernel's own devices reach all memory. A device on vfio-pci is
//! translated either way, so the runtime gains nothing from it.

use super::files;
use crate::config::{Config, Cpuset, Thp};
use crate::failure::Failure;
use crate::journal::Hook;
use crate::machine::Machine;
use crate::root::Root;
use crate::wish::Wishes;

/// The drop-in.
const DROP_IN: &str = "/etc/default/grub.d/50-hybrid-runtime.cfg";

/// The parameters for this machine, in the order in which they are written.
pub(crate) fn parameters(machine: &Machine, config: &Config) -> Vec<String> {
    let (isolated, rest) = (config.isolated, config.housekeeping);
    let mut words = Vec::new();
    let mut word = |word: String| words.push(word);
    if !isolated.is_empty() {
        // With a partition of the control groups, load balancing is the group's business.
        let domain = if config.cpuset == Cpuset::Partition { "" } else { "domain," };
        word(format!("isolcpus=managed_irq,{domain}{isolated}"));
        word(format!("nohz_full={isolated}"));
        word(format!("rcu_nocbs={isolated}"));
        word("rcu_nocb_poll".to_owned());
        word(format!("irqaffinity={rest}"));
        word("nmi_watchdog=0".to_owned());
        word("nosoftlockup".to_owned());
        word("skew_tick=1".to_owned());
        if machine.has_flag("constant_tsc") && machine.has_flag("nonstop_tsc") {
            // The clock source's watchdog visits every CPU twice a second, isolated ones too.
            word("tsc=nowatchdog".to_owned());
        }
    }
    match config.thp {
        Thp::Never if !isolated.is_empty() => word("transparent_hugepage=never".to_owned()),
        Thp::Madvise => word("transparent_hugepage=madvise".to_owned()),
        Thp::Never | Thp::Keep => {}
    }
    if intel_iommu(machine) {
        word("intel_iommu=on".to_owned());
    }
    huge_words(machine, config, &mut words);
    words
}

/// `hugepagesz=2M hugepages=512`, on several nodes `hugepages=0:256,1:256` where the kernel knows
/// that form (5.16).
fn huge_words(machine: &Machine, config: &Config, words: &mut Vec<String>) {
    let mut sizes: Vec<u64> = config.huge.keys().map(|(size, _)| *size).collect();
    sizes.dedup();
    for size in sizes {
        let of_size = config.huge.iter().filter(|((other, _), _)| *other == size);
        let pages: Vec<(u32, u64)> = of_size.map(|((_, node), pages)| (*node, *pages)).collect();
        words.push(format!("hugepagesz={}", hybrid_conventions::Bytes(size)));
        words.push(if machine.nodes.len() > 1 && machine.kernel >= (5, 16) {
            let each: Vec<String> =
                pages.iter().map(|(node, pages)| format!("{node}:{pages}")).collect();
            format!("hugepages={}", each.join(","))
        } else {
            format!("hugepages={}", pages.iter().map(|(_, pages)| pages).sum::<u64>())
        });
    }
}

/// Intel's IOMMU is off unless it is switched on. AMD's (an IVRS table) is on unless it is switched
/// off, and `amd_iommu=on` is a word that the kernel does not know.
fn intel_iommu(machine: &Machine) -> bool {
    let table = |name| machine.root.exists(format!("/sys/firmware/acpi/tables/{name}"));
    let cpuinfo = || machine.root.read("/proc/cpuinfo").unwrap_or_default();
    table("DMAR") || (!table("IVRS") && cpuinfo().contains("GenuineIntel"))
}

/// The wanted parameters that the running kernel was not started with.
pub(crate) fn wanted_words(machine: &Machine, config: &Config) -> Vec<String> {
    let mut wanted = parameters(machine, config);
    wanted.retain(|word| !machine.cmdline.iter().any(|has| says(has, word)));
    wanted
}

/// Whether two parameters say the same: lists of CPUs are compared as sets.
fn says(has: &str, wanted: &str) -> bool {
    let set = |text: &str| {
        let (name, value) = text.split_once('=')?;
        let flags =
            value.split(',').take_while(|part| !part.starts_with(|c: char| c.is_ascii_digit()));
        let flags: Vec<&str> = flags.collect();
        let skip: usize = flags.iter().map(|flag| flag.len() + 1).sum();
        let cpus: hybrid_conventions::CpuSet = value.get(skip..)?.parse().ok()?;
        let mut flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
        flags.sort();
        Some((name.to_owned(), flags, cpus))
    };
    let lists = ["isolcpus=", "nohz_full=", "rcu_nocbs=", "irqaffinity="];
    let list = lists.iter().any(|name| wanted.starts_with(name));
    has == wanted || (list && set(has).is_some() && set(has) == set(wanted))
}

/// How this machine starts.
enum Loader {
    /// GRUB that reads `/etc/default/grub.d`.
    GrubDropIn,
    /// Another: where the line belongs, and what makes it count.
    Other { file: &'static str, then: &'static str },
}

fn loader(root: &Root) -> Option<Loader> {
    let there = |path: &str| root.exists(path);
    let other = |file, then| Some(Loader::Other { file, then });
    if there("/usr/sbin/update-grub") || there("/etc/default/grub.d") {
        return Some(Loader::GrubDropIn);
    }
    if there("/usr/sbin/grubby") || there("/usr/bin/grubby") {
        return other("grubby", "sudo grubby --update-kernel=ALL --args=\"...\"");
    }
    if there("/etc/default/grub") {
        let grub2 = there("/boot/grub2");
        let then = if grub2 {
            "grub2-mkconfig -o /boot/grub2/grub.cfg"
        } else {
            "grub-mkconfig -o /boot/grub/grub.cfg"
        };
        return other("GRUB_CMDLINE_LINUX in /etc/default/grub", then);
    }
    if there("/etc/kernel/cmdline") {
        return other("/etc/kernel/cmdline", "kernel-install add-all (or bootctl update)");
    }
    if there("/boot/loader/loader.conf") || there("/efi/loader/loader.conf") {
        return other("the options line of /boot/loader/entries/*.conf", "a reboot is enough");
    }
    if there("/boot/extlinux/extlinux.conf") {
        return other("the APPEND line of /boot/extlinux/extlinux.conf", "a reboot is enough");
    }
    None
}

/// The drop-in, or the line for another loader.
pub(super) fn wishes(machine: &Machine, config: &Config) -> Result<Wishes, Failure> {
    let mut wishes = Wishes::default();
    let nothing = config.isolated.is_empty() && config.devices.is_empty() && config.huge.is_empty();
    if nothing {
        return Ok(wishes);
    }
    let words = parameters(machine, config);
    for off in ["intel_iommu=off", "amd_iommu=off", "iommu=off"] {
        if machine.cmdline.iter().any(|word| word == off) {
            wishes.note(format!(
                "the kernel was started with {off}: no drive can be given to user \
                space; take it out of the boot loader's file"
            ));
        }
    }
    if !config.boot || words.is_empty() {
        return Ok(wishes);
    }
    let line = words.join(" ");
    match loader(&machine.root) {
        Some(Loader::GrubDropIn) => {
            let text = format!(
                "# Written by sysconfig apply for hybrid-runtime; sysconfig reset takes it away.\n\
                 GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX {line}\"\n"
            );
            files::file(&mut wishes, DROP_IN, text, Some(Hook::UpdateGrub));
        }
        Some(Loader::Other { file, then }) => {
            wishes.note(format!("add to {file}: {line}"));
            wishes.note(format!("and then: {}", then.replace("...", &line)));
        }
        None => wishes.note(format!("add to the kernel's command line: {line}")),
    }
    let missing = wanted_words(machine, config);
    if !missing.is_empty() {
        wishes.note(format!("counts after the next boot: {}", missing.join(" ")));
    }
    Ok(wishes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_compared_as_sets() {
        for (has, wanted, same) in [
            ("isolcpus=domain,managed_irq,2,3", "isolcpus=managed_irq,domain,2-3", true),
            ("isolcpus=2-3", "isolcpus=managed_irq,domain,2-3", false),
            ("nohz_full=2,3", "nohz_full=2-3", true),
            ("nohz_full=2", "nohz_full=2-3", false),
            ("irqaffinity=0,1", "irqaffinity=0-1", true),
            ("skew_tick=1", "skew_tick=1", true),
            ("hugepages=1", "hugepages=2", false),
        ] {
            assert_eq!(says(has, wanted), same, "{has} {wanted}");
        }
    }
}
