//! What the settings want of machines of many shapes, and what they refuse.

use hybrid_conventions::Exit;

use crate::command;
use crate::engine::Verdict;
use crate::engine_tests::{prepared, what};
use crate::fake::Fake;
use crate::journal::Journal;
use crate::place::{Format, Place, State};
use crate::report::{self, Style};

/// The changes of a plan as lines.
fn changes(fake: &Fake, flags: &[&str]) -> Vec<String> {
    let plan = prepared(&fake.root, &what(flags)).plan;
    let line = |step: &crate::engine::Step| {
        format!("{} {}: {} -> {}", step.setting, step.wish.place, step.now, step.wish.wanted)
    };
    plan.changes().map(line).collect()
}

fn notes(fake: &Fake, flags: &[&str]) -> String {
    let notes = prepared(&fake.root, &what(flags)).plan.notes;
    notes.into_iter().map(|(setting, note)| format!("{setting}: {note}\n")).collect()
}

fn refusal(fake: &Fake, flags: &[&str]) -> (Exit, String) {
    let journal = Journal::read(&fake.root).expect("none");
    match command::prepare_at(&fake.root, &what(flags), journal) {
        Ok(_) => panic!("{flags:?} was taken"),
        Err(failure) => (failure.exit, failure.line),
    }
}

#[test]
fn bad_input_is_one_line_with_what_is_allowed() {
    let fake = Fake::debian();
    fake.file("/sys/devices/system/cpu/online", "0-2");
    for (flags, exit, words) in [
        (&["-c", "0-3"][..], Exit::Error, "include cpu 0"),
        (&["-c", "9"], Exit::Error, "does not have; it has 0-3"),
        (&["-c", "3"], Exit::Error, "is offline; bring it up"),
        (&["-c", "2"], Exit::Error, "shares a core with cpu 0"),
        (&["-c", "1", "--housekeeping", "0-1"], Exit::Error, "housekeeping may be 0,2"),
        (&["-c", "1", "--housekeeping", "2"], Exit::Error, "with cpu 0 among them"),
        (&["-c", "1", "--hugepages", "1G=1"], Exit::Missing, "not offered"),
        (&["-c", "1", "--hugepages", "2M=1@3"], Exit::Error, "this machine has node 0"),
        (&["-c", "1", "--only", "irqs"], Exit::Error, "no setting is called irqs; there are"),
        (&["-c", "1", "--group", "a b"], Exit::Error, "is no group's name"),
        (&["-c", "1", "--config", "/none.toml"], Exit::Missing, "--config names a file"),
    ] {
        let (code, line) = refusal(&fake, flags);
        assert_eq!(code, exit, "{flags:?}: {line}");
        assert!(line.contains(words) && !line.contains('\n'), "{flags:?}: {line}");
    }
}

#[test]
fn nothing_asked_is_nothing_done() {
    let fake = Fake::debian();
    let nothing = prepared(&fake.root, &what(&[]));
    let refused = command::needs_wishes(&nothing).expect_err("nothing is asked for");
    assert_eq!(refused.exit, Exit::Missing);
    assert!(refused.line.contains("--isolated-cores 3"), "{}", refused.line);
}

#[test]
fn files_and_flags_are_one_configuration() {
    let fake = Fake::debian();
    let base = "/etc/hybrid-runtime/machine.toml";
    fake.file(base, "isolated_cores = [1]\nsmt = \"keep\"\nthp = \"keep\"");
    fake.file(&format!("{base}.d/20.toml"), "isolated_cores = \"0x8\"");
    fake.file(&format!("{base}.d/10.toml"), "isolated_cores = 2\nhugepages = [\"2M=4\"]");
    let config = prepared(&fake.root, &what(&[])).config;
    assert_eq!(config.isolated.to_string(), "3", "the last drop-in");
    assert_eq!(config.huge.get(&(2 << 20, 0)), Some(&4));
    let config = prepared(&fake.root, &what(&["-c", "1"])).config;
    assert_eq!(config.isolated.to_string(), "1", "the flag");
    for (text, words) in [
        ("isolated_cores = \"0-\"", "line 1: cpu set"),
        ("\nisolated = 3", "line 2: unknown field `isolated`"),
        ("isolated_core = 3", "; the nearest is isolated_cores"),
        ("smt = \"of\"", "allowed are off, isolate, keep"),
        ("boot = \"yes\"", "line 1: invalid type"),
    ] {
        fake.file(base, text);
        let (exit, line) = refusal(&fake, &[]);
        assert!(exit == Exit::Error && line.contains(words) && line.contains(base), "{line}");
    }
}

