//! `isol8 dlq`: jobs that were given up because workers or sandboxes failed under them.

use std::process::ExitCode;

use shared::execution::ExecutionOptions;

use super::jobs::{query, show, show_page};
use crate::args::{DlqCommand, RedriveArgs};
use crate::{credentials, printer};

pub(crate) async fn run(command: DlqCommand) -> anyhow::Result<ExitCode> {
    match command {
        DlqCommand::List(page) => {
            let client = credentials::client(&page.list.remote, None)?;
            let letters = client.list_dead_letters(&query(&page)).await?;
            show_page(&letters, page.list.json, "No dead letters.")?;
        }
        DlqCommand::Get { id, remote } => {
            let letter = credentials::client(&remote, None)?.dead_letter(&id).await?;
            printer::line(serde_json::to_string_pretty(&letter)?);
        }
        DlqCommand::Redrive(args) => redrive(&args).await?,
        DlqCommand::Forget { id, remote } => {
            credentials::client(&remote, None)?.forget_dead_letter(&id).await?;
            printer::line(format!("[OK] Dead letter {id} forgotten."));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Has a dead letter run after all.
pub(super) async fn redrive(args: &RedriveArgs) -> anyhow::Result<()> {
    let options = ExecutionOptions {
        memory_limit: args.memory.clone(),
        timeout_ms: args.timeout,
        ..ExecutionOptions::default()
    };
    let job = credentials::client(&args.remote, None)?.redrive(&args.id, &options).await?;
    show(&job, args.json)
}
