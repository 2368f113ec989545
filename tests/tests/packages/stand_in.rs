//! Packages that the test makes up, from a registry on loopback: what is fetched and how often, what a
//! package's own script can do, and what happens to those that are too large, too slow or hostile.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tests::api::KEY;
use tests::case::{equal, is_error};
use tests::registry::{Package, Registry, full_name};
use tests::upstream::Answer;
use tests::{Findings, Stack, Upstream};

use crate::{remove_volumes, run, volumes, whole, with_packages};

/// A job that prints the export of a package.
fn printing(name: &str) -> Value {
    let full = full_name(name);
    let code = format!("import it from '{full}'; console.log(it)");
    with_packages("node", &[&full], &code)
}

fn serve(registry: &Registry, config: &Value) -> (Stack, tests::Api, tempfile::TempDir) {
    let place = tempfile::tempdir().expect("a directory can be made");
    let settings = place.path().join("npmrc");
    registry.write_settings(&settings);
    let settings = settings.to_str().expect("a path of ours is text");
    let (stack, api) = Stack::serve_with(config, &[("NPM_CONFIG_USERCONFIG", settings)]);
    (stack, api, place)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_is_fetched_once_for_jobs_tenants_and_sessions() {
    let registry = Registry::start([Package::new("shared"), Package::new("other")]).await;
    let (stack, api, _place) = serve(&registry, &json!({"auth": {"enabled": true}}));
    let mut findings = Findings::default();
    let body = printing("shared");
    let (first, second, third) = tokio::join!(run(&api, &body), run(&api, &body), run(&api, &body));
    for (name, result) in [("first", first), ("second", second), ("third", third)] {
        let result = findings.note(name, result).unwrap_or_default();
        findings.note(name, equal("stdout", &result["stdout"], &"shared"));
    }
    // Another tenant has a sandbox of its own, with the same packages.
    let master = format!("Bearer {KEY}");
    let wanted = json!({"name": "other", "tenantId": "other"}).to_string();
    let made = api.send(Method::POST, "/auth/keys", Some(&master), wanted).await;
    let made = findings.note("key", made).expect("the server answers");
    findings.check("key", made.status == 201, &made.text);
    let made = made.json();
    let other = format!("Bearer {}", made["key"].as_str().unwrap_or_default());
    let reply = api.send(Method::POST, "/execute", Some(&other), body.to_string()).await;
    let reply = findings.note("other tenant", reply).expect("the server answers");
    let printed = equal("stdout", &reply.json()["stdout"], &"shared");
    findings.note(&format!("other tenant: {}", reply.text), printed);
    // A session has the packages it was opened with, and no others.
    let mut call = body.clone();
    call["sessionId"] = json!("packages");
    for turn in ["opened", "later"] {
        let ran = findings.note(turn, run(&api, &call).await).unwrap_or_default();
        findings.note(turn, equal("stdout", &ran["stdout"], &"shared"));
    }
    call["request"]["installPackages"] = json!([full_name("other")]);
    let reply = api.post(call.to_string()).await;
    let text = "This session was opened without @stand-in/other";
    findings.note("others", reply.and_then(|it| is_error(&it, 400, "INVALID_REQUEST", text)));
    let closed = api.send(Method::DELETE, "/session/packages", Some(&master), "").await;
    findings.note("close", closed);
    findings.note("fetched", equal("times", &registry.fetched("shared"), &1));
    findings.note("not fetched", equal("times", &registry.fetched("other"), &0));
    let made = volumes(&stack.worker_id(0));
    findings.check("one volume", made.len() == 1 && whole(&made) == made, &made);
    stack.finish();
    remove_volumes(&made);
    findings.report();
}

/// Writes down what it sees, tries to reach what it should not (another host, another port of its
/// registry's), and leaves what would matter to root.
fn hostile(forbidden: &Upstream, neighbour: &Upstream) -> Package {
    let url = forbidden.url("http", "127.0.0.3", "/stolen");
    let beside = neighbour.url("http", "127.0.0.2", "/stolen");
    Package::new("hostile").with_script(&format!(
        "{{ id -u; grep CapEff /proc/self/status; env; }} > seen.txt
curl --silent --max-time 5 {url} >> reached.txt
curl --silent --max-time 5 {beside} >> beside.txt
curl --silent --max-time 5 --proxytunnel {beside} >> reached.txt
curl --silent --max-time 5 --noproxy '*' {url} >> reached.txt
echo 'echo owned' > program; chmod 4755 program; chmod 777 .; ln -s index.js link.js; exit 0\n"
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packages_own_script_reaches_nobody_and_leaves_plain_files() {
    let forbidden = Upstream::start("127.0.0.3", |_| Answer::ok("reached")).await;
    let neighbour = Upstream::start("127.0.0.2", |_| Answer::ok("reached")).await;
    let outside = Package::new("outside").with_script("ln -s /etc/passwd link");
    let pipe = Package::new("pipe").with_script("mkfifo pipe");
    let linked = Package::new("linked").with_script("ln index.js again.js");
    let registry = Registry::start([hostile(&forbidden, &neighbour), outside, pipe, linked]).await;
    let config = json!({"audit": {"enabled": true, "logDir": "audit"}});
    let (stack, api, _place) = serve(&registry, &config);
    let mut findings = Findings::default();

    let place = "/node_modules/@stand-in/hostile";
    let code = format!(
        "import fs from 'node:fs';
         const about = name => {{
           const it = fs.lstatSync('{place}/' + name);
           return [name, it.uid, it.gid, (it.mode & 0o7777).toString(8)].join(' ');
         }};
         const read = name => {{ try {{ return fs.readFileSync('{place}/' + name, 'utf8'); }} catch {{ return ''; }} }};
         console.log(JSON.stringify({{
           modes: ['.', 'program', 'index.js'].map(about),
           link: fs.readlinkSync('{place}/link.js'), seen: read('seen.txt'), reached: read('reached.txt'),
           beside: read('beside.txt'),
         }}))"
    );
    let mut body = with_packages("node", &[&full_name("hostile")], &code);
    body["request"]["env"] = json!({"OF_THE_JOB": "kept-from-installers"});
    body["options"] = json!({"secrets": {"TOKEN": "a-secret-of-the-job"}});
    let result = findings.note("hostile", run(&api, &body).await).unwrap_or_default();
    let told: Value =
        serde_json::from_str(result["stdout"].as_str().unwrap_or_default()).unwrap_or_default();
    findings.check(
        "modes",
        told["modes"] == json!([". 0 0 755", "program 0 0 755", "index.js 0 0 644"]),
        &result,
    );
    findings.note("link", equal("target", &told["link"], &"index.js"));
    let seen = told["seen"].as_str().unwrap_or_default();
    findings.check("user", seen.starts_with("100\nCapEff:\t0000000000000000\n"), seen);
    for secret in ["kept-from-installers", "a-secret-of-the-job", KEY] {
        findings.check("secrets", !seen.contains(secret), seen);
    }
    findings.check(
        "reached",
        !told["reached"].as_str().unwrap_or_default().contains("reached"),
        &told,
    );
    findings.check("nobody was asked", forbidden.seen().is_empty(), forbidden.seen());
    findings.check("nor the neighbour", neighbour.seen().is_empty(), neighbour.seen());
    let beside = told["beside"].as_str().unwrap_or_default();
    let port = neighbour.address.port();
    let words = format!("blocked by network filter: port {port} is not among");
    findings.check("port", beside.contains(&words), beside);
    // Written in the background, once, with the job that had it installed.
    let installing = full_name("hostile");
    let events = audited(&stack, |event| event["details"]["installing"] == json!(installing), 3);
    let events = findings.note("audit", events.await).unwrap_or_default();
    let reasons: Vec<_> = events.iter().map(|event| &event["details"]["reason"]).collect();
    let expected = ["filter_mismatch", "port_mismatch", "port_mismatch"];
    findings.check("audit", reasons == expected, &events);

    for (name, what) in [
        ("outside", "a link that leads outside"),
        ("pipe", "something that is no file, folder or link"),
        ("linked", "a hard link"),
    ] {
        let reply = api.post(printing(name).to_string()).await;
        findings.note(name, reply.and_then(|it| is_error(&it, 422, "INSTALL_FAILED", what)));
    }
    let made = volumes(&stack.worker_id(0));
    findings.check("volumes", made.len() == 1 && whole(&made) == made, &made);
    stack.finish();
    remove_volumes(&made);
    findings.report();
}

/// Events of the audit log, once there are as many as must come.
async fn audited(
    stack: &Stack,
    is_meant: impl Fn(&Value) -> bool,
    count: usize,
) -> Result<Vec<Value>, String> {
    let deadline = Instant::now() + crate::PATIENCE;
    loop {
        let log = std::fs::read_to_string(stack.join("audit/executions.log")).unwrap_or_default();
        let records = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let events = records.flat_map(|mut record| match record["securityEvents"].take() {
            Value::Array(events) => events,
            _ => Vec::new(),
        });
        let events: Vec<Value> = events.filter(|event| is_meant(event)).collect();
        if events.len() >= count {
            return Ok(events);
        }
        if Instant::now() > deadline {
            return Err(format!("{} of {count}: {log}", events.len()));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_or_too_slow_goes_and_the_longest_unused_makes_room() {
    let names = ["one", "two", "three"];
    let sets = names.map(|name| Package::new(name).with_zeros(1_200_000));
    let large = Package::new("large").with_zeros(4_000_000);
    let huge = Package::new("huge").with_zeros(8_000_000);
    let registry = Registry::start(sets.into_iter().chain([large, huge])).await;
    let config = json!({"worker": {"packageSetSize": "3m", "packageCacheSize": "3m"}});
    let (mut stack, api, _place) = serve(&registry, &config);
    let mut findings = Findings::default();
    let too_large = api.post(printing("large").to_string()).await;
    let text = "more than 3145728 bytes";
    findings.note("large", too_large.and_then(|it| is_error(&it, 422, "INSTALL_FAILED", text)));
    // What it is unpacked to fits not even the installer.
    let no_room = api.post(printing("huge").to_string()).await;
    let text = "no room: what is downloaded and unpacked may take 6291456 bytes";
    findings.note("huge", no_room.and_then(|it| is_error(&it, 422, "INSTALL_FAILED", text)));
    let missing = api.post(printing("missing").to_string()).await;
    let text =
        "Package install failed (exit code 1): no such package or version\nnpm error code E404";
    findings.note("missing", missing.and_then(|it| is_error(&it, 422, "INSTALL_FAILED", text)));
    // The second is at an address that programs reach without the tunnel.
    for (package, host) in [("@down/any", "127.0.0.2"), ("@down-here/any", "127.0.0.1")] {
        let refused = api.post(with_packages("node", &[package], "1").to_string()).await;
        let text = format!(
            "Package install failed (exit code 1): could not connect to {host}:1 (connection refused)"
        );
        findings.note(package, refused.and_then(|it| is_error(&it, 422, "INSTALL_FAILED", &text)));
    }
    let mut print_all = async || {
        for name in names {
            let result = findings.note(name, run(&api, &printing(name)).await).unwrap_or_default();
            findings.note(name, equal("stdout", &result["stdout"], &name));
        }
    };
    // With the third there is one too many, though its sandbox still waits for jobs.
    print_all().await;
    stack.node(0).await_line("packages removed to make room", crate::PATIENCE);
    let left = whole(&volumes(&stack.worker_id(0)));
    print_all().await;
    findings.check("two are left", left.len() == 2, &left);
    let fetched: usize = names.iter().map(|name| registry.fetched(name)).sum();
    findings.check("the one that went was fetched again", fetched > 3, fetched);
    let worker = stack.worker_id(0);
    stack.finish();
    remove_volumes(&volumes(&worker));
    findings.report();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_has_a_time_limit_of_its_own() {
    let registry = Registry::start([Package::new("slow").with_script("sleep 600")]).await;
    let (stack, api, _place) = serve(&registry, &json!({"worker": {"installTimeoutMs": 3000}}));
    let mut findings = Findings::default();
    let reply = api.post(printing("slow").to_string()).await;
    let text = "PACKAGE INSTALL TIMED OUT after 3000 ms";
    findings.note("slow", reply.and_then(|it| is_error(&it, 422, "INSTALL_FAILED", text)));
    let bystander = json!({"request": {"runtime": "bash", "code": "echo fine"}});
    let bystander = findings.note("bystander", run(&api, &bystander).await).unwrap_or_default();
    findings.note("bystander", equal("stdout", &bystander["stdout"], &"fine"));
    let made = volumes(&stack.worker_id(0));
    findings.check("no volume", made.is_empty(), &made);
    stack.finish();
    findings.report();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_in_use_stays_and_the_longest_unused_of_the_others_goes() {
    let names = ["one", "two", "three"];
    let sets = names.map(|name| Package::new(name).with_zeros(1_200_000));
    let registry = Registry::start(sets).await;
    // Two fit.
    let config = json!({"worker": {"packageSetSize": "3m", "packageCacheSize": "3m"}});
    let (stack, api, _place) = serve(&registry, &config);
    let worker = stack.worker_id(0);
    let mut findings = Findings::default();
    let fetched = || names.map(|name| registry.fetched(name));
    let mut print = async |name: &'static str, session: Option<&str>| {
        let mut body = printing(name);
        if let Some(session) = session {
            body["sessionId"] = json!(session);
        }
        let result = findings.note(name, run(&api, &body).await).unwrap_or_default();
        findings.note(name, equal("stdout", &result["stdout"], &name));
    };
    // The one that was used longest ago is in a session's sandbox: the next goes in its stead.
    print("one", Some("user")).await;
    print("two", None).await;
    print("three", None).await;
    let left = shrunk_to(&worker, 2).await;
    print("one", Some("user")).await;
    print("one", None).await;
    print("three", None).await;
    let before = fetched();
    print("two", None).await;
    let after = fetched();
    findings.note("two are left", left);
    findings.check("what was used stayed", before == [1, 1, 1], before);
    findings.check("the other was installed again", after == [1, 2, 1], after);
    // Of what nobody uses: the session's own is free with it, and was used before `three`.
    let key = format!("Bearer {KEY}");
    let closed = api.send(Method::DELETE, "/session/user", Some(&key), "").await;
    findings.note("close", closed);
    findings.note("two are left again", shrunk_to(&worker, 2).await);
    let mut print = async |name: &'static str| {
        let result = findings.note(name, run(&api, &printing(name)).await).unwrap_or_default();
        findings.note(name, equal("stdout", &result["stdout"], &name));
    };
    print("two").await;
    findings.check("the latest is there", registry.fetched("two") == 2, fetched());
    stack.finish();
    remove_volumes(&volumes(&worker));
    findings.report();
}

/// Waits until only so many sets are left.
async fn shrunk_to(worker: &str, count: usize) -> Result<(), String> {
    let deadline = Instant::now() + crate::PATIENCE;
    loop {
        let left = whole(&volumes(worker));
        if left.len() <= count {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("still {left:?}"));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
