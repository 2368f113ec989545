//! Against real files: what is in a line, which files there are, and what is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use chrono::Utc;
use serde_json::{Value, json};

use super::file::LogFile;
use super::*;
use crate::config::{AuditDestination, Seccomp};
use crate::error::ErrorCode;
use crate::execution::{
    self, ExecutionRequest, ExecutionResult, Failure, Job, Limits, Network, PackageSet,
    ResourceUsage, Source, Timings,
};
use crate::id::{JobId, SessionId, TenantId};
use crate::isolation::Isolation;
use crate::runtime::Runtime;

/// Of `print(1)`.
const HASH: &str = "d287bb7f9d15abdc5b6e98536263815744b6ef21c8f3c839fc434ca70d8efe99";

fn config(directory: &Path) -> config::Audit {
    config::Audit {
        enabled: true,
        log_dir: Some(directory.join("audit").to_str().unwrap().into()),
        ..config::Audit::default()
    }
}

fn job() -> Job {
    Job {
        runtime: Runtime::Python,
        image: "isol8:python".into(),
        source: Source::Code { text: "print(1)".into(), extension: ".py".into() },
        timeout_ms: 1000,
        env: BTreeMap::new(),
        secrets: BTreeMap::new(),
        stdin: None,
        files: Vec::new(),
        output_paths: None,
        packages: PackageSet::default(),
        substitutes: Vec::new(),
        setup_script: None,
        workdir: "/sandbox".into(),
        network: Network::None,
        egress: None,
        agent_flags: Vec::new(),
        isolation: Isolation::Container,
        seccomp: Seccomp::Strict,
        limits: Limits {
            memory_bytes: 1 << 29,
            cpu_millis: 1000,
            pids: 64,
            sandbox_bytes: 1 << 29,
            tmp_bytes: 1 << 28,
            readonly_root: true,
            max_output_bytes: 1 << 20,
        },
        metadata: BTreeMap::from([("userId".into(), "ann".into()), ("run".into(), "7".into())]),
        stream: false,
        interactive: false,
        signals: false,
    }
}

