//! The gateway's ear: one subscription on which it hears that its jobs ended.

use serde_json::value::RawValue;

use super::Queue;
use crate::error::Error;
use crate::execution::Event;
use crate::id::{GatewayId, JobId};
use crate::redis::client::failure;
use crate::redis::keys;
use crate::redis::subscription::{Heard, Subscription};

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
    /// A streamed job went on.
    Output {
        /// Which.
        job: JobId,
        /// What happened.
        event: Event,
    },
    /// The subscription was interrupted: messages may be missing, so every job that is waited for
    /// has to be looked up with [`Queue::state`].
    Resubscribed,
}

/// The replies to one gateway. Owned by one task, which must keep reading.
pub struct Replies(Subscription);

impl Queue {
    /// Subscribes to a gateway's replies; the subscription is confirmed when this returns.
    ///
    /// # Errors
    /// [`crate::ErrorCode::QueueUnavailable`] if Redis cannot be reached.
    pub async fn replies(&self, gateway: GatewayId) -> Result<Replies, Error> {
        let opened = Subscription::open(self.inner.client.clone(), vec![keys::replies(gateway)]);
        opened.await.map(Replies).map_err(failure)
    }
}

impl Replies {
    /// The next reply. Never ends; dropping the future loses nothing.
    pub async fn next(&mut self) -> Reply {
        loop {
            let message = match self.0.next().await {
                Heard::Resubscribed => return Reply::Resubscribed,
                Heard::Message(message) => message,
            };
            if let Some(reply) = parse(message.get_payload_bytes()) {
                return reply;
            }
            tracing::warn!("a reply from the queue was not understood");
        }
    }
}

/// `<job id>`, `<job id> <ending>` or `<job id> ~<number> <event>`.
fn parse(payload: &[u8]) -> Option<Reply> {
    let Some(space) = payload.iter().position(|byte| *byte == b' ') else {
        let job = std::str::from_utf8(payload).ok()?.parse().ok()?;
        return Some(Reply::Finished { job, ending: None });
    };
    let job = std::str::from_utf8(&payload[..space]).ok()?.parse().ok()?;
    let rest = &payload[space + 1..];
    if let Some(event) = rest.strip_prefix(b"~") {
        let space = event.iter().position(|byte| *byte == b' ')?;
        let number = std::str::from_utf8(&event[..space]).ok()?.parse().ok()?;
        return Some(Reply::Output { job, event: Event::decode(number, &event[space + 1..])? });
    }
    // An ending that is no JSON is left to `state`, which says so.
    let ending = std::str::from_utf8(rest).ok().map(str::to_owned);
    let ending = ending.and_then(|ending| RawValue::from_string(ending).ok());
    Some(Reply::Finished { job, ending })
}
