//! From the flags of a command that runs a program to what is sent to a server, or run here. Only
//! what was asked for is sent, by a flag or in a configuration: all else is the server's choice.

pub(crate) mod files;
mod program;
#[cfg(test)]
mod tests;
mod webhook;

pub(crate) use webhook::webhook;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use client::Execution;
use serde_json::{Map, json};
use shared::config::Loaded;
use shared::execution::{
    BoundSecret, ExecutionOptions, ExecutionRequest, FilterOptions, Network, NetworkChoice,
    SecretOption, Wish,
};
use shared::isolation::Isolation;
use shared::labels::Labels;

use crate::args::{ExecArgs, OutputArgs, ProgramArgs, RequestArgs, RunArgs};

/// All that a program leaves, as one archive.
pub(crate) const WHOLE_SANDBOX: &str = "/sandbox/";

/// What an agent gets unless told otherwise.
const AGENT: &str = "agent";
const AGENT_PIDS: i64 = 200;
const AGENT_SANDBOX_SIZE: &str = "2g";

/// The session of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Session {
    /// None: a sandbox of its own.
    None,
    /// One that ends with the run.
    Own(String),
    /// One that was there before, or stays.
    Named(String),
}

impl Session {
    pub(crate) fn id(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Own(id) | Self::Named(id) => Some(id),
        }
    }
}

/// The session that the flags of `run` ask for.
pub(crate) fn session(args: &RunArgs) -> anyhow::Result<Session> {
    if let Some(id) = &args.session_id {
        ensure!(args.remote.host.is_some(), "--session-id requires --host");
        return Ok(Session::Named(id.clone()));
    }
    if !args.persistent {
        return Ok(Session::None);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Session::Own(format!("cli-{}", now.as_millis())))
}

/// The request of `run`.
pub(crate) fn of_run(
    args: &RunArgs,
    session: &Session,
    loaded: &Loaded,
) -> anyhow::Result<Execution> {
    let mut execution = of_request(&args.request, session, loaded)?;
    take_out(&mut execution, &args.output);
    if args.persist {
        execution.more_options.insert("persist".into(), json!(true));
    }
    Ok(execution)
}

/// The request of `session exec`.
pub(crate) fn of_exec(args: &ExecArgs, loaded: &Loaded) -> anyhow::Result<Execution> {
    let session = Session::Named(args.id.clone());
    let mut execution = of_request(&args.request, &session, loaded)?;
    take_out(&mut execution, &args.output);
    Ok(execution)
}

/// What the program leaves is to come back, if there is a place for it.
fn take_out(execution: &mut Execution, output: &OutputArgs) {
    let paths = output.out_dir.as_ref().map(|_| vec![WHOLE_SANDBOX.to_owned()]);
    execution.request.output_paths = paths;
}

/// The request of any command that runs a program.
pub(crate) fn of_request(
    args: &RequestArgs,
    session: &Session,
    loaded: &Loaded,
) -> anyhow::Result<Execution> {
    let program = program::of_request(args)?;
    let options = options(args, loaded, program.runtime == AGENT)?;
    let program::Program { runtime, code, code_url, cmd, extension } = program;
    let request = ExecutionRequest {
        runtime,
        code,
        code_url,
        cmd,
        file_extension: extension,
        env: pairs("--env", &args.program.env)?,
        stdin: args.program.stdin.clone(),
        workdir: args.program.workdir.clone(),
        timeout_ms: options.timeout_ms,
        code_hash: args.hash.clone(),
        agent_flags: args.agent_flags.clone(),
        allow_insecure_code_url: args.allow_insecure_code_url,
        files: args.files.as_deref().map(files::read).transpose()?.unwrap_or_default(),
        setup_script: setup_script(&args.setup)?,
        install_packages: args.install.clone(),
        ..ExecutionRequest::default()
    };
    // What isol8's own server reads, and ours not.
    let mode = if session.id().is_some() { "persistent" } else { "ephemeral" };
    let more_options = Map::from_iter([("mode".to_owned(), json!(mode))]);
    let session_id = session.id().map(String::from);
    let queue = labels(&args.label)?.map(|labels| Wish { labels: Some(labels), ..Wish::default() });
    Ok(Execution { request, options, more_options, session_id, queue, ..Execution::default() })
}

