//! One installation: a sandbox of its own, in which nothing of a tenant's has run or will run, installs
//! the packages as the sandbox user with no way out but to the registries; what it leaves is taken
//! apart, cleaned, and put into a volume.

use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use runner::protocol::{Exited, Failed, Kind, Start};
use shared::audit::SecurityEvent;
use shared::config::Seccomp;
use shared::execution::{Network, PackageSet, Phase};
use shared::isolation::Isolation;
use shared::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::archive::{ArchiveError, Contents, sanitise};
use super::cause::{self, Room};
use super::key::Key;
use super::registries::Registries;
use super::store::{Store, Stored};
use super::{layout, way_out};
use crate::egress::{Outside, Report};
use crate::engine::docker::Docker;
use crate::engine::link::LinkError;
use crate::engine::mask::Masker;
use crate::engine::pieces::Pieces;
use crate::engine::program::{Order, Program, drive};
use crate::engine::sandbox::{Origin, Profile, Sandbox, parse};
use crate::engine::{Console, EngineError, run};

/// Output of a package manager that is kept for its failure.
const KEPT_OUTPUT_BYTES: u64 = 256 << 10;
/// Pieces of the archive on their way, before and after cleaning.
const PIECES: usize = 16;
/// Size of the cleaned ones.
const PIECE_BYTES: usize = 256 << 10;
/// What an installer has besides the room for its files.
const MEMORY_BYTES: u64 = 1 << 30;
const TMP_BYTES: u64 = 256 << 20;
const CPU_MILLIS: u64 = 2000;
const PIDS: u32 = 256;
/// Exit code of what ran out of time.
const TIMED_OUT: i32 = 137;

/// Why there are no packages. Shared by all who wait for them.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// The package manager, or what it installed, is to blame.
    Packages {
        /// Its exit code.
        exit_code: i32,
        /// Its words.
        stderr: String,
    },
    /// This machine is.
    Engine(String),
}

impl Failure {
    pub(super) fn of_engine(error: EngineError) -> Self {
        Self::Engine(error.to_string())
    }

    fn of_archive(error: &ArchiveError) -> Self {
        Self::Packages { exit_code: 1, stderr: error.to_string() }
    }

    pub(super) fn timed_out(limit: Duration, report: &Report) -> Self {
        let marker = format!(
            "PACKAGE INSTALL TIMED OUT after {} ms (worker.installTimeoutMs)",
            limit.as_millis()
        );
        let told = std::iter::once(marker).chain(cause::of_network(report)).collect::<Vec<_>>();
        Self::Packages { exit_code: TIMED_OUT, stderr: told.join("; ") }
    }
}

/// What installations share.
pub(super) struct Installer {
    pub(super) docker: Docker,
    pub(super) origin: Origin,
    pub(super) outside: Outside,
    pub(super) store: Store,
    pub(super) registries: Registries,
    /// Longest time of one.
    pub(super) limit: Duration,
    /// Bytes that one set of packages may have.
    pub(super) max_bytes: u64,
}

/// What is to be installed.
pub(super) struct Wanted {
    pub(super) key: Key,
    pub(super) runtime: Runtime,
    /// Of the job that it is installed for.
    pub(super) isolation: Isolation,
    pub(super) image: String,
    pub(super) packages: PackageSet,
}

/// The sandbox of an installer: `room_bytes` for what it downloads and unpacks.
pub(super) fn profile(
    runtime: Runtime,
    isolation: Isolation,
    image: &str,
    room_bytes: u64,
) -> Profile {
    Profile {
        image: image.to_owned(),
        packages: None,
        runtime,
        network: Network::Filtered,
        isolation,
        seccomp: Seccomp::Strict,
        memory_bytes: room_bytes.saturating_add(MEMORY_BYTES),
        cpu_millis: CPU_MILLIS,
        pids: PIDS,
        sandbox_bytes: room_bytes,
        tmp_bytes: TMP_BYTES,
        readonly_root: true,
    }
}

/// A package manager that has come to an end.
struct Ended {
    exit_code: i32,
    timed_out: bool,
    stderr: String,
}

