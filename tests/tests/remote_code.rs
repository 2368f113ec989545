//! Code by URL, from a request to a program that runs, through gateway, queue and worker, and in a
//! run of this machine's own.

use std::net::Ipv4Addr;

use reqwest::Method;
use serde_json::{Value, json};
use tests::api::KEY;
use tests::case::equal;
use tests::dns::{NameServer, Record};
use tests::upstream::{Answer, Request, Upstream};
use tests::{Case, Stack, binary, run_cases};

/// What a test server has: programs, a way from TLS to a plain connection, and nothing else.
fn site(request: &Request) -> Answer {
    match request.line.as_str() {
        "GET /hello.py" => Answer::ok("print('hello from', __file__)"),
        "GET /hello.cjs" => Answer::ok("console.log(typeof require, __filename)"),
        "GET /set.py" => Answer::ok("x = 41"),
        "GET /get.py" => Answer::ok("print(x + 1)"),
        "GET /moved.py" => Answer::status("302 Found").with("Location", "/hello.py"),
        "GET /away.py" => Answer::status("302 Found").with("Location", "http://localhost:1/x.py"),
        _ => Answer::status("404 Not Found"),
    }
}

fn configuration() -> Value {
    json!({
        "remoteCode": {
            "enabled": true,
            "allowedSchemes": ["https", "http"],
            "blockedHosts": ["^blocked\\."],
        },
        "policy": {"allowPrivateAddresses": ["127.0.0.0/8"]},
        "audit": {"enabled": true, "logDir": "audit"},
    })
}

