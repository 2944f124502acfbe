//! The switch on the control socket: `probe_get_groups`, `probe_set_groups`, `probe_freeze`.

use serde_json::{Value, json};

use hybrid_abi::probe::parse_groups;

use super::ProbeSwitch;
use crate::telemetry::control::{Methods, RpcError};

/// Of one partition.
#[derive(Debug)]
pub(crate) struct ProbeMethods {
    switches: std::sync::Mutex<Vec<(String, ProbeSwitch)>>,
}

impl ProbeMethods {
    /// Of nobody yet.
    pub(crate) const fn new() -> Self {
        Self { switches: std::sync::Mutex::new(Vec::new()) }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Vec<(String, ProbeSwitch)>) -> T) -> T {
        f(&mut self.switches.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// From now on this partition's probes are switched by this.
    pub(crate) fn enter(&self, name: &str, switch: &ProbeSwitch) {
        self.with(|all| {
            all.retain(|(known, _)| known != name);
            all.push((name.to_owned(), switch.clone()));
        });
    }

    /// The one that is named, or the only one.
    fn named(&self, params: &Value) -> Result<ProbeSwitch, RpcError> {
        let wanted = params.get("partition").and_then(Value::as_str);
        self.with(|all| match (wanted, all.as_slice()) {
            (Some(name), _) => {
                let found = all.iter().find(|(known, _)| known == name);
                let found = found.ok_or_else(|| {
                    RpcError::not_found(format!("no partition {name:?} runs here"))
                })?;
                Ok(found.1.clone())
            }
            (None, [(_, only)]) => Ok(only.clone()),
            (None, all) => Err(RpcError::params(format!(
                "there are {} partitions: name one as \"partition\"",
                all.len()
            ))),
        })
    }
}

/// The mask of a list of groups.
fn mask_of(params: &Value) -> Result<u64, RpcError> {
    let groups = params.get("groups").and_then(Value::as_str);
    let groups = groups.ok_or_else(|| RpcError::params("\"groups\" or \"mask\" is missing"))?;
    parse_groups(groups).map_err(|no| RpcError::params(no.to_string()))
}

impl Methods for std::sync::Arc<ProbeMethods> {
    fn names(&self) -> &[&'static str] {
        &["probe_get_groups", "probe_set_groups", "probe_freeze"]
    }

    fn call(&self, method: &str, params: &Value) -> Result<Value, RpcError> {
        let switch = self.named(params)?;
        match method {
            "probe_set_groups" => {
                let mask = match params.get("mask").and_then(Value::as_u64) {
                    Some(mask) => mask,
                    None => mask_of(params)?,
                };
                let before = switch.mask();
                switch.set_mask(mask);
                return Ok(json!({ "mask": mask, "before": before }));
            }
            "probe_freeze" => switch.freeze().map_err(|no| {
                let how = "start it with --trace FILE or one of the --freeze options";
                RpcError::failed(format!("{no}; {how}"))
            })?,
            _ => {}
        }
        Ok(json!({ "mask": switch.mask() }))
    }
}
