//! What keeps a sandbox apart from the machine it runs on: the machine's own kernel, or more. Which kinds a
//! worker has, it tells by labels; a job that wants one requires that label, so it can only go where it is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A kind of isolation.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// Name spaces, control groups and a system-call filter, on the machine's own kernel.
    #[default]
    Container,
    /// A kernel in user space between the program and the machine's.
    Gvisor,
    /// A virtual machine with a kernel of its own.
    Kata,
}

impl Isolation {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Container, Self::Gvisor, Self::Kata];

    /// Its word in files and requests.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Gvisor => "gvisor",
            Self::Kata => "kata",
        }
    }

    /// The kind called `name`, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether it is the one that every worker has.
    #[must_use]
    pub fn is_container(&self) -> bool {
        *self == Self::Container
    }

    /// Names under which engines usually have it, as their own documents have them register it; none for
    /// containers, which are whatever an engine makes unless told otherwise.
    #[must_use]
    pub const fn known_runtimes(self) -> &'static [&'static str] {
        match self {
            Self::Container => &[],
            Self::Gvisor => &["runsc", "gvisor"],
            Self::Kata => &[
                "kata",
                "kata-runtime",
                "kata-qemu",
                "kata-clh",
                "kata-fc",
                "io.containerd.kata.v2",
            ],
        }
    }

    /// The label, name and value, of workers that have it; `None` for the kind that all have.
    #[must_use]
    pub const fn label(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Container => None,
            Self::Gvisor => Some(("isol8.gvisor", "yes")),
            Self::Kata => Some(("isol8.kata", "yes")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels::OWN_PREFIX;

    #[test]
    fn labels_are_of_those_that_nobody_configures() {
        for (name, _) in Isolation::ALL.into_iter().filter_map(Isolation::label) {
            assert!(name.starts_with(OWN_PREFIX));
        }
    }

    #[test]
    fn names_are_those_of_the_wire() {
        for kind in Isolation::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
            assert_eq!(Isolation::from_name(kind.name()), Some(kind));
        }
        assert_eq!(Isolation::from_name("none"), None);
    }
}
