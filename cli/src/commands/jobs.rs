//! `isol8 jobs`: programs in a server's queue.

use std::process::ExitCode;

use anyhow::Context as _;
use client::{Client, Job, JobEvent, JobEventType, JobPage, JobQuery};
use serde_json::Value;
use shared::execution::QueueOptions;

use super::deliveries;
use super::keys::local;
use super::run::{to_exit_code, until_interrupted};
use crate::args::{JobsCommand, PageArgs, SubmitArgs};
use crate::request::{self, Session, webhook};
use crate::{credentials, printer, settings};

pub(crate) async fn run(command: JobsCommand) -> anyhow::Result<ExitCode> {
    match command {
        JobsCommand::Submit(args) => submit(&args).await?,
        JobsCommand::Get { id, wait, json, remote } => {
            let job = credentials::client(&remote, None)?.job(&id, wait).await?;
            show(&job, json)?;
        }
        JobsCommand::List { state, tag, page } => {
            let client = credentials::client(&page.list.remote, None)?;
            let query = JobQuery { state, tag, ..query(&page) };
            show_page(&client.list_jobs(&query).await?, page.list.json, "No jobs.")?;
        }
        JobsCommand::Logs { id, follow, json, remote } => {
            let client = credentials::client(&remote, None)?;
            return until_interrupted(logs(&client, &id, follow, json)).await;
        }
        JobsCommand::Cancel { id, json, remote } => {
            let job = credentials::client(&remote, None)?.cancel_job(&id).await?;
            show(&job, json)?;
        }
        JobsCommand::Deliveries { id, json, remote } => {
            let deliveries = credentials::client(&remote, None)?.deliveries(&id).await?;
            deliveries::show(&deliveries, json)?;
        }
        JobsCommand::Redeliver { id, delivery, remote } => {
            let client = credentials::client(&remote, None)?;
            let delivery = match delivery {
                Some(delivery) => delivery,
                None => deliveries::last(client.deliveries(&id).await?, &format!("job {id}"))?,
            };
            client.retry_delivery(&id, &delivery).await?;
            deliveries::confirm(&delivery);
        }
        JobsCommand::Retry(args) => super::dlq::redrive(&args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn submit(args: &SubmitArgs) -> anyhow::Result<()> {
    let priority = args.priority.clone().map(|name| {
        serde_json::from_value(Value::String(name.clone()))
            .with_context(|| format!("unknown priority \"{name}\": use high, normal or low"))
    });
    let queue = QueueOptions {
        tags: (!args.tag.is_empty()).then(|| args.tag.clone()),
        retention_ms: args.retention,
        priority: priority.transpose()?,
        delay_ms: args.delay,
        run_at: args.run_at,
        expires_ms: args.expires,
        max_attempts: args.max_attempts,
        backoff_ms: args.backoff,
        webhook: webhook(&args.webhook)?,
        labels: request::labels(&args.request.label)?,
        ..QueueOptions::default()
    };
    let session = args.session_id.clone().map_or(Session::None, Session::Named);
    let execution = request::of_request(&args.request, &session, &settings::load()?)?;
    let client = credentials::client(&args.remote, session.id())?;
    let job = client.submit_job(&execution, &queue, args.idempotency_key.as_deref()).await?;
    if args.json {
        printer::line(serde_json::to_string_pretty(&job)?);
    } else {
        // Alone, for scripts.
        printer::line(&job.id);
    }
    Ok(())
}

/// What a page of a list is asked for by.
pub(super) fn query(page: &PageArgs) -> JobQuery {
    JobQuery {
        cursor: page.cursor.clone(),
        limit: page.limit,
        tenant_id: page.tenant.clone(),
        ..JobQuery::default()
    }
}

/// Prints a page.
pub(super) fn show_page(page: &JobPage, json: bool, none: &str) -> anyhow::Result<()> {
    if json {
        printer::line(serde_json::to_string_pretty(page)?);
        return Ok(());
    }
    if page.jobs.is_empty() {
        printer::line(format!("[INFO] {none}"));
    } else {
        printer::line(table(&page.jobs));
    }
    if let Some(cursor) = &page.next_cursor {
        printer::info(format!("There may be more: --cursor {cursor}"));
    }
    Ok(())
}

fn table(jobs: &[Job]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["ID", "STATE", "SUBMITTED", "OUTCOME", "CODE", "ATTEMPTS", "TAGS"]);
    for job in jobs {
        table.add_row([
            job.id.clone(),
            job.state.clone(),
            job.created_at.map(local).unwrap_or_default(),
            job.outcome.clone().unwrap_or_default(),
            job.exit_code.map(|code| code.to_string()).unwrap_or_default(),
            job.attempts.to_string(),
            job.tags.join(","),
        ]);
    }
    table
}

/// Prints a job: what there is to know in some lines, or everything as JSON.
pub(super) fn show(job: &Job, json: bool) -> anyhow::Result<()> {
    if json {
        printer::line(serde_json::to_string_pretty(job)?);
        return Ok(());
    }
    printer::line(format!("{}  [{}]", job.id, job.state));
    let more = Value::Object(job.more.clone());
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let tell = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            printer::line(format!("  {name}: {value}"));
        }
    };
    tell("submitted", job.created_at.map(local));
    tell("outcome", job.outcome.clone());
    tell("exit code", job.exit_code.map(|code| code.to_string()));
    tell("attempts", Some(job.attempts.to_string()));
    tell("tags", (!job.tags.is_empty()).then(|| job.tags.join(", ")));
    for (name, pointer) in [
        ("waits for", "/waiting/reason"),
        ("because", "/waiting/message"),
        ("position", "/waiting/position"),
        ("until", "/waitsUntil"),
        ("error", "/error/message"),
        ("dead letter", "/deadLetter"),
    ] {
        tell(name, more.pointer(pointer).map(text));
    }
    Ok(())
}

async fn logs(client: &Client, id: &str, follow: bool, json: bool) -> anyhow::Result<ExitCode> {
    let mut output = client.job_output(id, follow).await?;
    let mut code = ExitCode::SUCCESS;
    while let Some(event) = output.next().await {
        let event = event?;
        if event.kind == JobEventType::End {
            code = to_exit_code(event.exit_code.unwrap_or(1));
        }
        if json {
            printer::line(serde_json::to_string(&event)?);
        } else {
            tell(&event)?;
        }
        if event.kind == JobEventType::Error {
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(code)
}

fn tell(event: &JobEvent) -> anyhow::Result<()> {
    match event.kind {
        JobEventType::Stdout => printer::raw_stdout(event.data.as_bytes())?,
        JobEventType::Stderr => printer::raw_stderr(event.data.as_bytes())?,
        JobEventType::Restarted => printer::info("the job begins anew"),
        JobEventType::Gap => {
            printer::warning(format!("{} events are not kept any more", event.count));
        }
        JobEventType::End => {
            if let Some(error) = &event.error {
                printer::error(error);
            }
        }
        JobEventType::Error => printer::error(&event.data),
        JobEventType::SetupEnded | JobEventType::Other => {}
    }
    Ok(())
}
