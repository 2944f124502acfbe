//! Decoding ITCH: each side takes the same messages of a synthetic day and adds up the references
//! and shares of those that change a book.
//!
//! The day is cut down to the types that change a book and that all three know, over 95 % of a
//! day; the peers stop at a type that they do not know.

use std::hint::select_unpredictable;
use std::ops::ControlFlow;

use anyhow::{Result, anyhow};
use feed_handler::error::{Fault, FeedError};
use feed_handler::flow::{Flow, FlowDecoder};
use feed_handler::framing::{FileFramer, Frame, OnFrame};
use feed_handler::message::{self, Visitor, dispatch};
use feed_handler::orders::OrderMessage;
use feed_handler::synth::{StockSlot, Synth, SynthConfig};
use hybrid_benches::race::{Bench, Group, SLICE};
use itch5::{MessageHandler, Parser, messages as peer};
use itchy::{Body, MessageStream};

/// Types that go into the comparison.
const TYPES: &[u8] = b"AFEXDU";

/// Whole messages of one slice, each behind its length.
type Slice = Vec<u8>;

pub(crate) struct Itch {
    slices: Vec<Slice>,
    next: [usize; 4],
}

/// Cuts a day into slices.
struct Cut {
    slices: Vec<Slice>,
    messages: u64,
}

impl OnFrame<FeedError> for Cut {
    fn frame(&mut self, frame: Frame<'_>) -> Result<(), FeedError> {
        if frame.bytes.first().is_some_and(|kind| TYPES.contains(kind)) {
            if self.messages.is_multiple_of(SLICE) {
                self.slices.push(Slice::new());
            }
            let length = u16::try_from(frame.bytes.len()).unwrap_or(0);
            if let Some(slice) = self.slices.last_mut() {
                slice.extend_from_slice(&length.to_be_bytes());
                slice.extend_from_slice(frame.bytes);
                self.messages += 1;
            }
        }
        Ok(())
    }
}

impl Itch {
    pub(crate) fn new(messages: u64) -> Result<Self> {
        let config = SynthConfig { messages, ..SynthConfig::default() };
        let mut slots = vec![StockSlot::default(); usize::from(config.stocks)];
        let mut feed = vec![0; usize::try_from(config.most_bytes())?];
        let mut synth = Synth::new(config, &mut slots).map_err(|error| anyhow!("{error}"))?;
        let bytes = synth.fill(&mut feed);
        let mut cut = Cut { slices: Vec::new(), messages: 0 };
        let framed = FileFramer::new().push_to(&feed[..bytes], &mut cut);
        framed.map_err(|error| anyhow!("the day is not framed: {error}"))?;
        // Only full ones, so that every slice is the same work.
        if cut.slices.len() > 1 && !cut.messages.is_multiple_of(SLICE) {
            cut.slices.pop();
        }
        let this = Self { slices: cut.slices, next: [0; 4] };
        this.check()?;
        Ok(this)
    }

    /// All three must find the same in every slice.
    fn check(&self) -> Result<()> {
        for (index, slice) in self.slices.iter().enumerate() {
            let sums = [ours(slice), in_one_shape(slice), itch5(slice), itchy(slice)];
            if sums.iter().any(|sum| *sum != sums[0]) {
                return Err(anyhow!("slice {index} is decoded differently: {sums:?}"));
            }
        }
        Ok(())
    }
}

impl Group for Itch {
    fn measure(&mut self, slices: u64, bench: &mut Bench<'_>) -> Result<()> {
        let Self { slices: all, next: [mine, shape, fifth, nom] } = self;
        let what = "ITCH: decode a message";
        let mut first = || ours(take(all, mine));
        bench.race(what, "itch5", slices, &mut first, &mut || itch5(take(all, fifth)));
        bench.race(what, "itchy", slices, &mut first, &mut || itchy(take(all, nom)));
        let what = "ITCH: decode, orders in one shape";
        let mut first = || in_one_shape(take(all, shape));
        bench.race(what, "itch5", slices, &mut first, &mut || itch5(take(all, fifth)));
        bench.race(what, "itchy", slices, &mut first, &mut || itchy(take(all, nom)));
        Ok(())
    }
}

/// The next slice, from the first again after the last.
fn take<'a>(all: &'a [Slice], next: &mut usize) -> &'a [u8] {
    let slice = &all[*next];
    *next = (*next + 1) % all.len();
    slice
}

/// Messages, and the sum of what was asked of them.
#[derive(Default)]
struct Sum {
    messages: u64,
    sum: u64,
}

impl Sum {
    #[inline(always)]
    fn add(&mut self, reference: u64, shares: u32) {
        self.sum = self.sum.rotate_left(1).wrapping_add(reference ^ u64::from(shares));
    }
}

