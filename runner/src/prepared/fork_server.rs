//! The Python fork server: started while nothing of a user is in the sandbox, and root like the runner.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair,
};
use nix::unistd::read;

use runner::protocol::Prepare;

use crate::spawn::{Ends, Pipes, Program, make_pipes, spawn};
use crate::sys::Ended;

/// Directory with the `sitecustomize.py` that turns an interpreter into the server.
const HOOK_DIRECTORY: &str = "/isol8/prepared/python";
/// Where that file expects its control socket.
const SERVER_FD: i32 = 3;

/// What the server tells.
pub(crate) enum Report {
    /// It forked a child, which will wait for a job.
    Forked(i32),
    /// Its child ended.
    Ended(Ended),
    /// It could not import what its image wants imported ahead.
    Lacking(String),
    /// It is gone, for the given reason.
    Gone(String),
}

/// The running server.
pub(crate) struct ForkServer {
    pid: i32,
    socket: OwnedFd,
    /// Kept so that its standard streams are pipes like those of a program.
    pipes: Pipes,
    /// Children that were asked for and given up before the server told of them. It answers in the
    /// order it is asked, so its next reports are about these.
    abandoned: u32,
}

impl ForkServer {
    /// Starts it with the command line and environment of the programs to come.
    ///
    /// # Errors
    /// Why it could not be started.
    pub(crate) fn start(request: &Prepare) -> Result<Self, String> {
        let words = |error: Errno| format!("cannot start the fork server: {error}");
        let flags = SockFlag::SOCK_CLOEXEC;
        let (socket, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).map_err(words)?;
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(words)?;
        let (pipes, ends) = make_pipes().map_err(words)?;
        let mut env: BTreeMap<String, String> = request.env.clone();
        let path = match env.get("PYTHONPATH") {
            Some(own) => format!("{HOOK_DIRECTORY}:{own}"),
            None => HOOK_DIRECTORY.to_owned(),
        };
        env.insert("PYTHONPATH".to_owned(), path);
        let program = Program {
            argv: &request.argv,
            env: &env,
            cwd: "/",
            code: None,
            as_root: true,
            descriptors: &[],
        };
        let pid = spawn(&program, &ends, &theirs, Some(SERVER_FD))
            .map_err(|failed| format!("cannot start the fork server: {}", failed.message))?;
        Ok(Self { pid, socket, pipes, abandoned: 0 })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Asks for the next child, which gets these descriptors.
    ///
    /// # Errors
    /// If the server is gone.
    pub(crate) fn ask_for_child(&self, control: &OwnedFd, ends: &Ends) -> Result<(), String> {
        let [stdin, stdout, stderr] = ends.each_ref().map(AsRawFd::as_raw_fd);
        let descriptors = [control.as_raw_fd(), stdin, stdout, stderr];
        sendmsg::<()>(
            self.socket.as_raw_fd(),
            &[IoSlice::new(b"fork")],
            &[ControlMessage::ScmRights(&descriptors)],
            MsgFlags::MSG_NOSIGNAL,
            None,
        )
        .map(drop)
        .map_err(|error| format!("the fork server does not answer: {error}"))
    }

    /// Notes that nobody waits any more for a child that was asked for and not yet told of. It ends by
    /// itself, since its control socket is closed.
    pub(crate) fn abandon_child(&mut self) {
        self.abandoned += 1;
    }

    /// Whether the child just told of is one that was given up.
    pub(crate) fn was_abandoned(&mut self) -> bool {
        let was_abandoned = self.abandoned > 0;
        self.abandoned -= u32::from(was_abandoned);
        was_abandoned
    }

    /// The next report, if there is one.
    pub(crate) fn receive(&self) -> Option<Report> {
        let mut buffer = [0; 1024];
        match read(&self.socket, &mut buffer) {
            Err(Errno::EAGAIN | Errno::EINTR) => None,
            Ok(count) if count > 0 => Some(parse(&buffer[..count])),
            _ => Some(Report::Gone(self.last_words())),
        }
    }

    fn last_words(&self) -> String {
        let mut buffer = [0; 512];
        let count = read(&self.pipes.stderr, &mut buffer).unwrap_or(0);
        let words = String::from_utf8_lossy(&buffer[..count]);
        format!("the fork server ended: {}", words.trim())
    }
}

fn parse(message: &[u8]) -> Report {
    let text = String::from_utf8_lossy(message);
    let (kind, rest) = text.split_at_checked(1).unwrap_or_default();
    let numbers: Vec<i64> = rest.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let positive = |number: i64| u64::try_from(number).unwrap_or(0);
    let small = |number: i64| i32::try_from(number).unwrap_or(0);
    match (kind, numbers.as_slice()) {
        ("F", [pid]) => Report::Forked(small(*pid)),
        ("X", [pid, status, user_us, system_us, peak_kib]) => Report::Ended(Ended {
            pid: small(*pid),
            status: small(*status),
            user_us: positive(*user_us),
            system_us: positive(*system_us),
            peak_kib: positive(*peak_kib),
        }),
        ("W", _) => Report::Lacking(format!("not preloaded: {rest}")),
        _ => Report::Gone(format!("the fork server gave up: {rest}")),
    }
}
