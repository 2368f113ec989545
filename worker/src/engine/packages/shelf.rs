//! Which sets of packages there are and which are being installed, and which go when there are too many.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shared::audit::SecurityEvent;
use tokio::sync::watch;

use super::install::Failure;
use super::key::Key;
use super::store::Stored;
use crate::engine::sandbox::Profile;

/// Sets whose installers' blocked requests wait for a job that hears of them.
const MAX_UNHEARD: usize = 64;

/// A set that can be used.
#[derive(Debug)]
pub(super) enum Kept {
    /// In a volume.
    Volume(Stored),
    /// In an image made for it.
    Image {
        key: Key,
        tag: String,
        /// What it has more than the image below.
        bytes: u64,
    },
}

impl Kept {
    pub(super) fn key(&self) -> &Key {
        match self {
            Self::Volume(stored) => &stored.key,
            Self::Image { key, .. } => key,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Volume(stored) => stored.bytes,
            Self::Image { bytes, .. } => *bytes,
        }
    }

    /// Whether sandboxes of a profile have it.
    pub(super) fn is_in(&self, profile: &Profile) -> bool {
        match self {
            Self::Volume(stored) => profile.packages.as_ref() == Some(&stored.volume),
            Self::Image { tag, .. } => profile.image == *tag,
        }
    }
}

/// How an installation went, once it is known.
pub(super) type Outcome = Option<Result<Arc<Kept>, Failure>>;

/// What is there for a key.
pub(super) enum Found {
    Kept(Arc<Kept>),
    Underway(watch::Receiver<Outcome>),
    /// Nothing: it is for the finder to install it.
    Nothing(Promise),
}

/// All sets of one engine, as this worker knows them.
#[derive(Clone, Default)]
pub(super) struct Shelf {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    sets: HashMap<Key, Set>,
    underway: HashMap<Key, watch::Receiver<Outcome>>,
    /// What installers were refused, by set, until a job takes it into the audit log.
    unheard: HashMap<Key, Vec<SecurityEvent>>,
    /// Goes up with each use.
    clock: u64,
}

struct Set {
    kept: Arc<Kept>,
    last_used: u64,
}

/// An installation somebody has begun. Dropped, it has failed.
pub(super) struct Promise {
    shelf: Shelf,
    key: Key,
    outcome: watch::Sender<Outcome>,
    is_kept: bool,
}

impl Shelf {
    /// Looks for a set, and notes that it is used or, from now on, being installed.
    pub(super) fn find(&self, key: &Key) -> Found {
        let mut state = self.lock();
        state.clock += 1;
        let now = state.clock;
        if let Some(set) = state.sets.get_mut(key) {
            set.last_used = now;
            return Found::Kept(Arc::clone(&set.kept));
        }
        if let Some(waiting) = state.underway.get(key) {
            return Found::Underway(waiting.clone());
        }
        let (outcome, waiting) = watch::channel(None);
        state.underway.insert(key.clone(), waiting);
        Found::Nothing(Promise { shelf: self.clone(), key: key.clone(), outcome, is_kept: false })
    }

    /// Adds sets that were there already, as the longest unused.
    pub(super) fn add(&self, found: impl IntoIterator<Item = Kept>) {
        let mut state = self.lock();
        for kept in found {
            let key = kept.key().clone();
            state.sets.entry(key).or_insert_with(|| Set { kept: Arc::new(kept), last_used: 0 });
        }
    }

    /// Takes out what is not in use and was used longest ago, until `max_bytes` are left.
    pub(super) fn surplus(&self, max_bytes: u64) -> Vec<Arc<Kept>> {
        let mut state = self.lock();
        let mut bytes: u64 = state.sets.values().map(|set| set.kept.bytes()).sum();
        let mut unused: Vec<(u64, Key)> = state
            .sets
            .iter()
            .filter(|(_, set)| Arc::strong_count(&set.kept) == 1)
            .map(|(key, set)| (set.last_used, key.clone()))
            .collect();
        unused.sort_by_key(|(last_used, _)| *last_used);
        let mut surplus = Vec::new();
        for (_, key) in unused {
            if bytes <= max_bytes {
                break;
            }
            if let Some(set) = state.sets.remove(&key) {
                bytes -= set.kept.bytes();
                surplus.push(set.kept);
            }
        }
        surplus
    }

    /// Takes a set back that could not be removed: a sandbox uses it.
    pub(super) fn add_again(&self, kept: Arc<Kept>) {
        let mut state = self.lock();
        let last_used = state.clock;
        let key = kept.key().clone();
        state.sets.entry(key).or_insert_with(|| Set { kept, last_used });
    }

