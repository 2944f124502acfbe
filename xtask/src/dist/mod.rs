//! `cargo xtask dist`: the Debian package, and its test in a fresh tree.
//!
//! The programs are built in release and write their own man pages and completions; [`stage`] lays
//! everything out as it will lie on a machine, [`control`] says what the package is, `dpkg-deb`
//! packs it. [`tree`] installs, uses and purges it in a Debian of its own,
//! and [`boot`] does so under that Debian's systemd, which [`emulated`] boots on a machine of its
//! own.

mod boot;
mod control;
mod emulated;
mod stage;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use hybrid_conventions::{Exit, HumanBytes};

use crate::command::Run;
use crate::project::Project;
use crate::tools::{self, Found, Tool};
use control::Control;
use stage::{PROGRAMS, Stage};

/// What is asked for.
pub(crate) struct Dist {
    /// Install, use and purge it in a fresh tree.
    pub(crate) test: bool,
    /// And in an emulated machine.
    pub(crate) emulated: bool,
    /// Where packages and trees go, instead of `target/dist`.
    pub(crate) out: Option<PathBuf>,
}

/// Builds the package, and tests it where that is asked for.
pub(crate) fn run(project: &Project, dist: &Dist) -> Result<Exit> {
    let out = dist.out.clone().unwrap_or_else(|| project.target.join("dist"));
    // Commands run in it: a name from where this one was started would lead elsewhere there.
    let out = std::path::absolute(out)?;
    fs::create_dir_all(&out).with_context(|| format!("{}", out.display()))?;
    if !Run::new("dpkg-deb --version").succeeds(&out) {
        eprintln!("error: dpkg-deb packs the package, and is not here: apt-get install dpkg");
        return Ok(Exit::Missing);
    }
    let tools = [Tool::Debootstrap, Tool::Nspawn, Tool::Lintian];
    let more = [Tool::Qemu, Tool::AptLists];
    let wanted = tools.into_iter().chain(more.into_iter().filter(|_| dist.emulated));
    if dist.test && !wanted.into_iter().all(|tool| has(tool, &out)) {
        return Ok(Exit::Missing);
    }
    let programs = build(project)?;
    let package = pack(&project.root, &programs, &out)?;
    let bytes = fs::metadata(&package)?.len();
    println!("{}, {}", package.display(), HumanBytes(bytes));
    if dist.test {
        lintian(&package, &out)?;
        tree::test(&package, &out)?;
    }
    if dist.emulated {
        let tree = tree::installed(&package, &out)?;
        emulated::test(project, &tree, &out)?;
        println!("the same in an emulated machine, with its limits and devices");
    }
    Ok(Exit::Ok)
}

/// Builds every program that is shipped, and gives the folder that they are in.
fn build(project: &Project) -> Result<PathBuf> {
    let mut run = Run::new("cargo build --release --locked");
    for (package, program) in PROGRAMS {
        run = run.arg("-p").arg(*package).arg("--bin").arg(*program);
    }
    let status = run.command(&project.root).status().context("cargo")?;
    ensure!(status.success(), "`{}`: {status}", run.line());
    Ok(project.target.join("release"))
}

/// Lays the package out and packs it.
fn pack(root: &Path, programs: &Path, out: &Path) -> Result<PathBuf> {
    let stage = Stage::new(out.join("stage"))?;
    stage.files(root)?;
    for (_, program) in PROGRAMS {
        stage.copy(&programs.join(program), &format!("usr/bin/{program}"), 0o755)?;
        let share = stage.root.join("usr/share");
        // Folders and files that everybody may read, whatever the umask here is.
        let write = Run::shell("umask 022; exec \"$0\" --generate \"$1\"");
        succeed(write.arg(path(&programs.join(program))).arg(path(&share)), out)?;
    }
    stage.completions()?;
    stage.compress()?;
    finish(root, &stage, out)
}

/// Writes what dpkg reads, and packs.
fn finish(root: &Path, stage: &Stage, out: &Path) -> Result<PathBuf> {
    let control = Control::new(root, stage)?;
    control.write(root, stage)?;
    let package = out.join(format!("{}.deb", control.file_name()));
    let run = Run::new("dpkg-deb --build --root-owner-group -Zxz -z6")
        .arg(path(&stage.root))
        .arg(path(&package));
    // Times of files are not later than the commit's: the same commit gives the same package.
    let run = match control::commit(root, "%ct") {
        Some(seconds) => run.env("SOURCE_DATE_EPOCH", seconds),
        None => run,
    };
    succeed(run, out)?;
    Ok(package)
}

/// What Debian's own critic says of the package: nothing, or it is an error. What is meant to be as
/// it is stands in `debian/lintian-overrides`, with the reason.
fn lintian(package: &Path, out: &Path) -> Result<()> {
    let run = Run::new("lintian --allow-root --no-cfg --tag-display-limit 0").arg(path(package));
    let output = run.command(out).output().context("lintian")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let tags: Vec<&str> = said.lines().filter(|line| !line.starts_with("N:")).collect();
    ensure!(output.status.success() && tags.is_empty(), "`{}` says:\n{said}", run.line());
    println!("lintian has nothing to say");
    Ok(())
}

