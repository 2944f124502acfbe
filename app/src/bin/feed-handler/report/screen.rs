//! The report as one screen of text.
//!
//! A label, then what belongs to it, broken between items so that no line is wider than a terminal
//! of [`COLUMNS`]. Tables for what is compared. Called by [`Report::to_text`].

use std::fmt::Display;

use hybrid_conventions::{Count, HumanBytes, HumanNanos, Si};

use super::{Core, Device, Driver, Feed, Latency, Machine, Phase, Report, Ring, Silence, Starts};

/// Columns of the screen.
pub(super) const COLUMNS: usize = 100;

/// Columns of the labels at the left, their gap included.
const LABEL: usize = 10;

/// The whole screen.
pub(super) fn of(report: &Report) -> String {
    let mut screen = Screen::default();
    screen.line(&report.title);
    if report.interrupted {
        screen.line("interrupted: these are the figures of the part that was done");
    }
    screen.line("");
    device(&mut screen, &report.device);
    machine(&mut screen, &report.machine);
    phases(&mut screen, report);
    if let Some(seen) = &report.feed {
        feed(&mut screen, seen);
    }
    latencies(&mut screen, report);
    driver(&mut screen, &report.driver);
    ring(&mut screen, &report.ring);
    core(&mut screen, &report.core);
    silence(&mut screen, &report.silence);
    starts(&mut screen, &report.starts);
    screen.text
}

/// Lines under labels.
#[derive(Default)]
struct Screen {
    text: String,
}

