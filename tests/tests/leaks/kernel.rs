//! Objects of the kernel that belong to no process, or to no process for long.

use tests::isolation::InGvisor::Differs;

use crate::channel::{Channel, PYTHON};

const OBJECT: Channel = Channel { group: "kernel objects", ..PYTHON };
/// All there are, where the kernel shows them; and those that the rows make, by their keys.
const TABLES: &str = "
for name in ('shm', 'sem', 'msg'):
    if os.path.exists('/proc/sysvipc/' + name): print_if(open('/proc/sysvipc/' + name).read().splitlines()[1:])
for key in (0x1508, 0x1509):
    print_if([kind for kind, number in (('shm', libc.shmget(key, 0, 0)), ('sem', libc.semget(key, 0, 0)), ('msg', libc.msgget(key, 0))) if number >= 0])";

pub(crate) const CHANNELS: &[Channel] = &[
    Channel {
        name: "System V shared memory",
        plant: "
number = libc.shmget(0x1508, 1 << 20, 0o1600)
libc.shmat.restype = ctypes.c_void_p; ctypes.memmove(libc.shmat(number, None, 0), b'left', 4)",
        probe: TABLES,
        ..OBJECT
    },
    Channel {
        name: "System V shared memory given to another user",
        plant: "
number = libc.shmget(0x1509, 4096, 0o1600)
state = (ctypes.c_uint * 64)()
assert libc.shmctl(number, 2, state) == 0
state[1] = state[2] = 0; state[5] = 0
assert libc.shmctl(number, 1, state) == 0, ctypes.get_errno()",
        probe: TABLES,
        ..OBJECT
    },
    Channel {
        name: "System V semaphores",
        plant: "assert libc.semctl(libc.semget(0x1508, 3, 0o1600), 0, 16, 42) == 0",
        probe: TABLES,
        ..OBJECT
    },
    Channel {
        name: "System V messages",
        plant: "assert libc.msgsnd(libc.msgget(0x1508, 0o1600), struct.pack('L', 1) + b'left', 4, 0) == 0",
        probe: TABLES,
        ..OBJECT
    },
    Channel {
        name: "POSIX message queues",
        plant: "
queue = libc.mq_open(b'/left', 0o102, 0o600, None)
if queue < 0: print(errno_of(queue)); sys.exit()
assert libc.mq_send(queue, b'left', 4, 0) == 0",
        in_gvisor: Differs(Some("EPERM"), "the filter refuses what nothing in the sandbox would show"),
        ..OBJECT
    },
    Channel {
        name: "POSIX semaphores and shared memory",
        plant: "
import multiprocessing.shared_memory
libc.sem_open.restype = ctypes.c_void_p; assert libc.sem_open(b'/left', 0o100, 0o600, 5)
libc.shm_open(b'/left-too', 0o102, 0o600)",
        ..OBJECT
    },
    Channel {
        name: "an abstract socket",
        plant: "
def work():
    server = socket.socket(socket.AF_UNIX); server.bind('\\0left'); server.listen()
    return server
background(work)",
        probe: "print_if([line for line in open('/proc/net/unix') if '@' in line])",
        ..OBJECT
    },
    Channel {
        name: "a socket at a path, and descriptors on their way through it",
        plant: "
def work():
    server = socket.socket(socket.AF_UNIX); server.bind('/tmp/socket'); server.listen()
    client = socket.socket(socket.AF_UNIX); client.connect('/tmp/socket')
    socket.send_fds(client, [b'left'], [os.open('/etc/passwd', os.O_RDONLY)])
    return server, client
background(work)",
        probe: "print_if([line for line in open('/proc/net/unix') if '/tmp' in line] + left())",
        ..OBJECT
    },
    Channel {
        name: "a listener on the loopback network",
        plant: "
def work():
    server = socket.socket(); server.bind(('127.0.0.1', 8080)); server.listen()
    other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); other.bind(('127.0.0.1', 8080)); other.sendto(b'left', ('127.0.0.1', 8080))
    return server, other
background(work)",
        probe: "
for name in ('tcp', 'udp'): print_if(open('/proc/net/' + name).read().splitlines()[1:])",
        ..OBJECT
    },
    Channel {
        name: "ports of closed connections (TIME_WAIT)",
        plant: "
server = socket.socket(); server.bind(('127.0.0.1', 0)); server.listen()
for port in (1508, 1509):
    client = socket.socket(); client.bind(('127.0.0.1', port)); client.connect(server.getsockname())
    accepted = server.accept()[0]
    client.close(); accepted.recv(1); accepted.close()
server.close()
print(open('/proc/net/tcp').read().splitlines()[1:] or 'closed at once')",
        refusal: Some("closed at once"),
        ..OBJECT
    },
    Channel {
        name: "key rings of the user",
        plant: "print(errno_of(libc.syscall(248, b'user', b'left', b'x', 1, -4)), errno_of(libc.syscall(250, 0, -4, 1)))",
        refusal: Some("EPERM EPERM"),
        ..OBJECT
    },
    Channel {
        name: "a terminal with unread text",
        plant: "
def work():
    ours, theirs = os.openpty(); os.write(ours, b'left\\n')
    return ours, theirs
background(work)",
        probe: "print_if([name for name in os.listdir('/dev/pts') if name != 'ptmx'])",
        ..OBJECT
    },
    Channel {
        name: "locks on files of the image and of the runner",
        plant: "
def work():
    files = [open(name) for name in ('/etc/passwd', '/isol8/isol8-runner')]
    for file in files: fcntl.flock(file, fcntl.LOCK_EX)
    return files
background(work)",
        probe: "
for name in ('/etc/passwd', '/isol8/isol8-runner'):
    file = open(name)
    try: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError: print(name)",
        ..OBJECT
    },
    Channel {
        name: "name of the machine",
        plant: "print(errno_of(libc.sethostname(b'left', 4)), errno_of(libc.setdomainname(b'left', 4)))",
        refusal: Some("EPERM EPERM"),
        ..OBJECT
    },
    Channel {
        name: "settings below /proc/sys",
        plant: "
for place, _, names in os.walk('/proc/sys'):
    for name in names:
        try: open(place + '/' + name, 'r+').close()
        except OSError: pass
        else: print(place + '/' + name)
print('none')",
        refusal: Some("none"),
        ..OBJECT
    },
];
