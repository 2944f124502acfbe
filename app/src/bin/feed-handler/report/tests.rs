//! The two forms of a fixed report, against golden files.

use super::*;

/// A report with every part, and figures that need every unit.
fn whole() -> Report {
    let latency = |request_bytes, p50_ns| Latency {
        request_bytes,
        samples: 20_000,
        p50_ns,
        p99_ns: p50_ns * 2,
        p999_ns: p50_ns * 20,
        max_ns: p50_ns * 3000,
    };
    let by_type = [("S", 6), ("R", 500), ("A", 2_513_401), ("F", 90_210), ("E", 150_077)];
    let more = [("C", 6_001), ("X", 72_222), ("D", 2_470_000), ("U", 480_000), ("I", 90_000)];
    Report {
        schema: SCHEMA,
        title: "feed-handler: a synthetic day of 6,000,000 messages, 500 stocks, seed 1".to_owned(),
        device: Device {
            name: "model".to_owned(),
            is_model: true,
            backend: "model, namespace 1 in memory".to_owned(),
            model_number: "Hybrid software NVMe controller".to_owned(),
            firmware: "1.0".to_owned(),
            namespace_bytes: 256 << 20,
            lba_bytes: 4096,
            max_transfer_bytes: 128 << 10,
            queue_depth: 32,
        },
        machine: Machine {
            cpu_model: "A processor with quite a long name, 2.45 GHz".to_owned(),
            cpus: 2,
            kernel: "6.1.0-17-amd64".to_owned(),
            governor: Some("performance".to_owned()),
            virtual_machine: true,
            tsc_hz: 2_445_400_000,
            partition_cpu: 1,
            partition_cpu_isolated: false,
            isolation: "process".to_owned(),
            dma_bytes: 18 << 20,
            page_bytes: 4096,
            private_used_bytes: 8 << 20,
            state_bytes: 72 << 20,
        },
        ingest: Some(Phase::new(6_000_000, 185_000_000, 410_000_000)),
        replay: Some(Phase::new(6_000_000, 185_000_000, 880_000_000)),
        feed: Some(Feed {
            messages_by_type: by_type
                .into_iter()
                .chain(more)
                .map(|(kind, count)| (kind.to_owned(), count))
                .collect(),
            unknown_types: 0,
            refused: 3,
            books: 500,
            bbo_changes: 2_512_345,
            trades: 1,
            trading_states: 539,
            orders_open: 31_000,
            orders_high_water: 41_000,
            orders_capacity: 96_000,
        }),
        reads: Some(latency(65_536, 21_000)),
        writes: Some(latency(65_536, 33_000)),
        single_reads: Some(latency(4096, 455)),
        driver: Driver {
            commands: 5_666,
            failed: 0,
            retried: 1,
            repeated: 5,
            resets: 1,
            submit_cycles: Some(87.4),
            complete_cycles: Some(61.5),
        },
        ring: Ring {
            events: 2_900_000,
            dropped: 0,
            waits: 12,
            high_water_bytes: 3 << 20,
            capacity_bytes: 4 << 20,
        },
        core: Core {
            ran_ns: 1_700_000_000,
            passes: 3_090_669,
            task_polls: 331_031,
            budget_overruns: 2,
            gap_p99_ns: 847,
            gap_max_ns: 137_200_000,
            stolen_ns: 12_345_678,
            stolen_gaps: 1,
        },
        silence: Silence {
            heap_allocations: Some(0),
            system_calls: Some(0),
            page_faults: 1,
            involuntary_switches: 88,
        },
        starts: Starts::default(),
        journal: None,
        interrupted: false,
    }
}

/// What an ingest that was interrupted has: no replay, no feed, no latencies.
fn interrupted() -> Report {
    Report {
        title: "feed-handler ingest: a-file-with-a-name-that-goes-on.itch".to_owned(),
        replay: None,
        feed: None,
        reads: None,
        writes: None,
        single_reads: None,
        driver: Driver { commands: 1, ..Driver::default() },
        silence: Silence { heap_allocations: None, system_calls: None, ..whole().silence },
        starts: Starts { restarts: 2, fallbacks: 1, resumed_bytes: 11 << 20 },
        interrupted: true,
        ..whole()
    }
}

#[track_caller]
fn check(golden: &str, text: &str) {
    assert!(golden == text, "the golden file differs; the report is now:\n{text}");
}

#[test]
fn the_screen_is_as_in_the_golden_file() {
    check(include_str!("golden/whole.txt"), &whole().to_text());
}

#[test]
fn the_screen_of_an_interrupted_ingest_is_as_in_the_golden_file() {
    check(include_str!("golden/interrupted.txt"), &interrupted().to_text());
}

#[test]
fn the_json_is_as_in_the_golden_file() {
    let json = whole().to_json().expect("numbers and texts");
    check(include_str!("golden/whole.json"), &(json + "\n"));
}

#[test]
fn no_line_is_wider_than_the_screen_or_ends_in_a_space() {
    for report in [whole(), interrupted()] {
        for line in report.to_text().lines() {
            assert!(line.chars().count() <= screen::COLUMNS, "{line}");
            assert_eq!(line, line.trim_end());
        }
    }
}
