//! Servers on loopback that programs, or workers on their behalf, talk to: plain or over TLS, with
//! answers that the test decides on. They tell what they were asked, and can hang, drip, or swallow, as
//! servers do.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// How long connections may take to come or to go.
const LIMIT: Duration = Duration::from_secs(60);

/// What came in.
#[derive(Clone, Debug)]
pub struct Request {
    /// Method and target, like `GET /a`.
    pub line: String,
    /// All before the body, as it came.
    pub head: String,
    /// Header lines, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: String,
}

impl Request {
    /// A header's value; empty if absent.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(found, _)| found == name);
        found.map_or("", |(_, value)| value)
    }

    /// The target.
    #[must_use]
    pub fn path(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }
}

/// What goes out.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Status, header lines with their line ends; and a body.
    Whole(String, Vec<u8>),
    /// A body in chunks.
    Chunks(&'static [&'static str]),
    /// Another protocol takes over: what comes in goes out.
    Echo,
    /// None, until the other side goes.
    Hang,
    /// One byte after the other, without an end.
    Drip,
}

impl Answer {
    /// 200 and a text, or other bytes.
    #[must_use]
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::Whole("200 OK\r\n".into(), body.into())
    }

    /// A status line like `404 Not Found`, and no body.
    #[must_use]
    pub fn status(status: &str) -> Self {
        Self::Whole(format!("{status}\r\n"), Vec::new())
    }

    /// Adds a header, if it is whole.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        if let Self::Whole(head, _) = &mut self {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        self
    }
}

/// A handler that tells what it was asked, and does what some paths say.
#[must_use]
pub fn reflect(request: &Request) -> Answer {
    match request.path() {
        "/hang" => Answer::Hang,
        "/drip" => Answer::Drip,
        "/switch" => Answer::Echo,
        "/chunks" => Answer::Chunks(&["one", "two"]),
        path => Answer::ok(format!("{path} {}", request.body.len())),
    }
}

type Handler = dyn Fn(&Request) -> Answer + Send + Sync;

/// A server; it ends when this is dropped.
pub struct Upstream {
    /// Where it listens.
    pub address: SocketAddr,
    seen: Arc<Seen>,
    _serving: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<Request>>,
    open: AtomicUsize,
}

impl Upstream {
    /// A plain one on `host`, one of the addresses in `127.0.0.0/8`.
    ///
    /// # Panics
    /// If it cannot listen.
    pub async fn start(
        host: &str,
        handler: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::start_with((host, 0), None, Arc::new(handler)).await
    }

    /// One that speaks TLS, with a certificate for `localhost` that is written to `certificate`.
    ///
    /// # Panics
    /// If there can be no certificate.
    pub async fn start_tls(
        certificate: &Path,
        handler: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::start_tls_as(&["localhost"], ("127.0.0.1", 0), certificate, handler).await
    }

