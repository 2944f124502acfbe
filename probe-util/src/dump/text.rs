//! A dump for people: what died and why first, then the details in the order of their worth.

use std::fmt::Write as _;

use hybrid_abi::crash::device::{
    COMMAND_AGE_UNKNOWN, COMMAND_ENTRY_LOST, CommandRecord, ControllerRecord, INDEX_UNKNOWN,
    KNOWN_CC, KNOWN_CSTS, KNOWN_GONE, KNOWN_IDENTITY, QueueRecord,
};
use hybrid_abi::crash::file::{
    END_EXITED, END_RUNNING, END_SIGNALLED, HOST_COMPOSED, HOST_FENCED, HOST_SENT_IT, HostWords,
};
use hybrid_abi::crash::metric::MetricRecord;
use hybrid_abi::crash::program::{
    BACKTRACE_BROKEN, BACKTRACE_FULL, BACKTRACE_LEFT_STACK, KNOWN_FAULT_ADDRESS, KNOWN_SYSCALL,
    Registers,
};
use hybrid_abi::crash::{CRASH_COMPLETE, CRASH_HANDLER_FAILED, reason_name};
use hybrid_abi::metrics::MetricKind;
use hybrid_conventions::{Column, Count, HumanNanos, Table};

use super::loaded::{Loaded, Record};
use super::names;
use super::symbols::Symbols;
use super::verdict::Verdict;
use crate::trace::dictionary::Dictionary;

/// The whole dump.
pub(super) fn print(loaded: &Loaded, symbols: &Symbols, names: &Dictionary) -> String {
    let mut out = String::new();
    // A String takes everything.
    let _ = head(&mut out, loaded);
    if let Some(record) = &loaded.record {
        let _ = backtrace(&mut out, record, symbols);
        let _ = commands(&mut out, loaded, record);
        let _ = tasks(&mut out, loaded, record);
        let _ = registers(&mut out, record);
        let _ = controllers(&mut out, loaded, record);
        let _ = metrics(&mut out, record);
        let _ = super::events::print(&mut out, loaded, record, names);
        let _ = missing(&mut out, record);
    }
    out
}

/// `panic: block 7 is torn`.
fn why(record: &Record) -> String {
    let reason = reason_name(record.header.reason);
    match &record.message {
        Some(message) if !message.is_empty() => format!("{reason}: {message}"),
        _ => reason.to_owned(),
    }
}

fn head(out: &mut String, loaded: &Loaded) -> std::fmt::Result {
    let partition = loaded.file.map_or("a partition".to_owned(), |file| {
        format!("partition {} (incarnation {})", file.partition, file.incarnation)
    });
    let Some(record) = &loaded.record else {
        writeln!(out, "{partition} died; no record of it can be read")?;
        return host(out, loaded);
    };
    writeln!(out, "{partition} died: {}", why(record))?;
    if let Some((file, at)) = &record.location {
        writeln!(out, "  at {file}:{}:{}", at.line, at.column)?;
    }
    if let Some(current) = &record.current {
        let age = time(loaded, current.age_ticks);
        match (current.task, current.name.as_str()) {
            (0, _) => writeln!(out, "  no task was being polled; last pass {age} before")?,
            (task, "") => writeln!(out, "  task {task} had been polled for {age}")?,
            (task, name) => writeln!(out, "  task {task} \"{name}\" had been polled for {age}")?,
        }
        writeln!(out, "  {} passes of the loop", Count(current.heartbeat))?;
    }
    let composed = loaded.host.as_ref().is_some_and(|(words, _)| words.flags & HOST_COMPOSED != 0);
    let by = if composed { "composed by the host" } else { "written by the partition" };
    let state = match record.header.state {
        CRASH_COMPLETE => "complete",
        CRASH_HANDLER_FAILED => "cut short: the crash handler itself failed",
        _ => "cut short: the partition ended while it was written",
    };
    let at = loaded.file.and_then(|file| file.unix_ns(record.header.tsc)).map(names::utc);
    writeln!(out, "  record {by}, {state}{}", at.map_or(String::new(), |at| format!(", {at}")))?;
    host(out, loaded)
}

