//! A function back to the kernel's driver while its program runs, and the nodes that it gets there.
//!
//! Called when a device is at fault and its storage goes on through the kernel. The program has no
//! privilege for that: `sysconfig serve` has, and does it for devices and users that its config
//! names. Root does it by hand where no helper runs. The device must be closed before: the process
//! that drove it has ended.
//!
//! Not here: giving a function to vfio-pci again. That is an administrator's decision
//! (`sysconfig bind`, `sysconfig ask bind`).

use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hybrid_conventions::{Bdf, Exit};
use serde_json::{Value, json};

use super::error::VfioError;
use super::give_back::{GiveBackError, give_back};
use super::probe::{self, link_name};

/// Where `sysconfig serve` listens, unless its config says otherwise.
pub const HELPER_SOCKET: &str = "/run/hybrid-runtime/sysconfig.sock";

/// The helper waits 10 s for the driver and 5 s for its namespaces.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// Longest answer that is believed.
const ANSWER_BYTES: u64 = 1 << 20;

/// How long the kernel's driver may take to show a namespace. A controller that was stuck is reset
/// first, which takes seconds.
const NAMESPACE_TIME: Duration = Duration::from_secs(30);

/// How long the node for commands of a disk that is there is waited for; not every one has one.
const GENERIC_TIME: Duration = Duration::from_secs(1);

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// Why the kernel does not have the function.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindBackError {
    /// Not there any more.
    #[error("{bdf} is not there any more: the kernel cannot drive what has left the machine")]
    NotThere {
        /// The function.
        bdf: Bdf,
    },
    /// Not an NVMe controller: the kernel has no namespace of it, and it is left where it is.
    #[error(transparent)]
    NotNvme(VfioError),
    /// Nobody who may.
    #[error(
        "{bdf} is on vfio-pci, and nobody here may give it to the kernel: no helper answers at \
         {socket} ({why}); as root: sysconfig serve, with {bdf} and the verb unbind in its config, \
         or by hand: sysconfig unbind {bdf}"
    )]
    NoHelper {
        /// The function.
        bdf: Bdf,
        /// Where a helper was looked for.
        socket: PathBuf,
        /// What came instead.
        why: String,
    },
    /// The helper said no.
    #[error("the helper did not give {bdf} to the kernel: {line}")]
    Refused {
        /// The function.
        bdf: Bdf,
        /// What it said.
        line: String,
    },
    /// Root's own try.
    #[error(transparent)]
    GiveBack(#[from] GiveBackError),
    /// The kernel's driver has it, and shows nothing of it.
    #[error(
        "the kernel's driver has {bdf} and shows no namespace of it within {} s: the controller \
         does not work there either; dmesg tells why",
        NAMESPACE_TIME.as_secs()
    )]
    NoNamespace {
        /// The function.
        bdf: Bdf,
    },
}

impl BindBackError {
    /// 3 where something is missing, 1 otherwise.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::NotThere { .. } | Self::NoHelper { .. } => Exit::Missing,
            _ => Exit::Error,
        }
    }
}

/// What the kernel's driver makes of a function: nodes in `/dev`, the lowest namespace first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelNodes {
    /// Generic nodes, for passthrough: `/dev/ng0n1`.
    pub generic: Vec<PathBuf>,
    /// Block devices: `/dev/nvme0n1`.
    pub block: Vec<PathBuf>,
}

/// Who did it, for the line that tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binder {
    /// The kernel's driver had it already.
    Nobody,
    /// `sysconfig serve`.
    Helper,
    /// This process, which is root's.
    Root,
}

/// Gives `bdf` to the kernel's driver, if it does not have it, and waits for its nodes.
///
/// # Errors
/// [`BindBackError`].
pub fn bind_back(bdf: Bdf, helper: &Path) -> Result<(KernelNodes, Binder), BindBackError> {
    let root = Path::new("/");
    let function = probe::function(root, bdf).map_err(|error| match error {
        VfioError::NotThere { .. } => BindBackError::NotThere { bdf },
        error => BindBackError::NotNvme(error),
    })?;
    let binder = match link_name(&function.join("driver")) {
        Some(driver) if driver != "vfio-pci" => Binder::Nobody,
        _ => let_go(root, bdf, helper)?,
    };
    let nodes = wait_for_nodes(root, bdf, (NAMESPACE_TIME, GENERIC_TIME));
    nodes.map(|nodes| (nodes, binder)).ok_or(BindBackError::NoNamespace { bdf })
}

