//! The 23 message types of ITCH 5.0 as views over the bytes they lie in.
//!
//! [`dispatch`] looks at the type byte once, checks the length once, and calls the method of a
//! [`Visitor`] with a typed view; the accessors of a view are loads at constant offsets and copy
//! nothing else. [`Message`] is the same as an enum, for code that wants to match. Framing is not
//! done here: `bytes` is exactly one message, without its length prefix.
//!
//! The one table of types and fields is `for_each_message!`; [`crate::encode`] is made from it
//! too. A compile-time check proves that the fields of each type fill it without gap or overlap.
//! Timestamps are nanoseconds since midnight.
//!
//! Unknown types (a letter that the table lacks, at least [`HEAD_BYTES`] long) go to
//! [`Visitor::unknown`]; bytes that cannot be a message are a [`MessageError`].

use crate::error::MessageError;
use crate::field::{EventCode, Field, HaltAction, Price4, Price8, Side, Symbol, TradingState};

/// Bytes that every message begins with: type, stock locate, tracking number, timestamp.
pub const HEAD_BYTES: usize = 11;

/// Length of the longest known message (type I, net order imbalance).
pub const MAX_KNOWN_BYTES: usize = 50;

/// Calls the macro `$apply` with the table of all message types.
///
/// A row is: documentation, type name, method name, type letter, length, then the fields after
/// the common eleven bytes as `offset name: type`.
macro_rules! for_each_message {
    ($apply:ident) => {
        $apply! {
            /// S: a system event, a mark of the market's day.
            SystemEvent system_event b'S' 12 {
                /// What is marked.
                11 event: EventCode,
            }
            /// R: a stock and its locate code for the day.
            StockDirectory stock_directory b'R' 39 {
                /// The symbol that the locate code stands for.
                11 stock: Symbol,
                /// Listing market or tier.
                19 market_category: u8,
                /// Nasdaq's financial status indicator.
                20 financial_status: u8,
                /// Shares of a round lot.
                21 round_lot_size: u32,
                /// `Y` when only round lots are accepted.
                25 round_lots_only: u8,
                /// Security class.
                26 issue_classification: u8,
                /// Security sub-class.
                27 issue_sub_type: [u8; 2],
                /// `P` for live, `T` for test.
                29 authenticity: u8,
                /// Short-sale threshold indicator of Rule 203(b)(3).
                30 short_sale_threshold: u8,
                /// `Y` when the stock has its initial offering.
                31 ipo_flag: u8,
                /// Limit-up limit-down tier.
                32 luld_tier: u8,
                /// `Y` for an exchange-traded product.
                33 etp_flag: u8,
                /// Leverage factor of the product.
                34 etp_leverage: u32,
                /// `Y` for an inverse product.
                38 inverse: u8,
            }
            /// H: the trading state of a stock on all markets.
            StockTradingAction stock_trading_action b'H' 25 {
                /// The stock.
                11 stock: Symbol,
                /// Its state from now on.
                19 state: TradingState,
                /// Reserved by Nasdaq.
                20 reserved: u8,
                /// Reason, four letters.
                21 reason: [u8; 4],
            }
            /// Y: Reg SHO short-sale restriction.
            RegShoRestriction reg_sho_restriction b'Y' 20 {
                /// The stock.
                11 stock: Symbol,
                /// `0` none, `1` in effect from an intraday drop, `2` remains in effect.
                19 action: u8,
            }
            /// L: position of a market participant in a stock.
            MarketParticipantPosition market_participant_position b'L' 26 {
                /// The participant.
                11 mpid: [u8; 4],
                /// The stock.
                15 stock: Symbol,
                /// `Y` for the primary market maker.
                23 primary_market_maker: u8,
                /// Market maker mode.
                24 mode: u8,
                /// State of the participant.
                25 state: u8,
            }
            /// V: decline levels of the market-wide circuit breaker.
            MwcbDeclineLevel mwcb_decline_level b'V' 35 {
                /// Level 1.
                11 level_1: Price8,
                /// Level 2.
                19 level_2: Price8,
                /// Level 3.
                27 level_3: Price8,
            }
            /// W: a level of the market-wide circuit breaker was breached.
            MwcbStatus mwcb_status b'W' 12 {
                /// `1`, `2` or `3`.
                11 breached_level: u8,
            }
            /// K: quoting period of an initial offering.
            IpoQuotingPeriod ipo_quoting_period b'K' 28 {
                /// The stock.
                11 stock: Symbol,
                /// Release time, seconds since midnight.
                19 release_time_s: u32,
                /// `A` anticipated, `C` cancelled or postponed.
                23 qualifier: u8,
                /// Price of the offering.
                24 price: Price4,
            }
            /// J: collar of a limit-up limit-down auction.
            LuldAuctionCollar luld_auction_collar b'J' 35 {
                /// The stock.
                11 stock: Symbol,
                /// Reference price.
                19 reference_price: Price4,
                /// Upper bound.
                23 upper_price: Price4,
                /// Lower bound.
                27 lower_price: Price4,
                /// How often the auction was extended.
                31 extension: u32,
            }
            /// h: one market halts or resumes a stock for operational reasons.
            OperationalHalt operational_halt b'h' 21 {
                /// The stock.
                11 stock: Symbol,
                /// `Q` Nasdaq, `B` BX, `X` PSX.
                19 market: u8,
                /// Halted or resumed.
                20 action: HaltAction,
            }
            /// A: an order without attribution joins the book.
            AddOrder add_order b'A' 36 {
                /// Reference, unique within the day.
                11 order_ref: u64,
                /// Bid or offer.
                19 side: Side,
                /// Shares displayed.
                20 shares: u32,
                /// The stock.
                24 stock: Symbol,
                /// Limit price.
                32 price: Price4,
            }
            /// F: an order that names its market participant joins the book.
            AddOrderMpid add_order_mpid b'F' 40 {
                /// Reference, unique within the day.
                11 order_ref: u64,
                /// Bid or offer.
                19 side: Side,
                /// Shares displayed.
                20 shares: u32,
                /// The stock.
                24 stock: Symbol,
                /// Limit price.
                32 price: Price4,
                /// The participant.
                36 attribution: [u8; 4],
            }
            /// E: shares of a resting order are executed at its price.
            OrderExecuted order_executed b'E' 31 {
                /// The resting order.
                11 order_ref: u64,
                /// Shares executed.
                19 executed_shares: u32,
                /// Match number, unique within the day.
                23 match_number: u64,
            }
            /// C: shares of a resting order are executed at another price.
            OrderExecutedWithPrice order_executed_with_price b'C' 36 {
                /// The resting order.
                11 order_ref: u64,
                /// Shares executed.
                19 executed_shares: u32,
                /// Match number, unique within the day.
                23 match_number: u64,
                /// `Y` when the trade counts for volume; `N` when a cross trade reports it.
                31 printable: u8,
                /// Price of the execution.
                32 execution_price: Price4,
            }
            /// X: a part of a resting order is cancelled.
            OrderCancel order_cancel b'X' 23 {
                /// The resting order.
                11 order_ref: u64,
                /// Shares taken off.
                19 cancelled_shares: u32,
            }
            /// D: a resting order leaves the book.
            OrderDelete order_delete b'D' 19 {
                /// The resting order.
                11 order_ref: u64,
            }
            /// U: a resting order is replaced and loses its priority.
            OrderReplace order_replace b'U' 35 {
                /// The order that leaves.
                11 original_ref: u64,
                /// The order that takes its place, on the same side of the same stock.
                19 new_ref: u64,
                /// Shares displayed from now on.
                27 shares: u32,
                /// Limit price from now on.
                31 price: Price4,
            }
            /// P: a match against an order that was not displayed.
            NonCrossTrade non_cross_trade b'P' 44 {
                /// Zero since 2010.
                11 order_ref: u64,
                /// Side of the resting order; always `B` since 2014.
                19 side: Side,
                /// Shares matched.
                20 shares: u32,
                /// The stock.
                24 stock: Symbol,
                /// Price of the match.
                32 price: Price4,
                /// Match number, unique within the day.
                36 match_number: u64,
            }
            /// Q: all that an auction matched.
            CrossTrade cross_trade b'Q' 40 {
                /// Shares matched.
                11 shares: u64,
                /// The stock.
                19 stock: Symbol,
                /// Price of the cross.
                27 cross_price: Price4,
                /// Match number, unique within the day.
                31 match_number: u64,
                /// `O` opening, `C` closing, `H` halt or initial offering.
                39 cross_type: u8,
            }
            /// B: a trade is broken.
            BrokenTrade broken_trade b'B' 19 {
                /// Match number of the trade.
                11 match_number: u64,
            }
            /// I: net order imbalance before an auction.
            NetOrderImbalance net_order_imbalance b'I' 50 {
                /// Shares that pair at the reference price.
                11 paired_shares: u64,
                /// Shares that do not.
                19 imbalance_shares: u64,
                /// `B` buy, `S` sell, `N` none, `O` too few orders.
                27 direction: u8,
                /// The stock.
                28 stock: Symbol,
                /// Clearing price with the orders of the cross only.
                36 far_price: Price4,
                /// Clearing price with the continuous book.
                40 near_price: Price4,
                /// Reference price.
                44 reference_price: Price4,
                /// `O`, `C`, `H` or `A`.
                48 cross_type: u8,
                /// Band of the near price's deviation.
                49 price_variation: u8,
            }
            /// N: retail interest on a side.
            RetailInterest retail_interest b'N' 20 {
                /// The stock.
                11 stock: Symbol,
                /// `B` buy, `S` sell, `A` both, `N` none.
                19 interest: u8,
            }
            /// O: price discovery of a direct listing with capital raise.
            DirectListing direct_listing b'O' 48 {
                /// The stock.
                11 stock: Symbol,
                /// `Y` when it may open.
                19 open_eligibility: u8,
                /// Lowest allowed price.
                20 minimum_price: Price4,
                /// Highest allowed price.
                24 maximum_price: Price4,
                /// Near execution price.
                28 near_execution_price: Price4,
                /// Near execution time, nanoseconds since midnight.
                32 near_execution_time_ns: u64,
                /// Lower collar.
                40 lower_collar: Price4,
                /// Upper collar.
                44 upper_collar: Price4,
            }
        }
    };
}
pub(crate) use for_each_message;

