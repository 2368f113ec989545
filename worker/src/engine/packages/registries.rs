//! Where packages come from: the registries that the package managers themselves are set up to use,
//! on this machine or by default. Those hosts are all an installer may reach.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use runner::protocol::Start;
use sha2::{Digest as _, Sha256};
use shared::execution::Phase;
use shared::runtime::Runtime;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::install::Failure;
use super::layout;
use crate::engine::Console;
use crate::engine::docker::Docker;
use crate::engine::images::{RegistrySettings, RegistrySource};
use crate::engine::mask::Masker;
use crate::engine::program::{Order, Program, drive};
use crate::engine::sandbox::{Origin, Sandbox};

/// How long a package manager may take to tell its settings.
const QUESTION_LIMIT: Duration = Duration::from_secs(15);
/// Bytes of an answer that are read.
const ANSWER_BYTES: u64 = 4096;

/// What this machine says about its registries, read when it is first needed.
pub(super) struct Registries {
    source: RegistrySource,
    /// Hosts that the operator adds.
    more_hosts: Vec<String>,
    settings: OnceCell<Arc<Settings>>,
    npm_default: OnceCell<Option<String>>,
}

/// Settings without credentials: what runs in an installer, and what it leaves behind, is not trusted
/// with any.
pub(super) struct Settings {
    pub(super) registries: RegistrySettings,
    /// Stands for all of it in the key of a set.
    pub(super) fingerprint: String,
}

impl Registries {
    pub(super) fn new(source: RegistrySource, more_hosts: Vec<String>) -> Self {
        Self { source, more_hosts, settings: OnceCell::new(), npm_default: OnceCell::new() }
    }

    pub(super) async fn settings(&self) -> Arc<Settings> {
        let read = || async {
            let registries = self.source.read().await.without_credentials();
            let mut hash = Sha256::new();
            for text in [&registries.pip_config, &registries.npm_config] {
                hash.update((text.len() as u64).to_le_bytes());
                hash.update(text);
            }
            let fingerprint = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            Arc::new(Settings { registries, fingerprint })
        };
        Arc::clone(self.settings.get_or_init(read).await)
    }

    /// The hosts that packages of `runtime` come from. Asked of pip in `sandbox`, where nothing but the
    /// image's own programs has run yet; of npm in a sandbox of its image, unless the machine says.
    pub(super) async fn hosts(
        &self,
        runtime: Runtime,
        sandbox: &mut Sandbox,
        docker: &Docker,
        origin: &Origin,
    ) -> Result<BTreeSet<String>, Failure> {
        let settings = self.settings().await;
        let text = if runtime == Runtime::Python {
            let question = ["python3", "-c", layout::PIP_DEFAULTS];
            let defaults = ask(sandbox, &question).await?.unwrap_or_default();
            format!("{defaults}\n{}", settings.registries.pip_config)
        } else {
            let own = &settings.registries.npm_config;
            // Lines of scopes name others besides.
            let default = if own.lines().any(|line| line.starts_with("registry=")) {
                None
            } else {
                let asked = || ask_npm(docker, origin);
                self.npm_default.get_or_try_init(asked).await?.clone()
            };
            format!("{}\n{own}", default.unwrap_or_default())
        };
        let mut hosts = hosts_of(&text);
        hosts.extend(self.more_hosts.iter().map(|host| host.to_ascii_lowercase()));
        if hosts.is_empty() {
            return Err(Failure::Engine(format!(
                "no registry is known for {runtime}: run `isol8 setup`, install its package manager on \
                 the worker, or name the registry's host in worker.registryHosts"
            )));
        }
        Ok(hosts)
    }
}

async fn ask_npm(docker: &Docker, origin: &Origin) -> Result<Option<String>, Failure> {
    let profile = super::install::profile(Runtime::Node, Runtime::Node.image(), 64 << 20);
    let mut sandbox = Sandbox::create(docker, origin, profile).await.map_err(Failure::of_engine)?;
    let answer = ask(&mut sandbox, &["npm", "config", "get", "registry"]).await;
    let removed = docker.remove_container(&sandbox.id).await;
    removed.map_err(|error| Failure::Engine(error.to_string()))?;
    answer
}

/// Runs a program that prints something short; `None` if it fails.
async fn ask(sandbox: &mut Sandbox, question: &[&str]) -> Result<Option<String>, Failure> {
    let timeout_ms = u64::try_from(QUESTION_LIMIT.as_millis()).unwrap_or(u64::MAX);
    let start = Start {
        argv: question.iter().map(|word| (*word).to_owned()).collect(),
        env: sandbox.environment.clone(),
        cwd: "/sandbox".into(),
        timeout_ms,
        output_limit_bytes: ANSWER_BYTES,
        ..Start::default()
    };
    let masker = Masker::of_values(std::iter::empty());
    let program = Program {
        order: Order::new(&start).map_err(Failure::of_engine)?,
        stdin: None::<Bytes>,
        stdin_stays_open: false,
        phase: Phase::Setup,
        masker: &masker,
        limit_bytes: ANSWER_BYTES,
        interpreter: None,
    };
    let never = CancellationToken::new();
    let ended = drive(sandbox, program, &mut Console::default(), &never).await;
    let ended = ended.map_err(Failure::of_engine)?;
    let bytes = ended.exited.stdout_bytes;
    let answer = ended.stdout.finish(&masker, ANSWER_BYTES, bytes).text;
    Ok((ended.exited.exit_code == 0).then_some(answer))
}

/// The hosts of all addresses in a text.
fn hosts_of(text: &str) -> BTreeSet<String> {
    text.split("://")
        .skip(1)
        .filter_map(|rest| {
            let authority = rest.split(['/', '?', '#']).next()?.split_whitespace().next()?;
            let host_and_port = authority.rsplit('@').next()?;
            let host = match host_and_port.strip_prefix('[') {
                Some(address) => address.split(']').next()?,
                None => host_and_port.split(':').next()?,
            };
            (!host.is_empty()).then(|| host.to_ascii_lowercase())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_from_every_address() {
        let text = "registry=https://A.example/\n@x:registry=http://user:pw@b.example:8080/npm\n\
                    index-url = https://c.example\n    https://[::1]:9/simple\nnone here: //d.example";
        let expected = ["::1", "a.example", "b.example", "c.example"].map(String::from);
        assert_eq!(hosts_of(text), BTreeSet::from(expected));
        assert!(hosts_of("registry=undefined").is_empty());
    }
}
