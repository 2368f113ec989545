//! What leaves an installer, taken apart and put together anew. The archive comes from a sandbox in
//! which a package's own scripts have run, so nothing in it is believed: only plain files, folders and
//! links that stay inside pass, owned by root, with no bit set that could matter.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::path::Path;

use tar::{Archive, Builder, EntryType, Header};

/// Longest path, and target of a link, in bytes; one more and an archive could fill our memory with it.
const MAX_PATH_BYTES: u64 = 1024;
/// Deepest folder.
const MAX_DEPTH: usize = 64;
/// Entries of an archive.
const MAX_ENTRIES: usize = 200_000;

/// Why an archive was refused, in words for whoever asked for the packages.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArchiveError {
    /// It holds what no package needs.
    #[error("the installed files hold {what}: {path}")]
    Entry {
        /// Of which kind.
        what: &'static str,
        /// Where.
        path: String,
    },
    /// There is too much of it.
    #[error("the installed files are more than {0}")]
    TooLarge(String),
    /// It cannot be read, or what is made of it not written.
    #[error("the installed files could not be read: {0}")]
    Io(#[from] io::Error),
}

/// How much came through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    /// Bytes of all files.
    pub(super) bytes: u64,
    /// Files, folders and links.
    pub(super) entries: usize,
}

/// Copies an archive of at most `max_bytes` of files from `from` to `to`, entry by entry.
///
/// # Errors
/// [`ArchiveError`]; what was written by then is of no use.
pub(super) fn sanitise(
    from: impl Read,
    to: impl Write,
    max_bytes: u64,
) -> Result<Contents, ArchiveError> {
    let mut archive = Archive::new(from);
    let mut clean = Builder::new(to);
    let mut tree = Tree::default();
    let mut contents = Contents::default();
    let (mut long_path, mut long_target) = (None, None);
    // Raw, because the library would read a long name of any length into memory.
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        let (kind, size) = (entry.header().entry_type(), entry.header().entry_size()?);
        match kind {
            EntryType::GNULongName => {
                long_path = Some(read_text(&mut entry, size)?);
                continue;
            }
            EntryType::GNULongLink => {
                long_target = Some(read_text(&mut entry, size)?);
                continue;
            }
            _ => {}
        }
        let path = match long_path.take() {
            Some(path) => path,
            None => entry.header().path_bytes().into_owned(),
        };
        let path = Inside::new(&path).ok_or_else(|| refused("a path that leads outside", &path))?;
        let target = long_target.take();
        if path.is_root() {
            continue;
        }
        contents.entries += 1;
        if contents.entries > MAX_ENTRIES {
            return Err(ArchiveError::TooLarge(format!("{MAX_ENTRIES} entries")));
        }
        if !tree.add(&path, kind == EntryType::Directory) {
            return Err(refused(
                "a path that comes twice, or below what is no folder",
                path.bytes(),
            ));
        }
        let mut header = Header::new_gnu();
        header.set_mtime(entry.header().mtime().unwrap_or(0));
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        match kind {
            EntryType::Directory => {
                header.set_entry_type(EntryType::Directory);
                header.set_mode(0o755);
                clean.append_data(&mut header, path.as_path(), io::empty())?;
            }
            EntryType::Regular | EntryType::Continuous => {
                contents.bytes = contents.bytes.saturating_add(size);
                if contents.bytes > max_bytes {
                    return Err(ArchiveError::TooLarge(format!(
                        "{max_bytes} bytes (worker.packageSetSize)"
                    )));
                }
                let is_program = entry.header().mode().unwrap_or(0) & 0o111 != 0;
                header.set_entry_type(EntryType::Regular);
                header.set_mode(if is_program { 0o755 } else { 0o644 });
                header.set_size(size);
                clean.append_data(&mut header, path.as_path(), &mut entry)?;
            }
            EntryType::Symlink => {
                let target = match target {
                    Some(target) => target,
                    None => entry.header().link_name_bytes().unwrap_or_default().into_owned(),
                };
                if !path.reaches_inside(&target) {
                    return Err(refused("a link that leads outside", path.bytes()));
                }
                header.set_entry_type(EntryType::Symlink);
                header.set_mode(0o777);
                clean.append_link(&mut header, path.as_path(), to_path(&target))?;
            }
            EntryType::Link => return Err(refused("a hard link", path.bytes())),
            _ => return Err(refused("something that is no file, folder or link", path.bytes())),
        }
    }
    clean.into_inner()?.flush()?;
    Ok(contents)
}

