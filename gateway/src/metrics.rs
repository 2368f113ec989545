//! What a gateway counts. Each gateway has a recorder of its own, so two in one process do not
//! count into each other.

use std::time::Duration;

use http::StatusCode;
use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
    with_local_recorder,
};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use shared::redis::Depth;

/// Counter, labels `route` and `status`.
const REQUESTS: &str = "isol8_http_requests_total";
/// Histogram: from admission to the ending's arrival.
const EXECUTE_DURATION: &str = "isol8_execute_duration_seconds";
/// Gauge: requests that wait for a job.
const EXECUTE_WAITING: &str = "isol8_execute_waiting";
/// Counter: looks at the stored state of a job.
const LOOKS: &str = "isol8_execute_looks_total";
/// Counter: endings found by looking, so their message was lost or too big.
const FOUND_BY_LOOKING: &str = "isol8_execute_found_by_looking_total";
/// Gauge: open streams, SSE and WebSocket.
const STREAMS_OPEN: &str = "isol8_streams_open";
/// Counter: events told to clients of streams.
const STREAM_EVENTS: &str = "isol8_stream_events_sent_total";
/// Counter: looks at the stored output of a job, because messages were lost or the client is slow.
const STREAM_CATCH_UPS: &str = "isol8_stream_catch_ups_total";
/// Counter: gaps in the output that clients were told of.
const STREAM_GAPS: &str = "isol8_stream_gaps_total";
/// Counter, label `answer`: requests with a key that is none.
const AUTH_FAILURES: &str = "isol8_auth_failures_total";
/// Gauge, label `state`: jobs of the whole fleet.
const QUEUE_JOBS: &str = "isol8_queue_jobs";
/// Gauge: whether the queue answered this scrape.
const QUEUE_UP: &str = "isol8_queue_up";

/// Upper bounds in seconds: the goal for a warm hello is 3 ms, the ceiling of a job is minutes.
const BUCKETS_S: [f64; 16] = [
    0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0,
    600.0,
];

/// How often [`Metrics::upkeep`] is due.
pub(crate) const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// The numbers of one gateway.
pub(crate) struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    execute_duration: metrics::Histogram,
    looks: metrics::Counter,
    found_by_looking: metrics::Counter,
    stream_events: metrics::Counter,
    stream_catch_ups: metrics::Counter,
    stream_gaps: metrics::Counter,
}

/// What is counted at the time of a scrape.
pub(crate) struct Now {
    /// Requests that wait for a job.
    pub(crate) waiting: usize,
    /// Open streams.
    pub(crate) streams: usize,
    /// Jobs of the fleet; a queue that does not answer has none, rather than a stale number.
    pub(crate) depth: Option<Depth>,
}

