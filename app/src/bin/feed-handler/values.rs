//! Values of the command line: text to numbers, in the project's spellings.
//!
//! Called by clap for each option. An error says what was seen and what is allowed.

use hybrid_conventions::{Bytes, Nanos, TimeUnit};

use crate::cli::Symbols;

/// `4k`, `2M`, `1G` or plain bytes.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    text.parse::<Bytes>().map(Bytes::get).map_err(|error| error.to_string())
}

/// `500us`, `10s`, or plain nanoseconds.
pub(crate) fn parse_time_ns(text: &str) -> Result<u64, String> {
    Nanos::parse(text, TimeUnit::Nano).map(Nanos::get).map_err(|error| error.to_string())
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
    fn symbols_are_padded_and_checked() {
        let symbols = parse_symbols("AAPL,BRK.A").map(|symbols| symbols.0);
        assert_eq!(symbols, Ok(vec![*b"AAPL    ", *b"BRK.A   "]));
        for text in ["", "AAPL,,MSFT", "TOOLONGNAME"] {
            assert!(parse_symbols(text).is_err(), "{text}");
        }
    }
}
