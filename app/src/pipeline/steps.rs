//! A slice of a feed with a clock between its steps: where the time of each message goes.
//!
//! Called by who reports it, for a slice now and then: looks at the clock cost as much as the
//! steps. The books, the counts and what the sink hears are those of [`Pipeline::feed`], of which
//! this is a second copy, apart so that the first one knows nothing of it.
//!
//! ```text
//!  end of the last message ──► framed, type and length known ──► applied ──► end
//!                         decode                        book  ▲   │  book
//!                                                             └───┴ output, each event
//! ```
//! Fields are read where they are used, so that loading them belongs to the books.

use super::{Handler, Pipeline};
use crate::book::{Apply, BboChange, Sink, Status, Trade};
use crate::error::{Fault, FeedError};
use crate::field::Symbol;
use crate::framing::{Frame, OnFrame};
use crate::message::{self, Unknown, Visitor, dispatch, for_each_message};

/// Where a message's time went, in ticks of the caller's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// From the end of the message before it until its type and length are known.
    pub decode: u64,
    /// In the books, its fields loaded.
    pub book: u64,
    /// In the sink.
    pub output: u64,
    /// Events that the sink was told.
    pub events: u32,
}

/// Who looks at a clock and takes what was measured.
pub trait StepClock {
    /// The time, in ticks.
    fn now(&self) -> u64;
    /// A message is done.
    fn message(&mut self, steps: &Steps);

    /// What a look costs: the least of a few, taken off each step.
    fn cost(&self) -> u64 {
        let looks = (0..64).map(|_| {
            let before = self.now();
            self.now().saturating_sub(before)
        });
        looks.min().unwrap_or(0)
    }
}

/// The time since the last look, without the look.
struct Laps<'a, C> {
    clock: &'a mut C,
    cost: u64,
    last: u64,
    steps: Steps,
}

impl<C: StepClock> Laps<'_, C> {
    #[inline(always)]
    fn lap(&mut self) -> u64 {
        let now = self.clock.now();
        let took = now.saturating_sub(self.last).saturating_sub(self.cost);
        self.last = now;
        took
    }

    /// The message is over; what its clock does with it is nobody's step.
    fn end(&mut self) {
        self.steps.book += self.lap();
        self.clock.message(&self.steps);
        self.steps = Steps::default();
        self.last = self.clock.now();
    }
}

/// A sink between two looks at the clock.
struct Timed<'a, S, C> {
    sink: &'a mut S,
    laps: Laps<'a, C>,
}

impl<S: Sink, C: StepClock> Timed<'_, S, C> {
    #[inline(always)]
    fn tell(&mut self, tell: impl FnOnce(&mut S)) {
        self.laps.steps.book += self.laps.lap();
        tell(self.sink);
        self.laps.steps.output += self.laps.lap();
        self.laps.steps.events += 1;
    }
}

impl<S: Sink, C: StepClock> Sink for Timed<'_, S, C> {
    fn stock(&mut self, locate: u16, symbol: Symbol) {
        self.tell(|sink| sink.stock(locate, symbol));
    }

    fn bbo(&mut self, change: &BboChange) {
        self.tell(|sink| sink.bbo(change));
    }

    fn trade(&mut self, trade: &Trade) {
        self.tell(|sink| sink.trade(trade));
    }

    fn status(&mut self, status: &Status) {
        self.tell(|sink| sink.status(status));
    }
}

/// The visitor of the books behind a look at the clock.
struct Visit<'a, 'm, 't, S, C>(Apply<'a, 'm, Timed<'t, S, C>>);

macro_rules! visits {
    ($(
        $(#[$doc:meta])*
        $name:ident $method:ident $kind:literal $len:literal { $($fields:tt)* }
    )*) => {
        impl<S: Sink, C: StepClock> Visitor for Visit<'_, '_, '_, S, C> {
            type Error = Fault;

            $(
                fn $method(&mut self, message: message::$name<'_>) -> Result<(), Fault> {
                    self.decoded();
                    self.0.$method(message)
                }
            )*

            fn unknown(&mut self, message: Unknown<'_>) -> Result<(), Fault> {
                self.decoded();
                self.0.unknown(message)
            }
        }
    };
}
for_each_message!(visits);

impl<S: Sink, C: StepClock> Visit<'_, '_, '_, S, C> {
    #[inline(always)]
    fn decoded(&mut self) {
        let laps = &mut self.0.sink.laps;
        laps.steps.decode += laps.lap();
    }
}

/// A handler and the sink of one call.
struct Stepped<'a, 'm, S, C> {
    handler: &'a mut Handler<'m>,
    sink: Timed<'a, S, C>,
}

impl<S: Sink, C: StepClock> OnFrame<FeedError> for Stepped<'_, '_, S, C> {
    fn frame(&mut self, frame: Frame<'_>) -> Result<(), FeedError> {
        let Self { handler, sink } = self;
        handler.count(&frame);
        let apply = Apply { books: &mut handler.books, sink: &mut *sink };
        let outcome = match dispatch(frame.bytes, &mut Visit(apply)) {
            Ok(()) => Ok(()),
            Err(fault) => handler.refuse(frame.length, frame.at, fault),
        };
        sink.laps.end();
        outcome
    }
}

impl Pipeline<'_> {
    /// As [`Pipeline::feed`], and tells `clock` of each message where its time went. `cost` is what
    /// a look at the clock costs ([`StepClock::cost`]).
    ///
    /// # Errors
    /// As [`Pipeline::feed`].
    #[cold]
    #[inline(never)]
    pub fn feed_in_steps<S: Sink, C: StepClock>(
        &mut self,
        slice: &[u8],
        sink: &mut S,
        (clock, cost): (&mut C, u64),
    ) -> Result<(), FeedError> {
        let Self { framer, handler } = self;
        let last = clock.now();
        let laps = Laps { clock, cost, last, steps: Steps::default() };
        framer.push_to(slice, &mut Stepped { handler, sink: Timed { sink, laps } })
    }
}
