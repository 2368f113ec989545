//! Sessions: one living interpreter each, one call at a time, and an end that is always told.

use std::time::{Duration, Instant};

use bytes::Bytes;
use shared::ErrorCode;
use shared::execution::{Call, Content, FileContent, InputFile, Outcome, Phase, Stream};
use shared::id::{SessionId, TransferId};
use shared::redis::Cancelled;
use shared::runtime::Runtime;

use crate::harness::{Choices, Fleet, SOON, await_silence, containers, docker};
use crate::programs::{bash, code, command, failure, javascript, python, result};

#[tokio::test(flavor = "multi_thread")]
async fn variables_files_and_processes_survive() {
    let fleet = Fleet::start().await;
    let first = fleet.python("s", "import math\nx = 42\nopen('f', 'w').write('kept')").await;
    let state = first.session.unwrap();
    assert!(state.opened && !state.state_lost);
    assert_eq!(state.id.as_str(), "s");
    let second = fleet.python("s", "print(x, math.floor(1.5), open('f').read())").await;
    assert_eq!((second.stdout.as_str(), second.exit_code), ("42 1 kept", 0));
    let state = second.session.unwrap();
    assert!(!state.opened && !state.state_lost);
    assert_eq!(first.container_id, second.container_id);
    // Errors leave the interpreter usable.
    let failed = fleet.python("s", "import sys; sys.exit(3)").await;
    assert_eq!(failed.exit_code, 3);
    let failed = fleet.python("s", "x = = 1").await;
    assert_eq!(failed.exit_code, 1);
    assert!(failed.stderr.contains("SyntaxError"), "{}", failed.stderr);
    // A command line is a process of its own beside it.
    let line = "sleep 60 >/dev/null 2>&1 & echo $! >pid; cat f";
    assert_eq!(result(fleet.execute("s", command(line)).await).stdout, "kept");
    let last = fleet.python("s", "import os; os.kill(int(open('pid').read()), 0); print(x)").await;
    assert_eq!((last.stdout.as_str(), last.stderr.as_str()), ("42", ""));
    // Another session knows nothing of it.
    let other = fleet.python("other", "print('x' in globals())").await;
    assert_eq!(other.stdout, "False");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bash_keeps_variables_functions_and_directory() {
    let fleet = Fleet::start().await;
    let run = async |text: &str| result(fleet.execute("b", bash(text)).await);
    run("x=42; greet() { echo \"hello $1\"; }; mkdir -p d; cd d").await;
    let second = run("greet $x; basename \"$PWD\"").await;
    assert_eq!(second.stdout, "hello 42\nd");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn javascript_keeps_its_variables_and_survives_errors() {
    let fleet = Fleet::start().await;
    for runtime in [Runtime::Node, Runtime::Bun, Runtime::Deno] {
        let run = async |text: &str| {
            result(fleet.execute(runtime.name(), javascript(runtime, text)).await)
        };
        let first = run("const x = 42; function twice(n) { return 2 * n }").await;
        assert_eq!(first.exit_code, 0, "{runtime}: {}", first.stderr);
        let failed = run("throw new Error('on purpose')").await;
        assert_ne!(failed.exit_code, 0, "{runtime}");
        assert!(failed.stderr.contains("on purpose"), "{runtime}: {}", failed.stderr);
        let last = run("console.log(twice(x))").await;
        assert_eq!((last.stdout.as_str(), last.exit_code), ("84", 0), "{runtime}: {}", last.stderr);
        assert!(!last.session.unwrap().state_lost, "{runtime}");
    }
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_run_one_at_a_time_in_order_whoever_sends_them() {
    let fleet = Fleet::start().await;
    fleet.python("s", "log = []").await;
    let mut calls = Vec::new();
    for number in 0..12 {
        let code =
            format!("import time\nlog.append({number})\ntime.sleep(0.01)\nlog.append({number})");
        let call = Call::Execute { job: python(&code) };
        calls.push(fleet.call("s", &call).await.unwrap());
    }
    for call in calls {
        assert_eq!(result(fleet.ending(call).await).exit_code, 0);
    }
    let expected: Vec<_> = (0..12).flat_map(|number| [number, number]).collect();
    assert_eq!(fleet.python("s", "print(log)").await.stdout, format!("{expected:?}"));
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_interrupts_and_only_a_killed_interpreter_loses_its_state() {
    let fleet = Fleet::start().await;
    fleet.python("s", "x = 42").await;
    let mut endless = python("while True: pass");
    endless.timeout_ms = 300;
    let ended = result(fleet.execute("s", endless).await);
    assert_eq!((ended.outcome, ended.exit_code), (Outcome::TimedOut, 137));
    assert!(ended.stderr.ends_with("--- EXECUTION TIMED OUT ---"), "{}", ended.stderr);
    let next = fleet.python("s", "print(x)").await;
    assert_eq!((next.stdout.as_str(), next.session.unwrap().state_lost), ("42", false));

    let mut stubborn = python(
        "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: time.sleep(1)",
    );
    stubborn.timeout_ms = 2000;
    let ended = result(fleet.execute("s", stubborn).await);
    assert_eq!((ended.outcome, ended.exit_code), (Outcome::TimedOut, 137));
    assert!(!ended.session.unwrap().state_lost);
    assert!(!ended.stderr.contains("[isol8]"));
    // It is the next one whose variables are gone.
    let mut next = python("print('x' in globals())");
    next.stream = true;
    let id = fleet.call("s", &Call::Execute { job: next }).await.unwrap();
    let next = result(fleet.ending(id).await);
    assert!(next.session.unwrap().state_lost);
    assert_eq!(next.stdout, "False");
    let notice = "[isol8] The interpreter of this session was restarted";
    assert!(next.stderr.starts_with(notice), "{}", next.stderr);
    assert!(fleet.output(id, Phase::Code, Stream::Stderr).await.starts_with(notice));
    // And nobody is told twice.
    let after = fleet.python("s", "pass").await;
    assert!(!after.session.unwrap().state_lost);
    assert_eq!(after.stderr, "");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_kills_its_interpreter_is_told_by_the_next() {
    let fleet = Fleet::start().await;
    fleet.python("s", "x = 42").await;
    let ended = fleet.python("s", "import os; os._exit(7)").await;
    assert_eq!(ended.exit_code, 7);
    assert!(!ended.session.unwrap().state_lost);
    // A command does not run in it, so it is not the one to be told.
    let command = result(fleet.execute("s", command("true")).await);
    assert!(!command.session.unwrap().state_lost);
    assert!(fleet.python("s", "pass").await.session.unwrap().state_lost);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_memory_ends_alone() {
    let fleet = Fleet::start().await;
    let mut first = python("open('f', 'w').write('kept')");
    first.limits.memory_bytes = 64 << 20;
    let first = result(fleet.execute("s", first).await);
    let greedy = fleet.python("s", "x = b'x' * (200 << 20)").await;
    assert_eq!((greedy.outcome, greedy.exit_code), (Outcome::OutOfMemory, 137));
    let next = fleet.python("s", "print(open('f').read())").await;
    assert_eq!((next.stdout.as_str(), &next.container_id), ("kept", &first.container_id));
    assert!(next.session.unwrap().state_lost);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn setup_scripts_files_and_output_files_belong_to_every_call() {
    let fleet = Fleet::start().await;
    fleet.python("s", "pass").await;
    let mut job =
        python("import os\nopen('out', 'w').write(open('in').read() + os.environ['WHO'])");
    job.files.push(InputFile {
        path: "/sandbox/in".into(),
        content: FileContent(Bytes::from_static(b"hello ")),
    });
    job.env.insert("WHO".into(), "Ada".into());
    job.setup_script = Some("test -e in && echo ready".into());
    job.output_paths = Some(vec!["out".into(), "absent".into()]);
    job.stream = true;
    let id = fleet.call("s", &Call::Execute { job }).await.unwrap();
    let ended = result(fleet.ending(id).await);
    let files = ended.files.unwrap();
    assert_eq!((files.len(), files["out"].as_str()), (1, "aGVsbG8gQWRh"), "{}", ended.stderr);
    assert_eq!(fleet.output(id, Phase::Setup, Stream::Stdout).await, "ready\n");
    // The environment was that call's own.
    let next = fleet.python("s", "import os; print(os.environ.get('WHO'))").await;
    assert_eq!(next.stdout, "None");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_earlier_calls_stay_masked() {
    let fleet = Fleet::start().await;
    let mut first = python("import os; kept = os.environ['TOKEN']");
    first.secrets.insert("TOKEN".into(), "hunter2-hunter2".into());
    result(fleet.execute("s", first).await);
    assert_eq!(fleet.python("s", "print(kept)").await.stdout, "***");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_call_that_cannot_be_run_leaves_no_session() {
    let fleet = Fleet::start().await;
    let mut missing = python("pass");
    missing.image = "isol8-no-such-image:1".into();
    let failed = failure(fleet.execute("s", missing).await);
    assert_eq!(failed.code, ErrorCode::ImageNotFound);
    fleet.await_sessions(0).await;
    let mut setup = python("pass");
    setup.setup_script = Some("exit 3".into());
    let failed = failure(fleet.execute("s", setup).await);
    assert_eq!((failed.code, failed.setup_exit_code), (ErrorCode::SetupFailed, Some(3)));
    fleet.await_sessions(0).await;
    assert!(fleet.python("s", "pass").await.session.unwrap().opened);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_dies_takes_its_session_with_it_and_callers_are_told() {
    let fleet = Fleet::start().await;
    // While it is idle: the next caller is told, once.
    let first = fleet.python("idle", "pass").await;
    docker(&["kill", &first.container_id]);
    fleet.await_sessions(0).await;
    let next = fleet.call("idle", &Call::Execute { job: python("pass") }).await;
    assert_eq!(code(next), ErrorCode::SessionLost);
    assert!(fleet.python("idle", "pass").await.session.unwrap().opened);
    // While it works: the running call and the waiting one are told.
    let first = fleet.python("busy", "pass").await;
    let mut job = python("import time; print('on', flush=True); time.sleep(60)");
    job.stream = true;
    let running = fleet.call("busy", &Call::Execute { job }).await.unwrap();
    fleet.await_output(running, "on").await;
    let waiting = fleet.call("busy", &Call::Execute { job: python("pass") }).await.unwrap();
    docker(&["kill", &first.container_id]);
    for call in [running, waiting] {
        assert_eq!(failure(fleet.ending(call).await).code, ErrorCode::SessionLost);
    }
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_ends_the_running_call_and_removes_the_sandbox() {
    let fleet = Fleet::start().await;
    let first = fleet.python("s", "pass").await;
    let mut job = python("import time; print('on', flush=True); time.sleep(60)");
    job.stream = true;
    let running = fleet.call("s", &Call::Execute { job }).await.unwrap();
    fleet.await_output(running, "on").await;
    let id = SessionId::new("s").unwrap();
    assert!(fleet.queue.close_session(&fleet.tenant, &id).await.unwrap());
    assert_eq!(failure(fleet.ending(running).await).code, ErrorCode::Cancelled);
    let left = containers(fleet.worker().id);
    assert!(!left.contains(&first.container_id), "the caller may rely on it");
    assert!(!fleet.queue.close_session(&fleet.tenant, &id).await.unwrap());
    assert!(fleet.python("s", "pass").await.session.unwrap().opened);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_can_be_closed_while_it_is_being_opened() {
    let fleet = Fleet::start().await;
    // Its first call runs, and would have failed: there is nothing to keep.
    let mut job = python("pass");
    job.setup_script = Some("echo on; sleep 60".into());
    job.stream = true;
    let opening = fleet.call("s", &Call::Execute { job }).await.unwrap();
    let deadline = Instant::now() + SOON;
    while fleet.events(opening).await.is_empty() {
        assert!(Instant::now() < deadline, "the setup script does not run");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let id = SessionId::new("s").unwrap();
    assert!(fleet.queue.close_session(&fleet.tenant, &id).await.unwrap());
    assert_eq!(failure(fleet.ending(opening).await).code, ErrorCode::Cancelled);
    assert!(fleet.python("s", "pass").await.session.unwrap().opened);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_breaks_a_transfer_off() {
    let fleet = Fleet::start().await;
    fleet.python("s", "pass").await;
    let transfer = TransferId::generate();
    let content = Content::Transfer(transfer);
    let call = Call::Write { path: "f".into(), mode: 0o644, content };
    let running = fleet.call("s", &call).await.unwrap();
    let sender = fleet.queue.transfer(&fleet.tenant, transfer).sender(SOON).await.unwrap();
    let mut sender = sender;
    sender.send(Bytes::from(vec![1; 1_000_000])).await.unwrap();
    let id = SessionId::new("s").unwrap();
    assert!(fleet.queue.close_session(&fleet.tenant, &id).await.unwrap());
    assert_eq!(failure(fleet.ending(running).await).code, ErrorCode::Cancelled);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_call_ends_and_the_session_lives() {
    let fleet = Fleet::start().await;
    fleet.python("s", "x = 42").await;
    let mut job = python("import time; print('on', flush=True); time.sleep(60)");
    job.stream = true;
    let running = fleet.call("s", &Call::Execute { job }).await.unwrap();
    fleet.await_output(running, "on").await;
    let waiting = fleet.call("s", &Call::Execute { job: python("x = 0") }).await.unwrap();
    let cancelled = fleet.queue.cancel(&fleet.tenant, waiting).await.unwrap();
    assert_eq!(cancelled, Cancelled::Now);
    let cancelled = fleet.queue.cancel(&fleet.tenant, running).await.unwrap();
    assert_eq!(cancelled, Cancelled::Asked);
    let ended = result(fleet.ending(running).await);
    assert_eq!((ended.outcome, ended.exit_code), (Outcome::Cancelled, 137));
    assert_eq!(failure(fleet.ending(waiting).await).code, ErrorCode::Cancelled);
    assert_eq!(fleet.python("s", "print(x)").await.stdout, "42");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_session_expires() {
    let idle = Some(Duration::from_secs(3));
    let fleet = Fleet::start_with(Choices { session_idle: idle, ..Choices::default() }).await;
    // Not while a call runs, however long.
    let slow = fleet.python("s", "import time; time.sleep(4)").await;
    assert_eq!(slow.exit_code, 0);
    assert!(!fleet.python("s", "pass").await.session.unwrap().opened);
    fleet.await_sessions(0).await;
    assert!(!containers(fleet.worker().id).contains(&slow.container_id));
    assert!(fleet.python("s", "pass").await.session.unwrap().opened);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stops_lets_the_running_call_end_and_tells_the_others() {
    let mut fleet = Fleet::start().await;
    fleet.python("s", "pass").await;
    fleet.python("idle", "pass").await;
    let mut job = python("import time; print('on', flush=True); time.sleep(1); print('done')");
    job.stream = true;
    let running = fleet.call("s", &Call::Execute { job }).await.unwrap();
    fleet.await_output(running, "on").await;
    let waiting = fleet.call("s", &Call::Execute { job: python("pass") }).await.unwrap();
    fleet.stop_worker().await;
    assert_eq!(result(fleet.ending(running).await).stdout, "on\ndone");
    assert_eq!(failure(fleet.ending(waiting).await).code, ErrorCode::SessionLost);
    let next = fleet.call("idle", &Call::Execute { job: python("pass") }).await;
    assert_eq!(code(next), ErrorCode::SessionLost);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_outlives_the_grace_of_a_shutdown_is_told_that_its_session_is_lost() {
    let grace = Duration::from_millis(200);
    let mut fleet = Fleet::start_with(Choices { grace, ..Choices::default() }).await;
    fleet.python("s", "pass").await;
    let mut job = python("import time; print('on', flush=True); time.sleep(60)");
    job.stream = true;
    let running = fleet.call("s", &Call::Execute { job }).await.unwrap();
    fleet.await_output(running, "on").await;
    fleet.stop_worker().await;
    assert_eq!(failure(fleet.ending(running).await).code, ErrorCode::SessionLost);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_has_room_for_so_many_sessions_and_jobs_still_run() {
    let choices = Choices { max_sessions: 1, max_concurrent: 1, ..Choices::default() };
    let fleet = Fleet::start_with(choices).await;
    fleet.python("one", "pass").await;
    let refused = failure(fleet.execute("two", python("pass")).await);
    assert_eq!(refused.code, ErrorCode::SessionLimit);
    fleet.await_sessions(1).await;
    let job = fleet.enqueue(&python("print(1)")).await;
    assert_eq!(result(fleet.ending(job).await).stdout, "1");
    let id = SessionId::new("one").unwrap();
    assert!(fleet.queue.close_session(&fleet.tenant, &id).await.unwrap());
    assert_eq!(fleet.python("two", "print(2)").await.stdout, "2");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_callers_that_open_a_session_at_once_share_it() {
    let mut fleet = Fleet::start().await;
    fleet.add_worker(Choices::default()).await;
    let call = Call::Execute { job: python("pass") };
    let (one, other) = tokio::join!(fleet.call("s", &call), fleet.call("s", &call));
    let one = result(fleet.ending(one.unwrap()).await);
    let other = result(fleet.ending(other.unwrap()).await);
    assert_eq!(one.container_id, other.container_id);
    assert_ne!(one.session.unwrap().opened, other.session.unwrap().opened);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sessions_of_a_killed_worker_are_lost_and_their_callers_told() {
    let mut fleet = Fleet::start().await;
    fleet.python("busy", "pass").await;
    fleet.python("idle", "pass").await;
    let mut job = python("import time; print('on', flush=True); time.sleep(60)");
    job.stream = true;
    let running = fleet.call("busy", &Call::Execute { job: job.clone() }).await.unwrap();
    let opening = fleet.call("new", &Call::Execute { job }).await.unwrap();
    for call in [running, opening] {
        fleet.await_output(call, "on").await;
    }
    let waiting = fleet.call("busy", &Call::Execute { job: python("pass") }).await.unwrap();
    fleet.add_worker(Choices::default()).await;
    let killed = fleet.kill_worker();
    for call in [running, opening, waiting] {
        assert_eq!(failure(fleet.ending(call).await).code, ErrorCode::SessionLost);
    }
    let next = fleet.call("idle", &Call::Execute { job: python("pass") }).await;
    assert_eq!(code(next), ErrorCode::SessionLost);
    // A new session can be opened under the same name, on the worker that is left.
    assert!(fleet.python("idle", "pass").await.session.unwrap().opened);
    await_silence(killed).await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_outlive_a_redis_that_is_away_for_a_moment() {
    let fleet = Fleet::start().await;
    fleet.python("s", "x = 42").await;
    let call = Call::Execute { job: python("import time; time.sleep(0.3); print(x)") };
    let running = fleet.call("s", &call).await.unwrap();
    fleet.signal_redis("STOP");
    tokio::time::sleep(Duration::from_millis(800)).await;
    fleet.signal_redis("CONT");
    assert_eq!(result(fleet.ending(running).await).stdout, "42");
    assert_eq!(fleet.python("s", "print(x)").await.stdout, "42");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn executions_are_recorded_and_counted() {
    let mut fleet = Fleet::start().await;
    fleet.python("s", "print('in a session')").await;
    let job = fleet.enqueue(&python("import sys; sys.exit(3)")).await;
    fleet.ending(job).await;
    let numbers = fleet.worker().metrics.render();
    assert!(numbers.contains("isol8_sessions_open 1"), "{numbers}");
    let deadline = Instant::now() + SOON;
    while fleet.audit_log().lines().count() < 2 {
        assert!(Instant::now() < deadline, "{}", fleet.audit_log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let log = fleet.audit_log();
    assert!(log.contains("\"sessionId\":\"s\"") && log.contains("\"exitCode\":3"), "{log}");
    fleet.stop_worker().await;
    fleet.finish().await;
}