#[test]
fn flags_are_kept_and_read_back() {
    let flags = [
        "-c",
        "3",
        "--housekeeping",
        "0-2",
        "--smt",
        "keep",
        "--cpuset",
        "off",
        "--thp",
        "madvise",
        "--max-idle-latency",
        "50us",
        "--hugepages",
        "2M=8@0",
        "--group",
        "hybrid",
        "--memlock",
        "1G",
        "--boot",
        "false",
        "--service",
        "false",
    ];
    let asked = what(&flags).asked;
    let fake = Fake::empty();
    fake.file(crate::config::file::KEPT, &asked.to_toml());
    let read =
        crate::config::file::Asked::kept(&fake.root).unwrap_or_else(|f| panic!("{}", f.line));
    assert_eq!(read, asked);
}

#[test]
fn siblings_go_offline_and_stay_wished_for() {
    let fake = Fake::debian();
    let off = "smt /sys/devices/system/cpu/cpu1/online: 1 -> 0";
    assert!(changes(&fake, &["-c", "3"]).contains(&off.to_owned()));
    command::apply_at(&fake.root, &what(&["-c", "3"])).expect("applied");
    // The kernel takes the topology of a CPU away with it.
    fake.file("/sys/devices/system/cpu/online", "0,2-3");
    std::fs::remove_dir_all(fake.root.path("/sys/devices/system/cpu/cpu1/topology")).expect("gone");
    fake.file("/sys/devices/system/cpu/cpu3/topology/thread_siblings_list", "3");
    let config = prepared(&fake.root, &what(&["-c", "3"])).config;
    assert_eq!(
        (config.off.to_string(), config.housekeeping.to_string()),
        ("1".into(), "0,2".into())
    );
    assert!(changes(&fake, &["-c", "3"]).iter().all(|line| !line.contains("cpu1")));
    let isolate = prepared(&Fake::debian().root, &what(&["-c", "3", "--smt", "isolate"])).config;
    assert_eq!(isolate.isolated.to_string(), "1,3");
}

#[test]
fn masks_beyond_sixty_four_cpus_are_written_in_groups_and_compared_as_sets() {
    let fake = Fake::debian();
    fake.cpus("0-71", &[]);
    fake.file("/proc/irq/default_smp_affinity", "ff,ffffffff,ffffffff");
    let lines = changes(&fake, &["-c", "70-71", "--only", "irq"]);
    let mask = "irq /proc/irq/default_smp_affinity: ff,ffffffff,ffffffff -> 3f,ffffffff,ffffffff";
    assert!(lines.contains(&mask.to_owned()), "{lines:?}");
    let place = Place::formatted("/x", Format::Mask);
    for same in ["f", "0000000f", "00000000,0000000f"] {
        assert!(place.same(&State::text(same), &State::text("f")), "{same}");
    }
    assert!(!place.same(&State::text("1f"), &State::text("f")));
}

#[test]
fn pages_are_spread_over_nodes_and_never_taken_from_others() {
    let fake = Fake::debian();
    fake.file("/sys/devices/system/node/node1/cpulist", "2-3");
    fake.pool(0, 2048, 0);
    fake.pool(1, 2048, 900);
    let lines = changes(&fake, &["--hugepages", "2M=9", "--only", "hugepages"]);
    let node0 = "/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages";
    assert_eq!(lines, [format!("hugepages {node0}: 0 -> 5")]);
    let words = prepared(&fake.root, &what(&["--hugepages", "2M=9"])).plan;
    let grub = words.changes().find(|step| step.setting == "boot" && is_cfg(&step.wish.place));
    let State::File { content, .. } = &grub.expect("a drop-in").wish.wanted else { panic!() };
    assert!(content.text().contains("hugepagesz=2M hugepages=0:5,1:4"), "{}", content.text());
}

fn is_cfg(place: &Place) -> bool {
    place.to_string().ends_with(".cfg")
}

