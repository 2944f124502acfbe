//! `cargo xtask vm`: a stock Debian kernel under QEMU, with emulated drives behind an emulated
//! IOMMU, in which VFIO, isolated cores and the tools around them are tried for real.
//!
//! [`kernel`] fetches Debian's package, [`modules`] and [`cpio`] make a file system of it with
//! busybox and our static programs ([`image`], [`binaries`]); [`machine`] and [`drive`] say what is
//! emulated; [`qemu`] runs one guest and [`qmp`] unplugs its drives. The guest's own scripts are in
//! `guest/`. What a guest is and is not is in `docs/vm.md`.

mod binaries;
mod cpio;
mod drive;
mod image;
mod kernel;
mod machine;
mod modules;
mod qemu;
mod qmp;

use std::fmt;
use std::io;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use hybrid_conventions::Nanos;

use crate::command::Run;
use crate::project::Project;
use drive::Drive;
use image::{Extra, quote};
use kernel::Kernel;
use machine::Machine;
use qemu::Guest;

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
}

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
    /// A drive (may be repeated): NAMESPACE[+NAMESPACE...][,mdts=N][,cmb=MIB][,queues=N][,beside],
    /// with namespaces SIZE[/LBA][@NSID][z for zoned]; `beside` shares slot and IOMMU group with
    /// the drive before.
    #[arg(long = "drive", value_name = "DRIVE", default_value = "256M")]
    drives: Vec<Drive>,
    /// More words for the kernel's command line.
    #[arg(long, value_name = "WORDS", default_value = "")]
    append: String,
    /// Debian package of the guest's kernel; a meta-package is followed.
    #[arg(long, value_name = "PACKAGE", default_value = kernel::DEFAULT_PACKAGE)]
    kernel: String,
    /// A file that the guest gets, by default in /usr/local/bin (may be repeated).
    #[arg(long = "file", value_name = "HOST[:GUEST]")]
    files: Vec<Extra>,
    /// Do not build our programs; the guest has none of them.
    #[arg(long)]
    no_build: bool,
    /// Kill the guest after this time.
    #[arg(long, value_name = "TIME", default_value = "5m")]
    limit: Nanos,
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
}

impl Prepared {
    fn new(project: &Project, package: &str, build: bool) -> Result<Self> {
        require_programs()?;
        let dir = project.target.join("xtask-vm");
        let logs = project.target.join("xtask-logs");
        std::fs::create_dir_all(&logs)
            .with_context(|| format!("cannot make {}", logs.display()))?;
        let log = logs.join("vm-prepare.log");
        let kernel = Kernel::fetch(package, &dir.join("kernels"), &log)?;
        let base = image::base(&kernel)?;
        let programs = match build {
            true => binaries::build(project, &dir, &log)?,
            false => Vec::new(),
        };
        Ok(Self { kernel, base, programs, logs })
    }
}

/// The programs that a guest is made with.
fn require_programs() -> Result<()> {
    let needs = [(qemu::PROGRAM, "qemu-system-x86"), ("busybox", "busybox-static")];
    for (program, package) in needs {
        if !Run::new(program).arg("--help").succeeds(std::path::Path::new("/")) {
            let fix = format!("apt-get install --no-install-recommends {package}");
            return Err(Missing::new(format!("{program} is not there"), fix).into());
        }
    }
    Ok(())
}

/// What the guest's shell finds in its environment.
fn environment(machine: &Machine, shell: bool) -> Vec<(String, String)> {
    let mut env = vec![
        ("GUEST_SHELL".to_owned(), u8::from(shell).to_string()),
        ("ISOLATED".to_owned(), machine.isolated.clone()),
        ("DRIVES".to_owned(), machine.addresses().join(" ")),
    ];
    let addresses = machine.addresses().into_iter().enumerate();
    env.extend(addresses.map(|(index, address)| (format!("NVME{index}"), address)));
    env
}

/// Does what was asked; the exit code is the guest's.
pub(crate) fn run(project: &Project, action: &Action) -> Result<u8> {
    match action {
        Action::Run { options, command } => run_one(project, options, command),
    }
}

fn run_one(project: &Project, options: &Options, command: &[String]) -> Result<u8> {
    let prepared = Prepared::new(project, &options.kernel, !options.no_build)?;
    let machine = options.machine();
    let line = match command {
        [line] => line.clone(),
        words => words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" "),
    };
    let extras = [prepared.programs.clone(), options.files.clone()].concat();
    let own = image::own(&format!("{line}\n"), &environment(&machine, false), &extras)?;
    let guest = Guest {
        name: "run",
        machine: &machine,
        kernel: &prepared.kernel.image,
        archives: &[&prepared.base, &own],
        logs: &prepared.logs,
        limit: options.limit.to_duration(),
    };
    guest.run(&mut io::stdout(), &mut io::stderr())
}
