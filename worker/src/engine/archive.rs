//! A directory of a sandbox as one file: packed inside, by the sandbox's own user and with the image's
//! own `tar`, then read like any other file. Files that hold credentials stay inside.

use std::time::Duration;

use runner::protocol::Start;
use shared::execution::{Phase, credential_files_below};
use tokio_util::sync::CancellationToken;

use super::fault::JobError;
use super::mask::Masker;
use super::program::{Order, Program, drive};
use super::sandbox::Sandbox;
use super::{Console, EngineError, files};

/// Where the archive is while it is read. In the program's reach, as the directory is.
const ARCHIVE: &str = "/tmp/.isol8-output.tar.gz";
/// What `tar` says of files that changed while it read them.
const CHANGED: i32 = 1;
/// Kept of what it has to complain about.
const COMPLAINT_BYTES: u64 = 1024;

/// The directory at `path`, as a gzipped tar of at most `max_bytes`. What cannot be read is not in it.
pub(super) async fn read(
    sandbox: &mut Sandbox,
    path: &str,
    max_bytes: u64,
    limit: Duration,
    cancel: &CancellationToken,
) -> Result<Vec<u8>, EngineError> {
    let packed = pack(sandbox, path, limit, cancel).await;
    let read = match packed {
        Ok(()) => files::read(sandbox, ARCHIVE, max_bytes).await,
        Err(error) => Err(error),
    };
    match files::remove(sandbox, ARCHIVE).await {
        // Often there is none: then the packing has failed, and that is what is told.
        Ok(()) | Err(EngineError::Job(_)) => read,
        Err(error) => Err(error),
    }
}

async fn pack(
    sandbox: &mut Sandbox,
    path: &str,
    limit: Duration,
    cancel: &CancellationToken,
) -> Result<(), EngineError> {
    let directory = format!("--directory={path}");
    let archive = format!("--file={ARCHIVE}");
    let left_out = credential_files_below(path).map(|file| format!("--exclude=./{file}"));
    let words = ["tar", "--create", "--gzip", &archive, "--ignore-failed-read"].map(String::from);
    let order = Order::new(&Start {
        argv: words.into_iter().chain(left_out).chain([directory, ".".to_owned()]).collect(),
        env: sandbox.environment.clone(),
        cwd: "/sandbox".into(),
        timeout_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1),
        output_limit_bytes: COMPLAINT_BYTES,
        // A session's background processes are not this one's.
        keep_background: true,
        ..Start::default()
    })?;
    let masker = Masker::of_values(std::iter::empty());
    let program = Program {
        order,
        stdin: None,
        stdin_stays_open: false,
        phase: Phase::Code,
        masker: &masker,
        limit_bytes: COMPLAINT_BYTES,
        interpreter: None,
    };
    let ended = drive(sandbox, program, &mut Console::default(), cancel).await?;
    let exited = ended.exited;
    if matches!(exited.exit_code, 0 | CHANGED) && !exited.killed && !exited.timed_out {
        return Ok(());
    }
    let complaint = ended.stderr.finish(&masker, COMPLAINT_BYTES, exited.stderr_bytes).text;
    Err(JobError::File { path: path.to_owned(), reason: complaint, errno: 0 }.into())
}
