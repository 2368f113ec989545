//! The key that `isol8 login` keeps, and which key a command uses. Keys never
//! reach a log or the arguments of another process.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use chrono::{DateTime, Utc};
use client::Client;
use serde::{Deserialize, Serialize};

use crate::args::RemoteArgs;
use crate::{printer, settings};

/// The one server somebody is logged in to.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Credentials {
    /// The server.
    pub(crate) host: String,
    /// The key.
    pub(crate) token: String,
    /// When the key ends.
    pub(crate) expires_at: DateTime<Utc>,
    /// For revoking it.
    pub(crate) key_id: String,
}

impl Credentials {
    fn is_for(&self, host: &str) -> bool {
        without_slash(&self.host) == without_slash(host)
    }
}

fn without_slash(host: &str) -> &str {
    host.strip_suffix('/').unwrap_or(host)
}

/// Where they are kept.
pub(crate) fn path() -> anyhow::Result<PathBuf> {
    let home = settings::home().context("cannot find the home directory (HOME)")?;
    Ok(home.join(".isol8/credentials.json"))
}

/// Keeps them, readable by this user alone.
pub(crate) fn store(path: &Path, credentials: &Credentials) -> anyhow::Result<()> {
    let shown = path.display();
    let directory = path.parent().context("the file has no directory")?;
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    // Made for its owner alone, and moved into place: nobody ever sees half of it.
    let mut file = tempfile::NamedTempFile::new_in(directory)
        .with_context(|| format!("cannot write {shown}"))?;
    let text = serde_json::to_string_pretty(credentials)?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {shown}"))?;
    file.persist(path).with_context(|| format!("cannot write {shown}"))?;
    Ok(())
}

/// Forgets them; false if there are none.
pub(crate) fn remove(path: &Path) -> anyhow::Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", path.display())),
    }
}

/// What is kept, if it can be read.
fn stored() -> Option<Credentials> {
    let path = path().ok()?;
    let text = std::fs::read_to_string(&path).ok()?;
    match serde_json::from_str(&text) {
        Ok(credentials) => Some(credentials),
        Err(error) => {
            let shown = path.display();
            printer::warning(format!("{shown} is not readable ({error}); log in again"));
            None
        }
    }
}

/// The server and key a command is to use.
pub(crate) fn client(args: &RemoteArgs, session: Option<&str>) -> anyhow::Result<Client> {
    let stored = stored();
    let host = match (&args.host, &stored) {
        (Some(host), _) => host.clone(),
        (None, Some(stored)) => stored.host.clone(),
        (None, None) => bail!("Server required. Use --host URL, or log in with `isol8 login`."),
    };
    let given = args.key.clone().or_else(|| settings::variable("ISOL8_API_KEY"));
    let key = match given {
        Some(key) => key,
        None => kept_key(stored, &host)?,
    };
    Ok(Client::new(&host, &key, session.map(String::from))?)
}

fn kept_key(stored: Option<Credentials>, host: &str) -> anyhow::Result<String> {
    if let Some(stored) = stored.filter(|stored| stored.is_for(host)) {
        if stored.expires_at > Utc::now() {
            return Ok(stored.token);
        }
        printer::warning(format!(
            "The key of the last login expired on {}. Run `isol8 login --host {host}` again.",
            stored.expires_at.to_rfc3339()
        ));
    }
    bail!("API key required. Use --key, ISOL8_API_KEY env var, or `isol8 login --host {host}`.")
}
