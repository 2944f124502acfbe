//! Values of options: workloads, distributions, rates; parsed, and printed as they are written.

use std::fmt;
use std::str::FromStr;

use hybrid_conventions::{Bytes, Nanos, TimeUnit};

use crate::wire::{HOT, Phase, SEQUENTIAL, UNIFORM, ZIPF};

/// `-w`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "lower")]
pub(crate) enum Workload {
    RandRead,
    RandWrite,
    RandRw,
    Read,
    Write,
}

impl Workload {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::RandRead => "randread",
            Self::RandWrite => "randwrite",
            Self::RandRw => "randrw",
            Self::Read => "read",
            Self::Write => "write",
        }
    }

    pub(crate) const fn is_random(self) -> bool {
        matches!(self, Self::RandRead | Self::RandWrite | Self::RandRw)
    }

    pub(crate) const fn writes(self) -> bool {
        matches!(self, Self::RandWrite | Self::RandRw | Self::Write)
    }
}

/// `--dist`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Dist {
    Uniform,
    /// In thousandths.
    Zipf(u32),
    /// So many per cent of the places get so many per cent of the accesses.
    Hot(u32, u32),
}

impl Dist {
    /// Into a phase.
    pub(crate) const fn put(self, random: bool, phase: &mut Phase) {
        (phase.order, phase.order_a, phase.order_b) = match (random, self) {
            (false, _) => (SEQUENTIAL, 0, 0),
            (true, Self::Uniform) => (UNIFORM, 0, 0),
            (true, Self::Zipf(theta)) => (ZIPF, theta, 0),
            (true, Self::Hot(places, accesses)) => (HOT, places, accesses),
        };
    }
}

impl FromStr for Dist {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "distribution {text:?}: allowed are uniform, zipf:THETA (0.01 to 4, such as \
                 zipf:0.99) and hotspot:PLACES/ACCESSES in per cent (such as hotspot:20/80)"
            )
        };
        match text.split_once(':') {
            None if text == "uniform" => Ok(Self::Uniform),
            Some(("zipf", theta)) => {
                let theta: f64 = theta.parse().map_err(|_| wrong())?;
                if !(0.01..=4.0).contains(&theta) {
                    return Err(wrong());
                }
                #[expect(clippy::cast_possible_truncation, reason = "10 to 4,000")]
                #[expect(clippy::cast_sign_loss, reason = "10 to 4,000")]
                Ok(Self::Zipf((theta * 1000.0).round() as u32))
            }
            Some(("hotspot", shares)) => {
                let (places, accesses) = shares.split_once('/').ok_or_else(wrong)?;
                let share = |text: &str| text.parse().ok().filter(|n| (1..=99).contains(n));
                let (places, accesses) = (share(places), share(accesses));
                Ok(Self::Hot(places.ok_or_else(wrong)?, accesses.ok_or_else(wrong)?))
            }
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Dist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform => f.write_str("uniform"),
            Self::Zipf(theta) => write!(f, "zipf:{}", f64::from(*theta) / 1000.0),
            Self::Hot(places, accesses) => write!(f, "hotspot:{places}/{accesses}"),
        }
    }
}

/// `--rate`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rate {
    /// Arrivals in 1,000 s.
    Milli(u64),
    /// Millionths of the closed loop's rate, which is measured first.
    OfCapacity(u64),
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "rate {text:?}: allowed are arrivals a second (50000, 500k, 1.5M) and multiples \
                 of the capacity that is measured first (0.5x, 2x)"
            )
        };
        let (number, scale) = match text.as_bytes().last() {
            Some(b'x') => (&text[..text.len() - 1], None),
            Some(b'k') => (&text[..text.len() - 1], Some(1e3)),
            Some(b'M') => (&text[..text.len() - 1], Some(1e6)),
            _ => (text, Some(1.0)),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let value = number * scale.map_or(1e6, |scale| scale * 1e3);
        if !(1.0..=1e14).contains(&value) {
            return Err(wrong());
        }
        #[expect(clippy::cast_possible_truncation, reason = "1 to 10^14")]
        #[expect(clippy::cast_sign_loss, reason = "1 to 10^14")]
        let value = value.round() as u64;
        Ok(if scale.is_some() { Self::Milli(value) } else { Self::OfCapacity(value) })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Milli(rate) => write!(f, "{}", *rate as f64 / 1e3),
            Self::OfCapacity(ppm) => write!(f, "{}x", *ppm as f64 / 1e6),
        }
    }
}

