//! The guest suite: which machines are booted, and which parts run in each.
//!
//! Booting costs seconds, so parts share a boot where their machines allow it.
//!
//! **To add a test**, write a part: a file in `guest/suite/` that reads `/guest/lib` and calls
//! `check NAME COMMAND...`, or runs a program that prints libtest's lines (`test NAME ... ok`,
//! `FAILED`, or `ignored, REASON`) by itself; then a line in [`BOOTS`] with the names that must be
//! seen. A part runs as root and starts from what the parts before it left. It asks the host for an
//! unplugged drive with `host device_del nvme1` (see `guest/host`); it shows a figure on the
//! suite's screen with `note TEXT`. A part whose program was not built is skipped with that reason;
//! a test that is named here and not seen has failed, and so has a part that ends with another
//! code than 0.

use super::drive::Drive;
use super::machine::Machine;

/// One machine, and what runs in it.
pub(crate) struct Boot {
    pub(crate) name: &'static str,
    pub(crate) machine: fn() -> Machine,
    pub(crate) parts: &'static [Part],
    /// No other guest runs beside it: a drive whose button is pressed is let go of within seconds.
    pub(crate) alone: bool,
}

/// A script of the guest.
pub(crate) struct Part {
    pub(crate) name: &'static str,
    pub(crate) script: &'static str,
    /// Programs of ours that it runs.
    pub(crate) programs: &'static [&'static str],
    /// Tests of the script that must be seen.
    pub(crate) tests: &'static [&'static str],
    /// Tests that a program of it prints by itself, and that must be seen as well. A program whose
    /// tests depend on what it finds or on the script's options has none here.
    pub(crate) printed: &'static [&'static str],
    /// It is killed after this many seconds.
    pub(crate) limit_s: u32,
}

impl Part {
    /// All tests that must be seen.
    pub(crate) fn expected(&self) -> impl Iterator<Item = &'static str> {
        self.tests.iter().chain(self.printed).copied()
    }
}

/// Every boot, in order.
pub(crate) const BOOTS: &[Boot] = &[
    Boot {
        name: "main",
        machine: main,
        alone: true,
        parts: &[
            BOOTED,
            KERNEL_NVME,
            MODEL_REPLAY,
            VFIO_REPLAY,
            QUIET,
            UNPLUG,
            REFUSALS,
            SYSCONFIG,
            HOTPLUG,
        ],
    },
    Boot { name: "devices", machine: main, alone: false, parts: &[SYSCONFIG_DEVICES] },
    Boot { name: "fresh-drives", machine: fresh_drives, alone: false, parts: &[CONFORMANCE] },
    Boot {
        name: "vfio",
        machine: shared_group,
        alone: true,
        parts: &[VFIO, VFIO_ENDS, VFIO_FALLBACK],
    },
    Boot { name: "crashes", machine: noted, alone: false, parts: &[CRASHES, JOURNAL] },
    Boot { name: "polled", machine: polled, alone: false, parts: &[URING] },
    Boot { name: "two-nodes", machine: two_nodes, alone: false, parts: &[PARTITIONS] },
    Boot { name: "without-iommu", machine: without_iommu, alone: false, parts: &[NO_IOMMU] },
];

/// Files of the repository that guests of the suite get.
pub(crate) const FILES: [(&str, &str); 2] = [
    ("app/tests/data/one-stock.itch", "/guest/day.itch"),
    ("app/tests/data/one-stock.bbo.csv", "/guest/day.bbo.csv"),
];

const BOOTED: Part = Part {
    name: "boot",
    script: include_str!("guest/suite/boot"),
    programs: &[],
    tests: &[
        "boot::every_drive_has_an_iommu_group_of_its_own",
        "boot::the_kernel_found_the_iommu_and_remaps_interrupts",
        "boot::vfio_and_nvme_modules_are_loaded",
        "boot::huge_pages_are_there",
        "boot::the_partitions_core_is_isolated",
        "boot::the_ordinary_user_is_ordinary",
    ],
    printed: &[],
    limit_s: 30,
};

