//! The sandbox user: who programs run as, becoming it, and killing all it owns.
//!
//! Numbers, not names: a static binary in somebody else's image cannot ask its user database.

use std::fs;
use std::io;
use std::io::Write;
use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid, pipe2, setgroups, setresgid, setresuid};

/// User every program runs as.
pub(crate) const SANDBOX_UID: u32 = 100;
/// Its group.
pub(crate) const SANDBOX_GID: u32 = 101;

/// Turns this (forked) process into one of the sandbox user, for good.
///
/// # Errors
/// If the container lacks the `SETUID` and `SETGID` capabilities.
pub(crate) fn become_sandbox_user() -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(SANDBOX_UID), Gid::from_raw(SANDBOX_GID));
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    Ok(())
}

/// Makes the kernel's out-of-memory killer take this process before the runner. Inherited.
pub(crate) fn volunteer_for_oom() {
    // Failure only makes the runner a likelier victim; there is nobody to tell in a forked child.
    let _ = fs::OpenOptions::new()
        .write(true)
        .open("/proc/self/oom_score_adj")
        .and_then(|mut file| file.write_all(b"1000"));
}

/// No core files; a moderate number of descriptors, which a program may raise itself.
pub(crate) fn limit_resources() {
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let hard = hard.min(65_536);
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(1024), hard);
    }
}

/// Sends SIGKILL to every process of the sandbox user in one pass of the kernel's process list,
/// which a fork bomb cannot outrun and which needs no process of its own.
///
/// The runner takes the sandbox user's real and effective id for the length of one call; its saved
/// id stays root, so it can be neither traced nor limited meanwhile, and signals from inside the
/// container never reach PID 1.
pub(crate) fn kill_sandbox_processes() -> io::Result<()> {
    as_sandbox_user(|| {
        // "No such process" is success: nothing was left.
        let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    })
}

/// Makes a pipe that belongs to the sandbox user, so that its processes can open it by the name it
/// has in `/proc/self/fd`.
pub(crate) fn sandbox_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(as_sandbox_user(|| pipe2(OFlag::O_CLOEXEC))??)
}

/// Does one thing with the user ids of the sandbox; for calls that touch no path and do not block.
fn as_sandbox_user<T>(act: impl FnOnce() -> T) -> io::Result<T> {
    let (sandbox, root) = (Uid::from_raw(SANDBOX_UID), Uid::from_raw(0));
    setresuid(sandbox, sandbox, root)?;
    let outcome = act();
    setresuid(root, root, root)?;
    Ok(outcome)
}

/// Process ids of the sandbox user, zombies included, leaving out `known` ones.
///
/// The owner of `/proc/PID` is not asked: a process can hide behind root by making itself
/// undumpable. Its status file tells the truth.
pub(crate) fn sandbox_processes(known: &[i32]) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| !known.contains(pid) && runs_as_sandbox(*pid))
        .collect()
}

fn runs_as_sandbox(pid: i32) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
        return false;
    };
    status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .is_none_or(|ids| ids.split_whitespace().any(|id| id.parse() == Ok(SANDBOX_UID)))
}
