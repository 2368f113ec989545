//! Living Python: what survives from call to call, and how calls end.

mod harness;

use harness::live::*;
use harness::*;
use runner::protocol::*;

#[test]
fn python_keeps_its_state() {
    let mut sandbox = Sandbox::new("python");
    assert!(fresh(&sandbox.run(&call("x = 42\nimport json\ndef double(n): return 2 * n"))));
    let outcome = sandbox.run(&call("print(double(x), json.dumps([x]))"));
    assert_eq!(outcome.out(), "84 [42]\n");
    assert!(!fresh(&outcome));
    prints(
        &mut sandbox,
        &call(
            "import sys; print(__name__, __file__, sys.argv, sys.path[0], sys.modules['__main__'].x)",
        ),
        "__main__ /sandbox/main.py ['/sandbox/main.py'] /sandbox 42\n",
    );
    prints(&mut sandbox, &call("x\n'not shown'"), "");
    // A plain program next to it does not disturb it, even one that is killed.
    let plain = Start { keep_background: true, timeout_ms: 300, ..shell("sleep 60") };
    assert!(sandbox.run(&plain).exited.timed_out);
    prints(&mut sandbox, &call("print(x)"), "42\n");
    sandbox.reset();
    let outcome = sandbox.run(&call("print('x' in globals())"));
    assert_eq!(outcome.out(), "False\n");
    assert!(fresh(&outcome));
}

#[test]
fn python_survives_every_ending_of_its_code() {
    let mut sandbox = Sandbox::new("python");
    sandbox.run(&call("x = 42"));
    for (text, exit_code, error) in [
        ("import sys; sys.exit(3)", 3, ""),
        ("exit()", 0, ""),
        ("raise SystemExit('text')", 1, "text\n"),
        ("raise SystemExit(-1)", 255, ""),
        (
            "x = = 1",
            1,
            "  File \"/sandbox/main.py\", line 1\n    x = = 1\n        ^\nSyntaxError: invalid syntax\n",
        ),
        (
            "\n1 / 0",
            1,
            "Traceback (most recent call last):\n  File \"/sandbox/main.py\", line 2, in <module>\n    \
             1 / 0\n    ~~^~~\nZeroDivisionError: division by zero\n",
        ),
    ] {
        let outcome = sandbox.run(&call(text));
        assert_eq!(
            (outcome.exited.exit_code, outcome.err().as_str()),
            (exit_code, error),
            "{text}"
        );
        assert!(!outcome.exited.state_lost && !fresh(&outcome), "{text}");
        prints(&mut sandbox, &call("print(x)"), "42\n");
    }
}

#[test]
fn python_shows_the_source_of_the_call_that_defined_a_function() {
    let mut sandbox = Sandbox::new("python");
    sandbox.run(&call("def f():\n    raise ValueError  # of the first call\n"));
    sandbox.run(&call("# another\n# text\n"));
    let outcome = sandbox.run(&call("\nf()  # of the third"));
    assert_eq!(
        outcome.err(),
        "Traceback (most recent call last):\n  File \"/sandbox/main.py\", line 2, in <module>\n    f()  # \
         of the third\n    ^^^\n  File \"/sandbox/main.py\", line 2, in f\n    raise ValueError  # of the \
         first call\n    ^^^^^^^^^^^^^^^^\nValueError\n"
    );
    let own = sandbox.run(&call(
        "import traceback, inspect\ntry: f()\nexcept ValueError: traceback.print_exc()\n\
                                 print(inspect.getsource(f), f.__code__.co_filename == __file__)",
    ));
    assert!(own.err().contains("raise ValueError  # of the first call"), "{}", own.err());
    assert_eq!(own.out(), "def f():\n    raise ValueError  # of the first call\n True\n");
}

#[test]
fn environment_and_directory_follow_the_calls() {
    let mut sandbox = Sandbox::new("python");
    sandbox.shell("mkdir -p /sandbox/a /sandbox/b");
    let show = "import os; print(os.environ.get('A'), os.environ.get('OWN'), os.getcwd())";
    let mut first = call(show);
    first.env.insert("A".to_owned(), "1".to_owned());
    prints(&mut sandbox, &first, "1 None /sandbox\n");
    prints(&mut sandbox, &call("os.environ['OWN'] = 'mine'; os.chdir('a')"), "");
    prints(&mut sandbox, &call(show), "None mine /sandbox/a\n");
    let elsewhere = Start { cwd: "/sandbox/b".to_owned(), ..call(show) };
    prints(&mut sandbox, &elsewhere, "None mine /sandbox/b\n");
    let nowhere = Start { cwd: "/sandbox/none".to_owned(), ..call(show) };
    for _ in 0..2 {
        let failed = sandbox.run(&nowhere).failed.expect("no such directory");
        assert_eq!(
            (failed.stage, failed.path.as_str(), failed.errno),
            (Stage::Cwd, "/sandbox/none", 2)
        );
    }
    prints(&mut sandbox, &call(show), "None mine /sandbox\n");
}

