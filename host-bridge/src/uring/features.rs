//! What a kernel may refuse, tried and not guessed; and in which order it is gone without.
//!
//! Called when a reactor makes its rings. A combination is made, really, and kept if the kernel
//! takes it. If the kernel refuses it,
//! each property is left out alone, in the order of [`KNOWN`], until what is left is taken: that
//! property was at fault. If no single one was, the first in the order goes, and it begins again.
//! Every step is a [`Step`], one line with the reason and the fix; none is silent.

use std::fmt;
use std::path::Path;

use rustix::io::Errno;

use super::error::UringError;
use crate::memory::{memlock_limit, user_name};
use crate::sys::uring::Features;

/// A property, the first kernel that has it, and what is lost without.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The property.
    pub feature: Features,
    /// As the kernel's headers have it.
    pub name: &'static str,
    /// First kernel: major, minor.
    pub since: (u32, u32),
    /// What happens without it.
    pub without: &'static str,
    /// What makes it possible on a kernel that has it.
    pub fix: &'static str,
}

const fn known(
    feature: Features,
    name: &'static str,
    since: (u32, u32),
    without: &'static str,
    fix: &'static str,
) -> Known {
    Known { feature, name, since, without, fix }
}

/// All of them, in the order in which they are gone without.
pub const KNOWN: [Known; 11] = [
    known(
        Features::DEFER_TASKRUN,
        "DEFER_TASKRUN",
        (6, 1),
        "completions run when the thread enters the kernel for whatever reason",
        "it goes with SINGLE_ISSUER and without SQPOLL only",
    ),
    known(
        Features::COOP_TASKRUN,
        "COOP_TASKRUN",
        (5, 19),
        "completions interrupt the reactor's thread",
        "it goes without SQPOLL only",
    ),
    known(
        Features::SINGLE_ISSUER,
        "SINGLE_ISSUER",
        (6, 0),
        "the kernel takes locks for other submitters",
        "the ring must be used by one thread",
    ),
    known(
        Features::RESTRICTED,
        "R_DISABLED with restrictions",
        (5, 10),
        "the ring takes any operation, not only those that the reactor uses",
        "nothing; it is a second fence only",
    ),
    known(
        Features::SQPOLL_CPU,
        "SQ_AFF",
        (5, 1),
        "the kernel's thread runs on any cpu",
        "name a cpu that is online and in this process's cpuset (--uring-sqpoll CPU)",
    ),
    known(Features::ATTACH, "ATTACH_WQ", (5, 6), "each ring has a thread of its own", "nothing"),
    known(
        Features::SQPOLL,
        "SQPOLL",
        (5, 11),
        "each batch of submissions costs a system call",
        "before Linux 5.11 it needs root",
    ),
    known(
        Features::IOPOLL,
        "IOPOLL",
        (5, 1),
        "completions come by interrupt",
        "direct I/O on a device with poll queues (nvme.poll_queues=N on the kernel's command line)",
    ),
    known(
        Features::FIXED_BUFFERS,
        "registered buffers",
        (5, 1),
        "pages are looked up and pinned for each transfer",
        "raise RLIMIT_MEMLOCK (ulimit -l unlimited)",
    ),
    known(
        Features::FIXED_FILES,
        "registered files",
        (5, 1),
        "each operation takes a reference to its file",
        "raise RLIMIT_NOFILE (ulimit -n)",
    ),
    known(
        Features::BIG,
        "SQE128 with CQE32",
        (5, 19),
        "NVMe passthrough is not to be had",
        "use uring:/dev/nvmeXnY instead",
    ),
];

/// Something that was wanted and is gone without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What.
    pub what: &'static str,
    /// Why, the kernel's error included.
    pub why: String,
    /// What is lost.
    pub without: &'static str,
    /// What would help.
    pub fix: &'static str,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, why, without, fix } = self;
        write!(f, "io_uring without {what}: {why}; {without}; {fix}")
    }
}

