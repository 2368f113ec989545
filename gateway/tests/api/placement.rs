//! Jobs that require labels: who may require which, and what callers hear where no worker has them.

use reqwest::Method;
use serde_json::{Value, json};
use shared::config::TenantPolicy;
use shared::execution::{Ending, ExecutionResult};
use shared::id::WorkerId;
use shared::redis::{Claimed, Commit, Consumer, Placements, Queue, WorkerFacts};

use crate::harness::{Answer, Harness, SOON, send};
use crate::worker::result;

fn body(queue: &Value) -> String {
    json!({"request": {"runtime": "bash", "code": "print x"}, "queue": queue}).to_string()
}

async fn post(harness: &Harness, path: &str, queue: &Value) -> Answer {
    send(harness.request(Method::POST, path).body(body(queue))).await
}

async fn submit(harness: &Harness, queue: &Value) -> String {
    let answer = post(harness, "/v1/jobs", queue).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.json()["id"].as_str().unwrap().to_owned()
}

async fn job(harness: &Harness, id: &str) -> Value {
    send(harness.request(Method::GET, &format!("/v1/jobs/{id}"))).await.json()
}

/// A worker with labels that says so.
struct Labelled {
    queue: Queue,
    consumer: Consumer,
    facts: WorkerFacts,
}

impl Labelled {
    async fn new(harness: &Harness, labels: &str) -> Self {
        let queue = Queue::connect(&harness.queue_config()).await.unwrap();
        let id = WorkerId::generate();
        let facts = WorkerFacts {
            labels: labels.parse().unwrap(),
            only_labelled: true,
            ..WorkerFacts::new(id, "host-0".into(), 4)
        };
        let consumer = queue.consumer_of(id, true).await.unwrap();
        let worker = Self { queue, consumer, facts };
        worker.tell().await;
        worker
    }

    async fn tell(&self) {
        self.queue.housekeep(Some((self.facts.id, 0))).await.unwrap();
        self.queue.announce(&self.facts).await.unwrap();
    }

    async fn claim(&mut self) -> Claimed {
        loop {
            let placements =
                self.queue.placements(&self.facts.labels, &Placements::default()).await.unwrap();
            let mut claimed =
                self.queue.claim_placed(&mut self.consumer, placements, 1).await.unwrap();
            if let Some(claimed) = claimed.pop() {
                return claimed;
            }
            tokio::task::yield_now().await;
        }
    }

    async fn finish(&self, claimed: &Claimed) {
        let ended: ExecutionResult = result(&claimed.job, claimed.lease.job, "there".into());
        let ending = Ending::Result(ended);
        let done = self.queue.finish(self.facts.id, &claimed.lease, &ending).await;
        assert_eq!(done.unwrap(), Commit::Done);
    }
}

#[tokio::test]
async fn whoever_waits_for_a_worker_that_there_is_not_is_told_at_once() {
    let harness = Harness::without_worker(|_| {}).await;
    let gpu = json!({"labels": {"pool": "gpu"}});
    let other = Labelled::new(&harness, "pool=cpu").await;
    let refused = post(&harness, "/execute", &gpu).await;
    assert!(refused.error(503, "NO_WORKER").contains("No live worker has the labels pool=gpu"));
    assert_eq!(refused.header("retry-after"), "5");
    let mut worker = Labelled::new(&harness, "pool=gpu,zone=a").await;
    let answered = async {
        let claimed = tokio::time::timeout(SOON, worker.claim()).await.unwrap();
        worker.finish(&claimed).await;
    };
    let (answer, ()) = tokio::join!(post(&harness, "/execute", &gpu), answered);
    assert_eq!(answer.stdout(), "there");
    // One that takes no more jobs is none.
    worker.facts.is_draining = true;
    worker.tell().await;
    let both = json!({"labels": {"pool": "gpu", "zone": "b"}});
    post(&harness, "/execute", &both).await.error(503, "NO_WORKER");
    drop(other);
}

#[tokio::test]
async fn a_listed_job_waits_for_its_worker_and_says_for_which() {
    let harness = Harness::without_worker(|_| {}).await;
    let gpu = json!({"labels": {"zone": "a", "pool": "gpu"}});
    let id = submit(&harness, &gpu).await;
    let waiting = job(&harness, &id).await;
    assert_eq!(waiting["labels"], gpu["labels"]);
    let message = "No live worker has the labels pool=gpu,zone=a";
    let expected = json!({"reason": "no_worker", "message": message, "position": 1});
    assert_eq!(waiting["waiting"], expected);
    let mut worker = Labelled::new(&harness, "pool=gpu,zone=a").await;
    let waiting = job(&harness, &id).await;
    assert_eq!(waiting["waiting"], json!({"reason": "in_line", "position": 1}));
    let claimed = worker.claim().await;
    worker.finish(&claimed).await;
    let ended = job(&harness, &id).await;
    assert_eq!((&ended["outcome"], &ended["labels"]), (&json!("exited"), &gpu["labels"]));
}

#[tokio::test]
async fn labels_that_are_none_or_not_allowed_are_refused_by_name() {
    let harness = Harness::without_worker(|config| {
        config.policy.labels = vec!["zone=*".into()];
        let own = TenantPolicy { labels: Some(Vec::new()), ..TenantPolicy::default() };
        config.policy.tenants.insert("acme".into(), own);
        config.auth.enabled = true;
    })
    .await;
    let key = harness.key_of("acme").await;
    for path in ["/execute", "/v1/jobs"] {
        let refused = post(&harness, path, &json!({"labels": {"pool": "gpu"}})).await;
        let told = refused.error(400, "POLICY_VIOLATION");
        assert!(
            told.contains("queue.labels: pool=gpu") && told.contains("policy.labels"),
            "{told}"
        );
        let zone = json!({"labels": {"zone": "a"}});
        let request = harness.request_of(&key, Method::POST, path).body(body(&zone));
        send(request).await.error(400, "POLICY_VIOLATION");
        for bad in [json!({"a b": "c"}), json!({"zone": ""}), json!({"zone": 1}), json!(["zone"])] {
            let refused = post(&harness, path, &json!({"labels": bad})).await;
            let told = refused.error(400, "INVALID_REQUEST");
            assert!(told.contains("queue.labels"), "{told}");
        }
        let many: serde_json::Map<String, Value> =
            (0..9).map(|number| (format!("zone{number}"), json!("a"))).collect();
        let refused = post(&harness, path, &json!({"labels": many})).await;
        assert!(refused.error(400, "INVALID_REQUEST").contains("at most 8"));
    }
    submit(&harness, &json!({"labels": {"zone": "a"}})).await;
    submit(&harness, &json!({"labels": null})).await;
}
