//! Batches and schedules under chaos: what clients ask for, and what must hold. Every item of a batch has one
//! result, and a schedule's only run is one job, whoever dies meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use chrono::Utc;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::check::{Case, Verdict};
use super::client::{Client, PATIENCE, PAUSE, Request};
use super::journal::Purpose;

/// Most items of a batch.
const ITEMS: u64 = 12;
/// Schedules of a run.
const SCHEDULES: u64 = 6;
/// How long batches are kept that nobody looks at any more.
const KEPT_MS: u64 = 600_000;
/// How items end that workers were lost under too often.
const GIVEN_UP: [&str; 2] = ["WORKER_LOST", "SANDBOX_FAILED"];

impl Client {
    /// Uploads a batch of programs that write their number, waits for its end, and reads its results.
    pub(super) async fn submit_batch(&mut self, tenant: &str, key: String) {
        let count = self.random.between(1, ITEMS);
        let template = json!({"runtime": "bash", "code": "read number; echo $number"});
        let queue = json!({"retentionMs": KEPT_MS, "tags": ["chaos"]});
        let items = (0..count).map(|item| json!({"request": {"stdin": item.to_string()}}));
        let items = Value::from(items.collect::<Vec<_>>());
        let mut upload = request(Purpose::Batch, tenant, Method::POST, "/v1/batches".to_owned());
        upload.key = key;
        // The items come last.
        let body = format!("{{\"request\":{template},\"queue\":{queue},\"items\":{items}}}");
        upload.body = Value::String(body);
        let taken = self.insist(&upload).await;
        let Some(id) = taken.body["id"].as_str().filter(|_| taken.status == 202) else { return };
        let begun = Instant::now();
        let path = format!("/v1/batches/{id}?wait=60000");
        let mut look = request(Purpose::Progress, tenant, Method::GET, path);
        look.job = id.to_owned();
        while self.insist(&look).await.body["state"] != "finished" {
            if begun.elapsed() > PATIENCE {
                return;
            }
        }
        let path = format!("/v1/batches/{id}/results?follow=true");
        let read = Request { purpose: Purpose::Results, path, ..look };
        // One that breaks off says so in its last line.
        loop {
            let answer = self.insist(&read).await;
            let is_over = answer.status != 200 || is_whole(&answer.body);
            if is_over || begun.elapsed() > PATIENCE {
                return;
            }
            sleep(PAUSE).await;
        }
    }

    /// Makes schedules that run once each, spread over `length`; with their tenants.
    pub(super) async fn make_schedules(&mut self, length: Duration) -> Vec<(String, String)> {
        let mut made = Vec::new();
        for number in 0..SCHEDULES {
            let tenant = format!("tenant-{number}");
            let path = "/v1/schedules".to_owned();
            let mut order = request(Purpose::Schedule, &tenant, Method::POST, path);
            let share = u32::try_from(number + 1).unwrap_or(u32::MAX);
            let at = Utc::now() + length / 8 * share;
            order.body = json!({"request": {"runtime": "bash", "code": "echo due"},
                "queue": {"retentionMs": 7_200_000, "tags": ["chaos"]}, "at": at});
            let answer = self.insist(&order).await;
            if let Some(id) = answer.body["id"].as_str().filter(|_| answer.status == 201) {
                made.push((tenant, id.to_owned()));
            }
        }
        made
    }

    /// Looks at a schedule, for what it has run.
    pub(super) async fn look_at_schedule(&mut self, tenant: &str, id: &str) {
        let path = format!("/v1/schedules/{id}");
        let mut look = request(Purpose::Runs, tenant, Method::GET, path);
        look.key = id.to_owned();
        self.insist(&look).await;
    }
}

/// Whether results were read to their end.
fn is_whole(results: &Value) -> bool {
    let last = results.as_str().and_then(|text| text.lines().last());
    let last = last.and_then(|line| serde_json::from_str::<Value>(line).ok());
    last.is_some_and(|line| line["end"] == true)
}

