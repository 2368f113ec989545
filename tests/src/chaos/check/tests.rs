//! Each invariant is broken once, in a run that is clean otherwise.

use super::*;
use crate::chaos::append_only::Ended;
use crate::chaos::evidence::Committed;
use crate::chaos::plan::Step;

const JOB: &str = "0198c1a0-0000-7000-8000-000000000001";

struct Run {
    kind: Kind,
    exchanges: Vec<Exchange>,
    faults: Vec<Injected>,
    evidence: Evidence,
}

impl Run {
    fn violations(&self) -> Vec<String> {
        let (exchanges, faults, evidence) = (&self.exchanges, &self.faults, &self.evidence);
        check(&Case { kind: self.kind, exchanges, faults, evidence, epoch_ms: 1_000_000 })
            .violations
    }

    fn assert_clean(&self) {
        assert_eq!(self.violations(), Vec::<String>::new());
    }

    /// There is a violation that says so.
    fn assert_wrong(&self, words: &str) {
        let found = self.violations();
        assert!(found.iter().any(|it| it.contains(words)), "\"{words}\" is not in {found:?}");
    }

    fn record(&mut self) -> &mut Record {
        self.evidence.records.get_mut(JOB).unwrap()
    }
}

fn result(stdout: &str) -> Value {
    json!({"stdout": stdout, "exitCode": 0, "outcome": "exited", "containerId": "c"})
}

fn exchange(purpose: Purpose, status: u16, answer: Value) -> Exchange {
    Exchange {
        at_ms: 100,
        took_ms: 10,
        client: 1,
        gateway: 0,
        tenant: "t".into(),
        purpose,
        status,
        key: if purpose == Purpose::Submit { "key".into() } else { String::new() },
        job: JOB.into(),
        durability: String::new(),
        expected: None,
        answer,
    }
}

/// A job that was submitted, ended, and was waited for.
fn clean() -> Run {
    let mut submitted = exchange(Purpose::Submit, 202, json!({"id": JOB}));
    submitted.expected =
        Some(Expected { stdout: Some("a\n".into()), tries: 1, ..Expected::default() });
    let ended = json!({"id": JOB, "state": "finished", "result": result("a")});
    let record = Record {
        state: "finished".into(),
        tenant: "t".into(),
        ending: json!({"result": result("a")}),
        ended_by: "w".into(),
        attempt: 1,
        started_ms: 1_000_200,
        kept_bytes: Some(9),
        is_temporary: true,
        ..Record::default()
    };
    let committed = Committed { worker: "w".into(), container: "c".into(), stdout: "a".into() };
    let once = |ended| BTreeMap::from([(JOB.to_owned(), vec![ended])]);
    Run {
        kind: Kind::Docker,
        exchanges: vec![submitted, exchange(Purpose::Wait, 200, ended)],
        faults: Vec::new(),
        evidence: Evidence {
            records: BTreeMap::from([(JOB.into(), record)]),
            endings: Some(once(Ended { by: "w".into(), holder: "w".into() })),
            committed: BTreeMap::from([(JOB.into(), vec![committed])]),
            kept: BTreeMap::from([("t".into(), 9)]),
            listed: BTreeSet::from([JOB.into()]),
            ..Evidence::default()
        },
    }
}

#[test]
fn a_clean_run_has_no_violation() {
    clean().assert_clean();
}

#[test]
fn losses_are_found() {
    let mut run = clean();
    run.evidence.records.clear();
    run.assert_wrong("is lost");

    let mut run = clean();
    run.record().state = "queued".into();
    run.assert_wrong("has not ended: it is queued");

    let mut run = clean();
    run.evidence.listed.clear();
    run.assert_wrong("is in no list");

    let mut run = clean();
    run.evidence.endings = Some(BTreeMap::new());
    run.assert_wrong("has no ending of job");
}

#[test]
fn doubles_are_found() {
    let mut run = clean();
    run.exchanges[1].answer["result"]["stdout"] = json!("b");
    run.assert_wrong("has two endings");

    let mut run = clean();
    let endings = run.evidence.endings.as_mut().unwrap().get_mut(JOB).unwrap();
    endings.push(endings[0].clone());
    run.assert_wrong("was ended 2 times");

    let mut run = clean();
    let committed = run.evidence.committed.get_mut(JOB).unwrap();
    committed.push(Committed { worker: "other".into(), ..committed[0].clone() });
    run.assert_wrong("was committed by several");

    let mut run = clean();
    let mut again = exchange(Purpose::Submit, 202, json!({"id": "another"}));
    again.job = "another".into();
    run.exchanges.push(again);
    run.assert_wrong("one idempotency key, key, is several jobs");
}

#[test]
fn endings_of_workers_that_had_lost_the_job_are_found() {
    let mut run = clean();
    let endings = run.evidence.endings.as_mut().unwrap().get_mut(JOB).unwrap();
    endings[0].holder = "other".into();
    run.assert_wrong("was ended by w while other had it");

    let mut run = clean();
    run.record().ended_by = "other".into();
    run.assert_wrong("is not what is kept");

    let mut run = clean();
    run.record().ending["result"]["containerId"] = json!("other");
    run.assert_wrong("is not what is kept");
}

