//! Commands about this machine: images of one's own, and looking whether all is well. What would
//! remove things is only asked, never told to: the machine has other users.

use serde_json::{Value, json};
use tests::case::equal;
use tests::docker;
use tests::{Findings, binary};

use super::{directory, isol8, run, write};

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

#[test]
fn images_are_built_listed_and_used() {
    let here = directory();
    write(&here, "setup.sh", "echo baked\necho twice");
    let tag = format!("isol8-test-cli:{}", std::process::id());
    let build = ["build", "--base", "bash", "--tag", &tag, "--setup", "setup.sh"];
    let mut findings = Findings::default();
    let did = isol8(here.path(), &build, "");
    findings.note("build", equal("exit code", &did.code, &Some(0)));
    for text in
        ["[DONE] Custom image build complete!", "Runtime: bash", "Setup: echo baked ...", &tag]
    {
        findings.check("build tells", did.stdout.contains(text), &did.stdout);
    }
    let again = isol8(here.path(), &build, "");
    findings.check("again", again.stdout.contains("complete! Up to date."), &again.stdout);
    let forced = isol8(here.path(), &[&build[..], &["--force"]].concat(), "");
    findings.check("forced", !forced.stdout.contains("Up to date"), &forced.stdout);

    let listed = isol8(here.path(), &["list-custom"], "").stdout;
    findings.check("list-custom", listed.contains(&tag) && !listed.contains("isol8:bash"), &listed);
    let listed = parse(&isol8(here.path(), &["list-custom", "--json"], "").stdout);
    let images = listed.as_array().cloned().unwrap_or_default();
    let found = images.iter().find(|image| image["tag"] == tag.as_str());
    findings.note(
        "list-custom --json",
        equal(
            "setup",
            &found.map(|image| &image["setup"]),
            &Some(&"echo baked\necho twice".into()),
        ),
    );
    let ran = isol8(here.path(), &["run", "--image", &tag, "-r", "bash", "-e", "echo in it"], "");
    findings.check("run in it", ran.stdout.ends_with("in it\n"), &ran.stderr);
    let _removed = docker::docker(&["rmi", "--force", &tag]);

    for (arguments, text) in [
        (
            &["build", "--base", "cobol", "--tag", "x", "--install", "a"][..],
            "Invalid runtime: cobol",
        ),
        (
            &["build", "--base", "bash", "--tag", "x", "--setup", "./missing"],
            "there is no file ./missing",
        ),
        (&["build", "--base", "bash", "--tag", "x"], "No packages or setup script specified"),
        (&["build", "--base", "bash", "--tag", "x", "--install", "a;b"], "Invalid package name"),
        (
            &["build", "--base", "bash", "--tag", "BAD TAG", "--install", "jq"],
            "[ERR] \"BAD TAG\" cannot be an image's tag",
        ),
    ] {
        let did = isol8(here.path(), arguments, "");
        findings.note(text, equal("exit code", &did.code, &Some(1)));
        findings.check(text, did.stderr.contains(text), &did.stderr);
    }
    findings.report();
}

#[test]
fn an_image_that_is_built_again_has_the_hash_that_it_had() {
    let here = directory();
    let tag = format!("isol8-test-hash:{}", std::process::id());
    let directory = here.path().display().to_string();
    let built = |text: &str| {
        let recipe = format!("FROM isol8:bash\nUSER root\nRUN echo {text} > /opt/it\n");
        write(&here, "Dockerfile", &recipe);
        let id = docker::docker(&["build", "--quiet", "--no-cache", "--tag", &tag, &directory]);
        let id = id.trim().to_owned();
        let hash = isol8(here.path(), &["sbom", "--hash", &tag], "").stdout;
        (id, hash.split_whitespace().next().map(str::to_owned))
    };
    let (first, again) = (built("some"), built("some"));
    let other = built("more");
    let _removed = docker::docker(&["rmi", "--force", &first.0, &again.0, &other.0]);
    assert_ne!(first.0, again.0, "it was built anew, at another time");
    assert!(first.1.as_ref().is_some_and(|hash| hash.len() == 64), "{first:?}");
    assert_eq!(first.1, again.1);
    assert_ne!(first.1, other.1, "one file differs");
}

