//! CBOR as people read it: the diagnostic notation of RFC 8949, section 8.

use ciborium::Value;

use crate::book::hex;

/// The one value in `bytes`.
pub(crate) fn diagnostic(bytes: &[u8]) -> String {
    show(&ciborium::from_reader(bytes).unwrap())
}

/// The items of a record.
pub(crate) fn diagnostics(mut bytes: &[u8]) -> Vec<String> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        all.push(show(&ciborium::from_reader(&mut bytes).unwrap()));
    }
    all
}

fn show(value: &Value) -> String {
    match value {
        Value::Integer(number) => i128::from(*number).to_string(),
        Value::Bytes(bytes) => format!("h'{}'", hex(bytes)),
        Value::Text(text) => format!("{text:?}"),
        Value::Bool(truth) => truth.to_string(),
        Value::Null => "null".to_owned(),
        Value::Array(values) => format!("[{}]", join(values.iter().map(show))),
        Value::Map(entries) => {
            format!("{{{}}}", join(entries.iter().map(|(key, value)| format!("{}: {}", show(key), show(value)))))
        }
        other => panic!("{other:?} is on no wire of ours"),
    }
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}
