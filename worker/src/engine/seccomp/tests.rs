//! Filters, and that no rule of our own is there twice, in vain, or without a reason.

use std::collections::{BTreeMap, BTreeSet};

use syscalls::{aarch64, x86_64};

use super::*;

const CONTAINER: Isolation = Isolation::Container;
/// Numbers that 32-bit systems alone use, though they are kept free on all.
const OF_32_BIT: std::ops::RangeInclusive<i32> = 403..=423;
/// What the C library, and so Docker, calls otherwise.
const OTHER_NAMES: [(&str, &str); 1] = [("fstatat", "newfstatat")];
/// What a system call answers that no rule speaks of.
const DEFAULT_ERROR: u32 = 1;

fn files() -> impl Iterator<Item = (Runtime, Profile)> {
    let with_additions = |runtime| Some((runtime, Profile::read(additions(runtime)?)));
    Runtime::ALL.into_iter().filter_map(with_additions)
}

/// Every system call of the processors that we run on.
fn known() -> BTreeSet<&'static str> {
    // Their own iteration leaves out the last.
    let x86_64 = x86_64::Sysno::iter().chain([x86_64::Sysno::last()]);
    let aarch64 = aarch64::Sysno::iter().chain([aarch64::Sysno::last()]);
    let x86_64 = x86_64.map(|call| (call.id(), call.name()));
    let aarch64 = aarch64.map(|call| (call.id(), call.name()));
    let usual = |name| OTHER_NAMES.iter().find(|(other, _)| *other == name).map_or(name, |it| it.1);
    let calls = x86_64.chain(aarch64).filter(|(number, _)| !OF_32_BIT.contains(number));
    calls.map(|(_, name)| usual(name)).collect()
}

#[test]
fn each_filter_is_another_and_a_missing_one_is_no_other() {
    let python = |filters: &Filters, word: &str| {
        filters.profile(&word.parse().unwrap(), Runtime::Python, CONTAINER).map(Option::unwrap)
    };
    let filters = Filters::new(true, SeccompProfiles::default());
    assert!(python(&filters, "strict").unwrap().contains("SCMP_ACT_"));
    assert_eq!(python(&filters, "unconfined").unwrap(), "unconfined");
    for (word, setting) in [("custom", "customProfilePath"), ("web", "profileDirectory")] {
        let error = python(&filters, word).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains(setting), "{error}");
    }
    let named = BTreeMap::from([("web".to_owned(), "{1}".to_owned())]);
    let filters = Filters::new(true, SeccompProfiles { custom: Some("{}".into()), named });
    assert_eq!(python(&filters, "custom").unwrap(), "{}");
    assert_eq!(python(&filters, "web").unwrap(), "{1}");
    assert!(python(&filters, "we").is_err());
}

#[test]
fn an_engine_without_filters_is_not_asked_for_any() {
    let filters =
        Filters::new(false, SeccompProfiles { custom: Some("{}".into()), ..Default::default() });
    for word in ["strict", "unconfined", "custom"] {
        let profile = filters.profile(&word.parse().unwrap(), Runtime::Bun, CONTAINER);
        assert_eq!(profile.unwrap(), None);
    }
}

#[test]
fn every_system_call_is_allowed_or_refused_with_a_reason_and_only_once() {
    let base = Profile::read(BASE);
    assert_eq!(base.default_action, "SCMP_ACT_ERRNO");
    assert!(base.syscalls.iter().all(|rule| rule.comment.len() > 5));
    let mut mentioned: BTreeMap<&str, Vec<&Rule>> = BTreeMap::new();
    for rule in &base.syscalls {
        assert!(rule.errno_ret.is_some() || rule.action == Action::Allow, "{:?}", rule.names);
        assert!(rule.names.is_sorted(), "{:?}", rule.names);
        for name in &rule.names {
            mentioned.entry(name).or_default().push(rule);
        }
    }
    assert_eq!(mentioned.keys().copied().collect::<BTreeSet<_>>(), known());
    for (name, rules) in mentioned {
        // Several rules of one call differ in the arguments they ask for; else all but one would be shadowed.
        let arguments: BTreeSet<String> = rules.iter().map(|rule| rule.args.to_string()).collect();
        assert_eq!(arguments.len(), rules.len(), "{name}");
        assert!(rules.len() == 1 || rules.iter().all(|rule| rule.args.is_array()), "{name}");
    }
}

