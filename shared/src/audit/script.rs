//! `audit.postLogScript`: run after each record with the path of the log as its one argument.
//! No shell, a few at a time, each for a limited time; what fails is logged and nothing more.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Scripts running at once.
const AT_ONCE: usize = 4;
/// Runs that may wait; more are left out, and logged.
const QUEUED_RUNS: usize = 256;
/// How long one may run.
const TIME: Duration = Duration::from_secs(30);

/// Starts scripts, one for each record.
pub(super) struct Scripts {
    queue: mpsc::Sender<()>,
}

impl Scripts {
    /// Starts the task that runs `program` with `log`; it belongs to `tasks` and ends when this is
    /// dropped and what waits has run, or with `abort`.
    pub(super) fn start(
        program: &str,
        log: &Path,
        tasks: &TaskTracker,
        abort: &CancellationToken,
    ) -> Self {
        let (queue, wanted) = mpsc::channel(QUEUED_RUNS);
        let all =
            run_all(PathBuf::from(program), log.to_owned(), wanted, tasks.clone(), abort.clone());
        let abort = abort.clone();
        tasks.spawn(async move { abort.run_until_cancelled(all).await });
        Self { queue }
    }

    /// Asks for one run. Never waits.
    pub(super) fn run(&self) {
        if self.queue.try_send(()).is_err() {
            tracing::warn!("too many audit scripts are waiting: one was left out");
        }
    }
}

async fn run_all(
    program: PathBuf,
    log: PathBuf,
    mut wanted: mpsc::Receiver<()>,
    tasks: TaskTracker,
    abort: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    while wanted.recv().await.is_some() {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let mut command = Command::new(&program);
        command
            .arg(&log)
            // The master key of a server is no business of its scripts.
            .env_remove("ISOL8_API_KEY")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let abort = abort.clone();
        tasks.spawn(async move {
            let _slot = slot;
            abort.run_until_cancelled(run_one(command)).await
        });
    }
}

async fn run_one(mut command: Command) {
    let ran = tokio::time::timeout(TIME, async { command.spawn()?.wait().await });
    match ran.await {
        Ok(Ok(status)) if status.success() => {}
        Ok(Ok(status)) => tracing::warn!(%status, "audit.postLogScript failed"),
        Ok(Err(error)) => tracing::warn!(%error, "audit.postLogScript cannot be run"),
        Err(_) => {
            tracing::warn!(seconds = TIME.as_secs(), "audit.postLogScript was too slow: killed")
        }
    }
}
