//! The generator. Open loop: requests have intended starts that do not depend on answers, and
//! latency counts from those, so a server that stalls cannot hide it. Closed loop: each connection
//! sends its next request when it has the answer to the last, which finds the throughput.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;

use crate::connection::{Accepted, Connection, Failure, Rejection, Target};
use crate::measurement::{Measurement, Summary};
use crate::process::{ThreadClock, Watch};
use crate::scenario::{Bodies, Scenario};
use crate::schedule::{Arrivals, ExactTimer, starts};

/// Pause after a refused connection, so that a dead server is not asked a million times.
const REFUSED_PAUSE: Duration = Duration::from_millis(20);

/// How requests are offered.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// At a rate, whatever the answers do.
    Open {
        /// Jobs per second.
        rate: f64,
        /// How starts are spread.
        arrivals: Arrivals,
        /// Connections, and so requests in flight, at most.
        max_in_flight: usize,
        /// A request that could not be sent for this long is shed: counted, never sent.
        shed_after: Duration,
    },
    /// One request at a time on each connection.
    Closed {
        /// Number of connections.
        connections: usize,
        /// Stops after this many requests, if the time is not over before.
        jobs: Option<u64>,
    },
}

/// One run.
#[derive(Clone, Debug)]
pub struct Load {
    /// How requests are offered.
    pub shape: Shape,
    /// Time before the measured time.
    pub warm_up: Duration,
    /// Measured time.
    pub length: Duration,
    /// Limit for each answer.
    pub answer_limit: Duration,
    /// Processes whose memory is noted before and after.
    pub watched: Vec<u32>,
}

impl Load {
    /// A closed loop over `connections`, with answers due in 30 s.
    #[must_use]
    pub const fn closed(connections: usize, warm_up: Duration, length: Duration) -> Self {
        Self {
            shape: Shape::Closed { connections, jobs: None },
            warm_up,
            length,
            answer_limit: Duration::from_secs(30),
            watched: Vec::new(),
        }
    }

    /// An open loop with even spacing and at most 64 in flight, with answers due in 30 s.
    #[must_use]
    pub fn open(rate: f64, warm_up: Duration, length: Duration) -> Self {
        let shape = Shape::Open {
            rate,
            arrivals: Arrivals::Fixed,
            max_in_flight: 64,
            shed_after: Duration::from_secs(1),
        };
        Self { shape, ..Self::closed(0, warm_up, length) }
    }
}

/// What all connections of a run share.
#[derive(Debug)]
struct Run {
    target: Target,
    scenario: &'static Scenario,
    bodies: Bodies,
    /// Number of the next request.
    next: AtomicU64,
    started: Instant,
    load: Load,
    /// Intended starts; empty in a closed loop.
    starts: Vec<Duration>,
}

/// Runs `load` against `target`. Meant to be awaited on a runtime of one thread, the caller's: the
/// generator's CPU share is then exact, and it can never take more than one core.
///
/// # Errors
/// The load makes no sense, or a watched process is gone. Failing requests are part of the result.
pub async fn run(target: &Target, scenario: &'static Scenario, load: Load) -> Result<Summary> {
    let (workers, schedule) = plan(&load)?;
    let watches =
        load.watched.iter().map(|pid| Watch::start(*pid)).collect::<Result<Vec<Watch>>>()?;
    let clock = ThreadClock::start()?;
    let started = Instant::now();
    let run = Arc::new(Run {
        target: target.clone(),
        scenario,
        bodies: Bodies::new(scenario),
        next: AtomicU64::new(0),
        started,
        load,
        starts: schedule,
    });
    let mut connections = JoinSet::new();
    for _ in 0..workers {
        let run = Arc::clone(&run);
        connections.spawn(async move {
            match run.load.shape {
                Shape::Open { shed_after, .. } => run.open_loop(shed_after).await,
                Shape::Closed { jobs, .. } => Ok(run.closed_loop(jobs.unwrap_or(u64::MAX)).await),
            }
        });
    }
    let mut total = Measurement::default();
    while let Some(part) = connections.join_next().await {
        total.add(part.context("a connection's task was lost")??);
    }
    let measured = started.elapsed().saturating_sub(run.load.warm_up).min(run.load.length);
    let watched = watches.iter().map(Watch::change).collect::<Result<_>>()?;
    Ok(total.summary(measured, clock.percent()?, watched))
}

