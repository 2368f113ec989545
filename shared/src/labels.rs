//! Labels: what workers say of themselves, and what jobs require of a worker. The labels that a job
//! requires, in one text, are its placement: it stands in a line of its own that only workers with all of
//! them read.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::isolation::Isolation;

/// Labels of one worker.
const MAX_LABELS: usize = 32;
/// Labels that one job requires.
const MAX_REQUIRED: usize = 8;
/// Longest name or value, in bytes.
const MAX_WORD_BYTES: usize = 63;
/// How the labels begin that are kept for what a worker finds out about itself; nobody configures them.
pub const OWN_PREFIX: &str = "isol8.";

/// Names with values, like `pool=gpu`. Their text, sorted and with commas between, names a placement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>")]
pub struct Labels(BTreeMap<String, String>);

/// What [`Labels::none`] refers to.
static NONE: Labels = Labels::new();

impl Labels {
    /// No labels.
    #[must_use]
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// A reference to no labels.
    #[must_use]
    pub fn none() -> &'static Self {
        &NONE
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each name with its value, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether a worker with these labels may take a job that requires `required`.
    #[must_use]
    pub fn satisfy(&self, required: &Self) -> bool {
        required.0.iter().all(|(name, value)| self.0.get(name) == Some(value))
    }

    /// Adds those of a worker that has these kinds of isolation, or of a job that wants one.
    pub fn add_isolation(&mut self, kinds: impl IntoIterator<Item = Isolation>) {
        let own = kinds.into_iter().filter_map(Isolation::label);
        self.0.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    /// The kinds of isolation among them.
    pub fn isolation(&self) -> impl Iterator<Item = Isolation> {
        let is_here =
            |kind: &Isolation| kind.label().is_some_and(|(name, _)| self.0.contains_key(name));
        Isolation::ALL.into_iter().filter(is_here)
    }

    /// The placement of a job that requires these; `None` if it requires nothing.
    #[must_use]
    pub fn placement(&self) -> Option<String> {
        (!self.is_empty()).then(|| self.to_string())
    }

    /// Refuses more labels than one job may require.
    ///
    /// # Errors
    /// [`crate::ErrorCode::InvalidRequest`].
    pub fn check_required(&self) -> Result<(), Error> {
        if self.0.len() > MAX_REQUIRED {
            let message = format!("queue.labels: a job may require at most {MAX_REQUIRED} labels");
            return Err(Error::invalid(message));
        }
        Ok(())
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{name}={value}")?;
        }
        Ok(())
    }
}

impl TryFrom<BTreeMap<String, String>> for Labels {
    type Error = Error;

    fn try_from(labels: BTreeMap<String, String>) -> Result<Self, Error> {
        if labels.len() > MAX_LABELS {
            return Err(Error::invalid(format!("there may be at most {MAX_LABELS} labels")));
        }
        for (name, value) in &labels {
            // They become parts of keys: nothing that has a meaning there may be in them.
            if !is_word(name) || !is_word(value) {
                return Err(Error::invalid(format!(
                    "{name:?}: {value:?} is no label; name and value are 1 to {MAX_WORD_BYTES} letters, \
                     digits, dots, underscores or hyphens"
                )));
            }
        }
        Ok(Self(labels))
    }
}

/// Reads `name=value,name=value`, which may be empty.
impl FromStr for Labels {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let labels = text.split(',').filter(|label| !label.is_empty()).map(|label| {
            let (name, value) = label.split_once('=').ok_or_else(|| {
                Error::invalid(format!("{label:?} is no label; write NAME=VALUE"))
            })?;
            Ok((name.to_owned(), value.to_owned()))
        });
        Self::try_from(labels.collect::<Result<BTreeMap<_, _>, Error>>()?)
    }
}

fn is_word(word: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=MAX_WORD_BYTES).contains(&word.len()) && word.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> Labels {
        text.parse().unwrap()
    }

    #[test]
    fn one_set_of_labels_is_one_placement_however_it_is_written() {
        assert_eq!(labels("zone=a,pool=gpu").placement().unwrap(), "pool=gpu,zone=a");
        let json: Labels = serde_json::from_str(r#"{"zone": "a", "pool": "gpu"}"#).unwrap();
        assert_eq!(json, labels("pool=gpu,zone=a"));
        assert_eq!(labels("").placement(), None);
    }

    #[test]
    fn a_worker_takes_what_requires_no_more_than_it_has() {
        let worker = labels("pool=gpu,zone=a");
        for (required, expected) in
            [("", true), ("zone=a", true), ("zone=b", false), ("zone=a,pool=gpu,cpu=x", false)]
        {
            assert_eq!(worker.satisfy(&labels(required)), expected, "{required}");
        }
    }

    #[test]
    fn what_would_mean_something_else_in_a_key_is_no_label() {
        for text in ["a", "=b", "a=", "a:b=c", "a={c}", "a=b=c", "a=b c", "ä=b"] {
            assert!(text.parse::<Labels>().is_err(), "{text}");
        }
        assert!(format!("{}=a", "n".repeat(64)).parse::<Labels>().is_err());
        let many: Vec<String> = (0..33).map(|number| format!("n{number}=a")).collect();
        assert!(many.join(",").parse::<Labels>().is_err());
        assert!(many[..9].join(",").parse::<Labels>().unwrap().check_required().is_err());
        assert!(many[..8].join(",").parse::<Labels>().unwrap().check_required().is_ok());
    }
}
