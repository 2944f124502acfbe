//! The unit under systemd: the tree is booted in a container, and instances run in their sandbox.
//!
//! A unit of the test's own runs [`SCRIPT`] and switches the container off; what the script found
//! is in a file of the tree then. It knows no emulator: the kernel is this machine's.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{path, succeed};
use crate::command::Run;

/// Where the script writes.
pub(super) const RESULT: &str = "dist-result";

/// Runs one instance that ends and one that stays, and purges the package under a running systemd.
/// Each line of the result is one finding, or the journal.
const SCRIPT: &str = "\
exec >/dist-result 2>&1
say() { echo \"finding $*\"; }
show() { systemctl show --value -p \"$1\" hybrid-runtime@$2; }
install -d -g hybrid -m 2775 /var/lib/prometheus/node-exporter
systemctl start hybrid-runtime@day
for i in $(seq 120); do systemctl is-active -q hybrid-runtime@day || break; sleep 0.5; done
# What systemd knows of an instance that ended is forgotten with it; the journal is not.
say day $(journalctl -o cat -u hybrid-runtime@day | grep -c 'Deactivated successfully')
say replayed $(journalctl -o cat -u hybrid-runtime@day | grep -c '^replay  *100,000 ')
figures=/var/lib/prometheus/node-exporter/hybrid.prom
say textfile $(stat -c '%U %a' $figures) $(runuser -u nobody -- grep -c ^hybrid_host_info $figures)
systemctl enable -q --now hybrid-runtime@rec
for i in $(seq 60); do probe-util list | grep -q feed-handler && break; sleep 0.5; done
say listed $(probe-util list | grep -c 'feed-handler')
pid=$(show MainPID rec)
rights='^(NoNewPrivs|CapBnd|Seccomp):'
say user $(stat -c %U /proc/$pid) $(grep -E $rights /proc/$pid/status | tr -d ' \\t\\n')
say memlock $(grep 'locked memory' /proc/$pid/limits | tr -s ' ' | cut -d' ' -f4)
say slice $(cut -d: -f3 /proc/$pid/cgroup | grep hybrid.slice | sort -u | wc -l)
say state $(ls /var/lib/hybrid-runtime/rec)
systemctl stop hybrid-runtime@rec
say rec $(show Result rec) $(show ExecMainStatus rec)
systemctl start hybrid-runtime@wrong
for i in $(seq 60); do systemctl is-failed -q hybrid-runtime@wrong && break; sleep 0.5; done
say wrong $(show ExecMainStatus wrong) $(show NRestarts wrong)
journalctl --no-pager -o cat -u 'hybrid-runtime@*'
";

/// Its end.
const PURGE: &str = "\
systemctl start hybrid-runtime@rec
dpkg --purge hybrid-runtime
say active $(systemctl list-units --all --plain --no-legend 'hybrid*' | wc -l)
say links $(ls -d /etc/systemd/system/*.wants/hybrid* 2>/dev/null | wc -l)
say left $(ls -d /etc/hybrid-runtime /{var/lib,run}/hybrid-runtime 2>/dev/null | wc -l)
say users $(getent passwd hybrid | wc -l)
";

const UNIT: &str = "\
[Service]
Type=oneshot
ExecStart=/bin/bash /dist-script
ExecStopPost=/bin/systemctl poweroff --no-block
TimeoutStartSec=900
[Install]
WantedBy=multi-user.target
";

/// Files that an administrator would write, and the test's own.
const FILES: &[(&str, &str)] = &[
    ("etc/systemd/system/dist-test.service", UNIT),
    (
        "etc/hybrid-runtime/instances/day.toml",
        "messages = \"100k\"\nno_probe = true\n\
         metrics_textfile = \"/var/lib/prometheus/node-exporter/hybrid.prom\"\n",
    ),
    (
        "etc/systemd/system/hybrid-runtime@day.service.d/metrics.conf",
        "[Service]\nReadWritePaths=/var/lib/prometheus/node-exporter\n",
    ),
    (
        "etc/hybrid-runtime/instances/rec.toml",
        "command = \"record\"\n[record]\ndevice = \"model:journal.img\"\nidle = \"never\"\n\
         listen = \"127.0.0.1:26400\"\njournal_size = \"64M\"\nsnapshot_size = \"1M\"\n",
    ),
    ("etc/hybrid-runtime/instances/wrong.toml", "mesages = \"100k\"\n"),
];

/// What the script has to find.
const FINDINGS: &[&str] = &[
    "day 1",
    "replayed 1",
    "textfile hybrid 644 1",
    "listed 1",
    "user hybrid CapBnd:0000000000000000NoNewPrivs:1Seccomp:2",
    "slice 1",
    "state journal.img",
    "rec success 143",
    // An error that a restart does not mend.
    "wrong 1 0",
    "active 0",
    "links 0",
    "left 0",
    "users 0",
];

/// What it finds besides where the machine lets root raise limits.
pub(super) const LOCKED: &str = "memlock 2147483648";

/// Whether root may raise limits here (CAP_SYS_RESOURCE): some virtual machines take that away.
fn may_raise_limits() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    bits.is_some_and(|bits| bits & (1 << 24) != 0)
}

/// Puts files into the tree.
pub(super) fn put(tree: &Path, files: &[(&str, &str)]) -> Result<()> {
    for (name, text) in files {
        let path = tree.join(name);
        fs::create_dir_all(path.parent().unwrap_or(tree))?;
        fs::write(path, text).with_context(|| (*name).to_owned())?;
    }
    Ok(())
}

/// Makes the tree run the script at its next boot; `more` goes before its end.
pub(super) fn prepare(tree: &Path, more: &str) -> Result<()> {
    let script = [SCRIPT, more, PURGE].concat();
    put(tree, FILES)?;
    put(tree, &[("dist-script", &script)])?;
    let wants = tree.join("etc/systemd/system/multi-user.target.wants");
    fs::create_dir_all(&wants)?;
    let link = wants.join("dist-test.service");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink("/etc/systemd/system/dist-test.service", link)?;
    let _ = fs::remove_file(tree.join(RESULT));
    Ok(())
}

/// Whether the script found what it has to, and `more`.
pub(super) fn judge(result: &str, ended: Option<&str>, more: &[&str]) -> Result<()> {
    let found: Vec<&str> =
        result.lines().filter_map(|line| line.strip_prefix("finding ")).collect();
    let wanted = FINDINGS.iter().chain(more).copied();
    let missed: Vec<&str> = wanted.filter(|one| !found.contains(one)).collect();
    ensure!(
        missed.is_empty() && ended.is_none(),
        "under systemd ({}) these were not found: {missed:?}; the script wrote:\n{result}",
        ended.unwrap_or("it ended well")
    );
    Ok(())
}

/// Whether no instance complained that it may not lock its memory.
pub(super) fn is_locked(result: &str) -> Result<()> {
    let warned = result.lines().find(|line| line.contains("memory is not locked"));
    ensure!(warned.is_none(), "under systemd: {}", warned.unwrap_or_default());
    Ok(())
}

/// Boots the tree, in which the package is installed.
pub(super) fn test(tree: &Path, out: &Path) -> Result<()> {
    prepare(tree, "")?;
    // An instance's image is flushed by the model's own thread, which answers nothing meanwhile; on
    // a disk that still writes the tree that takes seconds, and then its controller is gone.
    succeed(Run::new("sync --file-system").arg(path(tree)), out)?;
    // A container lacks the right to lock memory, and its limits are small, unless it is said.
    // A network of its own: no port of this machine is taken, and none is in the way.
    let boot =
        Run::new("systemd-nspawn --register=no --keep-unit --quiet --boot --private-network")
            .arg("--capability=CAP_IPC_LOCK,CAP_SYS_RESOURCE")
            .arg("--rlimit=RLIMIT_MEMLOCK=infinity")
            .arg(format!("--machine=dist-{}", std::process::id()))
            .arg(format!("--directory={}", path(tree)))
            .limit(Duration::from_secs(420));
    let ended = boot.run(out, &out.join("boot.log")).trouble();
    let result = fs::read_to_string(tree.join(RESULT)).unwrap_or_default();
    if may_raise_limits() {
        judge(&result, ended.as_deref(), &[LOCKED])?;
        return is_locked(&result);
    }
    println!("skipped: LimitMEMLOCK: root may not raise limits here (no CAP_SYS_RESOURCE)");
    judge(&result, ended.as_deref(), &[])
}
