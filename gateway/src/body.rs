//! Reading and parsing request bodies: bounded one by one and together, whatever the content type, with errors that name
//! the field.

mod advice;
mod json;
mod strict;

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use serde::de::DeserializeOwned;
use shared::id::TenantId;
use shared::{Error, ErrorCode};
use tokio::time::{Instant, timeout};

pub(crate) use self::advice::{fields_of, nearest};
pub(crate) use self::json::{of_value, parse};
use crate::connection::{Account, Pace};
use crate::service::slots::{Slot, Slots};

/// How long a body may take to arrive; room for others is held meanwhile.
const ARRIVAL_TIME: Duration = Duration::from_secs(300);
/// How long a large body waits for room.
const ROOM_PATIENCE: Duration = Duration::from_secs(10);
const NO_ROOM: &str = "As many large bodies are on their way as fit into this gateway's memory, \
                       half of it for one tenant. Try again in a moment";
/// How long the rest of a body that is too large is taken in and thrown away. Closing at once would
/// reset the connection under a client that is still sending, and it would never see the answer.
const DISCARD_TIME: Duration = Duration::from_secs(2);
/// Bodies up to this size are always let in: large ones must not hold up small ones, and as many as
/// there can be connections fit into memory.
const SMALL_BYTES: usize = 64 << 10;
/// How many bodies of the largest size are in memory at once, half as many of one tenant. More large
/// ones wait their turn.
const LARGEST_AT_ONCE: usize = 8;
/// The same for files in JSON, and the largest of these: enough for 100 MiB.
const LARGEST_FILES_AT_ONCE: usize = 2;
const LARGEST_FILE_BODY: usize = 144 << 20;
/// What one permit of the room stands for.
const PERMIT_BYTES: usize = 1 << 10;

/// Where bodies come in. Bounds the memory they take, one by one and together.
pub(crate) struct Intake {
    max_bytes: usize,
    /// What to change for another limit.
    setting: &'static str,
    /// In permits.
    room: Slots,
    /// How slowly they may come.
    pace: Pace,
}

/// Room that a large body takes up, until dropped.
pub(crate) type Room = Option<Slot>;

impl Intake {
    /// For bodies of at most `max_bytes`.
    pub(crate) fn new(max_bytes: usize, pace: Pace) -> Self {
        Self::with(max_bytes, pace, "gateway.maxBodyBytes", LARGEST_AT_ONCE)
    }

    /// For files of at most `max_file_bytes`, in base64 and JSON.
    pub(crate) fn of_files(max_file_bytes: u64, pace: Pace) -> Self {
        let max_file_bytes = usize::try_from(max_file_bytes).unwrap_or(usize::MAX);
        let max_bytes = (max_file_bytes / 3).saturating_mul(4).saturating_add(SMALL_BYTES);
        let setting = "policy.maxFileBytes; PUT /v1/sessions/{id}/files takes the largest";
        Self::with(max_bytes.min(LARGEST_FILE_BODY), pace, setting, LARGEST_FILES_AT_ONCE)
    }

    fn with(max_bytes: usize, pace: Pace, setting: &'static str, at_once: usize) -> Self {
        let room = Slots::new(permits(max_bytes) as usize * at_once, ROOM_PATIENCE, NO_ROOM);
        Self { max_bytes, setting, room, pace }
    }

    /// How slowly a body may come.
    pub(crate) fn pace(&self) -> Pace {
        self.pace
    }

    /// Largest body.
    pub(crate) fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Reads a whole body. Hold on to the room for as long as what was parsed from it is kept.
    ///
    /// # Errors
    /// `PAYLOAD_TOO_LARGE`, `QUEUE_FULL` if there is no room in time, or an invalid request if the
    /// client stopped sending.
    pub(crate) async fn read(
        &self,
        tenant: &TenantId,
        headers: &HeaderMap,
        mut body: Body,
    ) -> Result<(Bytes, Room), Error> {
        let announced =
            announced(headers).map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        // A body that does not announce its length may be of any.
        let expected = announced.unwrap_or(self.max_bytes);
        let read = async {
            if expected > self.max_bytes {
                return Err(self.too_large());
            }
            let room = self.room(tenant, expected).await?;
            let arrival = timeout(ARRIVAL_TIME, self.collect(&mut body, announced.unwrap_or(0)));
            let bytes = arrival.await.map_err(|_| {
                let seconds = ARRIVAL_TIME.as_secs();
                Error::invalid(format!("The request body did not arrive within {seconds} s"))
            })??;
            Ok((bytes, room))
        };
        let outcome = read.await;
        if let Err(error) = &outcome
            && error.code() != ErrorCode::InvalidRequest
        {
            // Else the client, still sending, would never see the answer.
            discard(body, self.max_bytes).await;
        }
        outcome
    }

