//! Starting, streams, endings: what a program and the worker see of each other.

mod harness;

use harness::*;
use runner::protocol::*;

#[test]
fn plain_program_runs_as_the_sandbox_user() {
    let mut sandbox = Sandbox::new("python");
    let outcome =
        sandbox.shell("id -u; id -g; id -G; umask; ulimit -c; pwd; echo oops >&2; exit 3");
    assert_eq!(outcome.out(), "100\n101\n101\n0022\n0\n/sandbox\n");
    assert_eq!(outcome.err(), "oops\n");
    assert_eq!(outcome.exited.exit_code, 3);
    assert!(!outcome.started.expect("it started").prepared);
    assert!(sandbox.reset().detail.is_none());
    assert!(sandbox.close().success());
}

#[test]
fn prepared_python_runs_again_and_again() {
    let mut sandbox = Sandbox::prepared_python();
    for round in 0..5 {
        let mut start = python(&format!("import os; print({round}, os.getuid(), os.getgroups())"));
        start.prepared = true;
        let outcome = sandbox.run(&start);
        assert_eq!((outcome.out(), outcome.err()), (format!("{round} 100 []\n"), String::new()));
        assert_eq!(outcome.exited.exit_code, 0);
        assert!(outcome.started.expect("it started").prepared);
        assert!(sandbox.reset().prepared);
    }
}

#[test]
fn prepared_node_runs_again_and_again() {
    let mut sandbox = Sandbox::new("node");
    sandbox.prepare(Interpreter::Node, &["node", "/sandbox/main.mjs"]);
    for path in ["/sandbox/main.mjs", "/sandbox/main.cjs", "/sandbox/main.js"] {
        let mut start =
            with_code(&["node", path], path, "console.log(process.argv[1], process.execArgv)");
        start.prepared = true;
        let outcome = sandbox.run(&start);
        assert_eq!((outcome.out(), outcome.err()), (format!("{path} []\n"), String::new()));
        assert!(outcome.started.expect("it started").prepared);
        assert!(sandbox.reset().prepared);
    }
}

#[test]
fn unfit_jobs_are_started_plainly() {
    let mut sandbox = Sandbox::prepared_python();
    let outcome = sandbox.run(&Start { prepared: true, ..shell("echo plain") });
    assert_eq!(outcome.out(), "plain\n");
    assert!(!outcome.started.expect("it started").prepared);
    assert!(sandbox.reset().prepared);
}

/// The end of a plain program takes the waiting child with it, and a reset the one that was to take its
/// place: what the server tells of that one must not be taken for news of the next.
#[test]
fn a_child_given_up_before_it_was_known_is_not_taken_for_the_next() {
    let mut sandbox = Sandbox::prepared_python();
    for round in 0..20 {
        sandbox.run(&shell("true"));
        assert!(sandbox.reset().prepared);
        let mut start = python(&format!("print({round})"));
        start.prepared = true;
        let outcome = sandbox.run(&start);
        assert_eq!((outcome.out(), outcome.exited.timed_out), (format!("{round}\n"), false));
        assert!(sandbox.reset().prepared);
    }
}

/// More frames at once than one turn of the runner takes, and nothing after them.
#[test]
fn a_runner_with_nothing_to_do_uses_no_time() {
    let mut sandbox = Sandbox::new("python");
    let mut burst = Vec::new();
    for number in 0..40 {
        let path = format!("file{number}");
        put_message(&mut burst, Kind::FileBegin, &FileBegin { path, mode: 0o644, size_bytes: 0 })
            .expect("it is short");
        put_frame(&mut burst, Kind::FileEnd, b"");
    }
    let spent = "sleep 2; read -r -a stat < /proc/1/stat; echo $((stat[13] + stat[14]))";
    let program = start(&["bash", "-c", spent]);
    put_message(&mut burst, Kind::Start, &program).expect("it is short");
    sandbox.send_raw(&burst);
    let outcome = sandbox.collect();
    let ticks: u64 = outcome.out().trim().parse().expect("a number");
    assert!(ticks < 100, "the runner was busy for {ticks} of 200 ticks");
}

#[test]
fn failed_starts_name_the_step() {
    let mut sandbox = Sandbox::new("python");
    let failed = |outcome: Outcome| outcome.failed.expect("it cannot start");
    let missing = failed(sandbox.run(&start(&["no-such-program"])));
    assert_eq!((missing.stage, missing.errno), (Stage::Exec, 2));
    assert_eq!(missing.message, "No such file or directory");
    let denied = failed(sandbox.run(&start(&["/etc/passwd"])));
    assert_eq!((denied.stage, denied.errno), (Stage::Exec, 13));
    let cwd = failed(sandbox.run(&Start { cwd: "/nowhere".to_owned(), ..shell("true") }));
    assert_eq!((cwd.stage, cwd.path.as_str()), (Stage::Cwd, "/nowhere"));
    let code = failed(sandbox.run(&with_code(&["sh"], "/etc/x/main", "")));
    assert_eq!((code.stage, code.path.as_str()), (Stage::File, "/etc/x/main"));
    assert_eq!(sandbox.shell("echo fine").out(), "fine\n");
}

