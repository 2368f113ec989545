//! Kernel, memory and disk of this machine.

use std::path::Path;

use super::Check;
use crate::{roles, settings};

/// Below this, a handful of sandboxes with default limits do not fit.
const LOW_MEMORY_BYTES: u64 = 1 << 30;
/// Below this, images cannot be rebuilt; below a tenth of it, nothing works for long.
const LOW_DISK_BYTES: u64 = 5 << 30;

pub(super) fn checks() -> Vec<Check> {
    let mut checks = vec![kernel(), memory()];
    let data = roles::default_data_directory().ok().filter(|directory| directory.exists());
    let places = [Some(Path::new("/var/lib/docker").to_owned()), data.or_else(settings::home)];
    for place in places.into_iter().flatten().filter(|place| place.exists()) {
        checks.push(disk(&place));
    }
    checks
}

fn kernel() -> Check {
    match std::fs::read_to_string("/proc/sys/kernel/osrelease") {
        Ok(release) => Check::ok("kernel", release.trim()),
        Err(_) => Check::warn("kernel", "not Linux, or /proc is not mounted", "mount /proc"),
    }
}

fn memory() -> Check {
    let Some(bytes) = available_memory() else {
        return Check::warn("memory", "cannot be read", "mount /proc");
    };
    let found = format!("{} MiB available", bytes >> 20);
    if bytes < LOW_MEMORY_BYTES {
        let mend = "stop what is not needed, or lower maxConcurrent and defaults.memoryLimit";
        return Check::warn("memory", found, mend);
    }
    Check::ok("memory", found)
}

fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

fn disk(place: &Path) -> Check {
    let shown = place.display();
    let bytes = match nix::sys::statvfs::statvfs(place) {
        Ok(stat) => stat.blocks_available() * stat.fragment_size(),
        Err(error) => {
            return Check::warn("disk", format!("{shown}: {error}"), "check its permissions");
        }
    };
    let found = format!("{} MiB free at {shown}", bytes >> 20);
    let mend = "free some: `isol8 cleanup`, `docker system df`";
    if bytes < LOW_DISK_BYTES / 10 {
        return Check::fail("disk", found, mend);
    }
    if bytes < LOW_DISK_BYTES {
        return Check::warn("disk", found, mend);
    }
    Check::ok("disk", found)
}
