//! The configuration: what is found, what wins, what is shown, what is refused, and that it holds.

use serde_json::{Value, json};
use tempfile::TempDir;
use tests::case::equal;
use tests::{Findings, binary};

use super::{Did, directory, isol8, run, write};

fn isol8_with(here: &TempDir, variables: &[(&str, &str)], arguments: &[&str]) -> Did {
    let mut command = binary::command(here.path());
    command.envs(variables.iter().copied()).args(arguments);
    run(command, "")
}

#[test]
fn configuration_is_found_and_shown() {
    let here = directory();
    let mut findings = Findings::default();
    let shown = |findings: &mut Findings| {
        let did = isol8(here.path(), &["config", "--json"], "");
        findings.note("config --json", equal("exit code", &did.code, &Some(0)));
        (serde_json::from_str::<serde_json::Value>(&did.stdout).unwrap_or_default(), did.stdout)
    };
    let (config, text) = shown(&mut findings);
    let order = [
        "maxConcurrent",
        "defaults",
        "network",
        "cleanup",
        "poolStrategy",
        "poolSize",
        "security",
        "remoteCode",
        "audit",
        "auth",
        "prebuiltImages",
        "debug",
    ];
    let places: Vec<_> = order.iter().map(|key| text.find(&format!("\n  \"{key}\":"))).collect();
    findings.check(
        "keys in order",
        places.iter().all(Option::is_some) && places.is_sorted(),
        places,
    );
    let defaults = json!({"timeoutMs": 30000, "memoryLimit": "512m", "cpuLimit": 1.0, "network": "none",
        "sandboxSize": "512m", "tmpSize": "256m", "readonlyRootFs": true, "isolation": "container"});
    findings.note("defaults", equal("defaults", &config["defaults"], &defaults));
    findings
        .note("defaults", equal("poolSize", &config["poolSize"], &json!({"clean": 1, "dirty": 1})));

    // Home, then the working directory; one or the other. They are one here: told apart by path.
    write(&here, ".isol8/config.json", r#"{"maxConcurrent": 3}"#);
    let (config, _) = shown(&mut findings);
    findings.note("home", equal("maxConcurrent", &config["maxConcurrent"], &3));
    write(&here, "isol8.config.json", r#"{"defaults": {"timeoutMs": 700}, "poolSize": 2}"#);
    let (config, _) = shown(&mut findings);
    findings.note("no mixing", equal("maxConcurrent", &config["maxConcurrent"], &10));
    findings.note("merged", equal("memoryLimit", &config["defaults"]["memoryLimit"], &"512m"));
    findings
        .note("a number", equal("poolSize", &config["poolSize"], &json!({"clean": 2, "dirty": 2})));
    let did = isol8(here.path(), &["config"], "");
    findings.check("names its source", did.stdout.contains("isol8.config.json"), did.stdout);

    // It holds for runs, and a flag beats it.
    let did = isol8(here.path(), &["run", "-r", "bash", "-e", "sleep 30"], "");
    findings.note("its time limit", equal("exit code", &did.code, &Some(137)));
    let did = isol8(here.path(), &["run", "-r", "bash", "-e", "sleep 1", "--timeout", "20000"], "");
    findings.note("the flag's", equal("exit code", &did.code, &Some(0)));

    write(&here, "isol8.config.json", "{broken");
    let did = isol8(here.path(), &["config"], "");
    findings.note("not JSON", equal("exit code", &did.code, &Some(1)));
    findings.check("not JSON", did.stderr.contains("isol8.config.json"), did.stderr);
    findings.report();
}

#[test]
fn each_value_says_where_it_came_from() {
    let here = directory();
    let mut findings = Findings::default();
    write(&here, "isol8.config.json", r#"{"defaults": {"timeoutMs": 700}, "poolSize": 2}"#);
    let variables =
        [("ISOL8_DEFAULTS__MEMORY_LIMIT", "64m"), ("ISOL8_REDIS_URL", "redis://:hidden@host")];
    let text = isol8_with(&here, &variables, &["config"]).stdout;
    let line = |label: &str| {
        text.lines().find(|line| line.trim_start().starts_with(label)).unwrap_or_default()
    };
    for (label, value, source) in [
        ("Timeout:", "700 ms", Some("isol8.config.json")),
        ("Clean:", "2", Some("isol8.config.json")),
        ("Memory:", "64m", Some("# ISOL8_DEFAULTS__MEMORY_LIMIT")),
        ("URL:", "redis://:***@host", Some("# ISOL8_REDIS_URL")),
        ("Tmp size:", "256m", None),
    ] {
        let found = line(label);
        findings.check(label, found.contains(value), found);
        match source {
            Some(source) => findings.check(label, found.contains(source), found),
            None => findings.check(label, !found.contains('#'), found),
        }
    }
    for title in ["General", "Network Filter", "Remote Code", "Audit", "Auth", "Policy"] {
        findings.check(title, text.lines().any(|line| line == title), &text);
    }
    let sources = isol8_with(&here, &variables, &["config", "--sources"]).stdout;
    let sources: Value = serde_json::from_str(&sources).unwrap_or_default();
    let memory = &sources["values"]["defaults.memoryLimit"];
    let expected = json!({"value": "64m", "source": "ISOL8_DEFAULTS__MEMORY_LIMIT"});
    findings.note("sources", equal("memory", memory, &expected));
    let json = isol8_with(&here, &variables, &["config", "--json"]).stdout;
    findings.check("no password", !json.contains("hidden") && json.contains("64m"), &json);
    findings.report();
}

#[test]
fn mistakes_are_refused_by_every_command_that_reads_it() {
    let here = directory();
    let mut findings = Findings::default();
    write(&here, "isol8.config.json", r#"{"defaults": {"memoryLimt": "1g"}}"#);
    for arguments in [
        &["config"][..],
        &["run", "-e", "1"],
        &["serve", "--key", "k"],
        &["gateway", "--key", "k"],
        &["worker"],
    ] {
        let did = isol8(here.path(), arguments, "");
        findings.note(arguments[0], equal("exit code", &did.code, &Some(1)));
        for words in ["isol8.config.json", "defaults.memoryLimt", "did you mean \"memoryLimit\"?"] {
            findings.check(arguments[0], did.stderr.contains(words), &did.stderr);
        }
    }
    write(&here, "isol8.config.json", "{}");
    let did = isol8_with(&here, &[("ISOL8_POLICY__MAX_MEMORY", "1m")], &["config"]);
    findings.note("variable", equal("exit code", &did.code, &Some(1)));
    findings.check("variable", did.stderr.contains("ISOL8_POLICY__MAX_MEMORY"), did.stderr);
    findings.report();
}

#[test]
fn the_published_schema_is_the_printed_one() {
    let here = directory();
    let printed = isol8(here.path(), &["config", "--schema"], "").stdout;
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/isol8.config.schema.json");
    let published = std::fs::read_to_string(path).expect("it is published");
    let parse = |text: &str| serde_json::from_str::<Value>(text).expect("it is JSON");
    assert_eq!(parse(&printed), parse(&published));
}

#[test]
fn a_written_policy_holds_for_local_runs_and_an_unwritten_one_does_not() {
    let here = directory();
    let mut findings = Findings::default();
    let greedy = ["run", "-r", "bash", "-e", "echo ran", "--no-stream", "--pids-limit", "2000"];
    let did = isol8(here.path(), &greedy, "");
    findings.note("no policy", equal("stdout", &did.stdout.as_str(), &"ran\n"));
    write(&here, "isol8.config.json", r#"{"policy": {"maxPids": 1000}}"#);
    let did = isol8(here.path(), &greedy, "");
    findings.note("policy", equal("exit code", &did.code, &Some(1)));
    findings.check("policy", did.stderr.contains("(policy.maxPids)"), did.stderr);
    findings.report();
}

#[test]
fn the_filter_of_the_configuration_is_the_sandboxs() {
    let here = directory();
    let mut findings = Findings::default();
    let mode = ["run", "-r", "bash", "-e", "grep Seccomp: /proc/self/status", "--no-stream"];
    for (seccomp, expected) in [("strict", "Seccomp:\t2\n"), ("unconfined", "Seccomp:\t0\n")] {
        let did = isol8_with(&here, &[("ISOL8_SECURITY__SECCOMP", seccomp)], &mode);
        findings.note(seccomp, equal("stdout", &did.stdout.as_str(), &expected));
    }
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls":
        [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}"#;
    write(&here, "profile.json", profile);
    let custom = r#"{"security": {"seccomp": "custom", "customProfilePath": "profile.json"}}"#;
    write(&here, "isol8.config.json", custom);
    let mkdir = ["run", "-r", "bash", "-e", "mkdir d || echo refused", "--no-stream"];
    let did = isol8(here.path(), &mkdir, "");
    findings.note("custom", equal("stdout", &did.stdout.as_str(), &"refused\n"));
    for (text, words) in [("[]", "not a seccomp profile"), ("{", "not a seccomp profile")] {
        write(&here, "profile.json", text);
        let did = isol8(here.path(), &mkdir, "");
        findings.note(text, equal("exit code", &did.code, &Some(1)));
        findings.check(text, did.stderr.contains(words), did.stderr);
    }
    std::fs::remove_file(here.path().join("profile.json")).expect("it is there");
    let did = isol8(here.path(), &mkdir, "");
    findings.note("no file", equal("exit code", &did.code, &Some(1)));
    findings.check("no file", did.stderr.contains("customProfilePath"), did.stderr);
    findings.report();
}
