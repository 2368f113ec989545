//! The one task that reads the gateway's reply channel and wakes whoever waits.

use std::time::Duration;

use shared::id::GatewayId;
use shared::redis::{Queue, Replies, Reply};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::wait::Registry;
use crate::state::State;

/// Between two attempts at the first subscription. Later ones are the queue's own business.
const RETRY: Duration = Duration::from_millis(500);

/// First subscription, tried once: a gateway that starts with its queue in reach answers its very
/// first request without a poll.
pub(crate) async fn subscribe(state: &State) -> Option<Replies> {
    let replies = attempt(&state.queue, state.id).await?;
    state.registry.resubscribed();
    Some(replies)
}

/// Delivers replies until `token` is cancelled.
///
/// On cancel: ends at once. On error: subscribes again, for as long as it takes; meanwhile waiting
/// requests poll.
pub(crate) async fn run(state: State, replies: Option<Replies>, token: CancellationToken) {
    token
        .run_until_cancelled(async {
            let mut replies = match replies {
                Some(replies) => replies,
                None => first(&state).await,
            };
            loop {
                deliver(&state.registry, replies.next().await);
            }
        })
        .await;
}

async fn first(state: &State) -> Replies {
    loop {
        sleep(RETRY).await;
        if let Some(replies) = subscribe(state).await {
            return replies;
        }
    }
}

async fn attempt(queue: &Queue, id: GatewayId) -> Option<Replies> {
    match queue.replies(id).await {
        Ok(replies) => Some(replies),
        Err(error) => {
            warn!(%error, "cannot subscribe to the reply channel; trying again");
            None
        }
    }
}

fn deliver(registry: &Registry, reply: Reply) {
    match reply {
        Reply::Finished { job, ending } => registry.finished(job, ending),
        Reply::Output { job, event } => registry.output(job, event),
        Reply::Resubscribed => registry.resubscribed(),
    }
}
