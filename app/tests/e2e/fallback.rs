//! `--storage auto`: the device fails in the middle of a replay, and the kernel goes on.
//!
//! The device is a model behind a vfio-user socket, with an image file. It fails at a random
//! command, in one of three ways: its process is killed, it sets CSTS.CFS, it answers nothing any
//! more. Ten points in CI, a hundred in a soak; the seed is printed.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use host_bridge::backend::model::{
    Backing, ControllerFault, FaultAction, FaultPlan, FaultRule, Idle, ModelConfig,
    NamespaceConfig, OnQueue, When,
};
use host_bridge::vfio_user_server::{ServerOptions, VfioUserServer};
use hybrid_conventions::testing::{self, Random};
use nvme_driver::spec::AdminOpcode;

use crate::feeds;
use crate::machine::{Machine, has_tool};
use crate::run::{PROGRAM, Run};
use crate::temp::{TempDir, text};

/// Chunks of the day below, about: each is read by one command.
const MESSAGES: u64 = 60_000;

/// Admin commands of a bring-up and of the questions after it, at least.
pub(crate) const ADMIN: u64 = 12;

/// A server's socket, image and fault, for this test program as a server's process.
const SERVER: &str = "FEED_HANDLER_E2E_SERVER";

/// How the device fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Killed,
    Fatal,
    Silent,
}

pub(crate) const WAYS: [Way; 3] = [Way::Killed, Way::Fatal, Way::Silent];

impl Way {
    /// `--io-timeout` of a run that writes: long enough for a flush of the other storage, on a
    /// crowded machine too. What answers nothing takes a few of them to be given up.
    pub(crate) const fn patience(self) -> &'static str {
        match self {
            Self::Killed | Self::Fatal => "5s",
            Self::Silent => "500ms",
        }
    }
}

pub(crate) fn plan(way: Way, command: u64) -> FaultPlan {
    let io = |action| FaultRule::on(OnQueue::Io, action).when(When::After(command - 1));
    match way {
        Way::Killed => FaultPlan::none(),
        Way::Fatal => FaultPlan::none().with(io(FaultAction::Controller(ControllerFault::Fatal))),
        Way::Silent => [AdminOpcode::ABORT, AdminOpcode::DELETE_SQ, AdminOpcode::DELETE_CQ]
            .into_iter()
            .map(|opcode| FaultRule::admin(opcode, FaultAction::Drop))
            .chain([io(FaultAction::Drop)])
            .fold(FaultPlan::none(), FaultPlan::with),
    }
}

pub(crate) fn model(image: &Path, faults: FaultPlan) -> ModelConfig {
    let blocks = std::fs::metadata(image).expect("an image").len() / 4096;
    let mut namespace = NamespaceConfig::memory(1, blocks).lba_bytes(4096);
    namespace.backing = Backing::Image { path: image.to_path_buf(), create: false };
    ModelConfig { namespaces: vec![namespace], faults, ..ModelConfig::default() }
}

pub(crate) fn serve(
    socket: &Path,
    image: &Path,
    faults: FaultPlan,
) -> (VfioUserServer, ServerOptions) {
    serve_model(socket, model(image, faults))
}

pub(crate) fn serve_model(socket: &Path, model: ModelConfig) -> (VfioUserServer, ServerOptions) {
    let idle = Idle::Yield { after_steps: 64 };
    let options = ServerOptions { model, idle, ..ServerOptions::default() };
    (VfioUserServer::start(socket, options.clone()).expect("a server"), options)
}

/// A server that is a process and kills itself once it has answered so many commands, those of the
/// bring-up counted.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(socket: &Path, image: &Path, command: u64) -> Self {
        let what = format!("{}\n{}\n{command}", text(socket), text(image));
        let child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "fallback::a_server_that_is_killed_is_an_error_without_a_fallback"])
            .env(SERVER, what)
            .stdout(Stdio::null())
            .spawn()
            .expect("this program again");
        let begun = Instant::now();
        while !socket.exists() {
            assert!(begun.elapsed() < Duration::from_secs(60), "no server appears");
            std::thread::park_timeout(Duration::from_millis(1));
        }
        Self(child)
    }

    /// Ends it, if it has not ended yet.
    pub(crate) fn end(mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// The signal that ended it.
    fn signal(mut self) -> Option<i32> {
        self.0.wait().expect("a child of ours").signal()
    }
}

