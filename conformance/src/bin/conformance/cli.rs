//! The command line.

use clap::Parser;

/// Runs the conformance suite of the NVMe driver on a device.
///
/// Each case runs on a partition's core, with the device attached anew. A line for each:
/// `test NAME ... ok`, `FAILED` or `ignored, REASON`; the last line counts them. The default device
/// is a software model of a controller: no root, no hardware.
///
/// Exit codes: 0 all that ran passed, 1 one failed or an error, 3 something is missing (the line
/// says what fixes it), 130 and 143 on signals.
#[derive(Clone, Debug, Parser)]
#[command(name = "conformance", version)]
pub(crate) struct Cli {
    /// The device: `model[:IMAGE]`, a PCI address such as 0000:03:00.0, `vfio-user:SOCKET`
    #[arg(long, value_name = "DEVICE", default_value = "model")]
    pub(crate) device: String,
    /// With vfio-user:SOCKET: serve the software model at that socket for the time of the run
    #[arg(long)]
    pub(crate) own_server: bool,
    /// Print the names of the cases (`--only` chooses) and what they need, and run none
    #[arg(
        long,
        conflicts_with_all = ["device", "own_server", "namespace", "allow_writes", "scale", "core"]
    )]
    pub(crate) list: bool,
    /// Run only cases whose name contains this; may be given several times
    #[arg(long, value_name = "PATTERN")]
    pub(crate) only: Vec<String>,
    /// Seed of everything random; the same seed makes the same operations
    #[arg(long, value_name = "N", default_value_t = 1, env = "HYBRID_SEED")]
    pub(crate) seed: u64,
    /// Use only this namespace; by default all that can be used
    #[arg(long, value_name = "NSID", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) namespace: Option<u32>,
    /// Overwrite the namespaces of a drive or of a vfio-user server; one that carries data is
    /// refused all the same. Without it, cases that write are left out
    #[arg(long)]
    pub(crate) allow_writes: bool,
    /// Divide the numbers of operations by this; by default it is measured how slow the device is
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) scale: Option<u64>,
    /// The CPU for the partition; by default an isolated one, else the last
    #[arg(long, value_name = "CPU")]
    pub(crate) core: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_does_not_contradict_itself() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_list_takes_no_device() {
        let parse =
            |args: &[&str]| Cli::try_parse_from([&["conformance", "--list"], args].concat());
        assert!(parse(&["--only", "random"]).is_ok());
        for args in [["--device", "model"], ["--scale", "2"], ["--core", "1"]] {
            assert!(parse(&args).is_err(), "{args:?}");
        }
    }
}
