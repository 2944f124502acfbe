//! Tables over every state and event, the ways through by name, and a random walk.

use super::*;
use crate::restart::{BackOff, CrashLimit, RestartPolicy};

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn limits() -> Limits {
    Limits {
        heartbeat: ms(100),
        passes: 4,
        looks: 3,
        escalate: ms(50),
        task: Some(ms(200)),
        dump: ms(300),
        death: ms(400),
        fence: ms(500),
        start: ms(600),
        stop: ms(700),
    }
}

/// A partition to look at, every 10 ms.
struct Rig {
    policy: Policy,
    seen: Seen,
}

impl Rig {
    fn new() -> Self {
        Self::with(RestartPolicy::OnFailure, "2/10s")
    }

    fn with(policy: RestartPolicy, limit: &str) -> Self {
        let limit: CrashLimit = limit.parse().expect("a limit");
        let restarts = Restarts::new(policy, limit, BackOff::default());
        let seen = Seen {
            now: ms(1000),
            ended: false,
            stopped: false,
            phase: Phase::Running,
            passes: 0,
            task: None,
            killable: true,
            stop_asked: false,
        };
        let mut rig = Self { policy: Policy::new(limits(), restarts, seen.now), seen };
        rig.beat(5);
        rig
    }

    fn look(&mut self) -> Action {
        self.seen.now += ms(10);
        self.policy.step(&self.seen)
    }

    /// Looks without a pass until something is to be done; how long that took, and what.
    fn until_action(&mut self) -> (u64, Action) {
        let begun = self.seen.now;
        for _ in 0..1000 {
            let action = self.look();
            if action != Action::Wait {
                let took = self.seen.now - begun;
                return (u64::try_from(took.as_millis()).expect("small"), action);
            }
        }
        panic!("nothing for 10 s in {:?}", self.policy.state);
    }

    /// So many looks, 100 passes between each two.
    fn beat(&mut self, looks: u32) {
        for _ in 0..looks {
            self.seen.passes += 100;
            assert_eq!(self.look(), Action::Wait, "in {:?}", self.policy.state);
        }
    }

    fn end(&mut self, ending: Ending) {
        self.seen.ended = true;
        assert_eq!(self.look(), Action::Fence);
        self.policy.fenced(true, ending);
        assert_eq!(self.look(), Action::Save { fenced: true });
    }
}

fn alarm(cause: Cause, lasted: u64) -> Action {
    Action::Alarm { what: Alarm::Accused(cause), lasted: ms(lasted) }
}

#[test]
fn a_silent_partition_goes_the_whole_way_up_and_back_to_life() {
    let mut rig = Rig::new();
    assert_eq!(rig.until_action(), (100, alarm(Cause::Silent, 100)));
    assert_eq!(rig.until_action(), (50, Action::AskDump(Cause::Silent)));
    assert_eq!(rig.until_action(), (300, Action::Kill(Cause::Silent)));
    rig.seen.ended = true;
    assert_eq!(rig.until_action(), (10, Action::Fence));
    rig.policy.fenced(false, Ending::Killed);
    assert_eq!(rig.look(), Action::Fence, "not free yet: ask again");
    rig.policy.fenced(true, Ending::Killed);
    assert_eq!(rig.look(), Action::Save { fenced: true });
    assert_eq!(rig.policy.saved(rig.seen.now, None), Action::Delay(Duration::ZERO));
    assert_eq!(rig.look(), Action::Start);
    assert_eq!(rig.policy.started(rig.seen.now, true), Action::Wait);
    (rig.seen.ended, rig.seen.passes) = (false, 0);
    rig.beat(50);
}

#[test]
fn a_task_over_its_limit_is_asked_for_a_dump_without_waiting_for_the_alarm() {
    let mut rig = Rig::new();
    rig.policy.limits.heartbeat = ms(10_000);
    let begun = rig.seen.now;
    for _ in 0..20 {
        let age = rig.seen.now + ms(10) - begun;
        rig.seen.task = Some(Polled { number: 7, age });
        let action = rig.look();
        let expected = if age < ms(200) { Action::Wait } else { Action::AskDump(Cause::Task) };
        assert_eq!(action, expected, "at {age:?}");
    }
    assert_eq!(rig.until_action(), (300, Action::Kill(Cause::Task)));
}

