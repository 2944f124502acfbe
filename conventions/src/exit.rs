//! The exit codes of every tool.

use core::fmt;

/// How a tool ends; results are flushed before, in every case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exit {
    /// 0: done, and within every threshold.
    Ok,
    /// 1: an error; usage errors too.
    Error,
    /// 2: it worked, and a threshold or budget was exceeded.
    Threshold,
    /// 3: something is missing on this machine; the command that fixes it was printed.
    Missing,
    /// 130: ended by SIGINT.
    Interrupted,
    /// 143: ended by SIGTERM.
    Terminated,
}

/// A number that no tool of ours ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("exit code {0} is none of ours; allowed are 0, 1, 2, 3, 130 and 143")]
pub struct UnknownExit(pub u8);

impl Exit {
    /// Every way to end, in order of code.
    pub const ALL: [Self; 6] = [
        Self::Ok,
        Self::Error,
        Self::Threshold,
        Self::Missing,
        Self::Interrupted,
        Self::Terminated,
    ];

    /// The number for the shell; `std::process::ExitCode::from` takes it.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Error => 1,
            Self::Threshold => 2,
            Self::Missing => 3,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }
}

impl From<Exit> for u8 {
    fn from(exit: Exit) -> u8 {
        exit.code()
    }
}

impl From<Exit> for i32 {
    fn from(exit: Exit) -> i32 {
        i32::from(exit.code())
    }
}

impl TryFrom<u8> for Exit {
    type Error = UnknownExit;

    fn try_from(code: u8) -> Result<Self, UnknownExit> {
        Self::ALL.into_iter().find(|exit| exit.code() == code).ok_or(UnknownExit(code))
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Threshold => "threshold exceeded",
            Self::Missing => "something is missing",
            Self::Interrupted => "interrupted",
            Self::Terminated => "terminated",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_ones_that_scripts_rely_on() {
        let codes = Exit::ALL.map(Exit::code);
        assert_eq!(codes, [0, 1, 2, 3, 130, 143]);
        assert_eq!(i32::from(Exit::Terminated), 143);
    }

    #[test]
    fn every_code_reads_back_and_no_other_does() {
        for code in 0..=u8::MAX {
            match Exit::try_from(code) {
                Ok(exit) => assert_eq!(u8::from(exit), code),
                Err(error) => {
                    assert_eq!(error, UnknownExit(code));
                    assert!(!Exit::ALL.map(Exit::code).contains(&code));
                }
            }
        }
    }

    #[test]
    fn exits_print_in_words() {
        assert_eq!(Exit::Threshold.to_string(), "threshold exceeded");
        assert_eq!(format!("[{:>6}]", Exit::Ok), "[    ok]");
    }
}
