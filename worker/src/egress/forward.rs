//! Requests for whole URIs, carried out on behalf of a program: bodies stream both ways, what concerns
//! only one of the two connections is left out, and another protocol may take over.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{
    CONNECTION, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::dial::Asked;
use super::gate::Access;
use super::proxy::{Body, Handover, MAX_HEADERS};
use super::refusal::Refusal;
use super::relay::relay;
use super::target::Target;

impl Access {
    /// Carries out a request; `inner` is where it goes if it came inside of `CONNECT`.
    ///
    /// # Errors
    /// If it is not valid, may not be, or nobody answers.
    pub(super) async fn forward(
        &self,
        mut request: Request<Incoming>,
        inside: OnUpgrade,
        handover: &Handover,
        inner: Option<&Target>,
    ) -> Result<Response<Body>, Refusal> {
        let (target, path) = match inner {
            Some(target) => target.of_inner(request.uri())?,
            None => Target::of_request(request.uri())?,
        };
        let method = request.method().clone();
        let asked = Asked { method: method.as_str(), path: Some(path.path()) };
        let tls_port = self.secrets().tls_port(&target.host, target.port);
        let port = tls_port.unwrap_or(target.port);
        let (outside, underway) = self.dial(asked, &target, port).await?;
        let outside: Pin<Box<dyn Stream>> = match tls_port {
            None => Box::pin(outside),
            Some(_) => {
                let secured = timeout(TLS_LIMIT, self.tls.connect(&target.host, outside)).await;
                let secured = secured.map_err(io::Error::from).flatten();
                Box::pin(secured.map_err(|error| {
                    self.journal.fail(&target, "TLS failed");
                    let host = target.host.to_string();
                    Refusal::NoTls { host, port, why: error.to_string() }
                })?)
            }
        };

        let upgrade = upgrade(request.headers());
        prepare(&mut request, &target, path.into(), upgrade.as_ref());
        let is_tls = tls_port.is_some();
        self.secrets().put_into(request.headers_mut(), &target.host, port, is_tls);
        let mut client = http1::Builder::new();
        let client = client.preserve_header_case(true).max_headers(MAX_HEADERS);
        let failed = |error: hyper::Error| {
            tracing::debug!(%error, "a request of a program failed");
            self.unreachable(&target, "no valid answer")
        };
        let (mut sender, connection) =
            client.handshake(TokioIo::new(outside)).await.map_err(failed)?;
        let connection = connection.with_upgrades();
        self.spawn(async move {
            // Its end shows in the answer's body.
            let _ = connection.await;
        });
        let mut response = sender.send_request(request).await.map_err(failed)?;

        let is_switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        strip(response.headers_mut(), upgrade.as_ref().filter(|_| is_switched));
        if is_switched {
            if upgrade.is_none() {
                return Err(self.unreachable(&target, "no valid answer"));
            }
            let outside = hyper::upgrade::on(&mut response);
            handover.put(async move {
                if let (Ok(inside), Ok(outside)) = tokio::join!(inside, outside) {
                    relay(TokioIo::new(inside), TokioIo::new(outside)).await;
                }
                drop(underway);
            });
            return Ok(response.map(|_| Empty::new().map_err(|never| match never {}).boxed()));
        }
        *response.version_mut() = Version::HTTP_11;
        // The request has ended when the last of its answer has gone.
        Ok(response.map(|body| {
            body.map_frame(move |frame| {
                let _ = &underway;
                frame
            })
            .boxed()
        }))
    }
}

/// How long a host may take to agree on TLS.
const TLS_LIMIT: Duration = Duration::from_secs(10);

/// A connection to the outside, whatever it is made of.
trait Stream: AsyncRead + AsyncWrite + Send {}

impl<S: AsyncRead + AsyncWrite + Send> Stream for S {}

/// The protocol that a request wants to go on with.
fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let is_asked = words(headers).any(|word| word.eq_ignore_ascii_case("upgrade"));
    headers.get(UPGRADE).filter(|_| is_asked).cloned()
}

/// Makes of a request to a proxy one to the server itself.
fn prepare(
    request: &mut Request<Incoming>,
    target: &Target,
    path: Uri,
    upgrade: Option<&HeaderValue>,
) {
    *request.uri_mut() = path;
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    let is_chunked = headers.contains_key(TRANSFER_ENCODING);
    strip(headers, upgrade);
    if is_chunked {
        // Otherwise the body of a method that usually has none would be left out.
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    // Answered by us already.
    headers.remove(EXPECT);
    // Only the URI says where a request goes: another host here would get past the filter.
    headers.remove(HOST);
    if let Ok(host) = HeaderValue::try_from(target.authority()) {
        headers.insert(HOST, host);
    }
}

/// Removes what concerns only one connection, and whatever is meant for a proxy.
fn strip(headers: &mut HeaderMap, upgrade: Option<&HeaderValue>) {
    let named: Vec<HeaderName> =
        words(headers).filter_map(|word| word.parse().ok()).filter(|name| *name != HOST).collect();
    let for_proxies = headers.keys().filter(|name| name.as_str().starts_with("proxy-")).cloned();
    let for_proxies: Vec<HeaderName> = for_proxies.collect();
    let of_connection = [CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];
    let keep_alive = HeaderName::from_static("keep-alive");
    for name in named.into_iter().chain(for_proxies).chain(of_connection).chain([keep_alive]) {
        headers.remove(name);
    }
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol.clone());
    }
}

/// What the `Connection` headers name.
fn words(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(CONNECTION).into_iter();
    values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim)
}
