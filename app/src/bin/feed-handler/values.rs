//! Values of the command line: text to numbers, in the project's spellings.
//!
//! Called by clap for each option. An error says what was seen and what is allowed.

use std::time::Duration;

use host_bridge::backend::SqPollChoice;
use host_bridge::supervisor::restart::{BadLimit, CrashLimit, RestartPolicy, UnknownPolicy};
use hybrid_conventions::{Bytes, Nanos, TimeUnit};

use crate::cli::Symbols;

/// `4k`, `2M`, `1G` or plain bytes.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    text.parse::<Bytes>().map(Bytes::get).map_err(|error| error.to_string())
}

/// A size that is a power of two from `least` to `most`.
fn parse_power(text: &str, least: u32, most: u32) -> Result<u32, String> {
    let bytes = parse_size(text)?;
    u32::try_from(bytes)
        .ok()
        .filter(|bytes| bytes.is_power_of_two() && (least..=most).contains(bytes))
        .ok_or_else(|| {
            let (least, most) = (Bytes(least.into()), Bytes(most.into()));
            format!("allowed are powers of two from {least} to {most}")
        })
}

/// A logical block's size.
pub(crate) fn parse_block(text: &str) -> Result<u32, String> {
    parse_power(text, 512, 64 << 10)
}

/// The driver's own limit of a transfer. More than 2 MiB would be PRP lists of more than a page for
/// requests of 64 KiB.
pub(crate) fn parse_transfer(text: &str) -> Result<u32, String> {
    parse_power(text, 4 << 10, 2 << 20)
}

/// MDTS as the controller reports it: the exponent of a power of two of 4 KiB pages, 0 for no limit
/// (NVMe Base 2.0, Identify Controller), so that a limit of one page cannot be said.
pub(crate) fn parse_mdts(text: &str) -> Result<u8, String> {
    if text == "none" {
        return Ok(0);
    }
    if parse_size(text) == Ok(4096) {
        return Err(
            "mdts of one page cannot be reported (0 means no limit); allowed are `none` and \
                    powers of two from 8k to 1G; --max-transfer 4k limits the driver instead"
                .to_owned(),
        );
    }
    let bytes = parse_power(text, 8 << 10, 1 << 30)?;
    u8::try_from(bytes.trailing_zeros() - 12).map_err(|error| error.to_string())
}

/// `500us`, `10s`, or plain nanoseconds.
pub(crate) fn parse_time_ns(text: &str) -> Result<u64, String> {
    Nanos::parse(text, TimeUnit::Nano).map(Nanos::get).map_err(|error| error.to_string())
}

/// A time from `least` to `most`.
fn parse_time(text: &str, least: Nanos, most: Nanos) -> Result<Duration, String> {
    let ns = parse_time_ns(text)?;
    if (least.get()..=most.get()).contains(&ns) {
        return Ok(Duration::from_nanos(ns));
    }
    Err(format!("allowed are {least} to {most}"))
}

/// How long a message may take.
pub(crate) fn parse_message_time(text: &str) -> Result<Duration, String> {
    parse_time(text, Nanos(1_000_000), Nanos(60_000_000_000))
}

/// When a listener ends for want of packets: [`Duration::MAX`] is never.
pub(crate) fn parse_idle(text: &str) -> Result<Duration, String> {
    if text == "never" { Ok(Duration::MAX) } else { parse_message_time(text) }
}

/// How long a command may take.
pub(crate) fn parse_io_time(text: &str) -> Result<Duration, String> {
    parse_time(text, Nanos(10_000_000), Nanos(60_000_000_000))
}

/// How long a server is waited for.
pub(crate) fn parse_reconnect_time(text: &str) -> Result<Duration, String> {
    parse_time(text, Nanos(0), Nanos(3_600_000_000_000))
}

/// `auto`, `off` or a CPU.
pub(crate) fn parse_sqpoll(text: &str) -> Result<SqPollChoice, String> {
    text.parse()
}

/// How long supervision waits for something.
pub(crate) fn parse_wait(text: &str) -> Result<Duration, String> {
    parse_time(text, Nanos(0), Nanos(3_600_000_000_000))
}

/// As [`parse_wait`]: nobody can be given no time at all.
pub(crate) fn parse_some_wait(text: &str) -> Result<Duration, String> {
    parse_time(text, Nanos(1_000_000), Nanos(3_600_000_000_000))
}

