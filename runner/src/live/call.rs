//! One call of a living interpreter: its streams, its limits, its end.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use runner::protocol::{Exited, INTERRUPT_GRACE, Kind, LINGER_LIMIT, Start};

use super::accounting::{CpuTime, peak_memory_bytes};
use super::process::Process;
use super::wire::Report;
use crate::bystanders::Bystanders;
use crate::identity::kill_sandbox_processes;
use crate::link::Link;
use crate::streams::{Input, Output};
use crate::sys::Ended;

/// How often to kill again while something still holds on.
const KILL_AGAIN: Duration = Duration::from_millis(20);
/// Output taken after the end; background threads and processes may write on for ever. Twice what
/// both pipes hold at their largest.
const DRAIN_BYTES: u64 = 4 << 20;

/// How the code ended, while the interpreter lives on.
#[derive(Clone, Copy)]
enum Verdict {
    Exit(i32),
    /// The working directory could not be entered, for this error number.
    NoDirectory(i32),
}

/// How a call ended.
pub(super) enum Ending {
    Exited(Exited),
    /// The working directory could not be entered, for this error number.
    NoDirectory(i32),
}

/// What holds for a call from its start.
pub(super) struct Terms {
    pub(super) number: u64,
    pub(super) timeout: Option<Duration>,
    pub(super) output_limit_bytes: u64,
    pub(super) fresh: bool,
    pub(super) started_at: Instant,
    pub(super) kills_before: u64,
}

impl Terms {
    pub(super) fn new(
        number: u64,
        start: &Start,
        fresh: bool,
        started_at: Instant,
        kills_before: u64,
    ) -> Self {
        Self {
            number,
            timeout: (start.timeout_ms > 0).then(|| Duration::from_millis(start.timeout_ms)),
            output_limit_bytes: start.output_limit_bytes,
            fresh,
            started_at,
            kills_before,
        }
    }
}

/// The running call.
pub(super) struct Call {
    pub(super) terms: Terms,
    pub(super) stdin: Input,
    pub(super) outputs: [Output; 2],
    /// Ends of the FIFO, kept until the driver has opened its own.
    stdin_keepers: Option<[OwnedFd; 2]>,
    bystanders: Bystanders,
    cpu_before: CpuTime,
    verdict: Option<Verdict>,
    /// Set when the interpreter's process has ended.
    ended: Option<Ended>,
    over_at: Option<Instant>,
    timed_out: bool,
    killed: bool,
    kill_at: Option<Instant>,
    give_up_at: Option<Instant>,
    drained_bytes: u64,
}

impl Call {
    /// A call about to be sent to `process`, which lends it its output pipes.
    pub(super) fn new(
        terms: Terms,
        stdin: Option<(OwnedFd, [OwnedFd; 2])>,
        process: &mut Process,
        mut bystanders: Bystanders,
    ) -> Self {
        bystanders.exclude(process.pid);
        let cpu_before = if terms.fresh { CpuTime::default() } else { CpuTime::of(process.pid) };
        let [stdout, stderr] = std::mem::take(&mut process.outputs);
        let (writer, stdin_keepers) = stdin.unzip();
        Self {
            terms,
            stdin: Input::new(writer),
            outputs: [Output::new(Kind::Stdout, stdout), Output::new(Kind::Stderr, stderr)],
            stdin_keepers,
            bystanders,
            cpu_before,
            verdict: None,
            ended: None,
            over_at: None,
            timed_out: false,
            killed: false,
            kill_at: None,
            give_up_at: None,
            drained_bytes: 0,
        }
    }

    /// Whether it has ended, though not all its output may have been passed on.
    pub(super) fn is_over(&self) -> bool {
        self.verdict.is_some() || self.ended.is_some()
    }

    /// The interpreter's process has ended.
    pub(super) fn on_ended(&mut self, ended: Ended) {
        self.ended = Some(ended);
        self.kill_at = None;
        self.over_at.get_or_insert_with(Instant::now);
    }

    /// The driver says something; what is about another call is late and ignored.
    pub(super) fn on_report(&mut self, report: Report, process: &Process) {
        let verdict = match report {
            Report::StdinOpen(number) if number == self.terms.number => {
                self.stdin_keepers = None;
                return;
            }
            Report::Done(number, code) if number == self.terms.number => Verdict::Exit(code),
            Report::Failed(number, errno) if number == self.terms.number => {
                Verdict::NoDirectory(errno)
            }
            _ => return,
        };
        if self.is_over() {
            return;
        }
        self.verdict = Some(verdict);
        self.over_at = Some(Instant::now());
        self.kill_at = None;
        if self.timed_out || self.killed {
            // The interpreter gave in; what the call has started goes with the call.
            self.bystanders.signal_others(process.pid, Signal::SIGKILL);
        }
    }

    /// The driver is lost: nothing is left but to kill the interpreter.
    pub(super) fn on_lost(&mut self, process: &Process) {
        if !self.is_over() && self.give_up_at.is_none() {
            self.kill_now(process);
        }
    }

    /// The `Signal` frame.
    pub(super) fn signal(&self, process: &Process, signal: Signal) {
        if !self.is_over() {
            // The interpreter last: what it starts to deal with the signal is not to be hit.
            self.bystanders.signal_others(process.pid, signal);
            process.signal(signal);
        }
    }

