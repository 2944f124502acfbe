//! `sysconfig ask`: asks the helper, for people and scripts.
//!
//! One request, one answer, with a deadline that is longer than anything the helper waits for.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use hybrid_conventions::{Bdf, CpuSet, Exit};
use serde_json::{Value, json};

use super::config::DEFAULT_SOCKET;
use crate::failure::Failure;
use crate::output;

/// A bind waits 10 s for the driver and 10 s for its nodes, and as long again to undo it.
const ANSWER_TIME: Duration = Duration::from_secs(45);

/// Longest answer that is believed.
const ANSWER_BYTES: u64 = 1 << 20;

/// The command line of `ask`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  \
    sysconfig ask list\n  \
    sysconfig ask bind 03:00.0\n  \
    sysconfig ask unbind 03:00.0\n  \
    sysconfig ask irq 24 0-1 --json")]
pub(crate) struct AskArgs {
    /// The helper's socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET, global = true)]
    socket: PathBuf,
    /// Print the answer as it came (JSON-RPC 2.0)
    #[arg(long, global = true)]
    json: bool,
    /// What to ask for
    #[command(subcommand)]
    what: Ask,
}

#[derive(Clone, Debug, Subcommand)]
enum Ask {
    /// List the devices that the helper works for
    List,
    /// Give a drive to user space
    Bind {
        /// The drive
        bdf: Bdf,
    },
    /// Give a drive back to the kernel
    Unbind {
        /// The drive
        bdf: Bdf,
    },
    /// Move an interrupt
    Irq {
        /// Its number
        irq: u32,
        /// The CPUs that may get it then
        cpus: CpuSet,
    },
    /// List what can be asked for
    Methods,
}

impl Ask {
    fn request(&self) -> Value {
        let (method, params) = match self {
            Self::List => ("device_list", Value::Null),
            Self::Bind { bdf } => ("device_bind", json!({ "bdf": bdf.to_string() })),
            Self::Unbind { bdf } => ("device_unbind", json!({ "bdf": bdf.to_string() })),
            Self::Irq { irq, cpus } => {
                ("irq_set_affinity", json!({ "irq": irq, "cpus": cpus.to_string() }))
            }
            Self::Methods => ("rpc_get_methods", Value::Null),
        };
        json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params })
    }
}

/// Asks and prints.
pub(crate) fn ask_command(args: &AskArgs) -> Result<Exit, Failure> {
    let line = exchange(&args.socket, &args.what.request())?;
    let answer: Value = serde_json::from_str(&line)
        .map_err(|error| Failure::error(format_args!("the helper's answer is no JSON: {error}")))?;
    if args.json {
        output::result(&line)?;
    }
    if let Some(error) = answer.get("error") {
        let text = error["message"].as_str().unwrap_or("an error without a message");
        let missing = error["data"]["exit"].as_u64() == Some(3);
        let line = format!("the helper refused: {text}");
        return Err(if missing { Failure::missing(line) } else { Failure::error(line) });
    }
    if !args.json {
        output::result(human(&answer["result"]))?;
    }
    Ok(Exit::Ok)
}

fn exchange(socket: &Path, request: &Value) -> Result<String, Failure> {
    let shown = socket.display();
    let mut stream = UnixStream::connect(socket).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => Failure::missing(format_args!(
            "{shown}: {error}: no helper is running; systemctl start \
             hybrid-sysconfig-helper.socket, or sysconfig serve as root"
        )),
        ErrorKind::PermissionDenied => Failure::error(format_args!(
            "{shown}: {error}: this user is not in the socket's group; usermod -aG GROUP USER"
        )),
        _ => Failure::error(format_args!("{shown}: {error}")),
    })?;
    let failed = |error: std::io::Error| Failure::error(format_args!("{shown}: {error}"));
    stream.set_read_timeout(Some(ANSWER_TIME)).map_err(failed)?;
    stream.write_all(format!("{request}\n").as_bytes()).map_err(failed)?;
    let mut line = String::new();
    BufReader::new(stream.take(ANSWER_BYTES)).read_line(&mut line).map_err(|error| match error
        .kind()
    {
        ErrorKind::WouldBlock => {
            Failure::error(format_args!("{shown}: no answer within {} s", ANSWER_TIME.as_secs()))
        }
        _ => failed(error),
    })?;
    if line.ends_with('\n') {
        Ok(line)
    } else {
        Err(Failure::error(format_args!("{shown}: the helper hung up in the middle of its answer")))
    }
}

/// A line for each thing: `bdf 0000:03:00.0  driver vfio-pci`.
fn human(result: &Value) -> String {
    let one = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            items.iter().map(|item| item.as_str().unwrap_or("?")).collect::<Vec<_>>().join(" ")
        }
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    let row = |value: &Value| match value {
        Value::Object(fields) => {
            let cells: Vec<String> =
                fields.iter().map(|(key, value)| format!("{key} {}", one(value))).collect();
            cells.join("  ")
        }
        other => one(other),
    };
    match result {
        Value::Array(rows) => rows.iter().map(|value| row(value) + "\n").collect(),
        other => row(other) + "\n",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_printed_a_line_each() {
        let bound = json!({ "bdf": "0000:03:00.0", "driver": "vfio-pci", "iommu_group": 7,
                            "nodes": ["/dev/vfio/7", "/dev/vfio/devices/vfio0"] });
        assert_eq!(
            human(&bound),
            "bdf 0000:03:00.0  driver vfio-pci  iommu_group 7  \
             nodes /dev/vfio/7 /dev/vfio/devices/vfio0\n"
        );
        let list = json!([{ "bdf": "0000:03:00.0", "driver": null }, { "bdf": "x" }]);
        assert_eq!(human(&list), "bdf 0000:03:00.0  driver -\nbdf x\n");
        assert_eq!(human(&json!(["a_b", "c_d"])), "a_b\nc_d\n");
    }

    #[test]
    fn without_a_helper_it_says_what_starts_one() {
        let failure = exchange(Path::new("/nowhere/helper.sock"), &json!({})).expect_err("none");
        assert_eq!(failure.exit, Exit::Missing);
        assert!(failure.line.contains("systemctl start"), "{}", failure.line);
    }
}
