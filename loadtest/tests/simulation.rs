//! The simulation on a real Redis, in small: that its fleets run every job, and what is told of them.

use std::time::Duration;

use loadtest::simulate::Simulation;

#[tokio::test]
async fn simulated_fleets_run_what_is_submitted() {
    let simulation = Simulation {
        workers: vec![1, 3],
        tenants: vec![1, 4],
        depths: vec![0, 40],
        rate: 100.0,
        length: Duration::from_millis(300),
        sample: 30,
        code_bytes: 10,
    };
    // It comes to an end only once each job has ended.
    let found = simulation.run(&|_| {}).await.expect("everything runs");
    let counts = |points: &[loadtest::simulate::Point]| -> Vec<usize> {
        points.iter().map(|point| point.count).collect()
    };
    assert_eq!((counts(&found.workers), counts(&found.tenants)), (vec![1, 3], vec![1, 4]));
    assert!(found.depths[0].bytes_per_job.is_none());
    assert!(found.depths[1].bytes_per_job.is_some());
    assert!(found.depths[1].run.commands > 1.0, "{:?}", found.depths);
    let page = found.markdown();
    assert!(page.contains("| 40 | ") && page.contains("30 more are submitted"), "{page}");
}
