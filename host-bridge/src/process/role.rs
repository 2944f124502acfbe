//! The partition's side: from `main` to the entry, and to the end.
//!
//! Whatever is missing or does not fit is said to the host in one line, as long as there is a
//! socket; once the sandbox is closed, by the state part and the exit code.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::ExitCode;

use core_runtime::clock::Clock;
use core_runtime::mem::{DmaRegion, Iova};
use core_runtime::mesh::{MESH_MAX, MeshSeat, MeshShape};
use core_runtime::partition::{
    DEVICE_FAULT, Partition, PartitionExit, PartitionParts, PartitionState, StateMemory,
};
use hybrid_abi::handoff::{DeviceKind, FileRole, HANDOFF_NO_NODE, Handoff, HandoffFile, Place};
use hybrid_conventions::Exit;
use hybrid_shm::Span;

use super::handoff::{config_from, facts, read, rings};
use super::words::{Line, Ready, Word};
use crate::affinity::pin_to;
use crate::backend::DeviceIngredients;
use crate::backend::vfio::apart;
use crate::error::what_to_raise;
use crate::facts::build_id;
use crate::memory::{MemorySource, SharedMemory};
use crate::runtime::Entry;
use crate::sys::alloc_guard;
use crate::sys::dying::{self, HOST_DIED_SIGNAL, code};
use crate::sys::fixed_stack::FixedStack;
use crate::sys::mapping::Mapped;
use crate::sys::memfd::{Memfd, PageSize};
use crate::sys::partition_memory::PrivateMemory;
use crate::sys::realtime::RtPriority;
use crate::sys::resident::{STACK_BYTES, lock_this_process, prepare_heap};
use crate::sys::sandbox;
use crate::sys::spawn::{Inherited, close_standard_streams};
use crate::sys::state_memory;
use crate::sys::usage::ThreadUsage;
use crate::sys::window::Window;
use crate::warnings::Warnings;

/// Heap for what a program does before and after it runs; while it runs it has none.
const START_HEAP_BYTES: usize = 1 << 20;

/// Why there is no partition: a line for the user, and the exit code for it.
struct Refused(Exit, String);

impl<E: std::fmt::Display> From<E> for Refused {
    fn from(error: E) -> Self {
        Self(Exit::Error, error.to_string())
    }
}

type Result<T> = std::result::Result<T, Refused>;

/// What was handed over, and every descriptor of it.
struct Taken {
    head: Handoff,
    args: Vec<u8>,
    files: Vec<(HandoffFile, OwnedFd)>,
    line: Line,
}

/// A partition that is assembled, on the stack that the process began with.
struct Made {
    partition: &'static Partition,
    entry: Entry,
    device: Option<DeviceIngredients>,
    /// Closed last: files, and what a device's opening needed.
    files: Vec<OwnedFd>,
    private: (u64, PageSize),
    heap_bytes: usize,
}

/// The partition's main.
pub(super) fn run(entries: &'static [Entry], number: Option<OsString>) -> ExitCode {
    let taken = match take_over(number) {
        Ok(taken) => taken,
        Err(Refused(_, why)) => {
            // There is no host to tell; a closed stderr hears nothing.
            let _ = writeln!(
                std::io::stderr(),
                "{} is what a host starts its partitions with, not for the command line: {why}",
                super::ROLE
            );
            return ExitCode::from(code::NOT_STARTED.to_le_bytes()[0]);
        }
    };
    let Taken { head, args, files, line } = taken;
    let made = make(entries, &head, &args, files, &line).and_then(|made| {
        let stack = FixedStack::new(STACK_BYTES)?;
        let landlock = close(&head, &made, &stack, &line)?;
        Ok((made, stack, landlock))
    });
    match made {
        Ok((made, stack, landlock)) => begin(made, stack, landlock, line),
        Err(Refused(exit, why)) => {
            line.say(&Word::Refused(exit, why));
            ExitCode::from(code::NOT_STARTED.to_le_bytes()[0])
        }
    }
}

