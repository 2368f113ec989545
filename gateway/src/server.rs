//! Accepting connections, and ending in good order: stop accepting, let open requests finish,
//! answer those that still wait, and only then cut what is left.
//!
//! | task | on cancel | on error |
//! |:--|:--|:--|
//! | connection | finishes its request, then closes | logged at debug, the connection ends |
//! | socket | says so and closes; at once if nothing runs | logged at debug, the socket ends |
//! | stream, cancellation | ends once its connection has | tells the client, or logs |
//! | replies | ends once no connection is left | subscribes again |
//! | upkeep | ends at once | cannot fail |
//! | keys | writes down their last use, then ends | logged, tried again |

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use shared::Error;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::Options;
use crate::metrics::UPKEEP_EVERY;
use crate::router::router;
use crate::service::replies;
use crate::state::{Gateway, State};

/// Connections open at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 16_384;
/// How long a connection may sit without a complete request head: an idle one that is kept alive,
/// or one that sends its headers drop by drop. Longer than the 90 s after which common clients
/// give up idle connections, so that it is they who close. A request in progress has no limit.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);
/// Headers that are parsed; more are answered 431 by the parser itself, without a word. Well over what
/// [`observe`](crate::observe) lets in.
const MAX_PARSED_HEADERS: usize = 256;
/// How long a peer may neither take nor acknowledge what was sent to it: one that is gone without a
/// word, or that does not read.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// After a failed accept (out of descriptors, mostly), how long to leave it be.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// What is left at the end of the grace period gets its 503 within this time, or is cut.
const CLOSING_TIME: Duration = Duration::from_secs(2);

/// Runs a gateway until `token` is cancelled and its requests are answered.
///
/// # Errors
/// If the configuration is not usable. A queue out of reach is not an error: requests are answered
/// 503 until it is back.
pub async fn run(options: Options, token: CancellationToken) -> Result<(), Error> {
    let Options { config, listener, queue, master_key, audit, more_metrics } = options;
    let grace = Duration::from_millis(config.gateway.shutdown_grace_ms);
    let state = Gateway::new(&config, queue, master_key, audit, more_metrics, token.clone())?;
    drop(config);

    let background = CancellationToken::new();
    // If this future is dropped instead of cancelled, its tasks must not outlive it.
    let _background_guard = background.clone().drop_guard();
    let tasks = state.tasks.clone();
    let subscribed = replies::subscribe(&state).await;
    tasks.spawn(replies::run(Arc::clone(&state), subscribed, background.clone()));
    tasks.spawn(upkeep(Arc::clone(&state), background.clone()));
    let (keeper, token_of_keys) = (Arc::clone(&state), background.clone());
    tasks.spawn(async move { keeper.keyring.keep(&token_of_keys).await });

    let server = Server {
        router: router(Arc::clone(&state)),
        connections: state.connections.clone(),
        stopping: token,
        cut: state.cut.clone(),
    };
    let _cut_guard = state.cut.clone().drop_guard();
    server.accept(listener).await;
    server.drain(&state, grace).await;

    background.cancel();
    tasks.close();
    tasks.wait().await;
    state.queue.quiesce().await;
    info!("gateway stopped");
    Ok(())
}

async fn upkeep(state: State, token: CancellationToken) {
    let mut due = interval(UPKEEP_EVERY);
    while token.run_until_cancelled(due.tick()).await.is_some() {
        state.metrics.upkeep();
    }
}

struct Server {
    router: Router,
    connections: TaskTracker,
    /// Stop accepting; each connection closes after the request it is at.
    stopping: CancellationToken,
    /// Close whatever it is at.
    cut: CancellationToken,
}

impl Server {
    /// Accepts until told to stop; the listener is closed then.
    async fn accept(&self, listener: TcpListener) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        while let Some(slot) =
            self.stopping.run_until_cancelled(Arc::clone(&slots).acquire_owned()).await
        {
            let slot = slot.expect("the semaphore is never closed");
            let Some(accepted) = self.stopping.run_until_cancelled(listener.accept()).await else {
                break;
            };
            match accepted {
                Ok((stream, _)) => {
                    let connection =
                        serve(stream, self.router.clone(), self.stopping.clone(), self.cut.clone());
                    self.connections.spawn(async move {
                        let _slot = slot;
                        connection.await;
                    });
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection; trying again");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Waits for the open connections, first patiently, then less so.
    async fn drain(&self, state: &State, grace: Duration) {
        self.connections.close();
        let open = self.connections.len();
        info!(open, grace_ms = grace.as_millis(), "gateway stops: finishing open connections");
        if timeout(grace, self.connections.wait()).await.is_ok() {
            return;
        }
        warn!(waiting = state.registry.waiting(), "grace period over: answering 503 to the rest");
        state.closing.cancel();
        if timeout(CLOSING_TIME, self.connections.wait()).await.is_ok() {
            return;
        }
        warn!(open = self.connections.len(), "closing connections that did not end");
        self.cut.cancel();
        self.connections.wait().await;
    }
}

/// Serves one connection to its end.
async fn serve(
    stream: TcpStream,
    router: Router,
    stopping: CancellationToken,
    cut: CancellationToken,
) {
    // Answers are single small writes: waiting to fill a packet would only delay them.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "cannot set TCP_NODELAY");
    }
    if let Err(error) = SockRef::from(&stream).set_tcp_user_timeout(Some(STALL_TIMEOUT)) {
        debug!(%error, "cannot set TCP_USER_TIMEOUT");
    }
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(MAX_PARSED_HEADERS)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = cut.cancelled() => None,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            cut.run_until_cancelled(connection).await
        }
    };
    if let Some(Err(error)) = ended {
        debug!(%error, "connection ended");
    }
}
