//! The HTTP interface: who gets in, what is refused and how, and the shape of what comes back.

use reqwest::Method;
use serde_json::{Value, json};
use tests::api::KEY;
use tests::case::{equal, is_error};
use tests::{Case, Findings, Stack, code, command, run_cases};

/// Small, so that going over it is quick; large enough for everything else here.
const MAX_BODY_BYTES: usize = 64 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn routes_and_keys() {
    let (stack, api) = Stack::serve(&json!({"worker": {"prewarm": []}}));
    let mut findings = Findings::default();
    let key = format!("Bearer {KEY}");
    let lower = format!("bearer {KEY}");

    let missing = (401, "UNAUTHENTICATED", "Missing Authorization header");
    let wrong = (403, "FORBIDDEN", "Invalid API key");
    let unknown = (404, "NOT_FOUND", "Not Found");
    let method = (405, "METHOD_NOT_ALLOWED", "Method Not Allowed");
    for (verb, path, authorization, (status, word, text)) in [
        (Method::POST, "/execute", None, missing),
        (Method::POST, "/execute", Some(""), missing),
        (Method::POST, "/execute", Some("Bearer"), missing),
        (Method::POST, "/execute", Some("Bearer nope"), wrong),
        (Method::POST, "/execute", Some("nope"), wrong),
        (Method::GET, "/no/such/path", None, missing),
        (Method::GET, "/no/such/path", Some("Bearer nope"), wrong),
        (Method::GET, "/no/such/path", Some(key.as_str()), unknown),
        (Method::GET, "/health/", None, missing),
        (Method::GET, "/health/", Some(key.as_str()), unknown),
        (Method::GET, "/execute", Some(key.as_str()), method),
        (Method::DELETE, "/execute", None, missing),
        (Method::POST, "/health", None, method),
    ] {
        let reply = api.send(verb.clone(), path, authorization, "{}").await;
        let name = format!("{verb} {path} {authorization:?}");
        findings.note(&name, reply.and_then(|reply| is_error(&reply, status, word, text)));
    }

    // The prefix is optional and of any case.
    for authorization in [key.as_str(), lower.as_str(), KEY] {
        let body = command("bash", "echo in").to_string();
        let reply = api.send(Method::POST, "/execute", Some(authorization), body).await;
        let status = reply.and_then(|reply| equal("status", &reply.status, &200));
        findings.note(authorization, status);
    }

    let health = api.send(Method::GET, "/health", None, "").await.expect("an answer");
    let version = health.json()["version"].as_str().unwrap_or_default().to_owned();
    findings.note("health", equal("status", &health.status, &200));
    findings.note(
        "health",
        equal("body", &health.json(), &json!({"status": "ok", "version": version})),
    );
    let numbers: Vec<&str> = version.split('.').collect();
    let is_semantic = numbers.len() == 3 && numbers.iter().all(|part| part.parse::<u32>().is_ok());
    findings.check("the version has three numbers", is_semantic, &version);
    for path in ["/healthz", "/readyz", "/metrics"] {
        let reply = api.send(Method::GET, path, None, "").await;
        findings.note(path, reply.and_then(|reply| equal("status", &reply.status, &200)));
    }
    let head = api.send(Method::HEAD, "/health", None, "").await.expect("an answer");
    findings.check("HEAD /health", head.status == 200 && head.text.is_empty(), head);
    findings.report();
    stack.finish();
}

fn with_request(field: &str, value: Value) -> String {
    let mut body = code("python", "print(1)");
    body["request"][field] = value;
    body.to_string()
}

