//! The ceilings that hold for a tenant, ready to be compared with, and the words of a refusal.

use std::collections::BTreeSet;
use std::fmt::Display;

use crate::config::{Policy, TenantPolicy};
use crate::error::{Error, ErrorCode};
use crate::net::AddressRules;
use crate::size::parse_bytes;

/// One tenant's ceilings, or everybody's.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) policy: Policy,
    pub(super) max_memory_bytes: u64,
    pub(super) max_disk_bytes: u64,
    pub(super) addresses: AddressRules,
    /// Where the tenant's own ceilings are written, and which ones it has.
    own: Option<(String, BTreeSet<String>)>,
}

impl Rules {
    /// For everybody without ceilings of their own.
    ///
    /// # Errors
    /// If a size is malformed.
    pub(super) fn general(policy: Policy) -> Result<Self, Error> {
        Self::new(policy, None)
    }

    /// For the tenant called `name`; `policy` is what holds for it, `own` what it overrides.
    ///
    /// # Errors
    /// If a size is malformed.
    pub(super) fn of_tenant(policy: Policy, name: &str, own: &TenantPolicy) -> Result<Self, Error> {
        // What a tenant does not override is not written.
        let written = serde_json::to_value(own).unwrap_or_default();
        let keys = written.as_object().into_iter().flat_map(|own| own.keys().cloned()).collect();
        Self::new(policy, Some((format!("policy.tenants.{name}"), keys)))
    }

    fn new(policy: Policy, own: Option<(String, BTreeSet<String>)>) -> Result<Self, Error> {
        let addresses = AddressRules::new(policy.allow_private_addresses.clone());
        let mut rules = Self { policy, max_memory_bytes: 0, max_disk_bytes: 0, addresses, own };
        rules.max_memory_bytes = parse_bytes(&rules.key("maxMemory"), &rules.policy.max_memory)?;
        rules.max_disk_bytes = parse_bytes(&rules.key("maxDisk"), &rules.policy.max_disk)?;
        Ok(rules)
    }

    /// Where the ceiling called `name` is written.
    pub(super) fn key(&self, name: &str) -> String {
        let section = match &self.own {
            Some((section, keys)) if keys.contains(name) => section,
            _ => "policy",
        };
        format!("{section}.{name}")
    }

    /// Lets `value` pass if it is not over the ceiling.
    ///
    /// # Errors
    /// A policy violation that names the ceiling.
    pub(super) fn at_most<T: PartialOrd + Display>(
        &self,
        field: &str,
        value: T,
        ceiling: T,
        unit: &str,
        name: &str,
    ) -> Result<T, Error> {
        if value > ceiling {
            return Err(violation(format!(
                "{field} is {value}, over this server's ceiling of {ceiling} {unit} ({})",
                self.key(name)
            )));
        }
        Ok(value)
    }

    /// The refusal of something that the list or switch called `name` does not allow.
    pub(super) fn forbids(&self, what: &str, name: &str) -> Error {
        violation(format!("{what} is not allowed by this server's policy ({})", self.key(name)))
    }

    /// Whether a job may run in `image`. Our own images need no leave.
    pub(super) fn allows_image(&self, image: &str) -> bool {
        image.starts_with("isol8:")
            || self.policy.images.iter().any(|pattern| matches_pattern(pattern, image))
    }
}

fn violation(message: String) -> Error {
    Error::new(ErrorCode::PolicyViolation, message)
}

/// Whether `text` fits a pattern in which `*` stands for any text.
pub fn matches_pattern(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        last = Some(part);
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    match last {
        None => rest.is_empty(),
        Some(last) => text.ends_with(last),
    }
}
