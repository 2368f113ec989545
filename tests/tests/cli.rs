//! The command line as its users and scripts meet it: what goes where, and with which exit code.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;
use tempfile::TempDir;
use tests::api::KEY;
use tests::binary;
use tests::case::equal;
use tests::docker::containers;
use tests::node::{Node, START_TIMEOUT};
use tests::{Findings, Stack};

/// What a command did.
struct Did {
    code: Option<i32>,
    stdout: String,
    stderr: String,
    took: Duration,
}

fn run(mut command: Command, input: &str) -> Did {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let started = Instant::now();
    let mut child = command.spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    // A command that does not read its input may be gone already.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    Did {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: started.elapsed(),
    }
}

fn isol8(directory: &Path, arguments: &[&str], input: &str) -> Did {
    let mut command = binary::command(directory);
    command.args(arguments);
    run(command, input)
}

/// A row: arguments, standard input, exit code, standard output, text in standard error.
type Row<'a> = (&'a [&'a str], &'a str, i32, &'a str, &'a str);

fn check(findings: &mut Findings, directory: &Path, rows: &[Row<'_>]) {
    for (arguments, input, code, stdout, stderr) in rows {
        let did = isol8(directory, arguments, input);
        let name = format!("isol8 {}", arguments.join(" "));
        let code = equal("exit code", &did.code, &Some(*code));
        findings
            .note(&name, code.map_err(|error| format!("{error}: {} {}", did.stdout, did.stderr)));
        findings.note(&name, equal("stdout", &did.stdout.as_str(), stdout));
        if stderr.is_empty() {
            findings.note(&name, equal("stderr", &did.stderr.as_str(), &""));
        } else {
            findings.check(&format!("{name}: stderr"), did.stderr.contains(stderr), &did.stderr);
        }
    }
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory can be made")
}

fn write(directory: &TempDir, name: &str, text: &str) {
    let path = directory.path().join(name);
    let parent = path.parent().expect("it has one");
    std::fs::create_dir_all(parent).expect("a directory can be made");
    std::fs::write(path, text).expect("a file can be written");
}

#[test]
fn programs_run_here() {
    let here = directory();
    for (name, text) in [
        ("a.py", "print('py')"),
        ("a.js", "console.log('js')"),
        ("a.cjs", "console.log(typeof require)"),
        ("a.ts", "const n: number = 1; console.log('ts')"),
        ("a.mts", "const n: number = 1; console.log('mts')"),
        ("a.sh", "echo sh"),
        ("a.xyz", "?"),
        ("set.sh", "echo from-file > made"),
        ("tree/a/b.txt", "deep"),
        ("tree/node_modules/x", "ballast"),
    ] {
        write(&here, name, text);
    }
    let mut findings = Findings::default();
    check(
        &mut findings,
        here.path(),
        &[
            (&["run", "-e", "print(6*7)"], "", 0, "42\n", ""),
            (&["run"], "print('from stdin')", 0, "from stdin\n", ""),
            (&["run", "a.py"], "", 0, "py\n", ""),
            (&["run", "a.js"], "", 0, "js\n", ""),
            (&["run", "a.cjs"], "", 0, "function\n", ""),
            (&["run", "a.ts"], "", 0, "ts\n", ""),
            (&["run", "a.mts"], "", 0, "mts\n", ""),
            (&["run", "a.sh"], "", 0, "sh\n", ""),
            (
                &["run", "a.xyz"],
                "",
                1,
                "",
                "[ERR] Cannot detect runtime for a.xyz. Use --runtime to specify.",
            ),
            (&["run", "no.py"], "", 1, "", "[ERR] File not found: no.py"),
            (&["run", "--cmd", "echo x | tr x y"], "", 0, "y\n", ""),
            (&["run", "--cmd", "id -un", "-r", "node"], "", 0, "sandbox\n", ""),
            (&["run", "--cmd", "ls", "-e", "1"], "", 1, "", "[ERR] --cmd cannot be combined"),
            (&["run", "-r", "cobol", "-e", "x"], "", 1, "", "[ERR] Unknown runtime: \"cobol\""),
            (&["run", "-r", "bash", "-e", "exit 5"], "", 5, "", ""),
            (
                &["run", "-r", "bash", "-e", "echo out; echo err >&2; exit 42"],
                "",
                42,
                "out\n",
                "err\n",
            ),
            (&["run", "-r", "bash", "-e", "printf 'no newline'"], "", 0, "no newline", ""),
            (
                &["run", "-r", "bash", "--no-stream", "-e", "printf 'x\n\n'; exit 3"],
                "",
                3,
                "x\n",
                "",
            ),
            (
                &["run", "-r", "bash", "-e", "echo a; sleep 60", "--timeout", "500"],
                "",
                137,
                "a\n",
                "[ERR] EXECUTION TIMED OUT",
            ),
            (&["run", "-r", "bash", "-e", "cat", "--stdin", "data"], "", 0, "data", ""),
            (
                &[
                    "run",
                    "-r",
                    "bash",
                    "-e",
                    "echo $K-$V",
                    "--secret",
                    "K=hush-hush",
                    "--env",
                    "V=seen",
                ],
                "",
                0,
                "***-seen\n",
                "",
            ),
            (
                &["run", "-r", "bash", "-e", "pwd", "--workdir", "w", "--setup", "mkdir w"],
                "",
                0,
                "/sandbox/w\n",
                "",
            ),
            (
                &["run", "-r", "bash", "-e", "pwd", "--workdir", "../w"],
                "",
                1,
                "",
                "Working directory must be inside /sandbox",
            ),
            (
                &[
                    "run",
                    "-r",
                    "bash",
                    "-e",
                    "cat made two",
                    "--setup",
                    "set.sh",
                    "--setup",
                    "echo 2 > two",
                ],
                "",
                0,
                "from-file\n2\n",
                "",
            ),
            (
                &["run", "-r", "bash", "-e", "echo no", "--setup", "echo why >&2; exit 9"],
                "",
                1,
                "",
                "Setup script failed (exit code 9)",
            ),
            (
                &["run", "-r", "bash", "-e", "find . -type f ! -name main.sh", "--files", "tree"],
                "",
                0,
                "./a/b.txt\n",
                "",
            ),
            (
                &["run", "-r", "bash", "-e", "x", "--files", "a.py"],
                "",
                1,
                "",
                "[ERR] --files path is not a directory: a.py",
            ),
            (&["run", "-r", "bash", "-e", "cat /proc/net/dev | wc -l"], "", 0, "3\n", ""),
            (
                &["run", "-r", "bash", "--no-stream", "--max-output", "4", "-e", "echo 123456"],
                "",
                0,
                "1234\n\n--- OUTPUT TRUNCATED (7 bytes, limit: 4) ---\n",
                "[WARN] Output was truncated",
            ),
            (
                &["run", "-r", "bash", "--no-stream", "--out", "o.txt", "-e", "echo kept"],
                "",
                0,
                "kept\n[Run] Output written to o.txt\n",
                "",
            ),
            (
                &[
                    "run",
                    "-r",
                    "bash",
                    "--memory",
                    "64m",
                    "--cpu",
                    "0.5",
                    "--pids-limit",
                    "30",
                    "-e",
                    "ulimit -u >/dev/null; echo limited",
                ],
                "",
                0,
                "limited\n",
                "",
            ),
            (
                &["run", "-r", "bash", "--memory", "lots", "-e", "x"],
                "",
                1,
                "",
                "Invalid memory limit format: \"lots\"",
            ),
            (
                &["run", "-r", "bash", "--image", "isol8:no-such", "-e", "x"],
                "",
                1,
                "",
                "isol8:no-such",
            ),
        ],
    );
    let written = std::fs::read_to_string(here.path().join("o.txt")).unwrap_or_default();
    findings.note("--out", equal("file", &written.as_str(), &"kept"));
    findings.report();
}

#[test]
fn a_run_that_is_interrupted_leaves_nothing() {
    let here = directory();
    let mut findings = Findings::default();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let mut command = binary::command(here.path());
        command.args(["run", "-r", "bash", "-e", "echo up; sleep 600"]);
        let mut node = Node::start("run", command);
        node.await_line("up", START_TIMEOUT);
        let label = format!("isol8.owner=run-{}", node.pid());
        findings.check("it has a container", containers(&label).len() == 1, &label);
        node.signal(signal);
        let status = node.wait(Duration::from_secs(8));
        if signal != Signal::SIGKILL {
            let code = status.map(|status| status.code());
            findings
                .note(signal.as_str(), code.and_then(|code| equal("exit code", &code, &Some(0))));
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while !containers(&label).is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(100));
        }
        findings.note(
            signal.as_str(),
            equal("containers left", &containers(&label), &Vec::<String>::new()),
        );
    }
    findings.report();
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_run_on_a_server() {
    let (stack, api) = Stack::serve(&json!({}));
    let host = api.address();
    let here = directory();
    write(&here, "data/f.bin", "file");
    let mut findings = Findings::default();
    check(
        &mut findings,
        here.path(),
        &[
            (
                &["run", "--host", host, "--key", KEY, "-r", "bash", "-e", "echo remote; exit 6"],
                "",
                6,
                "remote\n",
                "",
            ),
            (
                &[
                    "run",
                    "--host",
                    host,
                    "--key",
                    KEY,
                    "-r",
                    "bash",
                    "-e",
                    "cat f.bin",
                    "--files",
                    "data",
                ],
                "",
                0,
                "file\n",
                "",
            ),
            (
                &["run", "--host", host, "-r", "bash", "-e", "x"],
                "",
                1,
                "",
                "[ERR] API key required",
            ),
            (
                &["run", "--host", host, "--key", "wrong", "-r", "bash", "-e", "x"],
                "",
                1,
                "",
                "Invalid API key",
            ),
            (
                &["run", "--host", "http://127.0.0.1:1", "--key", "k", "-r", "bash", "-e", "x"],
                "",
                1,
                "",
                "[ERR]",
            ),
            (
                &["run", "--host", host, "--key", KEY, "-r", "cobol", "-e", "x"],
                "",
                1,
                "",
                "Unknown runtime: \"cobol\"",
            ),
            (
                &[
                    "run",
                    "--host",
                    host,
                    "--key",
                    KEY,
                    "-r",
                    "bash",
                    "-e",
                    "sleep 60",
                    "--timeout",
                    "400",
                ],
                "",
                137,
                "",
                "EXECUTION TIMED OUT",
            ),
        ],
    );
    let mut command = binary::command(here.path());
    command.args(["run", "--host", &format!("{host}/"), "-r", "bash", "-e", "echo by-variable"]);
    command.env("ISOL8_API_KEY", KEY);
    findings.note(
        "ISOL8_API_KEY",
        equal("stdout", &run(command, "").stdout.as_str(), &"by-variable\n"),
    );
    findings.report();
    stack.finish();
}

