//! The fleet of `deploy/compose/` in containers on the real engine: it works through both gateways,
//! survives a worker, keeps its secrets, and leaves nothing.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tests::api::KEY;
use tests::compose::Compose;
use tests::docker::{docker, leftovers};
use tests::stack::SECRETS_KEY;
use tests::{Api, binary};
use tokio::time::sleep;

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");
const IMAGE: &str = "isol8-fleet:test";
/// The user of the containers.
const USER: u32 = 10_001;
/// Settings that suit tests.
const ENVIRONMENT: [(&str, &str); 3] = [
    ("ISOL8_REDIS__LEASE_MS", "3000"),
    ("ISOL8_REDIS__RENEW_MS", "500"),
    ("ISOL8_WORKER__PREWARM", "bash"),
];

/// Builds the image of the members from the binary under test.
fn build_image(directory: &Path) {
    fs::copy(binary::isol8(), directory.join("isol8")).expect("the binary can be copied");
    let recipe = format!("{DEPLOY}/images/Dockerfile");
    let mut build = Command::new("timeout");
    build.args(["-s", "KILL", "300", "docker", "build", "--quiet", "--network", "host"]);
    let built = build.args(["--tag", IMAGE, "--file", &recipe]).arg(directory).output();
    let built = built.expect("docker can be started");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
}

/// Makes the secrets of the fleet, as `docs/deployment.md` says.
fn make_secrets(directory: &Path) {
    let script = format!("{DEPLOY}/redis/make-users.sh");
    let made = Command::new("sh").arg(script).arg(directory).status();
    assert!(made.is_ok_and(|status| status.success()), "the users could not be made");
    fs::write(directory.join("api.key"), format!("{KEY}\n")).expect("it is writable");
    fs::write(directory.join("secrets.key"), SECRETS_KEY).expect("it is writable");
    chown(directory, Some(USER), Some(USER)).expect("the tests run as root");
    for file in fs::read_dir(directory).expect("it is there") {
        let file = file.expect("it can be read").path();
        chown(file, Some(USER), Some(USER)).expect("the tests run as root");
    }
}

fn slow(number: usize) -> Value {
    let line = format!("sleep 1.5; echo {number}");
    json!({"request": {"runtime": "bash", "cmd": line, "timeoutMs": 40_000}})
}

/// The identifier of the worker in a service, by what it says at start; the last, if it was started
/// more than once.
fn workers_of(compose: &Compose, service: &str) -> Vec<String> {
    let log = compose.log(service);
    let named = log.lines().filter_map(|line| line.split_once("worker ready worker="));
    named.filter_map(|(_, rest)| Some(rest.split_whitespace().next()?.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_compose_file_is_a_fleet_that_survives_a_worker() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let (context, secrets) = (directory.path().join("image"), directory.path().join("secrets"));
    fs::create_dir(&context).expect("the directory is writable");
    build_image(&context);
    make_secrets(&secrets);
    // The containers' user comes by.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(directory.path(), open).expect("it is ours");

    // Its workers number themselves in a volume of their own: by another name than those on this machine,
    // of which each would remove the other's sandboxes.
    let name = format!("compose-test-{}", std::process::id());
    let environment = [&ENVIRONMENT[..], &[("ISOL8_WORKER__NAME", &name)]].concat();
    let compose = Compose::read(IMAGE, &secrets, &environment);
    compose.up();
    let gateways: Vec<Api> =
        compose.services("gateway").iter().map(|name| Api::new(compose.port(name))).collect();
    assert_eq!((gateways.len(), compose.services("worker").len()), (2, 2));
    for api in &gateways {
        let result = api.run(tests::command("bash", "echo 42")).await;
        assert_eq!(result["stdout"].as_str().map(str::trim), Some("42"), "{result}");
    }

    // Enough jobs that both workers have some when one dies.
    let jobs = (0..12).map(|number| gateways[number % 2].run(slow(number)));
    let jobs = futures_util::future::join_all(jobs);
    let (results, ()) = tokio::join!(jobs, async {
        sleep(Duration::from_millis(700)).await;
        tokio::task::block_in_place(|| compose.kill("worker-1"));
    });
    for (number, result) in results.iter().enumerate() {
        let stdout = result["stdout"].as_str().map(str::trim);
        assert_eq!(stdout, Some(number.to_string().as_str()), "{result}");
    }

    // Whoever gets its name removes what it left.
    compose.start("worker-1");
    compose.await_healthy("worker-1");
    let mut workers: Vec<String> = Vec::new();
    for service in compose.services("") {
        workers.extend(workers_of(&compose, &service));
        let facts = compose.inspect(&service).to_string();
        for file in fs::read_dir(&secrets).expect("it is there") {
            let file = file.expect("it can be read").path();
            let secret = fs::read_to_string(&file).expect("the tests run as root");
            assert!(!facts.contains(secret.trim()), "{service} shows {}", file.display());
            assert!(!compose.log(&service).contains(secret.trim()), "{service} logs it");
        }
    }
    assert_eq!(workers.len(), 3, "two, and one that was started again: {workers:?}");
    compose.down();
    for worker in workers {
        let left = leftovers(&worker);
        assert!(left.is_empty(), "containers of worker {worker}: {left:?}");
    }
    // Its layers stay: the next run builds in a moment.
    let _ = docker(&["rmi", "--no-prune", IMAGE]);
}
