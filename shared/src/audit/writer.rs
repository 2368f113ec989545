//! The one thread that writes: it takes what waits, writes it in one go, and starts the script.

use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;

use super::Counts;
use super::file::LogFile;
use super::script::Scripts;
use crate::config::{self, AuditDestination};
use crate::error::Error;

/// Records written in one go.
const BATCH: usize = 256;

/// What the writer is told.
#[derive(Debug)]
pub(super) enum Message {
    /// A record, as a line.
    Line(Vec<u8>),
    /// Write what waits, then stop.
    Stop,
}

/// Where lines go.
pub(super) enum Sink {
    File(LogFile),
    Stdout,
}

impl Sink {
    /// Opens what `config` names.
    ///
    /// # Errors
    /// If a log file cannot be opened.
    pub(super) fn open(config: &config::Audit) -> Result<Self, Error> {
        match config.destination {
            AuditDestination::Filesystem | AuditDestination::File => {
                LogFile::open(config).map(Self::File)
            }
            AuditDestination::Stdout => Ok(Self::Stdout),
        }
    }

    /// The log, if it is a file.
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::File(file) => Some(file.path()),
            Self::Stdout => None,
        }
    }

    fn write(&mut self, lines: &[Vec<u8>]) -> std::io::Result<()> {
        match self {
            Self::File(file) => file.append(&lines.concat()),
            Self::Stdout => {
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(&marked(lines))?;
                stdout.flush()
            }
        }
    }
}

/// Lines as they are told from everything else on standard output.
pub(super) fn marked(lines: &[Vec<u8>]) -> Vec<u8> {
    lines.iter().flat_map(|line| [b"AUDIT_LOG: ", &line[..]].concat()).collect()
}

/// Writes until told to stop, or until nobody is left to record anything.
pub(super) fn write(
    mut received: mpsc::Receiver<Message>,
    mut sink: Sink,
    scripts: Option<&Scripts>,
    counts: &Counts,
) {
    let mut messages = Vec::with_capacity(BATCH);
    while received.blocking_recv_many(&mut messages, BATCH) > 0 {
        let mut lines = Vec::with_capacity(messages.len());
        for message in messages.drain(..) {
            match message {
                Message::Line(line) => lines.push(line),
                // What was recorded before is still taken out; nothing more comes in.
                Message::Stop => received.close(),
            }
        }
        let bytes: usize = lines.iter().map(Vec::len).sum();
        let written = sink.write(&lines);
        counts.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        match (written, scripts) {
            (Err(error), _) => counts.lose(lines.len() as u64, &error.to_string()),
            (Ok(()), Some(scripts)) => lines.iter().for_each(|_| scripts.run()),
            (Ok(()), None) => {}
        }
    }
}
