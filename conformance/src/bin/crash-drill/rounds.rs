//! The host's side: one supervisor, a plan for each incarnation, and the oracle.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use core_runtime::clock::{Clock, Ticks, rdtsc};
use core_runtime::crc::Crc32c;
use host_bridge::backend::model::{ModelConfig, NamespaceConfig};
use host_bridge::backend::{Backend, BackendError, DeviceOptions, ModelBackend, from_spec};
use host_bridge::supervisor::alert::{Alert, AlertKind, Alerts};
use host_bridge::supervisor::counters::Counters;
use host_bridge::supervisor::options::SupervisionOptions;
use host_bridge::supervisor::policy::{Ending, Limits, Over};
use host_bridge::supervisor::restart::{BackOff, CrashLimit, RestartPolicy};
use host_bridge::supervisor::spare::Spares;
use host_bridge::supervisor::store::StoreOptions;
use host_bridge::supervisor::{Next, Status, Supervisor};
use host_bridge::{PartitionHandle, PartitionReport, PartitionSpec, Runtime, RuntimeError};
use hybrid_abi::{Record, RecordHeader};
use hybrid_conformance::Rng;
use hybrid_conventions::DeviceSpec;
use nvme_model::Model;
use rustix::process::{Signal, pidfd_send_signal};
use zerocopy::IntoBytes;

use crate::ENTRY;
use crate::kind::Kind;
use crate::oracle::Oracle;
use crate::record;
use crate::say;
use crate::times::Times;
use crate::words::{Acked, BLOCK, BLOCKS, FirstIo, Found, Issued, Orders, Verified, Wrong};

/// DMA memory of an incarnation.
const DMA_BYTES: usize = 16 << 20;
/// Private memory of an incarnation.
const PRIVATE_BYTES: usize = 8 << 20;
/// An incarnation that has not died after so long never will: far above what a crowded machine
/// takes, so that it is an error and no measurement.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(1);
/// Logical blocks are the blocks of the load.
const BLOCK_BYTES: u32 = 4096;
const _: () = assert!(BLOCK_BYTES as usize == BLOCK);
/// Writes after which an incarnation dies, at most.
const MOST_WRITES: u64 = 400;
/// How long a stopped process stays stopped, in looks.
const MOST_STOPPED: u64 = 20;

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) crashes: u64,
    pub(crate) seed: u64,
    pub(crate) only: Option<Kind>,
    pub(crate) dir: PathBuf,
    pub(crate) device: String,
    pub(crate) verbose: bool,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Deaths by kind.
    pub(crate) deaths: BTreeMap<Kind, u64>,
    pub(crate) stops_survived: u64,
    pub(crate) acknowledged: u64,
    pub(crate) verified: u64,
    pub(crate) unacknowledged_kept: u64,
    pub(crate) dump_bytes: u64,
    pub(crate) restarts: u64,
    pub(crate) spare_hits: u64,
    /// Memories that were watched behind the fence.
    pub(crate) watched: u64,
    pub(crate) fenced: Times,
    pub(crate) saved: Times,
    pub(crate) started: Times,
    pub(crate) first_io: Times,
}

/// What an incarnation is to live through.
#[derive(Clone, Copy, Debug)]
struct Plan {
    kind: Option<Kind>,
    orders: Orders,
    /// Acknowledged writes after which it is stopped for some looks.
    stop_after: Option<(u64, u64)>,
    /// Whether its memory is watched after its end, which takes time.
    watched: bool,
}

/// How far the incarnation is that runs.
#[derive(Debug)]
struct Now {
    plan: Plan,
    verified: bool,
    acked: u64,
    /// Acknowledged writes when it was let go on.
    acked_at_stop: Option<u64>,
    /// It is stopped, for so many looks more.
    stopped: Option<u64>,
    killed_tsc: Option<u64>,
    died_tsc: Option<u64>,
    /// When the one before it died.
    death: Option<u64>,
}