#[test]
fn failed_prepared_starts_name_the_step() {
    let mut sandbox = Sandbox::prepared_python();
    for (cwd, path, stage) in
        [("/nowhere", "/sandbox/main.py", Stage::Cwd), ("/sandbox", "/etc/x/main.py", Stage::File)]
    {
        let mut start = with_code(&["python3", "/sandbox/main.py"], path, "print(1)");
        start.cwd = cwd.to_owned();
        start.prepared = true;
        assert_eq!(sandbox.run(&start).failed.expect("it cannot start").stage, stage);
        assert!(sandbox.reset().prepared);
    }
}

#[test]
fn signal_exit_is_reported() {
    let mut sandbox = Sandbox::new("python");
    let outcome = sandbox.shell("kill -TERM $$");
    assert_eq!((outcome.exited.exit_code, outcome.exited.signal), (143, Some(15)));
    sandbox.send(
        Kind::Start,
        &shell("trap 'echo got it; exit 7' USR1; echo up; while :; do sleep 0.05; done"),
    );
    while sandbox.next().kind != Kind::Stdout {}
    sandbox.send(Kind::Signal, &Signal { number: 10 });
    let outcome = sandbox.collect();
    assert_eq!((outcome.out().as_str(), outcome.exited.exit_code), ("got it\n", 7));
}

#[test]
fn hundred_megabytes_are_counted_but_cut() {
    let mut sandbox = Sandbox::new("python");
    let mut start = shell("head -c 104857600 /dev/zero; echo done >&2");
    start.output_limit_bytes = 1_000_000;
    let outcome = sandbox.run(&start);
    assert_eq!(outcome.stdout.len(), 1_000_000);
    assert_eq!(outcome.exited.stdout_bytes, 104_857_600);
    assert_eq!(outcome.err(), "done\n");
    start.output_limit_bytes = u64::MAX;
    assert_eq!(sandbox.run(&start).stdout.len(), 104_857_600);
}

#[test]
fn stdin_reaches_the_program_within_its_window() {
    let mut sandbox = Sandbox::new("python");
    sandbox.send(Kind::Start, &Start { stdin: true, ..shell("wc -c") });
    let mut credit = STDIN_WINDOW_BYTES as u64;
    let chunk = vec![7; DATA_CHUNK_BYTES];
    for _ in 0..64 {
        while credit < chunk.len() as u64 {
            let frame = sandbox.next();
            if frame.kind == Kind::StdinAck {
                credit += frame.message::<StdinAck>().bytes;
            }
        }
        credit -= chunk.len() as u64;
        sandbox.send_data(Kind::Stdin, &chunk);
    }
    sandbox.send_data(Kind::StdinEnd, b"");
    assert_eq!(sandbox.collect().out().trim(), (64 * DATA_CHUNK_BYTES).to_string());
}

#[test]
fn closed_stdin_is_discarded_and_acknowledged() {
    let mut sandbox = Sandbox::new("python");
    let script = "exec 0<&-; until test -e go; do sleep 0.02; done; echo end";
    sandbox.send(Kind::Start, &Start { stdin: true, ..shell(script) });
    let mut acknowledged = 0;
    for _ in 0..4 {
        sandbox.send_data(Kind::Stdin, &vec![1; DATA_CHUNK_BYTES]);
    }
    while acknowledged < 4 * DATA_CHUNK_BYTES as u64 {
        let frame = sandbox.next();
        if frame.kind == Kind::StdinAck {
            acknowledged += frame.message::<StdinAck>().bytes;
        }
    }
    sandbox.put_file("go", b"");
    assert_eq!(sandbox.collect().out(), "end\n");
}

#[test]
fn no_stdin_reads_as_end_of_file() {
    let mut sandbox = Sandbox::new("python");
    assert_eq!(sandbox.shell("cat; echo end").out(), "end\n");
}

#[test]
fn kill_is_not_stuck_behind_unread_stdin() {
    let mut sandbox = Sandbox::new("python");
    sandbox.send(Kind::Start, &Start { stdin: true, ..shell("sleep 60") });
    sandbox.send_data(Kind::Stdin, &vec![1; STDIN_WINDOW_BYTES]);
    sandbox.send_data(Kind::Kill, b"");
    let exited = sandbox.collect().exited;
    assert!(exited.killed && exited.exit_code == 137 && !exited.timed_out);
}

#[test]
fn usage_is_the_kernels_own() {
    let mut sandbox = Sandbox::prepared_python();
    let text = "x = bytearray(50 << 20)\nn = 0\nfor i in range(3000000): n += i";
    for prepared in [true, false] {
        let exited = sandbox.run(&Start { prepared, ..python(text) }).exited;
        assert!(exited.peak_memory_bytes > 50 << 20, "{exited:?}");
        assert!(
            exited.cpu_user_us + exited.cpu_system_us > 20_000 && exited.wall_us > 20_000,
            "{exited:?}"
        );
        sandbox.reset();
    }
}
