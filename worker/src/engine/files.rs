//! Files of a sandbox, one at a time and piece by piece, so that a large one never lies in memory as a
//! whole. The runner does the work as the sandbox user, who may touch only what is its own.

use std::time::Duration;

use bytes::Bytes;
use runner::protocol::{
    Directory, EntryKind, FileBegin, Kind, ListDirectory, ReadFile, RemoveFile,
};
use shared::execution::FileEntry;

use super::EngineError;
use super::fault::JobError;
use super::link::{Frame, LinkError, put_data};
use super::sandbox::{Sandbox, expect, parse, within};

/// Longest silence of the runner while it works on a file.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// Permission bits that a caller may set: no set-user-id and the like.
const MODE_BITS: u32 = 0o777;
/// Longest path that Linux takes, and what it says to a longer one.
const MAX_PATH_BYTES: usize = 4096;
const NAME_TOO_LONG: i32 = 36;
/// Bytes on their way to the runner at once.
const MAX_UNSENT_BYTES: usize = 512 << 10;

/// Refuses a path that no file can have, before it makes a frame too long.
fn check(path: &str) -> Result<(), EngineError> {
    if path.len() <= MAX_PATH_BYTES {
        return Ok(());
    }
    let start: String = path.chars().take(64).collect();
    let reason = "File name too long".to_owned();
    Err(JobError::File { path: format!("{start}\u{2026}"), reason, errno: NAME_TOO_LONG }.into())
}

/// Begins to write a file; [`write_piece`] and [`end_write`] follow.
pub(super) fn begin_write(sandbox: &mut Sandbox, path: &str, mode: u32) -> Result<(), EngineError> {
    check(path)?;
    // The size may not be known yet, and the runner takes what comes.
    let size_bytes = 0;
    let begin = FileBegin { path: path.to_owned(), mode: mode & MODE_BITS, size_bytes };
    Ok(sandbox.link.queue_message(Kind::FileBegin, &begin)?)
}

/// Sends the next piece; returns when there is room for one more.
pub(super) async fn write_piece(sandbox: &mut Sandbox, piece: &[u8]) -> Result<(), EngineError> {
    let mut frames = Vec::with_capacity(piece.len() + piece.len() / 4096 + 64);
    put_data(&mut frames, Kind::FileData, piece);
    sandbox.link.queue(frames);
    let room = tokio::time::timeout(STEP_TIMEOUT, sandbox.link.make_room(MAX_UNSENT_BYTES)).await;
    Ok(room.unwrap_or(Err(LinkError::Silent("writing a file")))?)
}

/// Ends the file and tells whether all of it is written.
pub(super) async fn end_write(sandbox: &mut Sandbox) -> Result<(), EngineError> {
    sandbox.link.queue_empty(Kind::FileEnd);
    sandbox.link.queue_empty(Kind::Sync);
    let frame = answer(sandbox, "writing a file").await?;
    Ok(expect(&frame, Kind::Synced)?)
}

/// Asks for a file; [`read_piece`] follows, to its end.
pub(super) async fn begin_read(
    sandbox: &mut Sandbox,
    path: &str,
    max_bytes: u64,
) -> Result<u64, EngineError> {
    check(path)?;
    sandbox.link.queue_message(Kind::ReadFile, &ReadFile { path: path.to_owned(), max_bytes })?;
    let frame = answer(sandbox, "reading a file").await?;
    expect(&frame, Kind::FileBegin)?;
    Ok(parse::<FileBegin>(&frame)?.size_bytes)
}

/// The next piece; `None` at the end.
pub(super) async fn read_piece(sandbox: &mut Sandbox) -> Result<Option<Bytes>, EngineError> {
    let frame = answer(sandbox, "reading a file").await?;
    match frame.kind {
        Kind::FileData => Ok(Some(frame.payload)),
        Kind::FileEnd => Ok(None),
        kind => Err(LinkError::OutOfTurn(kind).into()),
    }
}

/// A whole file.
pub(super) async fn read(
    sandbox: &mut Sandbox,
    path: &str,
    max_bytes: u64,
) -> Result<Vec<u8>, EngineError> {
    begin_read(sandbox, path, max_bytes).await?;
    let mut content = Vec::new();
    while let Some(piece) = read_piece(sandbox).await? {
        content.extend_from_slice(&piece);
    }
    Ok(content)
}

/// What is in a directory, and whether there is more than fits.
pub(super) async fn list(
    sandbox: &mut Sandbox,
    path: &str,
) -> Result<(Vec<FileEntry>, bool), EngineError> {
    check(path)?;
    let list = ListDirectory { path: path.to_owned() };
    sandbox.link.queue_message(Kind::ListDirectory, &list)?;
    let frame = answer(sandbox, "listing a directory").await?;
    expect(&frame, Kind::Directory)?;
    let Directory { entries, truncated } = parse(&frame)?;
    let entries = entries.into_iter().map(|entry| FileEntry {
        name: entry.name,
        kind: match entry.kind {
            EntryKind::File => "file",
            EntryKind::Directory => "directory",
            EntryKind::Symlink => "symlink",
            EntryKind::Other => "other",
        }
        .to_owned(),
        size_bytes: entry.size_bytes,
        mode: format!("{:04o}", entry.mode & 0o7777),
        modified_ms: entry.modified_ms,
    });
    Ok((entries.collect(), truncated))
}

/// Removes a file, or a directory with all that is in it.
pub(super) async fn remove(sandbox: &mut Sandbox, path: &str) -> Result<(), EngineError> {
    check(path)?;
    sandbox.link.queue_message(Kind::RemoveFile, &RemoveFile { path: path.to_owned() })?;
    let frame = answer(sandbox, "removing a file").await?;
    Ok(expect(&frame, Kind::Synced)?)
}

/// The next frame about files. A `FileError` is the caller's business.
async fn answer(sandbox: &mut Sandbox, doing: &'static str) -> Result<Frame, EngineError> {
    loop {
        let frame = within(STEP_TIMEOUT, doing, sandbox.link.next()).await?;
        match frame.kind {
            Kind::FileError => {
                let error: runner::protocol::FileError = parse(&frame)?;
                return Err(EngineError::Job(error.into()));
            }
            // Credit of a program that has ended.
            Kind::StdinAck => {}
            _ => return Ok(frame),
        }
    }
}
