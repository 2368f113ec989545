//! Tenants on a whole system: their keys, their sessions, their files, and what one of them can do to
//! another.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream;
use reqwest::{Body, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tests::api::KEY;
use tests::{Api, Stack, Upstream, code, command, docker, reflect};
use tokio::sync::Notify;

/// A large file, and how much Redis may grow by it.
const LARGE_BYTES: usize = 100 << 20;
const MAX_GROWTH_BYTES: u64 = 16 << 20;

/// A caller with a key of its own.
struct Tenant {
    address: String,
    key: String,
    http: reqwest::Client,
}

impl Tenant {
    async fn new(api: &Api, name: &str) -> Self {
        let body = json!({"name": name, "tenantId": name}).to_string();
        let master = format!("Bearer {KEY}");
        let made = api.send(Method::POST, "/auth/keys", Some(&master), body).await.expect("a key");
        assert_eq!(made.status, 201, "{}", made.text);
        let key = made.json()["key"].as_str().expect("a key is text").to_owned();
        let http = reqwest::Client::builder().no_proxy().build().expect("a client can be built");
        Self { address: api.address().to_owned(), key, http }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.address)).bearer_auth(&self.key)
    }

    async fn ask(&self, method: Method, path: &str) -> (StatusCode, Value) {
        let response = self.request(method, path).send().await.expect("there is an answer");
        let status = response.status();
        (status, response.json().await.expect("answers are JSON"))
    }

    async fn run(&self, session: Option<&str>, text: &str) -> Value {
        let mut body = code("python", text);
        if let Some(session) = session {
            body["sessionId"] = json!(session);
        }
        let request = self.request(Method::POST, "/execute").json(&body);
        let response = request.send().await.expect("there is an answer");
        let (status, result): (_, Value) =
            (response.status(), response.json().await.expect("results are JSON"));
        assert_eq!(status, 200, "{result}");
        assert_eq!(result["exitCode"], 0, "{result}");
        result
    }

    async fn put(&self, path: &str, bytes: Vec<u8>) -> (StatusCode, Value) {
        let path = format!("/v1/sessions/s/files?path={path}");
        let sent = self.request(Method::PUT, &path).body(bytes).send().await;
        let response = sent.expect("there is an answer");
        (response.status(), response.json().await.expect("answers are JSON"))
    }

    async fn get(&self, path: &str) -> (StatusCode, Vec<u8>) {
        let path = format!("/v1/sessions/s/files?path={path}");
        let response = self.request(Method::GET, &path).send().await.expect("there is an answer");
        let status = response.status();
        (status, response.bytes().await.expect("the answer comes to its end").to_vec())
    }

    async fn sessions(&self) -> usize {
        let (_, listed) = self.ask(Method::GET, "/sessions").await;
        listed["sessions"].as_array().expect("a list").len()
    }
}

fn serve() -> (Stack, Api) {
    Stack::serve(&json!({
        "auth": {"enabled": true},
        "worker": {"prewarm": ["python"]},
        "policy": {"maxDisk": "1g"},
    }))
}

