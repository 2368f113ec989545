//! The worker's own small HTTP side, for whoever watches it: `/healthz` (the process lives),
//! `/readyz` (Docker and the queue answer) and `/metrics`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Context;

/// Scrapers are few; whoever comes on top of these waits.
const MAX_CONNECTIONS: usize = 16;
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves until `token` is cancelled.
pub(crate) async fn serve(context: Arc<Context>, listener: TcpListener, token: CancellationToken) {
    let connections = TaskTracker::new();
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let accept = async {
        while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let connection = connection(Arc::clone(&context), stream, token.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    token.run_until_cancelled(accept).await;
    connections.close();
    connections.wait().await;
}

async fn connection(context: Arc<Context>, stream: TcpStream, token: CancellationToken) {
    let service = service_fn(move |request| answer(Arc::clone(&context), request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    if let Some(Err(error)) = token.run_until_cancelled(connection).await {
        tracing::debug!(%error, "a connection of the worker's own HTTP side broke");
    }
}

async fn answer<B>(
    context: Arc<Context>,
    request: Request<B>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, kind, body) = match request.uri().path() {
        "/healthz" => (StatusCode::OK, "application/json", r#"{"status":"ok"}"#.to_owned()),
        "/readyz" => readiness(&context).await,
        "/metrics" => (StatusCode::OK, "text/plain; version=0.0.4", context.metrics.render()),
        _ => (StatusCode::NOT_FOUND, "application/json", r#"{"error":"Not Found"}"#.to_owned()),
    };
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    Ok(response)
}

async fn readiness(context: &Context) -> (StatusCode, &'static str, String) {
    let (queue, engine) = tokio::join!(context.queue.ping(), context.executor.ping());
    let missing: Vec<&str> = [("queue", queue), ("docker", engine)]
        .into_iter()
        .filter_map(|(name, answer)| answer.is_err().then_some(name))
        .collect();
    let status = if missing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = if missing.is_empty() { "ready" } else { "not ready" };
    let body = serde_json::json!({"status": word, "missing": missing}).to_string();
    (status, "application/json", body)
}
