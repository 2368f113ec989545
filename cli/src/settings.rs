//! From flags, environment and configuration file to what a command acts on. Flags win over the
//! environment, the environment over the file, the file over the defaults.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use shared::config::{Config, Loaded};
use shared::execution::{
    ExecuteEnvelope, ExecutionOptions, ExecutionRequest, FileContent, Network,
};
use shared::runtime::Runtime;

use crate::args::{ListenArgs, QueueArgs, RunArgs, SlotArgs};

/// Directories that `--files` leaves out (contract section 4.3).
const SKIPPED_DIRECTORIES: [&str; 6] =
    [".git", "node_modules", "__pycache__", ".venv", "venv", ".tox"];

/// The user's home directory.
pub(crate) fn home() -> Option<PathBuf> {
    std::env::home_dir().filter(|home| home.is_absolute())
}

/// The configuration that holds in the working directory.
pub(crate) fn load() -> anyhow::Result<Loaded> {
    let directory = std::env::current_dir().context("cannot read the working directory")?;
    Ok(Config::load(&directory, home().as_deref())?)
}

/// An environment variable that is set and not empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Applies the server flags to `config`.
pub(crate) fn apply_queue(config: &mut Config, args: QueueArgs) {
    if args.redis_url.is_some() {
        config.redis.url = args.redis_url;
    }
}

/// Applies the worker flags to `config`.
pub(crate) fn apply_slots(config: &mut Config, args: &SlotArgs) -> anyhow::Result<()> {
    config.max_concurrent = args.max_concurrent.unwrap_or(config.max_concurrent);
    config.worker.no_op |= args.no_op;
    Ok(config.validate()?)
}

/// Applies the listening flags to `config` and finds the master key.
pub(crate) fn apply_listen(config: &mut Config, args: ListenArgs) -> anyhow::Result<String> {
    let ListenArgs { port, listen, key } = args;
    if let Some(port) = port.or_else(|| variable("ISOL8_PORT")).or_else(|| variable("PORT")) {
        config.gateway.port =
            port.parse().ok().filter(|port| *port != 0).with_context(|| {
                format!("\"{port}\" is not a port: give a number from 1 to 65535")
            })?;
    }
    config.gateway.host = listen.unwrap_or_else(|| config.gateway.host.clone());
    key.or_else(|| variable("ISOL8_API_KEY"))
        .context("API key required. Use --key or ISOL8_API_KEY env var.")
}

/// The key for a remote server.
pub(crate) fn api_key(given: Option<String>) -> anyhow::Result<String> {
    given
        .or_else(|| variable("ISOL8_API_KEY"))
        .context("API key required. Use --key or ISOL8_API_KEY env var.")
}

/// Turns the flags of `run` into a request.
pub(crate) fn envelope(args: &RunArgs, config: &Config) -> anyhow::Result<ExecuteEnvelope> {
    let program = program(args)?;
    let timeout_ms = args.timeout.unwrap_or(config.defaults.timeout_ms);
    let request = ExecutionRequest {
        runtime: program.runtime,
        code: program.code,
        cmd: args.cmd.clone(),
        file_extension: program.extension,
        timeout_ms: Some(timeout_ms),
        env: pairs(&args.env),
        stdin: args.stdin.clone(),
        files: args.files.as_deref().map(read_directory).transpose()?.unwrap_or_default(),
        setup_script: setup_script(&args.setup)?,
        workdir: args.workdir.clone(),
        ..ExecutionRequest::default()
    };
    let options = ExecutionOptions {
        network: network(args, config)?,
        memory_limit: Some(
            args.memory.clone().unwrap_or_else(|| config.defaults.memory_limit.clone()),
        ),
        cpu_limit: Some(args.cpu.unwrap_or(config.defaults.cpu_limit)),
        pids_limit: args.pids_limit,
        max_output_size: args.max_output,
        secrets: pairs(&args.secret),
        timeout_ms: Some(timeout_ms),
        image: args.image.clone(),
        sandbox_size: args.sandbox_size.clone(),
        tmp_size: args.tmp_size.clone(),
        ..ExecutionOptions::default()
    };
    Ok(ExecuteEnvelope { request, options, session_id: None })
}

/// The program as given in one of five ways (contract section 4.1).
struct Program {
    runtime: String,
    code: Option<String>,
    extension: Option<String>,
}

fn program(args: &RunArgs) -> anyhow::Result<Program> {
    let given = args.runtime.clone();
    let or = |default: Runtime| given.clone().unwrap_or_else(|| default.name().to_owned());
    if args.cmd.is_some() {
        if args.file.is_some() || args.eval.is_some() {
            bail!("--cmd cannot be combined with a file or --eval");
        }
        return Ok(Program { runtime: or(Runtime::Bash), code: None, extension: None });
    }
    if let Some(code) = args.eval.as_ref().filter(|code| !code.is_empty()) {
        return Ok(Program {
            runtime: or(Runtime::Python),
            code: Some(code.clone()),
            extension: None,
        });
    }
    if let Some(file) = &args.file {
        return program_file(file, given);
    }
    let mut code = String::new();
    std::io::stdin().read_to_string(&mut code).context("cannot read the program from stdin")?;
    Ok(Program { runtime: or(Runtime::Python), code: Some(code), extension: None })
}

