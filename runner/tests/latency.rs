//! What a job costs over the docker-attached link. Prints; run with `--ignored --nocapture`.

mod harness;

use std::time::{Duration, Instant};

use harness::live::{bash, call};
use harness::*;
use runner::protocol::*;

const ROUNDS: usize = 200;

/// Runs the program many times, resetting between; prints the middle and the tail.
#[expect(clippy::print_stdout, reason = "the numbers are the point")]
fn measure(name: &str, sandbox: &mut Sandbox, program: &Start) {
    let (mut runs, mut cycles) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let outcome = sandbox.run(program);
        runs.push(began.elapsed());
        assert_eq!(
            (outcome.exited.exit_code, outcome.out().as_str()),
            (0, "42\n"),
            "{}",
            outcome.err()
        );
        assert_eq!(outcome.started.expect("it started").prepared, program.prepared);
        sandbox.reset();
        cycles.push(began.elapsed());
    }
    for times in [&mut runs, &mut cycles] {
        times.sort_unstable();
    }
    let at =
        |times: &[Duration], percent: usize| times[times.len() * percent / 100].as_secs_f64() * 1e3;
    println!(
        "{name:<16} run p50 {:6.2} p99 {:6.2} ms   run+reset+ready p50 {:6.2} p99 {:6.2} ms   cpu {:.2} ms",
        at(&runs, 50),
        at(&runs, 99),
        at(&cycles, 50),
        at(&cycles, 99),
        sandbox.cpu_ms() / ROUNDS as f64
    );
}

#[test]
#[ignore = "a measurement, not a check"]
fn latency() {
    for prepared in [true, false] {
        let mut sandbox = Sandbox::prepared_python();
        let name = if prepared { "python prepared" } else { "python plain" };
        measure(name, &mut sandbox, &Start { prepared, ..python("print(6 * 7)") });
    }
    for prepared in [true, false] {
        let mut sandbox = Sandbox::new("node");
        if prepared {
            sandbox.prepare(Interpreter::Node, &["node", "/sandbox/main.mjs"]);
        }
        let name = if prepared { "node prepared" } else { "node plain" };
        let path = "/sandbox/main.mjs";
        let start = with_code(&["node", path], path, "console.log(6 * 7)");
        measure(name, &mut sandbox, &Start { prepared, ..start });
    }
    for (name, argv, path, text) in [
        ("bash plain", &["bash", "/sandbox/main.sh"][..], "/sandbox/main.sh", "echo $((6 * 7))"),
        (
            "bun plain",
            &["bun", "run", "/sandbox/main.ts"],
            "/sandbox/main.ts",
            "console.log(6 * 7)",
        ),
        (
            "deno plain",
            &["deno", "run", "/sandbox/main.mts"],
            "/sandbox/main.mts",
            "console.log(6 * 7)",
        ),
    ] {
        let mut sandbox = Sandbox::new(name.split(' ').next().expect("a name"));
        let mut start = with_code(argv, path, text);
        start.env.insert("DENO_DIR".to_owned(), "/tmp/deno".to_owned());
        measure(name, &mut sandbox, &start);
    }
}

#[test]
#[ignore = "a measurement, not a check"]
fn latency_of_a_call() {
    for (mut sandbox, start) in
        [(Sandbox::new("python"), call("print(6 * 7)")), (Sandbox::new("bash"), bash("echo 42"))]
    {
        sandbox.run(&start);
        let mut times: Vec<Duration> = (0..500)
            .map(|_| {
                let began = Instant::now();
                assert_eq!(sandbox.run(&start).out(), "42\n");
                began.elapsed()
            })
            .collect();
        times.sort_unstable();
        println!("{:?}: p50 {:?} p99 {:?}", start.live, times[250], times[495]);
    }
}
