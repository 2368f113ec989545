//! `isol8 run`: one program, on this machine or on a server.

mod local;
mod out_dir;
mod output;
pub(crate) mod remote;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::ensure;
use tokio_util::sync::CancellationToken;

use crate::args::RunArgs;
use crate::request::{self, Session};
use crate::{credentials, printer, roles, settings};
use local::Local;
pub(crate) use output::{Output, to_exit_code};

/// How long ending a run's own session may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) async fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let session = request::session(&args)?;
    let output = Output::new(&args.output);
    if let Some(host) = &args.remote.host {
        let loaded = settings::load()?;
        let execution = request::of_run(&args, &session, &loaded)?;
        let client = credentials::client(&args.remote, session.id())?;
        tracing::debug!(runtime = execution.request.runtime, %host, "running on a server");
        announce(&session);
        let outcome = until_interrupted(remote::run(&client, &execution, &output)).await;
        if let Session::Own(id) = &session {
            end_session(&client, id).await;
        }
        return outcome;
    }
    ensure!(args.request.label.is_empty(), "--label requires --host: there is one worker here");
    let loaded = settings::load_for_run()?;
    let execution = request::of_run(&args, &session, &loaded)?;
    announce(&session);
    let cancel = CancellationToken::new();
    let preparing = Local::prepare(execution, &loaded.config, args.persist, &cancel);
    let Some(local) = unless_interrupted(Box::pin(preparing)).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    let outcome = until_interrupted(Box::pin(local.run(&session, &output, &cancel))).await;
    local.end().await;
    // A removal that this process's end cuts short is nothing to warn of.
    cancel.cancel();
    outcome
}

/// Ends with the program, or with a signal, which is exit code 0. Dropping
/// the run hangs up on its sandbox or server, on which the program is ended there.
pub(crate) async fn until_interrupted(
    running: impl Future<Output = anyhow::Result<ExitCode>>,
) -> anyhow::Result<ExitCode> {
    Ok(unless_interrupted(running).await?.unwrap_or(ExitCode::SUCCESS))
}

/// What comes of `doing`, or nothing if a signal comes first.
async fn unless_interrupted<T>(
    doing: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<Option<T>> {
    tokio::select! {
        outcome = doing => outcome.map(Some),
        signalled = roles::interrupted() => {
            signalled?;
            Ok(None)
        }
    }
}

/// Not on standard output, which is the program's.
fn announce(session: &Session) {
    if let Some(id) = session.id() {
        printer::note(format!("[Run] Session ID: {id}"));
    }
}

async fn end_session(client: &client::Client, id: &str) {
    let problem = match tokio::time::timeout(STOP_TIMEOUT, client.delete_session(id)).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the server did not answer in time".into(),
    };
    printer::warning(format!("Session \"{id}\" may still be open: {problem}"));
}
