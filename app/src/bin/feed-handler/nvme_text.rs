//! What a controller says of itself, in nvme-cli's words and field names.
//!
//! Called by `admin` with the raw structures that the partition sent. Text goes one field a line,
//! JSON has the same names. Nothing here asks the device anything.

use std::fmt::{Display, Write as _};

use nvme_driver::spec::{
    ErrorLogEntry, FirmwareSlotLog, IdentifyController, IdentifyNamespace, LbaFormat, SmartLog,
    fixed_text,
};
use serde_json::{Map, Value, json};
use zerocopy::FromBytes;

/// The fields of one structure, in order.
#[derive(Default)]
pub(crate) struct Fields {
    rows: Vec<(&'static str, String, Value)>,
}

impl Fields {
    /// A number that nvme-cli prints in decimal.
    fn number(&mut self, name: &'static str, value: impl Into<u64>) {
        let value = value.into();
        self.rows.push((name, value.to_string(), json!(value)));
    }

    /// A number that nvme-cli prints in hexadecimal; JSON still has a number.
    fn hex(&mut self, name: &'static str, value: impl Into<u64>) {
        let value = value.into();
        self.rows.push((name, format!("{value:#x}"), json!(value)));
    }

    /// A 128-bit counter; beyond 64 bits JSON gets its decimal digits as text.
    fn wide(&mut self, name: &'static str, value: u128) {
        let json = u64::try_from(value).map_or_else(|_| json!(value.to_string()), |v| json!(v));
        self.rows.push((name, value.to_string(), json));
    }

    /// Text.
    fn text(&mut self, name: &'static str, value: impl Display) {
        let value = value.to_string();
        self.rows.push((name, value.clone(), json!(value)));
    }

    /// The fields as lines, names aligned as nvme-cli aligns them.
    pub(crate) fn to_text(&self) -> String {
        let width = self.rows.iter().map(|row| row.0.len()).max().unwrap_or(0).max(9);
        let mut text = String::new();
        for (name, value, _) in &self.rows {
            let _ = writeln!(text, "{name:width$} : {value}");
        }
        text
    }

