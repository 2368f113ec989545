//! Programs that go too far: each gets a clear, typed ending in time, and the next job on the same
//! worker runs as if nothing had been.

use std::time::Duration;

use serde_json::{Value, json};
use tests::case::equal;
use tests::{Api, Case, Findings, Stack, code, command};

const LIMIT: Duration = Duration::from_millis(700);

/// One job at a time, so that the next one meets whatever the last one left.
fn one_at_a_time(prewarm: &[&str]) -> (Stack, Api) {
    Stack::serve(&json!({"maxConcurrent": 1, "worker": {"prewarm": prewarm}}))
}

/// A request that may take [`LIMIT`].
fn limited(mut body: Value) -> Value {
    body["request"]["timeoutMs"] = json!(u64::try_from(LIMIT.as_millis()).expect("a short time"));
    body
}

/// Runs each case, and after each an ordinary job of each runtime in use.
async fn survive(
    api: &Api,
    ordinary: &[&str],
    cases: impl IntoIterator<Item = (&str, Case)>,
) -> Findings {
    let mut findings = Findings::default();
    for (name, case) in cases {
        let outcome = case.run(api).await;
        findings.note(name, outcome);
        for runtime in ordinary {
            let text = if *runtime == "python" { "print('fine')" } else { "echo fine" };
            let next = Case::new("next", &code(runtime, text))
                .prints("fine")
                .quietly()
                .within(Duration::from_secs(6));
            findings.note(&format!("{runtime} after {name}"), next.run(api).await);
        }
    }
    findings
}

