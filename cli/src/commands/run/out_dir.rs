//! `--out-dir`: what a program has left in its sandbox, put into a directory of the user's. The
//! archive is as hostile as the program: it can name neither a place outside nor a link.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::GzDecoder;
use shared::execution::{ExecutionRequest, credential_files_below};
use shared::runtime::Runtime;
use tar::Archive;

use crate::request::WHOLE_SANDBOX;
use crate::request::files::SKIPPED_DIRECTORIES;

/// Most that an archive may hold once unpacked.
const MAX_UNPACKED_BYTES: u64 = 1 << 30;

/// Unpacks regular files below `directory`; returns how many. Left out are: what is as it was sent;
/// what `--files` would not send; hidden places at the top that nothing was sent to, as the
/// sandbox's home has settings and caches there; and files that hold credentials.
pub(super) fn unpack(
    archive: &str,
    sent: &ExecutionRequest,
    directory: &Path,
) -> anyhow::Result<usize> {
    let bytes = STANDARD.decode(archive).context("the archive of the sandbox is not base64")?;
    let limited = GzDecoder::new(bytes.as_slice()).take(MAX_UNPACKED_BYTES);
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let sent_tops: BTreeSet<&str> =
        sent.files.keys().map(|path| top(path.trim_start_matches("/sandbox/"))).collect();
    let (mut archive, mut written) = (Archive::new(limited), 0);
    for entry in archive.entries()? {
        let mut entry = entry.context("the archive of the sandbox is broken, or over 1 GiB")?;
        let Some(path) = plain(&entry.path()?).filter(|_| entry.header().entry_type().is_file())
        else {
            continue;
        };
        let name = path.to_string_lossy().into_owned();
        let is_hidden = name.starts_with('.') && !sent_tops.contains(top(&name));
        let is_ballast = path
            .components()
            .any(|part| SKIPPED_DIRECTORIES.iter().any(|skipped| part.as_os_str() == *skipped));
        // A server of today does not send them.
        let is_credential = credential_files_below(WHOLE_SANDBOX).any(|file| file == name);
        if is_hidden || is_ballast || is_credential {
            continue;
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content).context("the archive of the sandbox is over 1 GiB")?;
        if !was_sent(sent, &name, &content) {
            write(directory, &path, &content)?;
            written += 1;
        }
    }
    Ok(written)
}

/// The first part of a path.
fn top(path: &str) -> &str {
    path.split('/').next().unwrap_or_default()
}

/// A path that leads down and nowhere else.
fn plain(path: &Path) -> Option<PathBuf> {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::Normal(part) => plain.push(part),
            _ => return None,
        }
    }
    (!plain.as_os_str().is_empty()).then_some(plain)
}

/// Whether a file is still what it was when the program began.
fn was_sent(sent: &ExecutionRequest, name: &str, content: &[u8]) -> bool {
    if is_program(sent, name) {
        let is_code = sent.code.as_ref().is_some_and(|code| code.as_bytes() == content);
        if is_code || sent.code_url.is_some() {
            return true;
        }
    }
    sent.files.get(&format!("/sandbox/{name}")).is_some_and(|file| file.0.as_ref() == content)
}

/// Whether a file is the program itself: `main` and its extension.
fn is_program(sent: &ExecutionRequest, name: &str) -> bool {
    let own = Runtime::from_name(&sent.runtime).map(Runtime::default_extension);
    let extension = sent.file_extension.as_deref().or_else(|| own.ok());
    let extension = extension.map(|extension| extension.trim_start_matches('.'));
    name.strip_prefix("main.").is_some_and(|found| Some(found) == extension)
}

