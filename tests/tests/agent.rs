//! The coding agent, end to end: a prompt, a model that is a small server of ours, a file that comes
//! back. The agent reaches its model through the filtered network, as it would a real one.

use std::io::Write as _;
use std::process::{Command, Stdio};

use base64::Engine as _;
use serde_json::{Value, json};
use tests::case::equal;
use tests::upstream::{Answer, Request, Upstream};
use tests::{Case, Findings, Stack, run_cases};

const KEY_OF_MODEL: &str = "key-of-the-model-4711";

/// As the agent, git and gh keep credentials of their user.
const WRITES_CREDENTIALS: &str = "mkdir -p .pi/agent .config/gh kept/.pi/agent
for file in .pi/agent/auth.json .config/gh/hosts.yml .git-credentials .netrc kept/.pi/agent/auth.json
do echo secret > $file; done";

/// Answers as an OpenAI-style model does, in pieces: first with a call of one of the agent's tools, and once
/// it is told the result, with a text.
fn model(tool: &str, arguments: &Value, request: &Request) -> Answer {
    if request.line != "POST /v1/chat/completions" {
        return Answer::status("404 Not Found");
    }
    let body: Value = serde_json::from_str(&request.body).unwrap_or_default();
    let has_written = messages(&body).iter().any(|message| message["role"] == "tool");
    let call = json!({
        "index": 0, "id": "call_1", "type": "function",
        "function": {"name": tool, "arguments": arguments.to_string()},
    });
    let (delta, reason) = if has_written {
        (json!({"role": "assistant", "content": "It is written."}), "stop")
    } else {
        (json!({"role": "assistant", "tool_calls": [call]}), "tool_calls")
    };
    let chunk = |delta: Value, reason: Value| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": reason});
        let chunk = json!({
            "id": "chat_1", "object": "chat.completion.chunk", "created": 1, "model": "scripted",
            "choices": [choice],
        });
        format!("data: {chunk}\n\n")
    };
    let text = [chunk(delta, Value::Null), chunk(json!({}), json!(reason))].concat();
    Answer::ok(text + "data: [DONE]\n\n").with("Content-Type", "text/event-stream")
}

fn messages(body: &Value) -> &[Value] {
    body["messages"].as_array().map_or(&[], Vec::as_slice)
}

/// Where the agent finds the model.
fn settings(upstream: &Upstream) -> Value {
    // Loopback, but not an address that programs reach without their proxy.
    let url = upstream.url("http", "127.0.0.2", "/v1");
    json!({"providers": {"stand-in": {
        "baseUrl": url, "api": "openai-completions", "apiKey": "MODEL_KEY",
        "models": [{"id": "scripted"}],
    }}})
}