#[test]
fn each_call_reads_its_own_standard_input() {
    let mut sandbox = Sandbox::new("python");
    let read = "import sys; print(repr(sys.stdin.read()))";
    prints(&mut sandbox, &call(read), "''\n");
    for round in ["one", "two"] {
        sandbox.send(
            Kind::Start,
            &Start {
                stdin: true,
                ..call("print(input(), flush=True); import sys; print(sys.stdin.read())")
            },
        );
        sandbox.send_data(Kind::Stdin, format!("{round}\n").as_bytes());
        loop {
            let frame = sandbox.next();
            if frame.kind == Kind::Stdout {
                assert_eq!(frame.payload, format!("{round}\n").as_bytes());
                break;
            }
        }
        sandbox.send_data(Kind::Stdin, b"rest");
        sandbox.send_data(Kind::StdinEnd, b"");
        assert_eq!(sandbox.collect().out(), "rest\n");
    }
    // Ended before the interpreter has even opened it, and never read.
    for text in [read, "pass"] {
        sandbox.send(Kind::Start, &Start { stdin: true, ..call(text) });
        sandbox.send_data(Kind::StdinEnd, b"");
        assert_eq!(sandbox.collect().exited.exit_code, 0);
    }
    prints(&mut sandbox, &call(read), "''\n");
    assert_eq!(sandbox.shell("ls -A /tmp").out(), "");
}

#[test]
fn a_large_standard_input_and_output_pass_through() {
    let mut sandbox = Sandbox::new("python");
    let text =
        "import sys; data = sys.stdin.read(); print(len(data)); sys.stdout.write('y' * 3_000_000)";
    sandbox.send(Kind::Start, &Start { stdin: true, ..call(text) });
    let (mut credit, mut left) = (STDIN_WINDOW_BYTES, 1_000_000);
    let (mut output, mut exited) = (0, None);
    while exited.is_none() {
        while left > 0 && credit > 0 {
            let size = left.min(credit).min(DATA_CHUNK_BYTES);
            sandbox.send_data(Kind::Stdin, &vec![b'x'; size]);
            (left, credit) = (left - size, credit - size);
            if left == 0 {
                sandbox.send_data(Kind::StdinEnd, b"");
            }
        }
        let frame = sandbox.next();
        match frame.kind {
            Kind::StdinAck => {
                credit += usize::try_from(frame.message::<StdinAck>().bytes).expect("it fits");
            }
            Kind::Stdout => output += frame.payload.len(),
            Kind::Exited => exited = Some(frame.message::<Exited>()),
            _ => {}
        }
    }
    assert_eq!(output, "1000000\n".len() + 3_000_000);
    assert_eq!(exited.map(|exited| exited.exit_code), Some(0));
}

#[test]
fn classes_of_the_session_can_be_pickled_and_sent_to_processes() {
    let mut sandbox = Sandbox::new("python");
    sandbox.run(&call(
        "class Point:\n def __init__(self, x): self.x = x\ndef double(p): return Point(2 * p.x)",
    ));
    let text = "import pickle, multiprocessing\nprint(pickle.loads(pickle.dumps(Point(3))).x)\n\
                with multiprocessing.Pool(2) as pool: print([p.x for p in pool.map(double, [Point(1), Point(2)])])";
    prints(&mut sandbox, &call(text), "3\n[2, 4]\n");
    let child =
        sandbox.run(&call("import os\nif os.fork() == 0: 1 / 0\nelse: print(os.wait()[1] >> 8)"));
    assert_eq!(child.out(), "1\n");
    assert!(
        !child.err().contains("isol8") && child.err().contains("ZeroDivisionError"),
        "{}",
        child.err()
    );
}

