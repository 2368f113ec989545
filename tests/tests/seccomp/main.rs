//! The strict filters, each under what its runtime's standard library does: all of it works, and there is nothing in
//! what a runtime is allowed beyond the others that it does not use.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{Findings, binary};

/// A runtime, and the program that asks the kernel for what its library can.
const WORKOUTS: [(&str, &str); 5] = [
    ("bash", "bash.sh"),
    ("python", "python.py"),
    ("node", "javascript.mjs"),
    ("bun", "javascript.mjs"),
    ("deno", "javascript.mjs"),
];
/// Name of a filter of the operator's.
const TRIAL: &str = "trial";

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory can be made")
}

/// What a command said, and whether it ended well.
fn isol8(directory: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command: Command = binary::command(directory);
    let output = command.args(arguments).output().expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout) + &text(&output.stderr))
}

/// Runs a workout; whether all of it went well, and what it said.
fn work_out(directory: &Path, runtime: &str, program: &str) -> (bool, String) {
    let program = repository().join("tests/tests/seccomp/workouts").join(program);
    let program = program.to_str().expect("the path is text");
    let limits = ["--timeout", "60000", "--memory", "512m", "--pids-limit", "200"];
    let run = ["run", program, "--runtime", runtime, "--no-stream"];
    isol8(directory, &[&run[..], &limits[..]].concat())
}

#[test]
fn each_runtimes_library_works_under_its_filter() {
    let here = directory();
    let mut findings = Findings::default();
    for (runtime, program) in WORKOUTS {
        let (is_well, said) = work_out(here.path(), runtime, program);
        findings.check(runtime, is_well && said.contains("parts went well"), said);
    }
    findings.report();
}

#[test]
fn what_a_runtime_is_allowed_beyond_the_base_its_library_uses() {
    let here = directory();
    let mut findings = Findings::default();
    for (runtime, program) in WORKOUTS {
        let additions = repository().join(format!("images/seccomp/{runtime}.json"));
        let Ok(additions) = fs::read_to_string(additions) else { continue };
        let (_, profile) = isol8(here.path(), &["config", "--seccomp", runtime]);
        let profile: Value = serde_json::from_str(&profile).expect("it is JSON");
        for name in names(&serde_json::from_str(&additions).expect("it is JSON")) {
            // Who calls it is killed.
            write_trial(here.path(), &deadly(profile.clone(), &name));
            let (is_well, said) = work_out(here.path(), runtime, program);
            findings.check(&format!("{runtime} {name}"), !is_well, said);
        }
        write_trial(here.path(), &profile);
        let (is_well, said) = work_out(here.path(), runtime, program);
        findings.check(&format!("{runtime} as it was"), is_well, said);
        fs::remove_file(here.path().join("isol8.config.json")).expect("it is there");
    }
    findings.report();
}

fn names(profile: &Value) -> Vec<String> {
    let rules = profile["syscalls"].as_array().into_iter().flatten();
    let names = rules.flat_map(|rule| rule["names"].as_array().into_iter().flatten());
    names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

/// `profile`, but for a call that it does not survive.
fn deadly(mut profile: Value, name: &str) -> Value {
    let rules = profile["syscalls"].as_array_mut().expect("it has rules");
    for rule in rules.iter_mut() {
        rule["names"].as_array_mut().expect("it has names").retain(|other| other != name);
    }
    rules.retain(|rule| rule["names"] != json!([]));
    rules.push(json!({"names": [name], "action": "SCMP_ACT_KILL_PROCESS"}));
    profile
}

/// Makes `profile` the filter of all that is run in `directory`.
fn write_trial(directory: &Path, profile: &Value) {
    let profiles = directory.join("profiles");
    fs::create_dir_all(&profiles).expect("it can be made");
    fs::write(profiles.join(format!("{TRIAL}.json")), profile.to_string()).expect("it is written");
    let config = json!({"security": {"seccomp": TRIAL, "profileDirectory": "profiles"}});
    fs::write(directory.join("isol8.config.json"), config.to_string()).expect("it is written");
}

#[test]
fn a_filter_that_is_not_there_is_told_and_never_another() {
    let here = directory();
    let mut findings = Findings::default();
    let run = ["run", "--runtime", "bash", "-e", "echo ran", "--no-stream"];
    fs::create_dir(here.path().join("profiles")).expect("it can be made");
    let config = json!({"security": {"seccomp": TRIAL, "profileDirectory": "profiles"}});
    fs::write(here.path().join("isol8.config.json"), config.to_string()).expect("it is written");
    let (is_well, said) = isol8(here.path(), &run);
    let is_told = said.contains(TRIAL) && said.contains("security.profileDirectory");
    findings.check("no such file", !is_well && is_told && !said.contains("ran\n"), said);
    for (file, text, words) in [
        ("strict.json", "{}", "cannot be asked for"),
        ("A.json", "{}", "cannot be asked for"),
        ("trial.json", "[]", "not a seccomp profile"),
    ] {
        let path = here.path().join("profiles").join(file);
        fs::write(&path, text).expect("it is written");
        let (is_well, said) = isol8(here.path(), &run);
        findings.check(file, !is_well && said.contains(words) && said.contains(file), said);
        fs::remove_file(path).expect("it is there");
    }
    findings.report();
}