fn host(out: &mut String, loaded: &Loaded) -> std::fmt::Result {
    if let Some((words, line)) = &loaded.host {
        writeln!(out, "  host: {}{}", ended(words), suffix(": ", line))?;
    }
    if let Some(state) = &loaded.state {
        let len = (state.text_len as usize).min(state.text.len());
        let line = hybrid_abi::crash::text(state.text.get(..len).unwrap_or_default());
        writeln!(out, "  state: {}{}", names::state(state.state), suffix(": ", line))?;
    }
    let Some(file) = &loaded.file else { return Ok(()) };
    let program = loaded.program_path.as_deref().unwrap_or("unknown");
    let build = names::hex(&file.build_id);
    writeln!(out, "  program {program}, build id {build}, saved {}", names::utc(file.saved_unix_ns))
}

fn suffix(separator: &str, text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{separator}{text}") }
}

/// `process 77 was ended by SIGKILL, sent by the host, device fenced`.
fn ended(words: &HostWords) -> String {
    let who = if words.pid == 0 { "it".to_owned() } else { format!("process {}", words.pid) };
    let mut said = match words.end {
        END_EXITED => format!("{who} exited with code {}", words.code),
        END_SIGNALLED => format!("{who} was ended by {}", names::signal(words.code)),
        END_RUNNING => format!("{who} goes on"),
        _ => format!("{who} ended"),
    };
    if words.flags & HOST_SENT_IT != 0 {
        said.push_str(", by the host");
    }
    said.push_str(match words.flags & HOST_FENCED {
        0 => ", the device was not fenced",
        _ => ", the device is fenced",
    });
    said
}

fn backtrace(out: &mut String, record: &Record, symbols: &Symbols) -> std::fmt::Result {
    let Some((head, addresses)) = &record.backtrace else { return Ok(()) };
    writeln!(out, "\nbacktrace")?;
    for (index, address) in addresses.iter().enumerate() {
        write!(out, "  #{index:<2} {address:#014x}")?;
        let frames = symbols.at(*address, index != 0);
        if frames.is_empty() {
            writeln!(out)?;
        }
        for (depth, frame) in frames.iter().enumerate() {
            let indent = if depth == 0 { " " } else { "                      " };
            let name = frame.function.as_deref().unwrap_or("unknown function");
            let at = match (&frame.file, frame.line) {
                (Some(file), Some(line)) => format!(" at {file}:{line}"),
                (Some(file), None) => format!(" at {file}"),
                _ => String::new(),
            };
            let inlined = if depth + 1 < frames.len() { " (inlined)" } else { "" };
            writeln!(out, "{indent}{name}{inlined}{at}")?;
        }
    }
    match head.end {
        BACKTRACE_FULL => writeln!(out, "  (more frames than are kept)")?,
        BACKTRACE_LEFT_STACK => writeln!(out, "  (the next frame lies outside of the stack)")?,
        BACKTRACE_BROKEN => writeln!(out, "  (the chain of frames is broken here)")?,
        _ => {}
    }
    if let Symbols::None(why) = symbols {
        writeln!(out, "  no symbols: {why}")?;
    }
    Ok(())
}

fn commands(out: &mut String, loaded: &Loaded, record: &Record) -> std::fmt::Result {
    for (head, commands) in &record.commands {
        let total = Count(head.total.into());
        writeln!(out, "\noutstanding commands of controller {}: {total}", head.controller)?;
        let rows: Vec<[String; 8]> =
            commands.iter().map(|command| command_row(loaded, head.controller, command)).collect();
        let columns = [
            Column::right("age"),
            Column::right("queue"),
            Column::right("cid"),
            Column::left("command"),
            Column::right("nsid"),
            Column::right("slba"),
            Column::right("blocks"),
            Column::left("verdict"),
        ];
        table(out, columns, &rows)?;
        let told = u32::try_from(commands.len()).unwrap_or(u32::MAX);
        if head.total > told {
            writeln!(out, "  and {} younger ones", Count((head.total - told).into()))?;
        }
    }
    Ok(())
}