/// Takes over what was inherited, and closes all else.
fn take_over(number: Option<OsString>) -> Result<Taken> {
    let number = number.and_then(|number| number.to_str()?.parse().ok());
    let number: u32 = number.ok_or_else(|| Refused(Exit::Error, "no descriptor".to_owned()))?;
    let inherited = Inherited::of_this_process();
    let inherited = inherited.ok_or_else(|| Refused::from("it was taken over before"))?;
    let file = inherited.adopt(number)?;
    let bytes = read(&file)?;
    let head = Handoff::parse(&bytes)?;
    if head.build_id != build_id() {
        return Err(Refused::from("the host is another build of this program"));
    }
    let line = Line::adopt(inherited.adopt(head.socket)?);
    let mut files = Vec::new();
    for file in head.files(&bytes) {
        files.push((file, inherited.adopt(file.fd)?));
    }
    let mut keep: Vec<_> = files.iter().map(|(_, fd)| fd.as_raw_fd()).collect();
    keep.push(line.fd().as_raw_fd());
    // The handoff was read and goes with all that our host's own parents left open.
    let _: i32 = std::os::fd::IntoRawFd::into_raw_fd(file);
    inherited.close_all_but(&keep)?;
    let args = head.args(&bytes).to_vec();
    Ok(Taken { head, args, files, line })
}

