//! What isol8's own engine and command-line tests check, where
//! `tests/tests/{jobs,limits,security}.rs` do not show it already: here with sessions.

use reqwest::Method;
use serde_json::{Value, json};
use tests::api::KEY;
use tests::{Api, Findings};

use super::{fleet, settings};

/// Code, standard output, exit code.
type Call = (&'static str, &'static str, i64);

async fn call(api: &Api, id: &str, runtime: &str, text: &str) -> Value {
    api.run(
        json!({"request": {"runtime": runtime, "code": text, "timeoutMs": 30_000}, "sessionId": id}),
    )
    .await
}

/// State of every runtime: variables, functions, imports, files, background processes.
#[tokio::test(flavor = "multi_thread")]
async fn interpreters_live_from_call_to_call() {
    let (stack, gateways) = fleet(&settings());
    let mut findings = Findings::default();
    let rows: [(&str, &[Call]); 5] = [
        (
            "python",
            &[
                ("x = 42\nimport math\ndef double(n): return n * 2", "", 0),
                ("print(x, double(math.floor(2.5)))", "42 4", 0),
                ("import sys; x += 1; sys.exit(3)", "", 3),
                ("print(x)", "43", 0),
                ("raise ValueError('boom')", "", 1),
                ("def broken(:", "", 1),
                ("print(x)", "43", 0),
                ("import os; os.chdir('/tmp'); open('/sandbox/f', 'w').write('kept')", "", 0),
                ("print(open('/sandbox/f').read())", "kept", 0),
                (
                    "import subprocess; p = subprocess.Popen(['sleep', '300']); print(p.poll())",
                    "None",
                    0,
                ),
                ("print(p.poll())", "None", 0),
            ],
        ),
        (
            "node",
            &[
                ("const x = 42; import os from 'node:os'; function f() { return x + 1 }", "", 0),
                ("console.log(x, f(), typeof os.cpus)", "42 43 function", 0),
                ("let n = await Promise.resolve(1); const inc = () => ++n", "", 0),
                ("inc(); console.log(n)", "2", 0),
                ("process.exit(3)", "", 3),
                ("throw new Error('boom')", "", 1),
                ("let = ;", "", 1),
                ("const x = 7; console.log(x, n)", "7 2", 0),
            ],
        ),
        (
            "bun",
            &[
                ("const x: number = 42; function f(): number { return x + 1 }", "", 0),
                ("console.log(x, f())", "42 43", 0),
                ("process.exit(3)", "", 3),
                ("throw new Error('boom')", "", 1),
                ("console.log(x)", "42", 0),
            ],
        ),
        (
            "deno",
            &[
                ("const x: number = 42; function f(): number { return x + 1 }", "", 0),
                ("console.log(x, f())", "42 43", 0),
                ("Deno.exit(3)", "", 3),
                ("throw new Error('boom')", "", 1),
                ("console.log(x)", "42", 0),
            ],
        ),
        (
            "bash",
            &[
                ("x=42; f() { echo \"f $1\"; }; cd /tmp; a=(1 2 3)", "", 0),
                ("echo $x ${#a[@]}; f y; pwd", "42 3\nf y\n/tmp", 0),
                ("x=43; exit 3", "", 3),
                ("echo $x", "43", 0),
                ("if then", "", 2),
                ("set -e; false; echo no", "", 1),
                ("echo $x", "43", 0),
            ],
        ),
    ];
    for (runtime, calls) in rows {
        for (number, (text, stdout, exit_code)) in calls.iter().enumerate() {
            let result = call(&gateways[number % 2], runtime, runtime, text).await;
            let is_right = result["stdout"] == *stdout && result["exitCode"] == *exit_code;
            findings.check(&format!("{runtime} {number}: {text}"), is_right, &result);
        }
        let path = format!("/session/{runtime}");
        gateways[0].send(Method::DELETE, &path, Some(KEY), "").await.expect("an answer");
    }
    findings.report();
    stack.finish();
}

/// A timeout interrupts first; only what does not give in is killed, and the next call says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_keeps_the_state_if_it_can() {
    let (stack, [first, second]) = fleet(&settings());
    let mut findings = Findings::default();
    let slow = |text: &str| json!({"request": {"runtime": "python", "code": text, "timeoutMs": 2000}, "sessionId": "t"});
    call(&first, "t", "python", "x = 42").await;
    let late = second.run(slow("import time; time.sleep(60)")).await;
    let has_marks = late["exitCode"] == 137
        && late["stderr"].as_str().is_some_and(|it| it.contains("--- EXECUTION TIMED OUT ---"));
    findings.check("timed out", has_marks, &late);
    let kept = call(&first, "t", "python", "print(x)").await;
    findings.check("interrupted, state kept", kept["stdout"] == "42", &kept);
    findings.check("nothing to announce", kept["session"]["stateLost"] == false, &kept);

    let stubborn = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass";
    let killed = second.run(slow(stubborn)).await;
    findings.check("killed in the end", killed["exitCode"] == 137, &killed);
    let fresh = call(&first, "t", "python", "print('x' in globals())").await;
    let is_told = fresh["stdout"] == "False"
        && fresh["session"]["stateLost"] == true
        && fresh["stderr"].as_str().is_some_and(|it| it.contains("restarted"));
    findings.check("the next call says that state was lost", is_told, &fresh);
    let after = call(&second, "t", "python", "print(1)").await;
    let is_quiet = after["stderr"] == "" && after["session"]["stateLost"] == false;
    findings.check("and only that one", is_quiet, &after);
    first.send(Method::DELETE, "/session/t", Some(KEY), "").await.expect("an answer");
    findings.report();
    stack.finish();
}
