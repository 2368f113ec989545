//! A server's streams, sessions, files and keys, by way of the command line.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use tests::api::KEY;
use tests::case::equal;
use tests::node::{Node, START_TIMEOUT, STOP_TIMEOUT};
use tests::{Findings, Stack, binary};

use super::{Did, directory, run, write};

/// Commands against one server, from one directory.
struct Desk {
    here: TempDir,
    host: String,
    key: Option<String>,
}

impl Desk {
    fn new(host: &str) -> Self {
        Self { here: directory(), host: host.to_owned(), key: Some(KEY.to_owned()) }
    }

    fn path(&self) -> &Path {
        self.here.path()
    }

    /// Runs a command; the server is named after all else.
    fn run(&self, arguments: &[&str]) -> Did {
        self.feed(arguments, "")
    }

    fn feed(&self, arguments: &[&str], input: &str) -> Did {
        let mut command = binary::command(self.path());
        command.args(arguments).args(["--host", &self.host]);
        if let Some(key) = &self.key {
            command.env("ISOL8_API_KEY", key);
        }
        run(command, input)
    }

    /// Notes what a command did: exit code, standard output, text in standard error.
    fn check(
        &self,
        findings: &mut Findings,
        arguments: &[&str],
        code: i32,
        stdout: &str,
        stderr: &str,
    ) {
        let did = self.run(arguments);
        let name = arguments.join(" ");
        let told = format!("{}{}", did.stdout, did.stderr);
        let outcome = equal("exit code", &did.code, &Some(code));
        findings.note(&name, outcome.map_err(|error| format!("{error}: {told}")));
        findings.note(&name, equal("stdout", &did.stdout.as_str(), &stdout));
        let is_told = did.stderr.contains(stderr) && (!stderr.is_empty() || did.stderr.is_empty());
        findings.check(&name, is_told, &did.stderr);
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let did = self.run(arguments);
        serde_json::from_str(&did.stdout).unwrap_or_else(|_| json!(did.stderr))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn output_comes_as_a_stream_or_at_the_end() {
    let (stack, api) = Stack::serve(&json!({}));
    let desk = Desk::new(api.address());
    let mut findings = Findings::default();
    let bash = |more: &'static [&'static str]| [&["run", "-r", "bash"], more].concat();
    for (more, code, stdout, stderr) in [
        (&["-e", "echo out; echo err >&2; exit 42"][..], 42, "out\n", "err\n"),
        (&["-e", "printf 'no newline'"], 0, "no newline", ""),
        (&["--no-stream", "-e", "printf 'x\n\n'; exit 3"], 3, "x\n", ""),
        (&["-e", "echo a; sleep 60", "--timeout", "2000"], 137, "a\n", "[ERR] EXECUTION TIMED OUT"),
        (&["--no-stream", "-e", "sleep 60", "--timeout", "400"], 137, "", "EXECUTION TIMED OUT"),
        (&["-e", "x", "--setup", "echo why >&2; exit 9"], 9, "", "[ERR] Setup script failed"),
        (&["-e", "cat made", "--setup", "echo set > made; echo up"], 0, "up\nset\n", ""),
        (
            &["--no-stream", "-e", "x", "--setup", "exit 9"],
            1,
            "",
            "[ERR] Execution failed: Setup script failed (exit code 9)",
        ),
        (&["-e", "cat", "--stdin", "data"], 0, "data", ""),
        (&["-e", "echo $K", "--secret", "K=hush-hush"], 0, "***\n", ""),
        (&["-e", "x", "--net", "host"], 1, "", "[ERR] network \"host\" is not allowed"),
        (&["-e", "x", "--install", "y z"], 1, "", "[ERR] Invalid package name for bash"),
        (&["--url", "https://h/a.sh"], 1, "", "Remote code fetching is disabled"),
        (&["--no-stream", "-e", "x", "--memory", "999g"], 1, "", "policy.maxMemory"),
        (
            &["--no-stream", "--out", "o.txt", "-e", "echo kept"],
            0,
            "kept\n",
            "[Run] Output written to o.txt",
        ),
    ] {
        desk.check(&mut findings, &bash(more), code, stdout, stderr);
    }
    // Without --no-stream there is no file, and nobody thinks there is.
    desk.check(&mut findings, &bash(&["--out", "p.txt", "-e", "echo x"]), 0, "x\n", "[WARN] --out");
    findings.check("no file", !desk.path().join("p.txt").exists(), "p.txt");
    let kept = std::fs::read_to_string(desk.path().join("o.txt")).unwrap_or_default();
    findings.note("--out", equal("file", &kept.as_str(), &"kept"));

    // Output is there before the program ends, and an interrupt ends it on the server too.
    let mut command = binary::command(desk.path());
    command.args(["run", "--host", &desk.host, "--key", KEY, "-r", "bash"]);
    command.args(["-e", "echo early; sleep 600"]);
    let mut node = Node::start("run", command);
    node.await_line("early", START_TIMEOUT);
    node.signal(nix::sys::signal::Signal::SIGINT);
    let status = node.wait(STOP_TIMEOUT).map(|status| status.code());
    findings.note("interrupt", status.and_then(|code| equal("exit code", &code, &Some(0))));
    findings.report();
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_outlive_commands() {
    let (stack, api) = Stack::serve(&json!({}));
    let desk = Desk::new(api.address());
    let mut findings = Findings::default();
    let empty = "[INFO] No active sessions.\n";
    desk.check(&mut findings, &["session", "list"], 0, empty, "");
    desk.check(&mut findings, &["session", "exec", "s", "-e", "x = 41"], 0, "", "");
    desk.check(&mut findings, &["session", "exec", "s", "-e", "print(x + 1)"], 0, "42\n", "");
    let exec = ["session", "exec", "s", "--no-stream", "-e", "import sys; print(x); sys.exit(3)"];
    desk.check(&mut findings, &exec, 3, "41\n", "");
    let named = ["run", "--session-id", "s", "-e", "print(x + 2)"];
    desk.check(&mut findings, &named, 0, "43\n", "[Run] Session ID: s");
    desk.check(
        &mut findings,
        &["session", "exec", "s", "-r", "bash", "-e", "x"],
        1,
        "",
        "Cannot switch runtime from \"python\" to \"bash\"",
    );
    let listed = desk.run(&["session", "list"]).stdout;
    let is_listed =
        listed.contains("1 active session") && listed.contains("s  [idle]  last accessed: ");
    findings.check("list", is_listed, &listed);
    let sessions = desk.json(&["session", "list", "--json"]);
    findings.note("--json", equal("id", &sessions[0]["id"], &"s"));

    // A session's runtime is the default in it.
    desk.check(&mut findings, &["session", "exec", "b", "-r", "bash", "-e", "x=5"], 0, "", "");
    desk.check(&mut findings, &["session", "exec", "b", "-e", "echo $x"], 0, "5\n", "");
    desk.check(&mut findings, &["session", "exec", "s", "--cmd", "echo cmd"], 0, "cmd\n", "");
    let gone = "[OK] Session \"b\" destroyed.\n";
    desk.check(&mut findings, &["session", "stop", "b"], 0, gone, "");

    // It was opened without a network.
    desk.check(
        &mut findings,
        &["session", "network", "s", "--net", "filtered"],
        1,
        "",
        "opened without the filtered network",
    );
    let open =
        ["run", "-r", "bash", "--session-id", "n", "--net", "filtered", "--allow", "a", "-e", ":"];
    desk.check(&mut findings, &open, 0, "", "[Run] Session ID: n");
    for (change, mode, allow, deny) in [
        (&["--deny", "b"][..], "filtered", json!(["a"]), json!(["b"])),
        (&["--net", "none", "--clear"], "none", json!([]), json!([])),
    ] {
        let network = desk.json(&[&["session", "network", "n"], change].concat());
        let expected = json!({"mode": mode, "whitelist": allow, "blacklist": deny});
        findings.note("network", equal("answer", &network, &expected));
    }
    desk.check(&mut findings, &["session", "stop", "n"], 0, "[OK] Session \"n\" destroyed.\n", "");

    // A session of the run's own ends with it.
    desk.check(
        &mut findings,
        &["run", "--persistent", "-e", "print(1)"],
        0,
        "1\n",
        "Session ID: cli-",
    );
    let sessions = desk.json(&["session", "list", "--json"]);
    findings.note("own session", equal("sessions", &sessions.as_array().map(Vec::len), &Some(1)));

    for _ in 0..2 {
        let gone = "[OK] Session \"s\" destroyed.\n";
        desk.check(&mut findings, &["session", "stop", "s"], 0, gone, "");
    }
    desk.check(&mut findings, &["session", "list"], 0, empty, "");
    findings.report();
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_both_ways() {
    let (stack, api) = Stack::serve(&json!({}));
    let desk = Desk::new(api.address());
    let mut findings = Findings::default();
    desk.check(&mut findings, &["session", "exec", "f", "-r", "bash", "-e", "true"], 0, "", "");
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|number| number.to_le_bytes()[1]).collect();
    std::fs::write(desk.path().join("big.bin"), &bytes).expect("it can be written");
    write(&desk.here, "tool.sh", "echo tool");
    let tool = desk.path().join("tool.sh");
    std::fs::set_permissions(tool, std::fs::Permissions::from_mode(0o755)).expect("it is ours");

    let copy = |from: &str, to: &str| desk.run(&["session", "cp", from, to]);
    for (from, to) in [
        ("big.bin", "f:/sandbox/a/b/big.bin"),
        ("tool.sh", "f:/sandbox/"),
        ("f:/sandbox/a/b/big.bin", "back.bin"),
        ("f:/sandbox/a/b/big.bin", "."),
    ] {
        let did = copy(from, to);
        findings.note(&format!("{from} {to}"), equal("exit code", &did.code, &Some(0)));
        let told = format!("{}{}", did.stdout, did.stderr);
        findings.note(&format!("{from} {to}"), equal("told", &told.as_str(), &""));
    }
    for name in ["back.bin", "big.bin"] {
        let back = std::fs::read(desk.path().join(name)).unwrap_or_default();
        findings.check(name, back == bytes, back.len());
    }
    let exec =
        ["session", "exec", "f", "-r", "bash", "-e", "/sandbox/tool.sh; wc -c < a/b/big.bin"];
    desk.check(&mut findings, &exec, 0, "tool\n3000000\n", "");

    let piped = desk.feed(&["session", "cp", "-", "f:/sandbox/in.txt"], "piped");
    findings.note("from a pipe", equal("exit code", &piped.code, &Some(0)));
    desk.check(&mut findings, &["session", "cp", "f:/sandbox/in.txt", "-"], 0, "piped", "");
    let listed = desk.run(&["session", "ls", "f"]).stdout;
    let has = |line: &str| listed.lines().any(|found| found.ends_with(line));
    findings.check("ls", has("5 in.txt") && has(" a/"), &listed);
    let listed = desk.json(&["session", "ls", "f:/sandbox/a", "--json"]);
    findings.note("ls --json", equal("name", &listed["entries"][0]["name"], &"b"));

    let removed = "[OK] Removed /sandbox/in.txt\n";
    desk.check(&mut findings, &["session", "rm", "f:/sandbox/in.txt"], 0, removed, "");
    for (from, to, text) in [
        ("f:/sandbox/in.txt", "x", "[ERR] File download failed: "),
        ("none.txt", "f:/sandbox/x", "[ERR] cannot read none.txt"),
        ("big.bin", "nobody:/sandbox/x", "Session not found"),
        ("a", "b", "write ID:/path"),
        ("f:/a", "f:/b", "goes through a local file"),
        ("f:/sandbox/a", "x", "[ERR] File download failed: "),
    ] {
        let did = copy(from, to);
        let name = format!("{from} {to}");
        findings.note(&name, equal("exit code", &did.code, &Some(1)));
        findings.check(&name, did.stderr.contains(text), &did.stderr);
    }
    findings.check("no half file", !desk.path().join("x").exists(), "x");
    let gone = "[OK] Session \"f\" destroyed.\n";
    desk.check(&mut findings, &["session", "stop", "f"], 0, gone, "");
    findings.report();
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_made_kept_and_revoked() {
    let (stack, api) = Stack::serve(&json!({"auth": {"enabled": true}}));
    let mut desk = Desk::new(api.address());
    let mut findings = Findings::default();
    let made = desk.run(&["keys", "create", "ci", "--tenant", "acme", "--ttl", "60000"]);
    let key = made.stdout.trim_end().to_owned();
    let is_key = key.len() == 70 && key.starts_with("isol8_") && made.stdout.lines().count() == 1;
    findings.check("create", is_key, (&made.stdout, &made.stderr));
    let listed = desk.json(&["keys", "list", "--tenant", "acme", "--json"]);
    findings.note("list --json", equal("name", &listed[0]["name"], &"ci"));
    findings.check("no key in lists", !listed.to_string().contains(&key), &listed);
    let table = desk.run(&["keys", "list"]).stdout;
    findings.check("list", table.contains("acme") && table.contains("valid"), &table);
    let id = listed[0]["id"].as_str().unwrap_or_default().to_owned();

    let hello = ["run", "-r", "bash", "-e", "echo hello"];
    desk.key = Some(key);
    desk.check(&mut findings, &hello, 0, "hello\n", "");
    desk.check(&mut findings, &["keys", "list"], 1, "", "Master key required");
    desk.check(&mut findings, &["login"], 1, "", "Logging in takes the server's master key");
    desk.key = Some(KEY.to_owned());
    let revoked = format!("[OK] Key \"{id}\" revoked.\n");
    desk.check(&mut findings, &["keys", "revoke", &id], 0, &revoked, "");
    desk.check(&mut findings, &["keys", "revoke", "none"], 1, "", "Key not found");

    let did = desk.run(&["login", "--name", "me", "--ttl", "60000"]);
    let is_told = did.stdout.starts_with("[OK] Logged in to ") && did.stdout.contains("Expires: ");
    findings.check("login", is_told, (&did.stdout, &did.stderr));
    let file = desk.path().join(".isol8/credentials.json");
    let mode = std::fs::metadata(&file).map(|meta| meta.permissions().mode() & 0o777);
    findings.note("credentials", equal("mode", &mode.ok(), &Some(0o600)));
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let kept: Value = serde_json::from_str(&text).unwrap_or_default();
    let keys: Vec<_> = kept.as_object().into_iter().flat_map(|kept| kept.keys()).collect();
    findings
        .note("credentials", equal("keys", &keys, &vec!["expiresAt", "host", "keyId", "token"]));

    // From now on no key is named, and for sessions no server either.
    desk.key = None;
    desk.check(&mut findings, &hello, 0, "hello\n", "");
    let mut command = binary::command(desk.path());
    command.args(["session", "list"]);
    findings.note("server of the login", equal("exit code", &run(command, "").code, &Some(0)));
    let expired =
        text.replace(kept["expiresAt"].as_str().unwrap_or("?"), "2020-01-01T00:00:00.000Z");
    std::fs::write(&file, expired).expect("it is ours");
    let did = desk.run(&hello);
    findings.note("expired", equal("exit code", &did.code, &Some(1)));
    let is_told = did.stderr.contains("[WARN]") && did.stderr.contains("[ERR] API key required");
    findings.check("expired", is_told, &did.stderr);
    let out = |desk: &Desk| {
        let mut command = binary::command(desk.path());
        command.arg("logout");
        run(command, "").stdout
    };
    let (first, second) = (out(&desk), out(&desk));
    findings.check("logout", first.starts_with("[OK] ") && !file.exists(), &first);
    findings.check("logout", second.starts_with("[INFO] "), &second);
    desk.check(&mut findings, &hello, 1, "", "[ERR] API key required");
    findings.report();
    stack.finish();

    // A server with its master key only.
    let (stack, api) = Stack::serve(&json!({}));
    let desk = Desk::new(api.address());
    let mut findings = Findings::default();
    desk.check(&mut findings, &["login"], 1, "", "DB-backed auth is not enabled");
    findings.report();
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_submitted_followed_ended_and_workers_drained() {
    let (stack, api) = Stack::serve(&json!({}));
    let desk = Desk::new(api.address());
    let mut findings = Findings::default();
    let submit = |more: &[&str]| {
        let did = desk.run(&[&["jobs", "submit", "-r", "bash"], more].concat());
        let id = did.stdout.trim_end().to_owned();
        assert!(did.code == Some(0) && id.len() == 36, "{}{}", did.stdout, did.stderr);
        id
    };
    let once = ["-e", "echo out; echo err >&2; exit 3", "--tag", "t", "--idempotency-key", "k"];
    let id = submit(&once);
    findings.note("once", equal("id", &submit(&once), &id));
    desk.check(&mut findings, &["jobs", "logs", "-f", &id], 3, "out\n", "err\n");
    desk.check(&mut findings, &["jobs", "logs", &id], 3, "out\n", "err\n");
    let told = desk.run(&["jobs", "logs", &id, "--json"]).stdout;
    findings.check("--json", told.contains("\"type\":\"end\""), &told);
    let shown = desk.run(&["jobs", "get", &id, "--wait", "60000"]).stdout;
    let is_shown = shown.starts_with(&format!("{id}  [finished]\n"))
        && shown.contains("outcome: exited\n  exit code: 3\n  attempts: 1\n  tags: t\n");
    findings.check("get", is_shown, &shown);
    let job = desk.json(&["jobs", "get", &id, "--json"]);
    findings.note("get --json", equal("stdout", &job["result"]["stdout"], &"out"));

    let late = submit(&["-e", "echo never", "--delay", "3600000", "--priority", "low"]);
    let shown = desk.run(&["jobs", "get", &late]).stdout;
    findings.check("waits", shown.contains("waits for: time\n  until: "), &shown);
    desk.check(&mut findings, &["jobs", "logs", &late], 0, "", "");
    let cancelled = desk.json(&["jobs", "cancel", &late, "--json"]);
    findings.note("cancel", equal("outcome", &cancelled["outcome"], &"cancelled"));
    let list = desk.json(&["jobs", "list", "--json"]);
    let ids: Vec<_> = list["jobs"].as_array().into_iter().flatten().map(|it| &it["id"]).collect();
    findings.note("list", equal("ids", &ids, &vec![&json!(late), &json!(id)]));
    let tagged = desk.run(&["jobs", "list", "--tag", "t", "--state", "finished"]).stdout;
    findings.check("list --tag", tagged.contains(&id) && !tagged.contains(&late), &tagged);
    for (arguments, text) in [
        (&["jobs", "get", "x"][..], "[ERR] Failed to look at the job: Job not found"),
        (&["jobs", "retry", &id], "[ERR] Failed to drive the job again: "),
        (&["dlq", "get", &id], "[ERR] Failed to look at the dead letter: "),
        (&["dlq", "forget", &id], "[ERR] Failed to forget the dead letter: "),
        (&["jobs", "submit", "-e", "x", "--priority", "urgent"], "use high, normal or low"),
        (&["workers", "drain", "x"], "[ERR] Failed to drain the worker: "),
        (&["workers", "undrain", "x"], "[ERR] Failed to take the drain back: "),
    ] {
        desk.check(&mut findings, arguments, 1, "", text);
    }
    desk.check(&mut findings, &["dlq", "list"], 0, "[INFO] No dead letters.\n", "");

    let workers = desk.json(&["workers", "list", "--json"]);
    findings.note("workers", equal("state", &workers[0]["state"], &"active"));
    let top = desk.run(&["top", "--once"]).stdout;
    let is_seen = ["0 running, 0 waiting", "active", "TENANT", "default"];
    findings.check("top", is_seen.iter().all(|part| top.contains(part)), &top);
    let top = desk.json(&["top", "--json"]);
    findings.note("top", equal("version", &top["workers"][0]["version"], &workers[0]["version"]));
    findings.check("ended", top["workers"][0]["ended"].is_u64(), top.to_string());
    let worker = workers[0]["id"].as_str().unwrap_or_default();
    let drained = format!("[OK] Worker {worker} is drained.\n");
    desk.check(&mut findings, &["workers", "drain", worker, "--wait"], 0, &drained, "");
    let table = desk.run(&["workers", "list"]).stdout;
    findings.check("drained", table.contains(worker) && table.contains("drained"), &table);
    // Now nothing begins any more; a job that waits can be ended all the same.
    let waits = submit(&["-e", "echo never"]);
    desk.check(&mut findings, &["jobs", "logs", &waits], 0, "", "");
    let cancelled = desk.json(&["jobs", "cancel", &waits, "--json"]);
    findings.note("cancel", equal("outcome", &cancelled["outcome"], &"cancelled"));
    let again = format!("[OK] Worker {worker} takes jobs again.\n");
    desk.check(&mut findings, &["workers", "undrain", worker], 0, &again, "");
    let runs = submit(&["-e", "echo again"]);
    desk.check(&mut findings, &["jobs", "logs", "-f", &runs], 0, "again\n", "");
    findings.report();
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_submitted_watched_read_and_cancelled() {
    let (stack, api) = Stack::serve(&json!({}));
    let desk = Desk::new(api.address());
    let mut findings = Findings::default();
    let items: String = (0..40).map(|number| format!("{{\"id\":\"n{number}\"}}\n")).collect();
    let template = json!({"request": {"runtime": "bash", "cmd": "echo done"}});
    std::fs::write(stack.join("items"), &items).expect("the directory is writable");
    std::fs::write(stack.join("template"), template.to_string()).expect("likewise");
    std::fs::write(stack.join("whole"), format!("{template}\n{items}")).expect("likewise");
    let path = |name: &str| stack.join(name).display().to_string();
    let (items, template, whole) = (path("items"), path("template"), path("whole"));
    let submit = |more: &[&str]| {
        let did = desk.run(&[&["batch", "submit"], more].concat());
        let id = did.stdout.trim_end().to_owned();
        assert!(did.code == Some(0) && id.len() == 36, "{}{}", did.stdout, did.stderr);
        id
    };
    let once = [&*items, "--template", &template, "--idempotency-key", "k", "--tag", "t"];
    let id = submit(&once);
    findings.note("once", equal("id", &submit(&once), &id));
    let watched = desk.run(&["batch", "watch", &id]);
    let words = format!("{id}  [finished, completed]\n  items: 40\n  succeeded: 40\n");
    findings.note("watch", equal("words", &watched.stdout, &words));
    findings.note("watch", equal("exit code", &watched.code, &Some(0)));
    for more in [&["--follow"][..], &["--follow", "--acknowledge"]] {
        let read = desk.run(&[&["batch", "results", &id], more].concat()).stdout;
        findings.note("results", equal("lines", &read.lines().count(), &40));
        findings.check("results", read.contains("\"stdout\":\"done\""), &read);
    }
    desk.check(&mut findings, &["batch", "results", &id], 0, "", "");

    let flags = ["--failure-budget", "0", "--priority", "high", "--max-attempts", "1", "--watch"];
    let broken = template.clone() + "-broken";
    let failing = json!({"request": {"runtime": "bash", "cmd": "exit 3"}});
    std::fs::write(&broken, failing.to_string()).expect("the directory is writable");
    let base = ["batch", "submit", &items, "--template", &broken, "--json", "--retention", "60000"];
    let did = desk.run(&[&base[..], &flags].concat());
    let batch: Value = serde_json::from_str(&did.stdout).unwrap_or_default();
    findings.note("budget", equal("exit code", &did.code, &Some(1)));
    findings.note("budget", equal("outcome", &batch["outcome"], &"failure_budget"));
    findings.note("budget", equal("priority", &batch["priority"], &"high"));

    let third = submit(&[&whole]);
    let cancelled = desk.json(&["batch", "cancel", &third, "--json"]);
    findings.note("cancel", equal("state", &cancelled["state"], &"finished"));
    let list = desk.json(&["batch", "list", "--limit", "2", "--json"]);
    findings.note("list", equal("newest", &list["batches"][0]["id"], &third.as_str()));
    let table = desk.run(&["batch", "list"]).stdout;
    findings.check("list", table.contains(&id) && table.contains("completed"), &table);
    desk.check(&mut findings, &["batch", "deliveries", &id], 0, "[INFO] No deliveries.\n", "");
    let secret = path("secret");
    std::fs::write(&secret, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("it is writable");
    for (arguments, text) in [
        (&["batch", "watch", "x"][..], "[ERR] Failed to look at the batch: Batch not found"),
        (&["batch", "results", "x"], "[ERR] Failed to read the results: Batch not found"),
        (&["batch", "submit", "./missing"], "[ERR] cannot read ./missing"),
        (&["batch", "redeliver", &id], &format!("[ERR] batch {id} has told no webhook")),
        (
            &[
                "batch",
                "submit",
                &whole,
                "--webhook",
                "https://10.0.0.1/",
                "--webhook-secret-file",
                &secret,
            ],
            "[ERR] Failed to submit the batch: line 1: 10.0.0.1 leads to a private address",
        ),
        (
            &["batch", "submit", &items],
            "[ERR] Failed to submit the batch: line 1: id: unknown field",
        ),
    ] {
        desk.check(&mut findings, arguments, 1, "", text);
    }
    findings.report();
    stack.finish();
}
