//! QEMU's machine protocol: one JSON object a line, answers and events on one stream.
//!
//! Generic over the stream, so that the tests talk to a script. A command's answer is the next
//! object with `return` or `error`; events that come between are dropped.

use std::io::{BufRead, Write};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

/// A connection that has been opened with `qmp_capabilities`.
pub(crate) struct Qmp<R, W> {
    reader: R,
    writer: W,
}

impl<R: BufRead, W: Write> Qmp<R, W> {
    /// Reads the greeting and enters the command mode.
    pub(crate) fn open(reader: R, writer: W) -> Result<Self> {
        let mut qmp = Self { reader, writer };
        let greeting = qmp.read()?;
        if greeting.get("QMP").is_none() {
            bail!("QEMU greets with {greeting}");
        }
        qmp.execute(&json!({"execute": "qmp_capabilities"}))?;
        Ok(qmp)
    }

    /// Sends one command and gives its answer.
    pub(crate) fn execute(&mut self, command: &Value) -> Result<Value> {
        writeln!(self.writer, "{command}").context("QEMU is gone")?;
        loop {
            let mut object = self.read()?;
            if let Some(answer) = object.get_mut("return") {
                return Ok(answer.take());
            }
            if let Some(error) = object.get("error") {
                bail!("QEMU refused: {}", error["desc"].as_str().unwrap_or("no reason given"));
            }
        }
    }

    /// What was sent.
    #[cfg(test)]
    pub(crate) const fn sent(&self) -> &W {
        &self.writer
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        let count = self.reader.read_line(&mut line).context("QEMU does not answer")?;
        if count == 0 {
            bail!("QEMU is gone");
        }
        serde_json::from_str(&line).with_context(|| format!("QEMU said {line:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREETING: &str = "{\"QMP\": {\"version\": {}}}\n{\"return\": {}}\n";

    fn open(rest: &str) -> Result<Qmp<std::io::Cursor<String>, Vec<u8>>> {
        Qmp::open(std::io::Cursor::new(format!("{GREETING}{rest}")), Vec::new())
    }

    #[test]
    fn a_command_has_the_next_answer_behind_any_events() {
        let gone = r#"{"event": "DEVICE_DELETED", "data": {"device": "nvme0"}}"#;
        let mut qmp = open(&format!("{gone}\n{{\"return\": 5}}\n")).expect("a connection");
        assert_eq!(qmp.execute(&json!({"execute": "x"})).expect("an answer"), 5);
        let sent = String::from_utf8(qmp.writer).expect("text");
        assert_eq!(sent, "{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"x\"}\n");
    }

    #[test]
    fn refusals_carry_their_reason() {
        let refusal = r#"{"error": {"class": "GenericError", "desc": "no such device"}}"#;
        let mut qmp = open(&format!("{refusal}\nnonsense\n")).expect("a connection");
        let error = qmp.execute(&json!({})).expect_err("refused").to_string();
        assert_eq!(error, "QEMU refused: no such device");
        assert!(qmp.execute(&json!({})).is_err());
        assert!(Qmp::open(std::io::Cursor::new("{}\n".to_owned()), Vec::new()).is_err());
    }
}
