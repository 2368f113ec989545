//! One HTTP/1.1 connection that is kept open, and the judgement on what comes back over it. The
//! connection is driven by the task that uses it: no hand-over between tasks is part of a latency.

use std::borrow::Cow;
use std::fmt;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;

/// An answer larger than this is none that a scenario could give.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// Where requests go.
#[derive(Clone, Debug)]
pub struct Target {
    /// `host:port`, for connecting and for the `Host` header.
    authority: String,
    host: HeaderValue,
    path: Uri,
    authorization: HeaderValue,
}

impl Target {
    /// The execute route of the server at `url`, called with the API key `key`.
    ///
    /// # Errors
    /// `url` is not a plain `http://` address, or `key` holds characters no header may hold.
    pub fn new(url: &str, key: &str) -> Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("{url:?} is not a URL"))?;
        ensure!(
            uri.scheme_str() == Some("http"),
            "{url:?} must begin with http://; encryption would be measured too"
        );
        let host = uri.host().with_context(|| format!("{url:?} names no host"))?;
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(80));
        let path = format!("{}/execute", uri.path().trim_end_matches('/'));
        let mut authorization = HeaderValue::from_str(&format!("Bearer {key}"))
            .context("the API key holds characters that no HTTP header may hold")?;
        authorization.set_sensitive(true);
        Ok(Self {
            host: authority.parse().context("the host is not one for a header")?,
            authority,
            path: path.parse().context("the path of the URL is not one")?,
            authorization,
        })
    }
}

/// Why an answer does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// No connection.
    Connect,
    /// The connection broke, or did not speak HTTP.
    Broken,
    /// No answer within the limit.
    TimedOut,
    /// Another HTTP status than 200.
    Status(StatusCode),
    /// Status 200, but not an execution result.
    NotAResult,
    /// The program did not end with 0.
    ExitCode(i32),
    /// The program ended with 0, but wrote something else.
    WrongOutput,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect => f.write_str("cannot connect"),
            Self::Broken => f.write_str("connection broken"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Status(status) => write!(f, "HTTP status {}", status.as_u16()),
            Self::NotAResult => f.write_str("not an execution result"),
            Self::ExitCode(code) => write!(f, "exit code {code}"),
            Self::WrongOutput => f.write_str("wrong output"),
        }
    }
}

/// A failure with the words that came with it.
#[derive(Debug)]
pub struct Rejection {
    /// What kind it is.
    pub failure: Failure,
    /// The cause, or the beginning of the answer.
    pub detail: String,
}

impl Rejection {
    fn new(failure: Failure, detail: impl fmt::Display) -> Self {
        Self { failure, detail: detail.to_string() }
    }

    fn answer(failure: Failure, body: &[u8]) -> Self {
        Self::new(failure, String::from_utf8_lossy(&body[..body.len().min(300)]))
    }
}

/// The part of a result that is looked at.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    #[serde(borrow)]
    stdout: Cow<'a, str>,
    exit_code: i32,
    #[serde(default)]
    timings: Option<AnswerTimings>,
}

#[derive(Deserialize)]
struct AnswerTimings {
    #[serde(default)]
    cold: bool,
}

/// What is told about a right answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Whether the server says it had to create the sandbox for it.
    pub cold: bool,
}

/// Whether `body` is the right answer.
///
/// # Errors
/// It is not.
fn judge(status: StatusCode, body: &[u8], stdout: Option<&str>) -> Result<Accepted, Rejection> {
    if status != StatusCode::OK {
        return Err(Rejection::answer(Failure::Status(status), body));
    }
    let Ok(answer) = serde_json::from_slice::<Answer<'_>>(body) else {
        return Err(Rejection::answer(Failure::NotAResult, body));
    };
    if answer.exit_code != 0 {
        return Err(Rejection::answer(Failure::ExitCode(answer.exit_code), body));
    }
    if stdout.is_some_and(|expected| answer.stdout != expected) {
        return Err(Rejection::answer(Failure::WrongOutput, body));
    }
    Ok(Accepted { cold: answer.timings.is_some_and(|timings| timings.cold) })
}

type Sender = http1::SendRequest<Full<Bytes>>;
type Driver = http1::Connection<TokioIo<TcpStream>, Full<Bytes>>;

/// A connection to the target, made when first needed and again after it broke.
pub struct Connection<'a> {
    target: &'a Target,
    open: Option<(Sender, Driver)>,
}

impl fmt::Debug for Connection<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("target", self.target).finish_non_exhaustive()
    }
}

impl<'a> Connection<'a> {
    /// Not yet connected.
    #[must_use]
    pub const fn new(target: &'a Target) -> Self {
        Self { target, open: None }
    }

