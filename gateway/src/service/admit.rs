//! A line in the audit log for each execution that is refused: by admission, by a quota, or by its
//! session.

use chrono::{DateTime, Utc};
use shared::Error;
use shared::audit::Record;
use shared::execution::ExecutionRequest;
use shared::id::{JobId, SessionId, TenantId};

use crate::state::Gateway;

/// Writes down why one request is refused.
pub(super) struct Refusals<'a> {
    gateway: &'a Gateway,
    tenant: &'a TenantId,
    session: Option<&'a SessionId>,
    /// Of the request; nothing where there is no log.
    told: Option<ExecutionRequest>,
    started: DateTime<Utc>,
}

impl<'a> Refusals<'a> {
    /// Of a request of `tenant`.
    pub(super) fn new(
        gateway: &'a Gateway,
        tenant: &'a TenantId,
        session: Option<&'a SessionId>,
        request: &ExecutionRequest,
    ) -> Self {
        let told = gateway.audit.is_enabled().then(|| what_is_told(request));
        Self { gateway, tenant, session, told, started: Utc::now() }
    }

    /// It is refused, and no job comes of it.
    pub(super) fn record(&self, error: &Error) {
        let Some(told) = &self.told else { return };
        let session = self.session.map(SessionId::as_str);
        let id = JobId::generate();
        let record = Record::of_refusal(id, told, self.tenant, session, self.started, error);
        self.gateway.audit.record(&record);
    }
}

/// The part of a request that its audit record is made of; the rest may be large, or secret.
fn what_is_told(request: &ExecutionRequest) -> ExecutionRequest {
    ExecutionRequest {
        runtime: request.runtime.clone(),
        code: request.code.clone(),
        cmd: request.cmd.clone(),
        metadata: request.metadata.clone(),
        ..ExecutionRequest::default()
    }
}
