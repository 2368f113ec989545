//! A job: a request that passed admission, with every default filled in. This is what waits in the
//! queue and what a worker runs; it does not depend on the gateway's configuration any more.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::content::FileContent;
use super::egress::Egress;
use super::packages::PackageSet;
use super::request::Network;
use crate::config::Seccomp;
use crate::runtime::Runtime;

/// A fully resolved execution. A worker refuses one with fields that it does not know: to pass over one
/// could be to pass over a limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Job {
    /// Language, echoed in the result.
    pub runtime: Runtime,
    /// Image to run in.
    pub image: String,
    /// Packages the program needs.
    #[serde(default, skip_serializing_if = "PackageSet::is_empty")]
    pub packages: PackageSet,
    /// Patterns of the images that may take the place of `image` because they have the packages; `*`
    /// stands for any text. None if the request named its image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub substitutes: Vec<String>,
    /// The program.
    pub source: Source,
    /// Wall-clock limit of each phase, in milliseconds.
    pub timeout_ms: u64,
    /// Environment of the program, on top of the standard one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Like `env`, but masked in outputs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, String>,
    /// Standard input, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Files to put into the sandbox first; absolute paths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<InputFile>,
    /// Files to return; `None` leaves `files` out of the result altogether.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_paths: Option<Vec<String>>,
    /// Shell script to run before the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setup_script: Option<String>,
    /// Options for the agent, word by word.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agent_flags: Vec<String>,
    /// Absolute working directory inside `/sandbox`.
    pub workdir: String,
    /// Network mode.
    pub network: Network,
    /// What may be reached, if it is the filtered network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Box<Egress>>,
    /// System-call filter.
    #[serde(default)]
    pub seccomp: Seccomp,
    /// Resource limits.
    pub limits: Limits,
    /// For the audit log alone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Whether output is published as it comes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stream: bool,
    /// Whether standard input and signals come while it runs; `stdin` comes first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub interactive: bool,
    /// Whether signals come while it runs, even if standard input does not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub signals: bool,
}

impl Job {
    /// Whether anything comes for it while it runs.
    #[must_use]
    pub const fn listens(&self) -> bool {
        self.interactive || self.signals
    }

    /// Whether it has secrets, in its environment or for certain hosts.
    #[must_use]
    pub fn has_secrets(&self) -> bool {
        !self.secrets.is_empty()
            || self.egress.as_ref().is_some_and(|egress| !egress.secrets.is_empty())
    }
}

/// The program of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Source {
    /// A program text, written to a file and run by the runtime.
    Code {
        /// The text.
        text: String,
        /// Extension of the file, with its dot.
        extension: String,
    },
    /// A program text that the worker fetches first.
    #[serde(rename_all = "camelCase")]
    Url {
        /// Where it is.
        url: String,
        /// SHA-256 it must have, in lower-case hex.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hash: Option<String>,
        /// Whether it may come over connections that anybody can tamper with.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        allows_insecure: bool,
        /// Extension of the file, with its dot.
        extension: String,
    },
    /// A command line for `bash -c`.
    Command {
        /// The command line.
        command: String,
    },
}

/// A file to put into the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InputFile {
    /// Absolute path.
    pub path: String,
    /// Its bytes.
    pub content: FileContent,
}

/// What one sandbox may use. Part of the pool key: sandboxes of other limits are other sandboxes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Memory including tmpfs pages; there is no swap on top.
    pub memory_bytes: u64,
    /// CPU, in thousandths of a core.
    pub cpu_millis: u64,
    /// Processes and threads, including the sandbox's own.
    pub pids: u32,
    /// Size of `/sandbox`.
    pub sandbox_bytes: u64,
    /// Size of `/tmp`.
    pub tmp_bytes: u64,
    /// Whether the image's own files are read-only.
    pub readonly_root: bool,
    /// Bytes of each output stream that are kept. Enforced per job.
    pub max_output_bytes: u64,
}