#[inline(never)]
fn ours(slice: &[u8]) -> (u64, u64) {
    let (mut sum, mut framer) = (Sum::default(), FileFramer::new());
    let done = framer.push_to(slice, &mut Dispatch(&mut sum));
    assert!(done.is_ok(), "a valid slice");
    (framer.messages(), sum.sum)
}

/// The same sums without a jump for each type.
#[inline(never)]
fn in_one_shape(slice: &[u8]) -> (u64, u64) {
    let (mut sum, mut decoder) = (Sum::default(), FlowDecoder::new());
    assert!(decoder.feed(slice, &mut sum).is_ok(), "a valid slice");
    (decoder.framer().messages(), sum.sum)
}

impl Flow for Sum {
    #[inline(always)]
    fn orders(&mut self, orders: &[OrderMessage]) -> Result<(), Fault> {
        for m in orders {
            let new_ref = select_unpredictable(m.kind == b'U', m.second, 0);
            self.add(m.order_ref ^ new_ref, m.shares);
        }
        Ok(())
    }
}

struct Dispatch<'a>(&'a mut Sum);

impl OnFrame<FeedError> for Dispatch<'_> {
    #[inline(always)]
    fn frame(&mut self, frame: Frame<'_>) -> Result<(), FeedError> {
        dispatch(frame.bytes, self.0).map_err(|fault| FeedError { at: frame.at, fault })
    }
}

/// A method of our visitor.
macro_rules! ours {
    ($($method:ident, $message:ident, |$m:ident| $reference:expr, $shares:expr;)*) => {
        impl Visitor for Sum {
            type Error = Fault;
            $(
                #[inline(always)]
                fn $method(&mut self, $m: message::$message<'_>) -> Result<(), Fault> {
                    self.add($reference, $shares);
                    Ok(())
                }
            )*
        }
    };
}

ours! {
    add_order, AddOrder, |m| m.order_ref(), m.shares();
    add_order_mpid, AddOrderMpid, |m| m.order_ref(), m.shares();
    order_executed, OrderExecuted, |m| m.order_ref(), m.executed_shares();
    order_cancel, OrderCancel, |m| m.order_ref(), m.cancelled_shares();
    order_delete, OrderDelete, |m| m.order_ref(), 0;
    order_replace, OrderReplace, |m| m.original_ref() ^ m.new_ref(), m.shares();
}

#[inline(never)]
fn itch5(slice: &[u8]) -> (u64, u64) {
    let mut sum = Sum::default();
    let done = Parser::new(slice).parse_stream(&mut sum);
    assert!(done.is_ok(), "a valid slice");
    (sum.messages, sum.sum)
}

/// A method of the handler of `itch5`.
macro_rules! theirs {
    ($($method:ident, $message:ident, |$m:ident| $reference:expr, $shares:expr;)*) => {
        impl MessageHandler for Sum {
            $(
                #[inline(always)]
                fn $method(&mut self, $m: &peer::$message) -> ControlFlow<()> {
                    self.messages += 1;
                    self.add($reference, $shares);
                    ControlFlow::Continue(())
                }
            )*
        }
    };
}

theirs! {
    on_add_order_no_mpid_attribution, AddOrderNoMPIDAttribution,
        |m| m.order_reference_number(), m.shares();
    on_add_order_with_mpid_attribution, AddOrderWithMPIDAttribution,
        |m| m.order_reference_number(), m.shares();
    on_order_executed, OrderExecuted, |m| m.order_reference_number(), m.executed_shares();
    on_order_cancel, OrderCancel, |m| m.order_reference_number(), m.cancelled_shares();
    on_order_delete, OrderDelete, |m| m.order_reference_number(), 0;
    on_order_replace, OrderReplace,
        |m| m.original_order_reference_number() ^ m.new_order_reference_number(), m.shares();
}

#[inline(never)]
fn itchy(slice: &[u8]) -> (u64, u64) {
    let mut sum = Sum::default();
    for message in MessageStream::from_reader(slice) {
        let Ok(message) = message else {
            panic!("a valid slice");
        };
        sum.messages += 1;
        match message.body {
            Body::AddOrder(m) => sum.add(m.reference, m.shares),
            Body::OrderExecuted { reference, executed, .. } => sum.add(reference, executed),
            Body::OrderCancelled { reference, cancelled } => sum.add(reference, cancelled),
            Body::DeleteOrder { reference } => sum.add(reference, 0),
            Body::ReplaceOrder(m) => sum.add(m.old_reference ^ m.new_reference, m.shares),
            _ => {}
        }
    }
    (sum.messages, sum.sum)
}
