//! Containers: create, attach, start, change limits, remove, and find what a dead worker left.

use std::collections::HashMap;
use std::pin::Pin;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::models::{
    ContainerCreateBody, ContainerUpdateBody, HealthConfig, HostConfig, HostConfigLogConfig,
    ResourcesUlimits,
};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptions, EventsOptionsBuilder,
    ListContainersOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio::io::AsyncWrite;

use super::{Docker, DockerError, call, is_not_found};

/// How long the engine may take to tell what a container died of.
const TOLD_WITHIN: Duration = Duration::from_secs(3);

/// A memory file system inside a container.
#[derive(Clone, Debug)]
pub struct Tmpfs {
    /// Where it is mounted.
    pub path: String,
    /// Mount options, as for `mount -o`.
    pub options: String,
}

/// Everything about a sandbox container that the engine decides.
#[derive(Clone, Debug)]
pub struct ContainerSpec {
    /// Image reference.
    pub image: String,
    /// OCI runtime; `None` for the engine's default.
    pub runtime: Option<String>,
    /// Program that runs as process 1.
    pub entrypoint: String,
    /// Its arguments.
    pub arguments: &'static [&'static str],
    /// Volumes mounted read-only, and where.
    pub volumes: Vec<(String, &'static str)>,
    /// Memory in bytes; swap is not granted on top.
    pub memory_bytes: u64,
    /// CPU in thousandths of a core.
    pub cpu_millis: u64,
    /// Processes and threads.
    pub pids: u32,
    /// Processes and threads of one user, kept by the kernel that runs them (`RLIMIT_NPROC`).
    pub user_processes: Option<u32>,
    /// Whether the image's own files are read-only.
    pub readonly_root: bool,
    /// Writable places, and those that must not be.
    pub tmpfs: Vec<Tmpfs>,
    /// Docker network mode.
    pub network: &'static str,
    /// Kernel settings of the container's own name spaces.
    pub sysctls: &'static [(&'static str, &'static str)],
    /// Capabilities left to process 1.
    pub capabilities: &'static [&'static str],
    /// Seccomp profile as JSON, or `unconfined`; `None` where the engine has no seccomp.
    pub seccomp: Option<String>,
    /// Labels.
    pub labels: HashMap<String, String>,
}

/// The two directions of a container's standard streams.
pub struct Attached {
    /// What process 1 writes to its standard output. Ends with the container.
    pub output: Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>,
    /// What process 1 reads. Dropping it closes the container's standard input.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
}

impl Docker {
    /// Creates a container; it does not run yet.
    ///
    /// # Errors
    /// [`DockerError::NoSuchImage`] or [`DockerError::Call`].
    pub async fn create_container(&self, spec: ContainerSpec) -> Result<String, DockerError> {
        let image = spec.image.clone();
        let created = self
            .client
            .create_container(None::<CreateContainerOptions>, container_body(spec))
            .await
            .map_err(|source| {
                if is_not_found(&source) {
                    DockerError::NoSuchImage { image }
                } else {
                    call("create a sandbox", source)
                }
            })?;
        Ok(created.id)
    }

    /// Attaches to a created container's streams. Attach before start, or its first words are lost.
    ///
    /// # Errors
    /// [`DockerError::Call`].
    pub async fn attach_container(&self, id: &str) -> Result<Attached, DockerError> {
        let options =
            AttachContainerOptionsBuilder::default().stdin(true).stdout(true).stream(true).build();
        let attached = self
            .client
            .attach_container(id, Some(options))
            .await
            .map_err(|source| call("attach to a sandbox", source))?;
        let output = attached.output.filter_map(|item| async {
            match item {
                Ok(LogOutput::StdOut { message }) => Some(Ok(message)),
                Ok(_) => None,
                Err(error) => Some(Err(std::io::Error::other(error))),
            }
        });
        Ok(Attached { output: Box::pin(output), input: attached.input })
    }

    /// Starts a created container.
    ///
    /// # Errors
    /// [`DockerError::Call`].
    pub async fn start_container(&self, id: &str) -> Result<(), DockerError> {
        self.client
            .start_container(id, None::<StartContainerOptions>)
            .await
            .map_err(|source| call("start a sandbox", source))
    }

    /// Changes the limits of a running container.
    ///
    /// # Errors
    /// [`DockerError::Call`], for instance when more memory is in use than the new limit.
    pub async fn update_limits(
        &self,
        id: &str,
        memory_bytes: u64,
        cpu_millis: u64,
        pids: u32,
    ) -> Result<(), DockerError> {
        let body = ContainerUpdateBody {
            memory: Some(signed(memory_bytes)),
            memory_swap: Some(signed(memory_bytes)),
            nano_cpus: Some(nano_cpus(cpu_millis)),
            pids_limit: Some(pids.into()),
            ..ContainerUpdateBody::default()
        };
        self.client
            .update_container(id, body)
            .await
            .map_err(|source| call("change the limits of a sandbox", source))
    }