const KERNEL_NVME: Part = Part {
    name: "kernel-nvme",
    script: include_str!("guest/suite/kernel-nvme"),
    programs: &[],
    tests: &[
        "kernel_nvme::namespaces_have_their_sizes_and_numbers",
        "kernel_nvme::mdts_of_one_page_limits_transfers",
        "kernel_nvme::what_was_written_is_read_in_blocks_of_512",
        "kernel_nvme::what_was_written_is_read_in_blocks_of_4096",
        "kernel_nvme::what_was_written_is_read_in_small_transfers",
    ],
    printed: &[],
    limit_s: 60,
};

const MODEL_REPLAY: Part = Part {
    name: "model-replay",
    script: include_str!("guest/suite/model-replay"),
    programs: &["feed-handler", "sim"],
    tests: &[
        "model_replay::a_seed_of_the_simulation_is_the_same_run_here",
        "model_replay::bbo_is_exact_on_an_isolated_core_without_root",
    ],
    printed: &[],
    limit_s: 60,
};

const VFIO_REPLAY: Part = Part {
    name: "vfio-replay",
    script: include_str!("guest/suite/vfio-replay"),
    programs: &["feed-handler"],
    tests: &[
        "vfio_replay::bbo_is_exact_over_vfio_without_root_on_the_isolated_core",
        "vfio_replay::the_kernel_reads_what_we_wrote",
        "vfio_replay::we_read_what_the_kernel_wrote",
    ],
    printed: &[],
    limit_s: 90,
};

const QUIET: Part = Part {
    name: "quiet",
    script: include_str!("guest/suite/quiet"),
    programs: &["feed-handler", "sysconfig"],
    tests: &[
        "quiet::no_tick_and_no_device_interrupt_reaches_the_partitions_core",
        "quiet::jitter_measures_and_names_what_reached_the_core",
    ],
    printed: &[],
    limit_s: 90,
};

const UNPLUG: Part = Part {
    name: "unplug",
    script: include_str!("guest/suite/unplug"),
    programs: &["feed-handler"],
    tests: &[
        "unplug::reads_of_a_drive_that_is_pulled_end_in_an_error_that_says_so",
        "unplug::a_drive_that_comes_back_still_has_its_feed",
    ],
    printed: &[],
    limit_s: 90,
};

const REFUSALS: Part = Part {
    name: "refusals",
    script: include_str!("guest/suite/refusals"),
    programs: &["feed-handler"],
    tests: &[
        "refusals::a_device_that_is_not_there",
        "refusals::a_device_that_is_no_nvme_controller",
        "refusals::a_drive_that_the_kernel_has",
        "refusals::a_group_with_a_neighbour_of_the_kernels",
        "refusals::a_zoned_namespace",
        "refusals::too_little_memory_that_may_be_locked",
        "refusals::a_group_that_belongs_to_somebody_else",
        "refusals::modules_that_are_not_loaded",
        "refusals::cores_that_make_no_sense",
    ],
    printed: &[],
    limit_s: 60,
};

/// Two runs of the suite, which knows its own tests, follow the ones that are named.
const CONFORMANCE: Part = Part {
    name: "conformance",
    script: include_str!("guest/suite/conformance"),
    programs: &["conformance"],
    tests: &[
        "conformance::a_drive_that_carries_data_is_refused",
        "conformance::a_zoned_namespace_is_refused_by_name",
    ],
    printed: &[],
    limit_s: 300,
};

const URING: Part = Part {
    name: "uring",
    script: include_str!("guest/suite/uring"),
    programs: &["feed-handler", "storage-bench"],
    tests: &[
        "uring::the_drive_has_poll_queues",
        "uring::bbo_is_exact_on_a_block_device",
        "uring::bbo_is_exact_on_a_polled_block_device",
        "uring::bbo_is_exact_through_passthrough",
        "uring::bbo_is_exact_through_polled_passthrough",
        "uring::bbo_is_exact_with_the_kernels_thread_submitting",
        "uring::what_went_through_the_kernel_the_model_reads",
        "uring::polling_that_is_not_to_be_had_is_one_line",
        "uring::a_disk_at_work_is_refused",
        "uring::the_ladder_is_climbed",
    ],
    printed: &[],
    limit_s: 240,
};