impl Installer {
    /// Installs into a new volume. Leaves nothing behind if it fails. `events` gets what was blocked.
    pub(super) async fn install(
        &self,
        wanted: &Wanted,
        script: &str,
        events: &mut Vec<SecurityEvent>,
    ) -> Result<Stored, Failure> {
        let deadline = Instant::now() + self.limit;
        let profile = profile(wanted.runtime, wanted.isolation, &wanted.image, self.room_bytes());
        let created = Sandbox::create(&self.docker, &self.origin, profile).await;
        let mut sandbox = created.map_err(Failure::of_engine)?;
        let id = sandbox.id.clone();
        let ended = timeout_at(deadline, self.run_script(&mut sandbox, wanted, script)).await;
        let report = sandbox.take_down_gate().await.unwrap_or_default();
        let outcome = match ended {
            Ok(Ok(Ended { exit_code: 0, timed_out: false, .. })) => {
                self.carry_over(&mut sandbox, wanted, deadline).await
            }
            Ok(Ok(Ended { exit_code, timed_out: false, stderr })) => {
                let (bytes, set_bytes) = (self.room_bytes(), self.max_bytes);
                let room = Room::OfSandbox { bytes, set_bytes };
                let stderr = cause::explain(&stderr, &report, room);
                Err(Failure::Packages { exit_code, stderr })
            }
            Ok(Err(failure)) => Err(failure),
            Ok(Ok(_)) | Err(_) => Err(Failure::timed_out(self.limit, &report)),
        };
        events.extend(report.events);
        drop(sandbox);
        if let Err(error) = self.docker.remove_container(&id).await {
            tracing::warn!(%error, container = %id, "an installer was not removed at once");
        }
        outcome
    }

    /// Room for what was downloaded, and for what is made of it.
    fn room_bytes(&self) -> u64 {
        self.max_bytes.saturating_mul(2)
    }

    async fn run_script(
        &self,
        sandbox: &mut Sandbox,
        wanted: &Wanted,
        script: &str,
    ) -> Result<Ended, Failure> {
        let Self { docker, origin, registries, .. } = self;
        let places = registries.places(wanted.runtime, sandbox, docker, origin).await?;
        let settings = registries.settings(wanted.runtime).await;
        for (path, text) in [
            ("/sandbox/.npmrc", &settings.registries.npm_config),
            ("/sandbox/.config/pip/pip.conf", &settings.registries.pip_config),
        ] {
            if !text.is_empty() {
                let queued = run::queue_file(sandbox, path, 0o644, text.as_bytes());
                queued.map_err(|error| Failure::Engine(error.to_string()))?;
            }
        }
        let mut environment = sandbox.environment.clone();
        // `/tmp` cannot hold programs, which some packages build and run.
        environment.insert("TMPDIR".into(), "/sandbox".into());
        environment.insert("NO_COLOR".into(), "1".into());
        // A registry may be on the worker's own loopback: in here nothing is to be reached but through
        // the tunnel.
        environment.retain(|name, _| !name.eq_ignore_ascii_case("no_proxy"));
        let words = ["sh", "-c", script, "isol8-install"].into_iter().chain(wanted.packages.iter());
        let start = Start {
            argv: words.map(String::from).collect(),
            env: environment,
            cwd: "/sandbox".into(),
            timeout_ms: milliseconds(self.limit),
            output_limit_bytes: KEPT_OUTPUT_BYTES,
            ..Start::default()
        };
        let masker = Masker::of_values(std::iter::empty());
        let program = Program {
            order: Order::new(&start).map_err(Failure::of_engine)?,
            stdin: None,
            stdin_stays_open: false,
            phase: Phase::Setup,
            masker: &masker,
            limit_bytes: KEPT_OUTPUT_BYTES,
            interpreter: None,
        };
        sandbox.put_up_gate(way_out::gate(&self.outside, places)?);
        sandbox.set_way_out(true);
        let never = CancellationToken::new();
        let ended = drive(sandbox, program, &mut Console::default(), &never).await;
        let ended = ended.map_err(Failure::of_engine)?;
        let Exited { exit_code, timed_out, stderr_bytes, .. } = ended.exited;
        let stderr = ended.stderr.finish(&masker, KEPT_OUTPUT_BYTES, stderr_bytes).text;
        Ok(Ended { exit_code, timed_out, stderr })
    }

