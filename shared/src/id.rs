//! Identifiers as types of their own, so that no signature takes a bare string or UUID and no
//! call can swap two of them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::Error;

macro_rules! uuid_id {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new, time-ordered identifier.
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// Its bytes.
            #[must_use]
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0.into_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    )*};
}

uuid_id! {
    /// A job; also the `executionId` of its result.
    JobId;
    /// One life of one worker process: a restart is a new worker, so a lease can never be
    /// mistaken for that of its predecessor.
    WorkerId;
    /// One life of one gateway process; names its reply channel.
    GatewayId;
    /// One HTTP request, for logs and error bodies.
    RequestId;
    /// A schedule.
    ScheduleId;
    /// A batch of jobs.
    BatchId;
    /// One file on its way between gateway and worker.
    TransferId;
}

impl JobId {
    /// The smallest identifier of those generated in a millisecond since the epoch.
    #[must_use]
    pub fn first_of_ms(ms: u64) -> Self {
        let version = 7_u128 << 76;
        Self(Uuid::from_u128((u128::from(ms & 0xffff_ffff_ffff) << 80) | version))
    }

    /// When it was generated, in milliseconds since the epoch.
    #[must_use]
    pub fn generated_ms(self) -> u64 {
        u64::try_from(self.0.as_u128() >> 80).unwrap_or_default()
    }
}

/// Who a job belongs to. Sandboxes are never shared between two of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TenantId(String);

impl TenantId {
    /// The tenant of the static master key, and of keys created without one.
    #[must_use]
    pub fn master() -> Self {
        Self("default".into())
    }

    /// A tenant by name.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TenantId {
    type Err = Error;

    /// A name as clients write it: 1 to 64 letters, digits, `.`, `_` and `-`.
    fn from_str(name: &str) -> Result<Self, Error> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if name.is_empty() || name.len() > 64 || !name.bytes().all(is_plain) {
            return Err(Error::invalid(
                "tenantId must be 1 to 64 letters, digits, dots, underscores or hyphens",
            ));
        }
        Ok(Self::new(name))
    }
}

/// A session, by the name its caller chose; unique within a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(String);

impl SessionId {
    /// Longest name, in bytes.
    pub const MAX_BYTES: usize = 256;

    /// A session by name.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidRequest`](crate::ErrorCode::InvalidRequest) if the name is empty, too
    /// long, or has control characters.
    pub fn new(name: impl Into<String>) -> Result<Self, Error> {
        let name = name.into();
        if name.is_empty() || name.len() > Self::MAX_BYTES || name.contains(char::is_control) {
            return Err(Error::invalid(format!(
                "sessionId must be 1 to {} bytes long, without control characters",
                Self::MAX_BYTES
            )));
        }
        Ok(Self(name))
    }

    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
