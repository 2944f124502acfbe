//! `--storage`: which way a run's blocks go, and what happens when the device is at fault.
//!
//! ```text
//!  nvme             our driver on --device
//!  uring-cmd, uring the same blocks, driven by the host's kernel
//!  auto             our driver; once the device is at fault, the kernel, and never back
//! ```
//! Called by `run`: for the first start, and by its starter for each next one. The partition that
//! had the device has ended by then; only that frees a PCI function.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use host_bridge::RuntimeError;
use host_bridge::backend::Backend;
use host_bridge::backend::vfio::bind_back::{Binder, HELPER_SOCKET, KernelNodes, bind_back};
use host_bridge::supervisor::alert::{Alert, AlertKind, Alerts};
use host_bridge::supervisor::counters::Counters;
use host_bridge::supervisor::fallback::Fallback;
use hybrid_conventions::{Bdf, DeviceSpec};

use crate::cli::MachineArgs;
use crate::device::{self, Need, Wanted};
use crate::failure::Failure;
use crate::output;
use crate::values::parse_io_time;

/// Which way blocks go: docs/fallback.md.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Storage")]
pub(crate) struct StorageArgs {
    /// Which way the blocks go: `nvme` is our driver on --device; `uring-cmd` and `uring` are the
    /// same blocks through the host's kernel (a PCI function is given to it first); `auto` is our
    /// driver, and the kernel from the moment that the device is at fault: VFIO does not start,
    /// fatal status, gone, commands without an answer. Going back is a start by hand, for a PCI
    /// function after `sysconfig ask bind BDF` [default: what --device says]
    #[arg(long, value_name = "nvme|uring-cmd|uring|auto")]
    pub(crate) storage: Option<Choice>,
    /// What takes over: `uring:PATH` or `uring-cmd:/dev/ngXnY`, with the same blocks [default: of
    /// model:IMAGE its image; of a PCI function what the kernel makes of it; of vfio-user none]
    #[arg(long, value_name = "DEVICE")]
    pub(crate) fallback: Option<String>,
    /// Where `sysconfig serve` listens, which gives a PCI function to the kernel without root here
    #[arg(long, value_name = "SOCKET", default_value = HELPER_SOCKET)]
    pub(crate) helper: PathBuf,
    /// A command that is older than this is aborted; one that the controller does not let go of is
    /// a reason to reset it, and in the end to give it up, 10ms to 1m
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_io_time)]
    pub(crate) io_timeout: Duration,
}

/// `--storage`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    Nvme,
    UringCmd,
    Uring,
    Auto,
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "nvme" => Ok(Self::Nvme),
            "uring-cmd" => Ok(Self::UringCmd),
            "uring" => Ok(Self::Uring),
            "auto" => Ok(Self::Auto),
            _ => Err(format!("storage {text}: nvme, uring-cmd, uring and auto are allowed")),
        }
    }
}

/// What takes over.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    /// A device of the kernel's, by name.
    Named(String),
    /// What the kernel makes of a function.
    Function(Bdf),
}

/// The kernel's ways to a drive that may be tried, in order.
const BOTH: &[Choice] = &[Choice::UringCmd, Choice::Uring];

/// The storage of one run, through all of its partition's starts.
pub(crate) struct Storage<'a> {
    machine: &'a MachineArgs,
    need: Need,
    /// What takes over, or is used from the start.
    way: Option<Way>,
    ways: &'static [Choice],
    fallback: Fallback,
    /// The device in use.
    current: String,
    /// Bytes a block of the device, as a partition that has ended said.
    lba_bytes: Option<u32>,
    told: Option<(Alerts, Counters)>,
}

impl<'a> Storage<'a> {
    /// What the command line says.
    pub(crate) fn new(machine: &'a MachineArgs, need: Need) -> Result<Self, Failure> {
        let args = &machine.storage;
        let device = DeviceSpec::parse(&machine.device).map_err(Failure::error)?;
        let kernels = matches!(device, DeviceSpec::Uring { .. } | DeviceSpec::UringCmd { .. });
        let choice = args.storage;
        if kernels && matches!(choice, Some(Choice::Nvme | Choice::Auto)) {
            return Err(Failure::error(format_args!(
                "--storage nvme and auto begin with our driver, and device {device} is driven by \
                 the host's kernel; name the controller, and this as --fallback {device}"
            )));
        }
        if args.fallback.is_some() && !matches!(choice, Some(Choice::Auto)) {
            return Err(Failure::error("--fallback goes with --storage auto"));
        }
        let way = match choice {
            None | Some(Choice::Nvme) => None,
            Some(_) if kernels => None,
            Some(choice) => Some(way(choice, device, args.fallback.as_deref())?),
        };
        let ways = match choice {
            Some(Choice::UringCmd) => &BOTH[..1],
            Some(Choice::Uring) => &BOTH[1..],
            _ => BOTH,
        };
        let fallback = match (&way, choice) {
            (Some(way), Some(Choice::Auto)) => Fallback::to(device.to_string(), way.to_string()),
            _ => Fallback::default(),
        };
        let current = machine.device.clone();
        Ok(Self { machine, need, way, ways, fallback, current, lba_bytes: None, told: None })
    }

