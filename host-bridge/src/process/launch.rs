//! The host's side of a start: executes this program again, and waits for its word.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use core_runtime::partition::{PartitionConfig, RingSizes, TableError};
use core_runtime::region::RegionFacts;
use hybrid_abi::Name;
use hybrid_abi::handoff::{FileRole, HANDOFF_NO_NODE, Handoff, HandoffDevice};
use hybrid_conventions::Exit;
use rustix::event::{PollFd, PollFlags, poll};

use super::child::{Death, PartitionProcess};
use super::handoff::{Table, config_to, put_facts};
use super::launcher::on_launcher;
use super::words::{Line, Ready, Word};
use super::{ROLE, can_be};
use crate::backend::{AttachedFile, DeviceIngredients};
use crate::runtime::MeshPlace;
use crate::sys::memfd::PageSize;
use crate::sys::partition_memory::PartitionMemory;
use crate::sys::realtime::RtPriority;
use crate::sys::spawn::spawn;
use crate::sys::state_memory::StateFile;
use crate::vfio_user::socket::timespec;
use crate::warnings::Warnings;

/// What a partition's process is given.
pub(crate) struct Launching<'a> {
    pub(crate) name: &'a str,
    pub(crate) entry: &'a str,
    /// Another program than this one.
    pub(crate) executable: Option<&'a Path>,
    pub(crate) args: &'a [u8],
    pub(crate) facts: RegionFacts,
    pub(crate) rings: RingSizes,
    pub(crate) config: &'a PartitionConfig,
    pub(crate) memory: &'a PartitionMemory,
    pub(crate) private: (usize, PageSize),
    pub(crate) locked_bytes: usize,
    pub(crate) heap_bytes: usize,
    pub(crate) rt_priority: Option<RtPriority>,
    /// Where its private memory is to come from.
    pub(crate) node: Option<u32>,
    pub(crate) place: Option<&'a MeshPlace>,
    pub(crate) tables: &'a [crate::runtime::Table],
    pub(crate) state: Option<&'a StateFile>,
    pub(crate) device: Option<(&'a DeviceIngredients, &'a [AttachedFile])>,
    pub(crate) warnings: &'a Warnings,
    /// How long it may take to be ready.
    pub(crate) limit: Duration,
}

/// A process whose partition is assembled and waits.
#[derive(Debug)]
pub(crate) struct Apart {
    process: PartitionProcess,
    line: Line,
    ready: Ready,
}

/// Why there is none. Whatever there was of it has ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotLaunched {
    /// The program cannot be a partition.
    #[error("{0}; add it, or start the partition with --isolation thread (Isolation::Thread)")]
    NotMade(String),
    /// A step of the host's.
    #[error("{step}: {source}")]
    Step { step: &'static str, source: std::io::Error },
    /// What is to cross does not fit.
    #[error(transparent)]
    Device(#[from] crate::backend::ingredients::IngredientsError),
    /// It said why.
    #[error("{line}")]
    Refused { exit: Exit, line: String },
    /// It said that its device cannot be had.
    #[error("{line}")]
    NoDevice { exit: Exit, line: String },
    /// It ended without a word.
    #[error("its process {}", ended_how(.0))]
    Ended(Death),
    /// It took too long.
    #[error("it was not assembled within {} s", .0.as_secs())]
    TooLong(Duration),
}

fn ended_how(death: &Death) -> String {
    match death {
        Death::Exited { code } => format!("ended with code {code} and without a word"),
        Death::Killed { signal } => format!("was killed by signal {signal}"),
        Death::Thread | Death::Lost => "was lost".to_owned(),
    }
}

impl NotLaunched {
    fn step<E: Into<std::io::Error>>(step: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Step { step, source: error.into() }
    }
}

/// Starts the process and waits until its partition is assembled.
pub(crate) fn launch(launching: &Launching<'_>) -> Result<Apart, NotLaunched> {
    if launching.executable.is_none() {
        can_be(launching.entry).map_err(NotLaunched::NotMade)?;
    }
    let (ours, theirs) = Line::pair().map_err(NotLaunched::step("making a socket pair"))?;
    let table = table(launching);
    let mut head = head(launching, &table)?;
    head.socket = number(theirs.fd());
    let handoff = table
        .seal(head, launching.args)
        .map_err(NotLaunched::step("writing down what is handed over"))?;
    let mut fds = table.fds().to_vec();
    fds.extend([theirs.fd().as_fd(), handoff.as_fd()]);
    let process = execute(launching, &handoff, &fds)?;
    drop(theirs);
    let mut apart = Apart { process, line: ours, ready: Ready::NOTHING };
    apart.ready = apart.wait_for(launching)?;
    apart.process.begun(apart.ready.usage, apart.ready.landlock);
    Ok(apart)
}

fn number(fd: &OwnedFd) -> u32 {
    u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX)
}

fn table<'a>(launching: &Launching<'a>) -> Table<'a> {
    let memory = launching.memory;
    let mut table = Table::default();
    let mut add = |file: &'a crate::sys::memfd::Memfd, role, seen| {
        table.add(file.as_fd(), role, (0, file.len(), file.page()), seen);
    };
    add(&memory.dma().memfd, FileRole::DMA, Some(memory.dma().mapped.read_span()));
    add(memory.region_file(), FileRole::REGION, None);
    add(memory.host_region_file(), FileRole::HOST_REGION, None);
    if let Some(place) = launching.place {
        for (index, region) in (0..).zip(place.memory.regions()) {
            match index == place.index() {
                true => add(&region.writer.memfd, FileRole::MESH_OWN, None),
                false => add(&region.end, FileRole::MESH_PEER, None),
            }
        }
    }
    for table in launching.tables {
        add(&table.memory().writer.memfd, FileRole::TABLE, None);
    }
    if let Some(file) = launching.state.and_then(StateFile::file) {
        add(file, FileRole::STATE, None);
    }
    for file in launching.device.map_or(&[][..], |(_, files)| files) {
        let len = file.seen.as_ref().map_or(0, hybrid_shm::ReadSpan::len);
        table.add(file.file.as_fd(), file.role, (file.offset, len, file.page), file.seen);
    }
    table
}

