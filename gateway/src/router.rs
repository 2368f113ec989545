//! Every route on one screen. Layers read from the bottom up: a request meets `observe` first.

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};

use crate::state::State;
use crate::{auth, observe, routes};

/// The whole HTTP surface.
pub(crate) fn router(state: State) -> Router {
    let public = Router::new()
        .route("/health", get(routes::health::health))
        .route("/healthz", get(routes::health::healthz))
        .route("/readyz", get(routes::health::readyz))
        .route("/metrics", get(routes::metrics::metrics))
        .method_not_allowed_fallback(routes::fallback::method_not_allowed);

    // A path nobody knows is private too: without a key it answers 401, not 404.
    let private = Router::new()
        .route("/execute", post(routes::execute::execute))
        .fallback(routes::fallback::not_found)
        .method_not_allowed_fallback(routes::fallback::method_not_allowed)
        .layer(from_fn_with_state(state.clone(), auth::require_key));

    public
        .merge(private)
        .layer(from_fn_with_state(state.clone(), observe::observe))
        .with_state(state)
}