fn request(purpose: Purpose, tenant: &str, method: Method, path: String) -> Request {
    Request::new(purpose, tenant, method, path)
}

/// Jobs that schedules have submitted.
pub(super) fn scheduled_jobs(case: &Case<'_>) -> BTreeSet<String> {
    let shown = case.exchanges.iter().filter(|it| it.purpose == Purpose::Runs);
    let runs = shown.filter_map(|it| it.answer["runs"].as_array()).flatten();
    runs.filter_map(|run| run["jobId"].as_str().map(str::to_owned)).collect()
}

/// Checks both.
pub(super) fn check(case: &Case<'_>, verdict: &mut Verdict) {
    check_batches(case, verdict);
    check_schedules(case, verdict);
}

fn check_batches(case: &Case<'_>, verdict: &mut Verdict) {
    let answered = |purpose: Purpose, status: u16| {
        case.exchanges.iter().filter(move |it| it.purpose == purpose && it.status == status)
    };
    let mut of_keys: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut batches: BTreeMap<&str, u64> = BTreeMap::new();
    for it in answered(Purpose::Batch, 202) {
        of_keys.entry(&it.key).or_default().insert(&it.job);
        batches.insert(&it.job, it.answer["items"].as_u64().unwrap_or_default());
    }
    for (key, ids) in of_keys.into_iter().filter(|(_, ids)| ids.len() > 1) {
        verdict.wrong(format!("one idempotency key, {key}, is several batches: {ids:?}"));
    }
    let results: BTreeMap<&str, &Value> =
        answered(Purpose::Results, 200).map(|it| (it.job.as_str(), &it.answer)).collect();
    for (id, items) in &batches {
        match results.get(id) {
            None => verdict.wrong(format!("batch {id} has not ended, or cannot be read")),
            Some(results) => {
                if let Err(what) = check_results(results, *items, verdict) {
                    verdict.wrong(format!("batch {id} of {items} items: {what}"));
                }
            }
        }
    }
    verdict.count("batches accepted", batches.len());
}

/// Whether there is one result of each item, and it is its own.
fn check_results(text: &Value, items: u64, verdict: &mut Verdict) -> Result<(), String> {
    let text = text.as_str().ok_or_else(|| format!("these are no results: {text}"))?;
    let (mut seen, mut is_whole) = (BTreeSet::new(), false);
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let line: Value =
            serde_json::from_str(line).map_err(|error| format!("{error} in {line}"))?;
        is_whole |= line["end"] == true;
        let Some(item) = line["item"].as_u64() else { continue };
        if !seen.insert(item) {
            return Err(format!("item {item} has two results"));
        }
        let code = line["error"]["code"].as_str().unwrap_or_default();
        let is_run = line["outcome"] == "exited" && line["exitCode"] == 0;
        if GIVEN_UP.contains(&code) {
            verdict.count("items given up", 1);
        } else if !is_run {
            return Err(format!("an item ended so: {line}"));
        }
    }
    verdict.count("items with a result", seen.len());
    if !is_whole || seen != (0..items).collect() {
        return Err(format!("there are results of {seen:?}, and an end: {is_whole}"));
    }
    Ok(())
}

fn check_schedules(case: &Case<'_>, verdict: &mut Verdict) {
    let shown = case.exchanges.iter().filter(|it| it.purpose == Purpose::Runs);
    for it in shown.filter(|it| it.status == 200) {
        let runs = it.answer["runs"].as_array().map(Vec::as_slice).unwrap_or_default();
        let [run] = runs else {
            verdict.wrong(format!("schedule {} ran {} times, not once", it.key, runs.len()));
            continue;
        };
        match run["jobId"].as_str().map(|id| case.evidence.records.get(id)) {
            None => verdict.count("runs of schedules that were refused", 1),
            Some(Some(record)) if record.state == "finished" => {
                verdict.count("runs of schedules", 1);
            }
            Some(record) => {
                verdict.wrong(format!("the job of schedule {} has not ended: {record:?}", it.key));
            }
        }
    }
}
