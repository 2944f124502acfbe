//! The command line itself: help, version, usage errors, and a list of every option.

use crate::run;

#[test]
fn help_and_version_are_results_and_end_with_zero() {
    for args in [&["--help"][..], &["-h"], &["--version"], &["-V"], &["replay", "--help"]] {
        let run = run::start(args).wait().ok();
        assert!(!run.stdout.is_empty(), "{args:?}");
        assert_eq!(run.stderr, "", "{args:?}");
        for line in run.stdout.lines() {
            assert!(line.chars().count() <= 100, "{args:?}: {line}");
        }
    }
    let version = run::start(&["--version"]).wait().stdout;
    assert_eq!(version, format!("feed-handler {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn usage_errors_end_with_one_and_say_what_is_allowed() {
    for (args, words) in [
        (&["--nonsense"][..], "unexpected argument '--nonsense'"),
        (&["ingest"], "<FILE>"),
        (&["fly"], "unrecognized subcommand 'fly'"),
        (&["--queue-depth", "0"], "0 is not in 1..=1023"),
        (&["--queue-depth", "1024"], "1024 is not in 1..=1023"),
        (&["--stocks", "4000"], "4000 is not in 1..=2048"),
        (&["--messages", "many"], "`many` is no count"),
        (&["replay", "--max-orders", "10"], "allowed are 1k to 64M orders"),
        (&["replay", "--symbols", "A,,B"], "1 to 8 printable ASCII characters"),
        (&["replay", "--model-latency", "soon"], "soon"),
        (&["replay", "--model-size", "4q"], "4q"),
        (&["list", "--model-lba", "1000"], "allowed are powers of two from 512 to 64k"),
        (&["list", "--model-mdts", "5k"], "allowed are powers of two from 8k to 1G"),
        (&["list", "--model-mdts", "4k"], "--max-transfer 4k limits the driver instead"),
        (&["list", "--max-transfer", "4M"], "allowed are powers of two from 4k to 2M"),
        (&["id-ns", "--namespace-id", "-1"], "-1"),
        (&["--seed", "1", "replay"], "cannot be used with"),
    ] {
        let run = run::start(args).wait();
        assert_eq!(run.code(), Some(1), "{args:?}: {run:?}");
        assert_eq!(run.stdout, "", "{args:?}");
        assert!(run.stderr.contains(words), "{words:?}: {run:?}");
    }
}

#[test]
fn symbols_and_days_beyond_what_is_possible_are_refused_with_what_is_allowed() {
    let many: Vec<_> = (0..65).map(|number| format!("S{number}")).collect();
    let many = many.join(",");
    let feed = crate::feeds::small();
    let args = ["replay", crate::temp::text(&feed), "--symbols", &many];
    run::start(&args).wait().refused(1, &["65 symbols; at most 64 are allowed"]);
    let run = run::start(&["--messages", "10", "--stocks", "5"]).wait();
    run.refused(1, &["of 5 stocks has at least 437 messages, not 10"]);
}

/// Every option, and the test that shows what it does. A new one needs a line here and a test.
const OPTIONS: [(&str, &str); 82] = [
    ("--allow-writes", "bad_device::a_device_that_carries_something_else_is_..."),
    ("--bbo", "real_data"),
    ("--check-silence", "silence"),
    ("--config", "config"),
    ("--core", "options::the_partition_runs_on_the_core_that_was_named"),
    ("--device", "images, bad_device"),
    ("--fallback", "fallback::a_replay_whose_device_fails_at_random_points_ends_with_..."),
    ("--from-start", "live::a_whole_session_gives_the_books_of_a_replay"),
    ("--group", "live::silence_ends_it_and_an_address_..."),
    ("--dump-dir", "supervision"),
    ("--dump-keep", "host-bridge's supervisor::store"),
    ("--dump-keep-bytes", "host-bridge's supervisor::store"),
    ("--dump-timeout", "host-bridge's supervisor::policy"),
    ("--generate", "config::pages_and_completions_are_written_where_they_are_looked_for"),
    ("--give-back", "in the guest, which has a drive to give back"),
    ("--heartbeat-timeout", "supervision::a_partition_that_is_stopped_and_let_go_on_survives"),
    ("--help", "command_line"),
    ("--helper", "host-bridge's backend::vfio::bind_back"),
    ("--idle", "live::silence_ends_it_and_an_address_..."),
    ("--io-timeout", "fallback::a_replay_whose_device_fails_at_random_points_ends_with_..."),
    ("--isolation", "silence"),
    ("--json", "json"),
    ("--lenient", "bad_feed"),
    ("--listen", "live"),
    ("--max-orders", "bad_feed::books_that_are_too_small_are_..."),
    ("--max-transfer", "options::the_model_is_what_its_options_say"),
    ("--messages", "options::a_day_is_as_long_and_as_wide_as_was_asked_for"),
    ("--model-latency", "options::commands_take_as_long_as_the_model_was_told"),
    ("--model-lba", "options::the_model_is_what_its_options_say"),
    ("--model-mdts", "options::the_model_is_what_its_options_say"),
    ("--model-out-of-order", "real_data"),
    ("--model-size", "options::the_model_is_what_its_options_say"),
    ("--namespace-id", "admin::a_namespace_that_is_not_active_is_refused_..."),
    ("--no-probe", "options::the_probe_is_left_out_when_asked_to"),
    ("--on-crash", "supervision::a_partition_that_is_killed_leaves_a_dump_and_..."),
    ("--on-crash-timeout", "host-bridge's supervisor::hook"),
    ("--queue-depth", "options::the_model_is_what_its_options_say"),
    ("--quiet", "options::quiet_leaves_nothing_on_standard_error"),
    ("--restart", "supervision::with_restart_never_a_death_is_the_end"),
    ("--restart-delay", "host-bridge's supervisor::restart"),
    ("--restart-delay-max", "host-bridge's supervisor::restart"),
    ("--restart-limit", "host-bridge's supervisor::restart"),
    ("--rt-priority", "host-bridge's tests/alerts.rs"),
    ("--seed", "images::the_same_seed_makes_the_same_day_and_..."),
    ("--spin", "live::what_is_lost_or_comes_twice_is_told_..."),
    ("--spare", "supervision::a_partition_that_is_killed_leaves_a_dump_and_..."),
    ("--storage", "fallback::storage_is_picked_by_hand_and_contradictions_are_refused"),
    ("--stocks", "options::a_day_is_as_long_and_as_wide_as_was_asked_for"),
    ("--symbols", "symbols"),
    ("--uring-buffered", "uring::an_image_is_the_same_for_the_model_and_for_the_kernel"),
    ("--uring-iopoll", "uring::an_image_is_the_same_for_the_model_and_for_the_kernel"),
    ("--uring-lba", "uring::a_file_is_made_as_it_was_asked_for"),
    ("--uring-no-fixed", "uring::an_image_is_the_same_for_the_model_and_for_the_kernel"),
    ("--uring-size", "uring::a_file_is_made_as_it_was_asked_for"),
    ("--uring-sqpoll", "uring::an_image_is_the_same_for_the_model_and_for_the_kernel"),
    ("--uring-sqpoll-idle", "uring::an_image_is_the_same_for_the_model_and_for_the_kernel"),
    ("--version", "command_line"),
    ("--task-timeout", "supervision::a_partition_that_is_stopped_and_let_go_on_survives"),
    ("--vfio-user-reconnect", "vfio_user::a_server_that_goes_is_waited_for_as_long_as_was_said"),
    ("--vfio-user-timeout", "vfio_user::a_server_that_never_answers_is_waited_for_..."),
    ("--log", "telemetry::a_client_restarts_and_drains_the_partition_and_every_line_is_json"),
    ("--metrics", "telemetry::figures_are_served_while_it_runs"),
    ("--metrics-every", "telemetry::a_client_restarts_and_drains_the_partition_..."),
    ("--metrics-textfile", "telemetry::a_client_restarts_and_drains_the_partition_..."),
    ("--no-control", "telemetry::a_place_that_cannot_be_had_is_one_line_with_what_to_change"),
    ("--report", "telemetry::a_report_is_a_page_that_holds_everything_it_shows"),
    ("--report-beside", "telemetry::a_report_is_a_page_that_holds_everything_it_shows"),
    ("--run-dir", "telemetry::figures_are_served_while_it_runs"),
    ("--freeze-budget-over", "host-bridge's probes::tests"),
    ("--freeze-dir", "host-bridge's probes::tests"),
    ("--freeze-most", "host-bridge's probes::tests"),
    ("--freeze-over", "host-bridge's probes::tests"),
    ("--freeze-stolen-over", "host-bridge's probes::tests"),
    ("--print-config", "config::print_config_tells_each_value_and_its_origin"),
    ("--probe-ring", "host-bridge's probes::tests"),
    ("--probes", "host-bridge's probes::tests"),
    ("--trace", "host-bridge's probes::tests"),
    ("--trace-drop", "host-bridge's probes::tests"),
    ("--from", "journal::a_session_out_of_order_and_twice_is_replayed_exactly_and_from_anywhere"),
    ("--journal", "journal"),
    (
        "--original-speed",
        "journal::a_session_out_of_order_and_twice_is_replayed_exactly_and_from_anywhere",
    ),
    (
        "--save-snapshot",
        "journal::a_session_out_of_order_and_twice_is_replayed_exactly_and_from_anywhere",
    ),
];

#[test]
fn every_option_of_the_help_has_a_test_that_shows_what_it_does() {
    let mut found = std::collections::BTreeSet::new();
    let commands = [
        "",
        "ingest",
        "replay",
        "live",
        "id-ctrl",
        "id-ns",
        "smart-log",
        "error-log",
        "list",
        "--help",
    ];
    for command in commands {
        let args: Vec<_> = [command, "--help"].into_iter().filter(|arg| !arg.is_empty()).collect();
        let help = run::start(&args).wait().ok().stdout;
        for line in help.lines() {
            // An option begins its line: `  -q, --quiet` or `      --json`.
            let line = line.trim_start();
            let line = line
                .get(..4)
                .filter(|s| s.starts_with('-') && s.ends_with(", "))
                .map_or(line, |short| &line[short.len()..]);
            if line.starts_with("--") {
                let end = line.find([' ', '[']).unwrap_or(line.len());
                found.insert(line[..end].to_owned());
            }
        }
    }
    let known: std::collections::BTreeSet<_> =
        OPTIONS.iter().map(|(option, _)| (*option).to_owned()).collect();
    assert_eq!(found, known);
}
