//! Commands about the jobs and workers of a server: `jobs`, `dlq`, `workers` and `top`. Where no server is
//! named, it is the one of the last login.

use clap::{Args, Subcommand};

use super::remote::ListArgs;
use super::run::{RemoteArgs, RequestArgs};
use super::webhook::WebhookArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum JobsCommand {
    /// Submit a program; its identifier is printed.
    Submit(Box<SubmitArgs>),
    /// Show a job.
    Get {
        /// The job.
        id: String,
        /// Wait so long for its end.
        #[arg(long, value_name = "MS", default_value_t = 0)]
        wait: u64,
        /// As JSON, with its result.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// List jobs, newest first.
    List {
        /// queued, running or finished.
        #[arg(long)]
        state: Option<String>,
        /// Only those with this tag.
        #[arg(long)]
        tag: Option<String>,
        #[command(flatten)]
        page: PageArgs,
    },
    /// Print what a job has written; its exit code is the command's once it has ended.
    Logs {
        /// The job.
        id: String,
        /// Go on until it ends.
        #[arg(short, long)]
        follow: bool,
        /// One JSON object for each event.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// End a job, waiting or running.
    Cancel {
        /// The job.
        id: String,
        /// As JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Show what became of telling a job's webhook.
    Deliveries {
        /// The job.
        id: String,
        /// As JSON, with each attempt.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Have a job's webhook told once more, or sooner than it would be.
    Redeliver {
        /// The job.
        id: String,
        /// The delivery, as listed; without it, the last one.
        delivery: Option<String>,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Have a job that was given up run after all; as `dlq redrive`.
    Retry(RedriveArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SubmitArgs {
    #[command(flatten)]
    pub(crate) request: RequestArgs,
    /// Run in this session.
    #[arg(long, value_name = "ID")]
    pub(crate) session_id: Option<String>,
    /// high, normal or low.
    #[arg(long, value_name = "NAME", help_heading = "Queue")]
    pub(crate) priority: Option<String>,
    /// Begin so much later.
    #[arg(long, value_name = "MS", help_heading = "Queue")]
    pub(crate) delay: Option<u64>,
    /// Begin at this time (ISO 8601).
    #[arg(long, value_name = "TIME", help_heading = "Queue", conflicts_with = "delay")]
    pub(crate) run_at: Option<chrono::DateTime<chrono::Utc>>,
    /// Do not begin later than so long after the submission.
    #[arg(long, value_name = "MS", help_heading = "Queue")]
    pub(crate) expires: Option<u64>,
    /// How often to try the program in all.
    #[arg(long, value_name = "N", help_heading = "Queue")]
    pub(crate) max_attempts: Option<u32>,
    /// Pause before the second try.
    #[arg(long, value_name = "MS", help_heading = "Queue")]
    pub(crate) backoff: Option<u64>,
    /// How long to keep it once it has ended.
    #[arg(long, value_name = "MS", help_heading = "Queue")]
    pub(crate) retention: Option<u64>,
    /// Word to find it by; may be repeated.
    #[arg(long, value_name = "TAG", help_heading = "Queue")]
    pub(crate) tag: Vec<String>,
    /// Makes a repeated submission the same job.
    #[arg(long, value_name = "KEY", help_heading = "Queue")]
    pub(crate) idempotency_key: Option<String>,
    #[command(flatten)]
    pub(crate) webhook: WebhookArgs,
    /// All that the server tells of it, as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// One look instead of a live screen.
    #[arg(long)]
    pub(crate) once: bool,
    /// One look, as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PageArgs {
    /// Those of another tenant, as the master.
    #[arg(long, value_name = "NAME")]
    pub(crate) tenant: Option<String>,
    /// Most of them.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Where to go on, as told by the page before.
    #[arg(long, value_name = "CURSOR")]
    pub(crate) cursor: Option<String>,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RedriveArgs {
    /// The job.
    pub(crate) id: String,
    /// Memory to give it instead, like 512m.
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<String>,
    /// Time limit of each phase instead.
    #[arg(long, value_name = "MS")]
    pub(crate) timeout: Option<u64>,
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DlqCommand {
    /// List the jobs that were given up.
    List(PageArgs),
    /// Show one, with its evidence, as JSON.
    Get {
        /// The job.
        id: String,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Have one run after all, with other limits if need be.
    Redrive(RedriveArgs),
    /// Forget one.
    Forget {
        /// The job.
        id: String,
        #[command(flatten)]
        remote: RemoteArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum WorkersCommand {
    /// List the workers that live.
    List(ListArgs),
    /// Have one take no more jobs; what it runs goes on.
    Drain {
        /// The worker, as listed.
        id: String,
        /// Wait until nothing runs there any more.
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Have one that was drained take jobs again.
    Undrain {
        /// The worker, as listed.
        id: String,
        #[command(flatten)]
        remote: RemoteArgs,
    },
}