/// The nodes, once there are some; those for commands too, where the kernel makes them: each comes
/// right after its disk.
fn wait_for_nodes(
    root: &Path,
    bdf: Bdf,
    (longest, for_generic): (Duration, Duration),
) -> Option<KernelNodes> {
    let begun = Instant::now();
    let mut seen = None;
    loop {
        let nodes = nodes_of(root, bdf);
        if !nodes.block.is_empty() {
            let waited = seen.get_or_insert_with(Instant::now).elapsed();
            let has_generic = root.join("sys/class/nvme-generic").exists();
            let complete = nodes.generic.len() >= nodes.block.len();
            if complete || !has_generic || waited >= for_generic {
                return Some(nodes);
            }
        } else if begun.elapsed() >= longest {
            return None;
        }
        std::thread::sleep(LOOK);
    }
}

/// By the helper; by hand where there is none and this process may.
fn let_go(root: &Path, bdf: Bdf, helper: &Path) -> Result<Binder, BindBackError> {
    match ask(helper, bdf) {
        Ok(line) => understood(bdf, &line).map(|()| Binder::Helper),
        Err(_) if rustix::process::geteuid().is_root() => {
            give_back(root, bdf)?;
            Ok(Binder::Root)
        }
        Err(error) => {
            let why = match error.kind() {
                ErrorKind::WouldBlock => format!("no answer within {} s", ANSWER_TIME.as_secs()),
                ErrorKind::PermissionDenied => {
                    format!("{error}: this user is not in the socket's group")
                }
                _ => error.to_string(),
            };
            Err(BindBackError::NoHelper { bdf, socket: helper.to_owned(), why })
        }
    }
}

/// One request, one line.
fn ask(helper: &Path, bdf: Bdf) -> std::io::Result<String> {
    let params = json!({ "bdf": bdf.to_string() });
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": "device_unbind", "params": params });
    let mut stream = UnixStream::connect(helper)?;
    stream.set_read_timeout(Some(ANSWER_TIME))?;
    stream.set_write_timeout(Some(ANSWER_TIME))?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream.take(ANSWER_BYTES)).read_line(&mut line)?;
    if line.ends_with('\n') { Ok(line) } else { Err(ErrorKind::UnexpectedEof.into()) }
}

/// The answer's result, or what it refuses with.
fn understood(bdf: Bdf, line: &str) -> Result<(), BindBackError> {
    let refused = |line: &str| BindBackError::Refused { bdf, line: line.to_owned() };
    let answer: Value = serde_json::from_str(line)
        .map_err(|error| refused(&format!("its answer is no JSON: {error}")))?;
    match (answer.get("error"), answer.get("result")) {
        (Some(error), _) => {
            Err(refused(error["message"].as_str().unwrap_or("an error without a message")))
        }
        (None, Some(_)) => Ok(()),
        (None, None) => Err(refused("its answer has neither a result nor an error")),
    }
}

/// What the kernel shows of it.
fn nodes_of(root: &Path, bdf: Bdf) -> KernelNodes {
    let controllers = root.join(format!("sys/bus/pci/devices/{bdf}/nvme"));
    let mut numbers: Vec<(u32, u32)> = names(&controllers)
        .iter()
        .flat_map(|controller| names(&controllers.join(controller)))
        .filter_map(|name| disk_of(&name))
        .collect();
    numbers.sort_by_key(|(instance, namespace)| (*namespace, *instance));
    numbers.dedup();
    let there = |prefix: &str| -> Vec<PathBuf> {
        let node = |(instance, namespace): &(u32, u32)| {
            root.join(format!("dev/{prefix}{instance}n{namespace}"))
        };
        numbers.iter().map(node).filter(|node| node.exists()).collect()
    };
    KernelNodes { generic: there("ng"), block: there("nvme") }
}

