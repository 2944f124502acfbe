//! `status`: what the machine is now, and how far it is from what was asked.

use std::fmt::{Display, Write as _};

use clap::Args;
use hybrid_conventions::{Bytes, Column, CpuSet, Exit, Table};
use serde_json::{Value, json};

use crate::command::{self, Prepared, What};
use crate::engine::{NO_LONGER, Step, Verdict};
use crate::failure::Failure;
use crate::journal::Journal;
use crate::machine::Machine;
use crate::root::Root;
use crate::threads::Thread;
use crate::{device, output, settings};

/// `status`.
#[derive(Args, Clone, Debug)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) what: What,
}

/// One setting's row.
struct Row {
    name: &'static str,
    met: usize,
    differs: usize,
    fixed: usize,
    about: &'static str,
}

/// Prints what is; asks nothing of anyone and changes nothing.
pub(crate) fn command(args: &StatusArgs) -> Result<Exit, Failure> {
    let root = Root::at(&args.what.place.root);
    let journal = Journal::read(&root)?;
    let prepared = command::look_at(&root, &args.what, journal)?;
    let facts = facts(&prepared);
    let rows = rows(&prepared);
    let devices = device::rows(&root);
    if args.what.place.json {
        output::result(json_text(&prepared, &facts, &rows, &devices)?)?;
        return Ok(Exit::Ok);
    }
    let mut out = table(&facts)?;
    if !prepared.config.isolated.is_empty() {
        let _ = writeln!(out);
        out.push_str(&row_table(&rows)?);
    }
    let _ = write!(out, "\n{}", device::table(&devices));
    output::result(out)?;
    Ok(Exit::Ok)
}

