//! A partition's alerts on the host's side: who hears of an error that a partition survived.
//!
//! The handle of a partition takes alerts out of its event ring wherever it reads it (by polling,
//! or by the pump's thread) and tells the sink of its [`crate::PartitionSpec`]; without one
//! they are lines among the runtime's warnings, each of them. The event stays an event: a program
//! that reads the ring finds it there as well. A critical alert is for a supervisor what a death
//! is: the sink
//! starts the same steps. What the record says is the partition's word and not believed further
//! than as text.

use std::fmt;
use std::sync::Arc;

use hybrid_abi::alert::{Alert, KIND_ALERT, Severity};
use hybrid_abi::{Record as _, RecordHeader};

use crate::warnings::{WarningKind, Warnings};

/// An error that a partition survived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionAlert {
    /// The partition's name.
    pub partition: String,
    /// Its CPU.
    pub cpu: u32,
    /// How bad it is.
    pub severity: Severity,
    /// The entry's own code.
    pub code: u32,
    /// Counts the partition's alerts from 1.
    pub number: u32,
    /// TSC at which it was raised.
    pub tsc: u64,
    /// The task that raised it; empty outside of one.
    pub task: String,
    /// What happened, without control characters.
    pub text: String,
}

#[cfg(test)]
impl PartitionAlert {
    /// One that a supervisor acts on.
    pub(crate) fn critical_of(partition: &str) -> Self {
        Self {
            partition: partition.to_owned(),
            cpu: 1,
            severity: Severity::CRITICAL,
            code: 7,
            number: 1,
            tsc: 0,
            task: String::new(),
            text: "the book is torn".to_owned(),
        }
    }
}

impl fmt::Display for PartitionAlert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (severity, code) = (self.severity.word(), self.code);
        write!(f, "partition {} on cpu {}: {severity} alert {code}", self.partition, self.cpu)?;
        if !self.task.is_empty() {
            write!(f, " of task {}", self.task)?;
        }
        write!(f, ": {}", self.text)
    }
}

type Tell = dyn Fn(&PartitionAlert) + Send + Sync;

/// Who hears of a partition's alerts. It is called on whichever host thread reads the events, and
/// should return soon.
#[derive(Clone)]
pub struct AlertSink(Arc<Tell>);

impl AlertSink {
    /// Calls `tell` for each alert.
    #[must_use]
    pub fn new(tell: impl Fn(&PartitionAlert) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    /// Tells it.
    pub(crate) fn tell(&self, alert: &PartitionAlert) {
        (self.0)(alert);
    }

    /// A line for each among the warnings.
    #[must_use]
    pub fn to_warnings(warnings: &Warnings) -> Self {
        let warnings = warnings.clone();
        Self::new(move |alert| warnings.say_each(WarningKind::Alert, || alert.to_string()))
    }
}

impl fmt::Debug for AlertSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AlertSink")
    }
}

/// Whose alerts go where.
#[derive(Clone, Debug)]
pub(crate) struct AlertTap {
    pub(crate) partition: String,
    pub(crate) cpu: u32,
    pub(crate) sink: AlertSink,
}

impl AlertTap {
    /// Looks at an event on its way to the program.
    pub(crate) fn look(&self, header: RecordHeader, payload: &[u8]) {
        if header.kind != KIND_ALERT {
            return;
        }
        // One that is too short is of no writer that we know; the program gets it in any case.
        let Ok(alert) = Alert::parse(payload) else { return };
        self.sink.tell(&PartitionAlert {
            partition: self.partition.clone(),
            cpu: self.cpu,
            severity: alert.severity,
            code: alert.code,
            number: alert.number,
            tsc: alert.tsc,
            task: alert.task.as_str().to_owned(),
            text: printable(alert.line()),
        });
    }
}

/// A partition's text goes to terminals and logs: what could move a cursor or end a line does not.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hybrid_abi::Name;
    use hybrid_abi::alert::ALERT_TEXT_BYTES;
    use std::sync::Mutex;
    use zerocopy::IntoBytes;

    fn alert(line: &[u8]) -> Alert {
        let mut text = [0; ALERT_TEXT_BYTES];
        text[..line.len()].copy_from_slice(line);
        Alert {
            tsc: 1,
            code: 7,
            severity: Severity::CRITICAL,
            number: 1,
            text_len: u32::try_from(line.len()).expect("short"),
            task: Name::lossy("journal"),
            text,
        }
    }

    #[test]
    fn an_alert_is_one_clean_line_and_other_events_pass() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&lines);
        let sink = AlertSink::new(move |alert| told.lock().expect("lock").push(alert.to_string()));
        let tap = AlertTap { partition: "books".to_owned(), cpu: 3, sink };
        let header = |kind, len| RecordHeader { kind, len, tag: 0 };
        tap.look(header(KIND_ALERT, 248), alert(b"torn\x1b[2J\nblock").as_bytes());
        tap.look(header(KIND_ALERT, 10), &[0; 10]);
        tap.look(header(KIND_ALERT - 1, 248), alert(b"no alert").as_bytes());
        assert_eq!(
            *lines.lock().expect("lock"),
            ["partition books on cpu 3: critical alert 7 of task journal: torn?[2J?block"]
        );
    }

    #[test]
    fn without_a_sink_each_alert_is_a_line_among_the_warnings() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&lines);
        let warnings = Warnings::to(move |w| told.lock().expect("lock").push(w.to_string()));
        let sink = AlertSink::to_warnings(&warnings);
        let tap = AlertTap { partition: "books".to_owned(), cpu: 3, sink };
        let header = RecordHeader { kind: KIND_ALERT, len: 248, tag: 0 };
        for _ in 0..2 {
            tap.look(header, alert(b"late").as_bytes());
        }
        assert_eq!(lines.lock().expect("lock").len(), 2);
    }
}
