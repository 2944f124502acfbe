//! The host's side: device, partition, what is printed.

use std::io::Write as _;
use std::ops::ControlFlow;
use std::sync::PoisonError;
use std::time::Duration;

use core_runtime::partition::StopReason;
use host_bridge::backend::model::NamespaceConfig;
use host_bridge::backend::{Backend as _, DeviceOptions, from_spec};
use host_bridge::sys::signals::StopSignals;
use host_bridge::topology::Topology;
use host_bridge::{Entry, PartitionSpec, Runtime};
use hybrid_conventions::{CpuSet, DeviceSpec, Exit};

use crate::Command;
use crate::drill::{self, DRILL, Drill};
use crate::still;

/// An error's line and exit code.
type Failure = (Exit, String);

fn error(line: impl std::fmt::Display) -> Failure {
    (Exit::Error, line.to_string())
}

/// Carries a command out.
pub(crate) fn run(
    device: &DeviceSpec<'_>,
    core: Option<u32>,
    command: &Command,
) -> Result<(), Failure> {
    let drill = prepare(command)?;
    let refused = |error: host_bridge::backend::BackendError| (error.exit(), error.to_string());
    let mut options = DeviceOptions::default();
    if matches!(device, DeviceSpec::Model { image: Some(_) }) {
        // An image is as large as it is.
        options.model.config.namespaces = vec![NamespaceConfig::memory(1, 0)];
    }
    let backend = from_spec(device, options).map_err(refused)?;
    backend.look().map_err(refused)?;
    let signals = StopSignals::install().map_err(error)?;
    let topology = Topology::read();
    let core = core.or_else(|| topology.suggested_core());
    let core = core.ok_or_else(|| error("one cpu only; a partition needs one of its own"))?;
    let start = |error: host_bridge::RuntimeError| (error.exit(), error.to_string());
    let runtime = Runtime::new(CpuSet::single(core).map_err(error)?).map_err(start)?;
    *DRILL.lock().unwrap_or_else(PoisonError::into_inner) = Some(drill);
    let mut spec = PartitionSpec::new("drill", Entry::new("drill", drill::run));
    spec.isolation = host_bridge::Isolation::Thread;
    spec.device = Some(backend);
    spec.dma_bytes = 8 << 20;
    let mut partition = runtime.spawn(spec).map_err(start)?;
    let (mut said, mut still) = (false, 0);
    partition.wait(Duration::from_millis(5), |partition| {
        if !said && drill::is_under_way() {
            said = true;
            say("under way");
        }
        let steps = drill::still_steps();
        if steps > still {
            say(&still::line(steps));
        }
        still = steps;
        if signals.pending().is_some() {
            partition.request_stop(StopReason::Signal);
        }
        ControlFlow::Continue(())
    });
    let report = partition.join();
    for line in drill::results() {
        say(&line);
    }
    let device = report.device.unwrap_or_default();
    device.notes.iter().for_each(|note| say(&format!("note: {note}")));
    save(command)?;
    match (report.exit.is_done(), device.problem) {
        (true, None) => Ok(()),
        (true, Some(problem)) => Err(error(problem)),
        (false, None) => Err(error(&report.exit.text)),
        (false, Some(problem)) => Err(error(format_args!("{}; {problem}", report.exit.text))),
    }
}

fn say(line: &str) {
    println!("{line}");
    // Somebody waits for it; a pipe that was closed is nobody.
    let _ = std::io::stdout().flush();
}

fn prepare(command: &Command) -> Result<Drill, Failure> {
    let allowed = |allow_writes: &bool| {
        let line = "the device may carry data, which would be overwritten; --allow-writes permits";
        if *allow_writes { Ok(()) } else { Err(error(line)) }
    };
    Ok(match command {
        Command::Fill { allow_writes } => {
            allowed(allow_writes)?;
            Drill::Fill
        }
        Command::Storm { reads, window } => Drill::Storm { reads: *reads, window: *window },
        Command::Stray { address } => Drill::Stray { address: *address },
        Command::Put { allow_writes, offset, file } => {
            allowed(allow_writes)?;
            let bytes = std::fs::read(file)
                .map_err(|why| error(format_args!("{}: {why}", file.display())))?;
            check_length(bytes.len())?;
            Drill::Put { offset: *offset, bytes }
        }
        Command::Get { offset, bytes, .. } => {
            check_length(*bytes as usize)?;
            Drill::Get { offset: *offset, len: *bytes as usize }
        }
    })
}

fn check_length(bytes: usize) -> Result<(), Failure> {
    if bytes == 0 || bytes > 1 << 20 {
        return Err(error(format_args!("{bytes} bytes; allowed are 1 to 1048576")));
    }
    Ok(())
}

/// What was read, into its file.
fn save(command: &Command) -> Result<(), Failure> {
    let Command::Get { file, .. } = command else { return Ok(()) };
    match drill::taken() {
        Some(bytes) => std::fs::write(file, bytes)
            .map_err(|why| error(format_args!("{}: {why}", file.display()))),
        None => Ok(()),
    }
}
