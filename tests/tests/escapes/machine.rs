//! What of the machine shows in the sandbox: `/proc`, `/sys`, control groups, devices.

use tests::isolation::InGvisor::Differs;

use crate::attempt::Expected::{Prints, PrintsAs};
use crate::attempt::{Attempt, PYTHON};

const PROC: Attempt = Attempt { group: "proc, sys, devices", ..PYTHON };

pub(crate) const ATTEMPTS: &[Attempt] = &[
    Attempt { name: "memory of process 1", program: "say(*(tried(read, '/proc/1/' + name) for name in ('mem', 'syscall', 'stack', 'task/1/mem')))", expected: Prints("EACCES"), in_gvisor: Differs(Prints("EACCES ENOENT"), "it has fewer of these files"), ..PROC },
    Attempt { name: "environment and maps of process 1", program: "say(*(tried(read, '/proc/1/' + name) for name in ('environ', 'maps', 'auxv')))", expected: Prints("EACCES"), in_gvisor: Differs(Prints("ALLOWED"), "nothing of a job is in them (the next row)"), ..PROC },
    Attempt { name: "a job's secrets and variables in the environment of any other process", program: "
# Of the image and its runtimes.
settings = {'DENO_DIR', 'HOME', 'HOSTNAME', 'LANG', 'NODE_PATH', 'NPM_CONFIG_PREFIX', 'PATH', 'PYTHONPATH', 'PYTHONUNBUFFERED', 'PYTHONUSERBASE'}
told = set()
for pid in filter(str.isdigit, os.listdir('/proc')):
    if int(pid) == os.getpid(): continue
    try: told |= {line.split('=')[0] for line in open('/proc/%s/environ' % pid).read().split('\\0') if line}
    except OSError as error: told.add(errno.errorcode[error.errno])
print(os.environ['GIVEN'], *sorted(told - settings))", more: r#"{"request": {"env": {"GIVEN": "1"}}, "options": {"secrets": {"TOKEN": "a-secret-of-this-job"}}}"#, expected: PrintsAs("1 EACCES", "EACCES"), in_gvisor: Differs(PrintsAs("1", "none"), "settings of the image are all there is to read"), ..PROC },
    Attempt { name: "the root, directory and program of process 1", program: "say(*(tried(os.listdir, '/proc/1/' + name) for name in ('root', 'cwd', 'map_files')), tried(os.readlink, '/proc/1/exe'), tried(read, '/proc/1/root/etc/hostname'))", expected: Prints("EACCES"), in_gvisor: Differs(Prints("EACCES ENOENT"), "it has no map_files"), ..PROC },
    Attempt { name: "a list of the descriptors of process 1", program: "say(*(tried(os.listdir, '/proc/1/' + name) for name in ('fd', 'fdinfo')))", expected: Prints("EACCES"), in_gvisor: Differs(Prints("ALLOWED"), "which of them can be opened is a row of its own (runner)"), ..PROC },
    Attempt { name: "what is written to process 1", program: "say(*(tried(write, '/proc/1/' + name) for name in ('mem', 'oom_score_adj', 'comm', 'attr/current', 'uid_map', 'setgroups', 'clear_refs', 'timerslack_ns')))", expected: PrintsAs("EACCES EPERM", "EACCES or EPERM"), in_gvisor: Differs(Prints("EACCES ENOENT"), "it has fewer of these files"), ..PROC },
    Attempt { name: "core_pattern, modprobe, other helpers the kernel runs", program: "
paths = ('/proc/sys/kernel/core_pattern', '/proc/sys/kernel/modprobe', '/proc/sys/kernel/hotplug', '/sys/kernel/uevent_helper', '/proc/sys/fs/binfmt_misc/register', '/proc/sys/kernel/poweroff_cmd')
say(*(tried(write, path) for path in paths if os.path.exists(path)))", expected: Prints("EACCES"), in_gvisor: Differs(PrintsAs("", "none"), "it has no such helpers"), ..PROC },
    Attempt { name: "sysrq-trigger, interrupts, buses, memory of the kernel", program: "
paths = ('/proc/sysrq-trigger', '/proc/irq/default_smp_affinity', '/proc/kcore', '/proc/kmsg', '/proc/mtrr', '/proc/bus/pci/devices')
outcomes = [tried(write, path) for path in paths if os.path.exists(path)]
print('ALLOWED' if 'ALLOWED' in outcomes and tried(read, '/proc/kcore') == 'ALLOWED' and len(open('/proc/kcore', 'rb').read(1)) else 'nothing')", expected: PrintsAs("nothing", "refused or hidden"), ..PROC },
    Attempt { name: "hidden parts of /proc and /sys", program: "
shown = []
for path in ('/proc/kcore', '/proc/keys', '/proc/timer_list', '/proc/latency_stats', '/proc/sched_debug', '/proc/kmsg'):
    try: shown += [path] * bool(os.path.exists(path) and open(path, 'rb', 0).read(1))
    except OSError: pass
for path in ('/sys/firmware', '/proc/scsi', '/proc/acpi', '/proc/asound'):
    shown += [path] * bool(os.path.isdir(path) and os.listdir(path))
print(shown)", expected: PrintsAs("[]", "empty"), ..PROC },
    Attempt { name: "addresses of the kernel (kallsyms)", program: "
lines = open('/proc/kallsyms').read().splitlines() if os.path.exists('/proc/kallsyms') else []
print(sum(int(line.split()[0], 16) for line in lines))", expected: PrintsAs("0", "zeros"), ..PROC },
    Attempt { name: "anything in /proc/sys and /sys that can be written to", program: "
for root in ('/proc/sys', '/sys'):
    for place, _, names in os.walk(root):
        for name in names:
            path = place + '/' + name
            if os.access(path, os.W_OK) and tried(os.open, path, os.O_WRONLY) == 'ALLOWED': print(path)
print('nothing')", expected: Prints("nothing"), ..PROC },
    Attempt { name: "release_agent and limits of control groups", program: "
tries = set()
for place, _, names in os.walk('/sys/fs/cgroup'):
    tries.add(tried(os.mkdir, place + '/mine'))
    for name in ('release_agent', 'notify_on_release', 'cgroup.procs', 'tasks', 'devices.allow', 'memory.limit_in_bytes', 'memory.max', 'pids.max', 'cpu.cfs_quota_us'):
        if name in names: tries.add(tried(write, place + '/' + name))
print('refused' if tries and not tries - {'EACCES', 'EROFS', 'EPERM'} else tries)", expected: PrintsAs("refused", "EACCES or EROFS"), ..PROC },
    Attempt { name: "a second control group mount", program: "os.makedirs('/tmp/x'); say(*(call(165, b'x', b'/tmp/x', kind, 0, 0) for kind in (b'cgroup', b'cgroup2', b'proc', b'sysfs', b'overlay')))", ..PROC },
    Attempt { name: "device nodes of one's own", program: "say(*(tried(os.mknod, '/tmp/%s%d' % (kind, major), mode | 0o600, os.makedev(major, minor)) for kind, mode in (('b', 0o60000), ('c', 0o20000)) for major, minor in ((8, 0), (1, 1), (10, 229), (259, 0))))", ..PROC },
    Attempt { name: "device nodes of the machine", program: "
names = ('mem', 'kmem', 'port', 'kmsg', 'sda', 'vda', 'nvme0n1', 'fuse', 'kvm', 'net/tun', 'loop0', 'loop-control', 'vsock', 'vhost-net', 'uinput', 'snapshot', 'mapper/control')
print([name for name in names if os.path.lexists('/dev/' + name)])", expected: PrintsAs("[]", "none is there"), in_gvisor: Differs(PrintsAs("['fuse', 'net/tun']", "fuse, net/tun"), "its own kernel's, and of no use (the next row)"), ..PROC },
    Attempt { name: "an interface by /dev/net/tun, a file system by /dev/fuse", program: "
def make_interface(flags): fcntl.ioctl(os.open('/dev/net/tun', os.O_RDWR), 0x400454ca, b'x'.ljust(16, b'\\0') + struct.pack('H22x', flags))
def take_requests(): os.read(os.open('/dev/fuse', os.O_RDWR | os.O_NONBLOCK), 8192)
say(tried(make_interface, 0x1001), tried(make_interface, 0x1002), tried(take_requests))", expected: Prints("ENOENT"), in_gvisor: Differs(Prints("EPERM"), "both want a capability"), ..PROC },
    Attempt { name: "commands in another terminal's input (TIOCSTI) and console", program: "
ours, theirs = os.openpty()
say(tried(fcntl.ioctl, ours, 0x5412, b'x'), tried(os.open, '/dev/console', os.O_RDWR), tried(os.open, '/dev/tty0', os.O_RDWR))", expected: PrintsAs("ENOENT EPERM", "EPERM, or absent"), in_gvisor: Differs(Prints("ENOENT ENOTTY"), "its terminals take no such command"), ..PROC },
    Attempt { name: "files of the image and of the runner", program: "
places = ('/', '/etc', '/usr/bin', '/isol8', '/isol8/prepared', '/dev', '/proc', '/sys', '/var', '/home', '/opt', '/run')
say(*(tried(os.open, place + '/mine', os.O_CREAT | os.O_WRONLY) for place in places), *(tried(os.open, path, os.O_WRONLY) for path in ('/isol8/isol8-runner', '/etc/passwd', '/bin/sh')), tried(os.chmod, '/isol8/isol8-runner', 0o777), tried(os.rename, '/isol8/isol8-runner', '/isol8/x'))", expected: PrintsAs("EACCES ENOENT EROFS", "EACCES or EROFS"), in_gvisor: Differs(Prints("EACCES EPERM EROFS"), "it looks at the owner before it looks at the file system"), ..PROC },
    Attempt { name: "programs in /tmp and /dev/shm", program: "
for place in ('/tmp', '/dev/shm'): open(place + '/id', 'wb').write(open('/usr/bin/id', 'rb').read()); os.chmod(place + '/id', 0o755)
say(*(tried(os.execv, place + '/id', ['id']) for place in ('/tmp', '/dev/shm')))", expected: Prints("EACCES"), ..PROC },
    Attempt { name: "core dumps", program: "
if os.fork() == 0: os.abort()
print(os.WCOREDUMP(os.wait()[1]), [name for name in os.listdir('/sandbox') if 'core' in name])", expected: PrintsAs("False []", "none written"), ..PROC },
];
