//! The gateway's ear: one subscription on which it hears that its jobs ended.

use std::time::Duration;

use futures_util::StreamExt as _;
use redis::aio::PubSub;
use serde_json::value::RawValue;
use tokio::time::{sleep, timeout};

use super::Queue;
use crate::error::Error;
use crate::id::{GatewayId, JobId};
use crate::redis::client::{Client, failure, within};
use crate::redis::keys;

/// Silence after which the connection is tested.
const TEST_AFTER: Duration = Duration::from_secs(5);
/// First and longest pause between attempts to subscribe again.
const RESUBSCRIBE_PAUSE: Duration = Duration::from_millis(50);
const RESUBSCRIBE_PAUSE_MAX: Duration = Duration::from_secs(1);

/// What a gateway hears.
#[derive(Debug)]
pub enum Reply {
    /// A job ended.
    Finished {
        /// Which.
        job: JobId,
        /// How, as the JSON of an `Ending`; `None` if it was too big for the message and has to be
        /// read with [`Queue::state`].
        ending: Option<Box<RawValue>>,
    },
    /// The subscription was interrupted: messages may be missing, so every job that is waited for
    /// has to be looked up with [`Queue::state`].
    Resubscribed,
}

/// The replies to one gateway. Owned by one task, which must keep reading: what it leaves unread
/// piles up in memory.
pub struct Replies {
    client: Client,
    channel: String,
    subscription: Option<PubSub>,
    pause: Duration,
}

impl Queue {
    /// Subscribes to a gateway's replies; the subscription is confirmed when this returns.
    ///
    /// # Errors
    /// [`crate::ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn replies(&self, gateway: GatewayId) -> Result<Replies, Error> {
        let client = self.inner.client.clone();
        let channel = keys::replies(gateway);
        let subscription = Some(client.subscribe(&channel).await.map_err(failure)?);
        Ok(Replies { client, channel, subscription, pause: RESUBSCRIBE_PAUSE })
    }
}

impl Replies {
    /// The next reply. Never ends: subscribes again, as often as it takes, when the connection
    /// breaks. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Reply {
        loop {
            let Some(subscription) = &mut self.subscription else {
                match self.client.subscribe(&self.channel).await {
                    Ok(subscription) => {
                        self.subscription = Some(subscription);
                        self.pause = RESUBSCRIBE_PAUSE;
                        return Reply::Resubscribed;
                    }
                    Err(_) => {
                        sleep(self.pause).await;
                        self.pause = (self.pause * 2).min(RESUBSCRIBE_PAUSE_MAX);
                    }
                }
                continue;
            };
            let message = timeout(TEST_AFTER, subscription.on_message().next()).await;
            match message {
                Ok(Some(message)) => {
                    if let Some(reply) = parse(message.get_payload_bytes()) {
                        return reply;
                    }
                    tracing::warn!("a reply from the queue was not understood");
                }
                Ok(None) => self.lose("Redis closed it"),
                Err(_) => {
                    if within(subscription.ping::<redis::Value>()).await.is_err() {
                        self.lose("it does not answer");
                    }
                }
            }
        }
    }

    fn lose(&mut self, why: &str) {
        tracing::warn!(why, "the subscription to replies broke; subscribing again");
        self.subscription = None;
    }
}

/// `<job id>` or `<job id> <ending>`.
fn parse(payload: &[u8]) -> Option<Reply> {
    let text = std::str::from_utf8(payload).ok()?;
    let (job, ending) = match text.split_once(' ') {
        Some((job, ending)) => (job, Some(ending)),
        None => (text, None),
    };
    let job = job.parse().ok()?;
    // An ending that is no JSON is left to `state`, which says so.
    let ending = ending.and_then(|ending| RawValue::from_string(ending.to_owned()).ok());
    Some(Reply::Finished { job, ending })
}
