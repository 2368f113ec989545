//! Frames and messages on the link between worker and runner.
//!
//! A frame is an 8-byte header and a payload:
//!
//! | offset | size | meaning |
//! | --- | --- | --- |
//! | 0 | 4 | payload length, little endian, at most [`MAX_PAYLOAD_BYTES`] |
//! | 4 | 1 | kind ([`Kind`]) |
//! | 5 | 3 | zero, reserved |
//!
//! Control messages carry JSON, so an old runner in a long-lived container ignores fields it does
//! not know; program data is carried raw. One job runs at a time on a link, hence no channel
//! numbers.
//!
//! A job is one pipelined burst from the worker (`FileBegin`/`FileData`/`FileEnd` for each file,
//! then `Start`, then `Stdin`/`StdinEnd`) and a stream back (`Started`, `Stdout`, `Stderr`, then
//! exactly one of `Exited` or `Failed`). A failed file turns the following `Sync` into `FileError`, or
//! the following `Start` into `Failed`, whichever comes first; until then no further file is written.
//!
//! Beside that, a sandbox may carry connections: after [`Listen`] each connection that a program makes
//! to the runner's port is announced by `TunnelOpen`, and its bytes go both ways in `TunnelData`, within
//! a window that `TunnelCredit` renews. Their payloads are binary: the number of the connection, four
//! bytes, little endian, and what the kind calls for. A number is never used twice.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Bumped when an old peer could misread a message. Adding a field does not need it.
pub const PROTOCOL_VERSION: u32 = 1;
/// Bytes in front of each payload.
pub const HEADER_BYTES: usize = 8;
/// Largest payload; a longer length ends the link, since the peer is broken or hostile.
pub const MAX_PAYLOAD_BYTES: usize = 1 << 20;
/// Largest chunk of program data either side puts into one frame.
pub const DATA_CHUNK_BYTES: usize = 64 << 10;
/// Standard-input bytes the worker may have in flight before a [`StdinAck`] returns credit, so a
/// program that does not read its input cannot block control frames behind it.
pub const STDIN_WINDOW_BYTES: usize = 256 << 10;
/// Bytes of a connection that either side may have in flight before a `TunnelCredit` renews them, so
/// that a connection nobody reads holds up no other frame.
pub const TUNNEL_WINDOW_BYTES: usize = 64 << 10;
/// Connections that one sandbox may have open; further ones wait in the kernel.
pub const MAX_TUNNELS: usize = 256;
/// Bytes of a connection's number in front of a tunnel frame's payload.
pub const TUNNEL_ID_BYTES: usize = 4;
/// How long a living interpreter that is interrupted, by its time limit or a `Kill`, may take to give
/// in before it is killed.
pub const INTERRUPT_GRACE: Duration = Duration::from_secs(1);
/// Longest time from the killing of a program, or its end, to its `Exited`.
pub const LINGER_LIMIT: Duration = Duration::from_secs(2);

