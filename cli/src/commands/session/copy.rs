//! `isol8 session cp`: one file into a session or out of it, as a stream of any length.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use client::Client;
use futures_util::StreamExt as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_util::io::ReaderStream;

use crate::printer;

/// Own input or output.
const STANDARD: &str = "-";
/// A smaller file is there before a bar could be read.
const SHOWN_FROM_BYTES: u64 = 1 << 20;
/// How much is read at once.
const PIECE_BYTES: usize = 256 << 10;
/// Permission bits of what comes from nowhere else.
const DEFAULT_MODE: u32 = 0o644;
/// Standard input has no length, which the server wants to know: it is read first, up to this.
const MAX_STDIN_BYTES: u64 = 1 << 30;

/// `ID:/path` as its two parts.
pub(super) fn session_path(text: &str) -> Option<(&str, &str)> {
    let at = text.find(":/")?;
    let (id, path) = (&text[..at], &text[at + 1..]);
    (!id.is_empty() && !id.contains('/')).then_some((id, path))
}

pub(super) async fn run(client: &Client, from: &str, to: &str) -> anyhow::Result<ExitCode> {
    match (session_path(from), session_path(to)) {
        (Some((id, path)), None) => download(client, id, path, to).await?,
        (None, Some((id, path))) => upload(client, from, id, path).await?,
        (Some(_), Some(_)) => bail!("Copying from session to session goes through a local file"),
        (None, None) => bail!("Neither \"{from}\" nor \"{to}\" is in a session: write ID:/path"),
    }
    Ok(ExitCode::SUCCESS)
}

async fn upload(client: &Client, from: &str, id: &str, path: &str) -> anyhow::Result<()> {
    if from == STANDARD {
        let mut content = Vec::new();
        tokio::io::stdin()
            .take(MAX_STDIN_BYTES + 1)
            .read_to_end(&mut content)
            .await
            .context("cannot read standard input")?;
        let length = content.len() as u64;
        ensure!(length <= MAX_STDIN_BYTES, "standard input is over {MAX_STDIN_BYTES} bytes");
        let pieces = futures_util::stream::iter([Ok(Bytes::from(content))]);
        return Ok(client.upload(id, path, DEFAULT_MODE, length, pieces).await?);
    }
    let file = File::open(from).await.with_context(|| format!("cannot read {from}"))?;
    let metadata = file.metadata().await.with_context(|| format!("cannot read {from}"))?;
    ensure!(metadata.is_file(), "{from} is not a regular file; directories are not copied");
    let path = into_directory(path, Path::new(from));
    let bar = progress(Some(metadata.len()));
    let shown = bar.clone();
    let pieces = ReaderStream::with_capacity(file, PIECE_BYTES)
        .inspect(move |piece| shown.inc(piece.as_ref().map_or(0, |piece| piece.len() as u64)));
    let mode = metadata.permissions().mode();
    let done = client.upload(id, &path, mode, metadata.len(), pieces).await;
    bar.finish_and_clear();
    Ok(done?)
}

/// A path that ends in a slash is a directory, in which the file keeps its name.
fn into_directory(path: &str, file: &Path) -> String {
    match file.file_name() {
        Some(name) if path.ends_with('/') => format!("{path}{}", name.to_string_lossy()),
        _ => path.to_owned(),
    }
}

async fn download(client: &Client, id: &str, path: &str, to: &str) -> anyhow::Result<()> {
    let mut download = client.download(id, path).await?;
    let bar = progress(download.size_bytes);
    if to == STANDARD {
        let written = write_all(&mut download, &mut tokio::io::stdout(), &bar).await;
        bar.finish_and_clear();
        return written;
    }
    let target = local_target(to, path);
    let shown = target.display();
    let directory = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // Moved into place once it is whole: a broken download never looks like the file.
    let part = tempfile::Builder::new()
        .prefix(".isol8-")
        .permissions(Permissions::from_mode(DEFAULT_MODE))
        .tempfile_in(directory)
        .with_context(|| format!("cannot write {shown}"))?;
    let mut file = File::from_std(part.reopen().with_context(|| format!("cannot write {shown}"))?);
    let written = write_all(&mut download, &mut file, &bar).await;
    bar.finish_and_clear();
    written?;
    part.persist(&target).with_context(|| format!("cannot write {shown}"))?;
    Ok(())
}

/// In a directory, the file keeps its name.
fn local_target(to: &str, path: &str) -> PathBuf {
    let target = PathBuf::from(to);
    match path.rsplit('/').next().filter(|name| !name.is_empty()) {
        Some(name) if to.ends_with('/') || target.is_dir() => target.join(name),
        _ => target,
    }
}

async fn write_all(
    download: &mut client::Download,
    target: &mut (impl AsyncWrite + Unpin),
    bar: &ProgressBar,
) -> anyhow::Result<()> {
    while let Some(piece) = download.next().await {
        let piece = piece?;
        target.write_all(&piece).await.context("cannot write the file")?;
        bar.inc(piece.len() as u64);
    }
    target.flush().await.context("cannot write the file")
}

/// A bar on a terminal, for what takes a while; else nothing is drawn.
fn progress(size_bytes: Option<u64>) -> ProgressBar {
    let is_worth_it = size_bytes.is_none_or(|bytes| bytes >= SHOWN_FROM_BYTES);
    if !is_worth_it || !printer::is_error_terminal() {
        return ProgressBar::hidden();
    }
    let template = "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    let style = ProgressStyle::with_template(template).expect("the template is valid");
    ProgressBar::with_draw_target(size_bytes, ProgressDrawTarget::stderr()).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart() {
        assert_eq!(session_path("a:b:/x/y"), Some(("a:b", "/x/y")));
        for local in ["x", "/x", "./a:/b", ":/x", "a/b:/x", "C:x"] {
            assert_eq!(session_path(local), None, "{local}");
        }
    }

    #[test]
    fn a_file_keeps_its_name_in_a_directory() {
        assert_eq!(into_directory("/sandbox/", Path::new("d/a.txt")), "/sandbox/a.txt");
        assert_eq!(into_directory("/sandbox/b", Path::new("d/a.txt")), "/sandbox/b");
        let directory = tempfile::tempdir().unwrap();
        let inside = local_target(directory.path().to_str().unwrap(), "/sandbox/a.txt");
        assert_eq!(inside, directory.path().join("a.txt"));
        assert_eq!(local_target("new", "/sandbox/a.txt"), PathBuf::from("new"));
    }
}
