//! The system-call filters a sandbox can have on this engine. Profiles are this machine's own: a job names one, it
//! never brings one. Our own is data (`images/seccomp/`): what every program is allowed, what is refused and why, and for
//! some runtimes what their own libraries need beyond that.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::config::Seccomp;
use shared::isolation::Isolation;
use shared::runtime::Runtime;

use super::EngineError;

/// What Docker calls no filter at all. Without a word it would apply its own.
const UNCONFINED: &str = "unconfined";

const BASE: &str = include_str!("../../../images/seccomp/base.json");

/// What a runtime is allowed beyond the base.
const fn additions(runtime: Runtime) -> Option<&'static str> {
    match runtime {
        Runtime::Python => Some(include_str!("../../../images/seccomp/python.json")),
        Runtime::Bun => Some(include_str!("../../../images/seccomp/bun.json")),
        Runtime::Deno => Some(include_str!("../../../images/seccomp/deno.json")),
        // Bash is the base; Node, which the agent is made of too, needs nothing more.
        Runtime::Bash | Runtime::Node | Runtime::Agent => None,
    }
}

/// A profile as Docker reads it, or additions to one.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Profile {
    #[serde(default, skip_serializing_if = "Value::is_null")]
    default_action: Value,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    arch_map: Value,
    syscalls: Vec<Rule>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    /// Why.
    #[cfg_attr(not(test), expect(dead_code, reason = "it is for people"))]
    #[serde(skip_serializing)]
    comment: String,
    names: Vec<String>,
    action: Action,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    args: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    errno_ret: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Action {
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Refuse,
}

impl Profile {
    /// Ours for a runtime.
    fn strict(runtime: Runtime) -> Self {
        let mut profile = Self::read(BASE);
        if let Some(additions) = additions(runtime) {
            profile.extend(Self::read(additions));
        }
        profile
    }

    /// As gVisor's kernel needs it, which answers whatever is refused with EPERM: `clone3` is allowed, as the
    /// C library starts no thread unless it hears ENOSYS; the name spaces that it can make are those of the
    /// sandbox's own kernel. Message queues are not: nothing in the sandbox shows them, so no reset could find
    /// one.
    fn in_gvisor(mut self) -> Self {
        self.syscalls.retain(|rule| rule.action == Action::Allow);
        for rule in &mut self.syscalls {
            rule.names.retain(|name| !name.starts_with("mq_"));
        }
        self.syscalls.retain(|rule| !rule.names.is_empty());
        self.syscalls.push(Rule {
            comment: "threads".to_owned(),
            names: vec!["clone3".to_owned()],
            action: Action::Allow,
            args: Value::Null,
            errno_ret: None,
        });
        self
    }

    fn write(&self) -> String {
        serde_json::to_string(self).expect("what was read can be written")
    }

    /// An embedded file.
    fn read(text: &str) -> Self {
        serde_json::from_str(text).expect("a test reads each of the embedded files")
    }

    /// Allows what `more` does, whatever was said of it here.
    fn extend(&mut self, more: Self) {
        let names = |rules: &[Rule]| rules.iter().flat_map(|rule| rule.names.clone()).collect();
        let allowed: Vec<String> = names(&more.syscalls);
        for rule in &mut self.syscalls {
            rule.names.retain(|name| !allowed.contains(name));
        }
        self.syscalls.retain(|rule| !rule.names.is_empty());
        self.syscalls.extend(more.syscalls);
    }
}

/// Our own profile for a runtime, as JSON for Docker. Also where an operator's own may begin.
///
/// # Panics
/// Never: a test reads each of the embedded files.
#[must_use]
pub fn strict_profile(runtime: Runtime) -> String {
    Profile::strict(runtime).write()
}

/// Profiles of the operator's own, each as JSON.
#[derive(Clone, Debug, Default)]
pub struct SeccompProfiles {
    /// What `custom` stands for.
    pub custom: Option<String>,
    /// The others, by their names.
    pub named: BTreeMap<String, String>,
}

/// The filters of one engine.
#[derive(Clone, Debug)]
pub(super) struct Filters {
    is_available: bool,
    strict: BTreeMap<Runtime, String>,
    strict_in_gvisor: BTreeMap<Runtime, String>,
    own: SeccompProfiles,
}

impl Filters {
    /// Filters of an engine; `own` are the operator's.
    pub(super) fn new(is_available: bool, own: SeccompProfiles) -> Self {
        if !is_available {
            tracing::warn!(
                "this Docker has no seccomp: sandboxes run WITHOUT a system-call filter"
            );
        }
        let strict = Runtime::ALL.map(|runtime| (runtime, strict_profile(runtime)));
        let in_gvisor = |runtime| (runtime, Profile::strict(runtime).in_gvisor().write());
        let strict_in_gvisor = Runtime::ALL.map(in_gvisor).into();
        Self { is_available, strict: strict.into(), strict_in_gvisor, own }
    }

    /// What to tell Docker for a sandbox of `runtime`; `None` where the engine has no filters.
    ///
    /// # Errors
    /// If a profile of the operator's is wanted that this worker does not have.
    pub(super) fn profile(
        &self,
        seccomp: &Seccomp,
        runtime: Runtime,
        is: Isolation,
    ) -> Result<Option<String>, EngineError> {
        let strict = match is {
            Isolation::Gvisor => &self.strict_in_gvisor,
            Isolation::Container | Isolation::Kata => &self.strict,
        };
        let (profile, setting) = match seccomp {
            Seccomp::Strict => (strict.get(&runtime).cloned(), ""),
            Seccomp::Unconfined => (Some(UNCONFINED.to_owned()), ""),
            Seccomp::Custom => (self.own.custom.clone(), "security.customProfilePath"),
            Seccomp::Named(name) => {
                (self.own.named.get(name.as_str()).cloned(), "security.profileDirectory")
            }
        };
        let missing = || EngineError::NoProfile { name: seccomp.name().to_owned(), setting };
        let profile = profile.ok_or_else(missing)?;
        Ok(self.is_available.then_some(profile))
    }
}

#[cfg(test)]
mod tests;