/// What a frame carries. Values are wire constants: never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    // worker → runner
    /// [`Prepare`]: keep an interpreter of this kind started ahead.
    Prepare = 1,
    /// [`FileBegin`]: opens a file to write (to the runner) or announces one read (from it).
    FileBegin = 2,
    /// Raw bytes of the open file.
    FileData = 3,
    /// Closes the open file; empty.
    FileEnd = 4,
    /// [`Start`]: run a program.
    Start = 5,
    /// Raw standard-input bytes.
    Stdin = 6,
    /// End of standard input; empty.
    StdinEnd = 7,
    /// [`Signal`]: deliver to the program's process group.
    Signal = 8,
    /// Kill everything the job started; empty. The job still ends with `Exited`.
    Kill = 9,
    /// [`ReadFile`]: answered by `FileBegin`, `FileData`*, `FileEnd`, or by `FileError`.
    ReadFile = 10,
    /// Clean up after a job and verify; empty. Answered by `ResetDone`.
    Reset = 11,
    /// [`ListDirectory`]: answered by `Directory` or `FileError`.
    ListDirectory = 12,
    /// [`RemoveFile`]: answered by `Synced` or `FileError`.
    RemoveFile = 13,
    /// Asks whether the files sent so far are written; empty. Answered by `Synced` or `FileError`.
    Sync = 14,
    /// [`Listen`]: accept connections of programs. Answered by `Listening`.
    Listen = 15,

    // both ways
    /// Bytes of a connection; never none.
    TunnelData = 32,
    /// The sender has no more bytes for a connection. One that both sides have ended is over.
    TunnelEnd = 33,
    /// A connection is over at once, whatever was on its way.
    TunnelAbort = 34,
    /// The sender has taken bytes of a connection, four bytes say how many: so much more may come.
    TunnelCredit = 35,

    // runner → worker
    /// [`Hello`]: first frame of every link.
    Hello = 64,
    /// [`Ready`]: the sandbox can take a job, and whether an interpreter waits in it.
    Ready = 65,
    /// [`Started`].
    Started = 66,
    /// Raw bytes of the program's standard output.
    Stdout = 67,
    /// Raw bytes of the program's standard error.
    Stderr = 68,
    /// [`Exited`]: the program ended; no output follows.
    Exited = 69,
    /// [`Failed`]: the program could not be started.
    Failed = 70,
    /// [`StdinAck`].
    StdinAck = 71,
    /// [`FileError`]: answer to `ReadFile`.
    FileError = 72,
    /// [`ResetDone`].
    ResetDone = 73,
    /// [`Fatal`]: the runner cannot go on and is about to exit.
    Fatal = 74,
    /// [`Directory`].
    Directory = 75,
    /// What was asked for is done; empty.
    Synced = 76,
    /// [`Listening`].
    Listening = 77,
    /// A program has opened a connection.
    TunnelOpen = 78,
}

impl Kind {
    /// The kind behind a wire byte, if this version knows it.
    #[must_use]
    pub const fn from_wire(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Prepare,
            2 => Self::FileBegin,
            3 => Self::FileData,
            4 => Self::FileEnd,
            5 => Self::Start,
            6 => Self::Stdin,
            7 => Self::StdinEnd,
            8 => Self::Signal,
            9 => Self::Kill,
            10 => Self::ReadFile,
            11 => Self::Reset,
            12 => Self::ListDirectory,
            13 => Self::RemoveFile,
            14 => Self::Sync,
            15 => Self::Listen,
            32 => Self::TunnelData,
            33 => Self::TunnelEnd,
            34 => Self::TunnelAbort,
            35 => Self::TunnelCredit,
            64 => Self::Hello,
            65 => Self::Ready,
            66 => Self::Started,
            67 => Self::Stdout,
            68 => Self::Stderr,
            69 => Self::Exited,
            70 => Self::Failed,
            71 => Self::StdinAck,
            72 => Self::FileError,
            73 => Self::ResetDone,
            74 => Self::Fatal,
            75 => Self::Directory,
            76 => Self::Synced,
            77 => Self::Listening,
            78 => Self::TunnelOpen,
            _ => return None,
        })
    }
}

impl Kind {
    /// Whether frames of this kind are about a connection.
    #[must_use]
    pub const fn is_of_tunnel(self) -> bool {
        matches!(
            self,
            Self::TunnelOpen
                | Self::TunnelData
                | Self::TunnelEnd
                | Self::TunnelAbort
                | Self::TunnelCredit
        )
    }
}

/// An interpreter to keep started ahead of the next job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpreter {
    /// A fork server: started once, forks a waiting child for each job.
    Python,
    /// A fresh process for each job, waiting in a preload script.
    Node,
    /// A fresh process for each job, waiting in a preload module.
    Deno,
}

/// Asks the runner to keep one interpreter waiting, now and after every reset.
///
/// `argv` and `env` are those of the program to stand in for: a later [`Start`] is served by the
/// waiting process only if it fits (see `Start::prepared`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepare {
    /// Which start-up file to load into it.
    pub interpreter: Interpreter,
    /// Command line it must be indistinguishable from.
    pub argv: Vec<String>,
    /// Environment it starts with; the job's own comes with [`Start`].
    pub env: BTreeMap<String, String>,
}

