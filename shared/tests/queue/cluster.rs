//! The queue on a Redis Cluster of three masters: every kind of call, a slot that moves under load,
//! and a master that dies and comes back.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use shared::PROTOCOL;
use shared::error::ErrorCode;
use shared::execution::{Durability, Event, EventKind, Phase, Stream, Terms};
use shared::id::{GatewayId, JobId, RequestId, TenantId, TransferId, WorkerId};
use shared::labels::Labels;
use shared::redis::{
    Cancelled, Cleaned, CleanupOrder, Commit, Depth, JobFilter, JobState, KeyFacts, KeyId, Listing,
    Once, Placements, PlainKey, Queue, Quota, Removal, Reply, Scope, Submission, WorkerFacts,
    WorkerOrder, examine,
};
use tokio::time::timeout;

use crate::harness::{BLOCK, Fleet, LEASE, SOON, ending, execute, job, submission};
use crate::nodes::Nodes;
use crate::placement::{GPU, Labelled, labels};
use crate::roles::make_users;

/// Enough for some on every node.
const TENANTS: usize = 24;

fn tenants() -> Vec<TenantId> {
    (0..TENANTS).map(|number| TenantId::new(format!("tenant-{number}"))).collect()
}

/// A tenant whose keys a node serves, and one of its keys' beginnings.
fn tenant_at(cluster: &Nodes, queue_keys: &[String], node: usize) -> (TenantId, String) {
    for tenant in tenants() {
        let listed = format!(":listed:{tenant}");
        let Some(key) = queue_keys.iter().find(|key| key.ends_with(&listed)) else { continue };
        if cluster.owner_of(key) == node {
            let tag = key.split(':').nth(1).unwrap().to_owned();
            return (tenant, tag);
        }
    }
    panic!("no tenant is at node {node}");
}

/// Submits a listed job of a tenant.
async fn submit(queue: &Queue, tenant: &TenantId) -> Result<JobId, shared::error::Error> {
    let terms = Terms { retention_ms: 60_000, ..Terms::default() };
    let (id, quota) = (JobId::generate(), Quota::default());
    let submission = Submission { tenant, id, reply_to: None, quota };
    queue.submit(submission, Listing { terms: &terms, once: None }, &job()).await.map(|it| it.id)
}

/// Submits one job for each tenant; where each is.
pub(crate) async fn place_tenants(cluster: &Nodes, queue: &Queue) -> [(TenantId, String); 3] {
    for tenant in tenants() {
        submit(queue, &tenant).await.unwrap();
    }
    let keys: Vec<String> = cluster.nodes.iter().flat_map(|node| node.keys()).collect();
    [0, 1, 2].map(|node| tenant_at(cluster, &keys, node))
}

/// Runs whatever waits until so many have ended; leases that ran out are taken over.
async fn run_jobs(fleet: &mut Fleet, count: usize) -> BTreeSet<JobId> {
    let mut ended = BTreeSet::new();
    while ended.len() < count {
        let mut claimed = match fleet.queue.claim(&mut fleet.consumer, 8, BLOCK).await {
            Ok(claimed) => claimed,
            Err(error) => {
                assert_eq!(error.code(), ErrorCode::QueueUnavailable, "{error}");
                continue;
            }
        };
        match fleet.queue.reclaim(&mut fleet.consumer, 8).await {
            Ok(more) => claimed.extend(more),
            Err(error) => assert_eq!(error.code(), ErrorCode::QueueUnavailable, "{error}"),
        }
        for claimed in claimed {
            loop {
                match fleet.queue.finish(fleet.worker, &claimed.lease, &ending("done")).await {
                    Ok(Commit::Done | Commit::DoneLow) => {
                        ended.insert(claimed.lease.job);
                        break;
                    }
                    Ok(Commit::Fenced) => break,
                    Err(error) => assert_eq!(error.code(), ErrorCode::QueueUnavailable, "{error}"),
                }
            }
        }
    }
    ended
}

