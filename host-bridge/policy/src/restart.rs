//! Whether a partition is started again, and after how long.
//!
//! Called by [`super::policy`]. Pure; times are since any fixed moment. The first restart comes
//! at once: a crash is rare, and its users wait. Each one that follows within the window waits
//! twice as long as the one before, up to a cap, and one crash too many in the window is the
//! last: a partition that cannot run must not keep a machine busy with its deaths.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use hybrid_conventions::{Nanos, TimeUnit};

use super::policy::Ending;

/// After which ends a partition is started again: systemd's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Never.
    Never,
    /// After a crash, a kill, or a wish for a reset; not after an error that the partition itself
    /// came to in order, which another start would only repeat.
    OnAbnormal,
    /// After every end but success.
    #[default]
    OnFailure,
    /// After success too.
    Always,
}

/// A word that is no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no restart policy; allowed are never, on-abnormal, on-failure and always")]
pub struct UnknownPolicy(String);

impl FromStr for RestartPolicy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        match text {
            "never" | "no" => Ok(Self::Never),
            "on-abnormal" => Ok(Self::OnAbnormal),
            "on-failure" => Ok(Self::OnFailure),
            "always" => Ok(Self::Always),
            other => Err(UnknownPolicy(other.to_owned())),
        }
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Never => "never",
            Self::OnAbnormal => "on-abnormal",
            Self::OnFailure => "on-failure",
            Self::Always => "always",
        })
    }
}

/// At most `crashes` in `window`: the next one is the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrashLimit {
    /// How many are answered with a restart.
    pub crashes: u32,
    /// Within this time.
    pub window: Duration,
}

impl Default for CrashLimit {
    fn default() -> Self {
        Self { crashes: 5, window: Duration::from_secs(60) }
    }
}

/// A text that is no crash limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no restart limit; write CRASHES/WINDOW, such as 5/1m or 100/1h, or off for no limit"
)]
pub struct BadLimit(String);

impl CrashLimit {
    /// No limit.
    pub const OFF: Self = Self { crashes: u32::MAX, window: Duration::ZERO };

    fn parse(text: &str) -> Option<Self> {
        if text == "off" {
            return Some(Self::OFF);
        }
        let (crashes, window) = text.split_once('/')?;
        let window = Nanos::parse(window, TimeUnit::Second).ok()?.to_duration();
        let crashes = crashes.trim().parse().ok()?;
        (!window.is_zero()).then_some(Self { crashes, window })
    }
}

impl FromStr for CrashLimit {
    type Err = BadLimit;

    fn from_str(text: &str) -> Result<Self, BadLimit> {
        Self::parse(text.trim()).ok_or_else(|| BadLimit(text.to_owned()))
    }
}

impl fmt::Display for CrashLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::OFF {
            return f.write_str("off");
        }
        let window = u64::try_from(self.window.as_nanos()).unwrap_or(u64::MAX);
        write!(f, "{}/{}", self.crashes, Nanos(window))
    }
}

/// How long restarts wait, from the second one in the window on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackOff {
    /// The first wait.
    pub first: Duration,
    /// The longest.
    pub cap: Duration,
}

impl Default for BackOff {
    fn default() -> Self {
        Self { first: Duration::from_millis(100), cap: Duration::from_secs(10) }
    }
}

impl BackOff {
    /// The wait before the restart that answers the `nth` crash of the window, from 1.
    #[must_use]
    pub fn delay(&self, nth: u32) -> Duration {
        match nth.checked_sub(2) {
            None => Duration::ZERO,
            Some(doublings) => {
                let factor = 1_u32.checked_shl(doublings.min(31)).unwrap_or(u32::MAX);
                self.first.saturating_mul(factor).min(self.cap)
            }
        }
    }
}

/// What comes after an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// A restart, after this time.
    Restart(Duration),
    /// Nothing: the policy says so.
    Enough,
    /// Nothing: so many crashes are too many.
    CrashLoop(u32),
}

/// Policy, limit and memory of the crashes that count.
#[derive(Clone, Debug)]
pub struct Restarts {
    policy: RestartPolicy,
    limit: CrashLimit,
    back_off: BackOff,
    /// When, and whether it was a crash, oldest first; those of the window, and never more than
    /// decide anything.
    ends: VecDeque<(Duration, bool)>,
}

/// Ends kept where no limit asks for more: a back-off is at its cap long before.
const KEPT: usize = 64;

impl Restarts {
    /// Without a crash yet.
    #[must_use]
    pub const fn new(policy: RestartPolicy, limit: CrashLimit, back_off: BackOff) -> Self {
        Self { policy, limit, back_off, ends: VecDeque::new() }
    }

    /// Crashes that count at the moment.
    #[must_use]
    pub fn recent(&self) -> u32 {
        count(self.ends.iter().filter(|(_, crash)| *crash))
    }

    /// What comes after this end.
    pub fn decide(&mut self, now: Duration, ending: Ending) -> Decision {
        let crash = ending != Ending::Done;
        match self.policy {
            RestartPolicy::Never => return Decision::Enough,
            RestartPolicy::OnAbnormal if !ending.is_abnormal() => return Decision::Enough,
            RestartPolicy::OnFailure if !crash => return Decision::Enough,
            // An end in success is no crash, but a loop of them must not spin either.
            RestartPolicy::OnAbnormal | RestartPolicy::OnFailure | RestartPolicy::Always => {}
        }
        let (window, kept) = match self.limit {
            // Without a limit the default window rules the back-off.
            CrashLimit::OFF => (CrashLimit::default().window, KEPT),
            limit => (limit.window, KEPT.max(limit.crashes as usize + 1)),
        };
        while self.ends.front().is_some_and(|(at, _)| now.saturating_sub(*at) >= window) {
            self.ends.pop_front();
        }
        self.ends.push_back((now, crash));
        if self.ends.len() > kept {
            self.ends.pop_front();
        }
        let recent = self.recent();
        if crash && recent > self.limit.crashes {
            return Decision::CrashLoop(recent);
        }
        Decision::Restart(self.back_off.delay(count(self.ends.iter())))
    }
}

