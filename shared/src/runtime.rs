//! The languages isol8 runs, and what each is called on the wire, on disk and in Docker.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A language runtime.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// CPython.
    Python,
    /// Node.js.
    Node,
    /// Bun.
    Bun,
    /// Deno.
    Deno,
    /// Bash.
    Bash,
    /// A coding agent; its program is a prompt.
    Agent,
}

impl Runtime {
    /// Every runtime, in the contract's order.
    pub const ALL: [Self; 6] =
        [Self::Python, Self::Node, Self::Bun, Self::Bash, Self::Deno, Self::Agent];

    /// Its name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Node => "node",
            Self::Bun => "bun",
            Self::Deno => "deno",
            Self::Bash => "bash",
            Self::Agent => "agent",
        }
    }

    /// The runtime called `name`.
    ///
    /// # Errors
    /// An invalid-request error with the contract's words.
    pub fn from_name(name: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|runtime| runtime.name() == name).ok_or_else(|| {
            Error::invalid(format!(
                "Unknown runtime: \"{name}\". Available: {}",
                Self::ALL.map(Self::name).join(", ")
            ))
        })
    }

    /// The runtime a file is for, by its last extension (with or without a path in front).
    #[must_use]
    pub fn from_path(path: &str) -> Option<Self> {
        let (_, extension) = path.rsplit_once('.')?;
        Some(match extension {
            "py" => Self::Python,
            "js" | "cjs" | "mjs" => Self::Node,
            "ts" => Self::Bun,
            "mts" => Self::Deno,
            "sh" => Self::Bash,
            _ => return None,
        })
    }

    /// The image used when the request names none.
    #[must_use]
    pub const fn image(self) -> &'static str {
        match self {
            Self::Python => "isol8:python",
            Self::Node => "isol8:node",
            Self::Bun => "isol8:bun",
            Self::Deno => "isol8:deno",
            Self::Bash => "isol8:bash",
            Self::Agent => "isol8:agent",
        }
    }

    /// Extension of the code file when the request names none, with its dot.
    #[must_use]
    pub const fn default_extension(self) -> &'static str {
        match self {
            Self::Python => ".py",
            Self::Node => ".mjs",
            Self::Bun => ".ts",
            Self::Deno => ".mts",
            Self::Bash => ".sh",
            Self::Agent => ".txt",
        }
    }

    /// The command line that runs the code file at `path`. The agent takes its prompt as a word
    /// instead, and knows no files of code.
    #[must_use]
    pub fn command(self, path: &str) -> Vec<String> {
        let words: &[&str] = match self {
            Self::Python => &["python3"],
            Self::Node => &["node"],
            Self::Bun => &["bun", "run"],
            Self::Deno => &[
                "deno",
                "run",
                "--allow-read=/sandbox,/tmp",
                "--allow-write=/sandbox,/tmp",
                "--allow-env",
                "--allow-net",
            ],
            Self::Bash => &["bash"],
            Self::Agent => &["pi", "-p"],
        };
        words.iter().copied().chain([path]).map(String::from).collect()
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_unknown_ones_list_the_choices() {
        for runtime in Runtime::ALL {
            assert_eq!(Runtime::from_name(runtime.name()).unwrap(), runtime);
        }
        let message = Runtime::from_name("cobol").unwrap_err().to_string();
        assert!(message.contains("Unknown runtime: \"cobol\""));
        assert!(message.contains("Available: python, node, bun, bash, deno"));
    }

    #[test]
    fn paths_are_detected_by_their_last_extension() {
        assert_eq!(Runtime::from_path("a/b.test.py"), Some(Runtime::Python));
        assert_eq!(Runtime::from_path("x.cjs"), Some(Runtime::Node));
        assert_eq!(Runtime::from_path("x.txt"), None);
        assert_eq!(Runtime::from_path("Makefile"), None);
    }
}