impl Step {
    /// The step that leaves `feature` out.
    #[must_use]
    pub fn without(feature: Features, why: String) -> Self {
        let known = KNOWN.iter().find(|known| known.feature == feature).unwrap_or(&KNOWN[0]);
        let Known { name, without, fix, .. } = *known;
        Self { what: name, why, without, fix }
    }
}

/// What the kernel takes of what was wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled<T> {
    /// That.
    pub features: Features,
    /// What was made with it.
    pub made: T,
    /// What it does not take.
    pub steps: Vec<Step>,
}

/// The running kernel, and what it says about io_uring; tests have another one.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its release: `6.1.0-13-amd64`.
    pub release: String,
    /// `kernel.io_uring_disabled`, where there is such a setting.
    pub disabled: Option<u32>,
    /// `kernel.io_uring_group`.
    pub group: Option<i64>,
}

impl Kernel {
    /// The one below `root`, which is `/` but for tests.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        let line = |path: &str| {
            let text = std::fs::read_to_string(root.join("proc/sys/kernel").join(path)).ok()?;
            Some(text.trim().to_owned())
        };
        Self {
            release: line("osrelease").unwrap_or_default(),
            disabled: line("io_uring_disabled").and_then(|text| text.parse().ok()),
            group: line("io_uring_group").and_then(|text| text.parse().ok()),
        }
    }

    /// Major and minor number.
    #[must_use]
    pub fn version(&self) -> (u32, u32) {
        let mut numbers = self.release.split(|c: char| !c.is_ascii_digit());
        let mut next = || numbers.next().and_then(|text| text.parse().ok()).unwrap_or(0);
        (next(), next())
    }

    /// Why not even a plain ring can be made.
    #[must_use]
    pub fn explain(&self, errno: Errno) -> UringError {
        match (errno, self.disabled) {
            (Errno::PERM, Some(1)) => UringError::NotInGroup { group: self.group.unwrap_or(-1) },
            (Errno::PERM, Some(value)) if value != 0 => UringError::SwitchedOff { value },
            (Errno::PERM | Errno::ACCESS, _) => UringError::Forbidden { errno },
            (Errno::NOSYS, _) => UringError::Absent { release: self.release.clone() },
            (Errno::NOMEM, _) => UringError::Memlock {
                errno,
                limit: memlock_limit()
                    .map_or_else(|| "unlimited".to_owned(), |bytes| format!("{bytes} bytes")),
                user: user_name(Path::new("/")),
            },
            _ => UringError::Ring { what: "a plain ring cannot be made", errno },
        }
    }

    /// Why this property was refused.
    fn reason(&self, known: &Known, errno: Errno, others: Features) -> String {
        let (major, minor) = known.since;
        if self.version() < known.since {
            return format!(
                "Linux {} has it not, Linux {major}.{minor} has ({errno})",
                self.release
            );
        }
        let beside: Vec<_> = KNOWN
            .iter()
            .filter(|other| others.contains(other.feature))
            .map(|other| other.name)
            .collect();
        if beside.is_empty() {
            return format!("the kernel refuses it ({errno})");
        }
        format!("the kernel refuses it beside {} ({errno})", beside.join(", "))
    }
}

/// Properties that belong to another one and go with it.
const fn companions(feature: Features) -> Features {
    match feature {
        Features::SQPOLL => Features::SQPOLL_CPU.union(Features::ATTACH),
        Features::SINGLE_ISSUER => Features::DEFER_TASKRUN,
        _ => Features::empty(),
    }
}

