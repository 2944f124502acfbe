//! The supervisor over partitions that are scripts.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use super::fallback::Fallback;
use super::policy::{Limits, Phase, Polled};
use super::restart::{BackOff, RestartPolicy};
use super::*;
use crate::testing::TempDir;

/// What a scripted partition does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Script {
    /// Dies at its third look.
    Crash,
    /// Makes no pass; ends when asked for a dump.
    Hang,
    /// Makes no pass, and hears nothing.
    Deaf,
    /// Blames its device at its third look.
    Blames,
    /// Ends in order.
    Done,
    /// Runs on; ends when asked for a dump.
    Ill,
    /// Runs until it is asked to end.
    Obedient,
    /// Runs for ever.
    Fine,
}

struct Actor {
    number: u64,
    script: Script,
    looks: u64,
    ended: bool,
    held: u32,
    told: Rc<RefCell<Vec<&'static str>>>,
}

impl Actor {
    fn is_well(&self) -> bool {
        matches!(self.script, Script::Done | Script::Obedient)
    }
}

impl Incarnation for Actor {
    fn name(&self) -> &str {
        "feed"
    }

    fn number(&self) -> u64 {
        self.number
    }

    fn pid(&self) -> Option<u32> {
        Some(100)
    }

    fn look(&mut self) -> Look {
        self.looks += 1;
        let moves = !matches!(self.script, Script::Hang | Script::Deaf);
        let dies = matches!(self.script, Script::Crash | Script::Blames | Script::Done);
        let dies = dies && self.looks > 3;
        self.ended |= dies;
        let task = (!moves).then_some(Polled { number: 2, age: Duration::from_secs(5) });
        let passes = if moves { self.looks * 100 } else { 0 };
        Look { ended: self.ended, stopped: false, phase: Phase::Running, passes, task }
    }

    fn task_name(&self, number: u32) -> Option<String> {
        (number == 2).then(|| "spin".to_owned())
    }

    fn wait(&mut self, _: Duration) {}

    fn ask_to_stop(&mut self) {
        self.told.borrow_mut().push("stop");
        self.ended |= self.script == Script::Obedient;
    }

    fn ask_for_dump(&mut self) -> io::Result<()> {
        self.told.borrow_mut().push("dump");
        self.ended |= matches!(self.script, Script::Hang | Script::Ill);
        Ok(())
    }

    fn kill(&mut self) -> io::Result<()> {
        self.told.borrow_mut().push("kill");
        self.ended = true;
        Ok(())
    }

    fn fence(&mut self) -> Fence {
        assert!(self.ended, "asked before its end");
        self.told.borrow_mut().push("fence");
        if self.held > 0 {
            self.held -= 1;
            return Fence::Held("device or resource busy".to_owned());
        }
        Fence::Free(if self.is_well() { Ending::Done } else { Ending::Killed })
    }

    fn evidence(&mut self, fenced: bool, killed: Option<Cause>) -> Evidence {
        self.told.borrow_mut().push(if fenced { "read" } else { "read the region" });
        let ending = match self.script {
            _ if self.is_well() => Ending::Done,
            Script::Blames => Ending::DeviceGone,
            _ => Ending::Crashed,
        };
        let reason = killed.map_or("panic", Cause::word).to_owned();
        let dump = (ending == Ending::Crashed).then(|| b"HYDUMP".to_vec());
        Evidence { ending, reason, what: "index 9 of 8".to_owned(), task: None, dump }
    }
}

struct Stage {
    told: Rc<RefCell<Vec<&'static str>>>,
    lines: Arc<Mutex<Vec<String>>>,
    counters: Counters,
    temp: TempDir,
}

impl Stage {
    fn new() -> Self {
        Self {
            told: Rc::default(),
            lines: Arc::default(),
            counters: Counters::default(),
            temp: TempDir::new("supervisor"),
        }
    }

    /// Plays the scripts, one an incarnation, until supervision is over or `Fine` runs.
    fn play(&self, scripts: &[Script], held: u32, options: SupervisionOptions) -> Status {
        self.play_with(scripts, held, options, |_| {})
    }

