//! A job inside a sandbox, told in order: files, setup scripts, program, output files. Everything
//! up to the program's start is one burst on the link; no step waits for an answer it does not
//! need.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use runner::protocol::{CodeFile, Exited, FileBegin, Kind, LiveInterpreter, Start};
use shared::execution::{EgressPhases, Job, Phase, Source};
use shared::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::fault::JobError;
use super::files;
use super::link::{LinkError, put_data};
use super::mask::Masker;
use super::packages::Starts;
use super::program::{Interpreter, Order, Program, drive};
use super::sandbox::Sandbox;
use super::{Console, EngineError, agent, archive, environment, setup};
use crate::egress::Gate;

/// Largest output file returned inside a result, and most that all of them may hold.
const MAX_OUTPUT_FILE_BYTES: u64 = 16 << 20;
const MAX_OUTPUT_FILES_BYTES: u64 = 32 << 20;
/// Bound on fetching all of them.
const COLLECT_LIMIT: Duration = Duration::from_secs(30);
/// And on packing one directory.
const PACK_LIMIT: Duration = Duration::from_secs(15);
/// What isol8's clients look for in standard error after a timeout.
const TIMEOUT_MARKER: &str = "\n--- EXECUTION TIMED OUT ---";

/// A program that ran.
pub(super) struct Ran {
    pub(super) exited: Exited,
    pub(super) stdout: String,
    pub(super) stderr: String,
    pub(super) truncated: bool,
    /// Its session's interpreter had been started anew, and it was the first to be told.
    pub(super) state_lost: bool,
    pub(super) files: Option<BTreeMap<String, String>>,
    pub(super) setup: Duration,
    pub(super) run: Duration,
    pub(super) collect: Duration,
}

