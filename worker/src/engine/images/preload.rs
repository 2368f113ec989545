//! Modules that an image's interpreter imports once, ahead of its jobs, so that a job that imports
//! them pays nothing for it. Only Python has an interpreter that several jobs are forked from.

use std::collections::BTreeSet;
use std::fmt;

use shared::runtime::Runtime;

use super::ImageError;

/// A set of module names, each checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preload(BTreeSet<String>);

impl Preload {
    /// Checks and collects names, each alone or several separated by commas.
    ///
    /// # Errors
    /// [`ImageError::Preload`] for the first that is none, or for a runtime without preloading.
    pub fn new<S: AsRef<str>>(
        runtime: Runtime,
        names: impl IntoIterator<Item = S>,
    ) -> Result<Self, ImageError> {
        let mut set = BTreeSet::new();
        for list in names {
            for name in list.as_ref().split(',').map(str::trim).filter(|name| !name.is_empty()) {
                if runtime != Runtime::Python || !name.split('.').all(is_identifier) {
                    return Err(ImageError::Preload { name: name.to_owned(), runtime });
                }
                set.insert(name.to_owned());
            }
        }
        Ok(Self(set))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn is_identifier(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The label form: comma-joined.
impl fmt::Display for Preload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.0.iter().map(String::as_str).collect();
        formatter.write_str(&names.join(","))
    }
}
