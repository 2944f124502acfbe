//! systemd: the unit that applies run-time settings at each boot, and where services may run.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

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
    let mut program = PathBuf::from(SHIPPED_PROGRAM);
    if machine.root.is_live() {
        program = std::env::current_exe().unwrap_or(program);
        if let Some(weak) = changeable(&program) {
            wishes.note(format!(
                "no unit for the boot: it would run {} as root, and {weak} can be changed by \
                 others; sudo install -m 755 {} /usr/local/sbin/sysconfig, then apply with that",
                program.display(),
                program.display()
            ));
            return Ok(wishes);
        }
    }
    let text = UNIT.replace(SHIPPED_PROGRAM, &program.to_string_lossy());
    files::file(&mut wishes, FILE, text, Some(Hook::SystemdReload));
    files::folders(&mut wishes, LINK);
    let target = State::Link { target: FILE.to_owned() };
    wishes.push(Wish::new(Place::file(LINK), target).then(Hook::SystemdReload));
    Ok(wishes)
}

/// The first part of a program's path, from `/` on, that others than root may write to. A folder
/// that only lets its files' owners change them (`/tmp`) is none: whoever owns the rest counts.
fn changeable(program: &Path) -> Option<String> {
    let mut parts: Vec<&Path> = program.ancestors().collect();
    parts.reverse();
    let weak = |part: &&&Path| match std::fs::metadata(part) {
        Ok(is) => {
            let sticky = is.is_dir() && is.mode() & 0o1000 != 0;
            is.uid() != 0 || (is.mode() & 0o022 != 0 && !sticky)
        }
        Err(_) => true,
    };
    parts.iter().find(weak).map(|part| part.display().to_string())
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_program_that_others_may_change_is_no_boot_service() {
        let folder = std::env::temp_dir().join(format!("sysconfig-unit-{}", std::process::id()));
        fs::create_dir(&folder).expect("a folder");
        let safe = Permissions::from_mode(0o755);
        fs::set_permissions(&folder, safe).expect("mode");
        let program = folder.join("sysconfig");
        fs::write(&program, "").expect("a file");
        let mode = |bits| fs::set_permissions(&program, Permissions::from_mode(bits));
        mode(0o777).expect("mode");
        let weak = changeable(&program);
        mode(0o755).expect("mode");
        let root = fs::metadata(&program).expect("there").uid() == 0;
        let strong = changeable(&program);
        fs::remove_dir_all(&folder).expect("taken away");
        assert!(weak.is_some());
        assert_eq!(strong.is_none(), root, "{strong:?}");
        assert_eq!(changeable(Path::new("/nowhere/at/all")).as_deref(), Some("/nowhere"));
    }
}
