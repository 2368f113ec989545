//! What a sandbox must not reach, with the network `none` and `filtered`: each place is there, listens
//! on this machine, and has had no visitor in the end.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener};

use serde_json::{Value, json};
use tests::forbidden::{self, Place};
use tests::{Api, Stack, code};

/// The metadata services of clouds, by both versions of the protocol, a private and a public address
/// of this machine, and its loopback.
const ADDRESSES: [&str; 6] = [
    "169.254.169.254",
    "fd00:ec2::254",
    "100.100.100.200",
    "10.11.12.13",
    "192.0.2.213",
    "127.0.0.1",
];

/// Tries every place in every way there is without a proxy, and prints what was not refused.
const AROUND: &str = r#"
import json, os, socket, struct
places, paths, names = json.loads(os.environ["PLACES"])
def report(what, act, *arguments):
    try: act(*arguments)
    except OSError: return
    print("REACHED", what)
def connect(family, address):
    with socket.socket(family) as one: one.settimeout(5); one.connect(address)
def send(family, address):
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        one.sendto(b"x", address)
        # A refusal by the other side comes with the next use.
        one.settimeout(0.2); one.connect(address); one.send(b"x"); one.recv(1)
def ping(family, host):
    protocol, echo = (1, 8) if family == socket.AF_INET else (58, 128)
    with socket.socket(family, socket.SOCK_DGRAM, protocol) as one: one.sendto(bytes([echo]) + bytes(7), (host, 0))
def raw(family, kind, protocol): socket.socket(family, kind, protocol).close()
for host, port in places:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if not host.startswith("127."): report(("ping", host), ping, family, host)
    # The sandbox's own loopback has whatever runs in it.
    others = [port] + ([] if host.startswith("127.") else [22, 53, 80, 443, 2375, 2376, 3000, 6379, 8118, 9100])
    for number in others:
        report(("tcp", host, number), connect, family, (host, number))
        report(("udp", host, number), send, family, (host, number))
    mapped = "::ffff:" + host
    if family == socket.AF_INET: report(("tcp", mapped, port), connect, socket.AF_INET6, (mapped, port))
for path in paths: report(path, connect, socket.AF_UNIX, path)
for name in names: report(name, socket.getaddrinfo, name, 80)
for family in (socket.AF_INET, socket.AF_INET6):
    for protocol in (1, 6, 17, 58, 255): report(("raw", family, protocol), raw, family, socket.SOCK_RAW, protocol)
for kind in (socket.SOCK_RAW, socket.SOCK_DGRAM): report(("packet", kind), raw, socket.AF_PACKET, kind, socket.htons(3))
for family in (31, 38, 40, 44):
    for kind in (1, 2, 3, 5): report(("family", family), raw, family, kind, 0)
print("tried", len(places))
"#;

/// Sends a request to the proxy; the status of its answer.
const ASK: &str = r#"
import json, os, socket
places, paths, names = json.loads(os.environ["PLACES"])
def status(request):
    with socket.create_connection(("127.0.0.1", 8118)) as one:
        one.settimeout(30); one.sendall((request + " HTTP/1.1\r\nHost: x\r\n\r\n").encode())
        return one.recv(99).split(b" ")[1].decode()
def bracketed(host): return f"[{host}]" if ":" in host else host
"#;

/// Asks the proxy for every place under all its names, and prints what was not refused.
const THROUGH: &str = r#"
here = os.uname().nodename
hosts = {name: [80] for name in ("localhost", "LOCALHOST.", "ip6-localhost", here)}
for host, port in places:
    hosts[bracketed(host)] = (port, 22, 53, 80, 443, 2375, 6379)
    if ":" in host: continue
    six = "".join(f"{int(part):02x}" for part in host.split("."))
    six = six[:4] + ":" + six[4:]
    for wrapped in (f"::ffff:{host}", f"::{host}", f"64:ff9b::{six}", f"2002:{six}::1"): hosts[f"[{wrapped}]"] = [port]
reached = []
for host, ports in hosts.items():
    for port in ports:
        for request in (f"GET http://{host}:{port}/", f"CONNECT {host}:{port}"):
            answer = status(request)
            # Not every machine knows all of the names.
            if answer != "403" and (answer != "502" or host not in ("ip6-localhost", here)): reached.append((answer, request))
