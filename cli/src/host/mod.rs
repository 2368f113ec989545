//! Makes a bare machine ready: missing system packages, a running Docker engine, the operating
//! system image, and the host's own way to its package registries.

mod answers;
mod apt;
pub(crate) mod dockerd;
pub(crate) mod os_image;
pub(crate) mod packages;
pub(crate) mod registries;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::Command;

/// How many lines of a failed command's output are worth showing.
const SHOWN_LINES: usize = 15;

/// Says what is being done, for whoever shows it.
pub(crate) type Tell<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// How this process gets things done that need root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Privilege {
    /// It is root.
    Root,
    /// It asks `sudo`.
    Sudo,
    /// It can't.
    None,
}

impl Privilege {
    /// Finds out.
    pub(crate) fn detect() -> Self {
        if nix::unistd::Uid::effective().is_root() {
            Self::Root
        } else if find_program("sudo").is_some() {
            Self::Sudo
        } else {
            Self::None
        }
    }

    /// A command that runs as root.
    ///
    /// # Errors
    /// If there is no way to become root; `purpose` says what it was needed for.
    pub(crate) fn command(self, program: &str, purpose: &str) -> anyhow::Result<Command> {
        match self {
            Self::Root => Ok(Command::new(program)),
            Self::Sudo => {
                let mut command = Command::new("sudo");
                command.arg(program);
                Ok(command)
            }
            Self::None => bail!(
                "root is needed to {purpose}, and there is no sudo here. \
                 Run `isol8 setup` as root, or do that by hand and run it again."
            ),
        }
    }
}

/// Runs a command to its end and returns what it wrote to stdout.
///
/// # Errors
/// With the end of its output if it fails, or after `limit`.
pub(crate) async fn run(
    command: &mut Command,
    action: &str,
    limit: Duration,
) -> anyhow::Result<String> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(limit, command.output())
        .await
        .with_context(|| format!("could not {action}: it took longer than {} s", limit.as_secs()))?
        .with_context(|| format!("could not {action}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let all = format!("{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
        bail!("could not {action} ({}):\n{}", output.status, last_lines(&all));
    }
    Ok(stdout)
}

/// The end of a command's output.
pub(crate) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}

/// Finds a program by name, also where system programs live that a user's `PATH` may leave out.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|program| is_executable(program))
}

fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| {
        meta.is_file() && std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o111 != 0
    })
}
