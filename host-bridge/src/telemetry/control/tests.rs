//! What strangers say is answered with a named error, and never with more.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};

use core_runtime::clock::{Clock, rdtsc};
use serde_json::json;

use super::session::LINE_BYTES;
use super::*;
use crate::testing::TempDir;

#[derive(Debug)]
struct Echo;

impl Methods for Echo {
    fn names(&self) -> &[&'static str] {
        &["echo_say"]
    }

    fn call(&self, _method: &str, params: &Value) -> Result<Value, RpcError> {
        match params {
            Value::Null => Err(RpcError::params("say something")),
            said => Ok(said.clone()),
        }
    }
}

fn socket(dir: &TempDir) -> (Telemetry, ControlSocket) {
    let telemetry = Telemetry::new(Clock::tsc(1_000_000_000));
    telemetry.add_methods(Echo);
    let socket = ControlSocket::start(&telemetry, dir.path(), "tester").expect("a socket");
    (telemetry, socket)
}

fn ask(stream: &UnixStream, line: &[u8]) -> Value {
    let mut writer = stream;
    writer.write_all(line).and_then(|()| writer.write_all(b"\n")).expect("sent");
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).expect("an answer");
    serde_json::from_str(&answer).expect("JSON")
}

fn call(stream: &UnixStream, method: &str, params: Value) -> Value {
    let request = json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params });
    let answer = ask(stream, request.to_string().as_bytes());
    assert_eq!((&answer["jsonrpc"], &answer["id"]), (&json!("2.0"), &json!(7)));
    answer
}

#[test]
fn a_client_learns_what_it_may_ask_and_asks_it() {
    let dir = TempDir::new("control");
    let (telemetry, socket) = socket(&dir);
    let stream = UnixStream::connect(socket.path()).expect("a client");
    let methods = call(&stream, "rpc_get_methods", json!({}));
    let names: Vec<_> = methods["result"].as_array().expect("names").iter().collect();
    assert!(names.contains(&&json!("statistics_get")) && names.contains(&&json!("echo_say")));
    let info = call(&stream, "host_get_info", Value::Null);
    assert_eq!(info["result"]["program"], "tester");
    assert_eq!(info["result"]["pid"], std::process::id());
    assert_eq!(call(&stream, "partition_list", json!({}))["result"], json!([]));
    assert_eq!(call(&stream, "echo_say", json!([1]))["result"], json!([1]));
    for (method, code) in [
        ("partition_restart", rpc::INVALID_PARAMS),
        ("partition_get_region", rpc::INVALID_PARAMS),
        ("echo_say", rpc::INVALID_PARAMS),
        ("echo", rpc::METHOD_NOT_FOUND),
    ] {
        let answer = call(&stream, method, Value::Null);
        assert_eq!(answer["error"]["code"], code, "{answer}");
    }
    let nobody = call(&stream, "statistics_get", json!({ "partition": "feed" }));
    assert_eq!(nobody["error"]["code"], rpc::NOT_FOUND, "{nobody}");
    drop(telemetry);
    let (path, parent) = (socket.path(), socket.dir.clone());
    drop(socket);
    assert!(!path.exists() && !parent.exists(), "it cleans up, whoever is connected");
}

