//! The system-call filters a sandbox can have on this engine. Profiles are this machine's own:
//! a job names one, it never brings one.

use shared::config::Seccomp;

use super::{EngineError, images};

/// What Docker calls no filter at all. Without a word it would apply its own.
const UNCONFINED: &str = "unconfined";

/// The filters of one engine.
#[derive(Clone, Debug)]
pub(super) struct Filters {
    is_available: bool,
    custom: Option<String>,
}

impl Filters {
    /// Filters of an engine; `custom` is the profile that `custom` stands for.
    pub(super) fn new(is_available: bool, custom: Option<String>) -> Self {
        if !is_available {
            tracing::warn!(
                "this Docker has no seccomp: sandboxes run WITHOUT a system-call filter"
            );
        }
        Self { is_available, custom }
    }

    /// What to tell Docker; `None` where the engine has no filters.
    ///
    /// # Errors
    /// If this worker has no custom profile and one is wanted.
    pub(super) fn profile(&self, seccomp: Seccomp) -> Result<Option<String>, EngineError> {
        let profile = match seccomp {
            Seccomp::Strict => images::SECCOMP_STRICT.to_owned(),
            Seccomp::Unconfined => UNCONFINED.to_owned(),
            Seccomp::Custom => self.custom.clone().ok_or(EngineError::NoCustomProfile)?,
        };
        Ok(self.is_available.then_some(profile))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_filter_is_another_and_a_missing_one_is_no_other() {
        let filters = Filters::new(true, None);
        let strict = filters.profile(Seccomp::Strict).unwrap().unwrap();
        assert!(strict.contains("SCMP_ACT_"));
        assert_eq!(filters.profile(Seccomp::Unconfined).unwrap().as_deref(), Some("unconfined"));
        assert!(matches!(filters.profile(Seccomp::Custom), Err(EngineError::NoCustomProfile)));
        let filters = Filters::new(true, Some("{}".into()));
        assert_eq!(filters.profile(Seccomp::Custom).unwrap().as_deref(), Some("{}"));
    }

    #[test]
    fn an_engine_without_filters_is_not_asked_for_any() {
        let filters = Filters::new(false, Some("{}".into()));
        for seccomp in [Seccomp::Strict, Seccomp::Unconfined, Seccomp::Custom] {
            assert_eq!(filters.profile(seccomp).unwrap(), None);
        }
    }
}
