//! The command line as written by the user. What a flag means is decided in `settings`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Runs untrusted code in locked-down sandboxes: on this machine, or on a fleet.
#[derive(Debug, Parser)]
#[command(name = "isol8", version, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// Verbose logs.
    #[arg(long, global = true)]
    pub(crate) debug: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Install what is missing, start Docker, build the images.
    Setup(crate::commands::setup::SetupArgs),
    /// Run a program in a sandbox.
    Run(Box<RunArgs>),
    /// Run everything on this machine: gateway, worker and queue.
    Serve(ServeArgs),
    /// Run a gateway of a fleet.
    Gateway(GatewayArgs),
    /// Run a worker of a fleet.
    Worker(WorkerArgs),
    /// Show the configuration.
    Config(ConfigArgs),
    /// Remove containers, and with --images images, that isol8 made on this machine.
    Cleanup(CleanupArgs),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Program file; without it, -e or --cmd the program is read from standard input.
    pub(crate) file: Option<PathBuf>,
    /// Program text.
    #[arg(short = 'e', long, value_name = "CODE", allow_hyphen_values = true)]
    pub(crate) eval: Option<String>,
    /// Shell command, run by bash in the runtime's image.
    #[arg(long, value_name = "COMMAND", allow_hyphen_values = true)]
    pub(crate) cmd: Option<String>,
    /// python, node, bun, deno or bash; detected from the file name otherwise.
    #[arg(short, long, value_name = "NAME")]
    pub(crate) runtime: Option<String>,
    /// Network: none or host.
    #[arg(long, value_name = "MODE")]
    pub(crate) net: Option<String>,
    /// Write standard output to a file (with --no-stream).
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Time limit of each phase.
    #[arg(long, value_name = "MS")]
    pub(crate) timeout: Option<u64>,
    /// Memory, like 512m.
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<String>,
    /// Cores, may be a fraction.
    #[arg(long, value_name = "CORES")]
    pub(crate) cpu: Option<f64>,
    /// Image instead of the runtime's own.
    #[arg(long, value_name = "NAME")]
    pub(crate) image: Option<String>,
    /// Processes and threads.
    #[arg(long, value_name = "N")]
    pub(crate) pids_limit: Option<i64>,
    /// Bytes of output kept per stream.
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_output: Option<u64>,
    /// Environment variable whose value is masked in outputs.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) secret: Vec<String>,
    /// Environment variable.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) env: Vec<String>,
    /// Size of /sandbox.
    #[arg(long, value_name = "SIZE")]
    pub(crate) sandbox_size: Option<String>,
    /// Size of /tmp.
    #[arg(long, value_name = "SIZE")]
    pub(crate) tmp_size: Option<String>,
    /// Standard input of the program.
    #[arg(long, value_name = "DATA", allow_hyphen_values = true)]
    pub(crate) stdin: Option<String>,
    /// Shell line, or file of them, to run first; may be repeated.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) setup: Vec<String>,
    /// Working directory inside /sandbox.
    #[arg(long, value_name = "PATH")]
    pub(crate) workdir: Option<String>,
    /// Directory whose files are put into /sandbox.
    #[arg(long, value_name = "DIR")]
    pub(crate) files: Option<PathBuf>,
    /// Server to run on instead of this machine.
    #[arg(long, value_name = "URL")]
    pub(crate) host: Option<String>,
    /// API key of that server.
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// Print output at the end instead of as it comes.
    #[arg(long)]
    pub(crate) no_stream: bool,
}

#[derive(Debug, Args)]
pub(crate) struct QueueArgs {
    /// Redis to use: redis://host:port or redis+unix:///path.
    #[arg(long = "redis", env = "ISOL8_REDIS_URL", value_name = "URL")]
    pub(crate) redis_url: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ListenArgs {
    /// Port to listen on (ISOL8_PORT, PORT; default 3000).
    #[arg(short, long, value_name = "PORT")]
    pub(crate) port: Option<String>,
    /// Address to listen on.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<String>,
    /// The master key (ISOL8_API_KEY keeps it out of process lists).
    #[arg(short, long, value_name = "KEY")]
    pub(crate) key: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SlotArgs {
    /// Jobs run at once.
    #[arg(long, value_name = "N")]
    pub(crate) max_concurrent: Option<usize>,
    /// Answer every job at once, without a sandbox: for measuring the queue.
    #[arg(long)]
    pub(crate) no_op: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) listen: ListenArgs,
    #[command(flatten)]
    pub(crate) queue: QueueArgs,
    #[command(flatten)]
    pub(crate) slots: SlotArgs,
    /// Where the server's own Redis keeps its data.
    #[arg(long, env = "ISOL8_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct GatewayArgs {
    #[command(flatten)]
    pub(crate) listen: ListenArgs,
    #[command(flatten)]
    pub(crate) queue: QueueArgs,
}

#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    #[command(flatten)]
    pub(crate) queue: QueueArgs,
    #[command(flatten)]
    pub(crate) slots: SlotArgs,
    /// Serve /healthz, /readyz and /metrics here.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CleanupArgs {
    /// Do not ask.
    #[arg(long)]
    pub(crate) force: bool,
    /// Also remove the images.
    #[arg(long)]
    pub(crate) images: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