#[test]
fn a_thread_is_accused_once_and_nothing_follows_until_it_moves() {
    let mut rig = Rig::new();
    rig.seen.killable = false;
    assert_eq!(rig.until_action(), (100, alarm(Cause::Silent, 100)));
    for _ in 0..500 {
        assert_eq!(rig.look(), Action::Wait);
    }
    rig.seen.passes += 100;
    assert!(matches!(rig.look(), Action::Clear { .. }));
    rig.beat(5);
    rig.policy.critical();
    assert_eq!(rig.look(), alarm(Cause::Critical, 0));
}

#[test]
fn a_task_that_is_alarmed_for_silence_first_is_still_asked_at_its_own_limit() {
    let mut rig = Rig::new();
    rig.policy.limits.escalate = ms(10_000);
    rig.seen.task = Some(Polled { number: 7, age: ms(9_999) });
    let (_, first) = rig.until_action();
    assert_eq!(first, alarm(Cause::Silent, 100));
    assert!(matches!(rig.until_action().1, Action::AskDump(Cause::Task)));
}

#[test]
fn a_task_s_age_counts_only_from_where_the_partition_could_run() {
    let mut rig = Rig::new();
    rig.seen.stopped = true;
    assert_eq!(rig.look(), Action::Alarm { what: Alarm::Stopped, lasted: Duration::ZERO });
    rig.seen.now += ms(60_000);
    rig.seen.stopped = false;
    rig.seen.task = Some(Polled { number: 1, age: ms(60_000) });
    assert_eq!(rig.look(), Action::Clear { what: Alarm::Stopped, lasted: ms(60_010) });
    let (after, action) = rig.until_action();
    assert_eq!((after, action), (100, alarm(Cause::Silent, 100)), "as if it began now");
}

#[test]
fn a_stopped_process_raises_one_alarm_and_is_never_escalated() {
    let mut rig = Rig::new();
    rig.seen.stopped = true;
    assert_eq!(rig.look(), Action::Alarm { what: Alarm::Stopped, lasted: Duration::ZERO });
    for _ in 0..10_000 {
        assert_eq!(rig.look(), Action::Wait);
    }
    rig.seen.stopped = false;
    assert_eq!(rig.look(), Action::Clear { what: Alarm::Stopped, lasted: ms(100_010) });
    rig.beat(50);
}

#[test]
fn a_stop_freezes_every_step_of_the_way_up_but_not_a_kill_that_was_sent() {
    for steps in 1..=2 {
        let mut rig = Rig::new();
        for _ in 0..steps {
            rig.until_action();
        }
        let before = rig.policy.state;
        rig.seen.stopped = true;
        assert_eq!(rig.look(), Action::Alarm { what: Alarm::Stopped, lasted: Duration::ZERO });
        for _ in 0..1000 {
            assert_eq!(rig.look(), Action::Wait, "stopped in {before:?}");
        }
        rig.seen.stopped = false;
        assert!(matches!(rig.look(), Action::Clear { what: Alarm::Stopped, .. }));
        let (after, action) = rig.until_action();
        match before {
            State::Alarmed(..) => assert_eq!((after, action), (100, alarm(Cause::Silent, 100))),
            _ => assert_eq!((after, action), (300, Action::Kill(Cause::Silent))),
        }
    }
    let mut rig = Rig::new();
    while !matches!(rig.look(), Action::Kill(_)) {}
    rig.seen.stopped = true;
    assert_eq!(rig.until_action().0, 400);
    assert_eq!(rig.policy.state, State::Killed(Cause::Silent, ms(1500), true));
}

#[test]
fn a_kill_without_a_death_is_told_once_and_waited_for() {
    let mut rig = Rig::new();
    while !matches!(rig.look(), Action::Kill(_)) {}
    let dies_not = Action::Alarm { what: Alarm::DoesNotDie, lasted: ms(400) };
    assert_eq!(rig.until_action(), (400, dies_not));
    for _ in 0..1000 {
        assert_eq!(rig.look(), Action::Wait);
    }
    rig.seen.ended = true;
    assert_eq!(rig.look(), Action::Fence);
}

#[test]
fn an_alarm_ends_when_the_loop_goes_on() {
    let mut rig = Rig::new();
    rig.until_action();
    rig.seen.passes += 1;
    let clear = Action::Clear { what: Alarm::Accused(Cause::Silent), lasted: ms(10) };
    assert_eq!(rig.look(), clear);
    rig.beat(50);
}