/// Shared by the starter and the loop.
struct Desk {
    clock: Clock,
    random: Rng,
    options: Options,
    alerts: Receiver<Alert>,
    oracle: Oracle,
    planned: u64,
    now: Option<Now>,
    error: Option<String>,
    outcome: Outcome,
    /// The memory files of all incarnations.
    memories: BTreeSet<u64>,
}

impl Desk {
    fn fail(&mut self, why: impl Into<String>) {
        self.error.get_or_insert(why.into());
    }

    fn check(&mut self, result: Result<(), String>) {
        if let Err(why) = result {
            self.fail(why);
        }
    }

    fn is_model(&self) -> bool {
        self.options.device == "model"
    }

    /// The next incarnation's; the last one dies of nothing.
    fn plan(&mut self) -> Plan {
        let model = self.is_model();
        let random = &mut self.random;
        let any = Kind::ALL[usize::try_from(random.below(8)).unwrap_or(0)];
        let more = self.planned < self.options.crashes;
        let kind = more.then_some(self.options.only.unwrap_or(any));
        self.planned += 1;
        let after = 1 + random.below(MOST_WRITES);
        let stops = after > 8 && random.one_in(4);
        let stop_after = stops.then(|| (random.below(after / 2), 1 + random.below(MOST_STOPPED)));
        let orders = Orders {
            seed: random.next_u64(),
            first_version: self.oracle.next_version(),
            after,
            kind: Kind::number(kind),
            wipe: u64::from(self.planned == 1 && !model),
            writers: [1, 2, 4, 8, 16, 32][usize::try_from(random.below(6)).unwrap_or(0)],
        };
        Plan { kind, orders, stop_after, watched: random.one_in(8) }
    }

    /// Takes what has come from the partition.
    fn take(&mut self, header: RecordHeader, payload: &[u8]) {
        let result = match header.kind {
            FirstIo::KIND => FirstIo::parse(payload).map(|it| self.first_io(it.tsc)),
            Found::KIND => Found::parse(payload).map(|it| {
                let result = self.oracle.found(it.block, it.version, it.intact == 1);
                self.check(result);
            }),
            Verified::KIND => Verified::parse(payload).map(|_| {
                let result = self.oracle.all_found();
                self.check(result);
                if let Some(now) = &mut self.now {
                    now.verified = true;
                }
            }),
            Issued::KIND => Issued::parse(payload).map(|it| {
                let result = self.oracle.issued(it.block, it.version);
                self.check(result);
            }),
            Acked::KIND => Acked::parse(payload).map(|it| {
                let result = self.oracle.acked(it.block, it.version);
                self.check(result);
                if let Some(now) = &mut self.now {
                    now.acked += 1;
                }
            }),
            Wrong::KIND => Wrong::parse(payload).map(|it| {
                self.fail(format!(
                    "block {} held version {} when {} was just acknowledged",
                    it.block, it.found, it.version
                ));
            }),
            _ => Ok(()),
        };
        if let Err(error) = result {
            self.fail(error.to_string());
        }
    }

    fn first_io(&mut self, tsc: u64) {
        let death = self.now.as_ref().and_then(|now| now.death);
        if let Some(death) = death {
            self.outcome.first_io.add(self.time(death, tsc));
        }
    }

    /// From one tick to a later one.
    fn time(&self, from: u64, to: u64) -> Duration {
        let ticks = Ticks::new(to.saturating_sub(from));
        Duration::from_nanos(self.clock.ticks_to_ns(ticks))
    }

    /// What supervision has told since the last look.
    fn hear(&mut self) {
        while let Ok(alert) = self.alerts.try_recv() {
            if self.options.verbose {
                say(format_args!("{alert}"));
            }
            match alert.kind {
                AlertKind::Crashed | AlertKind::GaveUp => self.died(&alert),
                AlertKind::Trouble => self.fail(alert.line),
                AlertKind::Escalated if self.wanted() != Some(Kind::EndlessLoop) => {
                    self.fail(alert.line);
                }
                _ => {}
            }
        }
    }

    fn wanted(&self) -> Option<Kind> {
        self.now.as_ref().and_then(|now| now.plan.kind)
    }

