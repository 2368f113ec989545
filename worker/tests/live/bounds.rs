//! What the engine bounds: time that a sandbox says nothing about, files of a result, and what an image
//! brings along.

use std::collections::BTreeMap;

use shared::ErrorCode;
use shared::execution::{FileContent, InputFile, Outcome};
use shared::redis::Cancelled;

use crate::harness::{Fleet, containers, docker};
use crate::programs::{bash, failure, python, result};

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_does_not_report_a_timeout_makes_no_second_run() {
    let fleet = Fleet::start().await;
    let mut job = python("import time; print('on', flush=True); time.sleep(60)");
    job.timeout_ms = 10_000;
    job.stream = true;
    job.output_paths = Some(vec!["none".into()]);
    let id = fleet.enqueue(&job).await;
    fleet.await_output(id, "on").await;
    let each = |verb: &str| {
        for container in containers(fleet.worker().id) {
            docker(&[verb, &container]);
        }
    };
    each("pause");
    let ended = result(fleet.ending(id).await);
    assert_eq!((ended.outcome, ended.exit_code), (Outcome::TimedOut, 137));
    assert!(ended.stdout == "on" && ended.stderr.contains("TIMED OUT"), "{ended:?}");
    assert_eq!(ended.files, Some(BTreeMap::new()));
    // The next job gets another sandbox, perhaps one that waited.
    each("unpause");
    let next = fleet.enqueue(&python("print('fine')")).await;
    let next = result(fleet.ending(next).await);
    assert_eq!(next.stdout, "fine");
    assert_ne!(next.container_id, ended.container_id);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_a_result_are_bounded_together() {
    let fleet = Fleet::start().await;
    let mut job = bash("for n in a b c; do head -c 15728640 /dev/zero > $n; done; echo small > d");
    job.output_paths = Some(["a", "b", "c", "d"].map(String::from).to_vec());
    let id = fleet.enqueue(&job).await;
    let files = result(fleet.ending(id).await).files.unwrap();
    assert_eq!(files.keys().map(String::as_str).collect::<String>(), "abd");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_has_its_output_and_fetches_no_files() {
    let fleet = Fleet::start().await;
    let mut job = bash("echo x > a; echo on; sleep 60");
    job.stream = true;
    job.output_paths = Some(vec!["a".into()]);
    let id = fleet.enqueue(&job).await;
    fleet.await_output(id, "on").await;
    assert_eq!(fleet.queue.cancel(&fleet.tenant, id).await.unwrap(), Cancelled::Asked);
    let ended = result(fleet.ending(id).await);
    assert_eq!((ended.outcome, ended.stdout.as_str()), (Outcome::Cancelled, "on"));
    assert_eq!(ended.files, Some(BTreeMap::new()));
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_refused_for_its_size_leaves_nothing_behind() {
    let fleet = Fleet::start().await;
    fleet.python("s", "x = 42").await;
    let mut job = python("1");
    let content = FileContent(b"planted".to_vec().into());
    job.files = vec![InputFile { path: "/sandbox/planted".into(), content }];
    // Within the limit as it stands, and over it as JSON.
    job.env.insert("LARGE".into(), "\"".repeat(700_000));
    assert_eq!(failure(fleet.execute("s", job).await).code, ErrorCode::PayloadTooLarge);
    let look = "import os; print(x, os.path.exists('/sandbox/planted'))";
    assert_eq!(fleet.python("s", look).await.stdout, "42 False");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_and_health_checks_of_an_image_are_of_no_use_to_a_job() {
    let fleet = Fleet::start().await;
    let image = format!("isol8-test:{}", fleet.worker().id);
    let container = docker(&["create", "isol8:bash", "true"]);
    let container = container.trim();
    docker(&[
        "commit",
        "--change=VOLUME [\"/data\", \"/tmp/\"]",
        "--change=HEALTHCHECK --interval=1s CMD touch /data/checked",
        container,
        &image,
    ]);
    docker(&["rm", "--force", container]);
    let mut job = bash("touch /tmp/x && touch /data/x; grep ' /data ' /proc/mounts");
    job.image.clone_from(&image);
    let id = fleet.enqueue(&job).await;
    let ended = result(fleet.ending(id).await);
    assert!(ended.stderr.contains("Read-only file system"), "{ended:?}");
    assert!(ended.stdout.contains("/data"), "{ended:?}");
    let format = "--format={{json .Config.Healthcheck.Test}}";
    assert_eq!(docker(&["inspect", format, &ended.container_id]).trim(), "[\"NONE\"]");
    fleet.finish().await;
    docker(&["rmi", "--force", &image]);
}
