//! Help, version, mistakes.

use tests::Findings;
use tests::case::equal;

use super::{directory, isol8};

#[test]
fn questions_about_itself() {
    let here = directory();
    let mut findings = Findings::default();
    let help = isol8(here.path(), &[], "");
    findings.note("no arguments", equal("exit code", &help.code, &Some(0)));
    for command in [
        "setup",
        "build",
        "list-custom",
        "run",
        "serve",
        "gateway",
        "worker",
        "config",
        "cleanup",
        "login",
        "logout",
        "session",
        "keys",
        "doctor",
        "completions",
        "man",
    ] {
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
        (&["no-such-command"][..], "[ERR] unknown command 'no-such-command'"),
        (&["run", "--no-such-flag"], "[ERR] unknown argument '--no-such-flag'"),
        (&["session"], "exec"),
        (&["build"], "--base"),
        (&["login"], "--host"),
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
    for shell in ["bash", "zsh", "fish"] {
        let script = isol8(here.path(), &["completions", shell], "");
        let is_script = script.code == Some(0) && script.stdout.contains("list-custom");
        findings.check("completions", is_script, script.stderr);
    }
    let page = isol8(here.path(), &["man"], "");
    findings.check("man", page.code == Some(0) && page.stdout.contains(".SH NAME"), page.stdout);
    let pages = isol8(here.path(), &["man", "--dir", "pages"], "");
    findings.note("man --dir", equal("exit code", &pages.code, &Some(0)));
    for page in ["isol8.1", "isol8-run.1", "isol8-session-exec.1"] {
        let text = std::fs::read_to_string(here.path().join("pages").join(page));
        findings.check(page, text.is_ok_and(|text| text.contains(".SH SYNOPSIS")), &pages.stderr);
    }
    findings.report();
}
