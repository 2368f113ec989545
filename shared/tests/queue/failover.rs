//! The primary dies under load, sentinels make its replica the primary, and the fleet follows.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use shared::config;
use shared::error::{Error, ErrorCode};
use shared::execution::Durability;
use shared::id::{GatewayId, JobId, TenantId, WorkerId};
use shared::redis::{Commit, JobState, Queue, Replies, Reply};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::harness::{Redis, SOON, ending, free_port, job, submission};
use crate::roles::make_users;

/// Jobs that are to be safe before the primary dies.
const ENOUGH: usize = 50;

/// What the sentinel itself asks for.
const SENTINEL_PASSWORD: &str = "s3ntinel";

/// A primary, its replica and a sentinel, on loopback, with the fleet's users.
struct Deployment {
    primary: Redis,
    _replica: Redis,
    sentinel: Sentinel,
    users: TempDir,
}

struct Sentinel {
    child: Child,
    port: u16,
    _directory: TempDir,
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn password_file(users: &Path, user: &str) -> PathBuf {
    users.join(format!("{user}.password"))
}

/// A server on a port; with `primary` a replica of the one there.
fn start_server(users: &Path, port: u16, primary: Option<u16>) -> Redis {
    let acl = make_users(users).display().to_string();
    let password = fs::read_to_string(password_file(users, "replica")).unwrap();
    let (port, of) = (port.to_string(), primary.map(|port| format!("127.0.0.1 {port}")));
    let mut arguments = vec!["--bind", "127.0.0.1", "--port", &port, "--aclfile", &acl];
    arguments.extend(["--masteruser", "replica", "--masterauth", &password]);
    arguments.extend(["--save", "", "--repl-diskless-sync-delay", "0"]);
    if let Some(of) = &of {
        arguments.extend(["--replicaof", of]);
    }
    Redis::start_with(&arguments)
}

fn start_sentinel(users: &Path, primary: u16) -> Sentinel {
    let (directory, port) = (tempfile::tempdir().unwrap(), free_port());
    let password = fs::read_to_string(password_file(users, "sentinel")).unwrap();
    let file = directory.path().join("sentinel.conf");
    let lines = format!(
        "bind 127.0.0.1\nport {port}\ndir {}\nrequirepass {SENTINEL_PASSWORD}\nsentinel monitor queue 127.0.0.1 {primary} 1\n\
         sentinel auth-user queue sentinel\nsentinel auth-pass queue {password}\n\
         sentinel down-after-milliseconds queue 3000\nsentinel failover-timeout queue 2000\n",
        directory.path().display()
    );
    fs::write(&file, lines).unwrap();
    let mut command = Command::new("redis-server");
    command.arg(&file).arg("--sentinel").stdout(Stdio::null());
    let child = command.spawn().expect("these tests need redis-server on the PATH");
    Sentinel { child, port, _directory: directory }
}

impl Deployment {
    fn config(&self, role: &str) -> config::Redis {
        // The first sentinel is not there: the next one is asked.
        let hosts = format!("127.0.0.1:1,127.0.0.1:{}", self.sentinel.port);
        config::Redis {
            url: Some(format!("redis+sentinel://{role}@{hosts}/queue")),
            password_file: Some(password_file(self.users.path(), role)),
            sentinel_password_file: Some(self.users.path().join("sentinels")),
            allow_plain_secrets: true,
            ..config::Redis::default()
        }
    }

