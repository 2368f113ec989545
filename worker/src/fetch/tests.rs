//! Against servers on loopback that answer whatever the test wants, through resolvers that lie.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use shared::config::{RemoteCode, TenantPolicy};
use shared::execution::{Admission, ExecuteEnvelope, ExecutionRequest};
use shared::net::{Lookup, Turn};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;

const HELLO: &str = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nprint(1)";

/// A server that sends one text per connection, then keeps silent. Counts its visitors.
struct Server {
    address: SocketAddr,
    visits: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

impl Server {
    async fn start(answer: impl Into<Vec<u8>>) -> Self {
        Self::start_on("127.0.0.1", answer).await
    }

    async fn start_on(host: &str, answer: impl Into<Vec<u8>>) -> Self {
        let listener = TcpListener::bind((host, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (answer, visits) = (Arc::new(answer.into()), Arc::new(AtomicUsize::new(0)));
        let seen = Arc::clone(&visits);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut connection, _)) = listener.accept().await {
                seen.fetch_add(1, Ordering::SeqCst);
                let answer = Arc::clone(&answer);
                connections.spawn(async move {
                    let mut request = [0; 4096];
                    let _ = connection.read(&mut request).await;
                    let _ = connection.write_all(&answer).await;
                    // Ends when the other side does.
                    while connection.read(&mut request).await.is_ok_and(|read| read > 0) {}
                });
            }
        });
        Self { address, visits, _serving: serving }
    }

    fn url(&self, host: &str) -> String {
        format!("http://{host}:{}/main.py?token=hush", self.address.port())
    }

    fn visits(&self) -> usize {
        self.visits.load(Ordering::SeqCst)
    }
}

/// Answers from a list, the last of them for ever.
struct Script(Mutex<Vec<&'static str>>);

impl Lookup for Script {
    fn lookup<'a>(&'a self, _: &'a str, _: Turn) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        let mut answers = self.0.lock().unwrap();
        let answer = if answers.len() > 1 { answers.remove(0) } else { answers[0] };
        Box::pin(async move { Ok(answer.split(' ').map(|it| it.parse().unwrap()).collect()) })
    }
}

fn config(settings: RemoteCode, allowed: &str) -> Config {
    let mut config = Config {
        remote_code: RemoteCode {
            enabled: true,
            allowed_schemes: vec!["http".into(), "https".into()],
            blocked_hosts: Vec::new(),
            ..settings
        },
        ..Config::default()
    };
    config.policy.allow_private_addresses = vec![allowed.parse().unwrap()];
    config
}

