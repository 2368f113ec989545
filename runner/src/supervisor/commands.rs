//! What each frame from the worker makes the runner do.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::Signal as SignalNumber;
use nix::unistd::{Pid, pipe2};

use runner::protocol::{
    Failed, FileError, Kind, Prepare, ProtocolError, ReadFile, ResetDone, Signal, Stage, Start,
    parse_message,
};

use super::{End, Supervisor};
use crate::files::Writer;
use crate::identity::kill_sandbox_processes;
use crate::job::Job;
use crate::link::Frame;
use crate::prepared::Waiting;
use crate::reset::restore;
use crate::spawn::{Program, failed, make_pipes, spawn};

/// Files that may be asked for while one is being read.
const READ_QUEUE: usize = 64;
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
            Kind::Start | Kind::ReadFile if self.writer.is_some() => {
                if let Some(writer) = &mut self.writer {
                    writer.finish();
                }
                self.deferred = Some(frame);
            }
            Kind::Start => self.start(parse_message(&frame.payload)?)?,
            Kind::ReadFile => self.read_file(parse_message(&frame.payload)?),
            Kind::Prepare => {
                self.prepared.configure(parse_message::<Prepare>(&frame.payload)?);
                self.ready_due = true;
            }
            Kind::Stdin => {
                if let Some(job) = &mut self.job
                    && job.stdin.push(&frame.payload, &mut self.link).is_err()
                {
                    return Err(End::Broken("standard input beyond its credit".to_owned()));
                }
            }
            Kind::StdinEnd => {
                if let Some(job) = &mut self.job {
                    job.stdin.end(&mut self.link);
                }
            }
            Kind::Signal => self.signal(&parse_message(&frame.payload)?),
            Kind::Kill => {
                if let Some(job) = &mut self.job {
                    job.kill();
                }
            }
            Kind::Reset => self.reset(),
            kind => return Err(End::Broken(format!("{kind:?} is not for the runner"))),
        }
        Ok(())
    }

    fn take_file_frame(&mut self, frame: &Frame) {
        if self.file_failure.is_some() {
            return;
        }
        self.prepared.mark_used();
        if self.writer.is_none() {
            match Writer::new() {
                Ok(writer) => self.writer = Some(writer),
                Err(error) => {
                    self.file_failure = Some(failed(Stage::Fork, "", &error));
                    return;
                }
            }
        }
        if let Some(writer) = &mut self.writer {
            writer.push(frame);
        }
    }

    fn read_file(&mut self, request: ReadFile) {
        if self.reads.len() < READ_QUEUE {
            self.reads.push_back(request);
            self.step_reader();
            return;
        }
        let message = "too many files asked for at once".to_owned();
        let error = FileError { path: request.path, message, errno: Errno::EBUSY as i32 };
        self.link.send_message(Kind::FileError, &error);
    }

    fn signal(&mut self, signal: &Signal) {
        if let Some(job) = &self.job
            && !job.has_ended()
            && let Ok(number) = SignalNumber::try_from(signal.number)
        {
            // The group may be gone already; the job's end tells.
            let _ = nix::sys::signal::killpg(Pid::from_raw(job.pid), number);
        }
    }

    fn start(&mut self, start: Start) -> Result<(), End> {
        if self.job.is_some() {
            return Err(End::Broken("Start while a program is running".to_owned()));
        }
        if let Some(failure) = self.file_failure.take() {
            self.link.send_message(Kind::Failed, &failure);
            return Ok(());
        }
        self.prepared.mark_used();
        let started_at = Instant::now();
        let kills_before = self.memory.kills();
        if self.prepared.fits(&start)
            && let Some(Waiting { pid, control, pipes, .. }) = self.prepared.hand_over(&start)
        {
            let job = Job::new(start, pid, pipes, control, true, kills_before, started_at);
            self.job = Some(job);
            return Ok(());
        }
        self.start_plain(start, started_at);
        Ok(())
    }

    /// Starts the program afresh, trying a few times if leftovers hold all processes.
    pub(super) fn start_plain(&mut self, start: Start, started_at: Instant) {
        let mut attempt = 1;
        loop {
            match spawn_program(&start) {
                Ok((pid, pipes, report)) => {
                    let kills = self.memory.kills();
                    self.job = Some(Job::new(start, pid, pipes, report, false, kills, started_at));
                    return;
                }
                Err(failure) if failure.stage == Stage::Fork && attempt < FORK_ATTEMPTS => {
                    attempt += 1;
                    // Failing to kill shows as failing to fork.
                    let _ = kill_sandbox_processes();
                    std::thread::sleep(FORK_PAUSE);
                    self.reap();
                }
                Err(failure) => {
                    self.link.send_message(Kind::Failed, &failure);
                    return;
                }
            }
        }
    }

    /// Ends everything of the job, cleans up, verifies, and starts the next interpreter.
    fn reset(&mut self) {
        if let Some(job) = &mut self.job {
            job.kill();
            self.close_job();
        }
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
    };
    let pid = spawn(&program, &ends, &theirs, None)?;
    Ok((pid, pipes, report))
}
