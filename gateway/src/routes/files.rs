//! Files of a session: isol8's own `/file` with base64 in JSON, and plain bytes under `/v1`.

use std::borrow::Cow;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Request, State as FromState};
use axum::response::{IntoResponse as _, Response};
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{DecodeError, Engine as _};
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use serde::{Deserialize, Serialize};
use shared::Error;
use shared::execution::FileEntry;

use crate::auth::Caller;
use crate::body::parse;
use crate::error::{ApiError, JSON};
use crate::extract::{Path, Query};
use crate::routes::Done;
use crate::service::files::{Place, session_not_found};
use crate::service::transfer::{self, Download};
use crate::state::State;
use shared::timestamp::iso8601;

/// Permission bits of a file whose writer does not say.
const DEFAULT_MODE: u32 = 0o644;
/// A path longer than this is refused by Linux.
const MAX_PATH_BYTES: usize = 4096;
const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");
/// Node writes padding, others leave it out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Body of `POST /file`. The content is left where it is in the body, unless it has escapes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Upload<'a> {
    session_id: Option<String>,
    path: Option<String>,
    #[serde(borrow)]
    content: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// `POST /file`: writes a file, whole.
pub(crate) async fn upload(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<Done>, ApiError> {
    let (head, body) = request.into_parts();
    let (bytes, room) = state.files.intake.read(&caller.tenant, &head.headers, body).await?;
    let upload: Upload<'_> = parse(&bytes)?;
    let session = upload.session_id.filter(|id| !id.is_empty()).ok_or_else(session_not_found)?;
    let path = file_path(upload.path.ok_or_else(missing)?)?;
    let content = upload.content.ok_or_else(|| Error::invalid("Missing content"))?;
    let content = decode(&content.0)
        .map_err(|error| Error::invalid("content is not valid base64").with_source(error))?;
    drop(bytes);
    let place = Place::new(&state, &caller.tenant, &session)?;
    transfer::write(&place, path, DEFAULT_MODE, content.into(), room).await?;
    Ok(Json(Done { ok: true }))
}

/// Which file, for isol8's clients.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Which {
    session_id: Option<String>,
    path: Option<String>,
}

/// `GET /file?sessionId=…&path=…`: a file as base64 in JSON.
pub(crate) async fn download(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Query(which): Query<Which>,
) -> Result<Response, ApiError> {
    let given = |value: Option<String>| value.filter(|value| !value.is_empty());
    let (Some(session), Some(path)) = (given(which.session_id), given(which.path)) else {
        return Err(missing().into());
    };
    let place = Place::new(&state, &caller.tenant, &session)?;
    let body = match transfer::read(&place, file_path(path)?).await? {
        Download::Whole(bytes) => {
            Body::from(format!("{{\"content\":\"{}\"}}", BASE64.encode(bytes)))
        }
        Download::Pieces(pieces) => Body::from_stream(pieces.into_base64_json()),
    };
    Ok(([(CONTENT_TYPE, JSON)], body).into_response())
}

/// Which file or directory, and how to write it.
#[derive(Deserialize)]
pub(crate) struct Target {
    path: Option<String>,
    mode: Option<String>,
}

impl Target {
    fn path(&self) -> Result<String, Error> {
        let path = self.path.clone().filter(|path| !path.is_empty());
        file_path(path.ok_or_else(|| Error::invalid("path is missing from the query"))?)
    }

    fn mode(&self) -> Result<u32, Error> {
        let Some(mode) = &self.mode else { return Ok(DEFAULT_MODE) };
        u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o777).ok_or_else(|| {
            Error::invalid(format!("mode must be octal, from 0000 to 0777, not \"{mode}\""))
        })
    }
}

/// `GET /v1/sessions/{id}/files?path=…`: the bytes of a file.
pub(crate) async fn get(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Query(target): Query<Target>,
) -> Result<Response, ApiError> {
    let path = target.path()?;
    let place = Place::new(&state, &caller.tenant, &id)?;
    let body = match transfer::read(&place, path).await? {
        Download::Whole(bytes) => Body::from(bytes),
        Download::Pieces(pieces) => Body::from_stream(pieces.into_bytes()),
    };
    Ok(([(CONTENT_TYPE, BYTES)], body).into_response())
}

/// Answer to a file that was written.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Written {
    path: String,
    size_bytes: u64,
}

/// `PUT /v1/sessions/{id}/files?path=…&mode=0644`: the body becomes a file.
pub(crate) async fn put(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Query(target): Query<Target>,
    request: Request,
) -> Result<Json<Written>, ApiError> {
    let (path, mode) = (target.path()?, target.mode()?);
    let place = Place::new(&state, &caller.tenant, &id)?;
    let (head, body) = request.into_parts();
    let size_bytes = transfer::upload(&place, path.clone(), mode, &head.headers, body).await?;
    Ok(Json(Written { path, size_bytes }))
}

/// `DELETE /v1/sessions/{id}/files?path=…`: a file, or a directory with all that is in it.
pub(crate) async fn delete(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Query(target): Query<Target>,
) -> Result<Json<Done>, ApiError> {
    let path = target.path()?;
    Place::new(&state, &caller.tenant, &id)?.remove(path).await?;
    Ok(Json(Done { ok: true }))
}

/// What is in a directory.
#[derive(Serialize)]
pub(crate) struct Directory {
    path: String,
    entries: Vec<Entry>,
    /// Whether there is more than is listed.
    truncated: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    size_bytes: u64,
    mode: String,
    modified_at: String,
}

impl From<FileEntry> for Entry {
    fn from(entry: FileEntry) -> Self {
        Self {
            name: entry.name,
            kind: entry.kind,
            size_bytes: entry.size_bytes,
            mode: entry.mode,
            modified_at: iso8601(entry.modified_ms),
        }
    }
}

/// `GET /v1/sessions/{id}/files/list?path=…`: a directory, `/sandbox` if none is named.
pub(crate) async fn list(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Query(target): Query<Target>,
) -> Result<Json<Directory>, ApiError> {
    let path = match &target.path {
        None => "/sandbox".to_owned(),
        Some(_) => target.path()?,
    };
    let place = Place::new(&state, &caller.tenant, &id)?;
    let (entries, truncated) = place.list(path.clone()).await?;
    Ok(Json(Directory { path, entries: entries.into_iter().map(Entry::from).collect(), truncated }))
}

/// Decodes base64 as Node does: white space is passed over, the URL-safe alphabet will do as well.
fn decode(text: &str) -> Result<Vec<u8>, DecodeError> {
    // Almost all come as they should; the others are copied once.
    BASE64.decode(text).or_else(|_| {
        let usual = |byte: &u8| match byte {
            b'-' => b'+',
            b'_' => b'/',
            byte => *byte,
        };
        let is_visible = |byte: &u8| !byte.is_ascii_whitespace();
        BASE64.decode(text.as_bytes().iter().map(usual).filter(is_visible).collect::<Vec<_>>())
    })
}

fn missing() -> Error {
    Error::invalid("Missing sessionId or path")
}

/// A path as Linux takes it. Where it leads is the sandbox's business: the sandbox user can go
/// nowhere that its programs could not.
fn file_path(path: String) -> Result<String, Error> {
    if path.is_empty() {
        return Err(missing());
    }
    if path.len() >= MAX_PATH_BYTES || path.contains('\0') {
        let message = format!("path must be shorter than {MAX_PATH_BYTES} bytes, without NUL");
        return Err(Error::invalid(message));
    }
    Ok(path)
}