    async fn start() -> Self {
        let users = tempfile::tempdir().unwrap();
        let port = free_port();
        let primary = start_server(users.path(), port, None);
        let url = format!("redis://gateway@127.0.0.1:{port}");
        let direct = config::Redis {
            url: Some(url),
            password_file: Some(password_file(users.path(), "gateway")),
            allow_plain_secrets: true,
            ..config::Redis::default()
        };
        let queue = Queue::connect(&direct).await.unwrap();
        let alone = submit(&queue, Durability::Replicated).await.unwrap();
        assert!(!alone.1, "there is no replica yet");
        let replica = start_server(users.path(), free_port(), Some(port));
        let deadline = Instant::now() + SOON;
        // The first job is confirmed again and again: it comes to be safe.
        while !queue.confirm(&tenant(), alone.0, Durability::Replicated).await.unwrap() {
            assert!(Instant::now() < deadline, "the replica does not follow");
        }
        let sentinel = start_sentinel(users.path(), port);
        fs::write(users.path().join("sentinels"), format!("{SENTINEL_PASSWORD}\n")).unwrap();
        Self { primary, _replica: replica, sentinel, users }
    }
}

fn tenant() -> TenantId {
    TenantId::new("acme")
}

/// Submits a job; its identifier, and whether it is as safe as asked.
async fn submit(queue: &Queue, durability: Durability) -> Result<(JobId, bool), Error> {
    submit_for(queue, GatewayId::generate(), durability).await
}

async fn submit_for(
    queue: &Queue,
    gateway: GatewayId,
    durability: Durability,
) -> Result<(JobId, bool), Error> {
    let (tenant, id) = (tenant(), JobId::generate());
    queue.enqueue(submission(&tenant, id, gateway), &job()).await?;
    Ok((id, queue.confirm(&tenant, id, durability).await?))
}

/// Submits until a primary that has taken over takes one; what was said to be safe before and after.
async fn load(queue: &Queue, gateway: GatewayId, primary: &mut Redis) -> (BTreeSet<JobId>, JobId) {
    let mut safe = BTreeSet::new();
    while safe.len() < ENOUGH {
        let (id, is_safe) = submit_for(queue, gateway, Durability::Replicated).await.unwrap();
        assert!(is_safe);
        safe.insert(id);
    }
    // Others are on their way when it dies.
    let under_way = futures_util::future::join_all(
        (0..ENOUGH).map(|_| submit_for(queue, gateway, Durability::Replicated)),
    );
    let (outcomes, ()) = tokio::join!(under_way, async {
        sleep(Duration::from_millis(1)).await;
        primary.stop();
    });
    for outcome in outcomes {
        match outcome {
            Ok((id, true)) => drop(safe.insert(id)),
            Ok((_, false)) => {}
            Err(error) => assert_eq!(error.code(), ErrorCode::QueueUnavailable, "{error}"),
        }
    }
    loop {
        match submit_for(queue, gateway, Durability::Fast).await {
            Ok((id, _)) => return (safe, id),
            Err(error) => assert_eq!(error.code(), ErrorCode::QueueUnavailable, "{error}"),
        }
    }
}

/// Waits until a gateway has heard that a job ended, or may have missed it and looks it up.
async fn await_end(queue: &Queue, replies: &mut Replies, id: JobId) {
    loop {
        match replies.next().await {
            Reply::Finished { job, .. } if job == id => return,
            Reply::Resubscribed => {
                let state = queue.state(&tenant(), id).await.unwrap();
                if matches!(state, JobState::Finished(_)) {
                    return;
                }
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn what_was_confirmed_survives_the_primary() {
    let mut deployment = Deployment::start().await;
    let queue = Queue::connect(&deployment.config("gateway")).await.unwrap();
    let gateway = GatewayId::generate();
    let mut replies = queue.replies(gateway).await.unwrap();
    // Opened before the failover, so that its connections have to follow too.
    let worker = Queue::connect(&deployment.config("worker")).await.unwrap();
    let me = WorkerId::generate();
    let mut consumer = worker.consumer(me).await.unwrap();

    let loading = load(&queue, gateway, &mut deployment.primary);
    let (safe, last) = timeout(SOON * 3, loading).await.expect("the fleet found the new primary");

    let mut claimed = BTreeSet::new();
    while !claimed.contains(&last) {
        let jobs = match worker.claim(&mut consumer, 64, Duration::from_secs(1)).await {
            Ok(jobs) => jobs,
            Err(error) if error.code() == ErrorCode::QueueUnavailable => continue,
            Err(error) => panic!("{error}"),
        };
        for job in jobs {
            let done = worker.finish(me, &job.lease, &ending("done")).await.unwrap();
            assert_eq!(done, Commit::Done);
            claimed.insert(job.lease.job);
        }
    }
    let lost: Vec<_> = safe.difference(&claimed).collect();
    assert!(lost.is_empty(), "{} of {} confirmed jobs are lost", lost.len(), safe.len());
    timeout(SOON, await_end(&queue, &mut replies, last)).await.expect("the gateway heard of it");
}

#[tokio::test]
async fn a_server_that_cannot_sync_says_so_instead_of_claiming_it() {
    let redis = Redis::start();
    let queue = Queue::connect(&redis.config()).await.unwrap();
    // Without an append-only file, or before 7.2 without WAITAOF, nothing is known to be on disk.
    let (id, is_synced) = submit(&queue, Durability::Synced).await.unwrap();
    assert!(!is_synced);
    assert!(matches!(queue.state(&tenant(), id).await.unwrap(), JobState::Queued));
    assert!(submit(&queue, Durability::Fast).await.unwrap().1);

    // A job that the server does not have (any more) is never confirmed.
    let unknown = queue.confirm(&tenant(), JobId::generate(), Durability::Synced).await;
    assert_eq!(unknown.unwrap_err().code(), ErrorCode::QueueUnavailable);
}
