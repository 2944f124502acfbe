//! A dump for programs: schema `crash-dump/1`. Numbers are numbers, addresses too; times are
//! nanoseconds. What is not in the dump is null or an empty list. Fields are only ever added.

use anyhow::Result;
use hybrid_abi::crash::device::{
    COMMAND_AGE_UNKNOWN, COMMAND_ENTRY_LOST, CommandRecord, ControllerRecord, INDEX_UNKNOWN,
    KNOWN_CC, KNOWN_CSTS, KNOWN_GONE, KNOWN_IDENTITY, QueueRecord,
};
use hybrid_abi::crash::file::{
    END_EXITED, END_RUNNING, END_SIGNALLED, HOST_COMPOSED, HOST_FENCED, HOST_SENT_IT,
};
use hybrid_abi::crash::metric::MetricRecord;
use hybrid_abi::crash::program::{KNOWN_FAULT_ADDRESS, KNOWN_SYSCALL, Registers, TaskRecord};
use hybrid_abi::crash::{CRASH_COMPLETE, CRASH_HANDLER_FAILED, reason_name};
use serde_json::{Value, json};

use super::loaded::{Loaded, Record};
use super::names;
use super::symbols::{Frame, Symbols};
use super::verdict::Verdict;
use crate::trace::dictionary::Dictionary;

/// The whole dump, with a line's end.
///
/// # Errors
/// None that is known.
pub(super) fn print(loaded: &Loaded, symbols: &Symbols, names: &Dictionary) -> Result<String> {
    let problems: Vec<_> = loaded
        .problems
        .iter()
        .map(|problem| json!({ "offset": problem.offset, "what": problem.what }))
        .collect();
    let mut value = json!({
        "schema": "crash-dump/1",
        "file": file(loaded),
        "host": host(loaded),
        "state": loaded.state.map(|state| names::state(state.state)),
        "problems": problems,
    });
    if let (Some(record), Some(object)) = (&loaded.record, value.as_object_mut()) {
        for (name, part) in parts(loaded, record, symbols, names) {
            object.insert(name.to_owned(), part);
        }
    }
    Ok(serde_json::to_string_pretty(&value)? + "\n")
}

fn file(loaded: &Loaded) -> Value {
    let Some(file) = &loaded.file else { return Value::Null };
    json!({
        "version": file.version,
        "partition": file.partition,
        "incarnation": file.incarnation,
        "saved_unix_ns": file.saved_unix_ns,
        "tsc_hz": file.tsc_hz,
        "boot_id": file.boot_id.map(|byte| format!("{byte:02x}")).concat(),
        "build_id": names::hex(&file.build_id),
        "program": loaded.program_path,
    })
}

fn host(loaded: &Loaded) -> Value {
    let Some((words, line)) = &loaded.host else { return Value::Null };
    let is = |flag| words.flags & flag != 0;
    json!({
        "end": match words.end {
            END_EXITED => "exited",
            END_SIGNALLED => "signalled",
            END_RUNNING => "running",
            _ => "unknown",
        },
        "code": words.code,
        "pid": words.pid,
        "noticed_unix_ns": words.noticed_unix_ns,
        "fenced": is(HOST_FENCED),
        "composed": is(HOST_COMPOSED),
        "killed_by_host": is(HOST_SENT_IT),
        "line": line,
    })
}

fn parts(
    loaded: &Loaded,
    record: &Record,
    symbols: &Symbols,
    names: &Dictionary,
) -> Vec<(&'static str, Value)> {
    let header = &record.header;
    let state = match header.state {
        CRASH_COMPLETE => "complete",
        CRASH_HANDLER_FAILED => "handler failed",
        _ => "cut short",
    };
    let ns = |ticks| loaded.ns(ticks);
    let location = record
        .location
        .as_ref()
        .map(|(file, at)| json!({ "file": file, "line": at.line, "column": at.column }));
    let current = record.current.map(|current| {
        json!({
            "task": current.task,
            "name": current.name.as_str(),
            "age_ns": ns(current.age_ticks),
            "passes": current.heartbeat,
        })
    });
    let commands: Vec<_> = record
        .commands
        .iter()
        .flat_map(|(head, commands)| commands.iter().map(|c| command(loaded, head.controller, c)))
        .collect();
    let total: u64 = record.commands.iter().map(|(head, _)| u64::from(head.total)).sum();
    let tasks = record.tasks.iter().flat_map(|(_, tasks)| tasks);
    vec![
        ("reason", json!(reason_name(header.reason))),
        ("reason_code", json!(header.reason)),
        ("message", json!(record.message)),
        ("location", json!(location)),
        ("record", json!({ "state": state, "sequence": header.sequence, "tsc": header.tsc })),
        ("died_unix_ns", json!(loaded.file.and_then(|file| file.unix_ns(header.tsc)))),
        ("current_task", json!(current)),
        ("backtrace", backtrace(record, symbols)),
        ("registers", json!(record.registers.as_ref().map(registers))),
        ("tasks", tasks.map(|t| task(loaded, t)).collect()),
        ("commands", json!(commands)),
        ("commands_total", json!(total)),
        ("controllers", record.controllers.iter().map(controller).collect()),
        ("queues", record.queues.iter().map(queue).collect()),
        ("metrics", record.metrics.iter().map(metric).collect()),
        ("events", super::events::json(loaded, record, names)),
        ("missing", json!(record.missing)),
    ]
}