#[test]
fn what_is_no_request_is_told_so_by_name() {
    let dir = TempDir::new("hostile");
    let (_telemetry, socket) = socket(&dir);
    let stream = UnixStream::connect(socket.path()).expect("a client");
    let deep = "[".repeat(3000);
    for (line, code) in [
        ("", rpc::PARSE_ERROR),
        ("\u{0}\u{1}", rpc::PARSE_ERROR),
        ("{", rpc::PARSE_ERROR),
        (deep.as_str(), rpc::PARSE_ERROR),
        ("[]", rpc::INVALID_REQUEST),
        ("7", rpc::INVALID_REQUEST),
        ("{\"method\":\"rpc_get_methods\"}", rpc::INVALID_REQUEST),
        ("{\"jsonrpc\":\"1.0\",\"method\":\"partition_list\"}", rpc::INVALID_REQUEST),
        ("{\"jsonrpc\":\"2.0\",\"id\":{},\"method\":\"partition_list\"}", rpc::INVALID_REQUEST),
        ("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":7}", rpc::INVALID_REQUEST),
        ("{\"jsonrpc\":\"2.0\",\"method\":\"../../etc\"}", rpc::METHOD_NOT_FOUND),
        (
            "{\"jsonrpc\":\"2.0\",\"method\":\"partition_list\",\"params\":{\"x\":1}}",
            rpc::INVALID_PARAMS,
        ),
        ("{\"jsonrpc\":\"2.0\",\"method\":\"partition_list\",\"params\":[1]}", rpc::INVALID_PARAMS),
        (
            "{\"jsonrpc\":\"2.0\",\"method\":\"statistics_get\",\"params\":{\"partition\":1}}",
            rpc::INVALID_PARAMS,
        ),
    ] {
        let answer = ask(&stream, line.as_bytes());
        assert_eq!(answer["error"]["code"], code, "{line:?}: {answer}");
        assert!(answer["error"]["message"].as_str().is_some_and(|said| said.len() < 2000));
    }
}

#[test]
fn random_damage_to_a_request_never_ends_the_conversation() {
    let dir = TempDir::new("fuzz");
    let (_telemetry, socket) = socket(&dir);
    let stream = UnixStream::connect(socket.path()).expect("a client");
    let good = json!({
        "jsonrpc": "2.0", "id": 1, "method": "statistics_get", "params": { "partition": "feed" },
    });
    let good = good.to_string().into_bytes();
    let seed = rdtsc();
    let mut random = seed | 1;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    for _ in 0..2_000 {
        let mut line = good.clone();
        for _ in 0..next() % 6 {
            let at = usize::try_from(next() % line.len() as u64).expect("small");
            match next() % 3 {
                0 => line[at] = next().to_le_bytes()[0],
                1 => drop(line.remove(at)),
                _ => line.insert(at, next().to_le_bytes()[0]),
            }
        }
        // A newline would be two requests.
        line.iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = b' ');
        let answer = ask(&stream, &line);
        // Damage to a name that may be missing leaves a request for the figures of nobody.
        let answered =
            answer["error"]["code"].is_i64() || answer["result"]["partitions"] == json!([]);
        assert!(answered, "seed {seed:#x}: {answer}");
    }
}

#[test]
fn too_much_is_refused_and_ends_that_client_alone() {
    let dir = TempDir::new("too-much");
    let (_telemetry, socket) = socket(&dir);
    let mut loud = UnixStream::connect(socket.path()).expect("a client");
    loud.write_all(&vec![b'a'; LINE_BYTES]).expect("sent");
    let mut said = String::new();
    loud.read_to_string(&mut said).expect("its end");
    assert!(said.contains("at most 4096 bytes"), "{said}");
    let many: Vec<_> =
        (0..CLIENTS).map(|_| UnixStream::connect(socket.path()).expect("a client")).collect();
    for one in &many {
        assert_eq!(call(one, "partition_list", json!({}))["result"], json!([]));
    }
    let mut late = UnixStream::connect(socket.path()).expect("a client");
    let mut said = String::new();
    late.read_to_string(&mut said).expect("its end");
    assert!(said.contains("16 clients already"), "{said}");
}

#[test]
fn directories_of_dead_hosts_are_removed_and_others_stay() {
    let dir = TempDir::new("stale");
    // No process has this number: the kernel's limit is 2^22.
    dir.write("4294967295/control.sock", "");
    dir.write("notes/mine", "");
    let (_telemetry, _socket) = socket(&dir);
    assert!(!dir.path().join("4294967295").exists());
    assert!(dir.path().join("notes/mine").exists());
}

#[test]
fn the_directory_is_roots_or_the_users_own() {
    let xdg = Path::new("/run/user/7");
    assert_eq!(run_dir(true, Some(xdg)), Some("/run/hybrid-runtime".into()));
    assert_eq!(run_dir(false, Some(xdg)), Some("/run/user/7/hybrid-runtime".into()));
    assert_eq!(run_dir(false, Some(Path::new("relative"))), None);
    assert_eq!(run_dir(false, None), None);
}
