//! The program on a vfio-user server: the model behind a socket, in this process.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use host_bridge::backend::model::{Idle, LatencyModel, ModelConfig, NamespaceConfig};
use host_bridge::vfio_user_server::{ServerOptions, VfioUserServer};

use crate::feeds;
use crate::machine::Machine;
use crate::real_data::same_rows;
use crate::run;
use crate::temp::{TempDir, text};

/// A server with a namespace of `blocks` blocks of `lba_bytes`.
fn server(socket: &Path, blocks: u64, lba_bytes: u32, dstrd: u8) -> VfioUserServer {
    let model = ModelConfig {
        namespaces: vec![NamespaceConfig::memory(1, blocks).lba_bytes(lba_bytes)],
        dstrd,
        ..ModelConfig::default()
    };
    // It shares a processor with the program's host side and with this test.
    let idle = Idle::Yield { after_steps: 64 };
    VfioUserServer::start(socket, ServerOptions { model, idle, ..ServerOptions::default() })
        .expect("a server")
}

#[test]
fn a_replay_over_vfio_user_gives_the_exact_quotes() {
    let name = "a_replay_over_vfio_user_gives_the_exact_quotes";
    let Some(machine) = Machine::of(name) else { return };
    let (dir, feed) = (TempDir::new(), feeds::small());
    let (out, socket) = (dir.path("bbo.csv"), dir.path("cntrl"));
    let device = format!("vfio-user:{}", text(&socket));
    for (lba_bytes, dstrd) in [(4096, 0), (512, 2)] {
        let server = server(&socket, (64 << 20) / u64::from(lba_bytes), lba_bytes, dstrd);
        let args = ["replay", text(&feed), "--device", &device, "--bbo", text(&out)];
        let run = machine.run(&[&args[..], &["--check-silence"]].concat()).ok();
        assert!(run.stdout.contains("0 failed, 0 retried, 0 resets"), "{run:?}");
        let ours = std::fs::read_to_string(&out).expect("the program wrote it");
        same_rows(&ours, &feeds::small_quotes(), &args.join(" "));
        // Another run, another client: the blocks are still there.
        machine.run(&["replay", "--device", &device, "--bbo", text(&out), "--no-probe"]).ok();
        let ours = std::fs::read_to_string(&out).expect("the program wrote it");
        same_rows(&ours, &feeds::small_quotes(), "the second run");
        let list = machine.run(&["list", "--device", &device]).ok();
        assert!(list.stdout.contains(&device), "{list:?}");
        server.stop().expect("the model").assert_no_mistakes();
    }
}

#[test]
fn a_server_that_is_not_there_is_refused_with_the_command_that_starts_one() {
    let dir = TempDir::new();
    let socket = dir.path("nobody");
    let device = format!("vfio-user:{}", text(&socket));
    let words = ["no vfio-user server listens at", "nvme-vfio-user-server --socket"];
    for command in [&["list"][..], &["replay"], &[]] {
        run::start(&[command, &["--device", &device]].concat()).wait().refused(3, &words);
    }
    // What is there is no socket.
    std::fs::write(&socket, b"").expect("a file");
    run::start(&["list", "--device", &device]).wait().refused(1, &["cannot be reached"]);
}

#[test]
fn a_namespace_too_small_for_the_feed_is_refused_before_it_is_written() {
    let name = "a_namespace_too_small_for_the_feed_is_refused_before_it_is_written";
    let Some(machine) = Machine::of(name) else { return };
    let dir = TempDir::new();
    let socket = dir.path("cntrl");
    let device = format!("vfio-user:{}", text(&socket));
    let server = server(&socket, 32, 4096, 0);
    let run = machine.run(&["ingest", text(&feeds::small()), "--device", &device]);
    run.refused(1, &["the feed needs 200704 bytes on the device, the namespace has 131072"]);
    let mut model = server.stop().expect("the model");
    let mut block = [0xff; 4096];
    assert!(model.peek_block(1, 0, &mut block), "block 0 is there");
    assert_eq!(block, [0; 4096], "it was written");
}

