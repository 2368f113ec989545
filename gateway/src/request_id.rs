//! The identifier of one HTTP request: the client's own if it sent a sane one, ours otherwise.
//! Echoed in `X-Request-Id` and in error bodies, so a client's log and ours can be joined.

use http::{HeaderName, HeaderValue};
use shared::id::RequestId;

/// The header, both ways.
pub(crate) const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// A longer one is replaced: it would be copied into every log line.
const MAX_BYTES: usize = 128;

/// Takes over the client's identifier, or makes one.
pub(crate) fn accept_or_generate(given: Option<&HeaderValue>) -> HeaderValue {
    if let Some(given) = given.filter(|given| is_sane(given.as_bytes())) {
        return given.clone();
    }
    HeaderValue::from_str(&RequestId::generate().to_string()).expect("a UUID is plain ASCII")
}

/// Characters that can neither break a log line nor need escaping in one.
fn is_sane(id: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@~".contains(byte);
    !id.is_empty() && id.len() <= MAX_BYTES && id.iter().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sane_identifier_is_kept() {
        let given = HeaderValue::from_static("trace-7f.3_a:1");
        assert_eq!(accept_or_generate(Some(&given)), given);
    }

    #[test]
    fn anything_else_is_replaced_by_a_uuid() {
        let long = "x".repeat(MAX_BYTES + 1);
        for given in ["", "a b", "\"quoted\"", "ünicode", long.as_str()] {
            let given = HeaderValue::from_bytes(given.as_bytes()).unwrap();
            let id = accept_or_generate(Some(&given));
            assert_ne!(id, given);
            assert!(id.to_str().unwrap().parse::<RequestId>().is_ok());
        }
    }
}
