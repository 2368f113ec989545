//! Back to a clean sandbox, and proof of it: nothing a job did may reach the next one.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{FileStat, futimens, stat};
use nix::sys::statfs::statfs;
use nix::sys::time::TimeSpec;
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pipe2};

use crate::clean::{
    IPC_TABLES, MESSAGE_QUEUES, empty_directory, remove_message_queues, remove_system_v,
};
use crate::identity::{SANDBOX_UID, become_sandbox_user, sandbox_processes, volunteer_for_oom};
use crate::memory::Memory;
use crate::standing::Standing;
use crate::sys::{self, Fork, Ipc};

/// Longest time a reset may take before the sandbox is given up.
pub(crate) const RESET_LIMIT: Duration = Duration::from_secs(5);
/// Anonymous memory by which a clean sandbox may differ from its baseline: the kernel counts in
/// batches per processor, and the runner and its fork server breathe.
const MEMORY_TOLERANCE_BYTES: u64 = 32 << 20;
/// The only places a program can write to; all are mounts of their own.
const WRITABLE: [&str; 3] = ["/sandbox", "/tmp", "/dev/shm"];

/// What one writable place holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    blocks: u64,
    inodes: u64,
    /// Permission bits and attribute names of the place itself, which may be the sandbox user's.
    mode: u32,
    attribute_bytes: usize,
    /// Its flags (`chattr`), where the file system has any.
    flags: i64,
    /// Times of its last access and change, if it is the sandbox user's, who may then set any.
    times: Option<[TimeSpec; 2]>,
}

/// What a clean sandbox looks like, recorded before any program ran.
pub(crate) struct Baseline {
    /// The writable places, opened while nobody else could have touched them.
    places: [Option<File>; 3],
    usage: [Usage; 3],
    ipc_tables: [(Ipc, Option<File>); 3],
    anonymous_bytes: Option<u64>,
    /// Of the runner, and so of a fork server, which it starts.
    standing: Standing,
    /// Why this sandbox can never be proven clean.
    unprovable: Option<&'static str>,
}

impl Baseline {
    /// Records the present state. `owns_kernel`: nobody else runs on this kernel.
    pub(crate) fn record(memory: &Memory, owns_kernel: bool) -> Self {
        let places = WRITABLE.map(|path| File::open(path).ok());
        Self {
            usage: usage(&places),
            places,
            ipc_tables: IPC_TABLES.map(|(kind, path)| (kind, File::open(path).ok())),
            anonymous_bytes: memory.anonymous_bytes(),
            standing: Standing::of(std::process::id().cast_signed()),
            unprovable: unprovable(memory, owns_kernel),
        }
    }

    /// Takes a higher memory level as normal, once an interpreter has started.
    pub(crate) fn raise_memory(&mut self, memory: &Memory) {
        self.anonymous_bytes = self.anonymous_bytes.max(memory.anonymous_bytes());
    }

    /// What differs from the baseline, in words, or `None`.
    fn difference(&self, memory: &Memory, known: &[i32]) -> Option<String> {
        let processes = sandbox_processes(known);
        if !processes.is_empty() {
            return Some(format!("processes left: {processes:?}"));
        }
        if let Some(left) = self.storage_difference() {
            return Some(left);
        }
        if let Some(pid) = known.iter().find(|pid| Standing::of(**pid) != self.standing) {
            return Some(format!("precedence or processors of process {pid} were changed"));
        }
        let (Some(now), Some(then)) = (memory.anonymous_bytes(), self.anonymous_bytes) else {
            return Some("the memory in use cannot be read".to_owned());
        };
        (now > then + MEMORY_TOLERANCE_BYTES)
            .then(|| format!("memory left: {now} bytes, {then} when clean"))
    }

    /// All of them: one may only be there as another could not be removed in time.
    fn storage_difference(&self) -> Option<String> {
        let mut found = Vec::new();
        for ((path, now), then) in WRITABLE.iter().zip(usage(&self.places)).zip(self.usage) {
            if now != then {
                found.push(format!("{path} holds {now:?}, {then:?} when clean"));
            }
        }
        if self.ipc_tables.iter().any(|(kind, table)| has_objects(*kind, table.as_ref())) {
            found.push("System V objects left".to_owned());
        }
        if has_message_queues() {
            found.push("message queues left".to_owned());
        }
        (!found.is_empty()).then(|| found.join("; "))
    }
}

/// Asks about mount points only, which no program can replace.
fn usage(places: &[Option<File>; 3]) -> [Usage; 3] {
    let mut all = [Usage::default(); 3];
    for ((path, place), usage) in WRITABLE.iter().zip(places).zip(&mut all) {
        let (Ok(system), Ok(status)) = (statfs(*path), stat(*path)) else {
            continue;
        };
        *usage = Usage {
            blocks: system.blocks().saturating_sub(system.blocks_free()),
            inodes: match system.files() {
                0 => count_entries(path),
                files => files.saturating_sub(system.files_free()),
            },
            mode: status.st_mode & 0o7777,
            attribute_bytes: sys::attributes(Path::new(path)).len(),
            flags: place.as_ref().map_or(0, sys::flags),
            times: (status.st_uid == SANDBOX_UID).then(|| times(&status)),
        };
    }
    all
}

