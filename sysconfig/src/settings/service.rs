//! systemd: the unit that applies run-time settings at each boot, and where services may run.

use super::files;
use crate::config::Config;
use crate::failure::Failure;
use crate::journal::Hook;
use crate::machine::Machine;
use crate::place::{Place, State};
use crate::root::Root;
use crate::wish::{Wish, Wishes};

/// The unit as it is shipped; the path of the program is put in.
const UNIT: &str = include_str!("../../systemd/hybrid-sysconfig.service");
const SHIPPED_PROGRAM: &str = "/usr/bin/sysconfig";

const FILE: &str = "/etc/systemd/system/hybrid-sysconfig.service";
const LINK: &str = "/etc/systemd/system/multi-user.target.wants/hybrid-sysconfig.service";
const MANAGER: &str = "/etc/systemd/system.conf.d/50-hybrid-runtime.conf";

fn has_systemd(root: &Root) -> bool {
    root.exists("/run/systemd/system")
        || (!root.is_live() && root.exists("/usr/lib/systemd/systemd"))
}

/// The unit and the link that enables it.
pub(super) fn unit(machine: &Machine, config: &Config) -> Result<Wishes, Failure> {
    let mut wishes = Wishes::default();
    if !config.service || config.isolated.is_empty() {
        return Ok(wishes);
    }
    if !has_systemd(&machine.root) {
        wishes.note(
            "no systemd here: let the init system run `sysconfig apply --run-time` at boot \
             (scripts/hybrid-sysconfig.init is a script for it)",
        );
        return Ok(wishes);
    }
    let program = if machine.root.is_live() {
        std::env::current_exe().ok().and_then(|path| path.to_str().map(str::to_owned))
    } else {
        None
    };
    let text = UNIT.replace(SHIPPED_PROGRAM, &program.unwrap_or_else(|| SHIPPED_PROGRAM.into()));
    files::file(&mut wishes, FILE, text, Some(Hook::SystemdReload));
    files::folders(&mut wishes, LINK);
    let target = State::Link { target: FILE.to_owned() };
    wishes.push(Wish::new(Place::file(LINK), target).then(Hook::SystemdReload));
    Ok(wishes)
}

/// Services inherit the manager's CPUs. An affinity, and no `AllowedCPUs`, which would keep the
/// runtime itself, started from a shell or a unit, from its cores.
pub(super) fn affinity(machine: &Machine, config: &Config) -> Result<Wishes, Failure> {
    let mut wishes = Wishes::default();
    if has_systemd(&machine.root) && !config.isolated.is_empty() {
        let text = format!(
            "# Written by sysconfig apply for hybrid-runtime; sysconfig reset takes it away.\n\
             [Manager]\nCPUAffinity={}\n",
            config.housekeeping
        );
        files::file(&mut wishes, MANAGER, text, None);
    }
    Ok(wishes)
}