#[tokio::test]
async fn jobs_of_many_tenants_run_on_all_masters() {
    let cluster = Nodes::start();
    let mut fleet = Fleet::new(&cluster.config()).await;
    let mut waiting = BTreeSet::new();
    for tenant in tenants() {
        waiting.insert(fleet.enqueue_for(&tenant).await);
    }
    for node in &cluster.nodes {
        assert!(node.keys().iter().any(|key| key.contains(":job:")), "a node has no jobs");
    }
    let depth = Depth { queued: TENANTS as u64, running: 0 };
    assert_eq!(fleet.queue.depth().await.unwrap(), depth);
    let mut held = Vec::new();
    while held.len() < TENANTS {
        held.extend(fleet.claim(8).await);
    }
    let leases: Vec<_> = held.iter().map(|claimed| claimed.lease.clone()).collect();
    assert!(fleet.queue.renew(fleet.worker, &leases).await.unwrap().is_empty());
    for claimed in &held {
        fleet.finish(claimed, "done").await;
    }
    // Through whichever node each of them was published.
    let mut heard = BTreeSet::new();
    while heard.len() < TENANTS {
        if let Reply::Finished { job, .. } = fleet.reply().await {
            heard.insert(job);
        }
    }
    assert_eq!(heard, waiting);
    assert_eq!(fleet.queue.depth().await.unwrap(), Depth::default());
    fleet.queue.leave(fleet.worker).await.unwrap();
}

#[tokio::test]
async fn a_read_that_found_something_leaves_none_open_elsewhere() {
    let cluster = Nodes::start();
    let mut fleet = Fleet::new(&cluster.config()).await;
    let tenants = tenants();
    for _ in 0..3 {
        let (queue, gateway) = (fleet.queue.clone(), fleet.gateway);
        let first = async {
            tokio::task::yield_now().await;
            let id = JobId::generate();
            queue.enqueue(submission(&tenants[0], id, gateway), &job()).await.unwrap();
        };
        let (claimed, ()) = tokio::join!(fleet.queue.claim(&mut fleet.consumer, 1, SOON), first);
        let claimed = claimed.unwrap();
        // Another worker gets what comes now: the first one does not listen any more.
        let mut later = BTreeSet::new();
        for tenant in &tenants {
            later.insert(fleet.enqueue_for(tenant).await);
        }
        let (other, mut consumer) = fleet.second_worker().await;
        while !later.is_empty() {
            let jobs = fleet.queue.claim(&mut consumer, 8, SOON).await.unwrap();
            assert!(!jobs.is_empty(), "{} jobs went to a worker that waits for none", later.len());
            for job in jobs {
                assert!(later.remove(&job.lease.job));
                let done = fleet.queue.finish(other, &job.lease, &ending("done")).await;
                assert_eq!(done.unwrap(), Commit::Done);
            }
        }
        fleet.finish(&claimed[0], "done").await;
    }
}

#[tokio::test]
async fn jobs_that_require_labels_run_wherever_their_tenants_are() {
    let cluster = Nodes::start();
    let fleet = Fleet::new(&cluster.config()).await;
    let mut gpu = Labelled::with(&fleet, GPU, true).await;
    let mut waiting = BTreeSet::new();
    for _ in 0..2 {
        // The second time there are the lines already, and a read waits for what comes.
        for tenant in tenants() {
            let id = JobId::generate();
            let submission = submission(&tenant, id, fleet.gateway);
            fleet.queue.enqueue_placed(submission, &labels(GPU), &job()).await.unwrap();
            waiting.insert(id);
        }
        let depth = fleet.queue.depth().await.unwrap();
        assert_eq!(depth, Depth { queued: TENANTS as u64, running: 0 });
        let mut claimed = gpu.look(&fleet, 8).await;
        while !waiting.is_empty() {
            for claimed in claimed {
                gpu.finish(&fleet, &claimed).await;
                waiting.remove(&claimed.lease.job);
            }
            claimed = fleet.queue.claim(&mut gpu.consumer, 8, BLOCK).await.unwrap();
        }
    }
    assert_eq!(fleet.queue.depth().await.unwrap(), Depth::default());
    let (queue, worker) = (&fleet.queue, WorkerId::generate());
    let placements = queue.placements(&labels(GPU), &Placements::default()).await.unwrap();
    queue.housekeep_as(Some(worker), 3.into(), &placements).await.unwrap();
    queue.leave(worker).await.unwrap();
}

