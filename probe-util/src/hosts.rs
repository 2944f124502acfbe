//! The hosts that run on this machine, and their partitions' regions.
//!
//! A host makes `<run dir>/<pid>/control.sock` (`host_bridge::telemetry::control`). A region is
//! asked for there and comes as a descriptor that cannot write; what is in it is read by `pread`,
//! so that neither this program nor the partition can do the other any harm.

use std::fs::File;
use std::io::{self, ErrorKind, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use hybrid_abi::region::{DirectoryEntry, PartKind, RegionHeader};
use hybrid_abi::view::{REGION_HEAD_BYTES, RegionView};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};

/// The socket's name in the directory of its process.
const SOCKET_NAME: &str = "control.sock";

/// How long an answer may take: one look at every partition, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest answer that is believed: hundreds of metrics of tens of partitions.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Longest part that is read.
const PART_BYTES_MAX: u64 = 64 << 20;

/// Which hosts and partitions are meant.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Which {
    /// Only the host with this process number
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<u32>,
    /// Only the partition of this name
    #[arg(long, value_name = "NAME")]
    pub(crate) partition: Option<String>,
    /// Where hosts make their directories; may be repeated [default: /run/hybrid-runtime and those
    /// of services in it, $XDG_RUNTIME_DIR/hybrid-runtime, and for root those of all users]
    #[arg(long, value_name = "DIR")]
    pub(crate) run_dir: Vec<PathBuf>,
}

impl Which {
    fn dirs(&self) -> Vec<PathBuf> {
        if !self.run_dir.is_empty() {
            return self.run_dir.clone();
        }
        let mut dirs = with_services(Path::new("/run/hybrid-runtime"));
        let own = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let all = rustix::process::geteuid().is_root().then(|| std::fs::read_dir("/run/user"));
        let all = all.into_iter().flatten().flatten().flatten().map(|entry| entry.path());
        dirs.extend(own.into_iter().chain(all).map(|dir| dir.join("hybrid-runtime")));
        dirs.sort();
        dirs.dedup();
        dirs
    }

    /// The hosts that answer, by process number.
    pub(crate) fn hosts(&self) -> Vec<Host> {
        let mut hosts = Vec::new();
        for dir in self.dirs() {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            for path in entries.map(|entry| entry.path()) {
                let name = path.file_name().and_then(|name| name.to_str());
                let Some(pid) = name.and_then(|name| name.parse().ok()) else { continue };
                if self.pid.is_some_and(|wanted| wanted != pid) {
                    continue;
                }
                // One that has died leaves its socket until the next one starts.
                hosts.extend(Host::connect(pid, &path.join(SOCKET_NAME)).ok());
            }
        }
        hosts.sort_by_key(|host| host.pid);
        hosts
    }

    /// The partitions that run, each with its host's program.
    pub(crate) fn partitions(&self) -> Vec<Target> {
        let mut targets = Vec::new();
        for host in self.hosts() {
            let Ok(info) = host.call("host_get_info", &json!({})) else { continue };
            let Ok(list) = host.call("partition_list", &json!({})) else { continue };
            for row in list.as_array().into_iter().flatten() {
                let name = row["name"].as_str().unwrap_or_default();
                if self.partition.as_ref().is_some_and(|wanted| wanted != name) {
                    continue;
                }
                // It may have ended since.
                targets.extend(host.target(&info, name).ok());
            }
        }
        targets
    }

    /// Asks a host by its process number.
    ///
    /// # Errors
    /// What the host says, or that there is none any more.
    pub(crate) fn call(&self, pid: u32, method: &str, params: &Value) -> Result<Value> {
        let hosts = self.hosts();
        let host = hosts.iter().find(|host| host.pid == pid);
        host.with_context(|| format!("host {pid} does not answer"))?.call(method, params)
    }

    /// The same, and an error with what to do where there are none.
    pub(crate) fn some_partitions(&self) -> Result<Vec<Target>> {
        let targets = self.partitions();
        if targets.is_empty() {
            let dirs: Vec<_> = self.dirs().iter().map(|dir| dir.display().to_string()).collect();
            bail!(
                "no such partition runs (looked in {}); `probe-util list` shows those that do, a \
                 host elsewhere is named by its --run-dir",
                dirs.join(", ")
            );
        }
        Ok(targets)
    }
}

/// A directory of hosts, and those in it that services of systemd have. An instance may be called
/// by a number, as a host's directory is: that one has a socket in it.
fn with_services(dir: &Path) -> Vec<PathBuf> {
    let is_host = |path: &Path| path.join(SOCKET_NAME).exists();
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let services = entries.map(|entry| entry.path()).filter(|path| path.is_dir() && !is_host(path));
    std::iter::once(dir.to_owned()).chain(services).collect()
}

/// A host that answers.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) pid: u32,
    stream: UnixStream,
}

/// A partition that runs: who it is, and its region.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) host: u32,
    pub(crate) program: String,
    pub(crate) name: String,
    pub(crate) cpu: u32,
    pub(crate) pid: Option<u32>,
    pub(crate) incarnation: u64,
    pub(crate) device: String,
    /// How often the host went on with other storage than the partitions' devices.
    pub(crate) fallbacks: u64,
    pub(crate) region: RegionFile,
}

