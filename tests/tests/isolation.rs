//! Isolation by request: gVisor does what a container does, a job that wants it goes to a worker that has it, and
//! nothing is ever run with less.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tests::api::KEY;
use tests::case::{equal, is_error};
use tests::isolation::await_gvisor;
use tests::{Api, Case, Findings, Stack, Upstream, binary, code, command, reflect, run_cases};

/// Generous: under gVisor whatever starts, starts slowly.
const LIMIT: Duration = Duration::from_secs(2);

fn in_gvisor(mut body: Value) -> Value {
    body["options"]["isolation"] = json!("gvisor");
    body
}

fn gvisor(name: &str, body: &Value) -> Case {
    Case::new(name, &in_gvisor(body.clone()))
        .result(|result| equal("isolation", &result["isolation"], &"gvisor"))
}

#[tokio::test(flavor = "multi_thread")]
async fn gvisor_does_what_a_container_does() {
    let (stack, api) = Stack::serve(&json!({
        "maxConcurrent": 1,
        "defaults": {"isolation": "gvisor"},
        "policy": {"allowPrivateAddresses": ["127.0.0.0/8"]},
        "worker": {"prewarm": ["python"], "maxContainers": 3},
    }));
    let here = std::fs::read_to_string("/proc/version").expect("Linux tells its version");
    let there = api.run(command("bash", "cat /proc/version")).await;
    assert_ne!(there["stdout"], here.as_str(), "a kernel of its own");
    let destination = Upstream::start("127.0.0.2", reflect).await;
    let mut limited = command("bash", "sleep 60");
    limited["request"]["timeoutMs"] =
        json!(u64::try_from(LIMIT.as_millis()).expect("a short time"));
    let mut hog = code("python", "kept = []\nwhile True: kept.append(bytearray(8 << 20))");
    hog["options"] = json!({"memoryLimit": "64m"});
    let mut filtered = command("bash", &format!("curl -s {}", destination.at("/x")));
    filtered["options"] = json!({"network": "filtered"});
    let mut files = command("bash", "cat in > out; wc -c < in");
    files["request"]["files"] = json!({"in": "x".repeat(100_000)});
    files["request"]["outputPaths"] = json!(["/sandbox/out"]);
    let threads = "import threading\nt = threading.Thread(target=print, args=('thread',)); t.start(); t.join()";
    let bomb = "import os, time\nn = 0\ntry:\n  while True:\n    if os.fork() == 0: time.sleep(60)\n    n += 1\nexcept OSError: print(20 < n <= 64)";
    let cases = [
        gvisor("python", &code("python", "print('hello')")).prints("hello").quietly(),
        gvisor("node", &code("node", "console.log('hello')")).prints("hello").quietly(),
        gvisor("bun", &code("bun", "console.log('hello')")).prints("hello").quietly(),
        gvisor("deno", &code("deno", "console.log('hello')")).prints("hello").quietly(),
        gvisor("bash", &command("bash", "echo hello")).prints("hello").quietly(),
        gvisor("threads", &code("python", threads)).prints("thread"),
        gvisor(
            "a kernel that filters calls, too",
            &command("bash", "grep ^Seccomp: /proc/self/status"),
        )
        .prints("Seccomp:\t2"),
        gvisor("files in and out", &files).prints("100000").result(|result| {
            let length = result["files"]["/sandbox/out"].as_str().map(str::len);
            equal("length as base64", &length, &Some(133_336))
        }),
        gvisor("filtered network", &filtered).prints("/x 0"),
        gvisor("timeout", &limited).times_out(LIMIT),
        gvisor("memory", &hog).outcome("out_of_memory").fails(),
        gvisor("processes", &code("python", bomb)).prints("True"),
        gvisor("a flood of output", &command("bash", "head -c 50000000 /dev/zero"))
            .result(|result| equal("truncated", &result["truncated"], &true)),
        gvisor("well afterwards", &code("python", "print('fine')")).prints("fine").quietly(),
    ];
    let mut findings = run_cases(&api, cases).await;
    used_again(&api, &mut findings).await;
    session(&api, &mut findings).await;
    findings.report();
    stack.finish();
}

