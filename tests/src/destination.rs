//! A server on loopback for sandboxes to reach, or not to. It tells what it was asked, and can hang,
//! drip, or swallow, as servers do.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long connections may take to come or to go.
const LIMIT: Duration = Duration::from_secs(60);

/// The server; runs until the test's process ends.
pub struct Destination {
    address: SocketAddr,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<String>>,
    open: AtomicUsize,
}

impl Destination {
    /// Starts one on an address that no `NO_PROXY` for this machine covers.
    ///
    /// # Panics
    /// If it cannot listen.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.2:0").expect("loopback is there");
        let address = listener.local_addr().expect("it is bound");
        let seen = Arc::<Seen>::default();
        let all = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = Arc::clone(&all);
                thread::spawn(move || {
                    seen.open.fetch_add(1, Ordering::SeqCst);
                    // A client that goes away is none of our business.
                    let _ = serve(stream, &seen);
                    seen.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, seen }
    }

    /// `ADDRESS:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// A URL of it.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The heads of all requests so far.
    pub fn requests(&self) -> MutexGuard<'_, Vec<String>> {
        self.seen.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections that are open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.seen.open.load(Ordering::SeqCst)
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
        let is_quiet = self.becomes(|open| open == 0).await;
        assert!(is_quiet, "{} connections stay open", self.open());
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

fn serve(stream: TcpStream, seen: &Seen) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        seen.requests.lock().unwrap_or_else(PoisonError::into_inner).push(head.clone());
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let body = read_body(&head, &mut reader)?;
        match path.as_str() {
            "/hang" => return drain(&mut reader),
            "/drip" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")?;
                loop {
                    stream.write_all(b".")?;
                    thread::sleep(Duration::from_millis(50));
                }
            }
            "/switch" => {
                stream.write_all(
                    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n",
                )?;
                let mut chunk = [0; 1024];
                loop {
                    match reader.read(&mut chunk)? {
                        0 => return Ok(()),
                        count => stream.write_all(&chunk[..count])?,
                    }
                }
            }
            "/chunks" => stream.write_all(
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n",
            )?,
            _ => {
                let answer = format!("{path} {}", body.len());
                let length = answer.len();
                write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{answer}")?;
            }
        }
    }
}

fn drain(reader: &mut impl std::io::Read) -> std::io::Result<()> {
    std::io::copy(reader, &mut std::io::sink()).map(drop)
}

fn read_body(head: &str, reader: &mut BufReader<TcpStream>) -> std::io::Result<Vec<u8>> {
    let head = head.to_ascii_lowercase();
    let mut body = Vec::new();
    if head.contains("transfer-encoding: chunked") {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let size = u64::from_str_radix(line.trim(), 16).unwrap_or(0);
            reader.by_ref().take(size).read_to_end(&mut body)?;
            reader.read_line(&mut String::new())?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length = length.and_then(|length| length.parse().ok()).unwrap_or(0);
    reader.by_ref().take(length).read_to_end(&mut body)?;
    Ok(body)
}
