//! One run against one fleet: start it, load it, bring the faults about, wait for calm, gather what is
//! left, judge.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::check::{Case, check};
use super::evidence::Evidence;
use super::fleet::Fleet;
use super::journal::{Injected, Journal, Purpose};
use super::load::{self, Volume};
use super::plan::{Plan, Scope};
use super::random::Random;
use super::report::Report;
use super::rest::await_rest;
use super::{Kind, Options};
use crate::docker;

/// How often a fleet is looked after during the storm.
const TICK: Duration = Duration::from_millis(20);
/// Jobs that are looked at once more in the end, through the gateways that are left.
const LOOKED_AT_AGAIN: usize = 200;

/// Runs the chaos against one fleet and judges it. Must be called on a multi-threaded runtime.
///
/// # Panics
/// If the fleet cannot be started, or Redis does not come back: there is nothing to judge then.
pub async fn run(options: Options) -> Report {
    std::fs::create_dir_all(&options.directory).expect("the directory can be made");
    let directory = options.directory.canonicalize().expect("it was made just now");
    let epoch_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let epoch_ms = u64::try_from(epoch_ms).unwrap_or_default();
    let journal = Arc::new(Journal::create(&directory.join("events.jsonl"), Instant::now()));
    let (kind, seed, home) = (options.kind, options.seed, directory.clone());
    let fleet = on_its_own_thread(move || Fleet::start(kind, &home)).await;

    let making = load::make_schedules(kind, fleet.doors(), Arc::clone(&journal), options.length);
    let schedules = making.await;
    let stop = CancellationToken::new();
    let volume = Volume { clients: options.clients, pause_ms: options.pause_ms };
    let loading = load::run(kind, seed, volume, fleet.doors(), Arc::clone(&journal), stop.clone());
    let storming = {
        let (journal, options) = (Arc::clone(&journal), options.clone());
        async {
            let storm = on_its_own_thread(move || storm(fleet, &options, &journal));
            let fleet = storm.await;
            stop.cancel();
            fleet
        }
    };
    let ((), fleet) = tokio::join!(loading, storming);

    // Every retry, delay and lease comes to its end by itself.
    let queue = fleet.store().queue();
    let workers = kind.members().1;
    let mut wrong = on_its_own_thread(move || await_rest(&queue, workers)).await;
    let jobs = some_jobs(&journal);
    load::look_again(kind, fleet.doors(), Arc::clone(&journal), jobs, schedules).await;
    let evidence = on_its_own_thread(move || gather(fleet, kind, &mut wrong)).await;
    let (exchanges, faults) = journal.read();
    let case = Case { kind, exchanges: &exchanges, faults: &faults, evidence: &evidence, epoch_ms };
    let verdict = check(&case);
    Report::new(&options, journal.path(), &faults, verdict)
}

/// What blocks must not hold up the clients.
async fn on_its_own_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Brings the faults about, one after the other, and then calms everything.
fn storm(mut fleet: Fleet, options: &Options, journal: &Journal) -> Fleet {
    let (gateways, workers) = options.kind.members();
    let has_replica = options.kind == Kind::Failover;
    let (length, faults) = (options.length, options.faults);
    let scope = Scope { gateways, workers, has_replica, length, faults };
    let purpose = format!("{} plan", options.kind.name());
    let plan = Plan::draw(&mut Random::new(options.seed, &purpose), scope);
    let begun = Instant::now();
    let until = |fleet: &mut Fleet, at: Duration| {
        while begun.elapsed() < at {
            fleet.tend();
            thread::sleep(TICK);
        }
    };
    for step in plan.steps {
        until(&mut fleet, Duration::from_millis(step.at_ms));
        let at_ms = journal.now_ms();
        fleet.inject(step.fault);
        let name = step.fault.name(gateways);
        journal.fault(Injected { at_ms, done_ms: journal.now_ms(), name, step });
    }
    until(&mut fleet, length);
    fleet.calm();
    fleet
}

/// Some of the jobs that were accepted, spread over the run.
fn some_jobs(journal: &Journal) -> Vec<(String, String)> {
    let (exchanges, _) = journal.read();
    let accepted: BTreeSet<(String, String)> = exchanges
        .into_iter()
        .filter(|it| it.purpose == Purpose::Submit && it.status == 202)
        .map(|it| (it.tenant, it.job))
        .collect();
    let every = accepted.len().div_ceil(LOOKED_AT_AGAIN).max(1);
    accepted.into_iter().step_by(every).collect()
}

/// Stops the fleet and collects what is left of it.
fn gather(mut fleet: Fleet, kind: Kind, wrong: &mut Vec<String>) -> Evidence {
    let queue = fleet.store().queue();
    let mut evidence = match Evidence::of_queue(&queue) {
        Ok(evidence) => evidence,
        Err(error) => {
            wrong.push(format!("what is in Redis cannot be read: {error}"));
            Evidence::default()
        }
    };
    wrong.append(&mut fleet.stop());
    evidence.add_fleet(&fleet, kind != Kind::Failover);
    evidence.wrong.append(wrong);
    evidence.wrong.extend(queue.refused());
    if kind == Kind::Docker {
        for worker in fleet.nodes().filter_map(|node| node.worker_id()) {
            // What a worker had made and not started when it was killed is left to the next one of
            // its name; after the last one, nobody comes.
            docker::remove_unstarted(&worker);
            let left = docker::leftovers(&worker);
            if !left.is_empty() {
                evidence.wrong.push(format!("containers of worker {worker}: {left:?}"));
                docker::remove(&left);
            }
        }
    }
    save_logs(&fleet, fleet.audits().with_file_name("logs"));
    evidence
}

/// What the processes have said, for whoever looks into a violation.
fn save_logs(fleet: &Fleet, directory: PathBuf) {
    std::fs::create_dir_all(&directory).expect("the directory is the run's own");
    for node in fleet.nodes() {
        let file = directory.join(format!("{}.log", node.name()));
        std::fs::write(file, node.log().text()).expect("the directory is the run's own");
    }
}
