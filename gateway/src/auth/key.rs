//! The static key and how a token is read from the header.

use std::fmt;

use shared::Error;
use subtle::ConstantTimeEq as _;

const SCHEME: &[u8] = b"bearer";
/// A shorter key may be guessed, and so may one of fewer different characters.
const LEAST_CHARACTERS: usize = 16;
const LEAST_DIFFERENT: usize = 6;

/// The static key. Compared in constant time, never printed.
pub(crate) struct MasterKey(Box<[u8]>);

impl MasterKey {
    /// A key from configuration.
    ///
    /// # Errors
    /// If it is blank: that would be a server without a lock.
    pub(crate) fn new(key: String) -> Result<Self, Error> {
        let trimmed = key.trim();
        if trimmed.is_empty() {
            return Err(Error::invalid(
                "API key required: the gateway does not start without one. Set ISOL8_API_KEY or \
                 pass --key",
            ));
        }
        Ok(Self(trimmed.as_bytes().into()))
    }

    /// Whether somebody might guess it who may try often.
    pub(crate) fn is_weak(&self) -> bool {
        let mut characters: Vec<u8> = self.0.to_vec();
        characters.sort_unstable();
        characters.dedup();
        self.0.len() < LEAST_CHARACTERS || characters.len() < LEAST_DIFFERENT
    }

    /// Whether `token` is the key. The time taken tells at most their lengths.
    pub(crate) fn matches(&self, token: &[u8]) -> bool {
        self.0.ct_eq(token).into()
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(***)")
    }
}

/// The token in an `Authorization` header: the `Bearer` prefix is optional and of any case.
pub(crate) fn token(header: &[u8]) -> &[u8] {
    let header = header.trim_ascii();
    match header.split_at_checked(SCHEME.len()) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(SCHEME) => match rest.first() {
            None => b"",
            Some(first) if first.is_ascii_whitespace() => rest.trim_ascii_start(),
            Some(_) => header,
        },
        _ => header,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_optional_and_of_any_case() {
        for header in ["k3y", "Bearer k3y", "bearer k3y", "BEARER   k3y ", " Bearer\tk3y"] {
            assert_eq!(token(header.as_bytes()), b"k3y", "{header:?}");
        }
    }

    #[test]
    fn a_key_may_begin_like_the_prefix() {
        assert_eq!(token(b"bearerish"), b"bearerish");
        assert_eq!(token(b"Bearer bearerish"), b"bearerish");
        assert_eq!(token(b"Bearer"), b"");
        assert_eq!(token(b"\xff\xfe"), b"\xff\xfe");
    }

    #[test]
    fn only_the_whole_key_matches() {
        let key = MasterKey::new("secret\n".into()).unwrap();
        assert!(key.matches(b"secret"));
        for wrong in ["", "secre", "secret1", "Secret"] {
            assert!(!key.matches(wrong.as_bytes()), "{wrong}");
        }
        assert!(!format!("{key:?}").contains("secret"));
    }

    #[test]
    fn a_short_or_uniform_key_is_weak() {
        let is_weak = |key: &str| MasterKey::new(key.into()).unwrap().is_weak();
        for key in ["changeme", "123456789012345", "aaaaaaaaaaaaaaaaaaaa", "abababababababababab"] {
            assert!(is_weak(key), "{key}");
        }
        assert!(!is_weak("9f86d081884c7d65"));
    }

    #[test]
    fn a_blank_key_is_refused() {
        assert!(MasterKey::new("  ".into()).unwrap_err().message().contains("API key required"));
    }
}
