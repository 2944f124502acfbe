//! Order messages in one shape, taken from a slice without a branch for their types.
//!
//! [`crate::message::dispatch`] jumps to the code of each type. Which type comes next can't be
//! predicted (it is mispredicted in two of three cases), and a misprediction costs more than
//! reading the fields. [`take`] reads the fields of all seven types that change a book by one
//! piece of code, with their places from a table, and writes them as [`OrderMessage`]s. For
//! whoever wants the order flow and no book: filters, statistics, a copy for another core. With all
//! other messages, and cut anywhere, it is [`crate::flow`].
//!
//! Messages of other known types are passed over. It stops, and says where, at what it can't
//! read: the last 66 bytes of a slice, a type that the table lacks, a length that is not its
//! type's, the end mark. What is left goes through [`crate::framing`], as does a feed that is cut
//! anywhere.

use core::hint::select_unpredictable;

use crate::field::Field;
use crate::framing::MAX_FRAME_BYTES;
use crate::message::{
    AddOrder, AddOrderMpid, HEAD_BYTES, OrderCancel, OrderDelete, OrderExecuted,
    OrderExecutedWithPrice, OrderReplace, length_of,
};

/// What one of the messages A, F, E, C, X, D and U says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OrderMessage {
    /// The order that it is about (that leaves, in U).
    pub order_ref: u64,
    /// The new reference of U, the match number of E and C, else 0.
    pub second: u64,
    /// Nanoseconds since midnight.
    pub timestamp: u64,
    /// Shares that are added, executed, cancelled or shown from now on; 0 in D.
    pub shares: u32,
    /// Price of A, F, U and C, else 0.
    pub price: u32,
    /// Stock locate code.
    pub locate: u16,
    /// The type byte.
    pub kind: u8,
    /// `B` or `S` in A and F, else 0.
    pub side: u8,
}

/// What [`take`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Bytes of the slice that were used: whole messages.
    pub bytes: usize,
    /// Messages in them.
    pub messages: u64,
    /// Order messages among them, now in the output.
    pub orders: usize,
}

/// Where the fields of a type lie, behind the common head, and whether it has them.
#[derive(Clone, Copy)]
struct Shape {
    length: u32,
    shares_at: u8,
    price_at: u8,
    second_at: u8,
    has_shares: bool,
    has_price: bool,
    has_second: bool,
    has_side: bool,
    is_order: bool,
}

/// No prefix can say this.
const NO_LENGTH: u32 = u32::MAX;

/// Place of a field, as the table of [`crate::message`] has it, behind the head.
const fn behind_head(at: usize) -> u8 {
    assert!(at >= HEAD_BYTES && at < HEAD_BYTES + 32);
    #[expect(clippy::cast_possible_truncation, reason = "below 32, as was just seen")]
    let at = (at - HEAD_BYTES) as u8;
    at
}

/// A field: where, or `None`.
type At = Option<usize>;

impl Shape {
    /// Of a type whose messages are passed over, or that the table lacks.
    const fn other(kind: u8) -> Self {
        let length = match length_of(kind) {
            #[expect(clippy::cast_possible_truncation, reason = "no known message exceeds 50")]
            Some(length) => length as u32,
            None => NO_LENGTH,
        };
        Self {
            length,
            shares_at: 0,
            price_at: 0,
            second_at: 0,
            has_shares: false,
            has_price: false,
            has_second: false,
            has_side: false,
            is_order: false,
        }
    }

    /// Of an order message.
    const fn order(kind: u8, shares: At, price: At, second: At, has_side: bool) -> Self {
        let mut shape = Self::other(kind);
        shape.is_order = true;
        shape.has_side = has_side;
        if let Some(at) = shares {
            (shape.has_shares, shape.shares_at) = (true, behind_head(at));
        }
        if let Some(at) = price {
            (shape.has_price, shape.price_at) = (true, behind_head(at));
        }
        if let Some(at) = second {
            (shape.has_second, shape.second_at) = (true, behind_head(at));
        }
        shape
    }
}

