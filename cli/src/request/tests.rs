use std::collections::BTreeMap;

use clap::Parser as _;
use serde_json::json;
use shared::config::{Config, Loaded};

use super::*;
use crate::args::{Cli, Command, JobsCommand, SessionCommand};

fn args(line: &[&str]) -> RunArgs {
    let words = ["isol8", "run"].iter().chain(line).copied();
    match Cli::try_parse_from(words).unwrap().command {
        Command::Run(args) => *args,
        other => panic!("{other:?}"),
    }
}

fn nothing_written() -> Loaded {
    Loaded { config: Config::default(), source: None, sources: BTreeMap::new() }
}

fn request(line: &[&str]) -> anyhow::Result<Execution> {
    let args = args(line);
    of_run(&args, &session(&args)?, &nothing_written())
}

fn refusal(line: &[&str]) -> String {
    request(line).unwrap_err().to_string()
}

#[test]
fn a_binding_that_binds_nothing_is_refused() {
    let line = |binding: &str| {
        let words = ["-e", "1", "--secret", "API_KEY=v", "--secret-host", binding];
        request(&words).map(|execution| execution.options.secrets)
    };
    let bound = line("API_KEY=api.test").unwrap();
    assert!(
        matches!(&bound["API_KEY"], SecretOption::Bound(secret) if secret.hosts == ["api.test"])
    );
    for (binding, said) in [
        ("API_KEY:api.test", "is not KEY=HOST"),
        ("API_KEY=", "is not KEY=HOST"),
        ("=api.test", "is not KEY=HOST"),
        ("APIKEY=api.test", "there is no --secret APIKEY"),
    ] {
        let error = line(binding).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn a_pair_without_a_value_is_refused_and_not_shown() {
    for flag in ["--secret", "--env"] {
        let said = refusal(&["-e", "1", flag, "s3cret"]);
        assert!(said.contains(flag) && said.contains("KEY=VALUE"), "{said}");
        assert!(!said.contains("s3cret"), "{said}");
        assert!(request(&["-e", "1", flag, "=v", flag, "K=a=b"]).is_ok(), "{flag}");
    }
}

#[test]
fn a_host_of_a_secret_says_whether_it_is_spoken_to_over_tls() {
    let bound = |hosts: &[&str]| {
        let mut line = vec!["-e", "1", "--secret", "KEY=v"];
        hosts.iter().for_each(|host| line.extend(["--secret-host", host]));
        let secrets = request(&line)?.options.secrets;
        let SecretOption::Bound(secret) = &secrets["KEY"] else { panic!("{secrets:?}") };
        assert_eq!(secret.value, "v");
        anyhow::Ok((secret.hosts.join(" "), secret.tls))
    };
    for (hosts, found) in [
        (&["KEY=api.test"][..], ("api.test", true)),
        (&["KEY=https://api.test:8443"], ("api.test:8443", true)),
        (&["KEY=http://api.test", "KEY=http://[::1]:80"], ("api.test [::1]:80", false)),
        (&["KEY=api.test", "KEY=b.test"], ("api.test b.test", true)),
    ] {
        assert_eq!(bound(hosts).unwrap(), (found.0.to_owned(), found.1));
    }
    for (hosts, said) in [
        (&["KEY=api.test", "KEY=http://b.test"][..], "all with TLS or all without"),
        (&["KEY=http://"], "KEY=http://HOST"),
        (&["KEY=http://api.test/"], "KEY=http://HOST"),
        (&["KEY=ftp://api.test"], "KEY=http://HOST"),
    ] {
        let error = bound(hosts).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn each_command_that_runs_a_program_makes_the_same_request_of_the_same_flags() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a.txt"), "x").unwrap();
    let files = directory.path().to_str().unwrap();
    let flags = "-e 1 -r bash --timeout 5 --env A=b --secret C=d --secret-host C=http://api.test --stdin in \
        --workdir sub --net filtered --allow x --deny y --log-network --memory 64m --cpu 0.5 \
        --pids-limit 9 --max-output 7 --sandbox-size 1m --tmp-size 2m --image isol8:x --install jq \
        --setup true --hash ff --allow-insecure-code-url --agent-flags f --files";
    let flags: Vec<_> = flags.split_ascii_whitespace().chain([files]).collect();
    let parse = |words: &[&str]| {
        let words = ["isol8"].iter().chain(words).chain(&flags).copied();
        Cli::try_parse_from(words).unwrap().command
    };
    let json = |found: &Execution| {
        serde_json::to_string(&(&found.request, &found.options, &found.session_id)).unwrap()
    };
    let named = Session::Named("s".into());
    let Command::Run(run) = parse(&["run"]) else { panic!() };
    let run = of_run(&run, &named, &nothing_written()).unwrap();
    let Command::Session(SessionCommand::Exec(exec)) = parse(&["session", "exec", "s"]) else {
        panic!()
    };
    assert_eq!(json(&of_exec(&exec, &nothing_written()).unwrap()), json(&run));
    let Command::Jobs(JobsCommand::Submit(submit)) = parse(&["jobs", "submit"]) else { panic!() };
    assert_eq!(json(&of_request(&submit.request, &named, &nothing_written()).unwrap()), json(&run));
    for part in ["\"networkFilter\"", "\"logNetwork\":true", "\"/sandbox/a.txt\"", "\"tls\":false"]
    {
        assert!(json(&run).contains(part), "{part}: {}", json(&run));
    }
}

#[test]
fn sources_are_resolved_in_the_contracts_order() {
    let inline = request(&["-e", "print(1)"]).unwrap().request;
    assert_eq!((inline.runtime.as_str(), inline.code.as_deref()), ("python", Some("print(1)")));
    let command = request(&["--cmd", "ls -l"]).unwrap().request;
    assert_eq!((command.runtime.as_str(), command.cmd.as_deref()), ("bash", Some("ls -l")));
    assert_eq!(command.code, None);
    assert_eq!(refusal(&["/no/such.py"]), "File not found: /no/such.py");
    for others in [&["a.py"][..], &["-e", "1"], &["--url", "u"], &["--github", "a/b/c/d.py"]] {
        let line: Vec<_> = ["--cmd", "ls"].iter().chain(others).copied().collect();
        assert!(refusal(&line).starts_with("--cmd cannot be combined"), "{line:?}");
    }
    for other in [&["a.py"][..], &["-e", "1"]] {
        let line: Vec<_> = ["--gist", "1/a.py"].iter().chain(other).copied().collect();
        assert!(refusal(&line).contains("cannot be combined"), "{line:?}");
    }
}

#[test]
fn addresses_are_made_of_short_forms() {
    for (line, url, runtime) in [
        (&["--url", "https://h/x.ts?raw=1#top"][..], "https://h/x.ts?raw=1#top", "bun"),
        (
            &["--github", "me/it/main/src/a.py"],
            "https://raw.githubusercontent.com/me/it/main/src/a.py",
            "python",
        ),
        (&["--gist", "abc/run.sh"], "https://gist.githubusercontent.com/abc/raw/run.sh", "bash"),
        (&["--url", "https://h/x", "-r", "node"], "https://h/x", "node"),
        (&["--gist", "a/b.py", "--url", "https://h/first.js"], "https://h/first.js", "node"),
    ] {
        let found = request(line).unwrap().request;
        assert_eq!((found.code_url.as_deref(), found.runtime.as_str()), (Some(url), runtime));
    }
    assert!(refusal(&["--url", "https://h/x?f=a.py"]).contains("Cannot detect runtime"));
    let odd = "me/it/main/../a.py me/it/main/%2e%2E/a.py me/it/./a.py me\\it/main/x/a.py ../../x/y.py \
        me/it/main/a.py?x me/it/main/a.py#x me/it/main/a/ me/it/main/.%2e ./it/main/a.py";
    for place in ["me/it/main", "me/it//a.py", "me", "me/it/main/a b/\n.py"]
        .into_iter()
        .chain(odd.split_ascii_whitespace())
    {
        assert!(refusal(&["--github", place]).contains("is not OWNER/REPO/REF/PATH"), "{place}");
    }
    for place in ["abc", "abc/", "/a.py", "../a.py", "abc/../../x.py", "abc/.%2E/x.py", "a?b/x.py"]
    {
        assert!(refusal(&["--gist", place]).contains("is not ID/FILE"), "{place}");
    }
}

#[test]
fn a_file_brings_its_runtime_and_extension() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.cjs");
    std::fs::write(&file, "1").unwrap();
    let found = request(&[file.to_str().unwrap()]).unwrap().request;
    assert_eq!((found.runtime.as_str(), found.file_extension.as_deref()), ("node", Some(".cjs")));
    let odd = directory.path().join("a.xyz");
    std::fs::write(&odd, "1").unwrap();
    assert!(refusal(&[odd.to_str().unwrap()]).contains("Cannot detect runtime"));
}

#[test]
fn a_setup_script_that_is_a_path_must_be_there() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("prepare.sh");
    std::fs::write(&file, "echo ready").unwrap();
    let file = file.to_str().unwrap();
    let script = |words: &[&str]| {
        setup_script(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    };
    let both = script(&[file, "true"]).unwrap();
    assert_eq!(both.as_deref(), Some("echo ready\ntrue"));
    for line in ["true", "./run.sh now", "exec /opt/prepare", "a=b/c", "echo>/tmp/x", "make", ""] {
        assert_eq!(script(&[line]).unwrap().as_deref(), Some(line));
    }
    for missing in ["./missing", "missing.sh", "../a/b", "/srv/prepare", "~/prepare.sh"] {
        let refused = script(&["true", missing]).unwrap_err().to_string();
        assert!(refused.contains(&format!("there is no file {missing}")), "{refused}");
    }
}

#[test]
fn files_keep_their_nesting_and_skip_the_usual_ballast() {
    let directory = tempfile::tempdir().unwrap();
    for (path, text) in [("a/b/c.txt", "x"), ("a/.git/config", "y"), ("d.bin", "z")] {
        let path = directory.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    std::os::unix::fs::symlink("/etc/passwd", directory.path().join("link")).unwrap();
    let found = request(&["-e", "1", "--files", directory.path().to_str().unwrap()]).unwrap();
    let paths: Vec<_> = found.request.files.keys().cloned().collect();
    assert_eq!(paths, ["/sandbox/a/b/c.txt", "/sandbox/d.bin"]);
}

#[test]
fn secrets_are_split_at_the_first_equals_sign() {
    let found = request(&["-e", "1", "--secret", "A=b=c", "--secret", "=x"]);
    assert_eq!(
        found.unwrap().options.secrets,
        BTreeMap::from([("A".into(), "b=c".to_owned().into())])
    );
}

#[test]
fn only_what_was_asked_for_is_sent() {
    let plain = request(&["-e", "1"]).unwrap();
    assert_eq!(serde_json::to_value(&plain.options).unwrap(), json!({}));
    assert_eq!(serde_json::to_value(&plain.more_options).unwrap(), json!({"mode": "ephemeral"}));
    assert_eq!(plain.request.timeout_ms, None);

    let mut loaded = nothing_written();
    let source = shared::config::Source::Variable("X".into());
    loaded.sources.insert("defaults.memoryLimit".into(), source.clone());
    loaded.sources.insert("network.blacklist".into(), source);
    loaded.config.network.blacklist = vec!["evil".into()];
    let configured = of_run(&args(&["-e", "1"]), &Session::None, &loaded).unwrap();
    assert_eq!(
        serde_json::to_value(&configured.options).unwrap(),
        json!({"memoryLimit": "512m", "networkFilter": {"whitelist": [], "blacklist": ["evil"]}})
    );

    let flags = [
        "-e",
        "1",
        "--timeout",
        "5",
        "--net=filtered",
        "--allow",
        "a",
        "--deny",
        "b",
        "--persist",
        "--log-network",
        "--pids-limit",
        "9",
        "--hash",
        "ff",
        "--allow-insecure-code-url",
        "--agent-flags",
        "--x",
    ];
    let all = of_run(&args(&flags), &Session::None, &loaded).unwrap();
    assert_eq!((all.request.timeout_ms, all.options.timeout_ms), (Some(5), Some(5)));
    assert_eq!(
        (all.options.network, all.options.pids_limit),
        (Some(Network::Filtered.into()), Some(9))
    );
    assert_eq!(
        serde_json::to_value(&all.more_options).unwrap(),
        json!({"mode": "ephemeral", "persist": true})
    );
    let filter = FilterOptions { whitelist: vec!["a".into()], blacklist: vec!["b".into()] };
    assert_eq!((all.options.network_filter, all.options.log_network), (Some(filter), true));
    let request = all.request;
    assert_eq!((request.code_hash.as_deref(), request.allow_insecure_code_url), (Some("ff"), true));
    assert_eq!(request.agent_flags.as_deref(), Some("--x"));
    assert!(all.more_request.is_empty());
}

#[test]
fn packages_do_not_give_the_program_a_network() {
    let network = |line: &[&str]| request(line).unwrap().options.network;
    assert_eq!(network(&["-e", "1", "--install", "numpy"]), None);
    assert_eq!(
        network(&["-e", "1", "--install", "numpy", "--net=filtered"]),
        Some(Network::Filtered.into())
    );
}

#[test]
fn a_network_that_is_none_is_named_once() {
    let error = request(&["-e", "1", "--net", "all"]).unwrap_err();
    assert_eq!(format!("{error:#}"), "unknown network mode \"all\": use none, host or filtered");
}

#[test]
fn rules_that_nothing_would_keep_to_are_refused() {
    for (line, said) in [
        (
            &["--allow", "a"][..],
            "--allow has no effect on a program without --net: add --net filtered",
        ),
        (&["--deny", "a"], "--deny has no effect on a program without --net: add --net filtered"),
        (
            &["--deny", "a", "--net", "none"],
            "--deny has no effect on the network \"none\": add --net filtered",
        ),
        (
            &["--allow", "a", "--net", "host"],
            "--allow has no effect on the network \"host\": add --net filtered",
        ),
    ] {
        assert_eq!(refusal(&[&["-e", "1"], line].concat()), said);
    }
    // The network may be configured, and so may rules for when it is asked for.
    let mut loaded = nothing_written();
    let source = shared::config::Source::Variable("X".into());
    loaded.sources.insert("defaults.network".into(), source.clone());
    loaded.config.defaults.network = Network::Filtered;
    assert!(of_run(&args(&["-e", "1", "--allow", "a"]), &Session::None, &loaded).is_ok());
    let mut loaded = nothing_written();
    loaded.sources.insert("network.whitelist".into(), source);
    assert!(of_run(&args(&["-e", "1"]), &Session::None, &loaded).is_ok());
}

#[test]
fn an_agent_gets_room() {
    let agent = request(&["-r", "agent", "-e", "x"]).unwrap().options;
    assert_eq!((agent.pids_limit, agent.sandbox_size.as_deref()), (Some(200), Some("2g")));
    let told = ["-r", "agent", "-e", "x", "--pids-limit", "5", "--sandbox-size", "1g"];
    let told = request(&told).unwrap().options;
    assert_eq!((told.pids_limit, told.sandbox_size.as_deref()), (Some(5), Some("1g")));
}

#[test]
fn a_session_is_named_only_on_a_server() {
    assert_eq!(refusal(&["-e", "1", "--session-id", "x"]), "--session-id requires --host");
    let named = args(&["-e", "1", "--session-id", "x", "--host", "h", "--persistent"]);
    assert_eq!(session(&named).unwrap(), Session::Named("x".into()));
    let own = session(&args(&["-e", "1", "--persistent"])).unwrap();
    let Session::Own(id) = &own else { panic!("{own:?}") };
    let digits = id.strip_prefix("cli-").unwrap();
    assert!(digits.len() >= 13 && digits.chars().all(|digit| digit.is_ascii_digit()), "{id}");
    let sent = of_run(&args(&["-e", "1"]), &own, &nothing_written()).unwrap();
    assert_eq!(sent.session_id.as_deref(), Some(id.as_str()));
    assert_eq!(sent.more_options["mode"], "persistent");
}
