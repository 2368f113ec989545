//! Live input on its way from the queue to a running program. Told by [`crate::orders`] that some has
//! come, or looking once a second, a feeder fetches it and hands it over, as much as the program takes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shared::execution::Input;
use shared::id::{JobId, TenantId};
use shared::redis::Queue;
use tokio::sync::{Notify, mpsc};

/// How often a feeder looks without being told.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// Inputs fetched and not yet taken by the program.
const MAX_FETCHED: usize = 16;

/// The interactive jobs of a worker.
#[derive(Clone, Default)]
pub(crate) struct Inputs {
    listening: Arc<Mutex<HashMap<JobId, Arc<Notify>>>>,
}

/// Fetches the input of one job.
pub(crate) struct Feeder {
    inputs: Inputs,
    job: JobId,
    news: Arc<Notify>,
    sender: mpsc::Sender<Input>,
}

impl Inputs {
    /// Begins to listen for a job; the receiver is for its program.
    pub(crate) fn listen(&self, job: JobId) -> (Feeder, mpsc::Receiver<Input>) {
        let (sender, receiver) = mpsc::channel(MAX_FETCHED);
        let news = Arc::<Notify>::default();
        self.lock().insert(job, Arc::clone(&news));
        (Feeder { inputs: self.clone(), job, news, sender }, receiver)
    }

    /// Input waits for a job.
    pub(crate) fn wake(&self, job: JobId) {
        if let Some(news) = self.lock().get(&job) {
            news.notify_one();
        }
    }

    /// Input may wait for any job.
    pub(crate) fn wake_all(&self) {
        self.lock().values().for_each(|news| news.notify_one());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Arc<Notify>>> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Feeder {
    /// Hands input over until the program's receiver is dropped.
    pub(crate) async fn run(self, queue: &Queue, tenant: &TenantId) {
        loop {
            match queue.take_input(tenant, self.job).await {
                Ok(inputs) => {
                    for input in inputs {
                        if self.sender.send(input).await.is_err() {
                            return;
                        }
                    }
                }
                Err(error) => tracing::debug!(%error, "cannot fetch input; trying again"),
            }
            tokio::select! {
                () = self.sender.closed() => return,
                () = self.news.notified() => {}
                () = tokio::time::sleep(LOOK_PERIOD) => {}
            }
        }
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        let mut listening = self.inputs.lock();
        // A later run of the job on this worker stays.
        if listening.get(&self.job).is_some_and(|news| Arc::ptr_eq(news, &self.news)) {
            listening.remove(&self.job);
        }
    }
}
