//! Files in and out of the sandbox, handled by forked children that are the sandbox user.
//!
//! The runner itself only passes frames along; it never opens a path a program could have made.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, Shutdown, SockFlag, SockType, shutdown, socketpair};
use nix::unistd::{Pid, read, write};

use runner::protocol::{
    DATA_CHUNK_BYTES, Failed, FileBegin, FileError, HEADER_BYTES, Header, Kind, ReadFile, Stage,
    parse_message, put_frame, put_message,
};

use crate::identity::{become_sandbox_user, volunteer_for_oom};
use crate::link::Frame;
use crate::spawn::{decode_failure, describe, encode_failure, failed};
use crate::sys::{self, Fork};

/// Longest time a child may make no progress before it counts as stopped by someone.
const STALL_LIMIT: Duration = Duration::from_secs(10);
/// What a writing child says when all went well.
const WRITTEN: &[u8] = b"written";

/// A forked child of the sandbox user at the other end of a socket.
struct Helper {
    pid: i32,
    socket: OwnedFd,
    progress_at: Instant,
}

impl Helper {
    /// Forks; the child runs `work` on its end of the socket and ends.
    fn fork(work: impl FnOnce(File)) -> io::Result<Self> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::Stream,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        match sys::fork()? {
            Fork::Parent(pid) => {
                fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
                Ok(Self {
                    pid,
                    socket: ours,
                    progress_at: Instant::now(),
                })
            }
            Fork::Child => {
                // Descriptor 3 alone stays: the link and other programs' pipes are not its business.
                let ready = sys::place(theirs.as_raw_fd(), 3).is_ok();
                std::mem::forget((ours, theirs));
                sys::close_from(4);
                volunteer_for_oom();
                if ready && become_sandbox_user().is_ok() {
                    work(sys::adopt(3));
                }
                sys::exit_now(0)
            }
        }
    }

    fn is_stalled(&self) -> bool {
        self.progress_at.elapsed() > STALL_LIMIT
    }

    fn kill(&self) {
        // Already gone is fine; the main loop reaps it either way.
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
    }
}

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
                    self.helper.progress_at = Instant::now();
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
    Some(Frame {
        kind: header.kind,
        payload,
    })
}

fn write_frame(
    frame: &Frame,
    current: &mut Option<(File, PathBuf)>,
) -> Result<(), (PathBuf, io::Error)> {
    match frame.kind {
        Kind::FileBegin => {
            let begin: FileBegin = parse_message(&frame.payload).map_err(|error| {
                (
                    PathBuf::new(),
                    io::Error::new(io::ErrorKind::InvalidData, error.to_string()),
                )
            })?;
            let path = Path::new("/sandbox").join(&begin.path);
            let file = create(&path, begin.mode).map_err(|error| (path.clone(), error))?;
            *current = Some((file, path));
        }
        Kind::FileData => {
            if let Some((file, path)) = current {
                file.write_all(&frame.payload)
                    .map_err(|error| (path.clone(), error))?;
            }
        }
        _ => *current = None,
    }
    Ok(())
}

fn create(path: &Path, mode: u32) -> io::Result<File> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    // Not blocking, so that a FIFO in the way is an error rather than a hang.
    let open = || {
        let flags = libc::O_NONBLOCK;
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .custom_flags(flags)
            .open(path)
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
        Ok(Self {
            helper,
            path,
            inbox: Vec::new(),
        })
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
                self.helper.progress_at = Instant::now();
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
        self.helper.progress_at = Instant::now();
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
        FileError {
            path: self.path.clone(),
            message: message.to_owned(),
            errno: errno as i32,
        }
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
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
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
    let begin = FileBegin {
        path: request.path.clone(),
        mode,
        size_bytes,
    };
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