/// Writes a file, through no link that is in the way.
fn write(directory: &Path, path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let mut at = directory.to_owned();
    for part in path.parent().into_iter().flat_map(Path::components) {
        at.push(part);
        match std::fs::symlink_metadata(&at) {
            Ok(found) => {
                ensure!(found.is_dir(), "{} is in the way: it is no directory", at.display());
            }
            Err(_) => {
                std::fs::create_dir(&at).with_context(|| format!("cannot make {}", at.display()))?
            }
        }
    }
    let target = directory.join(path);
    if let Ok(found) = std::fs::symlink_metadata(&target) {
        ensure!(found.is_file(), "{} is in the way: it is no plain file", target.display());
    }
    std::fs::write(&target, content).with_context(|| format!("cannot write {}", target.display()))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use shared::execution::FileContent;
    use tar::{Builder, EntryType, Header};

    use super::*;

    /// Whatever a hostile `tar` could write; the paths are not checked.
    fn archive(entries: &[(&str, EntryType, &str)]) -> String {
        let mut builder = Builder::new(Vec::new());
        for (path, kind, content) in entries {
            let mut header = Header::new_gnu();
            header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o777);
            if kind.is_file() {
                header.set_size(content.len() as u64);
            } else {
                header.set_size(0);
                header.as_gnu_mut().unwrap().linkname[..content.len()]
                    .copy_from_slice(content.as_bytes());
            }
            header.set_cksum();
            let data = if kind.is_file() { content.as_bytes() } else { b"" };
            builder.append(&header, data).unwrap();
        }
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(&builder.into_inner().unwrap()).unwrap();
        STANDARD.encode(packed.finish().unwrap())
    }

    #[test]
    fn only_what_is_new_comes_out_and_only_into_the_directory() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("out");
        let content = |text: &str| FileContent(text.as_bytes().to_vec().into());
        let sent = ExecutionRequest {
            runtime: "python".into(),
            code: Some("print(1)".into()),
            files: [
                ("same.txt", "same"),
                ("other.txt", "old"),
                (".conf/a", "old"),
                (".pi/agent/models.json", "old"),
            ]
            .map(|(path, text)| (format!("/sandbox/{path}"), content(text)))
            .into(),
            ..ExecutionRequest::default()
        };
        let file = EntryType::Regular;
        let archive = archive(&[
            ("./same.txt", file, "same"),
            ("./other.txt", file, "new"),
            ("./made/deep/x", file, "x"),
            ("./main.py", file, "print(1)"),
            ("./.conf/a", file, "new"),
            ("./.cache/junk", file, "junk"),
            ("./.pi/agent/auth.json", file, "token"),
            ("./repo/.git/hooks/post-checkout", file, "evil"),
            ("../escaped", file, "evil"),
            ("/tmp/isol8-escaped", file, "evil"),
            ("./made/../../escaped", file, "evil"),
            ("./link", EntryType::Symlink, "/etc"),
            ("./hard", EntryType::Link, "/etc/passwd"),
            ("./pipe", EntryType::Fifo, ""),
        ]);
        assert_eq!(unpack(&archive, &sent, &directory).unwrap(), 3);
        let read = |path: &str| std::fs::read_to_string(directory.join(path)).unwrap();
        assert_eq!((read("other.txt"), read("made/deep/x")), ("new".into(), "x".into()));
        assert_eq!(read(".conf/a"), "new");
        let names = |at: &Path| std::fs::read_dir(at).unwrap().count();
        assert_eq!((names(&directory), names(place.path())), (3, 1));
        assert!(!Path::new("/tmp/isol8-escaped").exists());
    }

    #[test]
    fn of_a_fetched_program_only_its_own_file_stays_out() {
        let place = tempfile::tempdir().unwrap();
        let sent = ExecutionRequest {
            runtime: "python".into(),
            code_url: Some("https://example.test/a.py".into()),
            ..ExecutionRequest::default()
        };
        let file = EntryType::Regular;
        let archive = archive(&[("./main.py", file, "print(1)"), ("./main.js", file, "made")]);
        assert_eq!(unpack(&archive, &sent, place.path()).unwrap(), 1);
        assert!(place.path().join("main.js").exists());
    }

    #[test]
    fn nothing_is_written_through_a_link_that_is_there() {
        let place = tempfile::tempdir().unwrap();
        let (directory, outside) = (place.path().join("out"), place.path().join("outside"));
        std::fs::create_dir(&directory).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "kept").unwrap();
        std::os::unix::fs::symlink(&outside, directory.join("linked")).unwrap();
        std::os::unix::fs::symlink(outside.join("kept"), directory.join("file")).unwrap();
        for path in ["linked/x", "file"] {
            let archive = archive(&[(path, EntryType::Regular, "evil")]);
            let sent = ExecutionRequest::default();
            let error = unpack(&archive, &sent, &directory).unwrap_err().to_string();
            assert!(error.contains("is in the way"), "{error}");
        }
        assert_eq!(std::fs::read_to_string(outside.join("kept")).unwrap(), "kept");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
    }
}
