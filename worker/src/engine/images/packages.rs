//! Names of packages: which are accepted, and the sorted set an image is labelled with.

use std::collections::BTreeSet;
use std::fmt;

use super::ImageError;

/// Longest package specification accepted, in bytes.
const MAX_NAME_BYTES: usize = 214;

/// A set of package specifications, each checked, sorted, without duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackageSet(BTreeSet<String>);

impl PackageSet {
    /// Checks and collects names; surrounding space and empty names are dropped.
    ///
    /// # Errors
    /// [`ImageError::PackageName`] for the first name that is not acceptable.
    pub fn new<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Result<Self, ImageError> {
        let mut set = BTreeSet::new();
        for name in names {
            let name = name.as_ref().trim();
            if name.is_empty() {
                continue;
            }
            if !is_package(name) {
                return Err(ImageError::PackageName { name: name.into() });
            }
            set.insert(name.to_owned());
        }
        Ok(Self(set))
    }

    /// Reads a comma-separated list. Commas inside a version range or a list of extras belong to
    /// the package: `numpy>=1.26,<3,requests[socks,security]` is two packages.
    ///
    /// # Errors
    /// As for [`PackageSet::new`].
    pub fn from_list(text: &str) -> Result<Self, ImageError> {
        Self::new(split_list(text))
    }

    /// The names, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether every name of `other` is in here, literally.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        other.0.is_subset(&self.0)
    }
}

/// The label form: comma-joined.
impl fmt::Display for PackageSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.iter().enumerate() {
            if index > 0 {
                formatter.write_str(",")?;
            }
            formatter.write_str(name)?;
        }
        Ok(())
    }
}

fn split_list(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut depth) = (0_usize, 0_usize);
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'[' => depth += 1,
            b']' => depth = depth.saturating_sub(1),
            b',' if depth == 0 && !continues_range(&text[index + 1..]) => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// Whether what follows a comma is another bound of the same version range.
fn continues_range(rest: &str) -> bool {
    rest.trim_start().starts_with(['<', '>', '=', '!', '~'])
}

/// Package managers get names from a file, never through a shell; even so nothing passes that a
/// shell would act on beyond the comparison signs of a version range, that a package manager would
/// take for an option, or that names a local path or an arbitrary address.
fn is_package(name: &str) -> bool {
    let starts_well = name.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '@');
    let body_is_plain = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"@._/-+=<>!~^*,[]:".contains(&byte));
    // A colon names a registry, as in `npm:chalk`, and nothing else.
    let colon_is_prefix = match name.split_once(':') {
        None => true,
        Some((scheme, rest)) => {
            matches!(scheme, "npm" | "jsr") && !rest.is_empty() && !rest.contains(':')
        }
    };
    name.len() <= MAX_NAME_BYTES
        && starts_well
        && body_is_plain
        && colon_is_prefix
        && !name.contains("//")
        && !name.contains("..")
}