fn head(launching: &Launching<'_>, table: &Table<'_>) -> Result<Handoff, NotLaunched> {
    let mut head = Handoff::blank();
    put_facts(&mut head, &launching.facts);
    head.host_pid = std::process::id();
    head.private_bytes = launching.private.0 as u64;
    head.private_page = launching.private.1.bytes() as u64;
    head.locked_bytes = launching.locked_bytes as u64;
    head.event_ring_bytes = launching.rings.events as u64;
    head.command_ring_bytes = launching.rings.commands as u64;
    head.heap_bytes = launching.heap_bytes as u64;
    head.node = launching.node.unwrap_or(HANDOFF_NO_NODE);
    head.rt_priority = launching.rt_priority.map_or(0, |priority| priority.get().into());
    head.config = config_to(launching.config);
    head.device = match launching.device {
        Some((ingredients, _)) => ingredients.to_handoff(|span| table.place(span))?,
        None => HandoffDevice::default(),
    };
    if let Some(place) = launching.place {
        let shape = place.memory.shape();
        head.mesh_index = place.index();
        head.mesh_partitions = shape.partitions();
        head.mesh_ring_bytes = shape.ring_bytes() as u64;
    }
    if launching.tables.len() > head.tables.len() {
        return Err(NotLaunched::NotMade(TableError::TooMany.to_string()));
    }
    for (place, table) in head.tables.iter_mut().zip(launching.tables) {
        *place = Name::new("table", table.name())
            .map_err(|error| NotLaunched::NotMade(error.to_string()))?;
    }
    // For people; an empty name would be none.
    let name = if launching.name.is_empty() { "partition" } else { launching.name };
    head.name = Name::lossy(name);
    head.entry = Name::new("entry", launching.entry)
        .map_err(|error| NotLaunched::NotMade(error.to_string()))?;
    Ok(head)
}

fn execute(
    launching: &Launching<'_>,
    handoff: &OwnedFd,
    fds: &[BorrowedFd<'_>],
) -> Result<PartitionProcess, NotLaunched> {
    // The very file that this process runs, whatever has its name by now.
    let program = launching.executable.unwrap_or(Path::new("/proc/self/exe"));
    let own = std::env::args_os().next().unwrap_or_default();
    let own = Path::new(&own).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let words = [format!("{own} [partition {}]", launching.name), ROLE.to_owned()];
    let words = words.into_iter().chain([number(handoff).to_string()]);
    let text = |word: Vec<u8>| CString::new(word).map_err(std::io::Error::from);
    let step = |error| NotLaunched::Step { step: "executing the program again", source: error };
    let args: Result<Vec<_>, _> = words.map(|word| text(word.into_bytes())).collect();
    let (args, program) = (args.map_err(step)?, text(program.as_os_str().as_bytes().to_vec()));
    let program = program.map_err(step)?;
    let numbers: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let started = on_launcher(move || spawn(&program, &args, &numbers));
    let (pid, pidfd) = started.and_then(|started| started).map_err(step)?;
    let path = launching.executable.map(Path::to_owned).or_else(|| std::env::current_exe().ok());
    Ok(PartitionProcess::new(pid, pidfd, path))
}

impl Apart {
    /// Hears it until it is ready, or never will be.
    fn wait_for(&mut self, launching: &Launching<'_>) -> Result<Ready, NotLaunched> {
        let begun = Instant::now();
        loop {
            let left = launching.limit.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(NotLaunched::TooLong(launching.limit));
            }
            let socket = self.line.fd();
            let mut fds = [PollFd::new(socket, PollFlags::IN)];
            if !matches!(poll(&mut fds, Some(&timespec(left))), Ok(1)) {
                continue;
            }
            match self.line.hear() {
                Some(Word::Warning(kind, line)) => launching.warnings.say(kind, || line),
                Some(Word::Ready(ready)) => return Ok(ready),
                Some(Word::Refused(exit, line)) => return Err(NotLaunched::Refused { exit, line }),
                Some(Word::NoDevice(exit, line)) => {
                    return Err(NotLaunched::NoDevice { exit, line });
                }
                // Its end of the socket is closed: it has ended, or is about to.
                None => return Err(self.ended()),
            }
        }
    }

    fn ended(&mut self) -> NotLaunched {
        /// An end that has begun; it may be busy with giving memory back.
        const SOON: Duration = Duration::from_secs(2);
        if !self.process.wait(SOON) {
            let _ = self.process.kill();
        }
        NotLaunched::Ended(self.process.reap().0)
    }

    /// What it said of itself.
    pub(crate) const fn private(&self) -> (u64, PageSize) {
        (self.ready.private_bytes, self.ready.private_page)
    }

    /// Whether an allocation ends it.
    pub(crate) const fn is_guarded(&self) -> bool {
        self.ready.guarded
    }

    /// Lets it run.
    pub(crate) fn go(mut self) -> Result<PartitionProcess, NotLaunched> {
        if self.line.go() { Ok(self.process) } else { Err(self.ended()) }
    }
}