/// What a caller sends: the prompt, where the model is, and the key to it as a secret.
fn envelope(upstream: &Upstream) -> Value {
    let models = settings(upstream);
    json!({
        "request": {
            "runtime": "agent",
            "code": "- write the file",
            "agentFlags": "--provider stand-in --model 'scripted'",
            "files": {"/sandbox/.pi/agent/models.json": models.to_string(), "/sandbox/old.txt": "old"},
            "setupScript": WRITES_CREDENTIALS,
            "outputPaths": ["/sandbox/made.txt", "/sandbox/", "/sandbox/.pi/", "/sandbox/none/"],
            "timeoutMs": 60_000,
        },
        "options": {
            "network": "filtered",
            "networkFilter": {"whitelist": ["^127\\.0\\.0\\.2$"], "blacklist": []},
            "pidsLimit": 200,
            "secrets": {"MODEL_KEY": KEY_OF_MODEL},
        },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_becomes_a_file_by_way_of_a_model() {
    let arguments = json!({"path": "made.txt", "content": "made by the agent\n"});
    let upstream =
        Upstream::start("127.0.0.2", move |request| model("write", &arguments, request)).await;
    let (stack, api) = Stack::serve(&json!({
        "worker": {"prewarm": []},
        "policy": {"allowPrivateAddresses": ["127.0.0.0/8"]},
    }));
    let result = api.run(envelope(&upstream)).await;
    let mut findings = Findings::default();
    findings.note("run", equal("exitCode", &result["exitCode"], &0));
    findings.note("run", equal("stdout", &result["stdout"], &"It is written."));
    let made = result["files"]["/sandbox/made.txt"].as_str().unwrap_or_default();
    findings.note("file", equal("made.txt", &text_of(made).as_str(), &"made by the agent\n"));
    let listed = names_in(result["files"]["/sandbox/"].as_str().unwrap_or_default());
    // A project's own file of such a name is no credential of the sandbox's.
    for name in ["./made.txt", "./old.txt", "./kept/.pi/agent/auth.json", "./.pi/agent/models.json"]
    {
        findings.check(name, listed.iter().any(|found| found == name), &listed);
    }
    for name in
        ["./.pi/agent/auth.json", "./.config/gh/hosts.yml", "./.git-credentials", "./.netrc"]
    {
        findings.check(name, listed.iter().all(|found| found != name), &listed);
    }
    let listed = names_in(result["files"]["/sandbox/.pi/"].as_str().unwrap_or_default());
    let is_left_out = listed.iter().all(|found| found != "./agent/auth.json");
    let has_models = listed.iter().any(|found| found == "./agent/models.json");
    findings.check("of its own directory", is_left_out && has_models, &listed);
    findings.check(
        "no such directory",
        result["files"]["/sandbox/none/"].is_null(),
        &result["files"],
    );

    let seen = upstream.seen();
    findings.note("model", equal("requests", &seen.len(), &2));
    for request in &seen {
        let authorization = request.header("authorization");
        let expected = format!("Bearer {KEY_OF_MODEL}");
        findings.note("model", equal("key", &authorization, &expected.as_str()));
        let body: Value = serde_json::from_str(&request.body).unwrap_or_default();
        let texts = messages(&body).iter().map(Value::to_string).collect::<String>();
        for words in ["- write the file", "inside an isol8 sandbox"] {
            findings.check(words, texts.contains(words), &texts);
        }
    }

    // What is on board, for commands; and what may not be asked.
    let command = |line: &str| {
        let mut body = envelope(&upstream);
        body["request"] = json!({"runtime": "agent", "cmd": line});
        body
    };
    let mut sealed = envelope(&upstream);
    sealed["options"]["network"] = json!("none");
    let mut open = envelope(&upstream);
    open["options"]["networkFilter"] = json!({"whitelist": [], "blacklist": []});
    let refused = |name: &str, body: &Value, words| {
        Case::refused(name, body.to_string(), (400, "INVALID_REQUEST", words))
    };
    let versions = "pi --version && for tool in git gh node npm bash; do command -v $tool; done";
    let others = run_cases(
        &api,
        [
            Case::new("tools", &command(versions)).exits(0),
            refused("no network", &sealed, "Agent runtime requires network access"),
            refused(
                "no list",
                &open,
                "Agent runtime requires at least one network whitelist entry",
            ),
        ],
    )
    .await;
    others.report();
    findings.report();
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_agent_has_changed_comes_back_as_files_and_as_a_patch() {
    let work = "echo more >> src/kept.txt; echo new > made.txt; rm src/gone.txt; \
                git add --all; git diff --cached > changes.patch";
    let arguments = json!({"command": work});
    let upstream =
        Upstream::start("127.0.0.2", move |request| model("bash", &arguments, request)).await;
    let here = tempfile::tempdir().expect("a directory can be made");
    let write = |name: &str, text: &str| {
        let path = here.path().join(name);
        std::fs::create_dir_all(path.parent().expect("it has one")).expect("a directory");
        std::fs::write(path, text).expect("a file can be written");
    };
    write("isol8.config.json", r#"{"policy": {"allowPrivateAddresses": ["127.0.0.0/8"]}}"#);
    write("project/src/kept.txt", "first\n");
    write("project/src/gone.txt", "old\n");
    write("project/other.txt", "as it was\n");
    write("project/.pi/agent/models.json", &settings(&upstream).to_string());
    let commit = "git init --quiet && echo .pi >> .git/info/exclude && git add --all && \
                  git -c user.name=me -c user.email=me@here commit --quiet --message sent";
    let mut command = tests::binary::command(here.path());
    command.args(["run", "-r", "agent", "-e", "mend it", "--setup", commit, "--timeout", "60000"]);
    command.args(["--files", "project", "--out-dir", "project"]);
    command.args(["--net", "filtered", "--allow", "^127\\.0\\.0\\.2$"]);
    command.args(["--agent-flags", "--provider stand-in --model scripted"]);
    command.args(["--secret", &format!("MODEL_KEY={KEY_OF_MODEL}")]);
    let ran = tokio::task::block_in_place(|| command.output()).expect("it can be started");
    let mut findings = Findings::default();
    let told =
        String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
    findings.check("run", ran.status.success() && told.contains("It is written."), &told);
    let read = |name: &str| {
        std::fs::read_to_string(here.path().join("project").join(name)).unwrap_or_default()
    };
    for (name, text) in
        [("src/kept.txt", "first\nmore\n"), ("made.txt", "new\n"), ("other.txt", "as it was\n")]
    {
        findings.note(name, equal("content", &read(name).as_str(), &text));
    }
    // What is only on this side stays, and what git keeps for itself does not come.
    findings.note("gone.txt", equal("content", &read("src/gone.txt").as_str(), &"old\n"));
    findings.check("no .git", !here.path().join("project/.git").exists(), &told);
    // The patch says all of it, and nothing of ours.
    let patch = read("changes.patch");
    let names: Vec<_> = patch.lines().filter_map(|line| line.strip_prefix("diff --git ")).collect();
    let expected =
        ["a/made.txt b/made.txt", "a/src/gone.txt b/src/gone.txt", "a/src/kept.txt b/src/kept.txt"];
    findings.check("patch", names == expected && patch.contains("\n+more\n"), &patch);
    findings.report();
}

/// What is in an archive.
fn names_in(base64: &str) -> Vec<String> {
    let mut tar = Command::new("tar")
        .args(["--list", "--gzip"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("tar is there");
    let mut stdin = tar.stdin.take().expect("it is piped");
    let _ = stdin.write_all(&bytes_of(base64));
    drop(stdin);
    let output = tar.wait_with_output().expect("it ends");
    String::from_utf8_lossy(&output.stdout).lines().map(String::from).collect()
}

fn bytes_of(base64: &str) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(base64).unwrap_or_default()
}

fn text_of(base64: &str) -> String {
    String::from_utf8_lossy(&bytes_of(base64)).into_owned()
}
