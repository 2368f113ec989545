//! A file out: a child opens it as the sandbox user and sends frames to pass on.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::read;

use runner::protocol::{
    DATA_CHUNK_BYTES, FileBegin, FileError, HEADER_BYTES, Header, Kind, ReadFile, parse_message,
    put_frame, put_message,
};

use super::Helper;
use crate::link::Frame;
use crate::spawn::describe;

/// One file on its way out.
pub(crate) struct Reader {
    helper: Helper,
    path: String,
    inbox: Vec<u8>,
}

/// What a step of a `Reader` brought.
pub(crate) enum Step {
    /// Nothing new.
    Waiting,
    /// A frame to pass on.
    Frame(Frame),
    /// The last frame has been passed on, or an error takes its place.
    Done(Option<FileError>),
}

impl Reader {
    /// Forks the child that will read.
    pub(crate) fn new(request: ReadFile) -> io::Result<Self> {
        let path = request.path.clone();
        let helper = Helper::fork(move |socket| read_file(socket, &request))?;
        Ok(Self { helper, path, inbox: Vec::new() })
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.helper.socket.as_fd()
    }

    /// The next frame of the child, checked: it runs as a user that hostile programs share.
    pub(crate) fn advance(&mut self) -> Step {
        if let Some(step) = self.buffered() {
            return step;
        }
        let mut chunk = vec![0; DATA_CHUNK_BYTES];
        match read(&self.helper.socket, &mut chunk) {
            Ok(0) => self.lost("the process reading the file was killed"),
            Ok(count) => {
                self.helper.progressed();
                self.inbox.extend_from_slice(&chunk[..count]);
                self.buffered().unwrap_or(Step::Waiting)
            }
            Err(Errno::EAGAIN | Errno::EINTR) if self.helper.is_stalled() => {
                self.lost("the process reading the file was stopped")
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Step::Waiting,
            Err(error) => self.lost(error.desc()),
        }
    }

    /// Grants the child time it spent waiting for the worker.
    pub(crate) fn excuse_wait(&mut self) {
        self.helper.progressed();
    }

    fn buffered(&mut self) -> Option<Step> {
        let header = Header::parse(*self.inbox.first_chunk::<HEADER_BYTES>()?);
        let Ok(header) = header else {
            return Some(self.lost("the process reading the file was tampered with"));
        };
        let total = HEADER_BYTES + header.length;
        let payload = self.inbox.get(HEADER_BYTES..total)?.to_vec();
        self.inbox.drain(..total);
        Some(match header.kind {
            Kind::FileError => Step::Done(parse_message(&payload).ok().or_else(|| {
                Some(self.error("the process reading the file was tampered with", Errno::EIO))
            })),
            Kind::FileEnd => Step::Done(None),
            kind => Step::Frame(Frame { kind, payload }),
        })
    }

    fn lost(&self, message: &str) -> Step {
        Step::Done(Some(self.error(message, Errno::EIO)))
    }

    fn error(&self, message: &str, errno: Errno) -> FileError {
        FileError { path: self.path.clone(), message: message.to_owned(), errno: errno as i32 }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.helper.kill();
    }
}

/// The reading child.
fn read_file(mut socket: File, request: &ReadFile) {
    let mut out = Vec::new();
    if let Err(error) = stream_file(&mut socket, request, &mut out) {
        let message = FileError {
            path: request.path.clone(),
            message: describe(&error),
            errno: error.raw_os_error().unwrap_or(Errno::EIO as i32),
        };
        out.clear();
        // Both can only fail if the runner is gone or has given up on us.
        let _ = put_message(&mut out, Kind::FileError, &message);
        let _ = socket.write_all(&out);
    }
}

fn stream_file(socket: &mut File, request: &ReadFile, out: &mut Vec<u8>) -> io::Result<()> {
    let path = Path::new("/sandbox").join(&request.path);
    let mut file =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::Error::from_raw_os_error(Errno::EISDIR as i32));
    }
    if !metadata.is_file() {
        return Err(io::Error::from_raw_os_error(Errno::EINVAL as i32));
    }
    let size_bytes = metadata.len();
    if size_bytes > request.max_bytes {
        return Err(io::Error::from_raw_os_error(Errno::EFBIG as i32));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    let begin = FileBegin { path: request.path.clone(), mode, size_bytes };
    put_message(out, Kind::FileBegin, &begin).map_err(io::Error::other)?;
    let mut chunk = vec![0; DATA_CHUNK_BYTES];
    // Exactly the announced number of bytes, should the file change meanwhile.
    let mut left = size_bytes;
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
        let count = file.read(&mut chunk[..wanted])?;
        if count == 0 {
            return Err(io::Error::from_raw_os_error(Errno::EAGAIN as i32));
        }
        put_frame(out, Kind::FileData, &chunk[..count]);
        socket.write_all(out)?;
        out.clear();
        left -= count as u64;
    }
    put_frame(out, Kind::FileEnd, b"");
    socket.write_all(out)
}