#[test]
fn a_runtime_is_allowed_beyond_the_base_only_what_that_refuses_and_not_all_need() {
    let base = Profile::read(BASE);
    let refused = |name: &String| {
        let refusals = base.syscalls.iter().filter(|rule| rule.action == Action::Refuse);
        // What is never anybody's to call is refused without a hint of something else.
        refusals
            .filter(|rule| rule.errno_ret != Some(DEFAULT_ERROR))
            .any(|rule| rule.names.contains(name))
    };
    let mut users: BTreeMap<String, usize> = BTreeMap::new();
    for (runtime, more) in files() {
        assert!(more.default_action.is_null() && more.arch_map.is_null());
        for rule in more.syscalls {
            assert!(rule.comment.len() > 5 && rule.action == Action::Allow);
            for name in rule.names {
                assert!(refused(&name), "{runtime}: {name}");
                *users.entry(name).or_default() += 1;
            }
        }
    }
    for (name, users) in users {
        assert!(users < Runtime::ALL.len() - 1, "{name} belongs into the base");
    }
}

#[test]
fn what_docker_is_told_is_the_base_with_the_additions() {
    for runtime in Runtime::ALL {
        let profile: Value = serde_json::from_str(&strict_profile(runtime)).unwrap();
        let rules = profile["syscalls"].as_array().unwrap();
        let is =
            |rule: &Value, name: &str| rule["names"].as_array().unwrap().contains(&name.into());
        let actions = |name: &str| {
            let rules = rules.iter().filter(|rule| is(rule, name));
            rules.map(|rule| rule["action"].as_str().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(actions("openat"), ["SCMP_ACT_ALLOW"]);
        assert_eq!(actions("ptrace"), ["SCMP_ACT_ERRNO"]);
        let splice = if runtime == Runtime::Python { "SCMP_ACT_ALLOW" } else { "SCMP_ACT_ERRNO" };
        assert_eq!(actions("splice"), [splice], "{runtime}");
        assert!(rules.iter().all(|rule| rule.get("comment").is_none()));
    }
}

#[test]
fn what_could_lead_out_of_a_sandbox_is_never_allowed_whatever_the_arguments() {
    for runtime in Runtime::ALL {
        let profile: Profile = {
            let mut profile = Profile::read(BASE);
            if let Some(more) = additions(runtime) {
                profile.extend(Profile::read(more));
            }
            profile
        };
        let allowed: BTreeSet<&str> = profile
            .syscalls
            .iter()
            .filter(|rule| rule.action == Action::Allow && rule.args.is_null())
            .flat_map(|rule| rule.names.iter().map(String::as_str))
            .collect();
        for call in [
            "clone",
            "clone3",
            "unshare",
            "setns",
            "mount",
            "ptrace",
            "bpf",
            "keyctl",
            "socket",
            "io_uring_setup",
            "userfaultfd",
            "open_by_handle_at",
            "mknod",
            "personality",
        ] {
            assert!(!allowed.contains(call), "{runtime}: {call}");
        }
        for call in ["setuid", "setgid", "setgroups", "kill", "execve", "futex", "openat"] {
            assert!(allowed.contains(call), "{runtime}: {call}");
        }
    }
}

#[test]
fn gvisor_gets_the_same_but_for_what_it_cannot_show() {
    let filters = Filters::new(true, SeccompProfiles::default());
    for runtime in Runtime::ALL {
        let strict = filters.profile(&Seccomp::Strict, runtime, Isolation::Gvisor);
        let profile: Value = serde_json::from_str(&strict.unwrap().unwrap()).unwrap();
        let rules = profile["syscalls"].as_array().unwrap();
        let names: Vec<&str> = rules
            .iter()
            .flat_map(|rule| rule["names"].as_array().unwrap())
            .filter_map(Value::as_str)
            .collect();
        assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
        assert!(rules.iter().all(|rule| rule["action"] == "SCMP_ACT_ALLOW"));
        assert!(names.contains(&"openat") && names.contains(&"clone3"));
        for refused in ["mq_open", "mount", "ptrace", "keyctl", "bpf", "unshare"] {
            assert!(!names.contains(&refused), "{refused}");
        }
    }
}
