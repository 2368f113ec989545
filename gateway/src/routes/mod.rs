//! One file per resource: parse the request, call the service, shape the reply.

pub(crate) mod execute;
pub(crate) mod fallback;
pub(crate) mod health;
pub(crate) mod metrics;
