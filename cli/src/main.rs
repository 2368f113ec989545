//! The `isol8` command: everything on one machine, or any one role of a fleet.

mod args;
mod commands;
mod credentials;
mod host;
mod log;
mod printer;
mod process;
mod request;
mod roles;
mod screen;
mod settings;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};

use args::{Cli, Command};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    // A configuration that cannot be read is reported by the command that needs it.
    let is_debug = cli.debug || settings::load().is_ok_and(|loaded| loaded.config.debug);
    let is_server =
        matches!(cli.command, Command::Serve(_) | Command::Gateway(_) | Command::Worker(_));
    log::start(is_server, is_debug);
    if is_server {
        process::harden();
    }
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
        Command::Build(args) => commands::build::run(&args).await,
        Command::ListCustom(args) => commands::list_custom::run(&args).await,
        Command::Cleanup(args) => commands::cleanup::run(&args).await,
        Command::Doctor(args) => commands::doctor::run(args).await,
        Command::Login(args) => commands::login::login(args).await,
        Command::Logout => commands::login::logout(),
        Command::Session(command) => commands::session::run(command).await,
        Command::Keys(command) => commands::keys::run(command).await,
        Command::Jobs(command) => commands::jobs::run(command).await,
        Command::Batch(command) => commands::batch::run(command).await,
        Command::Dlq(command) => commands::dlq::run(command).await,
        Command::Schedules(command) => commands::schedules::run(command).await,
        Command::Workers(command) => commands::workers::run(command).await,
        Command::Top(args) => commands::top::run(args).await,
        Command::Man(args) => commands::man::run(&args),
        Command::Completions { shell } => commands::completions::run(shell),
    }
}

/// Help and version are answers; anything else is the user's mistake.
fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand if std::env::args_os().len() < 2 => {
            printer::line(Cli::command().render_help());
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelp => {
            printer::line(error.render());
            ExitCode::SUCCESS
        }
        // Of a command that needs one more word.
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            printer::note(error.render());
            ExitCode::FAILURE
        }
        ErrorKind::DisplayVersion => {
            // The bare number, for scripts.
            printer::line(shared::VERSION);
            ExitCode::SUCCESS
        }
        _ => {
            let text = error.render().to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            // The words that scripts of isol8's own command look for.
            let text = text.replacen("unrecognized subcommand", "unknown command", 1).replacen(
                "unexpected argument",
                "unknown argument",
                1,
            );
            printer::error(text.trim_end());
            ExitCode::FAILURE
        }
    }
}
