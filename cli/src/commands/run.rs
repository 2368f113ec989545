//! `isol8 run`: one program, on this machine or on a server.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use client::Client;
use shared::config::{Config, Policy};
use shared::execution::{
    Admission, ExecuteEnvelope, ExecutionResult, Network, Outcome, PoolStrategy,
};
use shared::id::{JobId, TenantId, WorkerId};
use tokio_util::sync::CancellationToken;
use worker::engine::docker::Docker;
use worker::engine::{Engine, Live, Options, Phase, Stream};

use crate::args::RunArgs;
use crate::{printer, roles, settings};

pub(crate) async fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let config = settings::load()?.config;
    let envelope = settings::envelope(&args, &config)?;
    let interrupt = CancellationToken::new();
    let running = async {
        match &args.host {
            Some(host) => run_remotely(host, &args, &envelope).await,
            None => run_here(&args, &config, envelope, &interrupt).await,
        }
    };
    let outcome = tokio::select! {
        outcome = running => outcome,
        // Contract section 4.5: interrupted is exit code 0. Dropping the run closes the sandbox's
        // link, on which it ends itself.
        outcome = roles::interrupted() => outcome.map(|()| ExitCode::SUCCESS).map_err(Into::into),
    };
    // A removal that this process's end cuts short is nothing to warn of.
    interrupt.cancel();
    outcome
}

async fn run_remotely(
    host: &str,
    args: &RunArgs,
    envelope: &ExecuteEnvelope,
) -> anyhow::Result<ExitCode> {
    let key = settings::api_key(args.key.clone())?;
    let client = Client::new(host, &key, None)?;
    let result = client.execute(envelope).await?;
    print_result(args, &result)
}

async fn run_here(
    args: &RunArgs,
    config: &Config,
    envelope: ExecuteEnvelope,
    cancel: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    let job = Admission::new(&unlimited(config))?.admit(envelope)?;
    let docker = Docker::connect().await?;
    let options = Options {
        owner: format!("run-{}", std::process::id()),
        strategy: PoolStrategy::Secure,
        clean: 0,
        max_concurrent: 1,
        max_containers: 1,
        idle: Duration::ZERO,
        prewarm: Vec::new(),
        seccomp: config.security.seccomp != "unconfined",
    };
    let (worker, metrics) = (WorkerId::generate(), Arc::default());
    let engine =
        Engine::start(options, docker, worker, &job.image, metrics, cancel.clone()).await?;
    let mut terminal = Terminal::default();
    let live: Option<&mut (dyn Live + '_)> =
        if args.no_stream { None } else { Some(&mut terminal) };
    let tenant = TenantId::master();
    let (result, _spent) = engine.execute(JobId::generate(), &tenant, &job, live, cancel).await?;
    // Removal of the container goes on by itself: its link is closed, and the engine removes it
    // when it ends. Waiting for that would double the time of a short program.
    if args.no_stream {
        return print_result(args, &result);
    }
    if let Some(error) = terminal.broken {
        return Err(error).context("cannot write the program's output");
    }
    if result.outcome == Outcome::TimedOut {
        printer::error("EXECUTION TIMED OUT");
    }
    if result.truncated {
        printer::warning("Output was truncated");
    }
    Ok(exit_code(&result))
}

/// The user's own machine: what Docker lets them do, we let them do.
fn unlimited(config: &Config) -> Config {
    let policy = Policy {
        max_memory: "1024t".into(),
        max_cpu: 1e6,
        max_pids: u32::MAX,
        max_timeout_ms: u64::MAX / 2,
        max_output_bytes: u64::MAX / 2,
        max_disk: "1024t".into(),
        networks: vec![Network::None, Network::Host],
        images: vec!["*".into()],
        allow_writable_root: true,
    };
    Config { policy, ..config.clone() }
}

/// Shows output as it comes.
#[derive(Default)]
struct Terminal {
    broken: Option<std::io::Error>,
}

impl Live for Terminal {
    fn output(&mut self, _: Phase, stream: Stream, data: &[u8]) {
        let written = match stream {
            Stream::Stdout => printer::raw_stdout(data),
            Stream::Stderr => printer::raw_stderr(data),
        };
        if let Err(error) = written {
            self.broken.get_or_insert(error);
        }
    }
}

fn print_result(args: &RunArgs, result: &ExecutionResult) -> anyhow::Result<ExitCode> {
    if let Some(path) = args.out.as_ref().filter(|_| !result.stdout.is_empty()) {
        std::fs::write(path, &result.stdout)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if !result.stdout.is_empty() {
        printer::line(&result.stdout);
    }
    if !result.stderr.is_empty() {
        printer::note(&result.stderr);
    }
    if result.truncated {
        printer::warning("Output was truncated");
    }
    if let Some(path) = args.out.as_ref().filter(|_| !result.stdout.is_empty()) {
        printer::line(format!("[Run] Output written to {}", path.display()));
    }
    Ok(exit_code(result))
}

/// The program's own code; what does not fit a byte is a plain failure.
fn exit_code(result: &ExecutionResult) -> ExitCode {
    u8::try_from(result.exit_code).map_or(ExitCode::FAILURE, ExitCode::from)
}