/// Instance and namespace of `nvme0n1`; those of `nvme0n1` for `nvme0c3n1`, a path of a multipath
/// drive that has no node of its own.
fn disk_of(name: &str) -> Option<(u32, u32)> {
    let (left, namespace) = name.strip_prefix("nvme")?.split_once('n')?;
    let instance = left.split_once('c').map_or(left, |(subsystem, _)| subsystem);
    Some((instance.parse().ok()?, namespace.parse().ok()?))
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn bdf() -> Bdf {
        "03:00.0".parse().expect("an address")
    }

    #[test]
    fn nodes_are_found_by_number_and_paths_lead_to_their_drive() {
        let root = TempDir::new("nodes");
        let nvme = "sys/bus/pci/devices/0000:03:00.0/nvme/nvme0";
        for name in ["nvme0n10", "nvme0n2", "nvme0c0n1", "ng0n2", "power", "nvme0n3"] {
            root.write(&format!("{nvme}/{name}/dev"), "");
        }
        for name in ["nvme0n10", "nvme0n2", "nvme0n1", "ng0n2"] {
            root.write(&format!("dev/{name}"), "");
        }
        let nodes = nodes_of(root.path(), bdf());
        let named = |names: &[&str]| -> Vec<PathBuf> {
            names.iter().map(|name| root.path().join("dev").join(name)).collect()
        };
        assert_eq!(nodes.block, named(&["nvme0n1", "nvme0n2", "nvme0n10"]), "without a node: none");
        assert_eq!(nodes.generic, named(&["ng0n2"]));
        let none: Bdf = "04:00.0".parse().expect("an address");
        assert_eq!(nodes_of(root.path(), none), KernelNodes::default());
    }

    #[test]
    fn a_node_for_commands_that_comes_behind_its_disk_is_waited_for() {
        let root = TempDir::new("nodes-late");
        let wait = |generic| wait_for_nodes(root.path(), bdf(), (Duration::ZERO, generic));
        assert_eq!(wait(Duration::ZERO), None, "no disk, no time");
        root.write("sys/bus/pci/devices/0000:03:00.0/nvme/nvme0/nvme0n1/dev", "");
        root.write("dev/nvme0n1", "");
        let long = Duration::from_secs(60);
        assert_eq!(wait(long).expect("a disk").generic, Vec::<PathBuf>::new(), "an old kernel");
        root.write("sys/class/nvme-generic/ng0n1/dev", "");
        assert_eq!(wait(Duration::ZERO).expect("a disk").generic, Vec::<PathBuf>::new(), "never");
        let nodes = std::thread::scope(|scope| {
            let waits = scope.spawn(|| wait(long));
            root.write("dev/ng0n1", "");
            waits.join().expect("no panic")
        });
        assert_eq!(nodes.expect("a disk").generic, [root.path().join("dev/ng0n1")]);
    }

    #[test]
    fn what_the_helper_says_is_passed_on() {
        let result = r#"{"jsonrpc":"2.0","id":1,"result":{"driver":"nvme"}}"#;
        assert!(understood(bdf(), result).is_ok());
        let refused = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32001,"message":"not listed"}}"#;
        let line = understood(bdf(), refused).expect_err("an error").to_string();
        assert_eq!(line, "the helper did not give 0000:03:00.0 to the kernel: not listed");
        for odd in ["", "[]", "{}", "null", r#"{"error":7}"#] {
            assert!(understood(bdf(), odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn a_helper_is_asked_by_one_line_and_answers_by_one() {
        let root = TempDir::new("helper");
        let socket = root.path().join("helper.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        let helper = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a peer");
            let mut line = String::new();
            let reader = stream.try_clone().expect("a descriptor");
            BufReader::new(reader).read_line(&mut line).expect("a request");
            stream.write_all(b"{\"result\":{}}\n").expect("a peer that reads");
            line
        });
        assert_eq!(ask(&socket, bdf()).expect("an answer"), "{\"result\":{}}\n");
        let asked: Value = serde_json::from_str(&helper.join().expect("no panic")).expect("JSON");
        assert_eq!(asked["method"], "device_unbind");
        assert_eq!(asked["params"]["bdf"], "0000:03:00.0");
        let none = ask(Path::new("/nowhere/helper.sock"), bdf()).expect_err("nobody");
        assert_eq!(none.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn what_is_missing_is_named_with_what_helps() {
        let error = BindBackError::NoHelper {
            bdf: bdf(),
            socket: HELPER_SOCKET.into(),
            why: "No such file or directory (os error 2)".to_owned(),
        };
        assert_eq!(error.exit(), Exit::Missing);
        let line = error.to_string();
        assert!(line.contains("as root: sysconfig serve, with 0000:03:00.0"), "{line}");
        assert!(line.ends_with("by hand: sysconfig unbind 0000:03:00.0"), "{line}");
        let gone: Bdf = "ffff:ff:1f.7".parse().expect("an address");
        let error = bind_back(gone, Path::new(HELPER_SOCKET)).expect_err("no such function");
        assert!(matches!(error, BindBackError::NotThere { .. }), "{error}");
    }
}
