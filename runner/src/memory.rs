//! What the memory controller says about this container, on cgroup v1, v2, or neither.
//!
//! The files are kept open and read in place: one system call per question.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Open accounting files of this container's control group; each may be missing.
pub(crate) struct Memory {
    kills: Option<File>,
    usage: Option<File>,
    usage_key: &'static str,
}

impl Memory {
    /// Opens whichever version is mounted.
    pub(crate) fn open() -> Self {
        let open = |path| File::open(path).ok();
        match open("/sys/fs/cgroup/memory.events") {
            Some(kills) => Self {
                kills: Some(kills),
                usage: open("/sys/fs/cgroup/memory.stat"),
                usage_key: "anon ",
            },
            None => Self {
                kills: open("/sys/fs/cgroup/memory/memory.oom_control"),
                usage: open("/sys/fs/cgroup/memory/memory.stat"),
                usage_key: "rss ",
            },
        }
    }

    /// How often the out-of-memory killer struck so far; zero where nobody counts.
    pub(crate) fn kills(&self) -> u64 {
        field(self.kills.as_ref(), "oom_kill ").unwrap_or(0)
    }

    /// Bytes of anonymous memory in use, where known.
    pub(crate) fn anonymous_bytes(&self) -> Option<u64> {
        field(self.usage.as_ref(), self.usage_key)
    }
}

fn field(file: Option<&File>, key: &str) -> Option<u64> {
    let mut buffer = [0; 4096];
    let count = file?.read_at(&mut buffer, 0).ok()?;
    let text = std::str::from_utf8(&buffer[..count]).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
}
