#![allow(clippy::all, dead_code, warnings)]
#[path = "api/harness.rs"] mod harness;
#[path = "api/redis.rs"] mod redis;
#[path = "api/worker.rs"] mod worker;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
const BODY: &str = r#"{"request":{"runtime":"bash","code":"print hello","timeoutMs":30000}}"#;
async fn one(s: &mut TcpStream, req: &[u8], buf: &mut [u8]) {
    s.write_all(req).await.unwrap();
    let mut n = 0;
    loop {
        n += s.read(&mut buf[n..]).await.unwrap();
        let t = std::str::from_utf8(&buf[..n]).unwrap();
        if let Some(h) = t.find("\r\n\r\n") {
            assert!(t.starts_with("HTTP/1.1 200"), "{t}");
            let l: usize = t[..h].lines().find_map(|l| l.strip_prefix("content-length: ")).unwrap().parse().unwrap();
            if n >= h + 4 + l { return; }
        }
    }
}
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bench() {
    let mut h = harness::Harness::without_worker(|_| {}).await;
    println!("{}", h.redis.command("CONFIG SET appendonly no"));
    h.add_worker().await;
    let req = format!("POST /execute HTTP/1.1\r\nhost: x\r\nauthorization: Bearer test-key\r\ncontent-length: {}\r\n\r\n{BODY}", BODY.len()).into_bytes();
    for round in 0..2 {
        let mut s = TcpStream::connect(h.address).await.unwrap(); s.set_nodelay(true).unwrap();
        let mut buf = vec![0; 65536];
        let mut t = Vec::new();
        for _ in 0..3000 { let a = Instant::now(); one(&mut s, &req, &mut buf).await; t.push(a.elapsed()); }
        t.sort();
        println!("sequential p50 {:?} p99 {:?} max {:?}", t[1500], t[2970], t[2999]);
    }
    for c in [16, 64] {
        let mut set = tokio::task::JoinSet::new();
        let a = Instant::now();
        for _ in 0..c { let (addr, req) = (h.address, req.clone()); set.spawn(async move {
            let mut s = TcpStream::connect(addr).await.unwrap(); s.set_nodelay(true).unwrap();
            let mut buf = vec![0; 65536]; let mut n = 0; let mut worst = Duration::ZERO;
            while a.elapsed() < Duration::from_secs(4) { let b = Instant::now(); one(&mut s, &req, &mut buf).await; worst = worst.max(b.elapsed()); n += 1; }
            (n, worst)
        }); }
        let r = set.join_all().await;
        println!("{c} connections: {:.0}/s worst {:?}", r.iter().map(|r| r.0).sum::<u32>() as f64 / a.elapsed().as_secs_f64(), r.iter().map(|r| r.1).max());
    }
    println!("looks {}", h.metric("isol8_execute_looks_total").await);
}
