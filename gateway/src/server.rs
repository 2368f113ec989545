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

use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use shared::Error;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::Options;
use crate::connection::{HeadClock, HeadTimer, Pace, Peer, Places, Proxies, Watched, WithPeer};
use crate::metrics::UPKEEP_EVERY;
use crate::router::router;
use crate::service::replies;
use crate::state::{Gateway, State, pace};

/// Headers that are parsed; more are answered 431 by the parser itself, without a word. Well over what
/// [`observe`](crate::observe) lets in.
const MAX_PARSED_HEADERS: usize = 256;
/// How long the kernel waits for a peer that is gone without a word. One that is there and does not read is
/// found out sooner, by `gateway.stallTimeoutMs`.
const GONE_TIMEOUT: Duration = Duration::from_secs(60);
/// What a client is told that has as many connections as it may; whoever speaks HTTP understands it.
const TOO_MANY: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\n\
    retry-after: 5\r\nconnection: close\r\ncontent-length: 140\r\n\r\n\
    {\"error\":\"This address has as many connections open as it may (gateway.maxConnectionsPerAddress). \
    Close some\",\"code\":\"TOO_MANY_CONNECTIONS\"}";
/// After a failed accept (out of descriptors, mostly), how long to leave it be.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// What is left at the end of the grace period gets its 503 within this time, or is cut.
const CLOSING_TIME: Duration = Duration::from_secs(2);
/// How often a gateway looks for what is due.
const HOUSEKEEPING_EVERY: Duration = Duration::from_secs(2);

/// Runs a gateway until `token` is cancelled and its requests are answered.
///
/// # Errors
/// If the configuration is not usable. A queue out of reach is not an error: requests are answered
/// 503 until it is back.
pub async fn run(options: Options, token: CancellationToken) -> Result<(), Error> {
    let Options { config, listener, queue, master_key, audit, more_metrics } = options;
    let grace = Duration::from_millis(config.gateway.shutdown_grace_ms);
    let state = Gateway::new(&config, queue, master_key, audit, more_metrics, token.clone())?;
    if state.queue.secrets_keys().is_empty() {
        if config.redis.allow_plain_secrets {
            warn!("secrets of requests are kept in Redis as they are (redis.allowPlainSecrets)");
        } else {
            warn!("requests with secrets are refused: there is no key (redis.secretsKeyFile)");
        }
    }
    if state.master_key.is_weak() {
        warn!(
            "the master key is short, or of few different characters: whoever guesses it may do everything. Take a \
             random one: openssl rand -hex 32"
        );
    }
    let limits = Limits::new(&config.gateway);
    drop(config);

    let background = CancellationToken::new();
    // If this future is dropped instead of cancelled, its tasks must not outlive it.
    let _background_guard = background.clone().drop_guard();
    let tasks = state.tasks.clone();
    let subscribed = replies::subscribe(&state).await;
    tasks.spawn(replies::run(Arc::clone(&state), subscribed, background.clone()));
    tasks.spawn(upkeep(Arc::clone(&state), background.clone()));
    tasks.spawn(keep_house(Arc::clone(&state), background.clone()));
    let (keeper, token_of_keys) = (Arc::clone(&state), background.clone());
    tasks.spawn(async move { keeper.keyring.keep(&token_of_keys).await });

    let server = Server {
        router: router(Arc::clone(&state)),
        limits,
        proxies: state.proxies.clone(),
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

/// Does what is due in the queue: workers do it more often, but there may be none.
async fn keep_house(state: State, token: CancellationToken) {
    let mut due = interval(HOUSEKEEPING_EVERY);
    while token.run_until_cancelled(due.tick()).await.is_some() {
        if let Err(error) = state.queue.housekeep(None).await {
            warn!(%error, "cannot look for what is due in the queue; trying again");
        }
    }
}

/// What a connection may do.
struct Limits {
    places: Places,
    /// From the first byte of a head to its last one.
    head: Duration,
    /// Between two requests.
    idle: Duration,
    pace: Pace,
}

impl Limits {
    fn new(config: &shared::config::Gateway) -> Self {
        Self {
            places: Places::new(config.max_connections, config.most_connections_of_address()),
            head: Duration::from_millis(config.head_timeout_ms),
            idle: Duration::from_millis(config.idle_timeout_ms),
            pace: pace(config),
        }
    }
}

struct Server {
    router: Router,
    limits: Limits,
    proxies: Proxies,
    connections: TaskTracker,
    /// Stop accepting; each connection closes after the request it is at.
    stopping: CancellationToken,
    /// Close whatever it is at.
    cut: CancellationToken,
}

impl Server {
    /// Accepts until told to stop; the listener is closed then.
    async fn accept(&self, listener: TcpListener) {
        while let Some(Some(permit)) =
            self.stopping.run_until_cancelled(self.limits.places.next()).await
        {
            let Some(accepted) = self.stopping.run_until_cancelled(listener.accept()).await else {
                break;
            };
            match accepted {
                Ok((stream, address)) => self.admit(stream, address.ip(), permit),
                Err(error) => {
                    warn!(%error, "cannot accept a connection; trying again");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Serves a connection, unless its address has enough of them.
    fn admit(&self, stream: TcpStream, peer: IpAddr, permit: OwnedSemaphorePermit) {
        let client = (!self.proxies.include(peer)).then_some(peer);
        let Some(place) = self.limits.places.give(permit, client) else {
            debug!(%peer, "refused a connection: its address has as many as it may");
            // Nobody waits for it: what does not fit into an empty buffer is not said.
            let _ = stream.try_write(TOO_MANY);
            return;
        };
        let heads = Arc::new(HeadClock::new());
        let mut http = http1::Builder::new();
        http.timer(HeadTimer::new(Arc::clone(&heads), self.limits.head))
            .header_read_timeout(self.limits.idle)
            .max_headers(MAX_PARSED_HEADERS);
        if let Err(error) = set_up(&stream) {
            debug!(%error, "cannot set up a connection");
        }
        let service = TowerToHyperService::new(self.router.clone());
        let service = WithPeer { service, peer: Peer(peer) };
        let stream = Watched::new(stream, self.limits.pace, heads);
        let connection = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
        let (stopping, cut) = (self.stopping.clone(), self.cut.clone());
        self.connections.spawn(async move {
            let _place = place;
            serve(connection, stopping, cut).await;
        });
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

fn set_up(stream: &TcpStream) -> io::Result<()> {
    // Answers are single small writes: waiting to fill a packet would only delay them.
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_user_timeout(Some(GONE_TIMEOUT))
}

type Connection =
    http1::UpgradeableConnection<TokioIo<Watched>, WithPeer<TowerToHyperService<Router>>>;

/// Serves one connection to its end.
async fn serve(connection: Connection, stopping: CancellationToken, cut: CancellationToken) {
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
