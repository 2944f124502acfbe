//! The package in a Debian of its own: installed, used, removed, purged, and nothing is left.
//!
//! The tree is debootstrap's, from where this machine's apt gets its packages. Commands run in it
//! with `/proc` and `/sys` of a mount namespace that ends with them.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{path, succeed};
use crate::command::Run;
use crate::tools;

/// What a tree has beyond Debian's minimum: what the package needs, something to read pages,
/// and an init.
const INCLUDED: &str = "adduser,man-db,systemd,systemd-sysv";

/// What dpkg, its triggers and those who make users keep for themselves; not the package's.
const NOT_OURS: &[&str] = &[
    "dev/",
    "etc/group-",
    "etc/gshadow-",
    "etc/passwd-",
    "etc/shadow-",
    "proc/",
    // The lock of adduser.
    "run/adduser",
    "sys/",
    "tmp/",
    "var/cache/debconf/",
    "var/cache/ldconfig/",
    "var/cache/man/",
    "var/lib/dpkg/",
    "var/log/",
];

/// A file, folder or link: kind and mode, owner, what is in it.
type Entry = (u32, u32, u32, u64);

/// A Debian of its own.
struct Tree {
    root: PathBuf,
    out: PathBuf,
}

/// Installs, uses, removes and purges the package.
pub(super) fn test(package: &Path, out: &Path) -> Result<()> {
    ensure!(tools::is_root(), "chroot and dpkg want root: sudo cargo xtask dist --test");
    let tree = Tree::fresh(out)?;
    let before = tree.look()?;
    tree.install(package)?;
    tree.use_it()?;
    // An administrator's own files, which a removal keeps and a purge does not.
    tree.put("etc/hybrid-runtime/feed-handler.toml", "messages = \"120k\"\n")?;
    tree.put(
        "etc/hybrid-runtime/instances/a.toml",
        "command = \"live\"\n[live]\nidle = \"1ms\"\n",
    )?;
    tree.put("var/lib/hybrid-runtime/a/x.hycrash", "a dump")?;
    tree.configured()?;
    // The same version again, as an upgrade: a changed file of configuration stays as it is.
    tree.install(package)?;
    tree.configured()?;
    tree.run("dpkg --remove hybrid-runtime")?;
    ensure!(!tree.root.join("usr/bin/feed-handler").exists(), "the program outlived the package");
    for file in ["feed-handler.toml", "instances/a.toml"] {
        let kept = tree.root.join("etc/hybrid-runtime").join(file);
        ensure!(kept.exists(), "a removal took /etc/hybrid-runtime/{file}");
    }
    tree.run("dpkg --purge hybrid-runtime")?;
    let known = tree.run("dpkg-query -W -f ${Package}\\n")?;
    ensure!(!known.contains("hybrid-runtime"), "dpkg still knows the package");
    let left = differences(&before, &tree.look()?);
    ensure!(left.is_empty(), "a purge left:\n  {}", left.join("\n  "));
    println!("installed, used, removed and purged in a fresh tree; nothing is left of it");
    tree.install(package)?;
    super::boot::test(&tree.root, out)?;
    println!("instances ran in their sandbox under systemd; purged while one ran");
    Ok(())
}

/// A fresh tree with the package in it.
pub(super) fn installed(package: &Path, out: &Path) -> Result<PathBuf> {
    let tree = Tree::fresh(out)?;
    tree.install(package)?;
    Ok(tree.root)
}

impl Tree {
    /// A copy of the base, which is made where there is none.
    fn fresh(out: &Path) -> Result<Self> {
        let (base, root) = (out.join("base"), out.join("tree"));
        if !base.join("var/lib/dpkg/status").exists() {
            let making = out.join("base.new");
            let _ = fs::remove_dir_all(&making);
            let (suite, site) = archive(out)?;
            let run =
                Run::new("debootstrap --variant=minbase").arg(format!("--include={INCLUDED}"));
            println!("making a tree of Debian {suite}: minutes");
            succeed(run.arg(suite).arg(path(&making)).arg(site), out)?;
            fs::rename(&making, &base)?;
        }
        if root.exists() {
            fs::remove_dir_all(&root).with_context(|| format!("{}", root.display()))?;
        }
        succeed(Run::new("cp -a --").arg(path(&base)).arg(path(&root)), out)?;
        Ok(Self { root, out: out.to_owned() })
    }

