//! What to run, and how: the flags of `isol8 run`, which `isol8 jobs submit` and `isol8 session exec`
//! share as far as they can mean something there.

use std::path::PathBuf;

use clap::Args;

/// Where the program comes from, in the one way or the other.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ProgramArgs {
    /// Program file; without it, -e or --cmd the program is read from standard input.
    pub(crate) file: Option<PathBuf>,
    /// Program text.
    #[arg(short = 'e', long, value_name = "CODE", allow_hyphen_values = true)]
    pub(crate) eval: Option<String>,
    /// Shell command, run by bash in the runtime's image.
    #[arg(long, value_name = "COMMAND", allow_hyphen_values = true)]
    pub(crate) cmd: Option<String>,
    /// python, node, bun, deno, bash or agent; detected from the file name otherwise.
    #[arg(short, long, value_name = "NAME")]
    pub(crate) runtime: Option<String>,
    /// Time limit of each phase.
    #[arg(long, value_name = "MS")]
    pub(crate) timeout: Option<u64>,
    /// Environment variable.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) env: Vec<String>,
    /// Environment variable whose value is masked in outputs.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) secret: Vec<String>,
    /// Host that alone gets a secret: the program has a placeholder, and the worker puts the secret into
    /// headers of http:// requests, which it sends over TLS (with --net filtered), or, to KEY=http://HOST,
    /// as they are; may be repeated.
    #[arg(long, value_name = "KEY=HOST")]
    pub(crate) secret_host: Vec<String>,
    /// Standard input of the program.
    #[arg(long, value_name = "DATA", allow_hyphen_values = true)]
    pub(crate) stdin: Option<String>,
    /// Working directory inside /sandbox.
    #[arg(long, value_name = "PATH")]
    pub(crate) workdir: Option<String>,
}

/// A server, and the key to it.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct RemoteArgs {
    /// Server to use.
    #[arg(long, value_name = "URL")]
    pub(crate) host: Option<String>,
    /// Its API key; else ISOL8_API_KEY, else that of `isol8 login`.
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
}

/// A program and all that it is to have: everything that becomes a request.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct RequestArgs {
    #[command(flatten)]
    pub(crate) program: ProgramArgs,
    /// Program from an address.
    #[arg(long, value_name = "URL", help_heading = "Program from the network")]
    pub(crate) url: Option<String>,
    /// Program from GitHub.
    #[arg(long, value_name = "OWNER/REPO/REF/PATH", help_heading = "Program from the network")]
    pub(crate) github: Option<String>,
    /// Program from a gist.
    #[arg(long, value_name = "ID/FILE", help_heading = "Program from the network")]
    pub(crate) gist: Option<String>,
    /// SHA-256 the fetched program must have.
    #[arg(long, value_name = "SHA256", help_heading = "Program from the network")]
    pub(crate) hash: Option<String>,
    /// Accept http:// addresses.
    #[arg(long, help_heading = "Program from the network")]
    pub(crate) allow_insecure_code_url: bool,

    /// Network: none, host or filtered.
    #[arg(long, value_name = "MODE", help_heading = "Network")]
    pub(crate) net: Option<String>,
    /// Host that may be reached over the filtered network; may be repeated.
    #[arg(long, value_name = "REGEX", help_heading = "Network")]
    pub(crate) allow: Vec<String>,
    /// Host that may not be reached; may be repeated.
    #[arg(long, value_name = "REGEX", help_heading = "Network")]
    pub(crate) deny: Vec<String>,
    /// Show each request made over the filtered network (with --no-stream).
    #[arg(long, help_heading = "Network")]
    pub(crate) log_network: bool,

    /// Memory, like 512m.
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    pub(crate) memory: Option<String>,
    /// Cores, may be a fraction.
    #[arg(long, value_name = "CORES", help_heading = "Limits")]
    pub(crate) cpu: Option<f64>,
    /// Processes and threads.
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pub(crate) pids_limit: Option<i64>,
    /// Bytes of output kept per stream.
    #[arg(long, value_name = "BYTES", help_heading = "Limits")]
    pub(crate) max_output: Option<u64>,
    /// Size of /sandbox.
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    pub(crate) sandbox_size: Option<String>,
    /// Size of /tmp.
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    pub(crate) tmp_size: Option<String>,

    /// Image instead of the runtime's own.
    #[arg(long, value_name = "NAME", help_heading = "Preparation")]
    pub(crate) image: Option<String>,
    /// Package to install first; may be repeated.
    #[arg(long, value_name = "PACKAGE", help_heading = "Preparation")]
    pub(crate) install: Vec<String>,
    /// Shell line, or file of them, to run first; may be repeated.
    #[arg(long, value_name = "COMMAND", help_heading = "Preparation")]
    pub(crate) setup: Vec<String>,
    /// Directory whose files are put into /sandbox.
    #[arg(long, value_name = "DIR", help_heading = "Preparation")]
    pub(crate) files: Option<PathBuf>,
    /// Flags of the agent (runtime agent).
    #[arg(long, value_name = "FLAGS", allow_hyphen_values = true, help_heading = "Preparation")]
    pub(crate) agent_flags: Option<String>,
    /// What keeps the sandbox apart from its machine: container, gvisor or kata. Where that is not to be had,
    /// the program does not run.
    #[arg(long, value_name = "KIND", help_heading = "Placement")]
    pub(crate) isolation: Option<String>,
    /// Label that the worker must have; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Placement")]
    pub(crate) label: Vec<String>,
}

/// How what comes of a program is wanted, where somebody waits for it.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct OutputArgs {
    /// Print output at the end instead of as it comes.
    #[arg(long, help_heading = "Output")]
    pub(crate) no_stream: bool,
    /// Write standard output to a file too (with --no-stream).
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) out: Option<PathBuf>,
    /// Put what the program leaves in its working directory into this one (implies --no-stream).
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub(crate) out_dir: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) request: RequestArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
    /// Run in a session of its own that ends with the run.
    #[arg(long)]
    pub(crate) persistent: bool,
    /// Run in this session of the server, which outlives the run.
    #[arg(long, value_name = "ID")]
    pub(crate) session_id: Option<String>,
    /// Keep the container.
    #[arg(long)]
    pub(crate) persist: bool,
}
