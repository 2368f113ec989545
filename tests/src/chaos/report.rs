//! What a run came to, for people: counts, violations, and where the event log is.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::Options;
use super::check::Verdict;
use super::journal::Injected;

/// Violations that are shown; all of them follow from few causes.
const MOST_SHOWN: usize = 20;

/// The outcome of one run.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was run.
    pub options: Options,
    /// Where everything is written down.
    pub journal: PathBuf,
    /// Faults by kind.
    pub faults: BTreeMap<String, u64>,
    /// What was found.
    pub verdict: Verdict,
}

impl Report {
    pub(super) fn new(
        options: &Options,
        journal: &Path,
        injected: &[Injected],
        verdict: Verdict,
    ) -> Self {
        let mut faults = BTreeMap::new();
        for fault in injected {
            *faults.entry(fault.name.clone()).or_default() += 1;
        }
        Self { options: options.clone(), journal: journal.to_owned(), faults, verdict }
    }

    /// Whether every invariant holds.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.verdict.violations.is_empty()
    }

    /// How often something happened.
    #[must_use]
    pub fn count(&self, what: &str) -> u64 {
        self.verdict.counts.get(what).copied().unwrap_or_default()
    }

    /// How many faults there were.
    #[must_use]
    pub fn fault_count(&self) -> u64 {
        self.faults.values().sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options { kind, seed, length, .. } = &self.options;
        writeln!(f, "fleet {}, seed {seed}, {} s of load", kind.name(), length.as_secs())?;
        writeln!(f, "  {:>7}  faults", self.fault_count())?;
        for (name, count) in &self.faults {
            writeln!(f, "  {count:>7}    {name}")?;
        }
        for (name, count) in &self.verdict.counts {
            writeln!(f, "  {count:>7}  {name}")?;
        }
        let violations = &self.verdict.violations;
        writeln!(f, "  {:>7}  violations", violations.len())?;
        for violation in violations.iter().take(MOST_SHOWN) {
            writeln!(f, "           - {violation}")?;
        }
        if !self.is_clean() {
            writeln!(
                f,
                "  The event log is {}, with all evidence beside it.",
                self.journal.display()
            )?;
        }
        Ok(())
    }
}
