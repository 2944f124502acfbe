//! `cargo xtask vm`: a stock Debian kernel under QEMU, with emulated drives behind an emulated
//! IOMMU, in which VFIO, isolated cores and the tools around them are tried for real.
//!
//! [`package`] fetches Debian's kernel and busybox, [`modules`] and [`cpio`] make a file system of
//! them with our programs ([`image`], [`binaries`]); [`machine`] and [`drive`] say what is
//! emulated; [`qemu`] runs one guest and [`qmp`] unplugs its drives, [`hold`]
//! holds them; [`shell`] lends it our
//! terminal. [`scenario`] is the guest suite, which [`suite`] runs and counts: that is where tests
//! are added; [`crash`] says when it boots a guest again. The guest's own scripts are in `guest/`.
//! For users there is `docs/vm.md`.

mod binaries;
mod cpio;
mod crash;
mod drive;
mod hold;
mod image;
mod machine;
mod modules;
mod package;
mod qemu;
mod qmp;
mod scenario;
mod shell;
mod suite;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use hybrid_conventions::{Exit, Nanos};

use crate::command::Run;
use crate::project::Project;
use crate::runner::Report;
use drive::Drive;
use image::{Extra, quote};
use machine::Machine;
use package::Kernel;
use qemu::Guest;

pub(crate) use binaries::build_of_programs;
pub(crate) use package::{KERNEL as KERNEL_PACKAGE, are_known as packages_are_known};
pub(crate) use qemu::PROGRAM as QEMU;

/// Something that this machine lacks, with the command that brings it; exit code 3.
#[derive(Debug)]
pub(crate) struct Missing {
    why: String,
    fix: String,
}

impl Missing {
    pub(crate) fn new(why: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { why: why.into(), fix: fix.into() }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; this brings it: {}", self.why, self.fix)
    }
}

impl std::error::Error for Missing {}

/// What to do with a guest.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Runs one command in a fresh guest; its output and exit code are ours.
    Run {
        #[command(flatten)]
        options: Options,
        /// The command; one word goes to the guest's shell, as in -- 'lsmod | grep vfio'.
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// Gives a prompt in a guest; `exit` or ^] ends it.
    Shell {
        #[command(flatten)]
        options: Options,
    },
    /// Runs the guest suite, as the step `vm` of `cargo xtask test` does; the default.
    Suite {
        /// Run this boot or part only (may be repeated).
        #[arg(long, value_name = "NAME")]
        only: Vec<String>,
        /// Print boots, parts and tests, and run none.
        #[arg(long)]
        list: bool,
        /// Debian package of the guests' kernel; a meta-package is followed.
        #[arg(long, value_name = "PACKAGE", default_value = package::KERNEL)]
        kernel: String,
    },
}

/// A command that takes so long in a guest hangs.
const RUN_LIMIT: Duration = Duration::from_secs(300);

/// What the guest is like.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// CPUs of the guest.
    #[arg(long, value_name = "N", default_value_t = 3)]
    cpus: u32,
    /// Memory of the guest in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    memory: u32,
    /// CPUs that the guest's Linux gives up (isolcpus, nohz_full, rcu_nocbs); "" for none.
    #[arg(long, value_name = "CPUS", default_value = "2")]
    isolated: String,
    /// Huge pages of 2 MiB that the guest reserves at boot.
    #[arg(long, value_name = "N", default_value_t = 64)]
    huge_pages: u32,
    /// NUMA nodes, which share CPUs and memory in equal parts.
    #[arg(long, value_name = "N", default_value_t = 1)]
    nodes: u32,
    /// Leave the IOMMU out.
    #[arg(long)]
    no_iommu: bool,
    /// A drive (may be repeated): `NAMESPACE[+NAMESPACE...][,mdts=N][,cmb=MIB][,queues=N][,beside]`
    /// with namespaces `SIZE[/LBA][@NSID]` and `z` for zoned; `beside` shares slot and IOMMU group
    /// with the drive before.
    #[arg(long = "drive", value_name = "DRIVE", default_value = "256M")]
    drives: Vec<Drive>,
    /// More words for the kernel's command line.
    #[arg(long, value_name = "WORDS", default_value = "")]
    append: String,
    /// Debian package of the guest's kernel; a meta-package is followed.
    #[arg(long, value_name = "PACKAGE", default_value = package::KERNEL)]
    kernel: String,
    /// A file that the guest gets, by default in /usr/local/bin (may be repeated).
    #[arg(long = "file", value_name = "HOST[:GUEST]")]
    files: Vec<Extra>,
    /// Do not build our programs; the guest has none of them.
    #[arg(long)]
    no_build: bool,
    /// Kill the guest after this time [default: 5m for `run`, none for `shell`].
    #[arg(long, value_name = "TIME")]
    limit: Option<Nanos>,
}

impl Options {
    fn machine(&self) -> Machine {
        Machine {
            cpus: self.cpus,
            memory_mib: self.memory,
            isolated: self.isolated.clone(),
            huge_pages: self.huge_pages,
            nodes: self.nodes,
            iommu: !self.no_iommu,
            drives: self.drives.clone(),
            append: self.append.clone(),
        }
    }
}