    /// Runs a command in the tree and gives what it printed.
    fn run(&self, line: &str) -> Result<String> {
        let within = "mount -t proc proc \"$0/proc\" && mount -t sysfs sysfs \"$0/sys\" && \
                      exec chroot \"$0\" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin \
                      LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive \"$@\"";
        // What hangs ends with everything that it started: its process namespace goes.
        let apart = "timeout --foreground -k 5 300 unshare --mount --pid --fork --kill-child sh -c";
        let mut run = Run::new(apart).arg(within).arg(path(&self.root));
        run.argv.extend(line.split_whitespace().map(str::to_owned));
        let output = run.command(&self.out).output().with_context(|| line.to_owned())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (said, complained) = (text(&output.stdout), text(&output.stderr));
        let kept = format!("$ {line}\n{said}{complained}");
        let log = self.out.join("tree.log");
        let before = fs::read_to_string(&log).unwrap_or_default();
        fs::write(&log, before + &kept)?;
        match output.status.success() {
            true => Ok(said),
            false => bail!("in the tree `{line}` ended with {}: {said}{complained}", output.status),
        }
    }

    fn put(&self, name: &str, text: &str) -> Result<()> {
        let path = self.root.join(name);
        fs::create_dir_all(path.parent().unwrap_or(&self.root))?;
        fs::write(&path, text).with_context(|| format!("{}", path.display()))
    }

    fn install(&self, package: &Path) -> Result<()> {
        fs::copy(package, self.root.join("tmp/package.deb"))?;
        self.run("dpkg --install --force-confold /tmp/package.deb")?;
        Ok(())
    }

    /// Every program, as a user and as root; a page; completions; a unit's user.
    fn use_it(&self) -> Result<()> {
        let id = self.run("id hybrid")?;
        ensure!(id.contains("gid=") && id.contains("(hybrid)"), "the user is {id}");
        let quiet = "feed-handler --messages 100k --no-probe --quiet --json";
        for line in [quiet.to_owned(), format!("runuser -u hybrid -- {quiet}")] {
            ensure!(messages(&self.run(&line)?) == Some(100_000), "`{line}` counted wrongly");
        }
        let bench = "storage-bench -t 200ms -a 50ms --repetitions 1 --json";
        let result: Value = serde_json::from_str(&self.run(bench)?)?;
        ensure!(result["schema"].is_string(), "`{bench}` printed {result}");
        self.run("probe-util list")?;
        self.run("sysconfig status")?;
        self.run("nvme-vfio-user-server --version")?;
        for page in ["feed-handler", "feed-handler-record", "probe-util-trace", "sysconfig-plan"] {
            let text = self.run(&format!("man --warnings {page}"))?;
            ensure!(text.contains("SYNOPSIS") && text.contains("OPTIONS"), "man {page}: {text}");
        }
        for page in fs::read_dir(self.root.join("usr/share/man/man1"))?.flatten() {
            let name = page.file_name().to_string_lossy().into_owned();
            let ours = super::stage::PROGRAMS.iter().any(|(_, program)| name.starts_with(program));
            if ours {
                let line = format!("man --warnings --local-file /usr/share/man/man1/{name}");
                self.silent(&line)?;
            }
        }
        let source = "source /usr/share/bash-completion/completions/feed-handler";
        self.put("tmp/try.sh", &format!("{source}\ncomplete -p feed-handler\n"))?;
        let complete = self.run("bash /tmp/try.sh")?;
        ensure!(complete.contains("-F _feed"), "completions: {complete}");
        Ok(())
    }

    /// A page without a warning.
    fn silent(&self, line: &str) -> Result<()> {
        self.put("tmp/page.sh", &format!("{line} 2>&1 >/dev/null\n"))?;
        let said = self.run("bash /tmp/page.sh")?;
        ensure!(said.is_empty(), "`{line}` warned: {said}");
        Ok(())
    }

