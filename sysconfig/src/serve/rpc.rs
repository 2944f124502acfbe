//! The helper's requests: one line of JSON-RPC 2.0, checked against the config, done, answered.
//!
//! Called by [`super::session`] with a line of a peer that may ask. Everything that a request may
//! name is a number or an address that is parsed here and looked up in the config: no path comes
//! from outside. It logs nothing and knows no socket, so that tests can ask it directly.

use hybrid_conventions::{Bdf, CpuSet, Exit};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::config::{Config, Verb};
use crate::device::bind::{self, BindError};
use crate::device::pci::Function;
use crate::device::tree::Tree;

/// JSON-RPC's own codes, and ours below -32000.
pub(crate) const PARSE_ERROR: i32 = -32700;
pub(crate) const INVALID_REQUEST: i32 = -32600;
pub(crate) const METHOD_NOT_FOUND: i32 = -32601;
pub(crate) const INVALID_PARAMS: i32 = -32602;
/// The config does not list it.
pub(crate) const NOT_LISTED: i32 = -32001;
/// It was tried, and failed; `data.exit` is the exit code that says how.
pub(crate) const FAILED: i32 = -32002;

/// What a client may call.
pub(crate) const METHODS: [&str; 5] =
    ["device_bind", "device_list", "device_unbind", "irq_set_affinity", "rpc_get_methods"];

