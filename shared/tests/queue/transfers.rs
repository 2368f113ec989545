//! Files through Redis: whole or not at all, little of them at a time, and no side left hanging.

use std::cell::Cell;
use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use shared::error::{Error, ErrorCode};
use shared::id::{TenantId, TransferId};
use shared::redis::{Queue, Transfer, TransferReceiver, TransferSender};
use tokio::time::{sleep, timeout};

use crate::harness::{PERMANENT, Redis, SOON};

const CHUNK: usize = 512 << 10;
const WINDOW: usize = 4 << 20;

async fn queue(redis: &Redis) -> Queue {
    Queue::connect(&redis.config()).await.unwrap()
}

fn both(queue: &Queue) -> (Transfer, Transfer) {
    let (tenant, id) = (TenantId::new("acme"), TransferId::generate());
    (queue.transfer(&tenant, id), queue.transfer(&tenant, id))
}

async fn ends(queue: &Queue) -> (TransferSender, TransferReceiver) {
    let (one, other) = both(queue);
    (one.sender(SOON).await.unwrap(), other.receiver(SOON).await.unwrap())
}

fn zeros(length: usize) -> Bytes {
    vec![0; length].into()
}

/// Bytes that differ from piece to piece.
fn piece(number: usize, length: usize) -> Bytes {
    let mut bytes = Sha256::digest(number.to_be_bytes()).to_vec();
    bytes.resize(length, 7);
    bytes.into()
}

async fn receive(receiver: &mut TransferReceiver) -> Result<(usize, Vec<u8>), Error> {
    let (mut size, mut hash) = (0, Sha256::new());
    while let Some(bytes) = receiver.next().await? {
        size += bytes.len();
        hash.update(&bytes);
    }
    Ok((size, hash.finalize().to_vec()))
}

/// Sends until it fails.
async fn send_on(sender: &mut TransferSender) -> Error {
    loop {
        if let Err(error) = sender.send(zeros(CHUNK)).await {
            return error;
        }
    }
}

fn expect_failure(error: &Error, words: &str) {
    assert_eq!(error.code(), ErrorCode::FileFailed, "{error}");
    assert!(error.message().contains(words), "{error}");
}

#[tokio::test]
async fn a_large_file_arrives_whole_and_little_of_it_is_in_redis() {
    const SIZE: usize = 100 << 20;
    let redis = Redis::as_served();
    let queue = queue(&redis).await;
    let used = || -> u64 {
        let info: String = redis.run(&["INFO", "memory"]);
        info.lines().find_map(|it| it.strip_prefix("used_memory:")).unwrap().parse().unwrap()
    };
    let before = used();
    let (mut sender, mut receiver) = ends(&queue).await;
    let send = async {
        let (mut sent, mut hash, mut number) = (0, Sha256::new(), 0);
        while sent < SIZE {
            // Odd sizes, up to more than a chunk.
            let length = [40, 16_384, 65_001, 1_400_003][number % 4].min(SIZE - sent);
            let bytes = piece(number, length);
            hash.update(&bytes);
            sender.send(bytes).await.unwrap();
            sent += length;
            number += 1;
        }
        sender.finish().await.unwrap();
        hash.finalize().to_vec()
    };
    let is_over = Cell::new(false);
    let pass = async {
        let started = Instant::now();
        let (sent, received) = tokio::join!(send, receive(&mut receiver));
        is_over.set(true);
        eprintln!("{:.0} MB/s", SIZE as f64 / 1e6 / started.elapsed().as_secs_f64());
        assert_eq!(received.unwrap(), (SIZE, sent));
    };
    let watch = async {
        let mut most = 0;
        while !is_over.get() {
            most = most.max(used());
            sleep(Duration::from_millis(5)).await;
        }
        most
    };
    let ((), most) = tokio::join!(pass, watch);
    assert!(most > before, "the file did not pass under this watch");
    eprintln!("{:.1} MiB more than before", (most - before) as f64 / f64::from(1 << 20));
    assert!(most - before < 16 << 20, "{} bytes", most - before);
    assert!(receiver.next().await.unwrap().is_none(), "the end stays the end");
    assert_eq!(redis.keys(), PERMANENT);
}

#[tokio::test]
async fn an_empty_file_arrives() {
    let redis = Redis::start();
    let (sender, mut receiver) = ends(&queue(&redis).await).await;
    let (finished, received) = tokio::join!(sender.finish(), receive(&mut receiver));
    finished.unwrap();
    assert_eq!(received.unwrap().0, 0);
    assert_eq!(redis.keys(), PERMANENT);
}

#[tokio::test]
async fn nothing_lies_in_redis_before_somebody_takes_it_and_a_window_at_most_while_nobody_does() {
    let redis = Redis::start();
    let (one, other) = both(&queue(&redis).await);
    let mut sender = one.sender(SOON).await.unwrap();
    let early = timeout(Duration::from_millis(200), sender.send(zeros(2 * CHUNK))).await;
    assert!(early.is_err(), "it waits for the receiver");
    assert_eq!(redis.keys(), PERMANENT);
    drop(sender);

    let mut receiver = other.receiver(SOON).await.unwrap();
    expect_failure(&receiver.next().await.unwrap_err(), "went away");

    let (mut sender, mut receiver) = ends(&queue(&redis).await).await;
    let mut sending = pin!(send_on(&mut sender));
    let first = tokio::select! {
        error = &mut sending => panic!("{error}"),
        first = receiver.next() => first,
    };
    assert_eq!(first.unwrap().unwrap().len(), CHUNK);
    let key = || redis.keys().into_iter().find(|key| key.ends_with(":data"));
    let chunks = || key().map_or(0, |data| redis.run::<usize>(&["LLEN", &data]));
    let is_full = async {
        // All but the one that was taken, unacknowledged.
        while chunks() < WINDOW / CHUNK - 1 {
            sleep(Duration::from_millis(5)).await;
        }
        // And no more comes.
        sleep(Duration::from_millis(200)).await;
    };
    tokio::select! {
        error = &mut sending => panic!("{error}"),
        filled = timeout(SOON, is_full) => filled.expect("a window's worth is sent"),
    }
    assert_eq!(chunks(), WINDOW / CHUNK - 1);
    let data = key().unwrap();
    assert!(redis.run::<i64>(&["PTTL", &data]) > 0);
}