    /// Checks the dump of a death, and that it is the one that was ordered.
    fn died(&mut self, alert: &Alert) {
        let Some(now) = &mut self.now else { return };
        let Some(kind) = now.plan.kind else { return self.fail(alert.line.clone()) };
        if !now.verified {
            return self.fail(format!("it died before its blocks were verified: {}", alert.line));
        }
        let Some(path) = &alert.dump else {
            return self.fail(format!("no dump was saved: {}", alert.line));
        };
        match record::check(path, kind, alert.incarnation) {
            Ok(read) => {
                now.died_tsc = if read.tsc == 0 { now.killed_tsc } else { Some(read.tsc) };
                self.outcome.dump_bytes += read.bytes as u64;
                *self.outcome.deaths.entry(kind).or_default() += 1;
            }
            Err(why) => {
                let why = format!("{} (incarnation {}): {why}", kind.name(), alert.incarnation);
                self.fail(why);
            }
        }
    }

    /// The one before has ended, is fenced, and its dump is saved.
    fn bury(&mut self, mut before: PartitionHandle) -> Option<Box<Model>> {
        self.drain(&mut before);
        self.hear();
        if self.now.as_ref().is_some_and(|now| now.plan.watched) {
            self.watch(&before);
        }
        self.judge(before.join())
    }

    /// What the device noticed while that partition had it; its model, for the next one.
    fn judge(&mut self, report: PartitionReport) -> Option<Box<Model>> {
        let device = report.device.unwrap_or_default();
        if let Some(mistake) = device.mistakes.first() {
            self.fail(format!("the device noticed a mistake: {mistake}"));
        }
        if let Some(problem) = device.problem {
            self.fail(problem);
        }
        // What an IOMMU stopped: a transfer behind the fence, or one that was wrong from the start.
        if let Some(note) = device.notes.first() {
            self.fail(format!("the device's last words: {note}"));
        }
        device.model
    }

    /// Nothing of the device reaches memory behind the fence.
    fn watch(&mut self, before: &PartitionHandle) {
        let Some(memory) = before.dma_memory() else { return };
        let sum = || {
            let (span, mut bytes) = (memory.mapped.read_span(), vec![0; 1 << 16]);
            let mut crc = Crc32c::new();
            for at in (0..span.len()).step_by(bytes.len()) {
                if span.read(at, &mut bytes).is_ok() {
                    crc.update(&bytes);
                }
            }
            crc.value()
        };
        let first = sum();
        std::thread::sleep(Duration::from_millis(2));
        if sum() != first {
            self.fail("the dma memory changed behind the fence");
        }
        self.outcome.watched += 1;
    }

    fn drain(&mut self, handle: &mut PartitionHandle) {
        let taken = handle.poll_events(u32::MAX, |header, payload| self.take(header, payload));
        if let Err(closed) = taken {
            self.fail(format!("the event ring is closed: {closed}"));
        }
    }

    /// The spec of the next incarnation.
    fn next(
        &mut self,
        model: Option<Box<Model>>,
        spares: &Spares,
    ) -> Result<PartitionSpec, BackendError> {
        let plan = self.plan();
        self.oracle.begin();
        let before = self.now.take();
        self.now = Some(Now {
            plan,
            verified: false,
            acked: 0,
            acked_at_stop: None,
            stopped: None,
            killed_tsc: None,
            died_tsc: None,
            // A memory that was watched longer is no measurement.
            death: before.filter(|before| !before.plan.watched).and_then(|before| before.died_tsc),
        });
        let backend: Box<dyn Backend> = match (model, self.is_model()) {
            (Some(model), _) => Box::new(ModelBackend::again(model)),
            (None, true) => Box::new(ModelBackend::new(config())),
            (None, false) => {
                let device = DeviceSpec::parse(&self.options.device);
                from_spec(&device.expect("checked before"), DeviceOptions::default())?
            }
        };
        let mut spec = PartitionSpec::new("drill", ENTRY).with_device(backend);
        spec.args = plan.orders.as_bytes().to_vec();
        spec.dma_bytes = DMA_BYTES;
        spec.private_bytes = PRIVATE_BYTES;
        spec.spares = Some(spares.clone());
        Ok(spec)
    }