    /// The `Kill` frame.
    pub(super) fn kill(&mut self, process: &Process) {
        if !self.is_over() && !self.timed_out && !self.killed {
            self.killed = true;
            self.interrupt(process);
        }
    }

    fn interrupt(&mut self, process: &Process) {
        self.signal(process, Signal::SIGINT);
        self.kill_at = Some(Instant::now() + INTERRUPT_GRACE);
    }

    fn kill_now(&mut self, process: &Process) {
        let now = Instant::now();
        process.signal(Signal::SIGKILL);
        self.bystanders.signal_others(process.pid, Signal::SIGKILL);
        self.kill_at = Some(now + KILL_AGAIN);
        self.give_up_at.get_or_insert(now + LINGER_LIMIT);
    }

    fn deadline(&self) -> Option<Instant> {
        let open = !self.is_over() && !self.timed_out && !self.killed;
        self.terms
            .timeout
            .filter(|_| open)
            .and_then(|limit| self.terms.started_at.checked_add(limit))
    }

    /// When the call wants to be looked at although nothing happened.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        // One that is over and past its last limit waits for room on the link alone.
        let give_up_at = self.give_up_at.filter(|at| !self.is_over() || *at > Instant::now());
        [self.deadline(), self.kill_at, give_up_at].into_iter().flatten().min()
    }

    /// Acts on limits that have passed.
    pub(super) fn check_timers(&mut self, process: &Process) {
        let now = Instant::now();
        if self.deadline().is_some_and(|at| now >= at) {
            self.timed_out = true;
            self.interrupt(process);
        } else if !self.is_over() && self.kill_at.is_some_and(|at| now >= at) {
            self.kill_now(process);
        }
    }

    /// Passes on what the code wrote.
    pub(super) fn pump(&mut self, link: &mut Link, scratch: &mut [u8]) {
        for output in &mut self.outputs {
            output.pump(self.terms.output_limit_bytes, link, scratch);
        }
    }

    fn output_bytes(&self) -> u64 {
        self.outputs.iter().map(Output::total_bytes).sum()
    }

    /// Passes on what is left in the pipes; tells whether that was all.
    fn drain(&mut self, link: &mut Link, scratch: &mut [u8]) -> bool {
        while self.drained_bytes < DRAIN_BYTES {
            if !link.has_room() {
                return false;
            }
            let before = self.output_bytes();
            self.pump(link, scratch);
            let moved = self.output_bytes() - before;
            self.drained_bytes += moved;
            if moved == 0 {
                return link.has_room();
            }
        }
        true
    }

    /// Decides whether the call is over and all its output passed on; returns how it ended.
    pub(super) fn try_finish(
        &mut self,
        process: &Process,
        link: &mut Link,
        scratch: &mut [u8],
        memory_kills: impl FnOnce() -> u64,
    ) -> Option<Ending> {
        let gave_up = self.give_up_at.is_some_and(|at| Instant::now() >= at);
        if !self.is_over() && !gave_up {
            return None;
        }
        if !self.is_over() {
            // It could not be found and killed one by one; what the session has left goes too.
            let _ = kill_sandbox_processes();
        }
        if !self.drain(link, scratch) {
            return None;
        }
        let cut_short = self.timed_out || self.killed;
        Some(match self.verdict {
            Some(Verdict::NoDirectory(errno)) if !cut_short => Ending::NoDirectory(errno),
            _ => Ending::Exited(self.exited(process, memory_kills() > self.terms.kills_before)),
        })
    }

    /// The closing message as of now.
    pub(super) fn exited(&self, process: &Process, out_of_memory: bool) -> Exited {
        let status = match (self.verdict, self.ended) {
            (Some(Verdict::Exit(code)), _) => code << 8,
            (_, Some(ended)) => ended.status,
            // Killed and not dead yet: what 137 says.
            _ => 9,
        };
        let signal = libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status));
        let exit_code = match signal {
            _ if self.timed_out || self.killed => 137,
            Some(number) => 128 + number,
            None => libc::WEXITSTATUS(status),
        };
        let cpu = match self.ended {
            Some(Ended { user_us, system_us, .. }) => CpuTime { user_us, system_us },
            None => CpuTime::of(process.pid),
        };
        let cpu = cpu.since(self.cpu_before);
        let over_at = self.over_at.unwrap_or_else(Instant::now);
        let wall = over_at.saturating_duration_since(self.terms.started_at).as_micros();
        Exited {
            exit_code,
            signal,
            timed_out: self.timed_out,
            killed: self.killed,
            state_lost: self.is_state_lost(),
            out_of_memory,
            wall_us: u64::try_from(wall).unwrap_or(u64::MAX),
            cpu_user_us: cpu.user_us,
            cpu_system_us: cpu.system_us,
            peak_memory_bytes: self
                .ended
                .map_or_else(|| peak_memory_bytes(process.pid), |ended| ended.peak_kib << 10),
            stdout_bytes: self.outputs[0].total_bytes(),
            stderr_bytes: self.outputs[1].total_bytes(),
        }
    }

    /// Whether the interpreter is gone, or not fit for another call.
    pub(super) fn is_state_lost(&self) -> bool {
        self.ended.is_some() || self.verdict.is_none() || self.give_up_at.is_some()
    }
}
