//! How sessions end, and what is told of it.

use std::time::Duration;

use shared::ErrorCode;
use shared::execution::{Ending, Failure};
use shared::redis::{OwnedSession, SessionNews};

use crate::Context;

/// Attempts to tell the queue that a session is over, and the pause between them. If all fail, its
/// lease runs out.
const FAREWELLS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(200);

/// How a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Its caller wants it, or it was idle for too long.
    Closed,
    /// Its sandbox is broken, or the worker stops: callers must know.
    Lost,
    /// It is somebody else's, or nobody's, already.
    Gone,
}

impl End {
    /// For the metrics.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Lost => "lost",
            Self::Gone => "gone",
        }
    }
}

/// Whether somebody has closed a session that this worker owns.
pub(super) async fn is_closing(context: &Context, owned: &OwnedSession) -> bool {
    let news = context.queue.renew_sessions(context.worker, std::slice::from_ref(owned)).await;
    news.is_ok_and(|news| news.iter().any(|(_, news)| *news == SessionNews::Close))
}

/// What the caller was told of a call whose own ending did not count.
pub(super) fn unheard(is_closing: bool) -> Ending {
    if is_closing {
        let words = "The session was closed before the program had ended.";
        return Ending::Error(Failure::new(ErrorCode::Cancelled, words));
    }
    lost()
}

/// What the caller is told of a call whose session was lost.
pub(super) fn lost() -> Ending {
    let words = "The session was lost while the program ran.";
    Ending::Error(Failure::new(ErrorCode::SessionLost, words))
}

/// Tells the queue that a session is over; tries only once if the worker has to go.
pub(super) async fn say_farewell(context: &Context, owned: &OwnedSession, is_loss: bool) {
    for _ in 0..FAREWELLS {
        match context.queue.end_session(context.worker, owned, is_loss).await {
            Ok(()) => return,
            Err(error) => tracing::warn!(%error, "cannot end a session; trying again"),
        }
        if context.hush.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none() {
            tracing::warn!(session = %owned.id, "could not end a session: its lease will run out");
            return;
        }
    }
}
