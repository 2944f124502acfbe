//! `id-ctrl`, `id-ns`, `smart-log`, `error-log`, `list`: what the controller says of itself.
//!
//! Each starts a partition that brings the controller up, asks, and shuts it down again.

use hybrid_abi::feed_job::{
    BLOB_ERROR_LOG, BLOB_FIRMWARE_LOG, BLOB_IDENTIFY_CONTROLLER, BLOB_IDENTIFY_NAMESPACE,
    BLOB_SMART_LOG,
};
use hybrid_conventions::{Column, Exit, HumanBytes, Table};
use nvme_driver::spec::{IdentifyController, IdentifyNamespace, fixed_text};
use serde_json::{Value, json};
use zerocopy::FromBytes;

use crate::cli::{IdNsArgs, MachineArgs};
use crate::device::Need;
use crate::events::{Blob, Events};
use crate::failure::Failure;
use crate::nvme_text::{self, Fields};
use crate::output;
use crate::run::{Plan, carry_out, new_job};
use crate::summary;

/// `id-ctrl`, with the firmware slots.
pub(crate) fn id_ctrl(machine: &MachineArgs) -> Result<Exit, Failure> {
    let blobs = ask(machine)?;
    let fields = parsed(find(&blobs, BLOB_IDENTIFY_CONTROLLER, 0)?, nvme_text::id_ctrl)?;
    let firmware = parsed(find(&blobs, BLOB_FIRMWARE_LOG, 0)?, nvme_text::fw_log)?;
    if machine.json {
        let mut value = fields.to_json();
        value["firmware_log"] = firmware.to_json();
        return print_json("id-ctrl/1", value);
    }
    print_text(format_args!(
        "NVME Identify Controller:\n{}\nFirmware Log:\n{}",
        fields.to_text(),
        firmware.to_text()
    ))
}

/// `id-ns`.
pub(crate) fn id_ns(args: &IdNsArgs) -> Result<Exit, Failure> {
    let blobs = ask(&args.machine)?;
    let nsid = args.namespace_id;
    let found = blobs.iter().find(|b| b.what == BLOB_IDENTIFY_NAMESPACE && b.nsid == nsid);
    let Some(blob) = found else {
        let known: Vec<_> = namespaces(&blobs).map(|blob| blob.nsid.to_string()).collect();
        return Err(Failure::error(format_args!(
            "namespace {nsid} is not active; active are {}",
            known.join(", ")
        )));
    };
    let fields = parsed(blob, nvme_text::id_ns)?;
    if args.machine.json {
        return print_json("id-ns/1", fields.to_json());
    }
    print_text(format_args!("NVME Identify Namespace {nsid}:\n{}", fields.to_text()))
}

/// `smart-log`.
pub(crate) fn smart_log(machine: &MachineArgs) -> Result<Exit, Failure> {
    let blobs = ask(machine)?;
    let fields = parsed(find(&blobs, BLOB_SMART_LOG, 0)?, nvme_text::smart_log)?;
    if machine.json {
        return print_json("smart-log/1", fields.to_json());
    }
    print_text(format_args!(
        "Smart Log for NVME device:{} namespace-id:ffffffff\n{}",
        machine.device,
        fields.to_text()
    ))
}

/// `error-log`.
pub(crate) fn error_log(machine: &MachineArgs) -> Result<Exit, Failure> {
    let blobs = ask(machine)?;
    let entries = nvme_text::error_log(&find(&blobs, BLOB_ERROR_LOG, 0)?.bytes);
    if machine.json {
        let entries: Vec<_> = entries.iter().map(Fields::to_json).collect();
        return print_json("error-log/1", json!({ "errors": entries }));
    }
    let mut text =
        format!("Error Log Entries for device:{} entries:{}\n", machine.device, entries.len());
    for (number, entry) in entries.iter().enumerate() {
        text.push_str(&format!(
            ".................\n Entry[{number:2}]\n.................\n{}",
            entry.to_text()
        ));
    }
    print_text(text)
}

