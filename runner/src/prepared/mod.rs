//! The interpreter that waits for the next job.
//!
//! Its start-up file blocks before the main file is read; the job's environment, directory and code
//! arrive over a control socket, the file returns, and the interpreter goes on as if it had just
//! been started.

mod fork_server;
mod job_message;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{Pid, read, write};

use runner::protocol::{Interpreter, Prepare, Start};

pub(crate) use fork_server::{ForkServer, Report};

use crate::spawn::{CONTROL_FD, Pipes, Program, make_pipes, spawn};

/// Longest time an interpreter may take to start waiting.
const START_LIMIT: Duration = Duration::from_secs(15);
/// Longest time a waiting interpreter may take to accept its job.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(2);
/// How often a waiting interpreter that died is replaced between two resets.
const REPLACEMENTS: u32 = 3;
/// Start-up file for node.
const NODE_HOOK: &str = "--require=/isol8/prepared/node.cjs";

/// A started interpreter, blocked until it gets its job.
pub(crate) struct Waiting {
    /// Zero until the fork server has told it.
    pub(crate) pid: i32,
    /// Carries the job in, and then how the start went out.
    pub(crate) control: OwnedFd,
    pub(crate) pipes: Pipes,
    ready: bool,
    since: Instant,
}

/// What the worker asked to keep waiting, and what does wait.
#[derive(Default)]
pub(crate) struct Prepared {
    request: Option<Prepare>,
    server: Option<ForkServer>,
    waiting: Option<Waiting>,
    /// Why nothing waits or will.
    detail: Option<String>,
    /// What the fork server lacks; told once.
    lacking: Option<String>,
    replacements: u32,
    /// Whether the server has passed the point where it looks at files.
    server_is_up: bool,
    /// Whether any file or program has ever come into this sandbox.
    used: bool,
    /// Whether one has since the last verified reset.
    dirty: bool,
}

impl Prepared {
    /// Takes the worker's wish and starts the first interpreter.
    pub(crate) fn configure(&mut self, request: Prepare) {
        self.discard();
        if self.request.as_ref() != Some(&request) {
            self.kill_server();
        }
        if request.interpreter == Interpreter::Python && self.server.is_none() {
            self.start_server(&request);
        }
        self.request = Some(request);
        self.make_next();
    }

    /// Whether the fork server is still reading its start-up files, as root: nothing of a user may
    /// come into the sandbox before it is done. Ends with `check_deadline` at the latest.
    pub(crate) fn must_be_alone(&self) -> bool {
        self.server.is_some() && !self.server_is_up && self.waiting.is_some()
    }

    /// From now on there may be user code in the sandbox.
    pub(crate) fn mark_used(&mut self) {
        (self.used, self.dirty) = (true, true);
    }

    /// Nothing of a user is left: a reset was verified.
    pub(crate) fn mark_clean(&mut self) {
        self.dirty = false;
    }

    /// Whether there may have been.
    pub(crate) fn is_used(&self) -> bool {
        self.used
    }

    fn kill_server(&mut self) {
        if let Some(server) = self.server.take() {
            // Already gone is fine.
            let _ = kill(Pid::from_raw(server.pid()), Signal::SIGKILL);
        }
    }

    fn start_server(&mut self, request: &Prepare) {
        if self.dirty {
            // It would be root, and start in a place that user code could have prepared for it.
            self.detail = Some("a fork server can only start in a clean sandbox".to_owned());
            return;
        }
        match ForkServer::start(request) {
            Ok(server) => (self.server, self.server_is_up) = (Some(server), false),
            Err(reason) => self.detail = Some(reason),
        }
    }

    /// Starts the next interpreter, if one is wanted and none waits.
    pub(crate) fn make_next(&mut self) {
        self.replacements = REPLACEMENTS;
        self.make();
    }

    fn make(&mut self) {
        let Some(request) = &self.request else { return };
        if self.waiting.is_some() {
            return;
        }
        let made = match request.interpreter {
            Interpreter::Python => match &self.server {
                Some(server) => fork_python(server),
                None => return,
            },
            Interpreter::Node => spawn_node(request),
            Interpreter::Deno => Err("deno is started for each job".to_owned()),
        };
        match made {
            Ok(waiting) => (self.waiting, self.detail) = (Some(waiting), None),
            Err(reason) => self.detail = Some(reason),
        }
    }

    /// Whether the outcome of the last start is known, so that `Ready` can be sent.
    pub(crate) fn is_settled(&self) -> bool {
        self.waiting.as_ref().is_none_or(Waiting::is_ready)
    }

