//! One item of a batch: the template, and what the item says instead.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use shared::Error;
use shared::execution::{ExecuteEnvelope, QueueOptions};

use crate::body;

/// Longest name of an item, in bytes.
const MAX_NAME_BYTES: usize = 256;
/// Fields whose entries are merged; an item's other fields take the place of the template's.
const MERGED: [&str; 4] = ["env", "files", "metadata", "secrets"];
/// An item that brings a program brings the whole of it: these go with the template's.
const PROGRAM: [&str; 3] = ["code", "codeUrl", "cmd"];
const OF_PROGRAM: [&str; 3] = ["codeHash", "allowInsecureCodeUrl", "fileExtension"];

/// What holds for all items. A field nobody knows is refused, as a wish nobody hears.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Head {
    /// The template.
    #[serde(default)]
    request: Option<Map<String, Value>>,
    #[serde(default)]
    options: Option<Map<String, Value>>,
    #[serde(default)]
    pub(super) queue: Option<QueueOptions>,
    #[serde(default)]
    pub(super) failure_budget: Option<u64>,
}

/// What one item says for itself.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Item {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    request: Option<Map<String, Value>>,
    #[serde(default)]
    options: Option<Map<String, Value>>,
}

impl Item {
    /// The client's own name of it; '' if it has none.
    ///
    /// # Errors
    /// An invalid request.
    pub(super) fn name(&mut self) -> Result<String, Error> {
        let Some(name) = self.id.take() else { return Ok(String::new()) };
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains(char::is_control) {
            return Err(Error::invalid(format!(
                "id must be 1 to {MAX_NAME_BYTES} bytes long, without control characters"
            )));
        }
        Ok(name)
    }
}

impl Head {
    /// The request that an item stands for.
    ///
    /// # Errors
    /// An invalid request that names the field.
    pub(super) fn with(&self, item: Item) -> Result<ExecuteEnvelope, Error> {
        let request = merge(self.request.as_ref(), item.request);
        let options = merge(self.options.as_ref(), item.options);
        body::of_value(json!({"request": request, "options": options}))
    }
}

fn merge(template: Option<&Map<String, Value>>, own: Option<Map<String, Value>>) -> Value {
    let mut merged = template.cloned().unwrap_or_default();
    let own = own.unwrap_or_default();
    if PROGRAM.iter().any(|name| own.get(*name).is_some_and(|value| !value.is_null())) {
        for name in PROGRAM.iter().chain(&OF_PROGRAM) {
            merged.remove(*name);
        }
    }
    for (name, value) in own {
        match (merged.get_mut(&name), value) {
            (Some(Value::Object(theirs)), Value::Object(own))
                if MERGED.contains(&name.as_str()) =>
            {
                for (name, value) in own {
                    if value.is_null() {
                        theirs.remove(&name);
                    } else {
                        theirs.insert(name, value);
                    }
                }
            }
            (_, Value::Null) => drop(merged.remove(&name)),
            (_, value) => drop(merged.insert(name, value)),
        }
    }
    Value::Object(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(head: Value, item: Value) -> Result<Value, Error> {
        let head: Head = serde_json::from_value(head).unwrap();
        let item: Item = serde_json::from_value(item).unwrap();
        let mut whole = serde_json::to_value(head.with(item)?).unwrap();
        Ok(whole["request"].take())
    }

    #[test]
    fn an_item_says_what_is_other() {
        let head = json!({"request": {
            "runtime": "python", "code": "a", "codeHash": "h", "env": {"A": "1", "B": "2"},
            "timeoutMs": 5, "stdin": "x",
        }});
        for (item, expected) in [
            (json!({}), head["request"].clone()),
            (
                json!({"request": {"stdin": "y", "timeoutMs": null, "env": {"A": null, "C": "3"}}}),
                json!({"runtime": "python", "code": "a", "codeHash": "h", "env": {"B": "2", "C": "3"}, "stdin": "y"}),
            ),
            (
                json!({"request": {"cmd": "true", "env": null}}),
                json!({"runtime": "python", "cmd": "true", "timeoutMs": 5, "stdin": "x"}),
            ),
        ] {
            assert_eq!(merged(head.clone(), item).unwrap(), expected);
        }
        let error = merged(head, json!({"request": {"timeoutMs": "soon"}})).unwrap_err();
        assert!(error.message().starts_with("request.timeoutMs: "), "{error}");
        let without = json!({"queue": {"priority": "high"}, "failureBudget": 3});
        let own = json!({"id": "7", "request": {"runtime": "bash", "code": "true"}});
        assert_eq!(merged(without, own.clone()).unwrap(), own["request"]);
    }

    #[test]
    fn names_are_plain() {
        for (id, is_fine) in [(json!("a"), true), (json!(""), false), (json!("\n"), false)] {
            let mut item: Item = serde_json::from_value(json!({"id": id})).unwrap();
            assert_eq!(item.name().is_ok(), is_fine);
        }
    }
}
