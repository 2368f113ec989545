//! The filtered network: how fast bytes go through it, and what it adds to a request. The server they
//! go to is ours, on the loopback interface, so the server under test must allow that address.

use std::fmt;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Surface, body};
use crate::measurement::{Latencies, Percentiles};

const PIECE_BYTES: usize = 256 << 10;
const REQUESTS: usize = 2000;

/// What the program in the sandbox does: one request after the other, then a large body each way.
const PROGRAM: &str = include_str!("tunnel.py");

/// What was found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tunnel {
    /// Bytes that went each way, in MiB.
    pub mib: usize,
    /// Into the sandbox, in 10^6 bytes per second.
    pub down_mb_per_second: f64,
    /// Out of it.
    pub up_mb_per_second: f64,
    /// A request without a tunnel, from this process, in ms.
    pub direct_ms: Percentiles,
    /// Inside of `CONNECT`, as HTTPS goes.
    pub connect_ms: Percentiles,
    /// Of the proxy, which connects anew to the server for each.
    pub request_ms: Percentiles,
    /// Likewise, on a new connection to the proxy.
    pub fresh_ms: Percentiles,
}

impl fmt::Display for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mib, down_mb_per_second: down, up_mb_per_second: up, .. } = self;
        write!(
            f,
            "{mib} MiB, {down:.0} MB/s down, {up:.0} MB/s up; p50 {:.3} ms",
            self.connect_ms.p50
        )?;
        write!(f, " in CONNECT, {:.3} by request, ", self.request_ms.p50)?;
        write!(f, "{:.3} anew, {:.3} direct", self.fresh_ms.p50, self.direct_ms.p50)
    }
}

/// What the program prints.
#[derive(Deserialize)]
struct Printed {
    down_seconds: f64,
    up_seconds: f64,
    /// In microseconds, like all below.
    connect: Vec<u64>,
    request: Vec<u64>,
    fresh: Vec<u64>,
}

pub(super) async fn measure(surface: &Surface) -> Result<Tunnel> {
    let address = serve().context("a server of our own")?;
    let direct = tokio::task::spawn_blocking(move || direct(address)).await??;
    let bytes = surface.file_mib << 20;
    let mut request = body("python", PROGRAM, None);
    request["request"]["env"] = json!({
        "SERVER": address.to_string(), "BYTES": bytes.to_string(), "REQUESTS": REQUESTS.to_string(),
    });
    request["options"] = json!({"network": "filtered"});
    let sent = surface.http.post(format!("{}/execute", surface.url)).bearer_auth(&surface.key);
    let answer = sent.body(request.to_string()).send().await?;
    let result: serde_json::Value = serde_json::from_str(&answer.text().await?)?;
    ensure!(result["exitCode"] == 0, "the program for the filtered network: {result}");
    let printed: Printed = serde_json::from_str(result["stdout"].as_str().unwrap_or_default())?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53 bytes")]
    let megabytes = bytes as f64 / 1e6;
    Ok(Tunnel {
        mib: surface.file_mib,
        down_mb_per_second: megabytes / printed.down_seconds,
        up_mb_per_second: megabytes / printed.up_seconds,
        direct_ms: direct,
        connect_ms: percentiles(&printed.connect),
        request_ms: percentiles(&printed.request),
        fresh_ms: percentiles(&printed.fresh),
    })
}

fn percentiles(microseconds: &[u64]) -> Percentiles {
    let mut latencies = Latencies::default();
    microseconds.iter().for_each(|&took| latencies.record(Duration::from_micros(took)));
    latencies.percentiles()
}

fn direct(address: SocketAddr) -> Result<Percentiles> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut latencies = Latencies::default();
    let mut answer = [0; 1024];
    for _ in 0..REQUESTS {
        let before = Instant::now();
        stream.write_all(b"GET /0 HTTP/1.1\r\n\r\n")?;
        ensure!(stream.read(&mut answer)? > 0, "our own server is gone");
        latencies.record(before.elapsed());
    }
    Ok(latencies.percentiles())
}

/// Starts a server with a thread for each connection; it ends with this process.
fn serve() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that goes away is none of our business.
            thread::spawn(move || drop(answer(stream)));
        }
    });
    Ok(address)
}

/// Answers `GET /N` with N bytes, and takes whatever body comes.
fn answer(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut output = stream.try_clone()?;
    let mut input = BufReader::with_capacity(PIECE_BYTES, stream);
    let piece = vec![0; PIECE_BYTES];
    loop {
        let (mut wanted, mut coming) = (0, 0);
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if input.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let lower = line.to_ascii_lowercase();
            let number = |text: &str| text.trim().parse().unwrap_or(0);
            if let Some(path) = line.strip_prefix("GET /") {
                wanted = number(path.split(' ').next().unwrap_or_default());
            } else if let Some(length) = lower.strip_prefix("content-length:") {
                coming = number(length);
            }
        }
        io::copy(&mut (&mut input).take(coming), &mut io::sink())?;
        write!(output, "HTTP/1.1 200 OK\r\nContent-Length: {wanted}\r\n\r\n")?;
        while wanted > 0 {
            let count = piece.len().min(usize::try_from(wanted).unwrap_or(usize::MAX));
            output.write_all(&piece[..count])?;
            wanted -= count as u64;
        }
    }
}
