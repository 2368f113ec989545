//! Living JavaScript: the same table of calls for Node, Bun and Deno, and what differs between them.

mod harness;

use harness::*;
use runner::protocol::*;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Engine {
    Node,
    Bun,
    Deno,
}
use Engine::{Bun, Deno, Node};

const ALL: &[Engine] = &[Node, Bun, Deno];

impl Engine {
    fn sandbox(self) -> Sandbox {
        Sandbox::new(match self {
            Node => "node",
            Bun => "bun",
            Deno => "deno",
        })
    }

    fn call(self, text: &str) -> Start {
        let (live, argv, path) = match self {
            Node => (LiveInterpreter::Node, &["node"][..], "/sandbox/main.mjs"),
            Bun => (LiveInterpreter::Bun, &["bun", "run"][..], "/sandbox/main.ts"),
            Deno => (LiveInterpreter::Deno, &["deno", "run"][..], "/sandbox/main.mts"),
        };
        let argv = [argv, &[path]].concat();
        Start { live: Some(live), keep_background: true, ..with_code(&argv, path, text) }
    }
}

/// One call: its text, what it prints, its exit code and words of its errors (none: no errors).
struct Case(&'static [Engine], &'static str, &'static str, u8, &'static [&'static str]);

const fn prints(text: &'static str, output: &'static str) -> Case {
    Case(ALL, text, output, 0, &[])
}

const fn exits(text: &'static str, output: &'static str, code: u8) -> Case {
    Case(ALL, text, output, code, &[])
}

const fn fails(text: &'static str, words: &'static [&'static str]) -> Case {
    Case(ALL, text, "", 1, words)
}

/// Runs the calls one after another in one interpreter, which must live through all of them.
fn run_all(cases: &[Case]) {
    for &engine in ALL {
        let mut sandbox = engine.sandbox();
        sandbox.run(&engine.call("let survivor = 42"));
        for Case(engines, text, output, code, words) in cases {
            if !engines.contains(&engine) {
                continue;
            }
            let outcome = sandbox.run(&engine.call(text));
            let context = format!("{engine:?}: {text}\n{}", outcome.err());
            assert_eq!(outcome.out(), *output, "{context}");
            assert_eq!(outcome.exited.exit_code, i32::from(*code), "{context}");
            assert_eq!(words.is_empty(), outcome.err().is_empty(), "{context}");
            for word in *words {
                assert!(outcome.err().contains(word), "no {word:?} in {context}");
            }
            assert!(!outcome.err().contains("/isol8/live/"), "{context}");
            assert!(!outcome.exited.state_lost, "{context}");
        }
        assert_eq!(sandbox.run(&engine.call("console.log(survivor)")).out(), "42\n", "{engine:?}");
    }
}

#[test]
fn declarations_and_imports_survive() {
    run_all(&[
        prints(
            "const x = 42; let l = 1; var v = 2; function f() { return x }\nclass A { hi() { return 'A' } }\n\
             import fs from 'node:fs'\nimport * as path from 'node:path'\nimport { join as glue } from 'node:path'",
            "",
        ),
        prints(
            "console.log(x, l, v, f(), new A().hi(), fs.existsSync('/sandbox'), path.basename('/a/b'), glue('a', 'b'))",
            "42 1 2 42 A true b a/b\n",
        ),
        prints(
            "const x = 43; let f = () => x; class v {} console.log(f(), typeof v)",
            "43 function\n",
        ),
        prints("import x from 'node:os'; console.log(typeof x.cpus)", "function\n"),
        prints("const x = 1; function f() { return 'again' } console.log(x, f())", "1 again\n"),
        prints("let n = 0; function inc() { return ++n }", ""),
        prints("inc(); console.log(n); n = 5; console.log(inc())", "1\n6\n"),
        prints("const { p, q: [r, ...s], ...rest } = { p: 1, q: [2, 3, 4], m: 1 }, u = 9", ""),
        prints("console.log(p, r, s.length, rest.m, u)", "1 2 2 1 9\n"),
        prints("const t = await Promise.resolve(5); function late() { return t + early() }", ""),
        prints("console.log(late()); function early() { return 1 } await 0", "6\n"),
        prints("for (var i = 0; i < 3; i++) { var inner = i } await 1", ""),
        prints("console.log(i, inner)", "3 2\n"),
        prints("if (true) var k = 1; else var k = 2\nfor (var key in { z: 1 }) ;", ""),
        prints("console.log(k, key)", "1 z\n"),
        prints("undeclared = 1\nlet $; { let n = 'inner' }", ""),
        prints("console.log(undeclared, $, n)", "1 undefined 6\n"),
        prints(
            "export const e = 1; export default class Foo {}; export function g() { return e }",
            "",
        ),
        prints("console.log(e, typeof Foo, g())", "1 function 1\n"),
        prints("#!/usr/bin/env node\nawait 1; console.log('hash')", "hash\n"),
    ]);
}

#[test]
fn modules_are_found_and_bound_live() {
    run_all(&[
        prints(
            "import fs from 'node:fs'; fs.writeFileSync('/sandbox/mod.mjs', \
             'export let a = 1; export const bump = () => a++; export default 8')",
            "",
        ),
        prints(
            "import def, { a as b, bump } from './mod.mjs'\nimport * as ns from '/sandbox/mod.mjs'",
            "",
        ),
        prints("bump(); console.log(def, b, ns.a)", "8 2 2\n"),
        prints("console.log((await import('./mod.mjs')).default)", "8\n"),
        fails("b = 1", &["TypeError", "constant"]),
        fails("import { nope } from './mod.mjs'", &["nope", "SyntaxError"]),
        fails("import z from './missing.mjs'", &["missing.mjs"]),
        prints("const b = 5; console.log(b)", "5\n"),
        prints(
            "console.log(import.meta.url.startsWith('file:///sandbox/main.'), import.meta.dirname)",
            "true /sandbox\n",
        ),
        Case(
            &[Node, Bun],
            "console.log(require('path').sep, require('./mod.mjs').default)",
            "/ 8\n",
            0,
            &[],
        ),
    ]);
}

#[test]
fn typescript_is_understood_where_the_runtime_does() {
    for engine in [Bun, Deno] {
        let mut sandbox = engine.sandbox();
        let text = "enum E { A = 1, B }\ninterface Q { a: number }\nconst typed: Q = { a: 2 }\n\
                    type Z = string; function generic<T>(a: T): T { return a }";
        let outcome = sandbox.run(&engine.call(text));
        assert_eq!((outcome.err().as_str(), outcome.exited.exit_code), ("", 0), "{engine:?}");
        let outcome =
            sandbox.run(&engine.call("console.log(E.B, typed.a, generic<number>(3) as number)"));
        assert_eq!((outcome.out().as_str(), outcome.err().as_str()), ("2 2 3\n", ""), "{engine:?}");
    }
}

#[test]
fn every_ending_leaves_the_interpreter_usable() {
    run_all(&[
        exits("console.log('before'); process.exit(3); console.log('after')", "before\n", 3),
        exits(
            "try { process.exit(4) } catch { console.log('no') } finally { console.log('no') }",
            "",
            4,
        ),
        exits(
            "async function m() { process.exit(5) }\nm().catch(e => { console.error(e); process.exit(1) })",
            "",
            5,
        ),
        exits("setTimeout(() => process.exit(6), 10); setInterval(() => {}, 5)", "", 6),
        exits("await 1; process.exit()", "", 0),
        exits("process.exitCode = 9", "", 9),
        prints("console.log('reset')", "reset\n"),
        Case(&[Deno], "Deno.exit(7)", "", 7, &[]),
        Case(&[Deno], "Deno.exitCode = 8", "", 8, &[]),
        fails(
            "\nthrow new Error('boom')",
            &["rror: boom", "throw new Error('boom')", "/sandbox/main."],
        ),
        fails("function thrower() { null.x }\n\nthrower()", &["TypeError", "at thrower", ":3:"]),
        fails("await 1; throw new RangeError('late boom')", &["RangeError", "late boom"]),
        fails("Promise.reject(new Error('rejected'))", &["rejected"]),
        fails(
            "setTimeout(() => { throw new Error('timer boom') }, 5)\nsetTimeout(() => console.log('no'), 50)",
            &["timer boom"],
        ),
        fails("throw null", &["null"]),
        fails("throw new Proxy({}, { get() { throw 1 }, getPrototypeOf() { throw 2 } })", &["\n"]),
        fails("missingName", &["ReferenceError", "missingName"]),
        fails("let = = 3", &["xpect", "let = = 3"]),
        Case(&[Node, Bun], "await new Promise(() => {})", "", 13, &["unsettled"]),
        Case(&[Deno], "await new Promise(() => {})", "", 1, &["never resolved"]),
    ]);
}

#[test]
fn a_call_ends_when_its_work_is_done() {
    run_all(&[
        prints(
            "setTimeout(() => console.log('timer'), 50); console.log('first')",
            "first\ntimer\n",
        ),
        prints(
            "(async () => { await new Promise(r => setTimeout(r, 30)); console.log('floating') })()",
            "floating\n",
        ),
        prints(
            "let ticks = 0\nconst id = setInterval(() => { if (++ticks === 3) { clearInterval(id); console.log(ticks) } }, 5)",
            "3\n",
        ),
        // A server, and an interval beside it, go on in the background.
        prints(
            "import { createServer } from 'node:http'\nlet beats = 0\n\
             const server = createServer((_, answer) => answer.end('hello')).listen(8123, '127.0.0.1')\n\
             setInterval(() => beats++, 5)",
            "",
        ),
        prints("console.log(await (await fetch('http://127.0.0.1:8123')).text())", "hello\n"),
        prints("while (beats < 3) await new Promise(r => setTimeout(r, 5)); server.close()", ""),
        prints(
            "console.log('x'.repeat(300000).length); process.stdout.write('done\\n')",
            "300000\ndone\n",
        ),
    ]);
}

#[test]
fn hostile_programs_do_not_take_the_driver_along() {
    run_all(&[
        prints(
            "globalThis.kept = { parse: JSON.parse, stringify: JSON.stringify, log: console.log, write: process.stdout.write }\n\
             JSON.parse = () => { throw 1 }; JSON.stringify = null; console.log = () => {}; process.stdout.write = () => true\n\
             Object.prototype.bar = 2",
            "",
        ),
        prints(
            "delete Object.prototype.bar; JSON.parse = kept.parse; JSON.stringify = kept.stringify\n\
             console.log = kept.log; process.stdout.write = kept.write; console.log('still')",
            "still\n",
        ),
        prints("process.removeAllListeners(); class Map {}; const Date = 1; const Reflect = 2", ""),
        fails("throw new Error('as before')", &["as before"]),
        prints("delete globalThis.process; globalThis.setTimeout = null", ""),
        prints("console.log('alive')", "alive\n"),
    ]);
}

#[test]
fn environment_directory_and_standard_input_follow_the_calls() {
    for &engine in ALL {
        let mut sandbox = engine.sandbox();
        sandbox.shell("mkdir -p /sandbox/a");
        let show = "console.log(process.env.A, process.env.OWN, process.cwd())";
        let mut first = engine.call(show);
        first.env.insert("A".to_owned(), "1".to_owned());
        assert_eq!(sandbox.run(&first).out(), "1 undefined /sandbox\n", "{engine:?}");
        sandbox.run(&engine.call("process.env.OWN = 'mine'; process.chdir('a')"));
        assert_eq!(
            sandbox.run(&engine.call(show)).out(),
            "undefined mine /sandbox/a\n",
            "{engine:?}"
        );
        let nowhere = Start { cwd: "/sandbox/none".to_owned(), ..engine.call(show) };
        let failed = sandbox.run(&nowhere).failed.expect("no such directory");
        assert_eq!((failed.stage, failed.errno), (Stage::Cwd, 2), "{engine:?}");

        let read = "let text = ''; for await (const part of process.stdin) text += part\nconsole.log(text)";
        assert_eq!(sandbox.run(&engine.call(read)).out(), "\n", "{engine:?}");
        for _ in 0..2 {
            assert_eq!(with_input(&mut sandbox, &engine.call(read)), "given\n", "{engine:?}");
            if engine != Deno {
                let text = "import fs from 'node:fs'; console.log(fs.readFileSync(0, 'utf8'))";
                assert_eq!(with_input(&mut sandbox, &engine.call(text)), "given\n", "{engine:?}");
            }
        }
    }
}

fn with_input(sandbox: &mut Sandbox, call: &Start) -> String {
    sandbox.send(Kind::Start, &Start { stdin: true, ..call.clone() });
    sandbox.send_data(Kind::Stdin, b"given");
    sandbox.send_data(Kind::StdinEnd, b"");
    let outcome = sandbox.collect();
    format!("{}{}", outcome.out(), outcome.err())
}

#[test]
fn a_timeout_interrupts_and_keeps_the_state() {
    let awaiting: &[&str] = &[
        "await new Promise(r => setTimeout(r, 100000))",
        "setInterval(() => {}, 50)",
        "import { setTimeout as sleep } from 'node:timers/promises'; for (;;) await sleep(20)",
    ];
    let busy: &[&str] =
        &["while (true) {}", "try { while (true) {} } finally { console.log('no') }"];
    let deep: &[&str] = &[
        "await 1; while (true) {}",
        "setTimeout(() => { while (true) {} }, 5)",
        "await new Promise(r => setTimeout(r, 5)); while (true) {}",
    ];
    for (engine, texts) in [
        (Node, [awaiting, busy, deep].concat()),
        (Bun, [awaiting, busy].concat()),
        (Deno, awaiting.to_vec()),
    ] {
        let mut sandbox = engine.sandbox();
        sandbox.run(&engine.call("let x = 42"));
        for text in texts {
            let exited = sandbox.run(&Start { timeout_ms: 400, ..engine.call(text) }).exited;
            assert!(exited.timed_out && !exited.state_lost, "{engine:?} {text}: {exited:?}");
            // Timers work as before, and nothing of the last call holds this one.
            let outcome = sandbox.run(&engine.call("setTimeout(() => console.log(x), 20)"));
            assert_eq!(outcome.out(), "42\n", "{engine:?} after {text}: {}", outcome.err());
        }
    }
}

#[test]
fn what_cannot_be_interrupted_costs_the_state_and_says_so() {
    for (engine, text) in [(Bun, "await 1; while (true) {}"), (Deno, "while (true) {}")] {
        let mut sandbox = engine.sandbox();
        sandbox.run(&engine.call("let x = 42"));
        let exited = sandbox.run(&Start { timeout_ms: 1500, ..engine.call(text) }).exited;
        assert!(exited.timed_out && exited.state_lost, "{engine:?}: {exited:?}");
        let outcome = sandbox.run(&engine.call("console.log(typeof x)"));
        assert_eq!(outcome.out(), "undefined\n", "{engine:?}");
        assert!(outcome.started.expect("it started").fresh, "{engine:?}");
    }
}

#[test]
fn deno_gives_no_more_permissions_than_to_a_plain_program() {
    let mut sandbox = Deno.sandbox();
    for text in [
        "Deno.readTextFileSync('/etc/passwd')",
        "Deno.readTextFileSync('/isol8/live/deno.mjs')",
        "await import('/isol8/live/javascript/rewrite.mjs?again')",
        "new Deno.Command('id').outputSync()",
        "Deno.openSync('/proc/self/fd/4', { write: true })",
    ] {
        let outcome = sandbox.run(&Deno.call(text));
        assert_eq!(outcome.exited.exit_code, 1, "{text}");
        assert!(outcome.err().contains("Requires"), "{text}: {}", outcome.err());
    }
}