fn options(
    args: &RequestArgs,
    loaded: &Loaded,
    is_agent: bool,
) -> anyhow::Result<ExecutionOptions> {
    let defaults = &loaded.config.defaults;
    let text = |flag: &Option<String>, key: &str, configured: &String| {
        flag.clone().or_else(|| is_written(loaded, key).then(|| configured.clone()))
    };
    let timeout_ms = is_written(loaded, "defaults.timeoutMs").then_some(defaults.timeout_ms);
    let cpu_limit = is_written(loaded, "defaults.cpuLimit").then_some(defaults.cpu_limit);
    let (agent_pids, agent_room) =
        if is_agent { (Some(AGENT_PIDS), Some(AGENT_SANDBOX_SIZE)) } else { (None, None) };
    Ok(ExecutionOptions {
        network: network(args, loaded)?.map(NetworkChoice::Always),
        network_filter: network_filter(args, loaded),
        log_network: args.log_network,
        isolation: isolation(args, loaded)?,
        memory_limit: text(&args.memory, "defaults.memoryLimit", &defaults.memory_limit),
        cpu_limit: args.cpu.or(cpu_limit),
        pids_limit: args.pids_limit.or(agent_pids),
        readonly_root_fs: is_written(loaded, "defaults.readonlyRootFs")
            .then_some(defaults.readonly_root_fs),
        max_output_size: args.max_output,
        secrets: secrets(&args.program)?,
        timeout_ms: args.program.timeout.or(timeout_ms),
        image: args.image.clone(),
        sandbox_size: text(&args.sandbox_size, "defaults.sandboxSize", &defaults.sandbox_size)
            .or_else(|| agent_room.map(String::from)),
        tmp_size: text(&args.tmp_size, "defaults.tmpSize", &defaults.tmp_size),
        ..ExecutionOptions::default()
    })
}

/// The isolation asked for.
fn isolation(args: &RequestArgs, loaded: &Loaded) -> anyhow::Result<Option<Isolation>> {
    let Some(name) = &args.isolation else {
        let configured = loaded.config.defaults.isolation;
        return Ok(is_written(loaded, "defaults.isolation").then_some(configured));
    };
    let found = Isolation::from_name(name);
    let known = || format!("unknown isolation \"{name}\": use container, gvisor or kata");
    found.map(Some).with_context(known)
}

/// The labels that flags name; `None` without any.
///
/// # Errors
/// If one is none.
pub(crate) fn labels(flags: &[String]) -> anyhow::Result<Option<Labels>> {
    let named = || format!("--label {}", flags.join(" --label "));
    (!flags.is_empty()).then(|| flags.join(",").parse().with_context(named)).transpose()
}

/// Whether somebody wrote a value into the configuration.
fn is_written(loaded: &Loaded, path: &str) -> bool {
    loaded.sources.contains_key(path)
}

/// Flags, each kind in place of what is configured.
fn network_filter(args: &RequestArgs, loaded: &Loaded) -> Option<FilterOptions> {
    let rules = |flags: &[String], path, configured: &[String]| match flags {
        [] => is_written(loaded, path).then(|| configured.to_vec()),
        flags => Some(flags.to_vec()),
    };
    let configured = &loaded.config.network;
    let allow = rules(&args.allow, "network.whitelist", &configured.whitelist);
    let deny = rules(&args.deny, "network.blacklist", &configured.blacklist);
    (allow.is_some() || deny.is_some()).then(|| FilterOptions {
        whitelist: allow.unwrap_or_default(),
        blacklist: deny.unwrap_or_default(),
    })
}