/// Finds what the kernel takes of `wish`. `needed` is never left out; `attempt` makes a ring, or
/// whatever shows that the kernel takes it.
///
/// # Errors
/// [`UringError`] if not even the needed properties can be had.
pub fn settle<T>(
    wish: Features,
    needed: Features,
    kernel: &Kernel,
    mut attempt: impl FnMut(Features) -> Result<T, Errno>,
) -> Result<Settled<T>, UringError> {
    let (mut features, mut steps) = (wish | needed, Vec::new());
    let mut errno = match attempt(features) {
        Ok(made) => return Ok(Settled { features, made, steps }),
        Err(errno) => errno,
    };
    attempt(needed).map_err(|errno| kernel.explain(errno))?;
    loop {
        let known = culprit(features, needed, &mut attempt);
        let Some(known) = known else {
            return Err(UringError::Ring { what: "the kernel refuses each combination", errno });
        };
        let left = features - known.feature - companions(known.feature);
        let why = kernel.reason(known, errno, left - needed);
        steps.push(Step::without(known.feature, why));
        let along = KNOWN.iter().filter(|other| {
            let gone = features - known.feature - left;
            gone.contains(other.feature)
        });
        let why = format!("it goes with {}", known.name);
        steps.extend(along.map(|other| Step::without(other.feature, why.clone())));
        features = left | needed;
        match attempt(features) {
            Ok(made) => return Ok(Settled { features, made, steps }),
            Err(next) => errno = next,
        }
    }
}

