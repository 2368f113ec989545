//! From flags, environment and configuration file to what a command acts on. Flags win over the
//! environment, the environment over the file, the file over the defaults.

use std::path::PathBuf;

use anyhow::Context as _;
use shared::config::{Config, Loaded, Policy, Surroundings};
use shared::sealing::SecretsKeys;

use crate::args::{ListenArgs, QueueArgs, SlotArgs};
use crate::printer;

/// The user's home directory.
pub(crate) fn home() -> Option<PathBuf> {
    std::env::home_dir().filter(|home| home.is_absolute())
}

/// The configuration that holds in the working directory.
pub(crate) fn load() -> anyhow::Result<Loaded> {
    Ok(Config::load(&surroundings()?)?)
}

/// Likewise for a run on this machine: what Docker lets its users do, we let them do, except where
/// a policy is written down.
pub(crate) fn load_for_run() -> anyhow::Result<Loaded> {
    let base = Config { policy: Policy::unlimited(), ..Config::default() };
    Ok(Config::load_over(base, &surroundings()?)?)
}

fn surroundings() -> anyhow::Result<Surroundings> {
    Ok(Surroundings {
        directory: std::env::current_dir().context("cannot read the working directory")?,
        home: home(),
        // No key of ours, and no value that could be meant, is anything but UTF-8.
        environment: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
    })
}

/// The operator's own system-call filter, if there is one.
pub(crate) fn custom_seccomp(config: &Config) -> anyhow::Result<Option<String>> {
    let Some(path) = &config.security.custom_profile_path else {
        return Ok(None);
    };
    let profile = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read security.customProfilePath {path}"))?;
    serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&profile)
        .with_context(|| format!("security.customProfilePath {path} is not a seccomp profile"))?;
    Ok(Some(profile))
}

/// An environment variable that is set and not empty.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Applies the server flags to `config`, and the keys that the environment holds.
pub(crate) fn apply_queue(config: &mut Config, args: QueueArgs) -> anyhow::Result<()> {
    if args.redis_url.is_some() {
        config.redis.url = args.redis_url;
    }
    if let Some(keys) = variable("ISOL8_SECRETS_KEY") {
        let keys = SecretsKeys::parse(&keys).context("ISOL8_SECRETS_KEY")?;
        config.redis.secrets_keys = Some(keys);
    }
    Ok(())
}

/// Applies the worker flags to `config`.
pub(crate) fn apply_slots(config: &mut Config, args: &SlotArgs) -> anyhow::Result<()> {
    config.max_concurrent = args.max_concurrent.unwrap_or(config.max_concurrent);
    config.worker.no_op |= args.no_op;
    Ok(config.validate()?)
}

/// Applies the listening flags to `config` and finds the master key.
pub(crate) fn apply_listen(config: &mut Config, args: ListenArgs) -> anyhow::Result<String> {
    let ListenArgs { port, listen, key, auth_db } = args;
    if auth_db.is_some() {
        config.auth.enabled = true;
        // Not shown: it may hold a password.
        printer::info(
            "--auth-db: keys are on; they are kept in Redis, the given database is not used",
        );
    }
    if let Some(port) = port.or_else(|| variable("ISOL8_PORT")).or_else(|| variable("PORT")) {
        config.gateway.port =
            port.parse().ok().filter(|port| *port != 0).with_context(|| {
                format!("\"{port}\" is not a port: give a number from 1 to 65535")
            })?;
    }
    config.gateway.host = listen.unwrap_or_else(|| config.gateway.host.clone());
    master_key(key)
}

/// From the flag, the variable, or the file that a variable names: a file is in no process list and
/// no `docker inspect`.
fn master_key(flag: Option<String>) -> anyhow::Result<String> {
    const REQUIRED: &str = "API key required. Use --key or ISOL8_API_KEY env var.";
    if let Some(key) = flag.or_else(|| variable("ISOL8_API_KEY")) {
        // Before anything listens: a blank one is no lock.
        anyhow::ensure!(!key.trim().is_empty(), REQUIRED);
        return Ok(key);
    }
    let path = variable("ISOL8_API_KEY_FILE").context(REQUIRED)?;
    let key = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read ISOL8_API_KEY_FILE {path}"))?;
    let key = key.trim_end_matches(['\r', '\n']);
    anyhow::ensure!(!key.trim().is_empty(), "ISOL8_API_KEY_FILE {path} is empty");
    Ok(key.to_owned())
}
