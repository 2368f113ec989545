//! Points in time as clients read them.

use chrono::{DateTime, Utc};
use serde::de::{Deserialize, Deserializer, Error};

/// Now, in milliseconds since the epoch.
#[must_use]
pub fn now_ms() -> u64 {
    u64::try_from(Utc::now().timestamp_millis()).unwrap_or(0)
}

/// A time in milliseconds since the epoch as ISO 8601 with milliseconds, in UTC.
#[must_use]
pub fn iso8601(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(DateTime::from_timestamp_millis);
    time.unwrap_or(DateTime::<Utc>::MAX_UTC).format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// A time as clients write it, in milliseconds since the epoch; any offset from UTC.
#[must_use]
pub fn from_iso8601(text: &str) -> Option<u64> {
    let time = DateTime::parse_from_rfc3339(text).ok()?;
    u64::try_from(time.timestamp_millis()).ok()
}

/// Reads a time that may be missing; for fields of requests.
///
/// # Errors
/// What was found is no time.
pub fn optional<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<DateTime<Utc>>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    let unclear = |_| D::Error::custom("expected a time like 2026-01-31T12:00:00Z");
    text.parse().map(Some).map_err(unclear)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_milliseconds_and_a_z() {
        assert_eq!(iso8601(1_772_619_072_345), "2026-03-04T10:11:12.345Z");
        assert_eq!(iso8601(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(from_iso8601("2026-03-04T11:11:12.345+01:00"), Some(1_772_619_072_345));
        assert_eq!(from_iso8601("yesterday"), None);
    }
}
