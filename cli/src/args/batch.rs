//! `isol8 batch`: many programs of one shape. Where no server is named, it is the one of the last login.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::fleet::PageArgs;
use super::run::RemoteArgs;
use super::webhook::WebhookArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum BatchCommand {
    /// Upload a batch; its identifier is printed.
    Submit(Box<BatchSubmitArgs>),
    /// Show how far a batch is until it ends; fails if an item did.
    Watch {
        /// The batch.
        id: String,
        /// As JSON, at the end.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Print results as they came, one JSON object for each item.
    Results(BatchResultsArgs),
    /// Stop a batch: what waits never runs, what runs is ended.
    Cancel {
        /// The batch.
        id: String,
        /// As JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Show what became of telling a batch's webhook.
    Deliveries {
        /// The batch.
        id: String,
        /// As JSON, with each attempt.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// Have a batch's webhook told once more, or sooner than it would be.
    Redeliver {
        /// The batch.
        id: String,
        /// The delivery, as listed; without it, the last one.
        delivery: Option<String>,
        #[command(flatten)]
        remote: RemoteArgs,
    },
    /// List batches, newest first.
    List(PageArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BatchSubmitArgs {
    /// Lines of JSON, an item each; - is standard input. Without --template, the first line is the template.
    pub(crate) file: PathBuf,
    /// JSON file with what holds for all items: request, options, queue, failureBudget.
    #[arg(long, value_name = "FILE")]
    pub(crate) template: Option<PathBuf>,
    /// Stop once more than so many items have failed.
    #[arg(long, value_name = "N")]
    pub(crate) failure_budget: Option<u64>,
    /// high, normal or low.
    #[arg(long, value_name = "NAME")]
    pub(crate) priority: Option<String>,
    /// How often to try each program in all.
    #[arg(long, value_name = "N")]
    pub(crate) max_attempts: Option<u32>,
    /// How long to keep the batch once it has ended.
    #[arg(long, value_name = "MS")]
    pub(crate) retention: Option<u64>,
    /// Word to find it by; may be repeated.
    #[arg(long, value_name = "TAG")]
    pub(crate) tag: Vec<String>,
    /// Label that the workers of its items must have; may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) label: Vec<String>,
    /// Makes a repeated submission the same batch.
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
    #[command(flatten)]
    pub(crate) webhook: WebhookArgs,
    /// Go on as `batch watch`.
    #[arg(long)]
    pub(crate) watch: bool,
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}

#[derive(Debug, Args)]
pub(crate) struct BatchResultsArgs {
    /// The batch.
    pub(crate) id: String,
    /// Begin with this result.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub(crate) from: u64,
    /// Go on until the batch ends.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Have the server forget what was printed, which makes room for more.
    #[arg(long)]
    pub(crate) acknowledge: bool,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}
