//! Programs that fight back: every one must end in time and leave a sandbox that can be reset.

mod harness;

use std::time::Duration;

use harness::*;
use runner::protocol::*;

/// Runs a program with a limit of one second.
fn run_limited(sandbox: &mut Sandbox, script: &str) -> Outcome {
    sandbox.run(&Start { timeout_ms: 1000, ..shell(script) })
}

#[test]
fn nothing_outlasts_its_time() {
    let mut sandbox = Sandbox::new("python");
    for script in [
        "sleep 60",
        "exec 1>&- 2>&-; sleep 60",
        "trap '' TERM INT HUP; while :; do sleep 0.1; done",
        "kill -STOP $$; sleep 60",
        "setsid sh -c 'kill -STOP $$' & sleep 60",
        "(setsid sleep 60 &) ; sleep 60",
        "python3 -c 'import ctypes,time; ctypes.CDLL(None).prctl(4,0,0,0,0); time.sleep(60)'",
    ] {
        let exited = run_limited(&mut sandbox, script).exited;
        assert!(exited.timed_out && exited.exit_code == 137, "{script}: {exited:?}");
        sandbox.reset();
    }
}

#[test]
fn background_holders_of_the_pipes_are_killed_when_the_program_ends() {
    let mut sandbox = Sandbox::new("python");
    for script in
        ["sleep 60 & echo hi", "(setsid setsid sleep 60 &); echo hi", "yes >/dev/stderr & echo hi"]
    {
        let outcome = sandbox.shell(script);
        assert_eq!((outcome.out().as_str(), outcome.exited.exit_code), ("hi\n", 0));
        assert!(!outcome.exited.killed && !outcome.exited.timed_out, "{script}");
        sandbox.reset();
    }
}

#[test]
fn what_let_go_of_the_pipes_ends_with_the_program_too() {
    let mut sandbox = Sandbox::new("python");
    let script = "setsid sh -c 'exec <&- >&- 2>&-; : > /sandbox/free; exec sleep 61' &
        until test -e /sandbox/free; do sleep 0.01; done; echo hi";
    let started = sandbox.shell(script);
    assert_eq!((started.out().as_str(), started.exited.killed), ("hi\n", false));
    // Killed, it may take a moment to be gone.
    let look = "while cat /proc/[0-9]*/comm 2>/dev/null | grep -qx sleep; do :; done; exit 3";
    let looked = sandbox.run(&Start { keep_background: true, ..shell(look) });
    assert_eq!(looked.exited.exit_code, 3, "{looked:?}");
}

#[test]
fn background_processes_live_on_where_wanted() {
    let mut sandbox = Sandbox::new("python");
    let mut start =
        shell("(while :; do echo tick; date >> /sandbox/log; sleep 0.05; done) & echo hi");
    start.keep_background = true;
    assert!(sandbox.run(&start).out().contains("hi"));
    let script = "until [ $(wc -l < /sandbox/log) -ge 3 ]; do sleep 0.02; done; echo alive >&2";
    let alive = sandbox.run(&Start { keep_background: true, ..shell(script) });
    assert_eq!(alive.err(), "alive\n", "{alive:?}");
    sandbox.reset();
    assert_eq!(sandbox.shell("ls -A /sandbox").out(), "");
}

#[test]
fn a_chatty_background_process_does_not_delay_the_end() {
    let mut sandbox = Sandbox::new("python");
    for noise in ["yes", "while :; do echo tick; done", "while :; do echo tick; sleep 0.001; done"]
    {
        for _ in 0..5 {
            let start = Start {
                keep_background: true,
                output_limit_bytes: 1 << 16,
                ..shell(&format!("({noise}) & sleep 0.02; echo hi >&2"))
            };
            let outcome = sandbox.run(&start);
            assert!(outcome.err() == "hi\n" && !outcome.exited.killed, "{noise}: {outcome:?}");
            assert!(!outcome.exited.timed_out, "{noise}: {:?}", outcome.exited);
        }
        sandbox.reset();
    }
}

