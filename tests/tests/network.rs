//! The filtered network: what a sandbox reaches, what it is refused, and that nothing of it stays.

use std::time::{Duration, Instant};

use base64::Engine as _;
use reqwest::Method;
use serde_json::{Value, json};
use tests::api::KEY;
use tests::case::equal;
use tests::stream::Events;
use tests::{Api, Case, Stack, Upstream, code, command, reflect, run_cases};

/// This machine stands for the world.
fn configuration() -> Value {
    json!({
        "policy": {"allowPrivateAddresses": ["127.0.0.0/8"]},
        "network": {"blacklist": ["^127\\.6\\."]},
        "worker": {"prewarm": ["bash", "python"]},
    })
}

/// A server on an address that no `NO_PROXY` for this machine covers.
async fn destination() -> Upstream {
    Upstream::start("127.0.0.2", reflect).await
}

fn filtered(mut body: Value, allow: &[&str], deny: &[&str]) -> Value {
    let filter = json!({"whitelist": allow, "blacklist": deny});
    body["options"] = json!({"network": "filtered", "networkFilter": filter, "logNetwork": true});
    body
}

fn shell(line: &str, allow: &[&str], deny: &[&str]) -> Value {
    filtered(command("bash", line), allow, deny)
}

fn logs(result: &Value) -> Vec<(String, String, Value, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let entries = result["networkLogs"].as_array().cloned().unwrap_or_default();
    let entry = |entry: &Value| {
        (
            text(&entry["method"]),
            text(&entry["host"]),
            entry["path"].clone(),
            text(&entry["action"]),
        )
    };
    entries.iter().map(entry).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_decide_what_a_program_reaches() {
    let (stack, api) = Stack::serve(&configuration());
    let destination = destination().await;
    let (url, address) = (destination.at("/x"), destination.address.to_string());
    let here = r"^127\.0\.0\.2$";
    let mut cases = Vec::new();
    let mut add = |name: &str, line: &str, allow: &[&str], deny: &[&str], out: &str| {
        cases.push(Case::new(name, &shell(line, allow, deny)).prints(out));
    };
    let get = format!("curl -s {url}");
    let tunnel = format!("curl -sp {url}");
    let blocked = "isol8: request to 127.0.0.2 blocked by network filter";
    add("no rules", &get, &[], &[], "/x 0");
    add("allowed", &get, &[here], &[], "/x 0");
    add("allowed by CONNECT", &tunnel, &[here], &[], "/x 0");
    add("not allowed", &get, &["^example\\.com$"], &[], blocked);
    add("denied", &get, &[], &["127"], blocked);
    add("deny beats allow", &get, &[here], &[here], blocked);
    let status = format!("curl -sp -o /dev/null -w '%{{http_connect}}' {url}; true");
    add("CONNECT not allowed", &status, &["^example\\.com$"], &[], "403");
    add(
        "the server's rules hold too",
        "curl -s http://127.6.0.1/",
        &["127"],
        &[],
        "isol8: request to 127.6.0.1 blocked by network filter",
    );
    add(
        "an address that is not public",
        "for a in 10.0.0.1 169.254.169.254 [fe80::1] [::ffff:10.0.0.1] 100.64.0.1 0.0.0.0; do curl -gs -o /dev/null -w '%{http_code} ' http://$a/; done",
        &[],
        &[],
        "403 403 403 403 403 403",
    );
    add(
        "nobody there",
        "curl -s http://127.0.0.3:1/",
        &[],
        &[],
        "isol8: proxy error: connection to 127.0.0.3:1 failed",
    );
    add(
        "around the proxy",
        &format!(
            "exec 2>/dev/null; curl -m 2 --noproxy '*' {url} || echo no; (exec 3<>/dev/tcp/{}) || echo no; \
             getent hosts example.com || echo no; (exec 3<>/dev/udp/127.0.0.2/53; echo x >&3; echo x >&3) || echo no; tail -n +2 /proc/net/route | wc -l",
            address.replace(':', "/")
        ),
        &[],
        &[],
        "no\nno\nno\nno\n0",
    );
    add(
        "a large body, and one of unknown size, both ways",
        &format!(
            "head -c 5000000 /dev/zero | curl -s -T - {url}; echo; head -c 100000 /dev/zero > f; curl -s --data-binary @f {url}; echo; curl -s {}",
            destination.at("/chunks")
        ),
        &[],
        &[],
        "/x 5000000\n/x 100000\nonetwo",
    );
    add(
        "another protocol takes over",
        &format!(
            "exec 3<>/dev/tcp/127.0.0.1/8118; printf 'GET {} HTTP/1.1\\r\\nHost: x\\r\\nConnection: upgrade\\r\\nUpgrade: echo\\r\\n\\r\\n' >&3; \
             head -n 1 <&3 | cut -c 1-12; printf 'ping\\n' >&3; grep -m 1 -o ping <&3",
            destination.at("/switch")
        ),
        &[],
        &[],
        "HTTP/1.1 101\nping",
    );
    let refused = |name: &str, options: Value, code: &'static str, text: &'static str| {
        let mut body = command("bash", "true");
        body["options"] = options;
        Case::refused(name, body.to_string(), (400, code, text))
    };
    let bad = json!({"network": "filtered", "networkFilter": {"blacklist": ["a", "("]}});
    cases.push(refused("a bad pattern", bad, "INVALID_REQUEST", "networkFilter.blacklist: \"(\""));
    cases.push(refused("host", json!({"network": "host"}), "POLICY_VIOLATION", "policy.networks"));
    let mixed = json!({"network": {"setup": "host", "run": "none"}});
    cases.push(refused("host for a part", mixed, "POLICY_VIOLATION", "policy.networks"));
    run_cases(&api, cases).await.report();

    let heads = destination.heads();
    assert!(!heads.to_lowercase().contains("proxy"), "{heads}");
    assert!(
        heads.contains(&format!("Host: {address}\r\n"))
            || heads.contains(&format!("host: {address}\r\n")),
        "{heads}"
    );
    destination.await_quiet().await;
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_told_in_the_result_and_blocked_ones_in_the_audit_log() {
    let mut config = configuration();
    config["audit"] = json!({"enabled": true, "logDir": "audit"});
    let (stack, api) = Stack::serve(&config);
    let destination = destination().await;
    let url = destination.at("/");
    let line =
        format!("curl -s '{url}?key=secret'; curl -sp {url}; curl -s http://127.6.0.1/b; true");
    let expected = |result: &Value| {
        let entry = |method: &str, host: &str, path: Value, action: &str| {
            (method.to_owned(), host.to_owned(), path, action.to_owned())
        };
        let wanted = vec![
            entry("GET", "127.0.0.2", json!("/"), "ALLOW"),
            entry("CONNECT", "127.0.0.2", Value::Null, "ALLOW"),
            entry("GET", "127.6.0.1", json!("/b"), "BLOCK"),
        ];
        equal("logs", &logs(result), &wanted)
    };
    let result = api.run(shell(&line, &[], &[])).await;
    expected(&result).unwrap();
    let first = &result["networkLogs"][0];
    let timestamp = first["timestamp"].as_str().expect("it has a time");
    assert!(timestamp.len() == 24 && timestamp.ends_with('Z'), "{timestamp}");
    assert!(first["durationMs"].is_u64());
    assert!(result["resourceUsage"]["networkBytesIn"].as_u64() > Some(50), "{result}");

    let events = Events::sse(&api, &shell(&line, &[], &[])).await.rest().await;
    let last = events.last().expect("a stream ends with its exit");
    assert_eq!(last["type"], "exit");
    expected(last).unwrap();

    let mut quiet = shell(&line, &[], &[]);
    quiet["options"]["logNetwork"] = json!(false);
    assert_eq!(api.run(quiet).await.get("networkLogs"), None);
    let none = command("bash", "curl -m 1 -s http://127.0.0.2/; true");
    assert_eq!(api.run(none).await.get("networkLogs"), None);

    // A job that comes to no result is told too.
    let mut failing = shell("true", &[], &[]);
    failing["request"]["setupScript"] = json!("curl -s http://127.6.0.1/setup; exit 3");
    let mut in_session = failing.clone();
    in_session["sessionId"] = json!("none");
    for body in [failing, in_session] {
        let reply = api.post(body.to_string()).await.expect("there is an answer");
        assert_eq!(reply.json()["code"], "SETUP_FAILED", "{}", reply.text);
    }

    // Written in the background.
    let deadline = Instant::now() + Duration::from_secs(60);
    let audit = loop {
        let audit = std::fs::read_to_string(stack.join("audit/executions.log")).unwrap_or_default();
        let blocked = audit.lines().filter(|line| line.contains("\"network_blocked\"")).count();
        if blocked == 5 {
            break audit;
        }
        assert!(Instant::now() < deadline, "{blocked} of 5: {audit}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(!audit.contains("key=secret"), "{audit}");
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_is_sealed_after_its_setup() {
    let (stack, api) = Stack::serve(&configuration());
    let destination = destination().await;
    let reach =
        format!("curl -s -m 20 -x http://127.0.0.1:8118 {} || echo no", destination.at("/x"));
    let run = |setup: &str, run: &str, session: Option<&str>| {
        let mut body =
            command("bash", &format!("cat /sandbox/got; env | grep -ci _proxy; {reach}"));
        // What the setup script leaves running is cut off too.
        body["request"]["setupScript"] = json!(format!(
            "rm -f /sandbox/told; ({reach}) > /sandbox/got; (trap 'touch /sandbox/told' EXIT; exec 3<>/dev/tcp/127.0.0.1/8118; printf 'CONNECT {} HTTP/1.1\\r\\n\\r\\n' >&3; head -n 1 <&3 >> /sandbox/got; touch /sandbox/told; cat <&3) >/dev/null 2>&1 & \
             until [ -e /sandbox/told ]; do sleep 0.05; done",
            destination.address.to_string()
        ));
        body["options"] = json!({"network": {"setup": setup, "run": run}});
        if let Some(session) = session {
            body["sessionId"] = json!(session);
        }
        body
    };
    let established = "HTTP/1.1 200 Connection Established\r";
    let sealed = api.run(run("filtered", "none", None)).await;
    assert_eq!(sealed["stdout"], format!("/x 0{established}\n0\nno"), "{sealed}");
    let opened = api.run(run("none", "filtered", None)).await;
    assert_eq!(opened["stdout"], "no\n9\n/x 0", "{opened}");
    let first = api.run(run("filtered", "none", Some("sealed"))).await;
    assert_eq!(first["stdout"], sealed["stdout"], "{first}");
    let later = api.run(run("filtered", "none", Some("sealed"))).await;
    assert_eq!(later["stdout"], "no\n0\nno", "{later}");
    let key = format!("Bearer {KEY}");
    let closed = api.send(Method::DELETE, "/session/sealed", Some(&key), "").await;
    assert_eq!(closed.expect("there is an answer").status, 200);
    destination.await_quiet().await;
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_session_is_narrowed_sealed_and_opened_again() {
    let mut stack = Stack::fleet(&configuration());
    let (one, other) = (stack.gateway(), stack.gateway());
    stack.worker();
    let destination = destination().await;
    let line =
        format!("curl -s -m 20 -x http://127.0.0.1:8118 {} || echo no", destination.at("/x"));
    let call = async |session: &str, network: &str| {
        let mut body = command("bash", &line);
        body["sessionId"] = json!(session);
        body["options"] = json!({"network": network});
        one.run(body).await["stdout"].as_str().unwrap_or_default().to_owned()
    };
    let key = format!("Bearer {KEY}");
    let change = async |session: &str, change: Value| {
        let path = format!("/v1/sessions/{session}/network");
        let reply = other.send(Method::PATCH, &path, Some(&key), change.to_string()).await;
        let reply = reply.expect("there is an answer");
        (reply.status, reply.json())
    };
    assert_eq!(call("s", "filtered").await, "/x 0");
    // What runs on in the session loses what it had.
    let mut hold =
        command("bash", &format!("curl -s {} >/dev/null 2>&1 &", destination.at("/hang")));
    hold["sessionId"] = json!("s");
    one.run(hold).await;
    destination.await_open().await;
    let denied = json!({"blacklist": [r"^127\."]});
    let all = json!({"mode": "filtered", "whitelist": [], "blacklist": [r"^127\."]});
    assert_eq!(change("s", denied).await, (200, all));
    destination.await_quiet().await;
    let blocked = "isol8: request to 127.0.0.2 blocked by network filter";
    assert_eq!(call("s", "filtered").await, blocked);
    let sealed = change("s", json!({"mode": "none", "blacklist": []})).await;
    assert_eq!((sealed.0, &sealed.1["mode"]), (200, &json!("none")));
    // Options of a later call do not open it.
    assert_eq!(call("s", "filtered").await, "no");
    assert_eq!(change("s", json!({"mode": "filtered"})).await.0, 200);
    assert_eq!(call("s", "filtered").await, "/x 0");

    assert_eq!(call("closed", "none").await, "no");
    // It is what it already was.
    assert_eq!(change("closed", json!({"mode": "none"})).await.0, 200);
    for (session, asked, status, code) in [
        ("closed", json!({"mode": "filtered"}), 400, "INVALID_REQUEST"),
        ("closed", json!({"mode": "none", "whitelist": ["a"]}), 400, "INVALID_REQUEST"),
        ("s", json!({"mode": "host"}), 400, "INVALID_REQUEST"),
        ("s", json!({"whitelist": ["("]}), 400, "INVALID_REQUEST"),
        ("s", json!({}), 400, "INVALID_REQUEST"),
        ("nobody", json!({"mode": "none"}), 404, "SESSION_NOT_FOUND"),
    ] {
        let (found, reply) = change(session, asked.clone()).await;
        assert_eq!((found, &reply["code"]), (status, &json!(code)), "{session} {asked}: {reply}");
    }
    assert_eq!(call("closed", "filtered").await, "no");
    for session in ["s", "closed"] {
        let path = format!("/v1/sessions/{session}");
        let closed = one.send(Method::DELETE, &path, Some(&key), "").await;
        assert_eq!(closed.expect("there is an answer").status, 200);
    }
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_hangs_or_drips_ends_with_the_job() {
    let (stack, api) = Stack::serve(&configuration());
    let destination = destination().await;
    let mut cases = Vec::new();
    for path in ["/hang", "/drip"] {
        for flag in ["-s", "-sp"] {
            let mut body = shell(&format!("curl {flag} {}", destination.at(path)), &[], &[]);
            body["request"]["timeoutMs"] = json!(500);
            cases.push(Case::new(format!("{flag} {path}"), &body).outcome("timed_out"));
        }
    }
    cases.push(Case::new("the next job", &shell("echo fine", &[], &[])).prints("fine"));
    run_cases(&api, cases).await.report();
    destination.await_quiet().await;
    stack.finish();
}

/// Opens ten thousand connections, a hundred at once, and leaves as many open at its end.
const FLOOD: &str = r#"
import os, select, socket
destination = os.environ["UPSTREAM"]
request = f"CONNECT {destination} HTTP/1.1\r\n\r\n".encode()
good = 0
for wave in range(100):
    sockets = [socket.create_connection(("127.0.0.1", 8118)) for _ in range(100)]
    for one in sockets: one.sendall(request)
    for number, one in enumerate(sockets):
        # More than are served at once: those before must go for those behind to come.
        good += one.recv(100).startswith(b"HTTP/1.1 200")
        if wave < 99 or number < 40: one.close()
print(good)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_connections_of_one_job_leave_the_worker_well() {
    let (stack, api) = Stack::serve(&configuration());
    let destination = destination().await;
    let mut body = filtered(code("python", FLOOD), &[], &[]);
    body["request"]["env"] = json!({"UPSTREAM": destination.address.to_string()});
    body["request"]["timeoutMs"] = json!(85_000);
    // Nobody else has to wait for its end.
    let other = async {
        for _ in 0..20 {
            assert_eq!(api.run(command("bash", "echo hi")).await["stdout"], "hi");
        }
    };
    let (flood, ()) = tokio::join!(api.run(body.clone()), other);
    assert_eq!(flood["stdout"], "10000", "{}", flood["stderr"]);
    assert_eq!(flood["networkLogs"].as_array().map(Vec::len), Some(1000));
    assert_eq!(flood["networkLogsDropped"], 9000);
    destination.await_quiet().await;
    stack.finish();
}

fn bound(name: &str, host: String, tls: bool, body: &mut Value) {
    let secret = json!({"value": "s3cret-of-the-host", "hosts": [host], "tls": tls});
    body["options"]["secrets"] = json!({name: secret, "PLAIN": "given-to-it"});
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_goes_to_its_host_and_never_into_the_sandbox() {
    let (stack, api) = Stack::serve(&configuration());
    let (own, other) = (destination().await, destination().await);
    let line = format!(
        "env | grep -c s3cret; for url in {} {}; do curl -s -u \"user:$TOKEN\" -H \"X-Key: $TOKEN\" $url; done; \
         echo \"${{TOKEN:0:13}}\"; curl -sp -H \"X-Key: $TOKEN\" {}",
        own.at("/own"),
        other.at("/other"),
        own.at("/tunnel"),
    );
    let mut body = shell(&line, &[], &[]);
    bound("TOKEN", own.address.to_string(), false, &mut body);
    let result = api.run(body.clone()).await;
    assert_eq!(result["stdout"], "0\n/own 0/other 0isol8-secret-\n/tunnel 0", "{result}");
    let basic = base64::engine::general_purpose::STANDARD.encode("user:s3cret-of-the-host");
    let heads = own.heads();
    assert!(heads.contains("X-Key: s3cret-of-the-host") && heads.contains(&basic), "{heads}");
    assert_eq!(heads.matches("X-Key: s3cret-of-the-host").count(), 2, "{heads}");
    let heads = other.heads();
    assert!(!heads.contains("s3cret") && heads.contains("X-Key: isol8-secret-"), "{heads}");

    // Node sends all it has by CONNECT.
    let fetch = format!(
        "const answer = await fetch('{}', {{headers: {{'X-Node': process.env.TOKEN}}}}); console.log(await answer.text());",
        own.at("/node")
    );
    let mut node = filtered(code("node", &fetch), &[], &[]);
    bound("TOKEN", own.address.to_string(), false, &mut node);
    assert_eq!(api.run(node).await["stdout"], "/node 0");
    assert!(own.heads().to_lowercase().contains("x-node: s3cret-of-the-host"));

    let refused = |change: fn(&mut Value), text: &'static str| {
        let mut body = body.clone();
        change(&mut body["options"]);
        Case::refused(text, body.to_string(), (400, "INVALID_REQUEST", text))
    };
    let cases = vec![
        refused(|it| it["network"] = json!("none"), "takes network \"filtered\""),
        refused(|it| it["secrets"]["TOKEN"]["hosts"] = json!([]), "is bound to no host"),
        refused(|it| it["secrets"]["TOKEN"]["hosts"] = json!(["127.1"]), "not a canonical address"),
        refused(|it| it["secrets"]["TOKEN"]["value"] = json!("a\nb"), "control characters"),
    ];
    run_cases(&api, cases).await.report();
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_speaks_tls_to_the_host_of_a_secret() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let certificate = directory.path().join("root.pem");
    let upstream =
        Upstream::start_tls(&certificate, |_| tests::upstream::Answer::ok("secure")).await;
    let trusted = certificate.to_str().expect("it is text").to_owned();
    let port = upstream.address.port();
    let line = format!(
        "export NO_PROXY= no_proxy=; curl -s -H \"Authorization: Bearer $TOKEN\" http://localhost:{port}/a"
    );
    let mut body = shell(&line, &[], &[]);
    bound("TOKEN", format!("localhost:{port}"), true, &mut body);
    let (stack, api) = Stack::serve_with(&configuration(), &[("SSL_CERT_FILE", &trusted)]);
    let result = api.run(body.clone()).await;
    assert_eq!(result["stdout"], "secure", "{result}");
    assert_eq!(upstream.seen()[0].header("authorization"), "Bearer s3cret-of-the-host");
    // A program that speaks TLS itself gets through, and nothing is put in.
    let line = line.replace("curl -s", "curl -sk").replace("http:", "https:");
    let mut own = shell(&line, &[], &[]);
    bound("TOKEN", format!("localhost:{port}"), true, &mut own);
    let result = api.run(own).await;
    assert_eq!(result["stdout"], "secure", "{result}");
    assert!(upstream.seen()[1].header("authorization").starts_with("Bearer isol8-secret-"));
    assert_eq!(logs(&result)[0].0, "CONNECT");
    stack.finish();

    // A host that cannot prove who it is gets nothing.
    let (stack, api) = Stack::serve(&configuration());
    let result = api.run(body).await;
    let told = result["stdout"].as_str().unwrap_or_default();
    let begin = format!("isol8: proxy error: connection to localhost:{port} failed: no TLS");
    assert!(told.starts_with(&begin) && told.contains("certificate"), "{result}");
    assert!(told.contains("\"tls\": false"), "{told}");
    assert_eq!(upstream.seen().len(), 2);
    stack.finish();
}

/// Fetches by the means that each runtime's programs use.
async fn fetches(api: &Api, runtime: &str, text: &str) -> Value {
    let mut body = filtered(code(runtime, text), &["^127\\.0\\.0\\.2$"], &[]);
    body["request"]["timeoutMs"] = json!(30_000);
    api.run(body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_runtime_goes_through_the_proxy_by_itself() {
    let (stack, api) = Stack::serve(&configuration());
    let destination = destination().await;
    let url = destination.at("/x");
    let script = format!("const answer = await fetch('{url}'); console.log(await answer.text());");
    for runtime in ["node", "bun", "deno"] {
        let result = fetches(&api, runtime, &script).await;
        assert_eq!(
            (&result["stdout"], &result["stderr"]),
            (&json!("/x 0"), &json!("")),
            "{runtime}"
        );
    }
    // A started interpreter goes the same way as a fresh one.
    let again = fetches(&api, "node", &script).await;
    assert_eq!((&again["stdout"], &again["stderr"]), (&json!("/x 0"), &json!("")));
    let script = format!("import urllib.request as u; print(u.urlopen('{url}').read().decode())");
    let result = fetches(&api, "python", &script).await;
    assert_eq!(result["stdout"], "/x 0", "{result}");
    let git = format!("git ls-remote {} 2>&1 | grep -o 'not valid.*'", destination.at("/r.git"));
    let result = api.run(shell(&git, &[], &[])).await;
    assert!(destination.heads().contains("GET /r.git/info/refs"), "{result}");
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_takes_its_tunnels_with_it() {
    let mut stack = Stack::fleet(&configuration());
    let api = stack.gateway();
    let worker = stack.worker();
    let destination = destination().await;
    let body = shell(&format!("curl -s {}", destination.at("/hang")), &[], &[]).to_string();
    let job = {
        let api = api.clone();
        #[expect(clippy::disallowed_methods, reason = "awaited below")]
        tokio::spawn(async move { api.post(body).await })
    };
    destination.await_open().await;
    stack.node(worker).kill();
    destination.await_quiet().await;
    job.abort();
    stack.worker();
    let result = api.run(shell(&format!("curl -s {}", destination.at("/x")), &[], &[])).await;
    assert_eq!(result["stdout"], "/x 0");
    stack.finish();
}