#[tokio::test]
async fn a_receiver_that_gives_up_stops_the_sender_and_says_why() {
    let redis = Redis::start();
    let (mut sender, mut receiver) = ends(&queue(&redis).await).await;
    let (sent, received) = tokio::join!(sender.send(zeros(CHUNK)), receiver.next());
    sent.unwrap();
    received.unwrap();
    receiver.abort("no space left").await.unwrap();
    let failed = timeout(SOON, send_on(&mut sender)).await.unwrap();
    expect_failure(&failed, "no space left");
    drop(sender);

    let (mut sender, mut receiver) = ends(&queue(&redis).await).await;
    let (sent, received) = tokio::join!(sender.send(zeros(CHUNK)), receiver.next());
    sent.unwrap();
    received.unwrap();
    // In the middle of a blocking read, at that.
    assert!(timeout(Duration::from_millis(50), receiver.next()).await.is_err());
    drop(receiver);
    let failed = timeout(SOON, send_on(&mut sender)).await.unwrap();
    expect_failure(&failed, "went away");
    drop(sender);

    let (sender, receiver) = ends(&queue(&redis).await).await;
    drop(receiver);
    let failed = timeout(SOON, sender.finish()).await.unwrap().unwrap_err();
    expect_failure(&failed, "went away");
    redis.assert_nothing_left();
}

#[tokio::test]
async fn a_sender_that_gives_up_stops_the_receiver_and_says_why() {
    let redis = Redis::start();
    let (mut sender, mut receiver) = ends(&queue(&redis).await).await;
    let (sent, received) = tokio::join!(sender.send(zeros(CHUNK)), receiver.next());
    sent.unwrap();
    received.unwrap();
    // What is on its way does not count any more.
    sender.send(zeros(3 * CHUNK)).await.unwrap();
    sender.abort("the client hung up").await.unwrap();
    let failed = timeout(SOON, receive(&mut receiver)).await.unwrap().unwrap_err();
    expect_failure(&failed, "the client hung up");

    let (sender, mut receiver) = ends(&queue(&redis).await).await;
    let leave = async {
        sleep(Duration::from_millis(100)).await;
        drop(sender);
    };
    let ((), failed) = tokio::join!(leave, timeout(SOON, receive(&mut receiver)));
    expect_failure(&failed.unwrap().unwrap_err(), "went away");
    drop(receiver);
    redis.assert_nothing_left();
}

#[tokio::test]
async fn a_side_that_never_comes_is_not_waited_for_longer_than_asked() {
    let redis = Redis::start();
    let queue = queue(&redis).await;
    let patience = Duration::from_millis(300);
    let sender = both(&queue).0.sender(patience).await.unwrap();
    let failed = timeout(SOON, sender.finish()).await.unwrap().unwrap_err();
    expect_failure(&failed, "silent");
    let mut receiver = both(&queue).0.receiver(patience).await.unwrap();
    let failed = timeout(SOON, receiver.next()).await.unwrap().unwrap_err();
    expect_failure(&failed, "silent");
    drop(receiver);
    queue.quiesce().await;
    redis.assert_nothing_left();
}

#[tokio::test]
async fn a_dropped_next_loses_nothing() {
    let redis = Redis::start();
    let (mut sender, mut receiver) = ends(&queue(&redis).await).await;
    let send = async {
        for number in 0..40 {
            sender.send(piece(number, CHUNK)).await.unwrap();
        }
        sender.finish().await.unwrap();
    };
    let receive = async {
        let mut number = 0;
        let mut patience = 1;
        loop {
            patience = patience * 7 % 1009;
            match timeout(Duration::from_micros(patience), receiver.next()).await {
                Err(_) => {}
                Ok(Ok(Some(bytes))) => {
                    assert_eq!(bytes, piece(number, CHUNK));
                    number += 1;
                }
                Ok(Ok(None)) => return number,
                Ok(Err(error)) => panic!("{error}"),
            }
        }
    };
    let ((), pieces) = tokio::join!(send, receive);
    assert_eq!(pieces, 40);
}

#[tokio::test]
async fn a_redis_that_goes_away_ends_a_transfer() {
    let mut redis = Redis::start();
    let (mut sender, mut receiver) = ends(&queue(&redis).await).await;
    let (sent, received) = tokio::join!(sender.send(zeros(CHUNK)), receiver.next());
    sent.unwrap();
    received.unwrap();
    redis.stop();
    let failed = timeout(SOON, send_on(&mut sender)).await.unwrap();
    assert_eq!(failed.code(), ErrorCode::QueueUnavailable);
    let failed = timeout(SOON, receiver.next()).await.unwrap().unwrap_err();
    assert_eq!(failed.code(), ErrorCode::QueueUnavailable);
}
