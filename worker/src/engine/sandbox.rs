//! One sandbox: a container, the runner inside it, and the link between. What a sandbox is made
//! of, how it becomes ready, and how it is cleaned for the next job.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use runner::protocol::{
    Hello, Kind, Listen, Listening, PROTOCOL_VERSION, Prepare, Ready, ResetDone, parse_message,
};
use shared::config::Seccomp;
use shared::execution::{Job, Network};
use shared::id::{TenantId, WorkerId};
use shared::isolation::Isolation;
use shared::runtime::Runtime;

use super::docker::{ContainerSpec, Docker, DockerError, ImageInfo, Tmpfs};
use super::images::{LABEL_PRELOAD, LABEL_SETUP};
use super::isolation::Kinds;
use super::link::{Frame, Link, LinkError};
use super::packages::Starts;
use super::seccomp::Filters;
use super::{EngineError, environment, packages, volume};
use crate::egress::{Gate, PROXY_PORT, Report};

/// A started container says hello in milliseconds; a crowded machine may need longer.
const HELLO_TIMEOUT: Duration = Duration::from_secs(20);
/// The runner bounds a reset itself, to 5 s.
const RESET_TIMEOUT: Duration = Duration::from_secs(6);
/// Bound on starting an interpreter ahead.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(20);

/// What the runner needs to do its work, and nothing else is left to it:
/// `SETUID`, `SETGID`: become the sandbox user before any user code runs;
/// `KILL`: end processes of that user.
const CAPABILITIES: [&str; 3] = ["SETUID", "SETGID", "KILL"];

/// A closed connection leaves nothing behind: its ports could be read by the next job for a minute.
/// With no network but loopback there are no late packets either, for which the kernel keeps them.
const LOOPBACK_SYSCTLS: [(&str, &str); 1] = [("net.ipv4.tcp_max_tw_buckets", "0")];

/// Marks every container and volume of ours.
pub(super) const LABEL_MANAGED: &str = "isol8.managed";
/// Name of the worker that made a container; survives the worker's restart.
pub(super) const LABEL_OWNER: &str = "isol8.owner";
/// Identifier of the life of the worker that made a container.
pub(super) const LABEL_WORKER: &str = "isol8.worker";
const LABEL_RUNTIME: &str = "isol8.runtime";

/// What kind of sandbox a job needs. Sandboxes of one profile and tenant are interchangeable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Profile {
    pub(super) image: String,
    /// Volume with the packages of its jobs.
    pub(super) packages: Option<String>,
    pub(super) runtime: Runtime,
    pub(super) network: Network,
    pub(super) isolation: Isolation,
    pub(super) seccomp: Seccomp,
    pub(super) memory_bytes: u64,
    pub(super) cpu_millis: u64,
    pub(super) pids: u32,
    pub(super) sandbox_bytes: u64,
    pub(super) tmp_bytes: u64,
    pub(super) readonly_root: bool,
}

impl Profile {
    pub(super) fn of_job(job: &Job) -> Self {
        let limits = &job.limits;
        Self {
            image: job.image.clone(),
            packages: None,
            runtime: job.runtime,
            network: job.network,
            isolation: job.isolation,
            seccomp: job.seccomp.clone(),
            memory_bytes: limits.memory_bytes,
            cpu_millis: limits.cpu_millis,
            pids: limits.pids,
            sandbox_bytes: limits.sandbox_bytes,
            tmp_bytes: limits.tmp_bytes,
            readonly_root: limits.readonly_root,
        }
    }

    /// Whether a running sandbox of `other` becomes one of this profile by new limits alone.
    pub(super) fn differs_in_limits_only(&self, other: &Self) -> bool {
        let with_our_limits = Self {
            memory_bytes: self.memory_bytes,
            cpu_millis: self.cpu_millis,
            pids: self.pids,
            ..other.clone()
        };
        *self == with_our_limits
    }
}

/// What all sandboxes of one engine have in common.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) owner: String,
    pub(super) worker: WorkerId,
    pub(super) volume: String,
    pub(super) seccomp: Filters,
    pub(super) kinds: Kinds,
}

