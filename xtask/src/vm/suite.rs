//! Runs the guest suite and counts its tests one by one.
//!
//! One guest a boot. Its command runs each part under a deadline and frames it with two lines that
//! no test prints; what is between them is judged against the part's list. The text is judged when
//! the guest has ended, however it ended: what passed before a crash has passed.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use hybrid_conventions::Exit;

use super::crash;
use super::image::{self, Extra};
use super::qemu::Guest;
use super::scenario::{BOOTS, Boot, FILES, Part};
use super::{Prepared, environment};
use crate::libtest::Tally;
use crate::project::Project;
use crate::runner::Report;
use crate::screen::{Ending, Screen};

/// Begins the line before a part, and the one after it with its exit code.
pub(crate) const BEGIN: &str = "==== part ";
pub(crate) const END: &str = "==== end ";

/// Boot and shutdown, and the emulator's pace on a machine that does something else too.
const SLACK: Duration = Duration::from_secs(90);

/// Guests that run at once: one alone uses three quarters of a CPU, and waits.
const AT_ONCE: usize = 2;

/// The suite as `cargo xtask vm` runs it: a line for each boot, and the tally.
pub(crate) fn run(project: &Project, only: &[String], package: &str) -> Result<Exit> {
    let boots = choose(only)?;
    let prepared = Prepared::new(project, package, true)?;
    let screen = Screen::new();
    let (mut ending, mut ended) = (Ending::default(), 0);
    screen.begin(0, boots.len(), boots.first().map_or("", |boot| boot.name), "guests");
    let one = |boot| run_boot(project, &prepared, boot, only, Duration::MAX);
    each(&boots, one, |boot, report, log| {
        screen.end(boot.name, &report, &log);
        ending.add(boot.name, &report);
        ended += 1;
        if ended < boots.len() {
            screen.begin(ended, boots.len(), boot.name, "guests, after");
        }
    });
    println!("{ending}");
    Ok(ending.exit())
}

/// The suite as a step of `cargo xtask test`; its log is the output of all guests.
pub(crate) fn step(
    project: &Project,
    package: &str,
    log: &std::path::Path,
    left: Duration,
) -> Report {
    let end = Instant::now() + left;
    let mut all = Report::default();
    let prepared = match Prepared::new(project, package, true) {
        Ok(prepared) => prepared,
        Err(error) => {
            let _ = fs::write(log, format!("{error:#}\n"));
            all.fail(format!("the guest cannot be made: {error:#}"));
            return all;
        }
    };
    let mut text = Vec::new();
    let one = |boot| {
        let left = end.saturating_duration_since(Instant::now());
        run_boot(project, &prepared, boot, &[], left)
    };
    each(&BOOTS.iter().collect::<Vec<_>>(), one, |_, report, own| {
        text.extend(fs::read(own).unwrap_or_default());
        all.add(report);
    });
    let _ = fs::write(log, text);
    all
}

/// Runs `boots`, [`AT_ONCE`] at a time but for those that run alone, and tells how each ended, here
/// and as soon as it did.
fn each(
    boots: &[&'static Boot],
    one: impl Fn(&'static Boot) -> (Report, PathBuf) + Sync,
    mut told: impl FnMut(&'static Boot, Report, PathBuf),
) {
    let (alone, others): (Vec<_>, Vec<_>) = boots.iter().partition(|boot| boot.alone);
    beside(&alone, 1, &one, &mut told);
    beside(&others, AT_ONCE, &one, &mut told);
}

fn beside(
    boots: &[&'static Boot],
    at_once: usize,
    one: &(impl Fn(&'static Boot) -> (Report, PathBuf) + Sync),
    told: &mut impl FnMut(&'static Boot, Report, PathBuf),
) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        for _ in 0..at_once.min(boots.len()) {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                while let Some(&boot) = boots.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (report, log) = one(boot);
                    let _ = sender.send((boot, report, log));
                }
            });
        }
        drop(sender);
        receiver.into_iter().for_each(|(boot, report, log)| told(boot, report, log));
    });
}

/// Prints boots, parts and tests.
pub(crate) fn list() {
    for boot in BOOTS {
        println!("{}", boot.name);
        for part in boot.parts {
            println!("    {}", part.name);
            for test in part.expected() {
                println!("        {test}");
            }
        }
    }
}

/// The boots with the parts or boots that are named.
fn choose(only: &[String]) -> Result<Vec<&'static Boot>> {
    let names: Vec<&str> = BOOTS
        .iter()
        .flat_map(|boot| std::iter::once(boot.name).chain(boot.parts.iter().map(|part| part.name)))
        .collect();
    for name in only {
        if !names.contains(&name.as_str()) {
            bail!("{name:?} is no boot and no part; allowed are {}", names.join(", "));
        }
    }
    Ok(BOOTS.iter().filter(|boot| !chosen(boot, only).is_empty()).collect())
}

/// The parts of a boot that run.
fn chosen<'a>(boot: &'a Boot, only: &[String]) -> Vec<&'a Part> {
    let is = |name: &str| only.iter().any(|wish| wish == name);
    let all = only.is_empty() || is(boot.name);
    boot.parts.iter().filter(|part| all || is(part.name)).collect()
}

