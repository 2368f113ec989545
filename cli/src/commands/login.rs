//! `isol8 login` and `logout`: a key of one's own instead of the master key.

use std::process::ExitCode;

use anyhow::Context as _;
use chrono::{SecondsFormat, Utc};
use client::{Client, ClientError};

use crate::args::LoginArgs;
use crate::credentials::{self, Credentials};
use crate::{printer, settings};

pub(crate) async fn login(args: LoginArgs) -> anyhow::Result<ExitCode> {
    let key = args
        .key
        .or_else(|| settings::variable("ISOL8_API_KEY"))
        .context("API key required. Use --key or ISOL8_API_KEY env var.")?;
    let now = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
    let name = args.name.unwrap_or_else(|| format!("cli-login-{now}"));
    let client = Client::new(&args.host, &key, None)?;
    let login = client.login(&name, args.ttl).await.map_err(explained)?;
    let path = credentials::path()?;
    let kept = Credentials {
        host: client.host().to_owned(),
        token: login.token,
        expires_at: login.expires_at,
        key_id: login.key_id,
    };
    credentials::store(&path, &kept)?;
    printer::line(format!("[OK] Logged in to {}", kept.host));
    printer::line(format!("Expires: {}", kept.expires_at.to_rfc3339()));
    printer::line(format!("Credentials: {}", path.display()));
    Ok(ExitCode::SUCCESS)
}

fn explained(error: ClientError) -> anyhow::Error {
    let hint = match error.status() {
        Some(400) => {
            "The server accepts its master key only. Start it with --auth-db, or set auth.enabled \
             in its configuration."
        }
        Some(401 | 403) => "Logging in takes the server's master key.",
        _ => return error.into(),
    };
    anyhow::anyhow!("{error}. {hint}")
}

pub(crate) fn logout() -> anyhow::Result<ExitCode> {
    let path = credentials::path()?;
    printer::line(if credentials::remove(&path)? {
        format!(
            "[OK] Logged out; {} is removed. The key itself lives on until it expires.",
            path.display()
        )
    } else {
        "[INFO] Not logged in.".to_owned()
    });
    Ok(ExitCode::SUCCESS)
}