const NO_IOMMU: Part = Part {
    name: "no-iommu",
    script: include_str!("guest/suite/no-iommu"),
    programs: &["feed-handler"],
    tests: &["no_iommu::vfio_is_refused_and_says_what_to_turn_on"],
    printed: &[],
    limit_s: 30,
};

const PARTITIONS: Part = Part {
    name: "partitions",
    script: include_str!("guest/suite/partitions"),
    programs: &["partition-drill"],
    tests: &["partitions::the_machine_has_two_nodes", "partitions::linux_keeps_a_cpu"],
    printed: &[
        "partitions::keys_keep_their_order_between_cores",
        "partitions::a_record_goes_there_and_back",
        "partitions::each_has_the_memory_of_its_cores_node",
        "partitions::rings_lie_on_their_producers_node",
        "partitions::a_table_is_spread_over_the_nodes",
        "partitions::local_and_remote_memory_are_timed",
    ],
    limit_s: 60,
};

const CRASHES: Part = Part {
    name: "crashes",
    script: include_str!("guest/suite/crashes"),
    programs: &["crash-drill", "feed-handler"],
    tests: &[
        "crashes::every_way_to_die_under_load_over_vfio",
        "crashes::a_partition_that_is_killed_under_load_over_vfio",
        "crashes::a_host_that_is_killed_leaves_a_device_that_can_be_had",
        "crashes::the_iommu_stopped_nothing",
    ],
    printed: &[],
    limit_s: 240,
};

/// The last test's program runs on the host.
const JOURNAL: Part = Part {
    name: "journal",
    script: include_str!("guest/suite/journal"),
    programs: &["journal-drill", "journal-bench"],
    tests: &[
        "journal::a_log_goes_round_its_ring_through_openings_and_truncations_over_vfio",
        "journal::appends_over_vfio_are_measured",
        "journal::after_every_crash_that_qemus_block_log_tells_of_what_was_acknowledged_is_there",
    ],
    printed: &[],
    limit_s: 120,
};

const VFIO: Part = Part {
    name: "vfio",
    script: include_str!("guest/suite/vfio"),
    programs: &["feed-handler", "vfio-drill"],
    tests: &[
        "vfio::an_absent_function_is_refused_with_those_that_are_there",
        "vfio::a_function_that_is_not_nvme_is_refused_by_its_class",
        "vfio::a_drive_of_the_kernels_is_refused_with_the_command",
        "vfio::a_neighbour_of_the_kernels_is_refused_by_name",
        "vfio::a_group_of_somebody_else_is_refused_with_chown",
        "vfio::too_little_memlock_is_refused_with_what_is_missing",
        "vfio::a_drive_is_listed_without_root",
        "vfio::bbo_is_exact_on_an_isolated_core_without_root",
        "vfio::blocks_are_stamped",
        "vfio::a_window_of_reads_is_right_without_root",
        "vfio::a_stray_write_is_stopped_and_told_with_its_address",
        "vfio::what_the_kernel_wrote_is_read",
        "vfio::what_was_written_the_kernel_reads_when_it_has_the_drive_back",
    ],
    printed: &[],
    limit_s: 120,
};

const VFIO_ENDS: Part = Part {
    name: "vfio-ends",
    script: include_str!("guest/suite/vfio-ends"),
    programs: &["vfio-drill"],
    tests: &[
        "vfio_ends::bus_mastering_cleared_under_load_loses_no_read_for_good",
        "vfio_ends::a_busy_group_is_refused_after_a_deadline",
        "vfio_ends::a_drive_pulled_in_a_read_storm_ends_every_read_with_gone",
        "vfio_ends::a_drive_that_comes_back_is_found_and_driven",
        "vfio_ends::a_surprise_removal_ends_every_read_with_gone",
        "vfio_ends::after_a_surprise_removal_the_drive_is_driven_again",
        "vfio_ends::a_bus_reset_behind_our_back_ends_every_read_with_gone",
        "vfio_ends::after_a_bus_reset_the_drive_is_driven_again",
        "vfio_ends::a_function_removed_under_load_is_let_go_and_found_again",
    ],
    printed: &[],
    limit_s: 180,
};

