//! Output: what a reader of a job saw is all of it, in order, once; or it was told what is missing.

use std::collections::BTreeMap;

use serde_json::Value;

use super::check::{Case, Verdict};
use super::journal::{Exchange, Purpose};

/// Checks everything that was read.
pub(super) fn check(case: &Case<'_>, verdict: &mut Verdict) {
    for it in case.exchanges {
        match it.purpose {
            Purpose::Output => check_output(case, it, verdict),
            Purpose::Stream if it.answer.is_array() => check_stream(it, verdict),
            _ => {}
        }
    }
}

/// What was seen of the attempt that is under way.
#[derive(Default)]
struct Seen {
    /// Number of the next event.
    next: u64,
    /// Bytes of each stream and phase; none is known behind a gap.
    bytes: BTreeMap<(String, String), u64>,
    stdout: String,
    has_gap: bool,
}

fn check_output(case: &Case<'_>, exchange: &Exchange, verdict: &mut Verdict) {
    let job = &exchange.job;
    let ended_ms = exchange.at_ms + exchange.took_ms;
    let is_excused = case.may_be_unheard(exchange.at_ms) || case.may_be_unheard(ended_ms);
    let events = exchange.answer.as_array().map(Vec::as_slice).unwrap_or_default();
    let Some(end) = events.last().filter(|event| event["type"] == "end") else {
        if !is_excused {
            verdict.wrong(format!("the output of job {job} has no end: {events:?}"));
        }
        return;
    };
    let mut seen = Seen::default();
    for event in events {
        if let Err(what) = seen.take(event) {
            verdict.wrong(format!("the output of job {job}: {what} in {events:?}"));
            return;
        }
    }
    let connections = events.iter().filter(|event| event["type"] == "connected").count();
    verdict.count("outputs read to their end", 1);
    verdict.count("events of output", events.len() - connections);
    verdict.count("resumptions of a broken output", connections.saturating_sub(1));
    verdict.count("gaps that were told", usize::from(seen.has_gap));
    let Some(record) = case.evidence.records.get(job) else { return };
    let result = &record.ending["result"];
    if result.is_null() || seen.has_gap || is_excused {
        return;
    }
    let sums = |stream: &str| -> u64 {
        seen.bytes.iter().filter(|(key, _)| key.0 == stream).map(|(_, bytes)| bytes).sum()
    };
    if result["stdout"].as_str().map(str::trim_end) != Some(seen.stdout.trim_end()) {
        verdict.wrong(format!(
            "the output of job {job} was seen as {:?}, and is kept as {}",
            seen.stdout, result["stdout"]
        ));
    }
    if end["totals"]["stdoutBytes"] != sums("stdout")
        || end["totals"]["stderrBytes"] != sums("stderr")
        || end["totals"]["events"] != seen.next
    {
        verdict.wrong(format!("the totals of job {job} are wrong: {events:?}"));
    }
}

impl Seen {
    fn take(&mut self, event: &Value) -> Result<(), String> {
        let kind = event["type"].as_str().unwrap_or_default();
        if matches!(kind, "connected" | "end" | "error") {
            return Ok(());
        }
        let number = event["id"].as_u64().ok_or("an event has no number")?;
        if kind == "gap" {
            if event["from"] != self.next {
                return Err(format!("a gap begins elsewhere than at {}", self.next));
            }
            self.next = number + 1;
            self.has_gap = true;
            self.bytes.clear();
            return Ok(());
        }
        if number != self.next {
            return Err(format!("event {number} comes where {} should", self.next));
        }
        self.next += 1;
        match kind {
            "stdout" | "stderr" => self.output(kind, event),
            "restarted" => {
                self.bytes.clear();
                self.stdout.clear();
                self.has_gap = false;
                Ok(())
            }
            "setup-ended" => Ok(()),
            _ => Err(format!("{kind} is no event")),
        }
    }

    fn output(&mut self, kind: &str, event: &Value) -> Result<(), String> {
        let phase = event["phase"].as_str().unwrap_or_default().to_owned();
        let data = event["data"].as_str().unwrap_or_default();
        let offset = event["offset"].as_u64().ok_or("an event has no offset")?;
        let before = self.bytes.entry((kind.to_owned(), phase)).or_default();
        if offset != *before && !self.has_gap {
            return Err(format!("offset {offset} comes where {before} should"));
        }
        *before = offset + data.len() as u64;
        if kind == "stdout" {
            self.stdout.push_str(data);
        }
        Ok(())
    }
}

/// A stream without numbers: what came is the beginning of what the program writes; all of it, if the
/// stream says how the program ended.
fn check_stream(exchange: &Exchange, verdict: &mut Verdict) {
    let events = exchange.answer.as_array().map(Vec::as_slice).unwrap_or_default();
    let client = exchange.client;
    let last = events.last().unwrap_or(&Value::Null);
    let kind = last["type"].as_str().unwrap_or_default();
    if exchange.status == 200 && !matches!(kind, "exit" | "error") {
        verdict.wrong(format!("a stream of client {client} just ends: {events:?}"));
    }
    let known = ["WORKER_LOST", "SANDBOX_FAILED", "QUEUE_UNAVAILABLE", "JOB_UNKNOWN"];
    if kind == "error" && !known.iter().any(|code| last["code"] == *code) {
        verdict.wrong(format!("a stream of client {client} ends with {last}"));
    }
    verdict.count("streams that ended with an error", usize::from(kind == "error"));
    let Some(expected) = &exchange.expected else { return };
    let stdout: String = events
        .iter()
        .filter(|event| event["type"] == "stdout")
        .filter_map(|event| event["data"].as_str())
        .collect();
    let whole = expected.stdout.as_deref().unwrap_or_default();
    let is_whole = stdout == whole && last["data"] == expected.exit_code.to_string().as_str();
    if !whole.starts_with(&stdout) || (kind == "exit" && !is_whole) {
        verdict.wrong(format!("a stream of client {client} should be {expected:?}: {events:?}"));
    }
}
