//! Runs schedules whose time has come. Any worker does that: the step that submits a run's job moves the
//! schedule on, so each run is one worker's.

use shared::redis::Fired;

use crate::Context;

/// Most rounds in one go: keeping house has more to do.
const MAX_ROUNDS: usize = 4;

/// Runs what is due.
///
/// # Errors
/// `QUEUE_UNAVAILABLE`.
pub(crate) async fn run_due(context: &Context) -> shared::Result<()> {
    for _ in 0..MAX_ROUNDS {
        let due = context.queue.due_schedules().await?;
        if due.is_empty() {
            break;
        }
        for schedule in due {
            let quota = (&context.policy.of(&schedule.tenant)).into();
            let id = schedule.id;
            match context.queue.fire_schedule(&schedule, quota).await? {
                Fired::Submitted(job) => tracing::debug!(schedule = %id, %job, "ran a schedule"),
                Fired::Noted(why) => {
                    tracing::info!(schedule = %id, why, "a schedule's run came to no job");
                }
                Fired::Moved => {}
            }
        }
    }
    Ok(())
}