fn by_url(runtime: &str, url: &str, more: Value) -> Value {
    let mut request = json!({"runtime": runtime, "codeUrl": url});
    for (name, value) in more.as_object().cloned().unwrap_or_default() {
        request[name] = value;
    }
    json!({"request": request})
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_come_from_their_address_and_nowhere_else() {
    let certificates = tempfile::tempdir().expect("a directory can be made");
    let trusted = certificates.path().join("trusted.pem");
    let secure = Upstream::start_tls(&trusted, site).await;
    let strange = Upstream::start_tls(&certificates.path().join("strange.pem"), site).await;
    let plain = Upstream::start("127.0.0.1", site).await;
    let trusted = trusted.to_str().expect("a plain path");
    let (stack, api) = Stack::serve_with(&configuration(), &[("SSL_CERT_FILE", trusted)]);

    let https = |path: &str| secure.url("https", "localhost", path);
    let http = |path: &str| plain.url("http", "127.0.0.1", path);
    let insecure = || json!({"allowInsecureCodeUrl": true});
    let policy = "POLICY_VIOLATION";
    let failed = "CODE_FETCH_FAILED";
    let refused = |name: &str, body: Value, (status, code, words)| {
        Case::refused(name, body.to_string(), (status, code, words))
    };
    // sha256sum of the text of /hello.py.
    let hash = "a45a46682442e6858d98e87061c717038b738d2ac59805e39d015e8ea5bc9d0e";
    let mut findings = run_cases(
        &api,
        vec![
            Case::new("over TLS", &by_url("python", &https("/hello.py"), json!({})))
                .prints("hello from /sandbox/main.py"),
            Case::new(
                "redirected",
                &by_url("python", &https("/moved.py"), json!({"codeHash": hash})),
            )
            .prints("hello from /sandbox/main.py"),
            Case::new("plain", &by_url("node", &http("/hello.cjs"), insecure()))
                .prints("function /sandbox/main.cjs"),
            refused(
                "plain, unasked",
                by_url("python", &http("/hello.py"), json!({})),
                (400, policy, "Insecure code URL blocked"),
            ),
            refused(
                "from TLS to plain",
                by_url("python", &https("/away.py"), json!({})),
                (400, policy, "Insecure code URL blocked"),
            ),
            refused(
                "another hash",
                by_url("python", &https("/hello.py"), json!({"codeHash": "0".repeat(64)})),
                (422, "CODE_HASH_MISMATCH", "Remote code hash mismatch"),
            ),
            refused(
                "a blocked host",
                by_url("python", "https://blocked.example/x", json!({})),
                (400, policy, "Blocked code URL host: blocked.example"),
            ),
            refused(
                "the metadata service",
                by_url("python", "http://169.254.169.254/latest", insecure()),
                (400, policy, "it leads to a metadata address"),
            ),
            refused(
                "not there",
                by_url("python", &https("/nothing.py"), json!({})),
                (422, failed, "Failed to fetch remote code: HTTP 404"),
            ),
            refused(
                "a stranger",
                by_url("python", &strange.url("https", "localhost", "/hello.py"), json!({})),
                (422, failed, "certificate"),
            ),
        ],
    )
    .await;

    // A session takes its programs from there too, and a client's own policy counts for nothing.
    for (path, stdout) in [("/set.py", ""), ("/get.py", "42")] {
        let mut body = by_url("python", &https(path), json!({}));
        body["sessionId"] = json!("s");
        body["options"] = json!({"remoteCode": {"enabled": false}});
        let result = api.run(body).await;
        findings.note(path, equal("stdout", &result["stdout"], &stdout));
        let took = result["timings"]["fetchMs"].as_f64();
        findings.note(path, equal("fetchMs > 0", &took.is_some_and(|took| took > 0.0), &true));
    }
    let once = secure.seen().iter().filter(|request| request.line == "GET /hello.py").count();
    // Once as it is, once as the target of a redirect, once for each hash.
    findings.note("cache", equal("fetches of /hello.py", &once, &3));

    let audit = std::fs::read_to_string(stack.join("audit/executions.log")).unwrap_or_default();
    let first = audit.lines().next().and_then(|line| serde_json::from_str::<Value>(line).ok());
    findings.note("audit", equal("codeHash", &first.unwrap_or_default()["codeHash"], &hash));
    findings.note("audit", equal("code", &audit.contains("hello from"), &false));
    let key = format!("Bearer {KEY}");
    let closed = api.send(Method::DELETE, "/session/s", Some(&key), "").await;
    findings.note("session", closed);
    findings.report();
    stack.finish();
}

/// The hosts that GitHub gives files and gists out from, as a stand-in has them.
fn github(request: &Request) -> Answer {
    match (request.header("host"), request.path()) {
        ("raw.githubusercontent.com", "/me/it/main/src/hello.py") => {
            Answer::ok("print('hello from', __file__)")
        }
        ("gist.githubusercontent.com", "/0af1/raw/run.sh") => Answer::ok("echo gist"),
        _ => Answer::status("404 Not Found"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_repositories_and_gists_run_by_their_short_names() {
    let here = tempfile::tempdir().expect("a directory can be made");
    let trusted = here.path().join("trusted.pem");
    // The names lead to this machine: to an address of this process's own, at the port that such names have.
    let process = std::process::id();
    let address = Ipv4Addr::from(0x7f40_0000 | (process & 0x003f_ffff));
    let hosts = ["raw.githubusercontent.com", "gist.githubusercontent.com"];
    let at = (address.to_string(), 443);
    let host = Upstream::start_tls_as(&hosts, (&at.0, at.1), &trusted, github).await;
    let names =
        NameServer::start(move |name, _| hosts.contains(&name).then(|| vec![Record::A(address)]))
            .await;
    let config = json!({
        "remoteCode": {"enabled": true},
        "policy": {"allowPrivateAddresses": [format!("{address}/32")]},
        "worker": {"resolvers": [names.address.to_string()]},
    });
    std::fs::write(here.path().join("isol8.config.json"), config.to_string())
        .expect("the directory is writable");
    let run = |arguments: &[&str]| {
        let mut command = binary::command(here.path());
        command.env("SSL_CERT_FILE", &trusted).arg("run").args(arguments);
        let output = command.output().expect("it runs");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    // sha256sum of the text of hello.py.
    let hash = "a45a46682442e6858d98e87061c717038b738d2ac59805e39d015e8ea5bc9d0e";
    let file = ["--github", "me/it/main/src/hello.py"];
    for (arguments, said) in [
        (&[&file[..], &["--hash", hash]].concat()[..], "hello from /sandbox/main.py\n"),
        (&["--gist", "0af1/run.sh"], "gist\n"),
    ] {
        let (code, stdout, stderr) = run(arguments);
        assert_eq!((code, stdout.as_str()), (Some(0), said), "{stderr}");
    }
    for (arguments, said) in [
        (&[&file[..], &["--hash", &"0".repeat(64)]].concat()[..], "Remote code hash mismatch"),
        (&["--github", "me/it/main/no.py"], "Failed to fetch remote code: HTTP 404"),
    ] {
        let (code, _, stderr) = run(arguments);
        assert!(code == Some(1) && stderr.contains(said), "{stderr}");
    }
    drop(host);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_run_fetches_by_its_own_configuration() {
    let plain = Upstream::start("127.0.0.1", site).await;
    let here = tempfile::tempdir().expect("a directory can be made");
    let url = plain.url("http", "127.0.0.1", "/hello.py");
    let run = |more: &[&str]| {
        let mut command = binary::command(here.path());
        let output = command.args(["run", "--url", &url]).args(more).output().expect("it runs");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let insecure = ["--allow-insecure-code-url"];
    let (code, _, stderr) = run(&insecure);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("[ERR] Remote code fetching is disabled"), "{stderr}");
    std::fs::write(here.path().join("isol8.config.json"), configuration().to_string())
        .expect("the directory is writable");
    let (code, _, stderr) = run(&[]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("[ERR] Insecure code URL blocked"), "{stderr}");
    let (code, stdout, stderr) = run(&insecure);
    assert_eq!((code, stdout.as_str()), (Some(0), "hello from /sandbox/main.py\n"), "{stderr}");
    let (code, _, stderr) = run(&["--allow-insecure-code-url", "--hash", &"0".repeat(64)]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("[ERR] Remote code hash mismatch"), "{stderr}");
}
