//! The change engine on fake machines: crashes at every step, idempotence, changes by others.

use hybrid_conventions::Exit;

use crate::command::{self, Prepared, What};
use crate::engine::Verdict;
use crate::fake::Fake;
use crate::journal::{FILE, FOLDER, Journal};
use crate::root::Root;

/// The command line's wishes.
pub(crate) fn what(flags: &[&str]) -> What {
    use clap::Parser;
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        what: What,
    }
    let words = ["sysconfig"].iter().chain(flags);
    Line::try_parse_from(words).expect("flags that parse").what
}

/// What the tests ask for unless they say something else: files, values, threads, a control group.
fn usual() -> What {
    what(&["-c", "3", "--smt", "keep", "--hugepages", "2M=8", "--cpuset", "partition"])
}

pub(crate) fn prepared(root: &Root, what: &What) -> Prepared {
    let journal = Journal::read(root).expect("a journal");
    command::prepare_at(root, what, journal).unwrap_or_else(|failure| panic!("{}", failure.line))
}

fn apply(root: &Root, what: &What) {
    let outcome = command::apply_at(root, what).unwrap_or_else(|f| panic!("{}", f.line));
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
}

fn reset(root: &Root) {
    let outcome = command::reset_at(root, false).unwrap_or_else(|f| panic!("{}", f.line));
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
}

/// Two trees are the same; the message names only what differs.
fn same(now: &[String], before: &[String], when: &str) {
    let more: Vec<&String> = now.iter().filter(|line| !before.contains(line)).collect();
    let less: Vec<&String> = before.iter().filter(|line| !now.contains(line)).collect();
    assert!(more.is_empty() && less.is_empty(), "{when}: is {more:#?}, was {less:#?}");
}

#[test]
fn apply_does_what_was_asked_and_reset_takes_it_back_byte_for_byte() {
    let fake = Fake::debian();
    let before = fake.snapshot();
    apply(&fake.root, &usual());
    let text = |path: &str| fake.root.text(path).unwrap_or_default();
    assert_eq!(text("/proc/irq/24/smp_affinity_list"), "0-2");
    assert_eq!(text("/proc/irq/25/smp_affinity_list"), "0-2", "its only CPU was the isolated one");
    assert_eq!(text("/proc/irq/default_smp_affinity"), "7");
    assert_eq!(text("/sys/kernel/mm/transparent_hugepage/enabled"), "always madvise [never]");
    assert_eq!(text("/sys/fs/cgroup/hybrid/cpuset.cpus.partition"), "isolated");
    assert_eq!(text("/sys/fs/cgroup/cgroup.subtree_control"), "cpu memory cpuset");
    assert!(text("/proc/2/status").ends_with("Cpus_allowed:\t7"));
    assert!(text("/proc/700/status").ends_with("Cpus_allowed:\t8"), "put there on purpose");
    assert!(text("/proc/20/status").ends_with("Cpus_allowed:\t8"), "bound to its CPU");
    assert!(text("/etc/default/irqbalance").ends_with("OPTIONS=\nIRQBALANCE_BANNED_CPULIST=3"));
    assert!(text("/etc/default/grub.d/50-hybrid-runtime.cfg").contains("nohz_full=3"));
    let programs = fake.root.faults.programs();
    assert!(programs.iter().any(|line| line == "update-grub"), "{programs:?}");
    assert_ne!(fake.snapshot(), before);
    reset(&fake.root);
    same(&fake.snapshot(), &before, "");
    assert_eq!(fake.root.faults.programs().iter().filter(|line| *line == "update-grub").count(), 2);
}

#[test]
fn a_second_apply_writes_nothing() {
    let fake = Fake::debian();
    fake.root.faults.refuse("/irq/25/smp_affinity_list", libc::EIO);
    apply(&fake.root, &usual());
    let after = fake.snapshot();
    let steps = fake.root.faults.steps();
    apply(&fake.root, &usual());
    assert_eq!(fake.root.faults.steps(), steps, "not even the journal");
    assert_eq!(fake.snapshot(), after);
    // Without flags it is the same: they were kept.
    let plan = prepared(&fake.root, &what(&[])).plan;
    let changes: Vec<String> = plan.changes().map(|step| step.wish.place.to_string()).collect();
    assert!(changes.is_empty() || !changes.iter().any(|c| c.contains("irq")), "{changes:?}");
}

