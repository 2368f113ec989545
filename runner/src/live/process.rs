//! The process of a living interpreter: starting it, commands in, reports out.
//!
//! It belongs to its user code, which may do to it, and write into its pipes, whatever it likes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2, read, write};

use runner::protocol::{Failed, LiveInterpreter, Stage, Start};

use super::wire::{MAX_REPORT_BYTES, Report};
use crate::identity::sandbox_pipe;
use crate::spawn::{Program, decode_failure, failed, make_pipes, spawn};

/// Where a driver finds its commands.
const COMMANDS_FD: i32 = 3;
/// Where it leaves its reports.
const REPORTS_FD: i32 = 4;

/// The main loop of bash: not in a function, where `declare` would be local, not in a script file,
/// whose name messages would bear instead of `$0`, and all in one line, from which they count lines.
const BASH_LOOP: &str = ". /isol8/live/bash.sh; while :; do __isol8_turn; \
    case $__isol8_trace in *x*) set -x;; esac; eval \"$__isol8_code\"; \
    { __isol8_status=$?; __isol8_trace=$-; set +x; } 2>/dev/null; done; exit 0";

/// The driver is gone, or speaks no sense: the interpreter is of no use any more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lost;

/// A started interpreter.
pub(super) struct Process {
    pub(super) kind: LiveInterpreter,
    pub(super) pid: i32,
    /// Closes when the interpreter has been executed, or says why it has not.
    starting: Option<(OwnedFd, Vec<u8>)>,
    commands: OwnedFd,
    unsent: Vec<u8>,
    reports: Option<OwnedFd>,
    inbox: Vec<u8>,
    /// Whether it has been reaped; its number may be another's by now.
    pub(super) is_reaped: bool,
    /// Our ends of its output, while no call has them.
    pub(super) outputs: [Option<OwnedFd>; 2],
}

impl Process {
    /// Starts the interpreter where the first call wants to be, with its environment.
    ///
    /// # Errors
    /// The step that failed.
    pub(super) fn start(kind: LiveInterpreter, start: &Start, path: &str) -> Result<Self, Failed> {
        let words = |error: std::io::Error| failed(Stage::Fork, "", &error);
        let (pipes, ends) = make_pipes().map_err(|error| words(error.into()))?;
        let (report, theirs) = pipe2(OFlag::O_CLOEXEC).map_err(|error| words(error.into()))?;
        let (commands_end, commands) = sandbox_pipe().map_err(words)?;
        let (reports, reports_end) = sandbox_pipe().map_err(words)?;
        for ours in [&report, &commands, &reports] {
            fcntl(ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
                .map_err(|error| words(error.into()))?;
        }
        let program = Program {
            argv: &command_line(kind, path),
            env: &start.env,
            cwd: &start.cwd,
            code: None,
            as_root: false,
            descriptors: &[(&commands_end, COMMANDS_FD), (&reports_end, REPORTS_FD)],
        };
        let pid = spawn(&program, &ends, &theirs, None)?;
        Ok(Self {
            kind,
            pid,
            starting: Some((report, Vec::new())),
            commands,
            unsent: Vec::new(),
            reports: Some(reports),
            inbox: Vec::new(),
            is_reaped: false,
            outputs: [Some(pipes.stdout), Some(pipes.stderr)],
        })
    }

    /// What tells, by closing, that the interpreter has been executed.
    pub(super) fn starting(&self) -> Option<BorrowedFd<'_>> {
        self.starting.as_ref().map(|(report, _)| report.as_fd())
    }