fn count<T>(ends: impl Iterator<Item = T>) -> u32 {
    u32::try_from(ends.count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn restarts(policy: RestartPolicy, limit: &str) -> Restarts {
        Restarts::new(policy, limit.parse().expect("a limit"), BackOff::default())
    }

    #[test]
    fn every_policy_answers_every_end() {
        use Ending as E;
        for ending in E::ALL {
            let decide = |policy| restarts(policy, "5/1m").decide(s(9), ending);
            let again = Decision::Restart(Duration::ZERO);
            assert_eq!(decide(RestartPolicy::Never), Decision::Enough);
            assert_eq!(decide(RestartPolicy::Always), again);
            let abnormal = matches!(ending, E::Crashed | E::Killed | E::NeedsReset);
            let on_abnormal = if abnormal { again } else { Decision::Enough };
            assert_eq!(decide(RestartPolicy::OnAbnormal), on_abnormal, "{ending:?}");
            let on_failure = if ending == E::Done { Decision::Enough } else { again };
            assert_eq!(decide(RestartPolicy::OnFailure), on_failure, "{ending:?}");
        }
    }

    #[test]
    fn the_first_restart_comes_at_once_and_the_next_ones_wait_twice_as_long_each() {
        let mut restarts = restarts(RestartPolicy::OnFailure, "100/1m");
        let mut delay = || restarts.decide(s(1), Ending::Crashed);
        for expected in [0, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            assert_eq!(delay(), Decision::Restart(ms(expected)));
        }
        let back_off = BackOff::default();
        assert_eq!(back_off.delay(u32::MAX), s(10), "no overflow, the cap");
        assert_eq!(back_off.delay(0), Duration::ZERO);
    }

    #[test]
    fn one_crash_too_many_in_the_window_is_the_last() {
        let mut restarts = restarts(RestartPolicy::OnFailure, "2/10s");
        assert!(matches!(restarts.decide(s(0), Ending::Crashed), Decision::Restart(_)));
        assert!(matches!(restarts.decide(s(5), Ending::Killed), Decision::Restart(_)));
        assert_eq!(restarts.decide(s(9), Ending::Crashed), Decision::CrashLoop(3));
    }

    #[test]
    fn crashes_outside_the_window_are_forgotten() {
        let mut restarts = restarts(RestartPolicy::OnFailure, "2/10s");
        for at in [0, 6, 12, 18, 24, 1000] {
            let decision = restarts.decide(s(at), Ending::Crashed);
            assert!(matches!(decision, Decision::Restart(_)), "at {at} s: {decision:?}");
        }
        assert_eq!(restarts.recent(), 1);
        assert_eq!(restarts.decide(s(2000), Ending::Crashed), Decision::Restart(Duration::ZERO));
    }

    #[test]
    fn a_limit_of_none_answers_the_first_crash_with_the_end_and_off_never_ends() {
        let mut none = restarts(RestartPolicy::Always, "0/1s");
        assert_eq!(none.decide(s(1), Ending::Crashed), Decision::CrashLoop(1));
        let mut off = restarts(RestartPolicy::Always, "off");
        for n in 0..1000 {
            let decision = off.decide(ms(n), Ending::Crashed);
            assert!(matches!(decision, Decision::Restart(_)), "{n}: {decision:?}");
        }
        assert!(off.recent() as usize <= KEPT);
    }

    #[test]
    fn success_is_never_a_crash_loop_but_waits_all_the_same() {
        let mut restarts = restarts(RestartPolicy::Always, "1/10s");
        for _ in 0..5 {
            let decision = restarts.decide(s(1), Ending::Done);
            assert!(matches!(decision, Decision::Restart(_)), "{decision:?}");
        }
        assert_eq!(restarts.decide(s(1), Ending::Done), Decision::Restart(ms(1600)));
        assert_eq!(restarts.decide(s(1), Ending::Failed), Decision::Restart(ms(3200)));
        assert_eq!(restarts.decide(s(1), Ending::Failed), Decision::CrashLoop(2));
    }

    #[test]
    fn limits_and_policies_read_and_print_one_way() {
        for (text, crashes, window) in
            [("5/1m", 5, 60), ("0/30", 0, 30), (" 100/1h ", 100, 3600), ("3/90s", 3, 90)]
        {
            let limit: CrashLimit = text.parse().expect(text);
            assert_eq!(limit, CrashLimit { crashes, window: s(window) });
            assert_eq!(limit.to_string().parse(), Ok(limit));
        }
        assert_eq!("off".parse(), Ok(CrashLimit::OFF));
        assert_eq!(CrashLimit::OFF.to_string(), "off");
        for text in ["", "5", "/1m", "5/", "-1/1m", "5/0s", "5/1x", "x/1m"] {
            let line = text.parse::<CrashLimit>().expect_err(text).to_string();
            assert!(line.contains("such as 5/1m"), "{line}");
        }
        use RestartPolicy as P;
        for policy in [P::Never, P::OnAbnormal, P::OnFailure, P::Always] {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        let line = "sometimes".parse::<RestartPolicy>().expect_err("no").to_string();
        assert!(line.ends_with("allowed are never, on-abnormal, on-failure and always"), "{line}");
    }
}
