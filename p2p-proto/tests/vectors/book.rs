//! A file of vectors: what it is about, its inputs, and entries whose fields keep their order.

use serde::{Serialize, Serializer, ser::SerializeMap as _};
use serde_json::Value;

/// Named fields in the order in which they were added.
#[derive(Default)]
pub(crate) struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.0.push((name, value.into()));
        self
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[derive(Serialize)]
pub(crate) struct Book {
    pub(crate) about: &'static str,
    pub(crate) inputs: Fields,
    pub(crate) vectors: Vec<Fields>,
}

impl Book {
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap() + "\n"
    }
}

/// A vector's first field.
pub(crate) fn vector(name: &str) -> Fields {
    Fields::default().with("name", name)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
