//! Files of sessions: small and large, in JSON and plain, cut short on either side.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use reqwest::{Body, Method, Response};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::harness::{Answer, Harness, SOON, send};

/// Far more than fits into a call, or into Redis at once.
const LARGE: usize = 12 << 20;

struct Files {
    harness: Harness,
    key: String,
}

impl Files {
    /// A session `one` of a tenant with small limits.
    async fn start() -> Self {
        let mut harness = Harness::without_worker(|config| {
            config.auth.enabled = true;
            config.policy.max_file_bytes = 16 << 20;
            config.gateway.max_transfers = 1;
        })
        .await;
        harness.add_keeper().await;
        let key = harness.key_of("acme").await;
        let body = json!({"request": {"runtime": "bash", "code": "print hi"}, "sessionId": "one"});
        let opened = send(harness.request_of(&key, Method::POST, "/execute").json(&body)).await;
        assert_eq!(opened.status, 200, "{opened:?}");
        Self { harness, key }
    }

    async fn call(&self, method: Method, path: &str) -> Answer {
        send(self.harness.request_of(&self.key, method, path)).await
    }

    async fn post(&self, body: &Value) -> Answer {
        send(self.harness.request_of(&self.key, Method::POST, "/file").json(body)).await
    }

    async fn put(&self, name: &str, body: impl Into<Body>) -> Answer {
        let path = format!("/v1/sessions/one/files?path={name}");
        send(self.harness.request_of(&self.key, Method::PUT, &path).body(body)).await
    }

    async fn get(&self, name: &str) -> Response {
        let path = format!("/v1/sessions/one/files?path={name}");
        self.harness.request_of(&self.key, Method::GET, &path).send().await.unwrap()
    }

