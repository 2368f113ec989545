//! Which file counts, what wins over what, what is refused and in which words.

use super::*;
use crate::error::Error;

struct Place {
    project: tempfile::TempDir,
    home: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { project: tempfile::tempdir().unwrap(), home: tempfile::tempdir().unwrap() }
    }

    fn load(&self, variables: &[(&str, &str)]) -> Result<Loaded, Error> {
        Config::load(&Surroundings {
            directory: self.project.path().to_owned(),
            home: Some(self.home.path().to_owned()),
            environment: variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        })
    }

    fn project_file(&self, json: &str) -> &Self {
        std::fs::write(self.project.path().join("isol8.config.json"), json).unwrap();
        self
    }

    fn home_file(&self, json: &str) -> &Self {
        std::fs::create_dir_all(self.home.path().join(".isol8")).unwrap();
        std::fs::write(self.home.path().join(".isol8/config.json"), json).unwrap();
        self
    }
}

fn load(json: &str) -> Result<Loaded, Error> {
    Place::new().project_file(json).load(&[])
}

fn load_with(variables: &[(&str, &str)]) -> Result<Loaded, Error> {
    Place::new().load(variables)
}

#[test]
fn a_partial_file_keeps_the_neighbours() {
    let loaded =
        load(r#"{"maxConcurrent":3,"poolSize":5,"defaults":{"memoryLimit":"64m"}}"#).unwrap();
    let config = loaded.config;
    assert_eq!(config.max_concurrent, 3);
    assert_eq!(config.defaults.memory_limit, "64m");
    assert_eq!(config.defaults.timeout_ms, 30_000);
    assert_eq!((config.pool_size.clean, config.pool_size.dirty), (5, 5));
    assert!(loaded.source.is_some());
}

#[test]
fn no_file_means_the_contracts_defaults() {
    let loaded = load_with(&[]).unwrap();
    assert!(loaded.source.is_none() && loaded.sources.is_empty());
    assert_eq!(loaded.config.max_concurrent, 10);
    assert_eq!(loaded.config.remote_code.blocked_hosts.len(), 10);
}

#[test]
fn the_first_file_counts_alone_and_lists_replace() {
    let place = Place::new();
    place.home_file(r#"{"maxConcurrent":3,"remoteCode":{"blockedHosts":["^x$"]}}"#);
    let home = place.load(&[]).unwrap();
    assert_eq!(home.config.max_concurrent, 3);
    assert_eq!(home.config.remote_code.blocked_hosts, ["^x$"]);
    assert!(home.source.unwrap().ends_with(".isol8/config.json"));
    let project = place.project_file(r#"{"debug":true}"#).load(&[]).unwrap();
    assert_eq!(project.config.max_concurrent, 10);
    assert!(project.config.debug);
}

#[test]
fn the_environment_wins_over_the_file_and_keeps_types() {
    let place = Place::new();
    place.project_file(r#"{"defaults":{"memoryLimit":"64m","timeoutMs":7},"poolSize":4}"#);
    let loaded = place
        .load(&[
            ("ISOL8_DEFAULTS__MEMORY_LIMIT", "33554432"),
            ("ISOL8_DEFAULTS__READONLY_ROOT_FS", "false"),
            ("ISOL8_DEFAULTS__CPU_LIMIT", "0.5"),
            ("ISOL8_MAX_CONCURRENT", "7"),
            ("ISOL8_POOL_STRATEGY", "secure"),
            ("ISOL8_POOL_SIZE", "6"),
            ("ISOL8_NETWORK__WHITELIST", "^a$, ^b$"),
            ("ISOL8_NETWORK__BLACKLIST", r#"["^c,d$"]"#),
            ("ISOL8_WORKER__NAME", "12"),
            ("ISOL8_POLICY__TENANTS", r#"{"acme":{"maxPids":9}}"#),
            ("ISOL8_LOG", "debug"),
            ("ISOL8_SERVICE_HOST", "10.0.0.1"),
            ("ISOL8_DEBUG", ""),
        ])
        .unwrap();
    let config = &loaded.config;
    assert_eq!(config.defaults.memory_limit, "33554432");
    assert!(!config.defaults.readonly_root_fs);
    assert!((config.defaults.cpu_limit - 0.5).abs() < f64::EPSILON);
    assert_eq!(config.defaults.timeout_ms, 7);
    assert_eq!(config.max_concurrent, 7);
    assert_eq!(config.pool_strategy, PoolStrategy::Secure);
    assert_eq!((config.pool_size.clean, config.pool_size.dirty), (6, 6));
    assert_eq!(config.network.whitelist, ["^a$", "^b$"]);
    assert_eq!(config.network.blacklist, ["^c,d$"]);
    assert_eq!(config.worker.name, "12");
    assert_eq!(config.policy.tenants["acme"].max_pids, Some(9));
    let from = |path: &str| loaded.sources.get(path).map(ToString::to_string);
    assert_eq!(
        from("defaults.memoryLimit").as_deref(),
        Some("ISOL8_DEFAULTS__MEMORY_LIMIT"),
        "{:?}",
        loaded.sources
    );
    assert!(from("defaults.timeoutMs").unwrap().ends_with("isol8.config.json"));
    assert_eq!(from("policy.tenants.acme.maxPids").as_deref(), Some("ISOL8_POLICY__TENANTS"));
    assert_eq!(from("defaults.network"), None);
}

#[test]
fn names_that_were_there_before_keep_their_meaning() {
    let place = Place::new();
    let variables = [
        ("ISOL8_REDIS_URL", "redis://a"),
        ("ISOL8_REDIS__URL", "redis://b"),
        ("ISOL8_PORT", "4000"),
        ("PORT", "5000"),
        ("ISOL8_AUDIT_DIR", "/from/environment"),
    ];
    let config = place.load(&variables).unwrap().config;
    assert_eq!(config.redis.url.as_deref(), Some("redis://a"));
    assert_eq!(config.gateway.port, 4000);
    assert_eq!(config.audit.log_dir.as_deref(), Some("/from/environment"));
    // The file's own directory wins over ISOL8_AUDIT_DIR, but not over the scheme.
    place.project_file(r#"{"audit":{"logDir":"/from/file"}}"#);
    assert_eq!(place.load(&variables).unwrap().config.audit.log_dir.as_deref(), Some("/from/file"));
    let scheme = [("ISOL8_AUDIT__LOG_DIR", "/from/scheme"), ("PORT", "tcp://10.0.0.1:80")];
    let config = place.load(&scheme).unwrap().config;
    assert_eq!(config.audit.log_dir.as_deref(), Some("/from/scheme"));
    assert_eq!(config.gateway.port, 3000);
}

#[test]
fn unknown_keys_are_refused_with_place_and_nearest_name() {
    for (json, path, meant) in [
        (r#"{"maxConcurent":1}"#, "maxConcurent", "maxConcurrent"),
        (r#"{"defaults":{"memorylimit":"1g"}}"#, "defaults.memorylimit", "memoryLimit"),
        (r#"{"poolSize":{"clean":1,"dirt":1}}"#, "poolSize.dirt", "dirty"),
        (r#"{"policy":{"tenants":{"a":{"maxPid":9}}}}"#, "policy.tenants.a.maxPid", "maxPids"),
        (
            r#"{"prebuiltImages":[{"tag":"t","runtime":"node","installPackage":[]}]}"#,
            "prebuiltImages.0.installPackage",
            "installPackages",
        ),
    ] {
        let error = load(json).unwrap_err();
        let message = error.message();
        let place = format!("isol8.config.json: {path}: there is no such key");
        assert!(message.contains(&place), "{message}");
        assert!(message.contains(&format!("did you mean \"{meant}\"?")), "{message}");
    }
    let far = load(r#"{"zzz":1}"#).unwrap_err();
    assert!(far.message().contains("Known are: ") && far.message().contains("poolSize"));
    let variable = load_with(&[("ISOL8_DEFAULTS__MEMRY_LIMIT", "1g")]).unwrap_err();
    assert!(
        variable.message().contains("ISOL8_DEFAULTS__MEMRY_LIMIT: defaults.memryLimit: ")
            && variable.message().contains("did you mean \"memoryLimit\"?"),
        "{variable}"
    );
    assert!(load_with(&[("ISOL8_DEFUALTS__MEMORY_LIMIT", "1g")]).is_err());
    assert!(load(r#"{"$schema":"./isol8.config.schema.json"}"#).is_ok());
}

#[test]
fn wrong_values_name_file_field_and_what_is_allowed() {
    for (json, words) in [
        (r#"{"security":{"seccomp":"none"}}"#, ["security.seccomp", "strict, unconfined, custom"]),
        (r#"{"audit":{"destination":"s3"}}"#, ["audit.destination", "filesystem, file, stdout"]),
        (r#"{"poolStrategy":"slow"}"#, ["poolStrategy", "fast, secure"]),
        (r#"{"defaults":{"timeoutMs":"1s"}}"#, ["defaults.timeoutMs", "u64"]),
        (r#"{"maxConcurrent":-1}"#, ["maxConcurrent", "-1"]),
        (r#"{"poolSize":"big"}"#, ["poolSize", "a number, or an object of clean and dirty"]),
        (r#"{"defaults":null}"#, ["defaults", "Defaults"]),
        (r#"{"prebuiltImages":[{"tag":"a"}]}"#, ["prebuiltImages", "\"runtime\" is missing"]),
        (r#"{"network":{"whitelist":"x"}}"#, ["network.whitelist", "sequence"]),
        (
            r#"{"policy":{"allowPrivateAddresses":["10.0.0.1"]}}"#,
            ["policy.allowPrivateAddresses", "a range of addresses like 10.1.0.0/16"],
        ),
    ] {
        let error = load(json).unwrap_err();
        for word in words.into_iter().chain(["isol8.config.json"]) {
            assert!(error.message().contains(word), "{json}: {word}: {error}");
        }
    }
    let variable = load_with(&[("ISOL8_DEFAULTS__TIMEOUT_MS", "soon")]).unwrap_err();
    assert!(variable.message().contains("ISOL8_DEFAULTS__TIMEOUT_MS"), "{variable}");
    let broken = load("{").unwrap_err();
    assert!(broken.message().contains("Configuration is not valid"), "{broken}");
    assert!(broken.message().contains("isol8.config.json"), "{broken}");
}

#[test]
fn contradictions_are_refused_by_name() {
    for (json, keys) in [
        (r#"{"redis":{"leaseMs":1000,"renewMs":900}}"#, &["redis.renewMs", "redis.leaseMs"][..]),
        (r#"{"maxConcurrent":0}"#, &["maxConcurrent"]),
        (r#"{"defaults":{"memoryLimit":"8g"}}"#, &["defaults.memoryLimit", "policy.maxMemory"]),
        (r#"{"defaults":{"memoryLimit":"lots"}}"#, &["defaults.memoryLimit"]),
        (r#"{"defaults":{"memoryLimit":"1k"}}"#, &["defaults.memoryLimit"]),
        (r#"{"policy":{"maxDisk":"1m"}}"#, &["defaults.sandboxSize", "policy.maxDisk"]),
        (r#"{"policy":{"maxCpu":0.5}}"#, &["defaults.cpuLimit", "policy.maxCpu"]),
        (r#"{"policy":{"maxTimeoutMs":1}}"#, &["defaults.timeoutMs", "policy.maxTimeoutMs"]),
        (r#"{"policy":{"maxPids":2}}"#, &["policy.maxPids"]),
        (r#"{"policy":{"networks":[]}}"#, &["defaults.network", "policy.networks"]),
        (r#"{"defaults":{"network":"host"}}"#, &["defaults.network", "policy.networks"]),
        (
            r#"{"policy":{"tenants":{"a":{"networks":["host"]}}}}"#,
            &["defaults.network", "policy.tenants.a.networks"],
        ),
        (r#"{"policy":{"tenants":{"a":{"maxPids":1}}}}"#, &["policy.tenants.a.maxPids"]),
        (r#"{"policy":{"tenants":{"":{}}}}"#, &["policy.tenants", "1 to 64"]),
        (r#"{"policy":{"tenants":{"a b":{}}}}"#, &["policy.tenants", "\"a b\""]),
        (
            r#"{"defaults":{"readonlyRootFs":false},"policy":{"allowWritableRoot":false}}"#,
            &["defaults.readonlyRootFs", "policy.allowWritableRoot"],
        ),
        (r#"{"security":{"seccomp":"custom"}}"#, &["security.customProfilePath"]),
        (r#"{"policy":{"seccomp":["custom"]}}"#, &["policy.seccomp", "security.customProfilePath"]),
        (
            r#"{"policy":{"seccomp":["web"]}}"#,
            &["policy.seccomp", "web", "security.profileDirectory"],
        ),
        (r#"{"security":{"profileDirectory":""}}"#, &["security.profileDirectory", "empty"]),
        (r#"{"audit":{"postLogScript":"run.sh"}}"#, &["audit.postLogScript", "absolute"]),
        (
            r#"{"audit":{"postLogScript":"/bin/true","destination":"stdout"}}"#,
            &["audit.postLogScript", "audit.destination"],
        ),
        (r#"{"remoteCode":{"allowedSchemes":["ftp"]}}"#, &["remoteCode.allowedSchemes", "https"]),
        (
            r#"{"remoteCode":{"enabled":true,"allowedSchemes":[]}}"#,
            &["remoteCode.enabled", "remoteCode.allowedSchemes"],
        ),
        (r#"{"cleanup":{"maxContainerAgeMs":0}}"#, &["cleanup.maxContainerAgeMs"]),
        (r#"{"auth":{"defaultTtlMs":0}}"#, &["auth.defaultTtlMs"]),
        (r#"{"worker":{"maxContainers":2}}"#, &["worker.maxContainers", "maxConcurrent"]),
        (
            r#"{"worker":{"maxContainers":10},"poolSize":3}"#,
            &["worker.maxContainers", "poolSize.clean"],
        ),
        (
            r#"{"worker":{"packageCacheSize":"10m"}}"#,
            &["worker.packageSetSize", "worker.packageCacheSize"],
        ),
        (r#"{"worker":{"installTimeoutMs":0}}"#, &["worker.installTimeoutMs"]),
        (r#"{"worker":{"registryHosts":["http://a"]}}"#, &["worker.registryHosts"]),
        (r#"{"worker":{"resolvers":["dns.example"]}}"#, &["worker.resolvers", "192.0.2.53:5353"]),
        (r#"{"worker":{"listen":"9000"}}"#, &["worker.listen", "ADDRESS:PORT"]),
        (
            r#"{"prebuiltImages":[{"tag":"isol8:node","runtime":"node","installPackages":[]}]}"#,
            &["prebuiltImages", "base image"],
        ),
        (r#"{"gateway":{"maxStreams":0}}"#, &["gateway.maxStreams"]),
    ] {
        let error = load(json).unwrap_err();
        for key in keys.iter().copied().chain(["isol8.config.json: "]) {
            assert!(error.message().contains(key), "{json}: {key}: {error}");
        }
    }
}

#[test]
fn a_tenant_has_its_own_ceilings_and_else_everybodys() {
    let json = r#"{"policy":{"maxPids":100,"tenants":{"acme":{"maxPids":200,"images":[]}}}}"#;
    let policy = load(json).unwrap().config.policy;
    let acme = policy.of(&crate::id::TenantId::new("acme"));
    assert_eq!((acme.max_pids, acme.images.len(), acme.max_sessions), (200, 0, 100));
    let other = policy.of(&crate::id::TenantId::new("other"));
    assert_eq!((other.max_pids, other.images.len()), (100, 1));
}

#[test]
fn every_key_can_be_written_back() {
    let written = serde_json::to_string(&Config::default()).unwrap();
    let again = load(&written).unwrap().config;
    assert_eq!(serde_json::to_string(&again).unwrap(), written);
}

#[test]
fn the_published_schema_is_the_types_own() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/isol8.config.schema.json");
    let published = std::fs::read_to_string(path).unwrap();
    // By value: the order of the keys depends on how serde_json was built.
    let published: serde_json::Value = serde_json::from_str(&published).unwrap();
    assert!(
        published == json_schema(),
        "write it anew: isol8 config --schema > docs/isol8.config.schema.json"
    );
}

#[test]
fn the_schema_is_as_strict_as_the_reader() {
    let schema = json_schema();
    assert_eq!(schema["$schema"], "http://json-schema.org/draft-07/schema#");
    assert_eq!(schema["additionalProperties"], false);
    assert!(schema.get("required").is_none(), "every section is optional");
    assert!(schema["properties"]["$schema"].is_object());
    for (name, definition) in schema["definitions"].as_object().unwrap() {
        if definition["type"] == "object" {
            assert_eq!(definition["additionalProperties"], false, "{name}");
        }
    }
    let required = &schema["definitions"]["PrebuiltImage"]["required"];
    assert_eq!(*required, serde_json::json!(["tag", "runtime", "installPackages"]));
}
