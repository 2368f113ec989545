//! Memory: of the interpreter that is forked for each job, of the sandbox, and secrets in it.

use crate::channel::{Channel, PYTHON};

const MEMORY: Channel = Channel { group: "memory", ..PYTHON };

pub(crate) const CHANNELS: &[Channel] = &[
    Channel {
        name: "secrets in the environment of any process",
        plant: "background(lambda: None)",
        probe: "
for pid in filter(str.isdigit, os.listdir('/proc')):
    for name in ('environ', 'cmdline'):
        try: text = open('/proc/%s/%s' % (pid, name), 'rb').read()
        except OSError: continue
        if b'TOKEN=' in text: print(pid, name)
print_if([name for name in os.environ if name == 'TOKEN'])",
        request: r#"{"options": {"secrets": {"TOKEN": "a-secret-of-the-first-job"}}}"#,
        ..MEMORY
    },
    Channel {
        name: "secrets and data in memory that is handed out again",
        plant: "
mark = 'JOB-FIRST-THE-OF-MARK'[::-1]
kept = [(mark + str(number)) * 100 for number in range(20000)]
open('/dev/shm/x', 'w').write(mark * 100000)",
        // Spelled backwards, or the probe would find itself.
        probe: "
wanted = bytes(reversed(b'JOB-FIRST-THE-OF-MARK'))
fresh = bytearray(64 << 20)
with open('/proc/self/mem', 'rb', 0) as memory:
    for line in open('/proc/self/maps'):
        start, end = (int(part, 16) for part in line.split()[0].split('-'))
        if 'r' not in line.split()[1] or '[v' in line: continue
        memory.seek(start)
        try: text = memory.read(end - start)
        except OSError: continue
        # Built anew each time: what is looked for is itself in memory.
        if text.count(wanted) > 20: print(line); break",
        ..MEMORY
    },
    Channel {
        name: "memory that stays taken",
        plant: "
open('/tmp/x', 'wb').write(bytes(100 << 20))
def work():
    kept = bytearray(60 << 20)
    for at in range(0, len(kept), 4096): kept[at] = 1
    return kept
background(work)",
        probe: "
for name in ('memory/memory.usage_in_bytes', 'memory.current'):
    if os.path.exists('/sys/fs/cgroup/' + name):
        bytes_used = int(open('/sys/fs/cgroup/' + name).read())
        print_if([bytes_used] * (bytes_used > 100 << 20)); break
else:
    # No control group is shown where the kernel is the sandbox's own: then all that it counts is the sandbox's.
    line = next(line for line in open('/proc/meminfo') if line.startswith('AnonPages:'))
    print_if([line] * (int(line.split()[1]) > 100 << 10))",
        ..MEMORY
    },
    Channel {
        name: "changed built-ins, modules and search paths of Python",
        plant: "
import builtins, json, types
builtins.evil = 1; json.evil = 1; sys.modules['evil'] = types.ModuleType('evil')
sys.path.insert(0, '/tmp'); sys.path_importer_cache['/tmp'] = None; sys.meta_path.append(object())
sys.setrecursionlimit(4321); sys.dont_write_bytecode = True; os.left = 1",
        probe: "
import builtins, json
print_if([name for name, holds in {
    'built-in': hasattr(builtins, 'evil'), 'attribute': hasattr(json, 'evil') or hasattr(os, 'left'),
    'module': 'evil' in sys.modules, 'path': '/tmp' in sys.path or '/tmp' in sys.path_importer_cache,
    'finder': any(type(finder) is object for finder in sys.meta_path), 'recursion': sys.getrecursionlimit() == 4321}.items() if holds])",
        ..MEMORY
    },
    Channel {
        name: "the state of random numbers",
        plant: "
import random
random.seed(1508); libc.srand(1508)",
        probe: "
import random
expected = random.Random(1508).random()
libc.rand.restype = ctypes.c_int; drawn = libc.rand(); libc.srand(1508)
print_if([name for name, same in (('random', random.random() == expected), ('rand', drawn == libc.rand())) if same])",
        ..MEMORY
    },
    Channel {
        name: "locale, time zone and other state of the C library",
        plant: "
import locale
os.environ['TZ'] = 'XYZ5'; time.tzset(); locale.setlocale(locale.LC_ALL, 'C')
libc.strtok(ctypes.create_string_buffer(b'left behind'), b' ')",
        probe: "
import locale
print_if([time.tzname[0], locale.setlocale(locale.LC_CTYPE)] * (time.tzname[0] == 'XYZ' or locale.setlocale(locale.LC_CTYPE) == 'C'))",
        ..MEMORY
    },
    Channel {
        name: "exit handlers and threads of the interpreter",
        plant: "
import atexit, threading
atexit.register(print, 'left')
threading.Thread(target=lambda: time.sleep(0.2), name='left').start()",
        probe: "
import threading
print_if([thread.name for thread in threading.enumerate() if thread.name == 'left'])",
        ..MEMORY
    },
];
