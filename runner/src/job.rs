//! The one running program: its streams, its limits, its end.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::read;

use runner::protocol::{Exited, Failed, Kind, LINGER_LIMIT, Start, Started};

use crate::bystanders::Bystanders;
use crate::identity::kill_sandbox_processes;
use crate::link::Link;
use crate::spawn::{Pipes, decode_failure};
use crate::streams::{Input, Output};
use crate::sys::Ended;

/// What a prepared interpreter says when it goes on to the program.
const STARTED: &[u8] = b"S";
/// How often to kill again while something still holds on.
const KILL_AGAIN: Duration = Duration::from_millis(20);
/// Output taken after the end of a program whose background processes may live on.
const BACKGROUND_DRAIN_BYTES: u64 = 1 << 20;

/// Where a starting program stands.
pub(crate) enum Starting {
    /// Still between fork and exec, or in its start-up file; what it has said so far.
    Pending(OwnedFd, Vec<u8>),
    /// Running.
    Done,
}

/// How a start turned out.
pub(crate) enum StartOutcome {
    /// Not known yet, or known since long.
    Pending,
    /// The program runs.
    Running,
    /// A step failed.
    Failed(Failed),
    /// The waiting interpreter was lost before it took the job.
    Lost,
}

/// The running program.
pub(crate) struct Job {
    pub(crate) pid: i32,
    pub(crate) start: Start,
    pub(crate) starting: Starting,
    pub(crate) stdin: Input,
    pub(crate) outputs: [Output; 2],
    prepared: bool,
    started_at: Instant,
    ended: Option<(Ended, Instant)>,
    drained_after_end: u64,
    kill_at: Option<Instant>,
    give_up_at: Option<Instant>,
    timed_out: bool,
    killed: bool,
    kills_before: u64,
    /// What must be left alone, if anything must.
    bystanders: Option<Bystanders>,
}

impl Job {
    /// A program that was just forked or given to the waiting interpreter.
    pub(crate) fn new(
        start: Start,
        pid: i32,
        pipes: Pipes,
        report: OwnedFd,
        prepared: bool,
        kills_before: u64,
        started_at: Instant,
    ) -> Self {
        Self {
            pid,
            starting: Starting::Pending(report, Vec::new()),
            stdin: Input::new(start.stdin.then_some(pipes.stdin)),
            outputs: [
                Output::new(Kind::Stdout, Some(pipes.stdout)),
                Output::new(Kind::Stderr, Some(pipes.stderr)),
            ],
            prepared,
            started_at,
            ended: None,
            drained_after_end: 0,
            kill_at: None,
            give_up_at: None,
            timed_out: false,
            killed: false,
            kills_before,
            bystanders: None,
            start,
        }
    }

    /// Makes the job spare processes that were there before it.
    pub(crate) fn spare(&mut self, bystanders: Bystanders) {
        self.bystanders = Some(bystanders);
    }

    /// Gives back what a job that never ran was to spare, and what it was to do.
    pub(crate) fn into_start(self) -> (Start, Option<Bystanders>) {
        (self.start, self.bystanders)
    }

    /// Whether the program itself has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Whether the program runs, so that its output may be passed on.
    pub(crate) fn has_started(&self) -> bool {
        matches!(self.starting, Starting::Done)
    }

    /// When the program began to be started.
    pub(crate) fn started_at(&self) -> Instant {
        self.started_at
    }

    /// Victims of the out-of-memory killer before the program began.
    pub(crate) fn kills_before(&self) -> u64 {
        self.kills_before
    }

    /// The program's parent, us or the fork server, has reaped it.
    pub(crate) fn on_ended(&mut self, ended: Ended) {
        self.ended = Some((ended, Instant::now()));
    }

    /// Kills everything, as the `Kill` frame asks.
    pub(crate) fn kill(&mut self) {
        if self.ended.is_none() {
            self.killed = true;
        }
        self.kill_everything();
    }

