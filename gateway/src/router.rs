//! Every route on one screen. Layers read from the bottom up: a request meets `observe` first.

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{delete, get, patch, post};
use shared::redis::Scope;

use crate::auth::needs;
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
        .route("/execute", needs(Scope::Execute, post(routes::execute::execute)))
        .route("/execute/stream", needs(Scope::Execute, post(routes::stream::stream)))
        .route("/execute/ws", needs(Scope::Execute, get(routes::ws::ws)))
        .route("/sessions", needs(Scope::Sessions, get(routes::sessions::list)))
        .route("/session/{*id}", needs(Scope::Sessions, delete(routes::sessions::close)))
        .route("/v1/sessions", needs(Scope::Sessions, get(routes::sessions::list)))
        .route(
            "/v1/sessions/{id}",
            needs(Scope::Sessions, get(routes::sessions::show).delete(routes::sessions::close)),
        )
        .route(
            "/v1/sessions/{id}/network",
            needs(Scope::Sessions, patch(routes::sessions::set_network)),
        )
        .route(
            "/file",
            needs(Scope::Files, get(routes::files::download).post(routes::files::upload)),
        )
        .route(
            "/v1/sessions/{id}/files",
            needs(
                Scope::Files,
                get(routes::files::get).put(routes::files::put).delete(routes::files::delete),
            ),
        )
        .route("/v1/sessions/{id}/files/list", needs(Scope::Files, get(routes::files::list)))
        .route("/v1/jobs", needs(Scope::Jobs, get(routes::jobs::list).post(routes::jobs::submit)))
        .route(
            "/v1/jobs/{id}",
            needs(Scope::Jobs, get(routes::jobs::show).delete(routes::jobs::cancel)),
        )
        .route("/v1/jobs/{id}/output", needs(Scope::Jobs, get(routes::jobs::output)))
        .route("/v1/jobs/{id}/deliveries", needs(Scope::Jobs, get(routes::deliveries::of_job)))
        .route(
            "/v1/jobs/{id}/deliveries/{delivery}/retry",
            needs(Scope::Jobs, post(routes::deliveries::retry_of_job)),
        )
        .route(
            "/v1/batches",
            needs(Scope::Jobs, get(routes::batches::list).post(routes::batches::submit)),
        )
        .route(
            "/v1/batches/{id}",
            needs(Scope::Jobs, get(routes::batches::show).delete(routes::batches::cancel)),
        )
        .route(
            "/v1/batches/{id}/results",
            needs(Scope::Jobs, get(routes::batches::results).delete(routes::batches::acknowledge)),
        )
        .route("/v1/batches/{id}/deliveries", needs(Scope::Jobs, get(routes::deliveries::of_batch)))
        .route(
            "/v1/batches/{id}/deliveries/{delivery}/retry",
            needs(Scope::Jobs, post(routes::deliveries::retry_of_batch)),
        )
        .route("/v1/dead-letters", needs(Scope::Jobs, get(routes::dead_letters::list)))
        .route(
            "/v1/dead-letters/{id}",
            needs(
                Scope::Jobs,
                get(routes::dead_letters::show).delete(routes::dead_letters::forget),
            ),
        )
        .route(
            "/v1/dead-letters/{id}/redrive",
            needs(Scope::Jobs, post(routes::dead_letters::redrive)),
        )
        .route(
            "/v1/schedules",
            needs(Scope::Jobs, get(routes::schedules::list).post(routes::schedules::create)),
        )
        .route(
            "/v1/schedules/{id}",
            needs(
                Scope::Jobs,
                get(routes::schedules::show)
                    .patch(routes::schedules::change)
                    .delete(routes::schedules::remove),
            ),
        )
        .route("/v1/schedules/{id}/run", needs(Scope::Jobs, post(routes::schedules::run)))
        .route("/v1/stats", needs(Scope::Jobs, get(routes::stats::stats)))
        .route("/v1/workers", get(routes::workers::list))
        .route(
            "/v1/workers/{id}/drain",
            post(routes::workers::drain).delete(routes::workers::undrain),
        )
        .route("/cleanup", needs(Scope::Sessions, post(routes::cleanup::clean_up)))
        .route("/auth/login", post(routes::keys::login))
        .route("/auth/keys", get(routes::keys::list).post(routes::keys::create))
        .route("/auth/keys/{id}", delete(routes::keys::revoke))
        .fallback(routes::fallback::not_found)
        .method_not_allowed_fallback(routes::fallback::method_not_allowed)
        .layer(from_fn_with_state(state.clone(), auth::require_key));

    public
        .merge(private)
        .layer(from_fn_with_state(state.clone(), observe::observe))
        .with_state(state)
}
