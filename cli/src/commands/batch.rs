//! `isol8 batch`: many programs of one shape in a server's queue.

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use client::{Batch, BatchPage, BatchProgress, BatchQuery, BatchResults, Client, ClientError};
use futures_util::StreamExt as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use serde_json::{Map, Value, json};
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::time::{sleep, timeout};
use tokio_util::io::ReaderStream;

use super::deliveries;
use super::keys::local;
use super::run::until_interrupted;
use crate::args::{BatchCommand, BatchResultsArgs, BatchSubmitArgs};
use crate::{credentials, printer, request};

/// Bytes that are sent in one piece.
const PIECE_BYTES: usize = 64 << 10;
/// How often to look how far a batch is, in milliseconds.
const LOOK_MS: u64 = 500;
/// Results that are printed before they are acknowledged, or for how long none comes.
const ACKNOWLEDGED_AT_ONCE: u64 = 1000;
const QUIET: Duration = Duration::from_secs(1);
/// How often a broken connection is made anew without a single result, and after what pause.
const MAX_RETRIES: u32 = 10;
const RETRY_PAUSE: Duration = Duration::from_secs(1);

pub(crate) async fn run(command: BatchCommand) -> anyhow::Result<ExitCode> {
    match command {
        BatchCommand::Submit(args) => return until_interrupted(submit(&args)).await,
        BatchCommand::Watch { id, json, remote } => {
            let client = credentials::client(&remote, None)?;
            return until_interrupted(watch(&client, &id, json)).await;
        }
        BatchCommand::Results(args) => return until_interrupted(results(&args)).await,
        BatchCommand::Cancel { id, json, remote } => {
            let batch = credentials::client(&remote, None)?.cancel_batch(&id).await?;
            show(&batch, json)?;
        }
        BatchCommand::Deliveries { id, json, remote } => {
            let found = credentials::client(&remote, None)?.batch_deliveries(&id).await?;
            deliveries::show(&found, json)?;
        }
        BatchCommand::Redeliver { id, delivery, remote } => {
            let client = credentials::client(&remote, None)?;
            let delivery = match delivery {
                Some(delivery) => delivery,
                None => {
                    deliveries::last(client.batch_deliveries(&id).await?, &format!("batch {id}"))?
                }
            };
            client.retry_batch_delivery(&id, &delivery).await?;
            deliveries::confirm(&delivery);
        }
        BatchCommand::List(page) => {
            let client = credentials::client(&page.list.remote, None)?;
            let query =
                BatchQuery { cursor: page.cursor, limit: page.limit, tenant_id: page.tenant };
            show_page(&client.list_batches(&query).await?, page.list.json)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn submit(args: &BatchSubmitArgs) -> anyhow::Result<ExitCode> {
    let name = args.file.display();
    let is_stdin = args.file.as_os_str() == "-";
    let (source, size): (Box<dyn AsyncRead + Send + Unpin>, Option<u64>) = if is_stdin {
        (Box::new(tokio::io::stdin()), None)
    } else {
        let file = File::open(&args.file).await.with_context(|| format!("cannot read {name}"))?;
        let size = file.metadata().await.with_context(|| format!("cannot read {name}"))?.len();
        (Box::new(file), Some(size))
    };
    let mut lines = BufReader::with_capacity(PIECE_BYTES, source);
    let mut head = match &args.template {
        Some(path) => {
            let text = tokio::fs::read(path).await;
            let text = text.with_context(|| format!("cannot read {}", path.display()))?;
            object(&text).with_context(|| path.display().to_string())?
        }
        None => {
            let mut first = Vec::new();
            lines
                .read_until(b'\n', &mut first)
                .await
                .with_context(|| format!("cannot read {name}"))?;
            object(&first).with_context(|| format!("{name}, line 1 (the template)"))?
        }
    };
    change(&mut head, args)?;
    let client = credentials::client(&args.remote, None)?;
    let bar = bar(size, "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    let shown = bar.clone();
    let rest = ReaderStream::with_capacity(lines, PIECE_BYTES)
        .inspect(move |piece| shown.inc(piece.as_ref().map_or(0, |piece| piece.len() as u64)));
    let first = Bytes::from(format!("{}\n", Value::Object(head)));
    let pieces = futures_util::stream::iter([Ok(first)]).chain(rest);
    let submitted = client.submit_batch(pieces, args.idempotency_key.as_deref()).await;
    bar.finish_and_clear();
    let batch = submitted?;
    if args.json && !args.watch {
        printer::line(serde_json::to_string_pretty(&batch)?);
    } else if !args.json {
        // Alone, for scripts.
        printer::line(&batch.id);
    }
    if args.watch { watch(&client, &batch.id, args.json).await } else { Ok(ExitCode::SUCCESS) }
}

fn object(text: &[u8]) -> anyhow::Result<Map<String, Value>> {
    let value = serde_json::from_slice(text).context("this is not JSON")?;
    match value {
        Value::Object(object) => Ok(object),
        _ => anyhow::bail!("this must be a JSON object"),
    }
}

/// Puts into the template what the flags say.
fn change(head: &mut Map<String, Value>, args: &BatchSubmitArgs) -> anyhow::Result<()> {
    ensure!(
        !head.contains_key("items"),
        "the template has \"items\": give the items as lines of their own"
    );
    if let Some(budget) = args.failure_budget {
        head.insert("failureBudget".into(), budget.into());
    }
    let wishes = [
        ("priority", args.priority.as_ref().map(|it| json!(it))),
        ("maxAttempts", args.max_attempts.map(|it| json!(it))),
        ("retentionMs", args.retention.map(|it| json!(it))),
        ("tags", (!args.tag.is_empty()).then(|| json!(args.tag))),
        ("labels", request::labels(&args.label)?.map(|it| json!(it))),
        ("webhook", request::webhook(&args.webhook)?.map(|it| json!(it))),
    ];
    for (name, value) in wishes {
        let Some(value) = value else { continue };
        let queue = head.entry("queue").or_insert_with(|| json!({}));
        let queue = queue.as_object_mut().context("the template's \"queue\" must be an object")?;
        queue.insert(name.into(), value);
    }
    Ok(())
}

async fn watch(client: &Client, id: &str, json: bool) -> anyhow::Result<ExitCode> {
    let bar = bar(None, "{wide_bar} {pos}/{len} {rate} {eta} {msg}");
    let batch = loop {
        let batch = client.batch(id, LOOK_MS).await;
        let batch = batch.inspect_err(|_| bar.finish_and_clear())?;
        let now = batch.progress.unwrap_or_default();
        bar.set_length(now.items);
        bar.set_position(now.results + now.not_begun);
        bar.set_message(words(&batch, now));
        if batch.state == "finished" {
            break batch;
        }
    };
    bar.finish_and_clear();
    show(&batch, json)?;
    let now = batch.progress.unwrap_or_default();
    Ok(if now.succeeded == now.items { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn words(batch: &Batch, now: BatchProgress) -> String {
    let mut words = match now.failed {
        0 => String::new(),
        failed => format!("{failed} failed "),
    };
    if let Some(why) = batch.more.get("waiting").and_then(|waiting| waiting["reason"].as_str()) {
        words.push_str("waits: ");
        words.push_str(why);
    }
    words
}

async fn results(args: &BatchResultsArgs) -> anyhow::Result<ExitCode> {
    let client = credentials::client(&args.remote, None)?;
    let (mut next, mut retries) = (args.from, 0);
    loop {
        let before = next;
        let outcome = read(&client, args, &mut next).await;
        retries = if next > before { 0 } else { retries + 1 };
        match outcome {
            Ok(is_complete) if is_complete || !args.follow => return Ok(ExitCode::SUCCESS),
            Ok(_) if retries <= MAX_RETRIES => {}
            Err(error) if args.follow && is_passing(&error) && retries <= MAX_RETRIES => {
                printer::warning(format!("{error}; going on from result {next}"));
            }
            Ok(_) => anyhow::bail!("the server ends the results again and again"),
            Err(error) => return Err(error.into()),
        }
        sleep(RETRY_PAUSE).await;
    }
}

/// Whether another try may succeed.
fn is_passing(error: &ClientError) -> bool {
    matches!(error, ClientError::Unreachable { .. } | ClientError::StreamEnded { .. })
        || matches!(error.status(), Some(429 | 503))
}

/// Prints results from `next` on; whether those were all.
async fn read(
    client: &Client,
    args: &BatchResultsArgs,
    next: &mut u64,
) -> Result<bool, ClientError> {
    let mut results = client.batch_results(&args.id, *next, args.follow).await?;
    let mut acknowledged = *next;
    loop {
        let is_due = *next >= acknowledged + ACKNOWLEDGED_AT_ONCE;
        let line = if is_due { None } else { next_line(&mut results).await };
        match line {
            Some(Some(line)) => {
                printer::line(line?);
                *next = results.next_number();
            }
            // Nothing came for a while, or enough did.
            None => {
                if args.acknowledge && *next > acknowledged {
                    client.acknowledge_results(&args.id, *next).await?;
                }
                acknowledged = *next;
            }
            Some(None) => break,
        }
    }
    *next = results.next_number();
    if args.acknowledge && *next > acknowledged {
        client.acknowledge_results(&args.id, *next).await?;
    }
    Ok(results.is_complete())
}

/// The next line, or none of them in some time. Waiting for one can be broken off.
async fn next_line(results: &mut BatchResults) -> Option<Option<Result<String, ClientError>>> {
    timeout(QUIET, results.next()).await.ok()
}

/// A bar on a terminal; else nothing is drawn.
fn bar(length: Option<u64>, template: &str) -> ProgressBar {
    if !printer::is_error_terminal() {
        return ProgressBar::hidden();
    }
    let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
        // Nothing is done about a bar that cannot be drawn.
        let _ = out.write_str(&per_second(state.per_sec()));
    };
    let style = ProgressStyle::with_template(template).expect("the template is valid");
    let style = style.with_key("rate", rate);
    ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr()).with_style(style)
}

/// How fast it goes, with a digit more where it goes slowly.
fn per_second(rate: f64) -> String {
    let digits = usize::from(rate < 9.95);
    format!("{rate:.digits$}/s")
}

fn show_page(page: &BatchPage, json: bool) -> anyhow::Result<()> {
    if json {
        printer::line(serde_json::to_string_pretty(page)?);
        return Ok(());
    }
    if page.batches.is_empty() {
        printer::line("[INFO] No batches.");
    } else {
        printer::line(table(&page.batches));
    }
    if let Some(cursor) = &page.next_cursor {
        printer::info(format!("There are more: --cursor {cursor}"));
    }
    Ok(())
}

fn table(batches: &[Batch]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    let titles =
        ["ID", "STATE", "SUBMITTED", "OUTCOME", "ITEMS", "SUCCEEDED", "FAILED", "CANCELLED"];
    table.set_header(titles);
    for batch in batches {
        let now = batch.progress.unwrap_or_default();
        table.add_row([
            batch.id.clone(),
            batch.state.clone(),
            batch.created_at.map(local).unwrap_or_default(),
            batch.outcome.clone().unwrap_or_default(),
            now.items.to_string(),
            now.succeeded.to_string(),
            now.failed.to_string(),
            now.cancelled.to_string(),
        ]);
    }
    table
}

/// Prints a batch: what there is to know in some lines, or everything as JSON.
fn show(batch: &Batch, json: bool) -> anyhow::Result<()> {
    if json {
        printer::line(serde_json::to_string_pretty(batch)?);
        return Ok(());
    }
    let outcome = batch.outcome.as_deref().map(|it| format!(", {it}")).unwrap_or_default();
    printer::line(format!("{}  [{}{outcome}]", batch.id, batch.state));
    let now = batch.progress.unwrap_or_default();
    for (name, count) in [
        ("items", now.items),
        ("succeeded", now.succeeded),
        ("failed", now.failed),
        ("cancelled", now.cancelled),
        ("waiting", now.queued),
        ("running", now.running),
    ] {
        if count > 0 || name == "items" {
            printer::line(format!("  {name}: {count}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_has_no_more_digits_than_it_needs() {
        let rates = [3822.7918, 10.4, 9.96, 9.94, 0.25, 0.0].map(per_second);
        assert_eq!(rates, ["3823/s", "10/s", "10/s", "9.9/s", "0.2/s", "0.0/s"]);
    }
}