    /// When the job wants to be looked at although nothing happened.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        let limit = (self.ended.is_none() && !self.timed_out).then(|| self.deadline()).flatten();
        [limit, self.kill_at, self.give_up_at].into_iter().flatten().min()
    }

    fn deadline(&self) -> Option<Instant> {
        (self.start.timeout_ms > 0)
            .then(|| self.started_at.checked_add(Duration::from_millis(self.start.timeout_ms)))
            .flatten()
    }

    fn kill_everything(&mut self) {
        let now = Instant::now();
        match &self.bystanders {
            // What cannot be killed one by one in time takes everyone with it.
            Some(bystanders) if self.give_up_at.is_none_or(|at| now + KILL_AGAIN < at) => {
                bystanders.signal_all(Signal::SIGKILL);
            }
            // Without the capability nothing can be done here; the reset will find what is left.
            _ => drop(kill_sandbox_processes()),
        }
        self.kill_at = Some(now + KILL_AGAIN);
        self.give_up_at.get_or_insert(now + LINGER_LIMIT);
    }

    /// Acts on limits that have passed.
    pub(crate) fn check_timers(&mut self) {
        let now = Instant::now();
        if self.ended.is_none() && !self.timed_out && self.deadline().is_some_and(|at| now >= at) {
            self.timed_out = true;
            self.kill_everything();
        } else if self.kill_at.is_some_and(|at| now >= at) {
            self.kill_everything();
        }
    }

    /// Reads what the starting program says.
    pub(crate) fn on_report(&mut self, link: &mut Link) -> StartOutcome {
        let Starting::Pending(pipe, said) = &mut self.starting else {
            return StartOutcome::Pending;
        };
        let mut chunk = [0; 1024];
        match read(&*pipe, &mut chunk) {
            Ok(0) => {}
            Ok(count) => {
                said.extend_from_slice(&chunk[..count]);
                return StartOutcome::Pending;
            }
            Err(Errno::EAGAIN | Errno::EINTR) => return StartOutcome::Pending,
            // A reset connection: the other side died with our message unread.
            Err(_) => said.clear(),
        }
        let said = std::mem::take(said);
        self.starting = Starting::Done;
        let expected = if self.prepared { STARTED } else { b"" };
        if said == expected {
            let started = Started { pid: self.pid, prepared: self.prepared, fresh: false };
            link.send_message(Kind::Started, &started);
            StartOutcome::Running
        } else if said.is_empty() {
            StartOutcome::Lost
        } else {
            StartOutcome::Failed(decode_failure(&said))
        }
    }

    /// Passes on what the program wrote.
    pub(crate) fn pump(&mut self, link: &mut Link, scratch: &mut [u8]) {
        let limit = self.start.output_limit_bytes;
        for output in &mut self.outputs {
            output.pump(limit, link, scratch);
        }
    }

    /// Decides, after the program ended, whether the job has too; returns the closing message.
    pub(crate) fn try_finish(
        &mut self,
        link: &mut Link,
        scratch: &mut [u8],
        out_of_memory: impl FnOnce(u64) -> bool,
    ) -> Option<Exited> {
        let now = Instant::now();
        let gave_up = self.give_up_at.is_some_and(|at| now >= at);
        if !gave_up && (!self.has_started() || self.ended.is_none()) {
            return None;
        }
        self.drain(link, scratch);
        let open = self.outputs.iter().any(|output| output.pipe.is_some());
        if open && !gave_up {
            if !link.has_room() {
                // Our own slowness must not count as theirs; room wakes the loop.
                self.give_up_at = None;
                return None;
            }
            let spared = self.start.keep_background && !self.timed_out && !self.killed;
            if !spared {
                if self.kill_at.is_none() {
                    self.kill_everything();
                }
                return None;
            }
        }
        if self.bystanders.is_none() {
            // What it left behind may have let go of the streams. It is to change no file that is
            // fetched now; failing to kill shows at the reset.
            let _ = kill_sandbox_processes();
        }
        Some(self.exited(now, out_of_memory(self.kills_before)))
    }

    /// Passes on what is left in the pipes, up to a bound that a chatty background process may
    /// reach.
    fn drain(&mut self, link: &mut Link, scratch: &mut [u8]) {
        while self.drained_after_end < BACKGROUND_DRAIN_BYTES {
            let before = self.total_bytes();
            self.pump(link, scratch);
            let moved = self.total_bytes() - before;
            self.drained_after_end += moved;
            if moved == 0 {
                return;
            }
        }
    }

    fn total_bytes(&self) -> u64 {
        self.outputs.iter().map(|output| output.total_bytes()).sum()
    }

    /// The closing message as of now.
    pub(crate) fn exited(&self, now: Instant, out_of_memory: bool) -> Exited {
        // Without a report the program was killed and will not die: what 137 says.
        let unreported = || (Ended { status: 9, ..Ended::default() }, now);
        let (ended, at) = self.ended.unwrap_or_else(unreported);
        let signal = libc::WIFSIGNALED(ended.status).then(|| libc::WTERMSIG(ended.status));
        let exit_code = match signal {
            _ if self.timed_out || self.killed => 137,
            Some(number) => 128 + number,
            None => libc::WEXITSTATUS(ended.status),
        };
        let wall = at.saturating_duration_since(self.started_at).as_micros();
        Exited {
            exit_code,
            signal,
            timed_out: self.timed_out,
            killed: self.killed,
            state_lost: false,
            out_of_memory,
            wall_us: u64::try_from(wall).unwrap_or(u64::MAX),
            cpu_user_us: ended.user_us,
            cpu_system_us: ended.system_us,
            peak_memory_bytes: ended.peak_kib << 10,
            stdout_bytes: self.outputs[0].total_bytes(),
            stderr_bytes: self.outputs[1].total_bytes(),
        }
    }
}
