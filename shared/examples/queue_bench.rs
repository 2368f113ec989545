//! Measures the queue on a Redis of its own: one job at a time, then many at once, next to the
//! bare round trip of the same Redis; then listed jobs: submitting many, and running them. Usage:
//! `queue_bench [jobs] [workers] [payload bytes] [listed jobs] [1 for an append-only file]`.
#![expect(clippy::print_stdout, reason = "its purpose")]

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use shared::config::{self, Seccomp};
use shared::error::ErrorCode;
use shared::execution::{Ending, Failure, Job, Limits, Network, PackageSet, Source, Terms};
use shared::id::{GatewayId, JobId, TenantId, WorkerId};
use shared::isolation::Isolation;
use shared::redis::{Listing, Queue, Quota, Reply, Submission};
use shared::runtime::Runtime;
use tokio::task::JoinSet;

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// Jobs measured one at a time.
const SINGLE: usize = 2000;
/// Jobs in flight when measured together.
const WINDOW: usize = 512;
const BATCH: usize = 64;
const BLOCK: Duration = Duration::from_secs(1);

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::main]
async fn main() -> Outcome {
    let mut arguments = std::env::args().skip(1).map(|it| it.parse::<usize>());
    let mut next = |default| arguments.next().unwrap_or(Ok(default));
    let (jobs, workers, payload) = (next(100_000)?, next(4)?, next(200)?);
    let (listed, is_kept) = (next(50_000)?, next(0)? == 1);
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("redis.sock");
    let _server = Server(
        Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(&socket)
            .args(["--appendonly", if is_kept { "yes" } else { "no" }, "--dir"])
            .arg(directory.path())
            .stdout(Stdio::null())
            .spawn()?,
    );
    let url = Some(format!("redis+unix://{}", socket.display()));
    let config = config::Redis { url, max_queued: 1 << 40, ..config::Redis::default() };
    let deadline = Instant::now() + Duration::from_secs(5);
    let queue = loop {
        match Queue::connect(&config).await {
            Ok(queue) => break queue,
            Err(error)
                if error.code() == ErrorCode::QueueUnavailable && Instant::now() < deadline => {}
            Err(error) => return Err(error.into()),
        }
    };
    let job = job(payload);
    one_at_a_time(&queue, &job).await?;
    let before = redis_cpu(&socket).await?;
    together(&queue, &job, jobs, workers).await?;
    let spent = redis_cpu(&socket).await? - before;
    println!("Redis' own CPU time: {:.1} us a job", spent * 1e6 / jobs as f64);
    for in_flight in [1, 16, 64] {
        let (before, started) = (redis_cpu(&socket).await?, Instant::now());
        submit(&queue, &job, listed, in_flight).await?;
        let (took, spent) = (started.elapsed(), redis_cpu(&socket).await? - before);
        println!(
            "{listed} submissions, {in_flight} in flight: {:.0}/s, Redis' own CPU time {:.1} us each",
            listed as f64 / took.as_secs_f64(),
            spent * 1e6 / listed as f64
        );
    }
    let (before, started) = (redis_cpu(&socket).await?, Instant::now());
    run(&queue, 3 * listed).await?;
    let (took, spent) = (started.elapsed(), redis_cpu(&socket).await? - before);
    println!(
        "running them: {:.0}/s, Redis' own CPU time {:.1} us each",
        3.0 * listed as f64 / took.as_secs_f64(),
        spent * 1e6 / (3.0 * listed as f64)
    );
    Ok(())
}

