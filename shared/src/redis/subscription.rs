//! A pub/sub subscription that outlives its connections. What is sent while there is none is lost,
//! so its owner is told each time there is a new one.

use std::time::Duration;

use futures_util::StreamExt as _;
use redis::aio::PubSub;
use redis::{Msg, RedisResult};
use tokio::time::{sleep, timeout};

use super::client::{Client, within};

/// Silence after which the connection is tested.
const TEST_AFTER: Duration = Duration::from_secs(5);
/// First and longest pause between attempts to subscribe again.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// One subscription. Owned by one task, which must keep reading: what it leaves unread piles up in
/// memory.
pub(super) struct Subscription {
    client: Client,
    channels: Vec<String>,
    connection: Option<PubSub>,
    pause: Duration,
}

/// What a subscription tells.
pub(super) enum Heard {
    /// A message.
    Message(Msg),
    /// There is a new connection; messages before it may be missing.
    Resubscribed,
}

impl Subscription {
    /// Subscribes; confirmed when this returns.
    pub(super) async fn open(client: Client, channels: Vec<String>) -> RedisResult<Self> {
        let connection = Some(client.subscribe(&channels).await?);
        Ok(Self { client, channels, connection, pause: FIRST_PAUSE })
    }

    /// The next message. Never ends: subscribes again, as often as it takes, when the connection
    /// breaks. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Heard {
        loop {
            let Some(connection) = &mut self.connection else {
                match self.client.subscribe(&self.channels).await {
                    Ok(connection) => {
                        self.connection = Some(connection);
                        self.pause = FIRST_PAUSE;
                        return Heard::Resubscribed;
                    }
                    Err(_) => {
                        sleep(self.pause).await;
                        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                    }
                }
                continue;
            };
            let message = timeout(TEST_AFTER, connection.on_message().next()).await;
            let why = match message {
                Ok(Some(message)) => return Heard::Message(message),
                Ok(None) => "Redis closed it",
                Err(_) if within(connection.ping::<redis::Value>()).await.is_ok() => continue,
                Err(_) => "it does not answer",
            };
            tracing::warn!(why, channel = self.channels[0], "a subscription broke; renewing it");
            self.connection = None;
        }
    }
}
