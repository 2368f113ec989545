//! What the runner waits for, and for how long.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{End, Supervisor};
use crate::files::Writer;
use crate::job::{Job, Starting};

/// Interval at which a child that works on files is checked for progress.
const STALL_CHECK: Duration = Duration::from_secs(1);

/// What a descriptor in the poll set stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Link,
    LinkOutput,
    Children,
    Server,
    Waiting,
    Report,
    Stdin,
    Output,
    Live,
    LiveStdin,
    Writer,
    Reader,
    Orphan(usize),
    Listener,
    Connection(u32),
}

impl Supervisor {
    /// Waits until something can be done; returns what.
    pub(super) fn wait(&self) -> Result<Vec<Source>, End> {
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
        self.live.interests(self.link.has_room(), &mut |fd, flags| add(Source::Live, fd, flags));
        if let Some((pipe, flags)) = self.live.stdin_pipe() {
            add(Source::LiveStdin, pipe, flags);
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
        if let Some(listener) = self.relay.accepting()
            && self.link.has_room()
        {
            add(Source::Listener, listener, input);
        }
        self.relay.interests(self.link.has_room(), &mut |id, fd, flags| {
            add(Source::Connection(id), fd, flags);
        });
    }

    fn timeout(&self) -> PollTimeout {
        if self.more_frames {
            return PollTimeout::ZERO;
        }
        let files =
            (self.writer.is_some() || self.reader.is_some()).then(|| Instant::now() + STALL_CHECK);
        let job = self.job.as_ref().and_then(Job::next_timer);
        let next = [files, job, self.live.next_timer(), self.prepared.deadline()]
            .into_iter()
            .flatten()
            .min();
        let Some(next) = next else {
            return PollTimeout::NONE;
        };
        let left = next.saturating_duration_since(Instant::now());
        // Rounded up, so that the loop does not spin through the last millisecond.
        PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX)
    }
}
