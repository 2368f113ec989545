//! A prepared interpreter must be indistinguishable from a fresh one: each program in
//! `tests/differential/` runs both ways, and output and exit code must be the same to the byte.

mod harness;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use harness::*;
use runner::protocol::*;

const INPUT: &[u8] = "line one\nline two ünï\n".as_bytes();

/// What a program may be compared by.
#[derive(Debug, PartialEq, Eq)]
struct Observed {
    stdout: String,
    stderr: String,
    exit_code: i32,
    signal: Option<i32>,
}

fn programs(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differential").join(folder);
    let only = std::env::var("ISOL8_TEST_PROGRAM").unwrap_or_default();
    let mut found: Vec<_> = std::fs::read_dir(folder)
        .expect("the programs are there")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.to_string_lossy().contains(&only))
        .collect();
    found.sort();
    assert!(!found.is_empty());
    found
}

fn observe(sandbox: &mut Sandbox, program: &Start) -> Observed {
    sandbox.send(Kind::Start, program);
    sandbox.send_data(Kind::Stdin, INPUT);
    sandbox.send_data(Kind::StdinEnd, b"");
    let outcome = sandbox.collect();
    assert!(outcome.failed.is_none(), "{:?}", outcome.failed);
    assert!(!outcome.exited.timed_out, "timed out: {} {}", outcome.out(), outcome.err());
    let started = outcome.started.as_ref().expect("it started");
    assert_eq!(started.prepared, program.prepared, "the comparison must not be vacuous");
    let ready = sandbox.reset();
    assert!(ready.prepared || !program.prepared);
    Observed {
        stdout: without_chance(&outcome.out()),
        stderr: without_chance(&outcome.err()),
        exit_code: outcome.exited.exit_code,
        signal: outcome.exited.signal,
    }
}

/// Replaces what differs between any two runs: addresses, and the process id in node's warnings.
/// An address is a number of at least nine digits: where the kernel puts a mapping is chance.
fn without_chance(text: &str) -> String {
    let mut rest = text;
    let mut kept = String::with_capacity(text.len());
    while let Some((at, mark)) =
        ["0x", "(node:"].iter().filter_map(|mark| Some((rest.find(mark)?, *mark))).min()
    {
        let (before, after) = rest.split_at(at + mark.len());
        let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_hexdigit()).len();
        let chance = if mark == "0x" && digits < 9 { 0 } else { digits };
        kept.push_str(before);
        rest = &after[chance..];
    }
    kept + rest
}

#[test]
fn addresses_and_process_ids_are_chance_and_small_numbers_are_not() {
    for (text, kept) in [
        ("<function bad at 0x7efe0ad884a0>", "<function bad at 0x>"),
        ("<function bad at 0x55d0c2a3b4e0> 0xff", "<function bad at 0x> 0xff"),
        ("(node:1234) Warning", "(node:) Warning"),
        ("plain", "plain"),
    ] {
        assert_eq!(without_chance(text), kept);
    }
}

fn environment_of_a_job() -> BTreeMap<String, String> {
    let mut env = environment();
    env.extend([("CUSTOM", "ä = b"), ("EMPTY", "")].map(|(k, v)| (k.to_owned(), v.to_owned())));
    env
}

/// Runs every program in both sandboxes and reports all differences at once.
fn compare(folder: &str, plain: &mut Sandbox, prepared: &mut Sandbox, interpreter: &str) {
    let mut different = Vec::new();
    for path in programs(folder) {
        let text = std::fs::read_to_string(&path).expect("a readable program");
        let extension = path.extension().expect("an extension").to_string_lossy().into_owned();
        let main = format!("/sandbox/main.{extension}");
        let mut start = with_code(&[interpreter, &main], &main, &text);
        (start.stdin, start.env) = (true, environment_of_a_job());
        let fresh = observe(plain, &start);
        start.prepared = true;
        let waiting = observe(prepared, &start);
        if fresh != waiting {
            different
                .push(format!("{}\n plain    {fresh:?}\n prepared {waiting:?}", path.display()));
        }
    }
    assert!(different.is_empty(), "{} differ:\n{}", different.len(), different.join("\n"));
}

#[test]
fn prepared_python_is_python() {
    let mut plain = Sandbox::new("python");
    let mut prepared = Sandbox::prepared_python();
    compare("python", &mut plain, &mut prepared, "python3");
}

#[test]
fn prepared_node_is_node() {
    let mut plain = Sandbox::new("node");
    let mut prepared = Sandbox::new("node");
    prepared.prepare(Interpreter::Node, &["node", "/sandbox/main.mjs"]);
    compare("node", &mut plain, &mut prepared, "node");
}

#[test]
fn files_left_open_are_flushed() {
    let text = "file = open('/sandbox/left', 'w')\nfile.write('complete')\n";
    let mut sandbox = Sandbox::prepared_python();
    for prepared in [true, false] {
        let outcome = sandbox.run(&Start { prepared, ..python(text) });
        assert_eq!(outcome.started.expect("it started").prepared, prepared);
        assert_eq!(sandbox.get_file("left").expect("it is there"), b"complete");
        sandbox.reset();
    }
}