/// A running sandbox, held by exactly one task at a time.
pub(super) struct Sandbox {
    pub(super) id: String,
    pub(super) profile: Profile,
    /// Who it belongs to, for life, once it ran a job.
    pub(super) tenant: Option<TenantId>,
    pub(super) link: Link,
    /// Whether an interpreter waits inside.
    pub(super) prepared: bool,
    /// Whether it stopped answering, though what it ran has a result. To be destroyed.
    pub(super) is_lost: bool,
    /// What every program in it gets.
    pub(super) environment: BTreeMap<String, String>,
    /// What its image wants run before a program.
    pub(super) image_setup: Option<String>,
    /// Whether that has been done since the sandbox was last clean.
    pub(super) is_set_up: bool,
    /// What its image wants imported ahead, comma-joined.
    preload: Option<String>,
    /// Who knows what it died of, where it cannot tell itself.
    witness: Option<Docker>,
}

impl Sandbox {
    /// Creates and starts a container and waits for its runner.
    pub(super) async fn create(
        docker: &Docker,
        origin: &Origin,
        profile: Profile,
    ) -> Result<Self, EngineError> {
        let mut spec = container_spec(origin, &profile)?;
        let dies_as_a_whole = origin.kinds.making(profile.isolation)?.dies_as_a_whole();
        let witness = dies_as_a_whole.then(|| docker.clone());
        let (created, image) =
            tokio::join!(docker.create_container(spec.clone()), docker.image_info(&profile.image),);
        let mut id = created?;
        let image = match image {
            Ok(Some(image)) => image,
            Ok(None) => {
                discard(docker, &id).await;
                return Err(DockerError::NoSuchImage { image: profile.image }.into());
            }
            Err(error) => {
                discard(docker, &id).await;
                return Err(error.into());
            }
        };
        // Of an image with volumes, a second try: few have any, and nobody else waits for the answer.
        if close_volumes(&image.volumes, &mut spec) {
            discard(docker, &id).await;
            id = docker.create_container(spec).await?;
        }
        match Self::bring_up(docker, &id, &profile).await {
            Ok(link) => Ok(Self {
                id,
                tenant: None,
                link,
                prepared: false,
                is_lost: false,
                environment: environment::of_image(&image.environment, profile.network),
                profile,
                image_setup: written(&image, LABEL_SETUP),
                is_set_up: false,
                preload: written(&image, LABEL_PRELOAD),
                witness,
            }),
            Err(error) => {
                discard(docker, &id).await;
                Err(error)
            }
        }
    }

    async fn bring_up(docker: &Docker, id: &str, profile: &Profile) -> Result<Link, EngineError> {
        // The engine makes an empty volume of one that is gone: no job may take that for its packages.
        if let Some(name) = &profile.packages
            && !packages::is_there(docker, name).await?
        {
            return Err(EngineError::PackagesGone);
        }
        let mut link = Link::new(docker.attach_container(id).await?);
        docker.start_container(id).await?;
        let hello = within(HELLO_TIMEOUT, "starting", link.next()).await?;
        expect(&hello, Kind::Hello)?;
        let hello: Hello = parse_message(&hello.payload).map_err(LinkError::from)?;
        if hello.protocol != PROTOCOL_VERSION {
            return Err(EngineError::Incompatible { protocol: hello.protocol });
        }
        expect(&within(HELLO_TIMEOUT, "starting", link.next()).await?, Kind::Ready)?;
        if profile.network == Network::Filtered {
            open_way_out(&mut link).await?;
        }
        Ok(link)
    }

    /// Starts an interpreter ahead of the next job, where the runtime gains by it.
    pub(super) async fn prepare(&mut self) -> Result<(), EngineError> {
        if let Some(prepare) = self.preparation() {
            self.link.queue_message(Kind::Prepare, &prepare)?;
            self.await_ready().await?;
        }
        Ok(())
    }

