//! Who is calling: the master, or the holder of a key. What a handler sees is a [`Caller`]; on
//! whose account, and what it may do, is settled before a byte of the body is read.

mod guesses;
mod key;
mod keyring;

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State as FromState};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::MethodRouter;
use http::header::{AUTHORIZATION, CONNECTION, HeaderValue, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName};
use shared::audit::Record;
use shared::id::{JobId, TenantId};
use shared::redis::Scope;
use shared::{Error, ErrorCode};
use tracing::warn;

pub(crate) use guesses::Guesses;
pub(crate) use key::MasterKey;
pub(crate) use keyring::Keyring;

use self::guesses::TooMany;
use self::keyring::Holder;
use crate::connection::Peer;
use crate::error::ApiError;
use crate::state::{Gateway, State};

/// The tenant on whose account the master acts, if not its own.
const TENANT: HeaderName = HeaderName::from_static("x-isol8-tenant");

/// Whoever passed authentication; in the request's extensions from then on.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// On whose account it acts.
    pub(crate) tenant: TenantId,
    rights: Rights,
    /// Whether the request names the tenant.
    is_named: bool,
}

#[derive(Clone, Debug)]
enum Rights {
    Master,
    Key(Holder),
}

impl Caller {
    /// Whether it holds the master key.
    pub(crate) fn is_master(&self) -> bool {
        matches!(self.rights, Rights::Master)
    }

    /// Whether it may do what `scope` stands for.
    pub(crate) fn may(&self, scope: Scope) -> bool {
        match &self.rights {
            Rights::Master => true,
            Rights::Key(holder) => holder.key.facts.scopes.contains(&scope),
        }
    }

    /// The tenant it stays within; `None` for the master that names none.
    pub(crate) fn confined_to(&self) -> Option<&TenantId> {
        (self.is_named || !self.is_master()).then_some(&self.tenant)
    }

    /// Insists on the master key.
    ///
    /// # Errors
    /// `FORBIDDEN`.
    pub(crate) fn require_master(&self) -> Result<(), Error> {
        if self.is_master() { Ok(()) } else { Err(not_master()) }
    }

    /// Insists that its key is still good: a connection may outlive it.
    ///
    /// # Errors
    /// `FORBIDDEN`, or `QUEUE_UNAVAILABLE` if that cannot be learnt now.
    pub(crate) async fn require_valid(&self, gateway: &Gateway) -> Result<(), Arc<Error>> {
        let Rights::Key(holder) = &self.rights else { return Ok(()) };
        gateway.keyring.valid(holder.hash).await?.ok_or_else(invalid_key)?;
        Ok(())
    }

    /// Acts for `tenant` from here on.
    ///
    /// # Errors
    /// `FORBIDDEN` to all but the master, unless it is the caller's own.
    pub(crate) fn acting_for(self, tenant: TenantId) -> Result<Self, Error> {
        if self.tenant != tenant {
            self.require_master()?;
        }
        Ok(Self { tenant, is_named: true, ..self })
    }
}

/// Lets a request pass if it carries a valid key. Refuses before a byte of the body is read.
pub(crate) async fn require_key(
    FromState(state): FromState<State>,
    mut request: Request,
    next: Next,
) -> Response {
    match authenticate(&state, request.headers()).await {
        Ok(Some(caller)) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Ok(None) => {
            let peer = request.extensions().get::<Peer>();
            let client = peer.map(|Peer(it)| state.proxies.client(*it, request.headers()));
            refuse_guess(&state, client).await
        }
        Err(error) => refuse(error),
    }
}

/// Answers a key that opens nothing.
async fn refuse_guess(gateway: &Gateway, client: Option<IpAddr>) -> Response {
    let too_many = client.and_then(|client| Some((client, gateway.guesses.count(client)?)));
    gateway.metrics.auth_failed(too_many.is_some());
    let Some((client, too_many)) = too_many else {
        return refuse(invalid_key().into());
    };
    let TooMany { wrong, is_first, retry_after } = too_many;
    let error = Error::new(
        ErrorCode::RateLimited,
        "Invalid API key, one of many that came from this address. Use a valid one, which is always \
         served, or wait",
    )
    .with_retry_after(retry_after);
    if is_first {
        // Once a minute: a line for each would be a way to fill the disk.
        warn!(%client, wrong, "many wrong API keys come from one address");
        let (nobody, nothing) = (TenantId::new(""), Default::default());
        let record =
            Record::of_guesses(JobId::generate(), &nobody, client, wrong, &error, &nothing);
        gateway.audit.record(&record);
    }
    gateway.guesses.delay().await;
    let mut response = refuse(error.into());
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Narrows a route to callers with a scope.
pub(crate) fn needs(scope: Scope, route: MethodRouter<State>) -> MethodRouter<State> {
    route.route_layer(from_fn_with_state(scope, require_scope))
}

async fn require_scope(
    FromState(scope): FromState<Scope>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if request.extensions().get::<Caller>().is_some_and(|caller| caller.may(scope)) {
        return Ok(next.run(request).await);
    }
    let message = format!(
        "This API key lacks the scope \"{}\". Use one that has it; scopes are chosen when a key is \
         created",
        scope.as_str()
    );
    Err(Error::new(ErrorCode::Forbidden, message).into())
}

/// Who calls; `None` if the key is none.
async fn authenticate(gateway: &Gateway, headers: &HeaderMap) -> Result<Option<Caller>, ApiError> {
    let token =
        headers.get(AUTHORIZATION).map(|header| key::token(header.as_bytes())).unwrap_or_default();
    if token.is_empty() {
        return Err(Error::new(ErrorCode::Unauthenticated, "Missing Authorization header").into());
    }
    let caller = if gateway.master_key.matches(token) {
        Caller { tenant: TenantId::master(), rights: Rights::Master, is_named: false }
    } else {
        let Some(holder) = gateway.keyring.holder(token).await? else { return Ok(None) };
        let tenant = holder.key.facts.tenant.clone();
        Caller { tenant, rights: Rights::Key(holder), is_named: false }
    };
    match headers.get(TENANT) {
        None => Ok(Some(caller)),
        Some(tenant) => Ok(Some(caller.acting_for(tenant.to_str().unwrap_or_default().parse()?)?)),
    }
}

fn invalid_key() -> Error {
    Error::new(ErrorCode::Forbidden, "Invalid API key")
}

fn not_master() -> Error {
    Error::new(ErrorCode::Forbidden, "Master key required for this operation")
}

fn refuse(error: ApiError) -> Response {
    let is_anonymous = error.error().code() == ErrorCode::Unauthenticated;
    let mut response = error.into_response();
    if is_anonymous {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}
