//! QEMU's machine protocol: one JSON object a line, answers and events on one stream.
//!
//! Generic over the stream, so that the tests talk to a script. A command's answer is the next
//! object with `return` or `error`; events that come between are kept until someone asks.

use std::io::{BufRead, ErrorKind, Write};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

const SILENT: &str = "QEMU does not answer";

/// A connection that has been opened with `qmp_capabilities`.
pub(crate) struct Qmp<R, W> {
    reader: R,
    writer: W,
    events: Vec<Value>,
    /// What has come of a line whose rest was not there in time.
    partial: Vec<u8>,
}

impl<R: BufRead, W: Write> Qmp<R, W> {
    /// Reads the greeting and enters the command mode.
    pub(crate) fn open(reader: R, writer: W) -> Result<Self> {
        let mut qmp = Self { reader, writer, events: Vec::new(), partial: Vec::new() };
        let greeting = qmp.read()?.context(SILENT)?;
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
            let mut object = self.read()?.context(SILENT)?;
            if let Some(answer) = object.get_mut("return") {
                return Ok(answer.take());
            }
            if let Some(error) = object.get("error") {
                bail!("QEMU refused: {}", error["desc"].as_str().unwrap_or("no reason given"));
            }
            self.events.push(object);
        }
    }

    /// Waits for an event with this name and device. False if the stream has a read timeout, which
    /// passed without a word.
    pub(crate) fn wait_for(&mut self, name: &str, device: &str) -> Result<bool> {
        let is_it = |event: &Value| event["event"] == name && event["data"]["device"] == device;
        if let Some(at) = self.events.iter().position(is_it) {
            self.events.remove(at);
            return Ok(true);
        }
        while let Some(event) = self.read()? {
            if is_it(&event) {
                return Ok(true);
            }
            self.events.push(event);
        }
        Ok(false)
    }

    /// The next object, or nothing if the stream's read timeout passed before it.
    fn read(&mut self) -> Result<Option<Value>> {
        match self.reader.read_until(b'\n', &mut self.partial) {
            Ok(0) => bail!("QEMU is gone"),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(None);
            }
            Err(error) => return Err(error).context(SILENT),
        }
        let line = std::mem::take(&mut self.partial);
        let said = || format!("QEMU said {:?}", String::from_utf8_lossy(&line));
        serde_json::from_slice(&line).map(Some).with_context(said)
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
    fn a_command_has_the_next_answer_and_events_are_kept() {
        let gone = r#"{"event": "DEVICE_DELETED", "data": {"device": "nvme0"}}"#;
        let mut qmp = open(&format!("{gone}\n{{\"return\": 5}}\n")).expect("a connection");
        assert_eq!(qmp.execute(&json!({"execute": "x"})).expect("an answer"), 5);
        assert!(qmp.wait_for("DEVICE_DELETED", "nvme0").expect("it came before"));
        let sent = String::from_utf8(qmp.writer).expect("text");
        assert_eq!(sent, "{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"x\"}\n");
    }

    #[test]
    fn an_event_of_another_device_is_not_it() {
        let other = r#"{"event": "DEVICE_DELETED", "data": {"device": "nvme1"}}"#;
        let mut qmp = open(&format!("{other}\n")).expect("a connection");
        let error = qmp.wait_for("DEVICE_DELETED", "nvme0").expect_err("the stream ends");
        assert_eq!(error.to_string(), "QEMU is gone");
        assert!(qmp.wait_for("DEVICE_DELETED", "nvme1").expect("it was kept"));
    }

    /// Gives its pieces one a read; an empty one is a timeout.
    struct Pieces(std::collections::VecDeque<&'static [u8]>);

    impl std::io::Read for Pieces {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let piece = self.0.pop_front().unwrap_or_default();
            buffer[..piece.len()].copy_from_slice(piece);
            if piece.is_empty() { Err(ErrorKind::WouldBlock.into()) } else { Ok(piece.len()) }
        }
    }

    #[test]
    fn a_timeout_in_a_line_loses_nothing_of_it() {
        let pieces: [&[u8]; 5] = [
            GREETING.as_bytes(),
            b"{\"event\": \"DEVICE_",
            b"",
            b"DELETED\", \"data\": {\"device\": \"nvme0\"}}\n",
            b"",
        ];
        let reader = std::io::BufReader::new(Pieces(pieces.into()));
        let mut qmp = Qmp::open(reader, Vec::new()).expect("a connection");
        assert!(!qmp.wait_for("DEVICE_DELETED", "nvme0").expect("a timeout"));
        assert!(qmp.wait_for("DEVICE_DELETED", "nvme0").expect("the rest of the line"));
        assert!(!qmp.wait_for("DEVICE_DELETED", "nvme0").expect("a timeout"));
        let error = qmp.execute(&json!({})).expect_err("no answer").to_string();
        assert_eq!(error, "QEMU does not answer");
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
