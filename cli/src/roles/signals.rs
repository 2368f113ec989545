//! Signals that end a server or a run.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Signals this soon after the first count as the same.
const ECHO: Duration = Duration::from_secs(1);

/// Waits for SIGINT or SIGTERM.
///
/// # Errors
/// If the handlers cannot be installed.
pub(crate) async fn interrupted() -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// Cancels `stop` at the first signal; returns when `ended` is cancelled.
///
/// # Errors
/// If the handlers cannot be installed, or at one more signal: who sends it does not want to wait.
pub(crate) async fn obey(
    stop: &CancellationToken,
    ended: &CancellationToken,
) -> anyhow::Result<()> {
    if let Some(outcome) = stop.run_until_cancelled(interrupted()).await {
        outcome?;
        tracing::info!("shutting down; one more signal ends it at once");
        stop.cancel();
        // A terminal and whoever started us may both pass the same one on.
        ended.run_until_cancelled(tokio::time::sleep(ECHO)).await;
    }
    match ended.run_until_cancelled(interrupted()).await {
        None => Ok(()),
        Some(outcome) => {
            outcome?;
            anyhow::bail!(
                "stopped at once by a second signal; containers that are left are removed when a \
                 worker of this name starts"
            )
        }
    }
}
