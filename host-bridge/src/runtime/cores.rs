//! Which CPUs are the partitions', which are Linux's, and which are taken.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use hybrid_conventions::CpuSet;

use super::spec::CoreChoice;
use crate::error::RuntimeError;
use crate::topology::Topology;

/// Checks that partitions may have `cores`, and returns what is left for everything else: no
/// isolated CPU, unless nothing else is left.
pub(super) fn check(cores: CpuSet, topology: &Topology) -> Result<CpuSet, RuntimeError> {
    if cores.is_empty() {
        return Err(RuntimeError::NoCores);
    }
    let (online, allowed) = (topology.online, topology.allowed);
    if let Some(cpu) = cores.difference(online).first() {
        return Err(RuntimeError::NoSuchCore { cpu, online: Box::new(online) });
    }
    if allowed.len() < 2 {
        return Err(RuntimeError::OneCpu { allowed: Box::new(allowed) });
    }
    if let Some(cpu) = cores.difference(allowed).first() {
        return Err(RuntimeError::CoreNotAllowed { cpu, allowed: Box::new(allowed) });
    }
    let left = allowed.difference(cores);
    let shared = left.difference(topology.isolated);
    let housekeeping = if shared.is_empty() { left } else { shared };
    if housekeeping.is_empty() {
        return Err(RuntimeError::NoneLeftForLinux { cores: Box::new(cores) });
    }
    Ok(housekeeping)
}

/// The runtime's cores: one partition each.
#[derive(Clone, Debug)]
pub(super) struct Cores {
    all: CpuSet,
    taken: Arc<Mutex<Taken>>,
}

/// Which CPUs have a partition to themselves, and how many share each other one.
#[derive(Debug, Default)]
struct Taken {
    alone: CpuSet,
    shared: BTreeMap<u32, u32>,
}

/// A taken core; free again when dropped.
#[derive(Debug)]
pub(super) struct TakenCore {
    cpu: u32,
    shared: bool,
    for_ever: bool,
    taken: Arc<Mutex<Taken>>,
}

impl Cores {
    pub(super) fn new(all: CpuSet) -> Self {
        Self { all, taken: Arc::default() }
    }

    pub(super) const fn all(&self) -> CpuSet {
        self.all
    }

    pub(super) fn take(&self, choice: CoreChoice) -> Result<TakenCore, RuntimeError> {
        let wanted = match choice {
            CoreChoice::Any => self.all,
            CoreChoice::Cpu(cpu) | CoreChoice::Shared(cpu) if self.all.contains(cpu) => {
                CpuSet::single(cpu).unwrap_or(CpuSet::EMPTY)
            }
            CoreChoice::Cpu(cpu) | CoreChoice::Shared(cpu) => {
                return Err(RuntimeError::NotOurs { cpu, cores: Box::new(self.all) });
            }
        };
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = matches!(choice, CoreChoice::Shared(_));
        let cpu = wanted
            .difference(taken.alone)
            .iter()
            .find(|cpu| shared || !taken.shared.contains_key(cpu))
            .ok_or_else(|| RuntimeError::CoresTaken { wanted: Box::new(wanted) })?;
        if shared {
            *taken.shared.entry(cpu).or_insert(0) += 1;
        } else {
            // It came out of a set, so that a set can hold it.
            let _ = taken.alone.insert(cpu);
        }
        Ok(TakenCore { cpu, shared, for_ever: false, taken: Arc::clone(&self.taken) })
    }
}

impl TakenCore {
    pub(super) const fn cpu(&self) -> u32 {
        self.cpu
    }

    /// Never gives it back: a thread that cannot be ended spins there.
    pub(super) const fn keep(&mut self) {
        self.for_ever = true;
    }
}

