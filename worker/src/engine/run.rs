//! A job inside a sandbox, told in order: files, setup script, program, output files. Everything
//! up to the program's start is one burst on the link; no step waits for an answer it does not
//! need.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use runner::protocol::{
    CodeFile, Exited, Failed, FileBegin, FileError, Kind, ReadFile, STDIN_WINDOW_BYTES, Stage,
    Start, Started, StdinAck, parse_message,
};
use shared::execution::{Job, Source};
use tokio_util::sync::CancellationToken;

use super::link::{Frame, LinkError, put_data};
use super::mask::{LiveMasker, Masker};
use super::output::Collected;
use super::sandbox::Sandbox;
use super::{EngineError, Live, Phase, Stream, environment};

/// How long past its own limit a program's end may take to be reported: the runner kills on time,
/// so a longer silence means that the sandbox itself is broken.
const END_GRACE: Duration = Duration::from_millis(900);
/// Bound on fetching one output file.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest output file returned inside a result.
const MAX_OUTPUT_FILE_BYTES: u64 = 16 << 20;
const SETUP_SCRIPT_PATH: &str = "/sandbox/.isol8-setup.sh";
/// What isol8's clients look for in standard error after a timeout.
const TIMEOUT_MARKER: &str = "\n--- EXECUTION TIMED OUT ---";

/// A program that ran.
pub(super) struct Ran {
    pub(super) exited: Exited,
    pub(super) stdout: String,
    pub(super) stderr: String,
    pub(super) truncated: bool,
    pub(super) files: Option<BTreeMap<String, String>>,
    pub(super) setup: Duration,
    pub(super) run: Duration,
    pub(super) collect: Duration,
}

/// Runs `job` in `sandbox`.
///
/// # Errors
/// [`EngineError::Job`] leaves the sandbox usable; after anything else it must be destroyed.
pub(super) async fn run(
    sandbox: &mut Sandbox,
    job: &Job,
    mut live: Option<&mut (dyn Live + '_)>,
    cancel: &CancellationToken,
) -> Result<Ran, EngineError> {
    let masker = Masker::new(&job.secrets);
    queue_files(sandbox, job)?;

    let started = Instant::now();
    if let Some(script) = &job.setup_script {
        run_setup(sandbox, job, script, &masker, live.as_deref_mut(), cancel).await?;
    }
    let setup = started.elapsed();

    let started = Instant::now();
    let start = program_start(sandbox, job, &masker)?;
    let stdin = job.stdin.as_ref().map(|text| Bytes::copy_from_slice(text.as_bytes()));
    let ended = drive(sandbox, start, stdin, Phase::Code, &masker, live, cancel).await?;
    let run = started.elapsed();

    let started = Instant::now();
    let files = collect_files(sandbox, job).await?;
    let collect = started.elapsed();

    let limit = job.limits.max_output_bytes;
    let stdout = ended.stdout.finish(&masker, limit, ended.exited.stdout_bytes);
    let mut stderr = ended.stderr.finish(&masker, limit, ended.exited.stderr_bytes);
    if ended.exited.timed_out {
        stderr.text.push_str(TIMEOUT_MARKER);
    }
    Ok(Ran {
        truncated: stdout.truncated || stderr.truncated,
        stdout: stdout.text,
        stderr: stderr.text,
        exited: ended.exited,
        files,
        setup,
        run,
        collect,
    })
}

fn queue_files(sandbox: &mut Sandbox, job: &Job) -> Result<(), LinkError> {
    for file in &job.files {
        queue_file(sandbox, &file.path, 0o644, &file.content.0)?;
    }
    Ok(())
}

fn queue_file(
    sandbox: &mut Sandbox,
    path: &str,
    mode: u32,
    content: &[u8],
) -> Result<(), LinkError> {
    let begin = FileBegin { path: path.to_owned(), mode, size_bytes: content.len() as u64 };
    sandbox.link.queue_message(Kind::FileBegin, &begin)?;
    let mut data = Vec::with_capacity(content.len() + content.len() / 4096 + 64);
    put_data(&mut data, Kind::FileData, content);
    sandbox.link.queue(data);
    sandbox.link.queue_empty(Kind::FileEnd);
    Ok(())
}

async fn run_setup(
    sandbox: &mut Sandbox,
    job: &Job,
    script: &str,
    masker: &Masker,
    live: Option<&mut (dyn Live + '_)>,
    cancel: &CancellationToken,
) -> Result<(), EngineError> {
    queue_file(sandbox, SETUP_SCRIPT_PATH, 0o755, script.as_bytes())?;
    let start = Start {
        argv: vec!["bash".into(), SETUP_SCRIPT_PATH.into()],
        env: environment::of_job(&sandbox.environment, job),
        cwd: "/sandbox".into(),
        timeout_ms: job.timeout_ms,
        output_limit_bytes: forwarded_bytes(job, masker),
        // What it starts in the background (a database, say) is there for the program.
        keep_background: true,
        ..Start::default()
    };
    let ended = drive(sandbox, start, None, Phase::Setup, masker, live, cancel).await?;
    let exited = ended.exited;
    if exited.exit_code == 0 && !exited.killed && !exited.timed_out {
        return Ok(());
    }
    let limit = job.limits.max_output_bytes;
    let stderr = ended.stderr.finish(masker, limit, exited.stderr_bytes).text;
    Err(EngineError::Job(if exited.killed {
        JobError::Cancelled
    } else if exited.timed_out {
        JobError::SetupTimedOut { timeout_ms: job.timeout_ms }
    } else {
        JobError::SetupFailed { exit_code: exited.exit_code, stderr }
    }))
}

/// What went wrong with the job itself; the sandbox is fine.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The setup script ended with another code than 0.
    #[error("Setup script failed (exit code {exit_code}): {stderr}")]
    SetupFailed {
        /// Its exit code.
        exit_code: i32,
        /// What it wrote to standard error.
        stderr: String,
    },
    /// The setup script took too long.
    #[error("Setup script failed (exit code 137): SETUP SCRIPT TIMED OUT after {timeout_ms} ms")]
    SetupTimedOut {
        /// The limit.
        timeout_ms: u64,
    },
    /// A file could not be written.
    #[error("Failed to write file {path} in container (exit code 1): {reason}")]
    FileWrite {
        /// Its path.
        path: String,
        /// The operating system's words.
        reason: String,
    },
    /// The working directory cannot be entered.
    #[error(
        "Working directory {path} cannot be entered: {reason}. Create it with `files` or a setup script."
    )]
    Workdir {
        /// Its path.
        path: String,
        /// The operating system's words.
        reason: String,
    },
    /// The program cannot be executed.
    #[error("{program} cannot be started in this image: {reason}")]
    Exec {
        /// What was to be started.
        program: String,
        /// The operating system's words.
        reason: String,
    },
    /// The limits leave no room to start anything.
    #[error(
        "The program cannot be started within its limits: {reason}. Raise pidsLimit or memoryLimit."
    )]
    Limits {
        /// The operating system's words.
        reason: String,
    },
    /// Cancelled before the program ran.
    #[error("The job was cancelled")]
    Cancelled,
}