    /// The fields as a JSON object.
    pub(crate) fn to_json(&self) -> Value {
        let fields: Map<_, _> =
            self.rows.iter().map(|(name, _, value)| ((*name).to_owned(), value.clone())).collect();
        Value::Object(fields)
    }
}

/// `id-ctrl`; `None` if the bytes are too few.
pub(crate) fn id_ctrl(bytes: &[u8]) -> Option<Fields> {
    let (id, _) = IdentifyController::read_from_prefix(bytes).ok()?;
    let mut fields = Fields::default();
    fields.hex("vid", id.vid.get());
    fields.hex("ssvid", id.ssvid.get());
    fields.text("sn", fixed_text(&id.sn));
    fields.text("mn", fixed_text(&id.mn));
    fields.text("fr", fixed_text(&id.fr));
    fields.number("rab", id.rab);
    let [low, middle, high] = id.ieee;
    fields.text("ieee", format!("{high:02x}{middle:02x}{low:02x}"));
    fields.hex("cmic", id.cmic);
    fields.number("mdts", id.mdts);
    fields.hex("cntlid", id.cntlid.get());
    fields.hex("ver", id.ver.get());
    fields.number("rtd3r", id.rtd3r_us.get());
    fields.number("rtd3e", id.rtd3e_us.get());
    fields.hex("oaes", id.oaes.get());
    fields.hex("ctratt", id.ctratt.get());
    fields.number("cntrltype", id.cntrltype);
    for (name, crdt) in ["crdt1", "crdt2", "crdt3"].into_iter().zip(id.crdt) {
        fields.number(name, crdt.get());
    }
    fields.hex("oacs", id.oacs.get());
    fields.number("acl", id.acl_z);
    fields.number("aerl", id.aerl_z);
    fields.hex("frmw", id.frmw);
    fields.hex("lpa", id.lpa);
    fields.number("elpe", id.elpe_z);
    fields.number("npss", id.npss_z);
    fields.number("wctemp", id.wctemp_kelvin.get());
    fields.number("cctemp", id.cctemp_kelvin.get());
    fields.wide("tnvmcap", id.tnvmcap.get());
    fields.wide("unvmcap", id.unvmcap.get());
    fields.hex("sqes", id.sqes);
    fields.hex("cqes", id.cqes);
    fields.number("maxcmd", id.maxcmd.get());
    fields.number("nn", id.nn.get());
    fields.hex("oncs", id.oncs.get());
    fields.hex("fuses", id.fuses.get());
    fields.hex("fna", id.fna);
    fields.hex("vwc", id.vwc);
    fields.number("awun", id.awun_z.get());
    fields.number("awupf", id.awupf_z.get());
    fields.number("acwu", id.acwu_z.get());
    fields.hex("sgls", id.sgls.get());
    fields.text("subnqn", fixed_text(&id.subnqn));
    Some(fields)
}

/// `id-ns`; `None` if the bytes are too few.
pub(crate) fn id_ns(bytes: &[u8]) -> Option<Fields> {
    let (id, _) = IdentifyNamespace::read_from_prefix(bytes).ok()?;
    let mut fields = Fields::default();
    fields.hex("nsze", id.nsze.get());
    fields.hex("ncap", id.ncap.get());
    fields.hex("nuse", id.nuse.get());
    fields.hex("nsfeat", id.nsfeat);
    fields.number("nlbaf", id.nlbaf_z);
    fields.hex("flbas", id.flbas);
    fields.hex("mc", id.mc);
    fields.hex("dpc", id.dpc);
    fields.hex("dps", id.dps);
    fields.number("nawun", id.nawun_z.get());
    fields.number("nawupf", id.nawupf_z.get());
    fields.number("nabsn", id.nabsn_z.get());
    fields.number("nabspf", id.nabspf_z.get());
    fields.text("eui64", hex_bytes(&id.eui64));
    fields.text("nguid", hex_bytes(&id.nguid));
    const NAMES: [&str; 16] = [
        "lbaf0", "lbaf1", "lbaf2", "lbaf3", "lbaf4", "lbaf5", "lbaf6", "lbaf7", "lbaf8", "lbaf9",
        "lbaf10", "lbaf11", "lbaf12", "lbaf13", "lbaf14", "lbaf15",
    ];
    let in_use = usize::from(id.flbas & 0xf);
    let formats = usize::from(id.nlbaf_z) + 1;
    for (index, (name, format)) in NAMES.into_iter().zip(id.lbaf).take(formats).enumerate() {
        let mark = if index == in_use { " (in use)" } else { "" };
        let format = LbaFormat::from_bits(format.get());
        let (ms, lbads, rp) = (format.ms(), format.lbads(), format.rp());
        fields.text(name, format!("ms:{ms} lbads:{lbads} rp:{rp:#x}{mark}"));
    }
    Some(fields)
}

/// `smart-log`; `None` if the bytes are too few.
pub(crate) fn smart_log(bytes: &[u8]) -> Option<Fields> {
    let (log, _) = SmartLog::read_from_prefix(bytes).ok()?;
    let mut fields = Fields::default();
    fields.hex("critical_warning", log.critical_warning);
    let kelvin = i64::from(log.temperature_kelvin.get());
    fields.rows.push(("temperature", format!("{} C ({kelvin} K)", kelvin - 273), json!(kelvin)));
    percent(&mut fields, "available_spare", log.spare_percent);
    percent(&mut fields, "available_spare_threshold", log.spare_threshold_percent);
    percent(&mut fields, "percentage_used", log.used_percent);
    fields.hex("endurance_group_critical_warning_summary", log.endurance_group_warning);
    fields.wide("data_units_read", log.data_units_read.get());
    fields.wide("data_units_written", log.data_units_written.get());
    fields.wide("host_read_commands", log.host_reads.get());
    fields.wide("host_write_commands", log.host_writes.get());
    fields.wide("controller_busy_time", log.busy_minutes.get());
    fields.wide("power_cycles", log.power_cycles.get());
    fields.wide("power_on_hours", log.power_on_hours.get());
    fields.wide("unsafe_shutdowns", log.unsafe_shutdowns.get());
    fields.wide("media_errors", log.media_errors.get());
    fields.wide("num_err_log_entries", log.error_log_entries.get());
    fields.number("warning_temp_time", log.warning_temperature_minutes.get());
    fields.number("critical_comp_time", log.critical_temperature_minutes.get());
    Some(fields)
}

/// The firmware slots, printed below `id-ctrl`; `None` if the bytes are too few.
pub(crate) fn fw_log(bytes: &[u8]) -> Option<Fields> {
    let (log, _) = FirmwareSlotLog::read_from_prefix(bytes).ok()?;
    let mut fields = Fields::default();
    fields.hex("afi", log.active);
    const NAMES: [&str; 7] = ["frs1", "frs2", "frs3", "frs4", "frs5", "frs6", "frs7"];
    for (name, revision) in NAMES.into_iter().zip(&log.revisions) {
        if revision.iter().any(|&byte| byte != 0) {
            fields.text(name, fixed_text(revision));
        }
    }
    Some(fields)
}

/// The entries of `error-log` that say something, newest first.
pub(crate) fn error_log(bytes: &[u8]) -> Vec<Fields> {
    bytes
        .chunks_exact(size_of::<ErrorLogEntry>())
        .filter_map(|entry| ErrorLogEntry::read_from_bytes(entry).ok())
        .filter(ErrorLogEntry::is_used)
        .map(|entry| {
            let mut fields = Fields::default();
            fields.number("error_count", entry.error_count.get());
            fields.number("sqid", entry.sqid.get());
            fields.hex("cmdid", entry.cid.get());
            fields.text("status_field", entry.status());
            fields.hex("parm_err_loc", entry.parameter_location.get());
            fields.hex("lba", entry.lba.get());
            fields.number("nsid", entry.nsid.get());
            fields.hex("vs", entry.vendor_page);
            fields.hex("cs", entry.command_specific.get());
            fields
        })
        .collect()
}

fn percent(fields: &mut Fields, name: &'static str, value: u8) {
    fields.rows.push((name, format!("{value}%"), json!(value)));
}

fn hex_bytes(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_bytes_are_refused() {
        assert!(id_ctrl(&[0; 4095]).is_none());
        assert!(id_ns(&[0; 100]).is_none());
        assert!(smart_log(&[0; 511]).is_none());
        assert!(error_log(&[0; 63]).is_empty());
    }

    #[test]
    fn identify_controller_is_printed_in_nvme_cli_names() {
        let mut bytes = [0_u8; 4096];
        bytes[0..2].copy_from_slice(&0x1d1d_u16.to_le_bytes());
        bytes[4..24].copy_from_slice(b"SERIAL0             ");
        bytes[77] = 5;
        let fields = id_ctrl(&bytes).expect("4096 bytes are enough");
        let text = fields.to_text();
        assert!(text.starts_with("vid       : 0x1d1d\n"), "{text}");
        assert!(text.contains("sn        : SERIAL0\n"), "{text}");
        assert_eq!(fields.to_json()["mdts"], json!(5));
    }

    #[test]
    fn the_format_in_use_is_marked() {
        let mut bytes = [0_u8; 4096];
        bytes[25] = 1; // NLBAF, from zero: two formats
        bytes[26] = 1; // FLBAS
        bytes[130] = 9; // LBADS of format 0
        bytes[134] = 12; // LBADS of format 1
        let text = id_ns(&bytes).expect("4096 bytes are enough").to_text();
        assert!(text.contains("lbaf0     : ms:0 lbads:9 rp:0x0\n"), "{text}");
        assert!(text.contains("lbaf1     : ms:0 lbads:12 rp:0x0 (in use)\n"), "{text}");
    }
}