    /// For the supervisor.
    pub(crate) fn fallback(&self) -> Fallback {
        self.fallback.clone()
    }

    /// Who hears of a change that the supervisor does not see.
    pub(crate) fn tell(&mut self, alerts: Alerts, counters: Counters) {
        self.told = Some((alerts, counters));
    }

    /// The device in use.
    pub(crate) fn current(&self) -> &str {
        &self.current
    }

    /// What the device said of its blocks: a file that takes over has to be cut the same way.
    pub(crate) const fn has_blocks_of(&mut self, lba_bytes: u32) {
        self.lba_bytes = Some(lba_bytes);
    }

    /// The device for the next start, which is looked at first. A device that cannot be had is at
    /// fault.
    pub(crate) fn backend(&mut self) -> Result<Box<dyn Backend>, Failure> {
        let auto = self.fallback.is_ready();
        match &self.way {
            None => device::backend(self.machine, Wanted::device(&self.current, self.need)),
            Some(_) if !auto => self.kernels(),
            Some(way) => {
                let early = self.look_ahead(way);
                match device::backend(self.machine, Wanted::device(&self.current, self.need)) {
                    Err(failure) if failure.device => self.take_over(Some(&failure.line)),
                    Ok(backend) => {
                        if let Some(line) = early {
                            self.note(&format!("warning: {line}"));
                        }
                        Ok(backend)
                    }
                    failed => failed,
                }
            }
        }
    }

    /// As [`Storage::backend`], a start with it having failed: other storage, if the device is why.
    pub(crate) fn instead(
        &mut self,
        error: RuntimeError,
    ) -> Result<Box<dyn Backend>, RuntimeError> {
        if !error.blames_device() || !self.fallback.is_ready() {
            return Err(error);
        }
        let why = error.to_string();
        self.take_over(Some(&why)).map_err(|failure| not_started(&failure))
    }

    /// The other storage, the device being at fault. `why` is what nobody else will tell.
    pub(crate) fn take_over(&mut self, why: Option<&str>) -> Result<Box<dyn Backend>, Failure> {
        self.fallback.take();
        let backend = self.kernels().map_err(|failure| Failure {
            line: match why {
                Some(why) => format!("{why}; the fallback failed too: {}", failure.line),
                None => format!("the fallback failed: {}", failure.line),
            },
            ..failure
        })?;
        if let (Some(why), Some((alerts, counters))) = (why, &self.told) {
            counters.fell_back();
            alerts.raise(&Alert {
                kind: AlertKind::FellBack,
                partition: feed_handler::handler::entry::ENTRY_NAME.to_owned(),
                incarnation: 0,
                pid: None,
                reason: "device-gone".to_owned(),
                line: format!("{why}; it goes on with {}, until it is started anew", self.fallback),
                dump: None,
            });
        }
        Ok(backend)
    }

    /// A device of the kernel's that can be had.
    fn kernels(&mut self) -> Result<Box<dyn Backend>, Failure> {
        let names = match self.way.clone() {
            Some(Way::Named(name)) => vec![name],
            Some(Way::Function(bdf)) => self.names_of(bdf)?,
            None => vec![self.current.clone()],
        };
        let mut why: Option<Failure> = None;
        for name in names {
            let wanted = Wanted {
                lba_bytes: self.lba_bytes,
                create: false,
                permitted: true,
                ..Wanted::device(&name, self.need)
            };
            match device::backend(self.machine, wanted) {
                Ok(backend) => {
                    if let Some(failure) = why {
                        self.note(&format!("warning: {}; it is {name} instead", failure.line));
                    }
                    self.fallback.is_called(&name);
                    self.current = name;
                    return Ok(backend);
                }
                Err(failure) => {
                    // The first is the one that was wanted.
                    let before = why.map(|before| format!("{}; ", before.line));
                    let line = format!("{}{}", before.unwrap_or_default(), failure.line);
                    why = Some(Failure { line, ..failure });
                }
            }
        }
        Err(why.unwrap_or_else(|| Failure::missing("the kernel shows no namespace of the drive")))
    }