/// Runs `job` in `sandbox`; with `interpreter` as one call of a session. `way_out` is the parts of it that
/// may reach the filtered network, if the sandbox has one.
///
/// # Errors
/// [`EngineError::Job`] leaves the sandbox usable; after anything else it must be destroyed.
pub(super) async fn run(
    sandbox: &mut Sandbox,
    job: &Job,
    masker: &Masker,
    mut interpreter: Option<&mut Interpreter>,
    way_out: EgressPhases,
    console: &mut Console<'_>,
    cancel: &CancellationToken,
) -> Result<Ran, EngineError> {
    // Both before anything is queued: a job refused here leaves nothing behind on the link.
    let held = sandbox.gate().map(Gate::placeholders).unwrap_or_default();
    let (in_setup, in_run) = (way_out.setup.then_some(&held), way_out.run.then_some(&held));
    let start = program_start(sandbox, job, masker, interpreter.is_some(), in_run)?;
    let order = Order::new(&start)?;
    let scripts = setup::scripts(sandbox, job);
    let setup_order = match &scripts[..] {
        [] => None,
        _ => Some(Order::new(&setup::start(sandbox, job, masker, in_setup))?),
    };
    queue_files(sandbox, job)?;

    let started = Instant::now();
    if let Some(order) = setup_order {
        sandbox.set_way_out(way_out.setup);
        for script in scripts {
            // Boxed, so that a plain job's task is no larger for it.
            let order = order.clone();
            Box::pin(setup::run(sandbox, job, &script, order, masker, console, cancel)).await?;
            // Of two, the first is the image's.
            sandbox.is_set_up = true;
        }
    }
    let setup = started.elapsed();
    sandbox.set_way_out(way_out.run);

    let started = Instant::now();
    if let Source::Code { text, extension } = &job.source
        && start.code.is_none()
        && job.runtime != Runtime::Agent
    {
        queue_file(sandbox, &environment::code_path(extension), 0o644, text.as_bytes())?;
    }
    let program = Program {
        interpreter: interpreter.take().filter(|_| start.live.is_some()),
        order,
        stdin: job.stdin.as_ref().map(|text| Bytes::copy_from_slice(text.as_bytes())),
        stdin_stays_open: job.interactive,
        phase: Phase::Code,
        masker,
        limit_bytes: job.limits.max_output_bytes,
    };
    let ended = drive(sandbox, program, console, cancel).await?;
    let run = started.elapsed();

    let started = Instant::now();
    let files = collect_files(sandbox, job, cancel).await?;
    let collect = started.elapsed();

    let limit = job.limits.max_output_bytes;
    let stdout = ended.stdout.finish(masker, limit, ended.exited.stdout_bytes);
    let mut stderr = ended.stderr.finish(masker, limit, ended.exited.stderr_bytes);
    if ended.exited.timed_out {
        stderr.text.push_str(TIMEOUT_MARKER);
    }
    stderr.text.insert_str(0, ended.notice);
    Ok(Ran {
        truncated: stdout.truncated || stderr.truncated,
        stdout: stdout.text,
        stderr: stderr.text,
        exited: ended.exited,
        state_lost: !ended.notice.is_empty(),
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

pub(super) fn queue_file(
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

/// The runner forwards this much of each stream: the limit, and as much more as a secret across
/// the cut needs to be recognised.
pub(super) fn forwarded_bytes(job: &Job, masker: &Masker) -> u64 {
    job.limits.max_output_bytes.saturating_add(masker.longest_bytes() as u64)
}

/// The order to start the program. Without its code, the code is to be sent as a file.
fn program_start(
    sandbox: &Sandbox,
    job: &Job,
    masker: &Masker,
    is_session: bool,
    way_out: Option<&BTreeMap<String, String>>,
) -> Result<Start, JobError> {
    let mut live = None;
    let (argv, code, starts) = match &job.source {
        Source::Command { command } => {
            (vec!["bash".into(), "-c".into(), command.clone()], None, Starts::Shell)
        }
        Source::Url { .. } => return Err(JobError::NotFetched),
        Source::Code { text, .. } if job.runtime == Runtime::Agent => {
            (agent::command(text, &job.agent_flags), None, Starts::Shell)
        }
        Source::Code { text, extension } => {
            let path = environment::code_path(extension);
            let argv = job.runtime.command(&path);
            if is_session {
                live = live_interpreter(job.runtime);
            }
            if is_session || text.len() <= environment::INLINE_CODE_BYTES {
                (argv, Some(CodeFile { path, text: text.clone() }), Starts::Interpreter)
            } else {
                (argv, None, Starts::Interpreter)
            }
        }
    };
    Ok(Start {
        argv,
        code,
        env: environment::of_job(&sandbox.environment, job, sandbox.packages(starts), way_out),
        cwd: job.workdir.clone(),
        timeout_ms: job.timeout_ms,
        output_limit_bytes: forwarded_bytes(job, masker),
        stdin: job.stdin.is_some() || job.interactive,
        prepared: !is_session
            && sandbox.prepared
            && sandbox.image_setup.is_none()
            && environment::fits_prepared(job, way_out.is_some()),
        keep_background: is_session,
        live,
    })
}

/// The agent has none: each of its calls is a run of its own, on the files of those before.
fn live_interpreter(runtime: Runtime) -> Option<LiveInterpreter> {
    Some(match runtime {
        Runtime::Python => LiveInterpreter::Python,
        Runtime::Node => LiveInterpreter::Node,
        Runtime::Bun => LiveInterpreter::Bun,
        Runtime::Deno => LiveInterpreter::Deno,
        Runtime::Bash => LiveInterpreter::Bash,
        Runtime::Agent => return None,
    })
}

/// Fetches the requested files, keyed by the path as the client wrote it; a path that ends with a
/// slash is a directory, which comes as a gzipped tar. A file that cannot be
/// read, in the time and room there is, is left out, and nobody wants more once
/// the job is cancelled.
async fn collect_files(
    sandbox: &mut Sandbox,
    job: &Job,
    cancel: &CancellationToken,
) -> Result<Option<BTreeMap<String, String>>, EngineError> {
    let Some(paths) = &job.output_paths else {
        return Ok(None);
    };
    let mut found = BTreeMap::new();
    let mut room = MAX_OUTPUT_FILES_BYTES;
    let deadline = tokio::time::Instant::now() + COLLECT_LIMIT;
    for path in paths {
        // Between two files, or the rest of one would meet the next user of the link.
        if sandbox.is_lost || cancel.is_cancelled() {
            break;
        }
        let max_bytes = room.min(MAX_OUTPUT_FILE_BYTES);
        let read = async {
            if path.ends_with('/') {
                archive::read(sandbox, path, max_bytes, PACK_LIMIT, cancel).await
            } else {
                files::read(sandbox, path, max_bytes).await
            }
        };
        match tokio::time::timeout_at(deadline, read).await {
            Ok(Ok(content)) => {
                room = room.saturating_sub(content.len() as u64);
                found.insert(path.clone(), STANDARD.encode(content));
            }
            Ok(Err(EngineError::Job(error))) => tracing::debug!(%error, "no such output file"),
            Ok(Err(error)) => return Err(error),
            // The program has run and must not run again for this; but half a file is on its way.
            Err(_elapsed) => sandbox.is_lost = true,
        }
    }
    Ok(Some(found))
}
