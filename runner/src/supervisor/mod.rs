//! The loop: waits for the link, signals and pipes, and lets each part take its step.

mod commands;

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use nix::unistd::read;

use runner::protocol::{
    DATA_CHUNK_BYTES, Failed, FileError, Hello, Kind, PROTOCOL_VERSION, ReadFile, Ready,
};

use crate::files::{Reader, Step, Writer};
use crate::job::{Job, StartOutcome, Starting};
use crate::link::{Frame, Link, LinkError};
use crate::memory::Memory;
use crate::prepared::{Prepared, Report};
use crate::reset::Baseline;
use crate::spawn::describe;
use crate::sys::{Ended, wait_any};

/// Streams of ended programs kept open for background processes that still write to them.
const ORPHAN_STREAMS: usize = 32;
/// Interval at which a child that works on files is checked for progress.
const STALL_CHECK: Duration = Duration::from_secs(1);

/// Why the runner ends.
pub(crate) enum End {
    /// The worker is gone; nobody is left to tell.
    Closed,
    /// Something is wrong that the worker should hear about.
    Broken(String),
}

impl From<LinkError> for End {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Closed => Self::Closed,
            other => Self::Broken(other.to_string()),
        }
    }
}

/// What a descriptor in the poll set stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Link,
    LinkOutput,
    Children,
    Server,
    Waiting,
    Report,
    Stdin,
    Output,
    Writer,
    Reader,
    Orphan(usize),
}

/// All state of the runner.
pub(crate) struct Supervisor {
    pub(crate) link: Link,
    children: SignalFd,
    memory: Memory,
    baseline: Baseline,
    prepared: Prepared,
    ready_due: bool,
    job: Option<Job>,
    writer: Option<Writer>,
    file_failure: Option<Failed>,
    /// A frame that must wait until the files before it are written.
    deferred: Option<Frame>,
    reader: Option<Reader>,
    reads: VecDeque<ReadFile>,
    orphans: VecDeque<OwnedFd>,
    /// Frames have arrived that the last turn left for the next.
    more_frames: bool,
    scratch: Vec<u8>,
}

impl Supervisor {
    /// Records the clean state; no program has run yet.
    pub(crate) fn new(link: Link, children: SignalFd) -> Self {
        let memory = Memory::open();
        let baseline = Baseline::record(&memory);
        Self {
            link,
            children,
            memory,
            baseline,
            prepared: Prepared::default(),
            ready_due: true,
            job: None,
            writer: None,
            file_failure: None,
            deferred: None,
            reader: None,
            reads: VecDeque::new(),
            orphans: VecDeque::new(),
            more_frames: false,
            scratch: vec![0; DATA_CHUNK_BYTES],
        }
    }

    /// Runs until the link ends.
    pub(crate) fn run(&mut self) -> End {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        self.link.send_message(Kind::Hello, &Hello { protocol: PROTOCOL_VERSION, version });
        loop {
            if let Err(end) = self.turn() {
                return end;
            }
        }
    }

    fn turn(&mut self) -> Result<(), End> {
        self.announce_ready();
        self.link.flush()?;
        let ready = self.wait()?;
        let is_ready = |source| ready.contains(&source);
        if is_ready(Source::Children) {
            self.reap();
        }
        if is_ready(Source::Server) {
            self.on_server();
        }
        if is_ready(Source::Waiting) {
            self.prepared.on_control();
        }
        self.prepared.check_deadline();
        if is_ready(Source::Report) {
            self.on_report();
        }
        self.step_job(is_ready(Source::Stdin), is_ready(Source::Output));
        self.step_files();
        // From the back: removing one moves those behind it.
        for source in ready.iter().rev() {
            if let Source::Orphan(index) = source {
                self.drain_orphan(*index);
            }
        }
        // Only an inbox without a whole frame may grow.
        if is_ready(Source::Link) && !std::mem::take(&mut self.more_frames) {
            self.link.fill()?;
        }
        self.take_frames()
    }