fn times(status: &FileStat) -> [TimeSpec; 2] {
    [
        TimeSpec::new(status.st_atime, status.st_atime_nsec),
        TimeSpec::new(status.st_mtime, status.st_mtime_nsec),
    ]
}

/// Why this sandbox can never be proven clean, if so: what cannot be looked at counts as left behind.
fn unprovable(memory: &Memory, owns_kernel: bool) -> Option<&'static str> {
    if memory.anonymous_bytes().is_none() {
        return Some("the memory in use cannot be read");
    }
    if std::fs::read_dir(MESSAGE_QUEUES).is_err() && sys::offers_message_queues() {
        return Some("message queues can be made, but not seen");
    }
    // On the machine's kernel the worker sees to it; another's may pass over the filter it is given.
    (owns_kernel && !is_filtered()).then_some(
        "no system-call filter is in force, so nobody knows what is left in the kernel; gVisor's runtime needs \
         the argument --oci-seccomp",
    )
}

/// Whether a filter is in force for this process, and so for all that it starts.
fn is_filtered() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
    mode.is_some_and(|mode| mode.trim() == "2")
}

/// How many entries a writable place has, where its file system does not count them itself.
fn count_entries(path: &str) -> u64 {
    std::fs::read_dir(path).map_or(u64::MAX, |entries| entries.count() as u64)
}

/// Whether there are IPC objects of a kind, by its table, or else by the kernel's count.
fn has_objects(kind: Ipc, table: Option<&File>) -> bool {
    table.map_or_else(|| sys::weigh_ipc(kind) != Some(0), has_rows)
}

/// Whether an IPC table has a line beyond its heading.
fn has_rows(table: &File) -> bool {
    let mut buffer = [0; 1024];
    let count = table.read_at(&mut buffer, 0).unwrap_or(0);
    buffer[..count].iter().filter(|byte| **byte == b'\n').count() > 1
}

fn has_message_queues() -> bool {
    std::fs::read_dir(MESSAGE_QUEUES).is_ok_and(|mut entries| entries.next().is_some())
}

/// Empties the sandbox and compares it to the baseline, until it matches or time is up.
///
/// All processes of the sandbox user must have been sent SIGKILL. `reap` collects ended children.
///
/// # Errors
/// What is left, in words.
pub(crate) fn restore(
    baseline: &Baseline,
    memory: &Memory,
    known: &[i32],
    mut reap: impl FnMut(),
) -> Result<(), String> {
    if let Some(why) = baseline.unprovable {
        return Err(why.to_owned());
    }
    let deadline = Instant::now() + RESET_LIMIT;
    loop {
        reap();
        let processes = sandbox_processes(known);
        if processes.is_empty() {
            if baseline.storage_difference().is_some() {
                clean(baseline, deadline).map_err(|error| format!("cannot clean: {error}"))?;
                reap();
            }
            known.iter().for_each(|pid| baseline.standing.restore(*pid));
            if baseline.difference(memory, known).is_none() {
                return Ok(());
            }
        }
        if Instant::now() > deadline {
            let left = baseline.difference(memory, known);
            return left.map_or(Ok(()), Err);
        }
        std::thread::sleep(Duration::from_micros(200));
        // Again, for one that was in the middle of a fork.
        crate::identity::kill_sandbox_processes().map_err(|error| error.to_string())?;
    }
}

/// Runs the cleaning as the sandbox user, in a child.
fn clean(baseline: &Baseline, deadline: Instant) -> io::Result<()> {
    let (ended, alive) = pipe2(OFlag::O_CLOEXEC)?;
    match sys::fork()? {
        Fork::Child => {
            volunteer_for_oom();
            if become_sandbox_user().is_ok() {
                for ((path, place), usage) in
                    WRITABLE.iter().zip(&baseline.places).zip(baseline.usage)
                {
                    restore_place(Path::new(path), place.as_ref(), &usage, deadline);
                }
                remove_message_queues();
                remove_system_v();
            }
            sys::exit_now(0)
        }
        Fork::Parent(pid) => {
            drop(alive);
            if !closes_before(&ended, deadline) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            // It has closed everything or was killed: this does not block for long.
            let _ = waitpid(Pid::from_raw(pid), None);
            Ok(())
        }
    }
}

/// Empties one writable place and gives it back what it had; the caller verifies.
fn restore_place(path: &Path, place: Option<&File>, usage: &Usage, deadline: Instant) {
    // Before it is emptied: flags may forbid that. All fail where the place is not this user's.
    if let Some(place) = place {
        sys::set_flags(place, usage.flags);
    }
    empty_directory(path, usage.mode, deadline);
    if let (Some(place), Some([accessed, modified])) = (place, &usage.times) {
        let _ = futimens(place, accessed, modified);
    }
}

/// Waits for the other end of a pipe to close.
fn closes_before(pipe: &OwnedFd, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let mut ready = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, timeout) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(_) if left.is_zero() => return false,
            Err(_) => {}
        }
    }
}
