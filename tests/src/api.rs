//! The HTTP interface as a client sees it, with nothing hidden.

use std::time::{Duration, Instant};

use reqwest::Method;
use reqwest::header::{AUTHORIZATION, HeaderMap};
use serde_json::{Value, json};

/// The key every stack of the tests is started with.
pub const KEY: &str = "end-to-end-key";
/// Nothing may take longer: what hangs is a failure.
const HANG: Duration = Duration::from_secs(90);

/// A server under test.
#[derive(Clone)]
pub struct Api {
    address: String,
    http: reqwest::Client,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status.
    pub status: u16,
    /// Header lines.
    pub headers: HeaderMap,
    /// Body.
    pub text: String,
    /// From sending the request to the last byte of the answer.
    pub took: Duration,
}

impl Reply {
    /// The body as JSON; `null` if it is not.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    /// A header's value; empty if absent.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

impl Api {
    /// The server on a port of this machine.
    ///
    /// # Panics
    /// If the HTTP client cannot be built.
    #[must_use]
    pub fn new(port: u16) -> Self {
        // Only plain HTTP is spoken; the client insists on a provider when built with TLS.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().timeout(HANG).no_proxy();
        Self {
            address: format!("http://127.0.0.1:{port}"),
            http: http.build().expect("an HTTP client can be built"),
        }
    }

    /// Base address, as for `--host`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sends a request; `authorization` is the whole header line, if any.
    ///
    /// # Errors
    /// If there is no answer: the server is gone, or hangs.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        authorization: Option<&str>,
        body: impl Into<reqwest::Body>,
    ) -> Result<Reply, String> {
        let mut request = self.http.request(method, format!("{}{path}", self.address)).body(body);
        if let Some(line) = authorization {
            request = request.header(AUTHORIZATION, line);
        }
        Self::await_reply(request).await
    }

    async fn await_reply(request: reqwest::RequestBuilder) -> Result<Reply, String> {
        let started = Instant::now();
        let response = request.send().await.map_err(|error| format!("{error:?}"))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.map_err(|error| format!("{error:?}"))?;
        Ok(Reply { status, headers, text, took: started.elapsed() })
    }

    /// Posts a body with the master's key on account of a tenant.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn post_as(&self, tenant: &str, path: &str, body: String) -> Result<Reply, String> {
        let request = self.http.post(format!("{}{path}", self.address)).body(body);
        let request = request.header(AUTHORIZATION, format!("Bearer {KEY}"));
        Self::await_reply(request.header("x-isol8-tenant", tenant)).await
    }

    /// Posts a body to `/execute` with the right key.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn post(&self, body: String) -> Result<Reply, String> {
        self.send(Method::POST, "/execute", Some(&format!("Bearer {KEY}")), body).await
    }

    /// Executes a request that must end well, and returns its result.
    ///
    /// # Panics
    /// If it does not.
    pub async fn run(&self, body: Value) -> Value {
        let reply = self.post(body.to_string()).await.expect("there is an answer");
        assert_eq!(reply.status, 200, "{}", reply.text);
        reply.json()
    }
}

/// Request for a program text.
#[must_use]
pub fn code(runtime: &str, text: &str) -> Value {
    json!({"request": {"runtime": runtime, "code": text}})
}

/// Request for a shell command in the image of a runtime.
#[must_use]
pub fn command(runtime: &str, line: &str) -> Value {
    json!({"request": {"runtime": runtime, "cmd": line}})
}