/// `--arrivals`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Arrivals {
    /// Evenly spaced
    Fixed,
    /// A Poisson process
    Poisson,
}

/// `--model-fault`: what the model does wrong, for `--verify` to notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Fault {
    /// A read returns the neighbour's block
    Misdirect,
    /// Half of a transfer is left out
    Torn,
    /// A write that reports success is left out
    Lost,
    /// A bit flips
    Flip,
}

/// A size in bytes, of 32 bits.
pub(crate) fn size(text: &str) -> Result<u32, String> {
    let Bytes(bytes) =
        text.parse().map_err(|error: hybrid_conventions::BytesError| error.to_string())?;
    match u32::try_from(bytes) {
        Ok(bytes @ 512..=0x100_0000) if bytes.is_multiple_of(512) => Ok(bytes),
        _ => Err(format!("size {text:?}: allowed are multiples of 512 up to 16M")),
    }
}

/// A size of a namespace.
pub(crate) fn long_size(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(Bytes(bytes)) if bytes >= 1 << 20 => Ok(bytes),
        Ok(_) => Err(format!("size {text:?}: allowed are 1M and more")),
        Err(error) => Err(error.to_string()),
    }
}

/// A logical block size.
pub(crate) fn block_size(text: &str) -> Result<u32, String> {
    match size(text) {
        Ok(bytes) if bytes.is_power_of_two() && bytes <= 65_536 => Ok(bytes),
        _ => Err(format!("block size {text:?}: allowed are powers of two from 512 to 64k")),
    }
}

/// Seconds, as spdk's tools take them, or a time with its unit.
pub(crate) fn seconds(text: &str) -> Result<u64, String> {
    let nanos = Nanos::parse(text, TimeUnit::Second).map_err(|error| error.to_string())?;
    match nanos.get() {
        ns @ 0..=3_600_000_000_000 => Ok(ns),
        _ => Err(format!("time {text:?}: allowed are 0 to 1h")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_are_printed_as_they_are_written() {
        for text in ["uniform", "zipf:0.99", "zipf:1.2", "hotspot:20/80"] {
            assert_eq!(text.parse::<Dist>().expect("allowed").to_string(), text);
        }
        for text in ["", "zipf", "zipf:0", "zipf:nan", "hotspot:20", "hotspot:0/80", "pareto:1"] {
            let error = text.parse::<Dist>().expect_err(text);
            assert!(error.contains("allowed are uniform, zipf:THETA"), "{error}");
        }
    }

    #[test]
    fn rates_are_arrivals_or_multiples_of_the_capacity() {
        assert_eq!("500k".parse(), Ok(Rate::Milli(500_000_000)));
        assert_eq!("1.5M".parse(), Ok(Rate::Milli(1_500_000_000)));
        assert_eq!("2x".parse(), Ok(Rate::OfCapacity(2_000_000)));
        assert_eq!("250".parse(), Ok(Rate::Milli(250_000)));
        for text in ["", "x", "0", "-1", "1e30", "inf", "5 k"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_and_times_have_their_limits() {
        assert_eq!(size("4k"), Ok(4096));
        assert!(size("100").is_err() && size("32M").is_err() && size("513").is_err());
        assert_eq!(seconds("2"), Ok(2_000_000_000));
        assert_eq!(seconds("500ms"), Ok(500_000_000));
        assert!(seconds("2h").is_err());
        assert!(block_size("3k").is_err());
    }
}
