//! Which flag has an effect in which mode, and on which device.
//!
//! A flag that would do nothing is refused, with those that are allowed: whoever gives one believes
//! that it changed what was measured. The table has a row for every flag; the tests see to it, and
//! to it that each allowed one changes what is run.

use clap::ArgMatches;
use clap::parser::ValueSource;
use hybrid_conventions::DeviceSpec;

use crate::cli::{ModeArgs, RunArgs};
use crate::failure::Failure;

/// What a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Closed,
    Open,
    Batch,
    Burst,
    Futures,
    Verify,
    Stepped,
    Proposal,
    Ladder,
}

impl Mode {
    /// The flags' exclusions leave at most one of them.
    const fn of(mode: &ModeArgs, futures: bool) -> Self {
        if mode.rate.is_some() {
            Self::Open
        } else if mode.batch.is_some() {
            Self::Batch
        } else if mode.burst.is_some() {
            Self::Burst
        } else if futures {
            Self::Futures
        } else if mode.verify {
            Self::Verify
        } else if mode.stepped {
            Self::Stepped
        } else if mode.proposal {
            Self::Proposal
        } else if mode.ladder.is_some() {
            Self::Ladder
        } else {
            // What is left when no flag chooses.
            Self::Closed
        }
    }

    /// The flag that chooses it.
    const fn flag(self) -> &'static str {
        match self {
            Self::Closed => "a closed loop",
            Self::Open => "--rate",
            Self::Batch => "--batch",
            Self::Burst => "--burst",
            Self::Futures => "--futures",
            Self::Verify => "--verify",
            Self::Stepped => "--stepped",
            Self::Proposal => "--proposal",
            Self::Ladder => "--ladder",
        }
    }
}

const OPEN: &[Mode] = &[Mode::Open];
/// Those that go over queues with the load that the flags describe.
const LOADS: &[Mode] =
    &[Mode::Closed, Mode::Open, Mode::Batch, Mode::Burst, Mode::Futures, Mode::Verify];
/// The same, and the ladder.
const CLIMBS: &[Mode] = &[
    Mode::Closed,
    Mode::Open,
    Mode::Batch,
    Mode::Burst,
    Mode::Futures,
    Mode::Verify,
    Mode::Ladder,
];
/// Of these, those with a depth.
const DEEP: &[Mode] =
    &[Mode::Closed, Mode::Open, Mode::Batch, Mode::Futures, Mode::Verify, Mode::Ladder];
/// Of these, those on raw queues.
const RAW: &[Mode] = &[Mode::Closed, Mode::Open, Mode::Batch, Mode::Verify];
/// Those that take times of operations or batches.
const TIMED: &[Mode] = &[Mode::Closed, Mode::Open, Mode::Batch, Mode::Futures];
/// Of these, those of operations, which is what fio's layout has a place for.
const SINGLE: &[Mode] = &[Mode::Closed, Mode::Open, Mode::Futures];
/// Those that warm up.
const WARM: &[Mode] = &[
    Mode::Closed,
    Mode::Open,
    Mode::Batch,
    Mode::Burst,
    Mode::Futures,
    Mode::Proposal,
    Mode::Ladder,
];
/// Those with a device of their own choice.
const DEVICES: &[Mode] = &[
    Mode::Closed,
    Mode::Open,
    Mode::Batch,
    Mode::Burst,
    Mode::Futures,
    Mode::Verify,
    Mode::Proposal,
];
/// The same, and the ladder's last rung.
const NAMED: &[Mode] = &[
    Mode::Closed,
    Mode::Open,
    Mode::Batch,
    Mode::Burst,
    Mode::Futures,
    Mode::Verify,
    Mode::Proposal,
    Mode::Ladder,
];
/// What is read needs not be what was written.
const NULL: &[Mode] =
    &[Mode::Closed, Mode::Open, Mode::Batch, Mode::Burst, Mode::Futures, Mode::Proposal];
const ALL: &[Mode] = &[
    Mode::Closed,
    Mode::Open,
    Mode::Batch,
    Mode::Burst,
    Mode::Futures,
    Mode::Verify,
    Mode::Stepped,
    Mode::Proposal,
    Mode::Ladder,
];

/// A flag: the name of its field, and the modes in which it has an effect.
type Row = (&'static str, &'static [Mode]);

