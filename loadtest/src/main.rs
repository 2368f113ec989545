//! The command line of the load test: one scenario (`run`), the references (`floors`), both with a
//! report (`suite`), the report of an earlier suite again (`report`), what a stronger isolation costs
//! (`isolation`), and what a job costs the queue in fleets larger than a machine (`simulate`).

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand};
use loadtest::connection::Target;
use loadtest::floors::{docker, redis};
use loadtest::generate::{Load, Shape, run};
use loadtest::isolation::Isolation;
use loadtest::queue_rows::QueueRows;
use loadtest::report::Document;
use loadtest::scenario::by_name;
use loadtest::schedule::Arrivals;
use loadtest::simulate::Simulation;
use loadtest::suite::{Suite, docker_exec, http_floor};
use loadtest::surface::Surface;

#[derive(Parser)]
#[command(name = "loadtest", version = shared::VERSION, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Send one scenario to a server: open loop at a rate, or closed loop over connections.
    Run(RunArgs),
    /// Measure what the machine does without isol8.
    Floors(FloorsArgs),
    /// Measure references, goals and the sweep; write results.json, table.md and plot.svg.
    Suite(SuiteArgs),
    /// Measure live sessions, streams and files; write surface.json and surface.md.
    Surface(SurfaceArgs),
    /// Measure the same jobs in containers and in gVisor, on a server of each; write isolation.json and
    /// isolation.md.
    Isolation(IsolationArgs),
    /// Measure submissions, a flood beside interactive jobs, and the jobs of killed workers, on fleets of
    /// its own; write queue.json and queue.md.
    Queue(QueueArgs),
    /// Measure what a job costs Redis, by workers, tenants and queued jobs; write simulation.json and
    /// simulation.md.
    Simulate(SimulateArgs),
    /// Write table.md and plot.svg of a stored results.json again.
    Report {
        /// A results.json.
        #[arg(long)]
        from: PathBuf,
        /// Folder for the files.
        #[arg(long)]
        out: PathBuf,
    },
}