fn resolver(answers: &[&'static str]) -> Resolver {
    Resolver::new(Script(Mutex::new(answers.to_vec())))
}

fn job(config: &Config, url: &str, hash: Option<&str>) -> Job {
    let request = ExecutionRequest {
        runtime: "python".into(),
        code_url: Some(url.into()),
        code_hash: hash.map(String::from),
        allow_insecure_code_url: true,
        ..ExecutionRequest::default()
    };
    let envelope = ExecuteEnvelope { request, ..ExecuteEnvelope::default() };
    Admission::new(config).unwrap().admit(&TenantId::master(), envelope).unwrap()
}

async fn fetch(config: &Config, fetcher: &Fetcher, url: &str) -> Result<String, JobError> {
    fetch_for(&TenantId::master(), fetcher, job(config, url, None)).await
}

async fn fetch_for(tenant: &TenantId, fetcher: &Fetcher, mut job: Job) -> Result<String, JobError> {
    fetcher.fetch(tenant, &mut job, &CancellationToken::new()).await?;
    let Source::Code { text, extension } = job.source else { panic!("still {:?}", job.source) };
    assert_eq!(extension, ".py");
    Ok(text)
}

/// What a server's answer comes to.
async fn outcome(settings: RemoteCode, answer: impl Into<Vec<u8>>) -> Result<String, JobError> {
    let server = Server::start(answer).await;
    let config = config(settings, "127.0.0.0/8");
    let fetcher = Fetcher::new(&config).unwrap();
    fetch(&config, &fetcher, &server.url("127.0.0.1")).await
}

fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

#[tokio::test]
async fn what_is_no_program_is_refused_in_the_contracts_words() {
    let small = || RemoteCode { max_code_size: 7, ..RemoteCode::default() };
    let slow = || RemoteCode { fetch_timeout_ms: 300, ..RemoteCode::default() };
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let too_large = "Remote code exceeds maxCodeSize (7 bytes)";
    let cases: [(RemoteCode, Vec<u8>, &str); 13] = [
        (small(), HELLO.into(), too_large),
        (small(), format!("{chunked}8\r\nprint(1)\r\n0\r\n\r\n").into(), too_large),
        (
            RemoteCode::default(),
            answer("404 Not Found", b"x"),
            "Failed to fetch remote code: HTTP 404",
        ),
        (RemoteCode::default(), answer("503 Later", b""), "Failed to fetch remote code: HTTP 503"),
        (
            RemoteCode::default(),
            answer("204 No Content", b""),
            "Remote code response body is empty",
        ),
        (RemoteCode::default(), answer("200 OK", b" \n"), "Remote code response body is empty"),
        (RemoteCode::default(), answer("200 OK", b"a\0b"), "appears to be binary content"),
        (RemoteCode::default(), answer("200 OK", b"\xff\xfe"), "appears to be binary content"),
        (RemoteCode::default(), answer("200 OK\r\nContent-Encoding: gzip", b"x"), "compressed"),
        (RemoteCode::default(), answer("302 Found", b""), "a redirect that leads nowhere"),
        // Cut short, silent, and a body that never ends.
        (RemoteCode::default(), "nonsense\r\n\r\n".into(), "Failed to fetch remote code: "),
        (slow(), Vec::new(), "Remote code fetch timed out after 300ms"),
        (slow(), format!("{chunked}1\r\np").into(), "Remote code fetch timed out after 300ms"),
    ];
    for (settings, answer, words) in cases {
        let shown = String::from_utf8_lossy(&answer).into_owned();
        let message = outcome(settings, answer).await.unwrap_err().to_string();
        assert!(message.contains(words), "{shown:?}: {message}");
        assert!(!message.contains("hush"), "{message}");
    }
    assert_eq!(outcome(RemoteCode::default(), HELLO).await.unwrap(), "print(1)");
    // Nobody listens there.
    let gone = "http://127.0.0.1:1/x.py";
    let config = config(RemoteCode::default(), "127.0.0.0/8");
    let refused = fetch(&config, &Fetcher::new(&config).unwrap(), gone).await.unwrap_err();
    let words = "Failed to fetch remote code: the server cannot be reached: Connection refused";
    assert_eq!(refused.to_string(), words);
}

#[tokio::test]
async fn the_hash_must_be_that_of_the_bytes() {
    let server = Server::start(HELLO).await;
    let config = config(RemoteCode::default(), "127.0.0.0/8");
    let fetcher = Fetcher::new(&config).unwrap();
    let url = server.url("127.0.0.1");
    let wrong = job(&config, &url, Some(&"ab".repeat(32)));
    let error = fetch_for(&TenantId::master(), &fetcher, wrong).await.unwrap_err();
    let JobError::Fetch(FetchError::HashMismatch { found }) = &error else { panic!("{error}") };
    assert!(error.to_string().starts_with("Remote code hash mismatch"), "{error}");
    assert_eq!(found, "d287bb7f9d15abdc5b6e98536263815744b6ef21c8f3c839fc434ca70d8efe99");
    let right = job(&config, &url, Some(&found.to_uppercase()));
    assert_eq!(fetch_for(&TenantId::master(), &fetcher, right).await.unwrap(), "print(1)");
}

/// Nothing may be dialled at 127.0.0.1, where a server listens: a hole would show as a visit.
fn only_the_second() -> Config {
    config(RemoteCode { enable_cache: false, ..RemoteCode::default() }, "127.0.0.2/32")
}

#[tokio::test]
async fn only_an_address_that_passed_is_dialled_whatever_a_name_says_next() {
    let forbidden = Server::start(HELLO).await;
    let config = only_the_second();
    for answers in [["127.0.0.1"], ["10.0.0.1 ::1 127.0.0.1"], ["::ffff:127.0.0.1"]] {
        let fetcher = Fetcher::with_resolver(&config, &resolver(&answers)).unwrap();
        let error = fetch(&config, &fetcher, &forbidden.url("a.example")).await.unwrap_err();
        let words = "Blocked code URL host: a.example (it leads to a ";
        assert!(error.to_string().starts_with(words), "{error}");
    }
    // First an address that passes, then one that does not: each answer is judged for itself, and
    // there is one look-up for one connection.
    let allowed = Server::start_on("127.0.0.2", HELLO).await;
    let rebinding = resolver(&["127.0.0.1 127.0.0.2", "127.0.0.1"]);
    let fetcher = Fetcher::with_resolver(&config, &rebinding).unwrap();
    let url = allowed.url("a.example");
    assert_eq!(fetch(&config, &fetcher, &url).await.unwrap(), "print(1)");
    assert!(fetch(&config, &fetcher, &url).await.is_err());
    assert_eq!((allowed.visits(), forbidden.visits()), (1, 0));
}

#[tokio::test]
async fn every_redirect_is_checked_like_the_address_itself() {
    let forbidden = Server::start(HELLO).await;
    let config = only_the_second();
    let fetcher = Fetcher::with_resolver(&config, &resolver(&["127.0.0.1"])).unwrap();
    for (location, words) in [
        (forbidden.url("127.0.0.1"), "Blocked code URL host: 127.0.0.1"),
        (forbidden.url("[::ffff:7f00:1]"), "it leads to a loopback address"),
        (forbidden.url("b.example"), "Blocked code URL host: b.example"),
        (forbidden.url("u:p@b.example"), "no user, no password"),
        ("file:///etc/passwd".into(), "URL scheme not allowed: file"),
        ("ftp://127.0.0.2/x".into(), "URL scheme not allowed: ftp"),
        ("/main.py".into(), "more than 5 redirects"),
        ("http://".into(), "a redirect that leads nowhere"),
    ] {
        let redirect = format!("302 Found\r\nLocation: {location}");
        let hop = Server::start_on("127.0.0.2", answer(&redirect, b"")).await;
        let error = fetch(&config, &fetcher, &hop.url("127.0.0.2")).await.unwrap_err();
        assert!(error.to_string().contains(words), "{location}: {error}");
    }
    assert_eq!(forbidden.visits(), 0);
    let target = Server::start_on("127.0.0.2", HELLO).await;
    let redirect = format!("307 Elsewhere\r\nLocation: {}", target.url("127.0.0.2"));
    let hop = Server::start_on("127.0.0.2", answer(&redirect, b"")).await;
    assert_eq!(fetch(&config, &fetcher, &hop.url("127.0.0.2")).await.unwrap(), "print(1)");
}

#[tokio::test]
async fn a_text_is_fetched_once_for_one_tenant_and_kept_only_where_it_may_be() {
    let mut config = config(RemoteCode::default(), "127.0.0.0/8");
    config.policy.tenants.insert("other".into(), TenantPolicy::default());
    let fetcher = Fetcher::new(&config).unwrap();
    let server = Server::start(HELLO).await;
    let url = server.url("127.0.0.1");
    let all = futures_util::future::join_all((0..8).map(|_| fetch(&config, &fetcher, &url))).await;
    assert!(all.into_iter().all(|text| text.unwrap() == "print(1)"));
    assert_eq!(server.visits(), 1);
    // Another tenant, and another hash, are other fetches.
    let theirs = job(&config, &url, None);
    fetch_for(&TenantId::new("other"), &fetcher, theirs).await.unwrap();
    assert_eq!(server.visits(), 2);
    let wrong = || job(&config, &url, Some(&"0".repeat(64)));
    for _ in 0..2 {
        fetch_for(&TenantId::master(), &fetcher, wrong()).await.unwrap_err();
    }
    assert_eq!(server.visits(), 4, "a failure was kept");

    let volatile = Server::start(answer("200 OK\r\nCache-Control: private, No-Store", b"1")).await;
    for _ in 0..2 {
        fetch(&config, &fetcher, &volatile.url("127.0.0.1")).await.unwrap();
    }
    assert_eq!(volatile.visits(), 2);
}

#[tokio::test]
async fn a_tenant_may_reach_other_addresses_than_the_rest() {
    let mut config = config(RemoteCode::default(), "10.0.0.0/8");
    let allowed = Some(vec!["127.0.0.0/8".parse().unwrap()]);
    let own = TenantPolicy { allow_private_addresses: allowed, ..TenantPolicy::default() };
    config.policy.tenants.insert("inside".into(), own);
    let server = Server::start(HELLO).await;
    let fetcher = Fetcher::with_resolver(&config, &resolver(&["127.0.0.1"])).unwrap();
    let job = job(&config, &server.url("a.example"), None);
    let text = fetch_for(&TenantId::new("inside"), &fetcher, job.clone()).await.unwrap();
    assert_eq!(text, "print(1)");
    fetch_for(&TenantId::new("outside"), &fetcher, job).await.unwrap_err();
    assert_eq!(server.visits(), 1);
}

#[tokio::test]
async fn nobody_waits_for_a_fetch_that_is_cancelled() {
    let server = Server::start("").await;
    let config = config(RemoteCode::default(), "127.0.0.0/8");
    let (fetcher, cancel) = (Fetcher::new(&config).unwrap(), CancellationToken::new());
    let mut job = job(&config, &server.url("127.0.0.1"), None);
    let tenant = TenantId::master();
    let (outcome, ()) = tokio::join!(fetcher.fetch(&tenant, &mut job, &cancel), async {
        while server.visits() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        cancel.cancel();
    });
    assert!(matches!(outcome, Err(JobError::Cancelled)), "{outcome:?}");
}