    /// Waits until something can be done; returns what.
    fn wait(&self) -> Result<Vec<Source>, End> {
        let mut sources = Vec::with_capacity(16);
        let mut fds = Vec::with_capacity(16);
        self.interests(&mut |source, fd, flags| {
            sources.push(source);
            fds.push(PollFd::new(fd, flags));
        });
        match poll(&mut fds, self.timeout()) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(End::Broken(format!("cannot wait for events: {error}"))),
        }
        let hit = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        let ready = sources.into_iter().zip(&fds).filter(|(_, fd)| hit(fd));
        Ok(ready.map(|(source, _)| source).collect())
    }

    fn interests<'a>(&'a self, add: &mut impl FnMut(Source, BorrowedFd<'a>, PollFlags)) {
        let (input, output, error) = (PollFlags::POLLIN, PollFlags::POLLOUT, PollFlags::empty());
        add(Source::Children, self.children.as_fd(), input);
        let busy = self.deferred.is_some() || self.writer.as_ref().is_some_and(Writer::is_full);
        if !busy && !self.prepared.must_be_alone() {
            add(Source::Link, self.link.input(), input);
        }
        if self.link.has_output() {
            add(Source::LinkOutput, self.link.output(), output);
        }
        if let Some(socket) = self.prepared.server_socket() {
            add(Source::Server, socket, input);
        }
        if let Some(control) = self.prepared.control() {
            add(Source::Waiting, control, input);
        }
        if let Some(job) = &self.job {
            if let Starting::Pending(report, _) = &job.starting {
                add(Source::Report, report.as_fd(), input);
            }
            if let Some(pipe) = &job.stdin.pipe {
                add(
                    Source::Stdin,
                    pipe.as_fd(),
                    if job.stdin.is_waiting() { output } else { error },
                );
            }
            if job.has_started() && self.link.has_room() {
                for pipe in job.outputs.iter().filter_map(|output| output.pipe.as_ref()) {
                    add(Source::Output, pipe.as_fd(), input);
                }
            }
        }
        if let Some(writer) = &self.writer {
            add(Source::Writer, writer.socket(), if writer.is_full() { output } else { input });
        }
        if let Some(reader) = &self.reader
            && self.link.has_room()
        {
            add(Source::Reader, reader.socket(), input);
        }
        for (index, pipe) in self.orphans.iter().enumerate() {
            add(Source::Orphan(index), pipe.as_fd(), input);
        }
    }

    fn timeout(&self) -> PollTimeout {
        if self.more_frames {
            return PollTimeout::ZERO;
        }
        let files =
            (self.writer.is_some() || self.reader.is_some()).then(|| Instant::now() + STALL_CHECK);
        let job = self.job.as_ref().and_then(Job::next_timer);
        let next = [files, job, self.prepared.deadline()].into_iter().flatten().min();
        let Some(next) = next else {
            return PollTimeout::NONE;
        };
        let left = next.saturating_duration_since(Instant::now());
        // Rounded up, so that the loop does not spin through the last millisecond.
        PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX)
    }

    fn reap(&mut self) {
        // Emptied, not interpreted: one pending signal may stand for many children.
        while let Ok(Some(_)) = self.children.read_signal() {}
        while let Some(ended) = wait_any() {
            self.on_ended(ended);
        }
    }

    fn on_ended(&mut self, ended: Ended) {
        if let Some(job) = &mut self.job
            && job.pid == ended.pid
        {
            job.on_ended(ended);
        }
    }

    fn on_server(&mut self) {
        while let Some(report) = self.prepared.on_server() {
            match report {
                Report::Ended(ended) => self.on_ended(ended),
                Report::Forked(_) => {}
                Report::Gone(_) => return,
            }
        }
    }

    fn announce_ready(&mut self) {
        if !self.ready_due || !self.prepared.is_settled() {
            return;
        }
        self.ready_due = false;
        let prepared = self.prepared.is_waiting();
        // Only before the first program: a level that could rise later would hide small leaks.
        if prepared && !self.prepared.is_used() {
            self.baseline.raise_memory(&self.memory);
        }
        let ready = Ready { prepared, detail: self.prepared.detail() };
        self.link.send_message(Kind::Ready, &ready);
    }

    fn on_report(&mut self) {
        let Some(job) = &mut self.job else { return };
        match job.on_report(&mut self.link) {
            StartOutcome::Pending | StartOutcome::Running => {}
            StartOutcome::Failed(failure) => {
                self.job = None;
                self.link.send_message(Kind::Failed, &failure);
            }
            StartOutcome::Lost => {
                // The interpreter died before it took the job, so nothing of it has run.
                if let Some(job) = self.job.take() {
                    let started_at = job.started_at();
                    self.start_plain(job.start, started_at);
                }
            }
        }
    }

    fn step_job(&mut self, stdin: bool, output: bool) {
        let Some(job) = &mut self.job else { return };
        if stdin {
            job.stdin.step(&mut self.link);
        }
        if output {
            job.pump(&mut self.link, &mut self.scratch);
        }
        job.check_timers();
        let memory = &self.memory;
        let struck = |before| memory.kills() > before;
        if let Some(exited) = job.try_finish(&mut self.link, &mut self.scratch, struck) {
            self.link.send_message(Kind::Exited, &exited);
            self.keep_streams();
        }
    }

    /// Ends a job at once, for a reset that comes before its end.
    fn close_job(&mut self) {
        let Some(job) = self.job.take() else { return };
        let exited = job.exited(Instant::now(), self.memory.kills() > job.kills_before());
        self.link.send_message(Kind::Exited, &exited);
    }

    /// Keeps the open streams of the ended program, so that what it left behind is not hit by
    /// SIGPIPE when it writes.
    fn keep_streams(&mut self) {
        let Some(job) = self.job.take() else { return };
        if job.start.keep_background {
            self.orphans.extend(job.outputs.into_iter().filter_map(|output| output.pipe));
            let excess = self.orphans.len().saturating_sub(ORPHAN_STREAMS);
            self.orphans.drain(..excess);
        }
    }

    fn drain_orphan(&mut self, index: usize) {
        let Some(pipe) = self.orphans.get(index) else {
            return;
        };
        if let Ok(0) = read(pipe, &mut self.scratch) {
            self.orphans.remove(index);
        }
    }

    fn step_files(&mut self) {
        if let Some(outcome) = self.writer.as_mut().and_then(Writer::advance) {
            self.writer = None;
            if let Err(failure) = outcome {
                self.file_failure.get_or_insert(failure);
            }
        }
        self.step_reader();
    }

    fn step_reader(&mut self) {
        if self.reader.is_none()
            && let Some(request) = self.reads.pop_front()
        {
            let path = request.path.clone();
            match Reader::new(request) {
                Ok(reader) => self.reader = Some(reader),
                Err(error) => self.refuse_read(path, &error),
            }
        }
        let Some(reader) = &mut self.reader else {
            return;
        };
        loop {
            if !self.link.has_room() {
                return reader.excuse_wait();
            }
            match reader.advance() {
                Step::Waiting => return,
                Step::Frame(frame) => self.link.send(frame.kind, &frame.payload),
                Step::Done(error) => {
                    match error {
                        None => self.link.send(Kind::FileEnd, b""),
                        Some(error) => self.link.send_message(Kind::FileError, &error),
                    }
                    self.reader = None;
                    return;
                }
            }
        }
    }

    fn refuse_read(&mut self, path: String, error: &std::io::Error) {
        let message = describe(error);
        let errno = error.raw_os_error().unwrap_or(Errno::EIO as i32);
        self.link.send_message(Kind::FileError, &FileError { path, message, errno });
    }
}
