//! What every request handler can reach: built once per gateway, shared by reference.

use std::sync::Arc;
use std::time::Duration;

use shared::Error;
use shared::audit::Audit;
use shared::config::Config;
use shared::execution::Admission;
use shared::id::{GatewayId, TenantId};
use shared::redis::{BatchLimits, Queue, Quota};
use shared::webhook::WebhookRules;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::MoreMetrics;
use crate::auth::{Guesses, Keyring, MasterKey};
use crate::body::Intake;
use crate::connection::{Pace, Proxies};
use crate::metrics::Metrics;
use crate::service::cleanup::Cleanups;
use crate::service::fleet::Fleet;
use crate::service::slots::Slots;
use crate::service::wait::Registry;

/// How long a large file waits for its turn.
const TURN_PATIENCE: Duration = Duration::from_secs(5);
const NO_TURN: &str = "As many files are on their way as may be, half of gateway.maxTransfers for \
                       one tenant. Try again in a moment";
const NO_UPLOAD: &str = "As many batches are being uploaded as may be, half of gateway.maxTransfers for \
                         one tenant. Try again in a moment";
const NO_STREAM: &str = "As many streams are open as may be, half of gateway.maxStreams for one \
                         tenant. Try again when one has ended";

/// One gateway.
pub(crate) type State = Arc<Gateway>;

/// One gateway's parts.
pub(crate) struct Gateway {
    /// This life of this process; names the reply channel.
    pub(crate) id: GatewayId,
    pub(crate) queue: Queue,
    pub(crate) admission: Admission,
    /// Which webhooks jobs may bring.
    pub(crate) webhooks: WebhookRules,
    /// How long a listed job is kept that does not ask otherwise, in milliseconds.
    pub(crate) job_retention_ms: u64,
    pub(crate) master_key: MasterKey,
    pub(crate) keyring: Keyring,
    /// Addresses that wrong keys came from.
    pub(crate) guesses: Guesses,
    /// Whose word is taken for whom a request comes from.
    pub(crate) proxies: Proxies,
    pub(crate) intake: Intake,
    pub(crate) files: FileMoves,
    /// Turns for uploads of batches.
    pub(crate) uploads: Slots,
    pub(crate) cleanups: Cleanups,
    pub(crate) fleet: Fleet,
    pub(crate) registry: Arc<Registry>,
    pub(crate) streaming: Streaming,
    pub(crate) metrics: Metrics,
    pub(crate) audit: Audit,
    pub(crate) more_metrics: Option<MoreMetrics>,
    /// Cancelled when the gateway starts to go: it is not ready any more.
    pub(crate) stopping: CancellationToken,
    /// Cancelled when the grace period is over: whoever still waits is answered now.
    pub(crate) closing: CancellationToken,
    /// Cancelled when even that is over: what is still connected is cut.
    pub(crate) cut: CancellationToken,
    /// Open connections, those included that have become sockets.
    pub(crate) connections: TaskTracker,
    /// Work behind the connections; ends by itself once they have.
    pub(crate) tasks: TaskTracker,
}

/// What holds for files.
pub(crate) struct FileMoves {
    /// Where files in JSON come in.
    pub(crate) intake: Intake,
    /// Turns for large ones.
    pub(crate) slots: Slots,
}

impl FileMoves {
    fn new(config: &Config) -> Self {
        let policy = &config.policy;
        let of_tenants = policy.tenants.values().filter_map(|own| own.max_file_bytes);
        let largest = of_tenants.max().unwrap_or_default().max(policy.max_file_bytes);
        let slots = Slots::new(config.gateway.max_transfers, TURN_PATIENCE, NO_TURN);
        Self { intake: Intake::of_files(largest, pace(&config.gateway)), slots }
    }
}

/// What holds for streams.
pub(crate) struct Streaming {
    /// One for each that is open. Nobody waits for one.
    pub(crate) slots: Slots,
    /// How long a stream is silent before it says that it lives.
    pub(crate) heartbeat: Duration,
    /// Whether a job ends when nobody waits for it any more.
    pub(crate) cancel_on_disconnect: bool,
    /// Largest message of a socket.
    pub(crate) max_message_bytes: usize,
}

impl Streaming {
    fn new(config: &shared::config::Gateway) -> Self {
        Self {
            slots: Slots::new(config.max_streams, Duration::ZERO, NO_STREAM),
            heartbeat: Duration::from_millis(config.heartbeat_ms.max(1)),
            cancel_on_disconnect: config.cancel_on_disconnect,
            max_message_bytes: config.max_body_bytes,
        }
    }
}

/// How slowly clients may send and take.
pub(crate) fn pace(config: &shared::config::Gateway) -> Pace {
    Pace::new(Duration::from_millis(config.stall_timeout_ms), config.min_bytes_per_second)
}

impl Gateway {
    /// Builds the parts.
    ///
    /// # Errors
    /// If the configuration holds a malformed size, or the key is empty.
    pub(crate) fn new(
        config: &Config,
        queue: Queue,
        master_key: String,
        audit: Audit,
        more_metrics: Option<MoreMetrics>,
        stopping: CancellationToken,
    ) -> Result<State, Error> {
        Ok(Arc::new(Self {
            id: GatewayId::generate(),
            keyring: Keyring::new(queue.api_keys(), config.auth.clone()),
            queue,
            guesses: Guesses::new(config.gateway.max_auth_failures),
            proxies: Proxies::new(config.gateway.trusted_proxies.clone()),
            admission: Admission::new(config)?,
            webhooks: WebhookRules::new(config)?,
            job_retention_ms: config.redis.job_retention_ms,
            master_key: MasterKey::new(master_key)?,
            intake: Intake::new(config.gateway.max_body_bytes, pace(&config.gateway)),
            files: FileMoves::new(config),
            uploads: Slots::new(config.gateway.max_transfers, TURN_PATIENCE, NO_UPLOAD),
            cleanups: Cleanups::default(),
            fleet: Fleet::new(),
            registry: Arc::default(),
            streaming: Streaming::new(&config.gateway),
            metrics: Metrics::new(),
            audit,
            more_metrics,
            stopping,
            closing: CancellationToken::new(),
            cut: CancellationToken::new(),
            connections: TaskTracker::new(),
            tasks: TaskTracker::new(),
        }))
    }

    /// How much a tenant may have and ask; the queue holds it to that.
    pub(crate) fn quota(&self, tenant: &TenantId) -> Quota {
        Quota::from(self.admission.policy(tenant))
    }

    /// What a tenant's batches may take up.
    pub(crate) fn batch_limits(&self, tenant: &TenantId) -> BatchLimits {
        let policy = self.admission.policy(tenant);
        BatchLimits {
            max_batches: policy.max_batches,
            max_items: policy.max_batch_items,
            max_bytes: policy.max_batch_bytes,
            max_result_bytes: policy.max_batch_result_bytes,
        }
    }
}
