//! One execution from admission to answer, in two steps: into the queue, and out of it again.

use std::time::Instant;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use shared::execution::{ExecuteEnvelope, Failure};
use shared::id::{JobId, TenantId};
use shared::{Error, ErrorCode};
use tracing::debug;

use super::wait::{self, Waiter};
use crate::state::Gateway;

/// A job in the queue, and whoever waits for it.
///
/// If this is dropped, nobody waits any more; the job goes on.
pub(crate) struct Queued<'a> {
    gateway: &'a Gateway,
    tenant: &'a TenantId,
    waiter: Waiter<'a>,
    timeout_ms: u64,
    started: Instant,
}

/// Admits a request and puts it into the queue.
///
/// # Errors
/// Admission errors and queue errors.
pub(crate) async fn submit<'a>(
    gateway: &'a Gateway,
    tenant: &'a TenantId,
    envelope: ExecuteEnvelope,
) -> Result<Queued<'a>, Error> {
    let started = Instant::now();
    let job = gateway.admission.admit(envelope)?;
    let id = JobId::generate();
    // Registered before the job is in the queue: its answer may come before `enqueue` returns.
    let waiter = gateway.registry.register(id);
    gateway.queue.enqueue(tenant, id, &job, gateway.id).await?;
    debug!(job = %id, "queued");
    Ok(Queued { gateway, tenant, waiter, timeout_ms: job.timeout_ms, started })
}

impl Queued<'_> {
    /// Waits for the result, which is returned as the JSON the worker wrote.
    ///
    /// # Errors
    /// The failure the job ended with, or that its ending cannot be learnt.
    pub(crate) async fn answer(self) -> Result<Bytes, Error> {
        let job = self.waiter.job();
        let ending = wait::wait(self.gateway, self.tenant, self.waiter, self.timeout_ms).await?;
        self.gateway.metrics.execute_took(self.started.elapsed());
        answer(ending, job)
    }
}

/// An `Ending` whose result is left as it is written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum Ending<'a> {
    Result(#[serde(borrow)] &'a RawValue),
    Error(Failure),
}

/// Takes the result out of its envelope without copying it.
fn answer(ending: Box<RawValue>, id: JobId) -> Result<Bytes, Error> {
    let text = String::from(Box::<str>::from(ending));
    let parsed = serde_json::from_str::<Ending<'_>>(&text).map_err(|error| {
        Error::new(ErrorCode::Internal, format!("The result of job {id} cannot be read"))
            .with_source(error)
    })?;
    let range = match parsed {
        Ending::Result(result) => {
            let start = result.get().as_ptr() as usize - text.as_ptr() as usize;
            start..start + result.get().len()
        }
        Ending::Error(failure) => return Err(Error::new(failure.code, failure.message)),
    };
    Ok(Bytes::from(text).slice(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.into()).unwrap()
    }

    #[test]
    fn a_result_passes_through_byte_for_byte() {
        for result in [r#"{"stdout":"\u00e9 {}","exitCode": 0 , "later":[1.50]}"#, "{}"] {
            for ending in
                [format!(r#"{{"result":{result}}}"#), format!(r#" {{ "result" : {result} }} "#)]
            {
                let bytes = answer(raw(ending.trim()), JobId::generate()).unwrap();
                assert_eq!(bytes, result.as_bytes());
            }
        }
    }

    #[test]
    fn a_failure_keeps_its_code_and_words() {
        let ending = raw(r#"{"error":{"code":"WORKER_LOST","message":"gone"}}"#);
        let error = answer(ending, JobId::generate()).unwrap_err();
        assert_eq!((error.code(), error.message()), (ErrorCode::WorkerLost, "gone"));
    }

    #[test]
    fn an_unknown_ending_is_our_fault() {
        for ending in [r#"{"later":1}"#, r#"{"error":{"code":"NEW","message":""}}"#, "null"] {
            let error = answer(raw(ending), JobId::generate()).unwrap_err();
            assert_eq!(error.code(), ErrorCode::Internal, "{ending}");
        }
    }
}
