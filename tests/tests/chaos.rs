//! A short chaos run against each kind of fleet: whatever goes wrong, no job is lost, none has two
//! endings, and nothing is left behind.

use std::time::Duration;

use tests::chaos::{Kind, Options, run};

/// Faults and their times are the same in each run of the test; how the processes meet them is not.
const SEED: u64 = 20;

async fn survives(kind: Kind, seconds: u64, faults: usize) {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let report = run(Options {
        kind,
        seed: SEED,
        length: Duration::from_secs(seconds),
        faults,
        clients: 8,
        pause_ms: 200,
        directory: directory.path().join("run"),
    })
    .await;
    if !report.is_clean() {
        let kept = directory.keep();
        panic!("kept in {}:\n{report}", kept.display());
    }
    assert!(report.count("jobs accepted") > 0, "{report}");
    if kind != Kind::Failover {
        for what in ["batches accepted", "items with a result", "runs of schedules"] {
            assert!(report.count(what) > 0, "no {what}: {report}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_that_runs_nothing_survives_its_processes_and_its_redis() {
    survives(Kind::NoOp, 40, 12).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_with_sandboxes_survives_its_processes_and_its_redis() {
    survives(Kind::Docker, 40, 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_survives_failovers_and_loses_nothing_that_was_confirmed() {
    survives(Kind::Failover, 40, 6).await;
}