#[test]
fn a_crawling_loop_is_told_of_and_never_killed() {
    let mut rig = Rig::new();
    let mut actions = Vec::new();
    for n in 0..300 {
        // A pass every 50 ms: never silent, and two in a window of 100 ms.
        rig.seen.passes += u64::from(n % 5 == 0);
        match rig.look() {
            Action::Wait => {}
            action => actions.push(action),
        }
    }
    assert!(matches!(actions[..], [Action::Alarm { what: Alarm::Accused(Cause::Crawling), .. }]));
    for _ in 0..30 {
        rig.seen.passes += 100;
        match rig.look() {
            Action::Wait => {}
            action => actions.push(action),
        }
    }
    let over = Alarm::Accused(Cause::Crawling);
    assert!(matches!(actions[1..], [Action::Clear { what, .. }] if what == over), "{actions:?}");
}

#[test]
fn a_host_that_slept_accuses_nobody() {
    let mut rig = Rig::new();
    for _ in 0..100 {
        rig.seen.now += ms(60_000);
        rig.seen.passes += 1;
        rig.seen.task = Some(Polled { number: 3, age: ms(59_000) });
        assert_eq!(rig.look(), Action::Wait, "one look after a long sleep proves nothing");
        assert_eq!(rig.look(), Action::Wait);
    }
}

#[test]
fn one_that_calls_itself_critically_ill_goes_the_way_up_at_once() {
    let mut rig = Rig::new();
    rig.policy.critical();
    rig.seen.stopped = true;
    assert!(matches!(rig.look(), Action::Alarm { what: Alarm::Stopped, .. }));
    rig.seen.stopped = false;
    assert!(matches!(rig.look(), Action::Clear { .. }));
    assert_eq!(rig.look(), Action::AskDump(Cause::Critical));
    assert_eq!(rig.until_action(), (300, Action::Kill(Cause::Critical)));
    rig.policy.critical();
    rig.end(Ending::Killed);
    rig.policy.saved(rig.seen.now, None);
    assert_eq!(rig.look(), Action::Start);
    rig.policy.started(rig.seen.now, true);
    rig.seen.ended = false;
    rig.beat(9);
}

#[test]
fn starting_and_stopping_have_deadlines_of_their_own() {
    let mut rig = Rig::new();
    rig.seen.phase = Phase::Stopping;
    assert_eq!(rig.until_action(), (710, alarm(Cause::NotEnding, 700)));
    assert_eq!(rig.until_action(), (50, Action::AskDump(Cause::NotEnding)));

    let restarts = Restarts::new(RestartPolicy::Never, CrashLimit::OFF, BackOff::default());
    let mut rig = Rig::new();
    rig.policy = Policy::new(limits(), restarts, rig.seen.now);
    (rig.seen.phase, rig.seen.passes) = (Phase::Starting, 0);
    assert_eq!(rig.until_action(), (600, alarm(Cause::NotRunning, 600)));
    rig.seen.phase = Phase::Running;
    let over = Alarm::Accused(Cause::NotRunning);
    assert!(matches!(rig.look(), Action::Clear { what, .. } if what == over));
    rig.beat(20);
}

#[test]
fn without_a_free_device_nothing_is_started_and_only_the_region_is_saved() {
    let mut rig = Rig::new();
    rig.seen.ended = true;
    let begun = rig.seen.now;
    while rig.look() == Action::Fence {
        rig.policy.fenced(false, Ending::Crashed);
    }
    assert_eq!(rig.seen.now - begun, ms(520));
    assert_eq!(rig.look(), Action::Save { fenced: false });
    let over = Action::Over(Over::NotFenced(Ending::Crashed));
    assert_eq!(rig.policy.saved(rig.seen.now, None), over);
    assert_eq!(rig.look(), over, "for ever");
}

/// The host slept through the whole deadline: the device may have been free all the while.
#[test]
fn a_look_that_comes_late_asks_for_the_fence_before_it_gives_up() {
    let mut rig = Rig::new();
    rig.seen.ended = true;
    assert_eq!(rig.look(), Action::Fence);
    rig.policy.fenced(false, Ending::Crashed);
    rig.seen.now += ms(60_000);
    assert_eq!(rig.look(), Action::Fence);
    rig.policy.fenced(true, Ending::Crashed);
    assert_eq!(rig.look(), Action::Save { fenced: true });
}

