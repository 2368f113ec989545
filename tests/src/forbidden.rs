//! Places that no sandbox may reach, made reachable: their addresses are given to this machine's own
//! loopback interface and listened on, so that a hole shows as a connection and no packet leaves.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

/// An address that the loopback interface has until this is dropped.
pub struct Alias(String);

impl Alias {
    /// Gives it one. Left over from a run that was killed, it is taken over.
    ///
    /// # Panics
    /// If it cannot be given.
    #[must_use]
    pub fn give(address: IpAddr) -> Self {
        let range = format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 });
        let mut arguments = vec!["address", "replace", &range, "dev", "lo"];
        // Otherwise it is not there at once.
        arguments.extend(address.is_ipv6().then_some("nodad"));
        let output = ip(&arguments);
        let output = output.expect("`ip` of the package iproute2 is there");
        assert!(output.status.success(), "{range}: {}", String::from_utf8_lossy(&output.stderr));
        Self(range)
    }
}

impl Drop for Alias {
    fn drop(&mut self) {
        // Whoever looks for it finds it.
        let _ = ip(&["address", "delete", &self.0, "dev", "lo"]);
    }
}

/// Whether this machine has IPv6 at all.
#[must_use]
pub fn has_ipv6() -> bool {
    TcpListener::bind("[::1]:0").is_ok()
}

/// The kernel gets ready for a new address behind our back.
fn retried<T>(act: impl Fn() -> io::Result<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match act() {
            Ok(done) => return done,
            Err(error) if Instant::now() > deadline => panic!("{error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn ip(arguments: &[&str]) -> io::Result<std::process::Output> {
    Command::new("ip").args(arguments).output()
}

/// A place that is listened on, by TCP and UDP.
pub struct Place {
    tcp: TcpListener,
    udp: UdpSocket,
    _alias: Option<Alias>,
}

impl Place {
    /// Listens on an address, which this machine need not have yet; `port` may be 0.
    ///
    /// # Panics
    /// If it cannot listen, or cannot be reached from this machine.
    #[must_use]
    pub fn open(address: &str, port: u16) -> Self {
        let address: IpAddr = address.parse().expect("an address");
        let alias = (!address.is_loopback()).then(|| Alias::give(address));
        let tcp = retried(|| TcpListener::bind((address, port)));
        let at = tcp.local_addr().expect("it is bound");
        let udp = UdpSocket::bind(at).expect("a port is free for both");
        tcp.set_nonblocking(true).expect("it is a socket");
        udp.set_nonblocking(true).expect("it is a socket");
        let place = Self { tcp, udp, _alias: alias };
        place.check();
        place
    }

    /// Where it is.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn at(&self) -> SocketAddr {
        self.tcp.local_addr().expect("it is bound")
    }

    /// Connections and datagrams that have come since the last look.
    #[must_use]
    pub fn visits(&self) -> usize {
        let connections = std::iter::from_fn(|| self.tcp.accept().ok()).count();
        let mut datagram = [0; 1];
        connections + std::iter::from_fn(|| self.udp.recv(&mut datagram).ok()).count()
    }

    /// A visitor from this machine is seen.
    fn check(&self) {
        let _visitor = retried(|| TcpStream::connect(self.at()));
        let sender = UdpSocket::bind((self.at().ip(), 0)).expect("loopback has free ports");
        retried(|| sender.send_to(b"x", self.at()));
        assert_eq!(self.visits(), 2, "{}", self.at());
    }
}
