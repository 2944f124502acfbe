//! fio's side of a rung: the job file of the same name, its blanks filled from the environment.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::rung::{Load, Rung};

/// fio with the blanks of a job file filled; the file itself comes on standard input.
fn command(rung: Rung, path: &Path, load: Load) -> Command {
    let how = match (load.random, load.write) {
        (true, false) => "randread",
        (true, true) => "randwrite",
        (false, false) => "read",
        (false, true) => "write",
    };
    // psync has one operation in flight a thread.
    let (depth, jobs) = if rung == Rung::Psync { (1, load.depth) } else { (load.depth, 1) };
    // A block device has no length here: fio finds it with 0.
    let size = std::fs::metadata(path).map_or(0, |meta| meta.len());
    let size = if size == 0 { "100%".to_owned() } else { size.to_string() };
    let mut command = Command::new("fio");
    command
        .args(["--output-format=json", "-"])
        .env("LADDER_FILE", path)
        .env("LADDER_SIZE", size)
        .env("LADDER_RW", how)
        .env("LADDER_BS", load.bytes.to_string())
        .env("LADDER_DEPTH", depth.to_string())
        .env("LADDER_JOBS", jobs.to_string())
        .env("LADDER_MS", format!("{}ms", load.time.as_millis().max(1)))
        .env("LADDER_CPU", load.cpu.to_string())
        .env("LADDER_SQ_CPU", load.sq_cpu.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Operations a second of one run.
///
/// # Errors
/// One line: fio is not installed, or what it said.
pub(super) fn run(rung: Rung, path: &Path, load: Load) -> Result<f64, String> {
    let spawned = command(rung, path, load).spawn();
    let mut child = spawned.map_err(|error| match error.kind() {
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
    fn fio_understands_every_job_file() {
        let test = "fio_understands_every_job_file";
        if Command::new("fio").arg("--version").output().is_err() {
            return hybrid_conventions::testing::skipped(test, "fio is not installed");
        }
        let file = std::env::temp_dir().join(format!("ladder-fio-{}", std::process::id()));
        std::fs::write(&file, vec![0; 1 << 20]).expect("a file");
        let load = Load {
            depth: 2,
            bytes: 4096,
            write: false,
            random: true,
            time: std::time::Duration::from_millis(10),
            seed: 1,
            cpu: 0,
            sq_cpu: 0,
        };
        for rung in [Rung::Psync, Rung::Interrupts, Rung::Fixed] {
            let iops =
                run(rung, &file, load).unwrap_or_else(|why| panic!("{}: {why}", rung.name()));
            assert!(iops > 0.0, "{}", rung.name());
        }
        // The others want a device, or a thread of the kernel: whether their words are known.
        for rung in [Rung::SqPoll, Rung::IoPoll, Rung::Passthrough] {
            let mut parsed = command(rung, &file, load);
            let mut child = parsed.arg("--parse-only").spawn().expect("it starts");
            let mut stdin = child.stdin.take().expect("piped");
            stdin.write_all(rung.job().as_bytes()).expect("taken");
            drop(stdin);
            let output = child.wait_with_output().expect("it ends");
            assert!(output.status.success(), "{}: {output:?}", rung.name());
        }
        std::fs::remove_file(&file).expect("removed");
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