#[test]
fn a_crash_loop_is_slowed_and_then_stopped() {
    let mut rig = Rig::new();
    for expected in [Action::Delay(Duration::ZERO), Action::Delay(ms(100))] {
        rig.end(Ending::Crashed);
        assert_eq!(rig.policy.saved(rig.seen.now, None), expected);
        while rig.look() != Action::Start {}
        assert_eq!(rig.policy.started(rig.seen.now, true), Action::Wait);
        rig.seen.ended = false;
    }
    rig.end(Ending::Crashed);
    let over = Over::CrashLoop(Ending::Crashed, 3);
    assert_eq!(rig.policy.saved(rig.seen.now, None), Action::Over(over));
    assert_eq!(rig.policy.over(), Some(over));
}

#[test]
fn a_start_that_fails_counts_as_an_end() {
    let mut rig = Rig::new();
    rig.end(Ending::NeedsReset);
    rig.policy.saved(rig.seen.now, None);
    assert_eq!(rig.look(), Action::Start);
    assert_eq!(rig.policy.started(rig.seen.now, false), Action::Delay(ms(100)));
    while rig.look() != Action::Start {}
    let over = Action::Over(Over::CrashLoop(Ending::NotStarted, 3));
    assert_eq!(rig.policy.started(rig.seen.now, false), over);
}

#[test]
fn after_the_host_s_wish_to_end_nothing_is_started() {
    for when in ["before", "while it waits"] {
        let mut rig = Rig::with(RestartPolicy::Always, "off");
        rig.seen.stop_asked = when == "before";
        rig.end(Ending::Crashed);
        let saved = rig.policy.saved(rig.seen.now, None);
        rig.seen.stop_asked = true;
        let over = Action::Over(Over::Ended(Ending::Crashed));
        assert_eq!(if when == "before" { saved } else { rig.look() }, over, "{when}");
    }
}

#[test]
fn what_the_dump_says_overrules_what_the_process_said() {
    let mut rig = Rig::with(RestartPolicy::Never, "off");
    rig.end(Ending::Killed);
    let over = Action::Over(Over::Ended(Ending::DeviceGone));
    assert_eq!(rig.policy.saved(rig.seen.now, Some(Ending::DeviceGone)), over);
}

/// Every state with every kind of look: what is done, and which state comes.
#[test]
fn every_state_answers_every_look() {
    use Action as A;
    let cause = Cause::Silent;
    let at = ms(5_000);
    let ended = Over::Ended(Ending::Done);
    let states = [
        State::Watching,
        State::Alarmed(cause, at),
        State::Asked(cause, at),
        State::Killed(cause, at, false),
        State::Killed(cause, at, true),
        State::Dead(at, false),
        State::Dead(at, true),
        State::Saving,
        State::SavingUnfenced,
        State::Delayed(at + ms(20)),
        State::Starting,
        State::Over(ended),
    ];
    let stopped = A::Alarm { what: Alarm::Stopped, lasted: Duration::ZERO };
    let clear = A::Clear { what: Alarm::Accused(cause), lasted: ms(10) };
    let waits = [A::Wait; 2];
    // For each state: quiet within its deadline, quiet beyond it, a pass, stopped, ended.
    let table = [
        (A::Wait, alarm(cause, 1_000), A::Wait, stopped, A::Fence),
        (A::Wait, A::AskDump(cause), clear, stopped, A::Fence),
        (A::Wait, A::Kill(cause), A::Wait, stopped, A::Fence),
        (
            A::Wait,
            A::Alarm { what: Alarm::DoesNotDie, lasted: ms(1_000) },
            A::Wait,
            A::Wait,
            A::Fence,
        ),
        (A::Wait, A::Wait, A::Wait, A::Wait, A::Fence),
        all(A::Fence),
        // Asked after the deadline, in vain.
        all(A::Save { fenced: false }),
        all(A::Save { fenced: true }),
        all(A::Save { fenced: false }),
        (waits[0], A::Start, waits[1], A::Wait, A::Wait),
        all(A::Start),
        all(A::Over(ended)),
    ];
    for (state, row) in states.into_iter().zip(table) {
        for (event, expected) in [row.0, row.1, row.2, row.3, row.4].into_iter().enumerate() {
            let mut rig = Rig::new();
            rig.policy.state = state;
            rig.policy.watch = Watch { looks: 9, phase: Phase::Running, ..Watch::new(at) };
            rig.policy.watch.passes = rig.seen.passes;
            rig.policy.watch.window.1 = rig.seen.passes;
            rig.seen.now = at + ms(10);
            match event {
                0 => {}
                1 => rig.seen.now = at + ms(1_000),
                2 => rig.seen.passes += 1,
                3 => rig.seen.stopped = true,
                _ => rig.seen.ended = true,
            }
            assert_eq!(rig.policy.step(&rig.seen), expected, "{state:?}, event {event}");
        }
    }
}