impl Metrics {
    /// All zero.
    pub(crate) fn new() -> Self {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Full(EXECUTE_DURATION.into()), &BUCKETS_S)
            .expect("there is at least one bucket")
            .build_recorder();
        let handle = recorder.handle();
        with_local_recorder(&recorder, describe);
        let counter = |name| with_local_recorder(&recorder, || counter!(name));
        Self {
            execute_duration: with_local_recorder(&recorder, || histogram!(EXECUTE_DURATION)),
            looks: counter(LOOKS),
            found_by_looking: counter(FOUND_BY_LOOKING),
            stream_events: counter(STREAM_EVENTS),
            stream_catch_ups: counter(STREAM_CATCH_UPS),
            stream_gaps: counter(STREAM_GAPS),
            handle,
            recorder,
        }
    }

    /// One request was answered.
    pub(crate) fn count_request(&self, route: &str, status: StatusCode) {
        let (route, status) = (route.to_owned(), status.as_str().to_owned());
        with_local_recorder(&self.recorder, || {
            counter!(REQUESTS, "route" => route, "status" => status).increment(1);
        });
    }

    /// A key came that is none; one of too many of its address, or not.
    pub(crate) fn auth_failed(&self, is_one_too_many: bool) {
        let answer = if is_one_too_many { "limited" } else { "refused" };
        with_local_recorder(&self.recorder, || {
            counter!(AUTH_FAILURES, "answer" => answer).increment(1);
        });
    }

    /// One job came to its end.
    pub(crate) fn execute_took(&self, duration: Duration) {
        self.execute_duration.record(duration);
    }

    /// Someone looked at a job's stored state.
    pub(crate) fn looked(&self) {
        self.looks.increment(1);
    }

    /// And found its ending there.
    pub(crate) fn found_by_looking(&self) {
        self.found_by_looking.increment(1);
    }

    /// A client was told an event.
    pub(crate) fn stream_event(&self) {
        self.stream_events.increment(1);
    }

    /// Events were looked for in the store.
    pub(crate) fn stream_caught_up(&self) {
        self.stream_catch_ups.increment(1);
    }

    /// And were not even there.
    pub(crate) fn stream_gap(&self) {
        self.stream_gaps.increment(1);
    }

    /// The text of a scrape.
    pub(crate) fn render(&self, now: &Now) -> String {
        let Now { waiting, streams, depth } = now;
        with_local_recorder(&self.recorder, || {
            gauge!(EXECUTE_WAITING).set(count(*waiting as u64));
            gauge!(STREAMS_OPEN).set(count(*streams as u64));
            gauge!(QUEUE_UP).set(if depth.is_some() { 1.0 } else { 0.0 });
            let of = |pick: fn(&Depth) -> u64| depth.as_ref().map_or(f64::NAN, |d| count(pick(d)));
            gauge!(QUEUE_JOBS, "state" => "queued").set(of(|depth| depth.queued));
            gauge!(QUEUE_JOBS, "state" => "running").set(of(|depth| depth.running));
        });
        self.handle.render()
    }

    /// Folds recorded samples away; without it they pile up until the next scrape.
    pub(crate) fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus counts in floats; 2^53 is enough")]
const fn count(value: u64) -> f64 {
    value as f64
}

fn describe() {
    describe_counter!(REQUESTS, "HTTP requests answered");
    describe_histogram!(EXECUTE_DURATION, Unit::Seconds, "From admission to the job's ending");
    describe_gauge!(EXECUTE_WAITING, "Requests that wait for a job");
    describe_counter!(LOOKS, "Looks at the stored state of a job that is waited for");
    describe_counter!(FOUND_BY_LOOKING, "Endings whose message was lost or too big for one");
    describe_gauge!(STREAMS_OPEN, "Open streams, SSE and WebSocket");
    describe_counter!(STREAM_EVENTS, "Events told to clients of streams");
    describe_counter!(STREAM_CATCH_UPS, "Looks at stored output: messages lost, or clients slow");
    describe_counter!(STREAM_GAPS, "Gaps in the output that clients were told of");
    describe_counter!(AUTH_FAILURES, "Requests with an API key that is not valid");
    describe_gauge!(QUEUE_JOBS, "Jobs of the whole fleet by state");
    describe_gauge!(QUEUE_UP, "Whether the queue answered this scrape");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_gateways_count_apart() {
        let (one, other) = (Metrics::new(), Metrics::new());
        one.count_request("/execute", StatusCode::OK);
        one.execute_took(Duration::from_millis(2));
        let text = one.render(&Now {
            waiting: 3,
            streams: 4,
            depth: Some(Depth { queued: 7, running: 2 }),
        });
        for line in [
            r#"isol8_http_requests_total{route="/execute",status="200"} 1"#,
            r#"isol8_queue_jobs{state="queued"} 7"#,
            r#"isol8_execute_duration_seconds_bucket{le="0.002"} 1"#,
            "isol8_execute_waiting 3",
            "isol8_streams_open 4",
            "isol8_queue_up 1",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        let none = Now { waiting: 0, streams: 0, depth: None };
        assert!(!other.render(&none).contains("/execute"));
    }
}
