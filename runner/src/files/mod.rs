//! Files in and out of the sandbox, handled by forked children that are the sandbox user.
//!
//! The runner itself only passes frames along; it never opens a path a program could have made.

mod directory;
mod fifo;
mod reader;
mod writer;

pub(crate) use fifo::Fifo;
pub(crate) use reader::{Reader, Request, Step};
pub(crate) use writer::Writer;

use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::Pid;

use crate::identity::{become_sandbox_user, volunteer_for_oom};
use crate::sys::{self, Fork};

/// Longest time a child may make no progress before it counts as stopped by someone.
const STALL_LIMIT: Duration = Duration::from_secs(10);

/// A forked child of the sandbox user at the other end of a socket.
struct Helper {
    pid: i32,
    pub(super) socket: OwnedFd,
    progress_at: Instant,
}

impl Helper {
    /// Forks; the child runs `work` on its end of the socket and ends.
    pub(super) fn fork(work: impl FnOnce(File)) -> io::Result<Self> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
        match sys::fork()? {
            Fork::Parent(pid) => {
                fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
                Ok(Self { pid, socket: ours, progress_at: Instant::now() })
            }
            Fork::Child => {
                // Descriptor 3 alone stays: the link and other programs' pipes are not its business.
                let ready = sys::place(theirs.as_raw_fd(), 3).is_ok();
                std::mem::forget((ours, theirs));
                sys::close_from(4);
                volunteer_for_oom();
                if ready && become_sandbox_user().is_ok() {
                    work(sys::adopt(3));
                }
                sys::exit_now(0)
            }
        }
    }

    /// It has just done something, or was kept from it by us.
    pub(super) fn progressed(&mut self) {
        self.progress_at = Instant::now();
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.progress_at.elapsed() > STALL_LIMIT
    }

    pub(super) fn kill(&self) {
        // Already gone is fine; the main loop reaps it either way.
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
    }
}

/// Refuses what is in `/proc`: it tells of processes, this child's own among them, and is no program's to give. Linux
/// lets the sandbox user open little of it; gVisor's kernel, more.
fn refuse_processes(metadata: &Metadata) -> io::Result<()> {
    if fs::metadata("/proc")?.dev() == metadata.dev() {
        return Err(io::Error::from_raw_os_error(Errno::EACCES as i32));
    }
    Ok(())
}
