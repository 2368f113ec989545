//! The proxy of the filtered network by itself: what it reads, what it refuses in words, and how much of
//! each it bears.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tests::api::KEY;
use tests::upstream::Answer;
use tests::{Stack, Upstream, code, command, reflect};

/// This machine stands for the world.
fn configuration() -> Value {
    json!({
        "policy": {"allowPrivateAddresses": ["127.0.0.0/8"]},
        "worker": {"prewarm": ["bash", "python"]},
    })
}

fn filtered(mut body: Value, destination: &Upstream) -> Value {
    body["request"]["env"] = json!({"DESTINATION": destination.address.to_string()});
    body["request"]["timeoutMs"] = json!(60_000);
    body["options"] = json!({"network": "filtered", "logNetwork": true});
    body
}

/// Sends each request to the proxy as it stands and prints the status it is answered with, and what is
/// said, if that is not in the words of the proxy. HTTP/2 is one more that it cannot read.
const RAW: &str = r#"
import os, socket
here = os.environ["DESTINATION"]
def many(count, size): return "".join(f"X-{i}: {'a' * size}\r\n" for i in range(count))
def status(request):
    s = socket.create_connection(("127.0.0.1", 8118)); s.settimeout(30)
    s.sendall(request.replace("HERE", here).encode("latin-1"))
    answer = b""
    try:
        while b"\r\n\r\n" not in answer: answer += s.recv(999)
        head, body = answer.split(b"\r\n\r\n", 1)
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        while len(body) < length: body += s.recv(999)
        if not head.startswith(b"HTTP/1.1 4"): return head[9:12].decode()
        # Refused, it is told why, and the connection is over.
        assert s.recv(1) == b"" and len(body) == length, body
        assert body.startswith(b"isol8: ") and b"content-type: text/plain\r\n" in head, answer
        return head[9:12].decode()
    except ConnectionResetError: return "cut"
for request in [
    "GET http://HERE/ HTTP/1.1\r\nHost: evil.test\r\n\r\n",
    "GET http://HERE/ HTTP/1.1\r\nConnection: close, upgrade\r\nUpgrade: other\r\n\r\n",
    "GET http://HERE/ HTTP/1.1\r\n" + many(1000, 40) + "\r\n",
    "GET http://HERE/ HTTP/1.1\r\n" + many(4, 16000) + "\r\n",
    "GET / HTTP/1.1\r\nHost: HERE\r\n\r\n",
    "GET https://HERE/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET http://user:pass@HERE/ HTTP/1.1\r\n\r\n",
    "GET http://2130706433/ HTTP/1.1\r\n\r\n",
    "GET http://127.1/ HTTP/1.1\r\n\r\n",
    "GET http://0x7f.0.0.1/ HTTP/1.1\r\n\r\n",
    "GET http://[fe80::1%25eth0]/ HTTP/1.1\r\n\r\n",
    "CONNECT 127.0.0.2:0 HTTP/1.1\r\n\r\n",
    "CONNECT 017700000001:80 HTTP/1.1\r\n\r\n",
    "CONNECT [::1%lo]:80 HTTP/1.1\r\n\r\n",
    "CONNECT a@HERE HTTP/1.1\r\n\r\n",
    "CONNECT / HTTP/1.1\r\n\r\n",
    "GET http://HERE/\r\nX: y HTTP/1.1\r\n\r\n",
    "GET http://HERE/ HTTP/1.1\r\nX: a\x00b\r\n\r\n",
    "GET http://HERE/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + "\r\n\r\n",
    "GET http://HERE/ HTTP/1.1\r\nX: " + "a" * 70000 + "\r\n\r\n",
    "GET http://HERE/ HTTP/1.1\r\n" + many(1025, 1) + "\r\n",
]: print(status(request), end=" ", flush=True)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_could_be_read_in_two_ways_are_refused_in_words() {
    let (stack, api) = Stack::serve(&configuration());
    let destination = Upstream::start("127.0.0.2", reflect).await;
    let result = api.run(filtered(code("python", RAW), &destination)).await;
    let expected = format!("200 200 200 200 {}431 431", "400 ".repeat(17));
    assert_eq!(result["stdout"], expected.as_str(), "{}", result["stderr"]);
    // The one that got through went where its URI says, whatever its own header said.
    let heads = destination.heads();
    assert!(
        heads.contains(&destination.address.to_string()) && !heads.contains("evil.test"),
        "{heads}"
    );
    // None of a thousand headers was lost on the way.
    assert!(heads.to_lowercase().contains("\r\nx-999: aaaa"), "{heads}");
    stack.finish();
}