fn backtrace(record: &Record, symbols: &Symbols) -> Value {
    let Some((_, addresses)) = &record.backtrace else { return Value::Null };
    let base = record.program.map_or(0, |program| program.load_base);
    let frame = |frame: &Frame| {
        let Frame { function, file, line } = frame;
        json!({ "function": function, "file": file, "line": line })
    };
    let frames: Vec<_> = addresses
        .iter()
        .enumerate()
        .map(|(index, address)| {
            let found = symbols.at(*address, index != 0);
            json!({
                "address": address,
                "in_program": address.checked_sub(base).filter(|_| base != 0),
                "functions": found.iter().map(frame).collect::<Vec<_>>(),
            })
        })
        .collect();
    let no_symbols = match symbols {
        Symbols::None(why) => Some(why),
        Symbols::Found(_) => None,
    };
    json!({ "frames": frames, "no_symbols": no_symbols })
}

fn registers(registers: &Registers) -> Value {
    let named = registers.named().map(|(name, value)| (name.to_owned(), json!(value)));
    let is = |flag| registers.known & flag != 0;
    let call = json!({ "number": registers.syscall, "arguments": registers.syscall_args });
    json!({
        "signal": registers.signal,
        "signal_name": names::signal(registers.signal),
        "code": registers.code,
        "trap": registers.trap,
        "error_code": registers.error_code,
        "fault_address": is(KNOWN_FAULT_ADDRESS).then_some(registers.fault_address),
        "system_call": is(KNOWN_SYSCALL).then_some(call),
        "general": serde_json::Map::from_iter(named),
    })
}

fn task(loaded: &Loaded, task: &TaskRecord) -> Value {
    let figures = &task.figures;
    json!({
        "task": figures.task,
        "name": task.name.as_str(),
        "class": figures.class_name(),
        "state": figures.state_name(),
        "polls": figures.polls,
        "overruns": figures.overruns,
        "budget_ns": loaded.ns(figures.budget_ticks),
        "longest_ns": loaded.ns(figures.longest_ticks),
        "total_ns": loaded.ns(figures.total_ticks),
    })
}

fn command(loaded: &Loaded, controller: u32, command: &CommandRecord) -> Value {
    let has_entry = command.flags & COMMAND_ENTRY_LOST == 0;
    let has_age = command.flags & COMMAND_AGE_UNKNOWN == 0;
    let blocks = Some(command.nlb()).filter(|blocks| *blocks != 0);
    json!({
        "controller": controller,
        "queue": command.qid,
        "cid": command.cid,
        "opcode": has_entry.then_some(command.opcode),
        "command": has_entry.then(|| names::opcode(command.qid, command.opcode)),
        "nsid": has_entry.then_some(command.nsid),
        "slba": blocks.map(|_| command.slba),
        "blocks": blocks,
        "age_ns": has_age.then_some(u64::from(command.age_us) * 1_000),
        "age_within_ns": has_age.then_some(u64::from(command.age_within_us) * 1_000),
        "tries": command.tries,
        "verdict": Verdict::of(loaded, controller, command).word(),
    })
}

fn controller(controller: &ControllerRecord) -> Value {
    let is = |flag| controller.known & flag != 0;
    let text = |text: &str| is(KNOWN_IDENTITY).then(|| text.to_owned());
    json!({
        "controller": controller.controller,
        "state": controller.state_name(),
        "phase": controller.phase.as_str(),
        "gone": is(KNOWN_GONE),
        "model": text(controller.model.as_str()),
        "serial": text(controller.serial.as_str()),
        "firmware": text(controller.firmware.as_str()),
        "cap": controller.cap,
        "vs": controller.vs,
        "cc": is(KNOWN_CC).then_some(controller.cc),
        "csts": is(KNOWN_CSTS).then_some(controller.csts),
        "deadline_ns": controller.deadline_ns,
        "admin_deadline_ns": controller.admin_deadline_ns,
        "deadlines": controller.deadlines,
        "aborts": controller.aborts,
        "queue_resets": controller.queue_resets,
        "resets": controller.resets,
    })
}

fn queue(queue: &QueueRecord) -> Value {
    let index = |value: u16| Some(value).filter(|value| *value != INDEX_UNKNOWN);
    let known = queue.sq_tail != INDEX_UNKNOWN;
    json!({
        "controller": queue.controller,
        "queue": queue.qid,
        "entries": index(queue.entries),
        "mode": queue.mode_name(),
        "sq_tail": index(queue.sq_tail),
        "sq_rung": index(queue.sq_rung),
        "sqhd": index(queue.sqhd),
        "cq_head": index(queue.cq_head),
        "cq_rung": index(queue.cq_rung),
        "in_flight": index(queue.in_flight),
        "held": index(queue.held),
        "not_reaped": queue.unreaped,
        "submitted": known.then_some(queue.submitted),
        "completed": known.then_some(queue.completed),
        "failed": known.then_some(queue.failed),
        "lost": known.then_some(queue.lost),
    })
}

fn metric(metric: &MetricRecord) -> Value {
    let mut value = json!({
        "name": metric.name.as_str(),
        "kind": metric.kind.name(),
        "unit": metric.unit.name(),
        "value": metric.value,
    });
    if metric.kind == hybrid_abi::metrics::MetricKind::HISTOGRAM {
        for (name, figure) in [
            ("sum", metric.sum),
            ("min", metric.min),
            ("p50", metric.p50),
            ("p99", metric.p99),
            ("max", metric.max),
        ] {
            value[name] = json!(figure);
        }
    }
    value
}