#[test]
fn fork_bombs_are_contained() {
    let mut sandbox = Sandbox::new("python");
    for script in [
        "f() { f | f & }; f; sleep 60",
        "python3 -c 'import os\nwhile 1:\n try: os.fork()\n except OSError: pass'",
    ] {
        let exited = run_limited(&mut sandbox, script).exited;
        assert!(exited.timed_out || exited.exit_code != 0, "{exited:?}");
        sandbox.reset();
        assert_eq!(sandbox.shell("echo fine").out(), "fine\n");
        sandbox.reset();
    }
}

#[test]
fn a_lasting_fork_bomb_does_not_keep_the_next_program_out() {
    let mut sandbox = Sandbox::new("python");
    let bomb = "python3 -c 'import os\nfor _ in range(500):\n try:\n  if os.fork() == 0:\n   while 1:\n    \
                try: os.fork()\n    except OSError: pass\n except OSError: pass' & sleep 0.3; echo started";
    let outcome = sandbox.run(&Start { keep_background: true, ..shell(bomb) });
    assert!(outcome.out().contains("started") || outcome.exited.exit_code != 0);
    let next = sandbox.run(&Start { keep_background: true, ..start(&["/bin/echo", "fine"]) });
    let stage = next.failed.as_ref().map(|failed| failed.stage);
    assert!(next.out() == "fine\n" || stage == Some(Stage::Fork), "{next:?}");
    sandbox.reset();
    assert_eq!(sandbox.shell("echo fine").out(), "fine\n");
}

#[test]
fn running_out_of_memory_is_told_and_survived() {
    let mut sandbox = Sandbox::prepared_python();
    for prepared in [true, false] {
        let text = "b = []\nwhile True: b.append(bytearray(16 << 20))";
        let exited = sandbox.run(&Start { prepared, ..python(text) }).exited;
        assert!(exited.out_of_memory, "{exited:?}");
        assert_eq!((exited.exit_code, exited.signal), (137, Some(9)));
        assert!(sandbox.reset().prepared);
        let outcome = sandbox.run(&Start { prepared: true, ..python("print('fine')") });
        assert_eq!(outcome.out(), "fine\n");
        assert!(!outcome.exited.out_of_memory);
        assert!(outcome.started.expect("it started").prepared);
        assert!(sandbox.reset().prepared);
    }
}

#[test]
fn a_full_disk_is_the_programs_problem_only() {
    let mut sandbox = Sandbox::with(&Settings { sandbox_size: "8m", ..Settings::default() });
    let outcome = sandbox.shell("head -c 20000000 /dev/zero > /sandbox/big; ls -s /sandbox/big");
    assert!(outcome.err().contains("No space left"), "{}", outcome.err());
    let failed = sandbox.run(&with_code(&["sh"], "/sandbox/main", &"x".repeat(100_000))).failed;
    assert_eq!(failed.map(|failed| (failed.stage, failed.errno)), Some((Stage::File, 28)));
    sandbox.put_file("more", &vec![0; 1 << 20]);
    let failed = sandbox.shell("true").failed.expect("the file did not fit");
    assert_eq!(
        (failed.stage, failed.errno, failed.path.as_str()),
        (Stage::File, 28, "/sandbox/more")
    );
    sandbox.reset();
    assert_eq!(sandbox.shell("ls -A /sandbox").out(), "");
}

