//! Metrics as a writer leaves them and a reader finds them.

use core_runtime::metrics::{
    HistogramSnapshot, MetricValue, MetricsError, MetricsReader, MetricsWriter, RuntimeMetrics,
    part_bytes,
};
use hybrid_abi::metrics::{MetricKind, MetricUnit};
use hybrid_conventions::testing::Random;
use hybrid_shm::{Span, leak_aligned};

fn writer(entries: u32, histograms: u32) -> (Span<'static>, MetricsWriter) {
    let part = leak_aligned(part_bytes(entries, histograms), 128);
    let writer = MetricsWriter::new(part, entries).unwrap();
    (part, writer)
}

fn reader(part: Span<'static>) -> MetricsReader {
    MetricsReader::new(part.read_only()).unwrap()
}

/// A histogram with these values, read back.
fn distribution(values: impl IntoIterator<Item = u64>) -> HistogramSnapshot {
    let (part, mut writer) = writer(1, 1);
    let histogram = writer.histogram("h", MetricUnit::NANOSECONDS).unwrap();
    for value in values {
        histogram.record(value);
    }
    reader(part).histogram("h").unwrap()
}

#[test]
fn the_runtimes_metrics_have_their_names() {
    let part = leak_aligned(RuntimeMetrics::part_bytes(1, 0), 128);
    let mut writer = MetricsWriter::new(part, RuntimeMetrics::COUNT + 1).unwrap();
    let metrics = RuntimeMetrics::register(&mut writer).unwrap();
    let books = writer.gauge("books", MetricUnit::COUNT).unwrap();
    metrics.io_completed.add(3);
    metrics.io_completed.increment();
    metrics.max_latency_ns.raise(900);
    metrics.max_latency_ns.raise(100);
    metrics.read_latency_ns.record(640);
    books.set(8000);
    let reader = reader(part);
    assert_eq!(reader.number("io_completed"), Some(4));
    assert_eq!(reader.number("max_latency_ns"), Some(900));
    assert_eq!(reader.number("books"), Some(8000));
    assert_eq!(reader.histogram("read_latency_ns").unwrap().count(), 1);
    assert_eq!(reader.number("read_latency_ns"), None);
    assert_eq!(reader.number("nothing"), None);
    let names: Vec<String> =
        reader.iter().map(|metric| metric.unwrap().name().to_owned()).collect();
    assert_eq!(names.len(), RuntimeMetrics::COUNT as usize + 1);
    for name in [
        "io_submitted",
        "io_failed",
        "io_retried",
        "io_repeated",
        "controller_resets",
        "heartbeat",
        "polls",
        "polls_empty",
        "task_polls",
        "budget_overruns",
        "timers_fired",
        "ring_dropped",
        "stolen_ns",
        "poll_to_poll_ns",
        "stolen_gap_ns",
        "write_latency_ns",
        "budget_exceeded_ns",
        "queue_depth",
        "queue_depth_high_water",
    ] {
        assert!(names.iter().any(|have| have == name), "{name}");
    }
}

#[test]
fn kinds_units_and_values_are_iterated_in_the_order_in_which_they_were_added() {
    let (part, mut writer) = writer(3, 1);
    writer.counter("a", MetricUnit::BYTES).unwrap().set(5);
    writer.gauge("b", MetricUnit::TICKS).unwrap().set(6);
    writer.histogram("c", MetricUnit::COUNT).unwrap().record_many(7, 3);
    let metrics: Vec<_> = reader(part).iter().map(Result::unwrap).collect();
    assert!(matches!(metrics[0].value, MetricValue::Counter(5)));
    assert_eq!((metrics[0].kind(), metrics[0].unit().name()), (MetricKind::COUNTER, "bytes"));
    assert!(matches!(metrics[1].value, MetricValue::Gauge(6)));
    let MetricValue::Histogram(histogram) = metrics[2].value else {
        panic!("{:?}", metrics[2]);
    };
    assert_eq!((histogram.count(), histogram.sum(), histogram.min()), (3, 21, 7));
}

#[test]
fn a_metric_added_later_is_seen_by_a_reader_that_is_there() {
    let (part, mut writer) = writer(2, 0);
    let reader = reader(part);
    assert!(reader.is_empty() && writer.is_empty());
    writer.counter("late", MetricUnit::COUNT).unwrap().increment();
    assert_eq!((reader.len(), writer.len()), (1, 1));
    assert_eq!(reader.number("late"), Some(1));
}

