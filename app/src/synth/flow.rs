//! The messages of the synthetic day, one after another.

use super::stock::{Resting, TICK, lot};
use super::{DRAWS, MAX_WRITE, Step, Synth};
use crate::encode::{self, Head};
use crate::field::{EventCode, HaltAction, Price4, Price8, Side, Symbol, TradingState};

/// Nanoseconds.
pub(super) const HOUR: u64 = 3_600_000_000_000;
const MINUTE: u64 = HOUR / 60;

/// The mix of order flow, in 4096ths (shares of a public day; what is below 0.1 % is rounded up).
const MIX: [(u8, usize); 18] = [
    (b'A', 1748),
    (b'D', 1706),
    (b'U', 328),
    (b'E', 102),
    (b'F', 61),
    (b'I', 61),
    (b'X', 49),
    (b'P', 25),
    (b'C', 4),
    (b'H', 2),
    (b'Y', 2),
    (b'N', 2),
    (b'J', 1),
    (b'K', 1),
    (b'h', 1),
    (b'B', 1),
    (b'O', 1),
    (b'W', 1),
];

/// The mix as a table to draw from.
static KINDS: [u8; DRAWS as usize] = {
    let mut kinds = [0; DRAWS as usize];
    let (mut row, mut at) = (0, 0);
    while row < MIX.len() {
        let mut left = MIX[row].1;
        while left > 0 {
            kinds[at] = MIX[row].0;
            at += 1;
            left -= 1;
        }
        row += 1;
    }
    assert!(at == DRAWS as usize, "the mix adds up");
    kinds
};

/// Types shown at the start of the session, so that a short day has them all: halts with their
/// end, and what needs an order to rest.
const SHOWN: [u8; 20] = *b"hhHHHWKJNOYPBIFUXECD";

/// Orders rest on a side before any is taken away.
const FEW: u32 = 3;

/// The buffer of one message.
type Out = [u8; MAX_WRITE];