#[test]
fn nasty_trees_are_removed() {
    let mut sandbox = Sandbox::new("python");
    let deep = "import os, sys\nfor root in ('/sandbox', '/tmp', '/dev/shm'):\n os.chdir(root)\n \
                for i in range(3000):\n  os.mkdir('d'); os.chdir('d'); open('f', 'w').close()\n";
    let locked = "mkdir -p /sandbox/a/b/c /tmp/x/y; touch /sandbox/a/b/c/f; chmod 000 /sandbox/a/b/c \
                  /sandbox/a/b /sandbox/a /tmp/x/y /tmp/x; ln -s /etc /sandbox/link; ln -s / /tmp/root; \
                  mkfifo /sandbox/fifo; touch -- '/sandbox/-rf *' '/sandbox/.isol8-removing-1'; \
                  setfattr -n user.note -v 1 /sandbox 2>/dev/null; chmod 000 /sandbox; true";
    let many = "i=0; while [ $i -lt 6000 ]; do : > /tmp/file$i; i=$((i+1)); done";
    for start in [python(deep), shell(locked), shell(many)] {
        let outcome = sandbox.run(&start);
        assert_eq!(outcome.exited.exit_code, 0, "{}", outcome.err());
        sandbox.reset();
    }
    assert_eq!(
        sandbox.shell("ls -A /sandbox /tmp /dev/shm").out(),
        "/dev/shm:\n\n/sandbox:\n\n/tmp:\n"
    );
    let text = "import os\nos.setxattr('/sandbox', 'user.note', b'1')";
    let outcome = sandbox.run(&python(text));
    assert!(outcome.exited.exit_code == 0 || outcome.err().contains("not supported"));
    sandbox.reset();
    let outcome = sandbox.run(&python("import os; print(os.listxattr('/sandbox'))"));
    assert_eq!(outcome.out(), "[]\n");
    assert_eq!(sandbox.shell("test -s /etc/passwd && echo intact").out(), "intact\n");
}

#[test]
fn ipc_objects_are_removed() {
    let mut sandbox = Sandbox::new("python");
    let text = "import ctypes\nc = ctypes.CDLL(None, use_errno=True)\n\
                assert c.shmget(7, 4096, 0o1666) >= 0\nassert c.semget(7, 3, 0o1666) >= 0\n\
                assert c.msgget(7, 0o1666) >= 0\n\
                assert c.mq_open(b'/queue', 0o102, 0o666, None) >= 0, ctypes.get_errno()\nprint('made')";
    let outcome = sandbox.run(&python(text));
    assert_eq!(outcome.out(), "made\n", "{}", outcome.err());
    sandbox.reset();
    let outcome = sandbox.shell("cat /proc/sysvipc/* | wc -l; ls /dev/mqueue");
    assert_eq!(outcome.out(), "3\n");
}

#[test]
fn the_sandbox_user_reaches_neither_the_runner_nor_the_fork_server() {
    let mut sandbox = Sandbox::prepared_python();
    let script = "for p in 1 $1; do for f in environ mem maps fd/0; do \
                  head -c 1 /proc/$p/$f >/dev/null 2>&1 && echo \"read $p $f\"; done; \
                  kill -9 $p 2>/dev/null && test $p != 1 && echo killed $p; done; \
                  grep -h ^Cap /proc/self/status | grep -v 0000000000000000 | grep -v CapBnd; \
                  grep NoNewPrivs /proc/self/status; ls /proc/self/fd | wc -l";
    for prepared in [false, true] {
        let text = format!(
            "import os, subprocess; subprocess.run(['sh', '-c', {script:?}, '', str(os.getppid())])"
        );
        let outcome = sandbox.run(&Start { prepared, ..python(&text) });
        assert_eq!(outcome.out(), "NoNewPrivs:\t1\n4\n", "prepared: {prepared}");
        assert_eq!(outcome.err(), "");
        assert!(sandbox.reset().prepared);
    }
}