fn with_option(field: &str, value: Value) -> String {
    let mut body = code("python", "print(1)");
    body["options"] = json!({field: value});
    body.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_refused_with_reasons() {
    let (stack, api) = Stack::serve(&json!({
        "worker": {"prewarm": []}, "gateway": {"maxBodyBytes": MAX_BODY_BYTES},
    }));
    let invalid = |text: &'static str| (400, "INVALID_REQUEST", text);
    let policy = |text: &'static str| (400, "POLICY_VIOLATION", text);
    let exclusive = invalid("mutually exclusive");
    let none_given = invalid("exactly one of");
    let workdir = invalid("Working directory must be inside /sandbox");
    let not_json = (400, "INVALID_JSON", "not valid JSON");
    let rows = vec![
        ("not JSON", "{nope".to_owned(), not_json),
        ("empty body", String::new(), not_json),
        ("no request", "{}".to_owned(), invalid("request")),
        ("an array", "[]".to_owned(), invalid("")),
        ("request is a word", r#"{"request":"x"}"#.to_owned(), invalid("request")),
        ("a number for code", with_request("code", json!(7)), invalid("request.code")),
        ("a word for timeoutMs", with_request("timeoutMs", json!("1s")), invalid("timeoutMs")),
        ("code and cmd", with_request("cmd", json!("ls")), exclusive),
        ("code and codeUrl", with_request("codeUrl", json!("https://x/y")), exclusive),
        ("no source", json!({"request": {"runtime": "python"}}).to_string(), none_given),
        ("blank code", with_request("code", json!(" \n\t")), none_given),
        (
            "unknown runtime",
            code("cobol", "x").to_string(),
            invalid("Unknown runtime: \"cobol\". Available: python, node, bun, bash, deno"),
        ),
        ("climbing workdir", with_request("workdir", json!("../etc")), workdir),
        ("absolute workdir", with_request("workdir", json!("/etc")), workdir),
        ("sibling workdir", with_request("workdir", json!("/sandboxed")), workdir),
        (
            "no size",
            with_option("memoryLimit", json!("lots")),
            invalid("Invalid memory limit format: \"lots\""),
        ),
        ("negative size", with_option("sandboxSize", json!("-1m")), invalid("-1m")),
        ("tiny memory", with_option("memoryLimit", json!("1k")), invalid("memoryLimit")),
        ("huge memory", with_option("memoryLimit", json!("900g")), policy("memoryLimit")),
        ("no cores", with_option("cpuLimit", json!(0)), invalid("cpuLimit")),
        ("many cores", with_option("cpuLimit", json!(4000)), policy("cpuLimit")),
        ("no processes", with_option("pidsLimit", json!(0)), invalid("pidsLimit")),
        ("many processes", with_option("pidsLimit", json!(1_000_000)), policy("pidsLimit")),
        ("no time", with_request("timeoutMs", json!(0)), invalid("timeoutMs")),
        ("all the time", with_request("timeoutMs", json!(1_u64 << 40)), policy("timeoutMs")),
        ("the host's network", with_option("network", json!("host")), policy("network")),
        ("an odd network", with_option("network", json!("bridge")), invalid("options.network")),
        ("a flag as image", with_option("image", json!("--privileged")), invalid("image")),
        ("files outside", with_request("files", json!({"/etc/x": "y"})), invalid("/etc/x")),
        ("files climbing", with_request("files", json!({"../x": "y"})), invalid("../x")),
        ("an odd extension", with_request("fileExtension", json!("./x")), invalid("fileExtension")),
        ("an odd variable", with_request("env", json!({"A=B": "x"})), invalid("A=B")),
        (
            "body too large",
            code("bash", &"#".repeat(MAX_BODY_BYTES)).to_string(),
            (413, "PAYLOAD_TOO_LARGE", "maxBodyBytes"),
        ),
        (
            "image not there",
            with_option("image", json!("isol8:no-such-image")),
            (400, "IMAGE_NOT_FOUND", "isol8:no-such-image"),
        ),
    ];
    let cases = rows.into_iter().map(|(name, body, expected)| Case::refused(name, body, expected));
    let findings = run_cases(&api, cases).await;
    // And none of it has hurt the server.
    assert_eq!(api.run(command("bash", "echo fine")).await["stdout"], "fine");
    findings.report();
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn results_have_the_agreed_shape() {
    let (stack, api) = Stack::serve(&json!({}));
    let mut findings = Findings::default();
    let mut body = command("bash", r"printf 'out \n\t\n'; printf 'err\n\n' >&2; sleep 0.3; exit 3");
    // What isol8's own client always sends, and what nobody knows.
    body["options"] = json!({"mode": "ephemeral", "debug": false, "persist": false, "audit": {},
        "remoteCode": {"enabled": false}, "networkFilter": {"whitelist": [], "blacklist": []},
        "somethingNew": [1]});
    body["request"]["metadata"] = json!({"userId": "u"});
    let reply = api.post(body.to_string()).await.expect("an answer");
    let result = reply.json();
    findings.note("status", equal("status", &reply.status, &200));
    findings.note("type", equal("type", &reply.header("content-type"), &"application/json"));
    findings.check("request id header", !reply.header("x-request-id").is_empty(), &reply.headers);

    let order = [
        "stdout",
        "stderr",
        "exitCode",
        "durationMs",
        "truncated",
        "executionId",
        "runtime",
        "timestamp",
        "containerId",
        "resourceUsage",
        "outcome",
        "timings",
    ];
    let places: Vec<_> = order.iter().map(|key| reply.text.find(&format!("\"{key}\":"))).collect();
    findings.check(
        "keys are there, in order",
        places.iter().all(Option::is_some) && places.is_sorted(),
        &reply.text,
    );
    findings.note("no files", equal("files", &result["files"], &Value::Null));
    findings.note("white space at the end", equal("stdout", &result["stdout"], &"out"));
    findings.note("white space at the end", equal("stderr", &result["stderr"], &"err"));
    findings.note("exit code", equal("exitCode", &result["exitCode"], &3));
    findings.note("not cut", equal("truncated", &result["truncated"], &false));
    findings.note("echo", equal("runtime", &result["runtime"], &"bash"));
    findings.note("ending", equal("outcome", &result["outcome"], &"exited"));
    let duration_ms = result["durationMs"].as_u64().unwrap_or_default();
    findings.check("duration", (250..60_000).contains(&duration_ms), duration_ms);
    let id = result["executionId"].as_str().unwrap_or_default();
    findings.check("a UUID", has_shape(id, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"), id);
    let container = result["containerId"].as_str().unwrap_or_default();
    findings.check("a container", has_shape(container, &"x".repeat(64)), container);
    let timestamp = result["timestamp"].as_str().unwrap_or_default();
    findings.check("ISO 8601", has_shape(timestamp, "0000-00-00T00:00:00.000Z"), timestamp);
    let usage = &result["resourceUsage"];
    for field in ["cpuPercent", "memoryMB", "networkBytesIn", "networkBytesOut"] {
        findings.check(field, usage[field].is_number(), usage);
    }

    body["request"]["outputPaths"] = json!(["/sandbox/none"]);
    let result = api.run(body).await;
    findings.note("files asked for, none there", equal("files", &result["files"], &json!({})));
    findings.report();
    stack.finish();
}

/// Whether `text` looks like `shape`: `0` stands for a digit, `x` for a hexadecimal one.
fn has_shape(text: &str, shape: &str) -> bool {
    text.len() == shape.len()
        && text.chars().zip(shape.chars()).all(|(found, wanted)| match wanted {
            '0' => found.is_ascii_digit(),
            'x' => found.is_ascii_digit() || ('a'..='f').contains(&found),
            other => found == other,
        })
}
