//! Whose jobs this worker runs besides plain ones: the placements whose labels it has. They are looked up at
//! each beat, and at once when there is word of a new one.

use std::sync::Arc;
use std::time::Duration;

use shared::labels::Labels;
use shared::redis::{Placements, Slots};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::Context;

/// How often to look, should a word be lost.
const PERIOD: Duration = Duration::from_millis(500);

/// What this worker has to offer, and what is asked of that.
pub(crate) struct Served {
    labels: Labels,
    only_labelled: bool,
    told: Notify,
    current: watch::Sender<Placements>,
}

impl Served {
    pub(crate) fn new(labels: Labels, only_labelled: bool) -> Self {
        let current = watch::Sender::new(Placements::default());
        Self { labels, only_labelled, told: Notify::new(), current }
    }

    /// There is word of lines of jobs that require these labels.
    pub(crate) fn tell(&self, required: &Labels) {
        if self.labels.satisfy(required) {
            self.told.notify_one();
        }
    }

    /// Words may have been missed.
    pub(crate) fn look(&self) {
        self.told.notify_one();
    }

    /// Whether plain jobs are not for it.
    pub(crate) const fn only_labelled(&self) -> bool {
        self.only_labelled
    }

    /// The placements there are, as last looked up.
    pub(crate) fn current(&self) -> Placements {
        self.current.borrow().clone()
    }

    /// Tells when they change.
    pub(crate) fn changes(&self) -> watch::Receiver<Placements> {
        self.current.subscribe()
    }

    /// How many jobs of each kind it can run, if it can run so many.
    pub(crate) const fn share(&self, slots: usize) -> Slots {
        Slots { plain: if self.only_labelled { 0 } else { slots }, placed: slots }
    }
}

/// Keeps `Served` up to date until `token` is cancelled. There is nothing to do for a worker without labels.
pub(crate) async fn follow(context: Arc<Context>, token: CancellationToken) {
    let served = &context.served;
    if served.labels.is_empty() {
        return;
    }
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let due = async {
            tokio::select! {
                _ = ticks.tick() => {}
                () = served.told.notified() => {}
            }
        };
        if token.run_until_cancelled(due).await.is_none() {
            return;
        }
        match context.queue.placements(&served.labels, &served.current()).await {
            Ok(found) => {
                served.current.send_if_modified(|current| {
                    let is_new = *current != found;
                    if is_new {
                        *current = found;
                    }
                    is_new
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot look for jobs that require labels; trying again");
            }
        }
    }
}
