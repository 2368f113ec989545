//! What every request handler can reach: built once per gateway, shared by reference.

use std::sync::Arc;

use shared::Error;
use shared::config::Config;
use shared::execution::Admission;
use shared::id::GatewayId;
use shared::redis::Queue;
use tokio_util::sync::CancellationToken;

use crate::MoreMetrics;
use crate::auth::MasterKey;
use crate::body::Intake;
use crate::metrics::Metrics;
use crate::service::wait::Registry;

/// One gateway.
pub(crate) type State = Arc<Gateway>;

/// One gateway's parts.
pub(crate) struct Gateway {
    /// This life of this process; names the reply channel.
    pub(crate) id: GatewayId,
    pub(crate) queue: Queue,
    pub(crate) admission: Admission,
    pub(crate) master_key: MasterKey,
    pub(crate) intake: Intake,
    pub(crate) registry: Registry,
    pub(crate) metrics: Metrics,
    pub(crate) more_metrics: Option<MoreMetrics>,
    /// Cancelled when the gateway starts to go: it is not ready any more.
    pub(crate) stopping: CancellationToken,
    /// Cancelled when the grace period is over: whoever still waits is answered now.
    pub(crate) closing: CancellationToken,
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
        more_metrics: Option<MoreMetrics>,
        stopping: CancellationToken,
    ) -> Result<State, Error> {
        Ok(Arc::new(Self {
            id: GatewayId::generate(),
            queue,
            admission: Admission::new(config)?,
            master_key: MasterKey::new(master_key)?,
            intake: Intake::new(config.gateway.max_body_bytes),
            registry: Registry::default(),
            metrics: Metrics::new(),
            more_metrics,
            stopping,
            closing: CancellationToken::new(),
        }))
    }
}
