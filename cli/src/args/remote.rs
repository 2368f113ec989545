//! Commands about a server: `login`, `session` and `keys`. Where no server is named, it is the one
//! of the last login.

use clap::{Args, Subcommand};

use super::run::{OutputArgs, RemoteArgs, RequestArgs};

#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// Server to log in to.
    #[arg(long, value_name = "URL")]
    pub(crate) host: String,
    /// Its master key (ISOL8_API_KEY keeps it out of process lists).
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// What the key is called in lists.
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// How long it lives.
    #[arg(long, value_name = "MS")]
    pub(crate) ttl: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SessionCommand {
    /// List the open sessions.
    List(ListArgs),
    /// End a session with all that is in it.
    Stop {
        /// The session.
        id: String,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Run a program in a session; the first one opens it.
    Exec(Box<ExecArgs>),
    /// Copy a file into a session or out of it: one side is written ID:/path, `-` is this command's
    /// own input or output.
    Cp {
        /// File to copy.
        from: String,
        /// Where to.
        to: String,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// List a directory of a session.
    Ls {
        /// ID:/path, or ID for /sandbox.
        directory: String,
        /// As JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Remove a file or directory of a session.
    Rm {
        /// ID:/path.
        path: String,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Change what a session on the filtered network may reach, and print it.
    Network(NetworkArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}

#[derive(Debug, Args)]
pub(crate) struct NetworkArgs {
    /// The session.
    pub(crate) id: String,
    /// Seal it, or open it again.
    #[arg(long, value_name = "MODE", value_parser = ["filtered", "none"])]
    pub(crate) net: Option<String>,
    /// Hosts it may reach from now on, as a regular expression; may be repeated.
    #[arg(long, value_name = "REGEX")]
    pub(crate) allow: Vec<String>,
    /// Hosts it may not; may be repeated.
    #[arg(long, value_name = "REGEX")]
    pub(crate) deny: Vec<String>,
    /// Forget the hosts that were given before.
    #[arg(long)]
    pub(crate) clear: bool,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// The session.
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) request: RequestArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Make a key; it is printed once, on standard output.
    Create {
        /// What it is called in lists.
        name: String,
        /// Whose it is.
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
        /// How long it lives.
        #[arg(long, value_name = "MS")]
        ttl: Option<u64>,
        /// What it may do: execute, sessions, files or jobs; may be repeated. All of them otherwise.
        #[arg(long, value_name = "SCOPE")]
        scope: Vec<String>,
        /// All that the server tells of it, as JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// List the keys.
    List {
        /// Only those of one tenant.
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
        #[command(flatten)]
        list: ListArgs,
    },
    /// End a key at once.
    Revoke {
        /// Its identifier, as listed.
        id: String,
        #[command(flatten)]
        remote: RemoteArgs,
    },
}