impl From<Failed> for JobError {
    fn from(failed: Failed) -> Self {
        let Failed { stage, path, message: reason, .. } = failed;
        match stage {
            Stage::File => Self::FileWrite { path, reason },
            Stage::Cwd => Self::Workdir { path, reason },
            Stage::Exec => Self::Exec { program: path, reason },
            Stage::Fork => Self::Limits { reason },
        }
    }
}

/// The runner forwards this much of each stream: the limit, and as much more as a secret across
/// the cut needs to be recognised.
fn forwarded_bytes(job: &Job, masker: &Masker) -> u64 {
    job.limits.max_output_bytes.saturating_add(masker.longest_bytes() as u64)
}

fn program_start(sandbox: &mut Sandbox, job: &Job, masker: &Masker) -> Result<Start, LinkError> {
    let (argv, code) = match &job.source {
        Source::Command { command } => (vec!["bash".into(), "-c".into(), command.clone()], None),
        Source::Code { text, extension } => {
            let path = environment::code_path(extension);
            let argv = job.runtime.command(&path);
            if text.len() <= environment::INLINE_CODE_BYTES {
                (argv, Some(CodeFile { path, text: text.clone() }))
            } else {
                queue_file(sandbox, &path, 0o644, text.as_bytes())?;
                (argv, None)
            }
        }
    };
    Ok(Start {
        argv,
        code,
        env: environment::of_job(&sandbox.environment, job),
        cwd: job.workdir.clone(),
        timeout_ms: job.timeout_ms,
        output_limit_bytes: forwarded_bytes(job, masker),
        stdin: job.stdin.is_some(),
        prepared: sandbox.prepared && environment::fits_prepared(job),
        keep_background: false,
    })
}

/// A program's end and what it wrote.
struct Ended {
    exited: Exited,
    stdout: Collected,
    stderr: Collected,
}

