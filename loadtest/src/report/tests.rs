//! What the table says for known measurements.

use std::time::Duration;

use super::*;
use crate::measurement::Measurement;

fn summary(latency_ms: u64, count: u32) -> Summary {
    let mut measurement = Measurement::default();
    for _ in 0..count {
        measurement.latencies.record(Duration::from_millis(latency_ms));
    }
    measurement.summary(Duration::from_secs(1), 5.0, Vec::new())
}

fn exec(latency_ms: u64) -> DockerFloor {
    let latency_ms = summary(latency_ms, 10).latency_ms;
    DockerFloor { concurrency: 1, completed: 10, per_second: 10.0, latency_ms }
}

fn document() -> Document {
    let run = |scenario: &str, offered: &str, summary| Run {
        scenario: scenario.into(),
        offered: offered.into(),
        summary,
    };
    Document {
        date: "2026-01-01T00:00:00Z".into(),
        version: "0.0.0".into(),
        machine: Machine {
            cpu: "some".into(),
            cores: 2,
            memory_mib: 1024,
            kernel: "6.1".into(),
            docker: "20".into(),
            redis: "7".into(),
        },
        left_out: vec!["rows 1 and 2: no such server".into()],
        runs: vec![
            run("python-hello", "50/s, open loop", summary(2, 500)),
            run("python-hello", "16 connections", summary(20, 400)),
        ],
        sweep: [(1, summary(2, 100)), (2, summary(3, 100))].into(),
        floors: Floors {
            docker_exec: [("python-hello".to_owned(), exec(80))].into(),
            docker_exec_sweep: vec![exec(80)],
            ..Floors::default()
        },
    }
}

fn row<'a>(markdown: &'a str, begins: &str) -> &'a str {
    markdown.lines().find(|line| line.starts_with(begins)).unwrap()
}

#[test]
fn table_tells_ratio_value_reference_goal_and_verdict() {
    let markdown = document().markdown();
    assert_eq!(
        row(&markdown, "| 3 |"),
        "| 3 | python-hello, 50/s, open loop, p50 | 40.0× faster | 2.00 ms | \
         80 ms (docker exec) | ≤ 3.00 ms | met |"
    );
    assert!(
        row(&markdown, "| 4 |")
            .ends_with("| 40× | 400/s | 10/s (docker exec, best) | ≥ 500/s | **missed** |")
    );
    assert!(
        row(&markdown, "| 9 |")
            .contains("| 40.0× faster | 2.00 ms | 80 ms (docker exec) | ≥ 20× faster | met |")
    );
    assert!(row(&markdown, "| 1 |").contains("not run"));
    assert!(markdown.contains("Left out: rows 1 and 2"));
}

#[test]
fn a_goal_is_never_met_by_a_run_with_failures() {
    let mut document = document();
    document.runs[0].summary.failed = 1;
    let markdown = document.markdown();
    assert!(row(&markdown, "| 3 |").ends_with("| **missed**, 1 failed or shed |"), "{markdown}");
}

#[test]
fn warm_answers_to_cold_requests_void_the_row() {
    let mut document = document();
    let mut cold = summary(200, 10);
    cold.cold = 7;
    document.runs.push(Run {
        scenario: "cold-python".into(),
        offered: "one at a time".into(),
        summary: cold,
    });
    let markdown = document.markdown();
    assert!(
        row(&markdown, "| 7 |").ends_with("| **void**, 3 answers not known to be cold |"),
        "{markdown}"
    );
    let all_cold = &mut document.runs.last_mut().unwrap().summary;
    all_cold.cold = all_cold.completed;
    assert!(row(&document.markdown(), "| 7 |").ends_with("| met |"));
}

#[test]
fn stored_documents_render_the_same_again() {
    let folder = tempfile::tempdir().unwrap();
    let document = document();
    document.write(folder.path()).unwrap();
    let again = Document::read(&folder.path().join("results.json")).unwrap();
    assert_eq!(again.markdown(), document.markdown());
    assert_eq!(again.plot(), std::fs::read_to_string(folder.path().join("plot.svg")).unwrap());
}