/// In the order of `--help`.
const TABLE: [Row; 54] = [
    ("depth", DEEP),
    ("bytes", CLIMBS),
    ("workload", CLIMBS),
    ("mix", LOADS),
    ("dist", LOADS),
    ("time_ns", ALL),
    ("warm_up_ns", WARM),
    ("repetitions", ALL),
    ("queues", RAW),
    ("futures", &[Mode::Futures]),
    ("seed", ALL),
    ("rate", OPEN),
    ("arrivals", OPEN),
    ("bursty", OPEN),
    ("backlog", OPEN),
    ("batch", &[Mode::Batch]),
    ("burst", &[Mode::Burst]),
    ("doorbell_each", &[Mode::Burst]),
    ("verify", &[Mode::Verify]),
    ("stepped", &[Mode::Stepped]),
    ("proposal", &[Mode::Proposal]),
    ("ladder", &[Mode::Ladder]),
    ("baseline", &[Mode::Proposal]),
    ("device", NAMED),
    ("namespace", DEVICES),
    ("core", ALL),
    ("isolation", DEVICES),
    ("allow_writes", CLIMBS),
    ("model_null", NULL),
    ("model_size", DEVICES),
    ("model_lba", DEVICES),
    ("model_latency", DEVICES),
    ("model_fault", &[Mode::Verify]),
    ("uring_sqpoll", DEVICES),
    ("uring_iopoll", DEVICES),
    ("uring_buffered", DEVICES),
    ("uring_no_fixed", DEVICES),
    ("probes", DEVICES),
    ("trace", DEVICES),
    ("trace_drop", DEVICES),
    ("freeze_over", DEVICES),
    ("freeze_budget_over", DEVICES),
    ("freeze_stolen_over", DEVICES),
    ("freeze_dir", DEVICES),
    ("freeze_most", DEVICES),
    ("probe_ring", DEVICES),
    ("latency", TIMED),
    ("json", ALL),
    ("fio_json", SINGLE),
    ("out", ALL),
    ("report", TIMED),
    ("report_beside", TIMED),
    ("csv", TIMED),
    ("quiet", ALL),
];

/// Refuses flags that would do nothing.
pub(crate) fn check(matches: &ArgMatches, args: &RunArgs) -> Result<(), Failure> {
    let mode = Mode::of(&args.mode, args.load.futures);
    let given = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    for (id, modes) in TABLE {
        // Stepped there is nothing but the model, which may be named.
        let named = (id, mode) == ("device", Mode::Stepped) && args.machine.device == "model";
        if given(id) && !modes.contains(&mode) && !named {
            return Err(no_effect(id, mode));
        }
    }
    let spec = DeviceSpec::parse(&args.machine.device).map_err(Failure::error)?;
    let (model, image) = match spec {
        DeviceSpec::Model { image } => (true, image.is_some()),
        _ => (false, false),
    };
    let of_model = ["model_null", "model_size", "model_lba", "model_latency", "model_fault"];
    for id in of_model.into_iter().filter(|id| given(id)) {
        let of_memory = matches!(id, "model_null" | "model_size");
        if !model || image && of_memory {
            let without = if of_memory { " without an image" } else { "" };
            return Err(Failure::error(format_args!(
                "{} has no effect on {spec}; it is for the model{without}: leave it out, or use \
                 --device model",
                written(id)
            )));
        }
    }
    let by_kernel = matches!(spec, DeviceSpec::Uring { .. } | DeviceSpec::UringCmd { .. });
    let of_uring = ["uring_sqpoll", "uring_iopoll", "uring_buffered", "uring_no_fixed"];
    if let Some(id) = of_uring.into_iter().find(|id| given(id) && !by_kernel) {
        return Err(Failure::error(format_args!(
            "{} has no effect on {spec}; it is for uring:PATH and uring-cmd:/dev/ngXnY: leave it \
             out, or use such a --device",
            written(id)
        )));
    }
    Ok(())
}

fn no_effect(id: &str, mode: Mode) -> Failure {
    let allowed = TABLE.iter().filter(|(id, modes)| modes.contains(&mode) && !chooses(id));
    let allowed: Vec<String> = allowed.map(|(id, _)| written(id)).collect();
    Failure::error(format_args!(
        "{} has no effect with {}; allowed with it are {}",
        written(id),
        mode.flag(),
        allowed.join(", ")
    ))
}

/// Whether a flag does no more than choose the mode.
fn chooses(id: &str) -> bool {
    matches!(
        id,
        "futures" | "rate" | "batch" | "burst" | "verify" | "stepped" | "proposal" | "ladder"
    )
}

