//! The living interpreter of a sandbox: started by the first call, it keeps variables, functions and
//! imports from call to call.

mod accounting;
mod call;
mod process;
mod wire;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::signal::Signal;

use runner::protocol::{CodeFile, Exited, Failed, Kind, LiveInterpreter, Stage, Start, Started};

use self::call::{Call, Ending, Terms};
use self::process::Process;
use self::wire::Command;
use crate::bystanders::Bystanders;
use crate::files::Fifo;
use crate::link::Link;
use crate::spawn::failed;
use crate::streams::Input;
use crate::sys::Ended;

/// Reads of what a driver that has died still said: as much as a pipe holds.
const LAST_REPORTS: usize = 16;

/// How a call came to its end.
pub(crate) enum Outcome {
    /// It ran.
    Exited(Exited),
    /// It did not.
    Failed(Failed),
}

/// The interpreter, what it was last told, and its running call.
#[derive(Default)]
pub(crate) struct Live {
    process: Option<Process>,
    call: Option<Call>,
    calls: u64,
    env: BTreeMap<String, String>,
    cwd: String,
}

impl Live {
    /// Whether a call is running.
    pub(crate) fn is_busy(&self) -> bool {
        self.call.is_some()
    }

    /// Whether there is an interpreter.
    pub(crate) fn is_alive(&self) -> bool {
        self.process.is_some()
    }

    /// Begins a call. `bystanders` are the processes it must leave alone.
    ///
    /// # Errors
    /// The step that failed; nothing of the call has run.
    pub(crate) fn start(
        &mut self,
        kind: LiveInterpreter,
        start: &Start,
        bystanders: Bystanders,
        kills_before: u64,
        link: &mut Link,
    ) -> Result<(), Failed> {
        let started_at = Instant::now();
        let Some(code) = &start.code else {
            let error = io::Error::from_raw_os_error(Errno::EINVAL as i32);
            return Err(failed(Stage::Exec, "", &error));
        };
        self.calls += 1;
        let stdin = if start.stdin { Some(self.make_stdin()?) } else { None };
        let (mut process, fresh) = match self.hand_over(kind, start, code) {
            Some(process) => (process, false),
            None => (self.begin(kind, start, code)?, true),
        };
        let terms = Terms::new(self.calls, start, fresh, started_at, kills_before);
        self.call = Some(Call::new(terms, stdin, &mut process, bystanders));
        if !fresh {
            announce(&process, false, link);
        }
        self.process = Some(process);
        (self.env, self.cwd) = (start.env.clone(), start.cwd.clone());
        Ok(())
    }

    /// Gives the call to the interpreter there is. One that is of another kind, has not taken its last
    /// command or cannot take this one is ended.
    fn hand_over(
        &mut self,
        kind: LiveInterpreter,
        start: &Start,
        code: &CodeFile,
    ) -> Option<Process> {
        let command = self.command(kind, start, code);
        let process = self.process.as_mut()?;
        if process.kind != kind || process.has_unsent() || process.send(command).is_err() {
            self.discard();
        }
        self.process.take()
    }

    /// Starts an interpreter for the call.
    fn begin(
        &mut self,
        kind: LiveInterpreter,
        start: &Start,
        code: &CodeFile,
    ) -> Result<Process, Failed> {
        let mut process = Process::start(kind, start, &code.path)?;
        (self.env, self.cwd) = (start.env.clone(), start.cwd.clone());
        // If it dies before it takes the command, its end tells.
        let _ = process.send(self.command(kind, start, code));
        Ok(process)
    }

    fn command(&self, kind: LiveInterpreter, start: &Start, code: &CodeFile) -> Vec<u8> {
        let stdin_path = self.stdin_path();
        let command = Command {
            call: self.calls,
            path: &code.path,
            code: &code.text,
            env: Command::changes(&self.env, &start.env),
            // A program may have gone elsewhere and stays there, unless the caller wants to move.
            cwd: (start.cwd != self.cwd).then_some(&start.cwd),
            stdin: start.stdin,
            stdin_path: start.stdin.then_some(&stdin_path),
        };
        command.encode(kind)
    }

    fn stdin_path(&self) -> String {
        format!("/tmp/.isol8-stdin-{}", self.calls)
    }

