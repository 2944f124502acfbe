//! The frame of the synthetic day: its marks, the directory, auctions, halts and what is rare.

use super::flow::{HOUR, MINUTE, Out};
use super::{Step, Synth};
use crate::encode;
use crate::field::{EventCode, HaltAction, Price4, Price8, TradingState};

impl Synth<'_> {
    /// All that is not the session's flow.
    #[cold]
    pub(super) fn rare_step(&mut self, out: &mut Out) -> usize {
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
    pub(super) fn trading(&mut self, out: &mut Out) -> usize {
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

    pub(super) fn reg_sho(&mut self, out: &mut Out) -> usize {
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

    pub(super) fn halt(&mut self, out: &mut Out) -> usize {
        let stock = &mut self.stocks[usize::from(self.stock)];
        stock.halts ^= 1;
        let action = if stock.halts == 1 { HaltAction::HALTED } else { HaltAction::RESUMED };
        let (head, stock) = (self.head(), self.symbol());
        encode::OperationalHalt { head, stock, market: b'Q', action }.write(out).unwrap_or(0)
    }

    pub(super) fn ipo(&mut self, out: &mut Out) -> usize {
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

    pub(super) fn collar(&mut self, out: &mut Out) -> usize {
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

    pub(super) fn retail(&mut self, out: &mut Out) -> usize {
        let interest = b"BSAN"[self.random.below(4) as usize];
        let (head, stock) = (self.head(), self.symbol());
        encode::RetailInterest { head, stock, interest }.write(out).unwrap_or(0)
    }

    pub(super) fn listing(&mut self, out: &mut Out) -> usize {
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

    pub(super) fn breach(&mut self, out: &mut Out) -> usize {
        let breached_level = b'1' + u8::try_from(self.random.below(3)).unwrap_or(0);
        encode::MwcbStatus { head: self.market_head(), breached_level }.write(out).unwrap_or(0)
    }

    /// The last trade, broken.
    pub(super) fn broken(&mut self, out: &mut Out) -> usize {
        let match_number = self.next_match;
        encode::BrokenTrade { head: self.head(), match_number }.write(out).unwrap_or(0)
    }
}