    async fn collect(&self, body: &mut Body, announced: usize) -> Result<Bytes, Error> {
        let mut whole = BytesMut::with_capacity(announced);
        let mut account = self.pace.begin();
        while let Some(piece) = next_piece(body, &mut account).await? {
            if whole.len() + piece.len() > self.max_bytes {
                return Err(self.too_large());
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }

    /// Reads and parses a JSON object of modest size.
    ///
    /// # Errors
    /// As [`read`](Self::read) and [`parse`].
    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        tenant: &TenantId,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<T, Error> {
        let (bytes, _room) = self.read(tenant, headers, body).await?;
        parse(&bytes)
    }

    /// The same, where no body at all means one without fields.
    ///
    /// # Errors
    /// As [`json`](Self::json).
    pub(crate) async fn optional_json<T: DeserializeOwned + Default>(
        &self,
        tenant: &TenantId,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<T, Error> {
        let (bytes, _room) = self.read(tenant, headers, body).await?;
        if bytes.trim_ascii().is_empty() { Ok(T::default()) } else { parse(&bytes) }
    }

    fn too_large(&self) -> Error {
        let Self { max_bytes, setting, .. } = self;
        Error::new(
            ErrorCode::PayloadTooLarge,
            format!(
                "The request body is over this server's limit of {max_bytes} bytes ({setting})"
            ),
        )
    }

    /// Room for so many bytes.
    ///
    /// # Errors
    /// `QUEUE_FULL` if there is none in time.
    pub(crate) async fn room(&self, tenant: &TenantId, bytes: usize) -> Result<Room, Error> {
        if bytes <= SMALL_BYTES {
            return Ok(None);
        }
        self.room.take_many(tenant, permits(bytes)).await.map(Some)
    }
}

fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX)
}

/// The next bytes of a body, `None` at its end.
///
/// # Errors
/// An invalid request if the client went away, or sends too slowly.
pub(crate) async fn next_piece(
    body: &mut Body,
    account: &mut Account,
) -> Result<Option<Bytes>, Error> {
    loop {
        match next_frame(body, account).await? {
            None => return Ok(None),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(piece) if piece.is_empty() => {}
                Ok(piece) => {
                    account.moved(piece.len());
                    return Ok(Some(piece));
                }
                // Trailers say nothing that is of use here.
                Err(_) => {}
            },
            Some(Err(error)) => {
                return Err(Error::invalid("The request body ended early").with_source(error));
            }
        }
    }
}

type NextFrame = Option<Result<Frame<Bytes>, axum::Error>>;

async fn next_frame(body: &mut Body, account: &mut Account) -> Result<NextFrame, Error> {
    // Mostly it is there with the head, and needs no timer.
    if let Some(frame) = body.frame().now_or_never() {
        return Ok(frame);
    }
    let since = Instant::now();
    let frame = timeout(account.left(), body.frame()).await;
    account.waited(since.elapsed());
    frame.map_err(|_| {
        Error::invalid(
            "The request body comes too slowly: nothing for too long, or less than \
             gateway.minBytesPerSecond",
        )
    })
}

/// Length that the client announces.
pub(crate) fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Throws away what the client still sends, up to `max_bytes` and for a short time.
pub(crate) async fn discard(mut body: Body, max_bytes: usize) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn pace() -> Pace {
        Pace::new(Duration::from_secs(60), 0)
    }

    #[tokio::test]
    async fn large_bodies_take_turns_and_no_tenant_takes_all_room() {
        let patience = Duration::from_millis(20);
        let room = Slots::new(LARGEST_AT_ONCE << 10, patience, NO_ROOM);
        let intake = Intake { room, ..Intake::new(1 << 20, pace()) };
        let read = |tenant, length: usize| {
            let headers = HeaderMap::from_iter([(CONTENT_LENGTH, length.into())]);
            let (intake, tenant) = (&intake, TenantId::new(tenant));
            async move { intake.read(&tenant, &headers, Body::from(vec![b' '; length])).await }
        };
        let mut held = Vec::new();
        for _ in 0..LARGEST_AT_ONCE / 2 {
            held.push(read("greedy", 1 << 20).await.unwrap());
        }
        let refused = read("greedy", SMALL_BYTES + 1).await.err().unwrap();
        assert_eq!(refused.code(), ErrorCode::QueueFull);
        assert_eq!(read("greedy", SMALL_BYTES).await.unwrap().0.len(), SMALL_BYTES);
        assert_eq!(read("modest", 1 << 20).await.unwrap().0.len(), 1 << 20);
        held.pop();
        assert_eq!(read("greedy", 1 << 20).await.unwrap().0.len(), 1 << 20);
    }

    #[tokio::test]
    async fn a_body_longer_than_its_limit_is_refused_without_a_length_too() {
        let intake = Intake::new(1000, pace());
        let body = Body::from(vec![b' '; 1001]);
        let read = intake.read(&TenantId::new("a"), &HeaderMap::new(), body).await;
        assert_eq!(read.err().unwrap().code(), ErrorCode::PayloadTooLarge);
    }
}