/// Everything that guests of one kernel share.
struct Prepared {
    kernel: Kernel,
    base: Vec<u8>,
    programs: Vec<Extra>,
    logs: PathBuf,
    /// Where the host's programs lie.
    programs_dir: PathBuf,
}

impl Prepared {
    fn new(project: &Project, package: &str, build: bool) -> Result<Self> {
        if !Run::new(QEMU).arg("--version").succeeds(Path::new("/")) {
            let fix = "apt-get install --no-install-recommends qemu-system-x86";
            return Err(Missing::new(format!("{QEMU} is not there"), fix).into());
        }
        let dir = project.target.join("xtask-vm");
        let packages = dir.join("packages");
        let logs = project.target.join("xtask-logs");
        for dir in [&packages, &logs] {
            fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let log = logs.join("vm-prepare.log");
        let _ = fs::remove_file(&log);
        let kernel = Kernel::find(&package::fetch(package, &packages, &log)?)?;
        let busybox = package::fetch(package::BUSYBOX, &packages, &log)?;
        let base = image::base(&kernel, &package::busybox_in(&busybox)?)?;
        let programs = match build {
            true => binaries::build(project, &dir, &log)?,
            false => Vec::new(),
        };
        let programs_dir = binaries::folder(&dir);
        Ok(Self { kernel, base, programs, logs, programs_dir })
    }

    /// Whether a program of ours was built.
    fn has(&self, name: &str) -> bool {
        self.programs.iter().any(|program| program.host.ends_with(name))
    }
}

/// Debian's kernel, and a first file system for it: busybox, `modules` after what they need (their
/// names in `/modules/order`), and `init` as its process 1.
pub(crate) fn first_stage(
    project: &Project,
    log: &Path,
    modules: &[&str],
    init: &str,
) -> Result<(PathBuf, Vec<u8>)> {
    let packages = project.target.join("xtask-vm/packages");
    fs::create_dir_all(&packages).with_context(|| format!("{}", packages.display()))?;
    let kernel = Kernel::find(&package::fetch(package::KERNEL, &packages, log)?)?;
    let busybox = package::busybox_in(&package::fetch(package::BUSYBOX, &packages, log)?)?;
    Ok((kernel.image.clone(), image::first(&kernel, &busybox, modules, init)?))
}

/// What the guest's shell finds in its environment.
fn environment(machine: &Machine, shell: bool) -> Vec<(String, String)> {
    let (rows, columns) = if shell { shell::size() } else { (24, 80) };
    let mut env: Vec<(String, String)> = [
        ("GUEST_SHELL", u8::from(shell).to_string()),
        ("GUEST_ROWS", rows.to_string()),
        ("GUEST_COLUMNS", columns.to_string()),
        ("ISOLATED", machine.isolated.clone()),
        ("HUGE_PAGES", machine.huge_pages.to_string()),
        ("DRIVES", machine.addresses().join(" ")),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    let addresses = machine.addresses().into_iter().enumerate();
    env.extend(addresses.map(|(index, address)| (format!("NVME{index}"), address)));
    env
}

/// Does what was asked; the exit code of a single guest is that of its command.
pub(crate) fn run(project: &Project, action: Option<&Action>) -> Result<u8> {
    match action {
        Some(Action::Run { options, command }) => {
            let line = match &**command {
                [line] => line.clone(),
                words => words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" "),
            };
            run_one(project, options, &line, false)
        }
        Some(Action::Shell { options }) => run_one(project, options, "", true),
        Some(Action::Suite { list: true, .. }) => {
            suite::list();
            Ok(Exit::Ok.code())
        }
        Some(Action::Suite { only, kernel, .. }) => Ok(suite::run(project, only, kernel)?.code()),
        None => Ok(suite::run(project, &[], package::KERNEL)?.code()),
    }
}

/// The suite as a step of `cargo xtask test`, within the time that is left.
pub(crate) fn step(project: &Project, log: &Path, left: Duration) -> Report {
    suite::step(project, package::KERNEL, log, left)
}

fn run_one(project: &Project, options: &Options, line: &str, shell: bool) -> Result<u8> {
    let prepared = Prepared::new(project, &options.kernel, !options.no_build)?;
    let machine = options.machine();
    let extras = [prepared.programs.clone(), options.files.clone()].concat();
    let env = environment(&machine, shell);
    let own = image::own(&format!("{line}\n"), &env, &extras, &[])?;
    let name = if shell { "shell" } else { "run" };
    let limit = match options.limit {
        Some(limit) => limit.to_duration(),
        None if shell => Duration::MAX,
        None => RUN_LIMIT,
    };
    let guest = Guest {
        name,
        machine: &machine,
        kernel: &prepared.kernel.image,
        archives: &[&prepared.base, &own],
        logs: &prepared.logs,
        programs: &prepared.programs_dir,
        limit,
        interactive: shell,
    };
    let _raw = shell.then(shell::Raw::enter);
    guest.run(&mut io::stdout(), &mut io::stderr())
}
