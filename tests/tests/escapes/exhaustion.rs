//! Taking all there is: disk, files, processes, memory, descriptors, output, time.

use crate::attempt::Expected::{Cut, Ends, Prints, PrintsAs};
use crate::attempt::{Attempt, PYTHON};

const TAKE: Attempt = Attempt { group: "exhaustion", ..PYTHON };
const SMALL: &str = r#"{"options": {"memoryLimit": "64m"}}"#;
const SHORT: &str = r#"{"request": {"timeoutMs": 500}}"#;

pub(crate) const ATTEMPTS: &[Attempt] = &[
    Attempt { name: "disk", program: "
def fill(place):
    with open(place + '/x', 'wb', 0) as file:
        while True: file.write(bytes(1 << 20))
say(*(tried(fill, place) for place in ('/sandbox', '/tmp', '/dev/shm')))", more: r#"{"options": {"sandboxSize": "16m", "tmpSize": "16m"}}"#, expected: Prints("ENOSPC"), ..TAKE },
    Attempt { name: "inodes", program: "
number = 0
while True: os.mkdir('/tmp/%d' % number); number += 1", more: SMALL, expected: Ends("out_of_memory"), ..TAKE },
    Attempt { name: "processes", program: "
def all_of_them():
    while True:
        if os.fork() == 0: time.sleep(600)
say(tried(all_of_them))", expected: Prints("EAGAIN"), ..TAKE },
    Attempt { name: "threads", program: "
import threading
try:
    while True: threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
except RuntimeError as error: print(error, flush=True)
os._exit(0)", expected: Prints("can't start new thread"), ..TAKE },
    Attempt { name: "a fork bomb", runtime: "bash", program: ":(){ :|:& };:; sleep 60", more: SHORT, expected: Ends("timed_out"), ..TAKE },
    Attempt { name: "memory", program: "
kept = []
while True: kept.append(bytearray(8 << 20))", more: SMALL, expected: Ends("out_of_memory"), ..TAKE },
    Attempt { name: "memory, having taken back to be the first to be killed", program: "
open('/proc/self/oom_score_adj', 'w').write('0') if tried(write, '/proc/self/oom_score_adj') == 'ALLOWED' else None
kept = []
while True: kept.append(bytearray(8 << 20))", more: SMALL, expected: Ends("out_of_memory"), ..TAKE },
    Attempt { name: "memory by way of files", program: "
with open('/sandbox/x', 'wb', 0) as file:
    while True: file.write(bytes(1 << 20))", more: r#"{"options": {"memoryLimit": "64m", "sandboxSize": "1g"}}"#, expected: Ends("out_of_memory"), ..TAKE },
    Attempt { name: "memory by way of System V and nameless files", program: "
libc.shmat.restype = ctypes.c_void_p
while True:
    at = libc.shmat(libc.shmget(0, 8 << 20, 0o1600), None, 0); ctypes.memset(at, 1, 8 << 20)
    os.write(os.memfd_create('x'), bytes(8 << 20))", more: SMALL, expected: Ends("out_of_memory"), ..TAKE },
    Attempt { name: "descriptors", program: "
import resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096),) * 2)
def all_of_them():
    while True: os.dup(0)
say(tried(all_of_them))", expected: Prints("EMFILE"), ..TAKE },
    Attempt { name: "a flood of output", runtime: "bash", program: "head -c 200000000 /dev/zero", expected: Cut, ..TAKE },
    Attempt { name: "a flood of errors, and output without end", runtime: "bash", program: "yes >&2 & yes", more: SHORT, expected: Ends("timed_out"), ..TAKE },
    Attempt { name: "a flood of lines one byte at a time", program: "
while True: os.write(1, b'x')", more: SHORT, expected: Ends("timed_out"), ..TAKE },
    Attempt { name: "time, deaf to every signal", program: "
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: pass", more: SHORT, expected: Ends("timed_out"), ..TAKE },
    Attempt { name: "time, stopped and with its streams closed", program: "
os.closerange(0, 3)
os.kill(os.getpid(), signal.SIGSTOP)", more: SHORT, expected: Ends("timed_out"), ..TAKE },
    Attempt { name: "an archive that is a thousand times larger unpacked (zip)", program: "
import zipfile
with zipfile.ZipFile('/tmp/bomb.zip', 'w', zipfile.ZIP_DEFLATED) as archive: archive.writestr('x', bytes(48 << 20))
def unpack():
    with zipfile.ZipFile('/tmp/bomb.zip') as archive: archive.extractall('/sandbox')
say(tried(unpack))", more: r#"{"options": {"sandboxSize": "16m"}}"#, expected: Prints("ENOSPC"), ..TAKE },
    Attempt { name: "an archive that is a thousand times larger unpacked (gzip)", runtime: "bash", program: "
head -c 50000000 /dev/zero | gzip > /tmp/bomb.gz; gzip -dc /tmp/bomb.gz 2>/dev/null > /sandbox/x || echo full", more: r#"{"options": {"sandboxSize": "16m"}}"#, expected: PrintsAs("full", "ENOSPC"), ..TAKE },
];