    /// Connects, unless that is done already and the server has not closed since.
    ///
    /// # Errors
    /// The target cannot be reached.
    pub async fn connect(&mut self) -> Result<(), Rejection> {
        let is_open = match &mut self.open {
            None => false,
            Some((_, driver)) => tokio::select! {
                biased;
                _ = driver => false,
                () = std::future::ready(()) => true,
            },
        };
        if !is_open {
            self.open = None;
            let opened = open(&self.target.authority).await;
            self.open = Some(opened.map_err(|cause| Rejection::new(Failure::Connect, cause))?);
        }
        Ok(())
    }

    /// Sends `body` and judges the answer, all within `limit`.
    ///
    /// # Errors
    /// No answer, or not the right one. Without an answer the connection is given up, as whatever
    /// the server still sends on it would be taken for the answer to the next request.
    pub async fn execute(
        &mut self,
        body: Bytes,
        stdout: Option<&str>,
        limit: Duration,
    ) -> Result<Accepted, Rejection> {
        let exchange = async {
            self.connect().await?;
            self.exchange(body).await.map_err(|cause| Rejection::new(Failure::Broken, cause))
        };
        let outcome = match tokio::time::timeout(limit, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Rejection::new(
                Failure::TimedOut,
                format_args!("no answer within {} ms", limit.as_millis()),
            )),
        };
        outcome.and_then(|(status, answer)| judge(status, &answer, stdout))
    }

    /// One request and its answer. The connection is only kept when it can take another.
    async fn exchange(&mut self, body: Bytes) -> Result<(StatusCode, Bytes)> {
        let (mut sender, mut driver) = self.open.take().context("not connected")?;
        let request = Request::post(self.target.path.clone())
            .header(HOST, self.target.host.clone())
            .header(AUTHORIZATION, self.target.authorization.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Full::new(body))?;
        let mut answer = pin!(async {
            sender.ready().await?;
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES)
                .collect()
                .await
                .map_err(anyhow::Error::from_boxed)?;
            anyhow::Ok((status, body.to_bytes(), sender))
        });
        let answered = tokio::select! {
            biased;
            answer = &mut answer => Some(answer),
            ended = &mut driver => { ended?; None }
        };
        if let Some(answered) = answered {
            let (status, body, sender) = answered?;
            self.open = Some((sender, driver));
            return Ok((status, body));
        }
        // The server may close right behind its answer, which then waits to be picked up. Without
        // the driver, an answer that is not there yet becomes an error instead of a long wait.
        drop(driver);
        let (status, body, _) = answer.await?;
        Ok((status, body))
    }
}

async fn open(authority: &str) -> Result<(Sender, Driver)> {
    let stream = TcpStream::connect(authority).await?;
    stream.set_nodelay(true)?;
    Ok(http1::handshake(TokioIo::new(stream)).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_answer_is_accepted() {
        let judge = |status, body: &str| {
            judge(status, body.as_bytes(), Some("hello")).map_err(|rejection| rejection.failure)
        };
        let ok = StatusCode::OK;
        assert_eq!(judge(ok, r#"{"stdout":"hello","exitCode":0}"#), Ok(Accepted { cold: false }));
        let cold = r#"{"stdout":"hello","exitCode":0,"timings":{"cold":true}}"#;
        assert_eq!(judge(ok, cold), Ok(Accepted { cold: true }));
        assert_eq!(judge(ok, r#"{"stdout":"hallo","exitCode":0}"#), Err(Failure::WrongOutput));
        assert_eq!(judge(ok, r#"{"stdout":"hello","exitCode":137}"#), Err(Failure::ExitCode(137)));
        assert_eq!(judge(ok, r#"{"error":"no"}"#), Err(Failure::NotAResult));
        let busy = StatusCode::TOO_MANY_REQUESTS;
        let body = r#"{"stdout":"hello","exitCode":0}"#;
        assert_eq!(judge(busy, body), Err(Failure::Status(busy)));
    }

    #[test]
    fn targets_are_plain_http_and_keep_their_path_prefix() {
        let target = Target::new("http://127.0.0.1:3900/api/", "key").unwrap();
        assert_eq!(target.authority, "127.0.0.1:3900");
        assert_eq!(target.path, "/api/execute");
        assert_eq!(Target::new("http://localhost", "key").unwrap().authority, "localhost:80");
        assert!(Target::new("https://example.org", "key").is_err());
        assert!(Target::new("127.0.0.1:3900", "key").is_err());
        assert!(Target::new("http://localhost", "a\nb").is_err());
        assert!(!format!("{target:?}").contains("Bearer"), "the key must not be printed");
    }
}
