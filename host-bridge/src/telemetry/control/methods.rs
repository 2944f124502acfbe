//! What a client may ask of the host.

use serde_json::{Map, Value, json};

use super::super::statistics::{figures, partition};
use super::super::{Seen, Telemetry};
use super::Host;
use super::rpc::{METHOD_NOT_FOUND, Request, RpcError, shortened};
use crate::supervisor::options::Asked;

/// The host's own methods.
pub(super) const METHODS: [&str; 8] = [
    "host_get_info",
    "partition_drain",
    "partition_get_region",
    "partition_list",
    "partition_restart",
    "rpc_get_methods",
    "statistics_get",
    "statistics_reset",
];

/// The counter of changes of storage.
const FALLBACKS: &str = "hybrid_storage_fallbacks_total";

/// An answer: a value, and the partition whose region goes with it.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) value: Value,
    pub(super) region: Option<Seen>,
}

impl From<Value> for Reply {
    fn from(value: Value) -> Self {
        Self { value, region: None }
    }
}

/// Does what a request asks.
pub(super) fn call(host: &Host, request: &Request) -> Result<Reply, RpcError> {
    let telemetry = &host.telemetry;
    let reply = match request.method.as_str() {
        "rpc_get_methods" => {
            request.named(&[])?;
            json!(all_methods(telemetry))
        }
        "host_get_info" => {
            request.named(&[])?;
            info(host)
        }
        "partition_list" => {
            request.named(&[])?;
            list(telemetry)
        }
        "partition_get_region" => {
            let seen = named_one(telemetry, &request.named(&["partition"])?)?;
            let value = partition(seen.identity(), seen.look().ok().as_ref());
            return Ok(Reply { value, region: Some(seen) });
        }
        "statistics_get" => statistics(telemetry, &request.named(&["partition"])?)?,
        "statistics_reset" => reset(telemetry, &request.named(&["partition"])?)?,
        "partition_restart" => ask(telemetry, &request.named(&["partition"])?, Asked::Restart)?,
        "partition_drain" => ask(telemetry, &request.named(&["partition"])?, Asked::Drain)?,
        method => {
            let more = telemetry.methods();
            let Some(theirs) = more.iter().find(|more| more.names().contains(&method)) else {
                return Err(unknown(telemetry, method));
            };
            theirs.call(method, &request.params)?
        }
    };
    Ok(reply.into())
}

fn all_methods(telemetry: &Telemetry) -> Vec<&'static str> {
    let mut names = METHODS.to_vec();
    for more in telemetry.methods() {
        names.extend(more.names());
    }
    names.sort_unstable();
    names
}

fn unknown(telemetry: &Telemetry, method: &str) -> RpcError {
    let (method, there) = (shortened(method), all_methods(telemetry).join(", "));
    let message = format!("there is no method {method}; there are {there}");
    RpcError { code: METHOD_NOT_FOUND, message }
}

fn info(host: &Host) -> Value {
    let uptime = host.telemetry.begun().elapsed().as_millis();
    let uptime = u64::try_from(uptime).unwrap_or(u64::MAX);
    json!({
        "program": &*host.program,
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "uptime_ms": uptime,
        "fallbacks": fallbacks(&host.telemetry),
        "tsc_hz": host.telemetry.clock().hz(),
        "abi_version": hybrid_abi::ABI_VERSION,
    })
}

/// How often storage fell back, by the supervisors' count.
fn fallbacks(telemetry: &Telemetry) -> u64 {
    let counters = telemetry.counters();
    let figures = counters.iter().flat_map(|counters| counters.figures());
    figures.filter(|figure| figure.name == FALLBACKS).map(|figure| figure.value).sum()
}

fn list(telemetry: &Telemetry) -> Value {
    let mut rows = Vec::new();
    for (name, cpu, _) in telemetry.names() {
        rows.push(match telemetry.partition(&name) {
            Some(seen) => partition(seen.identity(), seen.look().ok().as_ref()),
            None => json!({ "name": name, "cpu": cpu, "state": "gone" }),
        });
    }
    Value::Array(rows)
}

/// The partition that the parameters name; the only one, where they name none.
fn named_one(telemetry: &Telemetry, params: &Map<String, Value>) -> Result<Seen, RpcError> {
    let mut there = telemetry.partitions();
    let names = || {
        let names: Vec<_> = there.iter().map(|seen| seen.identity().name.clone()).collect();
        if names.is_empty() {
            "none runs".to_owned()
        } else {
            format!("there is {}", names.join(", "))
        }
    };
    match params.get("partition") {
        None if there.len() == 1 => Ok(there.remove(0)),
        None => Err(RpcError::params(format!("name a partition: {}", names()))),
        Some(Value::String(name)) => {
            let found = there.iter().find(|seen| seen.identity().name == *name).cloned();
            found.ok_or_else(|| {
                let message = format!("no partition {} runs; {}", shortened(name), names());
                RpcError::not_found(message)
            })
        }
        Some(_) => Err(RpcError::params("a partition is named by a string")),
    }
}

/// Those that the parameters name: one, or all.
fn named(telemetry: &Telemetry, params: &Map<String, Value>) -> Result<Vec<Seen>, RpcError> {
    match params.get("partition") {
        None => Ok(telemetry.partitions()),
        Some(_) => Ok(vec![named_one(telemetry, params)?]),
    }
}

fn statistics(telemetry: &Telemetry, params: &Map<String, Value>) -> Result<Value, RpcError> {
    let mut rows = Vec::new();
    for seen in named(telemetry, params)? {
        let identity = seen.identity();
        let look = seen.look().map_err(|error| RpcError::failed(error.to_string()))?;
        let before = telemetry.reset_of(&identity.name);
        rows.push(figures(identity, &look, before.as_deref()));
    }
    let counters = telemetry.counters();
    let figures = counters.iter().flat_map(|counters| counters.figures());
    let supervision: Map<String, Value> = figures
        .map(|figure| {
            let label = figure.label.map(|(_, value)| format!("/{value}")).unwrap_or_default();
            (format!("{}{label}", figure.name), json!(figure.value))
        })
        .collect();
    Ok(json!({ "partitions": rows, "supervision": supervision }))
}

fn reset(telemetry: &Telemetry, params: &Map<String, Value>) -> Result<Value, RpcError> {
    let mut names = Vec::new();
    for seen in named(telemetry, params)? {
        let look = seen.look().map_err(|error| RpcError::failed(error.to_string()))?;
        telemetry.reset(&seen.identity().name, look);
        names.push(seen.identity().name.clone());
    }
    Ok(json!({ "reset": names }))
}

/// Hands it to the partition's supervisor, which does it at its next look.
fn ask(
    telemetry: &Telemetry,
    params: &Map<String, Value>,
    asked: Asked,
) -> Result<Value, RpcError> {
    let seen = named_one(telemetry, params)?;
    let name = &seen.identity().name;
    let Some(requests) = telemetry.requests(name) else {
        let message = format!("partition {name} has no supervisor that could do it");
        return Err(RpcError::failed(message));
    };
    requests.ask(asked);
    Ok(json!({ "partition": name, "asked": asked.word() }))
}
