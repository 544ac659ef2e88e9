//! How many connections, or streams of events, one address may have, so that one can't take the places
//! of all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts places by address; an entry lives as long as a place of it.
#[derive(Default)]
pub struct Places(Mutex<HashMap<IpAddr, u32>>);

/// A place of an address, given back when dropped.
pub struct Place {
    places: Arc<Places>,
    addr: IpAddr,
}

impl Places {
    /// One more place for `addr`, if it has fewer than `max`.
    pub fn take(self: &Arc<Self>, addr: IpAddr, max: u32) -> Option<Place> {
        let mut counts = self.counts();
        let count = counts.entry(addr).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Place {
            places: Arc::clone(self),
            addr,
        })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.places.counts();
        if let Some(count) = counts.get_mut(&self.addr) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.addr);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_given_back() {
        let places = Arc::new(Places::default());
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let first = places.take(a, 2).unwrap();
        let _second = places.take(a, 2).unwrap();
        assert!(places.take(a, 2).is_none());
        assert!(places.take(b, 2).is_some());
        drop(first);
        let third = places.take(a, 2);
        assert!(third.is_some());
        drop((third, _second));
        assert!(places.counts().is_empty());
    }
}
