//! Questions about files: a child answers them as the sandbox user, in frames to pass on.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::read;

use runner::protocol::{
    DATA_CHUNK_BYTES, Directory, FileBegin, FileError, HEADER_BYTES, Header, Kind, ListDirectory,
    ReadFile, RemoveFile, parse_message, put_frame, put_message,
};

use super::{Helper, directory, refuse_processes};
use crate::link::Frame;
use crate::spawn::describe;

/// What the worker asks for.
#[derive(Debug)]
pub(crate) enum Request {
    /// The bytes of a file.
    Read(ReadFile),
    /// What is in a directory.
    List(ListDirectory),
    /// To remove a file or a directory.
    Remove(RemoveFile),
}

impl Request {
    /// The path it is about, as the worker wrote it.
    pub(crate) fn path(&self) -> &str {
        match self {
            Self::Read(request) => &request.path,
            Self::List(request) => &request.path,
            Self::Remove(request) => &request.path,
        }
    }

    /// The child's part.
    fn answer(&self, socket: &mut File, out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Read(request) => return stream_file(socket, request, out),
            Self::List(request) => {
                let directory = directory::list(&request.path)?;
                put_message(out, Kind::Directory, &directory).map_err(io::Error::other)?;
            }
            Self::Remove(request) => {
                directory::remove(&request.path)?;
                put_frame(out, Kind::Synced, b"");
            }
        }
        socket.write_all(out)
    }
}

/// One request that a child works on.
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
    /// The last frame to pass on.
    Last(Frame),
    /// An error takes the place of the last frame.
    Failed(FileError),
}

impl Reader {
    /// Forks the child that will answer.
    pub(crate) fn new(request: Request) -> io::Result<Self> {
        let path = request.path().to_owned();
        let helper = Helper::fork(move |socket| work(socket, &request))?;
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
            Ok(0) => self.lost("the process working on the file was killed"),
            Ok(count) => {
                self.helper.progressed();
                self.inbox.extend_from_slice(&chunk[..count]);
                self.buffered().unwrap_or(Step::Waiting)
            }
            Err(Errno::EAGAIN | Errno::EINTR) if self.helper.is_stalled() => {
                self.lost("the process working on the file was stopped")
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
            return Some(self.lost("the process working on the file was tampered with"));
        };
        let total = HEADER_BYTES + header.length;
        let payload = self.inbox.get(HEADER_BYTES..total)?.to_vec();
        self.inbox.drain(..total);
        let frame = Frame { kind: header.kind, payload };
        let sound = match frame.kind {
            Kind::FileError => parse_message::<FileError>(&frame.payload).is_ok(),
            Kind::Directory => parse_message::<Directory>(&frame.payload).is_ok(),
            Kind::FileBegin => parse_message::<FileBegin>(&frame.payload).is_ok(),
            Kind::FileData | Kind::FileEnd | Kind::Synced => true,
            _ => false,
        };
        Some(match frame.kind {
            _ if !sound => self.lost("the process working on the file was tampered with"),
            Kind::FileBegin | Kind::FileData => Step::Frame(frame),
            _ => Step::Last(frame),
        })
    }

    fn lost(&self, message: &str) -> Step {
        Step::Failed(self.error(message))
    }

    fn error(&self, message: &str) -> FileError {
        let (path, message) = (self.path.clone(), message.to_owned());
        FileError { path, message, errno: Errno::EIO as i32 }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.helper.kill();
    }
}

/// The working child.
fn work(mut socket: File, request: &Request) {
    let mut out = Vec::new();
    if let Err(error) = request.answer(&mut socket, &mut out) {
        let message = FileError {
            path: request.path().to_owned(),
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
    refuse_processes(&metadata)?;
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
