//! What each message does to the books: [`Apply`] is the visitor.
//!
//! Adds and deletes, four of five messages, are inlined into the loop over a feed; all others are
//! functions of their own, so that the loop's registers are for those two.

use super::moves::NewOrder;
use super::slot::{KEPT, PASSED_OVER, UNKNOWN};
use super::{BboChange, Books, Sink, Status, StatusKind, Trade, TradeKind, quote_of};
use crate::error::{BookError, Fault};
use crate::field::{EventCode, HaltAction, Side, Symbol};
use crate::message::{
    AddOrder, AddOrderMpid, BrokenTrade, CrossTrade, MwcbStatus, NonCrossTrade, OperationalHalt,
    OrderCancel, OrderDelete, OrderExecuted, OrderExecutedWithPrice, OrderReplace,
    RegShoRestriction, StockDirectory, StockTradingAction, SystemEvent, Visitor,
};

/// Applies messages to books and tells a sink. Made for each slice of a feed; holds nothing.
#[derive(Debug)]
pub struct Apply<'a, 'm, S> {
    /// The books.
    pub books: &'a mut Books<'m>,
    /// Who hears of changes.
    pub sink: &'a mut S,
}

/// What is left of an order message when its order is found.
struct Execution {
    locate: u16,
    timestamp: u64,
    order_ref: u64,
    shares: u32,
    match_number: u64,
}

impl<S: Sink> Apply<'_, '_, S> {
    #[inline(always)]
    fn tell_bbo(&mut self, locate: u16, timestamp: u64) {
        let in_session = self.books.in_session;
        let quote = quote_of(&self.books.books[usize::from(locate)].tops);
        self.books.stats.bbo_changes += 1;
        self.books.stats.session_bbo_changes += u64::from(in_session);
        self.sink.bbo(&BboChange { locate, in_session, timestamp, quote });
    }

    #[inline(always)]
    fn tell_trade(&mut self, trade: &Trade) {
        self.books.stats.trades += 1;
        if trade.printable {
            let total = self.books.stats.shares_traded;
            self.books.stats.shares_traded = total.saturating_add(trade.shares);
        }
        self.sink.trade(trade);
    }

    #[inline(always)]
    fn add(&mut self, new: NewOrder, side: Side, stock: Symbol, ts: u64) -> Result<(), Fault> {
        let NewOrder { locate, order_ref, .. } = new;
        if !self.books.is_kept(locate)? {
            return Ok(());
        }
        let known = Symbol(self.books.books[usize::from(locate)].symbol);
        if known != stock {
            return Err(BookError::WrongStock { locate, known, named: stock }.into());
        }
        // Both compared: which of them it is cannot be predicted, that it is one of them can.
        if (side != Side::BUY) & (side != Side::SELL) {
            return Err(BookError::BadSide { order_ref, side: side.0 }.into());
        }
        if new.shares == 0 {
            return Err(BookError::NoShares { order_ref }.into());
        }
        if self.books.insert(new)? {
            self.tell_bbo(locate, ts);
        }
        Ok(())
    }

    /// Takes shares off an order; gives the price it rests at, or `None` if its stock is passed
    /// over.
    #[inline(always)]
    fn take_off(
        &mut self,
        locate: u16,
        timestamp: u64,
        order_ref: u64,
        taken: u32,
    ) -> Result<Option<u32>, Fault> {
        if !self.books.is_kept(locate)? {
            return Ok(None);
        }
        let found = self.books.find(order_ref, locate)?;
        let slot = &self.books.orders[found.order];
        let open = slot.shares;
        let price = self.books.ladder.levels[slot.level].price;
        if taken == 0 {
            return Err(BookError::NoShares { order_ref }.into());
        }
        if taken > open {
            return Err(BookError::BeyondOpen { order_ref, open, taken }.into());
        }
        if self.books.reduce(found, taken) {
            self.tell_bbo(locate, timestamp);
        }
        Ok(Some(price))
    }

