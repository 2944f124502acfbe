//! The form of requests and answers: JSON-RPC 2.0.
//!
//! What a request says is checked here before any method sees it. Batches are not spoken; a request
//! without an id gets an answer all the same, with the id null.

use serde_json::{Map, Value, json};

/// Not JSON.
pub(super) const PARSE_ERROR: i32 = -32700;
/// JSON, and no request.
pub(super) const INVALID_REQUEST: i32 = -32600;
/// No such method.
pub(super) const METHOD_NOT_FOUND: i32 = -32601;
/// Parameters that the method does not take.
pub(super) const INVALID_PARAMS: i32 = -32602;
/// What is named is not there.
pub(super) const NOT_FOUND: i32 = -32001;
/// It was tried, and failed.
pub(super) const FAILED: i32 = -32002;

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcError {
    /// JSON-RPC's own codes, and ours: -32001 not found, -32002 failed.
    pub code: i32,
    /// What was seen, and what is allowed.
    pub message: String,
}

impl RpcError {
    /// Parameters that the method does not take.
    #[must_use]
    pub fn params(message: impl Into<String>) -> Self {
        Self { code: INVALID_PARAMS, message: message.into() }
    }

    /// What is named is not there.
    #[must_use]
    pub fn not_found(message: impl Into<String>) -> Self {
        Self { code: NOT_FOUND, message: message.into() }
    }

    /// It was tried, and failed.
    #[must_use]
    pub fn failed(message: impl Into<String>) -> Self {
        Self { code: FAILED, message: message.into() }
    }

    pub(super) fn request(message: impl Into<String>) -> Self {
        Self { code: INVALID_REQUEST, message: message.into() }
    }
}

/// A request of the right form.
#[derive(Debug, PartialEq)]
pub(super) struct Request {
    pub(super) id: Value,
    pub(super) method: String,
    pub(super) params: Value,
}

impl Request {
    /// Takes a line apart.
    pub(super) fn parse(line: &[u8]) -> Result<Self, (Value, RpcError)> {
        let value: Value = serde_json::from_slice(line).map_err(|error| {
            let message = format!("not JSON: {error}");
            (Value::Null, RpcError { code: PARSE_ERROR, message })
        })?;
        let Value::Object(mut fields) = value else {
            let message = "a request is an object: {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":...}";
            return Err((Value::Null, RpcError::request(message)));
        };
        let id = fields.remove("id").unwrap_or(Value::Null);
        if !matches!(id, Value::Null | Value::Number(_) | Value::String(_)) {
            let message = "the id of a request is a number or a string";
            return Err((Value::Null, RpcError::request(message)));
        }
        if fields.get("jsonrpc") != Some(&json!("2.0")) {
            return Err((id, RpcError::request("a request has \"jsonrpc\": \"2.0\"")));
        }
        let Some(Value::String(method)) = fields.remove("method") else {
            return Err((id, RpcError::request("a request has a \"method\", a string")));
        };
        let params = fields.remove("params").unwrap_or_default();
        Ok(Self { id, method, params })
    }

    /// The parameters by name, of which there may be these and no others.
    pub(super) fn named(&self, allowed: &[&str]) -> Result<Map<String, Value>, RpcError> {
        let named = match &self.params {
            Value::Null => Map::new(),
            Value::Object(named) => named.clone(),
            _ => return Err(RpcError::params("parameters are an object, by name")),
        };
        let unknown = named.keys().find(|name| !allowed.contains(&name.as_str()));
        match (unknown, allowed) {
            (None, _) => Ok(named),
            (Some(_), []) => Err(RpcError::params(format!("{} takes no parameters", self.method))),
            (Some(name), _) => {
                let (name, allowed) = (shortened(name), allowed.join(", "));
                let message = format!("there is no parameter {name}; allowed is {allowed}");
                Err(RpcError::params(message))
            }
        }
    }
}

/// What a stranger wrote, for an error of ours.
pub(super) fn shortened(text: &str) -> String {
    let cut: String = text.chars().take(80).collect();
    format!("{:?}", cut)
}

/// The line of an answer.
pub(super) fn line(id: &Value, result: Result<Value, RpcError>) -> String {
    let answer = match result {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err(RpcError { code, message }) => {
            json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } })
        }
    };
    format!("{answer}\n")
}