fn result(stdout: &str) -> ExecutionResult {
    ExecutionResult {
        stdout: stdout.into(),
        stderr: "err".into(),
        exit_code: 3,
        duration_ms: 12,
        truncated: false,
        execution_id: JobId::generate(),
        runtime: Runtime::Python,
        timestamp: Utc::now(),
        container_id: "c0ffee".into(),
        isolation: Isolation::Container,
        resource_usage: Some(ResourceUsage { memory_mb: 9, ..ResourceUsage::default() }),
        network_logs: Vec::new(),
        network_logs_dropped: 0,
        files: None,
        session: None,
        events: 0,
        outcome: execution::Outcome::Exited,
        timings: Timings { sandbox_ms: 100.0, run_ms: 900.0, ..Timings::default() },
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

/// Records one result and returns its line.
async fn recorded(change: impl FnOnce(&mut config::Audit), result: &ExecutionResult) -> Value {
    let place = tempfile::tempdir().unwrap();
    let mut config = config(place.path());
    change(&mut config);
    let audit = Audit::start(&config).unwrap();
    audit.record(&Record::of_result(&job(), &TenantId::new("acme"), None, result));
    audit.shutdown().await;
    assert_eq!(audit.lost(), 0);
    let mut lines = lines(&place.path().join("audit/executions.log"));
    assert_eq!(lines.len(), 1);
    lines.remove(0)
}

#[tokio::test]
async fn a_record_has_the_contracts_fields_and_only_what_was_asked_for() {
    let result = result("out");
    let line = recorded(|_| {}, &result).await;
    let started = result.timestamp - chrono::TimeDelta::seconds(1);
    let expected = json!({
        "executionId": result.execution_id, "tenantId": "acme", "userId": "ann",
        "timestamp": started.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(), "runtime": "python",
        "codeHash": HASH, "containerId": "c0ffee", "exitCode": 3, "durationMs": 12,
        "outcome": "exited", "resourceUsage": result.resource_usage,
        "metadata": {"userId": "ann", "run": "7"},
    });
    assert_eq!(line, expected);

    let bare = recorded(|config| config.track_resources = false, &result).await;
    assert!(bare.get("resourceUsage").is_none());
    let coded = recorded(|config| config.include_code = true, &result).await;
    assert_eq!((&coded["code"], coded.get("stdout")), (&json!("print(1)"), None));
    let full = recorded(|config| config.include_output = true, &result).await;
    assert_eq!((&full["stdout"], &full["stderr"]), (&json!("out"), &json!("err")));
    assert!(full.get("code").is_none());
}

#[tokio::test]
async fn output_cannot_pass_for_a_record() {
    let hostile = "x\"}\n{\"executionId\":\"forged\"}\r\n\u{0}\u{1b}[2J\u{2028}";
    let line = recorded(|config| config.include_output = true, &result(hostile)).await;
    assert_eq!(line["stdout"], hostile);
    let marked = writer::marked(&[b"{}\n".to_vec(), b"{\"a\":1}\n".to_vec()]);
    assert_eq!(marked, b"AUDIT_LOG: {}\nAUDIT_LOG: {\"a\":1}\n");
}

#[tokio::test]
async fn failures_and_refusals_leave_a_trace() {
    let place = tempfile::tempdir().unwrap();
    let audit = Audit::start(&config(place.path())).unwrap();
    let (job, tenant) = (job(), TenantId::new("acme"));
    let session = SessionId::new("s").unwrap();
    let (id, began) = (JobId::generate(), Utc::now());
    for code in [ErrorCode::SetupFailed, ErrorCode::Cancelled] {
        let failure = Failure::new(code, "it ended");
        audit.record(&Record::of_failure(id, &job, &tenant, Some(&session), began, &failure));
    }
    let request = ExecutionRequest {
        runtime: "cobol".into(),
        cmd: Some("print(1)".into()),
        ..ExecutionRequest::default()
    };
    for code in [ErrorCode::PolicyViolation, ErrorCode::RateLimited] {
        let error = Error::new(code, "no");
        audit.record(&Record::of_refusal(id, &request, &tenant, Some(""), began, &error));
    }
    audit.shutdown().await;
    let lines = lines(&place.path().join("audit/executions.log"));
    let outcomes: Vec<_> = lines.iter().map(|line| line["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["failed", "cancelled", "refused", "refused"]);
    let codes: Vec<_> = lines.iter().map(|line| line["errorCode"].as_str().unwrap()).collect();
    assert_eq!(codes, ["SETUP_FAILED", "CANCELLED", "POLICY_VIOLATION", "RATE_LIMITED"]);
    for line in &lines {
        assert_eq!((&line["exitCode"], &line["containerId"]), (&Value::Null, &Value::Null));
        assert_eq!(line["codeHash"], HASH);
    }
    assert_eq!(
        (&lines[0]["sessionId"], &lines[0]["errorMessage"]),
        (&json!("s"), &json!("it ended"))
    );
    assert_eq!((lines[2].get("sessionId"), &lines[2]["runtime"]), (None, &json!("cobol")));
    assert_eq!(lines[2]["securityEvents"][0]["type"], "policy_violation");
    assert!(lines[3].get("securityEvents").is_none());
}

#[tokio::test]
async fn files_are_for_their_owner_alone_and_made_only_when_enabled() {
    let place = tempfile::tempdir().unwrap();
    let mut config = config(place.path());
    config.enabled = false;
    let audit = Audit::start(&config).unwrap();
    audit.record(&Record::of_result(&job(), &TenantId::master(), None, &result("")));
    audit.shutdown().await;
    assert!(!place.path().join("audit").exists());

    config.enabled = true;
    Audit::start(&config).unwrap().shutdown().await;
    let mode =
        |path: &str| fs::metadata(place.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("audit"), mode("audit/executions.log")), (0o700, 0o600));
}

#[tokio::test]
async fn a_log_that_cannot_be_written_stops_the_start() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("audit"), "a file").unwrap();
    let error = Audit::start(&config(place.path())).unwrap_err();
    assert!(error.message().contains("audit.logDir"), "{error}");

    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("audit")).unwrap();
    symlink("/dev/null", place.path().join("audit/executions.log")).unwrap();
    assert!(Audit::start(&config(place.path())).is_err(), "a link is not followed");
}

#[tokio::test]
async fn what_does_not_fit_is_counted_and_the_rest_is_written() {
    let place = tempfile::tempdir().unwrap();
    let audit = Audit::start(&config(place.path())).unwrap();
    let log = place.path().join("audit/executions.log");
    // Whoever holds the lock holds up the writer, as a slow disk would.
    let holder = File::open(&log).unwrap();
    holder.lock().unwrap();
    let (job, tenant, result) = (job(), TenantId::master(), result(""));
    let recorded = 3 * QUEUED_RECORDS;
    for _ in 0..recorded {
        audit.record(&Record::of_result(&job, &tenant, None, &result));
    }
    assert!(audit.lost() > 0);
    holder.unlock().unwrap();
    audit.shutdown().await;
    let written = lines(&log).len();
    assert!(written >= QUEUED_RECORDS);
    assert_eq!(written as u64 + audit.lost(), recorded as u64);
    audit.record(&Record::of_result(&job, &tenant, None, &result));
    assert_eq!(written as u64 + audit.lost(), recorded as u64 + 1, "after the shutdown: lost");
}

