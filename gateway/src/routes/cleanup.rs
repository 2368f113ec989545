//! `POST /cleanup`.

use axum::Json;
use axum::extract::{Extension, Request, State as FromState};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use shared::ErrorCode;

use crate::auth::Caller;
use crate::body::parse;
use crate::error::ApiError;
use crate::service::cleanup::{self, Report};
use crate::state::State;

/// What to clean up besides sessions and sandboxes.
#[derive(Deserialize)]
struct Wish {
    images: Option<bool>,
}

/// What was removed.
#[derive(Serialize)]
struct Answer<'a> {
    ok: bool,
    #[serde(flatten)]
    report: &'a Report,
}

/// `POST /cleanup`: images are included unless the body says otherwise, also when it is no JSON. JSON that
/// says it wrongly is refused: what it was to keep would be gone. A key other than the master's has no
/// images to remove.
pub(crate) async fn clean_up(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, ApiError> {
    let (head, body) = request.into_parts();
    let (bytes, _room) = state.intake.read(&caller.tenant, &head.headers, body).await?;
    let wish = match parse(&bytes) {
        Err(error) if error.code() == ErrorCode::InvalidJson => Wish { images: None },
        wish => wish?,
    };
    let images = wish.images.unwrap_or(true);
    let tenant = caller.confined_to().cloned();
    let report = cleanup::clean_up(&state, tenant, images).await?;
    Ok(Json(Answer { ok: true, report: &report }).into_response())
}
