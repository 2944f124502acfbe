//! Figures as JSON and as words: one way for all commands.

use hybrid_abi::metrics::{MetricKind, MetricUnit};
use hybrid_abi::view::{HistogramView, MetricView};
use hybrid_conventions::{Count, HumanBytes, HumanNanos};
use serde_json::{Value, json};

/// Count, mean, percentiles and the greatest.
pub(crate) fn distribution(histogram: &HistogramView<'_>) -> Value {
    histogram.told().map(|(name, value)| (name.to_owned(), json!(value))).collect()
}

/// A number in the words of its unit.
pub(crate) fn words(value: u64, unit: MetricUnit) -> String {
    match unit {
        MetricUnit::NANOSECONDS => HumanNanos(value).to_string(),
        MetricUnit::BYTES => HumanBytes(value).to_string(),
        MetricUnit::TICKS => format!("{} ticks", Count(value)),
        _ => Count(value).to_string(),
    }
}

/// A metric for a table: what it is, and its value.
pub(crate) fn metric_words(metric: &MetricView<'_>) -> String {
    let unit = metric.entry().unit;
    if let Some(histogram) = metric.histogram() {
        let count = histogram.count();
        if count == 0 {
            return "none yet".to_owned();
        }
        let at = |ppm| words(histogram.quantile(ppm), unit);
        return format!(
            "{} samples, p50 {}, p99 {}, p99.9 {}, max {}",
            Count(count),
            at(500_000),
            at(990_000),
            at(999_000),
            words(histogram.max(), unit)
        );
    }
    metric.number().map_or_else(|| "of a newer version".to_owned(), |value| words(value, unit))
}

/// A metric as JSON.
pub(crate) fn metric_json(metric: &MetricView<'_>) -> Value {
    let entry = metric.entry();
    let (kind, unit) = (entry.kind, entry.unit.name());
    let value = match (metric.histogram(), metric.number()) {
        (Some(histogram), _) => distribution(&histogram),
        (None, Some(value)) => json!(value),
        (None, None) => Value::Null,
    };
    debug_assert!(kind != MetricKind::HISTOGRAM || value.is_object());
    json!({ "name": metric.name(), "kind": kind.name(), "unit": unit, "value": value })
}