/// The name of a fact, its words, and its value for programs.
type Fact = (&'static str, String, Value);

fn facts(prepared: &Prepared) -> Vec<Fact> {
    let Prepared { machine, config, journal, .. } = prepared;
    let root = &machine.root;
    let text = |path: &str| root.text(path).unwrap_or_else(|| "unknown".to_owned());
    let chosen = |path: &str| {
        let text = text(path);
        let word = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
        word.map_or(text.clone(), |(word, _)| word.to_owned())
    };
    let mut facts: Vec<Fact> = Vec::new();
    let mut fact = |name, words: String| facts.push((name, words.clone(), Value::from(words)));
    fact("kernel", machine.release.clone());
    fact("cpus", format!("{} online, {} present", machine.online, machine.present));
    fact("cores shared", shared_cores(machine));
    fact("asked for", set(config.isolated));
    fact("isolated", set(machine.isolated));
    fact("nohz_full", set(machine.nohz_full));
    let watched = if config.isolated.is_empty() { machine.isolated } else { config.isolated };
    let (on, of) = interrupts(root, watched);
    fact("interrupts", format!("{on} of {of} may fire on cpus {}", set(watched)));
    fact("new interrupts", mask(root, "/proc/irq/default_smp_affinity"));
    let (movable, all) = threads(root, watched);
    fact("threads", format!("{movable} of {all} that can move may run on cpus {}", set(watched)));
    fact("work queues", mask(root, "/sys/devices/virtual/workqueue/cpumask"));
    for (words, value) in pools(machine) {
        facts.push(("huge pages", words, value));
    }
    let mut fact = |name, words: String| facts.push((name, words.clone(), Value::from(words)));
    fact("thp", chosen("/sys/kernel/mm/transparent_hugepage/enabled"));
    fact("stat interval", text("/proc/sys/vm/stat_interval"));
    fact("nmi watchdog", text("/proc/sys/kernel/nmi_watchdog"));
    fact("numa balancing", text("/proc/sys/kernel/numa_balancing"));
    fact("timer migration", text("/proc/sys/kernel/timer_migration"));
    fact("rt throttling", text("/proc/sys/kernel/sched_rt_runtime_us"));
    let groups = root.list("/sys/kernel/iommu_groups").map_or(0, |groups| groups.len());
    fact("iommu groups", groups.to_string());
    let here = journal.originals(&machine.boot).len();
    let words = match here {
        0 => "nothing is changed".to_owned(),
        _ => format!("{here} places are changed; sysconfig reset puts them back"),
    };
    facts.push(("journal", words, Value::from(here)));
    facts
}

fn set(cpus: CpuSet) -> String {
    if cpus.is_empty() { "none".to_owned() } else { cpus.to_string() }
}

fn mask(root: &Root, path: &str) -> String {
    let cpus = root.text(path).and_then(|text| CpuSet::parse_mask(&text).ok());
    cpus.map_or_else(|| "unknown".to_owned(), |cpus| format!("on cpus {}", set(cpus)))
}

fn shared_cores(machine: &Machine) -> String {
    let mut cores: Vec<String> = Vec::new();
    for core in machine.cores.values().filter(|core| core.len() > 1) {
        let core = core.to_string();
        if !cores.contains(&core) {
            cores.push(core);
        }
    }
    match cores.len() {
        0 => "none: each CPU is a core".to_owned(),
        1..=8 => format!("cpus {}", cores.join(" and ")),
        more => format!("{more} cores of several CPUs, the first {}", cores[0]),
    }
}

/// Interrupts that may fire on these CPUs, and all.
fn interrupts(root: &Root, cpus: CpuSet) -> (usize, usize) {
    let all = root.numbered("/proc/irq", "");
    let path = |irq: &u32| format!("/proc/irq/{irq}/smp_affinity_list");
    let hits = |irq: &&u32| !root.cpus(path(irq)).intersection(cpus).is_empty();
    (all.iter().filter(hits).count(), all.len())
}

fn threads(root: &Root, cpus: CpuSet) -> (usize, usize) {
    let all: Vec<Thread> = Thread::all(root).into_iter().filter(|thread| !thread.bound).collect();
    let hits = all.iter().filter(|thread| !thread.cpus.intersection(cpus).is_empty()).count();
    (hits, all.len())
}

/// Each pool of each node.
fn pools(machine: &Machine) -> Vec<(String, Value)> {
    let root = &machine.root;
    let mut pools = Vec::new();
    for node in machine.nodes.keys() {
        let folder = format!("/sys/devices/system/node/node{node}/hugepages");
        for name in root.list(&folder).unwrap_or_default() {
            let kib = name.strip_prefix("hugepages-").and_then(|rest| rest.strip_suffix("kB"));
            let Some(kib) = kib.and_then(|kib| kib.parse::<u64>().ok()) else { continue };
            let number =
                |file: &str| root.text(format!("{folder}/{name}/{file}"))?.parse::<u64>().ok();
            let (Some(all), Some(free)) = (number("nr_hugepages"), number("free_hugepages")) else {
                continue;
            };
            let size = Bytes(kib << 10);
            let words = format!("{size} on node {node}: {all}, {free} free");
            let value = json!({"bytes": size.get(), "node": node, "pages": all, "free": free});
            pools.push((words, value));
        }
    }
    pools
}

fn rows(prepared: &Prepared) -> Vec<Row> {
    let count = |name: &str, wanted: fn(&Step) -> bool| {
        let steps = prepared.plan.steps.iter();
        steps.filter(|step| step.setting == name && wanted(step)).count()
    };
    let mut names: Vec<(&'static str, &'static str)> =
        settings::all().map(|setting| (setting.name(), setting.about())).collect();
    names.push((NO_LONGER, "what a former apply did and nobody asks for now"));
    let row = |(name, about)| Row {
        name,
        met: count(name, |step| step.verdict == Verdict::Met),
        differs: count(name, |step| step.verdict == Verdict::Change),
        fixed: count(name, |step| matches!(step.verdict, Verdict::Fixed(_))),
        about,
    };
    let rows = names.into_iter().map(row);
    rows.filter(|row| row.met + row.differs + row.fixed > 0).collect()
}

fn table(facts: &[Fact]) -> Result<String, Failure> {
    let table = Table::new([Column::left(""), Column::left("")]);
    let mut last = "";
    let names: Vec<&str> = facts
        .iter()
        .map(|(name, ..)| {
            let first = *name != last;
            last = name;
            if first { *name } else { "" }
        })
        .collect();
    let cells: Vec<[&dyn Display; 2]> = facts
        .iter()
        .zip(&names)
        .map(|((_, words, _), name)| [name as &dyn Display, words])
        .collect();
    let mut out = String::new();
    table.write(&mut out, &cells).map_err(Failure::error)?;
    Ok(out)
}

fn row_table(rows: &[Row]) -> Result<String, Failure> {
    let table = Table::new([
        Column::left("Setting"),
        Column::right("As-asked"),
        Column::right("Differs"),
        Column::right("Not-possible"),
        Column::left("What it is"),
    ]);
    let cells: Vec<[&dyn Display; 5]> = rows
        .iter()
        .map(|row| [&row.name as &dyn Display, &row.met, &row.differs, &row.fixed, &row.about])
        .collect();
    let mut out = String::new();
    table.write(&mut out, &cells).map_err(Failure::error)?;
    Ok(out)
}

fn json_text(
    prepared: &Prepared,
    facts: &[Fact],
    rows: &[Row],
    devices: &[device::DeviceRow],
) -> Result<String, Failure> {
    let mut map = serde_json::Map::new();
    let mut huge = Vec::new();
    for (name, _, value) in facts {
        if *name == "huge pages" {
            huge.push(value.clone());
        } else {
            map.insert(name.replace(' ', "_"), value.clone());
        }
    }
    map.insert("huge_pages".to_owned(), Value::from(huge));
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({"setting": row.name, "as_asked": row.met, "differs": row.differs,
                "not_possible": row.fixed})
        })
        .collect();
    super::pretty(&json!({
        "schema": "sysconfig-status/1",
        "isolated_cores": prepared.config.isolated.to_string(),
        "housekeeping": prepared.config.housekeeping.to_string(),
        "facts": map,
        "settings": rows,
        "devices": devices,
    }))
}
