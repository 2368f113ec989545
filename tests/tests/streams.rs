//! Output as it comes, through two gateways and two workers: what programs write, in which order,
//! what may not be seen, and how streams end when something else does.

use std::time::Duration;

use serde_json::{Value, json};
use tests::case::equal;
use tests::stream::{Events, course, joined};
use tests::{Api, Findings, Stack, code};
use tokio::time::sleep;

/// Two gateways and two workers; the numbers of the workers' processes.
fn fleet(config: &Value) -> (Stack, [Api; 2], [usize; 2]) {
    let mut stack = Stack::fleet(config);
    let gateways = [stack.gateway(), stack.gateway()];
    let workers = [stack.worker(), stack.worker()];
    (stack, gateways, workers)
}

/// A request, what it prints, and what it comes to.
struct Row {
    name: &'static str,
    body: Value,
    stdout: &'static str,
    course: &'static [&'static str],
}

fn row(
    name: &'static str,
    body: Value,
    stdout: &'static str,
    course: &'static [&'static str],
) -> Row {
    Row { name, body, stdout, course }
}

/// A program with more fields of the request.
fn with(runtime: &str, text: &str, more: &Value) -> Value {
    let mut body = code(runtime, text);
    for (key, value) in more.as_object().expect("fields") {
        body["request"][key] = value.clone();
    }
    body
}

