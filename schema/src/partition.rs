//! Partitions: which subject, and so which owner, a schedule's commands go to.

use crate::ids::ScheduleId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A partition of a lane, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PartitionNo(pub u16);

impl fmt::Display for PartitionNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
impl fmt::Debug for PartitionNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The partition of a schedule: 32-bit FNV-1a of the id's hyphenated text, modulo the count. It is
/// the hash that NATS subject mapping uses for `partition(n, 1)`, so a mapping on the server would
/// route alike.
#[must_use]
pub fn of_schedule(schedule: ScheduleId, partitions: u16) -> PartitionNo {
    let mut text = [0u8; uuid::fmt::Hyphenated::LENGTH];
    let text = schedule.0.hyphenated().encode_lower(&mut text);
    let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    let no = hash % u32::from(partitions.max(1));
    PartitionNo(u16::try_from(no).expect("a remainder of a u16 fits a u16"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn partitions_are_stable_and_spread() {
        // A changed value here means that running systems would route to another owner.
        let id = ScheduleId(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001));
        assert_eq!(of_schedule(id, 16), of_schedule(id, 16));
        let mut seen = [0u32; 16];
        for n in 0..16_000u128 {
            let id = ScheduleId(Uuid::from_u128(n));
            seen[usize::from(of_schedule(id, 16).0)] += 1;
        }
        assert!(seen.iter().all(|&n| (700..1300).contains(&n)), "{seen:?}");
    }
}
