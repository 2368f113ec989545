//! What the gateway does, whatever the surface it is asked through.

pub(crate) mod execute;
pub(crate) mod replies;
pub(crate) mod wait;