    /// Whether an interpreter waits.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.as_ref().is_some_and(Waiting::is_ready)
    }

    /// Why none waits, or what the one that waits lacks.
    pub(crate) fn detail(&mut self) -> Option<String> {
        if self.is_waiting() { self.lacking.take() } else { self.detail.clone() }
    }

    /// Whether `start` is what the waiting interpreter stands in for.
    pub(crate) fn fits(&self, start: &Start) -> bool {
        let Some(request) = &self.request else {
            return false;
        };
        let same = match request.interpreter {
            Interpreter::Python => start.argv == request.argv,
            _ => {
                let script =
                    |argv: &[String]| argv.get(1).is_some_and(|path| !path.starts_with('-'));
                script(&start.argv)
                    && script(&request.argv)
                    && start.argv.len() == request.argv.len()
                    && start.argv[0] == request.argv[0]
                    && start.argv[2..] == request.argv[2..]
            }
        };
        start.prepared && same && self.is_waiting()
    }

    /// Hands the job to the waiting interpreter.
    pub(crate) fn hand_over(&mut self, start: &Start) -> Option<Waiting> {
        let request = self.request.as_ref()?;
        let message = job_message::encode(request.interpreter, start);
        let waiting = self.waiting.take()?;
        match waiting.send(&message) {
            Ok(()) => Some(waiting),
            Err(_) => {
                waiting.kill();
                None
            }
        }
    }

    /// Ends the waiting interpreter: it leaves by itself when its control socket closes.
    pub(crate) fn discard(&mut self) {
        let Some(waiting) = self.waiting.take() else {
            return;
        };
        if waiting.pid == 0
            && let Some(server) = &mut self.server
        {
            server.abandon_child();
        }
        waiting.kill();
    }

    /// The control socket of the waiting interpreter.
    pub(crate) fn control(&self) -> Option<BorrowedFd<'_>> {
        self.waiting.as_ref().map(|waiting| waiting.control.as_fd())
    }

    /// The fork server's socket.
    pub(crate) fn server_socket(&self) -> Option<BorrowedFd<'_>> {
        self.server.as_ref().map(ForkServer::socket)
    }

    /// The fork server's process id.
    pub(crate) fn server_pid(&self) -> Option<i32> {
        self.server.as_ref().map(ForkServer::pid)
    }

    /// Until when the interpreter must have started.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let waiting = self.waiting.as_ref()?;
        (!waiting.ready).then(|| waiting.since + START_LIMIT)
    }

    /// Gives up an interpreter that takes too long.
    pub(crate) fn check_deadline(&mut self) {
        if self.deadline().is_some_and(|deadline| Instant::now() >= deadline) {
            self.discard();
            if !self.server_is_up {
                self.kill_server();
            }
            self.detail = Some("the interpreter did not start in time".to_owned());
        }
    }

    /// The waiting interpreter said something: that it waits, or, by closing, that it died.
    pub(crate) fn on_control(&mut self) {
        let Some(waiting) = &mut self.waiting else {
            return;
        };
        let mut byte = [0];
        match read(&waiting.control, &mut byte) {
            Ok(1) => waiting.ready = true,
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            _ => {
                self.discard();
                self.detail = Some("the waiting interpreter died".to_owned());
                if self.replacements > 0 {
                    self.replacements -= 1;
                    self.make();
                }
            }
        }
    }

    /// Takes the fork server's next report.
    pub(crate) fn on_server(&mut self) -> Option<Report> {
        let server = self.server.as_mut()?;
        let report = server.receive()?;
        match &report {
            Report::Forked(pid) => {
                self.server_is_up = true;
                if !server.was_abandoned()
                    && let Some(waiting) = &mut self.waiting
                    && waiting.pid == 0
                {
                    waiting.pid = *pid;
                }
            }
            Report::Gone(reason) => {
                // Never again: what started after user code ran could be influenced by it.
                self.server = None;
                self.discard();
                self.detail = Some(reason.clone());
            }
            Report::Lacking(what) => self.lacking = Some(what.clone()),
            Report::Ended(_) => {}
        }
        Some(report)
    }
}

impl Waiting {
    fn is_ready(&self) -> bool {
        self.ready && self.pid != 0
    }

    fn kill(&self) {
        if self.pid > 0 {
            // Already gone is fine.
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
    }

    /// Sends the job. Waits while the interpreter reads it, for a limited time: a hostile process
    /// of the same session may have stopped it.
    fn send(&self, message: &[u8]) -> io::Result<()> {
        let deadline = Instant::now() + HAND_OVER_LIMIT;
        let mut rest = message;
        while !rest.is_empty() {
            match write(&self.control, rest) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
                    let mut ready = [PollFd::new(self.control.as_fd(), PollFlags::POLLOUT)];
                    if left.is_zero() || poll(&mut ready, timeout)? == 0 {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Asks the fork server for a child on fresh pipes.
fn fork_python(server: &ForkServer) -> Result<Waiting, String> {
    let (control, theirs) = control_pair()?;
    let (pipes, ends) = make_pipes().map_err(|error| format!("cannot make pipes: {error}"))?;
    server.ask_for_child(&theirs, &ends)?;
    Ok(Waiting { pid: 0, control, pipes, ready: false, since: Instant::now() })
}

/// Starts a node that stops in its preload script.
fn spawn_node(request: &Prepare) -> Result<Waiting, String> {
    let (control, theirs) = control_pair()?;
    let (pipes, ends) = make_pipes().map_err(|error| format!("cannot make pipes: {error}"))?;
    let mut env: BTreeMap<String, String> = request.env.clone();
    let options = match env.get("NODE_OPTIONS") {
        Some(own) => format!("{NODE_HOOK} {own}"),
        None => NODE_HOOK.to_owned(),
    };
    env.insert("NODE_OPTIONS".to_owned(), options);
    let program = Program {
        argv: &request.argv,
        env: &env,
        cwd: "/sandbox",
        code: None,
        as_root: false,
        descriptors: &[],
    };
    let pid = spawn(&program, &ends, &theirs, Some(CONTROL_FD)).map_err(|error| error.message)?;
    Ok(Waiting { pid, control, pipes, ready: false, since: Instant::now() })
}

/// A stream socket pair whose first end does not block.
fn control_pair() -> Result<(OwnedFd, OwnedFd), String> {
    let pair = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC);
    let (ours, theirs) = pair.map_err(|error| format!("cannot make a socket: {error}"))?;
    fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
        .map_err(|error| format!("cannot set up a socket: {error}"))?;
    Ok((ours, theirs))
}