#[test]
fn an_interrupt_that_cannot_move_is_reported_and_no_failure() {
    let fake = Fake::debian();
    let before = fake.snapshot();
    fake.root.faults.refuse("/irq/24/smp_affinity_list", libc::EIO);
    let outcome = command::apply_at(&fake.root, &usual()).expect("applied");
    assert!(outcome.failed.is_empty());
    let refused: Vec<String> = outcome.refused.iter().map(|(place, _)| place.to_string()).collect();
    assert_eq!(refused, ["/proc/irq/24/smp_affinity_list"]);
    let plan = prepared(&fake.root, &usual()).plan;
    let fixed = |v: &Verdict| matches!(v, Verdict::Fixed(reason) if reason.contains("refused"));
    assert!(plan.steps.iter().any(|step| fixed(&step.verdict)));
    reset(&fake.root);
    same(&fake.snapshot(), &before, "");
}

#[test]
fn a_value_that_is_read_only_is_a_failure_and_the_rest_is_made() {
    let fake = Fake::debian();
    let before = fake.snapshot();
    fake.root.faults.refuse("transparent_hugepage/enabled", libc::EROFS);
    let outcome = command::apply_at(&fake.root, &usual()).expect("applied");
    let [failure] = outcome.failed.as_slice() else { panic!("{:?}", outcome.failed) };
    assert_eq!(failure.exit, Exit::Error);
    assert!(failure.line.contains("remount,rw"), "{}", failure.line);
    assert_eq!(fake.root.text("/proc/sys/vm/stat_interval").as_deref(), Some("120"));
    reset(&fake.root);
    same(&fake.snapshot(), &before, "");
}

/// Kills `apply` at each of its steps, in turn on fresh machines; hands each to `check`.
fn killed_applies(check: impl Fn(&Fake, &[String], i64)) {
    let total = {
        let fake = Fake::debian();
        apply(&fake.root, &usual());
        fake.root.faults.steps()
    };
    assert!(total > 60, "{total} steps are no matrix");
    for step in 0..total {
        let fake = Fake::debian();
        let before = fake.snapshot();
        fake.root.faults.kill_after(step);
        let _ = command::apply_at(&fake.root, &usual());
        check(&fake, &before, step);
    }
}

#[test]
fn killed_at_any_step_of_apply_reset_restores_everything() {
    killed_applies(|fake, before, step| {
        let root = fake.again();
        reset(&root);
        same(&fake.snapshot(), before, &format!("killed at step {step}"));
    });
}

#[test]
fn killed_at_any_step_of_apply_a_second_one_completes_it_and_reset_restores() {
    let done = {
        let fake = Fake::debian();
        apply(&fake.root, &usual());
        without_journal(fake.snapshot())
    };
    killed_applies(|fake, before, step| {
        let root = fake.again();
        apply(&root, &usual());
        same(&without_journal(fake.snapshot()), &done, &format!("completed after step {step}"));
        let programs = root.faults.programs().join(", ");
        let earlier = fake.root.faults.programs().join(", ");
        assert!((programs + &earlier).contains("update-grub"), "killed at step {step}");
        reset(&root);
        same(&fake.snapshot(), before, &format!("killed at step {step}"));
    });
}

#[test]
fn killed_at_any_step_of_reset_a_second_one_restores_and_so_does_apply_before_it() {
    let total = {
        let fake = Fake::debian();
        apply(&fake.root, &usual());
        let root = fake.again();
        reset(&root);
        root.faults.steps()
    };
    for step in 0..total {
        for apply_between in [false, true] {
            let fake = Fake::debian();
            let before = fake.snapshot();
            apply(&fake.root, &usual());
            let dying = fake.again();
            dying.faults.kill_after(step);
            let _ = command::reset_at(&dying, false);
            let root = fake.again();
            if apply_between {
                apply(&root, &usual());
            }
            reset(&root);
            same(&fake.snapshot(), &before, &format!("killed at step {step}, {apply_between}"));
        }
    }
}

fn without_journal(mut snapshot: Vec<String>) -> Vec<String> {
    snapshot.retain(|line| !line.starts_with(FILE.trim_start_matches('/')));
    snapshot
}

