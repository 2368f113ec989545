//! Webhooks: an address that is told how a job or a batch ended. A gateway asks here what a request may
//! name; the worker that delivers asks again, and judges where the address's name leads.

mod subject;

pub use subject::{Subject, SubjectKind, WebhookEvent};

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize};
use url::Url;

use crate::config::Config;
use crate::error::{Error, ErrorCode};
use crate::id::TenantId;
use crate::net::{AddressRules, Host, Reason};

/// Longest address that is taken.
const MAX_URL_BYTES: usize = 2048;
/// Bytes of a secret's key, as the Standard Webhooks specification has them.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// What a secret begins with.
const SECRET_PREFIX: &str = "whsec_";

/// What deliveries are signed with: `whsec_` and the key in base64. Never shown.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct WebhookSecret(String);

impl WebhookSecret {
    /// A secret in its usual spelling.
    ///
    /// # Errors
    /// An invalid-request error that does not repeat it.
    pub fn new(text: &str) -> Result<Self, Error> {
        let key = text.strip_prefix(SECRET_PREFIX).and_then(|key| STANDARD.decode(key).ok());
        if !key.is_some_and(|key| KEY_BYTES.contains(&key.len())) {
            return Err(Error::invalid(format!(
                "A webhook's secret is {SECRET_PREFIX} and {} to {} bytes in base64",
                KEY_BYTES.start(),
                KEY_BYTES.end()
            )));
        }
        Ok(Self(text.to_owned()))
    }

    /// The key itself.
    #[must_use]
    pub fn key(&self) -> Vec<u8> {
        let key = self.0.strip_prefix(SECRET_PREFIX).unwrap_or_default();
        // It was decoded once before.
        STANDARD.decode(key).unwrap_or_default()
    }

    fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            let path = path.display();
            Error::invalid(format!("The webhook secret in {path} cannot be read: {error}"))
        })?;
        Self::new(text.trim())
            .map_err(|error| Error::invalid(format!("{}: {}", path.display(), error.message())))
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret(***)")
    }
}

impl<'de> Deserialize<'de> for WebhookSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).map_err(|error| serde::de::Error::custom(error.message()))
    }
}

/// The `webhook` part of a submission.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WebhookOptions {
    /// Where to send.
    pub url: String,
    /// What to sign with, instead of what the server has for the tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<WebhookSecret>,
    /// What to tell of; everything unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<Vec<WebhookEvent>>,
}

/// A webhook that was let in, as it is kept with its job or batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Webhook {
    /// Where to send: an address that was looked at.
    pub url: String,
    /// What to sign with.
    pub secret: WebhookSecret,
    /// What to tell of; nothing in it stands for everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<WebhookEvent>,
}

impl Webhook {
    /// Whether it is to hear of this.
    #[must_use]
    pub fn wants(&self, event: WebhookEvent) -> bool {
        self.events.is_empty() || self.events.contains(&event)
    }

    /// Where it is, without what may be a token: for people.
    #[must_use]
    pub fn place(&self) -> String {
        let end = self.url.find(['?', '#']).unwrap_or(self.url.len());
        self.url[..end].to_owned()
    }
}

/// Which addresses a webhook may have.
#[derive(Clone, Debug)]
pub struct WebhookRules {
    allows_http: bool,
    addresses: AddressRules,
    /// What to sign with where a request brings nothing.
    secret: Option<WebhookSecret>,
    /// For tenants with one of their own.
    secrets: BTreeMap<TenantId, WebhookSecret>,
}

