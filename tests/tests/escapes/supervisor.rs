//! Attacks on the runner, process 1 of the sandbox, and on what it says to the worker.

use tests::isolation::InGvisor::Differs;

use crate::attempt::Expected::{Ends, Exits, Prints, PrintsAs, Refused};
use crate::attempt::{Attempt, PYTHON, REFUSED};

const RUNNER: Attempt = Attempt { group: "runner", ..PYTHON };

pub(crate) const ATTEMPTS: &[Attempt] = &[
    Attempt { name: "end process 1 (kill, tkill, queued)", program: "
say(*(tried(os.kill, 1, number) for number in (1, 2, 9, 15, 17, 19, 34)), call(200, 1, 9), call(129, 1, 9, ctypes.create_string_buffer(128)))", ..RUNNER },
    Attempt { name: "end process 1 by a handle (pidfd)", program: "say(call(424, libc.syscall(434, 1, 0), 9, 0, 0))", in_gvisor: Differs(Prints("ENOSYS"), "it has no such handles"), ..RUNNER },
    Attempt { name: "trace process 1", program: "say(call(101, 16, 1, 0, 0), call(101, 0x4206, 1, 0, 0))", ..RUNNER },
    Attempt { name: "slow process 1 down (limits, group, precedence of input and output)", program: "
say(call(302, 1, 7, struct.pack('QQ', 3, 3), 0), call(251, 1, 1, 3 << 13), call(109, 1, os.getpid()))", expected: PrintsAs("EPERM ESRCH", "EPERM or ESRCH"), ..RUNNER },
    Attempt { name: "slow process 1 down (niceness, processors)", program: "
say(call(141, 0, 1, 19), call(203, 1, 8, struct.pack('Q', 1)))", in_gvisor: Differs(Prints("ALLOWED"), "numbers that are kept, and that nothing goes by; a reset sets them back"), ..RUNNER },
    Attempt { name: "end and trace the fork server, and read its memory", program: "
# One that was made for this very job has none.
server = os.getppid()
say(tried(os.kill, server, 9), tried(os.kill, server, 19), call(101, 16, server, 0, 0), tried(read, '/proc/%d/mem' % server))", expected: PrintsAs("EACCES EPERM", "EACCES or EPERM"), ..RUNNER },
    Attempt { name: "read environment, maps and descriptors of the fork server", program: "
server = os.getppid()
say(*(tried(read, '/proc/%d/%s' % (server, name)) for name in ('environ', 'maps')), tried(os.listdir, '/proc/%d/fd' % server))", expected: Prints("EACCES"), in_gvisor: Differs(Prints("ALLOWED"), "nothing of a job is in them (proc, sys, devices)"), ..RUNNER },
    Attempt { name: "end everything that can be ended", runtime: "bash", program: "kill -9 -1; kill -STOP -1; kill -9 $PPID; echo $?", expected: Ends("exited"), ..RUNNER },
    Attempt { name: "forged frames on the output of process 1, and of its fork server", program: "
outcomes = set()
for pid in (1, os.getppid()):
    for number in range(64):
        path = '/proc/%d/fd/%d' % (pid, number)
        for mode in (os.O_WRONLY, os.O_RDONLY):
            outcome = tried(os.open, path, mode | os.O_NONBLOCK)
            outcomes.add(os.readlink(path) if outcome == 'ALLOWED' else outcome)
say(*outcomes - {'EISDIR', 'ENODEV', 'ENOENT', 'ENXIO'})", expected: Prints("EACCES"), in_gvisor: Differs(PrintsAs("/dev/null /dev/shm /proc/meminfo /sandbox /tmp EACCES", "EACCES; five places that any program may open"), "descriptors are shown; its line to the worker and its pipes cannot be opened"), ..RUNNER },
    Attempt { name: "forged frames on one's own output", program: "
forged = b'{\"exit_code\": 9, \"verified\": true, \"message\": \"forged\"}'
for kind in (5, 11, 64, 65, 66, 69, 70, 73, 74, 255):
    os.write(1, struct.pack('<IBBBB', len(forged), kind, 0, 0, 0) + forged); os.write(1, struct.pack('<IBBBB', 1 << 30, kind, 0, 0, 0))
sys.exit(7)", expected: Exits(7, "taken for output"), ..RUNNER },
    Attempt { name: "descriptors of the runner", program: "
print(sorted({int(name) for name in os.listdir('/proc/self/fd')} - {0, 1, 2, 3}), [os.readlink('/proc/self/fd/%d' % number)[:4] for number in range(3)])", expected: PrintsAs("[] ['pipe', 'pipe', 'pipe']", "three pipes of the program's own"), ..RUNNER },
    Attempt { name: "descriptors handed to the runner", program: "
def hand(number): socket.send_fds(socket.socket(fileno=os.dup(number)), [b'x'], [0] * 250)
say(*(tried(hand, number) for number in range(3)))", expected: Prints("ENOTSOCK"), ..RUNNER },
    Attempt { name: "pages given into the output pipe and changed later", program: "
memory = mmap.mmap(-1, 4096)
vector = struct.pack('QQ', ctypes.addressof(ctypes.c_char.from_buffer(memory)), 4096)
say(call(278, 1, vector, 1, 8), call(276, 0, 1, 4096, 0))", expected: Prints("ENOSYS"), in_gvisor: REFUSED, ..RUNNER },
    Attempt { name: "terminal escapes", program: "print('\\x1b]0;owned\\x07\\x1b[2J\\x1b]52;c;b3duZWQ=\\x07\\x9b\\r', end='')", expected: PrintsAs("\u{1b}]0;owned\u{7}\u{1b}[2J\u{1b}]52;c;b3duZWQ=\u{7}\u{9b}", "text in the result, none in the log"), ..RUNNER },
    Attempt { name: "terminal escapes in the name of a file that cannot be written", more: r#"{"request": {"files": {"\u001b]0;owned\u0007/x": "x", "\u001b]0;owned\u0007/x/y": "x"}}}"#, expected: Refused(422, "FILE_WRITE_FAILED"), program: "print(1)", ..RUNNER },
];