/// What the process does, if this is one.
fn be_a_server() {
    let Some(what) = std::env::var_os(SERVER) else { return };
    let what = what.into_string().expect("text");
    let [socket, image, command] = what.split('\n').collect::<Vec<_>>()[..] else {
        panic!("{what}");
    };
    let command: u64 = command.parse().expect("a number");
    // It answers no more than that, so that nothing ends before it is killed, however late that is.
    let silent = FaultRule::on(OnQueue::Io, FaultAction::Drop).when(When::After(command - ADMIN));
    let plan = FaultPlan::none().with(silent);
    let (_server, options) = serve(Path::new(socket), Path::new(image), plan);
    loop {
        if options.gauges.completions() >= command {
            let _ = kill_this_process();
        }
        std::thread::park_timeout(Duration::from_micros(20));
    }
}

/// SIGKILL to this process.
fn kill_this_process() -> std::io::Result<std::process::ExitStatus> {
    let own = std::process::id().to_string();
    Command::new("kill").args(["-KILL", &own]).status()
}

/// A day on an image, the changes that a whole replay tells, and how many commands that takes.
pub(crate) struct Day {
    pub(crate) dir: TempDir,
    pub(crate) image: PathBuf,
    pub(crate) quotes: Vec<u8>,
    pub(crate) chunks: u64,
}

impl Day {
    fn new(machine: &Machine) -> Self {
        Self::of(machine, MESSAGES)
    }

    pub(crate) fn of(machine: &Machine, messages: u64) -> Self {
        let dir = TempDir::new();
        let feed = feeds::day(7, 40, messages);
        let chunks = feed.len() as u64 / (64 << 10) + 1;
        let (day, (device, image)) = (dir.file("day.itch", &feed), dir.image("day.img"));
        let whole = dir.path("whole.csv");
        let args = ["replay", text(&day), "--device", &device, "--bbo", text(&whole)];
        let size = ["--model-size", "16M", "--no-probe"];
        machine.run(&[&args[..], &size].concat()).ok();
        let quotes = std::fs::read(&whole).expect("the program wrote it");
        assert!(quotes.len() > 100_000);
        Self { dir, image, quotes, chunks }
    }

    pub(crate) fn bbo(&self) -> PathBuf {
        self.dir.path("bbo.csv")
    }

    /// A replay over the socket that falls back to the image.
    fn replay(&self, machine: &Machine, socket: &Path) -> Run {
        self.replay_by(machine, Command::new(PROGRAM), socket)
    }

    /// The same by a command that ends up in the program.
    fn replay_by(&self, machine: &Machine, command: Command, socket: &Path) -> Run {
        self.replay_with(machine, command, socket, ["--io-timeout", "100ms", "--queue-depth", "4"])
    }

    /// The same with a deadline and a depth.
    fn replay_with(
        &self,
        machine: &Machine,
        command: Command,
        socket: &Path,
        patience: [&str; 4],
    ) -> Run {
        machine.run_command(self.command(command, socket, patience))
    }

    /// The command of such a replay.
    pub(crate) fn command(
        &self,
        mut command: Command,
        socket: &Path,
        patience: [&str; 4],
    ) -> Command {
        let device = format!("vfio-user:{}", text(socket));
        let fallback = format!("uring:{}", text(&self.image));
        command.args(["replay", "--device", &device, "--fallback", &fallback]);
        command.args(["--storage", "auto", "--bbo", text(&self.bbo()), "--no-probe", "--json"]);
        command.args(patience);
        command
    }

    #[track_caller]
    pub(crate) fn check(&self, run: &Run, what: &str) {
        let quotes = std::fs::read(self.bbo()).expect("the program wrote it");
        assert!(quotes == self.quotes, "{what}: other quotes than without a fault\n{run:?}");
    }
}

