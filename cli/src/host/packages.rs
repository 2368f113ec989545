//! System packages isol8 needs on the host, installed with apt where missing.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use super::{Privilege, Tell, find_program, run};

/// How long an installation may take; slow mirrors are slow.
const INSTALL_LIMIT: Duration = Duration::from_secs(900);

/// Tells package scripts not to start services. Which service runs is decided by us: Docker is
/// started when it is needed, and Redis runs as a child of `isol8 serve`, not on its default port.
const POLICY_FILE: &str = "/usr/sbin/policy-rc.d";
const POLICY: &str =
    "#!/bin/sh\n# Written by isol8 setup for the time of one installation.\nexit 101\n";

/// Something the host must have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need {
    /// The program or file that shows it is there.
    evidence: Evidence,
    /// The Debian package that brings it.
    package: &'static str,
}

#[derive(Clone, Copy, Debug)]
enum Evidence {
    Program(&'static str),
    File(&'static str),
}

/// The Docker engine and what it needs for its networks.
pub(crate) const DOCKER: [Need; 2] = [
    Need { evidence: Evidence::Program("dockerd"), package: "docker.io" },
    Need { evidence: Evidence::Program("iptables"), package: "iptables" },
];

/// What isol8 itself uses.
pub(crate) const SERVICE: [Need; 2] = [
    Need { evidence: Evidence::Program("redis-server"), package: "redis-server" },
    Need {
        evidence: Evidence::File("/etc/ssl/certs/ca-certificates.crt"),
        package: "ca-certificates",
    },
];

/// A kernel in user space for sandboxes, as a runtime of the engine.
pub(crate) const GVISOR: [Need; 1] =
    [Need { evidence: Evidence::Program("runsc"), package: "runsc" }];

/// What makes an operating system image where there is no registry.
pub(crate) const BOOTSTRAP: [Need; 1] =
    [Need { evidence: Evidence::Program("debootstrap"), package: "debootstrap" }];

impl Need {
    fn is_met(self) -> bool {
        match self.evidence {
            Evidence::Program(name) => find_program(name).is_some(),
            Evidence::File(path) => Path::new(path).exists(),
        }
    }
}

/// Installs what is missing among `needs`.
///
/// # Errors
/// If something is missing and can't be installed, naming it.
pub(crate) async fn ensure(
    needs: &[Need],
    privilege: Privilege,
    tell: Tell<'_>,
) -> anyhow::Result<()> {
    let missing: Vec<&str> =
        needs.iter().filter(|need| !need.is_met()).map(|need| need.package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if find_program("apt-get").is_none() {
        anyhow::bail!(
            "these are missing and this system has no apt-get to install them with: {list}. \
             Install them with the system's own package manager and run `isol8 setup` again."
        );
    }
    tell(&format!("installing {list}"));
    let policy = Policy::set(privilege).await?;
    let result = install(&missing, privilege, tell).await;
    policy.unset(privilege).await?;
    result.with_context(|| format!("installing {list} failed"))
}

/// The package lists are fetched only if they turn out to be absent or too old: on most machines
/// they are neither.
async fn install(packages: &[&str], privilege: Privilege, tell: Tell<'_>) -> anyhow::Result<()> {
    let install = async || {
        let arguments = ["install", "-y", "-qq", "--no-install-recommends", "--"].as_slice();
        apt_get(&[arguments, packages].concat(), privilege).await
    };
    if install().await.is_ok() {
        return Ok(());
    }
    tell("refreshing the package lists");
    apt_get(&["update", "-qq"], privilege).await?;
    tell(&format!("installing {}", packages.join(" ")));
    install().await
}

async fn apt_get(arguments: &[&str], privilege: Privilege) -> anyhow::Result<()> {
    let mut command = privilege.command("env", "install system packages")?;
    command
        .args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=120"])
        .args(arguments);
    run(&mut command, "install system packages", INSTALL_LIMIT).await?;
    Ok(())
}

/// The service policy, if we are the ones who set it.
struct Policy {
    is_ours: bool,
}

impl Policy {
    async fn set(privilege: Privilege) -> anyhow::Result<Self> {
        // One that is there, as in most containers, belongs to the machine's owner.
        if Path::new(POLICY_FILE).exists() {
            return Ok(Self { is_ours: false });
        }
        let mut command = privilege.command("sh", "install system packages")?;
        command.args([
            "-c",
            r#"printf %s "$1" > "$2" && chmod 755 "$2""#,
            "sh",
            POLICY,
            POLICY_FILE,
        ]);
        run(&mut command, "hold back services during installation", Duration::from_secs(10))
            .await?;
        Ok(Self { is_ours: true })
    }

    async fn unset(self, privilege: Privilege) -> anyhow::Result<()> {
        if self.is_ours {
            let mut command = privilege.command("rm", "install system packages")?;
            command.args(["-f", POLICY_FILE]);
            run(&mut command, "release services after installation", Duration::from_secs(10))
                .await?;
        }
        Ok(())
    }
}
