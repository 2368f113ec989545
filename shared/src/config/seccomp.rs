//! Which system-call filter a sandbox has: one of isol8's own, or one of the operator's by its name. A request never
//! brings a filter, nor a path to one.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Longest name of a filter, in bytes.
const MAX_NAME_BYTES: usize = 63;
const PATTERN: &str = "^[a-z0-9][a-z0-9_-]{0,62}$";

/// Which system calls a sandbox may make.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Seccomp {
    /// isol8's own profile for the runtime.
    #[default]
    Strict,
    /// All that the kernel and the capabilities let it.
    Unconfined,
    /// The profile at `security.customProfilePath`, read by the worker when it starts.
    Custom,
    /// A profile in `security.profileDirectory`, likewise.
    Named(ProfileName),
}

/// What a filter of the operator's is called: the name of its file, without `.json`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProfileName(String);

impl ProfileName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProfileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Seccomp {
    /// Its word in files and requests.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Strict => "strict",
            Self::Unconfined => "unconfined",
            Self::Custom => "custom",
            Self::Named(name) => name.as_str(),
        }
    }
}

impl FromStr for Seccomp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let is_name = text.len() <= MAX_NAME_BYTES
            && text.bytes().next().is_some_and(is_plain)
            && text.bytes().all(|byte| is_plain(byte) || matches!(byte, b'-' | b'_'));
        match text {
            "strict" => Ok(Self::Strict),
            "unconfined" => Ok(Self::Unconfined),
            "custom" => Ok(Self::Custom),
            name if is_name => Ok(Self::Named(ProfileName(name.to_owned()))),
            // What is not shown whole may be a whole profile.
            _ => Err(format!(
                "\"{}\" names no system-call filter: expected `strict`, `unconfined`, `custom`, or a name of up to \
                 {MAX_NAME_BYTES} small letters, digits, - and _",
                text.chars().take(MAX_NAME_BYTES).collect::<String>().escape_debug()
            )),
        }
    }
}

impl Serialize for Seccomp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Seccomp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Word;

        impl de::Visitor<'_> for Word {
            type Value = Seccomp;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one of `strict`, `unconfined`, `custom`, or a filter's name")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Seccomp, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Word)
    }
}

impl JsonSchema for Seccomp {
    fn schema_name() -> Cow<'static, str> {
        "Seccomp".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Which system calls a sandbox may make.",
            "anyOf": [
                {
                    "const": "strict",
                    "description": "isol8's own profile for the runtime.",
                    "type": "string"
                },
                {
                    "const": "unconfined",
                    "description": "All that the kernel and the capabilities let it.",
                    "type": "string"
                },
                {
                    "const": "custom",
                    "description":
                        "The profile at `security.customProfilePath`, read by the worker when it starts.",
                    "type": "string"
                },
                {
                    "description": "A profile in `security.profileDirectory`, by the name of its file.",
                    "pattern": PATTERN,
                    "type": "string"
                }
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_names_are_read_and_nothing_that_could_be_a_path() {
        for text in ["strict", "unconfined", "custom", "web", "a-b_2", "0"] {
            let seccomp: Seccomp = text.parse().unwrap();
            assert_eq!(seccomp.name(), text);
            assert_eq!(serde_json::from_value::<Seccomp>(text.into()).unwrap(), seccomp);
            assert_eq!(matches!(seccomp, Seccomp::Named(_)), text.len() < 6);
        }
        let long = "a".repeat(64);
        for text in ["", "../x", "/etc/x.json", "a/b", "a.json", ".", "A", "-a", "é", "a b", &long]
        {
            let error = text.parse::<Seccomp>().unwrap_err();
            assert!(error.contains("`strict`") && !error.contains(&long), "{error}");
        }
    }
}