#[test]
fn a_replay_whose_device_fails_at_random_points_ends_with_the_exact_quotes() {
    let name = "a_replay_whose_device_fails_at_random_points_ends_with_the_exact_quotes";
    let Some(machine) = Machine::of(name) else { return };
    let day = Day::new(&machine);
    let points = if testing::soak() { 100 } else { 10 };
    let seed = testing::seed(1);
    println!("{points} points, {}={seed}", testing::SEED);
    let mut rng = Random::new(seed);
    let mut resumed = 0;
    for point in 0..points {
        let way = WAYS[point % WAYS.len()];
        // The superblock is the first command. With the last ones the replay is done, whatever
        // becomes of the device: a window of four is in flight.
        let command = 2 + rng.below(day.chunks - 6);
        let what = format!("point {point}: {way:?} at command {command}, seed {seed}");
        let socket = day.dir.path(&format!("cntrl-{point}"));
        let run = if way == Way::Killed {
            // Its admin commands count too there.
            let process = Process::start(&socket, &day.image, command + ADMIN);
            // A death is seen without a deadline; a server that is late would never get that far.
            let patience = ["--io-timeout", way.patience(), "--queue-depth", "4"];
            let run = day.replay_with(&machine, Command::new(PROGRAM), &socket, patience);
            assert_eq!(process.signal(), Some(9), "{what}: {run:?}");
            run
        } else {
            let (server, _) = serve(&socket, &day.image, plan(way, command));
            let run = day.replay(&machine, &socket);
            drop(server);
            run
        };
        let run = run.ok();
        day.check(&run, &what);
        let json = run.json();
        assert_eq!(json["starts"]["fallbacks"], 1, "{what}: {run:?}");
        assert_eq!(json["device"]["name"], format!("uring:{}", text(&day.image)), "{what}");
        // A machine that takes the core away for a second has alarms of its own.
        let away = |line: &str| line.contains(" is silent: no pass") || line.contains(" crawls: ");
        let alerts = run.stderr.lines().filter(|line| line.starts_with("alert"));
        let told: Vec<_> = alerts.filter(|line| !away(line)).collect();
        // What loses one read after another is asked again first; a server that is dead is not.
        let again = run.stderr.matches(" is read again, up to 3 times, on the same device").count();
        assert_eq!(again, usize::from(way != Way::Killed), "{what}: one line: {run:?}");
        assert_eq!(told.len(), 1, "{what}: the switch is one line: {run:?}");
        assert!(
            told[0].contains("lost its device: ") && told[0].contains("instead of"),
            "{told:?}"
        );
        resumed += u32::from(json["starts"]["resumed_bytes"] != 0);
    }
    // A point before the first chunk has nothing to go on from.
    assert!(resumed * 2 > u32::try_from(points).expect("few"), "{resumed} went on where they were");
}

/// The server's process of the test above, and what its death is without other storage.
#[test]
fn a_server_that_is_killed_is_an_error_without_a_fallback() {
    be_a_server();
    let name = "a_server_that_is_killed_is_an_error_without_a_fallback";
    let Some(machine) = Machine::of(name) else { return };
    let day = Day::new(&machine);
    let socket = day.dir.path("cntrl");
    let process = Process::start(&socket, &day.image, 20);
    let device = format!("vfio-user:{}", text(&socket));
    let args = ["replay", "--device", &device, "--vfio-user-reconnect", "0", "--queue-depth", "4"];
    let run = machine.run(&args);
    assert_eq!((process.signal(), run.code()), (Some(9), Some(1)), "{run:?}");
    run.one_error(&["the controller is gone", "was lost"]);
    assert!(!run.stderr.contains("goes on with"), "{run:?}");
}