#[tokio::test(flavor = "multi_thread")]
async fn time() {
    let (stack, api) = one_at_a_time(&["bash", "python"]);
    let row =
        |name: &'static str, body: Value| (name, Case::new(name, &limited(body)).times_out(LIMIT));
    let bash = |line: &str| command("bash", line);
    let cases = vec![
        row("sleeps", bash("sleep 60")),
        row("spins", code("python", "while True: pass")),
        row("ignores signals", bash("trap '' TERM INT HUP; while :; do sleep 0.1; done")),
        row(
            "ignores signals in python",
            code(
                "python",
                "import signal, time\nfor s in (15, 2, 1): signal.signal(s, signal.SIG_IGN)\nwhile True: time.sleep(1)",
            ),
        ),
        row("closes its output", bash("exec >&- 2>&- <&-; sleep 60")),
        row("stops itself", bash("kill -STOP $$; sleep 60")),
        row(
            "double fork, and waits",
            bash("(setsid sleep 60 &); (setsid setsid sleep 61 &); sleep 60"),
        ),
        row(
            "not dumpable",
            code(
                "python",
                "import ctypes, time\nctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\ntime.sleep(60)",
            ),
        ),
        row("prints without end", bash("yes")),
        row(
            "reads what never comes",
            code("python", "import socket\na, b = socket.socketpair()\na.recv(1)"),
        ),
    ];
    let mut findings = survive(&api, &["bash", "python"], cases).await;

    let partial = limited(command("bash", "echo before; echo trouble >&2; sleep 60; echo after"));
    let case = Case::new("", &partial)
        .times_out(LIMIT)
        .has("stderr", "trouble")
        .result(|result| equal("stdout", &result["stdout"], &"before"));
    findings.note("what was printed before is kept", case.run(&api).await);

    // The engine's own limit, where the request has none; the request's wins where it has.
    let mut engine = command("bash", "sleep 60");
    engine["options"] = json!({"timeoutMs": 700});
    let case = Case::new("", &engine).times_out(Duration::from_millis(700));
    findings.note("limit in the options", case.run(&api).await);
    let mut both = command("bash", "sleep 1; echo done");
    both["options"] = json!({"timeoutMs": 300});
    both["request"]["timeoutMs"] = json!(20_000);
    findings.note("the request's limit wins", Case::new("", &both).prints("done").run(&api).await);
    findings.report();
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn processes() {
    let (stack, api) = one_at_a_time(&["bash", "python"]);
    let soon = Duration::from_secs(1);
    let cases = vec![
        (
            "fork bomb",
            Case::new("", &limited(command("bash", ":(){ :|:& };:; sleep 60"))).fails().within(LIMIT + soon),
        ),
        (
            "fork bomb in python",
            Case::new("", &limited(code("python", "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass")))
                .fails()
                .within(LIMIT + soon),
        ),
        (
            "as many processes as allowed",
            Case::new("", &code("python", "import subprocess as s\nn = 0\ntry:\n  while n < 500: s.Popen(['sleep', '60']); n += 1\nexcept OSError: print(20 < n < 64)"))
                .prints("True")
                .within(soon),
        ),
        (
            "leaves processes behind",
            Case::new("", &command("bash", "sleep 60 & (setsid sleep 61 &); (setsid sh -c 'trap \"\" TERM; sleep 62' &); echo left"))
                .prints("left")
                .within(soon),
        ),
        (
            "leaves a process that holds its output",
            Case::new("", &command("bash", "(setsid yes >&2 &); echo left")).exits(0).within(soon),
        ),
        (
            "double fork",
            Case::new("", &code("python", "import os, time\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n    time.sleep(60)\n  os._exit(0)\nprint('left')"))
                .prints("left")
                .within(soon),
        ),
        (
            "closes its output and ends",
            Case::new("", &command("bash", "exec >&- 2>&-; exit 4")).exits(4).within(soon),
        ),
        (
            "kills all it can",
            Case::new("", &command("bash", "kill -9 -1; echo alive")).fails_or_prints("alive").within(soon),
        ),
        (
            "kills its parent",
            Case::new("", &code("python", "import os\ntry: os.kill(os.getppid(), 9)\nexcept PermissionError: print('no')"))
                .prints("no")
                .within(soon),
        ),
    ];
    let findings = survive(&api, &["bash", "python"], cases).await;
    findings.report();
    stack.finish();
}

/// Endings that depend on which process the kernel hits.
trait Lenient {
    fn fails_or_prints(self, text: &'static str) -> Self;
}

impl Lenient for Case {
    fn fails_or_prints(self, text: &'static str) -> Self {
        self.lacks("stderr", "TIMED OUT").result(move |result| {
            if result["exitCode"] == 0 { equal("stdout", &result["stdout"], &text) } else { Ok(()) }
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_and_disk() {
    let (stack, api) = one_at_a_time(&["bash", "python"]);
    let small = |mut body: Value, options: Value| {
        body["options"] = options;
        body["request"]["timeoutMs"] = json!(15_000);
        body
    };
    let hog = "b = []\nwhile True: b.append(bytearray(8 << 20))";
    let shm = "head -c 400000000 /dev/zero > /sandbox/big; echo $?";
    let out_of_memory = |name, body: &Value| {
        let case = Case::new(name, body)
            .outcome("out_of_memory")
            .fails()
            .lacks("stderr", "TIMED OUT")
            .within(Duration::from_secs(6));
        (name, case)
    };
    let cases = vec![
        out_of_memory("100 MB under 32 MB", &small(code("python", "b = bytearray(100 << 20); print(len(b))"), json!({"memoryLimit": "32m"}))),
        out_of_memory("a hog under 64 MB", &small(code("python", hog), json!({"memoryLimit": "64m"}))),
        out_of_memory("a hog under the default", &small(code("python", hog), json!({}))),
        out_of_memory("a shell's hog", &small(command("bash", "x=$(yes | head -c 300000000); echo ${#x}"), json!({"memoryLimit": "48m"}))),
        (
            "a child's hog is the parent's to tell",
            Case::new(
                "",
                &small(
                    code("python", &format!("import subprocess as s, sys\np = s.run([sys.executable, '-c', {hog:?}])\nprint(p.returncode)")),
                    json!({"memoryLimit": "64m"}),
                ),
            )
            .prints("-9"),
        ),
        (
            "full disk",
            Case::new("", &small(command("bash", "head -c 20000000 /dev/zero > /sandbox/big"), json!({"sandboxSize": "4m"})))
                .exits(1)
                .has("stderr", "No space left on device"),
        ),
        (
            "full /tmp",
            Case::new("", &small(command("bash", "head -c 20000000 /dev/zero > /tmp/big"), json!({"tmpSize": "4m"})))
                .exits(1)
                .has("stderr", "No space left on device"),
        ),
        (
            "disk is memory",
            Case::new("", &small(command("bash", shm), json!({"memoryLimit": "64m", "sandboxSize": "1g"})))
                .fails_or_prints("137")
                .within(Duration::from_secs(8)),
        ),
        (
            "no room for the files",
            Case::refused(
                "",
                {
                    let mut body = small(command("bash", "true"), json!({"sandboxSize": "64k"}));
                    body["request"]["files"] = json!({"big": "x".repeat(1 << 20)});
                    body.to_string()
                },
                (422, "FILE_WRITE_FAILED", "Failed to write file /sandbox/big in container (exit code"),
            ),
        ),
        (
            "every file there can be",
            Case::new("", &small(command("bash", "i=0; while [ $i -lt 3000 ]; do : > f$i || exit 9; i=$((i+1)); done; echo end"), json!({})))
                .prints("end"),
        ),
    ];
    let findings = survive(&api, &["bash", "python"], cases).await;
    findings.report();
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn output() {
    let (stack, api) = one_at_a_time(&["bash"]);
    let with = |line: &str, limit: u64| {
        let mut body = command("bash", line);
        body["options"] = json!({"maxOutputSize": limit});
        body
    };
    let truncated =
        |expected: bool| move |result: &Value| equal("truncated", &result["truncated"], &expected);
    let cases = vec![
        (
            "at the limit",
            Case::new("", &with("printf 12345678", 8)).prints("12345678").result(truncated(false)),
        ),
        (
            "one over the limit",
            Case::new("", &with("printf 123456789", 8))
                .prints("12345678\n\n--- OUTPUT TRUNCATED (9 bytes, limit: 8) ---")
                .result(truncated(true)),
        ),
        (
            "each stream on its own",
            Case::new("", &with("printf 1234; printf 123456789 >&2", 8))
                .prints("1234")
                .has("stderr", "12345678\n\n--- OUTPUT TRUNCATED (9 bytes, limit: 8) ---")
                .result(truncated(true)),
        ),
        (
            "no character in half",
            Case::new("", &with("printf 'ab\\u00e9\\u00e9'", 5))
                .has("stdout", "abé\n\n---")
                .result(truncated(true)),
        ),
        (
            "none at all",
            Case::new("", &with("echo x", 0)).exits(0).has("stdout", "(2 bytes, limit: 0)"),
        ),
        (
            "the default limit",
            Case::new("", &command("bash", "head -c 1048577 /dev/zero | tr '\\0' x"))
                .exits(0)
                .has("stdout", "--- OUTPUT TRUNCATED (1048577 bytes, limit: 1048576) ---")
                .result(truncated(true)),
        ),
        ("not text", Case::new("", &command("bash", "printf 'a\\377b'")).prints("a\u{fffd}b")),
        (
            "a gigabyte",
            Case::new("", &command("bash", "head -c 1073741824 /dev/zero"))
                .exits(0)
                .has("stdout", "--- OUTPUT TRUNCATED (1073741824 bytes, limit: 1048576) ---")
                .within(Duration::from_secs(30)),
        ),
        (
            "the largest that is kept",
            Case::new("", &with("head -c 16777216 /dev/zero | tr '\\0' x", 16 << 20))
                .exits(0)
                .result(|result| {
                    equal("length", &result["stdout"].as_str().map(str::len), &Some(16 << 20))
                }),
        ),
    ];
    let findings = survive(&api, &["bash"], cases).await;
    findings.report();
    stack.finish();
}
