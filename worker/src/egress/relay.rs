//! Bytes both ways between a program and the outside, once the two have agreed to talk past us.

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};

/// Bytes read at once.
const BUFFER_BYTES: usize = 64 << 10;

/// Carries bytes until both sides have ended, or one is gone.
pub(super) async fn relay(
    mut inside: impl AsyncRead + AsyncWrite + Unpin,
    mut outside: impl AsyncRead + AsyncWrite + Unpin,
) {
    let carried =
        copy_bidirectional_with_sizes(&mut inside, &mut outside, BUFFER_BYTES, BUFFER_BYTES);
    if let Err(error) = carried.await {
        tracing::trace!(%error, "a connection of a program broke off");
    }
}
