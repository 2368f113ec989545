//! Signals that end a server or a run.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

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

/// Cancels `token` at the first signal; returns when the token is cancelled, whoever did it.
///
/// # Errors
/// If the handlers cannot be installed.
pub(crate) async fn until_signalled(token: &CancellationToken) -> std::io::Result<()> {
    if let Some(outcome) = token.run_until_cancelled(interrupted()).await {
        outcome?;
        tracing::info!("shutting down");
        token.cancel();
    }
    Ok(())
}
