//! Protocol buffers, read by Google's own definitions of a Perfetto trace.
//!
//! `perfetto-fields.txt` has them: each field's message, number, name and type, and the values of
//! enumerations, written out of the descriptors in PyPI's package `perfetto`. A field that is not
//! there, one of another wire type, or a second one where there is to be one, is a mistake of ours.

use std::collections::HashMap;

/// A message of protocol buffers: fields by number, nested ones as bytes.
#[derive(Debug, Default)]
pub(super) struct Parsed(HashMap<u32, Vec<Value>>);

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// A varint.
    Number(u64),
    /// A word of eight bytes.
    Word(u64),
    Bytes(Vec<u8>),
}

impl Parsed {
    pub(super) fn of(mut bytes: &[u8]) -> Self {
        let varint = |bytes: &mut &[u8]| {
            let (mut value, mut shift) = (0, 0);
            loop {
                let (byte, rest) = bytes.split_first().expect("a byte");
                *bytes = rest;
                value |= u64::from(byte & 0x7F) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    return value;
                }
            }
        };
        let mut parsed = Self::default();
        while !bytes.is_empty() {
            let tag = varint(&mut bytes);
            let field = u32::try_from(tag >> 3).expect("a field");
            let value = match tag & 7 {
                0 => Value::Number(varint(&mut bytes)),
                1 => {
                    let (word, rest) = bytes.split_first_chunk().expect("a word");
                    bytes = rest;
                    Value::Word(u64::from_le_bytes(*word))
                }
                2 => {
                    let len = usize::try_from(varint(&mut bytes)).expect("a length");
                    let (inner, rest) = bytes.split_at(len);
                    bytes = rest;
                    Value::Bytes(inner.to_vec())
                }
                wire => panic!("wire type {wire}"),
            };
            parsed.0.entry(field).or_default().push(value);
        }
        parsed
    }

    pub(super) fn all(&self, field: u32) -> impl Iterator<Item = &Value> {
        self.0.get(&field).into_iter().flatten()
    }

    pub(super) fn messages(&self, field: u32) -> impl Iterator<Item = Self> {
        self.all(field).map(move |value| match value {
            Value::Bytes(bytes) => Self::of(bytes),
            _ => panic!("field {field} is a number"),
        })
    }

    pub(super) fn number(&self, field: u32) -> Option<u64> {
        self.all(field).next().map(|value| match value {
            Value::Number(number) => *number,
            _ => panic!("field {field} is no number"),
        })
    }

    pub(super) fn text(&self, field: u32) -> Option<String> {
        self.all(field).next().map(|value| match value {
            Value::Bytes(bytes) => String::from_utf8(bytes.clone()).expect("text"),
            _ => panic!("field {field} is no text"),
        })
    }
}

/// A field: its type, and whether there may be several.
type Field = (&'static str, bool);

/// What Google says.
pub(super) struct Schema {
    fields: HashMap<(&'static str, u32), Field>,
    values: HashMap<&'static str, Vec<u64>>,
}

impl Schema {
    pub(super) fn of_google() -> Self {
        let mut schema = Self { fields: HashMap::new(), values: HashMap::new() };
        let text = include_str!("../../../tests/traces/perfetto-fields.txt");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<&'static str> = line.split(' ').collect();
            let number: u32 = words[1].parse().expect("a number");
            if words[0].starts_with("enum:") {
                schema.values.entry(words[0]).or_default().push(number.into());
            } else {
                let field = (words[3], words.get(4) == Some(&"repeated"));
                schema.fields.insert((words[0], number), field);
            }
        }
        schema
    }

    /// Checks a message and those in it; how many messages that were.
    pub(super) fn check(&self, message: &'static str, bytes: &[u8]) -> usize {
        let mut checked = 1;
        for (number, values) in Parsed::of(bytes).0 {
            let Some((kind, repeated)) = self.fields.get(&(message, number)) else {
                panic!("{message} has no field {number}");
            };
            assert!(*repeated || values.len() == 1, "{message}.{number} is there more than once");
            for value in values {
                let right = match (*kind, &value) {
                    ("uint64" | "int64" | "uint32", Value::Number(_)) => true,
                    ("int32", Value::Number(number)) => i32::try_from(*number).is_ok(),
                    ("bool", Value::Number(number)) => *number < 2,
                    ("fixed64", Value::Word(_)) | ("bytes", Value::Bytes(_)) => true,
                    ("string", Value::Bytes(bytes)) => std::str::from_utf8(bytes).is_ok(),
                    (kind, Value::Number(number)) => {
                        self.values.get(kind).is_some_and(|values| values.contains(number))
                    }
                    (kind, Value::Bytes(bytes)) if kind.starts_with(char::is_uppercase) => {
                        checked += self.check(kind, bytes);
                        true
                    }
                    _ => false,
                };
                assert!(right, "{message}.{number} is {kind}, and not {value:?}");
            }
        }
        checked
    }
}
