//! Supervision's threads in the orders that a scheduler may choose, with shuttle for the scheduler.
//!
//! Everything is real but the partition and the time: [`Supervisor`] with its policy, the control
//! socket's methods, their way to the supervisor, the fallback, the spare memory. A partition is a
//! thread that looks whether it was told to end. Deadlines are so long that none passes: what time
//! does is in [`super::policy`]'s tests, which need no threads.
//!
//! `RUSTFLAGS="--cfg shuttle" cargo test -p host-bridge --release --lib interleavings::`, which
//! `cargo xtask soak` runs. A failure prints a schedule for `shuttle::replay`.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use core_runtime::clock::{Clock, ManualClock};
use hybrid_conventions::testing;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::Mutex;
use shuttle::thread;
use shuttle::{Config, Runner};

use super::fallback::Fallback;
use super::policy::{Limits, Phase};
use super::restart::{BackOff, RestartPolicy};
use super::*;
use crate::alert::PartitionAlert;
use crate::memory::MemorySource;
use crate::runtime::Isolation;
use crate::supervisor::spare::{Need, Spares};
use crate::sys::memfd::PageSize;
use crate::sys::partition_memory::MemorySizes;
use crate::telemetry::control::answer;
use crate::telemetry::{Entered, Identity, Telemetry};
use crate::warnings::Warnings;

/// Orders that are tried of each test, by each of two schedulers.
const ORDERS: usize = 2_000;

/// Errors that need so many preemptions at the right moment are looked for.
const DEPTH: usize = 3;

/// More steps than this are a livelock.
const STEPS: usize = 200_000;

/// Tries `test` in many orders: drawn, and with few preemptions.
fn explore(test: impl Fn() + Send + Sync + 'static) {
    let orders = if testing::soak() { 50 * ORDERS } else { ORDERS };
    let seed = testing::seed(1);
    let test = Arc::new(test);
    let run = |scheduler: Box<dyn Scheduler + Send>| {
        let mut config = Config::new();
        config.stack_size = 1 << 20;
        config.max_steps = shuttle::MaxSteps::FailAfter(STEPS);
        let test = Arc::clone(&test);
        Runner::new(scheduler, config).run(move || test());
    };
    run(Box::new(RandomScheduler::new_from_seed(seed, orders)));
    run(Box::new(PctScheduler::new_from_seed(seed, DEPTH, orders)));
}

/// How a partition ends if nobody tells it to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Crash,
    Blame,
    Done,
    /// Not by itself.
    Never,
}

/// What a partition and its supervisor tell each other.
#[derive(Debug, Default)]
struct Process {
    stop: bool,
    dump: bool,
    ended: Option<Ending>,
}

/// Looks of a partition until it ends by itself.
const LIFE: u32 = 3;

fn live(process: &Mutex<Process>, way: Way) {
    for look in 0.. {
        {
            let mut process = process.lock().expect("lock");
            let by_itself = match way {
                _ if look < LIFE => None,
                Way::Crash => Some(Ending::Crashed),
                Way::Blame => Some(Ending::DeviceGone),
                Way::Done => Some(Ending::Done),
                Way::Never => None,
            };
            process.ended = match (process.dump, process.stop) {
                (true, _) => Some(Ending::Crashed),
                (_, true) => Some(Ending::Done),
                _ => by_itself,
            };
            if process.ended.is_some() {
                return;
            }
        }
        thread::yield_now();
    }
}

#[derive(Debug)]
struct Child {
    number: u64,
    process: Arc<Mutex<Process>>,
    thread: Option<thread::JoinHandle<()>>,
    entered: Option<Entered>,
    stage: Arc<Stage>,
}

impl Child {
    fn ended(&self) -> Option<Ending> {
        self.process.lock().expect("lock").ended
    }
}

impl Incarnation for Child {
    fn name(&self) -> &str {
        NAME
    }

    fn number(&self) -> u64 {
        self.number
    }

    fn pid(&self) -> Option<u32> {
        Some(100)
    }

    fn look(&mut self) -> Look {
        let ended = self.ended().is_some();
        Look { ended, stopped: false, phase: Phase::Running, passes: 0, task: None }
    }

    fn task_name(&self, _: u32) -> Option<String> {
        None
    }

    fn wait(&mut self, _: Duration) {}

    fn ask_to_stop(&mut self) {
        self.process.lock().expect("lock").stop = true;
    }

    fn ask_for_dump(&mut self) -> io::Result<()> {
        self.process.lock().expect("lock").dump = true;
        Ok(())
    }

    fn kill(&mut self) -> io::Result<()> {
        panic!("no deadline passes here");
    }

