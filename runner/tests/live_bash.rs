//! Living bash: what survives from call to call, and how calls end.

mod harness;

use harness::live::*;
use harness::*;
use runner::protocol::*;

#[test]
fn bash_keeps_its_state() {
    let mut sandbox = Sandbox::new("bash");
    let first = sandbox.run(&bash(
        "x=42; declare -A map=([a]=1); list=(1 2); export E=env; f() { echo \"f $1\"; }\n\
         alias hi='echo aliased'; shopt -s expand_aliases nullglob; set -o pipefail; mkdir -p d; cd d",
    ));
    assert!(fresh(&first) && first.err().is_empty(), "{}", first.err());
    let show = bash(
        "echo $x ${map[a]} ${#list[@]} $(f y) $(printenv E) $PWD; hi; false | true; echo $? $0",
    );
    let expected = "42 1 2 f y env /sandbox/d\naliased\n1 /sandbox/main.sh\n";
    prints(&mut sandbox, &show, expected);
    // Each of these would end the shell.
    for (text, exit_code) in [
        ("exit 3", 3),
        ("set -e; false; echo never", 1),
        ("break", 0),
        ("set +e; f() { echo \"f $1\"; exit 4; }; f z >/dev/null", 4),
        ("f() { echo \"f $1\"; }; : ${nothing:?is not set}", 127),
        ("exec >/dev/null 2>&1; echo never; exit 5", 5),
        ("set -u; echo $nothing; echo never", 127),
        ("set +u; exit 7", 7),
        ("trap 'echo bye' EXIT; exit 6", 6),
    ] {
        let outcome = sandbox.run(&bash(text));
        assert_eq!(outcome.exited.exit_code, exit_code, "{text}: {}", outcome.err());
        assert!(!outcome.exited.state_lost && !fresh(&outcome), "{text}: {}", outcome.err());
        assert_eq!(outcome.out(), if exit_code == 6 { "bye\n" } else { "" }, "{text}");
        if text.contains("f()") || exit_code > 4 {
            prints(&mut sandbox, &bash("set +eu"), "");
            prints(&mut sandbox, &show, expected);
        }
    }
}

#[test]
fn bash_tells_how_the_code_ended() {
    let mut sandbox = Sandbox::new("bash");
    for (text, exit_code, error) in [
        ("false", 1, ""),
        ("(exit 9)", 9, ""),
        (
            "echo ok; if",
            2,
            "/sandbox/main.sh: eval: line 2: syntax error: unexpected end of file\n",
        ),
        ("\nnone", 127, "/sandbox/main.sh: line 2: none: command not found\n"),
        ("set -x; true; set +x", 0, "++ true\n++ set +x\n"),
        ("echo 'it'\\''s' >&2", 0, "it's\n"),
        ("continue", 0, ""),
    ] {
        let outcome = sandbox.run(&bash(text));
        assert_eq!(
            (outcome.exited.exit_code, outcome.err().as_str()),
            (exit_code, error),
            "{text}"
        );
        assert!(!outcome.exited.state_lost);
    }
    let big = format!("x='{}'; echo ${{#x}} 'ü'", "ü".repeat(100_000));
    prints(&mut sandbox, &bash(&big), "100000 ü\n");
    prints(&mut sandbox, &bash("exit 0"), "");
    prints(&mut sandbox, &bash("echo ${#x}"), "100000\n");
}

#[test]
fn bash_calls_have_their_own_input_environment_and_directory() {
    let mut sandbox = Sandbox::new("bash");
    for round in ["one", "two"] {
        let mut start = Start { stdin: true, ..bash("read a; echo $a $A; cat") };
        start.env.insert("A".to_owned(), round.to_owned());
        sandbox.send(Kind::Start, &start);
        sandbox.send_data(Kind::Stdin, format!("{round}\nrest\n").as_bytes());
        sandbox.send_data(Kind::StdinEnd, b"");
        let outcome = sandbox.collect();
        assert_eq!(outcome.out(), format!("{round} {round}\nrest\n"), "{outcome:?}");
    }
    prints(&mut sandbox, &bash("cat; echo \"[$A]\"; ls -A /tmp"), "[]\n");
    let failed = sandbox
        .run(&Start { cwd: "/none".to_owned(), ..bash("pwd") })
        .failed
        .expect("no such place");
    assert_eq!((failed.stage, failed.errno), (Stage::Cwd, 2));
    prints(&mut sandbox, &Start { cwd: "/tmp".to_owned(), ..bash("pwd") }, "/tmp\n");
    prints(&mut sandbox, &Start { cwd: "/tmp".to_owned(), ..bash("cd /; pwd") }, "/\n");
    prints(&mut sandbox, &Start { cwd: "/tmp".to_owned(), ..bash("pwd") }, "/\n");
}

#[test]
fn bash_can_be_interrupted() {
    let mut sandbox = Sandbox::new("bash");
    sandbox.run(&bash("trap - INT; x=42; sleep 600 & server=$!"));
    for text in
        ["sleep 60", "while :; do :; done", "cat /dev/zero | wc -c", "while :; do sleep 1; done"]
    {
        let exited = sandbox.run(&Start { timeout_ms: 300, ..bash(text) }).exited;
        assert!(
            exited.timed_out && !exited.state_lost && exited.exit_code == 137,
            "{text}: {exited:?}"
        );
        prints(&mut sandbox, &bash("kill -0 $server && echo $x"), "42\n");
    }
    let exited = sandbox.run(&Start { timeout_ms: 1500, ..bash("trap '' INT; sleep 60") }).exited;
    assert!(exited.timed_out && exited.state_lost, "{exited:?}");
    for (text, exit_code) in [
        ("kill -9 $$", 137),
        ("exec sh -c 'exit 5'", 5),
        ("exec /none", 127),
        ("builtin trap - EXIT; exit 8", 8),
    ] {
        let outcome = sandbox.run(&bash(text));
        assert_eq!(outcome.exited.exit_code, exit_code, "{text}");
        assert!(outcome.exited.state_lost && fresh(&sandbox.run(&bash("true"))), "{text}");
    }
}