const VFIO_FALLBACK: Part = Part {
    name: "vfio-fallback",
    script: include_str!("guest/suite/vfio-fallback"),
    programs: &["feed-handler", "sysconfig"],
    tests: &[
        "vfio_fallback::a_long_feed_is_on_the_drive",
        "vfio_fallback::a_reset_in_the_middle_of_a_replay_ends_with_exact_quotes",
        "vfio_fallback::the_switch_is_one_line_and_the_kernel_has_the_drive",
        "vfio_fallback::a_drive_of_the_kernels_is_read_there_from_the_start",
        "vfio_fallback::going_back_is_a_bind_and_a_start_by_hand",
        "vfio_fallback::without_a_helper_the_error_says_who_could",
        "vfio_fallback::a_fallback_without_a_helper_is_an_error_that_says_so",
        "vfio_fallback::a_fallback_of_roots_goes_on_through_passthrough",
    ],
    printed: &[],
    limit_s: 180,
};

const SYSCONFIG_DEVICES: Part = Part {
    name: "sysconfig-devices",
    script: include_str!("guest/suite/sysconfig-devices"),
    programs: &["sysconfig"],
    tests: &[
        "sysconfig_devices::the_table_shows_drives_and_drivers",
        "sysconfig_devices::a_drive_is_bound_to_vfio_pci_and_given_back",
        "sysconfig_devices::short_addresses_and_patterns_work",
        "sysconfig_devices::what_is_no_drive_is_refused",
        "sysconfig_devices::a_partition_table_is_refused",
        "sysconfig_devices::a_filesystem_is_refused",
        "sysconfig_devices::a_disk_at_work_is_refused_even_with_force",
        "sysconfig_devices::an_open_disk_is_refused_even_with_force",
        "sysconfig_devices::data_at_rest_is_bound_with_force",
        "sysconfig_devices::a_user_may_not_bind",
        "sysconfig_devices::a_user_binds_through_the_helper_and_gives_back",
        "sysconfig_devices::the_helper_refuses_what_is_not_listed",
        "sysconfig_devices::the_helper_logs_each_request",
        "sysconfig_devices::the_helper_ends_in_order",
        "sysconfig_devices::the_isolated_core_has_no_tick",
        "sysconfig_devices::a_housekeeping_core_has_one",
        "sysconfig_devices::a_threshold_is_exit_2",
        "sysconfig_devices::a_trace_names_what_is_in_a_gap",
    ],
    printed: &[],
    limit_s: 120,
};

const SYSCONFIG: Part = Part {
    name: "sysconfig",
    script: include_str!("guest/suite/sysconfig"),
    programs: &["sysconfig"],
    tests: &[
        "sysconfig::bad_input_is_one_line_and_a_code",
        "sysconfig::plan_changes_nothing",
        "sysconfig::apply_makes_what_was_asked",
        "sysconfig::a_second_apply_writes_nothing",
        "sysconfig::verify_tells_what_the_boot_lacks",
        "sysconfig::the_isolated_core_is_left_alone",
        "sysconfig::reset_restores_everything",
        "sysconfig::killed_applies_are_undone",
    ],
    printed: &[],
    limit_s: 120,
};

const HOTPLUG: Part = Part {
    name: "hotplug",
    script: include_str!("guest/suite/hotplug"),
    programs: &[],
    tests: &[
        "hotplug::a_drive_that_is_pulled_is_gone",
        "hotplug::a_drive_that_comes_back_is_found",
        "hotplug::the_host_refuses_what_it_does_not_know",
    ],
    printed: &[],
    limit_s: 60,
};

