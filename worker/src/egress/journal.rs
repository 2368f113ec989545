//! What a job asked of the outside: for its caller, if wanted, and what was blocked for the audit log.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use chrono::Utc;
use shared::audit::SecurityEvent;
use shared::execution::{NetworkAction, NetworkLogEntry};

use super::target::Target;

/// Entries of one job; further ones are counted.
const MAX_ENTRIES: usize = 1000;
/// Blocked requests of one job that the audit log hears of.
const MAX_EVENTS: usize = 100;
/// Places of one job that were not reached, of which the reasons are kept.
const MAX_UNREACHED: usize = 16;
/// Characters of a path; whatever is longer is cut.
pub(crate) const MAX_PATH_CHARACTERS: usize = 1024;

/// The log of one job's requests.
pub(super) struct Journal {
    is_wanted: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    entries: Vec<Open>,
    dropped: u64,
    events: Vec<SecurityEvent>,
    unreached: BTreeMap<Target, String>,
    /// Reports made so far.
    reports: u64,
}

/// An entry that may not be complete yet.
struct Open {
    entry: NetworkLogEntry,
    began: Instant,
    has_ended: bool,
}

/// A request that is under way; dropped when it has ended.
pub(super) struct Underway {
    journal: Arc<Journal>,
    /// Its entry, if it has one: of which report, and where.
    at: Option<(u64, usize)>,
}

/// What there was.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// In the order they came; empty if they were not wanted.
    pub(crate) entries: Vec<NetworkLogEntry>,
    /// Requests beyond those.
    pub(crate) dropped: u64,
    /// Blocked requests.
    pub(crate) events: Vec<SecurityEvent>,
    /// Where nobody was reached the last time it was tried, and why.
    pub(crate) unreached: BTreeMap<Target, String>,
    /// Bytes received.
    pub(crate) bytes_in: u64,
    /// Bytes sent.
    pub(crate) bytes_out: u64,
}

impl Journal {
    pub(super) fn new(is_wanted: bool) -> Self {
        Self { is_wanted: AtomicBool::new(is_wanted), state: Mutex::default() }
    }

    pub(super) fn set_wanted(&self, is_wanted: bool) {
        self.is_wanted.store(is_wanted, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request that is let through; its end is when the value returned is dropped.
    pub(super) fn allow(
        self: &Arc<Self>,
        method: &str,
        host: &str,
        path: Option<&str>,
    ) -> Underway {
        let at = self.note(method, host, path, NetworkAction::Allow);
        Underway { journal: Arc::clone(self), at }
    }

    /// Notes a request that is blocked, and why.
    pub(super) fn block(&self, method: &str, target: &Target, path: Option<&str>, reason: &str) {
        let host = &target.host.to_string();
        self.note(method, host, path, NetworkAction::Block);
        let mut state = self.lock();
        if state.events.len() < MAX_EVENTS {
            let details = [("method", method), ("host", host), ("reason", reason)];
            let mut details = details.map(|(name, value)| (name.to_owned(), value.into())).to_vec();
            details.push(("port".to_owned(), target.port.into()));
            state.events.push(SecurityEvent {
                kind: "network_blocked".into(),
                message: format!("a request to {host} was blocked"),
                details: details.into_iter().collect(),
                timestamp: Utc::now(),
            });
        }
    }

    /// Notes that a place was not reached.
    pub(super) fn fail(&self, target: &Target, why: &str) {
        let mut state = self.lock();
        if state.unreached.len() < MAX_UNREACHED || state.unreached.contains_key(target) {
            state.unreached.insert(target.clone(), why.to_owned());
        }
    }

    /// Notes that a place was reached, after all.
    pub(super) fn reach(&self, target: &Target) {
        self.lock().unreached.remove(target);
    }

    fn note(
        &self,
        method: &str,
        host: &str,
        path: Option<&str>,
        action: NetworkAction,
    ) -> Option<(u64, usize)> {
        if !self.is_wanted.load(Ordering::Relaxed) {
            return None;
        }
        let mut state = self.lock();
        if state.entries.len() >= MAX_ENTRIES {
            state.dropped += 1;
            return None;
        }
        let entry = NetworkLogEntry {
            timestamp: Utc::now(),
            method: method.to_owned(),
            host: host.to_owned(),
            path: path.map(|path| path.chars().take(MAX_PATH_CHARACTERS).collect()),
            action,
            duration_ms: 0,
        };
        let has_ended = action == NetworkAction::Block;
        state.entries.push(Open { entry, began: Instant::now(), has_ended });
        Some((state.reports, state.entries.len() - 1))
    }

    /// Takes all that was noted; what is still under way ends now.
    pub(super) fn report(&self, bytes_in: u64, bytes_out: u64) -> Report {
        let mut state = self.lock();
        let reports = state.reports + 1;
        let fresh = State { reports, ..State::default() };
        let State { entries, dropped, events, unreached, .. } =
            std::mem::replace(&mut *state, fresh);
        drop(state);
        let entries = entries.into_iter().map(|mut open| {
            open.end();
            open.entry
        });
        Report { entries: entries.collect(), dropped, events, unreached, bytes_in, bytes_out }
    }
}

impl Open {
    fn end(&mut self) {
        if !self.has_ended {
            self.has_ended = true;
            let took = self.began.elapsed().as_millis();
            self.entry.duration_ms = u64::try_from(took).unwrap_or(u64::MAX);
        }
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let Some((report, at)) = self.at else { return };
        let mut state = self.journal.lock();
        // One that went on beyond a report was told there already.
        if state.reports == report
            && let Some(open) = state.entries.get_mut(at)
        {
            open.end();
        }
    }
}
