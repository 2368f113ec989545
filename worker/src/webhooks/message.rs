//! What a webhook is sent: the job or batch as `GET /v1/jobs/{id}` or `GET /v1/batches/{id}` shows it,
//! bounded, and signed as the Standard Webhooks specification has it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::Sha256;
use shared::batch_view::BatchView;
use shared::execution::Attempt;
use shared::job_view::JobView;
use shared::redis::{BatchRecord, JobRecord};
use shared::timestamp::iso8601;
use shared::webhook::{SubjectKind, WebhookEvent, WebhookSecret};
use shared::{Error, ErrorCode};

/// Texts that are cut, the ones of less use first, and what each keeps of what may be sent.
const CUT: [(&str, usize); 2] = [("/result/stdout", 4), ("/result/stderr", 4)];
/// Members that are left out before texts are cut.
const LEFT_OUT: [&str; 2] = ["files", "networkLogs"];
const NOTE: &str = "The job is larger than a delivery may be (webhooks.maxBodyBytes): files and network \
                    logs are left out, and output is cut. GET /v1/jobs/{id} has all of it";

#[derive(Serialize)]
struct Message<T> {
    #[serde(rename = "type")]
    kind: String,
    timestamp: String,
    data: T,
}

/// The body of a delivery about a job that has ended, of at most `max_bytes` or little more.
///
/// # Errors
/// `INTERNAL` if the job's ending cannot be read.
pub(super) fn of_job(
    record: JobRecord,
    attempts: Vec<Attempt>,
    max_bytes: usize,
) -> Result<String, Error> {
    let kind = SubjectKind::Job.type_of(WebhookEvent::of_job(&record));
    let timestamp = iso8601(record.finished_ms.unwrap_or_default());
    let view = JobView::whole(record, attempts, None)?;
    let whole = write(&Message { kind: kind.clone(), timestamp: timestamp.clone(), data: &view })?;
    if whole.len() <= max_bytes {
        return Ok(whole);
    }
    let mut job = serde_json::to_value(&view).map_err(unwritable)?;
    cut(&mut job, max_bytes);
    write(&Message { kind, timestamp, data: job })
}

/// The body of a delivery about a batch that has ended: how its items ended is told by their numbers, so it is
/// small.
///
/// # Errors
/// `INTERNAL` if it cannot be written as JSON.
pub(super) fn of_batch(record: BatchRecord) -> Result<String, Error> {
    let kind = SubjectKind::Batch.type_of(WebhookEvent::of_batch(&record));
    let timestamp = iso8601(record.finished_ms.unwrap_or_default());
    write(&Message { kind, timestamp, data: BatchView::from(record) })
}

fn cut(job: &mut Value, max_bytes: usize) {
    if let Some(result) = job.get_mut("result").and_then(Value::as_object_mut) {
        for name in LEFT_OUT {
            result.remove(name);
        }
    }
    if let Some(job) = job.as_object_mut() {
        job.remove("earlierAttempts");
        job.insert("cut".to_owned(), json!(NOTE));
    }
    for (pointer, share) in CUT {
        if let Some(Value::String(text)) = job.pointer_mut(pointer) {
            // In JSON a character may take six bytes for one.
            let mut end = (max_bytes / share / 2).min(text.len());
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
        }
    }
}

fn write(message: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(message).map_err(unwritable)
}

fn unwritable(error: serde_json::Error) -> Error {
    Error::new(ErrorCode::Internal, "A delivery could not be written as JSON").with_source(error)
}

/// The `webhook-signature` of a delivery.
pub(super) fn signature(secret: &WebhookSecret, id: &str, timestamp_s: i64, body: &str) -> String {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(&secret.key()).expect("HMAC takes keys of any length");
    mac.update(format!("{id}.{timestamp_s}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use shared::execution::Terms;
    use shared::id::{JobId, TenantId};
    use shared::redis::JobState;

    use super::*;

    #[test]
    fn the_signature_is_that_of_the_specifications_example() {
        let secret = WebhookSecret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = r#"{"test": 2432232314}"#;
        let signature = signature(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    fn record(stdout: &str) -> JobRecord {
        let ending = json!({"result": {"stdout": stdout, "stderr": "", "exitCode": 0, "files": {"a": "eA=="}}});
        JobRecord {
            id: JobId::generate(),
            tenant: TenantId::master(),
            state: JobState::Finished(serde_json::value::to_raw_value(&ending).unwrap()),
            submitted_ms: 1000,
            started_ms: Some(2000),
            finished_ms: Some(3000),
            attempts: 1,
            has_attempts: false,
            due_ms: None,
            worker: None,
            session: None,
            keep_ms: Some(60_000),
            is_dead: false,
            terms: Some(Terms::default()),
            summary: Some(shared::execution::EndingSummary {
                outcome: "exited".into(),
                exit_code: Some(0),
                code: None,
            }),
        }
    }

    #[test]
    fn a_large_result_is_cut_and_says_so() {
        let small = of_job(record("hello"), Vec::new(), 4096).unwrap();
        let small: Value = serde_json::from_str(&small).unwrap();
        assert_eq!(small["type"], "job.succeeded");
        assert_eq!(small["timestamp"], "1970-01-01T00:00:03.000Z");
        assert_eq!(small["data"]["result"]["files"]["a"], "eA==");
        assert!(small["data"].get("cut").is_none());

        for text in ["é".repeat(100_000), "\0".repeat(100_000)] {
            let large = of_job(record(&text), Vec::new(), 4096).unwrap();
            assert!(large.len() < 8192, "{}", large.len());
            let large: Value = serde_json::from_str(&large).unwrap();
            assert_eq!(large["data"]["result"]["exitCode"], 0);
            assert!(large["data"]["result"].get("files").is_none());
            assert!(large["data"]["cut"].as_str().unwrap().contains("webhooks.maxBodyBytes"));
            let stdout = large["data"]["result"]["stdout"].as_str().unwrap();
            assert!(!stdout.is_empty() && text.starts_with(stdout));
        }
    }
}
