//! Layers over one another, with files in a directory of the test's own.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fs, process};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgGroup};

use super::layer::{Given, Resolved, Stop, resolve};
use super::*;

/// A program with one of each kind of option.
fn program() -> Command {
    let run = Command::new("run")
        .arg(Arg::new("FILE").required(true))
        .arg(Arg::new("core").long("core").value_parser(value_parser!(u32)))
        .arg(Arg::new("listen").long("listen").required(true))
        .arg(Arg::new("name").long("name").required(true));
    let number = value_parser!(u16).range(1..=1023);
    let program = Command::new("x-y")
        .args_conflicts_with_subcommands(true)
        .arg(Arg::new("the_depth").long("queue-depth").default_value("32").value_parser(number))
        .arg(Arg::new("quiet").short('q').long("quiet").action(ArgAction::SetTrue))
        .arg(Arg::new("latency").short('L').long("latency").action(ArgAction::Count))
        .arg(Arg::new("only").long("only").value_delimiter(',').action(ArgAction::Append))
        .arg(Arg::new("core").long("core").value_parser(value_parser!(u32)))
        .arg(Arg::new("rate").long("rate").conflicts_with("batch"))
        .arg(Arg::new("batch").long("batch"))
        .arg(Arg::new("arrivals").long("arrivals").requires("rate"))
        .arg(Arg::new("a").long("a"))
        .arg(Arg::new("b").long("b"))
        .group(ArgGroup::new("one").args(["a", "b"]))
        .arg(Arg::new("permit").long("permit").action(ArgAction::SetTrue))
        .subcommand(run);
    command(program, &RULES)
}

const RULES: Rules = Rules { files: true, by_hand: &["permit"] };

/// Files by their names below a directory of their own.
struct Machine {
    dir: PathBuf,
    environment: Vec<(String, String)>,
}

impl Machine {
    fn new(files: &[(&str, &str)]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = env::temp_dir().join(format!("conventions-{}-{number}", process::id()));
        for (name, text) in files {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, text).expect("a file");
        }
        Self { dir, environment: Vec::new() }
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    fn run(&self, line: &str) -> Result<Resolved, Stop> {
        let argv = line.split_whitespace().map(Into::into).collect();
        let (environment, dir) = (self.environment.clone(), self.dir.clone());
        resolve(&program(), &RULES, &Given { argv, environment, dir })
    }

    /// The value of a root option, as text.
    fn value(&self, line: &str, id: &str) -> Option<String> {
        let resolved = self.run(line).expect("understood");
        let raw = resolved.matches.get_raw(id)?;
        let all: Vec<_> = raw.map(|value| value.to_string_lossy().into_owned()).collect();
        Some(all.join(" "))
    }

    /// The line that refuses it, without the directory's name.
    fn refused(&self, line: &str) -> String {
        match self.run(line).expect_err("refused") {
            Stop::Wrong(line) | Stop::Missing(line) => self.short(&line),
            Stop::Clap(error) => error.to_string(),
            Stop::Generate(_) => panic!("nothing was asked for"),
        }
    }