    /// Waits until the session answers again and no part of a file lies in Redis.
    async fn nothing_is_left(&self) {
        let path = "/v1/sessions/one/files/list";
        assert_eq!(self.call(Method::GET, path).await.status, 200);
        let started = Instant::now();
        // A last word to the other side may stay until it expires; bytes may not.
        while self.harness.redis.memory_bytes() > 4 << 20 {
            assert!(started.elapsed() < SOON, "bytes are left in Redis");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(31) >> 3).to_le_bytes()[0]).collect()
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[tokio::test]
async fn a_file_in_json_comes_back_as_it_was() {
    let files = Files::start().await;
    let all: Vec<u8> = (0..=255).collect();
    for (name, content) in [("/sandbox/all", &all[..]), ("empty", b""), ("large", &bytes(LARGE))] {
        let content = base64(content);
        let body = json!({"sessionId": "one", "path": name, "content": content});
        let written = files.post(&body).await;
        assert_eq!((written.status, written.json()), (200, json!({"ok": true})), "{name}");
        let read = files.call(Method::GET, &format!("/file?sessionId=one&path={name}")).await;
        assert_eq!((read.status, read.header("content-type")), (200, "application/json"));
        assert!(read.json() == json!({"content": content}), "{name} came back otherwise");
    }
    let unpadded = json!({"sessionId": "one", "path": "x", "content": "aGk"});
    assert_eq!(files.post(&unpadded).await.status, 200);
    let read = files.call(Method::GET, "/file?sessionId=one&path=x").await;
    assert_eq!(read.json(), json!({"content": "aGk="}));
    files.nothing_is_left().await;
}

#[tokio::test]
async fn isol8s_answers_to_what_is_missing() {
    let files = Files::start().await;
    for query in ["", "?sessionId=one", "?path=a", "?sessionId=&path=a", "?sessionId=one&path="] {
        let answer = files.call(Method::GET, &format!("/file{query}")).await;
        assert_eq!(answer.error(400, "INVALID_REQUEST"), "Missing sessionId or path", "{query}");
    }
    for (body, status, code, words) in [
        (json!({"path": "a", "content": ""}), 404, "SESSION_NOT_FOUND", "Session not found"),
        (
            json!({"sessionId": "none", "path": "a", "content": ""}),
            404,
            "SESSION_NOT_FOUND",
            "Session not found",
        ),
        (
            json!({"sessionId": "one", "content": ""}),
            400,
            "INVALID_REQUEST",
            "Missing sessionId or path",
        ),
        (json!({"sessionId": "one", "path": "a"}), 400, "INVALID_REQUEST", "Missing content"),
    ] {
        assert_eq!(files.post(&body).await.error(status, code), words, "{body}");
    }
    // As Node reads it.
    for content in ["+/+/", "-_-_", " +/\n+/\r\n", "-/ +_"] {
        let body = json!({"sessionId": "one", "path": "a", "content": content});
        assert_eq!(files.post(&body).await.status, 200, "{content:?}");
        let read = files.call(Method::GET, "/file?sessionId=one&path=a").await;
        assert_eq!(read.json(), json!({"content": "+/+/"}), "{content:?}");
    }
    let bad = json!({"sessionId": "one", "path": "a", "content": "not base64!"});
    let message = files.post(&bad).await.error(400, "INVALID_REQUEST");
    assert!(message.starts_with("content is not valid base64"), "{message}");
    let nul = json!({"sessionId": "one", "path": "a\u{0}b", "content": ""});
    files.post(&nul).await.error(400, "INVALID_REQUEST");

    let unknown = files.call(Method::GET, "/file?sessionId=none&path=a").await;
    assert_eq!(unknown.error(404, "SESSION_NOT_FOUND"), "Session not found");
    let missing = files.call(Method::GET, "/file?sessionId=one&path=nothing").await;
    assert_eq!(missing.error(404, "NOT_FOUND"), "nothing: No such file or directory");
}

#[tokio::test]
async fn plain_bytes_go_in_and_out() {
    let files = Files::start().await;
    for length in [0, 1, 256, 40 << 10, (40 << 10) + 1, 1 << 20, (1 << 20) + 1, LARGE] {
        let content = bytes(length);
        let name = format!("/sandbox/{length}");
        let written = files.put(&name, content.clone()).await;
        assert_eq!(written.json(), json!({"path": name, "sizeBytes": length}));
        let read = files.get(&name).await;
        assert_eq!(read.status(), 200);
        assert_eq!(read.headers()["content-type"], "application/octet-stream");
        assert!(read.bytes().await.unwrap() == content, "{length} bytes came back otherwise");
    }
    // Without a length in the head.
    let pieces = stream::iter((0..50).map(|_| Ok::<_, std::io::Error>(Bytes::from(bytes(999)))));
    let written = files.put("streamed", Body::wrap_stream(pieces)).await;
    assert_eq!(written.json()["sizeBytes"], 50 * 999);
    let read = files.get("streamed").await.bytes().await.unwrap();
    assert!(read == bytes(999).repeat(50));
    files.nothing_is_left().await;
}

#[tokio::test]
async fn directories_are_listed_and_files_removed() {
    let files = Files::start().await;
    files.put("/sandbox/b", "22").await;
    files.put("/sandbox/a", "1").await;
    let listed = files.call(Method::GET, "/v1/sessions/one/files/list").await.json();
    let modified = "1970-01-01T00:00:00.000Z";
    let entry = |name: &str, size: u64| json!({"name": name, "type": "file", "sizeBytes": size, "mode": "0644", "modifiedAt": modified});
    let expected =
        json!({"path": "/sandbox", "entries": [entry("a", 1), entry("b", 2)], "truncated": false});
    assert_eq!(listed, expected);
    let path = "/v1/sessions/one/files?path=/sandbox/a";
    let removed = files.call(Method::DELETE, path).await;
    assert_eq!((removed.status, removed.json()), (200, json!({"ok": true})));
    files.call(Method::DELETE, path).await.error(404, "NOT_FOUND");
    let elsewhere = files.call(Method::GET, "/v1/sessions/one/files/list?path=/tmp").await;
    assert_eq!(elsewhere.json()["entries"], json!([]));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let files = Files::start().await;
    for (method, path) in [
        (Method::GET, "/v1/sessions/one/files"),
        (Method::GET, "/v1/sessions/one/files?path="),
        (Method::PUT, "/v1/sessions/one/files?path=a&mode=999"),
        (Method::PUT, "/v1/sessions/one/files?path=a&mode=4755"),
        (Method::GET, "/v1/sessions/one/files?path=a%00b"),
        (Method::GET, "/v1/sessions/one/files?path=a&path=b"),
    ] {
        files.call(method, path).await.error(400, "INVALID_REQUEST");
    }
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        let answer = files.call(method, "/v1/sessions/none/files?path=a").await;
        assert_eq!(answer.error(404, "SESSION_NOT_FOUND"), "Session not found");
    }
    files.call(Method::POST, "/v1/sessions/one/files").await.error(405, "METHOD_NOT_ALLOWED");
}

