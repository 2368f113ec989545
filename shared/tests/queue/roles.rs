//! The users of `deploy/redis/users.acl`: what each may, and what it may not.

use std::path::{Path, PathBuf};
use std::process::Command;

use shared::config;
use shared::id::{GatewayId, JobId, TenantId, WorkerId};
use shared::redis::{Cancelled, Commit, Queue};

use crate::harness::{BLOCK, Redis, ending, job, submission};

const MAKE_USERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/redis/make-users.sh");

/// Makes the users; the file for the server.
pub(crate) fn make_users(directory: &Path) -> PathBuf {
    let made = Command::new("sh").arg(MAKE_USERS).arg(directory).status().unwrap();
    assert!(made.success());
    directory.join("users.acl")
}

pub(crate) fn start() -> (Redis, tempfile::TempDir) {
    let users = tempfile::tempdir().unwrap();
    let file = make_users(users.path()).display().to_string();
    let redis = Redis::start_with(&["--aclfile", &file]);
    (redis, users)
}

pub(crate) fn config(redis: &Redis, users: &Path, role: &str) -> config::Redis {
    config::Redis {
        url: Some(format!("redis+unix://{}?user={role}", redis.socket().display())),
        password_file: Some(users.join(format!("{role}.password"))),
        allow_plain_secrets: true,
        ..config::Redis::default()
    }
}

/// Runs a command as a user; the error's word if it is refused.
fn attempt(redis: &Redis, users: &Path, role: &str, line: &str) -> Result<(), String> {
    let password = std::fs::read_to_string(users.join(format!("{role}.password"))).unwrap();
    let url = format!("redis+unix://{}?user={role}&pass={password}", redis.socket().display());
    let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
    let mut words = line.split(' ');
    let mut command = redis::cmd(words.next().unwrap());
    words.for_each(|word| {
        command.arg(word);
    });
    command.exec(&mut connection).map_err(|error| error.code().unwrap_or("?").to_owned())
}

#[tokio::test]
async fn a_gateway_and_a_worker_do_their_work_as_users_of_their_own() {
    let (redis, users) = start();
    let gateway = Queue::connect(&config(&redis, users.path(), "gateway")).await.unwrap();
    let worker = Queue::connect(&config(&redis, users.path(), "worker")).await.unwrap();
    let (tenant, me, id) = (TenantId::new("acme"), WorkerId::generate(), JobId::generate());
    let mut consumer = worker.consumer(me).await.unwrap();
    gateway.enqueue(submission(&tenant, id, GatewayId::generate()), &job()).await.unwrap();
    let claimed = worker.claim(&mut consumer, 1, BLOCK).await.unwrap();
    let done = worker.finish(me, &claimed[0].lease, &ending("done")).await.unwrap();
    assert_eq!(done, Commit::Done);
    let waiting = JobId::generate();
    gateway.enqueue(submission(&tenant, waiting, GatewayId::generate()), &job()).await.unwrap();
    assert_eq!(gateway.cancel(&tenant, waiting).await.unwrap(), Cancelled::Now);
    assert!(gateway.api_keys().list().await.unwrap().is_empty());

    // Nor may a worker use what the gateway's connections may.
    let refused = worker.api_keys().list().await.err().unwrap();
    assert!(refused.to_string().contains("credentials"), "{refused}");
    let fenced = gateway.finish(me, &claimed[0].lease, &ending("forged")).await;
    assert_eq!(fenced.unwrap(), Commit::Done, "a repeated call is told what was done");
    let mut thief = gateway.consumer(WorkerId::generate()).await.unwrap();
    let refused = gateway.reclaim(&mut thief, 1).await.err().unwrap();
    assert!(refused.to_string().contains("credentials"), "{refused}");
}

#[test]
fn what_a_role_does_not_need_is_refused() {
    let (redis, users) = start();
    let cases = [
        ("gateway", "XREADGROUP GROUP workers thief COUNT 1 STREAMS v1:{s0}:jobs >"),
        ("gateway", "XAUTOCLAIM v1:{s0}:jobs workers thief 0 0-0"),
        ("gateway", "XCLAIM v1:{s0}:jobs workers thief 0 1-1"),
        ("gateway", "XGROUP DESTROY v1:{s0}:jobs workers"),
        ("gateway", "SUBSCRIBE v1:worker:somebody"),
        ("gateway", "PUBLISH other:channel x"),
        ("worker", "HGETALL v1:{keys}:all"),
        ("worker", "HSET v1:{keys}:key:0 facts {}"),
        ("worker", "XGROUP DESTROY v1:{s0}:jobs workers"),
        ("worker", "SUBSCRIBE v1:reply:somebody"),
        ("worker", "PUBLISH v1:worker:somebody x"),
    ];
    let both = [
        "KEYS *",
        "SCAN 0",
        "GET other:key",
        "EVAL return(1) 0",
        "SCRIPT FLUSH",
        "FUNCTION LIST",
        "FLUSHALL",
        "CONFIG GET requirepass",
        "ACL LIST",
        "CLIENT LIST",
        "MONITOR",
        "SLOWLOG GET",
        "REPLICAOF NO ONE",
        "PSUBSCRIBE *",
    ];
    let cases = cases
        .into_iter()
        .chain(both.iter().flat_map(|line| ["gateway", "worker"].map(|role| (role, *line))));
    for (role, line) in cases {
        let refused = attempt(&redis, users.path(), role, line);
        assert_eq!(refused, Err("NOPERM".to_owned()), "{role}: {line}");
    }
    for role in ["gateway", "worker", "admin"] {
        assert_eq!(attempt(&redis, users.path(), role, "PING"), Ok(()), "{role}");
    }
    // Which job a schedule has replaced: whichever of them has it run says so.
    for role in ["gateway", "worker"] {
        assert_eq!(attempt(&redis, users.path(), role, "PUBLISH v1:stops x"), Ok(()), "{role}");
    }
}
