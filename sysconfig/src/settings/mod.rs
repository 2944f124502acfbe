//! Every setting of the machine, in the order in which they are made; undone in reverse.
//!
//! One file for each kind. A setting reads the machine and says what it wants; it writes nothing.
//! What a machine doesn't have (no cpufreq, no udev) is left out, with a note where it matters.

mod access;
mod boot;
mod cpuset;
mod files;
mod huge;
mod irq;
mod kernel;
mod power;
mod service;
mod threads;
mod workqueue;

use crate::config::Config;
use crate::failure::Failure;
use crate::machine::{CPU, Machine, SMT};
use crate::place::{Place, State};
use crate::wish::{Setting, Wish, Wishes};

pub(crate) use boot::wanted_words;
pub(crate) use huge::try_pages;

/// What a setting wants of this machine.
type WishesOf = fn(&Machine, &Config) -> Result<Wishes, Failure>;

/// A setting that is a function.
struct Plain {
    name: &'static str,
    about: &'static str,
    stays: bool,
    wishes: WishesOf,
}

impl Setting for Plain {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn stays(&self) -> bool {
        self.stays
    }

    fn wishes(&self, machine: &Machine, config: &Config) -> Result<Wishes, Failure> {
        (self.wishes)(machine, config)
    }
}

const fn stays(name: &'static str, about: &'static str, wishes: WishesOf) -> Plain {
    Plain { name, about, stays: true, wishes }
}

const fn runs(name: &'static str, about: &'static str, wishes: WishesOf) -> Plain {
    Plain { name, about, stays: false, wishes }
}

/// All of them. Drivers come before the default affinity and the interrupts: a function that is
/// bound has new ones, and on the way back the old driver finds the old default.
static ALL: [Plain; 15] = [
    stays("config", "the flags, kept for verify, the service and the next apply", files::kept),
    stays("boot", "the kernel's parameters: isolcpus, nohz_full, IOMMU, huge pages", boot::wishes),
    stays(
        "access",
        "locked memory and /dev/vfio for a group, so that no root is needed",
        access::wishes,
    ),
    stays("service", "the systemd unit that applies run-time settings at each boot", service::unit),
    stays("systemd", "services start on the housekeeping CPUs", service::affinity),
    stays("irqbalance", "irqbalance leaves the isolated CPUs alone", irq::balance),
    runs(SMT, "hardware threads that share a core with an isolated CPU", smt),
    runs("hugepages", "huge pages on each node", huge::wishes),
    runs(
        "kernel",
        "watchdogs, statistics, NUMA balancing, THP, fair server, timers",
        kernel::wishes,
    ),
    runs("power", "governor and idle states of the isolated CPUs", power::wishes),
    runs("workqueue", "the kernel's work queues", workqueue::wishes),
    runs("cpuset", "a control group for the isolated CPUs", cpuset::wishes),
    runs("devices", "NVMe controllers on vfio-pci", devices),
    runs("irq", "interrupts", irq::wishes),
    runs("threads", "threads of the kernel and of programs", threads::wishes),
];

/// All settings, in their order.
pub(crate) fn all() -> impl Iterator<Item = &'static dyn Setting> {
    ALL.iter().map(|setting| setting as &dyn Setting)
}

/// The journal keeps the core beside the change: a CPU that is off has no topology.
fn smt(machine: &Machine, config: &Config) -> Result<Wishes, Failure> {
    let mut wishes = Wishes::default();
    for cpu in &config.off {
        let place = Place::value(format!("{CPU}/cpu{cpu}/online"));
        let core = machine.core(cpu).to_string();
        wishes.push(Wish::new(place, State::text("0")).detail(core));
    }
    Ok(wishes)
}

fn devices(machine: &Machine, config: &Config) -> Result<Wishes, Failure> {
    use crate::device::bind;
    let mut wishes = Wishes::default();
    for bdf in &config.devices {
        let driver = Some(bind::VFIO.to_owned());
        let wanted = State::Driver { forced: driver.clone(), driver };
        let wish = Wish::new(Place::Driver { bdf: bdf.to_string() }, wanted);
        // One drive that cannot be bound, or an IOMMU that the boot parameters would switch on,
        // keeps nothing else from being made.
        match bind::check(&machine.root, *bdf, config.force_in_use) {
            Ok(_) => wishes.push(wish),
            Err(error) => {
                let failure = Failure::from(error);
                wishes.push(wish.fixed(failure.line.as_str()));
                wishes.failed.push(failure);
            }
        }
    }
    Ok(wishes)
}