#[test]
fn questions_about_itself() {
    let here = directory();
    let mut findings = Findings::default();
    let help = isol8(here.path(), &[], "");
    findings.note("no arguments", equal("exit code", &help.code, &Some(0)));
    for command in ["setup", "run", "serve", "gateway", "worker", "config", "cleanup"] {
        findings.check(
            &format!("help names {command}"),
            help.stdout.contains(command),
            &help.stdout,
        );
    }
    for flag in ["--help", "-h"] {
        let did = isol8(here.path(), &["run", flag], "");
        findings.check(flag, did.code == Some(0) && did.stdout.contains("--no-stream"), did.stdout);
    }
    for flag in ["--version", "-V"] {
        let did = isol8(here.path(), &[flag], "");
        let numbers: Vec<_> = did.stdout.trim_end().split('.').map(str::parse::<u32>).collect();
        let is_bare = numbers.len() == 3 && numbers.iter().all(Result::is_ok);
        findings.check("the bare version", did.code == Some(0) && is_bare, did.stdout);
    }
    for (arguments, text) in [
        (&["no-such-command"][..], "no-such-command"),
        (&["run", "--no-such-flag"], "--no-such-flag"),
        (&["run", "a", "b"], "b"),
        (&["serve", "--port", "99999", "--key", "k"], "99999"),
    ] {
        let did = isol8(here.path(), arguments, "");
        findings.note(text, equal("exit code", &did.code, &Some(1)));
        findings.check(text, did.stderr.contains(text) && did.stdout.is_empty(), did.stderr);
    }
    for role in ["serve", "gateway"] {
        let did = isol8(here.path(), &[role], "");
        findings.note(role, equal("exit code", &did.code, &Some(1)));
        findings.check(role, did.stderr.contains("[ERR] API key required"), did.stderr);
    }
    for arguments in [&["gateway", "--key", "k"][..], &["worker"]] {
        let did = isol8(here.path(), arguments, "");
        findings.note("no queue", equal("exit code", &did.code, &Some(1)));
        findings.check("no queue", did.stderr.contains("--redis"), did.stderr);
    }
    let script = isol8(here.path(), &["completions", "bash"], "");
    findings.check(
        "completions",
        script.code == Some(0) && script.stdout.contains("isol8"),
        script.stderr,
    );
    findings.report();
}

