//! What can be asked of a session: run a program in it, or do something to one of its files. Calls
//! wait in the session's own queue and run one at a time, in order.

use serde::{Deserialize, Serialize};

use super::content::FileContent;
use super::job::Job;
use super::request::Network;
use crate::id::TransferId;

/// One call.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
#[expect(clippy::large_enum_variant, reason = "one per call, moved twice, never stored in bulk")]
pub enum Call {
    /// Runs a program, in the living interpreter if it is one's code.
    Execute {
        /// The program.
        job: Job,
    },
    /// Writes a file; answered by [`FileReply::Written`].
    Write {
        /// Absolute path, or relative to `/sandbox`.
        path: String,
        /// Permission bits.
        mode: u32,
        /// Where the bytes come from.
        content: Content,
    },
    /// Reads a file; answered by [`FileReply::Read`].
    Read {
        /// Absolute path, or relative to `/sandbox`.
        path: String,
        /// A larger file is refused.
        max_bytes: u64,
        /// Where the bytes go; `None`: into the answer.
        transfer: Option<TransferId>,
    },
    /// Lists a directory; answered by [`FileReply::Directory`].
    List {
        /// Absolute path, or relative to `/sandbox`.
        path: String,
    },
    /// Changes what the session may reach; answered by [`FileReply::Network`].
    SetNetwork {
        /// What of it.
        change: NetworkChange,
    },
    /// Removes a file or directory; answered by [`FileReply::Removed`].
    Remove {
        /// Absolute path, or relative to `/sandbox`.
        path: String,
    },
}

impl Call {
    /// The program, if the call runs one.
    #[must_use]
    pub const fn job(&self) -> Option<&Job> {
        match self {
            Self::Execute { job } => Some(job),
            _ => None,
        }
    }
}

/// A change of what a session may reach over the filtered network. What is absent stays as it is; a name
/// that is not known is refused, as in [`FilterOptions`](super::FilterOptions).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct NetworkChange {
    /// `filtered` opens the way out, `none` seals it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Network>,
    /// Hosts that may be reached; empty means all that the server allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whitelist: Option<Vec<String>>,
    /// Hosts that may not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blacklist: Option<Vec<String>>,
}

/// Where the bytes of a file come from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Content {
    /// They are here.
    Inline(FileContent),
    /// They come piece by piece.
    Transfer(TransferId),
}

/// The answer to a call that runs no program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum FileReply {
    /// Written.
    Written {
        /// How much.
        size_bytes: u64,
    },
    /// Read.
    Read {
        /// How much.
        size_bytes: u64,
        /// The bytes, unless they went by a transfer.
        #[serde(skip_serializing_if = "Option::is_none")]
        content: Option<FileContent>,
    },
    /// Listed, sorted by name.
    Directory {
        /// What is in it.
        entries: Vec<FileEntry>,
        /// Whether there is more than fits into an answer.
        truncated: bool,
    },
    /// Removed.
    Removed,
    /// What the session may reach from now on.
    Network {
        /// `filtered`, or `none` if it is sealed.
        mode: Network,
        /// Hosts that may be reached.
        whitelist: Vec<String>,
        /// Hosts that may not.
        blacklist: Vec<String>,
    },
}

/// One entry of a directory, as clients see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileEntry {
    /// Its name.
    pub name: String,
    /// `file`, `directory`, `symlink` or `other`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Size of a file.
    pub size_bytes: u64,
    /// Permission bits, in octal, like `0644`.
    pub mode: String,
    /// When it was last changed, in milliseconds since the epoch.
    pub modified_ms: u64,
}
