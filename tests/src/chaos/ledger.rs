//! What is written down of endings in several places, held against each other: Redis' own log, what
//! workers committed, and what is counted.

use std::collections::BTreeMap;

use super::Kind;
use super::check::{Case, Verdict};

/// Checks all three; `known` are the jobs that somebody was told of.
pub(super) fn check(case: &Case<'_>, known: &[&str], verdict: &mut Verdict) {
    check_log(case, known, verdict);
    check_commits(case, verdict);
    check_counters(case, verdict);
}

/// Redis' own log: each job ended once, and by whoever had it.
fn check_log(case: &Case<'_>, known: &[&str], verdict: &mut Verdict) {
    let Some(endings) = &case.evidence.endings else { return };
    for (id, endings) in endings {
        if endings.len() > 1 {
            verdict.wrong(format!("job {id} was ended {} times: {endings:?}", endings.len()));
        }
        for ended in endings {
            if !ended.by.is_empty() && ended.by != ended.holder {
                let (by, holder) = (&ended.by, &ended.holder);
                verdict.wrong(format!("job {id} was ended by {by} while {holder} had it"));
            }
        }
        verdict.count("endings in Redis' own log", endings.len());
    }
    for id in known {
        if endings.get(*id).is_none_or(Vec::is_empty) {
            verdict.wrong(format!("Redis' own log has no ending of job {id}"));
        }
    }
}

/// What workers took for committed is what is kept.
fn check_commits(case: &Case<'_>, verdict: &mut Verdict) {
    if case.kind == Kind::Failover {
        // What was committed just before is done again after it, by another worker.
        return;
    }
    for (id, committed) in &case.evidence.committed {
        verdict.count("commits that workers put down", committed.len());
        if committed.len() > 1 {
            verdict.wrong(format!("job {id} was committed by several: {committed:?}"));
            continue;
        }
        if case.evidence.items.contains(id) {
            // What it came to is among the results of its batch.
            continue;
        }
        let Some(record) = case.evidence.records.get(id) else {
            verdict.wrong(format!("job {id} was committed, and there is no such job"));
            continue;
        };
        let (one, result) = (&committed[0], &record.ending["result"]);
        let is_its_own = record.ended_by.is_empty() || record.ended_by == one.worker;
        let is_kept = result.is_null()
            || (result["containerId"] == one.container.as_str()
                && result["stdout"] == one.stdout.as_str());
        if !is_its_own || !is_kept {
            verdict.wrong(format!("job {id}: {one:?} is not what is kept: {record:?}"));
        }
    }
}

/// Bytes that are counted as kept are those of the jobs that are kept.
fn check_counters(case: &Case<'_>, verdict: &mut Verdict) {
    let mut kept: BTreeMap<&str, i64> = BTreeMap::new();
    for record in case.evidence.records.values() {
        if let Some(bytes) = record.kept_bytes {
            *kept.entry(&record.tenant).or_default() += bytes;
        }
    }
    for (tenant, bytes) in &kept {
        let counted = case.evidence.kept.get(*tenant).copied().unwrap_or_default();
        if counted != *bytes {
            verdict.wrong(format!("{tenant} keeps {bytes} bytes, and {counted} are counted"));
        }
    }
}