/// `on-failure` and the like.
pub(crate) fn parse_policy(text: &str) -> Result<RestartPolicy, String> {
    text.parse().map_err(|error: UnknownPolicy| error.to_string())
}

/// `5/1m`.
pub(crate) fn parse_limit(text: &str) -> Result<CrashLimit, String> {
    text.parse().map_err(|error: BadLimit| error.to_string())
}

/// One CPU number.
pub(crate) fn parse_cpu(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("`{text}` is no CPU number (0, 1, 2, ...)"))
}

/// A count, with `k`, `M` or `G` for powers of a thousand.
pub(crate) fn parse_count(text: &str) -> Result<u64, String> {
    let refusal = || format!("`{text}` is no count: digits, then at most one of k, M, G");
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(unit_at);
    let factor = match unit {
        "" => 1,
        "k" | "K" => 1_000,
        "m" | "M" => 1_000_000,
        "g" | "G" => 1_000_000_000,
        _ => return Err(refusal()),
    };
    let number: u64 = digits.parse().map_err(|_| refusal())?;
    number.checked_mul(factor).ok_or_else(refusal)
}

/// A count of orders: 1,000 to 64 million (some 6 GB of books).
pub(crate) fn parse_orders(text: &str) -> Result<u32, String> {
    let count = parse_count(text)?;
    u32::try_from(count)
        .ok()
        .filter(|orders| (1_000..=64_000_000).contains(orders))
        .ok_or_else(|| format!("{count} is out of range: allowed are 1k to 64M orders"))
}

/// `AAPL,MSFT`: one to eight upper-case ASCII characters each.
pub(crate) fn parse_symbols(text: &str) -> Result<Symbols, String> {
    let symbols = text.split(',').map(parse_symbol).collect::<Result<Vec<_>, _>>()?;
    Ok(Symbols(symbols))
}

fn parse_symbol(text: &str) -> Result<[u8; 8], String> {
    let text = text.trim();
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    if text.is_empty() || text.len() > 8 || !plain {
        return Err(format!("`{text}` is no symbol: 1 to 8 printable ASCII characters"));
    }
    let mut symbol = [b' '; 8];
    symbol[..text.len()].copy_from_slice(text.as_bytes());
    Ok(symbol)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_take_thousands() {
        for (text, count) in [("0", 0), ("17", 17), ("5k", 5_000), ("6M", 6_000_000)] {
            assert_eq!(parse_count(text), Ok(count));
        }
        for text in ["", "M", "1.5M", "-1", "5 k", "99999999999G"] {
            assert!(parse_count(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_of_a_server_are_bounded() {
        assert_eq!(parse_message_time("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_reconnect_time("0"), Ok(Duration::ZERO));
        for text in ["0", "1us", "2m", "1h", "x"] {
            assert!(parse_message_time(text).is_err(), "{text}");
        }
        assert!(parse_reconnect_time("2h").is_err());
    }

    #[test]
    fn mdts_is_an_exponent_of_pages_and_never_one_page() {
        for (text, mdts) in [("none", 0), ("8k", 1), ("128k", 5), ("2M", 9), ("1G", 18)] {
            assert_eq!(parse_mdts(text), Ok(mdts));
        }
        assert!(parse_mdts("4k").is_err_and(|line| line.contains("--max-transfer 4k")));
        for text in ["5k", "0", "2k", "12k", "2G"] {
            let line = parse_mdts(text).expect_err(text);
            assert_eq!(line, "allowed are powers of two from 8k to 1G", "{text}");
        }
    }

    #[test]
    fn blocks_and_transfers_are_powers_of_two_within_bounds() {
        assert_eq!(parse_block("512"), Ok(512));
        assert_eq!(parse_block("64k"), Ok(65_536));
        assert_eq!(parse_transfer("2M"), Ok(2 << 20));
        for text in ["0", "256", "1000", "128k", "8G"] {
            assert!(parse_block(text).is_err(), "{text}");
        }
        for text in ["2k", "5k", "4M"] {
            assert!(parse_transfer(text).is_err(), "{text}");
        }
    }

    #[test]
    fn symbols_are_padded_and_checked() {
        let symbols = parse_symbols("AAPL,BRK.A").map(|symbols| symbols.0);
        assert_eq!(symbols, Ok(vec![*b"AAPL    ", *b"BRK.A   "]));
        for text in ["", "AAPL,,MSFT", "TOOLONGNAME"] {
            assert!(parse_symbols(text).is_err(), "{text}");
        }
    }
}