    /// Gives a function to the kernel, and names what it makes of it.
    fn names_of(&self, bdf: Bdf) -> Result<Vec<String>, Failure> {
        let (nodes, binder) = bind_back(bdf, &self.machine.storage.helper)
            .map_err(|error| Failure { exit: error.exit(), ..Failure::error(error) })?;
        match binder {
            Binder::Nobody => {}
            Binder::Helper => self.note(&format!("{bdf} was given to the kernel by the helper")),
            Binder::Root => self.note(&format!("{bdf} was given to the kernel")),
        }
        let KernelNodes { generic, block } = nodes;
        let first = |nodes: &[PathBuf], scheme: &str| {
            nodes.first().map(|node| format!("{scheme}:{}", node.display()))
        };
        let name = |choice: &Choice| match choice {
            Choice::UringCmd => first(&generic, "uring-cmd"),
            _ => first(&block, "uring"),
        };
        Ok(self.ways.iter().filter_map(name).collect())
    }

    /// What would keep the fallback from being had now, where that can be known before.
    fn look_ahead(&self, way: &Way) -> Option<String> {
        match (way, self.need) {
            (Way::Named(name), Need::Read) => {
                let wanted = Wanted { create: false, ..Wanted::device(name, self.need) };
                let failure = device::backend(self.machine, wanted).err()?;
                Some(format!("there would be no fallback as things are: {}", failure.line))
            }
            _ => None,
        }
    }

    fn note(&self, line: &str) {
        if !self.machine.quiet {
            output::note(line);
        }
    }
}

/// Why a next start failed, for the supervisor.
pub(crate) fn not_started(failure: &Failure) -> RuntimeError {
    let (name, reason) = (feed_handler::handler::entry::ENTRY_NAME.to_owned(), &failure.line);
    RuntimeError::NotStarted { name, reason: reason.clone() }
}

/// What takes over from `device`.
fn way(choice: Choice, device: DeviceSpec<'_>, named: Option<&str>) -> Result<Way, Failure> {
    if let Some(named) = named {
        return match DeviceSpec::parse(named).map_err(Failure::error)? {
            DeviceSpec::Uring { .. } | DeviceSpec::UringCmd { .. } => {
                Ok(Way::Named(named.to_owned()))
            }
            _ => Err(Failure::error(format_args!(
                "--fallback {named} is not driven by the host's kernel; allowed are uring:PATH and \
                 uring-cmd:/dev/ngXnY"
            ))),
        };
    }
    match device {
        DeviceSpec::Pci(bdf) => Ok(Way::Function(bdf)),
        DeviceSpec::Model { image: Some(_) } if choice == Choice::UringCmd => {
            Err(Failure::error("an image is a file: --storage uring, not uring-cmd"))
        }
        DeviceSpec::Model { image: Some(image) } => Ok(Way::Named(format!("uring:{image}"))),
        DeviceSpec::Model { image: None } => Err(Failure::error(
            "a model in memory has no blocks that anything else could read; keep them in an image: \
             --device model:IMAGE",
        )),
        DeviceSpec::VfioUser { .. } => Err(Failure::error(format_args!(
            "only its server knows where {device} keeps its blocks; name that: --storage auto \
             --fallback uring:IMAGE"
        ))),
        DeviceSpec::Uring { .. } | DeviceSpec::UringCmd { .. } => {
            Ok(Way::Named(device.to_string()))
        }
    }
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::Function(bdf) => write!(f, "{bdf} by the kernel's driver"),
        }
    }
}

/// Whether an image file is the one that a fallback reads.
pub(crate) fn image_of(device: &str) -> Option<&Path> {
    ["model:", "uring:"].iter().find_map(|form| device.strip_prefix(form)).map(Path::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(choice: Choice, device: &str, named: Option<&str>) -> Result<String, String> {
        let device = DeviceSpec::parse(device).expect("a device");
        way(choice, device, named).map(|way| way.to_string()).map_err(|failure| failure.line)
    }

    #[test]
    fn what_takes_over_follows_from_the_device() {
        let auto = |device, named| of(Choice::Auto, device, named);
        assert_eq!(auto("model:/d/a.img", None).as_deref(), Ok("uring:/d/a.img"));
        assert_eq!(auto("03:00.0", None).as_deref(), Ok("0000:03:00.0 by the kernel's driver"));
        let named = Some("uring:/d/b.img");
        assert_eq!(auto("vfio-user:/s", named).as_deref(), Ok("uring:/d/b.img"));
        assert!(auto("vfio-user:/s", None).is_err_and(|line| line.contains("--fallback")));
        assert!(auto("model", None).is_err_and(|line| line.contains("--device model:IMAGE")));
        assert!(auto("model:/a", Some("model:/b")).is_err_and(|line| line.contains("uring:PATH")));
        assert!(of(Choice::UringCmd, "model:/a", None).is_err());
    }

    #[test]
    fn choices_are_the_documented_ones() {
        for (text, choice) in [
            ("nvme", Choice::Nvme),
            ("uring-cmd", Choice::UringCmd),
            ("uring", Choice::Uring),
            ("auto", Choice::Auto),
        ] {
            assert_eq!(text.parse(), Ok(choice));
        }
        assert!("spdk".parse::<Choice>().is_err_and(|line| line.ends_with("are allowed")));
    }
}
