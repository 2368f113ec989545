//! Files in: frames go to a child, which answers once with how it went.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{Shutdown, shutdown};
use nix::unistd::{read, write};

use runner::protocol::{
    Failed, FileBegin, HEADER_BYTES, Header, Kind, Stage, parse_message, put_frame,
};

use super::Helper;
use crate::link::Frame;
use crate::spawn::{decode_failure, encode_failure, failed};

/// What a writing child says when all went well.
const WRITTEN: &[u8] = b"written";

/// One burst of files on its way in.
pub(crate) struct Writer {
    helper: Helper,
    pending: Vec<u8>,
    sent: usize,
    finishing: bool,
    answer: Vec<u8>,
    last_path: String,
}

impl Writer {
    /// Forks the child that will write.
    pub(crate) fn new() -> io::Result<Self> {
        let helper = Helper::fork(write_files)?;
        Ok(Self {
            helper,
            pending: Vec::new(),
            sent: 0,
            finishing: false,
            answer: Vec::new(),
            last_path: String::new(),
        })
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.helper.socket.as_fd()
    }

    /// Whether bytes wait for the child. No further frame may be taken while they do.
    pub(crate) fn is_full(&self) -> bool {
        self.sent < self.pending.len()
    }

    /// Takes a file frame.
    pub(crate) fn push(&mut self, frame: &Frame) {
        if frame.kind == Kind::FileBegin
            && let Ok(begin) = parse_message::<FileBegin>(&frame.payload)
        {
            self.last_path = begin.path;
        }
        put_frame(&mut self.pending, frame.kind, &frame.payload);
        self.advance();
    }

    /// No more files: the child is to say how it went.
    pub(crate) fn finish(&mut self) {
        self.finishing = true;
        self.advance();
    }

    /// Moves bytes to the child; returns the outcome once it is known.
    pub(crate) fn advance(&mut self) -> Option<Result<(), Failed>> {
        while self.is_full() {
            match write(&self.helper.socket, &self.pending[self.sent..]) {
                Ok(count) => {
                    self.sent += count;
                    self.helper.progressed();
                }
                Err(Errno::EAGAIN | Errno::EINTR) => break,
                Err(_) => self.sent = self.pending.len(),
            }
        }
        if self.is_full() {
            return self.helper.is_stalled().then(|| Err(self.give_up()));
        }
        self.pending.clear();
        self.sent = 0;
        if !self.finishing {
            return None;
        }
        let _ = shutdown(self.helper.socket.as_raw_fd(), Shutdown::Write);
        let mut chunk = [0; 2048];
        match read(&self.helper.socket, &mut chunk) {
            Ok(0) => Some(self.judge()),
            Ok(count) => {
                self.answer.extend_from_slice(&chunk[..count]);
                None
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {
                self.helper.is_stalled().then(|| Err(self.give_up()))
            }
            Err(_) => Some(self.judge()),
        }
    }

    fn judge(&self) -> Result<(), Failed> {
        match self.answer.as_slice() {
            WRITTEN => Ok(()),
            [] => Err(Failed {
                stage: Stage::File,
                path: self.last_path.clone(),
                message: "the process writing files was killed".to_owned(),
                errno: Errno::EIO as i32,
            }),
            answer => Err(decode_failure(answer)),
        }
    }

    fn give_up(&self) -> Failed {
        self.helper.kill();
        Failed {
            stage: Stage::File,
            path: self.last_path.clone(),
            message: "the process writing files was stopped".to_owned(),
            errno: Errno::ETIMEDOUT as i32,
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.helper.kill();
    }
}

/// The writing child: frames in, one verdict out. Goes on reading after a failure, so that the
/// worker's burst is not cut off before the verdict.
fn write_files(mut socket: File) {
    let mut verdict = WRITTEN.to_vec();
    let mut current: Option<(File, PathBuf)> = None;
    let mut sound = true;
    while let Some(frame) = read_frame(&mut socket) {
        if sound && let Err((path, error)) = write_frame(&frame, &mut current) {
            verdict = encode_failure(&failed(Stage::File, &path.to_string_lossy(), &error));
            sound = false;
        }
    }
    let _ = socket.write_all(&verdict);
}

fn read_frame(socket: &mut File) -> Option<Frame> {
    let mut header = [0; HEADER_BYTES];
    socket.read_exact(&mut header).ok()?;
    let header = Header::parse(header).ok()?;
    let mut payload = vec![0; header.length];
    socket.read_exact(&mut payload).ok()?;
    Some(Frame { kind: header.kind, payload })
}

fn write_frame(
    frame: &Frame,
    current: &mut Option<(File, PathBuf)>,
) -> Result<(), (PathBuf, io::Error)> {
    match frame.kind {
        Kind::FileBegin => {
            let begin: FileBegin = parse_message(&frame.payload).map_err(|error| {
                (PathBuf::new(), io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
            })?;
            let path = Path::new("/sandbox").join(&begin.path);
            let file = create(&path, begin.mode).map_err(|error| (path.clone(), error))?;
            *current = Some((file, path));
        }
        Kind::FileData => {
            if let Some((file, path)) = current {
                file.write_all(&frame.payload).map_err(|error| (path.clone(), error))?;
            }
        }
        _ => *current = None,
    }
    Ok(())
}

fn create(path: &Path, mode: u32) -> io::Result<File> {
    // Looked for first: a system-call filter may forbid making directories.
    if let Some(parent) = path.parent().filter(|parent| !parent.is_dir()) {
        fs::create_dir_all(parent)?;
    }
    // Not blocking, so that a FIFO in the way is an error rather than a hang.
    let open = || {
        let flags = libc::O_NONBLOCK;
        OpenOptions::new().write(true).create(true).truncate(true).custom_flags(flags).open(path)
    };
    let file = open().or_else(|error| match error.kind() {
        // A file left without write permission is ours to replace.
        io::ErrorKind::PermissionDenied => fs::remove_file(path).and_then(|()| open()),
        _ => Err(error),
    })?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::from_raw_os_error(Errno::EINVAL as i32));
    }
    file.set_permissions(fs::Permissions::from_mode(mode & 0o7777))?;
    Ok(file)
}