    /// The way in for standard input: our end, and those to keep until the driver has its own.
    fn make_stdin(&self) -> Result<(OwnedFd, [OwnedFd; 2]), Failed> {
        let path = self.stdin_path();
        let make = || {
            let Fifo { reader, writer } = Fifo::make(Path::new(&path))?;
            Ok((writer.try_clone()?, [reader, writer]))
        };
        make().map_err(|error: io::Error| match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EAGAIN | Errno::ENOMEM) => failed(Stage::Fork, "", &error),
            _ => failed(Stage::File, &path, &error),
        })
    }

    /// Where standard input goes, while a call runs.
    pub(crate) fn stdin(&mut self) -> Option<&mut Input> {
        self.call.as_mut().map(|call| &mut call.stdin)
    }

    /// Interrupts the running call, as the `Kill` frame asks.
    pub(crate) fn kill_call(&mut self) {
        if let (Some(process), Some(call)) = (&self.process, &mut self.call) {
            call.kill(process);
        }
    }

    /// Delivers a signal to the interpreter and to what the running call has started.
    pub(crate) fn signal(&self, signal: Signal) {
        if let (Some(process), Some(call)) = (&self.process, &self.call) {
            call.signal(process, signal);
        }
    }

    /// Ends the interpreter, if there is one.
    pub(crate) fn discard(&mut self) {
        if let Some(process) = self.process.take() {
            process.signal(Signal::SIGKILL);
        }
    }

    /// Ends the running call at once, for a reset that comes before its end.
    pub(crate) fn close(&mut self, memory_kills: u64) -> Option<Exited> {
        let exited = match (self.call.take(), &self.process) {
            (Some(mut call), Some(process)) => {
                call.kill(process);
                let struck = memory_kills > call.terms.kills_before;
                Some(Exited { state_lost: true, ..call.exited(process, struck) })
            }
            _ => None,
        };
        self.discard();
        exited
    }

    /// A child of the runner has ended: perhaps the interpreter.
    pub(crate) fn on_ended(&mut self, ended: Ended) {
        let Some(process) = self.process.as_mut().filter(|process| process.pid == ended.pid) else {
            return;
        };
        process.is_reaped = true;
        let Some(call) = &mut self.call else {
            self.process = None;
            return;
        };
        // Its last words come first. As many as the pipe held: what it has left behind may write on.
        for _ in 0..LAST_REPORTS {
            let Ok(reports) = process.receive() else { break };
            reports.into_iter().for_each(|report| call.on_report(report, process));
        }
        call.on_ended(ended);
    }

    /// When a running call wants to be looked at although nothing happened.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.call.as_ref().and_then(Call::next_timer)
    }

    /// What to wait for.
    pub(crate) fn interests<'a>(
        &'a self,
        has_room: bool,
        add: &mut impl FnMut(BorrowedFd<'a>, PollFlags),
    ) {
        let Some(process) = &self.process else { return };
        if let Some(starting) = process.starting() {
            add(starting, PollFlags::POLLIN);
        }
        if let Some(commands) = process.commands() {
            add(commands, PollFlags::POLLOUT);
        }
        match &self.call {
            Some(call) if call.is_over() => {}
            Some(call) => {
                process.reports().into_iter().for_each(|fd| add(fd, PollFlags::POLLIN));
                if has_room && process.starting().is_none() {
                    let pipes = call.outputs.iter().filter_map(|output| output.pipe.as_ref());
                    pipes.for_each(|pipe| add(pipe.as_fd(), PollFlags::POLLIN));
                }
            }
            None => {
                process.reports().into_iter().for_each(|fd| add(fd, PollFlags::POLLIN));
                let pipes = process.outputs.iter().flatten();
                pipes.for_each(|pipe| add(pipe.as_fd(), PollFlags::POLLIN));
            }
        }
    }

    /// The pipe to a running call's standard input.
    pub(crate) fn stdin_pipe(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let stdin = &self.call.as_ref()?.stdin;
        let flags = if stdin.is_waiting() { PollFlags::POLLOUT } else { PollFlags::empty() };
        stdin.pipe.as_ref().map(|pipe| (pipe.as_fd(), flags))
    }

    /// Does what can be done now; returns how the running call ended, once it has, and the output
    /// pipes of an interpreter that is gone.
    pub(crate) fn step(
        &mut self,
        link: &mut Link,
        scratch: &mut [u8],
        memory_kills: impl FnOnce() -> u64,
    ) -> Option<(Outcome, Vec<OwnedFd>)> {
        let Some(process) = &mut self.process else {
            return None;
        };
        match process.on_starting() {
            None => {}
            Some(Ok(())) => announce(process, true, link),
            Some(Err(failure)) => {
                (self.process, self.call) = (None, None);
                return Some((Outcome::Failed(failure), Vec::new()));
            }
        }
        let heard = process.flush().and_then(|()| process.receive());
        let Some(call) = &mut self.call else {
            process.drain(scratch);
            if heard.is_err() || process.reports().is_none() {
                self.discard();
            }
            return None;
        };
        match heard {
            Ok(reports) => reports.into_iter().for_each(|report| call.on_report(report, process)),
            Err(_) => call.on_lost(process),
        }
        if process.starting().is_none() {
            call.pump(link, scratch);
        }
        call.check_timers(process);
        let ending = call.try_finish(process, link, scratch, memory_kills)?;
        let call = self.call.take()?;
        Some(self.finish(call, ending))
    }

    fn finish(&mut self, call: Call, ending: Ending) -> (Outcome, Vec<OwnedFd>) {
        let state_lost = call.is_state_lost();
        let pipes = call.outputs.map(|output| output.pipe);
        let mut left = Vec::new();
        if state_lost {
            self.discard();
            left.extend(pipes.into_iter().flatten());
        } else if let Some(process) = &mut self.process {
            process.outputs = pipes;
        }
        let outcome = match ending {
            Ending::Exited(exited) => Outcome::Exited(exited),
            Ending::NoDirectory(errno) => {
                // Forgotten, so that the next call tries again.
                let cwd = std::mem::take(&mut self.cwd);
                let error = io::Error::from_raw_os_error(errno);
                Outcome::Failed(failed(Stage::Cwd, &cwd, &error))
            }
        };
        (outcome, left)
    }
}

/// Tells the worker that the code runs.
fn announce(process: &Process, fresh: bool, link: &mut Link) {
    let started = Started { pid: process.pid, prepared: false, fresh };
    link.send_message(Kind::Started, &started);
}
