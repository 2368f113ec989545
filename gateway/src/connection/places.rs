//! Places for connections: so many in all, and so many of one address, so that nobody takes all of them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::peer::group;

/// How many each address has.
type Taken = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// The places there are.
#[derive(Debug)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    most_of_address: usize,
    /// No more entries than there are connections.
    taken: Taken,
}

/// A place, free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
    taken: Option<(Taken, IpAddr)>,
}

impl Places {
    /// So many in all, and of one address.
    pub(crate) fn new(most: usize, most_of_address: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(most)), most_of_address, taken: Arc::default() }
    }

    /// A place for whoever comes next, as soon as there is one.
    pub(crate) async fn next(&self) -> Option<OwnedSemaphorePermit> {
        // Never closed.
        Arc::clone(&self.free).acquire_owned().await.ok()
    }

    /// Gives it to a client; nothing if its address has as many as it may. `None`: to one who comes for others.
    pub(crate) fn give(
        &self,
        permit: OwnedSemaphorePermit,
        client: Option<IpAddr>,
    ) -> Option<Place> {
        let Some(client) = client.map(group) else {
            return Some(Place { _permit: permit, taken: None });
        };
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(client).or_default();
        if *count >= self.most_of_address {
            return None;
        }
        *count += 1;
        Some(Place { _permit: permit, taken: Some((Arc::clone(&self.taken), client)) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((taken, client)) = &self.taken else { return };
        let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(client) {
            *count -= 1;
            if *count == 0 {
                taken.remove(client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_has_no_more_than_its_share_and_gets_it_back() {
        let places = Places::new(10, 2);
        let take = async |address: &str| {
            let permit = places.next().await.unwrap();
            places.give(permit, Some(address.parse().unwrap()))
        };
        let first = take("2001:db8::1").await.unwrap();
        let _second = take("2001:db8::2").await.unwrap();
        assert!(take("2001:db8::3").await.is_none(), "of one network");
        assert!(take("2001:db8:0:1::1").await.is_some());
        drop(first);
        assert!(take("2001:db8::3").await.is_some());
        let permit = places.next().await.unwrap();
        assert!(places.give(permit, None).is_some());
        assert_eq!(places.free.available_permits(), 9);
    }
}