fn read_text(entry: &mut impl Read, size: u64) -> Result<Vec<u8>, ArchiveError> {
    let mut text = Vec::new();
    if size > MAX_PATH_BYTES + 1 {
        entry.take(64).read_to_end(&mut text)?;
        return Err(refused("a path that is too long", &text));
    }
    entry.read_to_end(&mut text)?;
    while text.last() == Some(&0) {
        text.pop();
    }
    Ok(text)
}

fn refused(what: &'static str, path: &[u8]) -> ArchiveError {
    ArchiveError::Entry { what, path: String::from_utf8_lossy(path).into_owned() }
}

fn to_path(bytes: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt as _;
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

/// A path below the archive's root, without empty parts, `.` and `..`.
struct Inside(Vec<u8>);

impl Inside {
    fn new(path: &[u8]) -> Option<Self> {
        if path.len() as u64 > MAX_PATH_BYTES || path.contains(&0) || path.starts_with(b"/") {
            return None;
        }
        let parts: Vec<&[u8]> =
            path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
        (parts.len() <= MAX_DEPTH && !parts.contains(&&b".."[..])).then(|| Self(parts.join(&b'/')))
    }

    fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn as_path(&self) -> &Path {
        to_path(&self.0)
    }

    fn parent(&self) -> &[u8] {
        self.0.iter().rposition(|byte| *byte == b'/').map_or(&[], |end| &self.0[..end])
    }

    /// Whether a link here to `target` stays below the root, taking its words literally.
    fn reaches_inside(&self, target: &[u8]) -> bool {
        let is_text = !target.is_empty() && !target.contains(&0) && !target.starts_with(b"/");
        let mut depth = self.0.iter().filter(|byte| **byte == b'/').count();
        is_text
            && target.len() as u64 <= MAX_PATH_BYTES
            && target.split(|byte| *byte == b'/').all(|part| {
                match part {
                    b"" | b"." => {}
                    b".." => match depth.checked_sub(1) {
                        Some(less) => depth = less,
                        None => return false,
                    },
                    _ => depth += 1,
                }
                true
            })
    }
}

/// What has come so far. Each entry needs a folder that came before it, so that none is written
/// through a link.
#[derive(Default)]
struct Tree {
    folders: HashSet<Vec<u8>>,
    others: HashSet<Vec<u8>>,
}

impl Tree {
    fn add(&mut self, path: &Inside, is_folder: bool) -> bool {
        let parent = path.parent();
        let has_place = parent.is_empty() || self.folders.contains(parent);
        let (of_kind, of_other) = if is_folder {
            (&mut self.folders, &self.others)
        } else {
            (&mut self.others, &self.folders)
        };
        has_place && !of_other.contains(path.bytes()) && of_kind.insert(path.bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Row {
        kind: EntryType,
        path: &'static str,
        target: &'static str,
        mode: u32,
        data: &'static [u8],
    }

    const FOLDER: Row =
        Row { kind: EntryType::Directory, path: "d", target: "", mode: 0o777, data: b"" };

    fn file(path: &'static str) -> Row {
        Row { kind: EntryType::Regular, path, target: "", mode: 0o644, data: b"data" }
    }

    fn link(path: &'static str, target: &'static str) -> Row {
        Row { kind: EntryType::Symlink, path, target, mode: 0o777, data: b"" }
    }

    /// Written byte by byte: the library itself would refuse to write some of these.
    fn archive(rows: &[Row]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for row in rows {
            let mut header = Header::new_gnu();
            let old = header.as_old_mut();
            old.name[..row.path.len()].copy_from_slice(row.path.as_bytes());
            old.linkname[..row.target.len()].copy_from_slice(row.target.as_bytes());
            header.set_entry_type(row.kind);
            header.set_mode(row.mode);
            header.set_uid(100);
            header.set_gid(101);
            header.set_mtime(7);
            header.set_size(row.data.len() as u64);
            header.set_cksum();
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(row.data);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    fn pass(rows: &[Row]) -> Result<(Contents, Vec<u8>), ArchiveError> {
        let mut clean = Vec::new();
        let contents = sanitise(&archive(rows)[..], &mut clean, 1000)?;
        Ok((contents, clean))
    }

    #[test]
    fn a_tree_passes_with_owner_and_modes_made_harmless() {
        let root = Row { path: "./", ..FOLDER };
        let program = Row { mode: 0o6777, ..file("./d/p") };
        let rows = [root, FOLDER, program, file("d/f"), link("d/l", "../d/f"), link("m", "d")];
        let (contents, clean) = pass(&rows).unwrap();
        assert_eq!(contents, Contents { bytes: 8, entries: 5 });
        let mut archive = Archive::new(&clean[..]);
        let found: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
                assert_eq!(header.mtime().unwrap(), 7);
                (entry.path().unwrap().display().to_string(), header.mode().unwrap())
            })
            .collect();
        let expected = [("d", 0o755), ("d/p", 0o755), ("d/f", 0o644), ("d/l", 0o777), ("m", 0o777)];
        assert_eq!(found, expected.map(|(path, mode)| (path.to_owned(), mode)));
    }

    #[test]
    fn long_names_are_carried_over_and_endless_ones_are_not_read() {
        let long = "f".repeat(300);
        let mut builder = Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_size(4);
        header.set_mode(0o644);
        builder.append_data(&mut header, &long, &b"data"[..]).unwrap();
        let mut clean = Vec::new();
        sanitise(&builder.into_inner().unwrap()[..], &mut clean, 1000).unwrap();
        let mut archive = Archive::new(&clean[..]);
        let path = archive.entries().unwrap().next().unwrap().unwrap().path().unwrap().into_owned();
        assert_eq!(path.to_str(), Some(long.as_str()));

        let mut endless = Header::new_gnu();
        endless.set_entry_type(EntryType::GNULongName);
        endless.set_size(1 << 40);
        endless.set_cksum();
        let bytes = [endless.as_bytes().as_slice(), &[b'a'; 4096]].concat();
        let refused = sanitise(&bytes[..], io::sink(), 1000).unwrap_err();
        assert!(refused.to_string().contains("too long"), "{refused}");
    }

    #[test]
    fn hostile_entries_are_refused() {
        let odd = |kind| vec![Row { kind, ..file("x") }];
        for (what, rows) in [
            ("absolute", vec![file("/etc/passwd")]),
            ("upwards", vec![file("../x")]),
            ("upwards in the middle", vec![FOLDER, file("d/../../x")]),
            ("without its folder", vec![file("d/f")]),
            ("below a link", vec![FOLDER, link("l", "d"), file("l/f")]),
            ("below a file", vec![file("f"), file("f/g")]),
            ("twice", vec![file("f"), file("f")]),
            ("a file that becomes a link", vec![file("f"), link("f", "g")]),
            ("a folder that becomes a link", vec![FOLDER, link("d", "e")]),
            ("a link that becomes a folder", vec![link("d", "e"), FOLDER]),
            ("link to an absolute path", vec![link("l", "/etc/passwd")]),
            ("link upwards", vec![FOLDER, link("d/l", "../../x")]),
            ("link down and further up", vec![link("l", "a/../../x")]),
            ("link to nothing", vec![link("l", "")]),
            ("hard link", vec![file("f"), Row { kind: EntryType::Link, ..link("l", "f") }]),
            ("character device", odd(EntryType::Char)),
            ("block device", odd(EntryType::Block)),
            ("fifo", odd(EntryType::Fifo)),
            ("sparse file", odd(EntryType::GNUSparse)),
            ("extended header", odd(EntryType::XHeader)),
            ("global extended header", odd(EntryType::XGlobalHeader)),
            ("unknown kind", odd(EntryType::new(b'Z'))),
        ] {
            assert!(matches!(pass(&rows), Err(ArchiveError::Entry { .. })), "{what}");
        }
    }

    #[test]
    fn too_much_and_too_little_are_refused() {
        let large = Row { data: &[b'a'; 600], ..file("a") };
        let more = Row { data: &[b'a'; 600], ..file("b") };
        assert!(matches!(pass(&[large, more]), Err(ArchiveError::TooLarge(_))));
        let mut lying = Header::new_gnu();
        lying.as_old_mut().name[0] = b'a';
        lying.set_entry_type(EntryType::Regular);
        lying.set_size(u64::MAX / 2);
        lying.set_cksum();
        let refused = sanitise(&lying.as_bytes()[..], io::sink(), 1000).unwrap_err();
        assert!(matches!(refused, ArchiveError::TooLarge(_)), "{refused}");
        let whole = archive(&[Row { data: &[b'a'; 600], ..file("a") }]);
        let cut = sanitise(&whole[..700], io::sink(), 1000).unwrap_err();
        assert!(matches!(cut, ArchiveError::Io(_)), "{cut}");
    }
}
