//! A worker that pretends programs which show their output as it comes. A program is a list of
//! steps, separated by `;`:
//!
//! | step | what happens |
//! | --- | --- |
//! | `out TEXT`, `err TEXT` | output of the program |
//! | `setup TEXT`, `ready` | output of the setup script, and its end |
//! | `flood COUNT BYTES` | so many pieces of so many bytes |
//! | `lose COUNT` | so many events that never reach the queue |
//! | `wait MS`, `hang` | nothing, for a time or until it is cancelled |
//! | `echo` | each input is told, until the input ends |
//! | `end OUTCOME CODE`, `fail CODE`, `setup-fails CODE`, `setup-times-out` | the end |

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use shared::ErrorCode;
use shared::execution::{Ending, EventKind, Failure, Input, Outcome, Phase, Source, Stream};
use shared::id::{JobId, WorkerId};
use shared::redis::{Claimed, Publication, Queue, WorkerOrder};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::worker;

/// Before something that failed for want of Redis is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// Claims, listens and ends until it is dropped; tries again if the queue is away.
pub(crate) async fn run(queue: Queue) {
    let worker = WorkerId::generate();
    let mut orders = queue.orders(worker).await.unwrap();
    let mut consumer = queue.consumer(worker).await.unwrap();
    let mut jobs = JoinSet::new();
    let mut running = HashMap::<JobId, (CancellationToken, Arc<Notify>)>::new();
    loop {
        let block = Duration::from_millis(100);
        let claimed = tokio::select! {
            order = orders.next() => {
                match order {
                    WorkerOrder::Cancel(job) => {
                        if let Some((cancelled, _)) = running.get(&job) {
                            cancelled.cancel();
                        }
                    }
                    WorkerOrder::Input(job) => {
                        if let Some((_, input)) = running.get(&job) {
                            input.notify_one();
                        }
                    }
                    _ => {}
                }
                continue;
            }
            claimed = queue.claim(&mut consumer, 256, block) => claimed,
        };
        let Ok(claimed) = claimed else {
            sleep(PAUSE).await;
            continue;
        };
        for claimed in claimed {
            let (cancelled, input) = (CancellationToken::new(), Arc::<Notify>::default());
            // Input that came before there was a worker to tell of it.
            input.notify_one();
            running.insert(claimed.lease.job, (cancelled.clone(), Arc::clone(&input)));
            jobs.spawn(pretend(queue.clone(), worker, claimed, cancelled, input));
        }
        while jobs.try_join_next().is_some() {}
    }
}

async fn pretend(
    queue: Queue,
    worker: WorkerId,
    claimed: Claimed,
    cancelled: CancellationToken,
    input: Arc<Notify>,
) {
    let publication = queue.publication(worker, &claimed.lease, claimed.job.timeout_ms);
    let mut show = Show { queue: &queue, publication, claimed: &claimed, input, next: 0, code: 0 };
    let ending = cancelled.run_until_cancelled(show.play()).await;
    let ending = ending.unwrap_or_else(|| show.result("cancelled", 137));
    loop {
        match queue.finish(worker, &claimed.lease, &ending).await {
            Ok(_) => return,
            Err(_) => sleep(PAUSE).await,
        }
    }
}

struct Show<'a> {
    queue: &'a Queue,
    publication: Publication,
    claimed: &'a Claimed,
    input: Arc<Notify>,
    /// Number of the next event.
    next: u64,
    /// Exit code of a program that does not say how it ends.
    code: i32,
}