impl WebhookRules {
    /// The rules of a configuration.
    ///
    /// # Errors
    /// If a file with a secret cannot be read, or the addresses of this machine cannot.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let read = |file: &Option<std::path::PathBuf>| {
            file.as_deref().map(WebhookSecret::read).transpose()
        };
        let mut secrets = BTreeMap::new();
        for (name, own) in &config.policy.tenants {
            if let Some(secret) = read(&own.webhook_secret_file)? {
                secrets.insert(TenantId::new(name), secret);
            }
        }
        let settings = &config.webhooks;
        Ok(Self {
            allows_http: settings.allow_http,
            addresses: AddressRules::of_this_machine(settings.allow_private_addresses.clone())?,
            secret: read(&config.policy.webhook_secret_file)?,
            secrets,
        })
    }

    /// Which addresses may be dialled.
    #[must_use]
    pub const fn addresses(&self) -> &AddressRules {
        &self.addresses
    }

    /// Lets in what a request of `tenant` asks for, whose end it is to hear of.
    ///
    /// # Errors
    /// An invalid-request error or a policy violation that names the field.
    pub fn admit(
        &self,
        tenant: &TenantId,
        kind: SubjectKind,
        asked: WebhookOptions,
    ) -> Result<Webhook, Error> {
        if asked.url.len() > MAX_URL_BYTES {
            let message = format!("queue.webhook.url is longer than {MAX_URL_BYTES} bytes");
            return Err(Error::invalid(message));
        }
        let url = self.check(&asked.url)?;
        let events = asked.events.unwrap_or_default();
        if let Some(event) = events.iter().find(|event| !kind.events().contains(event)) {
            let known: Vec<_> = kind.events().iter().map(|event| event.name()).collect();
            return Err(Error::invalid(format!(
                "queue.webhook.events: a {kind} never ends as {}; it ends as one of {}",
                event.name(),
                known.join(", ")
            )));
        }
        let own = || self.secrets.get(tenant).or(self.secret.as_ref()).cloned();
        let secret = asked.secret.or_else(own).ok_or_else(|| {
            Error::invalid(
                "queue.webhook.secret is missing, and this server has none for this tenant \
                 (policy.webhookSecretFile). Deliveries are always signed: give whsec_ and a key of \
                 24 to 64 bytes in base64",
            )
        })?;
        Ok(Webhook { url: url.into(), secret, events })
    }

    /// Checks an address before it is dialled. A name may still turn out to lead to an address that is
    /// refused.
    ///
    /// # Errors
    /// As [`admit`](Self::admit).
    pub fn check(&self, address: &str) -> Result<Url, Error> {
        let url = Url::parse(address.trim()).map_err(|error| {
            let message =
                "queue.webhook.url is no address; expected one like https://hooks.example/path";
            Error::invalid(message).with_source(error)
        })?;
        match url.scheme() {
            "https" => {}
            "http" if self.allows_http => {}
            "http" => {
                return Err(violation(
                    "queue.webhook.url must be https: this server sends nothing in the clear \
                     (webhooks.allowHttp)",
                ));
            }
            _ if self.allows_http => {
                return Err(Error::invalid("queue.webhook.url must be an http or https address"));
            }
            _ => return Err(Error::invalid("queue.webhook.url must be an https address")),
        }
        if !url.username().is_empty() || url.password().is_some() || url.port() == Some(0) {
            return Err(Error::invalid(
                "queue.webhook.url must have no user, no password and no port 0",
            ));
        }
        let host: Host = url.host_str().unwrap_or_default().parse().map_err(|error| {
            Error::invalid(format!("queue.webhook.url has no usable host: {error}"))
        })?;
        let Host::Address(address) = host else { return Ok(url) };
        match self.addresses.refuses(address) {
            Some(reason) => Err(refusal(&host, reason)),
            None => Ok(url),
        }
    }
}

/// The refusal of a host on account of where it leads.
#[must_use]
pub fn refusal(host: &Host, reason: Reason) -> Error {
    violation(format!(
        "{host} leads to a {reason} address, which webhooks do not reach \
         (webhooks.allowPrivateAddresses)"
    ))
}

