//! What admission lets in, what it refuses, and in which words.

use serde_json::json;

use super::*;

fn admit(body: serde_json::Value) -> Result<Job, Error> {
    let envelope: ExecuteEnvelope = serde_json::from_value(body).unwrap();
    Admission::new(&Config::default()).unwrap().admit(envelope)
}

fn refusal(body: serde_json::Value) -> Error {
    admit(body).unwrap_err()
}

fn with_request(field: &str, value: serde_json::Value) -> serde_json::Value {
    let mut body = json!({"request": {"runtime": "python", "code": "1"}});
    body["request"][field] = value;
    body
}

fn with_option(field: &str, value: serde_json::Value) -> serde_json::Value {
    json!({"request": {"runtime": "python", "code": "1"}, "options": {field: value}})
}

#[test]
fn defaults_fill_in_what_the_request_leaves_open() {
    let job = admit(json!({"request": {"runtime": "python", "code": "print(1)"}})).unwrap();
    assert_eq!(job.image, "isol8:python");
    assert_eq!(job.timeout_ms, 30_000);
    assert_eq!(job.workdir, "/sandbox");
    assert_eq!(job.limits.memory_bytes, 512 << 20);
    assert_eq!(job.limits.cpu_millis, 1000);
    assert_eq!(job.limits.pids, 64);
    assert!(job.limits.readonly_root);
    assert_eq!(job.source, Source::Code { text: "print(1)".into(), extension: ".py".into() });
}

#[test]
fn the_request_timeout_wins_over_the_option() {
    let body = json!({"request": {"runtime": "bash", "cmd": "true", "timeoutMs": 5},
                      "options": {"timeoutMs": 7}});
    assert_eq!(admit(body).unwrap().timeout_ms, 5);
}

#[test]
fn exactly_one_source_is_required() {
    let none = refusal(json!({"request": {"runtime": "python"}}));
    assert!(none.message().contains("exactly one of"));
    let blank = refusal(json!({"request": {"runtime": "python", "code": "  \n"}}));
    assert!(blank.message().contains("exactly one of"));
    for pair in [("code", "cmd"), ("code", "codeUrl"), ("cmd", "codeUrl")] {
        let body = json!({"request": {"runtime": "python", pair.0: "a", pair.1: "b"}});
        assert!(refusal(body).message().contains("mutually exclusive"), "{pair:?}");
    }
}

#[test]
fn the_working_directory_stays_inside() {
    for (given, resolved) in
        [("a/b", "/sandbox/a/b"), ("/sandbox/x/../y", "/sandbox/y"), (".", "/sandbox")]
    {
        assert_eq!(admit(with_request("workdir", given.into())).unwrap().workdir, resolved);
    }
    for given in ["..", "/", "/etc", "../sandboxed", "/sandbox/../etc", "/sandboxed", "a/../../.."]
    {
        let error = refusal(with_request("workdir", given.into()));
        assert!(error.message().contains("Working directory must be inside /sandbox"), "{given}");
    }
}

#[test]
fn file_paths_stay_in_writable_places() {
    let job = admit(with_request("files", json!({"a/b.txt": "x", "/tmp/c": "y"}))).unwrap();
    let paths: Vec<_> = job.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["/tmp/c", "/sandbox/a/b.txt"]);
    for path in ["/etc/passwd", "../x", "/sandbox", "/proc/1/mem", "a\0b"] {
        refusal(with_request("files", json!({path: "x"})));
    }
}

#[test]
fn ceilings_are_named() {
    for (field, value) in [
        ("memoryLimit", json!("64g")),
        ("pidsLimit", json!(100_000)),
        ("cpuLimit", json!(500)),
        ("timeoutMs", json!(1_000_000_000)),
        ("network", json!("host")),
        ("sandboxSize", json!("100g")),
        ("maxOutputSize", json!(1_u64 << 40)),
    ] {
        let error = refusal(with_option(field, value));
        assert_eq!(error.code(), ErrorCode::PolicyViolation, "{field}: {error}");
    }
}

#[test]
fn bad_sizes_keep_the_contracts_words() {
    let error = refusal(with_option("memoryLimit", "lots".into()));
    assert!(error.message().contains("Invalid memory limit format: \"lots\""));
    refusal(with_option("memoryLimit", "1k".into()));
    refusal(with_option("pidsLimit", (-1).into()));
    refusal(with_option("cpuLimit", 0.into()));
    refusal(with_request("timeoutMs", 0.into()));
}

#[test]
fn odd_extensions_and_names_are_refused() {
    assert_eq!(
        admit(with_request("fileExtension", ".cjs".into())).unwrap().source,
        Source::Code { text: "1".into(), extension: ".cjs".into() }
    );
    for extension in ["./../x", "/x", ".p y", "."] {
        refusal(with_request("fileExtension", extension.into()));
    }
    refusal(with_request("env", json!({"A=B": "x"})));
    refusal(with_option("secrets", json!({"": "x"})));
    refusal(with_option("image", "--privileged".into()));
}

#[test]
fn patterns_match_whole_names() {
    for (pattern, text, fits) in [
        ("*", "anything", true),
        ("python:*", "python:3.12", true),
        ("python:*", "my/python:3", false),
        ("a*b*c", "a-b-c", true),
        ("a*b*c", "a-c-b", false),
        ("exact", "exact", true),
        ("exact", "exactly", false),
        ("*ab", "aab", true),
    ] {
        assert_eq!(matches_pattern(pattern, text), fits, "{pattern} {text}");
    }
}
