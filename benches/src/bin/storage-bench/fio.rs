//! fio with io_uring, direct, random 4 KiB reads: what users would take instead, measured beside.
//!
//! It reads a file or block device of this machine, which is another device than ours: the ratio
//! says how far apart the two ways are here, not how fast a drive would be through either.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// Size of the file that is made when none is named.
const FILE_BYTES: u64 = 64 << 20;

/// Of the working directory.
const FILE: &str = "storage-bench-fio.tmp";

/// What fio measured at one depth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Baseline {
    pub(crate) iops: f64,
    pub(crate) average_ns: f64,
    pub(crate) p99_ns: f64,
    /// As for ours: 99 % of reads lie within so much of the median.
    pub(crate) jitter_ns: f64,
}

/// Where fio reads.
pub(crate) struct Target {
    path: PathBuf,
    ours: bool,
}

impl Target {
    /// The path named, or a file of our own, which goes with the value.
    pub(crate) fn new(path: Option<&Path>) -> Self {
        let path = path.map_or_else(|| PathBuf::from(FILE), Path::to_path_buf);
        let ours = !path.exists();
        Self { path, ours }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs fio at this depth for so long.
    ///
    /// # Errors
    /// One line: fio is not installed, or what it said.
    pub(crate) fn run(&self, depth: u32, seconds: f64) -> Result<Baseline, String> {
        let output = Command::new("fio")
            .args(["--name=baseline", "--ioengine=io_uring", "--direct=1", "--rw=randread"])
            .args(["--bs=4k", "--time_based", "--output-format=json", "--thread"])
            .args(["--percentile_list=0.5:1:50:99:99.5", "--randrepeat=1", "--allow_file_create=1"])
            .arg(format!("--filename={}", self.path.display()))
            .arg(format!("--size={}", if self.ours { FILE_BYTES } else { self.bytes() }))
            .arg(format!("--iodepth={depth}"))
            .arg(format!("--runtime={:.0}ms", seconds * 1000.0))
            .stdin(Stdio::null())
            .output()
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => {
                    "fio is not installed (apt-get install fio)".to_owned()
                }
                _ => format!("fio: {error}"),
            })?;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let line = said.lines().chain(text.lines()).find(|line| !line.trim().is_empty());
            return Err(format!("fio failed: {}", line.unwrap_or("without a word")));
        }
        parse(&text).ok_or_else(|| "fio's output is not what it was".to_owned())
    }

    fn bytes(&self) -> u64 {
        // A block device has no length here: fio finds it with 0.
        std::fs::metadata(&self.path).map_or(0, |meta| meta.len()).min(1 << 30)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if self.ours {
            // Nothing is left to do about one that cannot be removed.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// From fio's JSON; notes may stand before it.
fn parse(text: &str) -> Option<Baseline> {
    let value: Value = serde_json::from_str(&text[text.find('{')?..]).ok()?;
    let read = &value["jobs"][0]["read"];
    let clat = &read["clat_ns"];
    let at = |name: &str| clat["percentile"][name].as_f64();
    let (low, middle, high) = (at("0.500000")?, at("50.000000")?, at("99.500000")?);
    Some(Baseline {
        iops: read["iops"].as_f64()?,
        average_ns: clat["mean"].as_f64()?,
        p99_ns: at("99.000000")?,
        jitter_ns: (high - middle).max(middle - low),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fios_json_is_read_behind_its_notes() {
        let text = r#"note: both iodepth >= 1 and synchronous I/O engine
            {"jobs": [{"read": {"iops": 1234.5, "clat_ns": {"mean": 80000.5, "percentile": {
                "0.500000": 60000, "1.000000": 61000, "50.000000": 75000,
                "99.000000": 200000, "99.500000": 250000}}}}]}"#;
        let expected = Baseline {
            iops: 1234.5,
            average_ns: 80_000.5,
            p99_ns: 200_000.0,
            jitter_ns: 175_000.0,
        };
        assert_eq!(parse(text), Some(expected));
        assert_eq!(parse("fio: no such file"), None);
    }
}
