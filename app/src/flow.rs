//! A whole feed, order messages in one shape: the fastest way through it for who keeps no book.
//!
//! [`FlowDecoder`] gives order messages (97 % of a day) as [`OrderMessage`]s, many at once, read
//! without a jump for each type ([`crate::orders`] says what that is worth), and every other
//! message as its typed view, in its place between them. It frames as [`FileFramer`] does, checks
//! what [`crate::message::dispatch`] checks, and fails where they fail; results do not depend on
//! where the feed is cut.
//!
//! ```text
//!             carried over, first, odd, last 66 bytes of a slice
//!   slice ---------------------------------------------------------> framer, one message
//!     |                                                                       |
//!     '--> order messages, up to 64 --> another message --> order messages .. '
//! ```

use crate::error::{Fault, FeedError};
use crate::framing::{FileFramer, Frame, OnFrame};
use crate::message::{Visitor, dispatch};
use crate::orders::{OrderMessage, known, take_orders};

/// Order messages that are handed over at once: their 2.5 KiB stay in the first cache.
const BATCH: usize = 64;

/// What is called with a feed's messages. The methods of [`Visitor`] for A, F, E, C, X, D and U are
/// never called.
pub trait Flow: Visitor<Error = Fault> {
    /// The next order messages, in order, one or more.
    ///
    /// # Errors
    /// What the implementor fails with; the place of the first of them is told with it.
    fn orders(&mut self, orders: &[OrderMessage]) -> Result<(), Fault>;
}

/// Splits a file, cut into slices anywhere, and decodes it.
///
/// An error ends the feed: what is fed after one is undefined, though harmless.
#[derive(Clone, Debug)]
pub struct FlowDecoder {
    framer: FileFramer,
    batch: [OrderMessage; BATCH],
}

impl Default for FlowDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl FlowDecoder {
    /// A decoder at the start of a feed.
    #[must_use]
    pub fn new() -> Self {
        Self { framer: FileFramer::new(), batch: [OrderMessage::default(); BATCH] }
    }

    /// Feeds the next bytes of the feed.
    ///
    /// # Errors
    /// Those of [`FileFramer::push`] and [`dispatch`], and what `flow` fails with.
    #[inline]
    pub fn feed<F: Flow>(&mut self, slice: &[u8], flow: &mut F) -> Result<(), FeedError> {
        let mut rest = slice;
        while !rest.is_empty() {
            if self.framer.is_between() {
                rest = self.fast(rest, flow)?;
            }
            let used = self.framer.push_one(rest, &mut One(flow))?;
            rest = rest.get(used..).unwrap_or(&[]);
        }
        Ok(())
    }

    /// Known messages, until the end of the slice is near or something is odd; gives the rest.
    #[inline(always)]
    fn fast<'a, F: Flow>(&mut self, slice: &'a [u8], flow: &mut F) -> Result<&'a [u8], FeedError> {
        let mut rest = slice;
        loop {
            let taken = take_orders(rest, &mut self.batch);
            if let Some(orders @ [_, ..]) = self.batch.get(..taken.orders) {
                flow.orders(orders).map_err(|fault| self.failed(fault))?;
            }
            self.framer.pass_over(taken.bytes, taken.messages);
            rest = rest.get(taken.bytes..).unwrap_or(&[]);
            if taken.orders == BATCH {
                continue;
            }
            // It stopped before another type, before what the framer looks at, or near the end.
            let Some((bytes, behind)) = known(rest) else {
                return Ok(rest);
            };
            One(flow).message(bytes).map_err(|fault| self.failed(fault))?;
            self.framer.pass_over(rest.len() - behind.len(), 1);
            rest = behind;
        }
    }

    /// The next message, or batch of them, has failed.
    #[cold]
    fn failed(&self, fault: Fault) -> FeedError {
        FeedError { at: self.framer.position(), fault }
    }

    /// The framing: where the next message begins, how many were found, whether the feed may end.
    #[must_use]
    pub const fn framer(&self) -> &FileFramer {
        &self.framer
    }
}

/// One message, whatever its type.
struct One<'a, F>(&'a mut F);

impl<F: Flow> One<'_, F> {
    #[inline(never)]
    fn message(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        match OrderMessage::parse(bytes) {
            Some(order) => self.0.orders(&[order]),
            None => dispatch(bytes, self.0),
        }
    }
}

impl<F: Flow> OnFrame<FeedError> for One<'_, F> {
    fn frame(&mut self, frame: Frame<'_>) -> Result<(), FeedError> {
        self.message(frame.bytes).map_err(|fault| {
            let fault = match fault {
                Fault::Message(error) => error.with_length(usize::from(frame.length)).into(),
                other => other,
            };
            FeedError { at: frame.at, fault }
        })
    }
}