/// Opens a file inside the sandbox; all file work is done as the sandbox user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileBegin {
    /// Absolute path, or relative to `/sandbox`. Missing parents are created.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Bytes that will follow.
    pub size_bytes: u64,
}

/// Starts a program as the sandbox user, in its own session and process group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Program and arguments; `argv[0]` is looked up in the `PATH` of `env`.
    pub argv: Vec<String>,
    /// The whole environment of the program.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub cwd: String,
    /// Written before the program starts, by the process that becomes it (no extra fork).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<CodeFile>,
    /// Wall-clock limit; on expiry the whole tree is killed. Zero: no limit.
    pub timeout_ms: u64,
    /// Bytes of each output stream that are forwarded; the rest is drained and counted.
    pub output_limit_bytes: u64,
    /// Whether `Stdin` frames will follow. Otherwise the program reads end of file at once.
    pub stdin: bool,
    /// Whether the waiting interpreter may be used. The worker decides what fits; the runner falls
    /// back to a plain start when none waits.
    pub prepared: bool,
    /// Whether processes the program leaves behind may live on (sessions).
    pub keep_background: bool,
    /// Run `code` in the sandbox's living interpreter of this kind, which keeps its variables from
    /// call to call; it is started by the first such call. `argv` is not used then.
    ///
    /// Such a call that reaches its limit, or is killed, is interrupted first; the interpreter is
    /// killed only if it does not give in. Either way the call ends with 137. Processes of earlier
    /// calls are left alone, whatever `keep_background` says.
    ///
    /// Variables of `env` that a later call does not name again are removed, those it names with
    /// another value are set; what the code itself has set stays. `cwd` is entered by the first call
    /// and by each that names another than the call before; in between the code stays where it went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<LiveInterpreter>,
}

/// An interpreter that lives as long as its sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LiveInterpreter {
    /// `python3`.
    Python,
    /// `node`.
    Node,
    /// `bun`.
    Bun,
    /// `deno`.
    Deno,
    /// `bash`.
    Bash,
}

/// The program's own source file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeFile {
    /// Absolute path below `/sandbox`.
    pub path: String,
    /// Source text.
    pub text: String,
}

/// Delivers a signal to the program's process group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// Linux signal number.
    pub number: i32,
}

/// Asks for a file's bytes, read as the sandbox user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadFile {
    /// Absolute path, or relative to `/sandbox`. Must be a regular file.
    pub path: String,
    /// A larger file is a `FileError`.
    pub max_bytes: u64,
}

/// Asks what is in a directory, read as the sandbox user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListDirectory {
    /// Absolute path, or relative to `/sandbox`.
    pub path: String,
}

/// Removes a file, or a directory with all that is in it, as the sandbox user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveFile {
    /// Absolute path, or relative to `/sandbox`; must lie below `/sandbox` or `/tmp`.
    pub path: String,
}

/// What is in a directory, sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// As many entries as fit into a frame.
    pub entries: Vec<DirectoryEntry>,
    /// Whether there are more.
    pub truncated: bool,
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryEntry {
    /// Its name; bytes that are not UTF-8 are replaced.
    pub name: String,
    /// What it is; links are not followed.
    pub kind: EntryKind,
    /// Size of a file.
    pub size_bytes: u64,
    /// Permission bits.
    pub mode: u32,
    /// When it was last changed, in milliseconds since the epoch.
    pub modified_ms: u64,
}

/// What a directory entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Anything else.
    Other,
}

/// Asks the runner to accept connections on the sandbox's own loopback address and to carry them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    /// Where; 0 for any free port.
    pub port: u16,
}

/// First frame of every link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the runner.
    pub protocol: u32,
    /// Package version of the runner.
    pub version: String,
}

/// The sandbox can take a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Whether an interpreter is waiting. `false` after [`Prepare`] says why in `detail`.
    pub prepared: bool,
    /// Why nothing waits, for the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Whether programs can connect now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// Where.
    pub port: u16,
    /// Why not, if they cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The program is running.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Its process id inside the sandbox.
    pub pid: i32,
    /// Whether the waiting interpreter took it.
    pub prepared: bool,
    /// Whether a living interpreter was started for this call, so that nothing of earlier calls is
    /// in it. Always false without `Start::live`.
    #[serde(default)]
    pub fresh: bool,
}

