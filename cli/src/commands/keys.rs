//! `isol8 keys`: the API keys of a server.

use std::process::ExitCode;

use chrono::{DateTime, Local, Utc};
use client::{Key, NewKey};

use crate::args::KeysCommand;
use crate::{credentials, printer};

pub(crate) async fn run(command: KeysCommand) -> anyhow::Result<ExitCode> {
    match command {
        KeysCommand::Create { name, tenant, ttl, scope, json, remote } => {
            let client = credentials::client(&remote, None)?;
            let wanted = NewKey { name, tenant_id: tenant, ttl_ms: ttl, scopes: scope };
            let made = client.create_key(&wanted).await?;
            if json {
                printer::line(serde_json::to_string_pretty(&made)?);
            } else {
                printer::line(&made.key);
                printer::info(format!("Key {}; it is not shown again", made.id));
            }
        }
        KeysCommand::List { tenant, list } => {
            let client = credentials::client(&list.remote, None)?;
            let keys = client.list_keys(tenant.as_deref()).await?;
            if list.json {
                printer::line(serde_json::to_string_pretty(&keys)?);
            } else if keys.is_empty() {
                printer::line("[INFO] No keys.");
            } else {
                printer::line(table(&keys));
            }
        }
        KeysCommand::Revoke { id, remote } => {
            credentials::client(&remote, None)?.revoke_key(&id).await?;
            printer::line(format!("[OK] Key \"{id}\" revoked."));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn table(keys: &[Key]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["ID", "NAME", "TENANT", "KEY", "STATE", "EXPIRES", "LAST USED", "SCOPES"]);
    let now = Utc::now();
    for key in keys {
        let state = match (key.revoked, key.expires_at <= now) {
            (true, _) => "revoked",
            (false, true) => "expired",
            (false, false) => "valid",
        };
        table.add_row([
            key.id.clone(),
            key.name.clone(),
            key.tenant_id.clone(),
            key.key_prefix.clone(),
            state.into(),
            local(key.expires_at),
            key.last_used_at.map_or_else(|| "never".into(), local),
            key.scopes.join(","),
        ]);
    }
    table
}

/// A moment, for people.
pub(super) fn local(time: DateTime<Utc>) -> String {
    time.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S").to_string()
}