#[test]
fn endings_that_cannot_be_are_found() {
    let mut run = clean();
    run.exchanges[0].expected.as_mut().unwrap().exit_code = 7;
    run.assert_wrong("exit code 0 instead of 7");

    let mut run = clean();
    run.exchanges[0].expected.as_mut().unwrap().tries = 2;
    run.assert_wrong("tried 1 times, not 2");

    let mut run = clean();
    run.exchanges.truncate(1);
    run.record().ending = json!({"error": {"code": "EXPIRED"}});
    run.assert_wrong("ended as EXPIRED");
    run.exchanges[0].expected.as_mut().unwrap().expires_ms = Some(5);
    run.assert_clean();

    let mut run = clean();
    run.exchanges[0].expected.as_mut().unwrap().delay_ms = 150;
    run.assert_wrong("began 50 ms before its time");

    let mut run = clean();
    run.record().expires_ms = Some(1_000_100);
    run.assert_wrong("began 100 ms after it had expired");
}

#[test]
fn what_is_left_behind_is_found() {
    let mut run = clean();
    run.evidence.kept.insert("t".into(), 8);
    run.assert_wrong("t keeps 9 bytes, and 8 are counted");

    let mut run = clean();
    run.record().is_temporary = false;
    run.assert_wrong("never goes");

    let mut run = clean();
    run.evidence.put_right.push("worker-1: put right".into());
    run.assert_wrong("put right");

    let mut run = clean();
    run.exchanges.push(exchange(Purpose::Wait, 500, json!({"code": "INTERNAL"})));
    run.assert_wrong("is answered 500");

    let mut run = clean();
    run.exchanges.push(exchange(Purpose::Wait, 0, json!({"broken": "timed out"})));
    run.assert_wrong("no answer to wait");
}

#[test]
fn only_what_was_not_confirmed_may_be_lost_and_only_in_a_failover() {
    let mut run = clean();
    run.kind = Kind::Failover;
    (run.evidence.endings, run.evidence.committed) = (None, BTreeMap::new());
    run.exchanges.truncate(1);
    run.evidence.records.clear();
    run.assert_wrong("is lost");
    let step = Step { at_ms: 0, fault: Fault::FailOver };
    run.faults.push(Injected { at_ms: 5000, done_ms: 9000, name: "failover".into(), step });
    run.assert_clean();
    run.exchanges[0].durability = "replicated; met".into();
    run.exchanges[0].expected.as_mut().unwrap().durability = Some("replicated");
    run.assert_wrong("is lost");
    // Long before the failover: the replica knew of it.
    run.exchanges[0].durability = "replicated; missed".into();
    run.assert_clean();
    run.faults[0].at_ms = 60_000;
    run.faults[0].done_ms = 61_000;
    run.assert_wrong("is lost");
}

#[test]
fn output_that_is_missing_or_comes_twice_is_found() {
    let event = |id: u64, offset: u64, data: &str| json!({"type": "stdout", "id": id, "phase": "code", "offset": offset, "data": data});
    let end = |events: u64, bytes: u64| json!({"type": "end", "totals": {"events": events, "stdoutBytes": bytes, "stderrBytes": 0}});
    let seen = |events: Vec<Value>| {
        let mut run = clean();
        run.exchanges.push(exchange(Purpose::Output, 200, Value::Array(events)));
        run
    };
    seen(vec![event(0, 0, "a"), event(1, 1, "\n"), end(2, 2)]).assert_clean();
    let restarted = json!({"type": "restarted", "id": 1});
    seen(vec![event(0, 0, "x"), restarted, event(2, 0, "a\n"), end(3, 2)]).assert_clean();
    let gap = json!({"type": "gap", "id": 4, "from": 0, "count": 5});
    seen(vec![gap, event(5, 7, "a\n"), end(6, 9)]).assert_clean();
    seen(vec![event(0, 0, "a\n")]).assert_wrong("has no end");
    seen(vec![event(1, 0, "a\n"), end(2, 2)]).assert_wrong("event 1 comes where 0 should");
    seen(vec![event(0, 1, "a\n"), end(1, 3)]).assert_wrong("offset 1 comes where 0 should");
    seen(vec![event(0, 0, "a\n"), event(1, 2, "a\n"), end(2, 4)]).assert_wrong("was seen as");
    seen(vec![event(0, 0, "a\n"), end(1, 3)]).assert_wrong("totals");
}

