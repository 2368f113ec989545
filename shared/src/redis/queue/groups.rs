//! The steps of a shard that are taken in groups when many come at once: putting jobs in, and ending them.

use std::sync::Arc;

use tokio_util::task::TaskTracker;

use crate::redis::group_commit::GroupCommit;
use crate::redis::scripts::{NewSubmission, Refusal, Scripts, Step};

/// Those of one shard.
pub(super) struct Groups {
    /// Jobs that outlive their request.
    pub(super) submit: GroupCommit<NewSubmission, Refusal>,
    /// Jobs that do not.
    pub(super) enqueue: GroupCommit<Step, Refusal>,
    /// Endings.
    pub(super) finish: GroupCommit<Step, u8>,
}

impl Groups {
    pub(super) fn new(
        scripts: &Arc<Scripts>,
        tasks: &TaskTracker,
        shard: u16,
        max_queued: u64,
    ) -> Self {
        let [submit, enqueue, finish] = [(); 3].map(|()| Arc::clone(scripts));
        Self {
            submit: GroupCommit::new(tasks.clone(), move |jobs: Vec<NewSubmission>| {
                let scripts = Arc::clone(&submit);
                Box::pin(async move { scripts.submit(shard, &jobs, max_queued).await })
            }),
            enqueue: GroupCommit::new(tasks.clone(), move |jobs| {
                let scripts = Arc::clone(&enqueue);
                Box::pin(async move { scripts.enqueue(jobs, max_queued).await })
            }),
            finish: GroupCommit::new(tasks.clone(), move |endings| {
                let scripts = Arc::clone(&finish);
                Box::pin(async move { scripts.finish(endings).await })
            }),
        }
    }
}
