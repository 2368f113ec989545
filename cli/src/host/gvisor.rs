//! gVisor on this machine: its package, and its entry among the runtimes of the Docker engine.

use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use shared::isolation::Isolation;
use tokio::time::Instant;
use worker::engine::docker::Docker;

use super::{Privilege, Tell, dockerd, find_program, packages, run};

/// Where the engine reads what it is to do.
const CONFIGURATION: &str = "/etc/docker/daemon.json";
/// The name it is registered by.
const NAME: &str = "runsc";
/// `ptrace` works on any machine. There is no network but the sandbox's own loopback: what may be reached goes
/// through the worker. The filter of system calls holds in the sandbox's kernel too.
const ARGUMENTS: [&str; 3] = ["--platform=ptrace", "--network=none", "--oci-seccomp"];
/// How long the engine may take to know it.
const KNOWN_WITHIN: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(200);

/// Makes sure that the engine has gVisor. A runtime that is registered already is left as it is.
///
/// # Errors
/// One message that says what is in the way.
pub(crate) async fn ensure(
    docker: &Docker,
    privilege: Privilege,
    tell: Tell<'_>,
) -> anyhow::Result<()> {
    if is_known(docker).await? {
        return Ok(());
    }
    ensure!(
        std::env::var_os("DOCKER_HOST").is_none(),
        "DOCKER_HOST leads to an engine that may not be this machine's: register gVisor there, as {NAME} with the \
         arguments {}",
        ARGUMENTS.join(" ")
    );
    packages::ensure(&packages::GVISOR, privilege, tell).await?;
    let program = find_program(NAME).context("runsc is installed, but not where programs are")?;
    tell("registering gVisor with the Docker engine");
    register(Path::new(CONFIGURATION), &program, privilege).await?;
    dockerd::reload(privilege).await?;
    let deadline = Instant::now() + KNOWN_WITHIN;
    while !is_known(docker).await? {
        if Instant::now() > deadline {
            bail!(
                "{CONFIGURATION} names gVisor, but the Docker engine has not taken that over: look into its log, \
                 or restart it"
            );
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

async fn is_known(docker: &Docker) -> anyhow::Result<bool> {
    let info = docker.info().await?;
    Ok(info.runtimes.iter().any(|name| Isolation::Gvisor.known_runtimes().contains(&name.as_str())))
}

/// Adds the runtime to the engine's configuration, and leaves all else there as it is.
async fn register(path: &Path, program: &Path, privilege: Privilege) -> anyhow::Result<()> {
    let shown = path.display();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {shown}")),
    };
    let text = with_runtime(&text, program)
        .with_context(|| format!("cannot add gVisor to {shown}: mend the file first"))?;
    let mut file = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
    file.write_all(text.as_bytes()).context("cannot write a temporary file")?;
    let mut command = privilege.command("sh", "register gVisor")?;
    // Whole or not at all, should the machine stop in between.
    let script = r#"mkdir -p "$(dirname "$2")" && cp "$1" "$2.new" && chmod 644 "$2.new" && mv "$2.new" "$2""#;
    command.args(["-c", script, "sh"]).arg(file.path()).arg(path);
    run(&mut command, "write the engine's configuration", Duration::from_secs(10)).await?;
    Ok(())
}

fn with_runtime(text: &str, program: &Path) -> anyhow::Result<String> {
    let mut whole: Value = match text.trim() {
        "" => json!({}),
        text => serde_json::from_str(text)?,
    };
    let whole_object = whole.as_object_mut().context("it is no JSON object")?;
    let runtimes = whole_object.entry("runtimes").or_insert_with(|| json!({}));
    let runtimes = runtimes.as_object_mut().context("runtimes is no JSON object")?;
    let ours = json!({"path": program, "runtimeArgs": ARGUMENTS});
    runtimes.entry(NAME).or_insert(ours);
    Ok(format!("{whole:#}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_file_says_already_stays() {
        let program = Path::new("/usr/bin/runsc");
        let read = |text: &str| -> Value { serde_json::from_str(text).expect("JSON") };
        let fresh = read(&with_runtime("", program).expect("an empty file will do"));
        assert_eq!(fresh["runtimes"]["runsc"]["path"], "/usr/bin/runsc");
        let old = r#"{"debug": true, "runtimes": {"other": {"path": "/x"}}}"#;
        let new = read(&with_runtime(old, program).expect("others stay"));
        assert_eq!(
            (&new["debug"], &new["runtimes"]["other"]["path"]),
            (&json!(true), &json!("/x"))
        );
        assert_eq!(new["runtimes"]["runsc"], fresh["runtimes"]["runsc"]);
        let own = r#"{"runtimes": {"runsc": {"path": "/own"}}}"#;
        let kept = read(&with_runtime(own, program).expect("the operator's own stays"));
        assert_eq!(kept["runtimes"]["runsc"]["path"], "/own");
        for broken in ["{", "[]", r#"{"runtimes": []}"#] {
            assert!(with_runtime(broken, program).is_err(), "{broken}");
        }
    }
}