fn violation(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::PolicyViolation, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn rules(change: impl FnOnce(&mut Config)) -> WebhookRules {
        let mut config = Config::default();
        change(&mut config);
        WebhookRules::new(&config).unwrap()
    }

    fn admit(rules: &WebhookRules, url: &str) -> Result<Webhook, Error> {
        let secret = Some(WebhookSecret::new(SECRET).unwrap());
        let asked = WebhookOptions { url: url.into(), secret, events: None };
        rules.admit(&TenantId::master(), SubjectKind::Job, asked)
    }

    #[test]
    fn addresses_are_judged_before_anything_is_sent() {
        let strict = rules(|_| {});
        assert!(admit(&strict, "https://hooks.example/x?token=1").is_ok());
        assert!(admit(&strict, "https://203.0.113.7/").is_ok());
        for (url, code) in [
            ("http://hooks.example/", ErrorCode::PolicyViolation),
            ("https://127.0.0.1/", ErrorCode::PolicyViolation),
            ("https://10.1.2.3/", ErrorCode::PolicyViolation),
            ("https://169.254.169.254/latest", ErrorCode::PolicyViolation),
            ("https://[::1]/", ErrorCode::PolicyViolation),
            ("https://[::ffff:192.168.0.1]/", ErrorCode::PolicyViolation),
            ("https://[fd00::1]/", ErrorCode::PolicyViolation),
            ("https://[fe80::1]/", ErrorCode::PolicyViolation),
            // The parser of addresses has turned these into what they mean.
            ("https://2130706433/", ErrorCode::PolicyViolation),
            ("https://0x7f.1/", ErrorCode::PolicyViolation),
            ("ftp://hooks.example/", ErrorCode::InvalidRequest),
            ("https://me:pw@hooks.example/", ErrorCode::InvalidRequest),
            ("https://hooks.example:0/", ErrorCode::InvalidRequest),
            ("hooks.example", ErrorCode::InvalidRequest),
            ("", ErrorCode::InvalidRequest),
        ] {
            assert_eq!(admit(&strict, url).unwrap_err().code(), code, "{url}");
        }
        let open = rules(|config| {
            config.webhooks.allow_http = true;
            config.webhooks.allow_private_addresses = vec!["10.0.0.0/8".parse().unwrap()];
        });
        assert!(admit(&open, "http://10.1.2.3:8080/").is_ok());
        assert!(admit(&open, "http://127.0.0.1/").is_err());
        let said = |rules, url| admit(rules, url).unwrap_err().message().to_owned();
        let of_scheme = |rules| said(rules, "ftp://hooks.example/");
        assert_eq!(of_scheme(&strict), "queue.webhook.url must be an https address");
        assert_eq!(of_scheme(&open), "queue.webhook.url must be an http or https address");
        for url in ["hooks.example", "", "https://", "https://[::1", "https://hooks.example:x/"] {
            assert!(said(&strict, url).ends_with("expected one like https://hooks.example/path"));
        }
    }

    #[test]
    fn secrets_are_well_formed_and_never_shown() {
        let secret = WebhookSecret::new(SECRET).unwrap();
        assert_eq!(secret.key().len(), 24);
        for text in ["", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_c2hvcnQ=", "whsec_?"]
        {
            let error = WebhookSecret::new(text).unwrap_err();
            assert!(text.len() < 7 || !error.message().contains(text), "{error}");
        }
        let webhook = admit(&rules(|_| {}), "https://hooks.example/x?token=1").unwrap();
        let shown = format!("{webhook:?}");
        assert!(!shown.contains("MfKQ9r8"), "{shown}");
        assert_eq!(webhook.place(), "https://hooks.example/x");
    }

    #[test]
    fn a_tenants_own_secret_beats_the_servers() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, format!("{text}\n")).unwrap();
            Some(path)
        };
        let own = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        let rules = rules(|config| {
            config.policy.webhook_secret_file = file("all", SECRET);
            let tenant = config.policy.tenants.entry("acme".into()).or_default();
            tenant.webhook_secret_file = file("own", own);
        });
        let asked =
            || WebhookOptions { url: "https://hooks.example".into(), secret: None, events: None };
        let admit = |rules: &WebhookRules, tenant: &str| {
            rules.admit(&TenantId::new(tenant), SubjectKind::Batch, asked())
        };
        let secret = |tenant: &str| admit(&rules, tenant).unwrap().secret;
        assert_eq!(secret("acme"), WebhookSecret::new(own).unwrap());
        assert_eq!(secret("other"), WebhookSecret::new(SECRET).unwrap());
        let none = WebhookRules::new(&Config::default()).unwrap();
        let refused = admit(&none, "acme").unwrap_err();
        assert!(refused.message().contains("policy.webhookSecretFile"), "{refused}");
        let mut config = Config::default();
        config.policy.webhook_secret_file = Some(directory.path().join("absent"));
        assert!(WebhookRules::new(&config).is_err());
    }
}