/// The property whose absence makes it work; else the first in the order.
fn culprit<T>(
    features: Features,
    needed: Features,
    attempt: &mut impl FnMut(Features) -> Result<T, Errno>,
) -> Option<&'static Known> {
    let mut candidates = KNOWN
        .iter()
        .filter(|known| features.contains(known.feature) && !needed.contains(known.feature));
    let first = candidates.clone().next();
    let alone = candidates.find(|known| {
        attempt((features - known.feature - companions(known.feature)) | needed).is_ok()
    });
    alone.or(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hybrid_conventions::Exit;

    fn kernel(release: &str) -> Kernel {
        Kernel { release: release.to_owned(), disabled: Some(0), group: None }
    }

    /// As Linux decides: what needs a newer kernel, and what does not go together.
    fn linux(version: (u32, u32)) -> impl FnMut(Features) -> Result<(), Errno> {
        move |features| {
            let has = |feature| features.contains(feature);
            let too_new = KNOWN.iter().any(|k| has(k.feature) && k.since > version);
            let taskrun = has(Features::COOP_TASKRUN) || has(Features::DEFER_TASKRUN);
            let apart = has(Features::SQPOLL) && taskrun
                || has(Features::DEFER_TASKRUN) && !has(Features::SINGLE_ISSUER)
                || has(Features::SQPOLL_CPU) && !has(Features::SQPOLL);
            if too_new || apart { Err(Errno::INVAL) } else { Ok(()) }
        }
    }

    #[test]
    fn a_new_kernel_gives_everything_that_goes_together() {
        let wish = Features::SINGLE_ISSUER | Features::DEFER_TASKRUN | Features::RESTRICTED;
        let settled = settle(wish, Features::empty(), &kernel("6.18.1"), linux((6, 18)));
        assert_eq!(
            settled.expect("taken"),
            Settled { features: wish, made: (), steps: Vec::new() }
        );
    }

    #[test]
    fn each_kernel_is_left_with_what_it_has_and_each_loss_is_a_line() {
        let wish = Features::SINGLE_ISSUER | Features::DEFER_TASKRUN | Features::RESTRICTED;
        for (release, version, left, lost) in [
            ("6.0.1", (6, 0), Features::SINGLE_ISSUER | Features::RESTRICTED, 1),
            ("5.15.0", (5, 15), Features::RESTRICTED, 2),
            ("5.4.0", (5, 4), Features::empty(), 3),
        ] {
            let settled = settle(wish, Features::empty(), &kernel(release), linux(version));
            let settled = settled.expect("a plain ring is there");
            assert_eq!(settled.features, left, "{release}");
            assert_eq!(settled.steps.len(), lost, "{release}: {:?}", settled.steps);
            for step in &settled.steps {
                let line = step.to_string();
                assert!(line.contains(release) || line.contains("it goes with"), "{line}");
            }
        }
    }

    #[test]
    fn a_combination_that_is_refused_names_the_one_at_fault_and_its_company() {
        let wish = Features::SQPOLL | Features::COOP_TASKRUN;
        let settled = settle(wish, Features::empty(), &kernel("6.18.1"), linux((6, 18)));
        let settled = settled.expect("one of them");
        assert_eq!(settled.features, Features::SQPOLL);
        assert_eq!(
            settled.steps[0].to_string(),
            "io_uring without COOP_TASKRUN: the kernel refuses it beside SQPOLL (Invalid argument \
             (os error 22)); completions interrupt the reactor's thread; it goes without SQPOLL \
             only"
        );
    }

    #[test]
    fn a_cpu_that_is_not_there_costs_the_pinning_only() {
        let wish = Features::SQPOLL | Features::SQPOLL_CPU | Features::ATTACH;
        let settled = settle(wish, Features::empty(), &kernel("6.18.1"), |features| {
            if features.contains(Features::SQPOLL_CPU) { Err(Errno::INVAL) } else { Ok(()) }
        });
        let settled = settled.expect("without the cpu");
        assert_eq!(settled.features, Features::SQPOLL | Features::ATTACH);
        assert!(settled.steps[0].to_string().contains("--uring-sqpoll CPU"));
    }

    #[test]
    fn every_subset_ends_with_a_ring_whatever_the_kernel() {
        let all = Features::all() - Features::BIG;
        for bits in 0..=all.bits() {
            let Some(wish) = Features::from_bits(bits).filter(|wish| all.contains(*wish)) else {
                continue;
            };
            for version in [(5, 4), (5, 12), (6, 0), (6, 18)] {
                let release = format!("{}.{}.0", version.0, version.1);
                let mut attempt = linux(version);
                let settled = settle(wish, Features::empty(), &kernel(&release), linux(version));
                let settled = settled.expect("a plain ring is there");
                assert_eq!(attempt(settled.features), Ok(()), "{wish:?} on {release}");
                assert_eq!(settled.steps.is_empty(), settled.features == wish);
            }
        }
    }

    #[test]
    fn without_io_uring_the_error_says_who_forbids_it_and_what_to_do() {
        let refused = |errno, disabled| {
            let kernel = Kernel { disabled, ..kernel("6.6.0") };
            let attempt = |_| Err::<(), _>(errno);
            settle(Features::SQPOLL, Features::empty(), &kernel, attempt).expect_err("refused")
        };
        for (errno, disabled, words) in [
            (Errno::PERM, Some(2), "sysctl kernel.io_uring_disabled=0"),
            (Errno::PERM, Some(1), "kernel.io_uring_group"),
            (Errno::PERM, Some(0), "seccomp"),
            (Errno::PERM, None, "seccomp"),
            (Errno::NOSYS, None, "needs Linux 5.11"),
            (Errno::NOMEM, Some(0), "memlock unlimited"),
        ] {
            let error = refused(errno, disabled);
            assert!(error.to_string().contains(words), "{errno}: {error}");
            assert_eq!(error.exit(), Exit::Missing);
        }
        assert_eq!(refused(Errno::INVAL, None).exit(), Exit::Error);
    }

    #[test]
    fn what_is_needed_is_never_given_up() {
        let attempt = |features: Features| {
            if features.contains(Features::BIG) { Err(Errno::INVAL) } else { Ok(()) }
        };
        let settled = settle(Features::empty(), Features::BIG, &kernel("5.15.0"), attempt);
        assert!(matches!(settled, Err(UringError::Ring { errno: Errno::INVAL, .. })));
    }

    #[test]
    fn the_documentation_has_the_same_table() {
        let text = include_str!("../../../docs/uring.md");
        let mut at = 0;
        for Known { name, since: (major, minor), without, .. } in KNOWN {
            let row = format!("| {name} | {major}.{minor} | {without} |");
            let found = text.find(&row).unwrap_or_else(|| panic!("docs/uring.md lacks {row}"));
            assert!(found > at, "{name} is out of order");
            at = found;
        }
    }

    #[test]
    fn this_kernel_is_read() {
        let kernel = Kernel::read(Path::new("/"));
        assert!(kernel.version() > (4, 0), "{kernel:?}");
        assert_eq!(Kernel { release: "6.1".into(), ..kernel }.version(), (6, 1));
    }
}
