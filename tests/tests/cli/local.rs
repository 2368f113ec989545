//! Programs run on this machine, without any server.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tests::case::equal;
use tests::docker::containers;
use tests::node::{Node, START_TIMEOUT, STOP_TIMEOUT};
use tests::{Findings, binary};

use super::{check, directory, write};

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
            (&["run", "--cmd", "ls", "a.py"], "", 1, "", "[ERR] --cmd cannot be combined"),
            (&["run", "--url", "https://h/a.py", "a.py"], "", 1, "", "cannot be combined"),
            (&["run", "--url", "https://h/a"], "", 1, "", "[ERR] Cannot detect runtime for https"),
            (&["run", "--github", "a/b.py"], "", 1, "", "[ERR] --github \"a/b.py\" is not"),
            (&["run", "--gist", "a.py"], "", 1, "", "[ERR] --gist \"a.py\" is not"),
            (&["run", "-e", "", "a.py"], "", 0, "py\n", ""),
            (&["run", "-r", "bash"], "echo piped program", 0, "piped program\n", ""),
            (&["run", "-r", "bash", "-e", "cat; echo end"], "not for it", 0, "end\n", ""),
            (&["run", "-e", "import sys; sys.exit(5)"], "", 5, "", ""),
            (&["run", "-r", "bash", "-e", "exit 7"], "", 7, "", ""),
            (
                &["run", "-e", "1", "--session-id", "s"],
                "",
                1,
                "",
                "[ERR] --session-id requires --host",
            ),
            (&["run", "-e", "print(1)", "--persistent"], "", 0, "1\n", "[Run] Session ID: cli-"),
            (&["run", "--url", "https://h/a.py"], "", 1, "", "Remote code fetching is disabled"),
            (
                &["run", "-e", "1", "--install", "a;b"],
                "",
                1,
                "",
                "[ERR] Invalid package name for python",
            ),
            (
                &["run", "-e", "1", "--net", "filtered", "--allow", "("],
                "",
                1,
                "",
                "networkFilter.whitelist: \"(\" is not a valid pattern: unclosed group",
            ),
            (&["run", "-e", "1", "--persist"], "", 1, "", "does not offer keeping a container"),
            (&["run", "-e", "1", "--net", "all"], "", 1, "", "[ERR] unknown network mode \"all\""),
            (&["--debug", "run", "-e", "print(1)"], "", 0, "1\n", "[DEBUG] "),
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
                &["run", "-r", "bash", "-e", "echo a; sleep 60", "--timeout", "2000"],
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
                9,
                "",
                "why\n[ERR] Setup script failed (exit code 9)",
            ),
            (
                &["run", "--no-stream", "-r", "bash", "-e", "x", "--setup", "echo why >&2; exit 9"],
                "",
                1,
                "",
                "[ERR] Setup script failed (exit code 9): why",
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
                "kept\n",
                "[Run] Output written to o.txt",
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
fn a_reader_that_has_seen_enough_ends_the_run() {
    use std::io::{BufRead as _, BufReader};
    use std::process::Stdio;
    let here = directory();
    let mut command = binary::command(here.path());
    command.args(["run", "-r", "bash", "-e", "while :; do echo more; done"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("it is piped"))
        .read_line(&mut line)
        .expect("it writes");
    // Reader and pipe are gone. The program would go on until its time is up.
    let output = child.wait_with_output().expect("it ends");
    let mut findings = Findings::default();
    findings.note("seen", equal("line", &line.as_str(), &"more\n"));
    findings.note("quietly", equal("exit code", &output.status.code(), &Some(141)));
    findings.check("quietly", output.stderr.is_empty(), String::from_utf8_lossy(&output.stderr));
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
        let status = node.wait(STOP_TIMEOUT);
        if signal != Signal::SIGKILL {
            let code = status.map(|status| status.code());
            findings
                .note(signal.as_str(), code.and_then(|code| equal("exit code", &code, &Some(0))));
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
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

#[test]
fn what_a_program_makes_comes_into_a_directory() {
    let here = directory();
    write(&here, "in/old.txt", "old");
    write(&here, "in/kept.txt", "kept");
    let line =
        "echo new > old.txt; mkdir -p a; echo made > a/b.txt; ln -s /etc link; echo x > .hidden";
    let arguments = ["run", "--cmd", line, "--files", "in", "--out-dir", "out"];
    let did = super::isol8(here.path(), &arguments, "");
    assert_eq!((did.code, did.stdout.as_str()), (Some(0), ""), "{}", did.stderr);
    assert!(did.stderr.contains("[Run] 2 files written to out"), "{}", did.stderr);
    let read = |path: &str| std::fs::read_to_string(here.path().join("out").join(path)).ok();
    assert_eq!(read("old.txt").as_deref(), Some("new\n"));
    assert_eq!(read("a/b.txt").as_deref(), Some("made\n"));
    assert_eq!((read("kept.txt"), read("link/passwd"), read(".hidden")), (None, None, None));
}
