//! Emptying a directory tree of any shape, run by a child that is the sandbox user.
//!
//! Depth is defeated by flattening: a directory that is not empty is opened, its files are unlinked
//! and its directories are moved up to the root, so that no path, stack or descriptor table grows
//! with the nesting. Symbolic links are unlinked, never followed.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::sys::{self, Ipc};

/// How directories are opened: never through a link.
const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Where the kernel shows POSIX message queues.
pub(crate) const MESSAGE_QUEUES: &str = "/dev/mqueue";
/// And System V objects, kind by kind.
pub(crate) const IPC_TABLES: [(Ipc, &str); 3] = [
    (Ipc::SharedMemory, "/proc/sysvipc/shm"),
    (Ipc::Semaphores, "/proc/sysvipc/sem"),
    (Ipc::Messages, "/proc/sysvipc/msg"),
];
/// Numbers of System V objects that are tried where no table shows them: such kernels count from nought.
const GUESSED_IDS: i32 = 4096;

/// Empties `root` until nothing is left or `deadline` has passed, and gives it back its `mode`; the
/// caller verifies.
pub(crate) fn empty_directory(root: &Path, mode: u32, deadline: Instant) {
    // Both fail where the root is not the sandbox user's, who then cannot have changed it either.
    sys::remove_attributes(root);
    let _ = fchmodat(AT_FDCWD, root, Mode::from_bits_truncate(mode), FchmodatFlags::FollowSymlink);
    empty_opened(|| open_directory(AT_FDCWD, root), deadline);
}

/// Empties the directory that `open` opens, until nothing is left that can be removed or `deadline`
/// has passed.
pub(crate) fn empty_opened(open: impl Fn() -> nix::Result<OwnedFd>, deadline: Instant) {
    let mut number = 0_u64;
    while Instant::now() < deadline {
        let Ok(mut directory) = open().and_then(Dir::from_fd) else {
            return;
        };
        let before = number;
        let mut removed = false;
        for name in names_in(&mut directory) {
            removed |= remove_entry(directory.as_fd(), &name, &mut number, deadline);
        }
        // Empty, or what is left is not ours to remove.
        if !removed && number == before {
            return;
        }
    }
}

/// Removes one entry of the root, moving up what a non-empty directory holds. Tells whether
/// something was removed.
fn remove_entry(root: BorrowedFd<'_>, name: &CStr, number: &mut u64, deadline: Instant) -> bool {
    if unlinkat(root, name, UnlinkatFlags::NoRemoveDir).is_ok()
        || unlinkat(root, name, UnlinkatFlags::RemoveDir).is_ok()
    {
        return true;
    }
    if !is_directory(root, name) {
        return false;
    }
    make_accessible(root, name);
    let Ok(mut directory) = open_directory(root, name).and_then(Dir::from_fd) else {
        return false;
    };
    let mut removed = false;
    for inner in names_in(&mut directory) {
        let parent = directory.as_fd();
        if Instant::now() > deadline {
            return false;
        }
        if unlinkat(parent, inner.as_c_str(), UnlinkatFlags::NoRemoveDir).is_ok()
            || unlinkat(parent, inner.as_c_str(), UnlinkatFlags::RemoveDir).is_ok()
        {
            removed = true;
            continue;
        }
        // Moving a directory rewrites its "..", for which it must be writable.
        make_accessible(parent, &inner);
        move_up(parent, &inner, root, number);
    }
    drop(directory);
    // Fails if something could not be moved; the next pass or the verification sees to it.
    removed | unlinkat(root, name, UnlinkatFlags::RemoveDir).is_ok()
}

fn move_up(parent: BorrowedFd<'_>, name: &CStr, root: BorrowedFd<'_>, number: &mut u64) {
    // A program may have taken some of these names, though hardly a hundred in a row.
    for _ in 0..100 {
        *number += 1;
        let target = format!(".isol8-removing-{number}");
        match renameat2(parent, name, root, target.as_str(), RenameFlags::RENAME_NOREPLACE) {
            Err(Errno::EEXIST) => {}
            _ => return,
        }
    }
}

fn is_directory(parent: BorrowedFd<'_>, name: &CStr) -> bool {
    fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)
        .is_ok_and(|status| status.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits())
}

fn make_accessible(parent: BorrowedFd<'_>, name: &CStr) {
    // Not a symbolic link: `is_directory` or a failed unlink came before. A process of this user that
    // swaps it, where one is alive, gets no more than it could do itself.
    let _ = fchmodat(parent, name, Mode::S_IRWXU, FchmodatFlags::FollowSymlink);
}

/// Opens a directory that is not behind a link. gVisor's kernel (of 2022) follows one all the same if a directory is
/// asked for, so what was opened must be what is there.
pub(crate) fn open_directory<P>(parent: impl AsFd, name: &P) -> nix::Result<OwnedFd>
where
    P: ?Sized + nix::NixPath,
{
    let opened = openat(&parent, name, DIRECTORY, Mode::empty())?;
    let (there, here) = (fstatat(&parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?, fstat(&opened)?);
    if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino) {
        return Ok(opened);
    }
    Err(Errno::ELOOP)
}

/// Names, at most a bounded number at a time; callers come back for the rest.
fn names_in(directory: &mut Dir) -> Vec<std::ffi::CString> {
    directory
        .iter()
        .flatten()
        .map(|entry| entry.file_name().to_owned())
        .filter(|name| !matches!(name.to_bytes(), b"." | b".."))
        .take(4096)
        .collect()
}

/// Unlinks the POSIX message queues this user may unlink.
pub(crate) fn remove_message_queues() {
    let opened = open_directory(AT_FDCWD, MESSAGE_QUEUES).and_then(Dir::from_fd);
    let Ok(mut directory) = opened else {
        return;
    };
    for name in names_in(&mut directory) {
        let _ = unlinkat(directory.as_fd(), name.as_c_str(), UnlinkatFlags::NoRemoveDir);
    }
}

/// Removes the System V objects this user owns.
pub(crate) fn remove_system_v() {
    for (kind, table) in IPC_TABLES {
        let Ok(text) = std::fs::read_to_string(table) else {
            (0..GUESSED_IDS).for_each(|id| sys::remove_ipc(kind, id));
            continue;
        };
        let ids = text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1));
        for id in ids.filter_map(|id| id.parse().ok()) {
            sys::remove_ipc(kind, id);
        }
    }
}