fn command_row(loaded: &Loaded, controller: u32, command: &CommandRecord) -> [String; 8] {
    let lost = command.flags & COMMAND_ENTRY_LOST != 0;
    let blocks = command.nlb();
    let or_dash = |shown: bool, text: String| if shown { text } else { "-".to_owned() };
    [
        age(command),
        command.qid.to_string(),
        format!("{:#06x}", command.cid),
        or_dash(!lost, names::opcode(command.qid, command.opcode)),
        or_dash(!lost, command.nsid.to_string()),
        or_dash(blocks != 0, command.slba.to_string()),
        or_dash(blocks != 0, blocks.to_string()),
        Verdict::of(loaded, controller, command).sentence(),
    ]
}

/// `1.2 s`, or from when to when, or a dash.
fn age(command: &CommandRecord) -> String {
    if command.flags & COMMAND_AGE_UNKNOWN != 0 {
        return "-".to_owned();
    }
    let least = u64::from(command.age_us) * 1_000;
    let most = least.saturating_add(u64::from(command.age_within_us) * 1_000);
    if command.age_within_us == 0 {
        return HumanNanos(least).to_string();
    }
    format!("{} to {}", HumanNanos(least), HumanNanos(most))
}

fn tasks(out: &mut String, loaded: &Loaded, record: &Record) -> std::fmt::Result {
    let Some((head, tasks)) = &record.tasks else { return Ok(()) };
    writeln!(out, "\ntasks: {}", Count(head.total.into()))?;
    let rows: Vec<[String; 8]> = tasks
        .iter()
        .map(|task| {
            let figures = &task.figures;
            [
                figures.task.to_string(),
                task.name.as_str().to_owned(),
                figures.class_name().to_owned(),
                figures.state_name().to_owned(),
                Count(figures.polls).to_string(),
                Count(figures.overruns).to_string(),
                time(loaded, figures.longest_ticks),
                time(loaded, figures.total_ticks),
            ]
        })
        .collect();
    let columns = [
        Column::right("task"),
        Column::left("name"),
        Column::left("class"),
        Column::left("state"),
        Column::right("polls"),
        Column::right("overruns"),
        Column::right("longest"),
        Column::right("total"),
    ];
    table(out, columns, &rows)
}

fn registers(out: &mut String, record: &Record) -> std::fmt::Result {
    let Some(registers) = &record.registers else { return Ok(()) };
    let Registers { signal, code, trap, error_code, known, .. } = *registers;
    let name = names::signal(signal);
    writeln!(out, "\nregisters: {name}, code {code}, trap {trap}, error code {error_code:#x}")?;
    if known & KNOWN_FAULT_ADDRESS != 0 {
        writeln!(out, "  fault address {:#018x}", registers.fault_address)?;
    }
    if known & KNOWN_SYSCALL != 0 {
        let args = registers.syscall_args.map(|arg| format!("{arg:#x}")).join(", ");
        writeln!(out, "  system call {}({args})", registers.syscall)?;
    }
    for line in registers.named().chunks(3) {
        let cells = line.iter().map(|(name, value)| format!("{name:>6} {value:#018x}"));
        writeln!(out, "  {}", cells.collect::<Vec<_>>().join("  "))?;
    }
    Ok(())
}

fn controllers(out: &mut String, loaded: &Loaded, record: &Record) -> std::fmt::Result {
    for controller in &record.controllers {
        controller_lines(out, loaded, record, controller)?;
    }
    if record.queues.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nqueues")?;
    let rows: Vec<[String; 11]> = record.queues.iter().map(queue_row).collect();
    let columns = [
        Column::right("controller"),
        Column::right("queue"),
        Column::left("mode"),
        Column::right("entries"),
        Column::right("tail"),
        Column::right("rung"),
        Column::right("sqhd"),
        Column::right("head"),
        Column::right("in flight"),
        Column::right("not reaped"),
        Column::right("submitted"),
    ];
    table(out, columns, &rows)
}

