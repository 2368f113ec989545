//! Secrets that stay outside: a program has placeholders, and what it sends to the hosts of a secret
//! carries the secret in their place. Only headers are looked at, and only of requests that can be read.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use shared::execution::BoundSecret;
use shared::net::Host;
use uuid::Uuid;

/// The secrets of one job.
#[derive(Default)]
pub(super) struct Secrets(BTreeMap<String, Held>);

struct Held {
    secret: BoundSecret,
    places: Vec<(Host, u16)>,
    placeholder: String,
}

impl Secrets {
    /// Takes the secrets of a job, or of the next call of a session: one that is as before keeps its
    /// placeholder.
    pub(super) fn replace(&mut self, secrets: &BTreeMap<String, BoundSecret>) {
        let mut before = std::mem::take(&mut self.0);
        for (name, secret) in secrets {
            let held = before.remove(name).filter(|held| held.secret == *secret);
            let held = held.unwrap_or_else(|| Held {
                secret: secret.clone(),
                // Admission has read them.
                places: secret.places().unwrap_or_default(),
                placeholder: format!("isol8-secret-{}", Uuid::new_v4().simple()),
            });
            self.0.insert(name.clone(), held);
        }
    }

    /// What the program has in their stead, by the names of its variables.
    pub(super) fn placeholders(&self) -> BTreeMap<String, String> {
        self.0.iter().map(|(name, held)| (name.clone(), held.placeholder.clone())).collect()
    }

    /// Whether requests to `host` are to be read even inside of `CONNECT`: at the port of plain HTTP
    /// there is a secret to put in.
    pub(super) fn wait_at(&self, host: &Host, port: u16) -> bool {
        self.tls_port(host, port).is_some() || self.at(host, port).next().is_some()
    }

    /// The port at which the worker speaks TLS to `host`, if it does when the program asks for `port`.
    pub(super) fn tls_port(&self, host: &Host, port: u16) -> Option<u16> {
        let wanted = if port == 80 { 443 } else { port };
        self.at(host, wanted).any(|held| held.secret.tls).then_some(wanted)
    }

    fn at(&self, host: &Host, port: u16) -> impl Iterator<Item = &Held> {
        let is_here =
            move |held: &&Held| held.places.iter().any(|(at, its)| (at, *its) == (host, port));
        self.0.values().filter(is_here)
    }

    /// Puts the secrets of a place into the headers of a request to it. `is_tls` is how the request
    /// travels: a secret that wants TLS does not go without.
    pub(super) fn put_into(&self, headers: &mut HeaderMap, host: &Host, port: u16, is_tls: bool) {
        for held in self.at(host, port).filter(|held| is_tls || !held.secret.tls) {
            for (name, value) in headers.iter_mut() {
                let swapped = swapped(value.as_bytes(), held);
                let swapped =
                    swapped.or_else(|| (name == AUTHORIZATION).then(|| basic(value, held))?);
                if let Some(Ok(mut swapped)) = swapped.map(|it| HeaderValue::from_bytes(&it)) {
                    swapped.set_sensitive(true);
                    *value = swapped;
                }
            }
        }
    }
}

/// `text` with the secret in place of its placeholder; `None` if it is not in there.
fn swapped(text: &[u8], held: &Held) -> Option<Vec<u8>> {
    let placeholder = held.placeholder.as_bytes();
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.windows(placeholder.len()).position(|part| part == placeholder) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(held.secret.value.as_bytes());
        rest = &rest[at + placeholder.len()..];
    }
    if rest.len() == text.len() {
        return None;
    }
    out.extend_from_slice(rest);
    Some(out)
}

/// The same inside of `Basic BASE64`, where user names and passwords are.
fn basic(value: &HeaderValue, held: &Held) -> Option<Vec<u8>> {
    let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
    let text = STANDARD.decode(encoded.trim()).ok()?;
    let swapped = swapped(&text, held).filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    Some(format!("{scheme} {}", STANDARD.encode(swapped)).into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(hosts: &[&str], tls: bool) -> (Secrets, String) {
        let hosts = hosts.iter().map(ToString::to_string).collect();
        let secret = BoundSecret { value: "s3cret".into(), hosts, tls };
        let mut secrets = Secrets::default();
        secrets.replace(&BTreeMap::from([("TOKEN".into(), secret)]));
        let placeholder = secrets.placeholders()["TOKEN"].clone();
        (secrets, placeholder)
    }

    fn sent(secrets: &Secrets, value: &str, (host, port): (&str, u16), is_tls: bool) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().unwrap());
        secrets.put_into(&mut headers, &host.parse().unwrap(), port, is_tls);
        headers[AUTHORIZATION].to_str().unwrap().to_owned()
    }

    #[test]
    fn a_secret_goes_to_its_own_places_only() {
        let (secrets, placeholder) = secrets(&["api.test", "other.test:8443"], true);
        let bearer = format!("Bearer {placeholder}");
        for (place, is_tls, is_swapped) in [
            (("api.test", 443), true, true),
            (("API.test.", 443), true, true),
            (("other.test", 8443), true, true),
            (("api.test", 443), false, false),
            (("api.test", 8443), true, false),
            (("other.test", 443), true, false),
            (("api.test.evil.test", 443), true, false),
            (("evil.test", 443), true, false),
        ] {
            let found = sent(&secrets, &bearer, place, is_tls);
            let expected = if is_swapped { "Bearer s3cret" } else { &bearer };
            assert_eq!(found, expected, "{place:?} {is_tls}");
        }
        let host = |text: &str| text.parse::<Host>().unwrap();
        assert_eq!(secrets.tls_port(&host("api.test"), 80), Some(443));
        assert_eq!(secrets.tls_port(&host("other.test"), 8443), Some(8443));
        assert_eq!(secrets.tls_port(&host("other.test"), 80), None);
    }

    #[test]
    fn a_secret_is_found_inside_of_basic_authorization() {
        let (secrets, placeholder) = secrets(&["api.test"], false);
        let given = format!("Basic {}", STANDARD.encode(format!("user:{placeholder}")));
        let found = sent(&secrets, &given, ("api.test", 80), false);
        assert_eq!(found, format!("Basic {}", STANDARD.encode("user:s3cret")));
        assert_eq!(sent(&secrets, "Basic ???", ("api.test", 80), false), "Basic ???");
        let twice = format!("{placeholder},{placeholder}");
        assert_eq!(sent(&secrets, &twice, ("api.test", 80), false), "s3cret,s3cret");
    }

    #[test]
    fn a_call_of_a_session_keeps_the_placeholder_of_a_secret_that_stays() {
        let (mut secrets, before) = secrets(&["api.test"], true);
        let same = BTreeMap::from([("TOKEN".to_owned(), secrets.0["TOKEN"].secret.clone())]);
        secrets.replace(&same);
        assert_eq!(secrets.placeholders()["TOKEN"], before);
        secrets.replace(&BTreeMap::new());
        assert!(secrets.placeholders().is_empty());
    }
}
