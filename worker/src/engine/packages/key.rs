//! What names a set of installed packages: everything that decides what is in it.

use sha2::{Digest as _, Sha256};
use shared::execution::PackageSet;
use shared::runtime::Runtime;

/// Changes whenever the same packages would be laid out in another way.
const LAYOUT: &str = "1";
/// Digits of the short form; enough to tell the sets of one engine apart.
const SHORT: usize = 16;

/// Hash of a set.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key(String);

impl Key {
    /// `registries` stands for where the packages come from.
    pub(super) fn new(
        runtime: Runtime,
        image_id: &str,
        packages: &PackageSet,
        registries: &str,
    ) -> Self {
        let mut hash = Sha256::new();
        let parts = [LAYOUT, runtime.name(), image_id, registries];
        for part in parts.into_iter().chain(packages.iter()) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// A key read from a label; it may be anybody's.
    pub(super) fn labelled(text: &str) -> Self {
        Self(text.to_owned())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn short(&self) -> &str {
        self.0.get(..SHORT).unwrap_or(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_follows_what_decides_the_content_and_nothing_else() {
        let set = |names: &[&str]| PackageSet::new(Runtime::Node, names).unwrap();
        let key = |names: &[&str]| Key::new(Runtime::Node, "image", &set(names), "registries");
        assert_eq!(key(&["b", "a"]), key(&["a", "b", "a"]));
        assert_ne!(key(&["a", "b"]), key(&["ab"]));
        let a = set(&["a"]);
        let others = [
            Key::new(Runtime::Bun, "image", &a, "registries"),
            Key::new(Runtime::Node, "another", &a, "registries"),
            Key::new(Runtime::Node, "image", &a, "others"),
        ];
        assert!(!others.contains(&key(&["a"])));
        assert_eq!(key(&["a"]).short().len(), SHORT);
    }
}