impl Synth<'_> {
    /// Writes the next message with its length; 0 when the day is over.
    #[inline]
    pub(super) fn next(&mut self, out: &mut Out) -> usize {
        match self.step {
            Step::Session(left) if left > 0 => {
                self.step = Step::Session(left - 1);
                self.made += 1;
                self.flow(left, 16 * HOUR, out)
            }
            Step::Done => 0,
            Step::Mark => {
                self.step = Step::Done;
                out[..2].fill(0);
                2
            }
            _ => {
                self.made += 1;
                self.rare_step(out)
            }
        }
    }

    /// All that is not the session's flow.
    #[cold]
    fn rare_step(&mut self, out: &mut Out) -> usize {
        let last = self.config.stocks - 1;
        let then = |index: u16, same: fn(u16) -> Step, next: Step| {
            if index < last { same(index + 1) } else { next }
        };
        let (before, within, after) = self.shares_of_day();
        let (next, bytes) = match self.step {
            Step::Start => (Step::Decline, self.mark(EventCode::START_OF_MESSAGES, out)),
            Step::Decline => (Step::Directory(0), self.decline(out)),
            Step::Directory(stock) => {
                (then(stock, Step::Directory, Step::Trading(0)), self.directory(stock, out))
            }
            Step::Trading(stock) => {
                self.stock = stock;
                (then(stock, Step::Trading, Step::RegSho(0)), self.trading(out))
            }
            Step::RegSho(stock) => {
                self.stock = stock;
                let participants = Step::Participants(self.config.participants());
                (then(stock, Step::RegSho, participants), self.reg_sho(out))
            }
            Step::Participants(left) => {
                let next = if left > 1 { Step::Participants(left - 1) } else { Step::SystemHours };
                (next, self.participant(left, out))
            }
            Step::SystemHours => {
                self.now = self.now.max(4 * HOUR);
                (Step::Premarket(before), self.mark(EventCode::START_OF_SYSTEM_HOURS, out))
            }
            Step::Premarket(left) if left > 0 => {
                (Step::Premarket(left - 1), self.flow(left, 9 * HOUR + 29 * MINUTE, out))
            }
            Step::Premarket(_) => {
                self.now = self.now.max(9 * HOUR + 30 * MINUTE);
                (Step::OpeningCross(0), self.mark(EventCode::START_OF_MARKET_HOURS, out))
            }
            Step::OpeningCross(stock) => (
                then(stock, Step::OpeningCross, Step::Session(within)),
                self.cross(stock, b'O', out),
            ),
            Step::Session(_) => {
                self.now = self.now.max(16 * HOUR);
                (Step::ClosingCross(0), self.mark(EventCode::END_OF_MARKET_HOURS, out))
            }
            Step::ClosingCross(stock) => {
                (then(stock, Step::ClosingCross, Step::Late(after)), self.cross(stock, b'C', out))
            }
            Step::Late(left) if left > 0 => {
                (Step::Late(left - 1), self.flow(left, 20 * HOUR - MINUTE, out))
            }
            Step::Late(_) => {
                self.now = self.now.max(20 * HOUR);
                (Step::End, self.mark(EventCode::END_OF_SYSTEM_HOURS, out))
            }
            Step::End => (Step::Mark, self.mark(EventCode::END_OF_MESSAGES, out)),
            Step::Mark | Step::Done => (Step::Done, 0),
        };
        self.step = next;
        bytes
    }

    /// Messages of flow before, within and after the session.
    fn shares_of_day(&self) -> (u64, u64, u64) {
        let flow = self.config.messages.saturating_sub(self.config.fixed_messages());
        let (before, after) = (flow / 50, flow / 100);
        (before, flow - before - after, after)
    }

    /// One message of order flow; `left` of them are to come before `end`.
    #[inline(always)]
    fn flow(&mut self, left: u64, end: u64, out: &mut Out) -> usize {
        if self.burst == 0 {
            self.next_burst(left, end);
        }
        self.burst -= 1;
        // Within a burst: a fifth of a microsecond to sixteen.
        let pace = 200 + (self.random.next() & 0x3FFF);
        self.now = (self.now + pace).min(end.max(self.now));
        if self.shown < SHOWN.len() && matches!(self.step, Step::Session(_)) {
            let kind = SHOWN[self.shown];
            let bytes = self.make(kind, out);
            self.shown += usize::from(out[2] == kind);
            return bytes;
        }
        let kind = KINDS[self.random.below(DRAWS) as usize];
        self.make(kind, out)
    }

    /// Chooses a stock and lets time pass: mostly microseconds, now and then a lull, so long that
    /// the day's messages fill the day. A few stocks are awake at a time and take turns.
    fn next_burst(&mut self, left: u64, end: u64) {
        const LONGEST: u32 = 12;
        // One burst in this many comes after a lull, or wakes another stock.
        const LULL: u32 = 32;
        const WAKE: u32 = 8;
        self.burst = 1 + self.random.below(LONGEST);
        let turn = (self.random.next() >> 32) as usize % self.awake.len();
        if self.random.below(WAKE) == 0 {
            self.awake[turn] = self.draws[self.random.below(DRAWS) as usize];
        }
        self.stock = self.awake[turn];
        let mean = if self.random.below(LULL) == 0 {
            let lulls = left / u64::from(LONGEST / 2 * LULL) + 1;
            end.saturating_sub(self.now) / lulls
        } else {
            50_000
        };
        self.now = (self.now + self.random.exponential(mean)).min(end.max(self.now));
    }

    /// A message of this type, or of the nearest one that is possible now.
    #[inline(always)]
    fn make(&mut self, kind: u8, out: &mut Out) -> usize {
        let side = (self.random.next() >> 63) as usize;
        match kind {
            b'A' => self.add(side, false, out),
            b'D' => self.delete(side, out),
            b'U' => self.replace(side, out),
            b'F' => self.add(side, true, out),
            b'X' => self.cancel(side, out),
            b'E' => self.execute(side, false, out),
            b'C' => self.execute(side, true, out),
            b'P' => self.hidden(side, out),
            b'I' => self.imbalance(out),
            _ => self.rare(kind, out),
        }
    }

    #[cold]
    fn rare(&mut self, kind: u8, out: &mut Out) -> usize {
        match kind {
            b'H' => self.trading(out),
            b'Y' => self.reg_sho(out),
            b'h' => self.halt(out),
            b'K' => self.ipo(out),
            b'J' => self.collar(out),
            b'N' => self.retail(out),
            b'O' => self.listing(out),
            b'W' => self.breach(out),
            _ => self.broken(out),
        }
    }

    /// The fields that every message of a burst's stock begins with.
    #[inline(always)]
    fn head(&mut self) -> Head {
        self.tracking = self.tracking.wrapping_add(2);
        Head { locate: self.stock + 1, tracking: self.tracking, timestamp: self.now }
    }

    fn market_head(&mut self) -> Head {
        Head { locate: 0, ..self.head() }
    }

    #[inline(always)]
    fn symbol(&self) -> Symbol {
        Symbol(self.stocks[usize::from(self.stock)].symbol)
    }

    /// References are dense but for those of orders that never show.
    #[inline(always)]
    fn new_ref(&mut self) -> u64 {
        let skipped = u64::from(self.random.next() & 7 == 0);
        self.next_ref += 1 + skipped;
        self.next_ref
    }

    #[inline(always)]
    fn new_match(&mut self) -> u64 {
        self.next_match += 1;
        self.next_match
    }

    #[inline(always)]
    fn add(&mut self, side: usize, attributed: bool, out: &mut Out) -> usize {
        let index = usize::from(self.stock);
        if self.stocks[index].sides[side].is_full() {
            return self.delete(side, out);
        }
        let head = self.head();
        let order_ref = self.new_ref();
        let price = self.stocks[index].price(side, &mut self.random);
        let shares = lot(&mut self.random);
        self.stocks[index].sides[side].push(side, Resting { order_ref, price, shares });
        let (side, stock, price) = (letter(side), self.symbol(), Price4(price));
        if attributed {
            let attribution = *b"NITE";
            encode::AddOrderMpid { head, order_ref, side, shares, stock, price, attribution }
                .write(out)
        } else {
            encode::AddOrder { head, order_ref, side, shares, stock, price }.write(out)
        }
        .unwrap_or(0)
    }

    /// An order that may be taken away, its side having enough of them.
    #[inline(always)]
    fn choose(&mut self, side: usize) -> Option<(usize, Resting)> {
        let orders = &self.stocks[usize::from(self.stock)].sides[side];
        if orders.len() < FEW {
            return None;
        }
        let at = orders.choose(&mut self.random)?;
        Some((at, orders.get(side, at)))
    }

    #[inline(always)]
    fn side_orders(&mut self, side: usize) -> &mut super::stock::SideOrders {
        &mut self.stocks[usize::from(self.stock)].sides[side]
    }

    #[inline(always)]
    fn delete(&mut self, side: usize, out: &mut Out) -> usize {
        let Some((at, Resting { order_ref, .. })) = self.choose(side) else {
            return self.add(side, false, out);
        };
        self.side_orders(side).remove(at);
        encode::OrderDelete { head: self.head(), order_ref }.write(out).unwrap_or(0)
    }

    #[inline(always)]
    fn replace(&mut self, side: usize, out: &mut Out) -> usize {
        let Some((at, old)) = self.choose(side) else {
            return self.add(side, false, out);
        };
        let head = self.head();
        self.side_orders(side).remove(at);
        let new_ref = self.new_ref();
        let price = self.stocks[usize::from(self.stock)].price(side, &mut self.random);
        let shares = if self.random.chance(64) { lot(&mut self.random) } else { old.shares };
        self.side_orders(side).push(side, Resting { order_ref: new_ref, price, shares });
        let (original_ref, price) = (old.order_ref, Price4(price));
        encode::OrderReplace { head, original_ref, new_ref, shares, price }.write(out).unwrap_or(0)
    }

    fn cancel(&mut self, side: usize, out: &mut Out) -> usize {
        let Some((at, Resting { order_ref, shares, .. })) = self.choose(side) else {
            return self.add(side, false, out);
        };
        if shares < 2 {
            return self.delete(side, out);
        }
        let cancelled_shares = 1 + self.random.below(shares - 1);
        self.side_orders(side).take_shares(at, cancelled_shares);
        encode::OrderCancel { head: self.head(), order_ref, cancelled_shares }
            .write(out)
            .unwrap_or(0)
    }

    fn execute(&mut self, side: usize, priced: bool, out: &mut Out) -> usize {
        let orders = self.side_orders(side);
        let front = if orders.len() < FEW { None } else { orders.front() };
        let Some(at) = front else {
            return self.add(side, false, out);
        };
        let Resting { order_ref, shares, price } = orders.get(side, at);
        let all = self.random.chance(150);
        let executed_shares = if all { shares } else { 1 + self.random.below(shares) };
        self.side_orders(side).take_shares(at, executed_shares);
        let (head, match_number) = (self.head(), self.new_match());
        if !priced {
            return encode::OrderExecuted { head, order_ref, executed_shares, match_number }
                .write(out)
                .unwrap_or(0);
        }
        let printable = if self.random.chance(128) { b'Y' } else { b'N' };
        let execution_price = Price4(price.saturating_add(TICK / 2));
        let message = encode::OrderExecutedWithPrice {
            head,
            order_ref,
            executed_shares,
            match_number,
            printable,
            execution_price,
        };
        message.write(out).unwrap_or(0)
    }

    fn hidden(&mut self, side: usize, out: &mut Out) -> usize {
        let price = Price4(self.fair_price());
        let message = encode::NonCrossTrade {
            head: self.head(),
            order_ref: 0,
            side: letter(side),
            shares: lot(&mut self.random),
            stock: self.symbol(),
            price,
            match_number: self.new_match(),
        };
        message.write(out).unwrap_or(0)
    }

    /// Between the best bid and the best offer.
    fn fair_price(&self) -> u32 {
        let stock = &self.stocks[usize::from(self.stock)];
        let bid = stock.best(0).unwrap_or(stock.base - TICK);
        let ask = stock.best(1).unwrap_or(stock.base + TICK);
        bid / 2 + ask / 2
    }

    fn imbalance(&mut self, out: &mut Out) -> usize {
        let fair = self.fair_price();
        let paired = u64::from(self.random.below(100_000));
        let imbalance = u64::from(self.random.below(10_000));
        let message = encode::NetOrderImbalance {
            head: self.head(),
            paired_shares: paired,
            imbalance_shares: imbalance,
            direction: if imbalance == 0 { b'N' } else { letter((imbalance & 1) as usize).0 },
            stock: self.symbol(),
            far_price: Price4(fair + TICK),
            near_price: Price4(fair),
            reference_price: Price4(fair),
            cross_type: if self.now < 12 * HOUR { b'O' } else { b'C' },
            price_variation: b'1',
        };
        message.write(out).unwrap_or(0)
    }
}