#[test]
fn a_file_on_its_way_survives_the_interrupt_of_a_call() {
    let mut sandbox = Sandbox::new("python");
    sandbox.send(Kind::FileBegin, &FileBegin { path: "f".to_owned(), mode: 0o644, size_bytes: 2 });
    sandbox.send_data(Kind::FileData, b"x");
    sandbox.send_data(Kind::FileEnd, b"");
    sandbox.send(Kind::Start, &call("import time; print('on', flush=True); time.sleep(60)"));
    while sandbox.next().kind != Kind::Stdout {}
    sandbox.send(Kind::FileBegin, &FileBegin { path: "g".to_owned(), mode: 0o644, size_bytes: 2 });
    sandbox.send_data(Kind::FileData, b"x");
    sandbox.send_data(Kind::Kill, b"");
    assert_eq!(sandbox.collect().exited.exit_code, 137);
    sandbox.send_data(Kind::FileData, b"y");
    sandbox.send_data(Kind::FileEnd, b"");
    sandbox.send_data(Kind::Sync, b"");
    assert_eq!(sandbox.next().kind, Kind::Synced);
    assert_eq!(sandbox.get_file("g").expect("written"), b"xy");
}

#[test]
fn a_timeout_interrupts_and_keeps_the_state() {
    let mut sandbox = Sandbox::new("python");
    sandbox.run(&call(
        "import subprocess, time, os\nx = 42\nserver = subprocess.Popen(['sleep', '600'])",
    ));
    for text in [
        "time.sleep(60)",
        "while True: pass",
        "subprocess.run(['sleep', '60'])",
        "os.system('sleep 60')",
    ] {
        let exited = sandbox.run(&Start { timeout_ms: 300, ..call(text) }).exited;
        assert!(exited.timed_out && !exited.state_lost, "{text}: {exited:?}");
        assert_eq!(exited.exit_code, 137);
        prints(&mut sandbox, &call("print(x, server.poll())"), "42 None\n");
    }
    // Only what the calls that ran out of time had started is gone.
    let count = "\
import os
def cmdline(pid):
    try: return open(f'/proc/{pid}/cmdline').read()
    except OSError: return ''
def sleeping(): return sum('sleep' in cmdline(pid) for pid in os.listdir('/proc') if pid.isdigit())
while sleeping() > 1: time.sleep(0.02)
print(sleeping())";
    prints(&mut sandbox, &call(count), "1\n");
}

#[test]
fn an_interrupt_that_is_ignored_costs_the_state() {
    let mut sandbox = Sandbox::new("python");
    sandbox.shell("true");
    let background = Start {
        keep_background: true,
        ..shell("sleep 600 >/dev/null 2>&1 & echo $! > /sandbox/pid")
    };
    sandbox.run(&background);
    for text in [
        "import time\nwhile True:\n try: time.sleep(60)\n except BaseException: pass",
        "import signal, time; signal.signal(2, signal.SIG_IGN); time.sleep(60)",
        "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
    ] {
        let exited = sandbox.run(&Start { timeout_ms: 1500, ..call(text) }).exited;
        assert!(exited.timed_out && exited.state_lost, "{text}: {exited:?}");
        assert_eq!(exited.exit_code, 137);
    }
    let outcome = sandbox.run(&call("print('x' in globals())"));
    assert!(fresh(&outcome) && outcome.out() == "False\n");
    let alive =
        Start { keep_background: true, ..shell("kill -0 $(cat /sandbox/pid) && echo alive") };
    assert_eq!(sandbox.run(&alive).out(), "alive\n");
}

#[test]
fn kill_and_signals_reach_a_call() {
    let mut sandbox = Sandbox::new("python");
    sandbox.run(&call("import time, os; x = 42"));
    let wait = call("print('on', flush=True); time.sleep(60)");
    for (kind, exit_code) in [(Kind::Kill, 137), (Kind::Signal, 130)] {
        sandbox.send(Kind::Start, &wait);
        while sandbox.next().kind != Kind::Stdout {}
        match kind {
            Kind::Kill => sandbox.send_data(Kind::Kill, b""),
            _ => sandbox.send(Kind::Signal, &Signal { number: 2 }),
        }
        let outcome = sandbox.collect();
        assert_eq!((outcome.exited.exit_code, outcome.exited.state_lost), (exit_code, false));
        assert_eq!(outcome.exited.killed, kind == Kind::Kill);
        assert!(outcome.err().ends_with("KeyboardInterrupt\n"), "{}", outcome.err());
        prints(&mut sandbox, &call("print(x)"), "42\n");
    }
}
