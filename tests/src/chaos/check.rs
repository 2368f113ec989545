//! The invariants of the queue, checked over all that a run has written down: every job that was accepted
//! has one ending, the same for everybody who sees it, from a worker that had the job; nothing is lost
//! or left behind.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::Kind;
use super::evidence::{Evidence, Record};
use super::journal::{Exchange, Expected, Injected, Purpose};
use super::plan::Fault;
use super::{ledger, outputs, series, sessions};

/// How long before a failover an answer may have been given that the replica has not heard of.
const UNHEARD_MS: u64 = 10_000;
/// Deliveries after which a job is given up.
const MAX_DELIVERIES: usize = 3;

/// All that is judged.
pub(super) struct Case<'a> {
    /// The fleet's kind.
    pub(super) kind: Kind,
    /// What was asked and answered.
    pub(super) exchanges: &'a [Exchange],
    /// What was done to the fleet.
    pub(super) faults: &'a [Injected],
    /// What is left of it.
    pub(super) evidence: &'a Evidence,
    /// When the run began, in ms since the epoch.
    pub(super) epoch_ms: u64,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Invariants that do not hold, in words.
    pub violations: Vec<String>,
    /// How often what happened.
    pub counts: BTreeMap<String, u64>,
}

impl Verdict {
    pub(super) fn wrong(&mut self, what: String) {
        self.violations.push(what);
    }

    pub(super) fn count(&mut self, what: impl Into<String>, number: usize) {
        *self.counts.entry(what.into()).or_default() += number as u64;
    }
}

/// What is known of a job from outside.
#[derive(Default)]
struct History<'a> {
    tenant: &'a str,
    /// When submissions of it were sent first, in ms from the start of the run.
    sent_ms: u64,
    /// When it was accepted last, and whether it was as safe then as it was to be.
    accepted_ms: u64,
    is_confirmed: bool,
    expected: Option<&'a Expected>,
    /// Whether somebody wanted it cancelled.
    is_cancelled: bool,
    /// Endings that were seen, with when.
    endings: Vec<(u64, Value)>,
}

/// Judges a run.
#[must_use]
pub(super) fn check(case: &Case<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    let histories = histories(case, &mut verdict);
    for (id, history) in &histories {
        check_job(case, id, history, &mut verdict);
    }
    check_answers(case, &mut verdict);
    check_records(case, &histories, &mut verdict);
    let known: Vec<&str> = histories.keys().copied().collect();
    ledger::check(case, &known, &mut verdict);
    outputs::check(case, &mut verdict);
    sessions::check(case, &mut verdict);
    series::check(case, &mut verdict);
    verdict.count("commits refused to workers that had lost the job", number(case.evidence.fenced));
    verdict.count("times that jobs were taken over", number(case.evidence.taken_over));
    verdict.violations.extend(case.evidence.wrong.iter().cloned());
    if case.kind == Kind::Failover {
        verdict.count("things put right after a failover", case.evidence.put_right.len());
    } else {
        verdict.violations.extend(case.evidence.put_right.iter().cloned());
    }
    verdict
}

fn number(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

impl Case<'_> {
    /// Whether what was known at this time may have been lost by a failover.
    pub(super) fn may_be_unheard(&self, known_ms: u64) -> bool {
        self.faults.iter().any(|it| {
            matches!(it.step.fault, Fault::FailOver)
                && known_ms <= it.done_ms
                && known_ms + UNHEARD_MS >= it.at_ms
        })
    }
}

/// When an answer was there.
fn answered_ms(exchange: &Exchange) -> u64 {
    exchange.at_ms + exchange.took_ms
}

fn histories<'a>(case: &Case<'a>, verdict: &mut Verdict) -> BTreeMap<&'a str, History<'a>> {
    let mut all: BTreeMap<&str, History<'_>> = BTreeMap::new();
    let mut keys: BTreeMap<&str, BTreeMap<&str, &Exchange>> = BTreeMap::new();
    let mut first_sent: BTreeMap<&str, u64> = BTreeMap::new();
    for it in case.exchanges {
        if it.purpose == Purpose::Submit {
            let sent_ms = first_sent.entry(&it.key).or_insert(it.at_ms);
            if it.status == 202 {
                keys.entry(&it.key).or_default().insert(&it.job, it);
                let history = all.entry(&it.job).or_default();
                history.sent_ms = *sent_ms;
                history.accepted_ms = history.accepted_ms.max(answered_ms(it));
                history.is_confirmed |= it.durability.ends_with("; met");
            }
        }
        let is_about_one = matches!(
            it.purpose,
            Purpose::Execute | Purpose::Call | Purpose::Submit | Purpose::Wait | Purpose::Cancel
        );
        if it.job.is_empty() || !is_about_one {
            continue;
        }
        let history = all.entry(&it.job).or_default();
        history.tenant = &it.tenant;
        history.expected = it.expected.as_ref().or(history.expected);
        history.is_cancelled |= it.purpose == Purpose::Cancel;
        history.endings.extend(ending_of(it).map(|ending| (answered_ms(it), ending)));
    }
    for (key, jobs) in keys {
        if jobs.len() < 2 {
            continue;
        }
        let is_told_apart = |it: &&Exchange| {
            !it.durability.starts_with("replicated; met") && case.may_be_unheard(answered_ms(it))
        };
        // All but the last may be lost; then asking again was what made another job.
        let lost = jobs.values().filter(|it| is_told_apart(it)).count();
        if lost + 1 < jobs.len() {
            let names: Vec<_> = jobs.keys().collect();
            verdict.wrong(format!("one idempotency key, {key}, is several jobs: {names:?}"));
        } else {
            verdict.count("submissions made again after a failover", lost);
        }
    }
    all
}

