//! `isol8 setup`: makes a bare machine ready to run sandboxes. Safe to run again at any time; what is
//! in order is left alone.

use std::collections::BTreeMap;

use anyhow::Context as _;
use shared::execution::PackageSet;
use shared::runtime::Runtime;
use worker::engine::images::{Plan, Wanted};

use super::build;
use crate::host::{Privilege, dockerd, gvisor, os_image, packages, registries};
use crate::screen::Screen;
use crate::{printer, settings};

/// Prepares this machine: Docker, Redis, and the sandbox images.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct SetupArgs {
    /// Rebuild every image, even if it is up to date.
    #[arg(long)]
    pub(crate) force: bool,
    /// Python packages to bake into isol8:python, comma-separated. Without this option the image
    /// keeps what it has; an empty value removes them.
    #[arg(long, value_name = "PACKAGES")]
    pub(crate) python: Option<String>,
    /// npm packages to bake into isol8:node.
    #[arg(long, value_name = "PACKAGES")]
    pub(crate) node: Option<String>,
    /// npm packages to bake into isol8:bun.
    #[arg(long, value_name = "PACKAGES")]
    pub(crate) bun: Option<String>,
    /// Packages to bake into isol8:deno, as npm:NAME or jsr:@SCOPE/NAME.
    #[arg(long, value_name = "PACKAGES")]
    pub(crate) deno: Option<String>,
    /// System packages to bake into isol8:bash.
    #[arg(long, value_name = "PACKAGES")]
    pub(crate) bash: Option<String>,
    /// Debian or Ubuntu image to build the sandbox images on.
    #[arg(long, value_name = "IMAGE")]
    pub(crate) base_image: Option<String>,
    /// Install gVisor too, and register it with the engine, for isolation gvisor.
    #[arg(long)]
    pub(crate) gvisor: bool,
    /// Install nothing on this machine and start no engine; only build images.
    #[arg(long, conflicts_with = "gvisor")]
    pub(crate) no_host: bool,
}

impl SetupArgs {
    fn packages(&self) -> anyhow::Result<BTreeMap<Runtime, PackageSet>> {
        let lists = [
            (Runtime::Python, &self.python),
            (Runtime::Node, &self.node),
            (Runtime::Bun, &self.bun),
            (Runtime::Deno, &self.deno),
            (Runtime::Bash, &self.bash),
        ];
        let mut packages = BTreeMap::new();
        for (runtime, list) in lists {
            if let Some(list) = list {
                packages.insert(runtime, PackageSet::from_list(runtime, list)?);
            }
        }
        Ok(packages)
    }
}

/// Runs the command.
///
/// # Errors
/// One message that says what is in the way and what to do about it.
pub(crate) async fn run(args: SetupArgs) -> anyhow::Result<()> {
    tokio::select! {
        result = Box::pin(prepare(args)) => result,
        // Leaving this way drops what is under way, which ends its processes and removes its files.
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.context("waiting for an interrupt")?;
            anyhow::bail!("interrupted; run `isol8 setup` again to go on")
        }
    }
}

async fn prepare(args: SetupArgs) -> anyhow::Result<()> {
    // Before anything is changed: a typing mistake should cost nothing.
    let wanted_packages = args.packages()?;
    let prebuilt = settings::load()?.config.prebuilt_images;
    let screen = Screen::new();
    let privilege = Privilege::detect();
    let tell = |line: &str| screen.tell("host", line);

    let docker = match dockerd::connect().await {
        Ok(docker) => docker,
        Err(error) if args.no_host => {
            return Err(dockerd::not_running(error));
        }
        Err(_) => {
            packages::ensure(&packages::DOCKER, privilege, &tell).await?;
            dockerd::start(privilege, &tell).await?
        }
    };
    if !args.no_host {
        packages::ensure(&packages::SERVICE, privilege, &tell).await?;
    }
    if args.gvisor {
        gvisor::ensure(&docker, privilege, &tell).await?;
    }

    let wanted = Wanted {
        packages: wanted_packages,
        base_image: args.base_image.clone(),
        force: args.force,
        authorities: registries::authorities(),
    };
    let plan = Plan::make(&docker, wanted).await?;
    if !plan.stale.is_empty() {
        let (os_reference, apt_sources) = if plan.needs_os_image() {
            let base_image = args.base_image.as_deref();
            let image = os_image::obtain(&docker, base_image, privilege, &tell).await?;
            (image.reference, image.apt_sources)
        } else {
            (String::new(), String::new())
        };
        let settings = registries::settings(apt_sources).await;
        screen.done("host");
        plan.build(&docker, &os_reference, &settings, &|event| screen.show(event)).await?;
    }
    let built = build::prebuilt(&docker, &prebuilt, args.force, &screen).await?;
    screen.close();
    for runtime in Runtime::ALL {
        let note = if plan.stale.contains(&runtime) { "" } else { ": Up to date" };
        printer::line(format!("[OK] {}{note}", runtime.name()));
    }
    for (image, is_new) in prebuilt.iter().zip(built) {
        let note = if is_new { "" } else { ": Up to date" };
        printer::line(format!("[OK] {}{note}", image.tag));
    }
    printer::line("[DONE] Setup complete!");
    Ok(())
}