/// A connection that was of use before is answered in words too; what a host says is passed on, empty or
/// not, and never taken for the proxy's own.
const ONE_AFTER_THE_OTHER: &str = r#"
import os, socket
here = os.environ["DESTINATION"].encode()
s = socket.create_connection(("127.0.0.1", 8118)); s.settimeout(30)
def read():
    answer = b""
    while b"\r\n\r\n" not in answer: answer += s.recv(1)
    head, _ = answer.split(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    body = b""
    while len(body) < length: body += s.recv(1)
    return head[9:12].decode(), body.decode()
for path in [b"empty", b"x", b"empty"]:
    s.sendall(b"GET http://" + here + b"/" + path + b" HTTP/1.1\r\n\r\n")
    print(*read())
s.sendall(b"\0\r\n\r\n")
print(*read())
"#;

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_answers_is_its_own_and_what_is_no_request_is_told_so() {
    let (stack, api) = Stack::serve(&configuration());
    let destination = Upstream::start("127.0.0.2", |request| match request.path() {
        "/empty" => Answer::status("400 Bad Request"),
        "/headers" => {
            let headers: String = (0..900).map(|number| format!("X-{number}: a\r\n")).collect();
            Answer::Whole(format!("200 OK\r\n{headers}"), b"many".to_vec())
        }
        path => Answer::ok(path),
    })
    .await;
    let result = api.run(filtered(code("python", ONE_AFTER_THE_OTHER), &destination)).await;
    let expected =
        "400 \n200 /x\n400 \n400 isol8: this is no HTTP/1.1 request that a proxy can read";
    assert_eq!(result["stdout"], expected, "{}", result["stderr"]);
    let line = format!("curl -s {}", destination.at("/headers"));
    let result = api.run(filtered(command("bash", &line), &destination)).await;
    assert_eq!(result["stdout"], "many", "{result}");
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_beyond_the_bytes_of_a_job_is_refused_and_told() {
    let mut config = configuration();
    config["policy"]["maxNetworkBytes"] = json!(1000);
    let (stack, api) = Stack::serve(&config);
    let destination = Upstream::start("127.0.0.2", |_| Answer::ok(vec![b'a'; 2000])).await;
    let url = destination.at("/x");
    let line = format!(
        "curl -s -o /dev/null {url}; curl -s -w ' %{{http_code}}' {url}; curl -sp -o /dev/null -w ' %{{http_connect}}' {url}; true"
    );
    let result = api.run(filtered(command("bash", &line), &destination)).await;
    let expected = "isol8: the job has moved its 1000 bytes over the network 403 403";
    assert_eq!(result["stdout"], expected, "{result}");
    let logs = result["networkLogs"].as_array().cloned().unwrap_or_default();
    let logs: Vec<_> = logs.iter().map(|log| (&log["method"], &log["action"])).collect();
    let (get, connect) = (json!("GET"), json!("CONNECT"));
    let (allow, block) = (json!("ALLOW"), json!("BLOCK"));
    assert_eq!(logs, [(&get, &allow), (&get, &block), (&connect, &block)], "{result}");
    // Each call of a session has the limit anew.
    for number in 0..2 {
        let line = format!("curl -s -o /tmp/{number} {url}; head -c 6 /tmp/{number}");
        let mut call = filtered(command("bash", &line), &destination);
        call["sessionId"] = json!("s");
        let result = api.run(call).await;
        assert_eq!(result["stdout"], "aaaaaa", "call {number}: {result}");
    }
    let key = format!("Bearer {KEY}");
    let closed = api.send(Method::DELETE, "/session/s", Some(&key), "").await;
    assert_eq!(closed.expect("there is an answer").status, 200);
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_on_after_the_last_call_of_a_session_is_audited_too() {
    let mut config = configuration();
    config["network"] = json!({"blacklist": ["^127\\.6\\."]});
    config["audit"] = json!({"enabled": true, "logDir": "audit"});
    let (stack, api) = Stack::serve(&config);
    let line = "(until [ -e go ]; do sleep 0.02; done; curl -s http://127.6.0.1/late; touch done) >/dev/null 2>&1 &";
    let mut call = command("bash", line);
    call["options"] = json!({"network": "filtered"});
    call["request"]["metadata"] = json!({"userId": "somebody"});
    call["sessionId"] = json!("s");
    let ran = api.run(call).await;
    let key = format!("Bearer {KEY}");
    let send = async |method: Method, path: &str, body: &str| {
        let reply = api.send(method, path, Some(&key), body.to_owned()).await;
        reply.expect("there is an answer").status
    };
    // The call has ended; only now the program that it left behind goes on.
    let go = json!({"sessionId": "s", "path": "go", "content": ""}).to_string();
    assert_eq!(send(Method::POST, "/file", &go).await, 200);
    let deadline = Instant::now() + Duration::from_secs(60);
    while send(Method::GET, "/file?sessionId=s&path=done", "").await != 200 {
        assert!(Instant::now() < deadline, "it never went on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(send(Method::DELETE, "/session/s", "").await, 200);

    // Written in the background.
    let entries = loop {
        let audit = std::fs::read_to_string(stack.join("audit/executions.log")).unwrap_or_default();
        let entries: Vec<Value> =
            audit.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        if entries.len() >= 2 {
            break entries;
        }
        assert!(Instant::now() < deadline, "{audit}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(entries[0].get("securityEvents"), None, "{entries:?}");
    let last = &entries[1];
    assert_eq!(last["outcome"], "session_ended");
    assert_eq!((&last["executionId"], &last["sessionId"]), (&ran["executionId"], &json!("s")));
    assert_eq!(last["userId"], "somebody");
    assert_eq!(last["securityEvents"][0]["type"], "network_blocked");
    assert_eq!(last["securityEvents"][0]["details"]["host"], "127.6.0.1");
    assert_eq!(entries.len(), 2, "{entries:?}");
    stack.finish();
}