/// Memory, device, partition.
fn make(
    entries: &'static [Entry],
    head: &Handoff,
    args: &[u8],
    files: Vec<(HandoffFile, OwnedFd)>,
    line: &Line,
) -> Result<Made> {
    let named = |entry: &&Entry| entry.name() == head.entry.as_str();
    let entry = entries.iter().find(named).ok_or_else(|| {
        let entry = head.entry.as_str();
        Refused::from(format!("entry {entry} is not named in its program's partition_main!"))
    })?;
    sandbox::set_process_name(head.name.as_str());
    pin_to(head.cpu).map_err(|error| Refused(Exit::Missing, error.to_string()))?;
    if let Some(number) = u8::try_from(head.rt_priority).ok().filter(|number| *number != 0) {
        let refused = |line: String| Refused(Exit::Missing, line);
        let priority = RtPriority::new(number).map_err(|error| refused(error.to_string()))?;
        priority.set_for_this_thread().map_err(|error| refused(error.to_string()))?;
    }
    let mut memory = Memory::map(files)?;
    let (warnings, size) =
        (warnings_to(line), |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    let page = PageSize::of_bytes(head.private_page).unwrap_or(PageSize::Small4K);
    let node = (head.node != HANDOFF_NO_NODE).then_some(head.node);
    let source = MemorySource::new(page, size(head.locked_bytes), warnings).near(node);
    let private = source
        .private(size(head.private_bytes))
        .map_err(|error| Refused(Exit::Missing, format!("no memory for the partition: {error}")))?;
    let (bytes, private_page) = (private.len() as u64, private.page());
    let dma = DmaRegion {
        span: memory.dma.mapped.span(),
        iova: Iova(head.device.iova),
        page_bytes: memory.dma.mapped.page().bytes(),
    };
    let device = memory.device(head, dma, &source);
    // The first word counts: who hears this one may go on with another device.
    let told = |Refused(exit, why): &Refused| line.say(&Word::NoDevice(*exit, why.clone()));
    let device = device.inspect_err(told)?;
    let parts = PartitionParts {
        cpu: head.cpu,
        facts: facts(head),
        clock: Clock::tsc(head.tsc_hz),
        bump: PrivateMemory::new(private).into_bump(),
        dma: device.as_ref().map_or(dma, DeviceIngredients::dma),
        region: memory.region,
        host_region: memory.host_region,
        rings: rings(head),
        config: config_from(&head.config),
    };
    let partition = parts.assemble(args).map_err(|error| {
        let (name, more) = (head.name.as_str(), what_to_raise(&error));
        Refused::from(format!("partition {name} did not start: {error}{more}"))
    })?;
    if let Some(seat) = memory.beside.seat(head)? {
        partition.join_mesh(&seat)?;
    }
    if let Some(state) = memory.beside.state.take() {
        partition.give_state_memory(state);
    }
    for (name, table) in head.tables.iter().zip(&memory.beside.tables) {
        partition.add_table(name.as_str(), *table)?;
    }
    let heap_bytes = size(head.heap_bytes);
    let private = (bytes, private_page);
    Ok(Made { partition, entry: *entry, device, files: memory.files, private, heap_bytes })
}

/// Warnings go to the host, which knows what was said before.
fn warnings_to(line: &Line) -> Warnings {
    match line.fd().try_clone() {
        Ok(fd) => {
            let line = Line::adopt(fd);
            Warnings::to(move |warning| {
                line.say(&Word::Warning(warning.kind, warning.line.clone()));
            })
        }
        Err(_) => Warnings::to(|_| {}),
    }
}

/// A file's mapping.
enum View {
    Writable(Span<'static>),
    /// What only the host writes.
    Seen(hybrid_shm::ReadSpan<'static>),
    ReadOnly,
}

/// What it shares with other partitions, and with its own next incarnation: the regions of a mesh,
/// its own and by number the others', tables, state memory.
#[derive(Default)]
struct Beside {
    own: Option<Span<'static>>,
    all: Vec<Option<hybrid_shm::ReadSpan<'static>>>,
    tables: Vec<hybrid_shm::ReadSpan<'static>>,
    state: Option<StateMemory>,
}

impl Beside {
    fn map(&mut self, role: FileRole, memfd: &Memfd) -> Result<()> {
        match role {
            FileRole::MESH_OWN => {
                memfd.check_size_sealed()?;
                self.own = Some(Mapped::writable(memfd)?.span());
                self.all.push(None);
            }
            FileRole::MESH_PEER => {
                self.all.push(Some(Mapped::read_only_end(memfd)?.read_span()));
            }
            FileRole::STATE => self.state = Some(state_memory::map(memfd)?),
            _ => self.tables.push(Mapped::read_only(memfd)?.read_span()),
        }
        Ok(())
    }

    /// The place that the head names among them, if there is a mesh.
    fn seat(&self, head: &Handoff) -> Result<Option<MeshSeat>> {
        if head.mesh_partitions == 0 {
            return Ok(None);
        }
        let ring_bytes = usize::try_from(head.mesh_ring_bytes).unwrap_or(usize::MAX);
        let shape = MeshShape::new(head.mesh_partitions, ring_bytes)?;
        let mut peers = [None; MESH_MAX];
        for (place, region) in peers.iter_mut().zip(&self.all) {
            *place = *region;
        }
        let own = self.own.ok_or_else(|| Refused::from("no region of the mesh of its own"))?;
        Ok(Some(MeshSeat { shape, index: head.mesh_index, own, peers }))
    }
}

/// The partition's region: its writer maps it first and seals it then.
fn map_and_seal(memfd: &Memfd) -> Result<Span<'static>> {
    let mapped = Mapped::writable(memfd)?;
    memfd.seal_single_writer()?;
    Ok(mapped.span())
}

/// A file whose size nothing fixes, shown for as long as the process lives.
fn show_foreign(fd: &OwnedFd, offset: u64, len: usize) -> Result<Span<'static>> {
    let mut window = Window::reserve(len)?;
    // An access to pages that were taken away ends the partition as "device gone".
    window.guard()?;
    window.show(fd.as_fd(), offset, len)?;
    let span = window.span(len);
    std::mem::forget(window);
    Ok(span)
}

/// All that is mapped.
struct Memory {
    dma: SharedMemory,
    region: Span<'static>,
    host_region: hybrid_shm::ReadSpan<'static>,
    views: Vec<View>,
    beside: Beside,
    /// For the device's opening: descriptors that are no memory.
    notices: Vec<OwnedFd>,
    files: Vec<OwnedFd>,
}

impl Memory {
    fn map(files: Vec<(HandoffFile, OwnedFd)>) -> Result<Self> {
        let (mut dma, mut region, mut host_region) = (None, None, None);
        let (mut views, mut notices, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        let mut beside = Beside::default();
        for (file, fd) in files {
            let len = usize::try_from(file.len).unwrap_or(usize::MAX);
            let page = PageSize::of_bytes(file.page);
            let page = page.ok_or_else(|| Refused::from("a file in pages that there are not"))?;
            views.push(match file.role {
                FileRole::DMA => {
                    let memfd = Memfd::adopt(fd, len, page)?;
                    memfd.check_size_sealed()?;
                    let mapped = Mapped::writable(&memfd)?;
                    let span = mapped.span();
                    dma = Some(SharedMemory { memfd, mapped });
                    View::Writable(span)
                }
                FileRole::REGION => {
                    let memfd = Memfd::adopt(fd, len, page)?;
                    region = Some(map_and_seal(&memfd)?);
                    kept.push(memfd.into_fd());
                    View::ReadOnly
                }
                FileRole::HOST_REGION | FileRole::FROM_HOST => {
                    let memfd = Memfd::adopt(fd, len, page)?;
                    let seen = Mapped::read_only(&memfd)?.read_span();
                    if file.role == FileRole::HOST_REGION {
                        host_region = Some(seen);
                    }
                    kept.push(memfd.into_fd());
                    View::Seen(seen)
                }
                FileRole::SHARED => {
                    let memfd = Memfd::adopt(fd, len, page)?;
                    memfd.check_size_sealed()?;
                    let span = Mapped::writable(&memfd)?.span();
                    kept.push(memfd.into_fd());
                    View::Writable(span)
                }
                FileRole::FOREIGN => {
                    let span = show_foreign(&fd, file.offset, len)?;
                    kept.push(fd);
                    View::Writable(span)
                }
                FileRole::NOTICE => {
                    notices.push(fd);
                    View::ReadOnly
                }
                FileRole::MESH_OWN | FileRole::MESH_PEER | FileRole::TABLE | FileRole::STATE => {
                    let memfd = Memfd::adopt(fd, len, page)?;
                    beside.map(file.role, &memfd)?;
                    kept.push(memfd.into_fd());
                    View::ReadOnly
                }
                FileRole(other) => {
                    return Err(Refused::from(format!("a file of role {other}, which is none")));
                }
            });
        }
        let missing = |what| Refused::from(format!("no {what} was handed over"));
        Ok(Self {
            dma: dma.ok_or_else(|| missing("dma memory"))?,
            region: region.ok_or_else(|| missing("region"))?,
            host_region: host_region.ok_or_else(|| missing("host's region"))?,
            views,
            beside,
            notices,
            files: kept,
        })
    }

    fn find(&self, place: Place) -> Option<Span<'static>> {
        let View::Writable(span) = self.views.get(usize::try_from(place.file).ok()?)? else {
            return None;
        };
        span.sub(usize::try_from(place.offset).ok()?, usize::try_from(place.len).ok()?).ok()
    }

    /// As [`Memory::find`], of what only the host writes.
    fn see(&self, place: Place) -> Option<hybrid_shm::ReadSpan<'static>> {
        let View::Seen(span) = self.views.get(usize::try_from(place.file).ok()?)? else {
            return None;
        };
        span.sub(usize::try_from(place.offset).ok()?, usize::try_from(place.len).ok()?).ok()
    }

    fn device(
        &mut self,
        head: &Handoff,
        dma: DmaRegion,
        source: &MemorySource,
    ) -> Result<Option<DeviceIngredients>> {
        if head.device.kind == DeviceKind::NONE {
            return Ok(None);
        }
        let device = DeviceIngredients::from_handoff(
            &head.device,
            dma,
            |place| self.find(place),
            |place| self.see(place),
        )?;
        match device.function() {
            Some((bdf, gone)) => {
                let notices = std::mem::take(&mut self.notices);
                let opened = apart::open_here(bdf, gone, &self.dma, source, notices);
                Ok(Some(opened.map_err(|error| Refused(error.exit(), error.to_string()))?))
            }
            None => Ok(Some(device)),
        }
    }
}