    fn short(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.dir.display()), "")
    }

    fn printed(&self, line: &str) -> String {
        let resolved = self.run(line).expect("understood");
        self.short(&print::text(&program(), &resolved))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn without_a_file_nothing_is_different() {
    let machine = Machine::new(&[]);
    for line in ["x-y", "x-y --queue-depth 7 -q -LL", "x-y run FILE --listen a --name b"] {
        let layered = machine.run(line).expect("understood").matches;
        let plain = program().try_get_matches_from(line.split(' ')).expect("understood");
        let shown = |matches: &ArgMatches| -> Vec<String> {
            let ids = ["the_depth", "quiet", "only", "core", "rate"];
            let raw = |id| format!("{:?} {:?}", matches.get_raw(id), matches.value_source(id));
            ids.into_iter().map(raw).collect()
        };
        assert_eq!(shown(&layered), shown(&plain), "{line}");
        assert_eq!(layered.subcommand_name(), plain.subcommand_name());
        assert_eq!(layered.get_count("latency"), plain.get_count("latency"));
    }
}

#[test]
fn a_usage_error_is_claps_own() {
    let machine = Machine::new(&[]);
    for line in ["x-y --nothing", "x-y run", "x-y --queue-depth 0", "x-y --rate 1 --batch 2"] {
        let plain = program().try_get_matches_from(line.split(' ')).expect_err("refused");
        let Stop::Clap(error) = machine.run(line).expect_err("refused") else { panic!("{line}") };
        assert_eq!(error.kind(), plain.kind(), "{line}");
    }
    let Stop::Clap(help) = machine.run("x-y run --help").expect_err("help") else { panic!() };
    assert!(!help.use_stderr());
    let Stop::Clap(help) = machine.run("x-y -h").expect_err("help") else { panic!() };
    let plain = program().try_get_matches_from(["x-y", "-h"]).expect_err("help");
    assert_eq!(help.to_string(), plain.to_string(), "switches are shown without a value");
}

#[test]
fn flags_go_over_environment_over_drop_ins_over_the_file() {
    let files = [
        ("x-y.toml", "queue_depth = 1\nrate = \"1k\"\nonly = [\"a\", \"b\"]\nlatency = 2"),
        ("x-y.toml.d/20-b.toml", "queue_depth = 3"),
        ("x-y.toml.d/10-a.toml", "queue_depth = 2\ncore = 4"),
        ("x-y.toml.d/30-c.toml.off", "queue_depth = 9"),
    ];
    let machine = Machine::new(&files);
    let depth = |machine: &Machine, line: &str| machine.value(line, "the_depth").expect("one");
    assert_eq!(depth(&machine, "x-y"), "3");
    assert_eq!(machine.value("x-y", "core").as_deref(), Some("4"));
    assert_eq!(machine.value("x-y", "only").as_deref(), Some("a b"));
    assert_eq!(machine.value("x-y --only c", "only").as_deref(), Some("c"));
    assert_eq!(machine.run("x-y").expect("understood").matches.get_count("latency"), 2);
    assert_eq!(machine.run("x-y -L").expect("understood").matches.get_count("latency"), 1);
    let machine = machine.with("HYBRID_X_Y_QUEUE_DEPTH", "5").with("HYBRID_X_Y_ONLY", "d,e");
    assert_eq!(depth(&machine, "x-y"), "5");
    assert_eq!(machine.value("x-y", "only").as_deref(), Some("d e"));
    assert_eq!(depth(&machine, "x-y --queue-depth 6"), "6");
    // What a file says is a default: the program's own checks of flags ask the command line.
    let matches = machine.run("x-y").expect("understood").matches;
    assert_eq!(matches.value_source("the_depth"), Some(ValueSource::DefaultValue));
}

#[test]
fn a_named_file_replaces_the_usual_ones_and_has_to_be_there() {
    let files = [
        ("x-y.toml", "queue_depth = 1"),
        ("other.toml", "core = 1"),
        ("other.toml.d/1.toml", "core = 2"),
    ];
    let machine = Machine::new(&files);
    let line = format!("x-y --config {}/other.toml", machine.dir.display());
    assert_eq!(machine.value(&line, "core").as_deref(), Some("2"));
    assert_eq!(machine.value(&line, "the_depth").as_deref(), Some("32"));
    assert_eq!(machine.value("x-y --config /dev/null", "the_depth").as_deref(), Some("32"));
    let line = format!("x-y --config {}/none.toml", machine.dir.display());
    assert!(matches!(machine.run(&line), Err(Stop::Missing(_))));
    assert_eq!(machine.refused(&line), "none.toml is not there; --config names a file that is");
}

#[test]
fn switches_are_taken_back_by_hand() {
    let machine = Machine::new(&[("x-y.toml", "quiet = true")]);
    let quiet = |line: &str| machine.run(line).expect("understood").matches.get_flag("quiet");
    assert!(quiet("x-y") && quiet("x-y -q") && quiet("x-y -qL"));
    assert!(!quiet("x-y --quiet=false"));
    let machine = machine.with("HYBRID_X_Y_QUIET", "0");
    assert!(!machine.run("x-y").expect("understood").matches.get_flag("quiet"));
}

#[test]
fn tables_are_for_their_command_and_keys_on_top_for_all() {
    let text = "core = 1\nqueue_depth = 2\n[run]\nlisten = \"here\"\nname = \"n\"\ncore = 3\n";
    let machine = Machine::new(&[("x-y.toml", text), ("x-y.toml.d/1.toml", "core = 4")]);
    let run = machine.run("x-y run FILE").expect("the file has what is required");
    let below = run.matches.subcommand_matches("run").expect("run");
    assert_eq!(below.get_one::<String>("listen").map(String::as_str), Some("here"));
    // The later file goes over the earlier one, whatever table.
    assert_eq!(below.get_one::<u32>("core"), Some(&4));
    assert_eq!(machine.value("x-y", "core").as_deref(), Some("4"));
    let one = Machine::new(&[("x-y.toml", text)]);
    let run = one.run("x-y run FILE").expect("understood");
    let below = run.matches.subcommand_matches("run").expect("run");
    assert_eq!(below.get_one::<u32>("core"), Some(&3), "within one, the command's own");
}

#[test]
fn a_file_may_choose_the_command() {
    let text = "command = \"run\"\n[run]\nlisten = \"here\"\nname = \"n\"\n";
    let machine = Machine::new(&[("x-y.toml", text)]);
    for line in ["x-y FILE", "x-y --core 3 FILE", "x-y run FILE"] {
        assert_eq!(machine.run(line).expect("understood").chain, ["run"], "{line}");
    }
    let wrong = Machine::new(&[("x-y.toml", "\ncommand = \"rum\"")]);
    assert_eq!(wrong.refused("x-y"), "x-y.toml:2: x-y has no command rum; the nearest is run");
}

#[test]
fn mistakes_are_told_with_their_line_and_the_nearest_key() {
    let cases = [
        (
            "queue-depth = 4",
            "x-y.toml:1: x-y has no option queue-depth; the nearest is queue_depth",
        ),
        (
            "\n\nqueue_dept = 4",
            "x-y.toml:3: x-y has no option queue_dept; the nearest is queue_depth",
        ),
        ("[run]\nquiet = true", "x-y.toml:2: x-y run has no option quiet; the nearest is listen"),
        ("[rum]\n", "x-y.toml:1: x-y has no command rum; the nearest is run"),
        ("FILE = \"x\"", "x-y.toml:1: x-y has no option FILE; the nearest is name"),
        ("help = true", "x-y.toml:1: x-y has no option help; the nearest is only"),
        ("config = \"x\"", "x-y.toml:1: x-y has no option config; the nearest is core"),
        (
            "core = 1\nqueue_depth = 0",
            "x-y.toml:2: queue_depth: invalid value '0' for '--queue-depth <the_depth>': \
             0 is not in 1..=1023",
        ),
        ("quiet = 1", "x-y.toml:1: quiet is a switch; allowed are true and false"),
        ("core = [1, 2]", "x-y.toml:1: core takes one value, and this is an array"),
        ("latency = 300", "x-y.toml:1: latency: \"300\" is no count; allowed are 0 to 255"),
        (
            "core = 1979-05-27",
            "x-y.toml:1: core is a date; allowed are text, numbers, true, false, and arrays of \
             them",
        ),
        (
            "permit = true",
            "x-y.toml:1: permit is a permission, which is given by hand each time: --permit",
        ),
        ("core = 1\ncore = 2", "x-y.toml:2: duplicate key"),
        ("a b", "x-y.toml:1: key with no value, expected `=`"),
    ];
    for (text, line) in cases {
        let machine = Machine::new(&[("x-y.toml", text)]);
        let seen = machine.refused("x-y");
        assert_eq!(seen, line);
        // A mistake in a file is one for every command.
        assert_eq!(machine.refused("x-y run FILE --listen a --name b"), seen);
    }
    let machine = Machine::new(&[]).with("HYBRID_X_Y_QUEUE_DEPT", "1");
    let line = "$HYBRID_X_Y_QUEUE_DEPT: x-y has no option queue_dept; the nearest is queue_depth";
    assert_eq!(machine.refused("x-y"), line);
    let machine = Machine::new(&[]).with("HYBRID_X_Y_QUIET", "maybe");
    assert!(machine.refused("x-y").ends_with("allowed are true, false, 1 and 0"));
    let machine = Machine::new(&[]).with("HYBRID_X_Y_PERMIT", "1");
    assert!(machine.refused("x-y").contains("is a permission"));
}

#[test]
fn what_cannot_stand_beside_a_flag_gives_way() {
    let machine = Machine::new(&[("x-y.toml", "batch = 9\na = 1")]);
    assert_eq!(machine.value("x-y", "batch").as_deref(), Some("9"));
    assert_eq!(machine.value("x-y --rate 1k", "batch"), None);
    assert_eq!(machine.value("x-y --rate 1k", "a").as_deref(), Some("1"));
    assert_eq!(machine.value("x-y --b 2", "a"), None, "a group's one");
    // A later source goes over an earlier one in the same way.
    let later = Machine::new(&[("x-y.toml", "batch = 9"), ("x-y.toml.d/1.toml", "rate = 1")]);
    assert_eq!(later.value("x-y", "batch"), None);
    assert_eq!(later.value("x-y", "rate").as_deref(), Some("1"));
    let later = Machine::new(&[("x-y.toml", "batch = 9")]).with("HYBRID_X_Y_RATE", "1");
    assert_eq!(later.value("x-y", "batch"), None);
}

#[test]
fn one_file_that_contradicts_itself_is_refused() {
    let machine = Machine::new(&[("x-y.toml", "rate = 1\nbatch = 9")]);
    let line = machine.refused("x-y");
    assert!(line.starts_with("x-y.toml:2: batch contradicts rate of x-y.toml:1: "), "{line}");
    // By hand it is settled.
    assert_eq!(machine.value("x-y --rate 2", "batch"), None);
}

#[test]
fn what_needs_another_option_waits_for_it() {
    let machine = Machine::new(&[("x-y.toml", "arrivals = \"fixed\"")]);
    assert_eq!(machine.value("x-y", "arrivals"), None);
    assert_eq!(machine.value("x-y --rate 1", "arrivals").as_deref(), Some("fixed"));
    let both = Machine::new(&[("x-y.toml", "arrivals = \"fixed\"\nrate = 1")]);
    assert_eq!(both.value("x-y", "arrivals").as_deref(), Some("fixed"));
}

#[test]
fn print_config_names_each_origin_and_is_a_file_that_says_the_same() {
    let text = "rate = \"1k\"\nonly = [\"a\", \"b\\\"\"]\nquiet = true\nlatency = 2\nbatch = 9";
    let files =
        [("x-y.toml", "batch = 9"), ("x-y.toml.d/1.toml", &text.replace("\nbatch = 9", ""))];
    let machine = Machine::new(&files).with("HYBRID_X_Y_CORE", "3");
    let printed = machine.printed("x-y --queue-depth 7 --print-config");
    let expected = "\
# x-y: each option, and where its value comes from
# file: x-y.toml
# file: x-y.toml.d
# file: x-y.toml.d/1.toml
queue_depth = 7                              # --queue-depth
quiet = true                                 # x-y.toml.d/1.toml:3
latency = 2                                  # x-y.toml.d/1.toml:4
only = [\"a\", \"b\\\"\"]                          # x-y.toml.d/1.toml:2
core = 3                                     # $HYBRID_X_Y_CORE
rate = \"1k\"                                  # x-y.toml.d/1.toml:1
#batch =                                     # not set
#batch = 9                                   # x-y.toml:1, not used: the argument \
'--batch <batch>' cannot be used with '--rate <rate>'
#arrivals =                                  # not set
#a =                                         # not set
#b =                                         # not set
permit = false                               # default
";
    assert_eq!(printed.replace(" (not there)", ""), expected);
    // As a file, without the permission's line, it says the same.
    let again = printed.lines().filter(|line| !line.starts_with("permit"));
    let again = Machine::new(&[("x-y.toml", &again.collect::<Vec<_>>().join("\n"))]);
    for id in ["the_depth", "only", "core", "rate", "quiet", "batch"] {
        let line = "x-y --queue-depth 7 --print-config";
        assert_eq!(again.value("x-y", id), machine.value(line, id), "{id}");
    }
}

#[test]
fn print_config_shows_a_command_that_lacks_something() {
    let machine = Machine::new(&[("x-y.toml", "[run]\ncore = 1")]);
    let printed = machine.printed("x-y run --print-config");
    assert!(printed.contains("\n[run]\n"), "{printed}");
    assert!(printed.contains("core = 1                                     # x-y.toml:2\n"));
    assert!(printed.contains("#listen =                                    # not set\n"));
}

#[test]
fn pages_and_completions_come_out_of_the_definitions() {
    let machine = Machine::new(&[]);
    let given = |dir: &Path| format!("x-y --generate {}", dir.display());
    let asked = machine.run(&given(&machine.dir)).expect_err("no run");
    assert!(matches!(asked, Stop::Generate(dir) if dir == machine.dir));
    let about = "Exit codes: 0 ok, 1 error.\n\nMore.\n\nExamples:\n  x-y --core 1\n  x-y";
    let program = program().about("Does x. Or y.").version("1.2").after_help(about);
    let written = generate(&program, &RULES, &machine.dir).expect("written");
    let names = machine.short(&written.to_string());
    assert_eq!(
        names,
        "man/man1/x-y.1\nman/man1/x-y-run.1\nbash-completion/completions/x-y\n\
         zsh/site-functions/_x-y\nfish/vendor_completions.d/x-y.fish\n"
    );
    let page = fs::read_to_string(&written.0[0]).expect("a page");
    for part in [
        ".TH x-y 1  \"hybrid-runtime 1.2\" hybrid-runtime",
        ".SH \"EXIT STATUS\"\n0 ok, 1 error.",
        ".SH NOTES\nMore.",
        ".SH EXAMPLES\n.nf\n  x\\-y \\-\\-core 1\n  x\\-y\n.fi",
        "\\fB\\-\\-queue\\-depth\\fR",
        "/etc/hybrid\\-runtime/x\\-y.toml",
        "HYBRID_X_Y_<OPTION>",
    ] {
        assert!(page.contains(part), "{part}\n{page}");
    }
    assert!(!page.contains("EXTRA"));
}
