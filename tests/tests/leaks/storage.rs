//! Files and folders, and what hangs on them.

use tests::isolation::InGvisor::Differs;

use crate::channel::{Channel, PYTHON};

const FILES: Channel = Channel { group: "files", ..PYTHON };

pub(crate) const CHANNELS: &[Channel] = &[
    Channel {
        name: "files and folders in every known place",
        plant: "
for place in ('/sandbox', '/tmp', '/dev/shm'):
    os.makedirs(place + '/a/b/c')
    for name in ('x', 'a/y', 'a/b/c/z'): open(place + '/' + name, 'w').write('x')",
        ..FILES
    },
    Channel {
        name: "a file in every directory that can be written to",
        plant:
            "
for place, names, _ in os.walk('/'):
    names[:] = [name for name in names if place != '/' or name not in ('proc', 'sys')]
    if os.access(place, os.W_OK) and place != '/sandbox': open(place + '/left-behind', 'w').close()",
        probe: "
for place, names, files in os.walk('/'):
    names[:] = [name for name in names if place != '/' or name not in ('proc', 'sys')]
    if 'left-behind' in files: print(place)",
        ..FILES
    },
    Channel {
        name: "hidden names",
        plant: "
for name in ('.x', '..x', '...', '.isol8-removing-1', '-rf *'):
    open('/sandbox/' + name, 'w').close(); os.makedirs('/tmp/' + name + '/d')",
        ..FILES
    },
    Channel {
        name: "names of Unicode, line feeds, bytes of no encoding, 255 bytes",
        plant: r"
for name in ('žluť'.encode(), b'a\nb', b'\xff\xfe', b'x' * 255, '\u202e\u200b'.encode()):
    open(b'/sandbox/' + name, 'w').close(); os.mkdir(b'/dev/shm/' + name)",
        ..FILES
    },
    Channel {
        name: "a tree 3000 levels deep",
        plant: "
os.chdir('/tmp')
for _ in range(3000): os.mkdir('d'); os.chdir('d')
open('x', 'w').close()",
        ..FILES
    },
    Channel {
        name: "folders without any permission",
        plant: "
os.makedirs('/sandbox/a/b'); open('/sandbox/a/b/x', 'w').close()
for place in ('/sandbox/a/b', '/sandbox/a'): os.chmod(place, 0)",
        ..FILES
    },
    Channel {
        name: "symbolic links, hard links, named pipes, sockets",
        plant: "
os.symlink('/etc/passwd', '/sandbox/l'); os.symlink('/', '/tmp/root'); os.mkfifo('/tmp/fifo')
open('/tmp/x', 'w').close(); os.link('/tmp/x', '/tmp/y')
socket.socket(socket.AF_UNIX).bind('/sandbox/socket')",
        ..FILES
    },
    Channel {
        name: "5000 files",
        plant: "for number in range(5000): open('/tmp/%d' % number, 'w').close()",
        probe: "print_if([used(place) for place in PLACES[:3] if used(place)[1] > 50 or len(os.listdir(place)) > 50])",
        ..FILES
    },
    Channel {
        name: "a full file system",
        plant: "
try:
    with open('/dev/shm/x', 'wb', 0) as file:
        while True: file.write(bytes(1 << 20))
except OSError: pass",
        probe: "print_if([used(place) for place in PLACES[:3] if used(place)[0] > 1 << 20])",
        ..FILES
    },
    Channel {
        name: "a deleted file that a background process holds open",
        plant: "
def work():
    file = open('/tmp/x', 'wb+', 0); os.unlink('/tmp/x'); file.write(bytes(8 << 20))
    return file
background(work)",
        probe: "print_if([used(place) for place in PLACES[:3] if used(place)[0] > 1 << 20])",
        ..FILES
    },
    Channel {
        name: "a mapped file of no name",
        plant: "
def work():
    import mmap
    file = os.memfd_create('left'); os.truncate(file, 4096)
    memory = mmap.mmap(file, 4096); memory[:4] = b'left'
    return file, memory
background(work)",
        probe: "
for pid in filter(str.isdigit, os.listdir('/proc')):
    try: text = open('/proc/%s/maps' % pid).read()
    except OSError: continue
    if 'memfd:left' in text: print(pid)",
        ..FILES
    },
    Channel {
        name: "permissions of /sandbox itself",
        plant: "os.chmod('/sandbox', 0o1707)",
        probe: "print_if([oct(os.stat('/sandbox').st_mode)] * (os.stat('/sandbox').st_mode != 0o40755))",
        ..FILES
    },
    Channel {
        name: "attributes of /sandbox itself",
        plant: "os.setxattr('/sandbox', 'user.note', b'left')",
        probe: "print_if(os.listxattr('/sandbox'))",
        ..FILES
    },
    Channel {
        name: "access lists of /sandbox itself",
        plant: "
entries = [(1, 7, -1), (4, 5, -1), (32, 7, -1)]
access = struct.pack('<I', 2) + b''.join(struct.pack('<HHi', *entry) for entry in entries)
or_say(os.setxattr, '/sandbox', 'system.posix_acl_default', access)",
        probe: "print_if(os.listxattr('/sandbox'))",
        in_gvisor: Differs(Some("ENOTSUP"), "it has none"),
        ..FILES
    },
    Channel {
        name: "flags of /sandbox itself (no dump, no access time)",
        plant: "
place = os.open('/sandbox', os.O_RDONLY)
or_say(fcntl.ioctl, place, 0x40086602, struct.pack('L', 0xc0))",
        probe: "
flags = bytearray(8)
fcntl.ioctl(os.open('/sandbox', os.O_RDONLY), 0x80086601, flags)
print_if([bytes(flags)] * any(flags))",
        in_gvisor: Differs(Some("ENOTTY"), "it has none"),
        ..FILES
    },
    Channel {
        name: "time of last access of /sandbox itself",
        plant: "os.utime('/sandbox', (4102444800, 1))",
        probe: "print_if([time.ctime(os.stat('/sandbox').st_atime)] * (os.stat('/sandbox').st_atime > 4e9))",
        ..FILES
    },
    Channel {
        name: "output files",
        plant: "open('/sandbox/out.txt', 'w').write('left'); open('/tmp/out.txt', 'w').write('left')",
        probe: "pass",
        asks: r#"{"request": {"outputPaths": ["/sandbox/out.txt", "/tmp/out.txt"]}}"#,
        ..FILES
    },
];
