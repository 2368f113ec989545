//! Where packages come from: the registries that the package managers themselves are set up to use,
//! on this machine or by default. Those hosts, at those ports, are all an installer may reach.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use runner::protocol::Start;
use sha2::{Digest as _, Sha256};
use shared::execution::Phase;
use shared::isolation::Isolation;
use shared::net::Host;
use shared::runtime::Runtime;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::install::Failure;
use super::layout;
use crate::egress::Target;
use crate::engine::Console;
use crate::engine::docker::Docker;
use crate::engine::images::{Registry, RegistrySettings, RegistrySource};
use crate::engine::mask::Masker;
use crate::engine::program::{Order, Program, drive};
use crate::engine::sandbox::{Origin, Sandbox};

/// How long a package manager may take to tell its settings.
const QUESTION_LIMIT: Duration = Duration::from_secs(15);
/// Bytes of an answer that are read.
const ANSWER_BYTES: u64 = 4096;
/// Ports of a registry whose address names none: one may lead from the first to the second.
const DEFAULT_PORTS: [u16; 2] = [80, 443];

/// What this machine says about its registries, each read when it is first needed.
pub(super) struct Registries {
    source: RegistrySource,
    /// Hosts that the operator adds, with or without a port.
    more_hosts: Vec<String>,
    of_pip: OnceCell<Arc<Settings>>,
    of_npm: OnceCell<Arc<Settings>>,
    of_none: OnceCell<Arc<Settings>>,
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
        Self {
            source,
            more_hosts,
            of_pip: OnceCell::new(),
            of_npm: OnceCell::new(),
            of_none: OnceCell::new(),
            npm_default: OnceCell::new(),
        }
    }

    pub(super) async fn settings(&self, runtime: Runtime) -> Arc<Settings> {
        let read = || async {
            let registries = self.source.read(runtime).await.without_credentials();
            let mut hash = Sha256::new();
            for text in [&registries.pip_config, &registries.npm_config] {
                hash.update((text.len() as u64).to_le_bytes());
                hash.update(text);
            }
            let fingerprint = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            Arc::new(Settings { registries, fingerprint })
        };
        let settings = match Registry::of(runtime) {
            Some(Registry::Pip) => &self.of_pip,
            Some(Registry::Npm) => &self.of_npm,
            None => &self.of_none,
        };
        Arc::clone(settings.get_or_init(read).await)
    }

    /// The places that packages of `runtime` come from. Asked of pip in `sandbox`, where nothing but the
    /// image's own programs has run yet; of npm in a sandbox of its image, unless the machine says.
    pub(super) async fn places(
        &self,
        runtime: Runtime,
        sandbox: &mut Sandbox,
        docker: &Docker,
        origin: &Origin,
    ) -> Result<HashSet<Target>, Failure> {
        let settings = self.settings(runtime).await;
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
        let places: HashSet<Target> = places_of(&text)
            .chain(self.more_hosts.iter().flat_map(|host| at_ports(host)))
            .collect();
        if places.is_empty() {
            return Err(Failure::Engine(format!(
                "no registry is known for {runtime}: run `isol8 setup`, install its package manager on \
                 the worker, or name the registry's host in worker.registryHosts"
            )));
        }
        Ok(places)
    }
}

async fn ask_npm(docker: &Docker, origin: &Origin) -> Result<Option<String>, Failure> {
    let profile = super::install::profile(
        Runtime::Node,
        Isolation::Container,
        Runtime::Node.image(),
        64 << 20,
    );
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

/// The places that all addresses in a text name.
fn places_of(text: &str) -> impl Iterator<Item = Target> {
    text.split("://").skip(1).flat_map(|rest| {
        let end = rest.find(|it: char| matches!(it, '/' | '?' | '#') || it.is_whitespace());
        let authority = &rest[..end.unwrap_or(rest.len())];
        at_ports(authority.rsplit('@').next().unwrap_or_default())
    })
}

/// A host at the port that is named with it, else at the usual ones.
fn at_ports(host: &str) -> Vec<Target> {
    match Host::with_port(host) {
        Ok((host, Some(port))) => vec![Target { host, port }],
        Ok((host, None)) => {
            DEFAULT_PORTS.map(|port| Target { host: host.clone(), port }).into_iter().collect()
        }
        Err(error) => {
            tracing::debug!(%error, "the address of a registry names no host");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_from_every_address() {
        let text = "registry=https://A.example/\n@x:registry=http://user:pw@b.example:8080/npm\n\
                    index-url = https://c.example\n    https://[::1]:9/simple\nnone here: //d.example";
        let mut found: Vec<String> =
            places_of(text).map(|place| format!("{} {}", place.host, place.port)).collect();
        found.sort();
        let expected = [
            "::1 9",
            "a.example 443",
            "a.example 80",
            "b.example 8080",
            "c.example 443",
            "c.example 80",
        ];
        assert_eq!(found, expected);
        assert_eq!(places_of("registry=undefined").count(), 0);
        assert_eq!(places_of("registry=http://").count(), 0);
    }
}
