//! `isol8 completions`.

use clap::CommandFactory as _;

use crate::args::Cli;

pub(crate) fn run(shell: clap_complete::Shell) {
    clap_complete::generate(shell, &mut Cli::command(), "isol8", &mut std::io::stdout());
}
