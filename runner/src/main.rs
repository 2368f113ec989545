//! `isol8-runner`: PID 1 of every sandbox.
//!
//! Runs programs as the sandbox user at the worker's bidding, moves their streams over the link,
//! and cleans up after them. One thread, no runtime, no trust in anything a program can touch.

mod bystanders;
mod clean;
mod files;
mod identity;
mod job;
mod link;
mod live;
mod memory;
mod prepared;
mod relay;
mod reset;
mod spawn;
mod standing;
mod startup;
mod streams;
mod supervisor;
mod sys;

use std::process::ExitCode;
use std::time::Duration;

use runner::protocol::{Fatal, Kind};

use supervisor::{End, Supervisor};

/// How long last words may wait for the worker to read them.
const LAST_WORDS: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let (link, children) = match startup::prepare() {
        Ok(ready) => ready,
        Err(error) => {
            startup::complain(&format!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    // From the worker, who knows what it has started.
    let owns_kernel = std::env::args_os().skip(1).any(|argument| argument == "--own-kernel");
    let mut supervisor = Supervisor::new(link, children, owns_kernel);
    let end = supervisor.run();
    // As PID 1 our end is everyone's, but a runner started by hand must not leave anything.
    let _ = identity::kill_sandbox_processes();
    match end {
        End::Closed => ExitCode::SUCCESS,
        End::Broken(message) => {
            supervisor.link.send_message(Kind::Fatal, &Fatal { message });
            supervisor.link.flush_within(LAST_WORDS);
            ExitCode::FAILURE
        }
    }
}