    #[inline(always)]
    fn execute(&mut self, of: &Execution, at: Option<u32>, printable: bool) -> Result<(), Fault> {
        let &Execution { locate, timestamp, order_ref, shares, match_number } = of;
        let Some(resting) = self.take_off(locate, timestamp, order_ref, shares)? else {
            return Ok(());
        };
        let (price, kind) = match at {
            None => (resting, TradeKind::Execution),
            Some(price) => (price, TradeKind::ExecutionAtPrice),
        };
        let shares = u64::from(shares);
        self.tell_trade(&Trade { locate, kind, printable, timestamp, price, shares, match_number });
        Ok(())
    }

    /// Whether a message about a stock is to be told. Its locate code may be one that no
    /// directory message named: nothing rests on that here, so it is no error.
    fn is_told(&self, locate: u16) -> bool {
        let book = self.books.books.get(usize::from(locate));
        book.is_some_and(|book| book.known != PASSED_OVER)
    }

    fn tell_status(&mut self, locate: u16, timestamp: u64, kind: StatusKind) {
        self.sink.status(&Status { locate, timestamp, kind });
    }
}

impl<S: Sink> Visitor for Apply<'_, '_, S> {
    type Error = Fault;

    #[inline(always)]
    fn add_order(&mut self, m: AddOrder<'_>) -> Result<(), Fault> {
        let new = NewOrder {
            order_ref: m.order_ref(),
            price: m.price().0,
            shares: m.shares(),
            locate: m.locate(),
            side: u16::from(m.side() == Side::SELL),
        };
        self.add(new, m.side(), m.stock(), m.timestamp())
    }

    #[inline(never)]
    fn add_order_mpid(&mut self, m: AddOrderMpid<'_>) -> Result<(), Fault> {
        let new = NewOrder {
            order_ref: m.order_ref(),
            price: m.price().0,
            shares: m.shares(),
            locate: m.locate(),
            side: u16::from(m.side() == Side::SELL),
        };
        self.add(new, m.side(), m.stock(), m.timestamp())
    }

    #[inline(never)]
    fn order_executed(&mut self, m: OrderExecuted<'_>) -> Result<(), Fault> {
        let of = Execution {
            locate: m.locate(),
            timestamp: m.timestamp(),
            order_ref: m.order_ref(),
            shares: m.executed_shares(),
            match_number: m.match_number(),
        };
        self.execute(&of, None, true)
    }

    #[inline(never)]
    fn order_executed_with_price(&mut self, m: OrderExecutedWithPrice<'_>) -> Result<(), Fault> {
        let of = Execution {
            locate: m.locate(),
            timestamp: m.timestamp(),
            order_ref: m.order_ref(),
            shares: m.executed_shares(),
            match_number: m.match_number(),
        };
        self.execute(&of, Some(m.execution_price().0), m.printable() == b'Y')
    }

    #[inline(never)]
    fn order_cancel(&mut self, m: OrderCancel<'_>) -> Result<(), Fault> {
        self.take_off(m.locate(), m.timestamp(), m.order_ref(), m.cancelled_shares())?;
        Ok(())
    }

    #[inline(always)]
    fn order_delete(&mut self, m: OrderDelete<'_>) -> Result<(), Fault> {
        let locate = m.locate();
        if !self.books.is_kept(locate)? {
            return Ok(());
        }
        let found = self.books.find(m.order_ref(), locate)?;
        if self.books.take_out(found) {
            self.tell_bbo(locate, m.timestamp());
        }
        Ok(())
    }

    #[inline(never)]
    fn order_replace(&mut self, m: OrderReplace<'_>) -> Result<(), Fault> {
        let locate = m.locate();
        if !self.books.is_kept(locate)? {
            return Ok(());
        }
        let found = self.books.find(m.original_ref(), locate)?;
        let order_ref = m.new_ref();
        if m.shares() == 0 {
            return Err(BookError::NoShares { order_ref }.into());
        }
        let new = NewOrder {
            order_ref,
            price: m.price().0,
            shares: m.shares(),
            locate,
            side: self.books.orders[found.order].side,
        };
        if self.books.replace(found, new)? {
            self.tell_bbo(locate, m.timestamp());
        }
        Ok(())
    }

