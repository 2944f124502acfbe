//! Files and environment below the command line, as an administrator writes them.

use std::process::Command;

use crate::feeds;
use crate::machine::Machine;
use crate::run::{PROGRAM, start_command};
use crate::temp::{TempDir, text};

/// The program on a machine whose files are in `dir`.
fn program(dir: &TempDir, args: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(args).env("HYBRID_CONFIG_DIR", dir.path(""));
    command
}

#[test]
fn a_file_says_what_flags_and_environment_do_not() {
    let name = "a_file_says_what_flags_and_environment_do_not";
    let Some(machine) = Machine::of(name) else { return };
    let dir = TempDir::new();
    let file =
        "queue_depth = 5\nno_probe = true\n[replay]\nmodel_lba = 512\nmodel_mdts = \"16k\"\n";
    dir.file("feed-handler.toml", file.as_bytes());
    let feed = feeds::small();
    let mut command = program(&dir, &["replay", text(&feed), "--json", "--model-lba", "1k"]);
    command.env("HYBRID_FEED_HANDLER_MODEL_MDTS", "8k");
    let json = machine.run_command(command).ok().json();
    assert_eq!(json["device"]["queue_depth"], 5, "the file's");
    assert_eq!(json["device"]["max_transfer_bytes"], 8 << 10, "the environment's");
    assert_eq!(json["device"]["lba_bytes"], 1024, "the command line's");
    assert!(json["single_reads"].is_null(), "a switch of the file's");
}

#[test]
fn mistakes_are_told_with_file_line_and_the_nearest_key() {
    let dir = TempDir::new();
    let path = dir.file("feed-handler.toml", b"core = 1\nqueue_dept = 5\n");
    let line = format!(
        "feed-handler: {}:2: feed-handler has no option queue_dept; the nearest is queue_depth",
        path.display()
    );
    start_command(program(&dir, &["list"])).wait().refused(1, &[&line]);
    dir.file("feed-handler.toml", b"allow_writes = true\n");
    let words = "given by hand each time: --allow-writes";
    start_command(program(&dir, &[])).wait().refused(1, &[words]);
    let named = dir.path("none.toml");
    let missing = start_command(program(&dir, &["--config", text(&named)])).wait();
    missing.refused(3, &["none.toml is not there"]);
}

#[test]
fn print_config_tells_each_value_and_its_origin() {
    let dir = TempDir::new();
    let path = dir.file("feed-handler.toml", b"[record]\nlisten = \"127.0.0.1:0\"\n");
    let args = ["record", "--idle", "never", "--print-config"];
    let run = start_command(program(&dir, &args)).wait().ok();
    let listen = format!("listen = \"127.0.0.1:0\" # {}:2", path.display());
    let lines: Vec<String> = run
        .stdout
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let wanted = ["[record]", &listen, "idle = \"never\" # --idle", "reorder = 64 # default"];
    for line in wanted {
        assert!(lines.iter().any(|seen| seen == line), "{line}: {}", run.stdout);
    }
    assert!(run.stdout.contains("core ="), "{}", run.stdout);
}

#[test]
fn pages_and_completions_are_written_where_they_are_looked_for() {
    let dir = TempDir::new();
    let out = dir.path("share");
    let run = start_command(program(&dir, &["--generate", text(&out)])).wait().ok();
    for file in ["man/man1/feed-handler-record.1", "bash-completion/completions/feed-handler"] {
        let path = out.join(file);
        assert!(run.stdout.lines().any(|line| line == text(&path)), "{}", run.stdout);
        assert!(path.exists());
    }
    let page = std::fs::read_to_string(out.join("man/man1/feed-handler.1")).expect("a page");
    for part in [".SH \"EXIT STATUS\"", ".SH EXAMPLES", ".SH SUPERVISION", ".SH FILES"] {
        assert!(page.contains(part), "{part}");
    }
}
