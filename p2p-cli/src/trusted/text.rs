//! Keys in a file as 64 hexadecimal digits, wherever they stand. Older versions wrote each as 32 numbers, on as many lines: that is read, too.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use p2p_proto::ids::{MachineKey, UserName};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Something with keys in it.
pub trait Keyed: Sized {
    /// The same as it is written.
    type Written: Serialize + DeserializeOwned;
    fn write(&self) -> Self::Written;
    fn read(written: Self::Written) -> Result<Self, String>;
}

pub fn serialize<T: Keyed, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    value.write().serialize(to)
}

pub fn deserialize<'de, T: Keyed, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    T::read(T::Written::deserialize(from)?).map_err(D::Error::custom)
}

/// A key.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub enum Key {
    Digits(String),
    Numbers([u8; 32]),
}

impl Keyed for MachineKey {
    type Written = Key;

    fn write(&self) -> Key {
        Key::Digits(self.0.iter().fold(String::new(), |mut digits, byte| {
            // A string takes all that is written to it.
            let _ = write!(digits, "{byte:02x}");
            digits
        }))
    }

    fn read(written: Key) -> Result<Self, String> {
        let digits = match written {
            Key::Numbers(key) => return Ok(Self(key)),
            Key::Digits(digits) => digits,
        };
        let wrong = || format!("{digits:?} is no key: it has 64 hexadecimal digits");
        if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut key = [0; 32];
        for (byte, at) in key.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(key))
    }
}

impl<T: Keyed> Keyed for Option<T> {
    type Written = Option<T::Written>;

    fn write(&self) -> Self::Written {
        self.as_ref().map(T::write)
    }

    fn read(written: Self::Written) -> Result<Self, String> {
        written.map(T::read).transpose()
    }
}

impl<T: Keyed> Keyed for Vec<T> {
    type Written = Vec<T::Written>;

    fn write(&self) -> Self::Written {
        self.iter().map(T::write).collect()
    }

    fn read(written: Self::Written) -> Result<Self, String> {
        written.into_iter().map(T::read).collect()
    }
}

impl<T: Keyed> Keyed for BTreeMap<UserName, T> {
    type Written = BTreeMap<UserName, T::Written>;

    fn write(&self) -> Self::Written {
        self.iter().map(|(user, value)| (user.clone(), value.write())).collect()
    }

    fn read(written: Self::Written) -> Result<Self, String> {
        written.into_iter().map(|(user, value)| Ok((user, T::read(value)?))).collect()
    }
}

impl<T: Keyed> Keyed for (T, u64) {
    type Written = (T::Written, u64);

    fn write(&self) -> Self::Written {
        (self.0.write(), self.1)
    }

    fn read((written, number): Self::Written) -> Result<Self, String> {
        Ok((T::read(written)?, number))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::trusted::Trusted;

    #[test]
    fn keys_are_written_as_digits_and_read_as_numbers_too() {
        let numbers = serde_json::json!(vec![7; 32]);
        let digits = serde_json::json!("07".repeat(32));
        let file = |key: &serde_json::Value| {
            serde_json::json!({
                "host": key, "heard": 3, "removed": [[key, 2]], "members": { "bob": [key] },
                "removals": [{ "machine": key, "serial": 1, "until": 9 }], "serial": 4, "until": 9,
                "pending": { "bob": [key, key] },
            })
        };
        for read in [&numbers, &digits] {
            let trusted: Trusted = serde_json::from_value(file(read)).unwrap();
            assert_eq!(serde_json::to_value(&trusted).unwrap(), file(&digits));
        }
        let mut oldest: Trusted =
            serde_json::from_value(serde_json::json!({ "bindings": { "bob": numbers } })).unwrap();
        oldest.renew();
        assert_eq!(serde_json::to_value(&oldest).unwrap()["members"]["bob"][0], digits);
        let wrong = ["0".repeat(63), "g".repeat(64), "é".repeat(32)];
        for wrong in wrong {
            let read = serde_json::from_value::<Trusted>(serde_json::json!({ "host": wrong }));
            assert!(read.unwrap_err().to_string().contains("64 hexadecimal digits"));
        }
    }
}
