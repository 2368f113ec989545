//! A FIFO for the standard input of one call, made and opened by a child that is the sandbox user.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{mkfifo, unlink};

use super::Helper;
use crate::sys;

/// Longest wait for the child, which a hostile process may have stopped.
const LIMIT: Duration = Duration::from_secs(2);

/// Both ends of a FIFO; neither blocks.
pub(crate) struct Fifo {
    /// Keeps what is written until the program has opened its own reading end.
    pub(crate) reader: OwnedFd,
    pub(crate) writer: OwnedFd,
}

impl Fifo {
    /// Makes one at `path`, in place of what may be there.
    ///
    /// # Errors
    /// If the sandbox user cannot.
    pub(crate) fn make(path: &Path) -> io::Result<Self> {
        let helper = Helper::fork(|socket| {
            // Without an answer the runner knows enough.
            let _ = make_and_send(path, &socket);
        })?;
        let fifo = receive(&helper.socket);
        helper.kill();
        fifo
    }
}

/// The child's part.
fn make_and_send(path: &Path, socket: &File) -> nix::Result<()> {
    match unlink(path) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(error) => return Err(error),
    }
    mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?;
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let reader = open(path, flags | OFlag::O_RDONLY, Mode::empty())?;
    let writer = open(path, flags | OFlag::O_WRONLY, Mode::empty())?;
    let descriptors = [reader.as_raw_fd(), writer.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(b"F")], &rights, flags, None).map(drop)
}

/// The runner's part. What comes was opened by the sandbox user, and is checked to be a FIFO.
fn receive(socket: &OwnedFd) -> io::Result<Fifo> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let mut ready = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, timeout) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => break,
        }
    }
    let mut byte = [0];
    let mut space = nix::cmsg_space!([i32; 2]);
    let mut parts = [IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut descriptors = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = part {
            descriptors.extend(numbers.into_iter().map(sys::own));
        }
    }
    let [reader, writer] = <[OwnedFd; 2]>::try_from(descriptors)
        .map_err(|_| io::Error::other("the standard input of the call could not be set up"))?;
    for end in [&reader, &writer] {
        if fstat(end)?.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFIFO.bits() {
            return Err(io::Error::from_raw_os_error(Errno::EINVAL as i32));
        }
    }
    Ok(Fifo { reader, writer })
}