#[test]
fn streams_that_are_not_whole_are_found() {
    let seen = |status: u16, events: Value| {
        let mut run = clean();
        let mut stream = exchange(Purpose::Stream, status, events);
        (stream.job, stream.expected) = (String::new(), run.exchanges[0].expected.clone());
        run.exchanges.push(stream);
        run
    };
    let (out, exit) =
        (json!({"type": "stdout", "data": "a\n"}), json!({"type": "exit", "data": "0"}));
    let lost = json!({"type": "error", "code": "WORKER_LOST"});
    seen(200, json!([out, exit])).assert_clean();
    seen(200, json!([out, lost])).assert_clean();
    seen(0, json!([out, {"broken": "x"}])).assert_clean();
    seen(200, json!([exit])).assert_wrong("should be");
    seen(200, json!([out, out, lost])).assert_wrong("should be");
    seen(200, json!([out])).assert_wrong("just ends");
    seen(200, json!([{"type": "error", "code": "INTERNAL"}])).assert_wrong("ends with");
}

#[test]
fn sessions_that_forget_in_silence_are_found() {
    let called = |answers: &[(u16, &str)]| {
        let mut run = clean();
        for (status, stdout) in answers {
            let mut answer = json!({"stdout": stdout, "outcome": "exited"});
            if *status == 410 {
                answer = json!({"code": "SESSION_LOST"});
            }
            let mut call = exchange(Purpose::Call, *status, answer);
            (call.job, call.key) = (String::new(), "s".into());
            run.exchanges.push(call);
        }
        run
    };
    called(&[(200, "1"), (200, "2"), (410, ""), (200, "1")]).assert_clean();
    called(&[(200, "1"), (503, ""), (200, "3")]).assert_clean();
    called(&[(200, "1"), (503, ""), (200, "2")]).assert_clean();
    // It may come after a later one, once.
    called(&[(200, "1"), (503, ""), (200, "2"), (200, "4"), (200, "5")]).assert_clean();
    called(&[(200, "1"), (503, ""), (200, "2"), (200, "4"), (200, "6")])
        .assert_wrong("6 comes where 5 should");
    called(&[(200, "1"), (200, "1")]).assert_wrong("1 comes where 2 should");
    called(&[(200, "1"), (200, "3")]).assert_wrong("3 comes where 2 should");
    called(&[(200, "1"), (503, ""), (200, "4")]).assert_wrong("it can be 3 at most");
}

#[test]
fn batches_that_lose_or_double_an_item_are_found() {
    let read = |lines: &[Value]| {
        let mut run = clean();
        let mut taken = exchange(Purpose::Batch, 202, json!({"id": "b", "items": 2}));
        (taken.job, taken.key) = ("b".into(), "batch-key".into());
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let mut results = exchange(Purpose::Results, 200, json!(text));
        results.job = "b".into();
        run.exchanges.extend([taken, results]);
        run
    };
    let item = |item: u64| json!({"item": item, "outcome": "exited", "exitCode": 0});
    let lost = json!({"item": 1, "outcome": "failed", "error": {"code": "WORKER_LOST"}});
    let end = json!({"next": 2, "end": true});
    read(&[item(0), item(1), end.clone()]).assert_clean();
    read(&[item(0), lost, end.clone()]).assert_clean();
    read(&[item(0), end.clone()]).assert_wrong("there are results of {0}");
    read(&[item(0), item(1)]).assert_wrong("and an end: false");
    read(&[item(0), item(0), end.clone()]).assert_wrong("item 0 has two results");
    let other = json!({"item": 1, "outcome": "exited", "exitCode": 3});
    read(&[item(0), other, end.clone()]).assert_wrong("an item ended so");

    let mut run = read(&[item(0), item(1), end]);
    run.exchanges.pop();
    run.assert_wrong("batch b has not ended");
    let mut again = run.exchanges.last().unwrap().clone();
    again.job = "c".into();
    run.exchanges.push(again);
    run.assert_wrong("one idempotency key, batch-key, is several batches");

    // Its items' jobs do not stay.
    let mut run = clean();
    let committed = run.evidence.committed[JOB].clone();
    run.evidence.committed.insert("item".into(), committed);
    run.assert_wrong("there is no such job");
    run.evidence.items.insert("item".into());
    run.assert_clean();
}

#[test]
fn schedules_that_run_twice_or_never_are_found() {
    let shown = |runs: Value| {
        let mut run = clean();
        let mut shown = exchange(Purpose::Runs, 200, json!({"runs": runs}));
        (shown.job, shown.key) = (String::new(), "s".into());
        run.exchanges[0].purpose = Purpose::Execute;
        run.exchanges[0].status = 503;
        run.exchanges[0].key.clear();
        run.exchanges.push(shown);
        run
    };
    let ran = json!({"jobId": JOB, "outcome": "submitted"});
    shown(json!([ran])).assert_clean();
    shown(json!([{"outcome": "refused"}])).assert_wrong("jobs that nobody submitted");
    shown(json!([])).assert_wrong("schedule s ran 0 times");
    shown(json!([ran, ran])).assert_wrong("schedule s ran 2 times");
    shown(json!([{"jobId": "gone"}])).assert_wrong("the job of schedule s has not ended");
}