fn run_boot(
    project: &Project,
    prepared: &Prepared,
    boot: &Boot,
    only: &[String],
    left: Duration,
) -> (Report, PathBuf) {
    let start = Instant::now();
    let log = prepared.logs.join(format!("vm-{}.log", boot.name));
    let built = |part: &&Part| part.programs.iter().all(|name| prepared.has(name));
    let (parts, absent): (Vec<_>, Vec<_>) = chosen(boot, only).into_iter().partition(built);
    let mut report = Report::default();
    for part in absent {
        report.add(Report::skipped(format!("{}: {} is not built", part.name, part.programs[0])));
    }
    let (mut text, mut boots_before) = (String::new(), 0);
    loop {
        let mut output = Vec::new();
        let left = left.saturating_sub(start.elapsed());
        let ended = boot_with(project, prepared, boot, &parts, left, &mut output);
        let output = String::from_utf8_lossy(&output);
        text.push_str(&output);
        if let Err(error) = &ended {
            text.push_str(&format!("\n{error:#}\n"));
        }
        if let Some(lines) = crash::again(boots_before, &ended, &output) {
            text.push_str(&format!("{}\n", lines.join("\n")));
            report.notes.extend(lines.iter().map(|line| format!("guest {}: {line}", boot.name)));
            boots_before += 1;
            continue;
        }
        report.add(judge(&parts, &output));
        match ended {
            Ok(0) => {}
            Ok(code) => report.fail(format!("guest {}: exit code {code}", boot.name)),
            Err(error) => {
                let line = error.to_string();
                let line = line.lines().next().unwrap_or_default().to_owned();
                report.fail(format!("guest {}: {line}", boot.name));
            }
        }
        break;
    }
    let _ = fs::write(&log, text);
    report.took = start.elapsed();
    (report, log)
}

fn boot_with(
    project: &Project,
    prepared: &Prepared,
    boot: &Boot,
    parts: &[&Part],
    left: Duration,
    output: &mut (dyn Write + Send),
) -> Result<u8> {
    let machine = (boot.machine)();
    let mut extras = prepared.programs.clone();
    for (host, guest) in FILES {
        extras.push(Extra { host: project.root.join(host), guest: guest.to_owned() });
    }
    let scripts: Vec<(String, &str)> =
        parts.iter().map(|part| (format!("/guest/suite/{}", part.name), part.script)).collect();
    let own = image::own(&command(parts), &environment(&machine, false), &extras, &scripts)?;
    let seconds = parts.iter().map(|part| u64::from(part.limit_s)).sum();
    let guest = Guest {
        name: boot.name,
        machine: &machine,
        kernel: &prepared.kernel.image,
        archives: &[&prepared.base, &own],
        logs: &prepared.logs,
        programs: &prepared.programs_dir,
        limit: left.min(SLACK + Duration::from_secs(seconds)),
        interactive: false,
    };
    guest.run(output, &mut io::sink())
}

/// What the guest runs: every part, in its frame; errors stand where they happened.
fn command(parts: &[&Part]) -> String {
    let mut text = "exec 2>&1\n".to_owned();
    for Part { name, limit_s, .. } in parts {
        text.push_str(&format!(
            "echo '{BEGIN}{name}'\n\
             timeout -s KILL {limit_s} sh /guest/suite/{name}\n\
             echo \"{END}{name} $?\"\n"
        ));
    }
    text.push_str("exit 0\n");
    text
}

/// Counts what the parts reported.
fn judge(parts: &[&Part], text: &str) -> Report {
    let mut report = Report::default();
    for part in parts {
        let begin = format!("{BEGIN}{}\n", part.name);
        let end = format!("{END}{} ", part.name);
        let Some((_, own)) = text.split_once(&begin) else {
            report.fail(format!("{}: did not start", part.name));
            continue;
        };
        let (own, code) = match own.split_once(&end) {
            Some((own, rest)) => (own, rest.lines().next().unwrap_or_default()),
            None => (own, "none: the guest ended before"),
        };
        judge_part(part, own, code, &mut report);
    }
    report
}

