//! What is to go wrong, and when: drawn from a seed before anything starts, so that a run can be
//! repeated, with so many faults and no more.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::random::Random;

/// A process of a fleet: gateways come first, then workers.
pub(super) type Member = usize;

/// Longer than the lease of the fleets under test, which is three seconds.
const PAST_THE_LEASE_MS: (u64, u64) = (3500, 6000);

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub(super) enum Fault {
    /// A process is killed (SIGKILL); another takes its place.
    Kill { member: Member, back_after_ms: u64 },
    /// A process is asked to stop (SIGTERM); another takes its place.
    Terminate { member: Member },
    /// A process stands still (SIGSTOP), and goes on (SIGCONT).
    Pause { member: Member, for_ms: u64 },
    /// All connections of a process to Redis break.
    Cut { member: Member },
    /// Nothing passes between a process and Redis.
    Stall { member: Member, for_ms: u64 },
    /// A process has no way to Redis.
    Isolate { member: Member, for_ms: u64 },
    /// Redis does what a process asks for, and its answers are lost with the connections.
    LoseAnswers { member: Member, count: u32 },
    /// Redis is killed, and started again on its data.
    KillRedis { back_after_ms: u64 },
    /// Redis is asked to stop, and started again on its data.
    StopRedis { back_after_ms: u64 },
    /// The primary is killed; its replica takes its place, and it comes back as a replica.
    FailOver,
}

impl Fault {
    /// What it is counted as.
    #[must_use]
    pub(super) fn name(self, gateways: usize) -> String {
        let of = |member: Member| if member < gateways { "gateway" } else { "worker" };
        match self {
            Self::Kill { member, .. } => format!("{} killed", of(member)),
            Self::Terminate { member } => format!("{} told to stop", of(member)),
            Self::Pause { member, .. } => format!("{} paused", of(member)),
            Self::Cut { member } => format!("{} cut off for a moment", of(member)),
            Self::Stall { member, .. } => format!("{} stalled", of(member)),
            Self::Isolate { member, .. } => format!("{} isolated", of(member)),
            Self::LoseAnswers { member, .. } => format!("answers to a {} lost", of(member)),
            Self::KillRedis { .. } => "Redis killed".to_owned(),
            Self::StopRedis { .. } => "Redis told to stop".to_owned(),
            Self::FailOver => "failover".to_owned(),
        }
    }
}

/// A fault and when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Step {
    /// From the start of the load.
    pub(super) at_ms: u64,
    /// What happens then.
    pub(super) fault: Fault,
}

/// What a plan is made for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope {
    /// Gateways of the fleet.
    pub(super) gateways: usize,
    /// Its workers.
    pub(super) workers: usize,
    /// Whether its Redis is a primary with a replica and sentinels, or one server behind proxies.
    pub(super) has_replica: bool,
    /// How long it is under load.
    pub(super) length: Duration,
    /// How many faults.
    pub(super) faults: usize,
}

/// The faults of a fleet, in their order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Plan {
    /// All of them.
    pub(super) steps: Vec<Step>,
}

impl Plan {
    /// Draws `scope.faults` faults, spread over the time of the load. A process that has not
    /// recovered yet is left alone.
    #[must_use]
    pub(super) fn draw(random: &mut Random, scope: Scope) -> Self {
        let length_ms = u64::try_from(scope.length.as_millis()).unwrap_or(u64::MAX);
        let slot_ms = length_ms / (scope.faults as u64).max(1);
        let mut busy_until = vec![0; scope.gateways + scope.workers + 1];
        let redis = busy_until.len() - 1;
        let mut steps = Vec::with_capacity(scope.faults);
        for number in 0..scope.faults as u64 {
            let at_ms = number * slot_ms + random.below(slot_ms.max(1));
            // Some draw hits one that is well: not all are down at once for long.
            for _ in 0..64 {
                let (victim, fault, takes_ms) = draw_one(random, scope, redis);
                if busy_until[victim] <= at_ms {
                    busy_until[victim] = at_ms + takes_ms;
                    steps.push(Step { at_ms, fault });
                    break;
                }
            }
        }
        Self { steps }
    }
}

/// Whom it hits, what, and how long until it may be hit again.
fn draw_one(random: &mut Random, scope: Scope, redis: usize) -> (usize, Fault, u64) {
    let is_of_redis = random.percent(20);
    if is_of_redis && scope.has_replica {
        return (redis, Fault::FailOver, 30_000);
    }
    if is_of_redis {
        let back_after_ms = random.between(0, 1500);
        let fault = match random.percent(50) {
            true => Fault::KillRedis { back_after_ms },
            false => Fault::StopRedis { back_after_ms },
        };
        return (redis, fault, back_after_ms + 2000);
    }
    // Workers are hit more often: more is at stake there.
    let is_gateway = random.percent(30);
    let member = match is_gateway {
        true => random.index(scope.gateways),
        false => scope.gateways + random.index(scope.workers),
    };
    let pause_ms = match is_gateway {
        true => random.between(300, 3000),
        false => random.between(PAST_THE_LEASE_MS.0, PAST_THE_LEASE_MS.1),
    };
    let for_ms = random.between(200, 5000);
    let (fault, takes_ms) = match random.below(if scope.has_replica { 5 } else { 10 }) {
        0 | 1 => {
            let back_after_ms = random.between(0, 2000);
            (Fault::Kill { member, back_after_ms }, back_after_ms + 3000)
        }
        2 | 3 => (Fault::Pause { member, for_ms: pause_ms }, pause_ms + 1000),
        4 => (Fault::Terminate { member }, 6000),
        5 => (Fault::Cut { member }, 500),
        6 => (Fault::Stall { member, for_ms }, for_ms + 500),
        7 => (Fault::Isolate { member, for_ms }, for_ms + 500),
        _ => (Fault::LoseAnswers { member, count: 1 + (for_ms % 3) as u32 }, 500),
    };
    (member, fault, takes_ms)
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms: {:?}", self.at_ms, self.fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(has_replica: bool) -> Scope {
        Scope { gateways: 2, workers: 3, has_replica, length: Duration::from_secs(600), faults: 60 }
    }

    #[test]
    fn a_seed_gives_its_plan_again() {
        let draw = |seed| Plan::draw(&mut Random::new(seed, "plan"), scope(false));
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
        assert_eq!(draw(3).steps.len(), 60);
        assert!(draw(3).steps.is_sorted_by_key(|step| step.at_ms));
    }

    #[test]
    fn only_a_fleet_with_a_replica_fails_over_and_only_others_have_proxies() {
        let with = Plan::draw(&mut Random::new(1, "plan"), scope(true));
        let without = Plan::draw(&mut Random::new(1, "plan"), scope(false));
        assert!(with.steps.iter().any(|step| step.fault == Fault::FailOver));
        assert!(without.steps.iter().all(|step| step.fault != Fault::FailOver));
        let is_of_proxy = |step: &&Step| {
            matches!(step.fault, Fault::Cut { .. } | Fault::Stall { .. } | Fault::Isolate { .. })
        };
        assert_eq!(with.steps.iter().filter(is_of_proxy).count(), 0);
        assert!(without.steps.iter().filter(is_of_proxy).count() > 0);
    }
}
