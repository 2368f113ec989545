//! Secrets while they wait, while they are used and afterwards: nowhere in the clear but in their sandbox,
//! and of those who hold them no memory is ever written to a disk.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};
use tests::api::KEY;
use tests::docker::docker;
use tests::node::{Node, START_TIMEOUT, STOP_TIMEOUT};
use tests::{Api, Findings, Stack, binary, command};
use tokio::time::sleep;

const SOON: Duration = Duration::from_secs(60);
/// Of another fleet.
const OTHER_KEY: &str = "YW5vdGhlciBrZXksIDMyIGJ5dGVzIGxvbmcuLi4uLi4=";
/// A user that owns nothing.
const NOBODY: u32 = 65_534;

async fn call(api: &Api, method: Method, path: &str, body: &Value) -> (u16, Value) {
    let authorization = format!("Bearer {KEY}");
    let reply = api.send(method, path, Some(&authorization), body.to_string()).await;
    let reply = reply.expect("there is an answer");
    (reply.status, reply.json())
}

async fn post(api: &Api, path: &str, body: &Value) -> Value {
    let (status, answer) = call(api, Method::POST, path, body).await;
    assert!((200..300).contains(&status), "{status}: {answer}");
    answer
}

/// Two canaries: a secret that is in a job's environment, and the key of a webhook.
struct Canaries {
    secret: String,
    signing: String,
}

impl Canaries {
    fn new() -> Self {
        let seed = format!("{:x}", fresh());
        Self { secret: format!("canary-{seed}"), signing: format!("c4n4rY{seed:0>26}") }
    }

    fn request(&self, line: &str) -> Value {
        let mut body = command("bash", line);
        body["options"] = json!({"secrets": {"TOKEN": self.secret}});
        body
    }

    fn listed(&self, line: &str, queue: &Value) -> Value {
        let mut body = self.request(line);
        body["queue"] = queue.clone();
        body["queue"]["webhook"] = json!({
            "url": "http://127.0.0.1:9/hook", "secret": format!("whsec_{}", self.signing)});
        body
    }

    /// Where one of them is that it must not be.
    fn sightings(&self, place: &str, bytes: &[u8]) -> Vec<String> {
        let is_in = |text: &String| bytes.windows(text.len()).any(|it| it == text.as_bytes());
        let seen = [&self.secret, &self.signing].into_iter().filter(|text| is_in(text));
        seen.map(|text| format!("{text} in {place}")).collect()
    }
}

/// Another number each time.
fn fresh() -> u128 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("it is later").as_nanos() ^ (u128::from(std::process::id()) << 80)
}

/// Everything Redis holds, and everything it has written to its disk.
fn of_redis(stack: &Stack) -> Vec<(String, Vec<u8>)> {
    let mut found = vec![("Redis".to_owned(), stack.queue().contents())];
    for file in fs::read_dir(stack.join("appendonlydir")).expect("it keeps a file") {
        let path = file.expect("it can be read").path();
        found.push((path.display().to_string(), fs::read(&path).expect("it can be read")));
    }
    found
}

/// What the machine shows to whoever asks.
fn of_machine() -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").expect("it is there").flatten() {
        let path = process.path().join("cmdline");
        found.extend(fs::read(&path).ok().map(|line| (path.display().to_string(), line)));
    }
    for container in docker(&["ps", "--all", "--quiet", "--no-trunc"]).lines() {
        // Those of other tests come and go.
        let facts = Command::new("docker").args(["inspect", container]).output();
        found.push((format!("docker inspect {container}"), facts.expect("docker starts").stdout));
    }
    found
}

/// Logs, audit and metrics of a fleet.
async fn of_members(stack: &mut Stack, api: &Api, members: usize) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for index in 0..members {
        let node = stack.node(index);
        found.push((format!("log of {}", node.name()), node.log().text().into_bytes()));
    }
    let audit = fs::read(stack.join("audit/executions.log")).unwrap_or_default();
    found.push(("audit".to_owned(), audit));
    let metrics = api.send(Method::GET, "/metrics", None, "").await.expect("there is an answer");
    found.push(("metrics".to_owned(), metrics.text.into_bytes()));
    found
}