/// A sandbox under gVisor, too, is proven clean and used again, though that takes it a while.
async fn used_again(api: &Api, findings: &mut Findings) {
    let program = "import os\nprint(os.listdir('/sandbox'))\nopen('/sandbox/left', 'w').write('x')";
    let mut seen = Vec::new();
    for number in 0..30 {
        let result = api.run(code("python", program)).await;
        let name = format!("clean {number}");
        findings.note(&name, equal("stdout", &result["stdout"], &"['main.py']"));
        let container = result["containerId"].clone();
        if seen.contains(&container) {
            return;
        }
        seen.push(container);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    findings.check("used again", false, &seen);
}

async fn session(api: &Api, findings: &mut Findings) {
    let call = |text: &str, isolation: Option<&str>| {
        let mut body = code("python", text);
        body["sessionId"] = json!("s");
        if let Some(isolation) = isolation {
            body["options"] = json!({"isolation": isolation});
        }
        body
    };
    api.run(call("x = 41", Some("gvisor"))).await;
    let later = api.run(call("print(x + 1)", None)).await;
    findings.note("variables live on", equal("stdout", &later["stdout"], &"42"));
    findings.note("its kind", equal("isolation", &later["isolation"], &"gvisor"));
    let key = format!("Bearer {KEY}");
    let closed = api.send(Method::DELETE, "/session/s", Some(&key), "").await;
    findings.note("closed", closed.and_then(|it| equal("status", &it.status, &200)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_does_not_have_is_refused_and_never_run_with_less() {
    let (stack, api) = Stack::serve(&json!({
        "defaults": {"isolation": "container"}, "worker": {"runtimes": {"gvisor": "none"}},
    }));
    for kind in ["gvisor", "kata"] {
        let mut body = command("bash", "echo hello");
        body["options"] = json!({"isolation": kind});
        let refused = api.post(body.to_string()).await.expect("there is an answer");
        is_error(&refused, 503, "NO_WORKER", &format!("isolation \"{kind}\"")).expect("refused");
    }
    let mut unknown = command("bash", "echo hello");
    unknown["options"] = json!({"isolation": "none"});
    let refused = api.post(unknown.to_string()).await.expect("there is an answer");
    is_error(&refused, 400, "INVALID_REQUEST", "options.isolation").expect("refused");
    assert_eq!(api.run(command("bash", "echo hello")).await["stdout"], "hello");
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_go_to_the_worker_that_has_what_they_want() {
    let mut stack = Stack::fleet(&json!({
        "defaults": {"isolation": "container"}, "worker": {"prewarm": []},
    }));
    let api = stack.gateway();
    let without = stack.worker_with(&[("ISOL8_WORKER__RUNTIMES__GVISOR", "none")]);
    let refused = api.post(in_gvisor(command("bash", "echo x")).to_string()).await;
    let refused = refused.expect("there is an answer");
    is_error(&refused, 503, "NO_WORKER", "isolation \"gvisor\"").expect("nobody has it yet");
    let with = stack.worker();
    let has_it = stack.worker_id(with);
    await_gvisor(&api);
    let mut findings = Findings::default();
    for number in 0..4 {
        let result = api.run(in_gvisor(command("bash", "echo x"))).await;
        let id = result["executionId"].as_str().unwrap_or_default().to_owned();
        let ran = stack.queue().job_field(&id, "worker");
        findings.note(
            &format!("job {number}"),
            equal("worker", &ran.as_deref(), &Some(has_it.as_str())),
        );
        findings.note("isolation", equal("isolation", &result["isolation"], &"gvisor"));
    }
    assert_ne!(has_it, stack.worker_id(without));
    findings.report();
    stack.finish();
}

#[test]
fn a_program_on_this_machine_gets_what_it_asks_for_or_does_not_run() {
    let here = tempfile::tempdir().expect("a directory can be made");
    let run = |runtime: &str| {
        let mut isol8 = binary::command(here.path());
        isol8.args(["run", "--isolation", "gvisor", "--no-stream", "-e", "print(6*7)"]);
        isol8.env("ISOL8_WORKER__RUNTIMES__GVISOR", runtime).output().expect("isol8 can be started")
    };
    let ran = run("runsc");
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "42\n", "{ran:?}");
    let refused = run("none");
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && refused.stdout.is_empty(), "{words}");
    assert!(words.contains("isolation \"gvisor\" is not to be had here"), "{words}");
}
