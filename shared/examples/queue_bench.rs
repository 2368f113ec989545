//! Measures the queue on a Redis of its own: one job at a time, then many at once, next to the
//! bare round trip of the same Redis. Usage: `queue_bench [jobs] [workers] [payload bytes]`.
#![expect(clippy::print_stdout, reason = "its purpose")]

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use shared::config::{self, Seccomp};
use shared::error::ErrorCode;
use shared::execution::{Ending, Failure, Job, Limits, Network, PackageSet, Source};
use shared::id::{GatewayId, JobId, TenantId, WorkerId};
use shared::redis::{Queue, Quota, Reply, Submission};
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
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("redis.sock");
    let _server = Server(
        Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn()?,
    );
    let url = Some(format!("redis+unix://{}", socket.display()));
    let config = config::Redis { url, ..config::Redis::default() };
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