async fn look(
    stack: &mut Stack,
    api: &Api,
    canaries: &Canaries,
    findings: &mut Findings,
    when: &str,
) {
    let mut places = of_redis(stack);
    places.extend(of_machine());
    places.extend(of_members(stack, api, 2).await);
    let seen: Vec<String> =
        places.iter().flat_map(|(place, bytes)| canaries.sightings(place, bytes)).collect();
    findings.check(when, seen.is_empty(), seen);
}

/// Payloads that Redis still holds, encrypted or not.
fn payloads(stack: &Stack) -> Vec<String> {
    let keys: Vec<String> = stack.queue().run(&["KEYS", "v1:{s0}:*"]).expect("redis answers");
    let holds = |key: &String| {
        let kind: String = stack.queue().run(&["TYPE", key]).expect("redis answers");
        kind == "hash"
            && ["payload", "base"].iter().any(|field| {
                stack.queue().run::<bool>(&["HEXISTS", key, field]).expect("redis answers")
            })
    };
    keys.into_iter().filter(holds).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_seen_by_its_program_alone_and_gone_with_its_job() {
    let config = json!({
        "debug": true,
        "audit": {"enabled": true, "logDir": "audit", "includeCode": true, "includeOutput": true},
        "webhooks": {"allowHttp": true, "allowPrivateAddresses": ["127.0.0.0/8"], "maxAttempts": 1},
    });
    let mut stack = Stack::fleet(&config);
    let api = stack.gateway();
    stack.worker();
    let (canaries, mut findings) = (Canaries::new(), Findings::default());

    // One of each that waits.
    let later = json!({"delayMs": 86_400_000, "retentionMs": 60_000});
    let delayed = post(&api, "/v1/jobs", &canaries.listed("true", &later)).await;
    let mut yearly = canaries.listed("echo ran", &json!({"retentionMs": 60_000}));
    yearly["cron"] = "0 0 1 1 *".into();
    let schedule = post(&api, "/v1/schedules", &yearly).await;
    let mut in_session = canaries.request("echo opened");
    in_session["sessionId"] = "s".into();
    findings.check("session", api.run(in_session).await["stdout"] == "opened", "it opens");

    // And some that run.
    let show = r#"sleep 2; echo "it is $TOKEN""#;
    let waiting = canaries.request(show);
    let (result, ()) = tokio::join!(api.run(waiting), async {
        one_runs(&stack).await;
        look(&mut stack, &api, &canaries, &mut findings, "while jobs wait and one runs").await;
    });
    // It has it, and its output is masked.
    let length = canaries.secret.len();
    let shown = result["stdout"].as_str().unwrap_or_default();
    findings.check(
        "masked",
        shown.starts_with("it is ") && !shown.contains(&canaries.secret),
        shown,
    );
    let counted = api.run(canaries.request("echo ${#TOKEN}")).await;
    findings.check("given", counted["stdout"] == length.to_string().as_str(), &counted["stdout"]);

    let mut call_it = canaries.request("sleep 2; echo ${#TOKEN}");
    call_it["sessionId"] = "s".into();
    let (result, ()) = tokio::join!(api.run(call_it), async {
        one_runs(&stack).await;
        look(&mut stack, &api, &canaries, &mut findings, "while a session's call runs").await;
    });
    findings.check("in a session", result["stdout"] == length.to_string().as_str(), result);

    let batch = json!({"items": [
        canaries.request("sleep 1; echo ${#TOKEN}"), canaries.request("echo ${#TOKEN}")]});
    let batch = post(&api, "/v1/batches", &batch).await;
    look(&mut stack, &api, &canaries, &mut findings, "while a batch runs").await;
    let id = schedule["id"].as_str().expect("it has an id");
    let ran = post(&api, &format!("/v1/schedules/{id}/run"), &json!({})).await;

    // Everything ends.
    let delayed = format!("/v1/jobs/{}", delayed["id"].as_str().expect("it has an id"));
    let (status, _) = call(&api, Method::DELETE, &delayed, &Value::Null).await;
    findings.check("cancelled", status == 200, status);
    let of_schedule = ran["jobId"].as_str().or_else(|| ran["id"].as_str()).expect("it has an id");
    ended(&api, &format!("/v1/jobs/{of_schedule}")).await;
    ended(&api, &format!("/v1/batches/{}", batch["id"].as_str().expect("it has an id"))).await;
    call(&api, Method::DELETE, &format!("/v1/schedules/{id}"), &Value::Null).await;
    call(&api, Method::DELETE, "/session/s", &Value::Null).await;
    look(&mut stack, &api, &canaries, &mut findings, "afterwards").await;
    let left = payloads(&stack);
    findings.check("ciphertexts are gone too", left.is_empty(), left);
    findings.report();
    stack.finish();
}

/// Waits until a job runs, and lets whoever has asked for it do so meanwhile.
async fn one_runs(stack: &Stack) {
    let begun = Instant::now();
    while stack.queue().running().is_empty() {
        assert!(begun.elapsed() < SOON, "no job runs");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Waits for the end of a job or a batch.
async fn ended(api: &Api, path: &str) {
    let begun = Instant::now();
    loop {
        let (_, state) = call(api, Method::GET, path, &Value::Null).await;
        if ["finished", "succeeded"].contains(&state["state"].as_str().unwrap_or_default()) {
            return;
        }
        assert!(begun.elapsed() < SOON, "{path} does not end: {state}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_with_another_key_fails_a_job_and_says_which_key_it_wants() {
    let mut stack = Stack::fleet(&json!({"worker": {"noOp": true, "prewarm": []}}));
    fs::write(stack.join("other.key"), OTHER_KEY).expect("the directory is writable");
    let other = stack.join("other.key").display().to_string();
    let api = stack.gateway();
    stack.worker_with(&[("ISOL8_REDIS__SECRETS_KEY_FILE", &other)]);
    let canaries = Canaries::new();
    let reply = api.post(canaries.request("true").to_string()).await.expect("there is an answer");
    let error = reply.json();
    assert_eq!((reply.status, &error["code"]), (500, &"SECRETS_UNREADABLE".into()), "{error}");
    let words = error["error"].as_str().expect("it has words");
    assert!(
        words.contains("encrypted with key ") && words.contains("redis.secretsKeyFile"),
        "{words}"
    );
    // Once, not over and over.
    assert_eq!(stack.node(1).log().find("cannot read a job").len(), 1);
    // One that has the key is all it takes.
    stack.worker();
    assert_eq!(
        api.post(canaries.request("true").to_string()).await.expect("an answer").status,
        200
    );
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_without_a_key_takes_no_secrets_and_says_so() {
    let mut stack = Stack::fleet(&json!({"worker": {"noOp": true, "prewarm": []}}));
    stack.unset("ISOL8_REDIS__SECRETS_KEY_FILE");
    let api = stack.gateway();
    stack.worker();
    let canaries = Canaries::new();
    let reply = api.post(canaries.request("true").to_string()).await.expect("there is an answer");
    let error = reply.json();
    assert_eq!((reply.status, &error["code"]), (400, &"NOT_SUPPORTED".into()), "{error}");
    assert!(error["error"].as_str().is_some_and(|it| it.contains("redis.secretsKeyFile")));
    assert_eq!(api.post(command("bash", "true").to_string()).await.expect("an answer").status, 200);
    assert_eq!(stack.node(0).log().find("requests with secrets are refused").len(), 1);
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_makes_a_key_of_its_own_and_keeps_it() {
    let config = json!({"worker": {"noOp": true, "prewarm": []}});
    let (mut stack, api) = Stack::serve(&config);
    let file = stack.join("data/secrets.key");
    let mode = fs::metadata(&file).expect("it is made").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let key = fs::read_to_string(&file).expect("it can be read");
    let canaries = Canaries::new();
    // Of a job that is there when the server comes back.
    let later = json!({"delayMs": 2_500, "retentionMs": 60_000});
    let mut body = canaries.request("true");
    body["queue"] = later;
    let job = post(&api, "/v1/jobs", &body).await;
    sleep(Duration::from_millis(1200)).await;
    stack.node(0).kill();
    let api = stack.serve_again();
    ended(&api, &format!("/v1/jobs/{}", job["id"].as_str().expect("it has an id"))).await;
    assert_eq!(fs::read_to_string(&file).expect("it can be read"), key);
    stack.finish();
}

/// A gateway of a user of no rights, in a directory of its own.
fn gateway_of_nobody(directory: &Path) -> Node {
    chown(directory, Some(NOBODY), Some(NOBODY)).expect("the tests run as root");
    let program = directory.join("isol8");
    fs::copy(binary::isol8(), &program).expect("it can be copied");
    let mut command = Command::new(program);
    let config = json!({"gateway": {"host": "127.0.0.1", "port": 0}}).to_string();
    fs::write(directory.join("isol8.config.json"), config).expect("the directory is writable");
    command.args(["gateway", "--redis", "redis://127.0.0.1:1"]);
    command.current_dir(directory).env("ISOL8_API_KEY", KEY).env("HOME", directory);
    command.uid(NOBODY).gid(NOBODY);
    Node::start("gateway", command)
}

#[tokio::test]
async fn nothing_is_left_of_the_memory_of_a_member_that_crashes() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    // The limit of whoever starts it is no help.
    let unlimited = nix::sys::resource::setrlimit(
        nix::sys::resource::Resource::RLIMIT_CORE,
        nix::sys::resource::RLIM_INFINITY,
        nix::sys::resource::RLIM_INFINITY,
    );
    unlimited.expect("the tests run as root");
    let mut gateway = gateway_of_nobody(directory.path());
    gateway.await_line("the queue is not there yet", START_TIMEOUT);
    let of = |file: &str| format!("/proc/{}/{file}", gateway.pid());
    let limits = fs::read_to_string(of("limits")).expect("it runs");
    let core = limits.lines().find(|line| line.starts_with("Max core file size"));
    assert!(
        core.is_some_and(|line| line.split_whitespace().filter(|it| *it == "0").count() == 2),
        "{core:?}"
    );
    // The kernel gives what is in a process that must not be dumped to root.
    for file in ["environ", "mem", "maps"] {
        assert_eq!(fs::metadata(of(file)).expect("it runs").uid(), 0, "{file}");
    }
    gateway.signal(Signal::SIGABRT);
    gateway.wait(STOP_TIMEOUT).expect("it crashes");
    let mut names: Vec<_> = fs::read_dir(directory.path())
        .expect("it is there")
        .map(|file| file.expect("it can be read").file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["isol8", "isol8.config.json"]);
}

#[tokio::test]
async fn a_gateway_without_a_key_listens_nowhere() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    for (arguments, environment) in [
        (&["gateway", "--redis", "redis://127.0.0.1:1"][..], ""),
        (&["gateway", "--redis", "redis://127.0.0.1:1", "--key", ""], ""),
        (&["gateway", "--redis", "redis://127.0.0.1:1", "--key", " "], ""),
        (&["serve", "--data-dir", "data"], " "),
    ] {
        let mut command = binary::command(directory.path());
        command.args(arguments).args(["--listen", "0.0.0.0", "--port", "39999"]);
        if !environment.is_empty() {
            command.env("ISOL8_API_KEY", environment);
        }
        let did = command.output().expect("it can be started");
        let said = String::from_utf8_lossy(&did.stderr);
        assert!(!did.status.success(), "{arguments:?}");
        assert!(said.contains("API key required"), "{arguments:?}: {said}");
        let listening = String::from_utf8_lossy(&did.stdout).contains("listening");
        assert!(!listening, "{arguments:?} listened first");
    }
    assert!(!directory.path().join("data").exists(), "nothing was started");
}