/// Number of connections, and the intended starts of an open loop.
fn plan(load: &Load) -> Result<(usize, Vec<Duration>)> {
    ensure!(!load.length.is_zero(), "a run of no length measures nothing");
    let (workers, starts) = match load.shape {
        Shape::Open { rate, arrivals, max_in_flight, .. } => {
            let starts = starts(arrivals, rate, load.warm_up + load.length)?;
            (max_in_flight.min(starts.len()), starts)
        }
        Shape::Closed { connections, .. } => (connections, Vec::new()),
    };
    ensure!((1..=10_000).contains(&workers), "{workers} connections; it takes 1 to 10000");
    Ok((workers, starts))
}

impl Run {
    fn measured_from(&self) -> Instant {
        self.started + self.load.warm_up
    }

    fn end(&self) -> Instant {
        self.measured_from() + self.load.length
    }

    async fn send(
        &self,
        connection: &mut Connection<'_>,
        number: u64,
    ) -> Result<Accepted, Rejection> {
        let body = self.bodies.get(number);
        connection.execute(body, self.scenario.stdout, self.load.answer_limit).await
    }

    /// Takes the next intended start, waits for it, sends. All idle connections wait at once, so a
    /// start is late only when all of them are busy.
    async fn open_loop(&self, shed_after: Duration) -> Result<Measurement> {
        let mut seen = Measurement::default();
        let mut timer = ExactTimer::new()?;
        let mut connection = Connection::new(&self.target);
        // Ahead of time, as far as it goes; a failure shows up again with the first request.
        let _ = connection.connect().await;
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(start) = usize::try_from(number).ok().and_then(|at| self.starts.get(at))
            else {
                return Ok(seen);
            };
            let intended = self.started + *start;
            timer.until(intended).await?;
            let lag = intended.elapsed();
            let measured = intended >= self.measured_from();
            if lag > shed_after {
                seen.shed += u64::from(measured);
                continue;
            }
            let outcome = self.send(&mut connection, number).await;
            if measured {
                seen.start_lag.record(lag);
            }
            note(&mut seen, outcome, intended.elapsed(), measured);
        }
    }

    /// Sends one request after the other. Answers that arrive after the end are not counted, as
    /// the time they took is not part of the measured time.
    async fn closed_loop(&self, jobs: u64) -> Measurement {
        let mut seen = Measurement::default();
        let mut connection = Connection::new(&self.target);
        while Instant::now() < self.end() {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= jobs {
                break;
            }
            let sent = Instant::now();
            let outcome = self.send(&mut connection, number).await;
            let answered = Instant::now();
            if outcome.is_ok() && answered > self.end() {
                break;
            }
            let refused = matches!(&outcome, Err(why) if why.failure == Failure::Connect);
            note(&mut seen, outcome, answered - sent, answered >= self.measured_from());
            if refused {
                tokio::time::sleep(REFUSED_PAUSE).await;
            }
        }
        seen
    }
}

fn note(
    seen: &mut Measurement,
    outcome: Result<Accepted, Rejection>,
    latency: Duration,
    measured: bool,
) {
    match outcome {
        Ok(accepted) if measured => {
            seen.latencies.record(latency);
            seen.cold += u64::from(accepted.cold);
        }
        Ok(_) => {}
        Err(rejection) if measured => seen.reject(rejection),
        Err(_) => seen.failed_in_warm_up += 1,
    }
}
