//! Ways to others: sockets, the services of the machine, the cloud's metadata.

use tests::isolation::InGvisor::Differs;

use crate::attempt::Expected::{Prints, PrintsAs, Refused};
use crate::attempt::{Attempt, PYTHON};

const NET: Attempt = Attempt { group: "network", ..PYTHON };
const POLICY: Attempt = Attempt {
    group: "requests",
    program: "print('ran')",
    expected: Refused(400, "POLICY_VIOLATION"),
    ..PYTHON
};

/// Why an address cannot be reached from gVisor's own network.
const NO_WAY: &str = "its own network has no way out, and says so in another word";

pub(crate) const ATTEMPTS: &[Attempt] = &[
    Attempt { name: "raw sockets", program: "say(*(call(41, family, 3, 255) for family in (2, 10)))", ..NET },
    Attempt { name: "packet sockets", program: "say(call(41, 17, 3, 0x300), call(41, 17, 2, 0x300))", ..NET },
    Attempt { name: "every other family (vsock, alg, bluetooth, xdp, can, tipc, rds, key)", program: "say(*(call(41, family, kind, 0) for family in range(46) if family not in (1, 2, 10, 16) for kind in (1, 2, 3, 5)))", ..NET },
    Attempt { name: "netlink beyond listing interfaces", program: "say(*(call(41, 16, 3, protocol) for protocol in range(1, 23)))", ..NET },
    Attempt { name: "an address or a route of one's own", program: "
link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0); link.settimeout(2)
def ask(kind, body):
    link.send(struct.pack('IHHII', 16 + len(body), kind, 0x605, 1, 0) + body)
    return errno.errorcode[-struct.unpack_from('i', link.recv(4096), 16)[0]]
address = struct.pack('BBBBI', 2, 24, 0, 0, 1) + struct.pack('HH4s', 8, 2, bytes((10, 0, 0, 1)))
route = struct.pack('BBBBBBBBI', 2, 0, 0, 0, 254, 4, 0, 1, 0) + struct.pack('HHI', 8, 4, 1)
probe = socket.socket()
say(ask(20, address), ask(24, route), tried(fcntl.ioctl, probe, 0x8914, b'lo'.ljust(16, b'\\0') + struct.pack('H22x', 0x1043)))", in_gvisor: Differs(Prints("EACCES ENOTTY"), "its interfaces take no such command"), ..NET },
    Attempt { name: "addresses outside", program: "
def dial(family, address):
    with socket.socket(family) as one: one.settimeout(2); one.connect(address)
hosts = ['1.1.1.1', '8.8.8.8', '10.0.0.1', '172.17.0.1', '192.168.0.1', '169.254.169.254', '100.100.100.200']
say(*(tried(dial, socket.AF_INET, (host, port)) for host in hosts for port in (53, 80, 443)), *(tried(dial, socket.AF_INET6, (host, 80)) for host in ('2606:4700::1111', 'fd00:ec2::254')))", expected: PrintsAs("EADDRNOTAVAIL ENETUNREACH", "ENETUNREACH"), in_gvisor: Differs(Prints("EHOSTUNREACH"), NO_WAY), ..NET },
    Attempt { name: "datagrams outside, names by DNS", program: "
def send(host): socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x' * 40, (host, 53))
say(*(tried(send, host) for host in ('1.1.1.1', '172.17.0.1', '255.255.255.255', '224.0.0.251')))
try: socket.getaddrinfo('example.com', 80); print('RESOLVED')
except socket.gaierror: pass", expected: Prints("ENETUNREACH"), in_gvisor: Differs(Prints("EHOSTUNREACH ENETUNREACH"), NO_WAY), ..NET },
    Attempt { name: "the Docker engine", program: "
def dial(address):
    with socket.socket(socket.AF_INET if type(address) is tuple else socket.AF_UNIX) as one: one.settimeout(2); one.connect(address)
paths = ('/var/run/docker.sock', '/run/docker.sock', '/run/containerd/containerd.sock', '/run/podman/podman.sock', '/run/dbus/system_bus_socket')
say(*(tried(dial, path) for path in paths), *(tried(dial, (host, port)) for host in ('127.0.0.1', '172.17.0.1') for port in (2375, 2376)))", expected: PrintsAs("ECONNREFUSED ENETUNREACH ENOENT", "refused, unreachable, absent"), in_gvisor: Differs(PrintsAs("ECONNREFUSED EHOSTUNREACH ENOENT", "refused, unreachable, absent"), NO_WAY), ..NET },
    Attempt { name: "Redis, and every other service on the machine's loopback", program: "
def dial(host, port):
    with socket.socket() as one: one.settimeout(2); one.connect((host, port))
# Every port that anything could listen on.
say(tried(dial, '172.17.0.1', 6379), *(tried(dial, '127.0.0.1', port) for port in (*range(1, 1024, 3), 3000, 3900, 5432, 6379, 6380, 8080, 9090, 9100)))
print([line for name in ('tcp', 'tcp6', 'udp', 'udp6') for line in open('/proc/net/' + name).read().splitlines()[1:] if ' 0A ' in line])", expected: PrintsAs("ECONNREFUSED ENETUNREACH\n[]", "ECONNREFUSED, ENETUNREACH"), in_gvisor: Differs(PrintsAs("ECONNREFUSED EHOSTUNREACH\n[]", "ECONNREFUSED, EHOSTUNREACH"), NO_WAY), ..NET },
    Attempt { name: "abstract sockets of the machine", program: "print(open('/proc/net/unix').read().count('@'))", expected: PrintsAs("0", "none"), ..NET },
    Attempt { name: "the host's network", more: r#"{"options": {"network": "host"}}"#, ..POLICY },
    Attempt { name: "no system-call filter", more: r#"{"options": {"security": {"seccomp": "unconfined"}}}"#, ..POLICY },
    Attempt { name: "more memory than there may be", more: r#"{"options": {"memoryLimit": "900g"}}"#, ..POLICY },
    Attempt { name: "more processes than there may be", more: r#"{"options": {"pidsLimit": 1000000}}"#, ..POLICY },
    Attempt { name: "a run without end", more: r#"{"request": {"timeoutMs": 999999999999}}"#, ..POLICY },
    Attempt { name: "an image that is not here", more: r#"{"options": {"image": "../../etc/passwd"}}"#, expected: Refused(400, "INVALID_REQUEST"), ..POLICY },
    Attempt { name: "files outside /sandbox and /tmp", more: r#"{"request": {"files": {"a/../../etc/x": "x"}}}"#, expected: Refused(400, "INVALID_REQUEST"), ..POLICY },
    Attempt { name: "files into the runner's place", more: r#"{"request": {"files": {"/isol8/x": "x"}}}"#, expected: Refused(400, "INVALID_REQUEST"), ..POLICY },
];