#[tokio::test]
async fn every_kind_of_call_finds_its_node() {
    let cluster = Nodes::start();
    let mut fleet = Fleet::new(&cluster.config()).await;
    let findings = examine(&cluster.config()).await.unwrap();
    assert!(findings[0].found.starts_with("3 masters, 0 slots"), "{findings:?}");

    // A listed job, under a key, of which one hears; its output; its end.
    let (terms, once) = (
        Terms { retention_ms: 60_000, tags: vec!["x".into()], ..Terms::default() },
        Once::new(b"key", b"body"),
    );
    let quota = Quota::default();
    for is_repeated in [false, true] {
        let submission =
            Submission { tenant: &fleet.tenant, id: JobId::generate(), reply_to: None, quota };
        let listing = Listing { terms: &terms, once: Some(&once) };
        let accepted = fleet.queue.submit(submission, listing, &job()).await.unwrap();
        assert_eq!(accepted.is_repeated, is_repeated);
    }
    let claimed = fleet.claim_one().await;
    let id = claimed.lease.job;
    fleet.queue.follow(&fleet.tenant, id, fleet.gateway).await.unwrap();
    let to = fleet.queue.publication(fleet.worker, &claimed.lease, 1000);
    let data = Bytes::from_static(b"hello");
    let kind = EventKind::Output { stream: Stream::Stdout, offset: 0, data };
    assert!(fleet.queue.publish(&to, 0, &[(Phase::Code, kind.clone())]).await.unwrap());
    let event = Event { number: 0, phase: Phase::Code, kind };
    match fleet.reply().await {
        Reply::Output { event: heard, .. } => assert_eq!(heard, event),
        other => panic!("{other:?}"),
    }
    assert_eq!(fleet.queue.events(&fleet.tenant, id, 0).await.unwrap(), [event]);
    fleet.finish(&claimed, "done").await;
    fleet.expect_reply(id, &ending("done")).await;
    let page = fleet.queue.jobs(&fleet.tenant, &JobFilter::default(), None, 10).await.unwrap();
    assert_eq!(page.jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [id]);

    // A session and its calls.
    let session = fleet.open("s1").await;
    let call = fleet.call("s1", &execute()).await.unwrap();
    assert_eq!(fleet.next_call(&session).await.id, call);
    assert_eq!(fleet.finish_call(&session, call, "done").await, Commit::Done);
    assert_eq!(fleet.queue.all_sessions().await.unwrap().len(), 1);
    assert_eq!(fleet.queue.reap_sessions().await.unwrap(), 0);

    // Cancelling, and a job that is as safe as asked: there is no replica.
    let waiting = fleet.enqueue().await;
    assert_eq!(fleet.queue.cancel(&fleet.tenant, waiting).await.unwrap(), Cancelled::Now);
    for tenant in tenants().into_iter().take(3) {
        let id = fleet.enqueue_for(&tenant).await;
        assert!(!fleet.queue.confirm(&tenant, id, Durability::Replicated).await.unwrap());
    }

    // Workers, and what they are told.
    let mut orders = fleet.queue.orders(fleet.worker).await.unwrap();
    fleet.queue.housekeep(Some((fleet.worker, 4))).await.unwrap();
    let facts = WorkerFacts {
        id: fleet.worker,
        name: "host-0".into(),
        version: "1.2.3".into(),
        started_ms: 0,
        slots: 4,
        running: 0,
        sessions: 1,
        sandboxes: 1,
        ended: 0,
        failed: 0,
        is_draining: false,
        labels: Labels::default(),
        only_labelled: false,
        protocol: PROTOCOL,
        unread: 0,
        secrets_keys: Vec::new(),
    };
    assert!(!fleet.queue.announce(&facts).await.unwrap());
    assert_eq!(fleet.queue.workers().await.unwrap(), [facts]);
    assert!(fleet.queue.reconcile(fleet.worker).await.unwrap().is_empty());
    let order = CleanupOrder { request: RequestId::generate(), tenant: None, images: false };
    let answer = async {
        let heard = timeout(SOON, orders.next()).await.unwrap();
        assert_eq!(heard, WorkerOrder::CleanUp(order.clone()));
        let containers = Removal { removed: 3, ..Removal::default() };
        let cleaned = Cleaned { containers, images: Removal::default() };
        fleet.queue.cleaned_up(order.request, &cleaned).await.unwrap();
    };
    let (cleaned, ()) = tokio::join!(fleet.queue.clean_up(&order), answer);
    let cleaned = cleaned.unwrap();
    assert_eq!((cleaned.containers.removed, cleaned.containers.failed), (3, 0), "{cleaned:?}");

    // A file of several windows.
    let transfer = TransferId::generate();
    let ends = [(); 2].map(|()| fleet.queue.transfer(&fleet.tenant, transfer));
    let [sending, receiving] = ends;
    let send = async {
        let mut sender = sending.sender(SOON).await.unwrap();
        for _ in 0..20 {
            sender.send(vec![7; 512 << 10].into()).await.unwrap();
        }
        sender.finish().await.unwrap();
    };
    let receive = async {
        let mut receiver = receiving.receiver(SOON).await.unwrap();
        let mut size = 0;
        while let Some(bytes) = receiver.next().await.unwrap() {
            size += bytes.len();
        }
        size
    };
    let ((), size) = tokio::join!(send, receive);
    assert_eq!(size, 20 * (512 << 10));

    // API keys.
    let (keys, plain) = (fleet.queue.api_keys(), PlainKey::generate().unwrap());
    let facts = KeyFacts {
        id: KeyId::generate(),
        name: "ours".into(),
        prefix: "x".into(),
        tenant: fleet.tenant.clone(),
        scopes: [Scope::Execute].into(),
        created_ms: 1,
        expires_ms: u64::MAX,
    };
    keys.create(plain.hash(), &facts).await.unwrap();
    assert_eq!(keys.list().await.unwrap().len(), 1);

    // A script that a node has forgotten.
    for node in &cluster.nodes {
        node.run::<()>(&["SCRIPT", "FLUSH"]);
    }
    fleet.enqueue().await;
}

