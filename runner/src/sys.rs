//! The calls that have no safe wrapper: forking, waiting with accounting, placing descriptors.
//!
//! The only file of the crate that may hold `unsafe`; each function is a thin, total wrapper.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Which side of a fork we are on.
pub(crate) enum Fork {
    /// In the parent, with the child's process id.
    Parent(i32),
    /// In the child, which must end in `exit_now` or `execve`.
    Child,
}

/// How a child ended, with the kernel's accounting.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ended {
    /// The child.
    pub(crate) pid: i32,
    /// Raw wait status.
    pub(crate) status: i32,
    /// User-mode CPU time, in microseconds.
    pub(crate) user_us: u64,
    /// Kernel-mode CPU time, in microseconds.
    pub(crate) system_us: u64,
    /// Largest resident set, in KiB.
    pub(crate) peak_kib: u64,
}

/// A System V IPC facility.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ipc {
    /// Shared memory segments.
    SharedMemory,
    /// Semaphore sets.
    Semaphores,
    /// Message queues.
    Messages,
}

/// Commands that tell how many objects there are; the same on every architecture, and missing in `libc`.
const SHM_INFO: libc::c_int = 14;
const SEM_INFO: libc::c_int = 19;
const MSG_INFO: libc::c_int = 12;

/// Forks.
pub(crate) fn fork() -> io::Result<Fork> {
    // SAFETY: the process has one thread, so the child may use all of the library.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid)),
    }
}

/// Ends this process without running exit handlers: those belong to the parent.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions and does not return.
    unsafe { libc::_exit(code) }
}

/// Reaps one ended child, if there is one.
pub(crate) fn wait_any() -> Option<Ended> {
    let mut status = 0;
    // SAFETY: `rusage` is plain data for which all zeroes is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live locals of the right type.
    let pid = unsafe { libc::wait4(-1, &raw mut status, libc::WNOHANG, &raw mut usage) };
    (pid > 0).then(|| Ended {
        pid,
        status,
        user_us: microseconds(usage.ru_utime),
        system_us: microseconds(usage.ru_stime),
        peak_kib: u64::try_from(usage.ru_maxrss).unwrap_or(0),
    })
}

fn microseconds(time: libc::timeval) -> u64 {
    u64::try_from(time.tv_sec * 1_000_000 + time.tv_usec).unwrap_or(0)
}

/// Makes `target` a copy of `fd` that survives an exec.
pub(crate) fn place(fd: RawFd, target: RawFd) -> io::Result<()> {
    // SAFETY: duplicates or changes descriptors by number; a bad number is an error, and callers
    // only name targets that no owned descriptor of this process uses afterwards.
    let outcome = unsafe {
        if fd == target { libc::fcntl(fd, libc::F_SETFD, 0) } else { libc::dup2(fd, target) }
    };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Closes every descriptor from `first` up. Only for start-up and for children that never touch
/// their parent's descriptors again.
pub(crate) fn close_from(first: RawFd) {
    let first = first.unsigned_abs();
    // SAFETY: closes by number; the callers' contract above rules out use after close.
    let outcome = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0_u32) };
    if outcome != 0 {
        for number in first..65_536 {
            // SAFETY: as above.
            unsafe { libc::close(number.cast_signed()) };
        }
    }
}

/// Keeps other processes from reading this one's memory and descriptors through `/proc`.
pub(crate) fn forbid_dumping() {
    // SAFETY: takes integers only.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
}

/// Gives every signal its default action and blocks none, as a new program expects.
pub(crate) fn default_signals() {
    for number in 1..=64 {
        // SAFETY: `SIG_DFL` is a valid action; numbers that cannot be changed are refused.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    // SAFETY: the set is initialised by `sigemptyset` before it is read.
    unsafe {
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Makes a pipe hold more, so that a fast writer is woken less often. Failure is harmless.
pub(crate) fn grow_pipe(fd: BorrowedFd<'_>, bytes: i32) {
    // SAFETY: takes integers only.
    unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETPIPE_SZ, bytes) };
}

/// Removes a System V IPC object this user owns.
pub(crate) fn remove_ipc(kind: Ipc, id: i32) {
    // SAFETY: `IPC_RMID` reads no argument beyond the identifier.
    unsafe {
        match kind {
            Ipc::SharedMemory => libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()),
            Ipc::Semaphores => libc::semctl(id, 0, libc::IPC_RMID),
            Ipc::Messages => libc::msgctl(id, libc::IPC_RMID, std::ptr::null_mut()),
        };
    }
}

/// Something that is nought if there are no System V IPC objects of a kind in this sandbox; `None` if the kernel does not say.
pub(crate) fn weigh_ipc(kind: Ipc) -> Option<u32> {
    // All of Linux: `struct shm_info`, `struct seminfo` and `struct msginfo` begin with integers, and are less than
    // half as long as this.
    let mut told = [0_i32; 32];
    let pointer = told.as_mut_ptr();
    // SAFETY: the buffer is longer than any of the three structures that these calls fill in.
    let (outcome, place) = unsafe {
        match kind {
            // The low half of `shm_tot`, pages: every segment has one. gVisor goes on counting segments that are
            // removed in `used_ids`.
            Ipc::SharedMemory => (libc::shmctl(0, SHM_INFO, pointer.cast()), 2),
            // `semusz`
            Ipc::Semaphores => (libc::semctl(0, 0, SEM_INFO, pointer), 7),
            // `msgpool`
            Ipc::Messages => (libc::msgctl(0, MSG_INFO, pointer.cast()), 0),
        }
    };
    (outcome >= 0).then_some(told[place]).and_then(|count| u32::try_from(count).ok())
}

