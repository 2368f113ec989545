//! A server and the key to it, and the few ways in which requests are sent and refused.

use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, Url};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::ClientError;

/// A server, and the key to it. Cheap to clone; clones share the connections, which are kept alive.
///
/// There is no time limit of the client's own: a job may take as long as its server allows. Drop
/// the future to stop waiting.
#[derive(Clone)]
pub struct Client {
    pub(crate) http: reqwest::Client,
    host: String,
    base: Url,
    pub(crate) session_id: Option<String>,
    /// Whether the server is known to speak WebSocket; see `stream`.
    pub(crate) websocket: Arc<AtomicU8>,
}

/// What a server says about itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Health {
    /// `ok`.
    #[serde(default)]
    pub status: String,
    /// Its version.
    #[serde(default)]
    pub version: String,
}

fn base_url(host: &str) -> Result<Url, ClientError> {
    let url =
        Url::parse(host).map_err(|error| ClientError::invalid_host(host, error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        let why = format!("\"{}\" is neither http nor https", url.scheme());
        return Err(ClientError::invalid_host(host, why));
    }
    Ok(url)
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
        let base = base_url(&host)?;
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
        if base.scheme() == "http" {
            // A plain connection must not depend on root certificates: slim images have none.
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(ClientError::Setup)?;
        Ok(Self { http, host, base, session_id, websocket: Arc::default() })
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
    pub async fn health(&self) -> Result<Health, ClientError> {
        let response = self.send(self.request(Method::GET, &["health"])).await?;
        if !response.status().is_success() {
            return Err(ClientError::Unhealthy { status: response.status().as_u16() });
        }
        self.read_json(response).await
    }

    /// A request to a path made of `segments`, which are escaped.
    pub(crate) fn request(&self, method: Method, segments: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .expect("http and https addresses have paths")
            .pop_if_empty()
            .extend(segments);
        self.http.request(method, url)
    }

    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        request.send().await.map_err(|error| self.unreachable(error))
    }

    /// Sends a request; a bad status is refused as `what`.
    pub(crate) async fn send_ok(
        &self,
        what: &'static str,
        request: RequestBuilder,
    ) -> Result<Response, ClientError> {
        let response = self.send(request).await?;
        self.check(what, response).await
    }

    pub(crate) async fn check(
        &self,
        what: &'static str,
        response: Response,
    ) -> Result<Response, ClientError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = self.body(response).await?;
        Err(ClientError::refused(what, status, &body))
    }

    /// Sends a request and reads its JSON answer.
    pub(crate) async fn fetch<T: DeserializeOwned>(
        &self,
        what: &'static str,
        request: RequestBuilder,
    ) -> Result<T, ClientError> {
        let response = self.send_ok(what, request).await?;
        self.read_json(response).await
    }

    async fn read_json<T: DeserializeOwned>(&self, response: Response) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body(response).await?).map_err(ClientError::Response)
    }

    pub(crate) async fn body(&self, response: Response) -> Result<Bytes, ClientError> {
        response.bytes().await.map_err(|error| self.unreachable(error))
    }

    pub(crate) fn unreachable(&self, error: reqwest::Error) -> ClientError {
        ClientError::unreachable(&self.host, error)
    }
}
