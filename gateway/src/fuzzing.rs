//! What the fuzzer sends a gateway (`fuzz/`): bodies of requests.

use std::sync::LazyLock;

use serde_json::Value;
use shared::config::{Config, Policy, Seccomp};
use shared::execution::{Admission, ExecuteEnvelope, Job, Network, NetworkChange};
use shared::id::TenantId;

pub use crate::service::batches::fuzzing::batch;

use crate::body;
use crate::service::jobs::JobEnvelope;
use crate::service::keys::NewKey;
use crate::service::schedules::NewSchedule;

/// Rules under which as much as possible is let in.
static ADMISSION: LazyLock<Admission> = LazyLock::new(|| {
    let policy = Policy {
        networks: vec![Network::None, Network::Filtered, Network::Host],
        seccomp: vec![Seccomp::Strict, Seccomp::Unconfined],
        ..Policy::default()
    };
    let mut config = Config { policy, ..Config::default() };
    config.remote_code.enabled = true;
    Admission::new(&config).expect("the rules are valid")
});

/// Takes `bytes` for the body of a request to run something. What is let in must be JSON, and be the same job once a
/// worker has read it.
///
/// # Panics
/// If it is not.
pub fn envelope(bytes: &[u8]) {
    let tenant = TenantId::new("fuzz");
    // Each has fields of its own; whatever fits is as good as another.
    let _ = body::parse::<NewSchedule>(bytes);
    let _ = body::parse::<NewKey>(bytes);
    if let Ok(submission) = body::parse::<JobEnvelope>(bytes) {
        let _ = submission.queue.map(|queue| queue.into_terms(ADMISSION.policy(&tenant), 1000));
    }
    if let Ok(change) = body::parse::<NetworkChange>(bytes) {
        let _ = ADMISSION.admit_network(&tenant, &change);
    }
    let Ok(envelope) = body::parse::<ExecuteEnvelope>(bytes) else { return };
    let json = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    assert!(serde_json::from_slice::<Value>(json).is_ok_and(|value| value.is_object()));
    let queue = envelope.queue.clone();
    if let Ok(job) = ADMISSION.admit(&tenant, envelope) {
        let written = serde_json::to_vec(&job).expect("a job can be written");
        let read: Job = serde_json::from_slice(&written).expect("what was written can be read");
        assert_eq!(read, job);
    }
    let _ = queue.map(|wish| wish.labels(ADMISSION.policy(&tenant)));
}

#[cfg(test)]
mod tests {
    use crate::replay::replay;

    #[test]
    fn kept_bodies() {
        replay("envelope", super::envelope);
    }

    #[test]
    fn kept_batches() {
        replay("batch", super::batch);
    }
}
