//! What became of telling the webhooks of jobs and batches: `deliveries` and `redeliver` of either.

use anyhow::Context as _;
use client::Delivery;
use serde_json::json;

use super::keys::local;
use crate::printer;

/// The last of them.
///
/// # Errors
/// If there is none; `whose` says of what.
pub(super) fn last(mut deliveries: Vec<Delivery>, whose: &str) -> anyhow::Result<String> {
    deliveries
        .pop()
        .map(|it| it.id)
        .with_context(|| format!("{whose} has told no webhook: it has none, or has not ended"))
}

/// Says that one is made again.
pub(super) fn confirm(delivery: &str) {
    printer::line(format!("[OK] {delivery} is delivered again."));
}

/// Prints them: what there is to know in a line each, or everything as JSON.
///
/// # Errors
/// If they cannot be written as JSON.
pub(super) fn show(deliveries: &[Delivery], json: bool) -> anyhow::Result<()> {
    if json {
        printer::line(serde_json::to_string_pretty(&json!({"deliveries": deliveries}))?);
        return Ok(());
    }
    if deliveries.is_empty() {
        printer::line("[INFO] No deliveries.");
        return Ok(());
    }
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["ID", "STATE", "TYPE", "TRIES", "LAST", "NEXT", "TO"]);
    for it in deliveries {
        let last = it.attempts.last();
        let last = last.map(|last| match (&last.error, last.status) {
            (Some(error), _) => error.clone(),
            (None, status) => status.map(|status| status.to_string()).unwrap_or_default(),
        });
        table.add_row([
            it.id.clone(),
            it.state.clone(),
            it.kind.clone().unwrap_or_default(),
            it.tries.to_string(),
            last.unwrap_or_default(),
            it.next_attempt_at.map(local).unwrap_or_default(),
            it.url.clone(),
        ]);
    }
    printer::line(table);
    Ok(())
}