#[tokio::test]
async fn too_large_a_file_is_refused_both_ways() {
    let files = Files::start().await;
    let limit = 16 << 20;
    let announced = files.put("a", bytes(limit + 1)).await;
    announced.error(413, "PAYLOAD_TOO_LARGE");
    let endless =
        stream::iter((0..40).map(|_| Ok::<_, std::io::Error>(Bytes::from(bytes(1 << 20)))));
    let streamed = files.put("a", Body::wrap_stream(endless)).await;
    assert!(streamed.error(413, "PAYLOAD_TOO_LARGE").contains("policy.maxFileBytes"));
    let body = json!({"sessionId": "one", "path": "a", "content": base64(&bytes(limit + 1))});
    files.post(&body).await.error(413, "PAYLOAD_TOO_LARGE");
    let missing = files.call(Method::GET, "/file?sessionId=one&path=a").await;
    missing.error(404, "NOT_FOUND");
    files.nothing_is_left().await;
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_transfer_with_it() {
    let files = Files::start().await;
    // Half an upload.
    let half = stream::iter((0..4).map(|_| Ok(Bytes::from(bytes(1 << 20)))));
    let cut = futures_util::StreamExt::chain(
        half,
        stream::once(async {
            sleep(Duration::from_millis(300)).await;
            Err(std::io::Error::other("cut"))
        }),
    );
    let path = "/v1/sessions/one/files?path=half";
    let request = files.harness.request_of(&files.key, Method::PUT, path);
    assert!(request.body(Body::wrap_stream(cut)).send().await.is_err());
    files.nothing_is_left().await;
    assert_eq!(files.get("half").await.status(), 404);

    // Half a download.
    assert_eq!(files.put("whole", bytes(LARGE)).await.status, 200);
    let mut download = files.get("whole").await;
    download.chunk().await.unwrap().unwrap();
    drop(download);
    files.nothing_is_left().await;
    // The one slot there is was given back.
    let started = Instant::now();
    let mut again = files.get("whole").await;
    while again.status() == 429 {
        assert!(started.elapsed() < SOON, "the slot is not given back");
        again = files.get("whole").await;
    }
    assert!(again.bytes().await.unwrap() == bytes(LARGE));
}

#[tokio::test]
async fn transfers_beyond_the_limit_are_told_to_come_back() {
    let files = Files::start().await;
    assert_eq!(files.put("whole", bytes(LARGE)).await.status, 200);
    let mut slow = files.get("whole").await;
    assert_eq!(slow.status(), 200);
    slow.chunk().await.unwrap().unwrap();
    let refused = files.put("other", bytes(LARGE)).await;
    assert!(refused.error(429, "QUEUE_FULL").contains("gateway.maxTransfers"));
    assert_eq!(refused.header("retry-after"), "1");
    let mut rest = 0;
    while let Some(piece) = slow.chunk().await.unwrap() {
        rest += piece.len();
    }
    assert!(rest > 0, "nothing was left to take");
    let started = Instant::now();
    while files.put("other", bytes(LARGE)).await.status != 200 {
        assert!(started.elapsed() < SOON, "it is told so for ever");
    }
}

#[tokio::test]
async fn a_worker_that_fails_half_way_does_not_look_like_the_end() {
    let mut files = Files::start().await;
    assert_eq!(files.put("whole", bytes(LARGE)).await.status, 200);
    let mut download = files.get("whole").await;
    let first = download.chunk().await.unwrap().unwrap();
    files.harness.drop_workers().await;
    let mut taken = first.len();
    let ended = loop {
        match download.chunk().await {
            Ok(Some(piece)) => taken += piece.len(),
            Ok(None) => break "well",
            Err(_) => break "cut short",
        }
    };
    assert!(ended == "cut short" || taken == LARGE, "{taken} bytes, ended {ended}");
}

#[tokio::test]
async fn another_tenant_finds_no_such_session() {
    let files = Files::start().await;
    files.put("secret", "ours").await;
    let theirs = Files { key: files.harness.key_of("theirs").await, ..files };
    for (method, path) in [
        (Method::GET, "/file?sessionId=one&path=secret"),
        (Method::GET, "/v1/sessions/one/files?path=secret"),
        (Method::PUT, "/v1/sessions/one/files?path=secret"),
        (Method::DELETE, "/v1/sessions/one/files?path=secret"),
        (Method::GET, "/v1/sessions/one/files/list"),
    ] {
        let answer = theirs.call(method, path).await;
        assert_eq!(answer.error(404, "SESSION_NOT_FOUND"), "Session not found", "{path}");
    }
    let write = json!({"sessionId": "one", "path": "secret", "content": ""});
    theirs.post(&write).await.error(404, "SESSION_NOT_FOUND");
    let path = "/v1/sessions/one/files?path=secret";
    let act = theirs.harness.request(Method::GET, path).header("x-isol8-tenant", "acme");
    assert_eq!(send(act).await.text, "ours");
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_not_done() {
    let files = Files::start().await;
    assert_eq!(files.put("kept", "here").await.status, 200);
    let body = json!({"request": {"runtime": "bash", "code": "sleep 4000"}, "sessionId": "one"});
    let busy = files.harness.request_of(&files.key, Method::POST, "/execute").json(&body);
    let impatient = async {
        let started = Instant::now();
        while files.call(Method::GET, "/sessions").await.json()["sessions"][0]["isActive"] != true {
            assert!(started.elapsed() < SOON, "the session is never busy");
        }
        let path = "/v1/sessions/one/files?path=kept";
        let request = files.harness.request_of(&files.key, Method::DELETE, path);
        request.timeout(Duration::from_millis(200)).send().await
    };
    let (ran, removed) = tokio::join!(send(busy), impatient);
    assert_eq!(ran.stdout(), "slept");
    assert!(removed.unwrap_err().is_timeout());
    assert_eq!(files.get("kept").await.text().await.unwrap(), "here");
}