    /// How a program finds the packages, if the sandbox has a volume of them.
    pub(super) fn packages(&self, starts: Starts) -> Option<Starts> {
        self.profile.packages.as_ref().map(|_| starts)
    }

    fn preparation(&self) -> Option<Prepare> {
        let mut prepare = environment::prepare(self.profile.runtime, &self.environment)?;
        if let Some(modules) = &self.preload {
            prepare.env.insert(environment::PRELOAD.to_owned(), modules.clone());
        }
        Some(prepare)
    }

    /// Whether it has died because it took more memory than it may, and could not tell.
    pub(super) async fn died_of_memory(&mut self) -> bool {
        match &self.witness {
            Some(docker) => docker.died_of_memory(&self.id).await,
            None => false,
        }
    }

    /// Cleans up after a job. An error, or a reset that cannot be verified, means that the sandbox
    /// must be destroyed.
    pub(super) async fn reset(&mut self) -> Result<(), EngineError> {
        self.link.queue_empty(Kind::Reset);
        let frame = within(RESET_TIMEOUT, "being reset", self.link.next()).await?;
        expect(&frame, Kind::ResetDone)?;
        let done: ResetDone = parse_message(&frame.payload).map_err(LinkError::from)?;
        if !done.verified {
            return Err(EngineError::Unclean { detail: done.detail.unwrap_or_default() });
        }
        self.is_set_up = false;
        self.await_ready().await
    }

    /// Lets programs through `gate` to the filtered network, until it is taken down.
    pub(super) fn put_up_gate(&mut self, gate: Gate) {
        if let Some(tunnels) = &mut self.link.tunnels {
            tunnels.put_up(gate);
        }
    }

    /// Opens or shuts the gate, if there is one.
    pub(super) fn set_way_out(&mut self, is_open: bool) {
        if let Some(tunnels) = &mut self.link.tunnels {
            tunnels.set_open(is_open);
        }
    }

    /// Opens or shuts the gate, if there is one, and breaks off what went through by other rules.
    pub(super) fn renew_way_out(&mut self, is_open: bool) {
        if let Some(tunnels) = &mut self.link.tunnels {
            tunnels.set_open(false);
            tunnels.set_open(is_open);
        }
    }

    /// The gate, if there is one.
    pub(super) fn gate(&self) -> Option<&Gate> {
        self.link.tunnels.as_ref()?.gate()
    }

    /// Takes the gate down, if there is one; tells what went through.
    pub(super) async fn take_down_gate(&mut self) -> Option<Report> {
        let gate = self.link.tunnels.as_mut()?.take_down()?;
        Some(gate.close().await)
    }

    async fn await_ready(&mut self) -> Result<(), EngineError> {
        let frame =
            within(PREPARE_TIMEOUT, "starting an interpreter ahead", self.link.next()).await?;
        expect(&frame, Kind::Ready)?;
        let ready: Ready = parse_message(&frame.payload).map_err(LinkError::from)?;
        self.prepared = ready.prepared;
        match ready.detail {
            // Worth an operator's attention: the image promises what it does not hold.
            Some(detail) if self.prepared => tracing::warn!(
                container = %self.id, image = self.profile.image, detail,
                "an interpreter waits, but not as its image wants it"
            ),
            Some(detail) => {
                tracing::debug!(container = %self.id, detail, "no interpreter waits in the sandbox");
            }
            None => {}
        }
        Ok(())
    }
}

/// What an image's label says, if it says anything.
fn written(image: &ImageInfo, label: &str) -> Option<String> {
    image.labels.get(label).filter(|text| !text.trim().is_empty()).cloned()
}

/// Has the runner listen for connections of programs. Until a job's gate is opened none gets through.
async fn open_way_out(link: &mut Link) -> Result<(), EngineError> {
    link.queue_message(Kind::Listen, &Listen { port: PROXY_PORT })?;
    let frame = within(HELLO_TIMEOUT, "opening its way out", link.next()).await?;
    expect(&frame, Kind::Listening)?;
    if let Some(detail) = parse::<Listening>(&frame)?.error {
        return Err(EngineError::NoWayOut { detail });
    }
    link.tunnels = Some(Box::default());
    Ok(())
}

