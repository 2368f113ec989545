//! One attempt at a delivery, and what its end means.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Client, StatusCode};
use shared::net::ResolveError;
use shared::webhook::{WebhookRules, refusal};

use crate::checked_http::{unresolved, words};

/// The identifier of the delivery.
const ID: &str = "webhook-id";
/// When this attempt was made, in seconds since the epoch.
const TIMESTAMP: &str = "webhook-timestamp";
const SIGNATURE: &str = "webhook-signature";

/// What is sent.
pub(super) struct Letter<'a> {
    pub(super) url: &'a str,
    pub(super) id: &'a str,
    pub(super) timestamp_s: i64,
    pub(super) signature: &'a str,
    pub(super) body: String,
}

/// How an attempt ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The receiver took it.
    Taken(u16),
    /// It does not want any more of it.
    Gone(u16),
    /// It answered something else, and may have said when to come back.
    Refused(u16, Option<Duration>),
    /// It was not reached, or did not answer.
    Nothing(String),
    /// It may not be reached.
    Forbidden(String),
}

/// Sends it; redirects are not followed.
pub(super) async fn post(
    client: &Client,
    rules: &WebhookRules,
    timeout: Duration,
    letter: Letter<'_>,
) -> Answer {
    let url = match rules.check(letter.url) {
        Ok(url) => url,
        Err(error) => return Answer::Forbidden(error.message().to_owned()),
    };
    let request = client
        .post(url)
        .header(CONTENT_TYPE, "application/json")
        .header(ID, letter.id)
        .header(TIMESTAMP, letter.timestamp_s)
        .header(SIGNATURE, letter.signature)
        .body(letter.body);
    let response = match tokio::time::timeout(timeout, request.send()).await {
        Err(_) => return Answer::Nothing(format!("no answer within {} ms", timeout.as_millis())),
        Ok(Err(error)) => return failed(&error),
        // What it has to say besides is not read.
        Ok(Ok(response)) => response,
    };
    let status = response.status();
    match status {
        _ if status.is_success() => Answer::Taken(status.as_u16()),
        StatusCode::GONE => Answer::Gone(status.as_u16()),
        _ => Answer::Refused(status.as_u16(), retry_after(response.headers(), Utc::now())),
    }
}

fn failed(error: &reqwest::Error) -> Answer {
    match unresolved(error) {
        Some(ResolveError::Refused { host, reason }) => {
            Answer::Forbidden(refusal(host, *reason).message().to_owned())
        }
        Some(error) => Answer::Nothing(error.to_string()),
        None => Answer::Nothing(words(error)),
    }
}

/// When a receiver wants to be asked again: after so many seconds, or at a time.
fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let time = DateTime::parse_from_rfc2822(text).ok()?;
    (time.with_timezone(&Utc) - now).to_std().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receivers_say_when_to_come_back_in_two_ways() {
        let now = DateTime::parse_from_rfc3339("2015-10-21T07:27:00Z").unwrap().to_utc();
        let read = |text: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            retry_after(&headers, now).map(|wait| wait.as_secs())
        };
        assert_eq!(read("120"), Some(120));
        assert_eq!(read("Wed, 21 Oct 2015 07:28:00 GMT"), Some(60));
        assert_eq!(read("Wed, 21 Oct 2015 07:26:00 GMT"), None);
        assert_eq!(read("soon"), None);
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
