//! The guest's first and only file system: busybox, modules, our programs, one command.
//!
//! It is made of two archives: what all guests of a kernel share, and what one guest is for. The
//! scripts are in `guest/`, as files, so that an editor knows them for what they are.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::cpio::Archive;
use super::modules;
use super::package::Kernel;
use crate::command::Run;

/// Modules that every guest loads where its kernel has them, after what they need.
const MODULES: [&str; 5] = ["vfio_pci", "vfio_iommu_type1", "vfio_virqfd", "nvme", "msr"];

/// Scripts of the guest: path, content.
const SCRIPTS: [(&str, &str); 5] = [
    ("/init", include_str!("guest/init")),
    ("/usr/local/bin/host", include_str!("guest/host")),
    ("/usr/local/bin/as-user", include_str!("guest/as-user")),
    ("/guest/lib", include_str!("guest/lib")),
    ("/usr/local/bin/vfio-bind", include_str!("guest/vfio-bind")),
];

/// Plain files of the guest.
const FILES: [(&str, &str); 4] = [
    ("/etc/passwd", include_str!("guest/passwd")),
    ("/etc/group", include_str!("guest/group")),
    ("/etc/profile", include_str!("guest/profile")),
    ("/etc/motd", include_str!("guest/welcome")),
];

/// Empty folders of the guest, with their rights.
const FOLDERS: [(&str, u32); 9] = [
    ("/dev", 0o755),
    ("/proc", 0o755),
    ("/sys", 0o755),
    ("/run", 0o755),
    ("/tmp", 0o1777),
    ("/root", 0o700),
    ("/etc/default", 0o755),
    ("/var/user", 0o755),
    ("/var/lib", 0o755),
];

/// A file of the host that a guest gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extra {
    pub(crate) host: PathBuf,
    /// An absolute path.
    pub(crate) guest: String,
}

impl std::str::FromStr for Extra {
    type Err = anyhow::Error;

    /// `HOST[:GUEST]`; without the second it goes to `/usr/local/bin`.
    fn from_str(text: &str) -> Result<Self> {
        let (host, guest) = text.split_once(':').unwrap_or((text, ""));
        let name = Path::new(host).file_name().unwrap_or_default().to_string_lossy();
        let guest = match guest {
            "" => format!("/usr/local/bin/{name}"),
            guest if guest.starts_with('/') => guest.to_owned(),
            guest => bail!("{guest:?} is no absolute path of the guest"),
        };
        Ok(Self { host: host.into(), guest })
    }
}

/// What all guests of a kernel share.
pub(crate) fn base(kernel: &Kernel, busybox: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for (path, mode) in FOLDERS {
        archive.directory(path, mode);
    }
    for (path, text) in SCRIPTS {
        archive.file(path, 0o755, text.as_bytes());
    }
    for (path, text) in FILES {
        archive.file(path, 0o644, text.as_bytes());
    }
    applets(&mut archive, busybox)?;
    let order = kernel.modules(busybox)?.in_order(&MODULES)?;
    let home = format!("/lib/modules/{}", kernel.release);
    let mut names = String::new();
    for module in &order {
        archive.file(&format!("{home}/{}.ko", module.name), 0o644, &module.content);
        names.push_str(&format!("{}\n", module.name));
    }
    archive.file(&format!("{home}/modules.dep"), 0o644, modules::modules_dep(&order).as_bytes());
    archive.file("/guest/modules", 0o644, names.as_bytes());
    Ok(archive.finish())
}

/// Enough to find a disk: busybox, `modules` with what they need, and `init`.
pub(crate) fn first(
    kernel: &Kernel,
    busybox: &Path,
    modules: &[&str],
    init: &str,
) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    archive.directory("/dev", 0o755);
    archive.file("/init", 0o755, init.as_bytes());
    applets(&mut archive, busybox)?;
    let mut names = String::new();
    for module in kernel.modules(busybox)?.in_order(modules)? {
        archive.file(&format!("/modules/{}.ko", module.name), 0o644, &module.content);
        names.push_str(&format!("{}\n", module.name));
    }
    archive.file("/modules/order", 0o644, names.as_bytes());
    Ok(archive.finish())
}

/// Busybox under each of its names.
fn applets(archive: &mut Archive, busybox: &Path) -> Result<()> {
    let content =
        std::fs::read(busybox).with_context(|| format!("cannot read {}", busybox.display()))?;
    let list = Run::new("").arg(busybox.to_string_lossy()).arg("--list");
    let names = list.output(Path::new("/")).context("busybox does not list its names")?;
    archive.file("/bin/busybox", 0o755, &content);
    for name in names.lines().filter(|name| *name != "busybox") {
        archive.symlink(&format!("/bin/{name}"), "busybox");
    }
    Ok(())
}

/// What one guest is for: its command, what that finds in the environment, and more files; scripts
/// are given as path and text.
pub(crate) fn own(
    command: &str,
    env: &[(String, String)],
    extras: &[Extra],
    scripts: &[(String, &str)],
) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for (path, text) in scripts {
        archive.file(path, 0o755, text.as_bytes());
    }
    archive.file("/guest/command", 0o755, command.as_bytes());
    archive.file("/guest/env", 0o644, exports(env).as_bytes());
    for Extra { host, guest } in extras {
        let content =
            std::fs::read(host).with_context(|| format!("cannot read {}", host.display()));
        archive.file(guest, 0o755, &content?);
    }
    Ok(archive.finish())
}

fn exports(env: &[(String, String)]) -> String {
    env.iter().map(|(key, value)| format!("export {key}={}\n", quote(value))).collect()
}

/// A word as the shell needs it to take it as it is.
pub(crate) fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_files_have_a_place_in_the_guest() {
        let extra: Extra = "/a/tool".parse().expect("a file");
        assert_eq!(
            extra,
            Extra { host: "/a/tool".into(), guest: "/usr/local/bin/tool".to_owned() }
        );
        let extra: Extra = "b:/usr/bin/c".parse().expect("a file");
        assert_eq!(extra, Extra { host: "b".into(), guest: "/usr/bin/c".to_owned() });
        assert!("b:c".parse::<Extra>().is_err());
    }

    #[test]
    fn words_survive_the_shell() {
        let word = "it's $HOME \"x\" \\ `y`";
        let echo = Run::new("sh -c").arg(format!("printf %s {}", quote(word)));
        assert_eq!(echo.output(Path::new("/")).as_deref(), Some(word));
        let env = [("A".to_owned(), "b c".to_owned())];
        assert_eq!(exports(&env), "export A='b c'\n");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let extra = Extra { host: "/nowhere/x".into(), guest: "/x".to_owned() };
        let error = own("true", &[], &[extra], &[]).expect_err("no file").to_string();
        assert_eq!(error, "cannot read /nowhere/x");
    }

    #[test]
    fn scripts_begin_with_their_interpreter() {
        for (path, text) in SCRIPTS {
            assert!(text.starts_with("#!/bin/sh\n"), "{path}");
        }
    }
}
