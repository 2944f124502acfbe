//! What dpkg is told: name, version, what it needs, which files are configuration.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::stage::Stage;
use crate::command::Run;

const PACKAGE: &str = "hybrid-runtime";
const MAINTAINER: &str = "The hybrid runtime maintainers <maintainers@hybrid-runtime.invalid>";

/// The Debian revision: this packaging of the version.
const REVISION: u32 = 1;

const ABOUT: &str = "\
Storage-bound, latency-critical programs on cores of their own
 Some cores are taken from Linux and run allocation-free, system-call-free
 partitions with a user-space NVMe driver; the rest of Linux prepares, watches
 and reports, over shared memory.
 .
 feed-handler is such a program, storage-bench measures one, probe-util looks
 at those that run and reads what they left behind, sysconfig prepares the
 machine and puts it back, nvme-vfio-user-server is a software drive.
";

/// The fields.
pub(super) struct Control {
    version: String,
    depends: String,
    installed_kib: u64,
}

impl Control {
    /// Reads versions and sizes out of what is staged.
    pub(super) fn new(workspace: &Path, stage: &Stage) -> Result<Self> {
        let mut installed = 0;
        let mut libc: Vec<u32> = vec![2, 0];
        for file in stage.all()? {
            let bytes = fs::read(&file).with_context(|| format!("{}", file.display()))?;
            installed += (bytes.len() as u64).div_ceil(1024);
            if stage.name_of(&file).starts_with("usr/bin/") {
                libc = libc.max(newest_libc(&bytes).unwrap_or_default());
            }
        }
        let libc: Vec<String> = libc.iter().map(u32::to_string).collect();
        let depends = format!("adduser, libc6 (>= {}), libgcc-s1", libc.join("."));
        let version = format!("{}-{REVISION}", version(workspace)?);
        Ok(Self { version, depends, installed_kib: installed })
    }

    /// As dpkg calls the file.
    pub(super) fn file_name(&self) -> String {
        format!("{PACKAGE}_{}_amd64", self.version)
    }

    /// Writes the folder DEBIAN and the changelog.
    pub(super) fn write(&self, workspace: &Path, stage: &Stage) -> Result<()> {
        let date =
            commit(workspace, "%cD").unwrap_or_else(|| "Thu, 01 Jan 1970 00:00:00 +0000".into());
        let changes = format!(
            "{PACKAGE} ({}) unstable; urgency=medium\n\n  * Built by cargo xtask dist; \
             changelog.gz says what is new.\n\n -- {MAINTAINER}  {date}\n",
            self.version
        );
        let name = format!("usr/share/doc/{PACKAGE}/changelog.Debian");
        stage.write(&name, changes.as_bytes(), 0o644)?;
        stage.compress()?;
        let files = stage.all()?;
        let names = files.iter().map(|file| stage.name_of(file));
        let conffiles: Vec<String> = names
            .filter(|name| name.starts_with("etc/"))
            .map(|name| format!("/{name}\n"))
            .collect();
        stage.write("DEBIAN/control", self.text().as_bytes(), 0o644)?;
        stage.write("DEBIAN/conffiles", conffiles.concat().as_bytes(), 0o644)?;
        for script in ["postinst", "prerm", "postrm"] {
            let from = workspace.join("xtask/dist/debian").join(script);
            stage.copy(&from, &format!("DEBIAN/{script}"), 0o755)?;
        }
        let mut sums = Run::new("md5sum --");
        for file in files.iter().map(|file| stage.name_of(file)) {
            if !file.starts_with("etc/") {
                sums = sums.arg(file);
            }
        }
        let sums = sums.output(&stage.root).context("md5sum failed")?;
        stage.write("DEBIAN/md5sums", sums.as_bytes(), 0o644)
    }

    fn text(&self) -> String {
        format!(
            "Package: {PACKAGE}\nVersion: {}\nArchitecture: amd64\nMaintainer: {MAINTAINER}\n\
             Installed-Size: {}\nDepends: {}\nSuggests: prometheus-node-exporter\nSection: admin\n\
             Priority: optional\nDescription: {ABOUT}",
            self.version, self.installed_kib, self.depends
        )
    }
}

/// The version of the workspace.
fn version(workspace: &Path) -> Result<String> {
    let text = fs::read_to_string(workspace.join("Cargo.toml"))?;
    let after = text.split_once("[workspace.package]").map(|(_, after)| after);
    let line = after.and_then(|after| after.lines().find(|line| line.starts_with("version = ")));
    let version = line.and_then(|line| line.split('"').nth(1));
    Ok(version.context("Cargo.toml has no workspace.package.version")?.to_owned())
}

/// Something of the last commit, where this is a checkout with git.
pub(super) fn commit(workspace: &Path, format: &str) -> Option<String> {
    let run = Run::new("git log -1").arg(format!("--format={format}"));
    run.output(workspace).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// The newest version of the C library whose symbols a program names: `GLIBC_2.34`.
fn newest_libc(program: &[u8]) -> Option<Vec<u32>> {
    const MARK: &[u8] = b"GLIBC_";
    let starts = program.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK);
    let version = |(at, _): (usize, &[u8])| {
        let rest = &program[at + MARK.len()..];
        let len = rest.iter().position(|byte| !byte.is_ascii_digit() && *byte != b'.')?;
        let text = std::str::from_utf8(&rest[..len]).ok()?;
        text.split('.').map(|part| part.parse().ok()).collect::<Option<Vec<u32>>>()
    };
    starts.filter_map(version).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_symbol_says_which_libc_is_needed() {
        let program = b"..\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.9\0GLIBC_PRIVATE\0GLIBC_";
        assert_eq!(newest_libc(program), Some(vec![2, 34]));
        assert_eq!(newest_libc(b"nothing"), None);
    }

    #[test]
    fn the_version_is_the_workspaces() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
        assert_eq!(version(root).expect("one"), env!("CARGO_PKG_VERSION"));
    }
}