/// Removes a container that was created and is of no use: otherwise it would stay behind for good.
async fn discard(docker: &Docker, id: &str) {
    if let Err(error) = docker.remove_container(id).await {
        tracing::warn!(%error, container = %id, "a failed sandbox was not removed");
    }
}

/// Puts something empty and read-only in the place of each volume that the image declares. Docker would
/// make one on the disk, without limit, that a job could write to and no reset looks at, though the
/// image is to be read-only. Whether there were any.
fn close_volumes(volumes: &[String], spec: &mut ContainerSpec) -> bool {
    let before = spec.tmpfs.len();
    for volume in volumes.iter().filter(|_| spec.readonly_root) {
        let path = format!("/{}", volume.trim_matches('/'));
        let is_ours = spec.volumes.iter().any(|(_, mount)| *mount == path)
            || spec.tmpfs.iter().any(|tmpfs| tmpfs.path == path);
        if !is_ours {
            let options = "ro,noexec,nosuid,nodev,size=4096".to_owned();
            spec.tmpfs.push(Tmpfs { path, options });
        }
    }
    spec.tmpfs.len() > before
}

/// Waits for a frame, but not for ever.
pub(super) async fn within(
    limit: Duration,
    doing: &'static str,
    next: impl Future<Output = Result<Frame, LinkError>>,
) -> Result<Frame, LinkError> {
    tokio::time::timeout(limit, next).await.unwrap_or(Err(LinkError::Silent(doing)))
}

pub(super) fn expect(frame: &Frame, kind: Kind) -> Result<(), LinkError> {
    if frame.kind == kind { Ok(()) } else { Err(LinkError::OutOfTurn(frame.kind)) }
}

/// Reads a frame's message.
pub(super) fn parse<M: serde::de::DeserializeOwned>(frame: &Frame) -> Result<M, LinkError> {
    parse_message(&frame.payload).map_err(LinkError::from)
}

fn container_spec(origin: &Origin, profile: &Profile) -> Result<ContainerSpec, EngineError> {
    let tmpfs = vec![
        Tmpfs {
            path: "/sandbox".into(),
            options: format!(
                "rw,exec,nosuid,nodev,size={},uid=100,gid=101,mode=0755",
                profile.sandbox_bytes
            ),
        },
        Tmpfs {
            path: "/tmp".into(),
            options: format!("rw,noexec,nosuid,nodev,size={},mode=1777", profile.tmp_bytes),
        },
    ];
    let mut volumes = vec![(origin.volume.clone(), volume::MOUNT)];
    if let Some(packages) = &profile.packages {
        volumes.push((packages.clone(), packages::mount(profile.runtime)));
    }
    let labels = HashMap::from([
        (LABEL_MANAGED.to_owned(), "true".to_owned()),
        (LABEL_OWNER.to_owned(), origin.owner.clone()),
        (LABEL_WORKER.to_owned(), origin.worker.to_string()),
        (LABEL_RUNTIME.to_owned(), profile.runtime.to_string()),
    ]);
    let making = origin.kinds.making(profile.isolation)?;
    Ok(ContainerSpec {
        runtime: making.runtime.clone(),
        arguments: making.arguments(),
        user_processes: making.user_processes(profile.pids),
        image: profile.image.clone(),
        entrypoint: volume::RUNNER.to_owned(),
        volumes,
        memory_bytes: making.memory_bytes(profile.memory_bytes),
        cpu_millis: profile.cpu_millis,
        pids: making.threads(profile.pids),
        readonly_root: profile.readonly_root,
        tmpfs,
        network: match profile.network {
            Network::None | Network::Filtered => "none",
            Network::Host => "host",
        },
        // With the host's network these would be the host's.
        sysctls: if profile.network == Network::Host { &[] } else { &LOOPBACK_SYSCTLS },
        capabilities: &CAPABILITIES,
        seccomp: origin.seccomp.profile(&profile.seccomp, profile.runtime, making.is)?,
        labels,
    })
}