    /// Another incarnation runs: its memory is new, and nobody but itself has its device open.
    fn begun(&mut self, handle: &PartitionHandle) {
        for open in open_devices() {
            self.fail(format!("the host has the device open: {open}"));
        }
        let Some(memory) = handle.dma_memory() else { return };
        match rustix::fs::fstat(memory.memfd.as_fd()) {
            Ok(stat) if self.memories.insert(stat.st_ino) => {}
            Ok(stat) => self.fail(format!("memory file {} was used twice", stat.st_ino)),
            Err(errno) => self.fail(format!("its memory file: {errno}")),
        }
    }

    /// What is done to the partition from outside.
    fn act(&mut self, handle: &PartitionHandle) {
        let Some(process) = handle.process() else {
            return self.fail("the partition is no process");
        };
        let Some(now) = &mut self.now else { return };
        if let Some(looks) = &mut now.stopped {
            *looks -= 1;
            if *looks == 0 {
                now.stopped = None;
                let _ = pidfd_send_signal(process.pidfd(), Signal::CONT);
                now.acked_at_stop = Some(now.acked);
            }
            return;
        }
        if let Some((after, looks)) = now.plan.stop_after
            && now.acked >= after
        {
            now.plan.stop_after = None;
            // It may have died just now.
            if pidfd_send_signal(process.pidfd(), Signal::STOP).is_ok() {
                now.stopped = Some(looks);
            }
            return;
        }
        if now.acked_at_stop.is_some_and(|acked| now.acked > acked) {
            now.acked_at_stop = None;
            self.outcome.stops_survived += 1;
        }
        let due = now.verified && now.acked >= now.plan.orders.after;
        if due && now.plan.kind == Some(Kind::Sigkill) && now.killed_tsc.is_none() {
            now.killed_tsc = Some(rdtsc());
            if let Err(error) = process.kill() {
                self.fail(format!("it cannot be killed: {error}"));
            }
        }
    }
}

/// From so many crashes on, one stop at least is survived: one of four lives is stopped.
const STOPS_EXPECTED: u64 = 50;

/// The host's own open files that are a device's.
fn open_devices() -> Vec<String> {
    let fds = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let names = fds.filter_map(|fd| std::fs::read_link(fd.path()).ok());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    // Memory files that the host shares with a partition have "vfio" in their names too.
    let device = ["/dev/vfio", "/dev/iommu", "anon_inode:[vfio"];
    names.filter(|name| device.iter().any(|start| name.starts_with(start))).collect()
}

fn config() -> ModelConfig {
    let namespaces = vec![NamespaceConfig::memory(1, BLOCKS).lba_bytes(BLOCK_BYTES)];
    ModelConfig { namespaces, out_of_order: true, ..ModelConfig::default() }
}

fn supervision(options: &Options, spares: &Spares) -> SupervisionOptions {
    let limits = Limits {
        // An emulated machine is slow, and its partition shares a processor with others.
        task: Some(Duration::from_millis(if options.device == "model" { 800 } else { 6_000 })),
        // Whoever is slow on a crowded machine is not to be accused.
        heartbeat: Duration::from_secs(20),
        passes: 0,
        dump: Duration::from_secs(20),
        ..Limits::default()
    };
    let back_off = BackOff { first: Duration::ZERO, cap: Duration::ZERO };
    let store = StoreOptions { keep: 8, ..StoreOptions::new(&options.dir) };
    SupervisionOptions {
        restart: RestartPolicy::OnFailure,
        limit: CrashLimit::OFF,
        back_off,
        limits,
        store: Some(store),
        hook: None,
        spares: Some(spares.clone()),
        ..SupervisionOptions::default()
    }
}