#[test]
fn a_fallback_that_fails_is_a_named_error_with_what_helps() {
    let name = "a_fallback_that_fails_is_a_named_error_with_what_helps";
    let Some(machine) = Machine::of(name) else { return };
    let day = Day::new(&machine);
    let socket = day.dir.path("cntrl");
    // The image goes while the model still has it open.
    let (server, _) = serve(&socket, &day.image, plan(Way::Fatal, 5));
    let away = day.dir.path("away.img");
    std::fs::rename(&day.image, &away).expect("a rename");
    let run = day.replay(&machine, &socket);
    assert_eq!(run.code(), Some(1), "{run:?}");
    assert!(run.stderr.contains("there would be no fallback as things are"), "{run:?}");
    assert!(run.stderr.contains("the fallback failed: "), "{run:?}");
    assert!(run.stderr.contains("day.img is not there; "), "{run:?}");
    drop(server);
    // Another feed on it: nothing is told twice, nothing of the other one is told.
    let other = day.dir.file("other.itch", &feeds::day(8, 40, MESSAGES));
    let device = format!("model:{}", text(&day.image));
    machine.run(&["ingest", text(&other), "--device", &device, "--model-size", "16M"]).ok();
    let (server, _) = serve(&day.dir.path("cntrl-2"), &away, plan(Way::Fatal, day.chunks / 2));
    let run = day.replay(&machine, &day.dir.path("cntrl-2"));
    assert_eq!(run.code(), Some(1), "{run:?}");
    let error = run.stderr.lines().last().expect("a line");
    assert!(error.contains("carries another feed than the one of which"), "{run:?}");
    drop(server);
}

/// The program without a privilege, or behind a filter: each is a warning at the start, and the
/// error of the run when the device has failed.
#[test]
fn a_fallback_that_may_not_be_used_is_a_named_error() {
    let name = "a_fallback_that_may_not_be_used_is_a_named_error";
    let Some(machine) = Machine::of(name) else { return };
    if !has_tool(name, "perl") || !has_tool(name, "setpriv") {
        return;
    }
    let day = Day::new(&machine);
    let permit = |mode| std::fs::set_permissions(&day.image, PermissionsExt::from_mode(mode));
    for (number, (command, mode, words)) in [
        (without_io_uring(1), 0o600, "io_uring is forbidden to this process"),
        (without_io_uring(38), 0o600, "has no io_uring, or a filter hides it"),
        (without_override(), 0o000, "opening it: Permission denied"),
    ]
    .into_iter()
    .enumerate()
    {
        let socket = day.dir.path(&format!("cntrl-{number}"));
        let (server, _) = serve(&socket, &day.image, plan(Way::Fatal, day.chunks / 2));
        permit(mode).expect("our own file");
        let run = day.replay_by(&machine, command, &socket);
        permit(0o600).expect("our own file");
        drop(server);
        assert_eq!(run.code(), Some(1), "{run:?}");
        assert!(run.stderr.contains("there would be no fallback as things are: "), "{run:?}");
        let failed = run.stderr.lines().find(|line| line.contains("the fallback failed: "));
        assert!(failed.is_some_and(|line| line.contains(words)), "{words}: {run:?}");
        // What was told before is the beginning of the day.
        let quotes = std::fs::read(day.bbo()).expect("the program wrote it");
        assert!(day.quotes.starts_with(&quotes), "{words}: other quotes");
    }
}

