//! Doors of the kernel: system calls that no sandbox should have. Numbers are those of x86-64.

use tests::isolation::InGvisor::Differs;

use crate::attempt::Expected::{Prints, PrintsAs};
use crate::attempt::{Attempt, PYTHON, REFUSED};

const CALL: Attempt = Attempt { group: "kernel", ..PYTHON };

pub(crate) const ATTEMPTS: &[Attempt] = &[
    Attempt { name: "mount", program: "say(call(165, b'x', b'/sandbox', b'tmpfs', 0, 0))", ..CALL },
    Attempt {
        name: "mount by the newer calls (fsopen, open_tree, move_mount, fsmount, mount_setattr)",
        program: "say(*(call(number, 0, 0, 0, 0, 0) for number in (428, 429, 430, 431, 432, 433, 442)))",
        ..CALL
    },
    Attempt { name: "unmount what hides or protects", program: "say(*(call(166, path, 2) for path in (b'/isol8', b'/proc/kcore', b'/sandbox')))", ..CALL },
    Attempt { name: "pivot_root, chroot", program: "say(call(155, b'/', b'/'), call(161, b'/tmp'))", ..CALL },
    Attempt {
        name: "name spaces by unshare, each kind",
        program: "say(*(call(272, kind) for kind in (0x10000000, 0x20000, 0x40000000, 0x20000000, 0x4000000, 0x8000000, 0x2000000, 0x80)))",
        ..CALL
    },
    Attempt { name: "a user name space by clone", program: "say(call(56, 0x10000000 | 17, 0, 0, 0, 0))", ..CALL },
    Attempt { name: "clone3, whose flags no filter can see", program: "say(call(435, ctypes.create_string_buffer(88), 88))", expected: Prints("ENOSYS"), ..CALL },
    Attempt { name: "setns into another's name space", program: "
def enter(kind):
    place = libc.open(b'/proc/self/ns/' + kind, os.O_RDONLY)
    return call(308, place, 0)
say(*(enter(kind) for kind in (b'mnt', b'net', b'pid', b'user')))", ..CALL },
    Attempt { name: "bpf", program: "say(call(321, 0, ctypes.create_string_buffer(64), 64))", ..CALL },
    Attempt { name: "io_uring", program: "say(call(425, 8, ctypes.create_string_buffer(120)), call(426, 0, 0, 0, 0, 0, 0), call(427, 0, 0, 0, 0))", expected: Prints("ENOSYS"), in_gvisor: REFUSED, ..CALL },
    Attempt { name: "kernel asynchronous I/O", program: "say(call(206, 1, ctypes.create_string_buffer(8)))", expected: Prints("ENOSYS"), in_gvisor: REFUSED, ..CALL },
    Attempt { name: "key rings (keyctl, add_key, request_key)", program: "say(call(250, 0, -4, 1), call(248, b'user', b'x', b'x', 1, -4), call(249, b'user', b'x', 0, 0))", ..CALL },
    Attempt { name: "perf_event_open", program: "say(call(298, ctypes.create_string_buffer(128), 0, -1, -1, 0))", ..CALL },
    Attempt { name: "userfaultfd", program: "say(call(323, 0), call(323, 1))", ..CALL },
    Attempt { name: "fanotify", program: "say(call(300, 0, 0))", ..CALL },
    Attempt { name: "kernel modules", program: "say(call(175, b'', 0, b''), call(313, 0, b'', 0), call(176, b'x', 0))", ..CALL },
    Attempt { name: "kexec", program: "say(call(246, 0, 0, 0, 0), call(320, 0, 0, 0, b'', 0))", ..CALL },
    Attempt { name: "reboot, swap, accounting, quotas, kernel log, terminals of the machine", program: "say(call(169, 0, 0, 0, 0), call(167, b'/x', 0), call(163, 0), call(179, 0, b'', 0, 0), call(103, 2, 0, 0), call(153))", ..CALL },
    Attempt { name: "the clock", program: "say(call(227, 0, ctypes.create_string_buffer(16)), call(164, ctypes.create_string_buffer(16), 0), call(159, ctypes.create_string_buffer(256)), call(305, 0, ctypes.create_string_buffer(256)))", ..CALL },
    Attempt { name: "I/O ports", program: "say(call(172, 3), call(173, 0, 8, 1))", ..CALL },
    Attempt { name: "files by handle, around mounts", program: "say(call(303, -100, b'/', ctypes.create_string_buffer(64), ctypes.create_string_buffer(8), 0), call(304, -100, ctypes.create_string_buffer(64), 0))", ..CALL },
    Attempt { name: "another process's memory and descriptors", program: "
HANDLE = libc.syscall(434, 1, 0)
say(call(310, 1, 0, 0, 0, 0, 0), call(311, 1, 0, 0, 0, 0, 0), call(438, HANDLE, 1, 0), call(440, HANDLE, 0, 0, 21, 0), call(312, 1, 1, 0, 0, 0))", ..CALL },
    Attempt { name: "placement of memory on the machine's nodes", program: "say(call(237, 0, 0, 0, 0, 0, 0), call(238, 0, 0, 0), call(239, 0, 0, 0, 0, 0), call(279, 0, 0, 0, 0, 0, 0), call(256, 1, 0, 0, 0))", ..CALL },
    Attempt { name: "memory that cannot be looked into (memfd_secret)", program: "say(call(447, 0))", expected: Prints("ENOSYS"), in_gvisor: REFUSED, ..CALL },
    Attempt { name: "relics (modify_ldt, uselib, sysfs, ustat)", program: "say(call(154, 0, 0, 0), call(134, b'x'), call(139, 1, b'x'), call(136, 0, 0))", expected: Prints("ENOSYS"), in_gvisor: REFUSED, ..CALL },
    Attempt { name: "addresses without randomness (personality)", program: "say(call(135, 0x40000), call(135, 0x400000), call(135, 0x200000))", ..CALL },
    Attempt {
        name: "mount by the 32-bit entry (int 0x80)",
        // push rbx; mov eax, 21; xor ebx, ebx; int 0x80; pop rbx; ret
        program: "say(machine_code('53b81500000031dbcd805bc3'))",
        expected: Prints("SIGSYS"),
        in_gvisor: Differs(Prints("EINVAL"), "taken for the 64-bit call of its number, access, which the filter has looked at"),
        ..CALL
    },
    Attempt {
        name: "a packet socket by the 32-bit entry",
        // push rbx; mov eax, 359; mov ebx, 17; mov ecx, 3; xor edx, edx; int 0x80; pop rbx; ret
        program: "say(machine_code('53b867010000bb11000000b90300000031d2cd805bc3'))",
        expected: Prints("SIGSYS"),
        in_gvisor: Differs(Prints("EPERM"), "taken for the 64-bit call of its number, which there is none of"),
        ..CALL
    },
    Attempt {
        name: "mount by the x32 entry",
        program: "say(ended_by(lambda: call(0x40000000 + 165, b'x', b'/sandbox', b'tmpfs', 0, 0)))",
        expected: Prints("SIGSYS"),
        in_gvisor: REFUSED,
        ..CALL
    },
    Attempt { name: "another user (setuid, setresuid, setgid, setgroups)", program: "say(call(105, 0), call(117, 0, 0, 0), call(106, 0), call(119, 0, 0, 0), call(116, 1, ctypes.create_string_buffer(4)))", ..CALL },
    Attempt {
        name: "capabilities (capset, ambient, bounding)",
        program: "
header = struct.pack('Ii', 0x20080522, 0)
say(call(126, header, struct.pack('IIIIII', *[0xffffffff] * 6)), call(157, 47, 2, 7, 0, 0), call(157, 24, 7, 0, 0, 0))",
        in_gvisor: Differs(Prints("EINVAL EPERM"), "it has no ambient capabilities"),
        ..CALL
    },
    Attempt {
        name: "capabilities by programs of the image that have more rights",
        program: "
found = subprocess.run(['find', '/', '-xdev', '-perm', '/6000', '-type', 'f'], capture_output=True, text=True).stdout.split()
for path in found:
    for option in ('-c', '-i'):
        other = subprocess.run([path, option, 'id -u'], stdin=subprocess.DEVNULL, capture_output=True, timeout=20)
        if other.stdout.strip() == b'0': print(path)
open('/sandbox/mine', 'wb').write(open('/usr/bin/id', 'rb').read()); os.chmod('/sandbox/mine', 0o6755)
print(subprocess.run(['/sandbox/mine', '-u'], capture_output=True, text=True).stdout.strip())",
        expected: PrintsAs("100", "no other user"),
        ..CALL
    },
    Attempt { name: "precedence", program: "say(call(141, 0, 0, -20))", expected: Prints("EACCES"), in_gvisor: Differs(Prints("ALLOWED"), "a number that is kept, and that nothing goes by"), ..CALL },
    Attempt { name: "real time, precedence of input and output", program: "say(call(144, 0, 1, struct.pack('i', 50)), call(251, 1, 0, 1 << 13))", in_gvisor: Differs(Prints("EINVAL EPERM"), "it has no real time"), ..CALL },
    Attempt { name: "higher limits", program: "
import resource
def higher(limit): resource.setrlimit(limit, (1 << 40, 1 << 40))
outcomes = set()
for limit in (resource.RLIMIT_CORE, resource.RLIMIT_NOFILE):
    try: higher(limit); outcomes.add('ALLOWED')
    except (ValueError, OSError): outcomes.add('refused')
print(*outcomes)", expected: Prints("refused"), ..CALL },
    Attempt { name: "flags that outlast permissions (immutable, append-only)", program: "
place = os.open('/sandbox', os.O_RDONLY)
say(*(tried(fcntl.ioctl, place, 0x40086602, struct.pack('L', flag)) for flag in (0x10, 0x20)))", in_gvisor: Differs(Prints("ENOTTY"), "it has no such flags"), ..CALL },
];