/// Runs a command, its output in a log beside what is built.
fn succeed(run: Run, out: &Path) -> Result<()> {
    let log = out.join("dist.log");
    match run.run(out, &log).trouble() {
        None => Ok(()),
        Some(trouble) => bail!("`{}`: {trouble}; see {}", run.line(), log.display()),
    }
}

fn has(tool: Tool, out: &Path) -> bool {
    let reason = match tool.find(out) {
        Found::Yes => return true,
        Found::Missing { fix, .. } if tools::is_root() => {
            eprintln!("installing: {fix}");
            match tool.install(out, &out.join("dist.log")) {
                Found::Yes => return true,
                Found::No(reason) => reason,
                Found::Missing { fix, .. } => fix,
            }
        }
        Found::Missing { why, fix } => format!("{why}: {fix}"),
        Found::No(reason) => reason,
    };
    eprintln!("error: {reason}");
    false
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use hybrid_conventions::testing;

    use super::*;

    /// The package as it is, around programs that do nothing.
    #[test]
    fn the_package_holds_what_it_should_and_its_scripts_and_units_are_sound() {
        let out = std::env::temp_dir().join(format!("xtask-dist-{}", std::process::id()));
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
        if !Run::new("dpkg-deb --version").succeeds(root) {
            return testing::skipped("the_package_holds_what_it_should", "no dpkg-deb here");
        }
        fs::create_dir_all(&out).expect("a folder");
        let stage = Stage::new(out.join("stage")).expect("a stage");
        stage.files(root).expect("every file of the table");
        for (_, program) in PROGRAMS {
            stage
                .copy(Path::new("/bin/true"), &format!("usr/bin/{program}"), 0o755)
                .expect("copied");
        }
        stage.compress().expect("compressed");
        let package = finish(root, &stage, &out).expect("packed");
        let ask = |what: &str| {
            Run::new("dpkg-deb").arg(what).arg(path(&package)).output(&out).expect("an answer")
        };
        let (list, info) = (ask("--contents"), ask("--info"));
        for file in [
            "./usr/bin/feed-handler\n",
            "./etc/hybrid-runtime/feed-handler.toml\n",
            "./usr/lib/systemd/system/hybrid-runtime@.service\n",
            "./usr/lib/systemd/system/hybrid.slice\n",
            "./usr/lib/systemd/system/hybrid-sysconfig-helper.socket\n",
            "./usr/share/doc/hybrid-runtime/copyright\n",
            "./usr/share/hybrid-runtime/monitoring/alerts.yml\n",
        ] {
            assert!(list.contains(file), "{file}{list}");
        }
        // `-rwxr-xr-x root/root`: nobody else's, and nobody else writes to it.
        let sound = |line: &str| {
            let mode = line.as_bytes();
            line.contains(" root/root ") && mode[5] != b'w' && mode[8] != b'w'
        };
        assert!(list.lines().all(sound), "{list}");
        for line in [" Package: hybrid-runtime\n", "conffiles", "postinst", "prerm", "postrm"] {
            assert!(info.contains(line), "{line}: {info}");
        }
        for script in ["postinst", "prerm", "postrm"] {
            let script = stage.root.join("DEBIAN").join(script);
            assert!(Run::new("sh -n").arg(path(&script)).succeeds(&out), "{}", script.display());
        }
        verify_units(&stage);
        let _ = fs::remove_dir_all(&out);
    }

    /// What systemd-analyze says of a unit of ours below `root`. Units of the system are not there;
    /// what is said of them does not count.
    fn said_of(root: &Path, unit: &str) -> Vec<String> {
        let run = Run::new("systemd-analyze verify --man=no --recursive-errors=no");
        let run = run.arg(format!("--root={}", path(root))).arg(unit);
        let output = run.command(root).output().expect("started");
        let said = String::from_utf8_lossy(&output.stderr);
        said.lines().filter(|line| line.contains("hybrid")).map(str::to_owned).collect()
    }

    /// A tree with a unit that no systemd would take.
    fn wrong_unit(stage: &Stage) -> PathBuf {
        let root = stage.root.with_extension("wrong");
        let folder = root.join("usr/lib/systemd/system");
        fs::create_dir_all(&folder).expect("a folder");
        let unit = "[Service]\nType=never\nExecStart=/usr/bin/hybrid-not-there\nUnheardOf=1\n";
        fs::write(folder.join("hybrid-wrong.service"), unit).expect("a unit");
        root
    }

    fn verify_units(stage: &Stage) {
        if !Run::new("systemd-analyze --version").succeeds(&stage.root) {
            return testing::skipped("units_are_sound", "no systemd-analyze here");
        }
        // An old one says nothing of a unit below --root, whatever is in it: that is no praise.
        if said_of(&wrong_unit(stage), "hybrid-wrong.service").is_empty() {
            let reason = "this systemd-analyze does not notice a wrong unit below --root";
            return testing::skipped("units_are_sound", reason);
        }
        let folder = stage.root.join("usr/lib/systemd/system");
        let units = fs::read_dir(&folder).expect("units").flatten().map(|entry| entry.path());
        for unit in units {
            // An instance of a template is what can be verified.
            let name = unit.file_name().and_then(|name| name.to_str()).expect("a name");
            let ours = said_of(&stage.root, &name.replace("@.", "@x."));
            assert_eq!(ours, [""; 0], "{name}");
        }
    }
}
