//! Setup scripts: what an image or a request wants run before the program. The script's file is not left
//! where the program works: it is gone before the program starts.

use std::collections::BTreeMap;

use runner::protocol::Start;
use shared::execution::{Job, Phase};
use tokio_util::sync::CancellationToken;

use super::fault::JobError;
use super::mask::Masker;
use super::packages::Starts;
use super::program::{Order, Program, drive};
use super::run::{forwarded_bytes, queue_file};
use super::sandbox::Sandbox;
use super::{Console, EngineError, environment, files};

/// Beside the directory that scripts and programs work in, where it would be copied, packed and listed.
const SCRIPT_PATH: &str = "/tmp/.isol8-setup.sh";
/// Bytes of each stream of a failed script that its caller is told.
const SHOWN_BYTES: usize = 4096;

/// What to run before the program: the image's script, once in a session, and then the request's.
pub(super) fn scripts(sandbox: &Sandbox, job: &Job) -> Vec<String> {
    let of_image = sandbox.image_setup.clone().filter(|_| !sandbox.is_set_up);
    of_image.into_iter().chain(job.setup_script.clone()).collect()
}

/// The order to run a script.
pub(super) fn start(
    sandbox: &Sandbox,
    job: &Job,
    masker: &Masker,
    way_out: Option<&BTreeMap<String, String>>,
) -> Start {
    let packages = sandbox.packages(Starts::Shell);
    Start {
        argv: vec!["bash".into(), SCRIPT_PATH.into()],
        env: environment::of_job(&sandbox.environment, job, packages, way_out),
        cwd: "/sandbox".into(),
        timeout_ms: job.timeout_ms,
        output_limit_bytes: forwarded_bytes(job, masker),
        // What it starts in the background (a database, say) is there for the program.
        keep_background: true,
        ..Start::default()
    }
}

/// Runs a script to its end.
///
/// # Errors
/// [`EngineError::Job`] if it fails, with the end of what it wrote; the sandbox is fine then.
pub(super) async fn run(
    sandbox: &mut Sandbox,
    job: &Job,
    script: &str,
    order: Order,
    masker: &Masker,
    console: &mut Console<'_>,
    cancel: &CancellationToken,
) -> Result<(), EngineError> {
    queue_file(sandbox, SCRIPT_PATH, 0o755, script.as_bytes())?;
    let limit = job.limits.max_output_bytes;
    let program = Program {
        order,
        stdin: None,
        stdin_stays_open: false,
        phase: Phase::Setup,
        masker,
        limit_bytes: limit,
        interpreter: None,
    };
    let ended = drive(sandbox, program, console, cancel).await?;
    let exited = ended.exited;
    if !sandbox.is_lost {
        remove_script(sandbox).await?;
    }
    if exited.exit_code == 0 && !exited.killed && !exited.timed_out {
        if let Some(live) = &mut console.live {
            live.setup_ended();
        }
        return Ok(());
    }
    let stdout = ended.stdout.finish(masker, limit, exited.stdout_bytes).text;
    let stderr = ended.stderr.finish(masker, limit, exited.stderr_bytes).text;
    let output = last_words(&stdout, &stderr);
    Err(EngineError::Job(if exited.killed {
        JobError::Cancelled
    } else if exited.timed_out {
        JobError::SetupTimedOut { timeout_ms: job.timeout_ms, output }
    } else {
        JobError::SetupFailed { exit_code: exited.exit_code, output }
    }))
}

/// Removes the file of a script that has ended: as the sandbox user, so whatever the script has put in its
/// place is its own.
async fn remove_script(sandbox: &mut Sandbox) -> Result<(), EngineError> {
    match files::remove(sandbox, SCRIPT_PATH).await {
        // Scripts may remove themselves, and what is in the way of that is in nobody else's.
        Err(EngineError::Job(error)) => {
            tracing::debug!(%error, "the file of a setup script is not removed");
            Ok(())
        }
        outcome => outcome,
    }
}

/// The end of both streams, for whoever asked for the script. Standard error comes first, where callers look
/// for it; the other has a heading.
fn last_words(stdout: &str, stderr: &str) -> String {
    let (stdout, stderr) = (end_of(stdout), end_of(stderr));
    match (stderr.as_str(), stdout.as_str()) {
        (stderr, "") => stderr.to_owned(),
        ("", stdout) => format!("standard output:\n{stdout}"),
        (stderr, stdout) => format!("{stderr}\nstandard output:\n{stdout}"),
    }
}

/// The last bytes of a text, from the beginning of a line if there is one.
fn end_of(text: &str) -> String {
    let text = text.trim_end();
    let cut = text.ceil_char_boundary(text.len().saturating_sub(SHOWN_BYTES));
    if cut == 0 {
        return text.to_owned();
    }
    let end = &text[cut..];
    let end = end.split_once('\n').map_or(end, |(_, whole_lines)| whole_lines);
    format!("\u{2026}\n{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_both_streams_is_told_and_no_more() {
        assert_eq!(last_words("", "why\n"), "why");
        assert_eq!(last_words("step 1\n", ""), "standard output:\nstep 1");
        assert_eq!(last_words("step 1", "why"), "why\nstandard output:\nstep 1");
        let long: String = (0..10_000).map(|number| format!("line {number}\n")).collect();
        let shown = end_of(&long);
        assert!(shown.starts_with("\u{2026}\nline "), "{shown}");
        assert!(shown.ends_with("line 9999") && shown.len() < SHOWN_BYTES + 8, "{shown}");
        let one_line = end_of(&"\u{e9}".repeat(SHOWN_BYTES));
        assert!(one_line.len() <= SHOWN_BYTES + 4 && one_line.ends_with('\u{e9}'));
    }
}
