//! Sockets whose client, gateway or Redis misbehaves.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::harness::{Harness, KEY, RUNNING};
use crate::socket::{Socket, complaint, exit, out};

const PATIENCE: Duration = Duration::from_secs(60);

async fn harness() -> Harness {
    let mut harness = Harness::without_worker(|_| {}).await;
    harness.add_streamer().await;
    harness
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_job() {
    let harness = harness().await;
    for is_polite in [true, false] {
        let mut socket = Socket::open(&harness).await;
        socket.execute("out a;hang").await;
        assert_eq!(socket.event().await, out("a"));
        if is_polite {
            socket.0.close(None).await.unwrap();
        }
        drop(socket);
        harness.becomes(RUNNING, 0.0).await;
        harness.becomes("isol8_streams_open", 0.0).await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_answer_is_given_up() {
    let mut harness = Harness::without_worker(|config| config.gateway.heartbeat_ms = 500).await;
    harness.add_streamer().await;
    // One that answers pings stays,
    let mut lively = Socket::open(&harness).await;
    lively.execute("wait 3000;out a").await;
    assert_eq!(lively.completion().await, [out("a"), exit("0")]);
    // one that does not even read is gone.
    let mut mute = Socket::open(&harness).await;
    mute.execute("out b;hang").await;
    assert_eq!(mute.event().await, out("b"));
    harness.becomes(RUNNING, 0.0).await;
    harness.becomes("isol8_streams_open", 0.0).await;
    drop(mute);
}

/// Sends what is no WebSocket after a proper upgrade, and reads to the end.
async fn raw(address: SocketAddr, frames: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "GET /execute/ws HTTP/1.1\r\nhost: x\r\nauthorization: {KEY}\r\nconnection: upgrade\r\n\
         upgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(frames).await.unwrap();
    let mut answer = Vec::new();
    // A reset is an end as well.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it ends");
    answer
}

#[tokio::test]
async fn malformed_frames_end_the_conversation_and_nothing_else() {
    let mut harness = Harness::without_worker(|config| config.gateway.max_body_bytes = 1000).await;
    harness.add_streamer().await;
    let ping = [&b"\x89\xfe\x01\x00\0\0\0\0"[..], [b' '; 256].as_slice()].concat();
    let too_long = [&[0x81, 0xfe, 0x10, 0x00, 0, 0, 0, 0], [b' '; 4096].as_slice()].concat();
    for frames in [
        // Not masked, reserved bits, unknown operation, text that is no UTF-8, a long ping.
        &b"\x81\x02{}"[..],
        b"\xf1\x80\0\0\0\0",
        b"\x83\x80\0\0\0\0",
        b"\x81\x82\0\0\0\0\xff\xfe",
        &ping,
        &too_long,
    ] {
        let answer = raw(harness.address, frames).await;
        let text = String::from_utf8_lossy(&answer);
        assert!(text.starts_with("HTTP/1.1 101 "), "{text}");
        assert!(text.contains(r#""type":"error""#), "no last word for {:x?}: {text}", &frames[..2]);
    }
    harness.becomes("isol8_streams_open", 0.0).await;
    let mut socket = Socket::open(&harness).await;
    socket.execute("out a").await;
    assert_eq!(socket.completion().await, [out("a"), exit("0")]);
}

#[tokio::test]
async fn a_gateway_that_goes_closes_idle_sockets_at_once_and_others_in_time() {
    let mut harness =
        Harness::without_worker(|config| config.gateway.shutdown_grace_ms = 300).await;
    harness.add_streamer().await;
    let mut idle = Socket::open(&harness).await;
    let mut busy = Socket::open(&harness).await;
    busy.execute("out a;hang").await;
    assert_eq!(busy.event().await, out("a"));
    harness.token.cancel();
    let (events, code, _) = idle.rest().await;
    assert_eq!((events, code), (vec![complaint("This gateway is shutting down")], 1001));
    let events = busy.completion().await;
    assert_eq!(events.len(), 1);
    assert!(events[0]["data"].as_str().unwrap().contains("shutting down"), "{events:?}");
    harness.ended().await;
}

#[tokio::test]
async fn a_socket_outlives_a_restart_of_redis() {
    let mut harness = harness().await;
    let mut socket = Socket::open(&harness).await;
    socket.execute("out a;wait 700;out b").await;
    assert_eq!(socket.event().await, out("a"));
    harness.redis.stop();
    sleep(Duration::from_millis(300)).await;
    harness.redis.start_again();
    assert_eq!(socket.completion().await, [out("b"), exit("0")]);
}