impl Show<'_> {
    async fn play(&mut self) -> Ending {
        let Source::Code { text, .. } = &self.claimed.job.source else { panic!("tests send code") };
        assert!(self.claimed.job.stream, "a stream's job says so");
        for step in text.split(';') {
            if let Some(ending) = self.step(step).await {
                return ending;
            }
        }
        self.result("exited", self.code)
    }

    async fn step(&mut self, step: &str) -> Option<Ending> {
        let (word, rest) = step.split_once(' ').unwrap_or((step, ""));
        let number = |text: &str| text.parse::<u64>().unwrap();
        match word {
            "out" => self.write(Phase::Code, Stream::Stdout, rest).await,
            "err" => self.write(Phase::Code, Stream::Stderr, rest).await,
            "setup" => self.write(Phase::Setup, Stream::Stdout, rest).await,
            "ready" => self.publish(vec![(Phase::Setup, EventKind::SetupEnded)]).await,
            "flood" => {
                let (count, bytes) = rest.split_once(' ').unwrap();
                self.flood(number(count), number(bytes)).await;
            }
            "lose" => self.next += number(rest),
            "wait" => sleep(Duration::from_millis(number(rest))).await,
            "hang" => std::future::pending().await,
            "echo" => self.echo().await,
            "end" => {
                let (outcome, code) = rest.split_once(' ').unwrap();
                return Some(self.result(outcome, code.parse().unwrap()));
            }
            "fail" => {
                return Some(self.failure(serde_json::from_value(json!(rest)).unwrap(), rest));
            }
            "setup-fails" => {
                let message = format!("Setup script failed (exit code {rest}): why");
                return Some(self.setup_failure(rest.parse().unwrap(), &message));
            }
            "setup-times-out" => {
                let message = "Setup script failed (exit code 137): SETUP SCRIPT TIMED OUT";
                return Some(self.setup_failure(137, message));
            }
            _ => panic!("{step} is no step"),
        }
        None
    }

    async fn write(&mut self, phase: Phase, stream: Stream, text: &str) {
        let data = Bytes::from(text.to_owned());
        self.publish(vec![(phase, EventKind::Output { stream, offset: 0, data })]).await;
    }

    /// Every piece begins with its number.
    async fn flood(&mut self, count: u64, bytes: u64) {
        for start in (0..count).step_by(32) {
            let piece = |number: u64| {
                let width = usize::try_from(bytes).unwrap();
                let data = Bytes::from(format!("{number:<width$}\n"));
                (Phase::Code, EventKind::Output { stream: Stream::Stdout, offset: 0, data })
            };
            self.publish((start..count.min(start + 32)).map(piece).collect()).await;
        }
    }

    async fn publish(&mut self, events: Vec<(Phase, EventKind)>) {
        while self.queue.publish(&self.publication, self.next, &events).await.is_err() {
            sleep(PAUSE).await;
        }
        self.next += events.len() as u64;
    }

    async fn echo(&mut self) {
        let kept_open = if self.claimed.job.interactive { "open" } else { "closed" };
        self.write(Phase::Code, Stream::Stdout, kept_open).await;
        loop {
            self.input.notified().await;
            let (tenant, job) = (&self.claimed.tenant, self.claimed.lease.job);
            for input in self.queue.take_input(tenant, job).await.unwrap() {
                match input {
                    Input::Stdin(data) => {
                        let text = String::from_utf8_lossy(&data).into_owned();
                        self.write(Phase::Code, Stream::Stdout, &text).await;
                    }
                    Input::StdinEnd => return,
                    Input::Signal(number) => {
                        self.code = 128 + number;
                        return;
                    }
                }
            }
        }
    }

    fn result(&self, outcome: &str, exit_code: i32) -> Ending {
        let outcome: Outcome = serde_json::from_value(json!(outcome)).unwrap();
        let mut result = worker::result(&self.claimed.job, self.claimed.lease.job, String::new());
        (result.exit_code, result.outcome, result.events) = (exit_code, outcome, self.next);
        Ending::Result(result)
    }

    fn failure(&self, code: ErrorCode, message: &str) -> Ending {
        Ending::Error(Failure { events: self.next, ..Failure::new(code, message) })
    }

    fn setup_failure(&self, exit_code: i32, message: &str) -> Ending {
        let failure = Failure::new(ErrorCode::SetupFailed, message);
        let setup_exit_code = Some(exit_code);
        Ending::Error(Failure { setup_exit_code, events: self.next, ..failure })
    }
}

/// A job's program, for tests that send it through another door.
pub(crate) fn request(program: &str) -> serde_json::Value {
    json!({"request": {"runtime": "bash", "code": program}})
}
