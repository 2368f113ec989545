//! The command line as its users and scripts meet it: what goes where, and with which exit code.

mod about;
mod config;
mod local;
mod machine;
mod remote;
mod servers;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;
use tests::case::equal;
use tests::{Findings, binary};

/// What a command did.
pub(crate) struct Did {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn run(mut command: Command, input: &str) -> Did {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    // A command that does not read its input may be gone already.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    Did {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

pub(crate) fn isol8(directory: &Path, arguments: &[&str], input: &str) -> Did {
    let mut command = binary::command(directory);
    command.args(arguments);
    run(command, input)
}

/// A row: arguments, standard input, exit code, standard output, text in standard error.
pub(crate) type Row<'a> = (&'a [&'a str], &'a str, i32, &'a str, &'a str);

pub(crate) fn check(findings: &mut Findings, directory: &Path, rows: &[Row<'_>]) {
    for (arguments, input, code, stdout, stderr) in rows {
        let did = isol8(directory, arguments, input);
        let name = format!("isol8 {}", arguments.join(" "));
        let code = equal("exit code", &did.code, &Some(*code));
        findings
            .note(&name, code.map_err(|error| format!("{error}: {} {}", did.stdout, did.stderr)));
        findings.note(&name, equal("stdout", &did.stdout.as_str(), stdout));
        if stderr.is_empty() {
            findings.note(&name, equal("stderr", &did.stderr.as_str(), &""));
        } else {
            findings.check(&format!("{name}: stderr"), did.stderr.contains(stderr), &did.stderr);
        }
    }
}

pub(crate) fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory can be made")
}

pub(crate) fn write(directory: &TempDir, name: &str, text: &str) {
    let path = directory.path().join(name);
    let parent = path.parent().expect("it has one");
    std::fs::create_dir_all(parent).expect("a directory can be made");
    std::fs::write(path, text).expect("a file can be written");
}
