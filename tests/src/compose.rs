//! `deploy/compose/compose.yaml` on the real engine, without a compose command: what the file says is
//! started as it says, and a key that nobody here starts is an error. Names, ports and secrets are the
//! test's own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use crate::docker::{docker, inspect};

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/compose");
/// Warming sandboxes on a busy machine takes a while.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(200);

/// A compose file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    services: BTreeMap<String, Service>,
    networks: BTreeMap<String, Network>,
    volumes: BTreeMap<String, Nothing>,
    secrets: BTreeMap<String, Secret>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Network {
    #[serde(default)]
    internal: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Secret {
    file: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Service {
    image: String,
    command: Vec<String>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    networks: Vec<String>,
    #[serde(default)]
    ports: Vec<String>,
    #[serde(default)]
    volumes: Vec<String>,
    secrets: Vec<String>,
    #[serde(default)]
    group_add: Vec<String>,
    healthcheck: HealthCheck,
    #[serde(default)]
    depends_on: BTreeMap<String, Dependency>,
    restart: String,
    init: bool,
    read_only: bool,
    cap_drop: Vec<String>,
    security_opt: Vec<String>,
    stop_grace_period: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HealthCheck {
    test: Vec<String>,
    interval: String,
    timeout: String,
    retries: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dependency {
    condition: String,
}

/// A fleet in containers. Taken down for certain when it is dropped.
pub struct Compose {
    file: File,
    /// Beginning of all its names.
    project: String,
    image: String,
    secrets: PathBuf,
}

impl Compose {
    /// Reads the file. `image` stands for the file's, `secrets` for its directory of secrets; all
    /// services get `environment` on top, as settings that suit tests.
    ///
    /// # Panics
    /// If the file is not what a compose file of ours may be.
    #[must_use]
    pub fn read(image: &str, secrets: &Path, environment: &[(&str, &str)]) -> Self {
        let path = Path::new(DIRECTORY).join("compose.yaml");
        let text = std::fs::read_to_string(&path).expect("there is a compose file");
        let mut file: File = serde_yaml_ng::from_str(&text).expect("it is one");
        for service in file.services.values_mut() {
            for (name, value) in environment {
                service.environment.insert((*name).to_owned(), (*value).to_owned());
            }
        }
        Self {
            project: format!("{}-test-{}", file.name, std::process::id()),
            file,
            image: image.to_owned(),
            secrets: secrets.to_owned(),
        }
    }

    /// Starts everything and waits until all of it is healthy.
    ///
    /// # Panics
    /// If it does not get so.
    pub fn up(&self) {
        for (name, network) in &self.file.networks {
            let (name, label) = (self.name_of(name), format!("isol8.test={}", self.project));
            let mut arguments = vec!["network", "create", "--label", &label];
            arguments.extend(network.internal.then_some("--internal"));
            arguments.push(&name);
            let _ = docker(&arguments);
        }
        // Those that wait for nobody first.
        let mut names: Vec<String> = self.file.services.keys().cloned().collect();
        names.sort_by_key(|name| self.file.services[name].depends_on.len());
        for name in &names {
            for (other, dependency) in &self.file.services[name].depends_on {
                assert_eq!(dependency.condition, "service_healthy");
                self.await_healthy(other);
            }
            self.create(name);
            self.start(name);
        }
        names.iter().for_each(|name| self.await_healthy(name));
    }

    fn create(&self, name: &str) {
        let service = &self.file.services[name];
        assert_eq!(service.image, self.image.split(':').next().unwrap_or_default());
        let mut arguments: Vec<String> = vec!["create".into()];
        let mut option = |name: &str, value: String| {
            arguments.extend([format!("--{name}"), value]);
        };
        option("name", self.name_of(name));
        option("label", format!("isol8.test={}", self.project));
        option("network", self.name_of(&service.networks[0]));
        option("network-alias", name.to_owned());
        option("restart", service.restart.clone());
        option("stop-timeout", service.stop_grace_period.trim_end_matches('s').to_owned());
        for (name, value) in &service.environment {
            option("env", format!("{name}={value}"));
        }
        for port in &service.ports {
            let inside = port.strip_prefix("127.0.0.1:").and_then(|port| port.split_once(':'));
            let (_, inside) = inside.expect("ports are published on loopback");
            // Outside it is one that the engine finds free.
            option("publish", format!("127.0.0.1::{inside}"));
        }
        for volume in &service.volumes {
            option("volume", place(&self.project, &self.file.volumes, volume));
        }
        for secret in &service.secrets {
            let file = self.file.secrets[secret].file.file_name().expect("secrets are files");
            let file = self.secrets.join(file);
            option("volume", format!("{}:/run/secrets/{secret}:ro", file.display()));
        }
        for group in &service.group_add {
            assert!(group.starts_with("${DOCKER_GID"), "{group}");
            option("group-add", docker_group());
        }
        let HealthCheck { test, interval, timeout, retries } = &service.healthcheck;
        option("health-cmd", shell_words(test));
        option("health-interval", interval.clone());
        option("health-timeout", timeout.clone());
        option("health-retries", retries.to_string());
        for capability in &service.cap_drop {
            option("cap-drop", capability.clone());
        }
        for security in &service.security_opt {
            option("security-opt", security.replacen(':', "=", 1));
        }
        arguments.push(format!("--init={}", service.init));
        arguments.push(format!("--read-only={}", service.read_only));
        arguments.push(self.image.clone());
        arguments.extend(service.command.iter().cloned());
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let container = docker(&arguments);
        for network in &service.networks[1..] {
            let network = self.name_of(network);
            let _ = docker(&["network", "connect", "--alias", name, &network, container.trim()]);
        }
    }

    /// Starts a service that was created, or killed.
    pub fn start(&self, service: &str) {
        let _ = docker(&["start", &self.name_of(service)]);
    }

    /// Kills a service the hard way.
    pub fn kill(&self, service: &str) {
        let _ = docker(&["kill", &self.name_of(service)]);
    }

    /// Waits until a service's health check passes.
    ///
    /// # Panics
    /// If it does not.
    pub fn await_healthy(&self, service: &str) {
        let deadline = Instant::now() + HEALTH_TIMEOUT;
        let container = self.name_of(service);
        loop {
            let state = &inspect(&container)["State"];
            if state["Health"]["Status"] == "healthy" {
                return;
            }
            assert!(
                state["Running"] == true && Instant::now() < deadline,
                "{service} does not get healthy: {state}\n{}",
                self.log(service)
            );
            sleep(POLL);
        }
    }

    /// Port of a service on this machine; another one each time it is started.
    ///
    /// # Panics
    /// If it has none.
    #[must_use]
    pub fn port(&self, service: &str) -> u16 {
        let published = docker(&["port", &self.name_of(service)]);
        let port = published.lines().next().and_then(|line| line.rsplit(':').next());
        port.and_then(|port| port.trim().parse().ok()).expect("its port is published")
    }

    /// Names of its services that begin with `role`.
    #[must_use]
    pub fn services(&self, role: &str) -> Vec<String> {
        self.file.services.keys().filter(|name| name.starts_with(role)).cloned().collect()
    }

    /// What a service has written, both streams.
    ///
    /// # Panics
    /// If there is no such service.
    #[must_use]
    pub fn log(&self, service: &str) -> String {
        let output = Command::new("docker").args(["logs", &self.name_of(service)]).output();
        let output = output.expect("docker can be started");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        text(&output.stdout) + &text(&output.stderr)
    }

    /// What the engine knows of a service.
    #[must_use]
    pub fn inspect(&self, service: &str) -> Value {
        inspect(&self.name_of(service))
    }

    /// Stops everything: who takes requests first, the queue last.
    ///
    /// # Panics
    /// If one does not end well.
    pub fn down(self) {
        let mut names: Vec<String> = self.file.services.keys().cloned().collect();
        names.sort_by_key(|name| (name == "redis", name.starts_with("worker")));
        for name in &names {
            let _ = docker(&["stop", &self.name_of(name)]);
            let code = &self.inspect(name)["State"]["ExitCode"];
            assert!(code == 0, "{name} ended with {code}:\n{}", self.log(name));
        }
    }

    fn name_of(&self, thing: &str) -> String {
        format!("{}-{thing}", self.project)
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        let remove = |what: &[&str], names: Vec<String>| {
            // That it is tried is all that can be done here.
            let _ = Command::new("docker").args(what).args(names).output();
        };
        let names = |things: Vec<&String>| things.into_iter().map(|it| self.name_of(it)).collect();
        remove(&["rm", "--force", "--volumes"], names(self.file.services.keys().collect()));
        remove(&["network", "rm"], names(self.file.networks.keys().collect()));
        remove(&["volume", "rm"], names(self.file.volumes.keys().collect()));
    }
}

/// A volume of the project, or a place beside the file, as the engine wants it.
fn place(project: &str, volumes: &BTreeMap<String, Nothing>, volume: &str) -> String {
    let (source, rest) = volume.split_once(':').expect("a source and a target");
    if volumes.contains_key(source) {
        return format!("{project}-{source}:{rest}");
    }
    let source = Path::new(DIRECTORY).join(source).canonicalize().expect("it is there");
    format!("{}:{rest}", source.display())
}

/// The group that may use the engine's socket.
fn docker_group() -> String {
    use std::os::unix::fs::MetadataExt as _;
    let socket = std::fs::metadata("/var/run/docker.sock").expect("the engine has a socket");
    socket.gid().to_string()
}

/// A health check as one line for the shell.
fn shell_words(test: &[String]) -> String {
    match test {
        [kind, line] if kind == "CMD-SHELL" => line.clone(),
        [kind, words @ ..] if kind == "CMD" => {
            let quoted = words.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''")));
            quoted.collect::<Vec<_>>().join(" ")
        }
        _ => panic!("not a health check: {test:?}"),
    }
}
