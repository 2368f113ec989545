//! Gets a Docker engine to answer: the one that runs, else the machine's service, else one started
//! here. An engine started here outlives this command.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::{Child, Command};
use tokio::time::Instant;
use worker::engine::docker::{Docker, DockerError};

use super::{Privilege, Tell, find_program, last_lines, run};

/// How long an answer to a ping may take.
const PING_LIMIT: Duration = Duration::from_secs(5);
/// How long an engine may take to start. Loading many images from a cold disk is slow.
const START_LIMIT: Duration = Duration::from_secs(90);
/// Time between two pings while it starts.
const PING_INTERVAL: Duration = Duration::from_millis(150);
/// Most of the engine's log that is read to explain a failed start.
const LOG_TAIL_BYTES: u64 = 16 * 1024;

/// What a failure to get an engine begins with.
const NOT_RUNNING: &str = "Docker is not running or not installed.";

/// Wraps the reason in the one message a user gets.
pub(crate) fn not_running(reason: impl Into<anyhow::Error>) -> anyhow::Error {
    anyhow::anyhow!("{NOT_RUNNING} {:#}", reason.into())
}

/// An engine as this machine would run it.
#[derive(Clone, Debug)]
pub(crate) struct Daemon {
    /// Further arguments of `dockerd`.
    pub(crate) arguments: Vec<String>,
    /// Files that say which process is running: process name, file.
    pub(crate) pid_files: Vec<(&'static str, PathBuf)>,
    /// Sockets that the engine makes anew.
    pub(crate) sockets: Vec<PathBuf>,
    /// Where its log goes.
    pub(crate) log: PathBuf,
}

impl Default for Daemon {
    fn default() -> Self {
        Self {
            arguments: Vec::new(),
            pid_files: vec![
                ("dockerd", "/var/run/docker.pid".into()),
                ("containerd", "/var/run/docker/containerd/containerd.pid".into()),
            ],
            sockets: vec![
                "/var/run/docker.sock".into(),
                "/var/run/docker/containerd/containerd.sock".into(),
                "/var/run/docker/containerd/containerd-debug.sock".into(),
            ],
            log: "/var/log/isol8-dockerd.log".into(),
        }
    }
}

/// Connects to an engine that is already answering.
///
/// # Errors
/// If none is.
pub(crate) async fn connect() -> Result<Docker, DockerError> {
    let attempt = async {
        let docker = Docker::connect().await?;
        docker.ping().await?;
        Ok(docker)
    };
    tokio::time::timeout(PING_LIMIT, attempt)
        .await
        .unwrap_or(Err(DockerError::Silent { waited: PING_LIMIT }))
}

/// Starts the machine's engine and waits until it answers.
///
/// # Errors
/// One message that says why there is no engine.
pub(crate) async fn start(privilege: Privilege, tell: Tell<'_>) -> anyhow::Result<Docker> {
    if let Some(host) = std::env::var_os("DOCKER_HOST") {
        bail!(
            "{NOT_RUNNING} DOCKER_HOST is set to {} and nothing answers there; \
             start that engine, or unset the variable to use a local one.",
            host.display()
        );
    }
    if Path::new("/run/systemd/system").exists() {
        tell("starting the Docker service");
        let mut command = privilege.command("systemctl", "start Docker")?;
        command.args(["start", "docker"]);
        run(&mut command, "start the Docker service", START_LIMIT).await.map_err(not_running)?;
        return wait(|| false, &async || Ok(connect().await?)).await.map_err(not_running);
    }
    tell("starting the Docker engine");
    let daemon = Daemon::default();
    launch(&daemon, privilege, async || Ok(connect().await?)).await.map_err(not_running)
}

/// Starts `daemon` and waits until `connect` succeeds.
///
/// # Errors
/// With the end of the engine's log if it ends or does not answer in time.
pub(crate) async fn launch<T>(
    daemon: &Daemon,
    privilege: Privilege,
    connect: impl AsyncFn() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    if let Some(pid) = running(&daemon.pid_files, "dockerd") {
        // It may be starting up this very moment, or on its way out.
        let is_gone = || running(&daemon.pid_files, "dockerd") != Some(pid);
        match wait(is_gone, &connect).await {
            Ok(connected) => return Ok(connected),
            Err(error) if is_gone() => tracing::debug!("dockerd {pid} has ended: {error:#}"),
            Err(error) => {
                return Err(error.context(format!(
                    "dockerd runs as process {pid} but does not answer: stop it and try again"
                )));
            }
        }
    }
    clear_leftovers(daemon, privilege).await?;
    let log_start = std::fs::metadata(&daemon.log).map_or(0, |meta| meta.len());
    let mut child = spawn(daemon, privilege)?;
    // An error here is as good as an end: either way nothing is known to be running.
    let has_ended = || child.try_wait().map_or(true, |status| status.is_some());
    wait(has_ended, &connect).await.with_context(|| {
        format!(
            "dockerd did not come up; the end of its log, {}:\n{}",
            daemon.log.display(),
            log_tail(&daemon.log, log_start)
        )
    })
}

/// Has this machine's engine read its configuration file again; what it runs goes on.
///
/// # Errors
/// If there is no telling which process it is.
pub(crate) async fn reload(privilege: Privilege) -> anyhow::Result<()> {
    let pid = running(&Daemon::default().pid_files, "dockerd").context(
        "the engine's process is not known, as it was not started by isol8 or the system; have it reload its \
         configuration (`kill -HUP` its process), and run this again",
    )?;
    let mut command = privilege.command("kill", "have Docker reload its configuration")?;
    command.args(["-HUP", &pid.to_string()]);
    run(&mut command, "have Docker reload its configuration", Duration::from_secs(10)).await?;
    Ok(())
}

/// A process that the files name, that lives, and that is what the file says it is. After a hard stop a
/// file may name a process that is gone, or whose number another program has since been given.
fn running(pid_files: &[(&'static str, PathBuf)], name: &str) -> Option<u32> {
    pid_files.iter().filter(|(process, _)| *process == name).find_map(|(process, file)| {
        let pid: u32 = std::fs::read_to_string(file).ok()?.trim().parse().ok()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // `pid (name) state …`; the name may hold anything, so the last bracket counts. One that has
        // ended stays listed as a zombie until its parent looks.
        let (name, rest) = status.split_once('(')?.1.rsplit_once(')')?;
        (name == *process && !rest.trim_start().starts_with('Z')).then_some(pid)
    })
}

/// Removes what a hard stop left behind and a new engine would stumble over. A containerd that
/// outlived its engine is left alone: the new one takes it over.
async fn clear_leftovers(daemon: &Daemon, privilege: Privilege) -> anyhow::Result<()> {
    let has_containerd = running(&daemon.pid_files, "containerd").is_some();
    let is_containerds = |path: &Path| path.to_string_lossy().contains("containerd");
    let leftovers: Vec<&PathBuf> = daemon
        .pid_files
        .iter()
        .map(|(_, file)| file)
        .chain(&daemon.sockets)
        .filter(|path| path.exists() && !(has_containerd && is_containerds(path)))
        .collect();
    if leftovers.is_empty() {
        return Ok(());
    }
    let mut command = privilege.command("rm", "start Docker")?;
    command.arg("-f").args(leftovers);
    run(&mut command, "clear what an earlier engine left", Duration::from_secs(10)).await?;
    Ok(())
}

/// Starts the process in a session of its own, so that closing this terminal does not reach it.
fn spawn(daemon: &Daemon, privilege: Privilege) -> anyhow::Result<Child> {
    if find_program("dockerd").is_none() {
        bail!("there is no dockerd; install Docker, or run `isol8 setup` without --no-host");
    }
    let script = r#"log="$1"; shift; exec dockerd "$@" >>"$log" 2>&1 </dev/null"#;
    let mut command: Command = privilege.command("setsid", "start Docker")?;
    command
        .args(["sh", "-c", script, "sh"])
        .arg(&daemon.log)
        .args(&daemon.arguments)
        .env("PATH", search_path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().context("dockerd could not be started")
}

/// The engine calls programs that live where a user's `PATH` may not lead.
fn search_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin")
}

/// Tries until it answers, has ended, or time is up.
async fn wait<T>(
    mut has_ended: impl FnMut() -> bool,
    connect: &impl AsyncFn() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        let error = match connect().await {
            Ok(connected) => return Ok(connected),
            Err(error) => error,
        };
        if has_ended() {
            return Err(error.context("its process has ended"));
        }
        if Instant::now() > deadline {
            return Err(error.context(format!("no answer within {} s", START_LIMIT.as_secs())));
        }
        tokio::time::sleep(PING_INTERVAL).await;
    }
}

/// What the engine logged since `start`, at most the end of it.
fn log_tail(log: &Path, start: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(log)?;
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(start.max(end.saturating_sub(LOG_TAIL_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => last_lines(&String::from_utf8_lossy(&bytes)),
        Err(error) => format!("(the log can't be read: {error})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_counts_only_if_that_process_is_what_it_says() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("docker.pid");
        let own = std::process::id().to_string();
        let comm = std::fs::read_to_string("/proc/self/comm").expect("own name");
        let comm: &'static str = Box::leak(comm.trim().to_owned().into_boxed_str());

        assert_eq!(running(&[("dockerd", file.clone())], "dockerd"), None);
        std::fs::write(&file, format!("{own}\n")).expect("write");
        assert_eq!(running(&[("dockerd", file.clone())], "dockerd"), None);
        assert_eq!(running(&[(comm, file.clone())], comm), Some(std::process::id()));
        std::fs::write(&file, "4194999").expect("write");
        assert_eq!(running(&[(comm, file)], comm), None);
    }

    #[test]
    fn log_of_earlier_starts_is_not_shown() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let log = folder.path().join("log");
        std::fs::write(&log, "old failure\nnew failure\n").expect("write");
        assert_eq!(log_tail(&log, 12), "new failure");
    }
}