/// Starts a program and follows it to its end.
async fn drive(
    sandbox: &mut Sandbox,
    start: Start,
    stdin: Option<Bytes>,
    phase: Phase,
    masker: &Masker,
    live: Option<&mut (dyn Live + '_)>,
    cancel: &CancellationToken,
) -> Result<Ended, EngineError> {
    let deadline =
        tokio::time::Instant::now() + Duration::from_millis(start.timeout_ms) + END_GRACE;
    sandbox.link.queue_message(Kind::Start, &start)?;
    let mut input = Input::new(stdin);
    input.feed(sandbox);
    let mut output = Output::new(masker, phase, live);
    let mut is_cancelled = false;
    loop {
        let frame = tokio::select! {
            biased;
            frame = sandbox.link.next() => frame?,
            () = cancel.cancelled(), if !is_cancelled => {
                is_cancelled = true;
                sandbox.link.queue_empty(Kind::Kill);
                continue;
            }
            () = tokio::time::sleep_until(deadline) => {
                return Err(LinkError::Silent("running a program").into());
            }
        };
        match frame.kind {
            Kind::Stdout => output.push(Stream::Stdout, &frame.payload),
            Kind::Stderr => output.push(Stream::Stderr, &frame.payload),
            Kind::StdinAck => {
                let ack: StdinAck = parse(&frame)?;
                input.credit(ack.bytes);
                input.feed(sandbox);
            }
            Kind::Started => {
                let started: Started = parse(&frame)?;
                tracing::trace!(pid = started.pid, prepared = started.prepared, "started");
            }
            Kind::Exited => {
                let exited = parse(&frame)?;
                let (stdout, stderr) = output.end();
                return Ok(Ended { exited, stdout, stderr });
            }
            Kind::Failed => {
                let failed: Failed = parse(&frame)?;
                return Err(EngineError::Job(failed.into()));
            }
            kind => return Err(LinkError::OutOfTurn(kind).into()),
        }
    }
}

/// Standard input on its way, within the window the runner grants.
struct Input {
    rest: Option<Bytes>,
    window: usize,
}

impl Input {
    fn new(text: Option<Bytes>) -> Self {
        Self { rest: text, window: STDIN_WINDOW_BYTES }
    }

    fn credit(&mut self, bytes: u64) {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.window = self.window.saturating_add(bytes).min(STDIN_WINDOW_BYTES);
    }

    fn feed(&mut self, sandbox: &mut Sandbox) {
        let Some(rest) = &mut self.rest else { return };
        let chunk = rest.split_to(rest.len().min(self.window));
        self.window -= chunk.len();
        let mut frames = Vec::new();
        put_data(&mut frames, Kind::Stdin, &chunk);
        sandbox.link.queue(frames);
        if rest.is_empty() {
            sandbox.link.queue_empty(Kind::StdinEnd);
            self.rest = None;
        }
    }
}

/// Both output streams: collected for the result, and shown as they come to whoever watches.
struct Output<'a> {
    stdout: Collected,
    stderr: Collected,
    live: Option<Watched<'a>>,
}

struct Watched<'a> {
    live: &'a mut (dyn Live + 'a),
    phase: Phase,
    stdout: LiveMasker<'a>,
    stderr: LiveMasker<'a>,
}

impl<'a> Output<'a> {
    fn new(masker: &'a Masker, phase: Phase, live: Option<&'a mut (dyn Live + '_)>) -> Self {
        Self {
            stdout: Collected::default(),
            stderr: Collected::default(),
            live: live.map(|live| Watched {
                live,
                phase,
                stdout: LiveMasker::new(masker),
                stderr: LiveMasker::new(masker),
            }),
        }
    }

    fn push(&mut self, stream: Stream, chunk: &Bytes) {
        if let Some(Watched { live, phase, stdout, stderr }) = &mut self.live {
            let masker = match stream {
                Stream::Stdout => stdout,
                Stream::Stderr => stderr,
            };
            let shown = masker.feed(chunk);
            if !shown.is_empty() {
                live.output(*phase, stream, &shown);
            }
        }
        match stream {
            Stream::Stdout => self.stdout.push(chunk),
            Stream::Stderr => self.stderr.push(chunk),
        }
    }

    fn end(self) -> (Collected, Collected) {
        if let Some(Watched { live, phase, stdout, stderr }) = self.live {
            for (stream, masker) in [(Stream::Stdout, stdout), (Stream::Stderr, stderr)] {
                let shown = masker.end();
                if !shown.is_empty() {
                    live.output(phase, stream, &shown);
                }
            }
        }
        (self.stdout, self.stderr)
    }
}

/// Fetches the requested files, keyed by the path as the client wrote it. A file that cannot be
/// read is left out (contract section 5.7).
async fn collect_files(
    sandbox: &mut Sandbox,
    job: &Job,
) -> Result<Option<BTreeMap<String, String>>, EngineError> {
    let Some(paths) = &job.output_paths else {
        return Ok(None);
    };
    let mut files = BTreeMap::new();
    for path in paths {
        let read = ReadFile { path: path.clone(), max_bytes: MAX_OUTPUT_FILE_BYTES };
        sandbox.link.queue_message(Kind::ReadFile, &read)?;
        let fetched = tokio::time::timeout(READ_TIMEOUT, receive_file(sandbox)).await;
        match fetched.unwrap_or(Err(LinkError::Silent("reading a file")))? {
            Ok(content) => {
                files.insert(path.clone(), STANDARD.encode(content));
            }
            Err(error) => tracing::debug!(path, reason = error.message, "no such output file"),
        }
    }
    Ok(Some(files))
}

async fn receive_file(sandbox: &mut Sandbox) -> Result<Result<Vec<u8>, FileError>, LinkError> {
    let mut content = Vec::new();
    loop {
        let frame = sandbox.link.next().await?;
        match frame.kind {
            Kind::FileBegin => {}
            Kind::FileData => content.extend_from_slice(&frame.payload),
            Kind::FileEnd => return Ok(Ok(content)),
            Kind::FileError => return Ok(Err(parse(&frame)?)),
            kind => return Err(LinkError::OutOfTurn(kind)),
        }
    }
}

fn parse<M: serde::de::DeserializeOwned>(frame: &Frame) -> Result<M, LinkError> {
    parse_message(&frame.payload).map_err(LinkError::from)
}
