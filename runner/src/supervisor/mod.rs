//! The loop: waits for the link, signals and pipes, and lets each part take its step.

mod commands;
mod events;
mod files;

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Instant;

use nix::sys::signalfd::SignalFd;
use nix::unistd::read;

use runner::protocol::{DATA_CHUNK_BYTES, Failed, Hello, Kind, PROTOCOL_VERSION, Ready};

use self::events::Source;
use crate::bystanders::Bystanders;
use crate::files::{Reader, Request, Writer};
use crate::job::{Job, StartOutcome};
use crate::link::{Frame, Link, LinkError};
use crate::live::{Live, Outcome};
use crate::memory::Memory;
use crate::prepared::{Prepared, Report};
use crate::relay::Relay;
use crate::reset::Baseline;
use crate::sys::{Ended, wait_any};

/// Streams of ended programs kept open for background processes that still write to them.
const ORPHAN_STREAMS: usize = 32;

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

/// All state of the runner.
pub(crate) struct Supervisor {
    pub(crate) link: Link,
    children: SignalFd,
    memory: Memory,
    baseline: Baseline,
    prepared: Prepared,
    ready_due: bool,
    job: Option<Job>,
    live: Live,
    /// Processes of the session to spare by the next program; recorded while nothing runs.
    bystanders: Option<Bystanders>,
    writer: Option<Writer>,
    file_failure: Option<Failed>,
    /// A frame that must wait until the files before it are written.
    deferred: Option<Frame>,
    reader: Option<Reader>,
    reads: VecDeque<Request>,
    orphans: VecDeque<OwnedFd>,
    /// Connections of programs to the outside.
    relay: Relay,
    /// Frames have arrived that the last turn left for the next.
    more_frames: bool,
    scratch: Vec<u8>,
}

impl Supervisor {
    /// Records the clean state; no program has run yet. `owns_kernel`: nobody else runs on this kernel.
    pub(crate) fn new(link: Link, children: SignalFd, owns_kernel: bool) -> Self {
        let memory = Memory::open(owns_kernel);
        let baseline = Baseline::record(&memory, owns_kernel);
        Self {
            link,
            children,
            memory,
            baseline,
            prepared: Prepared::default(),
            ready_due: true,
            job: None,
            live: Live::default(),
            bystanders: None,
            writer: None,
            file_failure: None,
            deferred: None,
            reader: None,
            reads: VecDeque::new(),
            orphans: VecDeque::new(),
            relay: Relay::default(),
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
        self.record_bystanders();
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
        self.step_live(is_ready(Source::LiveStdin));
        self.step_files();
        self.step_relay(&ready);
        // From the back: removing one moves those behind it.
        for source in ready.iter().rev() {
            if let Source::Orphan(index) = source {
                self.drain_orphan(*index);
            }
        }
        // Only an inbox without a whole frame may grow.
        let had_more = std::mem::take(&mut self.more_frames);
        if is_ready(Source::Link) && !had_more {
            self.link.fill()?;
        }
        self.take_frames()
    }

    fn reap(&mut self) {
        // Emptied, not interpreted: one pending signal may stand for many children.
        while let Ok(Some(_)) = self.children.read_signal() {}
        while let Some(ended) = wait_any() {
            self.on_ended(ended);
        }
    }

    fn on_ended(&mut self, ended: Ended) {
        self.live.on_ended(ended);
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
                Report::Forked(_) | Report::Lacking(_) => {}
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
                    let (start, bystanders) = job.into_start();
                    self.start_plain(start, started_at, bystanders);
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
            self.keep_pipes(job.outputs.into_iter().filter_map(|output| output.pipe));
        }
    }

    fn keep_pipes(&mut self, pipes: impl IntoIterator<Item = OwnedFd>) {
        self.orphans.extend(pipes);
        let excess = self.orphans.len().saturating_sub(ORPHAN_STREAMS);
        self.orphans.drain(..excess);
    }

    /// Takes down which processes the next program of a session must leave alone: now, when nobody
    /// waits for it.
    fn record_bystanders(&mut self) {
        if self.live.is_alive() && !self.is_running() && self.bystanders.is_none() {
            self.bystanders = Some(Bystanders::record());
        }
    }

    /// Whether a program or a call is running.
    fn is_running(&self) -> bool {
        self.job.is_some() || self.live.is_busy()
    }

    fn step_live(&mut self, stdin: bool) {
        if stdin && let Some(stdin) = self.live.stdin() {
            stdin.step(&mut self.link);
        }
        let memory = &self.memory;
        let ended = self.live.step(&mut self.link, &mut self.scratch, || memory.kills());
        let Some((outcome, pipes)) = ended else { return };
        match outcome {
            Outcome::Exited(exited) => self.link.send_message(Kind::Exited, &exited),
            Outcome::Failed(failure) => self.link.send_message(Kind::Failed, &failure),
        }
        self.keep_pipes(pipes);
    }

    /// After the program's own output, which must not wait for its connections.
    fn step_relay(&mut self, ready: &[Source]) {
        let connection = |source: &Source| match source {
            Source::Connection(id) => Some(*id),
            _ => None,
        };
        let connections: Vec<u32> = ready.iter().filter_map(connection).collect();
        self.relay.step(&connections, &mut self.link);
        if ready.contains(&Source::Listener) {
            self.relay.accept(&mut self.link);
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
}