/// Submits listed jobs, so many at a time.
async fn submit(queue: &Queue, job: &Job, jobs: usize, in_flight: usize) -> Outcome {
    let mut tasks: JoinSet<Outcome> = JoinSet::new();
    for number in 0..in_flight {
        let (queue, job) = (queue.clone(), job.clone());
        let share = jobs / in_flight + usize::from(number < jobs % in_flight);
        tasks.spawn(async move {
            let (tenant, quota, terms) = (TenantId::master(), roomy(), terms());
            for _ in 0..share {
                let id = JobId::generate();
                let submission = Submission { tenant: &tenant, id, reply_to: None, quota };
                queue.submit(submission, Listing { terms: &terms, once: None }, &job).await?;
            }
            Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

/// A quota under which no limit is met.
fn roomy() -> Quota {
    let most = 1 << 40;
    Quota {
        max_open: most,
        max_open_bytes: most,
        max_kept: most,
        max_kept_bytes: most,
        ..Quota::default()
    }
}

/// Claims and finishes listed jobs.
async fn run(queue: &Queue, jobs: usize) -> Outcome {
    let worker = WorkerId::generate();
    let mut consumer = queue.consumer(worker).await?;
    queue.housekeep(Some((worker, BATCH))).await?;
    let mut ended = 0;
    while ended < jobs {
        let claimed = queue.claim(&mut consumer, BATCH, BLOCK).await?;
        let ending = ending();
        let finishing = claimed.iter().map(|it| queue.finish(worker, &it.lease, &ending));
        ended += futures_util::future::try_join_all(finishing).await?.len();
    }
    Ok(())
}

/// Seconds of CPU time that Redis has used: what it costs whoever else is on the machine.
async fn redis_cpu(socket: &Path) -> Outcome<f64> {
    let client = redis::Client::open(format!("redis+unix://{}", socket.display()))?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    let info: String = redis::cmd("INFO").arg("cpu").query_async(&mut connection).await?;
    let fields = ["used_cpu_sys:", "used_cpu_user:"];
    let used = info.lines().filter_map(|line| fields.iter().find_map(|it| line.strip_prefix(it)));
    Ok(used.filter_map(|it| it.trim().parse::<f64>().ok()).sum())
}

async fn one_at_a_time(queue: &Queue, job: &Job) -> Outcome {
    let (gateway, worker, tenant) =
        (GatewayId::generate(), WorkerId::generate(), TenantId::master());
    let mut replies = queue.replies(gateway).await?;
    let mut consumer = queue.consumer(worker).await?;
    let ending = ending();
    let (mut pings, mut whole) = (Vec::new(), Vec::new());
    for _ in 0..SINGLE {
        let started = Instant::now();
        queue.ping().await?;
        pings.push(started.elapsed());

        let started = Instant::now();
        let id = JobId::generate();
        queue.enqueue(submission(&tenant, id, gateway), job).await?;
        for claimed in queue.claim(&mut consumer, 1, BLOCK).await? {
            let _ = queue.finish(worker, &claimed.lease, &ending).await?;
        }
        while !matches!(replies.next().await, Reply::Finished { job, .. } if job == id) {}
        whole.push(started.elapsed());
    }
    report("bare round trip", &mut pings);
    report("enqueue, claim, finish, reply", &mut whole);
    Ok(())
}

fn report(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1000.0;
    println!("{what}: p50 {:.3} ms, p99 {:.3} ms", at(50), at(99));
}

async fn together(queue: &Queue, job: &Job, jobs: usize, workers: usize) -> Outcome {
    let gateway = GatewayId::generate();
    let mut replies = queue.replies(gateway).await?;
    let mut tasks: JoinSet<Outcome> = JoinSet::new();
    let started = Instant::now();
    for _ in 0..workers {
        let queue = queue.clone();
        tasks.spawn(async move { work(&queue).await });
    }
    let tenant = TenantId::master();
    let mut sent = 0;
    let mut waiting: HashMap<JobId, Instant> = HashMap::new();
    let mut times = Vec::with_capacity(jobs);
    let mut enqueues: JoinSet<Outcome> = JoinSet::new();
    while times.len() < jobs {
        while sent < jobs && waiting.len() < WINDOW {
            let (queue, tenant, job, id) =
                (queue.clone(), tenant.clone(), job.clone(), JobId::generate());
            waiting.insert(id, Instant::now());
            sent += 1;
            enqueues.spawn(async move {
                Ok(queue.enqueue(submission(&tenant, id, gateway), &job).await?)
            });
        }
        if let Reply::Finished { job, .. } = replies.next().await
            && let Some(since) = waiting.remove(&job)
        {
            times.push(since.elapsed());
        }
        while let Some(done) = enqueues.try_join_next() {
            done??;
        }
    }
    let took = started.elapsed().as_secs_f64();
    println!(
        "{jobs} jobs, {workers} workers, {WINDOW} in flight: {:.0} jobs/s",
        jobs as f64 / took
    );
    report("from enqueue to reply, in that crowd", &mut times);
    tasks.abort_all();
    Ok(())
}

/// Claims in batches and finishes each batch at once, until the run is over.
async fn work(queue: &Queue) -> Outcome {
    let worker = WorkerId::generate();
    let mut consumer = queue.consumer(worker).await?;
    loop {
        let claimed = queue.claim(&mut consumer, BATCH, BLOCK).await?;
        let mut finishing = JoinSet::new();
        for it in claimed {
            let queue = queue.clone();
            finishing.spawn(async move { queue.finish(worker, &it.lease, &ending()).await });
        }
        while let Some(done) = finishing.join_next().await {
            let _ = done??;
        }
    }
}

fn submission(tenant: &TenantId, id: JobId, reply_to: GatewayId) -> Submission<'_> {
    Submission { tenant, id, reply_to: Some(reply_to), quota: Quota::default() }
}

fn ending() -> Ending {
    Ending::Error(Failure::new(ErrorCode::Internal, "x".repeat(400)))
}

fn job(payload: usize) -> Job {
    Job {
        runtime: Runtime::Python,
        image: "isol8:python".into(),
        source: Source::Code { text: "x".repeat(payload), extension: ".py".into() },
        timeout_ms: 30_000,
        env: BTreeMap::new(),
        secrets: BTreeMap::new(),
        stdin: None,
        files: Vec::new(),
        output_paths: None,
        packages: PackageSet::default(),
        substitutes: Vec::new(),
        setup_script: None,
        workdir: "/sandbox".into(),
        network: Network::None,
        egress: None,
        agent_flags: Vec::new(),
        isolation: Isolation::Container,
        seccomp: Seccomp::Strict,
        limits: Limits {
            memory_bytes: 512 << 20,
            cpu_millis: 1000,
            pids: 64,
            sandbox_bytes: 512 << 20,
            tmp_bytes: 256 << 20,
            readonly_root: true,
            max_output_bytes: 1 << 20,
        },
        metadata: BTreeMap::new(),
        stream: false,
        interactive: false,
        signals: false,
    }
}

fn terms() -> Terms {
    Terms { retention_ms: 600_000, ..Terms::default() }
}
