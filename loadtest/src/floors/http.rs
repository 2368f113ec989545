//! The HTTP floor: a server on a thread of its own that answers at once. What the generator
//! measures against it is HTTP, loopback and the generator itself.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// An execution result as every scenario expects it.
pub const RIGHT_ANSWER: &str = r#"{"stdout":"hello","stderr":"","exitCode":0,"durationMs":1}"#;

const MAX_REQUEST_BYTES: usize = 1 << 20;

/// Decides on an answer from the number of the request (from 0) and its body.
pub type Handler = dyn Fn(u64, &[u8]) -> (StatusCode, Bytes) + Send + Sync;

/// A running server; it stops when dropped.
#[derive(Debug)]
pub struct StubServer {
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl StubServer {
    /// A server that gives [`RIGHT_ANSWER`] to everything.
    ///
    /// # Errors
    /// No port or no thread is to be had.
    pub fn start() -> Result<Self> {
        Self::with_handler(Arc::new(|_, _: &[u8]| {
            (StatusCode::OK, Bytes::from_static(RIGHT_ANSWER.as_bytes()))
        }))
    }

    /// A server that answers as `handler` says, on a free port of the loopback interface.
    ///
    /// # Errors
    /// No port or no thread is to be had.
    pub fn with_handler(handler: Arc<Handler>) -> Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").context("no free port")?;
        listener.set_nonblocking(true).context("cannot make the listener non-blocking")?;
        let address = listener.local_addr().context("the listener has no address")?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot create a runtime")?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("stub-server".into())
            .spawn(move || runtime.block_on(serve(listener, handler, stopped)))
            .context("cannot start a thread")?;
        Ok(Self { address, stop, thread: Some(thread) })
    }

    /// Its address, as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for StubServer {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic in a handler has been printed by then, and shows up as broken connections.
            let _ = thread.join();
        }
    }
}

async fn serve(listener: std::net::TcpListener, handler: Arc<Handler>, stop: CancellationToken) {
    let listener = TcpListener::from_std(listener).expect("the listener is non-blocking");
    let requests = Arc::new(AtomicU64::new(0));
    // Dropped at the end, which ends every connection.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = connections.join_next() => {}
            Ok((stream, _)) = listener.accept() => {
                connections.spawn(answer(stream, Arc::clone(&handler), Arc::clone(&requests)));
            }
        }
    }
}

async fn answer(stream: TcpStream, handler: Arc<Handler>, requests: Arc<AtomicU64>) {
    let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
        let handler = Arc::clone(&handler);
        let number = requests.fetch_add(1, Ordering::Relaxed);
        async move {
            let body = Limited::new(request.into_body(), MAX_REQUEST_BYTES).collect().await;
            let (status, answer) = match body {
                Ok(body) => handler(number, &body.to_bytes()),
                Err(_) => (StatusCode::PAYLOAD_TOO_LARGE, Bytes::new()),
            };
            let mut response = Response::new(Full::new(answer));
            *response.status_mut() = status;
            Ok::<_, Infallible>(response)
        }
    });
    if stream.set_nodelay(true).is_ok() {
        // The generator counts broken connections; there is nobody else to tell.
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }
}