    /// What the administrator wrote is what the program does, and where it says so from.
    fn configured(&self) -> Result<()> {
        let run = self.run("feed-handler --no-probe --quiet --json")?;
        ensure!(messages(&run) == Some(120_000), "the file's count was not used");
        let printed = self.run("feed-handler --print-config")?;
        let line = printed.lines().find(|line| line.starts_with("messages = "));
        let from =
            line.is_some_and(|line| line.ends_with("# /etc/hybrid-runtime/feed-handler.toml:1"));
        ensure!(from, "--print-config says {line:?}");
        let instance = "feed-handler --config /etc/hybrid-runtime/instances/a.toml --print-config";
        ensure!(self.run(instance)?.contains("[live]\n"), "the instance's command was not used");
        Ok(())
    }

    /// Everything in the tree but what is not the package's.
    fn look(&self) -> Result<BTreeMap<String, Entry>> {
        let mut seen = BTreeMap::new();
        let mut open = vec![self.root.clone()];
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(&folder).with_context(|| format!("{}", folder.display()))? {
                let at = entry?.path();
                let name = path(at.strip_prefix(&self.root).unwrap_or(&at));
                if NOT_OURS.iter().any(|not| format!("{name}/").starts_with(not) || name == *not) {
                    continue;
                }
                let meta = fs::symlink_metadata(&at)?;
                let mut hash = DefaultHasher::new();
                if meta.is_dir() {
                    open.push(at);
                } else if meta.is_symlink() {
                    fs::read_link(&at)?.hash(&mut hash);
                } else if meta.is_file() {
                    fs::read(&at)?.hash(&mut hash);
                }
                seen.insert(name, (meta.mode(), meta.uid(), meta.gid(), hash.finish()));
            }
        }
        Ok(seen)
    }
}

/// What differs, a line each.
fn differences(before: &BTreeMap<String, Entry>, after: &BTreeMap<String, Entry>) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, entry) in after {
        match before.get(name) {
            None => lines.push(format!("/{name} is new")),
            Some(was) if was != entry => lines.push(format!("/{name} is changed")),
            Some(_) => {}
        }
    }
    let gone = before.keys().filter(|name| !after.contains_key(*name));
    lines.extend(gone.map(|name| format!("/{name} is gone")));
    lines
}

/// The messages that a run of the synthetic day replayed.
fn messages(json: &str) -> Option<u64> {
    let value: Value = serde_json::from_str(json).ok()?;
    value["replay"]["messages"].as_u64()
}

/// Debian's release here, and where apt gets it from.
fn archive(out: &Path) -> Result<(String, String)> {
    let ask = Run::new("apt-get indextargets --format").arg("$(CODENAME) $(SITE)");
    let lines = ask.arg("Created-By: Packages").output(out).context("apt-get indextargets")?;
    let os = fs::read_to_string("/etc/os-release")?;
    let code = os.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let code = code.context("/etc/os-release names no release")?;
    let site = lines.lines().find_map(|line| line.strip_prefix(&format!("{code} ")));
    let site = site.with_context(|| format!("apt knows no archive of {code}: apt-get update"))?;
    Ok((code.to_owned(), site.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_compared_by_names_modes_owners_and_contents() {
        let entry = |mode, hash| (mode, 0, 0, hash);
        let tree = |entries: &[(&str, Entry)]| {
            entries.iter().map(|(name, entry)| ((*name).to_owned(), *entry)).collect()
        };
        let before = tree(&[("a", entry(1, 1)), ("b", entry(1, 1)), ("c", entry(1, 1))]);
        let after = tree(&[("a", entry(2, 1)), ("b", entry(1, 2)), ("d", entry(1, 1))]);
        let lines = ["/a is changed", "/b is changed", "/d is new", "/c is gone"];
        assert_eq!(differences(&before, &after), lines);
        assert!(differences(&before, &before).is_empty());
    }
}