impl Screen {
    fn line(&mut self, line: &str) {
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    /// `items` behind `label`, with commas between them.
    fn items(&mut self, label: &str, items: &[String]) {
        self.broken(label, ",", " ", items);
    }

    /// Items, each followed by `mark` but the last, and `gap` between those on one line.
    fn broken(&mut self, label: &str, mark: &str, gap: &str, items: &[String]) {
        let mut line = format!("{label:LABEL$}");
        for (index, item) in items.iter().enumerate() {
            let last = index + 1 == items.len();
            let item = if last { item.clone() } else { format!("{item}{mark}") };
            let empty = line.trim_end().len() <= label.len() && line.chars().count() <= LABEL;
            let gap = if empty { "" } else { gap };
            if !empty && line.chars().count() + gap.len() + item.chars().count() > COLUMNS {
                self.line(&line);
                line = " ".repeat(LABEL) + &item;
            } else {
                line.push_str(gap);
                line.push_str(&item);
            }
        }
        self.line(&line);
    }
}

/// `1 book`, `2 books`.
fn many(count: u64, one: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {one}{plural}", Count(count))
}

fn device(screen: &mut Screen, device: &Device) {
    let kind = if device.is_model {
        "a software model of an NVMe controller: its figures show what our software costs"
    } else {
        &device.backend
    };
    screen.items("device", &[device.name.clone(), kind.to_owned()]);
    screen.items(
        "",
        &[
            format!("{} {}", device.model_number, device.firmware),
            format!(
                "{} in blocks of {}",
                HumanBytes(device.namespace_bytes),
                HumanBytes(device.lba_bytes)
            ),
            format!("transfers of at most {}", HumanBytes(device.max_transfer_bytes)),
            format!("queue depth {}", device.queue_depth),
        ],
    );
}

fn machine(screen: &mut Screen, machine: &Machine) {
    let mut items = vec![
        machine.cpu_model.clone(),
        many(machine.cpus, "CPU"),
        format!("Linux {}", machine.kernel),
        format!("TSC {:.3} GHz", machine.tsc_hz as f64 / 1e9),
    ];
    if machine.virtual_machine {
        items.push("virtual machine".to_owned());
    }
    screen.items("machine", &items);
    let isolated = if machine.partition_cpu_isolated { "isolated" } else { "not isolated" };
    let governor = machine.governor.as_deref().unwrap_or("unknown");
    screen.items(
        "",
        &[
            format!(
                "partition on CPU {} ({}, {isolated}, governor {governor})",
                machine.partition_cpu, machine.isolation
            ),
            format!(
                "{} DMA, {} private and {} state memory in {} pages",
                HumanBytes(machine.dma_bytes),
                HumanBytes(machine.private_used_bytes),
                HumanBytes(machine.state_bytes),
                HumanBytes(machine.page_bytes),
            ),
        ],
    );
}

/// Of a partition that was started once there is nothing to say.
fn starts(screen: &mut Screen, starts: &Starts) {
    let Starts { restarts, fallbacks, resumed_bytes } = *starts;
    if restarts == 0 && fallbacks == 0 {
        return;
    }
    let mut items = vec![format!("started again {}", many(restarts, "time"))];
    if fallbacks != 0 {
        items.push("went on with other storage than its device".to_owned());
    }
    if resumed_bytes != 0 {
        items.push(format!("behind {} of the feed", HumanBytes(resumed_bytes)));
    }
    screen.items("starts", &items);
}

fn phases(screen: &mut Screen, report: &Report) {
    let row = |name: &str, cells: [&dyn Display; 5]| {
        let [messages, bytes, time, message_rate, byte_rate] = cells.map(ToString::to_string);
        format!("{name:LABEL$}{messages:>16}{bytes:>14}{time:>14}{message_rate:>16}{byte_rate:>16}")
    };
    screen.line("");
    screen.line(&row("", [&"messages", &"bytes", &"time", &"messages/s", &"bytes/s"]));
    for (name, phase) in [("ingest", &report.ingest), ("replay", &report.replay)] {
        let Some(phase) = phase else { continue };
        let Phase { messages, bytes, ns, messages_per_second, bytes_per_second } = *phase;
        let byte_rate = format!("{}/s", HumanBytes(bytes_per_second));
        let rate = Si(messages_per_second);
        screen.line(&row(
            name,
            [&Count(messages), &HumanBytes(bytes), &HumanNanos(ns), &rate, &byte_rate],
        ));
    }
    screen.line("");
}

fn feed(screen: &mut Screen, feed: &Feed) {
    let types: Vec<_> = feed
        .messages_by_type
        .iter()
        .map(|(kind, count)| format!("{kind} {}", Count(*count)))
        .collect();
    screen.broken("messages", "", "  ", &types);
    screen.items(
        "",
        &[
            format!("{} of unknown type", Count(feed.unknown_types)),
            format!("{} refused", Count(feed.refused)),
        ],
    );
    screen.items(
        "books",
        &[
            many(feed.books, "book"),
            many(feed.bbo_changes, "BBO change"),
            many(feed.trades, "trade"),
            many(feed.trading_states, "trading state"),
        ],
    );
    screen.items(
        "",
        &[
            format!("{} open at the end", many(feed.orders_open, "order")),
            format!(
                "{} at most (room for {})",
                Count(feed.orders_high_water),
                Count(feed.orders_capacity)
            ),
        ],
    );
}

fn latencies(screen: &mut Screen, report: &Report) {
    let kinds = [
        ("writes in the window", &report.writes),
        ("reads in the window", &report.reads),
        ("single reads", &report.single_reads),
    ];
    if kinds.iter().all(|(_, latency)| latency.is_none()) {
        return;
    }
    let row = |name: &str, cells: [&dyn Display; 6]| {
        let [size, samples, p50, p99, p999, max] = cells.map(ToString::to_string);
        format!("{name:26}{size:>10}{samples:>10}{p50:>10}{p99:>10}{p999:>10}{max:>10}")
    };
    let title = if report.device.is_model { "latency of the model" } else { "latency" };
    screen.line("");
    screen.line(&row(title, [&"size", &"samples", &"p50", &"p99", &"p99.9", &"max"]));
    for (name, latency) in kinds {
        let Some(Latency { request_bytes, samples, p50_ns, p99_ns, p999_ns, max_ns }) = *latency
        else {
            continue;
        };
        let [p50, p99, p999, max] = [p50_ns, p99_ns, p999_ns, max_ns].map(HumanNanos);
        let size = HumanBytes(request_bytes);
        screen.line(&row(name, [&size, &Count(samples), &p50, &p99, &p999, &max]));
    }
    screen.line("");
}

fn driver(screen: &mut Screen, driver: &Driver) {
    let mut items = vec![
        many(driver.commands, "command"),
        format!("{} failed", Count(driver.failed)),
        format!("{} retried", Count(driver.retried)),
    ];
    // What was lost; on a device that loses nothing nobody asks.
    if driver.repeated != 0 {
        items.push(format!("{} read again", Count(driver.repeated)));
    }
    items.push(many(driver.resets, "reset"));
    screen.items("driver", &items);
    if let (Some(submit), Some(complete)) = (driver.submit_cycles, driver.complete_cycles) {
        let cycles =
            format!("{submit:.0} cycles to submit and {complete:.0} to complete a 4 KiB read");
        screen.items("", &[format!("{cycles} (TSC ticks, median of bursts)")]);
    }
}

fn ring(screen: &mut Screen, ring: &Ring) {
    let full = ring.high_water_bytes.saturating_mul(100) / ring.capacity_bytes.max(1);
    screen.items(
        "ring",
        &[
            many(ring.events, "event"),
            format!("{} dropped", Count(ring.dropped)),
            many(ring.waits, "wait"),
            format!("at most {full} % of {} used", HumanBytes(ring.capacity_bytes)),
        ],
    );
}

fn core(screen: &mut Screen, core: &Core) {
    screen.items(
        "core",
        &[
            format!("{} passes in {}", Count(core.passes), HumanNanos(core.ran_ns)),
            many(core.task_polls, "task poll"),
            format!("{} over budget", Count(core.budget_overruns)),
        ],
    );
    let permille = core.stolen_ns.saturating_mul(1000) / core.ran_ns.max(1);
    screen.items(
        "",
        &[
            format!(
                "pass to pass p99 {} and max {}",
                HumanNanos(core.gap_p99_ns),
                HumanNanos(core.gap_max_ns)
            ),
            format!(
                "{} ({}.{} %) taken by others in {}",
                HumanNanos(core.stolen_ns),
                permille / 10,
                permille % 10,
                many(core.stolen_gaps, "gap"),
            ),
        ],
    );
}

fn silence(screen: &mut Screen, silence: &Silence) {
    let mut items = vec![match silence.heap_allocations {
        Some(calls) => many(calls, "heap allocation"),
        None => "heap allocations not counted".to_owned(),
    }];
    items.extend(silence.system_calls.map(|calls| many(calls, "system call")));
    items.push(many(silence.page_faults, "page fault"));
    items.push(format!("preempted {}", many(silence.involuntary_switches, "time")));
    screen.items("", &items);
}