impl Drop for TakenCore {
    fn drop(&mut self) {
        if self.for_ever {
            return;
        }
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.shared {
            taken.alone.remove(self.cpu);
        } else if let Some(count) = taken.shared.get_mut(&self.cpu) {
            *count -= 1;
            if *count == 0 {
                taken.shared.remove(&self.cpu);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hybrid_conventions::Exit;

    fn set(text: &str) -> CpuSet {
        if text.is_empty() { CpuSet::EMPTY } else { text.parse().expect("a set") }
    }

    fn machine(online: &str, allowed: &str) -> Topology {
        Topology {
            online: set(online),
            allowed: set(allowed),
            isolated: CpuSet::EMPTY,
            nohz_full: CpuSet::EMPTY,
            cpus: Vec::new(),
        }
    }

    #[test]
    fn partitions_get_their_cores_and_linux_the_rest() {
        let left = check(set("2-3"), &machine("0-3", "0-3")).expect("fine");
        assert_eq!(left, set("0-1"));
    }

    #[test]
    fn linux_keeps_to_the_cpus_that_it_balances() {
        let isolated = |cpus| Topology { isolated: set(cpus), ..machine("0-3", "0-3") };
        assert_eq!(check(set("3"), &isolated("2-3")).expect("fine"), set("0-1"));
        assert_eq!(check(set("3"), &isolated("0-3")).expect("fine"), set("0-2"));
    }

    #[test]
    fn every_refusal_is_one_line_with_the_numbers_and_the_right_exit_code() {
        for (cores, online, allowed, words, exit) in [
            ("", "0-3", "0-3", "no cpu named", Exit::Error),
            ("9", "0-3", "0-3", "cpu 9 does not exist: online are cpus 0-3", Exit::Error),
            ("1", "0-3", "1", "one cpu only (cpu 1)", Exit::Missing),
            ("0", "0", "0", "one cpu only (cpu 0)", Exit::Missing),
            ("3", "0-3", "0-1", "only cpus 0-1 are; start it in a cpuset", Exit::Missing),
            ("0-1", "0-3", "0-1", "leave one of them to linux", Exit::Missing),
        ] {
            let error = check(set(cores), &machine(online, allowed)).expect_err(words);
            let line = error.to_string();
            assert!(line.contains(words), "{line}");
            assert!(!line.contains('\n'), "{line}");
            assert_eq!(error.exit(), exit, "{line}");
        }
    }

    #[test]
    fn a_core_is_taken_once_and_free_again_when_its_partition_is_gone() {
        let cores = Cores::new(set("2,5"));
        let first = cores.take(CoreChoice::Any).expect("free");
        let second = cores.take(CoreChoice::Any).expect("free");
        assert_eq!((first.cpu(), second.cpu()), (2, 5));
        let line = cores.take(CoreChoice::Any).expect_err("none left").to_string();
        assert_eq!(line, "cpus 2,5 are taken: one partition a cpu");
        drop(first);
        let line = cores.take(CoreChoice::Cpu(5)).expect_err("taken").to_string();
        assert_eq!(line, "cpus 5 are taken: one partition a cpu");
        assert_eq!(cores.take(CoreChoice::Cpu(2)).expect("free").cpu(), 2);
        let line = cores.take(CoreChoice::Cpu(3)).expect_err("not ours").to_string();
        assert_eq!(line, "cpu 3 is not one of the runtime's cpus 2,5");
    }

    #[test]
    fn a_core_is_shared_only_among_those_who_all_say_so() {
        let cores = Cores::new(set("2,5"));
        let one = cores.take(CoreChoice::Shared(2)).expect("free");
        let other = cores.take(CoreChoice::Shared(2)).expect("both say so");
        assert!(cores.take(CoreChoice::Cpu(2)).is_err());
        assert_eq!(cores.take(CoreChoice::Any).expect("free").cpu(), 5);
        drop(one);
        assert!(cores.take(CoreChoice::Cpu(2)).is_err(), "one is left");
        drop(other);
        let alone = cores.take(CoreChoice::Cpu(2)).expect("free again");
        assert!(cores.take(CoreChoice::Shared(2)).is_err());
        drop(alone);
        assert!(cores.take(CoreChoice::Shared(3)).is_err(), "not ours");
    }
}
