//! What each frame from the worker makes the runner do.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::Signal as SignalNumber;
use nix::unistd::{Pid, pipe2};

use runner::protocol::{
    Failed, Kind, LiveInterpreter, Prepare, ProtocolError, ResetDone, Signal, Stage, Start,
    parse_message,
};

use super::{End, Supervisor};
use crate::bystanders::Bystanders;
use crate::files::{Request, Writer};
use crate::identity::kill_sandbox_processes;
use crate::job::Job;
use crate::link::Frame;
use crate::prepared::Waiting;
use crate::reset::restore;
use crate::spawn::{Program, failed, make_pipes, spawn};

/// Frames taken from the link before everyone else gets a turn.
const FRAMES_PER_TURN: usize = 64;
/// Attempts to start a program when the kernel has no process to spare, and the pause between.
const FORK_ATTEMPTS: u32 = 5;
const FORK_PAUSE: Duration = Duration::from_millis(10);

impl From<ProtocolError> for End {
    fn from(error: ProtocolError) -> Self {
        Self::Broken(error.to_string())
    }
}

impl Supervisor {
    /// Takes the frames that have arrived, up to one that must wait.
    pub(super) fn take_frames(&mut self) -> Result<(), End> {
        for _ in 0..FRAMES_PER_TURN {
            if self.prepared.must_be_alone() || self.writer.as_ref().is_some_and(Writer::is_full) {
                return Ok(());
            }
            if let Some(frame) = self.deferred.take() {
                if self.writer.is_some() {
                    self.deferred = Some(frame);
                    return Ok(());
                }
                self.take_frame(frame)?;
                continue;
            }
            let Some(frame) = self.link.next_frame()? else {
                return Ok(());
            };
            self.take_frame(frame)?;
        }
        self.more_frames = true;
        Ok(())
    }

    fn take_frame(&mut self, frame: Frame) -> Result<(), End> {
        match frame.kind {
            Kind::FileBegin | Kind::FileData | Kind::FileEnd => self.take_file_frame(&frame),
            Kind::Start | Kind::ReadFile | Kind::ListDirectory | Kind::RemoveFile | Kind::Sync
                if self.writer.is_some() =>
            {
                if let Some(writer) = &mut self.writer {
                    writer.finish();
                }
                self.deferred = Some(frame);
            }
            Kind::Start => self.start(parse_message(&frame.payload)?)?,
            Kind::Sync => self.sync(),
            Kind::ReadFile => self.ask(Request::Read(parse_message(&frame.payload)?)),
            Kind::ListDirectory => self.ask(Request::List(parse_message(&frame.payload)?)),
            Kind::RemoveFile => self.ask(Request::Remove(parse_message(&frame.payload)?)),
            Kind::Prepare => {
                self.prepared.configure(parse_message::<Prepare>(&frame.payload)?);
                self.ready_due = true;
            }
            Kind::Stdin => {
                let job = self.job.as_mut().map(|job| &mut job.stdin);
                if let Some(stdin) = job.or_else(|| self.live.stdin())
                    && stdin.push(&frame.payload, &mut self.link).is_err()
                {
                    return Err(End::Broken("standard input beyond its credit".to_owned()));
                }
            }
            Kind::StdinEnd => {
                let job = self.job.as_mut().map(|job| &mut job.stdin);
                if let Some(stdin) = job.or_else(|| self.live.stdin()) {
                    stdin.end(&mut self.link);
                }
            }
            Kind::Signal => self.signal(&parse_message(&frame.payload)?),
            Kind::Kill => {
                self.live.kill_call();
                if let Some(job) = &mut self.job {
                    job.kill();
                }
            }
            Kind::Reset => self.reset(),
            Kind::Listen => self.relay.listen(&parse_message(&frame.payload)?, &mut self.link),
            Kind::TunnelData | Kind::TunnelEnd | Kind::TunnelAbort | Kind::TunnelCredit => {
                self.relay.take(&frame, &mut self.link)?;
            }
            kind => return Err(End::Broken(format!("{kind:?} is not for the runner"))),
        }
        Ok(())
    }

    fn signal(&mut self, signal: &Signal) {
        if let Ok(number) = SignalNumber::try_from(signal.number) {
            self.live.signal(number);
        }
        if let Some(job) = &self.job
            && !job.has_ended()
            && let Ok(number) = SignalNumber::try_from(signal.number)
        {
            // The group may be gone already; the job's end tells.
            let _ = nix::sys::signal::killpg(Pid::from_raw(job.pid), number);
        }
    }

