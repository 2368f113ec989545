//! Reading and parsing request bodies: bounded one by one and together, whatever the content type, with errors that name
//! the field.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use shared::{Error, ErrorCode};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// How long a body may take to arrive; room for others is held meanwhile.
const ARRIVAL_TIME: Duration = Duration::from_secs(300);
/// How long the rest of a body that is too large is taken in and thrown away. Closing at once would
/// reset the connection under a client that is still sending, and it would never see the answer.
const DISCARD_TIME: Duration = Duration::from_secs(2);
/// Bodies up to this size are always let in: large ones must not hold up small ones, and as many as
/// there can be connections fit into memory.
const SMALL_BYTES: usize = 64 << 10;
/// How many bodies of the largest size are in memory at once. More large ones wait their turn.
const LARGEST_AT_ONCE: usize = 8;
/// What one permit of the room stands for.
const PERMIT_BYTES: usize = 1 << 10;

/// Where bodies come in. Bounds the memory they take, one by one and together.
pub(crate) struct Intake {
    max_bytes: usize,
    room: Semaphore,
}

/// Room that a large body takes up, until dropped.
pub(crate) type Room<'a> = Option<SemaphorePermit<'a>>;

impl Intake {
    /// For bodies of at most `max_bytes`.
    pub(crate) fn new(max_bytes: usize) -> Self {
        let room = Semaphore::new(permits(max_bytes) as usize * LARGEST_AT_ONCE);
        Self { max_bytes, room }
    }

    /// Reads a whole body. Hold on to the room for as long as what was parsed from it is kept.
    ///
    /// # Errors
    /// `PAYLOAD_TOO_LARGE`, or an invalid request if the client stopped sending.
    pub(crate) async fn read(
        &self,
        headers: &HeaderMap,
        mut body: Body,
    ) -> Result<(Bytes, Room<'_>), Error> {
        let announced = headers
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.parse::<u64>().ok())
            .map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        // A body that does not announce its length may be of any.
        let expected = announced.unwrap_or(self.max_bytes);
        if expected > self.max_bytes {
            discard(body, self.max_bytes).await;
            return Err(too_large(self.max_bytes));
        }
        let room = self.room(expected).await;
        let arrival = timeout(ARRIVAL_TIME, Limited::new(&mut body, self.max_bytes).collect());
        match arrival.await {
            Ok(Ok(collected)) => Ok((collected.to_bytes(), room)),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                discard(body, self.max_bytes).await;
                Err(too_large(self.max_bytes))
            }
            Ok(Err(error)) => {
                Err(Error::invalid("The request body ended early").with_source(error))
            }
            Err(_) => Err(Error::invalid(format!(
                "The request body did not arrive within {} s",
                ARRIVAL_TIME.as_secs()
            ))),
        }
    }

    async fn room(&self, bytes: usize) -> Room<'_> {
        if bytes <= SMALL_BYTES {
            return None;
        }
        let permit = self.room.acquire_many(permits(bytes)).await;
        Some(permit.expect("the semaphore is never closed"))
    }
}

fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX)
}

fn too_large(max_bytes: usize) -> Error {
    Error::new(
        ErrorCode::PayloadTooLarge,
        format!(
            "The request body is over this server's limit of {max_bytes} bytes \
             (gateway.maxBodyBytes)"
        ),
    )
}

/// Throws away what the client still sends, up to `max_bytes` and for a short time.
async fn discard(mut body: Body, max_bytes: usize) {
    let mut left = max_bytes;
    let drain = async {
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(length) {
                Some(rest) => left = rest,
                None => break,
            }
        }
    };
    // Out of time or out of patience: either way the answer goes out now.
    let _ = timeout(DISCARD_TIME, drain).await;
}

