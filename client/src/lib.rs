//! HTTP client for any isol8-compatible server: what isol8 calls its remote engine. Error texts are
//! those of isol8's own client, so scripts that match on them keep working.

mod error;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{RequestBuilder, Response};
use serde::Serialize;
use shared::execution::{ExecuteEnvelope, ExecutionOptions, ExecutionRequest, ExecutionResult};

pub use error::ClientError;

/// A server, and the key to it. Cheap to clone; clones share the connections, which are kept alive.
///
/// There is no time limit of the client's own: a job may take as long as its server allows. Drop
/// the future to stop waiting.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    host: String,
    session_id: Option<String>,
}

/// The body of an execute request, borrowed from the envelope.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    request: &'a ExecutionRequest,
    options: &'a ExecutionOptions,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<&'a str>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

fn scheme(host: &str) -> Result<Scheme, ClientError> {
    let url = reqwest::Url::parse(host)
        .map_err(|error| ClientError::invalid_host(host, error.to_string()))?;
    match url.scheme() {
        "http" => Ok(Scheme::Http),
        "https" => Ok(Scheme::Https),
        other => {
            Err(ClientError::invalid_host(host, format!("\"{other}\" is neither http nor https")))
        }
    }
}

impl Client {
    /// A client of `host` (`http://name:port`; one trailing slash is removed). With a session, every
    /// execution runs in it unless its own envelope names another.
    ///
    /// # Errors
    /// [`ClientError::InvalidHost`], [`ClientError::InvalidKey`], or [`ClientError::Setup`] if the
    /// HTTP machinery cannot start.
    pub fn new(host: &str, api_key: &str, session_id: Option<String>) -> Result<Self, ClientError> {
        let host = host.strip_suffix('/').unwrap_or(host).to_owned();
        let scheme = scheme(&host)?;
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", api_key.trim()))
            .map_err(|_| ClientError::InvalidKey)?;
        authorization.set_sensitive(true);
        let headers = HeaderMap::from_iter([
            (AUTHORIZATION, authorization),
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        ]);
        let mut builder = reqwest::Client::builder()
            .default_headers(headers)
            .user_agent(concat!("isol8/", env!("CARGO_PKG_VERSION")));
        // The provider is the process's; whoever embeds this crate may have chosen one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        if scheme == Scheme::Http {
            // A plain connection must not depend on root certificates: slim images have none.
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(ClientError::Setup)?;
        Ok(Self { http, host, session_id })
    }

    /// The server, without a trailing slash.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Asks whether the server is there.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], or [`ClientError::Unhealthy`] with its status.
    pub async fn health(&self) -> Result<(), ClientError> {
        let response = self.send(self.http.get(self.url("/health"))).await?;
        if !response.status().is_success() {
            return Err(ClientError::Unhealthy { status: response.status().as_u16() });
        }
        Ok(())
    }

    /// Runs a request and waits for its result. A failing program is a result, not an error.
    ///
    /// # Errors
    /// [`ClientError::Execution`] if the server refuses or fails, [`ClientError::Unreachable`], and
    /// [`ClientError::Response`] if the answer is not a result.
    pub async fn execute(
        &self,
        envelope: &ExecuteEnvelope,
    ) -> Result<ExecutionResult, ClientError> {
        serde_json::from_slice(&self.execute_bytes(envelope).await?).map_err(ClientError::Response)
    }

    /// Like [`Self::execute`], with everything the server sent, also what this version does not
    /// know.
    ///
    /// # Errors
    /// Those of [`Self::execute`].
    pub async fn execute_raw(
        &self,
        envelope: &ExecuteEnvelope,
    ) -> Result<serde_json::Value, ClientError> {
        serde_json::from_slice(&self.execute_bytes(envelope).await?).map_err(ClientError::Response)
    }

    /// Posts a finished body to `/execute` and returns status and body as they are.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] alone; a bad status is not an error here.
    pub async fn post_execute(&self, body: Bytes) -> Result<(u16, Bytes), ClientError> {
        let response = self.send(self.http.post(self.url("/execute")).body(body)).await?;
        let status = response.status().as_u16();
        Ok((status, self.body(response).await?))
    }

    async fn execute_bytes(&self, envelope: &ExecuteEnvelope) -> Result<Bytes, ClientError> {
        let body = Body {
            request: &envelope.request,
            options: &envelope.options,
            session_id: envelope.session_id.as_deref().or(self.session_id.as_deref()),
        };
        let json = serde_json::to_vec(&body).map_err(ClientError::Request)?;
        let response = self.send(self.http.post(self.url("/execute")).body(json)).await?;
        let status = response.status();
        let body = self.body(response).await?;
        if !status.is_success() {
            return Err(ClientError::execution(status, &body));
        }
        Ok(body)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.host)
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        request.send().await.map_err(|error| ClientError::unreachable(&self.host, error))
    }

    async fn body(&self, response: Response) -> Result<Bytes, ClientError> {
        response.bytes().await.map_err(|error| ClientError::unreachable(&self.host, error))
    }
}
