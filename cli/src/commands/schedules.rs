//! `isol8 schedules`: programs that a server submits as jobs when their time comes.

use std::process::ExitCode;

use anyhow::Context as _;
use client::{Schedule, ScheduleOptions, SchedulePage, ScheduleQuery, ScheduleRun};
use serde::de::DeserializeOwned;
use serde_json::Value;
use shared::execution::QueueOptions;

use super::keys::local;
use crate::args::{CreateScheduleArgs, SchedulesCommand};
use crate::request::{self, Session, webhook};
use crate::{credentials, printer, settings};

pub(crate) async fn run(command: SchedulesCommand) -> anyhow::Result<ExitCode> {
    match command {
        SchedulesCommand::Create(args) => create(&args).await?,
        SchedulesCommand::List(page) => {
            let client = credentials::client(&page.list.remote, None)?;
            let query =
                ScheduleQuery { cursor: page.cursor, limit: page.limit, tenant_id: page.tenant };
            show_page(&client.list_schedules(&query).await?, page.list.json)?;
        }
        SchedulesCommand::Get { id, json, remote } => {
            let schedule = credentials::client(&remote, None)?.schedule(&id).await?;
            show(&schedule, json)?;
        }
        SchedulesCommand::Pause(args) => {
            let client = credentials::client(&args.remote, None)?;
            client.enable_schedule(&args.id, false).await?;
            printer::line(format!("[OK] Schedule {} is paused.", args.id));
        }
        SchedulesCommand::Resume(args) => {
            let client = credentials::client(&args.remote, None)?;
            let next = client.enable_schedule(&args.id, true).await?.next_run_at.map(local);
            let next = next.map_or_else(|| "never: it is over".into(), |at| format!("at {at}"));
            printer::line(format!("[OK] Schedule {} runs next {next}.", args.id));
        }
        SchedulesCommand::RunNow(args) => {
            let client = credentials::client(&args.remote, None)?;
            // Alone, for scripts.
            printer::line(client.run_schedule(&args.id).await?);
        }
        SchedulesCommand::Delete(args) => {
            credentials::client(&args.remote, None)?.delete_schedule(&args.id).await?;
            printer::line(format!("[OK] Schedule {} deleted.", args.id));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn create(args: &CreateScheduleArgs) -> anyhow::Result<()> {
    let priority = args.priority.as_deref();
    let queue = QueueOptions {
        tags: (!args.tag.is_empty()).then(|| args.tag.clone()),
        retention_ms: args.retention,
        priority: priority.map(|it| word("priority", it, "high, normal or low")).transpose()?,
        expires_ms: args.expires,
        max_attempts: args.max_attempts,
        backoff_ms: args.backoff,
        webhook: webhook(&args.webhook)?,
        labels: request::labels(&args.request.label)?,
        ..QueueOptions::default()
    };
    let options = ScheduleOptions {
        name: args.name.clone(),
        cron: args.cron.clone(),
        at: args.at,
        timezone: args.timezone.clone(),
        missed: word("--missed", &args.missed, "skip, once or all")?,
        overlap: word("--overlap", &args.overlap, "allow, skip or replace")?,
        is_paused: args.paused,
    };
    let execution = request::of_request(&args.request, &Session::None, &settings::load()?)?;
    let client = credentials::client(&args.remote, None)?;
    let schedule = client.create_schedule(&execution, &queue, &options).await?;
    if args.json {
        printer::line(serde_json::to_string_pretty(&schedule)?);
    } else {
        // Alone, for scripts.
        printer::line(&schedule.id);
    }
    Ok(())
}

/// One of the words that a flag takes.
fn word<T: DeserializeOwned>(what: &str, name: &str, words: &str) -> anyhow::Result<T> {
    serde_json::from_value(Value::String(name.to_owned()))
        .with_context(|| format!("unknown {what} \"{name}\": use {words}"))
}

fn show_page(page: &SchedulePage, json: bool) -> anyhow::Result<()> {
    if json {
        printer::line(serde_json::to_string_pretty(page)?);
        return Ok(());
    }
    if page.schedules.is_empty() {
        printer::line("[INFO] No schedules.");
        return Ok(());
    }
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["ID", "NAME", "WHEN", "ZONE", "NEXT", "LAST"]);
    for it in &page.schedules {
        table.add_row([
            it.id.clone(),
            it.name.clone().unwrap_or_default(),
            when(it),
            it.timezone.clone(),
            next(it),
            it.runs.first().map(last).unwrap_or_default(),
        ]);
    }
    printer::line(table);
    if let Some(cursor) = &page.next_cursor {
        printer::info(format!("There may be more: --cursor {cursor}"));
    }
    Ok(())
}

fn show(schedule: &Schedule, json: bool) -> anyhow::Result<()> {
    if json {
        printer::line(serde_json::to_string_pretty(schedule)?);
        return Ok(());
    }
    printer::line(format!("{}  {}", schedule.id, schedule.name.as_deref().unwrap_or_default()));
    printer::line(format!("  when: {} ({})", when(schedule), schedule.timezone));
    printer::line(format!("  next: {}", next(schedule)));
    for run in &schedule.runs {
        printer::line(format!("  run: {}", last(run)));
    }
    Ok(())
}

fn when(schedule: &Schedule) -> String {
    schedule.cron.clone().or_else(|| schedule.at.map(local)).unwrap_or_default()
}

fn next(schedule: &Schedule) -> String {
    match (schedule.enabled, schedule.next_run_at) {
        (false, _) => "paused".to_owned(),
        (true, Some(at)) => local(at),
        (true, None) => "over".to_owned(),
    }
}

fn last(run: &ScheduleRun) -> String {
    let more = run.job_id.as_deref().or(run.reason.as_deref()).unwrap_or_default();
    let count = run.count.map(|count| format!(" ({count} times)")).unwrap_or_default();
    format!("{} {}{count} {more}", local(run.due_at.unwrap_or(run.at)), run.outcome)
}
