//! What one job could leave for the next of the same tenant in a sandbox that is used again. Each
//! channel is tried three times: in one job, where it must be found; and then from one job to the
//! next, where it must not.

mod channel;
mod kernel;
mod memory;
mod packages;
mod processes;
mod storage;
mod tenants;
mod unclean;

use serde_json::{Value, json};
use tests::case::equal;
use tests::isolation::Isolation;
use tests::results::{self, Row, Run};
use tests::{Api, Findings, Stack};

use channel::{Channel, Refusal};

const SUITE: &str = "leaks";
/// How often something is planted until the next job meets the same sandbox.
const ATTEMPTS: usize = 3;

fn channels() -> Vec<&'static Channel> {
    let groups = [
        storage::CHANNELS,
        packages::CHANNELS,
        processes::CHANNELS,
        kernel::CHANNELS,
        memory::CHANNELS,
    ];
    groups.into_iter().flatten().collect()
}

/// A server on which every job of a tenant and runtime meets the same sandbox, if any may.
fn serve(strategy: &str) -> (Stack, Api) {
    Stack::serve(&json!({
        "maxConcurrent": 1, "poolStrategy": strategy, "worker": {"prewarm": [], "maxContainers": 1},
    }))
}

/// What a job printed, but for the word that says it did its part, and the files it gave out.
fn found(result: &Value) -> String {
    let stdout = result["stdout"].as_str().unwrap_or_default();
    let lines: Vec<&str> = stdout.lines().filter(|line| *line != "planted").collect();
    let files = result["files"].as_object().into_iter().flatten().map(|(path, _)| path.as_str());
    lines.into_iter().chain(files).collect::<Vec<_>>().join("\n")
}

/// Runs a job that must end by itself and well.
async fn run(api: &Api, what: &str, body: &Value) -> Result<Value, String> {
    let reply = api.post(body.to_string()).await?;
    let result = reply.json();
    let wrong = |error: String| format!("{what}: {error}: {}", reply.text);
    equal("status", &reply.status, &200).map_err(wrong)?;
    equal("exitCode", &result["exitCode"], &0).map_err(wrong)?;
    equal("stderr", &result["stderr"], &"").map_err(wrong)?;
    Ok(result)
}

/// Leaves something, and returns the sandbox in which it did.
async fn plant(api: &Api, channel: &Channel, refusal: Refusal) -> Result<Value, String> {
    let planted = run(api, "plant", &channel.planting(refusal)).await?;
    if let Some(refusal) = refusal {
        equal("refusal", &planted["stdout"], &refusal)?;
    } else if !planted["stdout"].as_str().unwrap_or_default().contains("planted") {
        return Err(format!("nothing was planted: {planted}"));
    }
    Ok(planted["containerId"].clone())
}

/// Looks for it in the next job. Tells whether that ran where it had to: in the same sandbox, or in another.
async fn probe(api: &Api, channel: &Channel, place: &Value, same: bool) -> Result<bool, String> {
    let probed = run(api, "probe", &channel.probing()).await?;
    equal("what the next job found", &found(&probed), &"")?;
    Ok((probed["containerId"] == *place) == same)
}

async fn try_channel(
    api: &Api,
    channel: &Channel,
    refusal: Refusal,
    reuses: bool,
) -> Result<(), String> {
    if reuses && refusal.is_none() {
        let control = run(api, "control", &channel.control()).await?;
        if found(&control).is_empty() {
            return Err(format!("the probe does not see what is there: {control}"));
        }
    }
    // What cannot be proven clean in time, as on a busy machine, is destroyed: that shows nothing.
    for _ in 0..if reuses { ATTEMPTS } else { 1 } {
        let place = plant(api, channel, refusal).await?;
        if refusal.is_some() || probe(api, channel, &place, reuses).await? {
            return Ok(());
        }
    }
    Err(format!("void: the next job ran {}in the same sandbox", if reuses { "not " } else { "" }))
}

/// Tries all channels under a pool strategy, and writes down how it went.
async fn try_all(strategy: &'static str) {
    let (stack, api) = serve(strategy);
    let (mut findings, mut rows) = (Findings::default(), Vec::new());
    let isolation = Isolation::from_environment();
    for channel in channels() {
        let Some(refusal) = channel.refusal(isolation) else { continue };
        let outcome = try_channel(&api, channel, refusal, strategy == "fast").await;
        rows.push((channel.row(), outcome.is_ok()));
        findings.note(channel.name, outcome);
    }
    Run { suite: SUITE, part: 0, isolation, strategy }.write(&rows);
    findings.report();
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_reaches_the_next_job_of_a_sandbox_that_is_used_again() {
    try_all("fast").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_reaches_the_next_job_where_no_sandbox_is_used_again() {
    try_all("secure").await;
}

#[test]
fn the_document_shows_these_channels() {
    let rows: Vec<Row> = channels().into_iter().map(Channel::row).collect();
    if let Err(why) = results::check_document(SUITE, &rows) {
        panic!(
            "docs/threat-model.md: {why}\nrun the suites, then `cargo run -p tests --example security_results`"
        );
    }
}