    fn fence(&mut self) -> Fence {
        let ending = self.ended().expect("the fence is asked after the end");
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it returned");
            self.entered = None;
            self.stage.alive.fetch_sub(1, Ordering::Relaxed);
        }
        Fence::Free(ending)
    }

    fn evidence(&mut self, fenced: bool, _: Option<Cause>) -> Evidence {
        assert!(fenced, "the device is free");
        let ending = self.ended().expect("it has ended");
        Evidence { ending, reason: String::new(), what: String::new(), task: None, dump: None }
    }
}

/// The only partition.
const NAME: &str = "feed";

/// What a test looks at. Its numbers are no part of what is tried: plain atomics.
#[derive(Debug)]
struct Stage {
    telemetry: Telemetry,
    fallback: Fallback,
    alive: AtomicU64,
    starts: AtomicU64,
    fallbacks: AtomicU64,
}

impl Stage {
    fn new(options: &SupervisionOptions) -> Arc<Self> {
        let clock: &'static ManualClock = Box::leak(Box::new(ManualClock::new(1_000_000)));
        let telemetry = Telemetry::new(Clock::manual(clock));
        telemetry.add_requests(NAME, &options.requests);
        let fallback = options.fallback.clone();
        let [alive, starts, fallbacks] = [(); 3].map(|()| AtomicU64::new(0));
        Arc::new(Self { telemetry, fallback, alive, starts, fallbacks })
    }

    fn starts(&self) -> u64 {
        self.starts.load(Ordering::Relaxed)
    }

    /// Starts a partition, as a program's starter does.
    fn start(self: &Arc<Self>, way: Way, ending: Option<Ending>) -> Child {
        let before = self.alive.fetch_add(1, Ordering::Relaxed);
        assert_eq!(before, 0, "two incarnations at once");
        let number = self.starts.fetch_add(1, Ordering::Relaxed) + 1;
        if ending.is_some_and(Ending::blames_device) && self.fallback.take() {
            self.fallbacks.fetch_add(1, Ordering::Relaxed);
        }
        let name = NAME.to_owned();
        let identity = Identity { name, cpu: 1, incarnation: number, pid: Some(100), device: None };
        let region = File::open("/dev/null").expect("it is everywhere").into();
        let entered = Some(self.telemetry.enter(identity, region));
        let process = Arc::new(Mutex::new(Process::default()));
        let own = Arc::clone(&process);
        let thread = Some(thread::spawn(move || live(&own, way)));
        Child { number, process, thread, entered, stage: Arc::clone(self) }
    }

