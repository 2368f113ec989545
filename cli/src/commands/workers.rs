//! `isol8 workers`: the workers of a server.

use std::process::ExitCode;
use std::time::Duration;

use client::{Client, Worker};

use super::keys::local;
use super::run::until_interrupted;
use crate::args::WorkersCommand;
use crate::{credentials, printer};

/// How often to look whether a worker is drained.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(crate) async fn run(command: WorkersCommand) -> anyhow::Result<ExitCode> {
    match command {
        WorkersCommand::List(args) => {
            let workers = credentials::client(&args.remote, None)?.list_workers().await?;
            if args.json {
                printer::line(serde_json::to_string_pretty(&workers)?);
            } else if workers.is_empty() {
                printer::line("[INFO] No workers.");
            } else {
                printer::line(table(&workers));
            }
        }
        WorkersCommand::Drain { id, wait, remote } => {
            let client = credentials::client(&remote, None)?;
            client.drain_worker(&id).await?;
            if wait {
                return until_interrupted(await_drained(&client, &id)).await;
            }
            printer::line(format!("[OK] Worker {id} takes no more jobs."));
        }
        WorkersCommand::Undrain { id, remote } => {
            credentials::client(&remote, None)?.undrain_worker(&id).await?;
            printer::line(format!("[OK] Worker {id} takes jobs again."));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits until nothing runs at a worker any more, or it has gone.
async fn await_drained(client: &Client, id: &str) -> anyhow::Result<ExitCode> {
    loop {
        let workers = client.list_workers().await?;
        match workers.iter().find(|worker| worker.id == id) {
            Some(worker) if worker.state != "drained" => tokio::time::sleep(LOOK_EVERY).await,
            Some(_) => {
                printer::line(format!("[OK] Worker {id} is drained."));
                return Ok(ExitCode::SUCCESS);
            }
            None => {
                printer::line(format!("[OK] Worker {id} has gone."));
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}

/// What a worker says of itself, on one line.
pub(super) fn labels(worker: &Worker) -> String {
    let labels: Vec<String> =
        worker.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let only = if worker.only_labelled { " (only)" } else { "" };
    format!("{}{only}", labels.join(","))
}

fn table(workers: &[Worker]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header([
        "ID",
        "NAME",
        "STATE",
        "RUNNING",
        "SESSIONS",
        "VERSION",
        "SINCE",
        "LABELS",
        "SECRETS KEYS",
    ]);
    for worker in workers {
        table.add_row([
            worker.id.clone(),
            worker.name.clone(),
            worker.state.clone(),
            format!("{}/{}", worker.running, worker.slots),
            worker.sessions.to_string(),
            worker.version.clone(),
            local(worker.started_at),
            labels(worker),
            worker.secrets_keys.join(","),
        ]);
    }
    table
}