    /// What the driver speaks through, until it closes it.
    pub(super) fn reports(&self) -> Option<BorrowedFd<'_>> {
        self.reports.as_ref().map(OwnedFd::as_fd)
    }

    /// The way in, while something waits to go there.
    pub(super) fn commands(&self) -> Option<BorrowedFd<'_>> {
        self.has_unsent().then(|| self.commands.as_fd())
    }

    /// Whether it has not taken all it was sent.
    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Reads how the start went; `Some` once, when it is known.
    pub(super) fn on_starting(&mut self) -> Option<Result<(), Failed>> {
        let (report, said) = self.starting.as_mut()?;
        let mut chunk = [0; 1024];
        loop {
            match read(&*report, &mut chunk) {
                Ok(count) if count > 0 => said.extend_from_slice(&chunk[..count]),
                Err(Errno::EAGAIN | Errno::EINTR) => return None,
                _ => break,
            }
        }
        let (_, said) = self.starting.take()?;
        Some(if said.is_empty() { Ok(()) } else { Err(decode_failure(&said)) })
    }

    /// Queues a command.
    pub(super) fn send(&mut self, command: Vec<u8>) -> Result<(), Lost> {
        self.unsent = command;
        self.flush()
    }

    /// Writes what the driver takes now.
    pub(super) fn flush(&mut self) -> Result<(), Lost> {
        if self.unsent.is_empty() {
            return Ok(());
        }
        match write(&self.commands, &self.unsent) {
            Ok(count) => {
                self.unsent.drain(..count);
                Ok(())
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(()),
            Err(_) => Err(Lost),
        }
    }

    /// Reads what the driver says now.
    ///
    /// A driver that closed its end says no more: it is dying, or the code has put another program in
    /// its place, which may run to its end.
    pub(super) fn receive(&mut self) -> Result<Vec<Report>, Lost> {
        let mut chunk = [0; MAX_REPORT_BYTES];
        let Some(reports) = &self.reports else {
            return Ok(Vec::new());
        };
        match read(reports, &mut chunk) {
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Vec::new()),
            Ok(count) if count > 0 => self.inbox.extend_from_slice(&chunk[..count]),
            _ => {
                self.reports = None;
                return Ok(Vec::new());
            }
        }
        let taken = self.take_reports();
        if taken.is_err() {
            // It is not to be trusted any more, and nothing it still writes to be kept.
            (self.reports, self.inbox) = (None, Vec::new());
        }
        taken
    }

    fn take_reports(&mut self) -> Result<Vec<Report>, Lost> {
        let mut reports = Vec::new();
        while let Some(end) = self.inbox.iter().position(|byte| *byte == b'\n') {
            reports.push(Report::parse(&self.inbox[..end]).ok_or(Lost)?);
            self.inbox.drain(..=end);
        }
        if self.inbox.len() > MAX_REPORT_BYTES { Err(Lost) } else { Ok(reports) }
    }

    pub(super) fn signal(&self, signal: Signal) {
        if self.is_reaped {
            return;
        }
        // Already gone is fine: its end tells.
        let _ = kill(Pid::from_raw(self.pid), signal);
    }

    /// Takes and drops what background threads and processes have written between two calls.
    pub(super) fn drain(&mut self, scratch: &mut [u8]) {
        for pipe in &mut self.outputs {
            if let Some(open) = pipe
                && !matches!(read(open, scratch), Ok(1..) | Err(Errno::EAGAIN | Errno::EINTR))
            {
                *pipe = None;
            }
        }
    }
}

fn command_line(kind: LiveInterpreter, path: &str) -> Vec<String> {
    let words: &[&str] = match kind {
        LiveInterpreter::Python => &["python3", "/isol8/live/python.py"],
        // Without the flag an interrupt inside of a callback would end the process.
        LiveInterpreter::Node => &["node", "--no-force-async-hooks-checks", "/isol8/live/node.cjs"],
        LiveInterpreter::Bun => &["bun", "run", "/isol8/live/bun.mjs"],
        LiveInterpreter::Deno => &[
            "deno",
            "run",
            "--allow-read=/sandbox,/tmp",
            "--allow-write=/sandbox,/tmp",
            "--allow-env",
            "--allow-net",
            "/isol8/live/deno.mjs",
        ],
        LiveInterpreter::Bash => &["bash", "-c", BASH_LOOP, path],
    };
    words.iter().map(|word| (*word).to_owned()).collect()
}
