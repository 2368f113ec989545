//! Prometheus scrapes.

use axum::extract::State as FromState;
use http::HeaderValue;
use http::header::CONTENT_TYPE;

use crate::metrics::Now;
use crate::state::State;

/// Version of the text format that the exporter writes.
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// `GET /metrics`: what is fleet-wide is asked of the queue now, not kept.
pub(crate) async fn metrics(
    FromState(state): FromState<State>,
) -> ([(http::HeaderName, HeaderValue); 1], String) {
    let mut text = state.metrics.render(&Now {
        depth: state.queue.depth().await.ok(),
        waiting: state.registry.waiting(),
        streams: state.streaming.slots.taken(),
    });
    if let Some(more) = &state.more_metrics {
        text.push_str(&more());
    }
    ([(CONTENT_TYPE, TEXT)], text)
}