/// The ending that an answer tells of, as records have it.
fn ending_of(exchange: &Exchange) -> Option<Value> {
    let answer = &exchange.answer;
    match exchange.purpose {
        Purpose::Execute | Purpose::Call => {
            (exchange.status == 200).then(|| json!({"result": answer}))
        }
        Purpose::Wait | Purpose::Cancel => {
            let is_ended = exchange.status == 200 && answer["state"] == "finished";
            is_ended.then(|| match &answer["result"] {
                Value::Null => json!({"error": {"code": answer["error"]["code"]}}),
                result => json!({"result": result}),
            })
        }
        _ => None,
    }
}

fn is_same(one: &Value, other: &Value) -> bool {
    one["result"] == other["result"] && one["error"]["code"] == other["error"]["code"]
}

/// How a record says that its job ended.
fn outcome(ending: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    match &ending["result"] {
        Value::Null => word(&ending["error"]["code"]),
        result => word(&result["outcome"]),
    }
}

fn check_job(case: &Case<'_>, id: &str, history: &History<'_>, verdict: &mut Verdict) {
    verdict.count("jobs with an id that was told", 1);
    let known_ms = history.endings.iter().map(|it| it.0).fold(history.accepted_ms, u64::max);
    let Some(record) = case.evidence.records.get(id) else {
        let is_told_apart = case.may_be_unheard(known_ms);
        if history.is_confirmed
            && history.expected.is_some_and(|it| it.durability == Some("replicated"))
            || !is_told_apart
        {
            verdict.wrong(format!("job {id} is lost"));
        } else {
            verdict.count("jobs lost by a failover that were not confirmed", 1);
        }
        return;
    };
    if record.state != "finished" {
        verdict.wrong(format!("job {id} has not ended: it is {}", record.state));
        return;
    }
    for (seen_ms, ending) in &history.endings {
        if is_same(ending, &record.ending) {
            continue;
        }
        if case.may_be_unheard(*seen_ms) {
            verdict.count("endings that a failover undid, and that came about again", 1);
        } else {
            let (seen, kept) = (ending, &record.ending);
            verdict.wrong(format!("job {id} has two endings: {seen} was seen, {kept} is kept"));
        }
    }
    if history.tenant != record.tenant {
        verdict.wrong(format!("job {id} of {} is {}'s", history.tenant, record.tenant));
    }
    if let Some(expected) = history.expected {
        check_ending(case, id, history, record, expected, verdict);
    }
}

fn check_ending(
    case: &Case<'_>,
    id: &str,
    history: &History<'_>,
    record: &Record,
    expected: &Expected,
    verdict: &mut Verdict,
) {
    let outcome = outcome(&record.ending);
    let result = &record.ending["result"];
    let mut wrong = |what: String| verdict.wrong(format!("job {id}: {what}"));
    match outcome.as_str() {
        "exited" => {
            let exit_code = if case.kind == Kind::Docker { expected.exit_code } else { 0 };
            if result["exitCode"] != exit_code {
                wrong(format!("exit code {} instead of {exit_code}", result["exitCode"]));
            }
            let stdout = expected.stdout.as_deref().map(str::trim_end);
            if stdout.is_some_and(|stdout| result["stdout"] != stdout) {
                wrong(format!("stdout is {}, not {stdout:?}", result["stdout"]));
            }
            if case.kind == Kind::Docker && record.tries + 1 != expected.tries {
                wrong(format!("tried {} times, not {}", record.tries + 1, expected.tries));
            }
        }
        "cancelled" | "CANCELLED" if history.is_cancelled => {}
        "EXPIRED" if expected.expires_ms.is_some() => {}
        "WORKER_LOST" if record.failed_attempts >= MAX_DELIVERIES => {}
        "SANDBOX_FAILED" if record.failed_attempts >= MAX_DELIVERIES => {}
        outcome => wrong(format!(
            "ended as {outcome}, with {} failed attempts noted: {}",
            record.failed_attempts, record.ending
        )),
    }
    let not_before = case.epoch_ms + history.sent_ms + expected.delay_ms;
    if expected.delay_ms > 0 && (1..not_before).contains(&record.started_ms) {
        wrong(format!("began {} ms before its time", not_before - record.started_ms));
    }
    let is_first = record.attempt == 1 && record.tries == 0 && record.failed_attempts == 0;
    if let Some(expires_ms) = record.expires_ms
        && is_first
        && record.started_ms > expires_ms + 1
    {
        wrong(format!("began {} ms after it had expired", record.started_ms - expires_ms));
    }
}