fn controller_lines(
    out: &mut String,
    loaded: &Loaded,
    record: &Record,
    controller: &ControllerRecord,
) -> std::fmt::Result {
    let known = |flag| controller.known & flag != 0;
    let ControllerRecord { controller: number, csts, cc, cap, vs, .. } = *controller;
    writeln!(out, "\ncontroller {number}: {} ({})", controller.state_name(), controller.phase)?;
    if known(KNOWN_IDENTITY) {
        let (model, serial) = (&controller.model, &controller.serial);
        writeln!(out, "  {model}, serial {serial}, firmware {}", controller.firmware)?;
    }
    if known(KNOWN_GONE) {
        writeln!(out, "  the driver had found it gone")?;
    }
    let version = format!("{}.{}.{}", vs >> 16, vs >> 8 & 0xFF, vs & 0xFF);
    writeln!(out, "  CAP {cap:#018x}, VS {vs:#010x} ({version})")?;
    if known(KNOWN_CC) {
        writeln!(out, "  CC {cc:#010x} (EN {})", cc & 1)?;
    }
    if known(KNOWN_CSTS) {
        let ago = time(loaded, record.header.tsc.saturating_sub(controller.csts_tsc));
        let (rdy, cfs, shst) = (csts & 1, csts >> 1 & 1, csts >> 2 & 3);
        let bits = format!("RDY {rdy}, CFS {cfs}, SHST {shst}");
        writeln!(out, "  CSTS {csts:#010x} ({bits}), read {ago} before")?;
    }
    writeln!(
        out,
        "  {} queues, {} namespaces; deadline {}, admin {}; {} passed their deadline, {} aborts, \
         {} queue resets, {} resets",
        controller.io_queues,
        controller.namespaces,
        HumanNanos(controller.deadline_ns),
        HumanNanos(controller.admin_deadline_ns),
        Count(controller.deadlines),
        Count(controller.aborts),
        Count(controller.queue_resets),
        Count(controller.resets),
    )
}

fn queue_row(queue: &QueueRecord) -> [String; 11] {
    let index = |value: u16| match value {
        INDEX_UNKNOWN => "-".to_owned(),
        value => value.to_string(),
    };
    [
        queue.controller.to_string(),
        queue.qid.to_string(),
        queue.mode_name().to_owned(),
        index(queue.entries),
        index(queue.sq_tail),
        index(queue.sq_rung),
        index(queue.sqhd),
        index(queue.cq_head),
        index(queue.in_flight),
        queue.unreaped.to_string(),
        if queue.sq_tail == INDEX_UNKNOWN {
            "-".into()
        } else {
            Count(queue.submitted).to_string()
        },
    ]
}

fn metrics(out: &mut String, record: &Record) -> std::fmt::Result {
    if record.metrics.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nmetrics, as last published")?;
    for metric in &record.metrics {
        let MetricRecord { name, unit, value, p50, p99, max, .. } = metric;
        let unit = unit.name();
        let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
        match metric.kind {
            MetricKind::HISTOGRAM if *value == 0 => writeln!(out, "  {name}: none")?,
            MetricKind::HISTOGRAM => writeln!(
                out,
                "  {name}: {} samples, p50 {}, p99 {}, max {}{unit}",
                Count(*value),
                Count(*p50),
                Count(*p99),
                Count(*max)
            )?,
            _ => writeln!(out, "  {name}: {}{unit}", Count(*value))?,
        }
    }
    Ok(())
}

fn missing(out: &mut String, record: &Record) -> std::fmt::Result {
    if !record.missing.is_empty() {
        writeln!(out, "\nnot in this dump")?;
    }
    record.missing.iter().try_for_each(|what| writeln!(out, "  {what}"))
}

/// Ticks as time, or as ticks where the frequency is not known.
fn time(loaded: &Loaded, ticks: u64) -> String {
    match loaded.ns(ticks) {
        Some(ns) => HumanNanos(ns).to_string(),
        None => format!("{} ticks", Count(ticks)),
    }
}

fn table<const N: usize>(
    out: &mut String,
    columns: [Column; N],
    rows: &[[String; N]],
) -> std::fmt::Result {
    let cells: Vec<[&dyn std::fmt::Display; N]> =
        rows.iter().map(|row| row.each_ref().map(|cell| cell as &dyn std::fmt::Display)).collect();
    let mut lines = String::new();
    Table::new(columns).write(&mut lines, &cells)?;
    lines.lines().try_for_each(|line| writeln!(out, "  {line}"))
}
