//! A machine for tests: a tree of files that behaves like the kernel's, and an injector of faults.
//!
//! The injector counts the steps that change something ([`crate::root`]) and lets a chosen one be
//! the last: it and everything after it fail, as if the program had been killed there. A step that
//! writes bytes is left half done.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use hybrid_conventions::CpuSet;

use crate::root::Root;

/// The injector, shared by all copies of a root.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults(Arc<Plan>);

#[derive(Debug)]
struct Plan {
    /// Steps that still succeed.
    left: AtomicI64,
    /// Values whose path ends so are refused with this error number.
    refused: Mutex<Vec<(String, i32)>>,
    ran: Mutex<Vec<String>>,
    steps: AtomicI64,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            left: AtomicI64::new(i64::MAX),
            refused: Mutex::default(),
            ran: Mutex::default(),
            steps: AtomicI64::new(0),
        }
    }
}

fn killed() -> io::Error {
    io::Error::other("killed by the test")
}

impl Faults {
    /// The program dies at the step after so many.
    pub(crate) fn kill_after(&self, steps: i64) {
        self.0.left.store(steps, Ordering::Relaxed);
    }

    /// Steps since the beginning.
    pub(crate) fn steps(&self) -> i64 {
        self.0.steps.load(Ordering::Relaxed)
    }

    /// Writes to values whose path ends so fail with this error number.
    pub(crate) fn refuse(&self, end: &str, errno: i32) {
        self.0.refused.lock().expect("no panic under it").push((end.to_owned(), errno));
    }

    /// The programs that were run.
    pub(crate) fn programs(&self) -> Vec<String> {
        self.0.ran.lock().expect("no panic under it").clone()
    }

    pub(crate) fn step(&self) -> io::Result<()> {
        self.0.steps.fetch_add(1, Ordering::Relaxed);
        let left = self.0.left.fetch_sub(1, Ordering::Relaxed);
        if left > 0 { Ok(()) } else { Err(killed()) }
    }

    pub(crate) fn alive(&self) -> io::Result<()> {
        if self.0.left.load(Ordering::Relaxed) >= 0 { Ok(()) } else { Err(killed()) }
    }

    /// All bytes; half of them in the step that kills; none after it.
    pub(crate) fn whole_or_half<'b>(&self, bytes: &'b [u8]) -> io::Result<&'b [u8]> {
        self.alive()?;
        match self.step() {
            Ok(()) => Ok(bytes),
            Err(_) => Ok(&bytes[..bytes.len() / 2]),
        }
    }

    pub(crate) fn ran(&self, program: &str, args: &[&str]) -> bool {
        let line = [&[program], args].concat().join(" ");
        self.0.ran.lock().expect("no panic under it").push(line);
        true
    }

    /// Writes a value as the kernel's files take it; [`None`] for a file that is not the kernel's.
    pub(crate) fn write(&self, place: &Path, text: &str) -> io::Result<Option<()>> {
        self.step()?;
        let refused = self.0.refused.lock().expect("no panic under it");
        let path = place.to_string_lossy();
        if let Some((_, errno)) = refused.iter().find(|(end, _)| path.ends_with(end.as_str())) {
            return Err(io::Error::from_raw_os_error(*errno));
        }
        let old = fs::read_to_string(place)?;
        let new = match text {
            "+cpuset" => format!("{} cpuset", old.trim()).trim_start().to_owned(),
            "-cpuset" => old.replace("cpuset", "").trim().to_owned(),
            word if old.contains('[') => {
                let plain = old.trim().replace(['[', ']'], "");
                let words =
                    plain.split(' ').map(|w| if w == word { format!("[{w}]") } else { w.into() });
                words.collect::<Vec<_>>().join(" ")
            }
            text => text.to_owned(),
        };
        fs::write(place, format!("{new}\n"))?;
        Ok(Some(()))
    }

    /// A control group is born with its files.
    pub(crate) fn dir_made(place: &Path) {
        for (name, text) in group_files(place) {
            fs::write(place.join(name), text).expect("a file of a fake group");
        }
    }

    /// And dies with them.
    pub(crate) fn dir_goes(place: &Path) {
        for (name, _) in group_files(place) {
            let _ = fs::remove_file(place.join(name));
        }
    }
}

