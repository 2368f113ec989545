//! `isol8 doctor`: looks whether this machine is fit to run sandboxes, and says how to mend what is
//! not. It changes nothing.

mod docker;
mod host;
mod redis;

use std::process::ExitCode;

use serde::Serialize;
use shared::config::Config;

use crate::args::DoctorArgs;
use crate::{printer, settings};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// As it should be.
    Ok,
    /// It works, but less well or less safely.
    Warn,
    /// Sandboxes cannot run.
    Fail,
}

/// One finding.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    state: State,
    /// What was found.
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: State::Ok, found: found.into(), mend: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { name, state: State::Warn, found: found.into(), mend: Some(mend.into()) }
    }

    fn fail(name: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { name, state: State::Fail, found: found.into(), mend: Some(mend.into()) }
    }
}

pub(crate) async fn run(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let mut checks = Vec::new();
    let mut config = match settings::load() {
        Ok(loaded) => {
            let from = loaded.source.map_or_else(
                || "defaults (no config file found)".into(),
                |path| path.display().to_string(),
            );
            checks.push(Check::ok("configuration", from));
            loaded.config
        }
        Err(error) => {
            let mend = "correct it; `isol8 config --schema` describes every key";
            checks.push(Check::fail("configuration", format!("{error:#}"), mend));
            Config::default()
        }
    };
    if let Err(error) = settings::apply_queue(&mut config, args.queue) {
        let mend = "give 32 bytes in base64, or a file with redis.secretsKeyFile";
        checks.push(Check::fail("secrets", format!("{error:#}"), mend));
    }
    checks.extend(docker::checks().await);
    checks.extend(redis::checks(&config.redis, args.data_dir).await);
    checks.push(redis::secrets(&config.redis));
    checks.extend(host::checks());
    show(&checks, args.json)?;
    let is_fit = checks.iter().all(|check| check.state != State::Fail);
    Ok(if is_fit { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(checks: &[Check], json: bool) -> anyhow::Result<()> {
    if json {
        printer::line(serde_json::to_string_pretty(checks)?);
        return Ok(());
    }
    for Check { name, state, found, mend } in checks {
        let word = match state {
            State::Ok => "OK  ",
            State::Warn => "WARN",
            State::Fail => "FAIL",
        };
        printer::line(format!("{word}  {name}: {found}"));
        if let Some(mend) = mend {
            printer::line(format!("      -> {mend}"));
        }
    }
    Ok(())
}
