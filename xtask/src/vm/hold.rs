//! Holds a drive: QEMU takes its commands and finishes none, until it is let go.
//!
//! For tests that reset a drive with reads in it. QEMU's `nvme_ctrl_reset` drains the drive's block
//! devices, then frees its queues. A doorbell that was rung just before, and whose bottom half has
//! not run yet, is looked at while draining; its commands are kept back for as long, go on when the
//! drain ends, and complete into a queue that is freed by then: QEMU crashes (7.2, and nothing in
//! later releases looks different). A driver whose whole window is held rings no doorbell, so there
//! is none to be looked at; and the drain finishes what is held, so that it is all in flight at the
//! reset, and all over when the queues go.
//!
//! A drive is held by a limit of one byte a second: a transfer of a block takes an hour. Flushes
//! are not held.

use std::io::{BufRead, Write};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::qmp::Qmp;

/// Between two looks at what a held drive has finished.
const LOOK: Duration = Duration::from_millis(20);

/// Looks until a drive must have nothing left that the limit let pass: 10 s.
const LOOKS: u32 = 500;

/// Looks in a row that find nothing finished.
const SETTLED: u32 = 3;

/// Holds a drive, as in `nvme0`, and waits until it finishes nothing more.
pub(crate) fn hold<R: BufRead, W: Write>(drive: &str, qmp: &mut Qmp<R, W>) -> Result<String> {
    let devices = limit(drive, 1, qmp)?;
    let mut settled = 0;
    let mut before = finished(&devices, qmp)?;
    for _ in 0..LOOKS {
        thread::sleep(LOOK);
        let now = finished(&devices, qmp)?;
        settled = if now == before { settled + 1 } else { 0 };
        before = now;
        if settled == SETTLED {
            return Ok(format!("{drive} is held"));
        }
    }
    bail!("{drive} goes on although it is held")
}

/// Lets a drive go that was held.
pub(crate) fn release<R: BufRead, W: Write>(drive: &str, qmp: &mut Qmp<R, W>) -> Result<String> {
    limit(drive, 0, qmp)?;
    Ok(format!("{drive} is let go"))
}

/// Gives a drive so many bytes a second, or any number (0); the devices that have its blocks.
fn limit<R: BufRead, W: Write>(
    drive: &str,
    bytes: u64,
    qmp: &mut Qmp<R, W>,
) -> Result<Vec<String>> {
    let list = json!({"execute": "qom-list", "arguments": {"path": "/machine/peripheral"}});
    let devices = qmp.execute(&list)?;
    let names = devices.as_array().context("QEMU lists no devices")?;
    let names: Vec<&str> = names.iter().filter_map(|device| device["name"].as_str()).collect();
    // Namespaces are devices of their own, but for the one of a controller that was plugged in.
    let is_namespace = |name: &&&str| {
        let number = name.strip_prefix(drive).and_then(|rest| rest.strip_prefix('n'));
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let mut held: Vec<&str> = names.iter().filter(is_namespace).copied().collect();
    if held.is_empty() {
        held.extend(names.iter().find(|name| **name == drive));
    }
    if held.is_empty() {
        bail!("there is no drive {drive:?}");
    }
    for id in &held {
        let limits = json!({"id": id, "bps": bytes, "bps_rd": 0, "bps_wr": 0, "iops": 0,
            "iops_rd": 0, "iops_wr": 0});
        qmp.execute(&json!({"execute": "block_set_io_throttle", "arguments": limits}))?;
    }
    Ok(held.into_iter().map(str::to_owned).collect())
}

/// Transfers that these devices have finished.
fn finished<R: BufRead, W: Write>(devices: &[String], qmp: &mut Qmp<R, W>) -> Result<u64> {
    let all = qmp.execute(&json!({"execute": "query-blockstats"}))?;
    let all = all.as_array().context("QEMU has no figures")?;
    let mut sum = 0;
    for device in devices {
        let path = format!("/{device}");
        let of = |entry: &&Value| {
            entry["qdev"].as_str().is_some_and(|qdev| qdev == device || qdev.ends_with(&path))
        };
        let entry =
            all.iter().find(of).with_context(|| format!("QEMU has no figures of {device}"))?;
        let count = |name: &str| entry["stats"][name].as_u64().unwrap_or(0);
        sum += count("rd_operations") + count("wr_operations");
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREETING: &str = "{\"QMP\": {}}\n{\"return\": {}}\n";

    /// What QEMU answers, a line each.
    fn scripted(answers: &[Value]) -> Qmp<std::io::Cursor<String>, Vec<u8>> {
        let lines = answers.iter().map(|answer| format!("{}\n", json!({"return": answer})));
        let text = format!("{GREETING}{}", lines.collect::<String>());
        Qmp::open(std::io::Cursor::new(text), Vec::new()).expect("a connection")
    }

    fn devices(names: &[&str]) -> Value {
        names.iter().map(|name| json!({"name": name})).collect()
    }

    fn figures(of: &str, reads: u64) -> Value {
        let of = format!("/machine/peripheral/{of}");
        let other =
            json!({"qdev": "/machine/peripheral/nvme1n1", "stats": {"rd_operations": reads * 7}});
        json!([other, {"qdev": of, "stats": {"rd_operations": reads, "wr_operations": 1}}])
    }

    #[test]
    fn a_drive_is_held_once_it_finishes_nothing_more() {
        let mut answers = vec![devices(&["nvme0", "nvme0n1", "nvme0n12x", "nvme1n1"]), json!({})];
        answers.extend([5, 9, 9, 9, 10, 10, 10, 10].map(|reads| figures("nvme0n1", reads)));
        let mut qmp = scripted(&answers);
        assert_eq!(hold("nvme0", &mut qmp).expect("held"), "nvme0 is held");
        assert!(qmp.execute(&json!({})).is_err(), "it looked at all of them");
        let sent = String::from_utf8(qmp.sent().to_vec()).expect("text");
        assert_eq!(sent.matches("block_set_io_throttle").count(), 1, "{sent}");
        assert!(sent.contains("\"bps\":1,") && sent.contains("\"id\":\"nvme0n1\""), "{sent}");
    }

    #[test]
    fn a_drive_that_was_plugged_in_has_its_namespace_itself() {
        let mut answers = vec![devices(&["nvme0", "nvme1n1"]), json!({})];
        answers.extend([3; 4].map(|reads| figures("nvme0", reads)));
        hold("nvme0", &mut scripted(&answers)).expect("held");
        let mut qmp = scripted(&answers[..2]);
        assert_eq!(release("nvme0", &mut qmp).expect("let go"), "nvme0 is let go");
        let sent = String::from_utf8(qmp.sent().to_vec()).expect("text");
        assert!(sent.contains("\"bps\":0,") && sent.contains("\"id\":\"nvme0\""), "{sent}");
    }

    #[test]
    fn a_drive_that_is_not_there_is_refused() {
        let mut qmp = scripted(&[devices(&["nvme0", "nvme10n1"])]);
        let error = hold("nvme1", &mut qmp).expect_err("no drive").to_string();
        assert_eq!(error, "there is no drive \"nvme1\"");
    }
}