fn group_files(place: &Path) -> &'static [(&'static str, &'static str)] {
    let path = place.to_string_lossy();
    if path.contains("/sys/fs/cgroup/cpuset/") {
        return &[
            ("cpuset.cpus", "\n"),
            ("cpuset.mems", "\n"),
            ("cpuset.sched_load_balance", "1\n"),
        ];
    }
    if path.contains("/sys/fs/cgroup/") {
        return &[("cpuset.cpus", "\n"), ("cpuset.cpus.partition", "member\n")];
    }
    &[]
}

/// A thread's CPUs in its fake status.
pub(crate) fn move_thread(root: &Root, tid: u32, cpus: CpuSet) -> io::Result<()> {
    let path = root.path(format!("/proc/{tid}/status"));
    let old = fs::read_to_string(&path)?;
    let mask = format!("Cpus_allowed:\t{}", cpus.kernel_mask());
    let line = |line: &str| {
        if line.starts_with("Cpus_allowed:") { mask.clone() } else { line.to_owned() }
    };
    let new: Vec<String> = old.lines().map(line).collect();
    fs::write(path, new.join("\n") + "\n")
}

/// A machine of files, gone at the end of the test.
pub(crate) struct Fake {
    pub(crate) root: Root,
    folder: tempfile::TempDir,
}

impl Fake {
    /// A Debian of four CPUs in two cores (0,2 and 1,3), one node, cgroup v2, GRUB and systemd.
    pub(crate) fn debian() -> Self {
        let fake = Self::empty();
        fake.cpus("0-3", &[(0, "0,2"), (1, "1,3"), (2, "0,2"), (3, "1,3")]);
        fake.files(&[
            ("/proc/cmdline", "quiet"),
            ("/proc/cpuinfo", "vendor_id\t: GenuineIntel\nflags\t\t: constant_tsc nonstop_tsc"),
            ("/proc/sys/kernel/osrelease", "6.1.0-18-amd64"),
            ("/proc/sys/kernel/random/boot_id", "11111111-1111-1111-1111-111111111111"),
            ("/proc/sys/vm/stat_interval", "1"),
            ("/proc/sys/kernel/nmi_watchdog", "1"),
            ("/proc/sys/kernel/numa_balancing", "0"),
            ("/proc/sys/kernel/timer_migration", "1"),
            ("/proc/sys/kernel/watchdog_cpumask", "0-3"),
            ("/proc/sys/kernel/sched_rt_runtime_us", "950000"),
            ("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never"),
            ("/proc/irq/default_smp_affinity", "f"),
            ("/proc/irq/0/smp_affinity_list", "0-3"),
            ("/proc/irq/24/smp_affinity_list", "0-3"),
            ("/proc/irq/24/nvme0q0/x", ""),
            ("/proc/irq/25/smp_affinity_list", "3"),
            ("/sys/devices/virtual/workqueue/cpumask", "f"),
            ("/sys/devices/virtual/workqueue/writeback/cpumask", "0000000f"),
            ("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory"),
            ("/sys/fs/cgroup/cgroup.subtree_control", "cpu memory"),
            ("/etc/default/grub", "GRUB_CMDLINE_LINUX=\"\""),
            ("/etc/default/irqbalance", "# irqbalance\nOPTIONS="),
            ("/usr/sbin/update-grub", "#!/bin/sh"),
            ("/usr/lib/systemd/systemd", ""),
            ("/etc/security/limits.conf", ""),
            ("/etc/udev/udev.conf", ""),
            ("/etc/systemd/system.conf", "[Manager]"),
            ("/etc/group", "root:x:0:\nhybrid:x:999:"),
            ("/var/lib/dpkg/status", ""),
        ]);
        fake.pool(0, 2048, 0);
        fake.thread(1, "systemd", "f", 0);
        fake.thread(2, "kthreadd", "f", 0x0020_0000);
        fake.thread(20, "ksoftirqd/3", "8", 0x0420_0000);
        fake.thread(700, "a) partition", "8", 0);
        for (cpu, latency) in [(1, 1), (3, 133)] {
            let base = format!("/sys/devices/system/cpu/cpu3/cpuidle/state{cpu}");
            fake.file(&format!("{base}/latency"), &latency.to_string());
            fake.file(&format!("{base}/disable"), "0");
            fake.file(&format!("{base}/name"), "C6");
        }
        let freq = "/sys/devices/system/cpu/cpu3/cpufreq";
        fake.file(&format!("{freq}/scaling_governor"), "schedutil");
        fake.file(&format!("{freq}/scaling_available_governors"), "performance schedutil");
        fake
    }

