//! `isol8 setup`: makes a bare machine ready to run sandboxes. Safe to run again at any time; what is
//! in order is left alone.

use std::collections::{BTreeMap, HashMap};
use std::io::{IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use shared::runtime::Runtime;
use worker::engine::images::{Event, PackageSet, Plan, Wanted};

use crate::host::{Privilege, dockerd, os_image, packages, registries};

/// Time between two steps of a spinner.
const TICK: Duration = Duration::from_millis(100);
/// Longest part of a build's line that is shown.
const SHOWN_CHARS: usize = 90;

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
    /// Install nothing on this machine and start no engine; only build images.
    #[arg(long)]
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
                packages.insert(runtime, PackageSet::from_list(list)?);
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
    screen.close();
    report(&plan)
}

fn report(plan: &Plan) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for runtime in Runtime::ALL {
        let note = if plan.stale.contains(&runtime) { "" } else { ": Up to date" };
        writeln!(out, "[OK] {}{note}", runtime.name())?;
    }
    writeln!(out, "[DONE] Setup complete!")?;
    Ok(())
}

/// Shows progress on stderr: a spinner for each thing under way on a terminal, else a line for each
/// step.
struct Screen {
    bars: MultiProgress,
    running: Mutex<HashMap<String, (Option<ProgressBar>, Instant)>>,
    is_terminal: bool,
}

impl Screen {
    fn new() -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        Self { bars: MultiProgress::new(), running: Mutex::default(), is_terminal }
    }

    /// Shows what `topic` is doing now.
    fn tell(&self, topic: &str, line: &str) {
        let line: String = line.chars().take(SHOWN_CHARS).collect();
        if !self.is_terminal {
            return self.write_line(&format!("[INFO] {topic}: {line}"));
        }
        let mut running = self.lock();
        let (bar, _) = running
            .entry(topic.to_owned())
            .or_insert_with(|| (Some(self.add_spinner(topic)), Instant::now()));
        if let Some(bar) = bar {
            bar.set_message(line);
        }
    }

    /// Shows an event of a build.
    fn show(&self, event: Event<'_>) {
        match event {
            Event::Started { image } => {
                self.lock().entry(image.to_owned()).or_insert_with(|| {
                    (self.is_terminal.then(|| self.add_spinner(image)), Instant::now())
                });
                self.tell(image, "building");
            }
            // Steps are few; what they print is only for a terminal, where it is overwritten.
            Event::Output { image, line } => {
                if self.is_terminal || line.starts_with("Step ") {
                    self.tell(image, line);
                }
            }
            Event::Built { image } => {
                let seconds =
                    self.lock().get(image).map_or(0.0, |(_, start)| start.elapsed().as_secs_f64());
                self.done(image);
                self.write_line(&format!("[INFO] {image}: built in {seconds:.1} s"));
            }
            Event::PredecessorInUse { image } => {
                self.write_line(&format!(
                    "[WARN] {image}: the image it replaces is still used by a container and stays"
                ));
            }
        }
    }

    /// Ends what is shown of `topic`.
    fn done(&self, topic: &str) {
        if let Some((Some(bar), _)) = self.lock().remove(topic) {
            bar.finish_and_clear();
        }
    }

    fn close(&self) {
        for (_, (bar, _)) in self.lock().drain() {
            if let Some(bar) = bar {
                bar.finish_and_clear();
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Option<ProgressBar>, Instant)>> {
        self.running.lock().expect("nothing panics while holding it")
    }

    fn add_spinner(&self, topic: &str) -> ProgressBar {
        let style = ProgressStyle::with_template("{spinner} {prefix}: {wide_msg}")
            .expect("the template is valid");
        let bar = self.bars.add(ProgressBar::new_spinner().with_style(style));
        bar.set_prefix(topic.to_owned());
        bar.enable_steady_tick(TICK);
        bar
    }

    /// Progress that can't be shown is no reason to stop.
    fn write_line(&self, line: &str) {
        self.bars.suspend(|| writeln!(std::io::stderr().lock(), "{line}")).ok();
    }
}
