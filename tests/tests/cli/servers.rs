//! Programs run on a server, and the command that starts one.

use serde_json::json;
use tests::api::KEY;
use tests::case::equal;
use tests::node::{Node, START_TIMEOUT};
use tests::{Findings, Stack, binary};

use super::{check, directory, run, write};

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
                "file",
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
    // The server's own Redis is found and fit.
    let mut command = stack.isol8();
    command.args(["doctor", "--data-dir", "data"]);
    let told = run(command, "").stdout;
    for text in ["OK    redis: version ", "OK    redis memory: noeviction", "append-only file"] {
        findings.check("doctor", told.contains(text), &told);
    }
    findings.report();
    stack.finish();
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

    // Its clients and its load balancer know it by this port alone. The queue need not be there.
    let mut command = stack.isol8();
    command.args(["gateway", "--redis", "redis://127.0.0.1:1", "--key", KEY, "--port", &port]);
    let did = run(command, "");
    findings.note("a gateway's port", equal("exit code", &did.code, &Some(1)));
    let told = format!("cannot listen on 127.0.0.1:{port}");
    findings.check("a gateway's port", did.stderr.contains(&told), did.stderr);

    let mut command = stack.isol8();
    command.args(["serve", "--no-op", "--key", KEY, "--port", &port, "--data-dir", "other"]);
    command.args(["--update", "--auth-db", "postgres://user:hush@host/db"]);
    let mut second = Node::start("second", command);
    let other = second.await_port();
    for text in ["[WARN] Port ", "[INFO] --update: ", "[INFO] --auth-db: "] {
        second.await_line(text, START_TIMEOUT);
    }
    findings.check("no password", second.log().find("hush").is_empty(), second.log().text());
    let mut command = binary::command(stack.path());
    command.args(["keys", "create", "k", "--host", &format!("http://localhost:{other}")]);
    command.args(["--key", KEY]);
    let made = run(command, "");
    findings.check("keys are on", made.stdout.starts_with("isol8_"), made.stderr);
    findings.check("another port", other.to_string() != port, other);
    let reply = tests::Api::new(other).run(tests::command("bash", "echo x")).await;
    findings.note("it serves", equal("exit code", &reply["exitCode"], &0));
    findings.note("and stops", second.stop());
    findings.report();
    stack.finish();
}
