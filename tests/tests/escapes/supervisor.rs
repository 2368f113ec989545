//! Attacks on the runner, process 1 of the sandbox, and on what it says to the worker.

use crate::attempt::Expected::{Ends, Exits, Prints, PrintsAs, Refused};
use crate::attempt::{Attempt, PYTHON};

const RUNNER: Attempt = Attempt { group: "runner", ..PYTHON };

pub(crate) const ATTEMPTS: &[Attempt] = &[
    Attempt { name: "end process 1 (kill, tkill, pidfd, queued)", program: "
say(*(tried(os.kill, 1, number) for number in (1, 2, 9, 15, 17, 19, 34)), call(200, 1, 9), call(424, os.pidfd_open(1), 9, 0, 0), call(129, 1, 9, ctypes.create_string_buffer(128)))", ..RUNNER },
    Attempt { name: "trace process 1", program: "say(call(101, 16, 1, 0, 0), call(101, 0x4206, 1, 0, 0))", ..RUNNER },
    Attempt { name: "slow process 1 down (niceness, limits, processors, group)", program: "
say(call(141, 0, 1, 19), call(302, 1, 7, struct.pack('QQ', 3, 3), 0), call(203, 1, 8, struct.pack('Q', 1)), call(144, 1, 5, struct.pack('i', 0)), call(251, 1, 1, 3 << 13), call(109, 1, os.getpid()))", expected: PrintsAs("EPERM ESRCH", "EPERM or ESRCH"), ..RUNNER },
    Attempt { name: "end, trace and read the fork server", program: "
# One that was made for this very job has none.
server = os.getppid()
say(tried(os.kill, server, 9), tried(os.kill, server, 19), call(101, 16, server, 0, 0), *(tried(read, '/proc/%d/%s' % (server, name)) for name in ('mem', 'environ', 'maps')), tried(os.listdir, '/proc/%d/fd' % server))", expected: PrintsAs("EACCES EPERM", "EACCES or EPERM"), ..RUNNER },
    Attempt { name: "end everything that can be ended", runtime: "bash", program: "kill -9 -1; kill -STOP -1; kill -9 $PPID; echo $?", expected: Ends("exited"), ..RUNNER },
    Attempt { name: "forged frames on the output of process 1", program: "say(*(tried(os.open, '/proc/1/fd/%d' % number, mode) for number in range(12) for mode in (os.O_WRONLY, os.O_RDONLY)))", expected: Prints("EACCES"), ..RUNNER },
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
say(call(278, 1, vector, 1, 8), call(276, 0, 1, 4096, 0))", expected: Prints("ENOSYS"), ..RUNNER },
    Attempt { name: "terminal escapes", program: "print('\\x1b]0;owned\\x07\\x1b[2J\\x1b]52;c;b3duZWQ=\\x07\\x9b\\r', end='')", expected: PrintsAs("\u{1b}]0;owned\u{7}\u{1b}[2J\u{1b}]52;c;b3duZWQ=\u{7}\u{9b}", "text in the result, none in the log"), ..RUNNER },
    Attempt { name: "terminal escapes in the name of a file that cannot be written", more: r#"{"request": {"files": {"\u001b]0;owned\u0007/x": "x", "\u001b]0;owned\u0007/x/y": "x"}}}"#, expected: Refused(422, "FILE_WRITE_FAILED"), program: "print(1)", ..RUNNER },
];
