//! The Docker engine and the images on it.

use shared::config::Config;
use shared::runtime::Runtime;
use worker::engine::Kinds;
use worker::engine::docker::{Docker, EngineInfo, ImageInfo};
use worker::engine::images::{LABEL_BUILD_HASH, Plan, Versions, Wanted};

use super::Check;
use crate::host::{dockerd, registries};
use crate::settings;

/// The oldest API that offers all that sandboxes need (Docker 20.10).
const OLDEST_API: (u32, u32) = (1, 41);

pub(super) async fn checks() -> Vec<Check> {
    let docker = match dockerd::connect().await {
        Ok(docker) => docker,
        Err(error) => {
            let mend = "run `isol8 setup`, which installs and starts it; if it runs elsewhere, set \
                        DOCKER_HOST";
            return vec![Check::fail("docker", error.to_string(), mend)];
        }
    };
    let info = match docker.info().await {
        Ok(info) => info,
        Err(error) => {
            return vec![Check::fail("docker", error.to_string(), "restart the Docker engine")];
        }
    };
    let mut checks = vec![engine(&info), storage(&info), cgroups(&info), seccomp(&info)];
    let config = settings::load().ok();
    checks.push(isolation(&info, config.as_ref().map(|loaded| &loaded.config)));
    checks.extend(images(&docker).await);
    checks
}

fn engine(info: &EngineInfo) -> Check {
    let found = format!("version {}, API {}", info.version, info.api_version);
    let mut numbers = info.api_version.split('.').map(|number| number.parse().unwrap_or(0));
    let api = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if api < OLDEST_API {
        return Check::fail("docker", found, "upgrade to Docker 20.10 or later");
    }
    Check::ok("docker", found)
}

fn storage(info: &EngineInfo) -> Check {
    let found = format!("{} in {}", info.storage_driver, info.root_directory);
    match info.storage_driver.as_str() {
        "overlay2" | "overlayfs" | "btrfs" | "zfs" => Check::ok("storage driver", found),
        _ => Check::warn(
            "storage driver",
            found,
            "this driver copies whole images for each container; use overlay2",
        ),
    }
}

fn cgroups(info: &EngineInfo) -> Check {
    let found = format!("version {}", info.cgroup_version);
    if !info.has_limits {
        return Check::fail(
            "cgroups",
            format!("{found}, but the engine cannot limit memory or processes"),
            "a rootless engine needs cgroup version 2 with the controllers delegated to its user",
        );
    }
    match info.cgroup_version.as_str() {
        "2" => Check::ok("cgroups", found),
        "1" => Check::warn(
            "cgroups",
            found,
            "limits hold, but the kernel's maintainers advise version 2: boot with \
             systemd.unified_cgroup_hierarchy=1",
        ),
        _ => Check::fail("cgroups", "none", "limits cannot be set; mount cgroups"),
    }
}

fn seccomp(info: &EngineInfo) -> Check {
    if info.has_seccomp {
        return Check::ok("seccomp", "offered by engine and kernel");
    }
    Check::warn(
        "seccomp",
        "not offered: sandboxes would run WITHOUT a system-call filter",
        "use a kernel with CONFIG_SECCOMP_FILTER and a Docker engine built with seccomp",
    )
}

/// Which kinds of isolation jobs can ask for here.
fn isolation(info: &EngineInfo, config: Option<&Config>) -> Check {
    let named = config.map(|config| config.worker.runtimes.clone()).unwrap_or_default();
    let kinds = match Kinds::new(info, &named) {
        Ok(kinds) => kinds,
        Err(error) => {
            let mend = "name a runtime that there is, or register that one with the engine";
            return Check::fail("isolation", error.to_string(), mend);
        }
    };
    let shown = kinds.iter().map(|(kind, runtime)| match runtime {
        Some(runtime) => format!("{} ({runtime})", kind.name()),
        None => format!("{} ({})", kind.name(), info.default_runtime),
    });
    let found = shown.collect::<Vec<_>>().join(", ");
    let wanted = config.map(|config| config.defaults.isolation).unwrap_or_default();
    if !kinds.iter().any(|(kind, _)| kind == wanted) {
        let found = format!("{found}; defaults.isolation is {}", wanted.name());
        let mend = "run `isol8 setup --gvisor`, or register such a runtime with the engine; until then \
                    requests that ask for no other isolation do not run here";
        return Check::warn("isolation", found, mend);
    }
    let is_alone = kinds.iter().count() == 1;
    let note =
        if is_alone { "; `isol8 setup --gvisor` adds gVisor, which is not a must" } else { "" };
    Check::ok("isolation", format!("{found}{note}"))
}

async fn images(docker: &Docker) -> Vec<Check> {
    let wanted = Wanted { authorities: registries::authorities(), ..Wanted::default() };
    let plan = match Plan::make(docker, wanted).await {
        Ok(plan) => plan,
        Err(error) => {
            return vec![Check::fail("images", error.to_string(), "run `isol8 setup`")];
        }
    };
    let mut checks = Vec::new();
    for runtime in Runtime::ALL {
        let is_current = plan.up_to_date.contains(&runtime);
        checks.push(match docker.image_info(runtime.image()).await {
            Ok(Some(image)) => image_check(runtime, &image, is_current),
            Ok(None) => {
                let found = format!("{} is missing", runtime.image());
                Check::fail("image", found, "run `isol8 setup`")
            }
            Err(error) => Check::fail("image", error.to_string(), "restart the Docker engine"),
        });
    }
    checks
}

fn image_check(runtime: Runtime, image: &ImageInfo, is_current: bool) -> Check {
    let Versions { interpreters: versions, agent, .. } = Versions::embedded();
    let version = match runtime {
        Runtime::Node => format!("node {}, ", versions.node),
        Runtime::Bun => format!("bun {}, ", versions.bun),
        Runtime::Deno => format!("deno {}, ", versions.deno),
        Runtime::Agent => format!("pi {}, ", agent.pi),
        Runtime::Python | Runtime::Bash => String::new(),
    };
    let hash = image.labels.get(LABEL_BUILD_HASH).map_or("none", String::as_str);
    let build = format!("build {}", hash.chars().take(12).collect::<String>());
    let name = runtime.image();
    if is_current {
        return Check::ok("image", format!("{name} ({version}{build})"));
    }
    let found = format!("{name} ({build}) is not what this version would build");
    Check::warn("image", found, "run `isol8 setup`")
}
