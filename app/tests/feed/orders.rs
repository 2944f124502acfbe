//! The order messages in one shape say what the typed views say.

use crate::oracle::messages;
use crate::support::{Rng, synthetic_day};
use feed_handler::message::Message;
use feed_handler::orders::{OrderMessage, Taken, take};

/// What the typed views say; `None` for a message that is no order's.
fn by_views(bytes: &[u8]) -> Option<OrderMessage> {
    let message = Message::parse(bytes).expect("a message");
    macro_rules! shape {
        ($m:expr, $kind:literal, $order_ref:ident $(, $field:ident: $value:expr)*) => {
            OrderMessage {
                order_ref: $m.$order_ref(),
                timestamp: $m.timestamp(),
                locate: $m.locate(),
                kind: $kind,
                $($field: $value,)*
                ..OrderMessage::default()
            }
        };
    }
    Some(match message {
        Message::AddOrder(m) => shape!(
            m, b'A', order_ref, shares: m.shares(), price: m.price().0, side: m.side().0
        ),
        Message::AddOrderMpid(m) => shape!(
            m, b'F', order_ref, shares: m.shares(), price: m.price().0, side: m.side().0
        ),
        Message::OrderExecuted(m) => shape!(
            m, b'E', order_ref, shares: m.executed_shares(), second: m.match_number()
        ),
        Message::OrderExecutedWithPrice(m) => shape!(
            m, b'C', order_ref, shares: m.executed_shares(), second: m.match_number(),
            price: m.execution_price().0
        ),
        Message::OrderCancel(m) => shape!(m, b'X', order_ref, shares: m.cancelled_shares()),
        Message::OrderDelete(m) => shape!(m, b'D', order_ref),
        Message::OrderReplace(m) => shape!(
            m, b'U', original_ref, second: m.new_ref(), shares: m.shares(), price: m.price().0
        ),
        _ => return None,
    })
}

#[test]
fn a_day_taken_by_any_number_of_orders_is_what_the_views_say() {
    let (_, feed) = synthetic_day(3, 40, 60_000);
    let expected: Vec<_> = messages(&feed).filter_map(by_views).collect();
    let mut rng = Rng::new(11);
    let (mut got, mut rest, mut seen) = (Vec::new(), &feed[..], 0);
    loop {
        let mut out = vec![
            OrderMessage { kind: 0xEE, ..OrderMessage::default() };
            1 + rng.below(90) as usize
        ];
        let taken = take(rest, &mut out);
        got.extend_from_slice(&out[..taken.orders]);
        rest = &rest[taken.bytes..];
        seen += taken.messages;
        if taken.orders < out.len() {
            break;
        }
    }
    // The last messages of the day are system events and the end mark.
    assert!(rest.len() <= 66 + 2 + 50, "{} bytes are left", rest.len());
    assert_eq!(seen + messages(rest).count() as u64, 60_000);
    got.extend(messages(rest).filter_map(by_views));
    assert!(got == expected, "{} orders, not {}", got.len(), expected.len());
}

#[test]
fn it_stops_at_what_it_cannot_read_and_says_where() {
    let (_, feed) = synthetic_day(4, 3, 1000);
    let before: usize = messages(&feed).take(100).map(|m| m.len() + 2).sum();
    let orders = messages(&feed).take(100).filter_map(by_views).count();
    let wanted = Taken { bytes: before, messages: 100, orders };
    let mut out = [OrderMessage::default(); 256];
    let unknown = [0, 20, b'z'];
    let wrong_length = [0, 20, b'D'];
    let long = [1, 19, b'D']; // The low byte alone would be right.
    let mark = [0, 0, b'D'];
    let short_unknown = [0xFF, 0xFF, 0];
    for odd in [unknown, wrong_length, long, mark, short_unknown] {
        let mut feed = feed.clone();
        feed[before..before + 3].copy_from_slice(&odd);
        assert_eq!(take(&feed, &mut out), wanted, "{odd:?}");
    }
}

#[test]
fn any_bytes_of_any_length_are_taken_or_left() {
    let (_, feed) = synthetic_day(5, 3, 1000);
    let mut out = [OrderMessage::default(); 8];
    for len in 0..400 {
        let taken = take(&feed[..len], &mut out);
        assert!(taken.bytes <= len && taken.messages as usize >= taken.orders);
        assert_eq!(messages(&feed[..taken.bytes]).count() as u64, taken.messages);
    }
    assert_eq!(take(&feed, &mut []), Taken { bytes: 0, messages: 0, orders: 0 });
    let mut rng = Rng::new(6);
    for _ in 0..2000 {
        let wild: Vec<u8> = (0..rng.below(200)).map(|_| rng.below(256) as u8).collect();
        assert!(take(&wild, &mut out).bytes <= wild.len());
    }
}
