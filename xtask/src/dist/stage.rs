//! What the package puts where.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::command::Run;

/// Packages of ours, and their programs that are shipped.
pub(super) const PROGRAMS: &[(&str, &str)] = &[
    ("feed-handler", "feed-handler"),
    ("hybrid-benches", "storage-bench"),
    ("probe-util", "probe-util"),
    ("sysconfig", "sysconfig"),
    ("host-bridge", "nvme-vfio-user-server"),
];

const UNITS: &str = "usr/lib/systemd/system";
const DOC: &str = "usr/share/doc/hybrid-runtime";
const SHARE: &str = "usr/share/hybrid-runtime";

/// From the workspace, to a folder.
const FILES: &[(&str, &str)] = &[
    ("xtask/dist/systemd/hybrid-runtime@.service", UNITS),
    ("xtask/dist/systemd/hybrid.slice", UNITS),
    ("sysconfig/units/hybrid-sysconfig-helper.service", UNITS),
    ("sysconfig/units/hybrid-sysconfig-helper.socket", UNITS),
    ("xtask/dist/etc/feed-handler.toml", "etc/hybrid-runtime"),
    ("xtask/dist/etc/example.toml", "usr/share/doc/hybrid-runtime/examples"),
    ("sysconfig/units/helper.toml", "usr/share/doc/hybrid-runtime/examples"),
    ("xtask/dist/debian/copyright", DOC),
    ("README.md", DOC),
    ("host-bridge/monitoring/alerts.yml", "usr/share/hybrid-runtime/monitoring"),
    ("host-bridge/monitoring/grafana-dashboard.json", "usr/share/hybrid-runtime/monitoring"),
];

/// The same, to be executed.
const SCRIPTS: &[(&str, &str)] = &[
    ("sysconfig/scripts/hybrid-shell", SHARE),
    ("sysconfig/scripts/hybrid-sysconfig.init", SHARE),
];

/// Documents for who uses it; those about how it is tested and simulated stay in the sources.
const DOCUMENTS: &[&str] = &[
    "benchmarks",
    "crash-dumps",
    "fallback",
    "installing",
    "isolation",
    "jitter-and-drives",
    "journal",
    "observability",
    "partitions",
    "performance",
    "probes",
    "runbook",
    "security",
    "supervision",
    "sysconfig",
    "uring",
    "vfio",
    "vfio-user",
];

/// A tree that becomes a package.
pub(super) struct Stage {
    pub(super) root: PathBuf,
}

impl Stage {
    /// An empty tree, in place of whatever was there.
    pub(super) fn new(root: PathBuf) -> Result<Self> {
        if root.exists() {
            fs::remove_dir_all(&root).with_context(|| format!("{}", root.display()))?;
        }
        fs::create_dir_all(&root).with_context(|| format!("{}", root.display()))?;
        let stage = Self { root };
        // Instances' files go here; the folder is the package's.
        stage.folder("etc/hybrid-runtime/instances")?;
        Ok(stage)
    }

    fn folder(&self, name: &str) -> Result<PathBuf> {
        let mut path = self.root.clone();
        for part in Path::new(name) {
            path.push(part);
            if !path.exists() {
                fs::create_dir(&path).with_context(|| format!("{}", path.display()))?;
            }
            // Whatever the umask was.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        Ok(path)
    }

    /// Copies a file.
    pub(super) fn copy(&self, from: &Path, to: &str, mode: u32) -> Result<()> {
        let bytes = fs::read(from).with_context(|| format!("{}", from.display()))?;
        self.write(to, &bytes, mode)
    }

    /// Writes a file.
    pub(super) fn write(&self, to: &str, bytes: &[u8], mode: u32) -> Result<()> {
        let (folder, name) = to.rsplit_once('/').unwrap_or(("", to));
        let path = self.folder(folder)?.join(name);
        fs::write(&path, bytes).with_context(|| format!("{}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        Ok(())
    }

    /// Everything that is not built.
    pub(super) fn files(&self, workspace: &Path) -> Result<()> {
        for (table, mode) in [(FILES, 0o644), (SCRIPTS, 0o755)] {
            for (from, folder) in table {
                let name = from.rsplit_once('/').map_or(*from, |(_, name)| name);
                self.copy(&workspace.join(from), &format!("{folder}/{name}"), mode)?;
            }
        }
        for name in DOCUMENTS {
            let from = workspace.join(format!("docs/{name}.md"));
            self.copy(&from, &format!("{DOC}/{name}.md"), 0o644)?;
        }
        self.copy(&workspace.join("CHANGELOG.md"), &format!("{DOC}/changelog"), 0o644)?;
        let overrides = workspace.join("xtask/dist/debian/lintian-overrides");
        self.copy(&overrides, "usr/share/lintian/overrides/hybrid-runtime", 0o644)
    }

    /// The programs write in the layout of `~/.local/share`; zsh looks elsewhere for a package's.
    pub(super) fn completions(&self) -> Result<()> {
        let zsh = self.folder("usr/share/zsh")?;
        fs::rename(zsh.join("site-functions"), zsh.join("vendor-completions"))?;
        Ok(())
    }

    /// Man pages and long documents, as Debian has them.
    pub(super) fn compress(&self) -> Result<()> {
        let long = |path: &Path| {
            let page = path.extension().is_some_and(|end| end == "1");
            page || path.ends_with("changelog") || path.ends_with("changelog.Debian")
        };
        for path in self.all()?.iter().filter(|path| long(path)) {
            let run = Run::new("gzip -9nf").arg(super::path(path));
            ensure!(run.succeeds(&self.root), "`{}` failed", run.line());
        }
        Ok(())
    }

    /// Every file, in order of names; DEBIAN is not among them.
    pub(super) fn all(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        let mut open = vec![self.root.clone()];
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(&folder).with_context(|| format!("{}", folder.display()))? {
                let entry = entry?;
                let path = entry.path();
                match entry.file_type()? {
                    kind if kind.is_dir() && entry.file_name() == "DEBIAN" => {}
                    kind if kind.is_dir() => open.push(path),
                    _ => files.push(path),
                }
            }
        }
        files.sort();
        Ok(files)
    }

    /// A file's name as the package has it, without the leading slash.
    pub(super) fn name_of(&self, path: &Path) -> String {
        super::path(path.strip_prefix(&self.root).unwrap_or(path))
    }
}
