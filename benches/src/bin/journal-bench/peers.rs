//! What stands beside it on a file of the host's: a plain-file log with group commit, and fio's
//! write and fdatasync. Each side in turn, in one run, in one folder.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hybrid_benches::hist::Hist;
use hybrid_benches::rng::Rng;
use hybrid_conventions::Si;
use serde_json::Value;

use crate::Results;
use crate::cli::Cli;
use crate::run::{self, Failure};
use crate::sheet::Row;
use crate::wire::{BATCH, OPEN, Phase};

/// Bytes of our journal's file: its ring is 64 MiB.
const FILE_BYTES: u64 = 96 << 20;

/// Where the plain log begins again.
const PLAIN_BYTES: u64 = 64 << 20;

/// Appends a second of the open loop: what a file with fdatasync can take.
const RATE: u64 = 10_000;

/// A file that goes with the value.
struct Temporary(std::path::PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // Nothing is left to do about one that cannot be removed.
        let _ = std::fs::remove_file(&self.0);
    }
}

pub(crate) fn beside(cli: &Cli, folder: &Path, results: &mut Results) -> Result<(), Failure> {
    if !folder.is_dir() {
        return Err(Failure::error(format_args!("{} is no folder", folder.display())));
    }
    let time = if cli.quick { Duration::from_millis(50) } else { Duration::from_nanos(cli.time) };
    ours(cli, folder, time, results)?;
    let plain = Temporary(folder.join(format!("journal-bench-{}.plain", std::process::id())));
    let failed = |error| Failure::error(format_args!("{}: {error}", plain.0.display()));
    results.rows.push(plain_open(&plain.0, cli, time).map_err(failed)?);
    for batch in [1, 100] {
        results.rows.push(plain_batches(&plain.0, cli, batch, time).map_err(failed)?);
    }
    let other = Temporary(folder.join(format!("journal-bench-{}.fio", std::process::id())));
    match fio(&other.0, time) {
        Ok(row) => results.rows.push(row),
        Err(line) => eprintln!("journal-bench: without fio: {line}"),
    }
    Ok(())
}

/// This journal on a file, over io_uring.
fn ours(cli: &Cli, folder: &Path, time: Duration, results: &mut Results) -> Result<(), Failure> {
    let path = Temporary(folder.join(format!("journal-bench-{}.img", std::process::id())));
    let failed = |error| Failure::error(format_args!("{}: {error}", path.0.display()));
    let file = File::create(&path.0).map_err(failed)?;
    // Written once, so that no allocation of blocks is measured: not here, and not below.
    lay_out(&file, FILE_BYTES).map_err(failed)?;
    let base = Phase {
        kind: OPEN,
        record_bytes: u32::try_from(cli.size).unwrap_or(u32::MAX),
        duration_ns: u64::try_from(time.as_nanos()).unwrap_or(u64::MAX),
        in_flight: cli.in_flight.into(),
        seed: cli.seed,
        rate: RATE,
        ..Phase::default()
    };
    let batch = |batch| Phase { kind: BATCH, batch, ..base };
    let phases = [base, batch(1), batch(100)];
    let ran = run::run(cli, &format!("uring:{}", path.0.display()), &phases)?;
    for (phase, outcome) in phases.iter().zip(&ran.outcomes) {
        let mut row = Row::ours(phase, outcome, ran.tsc_hz);
        row.who = "journal, io_uring".to_owned();
        results.rows.push(row);
    }
    results.note(&ran);
    Ok(())
}

fn lay_out(file: &File, bytes: u64) -> std::io::Result<()> {
    let zeros = vec![0; 1 << 20];
    for at in (0..bytes).step_by(zeros.len()) {
        file.write_all_at(&zeros, at)?;
    }
    file.sync_all()
}

/// A log as programs have it: records one behind the other in a file, and fdatasync.
struct Plain {
    file: File,
    at: u64,
    record: Vec<u8>,
    pending: Vec<u8>,
}

impl Plain {
    fn new(path: &Path, cli: &Cli) -> std::io::Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        lay_out(&file, PLAIN_BYTES)?;
        let mut rng = Rng::new(cli.seed);
        let bytes = usize::try_from(cli.size).unwrap_or(0);
        let payload = (0..bytes).map(|_| rng.next().to_le_bytes()[0]);
        Ok(Self { file, at: 0, record: payload.collect(), pending: Vec::new() })
    }

    /// Length and checksum, then the payload: the least that a log needs.
    fn append(&mut self) {
        let crc = core_runtime::crc::crc32c(&self.record);
        let length = u32::try_from(self.record.len()).unwrap_or(u32::MAX);
        self.pending.extend_from_slice(&length.to_le_bytes());
        self.pending.extend_from_slice(&crc.to_le_bytes());
        self.pending.extend_from_slice(&self.record);
    }

    fn commit(&mut self) -> std::io::Result<()> {
        if self.at + self.pending.len() as u64 > PLAIN_BYTES {
            self.at = 0;
        }
        self.file.write_all_at(&self.pending, self.at)?;
        self.file.sync_data()?;
        self.at += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }
}