static SHAPES: [Shape; 256] = {
    let mut shapes = [Shape::other(0); 256];
    let mut kind = 0_u8;
    loop {
        shapes[kind as usize] = match kind {
            AddOrder::KIND | AddOrderMpid::KIND => {
                Shape::order(kind, Some(20), Some(32), None, true)
            }
            OrderExecuted::KIND => Shape::order(kind, Some(19), None, Some(23), false),
            OrderExecutedWithPrice::KIND => Shape::order(kind, Some(19), Some(32), Some(23), false),
            OrderCancel::KIND => Shape::order(kind, Some(19), None, None, false),
            OrderDelete::KIND => Shape::order(kind, None, None, None, false),
            OrderReplace::KIND => Shape::order(kind, Some(27), Some(31), Some(19), false),
            other => Shape::other(other),
        };
        if kind == u8::MAX {
            break shapes;
        }
        kind += 1;
    }
};

/// Takes the order messages that `slice` begins with, until `out` is full or it comes to what it
/// can't read (see the module). `slice` begins with a message's length prefix.
#[inline]
#[must_use]
pub fn take(slice: &[u8], out: &mut [OrderMessage]) -> Taken {
    run::<false>(slice, out)
}

/// As [`take`], but stops at a message that is no order message too.
#[inline(always)]
pub(crate) fn take_orders(slice: &[u8], out: &mut [OrderMessage]) -> Taken {
    run::<true>(slice, out)
}

#[inline(always)]
fn run<const ONLY_ORDERS: bool>(slice: &[u8], out: &mut [OrderMessage]) -> Taken {
    let (mut rest, mut messages, mut orders) = (slice, 0_u64, 0_usize);
    while let Some(slot) = out.get_mut(orders)
        && let Some(([high, low], body)) = rest.split_first_chunk::<2>()
        && let Some(window) = body.first_chunk::<MAX_FRAME_BYTES>()
    {
        let shape = &SHAPES[usize::from(window[0])];
        let length = u32::from(u16::from_be_bytes([*high, *low]));
        if length != shape.length || ONLY_ORDERS && !shape.is_order {
            break;
        }
        // The low byte is the whole length, as was just seen, and sooner there: the next message
        // can't be looked at before its place is known.
        let Some(behind) = body.get(usize::from(*low)..) else {
            break;
        };
        *slot = OrderMessage::read(window, shape);
        orders = orders.wrapping_add(usize::from(ONLY_ORDERS || shape.is_order));
        messages = messages.wrapping_add(1);
        rest = behind;
    }
    Taken { bytes: slice.len() - rest.len(), messages, orders }
}

/// The message of a known type and its length that `slice` begins with, and what is behind it.
#[inline(always)]
pub(crate) fn known(slice: &[u8]) -> Option<(&[u8], &[u8])> {
    let (prefix, body) = slice.split_first_chunk::<2>()?;
    let length = u16::from_be_bytes(*prefix);
    let kind = *body.first()?;
    if u32::from(length) != SHAPES[usize::from(kind)].length {
        return None;
    }
    body.split_at_checked(usize::from(length))
}

impl OrderMessage {
    /// The order message in `bytes` (exactly one, without its length prefix); `None` if it is of
    /// another type or has not the length of its type.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let shape = &SHAPES[usize::from(*bytes.first()?)];
        if !shape.is_order || bytes.len() != usize::try_from(shape.length).ok()? {
            return None;
        }
        let mut window = [0; MAX_FRAME_BYTES];
        window.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Self::read(&window, shape))
    }

    /// The message at the start of a window that is longer than any.
    #[inline(always)]
    fn read(window: &[u8; MAX_FRAME_BYTES], shape: &Shape) -> Self {
        Self {
            order_ref: Field::get(window, HEAD_BYTES),
            second: read(window, shape.second_at, shape.has_second),
            timestamp: <u64 as Field>::get(window, 3) & 0xFFFF_FFFF_FFFF,
            shares: read(window, shape.shares_at, shape.has_shares),
            price: read(window, shape.price_at, shape.has_price),
            locate: Field::get(window, 1),
            kind: window[0],
            side: read(window, SIDE_AT, shape.has_side),
        }
    }
}

/// Place of the side in A and F.
const SIDE_AT: u8 = behind_head(19);

/// The field at a place behind the head, or zero. The mask is for the compiler, which sees that
/// the field lies in the window: `behind_head` has checked it.
#[inline(always)]
fn read<T: Field + Default>(window: &[u8; MAX_FRAME_BYTES], at: u8, has: bool) -> T {
    let value = T::get(window, HEAD_BYTES + usize::from(at & 31));
    select_unpredictable(has, value, T::default())
}
