//! What the table of goals says beyond single jobs: calls of a live session, output as it comes,
//! many streams at once, files, and the filtered network. Each measures what a client would see.

mod files;
mod session;
mod stream;
mod tunnel;

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::measurement::Percentiles;

pub use files::Transfer;
pub use stream::Transport;
pub use tunnel::Tunnel;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Surface {
    /// Connections to it, kept open.
    pub http: reqwest::Client,
    /// Server under test, `http://host:port`.
    pub url: String,
    /// Its API key.
    pub key: String,
    /// Its Redis, to see how much memory files take there.
    pub redis_url: Option<String>,
    /// Time for each measurement.
    pub length: Duration,
    /// Streams open at once.
    pub streams: usize,
    /// Size of the file that goes up and down, and of what goes over the filtered network, in MiB.
    pub file_mib: usize,
}

/// What was found.
#[derive(Debug, Serialize, Deserialize)]
pub struct Found {
    /// A call of a live interpreter, one at a time, in ms, by runtime.
    pub session_call_ms: Vec<(String, Percentiles)>,
    /// From the request to the first output, by transport.
    pub first_output_ms: Vec<(Transport, Percentiles)>,
    /// From the program's write to its arrival, one stream, by transport.
    pub output_delay_ms: Vec<(Transport, Percentiles)>,
    /// The same with all streams open at once, over server-sent events.
    pub crowded_delay_ms: Percentiles,
    /// How many those were.
    pub streams: usize,
    /// The file, up and down.
    pub file: Transfer,
    /// The filtered network.
    pub tunnel: Tunnel,
}

impl Surface {
    /// Measures everything; a few minutes.
    ///
    /// # Errors
    /// The server gives a wrong answer, or none.
    pub async fn run(&self, tell: &dyn Fn(&str)) -> Result<Found> {
        let mut session_call_ms = Vec::new();
        for runtime in ["python", "node", "bun", "deno", "bash"] {
            let latency = session::measure(self, runtime).await?;
            tell(&format!("session call, {runtime}: {latency}"));
            session_call_ms.push((runtime.to_owned(), latency));
        }
        let (mut first_output_ms, mut output_delay_ms) = (Vec::new(), Vec::new());
        for transport in [Transport::Events, Transport::WebSocket] {
            let first = stream::first_output(self, transport).await?;
            tell(&format!("first output, {transport}: {first}"));
            first_output_ms.push((transport, first));
            let delay = stream::delay(self, transport, 1).await?;
            tell(&format!("output delay, {transport}: {delay}"));
            output_delay_ms.push((transport, delay));
        }
        let crowded_delay_ms = stream::delay(self, Transport::Events, self.streams).await?;
        tell(&format!("output delay, {} streams: {crowded_delay_ms}", self.streams));
        let file = files::measure(self).await?;
        tell(&format!("file: {file}"));
        let tunnel = tunnel::measure(self).await?;
        tell(&format!("filtered network: {tunnel}"));
        let streams = self.streams;
        Ok(Found {
            session_call_ms,
            first_output_ms,
            output_delay_ms,
            crowded_delay_ms,
            streams,
            file,
            tunnel,
        })
    }
}

impl Found {
    /// A table of it beside the goals.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text =
            String::from("| row | what | p50 | p99 | goal |\n| --- | --- | --- | --- | --- |\n");
        let mut row = |number: &str, what: String, latency: &Percentiles, goal: &str| {
            let Percentiles { p50, p99, .. } = latency;
            // Writing to a string cannot fail.
            let _ = writeln!(text, "| {number} | {what} | {p50:.2} ms | {p99:.2} ms | {goal} |");
        };
        for (runtime, latency) in &self.session_call_ms {
            let goal = if runtime == "python" { "p50 ≤ 2 ms" } else { "" };
            row("6", format!("session call, {runtime}"), latency, goal);
        }
        for (transport, latency) in &self.first_output_ms {
            row("8", format!("first output, {transport}"), latency, "p50 ≤ 4 ms");
        }
        for (transport, latency) in &self.output_delay_ms {
            row("8", format!("output after it was written, {transport}"), latency, "p50 ≤ 3 ms");
        }
        let crowd = format!("output after it was written, {} streams", self.streams);
        row("", crowd, &self.crowded_delay_ms, "p99 ≤ 50 ms more than alone");
        let tunnel = &self.tunnel;
        row("", "request to a server, without a sandbox".to_owned(), &tunnel.direct_ms, "");
        for (how, latency) in [
            ("inside of CONNECT", &tunnel.connect_ms),
            ("by the proxy", &tunnel.request_ms),
            ("by the proxy, on a new connection", &tunnel.fresh_ms),
        ] {
            let what = format!("the same over the filtered network, {how}");
            row("", what, latency, "p50 ≤ 1 ms more than without");
        }
        let Transfer { mib, up_mb_per_second, down_mb_per_second, redis_mib } = self.file;
        let _ = writeln!(
            text,
            "\n{mib} MiB file: {up_mb_per_second:.0} MB/s up, {down_mb_per_second:.0} MB/s down \
             (goal 80); Redis grew by {} at most (goal 16 MiB).",
            redis_mib.map_or_else(|| "an unknown amount".to_owned(), |mib| format!("{mib:.1} MiB")),
        );
        let Tunnel { mib, down_mb_per_second: down, up_mb_per_second: up, .. } = tunnel;
        let _ = writeln!(
            text,
            "\n{mib} MiB over the filtered network: {down:.0} MB/s down, {up:.0} MB/s up (goal 100).",
        );
        text
    }
}

/// A body for the execute routes.
fn body(runtime: &str, code: &str, session: Option<&str>) -> serde_json::Value {
    serde_json::json!({
        "request": {"runtime": runtime, "code": code, "timeoutMs": 120_000},
        "sessionId": session,
    })
}
