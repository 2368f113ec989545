//! The proxy that programs talk to: requests for whole URIs, and `CONNECT`. One connection is one task.

use std::convert::Infallible;
use std::io::Cursor;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use hyper::header::UPGRADE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use super::dial::Asked;
use super::gate::Access;
use super::refusal::Refusal;
use super::relay::relay;
use super::target::Target;
use super::tunnel::TunnelStream;
use super::unread::{Turn, Worded};

/// Where TLS is spoken end to end, and nothing can be read.
const CONNECT_PORT: u16 = 443;
/// As the journal knows it.
const CONNECT: Asked<'_> = Asked { method: "CONNECT", path: None };
/// How TLS begins: with a record of this kind.
const TLS_HANDSHAKE: u8 = 0x16;
/// Bytes that the head of a request may have.
pub(super) const MAX_HEAD_BYTES: usize = 64 << 10;
/// Headers that a request may have, and the answer to it.
pub(super) const MAX_HEADERS: usize = 1024;
/// Bytes of a method. None is longer, and every request is written down with its own.
const MAX_METHOD_BYTES: usize = 32;
/// How long a program may take for the head of a request, and leave a connection unused.
const HEAD_LIMIT: Duration = Duration::from_secs(120);

/// The body of an answer.
pub(super) type Body = BoxBody<Bytes, hyper::Error>;

/// What becomes of a connection once it is no HTTP any more.
type Next = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A place for that, filled by the request that brings it about.
#[derive(Clone, Default)]
pub(super) struct Handover(Arc<Mutex<Option<Next>>>);

impl Handover {
    pub(super) fn put(&self, next: impl Future<Output = ()> + Send + 'static) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::pin(next));
    }

    fn take(&self) -> Option<Next> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Serves one connection of a program to its end.
pub(super) async fn serve(stream: TunnelStream, access: Arc<Access>) {
    serve_http(stream, access, None).await;
}

/// Serves HTTP on a connection: of a program to its proxy, or, as it believes, to `inner`.
async fn serve_http(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    access: Arc<Access>,
    inner: Option<Target>,
) {
    let (handover, turn) = (Handover::default(), Turn::default());
    let service = service_fn(|request: Request<Incoming>| {
        turn.begin();
        let (turn, is_connect) = (turn.clone(), request.method() == Method::CONNECT);
        let answer = answer(request, Arc::clone(&access), handover.clone(), inner.clone());
        async move {
            let answer = answer.await;
            let status = answer.status();
            if status == StatusCode::SWITCHING_PROTOCOLS || (is_connect && status.is_success()) {
                turn.hand_over();
            }
            Ok::<_, Infallible>(answer.map(|body| turn.of_answer(body)))
        }
    });
    let mut server = http1::Builder::new();
    let server = server.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT);
    let server = server.max_buf_size(MAX_HEAD_BYTES).max_headers(MAX_HEADERS);
    let server = server.preserve_header_case(true);
    let stream = Worded::new(stream, turn.clone());
    let connection = server.serve_connection(TokioIo::new(stream), service).with_upgrades();
    if let Err(error) = connection.await {
        tracing::trace!(%error, "a program's connection to its proxy broke off");
    }
    if let Some(next) = handover.take() {
        next.await;
    }
}

/// Serves a connection inside of a connection, to a place where a secret waits: HTTP is read, and TLS,
/// which nobody but its two ends can read, passes as it is.
fn serve_inner(inside: TokioIo<Upgraded>, access: Arc<Access>, target: Target) -> Next {
    Box::pin(async move {
        let (mut reading, writing) = tokio::io::split(inside);
        let mut first = [0];
        let Ok(Ok(1)) = timeout(HEAD_LIMIT, reading.read(&mut first)).await else { return };
        let inside = tokio::io::join(Cursor::new(first).chain(reading), writing);
        if first != [TLS_HANDSHAKE] {
            return serve_http(inside, access, Some(target)).await;
        }
        // The program was told that it is connected; who is not there now has gone away.
        if let Ok((outside, underway)) = access.dial(CONNECT, &target, target.port).await {
            relay(inside, outside).await;
            drop(underway);
        }
    })
}

async fn answer(
    mut request: Request<Incoming>,
    access: Arc<Access>,
    handover: Handover,
    inner: Option<Target>,
) -> Response<Body> {
    let inside = hyper::upgrade::on(&mut request);
    if request.method() == Method::CONNECT || request.headers().contains_key(UPGRADE) {
        handover.put(end(inside.clone()));
    }
    let answer = if request.method().as_str().len() > MAX_METHOD_BYTES {
        Err(Refusal::Bad(format!("a method has at most {MAX_METHOD_BYTES} bytes")))
    } else if request.method() == Method::CONNECT && inner.is_none() {
        connect(&request, inside, access, &handover).await
    } else {
        access.forward(request, inside, &handover, inner.as_ref()).await
    };
    answer.unwrap_or_else(|refusal| refusal.response())
}

/// Ends a connection that could have become another protocol and did not. It is given back as it is,
/// and dropped it would be broken off, with what the program has not got of its answer.
async fn end(inside: OnUpgrade) {
    if let Ok(inside) = inside.await {
        // The program may be gone.
        let _ = TokioIo::new(inside).shutdown().await;
    }
}

async fn connect(
    request: &Request<Incoming>,
    inside: OnUpgrade,
    access: Arc<Access>,
    handover: &Handover,
) -> Result<Response<Body>, Refusal> {
    let target = Target::of_connect(request.uri())?;
    // Programs that use CONNECT for plain HTTP too, as Node does, are to be read where a secret waits.
    if target.port != CONNECT_PORT && access.secrets().wait_at(&target.host, target.port) {
        access.check(CONNECT, &target)?;
        handover.put(async move {
            if let Ok(inside) = inside.await {
                serve_inner(TokioIo::new(inside), access, target).await;
            }
        });
        return Ok(established());
    }
    let (outside, underway) = access.dial(CONNECT, &target, target.port).await?;
    handover.put(async move {
        if let Ok(inside) = inside.await {
            relay(TokioIo::new(inside), outside).await;
        }
        drop(underway);
    });
    Ok(established())
}

fn established() -> Response<Body> {
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed());
    let reason = ReasonPhrase::from_static(b"Connection Established");
    response.extensions_mut().insert(reason);
    response
}
