//! What the fuzzer sends through the way out of a sandbox (`fuzz/`). Nothing here leaves the machine: one host can be
//! named, and that is a listener in this process.

use std::collections::HashSet;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HOST, HeaderMap};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use runner::protocol::{
    DATA_CHUNK_BYTES, HEADER_BYTES, Kind, TUNNEL_WINDOW_BYTES, first_frame, split_tunnel_payload,
};
use shared::execution::{Egress, EgressLimits};
use shared::net::{Lookup, Resolver, Turn};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, yield_now};

use super::{Outside, Target, Tunnels};

/// The one host, and its port.
const HOST_NAME: &str = "upstream.test";
const PORT: u16 = 8180;
const AUTHORITY: &str = "upstream.test:8180";
/// The connection that carries the input.
const ID: u32 = 7;
/// Turns without a word after which nothing more is to be expected.
const QUIET_TURNS: usize = 64;
/// What takes longer hangs.
const LIMIT: Duration = Duration::from_secs(20);

/// Has a program say `bytes` to its proxy. Whatever it says, a request that goes out goes to the host that was judged,
/// alone on its connection, without the headers that concern the proxy; and the connection ends.
///
/// # Panics
/// If that is not so.
pub fn proxy(bytes: &[u8]) {
    if bytes.len() > TUNNEL_WINDOW_BYTES {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime can be made");
    runtime.block_on(async {
        let talk = tokio::time::timeout(LIMIT, talk(bytes));
        talk.await.expect("a connection to the proxy ends");
    });
}

/// An address of this machine that is this process's own, so that several can do this at once.
fn address() -> IpAddr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high | 64, middle, low.clamp(1, 254)).into()
}

struct OneHost;

impl Lookup for OneHost {
    fn lookup<'a>(&'a self, name: &'a str, _turn: Turn) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        assert_eq!(name, HOST_NAME, "no other name gets past the filter");
        std::future::ready(Ok(vec![address()])).boxed()
    }
}

async fn talk(bytes: &[u8]) {
    // Inside of CONNECT a program may say to the host what it likes.
    let is_raw = bytes.windows(7).any(|word| word == b"CONNECT");
    let listener = TcpListener::bind((address(), PORT)).await.expect("the address is free");
    let mut upstream = JoinSet::new();
    upstream.spawn(serve(listener, is_raw));

    let outside = Outside::new(Resolver::new(OneHost));
    let host = HOST_NAME.parse().expect("it is a name");
    let places = HashSet::from([Target { host, port: PORT }]);
    let egress = Egress {
        private_addresses: vec!["127.0.0.0/8".parse().expect("it is a range")],
        limits: EgressLimits { max_connections: 4, ..EgressLimits::default() },
        log: true,
        ..Egress::default()
    };
    let mut program = Program { tunnels: Tunnels::default(), has_ended: false };
    program.tunnels.put_up(outside.gate_to(places, &egress).expect("the rules are valid"));
    program.say(Kind::TunnelOpen, &[]);
    for chunk in bytes.chunks(DATA_CHUNK_BYTES) {
        program.say(Kind::TunnelData, chunk);
    }
    program.listen_while_there_is_news().await;
    if !program.has_ended {
        program.say(Kind::TunnelEnd, &[]);
    }
    program.listen_to_the_end().await;
    let gate = program.tunnels.take_down().expect("it was put up");
    drop(gate.close().await);
    outside.shutdown().await;
    for _ in 0..QUIET_TURNS {
        yield_now().await;
    }
    while let Some(ended) = upstream.try_join_next() {
        ended.expect("what arrived is as it should be");
    }
}

/// The far end of the tunnels: a runner with one program.
struct Program {
    tunnels: Tunnels,
    /// The proxy has said its last.
    has_ended: bool,
}

impl Program {
    fn say(&mut self, kind: Kind, rest: &[u8]) {
        let payload = [&ID.to_le_bytes(), rest].concat();
        self.tunnels.take(kind, &payload).expect("it keeps to the window");
    }

    /// Takes what there is for it; whether that is anything.
    fn hear(&mut self) -> bool {
        let mut frames = Vec::new();
        self.tunnels.put_frames(&mut frames, 4 * DATA_CHUNK_BYTES);
        let mut rest = frames.as_slice();
        while let Ok(Some((kind, payload))) = first_frame(rest) {
            rest = &rest[HEADER_BYTES + payload.len()..];
            let (_, data) = split_tunnel_payload(payload).expect("it has a number");
            match kind {
                Kind::TunnelData => {
                    let taken = u32::try_from(data.len()).expect("it fits a frame");
                    self.say(Kind::TunnelCredit, &taken.to_le_bytes());
                }
                Kind::TunnelEnd | Kind::TunnelAbort => self.has_ended = true,
                _ => {}
            }
        }
        assert!(rest.is_empty(), "only whole frames are sent");
        !frames.is_empty()
    }

    async fn listen_while_there_is_news(&mut self) {
        let mut quiet = 0;
        while quiet < QUIET_TURNS && !self.has_ended {
            quiet = if self.hear() { 0 } else { quiet + 1 };
            yield_now().await;
        }
    }

    async fn listen_to_the_end(&mut self) {
        while !self.has_ended {
            if !self.hear() {
                self.tunnels.news().await;
            }
        }
    }
}

/// Answers whoever comes, and looks at what they ask for.
async fn serve(listener: TcpListener, is_raw: bool) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.expect("the listener works");
                connections.spawn(serve_one(stream, is_raw));
            }
            Some(ended) = connections.join_next() => ended.expect("it was asked what it should be"),
        }
    }
}

async fn serve_one(stream: TcpStream, is_raw: bool) {
    let seen = Arc::new(Mutex::new(Vec::<HeaderMap>::new()));
    let service = service_fn(|request: Request<Incoming>| {
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(request.headers().clone());
        async move {
            // It may be cut off in the middle.
            let _ = request.into_body().collect().await;
            let body = Full::new(Bytes::from_static(b"ok"));
            Ok::<_, Infallible>(Response::new(body))
        }
    });
    // Nonsense ends it, and that only the raw ones may send.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    if is_raw {
        return;
    }
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(seen.len() <= 1, "one connection carries one request: {seen:?}");
    for headers in seen.iter() {
        assert_eq!(headers.get(HOST).map(|host| host.as_bytes()), Some(AUTHORITY.as_bytes()));
        let is_for_proxies = |name: &str| name.starts_with("proxy-") || name == "keep-alive";
        assert!(!headers.keys().any(|name| is_for_proxies(name.as_str())), "{headers:?}");
        let is_upgrade = |value: &[u8]| value.eq_ignore_ascii_case(b"upgrade");
        assert!(headers.get_all(CONNECTION).iter().all(|it| is_upgrade(it.as_bytes())));
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn kept_requests() {
        crate::replay::replay("proxy", super::proxy);
    }
}
