//! The `isol8` command: everything on one machine, or any one role of a fleet.

mod args;
mod commands;
mod host;
mod printer;
mod roles;
mod settings;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};
use tracing_subscriber::EnvFilter;

use args::{Cli, Command};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    start_log(&cli);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            printer::error(format!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(Box::pin(run(cli)));
    // Whatever still runs is cut; all that had to finish was waited for.
    runtime.shutdown_background();
    outcome.unwrap_or_else(|error| {
        printer::error(format!("{error:#}"));
        ExitCode::FAILURE
    })
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Setup(args) => commands::setup::run(args).await.map(|()| ExitCode::SUCCESS),
        Command::Run(args) => commands::run::run(*args).await,
        Command::Serve(args) => commands::serve::run(args).await,
        Command::Gateway(args) => commands::gateway::run(args).await,
        Command::Worker(args) => commands::worker::run(args).await,
        Command::Config(args) => commands::config::run(&args),
        Command::Cleanup(args) => commands::cleanup::run(&args).await,
        Command::Completions { shell } => {
            commands::completions::run(shell);
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Help and version are answers; anything else is the user's mistake (contract section 4: 1).
fn usage(error: &clap::Error) -> ExitCode {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        printer::line(Cli::command().render_help());
        return ExitCode::SUCCESS;
    }
    if error.kind() == ErrorKind::DisplayVersion {
        // The bare number, for scripts.
        printer::line(shared::VERSION);
        return ExitCode::SUCCESS;
    }
    let is_answer = !error.use_stderr();
    if error.print().is_err() || !is_answer {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn start_log(cli: &Cli) {
    let is_server =
        matches!(cli.command, Command::Serve(_) | Command::Gateway(_) | Command::Worker(_));
    let default = match (cli.debug, is_server) {
        (true, _) => "debug,bollard=info,hyper=info,h2=info",
        (false, true) => "info",
        (false, false) => "warn",
    };
    let filter = EnvFilter::try_from_env("ISOL8_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}