/// Too little for a ring is a named error; too little for the buffers is a step down, and the
/// replay goes on all the same.
#[test]
fn a_fallback_with_too_little_memlock_is_named_or_a_step_with_the_exact_quotes() {
    let name = "a_fallback_with_too_little_memlock_is_named_or_a_step_with_the_exact_quotes";
    let Some(machine) = Machine::of(name) else { return };
    if !has_tool(name, "prlimit") || !has_tool(name, "setpriv") {
        return;
    }
    let day = Day::new(&machine);
    for (limit, goes_on) in [(64 << 10, false), (4 << 20, true)] {
        let socket = day.dir.path(&format!("cntrl-{limit}"));
        let (server, _) = serve(&socket, &day.image, plan(Way::Fatal, day.chunks / 2));
        // Root's right to lock what it likes goes with the limit.
        let mut command = Command::new("prlimit");
        command.arg(format!("--memlock={limit}:{limit}"));
        command.args(["setpriv", "--bounding-set", "-ipc_lock", PROGRAM]);
        let run = day.replay_by(&machine, command, &socket);
        drop(server);
        if !goes_on && run.code() == Some(1) {
            // Older kernels do not count the memory of a ring.
            let words = ["no memory for a ring", &format!("RLIMIT_MEMLOCK is {limit}")];
            let named = |line: &str| words.iter().all(|words| line.contains(words));
            assert!(run.stderr.lines().any(named), "{run:?}");
            continue;
        }
        let run = run.ok();
        day.check(&run, &format!("{limit} bytes of locked memory"));
        assert_eq!(run.json()["starts"]["fallbacks"], 1, "{run:?}");
        let steps = run.stderr.lines().filter(|line| line.contains("without registered buffers"));
        let steps: Vec<_> = steps.collect();
        assert_eq!(steps.len(), 1, "{run:?}");
        assert!(steps[0].contains("RLIMIT_MEMLOCK"), "{steps:?}");
    }
}

/// The program behind a seccomp filter that answers `io_uring_setup` with `errno`, as containers
/// have.
fn without_io_uring(errno: u32) -> Command {
    let prctl = if cfg!(target_arch = "x86_64") { 157 } else { 167 };
    let filter = format!(
        "my $code = pack('SCCL' x 4, 0x20,0,0,0, 0x15,0,1,425, 6,0,0,0x50000|{errno}, \
         6,0,0,0x7fff0000); my $filter = pack('Sx6P', 4, $code); \
         syscall({prctl}, 38, 1, 0, 0, 0) == 0 && syscall({prctl}, 22, 2, $filter) == 0 \
         or die $!; exec @ARGV or die $!"
    );
    let mut command = Command::new("perl");
    command.args(["-e", &filter, PROGRAM]);
    command
}

/// The program without root's right to open what is not permitted to it.
fn without_override() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-dac_override,-dac_read_search", PROGRAM]);
    command
}

#[test]
fn a_device_that_cannot_be_had_at_the_start_is_replaced_at_once() {
    let name = "a_device_that_cannot_be_had_at_the_start_is_replaced_at_once";
    let Some(machine) = Machine::of(name) else { return };
    let day = Day::new(&machine);
    let run = day.replay(&machine, &day.dir.path("nobody")).ok();
    day.check(&run, "no server");
    assert_eq!(run.json()["starts"]["fallbacks"], 1, "{run:?}");
    let told = run.stderr.lines().find(|line| line.starts_with("alert: ")).expect("a line");
    assert!(told.contains("nobody") && told.contains("it goes on with uring:"), "{told}");
}

#[test]
fn storage_is_picked_by_hand_and_contradictions_are_refused() {
    let name = "storage_is_picked_by_hand_and_contradictions_are_refused";
    let Some(machine) = Machine::of(name) else { return };
    let day = Day::new(&machine);
    let (model, bbo) = (format!("model:{}", text(&day.image)), day.bbo());
    let args = ["replay", "--device", &model, "--bbo", text(&bbo), "--no-probe", "--json"];
    for (storage, device) in [("nvme", &model), ("uring", &model.replace("model", "uring"))] {
        let run = machine.run(&[&args[..], &["--storage", storage]].concat()).ok();
        day.check(&run, storage);
        assert_eq!(run.json()["device"]["name"], device[..]);
        assert_eq!(run.json()["starts"]["fallbacks"], 0);
    }
    for (args, words) in [
        (&["--device", "uring:/x", "--storage", "auto"][..], "begin with our driver"),
        (&["--storage", "auto"], "--device model:IMAGE"),
        (&["--device", "vfio-user:/x", "--storage", "auto"], "--fallback uring:IMAGE"),
        (&["--device", "model:/x", "--fallback", "uring:/x"], "goes with --storage auto"),
    ] {
        machine.run(args).refused(1, &[words]);
    }
}
