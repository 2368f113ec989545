//! What a program sees and what comes back of it, for every runtime.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tests::case::equal;
use tests::{Api, Case, Findings, Stack, code, command, run_cases};

const RUNTIMES: [&str; 5] = ["python", "node", "bun", "deno", "bash"];

/// A request with more fields.
fn with(mut body: Value, fields: Value) -> Value {
    for (name, value) in fields.as_object().expect("fields are an object") {
        body["request"][name] = value.clone();
    }
    body
}

/// A request with options.
fn options(mut body: Value, options: Value) -> Value {
    body["options"] = options;
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_of_every_runtime() {
    let (stack, api) = Stack::serve(&json!({"worker": {"prewarm": RUNTIMES}}));
    let mut cases = Vec::new();
    let row = |runtime: &str, what: &str, text: &str| {
        Case::new(format!("{runtime}: {what}"), &code(runtime, text))
    };
    let unicode = "grüße, 世界 🌍";
    for (runtime, print, exit, stderr) in [
        ("python", "print('UNI')", "import sys; sys.exit(42)", "import sys; sys.stderr.write('e')"),
        ("node", "console.log('UNI')", "process.exit(42)", "process.stderr.write('e')"),
        ("bun", "console.log('UNI')", "process.exit(42)", "process.stderr.write('e')"),
        ("deno", "console.log('UNI')", "Deno.exit(42)", "console.error('e')"),
        ("bash", "echo 'UNI'", "exit 42", "printf e >&2"),
    ] {
        // Twice: from a fresh sandbox and from one that has been reset.
        for turn in ["first", "again"] {
            let text = print.replace("UNI", unicode);
            cases.push(row(runtime, turn, &text).prints(unicode).quietly());
        }
        cases.push(row(runtime, "exit code", exit).exits(42).quietly());
        cases.push(row(runtime, "stderr", stderr).prints("").has("stderr", "e"));
    }
    for (runtime, what, text, said) in [
        ("python", "syntax error", "print(", "SyntaxError"),
        ("python", "exception", "raise ValueError('boom')", "ValueError: boom"),
        ("python", "own frame in the traceback", "def f(): 1/0\nf()", "/sandbox/main.py"),
        ("node", "syntax error", "let = ;", "SyntaxError"),
        ("node", "exception", "throw new TypeError('boom')", "TypeError: boom"),
        ("node", "rejection", "await Promise.reject(new Error('boom'))", "boom"),
        ("bun", "syntax error", "let = ;", "error"),
        ("bun", "exception", "throw new TypeError('boom')", "boom"),
        ("deno", "syntax error", "let = ;", "error"),
        ("deno", "exception", "throw new TypeError('boom')", "boom"),
        ("deno", "no access outside", "Deno.readTextFileSync('/etc/passwd')", "NotCapable"),
        ("bash", "syntax error", "if then", "syntax error"),
        ("bash", "unknown command", "no_such_command", "no_such_command"),
    ] {
        cases.push(row(runtime, what, text).outcome("exited").fails().has("stderr", said));
    }
    for (runtime, what, text, out) in [
        ("python", "is the main module", "print(__name__, __file__)", "__main__ /sandbox/main.py"),
        ("python", "arguments", "import sys; print(sys.argv)", "['/sandbox/main.py']"),
        (
            "python",
            "child processes",
            "import subprocess as s; print(s.run(['echo', 'x'], capture_output=True).stdout)",
            r"b'x\n'",
        ),
        (
            "python",
            "multiprocessing",
            "import multiprocessing as m\nif __name__ == '__main__':\n  with m.Pool(2) as p: print(p.map(abs, [-1, -2]))",
            "[1, 2]",
        ),
        (
            "python",
            "threads",
            "import threading\nt = threading.Thread(target=lambda: print('t'))\nt.start()",
            "t",
        ),
        (
            "python",
            "at exit",
            "import atexit; atexit.register(print, 'bye'); print('hi')",
            "hi\nbye",
        ),
        (
            "node",
            "ES modules",
            "import fs from 'node:fs'; console.log(typeof fs.readFileSync)",
            "function",
        ),
        ("node", "await at the top", "console.log(await Promise.resolve(5))", "5"),
        ("node", "arguments", "console.log(process.argv[1])", "/sandbox/main.mjs"),
        ("node", "timers", "setTimeout(() => console.log('later'), 50)", "later"),
        ("bun", "types", "const n: number = 6; console.log(n * 7)", "42"),
        ("bun", "its own interface", "console.log(typeof Bun.version)", "string"),
        ("deno", "types", "const n: number = 6; console.log(n * 7)", "42"),
        ("deno", "its own interface", "console.log(typeof Deno.version.deno)", "string"),
        (
            "deno",
            "files",
            "Deno.writeTextFileSync('/sandbox/x', 'y'); console.log(Deno.readTextFileSync('/sandbox/x'))",
            "y",
        ),
        ("bash", "pipes", "printf '3\\n1\\n2\\n' | sort | head -1", "1"),
        ("bash", "arrays", "a=(x y z); echo ${#a[@]}", "3"),
    ] {
        cases.push(row(runtime, what, text).prints(out).quietly());
    }
    let common = json!({"fileExtension": ".cjs"});
    let body = with(code("node", "console.log(typeof require, require.main === module)"), common);
    cases.push(Case::new("node: CommonJS", &body).prints("function true").quietly());
    for runtime in RUNTIMES {
        let cmd = |what: &str, line: &str| {
            Case::new(format!("{runtime}: cmd {what}"), &command(runtime, line))
        };
        cases.push(cmd("pipe", "echo abc | tr a-c x-z").prints("xyz").quietly());
        cases.push(cmd("exit code", "exit 42").exits(42));
        cases.push(cmd("place and user", "pwd; id -un; id -u").prints("/sandbox\nsandbox\n100"));
        cases.push(cmd("signal", "kill -SEGV $$").exits(139));
    }
    let body = command("python", "python -c 'print(6 * 7)'");
    cases.push(Case::new("python: cmd by its plain name", &body).prints("42").quietly());
    run_cases(&api, cases).await.report();
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn input_environment_and_files() {
    let (stack, api) = Stack::serve(&json!({"worker": {"prewarm": ["bash", "python"]}}));
    let mut cases = Vec::new();

    // Standard input.
    let read = "import sys; data = sys.stdin.read(); print(len(data), repr(data[:9]))";
    let big = "x".repeat(3 << 20);
    for (name, stdin, out) in [
        ("stdin", "one\ntwo", "7 'one\\ntwo'"),
        ("stdin with quotes", "'\"$(id)\\`", "9 '\\'\"$(id)\\\\`'"),
        ("empty stdin", "", "0 ''"),
        ("large stdin", big.as_str(), "3145728 'xxxxxxxxx'"),
    ] {
        let body = with(code("python", read), json!({"stdin": stdin}));
        cases.push(Case::new(name, &body).prints(out).quietly());
    }
    let ignored = with(command("bash", "echo done"), json!({"stdin": big}));
    cases.push(Case::new("stdin nobody reads", &ignored).prints("done"));
    let piped = with(command("bash", "exit 5"), json!({"stdin": "x"}));
    cases.push(Case::new("exit code with stdin", &piped).exits(5));

    // Environment: standard, then secrets, then the request's own.
    let show = "echo $HOME $PYTHONUNBUFFERED $PYTHONUSERBASE $NPM_CONFIG_PREFIX $DENO_DIR";
    cases.push(
        Case::new("standard environment", &command("bash", show))
            .prints("/sandbox 1 /sandbox/.local /sandbox/.npm-global /sandbox/.deno"),
    );
    cases.push(
        // The image's own path follows; what of it is for administrators makes no difference.
        Case::new("search path", &command("bash", "echo $PATH | tr : '\\n' | grep -v sbin | xargs"))
            .prints("/sandbox/.local/bin /sandbox/.npm-global/bin /sandbox/.bun-global/bin /usr/local/bin /usr/bin /bin"),
    );
    let layered = options(
        with(
            command("bash", "echo $A-$B-$DENO_DIR"),
            json!({"env": {"A": "env", "DENO_DIR": "/d"}}),
        ),
        json!({"secrets": {"A": "hidden-value", "B": "other-value"}}),
    );
    cases.push(Case::new("env wins over secrets and standard", &layered).prints("env-***-/d"));
    let odd = with(
        code("python", "import os; print(os.environ['X'], os.environ['PYTHONHASHSEED'])"),
        json!({"env": {"X": "a b\n'c' $d", "PYTHONHASHSEED": "7"}}),
    );
    cases.push(
        Case::new("odd values, and what only a fresh start honours", &odd).prints("a b\n'c' $d 7"),
    );
    let own = "env | cut -d= -f1 | grep -i -e isol8 -e runner -e docker -e redis; echo end";
    cases.push(Case::new("nothing of ours", &command("bash", own)).prints("end"));

    // Files in, files out.
    let bytes: Vec<u8> = (0..=255).collect();
    let text = "0123456789abcdef".repeat(6400);
    let nested = json!({"files": {
        "/sandbox/a/b/c.txt": "nested", "d/é.txt": "relative", "/tmp/t": "tmp", "empty": "",
        "bytes.bin": {"type": "Buffer", "data": bytes}, "large.txt": text,
    }});
    let look = "cat a/b/c.txt d/é.txt /tmp/t empty; echo; wc -c < large.txt; \
                sha256sum < bytes.bin | cut -c1-8; stat -c '%U %a' a a/b/c.txt; echo x >> a/b/c.txt";
    let body = with(command("bash", look), nested.clone());
    cases.push(
        Case::new("files, nested and binary", &body)
            .prints("nestedrelativetmp\n102400\n40aff2e9\nsandbox 755\nsandbox 644"),
    );
    let imported = with(
        code("python", "import helper; print(helper.x)"),
        json!({"files": {"helper.py": "x = 9"}}),
    );
    cases.push(Case::new("a module beside the program", &imported).prints("9"));
    let out = with(
        command(
            "bash",
            "cp bytes.bin copy.bin; cp large.txt /tmp/large; ln -s /etc/hostname link; mkdir dir",
        ),
        json!({"files": nested["files"], "outputPaths":
            ["copy.bin", "/tmp/large", "/sandbox/none", "dir", "a/../empty"]}),
    );
    let (expected_bytes, expected_text) = (STANDARD.encode(&bytes), STANDARD.encode(&text));
    cases.push(Case::new("output files", &out).exits(0).result(move |result| {
        let expected =
            json!({"copy.bin": expected_bytes, "/tmp/large": expected_text, "a/../empty": ""});
        equal("files", &result["files"], &expected)
    }));
    let failing = with(command("bash", "echo kept > f; exit 1"), json!({"outputPaths": ["f"]}));
    cases.push(
        Case::new("output files of a failing program", &failing)
            .exits(1)
            .result(|result| equal("files", &result["files"], &json!({"f": "a2VwdAo="}))),
    );

    // Working directory.
    let inside = with(
        command("bash", "pwd; cat f"),
        json!({"workdir": "sub/dir", "files": {"sub/dir/f": "here"}}),
    );
    cases.push(Case::new("working directory", &inside).prints("/sandbox/sub/dir\nhere"));
    let made =
        with(command("bash", "pwd"), json!({"workdir": "made", "setupScript": "mkdir made"}));
    cases.push(
        Case::new("working directory made by the setup script", &made).prints("/sandbox/made"),
    );
    let absent = with(command("bash", "pwd"), json!({"workdir": "absent"}));
    cases.push(Case::refused(
        "no working directory",
        absent.to_string(),
        (422, "START_FAILED", "/sandbox/absent"),
    ));

    // Setup scripts.
    let setup =
        |line: &str, script: &str| with(command("bash", line), json!({"setupScript": script}));
    cases.push(
        Case::new(
            "setup script",
            &setup("cat made", "echo said; cd /tmp; cd -; echo from-setup > made"),
        )
        .prints("from-setup"),
    );
    // Its file is nowhere the program looks, nor is it there afterwards.
    let alone = setup("cat seen; ls -A /sandbox /tmp", "ls -A > /tmp/names; mv /tmp/names seen");
    cases.push(Case::new("setup script alone", &alone).prints("/sandbox:\nseen\n\n/tmp:"));
    cases.push(
        Case::new("setup script that removes itself", &setup("echo ran", "rm -- \"$0\""))
            .prints("ran"),
    );
    let sees = with(
        command("bash", "cat seen"),
        json!({"setupScript": "cp f seen", "files": {"f": "file"}}),
    );
    cases.push(Case::new("setup script sees the files", &sees).prints("file"));
    let failed = (422, "SETUP_FAILED", "Setup script failed (exit code 7): why");
    let body = setup("echo never", "echo why >&2; exit 7");
    cases.push(Case::refused("failing setup script", body.to_string(), failed));
    let failed = (422, "SETUP_FAILED", "(exit code 7): why\nstandard output:\nstep 1\nstep 2");
    let body = setup("echo never", "echo step 1; echo why >&2; echo step 2; exit 7");
    cases.push(Case::refused("what it said", body.to_string(), failed));
    let failed = (422, "SETUP_FAILED", "(exit code 1): standard output:\n\u{2026}\n");
    let body = setup("echo never", "seq 1000000; exit 1");
    cases.push(Case::refused("the end of much", body.to_string(), failed));
    let slow = with(
        command("bash", "echo never"),
        json!({"setupScript": "echo so far; sleep 60", "timeoutMs": 500}),
    );
    let failed = (422, "SETUP_FAILED", " TIMED OUT after 500 ms\nstandard output:\nso far");
    cases.push(
        Case::refused("endless setup script", slow.to_string(), failed)
            .within(Duration::from_secs(2)),
    );
    cases.push(Case::new("and the next", &command("bash", "ls -A /sandbox; echo ok")).prints("ok"));
    run_cases(&api, cases).await.report();
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_do_not_come_out() {
    const SECRET: &str = "s3cr3t/va?lue!";
    let (stack, api) = Stack::serve(&json!({"worker": {"prewarm": ["python"]}}));
    let body = |text: &str, more: Value| {
        let mut wanted = json!({"secrets": {"KEY": SECRET, "EMPTY": "", "SHORT": "s3cr3t"}});
        for (name, value) in more.as_object().expect("options are an object") {
            wanted[name] = value.clone();
        }
        options(code("python", &format!("import os, sys\nk = os.environ['KEY']\n{text}")), wanted)
    };
    let plain =
        |name: &str, text: &str, out: &str| Case::new(name, &body(text, json!({}))).prints(out);
    let mut cases = vec![
        plain("as it is", "print('<' + k + '>', len(k))", "<***> 14"),
        plain("twice", "print(k + k)", "******"),
        plain(
            "base64",
            "import base64; print('<' + base64.b64encode(k.encode()).decode().rstrip('=') + '>')",
            "<***>",
        ),
        plain("hex", "print('<' + k.encode().hex() + '>')", "<***>"),
        plain("upper-case hex", "print('<' + k.encode().hex().upper() + '>')", "<***>"),
        plain(
            "percent encoding",
            "import urllib.parse as u; print('<' + u.quote(k, safe='') + '>')",
            "<***>",
        ),
        plain("in pieces", "for c in k: sys.stdout.write(c); sys.stdout.flush()", "***"),
        plain("a secret within another", "print('s3cr3t')", "***"),
        Case::new("on stderr", &body("sys.stderr.write(k)", json!({})))
            .exits(0)
            .has("stderr", "***")
            .lacks("stderr", "s3cr3t"),
        Case::new("in a traceback", &body("raise ValueError(k)", json!({})))
            .exits(1)
            .has("stderr", "ValueError: ***")
            .lacks("stderr", "s3cr3t"),
    ];
    // Wherever the output is cut, no beginning of a secret of more than a few letters is left.
    for limit in 90..=115 {
        let text = "print('x' * 90 + k + 'y' * 1000)";
        cases.push(
            Case::new(format!("cut at {limit}"), &body(text, json!({"maxOutputSize": limit})))
                .exits(0)
                .has("stdout", "OUTPUT TRUNCATED")
                .lacks("stdout", "s3c"),
        );
    }
    let mut failing = body("", json!({}));
    failing["request"]["setupScript"] = json!("echo $KEY >&2; exit 1");
    let refused = (422, "SETUP_FAILED", "Setup script failed (exit code 1): ***");
    cases.push(Case::refused("in a failing setup script", failing.to_string(), refused));
    let mut findings = run_cases(&api, cases).await;

    // Nor can they be read off the container, or stay in it.
    let container = {
        let result = api.run(body("print('in')", json!({}))).await;
        result["containerId"].as_str().unwrap_or_default().to_owned()
    };
    let inspected = tests::docker::inspect(&container).to_string();
    findings.check("docker inspect", inspected.contains(&container), &container);
    findings.check("docker inspect has no secret", !inspected.contains("s3cr3t"), &inspected);
    let next =
        api.run(command("python", "env; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'")).await;
    let seen = next["stdout"].as_str().unwrap_or_default();
    findings.check("the next job", seen.contains("HOME=") && !seen.contains("KEY="), seen);
    findings.report();
    stack.finish();
}

/// Containers that `count` jobs in a row ran in.
async fn containers(api: &Api, body: &Value, count: usize) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for _ in 0..count {
        used.insert(api.run(body.clone()).await["containerId"].to_string());
    }
    used
}

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_are_reused_or_not_as_configured() {
    let mut findings = Findings::default();
    let (stack, api) = Stack::serve(&json!({"poolStrategy": "fast"}));
    let used = containers(&api, &command("bash", "echo x"), 6).await;
    // Others are for jobs that come while the first is being cleaned.
    findings.check("fast: fewer containers than jobs", used.len() < 6, used);

    // Limits nobody keeps a sandbox ready for.
    let limits = json!({"memoryLimit": "96m", "cpuLimit": 0.5, "pidsLimit": 20,
                        "sandboxSize": "3m", "tmpSize": "2m"});
    let show = "df -k --output=size /sandbox /tmp | sort -n | tail -2 | tr '\\n' ' '; \
                cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; \
                cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null";
    let cold = api.run(options(command("bash", show), limits)).await;
    let seen: Vec<_> =
        cold["stdout"].as_str().unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    findings.note("cold: its limits", equal("seen", &seen, &["2048", "3072", "100663296", "20"]));
    findings.note("cold: says so", equal("cold", &cold["timings"]["cold"], &true));
    stack.finish();

    let (stack, api) = Stack::serve(&json!({"poolStrategy": "secure"}));
    let used = containers(&api, &command("bash", "echo x"), 4).await;
    findings.check("secure: a container for each", used.len() == 4, used);
    stack.finish();
    findings.report();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_do_not_mix() {
    let (stack, api) = Stack::serve(&json!({"worker": {"prewarm": ["python", "node", "bash"]}}));
    let mut running = tokio::task::JoinSet::new();
    for number in 0..36 {
        let api = api.clone();
        running.spawn(async move {
            let (runtime, text) = match number % 3 {
                0 => ("python", "import os; print('p' + os.environ['N'], open('f').read())"),
                1 => ("node", "import fs from 'fs'; console.log('n' + process.env.N, fs.readFileSync('f', 'utf8'))"),
                _ => ("bash", "echo b$N $(cat f)"),
            };
            let marker = format!("file-{number}");
            let fields = json!({"env": {"N": number.to_string()}, "files": {"f": marker}});
            let result = api.run(with(code(runtime, text), fields)).await;
            let letter = &runtime[..1];
            equal("stdout", &result["stdout"], &format!("{letter}{number} {marker}").as_str())
                .and_then(|()| equal("runtime", &result["runtime"], &runtime))
                .map(|()| result["executionId"].to_string())
        });
    }
    let mut findings = Findings::default();
    let mut ids = BTreeSet::new();
    while let Some(outcome) = running.join_next().await {
        ids.extend(findings.note("job", outcome.expect("no panic")));
    }
    findings.check("every job has its own id", ids.len() == 36, ids);
    findings.report();
    stack.finish();
}