/// Submits a job under a key, again and again while its slot is on its way.
async fn submit_until_taken(queue: &Queue, tenant: &TenantId, key: &str) {
    let terms = Terms { retention_ms: 60_000, ..Terms::default() };
    let (once, quota) = (Once::new(key.as_bytes(), b"body"), Quota::default());
    loop {
        let submission = Submission { tenant, id: JobId::generate(), reply_to: None, quota };
        let listing = Listing { terms: &terms, once: Some(&once) };
        match queue.submit(submission, listing, &job()).await {
            Ok(_) => return,
            Err(error) => assert_eq!(error.code(), ErrorCode::QueueUnavailable, "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_moves_under_load_loses_nothing() {
    let cluster = Nodes::start();
    let mut fleet = Fleet::new(&cluster.config()).await;
    let [(tenant, tag), ..] = place_tenants(&cluster, &fleet.queue).await;
    let stream = format!("v1:{tag}:jobs");
    let queue = fleet.queue.clone();
    let mut accepted = TENANTS;
    for round in 0..4 {
        let to = if round % 2 == 0 { 1 } else { 0 };
        let migration = cluster.begin_move(&stream, to);
        // Some keys are at either node now: no script may begin, nor half of one be done.
        migration.move_some(2);
        #[expect(clippy::disallowed_methods, reason = "awaited below")]
        let late: Vec<_> = (0..20)
            .map(|number| {
                let (queue, tenant) = (queue.clone(), tenant.clone());
                let key = format!("{round}-{number}");
                tokio::spawn(async move { submit_until_taken(&queue, &tenant, &key).await })
            })
            .collect();
        migration.finish();
        for submitted in late {
            submitted.await.unwrap();
            accepted += 1;
        }
        assert_eq!(cluster.owner_of(&stream), to);
    }
    let ended = run_jobs(&mut fleet, accepted).await;
    assert_eq!(ended.len(), accepted);
    assert_eq!(fleet.queue.depth().await.unwrap(), Depth::default());
    assert!(fleet.queue.reconcile(fleet.worker).await.unwrap().is_empty(), "nothing drifted");
}

#[tokio::test]
async fn a_script_waits_for_a_slot_on_its_way_and_says_so_in_time() {
    let cluster = Nodes::start();
    let mut fleet = Fleet::new(&cluster.config()).await;
    let [(tenant, tag), (other, _), _] = place_tenants(&cluster, &fleet.queue).await;
    let ended = run_jobs(&mut fleet, TENANTS).await;
    assert_eq!(ended.len(), TENANTS);
    let waiting = submit(&fleet.queue, &tenant).await.unwrap();
    let before: Vec<String> = cluster.nodes.iter().flat_map(|node| node.keys()).collect();
    let migration = cluster.begin_move(&format!("v1:{tag}:jobs"), 2);
    let refused = submit(&fleet.queue, &tenant).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::QueueUnavailable, "{refused}");
    // All that this one names is still there; only what it would touch besides is not.
    let refused = fleet.queue.cancel(&tenant, waiting).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::QueueUnavailable, "{refused}");
    let kept = |keys: Vec<String>| keys.iter().filter(|key| key.contains(&tag)).count();
    let after: Vec<String> = cluster.nodes.iter().flat_map(|node| node.keys()).collect();
    assert_eq!(kept(after), kept(before), "half of a script was done");
    // Others notice nothing.
    submit(&fleet.queue, &other).await.unwrap();
    migration.finish();
    submit(&fleet.queue, &tenant).await.unwrap();
    assert_eq!(fleet.queue.cancel(&tenant, waiting).await.unwrap(), Cancelled::Now);
    assert_eq!(run_jobs(&mut fleet, 2).await.len(), 2);
}

#[tokio::test]
async fn a_master_that_dies_under_load_holds_up_its_own_tenants_alone() {
    let mut cluster = Nodes::start();
    let config = {
        let lease_ms = u64::try_from(LEASE.as_millis()).unwrap();
        shared::config::Redis { lease_ms, renew_ms: lease_ms / 4, ..cluster.config() }
    };
    let mut fleet = Fleet::new(&config).await;
    let [_, (unlucky, _), (lucky, _)] = place_tenants(&cluster, &fleet.queue).await;
    cluster.nodes[1].stop();

    let refused = submit(&fleet.queue, &unlucky).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::QueueUnavailable);
    let mut theirs = BTreeSet::new();
    for _ in 0..5 {
        theirs.insert(submit(&fleet.queue, &lucky).await.unwrap());
    }
    let mut ended = BTreeSet::new();
    while !theirs.iter().all(|id| ended.contains(id)) {
        ended.extend(run_jobs(&mut fleet, 1).await);
    }

    cluster.nodes[1].start_again();
    cluster.await_agreement();
    let after = loop {
        match submit(&fleet.queue, &unlucky).await {
            Ok(id) => break id,
            Err(error) => assert_eq!(error.code(), ErrorCode::QueueUnavailable, "{error}"),
        }
    };
    while ended.len() < TENANTS + theirs.len() + 1 {
        ended.extend(run_jobs(&mut fleet, 1).await);
    }
    assert!(ended.contains(&after));
    let state = fleet.queue.state(&unlucky, after).await.unwrap();
    assert!(matches!(state, JobState::Finished(_)), "{state:?}");
}

