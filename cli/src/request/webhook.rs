//! The webhook of a submission, from flags, files and the environment.

use anyhow::Context as _;
use serde_json::Value;
use shared::webhook::{WebhookEvent, WebhookOptions, WebhookSecret};

use crate::args::{SECRET_VARIABLE, WebhookArgs};
use crate::settings;

/// The webhook that was asked for.
///
/// # Errors
/// If the secret cannot be read or is none, or an event is unknown.
pub(crate) fn webhook(args: &WebhookArgs) -> anyhow::Result<Option<WebhookOptions>> {
    let Some(url) = args.webhook.clone() else { return Ok(None) };
    let text = match &args.webhook_secret_file {
        Some(path) => {
            let text = std::fs::read_to_string(path);
            Some(text.with_context(|| format!("cannot read {}", path.display()))?)
        }
        None => settings::variable(SECRET_VARIABLE),
    };
    let secret = text.map(|text| WebhookSecret::new(text.trim())).transpose()?;
    let event = |name: &String| -> anyhow::Result<WebhookEvent> {
        serde_json::from_value(Value::String(name.clone())).with_context(|| {
            format!(
                "unknown event \"{name}\": use succeeded, failed, cancelled, expired or dead_letter; \
                 of a batch completed, failed or cancelled"
            )
        })
    };
    let events = args.webhook_event.iter().map(event).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(Some(WebhookOptions { url, secret, events: (!events.is_empty()).then_some(events) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_comes_from_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        std::fs::write(file.path(), format!("{secret}\n")).unwrap();
        let args = WebhookArgs {
            webhook: Some("https://hooks.example".into()),
            webhook_secret_file: Some(file.path().into()),
            webhook_event: vec!["failed".into(), "dead_letter".into()],
        };
        let found = webhook(&args).unwrap().unwrap();
        assert_eq!(found.secret, Some(WebhookSecret::new(secret).unwrap()));
        assert_eq!(found.events, Some(vec![WebhookEvent::Failed, WebhookEvent::DeadLetter]));
        assert!(webhook(&WebhookArgs::default()).unwrap().is_none());

        let unknown = WebhookArgs { webhook_event: vec!["rain".into()], ..args.clone() };
        assert!(webhook(&unknown).unwrap_err().to_string().contains("dead_letter"));
        std::fs::write(file.path(), "hunter2").unwrap();
        let error = webhook(&args).unwrap_err().to_string();
        assert!(error.contains("whsec_") && !error.contains("hunter2"), "{error}");
    }
}
