//! The worker's ear: what gateways tell it about jobs and sessions it has. Messages may be lost, so
//! whatever matters is also told by the next renewal.

use super::{CleanupOrder, Queue};
use crate::error::Error;
use crate::id::{JobId, SessionId, TenantId, WorkerId};
use crate::labels::Labels;
use crate::redis::client::failure;
use crate::redis::keys;
use crate::redis::subscription::{Heard, Subscription};

/// What a worker hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerOrder {
    /// Stop this job.
    Cancel(JobId),
    /// Input waits for this job.
    Input(JobId),
    /// Calls wait in this session, or it is to be closed: ask [`Queue::next_call`].
    Session(TenantId, SessionId),
    /// Take no more jobs.
    Drain,
    /// Take jobs again.
    Undrain,
    /// There are lines of a new placement, if these labels are met: ask [`Queue::placements`].
    Placement(Labels),
    /// Remove what is not in use and say what was removed.
    CleanUp(CleanupOrder),
    /// The subscription was interrupted: look at everything.
    Resubscribed,
}

/// The orders to one worker. Owned by one task, which must keep reading.
pub struct Orders(Subscription);

impl Queue {
    /// Subscribes to a worker's orders; the subscription is confirmed when this returns.
    ///
    /// # Errors
    /// [`crate::ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn orders(&self, worker: WorkerId) -> Result<Orders, Error> {
        let channels = vec![
            keys::worker(worker),
            keys::ALL_WORKERS.to_owned(),
            keys::NEW_PLACEMENTS.to_owned(),
            keys::STOPS.to_owned(),
        ];
        let opened = Subscription::open(self.inner.client.clone(), channels).await;
        opened.map(Orders).map_err(failure)
    }
}

impl Orders {
    /// The next order. Never ends; dropping the future loses nothing.
    pub async fn next(&mut self) -> WorkerOrder {
        loop {
            let message = match self.0.next().await {
                Heard::Resubscribed => return WorkerOrder::Resubscribed,
                Heard::Message(message) => message,
            };
            if let Some(order) = parse(message.get_payload_bytes()) {
                return order;
            }
            tracing::warn!("an order from the queue was not understood");
        }
    }
}

/// A word and what it is about.
fn parse(payload: &[u8]) -> Option<WorkerOrder> {
    let (word, rest) = std::str::from_utf8(payload).ok()?.split_once(' ')?;
    match word {
        "cancel" => Some(WorkerOrder::Cancel(rest.parse().ok()?)),
        "drain" => Some(WorkerOrder::Drain),
        "undrain" => Some(WorkerOrder::Undrain),
        "cleanup" => Some(WorkerOrder::CleanUp(CleanupOrder::decode(rest)?)),
        "placement" => Some(WorkerOrder::Placement(rest.parse().ok()?)),
        "input" => Some(WorkerOrder::Input(rest.parse().ok()?)),
        "session" => {
            let (tenant, session) = rest.split_once(':')?;
            Some(WorkerOrder::Session(TenantId::new(tenant), SessionId::new(session).ok()?))
        }
        _ => None,
    }
}