    /// Nothing but a folder.
    pub(crate) fn empty() -> Self {
        // Hundreds of small files: in memory where that is possible.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let folder = folder.expect("a temporary folder");
        Self { root: Root::at(folder.path()), folder }
    }

    /// A file, with a line end.
    pub(crate) fn file(&self, path: &str, text: &str) {
        let path = self.root.path(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        fs::write(path, format!("{text}\n")).expect("a file");
    }

    pub(crate) fn files(&self, files: &[(&str, &str)]) {
        for (path, text) in files {
            self.file(path, text);
        }
    }

    /// CPUs, all of node 0, and who shares a core.
    pub(crate) fn cpus(&self, all: &str, cores: &[(u32, &str)]) {
        let base = "/sys/devices/system/cpu";
        self.files(&[(&format!("{base}/present"), all), (&format!("{base}/online"), all)]);
        self.file("/sys/devices/system/node/node0/cpulist", all);
        for (cpu, core) in cores {
            self.file(&format!("{base}/cpu{cpu}/topology/thread_siblings_list"), core);
            if *cpu > 0 {
                self.file(&format!("{base}/cpu{cpu}/online"), "1");
            }
        }
    }

    /// A pool of huge pages.
    pub(crate) fn pool(&self, node: u32, kib: u64, pages: u64) {
        let name = format!("hugepages/hugepages-{kib}kB");
        for base in ["/sys/kernel/mm".to_owned(), format!("/sys/devices/system/node/node{node}")] {
            for file in ["nr_hugepages", "free_hugepages"] {
                self.file(&format!("{base}/{name}/{file}"), &pages.to_string());
            }
        }
    }

    /// A process of one thread.
    pub(crate) fn thread(&self, tid: u32, name: &str, mask: &str, flags: u64) {
        let zeros = |count: usize| vec!["0"; count].join(" ");
        let stat = format!("{tid} ({name}) S 0 0 0 0 -1 {flags} {} {}", zeros(12), 100 + tid);
        self.file(&format!("/proc/{tid}/stat"), &stat);
        self.file(&format!("/proc/{tid}/status"), &format!("Name:\t{name}\nCpus_allowed:\t{mask}"));
        self.file(&format!("/proc/{tid}/task/{tid}/x"), "");
    }

    /// Another program run on the same machine: no faults.
    pub(crate) fn again(&self) -> Root {
        Root::at(self.folder.path())
    }

    /// Every file, link and folder with mode, owner and content.
    pub(crate) fn snapshot(&self) -> Vec<String> {
        let mut lines = Vec::new();
        snapshot(self.folder.path(), self.folder.path(), &mut lines);
        lines.sort();
        lines
    }
}

fn snapshot(base: &Path, folder: &Path, lines: &mut Vec<String>) {
    use std::os::unix::fs::MetadataExt as _;
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path: PathBuf = entry.path();
        let about = fs::symlink_metadata(&path).expect("it is there");
        let name = path.strip_prefix(base).expect("below it").display().to_string();
        let head = format!("{name} {:o} {} {}", about.mode(), about.uid(), about.gid());
        if about.is_dir() {
            lines.push(head);
            snapshot(base, &path, lines);
        } else if about.is_symlink() {
            lines.push(format!("{head} -> {}", fs::read_link(&path).expect("a link").display()));
        } else {
            lines.push(format!("{head} {:?}", fs::read_to_string(&path).expect("text")));
        }
    }
}