#[test]
fn setup_is_quick_the_second_time() {
    let here = directory();
    let tag = format!("isol8-test-prebuilt:{}", std::process::id());
    let config = json!({"prebuiltImages": [
        {"tag": tag, "runtime": "bash", "installPackages": [], "setupScript": "true"},
    ]});
    write(&here, "isol8.config.json", &config.to_string());
    let mut findings = Findings::default();
    for line in [format!("[OK] {tag}\n"), format!("[OK] {tag}: Up to date\n")] {
        let did = isol8(here.path(), &["setup", "--no-host"], "");
        findings.note("setup", equal("exit code", &did.code, &Some(0)));
        for text in [&line, "[OK] python: Up to date\n", "[DONE] Setup complete!\n"] {
            findings.check("setup tells", did.stdout.contains(text), &did.stdout);
        }
    }
    let _removed = docker::docker(&["rmi", "--force", &tag]);
    findings.report();
}

#[test]
fn the_doctor_finds_what_is_wrong() {
    let here = directory();
    let mut findings = Findings::default();
    let did = isol8(here.path(), &["doctor"], "");
    findings.note("well", equal("exit code", &did.code, &Some(0)));
    for name in ["docker", "cgroups", "seccomp", "image", "redis", "kernel", "memory", "disk"] {
        let is_told = did.stdout.lines().any(|line| line.contains(&format!("  {name}: ")));
        findings.check(name, is_told, &did.stdout);
    }
    let checks = parse(&isol8(here.path(), &["doctor", "--json"], "").stdout);
    let states: Vec<_> =
        checks.as_array().into_iter().flatten().map(|check| &check["state"]).collect();
    findings.check(
        "--json",
        states.len() > 8 && states.iter().all(|state| *state != "fail"),
        &checks,
    );

    let mut command = binary::command(here.path());
    command.args(["doctor", "--redis", "redis://:hush@127.0.0.1:1"]);
    command.env("DOCKER_HOST", "unix:///nowhere/docker.sock");
    let did = run(command, "");
    findings.note("ill", equal("exit code", &did.code, &Some(1)));
    for text in ["FAIL  docker: ", "FAIL  redis: ", "-> run `isol8 setup`"] {
        findings.check("ill", did.stdout.contains(text), &did.stdout);
    }
    findings.check("no password", !did.stdout.contains("hush"), &did.stdout);
    write(&here, "isol8.config.json", r#"{"maxConcurent": 1}"#);
    let did = isol8(here.path(), &["doctor"], "");
    findings.note("configuration", equal("exit code", &did.code, &Some(1)));
    findings.check("configuration", did.stdout.contains("did you mean"), &did.stdout);
    findings.report();
}

#[test]
fn nobody_to_ask_means_no() {
    let here = directory();
    let mut findings = Findings::default();
    // A container that a clean-up would find: asked by a pipe, it stays.
    let mut command = binary::command(here.path());
    command.args(["run", "-r", "bash", "-e", "echo up; sleep 600"]);
    let mut node = tests::node::Node::start("run", command);
    node.await_line("up", tests::node::START_TIMEOUT);
    let did = isol8(here.path(), &["cleanup"], "y\n");
    findings.note("cleanup", equal("exit code", &did.code, &Some(0)));
    findings.check("cleanup", did.stdout.contains("[INFO] Nothing removed."), &did.stdout);
    findings.check("cleanup", did.stdout.contains("container "), &did.stdout);
    let found = parse(&isol8(here.path(), &["cleanup", "--json"], "").stdout);
    findings.note("--json", equal("removed", &found["removed"], &false));
    let containers = found["containers"].as_array().map_or(0, Vec::len);
    findings.check("--json", containers > 0, &found);
    let label = format!("isol8.owner=run-{}", node.pid());
    findings.note("it stays", equal("containers", &docker::containers(&label).len(), &1));
    findings.note("the run", node.stop());
    let mut command = binary::command(here.path());
    command.args(["cleanup", "--force"]).env("DOCKER_HOST", "unix:///nowhere/docker.sock");
    let did = run(command, "");
    findings.note("no engine", equal("exit code", &did.code, &Some(1)));
    findings.check("no engine", did.stderr.contains("[ERR] Docker is not running"), &did.stderr);
    findings.report();
}
