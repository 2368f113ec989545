//! What is secret of a job, on its way into Redis and out of it. A job without secrets is stored as it is, and
//! costs nothing here.

use super::Queue;
use crate::config;
use crate::error::{Error, ErrorCode};
use crate::sealing::{self, Place, SecretsKeys};

/// How secrets are kept.
pub(super) struct Sealing {
    keys: Option<SecretsKeys>,
    /// Whether they are stored as they are if there is no key.
    allows_plain: bool,
}

impl Sealing {
    /// As a configuration says.
    ///
    /// # Errors
    /// An invalid-request error that names the setting.
    pub(super) fn new(config: &config::Redis) -> Result<Self, Error> {
        let keys = match (&config.secrets_keys, &config.secrets_key_file) {
            (Some(_), Some(_)) => {
                return Err(Error::invalid(
                    "ISOL8_SECRETS_KEY holds a key and redis.secretsKeyFile names a file. Remove one.",
                ));
            }
            (Some(keys), None) => Some(keys.clone()),
            (None, Some(path)) => Some(SecretsKeys::read("redis.secretsKeyFile", path)?),
            (None, None) => None,
        };
        Ok(Self { keys, allows_plain: config.allow_plain_secrets })
    }
}

impl Queue {
    /// The names of the keys that secrets are encrypted with, that of the one in use first. None: requests
    /// with secrets are refused, or theirs are kept as they are.
    #[must_use]
    pub fn secrets_keys(&self) -> Vec<String> {
        self.inner.sealing.keys.as_ref().map(|keys| keys.names().collect()).unwrap_or_default()
    }

    /// A text as it is to be stored.
    ///
    /// # Errors
    /// [`ErrorCode::NotSupported`] if it is secret and there is no key.
    pub(super) fn seal(
        &self,
        place: Place<'_>,
        text: impl Into<Vec<u8>>,
        is_secret: bool,
    ) -> Result<Vec<u8>, Error> {
        let text = text.into();
        let Sealing { keys, allows_plain } = &self.inner.sealing;
        match keys {
            _ if !is_secret => Ok(text),
            Some(keys) => keys.seal(place, &text),
            None if *allows_plain => Ok(text),
            None => Err(Error::new(
                ErrorCode::NotSupported,
                "This server takes no secrets, as it has no key to encrypt them with. Its operator sets \
                 redis.secretsKeyFile, or redis.allowPlainSecrets to have them kept as they are.",
            )),
        }
    }

    /// What was stored as such a text, opened where it lies.
    ///
    /// # Errors
    /// [`ErrorCode::SecretsUnreadable`].
    pub(super) fn unseal<'a>(
        &self,
        place: Place<'_>,
        stored: &'a mut [u8],
    ) -> Result<&'a [u8], Error> {
        if !sealing::is_sealed(stored) {
            return Ok(stored);
        }
        match &self.inner.sealing.keys {
            Some(keys) => keys.open(place, stored),
            None => Err(sealing::missing(stored)),
        }
    }
}
