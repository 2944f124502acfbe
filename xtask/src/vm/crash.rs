//! When the emulator itself dies: that guest is booted once more, and this is said.
//!
//! A death is a signal that a fault of QEMU's own raises. A failed check, a deadline, an exit code
//! or a guest that ended by itself is never one, and neither is a death after a check that failed:
//! what this machine is here to find must not be hidden by a second look. A second death fails.

use std::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use anyhow::Result;

use super::suite::{BEGIN, END};

/// SIGABRT, SIGBUS and SIGSEGV: what the emulator raises against itself (signal(7)).
const FAULTS: [i32; 3] = [6, 7, 11];

/// Boots that a guest gets after its first.
const BOOTS_AGAIN: u32 = 1;

/// Lines of QEMU's standard error that are shown.
const LAST_WORDS: usize = 5;

/// A death of the emulator.
#[derive(Debug)]
pub(crate) struct Crash {
    signal: i32,
    /// What it wrote to its standard error, and the end of the guest's console.
    errors: String,
    console: String,
}

impl Crash {
    /// Of an emulator that ended so, if that was its own fault.
    pub(crate) fn of(status: ExitStatus, errors: &str, console: &str) -> Option<Self> {
        let signal = status.signal().filter(|signal| FAULTS.contains(signal))?;
        Some(Self { signal, errors: errors.to_owned(), console: console.to_owned() })
    }

    fn last_words(&self) -> String {
        crate::libtest::tail(self.errors.trim_end(), LAST_WORDS)
    }
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { signal, console, .. } = self;
        write!(f, "QEMU crashed (signal {signal})\n{}\n{console}", self.last_words())
    }
}

impl std::error::Error for Crash {}

/// What is said when a guest that ended so, having printed `text`, is booted again; [`None`] if it
/// is not.
pub(crate) fn again(boots_before: u32, ended: &Result<u8>, text: &str) -> Option<Vec<String>> {
    let crash = ended.as_ref().err()?.downcast_ref::<Crash>()?;
    if boots_before >= BOOTS_AGAIN || has_failed(text) {
        return None;
    }
    let place = match part_of(text) {
        Some(part) => format!("in part {part}"),
        None => "outside of any part".to_owned(),
    };
    let signal = crash.signal;
    let mut lines = vec![format!(
        "QEMU crashed (signal {signal}) {place}, a fault of the emulator; booted again"
    )];
    lines.extend(crash.last_words().lines().map(|line| format!("QEMU's last words: {line}")));
    Some(lines)
}

/// Whether a check or a part said that it failed.
fn has_failed(text: &str) -> bool {
    text.lines().any(|line| match line.strip_prefix(END) {
        Some(end) => !end.ends_with(" 0"),
        None => line.starts_with("test ") && line.ends_with(" ... FAILED"),
    })
}

/// The part that had begun and not ended.
fn part_of(text: &str) -> Option<&str> {
    let mut part = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix(BEGIN) {
            part = Some(name);
        } else if line.starts_with(END) {
            part = None;
        }
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    const IN_P: &str = "==== part o\ntest o::a ... ok\n==== end o 0\n\
                        ==== part p\ntest p::a ... ok\n    under way\n";

    /// Ends by a signal, as the lower bits of a status say, or with a code, which is above them.
    fn died(signal: i32) -> Result<u8> {
        let words = "about another test\na\nb\nc\nd\nthe fault\n";
        match Crash::of(ExitStatus::from_raw(signal), words, "---- console") {
            Some(crash) => Err(crash.into()),
            None => Err(anyhow::anyhow!("status {signal}")),
        }
    }

    #[test]
    fn a_first_death_by_a_signal_of_its_own_is_booted_again_and_told() {
        for signal in [6, 7, 11] {
            let lines = again(0, &died(signal), IN_P).expect("another boot");
            let told = "in part p, a fault of the emulator; booted again";
            assert_eq!(lines[0], format!("QEMU crashed (signal {signal}) {told}"));
            assert_eq!(lines.len(), 6);
            assert_eq!(lines[5], "QEMU's last words: the fault");
        }
        // With a core dump.
        assert!(again(0, &died(11 | 0x80), IN_P).is_some());
    }

    #[test]
    fn a_death_between_two_parts_or_before_the_first_is_of_none() {
        for text in ["", "==== part p\n==== end p 0\n"] {
            let lines = again(0, &died(11), text).expect("another boot");
            assert!(lines[0].starts_with("QEMU crashed (signal 11) outside of any part,"));
        }
    }

    #[test]
    fn a_second_death_fails() {
        assert_eq!(again(1, &died(11), IN_P), None);
        let said = format!("{:#}", died(11).expect_err("a crash"));
        assert!(said.starts_with("QEMU crashed (signal 11)\na\nb\nc\nd\nthe fault\n"), "{said}");
    }

    #[test]
    fn a_signal_of_somebody_else_an_exit_code_and_a_deadline_are_no_death() {
        // Killed, terminated, interrupted; exit codes 1 and 134.
        for status in [9, 15, 2, 1 << 8, 134 << 8] {
            assert_eq!(again(0, &died(status), IN_P), None, "{status}");
        }
        assert_eq!(again(0, &Err(anyhow::anyhow!("killed after 5 s")), IN_P), None);
        for code in [0, 1, 139] {
            assert_eq!(again(0, &Ok(code), IN_P), None);
        }
    }

    #[test]
    fn a_check_that_failed_before_the_death_is_not_hidden() {
        assert_eq!(again(0, &died(11), &format!("{IN_P}test p::b ... FAILED\n")), None);
        assert_eq!(again(0, &died(11), &IN_P.replace("end o 0", "end o 137")), None);
        // What a program prints is no verdict.
        assert!(again(0, &died(11), &format!("{IN_P}    test x ... FAILED\n")).is_some());
    }
}
