//! Wrong keys: slowed and told, seen by the operator, and in nobody else's way.

use reqwest::Method;
use shared::config::Config;

use crate::harness::{Answer, Harness, send};

fn few(config: &mut Config) {
    config.gateway.max_auth_failures = 3;
}

async fn guess(harness: &Harness, for_whom: Option<&str>) -> Answer {
    let request = harness.request_of("wrong", Method::GET, "/sessions");
    send(match for_whom {
        Some(address) => request.header("x-forwarded-for", address),
        None => request,
    })
    .await
}

#[tokio::test]
async fn guesses_are_limited_and_valid_keys_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::without_worker(|config| {
        few(config);
        config.auth.enabled = true;
        config.audit.enabled = true;
        config.audit.log_dir = Some(directory.path().display().to_string());
    })
    .await;
    let key = harness.key_of("acme").await;
    for _ in 0..3 {
        assert_eq!(guess(&harness, None).await.error(403, "FORBIDDEN"), "Invalid API key");
    }
    for _ in 0..2 {
        // What a stranger says about itself counts for nothing.
        let answer = guess(&harness, Some("198.51.100.7")).await;
        answer.error(429, "RATE_LIMITED");
        let wait: u64 = answer.header("retry-after").parse().unwrap();
        assert!((1..=60).contains(&wait), "{answer:?}");
        assert_eq!(answer.header("connection"), "close");
    }
    // From the same address.
    let valid = harness.request_of(&key, Method::GET, "/sessions");
    assert_eq!(send(valid).await.status, 200);
    assert_eq!(send(harness.request(Method::GET, "/sessions")).await.status, 200);
    // Not even tried is no guess.
    send(harness.anonymous(Method::GET, "/sessions")).await.error(401, "UNAUTHENTICATED");
    assert_eq!(harness.metric(r#"isol8_auth_failures_total{answer="refused"}"#).await, 3.0);
    assert_eq!(harness.metric(r#"isol8_auth_failures_total{answer="limited"}"#).await, 2.0);
    let lines = loop {
        let log = std::fs::read_to_string(directory.path().join("executions.log"));
        match log.unwrap_or_default() {
            text if text.ends_with('\n') => break text,
            _ => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    };
    assert_eq!(lines.lines().count(), 1, "one line, not one each: {lines}");
    let record: serde_json::Value = serde_json::from_str(lines.trim()).unwrap();
    assert_eq!(record["outcome"], "refused");
    let event = &record["securityEvents"][0];
    assert_eq!(
        (&event["type"], &event["details"]["address"]),
        (&"auth_failures".into(), &"127.0.0.1".into())
    );
}

#[tokio::test]
async fn behind_a_trusted_proxy_clients_are_told_apart() {
    let harness = Harness::without_worker(|config| {
        few(config);
        config.gateway.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    })
    .await;
    for _ in 0..3 {
        guess(&harness, Some("198.51.100.7")).await.error(403, "FORBIDDEN");
    }
    guess(&harness, Some("203.0.113.9, 198.51.100.7")).await.error(429, "RATE_LIMITED");
    guess(&harness, Some("198.51.100.8")).await.error(403, "FORBIDDEN");
}

#[tokio::test]
async fn the_limit_can_be_off() {
    let harness = Harness::without_worker(|config| config.gateway.max_auth_failures = 0).await;
    for _ in 0..30 {
        guess(&harness, None).await.error(403, "FORBIDDEN");
    }
}
