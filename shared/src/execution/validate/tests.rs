//! What admission lets in, what it refuses, and in which words.

use proptest::prelude::*;
use serde_json::json;

use super::rules::matches_pattern;
use super::*;
use crate::ErrorCode;
use crate::config::TenantPolicy;

fn admit(body: serde_json::Value) -> Result<Job, Error> {
    admit_by(&Config::default(), "default", body)
}

fn admit_by(config: &Config, tenant: &str, body: serde_json::Value) -> Result<Job, Error> {
    let envelope: ExecuteEnvelope = serde_json::from_value(body).unwrap();
    Admission::new(config).unwrap().admit(&TenantId::new(tenant), envelope)
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

/// A policy in which nothing is as by default, and options that are just over it.
fn tight() -> (Policy, [(&'static str, serde_json::Value, &'static str); 10]) {
    let policy = Policy {
        max_memory: "1g".into(),
        max_cpu: 2.0,
        max_pids: 100,
        max_timeout_ms: 60_000,
        max_output_bytes: 2 << 20,
        max_disk: "600m".into(),
        images: vec!["python:*".into()],
        allow_writable_root: false,
        ..Policy::default()
    };
    let over = [
        ("memoryLimit", json!("1025m"), "maxMemory"),
        ("cpuLimit", json!(2.01), "maxCpu"),
        ("pidsLimit", json!(101), "maxPids"),
        ("timeoutMs", json!(60_001), "maxTimeoutMs"),
        ("maxOutputSize", json!((2 << 20) + 1), "maxOutputBytes"),
        ("sandboxSize", json!("601m"), "maxDisk"),
        ("tmpSize", json!("601m"), "maxDisk"),
        ("network", json!("host"), "networks"),
        ("image", json!("ubuntu:24.04"), "images"),
        ("readonlyRootFs", json!(false), "allowWritableRoot"),
    ];
    (policy, over)
}

#[test]
fn what_is_over_a_ceiling_is_refused_by_the_ceilings_key() {
    let (policy, over) = tight();
    let config = Config { policy, ..Config::default() };
    for (field, value, key) in over {
        let error = admit_by(&config, "any", with_option(field, value)).unwrap_err();
        assert_eq!(error.code(), ErrorCode::PolicyViolation, "{field}: {error}");
        assert!(error.message().contains(field.trim_end_matches("Ms")), "{error}");
        assert!(error.message().contains(&format!("(policy.{key})")), "{error}");
    }
    for (field, value) in [
        ("memoryLimit", json!("1g")),
        ("cpuLimit", json!(2)),
        ("pidsLimit", json!(100)),
        ("timeoutMs", json!(60_000)),
        ("maxOutputSize", json!(2 << 20)),
        ("sandboxSize", json!("600m")),
        ("image", json!("python:3.12")),
        ("image", json!("isol8:any")),
        ("readonlyRootFs", json!(true)),
    ] {
        admit_by(&config, "any", with_option(field, value)).unwrap_or_else(|error| {
            panic!("{field} at its ceiling: {error}");
        });
    }
}

#[test]
fn a_tenants_own_ceilings_are_named_as_such_and_hold_for_it_alone() {
    let (tight, over) = tight();
    let own: TenantPolicy = {
        let mut written = serde_json::to_value(&tight).unwrap();
        written.as_object_mut().unwrap().remove("tenants");
        serde_json::from_value(written).unwrap()
    };
    let mut config = Config::default();
    config.policy.tenants.insert("acme".into(), own);
    config.policy.networks.push(crate::execution::Network::Host);
    for (field, value, key) in over {
        let error = admit_by(&config, "acme", with_option(field, value.clone())).unwrap_err();
        assert_eq!(error.code(), ErrorCode::PolicyViolation, "{field}: {error}");
        assert!(error.message().contains(&format!("(policy.tenants.acme.{key})")), "{error}");
        admit_by(&config, "other", with_option(field, value)).unwrap();
    }
}

#[test]
fn a_tenants_ceiling_may_be_looser_and_the_others_are_everybodys() {
    let mut config = Config::default();
    let own = TenantPolicy { max_pids: Some(5000), ..TenantPolicy::default() };
    config.policy.tenants.insert("big".into(), own);
    let job = admit_by(&config, "big", with_option("pidsLimit", 5000.into())).unwrap();
    assert_eq!(job.limits.pids, 5000);
    let error = admit_by(&config, "big", with_option("memoryLimit", "1t".into())).unwrap_err();
    assert!(error.message().contains("(policy.maxMemory)"), "{error}");
    let admission = Admission::new(&config).unwrap();
    assert_eq!(admission.policy(&TenantId::new("big")).max_pids, 5000);
    assert_eq!(admission.policy(&TenantId::new("small")).max_pids, 1024);
}

#[test]
fn a_request_that_asks_for_nothing_passes_under_any_ceiling() {
    let own = TenantPolicy {
        max_memory: Some("32m".into()),
        max_cpu: Some(0.1),
        max_pids: Some(16),
        max_timeout_ms: Some(50),
        max_output_bytes: Some(10),
        max_disk: Some("1m".into()),
        images: Some(Vec::new()),
        seccomp: Some(Vec::new()),
        allow_writable_root: Some(false),
        ..TenantPolicy::default()
    };
    let mut config = Config::default();
    config.defaults.readonly_root_fs = false;
    config.policy.tenants.insert("small".into(), own);
    let body = json!({"request": {"runtime": "bash", "cmd": "true"}});
    let job = admit_by(&config, "small", body).unwrap();
    assert_eq!(job.timeout_ms, 50);
    let expected = Limits {
        memory_bytes: 32 << 20,
        cpu_millis: 100,
        pids: 16,
        sandbox_bytes: 1 << 20,
        tmp_bytes: 1 << 20,
        readonly_root: true,
        max_output_bytes: 10,
    };
    assert_eq!(job.limits, expected);
}

#[test]
fn what_isol8s_own_command_line_sends_passes_by_default() {
    let body = json!({
        "request": {"runtime": "python", "code": "1", "timeoutMs": 30000},
        "options": {"mode": "ephemeral", "network": "none", "cpuLimit": 1, "memoryLimit": "512m",
            "pidsLimit": 200, "sandboxSize": "2g", "timeoutMs": 30000, "debug": false,
            "persist": false, "logNetwork": false, "security": {"seccomp": "strict"},
            "networkFilter": {"whitelist": [], "blacklist": []},
            "audit": {"enabled": true, "destination": "s3"}, "remoteCode": {"enabled": true},
            "poolStrategy": "secure", "poolSize": {"clean": 9, "dirty": 9}},
    });
    let job = admit(body).unwrap();
    assert_eq!((job.limits.pids, job.limits.sandbox_bytes), (200, 2 << 30));
}

#[test]
fn the_filter_is_the_servers_own_unless_the_policy_has_the_one_asked_for() {
    let asking = |seccomp: &str| with_option("security", json!({"seccomp": seccomp}));
    let silent = || json!({"request": {"runtime": "python", "code": "1"}});
    let mut config = Config::default();
    assert_eq!(admit_by(&config, "a", silent()).unwrap().seccomp, Seccomp::Strict);
    for filter in ["unconfined", "custom", "web"] {
        let error = admit_by(&config, "a", asking(filter)).unwrap_err();
        assert_eq!(error.code(), ErrorCode::PolicyViolation);
        assert!(error.message().contains(filter) && error.message().contains("(policy.seccomp)"));
    }
    config.policy.seccomp.push(Seccomp::Unconfined);
    assert_eq!(admit_by(&config, "a", asking("unconfined")).unwrap().seccomp, Seccomp::Unconfined);
    assert_eq!(admit_by(&config, "a", silent()).unwrap().seccomp, Seccomp::Strict);

    config.policy.seccomp.push("web".parse().unwrap());
    assert_eq!(admit_by(&config, "a", asking("web")).unwrap().seccomp.name(), "web");
    admit_by(&config, "a", asking("other")).unwrap_err();
    serde_json::from_value::<ExecuteEnvelope>(asking("../web")).unwrap_err();

    // The server's own needs no leave, whatever it is.
    config.security.seccomp = Seccomp::Custom;
    config.policy.seccomp.clear();
    assert_eq!(admit_by(&config, "a", asking("custom")).unwrap().seccomp, Seccomp::Custom);
    assert_eq!(admit_by(&config, "a", silent()).unwrap().seccomp, Seccomp::Custom);
    admit_by(&config, "a", asking("strict")).unwrap_err();
}

#[test]
fn isolation_is_never_weaker_than_the_server_or_the_tenants_list_has_it() {
    use Isolation::{Container, Gvisor, Kata};
    let asking = |kind: &str| with_option("isolation", json!(kind));
    let silent = || json!({"request": {"runtime": "python", "code": "1"}});
    let mut config = Config::default();
    let own = TenantPolicy { isolation: Some(vec![Gvisor]), ..TenantPolicy::default() };
    config.policy.tenants.insert("guarded".into(), own);
    let got = |config: &Config, tenant, body| {
        admit_by(config, tenant, body).map(|job| job.isolation).map_err(|error| error.to_string())
    };
    assert_eq!(got(&config, "a", silent()), Ok(Container));
    assert_eq!(got(&config, "a", asking("gvisor")), Ok(Gvisor));
    assert_eq!(got(&config, "a", asking("kata")), Ok(Kata));
    // A tenant that must have one gets it without asking, and nothing else.
    assert_eq!(got(&config, "guarded", silent()), Ok(Gvisor));
    for other in ["container", "kata"] {
        let refused = got(&config, "guarded", asking(other)).unwrap_err();
        assert!(refused.contains("policy.tenants.guarded.isolation"), "{refused}");
    }
    config.defaults.isolation = Gvisor;
    assert_eq!(got(&config, "a", silent()), Ok(Gvisor));
    assert_eq!(got(&config, "a", asking("kata")), Ok(Kata));
    let refused = got(&config, "a", asking("container")).unwrap_err();
    assert!(refused.contains("isolation \"container\"") && refused.contains("(policy.isolation)"));
    config.policy.isolation = vec![Container, Gvisor];
    assert_eq!(got(&config, "a", asking("container")), Ok(Container));
    // The machine's own network is no part of a sandbox that is kept apart from the machine.
    config.policy.networks.push(Network::Host);
    let mut host = asking("gvisor");
    host["options"]["network"] = json!("host");
    assert!(got(&config, "a", host.clone()).unwrap_err().contains("network host"));
    host["options"]["isolation"] = json!("container");
    assert_eq!(got(&config, "a", host), Ok(Container));
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
fn secrets_and_output_paths_are_bounded() {
    let secret = |bytes: usize| with_option("secrets", json!({"A": "x".repeat(bytes), "B": "y"}));
    admit(secret(MAX_SECRET_BYTES - 1)).unwrap();
    assert!(refusal(secret(MAX_SECRET_BYTES)).message().contains("the most is 65536"));
    let paths = |count: usize| with_request("outputPaths", json!(vec!["a"; count]));
    admit(paths(MAX_OUTPUT_PATHS)).unwrap();
    let refused = refusal(paths(MAX_OUTPUT_PATHS + 1));
    assert!(refused.message().contains("the most is 100"), "{refused}");
}

#[test]
fn hosts_of_a_secret_are_hosts_alone() {
    let secret = |host: &str| {
        let options = json!({
            "network": "filtered", "secrets": {"KEY": {"value": "v", "hosts": [host]}},
        });
        admit(json!({"request": {"runtime": "python", "code": "1"}, "options": options}))
    };
    secret("a.b:8080").unwrap();
    for (host, said) in [
        (
            "http://a.b/",
            "leave out the scheme and the path; for a host that is spoken to without TLS",
        ),
        ("https://a.b:8443", "leave out the scheme"),
        ("a.b/v1", "leave out the path"),
        ("127.1", "not a canonical address"),
    ] {
        let error = secret(host).unwrap_err();
        let named = format!("secrets: KEY \"{host}\" is ");
        assert!(error.message().starts_with(&named) && error.message().contains(said), "{error}");
    }
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

/// Pieces of which hostile paths are made.
fn path() -> impl Strategy<Value = String> {
    let piece = prop_oneof!["[a-z.]{0,3}", Just("..".into()), Just("sandbox".into()), "\\PC{0,4}"];
    (any::<bool>(), prop::collection::vec(piece, 0..8)).prop_map(|(absolute, pieces)| {
        format!("{}{}", if absolute { "/" } else { "" }, pieces.join("/"))
    })
}

fn is_plain(path: &str) -> bool {
    path.starts_with('/') && !path.split('/').skip(1).any(|part| matches!(part, "" | "." | ".."))
}

proptest! {
    #[test]
    fn an_admitted_working_directory_is_plain_and_inside(given in path()) {
        if let Ok(found) = paths::workdir(Some(&given)) {
            prop_assert!(is_plain(&found), "{given:?} -> {found:?}");
            prop_assert!(found == "/sandbox" || found.starts_with("/sandbox/"), "{found:?}");
            prop_assert_eq!(paths::workdir(Some(&found)).unwrap(), found);
        }
    }

    #[test]
    fn an_admitted_file_is_plain_and_inside(given in path()) {
        if let Ok(found) = paths::file("files", &given) {
            prop_assert!(is_plain(&found), "{given:?} -> {found:?}");
            prop_assert!(found.starts_with("/sandbox/") || found.starts_with("/tmp/"), "{found:?}");
            prop_assert_eq!(paths::file("files", &found).unwrap(), found);
        }
    }

    #[test]
    fn what_climbs_and_comes_back_is_where_it_says(parts in prop::collection::vec("[a-z]{1,4}", 1..5)) {
        let detour: String = parts.iter().map(|part| format!("{part}/../{part}/./")).collect();
        let expected = format!("/sandbox/{}", parts.join("/"));
        prop_assert_eq!(paths::workdir(Some(&detour)).unwrap(), expected);
    }
}

#[test]
fn an_agent_needs_a_way_to_its_model_and_no_more() {
    let body = |network: serde_json::Value, request: serde_json::Value| {
        let mut body = json!({"request": {"runtime": "agent", "code": "fix it"}});
        for (name, value) in request.as_object().unwrap() {
            body["request"][name] = value.clone();
        }
        body["options"] = network;
        body
    };
    let filtered = || {
        let filter = json!({"whitelist": ["^api\\.example$"], "blacklist": []});
        json!({"network": "filtered", "networkFilter": filter})
    };
    for (options, request, words) in [
        (json!({}), json!({}), "Agent runtime requires network access"),
        (json!({}), json!({"code": null, "cmd": "true"}), "Agent runtime requires network access"),
        (
            json!({"network": {"setup": "filtered", "run": "none"}}),
            json!({}),
            "Agent runtime requires network access",
        ),
        (
            json!({"network": "filtered"}),
            json!({}),
            "Agent runtime requires at least one network whitelist entry",
        ),
        (filtered(), json!({"agentFlags": "--model 'x"}), "never closed"),
        (filtered(), json!({"code": "x".repeat(200_000)}), "The prompt has 200000 bytes"),
        (filtered(), json!({"code": "a\u{0}b"}), "NUL"),
        (json!({"network": "host"}), json!({}), "policy.networks"),
    ] {
        let message = refusal(body(options, request)).to_string();
        assert!(message.contains(words), "{words}: {message}");
    }
    let flags = json!({"agentFlags": "--model 'a b' --tools read,bash \"$(x)\""});
    let job = admit(body(filtered(), flags)).unwrap();
    assert_eq!(job.agent_flags, ["--model", "a b", "--tools", "read,bash", "$(x)"]);
    assert_eq!(job.image, "isol8:agent");
    let others = refusal(with_request("agentFlags", json!("--x"))).to_string();
    assert!(others.contains("agentFlags are for the agent runtime"), "{others}");
    // The server's own list will do: it is all that can be reached.
    let mut config = Config::default();
    config.network.whitelist = vec!["^api\\.example$".into()];
    let open = body(json!({"network": "filtered"}), json!({}));
    assert!(admit_by(&config, "default", open).is_ok());
}

#[test]
fn packages_are_sorted_and_may_come_with_an_image_that_the_tenant_may_use() {
    let mut config = Config::default();
    config.policy.images = vec!["acme/*".into()];
    let own = TenantPolicy { allow_packages: Some(false), ..TenantPolicy::default() };
    config.policy.tenants.insert("plain".into(), own);
    let mut body = with_request("installPackages", json!(["b", "a", " b "]));
    let job = admit_by(&config, "other", body.clone()).unwrap();
    assert_eq!(job.packages.iter().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(job.substitutes, ["acme/*", "isol8:*"]);
    let refused = admit_by(&config, "plain", body.clone()).unwrap_err();
    assert!(refused.message().contains("policy.tenants.plain.allowPackages"), "{refused}");
    // Who names an image gets that one.
    body["options"] = json!({"image": "acme/python:1"});
    assert!(admit_by(&config, "other", body).unwrap().substitutes.is_empty());
    assert!(admit(with_request("code", json!("1"))).unwrap().substitutes.is_empty());
    let refused = refusal(with_request("installPackages", json!(["--index-url=x"])));
    assert_eq!(refused.code(), ErrorCode::InvalidRequest);
}