    /// Carries what was installed into a volume, piece by piece.
    async fn carry_over(
        &self,
        sandbox: &mut Sandbox,
        wanted: &Wanted,
        deadline: Instant,
    ) -> Result<Stored, Failure> {
        let volume = Store::name(&wanted.key);
        let (raw, taken) = mpsc::channel(PIECES);
        let (clean, mut cleaned) = mpsc::channel(PIECES);
        let max_bytes = self.max_bytes;
        // Ends with the channels at its sides.
        let cleaning = tokio::task::spawn_blocking(move || clean_up(taken, clean, max_bytes));
        let stream = stream::poll_fn(move |context| cleaned.poll_recv(context));
        let filling = self.store.fill(&volume, &wanted.key, &wanted.image, stream);
        let reading = timeout_at(deadline, read_archive(sandbox, wanted.runtime, max_bytes, raw));
        let (read, filled, cleaned) = tokio::join!(reading, filling, cleaning);
        let stored = async {
            let contents = match cleaned {
                Ok(Ok(contents)) => contents,
                Ok(Err(error)) => return Err(Failure::of_archive(&error)),
                Err(error) => return Err(Failure::Engine(error.to_string())),
            };
            match read {
                Ok(read) => read?,
                Err(_elapsed) => return Err(Failure::timed_out(self.limit, &Report::default())),
            }
            filled.map_err(|error| Failure::Engine(error.to_string()))?;
            let bytes = contents.bytes;
            let marked = self.store.mark(&volume, bytes).await;
            marked.map_err(|error| Failure::Engine(error.to_string()))?;
            Ok(Stored { key: wanted.key.clone(), volume: volume.clone(), bytes })
        };
        let stored = stored.await;
        if stored.is_err() {
            self.store.remove(&volume).await;
        }
        stored
    }
}

/// Reads the archive from the program that makes it.
async fn read_archive(
    sandbox: &mut Sandbox,
    runtime: Runtime,
    max_bytes: u64,
    pieces: mpsc::Sender<Bytes>,
) -> Result<(), Failure> {
    let broken = |error: LinkError| Failure::Engine(error.to_string());
    let limit_bytes = max_bytes.saturating_mul(2);
    let start = Start {
        argv: ["tar", "-C", layout::gathered(runtime), "-cf", "-", "."].map(String::from).into(),
        // Not the user's own folders: nothing that a package has put there is to be started.
        env: [("PATH", "/usr/local/bin:/usr/bin:/bin")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        cwd: "/".into(),
        timeout_ms: milliseconds(Duration::from_secs(600)),
        output_limit_bytes: limit_bytes,
        ..Start::default()
    };
    sandbox.link.queue_message(Kind::Start, &start).map_err(broken)?;
    loop {
        let frame = sandbox.link.next().await.map_err(broken)?;
        match frame.kind {
            Kind::Stdout => {
                if pieces.send(frame.payload).await.is_err() {
                    // Whoever cleans them has seen enough, and says so.
                    return Ok(());
                }
            }
            Kind::Started | Kind::Stderr | Kind::StdinAck => {}
            Kind::Exited => {
                let exited: Exited = parse(&frame).map_err(broken)?;
                if exited.stdout_bytes > limit_bytes {
                    let error = ArchiveError::TooLarge(format!(
                        "{max_bytes} bytes (worker.packageSetSize)"
                    ));
                    return Err(Failure::of_archive(&error));
                }
                if exited.exit_code != 0 {
                    let stderr = "the installed files could not be collected".to_owned();
                    return Err(Failure::Packages { exit_code: exited.exit_code, stderr });
                }
                return Ok(());
            }
            Kind::Failed => {
                let failed: Failed = parse(&frame).map_err(broken)?;
                let stderr = format!("the image has no tar to collect files: {}", failed.message);
                return Err(Failure::Packages { exit_code: 1, stderr });
            }
            kind => return Err(broken(LinkError::OutOfTurn(kind))),
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Cleans an archive, on a thread that may block.
fn clean_up(
    taken: mpsc::Receiver<Bytes>,
    clean: mpsc::Sender<io::Result<Bytes>>,
    max_bytes: u64,
) -> Result<Contents, ArchiveError> {
    let from = Pieces::new(taken);
    let clean = Arc::new(clean);
    let to = BufWriter::with_capacity(PIECE_BYTES, Cleaned(Arc::clone(&clean)));
    let outcome = sanitise(from, to, max_bytes);
    if outcome.is_err() {
        // So that half an archive is not taken for a whole one. Nobody there: none is.
        drop(clean.blocking_send(Err(io::ErrorKind::InvalidData.into())));
    }
    outcome
}

/// Where pieces of a cleaned archive go.
struct Cleaned(Arc<mpsc::Sender<io::Result<Bytes>>>);

impl Write for Cleaned {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(data);
        self.0.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