#[test]
fn what_a_server_carries_is_overwritten_only_when_asked_to() {
    let name = "what_a_server_carries_is_overwritten_only_when_asked_to";
    let Some(machine) = Machine::of(name) else { return };
    let dir = TempDir::new();
    let (socket, image) = (dir.path("cntrl"), dir.file("foreign.img", &vec![0x55; 4 << 20]));
    let device = format!("vfio-user:{}", text(&socket));
    let namespaces = vec![NamespaceConfig::image(1, image)];
    let model = ModelConfig { namespaces, ..ModelConfig::default() };
    let idle = Idle::Yield { after_steps: 64 };
    let options = ServerOptions { model, idle, ..ServerOptions::default() };
    let server = VfioUserServer::start(&socket, options).expect("a server");
    let feed = feeds::small();
    let ingest = ["ingest", text(&feed), "--device", &device];
    machine.run(&ingest).refused(1, &["no feed of ours", "--allow-writes"]);
    machine.run(&[&ingest[..], &["--allow-writes"]].concat()).ok();
    server.stop().expect("the model").assert_no_mistakes();
}

#[test]
fn a_server_that_never_answers_is_waited_for_as_long_as_was_said() {
    let name = "a_server_that_never_answers_is_waited_for_as_long_as_was_said";
    let Some(machine) = Machine::of(name) else { return };
    let dir = TempDir::new();
    let socket = dir.path("silent");
    // The kernel lets clients in; nobody ever reads what they say.
    let _listener = UnixListener::bind(&socket).expect("a listener");
    let device = format!("vfio-user:{}", text(&socket));
    let time = |limit: &str| {
        let begun = Instant::now();
        let run = machine.run(&["list", "--device", &device, "--vfio-user-timeout", limit]);
        run.refused(1, &[&device, "VERSION: no answer in time"]);
        begun.elapsed()
    };
    // The longer one is beyond the 2 s that are the default.
    let (short, long) = (time("1ms"), time("2100ms"));
    assert!(long >= Duration::from_millis(2_100), "{long:?}");
    assert!(short < long, "{short:?}, {long:?}");
}

#[test]
fn a_server_that_goes_is_waited_for_as_long_as_was_said() {
    let name = "a_server_that_goes_is_waited_for_as_long_as_was_said";
    let Some(machine) = Machine::of(name) else { return };
    let dir = TempDir::new();
    let socket = dir.path("cntrl");
    let device = format!("vfio-user:{}", text(&socket));
    for (limit, ms) in [("0", 0), ("700ms", 700)] {
        let model = ModelConfig {
            namespaces: vec![NamespaceConfig::memory(1, 1 << 16).lba_bytes(4096)],
            // The probe's 20,000 single reads alone take 100 s: it goes while it is needed.
            latency: LatencyModel::FixedNs(5_000_000),
            ..ModelConfig::default()
        };
        let idle = Idle::Yield { after_steps: 64 };
        let options = ServerOptions { model, idle, ..ServerOptions::default() };
        let gauges = options.gauges.clone();
        let server = VfioUserServer::start(&socket, options).expect("a server");
        let args = ["--device", &device, "--vfio-user-reconnect", limit];
        let run = machine.start(&args);
        while gauges.completions() < 100 {
            assert!(run.runs_for(Duration::from_millis(1)), "{}", run.wait().stderr);
        }
        let gone = Instant::now();
        drop(server);
        let run = run.wait();
        let took = gone.elapsed();
        assert_eq!(run.code(), Some(1), "{run:?}");
        let waited = format!("another one is waited for, {ms} ms (--vfio-user-reconnect)");
        assert!(run.warnings().iter().any(|line| line.contains(&waited)), "{run:?}");
        // In the middle of a message or between two: either says so.
        let lost = ["cntrl was lost: ", "the peer closed the connection", "no other server came"];
        run.one_error(&lost);
        // Not longer than the 10 s that are the default.
        assert!((Duration::from_millis(ms)..Duration::from_secs(10)).contains(&took), "{took:?}");
    }
}