#[derive(Args)]
struct RunArgs {
    /// Server under test.
    #[arg(long, default_value = "http://127.0.0.1:3000")]
    url: String,
    /// API key.
    #[arg(long, env = "ISOL8_API_KEY", hide_env_values = true)]
    key: String,
    /// What to send: {python,node,bun,deno,bash}-hello, noop, cold-python or cold-node.
    #[arg(long, default_value = "python-hello")]
    scenario: String,
    /// Open loop: jobs per second. Without it and without connections: the scenario's own rate
    /// (python and bash 50, bun 40, deno 10, node 5, as a node job costs 70 ms of CPU).
    #[arg(long, conflicts_with_all = ["connections", "sweep"])]
    rate: Option<f64>,
    /// Open loop with random (Poisson) arrivals, drawn from this seed.
    #[arg(long, conflicts_with_all = ["connections", "sweep"])]
    poisson_seed: Option<u64>,
    /// Open loop: requests in flight at most.
    #[arg(long, default_value_t = 64)]
    max_in_flight: usize,
    /// Open loop: a request that could not be sent for this long is shed.
    #[arg(long, default_value_t = 1000)]
    shed_after_ms: u64,
    /// Closed loop: number of connections, each with one request at a time.
    #[arg(long)]
    connections: Option<usize>,
    /// Closed loops over each of these numbers of connections, one after the other.
    #[arg(long, value_delimiter = ',', conflicts_with = "connections")]
    sweep: Vec<usize>,
    /// Closed loop: stop after this many jobs, if the time is not over before.
    #[arg(long)]
    jobs: Option<u64>,
    /// Seconds before the measured time.
    #[arg(long, default_value_t = 2.0)]
    warmup_seconds: f64,
    /// Measured seconds.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Limit for each answer.
    #[arg(long, default_value_t = 30_000)]
    answer_limit_ms: u64,
    /// Process whose memory and CPU time are shown; may be repeated.
    #[arg(long)]
    watch_pid: Vec<u32>,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct ReferenceArgs {
    /// Image for the Docker references, instead of isol8's own.
    #[arg(long)]
    image: Option<String>,
    /// Redis to measure, instead of one started for the purpose.
    #[arg(long)]
    redis_url: Option<String>,
}

#[derive(Args)]
struct FloorsArgs {
    #[command(flatten)]
    reference: ReferenceArgs,
    /// Seconds per measurement.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

#[derive(Args)]
struct SuiteArgs {
    /// Server under test.
    #[arg(long)]
    url: Option<String>,
    /// Server with workers that run nothing (`--no-op`), for rows 1 and 2.
    #[arg(long)]
    noop_url: Option<String>,
    /// API key of both.
    #[arg(long, env = "ISOL8_API_KEY", hide_env_values = true)]
    key: String,
    #[command(flatten)]
    reference: ReferenceArgs,
    /// Seconds before each measured time.
    #[arg(long, default_value_t = 2.0)]
    warmup_seconds: f64,
    /// Measured seconds of each run.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Numbers of connections of the sweep.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8,16,32,64")]
    sweep: Vec<usize>,
    /// Folder for the results.
    #[arg(long, default_value = "results")]
    out: PathBuf,
}

#[derive(Args)]
struct SurfaceArgs {
    /// Server under test; it must admit as many jobs at once as there are streams.
    #[arg(long, default_value = "http://127.0.0.1:3000")]
    url: String,
    /// API key.
    #[arg(long, env = "ISOL8_API_KEY", hide_env_values = true)]
    key: String,
    /// Its Redis, to see how much memory a file takes there.
    #[arg(long)]
    redis_url: Option<String>,
    /// Measured seconds of each part.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Streams open at once.
    #[arg(long, default_value_t = 200)]
    streams: usize,
    /// Size of the file, in MiB.
    #[arg(long, default_value_t = 100)]
    file_mib: usize,
    /// Folder for the results.
    #[arg(long, default_value = "results")]
    out: PathBuf,
}

#[derive(Args)]
struct IsolationArgs {
    /// Server whose sandboxes are containers.
    #[arg(long)]
    url: String,
    /// Server whose sandboxes are gVisor's.
    #[arg(long)]
    gvisor_url: String,
    /// API key of both.
    #[arg(long, env = "ISOL8_API_KEY", hide_env_values = true)]
    key: String,
    /// Seconds before each measured time.
    #[arg(long, default_value_t = 5.0)]
    warmup_seconds: f64,
    /// Measured seconds of each run.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Folder for the results.
    #[arg(long, default_value = "results")]
    out: PathBuf,
}

#[derive(Args)]
struct QueueArgs {
    /// The binary under test.
    #[arg(long, default_value = "target/release/isol8")]
    isol8: PathBuf,
    /// Measured seconds of each part.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Jobs of the flood.
    #[arg(long, default_value_t = 100_000)]
    flood_jobs: usize,
    /// Items of the batch.
    #[arg(long, default_value_t = 1_000_000)]
    batch_items: usize,
    /// How often a worker is killed.
    #[arg(long, default_value_t = 3)]
    kills: usize,
    /// Folder for the results.
    #[arg(long, default_value = "results")]
    out: PathBuf,
}

#[derive(Args)]
struct SimulateArgs {
    /// Numbers of simulated workers.
    #[arg(long, value_delimiter = ',', default_value = "1,10,100,1000")]
    workers: Vec<usize>,
    /// Numbers of tenants, each with as many jobs as the others.
    #[arg(long, value_delimiter = ',', default_value = "1,10,100,1000")]
    tenants: Vec<usize>,
    /// Numbers of jobs that wait already.
    #[arg(long, value_delimiter = ',', default_value = "0,1000,10000,100000,1000000")]
    depths: Vec<usize>,
    /// Jobs per second, where workers and tenants vary.
    #[arg(long, default_value_t = 500.0)]
    rate: f64,
    /// Measured seconds of each point.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Jobs that are submitted, and run, at each number of jobs that wait.
    #[arg(long, default_value_t = 5000)]
    sample: usize,
    /// Bytes of a program's text.
    #[arg(long, default_value_t = 200)]
    code_bytes: usize,
    /// Folder for the results.
    #[arg(long, default_value = "results")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.map_err(Into::into).and_then(|runtime| match Cli::parse().command {
        Command::Run(args) => runtime.block_on(run_scenario(&args)),
        Command::Floors(args) => runtime.block_on(floors(&args)),
        Command::Suite(args) => runtime.block_on(suite(args)),
        Command::Surface(args) => runtime.block_on(surface(args)),
        Command::Isolation(args) => runtime.block_on(isolation(&args)),
        Command::Queue(args) => runtime.block_on(queue_rows(args)),
        Command::Simulate(args) => runtime.block_on(simulate(args)),
        Command::Report { from, out } => Document::read(&from)?.write(&out).map(|()| true),
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "this is a command")]
            {
                eprintln!("loadtest: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "this is a command")]
fn tell(text: &str) {
    println!("{}", text.trim_end());
}

/// A length within a day, so that no typing mistake runs for ever.
fn seconds(number: f64) -> Result<Duration> {
    ensure!((0.0..=86_400.0).contains(&number), "{number} seconds are not within a day");
    Ok(Duration::from_secs_f64(number))
}

/// Whether every run was clean.
async fn run_scenario(args: &RunArgs) -> Result<bool> {
    let target = Target::new(&args.url, &args.key)?;
    let scenario = by_name(&args.scenario)?;
    let closed = |connections| Shape::Closed { connections, jobs: args.jobs };
    let shapes: Vec<Shape> = match args.connections {
        Some(connections) => vec![closed(connections)],
        None if !args.sweep.is_empty() => args.sweep.iter().copied().map(closed).collect(),
        None => vec![Shape::Open {
            rate: args.rate.unwrap_or(scenario.rate),
            arrivals: args.poisson_seed.map_or(Arrivals::Fixed, |seed| Arrivals::Poisson { seed }),
            max_in_flight: args.max_in_flight,
            shed_after: Duration::from_millis(args.shed_after_ms),
        }],
    };
    let mut all_clean = true;
    for shape in shapes {
        let load = Load {
            shape,
            warm_up: seconds(args.warmup_seconds)?,
            length: seconds(args.seconds)?,
            answer_limit: Duration::from_millis(args.answer_limit_ms),
            watched: args.watch_pid.clone(),
        };
        let summary = run(&target, scenario, load).await?;
        all_clean &= summary.is_clean();
        if args.json {
            tell(&serde_json::to_string(&summary)?);
        } else {
            let offered = match shape {
                Shape::Open { rate, .. } => format!("{rate}/s offered"),
                Shape::Closed { connections, .. } => format!("{connections} connections"),
            };
            tell(&format!("{}, {offered}: {summary}", scenario.name));
        }
    }
    Ok(all_clean)
}

async fn floors(args: &FloorsArgs) -> Result<bool> {
    let length = seconds(args.seconds)?;
    http_floor(&[1, 64], length, &tell).await?;
    let redis = redis::measure(args.reference.redis_url.as_deref(), length).await?;
    tell(&format!("Redis PING: {}", redis.ping_ms));
    tell(&format!("Redis SET: {}", redis.set_ms));
    tell(&format!("Redis pipelined: {:.0} SET/s", redis.pipelined_sets_per_second));
    let scenario = by_name("python-hello")?;
    let image = args.reference.image.as_deref().unwrap_or_else(|| scenario.runtime.image());
    for floor in docker_exec(image, scenario, &[4, 16], length).await? {
        let (count, rate) = (floor.concurrency, floor.per_second);
        tell(&format!("docker exec, {count} at a time: {rate:.1}/s, {}", floor.latency_ms));
    }
    let floor = docker::run(image, scenario, length).await?;
    tell(&format!("docker run: {:.1}/s, {}", floor.per_second, floor.latency_ms));
    Ok(true)
}

async fn suite(args: SuiteArgs) -> Result<bool> {
    let target = |url: Option<&str>| url.map(|url| Target::new(url, &args.key)).transpose();
    let suite = Suite {
        target: target(args.url.as_deref())?,
        noop_target: target(args.noop_url.as_deref())?,
        image: args.reference.image,
        redis_url: args.reference.redis_url,
        warm_up: seconds(args.warmup_seconds)?,
        length: seconds(args.seconds)?,
        sweep: args.sweep,
    };
    let document = suite.run(&tell).await?;
    document.write(&args.out)?;
    tell(&document.markdown());
    tell(&format!("Written to {}", args.out.display()));
    Ok(document.runs.iter().all(|run| run.summary.is_clean()))
}

async fn surface(args: SurfaceArgs) -> Result<bool> {
    // Only plain HTTP is spoken; the client insists on a provider when built with TLS. One that is
    // set already serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder().no_proxy().build()?;
    let measured = Surface {
        http,
        url: args.url.trim_end_matches('/').to_owned(),
        key: args.key,
        redis_url: args.redis_url,
        length: seconds(args.seconds)?,
        streams: args.streams,
        file_mib: args.file_mib,
    };
    let found = measured.run(&tell).await?;
    std::fs::create_dir_all(&args.out)?;
    std::fs::write(args.out.join("surface.json"), serde_json::to_string_pretty(&found)? + "\n")?;
    std::fs::write(args.out.join("surface.md"), found.markdown())?;
    tell(&found.markdown());
    Ok(true)
}

async fn isolation(args: &IsolationArgs) -> Result<bool> {
    let compared = Isolation {
        container: Target::new(&args.url, &args.key)?,
        gvisor: Target::new(&args.gvisor_url, &args.key)?,
        warm_up: seconds(args.warmup_seconds)?,
        length: seconds(args.seconds)?,
    };
    let found = compared.run(&tell).await?;
    std::fs::create_dir_all(&args.out)?;
    let json = serde_json::to_string_pretty(&found)? + "\n";
    std::fs::write(args.out.join("isolation.json"), json)?;
    std::fs::write(args.out.join("isolation.md"), found.markdown())?;
    tell(&found.markdown());
    Ok(true)
}

async fn simulate(args: SimulateArgs) -> Result<bool> {
    let simulation = Simulation {
        workers: args.workers,
        tenants: args.tenants,
        depths: args.depths,
        rate: args.rate,
        length: seconds(args.seconds)?,
        sample: args.sample,
        code_bytes: args.code_bytes,
    };
    let found = simulation.run(&tell).await?;
    std::fs::create_dir_all(&args.out)?;
    let json = serde_json::to_string_pretty(&found)? + "\n";
    std::fs::write(args.out.join("simulation.json"), json)?;
    std::fs::write(args.out.join("simulation.md"), found.markdown())?;
    tell(&found.markdown());
    Ok(true)
}

async fn queue_rows(args: QueueArgs) -> Result<bool> {
    let rows = QueueRows {
        isol8: args.isol8,
        length: seconds(args.seconds)?,
        flood_jobs: args.flood_jobs,
        batch_items: args.batch_items,
        kills: args.kills,
    };
    let found = rows.run(&tell).await?;
    std::fs::create_dir_all(&args.out)?;
    std::fs::write(args.out.join("queue.json"), serde_json::to_string_pretty(&found)? + "\n")?;
    std::fs::write(args.out.join("queue.md"), found.markdown())?;
    tell(&found.markdown());
    Ok(true)
}
