//! `/auth/keys` and `/auth/login`: for the master alone, and only where keys are enabled.

use axum::Json;
use axum::extract::{Extension, Request, State as FromState};
use http::header::{CACHE_CONTROL, HeaderName};
use http::{HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use shared::redis::{KeyId, KeyRecord, Scope};
use shared::{Error, ErrorCode};

use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{Path, Query};
use crate::service::keys::{self, NewKey};
use crate::state::{Gateway, State};
use shared::timestamp::{iso8601, now_ms};

/// What holds a key must not stay in anybody's cache.
const NO_STORE: [(HeaderName, HeaderValue); 1] =
    [(CACHE_CONTROL, HeaderValue::from_static("no-store"))];

type Secret<T> = ([(HeaderName, HeaderValue); 1], Json<T>);

/// Answer to a key's creation; the only one that shows it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Created {
    id: KeyId,
    key: String,
    name: String,
    key_prefix: String,
    tenant_id: String,
    expires_at: String,
    scopes: Vec<Scope>,
}

/// `POST /auth/keys`
pub(crate) async fn create(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<(StatusCode, Secret<Created>), ApiError> {
    admit(&state, &caller)?;
    let (head, body) = request.into_parts();
    let asked = state.intake.json(&caller.tenant, &head.headers, body).await?;
    let made = keys::create(&state, &caller.tenant, asked).await?;
    let created = Created {
        id: made.facts.id,
        key: made.key.reveal().to_owned(),
        name: made.facts.name,
        key_prefix: made.facts.prefix,
        tenant_id: made.facts.tenant.as_str().to_owned(),
        expires_at: iso8601(made.facts.expires_ms),
        scopes: made.facts.scopes.into_iter().collect(),
    };
    Ok((StatusCode::CREATED, (NO_STORE, Json(created))))
}

/// Answer to a login.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Login {
    token: String,
    expires_at: String,
    key_id: KeyId,
}

/// `POST /auth/login`: a key like every other, in another shape.
pub(crate) async fn login(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Secret<Login>, ApiError> {
    admit(&state, &caller)?;
    let (head, body) = request.into_parts();
    let mut asked: NewKey = state.intake.optional_json(&caller.tenant, &head.headers, body).await?;
    asked.name = asked.name.filter(|name| !name.trim().is_empty());
    asked.name.get_or_insert_with(|| format!("login-{}", iso8601(now_ms())));
    let made = keys::create(&state, &caller.tenant, asked).await?;
    let login = Login {
        token: made.key.reveal().to_owned(),
        expires_at: iso8601(made.facts.expires_ms),
        key_id: made.facts.id,
    };
    Ok((NO_STORE, Json(login)))
}

/// Which keys to list.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Filter {
    tenant_id: Option<String>,
}

/// All keys that match.
#[derive(Serialize)]
pub(crate) struct List {
    keys: Vec<Info>,
}

/// What lists tell of a key.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    id: KeyId,
    name: String,
    key_prefix: String,
    tenant_id: String,
    created_at: String,
    expires_at: String,
    last_used_at: Option<String>,
    revoked: bool,
    scopes: Vec<Scope>,
}

impl From<KeyRecord> for Info {
    fn from(key: KeyRecord) -> Self {
        Self {
            id: key.facts.id,
            name: key.facts.name,
            key_prefix: key.facts.prefix,
            tenant_id: key.facts.tenant.as_str().to_owned(),
            created_at: iso8601(key.facts.created_ms),
            expires_at: iso8601(key.facts.expires_ms),
            last_used_at: key.used_ms.map(iso8601),
            revoked: key.is_revoked,
            scopes: key.facts.scopes.into_iter().collect(),
        }
    }
}

/// `GET /auth/keys?tenantId=…`: newest first, of all tenants if none is named.
pub(crate) async fn list(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Query(filter): Query<Filter>,
) -> Result<Json<List>, ApiError> {
    admit(&state, &caller)?;
    let wanted = filter.tenant_id.filter(|tenant| !tenant.is_empty());
    let is_wanted = |key: &KeyRecord| {
        wanted.as_deref().is_none_or(|tenant| key.facts.tenant.as_str() == tenant)
    };
    let keys = state.keyring.list().await?;
    Ok(Json(List { keys: keys.into_iter().filter(is_wanted).map(Info::from).collect() }))
}

/// Answer to a revocation.
#[derive(Serialize)]
pub(crate) struct Revoked {
    ok: bool,
    id: KeyId,
}

/// `DELETE /auth/keys/:id`: also if it was revoked already.
pub(crate) async fn revoke(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Revoked>, ApiError> {
    admit(&state, &caller)?;
    let not_found = || Error::new(ErrorCode::NotFound, "Key not found");
    let id: KeyId = id.parse().map_err(|_| not_found())?;
    if !state.keyring.revoke(id).await? {
        return Err(not_found().into());
    }
    tracing::info!(%id, "key revoked");
    Ok(Json(Revoked { ok: true, id }))
}

fn admit(gateway: &Gateway, caller: &Caller) -> Result<(), Error> {
    caller.require_master()?;
    if gateway.keyring.is_enabled() {
        return Ok(());
    }
    Err(Error::invalid("DB-backed auth is not enabled"))
}