/// Parses a JSON object.
///
/// # Errors
/// `INVALID_JSON` if it is not JSON, `INVALID_REQUEST` naming the field if a value does not fit.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    // JavaScript's own parser takes a byte order mark, serde_json does not.
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    match serde_json::from_slice(body) {
        // serde would take an array for an object too, field by field.
        Ok(_) if body.trim_ascii_start().first() != Some(&b'{') => {
            Err(Error::invalid("The request body must be a JSON object"))
        }
        Ok(value) => Ok(value),
        Err(error) if error.classify() == Category::Data => Err(field_error::<T>(body)),
        Err(error) => Err(Error::new(
            ErrorCode::InvalidJson,
            format!("The request body is not valid JSON: {error}"),
        )),
    }
}

/// Parses once more to learn which field was at fault; the good path does not pay for it.
fn field_error<T: DeserializeOwned>(body: &[u8]) -> Error {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
        Ok(_) => Error::invalid("The request does not have the right shape"),
        Err(error) => {
            let path = error.path().to_string();
            let at = if path == "." { String::new() } else { format!("{path}: ") };
            Error::invalid(format!("{at}{}", error.into_inner()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::execution::ExecuteEnvelope;

    fn error(json: &str) -> Error {
        parse::<ExecuteEnvelope>(json.as_bytes()).unwrap_err()
    }

    #[tokio::test]
    async fn large_bodies_take_turns_and_small_ones_do_not_wait() {
        let intake = Intake::new(1 << 20);
        let read = |length: usize| {
            let headers = HeaderMap::from_iter([(CONTENT_LENGTH, length.into())]);
            let intake = &intake;
            async move { intake.read(&headers, Body::from(vec![b' '; length])).await.unwrap() }
        };
        let mut held = Vec::new();
        for _ in 0..LARGEST_AT_ONCE {
            held.push(read(1 << 20).await);
        }
        let soon = Duration::from_millis(20);
        assert!(timeout(soon, read(SMALL_BYTES + 1)).await.is_err());
        assert_eq!(read(SMALL_BYTES).await.0.len(), SMALL_BYTES);
        held.pop();
        assert_eq!(read(1 << 20).await.0.len(), 1 << 20);
    }

    #[test]
    fn what_is_not_json_says_so() {
        for body in ["", "{", "nope", "{\"request\":{}}x", "\u{1}", "{'a':1}"] {
            assert_eq!(error(body).code(), ErrorCode::InvalidJson, "{body:?}");
        }
    }

    #[test]
    fn a_wrong_type_names_its_field() {
        for (body, expected) in [
            (r#"{"request":{"runtime":"bash","timeoutMs":"1s"}}"#, "request.timeoutMs"),
            (r#"{"request":{"runtime":"bash","env":{"A":1}}}"#, "request.env.A"),
            (r#"{"request":{"runtime":7}}"#, "request.runtime"),
            (r#"{"request":{},"options":{"network":"bridge"}}"#, "options.network"),
            (r#"{"request":{"runtime":"bash","outputPaths":["a",3]}}"#, "request.outputPaths[1]"),
        ] {
            let error = error(body);
            assert_eq!(error.code(), ErrorCode::InvalidRequest, "{body}");
            assert!(error.message().starts_with(expected), "{}", error.message());
        }
    }

    #[test]
    fn a_missing_request_is_named() {
        for body in ["{}", r#"{"options":{}}"#] {
            assert!(error(body).message().contains("missing field `request`"));
        }
        assert_eq!(error("[]").code(), ErrorCode::InvalidRequest);
        assert_eq!(error("null").code(), ErrorCode::InvalidRequest);
        assert_eq!(error(r#"[{"runtime":"bash"}]"#).code(), ErrorCode::InvalidRequest);
    }

    #[test]
    fn a_byte_order_mark_does_no_harm() {
        let body = b"\xef\xbb\xbf{\"request\":{\"runtime\":\"bash\"}}";
        assert_eq!(parse::<ExecuteEnvelope>(body).unwrap().request.runtime, "bash");
    }
}