    fn non_cross_trade(&mut self, m: NonCrossTrade<'_>) -> Result<(), Fault> {
        if self.books.is_kept(m.locate())? {
            self.tell_trade(&Trade {
                locate: m.locate(),
                kind: TradeKind::Hidden,
                printable: true,
                timestamp: m.timestamp(),
                price: m.price().0,
                shares: u64::from(m.shares()),
                match_number: m.match_number(),
            });
        }
        Ok(())
    }

    fn cross_trade(&mut self, m: CrossTrade<'_>) -> Result<(), Fault> {
        if self.books.is_kept(m.locate())? {
            self.tell_trade(&Trade {
                locate: m.locate(),
                kind: TradeKind::Cross,
                printable: true,
                timestamp: m.timestamp(),
                price: m.cross_price().0,
                shares: m.shares(),
                match_number: m.match_number(),
            });
        }
        Ok(())
    }

    fn broken_trade(&mut self, m: BrokenTrade<'_>) -> Result<(), Fault> {
        if self.is_told(m.locate()) {
            let match_number = m.match_number();
            self.tell_status(m.locate(), m.timestamp(), StatusKind::BrokenTrade { match_number });
        }
        Ok(())
    }

    fn system_event(&mut self, m: SystemEvent<'_>) -> Result<(), Fault> {
        if m.event() == EventCode::START_OF_MARKET_HOURS {
            self.books.in_session = true;
        }
        self.tell_status(m.locate(), m.timestamp(), StatusKind::System(m.event()));
        Ok(())
    }

    fn stock_directory(&mut self, m: StockDirectory<'_>) -> Result<(), Fault> {
        let (locate, named) = (m.locate(), m.stock());
        let capacity = self.books.books.len();
        let Some(book) = self.books.books.get_mut(usize::from(locate)) else {
            return Err(BookError::Full { what: "locate codes", capacity, knob: "symbols" }.into());
        };
        let known = Symbol(book.symbol);
        if book.known != UNKNOWN {
            // Told again during the day: the same stock, or a contradiction.
            let same = known == named;
            let error = BookError::WrongStock { locate, known, named };
            return if same { Ok(()) } else { Err(error.into()) };
        }
        let wanted = self.books.wanted;
        let kept = wanted.is_empty() || wanted.contains(&named);
        book.known = if kept { KEPT } else { PASSED_OVER };
        book.symbol = named.0;
        self.books.kept += usize::from(kept);
        if kept {
            self.sink.stock(locate, named);
        }
        Ok(())
    }

    fn stock_trading_action(&mut self, m: StockTradingAction<'_>) -> Result<(), Fault> {
        if self.books.is_kept(m.locate())? {
            self.books.books[usize::from(m.locate())].trading = m.state().0;
            let kind = StatusKind::Trading { state: m.state(), reason: m.reason() };
            self.tell_status(m.locate(), m.timestamp(), kind);
        }
        Ok(())
    }

    fn operational_halt(&mut self, m: OperationalHalt<'_>) -> Result<(), Fault> {
        if self.books.is_kept(m.locate())? {
            let bit = match m.market() {
                b'Q' => 1,
                b'B' => 2,
                b'X' => 4,
                _ => 8,
            };
            let halted = &mut self.books.books[usize::from(m.locate())].halted;
            if m.action() == HaltAction::HALTED {
                *halted |= bit;
            } else {
                *halted &= !bit;
            }
            let kind = StatusKind::Operational { market: m.market(), action: m.action() };
            self.tell_status(m.locate(), m.timestamp(), kind);
        }
        Ok(())
    }

    fn reg_sho_restriction(&mut self, m: RegShoRestriction<'_>) -> Result<(), Fault> {
        if self.books.is_kept(m.locate())? {
            self.books.books[usize::from(m.locate())].reg_sho = m.action();
            let kind = StatusKind::RegSho { action: m.action() };
            self.tell_status(m.locate(), m.timestamp(), kind);
        }
        Ok(())
    }

    fn mwcb_status(&mut self, m: MwcbStatus<'_>) -> Result<(), Fault> {
        let kind = StatusKind::CircuitBreaker { level: m.breached_level() };
        self.tell_status(m.locate(), m.timestamp(), kind);
        Ok(())
    }
}