/// The network asked for. Rules that no other network would keep to are refused with it: whoever gives
/// them believes that they hold.
fn network(args: &RequestArgs, loaded: &Loaded) -> anyhow::Result<Option<Network>> {
    let network = match &args.net {
        None => is_written(loaded, "defaults.network").then_some(loaded.config.defaults.network),
        Some(name) => {
            let known = [Network::None, Network::Host, Network::Filtered];
            let found = known.into_iter().find(|network| network.name() == name);
            Some(found.with_context(|| {
                format!("unknown network mode \"{name}\": use none, host or filtered")
            })?)
        }
    };
    let place = match network {
        None => "a program without --net".to_owned(),
        Some(network) => format!("the network \"{}\"", network.name()),
    };
    for (flag, rules) in [("--allow", &args.allow), ("--deny", &args.deny)] {
        let is_kept = rules.is_empty() || network == Some(Network::Filtered);
        ensure!(is_kept, "{flag} has no effect on {place}: add --net filtered");
    }
    Ok(network)
}

/// The secrets; those that are bound to hosts stay with the worker. `KEY=http://HOST` binds to a host that
/// is spoken to without TLS.
///
/// # Errors
/// A binding that binds nothing is refused: the value would go into the sandbox as it is.
fn secrets(args: &ProgramArgs) -> anyhow::Result<BTreeMap<String, SecretOption>> {
    let plain = pairs("--secret", &args.secret)?.into_iter();
    let mut secrets: BTreeMap<_, _> = plain.map(|(name, value)| (name, value.into())).collect();
    for flag in &args.secret_host {
        let (name, place) = flag.split_once('=').unwrap_or_default();
        let (tls, host) = match place.strip_prefix("http://") {
            Some(host) => (false, host),
            None => (true, place.strip_prefix("https://").unwrap_or(place)),
        };
        ensure!(
            !name.is_empty() && !host.is_empty() && !host.contains('/'),
            "--secret-host \"{flag}\" is not KEY=HOST, KEY=HOST:PORT or KEY=http://HOST"
        );
        let secret = secrets.get_mut(name);
        let secret = secret
            .with_context(|| format!("--secret-host {flag}: there is no --secret {name}=VALUE"))?;
        match secret {
            SecretOption::Plain(value) => {
                let (value, hosts) = (std::mem::take(value), vec![host.to_owned()]);
                *secret = SecretOption::Bound(BoundSecret { value, hosts, tls });
            }
            SecretOption::Bound(bound) => {
                ensure!(
                    bound.tls == tls,
                    "--secret-host {flag}: the hosts of one secret are all with TLS or all without"
                );
                bound.hosts.push(host.to_owned());
            }
        }
    }
    Ok(secrets)
}

/// `KEY=VALUE` flags; entries with an empty key are ignored.
///
/// # Errors
/// One that has no value at all. It is not shown: it may be a secret whose key was forgotten.
fn pairs(name: &str, flags: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut pairs = BTreeMap::new();
    for flag in flags {
        let (key, value) = flag
            .split_once('=')
            .with_context(|| format!("{name} takes KEY=VALUE, and one has no ="))?;
        if !key.is_empty() {
            pairs.insert(key.to_owned(), value.to_owned());
        }
    }
    Ok(pairs)
}

/// Each value is a line of shell, or a file of them.
pub(crate) fn setup_script(values: &[String]) -> anyhow::Result<Option<String>> {
    if values.is_empty() {
        return Ok(None);
    }
    let lines: Result<Vec<String>, _> = values
        .iter()
        .map(|value| {
            if Path::new(value).is_file() {
                return std::fs::read_to_string(value)
                    .with_context(|| format!("cannot read {value}"));
            }
            ensure!(
                !is_path(value),
                "there is no file {value} (--setup). To run a program of that name inside the \
                 sandbox, write it as a command: `exec {value}`"
            );
            Ok(value.clone())
        })
        .collect();
    Ok(Some(lines?.join("\n")))
}

/// Whether one word is meant as a file rather than as a script: a command needs no folder, and a script
/// that only starts one program is rarely meant.
fn is_path(word: &str) -> bool {
    let is_one_word = !word.contains(char::is_whitespace);
    is_one_word
        && (word.contains('/') || word.ends_with(".sh"))
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._~+-".contains(&byte))
}
