//! A control group that takes the isolated CPUs out of Linux's load balancing.
//!
//! Only where `isolcpus` does not do that already: whoever is outside the group can't reach its
//! CPUs, and a program started inside has only them, its housekeeping threads too.

use crate::config::{Config, Cpuset};
use crate::failure::Failure;
use crate::machine::Machine;
use crate::place::{Format, Place, State};
use crate::threads::Thread;
use crate::wish::{Wish, Wishes};

const V2: &str = "/sys/fs/cgroup";
const V1: &str = "/sys/fs/cgroup/cpuset";

/// The first kernel that knows `isolated`; before, `root` gives CPUs of one's own, still balanced.
const ISOLATED_SINCE: (u32, u32) = (6, 1);

/// The group, v2 or v1, whichever holds the cpuset controller.
pub(super) fn wishes(machine: &Machine, config: &Config) -> Result<Wishes, Failure> {
    let root = &machine.root;
    let wanted = match config.cpuset {
        Cpuset::Auto => !config.boot,
        Cpuset::Partition => true,
        Cpuset::Off => false,
    };
    if !wanted || config.isolated.is_empty() {
        return Ok(Wishes::default());
    }
    let controllers = root.text(format!("{V2}/cgroup.controllers")).unwrap_or_default();
    if controllers.split_ascii_whitespace().any(|word| word == "cpuset") {
        return Ok(version_2(machine, config));
    }
    if root.exists(format!("{V1}/cpuset.cpus")) {
        return Ok(version_1(machine, config));
    }
    Err(Failure::missing(format_args!(
        "no cpuset controller: neither {V2}/cgroup.controllers names it nor is {V1} there; mount \
         one: mount -t cgroup2 none {V2}, or leave it to isolcpus: --cpuset off"
    )))
}

fn group(wishes: &mut Wishes, path: &str) {
    let place = Place::Dir { path: path.to_owned() };
    wishes.push(Wish::new(place, State::Folder { mode: 0o755, uid: 0, gid: 0 }));
}

fn set(wishes: &mut Wishes, path: String, format: Format, value: impl Into<String>) {
    wishes.push(Wish::new(Place::formatted(path, format), State::text(value)));
}

fn version_2(machine: &Machine, config: &Config) -> Wishes {
    let mut wishes = Wishes::default();
    // When a partition ends, the kernel gives the threads outside it all CPUs, whatever they had.
    for thread in Thread::all(&machine.root).into_iter().filter(|thread| !thread.bound) {
        let Thread { tid, started, name, cpus, .. } = thread;
        wishes.push(Wish::remember(Place::Thread { tid, started, name }, State::cpus(cpus)));
    }
    let group_path = format!("{V2}/hybrid");
    set(&mut wishes, format!("{V2}/cgroup.subtree_control"), Format::Cpuset, "+cpuset");
    group(&mut wishes, &group_path);
    let cpus = config.isolated.to_string();
    set(&mut wishes, format!("{group_path}/cpuset.cpus"), Format::List, cpus);
    let kind = if machine.kernel >= ISOLATED_SINCE { "isolated" } else { "root" };
    // Ended before its folder goes: a partition that goes with it is ended some time later.
    let partition = Place::value(format!("{group_path}/cpuset.cpus.partition"));
    let mut wish = Wish::new(partition, State::text(kind));
    wish.before = Some(State::text("member"));
    wishes.push(wish);
    wishes.note(format!(
        "only programs in {group_path} can use cpus {}: start the runtime there, as root: \
         echo $$ > {group_path}/cgroup.procs",
        config.isolated
    ));
    wishes
}

fn version_1(machine: &Machine, config: &Config) -> Wishes {
    let mut wishes = Wishes::default();
    let mems = machine.root.text(format!("{V1}/cpuset.mems")).unwrap_or_else(|| "0".to_owned());
    for (name, cpus, balance) in
        [("hybrid", config.isolated, "0"), ("hybrid-rest", config.housekeeping, "1")]
    {
        let path = format!("{V1}/{name}");
        group(&mut wishes, &path);
        set(&mut wishes, format!("{path}/cpuset.cpus"), Format::List, cpus.to_string());
        set(&mut wishes, format!("{path}/cpuset.mems"), Format::List, mems.clone());
        set(&mut wishes, format!("{path}/cpuset.sched_load_balance"), Format::Text, balance);
    }
    // Without balancing at the top, each group that has it balances over its own CPUs only.
    set(&mut wishes, format!("{V1}/cpuset.sched_load_balance"), Format::Text, "0");
    wishes
}
