//! Living interpreters and code that fights back, or just goes wrong.

mod harness;

use harness::live::*;
use harness::*;
use runner::protocol::*;

/// Runs a shell script that must end well, beside a living interpreter.
fn background(sandbox: &mut Sandbox, script: &str) {
    let outcome = sandbox.run(&Start { keep_background: true, ..shell(script) });
    assert!(!outcome.exited.timed_out, "{script}: {outcome:?}");
}

#[test]
fn an_interpreter_that_dies_is_told_and_replaced() {
    let mut sandbox = Sandbox::new("python");
    for (text, exit_code) in [
        ("import os; os._exit(7)", 7),
        ("import os; os.kill(os.getpid(), 9)", 137),
        ("import ctypes; ctypes.string_at(0)", 139),
        ("import os; os.closerange(0, 2000)", 137),
        ("import os; os.execvp('sh', ['sh', '-c', 'echo bye; exit 5'])", 5),
    ] {
        sandbox.run(&call("x = 42"));
        let outcome = sandbox.run(&call(text));
        assert!(outcome.exited.state_lost, "{text}: {:?}", outcome.exited);
        let code = outcome.exited.exit_code;
        // Without its descriptors the driver leaves, if it is not killed first.
        assert!(code == exit_code || text.contains("closerange"), "{text}: {code}");
        let next = sandbox.run(&call("print('x' in globals())"));
        assert!(fresh(&next) && next.out() == "False\n", "{text}");
    }
    // Between two calls.
    let text =
        "import threading, os; threading.Timer(0.1, os._exit, [1]).start(); print(os.getpid())";
    let pid = sandbox.run(&call(text)).out();
    background(&mut sandbox, &format!("while kill -0 {}; do sleep 0.02; done", pid.trim()));
    assert!(fresh(&sandbox.run(&call("pass"))));
}

#[test]
fn code_cannot_confuse_the_runner() {
    let mut sandbox = Sandbox::new("python");
    sandbox.run(&call("import os, sys, time, threading, glob"));
    let write_everywhere = |text: &str| {
        format!("for fd in range(3, 1024):\n try: os.write(fd, {text})\n except OSError: pass")
    };
    for noise in
        ["b'nonsense\\n'", "b'x' * 100000", "b'[]\\n' * 9", "b'{\"done\":1,\"exit\":0}\\n'"]
    {
        let outcome = sandbox.run(&call(&write_everywhere(noise)));
        assert!(!outcome.exited.timed_out, "{noise}: {:?}", outcome.exited);
        sandbox.run(&call("import os, sys, time, threading, glob"));
    }
    // Children that come back into the driver, and children that outlive the call.
    prints(
        &mut sandbox,
        &call("if os.fork() == 0: print('child')\nelse: os.wait(); print('parent')"),
        "child\nparent\n",
    );
    prints(&mut sandbox, &call("if os.fork() == 0: time.sleep(0.2); sys.exit(9)"), "");
    prints(&mut sandbox, &call("sys.stdout.close(); sys.stderr.close(); sys.stdin.close()"), "");
    prints(
        &mut sandbox,
        &call("print('mended'); os.close(1); os.close(2); os.close(0)"),
        "mended\n",
    );
    prints(&mut sandbox, &call("print('mended')"), "mended\n");
    prints(&mut sandbox, &call("sys.modules.clear(); __builtins__.__dict__.pop('open')"), "");
    prints(&mut sandbox, &call("print('still here')"), "still here\n");
}

#[test]
fn threads_and_processes_of_earlier_calls_do_no_harm() {
    let mut sandbox = Sandbox::new("python");
    let text = "import threading, time, os, sys\nn = 0\ndef run():\n global n\n while True:\n  n += 1\n  print('tick')\n  \
                time.sleep(0.001)\nthreading.Thread(target=run).start()";
    sandbox.run(&call(text));
    let text = "while n < 50: time.sleep(0.01)\nprint('n is large')";
    let outcome = sandbox.run(&call(text));
    assert!(outcome.out().contains("n is large"), "{}", outcome.out());
    let flood = call("import subprocess; p = subprocess.Popen(['yes'])");
    let flooded = sandbox.run(&Start { output_limit_bytes: 1000, ..flood }).exited;
    assert!(!flooded.timed_out, "{flooded:?}");
    let outcome = sandbox.run(&call("p.kill(); print(p.wait())"));
    assert!(outcome.out().contains("-9"));
}

#[test]
fn what_a_call_leaves_behind_can_write_on() {
    let mut sandbox = Sandbox::new("python");
    for (file, end) in [("one", ""), ("two", "os._exit(0)")] {
        let text = format!(
            "import subprocess, os\nsubprocess.Popen(['sh', '-c', 'sleep 0.2; echo late; echo late; : > \
             /sandbox/{file}'])\n{end}"
        );
        assert_eq!(sandbox.run(&call(&text)).exited.exit_code, 0);
    }
    let script = "until test -e one -a -e two; do sleep 0.02; done; echo *";
    assert_eq!(sandbox.shell(script).out(), "one two\n");
}