/// Whether every answer is one that the documentation names.
fn check_answers(case: &Case<'_>, verdict: &mut Verdict) {
    for it in case.exchanges {
        let purpose = format!("{:?}", it.purpose).to_lowercase();
        verdict.count(format!("requests: {purpose}"), 1);
        let code = it.answer["code"].as_str().unwrap_or_default();
        let is_given_up = matches!(code, "WORKER_LOST" | "SANDBOX_FAILED");
        let is_known = match it.status {
            0 | 429 | 503 => true,
            200 => !matches!(it.purpose, Purpose::Submit | Purpose::Batch | Purpose::Schedule),
            201 => it.purpose == Purpose::Schedule,
            202 => matches!(it.purpose, Purpose::Submit | Purpose::Batch),
            // The caller of a stream that was cancelled by a gateway's end, or of a job given up.
            500 => is_given_up,
            410 => code == "SESSION_LOST" && it.purpose == Purpose::Call,
            _ => case.may_be_unheard(it.at_ms) || case.may_be_unheard(answered_ms(it)),
        };
        if it.answer["broken"] == "timed out" {
            verdict.wrong(format!(
                "no answer to {purpose} of client {} in all the time there is",
                it.client
            ));
        } else if !is_known {
            let (status, answer) = (it.status, &it.answer);
            verdict
                .wrong(format!("{purpose} of job \"{}\" is answered {status}: {answer}", it.job));
        }
        match it.status {
            0 => verdict.count("requests whose answer did not come", 1),
            503 => verdict.count("requests refused while the queue was away", 1),
            429 => verdict.count("requests refused for a limit", 1),
            _ => {}
        }
    }
}

/// Whether everything in Redis has ended, and was asked for.
fn check_records(case: &Case<'_>, histories: &BTreeMap<&str, History<'_>>, verdict: &mut Verdict) {
    for (id, record) in &case.evidence.records {
        verdict.count("jobs in Redis", 1);
        verdict.count(format!("ended: {}", outcome(&record.ending)), 1);
        verdict.count("tries of programs that failed", number(record.tries));
        verdict.count("attempts lost with their workers", record.workers_lost);
        if record.state != "finished" && !histories.contains_key(id.as_str()) {
            verdict.wrong(format!("job {id}, whose caller left, has not ended: {}", record.state));
        }
        if !record.is_temporary {
            verdict.wrong(format!("the record of job {id} never goes"));
        }
    }
    let accepted: BTreeSet<&str> = case
        .exchanges
        .iter()
        .filter(|it| it.purpose == Purpose::Submit && it.status == 202)
        .map(|it| it.job.as_str())
        .collect();
    for id in &accepted {
        if case.evidence.records.contains_key(*id) && !case.evidence.listed.contains(*id) {
            verdict.wrong(format!("job {id} is in no list"));
        }
    }
    let scheduled = series::scheduled_jobs(case);
    let is_known = |id: &&String| accepted.contains(id.as_str()) || scheduled.contains(*id);
    let unknown = case.evidence.listed.iter().filter(|id| !is_known(id));
    let unanswered = unanswered_keys(case.exchanges);
    let unknown: Vec<_> = unknown.collect();
    // A failover may also bring back what was not confirmed.
    if unknown.len() > unanswered && case.kind != Kind::Failover {
        verdict.wrong(format!("jobs that nobody submitted: {unknown:?}"));
    }
    verdict.count("jobs accepted", accepted.len());
}

/// Submissions that were never answered: there may be a job of each.
fn unanswered_keys(exchanges: &[Exchange]) -> usize {
    let submits = || exchanges.iter().filter(|it| it.purpose == Purpose::Submit);
    let answered: BTreeSet<_> =
        submits().filter(|it| it.status == 202).map(|it| it.key.as_str()).collect();
    let all: BTreeSet<_> = submits().map(|it| it.key.as_str()).collect();
    all.difference(&answered).count()
}

#[cfg(test)]
mod tests;
