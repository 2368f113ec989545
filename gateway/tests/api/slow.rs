//! Clients that are slow, or too many: ended, told, or turned away, while others are served.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use shared::config::Config;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::harness::{Harness, KEY, SOON, send};

const STEP: Duration = Duration::from_millis(50);
const HEALTH: &str = "GET /health HTTP/1.1\r\nhost: x\r\n\r\n";

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

/// Reads one answer without a length of its own in mind: whatever comes first.
async fn read_some(stream: &mut TcpStream) -> String {
    let mut buffer = vec![0; 4096];
    let read = timeout(SOON, stream.read(&mut buffer)).await.expect("an answer was due");
    String::from_utf8_lossy(&buffer[..read.unwrap_or(0)]).into_owned()
}

/// Waits until the gateway closes a connection; what it said before.
async fn until_closed(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    // A reset is an end too: what was sent meanwhile was not read.
    let _ = timeout(SOON, stream.read_to_end(&mut said)).await.expect("it is closed in time");
    String::from_utf8_lossy(&said).into_owned()
}

async fn is_served(harness: &Harness) {
    assert_eq!(send(harness.request(Method::GET, "/sessions")).await.status, 200);
}

fn quick_heads(config: &mut Config) {
    config.gateway.head_timeout_ms = 300;
    config.gateway.idle_timeout_ms = 2000;
}

#[tokio::test]
async fn heads_that_trickle_are_ended_while_others_are_served() {
    let harness = Harness::without_worker(quick_heads).await;
    let mut slow = Vec::new();
    for _ in 0..64 {
        let mut stream = connect(harness.address).await;
        stream.write_all(b"GET /health HTTP/1.1\r\n").await.unwrap();
        slow.push(stream);
    }
    let mut silent = connect(harness.address).await;
    // More comes, and it does not help.
    for number in 0..8 {
        for stream in &mut slow {
            let _ = stream.write_all(format!("x-{number}: 1\r\n").as_bytes()).await;
        }
        is_served(&harness).await;
        sleep(STEP).await;
    }
    for stream in &mut slow {
        assert_eq!(until_closed(stream).await, "");
    }
    assert_eq!(until_closed(&mut silent).await, "", "one that says nothing at all");
}

#[tokio::test]
async fn a_connection_is_kept_alive_for_longer_than_a_head_may_take_but_not_for_ever() {
    let harness = Harness::without_worker(quick_heads).await;
    let mut stream = connect(harness.address).await;
    for _ in 0..2 {
        stream.write_all(HEALTH.as_bytes()).await.unwrap();
        assert!(read_some(&mut stream).await.starts_with("HTTP/1.1 200"));
        sleep(Duration::from_millis(700)).await;
    }
    // A second head that trickles has no more time than the first one.
    stream.write_all(b"GET /health HTTP/1.1\r\n").await.unwrap();
    assert_eq!(until_closed(&mut stream).await, "");

    let mut idle = connect(harness.address).await;
    idle.write_all(HEALTH.as_bytes()).await.unwrap();
    assert!(read_some(&mut idle).await.starts_with("HTTP/1.1 200"));
    assert_eq!(until_closed(&mut idle).await, "");
    is_served(&harness).await;
}

fn slow_bodies(config: &mut Config) {
    config.gateway.stall_timeout_ms = 400;
    config.gateway.min_bytes_per_second = 200;
}

