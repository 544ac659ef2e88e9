//! New ids: UUIDv7, from our clock and the thread's random source; asking the system for randomness
//! each time would be a system call per request.

use onsale_schema::Timestamp;
use rand::RngCore;
use uuid::Uuid;

/// A new UUIDv7 at `now`.
#[must_use]
pub fn new_v7(now: Timestamp) -> Uuid {
    let mut random = [0; 10];
    rand::rng().fill_bytes(&mut random);
    let ms = u64::try_from(now.micros() / 1000).unwrap_or_default();
    uuid::Builder::from_unix_timestamp_millis(ms, &random).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_version_7_sorted_by_time_and_distinct() {
        let now = Timestamp::from_micros(1_700_000_000_000_000);
        let (a, b, later) = (new_v7(now), new_v7(now), new_v7(now.plus_ms(1)));
        assert_eq!(a.get_version_num(), 7);
        assert_ne!(a, b);
        assert!(a < later && b < later);
    }
}
