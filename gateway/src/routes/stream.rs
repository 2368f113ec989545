//! `POST /execute/stream`: run, and see what happens as it happens, as server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, Request, State as FromState};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream::unfold;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE};
use http::{HeaderName, HeaderValue};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::auth::Caller;
use crate::body;
use crate::error::ApiError;
use crate::service::event::StreamEvent;
use crate::service::execute::{Following, submit};
use crate::service::slots::Slot;
use crate::service::stream;
use crate::state::State;

/// Events that are written in one go, if so many are there.
const MOST_AT_ONCE: usize = 16;

/// What isol8 itself sends, and a word to proxies that would hold events back.
const HEADERS: [(HeaderName, HeaderValue); 4] = [
    (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
    (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    (CONNECTION, HeaderValue::from_static("keep-alive")),
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
];

/// `POST /execute/stream`. Until the job is queued, errors are answers like everywhere; from then
/// on they are events.
pub(crate) async fn stream(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, ApiError> {
    let (head, body) = request.into_parts();
    let (bytes, room) = state.intake.read(&caller.tenant, &head.headers, body).await?;
    let envelope = body::parse(&bytes)?;
    drop(bytes);
    let slot = state.streaming.slots.take(&caller.tenant).await?;
    let queued = submit(&state, &caller.tenant, envelope, Following::Output).await?;
    drop(room);
    let confirmed = queued.confirmed();
    let events = stream::start(queued, None);
    let mut response = respond(events, line, state.streaming.heartbeat, slot);
    confirmed.tell(response.headers_mut());
    Ok(response)
}

/// A stream of events as the body of an answer; `write` makes text of one.
pub(super) fn respond<T: Send + 'static>(
    events: mpsc::Receiver<T>,
    write: fn(&T) -> String,
    heartbeat: Duration,
    slot: Slot,
) -> Response {
    let lines = Lines { events, write, heartbeat, _slot: slot };
    let body = unfold(lines, |mut lines| async {
        lines.next().await.map(|bytes| (Ok::<_, Infallible>(bytes), lines))
    });
    (HEADERS, Body::from_stream(body)).into_response()
}

/// Events as lines of text. Dropped with the connection, which ends the stream.
struct Lines<T> {
    events: mpsc::Receiver<T>,
    write: fn(&T) -> String,
    heartbeat: Duration,
    _slot: Slot,
}

impl<T> Lines<T> {
    async fn next(&mut self) -> Option<Bytes> {
        let mut events = Vec::new();
        match timeout(self.heartbeat, self.events.recv_many(&mut events, MOST_AT_ONCE)).await {
            Ok(0) => None,
            Ok(_) => Some(events.iter().map(self.write).collect::<String>().into()),
            // Parsers skip comments; proxies and clients see that the connection lives.
            Err(_) => Some(Bytes::from_static(b": keepalive\n\n")),
        }
    }
}

fn line(event: &StreamEvent) -> String {
    format!("data: {}\n\n", event.to_json())
}
