//! Names of packages: which are accepted for a runtime, and the sorted set they make. Package managers
//! never get a name through a shell; even so nothing passes that one of them would take for an option,
//! a path, an address or a repository, nor anything a shell would act on beyond the comparison signs of
//! a version range.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::runtime::Runtime;

/// Longest package specification accepted, in bytes.
const MAX_NAME_BYTES: usize = 214;
/// Packages in one set.
const MAX_PACKAGES: usize = 64;

/// A set of package specifications, each checked, sorted, without duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PackageSet(BTreeSet<String>);

impl PackageSet {
    /// Checks and collects names; surrounding space is dropped.
    ///
    /// # Errors
    /// An invalid-request error for the first name that is not acceptable, or for too many.
    pub fn new<S: AsRef<str>>(
        runtime: Runtime,
        names: impl IntoIterator<Item = S>,
    ) -> Result<Self, Error> {
        let mut set = BTreeSet::new();
        for name in names {
            let name = name.as_ref().trim();
            if name.len() > MAX_NAME_BYTES || !is_package(runtime, name) {
                return Err(refusal(runtime, name));
            }
            set.insert(name.to_owned());
        }
        let count = set.len();
        if count > MAX_PACKAGES {
            return Err(Error::invalid(format!(
                "{count} packages are asked for; the most is {MAX_PACKAGES}. Build an image with them \
                 (`isol8 build`)."
            )));
        }
        Ok(Self(set))
    }

    /// Reads a comma-separated list. Commas inside a version range or a list of extras belong to
    /// the package: `numpy>=1.26,<3,requests[socks,security]` is two packages. Nothing between two commas
    /// is no package.
    ///
    /// # Errors
    /// As for [`PackageSet::new`].
    pub fn from_list(runtime: Runtime, text: &str) -> Result<Self, Error> {
        Self::new(runtime, split_list(text).into_iter().filter(|name| !name.trim().is_empty()))
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

fn refusal(runtime: Runtime, name: &str) -> Error {
    let notation = match runtime {
        Runtime::Python => "requests, requests==2.31.0 or requests[socks]>=2.31",
        Runtime::Node | Runtime::Bun | Runtime::Agent => "lodash, lodash@4 or @scope/name@1.2.3",
        Runtime::Deno => "npm:chalk, npm:chalk@5 or jsr:@std/path@1",
        Runtime::Bash => "jq, or jq=VERSION, as in the Debian release",
    };
    let shown: String = name.chars().take(80).collect();
    Error::invalid(format!(
        "Invalid package name for {runtime}: {shown:?}. Use the registry's own notation: {notation}"
    ))
}

fn is_package(runtime: Runtime, name: &str) -> bool {
    match runtime {
        Runtime::Python => is_python(name),
        Runtime::Node | Runtime::Bun | Runtime::Agent => is_npm(name),
        Runtime::Deno => match name.split_once(':') {
            Some(("npm", rest)) => is_npm(rest),
            Some(("jsr", rest)) => rest.starts_with('@') && is_npm(rest),
            _ => false,
        },
        Runtime::Bash => is_debian(name),
    }
}

fn is_all(text: &str, more: &[u8]) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
}

/// A plain name: letters, digits and some signs, first a letter or digit.
fn is_name(text: &str, more: &[u8]) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric()) && is_all(text, more)
}

/// `name`, `name[extra,extra]`, each with a version range or without.
fn is_python(text: &str) -> bool {
    let end = text.find(['[', '=', '<', '>', '!', '~']).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let range = match rest.strip_prefix('[') {
        None => rest,
        Some(rest) => match rest.split_once(']') {
            Some((extras, range)) if extras.split(',').all(|it| is_name(it, b"._-")) => range,
            _ => return false,
        },
    };
    let is_range = range.is_empty()
        || range.split(',').all(|bound| {
            let version = bound.trim_start_matches(['=', '<', '>', '!', '~']);
            version.len() < bound.len() && is_name(version, b".*+!_-")
        });
    is_name(name, b"._-") && is_range
}

/// `name` or `@scope/name`, each with `@` and a version, tag or range, or without. A slash anywhere
/// else would be a repository or a folder.
fn is_npm(text: &str) -> bool {
    let (is_scope_fine, rest) = match text.strip_prefix('@') {
        None => (true, text),
        Some(scoped) => match scoped.split_once('/') {
            Some((scope, rest)) => (is_name(scope, b"._-"), rest),
            None => return false,
        },
    };
    let (name, version) = rest.split_once('@').unwrap_or((rest, "latest"));
    let is_archive = [".tgz", ".tar", ".tar.gz"].iter().any(|ending| text.ends_with(ending));
    is_scope_fine
        && is_name(name, b"._-")
        && !version.is_empty()
        && !version.starts_with('-')
        && is_all(version, b".+^~<>=*_-")
        && !is_archive
}

