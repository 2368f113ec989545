//! A Redis that would lose jobs is refused before the first one is in it.

use shared::config;
use shared::error::ErrorCode;
use shared::redis::{Queue, Verdict, examine};

use crate::harness::{Fleet, Redis};

#[tokio::test]
async fn a_redis_that_evicts_is_refused_with_the_remedy() {
    let redis = Redis::start_with(&["--maxmemory", "64mb", "--maxmemory-policy", "volatile-lru"]);
    let refused = Queue::connect(&redis.config()).await.err().unwrap();
    assert_eq!(refused.code(), ErrorCode::InvalidRequest);
    assert!(refused.to_string().contains("set maxmemory-policy noeviction"), "{refused}");
    assert!(redis.keys().is_empty(), "it was written to");

    redis.run::<()>(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    Queue::connect(&redis.config()).await.unwrap();
}

#[tokio::test]
async fn what_a_user_may_not_read_is_named_and_the_fleet_goes_on() {
    let redis = Redis::start();
    redis.run::<()>(&["ACL", "SETUSER", "blind", "on", ">secret", "~*", "&*", "+@all", "-info"]);
    let url = format!("redis+unix://{}?user=blind&pass=secret", redis.socket().display());
    let config =
        config::Redis { url: Some(url), allow_plain_secrets: true, ..config::Redis::default() };

    let findings = examine(&config).await.unwrap();
    assert_eq!(findings.len(), 1);
    assert!(findings[0].found.contains("may not run INFO"), "{findings:?}");
    assert!(matches!(findings[0].verdict, Verdict::Warning(_)), "{findings:?}");

    let mut fleet = Fleet::new(&config).await;
    let id = fleet.enqueue().await;
    assert_eq!(fleet.claim_one().await.lease.job, id);
}