    /// Keeps what the installer of a set was refused, for the next job that asks for the set: the one it
    /// was installed for, unless that has given up.
    pub(super) fn tell(&self, key: &Key, events: Vec<SecurityEvent>) {
        if events.is_empty() {
            return;
        }
        let mut state = self.lock();
        if state.unheard.len() < MAX_UNHEARD || state.unheard.contains_key(key) {
            state.unheard.insert(key.clone(), events);
        } else {
            tracing::warn!(
                set = key.short(),
                lost = events.len(),
                "blocked requests of an installer are not audited"
            );
        }
    }

    /// Takes what [`Shelf::tell`] has kept: one job tells it.
    pub(super) fn hear(&self, key: &Key) -> Vec<SecurityEvent> {
        self.lock().unheard.remove(key).unwrap_or_default()
    }

    /// Whether any set is being installed.
    pub(super) fn is_installing(&self) -> bool {
        !self.lock().underway.is_empty()
    }

    pub(super) fn forget(&self, key: &Key) {
        self.lock().sets.remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is whole before anything in it could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Promise {
    pub(super) fn subscribe(&self) -> watch::Receiver<Outcome> {
        self.outcome.subscribe()
    }

    /// Tells everybody who waits, and whoever comes later.
    pub(super) fn keep(mut self, outcome: Result<Kept, Failure>) {
        let outcome = outcome.map(Arc::new);
        let mut state = self.shelf.lock();
        if let Ok(kept) = &outcome {
            state.clock += 1;
            let last_used = state.clock;
            state.sets.insert(self.key.clone(), Set { kept: Arc::clone(kept), last_used });
        }
        state.underway.remove(&self.key);
        drop(state);
        self.is_kept = true;
        self.outcome.send_replace(Some(outcome));
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        // After `keep`, somebody else may have begun anew.
        if !self.is_kept {
            self.shelf.lock().underway.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::labelled(name)
    }

    fn kept(name: &str, bytes: u64) -> Kept {
        Kept::Volume(Stored { key: key(name), volume: name.to_owned(), bytes })
    }

    fn names(sets: &[Arc<Kept>]) -> Vec<&str> {
        sets.iter().map(|set| set.key().as_str()).collect()
    }

    #[tokio::test]
    async fn one_installs_and_all_others_wait_for_it() {
        let shelf = Shelf::default();
        let Found::Nothing(promise) = shelf.find(&key("a")) else { panic!("nothing is there") };
        let Found::Underway(mut second) = shelf.find(&key("a")) else { panic!("it is underway") };
        assert!(matches!(shelf.find(&key("b")), Found::Nothing(_)));
        promise.keep(Ok(kept("a", 1)));
        assert!(matches!(&*second.wait_for(Option::is_some).await.unwrap(), Some(Ok(_))));
        assert!(matches!(shelf.find(&key("a")), Found::Kept(_)));
    }

    #[tokio::test]
    async fn after_a_failure_the_next_one_tries_again() {
        let shelf = Shelf::default();
        let Found::Nothing(promise) = shelf.find(&key("a")) else { panic!("nothing is there") };
        let mut second = promise.subscribe();
        promise.keep(Err(Failure::Engine("broken".into())));
        assert!(matches!(&*second.wait_for(Option::is_some).await.unwrap(), Some(Err(_))));
        let Found::Nothing(promise) = shelf.find(&key("a")) else { panic!("it failed") };
        let mut third = promise.subscribe();
        // One that panics fails too, and nobody waits for ever.
        drop(promise);
        assert!(third.wait_for(Option::is_some).await.is_err());
        assert!(matches!(shelf.find(&key("a")), Found::Nothing(_)));
    }

    #[test]
    fn the_longest_unused_go_and_none_that_is_in_use() {
        let shelf = Shelf::default();
        shelf.add([kept("a", 40), kept("b", 40), kept("c", 40)]);
        for name in ["b", "a", "c"] {
            assert!(matches!(shelf.find(&key(name)), Found::Kept(_)));
        }
        assert!(shelf.surplus(120).is_empty());
        let Found::Kept(in_use) = shelf.find(&key("b")) else { panic!("it is there") };
        let surplus = shelf.surplus(60);
        assert_eq!(names(&surplus), ["a", "c"]);
        assert_eq!(names(&[in_use]), ["b"]);
        assert_eq!(names(&shelf.surplus(10)), ["b"]);
        // What could not be removed is used as before.
        for set in surplus {
            shelf.add_again(set);
        }
        assert!(matches!(shelf.find(&key("a")), Found::Kept(_)));
    }
}
