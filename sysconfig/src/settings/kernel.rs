//! Values of the running kernel that make it visit CPUs which have no business with it.

use crate::config::{Config, Thp};
use crate::failure::Failure;
use crate::machine::Machine;
use crate::place::{Format, Place, State};
use crate::wish::{Wish, Wishes};

const FAIR_SERVER: &str = "/sys/kernel/debug/sched/fair_server";

/// The first kernel with the fair server: a deadline task that wakes for each CPU (6.8 has it off).
const FAIR_SERVER_SINCE: (u32, u32) = (6, 9);

/// A value for all machines that have it.
const VALUES: [(&str, &str); 4] = [
    // Per-CPU counters are folded by a work item on each CPU, once in so many seconds.
    ("/proc/sys/vm/stat_interval", "120"),
    // The hard-lockup watchdog takes a performance counter and its interrupt on each CPU.
    ("/proc/sys/kernel/nmi_watchdog", "0"),
    // Balancing unmaps pages to see who touches them: faults in the partition.
    ("/proc/sys/kernel/numa_balancing", "0"),
    // Timers that are armed on an isolated CPU go to a housekeeping one.
    ("/proc/sys/kernel/timer_migration", "1"),
];

/// All of them, where the kernel has them.
pub(super) fn wishes(machine: &Machine, config: &Config) -> Result<Wishes, Failure> {
    let mut wishes = Wishes::default();
    let root = &machine.root;
    if config.isolated.is_empty() {
        return Ok(wishes);
    }
    for (path, value) in VALUES {
        if root.exists(path) {
            wishes.push(Wish::new(Place::value(path), State::text(value)).may_refuse());
        }
    }
    let watchdog = "/proc/sys/kernel/watchdog_cpumask";
    if root.exists(watchdog) {
        let wanted = State::text(config.housekeeping.to_string());
        let wish = Wish::new(Place::formatted(watchdog, Format::List), wanted);
        wishes.push(wish.may_refuse().off(config.isolated));
    }
    let thp = "/sys/kernel/mm/transparent_hugepage/enabled";
    let wanted = match config.thp {
        Thp::Never => Some("never"),
        Thp::Madvise => Some("madvise"),
        Thp::Keep => None,
    };
    if let (Some(wanted), true) = (wanted, root.exists(thp)) {
        let place = Place::formatted(thp, Format::Choice);
        wishes.push(Wish::new(place, State::text(wanted)));
    }
    fair_server(machine, config, &mut wishes);
    let throttle = root.text("/proc/sys/kernel/sched_rt_runtime_us");
    if let Some(us) = throttle.filter(|us| us != "-1") {
        wishes.note(format!(
            "real-time throttling is on (sched_rt_runtime_us {us}): a partition under SCHED_FIFO \
             would be stopped each second; ours run under SCHED_OTHER and are not"
        ));
    }
    Ok(wishes)
}

fn fair_server(machine: &Machine, config: &Config, wishes: &mut Wishes) {
    let root = &machine.root;
    let place = |cpu: u32| format!("{FAIR_SERVER}/cpu{cpu}/runtime");
    for cpu in config.isolated.iter().filter(|cpu| root.exists(place(*cpu))) {
        wishes.push(Wish::new(Place::value(place(cpu)), State::text("0")).may_refuse());
    }
    if machine.kernel >= FAIR_SERVER_SINCE && !root.exists(FAIR_SERVER) {
        wishes.note(format!(
            "kernel {} may have a fair server, whose tick visits isolated CPUs, and debugfs is not \
             there to switch it off: mount -t debugfs none /sys/kernel/debug",
            machine.release
        ));
    }
}