/// Niceness of a process.
pub(crate) fn niceness(pid: i32) -> Option<i32> {
    // Not the library's function, whose -1 may be a niceness as well as an error: the call itself answers 20 less
    // the niceness.
    // SAFETY: takes integers only.
    let answer = unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, pid) };
    i32::try_from(answer).ok().filter(|answer| *answer > 0).map(|answer| 20 - answer)
}

/// Sets the niceness of a process, as far as this one may.
pub(crate) fn set_niceness(pid: i32, niceness: i32) {
    // SAFETY: takes integers only.
    unsafe { libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, pid, niceness) };
}

/// A set of processors, a bit for each; as many as the C library's own has room for.
pub(crate) type Processors = [u64; 16];

/// Processors that a process may run on.
pub(crate) fn processors(pid: i32) -> Option<Processors> {
    let mut set = Processors::default();
    // SAFETY: the buffer is as long as said; the kernel writes no more.
    let outcome = unsafe {
        let bytes = std::mem::size_of::<Processors>();
        libc::syscall(libc::SYS_sched_getaffinity, pid, bytes, set.as_mut_ptr())
    };
    (outcome >= 0).then_some(set)
}

/// Sets the processors that a process may run on, as far as this one may.
pub(crate) fn set_processors(pid: i32, set: &Processors) {
    // SAFETY: the buffer is as long as said; the kernel only reads it.
    unsafe {
        let bytes = std::mem::size_of::<Processors>();
        libc::syscall(libc::SYS_sched_setaffinity, pid, bytes, set.as_ptr())
    };
}

/// Whether programs could have made POSIX message queues here, wherever they are shown.
pub(crate) fn offers_message_queues() -> bool {
    // SAFETY: the name is terminated. An empty one names nothing.
    let outcome = unsafe { libc::syscall(libc::SYS_mq_unlink, c"".as_ptr()) };
    let error = io::Error::last_os_error().raw_os_error();
    outcome == 0 || !matches!(error, Some(libc::ENOSYS | libc::EPERM))
}

/// Names of the extended attributes of a file, separated by zero bytes. Empty where there are none
/// or the file system has no such thing.
pub(crate) fn attributes(path: &Path) -> Vec<u8> {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return Vec::new();
    };
    let mut names = vec![0_u8; 64 << 10];
    let pointer = names.as_mut_ptr().cast();
    // SAFETY: the path is terminated, and the buffer is as long as said.
    let count = unsafe { libc::llistxattr(path.as_ptr(), pointer, names.len()) };
    names.truncate(usize::try_from(count).unwrap_or(0));
    names
}

/// Removes the extended attributes of a file, as far as this user may.
pub(crate) fn remove_attributes(path: &Path) {
    let names = attributes(path);
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return;
    };
    for name in names.split_inclusive(|byte| *byte == 0) {
        if let Ok(name) = CStr::from_bytes_with_nul(name) {
            // SAFETY: both strings are terminated.
            unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) };
        }
    }
}

nix::ioctl_read!(read_flags, b'f', 1, libc::c_long);
nix::ioctl_write_ptr!(write_flags, b'f', 2, libc::c_long);

/// Flags of a file, as `chattr` knows them; 0 where the file system has none.
pub(crate) fn flags(file: &File) -> i64 {
    let mut flags = 0;
    // SAFETY: the pointer is to a live local that is at least as large as what is written.
    let outcome = unsafe { read_flags(file.as_raw_fd(), &raw mut flags) };
    outcome.map_or(0, |_| flags)
}

/// Sets the flags of a file, as far as this user may.
pub(crate) fn set_flags(file: &File, flags: i64) {
    // SAFETY: the pointer is to a live local that is at least as large as what is read.
    let _ = unsafe { write_flags(file.as_raw_fd(), &raw const flags) };
}

/// Takes ownership of a descriptor that `place` has just made in a forked child.
pub(crate) fn adopt(fd: RawFd) -> File {
    // SAFETY: the caller placed `fd` itself and forgot or never had another owner of that number.
    unsafe { File::from_raw_fd(fd) }
}

/// Takes ownership of a descriptor that a message has just brought.
pub(crate) fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel made the number for the receiver, who has no other owner of it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// CPU time of all threads of another process, without its children, in microseconds.
pub(crate) fn process_cpu_us(pid: i32) -> Option<u64> {
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both pointers are to live locals of the right type; the clock is read only if valid.
    let outcome = unsafe {
        match libc::clock_getcpuclockid(pid, &raw mut clock) {
            0 => libc::clock_gettime(clock, &raw mut time),
            error => error,
        }
    };
    let microseconds = time.tv_sec * 1_000_000 + time.tv_nsec / 1000;
    (outcome == 0).then_some(u64::try_from(microseconds).ok()).flatten()
}

/// Length of the tick that `/proc/PID/stat` counts in, in microseconds.
pub(crate) fn clock_tick_us() -> u64 {
    // SAFETY: takes an integer only.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    1_000_000 / u64::try_from(per_second.max(1)).unwrap_or(100)
}
