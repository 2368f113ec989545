//! Packages that jobs ask for, images made for them, and what an image can have done ahead. Packages come
//! from the registries that this machine's own package managers use.

mod broken_off;
mod prebuilt;
mod stand_in;

use std::collections::BTreeSet;
use std::process::{Command, id as process_id};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tests::api::KEY;
use tests::case::{equal, is_error};
use tests::docker::docker;
use tests::{Api, Findings, Stack, binary};

/// The registries are somewhere else and may be slow; what takes longer than this is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);

/// Volumes with packages that a worker has made.
pub(crate) fn volumes(worker: &str) -> Vec<String> {
    let worker = format!("label=isol8.worker={worker}");
    let listed = docker(&[
        "volume",
        "ls",
        "--quiet",
        "--filter",
        "label=isol8.packages",
        "--filter",
        &worker,
    ]);
    listed.lines().map(str::to_owned).collect()
}

/// Those of them that count as whole.
pub(crate) fn whole(volumes: &[String]) -> Vec<String> {
    let marks = docker(&["volume", "ls", "--quiet", "--filter", "label=isol8.packages.marks"]);
    let is_marked = |name: &&String| marks.lines().any(|mark| mark == format!("{name}-ready"));
    volumes.iter().filter(is_marked).cloned().collect()
}

pub(crate) fn remove_volumes(volumes: &[String]) {
    for volume in volumes {
        let _removed = docker(&["volume", "rm", "--force", volume, &format!("{volume}-ready")]);
    }
}

pub(crate) fn with_packages(runtime: &str, packages: &[&str], code: &str) -> Value {
    json!({"request": {"runtime": runtime, "code": code, "installPackages": packages,
                       "timeoutMs": 60_000}})
}

/// The result of a request. An installation may take longer than its job waits for it, and goes on.
pub(crate) async fn run(api: &Api, body: &Value) -> Result<Value, String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let reply = api.post(body.to_string()).await?;
        if reply.status == 200 {
            return Ok(reply.json());
        }
        if !reply.text.contains("PACKAGE INSTALL TIMED OUT") || Instant::now() > deadline {
            return Err(reply.text);
        }
    }
}

/// Runs it again and again until its result is as it must be in the end.
pub(crate) async fn run_until(
    api: &Api,
    body: &Value,
    is_right: impl Fn(&Value) -> bool,
) -> Result<Value, String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let result = run(api, body).await?;
        if is_right(&result) {
            return Ok(result);
        }
        if Instant::now() > deadline {
            return Err(format!("still {result}"));
        }
    }
}

/// An image that only one test uses: packages asked for in it are installed for that test alone.
fn own_image(base: &str, name: &str, arguments: &[&str]) -> String {
    let tag = format!("isol8-test-packages-{}:{name}", process_id());
    let place = tempfile::tempdir().expect("a directory can be made");
    let mut build = binary::command(place.path());
    build.args(["build", "--base", base, "--tag", &tag]).args(arguments);
    let built = build.output().expect("isol8 can be started");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    tag
}

/// Images without a name, steps of builds among them.
pub(crate) fn untagged() -> BTreeSet<String> {
    let listed = docker(&["images", "--all", "--quiet", "--no-trunc", "--filter", "dangling=true"]);
    listed.lines().map(str::to_owned).collect()
}

/// Whether an image was to get a package. Builds of other tests come and go.
pub(crate) fn is_made_for(image: &str, package: &str) -> bool {
    let line =
        ["run", "--rm", "--network", "none", "--entrypoint", "cat", image, "/tmp/packages.txt"];
    let shown = Command::new("docker").args(line).output().expect("docker can be started");
    String::from_utf8_lossy(&shown.stdout).contains(package)
}

/// One that differs from every other by its script alone.
fn plain_image(base: &str, name: &str) -> String {
    own_image(base, name, &["--setup", &format!("true # {} {name}", process_id())])
}

