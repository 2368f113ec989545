//! Processes that want to outlive their job, and what a process hands down.

use tests::isolation::InGvisor::Differs;

use crate::channel::{Channel, PYTHON};

const ALIVE: Channel = Channel { group: "processes", probe: "print_if(others())", ..PYTHON };
const INHERITED: Channel = Channel { group: "inherited by processes", ..PYTHON };

pub(crate) const CHANNELS: &[Channel] = &[
    Channel {
        name: "a process of another session",
        plant: "
if os.fork() == 0:
    os.setsid(); os.closerange(0, 3); time.sleep(600)",
        ..ALIVE
    },
    Channel { name: "a process forked twice", plant: "background(lambda: None)", ..ALIVE },
    Channel {
        name: "a stopped process",
        plant: "background(lambda: os.fork() or os.kill(os.getpid(), signal.SIGSTOP)); time.sleep(0.05)",
        ..ALIVE
    },
    Channel {
        name: "a process that ignores every signal",
        plant: "background(lambda: [signal.signal(number, signal.SIG_IGN) for number in range(1, 65) if number not in (9, 19, 32, 33)])",
        ..ALIVE
    },
    Channel {
        name: "a process that hides as not dumpable",
        plant: "background(lambda: libc.prctl(4, 0, 0, 0, 0))",
        ..ALIVE
    },
    Channel {
        name: "a process that goes from one number to the next",
        plant: "
def work():
    def hop():
        while True:
            if os.fork(): os._exit(0)
    if os.fork() == 0: hop()
background(work)",
        ..ALIVE
    },
    Channel {
        name: "as many processes as allowed",
        plant: "
try:
    for _ in range(500):
        if os.fork() == 0:
            os.setsid(); os.closerange(0, 3); time.sleep(600)
except BlockingIOError: pass",
        ..ALIVE
    },
    Channel {
        name: "a process nobody waits for",
        plant: "
def work():
    if os.fork() == 0: os._exit(0)
background(work); time.sleep(0.05)",
        ..ALIVE
    },
    Channel {
        name: "threads",
        plant: "
import threading
background(lambda: [threading.Thread(target=time.sleep, args=(600,)).start() for _ in range(8)])",
        ..ALIVE
    },
    Channel {
        name: "a timer that writes a file later",
        plant: "
def work():
    def late(*_):
        open('/tmp/late', 'w').close()
    signal.signal(signal.SIGALRM, late); signal.setitimer(signal.ITIMER_REAL, 0.3, 0.3)
background(work)",
        probe: "print_if(soon(left))",
        ..ALIVE
    },
    Channel {
        name: "a watcher of the next job's files",
        plant: "
def work():
    watch = libc.inotify_init1(0)
    assert libc.inotify_add_watch(watch, b'/sandbox', 0xfff) >= 0
    if os.fork() == 0:
        while True:
            os.read(watch, 4096); open('/tmp/seen', 'w').close()
background(work)",
        probe: "
open('/sandbox/mine', 'w').close()
print_if(soon(lambda: set(left()) - {'/sandbox/mine'}))",
        ..ALIVE
    },
    Channel {
        name: "a process traced by another",
        plant: "print(errno_of(libc.ptrace(0, 0, 0, 0)))",
        refusal: Some("EPERM"),
        ..ALIVE
    },
    Channel {
        name: "environment",
        plant: "os.environ['LEFT'] = '1'; libc.setenv(b'LEFT_TOO', b'1', 1)",
        probe: "
libc.getenv.restype = ctypes.c_char_p
print_if([name for name in ('LEFT', 'LEFT_TOO', 'GIVEN') if name in os.environ or libc.getenv(name.encode())])",
        request: r#"{"request": {"env": {"GIVEN": "1"}}}"#,
        ..INHERITED
    },
    Channel {
        name: "working directory",
        plant: "os.chdir('/usr')",
        probe: "print_if([os.getcwd()] * (os.getcwd() != '/sandbox'))",
        ..INHERITED
    },
    Channel {
        name: "file mode mask",
        plant: "os.umask(0)",
        probe: "mask = os.umask(0o22); print_if([mask] * (mask != 0o22))",
        ..INHERITED
    },
    Channel {
        name: "resource limits",
        plant: "
import resource
for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_STACK):
    resource.setrlimit(limit, (50, 50))",
        probe: "
import resource
print_if([limit for limit in range(16) if resource.getrlimit(limit)[1] == 50])",
        ..INHERITED
    },
    Channel {
        name: "niceness of oneself and of all of the user",
        plant: "libc.setpriority(0, 0, 5); libc.setpriority(2, os.getuid(), 7)",
        probe: "print_if([os.getpriority(0, 0)] * (os.getpriority(0, 0) != 0))",
        ..INHERITED
    },
    Channel {
        name: "niceness and processors of process 1 and of the fork server",
        plant: "
def change(pid): os.setpriority(os.PRIO_PROCESS, pid, 7); os.sched_setaffinity(pid, {max(os.sched_getaffinity(0))})
for pid in (1, os.getppid()): or_say(change, pid)",
        probe: "
processes = (0, 1, os.getppid())
print_if([os.getpriority(0, pid) for pid in processes if os.getpriority(0, pid) or 1 < os.cpu_count() and os.sched_getaffinity(pid) == {os.cpu_count() - 1}])",
        refusal: Some("EPERM"),
        in_gvisor: Differs(None, "its kernel lets anybody set them, and a reset sets them back"),
        ..INHERITED
    },
    Channel {
        name: "scheduling",
        plant: "or_say(os.sched_setscheduler, 0, os.SCHED_IDLE, os.sched_param(0))",
        probe: "print_if([os.sched_getscheduler(0)] * (os.sched_getscheduler(0) != 0))",
        in_gvisor: Differs(Some("EINVAL"), "it has one kind alone"),
        ..INHERITED
    },
    Channel {
        name: "blocked and ignored signals",
        plant: "
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1}); os.kill(os.getpid(), signal.SIGUSR1)
signal.signal(signal.SIGHUP, signal.SIG_IGN)",
        probe: "