/// A request, after its form was checked.
#[derive(Debug, Deserialize)]
struct Request {
    jsonrpc: String,
    #[serde(default)]
    id: Value,
    method: String,
    #[serde(default)]
    params: Value,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceParams {
    bdf: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct IrqParams {
    irq: u32,
    cpus: String,
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct RpcError {
    pub(crate) code: i32,
    pub(crate) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<Value>,
}

/// The answer's line, and what the log says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) line: String,
    pub(crate) log: String,
}

impl RpcError {
    pub(crate) fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }
}

impl From<BindError> for RpcError {
    fn from(error: BindError) -> Self {
        let exit = match error.exit() {
            Exit::Missing => 3,
            _ => 1,
        };
        Self { code: FAILED, message: error.to_string(), data: Some(json!({ "exit": exit })) }
    }
}

/// Answers one line.
pub(crate) fn answer(tree: &dyn Tree, config: &Config, line: &[u8]) -> Answer {
    let (id, what, result) = match understand(line) {
        Ok(request) => {
            let result = call(tree, config, &request);
            (request.id.clone(), describe(&request), result)
        }
        Err(error) => (Value::Null, "a request that is none".to_owned(), Err(error)),
    };
    respond(&id, &what, result)
}

/// Wraps a result or an error for the wire and for the log.
pub(crate) fn respond(id: &Value, what: &str, result: Result<Value, RpcError>) -> Answer {
    let (line, said) = match result {
        Ok(result) => (json!({ "jsonrpc": "2.0", "id": id, "result": result }), "done".to_owned()),
        Err(error) => {
            let said = format!("refused ({}): {}", error.code, error.message.escape_debug());
            (json!({ "jsonrpc": "2.0", "id": id, "error": error }), said)
        }
    };
    Answer { line: format!("{line}\n"), log: format!("{what}: {said}") }
}

fn understand(line: &[u8]) -> Result<Request, RpcError> {
    let value: Value = serde_json::from_slice(line)
        .map_err(|error| RpcError::new(PARSE_ERROR, format!("not JSON: {error}")))?;
    let request: Request = serde_json::from_value(value)
        .map_err(|error| RpcError::new(INVALID_REQUEST, format!("not a request: {error}")))?;
    let simple = matches!(request.id, Value::Null | Value::Number(_) | Value::String(_));
    if request.jsonrpc != "2.0" || !simple {
        let message = "a request has jsonrpc \"2.0\" and an id that is a number or a string";
        return Err(RpcError::new(INVALID_REQUEST, message));
    }
    Ok(request)
}

/// Method and parameters for the log: what a stranger wrote is escaped and cut.
fn describe(request: &Request) -> String {
    let params = match &request.params {
        Value::Null => String::new(),
        params => format!(" {params}"),
    };
    let all = format!("{}{params}", request.method);
    let cut: String = all.chars().take(120).collect();
    cut.escape_debug().to_string()
}

fn call(tree: &dyn Tree, config: &Config, request: &Request) -> Result<Value, RpcError> {
    match request.method.as_str() {
        "rpc_get_methods" => Ok(json!(METHODS)),
        "device_list" => Ok(device_list(tree, config)),
        "device_bind" => device_bind(tree, config, listed(config, &request.params, Verb::Bind)?),
        "device_unbind" => {
            let bdf = listed(config, &request.params, Verb::Unbind)?;
            let driver = bind::unbind(tree, bdf)?;
            let nodes = give_nodes(tree, config, bdf)?;
            Ok(json!({ "bdf": bdf.to_string(), "driver": driver, "nodes": nodes }))
        }
        "irq_set_affinity" => irq_set_affinity(tree, config, &request.params),
        _ => Err(RpcError::new(
            METHOD_NOT_FOUND,
            format!("there is no such method; there are {}", METHODS.join(", ")),
        )),
    }
}

fn params<T: for<'de> Deserialize<'de>>(params: &Value) -> Result<T, RpcError> {
    T::deserialize(params)
        .map_err(|error| RpcError::new(INVALID_PARAMS, format!("parameters: {error}")))
}

/// The device that the parameters name, if the config lists it with this verb.
fn listed(config: &Config, given: &Value, verb: Verb) -> Result<Bdf, RpcError> {
    let given: DeviceParams = params(given)?;
    let bdf: Bdf =
        given.bdf.parse().map_err(|error| RpcError::new(INVALID_PARAMS, format!("{error}")))?;
    let device = config.devices.iter().find(|listed| listed.bdf == bdf);
    let allowed = device.is_some_and(|device| device.verbs.contains(&verb));
    let word = match verb {
        Verb::Bind => "bind",
        Verb::Unbind => "unbind",
        Verb::Nodes => "nodes",
    };
    let message = || format!("{bdf} is not listed for {word} in the helper's config");
    if allowed { Ok(bdf) } else { Err(RpcError::new(NOT_LISTED, message())) }
}

fn device_list(tree: &dyn Tree, config: &Config) -> Value {
    let rows = config.devices.iter().map(|listed| {
        let function = Function::read(tree, listed.bdf);
        let (driver, group) =
            function.as_ref().map_or((None, None), |f| (f.driver.clone(), f.group));
        json!({
            "bdf": listed.bdf.to_string(),
            "there": function.is_some(),
            "driver": driver,
            "iommu_group": group,
            "bind": listed.verbs.contains(&Verb::Bind),
            "unbind": listed.verbs.contains(&Verb::Unbind),
            "nodes": listed.verbs.contains(&Verb::Nodes),
        })
    });
    Value::Array(rows.collect())
}

/// Binds, and gives the nodes to the config's group. A disk in use is never forced.
fn device_bind(tree: &dyn Tree, config: &Config, bdf: Bdf) -> Result<Value, RpcError> {
    let bound = bind::bind(tree, bdf, false)?;
    if let Some(gid) = config.gid {
        for node in &bound.nodes {
            tree.give_to_group(node, gid).map_err(|error| {
                RpcError::new(FAILED, format!("{node} cannot be given to group {gid}: {error}"))
            })?;
        }
    }
    Ok(json!({
        "bdf": bdf.to_string(),
        "driver": bind::VFIO,
        "iommu_group": bound.group,
        "nodes": bound.nodes,
    }))
}

/// Gives what the kernel has made of a drive to the config's group, where the config says so, for
/// programs that go on with it there. Which nodes were given.
fn give_nodes(tree: &dyn Tree, config: &Config, bdf: Bdf) -> Result<Vec<String>, RpcError> {
    let listed = config.devices.iter().find(|listed| listed.bdf == bdf);
    let wanted = listed.is_some_and(|listed| listed.verbs.contains(&Verb::Nodes));
    let Some(gid) = config.gid.filter(|_| wanted) else { return Ok(Vec::new()) };
    let nodes = bind::kernel_nodes(tree, bdf);
    for node in &nodes {
        tree.give_to_group(node, gid).map_err(|error| {
            RpcError::new(FAILED, format!("{node} cannot be given to group {gid}: {error}"))
        })?;
    }
    Ok(nodes)
}

/// Moves an interrupt. A managed one cannot be moved: that is an answer, not a failure.
fn irq_set_affinity(tree: &dyn Tree, config: &Config, given: &Value) -> Result<Value, RpcError> {
    let given: IrqParams = params(given)?;
    let cpus: CpuSet =
        given.cpus.parse().map_err(|error| RpcError::new(INVALID_PARAMS, format!("{error}")))?;
    if cpus.is_empty() || !cpus.is_subset(&config.irq_cpus) {
        let message = format!("interrupts may be moved to {}, not to {cpus}", config.irq_cpus);
        return Err(RpcError::new(NOT_LISTED, message));
    }
    let path = format!("/proc/irq/{}/smp_affinity_list", given.irq);
    if !tree.exists(&path) {
        let message = format!("there is no interrupt {}", given.irq);
        return Err(RpcError {
            data: Some(json!({ "exit": 3 })),
            ..RpcError::new(FAILED, message)
        });
    }
    match tree.write(&path, &format!("{cpus}\n")) {
        Ok(()) => Ok(json!({ "irq": given.irq, "cpus": cpus.to_string(), "moved": true })),
        Err(error) if error.raw_os_error() == Some(libc::EIO) => {
            let why = "the kernel manages this interrupt and does not let it be moved";
            Ok(json!({ "irq": given.irq, "moved": false, "because": why }))
        }
        Err(error) => Err(RpcError::new(FAILED, format!("{path}: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::Listed;
    use super::*;
    use crate::device::fake::FakeKernel;

    fn config(verbs: &[Verb]) -> Config {
        Config {
            socket: "/run/x".into(),
            mode: 0o660,
            gid: Some(980),
            uids: vec![990],
            gids: Vec::new(),
            devices: vec![Listed {
                bdf: "0000:03:00.0".parse().expect("an address"),
                verbs: verbs.to_vec(),
            }],
            irq_cpus: "0-1".parse().expect("a set"),
        }
    }

    fn ask(kernel: &FakeKernel, config: &Config, line: &str) -> Value {
        let answer = answer(kernel, config, line.as_bytes());
        assert!(answer.line.ends_with('\n') && !answer.log.contains('\n'));
        let value: Value = serde_json::from_str(&answer.line).expect("JSON");
        assert_eq!(value["jsonrpc"], "2.0");
        value
    }

    fn request(method: &str, params: Value) -> String {
        json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params }).to_string()
    }

    #[test]
    fn a_listed_drive_is_bound_given_to_the_group_and_given_back() {
        let (kernel, config) = (FakeKernel::with_drive(), config(&[Verb::Bind, Verb::Unbind]));
        let bdf = json!({ "bdf": "03:00.0" });
        let said = ask(&kernel, &config, &request("device_bind", bdf.clone()));
        assert_eq!(
            said,
            json!({ "jsonrpc": "2.0", "id": 7, "result": {
                "bdf": "0000:03:00.0", "driver": "vfio-pci", "iommu_group": 7,
                "nodes": ["/dev/vfio/7"] } })
        );
        assert!(kernel.writes.borrow().contains(&"/dev/vfio/7 = group 980".to_owned()));
        let said = ask(&kernel, &config, &request("device_list", Value::Null));
        assert_eq!(said["result"][0]["driver"], "vfio-pci");
        let said = ask(&kernel, &config, &request("device_unbind", bdf));
        assert_eq!(said["result"]["driver"], "nvme");
        assert_eq!(said["result"]["nodes"], json!([]), "nobody asked for them");
    }

    #[test]
    fn what_the_kernel_makes_of_a_drive_goes_to_the_group_where_the_config_says_so() {
        let kernel = FakeKernel::with_drive();
        let config = config(&[Verb::Bind, Verb::Unbind, Verb::Nodes]);
        let bdf = json!({ "bdf": "03:00.0" });
        ask(&kernel, &config, &request("device_bind", bdf.clone()));
        kernel.file("/sys/class/nvme-generic/ng0n1/dev", "240:0\n");
        kernel.file("/dev/nvme0n1", "");
        // It comes some looks after the disk's.
        let late = (3, "/dev/ng0n1".to_owned(), String::new());
        kernel.later.borrow_mut().push(late);
        kernel.pauses.set(0);
        let said = ask(&kernel, &config, &request("device_unbind", bdf));
        assert_eq!(said["result"]["nodes"], json!(["/dev/nvme0n1", "/dev/ng0n1"]), "{said}");
        let writes = kernel.writes.borrow();
        for node in ["/dev/nvme0n1", "/dev/ng0n1"] {
            assert!(writes.contains(&format!("{node} = group 980")), "{writes:?}");
        }
    }

    #[test]
    fn what_is_not_listed_is_refused_and_nothing_is_written() {
        let kernel = FakeKernel::with_drive();
        kernel.function("0000:04:00.0", "0x010802", Some("nvme"), Some(8));
        for (config, method, bdf) in [
            (config(&[Verb::Bind]), "device_bind", "04:00.0"),
            (config(&[Verb::Bind]), "device_unbind", "03:00.0"),
            (config(&[Verb::Unbind]), "device_bind", "03:00.0"),
            (config(&[]), "device_bind", "0000:03:00.0"),
        ] {
            let said = ask(&kernel, &config, &request(method, json!({ "bdf": bdf })));
            assert_eq!(said["error"]["code"], NOT_LISTED, "{said}");
        }
        assert!(kernel.writes.borrow().is_empty());
    }

    #[test]
    fn a_disk_in_use_is_never_forced() {
        let kernel = FakeKernel::with_drive();
        let gpt = vec![(512, b"EFI PART".to_vec())];
        kernel.disks.borrow_mut().insert("/dev/nvme0n1".to_owned(), gpt);
        let config = config(&[Verb::Bind]);
        let said = ask(&kernel, &config, &request("device_bind", json!({ "bdf": "03:00.0" })));
        assert_eq!(said["error"]["code"], FAILED);
        assert_eq!(said["error"]["data"]["exit"], 1);
        let more = json!({ "bdf": "03:00.0", "force": true });
        let said = ask(&kernel, &config, &request("device_bind", more));
        assert_eq!(said["error"]["code"], INVALID_PARAMS);
        assert!(kernel.writes.borrow().is_empty());
    }

    #[test]
    fn interrupts_go_to_the_listed_cpus_only() {
        let (kernel, config) = (FakeKernel::with_drive(), config(&[]));
        kernel.file("/proc/irq/24/smp_affinity_list", "3\n");
        let ask = |irq: u32, cpus: &str| {
            let params = json!({ "irq": irq, "cpus": cpus });
            ask(&kernel, &config, &request("irq_set_affinity", params))
        };
        assert_eq!(ask(24, "0-1")["result"]["moved"], true);
        assert_eq!(kernel.writes.borrow()[..], ["/proc/irq/24/smp_affinity_list = 0-1"]);
        for cpus in ["2", "0-2", "", "nonsense"] {
            let code = &ask(24, cpus)["error"]["code"];
            assert!(code == NOT_LISTED || code == INVALID_PARAMS, "{cpus:?}: {code}");
        }
        assert_eq!(ask(25, "0")["error"]["data"]["exit"], 3);
        kernel.refuse.replace(Some(("smp_affinity_list".to_owned(), libc::EIO)));
        assert_eq!(ask(24, "0")["result"]["moved"], false);
    }

    #[test]
    fn garbage_gets_an_error_and_never_more() {
        let (kernel, config) = (FakeKernel::with_drive(), config(&[Verb::Bind]));
        let deep = "[".repeat(2_000);
        for (line, code) in [
            ("", PARSE_ERROR),
            ("\u{0}\u{1}", PARSE_ERROR),
            ("{", PARSE_ERROR),
            (deep.as_str(), PARSE_ERROR),
            ("[]", INVALID_REQUEST),
            ("7", INVALID_REQUEST),
            ("{\"jsonrpc\":\"1.0\",\"method\":\"device_list\"}", INVALID_REQUEST),
            ("{\"jsonrpc\":\"2.0\",\"id\":{},\"method\":\"device_list\"}", INVALID_REQUEST),
            ("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"../../etc\"}", METHOD_NOT_FOUND),
            ("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"device_bind\"}", INVALID_PARAMS),
        ] {
            assert_eq!(ask(&kernel, &config, line)["error"]["code"], code, "{line:?}");
        }
        for bdf in ["../../../etc/passwd", "0000:03:00.0/../..", "", "03:00.8", "*"] {
            let said = ask(&kernel, &config, &request("device_bind", json!({ "bdf": bdf })));
            assert_eq!(said["error"]["code"], INVALID_PARAMS, "{bdf}");
        }
        assert!(kernel.writes.borrow().is_empty());
    }

    #[test]
    fn the_log_cannot_be_forged() {
        let (kernel, config) = (FakeKernel::with_drive(), config(&[]));
        let line = request("x\nuid=0 device_bind: done", Value::Null);
        let answer = answer(&kernel, &config, line.as_bytes());
        assert!(answer.log.starts_with("x\\nuid=0 device_bind: done: refused"), "{}", answer.log);
    }
}
