//! Debian packages that a guest is made of: unpacked below `target`, installed nowhere.
//!
//! A meta-package such as `linux-image-amd64` is followed to the package that it stands for. What
//! was unpacked once is used again; nothing here needs root. Busybox comes this way too, because
//! its static package would push the machine's own one out.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::Missing;
use super::modules::Modules;
use crate::command::Run;

/// The package that this machine's release calls its kernel.
pub(crate) const KERNEL: &str = "linux-image-amd64";

/// A busybox that needs no library.
pub(crate) const BUSYBOX: &str = "busybox-static";

/// A kernel on the disk.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// What `uname -r` says.
    pub(crate) release: String,
    pub(crate) image: PathBuf,
    modules: PathBuf,
}

/// Finds `package` below `dir`, or fetches it with apt and unpacks it there; its folder.
pub(crate) fn fetch(package: &str, dir: &Path, log: &Path) -> Result<PathBuf> {
    let concrete = resolve(package)?;
    let home = dir.join(&concrete);
    let done = home.join("unpacked");
    if !done.exists() {
        eprintln!("fetching {concrete} for the guest");
        let _ = fs::remove_dir_all(&home);
        fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
        step(Run::new("apt-get download --quiet").arg(&concrete), &home, log)?;
        for deb in packages_in(&home)? {
            step(Run::new("dpkg-deb -x").arg(deb.to_string_lossy()).arg("."), &home, log)?;
            fs::remove_file(&deb)?;
        }
        fs::write(&done, "")?;
    }
    Ok(home)
}

/// The program in an unpacked [`BUSYBOX`].
pub(crate) fn busybox_in(home: &Path) -> Result<PathBuf> {
    let places = [home.join("bin/busybox"), home.join("usr/bin/busybox")];
    let found = places.into_iter().find(|path| path.exists());
    found.with_context(|| format!("{} has no busybox: remove the folder", home.display()))
}

/// Whether apt knows the packages at all; its lists are empty on a machine that is new.
pub(crate) fn are_known() -> bool {
    [KERNEL, BUSYBOX].iter().all(|package| resolve(package).is_ok())
}

impl Kernel {
    /// Finds the one kernel in an unpacked package.
    pub(crate) fn find(home: &Path) -> Result<Self> {
        let root = [home.join("lib/modules"), home.join("usr/lib/modules")];
        let modules = root.iter().find_map(|root| fs::read_dir(root).ok()?.next()?.ok());
        let Some(modules) = modules.map(|entry| entry.path()) else {
            bail!("{} has no modules: remove the folder and try again", home.display());
        };
        let release = modules.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let image = home.join("boot").join(format!("vmlinuz-{release}"));
        if !image.exists() {
            bail!("{} is not there: remove the folder and try again", image.display());
        }
        Ok(Self { release, image, modules })
    }

    /// Its modules.
    pub(crate) fn modules(&self, busybox: &Path) -> Result<Modules> {
        Modules::find(&self.modules, busybox)
    }
}

fn step(run: Run, dir: &Path, log: &Path) -> Result<()> {
    match run.run(dir, log).trouble() {
        None => Ok(()),
        Some(trouble) => bail!("`{}`: {trouble}; see {}", run.line(), log.display()),
    }
}

fn packages_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            found.push(path);
        }
    }
    Ok(found)
}

/// The package with the kernel itself that a package stands for.
fn resolve(package: &str) -> Result<String> {
    let run = Run::new("apt-cache depends --important").arg(package);
    let text = run.output(Path::new("/")).unwrap_or_default();
    match concrete(package, &text) {
        Some(name) => Ok(name),
        None => {
            let why = format!("apt knows no package {package}");
            Err(Missing::new(why, "apt-get update").into())
        }
    }
}

/// Reads `apt-cache depends`: the kernel that a meta-package depends on, else itself.
fn concrete(package: &str, depends: &str) -> Option<String> {
    let mut lines = depends.lines();
    lines.next().filter(|line| line.trim() == package)?;
    let kernel = lines
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"));
    Some(kernel.unwrap_or(package).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meta_package_is_followed() {
        let text = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n";
        let name = concrete("linux-image-amd64", text);
        assert_eq!(name.as_deref(), Some("linux-image-6.1.0-56-amd64"));
    }

    #[test]
    fn a_kernel_stands_for_itself() {
        let text = "linux-image-6.1.0-56-amd64\n  PreDepends: linux-base\n  Depends: kmod\n";
        let name = concrete("linux-image-6.1.0-56-amd64", text);
        assert_eq!(name.as_deref(), Some("linux-image-6.1.0-56-amd64"));
    }

    #[test]
    fn a_package_that_is_not_known_is_none() {
        assert_eq!(concrete("linux-image-amd64", ""), None);
        assert_eq!(concrete("linux-image-amd64", "N: Unable to locate package x\n"), None);
    }

    #[test]
    fn an_unpacked_package_is_found_by_its_release() {
        let home = std::env::temp_dir().join(format!("xtask-{}-kernel", std::process::id()));
        fs::create_dir_all(home.join("lib/modules/6.1.0-56-amd64")).expect("a folder");
        assert!(Kernel::find(&home).is_err());
        fs::create_dir_all(home.join("boot")).expect("a folder");
        fs::write(home.join("boot/vmlinuz-6.1.0-56-amd64"), "").expect("a file");
        let kernel = Kernel::find(&home).expect("a kernel");
        assert_eq!(kernel.release, "6.1.0-56-amd64");
        fs::remove_dir_all(&home).expect("our own folder");
    }
}