#[test]
fn a_killed_waiting_interpreter_is_replaced() {
    let mut sandbox = Sandbox::prepared_python();
    let outcome = sandbox.run(&Start { keep_background: true, ..shell("kill -9 -1") });
    assert!(outcome.exited.exit_code == 137 || outcome.exited.exit_code == 0, "{outcome:?}");
    // The next program may come before the death is known; it is started plainly then, and nothing waits
    // before the reset. So not at once.
    std::thread::sleep(Duration::from_secs(3));
    let outcome = sandbox.run(&Start { prepared: true, ..python("print('fine')") });
    assert_eq!(outcome.out(), "fine\n");
    assert!(outcome.started.expect("it started").prepared);
    assert!(sandbox.reset().prepared);
}

#[test]
fn stopped_helpers_do_not_hang_the_runner() {
    let mut sandbox = Sandbox::new("python");
    let stopper = "python3 -c 'import os,signal\nme = {1, os.getpid(), os.getppid()}\nwhile 1:\n for p in \
                   os.listdir(\"/proc\"):\n  if p.isdigit() and int(p) not in me:\n   try: os.kill(int(p), 19)\n   \
                   except OSError: pass' & echo up";
    assert_eq!(sandbox.run(&Start { keep_background: true, ..shell(stopper) }).out(), "up\n");
    sandbox.put_file("f", &vec![0; 4 << 20]);
    let start = Start { timeout_ms: 2000, keep_background: true, ..shell("echo hi") };
    let outcome = sandbox.run(&start);
    assert!(outcome.failed.is_some() || outcome.exited.timed_out || outcome.out() == "hi\n");
    sandbox.reset();
    assert_eq!(sandbox.shell("echo fine").out(), "fine\n");
}

#[test]
fn nothing_a_user_sends_runs_as_root() {
    let mut sandbox = Sandbox::new("python");
    let prepare = Prepare {
        interpreter: Interpreter::Python,
        argv: strings(&["python3", "/sandbox/main.py"]),
        env: environment(),
    };
    // All at once: the fork server must have finished reading start-up files before any of it lands.
    sandbox.send(Kind::Prepare, &prepare);
    let evil = b"import os, sys; print('as', os.getuid(), file=sys.stderr)\n";
    for version in 8..15 {
        let folder = format!("/sandbox/.local/lib/python3.{version}/site-packages");
        sandbox.put_file(&format!("{folder}/evil.pth"), evil);
    }
    let outcome = sandbox.run(&Start { prepared: true, ..python("print('ran')") });
    assert_eq!((outcome.out().as_str(), outcome.err().as_str()), ("ran\n", "as 100\n"));

    // A server asked for while anything of a user may be there is refused; after a verified reset
    // it is as safe as at the start.
    let other = Prepare { argv: strings(&["python3", "/sandbox/other.py"]), ..prepare };
    sandbox.send(Kind::Prepare, &other);
    assert!(!sandbox.expect::<Ready>(Kind::Ready).prepared);
    assert_eq!(sandbox.run(&python("print('plain')")).out(), "plain\n");
    sandbox.reset();
    sandbox.send(Kind::Prepare, &other);
    assert!(sandbox.expect::<Ready>(Kind::Ready).prepared);
}

#[test]
fn how_the_runner_and_its_server_stand_with_the_scheduler_is_set_back_or_the_sandbox_given_up() {
    let mut sandbox = Sandbox::prepared_python();
    // Where the kernel lets programs do this, as gVisor's does, each next one inherits it.
    sandbox.as_root(
        "import os\nfor pid in filter(str.isdigit, os.listdir('/proc')):\n  try: os.sched_setaffinity(int(pid), {0})\n  except OSError: pass",
    );
    sandbox.reset();
    let look = "import os; print(len(os.sched_getaffinity(0)) == os.cpu_count())";
    assert_eq!(sandbox.run(&python(look)).out(), "True\n");

    // Linux takes a precedence back from nobody without a capability that the runner does not have.
    sandbox.as_root("import os; os.setpriority(os.PRIO_PROCESS, 1, 5)");
    let done = sandbox.try_reset();
    let detail = done.detail.unwrap_or_default();
    assert!(!done.verified && detail.contains("process 1"), "{detail}");
}