/// Drives of every kind that we meet: blocks of 512 and of 4096, an odd namespace number, two pages
/// a command, a controller memory buffer, a zoned one, which is refused, and one that shares its
/// IOMMU group.
fn main() -> Machine {
    with(&["64M+32M/4096@7", "64M,mdts=1,cmb=16", "32M/4096z", "16M,beside"])
}

/// Drives that nobody wrote to, for a suite that refuses to overwrite data.
fn fresh_drives() -> Machine {
    with(&["64M+32M/4096@7+16M/4096@9z,mdts=10", "64M,mdts=1,cmb=16,queues=3", "32M/4096z"])
}

/// One drive alone in its IOMMU group, and two that share one.
fn shared_group() -> Machine {
    with(&["128M", "64M", "64M,beside"])
}

/// The same, and one whose every write and flush is noted.
fn noted() -> Machine {
    with(&["128M", "64M", "64M,beside", "4M,log"])
}

/// Drives whose completions the kernel can poll for.
fn polled() -> Machine {
    let append = "nvme.poll_queues=1".to_owned();
    Machine { iommu: false, append, ..with(&["64M", "16M"]) }
}

/// A core of each node for partitions, and one of each for Linux.
fn two_nodes() -> Machine {
    let base = with(&["16M"]);
    Machine { nodes: 2, cpus: 4, isolated: "1,3".to_owned(), iommu: false, ..base }
}

fn without_iommu() -> Machine {
    Machine { iommu: false, cpus: 2, isolated: "1".to_owned(), ..with(&["64M"]) }
}

fn with(drives: &[&str]) -> Machine {
    let drives = drives.iter().map(|line| line.parse::<Drive>().expect("a line of this table"));
    Machine { drives: drives.collect(), ..Machine::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_has_one_name_and_one_part() {
        let parts = || BOOTS.iter().flat_map(|boot| boot.parts);
        let mut names: Vec<_> = parts().flat_map(Part::expected).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for part in parts() {
            let prefix = format!("{}::", part.name.replace('-', "_"));
            assert!(part.expected().all(|name| name.starts_with(&prefix)), "{}", part.name);
        }
    }

    #[test]
    fn every_listed_test_is_in_its_script() {
        for part in BOOTS.iter().flat_map(|boot| boot.parts) {
            for name in part.tests {
                assert!(part.script.contains(name), "{name} is not in {}", part.name);
            }
        }
    }

    /// A file of the repository.
    fn read(path: &str) -> String {
        let path = format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    #[test]
    fn what_a_program_prints_is_all_that_it_has_of_its_part() {
        let parts = BOOTS.iter().flat_map(|boot| boot.parts);
        for part in parts.filter(|part| !part.printed.is_empty()) {
            let source = |name| read(&format!("conformance/src/bin/{name}/main.rs"));
            let sources: String = part.programs.iter().map(source).collect();
            let prefix = format!("\"{}::", part.name.replace('-', "_"));
            let has: Vec<_> = sources
                .match_indices(&prefix)
                .filter_map(|(at, _)| sources[at + 1..].split('"').next())
                .collect();
            assert_eq!(has, part.printed, "{}", part.name);
        }
    }

    #[test]
    fn every_boot_has_its_row_in_the_suites_table() {
        let page = read("docs/vm.md");
        let (_, table) = page.split_once("\n| boot |").expect("the suite's table");
        let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
        let mut named: Vec<_> = rows.filter_map(|row| row.split('|').nth(1)).collect();
        named = named.iter().flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
        named.sort_unstable();
        let mut boots: Vec<_> = BOOTS.iter().map(|boot| boot.name).collect();
        boots.sort_unstable();
        assert_eq!(named, boots, "docs/vm.md");
    }

    #[test]
    fn every_machine_can_be_told_to_qemu() {
        for boot in BOOTS {
            let machine = (boot.machine)();
            assert!(!machine.drives.is_empty(), "{}", boot.name);
            assert!((2..=4).contains(&machine.cpus), "{}", boot.name);
        }
    }
}