fn rows() -> Vec<Row> {
    let split = "import sys, time\n\
                 for part in (b'\\xe2', b'\\x82', b'\\xac', b' \\xff.'):\n\
                 \x20   sys.stdout.buffer.write(part); sys.stdout.flush(); time.sleep(0.05)\n";
    vec![
        row(
            "python",
            code("python", "print('hi'); import sys; sys.exit(3)"),
            "hi\n",
            &["code exit 3"],
        ),
        row("node", code("node", "console.log('hi')"), "hi\n", &["code exit 0"]),
        row("bash", code("bash", "echo hi; echo no >&2; exit 7"), "hi\n", &["code exit 7"]),
        row("input ends at once", code("bash", "cat; echo done"), "done\n", &["code exit 0"]),
        row(
            "input ends after what was sent",
            with("bash", "cat; echo done", &json!({"stdin": "sent\n"})),
            "sent\ndone\n",
            &["code exit 0"],
        ),
        row("characters stay whole", code("python", split), "€ \u{fffd}.", &["code exit 0"]),
        row(
            "setup",
            with(
                "bash",
                "cat /tmp/x 2>/dev/null || echo code",
                &json!({"setupScript": "echo set"}),
            ),
            "code\n",
            &["setup exit 0", "code exit 0"],
        ),
        row(
            "setup fails",
            with("bash", "echo never", &json!({"setupScript": "echo set; exit 4"})),
            "",
            &["setup error Setup script failed (exit code 4)", "setup exit 4"],
        ),
        row(
            "setup times out",
            with("bash", "echo never", &json!({"setupScript": "sleep 60", "timeoutMs": 500})),
            "",
            &["setup error SETUP SCRIPT TIMED OUT", "setup exit 137"],
        ),
        row(
            "times out",
            with("bash", "echo on; sleep 60", &json!({"timeoutMs": 2000})),
            "on\n",
            &["code error EXECUTION TIMED OUT", "code exit 137"],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_stream_over_both_transports() {
    let (stack, gateways, _) = fleet(&json!({}));
    let mut findings = Findings::default();
    for row in rows() {
        for transport in ["sse", "socket"] {
            let mut stream = match transport {
                "sse" => Events::sse(&gateways[0], &row.body).await,
                _ => Events::socket(&gateways[1], &row.body).await,
            };
            let events = stream.rest().await;
            let name = format!("{}, {transport}", row.name);
            findings.note(&name, equal("stdout", &joined(&events, "stdout", "code"), &row.stdout));
            findings.note(&name, equal("course", &course(&events), &row.course));
            if row.body["request"]["setupScript"].is_string() {
                let is_set = joined(&events, "stdout", "setup") == "set\n";
                findings.check(&name, is_set || row.name == "setup times out", &events);
            }
        }
    }
    findings.report();
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn output_comes_while_the_program_runs() {
    let (stack, gateways, _) = fleet(&json!({}));
    let slow = code("python", "import time\nprint('first')\ntime.sleep(4)\nprint('second')");
    for api in &gateways {
        let mut stream = Events::sse(api, &slow).await;
        let seen = stream.until("first").await;
        assert!(!seen.contains("second"), "{seen}");
        assert_eq!(joined(&stream.rest().await, "stdout", "code").trim(), "second");
    }
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_and_limits_hold_for_streams_too() {
    let (stack, gateways, _) = fleet(&json!({}));
    let mut findings = Findings::default();
    // Written in pieces, plain and in hexadecimal, by the program and by its setup script.
    let program = "import os, sys, time\n\
                   s = os.environ['TOKEN']\n\
                   for text in (s, s.encode().hex()):\n\
                   \x20   for at in range(0, len(text), 5):\n\
                   \x20       sys.stdout.write(text[at:at + 5]); sys.stdout.flush(); time.sleep(0.02)\n\
                   \x20   print()\n";
    let mut body = with("python", program, &json!({"setupScript": "echo $TOKEN"}));
    body["options"] = json!({"secrets": {"TOKEN": "very-secret-value-7391"}});
    for stream in
        [Events::sse(&gateways[0], &body).await, Events::socket(&gateways[1], &body).await]
    {
        let mut stream = stream;
        let events = stream.rest().await;
        findings.note("masked", equal("stdout", &joined(&events, "stdout", "code"), &"***\n***\n"));
        findings.note("setup", equal("stdout", &joined(&events, "stdout", "setup"), &"***\n"));
        findings.note("ends", equal("course", &course(&events), &["setup exit 0", "code exit 0"]));
    }

    let mut long = code("python", "print('x' * 200_000)");
    long["options"] = json!({"maxOutputSize": 10_000});
    let events = Events::sse(&gateways[0], &long).await.rest().await;
    let stdout = joined(&events, "stdout", "code");
    let count = stdout.matches('x').count();
    findings.check("cut", (9_000..=10_000).contains(&count), count);
    findings.check("told", stdout.contains("OUTPUT TRUNCATED"), &stdout[stdout.len() - 200..]);
    findings.note("ends", equal("course", &course(&events), &["code exit 0"]));
    findings.report();
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn much_output_arrives_whole_and_in_order() {
    let (stack, gateways, _) = fleet(&json!({}));
    let mut body = code("python", "for n in range(200_000): print(n)");
    body["options"] = json!({"maxOutputSize": 4 << 20});
    let expected: String = (0..200_000).map(|number| format!("{number}\n")).collect();
    for stream in
        [Events::sse(&gateways[0], &body).await, Events::socket(&gateways[1], &body).await]
    {
        let mut stream = stream;
        // A reader that begins late.
        sleep(Duration::from_millis(500)).await;
        let events = stream.rest().await;
        assert!(joined(&events, "stdout", "code") == expected, "{:?}", events.last());
        assert_eq!(course(&events), ["code exit 0"]);
    }
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn input_and_signals_reach_programs() {
    let (stack, gateways, _) = fleet(&json!({}));
    let mut body = code("python", "for line in iter(input, 'end'): print('got', line, flush=True)");
    body["interactive"] = json!(true);
    let mut stream = Events::socket(&gateways[0], &body).await;
    for text in ["one", "two"] {
        stream.say(&json!({"type": "stdin", "data": format!("{text}\n")})).await;
        stream.until(&format!("got {text}\n")).await;
    }
    stream.say(&json!({"type": "stdin", "data": "end\n"})).await;
    assert_eq!(course(&stream.rest().await), ["code exit 0"]);

    // The end of the input, which a program that reads to the end waits for.
    let mut body = code("bash", "echo ready; cat; echo done");
    body["interactive"] = json!(true);
    let mut stream = Events::socket(&gateways[1], &body).await;
    stream.until("ready").await;
    stream.say(&json!({"type": "stdin", "data": "last", "eof": true})).await;
    assert_eq!(joined(&stream.rest().await, "stdout", "code"), "lastdone\n");

    // Signals, as isol8's message has them, to a program that did not ask for anything.
    let caught = "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    for (signal, program, expected) in [
        ("SIGTERM", code("bash", caught), "code exit 5"),
        (
            "SIGINT",
            code(
                "python",
                "import time, sys\ntry:\n  print('ready', flush=True); time.sleep(30)\n\
                 except KeyboardInterrupt: sys.exit(6)",
            ),
            "code exit 6",
        ),
    ] {
        let mut stream = Events::socket(&gateways[0], &program).await;
        stream.until("ready").await;
        stream.say(&json!({"type": "signal", "signal": signal})).await;
        assert_eq!(course(&stream.rest().await), [expected], "{signal}");
    }
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_its_program() {
    let (stack, gateways, _) = fleet(&json!({}));
    let endless = with("bash", "echo ready; sleep 60", &json!({"timeoutMs": 90_000}));
    let mut stream = Events::sse(&gateways[0], &endless).await;
    stream.until("ready").await;
    drop(stream);
    stack.queue().await_pending(0);
    let mut stream = Events::socket(&gateways[1], &endless).await;
    stream.until("ready").await;
    drop(stream);
    stack.queue().await_pending(0);
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_ends_the_stream_with_an_error() {
    let (mut stack, gateways, workers) = fleet(&json!({}));
    let endless = with("bash", "echo ready; sleep 60", &json!({"timeoutMs": 90_000}));
    let mut stream = Events::sse(&gateways[0], &endless).await;
    stream.until("ready").await;
    let (_, worker) = stack.queue().await_running();
    let victim = stack.process_of(&worker);
    assert!(workers.contains(&victim));
    stack.node(victim).kill();
    let events = stream.rest().await;
    // Its output was seen, so it is not run a second time.
    let last = events.last().expect("there is a last event");
    assert_eq!((&last["type"], &last["code"]), (&json!("error"), &json!("WORKER_LOST")), "{last}");
    assert!(last.get("phase").is_none(), "{last}");
    let after = Events::socket(&gateways[1], &code("bash", "echo well")).await.rest().await;
    assert_eq!(joined(&after, "stdout", "code"), "well\n");
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stops_ends_its_streams_with_an_error() {
    let (mut stack, gateways, _) = fleet(&json!({"gateway": {"shutdownGraceMs": 500}}));
    let endless = with("bash", "echo ready; sleep 60", &json!({"timeoutMs": 90_000}));
    let mut streams =
        [Events::sse(&gateways[0], &endless).await, Events::socket(&gateways[0], &endless).await];
    for stream in &mut streams {
        stream.until("ready").await;
    }
    stack.node(0).signal(nix::sys::signal::Signal::SIGTERM);
    for stream in &mut streams {
        let events = stream.rest().await;
        let last = events.last().expect("there is a last event");
        assert!(last["data"].as_str().is_some_and(|it| it.contains("shutting down")), "{last}");
    }
    stack.queue().await_pending(0);
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_may_restart_under_open_streams() {
    let (mut stack, gateways, _) = fleet(&json!({}));
    let body = with(
        "python",
        "import time\nfor n in range(30): print(n, flush=True); time.sleep(0.1)",
        &json!({"timeoutMs": 30_000}),
    );
    let mut streams =
        [Events::sse(&gateways[0], &body).await, Events::socket(&gateways[1], &body).await];
    let mut seen = Vec::new();
    for stream in &mut streams {
        seen.push(stream.until("3\n").await);
    }
    stack.redis().stop();
    sleep(Duration::from_millis(700)).await;
    stack.redis().start_again();
    let expected: String = (0..30).map(|number| format!("{number}\n")).collect();
    for (stream, seen) in streams.iter_mut().zip(seen) {
        let events = stream.rest().await;
        assert_eq!(seen + &joined(&events, "stdout", "code"), expected);
        assert_eq!(course(&events), ["code exit 0"]);
    }
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_stream_through_any_gateway() {
    let (stack, gateways, _) = fleet(&json!({}));
    let call = |text: &str| {
        let mut body = code("python", text);
        body["sessionId"] = json!("streamed");
        body
    };
    let events = Events::sse(&gateways[0], &call("x = 42; print('set')")).await.rest().await;
    assert_eq!(joined(&events, "stdout", "code"), "set\n", "{events:?}");
    let events = Events::sse(&gateways[1], &call("print(x)")).await.rest().await;
    assert_eq!(joined(&events, "stdout", "code"), "42\n", "{events:?}");
    let events = Events::socket(&gateways[0], &call("x += 1; print(x)")).await.rest().await;
    assert_eq!(joined(&events, "stdout", "code"), "43\n", "{events:?}");
    let closed = gateways[1]
        .send(reqwest::Method::DELETE, "/session/streamed", Some(tests::api::KEY), "")
        .await
        .expect("there is an answer");
    assert_eq!(closed.status, 200, "{}", closed.text);

    // Over a WebSocket isol8's client never says which session it means.
    let mut lost = code("bash", "echo x");
    lost["options"] = json!({"mode": "persistent"});
    let events = Events::socket(&gateways[0], &lost).await.rest().await;
    let notice = joined(&events, "stderr", "code");
    assert!(notice.starts_with("[isol8] No session was kept"), "{notice}");
    stack.finish();
}
