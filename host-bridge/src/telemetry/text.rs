//! The text format of Prometheus, version 0.0.4: what a scrape and node_exporter's textfile
//! collector read.
//!
//! Written by hand, since it is a page and the usual crates write OpenMetrics alone, whose counters
//! the textfile collector does not know (ADR 0015).

use std::fmt::{self, Write as _};

use super::families::{Families, Labels, Value};

/// The content type of what [`write()`] writes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All families as text.
#[must_use]
pub fn write(families: &Families) -> String {
    let mut out = String::new();
    // A string takes everything.
    let _ = try_write(&mut out, families);
    out
}

fn try_write(out: &mut String, families: &Families) -> fmt::Result {
    for (name, family) in families {
        let help = family.help.replace('\\', "\\\\").replace('\n', "\\n");
        writeln!(out, "# HELP {name} {help}.\n# TYPE {name} {}", family.kind.word())?;
        for (labels, value) in &family.samples {
            sample(out, name, labels, value)?;
        }
    }
    Ok(())
}

fn sample(out: &mut String, name: &str, labels: &Labels, value: &Value) -> fmt::Result {
    match value {
        Value::Whole(value) => writeln!(out, "{name}{} {value}", Written(labels, None)),
        Value::Nanoseconds(ns) => writeln!(out, "{name}{} {}", Written(labels, None), seconds(*ns)),
        Value::Buckets { buckets, sum, count, nanoseconds } => {
            let number = |value: u64| {
                if *nanoseconds { seconds(value) } else { value.to_string() }
            };
            for (bound, below) in buckets {
                let bound = number(*bound);
                writeln!(out, "{name}_bucket{} {below}", Written(labels, Some(&bound)))?;
            }
            writeln!(out, "{name}_bucket{} {count}", Written(labels, Some("+Inf")))?;
            writeln!(out, "{name}_sum{} {}", Written(labels, None), number(*sum))?;
            writeln!(out, "{name}_count{} {count}", Written(labels, None))
        }
    }
}

/// Nanoseconds as seconds, exactly: no binary fraction comes in between.
#[must_use]
pub fn seconds(ns: u64) -> String {
    let (whole, fraction) = (ns / 1_000_000_000, ns % 1_000_000_000);
    if fraction == 0 {
        return whole.to_string();
    }
    let digits = format!("{fraction:09}");
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

/// Labels in braces, with `le` last where there is one; nothing for none.
struct Written<'a>(&'a Labels, Option<&'a str>);

impl fmt::Display for Written<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(labels, le) = self;
        let le = le.map(|le| ("le", le));
        let all = labels.iter().map(|(name, value)| (*name, value.as_str())).chain(le);
        let mut open = false;
        for (name, value) in all {
            write!(f, "{}{name}=\"", if open { "," } else { "{" })?;
            open = true;
            for c in value.chars() {
                match c {
                    '\\' => f.write_str("\\\\")?,
                    '"' => f.write_str("\\\"")?,
                    '\n' => f.write_str("\\n")?,
                    c => f.write_char(c)?,
                }
            }
            f.write_char('"')?;
        }
        if open { f.write_char('}') } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::families::{Family, FamilyKind};
    use super::*;

    #[test]
    fn the_format_has_its_golden_text() {
        let labels = || vec![("partition", "a\"b\\c\nd".to_owned())];
        let family = |kind, value| Family {
            help: "What\nit is".to_owned(),
            kind,
            samples: vec![(labels(), value)],
        };
        let buckets = Value::Buckets {
            buckets: vec![(63, 1), (1_999_999_999, 3)],
            sum: 1_500_000_000,
            count: 4,
            nanoseconds: true,
        };
        let families: Families = [
            ("hybrid_a_total".to_owned(), family(FamilyKind::Counter, Value::Whole(7))),
            ("hybrid_b_seconds".to_owned(), family(FamilyKind::Histogram, buckets)),
        ]
        .into();
        let partition = "partition=\"a\\\"b\\\\c\\nd\"";
        let expected = format!(
            "# HELP hybrid_a_total What\\nit is.\n# TYPE hybrid_a_total counter\n\
             hybrid_a_total{{{partition}}} 7\n\
             # HELP hybrid_b_seconds What\\nit is.\n# TYPE hybrid_b_seconds histogram\n\
             hybrid_b_seconds_bucket{{{partition},le=\"0.000000063\"}} 1\n\
             hybrid_b_seconds_bucket{{{partition},le=\"1.999999999\"}} 3\n\
             hybrid_b_seconds_bucket{{{partition},le=\"+Inf\"}} 4\n\
             hybrid_b_seconds_sum{{{partition}}} 1.5\n\
             hybrid_b_seconds_count{{{partition}}} 4\n"
        );
        assert_eq!(write(&families), expected);
    }

    #[test]
    fn seconds_are_exact() {
        for (ns, text) in [(0, "0"), (1, "0.000000001"), (2_500_000_000, "2.5")] {
            assert_eq!(seconds(ns), text);
        }
        assert_eq!(seconds(u64::MAX), "18446744073.709551615");
    }
}
