//! The steps of a replay on the page, from a chunk's read to the host's ring, and as a file.

use std::fmt::Write as _;

use host_bridge::page::latency::{Curve, by_percentile};
use host_bridge::page::{self, Distribution, table};
use hybrid_conventions::{Count, HumanNanos};

/// One step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// What it is called, in the table and in the names of files.
    pub(super) name: &'static str,
    /// What one sample is of.
    of: &'static str,
    /// What is done in it.
    does: &'static str,
    /// The partition's histogram.
    pub(crate) metric: &'static str,
    /// The class of its line; none where it is not drawn.
    class: Option<&'static str>,
}

impl Step {
    /// Whether it was measured for this table, and has a file of its own.
    pub(super) fn is_own(&self) -> bool {
        self.metric.starts_with("step_")
    }
}

/// In their order.
pub(crate) const STEPS: [Step; 7] = [
    Step {
        name: "read",
        of: "command",
        does: "the device's, from post to answer, with others in the window",
        metric: "read_latency_ns",
        class: None,
    },
    Step {
        name: "wait",
        of: "chunk",
        does: "for the read of the next chunk, posted long before",
        metric: "step_wait_ns",
        class: None,
    },
    Step {
        name: "check",
        of: "chunk",
        does: "header and CRC32C of 64 KiB",
        metric: "step_check_ns",
        class: None,
    },
    Step {
        name: "slice",
        of: "slice",
        does: "decode, book and output of 2 KiB, shown to the host",
        metric: "step_slice_ns",
        class: None,
    },
    Step {
        name: "decode",
        of: "message",
        does: "framed, type and length checked",
        metric: "step_decode_ns",
        class: Some("p50"),
    },
    Step {
        name: "book",
        of: "message",
        does: "fields read, order and levels changed",
        metric: "step_book_ns",
        class: Some("p99"),
    },
    Step {
        name: "output",
        of: "message",
        does: "BBO changes, trades and states put into the ring",
        metric: "step_output_ns",
        class: Some("all"),
    },
];

const WORDS: &str = "Waits and checks of every chunk. Of the slices of 2 KiB one in 64 was \
    measured as a whole, and another one with a look at the clock between the steps of each \
    message; what such a look costs is taken off. Output is of those messages that told the host \
    something.";

/// Whether the steps of a replay were measured: every run has reads.
pub(super) fn are_measured(steps: &[(Step, Distribution)]) -> bool {
    let own = steps.iter().filter(|(step, _)| step.is_own());
    own.map(|(_, values)| values.count()).sum::<u64>() != 0
}

/// Table and chart; nothing where nothing was measured.
pub(super) fn section(steps: &[(Step, Distribution)]) -> String {
    if !are_measured(steps) {
        return String::new();
    }
    let there: Vec<_> = steps.iter().filter(|(_, values)| values.count() != 0).collect();
    let title = ["", "samples", "mean", "p50", "p99", "p99.9", "max"];
    let mut rows = vec![title.map(str::to_owned).to_vec()];
    for (step, values) in &there {
        let mut row = vec![format!("{}, a {}", step.name, step.of)];
        row.push(Count(values.count()).to_string());
        row.push(HumanNanos(values.mean_ns()).to_string());
        let quantiles = [500_000, 990_000, 999_000];
        row.extend(quantiles.map(|ppm| HumanNanos(values.quantile(ppm)).to_string()));
        row.push(HumanNanos(values.max_ns()).to_string());
        rows.push(row);
    }
    let mut out = table("Steps of the replay", &rows);
    let curve = |(step, values): &&'_ (Step, Distribution)| {
        step.class.map(|class| (class, step.name, values.clone()))
    };
    let drawn: Vec<_> = there.iter().filter_map(curve).collect();
    if !drawn.is_empty() {
        let keys: Vec<_> = drawn.iter().map(|(class, name, _)| (*class, *name)).collect();
        let curves: Vec<_> =
            drawn.iter().map(|(class, name, values)| Curve { class, name, values }).collect();
        let does: Vec<_> =
            steps.iter().map(|(step, _)| format!("{}: {}.", step.name, step.does)).collect();
        let words = format!("{WORDS} {}", does.join(" "));
        let chart = by_percentile(&curves);
        out.push_str(&page::section("Steps of a message, by percentile", &keys, &chart, &words));
    }
    out
}

/// A line each.
pub(super) fn csv(steps: &[(Step, Distribution)]) -> String {
    let mut out = String::from("step,of,samples,mean_ns,p50_ns,p99_ns,p999_ns,max_ns,sum_ns\n");
    for (step, values) in steps {
        let _ = writeln!(
            out,
            "{},{},{},{},{},{},{},{},{}",
            step.name,
            step.of,
            values.count(),
            values.mean_ns(),
            values.quantile(500_000),
            values.quantile(990_000),
            values.quantile(999_000),
            values.max_ns(),
            values.sum_ns()
        );
    }
    out
}