/// What belongs to the frame of the day.
impl Synth<'_> {
    fn mark(&mut self, event: EventCode, out: &mut Out) -> usize {
        encode::SystemEvent { head: self.market_head(), event }.write(out).unwrap_or(0)
    }

    fn decline(&mut self, out: &mut Out) -> usize {
        let level = |percent: u64| Price8(5_000 * 1_000_000 * percent);
        let message = encode::MwcbDeclineLevel {
            head: self.market_head(),
            level_1: level(93),
            level_2: level(87),
            level_3: level(80),
        };
        message.write(out).unwrap_or(0)
    }

    fn directory(&mut self, stock: u16, out: &mut Out) -> usize {
        self.stock = stock;
        self.now += 1000;
        let message = encode::StockDirectory {
            head: self.head(),
            stock: self.symbol(),
            market_category: b'Q',
            financial_status: b'N',
            round_lot_size: 100,
            round_lots_only: b'N',
            issue_classification: b'C',
            issue_sub_type: *b"Z ",
            authenticity: b'P',
            short_sale_threshold: b'N',
            ipo_flag: b'N',
            luld_tier: b'1',
            etp_flag: b'N',
            etp_leverage: 0,
            inverse: b'N',
        };
        message.write(out).unwrap_or(0)
    }

    /// A pause goes on to quotation only and back to trading; each stock starts as trading.
    fn trading(&mut self, out: &mut Out) -> usize {
        let stock = &mut self.stocks[usize::from(self.stock)];
        let state = [TradingState::TRADING, TradingState::PAUSED, TradingState::QUOTATION_ONLY]
            [usize::from(stock.pauses % 3)];
        stock.pauses = stock.pauses.wrapping_add(1) % 3;
        let reason = if state == TradingState::TRADING { *b"    " } else { *b"LUDP" };
        let (head, stock) = (self.head(), self.symbol());
        encode::StockTradingAction { head, stock, state, reserved: b' ', reason }
            .write(out)
            .unwrap_or(0)
    }

    fn reg_sho(&mut self, out: &mut Out) -> usize {
        let action = if self.random.chance(8) { b'1' } else { b'0' };
        let (head, stock) = (self.head(), self.symbol());
        encode::RegShoRestriction { head, stock, action }.write(out).unwrap_or(0)
    }

    fn participant(&mut self, left: u64, out: &mut Out) -> usize {
        const MAKERS: [[u8; 4]; 8] =
            [*b"NITE", *b"CDRG", *b"VIRT", *b"GSCO", *b"MSCO", *b"JPMS", *b"UBSS", *b"SOHO"];
        self.stock = u16::try_from(left % u64::from(self.config.stocks)).unwrap_or(0);
        self.now += 1000;
        let message = encode::MarketParticipantPosition {
            head: self.head(),
            mpid: MAKERS[self.random.below(8) as usize],
            stock: self.symbol(),
            primary_market_maker: b'N',
            mode: b'N',
            state: b'A',
        };
        message.write(out).unwrap_or(0)
    }

    fn cross(&mut self, stock: u16, cross_type: u8, out: &mut Out) -> usize {
        self.stock = stock;
        self.burst = 0;
        self.now += 500;
        let message = encode::CrossTrade {
            head: self.head(),
            shares: u64::from(self.random.below(1 << 20)),
            stock: self.symbol(),
            cross_price: Price4(self.fair_price()),
            match_number: self.new_match(),
            cross_type,
        };
        message.write(out).unwrap_or(0)
    }

    fn halt(&mut self, out: &mut Out) -> usize {
        let stock = &mut self.stocks[usize::from(self.stock)];
        stock.halts ^= 1;
        let action = if stock.halts == 1 { HaltAction::HALTED } else { HaltAction::RESUMED };
        let (head, stock) = (self.head(), self.symbol());
        encode::OperationalHalt { head, stock, market: b'Q', action }.write(out).unwrap_or(0)
    }

    fn ipo(&mut self, out: &mut Out) -> usize {
        let release = self.now / 1_000_000_000 + 600;
        let message = encode::IpoQuotingPeriod {
            head: self.head(),
            stock: self.symbol(),
            release_time_s: u32::try_from(release).unwrap_or(0),
            qualifier: b'A',
            price: Price4(self.fair_price()),
        };
        message.write(out).unwrap_or(0)
    }

    fn collar(&mut self, out: &mut Out) -> usize {
        let fair = self.fair_price();
        let message = encode::LuldAuctionCollar {
            head: self.head(),
            stock: self.symbol(),
            reference_price: Price4(fair),
            upper_price: Price4(fair + fair / 20),
            lower_price: Price4(fair - fair / 20),
            extension: 0,
        };
        message.write(out).unwrap_or(0)
    }

    fn retail(&mut self, out: &mut Out) -> usize {
        let interest = b"BSAN"[self.random.below(4) as usize];
        let (head, stock) = (self.head(), self.symbol());
        encode::RetailInterest { head, stock, interest }.write(out).unwrap_or(0)
    }

    fn listing(&mut self, out: &mut Out) -> usize {
        let fair = self.fair_price();
        let message = encode::DirectListing {
            head: self.head(),
            stock: self.symbol(),
            open_eligibility: b'Y',
            minimum_price: Price4(fair - fair / 5),
            maximum_price: Price4(fair + fair / 5),
            near_execution_price: Price4(fair),
            near_execution_time_ns: self.now,
            lower_collar: Price4(fair - fair / 10),
            upper_collar: Price4(fair + fair / 10),
        };
        message.write(out).unwrap_or(0)
    }

    fn breach(&mut self, out: &mut Out) -> usize {
        let breached_level = b'1' + u8::try_from(self.random.below(3)).unwrap_or(0);
        encode::MwcbStatus { head: self.market_head(), breached_level }.write(out).unwrap_or(0)
    }

    /// The last trade, broken.
    fn broken(&mut self, out: &mut Out) -> usize {
        let match_number = self.next_match;
        encode::BrokenTrade { head: self.head(), match_number }.write(out).unwrap_or(0)
    }
}

#[inline(always)]
fn letter(side: usize) -> Side {
    if side == 0 { Side::BUY } else { Side::SELL }
}
