//! What the fuzzer sends as the archive of an installer (`fuzz/`).

use std::path::Component;

use tar::{Archive, EntryType, Header};

use super::archive::sanitise;

/// Bytes of files that an archive may have.
const MAX_ARCHIVE_BYTES: u64 = 1 << 20;
/// Bytes of a header, and what the size of a file is filled up to.
const BLOCK_BYTES: usize = 512;

/// Has an installer's sandbox send an archive. What comes out must be harmless, and come out the same when it is
/// sent once more.
///
/// # Panics
/// If it is not.
pub fn archive(bytes: &[u8]) {
    let mut clean = Vec::new();
    let Ok(contents) = sanitise(&*with_checksums(bytes), &mut clean, MAX_ARCHIVE_BYTES) else {
        return;
    };
    assert!(contents.bytes <= MAX_ARCHIVE_BYTES);
    let mut again = Vec::new();
    let same = sanitise(&*clean, &mut again, MAX_ARCHIVE_BYTES).expect("it was clean");
    assert_eq!((same, &again), (contents, &clean));

    for entry in Archive::new(&*clean).entries().expect("it is an archive") {
        let entry = entry.expect("it is whole");
        let header = entry.header();
        assert_eq!((header.uid().ok(), header.gid().ok()), (Some(0), Some(0)));
        let mode = header.mode().expect("it has a mode");
        match header.entry_type() {
            EntryType::Directory | EntryType::Symlink | EntryType::Regular => {
                assert_eq!(mode & !0o777, 0, "no bit that matters");
            }
            kind => panic!("{kind:?} came through"),
        }
        let path = entry.path().expect("it has a path");
        assert!(path.components().all(|part| matches!(part, Component::Normal(_))), "{path:?}");
    }
}

/// The archive with the sums that its headers ought to have: a fuzzer would never find them.
fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut at = 0_usize;
    while let Some(block) = bytes.get_mut(at..at.saturating_add(BLOCK_BYTES)) {
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        if block.iter().any(|byte| *byte != 0) {
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
        let size = header.entry_size().ok().and_then(|size| usize::try_from(size).ok());
        let Some(data) = size.unwrap_or(0).checked_next_multiple_of(BLOCK_BYTES) else { break };
        at = at.saturating_add(BLOCK_BYTES).saturating_add(data);
    }
    bytes
}

#[cfg(test)]
mod tests {
    #[test]
    fn kept_archives() {
        crate::replay::replay("archive", super::archive);
    }
}