/// How a program ended, with the kernel's own accounting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exited {
    /// Exit code; 128 + signal when a signal ended it; 137 on timeout and kill.
    pub exit_code: i32,
    /// The signal that ended it, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The wall-clock limit was reached.
    pub timed_out: bool,
    /// A `Kill` frame ended it.
    pub killed: bool,
    /// The living interpreter is gone, and the variables of the session with it. Always false
    /// without `Start::live`.
    #[serde(default)]
    pub state_lost: bool,
    /// The kernel's out-of-memory killer struck inside the sandbox during the job.
    pub out_of_memory: bool,
    /// From start to end of the program, in microseconds.
    pub wall_us: u64,
    /// User-mode CPU time of the program and the children it waited for, in microseconds.
    pub cpu_user_us: u64,
    /// Kernel-mode CPU time, likewise.
    pub cpu_system_us: u64,
    /// Largest resident set of any one process of the program, in bytes; of a living interpreter
    /// since its own start.
    pub peak_memory_bytes: u64,
    /// Bytes the program wrote to standard output, forwarded or not.
    pub stdout_bytes: u64,
    /// Bytes the program wrote to standard error, forwarded or not.
    pub stderr_bytes: u64,
}

/// Where a start went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// A file could not be written: disk full, not permitted, a directory in the way.
    File,
    /// The working directory could not be entered.
    Cwd,
    /// The program could not be executed.
    Exec,
    /// The sandbox ran out of processes or memory while starting it.
    Fork,
}

/// The program could not be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Which step failed.
    pub stage: Stage,
    /// The path concerned.
    pub path: String,
    /// The operating system's words.
    pub message: String,
    /// The operating system's error number.
    pub errno: i32,
}

/// Returns credit for standard input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StdinAck {
    /// Bytes the program (or the void, once it closed its input) has taken.
    pub bytes: u64,
}

/// A file could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileError {
    /// The path asked for.
    pub path: String,
    /// The operating system's words.
    pub message: String,
    /// The operating system's error number.
    pub errno: i32,
}

/// The outcome of a reset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetDone {
    /// Nothing of the job is left. `false`: the sandbox must be destroyed.
    pub verified: bool,
    /// What was left, for the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Last words of a runner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fatal {
    /// Why it cannot go on.
    pub message: String,
}

/// Why bytes could not be taken as a frame.
#[derive(Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// The payload length is above [`MAX_PAYLOAD_BYTES`].
    TooLong(usize),
    /// The kind byte is unknown to this version.
    UnknownKind(u8),
    /// A control payload is not the JSON its kind calls for.
    BadPayload(String),
}

impl std::fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLong(length) => write!(f, "frame of {length} bytes is over the limit"),
            Self::UnknownKind(kind) => write!(f, "unknown frame kind {kind}"),
            Self::BadPayload(reason) => write!(f, "bad control payload: {reason}"),
        }
    }
}

impl std::error::Error for ProtocolError {}

/// A parsed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What follows.
    pub kind: Kind,
    /// How many bytes follow.
    pub length: usize,
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// A length above the limit or an unknown kind: the link must be closed.
    pub fn parse(bytes: [u8; HEADER_BYTES]) -> Result<Self, ProtocolError> {
        let length = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        if length > MAX_PAYLOAD_BYTES {
            return Err(ProtocolError::TooLong(length));
        }
        let kind = Kind::from_wire(bytes[4]).ok_or(ProtocolError::UnknownKind(bytes[4]))?;
        Ok(Self { kind, length })
    }
}

/// The first frame of `bytes`, `None` while it is not whole. It takes up [`HEADER_BYTES`] and its payload.
///
/// # Errors
/// As [`Header::parse`].
pub fn first_frame(bytes: &[u8]) -> Result<Option<(Kind, &[u8])>, ProtocolError> {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let Header { kind, length } = Header::parse(*header)?;
    let payload = bytes.get(HEADER_BYTES..HEADER_BYTES + length);
    Ok(payload.map(|payload| (kind, payload)))
}