#[test]
fn configuration_is_found_and_shown() {
    let here = directory();
    let mut findings = Findings::default();
    let shown = |findings: &mut Findings| {
        let did = isol8(here.path(), &["config", "--json"], "");
        findings.note("config --json", equal("exit code", &did.code, &Some(0)));
        (serde_json::from_str::<serde_json::Value>(&did.stdout).unwrap_or_default(), did.stdout)
    };
    let (config, text) = shown(&mut findings);
    let order = [
        "maxConcurrent",
        "defaults",
        "network",
        "cleanup",
        "poolStrategy",
        "poolSize",
        "security",
        "remoteCode",
        "audit",
        "auth",
        "prebuiltImages",
        "debug",
    ];
    let places: Vec<_> = order.iter().map(|key| text.find(&format!("\n  \"{key}\":"))).collect();
    findings.check(
        "keys in order",
        places.iter().all(Option::is_some) && places.is_sorted(),
        places,
    );
    let defaults = json!({"timeoutMs": 30000, "memoryLimit": "512m", "cpuLimit": 1.0, "network": "none",
        "sandboxSize": "512m", "tmpSize": "256m", "readonlyRootFs": true});
    findings.note("defaults", equal("defaults", &config["defaults"], &defaults));
    findings
        .note("defaults", equal("poolSize", &config["poolSize"], &json!({"clean": 1, "dirty": 1})));

    // Home, then the working directory; one or the other. They are one here: told apart by path.
    write(&here, ".isol8/config.json", r#"{"maxConcurrent": 3, "unknown": 1}"#);
    let (config, _) = shown(&mut findings);
    findings.note("home", equal("maxConcurrent", &config["maxConcurrent"], &3));
    findings.note("unknown keys", equal("unknown", &config["unknown"], &serde_json::Value::Null));
    write(&here, "isol8.config.json", r#"{"defaults": {"timeoutMs": 700}, "poolSize": 2}"#);
    let (config, _) = shown(&mut findings);
    findings.note("no mixing", equal("maxConcurrent", &config["maxConcurrent"], &10));
    findings.note("merged", equal("memoryLimit", &config["defaults"]["memoryLimit"], &"512m"));
    findings
        .note("a number", equal("poolSize", &config["poolSize"], &json!({"clean": 2, "dirty": 2})));
    let did = isol8(here.path(), &["config"], "");
    findings.check("names its source", did.stdout.contains("isol8.config.json"), did.stdout);

    // It holds for runs, and a flag beats it.
    let did = isol8(here.path(), &["run", "-r", "bash", "-e", "sleep 30"], "");
    findings.note("its time limit", equal("exit code", &did.code, &Some(137)));
    findings.check("in time", did.took < Duration::from_secs(8), did.took);
    let did = isol8(here.path(), &["run", "-r", "bash", "-e", "sleep 1", "--timeout", "20000"], "");
    findings.note("the flag's", equal("exit code", &did.code, &Some(0)));

    write(&here, "isol8.config.json", "{broken");
    let did = isol8(here.path(), &["config"], "");
    findings.note("not JSON", equal("exit code", &did.code, &Some(1)));
    findings.check("not JSON", did.stderr.contains("isol8.config.json"), did.stderr);
    findings.report();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_port_and_a_shared_data_directory() {
    let (stack, api) = Stack::serve(&json!({"worker": {"prewarm": []}}));
    let port = api.address().rsplit(':').next().unwrap_or_default().to_owned();
    let mut findings = Findings::default();

    let mut command = stack.isol8();
    command.args(["serve", "--key", KEY, "--port", &port, "--data-dir", "data"]);
    let did = run(command, "");
    findings.note("same data directory", equal("exit code", &did.code, &Some(1)));
    findings.check("same data directory", did.stderr.contains("another `isol8 serve`"), did.stderr);

    let mut command = stack.isol8();
    command.args(["serve", "--no-op", "--key", KEY, "--port", &port, "--data-dir", "other"]);
    let mut second = Node::start("second", command);
    let other = second.await_port();
    findings.check("another port", other.to_string() != port, other);
    let reply = tests::Api::new(other).run(tests::command("bash", "echo x")).await;
    findings.note("it serves", equal("exit code", &reply["exitCode"], &0));
    findings.note("and stops", second.stop());
    findings.report();
    stack.finish();
}
