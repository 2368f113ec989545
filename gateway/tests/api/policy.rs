//! What the policy forbids is refused by every route that something can be asked to run through, and the refusal names
//! the key that an operator would have to change.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Harness, send};
use crate::socket::Socket;

/// A request, and what is wrong with it.
fn body(part: &str, wrong: &Value) -> Value {
    let mut body = json!({"request": {"runtime": "bash", "code": "print x"}, "options": {}});
    body[part].as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
    body
}

fn with(mut body: Value, more: Value) -> Value {
    let Value::Object(more) = more else { panic!("{more}") };
    body.as_object_mut().unwrap().extend(more);
    body
}

/// Asks each route for what a tenant with this key may not have.
async fn refused(harness: &Harness, key: &str, body: Value, words: &str) {
    let (session, cron) = (json!({"sessionId": "s"}), json!({"cron": "0 0 1 1 *"}));
    let plain = json!({"request": {"runtime": "bash", "code": "print x"}});
    let lines = |head: &Value, item: &Value| format!("{head}\n{item}\n");
    for (path, text) in [
        ("/execute", body.to_string()),
        ("/execute", with(body.clone(), session.clone()).to_string()),
        ("/execute/stream", body.to_string()),
        ("/v1/jobs", body.to_string()),
        ("/v1/jobs", with(body.clone(), session).to_string()),
        ("/v1/schedules", with(body.clone(), cron).to_string()),
        ("/v1/batches", lines(&body, &json!({}))),
        ("/v1/batches", lines(&plain, &body)),
    ] {
        let request = harness.request_of(key, Method::POST, path).body(text.clone());
        let request = request.header("content-type", "application/x-ndjson");
        let said = send(request).await.error(400, "POLICY_VIOLATION");
        assert!(said.contains(words), "{path} {text}: {said}");
    }
    let mut socket = Socket::connect(harness.address, Some(key)).await.unwrap();
    socket.say_json(with(body, json!({"type": "execute"}))).await;
    let events = socket.completion().await;
    assert_eq!(events.last().unwrap()["code"], "POLICY_VIOLATION", "{events:?}");
    assert!(events.last().unwrap()["data"].as_str().unwrap().contains(words), "{events:?}");
}

#[tokio::test]
async fn no_route_lets_in_what_the_policy_forbids() {
    let harness = Harness::without_worker(|config| {
        config.auth.enabled = true;
        let policy = &mut config.policy;
        policy.allow_packages = false;
        let trusted = policy.tenants.entry("trusted".into()).or_default();
        trusted.allow_packages = Some(true);
        let hosted = policy.networks.iter().copied().chain([shared::execution::Network::Host]);
        trusted.networks = Some(hosted.collect());
        let strict = policy.tenants.entry("strict".into()).or_default();
        strict.allow_packages = Some(false);
        strict.networks = Some(vec![shared::execution::Network::None]);
    })
    .await
    .with_worker()
    .await;
    let packages = body("request", &json!({"installPackages": ["jq"]}));
    let host = body("options", &json!({"network": "host"}));
    let [anybody, strict] = [harness.key_of("anybody").await, harness.key_of("strict").await];
    for (key, body, words) in [
        (
            &anybody,
            &packages,
            "installPackages is not allowed by this server's policy (policy.allowPackages)",
        ),
        (&strict, &packages, "(policy.tenants.strict.allowPackages)"),
        (
            &anybody,
            &host,
            "network \"host\" is not allowed by this server's policy (policy.networks)",
        ),
        (&strict, &host, "(policy.tenants.strict.networks)"),
    ] {
        refused(&harness, key, body.clone(), words).await;
    }
    let trusted = harness.key_of("trusted").await;
    for body in [packages, host] {
        let request = harness.request_of(&trusted, Method::POST, "/execute").json(&body);
        assert_eq!(send(request).await.stdout(), "x");
    }
}
