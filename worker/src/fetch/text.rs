//! From the body of an answer to a program text: bounded, whole, UTF-8, and the one that was meant.

use std::sync::Arc;

use reqwest::Response;
use reqwest::header::{CACHE_CONTROL, CONTENT_ENCODING};
use sha2::{Digest as _, Sha256};

use super::error::FetchError;
use super::http::failed;

/// A text as it came.
#[derive(Clone, Debug)]
pub(super) struct Fetched {
    pub(super) text: Arc<str>,
    /// Whether its server lets it be kept.
    pub(super) may_be_kept: bool,
}

/// Reads the body of `response`, of at most `max_bytes`, and checks it against `hash`.
pub(super) async fn read(
    response: Response,
    max_bytes: u64,
    hash: Option<&str>,
) -> Result<Fetched, FetchError> {
    if let Some(encoding) = response.headers().get(CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        // It was asked not to. Unpacking is not offered: a small body could become a large text.
        let message = "the server sent it compressed, though it was asked not to";
        return Err(FetchError::Failed(message.into()));
    }
    let may_be_kept = may_be_kept(&response);
    let bytes = bytes(response, max_bytes).await?;
    // Over the bytes, so that it is what `sha256sum` says of the file.
    let found: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let text = String::from_utf8(bytes).map_err(|_| FetchError::Binary)?;
    if text.contains('\0') {
        return Err(FetchError::Binary);
    }
    if text.trim().is_empty() {
        return Err(FetchError::Empty);
    }
    if hash.is_some_and(|hash| hash != found) {
        return Err(FetchError::HashMismatch { found });
    }
    Ok(Fetched { text: text.into(), may_be_kept })
}

async fn bytes(mut response: Response, max_bytes: u64) -> Result<Vec<u8>, FetchError> {
    let too_large = || FetchError::TooLarge { max_bytes };
    if response.content_length().is_some_and(|length| length > max_bytes) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failed(&error))? {
        if (bytes.len() + chunk.len()) as u64 > max_bytes {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// A text that would have to be asked for again is not kept at all.
fn may_be_kept(response: &Response) -> bool {
    let controls = response.headers().get_all(CACHE_CONTROL);
    let mut directives = controls
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|directive| directive.split('=').next().unwrap_or_default().trim());
    !directives.any(|directive| {
        directive.eq_ignore_ascii_case("no-store") || directive.eq_ignore_ascii_case("no-cache")
    })
}
