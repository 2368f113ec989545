//! A look as text: what fits on a screen, most important first.

use std::fmt::Write as _;

use client::{FleetStats, Job, TenantStats, Worker};
use comfy_table::Table;
use comfy_table::presets::NOTHING;

use super::snapshot::Snapshot;
use crate::commands::keys::local;
use crate::commands::workers::labels;

/// Tenants that are shown.
const MAX_TENANTS: usize = 10;

/// A look as text; with the one before also how fast things go.
pub(super) fn render(host: &str, now: &Snapshot, before: Option<&Snapshot>) -> String {
    let mut text = format!("{host}\n\n");
    if let Some(fleet) = &now.stats.fleet {
        text.push_str(&jobs(fleet));
        if let Some(rates) = before.and_then(|before| rates(before, now)) {
            text.push_str(&rates);
        }
        text.push('\n');
    }
    match &now.workers {
        None => text.push_str("Workers: only the master key may see them\n"),
        Some(workers) if workers.is_empty() => text.push_str("No worker lives\n"),
        // The numbers above are of this moment, these of the last time that each worker told of itself.
        Some(workers) => {
            section(&mut text, "Workers, up to half a second ago", &workers_table(workers));
        }
    }
    if !now.stats.tenants.is_empty() {
        section(&mut text, "", &tenants_table(&now.stats.tenants));
    }
    let hidden = now.stats.tenants.len().saturating_sub(MAX_TENANTS);
    if hidden > 0 {
        let _infallible = writeln!(text, "... and {hidden} more");
    }
    if !now.dead_letters.is_empty() {
        section(&mut text, "Dead letters", &dead_letters_table(&now.dead_letters));
    }
    text.trim_end().to_owned()
}

fn section(text: &mut String, title: &str, table: &Table) {
    text.push('\n');
    if !title.is_empty() {
        let _infallible = writeln!(text, "{title}");
    }
    let _infallible = writeln!(text, "{table}");
}

fn jobs(fleet: &FleetStats) -> String {
    let FleetStats { waiting, running, delayed, backlogged, sessions, tenants, .. } = fleet;
    let oldest = fleet.oldest_wait_ms.map(|ms| format!(" (oldest {})", span(ms)));
    format!(
        "Jobs: {running} running, {waiting} waiting{}, {backlogged} in backlogs, {delayed} delayed\n\
         Sessions: {sessions}   Tenants: {tenants}\n",
        oldest.unwrap_or_default()
    )
}

/// What the workers that are in both looks did between them.
fn rates(before: &Snapshot, now: &Snapshot) -> Option<String> {
    let seconds = now.taken.duration_since(before.taken).as_secs_f64();
    let (old, new) = (before.workers.as_ref()?, now.workers.as_ref()?);
    if seconds <= 0.0 {
        return None;
    }
    let pairs = new.iter().filter_map(|it| Some((old.iter().find(|other| other.id == it.id)?, it)));
    let (mut begun, mut ended, mut failed) = (0, 0, 0);
    for (old, new) in pairs {
        let more = new.ended.saturating_sub(old.ended);
        ended += more;
        failed += new.failed.saturating_sub(old.failed);
        begun += (more + new.running).saturating_sub(old.running);
    }
    let per_second = |count: u64| {
        #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
        let rate = count as f64 / seconds;
        rate
    };
    Some(format!(
        "Per second: {:.1} begun, {:.1} ended, {:.1} failed\n",
        per_second(begun),
        per_second(ended),
        per_second(failed)
    ))
}

fn workers_table(workers: &[Worker]) -> Table {
    let mut table =
        table(["WORKER", "STATE", "RUNNING", "SANDBOXES", "SESSIONS", "VERSION", "LABELS"]);
    for worker in workers {
        table.add_row([
            worker.name.clone(),
            worker.state.clone(),
            format!("{}/{}", worker.running, worker.slots),
            worker.sandboxes.to_string(),
            worker.sessions.to_string(),
            worker.version.clone(),
            labels(worker),
        ]);
    }
    table
}

fn tenants_table(tenants: &[TenantStats]) -> Table {
    let mut table = table(["TENANT", "ACTIVE", "BACKLOG", "OPEN", "BYTES", "DEAD"]);
    for tenant in tenants.iter().take(MAX_TENANTS) {
        table.add_row([
            tenant.tenant_id.clone(),
            tenant.active.to_string(),
            tenant.backlogged.to_string(),
            tenant.open.to_string(),
            tenant.open_bytes.to_string(),
            tenant.dead_letters.to_string(),
        ]);
    }
    table
}

fn dead_letters_table(letters: &[(String, Job)]) -> Table {
    let mut table = table(["TENANT", "JOB", "SUBMITTED", "ATTEMPTS", "OUTCOME"]);
    for (tenant, job) in letters {
        table.add_row([
            tenant.clone(),
            job.id.clone(),
            job.created_at.map(local).unwrap_or_default(),
            job.attempts.to_string(),
            job.outcome.clone().unwrap_or_default(),
        ]);
    }
    table
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(header);
    table
}

/// A span of time for people.
fn span(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        60_000..3_600_000 => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1000),
        _ => format!("{} h {} min", ms / 3_600_000, ms % 3_600_000 / 60_000),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn snapshot(taken: Instant, running: u64, ended: u64) -> Snapshot {
        let worker = serde_json::json!({
            "id": "w", "name": "host-0", "state": "active", "version": "1.2.3",
            "startedAt": "2026-03-04T10:11:12Z", "slots": 4, "running": running, "sessions": 1,
            "sandboxes": 3, "ended": ended, "failed": ended / 10, "labels": {"gpu": "yes"},
        });
        let stats = serde_json::json!({
            "fleet": {"waiting": 7, "running": running, "delayed": 1, "backlogged": 2,
                "oldestWaitMs": 1500, "sessions": 1, "tenants": 1},
            "tenants": [{"tenantId": "acme", "active": 3, "backlogged": 2, "open": 5,
                "openBytes": 77, "deadLetters": 1}],
        });
        let letter = serde_json::json!({"id": "j1", "state": "finished", "outcome": "failed", "attempts": 3});
        Snapshot {
            taken,
            stats: serde_json::from_value(stats).unwrap(),
            workers: Some(vec![serde_json::from_value(worker).unwrap()]),
            dead_letters: vec![("acme".into(), serde_json::from_value(letter).unwrap())],
        }
    }

    #[test]
    fn a_look_tells_what_is_there_and_two_how_fast_it_goes() {
        let now = Instant::now();
        let (one, other) = (snapshot(now, 2, 100), snapshot(now + Duration::from_secs(2), 3, 120));
        let text = render("http://h", &one, None);
        for part in [
            "2 running, 7 waiting (oldest 1.5 s), 2 in backlogs, 1 delayed",
            "Workers, up to half a second ago",
            "host-0",
            "2/4",
            "gpu=yes",
            "acme",
            "j1",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(!text.contains("Per second"));
        let text = render("http://h", &other, Some(&one));
        assert!(text.contains("10.5 begun, 10.0 ended, 1.0 failed"), "{text}");
    }

    #[test]
    fn spans_are_told_in_their_own_units() {
        let spans = [999, 59_999, 61_000, 3_660_000].map(span);
        assert_eq!(spans, ["999 ms", "59.9 s", "1 min 1 s", "1 h 1 min"]);
    }
}