fn judge_part(part: &Part, text: &str, code: &str, report: &mut Report) {
    let mut seen = Vec::new();
    for line in text.lines() {
        if let Some(note) = line.strip_prefix("note ") {
            report.notes.push(note.to_owned());
        }
        let Some((name, outcome)) =
            line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... "))
        else {
            continue;
        };
        seen.push(name);
        match outcome.strip_prefix("ignored") {
            Some(reason) => {
                let reason = reason.trim_start_matches(", ");
                report.add(Report::skipped(format!("{name}: {reason}")));
            }
            None if outcome == "ok" => report.tally.add(Tally::PASSED),
            None => report.fail(name),
        }
    }
    for name in part.expected().filter(|name| !seen.contains(name)) {
        report.fail(format!("{name}: not seen (exit code of its part: {code})"));
    }
    if seen.is_empty() && part.expected().next().is_none() {
        report.fail(format!("{}: no test was seen (exit code {code})", part.name));
    } else if code != "0" {
        report.fail(format!("{}: exit code {code}", part.name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PART: Part = Part {
        name: "p",
        script: "",
        programs: &[],
        tests: &["p::a", "p::b"],
        printed: &[],
        limit_s: 5,
    };

    fn judged(text: &str) -> Report {
        judge(&[&PART], text)
    }

    #[test]
    fn tests_are_counted_one_by_one() {
        let report = judged(
            "==== part p\nnote CPU 2: 5\ntest p::a ... ok\n    detail\n\
             test p::b ... ignored, no device\n==== end p 0\n",
        );
        assert_eq!(report.tally, Tally::new(1, 0, 1));
        assert_eq!(report.skips, ["p::b: no device"]);
        assert_eq!(report.notes, ["CPU 2: 5"]);
        assert!(report.failures.is_empty());
    }

    #[test]
    fn a_test_that_is_not_seen_has_failed() {
        let report = judged("==== part p\ntest p::a ... ok\n==== end p 0\n");
        assert_eq!(report.tally, Tally::new(1, 1, 0));
        assert_eq!(report.failures, ["p::b: not seen (exit code of its part: 0)"]);
    }

    #[test]
    fn a_program_that_leaves_a_test_out_and_ends_with_0_has_failed() {
        let part = Part { printed: &["p::c", "p::d"], ..PART };
        let both = "test p::a ... ok\ntest p::b ... ok\n";
        let report = judge(&[&part], &format!("==== part p\n{both}==== end p 0\n"));
        let missed = ["p::c", "p::d"].map(|n| format!("{n}: not seen (exit code of its part: 0)"));
        assert_eq!(report.failures, missed);
        let text = format!("==== part p\n{both}test p::c ... ok\ntest p::d ... ignored, x\n");
        let report = judge(&[&part], &format!("{text}==== end p 0\n"));
        assert_eq!((report.tally, report.failures.len()), (Tally::new(3, 0, 1), 0));
    }

    #[test]
    fn a_part_that_is_killed_or_never_starts_has_failed() {
        let both = "test p::a ... ok\ntest p::b ... FAILED\n";
        let report = judged(&format!("==== part p\n{both}==== end p 137\n"));
        assert_eq!(report.failures, ["p::b", "p: exit code 137"]);
        let report = judged(&format!("==== part p\n{both}"));
        assert_eq!(report.failures[1], "p: exit code none: the guest ended before");
        assert_eq!(judged("").failures, ["p: did not start"]);
    }

    #[test]
    fn a_program_that_counts_its_own_tests_must_have_some() {
        let part = Part { tests: &[], ..PART };
        let report = judge(&[&part], "==== part p\ntest x ... ok\n==== end p 0\n");
        assert_eq!(report.tally, Tally::PASSED);
        let report = judge(&[&part], "==== part p\n==== end p 0\n");
        assert_eq!(report.failures, ["p: no test was seen (exit code 0)"]);
    }

    #[test]
    fn a_printed_line_is_no_frame_of_another_part() {
        let other = Part { name: "pp", tests: &["pp::a"], ..PART };
        let text = "==== part p\ntest p::a ... ok\ntest p::b ... ok\n==== end p 0\n\
                    ==== part pp\ntest pp::a ... ok\n==== end pp 0\n";
        assert_eq!(judge(&[&PART, &other], text).tally, Tally::new(3, 0, 0));
    }

    #[test]
    fn each_part_has_a_deadline_of_its_own() {
        let text = command(&[&PART]);
        assert!(text.contains("timeout -s KILL 5 sh /guest/suite/p\n"), "{text}");
    }

    #[test]
    fn every_boot_runs_once_and_no_more_at_a_time_than_may() {
        let boots: Vec<_> = BOOTS.iter().collect();
        let (running, mut names) = (AtomicUsize::new(0), Vec::new());
        let one = |boot: &'static Boot| {
            let most = if boot.alone { 1 } else { AT_ONCE };
            assert!(running.fetch_add(1, Ordering::SeqCst) < most);
            thread::yield_now();
            running.fetch_sub(1, Ordering::SeqCst);
            (Report::skipped(boot.name), PathBuf::from(boot.name))
        };
        each(&boots, one, |boot, report, log| {
            assert_eq!((report.skips[0].as_str(), log), (boot.name, PathBuf::from(boot.name)));
            names.push(boot.name);
        });
        names.sort_unstable();
        let mut all: Vec<_> = BOOTS.iter().map(|boot| boot.name).collect();
        all.sort_unstable();
        assert_eq!(names, all);
    }

    #[test]
    fn parts_and_boots_are_chosen_by_name() {
        let names = [BOOTS[0].parts[1].name.to_owned()];
        assert_eq!(chosen(&BOOTS[0], &names).len(), 1);
        assert_eq!(chosen(&BOOTS[0], &[BOOTS[0].name.to_owned()]).len(), BOOTS[0].parts.len());
        let error = choose(&["x".to_owned()]).err().expect("an error").to_string();
        assert!(
            error.starts_with("\"x\" is no boot and no part; allowed are main, boot"),
            "{error}"
        );
    }
}
