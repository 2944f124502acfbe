//! Bugs that are put in on purpose, to prove that the oracle catches them.
//!
//! Only the crate's own tests can plant one: elsewhere [`Plant::of`] is always [`Plant::Nothing`].

/// A bug.
#[cfg_attr(not(test), expect(dead_code, reason = "only tests plant bugs"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plant {
    /// None.
    Nothing,
    /// Some writes are acknowledged and never made.
    AckEarly,
    /// Failed writes and flushes are acknowledged.
    AckFailed,
    /// FUA is not asked for.
    NoFua,
    /// A flush is acknowledged and never made.
    NoFlush,
    /// The device spoils data and nobody says so.
    Silent,
    /// An operation is answered twice.
    AnswerTwice,
    /// An answer is lost.
    AnswerLost,
    /// Writes within AWUN are sent as two commands.
    SplitWrite,
    /// A power cut tears what AWUPF says is whole.
    TornCut,
    /// The controller is reset though it is well.
    ResetAtRandom,
}

impl Plant {
    /// All bugs.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 10] = [
        Self::AckEarly,
        Self::AckFailed,
        Self::NoFua,
        Self::NoFlush,
        Self::Silent,
        Self::AnswerTwice,
        Self::AnswerLost,
        Self::SplitWrite,
        Self::TornCut,
        Self::ResetAtRandom,
    ];

    /// Its number in a plan.
    #[cfg(test)]
    pub(crate) fn number(self) -> u8 {
        let place = Self::ALL.iter().position(|plant| *plant == self);
        place.map_or(0, |place| u8::try_from(place + 1).unwrap())
    }

    /// By its number in a plan, from 1.
    #[cfg(test)]
    pub(crate) fn of(number: u8) -> Self {
        let place = usize::from(number).checked_sub(1);
        place.and_then(|place| Self::ALL.get(place)).copied().unwrap_or(Self::Nothing)
    }

    /// Nothing can be planted here.
    #[cfg(not(test))]
    pub(crate) const fn of(_: u8) -> Self {
        Self::Nothing
    }

    /// The bug, if it strikes this operation.
    pub(crate) fn strikes(self, op: u64) -> Option<Self> {
        (self != Self::Nothing && op % 509 == 77).then_some(self)
    }
}
