//! What the memory controller says about this container, on cgroup v1, v2, or neither; or its kernel, where that
//! is the sandbox's own.
//!
//! The files are kept open and read in place: one system call per question.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Open accounting files of this container; each may be missing.
pub(crate) struct Memory {
    kills: Option<File>,
    usage: Option<Usage>,
}

/// Where anonymous memory is told.
struct Usage {
    file: File,
    key: &'static str,
    unit_bytes: u64,
}

impl Memory {
    /// Opens whichever there is. Without a control group to look at, the figures of the kernel itself will do if it
    /// `owns_kernel`; another's tell of all that the machine runs.
    pub(crate) fn open(owns_kernel: bool) -> Self {
        let open = |path| File::open(path).ok();
        let kills = open("/sys/fs/cgroup/memory.events");
        let kills = kills.or_else(|| open("/sys/fs/cgroup/memory/memory.oom_control"));
        let usage = |path, key, unit_bytes| Some(Usage { file: open(path)?, key, unit_bytes });
        let of_group = usage("/sys/fs/cgroup/memory.stat", "anon ", 1)
            .or_else(|| usage("/sys/fs/cgroup/memory/memory.stat", "rss ", 1));
        let of_kernel = || usage("/proc/meminfo", "AnonPages:", 1 << 10);
        Self { kills, usage: of_group.or_else(|| of_kernel().filter(|_| owns_kernel)) }
    }

    /// How often the out-of-memory killer struck so far; zero where nobody counts.
    pub(crate) fn kills(&self) -> u64 {
        self.kills.as_ref().and_then(|file| field(file, "oom_kill ")).unwrap_or(0)
    }

    /// Bytes of anonymous memory in use, where known.
    pub(crate) fn anonymous_bytes(&self) -> Option<u64> {
        let Usage { file, key, unit_bytes } = self.usage.as_ref()?;
        Some(field(file, key)? * unit_bytes)
    }
}

fn field(file: &File, key: &str) -> Option<u64> {
    let mut buffer = [0; 4096];
    let count = file.read_at(&mut buffer, 0).ok()?;
    let text = std::str::from_utf8(&buffer[..count]).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(key))?;
    value.split_whitespace().next()?.parse().ok()
}
