//! Hygiene before the first frame: descriptors, signals, environment.

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};
use nix::unistd::chdir;

use crate::link::Link;
use crate::sys;

/// Makes this process fit to be the parent of hostile ones; returns the link and the announcer of
/// ended children.
///
/// # Errors
/// If a descriptor cannot be set up.
pub(crate) fn prepare() -> io::Result<(Link, SignalFd)> {
    sys::close_from(3);
    sys::forbid_dumping();
    umask(Mode::from_bits_truncate(0o022));
    chdir("/")?;
    let (input, output) = take_link()?;
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    // A closed link is an error to handle, not a reason to die in the middle of something.
    mask.add(Signal::SIGPIPE);
    mask.thread_block()?;
    let mut announced = SigSet::empty();
    announced.add(Signal::SIGCHLD);
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    let children = SignalFd::with_flags(&announced, flags)?;
    Ok((Link::new(input, output), children))
}

/// Moves the link out of the way of programs, leaving `/dev/null` in its place.
fn take_link() -> io::Result<(OwnedFd, OwnedFd)> {
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    for fd in [&input, &output] {
        fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    sys::place(null.as_raw_fd(), 0)?;
    sys::place(null.as_raw_fd(), 1)?;
    Ok((input, output))
}

/// Says something where an operator may see it, when there is no link to say it on.
pub(crate) fn complain(message: &str) {
    // The last resort cannot be reported anywhere else.
    let _ = writeln!(io::stderr(), "isol8-runner: {message}");
}