#[test]
fn what_does_not_fit_is_refused_with_its_numbers() {
    let (_, mut one) = writer(1, 0);
    one.counter("a", MetricUnit::COUNT).unwrap();
    assert_eq!(
        one.counter("b", MetricUnit::COUNT).unwrap_err(),
        MetricsError::EntriesFull { capacity: 1 }
    );
    let (_, mut two) = writer(2, 0);
    assert_eq!(
        two.histogram("h", MetricUnit::COUNT).unwrap_err().to_string(),
        "metrics are full: 15392 bytes are needed for a value, 16 are left"
    );
    two.gauge("a", MetricUnit::COUNT).unwrap();
    assert_eq!(
        two.counter("a", MetricUnit::COUNT).unwrap_err(),
        MetricsError::Duplicate { index: 0 }
    );
    assert!(matches!(two.counter("", MetricUnit::COUNT), Err(MetricsError::Abi(_))));
    let long = "x".repeat(49);
    assert!(matches!(two.counter(&long, MetricUnit::COUNT), Err(MetricsError::Abi(_))));
    let part = leak_aligned(4096, 128);
    assert!(MetricsWriter::new(part, 512).is_err());
    assert!(MetricsWriter::new(part, u32::MAX).is_err());
    assert!(MetricsWriter::new(part.sub(0, 64).unwrap(), 0).is_err());
}

#[test]
fn an_empty_histogram_says_so() {
    let empty = distribution([]);
    assert_eq!((empty.count(), empty.sum(), empty.max(), empty.mean()), (0, 0, 0, 0));
    assert_eq!(empty.min(), u64::MAX);
    assert_eq!(empty.quantile(500_000), 0);
}

#[test]
fn the_extremes_are_recorded_exactly() {
    let wide = distribution([0, u64::MAX]);
    assert_eq!((wide.count(), wide.min(), wide.max()), (2, 0, u64::MAX));
    assert_eq!(wide.quantile(0), 0);
    assert_eq!(wide.quantile(500_000), 0);
    assert_eq!(wide.quantile(500_001), u64::MAX);
    assert_eq!(wide.quantile(u32::MAX), u64::MAX);
}

#[test]
fn quantiles_of_small_values_are_exact() {
    let small = distribution(1..=50);
    assert_eq!(small.quantile(500_000), 25);
    assert_eq!(small.quantile(990_000), 50);
    assert_eq!(small.quantile(20_000), 1);
    assert_eq!(small.mean(), 25);
}

#[test]
fn quantiles_are_at_most_a_thirty_second_too_high_and_never_too_low() {
    const SAMPLES: u64 = if cfg!(miri) { 50 } else { 5000 };
    let mut random = Random::new(0x1234_5678);
    let mut values = Vec::new();
    for _ in 0..SAMPLES {
        let state = random.next();
        // All magnitudes alike.
        values.push(state >> (state % 64));
    }
    let histogram = distribution(values.iter().copied());
    values.sort_unstable();
    assert_eq!(histogram.count(), SAMPLES);
    for ppm in [1, 10_000, 500_000, 900_000, 990_000, 999_000, 999_990, 1_000_000] {
        let rank = (values.len() as u64 * u64::from(ppm)).div_ceil(1_000_000).max(1);
        let exact = values[usize::try_from(rank).unwrap() - 1];
        let said = histogram.quantile(ppm);
        assert!(said >= exact, "{ppm}: {said} is below {exact}");
        assert!(said - exact <= exact / 32, "{ppm}: {said} for {exact}");
    }
}

#[test]
fn the_buckets_add_up_to_what_was_recorded() {
    let histogram = distribution([1, 1, 40, 1_000_000]);
    let filled: Vec<_> = histogram.buckets().filter(|bucket| bucket.1 != 0).collect();
    assert_eq!(filled.len(), 3);
    assert_eq!(filled[0], (1, 2));
    assert_eq!(filled[1], (40, 1));
    assert!(filled[2].0 >= 1_000_000 && filled[2].0 < 1_031_250);
}

#[test]
fn every_flipped_bit_of_a_part_is_refused_or_is_another_number() {
    let bytes = part_bytes(3, 0);
    for bit in (0..bytes * 8).step_by(if cfg!(miri) { 67 } else { 1 }) {
        let (part, mut writer) = writer(3, 0);
        for name in ["a", "b", "c"] {
            writer.counter(name, MetricUnit::COUNT).unwrap().set(1);
        }
        let mut byte = [0];
        part.read(bit / 8, &mut byte).unwrap();
        byte[0] ^= 1 << (bit % 8);
        part.write(bit / 8, &byte).unwrap();
        let Ok(reader) = MetricsReader::new(part.read_only()) else {
            continue;
        };
        assert!(reader.len() <= 3);
        for metric in reader.iter().flatten() {
            assert!(metric.name().len() <= 48);
            if let MetricValue::Histogram(histogram) = metric.value {
                let _ = histogram.quantile(500_000);
            }
        }
    }
}

#[test]
fn a_part_of_a_newer_version_is_said_to_be_one() {
    let (part, _) = writer(1, 0);
    part.word32(8).unwrap().store(2);
    assert_eq!(
        MetricsReader::new(part.read_only()).unwrap_err().to_string(),
        "metrics has version 2, this program knows up to 1: use a newer program"
    );
}