/// As the command line has it: the short one, if there is one.
fn written(id: &str) -> String {
    use clap::CommandFactory as _;
    let command = crate::cli::Cli::command();
    let arg = command.get_arguments().find(|arg| arg.get_id() == id);
    let short = arg.and_then(|arg| arg.get_short()).map(|short| format!("-{short}"));
    let long = || arg.and_then(|arg| arg.get_long()).map(|long| format!("--{long}"));
    short.or_else(long).unwrap_or_else(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, FromArgMatches as _};
    use host_bridge::PartitionSpec;

    use super::*;
    use crate::cli::Cli;

    /// A mode's flags.
    fn choice(mode: Mode) -> &'static [&'static str] {
        match mode {
            Mode::Closed => &[],
            Mode::Open => &["--rate", "9k"],
            Mode::Batch => &["--batch", "9"],
            Mode::Burst => &["--burst", "9"],
            Mode::Futures => &["--futures"],
            Mode::Verify => &["--verify"],
            Mode::Stepped => &["--stepped"],
            Mode::Proposal => &["--proposal"],
            Mode::Ladder => &["--ladder", "/nothing"],
        }
    }

    /// A flag with a value that is not its default's, and others that it needs to matter.
    fn sample(id: &str) -> &'static [&'static str] {
        match id {
            "depth" => &["-q", "7"],
            "bytes" => &["-o", "8k"],
            "workload" => &["-w", "randwrite"],
            "mix" => &["-M", "20", "-w", "randrw"],
            "dist" => &["--dist", "zipf:0.9"],
            "time_ns" => &["-t", "3"],
            "warm_up_ns" => &["-a", "3"],
            "repetitions" => &["--repetitions", "3"],
            "queues" => &["--queues", "3"],
            "futures" => &["--futures"],
            "seed" => &["--seed", "3"],
            "rate" => &["--rate", "3k"],
            "arrivals" => &["--arrivals", "fixed"],
            "bursty" => &["--bursty", "3"],
            "backlog" => &["--backlog", "3"],
            "batch" => &["--batch", "3"],
            "burst" => &["--burst", "3"],
            "doorbell_each" => &["--doorbell-each"],
            "verify" => &["--verify"],
            "stepped" => &["--stepped"],
            "proposal" => &["--proposal"],
            "ladder" => &["--ladder", "/nothing"],
            "baseline" => &["--baseline", "/nothing"],
            "device" => &["--device", "vfio-user:/nothing"],
            "namespace" => &["-n", "3"],
            "core" => &["--core", "0"],
            "isolation" => &["--isolation", "process"],
            "allow_writes" => &["--allow-writes"],
            "model_null" => &["--model-null"],
            "model_size" => &["--model-size", "3M"],
            "model_lba" => &["--model-lba", "512"],
            "model_latency" => &["--model-latency", "30us"],
            "model_fault" => &["--model-fault", "torn"],
            "uring_sqpoll" => &["--uring-sqpoll", "off", "--device", "uring:/nothing"],
            "uring_iopoll" => &["--uring-iopoll", "--device", "uring:/nothing"],
            "uring_buffered" => &["--uring-buffered", "--device", "uring:/nothing"],
            "uring_no_fixed" => &["--uring-no-fixed", "--device", "uring:/nothing"],
            "probes" => &["--probes", "driver"],
            "trace" => &["--trace", "o.hytrace"],
            "trace_drop" => &["--trace-drop", "--trace", "o.hytrace"],
            "freeze_over" => &["--freeze-over", "1ms"],
            "freeze_budget_over" => &["--freeze-budget-over", "1ms"],
            "freeze_stolen_over" => &["--freeze-stolen-over", "1ms"],
            "freeze_dir" => &["--freeze-dir", "flights", "--freeze-over", "1ms"],
            "freeze_most" => &["--freeze-most", "3", "--freeze-over", "1ms"],
            "probe_ring" => &["--probe-ring", "1M"],
            "latency" => &["-LL"],
            "json" => &["--json"],
            "fio_json" => &["--fio-json"],
            "out" => &["--out", "o.json"],
            "report" => &["--report", "o.html"],
            "report_beside" => &["--report", "o.html", "--report-beside", "o.hgrm"],
            "csv" => &["--csv", "o.csv"],
            "quiet" => &["--quiet"],
            _ => panic!("flag {id} has no sample: give it one, and a row in the table"),
        }
    }

    fn parse(words: &[&str]) -> Result<RunArgs, String> {
        let line = std::iter::once("storage-bench").chain(words.iter().copied());
        let matches = Cli::command().try_get_matches_from(line).map_err(|e| e.to_string())?;
        let cli = Cli::from_arg_matches(&matches).map_err(|e| e.to_string())?;
        check(&matches, &cli.run).map_err(|failure| failure.line)?;
        Ok(cli.run)
    }

    fn flags() -> Vec<String> {
        let command = Cli::command();
        let all = command.get_arguments().map(|arg| arg.get_id().to_string());
        all.filter(|id| !matches!(id.as_str(), "help" | "version")).collect()
    }

    #[test]
    fn every_flag_has_its_row() {
        let mut flags = flags();
        let mut rows: Vec<&str> = TABLE.iter().map(|(id, _)| *id).collect();
        flags.sort_unstable();
        rows.sort_unstable();
        assert_eq!(flags, rows);
    }

    #[test]
    fn a_flag_works_or_is_refused_in_every_mode() {
        for mode in ALL {
            for (id, modes) in TABLE {
                let words = [choice(*mode), sample(id)].concat();
                let parsed = match chooses(id) {
                    true => continue,
                    false => parse(&words),
                };
                match (modes.contains(mode), parsed) {
                    (true, Ok(_)) => {}
                    (true, Err(line)) => panic!("{words:?} is refused: {line}"),
                    (false, Ok(_)) => panic!("{words:?} is taken, and does nothing"),
                    (false, Err(line)) => {
                        // Either ours, with what is allowed, or clap's, which names the other flag.
                        let ours = line.contains("has no effect with") && !line.contains('\n');
                        assert!(ours || line.contains("--"), "{words:?}: {line}");
                    }
                }
            }
        }
    }

    /// All that a run is made of, but for how its result is shown.
    fn work(args: &RunArgs, mode: Mode) -> String {
        let machine = &args.machine;
        let device = crate::device::options(machine).map(|(options, on, _)| {
            let uring = options.uring;
            let crate::cli::MachineArgs { device, isolation, .. } = machine;
            let model = options.model.config;
            let mut spec = PartitionSpec::new("bench", crate::launch::ENTRY);
            args.probes.apply(&mut spec);
            let probes = (&spec.probes, spec.config.probe_records);
            format!("{on:?} {device} {isolation} {model:?} {uring:?} {probes:?}")
        });
        let device = device.expect("a device");
        match mode {
            Mode::Stepped => format!("{:?}", crate::stepped_run::Work::of(args)),
            Mode::Proposal => {
                let fio = crate::proposal::fio_seconds(args.load.time_ns);
                let (plan, phases) = crate::proposal::plan(args);
                format!("{:?} {:?} {plan:?} {phases:?}", args.mode.baseline, (fio, machine.core))
                    + &device
            }
            Mode::Ladder => {
                let load = crate::ladder::load(args).map_err(|failure| failure.line);
                let (plan, phases, _) = crate::job::plan(args).expect("allowed");
                format!("{load:?} {plan:?} {phases:?}") + &device
            }
            _ => {
                let (plan, phases, about) = crate::job::plan(args).expect("allowed");
                format!("{:?} {about} {plan:?} {phases:?}", machine.core) + &device
            }
        }
    }

    #[test]
    fn every_allowed_flag_changes_what_is_run() {
        // How the result is shown, and a permission: seen from outside, by the end-to-end tests.
        let shown = ["json", "fio_json", "out", "report_beside", "quiet", "allow_writes"];
        for mode in ALL {
            for (id, modes) in TABLE {
                if !modes.contains(mode) || shown.contains(&id) || chooses(id) {
                    continue;
                }
                let mut base = choice(*mode).to_vec();
                let mut words = [choice(*mode), sample(id)].concat();
                if id == "mix" {
                    base.extend(["-w", "randrw"]);
                }
                if id.starts_with("uring_") {
                    base.extend(["--device", "uring:/nothing"]);
                }
                if matches!(id, "latency" | "report" | "csv") {
                    // Timed anyway where the mode is about times; the page and -LL are drawn then.
                    if matches!(mode, Mode::Open | Mode::Batch) {
                        continue;
                    }
                }
                match id {
                    "trace_drop" => base.extend(["--trace", "o.hytrace"]),
                    "freeze_dir" | "freeze_most" => base.extend(["--freeze-over", "1ms"]),
                    _ => {}
                }
                if id == "model_lba" {
                    // What it changes is the namespace.
                    words.extend(["--model-size", "4M"]);
                    base.extend(["--model-size", "4M"]);
                }
                let (with, without) = (parse(&words), parse(&base));
                let with = work(&with.expect("allowed"), *mode);
                let without = work(&without.expect("allowed"), *mode);
                assert_ne!(with, without, "{words:?} changes nothing");
            }
        }
    }

    #[test]
    fn the_models_flags_are_for_the_model() {
        for device in ["vfio-user:/nothing", "0000:01:00.0", "model:/nothing"] {
            for id in ["model_null", "model_size", "model_lba", "model_latency"] {
                let taken =
                    device.starts_with("model:") && !matches!(id, "model_null" | "model_size");
                let parsed = parse(&[&["--device", device], sample(id)].concat());
                match parsed {
                    Ok(_) => assert!(taken, "{device} {id}"),
                    Err(line) => {
                        assert!(!taken && line.contains("it is for the model"), "{line}");
                    }
                }
            }
        }
        let fault =
            ["--verify", "--allow-writes", "--device", "vfio-user:/x", "--model-fault", "torn"];
        assert!(parse(&fault).expect_err("refused").contains("--model-fault has no effect on"));
    }
}
