//! `isol8 session`: the sessions of a server, programs in them, and their files.

mod copy;

use std::process::ExitCode;

use anyhow::Context as _;
use client::{Client, Session, SessionNetwork};

use super::keys::local;
use super::run::{Output, remote, until_interrupted};
use crate::args::{ExecArgs, ListArgs, NetworkArgs, RemoteArgs, RequestArgs, SessionCommand};
use crate::{credentials, printer, request, settings};

pub(crate) async fn run(command: SessionCommand) -> anyhow::Result<ExitCode> {
    match command {
        SessionCommand::List(args) => list(&args).await?,
        SessionCommand::Stop { id, remote } => {
            credentials::client(&remote, None)?.delete_session(&id).await?;
            printer::line(format!("[OK] Session \"{id}\" destroyed."));
        }
        SessionCommand::Exec(args) => return exec(*args).await,
        SessionCommand::Cp { from, to, remote } => {
            let client = credentials::client(&remote, None)?;
            return until_interrupted(copy::run(&client, &from, &to)).await;
        }
        SessionCommand::Ls { directory, json, remote } => ls(&directory, json, &remote).await?,
        SessionCommand::Rm { path, remote } => {
            let (id, path) =
                copy::session_path(&path).with_context(|| format!("\"{path}\" is not ID:/path"))?;
            credentials::client(&remote, None)?.remove_file(id, path).await?;
            printer::line(format!("[OK] Removed {path}"));
        }
        SessionCommand::Network(args) => set_network(args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(args: &ListArgs) -> anyhow::Result<()> {
    let sessions = credentials::client(&args.remote, None)?.list_sessions().await?;
    if args.json {
        printer::line(serde_json::to_string_pretty(&sessions)?);
        return Ok(());
    }
    if sessions.is_empty() {
        printer::line("[INFO] No active sessions.");
        return Ok(());
    }
    printer::line(format!("{} active session(s):", sessions.len()));
    for session in &sessions {
        let state = if session.is_active { "running" } else { "idle" };
        printer::line(format!("{}  [{state}]  last accessed: {}", session.id, last_used(session)));
    }
    Ok(())
}

fn last_used(session: &Session) -> String {
    let text = &session.last_accessed_at;
    text.parse().map_or_else(|_| text.clone(), local)
}

async fn exec(mut args: ExecArgs) -> anyhow::Result<ExitCode> {
    let client = credentials::client(&args.remote, Some(&args.id))?;
    let RequestArgs { program, url, github, gist, .. } = &mut args.request;
    let has_name = [url, github, gist].iter().any(|name| name.is_some()) || program.file.is_some();
    if program.runtime.is_none() && !has_name {
        program.runtime = runtime_of(&client, &args.id).await;
    }
    let execution = request::of_exec(&args, &settings::load()?)?;
    let output = Output::new(&args.output);
    until_interrupted(remote::run(&client, &execution, &output)).await
}

/// The runtime of a session that is open. It is not known of others, nor on isol8's own server, nor
/// to a key that may not list sessions; then the usual default holds.
async fn runtime_of(client: &Client, id: &str) -> Option<String> {
    let sessions = client.list_sessions().await.ok()?;
    let session = sessions.into_iter().find(|session| session.id == id)?;
    session.more.get("runtime")?.as_str().map(String::from)
}

async fn set_network(args: NetworkArgs) -> anyhow::Result<()> {
    let NetworkArgs { id, net, allow, deny, clear, remote } = args;
    let list = |list: Vec<String>| Some(list).filter(|list| clear || !list.is_empty());
    let change = SessionNetwork { mode: net, whitelist: list(allow), blacklist: list(deny) };
    let found = credentials::client(&remote, None)?.set_session_network(&id, &change).await?;
    printer::line(serde_json::to_string_pretty(&found)?);
    Ok(())
}

async fn ls(directory: &str, json: bool, remote: &RemoteArgs) -> anyhow::Result<()> {
    let (id, path) = copy::session_path(directory).unwrap_or((directory, "/sandbox"));
    let found = credentials::client(remote, None)?.list_files(id, path).await?;
    if json {
        printer::line(serde_json::to_string_pretty(&found)?);
        return Ok(());
    }
    for entry in &found.entries {
        let slash = if entry.kind == "directory" { "/" } else { "" };
        printer::line(format!("{} {:>12} {}{slash}", entry.mode, entry.size_bytes, entry.name));
    }
    if found.truncated {
        printer::warning("There are more entries than the server lists");
    }
    Ok(())
}