/// Runs them all.
pub(crate) fn run(runtime: &Runtime, options: Options) -> Result<Outcome, String> {
    let counters = Counters::default();
    let spares = Spares::new(counters.clone());
    let supervision = supervision(&options, &spares);
    let (tell, alerts) = channel();
    // A drive with smaller blocks than ours may keep a part of a write that it never answered.
    let atomic = options.device == "model";
    let desk = Rc::new(RefCell::new(Desk {
        clock: runtime.clock(),
        random: Rng::new(options.seed),
        options,
        alerts,
        oracle: Oracle::new(atomic),
        planned: 0,
        now: None,
        error: None,
        outcome: Outcome::default(),
        memories: BTreeSet::new(),
    }));
    let starter = {
        let desk = Rc::clone(&desk);
        let mut first_error = None;
        Box::new(move |next: Option<Next<PartitionHandle>>| -> Result<_, RuntimeError> {
            let mut desk = desk.borrow_mut();
            let model = next.and_then(|next| desk.bury(next.before));
            let spec = desk.next(model, &spares)?;
            let started = runtime.spawn(spec);
            match &started {
                Ok(handle) => desk.begun(handle),
                Err(error) => desk.fail(first_error.get_or_insert(error.to_string()).clone()),
            }
            started
        })
    };
    let sink = Alerts::to(move |alert| drop(tell.send(alert.clone())));
    let supervisor = Supervisor::start(supervision, sink, counters.clone(), starter);
    let mut supervisor = supervisor.map_err(|error| error.to_string())?;
    let over = watch(&mut supervisor, &desk)?;
    let mut desk = desk.borrow_mut();
    if let Some(mut last) = supervisor.into_current() {
        desk.drain(&mut last);
        desk.hear();
        desk.judge(last.join());
    }
    if over != Over::Ended(Ending::Done) {
        return Err(format!("supervision ended with {over:?}"));
    }
    desk.error.take().map_or(Ok(()), Err)?;
    let mut outcome = std::mem::take(&mut desk.outcome);
    if desk.options.crashes >= STOPS_EXPECTED && outcome.stops_survived == 0 {
        return Err("no stopped partition went on: SIGSTOP was never survived".to_owned());
    }
    outcome.acknowledged = desk.oracle.acknowledged;
    outcome.verified = desk.oracle.verified;
    outcome.unacknowledged_kept = desk.oracle.unacknowledged_kept;
    outcome.restarts = counters.restarts();
    outcome.spare_hits = counters.spare_hits();
    Ok(outcome)
}

/// The loop of a host that serves and supervises its partition.
fn watch(
    supervisor: &mut Supervisor<'_, PartitionHandle>,
    desk: &Rc<RefCell<Desk>>,
) -> Result<Over, String> {
    let (mut since, mut restarts) = (Instant::now(), 0);
    let mut timed = None;
    loop {
        let status = supervisor.poll();
        let mut desk = desk.borrow_mut();
        desk.hear();
        if let Some(timing) = supervisor.timing().filter(|timing| timing.started.is_some())
            && timed != Some(timing)
        {
            timed = Some(timing);
            let outcome = &mut desk.outcome;
            let since = |at: Option<Instant>| at.map(|at| at - timing.noticed).unwrap_or_default();
            outcome.fenced.add(since(timing.fenced));
            outcome.saved.add(since(timing.saved));
            outcome.started.add(since(timing.started));
        }
        if let Some(why) = &desk.error {
            return Err(why.clone());
        }
        match status {
            Status::Over(over) => return Ok(over),
            Status::Alive => {
                if let Some(handle) = supervisor.current() {
                    desk.drain(handle);
                    desk.act(handle);
                }
            }
            Status::Between => {}
        }
        if supervisor.counters().restarts() != restarts {
            (since, restarts) = (Instant::now(), supervisor.counters().restarts());
        }
        if since.elapsed() > PATIENCE {
            return Err(format!(
                "incarnation {} neither dies nor ends: {:?}",
                restarts + 1,
                desk.now
            ));
        }
        drop(desk);
        supervisor.wait(LOOK);
    }
}
