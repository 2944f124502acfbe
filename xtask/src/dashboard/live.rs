//! The replay that is looked at, and the Prometheus that scrapes it.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

/// A drive that answers so slowly that the day takes more than a minute.
const REPLAY: &[&str] =
    &["--messages", "9m", "--model-latency", "20ms", "--queue-depth", "2", "--quiet"];

/// After so long a client restarts the partition, which begins anew.
const RESTART: Duration = Duration::from_secs(60);

/// And so long is looked at in all.
const ALL: Duration = Duration::from_secs(75);

/// Nothing that is waited for takes as long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A child that ends with us.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port that is free now.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn start(command: &mut Command, log: &Path) -> Result<Process> {
    let file = File::create(log).with_context(|| log.display().to_string())?;
    let command = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let child = command.spawn();
    Ok(Process(child.with_context(|| format!("{} does not start", log.display()))?))
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// A host with its partition.
pub(super) struct Live {
    process: Process,
    metrics: String,
    run_dir: PathBuf,
}

impl Live {
    /// Starts it.
    pub(super) fn start(program: &Path, dir: &Path) -> Result<Self> {
        let (metrics, run_dir) = (format!("127.0.0.1:{}", free_port()?), dir.join("run"));
        let mut command = Command::new(program);
        command.args(REPLAY).arg("--metrics").arg(&metrics).arg("--run-dir").arg(&run_dir);
        let process = start(&mut command, &dir.join("feed-handler.log"))?;
        Ok(Self { process, metrics, run_dir })
    }

    /// Where its figures are.
    pub(super) fn metrics(&self) -> &str {
        &self.metrics
    }

    /// Lets it run, and restarts its partition once; from when to when it was looked at.
    pub(super) fn play(&self, prometheus: &Prometheus) -> Result<(f64, f64)> {
        prometheus.until_up()?;
        let (begun, from) = (Instant::now(), now());
        thread::sleep(RESTART);
        self.call("partition_restart")?;
        thread::sleep(ALL.saturating_sub(begun.elapsed()));
        let up = prometheus.query("hybrid_partition_up == 1", now())?;
        let is_up = up.as_array().is_some_and(|series| !series.is_empty());
        ensure!(is_up, "the partition did not come back from its restart");
        Ok((from, now()))
    }

    fn call(&self, method: &str) -> Result<()> {
        let socket = self.run_dir.join(self.process.0.id().to_string()).join("control.sock");
        let mut stream = UnixStream::connect(&socket).context("the control socket")?;
        let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method });
        stream.write_all(format!("{request}\n").as_bytes())?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        let answer: Value = serde_json::from_str(&answer)?;
        ensure!(answer.get("error").is_none(), "{method}: {answer}");
        Ok(())
    }
}

/// A Prometheus of its own.
pub(super) struct Prometheus {
    _process: Process,
    at: String,
}

impl Prometheus {
    /// Starts one that scrapes `target`.
    pub(super) fn start(dir: &Path, target: &str, every: Duration) -> Result<Self> {
        let seconds = every.as_secs();
        let config = format!(
            "global:\n  scrape_interval: {seconds}s\n  scrape_timeout: {seconds}s\n\
             scrape_configs:\n  - job_name: hybrid\n    static_configs:\n      \
             - targets: ['{target}']\n"
        );
        let file = dir.join("prometheus.yml");
        fs::write(&file, config)?;
        let at = format!("127.0.0.1:{}", free_port()?);
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", dir.join("prometheus").display()));
        command.arg(format!("--web.listen-address={at}"));
        let process = start(&mut command, &dir.join("prometheus.log"))?;
        Ok(Self { _process: process, at })
    }

    /// Waits until it has scraped once.
    fn until_up(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let up = self.query("up == 1", now());
            if up.is_ok_and(|up| up.as_array().is_some_and(|all| !all.is_empty())) {
                return Ok(());
            }
            ensure!(begun.elapsed() < PATIENCE, "Prometheus scrapes nothing; see prometheus.log");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// A query for one moment.
    pub(super) fn query(&self, query: &str, at: f64) -> Result<Value> {
        self.get(&format!("/api/v1/query?time={at:.3}&query={}", escaped(query)))
    }

    /// A query over time.
    pub(super) fn query_range(
        &self,
        query: &str,
        (from, to): (f64, f64),
        every: Duration,
    ) -> Result<Value> {
        let (step, query) = (every.as_secs(), escaped(query));
        let path =
            format!("/api/v1/query_range?start={from:.3}&end={to:.3}&step={step}&query={query}");
        self.get(&path)
    }

    /// Its answer's `data.result`.
    fn get(&self, path: &str) -> Result<Value> {
        let mut stream = TcpStream::connect(&self.at)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.at).as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        let mut answer: Value = serde_json::from_str(body).with_context(|| body.to_owned())?;
        if answer["status"] != "success" {
            bail!("Prometheus says {answer}");
        }
        Ok(answer["data"]["result"].take())
    }
}

/// A query as part of an address.
fn escaped(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' => {
            char::from(byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}