#[tokio::test(flavor = "multi_thread")]
async fn every_runtime_finds_its_packages_without_a_network_of_its_own() {
    let (stack, api) = Stack::serve(&json!({}));
    let mut findings = Findings::default();
    for (runtime, packages, code, printed) in [
        (
            "python",
            &["cowsay==6.1", "colorama"][..],
            "import cowsay, colorama, subprocess\n\
             print(cowsay.__file__)\n\
             print(subprocess.run(['cowsay', '-t', 'hi'], stdout=-3).returncode)",
            "/isol8-packages/lib/python3.11/site-packages/cowsay/__init__.py\n0",
        ),
        (
            "node",
            &["lodash@4", "semver"],
            "import _ from 'lodash'; import { createRequire } from 'node:module';\n\
             const again = createRequire(import.meta.url)('lodash');\n\
             import { execFileSync } from 'node:child_process';\n\
             console.log(_ === again, execFileSync('semver', ['1.2.3']).toString().trim())",
            "true 1.2.3",
        ),
        ("bun", &["zod"], "import { z } from 'zod'; console.log(z.string().parse('zod'))", "zod"),
        (
            "deno",
            &["npm:chalk@5"],
            "import chalk from 'npm:chalk@5'; console.log(typeof chalk.red)",
            "function",
        ),
        ("bash", &["jq"], "echo '{\"a\": 7}' | jq .a", "7"),
    ] {
        let body = with_packages(runtime, packages, code);
        for turn in ["first", "second"] {
            let Some(result) = findings.note(&format!("{runtime}, {turn}"), run(&api, &body).await)
            else {
                continue;
            };
            let name = format!("{runtime}, {turn}: {}", result["stderr"]);
            findings.note(&name, equal("stdout", &result["stdout"], &printed));
        }
        // A sandbox with them is used again.
        let is_warm = |result: &Value| result["timings"]["cold"] == false;
        findings.note(&format!("{runtime}, warm"), run_until(&api, &body, is_warm).await);
    }
    // A shell and the programs it starts find them too, and may still install for themselves.
    let line = "python3 -c 'import cowsay' && cowsay -t x >/dev/null && echo $PYTHONUSERBASE";
    let mut body = with_packages("python", &["cowsay==6.1", "colorama"], "");
    body["request"]["code"] = Value::Null;
    body["request"]["cmd"] = line.into();
    let shell = findings.note("shell", run(&api, &body).await).unwrap_or_default();
    findings.check("shell", shell["stdout"] == "/sandbox/.local", &shell);
    // The network of the run stays what was asked: none.
    let code = "import socket; socket.create_connection(('1.1.1.1', 443), 2)";
    let alone = run(&api, &with_packages("python", &["cowsay==6.1", "colorama"], code)).await;
    let alone = findings.note("network", alone).unwrap_or_default();
    let stderr = alone["stderr"].as_str().unwrap_or_default();
    findings.check("network", stderr.contains("unreachable"), stderr);
    findings.report();
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_is_installed_once_shared_and_cannot_be_changed() {
    // An image of its own, so that no other test has installed the same before.
    let image = plain_image("python", "shared");
    let (stack, api) = Stack::serve(&json!({}));
    let mut findings = Findings::default();
    let with_image = |code: &str| {
        let mut body = with_packages("python", &["six"], code);
        body["options"] = json!({"image": image});
        body
    };
    let body = with_image("import six; print(six.__name__)");
    let (first, second, third) = tokio::join!(run(&api, &body), run(&api, &body), run(&api, &body));
    for (name, result) in [("first", first), ("second", second), ("third", third)] {
        let result = findings.note(name, result).unwrap_or_default();
        findings.note(name, equal("stdout", &result["stdout"], &"six"));
    }
    let made = volumes(&stack.worker_id(0));
    findings.check("one volume", made.len() == 1, &made);

    let attack = "import os, six\n\
                  for path in (six.__file__, os.path.dirname(six.__file__) + '/x', '/isol8-packages/x'):\n\
                  \x20 try: open(path, 'w'); print('written')\n\
                  \x20 except OSError as error: print(error.errno)\n\
                  for attempt in (lambda: os.chmod(six.__file__, 0o777), lambda: os.unlink(six.__file__)):\n\
                  \x20 try: attempt(); print('done')\n\
                  \x20 except OSError as error: print(error.errno)\n\
                  print(os.stat(six.__file__).st_uid)";
    let attacked =
        findings.note("attack", run(&api, &with_image(attack)).await).unwrap_or_default();
    findings.note("attack", equal("stdout", &attacked["stdout"], &"30\n30\n30\n30\n30\n0"));
    let after = findings.note("after", run(&api, &body).await).unwrap_or_default();
    findings.note("after", equal("stdout", &after["stdout"], &"six"));
    stack.finish();
    remove_volumes(&made);
    let _removed = docker(&["rmi", "--force", &image]);
    findings.report();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_installed_is_told_and_leaves_nothing() {
    // Images of its own: what other tests have installed must not stand in.
    let (image, roomy) = (plain_image("python", "failing"), plain_image("node", "failing-node"));
    let (stack, api) = Stack::serve(&json!({"worker": {"packageSetSize": "4m"}}));
    let mut findings = Findings::default();
    let mut expect = async |name: &str, body: Value, status: u16, code: &str, text: &str| {
        let reply = api.post(body.to_string()).await;
        let checked = reply.and_then(|reply| is_error(&reply, status, code, text));
        findings.note(name, checked);
    };
    let missing = with_packages("python", &["no-such-package-of-isol8-tests"], "1");
    let failed =
        "Package install failed (exit code 1): no such package or version\nERROR: Could not find";
    expect("no such package", missing, 422, "INSTALL_FAILED", failed).await;
    let missing = with_packages("node", &["no-such-package-of-isol8-tests"], "1");
    expect("no such package of npm", missing, 422, "INSTALL_FAILED", "E404").await;
    let missing = with_packages("deno", &["npm:no-such-package-of-isol8-tests"], "1");
    expect("no such package of Deno", missing, 422, "INSTALL_FAILED", "no such package or version")
        .await;
    let missing = with_packages("bun", &["no-such-package-of-isol8-tests"], "1");
    expect("no such package of Bun", missing, 422, "INSTALL_FAILED", "no such package or version")
        .await;
    // Unpacked it takes many times what a set may have.
    let mut large = with_packages("python", &["numpy"], "1");
    large["options"] = json!({"image": image});
    let text = "Package install failed (exit code 1): no room: ";
    expect("too large", large, 422, "INSTALL_FAILED", text).await;
    // Those of Debian are not even fetched, for their size is known.
    let large = with_packages("bash", &["gcc"], "1");
    let text = "Package install failed (exit code 1): no room: unpacked they take ";
    expect("too large, of Debian", large.clone(), 422, "INSTALL_FAILED", text).await;
    let text = " bytes, and a set may have 4194304 (worker.packageSetSize)";
    expect("what bounds it", large, 422, "INSTALL_FAILED", text).await;
    // The newest of the many there are.
    let wrong = with_packages("python", &["numpy==0.0.999"], "1");
    let text = " more)\nERROR: No matching distribution found for numpy==0.0.999";
    expect("no such version", wrong, 422, "INSTALL_FAILED", text).await;
    let mut hasty = with_packages("node", &["is-number"], "console.log('at last')");
    hasty["options"] = json!({"image": roomy});
    let patient = hasty.clone();
    hasty["request"]["timeoutMs"] = json!(10);
    let late = "Package install failed (exit code 137): PACKAGE INSTALL TIMED OUT after 10 ms";
    expect("too slow", hasty, 422, "INSTALL_FAILED", late).await;
    for name in ["", "  ", "-r/etc/passwd", "https://host/x.whl", "../x", "a;b"] {
        let refused = with_packages("python", &[name], "1");
        expect(name, refused, 400, "INVALID_REQUEST", "Invalid package name").await;
    }
    let name = format!("no-such-package-of-isol8-tests-{}", process_id());
    let missing = with_packages("bash", &[&name], "1");
    let failed = format!(
        "Package install failed (exit code 123): no such package or version\n\
         E: Unable to locate package {name}"
    );
    let before = untagged();
    let reply = api.post(missing.to_string()).await;
    let told = reply.and_then(|reply| {
        is_error(&reply, 422, "INSTALL_FAILED", &failed)?;
        let error = reply.json()["error"].as_str().unwrap_or_default().to_owned();
        if error == failed { Ok(()) } else { Err(error) }
    });
    findings.note("no such package of Debian", told);
    let left: Vec<_> =
        untagged().difference(&before).filter(|it| is_made_for(it, &name)).cloned().collect();
    findings.check("nothing is left of its build", left.is_empty(), &left);
    let bystander = run(&api, &json!({"request": {"runtime": "bash", "code": "echo fine"}})).await;
    let bystander = findings.note("bystander", bystander).unwrap_or_default();
    findings.note("bystander", equal("stdout", &bystander["stdout"], &"fine"));
    // It goes on for the next job, and is all that is left.
    let patient = findings.note("in time", run(&api, &patient).await).unwrap_or_default();
    findings.note("in time", equal("stdout", &patient["stdout"], &"at last"));
    let made = volumes(&stack.worker_id(0));
    findings.check("volumes", made.len() == 1 && whole(&made) == made, &made);
    stack.finish();
    remove_volumes(&made);
    let _removed = docker(&["rmi", "--force", &image, &roomy]);
    findings.report();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_brings_packages_a_setup_script_and_modules_that_wait() {
    let modules = ["--install", "numpy", "--preload", "numpy,numpy.random,not_there"];
    let image = own_image("python", "preloaded", &modules);
    let script = "echo image:$WHO >> /sandbox/order; cat /sandbox/in >> /sandbox/order";
    let scripted = own_image("bash", "scripted", &["--setup", script]);
    // Only these two, whatever other images this machine has.
    let ours = format!("isol8-test-packages-{}:*", process_id());
    let (mut stack, api) = Stack::serve(&json!({"policy": {"images": [ours]}}));
    let mut findings = Findings::default();
    // It has what is asked for, so it is taken, and nothing is installed.
    let code = "import sys; warm = 'numpy' in sys.modules; import numpy\n\
                print(warm, numpy.arange(4).sum(), numpy.random.rand())";
    let body = with_packages("python", &["numpy"], code);
    let mut printed = Vec::new();
    // One may come before an interpreter waits.
    let is_warm =
        |result: &Value| result["stdout"].as_str().is_some_and(|it| it.starts_with("True 6 "));
    for turn in ["first", "second", "third"] {
        let result = findings.note(turn, run_until(&api, &body, is_warm).await).unwrap_or_default();
        printed.push(result["stdout"].as_str().unwrap_or_default().to_owned());
    }
    let mut different = printed.clone();
    different.sort();
    different.dedup();
    findings.check("each job has its own random numbers", different.len() == 3, &printed);
    stack.node(0).await_line("not preloaded: not_there", PATIENCE);

    // Files, the image's script, the request's script, the program.
    let body = json!({
        "request": {
            "runtime": "bash",
            "code": "cat /sandbox/order",
            "files": {"/sandbox/in": "file\n"},
            "setupScript": "echo request:$WHO >> /sandbox/order",
            "env": {"WHO": "me"},
        },
        "options": {"image": scripted},
    });
    for turn in ["first", "again"] {
        let ran = findings.note(turn, run(&api, &body).await).unwrap_or_default();
        findings.note(turn, equal("stdout", &ran["stdout"], &"image:me\nfile\nrequest:me"));
    }
    // In a session the image's script has its turn once.
    let mut call = json!({
        "request": {"runtime": "bash", "code": "cat /sandbox/order", "env": {"WHO": "s"},
                    "files": {"/sandbox/in": "file\n"}},
        "options": {"image": scripted},
        "sessionId": "scripted",
    });
    for turn in ["opened", "later"] {
        let ran = findings.note(turn, run(&api, &call).await).unwrap_or_default();
        findings.note(turn, equal("stdout", &ran["stdout"], &"image:s\nfile"));
    }
    // A session keeps to the packages it was opened with.
    call["request"]["installPackages"] = json!(["jq"]);
    let reply = api.post(call.to_string()).await;
    let text = "This session was opened without jq";
    findings.note("session", reply.and_then(|it| is_error(&it, 400, "INVALID_REQUEST", text)));
    let key = format!("Bearer {KEY}");
    let closed = api.send(Method::DELETE, "/session/scripted", Some(&key), "").await;
    findings.note("close", closed);
    findings.report();
    stack.finish();
    let _removed = docker(&["rmi", "--force", &image, &scripted]);
}