handled = ctypes.create_string_buffer(152)
libc.sigaction(signal.SIGHUP, None, handled)
print_if([*signal.pthread_sigmask(signal.SIG_BLOCK, []), *signal.sigpending()] + ['ignored'] * (handled.raw[:8] == struct.pack('Q', 1)))",
        ..INHERITED
    },
    Channel {
        name: "timers",
        plant: "signal.signal(signal.SIGALRM, signal.SIG_IGN); signal.setitimer(signal.ITIMER_REAL, 50)",
        probe: "print_if([left for left in signal.getitimer(signal.ITIMER_REAL) if left])",
        ..INHERITED
    },
    Channel {
        name: "open descriptors",
        plant: "kept = [os.open('/dev/null', os.O_RDONLY) for _ in range(9)]; [os.set_inheritable(one, True) for one in kept]",
        probe: "
numbers = [int(name) for name in os.listdir('/proc/self/fd')]
print_if([number for number in numbers if 3 < number])",
        ..INHERITED
    },
    Channel {
        name: "a filter of system calls",
        plant: "
class Filter(ctypes.Structure): _fields_ = [('length', ctypes.c_ushort), ('code', ctypes.c_char_p)]
# Number 110, getppid, fails with error 77; all else goes on.
code = struct.pack('<HBBIHBBIHBBIHBBI', 0x20, 0, 0, 0, 0x15, 0, 1, 110, 6, 0, 0, 0x5004d, 6, 0, 0, 0x7fff0000)
assert libc.prctl(22, 2, ctypes.byref(Filter(4, code)), 0, 0) == 0",
        probe: "
filters = [line for line in open('/proc/self/status') if line.startswith('Seccomp_filters') and not line.endswith('\\t1\\n')]
print_if(filters + ['refused'] * (libc.syscall(110) == -1))",
        ..INHERITED
    },
    Channel {
        name: "timer slack and who waits for orphans",
        plant: "
for option, value in ((29, 4242), (36, 1)):
    outcome = libc.prctl(option, value, 0, 0, 0)
    if outcome: print(errno_of(outcome)); sys.exit()",
        probe: "
reaper = ctypes.c_int(); libc.prctl(37, ctypes.byref(reaper))
print_if([reaper.value] * bool(reaper.value or libc.prctl(30, 0, 0, 0, 0) == 4242))",
        in_gvisor: Differs(Some("EINVAL"), "it has neither"),
        ..INHERITED
    },
    Channel {
        name: "the signal at a parent's end, and being dumpable",
        plant: "assert libc.prctl(1, 15, 0, 0, 0) == 0 and libc.prctl(4, 0, 0, 0, 0) == 0",
        probe: "
number = ctypes.c_int(); libc.prctl(2, ctypes.byref(number))
print_if([number.value] * bool(number.value or libc.prctl(3, 0, 0, 0, 0) != 1))",
        ..INHERITED
    },
    Channel {
        name: "what can be written below /proc",
        plant: "
open('/proc/self/oom_score_adj', 'w').write('999')
for name in os.listdir('/proc/1'):
    try: open('/proc/1/' + name, 'w').close()
    except OSError: pass
    else: print('/proc/1/' + name)",
        probe: "
score = open('/proc/self/oom_score_adj').read().strip()
print_if([score] * (score == '999'))",
        ..INHERITED
    },
    Channel {
        name: "name of a process, and what it dumps",
        plant: "
def change(name, value): os.write(os.open('/proc/self/' + name, os.O_WRONLY), value)
or_say(change, 'comm', b'left'); or_say(change, 'coredump_filter', b'0')",
        probe: "
name, filter = (open('/proc/self/' + name).read().strip() for name in ('comm', 'coredump_filter'))
print_if([name, filter] * (name == 'left' or int(filter, 16) == 0))",
        in_gvisor: Differs(Some("EIO"), "it lets neither be written"),
        ..INHERITED
    },
    Channel {
        name: "standard input that was not read",
        plant: "pass",
        probe: "print_if(sys.stdin.read())",
        request: r#"{"request": {"stdin": "left"}}"#,
        ..INHERITED
    },
    Channel {
        name: "output that comes after the end",
        plant: "
written, writes = os.pipe()
if os.fork() == 0:
    os.setsid()
    while True: os.write(1, b'late\\n'); os.write(2, b''); os.write(writes, b'.'); time.sleep(0.01)
os.read(written, 1)",
        probe: "time.sleep(0.1)",
        ..INHERITED
    },
];