fn program_file(file: &Path, runtime: Option<String>) -> anyhow::Result<Program> {
    let shown = file.display();
    if !file.is_file() {
        bail!("File not found: {shown}");
    }
    let code = std::fs::read_to_string(file).with_context(|| format!("cannot read {shown}"))?;
    let runtime = match runtime {
        Some(runtime) => runtime,
        None => Runtime::from_path(&file.to_string_lossy())
            .with_context(|| {
                format!("Cannot detect runtime for {shown}. Use --runtime to specify.")
            })?
            .name()
            .to_owned(),
    };
    let extension = file.extension().map(|extension| format!(".{}", extension.to_string_lossy()));
    Ok(Program { runtime, code: Some(code), extension })
}

fn network(args: &RunArgs, config: &Config) -> anyhow::Result<Option<Network>> {
    let Some(name) = &args.net else {
        return Ok(Some(config.defaults.network));
    };
    let network = serde_json::from_value(serde_json::Value::String(name.clone()))
        .with_context(|| format!("unknown network mode \"{name}\": use none or host"))?;
    Ok(Some(network))
}

/// `KEY=VALUE` flags; entries without a key are ignored (contract section 4.2).
fn pairs(flags: &[String]) -> BTreeMap<String, String> {
    flags
        .iter()
        .filter_map(|flag| flag.split_once('='))
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// Each `--setup` value is a line of shell, or a file of them.
fn setup_script(values: &[String]) -> anyhow::Result<Option<String>> {
    if values.is_empty() {
        return Ok(None);
    }
    let lines: Result<Vec<String>, _> = values
        .iter()
        .map(|value| {
            if Path::new(value).is_file() {
                std::fs::read_to_string(value).with_context(|| format!("cannot read {value}"))
            } else {
                Ok(value.clone())
            }
        })
        .collect();
    Ok(Some(lines?.join("\n")))
}

fn read_directory(root: &Path) -> anyhow::Result<BTreeMap<String, FileContent>> {
    if !root.is_dir() {
        bail!("--files path is not a directory: {}", root.display());
    }
    let mut files = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        let entries = std::fs::read_dir(&directory)
            .with_context(|| format!("cannot read {}", directory.display()))?;
        for entry in entries {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            if kind.is_dir() {
                let name = entry.file_name();
                if !SKIPPED_DIRECTORIES.iter().any(|skipped| name == *skipped) {
                    pending.push(path);
                }
            } else if kind.is_file() {
                let content = std::fs::read(&path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                let relative = path.strip_prefix(root).expect("found below the root");
                files.insert(
                    format!("/sandbox/{}", relative.display()),
                    FileContent(content.into()),
                );
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn args(line: &[&str]) -> RunArgs {
        let words = ["isol8", "run"].iter().chain(line).copied();
        match Cli::try_parse_from(words).unwrap().command {
            Command::Run(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn request(line: &[&str]) -> anyhow::Result<ExecuteEnvelope> {
        envelope(&args(line), &Config::default())
    }

    #[test]
    fn sources_are_resolved_in_the_contracts_order() {
        let inline = request(&["-e", "print(1)"]).unwrap().request;
        assert_eq!((inline.runtime.as_str(), inline.code.as_deref()), ("python", Some("print(1)")));
        let command = request(&["--cmd", "ls -l"]).unwrap().request;
        assert_eq!((command.runtime.as_str(), command.cmd.as_deref()), ("bash", Some("ls -l")));
        assert!(request(&["--cmd", "ls", "-e", "1"]).unwrap_err().to_string().contains("--cmd"));
        let missing = request(&["/no/such.py"]).unwrap_err().to_string();
        assert!(missing.contains("File not found: /no/such.py"));
    }

    #[test]
    fn a_file_brings_its_runtime_and_extension() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.cjs");
        std::fs::write(&file, "1").unwrap();
        let found = request(&[file.to_str().unwrap()]).unwrap().request;
        assert_eq!(
            (found.runtime.as_str(), found.file_extension.as_deref()),
            ("node", Some(".cjs"))
        );
        let odd = directory.path().join("a.xyz");
        std::fs::write(&odd, "1").unwrap();
        let refused = request(&[odd.to_str().unwrap()]).unwrap_err().to_string();
        assert!(refused.contains("Cannot detect runtime"));
    }

    #[test]
    fn files_keep_their_nesting_and_skip_the_usual_ballast() {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in [("a/b/c.txt", "x"), (".git/config", "y"), ("d.bin", "z")] {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let found = request(&["-e", "1", "--files", directory.path().to_str().unwrap()]).unwrap();
        let paths: Vec<_> = found.request.files.keys().cloned().collect();
        assert_eq!(paths, ["/sandbox/a/b/c.txt", "/sandbox/d.bin"]);
    }

    #[test]
    fn secrets_are_split_at_the_first_equals_sign() {
        let found = request(&["-e", "1", "--secret", "A=b=c", "--secret", "=x"]).unwrap();
        assert_eq!(found.options.secrets, BTreeMap::from([("A".into(), "b=c".into())]));
    }
}
