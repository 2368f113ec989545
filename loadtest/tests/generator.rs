//! The generator against stub servers: what is asserted are counts, never timings.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use loadtest::connection::Target;
use loadtest::floors::http::{RIGHT_ANSWER, StubServer};
use loadtest::generate::{Load, Shape, run};
use loadtest::measurement::Summary;
use loadtest::scenario::by_name;
use loadtest::schedule::Arrivals;

fn right() -> (StatusCode, Bytes) {
    (StatusCode::OK, Bytes::from_static(RIGHT_ANSWER.as_bytes()))
}

async fn offer(server: &StubServer, scenario: &str, load: Load) -> Summary {
    let target = Target::new(&server.url(), "key").expect("the server's URL is one");
    let scenario = by_name(scenario).expect("the scenario exists");
    run(&target, scenario, load).await.expect("the load makes sense")
}

fn jobs(connections: usize, jobs: u64) -> Load {
    let mut load = Load::closed(connections, Duration::ZERO, Duration::from_secs(30));
    load.shape = Shape::Closed { connections, jobs: Some(jobs) };
    load
}

#[tokio::test]
async fn closed_loop_sends_exactly_the_jobs_asked_for() {
    let received = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&received);
    let server = StubServer::with_handler(Arc::new(move |_, _: &[u8]| {
        counter.fetch_add(1, Ordering::Relaxed);
        right()
    }))
    .unwrap();
    let summary = offer(&server, "python-hello", jobs(8, 500)).await;
    assert_eq!(received.load(Ordering::Relaxed), 500);
    assert_eq!(summary.completed, 500);
    assert!(summary.is_clean(), "{summary}");
}

#[tokio::test]
async fn every_kind_of_wrong_answer_is_counted_apart_and_never_as_success() {
    let server = StubServer::with_handler(Arc::new(|number, _: &[u8]| match number % 5 {
        0 => right(),
        1 => (StatusCode::SERVICE_UNAVAILABLE, Bytes::from_static(b"{\"error\":\"full\"}")),
        2 => (StatusCode::OK, Bytes::from_static(b"{\"stdout\":\"\",\"exitCode\":137}")),
        3 => (StatusCode::OK, Bytes::from_static(b"{\"stdout\":\"hell\",\"exitCode\":0}")),
        _ => (StatusCode::OK, Bytes::from_static(b"surprise")),
    }))
    .unwrap();
    let summary = offer(&server, "python-hello", jobs(1, 100)).await;
    assert_eq!((summary.completed, summary.failed), (20, 80));
    for kind in ["HTTP status 503", "exit code 137", "wrong output", "not an execution result"] {
        assert_eq!(summary.failures[kind].count, 20, "{kind}");
    }
    assert!(summary.failures["HTTP status 503"].example.contains("full"));
    assert!(!summary.is_clean());
}

#[tokio::test]
async fn open_loop_sends_its_whole_schedule() {
    let server = StubServer::start().unwrap();
    for arrivals in [Arrivals::Fixed, Arrivals::Poisson { seed: 3 }] {
        let rate = 200.0;
        let length = Duration::from_millis(500);
        let mut load = Load::open(rate, Duration::ZERO, length);
        load.shape =
            Shape::Open { rate, arrivals, max_in_flight: 16, shed_after: Duration::from_secs(60) };
        let expected = loadtest::schedule::starts(arrivals, rate, length).unwrap().len() as u64;
        let summary = offer(&server, "bash-hello", load).await;
        assert_eq!(summary.completed, expected);
        assert!(summary.start_lag_ms.is_some());
        assert!(summary.is_clean(), "{summary}");
    }
}

#[tokio::test]
async fn overload_of_the_open_loop_is_shed_and_told() {
    let server = StubServer::with_handler(Arc::new(|_, _: &[u8]| {
        std::thread::sleep(Duration::from_millis(20));
        right()
    }))
    .unwrap();
    let mut load = Load::open(1000.0, Duration::ZERO, Duration::from_millis(300));
    load.shape = Shape::Open {
        rate: 1000.0,
        arrivals: Arrivals::Fixed,
        max_in_flight: 2,
        shed_after: Duration::from_millis(50),
    };
    let summary = offer(&server, "python-hello", load).await;
    assert!(summary.shed > 0, "{summary}");
    assert_eq!(summary.completed + summary.shed, 300, "every intended start is accounted for");
    assert!(!summary.is_clean());
}

#[tokio::test]
async fn stalls_count_from_the_intended_start() {
    // One connection, one stall of 300 ms: a closed loop would see a single slow answer.
    let server = StubServer::with_handler(Arc::new(|number, _: &[u8]| {
        if number == 10 {
            std::thread::sleep(Duration::from_millis(300));
        }
        right()
    }))
    .unwrap();
    let mut load = Load::open(100.0, Duration::ZERO, Duration::from_millis(500));
    load.shape = Shape::Open {
        rate: 100.0,
        arrivals: Arrivals::Fixed,
        max_in_flight: 1,
        shed_after: Duration::from_secs(60),
    };
    let summary = offer(&server, "python-hello", load).await;
    assert_eq!(summary.completed, 50);
    // Ten of fifty starts fall into the first 100 ms of the stall: each waited 200 ms or more.
    assert!(summary.latency_ms.p90 >= 200.0, "{summary}");
}

#[tokio::test]
async fn cold_requests_differ_and_reported_cold_starts_are_counted() {
    let bodies = Arc::new(Mutex::new(HashSet::new()));
    let seen = Arc::clone(&bodies);
    let server = StubServer::with_handler(Arc::new(move |number, body: &[u8]| {
        seen.lock().unwrap().insert(body.to_vec());
        let answer = format!(
            r#"{{"stdout":"hello","exitCode":0,"timings":{{"cold":{}}}}}"#,
            number % 2 == 0
        );
        (StatusCode::OK, answer.into())
    }))
    .unwrap();
    let summary = offer(&server, "cold-python", jobs(4, 40)).await;
    assert_eq!(bodies.lock().unwrap().len(), 40);
    assert_eq!((summary.completed, summary.cold), (40, 20));
}

#[tokio::test]
async fn silence_times_out_and_a_dead_server_is_a_failure_to_connect() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target::new(&format!("http://{}", silent.local_addr().unwrap()), "key").unwrap();
    let scenario = by_name("python-hello").unwrap();
    let mut load = jobs(1, 2);
    load.answer_limit = Duration::from_millis(30);
    let summary = run(&target, scenario, load).await.unwrap();
    assert_eq!((summary.completed, summary.failures["timed out"].count), (0, 2));

    let gone = Target::new("http://127.0.0.1:1", "key").unwrap();
    let summary = run(&gone, scenario, jobs(1, 3)).await.unwrap();
    assert_eq!((summary.completed, summary.failures["cannot connect"].count), (0, 3));
}

#[tokio::test]
async fn a_server_that_closes_after_each_answer_still_gets_every_request() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await.unwrap();
            let head = format!(
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                RIGHT_ANSWER.len()
            );
            stream.write_all(format!("{head}{RIGHT_ANSWER}").as_bytes()).await.unwrap();
        }
    });
    let target = Target::new(&url, "key").unwrap();
    let summary = run(&target, by_name("python-hello").unwrap(), jobs(1, 20)).await.unwrap();
    assert_eq!(summary.completed, 20, "{summary}");
}
