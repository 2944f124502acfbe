//! What is to be said of a command that had no answer.

use hybrid_abi::crash::device::{
    COMMAND_ANSWERED, COMMAND_DOUBTFUL, COMMAND_EVENT, COMMAND_EXPIRED, COMMAND_HELD,
    COMMAND_NOT_RUNG, CommandRecord,
};
use hybrid_abi::crash::rings::Rings;

use super::loaded::Loaded;

/// Who owed whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The device answered with this status; the partition did not take it.
    NotReaped(u16),
    /// The device answered after the record was written.
    AnsweredLater(u16),
    /// Answered with an error before, and to be tried again.
    Held,
    /// The device was not told of it.
    NotRung,
    /// It waits for something to happen.
    Event,
    /// The rings do not show an answer any more, if there was one.
    Doubtful,
    /// Nothing came, and its deadline had passed.
    Expired,
    /// Nothing came.
    NeverAnswered,
}

impl Verdict {
    /// Judges a command, with the rings as they were after the end, where they are in the dump.
    pub(crate) fn of(loaded: &Loaded, controller: u32, command: &CommandRecord) -> Self {
        let is = |flag| command.flags & flag != 0;
        if is(COMMAND_ANSWERED) {
            return Self::NotReaped(command.status);
        }
        if command.state == COMMAND_HELD {
            return Self::Held;
        }
        let rings = loaded.image(controller, command.qid);
        let rings = rings.and_then(|(head, bytes)| Rings::new(head, bytes));
        if let Some(status) = rings.and_then(|rings| rings.answer_to(command.cid)) {
            return Self::AnsweredLater(status);
        }
        match command {
            _ if is(COMMAND_NOT_RUNG) => Self::NotRung,
            _ if is(COMMAND_EVENT) => Self::Event,
            _ if is(COMMAND_DOUBTFUL) => Self::Doubtful,
            CommandRecord { state: COMMAND_EXPIRED, .. } => Self::Expired,
            // A request for an event that the rings alone show.
            CommandRecord { qid: 0, opcode: 0x0C, .. } => Self::Event,
            _ => Self::NeverAnswered,
        }
    }

    /// A sentence for people.
    pub(crate) fn sentence(self) -> String {
        let status = super::names::status;
        match self {
            Self::NotReaped(code) => {
                format!("the device completed this ({}) and nobody reaped it", status(code))
            }
            Self::AnsweredLater(code) => {
                format!("the device completed this ({}) after the partition's end", status(code))
            }
            Self::Held => "answered with an error; waits to be tried again".to_owned(),
            Self::NotRung => "the device was never told of it".to_owned(),
            Self::Event => "waits for an event of the device".to_owned(),
            Self::Doubtful => "no answer is left in the ring; it may be written over".to_owned(),
            Self::Expired => "the device never answered; its deadline had passed".to_owned(),
            Self::NeverAnswered => "the device never answered".to_owned(),
        }
    }

    /// A word for programs.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::NotReaped(_) => "not reaped",
            Self::AnsweredLater(_) => "answered later",
            Self::Held => "held",
            Self::NotRung => "not rung",
            Self::Event => "event",
            Self::Doubtful => "doubtful",
            Self::Expired => "expired",
            Self::NeverAnswered => "never answered",
        }
    }
}
