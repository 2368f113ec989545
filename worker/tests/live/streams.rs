//! Output as it comes, input while it runs, and cancelling.

use std::time::Duration;

use bytes::Bytes;
use shared::ErrorCode;
use shared::execution::{EventKind, Input, Outcome, Phase, Stream};
use shared::redis::{Cancelled, Taking};

use crate::harness::{Choices, Fleet, await_silence, containers, docker};
use crate::programs::{bash, failure, python, result};

#[tokio::test(flavor = "multi_thread")]
async fn output_is_published_in_order_with_its_phases() {
    let fleet = Fleet::start().await;
    let mut job = python(
        "import sys\nprint('out')\nprint('err', file=sys.stderr)\nprint('\u{20ac}' * 100000)",
    );
    job.setup_script = Some("echo setting up; echo oops >&2".into());
    job.stream = true;
    let id = fleet.enqueue(&job).await;
    let ended = result(fleet.ending(id).await);
    let events = fleet.events(id).await;
    assert_eq!(ended.events, events.len() as u64);
    let setup_end = events.iter().position(|event| event.kind == EventKind::SetupEnded).unwrap();
    assert!(events[..=setup_end].iter().all(|event| event.phase == Phase::Setup));
    assert!(events[setup_end + 1..].iter().all(|event| event.phase == Phase::Code));
    assert_eq!(fleet.output(id, Phase::Setup, Stream::Stdout).await, "setting up\n");
    assert_eq!(fleet.output(id, Phase::Setup, Stream::Stderr).await, "oops\n");
    assert_eq!(fleet.output(id, Phase::Code, Stream::Stderr).await, "err\n");
    let stdout = fleet.output(id, Phase::Code, Stream::Stdout).await;
    assert_eq!(stdout.trim_end(), ended.stdout);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_cut_at_the_limit_and_says_so() {
    let fleet = Fleet::start().await;
    let mut job = python("print('x' * 5000, end='')");
    job.limits.max_output_bytes = 1000;
    job.stream = true;
    let id = fleet.enqueue(&job).await;
    let ended = result(fleet.ending(id).await);
    assert!(ended.truncated);
    let marker = "\n\n--- OUTPUT TRUNCATED (5000 bytes, limit: 1000) ---";
    let expected = "x".repeat(1000) + marker;
    assert_eq!(fleet.output(id, Phase::Code, Stream::Stdout).await, expected);
    assert_eq!(ended.stdout, expected);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_split_across_writes_is_masked() {
    let fleet = Fleet::start().await;
    let mut job = python(
        "import os, sys, time\nfor c in 'a ' + os.environ['TOKEN'] + ' b':\n  \
         print(c, end='', flush=True)\n  time.sleep(0.01)",
    );
    job.secrets.insert("TOKEN".into(), "hunter2-hunter2".into());
    job.stream = true;
    let id = fleet.enqueue(&job).await;
    assert_eq!(result(fleet.ending(id).await).stdout, "a *** b");
    assert_eq!(fleet.output(id, Phase::Code, Stream::Stdout).await, "a *** b");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setup_script_that_fails_tells_its_exit_code() {
    let fleet = Fleet::start().await;
    let mut job = python("pass");
    job.setup_script = Some("echo no; exit 5".into());
    job.stream = true;
    let id = fleet.enqueue(&job).await;
    let failed = failure(fleet.ending(id).await);
    assert_eq!((failed.code, failed.setup_exit_code), (ErrorCode::SetupFailed, Some(5)));
    assert_eq!(failed.events, 1);
    job.setup_script = Some("sleep 60".into());
    job.timeout_ms = 300;
    let id = fleet.enqueue(&job).await;
    assert_eq!(failure(fleet.ending(id).await).setup_exit_code, Some(137));
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_appears_at_once_and_input_reaches_the_program() {
    let fleet = Fleet::start().await;
    let mut job = python(
        "print('name? ', end='', flush=True)\nname = input()\nprint('hello', name, flush=True)\n\
         import sys\nprint(len(sys.stdin.read()))",
    );
    job.stream = true;
    job.interactive = true;
    // Long secrets must not hold the prompt back.
    job.secrets.insert("TOKEN".into(), "a-long-secret-".repeat(20));
    let id = fleet.enqueue(&job).await;
    fleet.await_output(id, "name? ").await;
    let send =
        async |input: Input| fleet.queue.send_input(&fleet.tenant, id, &input).await.unwrap();
    assert_eq!(send(Input::Stdin(Bytes::from_static(b"Ada\n"))).await, Taking::Taken);
    fleet.await_output(id, "hello Ada").await;
    // More than the runner's window at once.
    for _ in 0..10 {
        while send(Input::Stdin(Bytes::from(vec![b'x'; 60_000]))).await == Taking::Full {}
    }
    while send(Input::StdinEnd).await == Taking::Full {}
    let ended = result(fleet.ending(id).await);
    assert!(ended.stdout.ends_with("600000"), "{}", ended.stdout);
    assert_eq!(send(Input::StdinEnd).await, Taking::Over);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_reaches_the_program() {
    let fleet = Fleet::start().await;
    let mut job = bash("trap 'echo caught; exit 4' INT; echo on; while :; do sleep 0.05; done");
    job.stream = true;
    job.interactive = true;
    let id = fleet.enqueue(&job).await;
    fleet.await_output(id, "on").await;
    fleet.queue.send_input(&fleet.tenant, id, &Input::Signal(2)).await.unwrap();
    let ended = result(fleet.ending(id).await);
    assert_eq!((ended.exit_code, ended.stdout.as_str()), (4, "on\ncaught"));
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn input_and_signals_reach_a_session_whose_interpreter_lives_on() {
    let fleet = Fleet::start().await;
    fleet.python("s", "x = 42").await;
    let mut job = python("print('on', flush=True)\nprint(input())\nimport time\ntime.sleep(60)");
    job.stream = true;
    job.interactive = true;
    let call = shared::execution::Call::Execute { job };
    let id = fleet.call("s", &call).await.unwrap();
    fleet.await_output(id, "on").await;
    let line = Input::Stdin(Bytes::from_static(b"typed\n"));
    fleet.queue.send_input(&fleet.tenant, id, &line).await.unwrap();
    fleet.await_output(id, "typed").await;
    fleet.queue.send_input(&fleet.tenant, id, &Input::Signal(2)).await.unwrap();
    let ended = result(fleet.ending(id).await);
    assert_eq!((ended.exit_code, ended.outcome), (130, Outcome::Exited));
    assert_eq!(fleet.python("s", "print(x)").await.stdout, "42");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_can_be_cancelled() {
    let fleet = Fleet::start().await;
    let mut job = python("import time; print('on', flush=True); time.sleep(60)");
    job.stream = true;
    let id = fleet.enqueue(&job).await;
    fleet.await_output(id, "on").await;
    assert_eq!(fleet.queue.cancel(&fleet.tenant, id).await.unwrap(), Cancelled::Asked);
    let ended = result(fleet.ending(id).await);
    assert_eq!((ended.outcome, ended.exit_code), (Outcome::Cancelled, 137));
    assert_eq!(ended.stdout, "on");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_outlives_a_redis_that_is_away_for_a_moment() {
    let fleet = Fleet::start().await;
    let mut job = python(
        "import time\nprint('on', flush=True)\nfor n in range(100):\n  print(n, flush=True); time.sleep(0.01)",
    );
    job.stream = true;
    let id = fleet.enqueue(&job).await;
    fleet.await_output(id, "on").await;
    fleet.signal_redis("STOP");
    tokio::time::sleep(Duration::from_millis(600)).await;
    fleet.signal_redis("CONT");
    let ended = result(fleet.ending(id).await);
    assert_eq!(fleet.output(id, Phase::Code, Stream::Stdout).await.trim_end(), ended.stdout);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_that_was_seen_is_not_shown_twice_when_the_job_cannot_go_on() {
    let mut fleet = Fleet::start().await;
    let mut job = python("import time; print('on', flush=True); time.sleep(60)");
    job.stream = true;
    // Its sandbox dies.
    let id = fleet.enqueue(&job).await;
    fleet.await_output(id, "on").await;
    for container in containers(fleet.worker().id) {
        docker(&["kill", &container]);
    }
    let failed = failure(fleet.ending(id).await);
    assert_eq!(failed.code, ErrorCode::SandboxFailed);
    assert_eq!(failed.events, fleet.events(id).await.len() as u64);
    // Its worker dies.
    let id = fleet.enqueue(&job).await;
    fleet.await_output(id, "on").await;
    let grace = Duration::from_secs(1);
    fleet.add_worker(Choices { grace, ..Choices::default() }).await;
    let killed = fleet.kill_worker();
    assert_eq!(failure(fleet.ending(id).await).code, ErrorCode::WorkerLost);
    await_silence(killed).await;
    // Its worker is told to stop, and it does not end in time.
    let id = fleet.enqueue(&job).await;
    fleet.await_output(id, "on").await;
    fleet.stop_worker().await;
    assert_eq!(failure(fleet.ending(id).await).code, ErrorCode::WorkerLost);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_job_that_has_shown_nothing_is_run_by_another_worker() {
    let mut fleet = Fleet::start().await;
    let mut job = python("import time; time.sleep(1); print('done')");
    job.stream = true;
    let id = fleet.enqueue(&job).await;
    fleet.await_running(id).await;
    fleet.add_worker(Choices::default()).await;
    fleet.kill_worker();
    let ended = result(fleet.ending(id).await);
    assert_eq!(ended.stdout, "done");
    assert_eq!(fleet.output(id, Phase::Code, Stream::Stdout).await, "done\n");
    fleet.finish().await;
}
