//! `isol8 completions`.

use std::process::ExitCode;

use clap::CommandFactory as _;

use crate::args::Cli;
use crate::printer;

pub(crate) fn run(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    // The generator panics where it cannot write; a list can always be written to.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "isol8", &mut script);
    printer::raw_stdout(&script)?;
    Ok(ExitCode::SUCCESS)
}
