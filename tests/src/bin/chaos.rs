//! `chaos`: load on fleets of real `isol8` processes while they are killed, paused and cut off, and
//! Redis is restarted and fails over; then the invariants of the queue are checked. Exit code 1 if one does
//! not hold.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Parser, ValueEnum};
use tests::chaos::{Kind, Options, Report, run};
use tokio::task::JoinSet;

/// Seconds between two faults of a fleet, unless it is said how many there are.
const SECONDS_PER_FAULT: f64 = 7.0;

#[derive(Parser)]
#[command(name = "chaos", about)]
struct Cli {
    /// How long the fleets are under load.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// The same seed gives the same faults at the same times; unless given, one is drawn and shown.
    #[arg(long)]
    seed: Option<u64>,
    /// Fleets to run, all at the same time.
    #[arg(long, value_delimiter = ',', default_value = "no-op,docker,failover")]
    fleets: Vec<Fleet>,
    /// Faults in each fleet; unless given, one every seven seconds.
    #[arg(long)]
    faults: Option<usize>,
    /// Clients of each fleet, each with one request at a time.
    #[arg(long, default_value_t = 12)]
    clients: usize,
    /// Longest pause between two requests of a client.
    #[arg(long, default_value_t = 300)]
    pause_ms: u64,
    /// Where the event log and all evidence go.
    #[arg(long, default_value = "chaos-results")]
    out: PathBuf,
    /// Keep the evidence of a run without violations, too.
    #[arg(long)]
    keep: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Fleet {
    NoOp,
    Docker,
    Failover,
}

impl From<Fleet> for Kind {
    fn from(fleet: Fleet) -> Self {
        match fleet {
            Fleet::NoOp => Self::NoOp,
            Fleet::Docker => Self::Docker,
            Fleet::Failover => Self::Failover,
        }
    }
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "this is a command")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = cli.seed.unwrap_or(now.as_secs());
    let length = Duration::from_secs_f64((cli.minutes * 60.0).clamp(1.0, 86_400.0));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "some thousands at most"
    )]
    let every_so_often = (length.as_secs_f64() / SECONDS_PER_FAULT).ceil() as usize;
    println!("seed {seed}");
    let mut runs = JoinSet::new();
    for fleet in &cli.fleets {
        let kind = Kind::from(*fleet);
        runs.spawn(run(Options {
            kind,
            seed,
            length,
            faults: cli.faults.unwrap_or(every_so_often),
            clients: cli.clients,
            pause_ms: cli.pause_ms,
            directory: cli.out.join(format!("{}-{seed}", kind.name())),
        }));
    }
    let (mut reports, mut is_clean) = (Vec::<Report>::new(), true);
    while let Some(ended) = runs.join_next().await {
        match ended {
            Ok(report) => reports.push(report),
            Err(error) => {
                println!("a run came to no end: {error}");
                is_clean = false;
            }
        }
    }
    for report in &reports {
        print!("{report}");
        is_clean &= report.is_clean();
        if report.is_clean() && !cli.keep {
            // Nothing in it is of use any more.
            let _ = std::fs::remove_dir_all(&report.options.directory);
        }
    }
    let jobs: u64 = reports.iter().map(|it| it.count("jobs in Redis")).sum();
    let faults: u64 = reports.iter().map(Report::fault_count).sum();
    println!("{jobs} jobs and {faults} faults: {}", if is_clean { "passed" } else { "FAILED" });
    if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
