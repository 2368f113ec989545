//! The sessions of a tenant. Whose a session is, is part of its name in the queue, so nobody can
//! name one of another tenant.

use shared::Error;
use shared::id::{SessionId, TenantId};
use shared::redis::SessionInfo;

use crate::state::Gateway;

/// One session of a tenant, if there is such a one.
///
/// # Errors
/// `QUEUE_UNAVAILABLE`.
pub(crate) async fn find(
    gateway: &Gateway,
    tenant: &TenantId,
    name: &str,
) -> Result<Option<SessionInfo>, Error> {
    let sessions = gateway.queue.sessions(tenant).await?;
    Ok(sessions.into_iter().find(|session| session.id.as_str() == name))
}

/// Closes a session and waits until its sandbox is gone; true if there was one.
///
/// # Errors
/// As `Queue::close_session`.
pub(crate) async fn close(gateway: &Gateway, tenant: &TenantId, name: &str) -> Result<bool, Error> {
    // A name that no session can have names none.
    let Ok(id) = SessionId::new(name) else { return Ok(false) };
    gateway.queue.close_session(tenant, &id).await
}