const fn all(action: Action) -> (Action, Action, Action, Action, Action) {
    (action, action, action, action, action)
}

/// Answers that nobody asked for change nothing.
#[test]
fn late_answers_are_ignored() {
    let mut rig = Rig::new();
    rig.policy.fenced(true, Ending::Done);
    assert_eq!(rig.policy.saved(rig.seen.now, None), Action::Wait);
    assert_eq!(rig.policy.started(rig.seen.now, true), Action::Wait);
    assert_eq!(rig.policy.state, State::Watching);
}

/// Random looks and answers, a million of them: the invariants of the module hold.
#[test]
fn no_walk_breaks_the_order_of_kill_fence_save_and_start() {
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random >> 33).expect("31 bits") % below
    };
    for walk in 0..2_000_usize {
        let policy = [RestartPolicy::Never, RestartPolicy::OnFailure, RestartPolicy::Always];
        let mut rig = Rig::with(policy[walk % 3], ["off", "2/10s"][walk % 2]);
        let (mut free, mut saved, mut starts) = (false, false, 0);
        for _ in 0..500 {
            rig.seen.now += ms(next(120) as u64);
            rig.seen.passes += [0, 0, 0, 1, 50][next(5)];
            rig.seen.stopped = next(10) == 0;
            rig.seen.ended |= next(40) == 0;
            rig.seen.stop_asked |= next(400) == 0;
            match rig.policy.step(&rig.seen) {
                Action::AskDump(_) | Action::Kill(_) => assert!(!rig.seen.stopped),
                Action::Fence => {
                    assert!(rig.seen.ended);
                    free = next(3) == 0;
                    rig.policy.fenced(free, Ending::ALL[next(7)]);
                }
                Action::Save { fenced } => {
                    assert_eq!(fenced, free, "read behind the fence");
                    saved = true;
                    rig.policy.saved(rig.seen.now, None);
                }
                Action::Start => {
                    assert!(free && saved && rig.seen.ended && !rig.seen.stop_asked);
                    let running = next(4) > 0;
                    rig.policy.started(rig.seen.now, running);
                    if running {
                        (free, saved) = (false, false);
                        (rig.seen.ended, rig.seen.passes) = (false, 0);
                        starts += 1;
                    }
                }
                Action::Over(_) => break,
                Action::Wait | Action::Delay(_) | Action::Alarm { .. } | Action::Clear { .. } => {}
            }
        }
        assert!(walk % 3 > 0 || starts == 0, "never is never");
    }
}

#[test]
fn a_device_at_fault_is_answered_at_once_where_there_is_other_storage() {
    for policy in [RestartPolicy::Never, RestartPolicy::OnAbnormal, RestartPolicy::OnFailure] {
        for ending in Ending::ALL {
            let mut rig = Rig::with(policy, "0/10s");
            rig.policy.fallback(true);
            rig.seen.ended = true;
            assert_eq!(rig.look(), Action::Fence);
            rig.policy.fenced(true, ending);
            assert_eq!(rig.look(), Action::Save { fenced: true });
            let answer = rig.policy.saved(rig.seen.now, None);
            if ending.blames_device() {
                assert_eq!(answer, Action::Delay(Duration::ZERO), "{policy}");
                assert_eq!(rig.look(), Action::Start);
            } else {
                assert!(matches!(answer, Action::Over(_)), "{policy} {ending:?}: {answer:?}");
            }
        }
    }
}

#[test]
fn a_crawl_that_ends_in_silence_is_asked_for_a_dump_no_later_than_any_other() {
    let mut rig = Rig::new();
    // A pass in 50 ms: a crawl.
    let mut actions = Vec::new();
    for look in 0..40 {
        rig.seen.passes += u64::from(look % 5 == 0);
        actions.push(rig.look());
    }
    let crawls = Action::Alarm { what: Alarm::Accused(Cause::Crawling), lasted: ms(100) };
    assert!(actions.contains(&crawls), "{actions:?}");
    // Then none at all.
    rig.seen.passes += 1;
    rig.look();
    let silent_since = rig.seen.now;
    let asked = (0..100).map(|_| rig.look()).find(|action| matches!(action, Action::AskDump(_)));
    assert_eq!(asked, Some(Action::AskDump(Cause::Silent)));
    let limit = limits().heartbeat + limits().escalate + ms(30);
    assert!(rig.seen.now - silent_since <= limit, "after {:?}", rig.seen.now - silent_since);
}
