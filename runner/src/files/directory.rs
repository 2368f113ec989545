//! Listing and removing, run by a child that is the sandbox user.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::unistd::{UnlinkatFlags, unlinkat};

use runner::protocol::{Directory, DirectoryEntry, EntryKind, MAX_PAYLOAD_BYTES};

use super::refuse_processes;
use crate::clean::{empty_opened, open_directory};

/// Entries looked at; beyond, a listing is cut.
const MAX_ENTRIES: usize = 20_000;
/// Longest time a removal may take.
const REMOVE_LIMIT: Duration = Duration::from_secs(8);
/// The places in which something may be removed.
const ROOTS: [&str; 2] = ["/sandbox", "/tmp"];

/// What is in a directory.
pub(super) fn list(path: &str) -> io::Result<Directory> {
    let path = Path::new("/sandbox").join(path);
    refuse_processes(&fs::metadata(&path)?)?;
    let mut listing = fs::read_dir(path)?;
    let mut entries = Vec::new();
    for entry in listing.by_ref().take(MAX_ENTRIES) {
        // One that is gone by now is not in the directory.
        if let Ok(entry) = describe(&entry?) {
            entries.push(entry);
        }
    }
    let mut truncated = listing.next().is_some();
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    let mut room = MAX_PAYLOAD_BYTES - 64;
    let fitting = entries.iter().take_while(|entry| {
        let size = serde_json::to_vec(entry).map_or(usize::MAX, |text| text.len() + 1);
        let fits = size <= room;
        room -= size.min(room);
        fits
    });
    let count = fitting.count();
    truncated |= count < entries.len();
    entries.truncate(count);
    Ok(Directory { entries, truncated })
}

fn describe(entry: &fs::DirEntry) -> io::Result<DirectoryEntry> {
    let metadata = entry.metadata()?;
    let kind = match metadata.file_type() {
        kind if kind.is_file() => EntryKind::File,
        kind if kind.is_dir() => EntryKind::Directory,
        kind if kind.is_symlink() => EntryKind::Symlink,
        _ => EntryKind::Other,
    };
    let modified_ms = metadata.mtime() * 1000 + metadata.mtime_nsec() / 1_000_000;
    Ok(DirectoryEntry {
        name: entry.file_name().to_string_lossy().into_owned(),
        kind,
        size_bytes: if kind == EntryKind::File { metadata.len() } else { 0 },
        mode: metadata.permissions().mode() & 0o7777,
        modified_ms: u64::try_from(modified_ms).unwrap_or(0),
    })
}

/// Removes what is at `path`, without following a link anywhere on the way.
pub(super) fn remove(path: &str) -> io::Result<()> {
    let (root, names) = locate(path)?;
    let (last, parents) = names.split_last().ok_or_else(not_permitted)?;
    let mut parent = open_directory(AT_FDCWD, &root)?;
    for name in parents {
        parent = open_directory(&parent, Path::new(name))?;
    }
    let last = Path::new(last);
    match unlinkat(&parent, last, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::EISDIR | Errno::EPERM) => {}
        outcome => return Ok(outcome?),
    }
    let deadline = Instant::now() + REMOVE_LIMIT;
    empty_opened(|| open_directory(&parent, last), deadline);
    Ok(unlinkat(&parent, last, UnlinkatFlags::RemoveDir)?)
}

/// Splits a path into one of the roots and the names below it.
fn locate(path: &str) -> io::Result<(PathBuf, Vec<std::ffi::OsString>)> {
    let path = Path::new("/sandbox").join(path);
    let root = ROOTS.iter().find(|root| path.starts_with(root)).ok_or_else(not_permitted)?;
    let below = path.strip_prefix(root).map_err(io::Error::other)?;
    let names = below.components().map(|component| match component {
        Component::Normal(name) => Ok(name.to_owned()),
        _ => Err(not_permitted()),
    });
    Ok((PathBuf::from(root), names.collect::<io::Result<_>>()?))
}

fn not_permitted() -> io::Error {
    io::Error::from_raw_os_error(Errno::EACCES as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_below_the_roots_can_be_removed() {
        for path in ["/etc/passwd", "/sandboxes/x", "../x", "/sandbox/../etc", "/tmp/a/../../b"] {
            assert!(locate(path).is_err(), "{path}");
        }
        for path in ["", ".", "/sandbox", "/sandbox/", "/tmp", "/tmp/."] {
            assert!(locate(path).is_ok_and(|(_, names)| names.is_empty()), "{path}");
        }
        let (root, names) = locate("a/./b").unwrap();
        assert_eq!((root, names), ("/sandbox".into(), vec!["a".into(), "b".into()]));
    }
}
