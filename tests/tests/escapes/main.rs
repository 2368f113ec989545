//! What a program tries in order to leave its sandbox, to reach what is not its own, or to take what
//! others need. Each attempt must fail in its own way, and the worker must run the next job as if
//! nothing had been.

mod attempt;
mod exhaustion;
mod files;
mod kernel;
mod machine;
mod network;
mod sessions;
mod supervisor;

use serde_json::json;
use tests::isolation::Isolation;
use tests::results::{self, Row, Run};
use tests::{Api, Case, Findings, Stack, code};

use attempt::{Attempt, Expected};
use sessions::{TRAPS, Trap};

const SUITE: &str = "escapes";

fn attempts() -> impl Iterator<Item = &'static Attempt> {
    let groups = [
        kernel::ATTEMPTS,
        machine::ATTEMPTS,
        network::ATTEMPTS,
        files::ATTEMPTS,
        supervisor::ATTEMPTS,
        exhaustion::ATTEMPTS,
    ];
    groups.into_iter().flatten()
}

async fn try_one(api: &Api, attempt: &Attempt, expected: Expected) -> Result<(), String> {
    attempt.check(&api.post(attempt.body().to_string()).await?, expected)
}

/// An ordinary job, right after.
async fn is_well(api: &Api) -> Result<(), String> {
    let well = Case::new("", &code("python", "print('fine')")).prints("fine").quietly();
    well.run(api).await.map(drop).map_err(|error| format!("the next job: {error}"))
}

/// Tries some under a pool strategy, and writes down how it went.
async fn try_some(
    strategy: &'static str,
    attempts: impl Iterator<Item = &Attempt>,
    traps: &[Trap],
) {
    let (mut stack, api) = Stack::serve(&json!({
        "maxConcurrent": 1, "poolStrategy": strategy,
        "worker": {"prewarm": ["python"], "maxContainers": 3},
    }));
    let (mut findings, mut rows) = (Findings::default(), Vec::new());
    let mut note = |row: Row, outcome: Result<(), String>| {
        rows.push((row, outcome.is_ok()));
        findings.note(row.name, outcome);
    };
    let isolation = Isolation::from_environment();
    for attempt in attempts {
        let Some(expected) = attempt.expected(isolation) else { continue };
        let outcome = try_one(&api, attempt, expected).await;
        note(attempt.row(), outcome.and(is_well(&api).await));
    }
    for trap in traps {
        let outcome = trap.run(&api, isolation).await;
        note(trap.row(), outcome.and(is_well(&api).await));
    }
    Run { suite: SUITE, part: 0, isolation, strategy }.write(&rows);
    let log = stack.node(0).log().text();
    findings.check("no terminal escape in the log", !log.contains('\u{1b}'), &log);
    findings.report();
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_gets_out_of_a_sandbox_that_is_used_again() {
    try_some("fast", attempts(), TRAPS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_gets_out_where_no_sandbox_is_used_again() {
    try_some("secure", attempts(), TRAPS).await;
}

#[test]
fn the_document_shows_these_attempts() {
    let mut rows: Vec<Row> = attempts().map(Attempt::row).collect();
    rows.extend(TRAPS.iter().map(Trap::row));
    if let Err(why) = results::check_document(SUITE, &rows) {
        panic!(
            "docs/threat-model.md: {why}\nrun the suites, then `cargo run -p tests --example security_results`"
        );
    }
}