/// `list`: a line a namespace.
pub(crate) fn list(machine: &MachineArgs) -> Result<Exit, Failure> {
    let blobs = ask(machine)?;
    let ctrl = find(&blobs, BLOB_IDENTIFY_CONTROLLER, 0)?;
    let ctrl = IdentifyController::read_from_prefix(&ctrl.bytes).map(|(id, _)| id);
    let ctrl = ctrl.map_err(|_| Failure::error("the controller's identify data are short"))?;
    let (sn, mn, fr) = (fixed_text(&ctrl.sn), fixed_text(&ctrl.mn), fixed_text(&ctrl.fr));
    let rows: Vec<_> = namespaces(&blobs).filter_map(Row::of).collect();
    if machine.json {
        let devices: Vec<_> = rows.iter().map(|row| row.to_json(machine, sn, mn, fr)).collect();
        return print_json("list/1", json!({ "Devices": devices }));
    }
    let columns = [
        Column::left("Node"),
        Column::left("SN"),
        Column::left("Model"),
        Column::right("Namespace"),
        Column::right("Usage"),
        Column::right("Size"),
        Column::right("Format"),
        Column::left("FW Rev"),
    ];
    let texts: Vec<_> = rows.iter().map(Row::texts).collect();
    let lines: Vec<[&dyn std::fmt::Display; 8]> = texts
        .iter()
        .map(|[nsid, usage, size, format]| {
            let line: [&dyn std::fmt::Display; 8] =
                [&machine.device, &sn, &mn, nsid, usage, size, format, &fr];
            line
        })
        .collect();
    let mut text = String::new();
    Table::new(columns).write(&mut text, &lines).map_err(Failure::error)?;
    print_text(text)
}

/// What `list` says of a namespace.
struct Row {
    nsid: u32,
    used_bytes: u64,
    size_bytes: u64,
    lba_bytes: u32,
    metadata_bytes: u16,
}

impl Row {
    fn of(blob: &Blob) -> Option<Self> {
        let (id, _) = IdentifyNamespace::read_from_prefix(&blob.bytes).ok()?;
        let format = id.current_format()?;
        let lba_bytes = format.lba_bytes()?;
        let bytes = |blocks: u64| blocks.saturating_mul(lba_bytes.into());
        Some(Self {
            nsid: blob.nsid,
            used_bytes: bytes(id.nuse.get()),
            size_bytes: bytes(id.nsze.get()),
            lba_bytes,
            metadata_bytes: format.ms(),
        })
    }

    fn texts(&self) -> [String; 4] {
        [
            self.nsid.to_string(),
            HumanBytes(self.used_bytes).to_string(),
            HumanBytes(self.size_bytes).to_string(),
            format!("{} B + {} B", self.lba_bytes, self.metadata_bytes),
        ]
    }

    fn to_json(&self, machine: &MachineArgs, sn: &str, mn: &str, fr: &str) -> Value {
        json!({
            "DevicePath": machine.device,
            "NameSpace": self.nsid,
            "SerialNumber": sn,
            "ModelNumber": mn,
            "Firmware": fr,
            "UsedBytes": self.used_bytes,
            "PhysicalSize": self.size_bytes,
            "SectorSize": self.lba_bytes,
            "MetadataSize": self.metadata_bytes,
        })
    }
}

/// Lets a partition ask the controller everything.
fn ask(machine: &MachineArgs) -> Result<Vec<Blob>, Failure> {
    let job = new_job(machine, 0, None);
    let plan = Plan {
        machine,
        job,
        feed: None,
        need: Need::Ask,
        events: Events::default(),
        journal: None,
    };
    let outcome = carry_out(plan)?;
    summary::check(&outcome)?;
    summary::check_silence(machine, &outcome.report)?;
    Ok(outcome.events.blobs)
}

fn namespaces(blobs: &[Blob]) -> impl Iterator<Item = &Blob> {
    blobs.iter().filter(|blob| blob.what == BLOB_IDENTIFY_NAMESPACE)
}

fn find(blobs: &[Blob], what: u32, nsid: u32) -> Result<&Blob, Failure> {
    let found = blobs.iter().find(|blob| blob.what == what && blob.nsid == nsid);
    found.ok_or_else(|| Failure::error("the controller did not answer"))
}

fn parsed(blob: &Blob, parse: impl Fn(&[u8]) -> Option<Fields>) -> Result<Fields, Failure> {
    parse(&blob.bytes).ok_or_else(|| Failure::error("the controller's answer is short"))
}

fn print_json(schema: &str, mut value: Value) -> Result<Exit, Failure> {
    value["schema"] = json!(schema);
    let text = serde_json::to_string_pretty(&value).map_err(Failure::error)?;
    print_text(format_args!("{text}\n"))
}

fn print_text(text: impl std::fmt::Display) -> Result<Exit, Failure> {
    output::result(text).map(|()| Exit::Ok)
}