#[test]
fn a_stopped_interpreter_and_a_fork_bomb_are_overcome() {
    let mut sandbox = Sandbox::new("python");
    let pid = sandbox.run(&call("import os, threading\npid = os.getpid(); print(pid)")).out();
    sandbox.run(&call("os.system(f'(sleep 0.1; kill -STOP {pid}) >/dev/null 2>&1 &')"));
    let stopped =
        format!("until grep -q '^State:.T' /proc/{}/status; do sleep 0.02; done", pid.trim());
    background(&mut sandbox, &stopped);
    let stopped = sandbox.run(&Start { timeout_ms: 200, ..call("print(1)") });
    assert!(stopped.exited.timed_out && stopped.exited.state_lost && !fresh(&stopped));
    let bomb = "import os\nwhile True:\n try: os.fork()\n except BaseException: pass";
    let exited = sandbox.run(&Start { timeout_ms: 500, ..call(bomb) }).exited;
    assert!(exited.timed_out && exited.exit_code == 137, "{exited:?}");
    let next = sandbox.run(&call("print('fine')"));
    assert_eq!(next.out(), "fine\n", "{next:?}");
    sandbox.reset();
    prints(&mut sandbox, &call("print('fine')"), "fine\n");
}

#[test]
fn a_session_that_used_up_its_processes_can_go_on() {
    let mut sandbox = Sandbox::new("python");
    let fill = "import os, subprocess\ntry:\n while True: subprocess.Popen(['sleep', '600'])\n\
                except OSError: pass\n";
    for end in ["os._exit(0)", ""] {
        sandbox.run(&call(&format!("{fill}{end}")));
        let start = Start { stdin: true, ..call("print('fine')") };
        sandbox.send(Kind::Start, &start);
        sandbox.send_data(Kind::StdinEnd, b"");
        let outcome = sandbox.collect();
        assert_eq!(outcome.out(), "fine\n", "{outcome:?}");
        assert!(fresh(&outcome), "all was ended to make room");
    }
}

#[test]
fn names_taken_by_the_code_do_not_get_in_the_way() {
    let mut sandbox = Sandbox::new("python");
    let take = "import os\nfor n in range(2, 5): os.symlink('/etc/passwd', f'/tmp/.isol8-stdin-{n}')\n\
                os.makedirs('/tmp/.isol8-stdin-3.d'); os.remove('/tmp/.isol8-stdin-3'); os.mkdir('/tmp/.isol8-stdin-3')";
    sandbox.run(&call(take));
    let read = Start { stdin: true, ..call("import sys; print(sys.stdin.read())") };
    for (round, works) in [(2, true), (3, false), (4, true)] {
        sandbox.send(Kind::Start, &read);
        sandbox.send_data(Kind::Stdin, b"input");
        sandbox.send_data(Kind::StdinEnd, b"");
        let outcome = sandbox.collect();
        let stage = outcome.failed.as_ref().map(|failed| failed.stage);
        assert_eq!(stage, (!works).then_some(Stage::File), "{round}: {outcome:?}");
        assert_eq!(outcome.out(), if works { "input\n" } else { "" });
    }
}

#[test]
fn a_reset_ends_a_running_call_and_another_kind_replaces_the_interpreter() {
    let mut sandbox = Sandbox::new("python");
    sandbox.run(&call("x = 42"));
    sandbox.send(Kind::Start, &call("import time; print('on', flush=True); time.sleep(60)"));
    while sandbox.next().kind != Kind::Stdout {}
    sandbox.send_data(Kind::Reset, b"");
    let exited: Exited = sandbox.expect(Kind::Exited);
    assert!(exited.killed && exited.state_lost && exited.exit_code == 137, "{exited:?}");
    let done: ResetDone = sandbox.expect(Kind::ResetDone);
    assert!(done.verified, "{:?}", done.detail);
    let _: Ready = sandbox.expect(Kind::Ready);
    for start in [call("print(1)"), bash("echo 1"), call("print(1)")] {
        let outcome = sandbox.run(&start);
        assert!(fresh(&outcome) && outcome.out() == "1\n", "{outcome:?}");
    }
    sandbox.send(Kind::Start, &call("import time; time.sleep(60)"));
    assert!(sandbox.close().success(), "the runner leaves when the link closes");
}

#[test]
fn running_out_of_memory_costs_the_state() {
    let mut sandbox = Sandbox::new("python");
    sandbox.run(&call("x = 42"));
    let exited = sandbox.run(&call("b = []\nwhile True: b.append(bytearray(16 << 20))")).exited;
    assert!(exited.out_of_memory && exited.state_lost, "{exited:?}");
    assert_eq!(exited.exit_code, 137);
    assert!(fresh(&sandbox.run(&call("pass"))));
}

#[test]
fn usage_is_that_of_the_call() {
    let mut sandbox = Sandbox::new("python");
    let spin =
        "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass";
    let busy = sandbox.run(&call(spin)).exited;
    let idle = sandbox.run(&call("pass")).exited;
    let sum = |exited: &Exited| exited.cpu_user_us + exited.cpu_system_us;
    assert!(sum(&busy) > 290_000 && sum(&idle) < sum(&busy) / 2, "{busy:?} {idle:?}");
    assert!(busy.peak_memory_bytes > 5 << 20, "{busy:?}");
    assert!(busy.wall_us >= 290_000, "{busy:?}");
}

#[test]
fn an_interpreter_that_is_not_there_is_a_failure() {
    let mut sandbox = Sandbox::new("bash");
    let failed = sandbox.run(&call("pass")).failed.expect("bash images hold no python");
    assert_eq!((failed.stage, failed.path.as_str()), (Stage::Exec, "python3"));
    prints(&mut sandbox, &bash("echo fine"), "fine\n");
}