#[tokio::test]
async fn a_fleet_works_on_a_cluster_as_users_of_its_own() {
    let users = tempfile::tempdir().unwrap();
    // The nodes are joined before nobody gets in without a name.
    let file = users.path().join("nodes.acl");
    std::fs::write(&file, "user default on nopass ~* &* +@all\n").unwrap();
    let cluster = Nodes::start_with(&["--aclfile", &file.display().to_string()]);
    std::fs::copy(make_users(users.path()), &file).unwrap();
    for node in &cluster.nodes {
        node.run::<()>(&["ACL", "LOAD"]);
    }
    let config = |role: &str| shared::config::Redis {
        password_file: Some(users.path().join(format!("{role}.password"))),
        ..cluster.config_of(&format!("{role}@"))
    };
    let gateway = Queue::connect(&config("gateway")).await.unwrap();
    let worker = Queue::connect(&config("worker")).await.unwrap();
    let me = WorkerId::generate();
    let mut consumer = worker.consumer(me).await.unwrap();
    let mut waiting = BTreeSet::new();
    for tenant in tenants() {
        let id = JobId::generate();
        gateway.enqueue(submission(&tenant, id, GatewayId::generate()), &job()).await.unwrap();
        waiting.insert(id);
    }
    while !waiting.is_empty() {
        for claimed in worker.claim(&mut consumer, 4, Duration::from_secs(1)).await.unwrap() {
            let done = worker.finish(me, &claimed.lease, &ending("done")).await.unwrap();
            assert_eq!(done, Commit::Done);
            waiting.remove(&claimed.lease.job);
        }
    }
    let order = CleanupOrder { request: RequestId::generate(), tenant: None, images: false };
    assert_eq!(gateway.clean_up(&order).await.unwrap(), Cleaned::default(), "nobody listens");
}

#[tokio::test]
async fn an_address_that_is_not_what_it_says_is_refused_with_the_remedy() {
    let cluster = Nodes::start();
    let url = Some(format!("redis://127.0.0.1:{}", cluster.ports[0]));
    let refused = Queue::connect(&shared::config::Redis { url, ..cluster.config() }).await;
    let refused = refused.err().unwrap();
    assert_eq!(refused.code(), ErrorCode::InvalidRequest);
    assert!(refused.to_string().contains("redis+cluster://"), "{refused}");

    let port = crate::harness::free_port();
    let _single =
        crate::harness::Redis::start_with(&["--bind", "127.0.0.1", "--port", &port.to_string()]);
    let url = Some(format!("redis+cluster://127.0.0.1:{port}"));
    let refused = Queue::connect(&shared::config::Redis { url, ..cluster.config() }).await;
    let refused = refused.err().unwrap();
    assert_eq!(refused.code(), ErrorCode::InvalidRequest, "{refused}");
    assert!(refused.to_string().contains("Write redis:// instead"), "{refused}");
}
