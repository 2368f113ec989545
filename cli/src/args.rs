//! The command line as written by the user. What a flag means is decided in `settings`, and in
//! `request` for programs.

mod batch;
mod fleet;
mod machine;
mod remote;
mod run;
mod schedules;
mod servers;
mod webhook;

use clap::{Args, Parser, Subcommand};

pub(crate) use batch::{BatchCommand, BatchResultsArgs, BatchSubmitArgs};
pub(crate) use fleet::{
    DlqCommand, JobsCommand, PageArgs, RedriveArgs, SubmitArgs, TopArgs, WorkersCommand,
};
pub(crate) use machine::{BuildArgs, CleanupArgs, DoctorArgs, JsonArgs, ManArgs, SbomArgs};
pub(crate) use remote::{ExecArgs, KeysCommand, ListArgs, LoginArgs, NetworkArgs, SessionCommand};
pub(crate) use run::{OutputArgs, ProgramArgs, RemoteArgs, RequestArgs, RunArgs};
pub(crate) use schedules::{CreateScheduleArgs, SchedulesCommand};
pub(crate) use servers::{GatewayArgs, ListenArgs, QueueArgs, ServeArgs, SlotArgs, WorkerArgs};
pub(crate) use webhook::{SECRET_VARIABLE, WebhookArgs};

/// Runs untrusted code in locked-down sandboxes: on this machine, or on a fleet.
#[derive(Debug, Parser)]
#[command(name = "isol8", version, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// Verbose logs.
    #[arg(long, global = true)]
    pub(crate) debug: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Install what is missing, start Docker, build the images.
    Setup(crate::commands::setup::SetupArgs),
    /// Run a program in a sandbox.
    Run(Box<RunArgs>),
    /// Run everything on this machine: gateway, worker and queue.
    Serve(ServeArgs),
    /// Run a gateway of a fleet.
    Gateway(GatewayArgs),
    /// Run a worker of a fleet.
    Worker(WorkerArgs),
    /// Build an image with packages or a setup script of your own.
    Build(BuildArgs),
    /// List the images made with `isol8 build`.
    ListCustom(JsonArgs),
    /// Tell what an image, or isol8 itself, is made of, as a CycloneDX document.
    Sbom(SbomArgs),
    /// Show the configuration.
    Config(ConfigArgs),
    /// Remove containers, and with --images images, that isol8 made on this machine.
    Cleanup(CleanupArgs),
    /// Look whether this machine is fit to run sandboxes, and how to mend it.
    Doctor(DoctorArgs),
    /// Get a key of your own from a server, and keep it.
    Login(LoginArgs),
    /// Forget that key.
    Logout,
    /// Work with the sessions of a server.
    #[command(subcommand)]
    Session(SessionCommand),
    /// Work with the API keys of a server, as its master.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Submit programs to a server's queue, follow and end them.
    #[command(subcommand)]
    Jobs(JobsCommand),
    /// Submit many programs of one shape in one go, follow and end them.
    #[command(subcommand)]
    Batch(BatchCommand),
    /// Look at jobs that were given up, and have them run after all.
    #[command(subcommand)]
    Dlq(DlqCommand),
    /// Have a server submit programs when their time comes.
    #[command(subcommand)]
    Schedules(SchedulesCommand),
    /// Watch a server: its workers, queue, tenants and dead letters.
    Top(TopArgs),
    /// Look at the workers of a server, and drain them, as its master.
    #[command(subcommand)]
    Workers(WorkersCommand),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page.
    Man(ManArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Only what is not a default, with the file or variable it came from, as JSON.
    #[arg(long)]
    pub(crate) sources: bool,
    /// The JSON Schema of the configuration file.
    #[arg(long, conflicts_with_all = ["json", "sources"])]
    pub(crate) schema: bool,
    /// The strict system-call filter of a runtime: where one of your own may begin.
    #[arg(long, value_name = "RUNTIME", conflicts_with_all = ["json", "sources", "schema"])]
    pub(crate) seccomp: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    const PAGE: &str = include_str!("../../docs/cli.md");

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_flag_is_documented() {
        fn look(command: &clap::Command, name: &str, missing: &mut Vec<String>) {
            let section = PAGE
                .split("\n## ")
                .find(|section| section.lines().next().is_some_and(|title| title.contains(name)));
            let Some(section) = section else {
                missing.push(format!("a section for `{name}`"));
                return;
            };
            let below = || command.get_subcommands();
            let arguments =
                command.get_arguments().chain(below().flat_map(clap::Command::get_arguments));
            for flag in arguments.filter_map(clap::Arg::get_long) {
                if !section.contains(&format!("--{flag}")) {
                    missing.push(format!("{name} --{flag}"));
                }
            }
            for below in below() {
                if !section.contains(&format!("{name} {}", below.get_name())) {
                    missing.push(format!("{name} {}", below.get_name()));
                }
            }
        }
        let mut missing = Vec::new();
        for command in super::Cli::command().get_subcommands() {
            look(command, &format!("isol8 {}", command.get_name()), &mut missing);
        }
        assert!(missing.is_empty(), "docs/cli.md lacks {missing:?}");
    }
}