/// Open loop: what has arrived is committed together.
fn plain_open(path: &Path, cli: &Cli, time: Duration) -> std::io::Result<Row> {
    let mut log = Plain::new(path, cli)?;
    let mut rng = Rng::new(cli.seed);
    let mut hist = Hist::new();
    let begin = Instant::now();
    let (mut next, mut waiting, mut appends) = (0.0, Vec::new(), 0_u64);
    let end = time.as_secs_f64();
    loop {
        let since = begin.elapsed().as_secs_f64();
        while next <= since && next < end {
            log.append();
            waiting.push(next);
            appends += 1;
            let unit = ((rng.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64;
            next += -unit.ln() / RATE as f64;
        }
        if waiting.is_empty() {
            if next >= end {
                break;
            }
            std::hint::spin_loop();
            continue;
        }
        log.commit()?;
        let now = begin.elapsed().as_secs_f64();
        for due in waiting.drain(..) {
            hist.record(nanos(now - due));
        }
    }
    let what = format!("open loop, {}/s", Si(RATE));
    Ok(row("plain file", what, cli.size, appends as f64 / begin.elapsed().as_secs_f64(), &hist))
}

fn plain_batches(path: &Path, cli: &Cli, batch: u64, time: Duration) -> std::io::Result<Row> {
    let mut log = Plain::new(path, cli)?;
    let mut hist = Hist::new();
    let begin = Instant::now();
    let mut appends = 0;
    while begin.elapsed() < time {
        let started = Instant::now();
        for _ in 0..batch {
            log.append();
        }
        log.commit()?;
        appends += batch;
        hist.record(nanos(started.elapsed().as_secs_f64()));
    }
    let rate = appends as f64 / begin.elapsed().as_secs_f64();
    Ok(row("plain file", format!("batches of {batch}"), cli.size, rate, &hist))
}

#[expect(clippy::cast_possible_truncation, reason = "seconds of a run")]
#[expect(clippy::cast_sign_loss, reason = "never negative")]
fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

fn row(who: &str, what: String, bytes: u64, rate: f64, hist: &Hist) -> Row {
    let at = |ppm| hist.quantile(ppm);
    Row {
        who: who.to_owned(),
        what,
        record_bytes: bytes,
        appends_per_second: rate,
        rejected: 0,
        latency_ns: Some([at(500_000), at(990_000), at(999_000), hist.max()]),
        samples: hist.count(),
        outcome: None,
        tsc_hz: 0,
    }
}

/// fio: sequential writes of a block, each with its fdatasync, one at a time.
fn fio(path: &Path, time: Duration) -> Result<Row, String> {
    let output = Command::new("fio")
        .args(["--name=log", "--ioengine=psync", "--rw=write", "--bs=4k", "--fdatasync=1"])
        .args(["--time_based", "--output-format=json", "--size=64m", "--overwrite=1", "--thread"])
        .arg(format!("--filename={}", path.display()))
        .arg(format!("--runtime={}ms", time.as_millis()))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => "not installed (apt-get install fio)".to_owned(),
            _ => error.to_string(),
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse(&text).ok_or_else(|| {
        let said = String::from_utf8_lossy(&output.stderr);
        format!("its output is not what it was: {}", said.lines().next().unwrap_or(""))
    })
}

/// From fio's JSON; notes may stand before it. A record's latency is its write's and its sync's.
fn parse(text: &str) -> Option<Row> {
    let value: Value = serde_json::from_str(&text[text.find('{')?..]).ok()?;
    let job = &value["jobs"][0];
    let (write, sync) = (&job["write"]["clat_ns"], &job["sync"]["lat_ns"]);
    let at =
        |name: &str| Some(write["percentile"][name].as_u64()? + sync["percentile"][name].as_u64()?);
    Some(Row {
        who: "fio".to_owned(),
        what: "write + fdatasync, 1".to_owned(),
        record_bytes: 4096,
        appends_per_second: job["write"]["iops"].as_f64()?,
        rejected: 0,
        latency_ns: Some([
            at("50.000000")?,
            at("99.000000")?,
            at("99.900000")?,
            write["max"].as_u64()? + sync["max"].as_u64()?,
        ]),
        samples: write["N"].as_u64()?,
        outcome: None,
        tsc_hz: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fios_json_is_read_write_and_sync_together() {
        let text = r#"fio: a note
            {"jobs": [{"write": {"iops": 100.5, "clat_ns": {"max": 50, "N": 7, "percentile": {
                "50.000000": 10, "99.000000": 20, "99.900000": 30}}},
              "sync": {"lat_ns": {"max": 500, "percentile": {
                "50.000000": 100, "99.000000": 200, "99.900000": 300}}}}]}"#;
        let row = parse(text).expect("fio's");
        assert_eq!(row.latency_ns, Some([110, 220, 330, 550]));
        assert_eq!(row.samples, 7);
        assert!(parse("fio: no such file").is_none());
    }
}