/// `name` or `name=version`. A minus at the end would remove the package.
fn is_debian(text: &str) -> bool {
    let (name, version) = text.split_once('=').unwrap_or((text, "0"));
    is_name(name, b".+-")
        && !name.bytes().any(|byte| byte.is_ascii_uppercase())
        && is_name(version, b".+:~-")
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_each_registry_are_accepted() {
        for (runtime, names) in [
            (
                Runtime::Python,
                &[
                    "numpy",
                    "numpy==1.26.0",
                    "numpy>=1.26,<3",
                    "torch==2.1.0+cpu",
                    "requests[socks,security]~=2.31",
                    "zope.interface!=6.*",
                ][..],
            ),
            (
                Runtime::Node,
                &["lodash", "lodash@^4.17.21", "@scope/name@1.2.3", "a@latest", "a@>=1.2"],
            ),
            (Runtime::Bun, &["zod", "@types/node"]),
            (Runtime::Deno, &["npm:chalk@5", "npm:@scope/a", "jsr:@std/path@^1"]),
            (Runtime::Bash, &["jq", "libssl3", "g++", "jq=1.6-2.1", "libc6-dev"]),
        ] {
            for name in names {
                assert!(PackageSet::new(runtime, [name]).is_ok(), "{runtime}: {name}");
            }
        }
    }

    #[test]
    fn options_paths_addresses_and_shell_words_are_refused_for_every_runtime() {
        for name in [
            "",
            " \t",
            "-r",
            "--index-url=http://x",
            "-e",
            "a b",
            "a;reboot",
            "a&&b",
            "a|b",
            "$(id)",
            "`id`",
            "a'b",
            "a\"b",
            "a\\b",
            "a\nb",
            "a\0b",
            "a#b",
            "(a)",
            "{a}",
            "%a",
            "../secret",
            "a/../b",
            "a/b",
            "/etc",
            "./a",
            "~/a",
            ".",
            "@",
            "https://host/a.whl",
            "a@https://host/a.whl",
            "a @ https://host/a",
            "file:a",
            "a@file:../x",
            "git+ssh://host/a",
            "a@github:b/c",
            "npm:",
            "jsr:std/path",
            "npm:npm:a",
            "é",
        ] {
            for runtime in Runtime::ALL {
                let refused = PackageSet::new(runtime, [name]).unwrap_err();
                assert!(refused.message().contains("Invalid package name"), "{runtime}: {name}");
            }
        }
        assert!(PackageSet::new(Runtime::Python, ["a".repeat(300)]).is_err());
        let many = (0..65).map(|number| format!("a{number}"));
        let refused = PackageSet::new(Runtime::Python, many).unwrap_err();
        assert!(refused.message().contains("64"), "{refused}");
    }

    #[test]
    fn what_only_one_registry_would_misread_is_refused_there() {
        for (runtime, name) in [
            (Runtime::Python, "a@1"),
            (Runtime::Python, "a[b"),
            (Runtime::Python, "a==-r"),
            (Runtime::Node, "a.tgz"),
            (Runtime::Node, "user/repository"),
            (Runtime::Node, "a@-g"),
            (Runtime::Deno, "chalk"),
            (Runtime::Bash, "bash-"),
            (Runtime::Bash, "jq/stable"),
            (Runtime::Bash, "jq=1-"),
        ] {
            assert!(PackageSet::new(runtime, [name]).is_err(), "{runtime}: {name}");
        }
    }

    #[test]
    fn lists_split_at_commas_between_packages_only() {
        let list = " pandas,numpy>=1.26,<3 ,requests[socks,security],, pandas";
        let list = PackageSet::from_list(Runtime::Python, list).unwrap();
        assert_eq!(
            list.iter().collect::<Vec<_>>(),
            ["numpy>=1.26,<3", "pandas", "requests[socks,security]"]
        );
        // What a label says reads back as the same set.
        assert_eq!(PackageSet::from_list(Runtime::Python, &list.to_string()).unwrap(), list);
        assert!(PackageSet::from_list(Runtime::Python, "").unwrap().is_empty());
    }
}
