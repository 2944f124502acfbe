//! fio's side of a rung: the job file of the same name, its blanks filled from the environment.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::engine::{Load, Rung};

/// Operations a second of one run.
///
/// # Errors
/// One line: fio is not installed, or what it said.
pub(super) fn run(rung: Rung, path: &Path, load: Load) -> Result<f64, String> {
    let how = match (load.random, load.write) {
        (true, false) => "randread",
        (true, true) => "randwrite",
        (false, false) => "read",
        (false, true) => "write",
    };
    let depth = if rung == Rung::Psync { 1 } else { load.depth };
    // A block device has no length here: fio finds it with 0.
    let size = std::fs::metadata(path).map_or(0, |meta| meta.len());
    let size = if size == 0 { "100%".to_owned() } else { size.to_string() };
    let mut child = Command::new("fio")
        .args(["--output-format=json", "-"])
        .env("LADDER_FILE", path)
        .env("LADDER_SIZE", size)
        .env("LADDER_RW", how)
        .env("LADDER_BS", load.bytes.to_string())
        .env("LADDER_DEPTH", depth.to_string())
        .env("LADDER_MS", format!("{}ms", load.time.as_millis().max(1)))
        .env("LADDER_CPU", load.cpu.to_string())
        .env("LADDER_SQ_CPU", load.sq_cpu.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => "fio is not installed".to_owned(),
            _ => format!("fio: {error}"),
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ended at once says why below.
        let _ = stdin.write_all(rung.job().as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| format!("fio: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let line = said.lines().chain(text.lines()).find(|line| !line.trim().is_empty());
        return Err(format!("fio failed: {}", line.unwrap_or("without a word")));
    }
    let side = if load.write { "write" } else { "read" };
    iops(&text, side).ok_or_else(|| "fio's output is not what it was".to_owned())
}

/// From fio's JSON; notes may stand before it.
fn iops(text: &str, side: &str) -> Option<f64> {
    let value: Value = serde_json::from_str(&text[text.find('{')?..]).ok()?;
    let job = &value["jobs"][0];
    if job["error"].as_i64() != Some(0) {
        return None;
    }
    job[side]["iops"].as_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_read_unless_the_job_failed() {
        let good = r#"a note
            {"jobs": [{"error": 0, "read": {"iops": 1234.5}}]}"#;
        assert_eq!(iops(good, "read"), Some(1234.5));
        assert_eq!(iops(&good.replace("\"error\": 0", "\"error\": 22"), "read"), None);
        assert_eq!(iops("fio: no such file", "read"), None);
    }

    #[test]
    fn every_rung_has_a_job_file_with_the_options_of_its_name() {
        for (rung, option) in [
            (Rung::Psync, "ioengine=psync"),
            (Rung::Interrupts, "ioengine=io_uring\n"),
            (Rung::Fixed, "fixedbufs=1"),
            (Rung::SqPoll, "sqthread_poll=1"),
            (Rung::IoPoll, "hipri=1"),
            (Rung::Passthrough, "ioengine=io_uring_cmd"),
        ] {
            let job = rung.job();
            assert!(job.contains(option) && job.contains("direct=1"), "{}", rung.name());
        }
    }
}
