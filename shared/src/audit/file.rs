//! The log on disk. Processes may share a directory: they take turns by a lock on the file, and
//! whoever finds it full or of another day puts it aside under the time of that.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};

use crate::config;
use crate::error::{Error, ErrorCode};

/// Directory of the log unless one is configured, below the working directory.
const DEFAULT_DIRECTORY: &str = ".isol8_audit";
/// The file that is written to, and how those put aside begin.
const NAME: &str = "executions";
/// A file that has grown to this is put aside.
const MAX_BYTES: u64 = 64 << 20;
const DAY: Duration = Duration::from_secs(86_400);

/// The log file of one process.
pub(super) struct LogFile {
    path: PathBuf,
    /// Files older than this are removed; `None` keeps them.
    retention: Option<Duration>,
    max_bytes: u64,
    file: File,
}

impl LogFile {
    /// Opens the log for appending. Its directory is made if need be, for its owner alone.
    ///
    /// # Errors
    /// If the directory or the file cannot be made.
    pub(super) fn open(config: &config::Audit) -> Result<Self, Error> {
        Self::open_with(config, MAX_BYTES)
    }

    pub(super) fn open_with(config: &config::Audit, max_bytes: u64) -> Result<Self, Error> {
        let directory = config.log_dir.as_deref().unwrap_or(DEFAULT_DIRECTORY);
        let opened = std::path::absolute(directory).and_then(|directory| {
            make_directory(&directory)?;
            let path = directory.join(format!("{NAME}.log"));
            Ok((append_to(&path)?, path))
        });
        let (file, path) = opened.map_err(|error| {
            Error::new(
                ErrorCode::Internal,
                format!("Cannot open the audit log in {directory} (audit.logDir): {error}"),
            )
        })?;
        let retention = (config.retention_days > 0).then(|| DAY * config.retention_days);
        let log = Self { path, retention, max_bytes, file };
        log.remove_old();
        Ok(log)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends whole lines.
    ///
    /// # Errors
    /// If the disk refuses them.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let metadata = self.lock()?;
        let written = self.put_aside(&metadata).and_then(|()| self.write_whole(lines));
        self.file.unlock()?;
        written
    }

    /// Writes all of it or, on a full disk, nothing: half a line would spoil the next one.
    fn write_whole(&mut self, lines: &[u8]) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        let written = self.file.write_all(lines);
        if written.is_err()
            && let Err(error) = self.file.set_len(length)
        {
            tracing::warn!(%error, "the audit log ends in half a record");
        }
        written
    }

    /// Locks the file that has the name now; another process may have put ours aside.
    fn lock(&mut self) -> io::Result<Metadata> {
        loop {
            self.file.lock()?;
            let ours = self.file.metadata()?;
            let is_current = fs::symlink_metadata(&self.path)
                .is_ok_and(|named| (named.dev(), named.ino()) == (ours.dev(), ours.ino()));
            if is_current {
                return Ok(ours);
            }
            // Closing it also unlocks it.
            self.file = append_to(&self.path)?;
        }
    }

    /// Gives a file that is full, or was last written on another day, another name, and begins a
    /// new one, locked like the old one.
    fn put_aside(&mut self, metadata: &Metadata) -> io::Result<()> {
        let (last, now) = (DateTime::<Utc>::from(metadata.modified()?), Utc::now());
        let is_due = metadata.len() >= self.max_bytes || last.date_naive() != now.date_naive();
        if metadata.len() == 0 || !is_due {
            return Ok(());
        }
        let stem = format!("{NAME}-{}", now.format("%Y%m%dT%H%M%S%3fZ"));
        let free = (0..)
            .map(|number| match number {
                0 => format!("{stem}.log"),
                number => format!("{stem}-{number}.log"),
            })
            .map(|name| self.path.with_file_name(name))
            .find(|path| fs::symlink_metadata(path).is_err());
        fs::rename(&self.path, free.ok_or(io::ErrorKind::AlreadyExists)?)?;
        self.file = append_to(&self.path)?;
        self.file.lock()?;
        self.remove_old();
        Ok(())
    }

    /// Removes files of ours that are past their time. What cannot be removed is left and logged.
    fn remove_old(&self) {
        let (Some(retention), Some(directory)) = (self.retention, self.path.parent()) else {
            return;
        };
        let Some(oldest) = SystemTime::now().checked_sub(retention) else { return };
        if let Err(error) = remove_older(directory, oldest) {
            tracing::warn!(%error, directory = %directory.display(), "cannot clear old audit logs");
        }
    }
}

/// Only files with names that we give, and not the one that is written to.
fn remove_older(directory: &Path, oldest: SystemTime) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_ours = name.to_str().is_some_and(|name| {
            name.strip_prefix(NAME).is_some_and(|rest| {
                rest.starts_with('-') && (rest.ends_with(".log") || rest.ends_with(".jsonl"))
            })
        });
        // Of a link this is the link's own.
        let metadata = entry.metadata()?;
        if is_ours && metadata.is_file() && metadata.modified()? < oldest {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn make_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent() {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(directory) {
        // Two processes may start at once.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        // A link in its place is not ours to follow.
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}