/// A figure of Redis about its memory, in bytes.
fn memory(stack: &Stack, name: &str) -> u64 {
    let info: String = stack.queue().run(&["INFO", "memory"]).expect("redis answers");
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|bytes| bytes.trim().parse().ok()).expect("redis knows its memory")
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_session_go_in_and_out() {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    let (stack, api) = serve();
    let tenant = Tenant::new(&api, "acme").await;
    tenant.run(Some("s"), "import os").await;
    let all: Vec<u8> = (0..=255).collect();

    let body =
        json!({"sessionId": "s", "path": "/sandbox/all.bin", "content": STANDARD.encode(&all)});
    let written = tenant.request(Method::POST, "/file").json(&body).send().await;
    assert_eq!(written.expect("there is an answer").status(), 200);
    let seen =
        tenant.run(Some("s"), "print(list(open('all.bin', 'rb').read()) == list(range(256)))");
    assert_eq!(seen.await["stdout"], "True");
    let (status, read) = tenant.ask(Method::GET, "/file?sessionId=s&path=all.bin").await;
    assert_eq!((status, read), (StatusCode::OK, json!({"content": STANDARD.encode(&all)})));

    let (status, written) =
        tenant.put("/sandbox/deep/er/x.sh&mode=0755", b"echo hi".to_vec()).await;
    assert_eq!(status, 200, "{written}");
    assert_eq!(written, json!({"path": "/sandbox/deep/er/x.sh", "sizeBytes": 7}));
    let (status, listed) =
        tenant.ask(Method::GET, "/v1/sessions/s/files/list?path=/sandbox/deep/er").await;
    assert_eq!(status, 200, "{listed}");
    let entry = &listed["entries"][0];
    assert_eq!((&entry["name"], &entry["type"]), (&json!("x.sh"), &json!("file")));
    assert_eq!((&entry["sizeBytes"], &entry["mode"]), (&json!(7), &json!("0755")));
    assert_eq!(tenant.get("deep/er/x.sh").await, (StatusCode::OK, b"echo hi".to_vec()));

    for path in ["/v1/sessions/s/files?path=none", "/file?sessionId=s&path=none"] {
        let (status, error) = tenant.ask(Method::GET, path).await;
        assert_eq!((status.as_u16(), &error["code"]), (404, &json!("NOT_FOUND")), "{error}");
    }
    for path in ["/etc/motd", "/proc/1/mem", "../../root/x", "/sandbox/all.bin/x"] {
        let (status, error) = tenant.put(path, b"x".to_vec()).await;
        assert_eq!(status.as_u16(), 422, "{path}: {error}");
    }
    let (status, _) = tenant.ask(Method::DELETE, "/v1/sessions/s/files?path=deep").await;
    assert_eq!(status, 200);
    assert_eq!(tenant.get("deep/er/x.sh").await.0, 404);

    let (status, closed) = tenant.ask(Method::DELETE, "/session/s").await;
    assert_eq!((status.as_u16(), closed), (200, json!({"ok": true})));
    assert_eq!(tenant.get("all.bin").await.0, 404);
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_goes_both_ways_without_filling_redis() {
    let (stack, api) = serve();
    let tenant = Tenant::new(&api, "acme").await;
    let mut open = code("python", "import os");
    open["sessionId"] = json!("s");
    open["options"] = json!({"sandboxSize": "256m", "memoryLimit": "1g"});
    let opened = tenant.request(Method::POST, "/execute").json(&open).send().await;
    assert_eq!(opened.expect("there is an answer").status(), 200);

    let large: Vec<u8> =
        (0..LARGE_BYTES).map(|at| (at.wrapping_mul(31) >> 7).to_le_bytes()[0]).collect();
    let before = memory(&stack, "used_memory");
    let (status, written) = tenant.put("/sandbox/large", large.clone()).await;
    assert_eq!(status, 200, "{written}");
    assert_eq!(written["sizeBytes"], LARGE_BYTES);
    let size = tenant.run(Some("s"), "print(os.path.getsize('/sandbox/large'))").await;
    assert_eq!(size["stdout"], LARGE_BYTES.to_string());
    let (status, read) = tenant.get("/sandbox/large").await;
    assert_eq!(status, 200);
    assert!(read == large, "the file came back changed");
    let grown = memory(&stack, "used_memory_peak").saturating_sub(before);
    assert!(grown <= MAX_GROWTH_BYTES, "Redis grew by {grown} bytes");
    // A client that leaves half-way leaves nothing behind.
    let path = "/v1/sessions/s/files?path=/sandbox/large";
    let mut half = tenant.request(Method::GET, path).send().await.expect("there is an answer");
    half.chunk().await.expect("it begins");
    drop(half);
    assert_eq!(tenant.run(Some("s"), "print(1)").await["stdout"], "1");
    let (status, _) = tenant.ask(Method::DELETE, "/session/s").await;
    assert_eq!(status, 200);
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_touches_only_what_is_its_own() {
    let (stack, api) = serve();
    let (ours, theirs) = (Tenant::new(&api, "ours").await, Tenant::new(&api, "theirs").await);
    for (tenant, mark) in [(&ours, "ours"), (&theirs, "theirs")] {
        tenant.run(Some("s"), &format!("mark = '{mark}'")).await;
        // Leaves a warm sandbox of its own.
        tenant.run(None, "print(1)").await;
    }
    ours.put("secret", b"ours".to_vec()).await;
    assert_eq!(theirs.get("secret").await.0, 404, "the same name is another session");
    assert_eq!(theirs.run(Some("s"), "print(mark)").await["stdout"], "theirs");
    assert_eq!((ours.sessions().await, theirs.sessions().await), (1, 1));

    let (status, report) = theirs.ask(Method::POST, "/cleanup").await;
    assert_eq!(status, 200, "{report}");
    assert_eq!(report["sessions"], json!({"removed": 1, "failed": 0, "errors": []}));
    assert_eq!(report["containers"]["failed"], 0, "{report}");
    let mut removed = report["containers"]["removed"].as_u64().expect("a number");
    let started = Instant::now();
    // Its warm sandbox may still be at its reset.
    while removed == 0 {
        assert!(started.elapsed() < Duration::from_secs(60), "no sandbox was removed");
        tokio::time::sleep(Duration::from_millis(20)).await;
        let (_, report) = theirs.ask(Method::POST, "/cleanup").await;
        removed += report["containers"]["removed"].as_u64().expect("a number");
    }
    assert_eq!(removed, 1, "more than its own");
    assert_eq!(report["images"], json!({"removed": 0, "failed": 0, "errors": []}));
    assert_eq!((ours.sessions().await, theirs.sessions().await), (1, 0));
    assert_eq!(ours.run(Some("s"), "print(mark)").await["stdout"], "ours");
    assert_eq!(ours.get("secret").await, (StatusCode::OK, b"ours".to_vec()));

    let everybody = api.send(Method::POST, "/cleanup", Some(KEY), r#"{"images":false}"#).await;
    let report = everybody.expect("there is an answer").json();
    assert_eq!(report["sessions"]["removed"], 1, "{report}");
    assert!(report["images"].is_null(), "{report}");
    assert_eq!(ours.sessions().await, 0);
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_under_a_file_does_not_leave_its_caller_waiting() {
    let mut stack =
        Stack::fleet(&json!({"auth": {"enabled": true}, "worker": {"prewarm": ["python"]}}));
    let api = stack.gateway();
    let owner = stack.worker();
    let tenant = Tenant::new(&api, "acme").await;
    let opened = tenant.run(Some("s"), "import os").await;
    // Finds out that the other one is gone.
    let _survivor = stack.worker();

    // Some of a file, and then nothing for a long time.
    let is_under_way = Arc::new(Notify::new());
    let told = Arc::clone(&is_under_way);
    let endless = stream::unfold(0, move |count| {
        let told = Arc::clone(&told);
        async move {
            if count == 16 {
                told.notify_one();
                std::future::pending::<()>().await;
            }
            Some((Ok::<_, std::io::Error>(vec![0_u8; 1 << 20]), count + 1))
        }
    });
    let path = "/v1/sessions/s/files?path=/sandbox/half";
    let upload = tenant.request(Method::PUT, path).body(Body::wrap_stream(endless)).send();
    let kill = async {
        is_under_way.notified().await;
        stack.node(owner).kill();
    };
    let (answer, ()) = tokio::join!(upload, kill);
    let answer = answer.expect("there is an answer");
    assert_eq!(answer.status().as_u16(), 410);
    let error: Value = answer.json().await.expect("errors are JSON");
    assert_eq!(error["code"], "SESSION_LOST", "{error}");
    // Whoever was told may open it anew.
    let fresh = tenant.run(Some("s"), "import os; print(os.path.exists('/sandbox/half'))").await;
    assert_eq!(fresh["stdout"], "False");
    let (status, _) = tenant.ask(Method::DELETE, "/session/s").await;
    assert_eq!(status, 200);
    docker::await_gone(opened["containerId"].as_str().expect("it ran in a container"));
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_network_is_for_those_who_may_have_it() {
    let (stack, api) = Stack::serve(&json!({
        "auth": {"enabled": true},
        "worker": {"prewarm": ["bash"]},
        "policy": {"tenants": {"trusted": {"networks": ["none", "filtered", "host"]}}},
    }));
    let (trusted, other) = (Tenant::new(&api, "trusted").await, Tenant::new(&api, "other").await);
    let upstream = Upstream::start("127.0.0.1", reflect).await;
    let line = format!("curl -s --noproxy '*' {} || echo unreached", upstream.at("/x"));
    let asking = |options: Value, session: Option<&str>| {
        let mut body = command("bash", &line);
        body["options"] = options;
        body["sessionId"] = json!(session);
        body
    };
    let (host, none) = (json!({"network": "host"}), json!({"network": "none"}));
    for (body, stdout) in [
        (asking(host.clone(), None), "/x 0"),
        // Its warm sandbox is of the host's network, and not for this.
        (asking(none.clone(), None), "unreached"),
        (asking(json!({}), None), "unreached"),
        (asking(host.clone(), None), "/x 0"),
        (asking(host.clone(), Some("hosted")), "/x 0"),
        (asking(host.clone(), Some("hosted")), "/x 0"),
        (asking(none, Some("closed")), "unreached"),
        // A session keeps the network that it was opened with.
        (asking(host.clone(), Some("closed")), "unreached"),
    ] {
        let sent = trusted.request(Method::POST, "/execute").json(&body).send().await;
        let result: Value = sent.expect("there is an answer").json().await.expect("it is JSON");
        assert_eq!(result["stdout"], stdout, "{body}: {result}");
    }
    assert_eq!(upstream.seen().len(), 4);
    for path in ["/execute", "/execute/stream", "/v1/jobs"] {
        let sent = other.request(Method::POST, path).json(&asking(host.clone(), None)).send().await;
        let response = sent.expect("there is an answer");
        assert_eq!(response.status(), 400, "{path}");
        let error: Value = response.json().await.expect("errors are JSON");
        assert_eq!(error["code"], "POLICY_VIOLATION", "{error}");
        assert!(
            error["error"].as_str().is_some_and(|it| it.contains("(policy.networks)")),
            "{error}"
        );
    }
    // The master acting for another is held to what that one may have.
    let body = asking(host, None).to_string();
    let theirs = api.post_as("other", "/execute", body.clone()).await.expect("there is an answer");
    assert_eq!(theirs.status, 400, "{}", theirs.text);
    let ours = api.post_as("trusted", "/execute", body).await.expect("there is an answer");
    assert_eq!(ours.json()["stdout"], "/x 0", "{}", ours.text);
    for session in ["hosted", "closed"] {
        let (status, closed) = trusted.ask(Method::DELETE, &format!("/session/{session}")).await;
        assert_eq!(status, 200, "{closed}");
    }
    stack.finish();
}
