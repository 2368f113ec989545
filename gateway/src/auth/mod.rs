//! Who is calling. One static master key for now; what a handler sees is a [`Caller`], so keys of
//! other tenants can be added without touching any handler.

mod key;

use axum::extract::{Request, State as FromState};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use shared::id::TenantId;
use shared::{Error, ErrorCode};

pub(crate) use key::MasterKey;

use crate::error::ApiError;
use crate::state::State;

/// Whoever passed authentication; in the request's extensions from then on.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// On whose account jobs run.
    pub(crate) tenant: TenantId,
}

/// Lets a request pass if it carries a valid key. Refuses before a byte of the body is read.
pub(crate) async fn require_key(
    FromState(state): FromState<State>,
    mut request: Request,
    next: Next,
) -> Response {
    match authenticate(&state.master_key, request.headers().get(AUTHORIZATION)) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => refuse(error),
    }
}

fn authenticate(master_key: &MasterKey, header: Option<&HeaderValue>) -> Result<Caller, Error> {
    let token = header.map(|header| key::token(header.as_bytes())).unwrap_or_default();
    if token.is_empty() {
        return Err(Error::new(ErrorCode::Unauthenticated, "Missing Authorization header"));
    }
    if !master_key.matches(token) {
        return Err(Error::new(ErrorCode::Forbidden, "Invalid API key"));
    }
    Ok(Caller { tenant: TenantId::master() })
}

fn refuse(error: Error) -> Response {
    let is_anonymous = error.code() == ErrorCode::Unauthenticated;
    let mut response = ApiError::from(error).into_response();
    if is_anonymous {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}