for path in paths[:2]:
    for request in (f"GET http://unix:{path}", f"GET unix://{path}", f"CONNECT unix:{path}"):
        if status(request) != "400": reached.append(request)
print(reached, len(hosts) > 30)
"#;

/// Asks the proxy for every place.
const ALLOWED: &str = r#"
print(*(status(f"CONNECT {bracketed(host)}:{port}") for host, port in places))
"#;

fn addresses() -> impl Iterator<Item = &'static str> {
    ADDRESSES.into_iter().filter(|address| forbidden::has_ipv6() || !address.contains(':'))
}

struct World {
    places: Vec<Place>,
    _abstract: UnixListener,
    description: String,
}

impl World {
    fn of(stack: &Stack, servers: &[SocketAddr]) -> Self {
        let mut places: Vec<Place> = addresses().map(|address| Place::open(address, 0)).collect();
        // By the port that its own clients know.
        places.push(Place::open("169.254.169.253", 80));
        let name = format!("isol8-test-{}", std::process::id());
        let address = UnixAddress::from_abstract_name(&name).expect("a short name");
        let listener = UnixListener::bind_addr(&address).expect("nobody else has it");
        let places_json: Vec<Value> = places
            .iter()
            .map(Place::at)
            .chain(servers.iter().copied())
            .map(|at| json!([at.ip(), at.port()]))
            .collect();
        let paths = [
            "/var/run/docker.sock".to_owned(),
            stack.join("data/redis.sock").display().to_string(),
            "/run/docker.sock".to_owned(),
            "/run/containerd/containerd.sock".to_owned(),
            format!("\0{name}"),
        ];
        let names = ["example.com", "metadata.google.internal", "localhost.localdomain"];
        let description = json!([places_json, paths, names]).to_string();
        Self { places, _abstract: listener, description }
    }

    async fn run(&self, api: &Api, text: &str, network: &str) -> String {
        let mut body = code("python", text);
        body["request"]["env"] = json!({"PLACES": self.description});
        body["request"]["timeoutMs"] = json!(60_000);
        body["options"] = json!({"network": network});
        let result = api.run(body).await;
        let told = ["stdout", "stderr"].map(|name| result[name].as_str().unwrap_or_default());
        told.concat().trim_end().to_owned()
    }

    fn check(&self, what: &str) {
        for place in &self.places {
            assert_eq!(place.visits(), 0, "{what} has reached {}", place.at());
        }
    }
}

/// An address of loopback that no other process has.
fn own_address() -> IpAddr {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 | a, b, c).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_machine_is_reached_from_a_sandbox() {
    let worker = SocketAddr::new(own_address(), 9100);
    let (stack, api) = Stack::serve(&json!({"worker": {"listen": worker.to_string()}}));
    let gateway = api.address().strip_prefix("http://").and_then(|address| address.parse().ok());
    let servers = [worker, gateway.expect("it has an address")];
    for server in servers {
        TcpStream::connect(server).expect("it listens");
    }
    let world = World::of(&stack, &servers);
    let tried = format!("tried {}", addresses().count() + 3);
    for network in ["none", "filtered"] {
        assert_eq!(world.run(&api, AROUND, network).await, tried, "{network}");
        world.check(network);
    }
    let refused = world.run(&api, &format!("{ASK}{THROUGH}"), "filtered").await;
    assert_eq!(refused, "[] True");
    world.check("the proxy");
    stack.finish();

    // That they could be reached shows where the operator lets them be.
    let allowed = [
        "169.254.0.0/16",
        "fd00:ec2::/32",
        "100.64.0.0/10",
        "10.0.0.0/8",
        "192.0.2.0/24",
        "127.0.0.0/8",
    ];
    let (stack, api) = Stack::serve(&json!({"policy": {"allowPrivateAddresses": allowed}}));
    let reached = world.run(&api, &format!("{ASK}{ALLOWED}"), "filtered").await;
    for place in &world.places {
        assert!(place.visits() > 0, "{} is out of reach: {reached}", place.at());
    }
    stack.finish();
}