    fn start(&mut self, start: Start) -> Result<(), End> {
        if self.is_running() {
            return Err(End::Broken("Start while a program is running".to_owned()));
        }
        if let Some(failure) = self.file_failure.take() {
            self.link.send_message(Kind::Failed, &failure);
            return Ok(());
        }
        self.prepared.mark_used();
        let started_at = Instant::now();
        let kills_before = self.memory.kills();
        let bystanders = self.bystanders.take();
        if let Some(kind) = start.live {
            self.start_call(kind, &start, bystanders.unwrap_or_else(Bystanders::record));
            return Ok(());
        }
        let bystanders =
            start.keep_background.then(|| bystanders.unwrap_or_else(Bystanders::record));
        if self.prepared.fits(&start)
            && let Some(Waiting { pid, control, pipes, .. }) = self.prepared.hand_over(&start)
        {
            let mut job = Job::new(start, pid, pipes, control, true, kills_before, started_at);
            if let Some(mut bystanders) = bystanders {
                // It waited already when they were recorded.
                bystanders.exclude(pid);
                job.spare(bystanders);
            }
            self.job = Some(job);
            return Ok(());
        }
        self.start_plain(start, started_at, bystanders);
        Ok(())
    }

    /// Starts the program afresh, trying a few times if leftovers hold all processes.
    pub(super) fn start_plain(
        &mut self,
        start: Start,
        started_at: Instant,
        bystanders: Option<Bystanders>,
    ) {
        let spawned = self.with_room_to_fork(|_| spawn_program(&start));
        match spawned {
            Ok((pid, pipes, report)) => {
                let kills = self.memory.kills();
                let mut job = Job::new(start, pid, pipes, report, false, kills, started_at);
                if let Some(bystanders) = bystanders {
                    job.spare(bystanders);
                }
                self.job = Some(job);
            }
            Err(failure) => self.link.send_message(Kind::Failed, &failure),
        }
    }

    /// Begins a call of the living interpreter.
    fn start_call(&mut self, kind: LiveInterpreter, start: &Start, bystanders: Bystanders) {
        let kills_before = self.memory.kills();
        let mut bystanders = Some(bystanders);
        let begun = self.with_room_to_fork(|all| {
            let bystanders = bystanders.take().unwrap_or_else(Bystanders::record);
            all.live.start(kind, start, bystanders, kills_before, &mut all.link)
        });
        if let Err(failure) = begun {
            self.link.send_message(Kind::Failed, &failure);
        }
    }

    /// Tries a few times if there are no processes to be had, ending all that hold them.
    fn with_room_to_fork<T>(
        &mut self,
        mut attempt: impl FnMut(&mut Self) -> Result<T, Failed>,
    ) -> Result<T, Failed> {
        for _ in 1..FORK_ATTEMPTS {
            match attempt(self) {
                Err(failure) if failure.stage == Stage::Fork => {}
                outcome => return outcome,
            }
            // Failing to kill shows as failing to fork.
            let _ = kill_sandbox_processes();
            std::thread::sleep(FORK_PAUSE);
            self.reap();
        }
        attempt(self)
    }

    /// Ends everything of the job, cleans up, verifies, and starts the next interpreter.
    fn reset(&mut self) {
        if let Some(job) = &mut self.job {
            job.kill();
            self.close_job();
        }
        if let Some(exited) = self.live.close(self.memory.kills()) {
            self.link.send_message(Kind::Exited, &exited);
        }
        self.bystanders = None;
        self.prepared.discard();
        self.writer = None;
        self.reader = None;
        self.reads.clear();
        self.orphans.clear();
        self.file_failure = None;
        let mut known = vec![1, i32::try_from(std::process::id()).unwrap_or(1)];
        known.extend(self.prepared.server_pid());
        let outcome = match kill_sandbox_processes() {
            Ok(()) => restore(&self.baseline, &self.memory, &known, || {
                while crate::sys::wait_any().is_some() {}
            }),
            Err(error) => Err(format!("cannot kill the sandbox's processes: {error}")),
        };
        // Once nothing is left that could make another one.
        self.relay.clear();
        let verified = outcome.is_ok();
        self.link.send_message(Kind::ResetDone, &ResetDone { verified, detail: outcome.err() });
        if verified {
            self.prepared.mark_clean();
            self.prepared.make_next();
            self.ready_due = true;
        }
    }
}

type Spawned = (i32, crate::spawn::Pipes, std::os::fd::OwnedFd);

fn spawn_program(start: &Start) -> Result<Spawned, Failed> {
    let words = |error: Errno| failed(Stage::Fork, "", &error.into());
    let (pipes, ends) = make_pipes().map_err(words)?;
    let (report, theirs) = pipe2(OFlag::O_CLOEXEC).map_err(words)?;
    let program = Program {
        argv: &start.argv,
        env: &start.env,
        cwd: &start.cwd,
        code: start.code.as_ref(),
        as_root: false,
        descriptors: &[],
    };
    let pid = spawn(&program, &ends, &theirs, None)?;
    Ok((pid, pipes, report))
}