fn logs(directory: &Path) -> BTreeSet<PathBuf> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_full_file_is_put_aside_even_with_two_writers() {
    let place = tempfile::tempdir().unwrap();
    let config = config(place.path());
    let write = |name: &'static str| {
        let config = config.clone();
        std::thread::spawn(move || {
            let mut log = LogFile::open_with(&config, 1000).unwrap();
            for number in 0..200 {
                log.append(format!("{{\"line\":\"{name}{number}\"}}\n").as_bytes()).unwrap();
            }
        })
    };
    for writer in [write("a"), write("b")] {
        writer.join().unwrap();
    }
    let files = logs(&place.path().join("audit"));
    let written: BTreeSet<String> =
        files.iter().flat_map(|path| lines(path)).map(|line| line["line"].to_string()).collect();
    assert_eq!(written.len(), 400, "no line is lost, doubled or torn");
    for path in files.iter().filter(|path| !path.ends_with("executions.log")) {
        let bytes = fs::metadata(path).unwrap().len();
        assert!((1000..1100).contains(&bytes), "{} was put aside full", path.display());
    }
}

fn set_age(path: &Path, days: u64) {
    let time = SystemTime::now() - Duration::from_secs(days * 86_400);
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn a_file_of_another_day_is_put_aside_and_old_ones_of_ours_are_removed() {
    let place = tempfile::tempdir().unwrap();
    let mut config = config(place.path());
    config.retention_days = 10;
    let directory = place.path().join("audit");
    fs::create_dir(&directory).unwrap();
    let active = directory.join("executions.log");
    fs::write(&active, "{\"line\":\"yesterday\"}\n").unwrap();
    set_age(&active, 2);
    for (name, age) in [
        ("executions-1.log", 11),
        ("executions-2.jsonl", 11),
        ("executions-3.log", 9),
        ("other.log", 11),
        ("executions-4.txt", 11),
        ("xexecutions-5.log", 11),
    ] {
        fs::write(directory.join(name), "").unwrap();
        set_age(&directory.join(name), age);
    }
    let mut log = LogFile::open_with(&config, 1 << 20).unwrap();
    log.append(b"{\"line\":\"today\"}\n").unwrap();
    assert_eq!(lines(&active), [json!({"line": "today"})]);
    let left = logs(&directory);
    let has = |name: &str| left.contains(&directory.join(name));
    assert!(!has("executions-1.log") && !has("executions-2.jsonl"));
    for kept in ["executions-3.log", "other.log", "executions-4.txt", "xexecutions-5.log"] {
        assert!(has(kept), "{kept} is kept");
    }
    let aside = left.iter().find(|path| path.to_str().unwrap().contains("executions-20")).unwrap();
    assert_eq!(lines(aside), [json!({"line": "yesterday"})]);
}

fn script(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
}

#[tokio::test]
async fn the_script_is_run_after_each_record_with_the_path_of_the_log() {
    let place = tempfile::tempdir().unwrap();
    // Nothing in the path is for a shell to read.
    let odd = place.path().join("a b; $(touch pwned)");
    fs::create_dir(&odd).unwrap();
    let (program, seen) = (odd.join("after.sh"), place.path().join("seen"));
    let text = format!("#!/bin/sh\necho \"$#:$1\" >> '{}'\nexit 1\n", seen.display());
    script(&program, &text);
    let mut config = config(&odd);
    config.post_log_script = Some(program.to_str().unwrap().into());
    let audit = Audit::start(&config).unwrap();
    for _ in 0..9 {
        audit.record(&Record::of_result(&job(), &TenantId::master(), None, &result("")));
    }
    audit.shutdown().await;
    let log = odd.join("audit/executions.log");
    let calls = fs::read_to_string(&seen).unwrap();
    let expected = format!("1:{}", log.display());
    assert_eq!(calls.lines().collect::<Vec<_>>(), vec![expected.as_str(); 9]);
    assert_eq!(lines(&log).len(), 9);
}

#[tokio::test]
async fn a_script_that_cannot_be_run_does_no_harm() {
    let place = tempfile::tempdir().unwrap();
    let mut config = config(place.path());
    config.post_log_script = Some("/no/such/script".into());
    let audit = Audit::start(&config).unwrap();
    audit.record(&Record::of_result(&job(), &TenantId::master(), None, &result("")));
    audit.shutdown().await;
    assert_eq!(audit.lost(), 0);
    assert_eq!(lines(&place.path().join("audit/executions.log")).len(), 1);
}

#[tokio::test]
async fn standard_output_needs_no_directory() {
    let place = tempfile::tempdir().unwrap();
    let config = config::Audit { destination: AuditDestination::Stdout, ..config(place.path()) };
    Audit::start(&config).unwrap().shutdown().await;
    assert!(!place.path().join("audit").exists());
}
