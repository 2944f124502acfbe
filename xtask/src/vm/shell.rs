//! The terminal of `cargo xtask vm shell`: bytes go both ways until the guest ends.
//!
//! A terminal is set to raw by `stty`, so that ^C and the arrows are the guest's; it is set back
//! when the guest has ended. Standard input may also be a file or a pipe: its end is sent as ^D.

use std::io::{IsTerminal as _, Read as _, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

/// Leaves the guest, as in telnet: ^].
const ESCAPE: u8 = 0x1d;

/// End of input, for a shell on a terminal line: ^D.
const END: u8 = 0x04;

/// Our terminal, raw for as long as this lives.
pub(crate) struct Raw {
    before: Option<String>,
}

impl Raw {
    /// Does nothing where standard input is no terminal.
    pub(crate) fn enter() -> Self {
        let before = std::io::stdin().is_terminal().then(|| stty(&["-g"])).flatten();
        if before.is_some() {
            let _ = stty(&["raw", "-echo"]);
        }
        Self { before: before.map(|text| text.trim().to_owned()) }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = stty(&[before]);
        }
    }
}

/// Rows and columns of our terminal, or what a terminal always had.
pub(crate) fn size() -> (u32, u32) {
    let text = std::io::stdin().is_terminal().then(|| stty(&["size"])).flatten();
    text.and_then(|text| parse_size(&text)).unwrap_or((24, 80))
}

fn parse_size(text: &str) -> Option<(u32, u32)> {
    let (rows, columns) = text.trim().split_once(' ')?;
    let size = (rows.parse().ok()?, columns.parse().ok()?);
    (size.0 > 0 && size.1 > 0).then_some(size)
}

fn stty(arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("stty");
    let output = command.args(arguments).stdin(Stdio::inherit()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Sends what is typed to the guest until it is gone; true once ^] is typed.
pub(crate) fn forward(mut to: UnixStream) -> bool {
    let mut stdin = std::io::stdin().lock();
    let mut buffer = [0_u8; 256];
    loop {
        let count = stdin.read(&mut buffer).unwrap_or(0);
        let typed = &buffer[..count];
        if typed.contains(&ESCAPE) {
            return true;
        }
        let typed = if count == 0 { &[END] } else { typed };
        if to.write_all(typed).is_err() || count == 0 {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_two_numbers_above_zero() {
        assert_eq!(parse_size("50 132\n"), Some((50, 132)));
        for text in ["", "50", "0 0", "x y", "50 0"] {
            assert_eq!(parse_size(text), None, "{text:?}");
        }
    }
}
