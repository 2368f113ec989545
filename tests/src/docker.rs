//! A look at the Docker engine from outside, by way of its own command line.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::node::START_TIMEOUT;

/// The engine's own removal of a container whose worker was killed takes a moment.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

/// Runs `docker` with `arguments` and returns its output; bounded in time.
///
/// # Panics
/// If it fails.
#[must_use]
pub fn docker(arguments: &[&str]) -> String {
    let output = Command::new("timeout")
        .args(["-s", "KILL", "60", "docker"])
        .args(arguments)
        .output()
        .expect("docker can be started");
    assert!(
        output.status.success(),
        "docker {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Containers, running or not, that carry `label`.
#[must_use]
pub fn containers(label: &str) -> Vec<String> {
    let filter = format!("label={label}");
    let listed = docker(&["ps", "--all", "--quiet", "--no-trunc", "--filter", &filter]);
    listed.lines().map(str::to_owned).collect()
}

/// Containers of a worker that are still there although they should not be. Waits for removals
/// under way.
#[must_use]
pub fn leftovers(worker: &str) -> Vec<String> {
    let deadline = Instant::now() + REMOVAL_TIMEOUT;
    loop {
        let found = containers(&format!("isol8.worker={worker}"));
        if found.is_empty() || Instant::now() > deadline {
            return found;
        }
        std::thread::sleep(POLL);
    }
}

/// Removes what a worker that was killed had created and not started: it is left to the next worker of
/// its name, and here comes none. What ran ends by itself.
pub fn remove_unstarted(worker: &str) {
    let (label, created) = (format!("label=isol8.worker={worker}"), "status=created");
    let listed = docker(&["ps", "--all", "--quiet", "--filter", &label, "--filter", created]);
    remove(&listed.lines().map(str::to_owned).collect::<Vec<_>>());
}

/// Waits until a container is gone.
///
/// # Panics
/// If it stays.
pub fn await_gone(container: &str) {
    let deadline = Instant::now() + REMOVAL_TIMEOUT;
    let filter = format!("id={container}");
    while !docker(&["ps", "--all", "--quiet", "--filter", &filter]).trim().is_empty() {
        assert!(Instant::now() < deadline, "container {container} is still there");
        std::thread::sleep(POLL);
    }
}

/// Everything the engine knows about a container.
///
/// # Panics
/// If it does not exist.
#[must_use]
pub fn inspect(container: &str) -> Value {
    let all: Value = serde_json::from_str(&docker(&["inspect", container])).expect("it is JSON");
    all[0].clone()
}

/// The worker that made a container, by its label.
#[must_use]
pub fn worker_of(container: &str) -> String {
    let label = &inspect(container)["Config"]["Labels"]["isol8.worker"];
    label.as_str().unwrap_or_default().to_owned()
}

/// Command lines of everything that runs in a worker's containers.
#[must_use]
pub fn processes(worker: &str) -> Vec<String> {
    let containers = containers(&format!("isol8.worker={worker}"));
    let of = |container: &String| {
        // A container may be going just now.
        let top = Command::new("docker").args(["top", container, "-o", "pid,args"]).output();
        String::from_utf8_lossy(&top.expect("docker can be started").stdout).into_owned()
    };
    containers
        .iter()
        .map(of)
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

/// Waits until a process with `text` in its command line runs in a worker's containers.
///
/// # Panics
/// If none does.
pub fn await_process(worker: &str, text: &str) {
    let deadline = Instant::now() + START_TIMEOUT;
    while !processes(worker).iter().any(|line| line.contains(text)) {
        assert!(Instant::now() < deadline, "nothing like \"{text}\" runs");
        std::thread::sleep(POLL);
    }
}

/// Removes what a test that failed has left.
pub fn remove(containers: &[String]) {
    if containers.is_empty() {
        return;
    }
    // They may be going by themselves; that it is tried is all that can be done here.
    let _ = Command::new("timeout")
        .args(["-s", "KILL", "60", "docker", "rm", "--force", "--volumes"])
        .args(containers)
        .output();
}