/// Makes views, the enum, the visitor and the dispatcher from the table.
macro_rules! views {
    ($(
        $(#[$doc:meta])*
        $name:ident $method:ident $kind:literal $len:literal {
            $($(#[$fdoc:meta])* $at:literal $field:ident: $ty:ty,)*
        }
    )*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, PartialEq, Eq)]
            pub struct $name<'a>(&'a [u8; $len]);

            impl<'a> $name<'a> {
                /// The type byte.
                pub const KIND: u8 = $kind;
                /// Bytes of the message.
                pub const LENGTH: usize = $len;

                /// The view over `bytes`, if they are a message of this type.
                #[inline]
                #[must_use]
                pub fn parse(bytes: &'a [u8]) -> Option<Self> {
                    let bytes = <&[u8; $len]>::try_from(bytes).ok()?;
                    (bytes[0] == $kind).then_some(Self(bytes))
                }

                /// The bytes that the view lies over.
                #[inline(always)]
                #[must_use]
                pub const fn bytes(&self) -> &'a [u8; $len] {
                    self.0
                }

                /// Stock locate code of the day; 0 in messages about no stock.
                #[inline(always)]
                #[must_use]
                pub fn locate(&self) -> u16 {
                    Field::get(self.0, 1)
                }

                /// Nasdaq's internal tracking number.
                #[inline(always)]
                #[must_use]
                pub fn tracking(&self) -> u16 {
                    Field::get(self.0, 3)
                }

                /// Nanoseconds since midnight (48 bits).
                #[inline(always)]
                #[must_use]
                pub fn timestamp(&self) -> u64 {
                    timestamp(self.0)
                }

                $(
                    $(#[$fdoc])*
                    #[inline(always)]
                    #[must_use]
                    pub fn $field(&self) -> $ty {
                        Field::get(self.0, $at)
                    }
                )*
            }

            impl core::fmt::Debug for $name<'_> {
                fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                    f.debug_struct(stringify!($name))
                        .field("locate", &self.locate())
                        .field("tracking", &self.tracking())
                        .field("timestamp", &self.timestamp())
                        $(.field(stringify!($field), &self.$field()))*
                        .finish()
                }
            }

            const _: () = {
                let mut end = HEAD_BYTES;
                $(
                    assert!(end == $at, "fields leave a gap or overlap");
                    end += <$ty as Field>::SIZE;
                )*
                assert!(end == $len, "fields do not fill the message");
                assert!($len <= MAX_KNOWN_BYTES);
            };
        )*

        /// Any message.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Message<'a> {
            $($(#[$doc])* $name($name<'a>),)*
            /// A type that the table lacks.
            Unknown(Unknown<'a>),
        }

        impl<'a> Message<'a> {
            /// The message in `bytes` (exactly one, without its length prefix).
            ///
            /// # Errors
            /// [`MessageError`] when `bytes` cannot be a message.
            #[inline]
            pub fn parse(bytes: &'a [u8]) -> Result<Self, MessageError> {
                match bytes {
                    $([$kind, ..] => match <&[u8; $len]>::try_from(bytes) {
                        Ok(bytes) => Ok(Self::$name($name(bytes))),
                        Err(_) => Err(MessageError::wrong_length(bytes, $len)),
                    },)*
                    _ => Ok(Self::Unknown(Unknown::parse(bytes)?)),
                }
            }
        }

        /// One method for each message type; what is not overridden is passed over.
        ///
        /// Everything is inlined into [`dispatch`]: a method that does nothing costs nothing.
        pub trait Visitor {
            /// What a method may fail with.
            type Error: From<MessageError>;

            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// What the implementor fails with.
                #[inline(always)]
                fn $method(&mut self, message: $name<'_>) -> Result<(), Self::Error> {
                    let _ = message;
                    Ok(())
                }
            )*

            /// A type that the table lacks.
            ///
            /// # Errors
            /// What the implementor fails with.
            #[inline(always)]
            fn unknown(&mut self, message: Unknown<'_>) -> Result<(), Self::Error> {
                let _ = message;
                Ok(())
            }
        }

        /// Calls the method of `visitor` for the message in `bytes` (exactly one, without its
        /// length prefix).
        ///
        /// # Errors
        /// [`MessageError`] when `bytes` cannot be a message, else what the visitor fails with.
        #[inline(always)]
        pub fn dispatch<V: Visitor>(bytes: &[u8], visitor: &mut V) -> Result<(), V::Error> {
            match bytes {
                $([$kind, ..] => match <&[u8; $len]>::try_from(bytes) {
                    Ok(bytes) => visitor.$method($name(bytes)),
                    Err(_) => Err(MessageError::wrong_length(bytes, $len).into()),
                },)*
                _ => match Unknown::parse(bytes) {
                    Ok(message) => visitor.unknown(message),
                    Err(error) => Err(error.into()),
                },
            }
        }

        /// Bytes of a message of type `kind`; `None` when the table lacks it.
        #[must_use]
        pub const fn length_of(kind: u8) -> Option<usize> {
            match kind {
                $($kind => Some($len),)*
                _ => None,
            }
        }

        /// All known type bytes, in the order of the specification.
        pub const KINDS: [u8; 23] = [$($kind),*];

        /// The name of a known type, e.g. `AddOrder` for `A`.
        #[must_use]
        pub const fn name_of(kind: u8) -> Option<&'static str> {
            match kind {
                $($kind => Some(stringify!($name)),)*
                _ => None,
            }
        }
    };
}
for_each_message!(views);