    /// Kills and removes a container; one that is gone already is fine.
    ///
    /// # Errors
    /// [`DockerError::Call`].
    pub async fn remove_container(&self, id: &str) -> Result<(), DockerError> {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        match self.client.remove_container(id, Some(options)).await {
            Ok(()) => Ok(()),
            Err(error) if is_not_found(&error) || is_removal_in_progress(&error) => Ok(()),
            Err(source) => Err(call("remove a sandbox", source)),
        }
    }

    /// Whether the kernel has ended something of a container that has just died because it took too much memory.
    /// An engine that does not say so in time does not know of it.
    pub async fn died_of_memory(&self, id: &str) -> bool {
        let filters = HashMap::from([
            ("container", vec![id.to_owned()]),
            ("event", vec!["oom".to_owned(), "destroy".to_owned()]),
        ]);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = now.unwrap_or_default();
        // Both in the past and in the future of the moment: the engine may hear of it later than we do.
        let (since, until) = (now.saturating_sub(TOLD_WITHIN), now + TOLD_WITHIN);
        let options = EventsOptionsBuilder::default()
            .since(&since.as_secs().to_string())
            .until(&until.as_secs().to_string())
            .filters(&filters)
            .build();
        let mut events = self.client.events(Some(options)).boxed();
        let first = tokio::time::timeout(TOLD_WITHIN * 2, events.next()).await;
        matches!(first, Ok(Some(Ok(event))) if event.action.as_deref() == Some("oom"))
    }

    /// Ids and labels of all containers, running or not, that carry every one of `labels`
    /// (`name=value` or `name`).
    ///
    /// # Errors
    /// [`DockerError::Call`].
    pub async fn list_containers(
        &self,
        labels: &[String],
    ) -> Result<Vec<(String, HashMap<String, String>)>, DockerError> {
        let filters = HashMap::from([("label", labels.to_vec())]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let containers = self
            .client
            .list_containers(Some(options))
            .await
            .map_err(|source| call("list sandboxes", source))?;
        Ok(containers
            .into_iter()
            .filter_map(|container| Some((container.id?, container.labels.unwrap_or_default())))
            .collect())
    }
}

fn container_body(spec: ContainerSpec) -> ContainerCreateBody {
    let mut security_opt = vec!["no-new-privileges".to_owned()];
    security_opt.extend(spec.seccomp.map(|profile| format!("seccomp={profile}")));
    let mut ulimits = vec![ulimit("core", 0)];
    ulimits.extend(spec.user_processes.map(|count| ulimit("nproc", count.into())));
    let host_config = HostConfig {
        runtime: spec.runtime,
        memory: Some(signed(spec.memory_bytes)),
        memory_swap: Some(signed(spec.memory_bytes)),
        nano_cpus: Some(nano_cpus(spec.cpu_millis)),
        pids_limit: Some(spec.pids.into()),
        readonly_rootfs: Some(spec.readonly_root),
        tmpfs: Some(spec.tmpfs.into_iter().map(|tmpfs| (tmpfs.path, tmpfs.options)).collect()),
        network_mode: Some(spec.network.to_owned()),
        sysctls: Some(own_strings(spec.sysctls)),
        cap_drop: Some(vec!["ALL".into()]),
        cap_add: Some(spec.capabilities.iter().copied().map(String::from).collect()),
        security_opt: Some(security_opt),
        binds: Some(
            spec.volumes.into_iter().map(|(name, path)| format!("{name}:{path}:ro")).collect(),
        ),
        ipc_mode: Some("private".into()),
        // The streams carry our frames; a log of them would be a second copy of all output.
        log_config: Some(HostConfigLogConfig { typ: Some("none".into()), config: None }),
        ulimits: Some(ulimits),
        // With `stdin_once` below: when the worker dies, its attachment closes, the runner reads
        // end of file and exits, and the engine removes the container.
        auto_remove: Some(true),
        ..HostConfig::default()
    };
    ContainerCreateBody {
        image: Some(spec.image),
        entrypoint: Some(vec![spec.entrypoint]),
        cmd: Some(spec.arguments.iter().copied().map(String::from).collect()),
        user: Some("0:0".into()),
        working_dir: Some("/".into()),
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        open_stdin: Some(true),
        stdin_once: Some(true),
        tty: Some(false),
        // An image's own check would run as the container's root, beside the jobs.
        healthcheck: Some(HealthConfig {
            test: Some(vec!["NONE".into()]),
            ..HealthConfig::default()
        }),
        labels: Some(spec.labels),
        host_config: Some(host_config),
        ..ContainerCreateBody::default()
    }
}

fn ulimit(name: &str, value: i64) -> ResourcesUlimits {
    ResourcesUlimits { name: Some(name.to_owned()), soft: Some(value), hard: Some(value) }
}

fn own_strings(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn nano_cpus(cpu_millis: u64) -> i64 {
    signed(cpu_millis.saturating_mul(1_000_000))
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The engine answers 409 when its own removal of an exited container has begun already.
fn is_removal_in_progress(error: &bollard::errors::Error) -> bool {
    matches!(error, bollard::errors::Error::DockerResponseServerError { status_code: 409, .. })
}