#[tokio::test]
async fn a_body_that_trickles_is_refused_and_one_that_is_only_slow_is_not() {
    let harness = Harness::without_worker(slow_bodies).await;
    let body = json!({"request": {"runtime": "bash", "code": "true"}}).to_string();
    let head = |length: usize| {
        format!(
            "POST /v1/jobs HTTP/1.1\r\nhost: x\r\nauthorization: {KEY}\r\ncontent-length: {length}\r\n\r\n"
        )
    };

    // Twenty bytes a second, where there are to be two hundred.
    let mut trickle = connect(harness.address).await;
    trickle.write_all(head(100_000).as_bytes()).await.unwrap();
    let (mut reading, mut writing) = trickle.split();
    let feeding = async {
        while writing.write_all(b" ").await.is_ok() {
            sleep(STEP).await;
        }
    };
    let answer = async {
        let mut said = vec![0; 4096];
        let read = timeout(SOON, reading.read(&mut said)).await.expect("an answer was due");
        String::from_utf8_lossy(&said[..read.unwrap()]).into_owned()
    };
    let said = tokio::select! {
        said = answer => said,
        () = feeding => panic!("closed without a word"),
    };
    assert!(said.starts_with("HTTP/1.1 400") && said.contains("too slowly"), "{said}");
    is_served(&harness).await;

    // Over a second in all, but fast enough.
    let padding = 1200;
    let mut slow = connect(harness.address).await;
    slow.write_all(head(body.len() + padding).as_bytes()).await.unwrap();
    for _ in 0..padding / 40 {
        slow.write_all(&[b' '; 40]).await.unwrap();
        sleep(STEP).await;
    }
    slow.write_all(body.as_bytes()).await.unwrap();
    let said = read_some(&mut slow).await;
    assert!(said.starts_with("HTTP/1.1 202"), "{said}");
}

#[tokio::test]
async fn an_upload_of_a_batch_that_stops_is_refused() {
    let harness = Harness::without_worker(slow_bodies).await;
    let mut stream = connect(harness.address).await;
    let head = format!(
        "POST /v1/batches HTTP/1.1\r\nhost: x\r\nauthorization: {KEY}\r\n\
         content-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let line = "{\"request\":{\"runtime\":\"bash\",\"code\":\"true\"}}\n";
    stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).await.unwrap();
    let said = read_some(&mut stream).await;
    assert!(said.starts_with("HTTP/1.1 400") && said.contains("too slowly"), "{said}");
    is_served(&harness).await;
}

#[tokio::test]
async fn whoever_does_not_take_its_answers_is_cut_off() {
    let harness = Harness::without_worker(|config| config.gateway.stall_timeout_ms = 400).await;
    let mut stream = connect(harness.address).await;
    SockRef::from(&stream).set_recv_buffer_size(4096).unwrap();
    let requests = HEALTH.repeat(1000);
    // Until the gateway, which cannot get rid of its answers, reads no more; and then until it gives up.
    let ended = async { while stream.write_all(requests.as_bytes()).await.is_ok() {} };
    timeout(SOON, ended).await.expect("it is cut off");
    is_served(&harness).await;
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_is_told_when_it_has_more() {
    let harness =
        Harness::without_worker(|config| config.gateway.max_connections_per_address = 3).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut stream = connect(harness.address).await;
        stream.write_all(HEALTH.as_bytes()).await.unwrap();
        assert!(read_some(&mut stream).await.starts_with("HTTP/1.1 200"));
        open.push(stream);
    }
    let said = until_closed(&mut connect(harness.address).await).await;
    assert!(said.starts_with("HTTP/1.1 429") && said.contains("TOO_MANY_CONNECTIONS"), "{said}");
    let (head, body) = said.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("content-length: {}", body.len())), "{said}");
    serde_json::from_str::<serde_json::Value>(body).unwrap();

    drop(open.pop());
    let served = async {
        loop {
            let mut stream = connect(harness.address).await;
            stream.write_all(HEALTH.as_bytes()).await.unwrap();
            if read_some(&mut stream).await.starts_with("HTTP/1.1 200") {
                break;
            }
            sleep(STEP).await;
        }
    };
    timeout(SOON, served).await.expect("its place is free again");
}

#[tokio::test]
async fn connections_of_trusted_proxies_are_not_counted() {
    let harness = Harness::without_worker(|config| {
        config.gateway.max_connections_per_address = 1;
        config.gateway.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    let mut open = Vec::new();
    for _ in 0..4 {
        let mut stream = connect(harness.address).await;
        stream.write_all(HEALTH.as_bytes()).await.unwrap();
        assert!(read_some(&mut stream).await.starts_with("HTTP/1.1 200"));
        open.push(stream);
    }
}
