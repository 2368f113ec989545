//! Configuration from environment variables: `ISOL8_DEFAULTS__MEMORY_LIMIT` is
//! `defaults.memoryLimit`. Two underscores go one section down; one separates words.

use std::collections::BTreeMap;

use figment::value::{Dict, Map, Value};
use figment::{Metadata, Profile, Provider, Source};

use super::Config;

const PREFIX: &str = "ISOL8_";
const SECTION: &str = "__";

/// One variable, as a layer of its own: so each value is known by the name of its variable.
#[derive(Debug)]
pub(super) struct Variable {
    name: String,
    path: Vec<String>,
    value: serde_json::Value,
}

/// The variables that set something, lowest first.
pub(super) fn variables(environment: &BTreeMap<String, String>) -> Vec<Variable> {
    let defaults = serde_json::to_value(Config::default()).unwrap_or_default();
    let given = environment.iter().filter(|(_, value)| !value.is_empty());
    let (aliases, sectioned): (Vec<_>, Vec<_>) = given.partition(|(name, _)| alias(name).is_some());
    let sectioned = sectioned.into_iter().filter_map(|(name, value)| {
        let path = path(name, &defaults)?;
        let value = parse(value, at(&defaults, &path));
        Some(Variable { name: name.clone(), path, value })
    });
    // Aliases win: they are what deployments of isol8 set already. From the back of the alphabet,
    // so that PORT is the weaker one of the two ports.
    let aliases = aliases.into_iter().rev().filter_map(|(name, value)| {
        let path = alias(name)?.map(String::from).to_vec();
        let value = match name.as_str() {
            // Often set for something else; what is no port is left to the server to refuse.
            "PORT" | "ISOL8_PORT" => value.parse::<u16>().ok()?.into(),
            _ => value.clone().into(),
        };
        Some(Variable { name: name.clone(), path, value })
    });
    sectioned.chain(aliases).collect()
}

/// What names outside the scheme stand for.
fn alias(name: &str) -> Option<[&'static str; 2]> {
    match name {
        "ISOL8_REDIS_URL" => Some(["redis", "url"]),
        "ISOL8_AUDIT_DIR" => Some(["audit", "logDir"]),
        "ISOL8_PORT" | "PORT" => Some(["gateway", "port"]),
        _ => None,
    }
}

/// The key a variable stands for. `None` if it is none of ours: a single word may be meant for
/// anything, as `ISOL8_LOG` is; with a section in it, it is a key, or a mistake to be refused.
fn path(name: &str, defaults: &serde_json::Value) -> Option<Vec<String>> {
    let words: Vec<String> = name.strip_prefix(PREFIX)?.split(SECTION).map(camel_case).collect();
    let is_known = words.first().is_some_and(|first| defaults.get(first).is_some());
    (words.len() > 1 || is_known).then_some(words)
}

fn camel_case(name: &str) -> String {
    let mut result = String::with_capacity(name.len());
    for (index, word) in name.split('_').enumerate() {
        let lower = word.to_ascii_lowercase();
        match lower.chars().next() {
            Some(first) if index > 0 => {
                result.push(first.to_ascii_uppercase());
                result.push_str(&lower[first.len_utf8()..]);
            }
            _ => result.push_str(&lower),
        }
    }
    result
}

fn at<'a>(defaults: &'a serde_json::Value, path: &[String]) -> Option<&'a serde_json::Value> {
    path.iter().try_fold(defaults, |value, key| value.get(key))
}

/// Reads a value as what its default is; `1024` is a text where a text belongs. Keys without a
/// default are all texts.
fn parse(text: &str, default: Option<&serde_json::Value>) -> serde_json::Value {
    match default {
        None | Some(serde_json::Value::String(_)) => text.into(),
        Some(serde_json::Value::Array(_)) => serde_json::from_str(text).unwrap_or_else(|_| {
            text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect()
        }),
        // What does not parse is refused later, by type and with the variable's name.
        Some(_) => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
    }
}

impl Variable {
    /// isol8 reads its directory from the environment only if the file does not name one.
    pub(super) fn is_below_the_file(&self) -> bool {
        self.name == "ISOL8_AUDIT_DIR"
    }
}

impl Provider for Variable {
    fn metadata(&self) -> Metadata {
        Metadata::from(self.name.clone(), Source::Custom(self.name.clone()))
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        let mut value = Value::serialize(&self.value)?;
        for key in self.path.iter().skip(1).rev() {
            value = Dict::from([(key.clone(), value)]).into();
        }
        let top = self.path.first().cloned().unwrap_or_default();
        Ok(Profile::Default.collect(Dict::from([(top, value)])))
    }
}
