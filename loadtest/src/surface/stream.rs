//! Output as it comes: how soon the first of it is there, and how long each piece is under way. The
//! program prints the time at which it writes; both ends use this machine's clock.

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use super::{Surface, body};
use crate::measurement::{Latencies, Percentiles};

/// Programs write this often; more streams make more events.
const WRITE_EVERY: Duration = Duration::from_millis(250);
/// How long all streams together may take to start.
const START_LIMIT: Duration = Duration::from_secs(180);
/// Pause between programs, so that the next one finds a warm sandbox.
const PAUSE: Duration = Duration::from_millis(15);

/// How events travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transport {
    /// Server-sent events.
    Events,
    /// A WebSocket.
    WebSocket,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Events => "server-sent events",
            Self::WebSocket => "WebSocket",
        })
    }
}

/// From the request to the first output of a warm Python hello.
pub(super) async fn first_output(surface: &Surface, transport: Transport) -> Result<Percentiles> {
    let mut latencies = Latencies::default();
    let begun = Instant::now();
    let mut is_first = true;
    while begun.elapsed() < surface.length {
        let before = Instant::now();
        let mut first = None;
        follow(surface, transport, body("python", "print('hello')", None), |event| {
            if event["type"] == "stdout" {
                first.get_or_insert_with(|| before.elapsed());
            }
        })
        .await?;
        let first = first.context("the program wrote nothing")?;
        if !std::mem::take(&mut is_first) {
            latencies.record(first);
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(latencies.percentiles())
}

/// From the write to the arrival, over `count` streams at once.
pub(super) async fn delay(
    surface: &Surface,
    transport: Transport,
    count: usize,
) -> Result<Percentiles> {
    let pieces = surface.length.as_millis() / WRITE_EVERY.as_millis();
    let program = format!(
        "import time\nprint('up')\ntime.sleep({wait})\nfor _ in range({pieces}):\n  \
         time.sleep({pause}); print(time.time_ns())",
        // All are to be there before the first of them counts.
        wait = if count > 1 { 1 + count / 8 } else { 0 },
        pause = WRITE_EVERY.as_secs_f64(),
    );
    let (sender, mut delays) = mpsc::channel(1024);
    let mut streams = JoinSet::new();
    for _ in 0..count {
        let surface = surface.clone();
        let (sender, program) = (sender.clone(), program.clone());
        streams.spawn(async move {
            let mut unsent = Vec::new();
            follow(&surface, transport, body("python", &program, None), |event| {
                let now = SystemTime::now();
                let is_output = event["type"] == "stdout";
                let written = event["data"].as_str().filter(|_| is_output).unwrap_or_default();
                unsent.extend(written.lines().filter_map(|line| age(line, now)));
            })
            .await?;
            for delay in unsent {
                sender.send(delay).await.context("nobody counts any more")?;
            }
            anyhow::Ok(())
        });
    }
    drop(sender);
    let mut latencies = Latencies::default();
    while let Some(delay) = delays.recv().await {
        latencies.record(delay);
    }
    while let Some(ended) = streams.join_next().await {
        ended.context("a stream's task was lost")??;
    }
    let expected = u64::try_from(pieces).context("a sensible length")? * count as u64;
    let seen = latencies.count();
    ensure!(seen == expected, "{seen} of {expected} pieces arrived");
    Ok(latencies.percentiles())
}

/// How long ago a line was written that says when it was.
fn age(line: &str, now: SystemTime) -> Option<Duration> {
    let written = UNIX_EPOCH + Duration::from_nanos(line.trim().parse().ok()?);
    // The two clocks are one, but not read in one moment.
    Some(now.duration_since(written).unwrap_or_default())
}

/// Runs a program and passes its events on as they come. An error if it does not end with 0.
async fn follow(
    surface: &Surface,
    transport: Transport,
    body: Value,
    mut each: impl FnMut(&Value),
) -> Result<()> {
    let mut end = None;
    let mut note = |event: &Value| {
        each(event);
        if event["type"] == "exit" || event["type"] == "error" {
            end = Some(event.clone());
        }
    };
    let whole = async {
        match transport {
            Transport::Events => over_events(surface, &body, &mut note).await,
            Transport::WebSocket => over_web_socket(surface, body, &mut note).await,
        }
    };
    tokio::time::timeout(START_LIMIT + surface.length, whole).await.context("a stream hung")??;
    match end {
        Some(end) if end["data"] == "0" => Ok(()),
        end => bail!("a stream ended with {end:?}"),
    }
}

async fn over_events(surface: &Surface, body: &Value, note: &mut impl FnMut(&Value)) -> Result<()> {
    let request = surface.http.post(format!("{}/execute/stream", surface.url));
    let sent = request.bearer_auth(&surface.key).body(body.to_string()).send().await?;
    let mut response = sent.error_for_status()?;
    let mut rest = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        rest.extend_from_slice(&chunk);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            if let Some(json) = line.strip_prefix(b"data: ") {
                note(&serde_json::from_slice(json)?);
            }
        }
    }
    Ok(())
}

async fn over_web_socket(
    surface: &Surface,
    mut body: Value,
    note: &mut impl FnMut(&Value),
) -> Result<()> {
    let url = format!("{}/execute/ws", surface.url.replacen("http", "ws", 1));
    let mut request = url.into_client_request()?;
    request.headers_mut().insert("authorization", surface.key.parse()?);
    let address = surface.url.trim_start_matches("http://");
    let connection = TcpStream::connect(address).await?;
    connection.set_nodelay(true)?;
    let (mut socket, _) = tokio_tungstenite::client_async(request, connection).await?;
    body["type"] = "execute".into();
    socket.send(Message::text(body.to_string())).await?;
    while let Some(message) = socket.next().await {
        if let Message::Text(text) = message? {
            note(&serde_json::from_str(&text)?);
        }
    }
    Ok(())
}
