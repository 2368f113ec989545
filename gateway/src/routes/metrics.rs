//! Prometheus scrapes.

use axum::extract::State as FromState;
use http::HeaderValue;
use http::header::CONTENT_TYPE;

use crate::state::State;

/// Version of the text format that the exporter writes.
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// `GET /metrics`: what is fleet-wide is asked of the queue now, not kept.
pub(crate) async fn metrics(
    FromState(state): FromState<State>,
) -> ([(http::HeaderName, HeaderValue); 1], String) {
    let depth = state.queue.depth().await.ok();
    let mut text = state.metrics.render(state.registry.waiting(), depth);
    if let Some(more) = &state.more_metrics {
        text.push_str(&more());
    }
    ([(CONTENT_TYPE, TEXT)], text)
}