#[test]
fn each_loader_gets_its_words() {
    for (file, words) in [
        ("/usr/sbin/grubby", "grubby --update-kernel=ALL --args=\"isolcpus="),
        ("/etc/default/grub", "add to GRUB_CMDLINE_LINUX in /etc/default/grub: isolcpus="),
        ("/etc/kernel/cmdline", "add to /etc/kernel/cmdline: isolcpus="),
        ("/boot/extlinux/extlinux.conf", "the APPEND line of /boot/extlinux/extlinux.conf: isol"),
        ("/boot/loader/loader.conf", "options line of /boot/loader/entries/*.conf: isolcpus="),
        ("/none", "add to the kernel's command line: isolcpus="),
    ] {
        let fake = Fake::empty();
        fake.cpus("0-3", &[]);
        fake.file(file, "");
        let notes = notes(&fake, &["-c", "3"]);
        assert!(notes.contains(words), "{file}: {notes}");
        assert!(changes(&fake, &["-c", "3"]).iter().all(|line| !line.contains("grub")), "{file}");
    }
}

#[test]
fn parameters_fit_the_machine() {
    let fake = Fake::debian();
    let text = |fake: &Fake| {
        let prepared = prepared(&fake.root, &what(&["-c", "3", "--smt", "keep"]));
        crate::settings::wanted_words(&prepared.machine, &prepared.config).join(" ")
    };
    assert_eq!(
        text(&fake),
        "isolcpus=managed_irq,domain,3 nohz_full=3 rcu_nocbs=3 rcu_nocb_poll irqaffinity=0-2 \
         nmi_watchdog=0 nosoftlockup skew_tick=1 tsc=nowatchdog transparent_hugepage=never \
         intel_iommu=on"
    );
    fake.file("/proc/cpuinfo", "vendor_id\t: AuthenticAMD\nflags\t\t: tsc");
    assert!(!text(&fake).contains("tsc=") && !text(&fake).contains("iommu"));
    fake.file("/sys/firmware/acpi/tables/DMAR", "");
    assert!(text(&fake).contains("intel_iommu=on"), "the table says more than the vendor");
    fake.file("/proc/cmdline", "isolcpus=domain,managed_irq,3 nohz_full=3 amd_iommu=off");
    assert!(!text(&fake).contains("isolcpus") && !text(&fake).contains("nohz_full"));
    assert!(notes(&fake, &["-c", "3", "--smt", "keep"]).contains("started with amd_iommu=off"));
}

#[test]
fn an_old_control_group_is_used_where_it_is() {
    let fake = Fake::debian();
    std::fs::remove_file(fake.root.path("/sys/fs/cgroup/cgroup.controllers")).expect("v1");
    let group = "/sys/fs/cgroup/cpuset";
    let root = fake.root.path(group);
    std::fs::create_dir_all(&root).expect("the mount");
    for (file, text) in [("cpus", "0-3"), ("mems", "0"), ("sched_load_balance", "1")] {
        fake.file(&format!("{group}/cpuset.{file}"), text);
    }
    let before = fake.snapshot();
    let flags = ["-c", "3", "--smt", "keep", "--cpuset", "partition"];
    command::apply_at(&fake.root, &what(&flags)).expect("applied");
    let text = |file: &str| fake.root.text(format!("{group}/{file}")).unwrap_or_default();
    assert_eq!(text("hybrid/cpuset.cpus"), "3");
    assert_eq!(text("hybrid/cpuset.mems"), "0");
    assert_eq!(text("hybrid/cpuset.sched_load_balance"), "0");
    assert_eq!(text("hybrid-rest/cpuset.cpus"), "0-2");
    assert_eq!(text("cpuset.sched_load_balance"), "0");
    command::reset_at(&fake.root, false).expect("reset");
    assert_eq!(fake.snapshot(), before);
    let none = Fake::empty();
    none.cpus("0-3", &[]);
    let (exit, line) = refusal(&none, &flags);
    assert!(exit == Exit::Missing && line.contains("mount -t cgroup2"), "{line}");
}

#[test]
fn managed_interrupts_are_known_beforehand_where_debugfs_says_so() {
    let fake = Fake::debian();
    fake.file("/sys/kernel/debug/irq/irqs/24", "status: 0\nIRQD_AFFINITY_MANAGED");
    let plan = prepared(&fake.root, &what(&["-c", "3", "--smt", "keep"])).plan;
    let fixed = plan.steps.iter().find(|step| matches!(step.verdict, Verdict::Fixed(_)));
    let fixed = fixed.expect("one is fixed");
    assert_eq!(fixed.wish.place.to_string(), "/proc/irq/24/smp_affinity_list");
    assert_eq!(fixed.wish.detail.as_deref(), Some("nvme0q0"));
}

