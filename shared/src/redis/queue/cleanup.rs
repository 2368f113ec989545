//! Cleaning up: a word to all workers, and what each of them answers.

use std::time::Duration;

use redis::{cmd, pipe};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::Queue;
use crate::error::{Error, ErrorCode};
use crate::id::{RequestId, TenantId};
use crate::redis::client::failure;
use crate::redis::keys;

/// How long workers may take to answer, and how often to look.
const PATIENCE: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// Lifetime of the answers, in milliseconds.
const TTL_MS: u64 = 60_000;

/// What was removed of one kind of thing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// How many are gone.
    pub removed: u64,
    /// How many could not be removed.
    pub failed: u64,
    /// Why: `<what>: <message>`.
    pub errors: Vec<String>,
}

impl Removal {
    /// Counts one more; an error names it.
    pub fn count(&mut self, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => self.removed += 1,
            Err(error) => {
                self.failed += 1;
                self.errors.push(error);
            }
        }
    }

    /// Adds what somebody else removed.
    pub fn add(&mut self, other: Self) {
        self.removed += other.removed;
        self.failed += other.failed;
        self.errors.extend(other.errors);
    }
}

/// What a worker is to clean up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CleanupOrder {
    /// Names the answers.
    pub request: RequestId,
    /// Whose idle sandboxes; `None`: everybody's.
    pub tenant: Option<TenantId>,
    /// Whether images that nothing uses go too.
    pub images: bool,
}

/// What one worker has cleaned up, or all of them together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cleaned {
    /// Sandboxes.
    pub containers: Removal,
    /// Images.
    pub images: Removal,
}

impl CleanupOrder {
    /// No tenant is called like this.
    const EVERYBODY: &str = "*";

    fn encode(&self) -> String {
        let tenant = self.tenant.as_ref().map_or(Self::EVERYBODY, TenantId::as_str);
        format!("cleanup {} {} {tenant}", self.request, u8::from(self.images))
    }

    /// What follows the word `cleanup`.
    pub(super) fn decode(text: &str) -> Option<Self> {
        let mut words = text.splitn(3, ' ');
        let (request, images, tenant) = (words.next()?, words.next()?, words.next()?);
        Some(Self {
            request: request.parse().ok()?,
            images: images == "1",
            tenant: (tenant != Self::EVERYBODY).then(|| TenantId::new(tenant)),
        })
    }
}

impl Queue {
    /// Tells all workers to clean up, and waits for what they have done.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached. A worker that does not answer is
    /// told of in the errors of the containers.
    pub async fn clean_up(&self, order: &CleanupOrder) -> Result<Cleaned, Error> {
        let mut publish = cmd("PUBLISH");
        publish.arg(keys::ALL_WORKERS).arg(order.encode());
        let mut told: usize = self.client().run(&publish).await.map_err(failure)?;
        if self.client().cluster().is_some() {
            // There, that is only how many listen to the node that took the message.
            told = self.client().listeners(keys::ALL_WORKERS).await.map_err(failure)?;
        }
        let give_up_at = Instant::now() + PATIENCE;
        let mut look = cmd("LRANGE");
        look.arg(keys::cleanup_answers(order.request)).arg(0).arg(-1);
        let answers = loop {
            let answers: Vec<Vec<u8>> = self.client().run(&look).await.map_err(failure)?;
            if answers.len() >= told || Instant::now() >= give_up_at {
                break answers;
            }
            sleep(LOOK_EVERY).await;
        };
        let mut all = Cleaned::default();
        for answer in &answers {
            let cleaned: Cleaned = serde_json::from_slice(answer).map_err(|error| {
                let message = "A worker's answer cannot be read by this version.";
                Error::new(ErrorCode::Internal, message).with_source(error)
            })?;
            all.containers.add(cleaned.containers);
            all.images.add(cleaned.images);
        }
        for _ in answers.len()..told {
            let seconds = PATIENCE.as_secs();
            all.containers.count(Err(format!("worker: no answer within {seconds} s")));
        }
        Ok(all)
    }

    /// Tells the gateway what this worker has cleaned up.
    ///
    /// # Errors
    /// [`ErrorCode::QueueUnavailable`] if Redis cannot be reached; the gateway then says that this
    /// worker did not answer.
    pub async fn cleaned_up(&self, request: RequestId, cleaned: &Cleaned) -> Result<(), Error> {
        let answer = serde_json::to_string(cleaned).map_err(|error| {
            Error::new(ErrorCode::Internal, "An answer could not be written as JSON.")
                .with_source(error)
        })?;
        let key = keys::cleanup_answers(request);
        let mut steps = pipe();
        steps.cmd("RPUSH").arg(&key).arg(answer).ignore();
        steps.cmd("PEXPIRE").arg(&key).arg(TTL_MS).ignore();
        self.client().run_all(&steps).await.map_err(failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_survives_its_text() {
        for tenant in [None, Some(TenantId::new("acme"))] {
            for images in [false, true] {
                let request = RequestId::generate();
                let order = CleanupOrder { request, tenant: tenant.clone(), images };
                let text = order.encode();
                assert_eq!(
                    CleanupOrder::decode(text.strip_prefix("cleanup ").unwrap()),
                    Some(order)
                );
            }
        }
    }
}