    /// The same with a certificate for other names, at an address and port.
    ///
    /// # Panics
    /// If there can be no certificate, or it cannot listen.
    pub async fn start_tls_as(
        names: &[&str],
        at: (&str, u16),
        certificate: &Path,
        handler: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).expect("a key");
        std::fs::write(certificate, made.cert.pem()).expect("the directory is writable");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider knows TLS")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("the key fits");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Self::start_with(at, Some(acceptor), Arc::new(handler)).await
    }

    async fn start_with(at: (&str, u16), tls: Option<TlsAcceptor>, handler: Arc<Handler>) -> Self {
        let listener = TcpListener::bind(at).await.expect("loopback has free ports");
        let address = listener.local_addr().expect("it is bound");
        let seen = Arc::<Seen>::default();
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, tls, handler, Arc::clone(&seen)));
        Self { address, seen, _serving: serving }
    }

    /// Its address with another host name and a path.
    #[must_use]
    pub fn url(&self, scheme: &str, host: &str, path: &str) -> String {
        format!("{scheme}://{host}:{}{path}", self.address.port())
    }

    /// A plain URL of it by its address.
    #[must_use]
    pub fn at(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// All requests so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Request> {
        self.seen.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The heads of all requests so far.
    #[must_use]
    pub fn heads(&self) -> String {
        self.seen().into_iter().map(|request| request.head).collect()
    }

    /// Waits until a connection is open.
    ///
    /// # Panics
    /// If none comes.
    pub async fn await_open(&self) {
        assert!(self.becomes(|open| open > 0).await, "no connection came");
    }

    /// Waits until no connection is open.
    ///
    /// # Panics
    /// If one stays.
    pub async fn await_quiet(&self) {
        assert!(self.becomes(|open| open == 0).await, "{} connections stay open", self.open());
    }

    fn open(&self) -> usize {
        self.seen.open.load(Ordering::SeqCst)
    }

    async fn becomes(&self, wanted: impl Fn(usize) -> bool) -> bool {
        let deadline = Instant::now() + LIMIT;
        while !wanted(self.open()) {
            if Instant::now() > deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        true
    }
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    handler: Arc<Handler>,
    seen: Arc<Seen>,
) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, handler, seen) = (tls.clone(), Arc::clone(&handler), Arc::clone(&seen));
        connections.spawn(async move {
            seen.open.fetch_add(1, Ordering::SeqCst);
            // A client that goes away is none of our business.
            match tls {
                None => drop(serve(stream, &*handler, &seen).await),
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        let _ = serve(stream, &*handler, &seen).await;
                    }
                }
            }
            seen.open.fetch_sub(1, Ordering::SeqCst);
        });
        // Those that have ended need no room.
        while connections.try_join_next().is_some() {}
    }
}

/// One request after the other.
async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    handler: &Handler,
    seen: &Seen,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream).await? {
        let answer = handler(&request);
        seen.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        match answer {
            Answer::Whole(head, body) => {
                let length = body.len();
                let head = format!("HTTP/1.1 {head}Content-Length: {length}\r\n\r\n");
                stream.write_all(head.as_bytes()).await?;
                stream.write_all(&body).await?;
            }
            Answer::Chunks(chunks) => {
                let mut text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
                for chunk in chunks.iter().chain(&[""]) {
                    text.push_str(&format!("{:x}\r\n{chunk}\r\n", chunk.len()));
                }
                stream.write_all(text.as_bytes()).await?;
            }
            Answer::Echo => {
                let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
                stream.write_all(head.as_bytes()).await?;
                let mut piece = [0; 1024];
                loop {
                    stream.flush().await?;
                    match stream.read(&mut piece).await? {
                        0 => return Ok(()),
                        length => stream.write_all(&piece[..length]).await?,
                    }
                }
            }
            Answer::Hang => {
                return tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.map(drop);
            }
            Answer::Drip => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n").await?;
                loop {
                    stream.write_all(b".").await?;
                    stream.flush().await?;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        stream.flush().await?;
    }
    stream.shutdown().await
}

/// The next request; `None` if there is no more.
async fn read(
    stream: &mut BufReader<impl AsyncRead + AsyncWrite + Unpin>,
) -> std::io::Result<Option<Request>> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await? == 0 {
            return Ok(None);
        }
    }
    let mut lines = head.lines();
    let line = lines.next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut request = Request { line, head, headers, body: String::new() };
    let mut body = Vec::new();
    if request.header("transfer-encoding") == "chunked" {
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await?;
            let size = u64::from_str_radix(line.trim(), 16).unwrap_or(0);
            (&mut *stream).take(size).read_to_end(&mut body).await?;
            stream.read_line(&mut line).await?;
            if size == 0 {
                break;
            }
        }
    } else {
        let length = request.header("content-length").parse().unwrap_or(0);
        (&mut *stream).take(length).read_to_end(&mut body).await?;
    }
    request.body = String::from_utf8_lossy(&body).into_owned();
    Ok(Some(request))
}