#[test]
fn a_plan_reads_like_a_diff() {
    let fake = Fake::debian();
    let plan = |style, json: bool| {
        let flags = ["-c", "3", "--smt", "keep", "--boot", "true", "--service", "false"];
        let prepared = prepared(&fake.root, &what(&flags));
        if json {
            report::plan_json(&prepared).unwrap_or_else(|f| panic!("{}", f.line))
        } else {
            report::plan(&prepared, style, false)
        }
    };
    let text = plan(Style::Plain, false);
    assert_eq!(text, include_str!("golden/plan.txt"));
    assert!(plan(Style::Colour, false).contains("\u{1b}[31m"));
    let json: serde_json::Value = serde_json::from_str(&plan(Style::Plain, true)).expect("JSON");
    assert_eq!(json["schema"], "sysconfig-plan/1");
    assert_eq!(json["isolated_cores"], "3");
    assert!(json["changes"].as_array().is_some_and(|changes| changes.len() > 10));
}

/// An NVMe controller on `nvme`; in a group where the machine has an IOMMU.
fn drive(fake: &Fake, bdf: &str, group: Option<u32>, state: &str) {
    let base = format!("/sys/bus/pci/devices/{bdf}");
    for (file, text) in [
        ("class", "0x010802"),
        ("vendor", "0x1b36"),
        ("device", "0x0010"),
        ("driver_override", "(null)"),
        ("nvme/nvme0/state", state),
    ] {
        fake.file(&format!("{base}/{file}"), text);
    }
    let link = |target: &str, name: &str| {
        let path = fake.root.path(format!("{base}/{name}"));
        std::os::unix::fs::symlink(target, path).expect("a link");
    };
    link("../../../../bus/pci/drivers/nvme", "driver");
    if let Some(group) = group {
        link(&format!("../../../../kernel/iommu_groups/{group}"), "iommu_group");
    }
}

#[test]
fn a_drive_that_cannot_be_bound_keeps_nothing_else_from_being_made() {
    let fake = Fake::debian();
    drive(&fake, "0000:03:00.0", None, "live");
    let flags = what(&["-c", "3", "--smt", "keep", "--device", "03:00.0", "--device", "04:00.0"]);
    let plan = report::plan(&prepared(&fake.root, &flags), Style::Plain, false);
    assert!(plan.contains("driver of 0000:03:00.0: 0000:03:00.0 is in no IOMMU group"), "{plan}");
    assert!(plan.contains("driver of 0000:04:00.0: 0000:04:00.0 is not there"), "{plan}");
    for again in [false, true] {
        let outcome = command::apply_at(&fake.root, &flags).expect("the rest is applied");
        let failed: Vec<Exit> = outcome.failed.iter().map(|failure| failure.exit).collect();
        assert_eq!(failed, [Exit::Missing, Exit::Missing], "{:?}", outcome.failed);
        assert_eq!(outcome.changed.is_empty(), again);
        assert!(outcome.refused.iter().all(|(place, _)| !matches!(place, Place::Driver { .. })));
    }
    let text = |path: &str| fake.root.text(path).unwrap_or_default();
    assert!(text("/etc/default/grub.d/50-hybrid-runtime.cfg").contains("intel_iommu=on"));
    assert_eq!(text("/proc/irq/24/smp_affinity_list"), "0-2");
    let found = crate::verify::compare(&prepared(&fake.root, &flags));
    let missing = found.iter().filter(|f| f.is == crate::verify::Judgement::Missing);
    assert_eq!(missing.count(), 2, "{found:?}");
}

#[test]
fn a_drive_in_use_is_refused_with_1_and_the_rest_is_made() {
    let fake = Fake::debian();
    drive(&fake, "0000:03:00.0", Some(7), "live");
    let base = "/sys/bus/pci/devices/0000:03:00.0";
    fake.file(&format!("{base}/nvme/nvme0/nvme0n1/x"), "");
    fake.file("/sys/class/block/nvme0n1/dev", "259:0");
    fake.file("/proc/self/mountinfo", "36 35 259:0 / /data rw - ext4 /dev/nvme0n1 rw");
    let flags = what(&["-c", "3", "--smt", "keep", "--device", "03:00.0"]);
    let outcome = command::apply_at(&fake.root, &flags).expect("the rest is applied");
    assert_eq!(outcome.failed.len(), 1);
    assert_eq!(outcome.failed[0].exit, Exit::Error);
    assert!(outcome.failed[0].line.contains("mounted at /data"), "{}", outcome.failed[0].line);
    assert_eq!(fake.root.text("/proc/irq/24/smp_affinity_list").as_deref(), Some("0-2"));
}
