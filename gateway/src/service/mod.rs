//! What the gateway does, whatever the surface it is asked through.

mod admit;
pub(crate) mod batches;
pub(crate) mod cleanup;
pub(crate) mod deliveries;
pub(crate) mod durability;
pub(crate) mod event;
pub(crate) mod execute;
pub(crate) mod files;
pub(crate) mod fleet;
pub(crate) mod jobs;
pub(crate) mod keys;
mod mailbox;
pub(crate) mod output;
pub(crate) mod pieces;
pub(crate) mod replies;
pub(crate) mod schedules;
pub(crate) mod sessions;
pub(crate) mod slots;
pub(crate) mod stream;
pub(crate) mod transfer;
pub(crate) mod wait;
