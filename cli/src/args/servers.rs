//! `isol8 serve`, `gateway` and `worker`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct QueueArgs {
    /// Redis to use: redis://, rediss:// (TLS), redis+unix:// or redis+sentinel://.
    #[arg(long = "redis", env = "ISOL8_REDIS_URL", value_name = "URL", hide_env_values = true)]
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
    /// Accept keys made with `isol8 keys` besides the master key. They are kept in Redis; the value
    /// is read by isol8's own server only.
    #[arg(long, value_name = "CONNECTION")]
    pub(crate) auth_db: Option<String>,
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
    /// Accepted for scripts written for isol8's own command; there is nothing to update.
    #[arg(long)]
    pub(crate) update: bool,
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