    /// A supervisor whose incarnations end in these ways, the last one again and again.
    fn supervisor(
        self: &Arc<Self>,
        options: SupervisionOptions,
        ways: &[Way],
    ) -> Supervisor<'static, Child> {
        let (stage, mut ways) = (Arc::clone(self), VecDeque::from(ways.to_vec()));
        let starter = Box::new(move |next: Option<Next<Child>>| {
            let ending = next.map(|next| next.ending);
            let way = if ways.len() > 1 { ways.pop_front() } else { ways.front().copied() };
            Ok(stage.start(way.expect("a way"), ending))
        });
        let alerts = Alerts::to(|_| {});
        Supervisor::start(options, alerts, Counters::default(), starter).expect("a start")
    }

    /// Asks over the control socket; whether it was promised. Between two incarnations it is not.
    fn ask(&self, method: &str) -> bool {
        let params = format!(r#"{{"partition":"{NAME}"}}"#);
        let line = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        answer(&self.telemetry, "test", line.as_bytes()).contains(r#""result""#)
    }
}

fn options(restart: RestartPolicy) -> SupervisionOptions {
    let long = Duration::from_secs(3600);
    let limits = Limits {
        heartbeat: long,
        escalate: long,
        task: None,
        dump: long,
        death: long,
        fence: long,
        passes: 0,
        ..Limits::default()
    };
    let back_off = BackOff { first: Duration::ZERO, cap: Duration::ZERO };
    let limit = CrashLimit::OFF;
    SupervisionOptions { restart, limits, back_off, limit, ..SupervisionOptions::default() }
}

/// Polls until supervision is over, as the thread that serves a partition does.
fn serve(supervisor: &mut Supervisor<'static, Child>) -> Over {
    loop {
        if let Status::Over(over) = supervisor.poll() {
            return over;
        }
        thread::yield_now();
    }
}

/// A start takes three actions at least (fence, save, start), and a drain is heard between polls.
const STARTS_A_POLL: u64 = (ACTIONS_A_POLL as u64).div_ceil(3);

/// Whatever a partition does, and whatever else is asked: after a drain that was promised only
/// those starts come that the poll on its way may make, and the last of them ends too.
#[test]
fn a_promised_drain_ends_it_whatever_happens_meanwhile() {
    for way in [Way::Crash, Way::Done, Way::Blame, Way::Never] {
        explore(move || {
            let options = options(RestartPolicy::Always);
            let stage = Stage::new(&options);
            let mut supervisor = stage.supervisor(options, &[way]);
            let at = Arc::clone(&stage);
            let restarter = thread::spawn(move || at.ask("partition_restart"));
            let at = Arc::clone(&stage);
            let drainer = thread::spawn(move || {
                while !at.ask("partition_drain") {
                    thread::yield_now();
                }
                at.starts()
            });
            serve(&mut supervisor);
            let promised = drainer.join().expect("a promise");
            restarter.join().expect("an answer");
            let starts = stage.starts();
            assert!(
                starts <= promised + STARTS_A_POLL,
                "{starts} starts, {promised} when it was promised"
            );
            assert_eq!(stage.alive.load(Ordering::Relaxed), 0, "one still runs");
            assert!(stage.telemetry.partitions().is_empty(), "a dead one is still told of");
        });
    }
}

/// Under a policy that never restarts: what was promised comes all the same, unless the partition
/// crashed, or supervision was over before anybody heard of it.
#[test]
fn a_promised_restart_is_one_start() {
    explore(|| {
        let options = options(RestartPolicy::Never);
        let stage = Stage::new(&options);
        let mut supervisor = stage.supervisor(options, &[Way::Never, Way::Done]);
        let at = Arc::clone(&stage);
        let client = thread::spawn(move || at.ask("partition_restart"));
        let over = serve(&mut supervisor);
        assert!(client.join().expect("an answer"), "the first one does not end by itself");
        assert_eq!((over, stage.starts()), (Over::Ended(Ending::Done), 2));
    });
}

/// A restart and a drain that are asked for at once: the drain is what counts, and it is not
/// undone by a restart that comes behind it.
#[test]
fn a_restart_never_undoes_a_drain() {
    explore(|| {
        let options = options(RestartPolicy::Never);
        let requests = options.requests.clone();
        let stage = Stage::new(&options);
        let mut supervisor = stage.supervisor(options, &[Way::Never]);
        let asking = [Asked::Restart, Asked::Drain, Asked::Restart].map(|asked| {
            let requests = requests.clone();
            thread::spawn(move || requests.ask(asked))
        });
        let over = serve(&mut supervisor);
        asking.map(|thread| thread.join().expect("asked"));
        assert_eq!(over, Over::Ended(Ending::Done));
        assert!(stage.starts() <= 3, "{} starts", stage.starts());
    });
}

/// A device at fault, a critical alert and a drain at once: the other storage is taken once.
#[test]
fn the_fallback_is_taken_once_under_alerts_and_a_drain() {
    explore(|| {
        let fallback = Fallback::to("model:a", "uring:a");
        let options = SupervisionOptions { fallback, ..options(RestartPolicy::OnFailure) };
        let sink = options.criticals.sink(&Warnings::to(|_| {}));
        let stage = Stage::new(&options);
        let mut supervisor = stage.supervisor(options, &[Way::Blame, Way::Never]);
        let alerter = thread::spawn(move || sink.tell(&PartitionAlert::critical_of(NAME)));
        let at = Arc::clone(&stage);
        let drainer = thread::spawn(move || {
            while !(at.fallback.is_taken() || at.starts() > 1) || !at.ask("partition_drain") {
                thread::yield_now();
            }
        });
        serve(&mut supervisor);
        alerter.join().expect("told");
        drainer.join().expect("a promise");
        let (fallbacks, starts) = (stage.fallbacks.load(Ordering::Relaxed), stage.starts());
        // The alert may have been the end of the first one, or of the second.
        assert!(fallbacks <= 1 && (2..=3).contains(&starts), "{fallbacks} of {starts}");
        assert_eq!(stage.alive.load(Ordering::Relaxed), 0, "one still runs");
    });
}

/// Memory that is made in the background, taken by a start and given back on a machine that is
/// short of it, all at once: nobody waits for ever, and no set is had twice.
#[test]
fn spare_memory_is_had_once_and_nobody_waits_for_ever() {
    explore(|| {
        let sizes = MemorySizes { dma: 4096, private: 0, region: 4096, host_region: 4096 };
        let isolation = Isolation::Process;
        let need = Need { sizes, page: PageSize::Small4K, isolation, node: None };
        let source = || MemorySource::new(PageSize::Small4K, 1 << 20, Warnings::to(|_| {}));
        let spares = Spares::new(Counters::default());
        let takers = [(); 2].map(|()| {
            let spares = spares.clone();
            thread::spawn(move || spares.take(&need).is_some())
        });
        let other = spares.clone();
        let releaser = thread::spawn(move || other.release());
        spares.prepare(need, source(), crate::affinity::allowed());
        let had = takers.map(|thread| u32::from(thread.join().expect("an answer")));
        releaser.join().expect("released");
        assert!(had[0] + had[1] <= 1, "one set was made");
        spares.release();
        // What is in the making is waited for, and then there is none.
        assert!(spares.take(&need).is_some() || !spares.is_ready());
        assert!(spares.take(&need).is_none(), "a set that nobody made");
    });
}
