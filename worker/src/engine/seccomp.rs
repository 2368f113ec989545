//! The system-call filters a sandbox can have on this engine. Profiles are this machine's own:
//! a job names one, it never brings one.

use serde_json::{Value, json};
use shared::config::Seccomp;
use shared::isolation::Isolation;

use super::{EngineError, images};

/// What Docker calls no filter at all. Without a word it would apply its own.
const UNCONFINED: &str = "unconfined";

/// The filters of one engine.
#[derive(Clone, Debug)]
pub(super) struct Filters {
    is_available: bool,
    custom: Option<String>,
    strict_in_gvisor: String,
}

impl Filters {
    /// Filters of an engine; `custom` is the profile that `custom` stands for.
    pub(super) fn new(is_available: bool, custom: Option<String>) -> Self {
        if !is_available {
            tracing::warn!(
                "this Docker has no seccomp: sandboxes run WITHOUT a system-call filter"
            );
        }
        Self { is_available, custom, strict_in_gvisor: in_gvisor(images::SECCOMP_STRICT) }
    }

    /// What to tell Docker; `None` where the engine has no filters.
    ///
    /// # Errors
    /// If this worker has no custom profile and one is wanted.
    pub(super) fn profile(
        &self,
        seccomp: Seccomp,
        is: Isolation,
    ) -> Result<Option<String>, EngineError> {
        let profile = match seccomp {
            Seccomp::Strict if is == Isolation::Gvisor => self.strict_in_gvisor.clone(),
            Seccomp::Strict => images::SECCOMP_STRICT.to_owned(),
            Seccomp::Unconfined => UNCONFINED.to_owned(),
            Seccomp::Custom => self.custom.clone().ok_or(EngineError::NoCustomProfile)?,
        };
        Ok(self.is_available.then_some(profile))
    }
}

/// A profile as gVisor's kernel needs it, which answers whatever is refused with EPERM:
/// `clone3` is allowed, as the C library starts no thread unless it hears ENOSYS; the name spaces that it can
/// make are those of the sandbox's own kernel. Message queues are not: nothing in the sandbox shows them, so no
/// reset could find one.
fn in_gvisor(profile: &str) -> String {
    // Ours, and a test reads it.
    let Ok(mut profile) = serde_json::from_str::<Value>(profile) else { return profile.to_owned() };
    if let Some(Value::Array(rules)) = profile.get_mut("syscalls") {
        rules.retain(|rule| rule["action"] != "SCMP_ACT_ERRNO");
        for rule in &mut *rules {
            if let Some(Value::Array(names)) = rule.get_mut("names") {
                names.retain(|name| !name.as_str().is_some_and(|name| name.starts_with("mq_")));
            }
        }
        rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ALLOW"}));
    }
    profile.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTAINER: Isolation = Isolation::Container;

    #[test]
    fn gvisor_gets_the_same_but_for_what_it_cannot_show() {
        let filters = Filters::new(true, None);
        let profile = filters.profile(Seccomp::Strict, Isolation::Gvisor).unwrap().unwrap();
        let profile: Value = serde_json::from_str(&profile).unwrap();
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

    #[test]
    fn each_filter_is_another_and_a_missing_one_is_no_other() {
        let filters = Filters::new(true, None);
        let strict = filters.profile(Seccomp::Strict, CONTAINER).unwrap().unwrap();
        assert!(strict.contains("SCMP_ACT_"));
        assert_eq!(
            filters.profile(Seccomp::Unconfined, CONTAINER).unwrap().as_deref(),
            Some("unconfined")
        );
        assert!(matches!(
            filters.profile(Seccomp::Custom, CONTAINER),
            Err(EngineError::NoCustomProfile)
        ));
        let filters = Filters::new(true, Some("{}".into()));
        assert_eq!(filters.profile(Seccomp::Custom, CONTAINER).unwrap().as_deref(), Some("{}"));
    }

    #[test]
    fn an_engine_without_filters_is_not_asked_for_any() {
        let filters = Filters::new(false, Some("{}".into()));
        for seccomp in [Seccomp::Strict, Seccomp::Unconfined, Seccomp::Custom] {
            assert_eq!(filters.profile(seccomp, CONTAINER).unwrap(), None);
        }
    }
}