impl Host {
    fn connect(pid: u32, path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { pid, stream })
    }

    /// Asks, and gives the result.
    ///
    /// # Errors
    /// What the host says, or that it says nothing.
    pub(crate) fn call(&self, method: &str, params: &Value) -> Result<Value> {
        self.call_with_fds(method, params).map(|(result, _)| result)
    }

    fn call_with_fds(&self, method: &str, params: &Value) -> Result<(Value, Vec<OwnedFd>)> {
        let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let who = || format!("host {}: {method}", self.pid);
        (&self.stream).write_all(format!("{request}\n").as_bytes()).with_context(who)?;
        let (line, fds) = self.answer().with_context(who)?;
        let mut answer: Value = serde_json::from_slice(&line).with_context(who)?;
        if let Some(error) = answer.get("error") {
            bail!("{}: {}", who(), error["message"].as_str().unwrap_or("refused"));
        }
        Ok((answer["result"].take(), fds))
    }

    /// A line, and the descriptors that came beside it.
    fn answer(&self) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        let (mut line, mut fds) = (Vec::new(), Vec::new());
        let mut piece = vec![0; 64 << 10];
        loop {
            let mut space = [const { MaybeUninit::uninit() }; rustix::cmsg_space!(ScmRights(4))];
            let mut beside = RecvAncillaryBuffer::new(&mut space);
            let mut slices = [IoSliceMut::new(&mut piece)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            let got = recvmsg(&self.stream, &mut slices, &mut beside, flags)?;
            for message in beside.drain() {
                if let RecvAncillaryMessage::ScmRights(came) = message {
                    fds.extend(came);
                }
            }
            line.extend(piece.get(..got.bytes).unwrap_or_default());
            match (got.bytes, line.last()) {
                (0, _) => return Err(ErrorKind::UnexpectedEof.into()),
                (_, Some(b'\n')) => return Ok((line, fds)),
                _ if line.len() > ANSWER_BYTES_MAX => return Err(ErrorKind::InvalidData.into()),
                _ => {}
            }
        }
    }

    fn target(&self, info: &Value, partition: &str) -> Result<Target> {
        let named = json!({ "partition": partition });
        let (told, mut fds) = self.call_with_fds("partition_get_region", &named)?;
        let number = |field: &str| told[field].as_u64();
        let small = |field: &str| number(field).and_then(|number| u32::try_from(number).ok());
        let region = fds.pop().context("the host has sent no region")?;
        Ok(Target {
            host: self.pid,
            program: info["program"].as_str().unwrap_or("unknown").to_owned(),
            name: partition.to_owned(),
            cpu: small("cpu").unwrap_or(0),
            pid: small("pid"),
            incarnation: number("incarnation").unwrap_or(0),
            device: told["device"].as_str().unwrap_or("none").to_owned(),
            fallbacks: info["fallbacks"].as_u64().unwrap_or(0),
            region: RegionFile::new(File::from(region))?,
        })
    }
}

/// A region, read from a descriptor that cannot write.
#[derive(Debug)]
pub(crate) struct RegionFile {
    file: File,
    header: RegionHeader,
    parts: Vec<DirectoryEntry>,
}

impl RegionFile {
    /// Reads header and directory, which do not change while the region lives.
    ///
    /// # Errors
    /// If it is no region, or of a newer version.
    pub(crate) fn new(file: File) -> Result<Self> {
        let len = file.metadata().context("the region")?.len();
        let head_bytes = usize::try_from(len).unwrap_or(usize::MAX).min(REGION_HEAD_BYTES);
        let mut head = vec![0; head_bytes];
        file.read_exact_at(&mut head, 0).context("the region")?;
        let view = RegionView::parse(&head, len)?;
        let (header, parts) = (*view.header(), view.parts().collect());
        Ok(Self { file, header, parts })
    }

    /// The header.
    pub(crate) const fn header(&self) -> &RegionHeader {
        &self.header
    }

    /// Where the part of that kind and name lies: offset and length.
    pub(crate) fn place(&self, kind: PartKind, name: &str) -> Option<(u64, u64)> {
        let same = |part: &&DirectoryEntry| part.kind == kind && part.name.as_str() == name;
        self.parts.iter().find(same).map(|part| (part.offset, part.len))
    }

    /// Bytes of the region, as they are now.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(crate) fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(into, offset)
    }

    /// The bytes of the part of that kind and name, as they are now; nothing where there is none.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(crate) fn read_part(&self, kind: PartKind, name: &str) -> Result<Vec<u8>> {
        let same = |part: &&DirectoryEntry| part.kind == kind && part.name.as_str() == name;
        let Some(part) = self.parts.iter().find(same) else { return Ok(Vec::new()) };
        if part.len > PART_BYTES_MAX {
            bail!("part {name} has {} bytes, allowed are {PART_BYTES_MAX}", part.len);
        }
        let mut bytes = vec![0; usize::try_from(part.len)?];
        self.file.read_exact_at(&mut bytes, part.offset).context("the region")?;
        Ok(bytes)
    }
}