#[test]
fn after_a_reboot_only_files_are_put_back() {
    let fake = Fake::debian();
    apply(&fake.root, &usual());
    // The new boot forgot the values; this one was set by somebody since.
    let boot = "/proc/sys/kernel/random/boot_id";
    fake.file(boot, "22222222-2222-2222-2222-222222222222");
    fake.file("/proc/sys/vm/stat_interval", "7");
    reset(&fake.again());
    assert_eq!(fake.root.text("/proc/sys/vm/stat_interval").as_deref(), Some("7"));
    assert!(!fake.root.exists("/etc/default/grub.d"));
    assert!(!fake.root.exists(FOLDER));
}

#[test]
fn the_service_applies_again_after_a_reboot_and_reset_knows_both_boots() {
    let fake = Fake::debian();
    let files = |fake: &Fake| -> Vec<String> {
        fake.snapshot().into_iter().filter(|line| line.starts_with("etc")).collect()
    };
    let before = files(&fake);
    apply(&fake.root, &usual());
    fake.file("/proc/sys/kernel/random/boot_id", "22222222-2222-2222-2222-222222222222");
    fake.file("/proc/sys/vm/stat_interval", "3");
    apply(&fake.again(), &what(&["--run-time"]));
    assert_eq!(fake.root.text("/proc/sys/vm/stat_interval").as_deref(), Some("120"));
    reset(&fake.again());
    assert_eq!(fake.root.text("/proc/sys/vm/stat_interval").as_deref(), Some("3"));
    assert_eq!(files(&fake), before);
}

#[test]
fn a_file_that_someone_edited_after_apply_is_not_lost() {
    let fake = Fake::debian();
    apply(&fake.root, &usual());
    let path = "/etc/default/irqbalance";
    fake.file(path, "OPTIONS=--mine");
    let outcome = command::reset_at(&fake.again(), false).expect("it ran");
    let [failure] = outcome.failed.as_slice() else { panic!("{:?}", outcome.failed) };
    assert!(failure.line.contains("reset --force"), "{}", failure.line);
    assert_eq!(fake.root.text(path).as_deref(), Some("OPTIONS=--mine"));
    assert!(fake.root.exists(FILE), "what is not back stays in the journal");
    let outcome = command::reset_at(&fake.again(), true).expect("it ran");
    assert!(outcome.failed.is_empty());
    assert_eq!(fake.root.text(path).as_deref(), Some("# irqbalance\nOPTIONS="));
}

#[test]
fn what_is_no_longer_asked_for_is_put_back_by_the_next_apply() {
    let fake = Fake::debian();
    let before = fake.snapshot();
    apply(&fake.root, &usual());
    apply(&fake.root, &what(&["-c", "3", "--smt", "keep", "--cpuset", "off", "--thp", "keep"]));
    assert!(!fake.root.exists("/sys/fs/cgroup/hybrid"));
    let thp = "/sys/kernel/mm/transparent_hugepage/enabled";
    assert_eq!(fake.root.text(thp).as_deref(), Some("always [madvise] never"));
    assert_eq!(fake.root.text("/proc/irq/24/smp_affinity_list").as_deref(), Some("0-2"));
    reset(&fake.root);
    same(&fake.snapshot(), &before, "");
}

#[test]
fn two_at_once_do_not_mix() {
    let fake = Fake::debian();
    let held = Journal::open(&fake.root).expect("the first");
    let refused = command::apply_at(&fake.again(), &usual()).expect_err("the second");
    assert!(refused.line.contains("another sysconfig is at work"), "{}", refused.line);
    drop(held);
    apply(&fake.root, &usual());
}

#[test]
fn a_damaged_journal_is_refused_and_a_torn_end_is_not() {
    let fake = Fake::debian();
    let before = fake.snapshot();
    apply(&fake.root, &usual());
    let path = fake.root.path(FILE);
    let whole = std::fs::read(&path).expect("the journal");
    let mut damaged = whole.clone();
    damaged[40] ^= 1;
    std::fs::write(&path, &damaged).expect("written");
    let refused = command::reset_at(&fake.root, false).expect_err("damaged");
    assert!(refused.line.contains("is damaged"), "{}", refused.line);
    let mut torn = whole;
    torn.extend_from_slice(b"0badc0de {\"record\":\"cha");
    std::fs::write(&path, &torn).expect("written");
    reset(&fake.root);
    same(&fake.snapshot(), &before, "");
}

#[test]
fn a_machine_that_was_never_changed_has_nothing_to_reset() {
    let fake = Fake::debian();
    let before = fake.snapshot();
    reset(&fake.root);
    same(&fake.snapshot(), &before, "");
    assert_eq!(fake.root.faults.steps(), 0);
}
