//! Help, version, mistakes, and the configuration that is found.

use std::time::Duration;

use serde_json::json;
use tests::Findings;
use tests::case::equal;

use super::{directory, isol8, write};

#[test]
fn questions_about_itself() {
    let here = directory();
    let mut findings = Findings::default();
    let help = isol8(here.path(), &[], "");
    findings.note("no arguments", equal("exit code", &help.code, &Some(0)));
    for command in ["setup", "run", "serve", "gateway", "worker", "config", "cleanup"] {
        findings.check(
            &format!("help names {command}"),
            help.stdout.contains(command),
            &help.stdout,
        );
    }
    for flag in ["--help", "-h"] {
        let did = isol8(here.path(), &["run", flag], "");
        findings.check(flag, did.code == Some(0) && did.stdout.contains("--no-stream"), did.stdout);
    }
    for flag in ["--version", "-V"] {
        let did = isol8(here.path(), &[flag], "");
        let numbers: Vec<_> = did.stdout.trim_end().split('.').map(str::parse::<u32>).collect();
        let is_bare = numbers.len() == 3 && numbers.iter().all(Result::is_ok);
        findings.check("the bare version", did.code == Some(0) && is_bare, did.stdout);
    }
    for (arguments, text) in [
        (&["no-such-command"][..], "no-such-command"),
        (&["run", "--no-such-flag"], "--no-such-flag"),
        (&["run", "a", "b"], "b"),
        (&["serve", "--port", "99999", "--key", "k"], "99999"),
    ] {
        let did = isol8(here.path(), arguments, "");
        findings.note(text, equal("exit code", &did.code, &Some(1)));
        findings.check(text, did.stderr.contains(text) && did.stdout.is_empty(), did.stderr);
    }
    for role in ["serve", "gateway"] {
        let did = isol8(here.path(), &[role], "");
        findings.note(role, equal("exit code", &did.code, &Some(1)));
        findings.check(role, did.stderr.contains("[ERR] API key required"), did.stderr);
    }
    for arguments in [&["gateway", "--key", "k"][..], &["worker"]] {
        let did = isol8(here.path(), arguments, "");
        findings.note("no queue", equal("exit code", &did.code, &Some(1)));
        findings.check("no queue", did.stderr.contains("--redis"), did.stderr);
    }
    let script = isol8(here.path(), &["completions", "bash"], "");
    findings.check(
        "completions",
        script.code == Some(0) && script.stdout.contains("isol8"),
        script.stderr,
    );
    findings.report();
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
        "sandboxSize": "512m", "tmpSize": "256m", "readonlyRootFs": true});
    findings.note("defaults", equal("defaults", &config["defaults"], &defaults));
    findings
        .note("defaults", equal("poolSize", &config["poolSize"], &json!({"clean": 1, "dirty": 1})));

    // Home, then the working directory; one or the other. They are one here: told apart by path.
    write(&here, ".isol8/config.json", r#"{"maxConcurrent": 3, "unknown": 1}"#);
    let (config, _) = shown(&mut findings);
    findings.note("home", equal("maxConcurrent", &config["maxConcurrent"], &3));
    findings.note("unknown keys", equal("unknown", &config["unknown"], &serde_json::Value::Null));
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
    findings.check("in time", did.took < Duration::from_secs(8), did.took);
    let did = isol8(here.path(), &["run", "-r", "bash", "-e", "sleep 1", "--timeout", "20000"], "");
    findings.note("the flag's", equal("exit code", &did.code, &Some(0)));

    write(&here, "isol8.config.json", "{broken");
    let did = isol8(here.path(), &["config"], "");
    findings.note("not JSON", equal("exit code", &did.code, &Some(1)));
    findings.check("not JSON", did.stderr.contains("isol8.config.json"), did.stderr);
    findings.report();
}