/// Timestamp of a message: the low 48 bits of the eight bytes at 3, one load.
#[inline(always)]
fn timestamp<const N: usize>(bytes: &[u8; N]) -> u64 {
    <u64 as Field>::get(bytes, 3) & 0xFFFF_FFFF_FFFF
}

/// A message of a type that the table lacks: only its head is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown<'a>(&'a [u8]);

impl<'a> Unknown<'a> {
    /// Accepts what a later version of the specification could send: a letter or digit as its
    /// type, and the common eleven bytes.
    fn parse(bytes: &'a [u8]) -> Result<Self, MessageError> {
        match bytes {
            [] => Err(MessageError::Empty),
            [kind, ..] if !kind.is_ascii_alphanumeric() => {
                Err(MessageError::NotAType { kind: *kind })
            }
            [kind, ..] if bytes.len() < HEAD_BYTES => {
                Err(MessageError::NoHead { kind: *kind, length: bytes.len() })
            }
            _ => Ok(Self(bytes)),
        }
    }

    /// The type byte.
    #[must_use]
    pub fn kind(&self) -> u8 {
        self.0.first().copied().unwrap_or(0)
    }

    /// The bytes; a message longer than [`crate::framing::MAX_FRAME_BYTES`] is cut to that.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.0
    }
}