    /// As [`Stage::play`]; `each` sees what every start comes after.
    fn play_with(
        &self,
        scripts: &[Script],
        held: u32,
        options: SupervisionOptions,
        each: impl Fn(Option<&Next<Actor>>),
    ) -> Status {
        let lines = Arc::clone(&self.lines);
        let alerts = Alerts::to(move |alert| lines.lock().expect("lock").push(alert.to_string()));
        let (mut next, told) = (scripts.iter(), Rc::clone(&self.told));
        let mut number = 0;
        let starter = Box::new(move |before: Option<Next<Actor>>| {
            assert_eq!(before.is_some(), number > 0, "the one before comes along");
            each(before.as_ref());
            number += 1;
            told.borrow_mut().push("start");
            let script = *next.next().expect("a script");
            let told = Rc::clone(&told);
            Ok(Actor { number, script, looks: 0, ended: false, held, told })
        });
        let mut supervisor =
            Supervisor::start(options, alerts, self.counters.clone(), starter).expect("a start");
        let begun = Instant::now();
        loop {
            let status = supervisor.poll();
            let current = supervisor.current();
            let fine = current.is_some_and(|now| now.script == Script::Fine && now.looks > 50);
            if fine || matches!(status, Status::Over(_)) {
                return status;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", self.told);
            std::thread::yield_now();
        }
    }

    fn options(&self) -> SupervisionOptions {
        let limits = Limits {
            heartbeat: Duration::from_millis(5),
            escalate: Duration::from_millis(5),
            task: None,
            dump: Duration::from_millis(10),
            fence: Duration::from_millis(50),
            passes: 0,
            ..Limits::default()
        };
        let back_off = BackOff { first: Duration::from_millis(1), cap: Duration::from_millis(2) };
        let options = SupervisionOptions { limits, back_off, ..SupervisionOptions::default() };
        options.with_dumps(self.temp.path().join("dumps"))
    }

    fn told(&self) -> String {
        self.told.borrow().join(" ")
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("lock").clone()
    }
}

#[test]
fn a_crash_is_fenced_read_saved_told_and_answered_with_a_restart() {
    let stage = Stage::new();
    let status = stage.play(&[Script::Crash, Script::Fine], 2, stage.options());
    assert_eq!(status, Status::Alive);
    assert_eq!(stage.told(), "start fence fence fence read start");
    let dumps: Vec<_> = std::fs::read_dir(stage.temp.path().join("dumps"))
        .expect("the directory")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    assert_eq!(std::fs::read(&dumps[0]).expect("a dump"), b"HYDUMP");
    let lines = stage.lines();
    let died = format!(
        "alert: partition feed (pid 100, incarnation 1) died: index 9 of 8; dump {}; started \
         again at once (crash 1, 5 are allowed)",
        dumps[0].display()
    );
    assert_eq!(lines, [died, "note: partition feed (pid 100, incarnation 2) runs".to_owned()]);
    assert_eq!((stage.counters.restarts(), stage.counters.dumps()), (1, 1));
}

#[test]
fn a_hang_is_alarmed_asked_and_started_again() {
    let stage = Stage::new();
    stage.play(&[Script::Hang, Script::Fine], 0, stage.options());
    assert_eq!(stage.told(), "start dump fence read start");
    let lines = stage.lines();
    assert!(lines[0].contains("is silent") && lines[0].contains("polling task spin"), "{lines:?}");
    assert!(lines[1].contains("is asked for a dump (silent), polling task spin"), "{lines:?}");
    assert!(lines[2].contains("-1-silent.hycrash; started again at once"), "{lines:?}");
}

#[test]
fn one_that_hears_nothing_is_killed() {
    let stage = Stage::new();
    stage.play(&[Script::Deaf, Script::Fine], 0, stage.options());
    assert_eq!(stage.told(), "start dump kill fence read start");
    assert!(stage.lines()[2].contains("is killed (silent): no dump after 10.0 ms"));
}

#[test]
fn one_that_calls_itself_critically_ill_is_asked_for_a_dump_and_started_again() {
    let stage = Stage::new();
    let options = stage.options();
    let sink = options.criticals.sink(&crate::warnings::Warnings::to(|_| {}));
    sink.tell(&crate::alert::PartitionAlert::critical_of("feed"));
    stage.play(&[Script::Ill, Script::Fine], 0, options);
    assert_eq!(stage.told(), "start dump fence read start");
    let lines = stage.lines();
    assert!(lines[0].ends_with("says: critical alert 7: the book is torn"), "{lines:?}");
    assert!(lines[2].contains("-1-critical-alert.hycrash; started again"), "{lines:?}");
}

#[test]
fn one_that_is_asked_to_restart_ends_in_order_and_runs_again_whatever_the_policy_is() {
    let stage = Stage::new();
    let options = SupervisionOptions { restart: RestartPolicy::Never, ..stage.options() };
    options.requests.ask(Asked::Restart);
    let status = stage.play(&[Script::Obedient, Script::Fine], 0, options);
    assert_eq!(status, Status::Alive);
    assert_eq!(stage.told(), "start stop fence read start");
    let who = |number| format!("note: partition feed (pid 100, incarnation {number})");
    assert_eq!(
        stage.lines(),
        [format!("{} is asked to end (restart)", who(1)), format!("{} runs", who(2))]
    );
    assert_eq!((stage.counters.restarts(), stage.counters.dumps()), (1, 0));
}

#[test]
fn one_that_crashes_on_its_way_to_a_restart_has_crashed() {
    let stage = Stage::new();
    let options = stage.options();
    options.requests.ask(Asked::Restart);
    stage.play(&[Script::Crash, Script::Fine], 0, options);
    let lines = stage.lines();
    assert!(lines[1].contains("died: index 9 of 8"), "{lines:?}");
}

#[test]
fn one_that_is_drained_is_not_started_again() {
    let stage = Stage::new();
    let options = SupervisionOptions { restart: RestartPolicy::Always, ..stage.options() };
    options.requests.ask(Asked::Drain);
    // Too late: it is on its way to its end.
    options.requests.ask(Asked::Restart);
    let status = stage.play(&[Script::Obedient], 0, options);
    assert_eq!(status, Status::Over(Over::Ended(Ending::Done)));
    assert_eq!(stage.told(), "start stop fence read");
}

#[test]
fn success_is_the_end_without_a_word() {
    let stage = Stage::new();
    let status = stage.play(&[Script::Done], 0, stage.options());
    assert_eq!(status, Status::Over(Over::Ended(Ending::Done)));
    assert_eq!(stage.lines(), [""; 0]);
    assert!(!stage.temp.path().join("dumps").exists(), "nothing to keep");
}

#[test]
fn a_crash_loop_ends_and_says_which_flag_rules_it() {
    let stage = Stage::new();
    let options = SupervisionOptions { limit: "2/1m".parse().expect("a limit"), ..stage.options() };
    let status = stage.play(&[Script::Crash; 9], 0, options);
    assert_eq!(status, Status::Over(Over::CrashLoop(Ending::Crashed, 3)));
    let last = stage.lines().pop().expect("lines");
    assert!(
        last.contains("incarnation 3) died") && last.ends_with("see --restart-limit"),
        "{last}"
    );
    assert_eq!(stage.counters.dumps(), 3);
}

#[test]
fn a_device_that_stays_away_ends_it_and_only_the_region_is_read() {
    let stage = Stage::new();
    let status = stage.play(&[Script::Crash], u32::MAX, stage.options());
    assert_eq!(status, Status::Over(Over::NotFenced(Ending::Crashed)));
    assert!(stage.told().ends_with("fence read the region"), "{}", stage.told());
    let last = stage.lines().pop().expect("lines");
    assert!(last.contains("its device did not become free"), "{last}");
}

#[test]
fn a_dump_that_cannot_be_saved_is_a_warning_and_the_partition_runs_again() {
    let stage = Stage::new();
    stage.temp.write("dumps", "a file in the way");
    stage.play(&[Script::Crash, Script::Fine], 0, stage.options());
    let lines = stage.lines();
    assert!(lines[0].starts_with("warning: the crash dump is not saved: making "), "{lines:?}");
    assert!(lines[1].contains("its dump could not be saved; started again"), "{lines:?}");
}

#[test]
fn without_a_directory_no_dump_is_kept_and_never_is_never() {
    let stage = Stage::new();
    let restart = RestartPolicy::Never;
    let options = SupervisionOptions { store: None, restart, ..stage.options() };
    let status = stage.play(&[Script::Crash], 0, options);
    assert_eq!(status, Status::Over(Over::Ended(Ending::Crashed)));
    let lines = stage.lines();
    assert_eq!(
        lines,
        ["alert: partition feed (pid 100, incarnation 1) died: index 9 of 8; not started again"]
    );
}

#[test]
fn a_device_at_fault_is_replaced_once_whatever_the_restart_policy_says() {
    for policy in [RestartPolicy::Never, RestartPolicy::OnAbnormal, RestartPolicy::Always] {
        let stage = Stage::new();
        let fallback = Fallback::to("model:a", "uring:a");
        let options = SupervisionOptions {
            restart: policy,
            limit: "0/1m".parse().expect("a limit"),
            fallback: fallback.clone(),
            ..SupervisionOptions::default()
        };
        let taken = fallback.clone();
        let status = stage.play_with(&[Script::Blames, Script::Fine], 0, options, move |next| {
            if next.is_some_and(|next| next.ending.blames_device()) {
                assert!(taken.take(), "once");
            }
        });
        assert_eq!(status, Status::Alive, "{policy}");
        assert!(fallback.is_taken());
        assert_eq!((stage.counters.fallbacks(), stage.counters.restarts()), (1, 1));
        let lines = stage.lines.lock().expect("lock");
        let [line] = &lines[..] else { panic!("not one line: {lines:?}") };
        let (begin, end) =
            line.split_once(" (").and_then(|(_, rest)| rest.split_once(" (")).expect(line);
        assert_eq!(
            begin,
            "pid 100, incarnation 1) lost its device: index 9 of 8; it goes on with uring:a \
             instead of model:a"
        );
        assert!(end.ends_with(" of it the fence), until it is started anew"), "{line}");
    }
}

#[test]
fn what_was_taken_is_not_there_a_second_time() {
    let stage = Stage::new();
    let fallback = Fallback::to("model:a", "uring:a");
    let options =
        SupervisionOptions { fallback: fallback.clone(), ..SupervisionOptions::default() };
    let options = SupervisionOptions { restart: RestartPolicy::OnAbnormal, ..options };
    let scripts = [Script::Blames, Script::Blames];
    let status = stage.play_with(&scripts, 0, options, move |next| {
        assert_eq!(next.is_some(), next.is_some() && fallback.take());
    });
    assert_eq!(status, Status::Over(Over::Ended(Ending::DeviceGone)));
    assert_eq!(stage.counters.fallbacks(), 1);
    let lines = stage.lines.lock().expect("lock");
    assert!(lines[1].ends_with("; not started again"), "{lines:?}");
}
