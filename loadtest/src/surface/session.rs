//! Calls of a live interpreter, one at a time over one connection.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;

use super::{Surface, body};
use crate::connection::{Connection, Target};
use crate::measurement::{Latencies, Percentiles};

const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Calls before those that count.
const WARM_UP_CALLS: usize = 20;

pub(super) async fn measure(surface: &Surface, runtime: &str) -> Result<Percentiles> {
    let id = format!("loadtest-{runtime}");
    let (start, step) = match runtime {
        "bash" => ("n=0", "n=$((n+1)); echo $n"),
        "python" => ("n = 0", "n += 1; print(n)"),
        _ => ("let n = 0", "n += 1; console.log(n)"),
    };
    let target = Target::new(&surface.url, &surface.key)?;
    let mut connection = Connection::new(&target);
    let encode = |code: &str| Bytes::from(body(runtime, code, Some(&id)).to_string());
    let mut latencies = Latencies::default();
    let mut call = async |code: Bytes, expected: &str| -> Result<Duration> {
        let before = Instant::now();
        let answer = connection.execute(code, Some(expected), ANSWER_LIMIT).await;
        answer.map_err(|wrong| anyhow!("{}: {}", wrong.failure, wrong.detail))?;
        Ok(before.elapsed())
    };
    call(encode(start), "").await.with_context(|| format!("opening a session of {runtime}"))?;
    let step = encode(step);
    let begun = Instant::now();
    let mut count = 0;
    while begun.elapsed() < surface.length || count <= WARM_UP_CALLS {
        count += 1;
        let took = call(step.clone(), &count.to_string()).await.context("a call of a session")?;
        if count > WARM_UP_CALLS {
            latencies.record(took);
        }
    }
    let gone =
        surface.http.delete(format!("{}/session/{id}", surface.url)).bearer_auth(&surface.key);
    gone.send().await?.error_for_status()?;
    Ok(latencies.percentiles())
}