/// Everything that is still to be had from the kernel, and then privileges and files; whether the
/// kernel has landlock.
fn close(head: &Handoff, made: &Made, stack: &FixedStack, line: &Line) -> Result<bool> {
    prepare_heap(START_HEAP_BYTES.max(made.heap_bytes));
    dying::prepare(made.partition, stack)?;
    if let Err(errno) = lock_this_process() {
        let source = MemorySource::new(
            PageSize::Small4K,
            usize::try_from(head.locked_bytes).unwrap_or(usize::MAX),
            warnings_to(line),
        );
        source.say_unlocked(errno);
    }
    sandbox::leave_no_core_file()?;
    sandbox::give_up_privileges()?;
    let landlock = sandbox::close_the_files()?;
    sandbox::die_with_the_host(HOST_DIED_SIGNAL)?;
    let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    if u32::try_from(parent) != Ok(head.host_pid) {
        return Err(Refused::from("the host has died"));
    }
    Ok(landlock)
}

/// Waits for the host's word, and runs.
fn begin(made: Made, stack: FixedStack, landlock: bool, line: Line) -> ! {
    let Made { partition, entry, device, files, private, heap_bytes } = made;
    let guarded = alloc_guard::installed() && heap_bytes == 0;
    line.say(&Word::Ready(Ready {
        private_bytes: private.0,
        private_page: private.1,
        landlock,
        guarded,
        usage: ThreadUsage::of_this_process(),
    }));
    if !line.wait_for_go() {
        dying::end(code::NOT_STARTED);
    }
    drop((line, files));
    close_standard_streams();
    if guarded {
        alloc_guard::guard_this_process(partition.state_word(), PartitionState::Running.to_word());
    }
    stack.run((partition, entry, device), enter)
}

/// The first and last function of the stack that does not grow.
fn enter((partition, entry, device): (&'static Partition, Entry, Option<DeviceIngredients>)) -> ! {
    let exit = match sandbox::end_system_calls() {
        Ok(()) => entry.enter(partition, device),
        Err(error) => PartitionExit::failed(1, format_args!("{error}")),
    };
    dying::publish(partition, &exit);
    dying::end(match exit.state {
        PartitionState::Stopped => code::DONE,
        PartitionState::NeedsReset => code::NEEDS_RESET,
        _ if exit.code == DEVICE_FAULT => code::DEVICE_GONE,
        _ => code::FAILED,
    })
}