/// Appends a frame to `out`.
///
/// # Panics
/// If `payload` is over [`MAX_PAYLOAD_BYTES`]: senders cut data into [`DATA_CHUNK_BYTES`] and
/// bound their control messages.
pub fn put_frame(out: &mut Vec<u8>, kind: Kind, payload: &[u8]) {
    assert!(payload.len() <= MAX_PAYLOAD_BYTES, "payload over the frame limit");
    #[expect(clippy::cast_possible_truncation, reason = "bounded by the assertion above")]
    let length = payload.len() as u32;
    out.reserve(HEADER_BYTES + payload.len());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[kind as u8, 0, 0, 0]);
    out.extend_from_slice(payload);
}

/// Appends a control frame to `out`.
///
/// # Errors
/// If the message is larger than a frame can carry.
pub fn put_message<M: Serialize>(
    out: &mut Vec<u8>,
    kind: Kind,
    message: &M,
) -> Result<(), ProtocolError> {
    let payload = serde_json::to_vec(message)
        .map_err(|error| ProtocolError::BadPayload(error.to_string()))?;
    if payload.len() > MAX_PAYLOAD_BYTES {
        return Err(ProtocolError::TooLong(payload.len()));
    }
    put_frame(out, kind, &payload);
    Ok(())
}

/// Appends a frame about a connection to `out`.
///
/// # Panics
/// As [`put_frame`].
pub fn put_tunnel_frame(out: &mut Vec<u8>, kind: Kind, id: u32, rest: &[u8]) {
    let size = TUNNEL_ID_BYTES + rest.len();
    assert!(size <= MAX_PAYLOAD_BYTES, "payload over the frame limit");
    #[expect(clippy::cast_possible_truncation, reason = "bounded by the assertion above")]
    let length = size as u32;
    out.reserve(HEADER_BYTES + size);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[kind as u8, 0, 0, 0]);
    out.extend_from_slice(&id.to_le_bytes());
    out.extend_from_slice(rest);
}

/// Takes a tunnel frame's payload apart: which connection, and the rest.
///
/// # Errors
/// If it has no number.
pub fn split_tunnel_payload(payload: &[u8]) -> Result<(u32, &[u8]), ProtocolError> {
    let (id, rest) = payload
        .split_first_chunk::<TUNNEL_ID_BYTES>()
        .ok_or_else(|| ProtocolError::BadPayload("a connection without a number".to_owned()))?;
    Ok((u32::from_le_bytes(*id), rest))
}

/// Reads what a `TunnelCredit` grants, behind the number.
///
/// # Errors
/// If it is not four bytes.
pub fn parse_credit(rest: &[u8]) -> Result<usize, ProtocolError> {
    let bytes: [u8; 4] = rest
        .try_into()
        .map_err(|_| ProtocolError::BadPayload("credit is not four bytes".to_owned()))?;
    Ok(u32::from_le_bytes(bytes) as usize)
}

/// Reads a control payload.
///
/// # Errors
/// If it is not the JSON that `M` calls for.
pub fn parse_message<M: DeserializeOwned>(payload: &[u8]) -> Result<M, ProtocolError> {
    serde_json::from_slice(payload).map_err(|error| ProtocolError::BadPayload(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_round_trips_and_refuses_nonsense() {
        let mut out = Vec::new();
        put_frame(&mut out, Kind::Stdout, b"hi");
        let header = Header::parse(out[..8].try_into().unwrap()).unwrap();
        assert_eq!(header, Header { kind: Kind::Stdout, length: 2 });

        assert_eq!(Header::parse([255; 8]), Err(ProtocolError::TooLong(u32::MAX as usize)));
        assert_eq!(Header::parse([0, 0, 0, 0, 200, 0, 0, 0]), Err(ProtocolError::UnknownKind(200)));
    }

    #[test]
    fn every_kind_survives_the_wire() {
        for byte in 0..=u8::MAX {
            if let Some(kind) = Kind::from_wire(byte) {
                assert_eq!(kind as u8, byte);
            }
        }
    }

    #[test]
    fn unknown_fields_are_ignored() {
        let ready: Ready = parse_message(br#"{"prepared":true,"from_the_future":1}"#).unwrap();
        assert!(ready.prepared);
    }
}
